//! The settings of a Registry.
//!
//! A setting consists of a field with a default and a check in this file, a setter and a getter in `settings.rs`, a row
//! in the table at [`Config`], and an environment variable in `environment.rs`. A test compares the table with the
//! variables.
//!
//! Settings are plain values until a Registry starts: setters never fail, and [`Config::validate`] checks all of them
//! at once. A setter that is called on a `Config` from a file or from the environment replaces that value.

mod access_key;
mod addresses;
mod environment;
mod push;
mod settings;
mod tls;
#[cfg(feature = "tracing")]
mod tracing_drain;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use slog::{o, Drain, Logger};

use self::addresses::{no_credentials, redacted_servers};
pub(crate) use self::{
    access_key::AccessKey,
    addresses::{local_ip_towards, ServerAddress},
};
pub use self::{addresses::ServerList, push::PushConfig, tls::TlsConfig};
use crate::error::Error;

/// Nacos' own default (`server.servlet.contextPath`).
const DEFAULT_CONTEXT_PATH: &str = "/nacos";
const DEFAULT_NAMESPACE: &str = "public";
/// Upper bound for connections and for messages in the mailbox. Channels and semaphores panic far above it.
const MAX_COUNT: usize = 1_000_000;
/// Upper bound for every duration. A larger value would overflow `Instant`.
pub(crate) const LONGEST_DURATION: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// The HTTP API of Nacos that is spoken with a server.
///
/// In a file and in `NACOS_PROTOCOL`: `auto`, `v1` or `v3`.
///
/// Leave it at [`Auto`](Self::Auto) unless a proxy answers unknown paths in a way that hides which API the server
/// has. A server that changes its API, by an upgrade or behind a load balancer, is only noticed with `Auto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Protocol {
    /// The API that the server offers: found out for each server, and again when the server changes. v1 if the server
    /// offers both, because only v1 has pushes.
    #[default]
    Auto,
    /// The v1 API: Nacos 1.x, 2.x, 3.0, 3.1 and r-nacos.
    #[serde(alias = "V1")]
    V1,
    /// The v3 API: Nacos 3.x.
    #[serde(alias = "V3")]
    V3,
}

