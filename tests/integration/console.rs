//! The embedded server's console over HTTP. `browser.rs` tests it in a browser.

use crate::site::{get, send, Answer, Events};
use crate::support::{ask, eventually, only_instance, registry, shut_down, soon, IP};
use actix_nacos::{
    embedded::{EmbeddedServer, EmbeddedServerBuilder},
    Error, ListInstances, RegisterInstance,
};
use serde_json::{json, Value};

fn builder() -> EmbeddedServerBuilder {
    crate::support::builder().console()
}

fn url(server: &EmbeddedServer, path: &str) -> String {
    format!("http://{}{path}", server.address())
}

async fn command(server: &EmbeddedServer, command: &Value) -> Answer {
    let origin = url(server, "");
    let headers = [("content-type", "application/json"), ("origin", origin.as_str())];
    send("POST", &url(server, "/console/command"), &headers, &command.to_string()).await
}

fn target(name: &str, port: u16) -> Value {
    json!({ "namespace": "public", "group": "DEFAULT_GROUP", "name": name, "cluster": "DEFAULT", "ip": IP, "port": port })
}

#[actix::test]
async fn there_is_no_console_unless_asked_for() {
    let server = crate::support::server();
    assert_eq!(get(&url(&server, "/"), &[]).await.status, 404);
    assert_eq!(command(&server, &json!({ "command": "forget_everything" })).await.status, 404);
    let server = builder().start().unwrap();
    let page = get(&url(&server, "/"), &[]).await;
    assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
    assert!(page.header("content-security-policy").starts_with("default-src 'none'; script-src 'sha256-"));
    let requests = server.counters().requests;
    assert_eq!(requests, 0, "the console's requests are none of the Nacos'");
}

#[actix::test]
async fn pages_of_other_sites_can_neither_read_nor_change_anything() {
    let server = builder().start().unwrap();
    let registry = registry(&server);
    ask(&registry, RegisterInstance::new("orders", IP, 80)).await.unwrap();
    let own = url(&server, "");
    let port = server.address().port();
    let json = ("content-type", "application/json");
    let remove = json!({ "command": "remove", "instance": target("orders", 80) }).to_string();
    let (rebound, elsewhere) = (format!("nacos.example.com:{port}"), "http://127.0.0.1:1");
    let refused: [&[(&str, &str)]; 7] = [
        &[json, ("host", &rebound), ("origin", "http://nacos.example.com")],
        &[json, ("host", &format!("192.0.2.1:{port}")), ("origin", &own)],
        &[json, ("origin", "http://example.com")],
        &[json, ("origin", elsewhere)],
        &[json, ("origin", "null")],
        &[json],
        &[("content-type", "text/plain"), ("origin", &own)],
    ];
    for headers in refused {
        let answer = send("POST", &url(&server, "/console/command"), headers, &remove).await;
        assert_eq!(answer.status, 403, "{headers:?}");
    }
    for path in ["/", "/console/events"] {
        assert_eq!(get(&url(&server, path), &[("host", &rebound)]).await.status, 403, "{path}");
    }
    let instance = url(&server, &format!("/nacos/v1/ns/instance?serviceName=orders&ip={IP}&port=81"));
    for headers in [("origin", "http://example.com"), ("origin", "null"), ("sec-fetch-site", "cross-site")] {
        assert_eq!(send("POST", &instance, &[headers], "").await.status, 403, "{headers:?}");
    }
    only_instance(&server, "orders");
    for headers in [("origin", own.as_str()), ("sec-fetch-site", "none")] {
        assert_eq!(get(&instance.replace("81", "80"), &[headers]).await.status, 200, "{headers:?}");
    }
    let cross_site = [("sec-fetch-site", "cross-site")];
    assert_eq!(get(&url(&server, "/console/events"), &cross_site).await.status, 403);
    assert_eq!(get(&url(&server, "/console/events"), &[("origin", elsewhere)]).await.status, 403);
    only_instance(&server, "orders");
    assert_eq!(command(&server, &json!({ "command": "remove", "instance": target("orders", 80) })).await.status, 204);
    shut_down(&registry).await;
}

#[actix::test]
async fn a_site_whose_name_was_made_to_resolve_to_this_machine_reaches_no_nacos_api() {
    for server in [crate::support::server(), builder().start().unwrap()] {
        let port = server.address().port();
        let list = url(&server, "/nacos/v1/ns/instance/list?serviceName=orders");
        let instance = url(&server, &format!("/nacos/v1/ns/instance?serviceName=orders&ip={IP}&port=81"));
        for host in ["nacos.example.com", "rebound.test", "localhost.example.com", "127.0.0.1.example.com"] {
            let host = format!("{host}:{port}");
            assert_eq!(get(&list, &[("host", &host)]).await.status, 403, "{host}");
            assert_eq!(send("POST", &instance, &[("host", &host)], "").await.status, 403, "{host}");
        }
        assert!(server.instances("orders").is_empty());
        for host in ["localhost", "LOCALHOST", "nacos.localhost", "127.0.0.1", "[::1]", "192.0.2.1", "nacos"] {
            let host = format!("{host}:{port}");
            assert_eq!(get(&list, &[("host", &host)]).await.status, 200, "{host}");
        }
        assert_eq!(get(&list, &[("host", "host.docker.internal")]).await.status, 200);
    }
}

