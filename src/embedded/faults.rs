//! Fault injection.

use std::{
    fmt,
    ops::RangeInclusive,
    sync::{Arc, MutexGuard},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{config::LONGEST_DURATION, error::Operation};

use super::{shared::Shared, state::State};

/// Injects faults into a running server. Clones refer to the same server. A fault lasts until it is taken back or
/// [cleared](Faults::clear).
///
/// A share is the part of all cases that a fault affects, from 0 (none) to 1 (all). The affected cases are drawn by a
/// random generator with a fixed seed, so that every run of a test meets the same faults. [`seed`](Faults::seed)
/// selects another sequence.
///
/// ```
/// # use actix_nacos::embedded::{EmbeddedServer, Spoilt};
/// # use std::time::Duration;
/// let server = EmbeddedServer::start()?;
/// let faults = server.faults();
/// faults.fail_share(0.3, 503);
/// faults.spoil_share(0.1, Spoilt::CutOff);
/// faults.delay_answers(Duration::from_millis(200));
/// // … observe how your application behaves
/// faults.clear();
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone)]
pub struct Faults {
    pub(crate) shared: Arc<Shared>,
}

/// A fault in an answer. The request itself has been served.
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
    hang: bool,
    before: Duration,
    after: Duration,
    fail: Option<(f64, u16)>,
    spoil: Option<(f64, Spoilt)>,
    /// The affected operations; empty for all.
    only: Vec<Operation>,
    drop_pushes: f64,
    delay_pushes: Option<(f64, Duration)>,
    double_pushes: f64,
    reorder_pushes: f64,
    /// `None` for the timeout in the settings.
    pub(crate) idle_timeouts: Option<IdleTimeouts>,
    dice: fastrand::Rng,
    /// A generator of its own, because the times at which connections become idle vary and must not shift other faults.
    idle_dice: fastrand::Rng,
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
    fn check(&self) -> Result<(), String> {
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

    pub(crate) fn push_fate(&mut self) -> PushFate {
        if self.hits(self.drop_pushes) {
            return PushFate::Dropped;
        }
        if let Some((share, by)) = self.delay_pushes {
            if self.hits(share) {
                return PushFate::Delayed(by);
            }
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

    fn apply(&mut self, wanted: FaultSettings) {
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

    fn between(one: Duration, other: Duration) -> Self {
        let (one, other) = (one.min(LONGEST_DURATION), other.min(LONGEST_DURATION));
        IdleTimeouts { shortest: one.min(other), longest: one.max(other) }
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faults").field("faults", &*self.faults()).finish_non_exhaustive()
    }
}

impl Faults {
    fn faults(&self) -> MutexGuard<'_, ActiveFaults> {
        self.shared.faults()
    }

    fn set(&self, change: impl FnOnce(&mut ActiveFaults)) {
        change(&mut self.faults());
        self.shared.faults_changed.notify_waiters();
        self.shared.with(State::send_postponed);
    }

    /// Sets the faults that the console shows, and leaves the other faults as they are.
    pub(crate) fn apply(&self, wanted: FaultSettings) -> Result<(), String> {
        wanted.check()?;
        self.set(|faults| faults.apply(wanted));
        Ok(())
    }

    /// Takes all faults back: the server accepts connections, requests that hang continue, and the clock is right
    /// again. Data that has been forgotten or has expired stays lost.
    pub fn clear(&self) {
        self.set(|faults| *faults = ActiveFaults::default());
        self.skew_clock(0);
        self.accept_connections();
    }

    /// Restarts the random generators with `seed`.
    pub fn seed(&self, seed: u64) {
        self.set(|faults| {
            faults.dice = fastrand::Rng::with_seed(seed);
            faults.idle_dice = fastrand::Rng::with_seed(seed);
        });
    }

    /// Limits the faults of requests (hanging, delays, failures, spoilt answers) to some operations. An empty slice
    /// stands for all operations.
    ///
    /// ```
    /// # use actix_nacos::{embedded::EmbeddedServer, Operation};
    /// # let server = EmbeddedServer::start()?;
    /// server.faults().only_for(&[Operation::Beat]);
    /// server.faults().fail_share(1.0, 500);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn only_for(&self, operations: &[Operation]) {
        self.set(|faults| faults.only = operations.to_vec());
    }

    /// Closes all connections and the port, like a server that is down. Registrations stay, and expire as usual.
    /// Nothing is pushed meanwhile, and changes of this time are not pushed afterwards either.
    pub fn refuse_connections(&self) {
        self.shared.stop_listening();
    }

    /// Takes [`refuse_connections`](Faults::refuse_connections) back. If another program has taken the port meanwhile,
    /// the server continues to refuse connections.
    pub fn accept_connections(&self) {
        self.shared.listen_again();
    }

    /// Closes connections, also those already open, after this idle time instead of the
    /// [`idle_timeout`](super::EmbeddedServerBuilder::idle_timeout) in the settings.
    pub fn idle_timeout(&self, timeout: Duration) {
        self.set(|faults| faults.idle_timeouts = Some(IdleTimeouts::always(timeout)));
    }

    /// Closes idle connections at random times, as proxies and load balancers do. A timeout within `timeouts` is drawn
    /// whenever a connection becomes idle.
    pub fn random_idle_timeout(&self, timeouts: RangeInclusive<Duration>) {
        let (one, other) = timeouts.into_inner();
        self.set(|faults| faults.idle_timeouts = Some(IdleTimeouts::between(one, other)));
    }

    /// Receives requests without serving them, until this is called with `false`; then they are served. Pushes wait as
    /// well, unless [`only_for`](Faults::only_for) limits the faults to some operations.
    pub fn hang(&self, hang: bool) {
        self.set(|faults| faults.hang = hang);
    }

    /// Waits before a request is served. A client that gives up meanwhile has changed nothing. Zero takes the delay
    /// back.
    pub fn delay_requests(&self, by: Duration) {
        self.set(|faults| faults.before = by.min(LONGEST_DURATION));
    }

    /// Waits between serving a request and answering it. A client that gives up meanwhile has still made its change.
    /// Zero takes the delay back.
    ///
    /// ```
    /// # use actix_nacos::{embedded::EmbeddedServer, prelude::*};
    /// # use std::time::Duration;
    /// # #[actix::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let server = EmbeddedServer::start()?;
    /// let config = Config::new(server.server_address()).operation_timeout(Duration::from_millis(100));
    /// let registry = Registry::start(config)?;
    /// server.faults().delay_answers(Duration::from_secs(1));
    /// let late = registry.send(RegisterInstance::new("orders", "127.0.0.7", 8080)).await?;
    /// assert!(matches!(late, Err(Error::Timeout { .. })));
    /// # server.faults().clear();
    /// # Ok(())
    /// # }
    /// ```
    pub fn delay_answers(&self, by: Duration) {
        self.set(|faults| faults.after = by.min(LONGEST_DURATION));
    }

    /// Answers a share of the requests with `status` (500, 502, 503, …) without serving them. A share of 0 takes this
    /// back.
    pub fn fail_share(&self, share: f64, status: u16) {
        self.set(|faults| faults.fail = Some((share, status)));
    }

    /// Spoils a share of the answers. A share of 0 takes this back.
    pub fn spoil_share(&self, share: f64, spoilt: Spoilt) {
        self.set(|faults| faults.spoil = Some((share, spoilt)));
    }

    /// Forgets an instance as if it had never been registered, and notifies subscribers. `service` is `name` or
    /// `GROUP@@name` in the namespace `public`. Returns whether there was such an instance.
    pub fn forget_instance(&self, service: &str, ip: &str, port: u16) -> bool {
        self.shared.with(|state| state.forget_instance(service, ip, port))
    }

    /// Forgets all services, instances and subscribers, but keeps connections and tokens, so that clients do not notice
    /// at once.
    pub fn forget_everything(&self) {
        self.shared.with(|state| state.forget_registrations());
    }

    /// Expires all tokens.
    pub fn expire_tokens(&self) {
        self.shared.with(|state| state.sessions.expire_all());
    }

    /// Changes the key that tokens are signed with. All existing tokens are rejected from now on.
    pub fn change_token_key(&self) {
        self.shared.with(|state| state.sessions.forget_tokens());
    }

    /// Moves the time in answers (`lastRefTime`, `timestamp`) forward by this many milliseconds, or back if negative,
    /// limited to the range of `i64`. Timeouts are not affected.
    pub fn skew_clock(&self, milliseconds: i64) {
        self.shared.with(|state| state.clock.skew = milliseconds);
    }

    /// Drops a share of the pushes, which still count as sent. A share of 0 takes this back.
    pub fn drop_pushes(&self, share: f64) {
        self.set(|faults| faults.drop_pushes = share);
    }

    /// Delays a share of the pushes by `by`. A share of 0 takes this back.
    pub fn delay_pushes(&self, share: f64, by: Duration) {
        self.set(|faults| faults.delay_pushes = Some((share, by.min(LONGEST_DURATION))));
    }

    /// Sends a share of the pushes twice. A share of 0 takes this back.
    pub fn double_pushes(&self, share: f64) {
        self.set(|faults| faults.double_pushes = share);
    }

    /// Sends a share of the pushes after the next push to the same receiver, or after a second if there is none. A
    /// share of 0 takes this back.
    pub fn reorder_pushes(&self, share: f64) {
        self.set(|faults| faults.reorder_pushes = share);
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
