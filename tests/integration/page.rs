//! The live page over HTTP. `browser.rs` tests it in a browser.

use std::{
    io::Write as _,
    net::TcpStream,
    sync::{mpsc, Mutex},
    time::{Duration, Instant},
};

use crate::site::{get, Events, Site};
use crate::support::{ask, eventually, ms, registry, server, shut_down, IP};
use actix_nacos::{DeregisterInstance, Discover, Instance, RegisterInstance, ServiceName, StatusRoutes};
use actix_web::{middleware::NormalizePath, test, web, App};
use serde_json::json;

const HTML: &str = "<script>alert(\"1\")</script> & 'quoted'\n😀";

#[actix::test]
async fn the_page_comes_with_a_policy_that_allows_its_own_script_and_style_alone() {
    let server = server();
    let registry = registry(&server);
    let site = Site::start(StatusRoutes::new(&registry));
    let page = get(&site.url("/registry/"), &[]).await;
    assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
    let policy = page.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'; script-src 'sha256-"), "{policy}");
    assert!(!policy.contains("unsafe") && policy.contains("frame-ancestors 'none'"), "{policy}");
    assert_eq!(page.header("x-content-type-options"), "nosniff");
    shut_down(&registry).await;
}

#[actix::test]
async fn without_its_slash_the_page_is_found_also_behind_a_proxy() {
    let server = server();
    let registry = registry(&server);
    let site = Site::start_below("/behind/proxy", StatusRoutes::new(&registry).prefix("/admin/registry"));
    for path in ["/admin/registry", "/admin/registry/"] {
        assert_eq!(get(&site.url(path), &[]).await.status, 200, "{path}");
    }
    shut_down(&registry).await;
}

#[actix::test]
async fn a_prefix_means_the_same_with_and_without_slashes_and_may_be_the_root() {
    let server = server();
    let registry = registry(&server);
    for prefix in ["admin", "/admin", "admin/", "/admin/", "//admin//"] {
        let site = Site::start(StatusRoutes::new(&registry).prefix(prefix));
        for path in ["/admin", "/admin/"] {
            assert_eq!(get(&site.url(path), &[]).await.header("content-type"), "text/html; charset=utf-8", "{prefix}");
        }
        assert_eq!(Events::open(&site.url("/admin/events")).await.next().await.unwrap().name, "all", "{prefix}");
        assert_eq!(get(&site.url("/admin/other"), &[]).await.status, 404, "{prefix}");
    }
    for prefix in ["/", ""] {
        let routes = StatusRoutes::new(&registry).prefix(prefix).public();
        let app = App::new().configure(|app| routes.configure(app)).route("/own", web::get().to(async || "own"));
        let app = test::init_service(app).await;
        for path in ["/", "/events", "/livez", "/own"] {
            let answer = test::call_service(&app, test::TestRequest::get().uri(path).to_request()).await;
            assert_eq!(answer.status(), 200, "{prefix:?} {path}");
        }
    }
    // At the root of a scope, with and without the slash.
    let site = Site::start_below("/behind", StatusRoutes::new(&registry).prefix("/"));
    for path in ["", "/"] {
        assert_eq!(get(&site.url(path), &[]).await.status, 200, "{path}");
    }
    shut_down(&registry).await;
}

