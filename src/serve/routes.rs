//! The routes for health, metrics and the live page.
//!
//! [`StatusRoutes`] is plain settings until [`configure`](StatusRoutes::configure) mounts it. Each worker of the
//! server mounts a clone; the clones share the streams of the live page.

use std::{sync::Arc, time::Duration};

use actix::Addr;
use actix_web::web::{self, ServiceConfig};

use super::{access::Access, context::RouteContext, health, live::Live, metrics, page};
use crate::registry::{Registry, Shutdown};

/// Routes for health checks, metrics and a status page, to be mounted in an actix-web `App`:
///
/// | route | what it is | answers |
/// |---|---|---|
/// | `/livez` | 200 as long as the process serves, also in an outage of the registry | everybody |
/// | `/readyz` | 200 when requests may come: see [`strict`](StatusRoutes::strict) | everybody |
/// | `/offline` | GET or POST: deregisters, and answers when callers have noticed | loopback, or who has the token |
/// | `/metrics` | metrics in the Prometheus text format | loopback, or see below |
/// | `/registry/` | a live page | loopback, or see below |
///
/// Each route can be renamed, and left out by `None`. Metrics and the page name servers and services, so they answer
/// requests from loopback alone until [`public`](StatusRoutes::public) or [`token`](StatusRoutes::token) is set. A
/// request that a proxy has forwarded does not count as one from loopback. A proxy on this machine that adds no header
/// looks like a local program, so do not let it forward these routes.
///
/// The routes hold the Registry weakly, so they do not keep it alive. They report its end.
///
/// ```
/// # use actix_nacos::{embedded::EmbeddedServer, prelude::*, StatusRoutes};
/// # use actix_web::App;
/// # let nacos = EmbeddedServer::start().unwrap();
/// # let registry = Registry::start(Config::new(nacos.server_address()))?;
/// let status = StatusRoutes::new(&registry).token("s3cret").readyz("/health/ready").metrics(None);
/// let app = move || App::new().configure(|app| status.configure(app));
/// # Ok::<(), Error>(())
/// ```
///
/// # In Kubernetes
///
/// ```yaml
/// livenessProbe: {httpGet: {path: /livez, port: 8080}}
/// readinessProbe: {httpGet: {path: /readyz, port: 8080}}
/// ```
///
/// With [`serve`](super::serve), SIGTERM does what `/offline` does, and callers that find the pod in Nacos need no
/// `preStop` hook. An `httpGet` hook on `/offline` needs the token, because the kubelet does not come from
/// loopback. `docs/guide/go-offline.md` has the details.
#[derive(Clone)]
pub struct StatusRoutes {
    context: RouteContext,
    livez: Option<String>,
    readyz: Option<String>,
    offline: Option<String>,
    metrics: Option<String>,
    prefix: Option<String>,
    /// Shared by all workers of the server.
    live: Arc<Live>,
}

impl StatusRoutes {
    /// Creates routes for this Registry.
    ///
    /// They have all default paths. Nothing is asked before the first request.
    pub fn new(registry: &Addr<Registry>) -> Self {
        StatusRoutes {
            context: RouteContext {
                registry: registry.downgrade(),
                access: Access::default(),
                is_strict: false,
                shutdown: Shutdown::default().drain_until_noticed(),
            },
            livez: Some("/livez".into()),
            readyz: Some("/readyz".into()),
            offline: Some("/offline".into()),
            metrics: Some("/metrics".into()),
            prefix: Some("/registry".into()),
            live: Arc::default(),
        }
    }

    /// Lets `/readyz` answer 503 until every instance has been registered once. Default: off.
    ///
    /// `/readyz` answers 200 when each instance is registered, or waits because no registry server accepts it. So a
    /// process also becomes ready during an outage of the registry. `/readyz` answers 503 while a registry server
    /// rejects an instance, while the first attempt to register is under way, and from the moment a [`Shutdown`]
    /// begins. An instance that was registered and is lost does not change the answer. Nor does a single rejection of
    /// such an instance: only the second one in a row does, a heartbeat interval later.
    ///
    /// Use it where a process must not get requests before others can find it, for example in a rolling update that
    /// waits for readiness. In an outage of the registry, new processes then do not become ready.
    #[must_use]
    pub fn strict(mut self) -> Self {
        self.context.is_strict = true;
        self
    }

    /// Lets metrics and the page answer everybody. `/offline` is never public. Default: off.
    ///
    /// Use it only where the network decides who can reach the port: the page names servers, services, addresses
    /// and metadata.
    #[must_use]
    pub fn public(mut self) -> Self {
        self.context.access.public = true;
        self
    }

