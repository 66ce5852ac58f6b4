//! The handle that injects faults.

use std::{
    fmt,
    ops::RangeInclusive,
    sync::{Arc, MutexGuard},
    time::Duration,
};

use crate::{config::LONGEST_DURATION, error::Operation};

use super::{
    active_faults::{ActiveFaults, FaultSettings, IdleTimeouts, Spoilt},
    shared::Shared,
    state::State,
};

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
