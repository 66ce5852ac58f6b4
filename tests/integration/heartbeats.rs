//! A registered instance stays registered, healthy and unchanged, whatever the server forgets.

use std::{
    thread,
    time::{Duration, Instant},
};

use actix_nacos::{
    embedded::{Dialect, EmbeddedServer, InstanceSnapshot},
    DeregisterInstance, GetStatus, ListInstances, Metadata, ModifyInstance, Operation, RegisterInstance, SendHeartbeat,
    HEART_BEAT_INTERVAL, HEART_BEAT_TIMEOUT, IP_DELETE_TIMEOUT,
};
use futures_util::future::join_all;

use crate::support::{
    self, ask, config, eventually, ms, only_instance, ports, registry, server, shut_down, start, until, IP,
};

/// An instance that beats every 200 ms. It turns unhealthy after 1 s without a beat and is removed after 2 s.
fn short_lived(port: u16) -> RegisterInstance {
    RegisterInstance::new("orders", IP, port)
        .metadata(HEART_BEAT_INTERVAL, "200")
        .metadata(HEART_BEAT_TIMEOUT, "1000")
        .metadata(IP_DELETE_TIMEOUT, "2000")
}

/// A server that checks for missing beats all the time.
fn strict_server(dialect: Dialect) -> EmbeddedServer {
    support::builder().dialect(dialect).sweep_interval(ms(20)).start().unwrap()
}

fn beats(server: &EmbeddedServer) -> u64 {
    server.counters().requests_for(Operation::Beat)
}

fn registrations(server: &EmbeddedServer) -> u64 {
    server.counters().requests_for(Operation::Register)
}

/// Checks again and again for this time.
async fn throughout(time: Duration, mut is_so: impl FnMut() -> Result<(), String>) {
    let began = Instant::now();
    while began.elapsed() < time {
        if let Err(reason) = is_so() {
            panic!("{reason} after {:?}", began.elapsed());
        }
        actix_rt::time::sleep(ms(10)).await;
    }
}

#[actix::test]
async fn an_instance_stays_healthy_beyond_the_servers_timeouts() {
    for dialect in [Dialect::V1_4, Dialect::V2_5, Dialect::V3_0] {
        let server = strict_server(dialect);
        let registry = registry(&server);
        ask(&registry, short_lived(80)).await.unwrap();
        throughout(ms(2500), || match server.instances("orders").as_slice() {
            [only] if only.healthy => Ok(()),
            other => Err(format!("{other:?} on {dialect}")),
        })
        .await;
        assert_eq!(registrations(&server), 1, "beats alone keep it on {dialect}");
        shut_down(&registry).await;
        assert!(server.instances("orders").is_empty());
    }
}

#[actix::test]
async fn timeouts_without_an_interval_get_an_interval_that_keeps_the_instance_healthy() {
    for dialect in Dialect::all() {
        let server = strict_server(dialect);
        let registry = registry(&server);
        let register = RegisterInstance::new("orders", IP, 80).metadata(HEART_BEAT_TIMEOUT, "1500");
        ask(&registry, register.metadata(IP_DELETE_TIMEOUT, "3000")).await.unwrap();
        let listed = ask(&registry, ListInstances::new("orders")).await.unwrap();
        assert_eq!(listed.hosts[0].metadata[HEART_BEAT_INTERVAL], "500", "{dialect}");
        throughout(ms(4000), || match server.instances("orders").as_slice() {
            [only] if only.healthy => Ok(()),
            other => Err(format!("{other:?} on {dialect}")),
        })
        .await;
        shut_down(&registry).await;
    }
}

#[actix::test]
async fn the_interval_that_the_server_answers_is_obeyed() {
    // The server asks for beats at a third of this timeout. The default would be 5 s.
    let server = support::builder().heartbeat_timeout(ms(600)).delete_timeout(ms(60_000)).start().unwrap();
    let registry = registry(&server);
    // The first beat comes within 5 s. Its answer contains the interval of 200 ms.
    ask(&registry, RegisterInstance::new("orders", IP, 80)).await.unwrap();
    until("the first beat", || beats(&server) == 1).await;
    let began = Instant::now();
    until("five more beats", || beats(&server) >= 6).await;
    // At the default interval these beats would take 25 s.
    assert!(began.elapsed() < ms(20_000) && began.elapsed() > ms(700), "{:?}", began.elapsed());
    shut_down(&registry).await;
}

#[actix::test]
async fn a_changed_interval_is_used_at_once() {
    for dialect in Dialect::all() {
        let server = support::builder().dialect(dialect).start().unwrap();
        let registry = registry(&server);
        let hourly = RegisterInstance::new("orders", IP, 80).heartbeat_interval(ms(3_600_000));
        let hourly = hourly.metadata(HEART_BEAT_TIMEOUT, "7200000").metadata(IP_DELETE_TIMEOUT, "7200000");
        ask(&registry, hourly).await.unwrap();
        let often = Metadata::from([(HEART_BEAT_INTERVAL.to_owned(), "200".to_owned())]);
        ask(&registry, ModifyInstance::new("orders", IP, 80).all_metadata(often)).await.unwrap();
        until("it beats as it was told last", || beats(&server) >= 5).await;
        shut_down(&registry).await;
    }
}

