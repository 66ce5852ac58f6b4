//! Messages that watch the connection to the servers.

use std::{
    cell::RefCell,
    collections::HashMap,
    rc::{Rc, Weak},
    time::Duration,
};

use actix::{Context, Handler, Message, Recipient, ResponseFuture, WeakRecipient};
use actix_rt::{task::JoinHandle, time::timeout};
use serde::Serialize;
use tokio::sync::watch;

use super::{actor::Registry, shared::Shared};
use crate::{
    discovery::listeners::{Listener, ListenerId},
    error::{Error, Operation},
    model::connection::ConnectionState,
};

/// A listener that has stopped is forgotten within this time.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// Tells a listener how the servers can be reached now. Several changes at once are told once, the newest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Message)]
#[rtype(result = "()")]
#[non_exhaustive]
pub struct ConnectionChanged {
    /// How it is now.
    pub state: ConnectionState,
    /// The server in use, as `host:port`.
    pub server: Option<String>,
}

/// Tells `listener` of every change of the connection to the servers, beginning with how it is now
/// ([`ConnectionChanged`]).
///
/// The same listener watching twice is told once, and kept alive if one of the two is not [`weak`](WatchConnection::weak).
/// A listener that is busy is told later, then the newest state. One that has stopped is forgotten; [`UnwatchConnection`]
/// ends the watching of one that has not.
///
/// # Errors
/// [`Error::Stopped`] alone.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct WatchConnection {
    listener: Listener<ConnectionChanged>,
}

impl WatchConnection {
    /// Watches, and keeps the listener alive, until [`UnwatchConnection`], or the listener stops itself, or the Registry
    /// ends.
    pub fn new(listener: Recipient<ConnectionChanged>) -> Self {
        WatchConnection { listener: Listener::Strong(listener) }
    }

    /// As [`new`](WatchConnection::new), but does not keep the listener alive, unless it watches by `new`, too.
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

/// Ends what [`WatchConnection`] began, for one listener or for all. An unknown listener is ok.
///
/// # Errors
/// [`Error::Stopped`] alone.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct UnwatchConnection {
    listener: Option<Recipient<ConnectionChanged>>,
}

impl UnwatchConnection {
    /// Ends the watching of this listener, whether it is kept alive or not.
    pub fn new(listener: Recipient<ConnectionChanged>) -> Self {
        UnwatchConnection { listener: Some(listener) }
    }

    /// Ends the watching of all listeners.
    pub fn all() -> Self {
        UnwatchConnection { listener: None }
    }
}

impl Handler<UnwatchConnection> for Registry {
    type Result = ResponseFuture<Result<(), Error>>;

    fn handle(&mut self, UnwatchConnection { listener }: UnwatchConnection, _: &mut Context<Self>) -> Self::Result {
        self.dispatch(Operation::Status, |shared| {
            match listener {
                Some(listener) => shared.connection_listeners.remove(ListenerId::of(&listener)),
                None => shared.connection_listeners.remove_all(),
            }
            std::future::ready(Ok(()))
        })
    }
}

/// Who watches the connection.
#[derive(Default)]
pub(crate) struct ConnectionListeners {
    watching: RefCell<HashMap<ListenerId, Watching>>,
}

impl ConnectionListeners {
    fn remove(&self, listener: ListenerId) {
        self.watching.borrow_mut().remove(&listener);
    }

    fn remove_all(&self) {
        self.watching.borrow_mut().clear();
    }
}

/// One listener. It is notified for as long as this exists.
struct Watching {
    /// A listener that is to be kept alive; the task holds it weakly.
    kept_alive: Option<Recipient<ConnectionChanged>>,
    task: JoinHandle<()>,
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn watch_connection(self: &Rc<Self>, listener: Listener<ConnectionChanged>) {
        let Some(recipient) = listener.recipient() else { return };
        let id = ListenerId::of(&recipient);
        let begin = || {
            let states = self.nacos.connection_changes();
            let notified = notify(Rc::downgrade(self), id, recipient.downgrade(), self.connection_now(), states);
            Watching { kept_alive: None, task: actix_rt::spawn(notified) }
        };
        let mut watching = self.connection_listeners.watching.borrow_mut();
        let watching = watching.entry(id).or_insert_with(begin);
        if let Listener::Strong(recipient) = listener {
            watching.kept_alive = Some(recipient);
        }
    }

    fn connection_now(&self) -> ConnectionChanged {
        let server = self.nacos.servers().current().map(|server| server.name.clone());
        ConnectionChanged { state: self.nacos.connection(), server }
    }
}

/// Notifies one listener of every change, beginning with `first`, until the listener or the Registry has ended.
async fn notify(
    shared: Weak<Shared>,
    id: ListenerId,
    listener: WeakRecipient<ConnectionChanged>,
    first: ConnectionChanged,
    mut states: watch::Receiver<ConnectionState>,
) {
    let mut next = Some(first);
    while let Some(recipient) = listener.upgrade().filter(Recipient::connected) {
        let sent = next.take().map(|change| recipient.send(change));
        // Held any longer, it would keep the listener alive.
        drop(recipient);
        if let Some(handled) = sent {
            // There is no other message before: what a busy listener misses costs no memory.
            let _ = handled.await;
        }
        match timeout(CHECK_INTERVAL, states.changed()).await {
            Ok(Ok(())) => next = shared.upgrade().map(|shared| shared.connection_now()),
            Ok(Err(_)) => return,
            Err(_) => {}
        }
    }
    if let Some(shared) = shared.upgrade() {
        shared.connection_listeners.remove(id);
    }
}

#[cfg(test)]
mod tests {
    use actix::{dev::channel, Actor, ActorContext, Addr};
    use actix_rt::time::sleep;

    use super::*;
    use crate::config::Config;

    /// Notes what it is told.
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

    /// Without a server, and with nothing under way.
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
        let watching = || shared.connection_listeners.watching.borrow().len();
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
    async fn a_listener_that_watches_twice_is_told_once_and_kept_alive_if_this_was_asked_for_once() {
        let shared = shared();
        let told = Rc::new(RefCell::new(Vec::new()));
        let watcher = Watcher(told.clone()).start();
        let address = watcher.downgrade();
        for listener in [weak(&watcher), strong(&watcher), weak(&watcher)] {
            shared.watch_connection(listener);
            sleep(Duration::from_millis(1)).await;
        }
        drop(watcher);
        sleep(3 * CHECK_INTERVAL).await;
        assert_eq!(*told.borrow(), [ConnectionState::Unknown]);
        assert!(address.upgrade().is_some());
        shared.connection_listeners.remove_all();
        sleep(CHECK_INTERVAL).await;
        assert!(address.upgrade().is_none());
    }
}
