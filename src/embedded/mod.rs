//! A Nacos server inside this process, for the laptop, for examples and for tests.
//!
//! ```
//! use actix_nacos::embedded::EmbeddedServer;
//!
//! let server = EmbeddedServer::start()?;
//! println!("a Nacos listens on {}", server.url());
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! It listens on 127.0.0.1, on a free port unless [told otherwise](EmbeddedServerBuilder::port), and ends when it is
//! dropped. It lives in a thread of its own, so it starts anywhere: in a plain thread, under `#[tokio::main]`, in an
//! actix System, and it needs nothing from any of them.
//!
//! # What it does
//! It answers like the Nacos whose [`Dialect`] it speaks, habits included: instances that do not beat turn unhealthy and
//! are removed, changes are pushed over UDP, and any client may talk to it. It keeps everything in memory. It does not
//! check persistent instances for health (they stay as registered), has no configuration service, and is one server, not
//! a cluster.
//!
//! # In tests
//! `docs/embedded.md` has an example, and all faults in a table.
//! - [`EmbeddedServer::instances`] and [`EmbeddedServer::counters`] tell what has arrived.
//! - [`EmbeddedServer::restart_empty`] is the registry's bad day; [`EmbeddedServer::faults`] has many others.
//! - [`EmbeddedServer::advance`] moves the server's time on: 30 seconds without a beat pass in an instant.

use std::{
    fmt, io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::Duration,
};

mod agenda;
mod agent;
mod auth;
mod builder;
mod call;
mod catalogue;
mod clock;
mod connection;
mod counters;
mod dialect;
mod faults;
mod filter;
mod http;
mod inspection;
mod java;
mod listing;
mod modification;
mod parameters;
mod push;
mod registration;
mod reply;
mod routes;
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

/// The examples of the guide are tests.
#[cfg(doctest)]
#[doc = include_str!("../../docs/embedded.md")]
mod guide {}

pub use builder::EmbeddedServerBuilder;
pub use counters::Counters;
pub use dialect::{Dialect, UnknownDialect};
pub use faults::{Faults, Spoilt};
pub use inspection::InstanceSnapshot;

use crate::config::LONGEST_DURATION;
use faults::Orders;
use inspection::key_of;
use push::Pushes;
use settings::Settings;
use shared::Shared;
use state::State;

/// A running Nacos. It ends when it is dropped: thread, sockets and timers, while the drop waits.
#[must_use = "ends when dropped: bind it to a name"]
pub struct EmbeddedServer {
    address: SocketAddr,
    push_address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl EmbeddedServer {
    /// Starts a server that speaks like Nacos 2.5, on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// The system has no port, thread or socket to give.
    pub fn start() -> io::Result<Self> {
        Self::builder().start()
    }

    /// Another than the default server.
    pub fn builder() -> EmbeddedServerBuilder {
        EmbeddedServerBuilder::default()
    }

    fn start_with(settings: Settings) -> io::Result<Self> {
        let pushes = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        pushes.set_nonblocking(true)?;
        let push_address = pushes.local_addr()?;
        let orders = Arc::new(Mutex::new(Orders::default()));
        let port = settings.port;
        let state = State::new(settings, Pushes::new(pushes.try_clone()?, orders.clone()));
        let (commands_tx, commands_rx) = tokio::sync::mpsc::unbounded_channel();
        let shared = Arc::new(Shared::new(state, orders, commands_tx));
        let (address, thread) = thread::start(shared.clone(), port, pushes, commands_rx)?;
        shared.with(|state| state.settings.port = address.port());
        Ok(EmbeddedServer { address, push_address, shared, thread: Some(thread) })
    }

    /// Where it listens. Restarts do not change it.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `127.0.0.1:port`: what a client is configured with, if the context path is the usual one.
    pub fn server_address(&self) -> String {
        self.address.to_string()
    }

    /// `http://127.0.0.1:port` and the context path.
    pub fn url(&self) -> String {
        let context_path = self.shared.with(|state| state.settings.context_path.clone());
        format!("http://{}{context_path}", self.address)
    }

    /// Where its pushes come from, and where it takes acknowledgements. Restarts do not change it.
    pub fn push_address(&self) -> SocketAddr {
        self.push_address
    }

    /// Whose API it speaks now.
    pub fn dialect(&self) -> Dialect {
        self.shared.with(|state| state.dialect())
    }

    /// Orders faults; they come at once, and stay until taken back.
    pub fn faults(&self) -> Faults {
        Faults { shared: self.shared.clone() }
    }

    /// Breaks off all connections, forgets everything but the settings (tokens too), refuses connections for the
    /// [`restart_downtime`](EmbeddedServerBuilder::restart_downtime), and listens again on the same port, as a server
    /// does that was killed and started anew without its data. Returns when it listens.
    ///
    /// # Errors
    /// Another program has taken the port.
    pub fn restart_empty(&self) -> io::Result<()> {
        self.shared.restart(None)
    }

    /// [`restart_empty`](Self::restart_empty), and comes back as another Nacos: an upgrade, or a downgrade.
    ///
    /// # Errors
    /// Another program has taken the port.
    pub fn restart_as(&self, dialect: Dialect) -> io::Result<()> {
        self.shared.restart(Some(dialect))
    }

    /// Ends the server. Another can be started on the same port right after.
    pub fn stop(self) {
        drop(self);
    }

    /// Moves the server's time on. What falls due meanwhile (instances turn unhealthy or go, pushes are sent, tokens
    /// expire) happens before this returns, each at its own time.
    pub fn advance(&self, by: Duration) {
        self.shared.with(|state| state.advance(by.min(LONGEST_DURATION)));
    }

    /// All instances of `name` or `GROUP@@name` in the namespace `public`, disabled and unhealthy ones too.
    pub fn instances(&self, service: &str) -> Vec<InstanceSnapshot> {
        self.instances_in("public", service)
    }

    /// All instances of a service in another namespace.
    pub fn instances_in(&self, namespace: &str, service: &str) -> Vec<InstanceSnapshot> {
        self.shared.with(|state| state.snapshot(&key_of(namespace, service)))
    }

    /// The services of the namespace `public`, as `GROUP@@name`, in order.
    pub fn services(&self) -> Vec<String> {
        self.shared.with(|state| state.services_in("public").map(|service| service.key.service.to_string()).collect())
    }

    /// How many receivers it pushes a service's changes to, as far as it has noticed.
    pub fn subscribers(&self, service: &str) -> usize {
        self.shared.with(|state| state.pushes.subscribers(&key_of("public", service)))
    }

    /// What it has been asked and has sent.
    pub fn counters(&self) -> Counters {
        self.shared.with(|state| state.counters.clone())
    }
}

impl fmt::Debug for EmbeddedServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedServer").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Drop for EmbeddedServer {
    fn drop(&mut self) {
        self.shared.end();
        if let Some(thread) = self.thread.take() {
            // A panic in it has been printed; there is nothing to add.
            let _ = thread.join();
        }
    }
}
