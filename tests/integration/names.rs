//! Every message accepts all names that any server accepts. A server that rejects a name says so.

use actix_nacos::{
    embedded::{Dialect, EmbeddedServer},
    DeregisterInstance, Discover, Error, GetInstance, ListInstances, ListServices, ModifyInstance, Protocol,
    RegisterInstance, SendHeartbeat, Subscribe, Unsubscribe,
};

use crate::support::{
    self, ask, config, config_at,
    fake::{Answer, Fake},
    logs, ms, registry, server, shut_down, soon, start, until, Folder, News, IP,
};

/// Names from servers in use.
const NAMES: [&str; 8] =
    ["providers:a.b.IGreeter::", "a$b", "order/api", "{{1}}", "заказ", "a&b=c#d?e", "../../up", "50%25"];

#[actix::test]
async fn a_name_that_was_listed_is_usable_by_every_message() {
    let server = server();
    let registry = registry(&server);
    for name in NAMES {
        ask(&registry, RegisterInstance::new(name, IP, 80).group("SHOP")).await.unwrap();
    }
    let listed = ask(&registry, ListServices::new(1, 100).group("SHOP")).await.unwrap();
    assert_eq!(listed.services.len(), NAMES.len(), "{listed:?}");
    for name in &listed.services {
        let name = format!("SHOP@@{name}");
        let mut news = News::listen();
        ask(&registry, Subscribe::new(&name, news.recipient())).await.unwrap();
        let told = news.until(|news| news.info.hosts.len() == 1).await;
        assert_eq!(told.service.to_string(), name);
        let view = ask(&registry, Discover::new(&name)).await.unwrap();
        soon("a list", view.ready()).await.unwrap();
        assert_eq!(view.select_one().unwrap().service_name, name);
        ask(&registry, ModifyInstance::new(&name, IP, 80).weight(2.0)).await.unwrap();
        assert_eq!(ask(&registry, GetInstance::new(&name, IP, 80)).await.unwrap().weight, 2.0, "{name}");
        assert_eq!(ask(&registry, SendHeartbeat::new(&name, IP, 80)).await.unwrap().code, 10200, "{name}");
        ask(&registry, Unsubscribe::new(&name)).await.unwrap();
        ask(&registry, DeregisterInstance::new(&name, IP, 80)).await.unwrap();
        assert!(ask(&registry, ListInstances::new(&name)).await.unwrap().hosts.is_empty(), "{name}");
    }
    shut_down(&registry).await;
}

#[actix::test]
async fn a_name_that_a_server_rejects_is_an_error_with_its_text() {
    let server = EmbeddedServer::builder().dialect(Dialect::V1_4).start().unwrap();
    let registry = registry(&server);
    match ask(&registry, RegisterInstance::new("a$b", IP, 80)).await {
        Err(Error::Refused { status: 400, body, .. }) => assert!(body.contains("0-9a-zA-Z-._:"), "{body}"),
        other => panic!("{other:?}"),
    }
    match ask(&registry, RegisterInstance::new("orders", IP, 80).cluster("a_b")).await {
        Err(Error::Refused { status: 400, body, .. }) => assert!(body.contains("cluster name"), "{body}"),
        other => panic!("{other:?}"),
    }
    shut_down(&registry).await;
}

#[actix::test]
async fn metadata_above_nacos_limit_is_accepted_by_servers_without_a_limit_and_rejected_by_others() {
    let long = "v".repeat(4000);
    let server = EmbeddedServer::builder().dialect(Dialect::V1_4).start().unwrap();
    let registry = registry(&server);
    ask(&registry, RegisterInstance::new("orders", IP, 80).metadata("long", &long)).await.unwrap();
    let listed = ask(&registry, ListInstances::new("orders")).await.unwrap();
    assert_eq!(listed.hosts[0].metadata["long"], long);
    shut_down(&registry).await;

    let server = support::server();
    let registry = support::registry(&server);
    match ask(&registry, RegisterInstance::new("orders", IP, 80).metadata("long", &long)).await {
        Err(Error::Refused { status: 400, body, .. }) => assert!(body.contains("should not exceed 1024"), "{body}"),
        other => panic!("{other:?}"),
    }
    shut_down(&registry).await;
}

/// Tomcat and proxies reject such a request line, and this client's URLs may not be longer than 64 KiB.
#[actix::test]
async fn metadata_too_long_for_a_request_line_is_sent_in_a_form() {
    // Each character takes nine bytes in a URL.
    for metadata in ["区".repeat(980), "区".repeat(21_000)] {
        let fake = Fake::start(Answer::usual);
        let registry = start(config_at(&fake.server_address()).protocol(Protocol::V1));
        ask(&registry, RegisterInstance::new("orders", IP, 80).metadata("m", &metadata)).await.unwrap();
        ask(&registry, SendHeartbeat::new("bills", IP, 80).metadata("m", &metadata)).await.unwrap();
        let long = fake.seen().into_iter().filter(|seen| seen.body.len() > 8000);
        for (seen, path) in long.zip(["/nacos/v1/ns/instance", "/nacos/v1/ns/instance/beat"]) {
            assert_eq!(seen.target, path);
            assert_eq!(seen.header("content-type"), Some("application/x-www-form-urlencoded"));
        }
        assert_eq!(fake.seen().iter().filter(|seen| seen.body.len() > 8000).count(), 2);
        shut_down(&registry).await;
    }
}

#[actix::test]
async fn cached_lists_of_any_name_stay_in_their_folder_and_log_lines_stay_whole() {
    let folder = Folder::new();
    let lists = folder.0.join("lists");
    let server = server();
    let (logger, log) = logs::logger();
    let registry = start(config(&server).cache_dir(&lists).logger(logger));
    let mut views = Vec::new();
    for name in NAMES {
        ask(&registry, RegisterInstance::new(name, IP, 80)).await.unwrap();
        views.push(ask(&registry, Discover::new(name)).await.unwrap());
    }
    let files = || std::fs::read_dir(&lists).map_or(0, |files| files.count());
    until("all lists are cached", || files() == NAMES.len()).await;
    server.faults().refuse_connections();
    shut_down(&registry).await;
    assert_eq!(std::fs::read_dir(&folder.0).unwrap().count(), 1, "nothing lies beside the folder");
    assert!(log.count("registered instance") >= NAMES.len());

    let registry = start(config(&server).cache_dir(&lists).shutdown_timeout(ms(100)));
    for name in NAMES {
        let view = ask(&registry, Discover::new(name)).await.unwrap();
        soon("the cached list", view.ready()).await.unwrap();
        assert_eq!(view.select_one().unwrap().service_name, format!("DEFAULT_GROUP@@{name}"));
    }
    shut_down(&registry).await;
}
