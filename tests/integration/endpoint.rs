//! The server list from an `endpoint` URL, also while the list changes.

use std::{
    sync::{Arc, Mutex},
    thread,
    time::Instant,
};

use actix::Addr;
use actix_nacos::{Config, GetStatus, ListInstances, PushConfig, RegisterInstance, Registry, HEART_BEAT_INTERVAL};
use futures_util::future::join_all;

use crate::support::{
    self, ask, eventually,
    fake::{self, Answer, Fake},
    ms, ports, server, servers, shut_down, start, until, POLL,
};

/// An address server. The test can change its answer.
fn address_server(answer: Answer) -> (Fake, Arc<Mutex<Answer>>) {
    let answer = Arc::new(Mutex::new(answer));
    let shared = answer.clone();
    (Fake::start(move |_| shared.lock().unwrap().clone()), answer)
}

fn list(addresses: &str) -> Answer {
    Answer::Text(200, "text/plain", addresses.replace(',', "\n"))
}

fn config(endpoint: &Fake) -> Config {
    Config::at_endpoint(format!("http://{}/nacos/serverlist?tenant=a%20b", endpoint.address))
        .endpoint_interval(ms(100))
        .poll_interval(POLL, POLL)
        .request_timeout(ms(2000))
        .operation_timeout(ms(4000))
        .push(PushConfig::off())
}

async fn known(registry: &Addr<Registry>) -> Vec<String> {
    let status = ask(registry, GetStatus).await.expect("a status");
    status.servers.into_iter().map(|server| server.address).collect()
}

#[actix::test]
async fn instances_follow_a_list_that_changes_at_run_time() {
    let (old, new) = (server(), server());
    let (endpoint, answer) = address_server(list(&old.server_address()));
    let registry = start(config(&endpoint));
    ask(&registry, RegisterInstance::new("orders", "127.0.0.7", 80).metadata(HEART_BEAT_INTERVAL, "200"))
        .await
        .unwrap();
    ask(&registry, RegisterInstance::new("ledger", "127.0.0.7", 80).ephemeral(false)).await.unwrap();
    assert_eq!((ports(&old, "orders"), ports(&new, "orders")), (vec![80], vec![]));
    *answer.lock().unwrap() = list(&new.server_address());
    until("they are at the new server", || ports(&new, "orders") == [80] && ports(&new, "ledger") == [80]).await;
    assert_eq!(known(&registry).await, [new.server_address()]);
    shut_down(&registry).await;
    for seen in endpoint.seen() {
        assert_eq!(seen.target, "/nacos/serverlist?tenant=a%20b");
        assert_eq!(seen.header("host"), Some(&*endpoint.server_address()));
    }
}

#[actix::test]
async fn a_server_that_joins_is_used_when_the_other_dies() {
    let (servers, both) = servers(2);
    let (endpoint, answer) = address_server(list(&servers[0].server_address()));
    let registry = start(config(&endpoint));
    ask(&registry, ListInstances::new("orders")).await.unwrap();
    *answer.lock().unwrap() = list(&both);
    eventually("it has joined", async || (known(&registry).await.len() == 2).then_some(())).await;
    servers[0].faults().refuse_connections();
    ask(&registry, ListInstances::new("orders")).await.unwrap();
    shut_down(&registry).await;
}

#[actix::test]
async fn a_listener_that_subscribes_before_the_first_list_waits_for_it() {
    let server = server();
    let (endpoint, answer) = address_server(Answer::Close);
    let registry = start(config(&endpoint));
    let asked = registry.send(ListInstances::new("orders"));
    let asked = actix_rt::spawn(asked);
    until("the endpoint was asked", || !endpoint.seen().is_empty()).await;
    *answer.lock().unwrap() = list(&server.server_address());
    support::soon("the answer", asked).await.unwrap().unwrap().unwrap();
    shut_down(&registry).await;
}

