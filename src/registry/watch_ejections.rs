//! Messages that watch the ejections of all services.

use actix::{Context, Handler, Message, Recipient, ResponseFuture, WeakRecipient};

use super::actor::Registry;
use crate::{
    discovery::{listeners::Listener, view::EjectionChanged},
    error::{Error, Operation},
};

/// Notifies `listener` whenever an instance of any service is ejected, or its ejection ends ([`EjectionChanged`]).
///
/// A listener that watches twice receives each change once. It is kept alive if at least one of the two messages was
/// not [`weak`](WatchEjections::weak). A listener that is more than 1,024 changes behind misses some;
/// [`GetStatus`](super::GetStatus) lists all ejected instances. A listener that has stopped is removed;
/// [`UnwatchEjections`] removes a listener that still runs.
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
/// impl Handler<EjectionChanged> for Alarm {
///     type Result = ();
///
///     fn handle(&mut self, change: EjectionChanged, _: &mut Context<Self>) {
///         match change.ejected_for {
///             Some(time) => eprintln!("{} is left out for {time:?}, the {}. time", change.instance, change.times),
///             None => eprintln!("{} is back", change.instance),
///         }
///     }
/// }
/// # #[actix::main]
/// # async fn main() -> Result<(), Error> {
/// # let server = EmbeddedServer::start().unwrap();
/// # let registry = Registry::start(Config::new(server.server_address()))?;
///
/// registry.send(WatchEjections::new(Alarm.start().recipient())).await??;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Only [`Error::Stopped`].
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct WatchEjections {
    listener: Listener<EjectionChanged>,
}

impl WatchEjections {
    /// Notifies the listener and keeps it alive, until [`UnwatchEjections`], until the listener stops itself, or until
    /// the Registry ends.
    pub fn new(listener: Recipient<EjectionChanged>) -> Self {
        WatchEjections { listener: Listener::Strong(listener) }
    }

    /// Like [`new`](WatchEjections::new), but does not keep the listener alive.
    pub fn weak(listener: WeakRecipient<EjectionChanged>) -> Self {
        WatchEjections { listener: Listener::Weak(listener) }
    }
}

impl Handler<WatchEjections> for Registry {
    type Result = ResponseFuture<Result<(), Error>>;

    fn handle(&mut self, WatchEjections { listener }: WatchEjections, _: &mut Context<Self>) -> Self::Result {
        self.dispatch(Operation::Status, |shared| {
            shared.ejections.watchers.watch_queue(listener, Vec::new);
            std::future::ready(Ok(()))
        })
    }
}

/// Stops notifying one listener of [`WatchEjections`], or all listeners. A listener that does not watch is no error.
///
/// # Errors
/// Only [`Error::Stopped`].
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct UnwatchEjections {
    listener: Option<Recipient<EjectionChanged>>,
}

impl UnwatchEjections {
    /// Stops notifying this listener, whether it is kept alive or not.
    pub fn new(listener: Recipient<EjectionChanged>) -> Self {
        UnwatchEjections { listener: Some(listener) }
    }

    /// Stops notifying all listeners.
    pub fn all() -> Self {
        UnwatchEjections { listener: None }
    }
}

impl Handler<UnwatchEjections> for Registry {
    type Result = ResponseFuture<Result<(), Error>>;

    fn handle(&mut self, UnwatchEjections { listener }: UnwatchEjections, _: &mut Context<Self>) -> Self::Result {
        self.dispatch(Operation::Status, |shared| {
            shared.ejections.watchers.unwatch(listener.as_ref());
            std::future::ready(Ok(()))
        })
    }
}
