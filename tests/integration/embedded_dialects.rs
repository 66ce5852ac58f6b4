//! Behaviour of the originals that no recording contains, by dialect. The requests are written by hand.

use std::time::Duration;

use actix_nacos::embedded::{Dialect, EmbeddedServer, EmbeddedServerBuilder};
use serde_json::{json, Value};

use crate::raw_http::{Connection, Response, INSTANCE};

const V3_INSTANCE: &str = "/nacos/v3/client/ns/instance";
const ONE: &str = "serviceName=orders&ip=127.0.0.1&port=80";
const SECOND: Duration = Duration::from_secs(1);

const V1: [Dialect; 3] = [Dialect::V1_4, Dialect::V2_5, Dialect::V3_0];
const SINCE_2: [Dialect; 2] = [Dialect::V2_5, Dialect::V3_0];

struct World {
    server: EmbeddedServer,
    nacos: Connection,
}

impl World {
    /// A server whose clock stands still, and whose lists show changes at once.
    fn of(dialect: Dialect) -> Self {
        Self::with(dialect, |builder| builder.list_delay(Duration::ZERO))
    }

    fn with(dialect: Dialect, set: impl FnOnce(EmbeddedServerBuilder) -> EmbeddedServerBuilder) -> Self {
        let builder = set(EmbeddedServer::builder().dialect(dialect).time_stands_still());
        let server = builder.start().expect("a server");
        World { nacos: Connection::to(server.address()), server }
    }

    /// Sends a request. `parameters` are not encoded yet.
    fn ask(&mut self, method: &str, path: &str, parameters: &[(&str, &str)]) -> Response {
        let query = serde_urlencoded::to_string(parameters).expect("a query");
        self.nacos.send(method, &format!("{path}?{query}"))
    }

    fn register(&mut self, parameters: &[(&str, &str)]) -> Response {
        let all = [&[("serviceName", "orders"), ("ip", "127.0.0.1"), ("port", "80")], parameters].concat();
        self.ask("POST", INSTANCE, &all)
    }

    fn beat(&mut self, service: &str, body: Value) -> Response {
        self.ask("PUT", &format!("{INSTANCE}/beat"), &[("serviceName", service), ("beat", &body.to_string())])
    }

    fn form(&mut self, method: &str, path: &str, form: &str) -> Response {
        self.nacos.try_send(method, path, &[], Some(form)).expect("an answer")
    }

    fn hosts(&mut self) -> Vec<Value> {
        let list = self.nacos.get(&format!("{INSTANCE}/list?serviceName=orders")).json();
        list["hosts"].as_array().expect("hosts").clone()
    }
}

#[test]
fn a_full_beat_renews_the_service_that_its_body_names() {
    for (dialect, named, renewed) in [
        (Dialect::V1_4, "orders", true),
        (Dialect::V2_5, "orders", false),
        (Dialect::V3_0, "orders", false),
        (Dialect::V2_5, "PAY@@orders", true),
        (Dialect::V3_0, "PAY@@orders", true),
        (Dialect::V2_5, "", false),
    ] {
        let mut world = World::of(dialect);
        world.register(&[("groupName", "PAY")]).is(200, "ok");
        world.server.advance(14 * SECOND);
        let body = json!({ "serviceName": named, "ip": "127.0.0.1", "port": 80 });
        assert_eq!(world.beat("PAY@@orders", body).json()["code"], 10200, "{dialect} {named}");
        world.server.advance(6 * SECOND);
        assert_eq!(world.server.instances("PAY@@orders")[0].healthy, renewed, "{dialect} {named}");
    }
}

#[test]
fn a_beat_of_another_cluster_heals_nothing() {
    for dialect in SINCE_2 {
        let mut world = World::of(dialect);
        world.register(&[("clusterName", "east"), ("healthy", "false")]);
        let mut body = json!({ "serviceName": "DEFAULT_GROUP@@orders", "ip": "127.0.0.1", "port": 80 });
        body["cluster"] = "west".into();
        assert_eq!(world.beat("orders", body.clone()).json()["code"], 10200);
        assert!(!world.server.instances("orders")[0].healthy, "{dialect}");
        body["cluster"] = "east".into();
        world.beat("orders", body);
        assert!(world.server.instances("orders")[0].healthy, "{dialect}");
    }
}

