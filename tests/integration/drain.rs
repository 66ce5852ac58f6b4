//! The drain time of a shutdown lasts as long as callers need to notice, and no longer.

use std::{
    thread,
    time::{Duration, Instant},
};

use actix::Addr;
use actix_nacos::{
    block_on,
    embedded::{Dialect, EmbeddedServer},
    Config, DeregisterInstance, Discover, GetStatus, Operation, PushConfig, RegisterInstance, Registry, Shutdown,
    ShutdownGuard, ShutdownReport,
};
use futures_util::future::{join, join_all};

use crate::support::{
    self, ask, config_at, eventually,
    fake::{Answer, Fake},
    ms, registry, server, shut_down, start, until, IP,
};

const NOTICED_BY_PUSH: Duration = Duration::from_secs(2);
const NOTICED_BY_POLL: Duration = Duration::from_secs(12);

fn orders(port: u16) -> RegisterInstance {
    RegisterInstance::new("orders", IP, port)
}

/// Shuts the Registry down. Returns the report, and how long the shutdown took.
async fn drained(registry: &Addr<Registry>) -> (ShutdownReport, Duration) {
    let began = Instant::now();
    let report = ask(registry, Shutdown::default().drain_until_noticed()).await.unwrap();
    (report, began.elapsed())
}

async fn registered(config: Config) -> Addr<Registry> {
    let registry = start(config);
    ask(&registry, orders(80)).await.unwrap();
    registry
}

#[actix::test]
async fn callers_are_served_until_a_push_has_notified_them() {
    let notices = async |dialect: Dialect| {
        let server = EmbeddedServer::builder().dialect(dialect).start().unwrap();
        let owner = registered(support::config(&server)).await;
        let caller = start(Config::new(server.server_address()).push(PushConfig::default()));
        let mut view = ask(&caller, Discover::new("orders")).await.unwrap();
        while view.instances().is_empty() {
            view.changed().await.unwrap();
        }
        let noticed = async {
            let began = Instant::now();
            while !view.instances().is_empty() {
                view.changed().await.unwrap();
            }
            began.elapsed()
        };
        let (noticed_after, (report, took)) = join(noticed, drained(&owner)).await;
        assert_eq!((report.deregistered, report.drained), (1, NOTICED_BY_PUSH), "{dialect}");
        assert!(noticed_after <= took && took >= NOTICED_BY_PUSH, "{dialect}: {noticed_after:?}, {took:?}");
        shut_down(&caller).await;
    };
    join_all([Dialect::V1_4, Dialect::V2_5, Dialect::V3_0].map(notices)).await;
}

/// Answers about instances as r-nacos does.
fn rnacos() -> Fake {
    Fake::start(|seen| match (seen.method.as_str(), seen.path()) {
        ("GET", "/nacos/v1/ns/instance") => {
            let found = serde_json::json!({ "ip": IP, "port": 80, "instanceId": format!("{IP}#80"), "weight": 1.0 });
            Answer::json(found.to_string())
        }
        _ => Answer::usual(seen),
    })
}

#[actix::test]
async fn without_pushes_callers_are_served_for_a_poll_interval() {
    let embedded = support::builder().dialect(Dialect::V3_2).start().unwrap();
    let rnacos = rnacos();
    let unknown = Fake::start(|seen| match (seen.method.as_str(), seen.path()) {
        ("GET", "/nacos/v1/ns/instance") => Answer::Text(500, "text/plain", "caused: no leader!;".into()),
        _ => Answer::usual(seen),
    });
    let addresses = [embedded.server_address(), rnacos.server_address(), unknown.server_address()];
    let shutdowns = addresses.map(|address| async move {
        let registry = registered(config_at(&address)).await;
        let (report, took) = drained(&registry).await;
        assert_eq!((report.deregistered, report.drained), (1, NOTICED_BY_POLL), "{address}");
        assert!(took >= NOTICED_BY_POLL, "{took:?}");
        assert_eq!(serde_json::to_value(&report).unwrap()["drained_ms"], 12_000);
    });
    join_all(shutdowns).await;
}

#[actix::test]
async fn the_kind_of_server_is_not_requested_again_at_the_end() {
    let server = server();
    let registry = registry(&server);
    ask(&registry, orders(80).heartbeat_interval(ms(100))).await.unwrap();
    let reads = || server.counters().requests_for(Operation::Get);
    until("a heartbeat has found it out", || reads() == 1).await;
    assert_eq!(drained(&registry).await.0.drained, NOTICED_BY_PUSH);
    assert_eq!(reads(), 1);
}

