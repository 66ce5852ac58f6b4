//! The message that reads one instance.
//!
//! No server shows everything: GET of 1.4 and 2.x lacks `enabled` and `ephemeral`, lists lack disabled instances, and
//! 3.0 offers GET only to administrators. The client combines GET and lists. The Registry adds what it knows of the
//! instances that it registered.

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

/// Reads one instance as the server has it now, including what others changed of an instance that this Registry
/// registered.
///
/// Changes that this Registry wrote within the last 2 s are included, even if the server does not show them yet. The
/// message does not wait for messages that are under way: the result may be the state before them.
///
/// ```
/// # use actix_nacos::{embedded::EmbeddedServer, prelude::*};
/// # #[actix::main]
/// # async fn main() -> Result<(), Error> {
/// # let server = EmbeddedServer::start().unwrap();
/// # let registry = Registry::start(Config::new(server.server_address()))?;
/// registry.send(RegisterInstance::new("orders", "127.0.0.7", 8080).weight(2.0)).await??;
/// let instance = registry.send(GetInstance::new("orders", "127.0.0.7", 8080)).await??;
/// assert_eq!((instance.authority(), instance.weight), ("127.0.0.7:8080".into(), 2.0));
///
/// let missing = registry.send(GetInstance::new("orders", "127.0.0.7", 9999)).await?;
/// assert!(matches!(missing, Err(Error::NotFound { .. })));
/// # Ok(())
/// # }
/// ```
///
/// Use it for a decision about one instance, or after a change. It costs one or two requests; to look at many
/// instances, use [`ListInstances`](super::ListInstances) or a view.
///
/// # Errors
/// - [`Error::NotFound`] if the server has no such instance. Nacos 3 offers reading one instance only to
///   administrators. Otherwise its lists are searched, which leave out disabled instances; then `may_be_disabled` is
///   true.
/// - [`Error::InvalidInput`] if a value is invalid. Correct the field that the error names.
/// - Any other error names the server and the reason. If [`is_retryable`](Error::is_retryable) is true, send the
///   message again.
#[derive(Debug, Clone, PartialEq, Message)]
#[rtype(result = "Result<Instance, Error>")]
pub struct GetInstance {
    target: Target,
}

impl GetInstance {
    /// Reads `ip:port` of `service`, which may be written `GROUP@@service`.
    pub fn new(service: impl Into<ServiceRef>, ip: impl Into<String>, port: u16) -> Self {
        Self::of(Target::new(service, ip, port), None)
    }

    fn of(target: Target, _: Option<Instance>) -> Self {
        GetInstance { target }
    }

    target_setters!();
}

target_conversions!(GetInstance);

impl Handler<GetInstance> for Registry {
    type Result = ResponseFuture<Result<Instance, Error>>;

    fn handle(&mut self, message: GetInstance, _: &mut Context<Self>) -> Self::Result {
        self.dispatch(Operation::Get, |shared| {
            // Now, and not when the future runs: a shutdown may follow in the mailbox, and takes the instances away.
            let wanted = message.target.key().map(|key| (shared.desired_values(&key), key));
            async move {
                let (desired, key) = wanted?;
                shared.read(&key, desired).await
            }
        })
    }
}

impl Shared {
    /// The values that this application wants, and when it last registered them.
    fn desired_values(&self, key: &Arc<InstanceKey>) -> Option<(Instance, Option<Instant>)> {
        self.desired.get(key, |desired| (desired.instance.clone(), desired.last_written))
    }

    async fn read(
        &self,
        key: &Arc<InstanceKey>,
        desired: Option<(Instance, Option<Instant>)>,
    ) -> Result<Instance, Error> {
        let written = desired.as_ref().and_then(|(_, written)| *written);
        let shown = self.nacos.current(key, written, self.nacos.patience()).await.map(|current| current.instance);
        let present = self.recent_writes.applied_to(key, shown);
        let Some((wanted, _)) = desired else { return present };
        match present {
            Ok(present) => Ok(Instance { ephemeral: wanted.ephemeral, ..present }),
            // Lists leave out an instance that this application has disabled.
            Err(Error::NotFound { may_be_disabled: true, .. }) if !wanted.enabled => Ok(wanted),
            Err(Error::NotFound { .. }) if self.may_not_show_yet(written) => Ok(wanted),
            Err(error) => Err(error),
        }
    }

    /// Whether an instance was registered at `written` so recently that a server may not show it yet.
    fn may_not_show_yet(&self, written: Option<Instant>) -> bool {
        !self.nacos.is_disabled() && written.is_some_and(|written| written.elapsed() < REMEMBERED_FOR)
    }
}
