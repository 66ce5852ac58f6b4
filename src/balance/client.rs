//! The ready client, and the settings of calls by name.
//!
//! [`ClientBuilder`] only stores settings. [`finish`](ClientBuilder::finish) and
//! [`middleware`](ClientBuilder::middleware) check them, build the table of hosts and make the parts that belong to
//! a thread. No service is asked for before its first call.

use std::{fmt, ops::Deref, rc::Rc, sync::Arc, time::Duration};

use actix::{Addr, WeakAddr};
use actix_http::{header::HeaderMap, RequestHead, StatusCode};
use awc::middleware::Redirect;
use slog::Logger;

use super::{
    answer::is_failure,
    body::RequestFactory,
    connections::{self, Connections},
    deadline::{Deadline, WithDeadline},
    hosts::{hosts_of, is_host_name, key},
    middleware::{Balancer, Middleware, Settings},
    outgoing::HostHeader,
    retry::Retry,
    services::{Service, Services, UnderSuffix},
    tls,
    tunnels::TakeConnector,
};
use crate::{
    config::{standard_logger, TlsConfig, LONGEST_DURATION},
    discovery::view::Selection,
    error::Error,
    model::service::{ServiceName, ServiceRef},
    registry::{Discover, Registry},
};

/// How long one attempt may take until the head of the answer has come.
///
/// Shorter than [`DEADLINE`], so that one silent instance leaves time for another attempt.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long opening a TCP connection may take, and after that the TLS handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a call may take, all attempts together.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long a call waits for an instance that can be called.
const WAIT: Duration = Duration::from_secs(2);
/// How many services are watched under a suffix.
const SERVICES_UNDER_SUFFIX: usize = 1000;
/// How many redirects a call follows. awc has the same default.
const REDIRECTS: u8 = 10;

/// An [`awc::Client`] whose requests to `http://orders/…` go to instances of the service `orders`.
///
/// It derefs to [`awc::Client`] and is used like it. Requests to hosts that are not services are sent unchanged. Like
/// awc's client it belongs to one thread, so build one per worker. All clients of a Registry share the ejections and
/// the measured latencies of instances, and the budget of retries.
///
/// ```
/// use actix_nacos::{balance::{Client, Retry}, embedded::EmbeddedServer, prelude::*};
/// use actix_web::{web, App, HttpServer};
///
/// #[actix::main]
/// async fn main() -> Result<(), Box<dyn std::error::Error>> {
///     let nacos = EmbeddedServer::start()?;
///     let registry = Registry::start(Config::new(nacos.server_address()))?;
///     let orders = HttpServer::new(|| App::new().route("/items", web::get().to(|| async { "three" })));
///     let orders = orders.workers(1).bind(("127.0.0.1", 0))?;
///     let port = orders.addrs()[0].port();
///     actix_rt::spawn(orders.run());
///     registry.send(RegisterInstance::new("orders", "127.0.0.1", port)).await??;
///
///     let http = Client::builder(&registry).service("orders").retry(Retry::once()).finish();
///     let mut items = http.get("http://orders/items").send().await?;
///     assert_eq!(items.body().await?, "three");
///     Ok(())
/// }
/// ```
///
/// # When has a call failed?
///
/// An instance fails a call when it cannot be reached, does not answer within
/// [`attempt_timeout`](ClientBuilder::attempt_timeout), breaks the connection, cuts the body off, or answers 502,
/// 503 or 504. A failed call counts towards the instance's [ejection](crate::Eject), and may be
/// [retried](ClientBuilder::retry). The answer of the last attempt is returned even if it is a 503.
///
/// # What if no registry server answers?
///
/// Calls go on with the last list. While the service has no instance to call, a call waits for
/// [`wait`](ClientBuilder::wait) and then fails with [`Error::NoInstance`].
#[derive(Clone)]
pub struct Client(awc::Client);

impl Client {
    /// Creates the settings of a client that finds instances with `registry`. The client does not keep the Registry
    /// alive. After the Registry's end, calls go to the instances of the last lists.
    pub fn builder(registry: &Addr<Registry>) -> ClientBuilder {
        ClientBuilder::new(registry.downgrade())
    }
}

