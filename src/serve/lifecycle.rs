//! The life of a service: register once the server listens, go offline on a signal, stop.
//!
//! The order matters: a service may be registered only while its server takes requests, and the server may stop only
//! when callers have stopped sending. [`live`] is the part between the two, and the server runs beside it in the same
//! task.
//!
//! Invariants:
//!
//! - However the service ends, its instances are deregistered before [`Serve`] resolves, if a registry server
//!   answers within [`Config::shutdown_timeout`].
//! - After the first signal, nothing that fails keeps the process from ending. Each wait has a limit, and a logger
//!   that panics is caught. So is code of the application in `register_with` and `until`: its panic ends the service
//!   in order.
//! - The drain is skipped where it helps no caller: when the server has stopped by itself, and when the registration
//!   has failed.

use std::{
    fmt,
    future::{pending, Future, IntoFuture},
    io,
    net::{IpAddr, SocketAddr},
    panic::{catch_unwind, AssertUnwindSafe},
    pin::{pin, Pin},
    thread,
    time::Duration,
};

use actix::Addr;
use actix_http::{body::MessageBody, Request, Response};
use actix_rt::time::{sleep, timeout};
use actix_service::{IntoServiceFactory, ServiceFactory};
use actix_web::{
    dev::{AppConfig, Server},
    HttpServer,
};
use futures_util::future::{join, select, try_join_all, BoxFuture, Either, FutureExt as _};
use slog::{info, warn};
use tokio::sync::oneshot;

use super::signals::{self, Signals};
use crate::{
    config::Config,
    error::{Error, Operation},
    model::service::ServiceRef,
    registry::{AddressMissing, BeginServing, RegisterInstance, RegistrationsAsked, Registry, Shutdown},
    runtime::supervision::log_panic,
};

/// The pause before the address of this machine is looked up again.
///
/// In a container the network may come up after the process.
const LOOK_UP_PAUSE: Duration = Duration::from_secs(1);
/// How often to check whether a shutdown that was requested elsewhere is done.
const SHUTDOWN_CHECK: Duration = Duration::from_millis(20);

/// Serves, registers and, on SIGTERM or Ctrl-C, goes offline without losing a request: the whole life of a service.
///
/// ```no_run
/// use actix_nacos::prelude::*;
/// use actix_web::{web, App, HttpServer};
///
/// #[actix_web::main]
/// async fn main() -> Result<(), Error> {
///     let registry = Registry::start(Config::from_env()?)?; // NACOS_SERVER_ADDR=127.0.0.1:8848
///     let status = StatusRoutes::new(&registry); // /livez, /readyz, /metrics, /registry/
///     let hello = || web::get().to(|| async { "hello" });
///     let app = move || App::new().configure(|app| status.configure(app)).route("/", hello());
///     actix_nacos::serve(HttpServer::new(app).bind(("0.0.0.0", 8080))?, registry).register("hello").await
/// }
/// ```
///
/// [`Serve`] describes the steps, and has the settings.
///
/// # Panics
/// Never. A server that is bound to no port is an error of the future, not a panic.
pub fn serve<F, I, S, B>(server: HttpServer<F, I, S, B>, registry: Addr<Registry>) -> Serve
where
    F: Fn() -> I + Send + Clone + 'static,
    I: IntoServiceFactory<S, Request>,
    S: ServiceFactory<Request, Config = AppConfig> + 'static,
    S::Error: Into<actix_web::Error>,
    S::InitError: fmt::Debug,
    S::Response: Into<Response<B>>,
    B: MessageBody + 'static,
{
    let bound = server.addrs().first().copied().ok_or_else(|| {
        // Without this check, the server itself would panic.
        Error::invalid("server", "listens nowhere: bind it to a port before it is served")
    });
    Serve {
        server: bound.map(|address| (server.disable_signals().run(), address)),
        registry,
        services: Vec::new(),
        ip: None,
        is_strict: false,
        shutdown: Shutdown::default().drain_until_noticed(),
        takes_signals: true,
        until: Box::pin(pending()),
    }
}

