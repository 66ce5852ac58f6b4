//! Several servers: no operation fails because one server is dead, hangs or fails, and that server is used again later.

use std::{
    net::UdpSocket,
    sync::{
        atomic::{AtomicBool, Ordering},
        Arc,
    },
    time::Instant,
};

use actix::Addr;
use actix_nacos::{
    embedded::EmbeddedServer, DeregisterInstance, Error, GetStatus, ListInstances, Operation, PushConfig,
    RegisterInstance, Registry, ServerStatus, Source, Subscribe, HEART_BEAT_INTERVAL,
};
use futures_util::{stream, StreamExt as _};

use crate::support::{
    ask, config_at, eventually,
    fake::{Answer, Fake, Seen},
    ms, server, shut_down, start, until, News, IP,
};

fn addresses(servers: &[EmbeddedServer]) -> String {
    servers.iter().map(EmbeddedServer::server_address).collect::<Vec<_>>().join(",")
}

fn cluster(size: usize) -> (Vec<EmbeddedServer>, Addr<Registry>) {
    let servers: Vec<_> = (0..size).map(|_| server()).collect();
    let registry = start(config_at(&addresses(&servers)).request_timeout(ms(1000)).operation_timeout(ms(8000)));
    (servers, registry)
}

/// Returns the index of the server in use.
async fn in_use(registry: &Addr<Registry>) -> usize {
    let servers = status(registry).await;
    servers.iter().position(|server| server.in_use).unwrap()
}

async fn status(registry: &Addr<Registry>) -> Vec<ServerStatus> {
    ask(registry, GetStatus).await.unwrap().servers
}

/// Runs many operations, 64 at a time, while the server in use has the fault. None may fail.
async fn no_operation_fails_when(fault: impl Fn(&EmbeddedServer)) {
    let (servers, registry) = cluster(3);
    ask(&registry, ListInstances::new("orders")).await.unwrap();
    let used = in_use(&registry).await;
    let operate = async |number: u16| {
        let port = 8000 + number % 200;
        match number % 4 {
            0 => ask(&registry, RegisterInstance::new("orders", IP, port)).await.map(drop),
            1 => ask(&registry, DeregisterInstance::new("orders", IP, port)).await,
            _ => ask(&registry, ListInstances::new("orders")).await.map(drop),
        }
    };
    let mut operations = std::pin::pin!(stream::iter(0..1000).map(operate).buffer_unordered(64).enumerate());
    let mut failed = Vec::new();
    while let Some((number, outcome)) = operations.next().await {
        if number == 300 {
            fault(&servers[used]);
        }
        failed.extend(outcome.err());
    }
    assert!(failed.is_empty(), "{} failed: {:?}", failed.len(), failed.first());
    assert_ne!(in_use(&registry).await, used, "another one took over");
    servers[used].faults().clear();
    shut_down(&registry).await;
}

#[actix::test]
async fn no_operation_fails_when_a_server_dies() {
    no_operation_fails_when(|server| server.faults().refuse_connections()).await;
}

#[actix::test]
async fn no_operation_fails_when_a_server_hangs() {
    no_operation_fails_when(|server| server.faults().hang(true)).await;
}

#[actix::test]
async fn no_operation_fails_when_a_server_answers_503() {
    no_operation_fails_when(|server| server.faults().fail_share(1.0, 503)).await;
}

#[actix::test]
async fn no_operation_fails_when_a_server_is_dead_from_the_start() {
    for _ in 0..10 {
        // A client starts at a random server, so the test runs several times.
        let (servers, registry) = cluster(2);
        servers[0].faults().refuse_connections();
        ask(&registry, RegisterInstance::new("orders", IP, 80)).await.unwrap();
        assert_eq!(servers[1].instances("orders").len(), 1);
        assert_eq!(in_use(&registry).await, 1);
        shut_down(&registry).await;
    }
}

#[actix::test]
async fn what_was_registered_with_a_dead_server_is_registered_with_the_next() {
    let (servers, registry) = cluster(2);
    for port in 80..90 {
        let register = RegisterInstance::new("orders", IP, port).weight(3.0).metadata(HEART_BEAT_INTERVAL, "300");
        ask(&registry, register).await.unwrap();
    }
    let used = in_use(&registry).await;
    servers[used].faults().refuse_connections();
    let next = &servers[1 - used];
    until("the next one has all", || next.instances("orders").len() == 10).await;
    assert!(next.instances("orders").iter().all(|instance| instance.weight == 3.0));
    shut_down(&registry).await;
    assert!(next.instances("orders").is_empty());
}