#[actix::test]
async fn a_beat_by_hand_brings_an_own_instance_back_with_its_values() {
    for dialect in Dialect::all() {
        let server = support::builder().dialect(dialect).start().unwrap();
        let registry = registry(&server);
        ask(&registry, RegisterInstance::new("orders", IP, 80).weight(3.0).metadata("zone", "a")).await.unwrap();
        let before = values(&server.instances("orders")[0]);
        server.faults().forget_everything();
        ask(&registry, SendHeartbeat::new("orders", IP, 80)).await.unwrap();
        assert_eq!(values(&server.instances("orders")[0]), before, "on {dialect}");
        shut_down(&registry).await;
    }
}

/// The values of an instance.
fn values(instance: &InstanceSnapshot) -> (f64, bool, Metadata) {
    (instance.weight, instance.enabled, instance.metadata.clone())
}

#[actix::test]
async fn a_server_that_restarts_empty_gets_everything_back_with_its_values() {
    let server = server();
    let registry = registry(&server);
    let register = |port: u16| short_lived(port).weight(port.into()).metadata("port", port.to_string());
    join_all((80..130).map(|port| ask(&registry, register(port))))
        .await
        .into_iter()
        .for_each(|answer| drop(answer.unwrap()));
    ask(&registry, ModifyInstance::new("orders", IP, 80).weight(7.0).enabled(false)).await.unwrap();
    let before: Vec<_> = server.instances("orders").iter().map(values).collect();
    server.restart_empty().unwrap();
    let began = Instant::now();
    let all_values = || server.instances("orders").iter().map(values).collect::<Vec<_>>();
    until("all are back as they were", || all_values() == before).await;
    assert!(began.elapsed() < 5 * ms(200 + 1000), "five times what is promised: {:?}", began.elapsed());
    shut_down(&registry).await;
    assert!(server.instances("orders").is_empty());
}

#[actix::test]
async fn an_instance_that_the_server_forgot_is_registered_again_with_its_values() {
    for dialect in [Dialect::V1_4, Dialect::V2_5, Dialect::V3_0] {
        let server = support::builder().dialect(dialect).start().unwrap();
        let registry = registry(&server);
        ask(&registry, short_lived(80).weight(3.0).metadata("zone", "a")).await.unwrap();
        ask(&registry, short_lived(81)).await.unwrap();
        // From the second beat on, beats are light. A server that forgot the instance answers a light beat with 20404.
        until("light beats", || beats(&server) >= 6).await;
        let before = values(&server.instances("orders")[0]);
        assert!(server.faults().forget_instance("orders", IP, 80));
        until("it is back", || ports(&server, "orders") == [80, 81]).await;
        assert_eq!(values(&server.instances("orders")[0]), before, "on {dialect}");
        // The beats were not late, so the server may have forgotten other instances, too.
        until("the other one is registered again", || registrations(&server) == 4).await;
        let so_far = beats(&server);
        until("both beat", || beats(&server) >= so_far + 6).await;
        assert_eq!(registrations(&server), 4, "once on {dialect}");
        shut_down(&registry).await;
    }
}

#[actix::test]
async fn a_server_that_forgot_everything_unnoticed_gets_everything_back() {
    let server = server();
    let registry = registry(&server);
    join_all((80..90).map(|port| ask(&registry, short_lived(port))))
        .await
        .into_iter()
        .for_each(|answer| drop(answer.unwrap()));
    until("light beats", || beats(&server) >= 20).await;
    server.faults().forget_everything();
    until("all are back", || server.instances("orders").len() == 10).await;
    shut_down(&registry).await;
}

#[actix::test]
async fn an_outage_shorter_than_the_timeout_makes_no_instance_unhealthy() {
    let server = support::builder().sweep_interval(ms(20)).start().unwrap();
    let registry = registry(&server);
    let register = RegisterInstance::new("orders", IP, 80).metadata(HEART_BEAT_INTERVAL, "300");
    ask(&registry, register.metadata(HEART_BEAT_TIMEOUT, "3000")).await.unwrap();
    until("a beat", || beats(&server) >= 1).await;
    server.faults().refuse_connections();
    // The time without an answer is what the test is about.
    actix_rt::time::sleep(ms(1000)).await;
    let status = ask(&registry, GetStatus).await.unwrap();
    assert!(status.instances[0].last_error.is_some(), "{:?}", status.instances);
    server.faults().accept_connections();
    until("a sign of life", || only_instance(&server, "orders").since_last_beat < ms(200)).await;
    assert!(only_instance(&server, "orders").healthy);
    let recovered = async || {
        let status = ask(&registry, GetStatus).await.unwrap();
        status.instances[0].last_error.is_none().then_some(())
    };
    eventually("the status is good again", recovered).await;
    shut_down(&registry).await;
}

