//! Messages that watch the connection to the servers.
//!
//! The task of each listener waits for changes of a `watch` channel, which holds one value. So a busy listener
//! skips states, and nothing queues up.

use std::{future::ready, rc::Rc};

use actix::{Context, Handler, Message, Recipient, ResponseFuture, WeakRecipient};
use futures_util::stream::{once, unfold, StreamExt as _};

use super::{actor::Registry, shared::Shared};
use crate::{
    discovery::listeners::Listener,
    error::{Error, Operation},
    model::connection::ConnectionChanged,
};

/// Sends `listener` a [`ConnectionChanged`] with the current state of the connection, then one for every change.
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
/// impl Handler<ConnectionChanged> for Alarm {
///     type Result = ();
///
///     fn handle(&mut self, change: ConnectionChanged, _: &mut Context<Self>) {
///         if change.state == ConnectionState::Lost {
///             eprintln!("no Nacos server answers; service lists stay as they are");
///         }
///     }
/// }
/// # #[actix::main]
/// # async fn main() -> Result<(), Error> {
/// # let server = EmbeddedServer::start().unwrap();
/// # let registry = Registry::start(Config::new(server.server_address()))?;
///
/// registry.send(WatchConnection::new(Alarm.start().recipient())).await??;
/// # Ok(())
/// # }
/// ```
///
/// A listener that watches twice receives each change once. It is kept alive if at least one of the two messages was
/// not [`weak`](WatchConnection::weak). A listener that is busy receives the newest state later. A listener that has
/// stopped is removed; [`UnwatchConnection`] removes a listener that still runs.
///
/// Use it to show or report an outage. An outage needs no action: views keep their lists, heartbeats and registrations
/// are repeated, and instances are registered again afterwards.
///
/// # Errors
/// Only [`Error::Stopped`], if the Registry has ended.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct WatchConnection {
    listener: Listener<ConnectionChanged>,
}

impl WatchConnection {
    /// Watches the connection and keeps the listener alive, until [`UnwatchConnection`] or the end of the Registry, or
    /// until the listener stops itself.
    pub fn new(listener: Recipient<ConnectionChanged>) -> Self {
        WatchConnection { listener: Listener::Strong(listener) }
    }

    /// Like [`new`](WatchConnection::new), but does not keep the listener alive.
    pub fn weak(listener: WeakRecipient<ConnectionChanged>) -> Self {
        WatchConnection { listener: Listener::Weak(listener) }
    }
}

impl Handler<WatchConnection> for Registry {
    type Result = ResponseFuture<Result<(), Error>>;

    fn handle(&mut self, WatchConnection { listener }: WatchConnection, _: &mut Context<Self>) -> Self::Result {
        self.dispatch(Operation::Status, |shared| {
            shared.watch_connection(listener);
            std::future::ready(Ok(()))
        })
    }
}

/// Stops notifying one listener of [`WatchConnection`], or all listeners. A listener that does not watch is no error.
///
/// ```
/// # use actix_nacos::{embedded::EmbeddedServer, prelude::*};
/// # use actix::prelude::*;
/// # struct Listener;
/// # impl Actor for Listener {
/// #     type Context = Context<Self>;
/// # }
/// # impl Handler<ConnectionChanged> for Listener {
/// #     type Result = ();
/// #     fn handle(&mut self, _: ConnectionChanged, _: &mut Context<Self>) {}
/// # }
/// # #[actix::main]
/// # async fn main() -> Result<(), Error> {
/// # let server = EmbeddedServer::start().unwrap();
/// # let registry = Registry::start(Config::new(server.server_address()))?;
/// # let listener = Listener.start().recipient();
/// registry.send(WatchConnection::new(listener.clone())).await??;
///
/// registry.send(UnwatchConnection::new(listener)).await??;
/// registry.send(UnwatchConnection::all()).await??;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Only [`Error::Stopped`], if the Registry has ended.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct UnwatchConnection {
    listener: Option<Recipient<ConnectionChanged>>,
}

impl UnwatchConnection {
    /// Stops notifying this listener, whether it is kept alive or not.
    pub fn new(listener: Recipient<ConnectionChanged>) -> Self {
        UnwatchConnection { listener: Some(listener) }
    }

    /// Stops notifying all listeners.
    pub fn all() -> Self {
        UnwatchConnection { listener: None }
    }
}

