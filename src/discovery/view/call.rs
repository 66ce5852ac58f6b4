//! A call of a chosen instance, and how it ended.
//!
//! The record of the instance receives the outcome when the call is dropped. `succeeded` and `failed` only set the
//! outcome, and then drop the call. So every call is counted exactly once, however the application's code ends.

use std::{fmt, ops::Deref, sync::Arc, time::Duration};

use actix_rt::time::Instant;

use super::{
    choice::{Choice, Chosen},
    clock::{coarse_millis, Now},
    hash_table::hash_of,
    list::{Block, Callable, List},
    policy::Policy,
    record::Admission,
    service_view::ServiceView,
};
use crate::{
    error::{Error, NoInstanceReasons},
    model::instance::Instance,
};

/// A latency that was measured by the coarse clock counts only above this limit, which is several ticks of that clock.
const LONG_LATENCY: Duration = Duration::from_millis(20);

/// A call of the instance that [`ServiceView::begin`] chose. Derefs to [`Instance`].
///
/// Report how the call ended with [`succeeded`](Call::succeeded) or [`failed`](Call::failed). A call that is
/// dropped without a report counts as cancelled, which does not count against the instance. If it lasted longer
/// than [`slow_after`](crate::Selection::slow_after), it counts as failed.
///
/// Keep a `Call` as long as the call lasts: until then it counts as in flight, which [`Policy::LeastLoaded`] needs. It
/// keeps up to four instances in memory, but neither the list nor what is known about the calls of the service. The
/// outcome of a call that ends after the last view of its service is not counted. It is `Send`, and may be reported
/// from any thread.
///
/// | report | counts as | failures in a row |
/// |---|---|---|
/// | [`succeeded`](Call::succeeded) | success | back to 0; a probe ends the ejection |
/// | [`failed`](Call::failed), or dropped late | failure | one more; may [eject](crate::Eject) the instance |
/// | dropped in time | cancelled | unchanged; after a probe, the next call is the probe |
///
/// ```
/// use actix_nacos::{Instance, ServiceName, ServiceView};
///
/// let orders = ServiceView::fixed(ServiceName::parse("orders")?, [Instance::new("127.0.0.7", 8080)]);
/// let call = orders.begin()?;
/// match std::net::TcpStream::connect(call.authority()) {
///     Ok(_) => call.succeeded(),
///     Err(_) => call.failed(),
/// }
/// # fn is_send<T: Send>() {}
/// # is_send::<actix_nacos::Call>();
/// # Ok::<(), actix_nacos::Error>(())
/// ```
#[must_use = "a call that is dropped at once is cancelled"]
pub struct Call {
    block: Arc<Block>,
    /// The place of the instance in the list that `block` is from.
    place: usize,
    admission: Admission,
    /// In milliseconds of the coarse clock.
    began: u64,
    latency: Latency,
    /// Whether the call counts as failed if it is dropped late without a report.
    may_be_slow: bool,
    /// `None` if the call is dropped without a report.
    succeeded: Option<bool>,
}

/// How the latency of a call is measured.
#[derive(Clone, Copy)]
enum Latency {
    Ignored,
    /// By the coarse clock, because another call was measured a short time ago.
    Coarse,
    /// By the exact clock, since this moment.
    Exact(Instant),
}

impl Call {
    /// The instance to call.
    ///
    /// Clone the `Arc` to exclude the instance from a retry: see [`begin_excluding`](ServiceView::begin_excluding).
    pub fn instance(&self) -> &Arc<Instance> {
        &self.callable().instance
    }

    /// Reports that the instance answered as it should.
    ///
    /// Report it when the answer is complete, so that the time in flight and the latency are true.
    pub fn succeeded(mut self) {
        self.succeeded = Some(true);
    }

    /// Reports that the instance did not answer, or answered that it cannot serve. If the request itself was wrong,
    /// report [`succeeded`](Call::succeeded): the instance did its work.
    ///
    /// Failures that are the caller's fault, such as an invalid request or a cancelled user action, would eject
    /// healthy instances.
    pub fn failed(mut self) {
        self.succeeded = Some(false);
    }

    /// Ends the call without saying anything about the instance, however long the call lasted.
    pub(crate) fn cancelled(mut self) {
        self.latency = Latency::Ignored;
        self.may_be_slow = false;
    }