#[actix::test]
async fn a_changed_instance_is_brought_back_as_it_was_changed() {
    let server = server();
    let registry = registry(&server);
    ask(&registry, short_lived(80).weight(2.0).metadata("zone", "a")).await.unwrap();
    ask(&registry, ModifyInstance::new("orders", IP, 80).weight(5.0)).await.unwrap();
    ask(&registry, short_lived(81).weight(2.0)).await.unwrap();
    ask(&registry, short_lived(81).weight(6.0)).await.unwrap();
    server.restart_empty().unwrap();
    until("both are back", || server.instances("orders").len() == 2).await;
    let weights: Vec<_> = server.instances("orders").iter().map(|instance| instance.weight).collect();
    assert_eq!(weights, [5.0, 6.0]);
    assert_eq!(server.instances("orders")[0].metadata["zone"], "a");
    shut_down(&registry).await;
}

#[actix::test]
async fn a_deregistered_instance_is_not_brought_back() {
    let server = server();
    let registry = registry(&server);
    for port in [80, 81] {
        ask(&registry, short_lived(port)).await.unwrap();
    }
    ask(&registry, DeregisterInstance::new("orders", IP, 80)).await.unwrap();
    server.restart_empty().unwrap();
    until("the other one is back", || ports(&server, "orders") == [81]).await;
    let so_far = beats(&server);
    until("it has beaten", || beats(&server) >= so_far + 5).await;
    assert_eq!(ports(&server, "orders"), [81]);
    shut_down(&registry).await;
}

#[actix::test]
async fn a_persistent_instance_gets_no_beats() {
    // Later versions do not allow both kinds of instances in one service.
    let server = strict_server(Dialect::V1_4);
    let registry = registry(&server);
    let register = |name: &str| RegisterInstance::new(name, IP, 80).metadata(HEART_BEAT_INTERVAL, "100");
    ask(&registry, register("ledger").ephemeral(false)).await.unwrap();
    // An instance that was ephemeral and is now persistent gets no beats either.
    ask(&registry, register("moved")).await.unwrap();
    until("it has beaten", || beats(&server) >= 2).await;
    ask(&registry, DeregisterInstance::new("moved", IP, 80)).await.unwrap();
    ask(&registry, register("moved").ephemeral(false)).await.unwrap();
    let so_far = beats(&server);
    ask(&registry, register("witness")).await.unwrap();
    until("the witness has beaten", || beats(&server) >= so_far + 5).await;
    let status = ask(&registry, GetStatus).await.unwrap();
    let beats_of = |name: &str| status.instances.iter().find(|i| i.instance.service.name == name).unwrap().beats;
    assert_eq!((beats_of("ledger"), beats_of("moved")), (0, 0));
    assert!(beats_of("witness") >= 4);
    shut_down(&registry).await;
}

#[test]
fn a_blocked_application_costs_no_beat() {
    let server = strict_server(Dialect::V2_5);
    let registry = registry(&server);
    let system = actix::System::new();
    system.block_on(async {
        ask(&registry, short_lived(80)).await.unwrap();
        // Blocks the application's only thread for longer than the server waits for beats.
        let began = Instant::now();
        let mut longest_silence = Duration::ZERO;
        while began.elapsed() < ms(2500) {
            thread::sleep(ms(10));
            let instance = only_instance(&server, "orders");
            assert!(instance.healthy, "{instance:?}");
            longest_silence = longest_silence.max(instance.since_last_beat);
        }
        assert!(longest_silence < ms(800), "{longest_silence:?}");
        shut_down(&registry).await;
    });
}

#[actix::test]
async fn registering_when_reachable_waits_for_the_server() {
    let server = server();
    server.faults().refuse_connections();
    let registry = start(config(&server));
    let register = RegisterInstance::new("orders", IP, 80).weight(3.0).when_reachable();
    ask(&registry, register).await.unwrap();
    assert!(!ask(&registry, GetStatus).await.unwrap().instances[0].registered);
    server.faults().accept_connections();
    until("it is registered", || server.instances("orders").len() == 1).await;
    assert_eq!(only_instance(&server, "orders").weight, 3.0);
    let registered = async || ask(&registry, GetStatus).await.unwrap().instances[0].registered.then_some(());
    eventually("the status says so", registered).await;
    shut_down(&registry).await;
}

#[actix::test]
async fn a_persistent_instance_comes_back_after_an_outage_longer_than_an_operation() {
    let server = server();
    let registry = start(config(&server).operation_timeout(ms(300)));
    let register = |port| RegisterInstance::new("ledger", IP, port).ephemeral(false).weight(3.0);
    ask(&registry, register(80)).await.unwrap();
    ask(&registry, register(81).when_reachable()).await.unwrap();
    until("both are there", || ports(&server, "ledger") == [80, 81]).await;
    server.faults().refuse_connections();
    server.faults().forget_everything();
    actix_rt::time::sleep(ms(1000)).await; // Longer than the deadline of an operation.
    server.faults().accept_connections();
    until("both are back", || ports(&server, "ledger") == [80, 81]).await;
    assert!(server.instances("ledger").iter().all(|instance| instance.weight == 3.0));
    shut_down(&registry).await;
}
