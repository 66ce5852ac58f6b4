//! The listeners of one subscription: who is told what, and who is owed something.

use std::sync::Arc;

use actix::{
    fut::{self, ActorFutureExt as _},
    prelude::SendError,
    AsyncContext as _, Context, Recipient, WeakRecipient,
};

use crate::{
    change::ServiceChanged,
    list_merge::{CurrentList, Step},
    service::ServiceInfo,
    subscriber::Subscriber,
};

/// A listener, as it was given.
#[derive(Debug, Clone)]
pub(crate) enum Listener {
    Strong(Recipient<ServiceChanged>),
    Weak(WeakRecipient<ServiceChanged>),
}

impl Listener {
    fn is(&self, recipient: &Recipient<ServiceChanged>) -> bool {
        match self {
            Listener::Strong(own) => own == recipient,
            Listener::Weak(weak) => weak.upgrade().as_ref() == Some(recipient),
        }
    }

    /// None once the listener has ended.
    fn recipient(&self) -> Option<Recipient<ServiceChanged>> {
        let recipient = match self {
            Listener::Strong(recipient) => Some(recipient.clone()),
            Listener::Weak(weak) => weak.upgrade(),
        };
        recipient.filter(Recipient::connected)
    }

    fn is_alive(&self) -> bool {
        self.recipient().is_some()
    }
}

/// One listener, and what it was told.
struct Told {
    id: u64,
    listener: Listener,
    /// The list that this listener received last.
    last: Option<Arc<ServiceInfo>>,
    /// Its mailbox was full: it is to be tried again.
    owed: bool,
    /// A weak listener's message that it has not handled yet. It gets no other before: a sender that is made anew for
    /// each message would not notice that the mailbox is full, and one that is kept would keep the listener alive. Nor
    /// does a listener that has become a strong one meanwhile: the other message could overtake the first.
    unhandled: bool,
}

/// All listeners of one subscription.
#[derive(Default)]
pub(crate) struct Listeners {
    told: Vec<Told>,
    next_id: u64,
}

impl Listeners {
    /// Adds a listener, unless it has stopped. One that listens already is the same one, and is kept alive from now on if
    /// this is asked for once.
    pub(crate) fn add(&mut self, listener: Listener) {
        let Some(recipient) = listener.recipient() else { return };
        match self.told.iter_mut().find(|told| told.listener.is(&recipient)) {
            Some(known) if matches!(known.listener, Listener::Weak(_)) => known.listener = listener,
            Some(_) => {}
            None => {
                self.told.push(Told { id: self.next_id, listener, last: None, owed: false, unhandled: false });
                self.next_id += 1;
            }
        }
    }

    /// Removes one listener, or all.
    pub(crate) fn remove(&mut self, listener: Option<&Recipient<ServiceChanged>>) {
        self.told.retain(|told| listener.is_some_and(|gone| !told.listener.is(gone)));
    }

    pub(crate) fn forget_the_gone(&mut self) {
        self.told.retain(|told| told.listener.is_alive());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.told.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.told.len()
    }

    /// Whether somebody is to be told something as soon as there is room in its mailbox.
    pub(crate) fn are_owed(&self) -> bool {
        self.told.iter().any(|told| told.owed && !told.unhandled)
    }

    /// Weak listeners' messages that were under way have lost their ends.
    pub(crate) fn restarted(&mut self) {
        self.told.iter_mut().for_each(|told| told.unhandled = false);
    }

    /// A weak listener has handled its message.
    pub(crate) fn handled(&mut self, id: u64) {
        if let Some(told) = self.told.iter_mut().find(|told| told.id == id) {
            told.unhandled = false;
        }
    }

    /// Tells everybody what is new to them: as a rule the `step` that was just taken. Those that were told the same list last
    /// share one message.
    pub(crate) fn tell(&mut self, held: &CurrentList, step: &Step, ctx: &mut Context<Subscriber>) {
        let mut prepared: Vec<(*const ServiceInfo, Option<ServiceChanged>)> = Vec::new();
        self.told.retain_mut(|told| {
            let last = told.last.as_ref().map_or(std::ptr::null(), Arc::as_ptr);
            let known = prepared.iter().position(|(base, _)| *base == last).unwrap_or_else(|| {
                prepared.push((last, ServiceChanged::since(told.last.as_ref(), held, step)));
                prepared.len() - 1
            });
            told.tell(prepared[known].1.as_ref(), &held.info, ctx)
        });
    }
}

impl Told {
    /// False if the listener is gone. A full mailbox blocks and grows nothing: what is owed is worked out anew when it is
    /// tried again.
    fn tell(&mut self, news: Option<&ServiceChanged>, now: &Arc<ServiceInfo>, ctx: &mut Context<Subscriber>) -> bool {
        let Some(news) = news else {
            self.received(now);
            return self.listener.is_alive();
        };
        self.owed = true;
        if self.unhandled {
            return true;
        }
        let sent = match &self.listener {
            Listener::Strong(recipient) => recipient.try_send(news.clone()),
            Listener::Weak(weak) => {
                let Some(recipient) = weak.upgrade() else { return false };
                self.unhandled = true;
                let (id, handled) = (self.id, fut::wrap_future::<_, Subscriber>(recipient.send(news.clone())));
                ctx.spawn(handled.map(move |_, subscriber, ctx| subscriber.handled(id, ctx)));
                Ok(())
            }
        };
        match sent {
            Ok(()) => {
                self.received(now);
                true
            }
            Err(SendError::Full(_)) => true,
            Err(SendError::Closed(_)) => false,
        }
    }

    fn received(&mut self, list: &Arc<ServiceInfo>) {
        self.last = Some(list.clone());
        self.owed = false;
    }
}