/// The settings of a Registry. Each setter's documentation names its default.
///
/// [`Registry::start`](crate::Registry::start) checks the settings, as [`validate`](Config::validate) does, and returns
/// [`Error::InvalidInput`] for a value that cannot work.
///
/// ```
/// use actix_nacos::Config;
/// use std::time::Duration;
///
/// let config = Config::new("192.0.2.1:8848,192.0.2.2:8848")
///     .namespace("staging")
///     .credentials("orders", "s3cret")
///     .request_timeout(Duration::from_secs(2));
/// assert!(config.validate().is_ok());
/// assert!(!format!("{config:?}").contains("s3cret"));
/// ```
///
/// # In a configuration file
/// With serde each setting is a key. A missing key has its default; an unknown key is an error. Durations are written
/// as `"3s"` or `"500ms"`. The password, the secret key and the security token are read but never written.
///
/// ```
/// # use actix_nacos::Config;
/// let config: Config = serde_json::from_str(r#"{
///     "servers": "192.0.2.1:8848,192.0.2.2:8848",
///     "namespace": "staging",
///     "username": "orders", "password": "s3cret",
///     "min_poll_interval": "1s", "max_poll_interval": "5s",
///     "push": {"enabled": true, "bind": "0.0.0.0:7848"},
///     "tls": {"ca_file": "ca.pem", "client_certificate_file": "client.pem", "client_key_file": "client.key"}
/// }"#)?;
/// let config = config.overridden_by_env()?;
/// assert!(config.validate().is_ok());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// | key | environment variable | default | |
/// |---|---|---|---|
/// | `servers` | `NACOS_SERVER_ADDR` | none | see [`new`](Config::new); a text with commas or a list |
/// | `endpoint` | `NACOS_ENDPOINT` | none | the URL of a server list: see [`at_endpoint`](Config::at_endpoint); `servers` are used until the list has been fetched |
/// | `endpoint_interval` | `NACOS_ENDPOINT_INTERVAL` | `30s` | see [`endpoint_interval`](Config::endpoint_interval) |
/// | `context_path` | `NACOS_CONTEXT_PATH` | `/nacos` | see [`context_path`](Config::context_path) |
/// | `namespace` | `NACOS_NAMESPACE` | `public` | the id: see [`namespace`](Config::namespace) |
/// | `username` | `NACOS_USERNAME` | none | see [`credentials`](Config::credentials) |
/// | `password` | `NACOS_PASSWORD` | none | with `username` |
/// | `access_key` | `NACOS_ACCESS_KEY` | none | the id: see [`access_key`](Config::access_key) |
/// | `secret_key` | `NACOS_SECRET_KEY` | none | with `access_key` |
/// | `security_token` | `NACOS_SECURITY_TOKEN` | none | with a temporary `access_key`: see [`security_token`](Config::security_token) |
/// | `signature_region` | `NACOS_SIGNATURE_REGION` | none | see [`signature_region`](Config::signature_region) |
/// | `protocol` | `NACOS_PROTOCOL` | `auto` | `auto`, `v1` or `v3`: see [`Protocol`] |
/// | `disabled` | `NACOS_DISABLED` | `false` | `true`: no server, see [`disabled`](Config::disabled) |
/// | `request_timeout` | `NACOS_REQUEST_TIMEOUT` | `3s` | see [`request_timeout`](Config::request_timeout) |
/// | `operation_timeout` | `NACOS_OPERATION_TIMEOUT` | `10s` | see [`operation_timeout`](Config::operation_timeout) |
/// | `shutdown_timeout` | `NACOS_SHUTDOWN_TIMEOUT` | `10s` | see [`shutdown_timeout`](Config::shutdown_timeout) |
/// | `max_connections` | `NACOS_MAX_CONNECTIONS` | `32` | see [`max_connections`](Config::max_connections) |
/// | `mailbox_capacity` | `NACOS_MAILBOX_CAPACITY` | `4096` | see [`mailbox_capacity`](Config::mailbox_capacity) |
/// | `min_poll_interval` | `NACOS_MIN_POLL_INTERVAL` | `1s` | see [`poll_interval`](Config::poll_interval) |
/// | `max_poll_interval` | `NACOS_MAX_POLL_INTERVAL` | `10s` | see [`poll_interval`](Config::poll_interval) |
/// | `protect_from_empty` | `NACOS_PROTECT_FROM_EMPTY` | `false` | see [`protect_from_empty`](Config::protect_from_empty) |
/// | `outage_hold` | `NACOS_OUTAGE_HOLD` | `15s` | see [`outage_hold`](Config::outage_hold) |
/// | `cache_dir` | `NACOS_CACHE_DIR` | none | see [`cache_dir`](Config::cache_dir) |
/// | `push.enabled` | `NACOS_PUSH_ENABLED` | `true` | `false`: see [`PushConfig::off`] |
/// | `push.bind` | `NACOS_PUSH_BIND` | none | `ip:port`: see [`PushConfig::bind`] |
/// | `push.advertise_ip` | `NACOS_PUSH_ADVERTISE_IP` | none | see [`PushConfig::advertise_ip`] |
/// | `push.advertise_port` | `NACOS_PUSH_ADVERTISE_PORT` | none | see [`PushConfig::advertise_port`] |
/// | `push.any_source` | `NACOS_PUSH_ANY_SOURCE` | `false` | see [`PushConfig::any_source`] |
/// | `push.hint_only` | `NACOS_PUSH_HINT_ONLY` | `false` | see [`PushConfig::hint_only`] |
/// | `tls.ca_file` | `NACOS_TLS_CA_FILE` | none | see [`TlsConfig::ca_file`] |
/// | `tls.client_certificate_file` | `NACOS_TLS_CLIENT_CERTIFICATE_FILE` | none | see [`TlsConfig::client_certificate`] |
/// | `tls.client_key_file` | `NACOS_TLS_CLIENT_KEY_FILE` | none | with `tls.client_certificate_file` |
///
/// The prefix `NACOS_` can be [replaced](Config::overridden_by_env_with_prefix).
#[derive(Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    #[serde(deserialize_with = "addresses::read_servers")]
    pub(crate) servers: Vec<String>,
    pub(crate) endpoint: Option<String>,
    #[serde(with = "humantime_serde")]
    pub(crate) endpoint_interval: Duration,
    pub(crate) context_path: String,
    pub(crate) namespace: String,
    pub(crate) username: Option<String>,
    #[serde(skip_serializing)]
    pub(crate) password: Option<String>,
    pub(crate) access_key: Option<String>,
    #[serde(skip_serializing)]
    pub(crate) secret_key: Option<String>,
    #[serde(skip_serializing)]
    pub(crate) security_token: Option<String>,
    pub(crate) signature_region: Option<String>,
    pub(crate) protocol: Protocol,
    pub(crate) disabled: bool,
    #[serde(with = "humantime_serde")]
    pub(crate) request_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub(crate) operation_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub(crate) shutdown_timeout: Duration,
    pub(crate) max_connections: usize,
    pub(crate) mailbox_capacity: usize,
    #[serde(with = "humantime_serde")]
    pub(crate) min_poll_interval: Duration,
    #[serde(with = "humantime_serde")]
    pub(crate) max_poll_interval: Duration,
    pub(crate) protect_from_empty: bool,
    #[serde(with = "humantime_serde")]
    pub(crate) outage_hold: Duration,
    pub(crate) cache_dir: Option<PathBuf>,
    pub(crate) push: PushConfig,
    pub(crate) tls: TlsConfig,
    #[serde(skip, default = "standard_logger")]
    pub(crate) logger: Logger,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            servers: Vec::new(),
            endpoint: None,
            // The interval of the Java client (`ServerListManager`).
            endpoint_interval: Duration::from_secs(30),
            context_path: DEFAULT_CONTEXT_PATH.into(),
            namespace: DEFAULT_NAMESPACE.into(),
            username: None,
            password: None,
            access_key: None,
            secret_key: None,
            security_token: None,
            signature_region: None,
            protocol: Protocol::Auto,
            disabled: false,
            request_timeout: Duration::from_secs(3),
            operation_timeout: Duration::from_secs(10),
            shutdown_timeout: Duration::from_secs(10),
            max_connections: 32,
            mailbox_capacity: 4096,
            min_poll_interval: Duration::from_secs(1),
            max_poll_interval: Duration::from_secs(10),
            protect_from_empty: false,
            outage_hold: Duration::from_secs(15),
            cache_dir: None,
            push: PushConfig::default(),
            tls: TlsConfig::default(),
            logger: standard_logger(),
        }
    }
}