impl Deref for Client {
    type Target = awc::Client;

    fn deref(&self) -> &awc::Client {
        &self.0
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

/// Settings of calls by name. Clone them and move a clone into every worker, where [`finish`](ClientBuilder::finish)
/// makes the client.
///
/// If a setting is invalid, every call of the client fails with [`Error::InvalidInput`]: see [`cause`](super::cause).
///
/// # Time limits
///
/// | setting | default | what it covers |
/// |---|---|---|
/// | [`attempt_timeout`](Self::attempt_timeout) | 5 s | one attempt, until the head of the answer has come |
/// | [`connect_timeout`](Self::connect_timeout) | 2 s | opening a TCP connection, and again the TLS handshake |
/// | [`wait`](Self::wait) | 2 s | waiting for an instance that can be called |
/// | [`deadline`](Self::deadline) | 10 s | all of these together |
///
/// No limit covers the body of an answer. Set one with [`ClientResponse::timeout`](awc::ClientResponse::timeout).
///
/// # Examples
///
/// One client per worker of a server:
///
/// ```
/// use actix_nacos::{balance::{Client, Retry}, prelude::*};
/// use actix_web::{web, App};
/// # fn serve(registry: &actix::Addr<Registry>) {
/// let by_name = Client::builder(registry).service("orders").service("SHOP@@billing").retry(Retry::once());
/// let app = move || App::new().app_data(web::Data::new(by_name.clone().finish()));
/// # let _ = app;
/// # }
/// ```
#[derive(Clone)]
pub struct ClientBuilder {
    registry: WeakAddr<Registry>,
    services: Vec<ServiceRef>,
    hosts: Vec<(String, Discover)>,
    suffix: Option<String>,
    services_under_suffix: usize,
    selection: Selection,
    settings: Settings,
    connect_timeout: Duration,
    max_connections: usize,
    redirects: u8,
    tls: TlsConfig,
    logger: Logger,
}

impl ClientBuilder {
    fn new(registry: WeakAddr<Registry>) -> Self {
        let settings = Settings {
            retry: Retry::default(),
            attempt_timeout: ATTEMPT_TIMEOUT,
            deadline: DEADLINE,
            wait: WAIT,
            host: HostHeader::default(),
            certificate_name: Arc::new(|service| service.name.to_string()),
            is_failure: Arc::new(|status, _| is_failure(status)),
            key: None,
        };
        ClientBuilder {
            registry,
            services: Vec::new(),
            hosts: Vec::new(),
            suffix: None,
            services_under_suffix: SERVICES_UNDER_SUFFIX,
            selection: Selection::default(),
            settings,
            connect_timeout: CONNECT_TIMEOUT,
            max_connections: 0,
            redirects: REDIRECTS,
            tls: TlsConfig::default(),
            logger: standard_logger(),
        }
    }

    /// Sends requests for the host of this service to its instances. A port in the URL is ignored. The case of the host
    /// does not matter.
    ///
    /// | `service` | URLs |
    /// |---|---|
    /// | `orders` | `http://orders/…`, `http://orders.DEFAULT_GROUP.nacos/…` |
    /// | `SHOP@@orders` | `http://orders/…`, `http://orders.SHOP.nacos/…` |
    ///
    /// A service whose name is not a valid host name needs [`host`](ClientBuilder::host).
    ///
    /// Call it once for each service. Two services with the same name in different groups have the same host, which is
    /// an error. Give one of them another host with [`host`](ClientBuilder::host).
    #[must_use]
    pub fn service(mut self, service: impl Into<ServiceRef>) -> Self {
        self.services.push(service.into());
        self
    }

    /// Requests to this host go to instances of the service that `discover` names, chosen by its selection.
    ///
    /// ```
    /// # use actix_nacos::{balance::Client, prelude::*};
    /// # fn of(registry: &actix::Addr<Registry>) {
    /// let greeter = Discover::new("providers:com.example.IGreeter::").prefer_cluster("EAST");
    /// let http = Client::builder(registry).host("greeter", greeter);
    /// # }
    /// ```
    ///
    /// The host may contain letters, digits, `-`, `.` and `_`. The [selection](ClientBuilder::selection) of the
    /// client does not apply: `discover` has its own.
    #[must_use]
    pub fn host(mut self, host: impl Into<String>, discover: Discover) -> Self {
        self.hosts.push((host.into(), discover));
        self
    }

    /// Every host with this suffix is a service: with `.nacos`, `http://orders.nacos/…` calls `orders`, and
    /// `http://orders.SHOP.nacos/…` calls `SHOP@@orders`. The client stops watching a service that was not called for
    /// 10 minutes.
    ///
    /// Use it for a gateway, which does not know its services when it starts. A service whose name has dots needs
    /// its group in the host, because the last part before the suffix is read as the group. Any valid name is
    /// accepted: Nacos does not distinguish a service without instances from one that does not exist.
    #[must_use]
    pub fn suffix(mut self, suffix: impl Into<String>) -> Self {
        self.suffix = Some(suffix.into());
        self
    }

    /// How many services are watched under the [suffix](ClientBuilder::suffix). When the limit is reached, a service
    /// without instances is replaced. Default: 1,000.
    ///
    /// The limit protects the process from callers that invent host names. A service that has instances is never
    /// replaced.
    ///
    /// # Errors
    /// If every watched service has instances, calls to further services fail with [`Error::InvalidInput`], whose field
    /// is `host`.
    #[must_use]
    pub fn services_under_suffix(mut self, limit: usize) -> Self {
        self.services_under_suffix = limit;
        self
    }

    /// How instances are chosen, for all services except those that have their own [host](ClientBuilder::host).
    /// Default: at random by the weights.
    #[must_use]
    pub fn selection(mut self, selection: Selection) -> Self {
        self.selection = selection;
        self
    }

    /// Finds the key of a request, for [`Policy::ConsistentHash`](crate::Policy::ConsistentHash): requests with the
    /// same key go to the same instance. Default: none.
    ///
    /// A request for which `key` returns `None` is sent to an instance at random. Other policies ignore the key.
    ///
    /// ```
    /// use actix_nacos::{balance::Client, prelude::*, Policy};
    /// # fn of(registry: &actix::Addr<Registry>) {
    /// let by_session = Client::builder(registry)
    ///     .service("carts")
    ///     .selection(Selection::default().policy(Policy::ConsistentHash))
    ///     .key(|head| head.headers.get("session")?.to_str().ok().map(Into::into));
    /// # }
    /// ```
    #[must_use]
    pub fn key(mut self, key: impl Fn(&RequestHead) -> Option<String> + Send + Sync + 'static) -> Self {
        self.settings.key = Some(Arc::new(key));
        self
    }

    /// Which requests are sent again to another instance. Default: [`Retry::once`].
    #[must_use]
    pub fn retry(mut self, retry: Retry) -> Self {
        self.settings.retry = retry;
        self
    }

    /// How long each attempt may take until the head of the answer has come. An instance that takes longer has failed.
    /// Default: 5 s.
    ///
    /// If the attempt had to wait for the request's own body, the time counts from the last piece that it waited for.
    ///
    /// The ready client turns awc's own time limit off. A time limit that is set on a request covers all attempts, and
    /// ends the call without a retry.
    #[must_use]
    pub fn attempt_timeout(mut self, limit: Duration) -> Self {
        self.settings.attempt_timeout = limit;
        self
    }

    /// How long a call may take until the head of the answer has come: waiting, all attempts, and the redirects that it
    /// follows. Default: 10 s.
    ///
    /// In the [`middleware`](Self::middleware) of another awc client, each request that a redirect leads to has its own
    /// deadline.
    ///
    /// While an attempt waits for the request's own body, only the deadline applies.
    #[must_use]
    pub fn deadline(mut self, limit: Duration) -> Self {
        self.settings.deadline = limit.min(LONGEST_DURATION);
        self
    }

    /// How many redirects a call follows, to any host. The [`deadline`](Self::deadline) covers all of them. Set it to 0
    /// in a proxy that returns redirects to its own callers. Default: 10, as in awc.
    ///
    /// A redirect to the host of a service is a call by name. A redirect to any other host is a plain request.
    #[must_use]
    pub fn redirects(mut self, limit: u8) -> Self {
        self.redirects = limit;
        self
    }

    /// How long a call waits while no instance can be called, before it fails with [`Error::NoInstance`]. Default: 2 s.
    ///
    /// A service may have no instance while it is deployed, and a short wait is better than an error. Set it to zero in
    /// a proxy that must answer fast. Only the first attempt waits; a retry does not.
    #[must_use]
    pub fn wait(mut self, limit: Duration) -> Self {
        self.settings.wait = limit;
        self
    }

    /// How long opening a TCP connection may take, and after that the TLS handshake. Default: 2 s for each. Does not
    /// apply to a [`middleware`](ClientBuilder::middleware).
    #[must_use]
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.connect_timeout = limit;
        self
    }

    /// How many connections may carry calls at the same time, to all instances together. http, https and WebSockets are
    /// counted separately. Further calls wait, and the wait counts towards the
    /// [`attempt_timeout`](ClientBuilder::attempt_timeout). Default: no limit. Does not apply to a
    /// [`middleware`](ClientBuilder::middleware).
    #[must_use]
    pub fn max_connections(mut self, limit: usize) -> Self {
        self.max_connections = limit;
        self
    }

    /// The value of the `Host` header, unless the request has set it. Default: the host of the URL. HTTP/2 has no
    /// `Host` header; there the address of the instance is sent.
    #[must_use]
    pub fn host_header(mut self, host: HostHeader) -> Self {
        self.settings.host = host;
        self
    }

    /// Decides which answers count as failures of the instance. A failure may be retried, and counts towards ejection.
    /// Default: the statuses 502, 503 and 504.
    ///
    /// Count an answer as a failure only if another instance may answer better. `is_failure` runs in the worker, so it
    /// must not block.
    ///
    /// ```
    /// use actix_nacos::{balance::Client, prelude::*};
    /// # fn of(registry: &actix::Addr<Registry>) {
    /// // An instance that limits its callers answers 429: let another one take the request.
    /// let http = Client::builder(registry)
    ///     .service("orders")
    ///     .failure_when(|status, _| matches!(status.as_u16(), 429 | 502 | 503 | 504));
    /// # }
    /// ```
    #[must_use]
    pub fn failure_when(mut self, is_failure: impl Fn(StatusCode, &HeaderMap) -> bool + Send + Sync + 'static) -> Self {
        self.settings.is_failure = Arc::new(is_failure);
        self
    }

    /// Certificates for https, which needs the feature `rustls` or `openssl`. Default: the platform's roots, and no
    /// client certificate. Does not apply to a [`middleware`](ClientBuilder::middleware).
    ///
    /// Instances are called by https when the URL says `https`, and when their metadata says `secure=true`.
    #[must_use]
    pub fn tls(mut self, tls: TlsConfig) -> Self {
        self.tls = tls;
        self
    }

    /// The name that the certificate of a service's instances must have. Default: the name of the service.
    ///
    /// The address of an instance is not checked, because certificates of instances seldom contain it. Use this setting
    /// when all services have the same certificate, for example `|_| "internal.example".into()`.
    #[must_use]
    pub fn certificate_name(mut self, name: impl Fn(&ServiceName) -> String + Send + Sync + 'static) -> Self {
        self.settings.certificate_name = Arc::new(name);
        self
    }

    /// Where log records go. Default: the `log` crate, by `slog-stdlog`. Failed attempts are logged at level debug.
    #[must_use]
    pub fn logger(mut self, logger: Logger) -> Self {
        self.logger = logger;
        self
    }

    /// Makes the client for this thread. Its time limits replace awc's, and it closes connections that were idle for 4
    /// s.
    ///
    /// Everything else, such as default headers, is as in a new [`awc::ClientBuilder`]. To change it, use
    /// [`middleware`](ClientBuilder::middleware).
    ///
    /// Never fails and never panics: an invalid setting makes each call fail. A setting is invalid if a service's name
    /// is not a host name, if two services have the same host, or if the TLS files cannot be read.
    pub fn finish(self) -> Client {
        let (redirects, limits) = (self.redirects, (self.connect_timeout, self.max_connections));
        let configs = tls::client_configs(&self.tls);
        let (configs, error) = configs.map_or_else(|error| (None, Some(error)), |configs| (configs, None));
        let (any_http, http1) = configs.map_or((None, None), |[any, http1]| (Some(any), Some(http1)));
        let mut middleware = self.balancer(true, error);
        let (sockets, tunnels) = (middleware.sockets(), TakeConnector::default());
        let connector = |config| {
            let connector = awc::Connector::new()
                .connector(sockets.clone())
                .timeout(limits.0)
                .handshake_timeout(limits.0)
                .limit(limits.1)
                .conn_keep_alive(connections::IDLE_TIME);
            tls::with(connector, config)
        };
        awc::Client::builder().max_redirects(0).connector(connector(http1)).wrap(tunnels.clone()).finish();
        if let Some(balancer) = Rc::get_mut(&mut middleware.0) {
            balancer.tunnels = tunnels.taken();
        }
        let with_deadline = WithDeadline(middleware.0.deadline.clone());
        let client = awc::Client::builder().disable_timeout().max_redirects(0);
        let client = client.connector(connector(any_http)).wrap(middleware);
        Client(match redirects {
            0 => client.finish(),
            _ => client.wrap(Redirect::new().max_redirect_times(redirects)).wrap(with_deadline).finish(),
        })
    }

    /// Makes the middleware for an [`awc::Client`] that the application builds itself, in this thread.
    ///
    /// awc's time limit of 5 s covers all attempts, so turn it off: the
    /// [`attempt_timeout`](ClientBuilder::attempt_timeout) replaces it. https also needs the
    /// [connector](Middleware::connector). WebSockets need HTTP/1, so a client that opens them must not offer HTTP/2 to
    /// the instances.
    ///
    /// ```
    /// # use actix_nacos::{balance::Client, prelude::*};
    /// # fn of(registry: &actix::Addr<Registry>) {
    /// let by_name = Client::builder(registry).service("orders").middleware();
    /// let http = awc::Client::builder().disable_timeout().wrap(by_name).finish();
    /// # }
    /// ```
    pub fn middleware(self) -> Middleware {
        self.balancer(false, None)
    }

    /// `limits_others`: whether the attempt's time limit also covers requests to hosts that are not services. The
    /// ready client turns awc's limit off, so its middleware must set one.
    fn balancer(self, limits_others: bool, error: Option<Error>) -> Middleware {
        Middleware(Rc::new(Balancer {
            services: error.map_or_else(|| self.make_services(), Err),
            registry: self.registry,
            connections: Connections::default(),
            tunnels: None,
            deadline: Rc::new(Deadline::new(self.settings.deadline)),
            factory: RequestFactory::new(),
            settings: self.settings,
            limits_others,
            log: self.logger,
        }))
    }

    /// Builds the table of hosts. Does not ask the Registry for anything.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] for a service whose name is not a host name, and for two services with the same host.
    fn make_services(&self) -> Result<Services, Error> {
        let mut named = Vec::new();
        for service in &self.services {
            let name = service.resolve(None)?;
            let hosts = hosts_of(&name)?;
            let service = Rc::new(Service::new(Discover::new(name).selection(self.selection.clone())));
            named.extend(hosts.map(|host| (host, service.clone())));
        }
        for (host, discover) in &self.hosts {
            if !is_host_name(host) {
                return Err(Error::invalid("host", format!("{host:?} is no host name")));
            }
            named.push((key(host), Rc::new(Service::new(discover.clone()))));
        }
        let selection = self.selection.clone();
        let under_suffix = self.suffix.clone().map(|suffix| {
            let with_selection = Arc::new(move |discover: Discover| discover.selection(selection.clone()));
            UnderSuffix::new(suffix, self.services_under_suffix, with_selection)
        });
        let mut hosts: Vec<_> = named.iter().map(|(host, _)| host).collect();
        hosts.sort_unstable();
        if let Some(twice) = hosts.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Error::invalid("host", format!("two services have the host {:?}", twice[0])));
        }
        Ok(Services::new(named, under_suffix))
    }
}

impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder")
            .field("services", &self.services)
            .field("hosts", &self.hosts)
            .field("suffix", &self.suffix)
            .field("retry", &self.settings.retry)
            .finish_non_exhaustive()
    }
}