/// A service that [`serve`] makes; `await` it, under `#[actix_web::main]` or `#[tokio::main]`.
///
/// 1. The server starts. Then each service is registered at the address that the server listens on. If the server
///    listens on every address of the machine (`0.0.0.0`), the address by which the machine reaches the registry is
///    registered ([`Config::local_ip`](crate::Config::local_ip)).
/// 2. It serves until SIGTERM or Ctrl-C comes, or until the future of [`until`](Serve::until) is done.
/// 3. `/readyz` answers 503, and the instances are deregistered ([`Shutdown`]).
/// 4. It keeps serving as long as callers need to notice, or for [`drain`](Serve::drain).
/// 5. The server stops: it takes no new connection, and finishes the requests that are under way
///    ([`HttpServer::shutdown_timeout`]).
///
/// A second signal ends the process at once, with the exit code 130 (Ctrl-C) or 143 (SIGTERM), and so does every signal
/// after the service has ended. The server handles no signals by itself.
///
/// # Errors
/// [`Error::Io`] if the server cannot run. [`Error::InvalidInput`] if it listens nowhere, or if a service is invalid.
/// [`Error::Panicked`] if the closure of [`register_with`](Serve::register_with) or the future of
/// [`until`](Serve::until) panics. If the service is [`strict`](Serve::strict), also the error because of which a
/// service could not be registered. In each case the instances are deregistered and the server has stopped.
///
/// # Examples
///
/// Several services, and an end that the application decides:
///
/// ```
/// use std::time::Duration;
///
/// use actix_nacos::{embedded::EmbeddedServer, prelude::*};
/// use actix_web::{App, HttpServer};
///
/// # #[actix::main]
/// # async fn main() -> Result<(), Error> {
/// let nacos = EmbeddedServer::start().expect("a server");
/// let registry = Registry::start(Config::new(nacos.server_address()))?;
/// let server = HttpServer::new(App::new).workers(1).bind(("127.0.0.1", 0))?;
/// let enough = actix_rt::time::sleep(Duration::from_millis(200));
/// actix_nacos::serve(server, registry)
///     .register("orders")
///     .register_with("orders-admin", |instance| instance.metadata("role", "admin"))
///     .drain(Duration::ZERO)
///     .until(enough)
///     .await?;
/// assert!(nacos.instances("orders").is_empty());
/// # Ok(())
/// # }
/// ```
#[must_use = "serves nothing until it is awaited"]
pub struct Serve {
    server: Result<(Server, SocketAddr), Error>,
    registry: Addr<Registry>,
    services: Vec<Service>,
    ip: Option<String>,
    is_strict: bool,
    shutdown: Shutdown,
    takes_signals: bool,
    until: BoxFuture<'static, ()>,
}

/// One service to register, and what differs from the defaults.
struct Service {
    name: ServiceRef,
    change: Box<dyn FnOnce(RegisterInstance) -> RegisterInstance + Send>,
}

impl Serve {
    /// Registers an instance of `service` (or `GROUP@@service`) at the first port that the server listens on. Call it
    /// once for each service.
    ///
    /// Without a call of `register`, the server is served and nothing is registered. All services of a process may
    /// share one port.
    pub fn register(self, service: impl Into<ServiceRef>) -> Self {
        self.register_with(service, |instance| instance)
    }

    /// Like [`register`](Serve::register), with changes: weight, metadata, cluster, or another of the server's ports.
    ///
    /// ```no_run
    /// # use actix_nacos::prelude::*;
    /// # use actix_web::{App, HttpServer};
    /// # async fn run(registry: actix::Addr<Registry>) -> Result<(), Error> {
    /// let server = HttpServer::new(App::new).bind(("0.0.0.0", 8080))?.bind(("0.0.0.0", 8081))?;
    /// let service = actix_nacos::serve(server, registry)
    ///     .register_with("orders", |instance| instance.weight(2.0).metadata("zone", "a"))
    ///     .register_with("orders-admin", |instance| instance.port(8081));
    /// service.await
    /// # }
    /// ```
    ///
    /// `change` receives the registration with the address and port of the server. It is called once, after the
    /// server has started. A server with several ports registers only the first one unless `change` sets another.
    /// If it panics, the service ends in order, with [`Error::Panicked`].
    pub fn register_with(
        mut self,
        service: impl Into<ServiceRef>,
        change: impl FnOnce(RegisterInstance) -> RegisterInstance + Send + 'static,
    ) -> Self {
        self.services.push(Service { name: service.into(), change: Box::new(change) });
        self
    }

