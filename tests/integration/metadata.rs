//! The setters of metadata mean the same in every message: set one pair, set all pairs, remove a key.

use std::{
    collections::HashMap,
    sync::{
        atomic::{AtomicBool, Ordering},
        Arc,
    },
};

use actix::Addr;
use actix_nacos::{
    embedded::{Dialect, EmbeddedServer},
    ListInstances, Metadata, ModifyInstance, Protocol, RegisterInstance, Registry, SendHeartbeat, HEART_BEAT_INTERVAL,
    HEART_BEAT_TIMEOUT, IP_DELETE_TIMEOUT,
};

use crate::support::{
    self, ask, eventually,
    fake::{Answer, Fake},
    registry, server, shut_down, IP,
};

fn register() -> RegisterInstance {
    RegisterInstance::new("orders", IP, 80)
}

fn modify() -> ModifyInstance {
    ModifyInstance::new("orders", IP, 80)
}

fn pairs(expected: &[(&str, &str)]) -> Metadata {
    expected.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

async fn listed(registry: &Addr<Registry>) -> Metadata {
    ask(registry, ListInstances::new("orders")).await.unwrap().hosts[0].metadata.clone()
}

#[actix::test]
async fn the_three_setters_do_the_same_in_every_message() {
    let server = server();
    let registry = registry(&server);
    let expected = pairs(&[("b", "2"), ("c", "3")]);

    let beat = SendHeartbeat::new("orders", IP, 80).metadata("forgotten", "0").all_metadata([("a", "1"), ("b", "2")]);
    ask(&registry, beat.metadata("c", "3").without_metadata("a").without_metadata("unknown")).await.unwrap();
    assert_eq!(listed(&registry).await, expected, "by a beat of an unknown instance");

    let all = HashMap::from([("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())]);
    ask(&registry, register().metadata("forgotten", "0").all_metadata(all).metadata("c", "3").without_metadata("a"))
        .await
        .unwrap();
    assert_eq!(listed(&registry).await, expected, "registered");

    let change = modify().metadata("forgotten", "0").all_metadata([("a", "1"), ("b", "2")]).metadata("c", "3");
    ask(&registry, change.without_metadata("a")).await.unwrap();
    assert_eq!(listed(&registry).await, expected, "modified");

    ask(&registry, modify().metadata("b", "0")).await.unwrap();
    ask(&registry, modify().without_metadata("c").metadata("d", "4")).await.unwrap();
    assert_eq!(listed(&registry).await, pairs(&[("b", "0"), ("d", "4")]), "the rest stays");
    shut_down(&registry).await;
}

async fn until_listed(registry: &Addr<Registry>, expected: &[(&str, &str)]) {
    let expected = pairs(expected);
    eventually("the change shows", async || (listed(registry).await == expected).then_some(())).await;
}

/// The owner registers an instance, and `by` changes its metadata.
async fn modified(server: &EmbeddedServer, by: &Addr<Registry>, owner: &Addr<Registry>) {
    let timeouts = [(HEART_BEAT_INTERVAL, "700"), (HEART_BEAT_TIMEOUT, "15000"), (IP_DELETE_TIMEOUT, "30000")];
    ask(owner, register().all_metadata(timeouts).metadata("zone", "a")).await.unwrap();
    ask(by, modify().all_metadata([("zone", "b")])).await.unwrap();
    let kept = [timeouts[0], timeouts[1], timeouts[2], ("zone", "b")];
    until_listed(by, &kept).await;
    assert_eq!(server.instances("orders").len(), 1);
}

#[actix::test]
async fn modifying_all_metadata_keeps_preserved_keys_unless_they_are_named() {
    let server = server();
    let (owner, other) = (registry(&server), registry(&server));
    modified(&server, &owner, &owner).await;
    ask(&owner, modify().without_metadata(HEART_BEAT_TIMEOUT).metadata(HEART_BEAT_INTERVAL, "900")).await.unwrap();
    until_listed(&owner, &[(HEART_BEAT_INTERVAL, "900"), (IP_DELETE_TIMEOUT, "30000"), ("zone", "b")]).await;
    shut_down(&owner).await;
    shut_down(&other).await;
}

#[actix::test]
async fn modifying_all_metadata_of_anothers_instance_keeps_preserved_keys() {
    let server = server();
    let (owner, other) = (registry(&server), registry(&server));
    modified(&server, &other, &owner).await;
    shut_down(&owner).await;
    shut_down(&other).await;
}

#[actix::test]
async fn timeouts_that_an_operator_sets_without_an_interval_get_a_fitting_interval() {
    for dialect in Dialect::all() {
        let server = support::builder().dialect(dialect).user("me", "secret").start().unwrap();
        let config = support::config(&server).credentials("me", "secret");
        let (owner, operator) = (support::start(config.clone()), support::start(config));
        ask(&owner, register()).await.unwrap();
        let interval = || server.instances("orders")[0].metadata.get(HEART_BEAT_INTERVAL).cloned();
        ask(&operator, modify().weight(2.0)).await.unwrap();
        assert_eq!(interval(), None, "no timeout is set on {dialect}");
        ask(&operator, modify().metadata(HEART_BEAT_TIMEOUT, "3000")).await.unwrap();
        assert_eq!(interval().as_deref(), Some("1000"), "on {dialect}");
        shut_down(&operator).await;
        shut_down(&owner).await;
    }
}

/// 980 characters make a request line of 9 KB, which Tomcat and proxies reject.
fn long() -> String {
    "单".repeat(980)
}

#[actix::test]
async fn metadata_too_long_for_a_request_line_reaches_every_server() {
    for dialect in Dialect::all() {
        let server = support::builder().dialect(dialect).start().unwrap();
        let registry = registry(&server);
        ask(&registry, register().metadata("name", long())).await.unwrap();
        assert_eq!(server.instances("orders")[0].metadata["name"], long(), "{dialect:?}");
        shut_down(&registry).await;
    }
}

/// Reads the parameters of a POST only from the query while `is_query_only` is set. Otherwise it also reads a form, and
/// rejects a long query.
fn tomcat(is_query_only: Arc<AtomicBool>) -> Fake {
    Fake::start(move |seen| match seen.method.as_str() {
        "POST" if is_query_only.load(Ordering::Acquire) && !seen.body.is_empty() => {
            Answer::Text(400, "text/plain", "caused: Param 'serviceName' is required.;".into())
        }
        "POST" if !is_query_only.load(Ordering::Acquire) && seen.target.len() > 8192 => {
            Answer::Text(414, "text/html", "<html>Request-URI Too Large</html>".into())
        }
        _ => Answer::usual(seen),
    })
}

/// Returns for each registration whether its parameters were in a form.
fn forms(fake: &Fake) -> Vec<bool> {
    let registrations = fake.seen().into_iter().filter(|seen| seen.method == "POST");
    registrations.map(|seen| !seen.body.is_empty()).collect()
}

#[actix::test]
async fn a_server_that_reads_no_form_is_asked_by_query_until_that_is_refused() {
    let is_query_only = Arc::new(AtomicBool::new(true));
    let fake = tomcat(is_query_only.clone());
    let registry = support::start(support::config_at(&fake.server_address()).protocol(Protocol::V1));
    let register = async || ask(&registry, register().metadata("name", long())).await;
    register().await.unwrap();
    assert_eq!(forms(&fake), [true, false], "repeated at once");
    register().await.unwrap();
    assert_eq!(forms(&fake), [true, false, false], "remembered");
    is_query_only.store(false, Ordering::Release);
    register().await.unwrap();
    register().await.unwrap();
    assert_eq!(forms(&fake)[3..], [false, true, true], "another server stands there now");
    shut_down(&registry).await;
}

/// Servers without Nacos' limit have such instances, and an operator must be able to change them.
#[actix::test]
async fn a_weight_of_an_instance_with_more_metadata_than_we_would_register_can_be_changed() {
    let fake = Fake::start(|seen| match (seen.method.as_str(), seen.path()) {
        ("GET", path) => {
            let host = serde_json::json!({ "ip": IP, "port": 80, "healthy": true, "enabled": true, "ephemeral": true,
                "clusterName": "DEFAULT", "metadata": { "k": "v".repeat(70_000), HEART_BEAT_INTERVAL: "soon" } });
            let list = serde_json::json!({ "hosts": [host] });
            Answer::json(if path.ends_with("/list") { list } else { host }.to_string())
        }
        _ => Answer::usual(seen),
    });
    let registry = support::start(support::config_at(&fake.server_address()).protocol(Protocol::V1));
    ask(&registry, modify().weight(0.5)).await.unwrap();
    let written = fake.seen().into_iter().find(|seen| seen.method == "PUT").expect("it is written");
    assert!(written.body.contains("weight=0.5") && written.body.len() > 70_000);
    shut_down(&registry).await;
}
