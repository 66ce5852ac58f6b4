//! The listeners of one kind of change. Each has a task of its own, so that a slow listener delays no other.
//!
//! `try_send` to a weak listener never returns "full", because each upgraded address may put one message beyond the
//! limit. So a task per listener sends one message, waits until it is handled, and only then sends the next one.
//! Changes that wait meanwhile are bounded by [`QUEUE`].

use std::{
    cell::RefCell,
    collections::HashMap,
    pin::pin,
    rc::{Rc, Weak},
    time::Duration,
};

use actix::{Message, Recipient, WeakRecipient};
use actix_rt::{task::JoinHandle, time::timeout};
use futures_util::stream::{iter, unfold, Stream, StreamExt as _};
use tokio::sync::mpsc;

use crate::discovery::listeners::{Listener, ListenerId};

/// How often the Registry checks whether a listener has stopped.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_secs(10);
/// The number of changes that may wait for one listener.
const QUEUE: usize = 1024;

/// The listeners that watch changes `M`. `Q` is what the Registry keeps to reach one listener: a queue, or nothing if
/// the listener's task receives changes by itself.
pub(crate) struct Watchers<M: Message<Result = ()> + Send + 'static, Q = mpsc::Sender<M>> {
    watching: Rc<RefCell<Watching<M, Q>>>,
}

type Watching<M, Q> = HashMap<ListenerId, Watcher<M, Q>>;

/// One listener. It receives changes until this is dropped.
struct Watcher<M: Message<Result = ()> + Send + 'static, Q> {
    /// Keeps the listener alive, if that was requested. The task holds the listener weakly.
    kept_alive: Option<Recipient<M>>,
    queue: Q,
    task: JoinHandle<()>,
}

impl<M: Message<Result = ()> + Send + 'static, Q> Drop for Watcher<M, Q> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<M: Message<Result = ()> + Send + 'static, Q> Default for Watchers<M, Q> {
    fn default() -> Self {
        Watchers { watching: Rc::default() }
    }
}

impl<M: Message<Result = ()> + Send + 'static, Q: 'static> Watchers<M, Q> {
    /// Adds a listener. `begin` gives the listener's queue and its changes, unless the listener watches already.
    pub(super) fn watch<S>(&self, listener: Listener<M>, begin: impl FnOnce() -> (Q, S))
    where
        S: Stream<Item = M> + 'static,
    {
        let Some(recipient) = listener.recipient() else { return };
        let id = ListenerId::of(&recipient);
        let add = || {
            let (queue, changes) = begin();
            let notified = notify(Rc::downgrade(&self.watching), id, recipient.downgrade(), changes);
            Watcher { kept_alive: None, queue, task: actix_rt::spawn(notified) }
        };
        let mut watching = self.watching.borrow_mut();
        let watcher = watching.entry(id).or_insert_with(add);
        if let Listener::Strong(recipient) = listener {
            watcher.kept_alive = Some(recipient);
        }
    }

    /// Removes one listener, or all. A listener that does not watch is no error.
    pub(super) fn unwatch(&self, listener: Option<&Recipient<M>>) {
        let mut watching = self.watching.borrow_mut();
        match listener {
            Some(listener) => drop(watching.remove(&ListenerId::of(listener))),
            None => watching.clear(),
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.watching.borrow().len()
    }
}

impl<M: Message<Result = ()> + Send + Clone + 'static> Watchers<M> {
    /// Adds a listener that receives `present` first, then what is [queued](Watchers::queue).
    pub(super) fn watch_queue(&self, listener: Listener<M>, present: impl FnOnce() -> Vec<M>) {
        self.watch(listener, || {
            let (queue, changes) = mpsc::channel(QUEUE);
            let later = unfold(changes, async |mut changes| Some((changes.recv().await?, changes)));
            (queue, iter(present()).chain(later))
        });
    }

    /// Queues a change for every listener. A listener whose queue is full misses this change. Without listeners there
    /// is no `change`.
    pub(super) fn queue(&self, change: impl FnOnce() -> M) {
        let watching = self.watching.borrow();
        if watching.is_empty() {
            return;
        }
        let change = change();
        for watcher in watching.values() {
            let _ = watcher.queue.try_send(change.clone());
        }
    }
}

/// Sends one listener every change, until the listener or the Registry has ended.
async fn notify<M: Message<Result = ()> + Send + 'static, Q>(
    watching: Weak<RefCell<Watching<M, Q>>>,
    id: ListenerId,
    listener: WeakRecipient<M>,
    changes: impl Stream<Item = M>,
) {
    let mut changes = pin!(changes);
    let mut next = None;
    while let Some(recipient) = listener.upgrade().filter(Recipient::connected) {
        let sent = next.take().map(|change| recipient.send(change));
        // While this waits, it must not keep the listener alive.
        drop(recipient);
        if let Some(handled) = sent {
            // Wait for the listener before the next message, so that changes do not queue up in its mailbox. The next
            // round checks whether it has stopped.
            let _ = handled.await;
        }
        match timeout(CHECK_INTERVAL, changes.next()).await {
            Ok(Some(change)) => next = Some(change),
            Ok(None) => return,
            Err(_) => {}
        }
    }
    if let Some(watching) = watching.upgrade() {
        watching.borrow_mut().remove(&id);
    }
}