impl Config {
    /// Creates a configuration for one or several servers: `host:port` or `http(s)://host:port[/context]`, in one text
    /// with commas (`"a:8848,b:8848"`) or as a list (`["a:8848", "b:8848"]`).
    ///
    /// ```
    /// # use actix_nacos::Config;
    /// let one = Config::new("192.0.2.1:8848");
    /// let cluster = Config::new(["http://192.0.2.1:8848/nacos", "http://192.0.2.2:8848/nacos"]);
    /// assert!(one.validate().is_ok() && cluster.validate().is_ok());
    /// ```
    ///
    /// All addresses should be members of one cluster. The Registry uses one of them at a time, a random one at
    /// first, and another one when that fails. A host name with several IP addresses is one server.
    ///
    /// No address is looked up here. An invalid one is an error of [`validate`](Config::validate) and of
    /// [`Registry::start`](crate::Registry::start).
    pub fn new(servers: impl Into<ServerList>) -> Self {
        Self::default().servers(servers)
    }

    /// Creates a configuration for the servers that a URL lists, such as an address server of Nacos. The list is
    /// fetched again every [`endpoint_interval`](Config::endpoint_interval).
    ///
    /// The list contains one `host`, `host:port` or `http(s)://host:port[/context]` per line. The default port is 8848.
    /// Empty lines and lines that begin with `#` are ignored. A page with any other line is not a list: the servers
    /// stay as they are, and one warning is logged until a list can be fetched again. The same holds for a page whose
    /// only entry has neither a dot nor a port, because such a page is more likely an error message than a host name:
    /// write `nacos:8848` instead of `nacos`.
    ///
    /// ```
    /// # use actix_nacos::Config;
    /// let config = Config::at_endpoint("http://192.0.2.9:8080/nacos/serverlist");
    /// assert!(config.validate().is_ok());
    /// ```
    ///
    /// While there is no list yet, messages wait for it within their time limits, and it is asked for every second.
    pub fn at_endpoint(url: impl Into<String>) -> Self {
        Self::default().endpoint(url)
    }

