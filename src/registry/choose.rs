//! The message that chooses an instance, for actors that prefer a message to a view.

use std::{
    cell::RefCell,
    collections::HashMap,
    rc::{Rc, Weak},
    sync::Arc,
    time::Duration,
};

use actix::{Context, Handler, Message, ResponseFuture};
use actix_rt::time::{sleep, Instant};

use super::{
    actor::Registry,
    filter::{filter_setters, Filter},
    shared::Shared,
};
use crate::{
    discovery::{
        subscription::SubscriptionKey,
        view::{selection_setters, Selection, ServiceView},
    },
    error::{Error, Operation},
    model::{instance::Instance, service::ServiceRef},
};

/// How long a service is watched after the last message about it.
const IDLE_LIMIT: Duration = Duration::from_secs(600);
const IDLE_CHECK_INTERVAL: Duration = Duration::from_secs(60);
/// How many selections of one service are kept. Without a limit, messages that each have a new predicate would add up.
const MOST_SELECTIONS: usize = 16;
/// How many services are watched for messages.
const MOST_SERVICES: usize = 1_000;

/// Chooses an instance to call, like a [`ServiceView`] with the same settings. You cannot report the outcome of the
/// call; for that, use [`begin`](ServiceView::begin) of a view.
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
                    shared.choosers.keep(watched, view.clone());
                    view
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

/// The views that messages choose from.
#[derive(Default)]
pub(crate) struct Choosers {
    kept: RefCell<HashMap<SubscriptionKey, Vec<Chooser>>>,
}

struct Chooser {
    view: ServiceView,
    used: Instant,
}

impl Choosers {
    fn find(&self, watched: &SubscriptionKey, selection: &Selection) -> Option<ServiceView> {
        let mut kept = self.kept.borrow_mut();
        let chooser = kept.get_mut(watched)?.iter_mut().find(|chooser| chooser.view.selection() == selection)?;
        chooser.used = Instant::now();
        Some(chooser.view.clone())
    }

    fn keep(&self, watched: SubscriptionKey, view: ServiceView) {
        let mut kept = self.kept.borrow_mut();
        if kept.len() >= MOST_SERVICES && !kept.contains_key(&watched) {
            let last_used = |choosers: &Vec<Chooser>| choosers.iter().map(|chooser| chooser.used).max();
            let oldest =
                kept.iter().min_by_key(|(_, choosers)| last_used(choosers)).map(|(watched, _)| watched.clone());
            oldest.and_then(|oldest| kept.remove(&oldest));
        }
        let choosers = kept.entry(watched).or_default();
        if choosers.len() >= MOST_SELECTIONS {
            choosers.sort_by_key(|chooser| chooser.used);
            choosers.remove(0);
        }
        choosers.push(Chooser { view, used: Instant::now() });
    }

    fn forget_idle(&self) {
        self.kept.borrow_mut().retain(|_, choosers| {
            choosers.retain(|chooser| chooser.used.elapsed() < IDLE_LIMIT);
            !choosers.is_empty()
        });
    }
}

/// Stops watching services that no message asks for. Runs until the Registry ends.
pub(super) async fn forget_idle_choosers(shared: Weak<Shared>) {
    loop {
        sleep(IDLE_CHECK_INTERVAL).await;
        let Some(shared) = shared.upgrade() else { return };
        shared.choosers.forget_idle();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::service::ServiceName;

    fn watched(number: usize) -> SubscriptionKey {
        SubscriptionKey { service: ServiceName::parse(&format!("orders-{number}")).unwrap(), clusters: String::new() }
    }

    fn view(number: usize, selection: Selection) -> ServiceView {
        ServiceView::fixed(watched(number).service, []).with(|_| selection)
    }

    #[actix::test]
    async fn a_service_that_nobody_asks_for_is_forgotten() {
        tokio::time::pause();
        let choosers = Choosers::default();
        choosers.keep(watched(1), view(1, Selection::default()));
        choosers.keep(watched(2), view(2, Selection::default()));
        sleep(IDLE_LIMIT / 2).await;
        assert!(choosers.find(&watched(1), &Selection::default()).is_some());
        sleep(IDLE_LIMIT / 2).await;
        choosers.forget_idle();
        assert!(choosers.find(&watched(1), &Selection::default()).is_some());
        assert!(choosers.find(&watched(2), &Selection::default()).is_none());
    }

    #[actix::test]
    async fn selections_and_services_are_bounded() {
        tokio::time::pause();
        let choosers = Choosers::default();
        for _ in 0..2 * MOST_SELECTIONS {
            choosers.keep(watched(0), view(0, Selection::default().only(|_| true)));
            sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(choosers.kept.borrow()[&watched(0)].len(), MOST_SELECTIONS);
        for number in 1..=MOST_SERVICES {
            choosers.keep(watched(number), view(number, Selection::default()));
        }
        assert_eq!(choosers.kept.borrow().len(), MOST_SERVICES);
        assert!(choosers.find(&watched(MOST_SERVICES), &Selection::default()).is_some());
        assert!(!choosers.kept.borrow().contains_key(&watched(0)), "the one used least recently");
    }
}