/// Servers take no blanks in names. Metadata may have everything.
#[actix::test]
async fn strange_names_come_through_unchanged() {
    let server = server();
    let (registry, others) = (registry(&server), registry(&server));
    let long = "x".repeat(499) + "</script>\u{1F511}";
    let mut views = Vec::new();
    for name in [HTML.replace(['\n', ' '], "/").as_str(), "a\"b\\c'd`${1}", "\u{202e}evil", long.as_str()] {
        views.push((
            name.to_owned(),
            ask(&registry, Discover::new(ServiceName { group: "DEFAULT_GROUP".into(), name: name.into() }))
                .await
                .unwrap(),
        ));
        let coming = RegisterInstance::new(ServiceName { group: "DEFAULT_GROUP".into(), name: name.into() }, IP, 80);
        ask(&others, coming.metadata("quote\"\n\u{2028}", HTML)).await.unwrap();
    }
    let site = Site::start(StatusRoutes::new(&registry));
    let mut events = Events::open(&site.url("/registry/events")).await;
    let mut seen = std::collections::BTreeMap::new();
    while seen.len() < views.len() {
        let event = events.next().await.unwrap();
        for (key, part) in event.data["parts"].as_object().unwrap() {
            if key.starts_with("service:") && part["count"] == 1 {
                assert_eq!(part["instances"][0]["metadata"], json!([["quote\"\n\u{2028}", HTML]]), "{key}");
                seen.insert(part["service"]["name"].as_str().unwrap().to_owned(), key.clone());
            }
        }
    }
    for (name, _view) in &views {
        assert_eq!(seen[name], format!("service:DEFAULT_GROUP@@{name}:"));
    }
    shut_down(&others).await;
    shut_down(&registry).await;
}

#[actix::test]
async fn the_page_is_found_in_an_application_that_trims_slashes() {
    let server = server();
    let registry = registry(&server);
    let routes = StatusRoutes::new(&registry).public();
    let app = App::new().wrap(NormalizePath::trim()).configure(|app| routes.configure(app));
    let app = test::init_service(app).await;
    for path in ["/registry", "/registry/", "/registry/events"] {
        let answer = test::call_service(&app, test::TestRequest::get().uri(path).to_request()).await;
        assert_eq!(answer.status(), 200, "{path}");
    }
    shut_down(&registry).await;
}

#[actix::test]
async fn neither_page_nor_events_are_there_unless_mounted_and_shown_to_all_unless_public() {
    let server = server();
    let registry = registry(&server);
    let site = Site::start(StatusRoutes::new(&registry).prefix(None));
    assert_eq!(get(&site.url("/registry/"), &[]).await.status, 404);
    let site = Site::start(StatusRoutes::new(&registry));
    for path in ["/registry/", "/registry/events"] {
        assert_eq!(get(&site.url(path), &[("x-forwarded-for", "192.0.2.1")]).await.status, 403, "{path}");
        assert_eq!(get(&site.url(path), &[("origin", "http://example.com")]).await.status, 403, "{path}");
    }
    let site = Site::start(StatusRoutes::new(&registry).token("s3cret"));
    let forwarded = ("x-forwarded-for", "192.0.2.1");
    assert_eq!(get(&site.url("/registry/"), &[forwarded]).await.status, 401);
    assert_eq!(get(&site.url("/registry/"), &[forwarded, ("authorization", "Bearer s3cret")]).await.status, 200);
    shut_down(&registry).await;
}

#[actix::test]
async fn a_page_receives_added_changed_and_removed_instances_as_events() {
    let server = server();
    let (registry, others) = (registry(&server), registry(&server));
    let _view = ask(&registry, Discover::new("orders")).await.unwrap();
    let site = Site::start(StatusRoutes::new(&registry));
    let mut events = Events::open(&site.url("/registry/events")).await;
    assert_eq!(events.header("content-type"), "text/event-stream");
    assert_eq!(events.header("content-encoding"), "identity");
    let first = events.next().await.unwrap();
    assert_eq!(first.name, "all");
    assert_eq!(first.data["parts"]["registry"]["namespace"], "public");

    let key = "service:DEFAULT_GROUP@@orders:";
    let coming = RegisterInstance::new("orders", IP, 80).weight(3.0).metadata("note", HTML);
    ask(&others, coming).await.unwrap();
    let began = Instant::now();
    let came = events.until("it comes", |data| data["parts"][key]["count"] == 1).await;
    // The list is polled every 100 ms, and a page gets at most ten snapshots per second.
    assert!(began.elapsed() < Duration::from_secs(5));
    let instance = &came["parts"][key]["instances"][0];
    assert_eq!((&instance["weight"], &instance["metadata"]), (&json!(3.0), &json!([["note", HTML]])));

    ask(&others, RegisterInstance::new("orders", IP, 80).weight(5.0)).await.unwrap();
    events.until("it changes", |data| data["parts"][key]["instances"][0]["weight"] == 5.0).await;
    ask(&others, DeregisterInstance::new("orders", IP, 80)).await.unwrap();
    let is_gone = |data: &serde_json::Value| data["parts"][key]["count"] == 0;
    let gone = events.until("it goes", is_gone).await;
    let changes = gone["parts"].as_object().unwrap();
    let change = changes.iter().find(|(key, _)| key.starts_with("listchange:")).map(|(_, change)| change);
    assert_eq!(change.unwrap()["removed"], json!({ "count": 1, "first": [format!("{IP}:80")] }));

    let page = get(&site.url("/registry/"), &[]).await;
    assert!(!page.body.contains("orders"), "the document has no data in it");
    shut_down(&others).await;
    shut_down(&registry).await;
}

