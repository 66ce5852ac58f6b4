//! An operation that fails does not affect other operations.

use std::{
    cell::Cell,
    future::Future,
    time::{Duration, Instant},
};

use actix::Addr;
use actix_nacos::{
    DeregisterInstance, Error, ListInstances, ListServices, Operation, RegisterInstance, Registry, SendHeartbeat,
};
use futures_util::future::{join, join3};

use crate::support::{
    self, ask, config, config_at,
    fake::{Answer, Fake, Seen},
    logs::logger,
    ms, ports, server, shut_down, start,
};

async fn register(registry: &Addr<Registry>, port: u16) -> Result<(), Error> {
    ask(registry, RegisterInstance::new("orders", "127.0.0.7", port).ephemeral(false)).await.map(drop)
}

#[actix::test]
async fn a_request_that_always_fails_affects_no_other_request() -> Result<(), Error> {
    let fake = Fake::start(|seen| match seen.parameter("ip") {
        Some("127.0.0.66") => Answer::Text(500, "text/plain", "caused: no leader!;".into()),
        _ => Answer::usual(seen),
    });
    let registry = start(config_at(&fake.server_address()).operation_timeout(ms(2000)));
    let doomed = registry.send(RegisterInstance::new("orders", "127.0.0.66", 80).ephemeral(false));
    let others = async {
        let mut slowest = ms(0);
        for port in 1..=50 {
            let began = Instant::now();
            register(&registry, port).await?;
            slowest = slowest.max(began.elapsed());
            actix_rt::time::sleep(ms(20)).await; // Covers the time in which the other one fails.
        }
        Ok::<_, Error>(slowest)
    };
    let (doomed, slowest) = join(doomed, others).await;
    assert_eq!(doomed?.unwrap_err().status(), Some(500));
    let slowest = slowest?;
    assert!(slowest < ms(300), "no pause: {slowest:?}");
    let asked = fake.seen().iter().filter(|seen| seen.parameter("ip") == Some("127.0.0.66")).count();
    assert!(asked < 10, "with growing pauses of its own: {asked}");
    shut_down(&registry).await;
    Ok(())
}

#[actix::test]
async fn a_request_that_always_fails_is_no_outage() -> Result<(), Error> {
    let fake = Fake::start(|seen| match seen.parameter("ip") {
        Some("127.0.0.66") => Answer::Text(500, "text/plain", "caused: no leader!;".into()),
        _ => Answer::usual(seen),
    });
    let (logger, log) = support::logs::logger();
    let registry = start(config_at(&fake.server_address()).operation_timeout(ms(1000)).logger(logger));
    register(&registry, 1).await?;
    let doomed = ask(&registry, RegisterInstance::new("orders", "127.0.0.66", 80).ephemeral(false)).await;
    assert_eq!(doomed.unwrap_err().status(), Some(500));
    register(&registry, 2).await?;
    assert_eq!(log.count("no server reachable"), 0, "{:?}", log.loud());
    let again = fake.seen().iter().filter(|seen| seen.method == "POST" && seen.parameter("port") == Some("1")).count();
    assert_eq!(again, 1, "nothing was registered again");
    shut_down(&registry).await;
    Ok(())
}

#[actix::test]
async fn a_persistent_instance_is_deregistered_as_one_at_the_second_try_too() -> Result<(), Error> {
    let server = server();
    let registry = start(config(&server).operation_timeout(ms(300)));
    ask(&registry, RegisterInstance::new("ledger", "127.0.0.7", 80).ephemeral(false)).await?;
    server.faults().only_for(&[Operation::Deregister]);
    server.faults().fail_share(1.0, 503);
    let deregister = DeregisterInstance::new("ledger", "127.0.0.7", 80);
    assert!(ask(&registry, deregister.clone()).await.unwrap_err().is_retryable());
    server.faults().clear();
    ask(&registry, deregister).await?;
    assert!(ports(&server, "ledger").is_empty());
    shut_down(&registry).await;
    Ok(())
}

/// Sends messages of several kinds, one after the other, until `trouble` has ended. Returns the longest time that one
/// of them took.
async fn slowest_beside(registry: &Addr<Registry>, trouble: impl Future<Output = ()>) -> Duration {
    let done = Cell::new(false);
    let others = async {
        let mut slowest = Duration::ZERO;
        while !done.get() {
            for number in 0..4 {
                let began = Instant::now();
                match number {
                    0 => drop(ask(registry, RegisterInstance::new("orders", "127.0.0.7", 80)).await.unwrap()),
                    1 => drop(ask(registry, ListInstances::new("orders")).await.unwrap()),
                    2 => drop(ask(registry, SendHeartbeat::new("orders", "127.0.0.8", 80)).await.unwrap()),
                    _ => ask(registry, DeregisterInstance::new("orders", "127.0.0.7", 80)).await.unwrap(),
                }
                slowest = slowest.max(began.elapsed());
                // Sent less often than the failing requests, so that these successes do not hide the failures.
                actix_rt::time::sleep(ms(50)).await;
            }
        }
        slowest
    };
    let trouble = async {
        trouble.await;
        done.set(true);
    };
    join(others, trouble).await.0
}

/// Much shorter than a hanging request takes, and much longer than the others take on a busy machine.
const PROMPT: Duration = Duration::from_millis(800);

/// How long requests fail.
const TROUBLE: Duration = Duration::from_millis(2000);

/// Repeats `ask` for that time. Returns the outcomes.
async fn again_and_again<T>(ask: impl AsyncFn() -> T) -> Vec<T> {
    let began = Instant::now();
    let mut outcomes = Vec::new();
    while began.elapsed() < TROUBLE {
        outcomes.push(ask().await);
        actix_rt::time::sleep(ms(5)).await;
    }
    outcomes
}

