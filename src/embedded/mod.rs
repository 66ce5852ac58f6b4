//! A Nacos server inside this process, for local development, examples and tests.
//!
//! ```
//! use actix_nacos::{embedded::EmbeddedServer, prelude::*};
//!
//! # #[actix::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let server = EmbeddedServer::start()?;
//! let registry = Registry::start(Config::new(server.server_address()))?;
//! registry.send(RegisterInstance::new("orders", "127.0.0.7", 8080)).await??;
//! assert_eq!(server.instances("orders")[0].port, 8080);
//! # Ok(())
//! # }
//! ```
//!
//! The server listens on 127.0.0.1, on a free port unless a [port](EmbeddedServerBuilder::port) is set, and stops when
//! it is dropped. It runs on its own thread, so it can be started anywhere: in a plain thread, under `#[tokio::main]`,
//! or in an actix System.
//!
//! # What it does
//! The server behaves like the version of Nacos that its [`Dialect`] names. Instances that do not beat turn unhealthy
//! and are removed, changes are pushed over UDP, and clients of other languages can use it too. It keeps everything in
//! memory. It does not check the health of persistent instances, which stay as registered. It has no configuration
//! service, and it cannot form a cluster.
//!
//! # In tests
//! `docs/embedded.md` has an example and a table of all faults.
//! - [`EmbeddedServer::instances`] and [`EmbeddedServer::counters`] show what the server has received.
//! - [`EmbeddedServer::restart_empty`] loses all registrations. [`EmbeddedServer::faults`] injects many other faults.
//! - [`EmbeddedServer::advance`] moves the server's clock: 30 seconds without a beat pass at once.
//! - [`EmbeddedServerBuilder::console`] shows all that in a browser, and injects faults from there.
//!
//! # How it is built
//!
//! | part | files |
//! |---|---|
//! | the handle of the application | this file, `builder`, `faults`, `inspection`, `counters`, `dialect` |
//! | the thread and its sockets | `thread`, `http`, `connection`, `shared` |
//! | the state behind one mutex | `state`, `catalogue`, `pushes`, `sessions`, `active_faults`, `clock`, `agenda` |
//! | what changes and shows it | `registration`, `modification`, `listing`, `push`, `auth` |
//! | a request, from text to answer | `call`, `agent`, `parameters`, `filter`, `java`, `routes`, `reply` |
//! | the handlers, by the API's paths | `v1_instance`, `v1_service` and other `v1_*`, `v3_client`, `v3_admin` |
//! | the page for the browser | `console` |
//!
//! - The handlers only change the state and return an answer. They wait for nothing, so a test that has an answer
//!   sees its effect. What happens later is an entry in the agenda.
//! - The server shares the structs of the wire format with the client, and is tested against recordings of Nacos
//!   1.4.8, 2.5.1 and 3.0.3. So client and server cannot agree on the same mistake.
//! - Names in brackets, such as (`ClientInfo`), are the classes of Nacos whose behaviour is copied.

use std::{
    fmt, io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::Duration,
};

mod active_faults;
mod agenda;
mod agent;
mod auth;
mod builder;
mod call;
mod catalogue;
mod clock;
mod connection;
mod console;
mod counters;
mod dialect;
mod faults;
mod filter;
mod http;
mod inspection;
pub(crate) mod java;
mod listing;
mod modification;
pub(crate) mod parameters;
mod push;
mod pushes;
mod registration;
mod reply;
mod routes;
mod sessions;
mod settings;
mod shared;
mod state;
mod thread;
mod v1_catalog;
mod v1_instance;
mod v1_namespaces;
mod v1_operator;
mod v1_service;
mod v3_admin;
mod v3_client;

/// Runs the examples of the guide as tests.
#[cfg(doctest)]
#[doc = include_str!("../../docs/embedded.md")]
mod guide {}

pub use active_faults::Spoilt;
pub use builder::EmbeddedServerBuilder;
pub use counters::Counters;
pub use dialect::{Dialect, UnknownDialect};
pub use faults::Faults;
pub use inspection::InstanceSnapshot;

use crate::{config::LONGEST_DURATION, runtime::sockets::StdUdpSocket};
use active_faults::ActiveFaults;
use inspection::key_of;
use pushes::Pushes;
use settings::Settings;
use shared::Shared;
use state::State;

