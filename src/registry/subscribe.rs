//! Messages about the list of a service: subscribe, unsubscribe, stop all subscriptions, discover.

use std::rc::Rc;

use actix::{Addr, Context, Handler, Message, Recipient, ResponseFuture, WeakAddr, WeakRecipient};

use super::{
    actor::Registry,
    filter::{filter_setters, Filter},
    shared::Shared,
};
use crate::{
    discovery::{
        listeners::Listener,
        subscriber::{AddView, Listen, Settings, StopListening, Subscriber},
        subscription::SubscriptionKey,
        view::{selection_setters, Eject, Policy, Selection, ServiceView},
    },
    error::{Error, Operation},
    model::{change::ServiceChanged, service::ServiceRef},
    runtime::supervision,
};

/// The capacity of a Subscriber's mailbox. It does not limit messages sent by `do_send`.
const SUBSCRIBER_MAILBOX: usize = 16;

/// Sends `listener` a [`ServiceChanged`] with the list of a service, then one for every change of the list.
///
/// ```
/// use actix::prelude::*;
/// use actix_nacos::prelude::*;
/// # use actix_nacos::embedded::EmbeddedServer;
///
/// struct Caller;
///
/// impl Actor for Caller {
///     type Context = Context<Self>;
/// }
///
/// impl Handler<ServiceChanged> for Caller {
///     type Result = ();
///
///     fn handle(&mut self, change: ServiceChanged, _: &mut Context<Self>) {
///         println!("{} instances, {} are new", change.info.hosts.len(), change.added.len());
///     }
/// }
/// # #[actix::main]
/// # async fn main() -> Result<(), Error> {
/// # let server = EmbeddedServer::start().unwrap();
/// # let registry = Registry::start(Config::new(server.server_address()))?;
///
/// registry.send(Subscribe::new("orders", Caller.start().recipient())).await??;
/// # Ok(())
/// # }
/// ```
///
/// - The first message has [`first`](crate::Change::first) set, and all instances in `added`. If the Registry knows the
///   list already, it is sent at once. The first list of a service without instances is empty.
/// - A listener that subscribes twice receives each change once. It is kept alive if at least one of the two
///   subscriptions was not [`weak`](Subscribe::weak).
/// - A listener whose mailbox is full receives the newest list later, with the difference from the list that it
///   received last.
/// - A listener that has stopped is removed. [`Unsubscribe`] removes a listener that still runs.
///
/// A listener receives its [`ServiceChanged`] messages in the order of the lists. For reads without an actor use
/// [`Discover`].
///
/// # Errors
/// - [`Error::InvalidInput`] if a name is invalid. Correct the field that the error names.
/// - [`Error::Stopped`] if the Registry has ended.
///
/// Unreachable servers are no error: the first list is sent when a server answers.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct Subscribe {
    filter: Filter,
    listener: Listener<ServiceChanged>,
}

impl Subscribe {
    /// Subscribes to `service`, which may be written `GROUP@@service`, and keeps the listener alive, until it
    /// unsubscribes or stops itself, or the Registry ends.
    pub fn new(service: impl Into<ServiceRef>, listener: Recipient<ServiceChanged>) -> Self {
        Subscribe { filter: Filter::new(service), listener: Listener::Strong(listener) }
    }

    /// Like [`new`](Subscribe::new), but does not keep the listener alive.
    pub fn weak(service: impl Into<ServiceRef>, listener: WeakRecipient<ServiceChanged>) -> Self {
        Subscribe { filter: Filter::new(service), listener: Listener::Weak(listener) }
    }

    filter_setters!();
}

impl Handler<Subscribe> for Registry {
    type Result = ResponseFuture<Result<(), Error>>;

    fn handle(&mut self, message: Subscribe, _: &mut Context<Self>) -> Self::Result {
        self.dispatch(Operation::Subscribe, |shared| {
            let done = message.filter.resolve().map(|key| {
                shared.subscriber(&key, &self.myself).do_send(Listen(message.listener));
            });
            std::future::ready(done)
        })
    }
}

/// Ends the subscription of one listener, or of all listeners of a service. A subscription that does not exist is no
/// error. Views of [`Discover`] stay current.
///
/// With [`clusters`](Unsubscribe::clusters) it ends only the subscription that was made with exactly these clusters.
///
/// ```
/// # use actix_nacos::{embedded::EmbeddedServer, prelude::*};
/// # use actix::prelude::*;
/// # struct Listener;
/// # impl Actor for Listener {
/// #     type Context = Context<Self>;
/// # }
/// # impl Handler<ServiceChanged> for Listener {
/// #     type Result = ();
/// #     fn handle(&mut self, _: ServiceChanged, _: &mut Context<Self>) {}
/// # }
/// # #[actix::main]
/// # async fn main() -> Result<(), Error> {
/// # let server = EmbeddedServer::start().unwrap();
/// # let registry = Registry::start(Config::new(server.server_address()))?;
/// # let listener = Listener.start().recipient();
/// registry.send(Subscribe::new("orders", listener.clone())).await??;
///
/// registry.send(Unsubscribe::new("orders").listener(listener)).await??;
/// registry.send(Unsubscribe::new("orders")).await??; // all listeners
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// - [`Error::InvalidInput`] if a name is invalid. Correct the field that the error names.
/// - [`Error::Stopped`] if the Registry has ended.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct Unsubscribe {
    filter: Filter,
    listener: Option<Recipient<ServiceChanged>>,
}

