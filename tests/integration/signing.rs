//! Requests that are signed with an access key, as Alibaba Cloud's managed Nacos requires.

use std::collections::BTreeSet;

use actix_nacos::{
    embedded::{Dialect, EmbeddedServer, EmbeddedServerBuilder},
    Config, DeregisterInstance, Error, GetInstance, ListInstances, ListServices, ModifyInstance, Operation,
    RegisterInstance, SendHeartbeat, SetAccessKey,
};

use crate::support::{
    self, ask, config, config_at,
    fake::{Answer, Fake, Seen},
    ms, only_instance, shut_down, start, IP,
};

const SECRET: &str = "my-secret";

/// The credentials that a server requires, and a client is configured with.
#[derive(Debug, Clone, Copy)]
struct Demanded {
    security_token: bool,
    region: bool,
    login: bool,
}

impl Demanded {
    fn all() -> impl Iterator<Item = Demanded> {
        (0..8).map(|bits| Demanded { security_token: bits & 1 != 0, region: bits & 2 != 0, login: bits & 4 != 0 })
    }

    fn by_server(self, mut builder: EmbeddedServerBuilder) -> EmbeddedServer {
        builder = builder.access_key("id", SECRET);
        if self.security_token {
            builder = builder.security_token("temporary");
        }
        if self.region {
            builder = builder.signature_region("cn-hangzhou");
        }
        if self.login {
            builder = builder.user("me", "hush");
        }
        builder.start().unwrap()
    }

    fn by_client(self, mut config: Config) -> Config {
        config = config.access_key("id", SECRET);
        if self.security_token {
            config = config.security_token("temporary");
        }
        if self.region {
            config = config.signature_region("cn-hangzhou");
        }
        if self.login {
            config = config.credentials("me", "hush");
        }
        config
    }
}

#[actix::test]
async fn every_operation_is_signed_on_every_server_alone_and_beside_a_login() {
    for (dialect, demanded) in
        Dialect::all().flat_map(|dialect| Demanded::all().map(move |demanded| (dialect, demanded)))
    {
        let server = demanded.by_server(support::builder().dialect(dialect));
        let registry = start(demanded.by_client(config(&server)));
        let what = format!("{demanded:?} on {dialect}");
        let done = |outcome: Result<(), Error>| outcome.unwrap_or_else(|error| panic!("{error}, {what}"));
        done(ask(&registry, RegisterInstance::new("PAY@@orders:1", IP, 80)).await.map(drop));
        done(ask(&registry, ModifyInstance::new("PAY@@orders:1", IP, 80).weight(2.0)).await);
        done(ask(&registry, SendHeartbeat::new("PAY@@orders:1", IP, 80)).await.map(drop));
        done(ask(&registry, GetInstance::new("PAY@@orders:1", IP, 80)).await.map(drop));
        let list = ask(&registry, ListInstances::new("PAY@@orders:1")).await.unwrap();
        assert_eq!((list.hosts.len(), list.hosts[0].weight), (1, 2.0), "{what}");
        // Nacos 3 has this operation in its admin API, which always needs a token.
        if demanded.login || !matches!(dialect, Dialect::V3_0 | Dialect::V3_2) {
            done(ask(&registry, ListServices::new(1, 10).group("PAY")).await.map(drop));
        }
        done(ask(&registry, DeregisterInstance::new("PAY@@orders:1", IP, 80)).await);
        assert!(server.instances("PAY@@orders:1").is_empty(), "{what}");
        shut_down(&registry).await;
    }
}

/// 1.4 does not read the form body of a registration. So the service in the signature is not the one that it reads.
#[actix::test]
async fn a_registration_too_long_for_a_query_is_signed_on_every_server() {
    for dialect in Dialect::all() {
        let demanded = Demanded { security_token: false, region: false, login: false };
        let server = demanded.by_server(support::builder().dialect(dialect));
        let registry = start(demanded.by_client(config(&server)));
        // Shorter than the limit of 2.x, and longer than 4 KiB when it is encoded.
        let metadata = "ж".repeat(900);
        ask(&registry, RegisterInstance::new("orders", IP, 80).metadata("m", &metadata)).await.unwrap();
        assert_eq!(only_instance(&server, "orders").metadata["m"], metadata, "on {dialect}");
        shut_down(&registry).await;
    }
}