/// A running Nacos server. It stops when it is dropped; the drop waits until its thread, sockets and timers are gone.
///
/// All methods take `&self` and can be called from any thread, also while requests are under way. The server
/// listens on 127.0.0.1 only and has no TLS; it is not meant for production.
///
/// # Examples
///
/// A test: the server is killed, comes back empty, and is filled again by the client.
///
/// ```
/// use actix_nacos::{embedded::EmbeddedServer, prelude::*, HEART_BEAT_INTERVAL};
/// use std::time::{Duration, Instant};
///
/// # #[actix::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let server = EmbeddedServer::start()?;
/// let registry = Registry::start(Config::new(server.server_address()))?;
/// let orders = RegisterInstance::new("orders", "127.0.0.7", 8080).metadata(HEART_BEAT_INTERVAL, "100");
/// registry.send(orders).await??;
///
/// server.restart_empty()?;
/// let deadline = Instant::now() + Duration::from_secs(10);
/// while server.instances("orders").is_empty() {
///     assert!(Instant::now() < deadline, "the instance was not registered again");
///     actix_rt::time::sleep(Duration::from_millis(10)).await;
/// }
/// # Ok(())
/// # }
/// ```
#[must_use = "the server stops when it is dropped: bind it to a variable"]
pub struct EmbeddedServer {
    address: SocketAddr,
    push_address: SocketAddr,
    shared: Arc<Shared>,
    /// `None` in a simulation.
    thread: Option<JoinHandle<()>>,
}

impl EmbeddedServer {
    /// Starts a server with the defaults of the [builder](Self::builder): Nacos 2.5 on a free port of 127.0.0.1.
    ///
    /// Returns when the server listens, within milliseconds. Several servers can run in one process. Each has threads,
    /// a TCP port and a UDP port of its own, so tests that run at the same time do not affect each other.
    ///
    /// # Errors
    /// No port, thread or socket is available.
    pub fn start() -> io::Result<Self> {
        Self::builder().start()
    }

    /// Creates a builder for a server with other settings.
    ///
    /// ```
    /// use actix_nacos::embedded::{Dialect, EmbeddedServer};
    /// use std::time::Duration;
    ///
    /// let server = EmbeddedServer::builder()
    ///     .dialect(Dialect::V3_0)
    ///     .user("nacos", "secret")
    ///     .heartbeat_timeout(Duration::from_secs(3))
    ///     .start()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// Each default is what Nacos does, so leave out everything that the test is not about.
    pub fn builder() -> EmbeddedServerBuilder {
        EmbeddedServerBuilder::default()
    }

    fn start_with(settings: Settings) -> io::Result<Self> {
        let pushes = StdUdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        pushes.set_nonblocking(true)?;
        let push_address = pushes.local_addr()?;
        let faults = Arc::new(Mutex::new(ActiveFaults::default()));
        let port = settings.port;
        let state = State::new(settings, Pushes::new(pushes.try_clone()?, faults.clone()));
        let (commands_tx, commands_rx) = tokio::sync::mpsc::unbounded_channel();
        let shared = Arc::new(Shared::new(state, faults, commands_tx));
        let (address, thread) = thread::start(shared.clone(), port, pushes, commands_rx)?;
        shared.with(|state| state.settings.port = address.port());
        Ok(EmbeddedServer { address, push_address, shared, thread })
    }

    /// The address on which the server listens. A restart does not change it.
    ///
    /// For clients other than [`Config`](crate::Config), such as a test that speaks raw HTTP.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address as `127.0.0.1:port`, for [`Config::new`](crate::Config::new). Sufficient if the context path is
    /// `/nacos`.
    ///
    /// With another [context path](EmbeddedServerBuilder::context_path), also set
    /// [`Config::context_path`](crate::Config::context_path).
    pub fn server_address(&self) -> String {
        self.address.to_string()
    }

