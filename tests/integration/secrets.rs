//! No log record, text, URL or status contains a password, a token or a secret key, over a whole run at trace level.

use std::{
    fmt::Write as _,
    sync::{Arc, Mutex},
};

use actix_nacos::{
    embedded::{Dialect, EmbeddedServer, Spoilt},
    Config, DeregisterInstance, Discover, Error, GetInstance, GetStatus, ListInstances, ListServices, ModifyInstance,
    Protocol, RegisterInstance, Registry, SendHeartbeat, SetAccessKey, SetCredentials, Shutdown, Subscribe,
    HEART_BEAT_INTERVAL,
};
use slog::{o, Drain, Level, Logger, OwnedKVList, Record, KV};

use crate::support::{
    self, ask, config_at,
    fake::{Answer, Fake},
    ms, start, until, News, IP,
};

const PASSWORD: &str = "hush-hush-0815";
const WRONG: &str = "wrong-but-secret-4711";
const SECRET_KEY: &str = "hush-key-1234";
const SECURITY_TOKEN: &str = "hush-sts-5678";

/// Collects everything that is logged, displayed or written.
#[derive(Clone, Default)]
struct Readable(Arc<Mutex<String>>);

impl Readable {
    fn add(&self, text: impl AsRef<str>) {
        let mut all = self.0.lock().unwrap();
        all.push_str(text.as_ref());
        all.push('\n');
    }

    fn outcome<T: std::fmt::Debug>(&self, outcome: Result<T, Error>) {
        self.add(format!("{outcome:?}"));
        if let Err(error) = outcome {
            self.add(error.to_string());
            self.add(serde_json::to_string(&error).unwrap());
        }
    }

    fn logger(&self) -> Logger {
        Logger::root(self.clone().fuse(), o!())
    }

    fn does_not_contain(&self, secrets: &[String]) {
        let all = self.0.lock().unwrap();
        for secret in secrets {
            let found = all.lines().find(|line| line.contains(secret.as_str()));
            assert_eq!(found, None, "{secret} can be read");
        }
    }
}

struct Pairs<'a>(&'a mut String);

impl slog::Serializer for Pairs<'_> {
    fn emit_arguments(&mut self, key: slog::Key, value: &std::fmt::Arguments<'_>) -> slog::Result {
        write!(self.0, " {key}={value}").map_err(slog::Error::from)
    }
}

impl Drain for Readable {
    type Ok = ();
    type Err = std::fmt::Error;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), std::fmt::Error> {
        let mut line = format!("{} {}", record.level(), record.msg());
        // Writing to a string cannot fail.
        let _ = record.kv().serialize(record, &mut Pairs(&mut line));
        let _ = values.serialize(record, &mut Pairs(&mut line));
        self.add(line);
        Ok(())
    }

    fn is_enabled(&self, _: Level) -> bool {
        true
    }
}

/// Uses the Registry in all ways, with many failures.
async fn a_whole_run(server: &EmbeddedServer, config: Config, readable: &Readable) {
    readable.add(format!("{config:?}"));
    readable.add(serde_json::to_string(&config).unwrap());
    let registry = start(config.logger(readable.logger()));
    let register = RegisterInstance::new("orders", IP, 80).metadata(HEART_BEAT_INTERVAL, "100");
    readable.add(format!("{register:?}"));
    readable.outcome(ask(&registry, register.clone()).await);
    let mut news = News::listen();
    readable.outcome(ask(&registry, Subscribe::new("orders", news.recipient())).await);
    readable.outcome(ask(&registry, Discover::new("orders")).await.map(drop));
    for fault in [Spoilt::Html, Spoilt::CutOff, Spoilt::WrongType] {
        server.faults().spoil_share(1.0, fault);
        ask_everything(&registry, readable).await;
    }
    server.faults().clear();
    server.faults().fail_share(1.0, 500);
    ask_everything(&registry, readable).await;
    server.faults().clear();
    server.faults().expire_tokens();
    ask_everything(&registry, readable).await;
    server.faults().refuse_connections();
    ask_everything(&registry, readable).await;
    server.faults().accept_connections();
    server.restart_empty().unwrap();
    ask_everything(&registry, readable).await;
    for news in news.waiting() {
        readable.add(format!("{news:?}"));
    }
    readable.outcome(ask(&registry, Shutdown::default()).await);
}

async fn ask_everything(registry: &actix::Addr<Registry>, readable: &Readable) {
    readable.outcome(ask(registry, ListInstances::new("orders")).await);
    readable.outcome(ask(registry, GetInstance::new("orders", IP, 80)).await);
    readable.outcome(ask(registry, ModifyInstance::new("orders", IP, 80).weight(2.0)).await);
    readable.outcome(ask(registry, SendHeartbeat::new("orders", IP, 81)).await);
    readable.outcome(ask(registry, ListServices::new(1, 10)).await);
    readable.outcome(ask(registry, DeregisterInstance::new("orders", IP, 81)).await);
    let status = ask(registry, GetStatus).await.unwrap();
    readable.add(format!("{status:?}"));
    readable.add(serde_json::to_string(&status).unwrap());
}

#[actix::test]
async fn a_password_appears_nowhere() {
    let readable = Readable::default();
    for dialect in Dialect::all() {
        for password in [PASSWORD, WRONG] {
            let server = support::builder().dialect(dialect).user("me", PASSWORD).start().unwrap();
            let config = config_at(&server.server_address()).operation_timeout(ms(50)).credentials("me", password);
            a_whole_run(&server, config, &readable).await;
        }
    }
    readable.does_not_contain(&[PASSWORD.into(), WRONG.into()]);
    let all = readable.0.lock().unwrap();
    assert!(all.contains("registry is offline") && all.contains("Unauthorized"), "it was read");
}

