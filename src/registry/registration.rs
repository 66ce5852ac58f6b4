//! The answer to `RegisterInstance`: the state of one instance, readable from any thread.

use std::{fmt, sync::Arc, time::Duration};

use actix::{Context, Handler, Message, ResponseFuture, WeakAddr};
use actix_rt::time::timeout;

use super::{actor::Registry, published_state::PublishedState};
use crate::{
    error::{Error, Operation},
    model::{instance::InstanceKey, instance_state::InstanceState},
};

/// The state of an instance that was registered, or that will be registered once a server can be reached
/// ([`when_reachable`](super::RegisterInstance::when_reachable)). Reading it sends no message.
///
/// It is cheap to clone, and can be used in any thread and under any runtime. Dropping it changes nothing: the instance
/// stays registered until [`DeregisterInstance`](super::DeregisterInstance) or the end of the Registry, which a
/// `Registration` does not keep alive. When the instance is registered again with other values,
/// the `Registration` goes on reporting its state.
///
/// ```
/// # use actix_nacos::{embedded::EmbeddedServer, prelude::*};
/// # use std::time::Duration;
/// # #[actix::main]
/// # async fn main() -> Result<(), Error> {
/// # let server = EmbeddedServer::start().unwrap();
/// # let registry = Registry::start(Config::new(server.server_address()))?;
/// let orders = RegisterInstance::new("orders", "127.0.0.7", 8080).when_reachable();
/// let registration = registry.send(orders).await??;
/// if let Err(error) = registration.registered_within(Duration::from_secs(5)).await {
///     eprintln!("{} is not registered yet: {error}", registration.instance());
/// }
/// // In a health page, from any thread:
/// assert!(registration.is_registered());
/// # Ok(())
/// # }
/// ```
///
/// | [`state`](Self::state) | [`error`](Self::error) |
/// |---|---|
/// | `Some(Pending)` | the error of the last attempt, if it has failed |
/// | `Some(Registered)` | none |
/// | `Some(Rejected)` | the server's rejection |
/// | `Some(Lost)` | the error of the last heartbeat; none if a server has forgotten the instance |
/// | `None` | [`Error::NotFound`] or [`Error::Stopped`] |
#[derive(Clone)]
pub struct Registration {
    published: Arc<PublishedState>,
    registry: WeakAddr<Registry>,
}

impl Registration {
    pub(super) fn new(published: Arc<PublishedState>, registry: WeakAddr<Registry>) -> Self {
        Registration { published, registry }
    }

    /// The instance.
    ///
    /// Converts into a message: `DeregisterInstance::from(registration.instance())`.
    pub fn instance(&self) -> &InstanceKey {
        self.published.key()
    }

    /// Whether the servers have the instance, as far as is known: the state is [`InstanceState::Registered`].
    pub fn is_registered(&self) -> bool {
        self.state() == Some(InstanceState::Registered)
    }

    /// The state on the servers, as far as is known. `None` once the instance is deregistered or the Registry has
    /// ended, so that nothing keeps the instance alive.
    pub fn state(&self) -> Option<InstanceState> {
        self.published.state()
    }

    /// Why the instance is not registered:
    ///
    /// - the rejection of the server, or the error of the last attempt;
    /// - [`Error::NotFound`] once the instance is deregistered;
    /// - [`Error::Stopped`] once the Registry has ended.
    ///
    /// `None` while the instance is registered, before the first attempt has failed, and if a server has forgotten the
    /// instance.
    pub fn error(&self) -> Option<Error> {
        self.published.error()
    }

    /// Waits until the instance is registered, at most for `limit`. A rejection does not end the wait, because the
    /// Registry tries again at every heartbeat interval.
    ///
    /// The Registry's thread measures the time, so the caller needs no timer. In a thread without a runtime use
    /// [`block_on`](crate::block_on).
    ///
    /// # Errors
    /// - After `limit`: the [`error`](Registration::error), or [`Error::Timeout`] if there is none. The Registry goes
    ///   on trying.
    /// - [`Error::NotFound`] as soon as the instance is deregistered.
    /// - [`Error::Stopped`] as soon as the Registry has ended.
    pub async fn registered_within(&self, limit: Duration) -> Result<(), Error> {
        if let Some(outcome) = self.published.outcome() {
            return outcome;
        }
        let registry = self.registry.upgrade().ok_or(Error::Stopped)?;
        let answer = registry.send(AwaitRegistered { published: self.published.clone(), limit });
        // While this waits, it must not keep the Registry alive.
        drop(registry);
        answer.await?
    }
}

/// Equal if both are for the same instance in the same Registry, and it was not deregistered in between.
impl PartialEq for Registration {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.published, &other.published)
    }
}

impl Eq for Registration {}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration")
            .field("instance", self.instance())
            .field("state", &self.state())
            .field("error", &self.error())
            .finish()
    }
}

/// Waits in the Registry's thread, which has a timer.
#[derive(Message)]
#[rtype(result = "Result<(), Error>")]
struct AwaitRegistered {
    published: Arc<PublishedState>,
    limit: Duration,
}

impl Handler<AwaitRegistered> for Registry {
    type Result = ResponseFuture<Result<(), Error>>;

    fn handle(&mut self, AwaitRegistered { published, limit }: AwaitRegistered, _: &mut Context<Self>) -> Self::Result {
        self.dispatch(Operation::Register, |_| async move {
            let outcome = timeout(limit, published.registered()).await;
            outcome.unwrap_or_else(|_| Err(published.error_after(limit)))
        })
    }
}
