//! How a Registry is set up.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs as _, UdpSocket},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use awc::http::Uri;
use serde::{Deserialize, Serialize};
use slog::{o, Drain, Logger};

use crate::{error::Error, nacos::Operation};

/// Nacos' own default (`server.servlet.contextPath`).
const DEFAULT_CONTEXT_PATH: &str = "/nacos";
const DEFAULT_NAMESPACE: &str = "public";
/// Of connections, and of messages in the mailbox: channels and semaphores panic far above it.
const MOST: usize = 1_000_000;
/// Of any duration: what is longer is no time that anything waits, and could not be added to a moment.
pub(crate) const LONGEST_DURATION: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// Which of Nacos' HTTP APIs is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Protocol {
    /// What the server speaks, found out for each server and again when it changes; v1 where both are there, because
    /// only v1 has push.
    #[default]
    Auto,
    /// The v1 API: Nacos 1.x, 2.x, 3.0, 3.1 and r-nacos.
    V1,
    /// The v3 API: Nacos 3.x.
    V3,
}

/// How a Registry is set up. Each setter's doc names its default.
///
/// A value that cannot work is an [`Error::InvalidInput`] when the Registry is started, or from
/// [`validate`](Config::validate).
///
/// ```
/// use actix_nacos::Config;
/// use std::time::Duration;
///
/// let config = Config::new("10.0.0.1:8848,10.0.0.2:8848")
///     .namespace("staging")
///     .credentials("orders", "s3cret")
///     .request_timeout(Duration::from_secs(2));
/// assert!(config.validate().is_ok());
/// assert!(!format!("{config:?}").contains("s3cret"));
/// ```
///
/// # In a configuration file
/// With serde each setting is a key; what is missing has its default, and an unknown key is refused. Durations read as
/// `"3s"` or `"500ms"`. The password is read and never written. Where a setter takes two values, each has a key:
///
/// ```
/// # use actix_nacos::Config;
/// let config: Config = serde_json::from_str(r#"{
///     "servers": ["10.0.0.1:8848", "10.0.0.2:8848"],
///     "namespace": "staging",
///     "username": "orders", "password": "s3cret",
///     "min_poll_interval": "1s", "max_poll_interval": "5s",
///     "push": {"enabled": true, "bind": "0.0.0.0:7848"},
///     "tls": {"ca_file": "ca.pem", "client_certificate_file": "us.pem", "client_key_file": "us.key"}
/// }"#)?;
/// assert!(config.validate().is_ok());
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub(crate) servers: Vec<String>,
    pub(crate) endpoint: Option<String>,
    #[serde(with = "humantime_serde")]
    pub(crate) endpoint_interval: Duration,
    pub(crate) context_path: String,
    pub(crate) namespace: String,
    pub(crate) username: Option<String>,
    #[serde(skip_serializing)]
    pub(crate) password: Option<String>,
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

/// How pushes are received. See [`Config::push`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PushConfig {
    pub(crate) enabled: bool,
    pub(crate) bind: Option<SocketAddr>,
    pub(crate) advertise_ip: Option<IpAddr>,
    pub(crate) advertise_port: Option<u16>,
    pub(crate) any_source: bool,
    pub(crate) hint_only: bool,
}

impl Default for PushConfig {
    fn default() -> Self {
        PushConfig {
            enabled: true,
            bind: None,
            advertise_ip: None,
            advertise_port: None,
            any_source: false,
            hint_only: false,
        }
    }
}

impl PushConfig {
    /// No push: lists are only asked for.
    #[must_use]
    pub fn off() -> Self {
        PushConfig { enabled: false, ..Self::default() }
    }

    /// Where the socket listens. Default: a free port on all addresses of the family by which the server is reached.
    #[must_use]
    pub fn bind(mut self, address: SocketAddr) -> Self {
        self.bind = Some(address);
        self
    }

    /// The address that servers are told to push to. Default: the local address by which the server is reached.
    #[must_use]
    pub fn advertise_ip(mut self, ip: IpAddr) -> Self {
        self.advertise_ip = Some(ip);
        self
    }