#[test]
fn a_beat_without_weight_registers_weight_0_and_odd_fields_are_converted() {
    for dialect in V1 {
        let mut world = World::of(dialect);
        let body = json!({ "ip": "127.0.0.1", "port": null, "cluster": -1, "metadata": { "n": 1 } });
        assert_eq!(world.beat("orders", body).json()["code"], 10200, "{dialect}");
        let instance = &world.server.instances("orders")[0];
        assert_eq!((instance.weight, instance.port, instance.cluster.as_str()), (0.0, 0, "-1"), "{dialect}");
        assert_eq!(instance.metadata["n"], "1");
        assert_eq!(world.beat("orders", json!({ "ip": "127.0.0.1", "port": true })).status, 500);
    }
}

#[test]
fn nacos_1_4_reads_the_form_bodies_of_all_methods_but_post() {
    let mut world = World::of(Dialect::V1_4);
    let body = "beat=%7B%22ip%22%3A%22127.0.0.1%22%2C%22port%22%3A80%2C%22weight%22%3A1%7D";
    assert_eq!(world.form("POST", INSTANCE, ONE).status, 400);
    let beat = world.form("PUT", &format!("{INSTANCE}/beat"), &format!("serviceName=orders&{body}"));
    assert_eq!(beat.json()["code"], 10200);
    world.form("PUT", INSTANCE, &format!("{ONE}&weight=2")).is(200, "ok");
    world.form("PATCH", INSTANCE, &format!("{ONE}&enabled=false")).is(200, "ok");
    let instance = &world.server.instances("orders")[0];
    assert_eq!((instance.weight, instance.enabled), (2.0, false));
    world.form("DELETE", INSTANCE, ONE).is(200, "ok");
    assert!(world.server.instances("orders").is_empty());
}

/// Returns the number of listed instances, and the weight in the answer to GET.
fn shown(world: &mut World) -> (usize, Value) {
    let weight = match world.server.dialect() {
        Dialect::V3_0 => world.hosts().iter().map(|host| host["weight"].clone()).max_by_key(Value::to_string),
        _ => Some(world.nacos.get(&format!("{INSTANCE}?{ONE}")).json()["weight"].clone()),
    };
    (world.hosts().len(), weight.expect("a weight"))
}

#[test]
fn lists_show_a_change_half_a_second_later_since_2_x_but_a_new_service_at_once() {
    for dialect in SINCE_2 {
        let mut world = World::with(dialect, |builder| builder);
        world.register(&[("weight", "2")]);
        assert_eq!(shown(&mut world), (1, json!(2.0)), "the first list of a service");
        world.server.advance(SECOND);
        world.register(&[("ip", "127.0.0.2"), ("weight", "1")]);
        let second = "serviceName=orders&port=80&ip=127.0.0.2";
        world.nacos.send("POST", &format!("{INSTANCE}?{second}")).is(200, "ok");
        world.server.advance(Duration::from_millis(499));
        assert_eq!(shown(&mut world).0, 1, "{dialect}");
        world.server.advance(Duration::from_millis(1));
        assert_eq!(shown(&mut world).0, 2, "{dialect}");
        world.nacos.send("DELETE", &format!("{INSTANCE}?{second}")).is(200, "ok");
        assert_eq!(shown(&mut world).0, 2, "{dialect}");
        world.server.advance(Duration::from_millis(500));
        assert_eq!(shown(&mut world).0, 1, "{dialect}");
        assert_eq!(world.server.instances("orders").len(), 1, "a look inside is never late");
    }
}

#[test]
fn a_put_by_somebody_else_shows_half_a_second_later_on_2_5() {
    let mut world = World::with(Dialect::V2_5, |builder| builder);
    world.register(&[("weight", "1"), ("metadata", "a=1")]);
    world.server.advance(SECOND);
    world.ask("PUT", INSTANCE, &[("serviceName", "orders"), ("ip", "127.0.0.1"), ("port", "80"), ("weight", "3")]);
    assert_eq!(shown(&mut world), (1, json!(1.0)));
    world.server.advance(Duration::from_millis(499));
    assert_eq!(shown(&mut world), (1, json!(1.0)));
    world.server.advance(Duration::from_millis(1));
    assert_eq!(shown(&mut world), (1, json!(3.0)));
}

