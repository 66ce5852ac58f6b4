//! Ejection: an instance whose calls fail is not chosen for a while.
//!
//! All views of a service share one [`Record`] per instance, which outlives the lists. Calls read and write records
//! without a lock. Changes of lists, and ejections, take a lock; both are rare.
//!
//! The path of an ejection: [`Record::count_failure`] counts failures in a row, [`ServiceRecords::call_failed`] decides
//! by the view's [`Eject`], and `eject` sets the record's time. When the time is over, [`Record::admit`] makes one call
//! the probe.
//!
//! | event | what changes |
//! |---|---|
//! | the n-th failure in a row | ejected for `base`, if the share of ejected instances allows it |
//! | the time is over | nothing yet: the next call is the probe, and other calls still leave the instance out |
//! | the probe succeeds | the instance is back; its failures are forgotten |
//! | the probe fails | ejected again, for twice as long, up to `longest` |
//! | the probe is cancelled, or takes more than 30 s | the next call may be the probe |
//! | the instance leaves the list | the ejection ends; its history is kept for 10 s, in case it comes back |
//!
//! A stale list ends no ejection. An instance that a stale list lacks counts as gone only when a server confirms that
//! list.
//!
//! Ejections are local to one Registry. Nacos and other processes do not learn of them.

use std::{
    cmp,
    collections::HashMap,
    fmt,
    hash::{Hash, Hasher},
    sync::{
        atomic::{AtomicU64, AtomicUsize, Ordering},
        Arc, Mutex, MutexGuard, PoisonError, Weak,
    },
    time::Duration,
};

use actix::Message;
use actix_rt::time::Instant;
use serde::Serialize;
use tokio::sync::mpsc;

use super::{
    budget::Budget,
    record::{EndedCalls, Record},
};
use crate::model::{
    instance::{Instance, InstanceKey},
    service::ServiceName,
};

/// The history of an instance is dropped this long after the instance left the list.
const MEMORY_AFTER_LEAVING: Duration = Duration::from_secs(10);
/// Upper bound for every ejection; a longer one would overflow `Instant`.
const LONGEST_EJECTION: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// When failed calls eject an instance, and for how long.
///
/// ```
/// use std::time::Duration;
///
/// use actix_nacos::Eject;
///
/// // The default.
/// let eject = Eject::consecutive(5).base(Duration::from_secs(30)).longest(Duration::from_secs(300)).max_share(0.5);
/// assert_eq!(eject, Eject::default());
/// ```
///
/// An instance may be listed as healthy and still fail every call: its heartbeats come from another thread than its
/// answers. Nacos notices only missing heartbeats, after 15 s. Ejection notices by the calls themselves.
///
/// Lower the number of failures if a failed call is expensive. Raise it if calls fail for reasons that have nothing to
/// do with the instance.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Eject {
    pub(super) failures: u32,
    pub(super) base: Duration,
    pub(super) longest: Duration,
    pub(super) max_share: f64,
}

impl Default for Eject {
    fn default() -> Self {
        Eject::consecutive(5)
    }
}

impl Eject {
    /// Ejects an instance after this many failed calls in a row, counted over all views of the Registry. 0 is the same
    /// as [`never`](Eject::never). Default: 5.
    ///
    /// A single success between two failures sets the count back to 0, so an instance that fails half of its calls is
    /// seldom ejected. Lower the number to eject such an instance.
    pub fn consecutive(failures: u32) -> Self {
        Eject { failures, base: Duration::from_secs(30), longest: Duration::from_secs(300), max_share: 0.5 }
    }

    /// Failed calls of this view eject no instance. Instances that other views ejected are still left out.
    ///
    /// Use it for calls whose failures say nothing about the instance.
    pub fn never() -> Self {
        Eject::consecutive(0)
    }

    /// How long the first ejection lasts. The time doubles with each further ejection, and halves for each `base` that
    /// passes without an ejection. Default: 30 s.
    ///
    /// The probe needs a call: without calls an ejection lasts until the next call.
    #[must_use]
    pub fn base(mut self, time: Duration) -> Self {
        self.base = time;
        self
    }

    /// How long an ejection lasts at most. Default: 300 s.
    ///
    /// Capped at a year.
    #[must_use]
    pub fn longest(mut self, time: Duration) -> Self {
        self.longest = time;
        self
    }

    /// The share of a view's instances that may be ejected at the same time, from 0 to 1. One instance may always be
    /// ejected, and the last one never is. Default: 0.5.
    ///
    /// The limit prevents that a failure of the network or of a shared database ejects most instances, and sends all
    /// calls to the few that are left. The share is counted among the callable instances of the view whose call failed.
    #[must_use]
    pub fn max_share(mut self, share: f64) -> Self {
        self.max_share = share;
        self
    }

    /// With 5 failures: at the 5th, 10th, 15th and so on.
    fn is_due(&self, failures: u32) -> bool {
        // An instance that may not be ejected now is considered again after as many further failures.
        self.failures > 0 && failures >= self.failures && failures.is_multiple_of(self.failures)
    }

    /// How many of `instances` may be ejected at the same time.
    fn limit(&self, instances: usize) -> usize {
        let share = (instances as f64 * self.max_share.clamp(0.0, 1.0)) as usize;
        share.max(1).min(instances.saturating_sub(1))
    }
}

/// The calls of a service that views of this Registry began, since the first view of the service. The counts start
/// again at 0 when no view of the service is left.
///
/// [`RegistryStatus::calls`](crate::RegistryStatus::calls) has one for each service. Outcomes count when the call
/// ends.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct CallTotals {
    /// The service.
    pub service: ServiceName,
    /// Calls that succeeded.
    pub succeeded: u64,
    /// Calls that failed.
    pub failed: u64,
    /// Calls that were dropped without an outcome, even those that lasted longer than
    /// [`slow_after`](crate::Selection::slow_after).
    pub cancelled: u64,
    /// How often an instance was chosen for a retry, that is with instances to exclude.
    pub retries: u64,
}

