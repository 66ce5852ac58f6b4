//! The listeners of one subscription: which list each has received, and which message each receives next. No actor.
//!
//! Each listener receives the difference between the list that it received last and the current list. So a listener
//! that was busy misses no change, only intermediate states, and its `added`, `changed` and `removed` always fit
//! together. Nothing is queued per listener except the pointer to its last list.
//!
//! [`Listeners`] awaits nothing: it returns a [`Delivery`] for each message that the actor has to await.

use std::{
    collections::{hash_map::Entry, HashMap, HashSet},
    hash::{Hash, Hasher},
    sync::Arc,
};

use actix::{dev::RecipientRequest, prelude::SendError, Message, Recipient, WeakRecipient};

use super::list_merge::{CurrentList, Step};
use crate::model::{change::ServiceChanged, service::ServiceInfo};

/// The recipient of a listener, as the application passed it.
///
/// A strong one is kept alive by the subscription. A weak one ends when the application drops it.
#[derive(Debug, Clone)]
pub(crate) enum Listener<M: Message<Result = ()> + Send + 'static> {
    Strong(Recipient<M>),
    Weak(WeakRecipient<M>),
}

impl<M: Message<Result = ()> + Send + 'static> Listener<M> {
    /// None once the listener has ended.
    pub(crate) fn recipient(&self) -> Option<Recipient<M>> {
        let recipient = match self {
            Listener::Strong(recipient) => Some(recipient.clone()),
            Listener::Weak(weak) => weak.upgrade(),
        };
        recipient.filter(Recipient::connected)
    }

    fn is_alive(&self) -> bool {
        match self {
            Listener::Strong(recipient) => recipient.connected(),
            Listener::Weak(_) => self.recipient().is_some(),
        }
    }
}

/// Identifies a listener by the address of its mailbox. No other actor gets the same address while the listener is
/// kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ListenerId(u64);

impl ListenerId {
    pub(crate) fn of<M: Message<Result = ()> + Send + 'static>(recipient: &Recipient<M>) -> Self {
        /// Returns the hashed bytes as they are. A recipient does not show the address of its mailbox, but hashes it.
        #[derive(Default)]
        struct Address(u64);

        impl Hasher for Address {
            fn write(&mut self, bytes: &[u8]) {
                self.0 = bytes.iter().fold(self.0, |address, byte| address << 8 | u64::from(*byte));
            }

            fn finish(&self) -> u64 {
                self.0
            }
        }

        let mut address = Address::default();
        recipient.hash(&mut address);
        ListenerId(address.finish())
    }
}

/// One listener, and which changes it has received.
struct ListenerState {
    listener: Listener<ServiceChanged>,
    /// The list that this listener received last.
    last: Option<Arc<ServiceInfo>>,
    /// Whether a weak listener has yet to handle its last message. Until then it receives no other message.
    ///
    /// The mailbox of a weak listener never seems full: each upgraded address may put one message beyond the limit,
    /// and keeping an address would keep the listener alive. A listener that has become strong meanwhile waits, too,
    /// because another message could overtake the first one.
    unhandled: bool,
}

/// The result of sending a message to a listener.
enum Sent {
    /// The message is in the mailbox, or there was nothing to send, or the last message must be handled first.
    Done,
    /// The message is on its way to a weak listener.
    Unhandled(RecipientRequest<ServiceChanged>),
    MailboxFull,
    ListenerEnded,
}

/// A message on its way to a weak listener. Await [`handled`](Delivery::handled), then call [`Listeners::acknowledge`].
pub(crate) struct Delivery {
    listener: ListenerId,
    request: RecipientRequest<ServiceChanged>,
}

impl Delivery {
    /// Waits until the listener has handled the message or has ended.
    pub(crate) async fn handled(self) -> ListenerId {
        let _ = self.request.await;
        self.listener
    }
}

/// All listeners of one subscription.
#[derive(Default)]
pub(crate) struct Listeners {
    states: HashMap<ListenerId, ListenerState>,
    /// Listeners whose mailboxes were full.
    pending: HashSet<ListenerId>,
}

impl Listeners {
    /// Adds a listener. Returns its id if it is new; the caller then has to notify it of the current list. A listener
    /// that is already known as weak becomes strong if it is added as strong.
    pub(crate) fn add(&mut self, listener: Listener<ServiceChanged>) -> Option<ListenerId> {
        let id = ListenerId::of(&listener.recipient()?);
        match self.states.entry(id) {
            Entry::Vacant(vacant) => {
                vacant.insert(ListenerState { listener, last: None, unhandled: false });
                Some(id)
            }
            Entry::Occupied(mut known) => {
                if matches!(known.get().listener, Listener::Weak(_)) {
                    known.get_mut().listener = listener;
                }
                None
            }
        }
    }

    /// Removes one listener, or all.
    ///
    /// A message that is under way to it is still handled.
    pub(crate) fn remove(&mut self, listener: Option<&Recipient<ServiceChanged>>) {
        match listener {
            Some(listener) => drop(self.states.remove(&ListenerId::of(listener))),
            None => self.states.clear(),
        }
    }

