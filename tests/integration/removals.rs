//! A deregistered instance leaves every view within a second, whatever happened to the servers before.
//!
//! Each test waits for at most five times the promised time; `cargo bench --bench reliability -- time_to_remove`
//! measures the times themselves.

use std::{
    net::UdpSocket,
    time::{Duration, Instant},
};

use actix::Addr;
use actix_nacos::{
    embedded::{Dialect, EmbeddedServer},
    Config, ConnectionState, DeregisterInstance, Discover, GetStatus, Operation, PushConfig, RegisterInstance,
    Registry, ServiceView, Shutdown, Source, Subscribe,
};
use futures_util::future::join_all;

use crate::{
    scenarios::{
        rolling_restart,
        time_to_remove::{self, Shape, Sizes},
    },
    support::{
        ask, config_at, eventually, in_use, listed_ports, ms, ports, ports_of, registry, server, servers, shut_down,
        start, unix_millis, until, Folder, News, IP,
    },
};

/// The time within which a view shows a removal that is pushed.
const PUSHED_WITHIN: Duration = Duration::from_secs(1);
/// Slow machines get this many times the promised time.
const LENIENCE: u32 = 5;

fn register(port: u16) -> RegisterInstance {
    RegisterInstance::new("orders", IP, port).heartbeat_interval(ms(1000))
}

async fn register_all(registry: &Addr<Registry>, ports: impl IntoIterator<Item = u16>) {
    let registered = join_all(ports.into_iter().map(|port| ask(registry, register(port)))).await;
    registered.into_iter().for_each(|answer| drop(answer.unwrap()));
}

async fn deregister(registry: &Addr<Registry>, port: u16) {
    ask(registry, DeregisterInstance::new("orders", IP, port)).await.unwrap();
}

/// Polls rarely, and receives pushes.
fn pushed(server: &EmbeddedServer) -> Config {
    config_at(&server.server_address()).poll_interval(ms(60_000), ms(60_000)).push(PushConfig::default())
}

/// Polls twice a second, and receives pushes.
fn pushed_and_polled(addresses: &str) -> Config {
    config_at(addresses).poll_interval(ms(500), ms(500)).push(PushConfig::default())
}

/// Waits until the view shows this number of instances.
async fn view_of(registry: &Addr<Registry>, instances: usize) -> ServiceView {
    let view = ask(registry, Discover::new("orders")).await.unwrap();
    until("all are listed", || view.instances().len() == instances).await;
    view
}

/// A Registry with `instances` instances, and another one with a view of them.
async fn owner_and_caller(
    server: &EmbeddedServer,
    caller: Config,
    instances: u16,
) -> (Addr<Registry>, Addr<Registry>, ServiceView) {
    let (owner, caller) = (registry(server), start(caller));
    register_all(&owner, 1..=instances).await;
    let view = view_of(&caller, instances.into()).await;
    (owner, caller, view)
}

/// Checks that the view shows these ports within the time.
async fn shows_in_time(view: &ServiceView, wanted: &[u16], bound: Duration) {
    let began = Instant::now();
    until("the view shows it", || ports_of(&view.instances()) == wanted).await;
    let took = began.elapsed();
    assert!(took <= bound * LENIENCE, "shown after {took:?}, promised within {bound:?}");
}

/// Waits for a poll that was sent after now.
async fn polled_again(registry: &Addr<Registry>) {
    let polls = async || ask(registry, GetStatus).await.unwrap().subscriptions[0].polls;
    // The next poll may already be under way.
    let wanted = polls().await + 2;
    eventually("it is polled again", async || (polls().await >= wanted).then_some(())).await;
}

/// A server that closes idle connections early and at random ages, as proxies do. It forgets nothing.
fn server_that_closes_idle_connections() -> EmbeddedServer {
    let server = server();
    server.faults().random_idle_timeout(ms(1500)..=ms(3000));
    server
}

// Without a fault.

