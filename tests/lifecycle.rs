//! A Registry can start on any thread. Its end is final and leaves nothing behind.
//!
//! This is a separate binary, whose tests run one after the other, because some count threads and descriptors of the
//! process.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
// Each test has its own runtime, in which no other task takes the lock.
#![allow(clippy::await_holding_lock)]

mod support;

use std::{
    sync::{mpsc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use actix::{Actor, Addr, Arbiter, Context, Handler, System};
use actix_nacos::{
    embedded::EmbeddedServer, Config, DeregisterInstance, Discover, Error, GetInstance, GetStatus, ListInstances,
    ListServices, ModifyInstance, Operation, RegisterInstance, Registry, SendHeartbeat, ServiceChanged, Shutdown,
    ShutdownGuard, StopSubscribe, Subscribe, Unsubscribe, HEART_BEAT_INTERVAL,
};
use futures_util::future::join_all;
use support::{ask, config, ms, ports, registry, server, shut_down, soon, start, until, News, IP, PATIENCE};

/// A lock that each test holds, so that no test counts the threads of another one.
fn alone() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "waited {PATIENCE:?} until {what}");
        thread::sleep(ms(2));
    }
}

/// Returns the number of threads and descriptors once the server has started all of its own, with no Registry.
fn settled(server: &EmbeddedServer) -> (usize, usize) {
    let registry = registry(server);
    registry.do_send(RegisterInstance::new("orders", IP, 80));
    wait_until("a first one is served", || !server.instances("orders").is_empty());
    drop(registry);
    wait_until("it has ended", || !names_of_threads().contains(&"actix-nacos".into()));
    wait_until("its connections are closed", || server.instances("orders").is_empty());
    (threads(), descriptors())
}

fn names_of_threads() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    // A thread may end while the threads are read.
    tasks.flat_map(|task| std::fs::read_to_string(task.path().join("comm"))).map(|name| name.trim().into()).collect()
}

// Threads and sockets are gone after the end.

#[cfg(target_os = "linux")]
#[test]
fn a_thousand_registries_leave_no_thread_and_no_descriptor() {
    let _alone = alone();
    let server = server();
    let config = config(&server);
    let (threads_before, descriptors_before) = settled(&server);
    for number in 0..1000u32 {
        let registry = start(config.clone());
        // Some Registries are dropped at once, some with an instance and a subscription, and some are shut down.
        match number % 100 {
            0 => {
                let answer = System::new().block_on(async {
                    let news = News::listen();
                    ask(&registry, Subscribe::new("orders", news.recipient())).await?;
                    ask(&registry, RegisterInstance::new("orders", IP, 80)).await?;
                    ask(&registry, Shutdown::default()).await
                });
                assert_eq!(answer.unwrap().deregistered, 1);
            }
            50 => {
                registry.do_send(RegisterInstance::new("orders", IP, 81));
                drop(System::new().block_on(ask(&registry, Discover::new("orders"))).unwrap());
            }
            _ => {}
        }
    }
    wait_until("all threads have ended", || threads() <= threads_before);
    // The server closes its ends of the connections a moment later.
    wait_until("all descriptors are closed", || descriptors() <= descriptors_before);
    assert!(server.instances("orders").is_empty());
}

#[cfg(target_os = "linux")]
#[test]
fn a_registry_whose_server_hangs_leaves_no_thread_and_no_descriptor() {
    let _alone = alone();
    let server = server();
    let (threads_before, descriptors_before) = settled(&server);
    server.faults().hang(true);
    for _ in 0..10 {
        let requests = server.counters().requests;
        let registry = start(config(&server).request_timeout(ms(200)).shutdown_timeout(ms(100)));
        registry.do_send(RegisterInstance::new("orders", IP, 80));
        wait_until("the request hangs", || server.counters().requests > requests);
        drop(registry);
        wait_until("its thread has ended", || threads() <= threads_before);
    }
    server.faults().clear();
    wait_until("all descriptors are closed", || descriptors() <= descriptors_before);
}

// Shutdown.