    /// The base URL of the API: `http://127.0.0.1:port` and the context path.
    ///
    /// ```
    /// # use actix_nacos::embedded::EmbeddedServer;
    /// let server = EmbeddedServer::builder().port(0).context_path("/registry").start()?;
    /// assert_eq!(server.url(), format!("http://{}/registry", server.server_address()));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn url(&self) -> String {
        let context_path = self.shared.with(|state| state.settings.context_path.clone());
        format!("http://{}{context_path}", self.address)
    }

    /// The address from which the server sends pushes and on which it receives acknowledgements. A restart does not
    /// change it.
    ///
    /// A test that plays a client sends its acknowledgements there. The server sends pushes to the address that the
    /// list request names (`clientIP` and `udpPort`).
    pub fn push_address(&self) -> SocketAddr {
        self.push_address
    }

    /// The dialect that the server speaks now.
    ///
    /// The dialect that was set in the builder, or by the last [`restart_as`](Self::restart_as).
    pub fn dialect(&self) -> Dialect {
        self.shared.with(|state| state.dialect())
    }

    /// A handle that injects faults. A fault takes effect at once and lasts until it is taken back.
    ///
    /// ```
    /// # use actix_nacos::{embedded::EmbeddedServer, prelude::*};
    /// # #[actix::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let server = EmbeddedServer::start()?;
    /// let registry = Registry::start(Config::new(server.server_address()))?;
    /// server.faults().fail_share(1.0, 503);
    /// let failed = registry.send(RegisterInstance::new("orders", "127.0.0.7", 8080).when_reachable()).await??;
    /// assert!(!failed.is_registered());
    /// server.faults().clear();
    /// failed.registered_within(std::time::Duration::from_secs(30)).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn faults(&self) -> Faults {
        Faults { shared: self.shared.clone() }
    }

    /// Restarts the server without its data, like a server that was killed and started again.
    ///
    /// Closes all connections, forgets everything except the settings (tokens too), refuses connections for the
    /// [`restart_downtime`](EmbeddedServerBuilder::restart_downtime), and listens on the same port again. Returns when
    /// the server listens.
    ///
    /// Clients notice the closed connections. To lose the data without that, use [`Faults::forget_everything`]. To
    /// be down for a time of the test's choice, use [`Faults::refuse_connections`].
    ///
    /// # Errors
    /// Another program has taken the port.
    pub fn restart_empty(&self) -> io::Result<()> {
        self.shared.restart(None)
    }

    /// Restarts the server like [`restart_empty`](Self::restart_empty), as another version of Nacos: an upgrade or a
    /// downgrade.
    ///
    /// ```
    /// use actix_nacos::embedded::{Dialect, EmbeddedServer};
    ///
    /// let server = EmbeddedServer::builder().dialect(Dialect::V1_4).start()?;
    /// server.restart_as(Dialect::V3_2)?;
    /// assert_eq!(server.dialect(), Dialect::V3_2);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// What was registered is gone, as after [`restart_empty`](Self::restart_empty). A Registry finds the new
    /// protocol by itself.
    ///
    /// # Errors
    /// Another program has taken the port.
    pub fn restart_as(&self, dialect: Dialect) -> io::Result<()> {
        self.shared.restart(Some(dialect))
    }

    /// Stops the server. Another server can listen on the same port immediately afterwards.
    ///
    /// The same as dropping the server. Blocks until the thread has ended. Clients see closed connections, and refused
    /// ones afterwards.
    pub fn stop(self) {
        drop(self);
    }

    /// Moves the server's clock forward. Everything that becomes due meanwhile happens before this method returns, in
    /// order: instances turn unhealthy or are removed, pushes are sent, tokens expire.
    ///
    /// ```
    /// # use actix_nacos::{embedded::EmbeddedServer, prelude::*};
    /// # use std::time::Duration;
    /// # #[actix::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let server = EmbeddedServer::builder().time_stands_still().start()?;
    /// let registry = Registry::start(Config::new(server.server_address()))?;
    /// registry.send(RegisterInstance::new("orders", "127.0.0.7", 8080)).await??;
    /// server.advance(Duration::from_secs(31));
    /// assert!(server.instances("orders").is_empty());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// It works with a clock that runs, too. Only the server's time moves: the timers of clients, such as
    /// heartbeats, do not. So an instance of a living client expires by an advance of 31 s, and is registered again
    /// by its next heartbeat.
    pub fn advance(&self, by: Duration) {
        self.shared.with(|state| state.advance(by.min(LONGEST_DURATION)));
    }

    /// All instances of `name` or `GROUP@@name` in the namespace `public`, including disabled and unhealthy ones.
    ///
    /// Shows changes at once, while lists of the API show them after
    /// [`list_delay`](EmbeddedServerBuilder::list_delay). Empty for a service that does not exist.
    pub fn instances(&self, service: &str) -> Vec<InstanceSnapshot> {
        self.instances_in("public", service)
    }

    /// All instances of a service in another namespace, including disabled and unhealthy ones.
    ///
    /// `namespace` is the id of the namespace, as in [`Config::namespace`](crate::Config::namespace).
    pub fn instances_in(&self, namespace: &str, service: &str) -> Vec<InstanceSnapshot> {
        self.shared.with(|state| state.snapshot(&key_of(namespace, service)))
    }

    /// The services of the namespace `public` as `GROUP@@name`, sorted.
    ///
    /// A service stays for a minute after its last instance, as in Nacos since 2.x; on 1.4 it stays for ever.
    pub fn services(&self) -> Vec<String> {
        self.shared.with(|state| state.services_in("public").map(|service| service.key.service.to_string()).collect())
    }

    /// The number of receivers to which changes of the service are pushed. Receivers whose time is up may be included
    /// until the server's next check.
    ///
    /// A test that waits for a push first waits until this is above 0: the subscription begins with the client's
    /// first list request, and clients whose user agent Nacos does not push to never count.
    pub fn subscribers(&self, service: &str) -> usize {
        self.shared.with(|state| state.pushes.subscribers(&key_of("public", service)))
    }

    /// The numbers of requests received and pushes sent. See [`Counters`] for an example.
    ///
    /// The values are a copy. Compare two of them to count what happened in between.
    pub fn counters(&self) -> Counters {
        self.shared.with(|state| state.counters.clone())
    }
}

impl fmt::Debug for EmbeddedServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedServer").field("address", &self.address).finish_non_exhaustive()
    }
}

/// Blocks until the thread has ended, so that the next server can have the port. Do not drop the server in a task
/// that must not block for some milliseconds.
impl Drop for EmbeddedServer {
    fn drop(&mut self) {
        self.shared.end();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed already.
            let _ = thread.join();
        }
    }
}
