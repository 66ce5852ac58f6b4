//! The faults that are active, and which of them a request or a push meets.
//!
//! A request gets its [`Plan`] when it arrives, a push gets its [`PushFate`] when it is sent. So a change of the faults
//! does not affect what is under way, except requests that hang.
//!
//! The dice are seeded and are rolled only for active faults, under one mutex. So a test that sends its requests
//! one after the other meets the same faults in every run, on every machine.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{config::LONGEST_DURATION, error::Operation};

/// A fault in an answer. The request itself has been served.
///
/// A client must treat each of them as an unreadable answer: neither as success, nor as an empty list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Spoilt {
    /// Half of the body; then the connection is closed.
    CutOff,
    /// JSON in which every field that clients know has a wrong type.
    WrongType,
    /// The HTML page of a proxy, with status 200.
    Html,
    /// A body of 64 MiB.
    TooLarge,
}

/// The faults that are active.
#[derive(Debug)]
pub(crate) struct ActiveFaults {
    pub(super) hang: bool,
    pub(super) before: Duration,
    pub(super) after: Duration,
    pub(super) fail: Option<(f64, u16)>,
    pub(super) spoil: Option<(f64, Spoilt)>,
    /// The affected operations; empty for all.
    pub(super) only: Vec<Operation>,
    pub(super) drop_pushes: f64,
    pub(super) delay_pushes: Option<(f64, Duration)>,
    pub(super) double_pushes: f64,
    pub(super) reorder_pushes: f64,
    /// `None` for the timeout in the settings.
    pub(super) idle_timeouts: Option<IdleTimeouts>,
    pub(super) dice: fastrand::Rng,
    /// A generator of its own, because the times at which connections become idle vary and must not shift other faults.
    pub(super) idle_dice: fastrand::Rng,
}

/// The range of the time after which an idle connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IdleTimeouts {
    shortest: Duration,
    longest: Duration,
}

/// The faults that the console shows and sets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct FaultSettings {
    hang: bool,
    delay_requests_ms: u64,
    delay_answers_ms: u64,
    fail_share: f64,
    fail_status: u16,
    spoil_share: f64,
    spoilt: Spoilt,
    /// `None` for all operations.
    only: Option<Operation>,
    drop_pushes: f64,
    delay_pushes: f64,
    delay_pushes_ms: u64,
    double_pushes: f64,
    reorder_pushes: f64,
}

impl Default for FaultSettings {
    fn default() -> Self {
        FaultSettings {
            hang: false,
            delay_requests_ms: 0,
            delay_answers_ms: 0,
            fail_share: 0.0,
            fail_status: 503,
            spoil_share: 0.0,
            spoilt: Spoilt::CutOff,
            only: None,
            drop_pushes: 0.0,
            delay_pushes: 0.0,
            delay_pushes_ms: 1000,
            double_pushes: 0.0,
            reorder_pushes: 0.0,
        }
    }
}

impl FaultSettings {
    pub(super) fn check(&self) -> Result<(), String> {
        let shares = [
            self.fail_share,
            self.spoil_share,
            self.drop_pushes,
            self.delay_pushes,
            self.double_pushes,
            self.reorder_pushes,
        ];
        if !shares.iter().all(|share| (0.0..=1.0).contains(share)) {
            return Err("a share must be between 0 and 1".into());
        }
        if !(400..600).contains(&self.fail_status) {
            return Err("the status of a failure must be between 400 and 599".into());
        }
        Ok(())
    }
}

/// The faults that one request meets.
///
/// Drawn once, when the request arrives.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Plan {
    pub(crate) before: Duration,
    pub(crate) fail: Option<u16>,
    pub(crate) after: Duration,
    pub(crate) spoil: Option<Spoilt>,
}

/// The fate of one push.
pub(crate) enum PushFate {
    Sent,
    Dropped,
    Doubled,
    Delayed(Duration),
    /// Sent after the next push to the same receiver.
    Overtaken,
}

impl Default for ActiveFaults {
    fn default() -> Self {
        ActiveFaults {
            hang: false,
            before: Duration::ZERO,
            after: Duration::ZERO,
            fail: None,
            spoil: None,
            only: Vec::new(),
            drop_pushes: 0.0,
            delay_pushes: None,
            double_pushes: 0.0,
            reorder_pushes: 0.0,
            idle_timeouts: None,
            dice: fastrand::Rng::with_seed(0),
            idle_dice: fastrand::Rng::with_seed(0),
        }
    }
}

impl ActiveFaults {
    /// Whether the faults of requests apply to this operation. If they are limited to some operations, requests without
    /// an operation have no faults.
    fn concern(&self, operation: Option<Operation>) -> bool {
        self.only.is_empty() || operation.is_some_and(|operation| self.only.contains(&operation))
    }