    /// Reports that the instance has answered, although the connection stays open. From now on the call only counts as
    /// in flight.
    pub(crate) fn answered(&mut self) {
        self.note_latency(true);
        self.may_be_slow = false;
        if let Admission::Probe(probe) = self.admission {
            self.admission = Admission::Granted;
            self.probe_succeeded(probe);
        }
    }

    /// Whether the instance is ejected. Then either no other instance could be called, or this call is the probe that
    /// ends the ejection if it succeeds.
    ///
    /// Report the outcome like that of any other call.
    pub fn is_ejected(&self) -> bool {
        self.admission != Admission::Granted
    }

    #[inline]
    fn callable(&self) -> &Callable {
        self.block.at(self.place)
    }

    #[inline]
    fn note_latency(&mut self, succeeded: bool) {
        let took = match std::mem::replace(&mut self.latency, Latency::Ignored) {
            Latency::Ignored => return,
            Latency::Exact(began) => began.elapsed(),
            Latency::Coarse => match self.lasted() {
                took if took > LONG_LATENCY => took,
                _ => return,
            },
        };
        self.callable().record.observe(took, coarse_millis() as u32, succeeded);
    }

    /// How long the call has lasted, exact to about 10 ms.
    fn lasted(&self) -> Duration {
        Duration::from_millis(coarse_millis().saturating_sub(self.began))
    }

    #[cold]
    fn probe_succeeded(&self, probe: u64) {
        if let Some(records) = self.block.records.upgrade() {
            records.probe_succeeded(self.callable().called(), probe);
        }
    }

    #[cold]
    fn has_failed(&self) {
        // `None` when no view of the service is left. Then nothing is known about its instances any more.
        let Some(records) = self.block.records.upgrade() else { return };
        let record = &self.callable().record;
        let list = self.block.list.upgrade();
        let eject = list.as_ref().map(|list| list.selection.eject).unwrap_or_default();
        if let Admission::Probe(probe) = self.admission {
            return records.probe_failed(self.callable().called(), probe, &eject);
        }
        let failures = record.count_failure();
        records.call_failed(self.callable().called(), failures, &eject, || list.as_ref()?.count_ejected());
    }

    /// Counts as cancelled, or as failed if the call lasted too long.
    #[cold]
    fn was_dropped(&self) {
        let slow_after = self.block.list.upgrade().map(|list| list.selection.slow_after);
        if self.may_be_slow && slow_after.is_some_and(|limit| self.lasted() > limit) {
            self.has_failed();
        } else if let Admission::Probe(probe) = self.admission {
            self.callable().record.end_probe(probe);
        }
    }
}

impl Drop for Call {
    #[inline]
    fn drop(&mut self) {
        self.callable().record.call_ended(self.succeeded);
        self.note_latency(self.succeeded == Some(true));
        match (self.succeeded, self.admission) {
            (Some(true), Admission::Probe(probe)) => self.probe_succeeded(probe),
            (Some(true), _) => self.callable().record.forget_failures(),
            (Some(false), _) => self.has_failed(),
            (None, _) => self.was_dropped(),
        }
    }
}

impl Deref for Call {
    type Target = Instance;

    fn deref(&self) -> &Instance {
        &self.callable().instance
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("instance", self.instance()).field("admission", &self.admission).finish()
    }
}

impl ServiceView {
    /// Begins a call: chooses an instance by the view's [`Policy`], among the instances that are healthy, enabled, of a
    /// weight above 0 and of a port other than 0. An ejected instance is chosen only as a probe, or if all of these
    /// instances are ejected: see [`Call::is_ejected`]. Takes no lock and allocates nothing, except for the first call
    /// of a view.
    ///
    /// ```
    /// use actix_nacos::{Error, ServiceView};
    ///
    /// fn call(orders: &ServiceView, send: impl Fn(String) -> bool) -> Result<bool, Error> {
    ///     let call = orders.begin()?;
    ///     let done = send(call.authority());
    ///     if done {
    ///         call.succeeded();
    ///     } else {
    ///         call.failed();
    ///     }
    ///     Ok(done)
    /// }
    /// ```
    ///
    /// # Errors
    /// [`Error::NoInstance`], which counts why no instance can be called. `begin` does not wait: see
    /// [`available_within`](ServiceView::available_within).
    pub fn begin(&self) -> Result<Call, Error> {
        self.begin_call(None, &[])
    }