#[actix::test]
async fn the_page_shows_own_instances_with_their_beats_and_problems() {
    let server = server();
    let registry = registry(&server);
    let site = Site::start(StatusRoutes::new(&registry));
    let own = RegisterInstance::new("orders", IP, 80).heartbeat_interval(ms(100));
    ask(&registry, own).await.unwrap();
    let mut events = Events::open(&site.url("/registry/events")).await;
    let find = |data: &serde_json::Value| {
        let parts = data["parts"].as_object().unwrap();
        parts.iter().find(|(key, _)| key.starts_with("own:")).map(|(_, own)| own.clone())
    };
    events.until("it beats", |data| find(data).is_some_and(|own| own["beats"].as_u64() > Some(1))).await;
    server.faults().fail_share(1.0, 403);
    let text = |data: &serde_json::Value| data["parts"]["problems"][0]["text"].as_str().unwrap_or_default().to_owned();
    let wrong = events.until("it is rejected", |data| text(data).contains("is not registered")).await;
    assert!(text(&wrong).contains("the server rejects it"), "{wrong}");
    shut_down(&registry).await;
}

#[actix::test]
async fn sixty_four_pages_may_be_open_and_the_next_when_one_is_closed() {
    let server = server();
    let registry = registry(&server);
    let site = Site::start(StatusRoutes::new(&registry));
    let url = site.url("/registry/events");
    let mut open = Vec::new();
    for _ in 0..64 {
        let mut events = Events::open(&url).await;
        // Reads everything. Otherwise the close would reset the connection, and the server would notice that more
        // easily.
        events.next().await.unwrap();
        open.push(events);
    }
    assert_eq!(Events::try_open(&url).await.err(), Some(503));
    open.pop();
    eventually("there is room for one more", async || Events::try_open(&url).await.ok()).await;
    drop(open);
    shut_down(&registry).await;
}

