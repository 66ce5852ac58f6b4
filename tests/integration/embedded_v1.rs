//! The embedded server's v1 API in the dialect of Nacos 2.5. The requests are written by hand.

use std::time::Duration;

use actix_nacos::{
    embedded::{Dialect, EmbeddedServer},
    Operation,
};
use serde_json::{json, Value};

use crate::raw_http::{Connection, Response, INSTANCE};

fn started() -> (EmbeddedServer, Connection) {
    let server = EmbeddedServer::builder().list_delay(Duration::ZERO).start().expect("a server");
    let connection = Connection::to(server.address());
    (server, connection)
}

fn hosts(list: &Response) -> Vec<String> {
    let list = list.json();
    let hosts = list["hosts"].as_array().or(list["data"].as_array()).expect("hosts");
    let mut hosts: Vec<String> =
        hosts.iter().map(|host| format!("{}:{}", host["ip"].as_str().expect("an ip"), host["port"])).collect();
    hosts.sort();
    hosts
}

#[test]
fn an_instance_is_registered_listed_and_deregistered() {
    let (server, mut nacos) = started();
    nacos
        .send(
            "POST",
            &format!("{INSTANCE}?serviceName=orders&ip=127.0.0.1&port=80&weight=2&metadata=%7B%22zone%22%3A%22a%22%7D"),
        )
        .is(200, "ok");
    let list = nacos.get(&format!("{INSTANCE}/list?serviceName=orders")).json();
    assert_eq!(list["name"], "DEFAULT_GROUP@@orders");
    let host = &list["hosts"][0];
    assert_eq!((&host["ip"], &host["port"], &host["weight"]), (&json!("127.0.0.1"), &json!(80), &json!(2.0)));
    assert_eq!((&host["metadata"], &host["clusterName"]), (&json!({ "zone": "a" }), &json!("DEFAULT")));
    nacos.send("DELETE", &format!("{INSTANCE}?serviceName=orders&ip=127.0.0.1&port=80")).is(200, "ok");
    assert!(hosts(&nacos.get(&format!("{INSTANCE}/list?serviceName=orders"))).is_empty());
    let counters = server.counters();
    assert_eq!(counters.requests_for(Operation::Register), 1);
    assert_eq!(counters.requests_for(Operation::List), 2);
    assert_eq!((counters.requests, counters.connections), (4, 1));
}

#[test]
fn parameters_come_by_query_or_by_form() {
    let (server, mut nacos) = started();
    let form = "serviceName=orders&ip=127.0.0.1&port=80&clusterName=east";
    nacos.try_send("POST", INSTANCE, &[], Some(form)).expect("an answer").is(200, "ok");
    nacos.try_send("POST", &format!("{INSTANCE}?{form}&ip=127.0.0.2"), &[], Some("port=81")).expect("an answer");
    let instances = server.instances("orders");
    assert_eq!(instances.len(), 1, "the first of a name counts: {instances:?}");
    assert_eq!(instances[0].cluster, "east");
}

#[test]
fn lists_filter_by_cluster_health_and_enabled() {
    let (_server, mut nacos) = started();
    for more in ["1", "2&clusterName=east", "3&healthy=false", "4&enabled=false", "5&enable=false"] {
        nacos.send("POST", &format!("{INSTANCE}?serviceName=orders&port=80&ip=127.0.0.{more}")).is(200, "ok");
    }
    let mut list = |more: &str| hosts(&nacos.get(&format!("{INSTANCE}/list?serviceName=orders{more}")));
    assert_eq!(list(""), ["127.0.0.1:80", "127.0.0.2:80", "127.0.0.3:80"]);
    assert_eq!(list("&healthyOnly=true"), ["127.0.0.1:80", "127.0.0.2:80"]);
    assert_eq!(list("&clusters=east"), ["127.0.0.2:80"]);
    assert_eq!(list("&clusters=east,DEFAULT").len(), 3);
    assert_eq!(list("&groupName=OTHER"), [""; 0]);
}

#[test]
fn one_instance_is_read() {
    let (_server, mut nacos) = started();
    let one = "serviceName=PAY@@ledger&ip=127.0.0.1&port=80";
    nacos.send("POST", &format!("{INSTANCE}?{one}")).is(200, "ok");
    let read = nacos.get(&format!("{INSTANCE}?{one}")).json();
    assert_eq!((&read["service"], &read["weight"]), (&json!("PAY@@ledger"), &json!(1.0)));
    nacos.get(&format!("{INSTANCE}?{one}&clusterName=east")).is(404, "no matched ip found!");
}

