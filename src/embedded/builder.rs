//! The settings with which a server is started.
//!
//! The builder is a thin layer over [`Settings`], which has the defaults. Every duration is capped at ten years, so
//! that sums of times never overflow.

use std::{fmt, io, time::Duration};

use super::{dialect::Dialect, settings::Settings, EmbeddedServer};
use crate::config::{AccessKey, LONGEST_DURATION};

/// The settings with which a server is started. The defaults are those of Nacos.
///
/// ```
/// use actix_nacos::embedded::EmbeddedServer;
/// use std::time::Duration;
///
/// // Lists show changes at once, and no instance expires unless the test says so.
/// let server = EmbeddedServer::builder().list_delay(Duration::ZERO).time_stands_still().start()?;
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// | setting | default | on 1.4 |
/// |---|---|---|
/// | [`port`](Self::port) | a free one | |
/// | [`dialect`](Self::dialect) | 2.5 | |
/// | [`heartbeat_timeout`](Self::heartbeat_timeout), [`delete_timeout`](Self::delete_timeout) | 15 s, 30 s | |
/// | [`push_delay`](Self::push_delay), [`push_retry`](Self::push_retry) | 0.5 s, 10 s | 1 s, 10 s |
/// | [`list_delay`](Self::list_delay) | 0.5 s | 0 |
/// | [`subscriber_timeout`](Self::subscriber_timeout) | 30 s | 10 s |
/// | [`cache_millis`](Self::cache_millis) | 10 s | 10 s, or 3 s without pushes |
/// | [`token_ttl`](Self::token_ttl) | 5 h | |
/// | [`idle_timeout`](Self::idle_timeout) | 60 s | |
/// | [`user`](Self::user), [`access_key`](Self::access_key) | none: everybody may do everything | |
#[derive(Clone, Default)]
#[must_use = "a server runs only after `start`"]
pub struct EmbeddedServerBuilder {
    settings: Settings,
}

/// Shows no password.
impl fmt::Debug for EmbeddedServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Settings { port, dialect, context_path, .. } = &self.settings;
        f.debug_struct("EmbeddedServerBuilder")
            .field("port", port)
            .field("dialect", dialect)
            .field("context_path", context_path)
            .finish_non_exhaustive()
    }
}

impl EmbeddedServerBuilder {
    /// Starts the server. Returns when it listens.
    ///
    /// The builder can be cloned before, to start several servers with the same settings.
    ///
    /// # Errors
    /// The port is taken, or no thread or socket is available.
    pub fn start(self) -> io::Result<EmbeddedServer> {
        EmbeddedServer::start_with(self.settings)
    }

    /// Sets the port on 127.0.0.1. Default: 0, a free port.
    ///
    /// Use a fixed port for a server that people or other programs use. Tests use a free one, so that they can run
    /// at the same time.
    pub fn port(mut self, port: u16) -> Self {
        self.settings.port = port;
        self
    }