/// Sends one message of each kind and checks that each answer is `Error::Stopped`.
async fn everything_is_stopped(registry: &Addr<Registry>) {
    let news = News::listen();
    let listener = || news.recipient();
    let stopped = Err(Error::Stopped);
    assert_eq!(ask(registry, RegisterInstance::new("orders", IP, 80)).await.map(drop), stopped);
    assert_eq!(ask(registry, DeregisterInstance::new("orders", IP, 80)).await, stopped);
    assert_eq!(ask(registry, ModifyInstance::new("orders", IP, 80).weight(2.0)).await, stopped);
    assert_eq!(ask(registry, Subscribe::new("orders", listener())).await, stopped);
    assert_eq!(ask(registry, Unsubscribe::new("orders")).await, stopped);
    assert_eq!(ask(registry, StopSubscribe).await, stopped);
    assert_eq!(ask(registry, GetInstance::new("orders", IP, 80)).await.err(), Some(Error::Stopped));
    assert_eq!(ask(registry, ListInstances::new("orders")).await.err(), Some(Error::Stopped));
    assert_eq!(ask(registry, ListServices::new(1, 10)).await.err(), Some(Error::Stopped));
    assert_eq!(ask(registry, SendHeartbeat::new("orders", IP, 80)).await.err(), Some(Error::Stopped));
    assert_eq!(ask(registry, Discover::new("orders")).await.err(), Some(Error::Stopped));
    assert_eq!(ask(registry, GetStatus).await.err(), Some(Error::Stopped));
    assert_eq!(ask(registry, Shutdown::default()).await.err(), Some(Error::Stopped));
}

#[actix::test]
async fn shutdown_is_final() {
    let _alone = alone();
    let server = server();
    let registry = registry(&server);
    ask(&registry, RegisterInstance::new("orders", IP, 80).metadata(HEART_BEAT_INTERVAL, "100")).await.unwrap();
    let mut news = News::listen();
    ask(&registry, Subscribe::new("orders", news.recipient())).await.unwrap();
    let view = ask(&registry, Discover::new("orders")).await.unwrap();
    news.until(|news| !news.info.hosts.is_empty()).await;
    let report = ask(&registry, Shutdown::default()).await.unwrap();
    assert_eq!((report.deregistered, report.left, report.failed.len()), (1, 0, 0));
    assert!(server.instances("orders").is_empty());
    let requests = server.counters().requests;
    everything_is_stopped(&registry).await;
    until("the view knows", || view.is_stale()).await;
    assert_eq!(view.instances().iter().count(), 1, "it keeps its last list");
    // Wait for three beat and poll intervals: nothing shows earlier that no request follows.
    actix_rt::time::sleep(ms(300)).await;
    everything_is_stopped(&registry).await;
    assert_eq!(server.counters().requests, requests, "nothing beats or asks");
}

#[actix::test]
async fn shutdown_leaves_persistent_instances_unless_asked() {
    let _alone = alone();
    let server = server();
    for (shutdown, remaining) in [(Shutdown::default(), 1), (Shutdown::default().persistent_too(), 0)] {
        let registry = registry(&server);
        ask(&registry, RegisterInstance::new("ledger", IP, 80).ephemeral(false)).await.unwrap();
        ask(&registry, RegisterInstance::new("orders", IP, 80)).await.unwrap();
        let report = ask(&registry, shutdown).await.unwrap();
        assert_eq!((report.deregistered, report.left), (2 - remaining, remaining));
        assert_eq!((server.instances("ledger").len(), server.instances("orders").len()), (remaining, 0));
    }
}