#[test]
fn lists_show_changes_at_once_on_1_4_and_after_the_delay_on_others() {
    for (dialect, delay) in [(Dialect::V1_4, None), (Dialect::V2_5, Some(0)), (Dialect::V2_5, Some(2000))] {
        let mut world = World::with(dialect, |builder| match delay {
            Some(delay) => builder.list_delay(Duration::from_millis(delay)),
            None => builder,
        });
        world.register(&[]);
        world.hosts();
        world.register(&[("weight", "7")]);
        world.server.advance(Duration::from_millis(delay.unwrap_or(0).saturating_sub(1)));
        assert_eq!(world.hosts()[0]["weight"] == 7.0, delay.unwrap_or(0) == 0, "{dialect} {delay:?}");
        world.server.advance(Duration::from_millis(1));
        assert_eq!(world.hosts()[0]["weight"], 7.0, "{dialect} {delay:?}");
    }
}

const RULE: &str = "Instance 'heart beat interval' must less than 'heart beat timeout' and 'ip delete timeout'.";

#[test]
fn a_heartbeat_interval_above_the_timeouts_is_rejected_since_2_x() {
    let timeouts = json!({ "preserved.heart.beat.timeout": "3000" });
    let ours = json!({ "preserved.heart.beat.timeout": "3000", "preserved.heart.beat.interval": "1000" });
    for dialect in SINCE_2 {
        let mut world = World::of(dialect);
        world.register(&[("metadata", &timeouts.to_string())]).is(400, RULE);
        world.register(&[("metadata", r#"{"preserved.ip.delete.timeout":"4999"}"#)]).is(400, RULE);
        world.beat("orders", json!({ "ip": "127.0.0.1", "port": 80, "metadata": timeouts })).is(400, RULE);
        let gone = world.ask(
            "DELETE",
            INSTANCE,
            &[("metadata", &timeouts.to_string()), ("serviceName", "orders"), ("ip", "127.0.0.1"), ("port", "80")],
        );
        gone.is(200, "ok");
        world.register(&[("metadata", &ours.to_string())]).is(200, "ok");
    }
    let mut world = World::of(Dialect::V3_2);
    let form = serde_urlencoded::to_string([("metadata", timeouts.to_string())]).expect("a form");
    let refused = world.form("POST", V3_INSTANCE, &format!("{ONE}&{form}"));
    assert_eq!(
        (refused.status, refused.json()),
        (400, json!({ "code": 21004, "message": "instance error", "data": RULE }))
    );
    World::of(Dialect::V1_4).register(&[("metadata", &timeouts.to_string())]).is(200, "ok");
}

/// Heartbeats stop at any time between two sweeps.
#[test]
fn instances_turn_unhealthy_after_15_to_20_seconds_and_are_removed_after_30_to_35() {
    for dialect in V1 {
        for phase in 0..5 {
            let mut world = World::of(dialect);
            world.register(&[]);
            world.server.advance(phase * SECOND + Duration::from_millis(500));
            world.beat("orders", json!({ "serviceName": "DEFAULT_GROUP@@orders", "ip": "127.0.0.1", "port": 80 }));
            let after = |world: &World, seconds: u32, is_so: fn(&EmbeddedServer) -> bool| {
                (1..=seconds).find(|_| {
                    world.server.advance(SECOND);
                    is_so(&world.server)
                })
            };
            let unhealthy = after(&world, 60, |server| !server.instances("orders")[0].healthy).expect("unhealthy");
            let gone = unhealthy + after(&world, 60, |server| server.instances("orders").is_empty()).expect("gone");
            assert!((15..=20).contains(&unhealthy) && (30..=35).contains(&gone), "{dialect} {unhealthy} {gone}");
        }
    }
}

#[test]
fn a_timeout_that_is_not_a_number_is_ignored_since_2_x() {
    for (dialect, left) in [(Dialect::V1_4, 1), (Dialect::V2_5, 0)] {
        let mut world = World::of(dialect);
        world.register(&[("metadata", "preserved.ip.delete.timeout=soon")]).is(200, "ok");
        world.server.advance(6 * SECOND);
        assert_eq!(world.server.instances("orders").len(), left, "{dialect}");
    }
}

#[test]
fn metadata_of_no_pairs_are_taken_and_half_a_pair_is_an_error() {
    for dialect in V1 {
        let mut world = World::of(dialect);
        for (metadata, pairs) in [("null", 0), (",", 0), ("a=1,b=2,", 2), (r#"{"a":"1"}"#, 1)] {
            world.register(&[("metadata", metadata)]).is(200, "ok");
            assert_eq!(world.server.instances("orders")[0].metadata.len(), pairs, "{dialect} {metadata}");
        }
        for metadata in ["a=", "a", "a=b=c", "[]"] {
            assert_eq!(world.register(&[("metadata", metadata)]).status, 500, "{dialect} {metadata}");
        }
    }
}

#[test]
fn a_boolean_of_v1_is_true_or_false() {
    for dialect in V1 {
        let mut world = World::of(dialect);
        for (text, is_true) in
            [("true", true), ("TRUE", true), ("1", false), ("yes", false), ("x", false), ("false", false)]
        {
            world.register(&[("enabled", text), ("healthy", text)]).is(200, "ok");
            let instance = &world.server.instances("orders")[0];
            assert_eq!((instance.enabled, instance.healthy), (is_true, is_true), "{dialect} {text}");
        }
        world.register(&[("enabled", " true")]).is(200, "ok");
        assert_eq!(world.server.instances("orders")[0].enabled, dialect != Dialect::V1_4);
    }
    let mut world = World::of(Dialect::V2_5);
    world.register(&[("ephemeral", "1")]).is(200, "ok");
    assert!(!world.server.instances("orders")[0].ephemeral);
}

#[test]
fn an_invalid_boolean_is_a_server_error_of_v3() {
    for dialect in [Dialect::V3_0, Dialect::V3_2] {
        let mut world = World::of(dialect);
        for wrong in ["enabled=x", "healthy=2", "ephemeral=maybe", "weight=heavy", "heartBeat=x"] {
            let refused = world.form("POST", V3_INSTANCE, &format!("{ONE}&{wrong}"));
            assert_eq!((refused.status, &refused.json()["code"]), (500, &json!(30_000)), "{dialect} {wrong}");
        }
        for (right, enabled) in [("enabled=1", true), ("enabled=off", false), ("enabled=", true)] {
            assert_eq!(world.form("POST", V3_INSTANCE, &format!("{ONE}&{right}")).status, 200);
            assert_eq!(world.server.instances("orders")[0].enabled, enabled, "{dialect} {right}");
        }
    }
}

#[test]
fn a_grouped_name_has_a_group_and_a_name() {
    for dialect in V1 {
        let mut world = World::of(dialect);
        for name in ["G1@@", "@@s", "@@"] {
            for (method, path) in [("POST", INSTANCE.to_owned()), ("GET", format!("{INSTANCE}/list"))] {
                let parameters = [("serviceName", name), ("ip", "127.0.0.1"), ("port", "80")];
                let refused = world.ask(method, &path, &parameters);
                assert_eq!(refused.status, 400, "{dialect} {method} {name}: {refused:?}");
                assert!(refused.body.contains("Param 'serviceName' is illegal"), "{refused:?}");
            }
        }
        assert!(world.server.services().is_empty());
    }
}

#[test]
fn a_selector_is_applied_or_rejected() {
    let service = "/nacos/v1/ns/service";
    for dialect in [Dialect::V1_4, Dialect::V2_5] {
        let mut world = World::of(dialect);
        let mut create = |name: &str, selector: &str| {
            world.ask("POST", service, &[("serviceName", name), ("protectThreshold", "0.5"), ("selector", selector)])
        };
        create("a", r#"{"type":"none"}"#).is(200, "ok");
        for selector in [
            r#"{"type":"foo"}"#,
            r#"{"type":"unknown"}"#,
            r#"{"type":"label","expression":"CONSUMER.label.a = PROVIDER.label.a"}"#,
            "{}",
        ] {
            assert_eq!(create("b", selector).status, 400, "{dialect} {selector}");
        }
        assert_eq!(create("b", "{").status, 500, "{dialect}");
        let update = [("serviceName", "a"), ("protectThreshold", "0"), ("selector", r#"{"type":"foo"}"#)];
        assert_eq!(world.ask("PUT", service, &update).status, 400, "{dialect}");
        let threshold = world.ask("GET", service, &[("serviceName", "a")]).json()["protectThreshold"].clone();
        assert_eq!(threshold, 0.5, "what is refused changes nothing");
        assert_eq!(world.server.services(), ["DEFAULT_GROUP@@a"]);
    }
}

#[test]
fn nacos_1_4_lists_the_services_of_a_label() {
    let mut world = World::of(Dialect::V1_4);
    world.register(&[("metadata", "zone=a")]);
    world.ask("POST", INSTANCE, &[("serviceName", "other"), ("ip", "127.0.0.1"), ("port", "80")]).is(200, "ok");
    let selector = r#"{"type":"label","expression":"INSTANCE.metadata.zone = 'a'"}"#;
    let list =
        world.ask("GET", "/nacos/v1/ns/service/list", &[("pageNo", "1"), ("pageSize", "9"), ("selector", selector)]);
    assert_eq!(list.json(), json!({ "count": 1, "doms": ["orders"] }));
}

#[test]
fn light_beats_can_be_switched_off_and_on() {
    let switches = "/nacos/v1/ns/operator/switches";
    for dialect in [Dialect::V1_4, Dialect::V2_5] {
        let mut world = World::of(dialect);
        world.register(&[]);
        for (value, light) in [("false", false), ("true", true)] {
            world.ask("PUT", switches, &[("entry", "lightBeatEnabled"), ("value", value)]).is(200, "ok");
            assert_eq!(world.nacos.get(switches).json()["lightBeatEnabled"], light, "{dialect}");
            let beat = world.beat("orders", json!({ "ip": "127.0.0.1", "port": 80 }));
            assert_eq!(beat.json()["lightBeatEnabled"], light, "{dialect}");
        }
        world.ask("PUT", switches, &[("entry", "pushEnabled"), ("value", "true"), ("debug", "true")]).is(200, "ok");
        assert_eq!(world.ask("PUT", switches, &[("entry", "pushEnabled")]).status, 400);
    }
    assert_eq!(World::of(Dialect::V3_0).ask("PUT", switches, &[]).status, 410);
}

#[test]
fn subscribers_and_metrics_are_reported() {
    let agent = [("User-Agent", "Nacos-Java-Client:v1.4.6")];
    for dialect in [Dialect::V1_4, Dialect::V2_5] {
        let mut world = World::of(dialect);
        world.register(&[]);
        let list = format!("{INSTANCE}/list?serviceName=orders&clientIP=127.0.0.1&udpPort=9&app=shop&clusters=DEFAULT");
        world.nacos.try_send("GET", &list, &agent, None).expect("a list");
        let told = world.ask("GET", "/nacos/v1/ns/service/subscribers", &[("serviceName", "orders")]).json();
        let mut expected = json!({
            "addrStr": "127.0.0.1:9", "agent": agent[0].1, "app": "shop", "ip": "127.0.0.1",
            "namespaceId": "public", "serviceName": "DEFAULT_GROUP@@orders",
        });
        if dialect != Dialect::V1_4 {
            expected["port"] = 9.into();
            expected["cluster"] = "DEFAULT".into();
        }
        assert_eq!(told, json!({ "count": 1, "subscribers": [expected] }), "{dialect}");
        let none = world.ask("GET", "/nacos/v1/ns/service/subscribers", &[("serviceName", "nobody")]).json();
        assert_eq!(none, json!({ "count": 0, "subscribers": [] }));
        let metrics = world.ask("GET", "/nacos/v1/ns/operator/metrics", &[("onlyStatus", "false")]).json();
        assert_eq!((&metrics["status"], &metrics["instanceCount"]), (&json!("UP"), &json!(1)), "{dialect}");
        if dialect != Dialect::V1_4 {
            assert_eq!((&metrics["clientCount"], &metrics["subscribeCount"]), (&json!(2), &json!(1)));
        }
    }
}

#[test]
fn the_catalog_is_shown() {
    for dialect in [Dialect::V1_4, Dialect::V2_5] {
        let mut world = World::of(dialect);
        world.register(&[("enabled", "false")]);
        world.nacos.send("POST", &format!("{INSTANCE}?serviceName=PAY@@ledger&ip=127.0.0.2&port=80")).is(200, "ok");
        let page = [("pageNo", "1"), ("pageSize", "10")];
        let services = "/nacos/v1/ns/catalog/services";
        let all = world.ask("GET", services, &page).json();
        assert_eq!((&all["count"], &all["serviceList"][1]["name"]), (&json!(2), &json!("ledger")), "{dialect}");
        assert_eq!(
            (&all["serviceList"][1]["ipCount"], &all["serviceList"][1]["groupName"]),
            (&json!(1), &json!("PAY"))
        );
        let one =
            world.ask("GET", services, &[&page[..], &[("groupNameParam", "PAY"), ("withInstances", "true")]].concat());
        assert_eq!(one.json()[0]["clusterMap"]["DEFAULT"]["hosts"][0]["ip"], "127.0.0.2", "{dialect}");
        let instances = "/nacos/v1/ns/catalog/instances";
        let about = [&page[..], &[("serviceName", "orders"), ("clusterName", "DEFAULT")]].concat();
        let found = world.ask("GET", instances, &about).json();
        assert_eq!((&found["count"], &found["list"][0]["enabled"]), (&json!(1), &json!(false)), "{dialect}");
        let missing = [&page[..], &[("serviceName", "orders"), ("clusterName", "east")]].concat();
        assert_eq!(world.ask("GET", instances, &missing).status, 404);
    }
    assert_eq!(World::of(Dialect::V3_0).ask("GET", "/nacos/v1/ns/catalog/services", &[]).status, 410);
}

#[test]
fn namespaces_are_made_listed_and_removed() {
    let path = "/nacos/v1/console/namespaces";
    for dialect in [Dialect::V1_4, Dialect::V2_5] {
        let mut world = World::of(dialect);
        let new = [("customNamespaceId", "dev"), ("namespaceName", "Development"), ("namespaceDesc", "ours")];
        world.ask("POST", path, &new).is(200, "true");
        world.ask("POST", path, &new).is(200, "false");
        world.ask("GET", path, &[("checkNamespaceIdExist", "true"), ("customNamespaceId", "dev")]).is(200, "true");
        let list = world.nacos.get(path).json();
        assert_eq!((&list["code"], list["data"].as_array().map(Vec::len)), (&json!(200), Some(2)), "{dialect}");
        assert_eq!(
            (&list["data"][0]["namespace"], &list["data"][1]["namespaceShowName"]),
            (&json!(""), &json!("Development"))
        );
        let one = world.ask("GET", path, &[("show", "all"), ("namespaceId", "dev")]).json();
        assert_eq!(one["namespaceDesc"] == "ours", dialect != Dialect::V1_4);
        world.ask("DELETE", path, &[("namespaceId", "dev")]).is(200, "true");
        assert_eq!(world.nacos.get(path).json()["data"].as_array().map(Vec::len), Some(1));
    }
}

fn token(world: &mut World, path: &str) -> String {
    let login = world.form("POST", path, "username=nacos&password=secret").json();
    login["accessToken"].as_str().expect("a token").to_owned()
}

#[test]
fn with_another_token_key_tokens_are_rejected_until_a_new_login() {
    for (dialect, login, said) in [
        (Dialect::V1_4, "/nacos/v1/auth/login", "token invalid!"),
        (Dialect::V2_5, "/nacos/v1/auth/login", "Invalid signature"),
        (Dialect::V3_2, "/nacos/v3/auth/user/login", "Code: 401, Message: Invalid signature."),
    ] {
        let mut world = World::with(dialect, |builder| builder.user("nacos", "secret"));
        let list = match dialect {
            Dialect::V3_2 => format!("{V3_INSTANCE}/list?serviceName=orders&accessToken="),
            _ => format!("{INSTANCE}/list?serviceName=orders&accessToken="),
        };
        let old = token(&mut world, login);
        assert_eq!(world.nacos.get(&format!("{list}{old}")).status, 200);
        world.server.faults().change_token_key();
        let refused = world.nacos.get(&format!("{list}{old}"));
        assert_eq!((refused.status, &refused.json()["message"]), (403, &json!(said)), "{dialect}");
        let new = token(&mut world, login);
        assert_eq!(world.nacos.get(&format!("{list}{new}")).status, 200);
    }
}

const TIME: &str = "1700000000000";

fn signed<'a>(data: &'a str, signature: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![("ak", "id"), ("data", data), ("signature", signature)]
}

/// Uses signatures that Alibaba's own client has made.
#[test]
fn requests_must_be_signed_where_there_is_an_access_key() {
    let mut world = World::with(Dialect::V2_5, |builder| builder.access_key("id", "my-secret"));
    let orders = format!("{TIME}@@DEFAULT_GROUP@@orders");
    let right = signed(&orders, "Xcvskr4ANAl6LnyTFC1LXUTU3mI=");
    world.register(&right).is(200, "ok");
    let services = [("pageNo", "1"), ("pageSize", "9")];
    let of_no_service = signed(TIME, "JgszVCq0fm0ew3uUG9xxV/KqhA4=");
    assert_eq!(world.ask("GET", "/nacos/v1/ns/service/list", &[&services[..], &of_no_service].concat()).status, 200);
    let other_service = format!("{TIME}@@DEFAULT_GROUP@@other");
    for (wrong, said) in [
        (vec![], "access key not found!"),
        (vec![("ak", "other"), right[1], right[2]], "access key not found!"),
        (of_no_service, "signed data invalid!"),
        (signed(&other_service, "Xcvskr4ANAl6LnyTFC1LXUTU3mI="), "signed data invalid!"),
        (signed(&orders, "AAAAAAAAAAAAAAAAAAAAAAAAAAA="), "signature invalid!"),
        ([&right[..], &[("signatureVersion", "v4")]].concat(), "signature version invalid!"),
    ] {
        let refused = world.register(&wrong);
        assert_eq!((refused.status, &refused.json()["message"]), (403, &json!(said)));
    }
}

#[test]
fn temporary_credentials_need_their_token_and_v4_its_region() {
    let mut world = World::with(Dialect::V2_5, |builder| {
        builder.access_key("id", "my-secret").security_token("sts").signature_region("cn-hangzhou")
    });
    let data = format!("{TIME}@@DEFAULT_GROUP@@orders");
    let v4 = [&signed(&data, "cyu5JYCo5XWPxqpF2wyifztfFUg=")[..], &[("signatureVersion", "v4")]].concat();
    let target = format!("{INSTANCE}?{ONE}&{}", serde_urlencoded::to_string(v4).expect("a query"));
    let mut status =
        |token: &[(&str, &str)]| world.nacos.try_send("POST", &target, token, None).expect("an answer").status;
    assert_eq!(status(&[("Spas-SecurityToken", "sts")]), 200);
    assert_eq!(status(&[("Spas-SecurityToken", "old")]), 403);
    assert_eq!(status(&[]), 403);
    let v1 = signed(&data, "Xcvskr4ANAl6LnyTFC1LXUTU3mI=");
    assert_eq!(world.register(&v1).json()["message"], "signature version invalid!");
}

#[test]
fn a_login_and_a_signature_may_be_demanded_together() {
    let mut world = World::with(Dialect::V2_5, |builder| builder.user("nacos", "secret").access_key("id", "my-secret"));
    let data = format!("{TIME}@@DEFAULT_GROUP@@orders");
    let right = signed(&data, "Xcvskr4ANAl6LnyTFC1LXUTU3mI=");
    assert_eq!(world.register(&right).json()["message"], "user not found!");
    let token = token(&mut world, "/nacos/v1/auth/login");
    assert_eq!(world.register(&[("accessToken", &token)]).json()["message"], "access key not found!");
    world.register(&[&right[..], &[("accessToken", &token)]].concat()).is(200, "ok");
}