    /// Creates a configuration without any server, for local development: registering succeeds, and views are ready and
    /// empty.
    ///
    /// ```
    /// # use actix_nacos::prelude::*;
    /// # #[actix::main]
    /// # async fn main() -> Result<(), Error> {
    /// let registry = Registry::start(Config::disabled())?;
    /// registry.send(RegisterInstance::new("orders", "127.0.0.7", 8080)).await??;
    /// assert!(registry.send(ListInstances::new("orders")).await??.hosts.is_empty());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// In the environment: `NACOS_DISABLED=true`. So the same program runs with and without Nacos.
    pub fn disabled() -> Self {
        Config { disabled: true, ..Self::default() }
    }

    /// Checks whether a Registry can be started with these settings.
    ///
    /// The first rule that is broken is reported. [`Registry::start`](crate::Registry::start) validates too, so call
    /// this only to check earlier.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] with the setting as its field and the rule as its reason.
    pub fn validate(&self) -> Result<(), Error> {
        let addresses = self.addresses()?;
        if addresses.is_empty() && self.endpoint.is_none() && !self.disabled {
            return Err(Error::invalid("servers", "is empty; set it to host:port of a Nacos server"));
        }
        self.endpoint_address()?;
        self.validate_durations()?;
        for (field, count) in [("max_connections", self.max_connections), ("mailbox_capacity", self.mailbox_capacity)] {
            if !(1..=MAX_COUNT).contains(&count) {
                return Err(Error::invalid(field, format!("must be between 1 and {MAX_COUNT}")));
            }
        }
        if self.username.is_some() != self.password.is_some() {
            return Err(Error::invalid("credentials", "needs both a user name and a password"));
        }
        self.validate_access_key()?;
        validate_namespace(&self.namespace)?;
        if self.tls.client_certificate_file.is_some() != self.tls.client_key_file.is_some() {
            return Err(Error::invalid("tls", "a client certificate needs both its certificate file and its key file"));
        }
        Ok(())
    }

    fn validate_access_key(&self) -> Result<(), Error> {
        match (&self.access_key, &self.secret_key) {
            (Some(id), Some(secret)) => validate_access_key(id, secret)?,
            (None, None) if self.security_token.is_none() => {}
            (None, None) => return Err(Error::invalid("security_token", "needs an access key")),
            _ => return Err(Error::invalid("access_key", "needs both the id and the secret of the key")),
        }
        self.security_token.as_deref().map_or(Ok(()), validate_security_token)
    }

    fn validate_durations(&self) -> Result<(), Error> {
        let durations = [
            ("endpoint_interval", self.endpoint_interval),
            ("request_timeout", self.request_timeout),
            ("operation_timeout", self.operation_timeout),
            ("shutdown_timeout", self.shutdown_timeout),
            ("poll_interval", self.min_poll_interval),
            ("poll_interval", self.max_poll_interval),
            ("outage_hold", self.outage_hold),
        ];
        for (field, duration) in durations {
            if duration < Duration::from_millis(1) && field != "outage_hold" {
                return Err(Error::invalid(field, "must be at least 1 ms"));
            }
            if duration > LONGEST_DURATION {
                return Err(Error::invalid(field, "must be at most 10 years"));
            }
        }
        if self.min_poll_interval > self.max_poll_interval {
            return Err(Error::invalid("poll_interval", "has a minimum that is longer than its maximum"));
        }
        Ok(())
    }

