//! Messages that watch the state of each registered instance on the servers, and what a change of state leads to.

use std::sync::Arc;

use actix::{Context, Handler, Message, Recipient, ResponseFuture, WeakRecipient};
use slog::{debug, info, warn};

use super::{actor::Registry, desired::DesiredInstance, shared::Shared};
use crate::{
    discovery::listeners::Listener,
    error::{Error, Operation},
    model::{
        instance::InstanceKey,
        instance_state::{InstanceState, InstanceStateChanged},
    },
    runtime::history::RegistryEventKind,
};

/// Sends `listener` an [`InstanceStateChanged`] with the current state of each instance that this Registry registered,
/// then one for every change. No message is sent when an instance is deregistered.
///
/// ```
/// use actix::prelude::*;
/// use actix_nacos::prelude::*;
/// # use actix_nacos::embedded::EmbeddedServer;
///
/// struct Alarm;
///
/// impl Actor for Alarm {
///     type Context = Context<Self>;
/// }
///
/// impl Handler<InstanceStateChanged> for Alarm {
///     type Result = ();
///
///     fn handle(&mut self, change: InstanceStateChanged, _: &mut Context<Self>) {
///         if change.state == InstanceState::Rejected {
///             eprintln!("{} is rejected: {:?}", change.instance, change.error);
///         }
///     }
/// }
/// # #[actix::main]
/// # async fn main() -> Result<(), Error> {
/// # let server = EmbeddedServer::start().unwrap();
/// # let registry = Registry::start(Config::new(server.server_address()))?;
///
/// registry.send(WatchInstances::new(Alarm.start().recipient())).await??;
/// # Ok(())
/// # }
/// ```
///
/// A listener that watches twice receives each change once. It is kept alive if at least one of the two messages was
/// not [`weak`](WatchInstances::weak). A listener that is more than 1,024 changes behind misses some;
/// [`GetStatus`](super::GetStatus) has the current states. A listener that has stopped is removed; [`UnwatchInstances`]
/// removes a listener that still runs.
///
/// # Errors
/// Only [`Error::Stopped`], if the Registry has ended.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct WatchInstances {
    listener: Listener<InstanceStateChanged>,
}

impl WatchInstances {
    /// Watches the instances and keeps the listener alive, until [`UnwatchInstances`] or the end of the Registry, or
    /// until the listener stops itself.
    pub fn new(listener: Recipient<InstanceStateChanged>) -> Self {
        WatchInstances { listener: Listener::Strong(listener) }
    }

    /// Like [`new`](WatchInstances::new), but does not keep the listener alive.
    pub fn weak(listener: WeakRecipient<InstanceStateChanged>) -> Self {
        WatchInstances { listener: Listener::Weak(listener) }
    }
}

impl Handler<WatchInstances> for Registry {
    type Result = ResponseFuture<Result<(), Error>>;

    fn handle(&mut self, WatchInstances { listener }: WatchInstances, _: &mut Context<Self>) -> Self::Result {
        self.dispatch(Operation::Status, |shared| {
            shared.instance_watchers.watch_queue(listener, || shared.instance_states());
            std::future::ready(Ok(()))
        })
    }
}

/// Stops notifying one listener of [`WatchInstances`], or all listeners. A listener that does not watch is no error.
///
/// ```
/// # use actix_nacos::{embedded::EmbeddedServer, prelude::*};
/// # use actix::prelude::*;
/// # struct Listener;
/// # impl Actor for Listener {
/// #     type Context = Context<Self>;
/// # }
/// # impl Handler<InstanceStateChanged> for Listener {
/// #     type Result = ();
/// #     fn handle(&mut self, _: InstanceStateChanged, _: &mut Context<Self>) {}
/// # }
/// # #[actix::main]
/// # async fn main() -> Result<(), Error> {
/// # let server = EmbeddedServer::start().unwrap();
/// # let registry = Registry::start(Config::new(server.server_address()))?;
/// # let listener = Listener.start().recipient();
/// registry.send(WatchInstances::new(listener.clone())).await??;
///
/// registry.send(UnwatchInstances::new(listener)).await??;
/// registry.send(UnwatchInstances::all()).await??;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Only [`Error::Stopped`], if the Registry has ended.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct UnwatchInstances {
    listener: Option<Recipient<InstanceStateChanged>>,
}

impl UnwatchInstances {
    /// Stops notifying this listener, whether it is kept alive or not.
    pub fn new(listener: Recipient<InstanceStateChanged>) -> Self {
        UnwatchInstances { listener: Some(listener) }
    }

    /// Stops notifying all listeners.
    pub fn all() -> Self {
        UnwatchInstances { listener: None }
    }
}

impl Handler<UnwatchInstances> for Registry {
    type Result = ResponseFuture<Result<(), Error>>;

    fn handle(&mut self, UnwatchInstances { listener }: UnwatchInstances, _: &mut Context<Self>) -> Self::Result {
        self.dispatch(Operation::Status, |shared| {
            shared.instance_watchers.unwatch(listener.as_ref());
            std::future::ready(Ok(()))
        })
    }
}

impl Shared {
    /// The state of each registered instance now.
    fn instance_states(&self) -> Vec<InstanceStateChanged> {
        let mut present = Vec::new();
        self.desired.for_each(|desired| present.push(desired.state_change()));
        present
    }

    /// Updates an instance. If that changes its state, logs the change and notifies the listeners.
    pub(super) fn note(&self, key: &Arc<InstanceKey>, change: impl FnOnce(&mut DesiredInstance)) {
        let mut changed = None;
        self.desired.update(key, |desired| {
            let before = desired.state;
            change(desired);
            changed = (desired.state != before).then(|| (before, desired.state, desired.error_of_state()));
        });
        if let Some((before, state, error)) = changed {
            self.notify_of_state(key, before, state, error);
        }
    }

    pub(super) fn notify_of_state(
        &self,
        instance: &InstanceKey,
        before: InstanceState,
        state: InstanceState,
        error: Option<Error>,
    ) {
        let error_text = || error.as_ref().map(ToString::to_string);
        self.record_state(instance, state, error_text);
        let text = error_text().unwrap_or_default();
        self.instance_watchers.queue(|| InstanceStateChanged { instance: instance.clone(), state, error });
        match (before, state) {
            (_, InstanceState::Pending) => info!(self.log, "registration pending"; "instance" => %instance),
            (_, InstanceState::Rejected) => {
                warn!(self.log, "server rejected instance"; "instance" => %instance, "error" => text);
            }
            // Only at debug: one line about the connection covers all instances.
            (_, InstanceState::Lost) => debug!(self.log, "lost instance"; "instance" => %instance, "error" => text),
            (InstanceState::Lost, _) => debug!(self.log, "registered instance again"; "instance" => %instance),
            (before, _) => info!(self.log, "registered instance"; "instance" => %instance, "before" => ?before),
        }
    }

    fn record_state(&self, instance: &InstanceKey, state: InstanceState, reason: impl FnOnce() -> Option<String>) {
        let kind = match state {
            InstanceState::Rejected => RegistryEventKind::InstanceRejected,
            InstanceState::Lost => RegistryEventKind::InstanceLost,
            InstanceState::Pending | InstanceState::Registered => return self.history.note_change(),
        };
        self.history.record(kind, |event| {
            event.instance = Some(instance.clone());
            event.reason = reason();
        });
    }
}
