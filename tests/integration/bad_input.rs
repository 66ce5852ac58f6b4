//! Bad input is rejected before a request is sent. The error names the field and the rule.

use actix::{Addr, Handler, Message};
use actix_nacos::{
    embedded::EmbeddedServer, Config, DeregisterInstance, Discover, Error, GetInstance, ListInstances, ListServices,
    Metadata, ModifyInstance, RegisterInstance, Registry, SendHeartbeat, Subscribe, Unsubscribe, HEART_BEAT_INTERVAL,
    HEART_BEAT_TIMEOUT, IP_DELETE_TIMEOUT,
};

use crate::support::{ask, registry, server, News, IP};

struct World {
    server: EmbeddedServer,
    registry: Addr<Registry>,
    news: News,
}

impl World {
    fn new() -> Self {
        let server = server();
        World { registry: registry(&server), server, news: News::listen() }
    }

    /// Checks that the message is rejected for `field`, and that the reason contains `rule`.
    async fn refuses<M, T>(&self, message: M, field: &str, rule: &str)
    where
        M: Message<Result = Result<T, Error>> + Send + 'static,
        T: Send + 'static,
        Registry: Handler<M>,
    {
        let name = std::any::type_name::<M>();
        match ask(&self.registry, message).await {
            Err(Error::InvalidInput { field: refused, reason }) => {
                assert_eq!(refused, field, "{name}: {reason}");
                assert!(reason.contains(rule), "{name}: {reason:?} does not say {rule:?}");
            }
            Err(other) => panic!("{name}: {other:?}"),
            Ok(_) => panic!("{name} was accepted; {field} is wrong"),
        }
    }

    fn nothing_was_sent(&self) {
        assert_eq!(self.server.counters().requests, 0);
    }
}

/// Names that no server accepts.
fn bad_names() -> [String; 4] {
    ["", "a\nb", "a\u{7f}", &"n".repeat(513)].map(String::from)
}

fn rule_for(name: &str) -> &'static str {
    match name.len() {
        0 => "empty",
        513 => "512",
        _ if name.contains(',') => "comma",
        _ => "control character",
    }
}

#[actix::test]
async fn every_message_rejects_service_names_that_no_server_accepts() {
    let world = World::new();
    for name in bad_names() {
        let (name, rule) = (name.as_str(), rule_for(&name));
        world.refuses(RegisterInstance::new(name, IP, 80), "service", rule).await;
        world.refuses(DeregisterInstance::new(name, IP, 80), "service", rule).await;
        world.refuses(ModifyInstance::new(name, IP, 80).weight(2.0), "service", rule).await;
        world.refuses(GetInstance::new(name, IP, 80), "service", rule).await;
        world.refuses(SendHeartbeat::new(name, IP, 80), "service", rule).await;
        world.refuses(ListInstances::new(name), "service", rule).await;
        world.refuses(Subscribe::new(name, world.news.recipient()), "service", rule).await;
        world.refuses(Unsubscribe::new(name), "service", rule).await;
        world.refuses(Discover::new(name), "service", rule).await;
    }
    world.nothing_was_sent();
}

#[actix::test]
async fn every_message_rejects_groups_that_no_server_accepts() {
    let world = World::new();
    for name in bad_names() {
        let (name, rule) = (name.as_str(), rule_for(&name));
        world.refuses(RegisterInstance::new("orders", IP, 80).group(name), "group", rule).await;
        world.refuses(DeregisterInstance::new("orders", IP, 80).group(name), "group", rule).await;
        world.refuses(ModifyInstance::new("orders", IP, 80).group(name), "group", rule).await;
        world.refuses(GetInstance::new("orders", IP, 80).group(name), "group", rule).await;
        world.refuses(SendHeartbeat::new("orders", IP, 80).group(name), "group", rule).await;
        world.refuses(ListInstances::new("orders").group(name), "group", rule).await;
        world.refuses(ListServices::new(1, 10).group(name), "group", rule).await;
        world.refuses(Subscribe::new("orders", world.news.recipient()).group(name), "group", rule).await;
        world.refuses(Unsubscribe::new("orders").group(name), "group", rule).await;
        world.refuses(Discover::new("orders").group(name), "group", rule).await;
        world.refuses(RegisterInstance::new(format!("{name}@@orders"), IP, 80), "group", rule).await;
    }
    world.nothing_was_sent();
}

