//! Other requests that fail do not delay an instance's heartbeats. What proxies and clusters usually do is not an
//! outage.

use std::{
    cell::Cell,
    collections::HashMap,
    future::Future,
    ops::Range,
    sync::{
        atomic::{AtomicBool, AtomicUsize, Ordering},
        Arc, Mutex,
    },
    thread,
    time::{Duration, Instant},
};

use actix::{Actor, Addr, Context, Handler};
use actix_nacos::{
    embedded::{EmbeddedServer, Spoilt},
    ConnectionChanged, ConnectionState, DeregisterInstance, Discover, Error, GetInstance, ListInstances, ListServices,
    ModifyInstance, Operation, RegisterInstance, Registry, ServiceView, Shutdown, WatchConnection, HEART_BEAT_INTERVAL,
    HEART_BEAT_TIMEOUT, IP_DELETE_TIMEOUT,
};
use futures_util::future::{join, join_all};

use crate::support::{
    ask, config, config_at,
    fake::{Answer, Fake, Seen},
    in_use,
    logs::{logger, Log},
    ms,
    proxy::Proxy,
    servers, shut_down, start, until, IP,
};

/// The beat interval of the instances in these tests.
const INTERVAL: Duration = Duration::from_millis(200);
/// The timeout of the requests. Longer than the interval, so that the server answers a beat while another request
/// hangs.
const REQUEST_TIMEOUT: Duration = Duration::from_millis(500);
/// Twice the promise, which is an interval and a request timeout, because the machine may be busy.
const LONGEST_PAUSE: Duration = Duration::from_millis(1400);

/// A server that checks for missing beats all the time.
fn strict_server() -> EmbeddedServer {
    EmbeddedServer::builder().sweep_interval(ms(20)).start().unwrap()
}

/// An instance that turns unhealthy after the longest pause that is allowed.
fn instance(port: u16) -> RegisterInstance {
    RegisterInstance::new("orders", IP, port)
        .metadata(HEART_BEAT_INTERVAL, INTERVAL.as_millis().to_string())
        .metadata(HEART_BEAT_TIMEOUT, LONGEST_PAUSE.as_millis().to_string())
        .metadata(IP_DELETE_TIMEOUT, "30000")
}

/// Returns the result of `work`, and the longest time that an instance of `orders` went without a beat meanwhile.
///
/// # Panics
/// When an instance is unhealthy or missing.
async fn watch<T>(server: &EmbeddedServer, instances: usize, work: impl Future<Output = T>) -> (Duration, T) {
    let done = Cell::new(false);
    let look = async {
        let mut longest = Duration::ZERO;
        while !done.get() {
            let present = server.instances("orders");
            assert_eq!(present.len(), instances);
            for instance in present {
                longest = longest.max(instance.since_last_beat);
                assert!(instance.healthy, "without a beat for {:?}", instance.since_last_beat);
            }
            actix_rt::time::sleep(ms(10)).await;
        }
        longest
    };
    let work = async {
        let result = work.await;
        done.set(true);
        result
    };
    join(look, work).await
}

/// Repeats `ask` for this time, `side_by_side` requests at a time, whatever their outcomes are.
async fn keep_asking<T>(time: Duration, side_by_side: usize, ask: impl AsyncFn(usize) -> T) {
    let began = Instant::now();
    let asking = |number| {
        let ask = &ask;
        async move {
            while began.elapsed() < time {
                ask(number).await;
                // Avoids a busy loop when requests fail at once.
                actix_rt::time::sleep(ms(1)).await;
            }
        }
    };
    join_all((0..side_by_side).map(asking)).await;
}

/// Records all connection states, in order.
struct States(Arc<Mutex<Vec<ConnectionState>>>);

impl Actor for States {
    type Context = Context<Self>;
}

impl Handler<ConnectionChanged> for States {
    type Result = ();

    fn handle(&mut self, change: ConnectionChanged, _: &mut Context<Self>) {
        self.0.lock().unwrap().push(change.state);
    }
}

/// Records whether the status or the log ever reported an outage.
struct Outages {
    states: Arc<Mutex<Vec<ConnectionState>>>,
    log: Log,
}

