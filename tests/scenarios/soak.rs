//! Everything at once, for any length of time: registering, modifying, deregistering and watching, with random faults.
//!
//! One seed determines all random choices. A model contains what is registered. In the end, servers, views and
//! listeners must agree with the model. An instance that is deregistered at a healthy server must leave the views in
//! time.
#![allow(dead_code, unreachable_pub)]

#[path = "soak_removals.rs"]
pub mod removals;

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    sync::{Arc, Mutex},
    time::Duration,
};

use actix::prelude::*;
use actix_nacos::{
    embedded::{Dialect, EmbeddedServer, Spoilt},
    testing::network::{Conditions, Network},
    Config, DeregisterInstance, Discover, Error, GetStatus, ListInstances, ModifyInstance, RegisterInstance, Registry,
    ServiceChanged, ServiceView, Subscribe, Unsubscribe, IP_DELETE_TIMEOUT,
};
use futures_util::future::{join, join_all};
use removals::Removals;
use tokio::time::Instant;

use crate::support::{
    ask, in_use, ms,
    process::{descriptors, resident_kib},
    start,
};

/// The size of a soak.
#[derive(Clone)]
pub struct Sizes {
    pub services: u16,
    pub workers: u16,
    /// The number of instances that each worker registers and deregisters.
    pub of_each_worker: u16,
    pub beat_interval: Duration,
    /// The longest pause between two operations of a worker.
    pub pause: Duration,
    /// `None`: servers and Registry have threads and sockets.
    pub simulation: Option<Simulation>,
}

/// Everything runs in the caller's thread, whose clock is paused and whose network is in memory.
#[derive(Clone)]
pub struct Simulation {
    pub network: Network,
    /// The longest time that a message takes.
    pub latency: Duration,
    pub log: slog::Logger,
}

impl Sizes {
    /// Writes to the log of a simulation what the test does.
    fn log(&self, what: impl FnOnce() -> String) {
        if let Some(Simulation { log, .. }) = &self.simulation {
            slog::debug!(log, "test: {}", what());
        }
    }

    pub fn full() -> Self {
        Sizes {
            services: 20,
            workers: 16,
            of_each_worker: 32,
            beat_interval: ms(1000),
            pause: ms(100),
            simulation: None,
        }
    }
}

/// Longer than `outage_hold` and the expiry of an instance together.
const SETTLE: Duration = Duration::from_secs(90);
const GRACE: Duration = Duration::from_secs(5);
/// From the end of the faults: a server listens again (1 s), a request times out (1 s), a server is tried again (2 s), each instance is registered
/// again instead of its next beat (2 s), and lists are polled (2 s). The rest is for the network.
const REGISTERED_WITHIN: Duration = Duration::from_secs(10);
/// From the end of the faults: an instance was deregistered at the other server only, and expires at this one (30 s and
/// a sweep of 5 s), or is withheld twice (30 s).
const SIMULATED_SETTLE: Duration = Duration::from_secs(45);
/// Longer than a server waits for beats before it removes an instance.
const STAY_SETTLED: Duration = Duration::from_secs(40);
/// From time to time there is no fault for this long, so that a server becomes healthy.
const CALM: Duration = Duration::from_secs(14);

#[derive(Debug, Default)]
pub struct Figures {
    pub operations: u64,
    /// Operations that failed at their deadline and that the application sent again.
    pub repeated: u64,
    pub faults: u64,
    pub news: u64,
    pub instances: usize,
    /// The time from the end of the faults until all agree.
    pub settled_after: Duration,
    pub resident_kib: (u64, u64),
    /// The number before the first request, and at the end.
    pub descriptors: (usize, usize),
    pub removals: removals::Figures,
    /// The metrics at the end of the faults, in the text format of Prometheus.
    pub metrics: String,
}

/// The port and weight of each instance, by service.
type Model = BTreeMap<u16, BTreeMap<u16, u16>>;

fn service(number: u16) -> String {
    format!("orders-{number}")
}

