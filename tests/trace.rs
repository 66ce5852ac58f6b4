//! No crate in the process logs a password, a token or a secret key at trace level.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::sync::{
    atomic::{AtomicUsize, Ordering},
    Mutex,
};

use actix_nacos::{Config, Error, GetStatus, ListInstances, RegisterInstance, Subscribe, HEART_BEAT_INTERVAL};
use support::{
    ask, eventually,
    fake::{Answer, Fake, Seen},
    shut_down, start, News,
};

/// The secrets contain only characters that no encoding changes.
const PASSWORD: &str = "p4ssw0rd-that-nobody-sees";
const TOKEN: &str = "t0ken-that-nobody-sees";
const WRONG: &str = "wr0ng-password-that-nobody-sees";
const SECRET_KEY: &str = "secret-key-that-nobody-sees";
const SECURITY_TOKEN: &str = "sts-t0ken-that-nobody-sees";

/// Keeps what all crates of the process log.
struct Everything(Mutex<Vec<String>>);

static EVERYTHING: Everything = Everything(Mutex::new(Vec::new()));

impl log::Log for Everything {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        self.0.lock().unwrap().push(format!("{}: {}", record.target(), record.args()));
    }

    fn flush(&self) {}
}

/// Rejects every fifth request with a token.
fn nacos() -> Fake {
    let requests = AtomicUsize::new(0);
    Fake::start(move |seen| {
        if seen.path().ends_with("/auth/login") {
            return match seen.body.contains(PASSWORD) {
                true => Answer::json(format!(r#"{{"accessToken":"{TOKEN}","tokenTtl":1,"globalAdmin":true}}"#)),
                false => Answer::Text(403, "text/plain", "user not found!".into()),
            };
        }
        match requests.fetch_add(1, Ordering::Relaxed) % 5 {
            _ if seen.header("Authorization").is_none() => Answer::Text(403, "text/plain", "user not found!".into()),
            4 => Answer::Text(403, "application/json", r#"{"status":403,"message":"token expired!"}"#.into()),
            _ if seen.path().ends_with("/beat") => Answer::json(r#"{"clientBeatInterval":50,"code":10200}"#),
            _ => Answer::usual(seen),
        }
    })
}

fn config(nacos: &Fake, password: &str, logger: slog::Logger) -> Config {
    let config = support::config_at(&nacos.server_address()).credentials("orders", password).logger(logger);
    config.access_key("id", SECRET_KEY).security_token(SECURITY_TOKEN)
}

#[actix::test]
async fn no_crate_of_the_process_logs_a_secret() {
    log::set_logger(&EVERYTHING).unwrap();
    log::set_max_level(log::LevelFilter::Trace);
    let (logger, log) = support::logs::logger();
    let nacos = nacos();
    let good = config(&nacos, PASSWORD, logger.clone());
    let wrong = config(&nacos, WRONG, logger);
    let mut shown = vec![format!("{good:?} {wrong:?}"), serde_json::to_string(&[&good, &wrong]).unwrap()];

    let registry = start(good);
    let instance = RegisterInstance::new("orders", "127.0.0.7", 80).metadata(HEART_BEAT_INTERVAL, "50");
    ask(&registry, instance).await.unwrap();
    ask(&registry, Subscribe::new("orders", News::listen().recipient())).await.unwrap();
    let refused = start(wrong);
    let error = ask(&refused, ListInstances::new("orders")).await.expect_err("the password is wrong");
    assert!(matches!(error, Error::Unauthorized { .. }), "{error:?}");
    shown.push(format!("{error} {error:?}"));

    let logins = || nacos.seen().iter().filter(|seen| seen.path().ends_with("/auth/login")).count();
    support::until("several logins", || logins() >= 6).await;
    let beats = async || {
        let status = ask(&registry, GetStatus).await.ok()?;
        (status.instances[0].beats > 5).then_some(status)
    };
    for status in [eventually("beats", beats).await, ask(&refused, GetStatus).await.unwrap()] {
        shown.push(format!("{status:?} {}", serde_json::to_string(&status).unwrap()));
    }
    shut_down(&registry).await;
    shut_down(&refused).await;

    let seen = nacos.seen();
    let with_token = |seen: &Seen| seen.headers.iter().any(|(_, value)| value.strip_prefix("Bearer ") == Some(TOKEN));
    assert!(seen.iter().filter(|seen| with_token(seen)).count() > 5, "the token is used");
    assert!(seen.iter().any(|seen| seen.header("Spas-SecurityToken") == Some(SECURITY_TOKEN)));
    shown.extend(seen.into_iter().map(|seen| seen.target));
    shown.extend(log.lines().into_iter().map(|line| line.text));
    shown.extend(EVERYTHING.0.lock().unwrap().iter().cloned());
    assert!(shown.len() > 100, "something was looked at");
    for secret in [PASSWORD, TOKEN, WRONG, SECRET_KEY, SECURITY_TOKEN] {
        let found: Vec<_> = shown.iter().filter(|text| text.contains(secret)).collect();
        assert!(found.is_empty(), "{secret} is in {found:?}");
    }
}