/// An instance that is ejected, because its calls failed.
///
/// [`RegistryStatus::ejections`](crate::RegistryStatus::ejections) lists them all.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct EjectionStatus {
    /// The instance.
    pub instance: InstanceKey,
    /// Milliseconds until the next call is the probe. 0 while the probe is awaited or under way.
    pub ends_in_ms: u64,
    /// How often the instance was ejected since it appeared in the list.
    pub times: u32,
}

/// Notifies a listener that an instance was ejected, or that its ejection ended.
///
/// [`WatchEjections`](crate::WatchEjections) subscribes to it. Messages about one instance arrive in order.
#[derive(Debug, Clone, PartialEq, Message)]
#[rtype(result = "()")]
#[non_exhaustive]
pub struct EjectionChanged {
    /// The instance.
    pub instance: InstanceKey,
    /// How long the instance is ejected. `None` when the ejection ended, or the instance left the list.
    pub ejected_for: Option<Duration>,
    /// How often the instance was ejected since it appeared in the list.
    pub times: u32,
}

impl EjectionChanged {
    /// Creates the message, for tests of listeners.
    pub fn new(instance: InstanceKey, ejected_for: Option<Duration>) -> Self {
        EjectionChanged { instance, ejected_for, times: 1 }
    }
}

/// The calls of one instance, by all views together.
///
/// The status page shows it beside each instance.
#[cfg(feature = "actix-web")]
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct CallStatus {
    pub(crate) in_flight: u32,
    /// `None` if no view measures it.
    pub(crate) latency: Option<Duration>,
    pub(crate) is_ejected: bool,
}

/// The channel that ejections are reported to.
pub(crate) type EjectionReports = mpsc::UnboundedSender<EjectionChanged>;

/// The records of one service's instances. All views of a Registry share them. Another Registry has its own: it may use
/// another namespace, where the same name is another service.
pub(crate) struct ServiceRecords {
    service: ServiceName,
    origin: Instant,
    /// The number of ejected instances. It changes only under the lock of `known`.
    ejected: AtomicUsize,
    retries: AtomicU64,
    pub(super) retry_budget: Budget,
    known: Mutex<Known>,
    reports: Option<EjectionReports>,
}

/// The lists of one subscription of the service.
pub(super) trait Listing: Send + Sync {
    /// Whether the current list has this instance.
    fn lists_instance(&self, instance: &Instance) -> bool;

    /// How many instances the current list has.
    fn listed(&self) -> usize;

    /// Called when the first instance of the service is ejected, and when the last one is back.
    fn note_ejections(&self, any_ejected: bool);
}

/// An instance that was called, with the record that the call was counted in.
#[derive(Clone, Copy)]
pub(super) struct Called<'a> {
    pub(super) instance: &'a Arc<Instance>,
    pub(super) record: &'a Arc<Record>,
}

#[derive(Default)]
struct Known {
    /// The instances that can be called, from the lists of views that have begun a call.
    histories: HashMap<Identity, History>,
    /// The instances that left the list a short time ago.
    departed: HashMap<Identity, Departed>,
    sources: Vec<Weak<dyn Listing>>,
    /// The calls of instances that are forgotten.
    forgotten_calls: EndedCalls,
}

/// Identifies an instance within its service: cluster, ip and port.
struct Identity(Arc<Instance>);

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        self.0.key_in_service() == other.0.key_in_service()
    }
}

impl Eq for Identity {}

impl Hash for Identity {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.key_in_service().hash(state);
    }
}

struct History {
    record: Arc<Record>,
    growth: Growth,
}

struct Departed {
    history: History,
    left: Instant,
}

/// Decides how long the next ejection lasts.
#[derive(Debug, Clone, Copy, Default)]
struct Growth {
    times: u32,
    doublings: u32,
    /// The end of the last ejection.
    ended: Option<Instant>,
}

impl Growth {
    /// Returns how long the ejection that begins now lasts.
    fn next(&mut self, settings: &Eject, now: Instant) -> Duration {
        let (base, longest) = (settings.base, settings.longest.min(LONGEST_EJECTION));
        let quiet = self.ended.map_or(Duration::ZERO, |ended| now.saturating_duration_since(ended));
        let decay = quiet.as_nanos() / base.as_nanos().max(1);
        self.doublings = self.doublings.saturating_sub(u32::try_from(decay).unwrap_or(u32::MAX));
        let time = base.saturating_mul(2u32.saturating_pow(self.doublings)).min(longest);
        self.times = self.times.saturating_add(1);
        self.doublings = self.doublings.saturating_add(1);
        self.ended = Some(now + time);
        time
    }
}

impl ServiceRecords {
    pub(crate) fn new(service: ServiceName, reports: Option<EjectionReports>) -> Arc<Self> {
        let (ejected, retries, known) = (AtomicUsize::new(0), AtomicU64::new(0), Mutex::default());
        let (origin, retry_budget) = (Instant::now(), Budget::new());
        Arc::new(ServiceRecords { service, origin, ejected, retries, retry_budget, known, reports })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Nothing under the lock can panic, so a poisoned lock is still consistent.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add_source(&self, source: &Arc<dyn Listing>) {
        let mut known = self.known();
        known.sources.retain(|source| source.strong_count() > 0);
        known.sources.push(Arc::downgrade(source));
    }

    pub(super) fn any_ejected(&self) -> bool {
        self.ejected.load(Ordering::Relaxed) > 0
    }

    /// Calls `note` with whether any instance is ejected. The lock is held meanwhile, so that this cannot change.
    pub(super) fn with_ejections(&self, note: impl FnOnce(bool)) {
        let _unchanged = self.known();
        note(self.any_ejected());
    }

    fn count_ejected(&self, known: &Known) {
        if self.ejected.fetch_add(1, Ordering::Relaxed) == 0 {
            known.listings().for_each(|listing| listing.note_ejections(true));
        }
    }

    fn count_readmitted(&self, known: &Known) {
        if self.ejected.fetch_sub(1, Ordering::Relaxed) == 1 {
            known.listings().for_each(|listing| listing.note_ejections(false));
        }
    }

    /// Returns the records of these instances. Creates missing ones.
    pub(super) fn records<'a>(&self, instances: impl Iterator<Item = &'a Arc<Instance>>) -> Vec<Arc<Record>> {
        let mut known = self.known();
        known.forget_departed();
        instances.map(|instance| self.record(&mut known, instance)).collect()
    }