    /// The address by which callers reach this machine. Default: the address that [`Serve`] finds.
    ///
    /// If callers reach the server by a proxy, for example because the server listens on a Unix socket, set the proxy's
    /// address here and its port in [`register_with`](Serve::register_with).
    ///
    /// Set it in a container whose callers are outside: they need the address of the host.
    pub fn ip(mut self, ip: impl Into<String>) -> Self {
        self.ip = Some(ip.into());
        self
    }

    /// Ends with an error if a service cannot be registered within
    /// [`Config::operation_timeout`](crate::Config::operation_timeout). Default: off; the server keeps serving, and the
    /// services are registered as soon as a registry server can be reached.
    ///
    /// Use it for a process that must not serve unless it can be found, for example a job that is scheduled again
    /// on failure. In Kubernetes prefer [`StatusRoutes::strict`](super::StatusRoutes::strict), which keeps the
    /// process running.
    pub fn strict(mut self) -> Self {
        self.is_strict = true;
        self
    }

    /// How long to keep serving after deregistering. Default: as long as callers need to notice
    /// ([`Shutdown::drain_until_noticed`]). A drain by `/offline` has a time of its own: set
    /// [`StatusRoutes::drain`](super::StatusRoutes::drain), too.
    ///
    /// Set it longer than callers cache the list. Kubernetes kills a process after `terminationGracePeriodSeconds`
    /// (30 s by default), so deregistering, drain and the server's shutdown must fit into that.
    pub fn drain(mut self, time: Duration) -> Self {
        self.shutdown = self.shutdown.drain(time);
        self
    }

    /// How the Registry is shut down, for its other settings; replaces [`drain`](Serve::drain). Default:
    /// `Shutdown::default().drain_until_noticed()`.
    pub fn shutdown(mut self, shutdown: Shutdown) -> Self {
        self.shutdown = shutdown;
        self
    }

    /// Also goes offline when `end` is done. Default: only on signals.
    ///
    /// The end is as orderly as after a signal: deregister, drain, stop. A second call replaces the first one. If `end`
    /// panics, the service ends with [`Error::Panicked`], and does not drain.
    pub fn until(mut self, end: impl Future<Output = ()> + Send + 'static) -> Self {
        self.until = Box::pin(end);
        self
    }

    /// Leaves signals to the application: only [`until`](Serve::until) ends the service. Default: off.
    ///
    /// Then nothing ends the process early during the drain either.
    pub fn disable_signals(mut self) -> Self {
        self.takes_signals = false;
        self
    }

    /// Runs the server in the same task. So a panic here also ends the server, and leaves no process that ignores
    /// signals.
    async fn run(self) -> Result<(), Error> {
        let (server, address) = self.server?;
        // Holds the signals until the server has stopped. After `until` or `/offline` a first signal must not end the
        // process while it drains, or while its last requests are served.
        let mut signals = if self.takes_signals { Some(signals::listen()?) } else { None };
        let config = self.registry.send(BeginServing).await??;
        let log = config.logger.clone();
        let host = Host { registry: self.registry, config, address, ip: self.ip, is_strict: self.is_strict };
        let end = End { signals: signals.as_mut(), until: self.until, shutdown: self.shutdown };
        let handle = server.handle();
        let life = pin!(live(&host, self.services, end));
        let outcome = match select(server, life).await {
            Either::Left((stopped, _)) => {
                quietly(|| info!(log, "server has stopped by itself, deregistering"));
                // The server no longer serves, so there is nothing to drain.
                go_offline(&host, Shutdown::default()).await;
                stopped.map_err(Error::from)
            }
            Either::Right((outcome, server)) => {
                let ((), stopped) = join(handle.stop(true), server).await;
                outcome.and(stopped.map_err(Error::from))
            }
        };
        quietly(|| info!(log, "service has ended"));
        outcome
    }
}