impl Outages {
    async fn watch(registry: &Addr<Registry>, log: Log) -> Self {
        let states = Arc::new(Mutex::new(Vec::new()));
        let listener = States(states.clone()).start();
        ask(registry, WatchConnection::new(listener.recipient())).await.unwrap();
        Outages { states, log }
    }

    #[track_caller]
    fn assert_none(&self) {
        let states = self.states.lock().unwrap().clone();
        assert!(!states.contains(&ConnectionState::Lost), "{states:?}");
        assert_eq!(self.log.count("no server reachable"), 0, "{:?}", self.log.loud());
    }
}

/// An application requests the list of services again and again, and every request fails. Returns the number of
/// registrations.
async fn a_list_of_services_that_cannot_be_had_costs_no_beat(
    interval: Duration,
    fault: impl Fn(&EmbeddedServer),
) -> u64 {
    let server = strict_server();
    let (logger, log) = logger();
    let registry = start(
        config(&server)
            .request_timeout(REQUEST_TIMEOUT)
            .operation_timeout(ms(1000))
            .poll_interval(ms(60_000), ms(60_000))
            .logger(logger),
    );
    let limit = interval + LONGEST_PAUSE;
    let beating = RegisterInstance::new("orders", IP, 80)
        .metadata(HEART_BEAT_INTERVAL, interval.as_millis().to_string())
        .metadata(HEART_BEAT_TIMEOUT, limit.as_millis().to_string())
        .metadata(IP_DELETE_TIMEOUT, "30000");
    ask(&registry, beating).await.unwrap();
    let outages = Outages::watch(&registry, log).await;
    server.faults().only_for(&[Operation::ListServices]);
    fault(&server);
    let asking = keep_asking(ms(3000), 4, async |number| {
        ask(&registry, ListServices::new(1, 10).group(format!("group-{number}"))).await.unwrap_err()
    });
    let (longest, ()) = watch(&server, 1, asking).await;
    assert!(longest < limit, "{longest:?}");
    outages.assert_none();
    let registrations = server.counters().requests_for(Operation::Register);
    server.faults().clear();
    shut_down(&registry).await;
    registrations
}

#[actix::test]
async fn a_list_of_services_that_hangs_costs_no_beat() {
    let hang = |server: &EmbeddedServer| server.faults().hang(true);
    let registrations = a_list_of_services_that_cannot_be_had_costs_no_beat(INTERVAL, hang).await;
    assert_eq!(registrations, 1, "nothing is registered again");
}

/// Between two beats the server answers no request, so it may seem to be down and to have restarted.
#[actix::test]
async fn a_list_of_services_that_hangs_from_beat_to_beat_costs_no_beat() {
    let hang = |server: &EmbeddedServer| server.faults().hang(true);
    a_list_of_services_that_cannot_be_had_costs_no_beat(ms(1000), hang).await;
}

/// Many requests fail between two beats.
#[actix::test]
async fn a_list_of_services_that_fails_costs_no_beat() {
    let fail = |server: &EmbeddedServer| server.faults().fail_share(1.0, 500);
    let registrations = a_list_of_services_that_cannot_be_had_costs_no_beat(ms(3000), fail).await;
    assert_eq!(registrations, 1, "nothing is registered again");
}

#[actix::test]
async fn a_list_of_services_that_is_unreadable_costs_no_beat() {
    let spoil = |server: &EmbeddedServer| server.faults().spoil_share(1.0, Spoilt::Html);
    let registrations = a_list_of_services_that_cannot_be_had_costs_no_beat(ms(3000), spoil).await;
    assert_eq!(registrations, 1, "nothing is registered again");
}

/// Three concurrent reads of an own instance fail.
async fn reads_of_an_own_instance_that_fail_cost_it_no_beat(fault: impl Fn(&EmbeddedServer)) {
    let server = strict_server();
    let (logger, log) = logger();
    let registry = start(config(&server).request_timeout(REQUEST_TIMEOUT).operation_timeout(ms(1000)).logger(logger));
    ask(&registry, instance(80)).await.unwrap();
    let outages = Outages::watch(&registry, log).await;
    server.faults().only_for(&[Operation::Get]);
    fault(&server);
    let reads = join_all((0..3).map(|_| ask(&registry, GetInstance::new("orders", IP, 80))));
    let (longest, read) = watch(&server, 1, reads).await;
    assert!(read.iter().all(|read| read.as_ref().is_err_and(Error::is_retryable)), "{read:?}");
    assert!(longest < LONGEST_PAUSE, "{longest:?}");
    outages.assert_none();
    server.faults().clear();
    shut_down(&registry).await;
}