struct World {
    sizes: Sizes,
    known: Rc<RefCell<BTreeSet<u16>>>,
    registry: Addr<Registry>,
    servers: Arc<[EmbeddedServer]>,
    model: RefCell<Model>,
    over: Cell<bool>,
    figures: RefCell<Figures>,
    removals: RefCell<Removals>,
    /// One view of each service, once all anchors are registered.
    views: RefCell<Vec<ServiceView>>,
}

/// Which part of the model is compared.
#[derive(Clone, Copy, PartialEq)]
enum Compared {
    /// The registered instances, with their weights. Others may be listed, too.
    Registered,
    All,
}

/// Checks that each change leads from the previous list to the new one, that no instance is listed that was never
/// registered, and that no anchor is ever removed. An anchor is an instance that is registered throughout. There is one
/// in each service, and its port is at most the number of services.
struct Checker {
    sizes: Sizes,
    /// The ports of all instances whose registration has begun.
    known: Rc<RefCell<BTreeSet<u16>>>,
    list: BTreeMap<u16, u16>,
    shared: Arc<Mutex<Checked>>,
}

#[derive(Default)]
struct Checked {
    list: BTreeMap<u16, u16>,
    news: u64,
    wrong: Vec<String>,
}

impl Actor for Checker {
    type Context = Context<Self>;
}

impl Handler<ServiceChanged> for Checker {
    type Result = ();

    fn handle(&mut self, news: ServiceChanged, _: &mut Context<Self>) {
        let told = |instance: &actix_nacos::Instance| (instance.port, instance.weight as u16);
        if news.first {
            self.list.clear();
        }
        for gone in &news.removed {
            self.list.remove(&gone.port);
        }
        self.list.extend(news.added.iter().map(|instance| told(instance)));
        self.list.extend(news.changed.iter().map(|(_, now)| told(now)));
        let now: BTreeMap<_, _> = news.info.hosts.iter().map(|host| told(host)).collect();
        let mut shared = self.shared.lock().expect("no panic");
        if self.list != now {
            shared.wrong.push(format!("{news:?} does not lead to its own list"));
        }
        let known = self.known.borrow();
        shared.wrong.extend(now.keys().filter(|port| !known.contains(port)).map(|port| format!("{port} is unknown")));
        if news.removed.iter().any(|gone| gone.port <= self.sizes.services) {
            let (service, source, gone, left) = (&news.service, news.source, news.removed.len(), now.len());
            shared.wrong.push(format!(
                "an anchor and {gone} in all are told to be gone from {service}, {left} are left, by a {source:?}"
            ));
        }
        let is_first = |wrong: &String| shared.wrong.first() == Some(wrong);
        shared.wrong.iter().filter(|wrong| is_first(wrong)).for_each(|wrong| self.sizes.log(|| wrong.clone()));
        shared.news += 1;
        shared.list.clone_from(&now);
        self.list = now;
    }
}

