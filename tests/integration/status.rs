//! The status, the listeners of the connection state, and the log lines about the connection.

use actix::prelude::*;
use actix_nacos::{
    Config, ConnectionChanged, ConnectionState, DeregisterInstance, Discover, Error, GetStatus, ListInstances,
    ModifyInstance, Protocol, RegisterInstance, Registry, Subscribe, UnwatchConnection, WatchConnection,
    HEART_BEAT_INTERVAL,
};
use tokio::sync::mpsc;

use crate::support::{
    self, ask, config, config_at, eventually, in_use, ms, server, servers, shut_down, soon, start, until, News,
    PATIENCE,
};

/// Forwards the connection states that it receives.
struct Watcher(mpsc::UnboundedSender<ConnectionChanged>);

impl Watcher {
    fn begin() -> (Addr<Self>, mpsc::UnboundedReceiver<ConnectionChanged>) {
        let (tell, told) = mpsc::unbounded_channel();
        (Watcher(tell).start(), told)
    }
}

impl Actor for Watcher {
    type Context = Context<Self>;
}

impl Handler<ConnectionChanged> for Watcher {
    type Result = ();

    fn handle(&mut self, news: ConnectionChanged, _: &mut Context<Self>) {
        // An error means that the test has dropped the receiver.
        let _ = self.0.send(news);
    }
}

async fn watch(registry: &Addr<Registry>) -> mpsc::UnboundedReceiver<ConnectionChanged> {
    let (watcher, told) = Watcher::begin();
    ask(registry, WatchConnection::new(watcher.recipient())).await.unwrap();
    told
}

async fn next(told: &mut mpsc::UnboundedReceiver<ConnectionChanged>) -> ConnectionChanged {
    soon("news of the connection", told.recv()).await.expect("the watcher lives")
}

fn beating(port: u16) -> RegisterInstance {
    RegisterInstance::new("orders", "127.0.0.7", port).metadata(HEART_BEAT_INTERVAL, "100")
}

// The connection.

#[actix::test]
async fn the_loss_of_the_only_server_and_its_return_are_reported_once_each() {
    let server = server();
    let registry = start(config(&server));
    let mut told = watch(&registry).await;
    assert_eq!(next(&mut told).await.state, ConnectionState::Unknown);
    ask(&registry, beating(80)).await.unwrap();
    let connected = next(&mut told).await;
    assert_eq!((connected.state, connected.server), (ConnectionState::Connected, Some(server.server_address())));
    for _ in 0..2 {
        server.faults().refuse_connections();
        assert_eq!(next(&mut told).await.state, ConnectionState::Lost);
        server.faults().accept_connections();
        assert_eq!(next(&mut told).await.state, ConnectionState::Connected);
    }
    shut_down(&registry).await;
    assert!(told.try_recv().is_err());
}

#[actix::test]
async fn a_failover_is_reported_as_degraded_and_the_end_of_all_servers_as_lost() {
    let (servers, addresses) = servers(3);
    let registry = start(config_at(&addresses));
    ask(&registry, beating(80)).await.unwrap();
    let mut told = watch(&registry).await;
    assert_eq!(next(&mut told).await.state, ConnectionState::Connected);

    let first = in_use(&registry, &servers).await;
    first.faults().refuse_connections();
    let degraded = next(&mut told).await;
    assert_eq!(degraded.state, ConnectionState::Degraded);
    assert!(degraded.server.is_some() && degraded.server != Some(first.server_address()), "{degraded:?}");

    servers.iter().for_each(|server| server.faults().refuse_connections());
    assert_eq!(next(&mut told).await.state, ConnectionState::Lost);
    servers[1].faults().accept_connections();
    let back = next(&mut told).await;
    assert_eq!((back.state, back.server), (ConnectionState::Degraded, Some(servers[1].server_address())));
    shut_down(&registry).await;
}