#[actix::test]
async fn messages_before_a_shutdown_take_effect_before_it() {
    let _alone = alone();
    let server = server();
    let registry = registry(&server);
    server.faults().delay_requests(ms(20));
    let registered: Vec<_> =
        (8000..8100).map(|port| registry.send(RegisterInstance::new("orders", IP, port))).collect();
    let lists: Vec<_> = (0..100).map(|_| registry.send(ListInstances::new("orders"))).collect();
    let shutdown = registry.send(Shutdown::default());
    let late: Vec<_> = (8100..8200).map(|port| registry.send(RegisterInstance::new("orders", IP, port))).collect();
    let report = soon("the report", shutdown).await.unwrap().unwrap();
    assert_eq!(report.deregistered, 100);
    assert!(soon("answers", join_all(registered)).await.into_iter().all(|answer| matches!(answer, Ok(Ok(_)))));
    for answer in soon("answers", join_all(late)).await {
        assert_eq!(answer.map_err(Error::from).and_then(|answer| answer), Err(Error::Stopped));
    }
    for answer in soon("answers", join_all(lists)).await {
        // Lists may be answered or not, but each message must have an answer.
        let answer = answer.map_err(Error::from).and_then(|answer| answer);
        assert!(matches!(answer, Ok(_) | Err(Error::Stopped)), "{answer:?}");
    }
    assert_eq!(ports(&server, "orders"), [0; 0]);
}

#[actix::test]
async fn callers_waiting_during_a_shutdown_all_get_an_answer() {
    let _alone = alone();
    let server = server();
    let registry = registry(&server);
    server.faults().only_for(&[Operation::List]);
    server.faults().hang(true);
    let waiting: Vec<_> = (0..2000).map(|_| registry.send(ListInstances::new("orders"))).collect();
    until("the server hangs", || server.counters().requests_for(Operation::List) > 0).await;
    ask(&registry, Shutdown::default()).await.unwrap();
    for answer in soon("all answers", join_all(waiting)).await {
        assert_eq!(answer.expect("an answer of the Registry").err(), Some(Error::Stopped));
    }
}

#[actix::test]
async fn a_shutdown_reports_what_could_not_be_deregistered() {
    let _alone = alone();
    let server = server();
    let registry = registry(&server);
    for port in [80, 81] {
        ask(&registry, RegisterInstance::new("orders", IP, port)).await.unwrap();
    }
    server.faults().hang(true);
    let began = Instant::now();
    let report = ask(&registry, Shutdown::default().deadline(ms(300))).await.unwrap();
    assert!(began.elapsed() < ms(2000), "{:?}", began.elapsed());
    assert_eq!((report.deregistered, report.failed.len()), (0, 2));
    assert!(report.failed.iter().all(|failed| matches!(failed.error, Error::Timeout { .. })), "{report:?}");
    server.faults().clear();
}

#[actix::test]
async fn a_shutdown_is_done_also_when_the_last_address_is_dropped_behind_it() {
    let _alone = alone();
    let server = server();
    let registry = registry(&server);
    for port in 80..90 {
        ask(&registry, RegisterInstance::new("orders", IP, port)).await.unwrap();
    }
    // Slow enough that the actor would end first if it did not wait.
    server.faults().delay_requests(ms(50));
    let shutdown = registry.send(Shutdown::default().drain(ms(100)));
    drop(registry);
    let report = soon("the report", shutdown).await.unwrap().unwrap();
    assert_eq!((report.deregistered, report.failed.len()), (10, 0), "{report:?}");
    assert!(server.instances("orders").is_empty());
}

#[actix::test]
async fn calls_go_on_being_served_while_a_shutdown_drains() {
    let _alone = alone();
    let server = server();
    let registry = registry(&server);
    ask(&registry, RegisterInstance::new("orders", IP, 80)).await.unwrap();
    let mut view = ask(&registry, Discover::new("orders")).await.unwrap();
    view.ready().await.unwrap();
    let began = Instant::now();
    let shutdown = registry.send(Shutdown::default().drain(ms(500)));
    actix_rt::spawn(async move { shutdown.await.unwrap().unwrap() });
    until("it is deregistered", || server.instances("orders").is_empty()).await;
    soon("the view hears of it", async {
        while !view.instances().is_empty() {
            view.changed().await.unwrap();
        }
    })
    .await;
    soon("the end", async { while view.changed().await.is_ok() {} }).await;
    assert!(began.elapsed() >= ms(500), "{:?}", began.elapsed());
}

