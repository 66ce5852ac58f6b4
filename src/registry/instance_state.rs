//! The state of each registered instance on the servers, and who is notified of it.

use std::{
    cell::RefCell,
    collections::HashMap,
    rc::{Rc, Weak},
    sync::Arc,
};

use actix::{Context, Handler, Message, Recipient, ResponseFuture, WeakRecipient};
use actix_rt::{task::JoinHandle, time::timeout};
use serde::Serialize;
use slog::{debug, info, warn};
use tokio::sync::mpsc;

use super::{actor::Registry, connection::CHECK_INTERVAL, desired::DesiredInstance, shared::Shared};
use crate::{
    discovery::listeners::{Listener, ListenerId},
    error::{Error, Operation},
    model::instance::InstanceKey,
};

/// How many changes wait for one listener.
const QUEUE: usize = 1024;

/// Whether the servers have an instance that this application registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum InstanceState {
    /// It waits for a server that can be reached to register it.
    Pending,
    /// A server has taken its registration, and no heartbeat has failed for longer than the heartbeat timeout since.
    Registered,
    /// The servers reject its registration or its heartbeats, for example because a right is missing. It is tried again at
    /// every interval.
    Rejected,
    /// A server has forgotten it, or its heartbeats have failed for longer than the heartbeat timeout (15 s, or the metadata
    /// [`HEART_BEAT_TIMEOUT`](crate::model::instance::HEART_BEAT_TIMEOUT)): others may not see it, or see it as unhealthy. It is registered
    /// again as soon as a server takes it.
    Lost,
}

/// Notifies a listener of the state of one registered instance.
#[derive(Debug, Clone, PartialEq, Message)]
#[rtype(result = "()")]
#[non_exhaustive]
pub struct InstanceStateChanged {
    /// Which instance.
    pub instance: InstanceKey,
    /// Its state now.
    pub state: InstanceState,
    /// Why it is rejected, or why its last heartbeat failed; none where a server has forgotten it.
    pub error: Option<Error>,
}

/// Notifies `listener` of every change of the state of the instances that this Registry registers
/// ([`InstanceStateChanged`]), beginning with the state of each. No change comes when an instance is deregistered.
///
/// The same listener watching twice is notified once, and kept alive if one of the two is not
/// [`weak`](WatchInstances::weak). One that falls more than 1,024 changes behind misses some:
/// [`GetStatus`](super::GetStatus) has the state of each instance. One that has stopped is forgotten; [`UnwatchInstances`]
/// ends the watching of one that has not.
///
/// ```
/// use actix::prelude::*;
/// use actix_nacos::{InstanceState, InstanceStateChanged};
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
/// ```
///
/// # Errors
/// [`Error::Stopped`] alone.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct WatchInstances {
    listener: Listener<InstanceStateChanged>,
}

impl WatchInstances {
    /// Watches, and keeps the listener alive, until [`UnwatchInstances`], or the listener stops itself, or the Registry ends.
    pub fn new(listener: Recipient<InstanceStateChanged>) -> Self {
        WatchInstances { listener: Listener::Strong(listener) }
    }

    /// As [`new`](WatchInstances::new), but does not keep the listener alive, unless it watches by `new`, too.
    pub fn weak(listener: WeakRecipient<InstanceStateChanged>) -> Self {
        WatchInstances { listener: Listener::Weak(listener) }
    }
}

impl Handler<WatchInstances> for Registry {
    type Result = ResponseFuture<Result<(), Error>>;

    fn handle(&mut self, WatchInstances { listener }: WatchInstances, _: &mut Context<Self>) -> Self::Result {
        self.dispatch(Operation::Status, |shared| {
            shared.watch_instances(listener);
            std::future::ready(Ok(()))
        })
    }
}

/// Ends what [`WatchInstances`] began, for one listener or for all. An unknown listener is ok.
///
/// # Errors
/// [`Error::Stopped`] alone.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct UnwatchInstances {
    listener: Option<Recipient<InstanceStateChanged>>,
}

impl UnwatchInstances {
    /// Ends the watching of this listener, whether it is kept alive or not.
    pub fn new(listener: Recipient<InstanceStateChanged>) -> Self {
        UnwatchInstances { listener: Some(listener) }
    }

    /// Ends the watching of all listeners.
    pub fn all() -> Self {
        UnwatchInstances { listener: None }
    }
}

impl Handler<UnwatchInstances> for Registry {
    type Result = ResponseFuture<Result<(), Error>>;

    fn handle(&mut self, UnwatchInstances { listener }: UnwatchInstances, _: &mut Context<Self>) -> Self::Result {
        self.dispatch(Operation::Status, |shared| {
            let mut watching = shared.instance_listeners.watching.borrow_mut();
            match listener {
                Some(listener) => drop(watching.remove(&ListenerId::of(&listener))),
                None => watching.clear(),
            }
            std::future::ready(Ok(()))
        })
    }
}

