//! Helpers of the tests: a server, a Registry that uses it, a listener that can be awaited.
//!
//! Helpers wait for a condition, never for a fixed time. They give up after [`PATIENCE`], which is far longer than any
//! of them takes.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod fake;
pub mod logs;
pub mod measure;
pub mod process;
pub mod proxy;
pub mod web;

use std::{
    fs,
    future::Future,
    path::PathBuf,
    sync::{
        atomic::{AtomicU32, Ordering},
        Arc, Condvar, Mutex,
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use actix::prelude::*;
use actix_nacos::{
    embedded::{EmbeddedServer, EmbeddedServerBuilder, InstanceSnapshot},
    Config, Error, GetStatus, PushConfig, Registry, ServiceChanged, Shutdown,
};
use tokio::sync::mpsc;

/// A helper fails if its condition does not hold after this time.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The ip of the instances in tests. It is local, because real servers connect to persistent instances.
pub const IP: &str = "127.0.0.7";

/// The poll interval of the subscriptions in tests.
pub const POLL: Duration = Duration::from_millis(100);

pub fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Starts a server for one test.
pub fn server() -> EmbeddedServer {
    builder().start().expect("a free port")
}

/// Builds a server whose lists show a change at once. The original servers show it half a second later.
pub fn builder() -> EmbeddedServerBuilder {
    EmbeddedServer::builder().list_delay(Duration::ZERO)
}

/// Short intervals and timeouts. Pushes are off, so that every change a test counts comes from a poll.
pub fn config(server: &EmbeddedServer) -> Config {
    config_at(&server.server_address())
}

pub fn config_at(addresses: &str) -> Config {
    Config::new(addresses)
        .poll_interval(POLL, POLL)
        .request_timeout(ms(2000))
        .operation_timeout(ms(4000))
        .push(PushConfig::off())
}

/// Starts several servers that share no data. Also returns their addresses, as `Config::new` takes them.
pub fn servers(count: usize) -> (Vec<EmbeddedServer>, String) {
    let servers: Vec<_> = (0..count).map(|_| server()).collect();
    let addresses: Vec<_> = servers.iter().map(EmbeddedServer::server_address).collect();
    (servers, addresses.join(","))
}

/// Returns the server in use.
pub async fn in_use<'a>(registry: &Addr<Registry>, servers: &'a [EmbeddedServer]) -> &'a EmbeddedServer {
    let status = ask(registry, GetStatus).await.expect("a status");
    let address = status.servers.iter().find(|server| server.in_use).expect("one is in use").address.clone();
    servers.iter().find(|server| server.server_address() == address).expect("one of ours")
}

pub fn registry(server: &EmbeddedServer) -> Addr<Registry> {
    start(config(server))
}

pub fn start(config: Config) -> Addr<Registry> {
    Registry::start(config).expect("a registry")
}

/// Returns a name that no other test and no other run uses.
pub fn unique(name: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{name}-{}-{}-{}", std::process::id(), unix_millis(), COUNT.fetch_add(1, Ordering::Relaxed))
}

pub fn unix_millis() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock past 1970").as_millis()
}

/// Sends a message. Returns the answer, or the error of the mailbox or the operation.
pub async fn ask<M, T>(registry: &Addr<Registry>, message: M) -> Result<T, Error>
where
    M: Message<Result = Result<T, Error>> + Send + 'static,
    T: Send + 'static,
    Registry: Handler<M>,
{
    registry.send(message).await?
}

pub async fn shut_down(registry: &Addr<Registry>) {
    ask(registry, Shutdown::default()).await.expect("a report");
}

/// Waits until `probe` returns a value.
pub async fn eventually<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "waited {PATIENCE:?} until {what}");
        actix_rt::time::sleep(ms(5)).await;
    }
}

/// Waits until `is_so` returns true.
pub async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    eventually(what, async || is_so().then_some(())).await;
}

/// Waits for a future that must end.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match actix_rt::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {PATIENCE:?} for {what}"),
    }
}

/// Returns the only instance of a service on the server.
#[track_caller]
pub fn only_instance(server: &EmbeddedServer, service: &str) -> InstanceSnapshot {
    let mut instances = server.instances(service);
    assert_eq!(instances.len(), 1, "{instances:?}");
    instances.remove(0)
}