    /// Sets the version of Nacos that the server behaves like. Default: [`Dialect::V2_5`].
    ///
    /// [`EmbeddedServer::restart_as`] changes it while the server runs.
    ///
    /// ```
    /// use actix_nacos::embedded::{Dialect, EmbeddedServer};
    ///
    /// for dialect in Dialect::all() {
    ///     let server = EmbeddedServer::builder().dialect(dialect).start()?;
    ///     assert_eq!(server.dialect(), dialect);
    /// }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn dialect(mut self, dialect: Dialect) -> Self {
        self.settings.dialect = dialect;
        self
    }

    /// Adds a user, which turns authentication on: requests need a token, or a user name and a password.
    ///
    /// Default: no users, so that requests need no token. A login is then rejected in the same way as by a Nacos whose
    /// authentication is off. Nacos 1.4 accepts `nacos` with the password `nacos` in that case.
    ///
    /// ```
    /// # use actix_nacos::{embedded::EmbeddedServer, prelude::*};
    /// # #[actix::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let server = EmbeddedServer::builder().user("nacos", "secret").start()?;
    /// let without_login = Registry::start(Config::new(server.server_address()))?;
    /// let denied = without_login.send(ListInstances::new("orders")).await?;
    /// assert!(matches!(denied, Err(Error::Unauthorized { .. })));
    ///
    /// let config = Config::new(server.server_address()).credentials("nacos", "secret");
    /// let registry = Registry::start(config)?;
    /// registry.send(ListInstances::new("orders")).await??;
    /// # Ok(())
    /// # }
    /// ```
    pub fn user(mut self, name: impl Into<String>, password: impl Into<String>) -> Self {
        self.settings.users.push((name.into(), password.into()));
        self
    }

    /// Adds an access key, as used by Alibaba Cloud's managed Nacos. Requests must then be signed with one of the keys
    /// (parameters `ak`, `data` and `signature`). If there are users too, requests need both.
    ///
    /// Default: no keys, and signatures are ignored.
    ///
    /// ```
    /// # use actix_nacos::{embedded::EmbeddedServer, prelude::*};
    /// # #[actix::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let server = EmbeddedServer::builder().access_key("the-id", "the-secret").start()?;
    /// let config = Config::new(server.server_address()).access_key("the-id", "the-secret");
    /// let registry = Registry::start(config)?;
    /// registry.send(ListInstances::new("orders")).await??;
    /// # Ok(())
    /// # }
    /// ```
    pub fn access_key(mut self, id: impl Into<String>, secret: impl Into<String>) -> Self {
        let (id, secret) = (id.into(), secret.into());
        self.settings.access_keys.push(AccessKey { id, secret, security_token: None, region: None });
        self
    }

    /// Makes the most recently added [access key](Self::access_key) temporary: requests need `token` in the header
    /// `Spas-SecurityToken`. Without an access key this has no effect.
    pub fn security_token(mut self, token: impl Into<String>) -> Self {
        if let Some(key) = self.settings.access_keys.last_mut() {
            key.security_token = Some(token.into());
        }
        self
    }

    /// Requires signatures of version 4 for `region` with the most recently added [access key](Self::access_key).
    /// Without an access key this has no effect.
    pub fn signature_region(mut self, region: impl Into<String>) -> Self {
        if let Some(key) = self.settings.access_keys.last_mut() {
            key.region = Some(region.into());
        }
        self
    }

    /// Sets the lifetime of a token. Clients receive it in whole seconds, rounded up. Default: 5 hours.
    ///
    /// A short one tests that an application survives expired tokens.
    /// [`Faults::expire_tokens`](super::Faults::expire_tokens) does that at a moment of the test's choice.
    pub fn token_ttl(mut self, ttl: Duration) -> Self {
        self.settings.token_ttl = ttl.min(LONGEST_DURATION);
        self
    }

    /// Sets the time without a beat after which an instance is unhealthy. Default: 15 seconds.
    ///
    /// The metadata `preserved.heart.beat.timeout` of an instance takes precedence. The server asks clients to beat
    /// every 5 seconds, or three times within this timeout if that is shorter.
    ///
    /// Shorten it to see expiries in real time; [`EmbeddedServer::advance`] shows them without waiting.
    pub fn heartbeat_timeout(mut self, timeout: Duration) -> Self {
        self.settings.heartbeat_timeout = timeout.min(LONGEST_DURATION);
        self
    }

    /// Sets the time without a beat after which an instance is removed. Default: 30 seconds. The metadata
    /// `preserved.ip.delete.timeout` of an instance takes precedence.
    ///
    /// If it is shorter than the [heartbeat timeout](Self::heartbeat_timeout), instances are removed without having
    /// been unhealthy.
    pub fn delete_timeout(mut self, timeout: Duration) -> Self {
        self.settings.delete_timeout = timeout.min(LONGEST_DURATION);
        self
    }

    /// Sets how often the server checks each instance for missing beats, and so by how much a timeout may be noticed
    /// late. Default: every 5 seconds, or three times within the shorter of the two timeouts if that is less.
    ///
    /// So an instance without beats is removed after the timeout plus up to one interval.
    pub fn sweep_interval(mut self, interval: Duration) -> Self {
        self.settings.sweep_interval = Some(interval.min(LONGEST_DURATION));
        self
    }

    /// Sets how long clients may use a list (`cacheMillis`). Default: 10 seconds; on 1.4, 3 seconds for clients that
    /// get no pushes.
    ///
    /// Clients poll that often. Shorten it for tests of polling; this crate's clients also keep to
    /// [`Config::poll_interval`](crate::Config::poll_interval).
    pub fn cache_millis(mut self, time: Duration) -> Self {
        self.settings.cache_millis = Some(time.min(LONGEST_DURATION));
        self
    }

    /// Sets how long lists and GET still show the state before a change. Default: as long as changes are collected for
    /// a push (500 milliseconds); on 1.4, zero. The first list of a service always shows the current state, and with
    /// zero every list does.
    ///
    /// With zero a test can list right after it has registered. [`EmbeddedServer::instances`] never waits for this
    /// delay.
    pub fn list_delay(mut self, delay: Duration) -> Self {
        self.settings.list_delay = Some(delay.min(LONGEST_DURATION));
        self
    }

    /// Sets how long changes are collected before they are pushed. Default: 500 milliseconds; on 1.4, 1 second.
    ///
    /// Changes of one service within this time make one push.
    pub fn push_delay(mut self, delay: Duration) -> Self {
        self.settings.push_delay = Some(delay.min(LONGEST_DURATION));
        self
    }

    /// Sets the time after which an unacknowledged push is sent a second and last time. Default: 10 seconds.
    ///
    /// It is sent with its old list, after newer ones, as Nacos does. So clients must order pushes by the time in
    /// the list.
    pub fn push_retry(mut self, time: Duration) -> Self {
        self.settings.push_retry = time.min(LONGEST_DURATION);
        self
    }

    /// Sets how long a subscriber gets pushes without requesting the list again. Default: 30 seconds; on 1.4, 10
    /// seconds.
    ///
    /// Clients renew their subscription with every poll that names a port.
    pub fn subscriber_timeout(mut self, timeout: Duration) -> Self {
        self.settings.subscriber_timeout = Some(timeout.min(LONGEST_DURATION));
        self
    }

    /// Sets how long a connection may be idle, also before its first request, until the server closes it. Default: 60
    /// seconds, like Nacos. With zero a connection is closed as soon as it is idle, usually before its first request.
    /// [`Faults::idle_timeout`](super::Faults::idle_timeout) changes the timeout of a running server.
    ///
    /// Clients keep connections open between requests. With a timeout below their own, they send requests on
    /// closed connections.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.settings.idle_timeout = timeout.min(LONGEST_DURATION);
        self
    }

    /// Sets how long [`EmbeddedServer::restart_empty`] and [`EmbeddedServer::restart_as`] refuse connections before the
    /// server listens again. Default: 300 milliseconds.
    ///
    /// Clients notice a restart by refused connections. With zero they may not: then only the lost data shows it.
    pub fn restart_downtime(mut self, downtime: Duration) -> Self {
        self.settings.restart_downtime = downtime.min(LONGEST_DURATION);
        self
    }

    /// Sets the context path of the API. Default: `/nacos`. An empty path means none.
    ///
    /// A slash at either end does not matter.
    pub fn context_path(mut self, path: &str) -> Self {
        let path = path.trim_matches('/');
        self.settings.context_path = if path.is_empty() { String::new() } else { format!("/{path}") };
        self
    }

    /// Serves a console for the browser at `/`, outside of the context path. It shows services and instances live,
    /// disables, reweights and removes instances, and injects faults. Only a browser on this machine can use it;
    /// requests from the pages of other sites are rejected. Default: no console.
    ///
    /// Anybody who can use this machine can use the console, so leave it off on shared machines.
    pub fn console(mut self) -> Self {
        self.settings.console = true;
        self
    }

    /// Stops the server's clock, so that only [`EmbeddedServer::advance`] moves it: no instance expires and nothing is
    /// pushed in between. Delays of requests and answers that are injected by [`Faults`](super::Faults) still take real
    /// time. Default: the clock runs.
    ///
    /// ```
    /// # use actix_nacos::{embedded::EmbeddedServer, prelude::*};
    /// # use std::time::Duration;
    /// # #[actix::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let server = EmbeddedServer::builder().time_stands_still().start()?;
    /// let registry = Registry::start(Config::new(server.server_address()))?;
    /// registry.send(SendHeartbeat::new("orders", "127.0.0.7", 8080)).await??;
    /// server.advance(Duration::from_secs(16)); // above the heartbeat timeout
    /// assert!(!server.instances("orders")[0].healthy);
    /// # Ok(())
    /// # }
    /// ```
    pub fn time_stands_still(mut self) -> Self {
        self.settings.clock_stands_still = true;
        self
    }
}