// Dropping the last address.

#[actix::test]
async fn dropping_the_last_address_deregisters() {
    let _alone = alone();
    let server = server();
    let first = registry(&server);
    let second = first.clone();
    ask(&first, RegisterInstance::new("orders", IP, 80)).await.unwrap();
    ask(&first, RegisterInstance::new("ledger", IP, 80).ephemeral(false)).await.unwrap();
    let news = News::listen();
    ask(&first, Subscribe::new("orders", news.recipient())).await.unwrap();
    drop(first);
    ask(&second, GetStatus).await.expect("another address keeps it");
    assert_eq!(ports(&server, "orders"), [80]);
    drop(second);
    until("it is deregistered", || server.instances("orders").is_empty()).await;
    assert_eq!(ports(&server, "ledger"), [80], "the persistent one stays");
}

#[actix::test]
async fn a_view_does_not_keep_the_registry() {
    let _alone = alone();
    let server = server();
    let registry = registry(&server);
    ask(&registry, RegisterInstance::new("orders", IP, 80)).await.unwrap();
    let mut view = ask(&registry, Discover::new("orders")).await.unwrap();
    view.ready().await.unwrap();
    drop(registry);
    until("it is deregistered", || server.instances("orders").is_empty()).await;
    soon("the end", async { while view.changed().await.is_ok() {} }).await;
    assert!(view.is_stale());
}

// Where a Registry can start.