    /// The port that servers are told to push to. Default: the bound one.
    #[must_use]
    pub fn advertise_port(mut self, port: u16) -> Self {
        self.advertise_port = Some(port);
        self
    }

    /// Whether lists from any address are applied, for servers behind address translation. Nothing authenticates a
    /// datagram: whoever can send one then decides where calls go. Default: false, only the servers' addresses.
    #[must_use]
    pub fn any_source(mut self, yes: bool) -> Self {
        self.any_source = yes;
        self
    }

    /// Whether a push is only taken as a hint to ask for the list, which a stranger cannot forge. Default: false.
    #[must_use]
    pub fn hint_only(mut self, yes: bool) -> Self {
        self.hint_only = yes;
        self
    }
}

/// Certificates for `https` servers; needs the feature `rustls` or `openssl`. See [`Config::tls`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) client_certificate_file: Option<PathBuf>,
    pub(crate) client_key_file: Option<PathBuf>,
}

impl TlsConfig {
    /// Trusts the certificates in this PEM file beside the platform's. Default: the platform's only.
    #[must_use]
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca_file = Some(path.into());
        self
    }

    /// Presents the certificate chain in one PEM file with the private key in the other. Default: none.
    #[must_use]
    pub fn client_certificate(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.client_certificate_file = Some(certificate.into());
        self.client_key_file = Some(key.into());
        self
    }
}