async fn removed_after_idle_connections_were_closed(shape: Shape, closed: u64) {
    let server = server_that_closes_idle_connections();
    let (owner, caller, view) = owner_and_caller(&server, pushed(&server), shape.of).await;
    let before = server.counters().connections;
    // The client opens a watched connection again when it was closed.
    until("idle connections were closed", || server.counters().connections >= before + closed).await;
    join_all((1..=shape.leaving).map(|port| deregister(&owner, port))).await;
    let left: Vec<_> = (shape.leaving + 1..=shape.of).collect();
    shows_in_time(&view, &left, PUSHED_WITHIN).await;
    shut_down(&caller).await;
    shut_down(&owner).await;
}

#[actix::test]
async fn the_last_instance_leaves_a_pushed_view_at_once() {
    removed_after_idle_connections_were_closed(Shape { leaving: 1, of: 1 }, 4).await;
}

#[actix::test]
async fn two_of_three_instances_leave_a_pushed_view_at_once() {
    removed_after_idle_connections_were_closed(Shape { leaving: 2, of: 3 }, 4).await;
}

#[actix::test]
async fn three_of_five_instances_leave_a_pushed_view_at_once() {
    removed_after_idle_connections_were_closed(Shape { leaving: 3, of: 5 }, 4).await;
}

#[actix::test]
async fn one_of_ten_instances_leaves_the_view_of_a_process_that_has_just_started_at_once() {
    removed_after_idle_connections_were_closed(Shape { leaving: 1, of: 10 }, 2).await;
}

#[actix::test]
async fn a_gateway_that_has_just_started_loses_no_request_in_a_rolling_restart() {
    let sizes = rolling_restart::Sizes { rate: 100, before: ms(3000), drain: ms(2000), between: ms(500) };
    let calls = rolling_restart::rolling_restart(&server_that_closes_idle_connections(), &sizes).await;
    assert!(calls.failed.is_empty(), "{} of {}: {:?}", calls.failed.len(), calls.requests, calls.failed.first());
    assert!(calls.requests > 500, "{}", calls.requests);
}

/// A short form of the scenario that runs in every build.
#[actix::test]
async fn removals_are_seen_within_a_poll_interval_where_nothing_is_pushed() {
    let server = EmbeddedServer::builder().dialect(Dialect::V3_2).idle_timeout(ms(1500)).start().unwrap();
    let shapes = time_to_remove::SHAPES.to_vec();
    let sizes = Sizes { shapes, services: 3, rest: ms(4000), spread: ms(1000), poll_interval: ms(1000) };
    let figures = time_to_remove::time_to_remove(Config::new(server.server_address()), &sizes).await;
    assert_eq!(figures.polled_every, Some(ms(1000)));
    assert!(figures.longest() <= figures.bound() * LENIENCE, "{figures:?}");
}

// After a fault.

#[actix::test]
async fn one_failed_poll_delays_no_removal() {
    let server = server();
    let (owner, caller, view) = owner_and_caller(&server, pushed_and_polled(&server.server_address()), 10).await;

    let lists = || server.counters().requests_for(Operation::List);
    let before = lists();
    server.faults().only_for(&[Operation::List]);
    server.faults().fail_share(1.0, 503);
    until("a poll has failed", || lists() > before).await;
    server.faults().clear();
    polled_again(&caller).await;

    deregister(&owner, 1).await;
    shows_in_time(&view, &(2..=10).collect::<Vec<_>>(), PUSHED_WITHIN).await;
    shut_down(&caller).await;
    shut_down(&owner).await;
}

#[actix::test]
async fn a_removal_after_a_restart_is_believed_once_a_list_has_had_the_instance_again() {
    let server = server();
    let (owner, caller, view) = owner_and_caller(&server, pushed_and_polled(&server.server_address()), 4).await;

    server.restart_empty().expect("the same port");
    until("all are back", || ports(&server, "orders") == [1, 2, 3, 4]).await;
    until("the lists are current", || !view.is_stale()).await;
    polled_again(&caller).await;
    assert_eq!(ports_of(&view.instances()), [1, 2, 3, 4]);

    deregister(&owner, 1).await;
    shows_in_time(&view, &[2, 3, 4], PUSHED_WITHIN).await;
    shut_down(&caller).await;
    shut_down(&owner).await;
}

