//! The embedded server's v3 API in the dialects of Nacos 3.0 and 3.2. The requests are written by hand.

use std::time::Duration;

use actix_nacos::{
    embedded::{Dialect, EmbeddedServer, EmbeddedServerBuilder},
    Operation,
};
use serde_json::json;

use crate::raw_http::Connection;

const INSTANCE: &str = "/nacos/v3/client/ns/instance";

fn both(mut test: impl FnMut(EmbeddedServerBuilder)) {
    for dialect in [Dialect::V3_0, Dialect::V3_2] {
        test(EmbeddedServer::builder().list_delay(Duration::ZERO).dialect(dialect));
    }
}

fn post(nacos: &mut Connection, target: &str, form: &str) -> serde_json::Value {
    nacos.try_send("POST", target, &[], Some(form)).expect("an answer").json()
}

#[test]
fn an_instance_is_registered_beats_is_listed_and_deregistered() {
    both(|builder| {
        let server = builder.start().expect("a server");
        let mut nacos = Connection::to(server.address());
        let one = "serviceName=orders&ip=127.0.0.1&port=80";
        let ok = json!({ "code": 0, "message": "success", "data": "ok" });
        let beat = format!("{one}&heartBeat=true");
        assert_eq!(post(&mut nacos, INSTANCE, &beat)["code"], 21003);
        assert_eq!(post(&mut nacos, INSTANCE, &format!("{one}&weight=2&metadata=%7B%22a%22%3A%22b%22%7D")), ok);
        assert_eq!(post(&mut nacos, INSTANCE, &beat), ok);
        let list = nacos.get(&format!("{INSTANCE}/list?serviceName=orders")).json();
        let host = &list["data"][0];
        assert_eq!(
            (&host["ip"], &host["weight"], &host["metadata"]),
            (&json!("127.0.0.1"), &json!(2.0), &json!({"a": "b"}))
        );
        assert_eq!(nacos.send("DELETE", &format!("{INSTANCE}?{one}")).json(), ok);
        assert_eq!(nacos.get(&format!("{INSTANCE}/list?serviceName=orders")).json()["data"], json!([]));
        let counters = server.counters();
        assert_eq!((counters.requests_for(Operation::Register), counters.requests_for(Operation::Beat)), (1, 2));
    });
}

/// As in 3.0.3: other clusters must be named.
#[test]
fn a_list_is_of_the_default_cluster_unless_others_are_named() {
    both(|builder| {
        let server = builder.start().expect("a server");
        let mut nacos = Connection::to(server.address());
        post(&mut nacos, INSTANCE, "serviceName=orders&ip=127.0.0.1&port=80");
        post(&mut nacos, INSTANCE, "serviceName=orders&ip=127.0.0.2&port=80&clusterName=east");
        let mut listed = |more: &str| {
            let list = nacos.get(&format!("{INSTANCE}/list?serviceName=orders{more}")).json();
            list["data"].as_array().map(Vec::len)
        };
        assert_eq!(listed(""), Some(1));
        assert_eq!(listed("&clusterName=east"), Some(1));
        assert_eq!(listed("&clusterName=DEFAULT,east"), Some(2));
    });
}

#[test]
fn errors_are_framed_with_code_message_and_data() {
    both(|builder| {
        let server = builder.start().expect("a server");
        let mut nacos = Connection::to(server.address());
        let missing = post(&mut nacos, INSTANCE, "serviceName=orders&port=80");
        assert_eq!(
            missing,
            json!({
                "code": 10000,
                "message": "parameter missing",
                "data": "Required parameter 'ip' type String is not present"
            })
        );
        let heavy = post(&mut nacos, INSTANCE, "serviceName=orders&ip=127.0.0.1&port=80&weight=10001");
        assert_eq!(heavy["code"], 21001);
        let port = nacos.try_send("POST", INSTANCE, &[], Some("serviceName=orders&ip=127.0.0.1&port=x"));
        port.expect("an answer").is(400, "Param 'port' is illegal, the value should be between 0 and 65535.\r\n");
    });
}

#[test]
fn the_admin_api_wants_a_token_even_without_users() {
    both(|builder| {
        let server = builder.start().expect("a server");
        let mut nacos = Connection::to(server.address());
        let refused = nacos.get("/nacos/v3/admin/ns/service/list?pageNo=1&pageSize=10");
        assert_eq!(refused.status, 403);
        let message = "Code: 401, Message: User not found! Please check user exist or password is right!.";
        assert_eq!(refused.json()["message"], message);
    });
}

#[test]
fn services_and_instances_are_read_and_changed_with_a_token() {
    both(|builder| {
        let server = builder.user("nacos", "secret").start().expect("a server");
        let mut nacos = Connection::to(server.address());
        let login = post(&mut nacos, "/nacos/v3/auth/user/login", "username=nacos&password=secret");
        let token = login["accessToken"].as_str().expect("a token").to_owned();
        for service in ["a", "b", "PAY@@c"] {
            let form = format!("serviceName={service}&ip=127.0.0.1&port=80&accessToken={token}");
            assert_eq!(post(&mut nacos, INSTANCE, &form)["code"], 0);
        }
        let admin = "/nacos/v3/admin/ns";
        let list = format!("{admin}/service/list?pageNo=2&pageSize=2&accessToken={token}");
        let list = nacos.get(&list).json();
        assert_eq!((&list["data"]["totalCount"], &list["data"]["pagesAvailable"]), (&json!(3), &json!(2)));
        assert_eq!(list["data"]["pageItems"][0]["name"], "c");
        assert_eq!(list["data"]["pageItems"][0]["groupName"], "PAY");
        let at = |port| format!("{admin}/instance?serviceName=a&ip=127.0.0.1&port={port}&accessToken={token}");
        assert_eq!(nacos.send("PUT", &format!("{}&weight=5", at(80))).json()["code"], 0);
        assert_eq!(nacos.get(&at(80)).json()["data"]["weight"], 5.0);
        assert_eq!(nacos.get(&at(81)).status, 404);
    });
}

#[test]
fn nacos_3_0_keeps_a_part_of_v1_and_3_2_none() {
    let v1 = "/nacos/v1/ns/instance";
    let statuses = |dialect| {
        let server = EmbeddedServer::builder().list_delay(Duration::ZERO).dialect(dialect).start().expect("a server");
        let mut nacos = Connection::to(server.address());
        let one = format!("{v1}?serviceName=orders&ip=127.0.0.1&port=80");
        let mut status = |method: &str, target: &str| nacos.send(method, target).status;
        [
            status("POST", &one),
            status("GET", &format!("{v1}/list?serviceName=orders")),
            status("PUT", &format!("{v1}/beat?serviceName=orders&ip=127.0.0.1&port=80")),
            status("GET", &one),
            status("PUT", &one),
        ]
    };
    assert_eq!(statuses(Dialect::V3_0), [200, 200, 200, 410, 410]);
    assert_eq!(statuses(Dialect::V3_2), [404; 5]);
}