/// Runs the soak, and reports the progress from time to time by `say`.
pub async fn soak(sizes: Sizes, last: Duration, seed: u64, mut say: impl FnMut(&str)) -> Figures {
    let services = sizes.services;
    let server = |_| {
        // So long that a client on a slow network sees connections refused.
        crate::support::builder().user("nacos", "secret").restart_downtime(ms(1000)).start().unwrap()
    };
    let servers: Arc<[_]> = (0..2).map(server).collect();
    let addresses: Vec<_> = servers.iter().map(EmbeddedServer::server_address).collect();
    let config = Config::new(addresses.join(",")).credentials("nacos", "secret").request_timeout(ms(1000));
    let config = config.poll_interval(ms(500), removals::POLL_INTERVAL);
    let registry = match &sizes.simulation {
        Some(simulation) => Registry::start_here(config.logger(simulation.log.clone())).unwrap(),
        None => start(config),
    };
    let removals = Removals::new(sizes.simulation.is_some());
    let world = Rc::new(World {
        sizes,
        registry,
        known: Rc::default(),
        servers,
        model: RefCell::default(),
        over: Cell::new(false),
        figures: RefCell::default(),
        removals: RefCell::new(removals),
        views: RefCell::default(),
    });
    world.figures.borrow_mut().descriptors.0 = descriptors();
    let mut dice = fastrand::Rng::with_seed(seed);
    world.improve_network();
    for number in 0..services {
        world.register(number, number + 1, 1).await;
    }
    let checked: Vec<_> = (0..services).map(|_| Arc::new(Mutex::new(Checked::default()))).collect();
    let mut views = Vec::new();
    for (number, shared) in (0..services).zip(&checked) {
        let checker = world.checker(shared.clone()).start();
        ask(&world.registry, Subscribe::new(service(number), checker.recipient())).await.unwrap();
        views.push(ask(&world.registry, Discover::new(service(number))).await.unwrap());
    }

    let workers: Vec<_> = (0..world.sizes.workers).map(|worker| world.work(worker, dice.fork())).collect();
    let (faults, watching) = (world.make_faults(dice.fork()), world.watch_and_leave(dice.fork()));
    world.views.borrow_mut().clone_from(&views);
    let removals: Vec<_> = views.iter().map(|view| actix_rt::spawn(world.clone().see_removals(view.clone()))).collect();
    let health = world.watch_health();
    let clock = async {
        let began = Instant::now();
        for tenth in 1..=10 {
            actix_rt::time::sleep(last / 10).await;
            if tenth == 1 {
                world.figures.borrow_mut().resident_kib.0 = resident_kib();
            }
            let figures = world.figures.borrow();
            say(&format!(
                "{:>5} s: {} operations, {} faults, {} KiB, {} descriptors",
                began.elapsed().as_secs(),
                figures.operations,
                figures.faults,
                resident_kib(),
                descriptors()
            ));
        }
        world.over.set(true);
    };
    join(clock, join(join_all(workers), join(health, join(faults, watching)))).await;
    removals.into_iter().for_each(|watching| watching.abort());
    let metrics = ask(&world.registry, GetStatus).await.expect("a status").to_prometheus();
    world.views.borrow_mut().clear();

    let settling = Instant::now();
    world.settle(&views, &checked).await;
    let settled_after = settling.elapsed();
    if world.sizes.simulation.is_some() {
        world.stay_settled(&views, &checked).await;
    }
    let mut figures = std::mem::take(&mut *world.figures.borrow_mut());
    (figures.settled_after, figures.metrics) = (settled_after, metrics);
    figures.removals = world.removals.replace(Removals::new(true)).into_figures();
    (figures.resident_kib.1, figures.descriptors.1) = (resident_kib(), descriptors());
    figures.instances = world.model.borrow().values().map(BTreeMap::len).sum();
    for shared in &checked {
        let shared = shared.lock().expect("no panic");
        assert!(shared.wrong.is_empty(), "{} wrong, first {}", shared.wrong.len(), shared.wrong[0]);
        figures.news += shared.news;
    }
    drop(views);
    world.sizes.log(|| "the end".into());
    let report = ask(&world.registry, actix_nacos::Shutdown::default()).await.unwrap();
    assert_eq!((report.deregistered, report.failed.len()), (figures.instances, 0));
    figures
}

impl World {
    /// Repeats an operation until it succeeds, as an application would that must not give up.
    async fn insist<T>(&self, mut operation: impl AsyncFnMut() -> Result<T, Error>) -> T {
        loop {
            match operation().await {
                Ok(value) => {
                    self.figures.borrow_mut().operations += 1;
                    return value;
                }
                Err(error) if error.is_retryable() => self.figures.borrow_mut().repeated += 1,
                // The server has lost its tokens twice within 10 s. The client logs in only once in that time.
                Err(Error::Unauthorized { .. }) => {
                    self.figures.borrow_mut().repeated += 1;
                    actix_rt::time::sleep(ms(500)).await;
                }
                Err(error) => panic!("{error:?}"),
            }
        }
    }