#[actix::test]
async fn pages_that_do_not_read_do_not_delay_others() {
    let server = server();
    let (registry, others) = (registry(&server), registry(&server));
    let _view = ask(&registry, Discover::new("orders")).await.unwrap();
    let site = Site::start(StatusRoutes::new(&registry));
    let slow: Vec<TcpStream> = (0..8)
        .map(|_| {
            let mut connection = TcpStream::connect(site.address).unwrap();
            connection.write_all(b"GET /registry/events HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
            connection
        })
        .collect();
    let mut events = Events::open(&site.url("/registry/events")).await;
    // Far more data than fits into the buffers of the connections that do not read.
    for round in 1..=4_u16 {
        let registering = (0..200).map(|port| {
            let mut message = RegisterInstance::new("orders", IP, 1000 + port).weight(f64::from(round));
            for key in 0..7 {
                message = message.metadata(key.to_string(), format!("{round} {}", "x".repeat(90)));
            }
            others.send(message)
        });
        for registered in futures_util::future::join_all(registering).await {
            registered.unwrap().unwrap();
        }
        let key = "service:DEFAULT_GROUP@@orders:";
        let is_shown = |data: &serde_json::Value| {
            let shown = data["parts"][key]["instances"].as_array();
            shown.is_some_and(|shown| shown.len() == 200 && shown.iter().all(|one| one["weight"] == f64::from(round)))
        };
        events.until("the round is shown", is_shown).await;
    }
    drop(slow);
    shut_down(&others).await;
    shut_down(&registry).await;
}

/// A filter of the application blocks the Registry's thread.
#[actix::test]
async fn a_registry_that_hangs_is_told_and_the_page_is_live_again_when_it_answers() {
    let server = server();
    let (registry, others) = (registry(&server), registry(&server));
    let (go_on, blocked) = mpsc::channel::<()>();
    let blocked = Mutex::new(blocked);
    // Receives nothing, and returns when the sender is dropped.
    let blocks = move |_: &Instance| blocked.lock().unwrap().recv().is_err();
    let _view = ask(&registry, Discover::new("orders").only(blocks)).await.unwrap();
    let site = Site::start(StatusRoutes::new(&registry));
    let url = site.url("/registry/events");
    let mut open = Events::open(&url).await;
    assert_eq!(open.next().await.unwrap().name, "all");
    ask(&others, RegisterInstance::new("orders", IP, 80)).await.unwrap();
    while open.next().await.unwrap().name != "silent" {}
    let mut opened_meanwhile = Events::open(&url).await;
    assert_eq!(opened_meanwhile.next().await.unwrap().name, "silent");
    drop(go_on);
    for page in [&mut open, &mut opened_meanwhile] {
        assert_eq!(page.next().await.unwrap().name, "all");
    }
    shut_down(&others).await;
    shut_down(&registry).await;
}

#[actix::test]
async fn the_page_says_that_the_registry_has_ended_and_delays_no_graceful_stop() {
    let server = server();
    let registry = registry(&server);
    let site = Site::start(StatusRoutes::new(&registry));
    let url = site.url("/registry/events");
    let mut events = Events::open(&url).await;
    assert_eq!(events.next().await.unwrap().name, "all");
    shut_down(&registry).await;
    let mut last = None;
    while let Some(event) = events.next().await {
        last = Some(event.name);
    }
    assert_eq!(last.as_deref(), Some("ended"));
    let mut later = Events::open(&url).await;
    assert_eq!(later.next().await.unwrap().name, "ended");
    assert!(later.next().await.is_none());
    assert_eq!(get(&site.url("/registry/"), &[]).await.status, 200);
    drop((events, later));
    crate::support::soon("the server stops", site.stop()).await;
}

#[actix::test]
async fn a_rejected_login_is_an_event_and_no_event_contains_password_or_token() {
    const PASSWORD: &str = "hush-hush-0815";
    let server = crate::support::builder().user("orders", PASSWORD).start().unwrap();
    let registry = crate::support::start(crate::support::config(&server).credentials("orders", PASSWORD));
    let site = Site::start(StatusRoutes::new(&registry).token("hush-page-4711"));
    let _view = ask(&registry, Discover::new("orders")).await.unwrap();
    ask(&registry, RegisterInstance::new("orders", IP, 80).heartbeat_interval(ms(100))).await.unwrap();
    let mut events = Events::open(&site.url("/registry/events")).await;
    let mut seen = String::new();
    let mut is_told = false;
    while !is_told {
        let data = events.next().await.unwrap().data.to_string();
        is_told = data.contains("The server refuses the login");
        seen.push_str(&data);
        if seen.contains("registered") {
            let wrong = actix_nacos::SetCredentials::new("orders", "hush-wrong-1234");
            ask(&registry, wrong).await.unwrap();
            server.faults().expire_tokens();
        }
    }
    assert!(!seen.contains("hush") && !seen.contains("accessToken"), "{seen}");
    shut_down(&registry).await;
}
