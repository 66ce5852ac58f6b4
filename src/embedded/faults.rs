//! Bad days to order.

use std::{
    fmt,
    ops::RangeInclusive,
    sync::{Arc, MutexGuard},
    time::Duration,
};

use crate::{config::LONGEST_DURATION, error::Operation};

use super::{shared::Shared, state::State};

/// Orders faults while the server runs. A clone orders from the same server; orders last until taken back.
///
/// A share is a part of all cases, from 0 (never) to 1 (always). Which cases it hits is drawn from a generator with a
/// fixed start, so that a test meets the same faults in every run ([`seed`](Faults::seed) gives another draw).
///
/// ```
/// # use actix_nacos::embedded::{EmbeddedServer, Spoilt};
/// # use std::time::Duration;
/// let server = EmbeddedServer::start()?;
/// let faults = server.faults();
/// faults.fail_share(0.3, 503);
/// faults.spoil_share(0.1, Spoilt::CutOff);
/// faults.delay_answers(Duration::from_millis(200));
/// // … what does your application do now?
/// faults.clear();
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone)]
pub struct Faults {
    pub(crate) shared: Arc<Shared>,
}

/// What becomes of an answer. The request has been served all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Spoilt {
    /// Half of the body, then the connection is closed.
    CutOff,
    /// JSON in which every field known to clients has a wrong type.
    WrongType,
    /// A proxy's page in HTML, with status 200.
    Html,
    /// 64 MiB.
    TooLarge,
}

/// What has been ordered.
#[derive(Debug)]
pub(crate) struct Orders {
    hang: bool,
    before: Duration,
    after: Duration,
    fail: Option<(f64, u16)>,
    spoil: Option<(f64, Spoilt)>,
    /// All operations when empty.
    only: Vec<Operation>,
    drop_pushes: f64,
    delay_pushes: Option<(f64, Duration)>,
    double_pushes: f64,
    reorder_pushes: f64,
    /// The setting's when none.
    pub(crate) idle_timeouts: Option<IdleTimeouts>,
    dice: fastrand::Rng,
    /// Of its own: when connections become idle is a matter of time, and must not shift other faults.
    idle_dice: fastrand::Rng,
}

/// The shortest and the longest time after which an idle connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IdleTimeouts {
    shortest: Duration,
    longest: Duration,
}

/// What a request will meet.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Plan {
    pub(crate) before: Duration,
    pub(crate) fail: Option<u16>,
    pub(crate) after: Duration,
    pub(crate) spoil: Option<Spoilt>,
}

pub(crate) enum PushFate {
    Sent,
    Dropped,
    Doubled,
    Delayed(Duration),
    /// The next one to the same receiver goes first.
    Overtaken,
}