#[actix::test]
async fn cached_instances_that_the_first_list_of_a_server_lacks_are_gone_with_that_list() {
    let (server, folder) = (server(), Folder::new());
    let caching = || config_at(&server.server_address()).cache_dir(&folder.0);
    let owner = registry(&server);
    register_all(&owner, 1..=3).await;
    let earlier = start(caching());
    view_of(&earlier, 3).await;
    until("the list is saved", || folder.cached_list().is_some()).await;
    shut_down(&earlier).await;
    for port in [1, 2] {
        deregister(&owner, port).await;
    }

    server.faults().refuse_connections();
    let caller = start(caching());
    let mut news = News::listen();
    ask(&caller, Subscribe::new("orders", news.recipient())).await.unwrap();
    let cached = news.next().await;
    assert_eq!((cached.source, listed_ports(&cached)), (Source::Cache, vec![1, 2, 3]));
    server.faults().accept_connections();
    let first = news.next().await;
    assert_eq!(listed_ports(&first), [3], "the first list from a server: {first:?}");
    shut_down(&caller).await;
    shut_down(&owner).await;
}

// Pushes that arrive too late or come from another server.

/// Encodes a push of these instances, written at `millis` by the server's clock.
fn push_of(ports: &[u16], millis: u128) -> Vec<u8> {
    let host = |port: &u16| {
        serde_json::json!({"ip": IP, "port": port, "weight": 1.0, "healthy": true, "enabled": true, "ephemeral": true,
            "clusterName": "DEFAULT", "serviceName": "DEFAULT_GROUP@@orders", "metadata": {}})
    };
    let list = serde_json::json!({
        "name": "DEFAULT_GROUP@@orders", "groupName": "DEFAULT_GROUP", "clusters": "", "cacheMillis": 10000,
        "hosts": ports.iter().map(host).collect::<Vec<_>>(), "lastRefTime": millis, "checksum": "",
    });
    serde_json::json!({"type": "dom", "data": list.to_string(), "lastRefTime": 1}).to_string().into_bytes()
}

/// Sends the datagram from the address that all servers of these tests have.
fn send(datagram: &[u8], port: u16) {
    UdpSocket::bind("127.0.0.1:0").unwrap().send_to(datagram, ("127.0.0.1", port)).unwrap();
}

async fn push_port(registry: &Addr<Registry>) -> u16 {
    eventually("the socket is open", async || Some(ask(registry, GetStatus).await.ok()?.push?.port)).await
}

