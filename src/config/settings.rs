//! Each setting: its setter, and the getter behind it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use slog::Logger;

use super::{Config, Protocol, PushConfig, ServerList, TlsConfig};

/// Getters are called `get_`, since setters have the plain names.
impl Config {
    /// The servers, in one text or several: see [`new`](Config::new). Default: none.
    #[must_use]
    pub fn servers(mut self, servers: impl Into<ServerList>) -> Self {
        self.servers = servers.into().0;
        self
    }

    /// See [`servers`](Config::servers).
    pub fn get_servers(&self) -> &[String] {
        &self.servers
    }

    /// The URL of a list of servers: see [`at_endpoint`](Config::at_endpoint). Default: none.
    #[must_use]
    pub fn endpoint(mut self, url: impl Into<String>) -> Self {
        self.endpoint = Some(url.into());
        self
    }

    /// See [`endpoint`](Config::endpoint).
    pub fn get_endpoint(&self) -> Option<&str> {
        self.endpoint.as_deref()
    }

    /// Whether there is no server at all: see [`disabled`](Config::disabled).
    pub fn is_disabled(&self) -> bool {
        self.disabled
    }

    /// The namespace, by its id. Default: `public`, which an empty id means too.
    #[must_use]
    pub fn namespace(mut self, id: impl Into<String>) -> Self {
        self.namespace = id.into();
        self
    }

    /// See [`namespace`](Config::namespace).
    pub fn get_namespace(&self) -> &str {
        self.namespace_id()
    }

    /// Logs in with these. Where the server refuses the login and serves without it, as with authentication off, it is used
    /// without a token after one warning. [`SetCredentials`](crate::SetCredentials) replaces them in a running Registry.
    /// Default: no login.
    #[must_use]
    pub fn credentials(mut self, username: impl Into<String>, password: impl Into<String>) -> Self {
        self.username = Some(username.into());
        self.password = Some(password.into());
        self
    }

    /// The user name that is logged in with. The password is given to nobody.
    pub fn get_username(&self) -> Option<&str> {
        self.username.as_deref()
    }

    /// Signs every request with this access key, as the managed Nacos of Alibaba Cloud (MSE) demands: by its `id`, and an
    /// HMAC with its `secret`, which is not sent. With [`credentials`](Config::credentials) requests are signed and carry a
    /// token. [`SetAccessKey`](crate::SetAccessKey) replaces the key of a running Registry. Default: no signature.
    #[must_use]
    pub fn access_key(mut self, id: impl Into<String>, secret: impl Into<String>) -> Self {
        self.access_key = Some(id.into());
        self.secret_key = Some(secret.into());
        self
    }

    /// The id of the access key. Its secret, and the security token, are given to nobody.
    pub fn get_access_key(&self) -> Option<&str> {
        self.access_key.as_deref()
    }

    /// The token that belongs to a temporary [`access_key`](Config::access_key) of Alibaba Cloud's STS. Sent with every signed
    /// request, in the header `Spas-SecurityToken`. Default: none.
    #[must_use]
    pub fn security_token(mut self, token: impl Into<String>) -> Self {
        self.security_token = Some(token.into());
        self
    }

    /// Signs by version 4, with a key of the day and this region (`cn-hangzhou`) that is made from the access key's secret.
    /// Default: none, by version 1.
    #[must_use]
    pub fn signature_region(mut self, region: impl Into<String>) -> Self {
        self.signature_region = Some(region.into());
        self
    }

    /// See [`signature_region`](Config::signature_region).
    pub fn get_signature_region(&self) -> Option<&str> {
        self.signature_region.as_deref()
    }

    /// How often an endpoint is asked for the list of servers. Default: 30 s, as Nacos' Java client asks.
    #[must_use]
    pub fn endpoint_interval(mut self, interval: Duration) -> Self {
        self.endpoint_interval = interval;
        self
    }

    /// See [`endpoint_interval`](Config::endpoint_interval).
    pub fn get_endpoint_interval(&self) -> Duration {
        self.endpoint_interval
    }

    /// Where the API lies on servers whose address has no path of its own. Default: `/nacos`.
    #[must_use]
    pub fn context_path(mut self, path: impl Into<String>) -> Self {
        self.context_path = path.into();
        self
    }

    /// See [`context_path`](Config::context_path).
    pub fn get_context_path(&self) -> &str {
        &self.context_path
    }

    /// Which API is spoken. Default: [`Protocol::Auto`].
    #[must_use]
    pub fn protocol(mut self, protocol: Protocol) -> Self {
        self.protocol = protocol;
        self
    }

    /// See [`protocol`](Config::protocol).
    pub fn get_protocol(&self) -> Protocol {
        self.protocol
    }

    /// How long one request may take. Default: 3 s, as Nacos' Java client waits.
    #[must_use]
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// See [`request_timeout`](Config::request_timeout).
    pub fn get_request_timeout(&self) -> Duration {
        self.request_timeout
    }

