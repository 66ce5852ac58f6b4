//! The message that chooses an instance, for actors that prefer a message to a view.

use std::{rc::Rc, sync::Arc, time::Duration};

use actix::{Context, Handler, Message, ResponseFuture};

use super::{
    actor::Registry,
    filter::{filter_setters, Filter},
    shared::Shared,
};
use crate::{
    discovery::view::{selection_setters, Eject, Policy, Selection},
    error::{Error, Operation},
    model::{instance::Instance, service::ServiceRef},
};

/// Chooses an instance to call, like a [`ServiceView`](crate::ServiceView) with the same settings. You cannot report
/// the outcome of the call; for that, use [`begin`](crate::ServiceView::begin) of a view.
///
/// The first message about a service begins to watch the service. The watch ends after 10 minutes without another
/// message.
///
/// ```
/// # use actix_nacos::{embedded::EmbeddedServer, prelude::*};
/// # #[actix::main]
/// # async fn main() -> Result<(), Error> {
/// # let nacos = EmbeddedServer::start().unwrap();
/// # let registry = Registry::start(Config::new(nacos.server_address()))?;
/// # registry.send(RegisterInstance::new("orders", "127.0.0.7", 8080).cluster("EAST")).await??;
/// let instance = registry.send(Choose::new("orders").prefer_cluster("EAST")).await??;
/// assert_eq!(instance.authority(), "127.0.0.7:8080");
/// # Ok(())
/// # }
/// ```
///
/// Instances that other views ejected are left out here, too. The message costs a trip through the mailbox, about
/// 50 µs from another thread; a choice from a view costs 20 ns.
///
/// # Errors
/// [`Error::NoInstance`] if no instance can be called [in time](Choose::within); [`Error::InvalidInput`], which names
/// the field.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Arc<Instance>, Error>")]
pub struct Choose {
    filter: Filter,
    selection: Selection,
    limit: Duration,
}

impl Choose {
    /// Chooses an instance of `service` (or `GROUP@@service`).
    pub fn new(service: impl Into<ServiceRef>) -> Self {
        let limit = Duration::from_secs(5);
        Choose { filter: Filter::new(service), selection: Selection::default(), limit }
    }

    filter_setters!();

    /// How long to wait until an instance can be called. Default: 5 s.
    ///
    /// Zero answers at once. The time counts from the moment when the message is handled.
    #[must_use]
    pub fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    selection_setters!();
}

impl Handler<Choose> for Registry {
    type Result = ResponseFuture<Result<Arc<Instance>, Error>>;

    fn handle(&mut self, message: Choose, _: &mut Context<Self>) -> Self::Result {
        let registry = self.myself.clone();
        self.dispatch(Operation::Subscribe, |shared: Rc<Shared>| async move {
            let watched = message.filter.resolve()?;
            let view = match shared.choosers.find(&watched, &message.selection) {
                Some(view) => view,
                None => {
                    let view = shared.discover(&watched, false, &registry).await.with(|_| message.selection);
                    shared.choosers.keep(watched, view)
                }
            };
            view.available_within(message.limit).await?;
            // `begin` could choose an ejected instance as the probe, whose outcome would never be reported.
            // `select_one` does not.
            match view.select_one() {
                Some(selected) => Ok(selected.into_owned()),
                // The last callable instance has just left.
                None => view.begin().map(|call| call.instance().clone()),
            }
        })
    }
}
