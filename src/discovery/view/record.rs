//! The calls to one instance: how many are in flight, how they end, and how long they take.
//!
//! All fields that change are atomics, so a call begins and ends without a lock. The latency is updated by a load and a
//! store: if two threads update it at the same time, one sample is lost.
//!
//! The latency is a mean in which recent samples count more. It follows a change within about a second. It fades while
//! no call is measured, so that an instance that was slow is tried again.

use std::{
    ops::AddAssign,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use actix_rt::time::Instant;

use super::clock::Now;

/// In milliseconds. The more time has passed since the last sample, the more a new sample counts: after this time, as
/// much as the mean of all earlier samples.
const LATENCY_WINDOW: f32 = 1_000.0;
/// In milliseconds. The latency of an instance that gets no calls fades: after this time it counts a quarter, so that a
/// slow instance is tried again.
const LATENCY_FADES: f32 = 10_000.0;
/// In microseconds. Added to each latency, so that differences below this hardly matter.
const LATENCY_NOISE: f32 = 1_000.0;
/// In milliseconds. Reading the exact clock takes long, and another sample so soon would hardly change the mean.
const MEASURED_EVERY: u32 = 10;
/// After this time, another call may be the probe.
const LONGEST_PROBE: Duration = Duration::from_secs(30);

/// Shared by all views of a service of one Registry. A record has its own cache line, so that calls to other instances
/// do not slow down calls to this one.
///
/// The counts of failed and cancelled calls have 32 bits and wrap around. Successful calls are more frequent, so their
/// count has 64 bits.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Record {
    /// The moments below are counted from here.
    origin: Instant,
    /// The end of the ejection, in nanoseconds. 0 while the instance is not ejected.
    ejected_until: AtomicU64,
    /// When the probe under way began, in nanoseconds. 0 without a probe.
    probe: AtomicU64,
    /// The upper half is the time of the last sample in milliseconds of the coarse clock (modulo 2^32). The lower half
    /// is the mean latency in microseconds, as the bits of an `f32`. 0 without a sample.
    latency: AtomicU64,
    /// Calls that began. The calls in flight are these minus the ended calls, so the end of a call writes only one
    /// count.
    began: AtomicU32,
    /// The failures in a row.
    failures: AtomicU32,
    succeeded: AtomicU64,
    failed: AtomicU32,
    cancelled: AtomicU32,
}

/// How many calls ended in which way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct EndedCalls {
    pub(super) succeeded: u64,
    pub(super) failed: u64,
    pub(super) cancelled: u64,
}

impl AddAssign for EndedCalls {
    fn add_assign(&mut self, other: Self) {
        self.succeeded += other.succeeded;
        self.failed += other.failed;
        self.cancelled += other.cancelled;
    }
}

/// Whether a call may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    Granted,
    /// The call is the probe: if it succeeds, the ejection ends. The number identifies the probe.
    Probe(u64),
    Ejected,
}

impl Record {
    /// `before` is the record of the same instance before it left the list. The new record takes over its latency.
    pub(super) fn new(origin: Instant, before: Option<&Record>) -> Self {
        let latency = before.map_or(0, |before| before.latency.load(Ordering::Relaxed));
        Record {
            origin,
            ejected_until: AtomicU64::new(0),
            probe: AtomicU64::new(0),
            latency: AtomicU64::new(latency),
            began: AtomicU32::new(0),
            failures: AtomicU32::new(0),
            succeeded: AtomicU64::new(0),
            failed: AtomicU32::new(0),
            cancelled: AtomicU32::new(0),
        }
    }

    // Calls.

    /// Counts a call in flight. Every call ends with one [`call_ended`](Record::call_ended).
    #[inline]
    pub(super) fn call_began(&self) {
        self.began.fetch_add(1, Ordering::Relaxed);
    }

    /// `succeeded` is the outcome that the caller reported. `None` for a call that was dropped.
    #[inline]
    pub(super) fn call_ended(&self, succeeded: Option<bool>) {
        match succeeded {
            Some(true) => drop(self.succeeded.fetch_add(1, Ordering::Relaxed)),
            Some(false) => drop(self.failed.fetch_add(1, Ordering::Relaxed)),
            None => drop(self.cancelled.fetch_add(1, Ordering::Relaxed)),
        }
    }