    async fn register(&self, number: u16, port: u16, weight: u16) {
        let instance = RegisterInstance::new(service(number), "127.0.0.7", port).weight(f64::from(weight));
        let instance = instance.heartbeat_interval(self.sizes.beat_interval).metadata("port", port.to_string());
        let is_anchor = port <= self.sizes.services;
        // The servers know nothing of each other. Without this, an anchor could expire at one that comes into use again.
        let instance = if is_anchor { instance.metadata(IP_DELETE_TIMEOUT, "3600000") } else { instance };
        let is_there = self.is_there(number, port);
        self.known.borrow_mut().insert(port);
        self.removals.borrow_mut().registering(port);
        self.insist(async || ask(&self.registry, instance.clone()).await).await;
        if !is_there {
            self.removals.borrow_mut().registered(port);
        }
        self.model.borrow_mut().entry(number).or_default().insert(port, weight);
    }

    fn is_there(&self, number: u16, port: u16) -> bool {
        self.model.borrow().get(&number).is_some_and(|ports| ports.contains_key(&port))
    }

    async fn deregister(&self, number: u16, port: u16) {
        let deregister = DeregisterInstance::new(service(number), "127.0.0.7", port);
        let how = self.removals.borrow().how(|server| self.servers[server].dialect());
        let counts = self.is_there(number, port) && self.is_shown(port) && self.removals.borrow().counts(port, how);
        self.insist(async || ask(&self.registry, deregister.clone()).await).await;
        self.model.borrow_mut().entry(number).or_default().remove(&port);
        if counts {
            self.removals.borrow_mut().deregistered(port, how);
            self.look_at(&self.views.borrow()[usize::from(number)]);
        }
    }

    fn is_shown(&self, port: u16) -> bool {
        let views = self.views.borrow();
        views
            .get(usize::from(port % self.sizes.services))
            .is_some_and(|view| view.instances().iter().any(|it| it.port == port))
    }

    /// Records the removals that a view shows.
    fn look_at(&self, view: &ServiceView) {
        let instances = view.instances();
        let service = view.service().name.clone();
        let mut removals = self.removals.borrow_mut();
        let of_this = |port: &u16| service == self::service(port % self.sizes.services);
        let gone = removals.pending().filter(of_this).filter(|port| instances.iter().all(|it| it.port != *port));
        for port in gone.collect::<Vec<_>>() {
            removals.seen(port);
        }
    }

    /// All views of a service read the same list, so one of them is enough.
    async fn see_removals(self: Rc<Self>, mut view: ServiceView) {
        while view.changed().await.is_ok() {
            self.look_at(&view);
        }
    }

    async fn watch_health(&self) {
        while !self.over.get() {
            let status = ask(&self.registry, GetStatus).await.expect("a status");
            let used = status.servers.iter().find(|server| server.in_use).expect("one is in use");
            let is_used = |server: &EmbeddedServer| server.server_address() == used.address;
            let server = self.servers.iter().position(is_used).expect("one of ours");
            self.removals.borrow_mut().is_used(server, used.protocol);
            self.removals.borrow_mut().find_overdue();
            actix_rt::time::sleep(self.sizes.pause).await;
        }
    }

    fn checker(&self, shared: Arc<Mutex<Checked>>) -> Checker {
        Checker { sizes: self.sizes.clone(), known: self.known.clone(), list: BTreeMap::new(), shared }
    }

    async fn work(&self, worker: u16, mut dice: fastrand::Rng) {
        while !self.over.get() {
            let Sizes { services, of_each_worker, .. } = self.sizes;
            let port = 1000 + worker * of_each_worker + dice.u16(..of_each_worker);
            let (number, weight) = (port % services, dice.u16(1..1000));
            let is_there = self.is_there(number, port);
            match dice.u8(..10) {
                0..4 => self.register(number, port, weight).await,
                4..6 if is_there => {
                    let modify = ModifyInstance::new(service(number), "127.0.0.7", port).weight(f64::from(weight));
                    self.insist(async || ask(&self.registry, modify.clone()).await).await;
                    self.model.borrow_mut().entry(number).or_default().insert(port, weight);
                }
                6..9 => self.deregister(number, port).await,
                _ => drop(self.insist(async || ask(&self.registry, ListInstances::new(service(number))).await).await),
            }
            // A pause, as in an application that has other work.
            actix_rt::time::sleep(self.sizes.pause.mul_f64(dice.f64())).await;
        }
    }

