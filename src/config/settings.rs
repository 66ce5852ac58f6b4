//! The setters and getters of `Config`.
//!
//! The table at [`Config`] has all defaults at a glance.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use slog::Logger;

use super::{Config, Protocol, PushConfig, ServerList, TlsConfig};

/// Setters have the plain names of the settings; getters begin with `get_`.
impl Config {
    /// Sets the addresses of the servers: see [`new`](Config::new). Default: none.
    #[must_use]
    pub fn servers(mut self, servers: impl Into<ServerList>) -> Self {
        self.servers = servers.into().0;
        self
    }

    /// The addresses of the servers, as given: see [`servers`](Config::servers).
    pub fn get_servers(&self) -> &[String] {
        &self.servers
    }

    /// Sets the URL of a server list: see [`at_endpoint`](Config::at_endpoint). Default: none.
    #[must_use]
    pub fn endpoint(mut self, url: impl Into<String>) -> Self {
        self.endpoint = Some(url.into());
        self
    }

    /// The URL of the server list: see [`endpoint`](Config::endpoint).
    pub fn get_endpoint(&self) -> Option<&str> {
        self.endpoint.as_deref()
    }

    /// Whether the Registry works without any server: see [`disabled`](Config::disabled).
    pub fn is_disabled(&self) -> bool {
        self.disabled
    }

    /// Sets the id (not the name) of the namespace. Default: `public`. An empty id means `public` too.
    ///
    /// Namespaces separate services completely: a Registry sees only its own. Nacos does not say if a namespace
    /// does not exist; its lists are empty then. The console shows the id beside the name.
    #[must_use]
    pub fn namespace(mut self, id: impl Into<String>) -> Self {
        self.namespace = id.into();
        self
    }

    /// The id of the namespace: see [`namespace`](Config::namespace).
    pub fn get_namespace(&self) -> &str {
        self.namespace_id()
    }

    /// Sets the user name and the password of the login. Default: no login.
    ///
    /// If a server rejects the login but accepts requests without a token, as with authentication turned off, the
    /// server is used without a token, and one warning is logged. [`SetCredentials`](crate::SetCredentials) replaces
    /// the credentials of a running Registry.
    ///
    /// The password is sent in the body of the login alone. Requests carry the token, in the header
    /// `Authorization`. A token is renewed before it ends, and replaced when a server rejects it.
    #[must_use]
    pub fn credentials(mut self, username: impl Into<String>, password: impl Into<String>) -> Self {
        self.username = Some(username.into());
        self.password = Some(password.into());
        self
    }

    /// The user name: see [`credentials`](Config::credentials). There is no getter for the password.
    pub fn get_username(&self) -> Option<&str> {
        self.username.as_deref()
    }

    /// Signs every request with an access key, as the managed Nacos of Alibaba Cloud (MSE) requires. Default: no
    /// signature.
    ///
    /// A request carries `id` and an HMAC that is made with `secret`. The secret itself is never sent. Together with
    /// [`credentials`](Config::credentials), requests are signed and carry a token.
    /// [`SetAccessKey`](crate::SetAccessKey) replaces the key of a running Registry.
    ///
    /// ```
    /// use actix_nacos::Config;
    ///
    /// // Temporary credentials, and signatures of version 4.
    /// let config = Config::new("mse.example.com:8848")
    ///     .access_key("STS.id", "secret")
    ///     .security_token("token")
    ///     .signature_region("cn-hangzhou");
    /// assert!(config.validate().is_ok());
    /// ```
    #[must_use]
    pub fn access_key(mut self, id: impl Into<String>, secret: impl Into<String>) -> Self {
        self.access_key = Some(id.into());
        self.secret_key = Some(secret.into());
        self
    }

    /// The id of the access key: see [`access_key`](Config::access_key). There is no getter for the secret and the
    /// security token.
    pub fn get_access_key(&self) -> Option<&str> {
        self.access_key.as_deref()
    }

    /// Sets the security token that belongs to a temporary [`access_key`](Config::access_key) of Alibaba Cloud's STS.
    /// Every signed request carries the token in the header `Spas-SecurityToken`. Default: none.
    #[must_use]
    pub fn security_token(mut self, token: impl Into<String>) -> Self {
        self.security_token = Some(token.into());
        self
    }

    /// Signs requests by version 4, with a key that is derived from the secret, the day and this region
    /// (`cn-hangzhou`). Default: none, requests are signed by version 1.
    #[must_use]
    pub fn signature_region(mut self, region: impl Into<String>) -> Self {
        self.signature_region = Some(region.into());
        self
    }

    /// The region of the signature: see [`signature_region`](Config::signature_region).
    pub fn get_signature_region(&self) -> Option<&str> {
        self.signature_region.as_deref()
    }