#[actix::test]
async fn a_listener_that_unwatches_receives_nothing_more_and_is_not_kept_alive() {
    let server = server();
    let registry = start(config(&server));
    let ((one, mut told), (other, mut other_told)) = (Watcher::begin(), Watcher::begin());
    for watcher in [&one, &other] {
        ask(&registry, WatchConnection::new(watcher.clone().recipient())).await.unwrap();
    }
    assert_eq!(next(&mut told).await.state, ConnectionState::Unknown);
    ask(&registry, UnwatchConnection::new(one.clone().recipient())).await.unwrap();
    ask(&registry, UnwatchConnection::new(one.clone().recipient())).await.unwrap();
    ask(&registry, beating(80)).await.unwrap();
    while next(&mut other_told).await.state != ConnectionState::Connected {}
    drop(one);
    assert_eq!(soon("its end", told.recv()).await, None, "the other one was told of the change");
    drop(other);
    ask(&registry, UnwatchConnection::all()).await.unwrap();
    assert_eq!(soon("its end", other_told.recv()).await, None);
    shut_down(&registry).await;
}

#[actix::test]
async fn a_weak_listener_of_the_connection_is_notified_and_not_kept_alive() {
    let server = server();
    let registry = start(config(&server));
    let (watcher, mut told) = Watcher::begin();
    ask(&registry, WatchConnection::weak(watcher.downgrade().recipient())).await.unwrap();
    assert_eq!(next(&mut told).await.state, ConnectionState::Unknown);
    ask(&registry, beating(80)).await.unwrap();
    assert_eq!(next(&mut told).await.state, ConnectionState::Connected);
    drop(watcher);
    assert_eq!(soon("its end", told.recv()).await, None);
    shut_down(&registry).await;
}

/// Handles each message slowly.
struct Busy {
    told: mpsc::UnboundedSender<ConnectionChanged>,
    gate: support::Gate,
}

impl Actor for Busy {
    type Context = Context<Self>;
}

impl Handler<ConnectionChanged> for Busy {
    type Result = ();

    fn handle(&mut self, change: ConnectionChanged, _: &mut Context<Self>) {
        let _ = self.told.send(change);
        self.gate.wait();
    }
}

#[actix::test]
async fn a_busy_listener_receives_the_newest_connection_state_afterwards() {
    let server = server();
    let registry = start(config(&server));
    ask(&registry, beating(80)).await.unwrap();
    let ((tell, mut told), gate) = (mpsc::unbounded_channel(), support::Gate::default());
    let slow = Busy { told: tell, gate: gate.clone() };
    let slow = Busy::start_in_arbiter(&Arbiter::new().handle(), |_| slow);
    ask(&registry, WatchConnection::new(slow.recipient())).await.unwrap();
    assert_eq!(next(&mut told).await.state, ConnectionState::Connected);
    let mut quick = watch(&registry).await;
    next(&mut quick).await;
    for _ in 0..2 {
        server.faults().refuse_connections();
        assert_eq!(next(&mut quick).await.state, ConnectionState::Lost);
        server.faults().accept_connections();
        assert_eq!(next(&mut quick).await.state, ConnectionState::Connected);
    }
    server.faults().refuse_connections();
    assert_eq!(next(&mut quick).await.state, ConnectionState::Lost);
    gate.open();
    assert_eq!(next(&mut told).await.state, ConnectionState::Lost);
    shut_down(&registry).await;
    assert!(told.try_recv().is_err());
}

// The log.

