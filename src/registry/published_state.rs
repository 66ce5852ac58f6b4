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
    now: Mutex<StateAndError>,
    changed: Notify,
}

#[derive(Clone, PartialEq)]
pub(super) struct StateAndError {
    pub(super) state: Option<InstanceState>,
    pub(super) error: Option<Error>,
}

impl PublishedState {
    pub(super) fn lock(&self) -> MutexGuard<'_, StateAndError> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, state: Option<InstanceState>, error: Option<Error>) {
        let before = std::mem::replace(&mut *self.lock(), StateAndError { state, error });
        if before.state != state {
            self.changed.notify_waiters();
        }
    }

    /// The result of waiting for the registration; `None` while it is still undecided.
    pub(super) fn outcome(&self) -> Option<Result<(), Error>> {
        let now = self.lock();
        match now.state {
            Some(InstanceState::Registered) => Some(Ok(())),
            Some(_) => None,
            None => Some(Err(now.error.clone().unwrap_or(Error::Stopped))),
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
        self.lock().error.clone().unwrap_or_else(late)
    }
}

/// Publishes the state of one desired instance. When the Registry ends, this is dropped, and the state becomes
/// `Stopped`.
///
/// Every `Registration` of the instance reads from it, also those of earlier registrations of the same instance.
pub(super) struct StatePublisher(Arc<PublishedState>);

impl StatePublisher {
    pub(super) fn new() -> Self {
        let now = StateAndError { state: Some(InstanceState::Pending), error: None };
        StatePublisher(Arc::new(PublishedState { now: Mutex::new(now), changed: Notify::new() }))
    }

    /// `error` is the error of the last attempt.
    pub(super) fn publish(&self, state: InstanceState, error: Option<&Error>) {
        let is_registered = state == InstanceState::Registered;
        self.0.set(Some(state), error.filter(|_| !is_registered).cloned());
    }

    /// What readers in other threads share.
    pub(super) fn published(&self) -> Arc<PublishedState> {
        self.0.clone()
    }

    /// Publishes that the application has deregistered the instance.
    pub(super) fn deregistered(self, key: &InstanceKey) {
        self.0.set(None, Some(Error::NotFound { instance: key.to_string(), may_be_disabled: false }));
    }
}

impl Drop for StatePublisher {
    fn drop(&mut self) {
        if self.0.lock().state.is_some() {
            self.0.set(None, Some(Error::Stopped));
        }
    }
}