#[actix::test]
async fn an_instance_that_cannot_be_read_yet_shows_the_kind_of_server_by_its_list() {
    let server = EmbeddedServer::start().unwrap();
    let first = registered(support::config(&server)).await;
    // After the first list of the service, lists show changes late.
    ask(&first, actix_nacos::ListInstances::new("orders")).await.unwrap();
    let second = registry(&server);
    ask(&second, orders(81)).await.unwrap();
    assert_eq!(drained(&second).await.0.drained, NOTICED_BY_PUSH);
    shut_down(&first).await;
}

#[actix::test]
async fn with_nothing_registered_the_drain_does_not_wait() {
    let server = server();
    let nothing = registry(&server);
    let deregistered = registered(support::config(&server)).await;
    ask(&deregistered, DeregisterInstance::new("orders", IP, 80)).await.unwrap();
    let persistent = registry(&server);
    ask(&persistent, RegisterInstance::new("ledger", IP, 80).ephemeral(false)).await.unwrap();
    let disabled = registered(Config::disabled()).await;
    for registry in [nothing, deregistered, persistent, disabled] {
        let (report, took) = drained(&registry).await;
        assert!(report.failed.is_empty() && report.drained.is_zero() && took < NOTICED_BY_PUSH, "{report:?}, {took:?}");
    }
}

#[actix::test]
async fn a_drain_does_not_wait_for_an_instance_that_was_never_registered() {
    let server = server();
    server.faults().fail_share(1.0, 400);
    let registry = registry(&server);
    let registration = ask(&registry, orders(80).when_reachable()).await.unwrap();
    until("it is rejected", || registration.error().is_some()).await;
    server.faults().clear();
    server.faults().only_for(&[Operation::Register]);
    server.faults().fail_share(1.0, 400);
    let (report, took) = drained(&registry).await;
    assert!(report.drained.is_zero() && took < NOTICED_BY_PUSH, "{report:?}, {took:?}");
}

#[actix::test]
async fn without_a_server_the_drain_does_not_wait() {
    for hangs in [true, false] {
        let server = server();
        let registry = registered(support::config(&server)).await;
        if hangs {
            server.faults().hang(true);
        } else {
            server.faults().refuse_connections();
        }
        let began = Instant::now();
        let shutdown = Shutdown::default().deadline(ms(500)).drain_until_noticed();
        let report = ask(&registry, shutdown).await.unwrap();
        assert_eq!((report.failed.len(), report.drained), (1, Duration::ZERO));
        assert!(began.elapsed() < NOTICED_BY_PUSH, "{:?}", began.elapsed());
        server.faults().clear();
        server.faults().accept_connections();
    }
}

/// The client reads the kind of the server from an instance.
#[actix::test]
async fn a_shutdown_deregisters_although_reading_the_kind_of_server_hangs() {
    let server = server();
    let registry = registered(support::config(&server)).await;
    server.faults().only_for(&[Operation::Get]);
    server.faults().hang(true);
    let shutdown = registry.send(Shutdown::default().deadline(ms(1000)).drain_until_noticed());
    actix_rt::spawn(async move { drop(shutdown.await) });
    until("it is deregistered", || server.instances("orders").is_empty()).await;
    server.faults().clear();
}

#[test]
fn a_guard_drains_until_callers_have_noticed() {
    let server = server();
    let registry = registry(&server);
    block_on(registry.send(orders(80))).unwrap().unwrap();
    let guarded = thread::spawn(move || {
        let guard = ShutdownGuard::new(registry.clone(), ms(5000)).drain_until_noticed();
        let began = Instant::now();
        drop(guard);
        (began.elapsed(), registry)
    });
    let (took, registry) = guarded.join().unwrap();
    assert!(took >= NOTICED_BY_PUSH && took < NOTICED_BY_POLL, "{took:?}");
    assert!(server.instances("orders").is_empty());
    assert!(matches!(block_on(registry.send(GetStatus)), Err(_) | Ok(Err(_))));
}

#[actix::test]
async fn a_fixed_drain_time_is_reported_and_waited_in_any_case() {
    let server = server();
    let registry = registry(&server);
    let began = Instant::now();
    let report = ask(&registry, Shutdown::default().drain_until_noticed().drain(ms(300))).await.unwrap();
    assert_eq!(report.drained, ms(300));
    assert!(began.elapsed() >= ms(300));
    let stopped = async || ask(&registry, GetStatus).await.err();
    eventually("it has stopped", stopped).await;
}