#[actix::test]
async fn an_outage_is_one_line_when_it_begins_and_one_when_it_ends() {
    let server = server();
    let (logger, log) = support::logs::logger();
    // On a busy machine, requests that time out would be another outage.
    let patient = config(&server).request_timeout(PATIENCE).operation_timeout(PATIENCE);
    let registry = start(patient.logger(logger));
    for port in 1..=20 {
        ask(&registry, beating(port)).await.unwrap();
        let service = format!("service-{port}");
        ask(&registry, Subscribe::new(service, News::listen().recipient())).await.unwrap();
    }
    let before = log.loud();
    server.faults().refuse_connections();
    let lost = || log.loud()[before.len()..].iter().any(|line| line.contains("no server reachable"));
    until("it is noticed", lost).await;
    let attempts = || log.lines().iter().filter(|line| line.text.contains("request failed")).count();
    until("many requests have failed", || attempts() >= 8).await;
    let lists_failed = || log.lines().iter().filter(|line| line.text.contains("failed to fetch service list")).count();
    until("each subscription says so below", || lists_failed() > 20).await;
    assert_eq!(log.loud().len() - before.len(), 1, "{:?}", &log.loud()[before.len()..]);
    server.faults().accept_connections();
    until("it is noticed", || log.loud().len() > before.len() + 1).await;
    let status = async || {
        let status = ask(&registry, GetStatus).await.ok()?;
        (status.subscriptions.iter().all(|subscription| !subscription.stale)
            && status.instances.iter().all(|instance| instance.last_error.is_none()))
        .then_some(())
    };
    eventually("all is well", status).await;
    let after = &log.loud()[before.len()..];
    assert_eq!(after.len(), 2, "{after:?}");
    assert!(after[1].contains("connected to server"), "{after:?}");
    shut_down(&registry).await;
}

// The status.

#[actix::test]
async fn the_status_shows_servers_instances_and_subscriptions() {
    let (servers, addresses) = servers(2);
    let registry = start(config_at(&addresses).push(Default::default()));
    ask(&registry, beating(80)).await.unwrap();
    ask(&registry, RegisterInstance::new("ledger", "127.0.0.7", 80).ephemeral(false)).await.unwrap();
    let mut news = News::listen();
    ask(&registry, Subscribe::new("orders", news.recipient()).clusters(["DEFAULT"])).await.unwrap();
    news.until(|news| news.info.hosts.len() == 1).await;
    let _view = ask(&registry, Discover::new("SHOP@@carts")).await.unwrap();
    let status = eventually("it has beaten", async || {
        let status = ask(&registry, GetStatus).await.ok()?;
        let beats: u64 = status.instances.iter().map(|instance| instance.beats).sum();
        (beats >= 2 && status.subscriptions.iter().all(|subscription| subscription.polls > 0)).then_some(status)
    })
    .await;
    assert_eq!(status.connection, ConnectionState::Connected);
    let used = status.servers.iter().find(|server| server.in_use).expect("one is in use");
    assert_eq!((used.protocol, used.failures, used.last_error.as_ref()), (Some(Protocol::V1), 0, None));
    assert!(used.requests >= 5 && used.last_success_ms_ago < Some(1000), "{used:?}");
    let unused = status.servers.iter().find(|server| !server.in_use).expect("one is not");
    assert_eq!((unused.requests, unused.last_success_ms_ago), (0, None));
    assert_eq!((status.session, status.instances.len(), status.subscriptions.len()), (None, 2, 2));
    assert!(status.instances.iter().all(|instance| instance.registered && instance.last_error.is_none()));
    let orders = status.subscriptions.iter().find(|s| s.service.name == "orders").expect("a subscription");
    assert_eq!((orders.clusters.as_str(), orders.listeners, orders.views), ("DEFAULT", 1, 0));
    assert_eq!((orders.instances, orders.stale, orders.changes), (Some(1), false, 1));
    let carts = status.subscriptions.iter().find(|s| s.service.group == "SHOP").expect("a view");
    assert_eq!((carts.listeners, carts.views, carts.instances), (0, 1, Some(0)));
    assert!(status.push.is_some_and(|push| push.port > 0));

    in_use(&registry, &servers).await.faults().hang(true);
    servers.iter().for_each(|server| server.faults().refuse_connections());
    let status = eventually("it is lost", async || {
        let status = ask(&registry, GetStatus).await.ok()?;
        let known = status.instances.iter().any(|instance| instance.last_error.is_some());
        (status.connection == ConnectionState::Lost && known && status.subscriptions.iter().all(|s| s.stale))
            .then_some(status)
    })
    .await;
    assert!(status.servers.iter().all(|server| server.failures >= 3 && server.last_error.is_some()), "{status:?}");
    assert!(status.instances.iter().all(|instance| instance.registered), "as far as anybody knows");
    let json = serde_json::to_value(&status).unwrap();
    assert_eq!((json["connection"].as_str(), json["instances"].as_array().map(Vec::len)), (Some("lost"), Some(2)));
    ask(&registry, actix_nacos::Shutdown::default().deadline(ms(50))).await.unwrap();
}