    fn record(&self, known: &mut Known, instance: &Arc<Instance>) -> Arc<Record> {
        let identity = Identity(instance.clone());
        if let Some(history) = known.histories.get(&identity) {
            return history.record.clone();
        }
        // An instance that comes back starts without an ejection. Calls from before it left still hold the old record.
        let before = known.departed.remove(&identity).map(|departed| departed.history);
        if let Some(before) = &before {
            known.forgotten_calls += before.record.ended_calls();
        }
        let record = Arc::new(Record::new(self.origin, before.as_ref().map(|before| &*before.record)));
        let growth = before.map(|before| before.growth).unwrap_or_default();
        known.histories.insert(identity, History { record: record.clone(), growth });
        record
    }

    /// Notes that instances have left: `before` has them, and the confirmed list `after` does not. Keeps the instances
    /// that another subscription of the service still lists. The history of the others is dropped soon.
    pub(super) fn left(&self, before: &[Arc<Instance>], after: &[Arc<Instance>]) {
        if self.known().histories.is_empty() {
            return;
        }
        let mut gone = Vec::new();
        walk(before, after, |old, new| {
            if let (Some(old), None) = (old, new) {
                gone.push(Identity(before[old].clone()));
            }
        });
        let sources: Vec<_> = self.known().listings().collect();
        gone.retain(|identity| !sources.iter().any(|source| source.lists_instance(&identity.0)));
        let mut known = self.known();
        let listed: usize = sources.iter().map(|source| source.listed()).sum();
        // Also drop other instances that no list has: ejected instances always, and all of them when there are many.
        // They were in a list that was never confirmed, was replaced meanwhile, or belonged to a subscription that has
        // ended.
        let are_many = known.histories.len() > 2 * listed + gone.len();
        let unlisted = known.histories.iter().filter(|(identity, history)| {
            (are_many || history.record.is_ejected())
                && !sources.iter().any(|source| source.lists_instance(&identity.0))
        });
        gone.extend(unlisted.map(|(identity, _)| Identity(identity.0.clone())).collect::<Vec<_>>());
        known.forget_departed();
        for identity in gone {
            let Some(history) = known.histories.remove(&identity) else { continue };
            if history.record.is_ejected() {
                history.record.readmit();
                self.count_readmitted(&known);
                self.report(&identity.0, None, history.growth.times);
            }
            known.departed.insert(identity, Departed { history, left: Instant::now() });
        }
    }

    // Outcomes.

    /// Decides whether the instance is ejected after this number of failures in a row. `count` returns how many
    /// instances can be called and how many of them are ejected.
    #[cold]
    pub(super) fn call_failed(
        &self,
        called: Called<'_>,
        failures: u32,
        settings: &Eject,
        count: impl FnOnce() -> Option<(usize, usize)>,
    ) {
        if called.record.is_ejected() || !settings.is_due(failures) {
            return;
        }
        let mut known = self.known();
        // Count under the lock, so that two threads do not eject the last two instances at the same time.
        let Some((all, ejected)) = count() else { return };
        if ejected < settings.limit(all) && !called.record.is_ejected() {
            self.eject(&mut known, called, settings);
        }
    }

    /// Begins an ejection, or the next one after a failed probe.
    fn eject(&self, known: &mut Known, called: Called<'_>, settings: &Eject) {
        // Skip an instance that is no longer listed. Nothing would end its ejection.
        let is_listed = known.listings().any(|listing| listing.lists_instance(called.instance));
        let now = Instant::now();
        let Some(history) = known.current(called).filter(|_| is_listed) else { return };
        let (time, times) = (history.growth.next(settings, now), history.growth.times);
        let is_first = !called.record.is_ejected();
        called.record.eject_until(now + time);
        if is_first {
            self.count_ejected(known);
        }
        self.report(called.instance, Some(time), times);
    }

    #[cold]
    pub(super) fn probe_failed(&self, called: Called<'_>, probe: u64, settings: &Eject) {
        let mut known = self.known();
        // A failed call during the ejection, when there was no other instance, does not prolong the ejection.
        let is_over = called.record.ejected_for(Instant::now()).is_some_and(|left| left.is_zero());
        if called.record.end_probe(probe) && is_over {
            self.eject(&mut known, called, settings);
        }
    }

    #[cold]
    pub(super) fn probe_succeeded(&self, called: Called<'_>, probe: u64) {
        let mut known = self.known();
        let is_the_probe = called.record.end_probe(probe);
        // If the probe took long, another call may have replaced it as the probe. Its success then counts once the
        // ejection's time is over.
        let is_over = called.record.ejected_for(Instant::now()).is_some_and(|left| left.is_zero());
        if !called.record.is_ejected() || !(is_the_probe || is_over) {
            return;
        }
        let Some(history) = known.current(called) else { return };
        history.growth.ended = Some(Instant::now());
        let times = history.growth.times;
        called.record.readmit();
        self.count_readmitted(&known);
        self.report(called.instance, None, times);
    }

