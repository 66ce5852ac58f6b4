//! One login serves all requests, tokens are in no URL, and rejected tokens are replaced.

use std::sync::{
    atomic::{AtomicUsize, Ordering},
    Arc, Mutex,
};

use actix::Addr;
use actix_nacos::{
    embedded::{Dialect, EmbeddedServer},
    Config, Error, GetStatus, ListInstances, Operation, Protocol, RegisterInstance, Registry, SetCredentials,
    Subscribe, HEART_BEAT_INTERVAL,
};
use futures_util::future::join_all;
use slog::Level;

use crate::support::{
    self, ask, config, config_at, eventually,
    fake::{Answer, Fake, Seen},
    logs, ms, server, shut_down, start, until, News, IP,
};

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
    join_all(asked).await.into_iter().for_each(|answer| drop(answer.unwrap()));
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
async fn while_authentication_is_off_a_rejected_login_is_one_warning_and_no_failure() {
    for dialect in Dialect::all() {
        let server = support::builder().dialect(dialect).start().unwrap();
        let (logger, log) = logs::logger();
        let registry = start(logged_in(&server).logger(logger));
        ask_much(&registry).await;
        let beating = RegisterInstance::new("orders", IP, 80).metadata(HEART_BEAT_INTERVAL, "50");
        ask(&registry, beating).await.unwrap();
        let mut news = News::listen();
        ask(&registry, Subscribe::new("orders", news.recipient())).await.unwrap();
        assert_eq!(news.next().await.info.hosts.len(), 65, "on {dialect}");
        // Long enough for the next login to be tried.
        let has_beaten_often = async || {
            let status = ask(&registry, GetStatus).await.unwrap();
            status.instances.iter().any(|instance| instance.beats > 25).then_some(())
        };
        eventually("beats", has_beaten_often).await;
        assert!(logins(&server) <= 6, "{} logins on {dialect}", logins(&server));
        let session = ask(&registry, GetStatus).await.unwrap().session.unwrap();
        assert!(!session.logged_in && session.last_error.is_some(), "on {dialect}: {session:?}");
        shut_down(&registry).await;
        let warnings: Vec<_> = log.lines().into_iter().filter(|line| line.level.is_at_least(Level::Warning)).collect();
        assert_eq!(warnings.len(), 1, "on {dialect}: {warnings:?}");
        assert!(
            warnings[0].text.contains("login rejected, server accepts requests without a token"),
            "on {dialect}: {warnings:?}"
        );
    }
}