#[test]
fn a_registry_starts_and_serves_in_a_plain_thread() {
    let _alone = alone();
    let server = server();
    let registry = registry(&server);
    registry.do_send(RegisterInstance::new("orders", IP, 80));
    wait_until("it is registered", || ports(&server, "orders") == [80]);
    drop(registry);
    wait_until("it is deregistered", || server.instances("orders").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_starts_and_serves_in_a_multi_thread_tokio() {
    let _alone = alone();
    let server = server();
    let registry = registry(&server);
    let ours = registry.clone();
    let task = tokio::spawn(async move { ask(&ours, RegisterInstance::new("orders", IP, 80)).await });
    soon("the answer", task).await.unwrap().unwrap();
    let view = soon("a view", ask(&registry, Discover::new("orders"))).await.unwrap();
    view.ready_within(PATIENCE).await.unwrap();
    assert_eq!(view.select_one().map(|chosen| chosen.port), Some(80));
    shut_down(&registry).await;
    assert!(server.instances("orders").is_empty());
}

#[test]
fn a_registry_survives_the_end_of_the_applications_system() {
    let _alone = alone();
    let server = server();
    let system = System::new();
    let registry = system.block_on(async {
        let registry = registry(&server);
        let register = RegisterInstance::new("orders", IP, 80).metadata(HEART_BEAT_INTERVAL, "100");
        ask(&registry, register).await.unwrap();
        System::current().stop();
        registry
    });
    system.run().unwrap();
    let beats = server.counters().requests_for(Operation::Beat);
    wait_until("it goes on beating", || server.counters().requests_for(Operation::Beat) >= beats + 2);
    let another = System::new();
    another.block_on(shut_down(&registry));
    assert!(server.instances("orders").is_empty());
}

#[actix::test]
async fn a_registry_on_the_present_arbiter_serves_and_shuts_down() {
    let _alone = alone();
    let server = server();
    let registry = Registry::start_here(config(&server)).unwrap();
    soon("the answer", ask(&registry, RegisterInstance::new("orders", IP, 80))).await.unwrap();
    soon("the report", ask(&registry, Shutdown::default())).await.unwrap();
    assert!(server.instances("orders").is_empty());
    everything_is_stopped(&registry).await;
    let registry = Registry::start_here(config(&server)).unwrap();
    ask(&registry, RegisterInstance::new("orders", IP, 80)).await.unwrap();
    drop(registry);
    until("it is deregistered", || server.instances("orders").is_empty()).await;
}

#[test]
fn without_an_arbiter_starting_here_is_an_error() {
    let _alone = alone();
    let here = Registry::start_here(Config::new("127.0.0.1:8848"));
    assert!(matches!(here, Err(Error::NotStarted { .. })), "{here:?}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let here = runtime.block_on(async { Registry::start_here(Config::new("127.0.0.1:8848")) });
    assert!(matches!(here, Err(Error::NotStarted { .. })), "{here:?}");
}

#[test]
fn starting_here_needs_a_running_system() {
    let _alone = alone();
    let _system = System::new();
    let started = Registry::start_here(Config::new("127.0.0.1:8848"));
    assert!(matches!(started, Err(Error::NotStarted { .. })), "{started:?}");
}

#[test]
fn a_configuration_that_cannot_work_starts_no_thread() {
    let _alone = alone();
    let refused = Registry::start(Config::new("nowhere"));
    assert!(matches!(refused, Err(Error::InvalidInput { field: "servers", .. })), "{refused:?}");
    wait_until("those of the tests before have ended", || !names_of_threads().contains(&"actix-nacos".into()));
}

// `ShutdownGuard`.

fn registered(server: &EmbeddedServer) -> Addr<Registry> {
    let registry = registry(server);
    System::new().block_on(ask(&registry, RegisterInstance::new("orders", IP, 80))).unwrap();
    assert_eq!(ports(server, "orders"), [80]);
    registry
}

#[test]
fn a_guard_has_deregistered_when_it_is_dropped() {
    let _alone = alone();
    let server = server();
    let registry = registered(&server);
    drop(ShutdownGuard::new(registry.clone(), PATIENCE));
    assert!(server.instances("orders").is_empty());
    drop(ShutdownGuard::new(registry, PATIENCE));
}

#[test]
fn a_guard_waits_for_a_shutdown_that_is_under_way() {
    let _alone = alone();
    let server = server();
    let registry = registered(&server);
    server.faults().delay_requests(ms(500));
    registry.do_send(Shutdown::default());
    drop(ShutdownGuard::new(registry, PATIENCE));
    assert!(server.instances("orders").is_empty());
}

#[test]
fn a_guard_deregisters_also_when_a_panic_unwinds() {
    let _alone = alone();
    let server = server();
    let registry = registered(&server);
    let panicked = thread::spawn(move || {
        let _offline = ShutdownGuard::new(registry, PATIENCE);
        std::panic::resume_unwind(Box::new("on purpose"));
    });
    assert!(panicked.join().is_err());
    assert!(server.instances("orders").is_empty());
}

#[test]
fn a_guard_waits_no_longer_than_its_deadline() {
    let _alone = alone();
    let server = server();
    let registry = registered(&server);
    server.faults().hang(true);
    let began = Instant::now();
    drop(ShutdownGuard::new(registry, ms(200)));
    assert!(began.elapsed() < ms(2000), "{:?}", began.elapsed());
    server.faults().clear();
}

// Listeners at the end of a Registry.

/// Handles changes and owns an address of the Registry, as an actor of an application does.
struct Caller {
    registry: Addr<Registry>,
    told: mpsc::Sender<usize>,
}

impl Actor for Caller {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        use actix::AsyncContext as _;
        self.registry.do_send(Subscribe::new("orders", ctx.address().recipient()));
    }
}

impl Handler<ServiceChanged> for Caller {
    type Result = ();

    fn handle(&mut self, news: ServiceChanged, _: &mut Context<Self>) {
        let _ = self.told.send(news.info.hosts.len());
    }
}

#[test]
fn listeners_on_any_arbiter_are_notified() {
    let _alone = alone();
    let server = server();
    let registry = registered(&server);
    let system = System::new();
    let told = system.block_on(async {
        let (tell, told) = mpsc::channel();
        let ours = registry.clone();
        Caller::start_in_arbiter(&Arbiter::new().handle(), move |_| Caller { registry: ours, told: tell });
        told
    });
    assert_eq!(told.recv_timeout(Duration::from_secs(10)), Ok(1));
    system.block_on(shut_down(&registry));
}
