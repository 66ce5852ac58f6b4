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
    collections::BTreeMap,
    rc::Rc,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use actix::prelude::*;
use actix_nacos::{
    embedded::{Dialect, EmbeddedServer, Spoilt},
    Config, DeregisterInstance, Discover, Error, GetStatus, ListInstances, ModifyInstance, RegisterInstance, Registry,
    ServiceChanged, ServiceView, Subscribe, Unsubscribe,
};
use futures_util::future::{join, join_all};
use removals::Removals;

use crate::support::{
    ask, in_use, ms,
    process::{descriptors, resident_kib},
    start,
};

const SERVICES: u16 = 20;
const WORKERS: u16 = 16;
/// The number of instances that each worker registers and deregisters.
const OF_EACH_WORKER: u16 = 32;
/// Longer than `outage_hold` and the expiry of an instance together.
const SETTLE: Duration = Duration::from_secs(90);
const INTERVAL: Duration = Duration::from_secs(1);
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
    registry: Addr<Registry>,
    servers: Arc<[EmbeddedServer]>,
    model: RefCell<Model>,
    over: Cell<bool>,
    figures: RefCell<Figures>,
    removals: RefCell<Removals>,
    /// One view of each service, once all anchors are registered.
    views: RefCell<Vec<ServiceView>>,
}

/// Checks that each change leads from the previous list to the new one, and that no anchor is ever removed.
struct Checker {
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
        if news.removed.iter().any(|gone| is_anchor(gone.port)) {
            let (service, source, gone, left) = (&news.service, news.source, news.removed.len(), now.len());
            shared.wrong.push(format!(
                "an anchor and {gone} in all are told to be gone from {service}, {left} are left, by a {source:?}"
            ));
        }
        shared.news += 1;
        shared.list.clone_from(&now);
        self.list = now;
    }
}

/// An anchor is an instance that is registered throughout. There is one in each service.
fn is_anchor(port: u16) -> bool {
    port <= SERVICES
}