#[actix::test]
async fn reads_of_an_own_instance_that_are_answered_500_cost_it_no_beat() {
    reads_of_an_own_instance_that_fail_cost_it_no_beat(|server| server.faults().fail_share(1.0, 500)).await;
}

#[actix::test]
async fn reads_of_an_own_instance_that_hang_cost_it_no_beat() {
    reads_of_an_own_instance_that_fail_cost_it_no_beat(|server| server.faults().hang(true)).await;
}

/// The beats of one instance are always answered 500, those of the others are not.
#[actix::test]
async fn an_instance_that_the_server_cannot_serve_costs_the_others_no_beat() {
    let fake = Fake::start(|seen| match port_of(seen) {
        Some(66) => {
            // Fails just before the others beat, so that a pause after the failure would delay them.
            thread::sleep(ms(170));
            Answer::Text(500, "text/plain", "caused: no leader!;".into())
        }
        _ => usual_at(INTERVAL, seen),
    });
    let (logger, log) = logger();
    let registry = start(config_at(&fake.server_address()).request_timeout(ms(500)).logger(logger));
    ask(&registry, instance(66).when_reachable()).await.unwrap();
    join_all((1..=5).map(|port| ask(&registry, instance(port))))
        .await
        .into_iter()
        .for_each(|answer| drop(answer.unwrap()));
    let outages = Outages::watch(&registry, log).await;
    // Time for many failures.
    actix_rt::time::sleep(ms(2500)).await;
    for port in 1..=5 {
        let longest = longest_pause(&fake, port);
        assert!(longest < LONGEST_PAUSE, "{port}: {longest:?}");
        // A failed beat would cause a second registration.
        let seen = fake.seen();
        let registrations = seen.iter().filter(|seen| seen.method == "POST" && port_of(seen) == Some(port)).count();
        assert_eq!(registrations, 1, "{port}");
    }
    outages.assert_none();
}

