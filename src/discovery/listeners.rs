//! Listeners, and those of one subscription: what each has received, and what each is still to be sent. No actor, no I/O.

use std::{
    collections::{hash_map::Entry, HashMap, HashSet},
    hash::{Hash, Hasher},
    sync::Arc,
};

use actix::{dev::RecipientRequest, prelude::SendError, Message, Recipient, WeakRecipient};

use super::list_merge::{CurrentList, Step};
use crate::model::{change::ServiceChanged, service::ServiceInfo};

/// A listener, as it was given.
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

/// Identifies a listener by the address of its mailbox, which no other actor has as long as the listener is kept here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ListenerId(u64);

impl ListenerId {
    pub(crate) fn of<M: Message<Result = ()> + Send + 'static>(recipient: &Recipient<M>) -> Self {
        /// Keeps what is hashed as it is: of a recipient, which does not show its address, that is the address.
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

/// One listener, and what it has received.
struct ListenerState {
    listener: Listener<ServiceChanged>,
    /// The list that this listener received last.
    last: Option<Arc<ServiceInfo>>,
    /// A weak listener has not handled its last message yet. It gets no other before: a sender that is made anew for each
    /// message would not notice that the mailbox is full, and one that is kept would keep the listener alive. Nor does a
    /// listener that has become a strong one meanwhile: the other message could overtake the first.
    unhandled: bool,
}

/// What became of a message.
enum Sent {
    /// It is in the mailbox, or none was necessary, or the last one is to be handled first.
    Done,
    /// It is on its way to a weak listener.
    Unhandled(RecipientRequest<ServiceChanged>),
    MailboxFull,
    ListenerEnded,
}

/// A message on its way to a weak listener. [`Listeners::acknowledge`] is to be told when it is handled.
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
    /// Those whose mailbox was full: they are to be notified again.
    pending: HashSet<ListenerId>,
}

impl Listeners {
    /// Adds a listener, which is to be notified then. None for a listener that has ended, and for one that listens already:
    /// it is kept alive from now on if this is asked for once.
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
    pub(crate) fn remove(&mut self, listener: Option<&Recipient<ServiceChanged>>) {
        match listener {
            Some(listener) => drop(self.states.remove(&ListenerId::of(listener))),
            None => self.states.clear(),
        }
    }

    pub(crate) fn remove_ended(&mut self) {
        self.states.retain(|_, state| state.listener.is_alive());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.states.len()
    }

    /// Whether listeners are to be notified again as soon as there is room in their mailboxes.
    pub(crate) fn are_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// The deliveries that were under way are lost.
    pub(crate) fn restarted(&mut self) {
        self.states.values_mut().for_each(|state| state.unhandled = false);
    }

    /// A weak listener has handled its message, and may be notified of what has changed since.
    pub(crate) fn acknowledge(&mut self, id: ListenerId) {
        if let Some(state) = self.states.get_mut(&id) {
            state.unhandled = false;
        }
    }

    /// Sends to every listener what is new to it: as a rule the `step` that was just taken.
    #[must_use]
    pub(crate) fn notify_all(&mut self, current: &CurrentList, step: &Step) -> Vec<Delivery> {
        let all: Vec<_> = self.states.keys().copied().collect();
        self.notify(all, current, step)
    }

    /// Sends what is new to them to those listeners whose mailboxes were full.
    #[must_use]
    pub(crate) fn notify_pending(&mut self, current: &CurrentList) -> Vec<Delivery> {
        let pending = std::mem::take(&mut self.pending);
        self.notify(pending, current, &Step::default())
    }

    /// Sends to some listeners what is new to them. Those that received the same list last share one message. A full
    /// mailbox blocks and grows nothing: what the listener misses is worked out anew when it is notified again.
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
    /// Sends the change that leads from what the listener has received to `list`, if there is one.
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

    struct Ear;

    impl Actor for Ear {
        type Context = Context<Self>;
    }

    impl Handler<ServiceChanged> for Ear {
        type Result = ();

        fn handle(&mut self, _: ServiceChanged, _: &mut Context<Self>) {}
    }

    #[actix::test]
    async fn a_listener_is_the_same_one_however_it_is_addressed() {
        let (one, other) = (Ear.start(), Ear.start());
        let mut listeners = Listeners::default();
        assert!(listeners.add(Listener::Weak(one.downgrade().recipient())).is_some());
        assert!(listeners.add(Listener::Strong(one.clone().recipient())).is_none());
        assert!(listeners.add(Listener::Strong(other.clone().recipient())).is_some());
        listeners.remove(Some(&one.recipient()));
        assert_eq!(listeners.len(), 1);
        assert!(listeners.add(Listener::Weak(other.downgrade().recipient())).is_none());
    }
}
