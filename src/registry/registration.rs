//! What `RegisterInstance` answers with: the state of one instance, readable in any thread.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use actix::{Context, Handler, Message, ResponseFuture, WeakAddr};
use actix_rt::time::timeout;
use tokio::sync::Notify;

use super::{actor::Registry, instance_state::InstanceState};
use crate::{
    error::{Error, Operation},
    model::instance::InstanceKey,
};

/// An instance that was registered, or will be once a server can be reached
/// ([`when_reachable`](super::RegisterInstance::when_reachable)). It always tells the present state.
///
/// Cheap to clone, usable in any thread and under any runtime. Dropping it changes nothing: the instance stays registered
/// until [`DeregisterInstance`](super::DeregisterInstance) or the end of the Registry, which it does not keep alive. It speaks
/// of the instance, with whatever values that is registered again later.
///
/// ```
/// # use std::time::Duration;
/// # use actix_nacos::{embedded::EmbeddedServer, prelude::*};
/// # #[actix::main]
/// # async fn main() -> Result<(), Error> {
/// # let nacos = EmbeddedServer::start().unwrap();
/// # let registry = Registry::start(Config::new(nacos.server_address()))?;
/// let orders = RegisterInstance::new("orders", "127.0.0.7", 8080).when_reachable();
/// let registration = registry.send(orders).await??;
/// if let Err(error) = registration.registered_within(Duration::from_secs(5)).await {
///     eprintln!("{} is not registered yet: {error}", registration.instance());
/// }
/// // A health page, in any thread.
/// assert!(registration.is_registered());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Registration {
    instance: Arc<InstanceKey>,
    known: Arc<Known>,
    registry: WeakAddr<Registry>,
}

impl Registration {
    /// Which instance it is.
    pub fn instance(&self) -> &InstanceKey {
        &self.instance
    }

    /// Whether the servers have it, as far as is known: the state is [`InstanceState::Registered`].
    pub fn is_registered(&self) -> bool {
        self.state() == Some(InstanceState::Registered)
    }

    /// What is known of it on the servers. None once it is deregistered or the Registry has ended: then nobody keeps it alive.
    pub fn state(&self) -> Option<InstanceState> {
        self.known.lock().state
    }

    /// Why it is not registered: what the server said if it rejects the instance, or why the last attempt failed;
    /// [`Error::NotFound`] once it is deregistered; [`Error::Stopped`] once the Registry has ended. None while it is registered,
    /// while it is pending and no attempt has failed yet, and where a server has forgotten it.
    pub fn error(&self) -> Option<Error> {
        self.known.lock().error.clone()
    }

    /// Waits until it is registered, but not longer than `limit`. The time is kept in the Registry's thread: the caller needs no
    /// timer of its own. In plain threads use [`block_on`](crate::block_on).
    ///
    /// A rejection does not end the waiting, since the instance is tried again at every interval of its heartbeats.
    ///
    /// # Errors
    /// After `limit`, the [`error`](Registration::error), or [`Error::Timeout`] if there is none. Earlier:
    /// [`Error::NotFound`] once it is deregistered, [`Error::Stopped`] once the Registry has ended.
    pub async fn registered_within(&self, limit: Duration) -> Result<(), Error> {
        if let Some(outcome) = self.known.outcome() {
            return outcome;
        }
        let registry = self.registry.upgrade().ok_or(Error::Stopped)?;
        let answer = registry.send(AwaitRegistered { known: self.known.clone(), limit });
        // Held any longer, it would keep the Registry alive.
        drop(registry);
        answer.await?
    }
}

/// Whether both are of the same instance in the same Registry.
impl PartialEq for Registration {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.known, &other.known)
    }
}

impl Eq for Registration {}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration")
            .field("instance", &self.instance)
            .field("state", &self.state())
            .field("error", &self.error())
            .finish()
    }
}

/// Waits in the Registry's thread, where the time is kept.
#[derive(Message)]
#[rtype(result = "Result<(), Error>")]
struct AwaitRegistered {
    known: Arc<Known>,
    limit: Duration,
}

impl Handler<AwaitRegistered> for Registry {
    type Result = ResponseFuture<Result<(), Error>>;

    fn handle(&mut self, AwaitRegistered { known, limit }: AwaitRegistered, _: &mut Context<Self>) -> Self::Result {
        self.dispatch(Operation::Register, |_| async move {
            let outcome = timeout(limit, known.registered()).await;
            outcome.unwrap_or_else(|_| Err(known.why_not_within(limit)))
        })
    }
}

/// What any thread may know of an instance.
struct Known {
    now: Mutex<StateAndError>,
    changed: Notify,
}

#[derive(Clone, PartialEq)]
struct StateAndError {
    state: Option<InstanceState>,
    error: Option<Error>,
}

impl Known {
    fn lock(&self) -> MutexGuard<'_, StateAndError> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, state: Option<InstanceState>, error: Option<Error>) {
        let before = std::mem::replace(&mut *self.lock(), StateAndError { state, error });
        if before.state != state {
            self.changed.notify_waiters();
        }
    }

    /// What ends the waiting.
    fn outcome(&self) -> Option<Result<(), Error>> {
        let now = self.lock();
        match now.state {
            Some(InstanceState::Registered) => Some(Ok(())),
            Some(_) => None,
            None => Some(Err(now.error.clone().unwrap_or(Error::Stopped))),
        }
    }

    async fn registered(&self) -> Result<(), Error> {
        loop {
            // Made before the look, it hears of every change since.
            let changed = self.changed.notified();
            if let Some(outcome) = self.outcome() {
                return outcome;
            }
            changed.await;
        }
    }

    fn why_not_within(&self, limit: Duration) -> Error {
        let late = || Error::Timeout { operation: Operation::Register, server: "the registry".into(), after: limit };
        self.lock().error.clone().unwrap_or_else(late)
    }
}

/// Publishes the state of one desired instance. Dropped with the Registry.
pub(super) struct StatePublisher(Arc<Known>);

impl StatePublisher {
    pub(super) fn new() -> Self {
        let now = StateAndError { state: Some(InstanceState::Pending), error: None };
        StatePublisher(Arc::new(Known { now: Mutex::new(now), changed: Notify::new() }))
    }

    /// `error` is that of the last attempt.
    pub(super) fn publish(&self, state: InstanceState, error: Option<&Error>) {
        let is_registered = state == InstanceState::Registered;
        self.0.set(Some(state), error.filter(|_| !is_registered).cloned());
    }

    /// The application has deregistered the instance.
    pub(super) fn deregistered(self, key: &InstanceKey) {
        self.0.set(None, Some(Error::NotFound { instance: key.to_string(), may_be_disabled: false }));
    }

    pub(super) fn registration(&self, instance: Arc<InstanceKey>, registry: WeakAddr<Registry>) -> Registration {
        Registration { instance, known: self.0.clone(), registry }
    }
}

impl Drop for StatePublisher {
    fn drop(&mut self) {
        if self.0.lock().state.is_some() {
            self.0.set(None, Some(Error::Stopped));
        }
    }
}
