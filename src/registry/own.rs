//! What this application wants registered, and the order in which it is made so.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, HashSet},
    rc::Rc,
    sync::Arc,
    time::Instant,
};

use actix::Addr;
use foldhash::fast::RandomState as FastHash;
use tokio::sync::oneshot;

use crate::{
    error::Error,
    heartbeat::{Heartbeat, StopBeating},
    instance::{Instance, InstanceKey},
};

/// One instance that this application registered, with the values that are wanted now.
pub(crate) struct OwnInstance {
    pub(crate) key: Arc<InstanceKey>,
    pub(crate) instance: Rc<Instance>,
    /// None for a persistent one that is registered.
    pub(crate) heartbeat: Option<Addr<Heartbeat>>,
    /// The epoch (see `Nacos::epoch`) that knows it; none while it waits for its first registration.
    pub(crate) known_to: Option<u64>,
    pub(crate) since: Instant,
    pub(crate) last_success: Option<Instant>,
    pub(crate) last_error: Option<Error>,
    pub(crate) beats: u64,
}

impl OwnInstance {
    /// Where there is one.
    pub(crate) fn replace_heartbeat(&mut self, start: impl FnOnce() -> Addr<Heartbeat>) {
        if let Some(heartbeat) = &mut self.heartbeat {
            heartbeat.do_send(StopBeating);
            *heartbeat = start();
        }
    }
}

/// The desired state: every recovery compares with it. Changed only by whoever holds the instance's [`Turn`].
///
/// Asked by `&Arc<InstanceKey>`, and not by what is in it: where it is the same one, its strings are not compared.
#[derive(Default)]
pub(crate) struct OwnInstances {
    /// Boxed, since a hash map keeps up to twice as many places as it needs.
    wanted: RefCell<HashMap<Arc<InstanceKey>, Box<OwnInstance>, FastHash>>,
    /// Persistent ones that nobody wants any more, and that a server may still have: deregistering them failed.
    left: RefCell<HashSet<Arc<InstanceKey>, FastHash>>,
    turns: Rc<Turns>,
}

impl OwnInstances {
    /// Queues behind everything that was asked for this instance before.
    pub(crate) fn queue(&self, key: &Arc<InstanceKey>) -> Turn {
        self.turns.take(key)
    }

    pub(crate) fn get<T>(&self, key: &Arc<InstanceKey>, read: impl FnOnce(&OwnInstance) -> T) -> Option<T> {
        self.wanted.borrow().get(key).map(|own| read(own))
    }

    pub(crate) fn update(&self, key: &Arc<InstanceKey>, change: impl FnOnce(&mut OwnInstance)) {
        if let Some(own) = self.wanted.borrow_mut().get_mut(key) {
            change(own);
        }
    }

    pub(crate) fn insert(&self, own: OwnInstance) {
        self.left.borrow_mut().remove(&own.key);
        self.wanted.borrow_mut().insert(own.key.clone(), Box::new(own));
    }

    /// Forgets the instance and ends its Heartbeat.
    pub(crate) fn remove(&self, key: &Arc<InstanceKey>) -> Option<Box<OwnInstance>> {
        let own = self.wanted.borrow_mut().remove(key)?;
        if let Some(heartbeat) = &own.heartbeat {
            heartbeat.do_send(StopBeating);
        }
        Some(own)
    }

    /// Whether it was persistent when it was deregistered, in vain.
    pub(crate) fn is_left(&self, key: &Arc<InstanceKey>) -> bool {
        self.left.borrow().contains(key)
    }

    /// A persistent one was deregistered; `done` if that is so.
    pub(crate) fn note_persistent_end(&self, key: &Arc<InstanceKey>, done: bool) {
        let mut left = self.left.borrow_mut();
        if done {
            left.remove(key);
        } else {
            left.insert(key.clone());
        }
    }

    /// The keys of all instances that are registered or about to be.
    pub(crate) fn keys(&self) -> Vec<Arc<InstanceKey>> {
        let mut keys: Vec<_> = self.wanted.borrow().keys().cloned().collect();
        keys.extend(self.turns.queues.borrow().keys().filter(|key| !self.wanted.borrow().contains_key(*key)).cloned());
        keys
    }

    pub(crate) fn for_each(&self, mut read: impl FnMut(&OwnInstance)) {
        self.wanted.borrow().values().for_each(|own| read(own));
    }
}

/// The number of a turn, and its end.
type LastTurn = (u64, oneshot::Receiver<()>);

/// For each instance, who comes last in the queue of those that talk to the server about it.
#[derive(Default)]
struct Turns {
    queues: RefCell<HashMap<Arc<InstanceKey>, LastTurn, FastHash>>,
    next: Cell<u64>,
}

impl Turns {
    fn take(self: &Rc<Self>, key: &Arc<InstanceKey>) -> Turn {
        let number = self.next.get();
        self.next.set(number + 1);
        let (ends, ended) = oneshot::channel();
        let before = self.queues.borrow_mut().insert(key.clone(), (number, ended)).map(|(_, before)| before);
        Turn { turns: self.clone(), key: key.clone(), number, before, _ends: ends }
    }
}

/// A turn in the queue of one instance. The application's messages take it when the mailbox takes them, a beat when it can be
/// sent. Dropping it lets the next one go.
pub(crate) struct Turn {
    turns: Rc<Turns>,
    key: Arc<InstanceKey>,
    number: u64,
    before: Option<oneshot::Receiver<()>>,
    /// Dropped with the turn, however that ends; that is what the next one waits for.
    _ends: oneshot::Sender<()>,
}

impl Turn {
    pub(crate) fn is_behind_others(&self) -> bool {
        self.before.is_some()
    }

    /// Waits until everybody before has gone.
    pub(crate) async fn come(&mut self) {
        if let Some(before) = self.before.take() {
            // An error is the sender's drop: the only way in which turns end.
            let _ = before.await;
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut queues = self.turns.queues.borrow_mut();
        if queues.get(&self.key).is_some_and(|(last, _)| *last == self.number) {
            queues.remove(&self.key);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::service::ServiceName;

    pub(crate) fn key(port: u16) -> Arc<InstanceKey> {
        Arc::new(InstanceKey::of(&ServiceName::parse("orders").unwrap(), &Instance::new("10.0.0.7", port)))
    }

    #[actix::test]
    async fn turns_of_one_instance_come_in_order_and_those_of_others_at_once() {
        let own = OwnInstances::default();
        let order = RefCell::new(Vec::new());
        let (mut first, mut second) = (own.queue(&key(1)), own.queue(&key(1)));
        let mut other = own.queue(&key(2));
        let slow = async {
            first.come().await;
            actix_rt::task::yield_now().await;
            order.borrow_mut().push("first");
            drop(first);
        };
        let waiting = async {
            second.come().await;
            order.borrow_mut().push("second");
        };
        let free = async {
            other.come().await;
            order.borrow_mut().push("other");
        };
        futures_util::future::join3(waiting, slow, free).await;
        assert_eq!(*order.borrow(), ["other", "first", "second"]);
    }

    #[actix::test]
    async fn a_queue_that_is_empty_is_forgotten() {
        let own = OwnInstances::default();
        let (first, mut second) = (own.queue(&key(1)), own.queue(&key(1)));
        assert_eq!(own.keys().len(), 1);
        drop(first);
        second.come().await;
        drop(second);
        assert!(own.keys().is_empty());
    }
}
