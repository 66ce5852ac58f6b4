//! The settings of a server.
//!
//! `None` means "as the dialect does". So a change of the dialect by a restart changes these defaults, and not what
//! the application has set.

use std::time::Duration;

use super::dialect::Dialect;
use crate::config::AccessKey;

/// What [`EmbeddedServerBuilder`](super::EmbeddedServerBuilder) collects. Lives as long as the server; restarts
/// keep it.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) port: u16,
    pub(crate) dialect: Dialect,
    /// Names and passwords. Authentication is on if there are any.
    pub(crate) users: Vec<(String, String)>,
    /// Requests must be signed if there are any keys.
    pub(crate) access_keys: Vec<AccessKey>,
    pub(crate) token_ttl: Duration,
    pub(crate) heartbeat_timeout: Duration,
    pub(crate) delete_timeout: Duration,
    pub(crate) sweep_interval: Option<Duration>,
    pub(crate) cache_millis: Option<Duration>,
    pub(crate) list_delay: Option<Duration>,
    pub(crate) push_delay: Option<Duration>,
    pub(crate) push_retry: Duration,
    pub(crate) subscriber_timeout: Option<Duration>,
    pub(crate) context_path: String,
    pub(crate) clock_stands_still: bool,
    pub(crate) console: bool,
    pub(crate) idle_timeout: Duration,
    pub(crate) restart_downtime: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            port: 0,
            dialect: Dialect::default(),
            users: Vec::new(),
            access_keys: Vec::new(),
            token_ttl: Duration::from_secs(18_000),
            heartbeat_timeout: Duration::from_secs(15),
            delete_timeout: Duration::from_secs(30),
            sweep_interval: None,
            cache_millis: None,
            list_delay: None,
            push_delay: None,
            push_retry: Duration::from_secs(10),
            subscriber_timeout: None,
            context_path: "/nacos".into(),
            clock_stands_still: false,
            console: false,
            // The default of Tomcat in Spring Boot, which Nacos uses.
            idle_timeout: Duration::from_secs(60),
            restart_downtime: Duration::from_millis(300),
        }
    }
}

impl Settings {
    /// 5 s like Nacos, or less if the timeouts are short.
    pub(crate) fn sweep_interval(&self) -> Duration {
        let shortest = self.heartbeat_timeout.min(self.delete_timeout);
        self.sweep_interval.unwrap_or(Duration::from_secs(5).min(shortest / 3)).max(Duration::from_millis(1))
    }

    /// The interval that clients are asked for: 5 s like Nacos, or less if instances would turn unhealthy between two
    /// beats.
    pub(crate) fn beat_interval(&self) -> Duration {
        Duration::from_secs(5).min(self.heartbeat_timeout / 3)
    }

    pub(crate) fn push_delay(&self) -> Duration {
        self.push_delay.unwrap_or(self.dialect.push_delay())
    }

    /// Since 2.x the task that pushes a change also updates the list for answers (`ServiceStorage`).
    pub(crate) fn list_delay(&self) -> Duration {
        let default = if self.dialect.is_v1_4() { Duration::ZERO } else { self.push_delay() };
        self.list_delay.unwrap_or(default)
    }

    pub(crate) fn subscriber_timeout(&self) -> Duration {
        self.subscriber_timeout.unwrap_or(self.dialect.subscriber_timeout())
    }

    /// How long clients may use a list. 1.4 allows a longer time to clients that get pushes.
    pub(crate) fn cache_millis(&self, pushed: bool) -> u64 {
        let default = if self.dialect.is_v1_4() && !pushed { 3000 } else { 10_000 };
        self.cache_millis.map_or(default, |time| time.as_millis() as u64)
    }
}
