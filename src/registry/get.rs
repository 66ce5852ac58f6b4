//! Reading one instance.

use std::sync::Arc;

use actix::{Context, Handler, Message, ResponseFuture};
use actix_rt::time::Instant;

use super::{
    actor::Registry,
    recent_writes::REMEMBERED_FOR,
    shared::Shared,
    target::{target_conversions, target_setters, Target},
};
use crate::{
    error::{Error, Operation},
    model::{
        instance::{Instance, InstanceKey},
        service::ServiceRef,
    },
};

/// Reads one instance, as the server has it now: also what somebody else changed of an instance that this Registry
/// registered. What this Registry wrote within the last 2 s is part of it: since Nacos 2 servers show a change only after
/// half a second. It does not wait for messages that are under way: sent before the answer to another message, it may show the
/// state before that message.
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
        self.dispatch(Operation::Get, |shared| async move { shared.read(&message.target.key()?).await })
    }
}

impl Shared {
    async fn read(&self, key: &Arc<InstanceKey>) -> Result<Instance, Error> {
        let desired = self.desired.get(key, |desired| (desired.instance.clone(), desired.last_written));
        let written = desired.as_ref().and_then(|(_, written)| *written);
        let told = self.nacos.current(key, written, self.nacos.patience()).await.map(|current| current.instance);
        let present = self.recent_writes.applied_to(key, told);
        let Some((wanted, _)) = desired else { return present };
        match present {
            Ok(present) => Ok(Instance { ephemeral: wanted.ephemeral, ..present }),
            // Lists do not show what this application has disabled.
            Err(Error::NotFound { may_be_disabled: true, .. }) if !wanted.enabled => Ok((*wanted).clone()),
            Err(Error::NotFound { .. }) if self.may_not_show_yet(written) => Ok((*wanted).clone()),
            Err(error) => Err(error),
        }
    }

    /// Whether servers may not show an instance yet that was registered at this time.
    fn may_not_show_yet(&self, written: Option<Instant>) -> bool {
        !self.nacos.is_disabled() && written.is_some_and(|written| written.elapsed() < REMEMBERED_FOR)
    }
}

impl GetInstance {
    fn of(target: Target, _: Option<Instance>) -> Self {
        GetInstance { target }
    }
}

target_conversions!(GetInstance);