    /// Like [`begin`](ServiceView::begin), but does not choose an instance that was tried, as long as there is another
    /// one.
    ///
    /// If all were tried, one of them is chosen again. A call with a tried instance counts as a retry in
    /// [`CallTotals::retries`](crate::CallTotals::retries). Repeat only requests that may arrive twice.
    ///
    /// ```
    /// use actix_nacos::{Error, Instance, ServiceName, ServiceView};
    ///
    /// let instances = [Instance::new("127.0.0.7", 80), Instance::new("127.0.0.8", 80)];
    /// let orders = ServiceView::fixed(ServiceName::parse("orders")?, instances);
    /// let first = orders.begin()?;
    /// let tried = [first.instance().clone()];
    /// first.failed();
    /// assert_ne!(orders.begin_excluding(&tried)?.ip, tried[0].ip);
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`begin`](ServiceView::begin).
    pub fn begin_excluding(&self, tried: &[Arc<Instance>]) -> Result<Call, Error> {
        self.begin_call(None, tried)
    }

    /// Like [`begin`](ServiceView::begin), for a key. With [`Policy::ConsistentHash`] the same key gets the same
    /// instance, in every process that has the same list. Other policies ignore the key.
    ///
    /// While an instance cannot be called, its keys are spread over all other instances. Afterwards they return to it.
    ///
    /// ```
    /// use actix_nacos::{Error, Instance, Policy, ServiceName, ServiceView};
    ///
    /// let carts = ServiceView::fixed(ServiceName::parse("carts")?, (1..=9).map(|n| Instance::new("127.0.0.7", n)));
    /// let carts = carts.with(|selection| selection.policy(Policy::ConsistentHash));
    /// assert_eq!(carts.begin_for("user-17")?.port, carts.begin_for("user-17")?.port);
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`begin`](ServiceView::begin).
    pub fn begin_for(&self, key: impl AsRef<[u8]>) -> Result<Call, Error> {
        self.begin_for_excluding(key, &[])
    }

    /// Like [`begin_for`](ServiceView::begin_for), but does not choose an instance that was tried, as long as there is
    /// another one.
    ///
    /// # Errors
    /// As [`begin`](ServiceView::begin).
    pub fn begin_for_excluding(&self, key: impl AsRef<[u8]>, tried: &[Arc<Instance>]) -> Result<Call, Error> {
        self.begin_call(Some(hash_of(&[key.as_ref()])), tried)
    }

    fn begin_call(&self, key: Option<u64>, tried: &[Arc<Instance>]) -> Result<Call, Error> {
        // Draw the number and read the clock first: loading the guard is a fence, and both would take longer after it.
        let random = fastrand::u64(..);
        let began = coarse_millis();
        let shared = &*self.shared;
        if !tried.is_empty() {
            shared.records.note_retry();
        }
        let list = shared.list.load();
        let callable = list.callable(&self.shared);
        let now = Now::default();
        let choice = Choice { shared, list: &list, callable, key, tried, now, millis: began, may_probe: true };
        let Some(Chosen { place, admission }) = choice.choose(random) else { return Err(self.no_instance_in(&list)) };
        let block = callable.block(place);
        let callable = block.at(place);
        callable.record.call_began();
        let block = block.clone();
        let latency = match shared.selection.policy {
            Policy::LeastLoaded if callable.record.is_to_be_measured(began as u32) => Latency::Exact(Instant::now()),
            Policy::LeastLoaded => Latency::Coarse,
            _ => Latency::Ignored,
        };
        Ok(Call { block, place, admission, began, latency, may_be_slow: true, succeeded: None })
    }

    pub(super) fn no_instance(&self) -> Error {
        self.no_instance_in(&self.shared.list.load())
    }

    /// Counts each instance under the first reason that applies to it.
    #[cold]
    fn no_instance_in(&self, list: &List) -> Error {
        let mut reasons = NoInstanceReasons { filtered: list.listed - list.all.hosts.len(), ..Default::default() };
        for host in &list.all.hosts {
            match host {
                host if !host.enabled => reasons.disabled += 1,
                host if !host.healthy => reasons.unhealthy += 1,
                host if host.port == 0 => reasons.no_port += 1,
                host if !host.takes_calls() || !host.weight.is_finite() => reasons.no_weight += 1,
                _ => reasons.ejected += 1,
            }
        }
        Error::NoInstance { service: self.service().to_string(), listed: list.listed, reasons, stale: self.is_stale() }
    }
}