fn is_about(seen: &Seen, service: &str) -> bool {
    seen.parameter("serviceName").is_some_and(|name| name.contains(service))
}

#[actix::test]
async fn a_list_that_all_servers_reject_while_another_request_hangs_delays_no_operation() {
    let answer = |seen: &Seen, status| match seen.path() {
        "/nacos/v1/ns/service/list" => Answer::Silence(ms(5000)),
        _ if is_about(seen, "doomed") => Answer::Text(status, "text/plain", "not for you".into()),
        _ => Answer::usual(seen),
    };
    let servers = [Fake::start(move |seen| answer(seen, 400)), Fake::start(move |seen| answer(seen, 403))];
    let addresses = servers.iter().map(Fake::server_address).collect::<Vec<_>>().join(",");
    let registry = start(config_at(&addresses).request_timeout(ms(1000)).operation_timeout(ms(2000)));
    let slowest_no = async {
        let rejected = again_and_again(async || {
            let began = Instant::now();
            (ask(&registry, ListInstances::new("doomed")).await.unwrap_err(), began.elapsed())
        });
        let rejected = rejected.await;
        assert!(rejected.iter().all(|(error, _)| !error.is_retryable()), "{:?}", rejected.first());
        rejected.into_iter().map(|(_, took)| took).max().unwrap()
    };
    let hanging = again_and_again(async || ask(&registry, ListServices::new(1, 10)).await.unwrap_err());
    let no = Cell::new(Duration::ZERO);
    let trouble = async {
        let (slowest_no, _) = join(slowest_no, hanging).await;
        no.set(slowest_no);
    };
    let slowest = slowest_beside(&registry, trouble).await;
    assert!(slowest < PROMPT, "{slowest:?}");
    assert!(no.get() < PROMPT, "the rejection itself: {:?}", no.get());
}

/// Rejections of any kind, of requests about any number of services.
#[actix::test]
async fn rejected_requests_do_not_count_as_failures_of_the_server() {
    let fake = Fake::start(|seen| {
        let rejects = |status| Answer::Text(status, "text/plain", "no".into());
        if seen.path().starts_with("/nacos/v3/") {
            return rejects(404);
        }
        match [400, 403, 404, 429].into_iter().find(|status| is_about(seen, &format!("doomed-{status}"))) {
            Some(status) => rejects(status),
            None => Answer::usual(seen),
        }
    });
    let (logger, log) = logger();
    let config = config_at(&fake.server_address()).operation_timeout(ms(300));
    let registry = start(config.logger(logger));
    let rejected = async |status: u16| {
        let list = async || ask(&registry, ListInstances::new(format!("doomed-{status}"))).await.unwrap_err();
        let register = RegisterInstance::new(format!("doomed-{status}"), "127.0.0.9", status);
        let register = async || ask(&registry, register.clone()).await.unwrap_err();
        join(again_and_again(list), again_and_again(register)).await;
    };
    let trouble = async {
        join(join3(rejected(400), rejected(403), rejected(404)), rejected(429)).await;
    };
    let slowest = slowest_beside(&registry, trouble).await;
    assert!(slowest < PROMPT, "{slowest:?}");
    assert_eq!(log.count("no server reachable"), 0, "{:?}", log.loud());
    let status = ask(&registry, actix_nacos::GetStatus).await.unwrap();
    assert_eq!(status.connection, actix_nacos::ConnectionState::Connected);
    shut_down(&registry).await;
}

#[actix::test]
async fn a_list_that_hangs_delays_no_other_operation() {
    let fake = Fake::start(|seen| match is_about(seen, "doomed") {
        true => Answer::Silence(ms(5000)),
        false => Answer::usual(seen),
    });
    let registry = start(config_at(&fake.server_address()).request_timeout(ms(500)).operation_timeout(ms(1000)));
    let trouble = async {
        let hanging = again_and_again(async || ask(&registry, ListInstances::new("doomed")).await.unwrap_err());
        assert!(hanging.await.iter().all(Error::is_retryable));
    };
    let slowest = slowest_beside(&registry, trouble).await;
    assert!(slowest < PROMPT, "{slowest:?}");
}

/// From the second service on, the failures count against listing at this server, and against nothing else.
#[actix::test]
async fn lists_that_fail_are_no_outage_and_delay_no_other_operation() {
    let fake = Fake::start(|seen| match seen.path() {
        "/nacos/v1/ns/instance/list" => Answer::Text(500, "text/plain", "caused: no leader!;".into()),
        _ => Answer::usual(seen),
    });
    let (logger, log) = logger();
    let registry = start(config_at(&fake.server_address()).operation_timeout(ms(500)).logger(logger));
    ask(&registry, RegisterInstance::new("orders", "127.0.0.7", 80)).await.unwrap();
    let list = async |service| again_and_again(async || ask(&registry, ListInstances::new(service)).await).await;
    let slowest = async {
        let beats = again_and_again(async || {
            let began = Instant::now();
            ask(&registry, SendHeartbeat::new("orders", "127.0.0.8", 80)).await.unwrap();
            began.elapsed()
        });
        beats.await.into_iter().max().unwrap()
    };
    let (_, _, slowest) = join3(list("a"), list("b"), slowest).await;
    assert!(slowest < PROMPT, "{slowest:?}");
    assert_eq!(log.count("no server reachable"), 0, "{:?}", log.loud());
    let is_registration = |seen: &&Seen| seen.method == "POST" && seen.path() == "/nacos/v1/ns/instance";
    assert_eq!(fake.seen().iter().filter(is_registration).count(), 1, "nothing is registered again");
    shut_down(&registry).await;
}