/// The future is `Send`, so it can be spawned. Dropping it before its end drains nothing; the instances are
/// deregistered when the last address of the Registry is dropped.
impl IntoFuture for Serve {
    type Output = Result<(), Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

impl fmt::Debug for Serve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let services: Vec<_> = self.services.iter().map(|service| &service.name).collect();
        f.debug_struct("Serve").field("services", &services).field("ip", &self.ip).finish_non_exhaustive()
    }
}

/// The addresses of the server, and the Registry that registers its services.
struct Host {
    registry: Addr<Registry>,
    config: Config,
    address: SocketAddr,
    ip: Option<String>,
    is_strict: bool,
}

/// The events that end a service, and the shutdown to use then.
struct End<'a> {
    signals: Option<&'a mut Signals>,
    until: BoxFuture<'static, ()>,
    shutdown: Shutdown,
}

/// Registers the services, waits for the end, and drains. The server runs meanwhile. The caller stops it afterwards.
///
/// Returns early if a registration fails with an error that is not retryable, and if code of the application panics.
async fn live(host: &Host, services: Vec<Service>, end: End<'_>) -> Result<(), Error> {
    let End { signals, until, shutdown } = end;
    let signal = async {
        match signals {
            Some(signals) => signals.first().await,
            None => pending().await,
        }
    };
    let until = host.catch_panics(Operation::Shutdown, async { until.map(Ok).await });
    let ended = async {
        match select(pin!(signal), pin!(until)).await {
            Either::Left((signal, _)) => (Ok(()), signal),
            Either::Right((Ok(()), _)) => (Ok(()), "the application"),
            Either::Right((Err(panic), _)) => (Err(panic), "a panic"),
        }
    };
    let registering = host.catch_panics(Operation::Register, host.register_all(services));
    let (outcome, by) = match select(pin!(ended), pin!(registering)).await {
        Either::Left((end, _)) => end,
        // `Stopped`: the Registry was shut down elsewhere, for example by `/offline`, before the registration was done.
        Either::Right((Ok(()) | Err(Error::Stopped), ended)) => ended.await,
        Either::Right((Err(error), _)) => (Err(error), "a failed registration"),
    };
    quietly(|| info!(host.config.logger, "going offline, a second signal ends at once"; "reason" => by));
    go_offline(host, if outcome.is_ok() { shutdown } else { Shutdown::default() }).await;
    outcome
}