#[actix::test]
async fn a_server_that_came_back_is_used_again() {
    let (servers, registry) = cluster(2);
    ask(&registry, ListInstances::new("orders")).await.unwrap();
    let first = in_use(&registry).await;
    for used in [first, 1 - first, first] {
        assert_eq!(in_use(&registry).await, used);
        servers[used].faults().refuse_connections();
        ask(&registry, RegisterInstance::new("orders", IP, 80)).await.unwrap();
        assert_eq!(in_use(&registry).await, 1 - used);
        servers[used].faults().accept_connections();
    }
    shut_down(&registry).await;
}

#[actix::test]
async fn an_outage_of_all_servers_is_bridged_within_the_operations_deadline() {
    let (servers, registry) = cluster(2);
    ask(&registry, ListInstances::new("orders")).await.unwrap();
    servers.iter().for_each(|server| server.faults().refuse_connections());
    let waiting = registry.send(RegisterInstance::new("orders", IP, 80));
    let failing = async || status(&registry).await.iter().all(|server| server.failures > 0).then_some(());
    eventually("both have been tried", failing).await;
    servers[1].faults().accept_connections();
    waiting.await.unwrap().unwrap();
    assert_eq!(servers[1].instances("orders").len(), 1);
    shut_down(&registry).await;
}

#[actix::test]
async fn an_outage_beyond_the_deadline_is_a_retryable_error() {
    let servers = [server(), server()];
    let registry = start(config_at(&addresses(&servers)).operation_timeout(ms(300)));
    servers.iter().for_each(|server| server.faults().refuse_connections());
    let began = Instant::now();
    let refused = ask(&registry, ListInstances::new("orders")).await.unwrap_err();
    assert!(matches!(refused, Error::Unreachable { .. }) && refused.is_retryable(), "{refused:?}");
    assert!(began.elapsed() < ms(2000), "{:?}", began.elapsed());
}

#[actix::test]
async fn requests_while_all_servers_are_down_do_not_grow_with_the_instances() {
    let server = server();
    let registry = start(config_at(&server.server_address()));
    for port in 8000..8200 {
        ask(&registry, RegisterInstance::new("orders", IP, port).metadata(HEART_BEAT_INTERVAL, "200")).await.unwrap();
    }
    let requests = async || status(&registry).await[0].requests;
    server.faults().fail_share(1.0, 503);
    let failing = async || (status(&registry).await[0].failures >= 5).then_some(());
    eventually("it is noticed", failing).await;
    // Registrations are tried instead of the beats, and they have their own breaker.
    until("registrations are tried", || server.counters().requests_for(Operation::Register) > 200).await;
    // Waits for the registrations that were already sent.
    actix_rt::time::sleep(ms(300)).await;
    let before = requests().await;
    // Counts the requests in one second. Without a breaker there would be 1,000 beats.
    actix_rt::time::sleep(ms(1000)).await;
    let sent = requests().await - before;
    assert!(sent <= 20, "{sent} requests in a second");
    server.faults().clear();
    let recovered = async || (status(&registry).await[0].failures == 0).then_some(());
    eventually("it is used again", recovered).await;
    shut_down(&registry).await;
}

#[actix::test]
async fn listeners_receive_no_change_when_another_server_takes_over() {
    let (servers, registry) = cluster(2);
    for server in &servers {
        // Both servers know the instance, as in a cluster.
        let owner = start(config_at(&server.server_address()));
        ask(&owner, RegisterInstance::new("orders", IP, 80)).await.unwrap();
        std::mem::forget(owner);
    }
    let mut news = News::listen();
    ask(&registry, actix_nacos::Subscribe::new("orders", news.recipient())).await.unwrap();
    news.next().await;
    let used = in_use(&registry).await;
    servers[used].faults().refuse_connections();
    let taken_over = async || (in_use(&registry).await != used).then_some(());
    eventually("the other one is asked", taken_over).await;
    let fine = async || {
        let subscriptions = ask(&registry, GetStatus).await.unwrap().subscriptions;
        subscriptions[0].last_error.is_none().then_some(())
    };
    eventually("its list has come", fine).await;
    assert!(news.waiting().is_empty());
}

/// The other configured address is a web server that is no Nacos, or a gateway that redirects.
async fn a_server_comes_back_beside(other: fn() -> Answer) {
    let (other, server) = (Fake::start(move |_| other()), server());
    server.faults().refuse_connections();
    let addresses = format!("{},{}", other.server_address(), server.server_address());
    // A client starts at a random server; here it must be the other one.
    let registry = loop {
        let registry = start(config_at(&addresses).operation_timeout(ms(300)));
        if in_use(&registry).await == 0 {
            break registry;
        }
        shut_down(&registry).await;
    };
    let register = || RegisterInstance::new("orders", IP, 80);
    ask(&registry, register()).await.unwrap_err();
    server.faults().accept_connections();
    eventually("the one that serves is asked again", async || ask(&registry, register()).await.ok()).await;
    assert_eq!(in_use(&registry).await, 1);
    assert_eq!(server.instances("orders").len(), 1);
    shut_down(&registry).await;
}