/// The answers of Nacos to instances that beat at `interval`.
fn usual_at(interval: Duration, seen: &Seen) -> Answer {
    if seen.path() != "/nacos/v1/ns/instance/beat" {
        return Answer::usual(seen);
    }
    let interval = interval.as_millis();
    Answer::json(format!(r#"{{"clientBeatInterval":{interval},"code":10200,"lightBeatEnabled":true}}"#))
}

/// Returns the port of the instance that a request is about.
fn port_of(seen: &Seen) -> Option<u16> {
    seen.parameter("port")?.parse().ok()
}

/// Whether the request keeps an ephemeral instance alive: a registration or a beat.
fn is_sign_of_life(seen: &Seen) -> bool {
    (seen.method == "POST" && seen.path() == "/nacos/v1/ns/instance") || seen.path() == "/nacos/v1/ns/instance/beat"
}

/// Returns the longest time without a beat or registration, including the time since the last one.
fn longest_pause(fake: &Fake, port: u16) -> Duration {
    let seen = fake.seen();
    let signs = seen.iter().filter(|seen| is_sign_of_life(seen) && port_of(seen) == Some(port)).map(|seen| seen.at);
    let moments: Vec<_> = signs.chain([Instant::now()]).collect();
    moments.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(Duration::MAX)
}

/// A server that closes an idle connection at the moment of a request looks like this.
#[actix::test]
async fn a_request_whose_connection_breaks_is_no_outage() {
    let breaks = Arc::new(AtomicBool::new(false));
    let next = breaks.clone();
    let fake = Fake::start(move |seen| {
        let is_beat = seen.path() == "/nacos/v1/ns/instance/beat";
        if is_beat && next.swap(false, Ordering::AcqRel) {
            return Answer::Close;
        }
        usual_at(INTERVAL, seen)
    });
    let (logger, log) = logger();
    let registry = start(config_at(&fake.server_address()).logger(logger));
    join_all((1..=5).map(|port| ask(&registry, instance(port))))
        .await
        .into_iter()
        .for_each(|answer| drop(answer.unwrap()));
    let outages = Outages::watch(&registry, log).await;
    for _ in 0..5 {
        breaks.store(true, Ordering::Release);
        until("a beat's connection broke", || !breaks.load(Ordering::Acquire)).await;
        // Each instance beats once more.
        actix_rt::time::sleep(2 * INTERVAL).await;
    }
    let is_registration = |seen: &&Seen| seen.method == "POST" && is_sign_of_life(seen);
    let registrations = fake.seen().iter().filter(is_registration).count();
    // An instance whose beat got no answer may be registered again; the others must not.
    assert!(registrations <= 5 + 5, "{registrations}");
    assert!((1..=5).all(|port| longest_pause(&fake, port) < LONGEST_PAUSE));
    outages.assert_none();
}

#[actix::test]
async fn a_request_whose_connections_always_break_is_no_outage() {
    let fake = Fake::start(|seen| match seen.path() {
        "/nacos/v1/ns/service/list" => Answer::Close,
        _ => usual_at(INTERVAL, seen),
    });
    let registry = start(config_at(&fake.server_address()).operation_timeout(ms(1000)));
    ask(&registry, instance(80)).await.unwrap();
    for _ in 0..5 {
        ask(&registry, ListServices::new(1, 10)).await.unwrap_err();
        // The instance beats once more.
        actix_rt::time::sleep(2 * INTERVAL).await;
    }
    assert_eq!(registrations(&fake), 1);
}

#[actix::test]
async fn two_servers_that_each_fail_at_one_operation_do_not_alternate() {
    let fails_at = |path| {
        Fake::start(move |seen| match seen.path() == path {
            true => Answer::Text(500, "text/plain", "no".into()),
            false => usual_at(INTERVAL, seen),
        })
    };
    let (first, second) = (fails_at("/nacos/v1/ns/instance/beat"), fails_at("/nacos/v1/ns/instance/list"));
    let registry = start(config_at(&format!("{},{}", first.server_address(), second.server_address())));
    join_all((1..=2).map(|port| ask(&registry, instance(port))))
        .await
        .into_iter()
        .for_each(|registered| drop(registered.unwrap()));
    let views = join_all(["orders", "ledger"].map(|service| ask(&registry, Discover::new(service)))).await;
    // Each change of server would register both instances again.
    actix_rt::time::sleep(10 * INTERVAL).await;
    let sent = registrations(&first) + registrations(&second);
    assert!(sent <= 2 + 2 * 2, "{sent}");
    assert!(views.iter().all(|view| view.as_ref().is_ok_and(|view| !view.is_stale())));
}

#[actix::test]
async fn failing_at_one_operation_is_not_reported_as_a_failover() {
    let fake = Fake::start(|seen| match seen.path() {
        "/nacos/v1/ns/service/list" => Answer::Text(500, "text/plain", "no".into()),
        _ => usual_at(INTERVAL, seen),
    });
    let (logger, log) = logger();
    let registry = start(config_at(&fake.server_address()).operation_timeout(ms(1000)).logger(logger));
    ask(&registry, instance(80)).await.unwrap();
    for group in ["a", "b", "c"] {
        ask(&registry, ListServices::new(1, 10).group(group)).await.unwrap_err();
    }
    let beats = || fake.seen().iter().filter(|seen| is_sign_of_life(seen)).count();
    let so_far = beats();
    until("it beats", || beats() > so_far + 1).await;
    assert_eq!(log.count("another server answers"), 0, "{:?}", log.loud());
}

fn registrations(fake: &Fake) -> usize {
    fake.seen().iter().filter(|seen| seen.method == "POST" && is_sign_of_life(seen)).count()
}

/// Behind a proxy, nothing is registered again, and listeners are notified of a removal as without a proxy.
async fn idle_ends_of_a_proxy_are_no_outage(idle: Range<Duration>) {
    let server = strict_server();
    let proxy = Proxy::start(server.address(), idle);
    let registry = start(config_at(&proxy.server_address()));
    let other = start(config(&server));
    join_all((1..=2).map(|port| ask(&registry, instance(port))))
        .await
        .into_iter()
        .for_each(|answer| drop(answer.unwrap()));
    ask(&registry, RegisterInstance::new("ledger", IP, 80).ephemeral(false)).await.unwrap();
    ask(&other, instance(3)).await.unwrap();
    let view = ask(&registry, Discover::new("orders")).await.unwrap();
    until("all are listed", || view.instances().len() == 3).await;
    // Both unused connections of the pool and the watched ones, one after the other.
    until("idle connections were closed", || proxy.idle_ends() >= 4).await;
    ask(&other, DeregisterInstance::new("orders", IP, 3)).await.unwrap();
    let began = Instant::now();
    until("the view shows it", || view.instances().len() == 2).await;
    // The promise is the poll interval and 1.5 s. After an outage the instance would be withheld for 15 s.
    assert!(began.elapsed() < ms(5000), "{:?}", began.elapsed());
    assert_eq!(server.counters().requests_for(Operation::Register), 4, "nothing was registered again");
    shut_down(&registry).await;
    shut_down(&other).await;
}

#[actix::test]
async fn a_proxy_that_closes_idle_connections_is_no_outage() {
    idle_ends_of_a_proxy_are_no_outage(ms(1200)..ms(1200)).await;
}

#[actix::test]
async fn a_proxy_that_closes_idle_connections_at_any_age_is_no_outage() {
    idle_ends_of_a_proxy_are_no_outage(ms(1100)..ms(2500)).await;
}

/// A cluster in which each node is responsible for some instances. While a node is down, the others answer 500 for its
/// instances, until they have noticed that it is down.
struct Cluster {
    nodes: Vec<Fake>,
    state: Arc<Mutex<ClusterState>>,
}

#[derive(Default)]
struct ClusterState {
    down: Option<u16>,
    is_noticed: bool,
    /// When each instance last beat or was registered, by port.
    last_signs: HashMap<u16, Instant>,
    longest_pause: Duration,
}

impl Cluster {
    fn start(size: u16) -> Self {
        let state = Arc::new(Mutex::new(ClusterState::default()));
        let node = |number| {
            let state = state.clone();
            Fake::start(move |seen| state.lock().unwrap().answer(size, number, seen))
        };
        Cluster { nodes: (0..size).map(node).collect(), state }
    }

    /// Stops one node after the other. The others do not notice that for most of the time.
    async fn restart_node_by_node(&self) {
        for down in 0..self.nodes.len() as u16 {
            self.set(Some(down), false);
            actix_rt::time::sleep(ms(700)).await;
            self.set(Some(down), true);
            actix_rt::time::sleep(ms(300)).await;
            self.set(None, false);
            actix_rt::time::sleep(ms(500)).await;
        }
    }

    fn set(&self, down: Option<u16>, is_noticed: bool) {
        let mut state = self.state.lock().unwrap();
        (state.down, state.is_noticed) = (down, is_noticed);
    }

    async fn until_all_beat(&self) {
        let is_recent = |last: &Instant| last.elapsed() < ms(1500);
        until("all beat", || self.state.lock().unwrap().last_signs.values().all(is_recent)).await;
    }

    /// Returns the longest time that an instance went without a beat or registration.
    fn longest_pause(&self) -> Duration {
        let state = self.state.lock().unwrap();
        state.last_signs.values().map(Instant::elapsed).fold(state.longest_pause, Duration::max)
    }
}

impl ClusterState {
    fn answer(&mut self, size: u16, node: u16, seen: &Seen) -> Answer {
        if self.down == Some(node) {
            return Answer::Close;
        }
        let Some(port) = port_of(seen).filter(|_| is_sign_of_life(seen)) else { return Answer::usual(seen) };
        if self.down == Some(port % size) && !self.is_noticed {
            let text = "caused: org.apache.http.conn.HttpHostConnectException: Connect to 127.0.0.1:8848 failed;";
            return Answer::Text(500, "text/plain", text.into());
        }
        if let Some(before) = self.last_signs.insert(port, Instant::now()) {
            self.longest_pause = self.longest_pause.max(before.elapsed());
        }
        usual_at(ms(1000), seen)
    }
}

/// A client with these instances that uses `servers` nodes of the cluster and watches the list while the view exists.
async fn client_of(cluster: &Cluster, servers: usize, ports: &[u16]) -> (Addr<Registry>, ServiceView, Outages) {
    let addresses: Vec<_> = cluster.nodes.iter().take(servers).map(Fake::server_address).collect();
    let (logger, log) = logger();
    let config = config_at(&addresses.join(",")).request_timeout(ms(500)).poll_interval(ms(2000), ms(2000));
    let registry = start(config.logger(logger));
    let register = |port: &u16| RegisterInstance::new("orders", IP, *port).heartbeat_interval(ms(1000));
    let registered = join_all(ports.iter().map(|port| ask(&registry, register(port)))).await;
    registered.into_iter().for_each(|answer| drop(answer.unwrap()));
    let view = ask(&registry, Discover::new("orders")).await.unwrap();
    view.ready().await.unwrap();
    let outages = Outages::watch(&registry, log).await;
    (registry, view, outages)
}

#[actix::test]
async fn a_cluster_that_restarts_node_by_node_loses_nothing() {
    let cluster = Cluster::start(3);
    let ports: Vec<_> = (1..=30).collect();
    let (_registry, _view, outages) = client_of(&cluster, 3, &ports).await;
    cluster.restart_node_by_node().await;
    cluster.until_all_beat().await;
    // Servers remove an instance after six intervals. Here each instance is without a server for less than one.
    assert!(cluster.longest_pause() < ms(5000), "{:?}", cluster.longest_pause());
    outages.assert_none();
}

#[actix::test]
async fn a_node_that_serves_lists_but_fails_for_all_own_instances_counts_as_reachable() {
    let cluster = Cluster::start(3);
    // All instances belong to one node, and the client uses another one.
    let ports: Vec<_> = (1..=30).step_by(3).collect();
    let (_registry, _view, outages) = client_of(&cluster, 1, &ports).await;
    cluster.set(Some(1), false);
    actix_rt::time::sleep(ms(3000)).await;
    cluster.set(Some(1), true);
    cluster.until_all_beat().await;
    assert!(cluster.longest_pause() < ms(6000), "{:?}", cluster.longest_pause());
    outages.assert_none();
}

/// Counts the concurrent requests at a server.
#[derive(Default)]
struct UnderWay {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl UnderWay {
    fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        let now = self.now.fetch_add(1, Ordering::AcqRel) + 1;
        self.most.fetch_max(now, Ordering::AcqRel);
        let result = work();
        self.now.fetch_sub(1, Ordering::AcqRel);
        result
    }

    fn most(&self) -> usize {
        self.most.load(Ordering::Acquire)
    }
}

/// An application sends far more slow requests than there are connections. It gets all connections but the reserved
/// ones.
async fn slow_requests_delay_no_beat_and_no_registration(connections: usize, of_them_reserved: usize) {
    let (all, slow) = (Arc::new(UnderWay::default()), Arc::new(UnderWay::default()));
    let (count_all, count_slow) = (all.clone(), slow.clone());
    let fake = Fake::start(move |seen| {
        count_all.during(|| match seen.parameter("serviceName") {
            Some(name) if name.contains("slow") => count_slow.during(|| {
                thread::sleep(ms(400));
                Answer::usual(seen)
            }),
            _ => usual_at(INTERVAL, seen),
        })
    });
    let registry = start(config_at(&fake.server_address()).max_connections(connections).operation_timeout(ms(20_000)));
    ask(&registry, instance(80)).await.unwrap();
    // A request that waited behind all of these would wait for over 3 s.
    let side_by_side = 8 * connections;
    let asking = keep_asking(ms(2500), side_by_side, async |_| {
        ask(&registry, ListInstances::new("slow")).await.unwrap();
    });
    let registering = async {
        // By now all connections are in use.
        actix_rt::time::sleep(ms(500)).await;
        let began = Instant::now();
        ask(&registry, instance(81)).await.unwrap();
        began.elapsed()
    };
    let ((), registered_after) = join(asking, registering).await;
    assert!(registered_after < LONGEST_PAUSE, "{registered_after:?}");
    assert!(longest_pause(&fake, 80) < LONGEST_PAUSE, "{:?}", longest_pause(&fake, 80));
    // With `max_connections(1)`, one more connection is opened.
    assert_eq!(slow.most(), connections.max(of_them_reserved + 1) - of_them_reserved);
    assert!(all.most() <= connections.max(of_them_reserved + 1), "{}", all.most());
}

#[actix::test]
async fn slow_requests_on_the_only_connection_delay_no_beat_and_no_registration() {
    slow_requests_delay_no_beat_and_no_registration(1, 1).await;
}

#[actix::test]
async fn slow_requests_on_all_connections_delay_no_beat_and_no_registration() {
    slow_requests_delay_no_beat_and_no_registration(8, 2).await;
}

/// So many requests of an application wait for its only connection that the last one would wait for 12 s.
async fn behind_slow_requests<T>(work: impl AsyncFnOnce(Addr<Registry>, &Fake) -> T) -> T {
    let fake = Fake::start(|seen| {
        if seen.path() == "/nacos/v1/ns/service/list" {
            thread::sleep(ms(400));
        }
        usual_at(INTERVAL, seen)
    });
    let config = config_at(&fake.server_address()).max_connections(2).request_timeout(REQUEST_TIMEOUT);
    let registry = start(config.operation_timeout(ms(1000)));
    for _ in 0..30 {
        registry.do_send(ListServices::new(1, 10));
    }
    work(registry, &fake).await
}

/// The client reads one instance from each server, to find out whether the server is r-nacos.
#[actix::test]
async fn reading_an_own_instance_behind_slow_requests_delays_no_beat() {
    behind_slow_requests(async |registry, fake| {
        ask(&registry, instance(80)).await.unwrap();
        actix_rt::time::sleep(ms(2500)).await;
        assert!(longest_pause(fake, 80) < LONGEST_PAUSE, "{:?}", longest_pause(fake, 80));
    })
    .await;
}

#[actix::test]
async fn a_modification_behind_slow_requests_ends_at_its_deadline() {
    behind_slow_requests(async |registry, _| {
        let began = Instant::now();
        let outcome = ask(&registry, ModifyInstance::new("orders", IP, 80).weight(2.0)).await;
        assert!(matches!(outcome, Err(Error::Timeout { .. })), "{outcome:?}");
        assert!(began.elapsed() < ms(3000), "{:?}", began.elapsed());
    })
    .await;
}

#[actix::test]
async fn a_shutdown_behind_slow_requests_deregisters() {
    behind_slow_requests(async |registry, _| {
        ask(&registry, instance(80)).await.unwrap();
        let report = ask(&registry, Shutdown::default().deadline(ms(4000))).await.unwrap();
        assert_eq!((report.deregistered, report.failed), (1, vec![]));
    })
    .await;
}

/// Only registering, beating and listing decide which server is in use.
async fn another_servers_answer_to_other_operations_changes_nothing(fault: impl Fn(&EmbeddedServer)) {
    let (servers, addresses) = servers(2);
    let registry = start(config_at(&addresses).request_timeout(REQUEST_TIMEOUT).operation_timeout(ms(1000)));
    ask(&registry, instance(80)).await.unwrap();
    let used = in_use(&registry, &servers).await;
    used.faults().only_for(&[Operation::ListServices, Operation::Get]);
    fault(used);
    let asking = keep_asking(ms(1500), 4, async |number| {
        let group = format!("group-{number}");
        // The other server answers this.
        ask(&registry, ListServices::new(1, 10).group(group)).await.unwrap();
        let _ = ask(&registry, GetInstance::new("orders", IP, 9000 + number as u16)).await;
    });
    let (longest, ()) = watch(used, 1, asking).await;
    assert!(longest < LONGEST_PAUSE, "{longest:?}");
    assert_eq!(in_use(&registry, &servers).await.address(), used.address());
    let registrations = servers.iter().map(|server| server.counters().requests_for(Operation::Register)).sum::<u64>();
    assert_eq!(registrations, 1, "there is no other server to register with");
    used.faults().clear();
    shut_down(&registry).await;
}

#[actix::test]
async fn another_server_that_answers_other_operations_is_not_in_use() {
    another_servers_answer_to_other_operations_changes_nothing(|server| server.faults().fail_share(1.0, 500)).await;
}

#[actix::test]
async fn another_server_that_answers_other_operations_in_time_is_not_in_use() {
    another_servers_answer_to_other_operations_changes_nothing(|server| server.faults().hang(true)).await;
}