// With `Config::disabled`.

#[actix::test]
async fn a_disabled_registry_accepts_all_messages_sends_no_request_and_logs_one_line() {
    let (logger, log) = support::logs::logger();
    let registry = start(Config::disabled().logger(logger));
    ask(&registry, RegisterInstance::new("orders", "127.0.0.7", 80)).await.unwrap();
    ask(&registry, RegisterInstance::new("orders", "127.0.0.7", 81).when_reachable()).await.unwrap();
    ask(&registry, ModifyInstance::new("orders", "127.0.0.7", 80).weight(2.0)).await.unwrap();
    assert!(ask(&registry, ListInstances::new("orders")).await.unwrap().hosts.is_empty());
    let view = ask(&registry, Discover::new("orders")).await.unwrap();
    soon("the list", view.ready()).await.unwrap();
    assert!(view.instances().is_empty() && !view.is_stale() && view.select_one().is_none());
    let mut news = News::listen();
    ask(&registry, Subscribe::new("orders", news.recipient())).await.unwrap();
    let first = news.next().await;
    assert!(first.first && first.info.hosts.is_empty());
    let invalid = ask(&registry, RegisterInstance::new("orders", "127.0.0.7", 80).weight(-1.0)).await;
    assert!(matches!(invalid, Err(Error::InvalidInput { field: "weight", .. })), "{invalid:?}");
    ask(&registry, DeregisterInstance::new("orders", "127.0.0.7", 81)).await.unwrap();
    let report = ask(&registry, actix_nacos::Shutdown::default()).await.unwrap();
    assert_eq!((report.deregistered, report.failed.len()), (1, 0));
    assert_eq!(log.count("disabled"), 1, "{:?}", log.loud());
}

#[actix::test]
async fn registering_when_reachable_is_shown_in_status_and_log() {
    let server = server();
    server.faults().refuse_connections();
    let (logger, log) = support::logs::logger();
    let registry = start(config(&server).logger(logger));
    for port in 1..=10 {
        ask(&registry, beating(port).weight(2.0).when_reachable()).await.unwrap();
    }
    let pending = ask(&registry, GetStatus).await.unwrap();
    assert_eq!(log.count("registered instance before="), 0, "{:?}", log.loud());
    assert!(pending.instances.iter().all(|instance| !instance.registered));
    // An instance that is deregistered meanwhile is never registered.
    let taken_back = registry.send(DeregisterInstance::new("orders", "127.0.0.7", 10));
    let taken_back = actix_rt::spawn(taken_back);
    let nine_left = async || (ask(&registry, GetStatus).await.ok()?.instances.len() == 9).then_some(());
    eventually("it is not wanted any more", nine_left).await;
    server.faults().accept_connections();
    until("they are registered", || server.instances("orders").len() >= 9).await;
    soon("the answer", taken_back).await.unwrap().unwrap().unwrap();
    until("all but one", || support::ports(&server, "orders") == [1, 2, 3, 4, 5, 6, 7, 8, 9]).await;
    let registered = async || {
        let status = ask(&registry, GetStatus).await.ok()?;
        status.instances.iter().all(|instance| instance.registered).then_some(())
    };
    eventually("the status says so", registered).await;
    assert_eq!(
        (log.count("registration pending"), log.count("registered instance before=")),
        (10, 9),
        "{:?}",
        log.loud()
    );
    shut_down(&registry).await;
}