    pub(crate) fn hang(&self, operation: Option<Operation>) -> bool {
        self.hang && self.concern(operation)
    }

    pub(crate) fn plan(&mut self, operation: Option<Operation>) -> Plan {
        if !self.concern(operation) {
            return Plan::default();
        }
        let (fail, spoil) = (self.fail, self.spoil);
        Plan {
            before: self.before,
            fail: fail.and_then(|(share, status)| self.hits(share).then_some(status)),
            after: self.after,
            spoil: spoil.and_then(|(share, spoilt)| self.hits(share).then_some(spoilt)),
        }
    }

    /// Draws the fate of one datagram, also of one that is sent again.
    pub(crate) fn push_fate(&mut self) -> PushFate {
        if self.hits(self.drop_pushes) {
            return PushFate::Dropped;
        }
        if let Some((share, by)) = self.delay_pushes
            && self.hits(share)
        {
            return PushFate::Delayed(by);
        }
        if self.hits(self.double_pushes) {
            return PushFate::Doubled;
        }
        if self.hits(self.reorder_pushes) {
            return PushFate::Overtaken;
        }
        PushFate::Sent
    }

    pub(crate) fn settings(&self) -> FaultSettings {
        let millis = |time: Duration| time.as_millis() as u64;
        let defaults = FaultSettings::default();
        let (fail_share, fail_status) = self.fail.unwrap_or((0.0, defaults.fail_status));
        let (spoil_share, spoilt) = self.spoil.unwrap_or((0.0, defaults.spoilt));
        let (delay_pushes, delay) = self.delay_pushes.unwrap_or((0.0, Duration::from_millis(defaults.delay_pushes_ms)));
        FaultSettings {
            hang: self.hang,
            delay_requests_ms: millis(self.before),
            delay_answers_ms: millis(self.after),
            fail_share,
            fail_status,
            spoil_share,
            spoilt,
            only: self.only.first().copied(),
            drop_pushes: self.drop_pushes,
            delay_pushes,
            delay_pushes_ms: millis(delay),
            double_pushes: self.double_pushes,
            reorder_pushes: self.reorder_pushes,
        }
    }

    pub(super) fn apply(&mut self, wanted: FaultSettings) {
        let time = |millis| Duration::from_millis(millis).min(LONGEST_DURATION);
        self.hang = wanted.hang;
        self.before = time(wanted.delay_requests_ms);
        self.after = time(wanted.delay_answers_ms);
        self.fail = (wanted.fail_share > 0.0).then_some((wanted.fail_share, wanted.fail_status));
        self.spoil = (wanted.spoil_share > 0.0).then_some((wanted.spoil_share, wanted.spoilt));
        self.only = wanted.only.into_iter().collect();
        self.drop_pushes = wanted.drop_pushes;
        self.delay_pushes = (wanted.delay_pushes > 0.0).then_some((wanted.delay_pushes, time(wanted.delay_pushes_ms)));
        self.double_pushes = wanted.double_pushes;
        self.reorder_pushes = wanted.reorder_pushes;
    }

    pub(crate) fn draw(&mut self, timeouts: IdleTimeouts) -> Duration {
        let IdleTimeouts { shortest, longest } = timeouts;
        shortest + (longest - shortest).mul_f64(self.idle_dice.f64())
    }

    /// Draws only for an active fault, so that one fault does not shift the sequence of another.
    fn hits(&mut self, share: f64) -> bool {
        share > 0.0 && (share >= 1.0 || self.dice.f64() < share)
    }
}

impl IdleTimeouts {
    pub(crate) fn always(timeout: Duration) -> Self {
        Self::between(timeout, timeout)
    }

    pub(super) fn between(one: Duration, other: Duration) -> Self {
        let (one, other) = (one.min(LONGEST_DURATION), other.min(LONGEST_DURATION));
        IdleTimeouts { shortest: one.min(other), longest: one.max(other) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_draws_the_same_faults() {
        let draw = || {
            let mut faults = ActiveFaults { fail: Some((0.3, 503)), ..ActiveFaults::default() };
            (0..1000).map(|_| faults.plan(None).fail.is_some()).collect::<Vec<_>>()
        };
        assert_eq!(draw(), draw());
        let hits = draw().into_iter().filter(|hit| *hit).count();
        assert!((250..350).contains(&hits), "{hits} of 1000 at a share of 0.3");
    }

    #[test]
    fn faults_affect_only_the_selected_operations() {
        let mut faults =
            ActiveFaults { fail: Some((1.0, 503)), only: vec![Operation::Login], ..ActiveFaults::default() };
        assert_eq!(faults.plan(Some(Operation::List)), Plan::default());
        assert_eq!(faults.plan(None), Plan::default());
        assert_eq!(faults.plan(Some(Operation::Login)).fail, Some(503));
    }
}