/// Runs the soak, and reports the progress from time to time by `say`.
pub async fn soak(last: Duration, seed: u64, mut say: impl FnMut(&str)) -> Figures {
    let server = |_| crate::support::builder().user("nacos", "secret").start().unwrap();
    let servers: Arc<[_]> = (0..2).map(server).collect();
    let addresses: Vec<_> = servers.iter().map(EmbeddedServer::server_address).collect();
    let config = Config::new(addresses.join(",")).credentials("nacos", "secret").request_timeout(ms(1000));
    let registry = start(config.poll_interval(ms(500), removals::POLL_INTERVAL));
    let world = Rc::new(World {
        registry,
        servers,
        model: RefCell::default(),
        over: Cell::new(false),
        figures: RefCell::default(),
        removals: RefCell::new(Removals::new()),
        views: RefCell::default(),
    });
    world.figures.borrow_mut().descriptors.0 = descriptors();
    let mut dice = fastrand::Rng::with_seed(seed);
    for number in 0..SERVICES {
        world.register(number, number + 1, 1).await;
    }
    let checked: Vec<_> = (0..SERVICES).map(|_| Arc::new(Mutex::new(Checked::default()))).collect();
    let mut views = Vec::new();
    for (number, shared) in (0..SERVICES).zip(&checked) {
        let checker = Checker { list: BTreeMap::new(), shared: shared.clone() }.start();
        ask(&world.registry, Subscribe::new(service(number), checker.recipient())).await.unwrap();
        views.push(ask(&world.registry, Discover::new(service(number))).await.unwrap());
    }

    let workers: Vec<_> = (0..WORKERS).map(|worker| world.work(worker, dice.fork())).collect();
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
    let mut figures = std::mem::take(&mut *world.figures.borrow_mut());
    (figures.settled_after, figures.metrics) = (settling.elapsed(), metrics);
    figures.removals = world.removals.replace(Removals::new()).into_figures();
    (figures.resident_kib.1, figures.descriptors.1) = (resident_kib(), descriptors());
    figures.instances = world.model.borrow().values().map(BTreeMap::len).sum();
    for shared in &checked {
        let shared = shared.lock().expect("no panic");
        assert!(shared.wrong.is_empty(), "{} wrong, first {}", shared.wrong.len(), shared.wrong[0]);
        figures.news += shared.news;
    }
    drop(views);
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
        let instance = instance.heartbeat_interval(INTERVAL).metadata("port", port.to_string());
        let is_there = self.is_there(number, port);
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
        views.get(usize::from(port % SERVICES)).is_some_and(|view| view.instances().iter().any(|it| it.port == port))
    }

    /// Records the removals that a view shows.
    fn look_at(&self, view: &ServiceView) {
        let instances = view.instances();
        let service = view.service().name.clone();
        let mut removals = self.removals.borrow_mut();
        let of_this = |port: &u16| service == self::service(port % SERVICES);
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
            actix_rt::time::sleep(ms(100)).await;
        }
    }

    async fn work(&self, worker: u16, mut dice: fastrand::Rng) {
        while !self.over.get() {
            let port = 1000 + worker * OF_EACH_WORKER + dice.u16(..OF_EACH_WORKER);
            let (number, weight) = (port % SERVICES, dice.u16(1..1000));
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
            actix_rt::time::sleep(ms(dice.u64(..100))).await;
        }
    }

    /// Subscribes and unsubscribes listeners, and creates and drops views.
    async fn watch_and_leave(&self, mut dice: fastrand::Rng) {
        let mut views: Vec<ServiceView> = Vec::new();
        while !self.over.get() {
            let number = dice.u16(..SERVICES);
            let checker = Checker { list: BTreeMap::new(), shared: Arc::default() }.start();
            let listener = checker.recipient::<ServiceChanged>();
            ask(&self.registry, Subscribe::new(service(number), listener.clone())).await.unwrap();
            views.push(ask(&self.registry, Discover::new(service(number))).await.unwrap());
            if views.len() > 10 {
                views.swap_remove(dice.usize(..views.len()));
            }
            ask(&self.registry, GetStatus).await.unwrap();
            actix_rt::time::sleep(ms(dice.u64(..200))).await;
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
                self.order(server, move |server| make_fault(server, &mut draw)).await;
                self.figures.borrow_mut().faults += 1;
            }
            actix_rt::time::sleep(ms(dice.u64(..3000))).await;
            for server in faulty {
                self.order(server, |server| server.faults().clear()).await;
                self.removals.borrow_mut().fault_cleared(server);
            }
        }
    }

    /// Orders a fault in another thread, because closing a server's connections blocks the caller.
    async fn order(&self, server: usize, order: impl FnOnce(&EmbeddedServer) + Send + 'static) {
        let servers = self.servers.clone();
        actix_rt::task::spawn_blocking(move || order(&servers[server])).await.expect("no panic");
    }

    /// Waits until the server in use, the views and the listeners agree with the model.
    async fn settle(&self, views: &[ServiceView], checked: &[Arc<Mutex<Checked>>]) {
        let began = Instant::now();
        loop {
            let differs = self.difference(views, checked).await;
            let Some(differs) = differs else { return };
            assert!(began.elapsed() < SETTLE, "after {SETTLE:?} {differs}");
            actix_rt::time::sleep(ms(50)).await;
        }
    }

    async fn difference(&self, views: &[ServiceView], checked: &[Arc<Mutex<Checked>>]) -> Option<String> {
        let server = in_use(&self.registry, &self.servers).await;
        let model = self.model.borrow();
        for number in 0..SERVICES {
            let wanted = &model[&number];
            let at_server: BTreeMap<_, _> =
                server.instances(&service(number)).iter().map(|found| (found.port, found.weight as u16)).collect();
            let view = &views[usize::from(number)];
            let in_view: BTreeMap<_, _> = view.instances().iter().map(|host| (host.port, host.weight as u16)).collect();
            let listener = &checked[usize::from(number)].lock().expect("no panic").list;
            for (who, list) in [("the server", &at_server), ("the view", &in_view), ("the listener", listener)] {
                if list != wanted {
                    return Some(format!("{who} has {list:?} in {}, wanted {wanted:?}", service(number)));
                }
            }
        }
        None
    }
}

fn make_fault(server: &EmbeddedServer, dice: &mut fastrand::Rng) {
    let faults = server.faults();
    let spoilt = [Spoilt::CutOff, Spoilt::WrongType, Spoilt::Html];
    let dialects = [Dialect::V1_4, Dialect::V2_5, Dialect::V3_0, Dialect::V3_2];
    match dice.u8(..14) {
        0 | 1 => faults.refuse_connections(),
        2 => faults.hang(true),
        3 => faults.delay_requests(ms(dice.u64(..600))),
        4 => faults.delay_answers(ms(dice.u64(..600))),
        5 | 6 => faults.fail_share(dice.f64(), 503),
        7 => faults.spoil_share(dice.f64(), spoilt[dice.usize(..3)]),
        8 | 9 => {
            faults.refuse_connections();
            thread::sleep(ms(300));
            let dialect = if dice.bool() { dialects[dice.usize(..4)] } else { server.dialect() };
            server.restart_as(dialect).expect("the same port");
        }
        10 => faults.expire_tokens(),
        11 => faults.skew_clock(dice.i64(-3_600_000..3_600_000)),
        12 => {
            faults.drop_pushes(0.3);
            faults.double_pushes(0.3);
            faults.reorder_pushes(0.3);
            faults.delay_pushes(0.3, ms(500));
        }
        _ => {
            let port = 1000 + dice.u16(..WORKERS * OF_EACH_WORKER);
            faults.forget_instance(&service(port % SERVICES), "127.0.0.7", port);
        }
    }
}