fn free_udp_port() -> std::net::SocketAddr {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A Registry with its own instance, 80. The instance 81 has been deregistered.
struct Watched {
    registry: Addr<Registry>,
    news: News,
    view: ServiceView,
    /// The push port before the fault.
    port: u16,
    /// A push that the server wrote while 81 was registered, and that arrives late.
    late: Vec<u8>,
}

impl Watched {
    async fn at(addresses: &str, push: PushConfig) -> Self {
        // With long timeouts, a poll that hangs for a while does not fail.
        let config = pushed_and_polled(addresses).push(push).request_timeout(ms(15_000)).operation_timeout(ms(15_000));
        let registry = start(config);
        register_all(&registry, [80, 81]).await;
        let view = view_of(&registry, 2).await;
        let mut news = News::listen();
        ask(&registry, Subscribe::new("orders", news.recipient())).await.unwrap();
        let late = push_of(&[80, 81], unix_millis());
        deregister(&registry, 81).await;
        until("81 is gone", || ports_of(&view.instances()) == [80]).await;
        news.until(|news| listed_ports(news) == [80]).await;
        let port = push_port(&registry).await;
        Watched { registry, news, view, port, late }
    }

    /// Sends a push whose list contains 81, and checks that it is not believed.
    async fn is_not_fooled(&mut self, push: &[u8]) {
        send(push, self.port);
        // A datagram that is dropped leaves no trace to wait for. A push that is believed shows at once.
        actix_rt::time::sleep(ms(200)).await;
        assert_eq!(ports_of(&self.view.instances()), [80]);
        let told = self.news.waiting();
        assert!(told.iter().all(|news| news.added.iter().all(|added| added.port != 81)), "{told:?}");
    }
}

/// Sends the late push before the first poll after the restart is answered, and again after that.
async fn a_push_of_before_a_restart(push: PushConfig) {
    let server = server();
    let mut watched = Watched::at(&server.server_address(), push).await;
    let late = watched.late.clone();

    server.faults().only_for(&[Operation::List]);
    server.faults().hang(true);
    server.restart_empty().expect("the same port");
    until("the restart was noticed", || ports(&server, "orders") == [80]).await;
    watched.is_not_fooled(&late).await;
    server.faults().hang(false);
    polled_again(&watched.registry).await;
    watched.is_not_fooled(&late).await;
    polled_again(&watched.registry).await;
    watched.is_not_fooled(&late).await;
    shut_down(&watched.registry).await;
}

#[actix::test]
async fn a_push_from_before_a_restart_revives_no_instance() {
    a_push_of_before_a_restart(PushConfig::default()).await;
}

#[actix::test]
async fn a_push_from_before_a_restart_revives_no_instance_where_the_push_port_is_fixed() {
    a_push_of_before_a_restart(PushConfig::default().bind(free_udp_port())).await;
}

/// Stops the server in use. Returns the server that takes over; its lists hang.
async fn another_takes_over<'a>(watched: &Watched, servers: &'a [EmbeddedServer]) -> &'a EmbeddedServer {
    let left = in_use(&watched.registry, servers).await;
    let next = servers.iter().find(|server| server.address() != left.address()).unwrap();
    next.faults().only_for(&[Operation::List]);
    next.faults().hang(true);
    left.faults().refuse_connections();
    until("the instance is registered at the other server", || ports(next, "orders") == [80]).await;
    let is_left = async || (in_use(&watched.registry, servers).await.address() == next.address()).then_some(());
    eventually("the other server is in use", is_left).await;
    next
}

#[actix::test]
async fn a_push_from_the_previous_server_is_not_believed_although_both_have_one_address() {
    let (servers, addresses) = servers(2);
    let mut watched = Watched::at(&addresses, PushConfig::default()).await;
    // The clock of the previous server is a little ahead. A push that is far ahead is not believed anyway.
    let of_the_left = || push_of(&[80, 81], unix_millis() + 500);
    let next = another_takes_over(&watched, &servers).await;
    watched.is_not_fooled(&of_the_left()).await;
    next.faults().hang(false);
    polled_again(&watched.registry).await;
    watched.is_not_fooled(&of_the_left()).await;
    shut_down(&watched.registry).await;
}

#[actix::test]
async fn a_server_that_is_not_in_use_is_not_asked_for_pushes() {
    let (servers, addresses) = servers(2);
    let registry = start(pushed_and_polled(&addresses));
    register_all(&registry, 1..=3).await;
    let view = view_of(&registry, 3).await;
    let used = in_use(&registry, &servers).await;
    let other = servers.iter().find(|server| server.address() != used.address()).unwrap();

    used.faults().only_for(&[Operation::List]);
    used.faults().fail_share(1.0, 503);
    until("the other server is polled", || other.counters().requests_for(Operation::List) > 0).await;
    used.faults().clear();
    polled_again(&registry).await;
    assert_eq!((used.subscribers("orders"), other.subscribers("orders")), (1, 0));
    assert_eq!(view.instances().len(), 3);
    shut_down(&registry).await;
}