#[actix::test]
async fn an_endpoint_that_fails_leaves_the_last_list_and_is_logged_once() {
    let server = server();
    let (endpoint, answer) = address_server(list(&server.server_address()));
    let (logger, log) = support::logs::logger();
    let registry = start(config(&endpoint).logger(logger));
    ask(&registry, ListInstances::new("orders")).await.unwrap();
    let bad = [
        Answer::Close,
        Answer::Text(500, "text/plain", "no".into()),
        Answer::Text(200, "text/html", "<html><body>not here</body></html>".into()),
        Answer::Text(200, "text/plain", String::new()),
        Answer::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n127.0.0.1:1".to_vec()),
    ];
    for answer_now in bad {
        let asked = endpoint.seen().len();
        *answer.lock().unwrap() = answer_now;
        until("it was asked twice", || endpoint.seen().len() >= asked + 2).await;
        assert_eq!(known(&registry).await, [server.server_address()]);
    }
    ask(&registry, ListInstances::new("orders")).await.unwrap();
    *answer.lock().unwrap() = list(&server.server_address());
    until("it is well again", || log.count("fetched server list again") == 1).await;
    assert_eq!(log.count("failed to fetch server list"), 1, "{:?}", log.loud());
    shut_down(&registry).await;
}

#[actix::test]
async fn connections_to_servers_that_left_the_list_are_closed() {
    // The server is slow, so that concurrent requests need a connection each.
    let slow = |seen: &fake::Seen| {
        thread::sleep(ms(20));
        Answer::usual(seen)
    };
    let servers: Vec<_> = (0..10).map(|_| Fake::start(slow)).collect();
    let (endpoint, answer) = address_server(list(&servers[0].server_address()));
    let registry = start(config(&endpoint));
    let mut slowest = ms(0);
    for (number, server) in servers.iter().enumerate() {
        *answer.lock().unwrap() = list(&server.server_address());
        eventually("it is the only one", async || (known(&registry).await == [server.server_address()]).then_some(()))
            .await;
        let left_at = Instant::now();
        let asked = (0..8).map(|_| ask(&registry, ListInstances::new("orders")));
        join_all(asked).await.into_iter().for_each(|listed| drop(listed.unwrap()));
        assert!(server.connections() >= 8, "{}", server.connections());
        if let Some(before) = number.checked_sub(1).map(|before| &servers[before]) {
            until("the one before is left", || before.connections() == 0).await;
            slowest = slowest.max(left_at.elapsed());
        }
    }
    // The promise is one second.
    assert!(slowest < ms(5000), "{slowest:?}");
    shut_down(&registry).await;
}

/// The server leaves the list while the request is under way.
#[actix::test]
async fn a_request_to_a_server_that_leaves_the_list_is_answered() {
    let old = Fake::start(|seen| {
        thread::sleep(ms(500));
        Answer::usual(seen)
    });
    let new = server();
    let (endpoint, answer) = address_server(list(&old.server_address()));
    let registry = start(config(&endpoint));
    let asked = actix_rt::spawn(registry.send(ListInstances::new("orders")));
    until("the request is under way", || !old.seen().is_empty()).await;
    *answer.lock().unwrap() = list(&new.server_address());
    support::soon("the answer", asked).await.unwrap().unwrap().unwrap();
    assert_eq!(known(&registry).await, [new.server_address()]);
    until("its connections are closed", || old.connections() == 0).await;
    shut_down(&registry).await;
}

#[actix::test]
async fn a_page_that_is_no_server_list_replaces_no_server_and_causes_one_warning() {
    let server = server();
    let (endpoint, answer) = address_server(list(&server.server_address()));
    let (logger, log) = support::logs::logger();
    let registry = start(config(&endpoint).logger(logger));
    ask(&registry, ListInstances::new("orders")).await.unwrap();
    let pages = [
        "Forbidden",
        "404\n",
        "not found",
        "/nacos/login",
        "http://127.0.0.1:1/login?next=/nacos",
        r#"{"code":404,"message":"no list"}"#,
        "# all of\n# it is comments",
    ];
    for page in pages {
        let asked = endpoint.seen().len();
        *answer.lock().unwrap() = Answer::Text(200, "text/plain", page.into());
        until("it was asked twice", || endpoint.seen().len() >= asked + 2).await;
        assert_eq!(known(&registry).await, [server.server_address()], "{page:?}");
    }
    ask(&registry, ListInstances::new("orders")).await.unwrap();
    assert_eq!(log.count("failed to fetch server list"), 1, "{:?}", log.loud());
    shut_down(&registry).await;
}