#[actix::test]
async fn a_secret_key_and_a_security_token_appear_nowhere() {
    let readable = Readable::default();
    for (dialect, region) in [(Dialect::V2_5, None), (Dialect::V3_2, Some("cn-hangzhou"))] {
        for secret in [SECRET_KEY, WRONG] {
            let mut builder = support::builder().dialect(dialect).access_key("id", SECRET_KEY);
            builder = builder.security_token(SECURITY_TOKEN);
            builder = region.map_or(builder.clone(), |region| builder.signature_region(region));
            let server = builder.start().unwrap();
            let mut config = config_at(&server.server_address()).operation_timeout(ms(50));
            config = config.access_key("id", secret).security_token(SECURITY_TOKEN);
            config = region.map_or(config.clone(), |region| config.signature_region(region));
            a_whole_run(&server, config, &readable).await;
        }
    }
    let fake = Fake::start(|seen| match seen.path().ends_with("/login") {
        true => Answer::json(r#"{"accessToken":"t","tokenTtl":18000}"#),
        false => Answer::usual(seen),
    });
    let registry = start(config_at(&fake.server_address()).logger(readable.logger()));
    let key = SetAccessKey::new("id", SECRET_KEY).security_token(SECURITY_TOKEN);
    readable.add(format!("{key:?} {:?}", SetCredentials::new("me", PASSWORD)));
    readable.outcome(ask(&registry, key).await);
    readable.outcome(ask(&registry, SetCredentials::new("me", PASSWORD)).await);
    readable.outcome(ask(&registry, RegisterInstance::new("orders", IP, 80)).await);
    ask_everything(&registry, &readable).await;
    for seen in fake.seen() {
        let is_login = seen.path().ends_with("/login");
        assert_eq!(seen.header("Spas-SecurityToken"), (!is_login).then_some(SECURITY_TOKEN));
        readable.add(seen.target);
    }
    readable.does_not_contain(&[SECRET_KEY.into(), SECURITY_TOKEN.into(), WRONG.into(), PASSWORD.into()]);
    let all = readable.0.lock().unwrap();
    assert!(all.contains("signature=") && all.contains("check the access key"), "it was read");
}

#[actix::test]
async fn a_token_appears_nowhere() {
    const TOKEN: &str = "0123456789abcdef-token";
    let readable = Readable::default();
    let bodies = [
        Answer::Text(200, "text/plain", "ok".into()),
        Answer::Text(500, "text/plain", "caused: no leader;".into()),
        Answer::Text(403, "application/json", r#"{"status":403,"message":"token invalid!"}"#.into()),
        Answer::Close,
    ];
    for body in bodies {
        let fake = Fake::start(move |seen| match seen.path() {
            "/nacos/v1/auth/login" => {
                Answer::json(format!(r#"{{"accessToken":"{TOKEN}","tokenTtl":18000,"globalAdmin":true}}"#))
            }
            _ => body.clone(),
        });
        let config = config_at(&fake.server_address()).operation_timeout(ms(50)).protocol(Protocol::V1);
        let registry = start(config.credentials("me", PASSWORD).logger(readable.logger()));
        readable.outcome(ask(&registry, RegisterInstance::new("orders", IP, 80)).await);
        ask_everything(&registry, &readable).await;
        let bearer = format!("Bearer {TOKEN}");
        until("the token was used", || fake.seen().iter().any(|seen| seen.header("Authorization") == Some(&*bearer)))
            .await;
        for seen in fake.seen() {
            readable.add(seen.target);
        }
        readable.outcome(ask(&registry, Shutdown::default()).await);
    }
    readable.does_not_contain(&[TOKEN.into(), PASSWORD.into()]);
}

#[actix::test]
async fn the_query_of_an_endpoint_appears_nowhere() {
    let readable = Readable::default();
    let answers = [
        Answer::Text(500, "text/plain", "no".into()),
        Answer::Text(200, "text/plain", "<html>".into()),
        Answer::Text(200, "text/plain", format!("http://a:1/login?key={PASSWORD}")),
        Answer::Text(200, "text/plain", format!("http://me:{PASSWORD}@a:1")),
        Answer::Close,
    ];
    for answer in answers {
        let fake = Fake::start(move |_| answer.clone());
        let config = Config::at_endpoint(format!("http://{}/list?key={PASSWORD}", fake.address));
        let config = config.operation_timeout(ms(50)).endpoint_interval(ms(20)).logger(readable.logger());
        readable.add(format!("{config:?}"));
        let registry = start(config);
        until("it was asked", || fake.seen().len() >= 2).await;
        assert!(fake.seen()[0].target.contains(PASSWORD), "the endpoint is told");
        ask_everything(&registry, &readable).await;
        readable.outcome(ask(&registry, Shutdown::default()).await);
    }
    readable.does_not_contain(&[PASSWORD.into()]);
    let all = readable.0.lock().unwrap();
    assert!(all.contains("failed to fetch server list"), "it was read");
}

#[test]
fn an_error_about_an_unreadable_login_answer_contains_no_token() {
    const TOKEN: &str = "0123456789abcdef-token";
    let readable = Readable::default();
    let fake = Fake::start(|_| Answer::json(format!(r#"{{"accessToken":"{TOKEN}","tokenTtl":"soon"}}"#)));
    let config = config_at(&fake.server_address()).operation_timeout(ms(50)).credentials("me", PASSWORD);
    actix::System::new().block_on(async {
        let registry = start(config.logger(readable.logger()));
        readable.outcome(ask(&registry, ListInstances::new("orders")).await);
        ask_everything(&registry, &readable).await;
    });
    readable.does_not_contain(&[TOKEN.into(), PASSWORD.into()]);
}