    /// Finds the local IP address from which this machine reaches the servers, or the endpoint if no server is
    /// configured. Tries the servers in their order until one has an address that a route leads to. Register instances
    /// with this address.
    ///
    /// Sends nothing. Looks a host name up, which blocks the thread. Returns 127.0.0.1 if the Registry is
    /// [`disabled`](Config::disabled). In a container network the address may be one that other machines cannot reach.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if no server is configured or its address is invalid. [`Error::Unreachable`] if no
    /// server's host name has an address that a route leads to; it names the last server.
    ///
    /// ```
    /// # use actix_nacos::Config;
    /// assert_eq!(Config::new("127.0.0.1:8848").local_ip()?.to_string(), "127.0.0.1");
    /// # Ok::<(), actix_nacos::Error>(())
    /// ```
    pub fn local_ip(&self) -> Result<IpAddr, Error> {
        if self.disabled {
            return Ok(Ipv4Addr::LOCALHOST.into());
        }
        let mut servers = self.addresses()?;
        if servers.is_empty() {
            servers.extend(self.endpoint_address()?);
        }
        let mut found = Err(Error::invalid("servers", "is empty, so there is no server to reach"));
        for server in servers {
            found = server.local_ip();
            if found.is_ok() {
                break;
            }
        }
        found
    }

    /// Parses the addresses of the servers.
    pub(crate) fn addresses(&self) -> Result<Vec<ServerAddress>, Error> {
        // Checks all texts before an error quotes one: a password that contains a comma is split into two texts.
        if self.servers.iter().any(|server| server.contains('@')) {
            return Err(no_credentials());
        }
        self.servers.iter().map(|server| ServerAddress::parse(server, &self.context_path)).collect()
    }

    fn endpoint_address(&self) -> Result<Option<ServerAddress>, Error> {
        self.endpoint.as_deref().map(ServerAddress::parse_endpoint).transpose()
    }

    /// The key that signs requests.
    pub(crate) fn signing_key(&self) -> Option<AccessKey> {
        Some(AccessKey {
            id: self.access_key.clone()?,
            secret: self.secret_key.clone()?,
            security_token: self.security_token.clone(),
            region: self.signature_region.clone(),
        })
    }

    /// The id of the namespace in requests.
    pub(crate) fn namespace_id(&self) -> &str {
        namespace_id(&self.namespace)
    }
}

/// Replaces the empty id, which means the default namespace.
pub(crate) fn namespace_id(id: &str) -> &str {
    match id {
        "" => DEFAULT_NAMESPACE,
        id => id,
    }
}

pub(crate) fn validate_namespace(id: &str) -> Result<(), Error> {
    if id.chars().any(|c| !c.is_ascii_alphanumeric() && !"-_.:".contains(c)) {
        return Err(Error::invalid("namespace", "must be the id of a namespace: letters, digits and '-_.:'"));
    }
    Ok(())
}

pub(crate) fn validate_access_key(id: &str, secret: &str) -> Result<(), Error> {
    if id.is_empty() || secret.is_empty() {
        return Err(Error::invalid("access_key", "must have an id and a secret that are not empty"));
    }
    Ok(())
}

pub(crate) fn validate_security_token(token: &str) -> Result<(), Error> {
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Error::invalid("security_token", "is empty, or contains a character that no HTTP header can hold"));
    }
    Ok(())
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("servers", &redacted_servers(&self.servers))
            .field("endpoint", &self.endpoint.as_deref().map(ServerAddress::redacted_endpoint))
            .field("endpoint_interval", &self.endpoint_interval)
            .field("context_path", &self.context_path)
            .field("namespace", &self.namespace)
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(|_| "***"))
            .field("access_key", &self.access_key)
            .field("secret_key", &self.secret_key.as_ref().map(|_| "***"))
            .field("security_token", &self.security_token.as_ref().map(|_| "***"))
            .field("signature_region", &self.signature_region)
            .field("protocol", &self.protocol)
            .field("disabled", &self.disabled)
            .field("request_timeout", &self.request_timeout)
            .field("operation_timeout", &self.operation_timeout)
            .field("shutdown_timeout", &self.shutdown_timeout)
            .field("max_connections", &self.max_connections)
            .field("mailbox_capacity", &self.mailbox_capacity)
            .field("min_poll_interval", &self.min_poll_interval)
            .field("max_poll_interval", &self.max_poll_interval)
            .field("protect_from_empty", &self.protect_from_empty)
            .field("outage_hold", &self.outage_hold)
            .field("cache_dir", &self.cache_dir)
            .field("push", &self.push)
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

