//! The application's handle for fault injection. It sets the [active faults](super::active_faults).
//!
//! A change takes effect for later requests and pushes. Requests that are under way keep their faults, except those
//! that hang.

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
///
/// | a client that survives | needs |
/// |---|---|
/// | [`refuse_connections`](Self::refuse_connections) | other servers, or patience |
/// | [`hang`](Self::hang), [`delay_requests`](Self::delay_requests) | time limits |
/// | [`delay_answers`](Self::delay_answers) | requests that may arrive twice |
/// | [`fail_share`](Self::fail_share), [`spoil_share`](Self::spoil_share) | retries, and checks of answers |
/// | [`idle_timeout`](Self::idle_timeout) | retries on a new connection |
/// | [`forget_everything`](Self::forget_everything) | to read answers to heartbeats, and to register again |
/// | [`expire_tokens`](Self::expire_tokens), [`change_token_key`](Self::change_token_key) | to log in again |
/// | [`drop_pushes`](Self::drop_pushes), [`reorder_pushes`](Self::reorder_pushes) | to poll, and to order lists |
/// | [`skew_clock`](Self::skew_clock) | not to compare clocks of different servers |
///
/// Faults add up: a request may be delayed and then fail. [`only_for`](Self::only_for) limits the faults of requests to
/// some operations. A share outside of 0 to 1 counts as the nearer bound.
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
    ///
    /// Call it to end the faults of a test, then wait for the effect that the test expects. It also resets the
    /// seed.
    pub fn clear(&self) {
        self.set(|faults| *faults = ActiveFaults::default());
        self.skew_clock(0);
        self.accept_connections();
    }

    /// Restarts the random generators with `seed`.
    ///
    /// Without this call the seed is 0. A test that looks for rare orders of events tries many seeds, and prints
    /// the one that fails.
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
    ///
    /// Limits the faults that are set now and those that are set later. Pushes, refused connections and idle
    /// timeouts are not limited.
    pub fn only_for(&self, operations: &[Operation]) {
        self.set(|faults| faults.only = operations.to_vec());
    }

    /// Closes all connections and the port, like a server that is down. Registrations stay, and expire as usual.
    /// Nothing is pushed meanwhile, and changes of this time are not pushed afterwards either.
    ///
    /// Returns when the port is closed. Clients with an open connection notice at once, others with their next
    /// request.
    ///
    /// ```
    /// # use actix_nacos::{embedded::EmbeddedServer, prelude::*};
    /// # use std::time::Duration;
    /// # #[actix::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let server = EmbeddedServer::start()?;
    /// let config = Config::new(server.server_address()).operation_timeout(Duration::from_millis(200));
    /// let registry = Registry::start(config)?;
    /// server.faults().refuse_connections();
    /// let failed = registry.send(ListInstances::new("orders")).await?;
    /// assert!(failed.is_err_and(|error| error.is_retryable()));
    /// server.faults().accept_connections();
    /// # Ok(())
    /// # }
    /// ```
    pub fn refuse_connections(&self) {
        self.shared.stop_listening();
    }

    /// Takes [`refuse_connections`](Faults::refuse_connections) back. If another program has taken the port meanwhile,
    /// the server continues to refuse connections.
    ///
    /// Returns when the server listens. Without a call of `refuse_connections` before, nothing happens.
    pub fn accept_connections(&self) {
        self.shared.listen_again();
    }

    /// Closes connections, also those already open, after this idle time instead of the
    /// [`idle_timeout`](super::EmbeddedServerBuilder::idle_timeout) in the settings.
    ///
    /// A short one makes clients send requests on connections that the server has just closed, as a proxy with a
    /// short keep-alive does.
    pub fn idle_timeout(&self, timeout: Duration) {
        self.set(|faults| faults.idle_timeouts = Some(IdleTimeouts::always(timeout)));
    }

    /// Closes idle connections at random times, as proxies and load balancers do. A timeout within `timeouts` is drawn
    /// whenever a connection becomes idle.
    ///
    /// ```
    /// # use actix_nacos::embedded::EmbeddedServer;
    /// # use std::time::Duration;
    /// # let server = EmbeddedServer::start()?;
    /// server.faults().random_idle_timeout(Duration::ZERO..=Duration::from_millis(500));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn random_idle_timeout(&self, timeouts: RangeInclusive<Duration>) {
        let (one, other) = timeouts.into_inner();
        self.set(|faults| faults.idle_timeouts = Some(IdleTimeouts::between(one, other)));
    }

    /// Receives requests without serving them, until this is called with `false`; then they are served. Pushes wait as
    /// well, unless [`only_for`](Faults::only_for) limits the faults to some operations.
    ///
    /// Clients see a server that accepts connections and never answers, which is what an overloaded or stopped
    /// process looks like.
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
    ///
    /// The body is the text `injected fault: 503`. A Registry repeats requests that get a 5xx or 429, and takes any
    /// other status as a rejection.
    pub fn fail_share(&self, share: f64, status: u16) {
        self.set(|faults| faults.fail = Some((share, status)));
    }

    /// Spoils a share of the answers. A share of 0 takes this back.
    ///
    /// The server has served the request: a registration whose answer is spoilt is registered.
    pub fn spoil_share(&self, share: f64, spoilt: Spoilt) {
        self.set(|faults| faults.spoil = Some((share, spoilt)));
    }

    /// Forgets an instance as if it had never been registered, and notifies subscribers. `service` is `name` or
    /// `GROUP@@name` in the namespace `public`. Returns whether there was such an instance.
    ///
    /// The next light heartbeat of its owner is answered "unknown instance" (20404, on v3 21003). A client that reads
    /// the answer registers the instance again, as this crate's Registry does. A full heartbeat registers it at once.
    ///
    /// ```
    /// # use actix_nacos::{embedded::EmbeddedServer, prelude::*};
    /// # #[actix::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let server = EmbeddedServer::start()?;
    /// # let registry = Registry::start(Config::new(server.server_address()))?;
    /// registry.send(RegisterInstance::new("orders", "127.0.0.7", 8080)).await??;
    /// assert!(server.faults().forget_instance("orders", "127.0.0.7", 8080));
    /// assert!(server.instances("orders").is_empty());
    /// # Ok(())
    /// # }
    /// ```
    pub fn forget_instance(&self, service: &str, ip: &str, port: u16) -> bool {
        self.shared.with(|state| state.forget_instance(service, ip, port))
    }

    /// Forgets all services, instances and subscribers, but keeps connections and tokens, so that clients do not notice
    /// at once.
    ///
    /// This simulates a server that was restarted behind a load balancer: clients see only lists that are too short.
    pub fn forget_everything(&self) {
        self.shared.with(|state| state.forget_registrations());
    }

    /// Expires all tokens.
    ///
    /// Without users no request needs a token, so clients notice nothing.
    pub fn expire_tokens(&self) {
        self.shared.with(|state| state.sessions.expire_all());
    }

    /// Changes the key that tokens are signed with. All existing tokens are rejected from now on.
    ///
    /// The same happens after a change of `token.secret.key` and a restart of Nacos, or after a change to a server with
    /// another key.
    pub fn change_token_key(&self) {
        self.shared.with(|state| state.sessions.forget_tokens());
    }

    /// Moves the time in answers (`lastRefTime`, `timestamp`) forward by this many milliseconds, or back if negative,
    /// limited to the range of `i64`. Timeouts are not affected.
    ///
    /// Clocks of cluster members differ. A client that changes the server must not drop the new server's lists
    /// because they look older.
    pub fn skew_clock(&self, milliseconds: i64) {
        self.shared.with(|state| state.clock.skew = milliseconds);
    }

    /// Drops a share of the pushes, which still count as sent. A share of 0 takes this back.
    ///
    /// A dropped push is not acknowledged, so it is sent again after
    /// [`push_retry`](super::EmbeddedServerBuilder::push_retry), and may be dropped again.
    pub fn drop_pushes(&self, share: f64) {
        self.set(|faults| faults.drop_pushes = share);
    }

    /// Delays a share of the pushes by `by`. A share of 0 takes this back.
    ///
    /// The delay is measured by the server's clock: with
    /// [`time_stands_still`](super::EmbeddedServerBuilder::time_stands_still) a delayed push waits for an advance.
    pub fn delay_pushes(&self, share: f64, by: Duration) {
        self.set(|faults| faults.delay_pushes = Some((share, by.min(LONGEST_DURATION))));
    }

    /// Sends a share of the pushes twice. A share of 0 takes this back.
    pub fn double_pushes(&self, share: f64) {
        self.set(|faults| faults.double_pushes = share);
    }

    /// Sends a share of the pushes after the next push to the same receiver, or after a second if there is none. A
    /// share of 0 takes this back.
    ///
    /// ```
    /// # use actix_nacos::embedded::EmbeddedServer;
    /// # let server = EmbeddedServer::start()?;
    /// let faults = server.faults();
    /// faults.reorder_pushes(0.5);
    /// faults.double_pushes(0.2);
    /// faults.drop_pushes(0.1);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn reorder_pushes(&self, share: f64) {
        self.set(|faults| faults.reorder_pushes = share);
    }
}