    /// Sets how often the server list is fetched from the endpoint. At least 1 ms. Default: 30 s, like Nacos' Java
    /// client.
    #[must_use]
    pub fn endpoint_interval(mut self, interval: Duration) -> Self {
        self.endpoint_interval = interval;
        self
    }

    /// How often the server list is fetched: see [`endpoint_interval`](Config::endpoint_interval).
    pub fn get_endpoint_interval(&self) -> Duration {
        self.endpoint_interval
    }

    /// Sets the path of the API on servers whose address contains no path. Default: `/nacos`.
    #[must_use]
    pub fn context_path(mut self, path: impl Into<String>) -> Self {
        self.context_path = path.into();
        self
    }

    /// The path of the API: see [`context_path`](Config::context_path).
    pub fn get_context_path(&self) -> &str {
        &self.context_path
    }

    /// Sets the API that is spoken. Default: [`Protocol::Auto`].
    #[must_use]
    pub fn protocol(mut self, protocol: Protocol) -> Self {
        self.protocol = protocol;
        self
    }

    /// The API that is spoken: see [`protocol`](Config::protocol).
    pub fn get_protocol(&self) -> Protocol {
        self.protocol
    }

    /// Sets the timeout of a single request. At least 1 ms. Default: 3 s, like Nacos' Java client.
    ///
    /// A server that does not answer within this time has failed this request, and the next server is asked. Keep
    /// it well below [`operation_timeout`](Config::operation_timeout), so that there is time for another server.
    #[must_use]
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// The timeout of a single request: see [`request_timeout`](Config::request_timeout).
    pub fn get_request_timeout(&self) -> Duration {
        self.request_timeout
    }

    /// Sets the timeout of an operation over all its requests to all servers. At least 1 ms. Default: 10 s.
    ///
    /// The time counts from the moment when the first request can be sent. The timeout of each request is shortened to
    /// the time that remains.
    ///
    /// ```
    /// use actix_nacos::Config;
    /// use std::time::Duration;
    ///
    /// // A server has 500 ms to answer. After 2 s over all servers, the operation fails.
    /// let config = Config::new("192.0.2.1:8848,192.0.2.2:8848")
    ///     .request_timeout(Duration::from_millis(500))
    ///     .operation_timeout(Duration::from_secs(2));
    /// assert!(config.validate().is_ok());
    /// ```
    ///
    /// Heartbeats and polls are not repeated that long: they try each server once.
    #[must_use]
    pub fn operation_timeout(mut self, timeout: Duration) -> Self {
        self.operation_timeout = timeout;
        self
    }

    /// The timeout of an operation: see [`operation_timeout`](Config::operation_timeout).
    pub fn get_operation_timeout(&self) -> Duration {
        self.operation_timeout
    }

    /// Sets the timeout for deregistering all instances: in a [`Shutdown`](crate::Shutdown) without a timeout of its
    /// own, and when the last address of the Registry is dropped. At least 1 ms. Default: 10 s.
    ///
    /// By default, Kubernetes kills a process 30 s after the signal to end. The drain time is added to this timeout.
    #[must_use]
    pub fn shutdown_timeout(mut self, timeout: Duration) -> Self {
        self.shutdown_timeout = timeout;
        self
    }

    /// The timeout of a shutdown: see [`shutdown_timeout`](Config::shutdown_timeout).
    pub fn get_shutdown_timeout(&self) -> Duration {
        self.shutdown_timeout
    }