#[actix::test]
async fn a_push_after_a_change_of_server_is_a_hint_until_the_first_poll_where_the_push_port_is_fixed() {
    let (servers, addresses) = servers(2);
    let mut watched = Watched::at(&addresses, PushConfig::default().bind(free_udp_port())).await;
    let of_the_left = watched.late.clone();
    let next = another_takes_over(&watched, &servers).await;
    watched.is_not_fooled(&of_the_left).await;
    next.faults().hang(false);
    polled_again(&watched.registry).await;
    watched.is_not_fooled(&of_the_left).await;
    shut_down(&watched.registry).await;
}

/// Whichever server sent the push: another one may be in use by now, and this one may have forgotten its instances.
#[actix::test]
async fn a_push_is_a_hint_while_no_server_answers() {
    let (servers, addresses) = servers(2);
    let mut watched = Watched::at(&addresses, PushConfig::default()).await;
    servers.iter().for_each(|server| server.faults().refuse_connections());
    // A list is stale after one poll that failed, which is no outage.
    let connection = async || ask(&watched.registry, GetStatus).await.unwrap().connection;
    let is_lost = async || (connection().await == ConnectionState::Lost).then_some(());
    eventually("the outage is noticed", is_lost).await;
    watched.is_not_fooled(&push_of(&[80, 81], unix_millis())).await;
    servers.iter().for_each(|server| server.faults().accept_connections());
    shut_down(&watched.registry).await;
}

// Load and order.

#[actix::test]
async fn an_instance_that_registers_after_a_restart_is_pushed() {
    let server = server();
    let caller = start(pushed(&server));
    register_all(&caller, [80]).await;
    let view = view_of(&caller, 1).await;
    server.restart_empty().expect("the same port");
    until("the restart was noticed", || ports(&server, "orders") == [80]).await;

    let other = registry(&server);
    register_all(&other, [81]).await;
    shows_in_time(&view, &[80, 81], ms(1500)).await;
    shut_down(&other).await;
    shut_down(&caller).await;
}

#[actix::test]
async fn a_restart_does_not_multiply_the_polls_of_services_whose_instances_are_gone() {
    const SERVICES: usize = 200;
    let (server, interval) = (server(), ms(3000));
    let owner = registry(&server);
    let service = |number: usize| format!("orders-{number}");
    let register = |number| ask(&owner, RegisterInstance::new(service(number), IP, 80));
    join_all((0..SERVICES).map(register)).await.into_iter().for_each(|answer| drop(answer.unwrap()));
    let caller = start(config_at(&server.server_address()).poll_interval(interval, interval));
    let discovered = join_all((0..SERVICES).map(|number| ask(&caller, Discover::new(service(number))))).await;
    let views: Vec<_> = discovered.into_iter().map(Result::unwrap).collect();
    until("all are listed", || views.iter().all(|view| view.instances().len() == 1)).await;

    // The owner ends while the server is down, so that its instances are not registered again.
    server.faults().refuse_connections();
    ask(&owner, Shutdown::default().deadline(ms(1))).await.unwrap();
    until("the outage is noticed", || views.iter().any(ServiceView::is_stale)).await;
    server.restart_empty().expect("the same port");
    let polls = polls_in_steps(&server, ms(250), interval * 2).await;
    assert!(views.iter().all(|view| view.instances().len() == 1), "they are held");
    let total: usize = polls.iter().sum();
    assert!(total <= 2 * 2 * SERVICES, "{total} polls in two intervals: {polls:?}");
    let most = polls.into_iter().max().unwrap();
    assert!(most <= SERVICES * 3 / 4, "{most} polls within a quarter of a second");
    shut_down(&caller).await;
}

/// Returns the number of polls in each step of this time.
async fn polls_in_steps(server: &EmbeddedServer, step: Duration, time: Duration) -> Vec<usize> {
    let lists = || server.counters().requests_for(Operation::List) as usize;
    let (began, mut counted, mut polls) = (actix_rt::time::Instant::now(), lists(), Vec::new());
    while began.elapsed() < time {
        actix_rt::time::sleep_until(began + step * (polls.len() as u32 + 1)).await;
        let now = lists();
        polls.push(now - std::mem::replace(&mut counted, now));
    }
    polls
}