#[actix::test]
async fn a_grouped_name_may_name_no_other_group_than_the_given_one() {
    let world = World::new();
    let grouped = RegisterInstance::new("PAY@@orders", IP, 80);
    world.refuses(grouped.clone().group("SHOP"), "service", "another group").await;
    world.refuses(ListInstances::new("PAY@@orders").group("SHOP"), "service", "another group").await;
    world.refuses(RegisterInstance::new("PAY@@", IP, 80), "service", "empty").await;
    world.refuses(RegisterInstance::new("PAY@@a@@b", IP, 80), "service", "second '@@'").await;
    // In `GROUP@@service` the end of such a group would be unclear.
    for group in ["PAY@", "A@@B"] {
        world.refuses(RegisterInstance::new("orders", IP, 80).group(group), "group", "'@'").await;
        world.refuses(ListServices::new(1, 10).group(group), "group", "'@'").await;
    }
    world.nothing_was_sent();
    ask(&world.registry, grouped.group("PAY")).await.unwrap();
}

#[actix::test]
async fn every_message_rejects_clusters_that_no_server_accepts() {
    let world = World::new();
    for name in ["", "a,b", "a\nb", &"c".repeat(513)] {
        let rule = rule_for(name);
        world.refuses(RegisterInstance::new("orders", IP, 80).cluster(name), "cluster", rule).await;
        world.refuses(DeregisterInstance::new("orders", IP, 80).cluster(name), "cluster", rule).await;
        world.refuses(ModifyInstance::new("orders", IP, 80).cluster(name), "cluster", rule).await;
        world.refuses(GetInstance::new("orders", IP, 80).cluster(name), "cluster", rule).await;
        world.refuses(SendHeartbeat::new("orders", IP, 80).cluster(name), "cluster", rule).await;
        world.refuses(ListInstances::new("orders").clusters([name]), "cluster", rule).await;
        world.refuses(Subscribe::new("orders", world.news.recipient()).clusters([name]), "cluster", rule).await;
        world.refuses(Unsubscribe::new("orders").clusters([name]), "cluster", rule).await;
        world.refuses(Discover::new("orders").clusters([name]), "cluster", rule).await;
    }
    world.nothing_was_sent();
}

#[actix::test]
async fn every_message_rejects_addresses_that_cannot_be_called() {
    let world = World::new();
    let bad = [
        ("", "empty"),
        ("127.0.0.1 ", "blanks"),
        ("127.0.0.1\n", "control"),
        ("a\u{7f}b", "control"),
        ("0.0.0.0", "local_ip()"),
        ("::", "local_ip()"),
        ("0:0::0", "local_ip()"),
    ];
    for (ip, rule) in bad {
        world.refuses(RegisterInstance::new("orders", ip, 80), "ip", rule).await;
        world.refuses(DeregisterInstance::new("orders", ip, 80), "ip", rule).await;
        world.refuses(ModifyInstance::new("orders", ip, 80).weight(2.0), "ip", rule).await;
        world.refuses(GetInstance::new("orders", ip, 80), "ip", rule).await;
        world.refuses(SendHeartbeat::new("orders", ip, 80), "ip", rule).await;
    }
    world.refuses(RegisterInstance::new("orders", IP, 0), "port", "65535").await;
    world.refuses(DeregisterInstance::new("orders", IP, 0), "port", "65535").await;
    world.refuses(ModifyInstance::new("orders", IP, 0).weight(2.0), "port", "65535").await;
    world.refuses(GetInstance::new("orders", IP, 0), "port", "65535").await;
    world.refuses(SendHeartbeat::new("orders", IP, 0), "port", "65535").await;
    world.nothing_was_sent();
}

#[actix::test]
async fn every_message_rejects_weights_outside_nacos_range() {
    let world = World::new();
    for weight in [-0.1, 10_000.1, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        world.refuses(RegisterInstance::new("orders", IP, 80).weight(weight), "weight", "10000").await;
        world.refuses(ModifyInstance::new("orders", IP, 80).weight(weight), "weight", "10000").await;
        world.refuses(SendHeartbeat::new("orders", IP, 80).weight(weight), "weight", "10000").await;
    }
    world.nothing_was_sent();
    for weight in [0.0, 10_000.0] {
        ask(&world.registry, RegisterInstance::new("orders", IP, 80).weight(weight)).await.unwrap();
    }
}

