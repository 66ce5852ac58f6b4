//! The views that [`Choose`](super::Choose) messages choose from.
//!
//! Actors that only send messages keep no view themselves. So the Registry keeps the views, one per service and
//! selection, and drops the least recently used views.

use std::{cell::RefCell, collections::HashMap, rc::Rc, time::Duration};

use actix_rt::time::{sleep, Instant};

use crate::discovery::{
    subscription::SubscriptionKey,
    view::{Selection, ServiceView},
};

/// How long a service is watched after the last message about it.
const IDLE_LIMIT: Duration = Duration::from_secs(600);
const IDLE_CHECK_INTERVAL: Duration = Duration::from_secs(60);
/// How many selections of one service are kept. Without a limit, messages that each have a new predicate would add up.
const MOST_SELECTIONS: usize = 16;
/// How many services are watched for messages.
const MOST_SERVICES: usize = 1_000;

/// The views of recent messages.
///
/// The limits bound what messages with ever new services or predicates can cost.
#[derive(Default)]
pub(crate) struct Choosers {
    kept: RefCell<HashMap<SubscriptionKey, Vec<Chooser>>>,
}

struct Chooser {
    view: ServiceView,
    used: Instant,
}

impl Choosers {
    pub(super) fn find(&self, watched: &SubscriptionKey, selection: &Selection) -> Option<ServiceView> {
        let mut kept = self.kept.borrow_mut();
        let chooser = kept.get_mut(watched)?.iter_mut().find(|chooser| chooser.view.selection() == selection)?;
        chooser.used = Instant::now();
        Some(chooser.view.clone())
    }

    /// Keeps the view, unless another message has kept an equal one meanwhile. Returns the view that is kept.
    pub(super) fn keep(&self, watched: SubscriptionKey, view: ServiceView) -> ServiceView {
        if let Some(kept) = self.find(&watched, view.selection()) {
            return kept;
        }
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
        choosers.push(Chooser { view: view.clone(), used: Instant::now() });
        view
    }

    /// Stops watching each service for which there was no message for [`IDLE_LIMIT`]. Never ends.
    pub(super) async fn forget_idle_in_time(self: Rc<Self>) {
        loop {
            sleep(IDLE_CHECK_INTERVAL).await;
            self.forget_idle();
        }
    }

    fn forget_idle(&self) {
        self.kept.borrow_mut().retain(|_, choosers| {
            choosers.retain(|chooser| chooser.used.elapsed() < IDLE_LIMIT);
            !choosers.is_empty()
        });
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
    async fn a_service_without_messages_is_forgotten() {
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
    async fn messages_that_come_at_once_keep_one_view() {
        let choosers = Choosers::default();
        for _ in 0..2 {
            choosers.keep(watched(1), view(1, Selection::default()));
        }
        assert_eq!(choosers.kept.borrow()[&watched(1)].len(), 1);
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