    /// Subscribes and unsubscribes listeners, and creates and drops views.
    async fn watch_and_leave(&self, mut dice: fastrand::Rng) {
        let mut views: Vec<ServiceView> = Vec::new();
        while !self.over.get() {
            let number = dice.u16(..self.sizes.services);
            let checker = self.checker(Arc::default()).start();
            let listener = checker.recipient::<ServiceChanged>();
            ask(&self.registry, Subscribe::new(service(number), listener.clone())).await.unwrap();
            views.push(ask(&self.registry, Discover::new(service(number))).await.unwrap());
            if views.len() > 10 {
                views.swap_remove(dice.usize(..views.len()));
            }
            ask(&self.registry, GetStatus).await.unwrap();
            actix_rt::time::sleep(2 * self.sizes.pause.mul_f64(dice.f64())).await;
            ask(&self.registry, Unsubscribe::new(service(number)).listener(listener)).await.unwrap();
        }
    }

    async fn make_faults(&self, mut dice: fastrand::Rng) {
        while !self.over.get() {
            let calm = if dice.u8(..12) == 0 { CALM } else { Duration::ZERO };
            actix_rt::time::sleep(calm + ms(dice.u64(..2000))).await;
            let both = dice.u8(..4) == 0;
            let first = dice.usize(..2);
            let faulty = [first, 1 - first].into_iter().take(1 + usize::from(both));
            for server in faulty.clone() {
                self.removals.borrow_mut().fault_ordered(server);
                let mut draw = dice.fork();
                let fault = match &self.sizes.simulation {
                    Some(simulation) if draw.u8(..4) == 0 => simulation.make_fault(&self.servers[server], &mut draw),
                    _ => {
                        let (services, ports) = (self.sizes.services, self.sizes.workers * self.sizes.of_each_worker);
                        self.order(server, move |server| make_fault(server, services, ports, &mut draw)).await
                    }
                };
                self.sizes.log(|| format!("server {server}: {fault}"));
                self.figures.borrow_mut().faults += 1;
            }
            actix_rt::time::sleep(ms(dice.u64(..3000))).await;
            for server in faulty {
                self.order(server, |server| server.faults().clear()).await;
                self.improve_network();
                self.sizes.log(|| format!("server {server}: no fault"));
                self.removals.borrow_mut().fault_cleared(server);
            }
        }
    }

    /// Ends the faults of the network.
    fn improve_network(&self) {
        if let Some(Simulation { network, latency, .. }) = &self.sizes.simulation {
            network.set(Conditions { latency: *latency, lost: 0.0, doubled: 0.1 });
            self.servers.iter().for_each(|server| network.restore(server.address().port()));
        }
    }