impl Host {
    /// Runs code of the application. After a panic the service must end in order.
    async fn catch_panics(
        &self,
        operation: Operation,
        work: impl Future<Output = Result<(), Error>>,
    ) -> Result<(), Error> {
        AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|panic| {
            let message =
                log_panic(&self.config.logger, "application panicked in serve", "operation", operation, &*panic);
            Err(Error::Panicked { operation, message })
        })
    }

    /// Sends all registrations at once, and reports to the Registry that they were sent: until then the process is not
    /// ready.
    ///
    /// # Errors
    /// The first registration that fails. Without `strict` that is only an invalid one; all others are pending.
    async fn register_all(&self, services: Vec<Service>) -> Result<(), Error> {
        let mut lacked_address = false;
        if !services.is_empty() {
            let ip = self.ip(&mut lacked_address).await?;
            let send = |service: Service| {
                let instance = (service.change)(RegisterInstance::new(service.name, &ip, self.address.port()));
                self.check_reachable(&instance);
                let message = if self.is_strict { instance } else { instance.when_reachable() };
                let sent = self.registry.send(message);
                async move { sent.await? }
            };
            try_join_all(services.into_iter().map(send)).await?;
        }
        self.registry.send(RegistrationsAsked { lacked_address }).await?
    }

    /// Returns the address to register. If it cannot be found yet, sets `is_missing` and reports that to the Registry.
    ///
    /// # Errors
    /// With `strict`: whatever keeps the address from being found. Otherwise only an error that is not retryable.
    async fn ip(&self, is_missing: &mut bool) -> Result<String, Error> {
        if let Some(ip) = &self.ip {
            return Ok(ip.clone());
        }
        if !self.address.ip().is_unspecified() {
            return Ok(self.address.ip().to_string());
        }
        loop {
            match self.local_ip().await {
                // While a machine starts, its network or its name server may be missing for a while.
                Err(error) if error.is_retryable() && !self.is_strict => {
                    if !std::mem::replace(is_missing, true) {
                        self.registry.send(AddressMissing).await??;
                        quietly(|| {
                            warn!(self.config.logger, "cannot find the address to register yet"; "error" => %error);
                        });
                    }
                    sleep(LOOK_UP_PAUSE).await;
                }
                found => return found,
            }
        }
    }

    async fn local_ip(&self) -> Result<String, Error> {
        let config = self.config.clone();
        in_own_thread(move || config.local_ip()).await?.map(|ip| ip.to_string())
    }

    /// Warns of an address that only this machine reaches, unless the registry is on this machine, too.
    fn check_reachable(&self, instance: &RegisterInstance) {
        let is_local = |host: &str| {
            host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
        };
        let ip = instance.ip_to_register();
        let servers = self.config.addresses().unwrap_or_default();
        let is_registry_here = !servers.is_empty() && servers.iter().all(|server| is_local(&server.host));
        if is_local(ip) && !is_registry_here && !self.config.disabled {
            quietly(|| {
                warn!(self.config.logger, "registering a loopback address, other machines cannot reach it";
                    "ip" => ip, "advice" => "bind the server to 0.0.0.0, or set Serve::ip");
            });
        }
    }
}

/// Runs `work`, which may block for minutes, such as looking up a name. A runtime does not end before the threads of
/// its `spawn_blocking`, so that a signal would not end the process meanwhile.
async fn in_own_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let (done_tx, done) = oneshot::channel();
    thread::Builder::new().name("nacos-look-up".into()).spawn(move || drop(done_tx.send(work())))?;
    done.await.map_err(|_| io::Error::other("the thread that looks up an address panicked"))
}

/// Deregisters and drains. It never fails, because the server must be stopped afterwards in any case.
///
/// A shutdown that was begun elsewhere is awaited instead.
async fn go_offline(host: &Host, shutdown: Shutdown) {
    let log = &host.config.logger;
    let (drain, longest) = (shutdown.longest_drain(), shutdown.longest(host.config.shutdown_timeout));
    match host.registry.send(shutdown).await.unwrap_or_else(|closed| Err(closed.into())) {
        Ok(report) => quietly(|| info!(log, "callers have noticed"; "drained" => ?report.drained)),
        // The Registry is being shut down elsewhere, for example by `/offline`, or has ended.
        Err(Error::Stopped) => {
            let ended = async {
                while host.registry.connected() {
                    sleep(SHUTDOWN_CHECK).await;
                }
            };
            // After the time limit the server is stopped all the same.
            let _ = timeout(longest, ended).await;
        }
        Err(error) => {
            quietly(|| warn!(log, "failed to deregister instances"; "error" => %error));
            sleep(drain).await;
        }
    }
}

/// Logs one line. A logger may panic when its output is closed; that must not prevent the end of the service.
fn quietly(line: impl FnOnce()) {
    let _ = catch_unwind(AssertUnwindSafe(line));
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_look_up_that_hangs_does_not_hold_up_the_end_of_a_runtime() {
        let (answer, answered) = mpsc::channel::<()>();
        let (ended_tx, ended) = mpsc::channel();
        thread::spawn(move || {
            let runtime = actix_rt::Runtime::new().unwrap();
            let look_up = in_own_thread(move || answered.recv());
            runtime.block_on(async { timeout(Duration::from_millis(20), look_up).await }).expect_err("it hangs");
            drop(runtime);
            ended_tx.send(()).unwrap();
        });
        ended.recv_timeout(Duration::from_secs(20)).expect("the runtime has ended");
        drop(answer);
    }
}