    /// Ejects an instance regardless of its calls and of the share that is already ejected.
    pub(super) fn eject_now(&self, instance: &Arc<Instance>, time: Duration) {
        let mut known = self.known();
        let record = self.record(&mut known, instance);
        let is_first = !record.is_ejected();
        record.eject_until(Instant::now() + time.min(LONGEST_EJECTION));
        if is_first {
            self.count_ejected(&known);
        }
        self.report(instance, Some(time), 1);
    }

    fn report(&self, instance: &Instance, ejected_for: Option<Duration>, times: u32) {
        if let Some(reports) = &self.reports {
            let instance = InstanceKey::of(&self.service, instance);
            // The receiver is gone when the Registry has ended.
            let _ = reports.send(EjectionChanged { instance, ejected_for, times });
        }
    }

    pub(super) fn is_ejected(&self, instance: &Arc<Instance>) -> bool {
        let known = self.known();
        known.histories.get(&Identity(instance.clone())).is_some_and(|history| history.record.is_ejected())
    }

    /// Returns the state of the calls to each of these instances, and `None` for an instance without a record. Empty if
    /// no view has begun a call.
    #[cfg(feature = "actix-web")]
    pub(crate) fn calls(&self, instances: &[Arc<Instance>]) -> Vec<Option<CallStatus>> {
        let known = self.known();
        if known.histories.is_empty() {
            return Vec::new();
        }
        let record = |instance: &Arc<Instance>| Some(&known.histories.get(&Identity(instance.clone()))?.record);
        let of = |record: &Arc<Record>| CallStatus {
            in_flight: record.in_flight(),
            latency: record.mean_latency(),
            is_ejected: record.is_ejected(),
        };
        instances.iter().map(|instance| record(instance).map(of)).collect()
    }

    /// Counts a choice with instances to exclude.
    #[cold]
    pub(super) fn note_retry(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    /// The calls of all instances so far, including instances that have left. `None` if there was no call.
    pub(crate) fn call_totals(&self) -> Option<CallTotals> {
        let known = self.known();
        let departed = known.departed.values().map(|departed| &departed.history);
        let mut ended = known.forgotten_calls;
        known.histories.values().chain(departed).for_each(|history| ended += history.record.ended_calls());
        let EndedCalls { succeeded, failed, cancelled } = ended;
        let retries = self.retries.load(Ordering::Relaxed);
        let totals = CallTotals { service: self.service.clone(), succeeded, failed, cancelled, retries };
        (ended != EndedCalls::default() || retries > 0).then_some(totals)
    }

    pub(crate) fn ejections(&self) -> Vec<EjectionStatus> {
        if !self.any_ejected() {
            return Vec::new();
        }
        let now = Instant::now();
        let known = self.known();
        let ejected = known.histories.iter().filter_map(|(identity, history)| {
            let left = history.record.ejected_for(now)?;
            let instance = InstanceKey::of(&self.service, &identity.0);
            Some(EjectionStatus { instance, ends_in_ms: left.as_millis() as u64, times: history.growth.times })
        });
        ejected.collect()
    }
}

impl Known {
    fn forget_departed(&mut self) {
        let forgotten_calls = &mut self.forgotten_calls;
        self.departed.retain(|_, departed| {
            let is_remembered = departed.left.elapsed() < MEMORY_AFTER_LEAVING;
            if !is_remembered {
                *forgotten_calls += departed.history.record.ended_calls();
            }
            is_remembered
        });
    }

    /// Returns the history that this call belongs to. `None` if the instance has left the list since, even if it came
    /// back.
    fn current(&mut self, called: Called<'_>) -> Option<&mut History> {
        let history = self.histories.get_mut(&Identity(called.instance.clone()));
        history.filter(|history| Arc::ptr_eq(&history.record, called.record))
    }

    fn listings(&self) -> impl Iterator<Item = Arc<dyn Listing>> + '_ {
        self.sources.iter().filter_map(Weak::upgrade)
    }
}

/// Walks two ordered lists once, and calls `each` with the places of each instance in both.
pub(super) fn walk(old: &[Arc<Instance>], new: &[Arc<Instance>], mut each: impl FnMut(Option<usize>, Option<usize>)) {
    let (mut i, mut j) = (0, 0);
    while i < old.len() || j < new.len() {
        let order = match (old.get(i), new.get(j)) {
            (Some(_), None) => cmp::Ordering::Less,
            (None, _) => cmp::Ordering::Greater,
            (Some(before), Some(after)) if Arc::ptr_eq(before, after) => cmp::Ordering::Equal,
            (Some(before), Some(after)) => before.key_in_service().cmp(&after.key_in_service()),
        };
        each(order.is_le().then_some(i), order.is_ge().then_some(j));
        i += usize::from(order.is_le());
        j += usize::from(order.is_ge());
    }
}

