//! The state of each registered instance on the servers, and who is notified of it.

use std::{cell::RefCell, sync::Arc};

use actix::{Context, Handler, Message, Recipient, ResponseFuture, WeakRecipient};
use serde::Serialize;
use slog::{debug, info, warn};
use tokio::sync::mpsc;

use super::{desired::DesiredInstance, Desk, Registry};
use crate::{error::Error, instance::InstanceKey, nacos::Operation};

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
    /// [`HEART_BEAT_TIMEOUT`](crate::HEART_BEAT_TIMEOUT)): others may not see it, or see it as unhealthy. It is registered
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
/// The same listener watching twice is notified once. One that falls more than 1,024 changes behind misses some:
/// [`GetStatus`](super::GetStatus) has the state of each instance. One that has stopped is forgotten.
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
    listener: Listener,
}

impl WatchInstances {
    /// Watches until the listener stops, [`UnwatchInstances`] is sent, or the Registry ends. Keeps the listener alive.
    pub fn new(listener: Recipient<InstanceStateChanged>) -> Self {
        WatchInstances { listener: Listener::Strong(listener) }
    }

    /// As [`new`](WatchInstances::new), but does not keep the listener alive.
    pub fn weak(listener: WeakRecipient<InstanceStateChanged>) -> Self {
        WatchInstances { listener: Listener::Weak(listener) }
    }
}

/// Ends what [`WatchInstances`] began for this listener. An unknown one is ok.
///
/// # Errors
/// [`Error::Stopped`] alone.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct UnwatchInstances {
    listener: Recipient<InstanceStateChanged>,
}

impl UnwatchInstances {
    /// This listener is notified no more.
    pub fn new(listener: Recipient<InstanceStateChanged>) -> Self {
        UnwatchInstances { listener }
    }
}

#[derive(Debug, Clone)]
enum Listener {
    Strong(Recipient<InstanceStateChanged>),
    Weak(WeakRecipient<InstanceStateChanged>),
}

impl Listener {
    /// None once the listener has ended.
    fn recipient(&self) -> Option<Recipient<InstanceStateChanged>> {
        let recipient = match self {
            Listener::Strong(recipient) => Some(recipient.clone()),
            Listener::Weak(weak) => weak.upgrade(),
        };
        recipient.filter(Recipient::connected)
    }
}

/// All listeners, each with a queue of its own: a slow one delays nobody.
#[derive(Default)]
pub(crate) struct InstanceListeners {
    queues: RefCell<Vec<(Listener, mpsc::Sender<InstanceStateChanged>)>>,
}

impl InstanceListeners {
    /// Notifies it of `present` first. One that listens already keeps its queue, unless it is to be kept alive from now on.
    fn add(&self, listener: Listener, present: Vec<InstanceStateChanged>) {
        let Some(recipient) = listener.recipient() else { return };
        let mut queues = self.queues.borrow_mut();
        let becomes_strong = matches!(listener, Listener::Strong(_));
        queues.retain(|(known, _)| {
            known.recipient().is_some_and(|known_recipient| {
                known_recipient != recipient || matches!(known, Listener::Strong(_)) || !becomes_strong
            })
        });
        if queues.iter().any(|(known, _)| known.recipient().as_ref() == Some(&recipient)) {
            return;
        }
        let (queue, changes) = mpsc::channel(QUEUE);
        actix_rt::spawn(deliver(listener.clone(), present, changes));
        queues.push((listener, queue));
    }

    fn remove(&self, listener: &Recipient<InstanceStateChanged>) {
        self.queues.borrow_mut().retain(|(known, _)| known.recipient().is_some_and(|known| known != *listener));
    }

    fn notify(&self, change: &InstanceStateChanged) {
        // A full queue keeps its listener: it misses this change.
        let is_open = |queue: &mpsc::Sender<_>| {
            !matches!(queue.try_send(change.clone()), Err(mpsc::error::TrySendError::Closed(_)))
        };
        self.queues.borrow_mut().retain(|(_, queue)| is_open(queue));
    }
}

/// Waits for the listener to handle each change before it is sent the next: so a weak one, whose sender is made anew for
/// each, cannot be flooded.
async fn deliver(
    listener: Listener,
    present: Vec<InstanceStateChanged>,
    mut changes: mpsc::Receiver<InstanceStateChanged>,
) {
    let mut present = present.into_iter();
    loop {
        let change = match present.next() {
            Some(change) => change,
            None => match changes.recv().await {
                Some(change) => change,
                None => return,
            },
        };
        // Not kept while the message is handled: that would keep a weak listener alive.
        let Some(request) = listener.recipient().map(|recipient| recipient.send(change)) else { return };
        if request.await.is_err() {
            return;
        }
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

impl Desk {
    /// Notes what has just become of an instance. A change of its state is logged once, and told to the listeners.
    pub(super) fn note(&self, key: &Arc<InstanceKey>, change: impl FnOnce(&mut DesiredInstance)) {
        let mut changed = None;
        self.desired.update(key, |desired| {
            let before = desired.state;
            change(desired);
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

impl Handler<WatchInstances> for Registry {
    type Result = ResponseFuture<Result<(), Error>>;

    fn handle(&mut self, WatchInstances { listener }: WatchInstances, _: &mut Context<Self>) -> Self::Result {
        self.answer(Operation::Status, |desk| {
            let mut present = Vec::new();
            desk.desired.for_each(|desired| present.push(InstanceStateChanged::of(desired)));
            desk.instance_listeners.add(listener, present);
            std::future::ready(Ok(()))
        })
    }
}

impl Handler<UnwatchInstances> for Registry {
    type Result = ResponseFuture<Result<(), Error>>;

    fn handle(&mut self, UnwatchInstances { listener }: UnwatchInstances, _: &mut Context<Self>) -> Self::Result {
        self.answer(Operation::Status, |desk| {
            desk.instance_listeners.remove(&listener);
            std::future::ready(Ok(()))
        })
    }
}