#[actix::test]
async fn a_server_that_came_back_is_used_beside_one_that_is_no_nacos() {
    a_server_comes_back_beside(|| Answer::Text(404, "text/html", "<html>no such page</html>".into())).await;
}

#[actix::test]
async fn a_server_that_came_back_is_used_beside_a_gateway_that_redirects() {
    a_server_comes_back_beside(|| {
        Answer::Raw(b"HTTP/1.1 302 Found\r\nLocation: https://sso/\r\nContent-Length: 0\r\n\r\n".to_vec())
    })
    .await;
}

#[actix::test]
async fn one_failure_moves_no_instance_to_another_server() {
    let (servers, registry) = cluster(2);
    ask(&registry, RegisterInstance::new("orders", IP, 80)).await.unwrap();
    let used = in_use(&registry).await;
    servers[used].faults().only_for(&[Operation::List]);
    servers[used].faults().fail_share(1.0, 503);
    ask(&registry, ListInstances::new("orders")).await.unwrap();
    servers[used].faults().clear();
    assert_eq!(in_use(&registry).await, used);
    shut_down(&registry).await;
}

#[actix::test]
async fn a_request_that_one_server_rejects_as_bad_is_sent_to_the_next() {
    let (servers, registry) = cluster(2);
    ask(&registry, ListInstances::new("orders")).await.unwrap();
    let used = in_use(&registry).await;
    servers[used].faults().fail_share(1.0, 400);
    ask(&registry, RegisterInstance::new("orders", IP, 80)).await.unwrap();
    assert_eq!(servers[1 - used].instances("orders").len(), 1);
    // If all servers reject the request, the rejection is the answer, and no server is waited for.
    servers[1 - used].faults().fail_share(1.0, 400);
    let error = ask(&registry, RegisterInstance::new("orders", IP, 81)).await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error:?}");
    servers.iter().for_each(|server| server.faults().clear());
    shut_down(&registry).await;
}

/// The text of a push of `orders` with one instance, and a time that no list of a fake has.
fn push() -> Vec<u8> {
    let list = serde_json::json!({
        "name": "DEFAULT_GROUP@@orders", "groupName": "DEFAULT_GROUP", "clusters": "", "cacheMillis": 10000,
        "hosts": [{"ip": "127.0.0.7", "port": 80, "weight": 1.0, "healthy": true, "enabled": true, "ephemeral": true,
            "clusterName": "DEFAULT", "serviceName": "DEFAULT_GROUP@@orders", "metadata": {}}],
        "lastRefTime": 1_000,
    });
    serde_json::json!({"type": "dom", "data": list.to_string(), "lastRefTime": 1}).to_string().into_bytes()
}

#[actix::test]
async fn pushes_arrive_from_a_server_of_the_other_family_that_took_over() {
    let is_dead = Arc::new(AtomicBool::new(false));
    let dead = is_dead.clone();
    let old = Fake::start(move |seen| match dead.load(Ordering::Acquire) {
        true => Answer::Close,
        false => Answer::usual(seen),
    });
    let new = Fake::start_at("[::1]:0", Answer::usual);
    let addresses = format!("{},{}", old.server_address(), new.server_address());
    // A client starts at a random server; here it must be the old one.
    let registry = loop {
        let often = config_at(&addresses).poll_interval(ms(500), ms(500)).push(PushConfig::default());
        let registry = start(often);
        if in_use(&registry).await == 0 {
            break registry;
        }
        shut_down(&registry).await;
    };
    let mut news = News::listen();
    ask(&registry, Subscribe::new("orders", news.recipient())).await.unwrap();
    news.next().await;
    assert_eq!(old.seen()[0].parameter("clientIP"), Some("127.0.0.1"), "{:?}", old.seen());

    is_dead.store(true, Ordering::Release);
    let server = UdpSocket::bind("[::1]:0").unwrap();
    let pushed = eventually("a push of the new one is told", async || {
        let seen = new.seen();
        let asked = seen.iter().rev().find(|seen| seen.path() == "/nacos/v1/ns/instance/list")?;
        let port: u16 = asked.parameter("udpPort")?.parse().ok()?;
        // Sends a push to the address that the client has sent to the new server.
        server.send_to(&push(), ("::1", port)).ok()?;
        actix_rt::time::sleep(ms(20)).await;
        news.waiting().pop()
    })
    .await;
    assert_eq!(pushed.source, Source::Push, "{pushed:?}");
    assert_eq!(pushed.added[0].ip, "127.0.0.7");
    let told = |seen: &Seen| seen.parameter("clientIP").is_some_and(|ip| ip == "%3A%3A1" || ip == "::1");
    assert!(new.seen().iter().any(told), "{:?}", new.seen());
    shut_down(&registry).await;
}
