//! Reading one instance.

use actix::{Context, Handler, Message, ResponseFuture};

use super::{
    target::{target_conversions, target_setters, Target},
    Desk, Registry,
};
use crate::{
    error::Error,
    instance::{Instance, InstanceKey},
    nacos::Operation,
    service::ServiceRef,
};

/// Reads one instance.
///
/// # Errors
/// [`Error::NotFound`], which on servers without such a request (Nacos 3) says that the instance may also be disabled;
/// [`Error::InvalidInput`] naming the field; what the server says.
#[derive(Debug, Clone, PartialEq, Message)]
#[rtype(result = "Result<Instance, Error>")]
pub struct GetInstance {
    target: Target,
}

impl GetInstance {
    /// Reads `ip:port` of `service` (or `GROUP@@service`).
    pub fn new(service: impl Into<ServiceRef>, ip: impl Into<String>, port: u16) -> Self {
        GetInstance { target: Target::new(service, ip, port) }
    }

    target_setters!();
}

impl Handler<GetInstance> for Registry {
    type Result = ResponseFuture<Result<Instance, Error>>;

    fn handle(&mut self, message: GetInstance, _: &mut Context<Self>) -> Self::Result {
        self.answer(Operation::Get, |desk| {
            let taken = message.target.key().map(|key| (desk.desired.queue(&key), key));
            async move {
                let (mut turn, key) = taken?;
                turn.come().await;
                let own = desk.desired.get(&key, |own| own.instance.clone());
                match own {
                    Some(own) => desk.get_own(&key, &own).await,
                    None => desk.nacos.current(&key, desk.nacos.patience()).await.map(|current| current.instance),
                }
            }
        })
    }
}

impl Desk {
    /// Of an own instance we know by ourselves what servers do not tell.
    async fn get_own(&self, key: &InstanceKey, own: &Instance) -> Result<Instance, Error> {
        match self.nacos.told(key).await {
            Ok(told) => Ok(Instance { enabled: own.enabled, ephemeral: own.ephemeral, ..told }),
            Err(Error::NotFound { may_be_disabled: true, .. }) if !own.enabled => Ok(own.clone()),
            Err(error) => Err(error),
        }
    }
}

impl GetInstance {
    fn of(target: Target, _: Option<Instance>) -> Self {
        GetInstance { target }
    }
}

target_conversions!(GetInstance);