impl Default for Orders {
    fn default() -> Self {
        Orders {
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

impl Orders {
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

    pub(crate) fn draw(&mut self, timeouts: IdleTimeouts) -> Duration {
        let IdleTimeouts { shortest, longest } = timeouts;
        shortest + (longest - shortest).mul_f64(self.idle_dice.f64())
    }

    /// Draws only where there is something to draw, so that one fault does not shift another's.
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
        f.debug_struct("Faults").field("orders", &*self.orders()).finish_non_exhaustive()
    }
}

impl Faults {
    fn orders(&self) -> MutexGuard<'_, Orders> {
        self.shared.orders()
    }

    fn order(&self, change: impl FnOnce(&mut Orders)) {
        change(&mut self.orders());
        self.shared.orders_changed.notify_waiters();
        self.shared.with(State::send_postponed);
    }

    /// Takes back all orders: connections are accepted, what hangs goes on, and the clock is right again.
    /// What has been forgotten or has expired stays so.
    pub fn clear(&self) {
        self.order(|orders| *orders = Orders::default());
        self.skew_clock(0);
        self.accept_connections();
    }

    /// Begins the draws anew, from `seed`.
    pub fn seed(&self, seed: u64) {
        self.order(|orders| {
            orders.dice = fastrand::Rng::with_seed(seed);
            orders.idle_dice = fastrand::Rng::with_seed(seed);
        });
    }

    /// Limits the faults of requests (hanging, delays, failures, spoilt answers) to some operations; to all when empty.
    pub fn only_for(&self, operations: &[Operation]) {
        self.order(|orders| orders.only = operations.to_vec());
    }

    /// Closes all connections and the port, as a server that is down does. What is registered stays, and grows old.
    /// Nothing is pushed meanwhile, and what was queued or changes meanwhile is not pushed afterwards either.
    pub fn refuse_connections(&self) {
        self.shared.stop_listening();
    }

    /// Takes [`refuse_connections`](Faults::refuse_connections) back.
    ///
    /// Should another program have taken the port meanwhile, connections stay refused.
    pub fn accept_connections(&self) {
        self.shared.listen_again();
    }

    /// Closes connections that have been idle for so long, open ones included, instead of after the
    /// [`idle_timeout`](super::EmbeddedServerBuilder::idle_timeout) that the server was built with.
    pub fn idle_timeout(&self, timeout: Duration) {
        self.order(|orders| orders.idle_timeouts = Some(IdleTimeouts::always(timeout)));
    }

    /// Closes idle connections at random: whenever a connection becomes idle, a timeout within `timeouts` is drawn for
    /// it. Proxies and load balancers do so.
    pub fn random_idle_timeout(&self, timeouts: RangeInclusive<Duration>) {
        let (one, other) = timeouts.into_inner();
        self.order(|orders| orders.idle_timeouts = Some(IdleTimeouts::between(one, other)));
    }

    /// Takes requests in and answers none, until told otherwise; then they are served. Unless
    /// [`only_for`](Faults::only_for) limits this to some operations, pushes wait as long, too.
    pub fn hang(&self, hang: bool) {
        self.order(|orders| orders.hang = hang);
    }

    /// Waits before a request is served: who gives up meanwhile has changed nothing. Zero takes it back.
    pub fn delay_requests(&self, by: Duration) {
        self.order(|orders| orders.before = by.min(LONGEST_DURATION));
    }

    /// Waits after a request has been served: who gives up meanwhile has changed something all the same. Zero takes it
    /// back.
    pub fn delay_answers(&self, by: Duration) {
        self.order(|orders| orders.after = by.min(LONGEST_DURATION));
    }

    /// Answers a share of the requests with `status` (500, 502, 503, …) without serving them.
    pub fn fail_share(&self, share: f64, status: u16) {
        self.order(|orders| orders.fail = Some((share, status)));
    }

    /// Spoils a share of the answers.
    pub fn spoil_share(&self, share: f64, spoilt: Spoilt) {
        self.order(|orders| orders.spoil = Some((share, spoilt)));
    }

    /// Forgets an instance, as a server does that its owner never registered with; subscribers are told. `service` is
    /// `name` or `GROUP@@name` in the namespace `public`. False when there was none.
    pub fn forget_instance(&self, service: &str, ip: &str, port: u16) -> bool {
        self.shared.with(|state| state.forget_instance(service, ip, port))
    }

    /// Forgets all services, instances and subscribers, but keeps connections and tokens: nobody notices at once.
    pub fn forget_everything(&self) {
        self.shared.with(|state| state.forget_registrations());
    }

    /// Lets all tokens be expired now.
    pub fn expire_tokens(&self) {
        self.shared.with(|state| state.sessions.expire_all());
    }

    /// Changes the key that tokens are signed with: all that were given out are refused, until a new login.
    pub fn change_token_key(&self) {
        self.shared.with(|state| state.sessions.forget_tokens());
    }

    /// Sets the time that the server tells (`lastRefTime`, `timestamp`) so many milliseconds ahead, or back when
    /// negative; at most to the ends of `i64`. Timeouts do not care.
    pub fn skew_clock(&self, milliseconds: i64) {
        self.shared.with(|state| state.clock.skew = milliseconds);
    }

    /// Drops a share of the pushes; the server thinks that it has sent them.
    pub fn drop_pushes(&self, share: f64) {
        self.order(|orders| orders.drop_pushes = share);
    }

    /// Sends a share of the pushes later.
    pub fn delay_pushes(&self, share: f64, by: Duration) {
        self.order(|orders| orders.delay_pushes = Some((share, by.min(LONGEST_DURATION))));
    }

    /// Sends a share of the pushes twice.
    pub fn double_pushes(&self, share: f64) {
        self.order(|orders| orders.double_pushes = share);
    }

    /// Sends a share of the pushes after the next one to the same receiver, or after a second if there is none.
    pub fn reorder_pushes(&self, share: f64) {
        self.order(|orders| orders.reorder_pushes = share);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_draws_the_same_faults() {
        let draw = || {
            let mut orders = Orders { fail: Some((0.3, 503)), ..Orders::default() };
            (0..1000).map(|_| orders.plan(None).fail.is_some()).collect::<Vec<_>>()
        };
        assert_eq!(draw(), draw());
        let hits = draw().into_iter().filter(|hit| *hit).count();
        assert!((250..350).contains(&hits), "{hits} of 1000 at a share of 0.3");
    }

    #[test]
    fn faults_concern_only_what_they_are_for() {
        let mut orders = Orders { fail: Some((1.0, 503)), only: vec![Operation::Login], ..Orders::default() };
        assert_eq!(orders.plan(Some(Operation::List)), Plan::default());
        assert_eq!(orders.plan(None), Plan::default());
        assert_eq!(orders.plan(Some(Operation::Login)).fail, Some(503));
    }
}