impl Handler<UnwatchConnection> for Registry {
    type Result = ResponseFuture<Result<(), Error>>;

    fn handle(&mut self, UnwatchConnection { listener }: UnwatchConnection, _: &mut Context<Self>) -> Self::Result {
        self.dispatch(Operation::Status, |shared| {
            shared.connection_watchers.unwatch(listener.as_ref());
            std::future::ready(Ok(()))
        })
    }
}

impl Shared {
    fn watch_connection(self: &Rc<Self>, listener: Listener<ConnectionChanged>) {
        self.connection_watchers.watch(listener, || {
            let (shared, states) = (Rc::downgrade(self), self.nacos.connection_changes());
            // The state is read when the listener is ready for it, so a busy listener receives only the newest one.
            let later = unfold((shared, states), async |(shared, mut states)| {
                states.changed().await.ok()?;
                let now = shared.upgrade()?.connection_now();
                Some((now, (shared, states)))
            });
            ((), once(ready(self.connection_now())).chain(later))
        });
    }

    fn connection_now(&self) -> ConnectionChanged {
        let server = self.nacos.servers().current().map(|server| server.name.clone());
        ConnectionChanged { state: self.nacos.connection(), server }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, time::Duration};

    use actix::{dev::channel, Actor, ActorContext, Addr};
    use actix_rt::time::sleep;

    use super::{super::watchers::CHECK_INTERVAL, *};
    use crate::{config::Config, model::connection::ConnectionState};

    /// Records the states that it receives.
    #[derive(Default)]
    struct Watcher(Rc<RefCell<Vec<ConnectionState>>>);

    impl Actor for Watcher {
        type Context = Context<Self>;
    }

    impl Handler<ConnectionChanged> for Watcher {
        type Result = ();

        fn handle(&mut self, change: ConnectionChanged, _: &mut Context<Self>) {
            self.0.borrow_mut().push(change.state);
        }
    }

    #[derive(Message)]
    #[rtype(result = "()")]
    struct Stop;

    impl Handler<Stop> for Watcher {
        type Result = ();

        fn handle(&mut self, _: Stop, ctx: &mut Context<Self>) {
            ctx.stop();
        }
    }

    /// The state of a Registry without a server.
    fn shared() -> Rc<Shared> {
        tokio::time::pause();
        let (sender, _mailbox) = channel::channel(1);
        Registry::new(Config::disabled(), Addr::new(sender).downgrade(), false).unwrap().shared
    }

    fn weak(watcher: &Addr<Watcher>) -> Listener<ConnectionChanged> {
        Listener::Weak(watcher.downgrade().recipient())
    }

    fn strong(watcher: &Addr<Watcher>) -> Listener<ConnectionChanged> {
        Listener::Strong(watcher.clone().recipient())
    }

    #[actix::test]
    async fn listeners_that_have_stopped_are_forgotten_also_without_a_change() {
        let shared = shared();
        let watching = || shared.connection_watchers.len();
        let watchers: Vec<_> = (0..2001).map(|_| Watcher::default().start()).collect();
        for (number, watcher) in watchers.iter().enumerate() {
            shared.watch_connection(if number % 2 == 0 { weak(watcher) } else { strong(watcher) });
        }
        watchers[1..].iter().for_each(|watcher| watcher.do_send(Stop));
        assert_eq!(watching(), 2001);
        sleep(2 * CHECK_INTERVAL).await;
        assert_eq!(watching(), 1);
    }

    #[actix::test]
    async fn a_listener_that_watches_twice_is_notified_once_and_stays_alive() {
        let shared = shared();
        let received = Rc::new(RefCell::new(Vec::new()));
        let watcher = Watcher(received.clone()).start();
        let address = watcher.downgrade();
        for listener in [weak(&watcher), strong(&watcher), weak(&watcher)] {
            shared.watch_connection(listener);
            sleep(Duration::from_millis(1)).await;
        }
        drop(watcher);
        sleep(3 * CHECK_INTERVAL).await;
        assert_eq!(*received.borrow(), [ConnectionState::Unknown]);
        assert!(address.upgrade().is_some());
        shared.connection_watchers.unwatch(None);
        sleep(CHECK_INTERVAL).await;
        assert!(address.upgrade().is_none());
    }
}