#[actix::test]
async fn a_login_that_is_rejected_while_authentication_is_off_is_tried_again() {
    let refused_logins = AtomicUsize::new(2);
    let fake = Fake::start(move |seen| {
        let is_refused = || refused_logins.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        match seen.path() {
            LOGIN if is_refused().is_ok() => Answer::Text(403, "text/plain", "unknown user!".into()),
            LOGIN => Answer::json(format!(r#"{{"accessToken":"{TOKEN}","tokenTtl":18000}}"#)),
            _ => Answer::usual(seen),
        }
    });
    let (logger, log) = logs::logger();
    let registry = start(config_at(&fake.server_address()).credentials("me", PASSWORD).logger(logger));
    let is_with_token = async || {
        ask(&registry, ListInstances::new("orders")).await.unwrap();
        fake.seen().last().unwrap().header("Authorization").map(drop)
    };
    eventually("the login is accepted", is_with_token).await;
    assert_eq!(fake.seen().iter().filter(|seen| seen.path() == LOGIN).count(), 3);
    assert_eq!((log.count("login rejected"), log.count("login accepted")), (1, 1), "{:?}", log.loud());
    shut_down(&registry).await;
}

#[actix::test]
async fn a_server_without_a_login_is_used_without_a_token() {
    let fake = Fake::start(|seen| match seen.path().contains("/auth/") {
        true => Answer::Text(404, "text/plain", String::new()),
        false => Answer::usual(seen),
    });
    let registry = start(config_at(&fake.server_address()).credentials("me", PASSWORD));
    for _ in 0..3 {
        ask(&registry, ListInstances::new("orders")).await.unwrap();
    }
    assert!(ask(&registry, GetStatus).await.unwrap().session.unwrap().last_error.unwrap().contains("no login"));
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
async fn missing_credentials_are_an_error_that_says_so() {
    let server = guarded(Dialect::V2_5);
    let registry = support::registry(&server);
    let refused = ask(&registry, ListInstances::new("orders")).await.unwrap_err();
    assert!(matches!(refused, Error::Unauthorized { .. }) && refused.to_string().contains("credentials"), "{refused}");
    assert_eq!(logins(&server), 0);
}

#[actix::test]
async fn without_credentials_there_is_no_login() {
    let server = server();
    let registry = support::registry(&server);
    ask_much(&registry).await;
    assert_eq!(logins(&server), 0);
    assert!(ask(&registry, GetStatus).await.unwrap().session.is_none());
    shut_down(&registry).await;
}

#[actix::test]
async fn replaced_credentials_count_at_once() {
    for dialect in Dialect::all() {
        let server = support::builder().dialect(dialect).user("me", PASSWORD).user("you", PASSWORD).start().unwrap();
        let registry = start(config(&server).credentials("me", "wrong"));
        for _ in 0..2 {
            let refused = list(&registry).await.unwrap_err();
            assert!(matches!(refused, Error::Unauthorized { operation: Operation::Login, .. }), "{refused:?}");
        }
        ask(&registry, SetCredentials::new("you", PASSWORD)).await.unwrap();
        ask_much(&registry).await;
        assert_eq!(logins(&server), 2, "on {dialect}");
        let session = ask(&registry, GetStatus).await.unwrap().session.unwrap();
        assert!(session.logged_in && session.last_error.is_none(), "on {dialect}: {session:?}");
        ask(&registry, SetCredentials::new("me", PASSWORD)).await.unwrap();
        ask_much(&registry).await;
        assert_eq!(logins(&server), 3, "the former token is dropped, on {dialect}");
        shut_down(&registry).await;
    }
}

#[actix::test]
async fn credentials_may_come_later() {
    let server = guarded(Dialect::V2_5);
    let registry = support::registry(&server);
    let refused = list(&registry).await.unwrap_err();
    assert!(refused.to_string().contains("no credentials are set"), "{refused}");
    ask(&registry, SetCredentials::new("me", PASSWORD)).await.unwrap();
    list(&registry).await.unwrap();
    assert!(ask(&registry, GetStatus).await.unwrap().session.unwrap().logged_in);
    shut_down(&registry).await;
}

const LOGIN: &str = "/nacos/v1/auth/login";
const TOKEN: &str = "0123456789abcdef";

/// A server that gives a new token at each login, and accepts all tokens since its key last changed.
struct Guarded {
    fake: Fake,
    rejection: Arc<Mutex<Answer>>,
    logins: Arc<AtomicUsize>,
    valid: Arc<AtomicUsize>,
}

impl Guarded {
    fn start() -> Self {
        let rejection = Arc::new(Mutex::new(Answer::Text(403, "text/plain", String::new())));
        let (logins, valid) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(1)));
        let (refusal_of, logins_of, valid_of) = (rejection.clone(), logins.clone(), valid.clone());
        let fake = Fake::start(move |seen| {
            if seen.path() == LOGIN {
                let number = logins_of.fetch_add(1, Ordering::SeqCst) + 1;
                return Answer::json(format!(r#"{{"accessToken":"{TOKEN}{number}","tokenTtl":18000}}"#));
            }
            let token = seen.header("Authorization").and_then(|value| value.strip_prefix("Bearer "));
            let number = token.and_then(|token| token.strip_prefix(TOKEN)?.parse().ok());
            match number.is_some_and(|number: usize| number >= valid_of.load(Ordering::SeqCst)) {
                true => Answer::usual(seen),
                false => refusal_of.lock().unwrap().clone(),
            }
        });
        Guarded { fake, rejection, logins, valid }
    }

    /// Rejects all earlier tokens from now on, with this answer.
    fn change_key(&self, rejection: Answer) {
        *self.rejection.lock().unwrap() = rejection;
        self.valid.store(self.logins() + 1, Ordering::SeqCst);
    }

    fn take_nothing(&self) {
        self.valid.store(usize::MAX, Ordering::SeqCst);
    }

    fn logins(&self) -> usize {
        self.logins.load(Ordering::SeqCst)
    }

    fn registry(&self) -> Addr<Registry> {
        start(config_at(&self.fake.server_address()).credentials("me", PASSWORD).protocol(Protocol::V1))
    }
}

async fn list(registry: &Addr<Registry>) -> Result<(), Error> {
    ask(registry, ListInstances::new("orders")).await.map(drop)
}

#[actix::test]
async fn the_token_goes_in_a_header_and_neither_it_nor_the_password_in_a_url() {
    let guarded = Guarded::start();
    list(&guarded.registry()).await.unwrap();
    let seen = guarded.fake.seen();
    assert_eq!(seen.iter().map(Seen::path).collect::<Vec<_>>(), [LOGIN, "/nacos/v1/ns/instance/list"]);
    assert!(seen.iter().all(|seen| !seen.target.contains(TOKEN) && !seen.target.contains(PASSWORD)), "{seen:?}");
    assert_eq!(seen[0].body, format!("username=me&password={PASSWORD}"));
    let bearer = format!("Bearer {TOKEN}1");
    assert_eq!((seen[1].header("Authorization"), seen[0].header("Authorization")), (Some(&*bearer), None));
}

#[actix::test]
async fn a_token_that_was_accepted_before_is_replaced_once_whatever_the_rejection_says() {
    let spring = |message: &str| {
        let page = r#"{"timestamp":"","status":403,"error":"Forbidden","path":"","message":"#;
        Answer::Text(403, "application/json", format!(r#"{page}"{message}"}}"#))
    };
    let text = |status, text: &str| Answer::Text(status, "text/html", text.into());
    let refusals = [
        spring("token invalid!"),
        spring("token expired!"),
        spring("Invalid signature"),
        spring("Code: 401, Message: Invalid signature."),
        spring("unknown user!"),
        spring("unsupported signature algorithm"),
        spring("authorization failed!"),
        spring(""),
        text(403, ""),
        text(403, "<html>\nForbidden</html>"),
        text(401, "who are you?"),
    ];
    for rejection in refusals {
        let guarded = Guarded::start();
        let registry = guarded.registry();
        list(&registry).await.unwrap();
        guarded.change_key(rejection.clone());
        let asked = join_all((0..64).map(|_| list(&registry))).await;
        assert!(asked.iter().all(Result::is_ok), "{rejection:?}: {asked:?}");
        assert_eq!(guarded.logins(), 2, "{rejection:?}");
        shut_down(&registry).await;
    }
}

#[actix::test]
async fn a_rejected_request_is_repeated_once_and_no_more() {
    let guarded = Guarded::start();
    let registry = guarded.registry();
    list(&registry).await.unwrap();
    guarded.take_nothing();
    for _ in 0..3 {
        let refused = list(&registry).await.unwrap_err();
        assert!(matches!(refused, Error::Unauthorized { operation: Operation::List, .. }), "{refused:?}");
    }
    let paths: Vec<_> = guarded.fake.seen().iter().map(|seen| seen.path() == LOGIN).collect();
    // The second login follows the first rejected request, which is then repeated.
    assert_eq!(paths, [true, false, false, true, false, false, false]);
    shut_down(&registry).await;
}

#[actix::test]
async fn the_rejection_of_a_new_token_means_that_the_user_lacks_a_right() {
    let guarded = Guarded::start();
    let registry = guarded.registry();
    guarded.take_nothing();
    for _ in 0..3 {
        let refused = list(&registry).await.unwrap_err();
        assert!(matches!(refused, Error::Unauthorized { operation: Operation::List, .. }), "{refused:?}");
    }
    assert_eq!((guarded.logins(), guarded.fake.seen().len()), (1, 4));
    shut_down(&registry).await;
}

#[actix::test]
async fn a_changed_token_key_causes_one_login_and_no_failure_on_every_server() {
    for dialect in Dialect::all() {
        let server = guarded(dialect);
        let registry = start(logged_in(&server));
        ask_much(&registry).await;
        server.faults().change_token_key();
        ask_much(&registry).await;
        assert_eq!(logins(&server), 2, "on {dialect}");
        // There is no other login within ten seconds.
        server.faults().change_token_key();
        let refused = list(&registry).await.unwrap_err();
        assert!(matches!(refused, Error::Unauthorized { operation: Operation::List, .. }), "on {dialect}: {refused:?}");
        assert_eq!(logins(&server), 2, "on {dialect}");
        shut_down(&registry).await;
    }
}

#[actix::test]
async fn an_instance_keeps_beating_when_the_token_key_changes() {
    for dialect in Dialect::all() {
        let server = guarded(dialect);
        let registry = start(logged_in(&server));
        ask(&registry, RegisterInstance::new("orders", IP, 80).metadata(HEART_BEAT_INTERVAL, "100")).await.unwrap();
        server.faults().change_token_key();
        until("a heartbeat has logged in", || logins(&server) == 2).await;
        let beats = async || ask(&registry, GetStatus).await.unwrap().instances[0].beats;
        let before = beats().await;
        eventually("heartbeats go on", async || (beats().await > before + 2).then_some(())).await;
        shut_down(&registry).await;
    }
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
async fn no_operation_fails_while_one_server_rejects_our_login_and_another_accepts_it() {
    for _ in 0..8 {
        // A client starts at a random server, so the test runs several times.
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
async fn failures_of_the_server_are_not_rejected_logins() {
    let fake = Fake::start(|seen| match seen.path() {
        "/nacos/v1/auth/login" => Answer::Text(500, "text/plain", "caused: the pool is exhausted;".into()),
        _ => Answer::usual(seen),
    });
    let registry = start(config_at(&fake.server_address()).credentials("me", PASSWORD).operation_timeout(ms(300)));
    let failed = ask(&registry, ListInstances::new("orders")).await.unwrap_err();
    assert!(failed.is_retryable() && failed.status() == Some(500), "{failed:?}");
    shut_down(&registry).await;
}
