//! An operation never takes longer than its deadline, and waits until then while a server may come back.

use std::{
    future::Future,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use actix::Addr;
use actix_nacos::{
    Config, DeregisterInstance, Error, GetInstance, ListInstances, ListServices, ModifyInstance, Protocol,
    RegisterInstance, Registry, SendHeartbeat,
};
use futures_util::future::{join_all, FutureExt as _, LocalBoxFuture, TryFutureExt as _};

use crate::support::{
    ask, config_at,
    fake::{Answer, Fake, Seen},
    ms, start, until, IP,
};

const OWN: (&str, &str, u16) = ("orders", IP, 80);
const OTHERS: (&str, &str, u16) = ("orders", "127.0.0.8", 80);

/// This instance is in no list, so that reading it needs a second list request.
const DISABLED: &str = "127.0.0.10";

const DEADLINE: Duration = Duration::from_millis(1000);
/// The promise is 0.2 s, but the machine may be busy.
const GRACE: Duration = Duration::from_millis(600);

/// Answers as Nacos 2.5 does. The answer to GET has neither `enabled` nor `ephemeral`, so the client requests the list,
/// and once more after a second if the list lacks the instance.
fn answer(seen: &Seen) -> Answer {
    match (seen.method.as_str(), seen.path()) {
        ("GET", "/nacos/v1/ns/instance") => {
            let ip = seen.parameter("ip").unwrap_or_default();
            let instance = serde_json::json!({
                "service": "DEFAULT_GROUP@@orders", "ip": ip, "port": 80, "clusterName": "DEFAULT", "weight": 1.0,
                "healthy": true, "metadata": {}, "instanceId": format!("{ip}#80#DEFAULT#DEFAULT_GROUP@@orders"),
            });
            Answer::json(instance.to_string())
        }
        ("GET", "/nacos/v1/ns/instance/list") => {
            let list = serde_json::json!({
                "name": "DEFAULT_GROUP@@orders", "groupName": "DEFAULT_GROUP", "clusters": "", "cacheMillis": 10000,
                "hosts": [{"ip": OTHERS.1, "port": 80, "weight": 1.0, "healthy": true, "enabled": true,
                    "ephemeral": true, "clusterName": "DEFAULT", "serviceName": "DEFAULT_GROUP@@orders",
                    "metadata": {}}],
                "lastRefTime": 1,
            });
            Answer::json(list.to_string())
        }
        ("GET", "/nacos/v1/ns/service/list") => Answer::json(r#"{"count":0,"doms":[]}"#),
        ("POST", "/nacos/v1/auth/login") => Answer::json(r#"{"accessToken":"t","tokenTtl":18000,"globalAdmin":false}"#),
        ("POST", "/nacos/v3/client/ns/instance") if seen.body.contains("heartBeat=true") => {
            Answer::json(r#"{"code":21003,"message":"instance not found","data":null}"#)
        }
        (_, path) if path.starts_with("/nacos/v3/client/") => {
            Answer::json(r#"{"code":0,"message":"success","data":"ok"}"#)
        }
        _ => Answer::usual(seen),
    }
}

/// A server that delays every answer to a request for which `slow` returns true.
fn slow_server(time: Duration, slow: impl Fn(&Seen) -> bool + Send + Sync + 'static) -> Fake {
    Fake::start(move |seen| {
        if slow(seen) {
            thread::sleep(time);
        }
        answer(seen)
    })
}

fn config(server: &Fake) -> Config {
    config_at(&server.server_address()).operation_timeout(DEADLINE).request_timeout(ms(3000))
}

type Outcome<'a> = LocalBoxFuture<'a, Result<(), Error>>;

/// All operations that send a request, by name.
fn operations(registry: &Addr<Registry>) -> Vec<(&'static str, Outcome<'_>)> {
    let (service, ip, port) = OTHERS;
    let own = |port| RegisterInstance::new("orders", "127.0.0.9", port);
    vec![
        ("register", ask(registry, own(1)).map_ok(drop).boxed_local()),
        ("register a persistent one", ask(registry, own(2).ephemeral(false)).map_ok(drop).boxed_local()),
        ("deregister", ask(registry, DeregisterInstance::new(service, ip, 81)).boxed_local()),
        ("modify an own one", ask(registry, ModifyInstance::new(OWN.0, OWN.1, OWN.2).weight(2.0)).boxed_local()),
        ("modify another", ask(registry, ModifyInstance::new(service, ip, port).weight(2.0)).boxed_local()),
        (
            "modify a disabled one",
            ask(registry, ModifyInstance::new(service, DISABLED, port).weight(2.0)).boxed_local(),
        ),
        ("get an own one", ask(registry, GetInstance::new(OWN.0, OWN.1, OWN.2)).map(|got| got.map(drop)).boxed_local()),
        ("get another", ask(registry, GetInstance::new(service, ip, port)).map(|got| got.map(drop)).boxed_local()),
        (
            "get a disabled one",
            ask(registry, GetInstance::new(service, DISABLED, port)).map(|got| got.map(drop)).boxed_local(),
        ),
        ("list", ask(registry, ListInstances::new(service)).map(|listed| listed.map(drop)).boxed_local()),
        ("list services", ask(registry, ListServices::new(1, 10)).map(|listed| listed.map(drop)).boxed_local()),
        (
            "beat",
            ask(registry, SendHeartbeat::new(service, "127.0.0.11", port)).map(|beat| beat.map(drop)).boxed_local(),
        ),
    ]
}

/// Runs all operations at the same time. Returns how long each took, and its outcome.
async fn time_all(operations: Vec<(&'static str, Outcome<'_>)>) -> Vec<(&'static str, Duration, Result<(), Error>)> {
    let time = async |(name, operation): (&'static str, Outcome<'_>)| {
        let began = Instant::now();
        let outcome = operation.await;
        (name, began.elapsed(), outcome)
    };
    join_all(operations.into_iter().map(time)).await
}

/// Checks all operations at a server with this delay. Only the registration of the own instance before that is not
/// delayed.
async fn no_operation_takes_longer_than_it_may(time: Duration) -> Vec<(&'static str, Duration, Result<(), Error>)> {
    let (service, ip, port) = OWN;
    let is_first = |seen: &Seen| {
        let weight = seen.parameter("weight").unwrap_or_default();
        seen.method == "POST" && seen.parameter("ip") == Some(OWN.1) && weight.starts_with('1')
    };
    let server = slow_server(time, move |seen| !is_first(seen));
    let registry = start(config(&server));
    ask(&registry, RegisterInstance::new(service, ip, port)).await.unwrap();
    let took = time_all(operations(&registry)).await;
    let late: Vec<_> = took.iter().filter(|(_, took, _)| *took >= DEADLINE + GRACE).collect();
    assert!(late.is_empty(), "{late:#?}");
    took
}

/// GET and list are answered in time. Then the client waits for a second before the next list.
#[actix::test]
async fn no_operation_at_a_server_of_200_ms_takes_longer_than_it_may() {
    no_operation_takes_longer_than_it_may(ms(200)).await;
}

/// Operations with two requests: the timeout of the second request is the time that is left.
#[actix::test]
async fn no_operation_at_a_server_of_700_ms_takes_longer_than_it_may() {
    no_operation_takes_longer_than_it_may(ms(700)).await;
}

/// The deadline comes before the timeout of the first request.
#[actix::test]
async fn no_operation_at_a_server_that_hangs_takes_longer_than_it_may() {
    for (name, took, outcome) in no_operation_takes_longer_than_it_may(ms(8000)).await {
        assert!(outcome.as_ref().is_err_and(Error::is_retryable), "{name}: {outcome:?}");
        assert!(took > DEADLINE / 2, "{name}: {outcome:?} after {took:?}, while there was time");
    }
}

/// Returns how long one operation took, and its outcome.
async fn time_one<T>(operation: impl Future<Output = Result<T, Error>>) -> (Duration, Result<(), Error>) {
    let began = Instant::now();
    let outcome = operation.await;
    (began.elapsed(), outcome.map(drop))
}

#[track_caller]
fn assert_cut((took, outcome): (Duration, Result<(), Error>)) {
    assert!(outcome.as_ref().is_err_and(Error::is_retryable), "{outcome:?}");
    assert!(took > DEADLINE / 2 && took < DEADLINE + GRACE, "{outcome:?} after {took:?}");
}

#[actix::test]
async fn a_login_is_part_of_the_operation_that_needs_it() {
    let server = slow_server(ms(700), |_| true);
    let registry = start(config(&server).credentials("me", "hush"));
    assert_cut(time_one(ask(&registry, ListInstances::new("orders"))).await);
}

#[actix::test]
async fn finding_out_the_protocol_is_part_of_the_operation_that_needs_it() {
    let server = Fake::start(|seen| {
        thread::sleep(ms(700));
        match seen.path().starts_with("/nacos/v1/") {
            true => Answer::Text(404, "text/plain", String::new()),
            false => Answer::json(r#"{"code":0,"message":"success","data":[]}"#),
        }
    });
    let registry = start(config(&server));
    assert_cut(time_one(ask(&registry, ListInstances::new("orders"))).await);
}

#[actix::test]
async fn a_beat_by_hand_that_has_to_register_is_one_operation() {
    let server = slow_server(ms(700), |_| true);
    let registry = start(config(&server).protocol(Protocol::V3));
    assert_cut(time_one(ask(&registry, SendHeartbeat::new("orders", IP, 80))).await);
    let asked = server.seen();
    assert!(asked.iter().any(|seen| !seen.body.contains("heartBeat=true")), "it has begun to register: {asked:?}");
}

#[actix::test]
async fn two_servers_that_hang_share_the_time_of_one_operation() {
    let servers = [slow_server(ms(8000), |_| true), slow_server(ms(8000), |_| true)];
    let addresses = servers.iter().map(Fake::server_address).collect::<Vec<_>>().join(",");
    let registry = start(config_at(&addresses).operation_timeout(DEADLINE).request_timeout(ms(700)));
    assert_cut(time_one(ask(&registry, ListInstances::new("orders"))).await);
    assert!(servers.iter().all(|server| !server.seen().is_empty()), "both were asked");
}

/// A server that closes its first connections without an answer, and answers the next request late.
fn server_under_trial(fails: usize, slow: Duration, then: fn(&Seen) -> Answer) -> Fake {
    let asked = AtomicUsize::new(0);
    Fake::start(move |seen| match asked.fetch_add(1, Ordering::AcqRel) {
        number if number < fails => Answer::Close,
        number if number == fails => {
            thread::sleep(slow);
            then(seen)
        }
        _ => answer(seen),
    })
}

/// While one operation tries a server that failed, others wait for the outcome.
async fn operations_wait_for_the_trial(then: fn(&Seen) -> Answer) {
    const FAILS: usize = 2;
    let server = server_under_trial(FAILS, ms(500), then);
    // The timeout of the trial is longer than the others may wait: they must be sent as soon as the trial ends.
    let registry = start(config_at(&server.server_address()).operation_timeout(ms(1800)).request_timeout(ms(10_000)));
    let trial = actix_rt::spawn(registry.send(ListInstances::new("first")));
    until("one tries it", || server.seen().len() > FAILS).await;
    let mut operations = operations(&registry);
    // These operations wait for a second anyway, because no instance is registered here.
    operations.retain(|(name, _)| !name.contains("disabled") && !name.contains("own"));
    for (name, took, outcome) in time_all(operations).await {
        assert!(outcome.is_ok(), "{name}: {outcome:?} after {took:?}");
    }
    trial.await.unwrap().unwrap().unwrap();
}

#[actix::test]
async fn operations_wait_for_the_trial_of_a_server_that_failed() {
    operations_wait_for_the_trial(answer).await;
}

#[actix::test]
async fn operations_wait_for_the_next_trial_when_one_fails() {
    operations_wait_for_the_trial(|_| Answer::Close).await;
}

#[actix::test]
async fn operations_wait_for_a_trial_that_hangs_up_to_their_deadline() {
    let server = server_under_trial(3, ms(8000), answer);
    let registry = start(config(&server).request_timeout(ms(10_000)));
    let trial = actix_rt::spawn(registry.send(ListInstances::new("first")));
    until("one tries it", || server.seen().len() > 3).await;
    let (took, outcome) = time_one(ask(&registry, ListInstances::new("second"))).await;
    // The trial ends at the deadline of its operation. Then the second operation tries the server.
    assert!(outcome.is_ok() || took > DEADLINE / 2, "{outcome:?} after {took:?}");
    assert!(took < DEADLINE + GRACE, "{outcome:?} after {took:?}");
    trial.await.unwrap().unwrap().unwrap_err();
}