#[actix::test]
async fn it_shows_added_and_removed_instances_also_with_html_in_the_metadata() {
    let server = builder().start().unwrap();
    let registry = registry(&server);
    let mut events = Events::open(&url(&server, "/console/events")).await;
    assert_eq!(events.header("content-type"), "text/event-stream");
    let html = "</script><script>alert(1)</script>\n\"";
    ask(&registry, RegisterInstance::new("PAY@@ledger", IP, 80).weight(2.0).metadata("note", html)).await.unwrap();
    let came = events.until("it comes", |state| state["services"][0]["count"] == 1).await;
    let service = &came["services"][0];
    assert_eq!((&service["group"], &service["name"]), (&json!("PAY"), &json!("ledger")));
    assert_eq!(service["instances"][0]["metadata"], json!([["note", html]]));
    assert!(!get(&url(&server, "/"), &[]).await.body.contains("ledger"));
    shut_down(&registry).await;
    events.until("it goes", |state| state["services"][0]["count"] == 0).await;
}

#[actix::test]
async fn instances_are_disabled_removed_and_get_other_weights() {
    for dialect in actix_nacos::embedded::Dialect::all() {
        let server = builder().dialect(dialect).start().unwrap();
        let registry = registry(&server);
        ask(&registry, RegisterInstance::new("orders", IP, 80).metadata("zone", "a")).await.unwrap();
        let instance = target("orders", 80);
        command(&server, &json!({ "command": "weigh", "instance": instance, "weight": 7.5 })).await;
        let known = only_instance(&server, "orders");
        assert_eq!((known.weight, known.metadata["zone"].as_str()), (7.5, "a"), "{dialect}");
        command(&server, &json!({ "command": "enable", "instance": instance, "enabled": false })).await;
        assert!(!only_instance(&server, "orders").enabled);
        assert!(ask(&registry, ListInstances::new("orders")).await.unwrap().hosts.is_empty());
        command(&server, &json!({ "command": "enable", "instance": instance, "enabled": true })).await;
        assert_eq!(only_instance(&server, "orders").weight, 7.5);
        command(&server, &json!({ "command": "remove", "instance": instance })).await;
        assert!(server.instances("orders").is_empty());
        for wrong in [json!({ "command": "remove", "instance": instance }), json!({ "command": "dance" }), json!([])] {
            assert_eq!(command(&server, &wrong).await.status, 400, "{wrong}");
        }
        let heavy = json!({ "command": "weigh", "instance": instance, "weight": 10_001 });
        assert_eq!(command(&server, &heavy).await.status, 400);
        shut_down(&registry).await;
    }
}

#[actix::test]
async fn faults_are_injected_shown_and_removed() {
    let server = builder().start().unwrap();
    let registry = registry(&server);
    let mut events = Events::open(&url(&server, "/console/events")).await;
    let first = events.next().await.unwrap().data;
    assert_eq!((&first["faults"]["fail_share"], &first["faults"]["hang"]), (&json!(0.0), &json!(false)));
    let faults =
        json!({ "fail_share": 1.0, "fail_status": 403, "only": "list", "delay_pushes": 0.5, "spoilt": "html" });
    assert_eq!(command(&server, &json!({ "command": "faults", "faults": faults })).await.status, 204);
    let failed = ask(&registry, ListInstances::new("orders")).await;
    assert!(matches!(failed, Err(Error::Unauthorized { .. } | Error::Refused { .. })), "{failed:?}");
    ask(&registry, RegisterInstance::new("orders", IP, 80)).await.unwrap();
    let shown = events.until("it is shown", |state| state["faults"]["fail_share"] == 1.0).await;
    assert_eq!((&shown["faults"]["only"], &shown["faults"]["fail_status"]), (&json!("list"), &json!(403)));
    for wrong in [json!({ "fail_share": 1.5 }), json!({ "fail_status": 200 }), json!({ "hang": "yes" })] {
        assert_eq!(command(&server, &json!({ "command": "faults", "faults": wrong })).await.status, 400);
    }
    assert_eq!(command(&server, &json!({ "command": "clear" })).await.status, 204);
    eventually("all is well again", async || ask(&registry, ListInstances::new("orders")).await.ok()).await;
    shut_down(&registry).await;
}

#[actix::test]
async fn a_restart_ends_the_stream_and_the_next_one_shows_an_empty_server() {
    let server = builder().start().unwrap();
    let registry = registry(&server);
    ask(&registry, RegisterInstance::new("orders", IP, 80)).await.unwrap();
    shut_down(&registry).await;
    let mut events = Events::open(&url(&server, "/console/events")).await;
    events.until("it is shown", |state| state["services"][0]["name"] == "orders").await;
    assert_eq!(command(&server, &json!({ "command": "restart" })).await.status, 204);
    soon("the stream ends", async { while events.next().await.is_some() {} }).await;
    // Until the port is closed, connections are accepted and reset.
    let of_the_next = async || {
        let mut events = Events::try_connect(&url(&server, "/console/events")).await?.ok()?;
        (events.next().await?.data["count"] == 0).then_some(events)
    };
    let mut events = eventually("the next server shows that it is empty", of_the_next).await;
    // An open console must not delay the end of the server.
    let ended = std::time::Instant::now();
    server.stop();
    assert!(ended.elapsed() < crate::support::PATIENCE);
    soon("the stream ends", async { while events.next().await.is_some() {} }).await;
}