impl fmt::Debug for ServiceRecords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceRecords").field("service", &self.service).field("ejected", &self.ejected).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Call, Policy, Selection, ServiceView, ViewControl, ViewWriter},
        *,
    };
    use crate::model::service::ServiceInfo;

    const SECOND: Duration = Duration::from_secs(1);

    fn service() -> ServiceName {
        ServiceName::parse("orders").unwrap()
    }

    fn instances(ports: std::ops::RangeInclusive<u16>) -> impl Iterator<Item = Instance> {
        ports.map(|port| Instance::new("127.0.0.1", port))
    }

    /// With a paused clock and instances at the ports 1, 2, and so on.
    fn paused(count: u16, change: impl FnOnce(Selection) -> Selection) -> (ServiceView, ViewControl) {
        tokio::time::pause();
        view_of(count, change)
    }

    fn view_of(count: u16, change: impl FnOnce(Selection) -> Selection) -> (ServiceView, ViewControl) {
        let (view, control) = ServiceView::controlled(service());
        control.publish(instances(1..=count));
        (view.with(change), control)
    }

    /// Begins a call of the instance at this port. `None` if the instance gets no calls.
    fn call(view: &ServiceView, port: u16) -> Option<Call> {
        let calls = if cfg!(miri) { 60 } else { 200 };
        (0..calls).map(|_| view.begin().unwrap()).find(|call| call.port == port)
    }

    fn fail(view: &ServiceView, port: u16, times: usize) {
        (0..times).for_each(|_| call(view, port).unwrap().failed());
    }

    fn ejected(view: &ServiceView) -> Vec<u16> {
        view.ejected().iter().map(|instance| instance.port).collect()
    }

    #[actix::test]
    async fn only_failures_in_a_row_eject_an_instance() {
        let (view, _control) = paused(3, |selection| selection);
        fail(&view, 1, 4);
        call(&view, 1).unwrap().succeeded();
        fail(&view, 1, 4);
        assert!(ejected(&view).is_empty());
        // The failures of another instance do not count for this one.
        fail(&view, 2, 1);
        fail(&view, 1, 1);
        assert_eq!(ejected(&view), [1]);
        assert!(call(&view, 1).is_none());
        let choices = if cfg!(miri) { 50 } else { 1000 };
        assert!((0..choices).all(|_| view.select_one().unwrap().port != 1), "nor does `select_one` choose it");
    }

    #[actix::test]
    async fn of_a_thousand_calls_that_overlap_no_more_than_ten_reach_a_failing_instance() {
        let (view, _control) = paused(3, |selection| selection.policy(Policy::WeightedRoundRobin));
        let mut under_way = std::collections::VecDeque::new();
        let mut reached = 0;
        for _ in 0..if cfg!(miri) { 100 } else { 1000 } {
            let call = view.begin().unwrap();
            reached += u32::from(call.port == 1);
            under_way.push_back(call);
            if under_way.len() > 10 {
                let call = under_way.pop_front().unwrap();
                if call.port == 1 {
                    call.failed()
                } else {
                    call.succeeded()
                }
            }
        }
        assert!((5..=10).contains(&reached), "{reached} calls reached it");
    }

    #[actix::test]
    async fn one_probe_decides_whether_an_instance_is_back() {
        let (view, _control) = paused(3, |selection| selection);
        fail(&view, 1, 5);
        tokio::time::advance(29 * SECOND).await;
        assert!(call(&view, 1).is_none());
        tokio::time::advance(SECOND).await;
        let probe = call(&view, 1).unwrap();
        assert!(probe.is_ejected());
        assert!(call(&view, 1).is_none(), "one probe at a time");
        drop(probe);
        let probe = call(&view, 1).expect("a cancelled probe is over");
        probe.succeeded();
        assert!(ejected(&view).is_empty());
        assert!(!call(&view, 1).unwrap().is_ejected());
        fail(&view, 1, 4);
        assert!(ejected(&view).is_empty(), "it starts anew");
    }

    #[actix::test]
    async fn a_probe_that_takes_long_still_ends_the_ejection() {
        let (view, _control) = paused(3, |selection| selection);
        fail(&view, 1, 5);
        tokio::time::advance(30 * SECOND).await;
        let slow = call(&view, 1).unwrap();
        tokio::time::advance(31 * SECOND).await;
        let next = call(&view, 1).expect("another probe");
        slow.succeeded();
        assert!(ejected(&view).is_empty());
        next.succeeded();
        assert!(!view.shared.records.any_ejected(), "it ends only once");
    }

    #[actix::test]
    async fn an_answered_probe_ends_the_ejection_while_the_call_goes_on() {
        let (view, _control) = paused(3, |selection| selection.policy(Policy::LeastLoaded));
        fail(&view, 1, 5);
        tokio::time::advance(30 * SECOND).await;
        let mut socket = call(&view, 1).unwrap();
        socket.answered();
        assert!(ejected(&view).is_empty());
        tokio::time::advance(3600 * SECOND).await;
        socket.succeeded();
        assert!(call(&view, 1).is_some(), "an hour is no latency");
    }

    #[actix::test]
    async fn ejections_grow_with_repetition_up_to_a_limit_and_decay() {
        let (view, _control) = paused(3, |selection| selection);
        let ends_in = || view.shared.records.ejections()[0].ends_in_ms / 1000;
        fail(&view, 1, 5);
        for seconds in [30, 60, 120, 240, 300, 300] {
            assert_eq!(ends_in(), seconds);
            tokio::time::advance(Duration::from_secs(seconds)).await;
            call(&view, 1).expect("the probe").failed();
        }
        assert_eq!(view.shared.records.ejections()[0].times, 7);
        tokio::time::advance(300 * SECOND).await;
        call(&view, 1).unwrap().succeeded();
        tokio::time::advance(60 * SECOND).await;
        fail(&view, 1, 5);
        assert_eq!(ends_in(), 300, "60 s have taken two of seven doublings");
        tokio::time::advance(300 * SECOND).await;
        call(&view, 1).unwrap().succeeded();
        tokio::time::advance(600 * SECOND).await;
        fail(&view, 1, 5);
        assert_eq!(ends_in(), 30, "all is forgiven");
    }

    #[test]
    fn an_ejection_is_considered_again_after_as_many_further_failures() {
        let considered = |eject: Eject| (0..=15).filter(|failures| eject.is_due(*failures)).collect::<Vec<_>>();
        assert_eq!(considered(Eject::consecutive(5)), [5, 10, 15]);
        assert!(considered(Eject::never()).is_empty());
    }

    #[actix::test]
    async fn an_ejection_lasts_a_year_at_most() {
        let for_ever = Eject::consecutive(1).base(Duration::MAX).longest(Duration::MAX);
        let (view, _control) = paused(3, |selection| selection.eject(for_ever));
        fail(&view, 1, 1);
        assert_eq!(view.shared.records.ejections()[0].ends_in_ms, 365 * 24 * 60 * 60 * 1000);
    }

    #[actix::test]
    async fn max_share_limits_ejections_but_allows_one_and_never_the_last_instance() {
        let (single, _control) = paused(1, |selection| selection);
        fail(&single, 1, 20);
        assert!(ejected(&single).is_empty());
        let none_may = |selection: Selection| selection.eject(Eject::consecutive(2).max_share(0.0));
        let (pair, _control) = view_of(2, none_may);
        fail(&pair, 1, 2);
        fail(&pair, 2, 20);
        assert_eq!(ejected(&pair), [1], "one may always be, the other is the last one");
        let (five, _control) = view_of(5, |selection| selection.eject(Eject::consecutive(2).max_share(0.5)));
        (1..=5).for_each(|port| fail(&five, port, 2));
        assert_eq!(ejected(&five), [1, 2], "half of five");
        let (all, _control) = view_of(5, |selection| selection.eject(Eject::consecutive(2).max_share(f64::NAN)));
        (1..=5).for_each(|port| fail(&all, port, 2));
        assert_eq!(ejected(&all), [1], "no number is no share");
        let (never, _control) = view_of(5, |selection| selection.eject(Eject::never()));
        (1..=5).for_each(|port| fail(&never, port, 20));
        assert!(ejected(&never).is_empty());
    }

    #[actix::test]
    async fn an_ejected_instance_is_called_when_nothing_else_is_left_and_may_be_back_before_its_time() {
        let (view, control) = paused(2, |selection| selection);
        fail(&view, 1, 5);
        control.publish(instances(1..=1));
        let desperate = view.begin().unwrap();
        assert!(desperate.port == 1 && desperate.is_ejected());
        desperate.failed();
        assert_eq!(view.shared.records.ejections()[0].times, 1, "it stays ejected as long as it was");
        view.begin().unwrap().succeeded();
        assert!(ejected(&view).is_empty());
    }

    #[actix::test]
    async fn a_call_dropped_without_an_outcome_is_cancelled_unless_it_was_slow() {
        let (view, _control) = paused(3, |selection| selection.eject(Eject::consecutive(1)).slow_after(2 * SECOND));
        drop(call(&view, 1).unwrap());
        assert!(ejected(&view).is_empty());
        let slow = call(&view, 1).unwrap();
        tokio::time::advance(3 * SECOND).await;
        drop(slow);
        assert_eq!(ejected(&view), [1]);
    }

    #[actix::test]
    async fn ejections_are_shared_by_all_views_of_a_service() {
        tokio::time::pause();
        let records = ServiceRecords::new(service(), None);
        let (one, other) = (
            ViewWriter::new(service(), String::new(), records.clone()),
            ViewWriter::new(service(), "DEFAULT".into(), records),
        );
        let info = Arc::new(ServiceInfo::new(service(), instances(1..=3)));
        one.publish(info.clone(), false, |_| false);
        other.publish(Arc::new(ServiceInfo::new(service(), instances(1..=2))), false, |_| false);
        let (view, of_other) = (one.view(false), other.view(false));
        let filtered = view.with(|selection| selection.only(|instance| instance.port != 3));
        fail(&view, 1, 3);
        fail(&filtered, 1, 2);
        assert_eq!((ejected(&view), ejected(&filtered), ejected(&of_other)), (vec![1], vec![1], vec![1]));
        assert!(call(&of_other, 1).is_none());
        // The instance has left one list and is still in the other.
        one.publish(Arc::new(ServiceInfo::new(service(), instances(2..=3))), false, |_| false);
        assert_eq!(ejected(&of_other), [1]);
        other.publish(Arc::new(ServiceInfo::new(service(), instances(2..=2))), false, |_| false);
        one.publish(info, false, |_| false);
        assert!(ejected(&view).is_empty());
    }

    #[actix::test]
    async fn an_instance_is_ejected_whichever_subscription_lists_it() {
        tokio::time::pause();
        let records = ServiceRecords::new(service(), None);
        let writers = [1..=3, 4..=6].map(|ports| {
            let writer = ViewWriter::new(service(), String::new(), records.clone());
            writer.publish(Arc::new(ServiceInfo::new(service(), instances(ports))), false, |_| false);
            writer
        });
        for (writer, port) in writers.iter().zip([1, 4]) {
            let view = writer.view(false);
            fail(&view, port, 5);
            assert_eq!(ejected(&view), [port]);
        }
    }

    #[actix::test]
    async fn an_instance_that_left_and_came_back_starts_without_an_ejection_and_its_history_lasts_ten_seconds() {
        let (view, control) = paused(3, |selection| selection);
        let times = || view.shared.records.ejections().first().map(|ejection| ejection.times);
        let leave_for = async |time: Duration| {
            control.publish(instances(2..=3));
            tokio::time::advance(time).await;
            control.publish(instances(1..=3));
        };
        fail(&view, 1, 5);
        leave_for(9 * SECOND).await;
        assert_eq!(times(), None);
        assert!(!call(&view, 1).unwrap().is_ejected());
        fail(&view, 1, 5);
        assert_eq!(times(), Some(2));
        leave_for(10 * SECOND).await;
        fail(&view, 1, 5);
        assert_eq!(times(), Some(1));
        assert!(view.shared.records.known().departed.len() <= 1);
    }

    #[actix::test]
    async fn an_old_outcome_says_nothing_about_an_instance_that_came_back() {
        let (view, control) = paused(3, |selection| selection.eject(Eject::consecutive(1)));
        fail(&view, 1, 1);
        tokio::time::advance(30 * SECOND).await;
        let (probe, old) = (call(&view, 1).unwrap(), call(&view, 2).unwrap());
        control.publish(instances(3..=3));
        control.publish(instances(1..=3));
        probe.failed();
        old.failed();
        assert!(ejected(&view).is_empty());
        assert!(call(&view, 1).is_some_and(|call| !call.is_ejected()));
    }

    #[actix::test]
    async fn a_list_that_is_not_confirmed_ends_no_ejection() {
        tokio::time::pause();
        let writer = ViewWriter::new(service(), String::new(), ServiceRecords::new(service(), None));
        let all = Arc::new(ServiceInfo::new(service(), instances(1..=3)));
        writer.publish(all.clone(), false, |_| false);
        let view = writer.view(false);
        fail(&view, 1, 5);
        writer.publish(Arc::new(ServiceInfo::new(service(), instances(2..=3))), true, |_| false);
        writer.publish(all, false, |_| false);
        assert_eq!(ejected(&view), [1]);
    }

    #[actix::test]
    async fn an_instance_that_left_while_the_list_was_stale_has_left_once_the_list_is_confirmed() {
        tokio::time::pause();
        let of = |ports| Arc::new(ServiceInfo::new(service(), instances(ports)));
        type Confirm = fn(&ViewWriter, Arc<ServiceInfo>);
        let by_the_next_list: Confirm = |writer, without| writer.publish(without, false, |_| false);
        let by_an_equal_poll: Confirm = |writer, _| writer.set_stale(false);
        for confirm in [by_the_next_list, by_an_equal_poll] {
            let writer = ViewWriter::new(service(), String::new(), ServiceRecords::new(service(), None));
            writer.publish(of(1..=3), false, |_| false);
            let view = writer.view(false);
            fail(&view, 1, 5);
            writer.publish(of(2..=4), true, |_| false);
            fail(&view, 4, 5);
            writer.publish(of(2..=3), true, |_| false);
            confirm(&writer, of(2..=3));
            writer.publish(of(1..=4), false, |_| false);
            assert!(ejected(&view).is_empty());
            assert!(!view.shared.records.any_ejected());
            assert!(!call(&view, 1).unwrap().is_ejected());
        }
    }

    #[actix::test]
    async fn a_list_that_comes_after_an_ejection_leaves_the_instance_out_too() {
        let (view, control) = paused(3, |selection| selection);
        assert!(view.shared.list.load().is_plain());
        fail(&view, 1, 5);
        let filtered = view.with(|selection| selection.only(|_| true));
        control.publish(instances(1..=4));
        for view in [&view, &filtered] {
            assert!((0..if cfg!(miri) { 50 } else { 1000 }).all(|_| view.select_one().unwrap().port != 1));
            assert!(call(view, 1).is_none());
        }
        tokio::time::advance(30 * SECOND).await;
        call(&view, 1).expect("the probe").succeeded();
        assert!(view.shared.list.load().is_plain() && filtered.shared.list.load().is_plain());
    }

    #[actix::test]
    async fn records_do_not_pile_up_for_instances_that_come_and_go() {
        let (view, control) = paused(3, |selection| selection);
        for first in 1..if cfg!(miri) { 50 } else { 500 } {
            control.publish(instances(first..=first + 2));
            view.begin().unwrap().failed();
            tokio::time::advance(SECOND).await;
        }
        let known = view.shared.records.known();
        assert!(known.histories.len() <= 6 && known.departed.len() <= 12, "{}", known.departed.len());
    }

    #[actix::test]
    async fn instances_that_no_list_has_are_forgotten_when_they_outnumber_those_that_are_listed() {
        tokio::time::pause();
        for (unlisted, known) in [(3, 6), (4, 3)] {
            let of = |ports| Arc::new(ServiceInfo::new(service(), instances(ports)));
            let writer = ViewWriter::new(service(), String::new(), ServiceRecords::new(service(), None));
            writer.publish(of(1..=3), false, |_| false);
            let view = writer.view(false);
            view.begin().unwrap().succeeded();
            writer.publish(of(4..=3 + unlisted), true, |_| false);
            writer.publish(of(1..=3), true, |_| false);
            writer.set_stale(false);
            assert_eq!(view.shared.records.known().histories.len(), known);
        }
    }

    #[test]
    fn two_lists_are_walked_together_in_the_order_of_their_instances() {
        let list =
            |ports: &[u16]| ports.iter().map(|port| Arc::new(Instance::new("127.0.0.1", *port))).collect::<Vec<_>>();
        let mut seen = Vec::new();
        walk(&list(&[1, 2, 4, 5]), &list(&[2, 3, 5]), |old, new| seen.push((old, new)));
        let expected = [(Some(0), None), (Some(1), Some(0)), (None, Some(1)), (Some(2), None), (Some(3), Some(2))];
        assert_eq!(seen, expected);
        for (old, new, expected) in [(&[1][..], &[][..], (Some(0), None)), (&[], &[1], (None, Some(0)))] {
            seen.clear();
            walk(&list(old), &list(new), |old, new| seen.push((old, new)));
            assert_eq!(seen, [expected]);
        }
    }

    #[test]
    fn subscriptions_that_have_ended_do_not_pile_up() {
        let records = ServiceRecords::new(service(), None);
        (0..if cfg!(miri) { 20 } else { 100 })
            .for_each(|_| drop(ViewWriter::new(service(), String::new(), records.clone())));
        assert!(records.known().sources.len() <= 1);
    }

    #[actix::test]
    async fn a_call_that_outlives_the_last_view_keeps_no_records_of_the_service() {
        let records = ServiceRecords::new(service(), None);
        let kept = Arc::downgrade(&records);
        let writer = ViewWriter::new(service(), String::new(), records);
        writer.publish(Arc::new(ServiceInfo::new(service(), instances(1..=3))), false, |_| false);
        let view = writer.view(false);
        let (failing, socket, dropped) = (view.begin().unwrap(), view.begin().unwrap(), view.begin().unwrap());
        drop((view, writer));
        assert!(kept.upgrade().is_none());
        failing.failed();
        socket.succeeded();
        drop(dropped);
    }

    #[actix::test]
    async fn a_subscription_that_ends_takes_its_instances_with_it() {
        tokio::time::pause();
        let (reports, mut reported) = mpsc::unbounded_channel();
        let records = ServiceRecords::new(service(), Some(reports));
        let subscribe = |clusters: &str, ports| {
            let writer = ViewWriter::new(service(), clusters.into(), records.clone());
            writer.publish(Arc::new(ServiceInfo::new(service(), instances(ports))), false, |_| false);
            writer
        };
        let lasting = subscribe("EAST", 1..=3);
        let view = lasting.view(false);
        fail(&view, 1, 5);
        for first in (10..).step_by(3).take(20) {
            let brief = subscribe("WEST", first..=first + 2);
            fail(&brief.view(false), first, 5);
            drop(brief);
            tokio::time::advance(SECOND).await;
        }
        assert_eq!(ejected(&view), [1]);
        assert_eq!(records.ejections().len(), 1);
        let known = records.known();
        assert!(known.histories.len() == 3 && known.departed.len() <= 33, "{}", known.departed.len());
        let returns = std::iter::from_fn(|| reported.try_recv().ok()).filter(|change| change.ejected_for.is_none());
        assert_eq!(returns.count(), 20, "each return is reported");
    }

    #[actix::test]
    async fn views_that_outlive_the_registry_keep_their_ejections() {
        tokio::time::pause();
        let writer = ViewWriter::new(service(), String::new(), ServiceRecords::new(service(), None));
        writer.publish(Arc::new(ServiceInfo::new(service(), instances(1..=3))), false, |_| false);
        let view = writer.view(false);
        fail(&view, 1, 5);
        drop(writer);
        assert_eq!(ejected(&view), [1]);
        tokio::time::advance(30 * SECOND).await;
        call(&view, 1).expect("the probe").succeeded();
        assert!(ejected(&view).is_empty());
    }

    #[actix::test]
    async fn calls_are_counted_also_when_their_instance_has_left_or_comes_back() {
        let (view, control) = paused(1, |selection| selection);
        let totals = || {
            let totals = view.shared.records.call_totals()?;
            Some((totals.succeeded, totals.failed, totals.cancelled, totals.retries))
        };
        assert_eq!(totals(), None);
        let retry = view.begin_excluding(&view.instances()).unwrap();
        assert_eq!(totals(), Some((0, 0, 0, 1)), "it has not ended");
        retry.succeeded();
        view.begin().unwrap().failed();
        drop(view.begin().unwrap());
        assert_eq!(totals(), Some((1, 1, 1, 1)));
        control.publish([]);
        assert_eq!(totals(), Some((1, 1, 1, 1)), "it has left");
        control.publish(instances(1..=1));
        view.begin().unwrap().succeeded();
        assert_eq!(totals(), Some((2, 1, 1, 1)), "it is back");
        control.publish([]);
        tokio::time::advance(MEMORY_AFTER_LEAVING).await;
        control.publish(instances(2..=2));
        view.begin().unwrap().succeeded();
        assert!(view.shared.records.known().departed.is_empty());
        assert_eq!(totals(), Some((3, 1, 1, 1)), "its history has been dropped");
    }

    #[cfg(feature = "actix-web")]
    #[actix::test]
    async fn the_state_of_the_calls_of_each_instance_is_shown() {
        let (view, _control) = paused(3, |selection| selection);
        let mut hosts = view.instances().to_vec();
        assert!(view.shared.records.calls(&hosts).is_empty(), "no call has begun");
        hosts.push(Arc::new(Instance::new("127.0.0.1", 9)));
        let _under_way = [call(&view, 1).unwrap(), call(&view, 1).unwrap()];
        fail(&view, 2, 5);
        let calls = view.shared.records.calls(&hosts);
        let shown: Vec<_> = calls.iter().map(|calls| calls.map(|calls| (calls.in_flight, calls.is_ejected))).collect();
        assert_eq!(shown, [Some((2, false)), Some((0, true)), Some((0, false)), None]);
    }

    #[test]
    fn threads_that_fail_at_the_same_moment_never_eject_the_last_instance() {
        for _ in 0..if cfg!(miri) { 5 } else { 50 } {
            let view = ServiceView::fixed(service(), instances(1..=2));
            let view = view.with(|selection| selection.eject(Eject::consecutive(1).max_share(1.0)));
            let calls = [call(&view, 1).unwrap(), call(&view, 2).unwrap()];
            std::thread::scope(|scope| calls.into_iter().for_each(|call| drop(scope.spawn(move || call.failed()))));
            assert_eq!(ejected(&view).len(), 1);
        }
    }

    #[actix::test]
    async fn ejections_and_returns_are_reported() {
        tokio::time::pause();
        let (reports, mut reported) = mpsc::unbounded_channel();
        let writer = ViewWriter::new(service(), String::new(), ServiceRecords::new(service(), Some(reports)));
        writer.publish(Arc::new(ServiceInfo::new(service(), instances(1..=3))), false, |_| false);
        let view = writer.view(false);
        let mut next = move || reported.try_recv().map(|change| (change.instance.port, change.ejected_for)).ok();
        fail(&view, 1, 5);
        assert_eq!(next(), Some((1, Some(30 * SECOND))));
        tokio::time::advance(30 * SECOND).await;
        call(&view, 1).unwrap().succeeded();
        assert_eq!(next(), Some((1, None)));
        fail(&view, 2, 5);
        writer.publish(Arc::new(ServiceInfo::new(service(), instances(3..=3))), false, |_| false);
        assert_eq!((next(), next(), next()), (Some((2, Some(30 * SECOND))), Some((2, None)), None));
    }
}