impl Default for Config {
    fn default() -> Self {
        Config {
            servers: Vec::new(),
            endpoint: None,
            // As the Java client asks (`ServerListManager`).
            endpoint_interval: Duration::from_secs(30),
            context_path: DEFAULT_CONTEXT_PATH.into(),
            namespace: DEFAULT_NAMESPACE.into(),
            username: None,
            password: None,
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
    /// A Registry at these servers: one or several `host:port` or `http(s)://host:port[/context]`, comma separated.
    pub fn new(servers: impl AsRef<str>) -> Self {
        Config { servers: split(servers.as_ref()), ..Self::default() }
    }

    /// A Registry at the servers that this URL lists, one `host:port` a line, as an address server of Nacos gives it. The
    /// list is asked for again and again: see [`endpoint_interval`](Config::endpoint_interval).
    pub fn at_endpoint(url: impl Into<String>) -> Self {
        Config { endpoint: Some(url.into()), ..Self::default() }
    }

    /// A Registry without any server, for the laptop: registering is ok, views are ready and empty.
    pub fn disabled() -> Self {
        Config { disabled: true, ..Self::default() }
    }

    /// Reads `NACOS_SERVER_ADDR` (as [`new`](Config::new) takes it), `NACOS_NAMESPACE`, `NACOS_USERNAME` and
    /// `NACOS_PASSWORD`. What is set on the result afterwards wins.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] naming the variable: `NACOS_SERVER_ADDR` missing or bad, a bad namespace, a user name without a
    /// password or the other way round.
    pub fn from_env() -> Result<Self, Error> {
        Self::from_variables(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let servers = variable("NACOS_SERVER_ADDR")
            .ok_or_else(|| Error::invalid("NACOS_SERVER_ADDR", "is not set; it wants host:port of a Nacos server"))?;
        let mut config = Config::new(servers);
        config.addresses().map_err(|error| error.in_field("NACOS_SERVER_ADDR"))?;
        if let Some(namespace) = variable("NACOS_NAMESPACE") {
            validate_namespace(&namespace).map_err(|error| error.in_field("NACOS_NAMESPACE"))?;
            config = config.namespace(namespace);
        }
        match (variable("NACOS_USERNAME"), variable("NACOS_PASSWORD")) {
            (Some(username), Some(password)) => config = config.credentials(username, password),
            (Some(_), None) => return Err(Error::invalid("NACOS_PASSWORD", "is not set, NACOS_USERNAME is")),
            (None, Some(_)) => return Err(Error::invalid("NACOS_USERNAME", "is not set, NACOS_PASSWORD is")),
            (None, None) => {}
        }
        config.validate().map(|()| config)
    }

    /// The namespace, by its id. Default: `public`, which an empty id means too.
    #[must_use]
    pub fn namespace(mut self, id: impl Into<String>) -> Self {
        self.namespace = id.into();
        self
    }

    /// Logs in with these. Default: no login.
    #[must_use]
    pub fn credentials(mut self, username: impl Into<String>, password: impl Into<String>) -> Self {
        self.username = Some(username.into());
        self.password = Some(password.into());
        self
    }

    /// How often an endpoint is asked for the list of servers. Default: 30 s, as Nacos' Java client asks.
    #[must_use]
    pub fn endpoint_interval(mut self, interval: Duration) -> Self {
        self.endpoint_interval = interval;
        self
    }

    /// Where the API lies on servers whose address has no path of its own. Default: `/nacos`.
    #[must_use]
    pub fn context_path(mut self, path: impl Into<String>) -> Self {
        self.context_path = path.into();
        self
    }

    /// Which API is spoken. Default: [`Protocol::Auto`].
    #[must_use]
    pub fn protocol(mut self, protocol: Protocol) -> Self {
        self.protocol = protocol;
        self
    }

    /// How long one request may take. Default: 3 s, as Nacos' Java client waits.
    #[must_use]
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// How long one operation may take over all its requests to all servers, once its turn has come: afterwards none is
    /// begun, and one under way has its [`request_timeout`](Config::request_timeout). Default: 10 s.
    #[must_use]
    pub fn operation_timeout(mut self, timeout: Duration) -> Self {
        self.operation_timeout = timeout;
        self
    }

    /// How long going offline may take when the last address is dropped, and in a `Shutdown` that names no deadline.
    /// Default: 10 s.
    #[must_use]
    pub fn shutdown_timeout(mut self, timeout: Duration) -> Self {
        self.shutdown_timeout = timeout;
        self
    }

    /// How many requests may be under way at once, over all servers, each on a connection of its own; up to as many are kept
    /// idle to each server, and one more is watched. Default: 32.
    #[must_use]
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = connections;
        self
    }

    /// How many messages the Registry's mailbox holds before `try_send` says `Full`. Default: 4,096.
    #[must_use]
    pub fn mailbox_capacity(mut self, messages: usize) -> Self {
        self.mailbox_capacity = messages;
        self
    }

    /// The bounds of the interval at which a subscribed list is asked for; between them the server decides (85
    /// percent of its `cacheMillis`: 8.5 s as a rule). Default: 1 s to 10 s. A longer maximum than 10 s loses pushes on
    /// Nacos 1.4, which forgets subscribers that do not ask. A list that is not believed yet (see
    /// [`outage_hold`](Config::outage_hold)) is asked for about every second, whatever these are.
    #[must_use]
    pub fn poll_interval(mut self, min: Duration, max: Duration) -> Self {
        self.min_poll_interval = min;
        self.max_poll_interval = max;
        self
    }

    /// Whether an empty list after a full one is only believed when the next poll says so too. Default: false, empty is
    /// a change like any other.
    #[must_use]
    pub fn protect_from_empty(mut self, yes: bool) -> Self {
        self.protect_from_empty = yes;
        self
    }

    /// For how long, after an outage or a change of server, nothing is taken out of a subscribed list: a registry that
    /// restarted empty fills up again within one beat interval, as a rule 5 s. Default: 15 s, when Nacos itself gives up
    /// on an instance without beats; zero believes every list at once. While one trouble follows the other, what no list
    /// has any more is held for four times as long at most.
    #[must_use]
    pub fn outage_hold(mut self, hold: Duration) -> Self {
        self.outage_hold = hold;
        self
    }

    /// A folder in which the last lists are kept, so that a start during an outage finds them. Default: none.
    #[must_use]
    pub fn cache_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.cache_dir = Some(folder.into());
        self
    }

    /// How pushes are received. Default: on, on a free port, from the servers' addresses only.
    #[must_use]
    pub fn push(mut self, push: PushConfig) -> Self {
        self.push = push;
        self
    }

    /// Certificates for `https` servers. Default: the platform's roots, no client certificate.
    #[must_use]
    pub fn tls(mut self, tls: TlsConfig) -> Self {
        self.tls = tls;
        self
    }

    /// Where log records go: a [`slog`] 2 logger. Default: the `log` crate, by `slog-stdlog`.
    #[must_use]
    pub fn logger(mut self, logger: Logger) -> Self {
        self.logger = logger;
        self
    }

    /// Whether a Registry could be started with this.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] naming the setting and the rule.
    pub fn validate(&self) -> Result<(), Error> {
        let addresses = self.addresses()?;
        if addresses.is_empty() && self.endpoint.is_none() && !self.disabled {
            return Err(Error::invalid("servers", "is empty; it wants host:port of a Nacos server"));
        }
        self.validate_endpoint()?;
        self.validate_durations()?;
        for (field, count) in [("max_connections", self.max_connections), ("mailbox_capacity", self.mailbox_capacity)] {
            if !(1..=MOST).contains(&count) {
                return Err(Error::invalid(field, format!("must be 1 to {MOST}")));
            }
        }
        if self.username.is_some() != self.password.is_some() {
            return Err(Error::invalid("credentials", "need both username and password"));
        }
        validate_namespace(&self.namespace)?;
        if self.tls.client_certificate_file.is_some() != self.tls.client_key_file.is_some() {
            return Err(Error::invalid("tls", "a client certificate needs both its certificate file and its key file"));
        }
        Ok(())
    }

    fn validate_endpoint(&self) -> Result<(), Error> {
        let Some(endpoint) = &self.endpoint else { return Ok(()) };
        let uri = Uri::from_str(endpoint).map_err(|error| Error::invalid("endpoint", error.to_string()))?;
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(Error::invalid("endpoint", "may hold no credentials: it is shown in logs"));
        }
        match uri.scheme_str() {
            Some("http") => Ok(()),
            Some("https") => tls_is_built_in("endpoint"),
            _ => Err(Error::invalid("endpoint", "wants http://… or https://…")),
        }
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
            return Err(Error::invalid("poll_interval", "has a minimum above its maximum"));
        }
        Ok(())
    }

    /// The address of this machine by which it reaches the first server: what to register as an instance's `ip`. Nothing
    /// is sent; a host name is looked up, which blocks. Where the Registry is [`disabled`](Config::disabled): 127.0.0.1.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] for a bad address or none; [`Error::Unreachable`] if the host has no address or no way leads
    /// there.
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
        let addresses = self.addresses()?;
        let server = addresses.first().ok_or_else(|| Error::invalid("servers", "is empty: no server to reach"))?;
        server.local_ip()
    }

    /// The servers, each parsed.
    pub(crate) fn addresses(&self) -> Result<Vec<ServerAddress>, Error> {
        self.servers.iter().map(|server| ServerAddress::parse(server, &self.context_path)).collect()
    }

    /// As servers know it.
    pub(crate) fn namespace_id(&self) -> &str {
        namespace_id(&self.namespace)
    }
}

