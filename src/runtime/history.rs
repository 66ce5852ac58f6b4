//! The recent events and list changes of a Registry, for the status and its page.
//!
//! Two ring buffers of 100 entries each, so the memory is bounded. The log has more, but may not be at hand. Any thread
//! may record, under a lock that is held for one entry.

use std::{
    cell::LazyCell,
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use actix_rt::time::Instant;
use serde::{Serialize, Serializer};
use tokio::sync::watch;

use crate::model::{
    change::Source,
    instance::{Instance, InstanceKey},
    service::{Difference, ServiceName},
};

/// The number of events that are kept, and the number of list changes.
const CAPACITY: usize = 100;

/// Events of instances and services may come by the thousand. Events of one kind that follow each other within this
/// time are counted as one event.
const COUNTED_WITHIN: Duration = Duration::from_secs(10);
/// Events of one server are rarer, and may go on for days. Those of one kind and one server that follow each other
/// within this time are counted as one event, so that a server that comes and goes pushes out no other event.
const COUNTED_WITHIN_OF_SERVER: Duration = Duration::from_secs(5 * 60);
/// The longest time that one event stands for. After that a new event begins.
const LONGEST_EVENT: Duration = Duration::from_secs(60 * 60);

/// The number of instances that a list change names for each kind of change.
const NAMED_INSTANCES: usize = 5;

/// An event that an operator may want to know about afterwards.
///
/// [`RegistryStatus::events`](crate::RegistryStatus::events) contains the last 100 events.
///
/// ```
/// # use actix_nacos::{embedded::EmbeddedServer, prelude::*};
/// # #[actix::main]
/// # async fn main() -> Result<(), Error> {
/// # let server = EmbeddedServer::start().unwrap();
/// # let registry = Registry::start(Config::new(server.server_address()))?;
/// for event in registry.send(GetStatus).await??.events {
///     println!("{:?} {:?} x{} {:?}", event.at, event.kind, event.count, event.reason);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct RegistryEvent {
    /// The number of the event, counted from 1 per Registry.
    pub number: u64,
    /// When the event happened. The time of the first event if several are counted as one. Serialises as milliseconds
    /// since 1970, with the key `at_unix_ms`.
    #[serde(rename = "at_unix_ms", serialize_with = "unix_millis")]
    pub at: SystemTime,
    /// The kind of the event.
    pub kind: RegistryEventKind,
    /// When the event last happened. Equals `at` unless several events are counted as one. Serialises as milliseconds
    /// since 1970, with the key `last_at_unix_ms`.
    #[serde(rename = "last_at_unix_ms", serialize_with = "unix_millis")]
    pub last_at: SystemTime,
    /// The number of events that are counted as this one. Events of instances and services that follow each other
    /// within 10 s are counted as one event, which names the first instance or service. So are events of the same
    /// server within 5 minutes. After an hour a new event begins.
    pub count: u64,
    /// The server, as `host:port`.
    pub server: Option<String>,
    /// The service.
    pub service: Option<ServiceName>,
    /// The instance.
    pub instance: Option<InstanceKey>,
    /// The error, or another reason for the event.
    pub reason: Option<String>,
}

/// The kind of a [`RegistryEvent`]. Serialises in snake case (`"epoch_began"`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RegistryEventKind {
    /// The server in use may have forgotten its instances. All instances are registered again, and all lists are
    /// polled.
    EpochBegan,
    /// A server no longer answers.
    ServerLost,
    /// A server that was lost answers again.
    ServerBack,
    /// The servers reject a registration or a heartbeat.
    InstanceRejected,
    /// A server has forgotten an instance, or the instance's heartbeats have failed for too long.
    InstanceLost,
    /// An instance was registered again instead of its next heartbeat.
    InstanceRegisteredAgain,
    /// A list lacks instances after a change or restart of the server. These instances are withheld from removal.
    InstancesWithheld,
    /// Calls to an instance failed, so it is not chosen for a while.
    InstanceEjected,
    /// An instance that was ejected is chosen again.
    InstanceReadmitted,
}

impl RegistryEventKind {
    /// Whether the event is one of a server, and not of an instance or a service.
    fn is_of_server(self) -> bool {
        matches!(self, RegistryEventKind::EpochBegan | RegistryEventKind::ServerLost | RegistryEventKind::ServerBack)
    }
}

/// A change of a watched service's list.
///
/// [`RegistryStatus::changes`](crate::RegistryStatus::changes) contains the last 100 changes.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ListChange {
    /// The number of the change, counted from 1 over all lists of the Registry.
    pub number: u64,
    /// When the list was received. Serialises as milliseconds since 1970, with the key `at_unix_ms`.
    #[serde(rename = "at_unix_ms", serialize_with = "unix_millis")]
    pub at: SystemTime,
    /// The service.
    pub service: ServiceName,
    /// How the list was obtained.
    pub source: Source,
    /// Instances that were not in the list before.
    pub added: ChangedInstances,
    /// Instances whose values changed.
    pub changed: ChangedInstances,
    /// Instances that are no longer in the list.
    pub removed: ChangedInstances,
}

