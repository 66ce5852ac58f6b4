//! The ejections of all services: the records that views share, the status, and the listeners.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::{Rc, Weak},
    sync::{Arc, Weak as WeakArc},
};

use actix::{Context, Handler, Message, Recipient, ResponseFuture, WeakRecipient};
use slog::{info, warn};
use tokio::sync::mpsc;

use super::{actor::Registry, shared::Shared, watchers::Watchers};
use crate::{
    discovery::{
        listeners::Listener,
        view::{CallTotals, EjectionChanged, EjectionReports, EjectionStatus, ServiceRecords},
    },
    error::{Error, Operation},
    model::service::ServiceName,
    runtime::history::RegistryEventKind,
};

/// Notifies `listener` whenever an instance of any service is ejected, or its ejection ends ([`EjectionChanged`]).
///
/// The same listener watching twice is notified once, and kept alive if one of the two is not
/// [`weak`](WatchEjections::weak). A listener that falls more than 1,024 changes behind misses some;
/// [`GetStatus`](super::GetStatus) lists all ejected instances. A listener that has stopped is forgotten.
/// [`UnwatchEjections`] ends the notifications of a running one.
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

/// Ends the notifications of [`WatchEjections`], for one listener or for all. An unknown listener is no error.
///
/// # Errors
/// Only [`Error::Stopped`].
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct UnwatchEjections {
    listener: Option<Recipient<EjectionChanged>>,
}

impl UnwatchEjections {
    /// Ends the notifications of this listener, whether it is kept alive or not.
    pub fn new(listener: Recipient<EjectionChanged>) -> Self {
        UnwatchEjections { listener: Some(listener) }
    }

    /// Ends the notifications of all listeners.
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

/// The ejections of all services that have views.
pub(crate) struct Ejections {
    records: RefCell<HashMap<ServiceName, WeakArc<ServiceRecords>>>,
    /// The channel by which records report from any thread.
    reports: EjectionReports,
    reported: Rc<tokio::sync::Mutex<mpsc::UnboundedReceiver<EjectionChanged>>>,
    watchers: Watchers<EjectionChanged>,
    /// The number of ejections so far.
    total: Cell<u64>,
}

impl Default for Ejections {
    fn default() -> Self {
        let (reports, reported) = mpsc::unbounded_channel();
        let reported = Rc::new(tokio::sync::Mutex::new(reported));
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
}

/// Logs every ejection and queues it for the listeners, until the Registry ends.
pub(super) async fn report_ejections(shared: Weak<Shared>) {
    let Some(reported) = shared.upgrade().map(|shared| shared.ejections.reported.clone()) else { return };
    let mut reported = reported.lock().await;
    while let Some(change) = reported.recv().await {
        let Some(shared) = shared.upgrade() else { return };
        shared.ejections.watchers.queue(&change);
        shared.ejections.total.set(shared.ejections.total() + u64::from(change.ejected_for.is_some()));
        shared.record_ejection(&change);
        let EjectionChanged { instance, ejected_for, times, .. } = &change;
        match ejected_for {
            Some(time) => {
                let seconds = time.as_secs_f64();
                warn!(shared.log, "ejected instance"; "instance" => %instance, "seconds" => seconds, "times" => times);
            }
            None => info!(shared.log, "instance no longer ejected"; "instance" => %instance),
        }
    }
}

impl Shared {
    fn record_ejection(&self, change: &EjectionChanged) {
        let kind = match change.ejected_for {
            Some(_) => RegistryEventKind::InstanceEjected,
            None => RegistryEventKind::InstanceReadmitted,
        };
        self.history.record(kind, |event| {
            event.instance = Some(change.instance.clone());
            event.reason = change.ejected_for.map(|time| format!("for {} s", time.as_secs()));
        });
    }
}
