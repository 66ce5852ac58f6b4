//! One login for all requests, a token that stays out of URLs, and what becomes of refused ones.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use actix::Addr;
use actix_nacos::{
    embedded::{Dialect, EmbeddedServer},
    Config, Error, GetStatus, ListInstances, Operation, Protocol, RegisterInstance, Registry, Subscribe,
    HEART_BEAT_INTERVAL,
};
use futures_util::future::join_all;
use support::{
    ask, config, config_at, eventually,
    fake::{Answer, Fake, Seen},
    ms, server, shut_down, start, until, News,
};

const IP: &str = "10.77.0.7";
const PASSWORD: &str = "correct-horse";

fn guarded(dialect: Dialect) -> EmbeddedServer {
    support::builder().dialect(dialect).user("me", PASSWORD).start().unwrap()
}

fn logged_in(server: &EmbeddedServer) -> Config {
    config(server).credentials("me", PASSWORD)
}

fn logins(server: &EmbeddedServer) -> u64 {
    server.counters().requests_for(Operation::Login)
}

async fn ask_much(registry: &Addr<Registry>) {
    let asked = (8000..8064).map(|port| ask(registry, RegisterInstance::new("orders", IP, port)));
    join_all(asked).await.into_iter().for_each(Result::unwrap);
}

#[actix::test]
async fn one_login_serves_many_requests_on_every_server() {
    for dialect in Dialect::all() {
        let server = guarded(dialect);
        let registry = start(logged_in(&server));
        ask_much(&registry).await;
        assert_eq!(ask(&registry, ListInstances::new("orders")).await.unwrap().hosts.len(), 64, "on {dialect}");
        let session = ask(&registry, GetStatus).await.unwrap().session.unwrap();
        assert!(session.logged_in && session.last_error.is_none());
        assert_eq!(session.logins, 1, "on {dialect}");
        shut_down(&registry).await;
    }
}

#[actix::test]
async fn a_token_that_has_expired_is_fetched_again_once_for_all() {
    for dialect in Dialect::all() {
        let server = guarded(dialect);
        let registry = start(logged_in(&server));
        ask_much(&registry).await;
        let before = logins(&server);
        server.faults().expire_tokens();
        ask_much(&registry).await;
        assert_eq!(logins(&server), before + 1, "on {dialect}");
        shut_down(&registry).await;
    }
}

#[actix::test]
async fn a_server_that_lost_all_tokens_is_logged_in_to_again() {
    let server = guarded(Dialect::V2_5);
    let registry = start(logged_in(&server));
    ask(&registry, RegisterInstance::new("orders", IP, 80).metadata(HEART_BEAT_INTERVAL, "200")).await.unwrap();
    server.restart_empty().unwrap();
    until("the instance is back", || server.instances("orders").len() == 1).await;
    shut_down(&registry).await;
}

#[actix::test]
async fn a_token_is_fetched_again_before_it_ends() {
    let server = support::builder().user("me", PASSWORD).token_ttl(ms(1000)).start().unwrap();
    let registry = start(logged_in(&server));
    let began = std::time::Instant::now();
    while began.elapsed() < ms(2500) {
        ask(&registry, ListInstances::new("orders")).await.unwrap();
    }
    let logins = logins(&server);
    assert!((3..=4).contains(&logins), "{logins} logins in 2.5 s");
}

#[actix::test]
async fn a_wrong_password_is_a_clear_error_and_no_loop() {
    for dialect in Dialect::all() {
        let server = guarded(dialect);
        let registry = start(config(&server).credentials("me", "wrong"));
        let news = News::listen();
        ask(&registry, Subscribe::new("orders", news.recipient())).await.unwrap();
        let answers = join_all((0..64).map(|_| ask(&registry, ListInstances::new("orders")))).await;
        for answer in answers {
            let refused = answer.unwrap_err();
            assert!(matches!(refused, Error::Unauthorized { operation: Operation::Login, .. }), "{refused:?}");
            assert!(!refused.is_retryable() && refused.to_string().contains(&server.server_address()), "{refused}");
        }
        assert_eq!(logins(&server), 1, "on {dialect}");
        let session = ask(&registry, GetStatus).await.unwrap().session.unwrap();
        assert!(!session.logged_in && session.last_error.is_some());
    }
}

#[actix::test]
async fn no_credentials_where_some_are_wanted_is_an_error_that_says_so() {
    let server = guarded(Dialect::V2_5);
    let registry = support::registry(&server);
    let refused = ask(&registry, ListInstances::new("orders")).await.unwrap_err();
    assert!(matches!(refused, Error::Unauthorized { .. }) && refused.to_string().contains("credentials"), "{refused}");
    assert_eq!(logins(&server), 0);
}

#[actix::test]
async fn without_credentials_nobody_logs_in() {
    let server = server();
    let registry = support::registry(&server);
    ask_much(&registry).await;
    assert_eq!(logins(&server), 0);
    assert!(ask(&registry, GetStatus).await.unwrap().session.is_none());
    shut_down(&registry).await;
}