    /// How long one operation may take over all its requests to all servers, once the first one can be sent. Each request is
    /// cut to what is left of this time. Default: 10 s.
    #[must_use]
    pub fn operation_timeout(mut self, timeout: Duration) -> Self {
        self.operation_timeout = timeout;
        self
    }

    /// See [`operation_timeout`](Config::operation_timeout).
    pub fn get_operation_timeout(&self) -> Duration {
        self.operation_timeout
    }

    /// How long going offline may take when the last address is dropped, and in a `Shutdown` that names no deadline.
    /// Default: 10 s.
    #[must_use]
    pub fn shutdown_timeout(mut self, timeout: Duration) -> Self {
        self.shutdown_timeout = timeout;
        self
    }

    /// See [`shutdown_timeout`](Config::shutdown_timeout).
    pub fn get_shutdown_timeout(&self) -> Duration {
        self.shutdown_timeout
    }

    /// How many requests may be under way at once, over all servers, each on a connection of its own. A quarter, and at least
    /// one, is reserved for heartbeats and registrations; with 1, one more is opened for them. Up to as many connections are
    /// kept idle to each server, and one more is watched. Default: 32.
    #[must_use]
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = connections;
        self
    }

    /// See [`max_connections`](Config::max_connections).
    pub fn get_max_connections(&self) -> usize {
        self.max_connections
    }

    /// How many messages the Registry's mailbox holds before `try_send` says `Full`. Default: 4,096.
    #[must_use]
    pub fn mailbox_capacity(mut self, messages: usize) -> Self {
        self.mailbox_capacity = messages;
        self
    }

    /// See [`mailbox_capacity`](Config::mailbox_capacity).
    pub fn get_mailbox_capacity(&self) -> usize {
        self.mailbox_capacity
    }

    /// The bounds of the interval at which a subscribed list is asked for; between them the server decides (85
    /// percent of its `cacheMillis`: 8.5 s as a rule). Default: 1 s to 10 s. A longer maximum than 10 s loses pushes on
    /// Nacos 1.4, which forgets subscribers that do not ask. After an outage, and where an empty list is not believed yet
    /// (see [`protect_from_empty`](Config::protect_from_empty)), the list is asked for sooner.
    #[must_use]
    pub fn poll_interval(mut self, min: Duration, max: Duration) -> Self {
        self.min_poll_interval = min;
        self.max_poll_interval = max;
        self
    }

    /// The shortest and the longest interval: see [`poll_interval`](Config::poll_interval).
    pub fn get_poll_interval(&self) -> (Duration, Duration) {
        (self.min_poll_interval, self.max_poll_interval)
    }

    /// Whether an empty list after a full one is only believed when the next poll says so too. Default: false, empty is
    /// a change like any other.
    #[must_use]
    pub fn protect_from_empty(mut self, yes: bool) -> Self {
        self.protect_from_empty = yes;
        self
    }

    /// See [`protect_from_empty`](Config::protect_from_empty).
    pub fn get_protect_from_empty(&self) -> bool {
        self.protect_from_empty
    }

    /// For how long an instance is withheld from removal that the server in use has not listed since it may have forgotten its
    /// instances: after an outage, a restart, or a change of server. A registry that restarted empty fills up again within one
    /// beat interval, as a rule 5 s. Default: 15 s, when Nacos itself gives up on an instance without beats; zero believes
    /// every list at once. `docs/architecture.md` explains the rules under "Recovery".
    #[must_use]
    pub fn outage_hold(mut self, hold: Duration) -> Self {
        self.outage_hold = hold;
        self
    }

    /// See [`outage_hold`](Config::outage_hold).
    pub fn get_outage_hold(&self) -> Duration {
        self.outage_hold
    }

    /// A folder in which the last lists are kept, so that a start during an outage finds them. Default: none.
    #[must_use]
    pub fn cache_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.cache_dir = Some(folder.into());
        self
    }

    /// See [`cache_dir`](Config::cache_dir).
    pub fn get_cache_dir(&self) -> Option<&Path> {
        self.cache_dir.as_deref()
    }

    /// How pushes are received. Default: on, on a free port, from the servers' addresses only.
    #[must_use]
    pub fn push(mut self, push: PushConfig) -> Self {
        self.push = push;
        self
    }

    /// See [`push`](Config::push).
    pub fn get_push(&self) -> &PushConfig {
        &self.push
    }

    /// Certificates for `https` servers. Default: the platform's roots, no client certificate.
    #[must_use]
    pub fn tls(mut self, tls: TlsConfig) -> Self {
        self.tls = tls;
        self
    }

    /// See [`tls`](Config::tls).
    pub fn get_tls(&self) -> &TlsConfig {
        &self.tls
    }

    /// Where log records go: a [`slog`] 2 logger. Default: the `log` crate, by `slog-stdlog`.
    #[must_use]
    pub fn logger(mut self, logger: Logger) -> Self {
        self.logger = logger;
        self
    }

    /// See [`logger`](Config::logger).
    pub fn get_logger(&self) -> &Logger {
        &self.logger
    }
}