    /// Lets metrics, page and `/offline` answer requests that carry this token, as `Authorization: Bearer <token>`.
    /// Metrics and page also accept it as the password of basic authentication, which browsers ask for. Requests from
    /// loopback need none. White space around the token is ignored. Default: no token.
    ///
    /// An empty token is never accepted, so a missing environment variable opens nothing. Other requests without
    /// the token are answered with 401, or with 403 if no token is set.
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Self {
        // The last byte of a mounted secret is often a newline, which no header can contain.
        self.context.access.token = Some(token.into().trim().to_owned());
        self
    }

    /// How long `/offline` waits after deregistering. Default: as long as callers need to notice
    /// ([`Shutdown::drain_until_noticed`]). A drain after a signal has a time of its own: set
    /// [`Serve::drain`](super::Serve::drain), too.
    ///
    /// The request waits that long, so its client needs a longer time limit.
    #[must_use]
    pub fn drain(mut self, time: Duration) -> Self {
        self.context.shutdown = self.context.shutdown.drain(time);
        self
    }

    /// Where the liveness check is; `None` leaves it out. Default: `/livez`.
    ///
    /// ```
    /// # use actix_nacos::{Config, Registry, StatusRoutes};
    /// # let registry = Registry::start(Config::disabled())?;
    /// let health_only = StatusRoutes::new(&registry).livez("/healthz").offline(None).metrics(None).prefix(None);
    /// # Ok::<(), actix_nacos::Error>(())
    /// ```
    #[must_use]
    pub fn livez<'a>(mut self, path: impl Into<Option<&'a str>>) -> Self {
        self.livez = path.into().map(Into::into);
        self
    }

    /// Where the readiness check is; `None` leaves it out. Default: `/readyz`.
    ///
    /// HEAD is answered like GET. The answer is there within 0.8 s, so a probe's time limit of 1 s is enough.
    #[must_use]
    pub fn readyz<'a>(mut self, path: impl Into<Option<&'a str>>) -> Self {
        self.readyz = path.into().map(Into::into);
        self
    }

    /// Where the process is taken out of service; `None` leaves it out. Default: `/offline`.
    ///
    /// It is answered after the drain, with a `ShutdownReport` as JSON. The process keeps running: the caller
    /// has to end it.
    #[must_use]
    pub fn offline<'a>(mut self, path: impl Into<Option<&'a str>>) -> Self {
        self.offline = path.into().map(Into::into);
        self
    }

    /// Where the metrics are; `None` leaves them out. Default: `/metrics`.
    ///
    /// The text is made anew for each scrape, within 5 s or else the answer is 503.
    #[must_use]
    pub fn metrics<'a>(mut self, path: impl Into<Option<&'a str>>) -> Self {
        self.metrics = path.into().map(Into::into);
        self
    }

    /// Under which path the page is; `None` leaves it out. Default: `/registry`, for a page at `/registry/`.
    ///
    /// Slashes at both ends make no difference: `"admin"` and `"/admin/"` are the same. `"/"` puts the page at the root
    /// of the application, or of the scope that the routes are mounted in. The page takes only its own two paths, here
    /// `/` and `/events`; the application's other routes stay reachable.
    ///
    /// The page's events are at `<prefix>/events`. The header `X-Accel-Buffering: no` keeps nginx from
    /// buffering them. Other proxies may need a setting.
    #[must_use]
    pub fn prefix<'a>(mut self, prefix: impl Into<Option<&'a str>>) -> Self {
        self.prefix = prefix.into().map(Into::into);
        self
    }

    /// Mounts the routes: `App::new().configure(|app| status.configure(app))`.
    ///
    /// Call it in the `App`'s factory, so that each worker has the routes. Routes of the application with the same
    /// paths win if they are mounted before.
    pub fn configure(&self, app: &mut ServiceConfig) {
        let shared = web::Data::new(self.context.clone());
        if let Some(path) = &self.livez {
            app.service(web::resource(path.as_str()).get(health::livez).head(health::livez));
        }
        if let Some(path) = &self.readyz {
            let resource = web::resource(path.as_str()).app_data(shared.clone());
            app.service(resource.get(health::readyz).head(health::readyz));
        }
        if let Some(path) = &self.offline {
            let resource = web::resource(path.as_str()).app_data(shared.clone());
            app.service(resource.get(health::offline).post(health::offline));
        }
        if let Some(path) = &self.metrics {
            app.service(web::resource(path.as_str()).app_data(shared.clone()).get(metrics::metrics));
        }
        if let Some(prefix) = &self.prefix {
            page::configure(app, prefix, &shared, &self.live);
        }
    }
}