/// The instances of one list that changed in the same way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ChangedInstances {
    /// The number of instances.
    pub count: usize,
    /// The first five instances, as `ip:port`.
    pub first: Vec<String>,
}

impl ChangedInstances {
    fn of<'a>(instances: impl ExactSizeIterator<Item = &'a Arc<Instance>>) -> Self {
        let count = instances.len();
        ChangedInstances {
            count,
            first: instances.take(NAMED_INSTANCES).map(|instance| instance.authority()).collect(),
        }
    }
}

fn unix_millis<S: Serializer>(at: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    serializer.serialize_u64(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// The progress of a history. Readers wait for another value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Increases with every change.
    pub(crate) version: u64,
    /// Whether the Registry has ended, so that nothing more will happen.
    pub(crate) has_ended: bool,
}

/// The recent events and list changes of one Registry. Any thread may record.
#[derive(Debug)]
pub(crate) struct History {
    rings: Mutex<Rings>,
    progress: watch::Sender<Progress>,
}

#[derive(Debug, Default)]
struct Rings {
    events: VecDeque<Recorded>,
    changes: VecDeque<ListChange>,
    events_so_far: u64,
    changes_so_far: u64,
}

/// An event, with monotonic times, which changes of the system clock do not affect.
#[derive(Debug)]
struct Recorded {
    first: Instant,
    last: Instant,
    event: RegistryEvent,
}

impl Recorded {
    /// Whether an event of this kind that happens now is counted as this one. `server` is the server of the new event.
    fn counts<'a>(&self, kind: RegistryEventKind, server: impl FnOnce() -> &'a Option<String>, now: Instant) -> bool {
        let within = if kind.is_of_server() { COUNTED_WITHIN_OF_SERVER } else { COUNTED_WITHIN };
        self.event.kind == kind
            && now - self.last < within
            && now - self.first < LONGEST_EVENT
            && (!kind.is_of_server() || self.event.server == *server())
    }
}

impl History {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(History { rings: Mutex::default(), progress: watch::channel(Progress::default()).0 })
    }

    /// Records an event. `describe` completes the event. It is not called for an event of an instance or a service that
    /// is only counted, because thousands of them may come at once.
    pub(crate) fn record(&self, kind: RegistryEventKind, describe: impl FnOnce(&mut RegistryEvent)) {
        let (now, at) = (Instant::now(), SystemTime::now());
        let new = LazyCell::new(|| {
            let (server, service, instance, reason) = (None, None, None, None);
            let (number, last_at, count) = (0, at, 1);
            let mut event = RegistryEvent { number, at, last_at, kind, count, server, service, instance, reason };
            describe(&mut event);
            event
        });
        let mut rings = self.rings();
        if let Some(known) = rings.events.iter_mut().rev().find(|known| known.counts(kind, || &new.server, now)) {
            known.last = now;
            known.event.last_at = at;
            known.event.count += 1;
        } else {
            rings.events_so_far += 1;
            let event = RegistryEvent { number: rings.events_so_far, ..new.clone() };
            push(&mut rings.events, Recorded { first: now, last: now, event });
        }
        drop(rings);
        self.note_change();
    }

    /// Records a list change, if any instance changed.
    pub(crate) fn record_change(&self, service: &ServiceName, source: Source, difference: &Difference) {
        if difference.is_empty() {
            return self.note_change();
        }
        let mut rings = self.rings();
        rings.changes_so_far += 1;
        let change = ListChange {
            number: rings.changes_so_far,
            at: SystemTime::now(),
            service: service.clone(),
            source,
            added: ChangedInstances::of(difference.added.iter()),
            changed: ChangedInstances::of(difference.changed.iter().map(|(_, now)| now)),
            removed: ChangedInstances::of(difference.removed.iter()),
        };
        push(&mut rings.changes, change);
        drop(rings);
        self.note_change();
    }

    /// Notes a change that is not an event.
    pub(crate) fn note_change(&self) {
        self.progress.send_modify(|progress| progress.version += 1);
    }

    /// Notes that the Registry has ended.
    pub(crate) fn end(&self) {
        self.progress.send_modify(|progress| progress.has_ended = true);
    }

    /// A receiver of the progress. Changes in quick succession are merged.
    #[cfg(feature = "actix-web")]
    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// The recent events, the oldest first.
    pub(crate) fn events(&self) -> Vec<RegistryEvent> {
        self.rings().events.iter().map(|known| known.event.clone()).collect()
    }

    /// The recent list changes, the oldest first.
    pub(crate) fn changes(&self) -> Vec<ListChange> {
        self.rings().changes.iter().cloned().collect()
    }

    fn rings(&self) -> MutexGuard<'_, Rings> {
        self.rings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn push<T>(ring: &mut VecDeque<T>, entry: T) {
    if ring.len() == CAPACITY {
        ring.pop_front();
    }
    ring.push_back(entry);
}