#[test]
fn beats_are_light_once_the_instance_is_known() {
    let (server, mut nacos) = started();
    let light = format!("{INSTANCE}/beat?serviceName=orders&ip=127.0.0.1&port=80");
    let mut beat = |target: &str| nacos.send("PUT", target).json();
    assert_eq!(beat(&light)["code"], 20404);
    let body = "%7B%22ip%22%3A%22127.0.0.1%22%2C%22port%22%3A80%2C%22weight%22%3A3%7D";
    assert_eq!(beat(&format!("{INSTANCE}/beat?serviceName=orders&beat={body}"))["code"], 10200);
    let answer = beat(&light);
    assert_eq!(answer, json!({ "clientBeatInterval": 5000, "code": 10200, "lightBeatEnabled": true }));
    assert_eq!(server.instances("orders")[0].weight, 3.0, "a full beat registers");
}

#[test]
fn a_put_is_an_override_that_outlives_the_instance() {
    let (server, mut nacos) = started();
    let one = "serviceName=orders&ip=127.0.0.1&port=80";
    nacos.send("POST", &format!("{INSTANCE}?{one}&weight=2&metadata=a%3D1")).is(200, "ok");
    nacos.send("PUT", &format!("{INSTANCE}?{one}&weight=3&metadata=b%3D2")).is(200, "ok");
    nacos.send("DELETE", &format!("{INSTANCE}?{one}")).is(200, "ok");
    nacos.send("POST", &format!("{INSTANCE}?{one}&weight=2")).is(200, "ok");
    let instance = &server.instances("orders")[0];
    assert_eq!(instance.weight, 3.0);
    assert_eq!(instance.metadata, [("b".to_owned(), "2".to_owned())].into());
}

#[test]
fn a_patch_of_metadata_merges_them_and_sets_the_weight_back() {
    let (server, mut nacos) = started();
    let one = "serviceName=orders&ip=127.0.0.1&port=80";
    nacos.send("POST", &format!("{INSTANCE}?{one}&weight=2&metadata=a%3D1")).is(200, "ok");
    nacos.send("PATCH", &format!("{INSTANCE}?{one}&metadata=c%3D3")).is(200, "ok");
    let instance = &server.instances("orders")[0];
    assert_eq!((instance.weight, instance.metadata.len()), (1.0, 2));
    nacos.send("PATCH", &format!("{INSTANCE}?serviceName=orders&ip=127.9.9.9&port=1")).is(404, "no matched ip found!");
}

#[test]
fn metadata_of_many_change_at_once() {
    let (server, mut nacos) = started();
    for i in 1..=3 {
        nacos.send("POST", &format!("{INSTANCE}?serviceName=orders&ip=127.0.0.{i}&port=80")).is(200, "ok");
    }
    let batch = format!("{INSTANCE}/metadata/batch?serviceName=orders&metadata=%7B%22a%22%3A%221%22%7D");
    let updated = nacos.send("PUT", &batch).json();
    assert_eq!(updated["updated"].as_array().map(Vec::len), Some(3));
    let one = "%5B%7B%22ip%22%3A%22127.0.0.1%22%2C%22port%22%3A80%7D%5D";
    let updated = nacos.send("DELETE", &format!("{batch}&instances={one}")).json();
    assert_eq!(updated, json!({ "updated": ["127.0.0.1:80:unknown:DEFAULT:ephemeral"] }));
    let with_metadata = server.instances("orders").iter().filter(|i| !i.metadata.is_empty()).count();
    assert_eq!(with_metadata, 2);
}

#[test]
fn a_service_is_ephemeral_or_persistent_as_a_whole() {
    let (_server, mut nacos) = started();
    nacos.send("POST", &format!("{INSTANCE}?serviceName=orders&ip=127.0.0.1&port=80&ephemeral=false")).is(200, "ok");
    let refused = nacos.send("POST", &format!("{INSTANCE}?serviceName=orders&ip=127.0.0.2&port=80"));
    assert_eq!(refused.status, 400);
    assert!(refused.body.contains("is persistent service, can't register ephemeral instance"), "{refused:?}");
}

#[test]
fn an_address_is_one_instance_of_a_service_whatever_its_cluster() {
    let (server, mut nacos) = started();
    for cluster in ["east", "west"] {
        let one = format!("serviceName=orders&ip=127.0.0.1&port=80&clusterName={cluster}");
        nacos.send("POST", &format!("{INSTANCE}?{one}")).is(200, "ok");
    }
    let clusters: Vec<String> = server.instances("orders").into_iter().map(|i| i.cluster).collect();
    assert_eq!(clusters, ["west"]);
}

#[test]
fn services_are_listed_by_page_and_group() {
    let (server, mut nacos) = started();
    for service in ["a", "b", "c", "PAY@@d"] {
        nacos.send("POST", &format!("{INSTANCE}?serviceName={service}&ip=127.0.0.1&port=80")).is(200, "ok");
    }
    let mut list = |more: &str| nacos.get(&format!("/nacos/v1/ns/service/list?{more}")).json();
    assert_eq!(list("pageNo=1&pageSize=2"), json!({ "count": 3, "doms": ["a", "b"] }));
    assert_eq!(list("pageNo=2&pageSize=2"), json!({ "count": 3, "doms": ["c"] }));
    assert_eq!(list("pageNo=1&pageSize=9&groupName=PAY"), json!({ "count": 1, "doms": ["d"] }));
    assert_eq!(list("pageNo=1&pageSize=9&namespaceId=dev"), json!({ "count": 0, "doms": [] }));
    assert_eq!(server.services(), ["DEFAULT_GROUP@@a", "DEFAULT_GROUP@@b", "DEFAULT_GROUP@@c", "PAY@@d"]);
}