    /// Sets how many requests may be under way at the same time, over all servers, each on a connection of its own.
    /// From 1 to 1,000,000. Default: 32.
    ///
    /// A quarter of the connections, and at least one, is reserved for heartbeats and registrations; with 1, one more
    /// connection is opened for them. Up to the same number of idle connections is kept per server. One more idle
    /// connection detects restarts of the server.
    ///
    /// As a rule of thumb, 32 requests at a time that take 16 ms each are 2,000 per second, which are the
    /// heartbeats of 10,000 instances. See `docs/guide/tune-for-100000-instances.md`.
    #[must_use]
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = connections;
        self
    }

    /// The limit of concurrent requests: see [`max_connections`](Config::max_connections).
    pub fn get_max_connections(&self) -> usize {
        self.max_connections
    }

    /// Sets how many messages the Registry's mailbox holds before `try_send` returns `Full`. From 1 to 1,000,000.
    /// Default: 4,096.
    ///
    /// When the mailbox is full, `send` waits until it has room, and `do_send` ignores the limit.
    #[must_use]
    pub fn mailbox_capacity(mut self, messages: usize) -> Self {
        self.mailbox_capacity = messages;
        self
    }

    /// The capacity of the mailbox: see [`mailbox_capacity`](Config::mailbox_capacity).
    pub fn get_mailbox_capacity(&self) -> usize {
        self.mailbox_capacity
    }

    /// Sets the bounds of the interval at which a subscribed list is polled. Each is at least 1 ms. Default: 1 s to 10
    /// s.
    ///
    /// The server decides between these bounds: lists are polled after 85 % of their `cacheMillis`, as a rule after 8.5
    /// s. With a maximum above 10 s, pushes of Nacos 1.4 are lost, because it forgets subscribers that do not poll.
    /// Lists are polled sooner after an outage, to confirm an empty list (see
    /// [`protect_from_empty`](Config::protect_from_empty)), and for 20 s after a change if the server speaks v3.
    #[must_use]
    pub fn poll_interval(mut self, min: Duration, max: Duration) -> Self {
        self.min_poll_interval = min;
        self.max_poll_interval = max;
        self
    }

    /// The shortest and the longest poll interval: see [`poll_interval`](Config::poll_interval).
    pub fn get_poll_interval(&self) -> (Duration, Duration) {
        (self.min_poll_interval, self.max_poll_interval)
    }

    /// Accepts an empty list after a non-empty one only if the next poll returns an empty list too. Default: false, an
    /// empty list is a change like any other.
    ///
    /// Use it where an empty list is more likely a mistake than correct, for example when the registry is rebuilt. It
    /// delays the removal of the last instance by a second or so.
    #[must_use]
    pub fn protect_from_empty(mut self, yes: bool) -> Self {
        self.protect_from_empty = yes;
        self
    }

    /// Whether empty lists need a confirmation: see [`protect_from_empty`](Config::protect_from_empty).
    pub fn get_protect_from_empty(&self) -> bool {
        self.protect_from_empty
    }

    /// Sets how long instances are withheld from removal after the server may have forgotten them. Default: 15 s, after
    /// which Nacos itself considers an instance without beats unhealthy. Zero accepts every list at once.
    ///
    /// A server may forget its instances in an outage or a restart, and another server may not know them yet. An
    /// instance that the server has not listed since then stays in the list for this time. A server that restarted
    /// lists all instances again within one beat interval, as a rule 5 s. `docs/architecture.md` explains the rules
    /// under "Recovery".
    #[must_use]
    pub fn outage_hold(mut self, hold: Duration) -> Self {
        self.outage_hold = hold;
        self
    }

    /// How long instances are withheld from removal: see [`outage_hold`](Config::outage_hold).
    pub fn get_outage_hold(&self) -> Duration {
        self.outage_hold
    }

    /// Sets a folder in which the latest lists are cached, so that they are available when no server can be reached at
    /// the start. The folder is created if it does not exist. Default: none, nothing is cached.
    ///
    /// Several processes and Registries may share a folder. Lists from the cache arrive with
    /// [`Source::Cache`](crate::Source::Cache), and views that serve them are [stale](crate::ServiceView::is_stale).
    ///
    /// There is one JSON file per service and clusters. A file is ignored after 24 hours, because its instances may be
    /// gone. The folder may be deleted at any time. Calls to instances that are gone fail, so combine it with retries.
    #[must_use]
    pub fn cache_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.cache_dir = Some(folder.into());
        self
    }

    /// The folder of the cached lists: see [`cache_dir`](Config::cache_dir).
    pub fn get_cache_dir(&self) -> Option<&Path> {
        self.cache_dir.as_deref()
    }

    /// Sets how pushes are received. Default: on a free port, and only from the addresses of the servers.
    #[must_use]
    pub fn push(mut self, push: PushConfig) -> Self {
        self.push = push;
        self
    }

    /// How pushes are received: see [`push`](Config::push).
    pub fn get_push(&self) -> &PushConfig {
        &self.push
    }

    /// Sets the certificates for `https` servers. Default: the platform's roots, no client certificate.
    #[must_use]
    pub fn tls(mut self, tls: TlsConfig) -> Self {
        self.tls = tls;
        self
    }

    /// The certificates for `https` servers: see [`tls`](Config::tls).
    pub fn get_tls(&self) -> &TlsConfig {
        &self.tls
    }

    /// Sets where log records go: a logger of [`slog`] 2. Default: the `log` crate, by `slog-stdlog`. With the feature
    /// `tracing`: the application's `tracing` subscriber, as events with fields, and the `log` crate while there is
    /// none.
    ///
    /// ```
    /// use actix_nacos::Config;
    /// use slog::{o, Discard, Logger};
    ///
    /// let silent = Config::new("192.0.2.1:8848").logger(Logger::root(Discard, o!()));
    /// ```
    #[must_use]
    pub fn logger(mut self, logger: Logger) -> Self {
        self.logger = logger;
        self
    }

    /// Where log records go: see [`logger`](Config::logger).
    pub fn get_logger(&self) -> &Logger {
        &self.logger
    }
}
