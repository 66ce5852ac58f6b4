//! News of the connection to the servers, for whoever wants to know.

use std::{cell::RefCell, rc::Weak};

use actix::{prelude::SendError, Context, Handler, Message, Recipient, ResponseFuture};
use serde::Serialize;
use tokio::sync::watch;

use super::{Desk, Registry};
use crate::{
    error::Error,
    nacos::{ConnectionState, Operation},
};

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
/// ([`ConnectionChanged`]). The same listener watching twice is told once. One whose mailbox is full misses what it has no
/// room for; one that has stopped is forgotten.
///
/// # Errors
/// [`Error::Stopped`] alone.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct WatchConnection {
    listener: Recipient<ConnectionChanged>,
}

impl WatchConnection {
    /// Watches until the listener stops or the Registry ends.
    pub fn new(listener: Recipient<ConnectionChanged>) -> Self {
        WatchConnection { listener }
    }
}

/// Who wants to know.
#[derive(Default)]
pub(crate) struct ConnectionListeners {
    listeners: RefCell<Vec<Recipient<ConnectionChanged>>>,
}

impl ConnectionListeners {
    fn add(&self, listener: Recipient<ConnectionChanged>) {
        let mut listeners = self.listeners.borrow_mut();
        if !listeners.contains(&listener) {
            listeners.push(listener);
        }
    }

    fn tell(&self, news: &ConnectionChanged) {
        self.listeners.borrow_mut().retain(|listener| is_alive_after(listener, news));
    }
}

fn is_alive_after(listener: &Recipient<ConnectionChanged>, news: &ConnectionChanged) -> bool {
    !matches!(listener.try_send(news.clone()), Err(SendError::Closed(_)))
}

impl Desk {
    fn connection_news(&self) -> ConnectionChanged {
        let server = self.nacos.servers().current().map(|server| server.name.clone());
        ConnectionChanged { state: self.nacos.connection(), server }
    }
}

/// Passes every change on.
pub(super) async fn tell_of_connection(desk: Weak<Desk>, mut states: watch::Receiver<ConnectionState>) {
    while states.changed().await.is_ok() {
        let Some(desk) = desk.upgrade() else { return };
        let news = desk.connection_news();
        desk.connection_listeners.tell(&news);
    }
}

impl Handler<WatchConnection> for Registry {
    type Result = ResponseFuture<Result<(), Error>>;

    fn handle(&mut self, WatchConnection { listener }: WatchConnection, _: &mut Context<Self>) -> Self::Result {
        self.answer(Operation::Status, |desk| {
            if is_alive_after(&listener, &desk.connection_news()) {
                desk.connection_listeners.add(listener);
            }
            std::future::ready(Ok(()))
        })
    }
}