/// An empty id is that of the default namespace.
pub(crate) fn namespace_id(id: &str) -> &str {
    match id {
        "" => DEFAULT_NAMESPACE,
        id => id,
    }
}

pub(crate) fn validate_namespace(id: &str) -> Result<(), Error> {
    if id.chars().any(|c| !c.is_ascii_alphanumeric() && !"-_.:".contains(c)) {
        return Err(Error::invalid("namespace", "wants the namespace's id: digits, letters and '-_.:'"));
    }
    Ok(())
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("servers", &self.servers)
            .field("endpoint", &self.endpoint)
            .field("endpoint_interval", &self.endpoint_interval)
            .field("context_path", &self.context_path)
            .field("namespace", &self.namespace)
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(|_| "***"))
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

/// Records reach whatever the application has set up for the `log` crate.
fn standard_logger() -> Logger {
    Logger::root(slog_stdlog::StdLog.fuse(), o!())
}

fn split(servers: &str) -> Vec<String> {
    servers.split(',').map(str::trim).filter(|server| !server.is_empty()).map(str::to_owned).collect()
}

/// One server: where its API lies.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ServerAddress {
    pub(crate) https: bool,
    /// Without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Empty, or with a leading and no trailing slash.
    pub(crate) context_path: String,
}

impl ServerAddress {
    /// Reads `host:port` or `http(s)://host:port[/context]`.
    pub(crate) fn parse(text: &str, context_path: &str) -> Result<Self, Error> {
        let invalid = |reason: String| Error::invalid("servers", reason);
        if text.contains('@') {
            return Err(invalid("an address may hold no credentials; use Config::credentials".into()));
        }
        let url = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let uri = Uri::from_str(&url).map_err(|error| invalid(format!("{text:?} is no address: {error}")))?;
        let https = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => tls_is_built_in("servers").map(|()| true)?,
            scheme => return Err(invalid(format!("{text:?} has the scheme {scheme:?}; http and https are known"))),
        };
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err(invalid(format!("{text:?} has no host")));
        }
        let port = port_of(&uri, text).map_err(invalid)?;
        let path = if uri.path().trim_matches('/').is_empty() { context_path } else { uri.path() };
        let path = path.trim_matches('/');
        let context_path = if path.is_empty() { String::new() } else { format!("/{path}") };
        if let Err(error) = Uri::from_str(&format!("/{path}")) {
            return Err(Error::invalid("context_path", format!("{path:?} is no path: {error}")));
        }
        Ok(ServerAddress { https, host: host.into(), port, context_path })
    }

    fn local_ip(&self) -> Result<IpAddr, Error> {
        let unreachable = |error: std::io::Error| Error::Unreachable {
            operation: Operation::LocalIp,
            server: self.to_string(),
            reason: error.to_string(),
        };
        let mut targets = (self.host.as_str(), self.port).to_socket_addrs().map_err(unreachable)?;
        let target = targets.next().ok_or_else(|| unreachable(std::io::ErrorKind::AddrNotAvailable.into()))?;
        local_ip_towards(target).map_err(unreachable)
    }

    /// `http(s)://host:port/context`, without a trailing slash.
    pub(crate) fn base_url(&self) -> String {
        format!("{}://{self}{}", if self.https { "https" } else { "http" }, self.context_path)
    }
}

