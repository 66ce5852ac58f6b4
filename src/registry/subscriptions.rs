//! Messages that watch services: subscribe, unsubscribe, stop subscribing, discover.

use std::{cell::RefCell, collections::HashMap, rc::Rc};

use actix::{Addr, Context, Handler, Message, Recipient, ResponseFuture, WeakAddr, WeakRecipient};
use futures_util::future::join_all;

use super::{
    actor::Registry,
    filter::{filter_setters, Filter},
    shared::Shared,
};
use crate::{
    discovery::{
        listeners::Listener,
        subscriber::{
            AddView, DescribeSubscription, Listen, Settings, StopListening, StopWatching, Subscriber, SubscriptionKey,
            SubscriptionStatus,
        },
        view::ServiceView,
    },
    error::{Error, Operation},
    model::{
        change::ServiceChanged,
        service::{ServiceName, ServiceRef},
    },
    runtime::supervision,
};

/// So many messages a Subscriber holds; nobody waits for room there.
const SUBSCRIBER_MAILBOX: usize = 16;

/// Which services are watched, and by which Subscriber.
#[derive(Default)]
pub(crate) struct Subscriptions {
    subscribers: RefCell<HashMap<SubscriptionKey, Addr<Subscriber>>>,
}

impl Subscriptions {
    /// The living Subscribers. One ends by itself when its last listener and view are gone.
    pub(crate) fn all(&self) -> Vec<(SubscriptionKey, Addr<Subscriber>)> {
        let mut subscribers = self.subscribers.borrow_mut();
        subscribers.retain(|_, subscriber| subscriber.connected());
        subscribers.iter().map(|(watched, subscriber)| (watched.clone(), subscriber.clone())).collect()
    }

    pub(crate) fn of_service(&self, service: &ServiceName) -> Vec<(SubscriptionKey, Addr<Subscriber>)> {
        let subscribers = self.subscribers.borrow();
        let found =
            subscribers.iter().filter(|(watched, subscriber)| watched.service == *service && subscriber.connected());
        found.map(|(watched, subscriber)| (watched.clone(), subscriber.clone())).collect()
    }

    pub(crate) fn stop_all(&self) {
        for (_, subscriber) in self.subscribers.borrow_mut().drain() {
            subscriber.do_send(StopWatching);
        }
    }

    pub(crate) async fn describe(&self) -> Vec<SubscriptionStatus> {
        let asked = self.all().into_iter().map(|(_, subscriber)| subscriber.send(DescribeSubscription));
        join_all(asked).await.into_iter().flatten().collect()
    }
}

impl Shared {
    /// The Subscriber of `watched`, a new one if there is none.
    fn subscriber(&self, watched: &SubscriptionKey, registry: &WeakAddr<Registry>) -> Addr<Subscriber> {
        let mut subscribers = self.subscriptions.subscribers.borrow_mut();
        if let Some(living) = subscribers.get(watched).filter(|subscriber| subscriber.connected()) {
            return living.clone();
        }
        let settings = Settings::new(&self.config, watched, self.grid);
        let SubscriptionKey { service, clusters } = watched.clone();
        let subscriber = Subscriber::new(service, clusters, registry.clone().recipient(), settings);
        actix_rt::spawn(subscriber.clock());
        let address = supervision::start(subscriber, SUBSCRIBER_MAILBOX, self.log.clone());
        if subscribers.len() == subscribers.capacity() {
            // Rather than to grow for those that have ended.
            subscribers.retain(|_, subscriber| subscriber.connected());
        }
        subscribers.insert(watched.clone(), address.clone());
        address
    }
}

/// Tells `listener` of every change of a service's list, beginning with the list as it is ([`ServiceChanged`]).
///
/// The same listener subscribed twice is told once, and kept alive if one of the two subscriptions is not
/// [`weak`](Subscribe::weak). A listener whose mailbox is full is told later, then with the newest list; one that has stopped
/// is forgotten.
///
/// # Errors
/// [`Error::InvalidInput`] naming the field. Servers that cannot be reached are no error: the first list comes when one can.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct Subscribe {
    filter: Filter,
    listener: Listener<ServiceChanged>,
}

impl Subscribe {
    /// Watches `service` (or `GROUP@@service`). The subscription keeps the listener alive until it unsubscribes or stops
    /// itself, or the Registry ends.
    pub fn new(service: impl Into<ServiceRef>, listener: Recipient<ServiceChanged>) -> Self {
        Subscribe { filter: Filter::new(service), listener: Listener::Strong(listener) }
    }

