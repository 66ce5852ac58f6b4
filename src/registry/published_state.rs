//! The state of one desired instance, published to all threads.
//!
//! The state is behind a mutex that is locked only to copy it. So a health check reads it in nanoseconds, even while
//! the Registry is busy. Waiting goes through the Registry, which has a timer.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;

use crate::{
    error::{Error, Operation},
    model::{instance::InstanceKey, instance_state::InstanceState},
};

/// The state of one instance, shared between the Registry and all threads that read it.
pub(super) struct PublishedState {
    key: Arc<InstanceKey>,
    now: Mutex<StateAndError>,
    changed: Notify,
}

/// The error is boxed because as a rule there is none.
struct StateAndError {
    state: State,
    error: Option<Box<Error>>,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Desired(InstanceState),
    Deregistered,
    /// The Registry has ended.
    Stopped,
}

impl PublishedState {
    fn lock(&self) -> MutexGuard<'_, StateAndError> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, state: State, error: Option<Box<Error>>) {
        let before = std::mem::replace(&mut *self.lock(), StateAndError { state, error });
        if before.state != state {
            self.changed.notify_waiters();
        }
    }

    pub(super) fn key(&self) -> &InstanceKey {
        &self.key
    }

    /// `None` once the instance is deregistered or the Registry has ended.
    pub(super) fn state(&self) -> Option<InstanceState> {
        match self.lock().state {
            State::Desired(state) => Some(state),
            State::Deregistered | State::Stopped => None,
        }
    }

    /// Why the instance is not registered.
    pub(super) fn error(&self) -> Option<Error> {
        let now = self.lock();
        match now.state {
            State::Desired(InstanceState::Registered) => None,
            State::Desired(_) => now.error.as_deref().cloned(),
            State::Deregistered => Some(Error::NotFound { instance: self.key.to_string(), may_be_disabled: false }),
            State::Stopped => Some(Error::Stopped),
        }
    }

    /// The result of waiting for the registration; `None` while it is still undecided.
    pub(super) fn outcome(&self) -> Option<Result<(), Error>> {
        match self.state() {
            Some(InstanceState::Registered) => Some(Ok(())),
            Some(_) => None,
            None => Some(self.error().map_or(Ok(()), Err)),
        }
    }

    pub(super) async fn registered(&self) -> Result<(), Error> {
        loop {
            // Create this before the check, so that no change in between is missed.
            let changed = self.changed.notified();
            if let Some(outcome) = self.outcome() {
                return outcome;
            }
            changed.await;
        }
    }

    pub(super) fn error_after(&self, limit: Duration) -> Error {
        let late = || Error::Timeout { operation: Operation::Register, server: "the registry".into(), after: limit };
        self.error().unwrap_or_else(late)
    }
}

/// Publishes the state of one desired instance. When the Registry ends, this is dropped, and the state becomes
/// `Stopped`.
///
/// Every `Registration` of the instance reads from it, also those of earlier registrations of the same instance.
pub(super) struct StatePublisher(Arc<PublishedState>);

impl StatePublisher {
    pub(super) fn new(key: Arc<InstanceKey>) -> Self {
        let now = StateAndError { state: State::Desired(InstanceState::Pending), error: None };
        StatePublisher(Arc::new(PublishedState { key, now: Mutex::new(now), changed: Notify::new() }))
    }

    /// `error` is the error of the last attempt, if it failed.
    pub(super) fn publish(&self, state: InstanceState, error: Option<Error>) {
        self.0.set(State::Desired(state), error.map(Box::new));
    }

    /// The error that was published last, also if the instance is still registered.
    pub(super) fn last_error(&self) -> Option<Error> {
        self.0.lock().error.as_deref().cloned()
    }

    /// What readers in other threads share.
    pub(super) fn published(&self) -> Arc<PublishedState> {
        self.0.clone()
    }

    /// Publishes that the application has deregistered the instance.
    pub(super) fn deregistered(self) {
        self.0.set(State::Deregistered, None);
    }

    /// Publishes that the Registry has ended, unless the instance was deregistered before.
    pub(super) fn stop(&self) {
        if self.0.state().is_some() {
            self.0.set(State::Stopped, None);
        }
    }
}

impl Drop for StatePublisher {
    fn drop(&mut self) {
        self.stop();
    }
}