const LOGIN: &str = "/nacos/v1/auth/login";
const TOKEN: &str = "0123456789abcdef";

/// Gives tokens, and refuses them a number of times.
fn refusing(times: usize) -> Fake {
    let left = std::sync::Mutex::new(times);
    Fake::start(move |seen| {
        if seen.path() == LOGIN {
            return Answer::json(format!(r#"{{"accessToken":"{TOKEN}","tokenTtl":18000,"globalAdmin":true}}"#));
        }
        let mut left = left.lock().unwrap();
        if *left == 0 {
            return Answer::usual(seen);
        }
        *left -= 1;
        Answer::Text(403, "application/json", r#"{"status":403,"message":"token expired!"}"#.into())
    })
}

async fn list_at(fake: &Fake) -> Result<(), Error> {
    let config = config_at(&fake.server_address()).credentials("me", PASSWORD).protocol(Protocol::V1);
    ask(&start(config), ListInstances::new("orders")).await.map(drop)
}

#[actix::test]
async fn the_token_goes_in_a_header_and_neither_it_nor_the_password_in_a_url() {
    let fake = refusing(0);
    list_at(&fake).await.unwrap();
    let seen = fake.seen();
    assert_eq!(seen.iter().map(Seen::path).collect::<Vec<_>>(), [LOGIN, "/nacos/v1/ns/instance/list"]);
    assert!(seen.iter().all(|seen| !seen.target.contains(TOKEN) && !seen.target.contains(PASSWORD)), "{seen:?}");
    assert_eq!(seen[0].body, format!("username=me&password={PASSWORD}"));
    let bearer = format!("Bearer {TOKEN}");
    assert_eq!((seen[1].header("Authorization"), seen[0].header("Authorization")), (Some(&*bearer), None));
}

#[actix::test]
async fn a_refused_request_is_repeated_once_and_no_more() {
    let once = refusing(1);
    list_at(&once).await.unwrap();
    assert_eq!(once.seen().len(), 4, "log in, ask, log in, ask");
    let ever = refusing(usize::MAX);
    let refused = list_at(&ever).await.unwrap_err();
    assert!(matches!(refused, Error::Unauthorized { .. }), "{refused:?}");
    assert_eq!(ever.seen().len(), 4);
}

#[actix::test]
async fn a_login_that_fails_otherwise_may_succeed_later() {
    let server = guarded(Dialect::V2_5);
    let registry = start(logged_in(&server).operation_timeout(ms(100)));
    server.faults().only_for(&[Operation::Login]);
    server.faults().fail_share(1.0, 503);
    let refused = ask(&registry, ListInstances::new("orders")).await.unwrap_err();
    assert!(refused.is_retryable(), "{refused:?}");
    server.faults().clear();
    let listed = async || ask(&registry, ListInstances::new("orders")).await.ok();
    eventually("the list can be had", listed).await;
}

#[actix::test]
async fn a_server_that_refuses_our_login_costs_nothing_while_another_one_takes_it() {
    for _ in 0..8 {
        // Where it begins is drawn by lot.
        let takes = guarded(Dialect::V2_5);
        let refuses = support::builder().user("me", "another").start().unwrap();
        let addresses = format!("{},{}", refuses.server_address(), takes.server_address());
        let config = config_at(&addresses).credentials("me", PASSWORD).operation_timeout(ms(500));
        let registry = start(config);
        for port in 80..90 {
            ask(&registry, RegisterInstance::new("orders", IP, port)).await.unwrap();
        }
        assert_eq!(takes.instances("orders").len(), 10);
        assert!(logins(&refuses) <= 2, "not tried in a loop: {}", logins(&refuses));
        let status = ask(&registry, GetStatus).await.unwrap();
        let in_use = status.servers.iter().find(|server| server.in_use).unwrap();
        assert_eq!(in_use.address, takes.server_address(), "the one that serves is watched for its end");

        takes.faults().refuse_connections();
        for _ in 0..2 {
            let failed = ask(&registry, ListInstances::new("orders")).await.unwrap_err();
            assert!(failed.is_retryable(), "the one that serves may come back: {failed:?}");
        }
        takes.faults().accept_connections();
        let serves = async || ask(&registry, ListInstances::new("orders")).await.ok();
        eventually("the other one is used again", serves).await;
        shut_down(&registry).await;
    }
}

#[actix::test]
async fn trouble_of_the_server_is_no_refused_login() {
    let fake = Fake::start(|seen| match seen.path() {
        "/nacos/v1/auth/login" => Answer::Text(500, "text/plain", "caused: the pool is exhausted;".into()),
        _ => Answer::usual(seen),
    });
    let registry = start(config_at(&fake.server_address()).credentials("me", PASSWORD).operation_timeout(ms(300)));
    let failed = ask(&registry, ListInstances::new("orders")).await.unwrap_err();
    assert!(failed.is_retryable() && failed.status() == Some(500), "{failed:?}");
    shut_down(&registry).await;
}