/// A port that is none is none at all to `Uri`; whoever wrote it wants to hear of the number.
fn port_of(uri: &Uri, text: &str) -> Result<u16, String> {
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let port = authority.strip_prefix(uri.host().unwrap_or_default()).and_then(|rest| rest.strip_prefix(':'));
    match port.unwrap_or_default() {
        "" => Err(format!("{text:?} has no port; Nacos listens on 8848 by default")),
        port => match port.parse() {
            Ok(port) if port > 0 => Ok(port),
            _ => Err(format!("{text:?} is no address: its port is not between 1 and 65535")),
        },
    }
}

/// `host:port`.
impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// The local address that the system would send from. A UDP socket that is connected sends nothing by that.
pub(crate) fn local_ip_towards(target: SocketAddr) -> std::io::Result<IpAddr> {
    let any: SocketAddr = match target {
        SocketAddr::V4(_) => SocketAddr::from(([0, 0, 0, 0], 0)),
        SocketAddr::V6(_) => SocketAddr::from(([0u16; 8], 0)),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(target)?;
    socket.local_addr().map(|address| address.ip())
}

fn tls_is_built_in(field: &'static str) -> Result<(), Error> {
    if cfg!(any(feature = "rustls", feature = "openssl")) {
        return Ok(());
    }
    Err(Error::invalid(field, "https needs the feature `rustls` or `openssl` of actix-nacos"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ServerAddress, Error> {
        ServerAddress::parse(text, DEFAULT_CONTEXT_PATH)
    }

    #[test]
    fn addresses_are_read_in_all_their_forms() {
        assert_eq!(parse("10.0.0.1:8848").unwrap().base_url(), "http://10.0.0.1:8848/nacos");
        assert_eq!(parse("http://nacos:80/").unwrap().base_url(), "http://nacos:80/nacos");
        assert_eq!(parse("http://nacos:80/other/place/").unwrap().base_url(), "http://nacos:80/other/place");
        assert_eq!(parse("[::1]:8848").unwrap().to_string(), "[::1]:8848");
        assert_eq!(ServerAddress::parse("a:1", "/").unwrap().base_url(), "http://a:1");
    }

    #[test]
    fn bad_addresses_say_what_is_wrong() {
        let reason = |text: &str| parse(text).unwrap_err().to_string();
        assert!(reason("nacos").contains("no port"), "{}", reason("nacos"));
        assert!(reason("ftp://nacos:21").contains("scheme"));
        assert!(parse(":8848").is_err() && parse("http://:8848").is_err() && parse("nacos:0").is_err());
        assert!(parse("nacos:70000").is_err() && parse("a b:1").is_err());
        let secret = reason("http://me:hush@nacos:8848");
        assert!(secret.contains("credentials") && !secret.contains("hush"));
    }

    #[cfg(not(any(feature = "rustls", feature = "openssl")))]
    #[test]
    fn https_without_a_tls_feature_names_the_feature() {
        assert!(parse("https://nacos:8848").unwrap_err().to_string().contains("`rustls`"));
    }

    #[test]
    fn the_environment_is_read_and_checked() {
        let read = |set: &[(&str, &str)]| {
            Config::from_variables(|name| set.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string()))
        };
        let config = read(&[
            ("NACOS_SERVER_ADDR", "a:1, b:2"),
            ("NACOS_NAMESPACE", "dev"),
            ("NACOS_USERNAME", "me"),
            ("NACOS_PASSWORD", "hush"),
        ])
        .unwrap();
        assert_eq!(config.servers, ["a:1", "b:2"]);
        assert_eq!((config.namespace_id(), config.username.as_deref()), ("dev", Some("me")));
        let field = |set: &[(&str, &str)]| match read(set) {
            Err(Error::InvalidInput { field, .. }) => field,
            other => panic!("{other:?}"),
        };
        assert_eq!(field(&[]), "NACOS_SERVER_ADDR");
        assert_eq!(field(&[("NACOS_SERVER_ADDR", "a")]), "NACOS_SERVER_ADDR");
        assert_eq!(field(&[("NACOS_SERVER_ADDR", "a:1"), ("NACOS_NAMESPACE", "a b")]), "NACOS_NAMESPACE");
        assert_eq!(field(&[("NACOS_SERVER_ADDR", "a:1"), ("NACOS_USERNAME", "me")]), "NACOS_PASSWORD");
        assert_eq!(field(&[("NACOS_SERVER_ADDR", "a:1"), ("NACOS_PASSWORD", "hush")]), "NACOS_USERNAME");
    }

    #[test]
    fn settings_that_cannot_work_are_refused() {
        let field = |config: Config| match config.validate() {
            Err(Error::InvalidInput { field, .. }) => field,
            other => panic!("{other:?}"),
        };
        let second = Duration::from_secs(1);
        assert_eq!(field(Config::new("")), "servers");
        assert_eq!(field(Config::new("a:1").request_timeout(Duration::ZERO)), "request_timeout");
        assert_eq!(field(Config::new("a:1").poll_interval(second * 2, second)), "poll_interval");
        // Added to a moment it would overflow, in the middle of an operation.
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
        assert_eq!(Config::disabled().validate(), Ok(()));
    }

    #[test]
    fn serde_reads_the_password_and_never_writes_it() {
        let json = r#"{"servers":["a:1"],"username":"me","password":"hush","request_timeout":"500ms"}"#;
        let config: Config = serde_json::from_str(json).unwrap();
        assert_eq!(config.password.as_deref(), Some("hush"));
        assert_eq!(config.request_timeout, Duration::from_millis(500));
        let written = serde_json::to_string(&config).unwrap();
        assert!(!written.contains("hush") && written.contains("500ms"), "{written}");
        assert!(!format!("{config:?}").contains("hush"));
        assert!(serde_json::from_str::<Config>(r#"{"sevrers":[]}"#).is_err());
    }
}