/// Who watches the instances.
#[derive(Default)]
pub(crate) struct InstanceListeners {
    watching: RefCell<HashMap<ListenerId, Watching>>,
}

/// One listener, with a queue of its own: a slow one delays nobody. It is notified for as long as this exists.
struct Watching {
    /// A listener that is to be kept alive; the task holds it weakly.
    kept_alive: Option<Recipient<InstanceStateChanged>>,
    queue: mpsc::Sender<InstanceStateChanged>,
    task: JoinHandle<()>,
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl InstanceListeners {
    fn notify(&self, change: &InstanceStateChanged) {
        for listener in self.watching.borrow().values() {
            // A listener whose queue is full misses this change.
            let _ = listener.queue.try_send(change.clone());
        }
    }
}

/// Notifies one listener of its `present` state and of every change, until the listener or the Registry has ended.
async fn deliver(
    shared: Weak<Shared>,
    id: ListenerId,
    listener: WeakRecipient<InstanceStateChanged>,
    present: Vec<InstanceStateChanged>,
    mut changes: mpsc::Receiver<InstanceStateChanged>,
) {
    let mut present = present.into_iter();
    let mut next = None;
    while let Some(recipient) = listener.upgrade().filter(Recipient::connected) {
        let sent = next.take().map(|change| recipient.send(change));
        // Held any longer, it would keep the listener alive.
        drop(recipient);
        if let Some(handled) = sent {
            // Whether it has ended is seen in the next round.
            let _ = handled.await;
        }
        next = present.next();
        if next.is_none() {
            match timeout(CHECK_INTERVAL, changes.recv()).await {
                Ok(Some(change)) => next = Some(change),
                Ok(None) => return,
                Err(_) => {}
            }
        }
    }
    if let Some(shared) = shared.upgrade() {
        shared.instance_listeners.watching.borrow_mut().remove(&id);
    }
}

impl InstanceStateChanged {
    pub(super) fn of(desired: &DesiredInstance) -> Self {
        let error = match desired.state {
            InstanceState::Rejected | InstanceState::Lost => desired.last_error.clone(),
            InstanceState::Pending | InstanceState::Registered => None,
        };
        InstanceStateChanged { instance: (*desired.key).clone(), state: desired.state, error }
    }
}

impl Shared {
    fn watch_instances(self: &Rc<Self>, listener: Listener<InstanceStateChanged>) {
        let Some(recipient) = listener.recipient() else { return };
        let id = ListenerId::of(&recipient);
        let begin = || {
            let (queue, changes) = mpsc::channel(QUEUE);
            let mut present = Vec::new();
            self.desired.for_each(|desired| present.push(InstanceStateChanged::of(desired)));
            let notified = deliver(Rc::downgrade(self), id, recipient.downgrade(), present, changes);
            Watching { kept_alive: None, queue, task: actix_rt::spawn(notified) }
        };
        let mut watching = self.instance_listeners.watching.borrow_mut();
        let watching = watching.entry(id).or_insert_with(begin);
        if let Listener::Strong(recipient) = listener {
            watching.kept_alive = Some(recipient);
        }
    }

    /// Notes what has just become of an instance. A change of its state is logged once, and told to the listeners.
    pub(super) fn note(&self, key: &Arc<InstanceKey>, change: impl FnOnce(&mut DesiredInstance)) {
        let mut changed = None;
        self.desired.update(key, |desired| {
            let before = desired.state;
            change(desired);
            desired.publisher.publish(desired.state, desired.last_error.as_ref());
            changed = (desired.state != before).then(|| (before, InstanceStateChanged::of(desired)));
        });
        if let Some((before, change)) = changed {
            self.notify_of_state(before, &change);
        }
    }

    pub(super) fn notify_of_state(&self, before: InstanceState, change: &InstanceStateChanged) {
        self.instance_listeners.notify(change);
        let InstanceStateChanged { instance, state, error } = change;
        let error = error.as_ref().map_or_else(String::new, ToString::to_string);
        match (before, state) {
            (_, InstanceState::Pending) => info!(self.log, "registration pending"; "instance" => %instance),
            (_, InstanceState::Rejected) => {
                warn!(self.log, "server rejects instance"; "instance" => %instance, "error" => error);
            }
            // The line about the connection says it for all instances together.
            (_, InstanceState::Lost) => debug!(self.log, "lost instance"; "instance" => %instance, "error" => error),
            (InstanceState::Lost, _) => debug!(self.log, "registered instance again"; "instance" => %instance),
            (before, _) => info!(self.log, "registered instance"; "instance" => %instance, "before" => ?before),
        }
    }
}
