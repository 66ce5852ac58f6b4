//! The ejections of all services: the records that views share, the status, and the listeners.
//!
//! Ejections happen in the threads of callers, under a lock of the service. They are reported by a channel to the
//! Registry's thread, which counts, logs and notifies; a caller never waits for that.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    sync::{Arc, Weak as WeakArc},
};

use slog::{info, warn, Logger};
use tokio::sync::mpsc;

use super::watchers::Watchers;
use crate::{
    discovery::view::{CallTotals, EjectionChanged, EjectionReports, EjectionStatus, ServiceRecords},
    model::service::ServiceName,
    runtime::history::{History, RegistryEventKind},
};

/// The ejections of all services that have views.
pub(crate) struct Ejections {
    /// The records of a service end with its last subscription. The entry stays until the map would grow, so there are
    /// never more entries than about twice the most services that were watched at the same time.
    records: RefCell<HashMap<ServiceName, WeakArc<ServiceRecords>>>,
    /// The channel by which records report from any thread.
    reports: EjectionReports,
    reported: tokio::sync::Mutex<mpsc::UnboundedReceiver<EjectionChanged>>,
    pub(super) watchers: Watchers<EjectionChanged>,
    /// The number of ejections so far.
    total: Cell<u64>,
}

impl Default for Ejections {
    fn default() -> Self {
        let (reports, reported) = mpsc::unbounded_channel();
        let reported = tokio::sync::Mutex::new(reported);
        Ejections { records: RefCell::default(), reports, reported, watchers: Watchers::default(), total: Cell::new(0) }
    }
}

impl Ejections {
    /// Returns the records that all subscriptions of this service share.
    pub(super) fn records(&self, service: &ServiceName) -> Arc<ServiceRecords> {
        let mut records = self.records.borrow_mut();
        if let Some(living) = records.get(service).and_then(WeakArc::upgrade) {
            return living;
        }
        if records.len() == records.capacity() {
            // Before the map grows, drop services that have no views any more.
            records.retain(|_, records| records.strong_count() > 0);
        }
        let new = ServiceRecords::new(service.clone(), Some(self.reports.clone()));
        records.insert(service.clone(), Arc::downgrade(&new));
        new
    }

    pub(super) fn total(&self) -> u64 {
        self.total.get()
    }

    /// The calls of each service, in the order of the names.
    pub(super) fn calls(&self) -> Vec<CallTotals> {
        let records = self.records.borrow();
        let mut calls: Vec<_> =
            records.values().filter_map(WeakArc::upgrade).filter_map(|records| records.call_totals()).collect();
        calls.sort_unstable_by(|one, other| one.service.cmp(&other.service));
        calls
    }

    pub(super) fn status(&self) -> Vec<EjectionStatus> {
        self.records.borrow().values().filter_map(WeakArc::upgrade).flat_map(|records| records.ejections()).collect()
    }

    /// Logs every ejection and queues it for the listeners, for ever.
    pub(super) async fn report(self: Rc<Self>, history: Arc<History>, log: Logger) {
        let mut reported = self.reported.lock().await;
        while let Some(change) = reported.recv().await {
            self.watchers.queue(|| change.clone());
            self.total.set(self.total() + u64::from(change.ejected_for.is_some()));
            record(&history, &change);
            let EjectionChanged { instance, ejected_for, times, .. } = &change;
            match ejected_for {
                Some(time) => {
                    let seconds = time.as_secs_f64();
                    warn!(log, "ejected instance"; "instance" => %instance, "seconds" => seconds, "times" => times);
                }
                None => info!(log, "instance no longer ejected"; "instance" => %instance),
            }
        }
    }
}

fn record(history: &History, change: &EjectionChanged) {
    let kind = match change.ejected_for {
        Some(_) => RegistryEventKind::InstanceEjected,
        None => RegistryEventKind::InstanceReadmitted,
    };
    history.record(kind, |event| {
        event.instance = Some(change.instance.clone());
        event.reason = change.ejected_for.map(|time| format!("for {} s", time.as_secs()));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_that_are_no_longer_watched_do_not_pile_up() {
        let ejections = Ejections::default();
        let watch = |number: u32| ejections.records(&ServiceName::parse(&format!("orders-{number}")).unwrap());
        let lasting: Vec<_> = (0..10).map(watch).collect();
        (10..1000).for_each(|number| drop(watch(number)));
        let entries = ejections.records.borrow().len();
        assert!((lasting.len()..=2 * lasting.len()).contains(&entries), "{entries}");
    }

    #[test]
    fn the_views_of_one_registry_share_records_and_budget_and_those_of_two_do_not() {
        let (ours, theirs) = (Ejections::default(), Ejections::default());
        let service = |name: &str| ServiceName::parse(name).unwrap();
        let records = ours.records(&service("orders"));
        assert!(Arc::ptr_eq(&records, &ours.records(&service("orders"))));
        assert!(!Arc::ptr_eq(&records, &ours.records(&service("SHOP@@orders"))));
        assert!(!Arc::ptr_eq(&records, &theirs.records(&service("orders"))), "it may be another namespace");
    }
}
