//! How a server is built.

use std::{fmt, io, time::Duration};

use super::{dialect::Dialect, settings::Settings, EmbeddedServer};
use crate::config::{AccessKey, LONGEST_DURATION};

/// Settings of a server that is yet to start; each has Nacos' default.
#[derive(Clone, Default)]
#[must_use = "a server runs only once it is started"]
pub struct EmbeddedServerBuilder {
    settings: Settings,
}

/// Without the passwords.
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
    /// Starts the server.
    ///
    /// # Errors
    /// The port is taken, or the system has no thread or socket to give.
    pub fn start(self) -> io::Result<EmbeddedServer> {
        EmbeddedServer::start_with(self.settings)
    }

    /// The port on 127.0.0.1. By default, and with 0, a free one.
    pub fn port(mut self, port: u16) -> Self {
        self.settings.port = port;
        self
    }

    /// Whose API it speaks. By default that of Nacos 2.5.
    pub fn dialect(mut self, dialect: Dialect) -> Self {
        self.settings.dialect = dialect;
        self
    }

    /// Adds a user. With at least one, requests need a token (or name and password); without, as by default, none do, and a
    /// login is refused as the originals refuse an unknown user while authentication is off (1.4 knows `nacos`, with the
    /// password `nacos`).
    pub fn user(mut self, name: impl Into<String>, password: impl Into<String>) -> Self {
        self.settings.users.push((name.into(), password.into()));
        self
    }

    /// Adds an access key, as Alibaba Cloud's managed Nacos knows them. With at least one, requests must be signed
    /// with a key (parameters `ak`, `data` and `signature`); without, as by default, signatures are not looked at. Where
    /// there are users, too, requests need both.
    pub fn access_key(mut self, id: impl Into<String>, secret: impl Into<String>) -> Self {
        let (id, secret) = (id.into(), secret.into());
        self.settings.access_keys.push(AccessKey { id, secret, security_token: None, region: None });
        self
    }

    /// Makes the [access key](Self::access_key) added last a temporary one: requests need `token` in the header
    /// `Spas-SecurityToken`.
    pub fn security_token(mut self, token: impl Into<String>) -> Self {
        if let Some(key) = self.settings.access_keys.last_mut() {
            key.security_token = Some(token.into());
        }
        self
    }

    /// Demands signatures of V4, for `region`, from the [access key](Self::access_key) added last.
    pub fn signature_region(mut self, region: impl Into<String>) -> Self {
        if let Some(key) = self.settings.access_keys.last_mut() {
            key.region = Some(region.into());
        }
        self
    }

    /// How long a token holds. By default 5 hours. Clients are told whole seconds, rounded up.
    pub fn token_ttl(mut self, ttl: Duration) -> Self {
        self.settings.token_ttl = ttl.min(LONGEST_DURATION);
        self
    }

    /// After how long without a beat an instance is unhealthy. By default 15 seconds; an instance's metadata
    /// `preserved.heart.beat.timeout` counts before it.
    ///
    /// Clients are told to beat every 5 seconds, or three times within this timeout if it is short.
    pub fn heartbeat_timeout(mut self, timeout: Duration) -> Self {
        self.settings.heartbeat_timeout = timeout.min(LONGEST_DURATION);
        self
    }

    /// After how long without a beat an instance is removed. By default 30 seconds; an instance's metadata
    /// `preserved.ip.delete.timeout` counts before it.
    pub fn delete_timeout(mut self, timeout: Duration) -> Self {
        self.settings.delete_timeout = timeout.min(LONGEST_DURATION);
        self
    }

    /// How often each instance is looked at for missing beats: timeouts are noticed that much later. By default every 5
    /// seconds, or three times within the shorter of the two timeouts if that is less.
    pub fn sweep_interval(mut self, interval: Duration) -> Self {
        self.settings.sweep_interval = Some(interval.min(LONGEST_DURATION));
        self
    }

    /// How long clients are told to keep a list (`cacheMillis`). By default 10 seconds; 3 seconds on 1.4 for clients
    /// that are not pushed to.
    pub fn cache_millis(mut self, time: Duration) -> Self {
        self.settings.cache_millis = Some(time.min(LONGEST_DURATION));
        self
    }

    /// How long lists and single instances are shown as they were before a change. By default as long as changes are
    /// gathered for a push (500 milliseconds); not at all on 1.4. The first list of a service shows it as it is. With
    /// zero every list does.
    pub fn list_delay(mut self, delay: Duration) -> Self {
        self.settings.list_delay = Some(delay.min(LONGEST_DURATION));
        self
    }

    /// How long changes are gathered before they are pushed. By default 500 milliseconds; 1 second on 1.4.
    pub fn push_delay(mut self, delay: Duration) -> Self {
        self.settings.push_delay = Some(delay.min(LONGEST_DURATION));
        self
    }

    /// After how long a push that nobody acknowledged is sent again, once. By default 10 seconds.
    pub fn push_retry(mut self, time: Duration) -> Self {
        self.settings.push_retry = time.min(LONGEST_DURATION);
        self
    }

    /// How long a subscriber is pushed to without asking for the list again. By default 30 seconds; 10 seconds on 1.4.
    pub fn subscriber_timeout(mut self, timeout: Duration) -> Self {
        self.settings.subscriber_timeout = Some(timeout.min(LONGEST_DURATION));
        self
    }

    /// How long a connection may be idle, also before its first request, until the server closes it. By default 60
    /// seconds, as on the originals. With zero a connection is closed as soon as it is idle, as a rule before its
    /// first request. [`Faults::idle_timeout`](super::Faults::idle_timeout) changes it at run time.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.settings.idle_timeout = timeout.min(LONGEST_DURATION);
        self
    }

    /// How long [`EmbeddedServer::restart_empty`] and [`EmbeddedServer::restart_as`] refuse connections before they
    /// listen again. By default 300 milliseconds.
    pub fn restart_downtime(mut self, downtime: Duration) -> Self {
        self.settings.restart_downtime = downtime.min(LONGEST_DURATION);
        self
    }

    /// The path below which the API is. By default `/nacos`; empty for none.
    pub fn context_path(mut self, path: &str) -> Self {
        let path = path.trim_matches('/');
        self.settings.context_path = if path.is_empty() { String::new() } else { format!("/{path}") };
        self
    }

    /// Lets the server's time stand still, to be moved on by [`EmbeddedServer::advance`] alone: no instance expires and
    /// nothing is pushed in between. Delays ordered by [`Faults`](super::Faults) for requests and answers are real time
    /// all the same.
    pub fn time_stands_still(mut self) -> Self {
        self.settings.clock_stands_still = true;
        self
    }
}