    /// As [`new`](Subscribe::new), but does not keep the listener alive, unless it was or will be subscribed by `new`, too.
    pub fn weak(service: impl Into<ServiceRef>, listener: WeakRecipient<ServiceChanged>) -> Self {
        Subscribe { filter: Filter::new(service), listener: Listener::Weak(listener) }
    }

    filter_setters!();
}

impl Handler<Subscribe> for Registry {
    type Result = ResponseFuture<Result<(), Error>>;

    fn handle(&mut self, message: Subscribe, _: &mut Context<Self>) -> Self::Result {
        self.dispatch(Operation::Subscribe, |shared| {
            let done = message.filter.resolve().map(|watched| {
                shared.subscriber(&watched, &self.myself).do_send(Listen(message.listener));
            });
            std::future::ready(done)
        })
    }
}

/// Ends the subscription of one listener, or of all listeners of a service. An unknown one is ok.
///
/// With [`clusters`](Unsubscribe::clusters) it ends the subscription that was made with exactly these, and no other.
///
/// # Errors
/// [`Error::InvalidInput`] naming the field.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct Unsubscribe {
    filter: Filter,
    listener: Option<Recipient<ServiceChanged>>,
}

impl Unsubscribe {
    /// Ends all subscriptions of `service` (or `GROUP@@service`), whatever their clusters.
    pub fn new(service: impl Into<ServiceRef>) -> Self {
        Unsubscribe { filter: Filter::new(service), listener: None }
    }

    filter_setters!();

    /// Only the subscriptions of this listener. Default: all.
    #[must_use]
    pub fn listener(mut self, listener: Recipient<ServiceChanged>) -> Self {
        self.listener = Some(listener);
        self
    }
}

impl Handler<Unsubscribe> for Registry {
    type Result = ResponseFuture<Result<(), Error>>;

    fn handle(&mut self, message: Unsubscribe, _: &mut Context<Self>) -> Self::Result {
        self.dispatch(Operation::Subscribe, |shared| std::future::ready(shared.unsubscribe(&message)))
    }
}

impl Shared {
    fn unsubscribe(&self, message: &Unsubscribe) -> Result<(), Error> {
        let watched = message.filter.resolve()?;
        let any_clusters = watched.clusters.is_empty();
        for (found, subscriber) in self.subscriptions.of_service(&watched.service) {
            if any_clusters || found == watched {
                subscriber.do_send(StopListening(message.listener.clone()));
            }
        }
        Ok(())
    }
}

/// Ends all subscriptions. Views live on.
///
/// # Errors
/// [`Error::Stopped`] alone.
#[derive(Debug, Clone, Copy, Default, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct StopSubscribe;

impl Handler<StopSubscribe> for Registry {
    type Result = ResponseFuture<Result<(), Error>>;

    fn handle(&mut self, _: StopSubscribe, _: &mut Context<Self>) -> Self::Result {
        self.dispatch(Operation::Subscribe, |shared| {
            for (_, subscriber) in shared.subscriptions.all() {
                subscriber.do_send(StopListening(None));
            }
            std::future::ready(Ok(()))
        })
    }
}

/// Gives a [`ServiceView`], which stays current by itself and is read without asking. Discovering a service twice gives
/// views of the same data.
///
/// # Errors
/// [`Error::InvalidInput`] naming the field. The view is there at once; its first list may take a moment: see
/// [`ServiceView::ready`].
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<ServiceView, Error>")]
pub struct Discover {
    filter: Filter,
    healthy_only: bool,
}

impl Discover {
    /// Views `service` (or `GROUP@@service`).
    pub fn new(service: impl Into<ServiceRef>) -> Self {
        Discover { filter: Filter::new(service), healthy_only: false }
    }

    filter_setters!();

    /// Whether the view shows only healthy instances. Default: all. A choice is among the healthy ones in any case.
    #[must_use]
    pub fn healthy_only(mut self) -> Self {
        self.healthy_only = true;
        self
    }
}

impl Handler<Discover> for Registry {
    type Result = ResponseFuture<Result<ServiceView, Error>>;

    fn handle(&mut self, message: Discover, _: &mut Context<Self>) -> Self::Result {
        let registry = self.myself.clone();
        self.dispatch(Operation::Subscribe, |shared: Rc<Shared>| async move {
            let watched = message.filter.resolve()?;
            loop {
                let subscriber = shared.subscriber(&watched, &registry);
                // One that ended meanwhile, because its last view was dropped, is followed by a new one.
                if let Ok(view) = subscriber.send(AddView { healthy_only: message.healthy_only }).await {
                    return Ok(view);
                }
            }
        })
    }
}