/// Sends records to the application's `tracing` subscriber if there is one, otherwise to the `log` crate.
pub(crate) fn standard_logger() -> Logger {
    let log = slog_stdlog::StdLog.fuse();
    #[cfg(feature = "tracing")]
    let log = tracing_drain::TracingOr(log);
    Logger::root(log, o!())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_work_are_rejected() {
        let field = |config: Config| match config.validate() {
            Err(Error::InvalidInput { field, .. }) => field,
            other => panic!("{other:?}"),
        };
        let second = Duration::from_secs(1);
        assert_eq!(field(Config::new("")), "servers");
        assert_eq!(field(Config::new("a:1").request_timeout(Duration::ZERO)), "request_timeout");
        assert_eq!(field(Config::new("a:1").poll_interval(second * 2, second)), "poll_interval");
        // Would overflow when added to an `Instant` during an operation.
        assert_eq!(field(Config::new("a:1").operation_timeout(Duration::MAX)), "operation_timeout");
        assert_eq!(field(Config::new("a:1").poll_interval(second, Duration::MAX)), "poll_interval");
        assert_eq!(field(Config::new("a:1").outage_hold(Duration::MAX)), "outage_hold");
        assert_eq!(Config::new("a:1").outage_hold(Duration::ZERO).validate(), Ok(()));
        assert_eq!(field(Config::new("a:1").endpoint_interval(Duration::ZERO)), "endpoint_interval");
        for count in [0, usize::MAX] {
            assert_eq!(field(Config::new("a:1").mailbox_capacity(count)), "mailbox_capacity");
            assert_eq!(field(Config::new("a:1").max_connections(count)), "max_connections");
        }
        assert_eq!(field(Config::new("a:1").context_path("/na cos")), "context_path");
        assert_eq!(field(Config::new("a:1").namespace("a b")), "namespace");
        assert_eq!(field(Config::at_endpoint("nacos/list")), "endpoint");
        assert_eq!(field(Config::at_endpoint("http://me:hush@nacos/list")), "endpoint");
        assert_eq!(field(Config::new("[fe80::1%eth0]:8848")), "servers");
        assert_eq!(field(Config::new("a:1").access_key("", "hush")), "access_key");
        assert_eq!(field(Config { access_key: Some("id".into()), ..Config::new("a:1") }), "access_key");
        assert_eq!(field(Config::new("a:1").security_token("t")), "security_token");
        for token in ["", "a b", "a\r\nb", "ключ"] {
            assert_eq!(field(Config::new("a:1").access_key("id", "hush").security_token(token)), "security_token");
        }
        assert_eq!(Config::new("a:1").signature_region("cn-hangzhou").validate(), Ok(()), "the key may come later");
        assert_eq!(Config::disabled().validate(), Ok(()));
    }

    #[test]
    fn serde_reads_secrets_and_never_writes_them() {
        let json = r#"{"servers":["a:1"],"username":"me","password":"hush-1","request_timeout":"500ms",
            "access_key":"id","secret_key":"hush-2","security_token":"hush-3","signature_region":"cn-hangzhou"}"#;
        let config: Config = serde_json::from_str(json).unwrap();
        assert_eq!(config.password.as_deref(), Some("hush-1"));
        assert_eq!((config.secret_key.as_deref(), config.security_token.as_deref()), (Some("hush-2"), Some("hush-3")));
        assert_eq!(config.request_timeout, Duration::from_millis(500));
        let written = serde_json::to_string(&config).unwrap();
        assert!(!written.contains("hush") && written.contains("500ms"), "{written}");
        assert!(!format!("{config:?}").contains("hush"));
        assert!(serde_json::from_str::<Config>(r#"{"sevrers":[]}"#).is_err());
    }

    #[test]
    fn credentials_in_an_address_are_rejected_and_never_displayed() {
        for config in [
            Config::new("http://me:hush@a:1"),
            Config::new("http://me:hush,hush@a:1"),
            Config::new("a:x").endpoint("http://me:hush@a/list?key=hush"),
        ] {
            let error = config.validate().unwrap_err();
            assert!(!error.to_string().contains("hush"), "{error}");
            assert!(!format!("{config:?}").contains("hush"), "{config:?}");
        }
    }

    #[test]
    fn servers_are_deserialised_from_a_text_or_a_list() {
        let servers = |json: &str| serde_json::from_str::<Config>(json).map(|config| config.servers);
        let expected = ["a:8848", "b:8848"];
        assert_eq!(servers(r#"{"servers":"a:8848, b:8848"}"#).unwrap(), expected);
        assert_eq!(servers(r#"{"servers":["a:8848","b:8848"]}"#).unwrap(), expected);
        assert_eq!(servers(r#"{"servers":["a:8848,b:8848"]}"#).unwrap(), expected);
        assert_eq!(servers("{}").unwrap(), [""; 0]);
        let error = servers(r#"{"servers":{"a":8848}}"#).unwrap_err().to_string();
        assert!(error.contains("host:port"), "{error}");
        assert_eq!(Config::new(["a:8848", "b:8848"]).servers, expected);
        assert_eq!(Config::disabled().servers("a:8848,b:8848").servers, expected);
    }

    #[test]
    fn every_setting_except_secrets_has_a_getter() {
        let second = Duration::from_secs(1);
        let config = Config::new("a:1")
            .endpoint("http://nacos/list")
            .endpoint_interval(second)
            .context_path("/x")
            .namespace("dev")
            .credentials("me", "hush")
            .access_key("id", "hush")
            .security_token("hush")
            .signature_region("cn-hangzhou")
            .protocol(Protocol::V1)
            .request_timeout(second * 2)
            .operation_timeout(second * 3)
            .shutdown_timeout(second * 4)
            .max_connections(5)
            .mailbox_capacity(6)
            .poll_interval(second, second * 7)
            .protect_from_empty(true)
            .outage_hold(second * 8)
            .cache_dir("/cache")
            .push(PushConfig::off().advertise_port(9))
            .tls(TlsConfig::default().client_certificate("us.pem", "us.key"));
        assert_eq!((config.get_servers(), config.get_endpoint()), (&["a:1".to_owned()][..], Some("http://nacos/list")));
        assert_eq!((config.get_endpoint_interval(), config.get_context_path()), (second, "/x"));
        assert_eq!((config.get_namespace(), config.get_username(), config.is_disabled()), ("dev", Some("me"), false));
        assert_eq!((config.get_access_key(), config.get_signature_region()), (Some("id"), Some("cn-hangzhou")));
        assert_eq!((config.get_protocol(), config.get_request_timeout()), (Protocol::V1, second * 2));
        assert_eq!((config.get_operation_timeout(), config.get_shutdown_timeout()), (second * 3, second * 4));
        assert_eq!((config.get_max_connections(), config.get_mailbox_capacity()), (5, 6));
        assert_eq!((config.get_poll_interval(), config.get_protect_from_empty()), ((second, second * 7), true));
        assert_eq!((config.get_outage_hold(), config.get_cache_dir()), (second * 8, Some("/cache".as_ref())));
        assert_eq!((config.get_push().is_enabled(), config.get_push().get_advertise_port()), (false, Some(9)));
        assert_eq!(config.get_tls().get_client_certificate(), Some(("us.pem".as_ref(), "us.key".as_ref())));
        assert_eq!(Config::default().namespace("").get_namespace(), "public");
    }

    #[test]
    fn the_local_address_towards_an_endpoint_is_found() {
        let ip = |config: Config| config.local_ip().map(|ip| ip.to_string());
        assert_eq!(ip(Config::at_endpoint("http://127.0.0.1:8080/list")), Ok("127.0.0.1".into()));
        assert_eq!(ip(Config::at_endpoint("http://127.0.0.1/list")), Ok("127.0.0.1".into()));
        assert_eq!(ip(Config::new("gone.invalid:8848,127.0.0.1:1")), Ok("127.0.0.1".into()), "of the next server");
        let gone = ip(Config::new("gone.invalid:8848"));
        assert!(matches!(gone, Err(Error::Unreachable { .. })), "{gone:?}");
        assert!(matches!(ip(Config::default()), Err(Error::InvalidInput { field: "servers", .. })));
        assert!(matches!(ip(Config::at_endpoint("nacos")), Err(Error::InvalidInput { field: "endpoint", .. })));
    }
}