#[actix::test]
async fn every_message_rejects_metadata_that_is_too_large_or_has_a_bad_interval() {
    let world = World::new();
    let bad = [
        ("k", "v".repeat(65_536), "65536"),
        (HEART_BEAT_INTERVAL, "5s".into(), "milliseconds"),
        (HEART_BEAT_TIMEOUT, "0".into(), "milliseconds"),
        (IP_DELETE_TIMEOUT, "-1".into(), "milliseconds"),
        (IP_DELETE_TIMEOUT, String::new(), "milliseconds"),
    ];
    for (key, value, rule) in bad {
        let metadata = Metadata::from([(key.to_owned(), value.clone())]);
        // The value is invalid alone, and a timeout also together with a valid interval.
        for interval in [None, Some(HEART_BEAT_INTERVAL).filter(|interval| *interval != key)] {
            let register = RegisterInstance::new("orders", IP, 80).metadata(key, &*value);
            let register = interval.map_or(register.clone(), |interval| register.metadata(interval, "1000"));
            world.refuses(register, "metadata", rule).await;
        }
        world.refuses(ModifyInstance::new("orders", IP, 80).all_metadata(metadata), "metadata", rule).await;
        world.refuses(SendHeartbeat::new("orders", IP, 80).metadata(key, value), "metadata", rule).await;
    }
    for (interval, timeout) in [("3000", "3000"), ("5000", "3000")] {
        let register = RegisterInstance::new("orders", IP, 80).metadata(HEART_BEAT_INTERVAL, interval);
        world.refuses(register.clone().metadata(HEART_BEAT_TIMEOUT, timeout), "metadata", "longer than").await;
        world.refuses(register.metadata(IP_DELETE_TIMEOUT, timeout), "metadata", "longer than").await;
    }
    world.nothing_was_sent();
    let longest = RegisterInstance::new("orders", IP, 80).metadata("k", "v".repeat(65_535));
    let refused_there = ask(&world.registry, longest).await.unwrap_err();
    assert!(matches!(refused_there, Error::Refused { .. }), "{refused_there:?}");
}

#[actix::test]
async fn impossible_page_numbers_and_beats_of_persistent_instances_are_rejected() {
    let world = World::new();
    world.refuses(ListServices::new(1, 0), "page_size", "at least 1").await;
    world.refuses(ListServices::new(0, 10), "page_no", "from 1").await;
    world.refuses(SendHeartbeat::new("orders", IP, 80).ephemeral(false), "ephemeral", "no heartbeats").await;
    world.nothing_was_sent();
}

#[actix::test]
async fn an_invalid_namespace_is_rejected() {
    let world = World::new();
    world.refuses(ListInstances::new("orders").namespace("a b"), "namespace", "id").await;
    world.refuses(ListInstances::new("orders").namespace("a&b=c"), "namespace", "id").await;
    world.nothing_was_sent();
}

#[test]
fn server_addresses_that_are_none_start_no_registry() {
    let bad = [
        ("", "empty"),
        (" , ", "empty"),
        ("nacos", "no port"),
        (":8848", "no host"),
        ("http://:8848", "no host"),
        ("nacos:0", "between 1 and 65535"),
        ("nacos:70000", "between 1 and 65535"),
        ("ftp://nacos:21", "scheme"),
        ("a b:1", "address"),
        ("me:secret@nacos:8848", "credentials"),
        ("192.0.2.1:8848,nacos", "no port"),
    ];
    for (addresses, rule) in bad {
        match Registry::start(Config::new(addresses)) {
            Err(Error::InvalidInput { field, reason }) => {
                assert_eq!(field, "servers", "{addresses:?}");
                assert!(reason.contains(rule), "{addresses:?}: {reason:?} does not say {rule:?}");
                assert!(!reason.contains("secret"), "{reason}");
            }
            other => panic!("{addresses:?}: {other:?}"),
        }
    }
}

#[actix::test]
async fn ipv6_addresses_host_names_and_grouped_names_are_good() {
    let world = World::new();
    for ip in ["::1", "::1%lo", "backend.example", "backend_1", "127.0.0.7"] {
        ask(&world.registry, RegisterInstance::new("PAY@@a-b.c_1:d", ip, 65535)).await.unwrap();
    }
    assert_eq!(world.server.instances("PAY@@a-b.c_1:d").len(), 5);
}