    /// Removes the listeners whose actors have ended.
    pub(crate) fn remove_ended(&mut self) {
        self.states.retain(|_, state| state.listener.is_alive());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.states.len()
    }

    /// Whether [`notify_pending`](Listeners::notify_pending) must be called later, because mailboxes were full.
    pub(crate) fn are_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Must be called after a restart of the actor, which loses the deliveries under way.
    pub(crate) fn restarted(&mut self) {
        self.states.values_mut().for_each(|state| state.unhandled = false);
    }

    /// Notes that a weak listener has handled its message. The caller then has to notify it of what has changed since.
    pub(crate) fn acknowledge(&mut self, id: ListenerId) {
        if let Some(state) = self.states.get_mut(&id) {
            state.unhandled = false;
        }
    }

    /// Notifies all listeners of the current list, to which `step` has led. See [`notify`](Listeners::notify).
    #[must_use]
    pub(crate) fn notify_all(&mut self, current: &CurrentList, step: &Step) -> Vec<Delivery> {
        let all: Vec<_> = self.states.keys().copied().collect();
        self.notify(all, current, step)
    }

    /// Notifies the listeners whose mailboxes were full.
    #[must_use]
    pub(crate) fn notify_pending(&mut self, current: &CurrentList) -> Vec<Delivery> {
        let pending = std::mem::take(&mut self.pending);
        self.notify(pending, current, &Step::default())
    }

    /// Notifies some listeners. Returns the messages to weak listeners, whose handling must be awaited.
    ///
    /// Listeners that received the same list last share one message. Nothing queues up for a listener whose mailbox is
    /// full: later it receives the difference to the list that is current then.
    #[must_use]
    pub(crate) fn notify(
        &mut self,
        listeners: impl IntoIterator<Item = ListenerId>,
        current: &CurrentList,
        step: &Step,
    ) -> Vec<Delivery> {
        let mut changes: HashMap<*const ServiceInfo, Option<ServiceChanged>> = HashMap::new();
        let mut deliveries = Vec::new();
        for id in listeners {
            let Some(state) = self.states.get_mut(&id) else { continue };
            let last = state.last.as_ref().map_or(std::ptr::null(), Arc::as_ptr);
            let change = changes.entry(last).or_insert_with(|| current.change_since(state.last.as_ref(), step));
            self.pending.remove(&id);
            match state.send(change.as_ref(), &current.info) {
                Sent::Done => {}
                Sent::Unhandled(request) => deliveries.push(Delivery { listener: id, request }),
                Sent::MailboxFull => drop(self.pending.insert(id)),
                Sent::ListenerEnded => drop(self.states.remove(&id)),
            }
        }
        deliveries
    }
}

impl ListenerState {
    /// Sends `change`, if there is one. `change` is the difference from the list that the listener received last to
    /// `list`.
    fn send(&mut self, change: Option<&ServiceChanged>, list: &Arc<ServiceInfo>) -> Sent {
        if self.unhandled {
            return Sent::Done;
        }
        let sent = match (change, &self.listener) {
            (None, listener) if listener.is_alive() => Sent::Done,
            (None, _) => Sent::ListenerEnded,
            (Some(change), Listener::Strong(recipient)) => match recipient.try_send(change.clone()) {
                Ok(()) => Sent::Done,
                Err(SendError::Full(_)) => Sent::MailboxFull,
                Err(SendError::Closed(_)) => Sent::ListenerEnded,
            },
            (Some(change), Listener::Weak(weak)) => match weak.upgrade() {
                Some(recipient) => Sent::Unhandled(recipient.send(change.clone())),
                None => Sent::ListenerEnded,
            },
        };
        self.unhandled = matches!(sent, Sent::Unhandled(_));
        if matches!(sent, Sent::Done | Sent::Unhandled(_)) {
            self.last = Some(list.clone());
        }
        sent
    }
}

#[cfg(test)]
mod tests {
    use actix::{Actor, Context, Handler};

    use super::*;

    struct TestListener;

    impl Actor for TestListener {
        type Context = Context<Self>;
    }

    impl Handler<ServiceChanged> for TestListener {
        type Result = ();

        fn handle(&mut self, _: ServiceChanged, _: &mut Context<Self>) {}
    }

    #[actix::test]
    async fn strong_and_weak_recipients_of_an_actor_are_one_listener() {
        let (one, other) = (TestListener.start(), TestListener.start());
        let mut listeners = Listeners::default();
        assert!(listeners.add(Listener::Weak(one.downgrade().recipient())).is_some());
        assert!(listeners.add(Listener::Strong(one.clone().recipient())).is_none());
        assert!(listeners.add(Listener::Strong(other.clone().recipient())).is_some());
        listeners.remove(Some(&one.recipient()));
        assert_eq!(listeners.len(), 1);
        assert!(listeners.add(Listener::Weak(other.downgrade().recipient())).is_none());
    }
}