#[test]
fn below_the_protect_threshold_all_instances_are_listed_as_healthy() {
    let (_server, mut nacos) = started();
    for more in ["1", "2&healthy=false", "3&healthy=false"] {
        nacos.send("POST", &format!("{INSTANCE}?serviceName=orders&port=80&ip=127.0.0.{more}")).is(200, "ok");
    }
    nacos.send("PUT", "/nacos/v1/ns/service?serviceName=orders&protectThreshold=0.5").is(200, "ok");
    let list = nacos.get(&format!("{INSTANCE}/list?serviceName=orders")).json();
    assert_eq!(list["reachProtectionThreshold"], true);
    let healthy = |host: &Value| host["healthy"] == true;
    assert_eq!(list["hosts"].as_array().map(|hosts| hosts.iter().filter(|host| healthy(host)).count()), Some(3));
}

#[test]
fn bad_input_is_rejected_as_nacos_rejects_it() {
    let (_server, mut nacos) = started();
    let long = "v".repeat(1025);
    for (more, body) in [
        ("ip=127.0.0.1&port=80", "Param 'serviceName' is required."),
        ("serviceName=a&port=80", "Param 'ip' is required."),
        (
            "serviceName=a&ip=127.0.0.1&port=80&weight=-1",
            "instance format invalid: The weights range from 0.0 to 10000.0",
        ),
        (
            "serviceName=a&ip=127.0.0.1&port=70000",
            "Param 'port' is illegal, the value should be between 0 and 65535.\r\n",
        ),
        (
            &format!("serviceName=a&ip=127.0.0.1&port=80&metadata=k%3D{long}"),
            "Param 'Metadata' is illegal, the param length should not exceed 1024.\r\n",
        ),
        (
            "serviceName=a%20b&ip=127.0.0.1&port=80",
            "Param 'serviceName' is illegal, illegal characters should not appear in the param.\r\n",
        ),
    ] {
        nacos.send("POST", &format!("{INSTANCE}?{more}")).is(400, body);
    }
    let unknown = nacos.get("/nacos/v1/ns/nothing");
    assert_eq!((unknown.status, &unknown.json()["error"]), (501, &json!("Not Implemented")));
    assert_eq!(nacos.get("/elsewhere/v1/ns/instance/list?serviceName=a").status, 404);
}

#[test]
fn another_context_path_and_another_dialect_are_settings() {
    let server = EmbeddedServer::builder()
        .list_delay(Duration::ZERO)
        .context_path("/registry")
        .dialect(Dialect::V1_4)
        .start()
        .expect("a server");
    let mut nacos = Connection::to(server.address());
    let list = nacos.get("/registry/v1/ns/instance/list?serviceName=orders").json();
    assert_eq!(list["cacheMillis"], 3000);
    assert_eq!(nacos.get("/nacos/v1/ns/instance/list?serviceName=orders").status, 404);
    assert!(server.url().ends_with("/registry"));
}

#[test]
fn users_need_a_token_and_tokens_end() {
    let server = EmbeddedServer::builder()
        .list_delay(Duration::ZERO)
        .user("nacos", "secret")
        .time_stands_still()
        .start()
        .expect("a server");
    let mut nacos = Connection::to(server.address());
    let list = format!("{INSTANCE}/list?serviceName=orders");
    assert_eq!(nacos.get(&list).json()["message"], "user not found!");
    assert_eq!(nacos.get(&format!("{list}&accessToken=x")).json()["message"], "token invalid!");
    let wrong = nacos.try_send("POST", "/nacos/v1/auth/login", &[], Some("username=nacos&password=x"));
    wrong.expect("an answer").is(403, "user not found!");
    let login = nacos.try_send("POST", "/nacos/v1/auth/login", &[], Some("username=nacos&password=secret"));
    let login = login.expect("an answer").json();
    assert_eq!(login["tokenTtl"], 18_000);
    let token = login["accessToken"].as_str().expect("a token").to_owned();
    let bearer = format!("Bearer {token}");
    assert_eq!(nacos.try_send("GET", &list, &[("Authorization", &bearer)], None).expect("an answer").status, 200);
    assert_eq!(nacos.try_send("GET", &list, &[("accessToken", &token)], None).expect("an answer").status, 200);
    server.advance(Duration::from_secs(18_001));
    let expired = nacos.get(&format!("{list}&accessToken={token}"));
    assert_eq!((expired.status, &expired.json()["message"]), (403, &json!("token expired!")));
    assert_eq!(server.counters().requests_for(Operation::Login), 2);
}