    /// Orders a fault in another thread, because closing a server's connections blocks the caller.
    async fn order<T: Send + 'static>(
        &self,
        server: usize,
        order: impl FnOnce(&EmbeddedServer) -> T + Send + 'static,
    ) -> T {
        if self.sizes.simulation.is_some() {
            return order(&self.servers[server]);
        }
        let servers = self.servers.clone();
        actix_rt::task::spawn_blocking(move || order(&servers[server])).await.expect("no panic")
    }

    /// Waits until the server in use, the views and the listeners agree with the model.
    async fn settle(&self, views: &[ServiceView], checked: &[Arc<Mutex<Checked>>]) {
        let began = Instant::now();
        let is_simulated = self.sizes.simulation.is_some();
        if is_simulated {
            // A request that began during a fault may still fail, and change the server in use.
            actix_rt::time::sleep(GRACE).await;
        }
        while let Some(differs) = self.difference(views, checked, Compared::All).await {
            assert!(began.elapsed() < if is_simulated { SIMULATED_SETTLE } else { SETTLE }, "at last {differs}");
            if is_simulated && began.elapsed() > REGISTERED_WITHIN {
                let missing = self.difference(views, checked, Compared::Registered).await;
                assert_eq!(missing, None, "after {REGISTERED_WITHIN:?}");
            }
            actix_rt::time::sleep(ms(50)).await;
        }
    }

    /// Nothing that was deregistered comes back, and nothing that is registered goes.
    async fn stay_settled(&self, views: &[ServiceView], checked: &[Arc<Mutex<Checked>>]) {
        for second in 0..STAY_SETTLED.as_secs() {
            let differs = self.difference(views, checked, Compared::All).await;
            assert_eq!(differs, None, "{second} s after all agreed");
            actix_rt::time::sleep(Duration::from_secs(1)).await;
        }
    }

    async fn difference(
        &self,
        views: &[ServiceView],
        checked: &[Arc<Mutex<Checked>>],
        compared: Compared,
    ) -> Option<String> {
        let server = in_use(&self.registry, &self.servers).await;
        let model = self.model.borrow();
        for number in 0..self.sizes.services {
            let wanted = &model[&number];
            let at_server: BTreeMap<_, _> =
                server.instances(&service(number)).iter().map(|found| (found.port, found.weight as u16)).collect();
            let view = &views[usize::from(number)];
            let in_view: BTreeMap<_, _> = view.instances().iter().map(|host| (host.port, host.weight as u16)).collect();
            let listener = &checked[usize::from(number)].lock().expect("no panic").list;
            for (who, list) in [("the server", &at_server), ("the view", &in_view), ("the listener", listener)] {
                let is_there = |(port, weight)| list.get(port) == Some(weight);
                let agrees = wanted.iter().all(is_there) && (compared == Compared::Registered || list == wanted);
                if !agrees {
                    return Some(format!("{who} has {list:?} in {}, wanted {wanted:?}", service(number)));
                }
            }
        }
        None
    }
}

impl Simulation {
    /// A fault of the network.
    fn make_fault(&self, server: &EmbeddedServer, dice: &mut fastrand::Rng) -> &'static str {
        let port = server.address().port();
        match dice.u8(..4) {
            0 => {
                self.network.cut(port);
                "cut off"
            }
            1 => {
                self.network.reset(port);
                "connections reset"
            }
            2 => {
                self.network.set(Conditions { latency: ms(dice.u64(..400)), ..Conditions::default() });
                "a slow network"
            }
            _ => {
                self.network.set(Conditions { latency: ms(300), lost: dice.f64(), doubled: dice.f64() });
                "datagrams are lost, doubled and late"
            }
        }
    }
}

/// Makes one fault, and says which.
fn make_fault(server: &EmbeddedServer, services: u16, ports: u16, dice: &mut fastrand::Rng) -> &'static str {
    let faults = server.faults();
    faults.seed(dice.u64(..));
    let spoilt = [Spoilt::CutOff, Spoilt::WrongType, Spoilt::Html];
    let dialects = [Dialect::V1_4, Dialect::V2_5, Dialect::V3_0, Dialect::V3_2];
    match dice.u8(..14) {
        0 | 1 => {
            faults.refuse_connections();
            "refuses connections"
        }
        2 => {
            faults.hang(true);
            "hangs"
        }
        3 => {
            faults.delay_requests(ms(dice.u64(..600)));
            "delays requests"
        }
        4 => {
            faults.delay_answers(ms(dice.u64(..600)));
            "delays answers"
        }
        5 | 6 => {
            faults.fail_share(dice.f64(), 503);
            "answers 503"
        }
        7 => {
            faults.spoil_share(dice.f64(), spoilt[dice.usize(..3)]);
            "spoils answers"
        }
        8 | 9 => {
            let dialect = if dice.bool() { dialects[dice.usize(..4)] } else { server.dialect() };
            server.restart_as(dialect).expect("the same port");
            "restarts"
        }
        10 => {
            faults.expire_tokens();
            "expires tokens"
        }
        11 => {
            faults.skew_clock(dice.i64(-3_600_000..3_600_000));
            "has a wrong clock"
        }
        12 => {
            faults.drop_pushes(0.3);
            faults.double_pushes(0.3);
            faults.reorder_pushes(0.3);
            faults.delay_pushes(0.3, ms(500));
            "loses, doubles and delays pushes"
        }
        _ => {
            let port = 1000 + dice.u16(..ports);
            faults.forget_instance(&service(port % services), "127.0.0.7", port);
            "forgets an instance"
        }
    }
}