impl Unsubscribe {
    /// Ends all subscriptions to `service`, which may be written `GROUP@@service`, whatever their clusters.
    pub fn new(service: impl Into<ServiceRef>) -> Self {
        Unsubscribe { filter: Filter::new(service), listener: None }
    }

    filter_setters!();

    /// Ends only the subscriptions of this listener. Default: the subscriptions of all listeners.
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
        let key = message.filter.resolve()?;
        let any_clusters = key.clusters.is_empty();
        for (found, subscriber) in self.subscriptions.of_service(&key.service) {
            if any_clusters || found == key {
                subscriber.do_send(StopListening(message.listener.clone()));
            }
        }
        Ok(())
    }
}

/// Ends all subscriptions of all listeners. Views of [`Discover`] stay current.
///
/// ```
/// # use actix_nacos::{embedded::EmbeddedServer, prelude::*};
/// # #[actix::main]
/// # async fn main() -> Result<(), Error> {
/// # let server = EmbeddedServer::start().unwrap();
/// # let registry = Registry::start(Config::new(server.server_address()))?;
/// registry.send(StopSubscribe).await??;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Only [`Error::Stopped`], if the Registry has ended.
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

/// Gives a [`ServiceView`] of a service: its current list, which any thread reads without a message. The Registry keeps
/// the view current until its last clone is dropped. Views of the same service share their data.
///
/// ```
/// # use actix_nacos::{embedded::EmbeddedServer, prelude::*};
/// # use std::time::Duration;
/// # #[actix::main]
/// # async fn main() -> Result<(), Error> {
/// # let server = EmbeddedServer::start().unwrap();
/// # let registry = Registry::start(Config::new(server.server_address()))?;
/// registry.send(RegisterInstance::new("orders", "127.0.0.7", 8080)).await??;
///
/// let orders = registry.send(Discover::new("orders")).await??;
/// orders.ready_within(Duration::from_secs(5)).await?;
/// let instance = orders.select_one().expect("an instance is registered");
/// assert_eq!(instance.authority(), "127.0.0.7:8080");
/// # Ok(())
/// # }
/// ```
///
/// Send it once at the start and keep the view; a message for each call would cost a thousand times as much.
///
/// # Errors
/// - [`Error::InvalidInput`] if a name is invalid. Correct the field that the error names.
/// - [`Error::Stopped`] if the Registry has ended.
///
/// Unreachable servers are no error. The view is empty until its first list arrives: see [`ServiceView::ready_within`].
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<ServiceView, Error>")]
pub struct Discover {
    filter: Filter,
    healthy_only: bool,
    selection: Selection,
}

impl Discover {
    /// Discovers `service`, which may be written `GROUP@@service`.
    pub fn new(service: impl Into<ServiceRef>) -> Self {
        Discover { filter: Filter::new(service), healthy_only: false, selection: Selection::default() }
    }

    filter_setters!();

    /// Shows only healthy instances in the view. Default: all instances. A choice is made among healthy instances in
    /// any case.
    #[must_use]
    pub fn healthy_only(mut self) -> Self {
        self.healthy_only = true;
        self
    }

    selection_setters!();
}

impl Handler<Discover> for Registry {
    type Result = ResponseFuture<Result<ServiceView, Error>>;

    fn handle(&mut self, message: Discover, _: &mut Context<Self>) -> Self::Result {
        let registry = self.myself.clone();
        self.dispatch(Operation::Subscribe, |shared: Rc<Shared>| async move {
            let key = message.filter.resolve()?;
            let view = shared.discover(&key, message.healthy_only, &registry).await;
            Ok(view.with(|_| message.selection))
        })
    }
}

impl Shared {
    /// The Subscriber of `key`. Starts one if there is none.
    fn subscriber(&self, key: &SubscriptionKey, registry: &WeakAddr<Registry>) -> Addr<Subscriber> {
        self.subscriptions.get_or_start(key, || {
            let records = self.ejections.records(&key.service);
            let settings = Settings { records, ..Settings::new(&self.config, key, self.grid, self.history.clone()) };
            let subscriber = Subscriber::new(key.clone(), registry.clone().recipient(), settings);
            actix_rt::spawn(subscriber.clock());
            supervision::start(subscriber, SUBSCRIBER_MAILBOX, self.log.clone())
        })
    }

    /// Makes a new view of `key`.
    pub(super) async fn discover(
        &self,
        key: &SubscriptionKey,
        healthy_only: bool,
        registry: &WeakAddr<Registry>,
    ) -> ServiceView {
        loop {
            let subscriber = self.subscriber(key, registry);
            // If the Subscriber has ended meanwhile, because its last view was dropped, the next round starts a new
            // one.
            if let Ok(view) = subscriber.send(AddView { healthy_only }).await {
                return view;
            }
        }
    }
}