    /// The counts so far. They are read one after the other, so they may be from slightly different moments.
    pub(super) fn ended_calls(&self) -> EndedCalls {
        EndedCalls {
            succeeded: self.succeeded.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed).into(),
            cancelled: self.cancelled.load(Ordering::Relaxed).into(),
        }
    }

    /// Writes only if there are failures, so that a usual success does not invalidate the cache line of other threads.
    #[inline]
    pub(super) fn forget_failures(&self) {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
    }

    /// Counts a failure, and returns the number of failures in a row.
    pub(super) fn count_failure(&self) -> u32 {
        self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1)
    }

    // Ejection.

    /// Decides whether a call may begin. The call is the probe if the time of the ejection is over and no other probe
    /// is under way.
    #[inline]
    pub(super) fn admit(&self, now: &Now) -> Admission {
        match self.ejected_until.load(Ordering::Acquire) {
            0 => Admission::Granted,
            until if self.nanos(now.get()) < until => Admission::Ejected,
            _ => self.claim_probe(now.get()),
        }
    }

    /// Whether [`admit`](Record::admit) would let a call begin.
    pub(super) fn would_admit(&self, now: &Now) -> bool {
        let until = self.ejected_until.load(Ordering::Acquire);
        until == 0 || (self.nanos(now.get()) >= until && !self.is_probed(now.get()))
    }

    /// Makes this call the probe, if no probe is under way.
    pub(super) fn claim_probe(&self, now: Instant) -> Admission {
        let before = self.probe.load(Ordering::Relaxed);
        if self.is_probed(now) {
            return Admission::Ejected;
        }
        let probe = self.nanos(now).max(1);
        // Two probes in the same nanosecond are possible and harmless.
        match self.probe.compare_exchange(before, probe, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => Admission::Probe(probe),
            Err(_) => Admission::Ejected,
        }
    }

    fn is_probed(&self, now: Instant) -> bool {
        match self.probe.load(Ordering::Relaxed) {
            0 => false,
            began => self.nanos(now).saturating_sub(began) < LONGEST_PROBE.as_nanos() as u64,
        }
    }

    /// Ends this probe. Returns false if another probe has replaced it.
    pub(super) fn end_probe(&self, probe: u64) -> bool {
        self.probe.compare_exchange(probe, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    pub(super) fn is_ejected(&self) -> bool {
        self.ejected_until.load(Ordering::Acquire) != 0
    }

    /// The remaining time of the ejection, zero while a probe is awaited. `None` if the instance is not ejected.
    pub(super) fn ejected_for(&self, now: Instant) -> Option<Duration> {
        match self.ejected_until.load(Ordering::Acquire) {
            0 => None,
            until => Some(Duration::from_nanos(until.saturating_sub(self.nanos(now)))),
        }
    }

    /// Ejects the instance, or changes the end of its ejection.
    pub(super) fn eject_until(&self, end: Instant) {
        self.ejected_until.store(self.nanos(end).max(1), Ordering::Release);
    }

    /// Ends the ejection, and sets the failures in a row to 0.
    pub(super) fn readmit(&self) {
        self.failures.store(0, Ordering::Relaxed);
        self.ejected_until.store(0, Ordering::Release);
    }

    /// Saturates at both ends, so that no clock value wraps around.
    fn nanos(&self, moment: Instant) -> u64 {
        u64::try_from(moment.saturating_duration_since(self.origin).as_nanos()).unwrap_or(u64::MAX)
    }

    // Load.

    /// Adds the latency of a call that ended at `now`, in milliseconds of the coarse clock. A call that did not succeed
    /// can only raise the mean.
    pub(super) fn observe(&self, took: Duration, now: u32, succeeded: bool) {
        let sample = took.as_secs_f32() * 1e6;
        let latency = match self.latency(now) {
            None if !succeeded => return,
            None => sample,
            Some((mean, _)) if !succeeded && sample <= mean => return,
            Some((mean, age)) => mean + (sample - mean) * (age / (age + LATENCY_WINDOW)),
        };
        self.latency.store(u64::from(now) << 32 | u64::from(latency.to_bits()), Ordering::Relaxed);
    }

    /// Whether to measure the latency of a call that begins at `now`, in milliseconds of the coarse clock, by the exact
    /// clock.
    #[inline]
    pub(super) fn is_to_be_measured(&self, now: u32) -> bool {
        let last = (self.latency.load(Ordering::Relaxed) >> 32) as u32;
        // After a clock that jumped back the difference is large.
        now.wrapping_sub(last) >= MEASURED_EVERY
    }

    /// Mean latency in microseconds, and the age of its last sample in milliseconds.
    fn latency(&self, now: u32) -> Option<(f32, f32)> {
        let packed = self.latency.load(Ordering::Relaxed);
        let mean = f32::from_bits(packed as u32);
        let age = now.wrapping_sub((packed >> 32) as u32) as i32;
        // A mean that is not a number counts as not measured.
        (mean.is_finite() && mean > 0.0).then_some((mean, age.max(0) as f32))
    }

    /// `None` if no call was measured.
    #[cfg(feature = "actix-web")]
    pub(super) fn mean_latency(&self) -> Option<Duration> {
        let (micros, _) = self.latency(0)?;
        Duration::try_from_secs_f32(micros / 1e6).ok()
    }

    /// How many calls are under way.
    pub(super) fn in_flight(&self) -> u32 {
        let began = self.began.load(Ordering::Relaxed);
        let succeeded = self.succeeded.load(Ordering::Relaxed) as u32;
        let others = self.failed.load(Ordering::Relaxed).wrapping_add(self.cancelled.load(Ordering::Relaxed));
        let in_flight = began.wrapping_sub(succeeded).wrapping_sub(others) as i32;
        // Below zero when another thread begins and ends calls between these reads.
        in_flight.max(0) as u32
    }

    fn queue(&self, share: f32) -> f32 {
        self.in_flight() as f32 / share
    }
}

/// Whether the load of `second` is clearly lower than the load of `first`. Each is a record with the instance's share
/// of the calls. Without a clear difference the instance that was drawn first wins, so that equal instances are called
/// by their weights.
pub(super) fn is_less_loaded(second: (&Record, f32), first: (&Record, f32), millis: u32) -> bool {
    let (queue, other_queue) = (first.0.queue(first.1), second.0.queue(second.1));
    match (first.0.latency(millis), second.0.latency(millis)) {
        (Some(latency), Some(other)) => (1.0 + other_queue) * faded(other) < 0.8 * (1.0 + queue) * faded(latency),
        // Without a latency for both, compare only the calls in flight.
        _ => other_queue < queue,
    }
}

/// The latency that counts for the comparison: less the older its last sample is.
fn faded((mean, age): (f32, f32)) -> f32 {
    let fades = 1.0 + age / LATENCY_FADES;
    LATENCY_NOISE + mean / (fades * fades)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn record() -> (Record, Instant) {
        let origin = Instant::now();
        (Record::new(origin, None), origin)
    }

    /// Returns a record with one sample, taken at millisecond 0.
    fn with_latency(latency: Duration) -> Record {
        let (record, _) = record();
        record.observe(latency, 0, true);
        record
    }

    #[test]
    fn a_slower_or_busier_instance_is_more_loaded() {
        let (quick, slow, now) = (with_latency(2 * MS), with_latency(20 * MS), 0);
        assert!(is_less_loaded((&quick, 1.0), (&slow, 1.0), now) && !is_less_loaded((&slow, 1.0), (&quick, 1.0), now));
        (0..12).for_each(|_| quick.call_began());
        assert!(is_less_loaded((&slow, 1.0), (&quick, 1.0), now), "13 times 3 ms is more than 21 ms");
        assert!(!is_less_loaded((&slow, 1.0), (&quick, 10.0), now), "but not for one of ten times the weight");
    }

    #[test]
    fn of_equal_instances_the_first_draw_wins() {
        let (one, other, now) = (with_latency(20 * MS), with_latency(19 * MS), 0);
        assert!(!is_less_loaded((&one, 1.0), (&other, 1.0), now) && !is_less_loaded((&other, 1.0), (&one, 1.0), now));
        let unknown = Record::new(one.origin, None);
        assert!(!is_less_loaded((&unknown, 1.0), (&one, 1.0), now), "an unknown latency is no short one");
    }

    #[test]
    fn the_latency_follows_its_samples_over_time_and_fades_when_there_are_none() {
        let record = with_latency(20 * MS);
        let mean = || record.latency(0).map(|(mean, _)| mean).unwrap();
        record.observe(2 * MS, 1, true);
        assert!(mean() > 19_000.0, "one sample a millisecond later says little");
        for second in 1..10 {
            record.observe(2 * MS, second * 1000, true);
        }
        assert!((2_000.0..2_200.0).contains(&mean()), "{}", mean());
        assert!(faded((20_000.0, 30_000.0)) < 2_000.0 + LATENCY_NOISE);
    }

    #[test]
    fn a_call_that_failed_makes_no_instance_look_faster() {
        let record = with_latency(20 * MS);
        record.observe(MS, 1000, false);
        assert!((record.latency(0).unwrap().0 - 20_000.0).abs() < 1.0);
        record.observe(400 * MS, 1000, false);
        assert!(record.latency(0).unwrap().0 > 100_000.0);
        let (unknown, _) = self::record();
        unknown.observe(MS, 0, false);
        assert_eq!(unknown.latency(0), None, "one that refuses connections would look like the fastest");
    }

    #[test]
    fn a_latency_that_is_no_number_and_a_clock_that_jumps_do_no_harm() {
        for bits in [f32::NAN.to_bits(), f32::INFINITY.to_bits(), (-1.0f32).to_bits()] {
            let (record, _) = record();
            record.latency.store(u64::from(bits), Ordering::Relaxed);
            assert!(!is_less_loaded((&record, 1.0), (&with_latency(MS), 1.0), 0));
            record.observe(5 * MS, 0, true);
            assert!((record.latency(0).unwrap().0 - 5_000.0).abs() < 1.0);
        }
        let (record, origin) = record();
        record.observe(MS, 60_000, true);
        record.observe(3 * MS, 0, true);
        assert!(record.latency(0).unwrap().0 < 1_001.0, "a sample from the past counts nothing");
        record.eject_until(origin + Duration::from_secs(60));
        assert_eq!(record.admit(&Now::at(origin)), Admission::Ejected);
        assert!(record.ejected_for(origin + Duration::from_secs(600)).is_some_and(|left| left.is_zero()));
    }

    #[test]
    fn of_calls_in_quick_succession_one_is_measured_by_the_exact_clock() {
        let (record, _) = record();
        assert!(record.is_to_be_measured(60_000), "no call was measured yet");
        record.observe(MS, 60_000, true);
        assert!(!record.is_to_be_measured(60_000) && !record.is_to_be_measured(60_000 + MEASURED_EVERY - 1));
        assert!(record.is_to_be_measured(60_000 + MEASURED_EVERY));
        assert!(record.is_to_be_measured(59_000), "the clock has jumped back");
    }

    #[test]
    fn there_is_one_probe_at_a_time_and_a_lost_one_is_followed_by_another() {
        let (record, origin) = record();
        record.eject_until(origin + MS);
        let now = Now::at(origin + 2 * MS);
        let Admission::Probe(probe) = record.admit(&now) else { panic!("no probe") };
        assert!(!record.would_admit(&now));
        assert_eq!(record.admit(&now), Admission::Ejected);
        let later = Now::at(origin + 2 * MS + LONGEST_PROBE);
        let Admission::Probe(next) = record.admit(&later) else { panic!("no other probe") };
        assert!(!record.end_probe(probe) && record.end_probe(next));
        assert!(record.would_admit(&later));
    }
}