#[actix::test]
async fn a_wrong_secret_is_a_clear_error() {
    let server = Demanded { security_token: true, region: false, login: false }.by_server(support::builder());
    let key = |secret, token| config(&server).access_key("id", secret).security_token(token);
    for config in [key("wrong", "temporary"), key(SECRET, "old"), key(SECRET, "temporary").signature_region("x")] {
        let registry = start(config);
        let refused = ask(&registry, RegisterInstance::new("orders", IP, 80)).await.unwrap_err();
        assert!(matches!(refused, Error::Unauthorized { operation: Operation::Register, .. }), "{refused:?}");
        assert!(refused.to_string().contains("check the access key"), "{refused}");
        shut_down(&registry).await;
    }
    let registry = start(key(SECRET, "temporary"));
    ask(&registry, RegisterInstance::new("orders", IP, 80)).await.unwrap();
    only_instance(&server, "orders");
    shut_down(&registry).await;
}

#[actix::test]
async fn each_attempt_is_signed_anew() {
    let fake = Fake::start(|seen| match seen.path() {
        "/nacos/v1/ns/instance/list" => Answer::usual(seen),
        // Closes the connection without an answer. The client then repeats the request at once.
        _ => Answer::Silence(ms(20)),
    });
    let registry = start(config_at(&fake.server_address()).access_key("id", SECRET).operation_timeout(ms(500)));
    // About another service, because both requests may be sent within one millisecond.
    ask(&registry, ListInstances::new("bills")).await.unwrap();
    ask(&registry, RegisterInstance::new("orders", IP, 80)).await.unwrap_err();
    let seen = fake.seen();
    assert!(seen.len() >= 3, "{seen:?}");
    for name in ["data", "signature"] {
        let values: BTreeSet<_> = seen.iter().map(|seen| seen.parameter(name).expect("it is signed")).collect();
        assert_eq!(values.len(), seen.len(), "{name} of {seen:?}");
    }
    let is_whole = |seen: &Seen| seen.parameter("ak") == Some("id") && seen.parameter("app") == Some("unknown");
    assert!(seen.iter().all(is_whole), "{seen:?}");
    assert!(seen[1].parameter("data").unwrap().ends_with("%40%40DEFAULT_GROUP%40%40orders"), "{seen:?}");
    shut_down(&registry).await;
}

#[actix::test]
async fn a_replaced_access_key_signs_the_next_request() {
    let demanded = Demanded { security_token: true, region: true, login: false };
    let server = demanded.by_server(support::builder());
    let registry = start(config(&server).signature_region("cn-hangzhou"));
    let register = async |key| {
        ask(&registry, key).await.unwrap();
        ask(&registry, RegisterInstance::new("orders", IP, 80)).await
    };
    let old = SetAccessKey::new("id", "old").security_token("temporary");
    let without_token = SetAccessKey::new("id", SECRET);
    for wrong in [old, without_token.clone()] {
        assert!(matches!(register(wrong).await, Err(Error::Unauthorized { .. })));
    }
    register(without_token.security_token("temporary")).await.unwrap();
    for (key, field) in [
        (SetAccessKey::new("", SECRET), "access_key"),
        (SetAccessKey::new("id", ""), "access_key"),
        (SetAccessKey::new("id", SECRET).security_token("a\nb"), "security_token"),
    ] {
        let refused = ask(&registry, key).await;
        assert!(matches!(&refused, Err(Error::InvalidInput { field: named, .. }) if *named == field), "{refused:?}");
    }
    ask(&registry, ListInstances::new("orders")).await.unwrap();
    shut_down(&registry).await;
}

#[actix::test]
async fn without_an_access_key_nothing_is_signed() {
    let fake = Fake::start(Answer::usual);
    let registry = start(config_at(&fake.server_address()).signature_region("cn-hangzhou"));
    ask(&registry, ListInstances::new("orders")).await.unwrap();
    let seen = fake.seen();
    assert!(["ak", "app", "data", "signature"].iter().all(|name| seen[0].parameter(name).is_none()), "{seen:?}");
    assert_eq!(seen[0].header("Spas-SecurityToken"), None);
    shut_down(&registry).await;
}