#[cfg(test)]
mod tests {
    use actix_rt::time::sleep;

    use super::*;

    fn list(ports: std::ops::Range<u16>) -> Vec<Arc<Instance>> {
        ports.map(|port| Arc::new(Instance::new("127.0.0.7", port))).collect()
    }

    fn record(history: &History, kind: RegistryEventKind, reason: &str) {
        history.record(kind, |event| event.reason = Some(reason.into()));
    }

    fn record_of(history: &History, kind: RegistryEventKind, server: &str) {
        history.record(kind, |event| event.server = Some(server.into()));
    }

    #[test]
    fn the_last_hundred_events_are_kept_in_order() {
        let history = History::new();
        for number in 1..=250 {
            record_of(&history, RegistryEventKind::EpochBegan, &number.to_string());
        }
        let events = history.events();
        let numbers: Vec<u64> = events.iter().map(|event| event.number).collect();
        assert_eq!(numbers, (151..=250).collect::<Vec<_>>());
        assert_eq!(events[0].server.as_deref(), Some("151"));
    }

    #[actix::test]
    async fn a_server_that_comes_and_goes_for_a_day_removes_no_other_event() {
        tokio::time::pause();
        let history = History::new();
        record(&history, RegistryEventKind::InstanceRejected, "before");
        record_of(&history, RegistryEventKind::ServerLost, "another");
        for _ in 0..24 * 60 {
            sleep(Duration::from_secs(60)).await;
            record_of(&history, RegistryEventKind::ServerLost, "flapping");
            record_of(&history, RegistryEventKind::ServerBack, "flapping");
        }
        let events = history.events();
        assert_eq!(events[0].reason.as_deref(), Some("before"));
        assert_eq!(events[1].server.as_deref(), Some("another"));
        assert_eq!(events.len(), 2 + 2 * 24);
        assert_eq!(events.iter().map(|event| event.count).sum::<u64>(), 2 + 2 * 24 * 60);
        assert!(events[2].count == 60 && events[2].last_at >= events[2].at);
    }

    #[actix::test]
    async fn a_thousand_lost_instances_are_one_event_and_remove_no_other() {
        tokio::time::pause();
        let history = History::new();
        record(&history, RegistryEventKind::ServerLost, "refused");
        for number in 0..1000 {
            record(&history, RegistryEventKind::InstanceLost, &number.to_string());
            record(&history, RegistryEventKind::InstanceRegisteredAgain, "");
        }
        sleep(COUNTED_WITHIN).await;
        record(&history, RegistryEventKind::InstanceLost, "later");
        let events: Vec<_> = history.events().into_iter().map(|event| (event.count, event.reason.unwrap())).collect();
        let events: Vec<_> = events.iter().map(|(count, reason)| (*count, reason.as_str())).collect();
        assert_eq!(events, [(1, "refused"), (1000, "0"), (1000, ""), (1, "later")]);
    }

    #[test]
    fn a_change_of_ten_thousand_instances_names_the_first_five() {
        let history = History::new();
        let service = ServiceName::parse("orders").unwrap();
        let difference = Difference { added: list(1..10_001), ..Difference::default() };
        history.record_change(&service, Source::Push, &difference);
        history.record_change(&service, Source::Poll, &Difference::default());
        let changes = history.changes();
        assert_eq!(changes.len(), 1, "what is no change of an instance is none");
        assert_eq!((changes[0].added.count, changes[0].added.first.len()), (10_000, 5));
        assert_eq!(changes[0].added.first[0], "127.0.0.7:1");
    }

    #[test]
    fn times_are_serialised_as_milliseconds_since_1970() {
        let history = History::new();
        history.record(RegistryEventKind::ServerBack, |event| {
            event.at = UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        });
        let json = serde_json::to_value(history.events()).unwrap();
        assert_eq!(json[0]["at_unix_ms"], 1_700_000_000_123_u64);
        assert_eq!(json[0]["kind"], "server_back");
    }

    #[test]
    fn every_kind_of_change_wakes_a_waiting_reader() {
        let history = History::new();
        let mut progress = history.progress.subscribe();
        let mut has_changed =
            || std::mem::take(&mut progress.has_changed().unwrap()) && progress.borrow_and_update().version > 0;
        assert!(!has_changed());
        record(&history, RegistryEventKind::EpochBegan, "");
        assert!(has_changed());
        history.note_change();
        assert!(has_changed());
        history.end();
        assert!(history.progress.borrow().has_ended);
    }
}