/// Returns the ports of a service's instances on the server, in order.
pub fn ports(server: &EmbeddedServer, service: &str) -> Vec<u16> {
    let mut ports: Vec<_> = server.instances(service).iter().map(|instance| instance.port).collect();
    ports.sort_unstable();
    ports
}

/// A folder for one test. A Registry creates it when needed; it is removed when this is dropped.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new() -> Self {
        Folder(std::env::temp_dir().join(unique("actix-nacos")))
    }

    /// Returns a file of a cached list, if there is one.
    pub fn cached_list(&self) -> Option<PathBuf> {
        let mut files = fs::read_dir(&self.0).ok()?.flatten().map(|entry| entry.path());
        files.find(|path| path.extension().is_some_and(|extension| extension == "json"))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Fails if the folder was never created.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Blocks threads until it is opened.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub fn open(&self) {
        *self.0 .0.lock().unwrap() = true;
        self.0 .1.notify_all();
    }

    pub fn wait(&self) {
        let is_open = self.0 .0.lock().unwrap();
        drop(self.0 .1.wait_while(is_open, |is_open| !*is_open).unwrap());
    }
}

/// Forwards every message that it receives.
pub struct Listener {
    told: mpsc::UnboundedSender<ServiceChanged>,
    /// If set, the handler of a message blocks until the gate is open.
    gate: Option<Gate>,
}

impl Actor for Listener {
    type Context = Context<Self>;
}

impl Handler<ServiceChanged> for Listener {
    type Result = ();

    fn handle(&mut self, news: ServiceChanged, _: &mut Context<Self>) {
        // An error means that the test has dropped the receiver.
        let _ = self.told.send(news);
        if let Some(gate) = &self.gate {
            gate.wait();
        }
    }
}

/// Stops the listener.
#[derive(Message)]
#[rtype(result = "()")]
pub struct StopListener;

impl Handler<StopListener> for Listener {
    type Result = ();

    fn handle(&mut self, _: StopListener, ctx: &mut Context<Self>) {
        ctx.stop();
    }
}

/// A listener and the changes that it has received, in order.
pub struct News {
    pub listener: Addr<Listener>,
    told: mpsc::UnboundedReceiver<ServiceChanged>,
}

impl News {
    /// Starts a listener on the current arbiter.
    pub fn listen() -> Self {
        let (tell, told) = mpsc::unbounded_channel();
        News { listener: Listener { told: tell, gate: None }.start(), told }
    }

    /// Starts a listener on its own arbiter, with a mailbox of `capacity`. Its handler blocks until `gate` is open.
    pub fn listen_behind(gate: Gate, capacity: usize) -> Self {
        let (tell, told) = mpsc::unbounded_channel();
        let listener = Listener::start_in_arbiter(&Arbiter::new().handle(), move |ctx| {
            ctx.set_mailbox_capacity(capacity);
            Listener { told: tell, gate: Some(gate) }
        });
        News { listener, told }
    }

    pub fn recipient(&self) -> Recipient<ServiceChanged> {
        self.listener.clone().recipient()
    }

    /// Returns the address and the receiver of the changes.
    pub fn into_parts(self) -> (Addr<Listener>, mpsc::UnboundedReceiver<ServiceChanged>) {
        (self.listener, self.told)
    }

    /// Waits for the next change.
    pub async fn next(&mut self) -> ServiceChanged {
        soon("news", self.told.recv()).await.expect("the listener lives")
    }

    /// Waits for the first change for which `is_so` holds.
    pub async fn until(&mut self, is_so: impl Fn(&ServiceChanged) -> bool) -> ServiceChanged {
        loop {
            let news = self.next().await;
            if is_so(&news) {
                return news;
            }
        }
    }

    /// Returns the changes that were received and not read yet.
    pub fn waiting(&mut self) -> Vec<ServiceChanged> {
        std::iter::from_fn(|| self.told.try_recv().ok()).collect()
    }
}

/// Returns the ports of the listed instances, in the order of the list.
pub fn listed_ports(news: &ServiceChanged) -> Vec<u16> {
    news.info.hosts.iter().map(|host| host.port).collect()
}

pub fn ports_of(instances: &[std::sync::Arc<actix_nacos::Instance>]) -> Vec<u16> {
    instances.iter().map(|instance| instance.port).collect()
}
