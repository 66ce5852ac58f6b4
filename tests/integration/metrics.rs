//! The metrics of a running Registry, in the text format of Prometheus.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use crate::support::{ask, builder, config, eventually, registry, server, shut_down, start};
use actix::Addr;
use actix_nacos::{
    embedded::EmbeddedServer, Discover, Error, GetInstance, GetStatus, ListInstances, Operation, RegisterInstance,
    Registry, ServiceView, HEART_BEAT_INTERVAL,
};

async fn scrape(registry: &Addr<Registry>) -> String {
    ask(registry, GetStatus).await.unwrap().to_prometheus()
}

/// Returns the value of the series with this name and these labels.
fn value(text: &str, series: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series} in\n{text}")).parse().unwrap()
}

/// Waits until the series has at least this value.
async fn reaches(registry: &Addr<Registry>, series: &str, least: f64) -> String {
    let what = format!("{series} is {least}");
    eventually(&what, async || Some(scrape(registry).await).filter(|text| value(text, series) >= least)).await
}

/// A Registry with one instance, and a view that keeps its service watched.
async fn working(server: &EmbeddedServer) -> (Addr<Registry>, ServiceView) {
    let registry = registry(server);
    let orders = RegisterInstance::new("orders", "127.0.0.7", 80).metadata(HEART_BEAT_INTERVAL, "100");
    ask(&registry, orders).await.unwrap();
    let view = ask(&registry, Discover::new("orders")).await.unwrap();
    view.ready_within(crate::support::PATIENCE).await.unwrap();
    (registry, view)
}

#[actix::test]
async fn requests_heartbeats_instances_and_lists_are_counted() {
    let server = server();
    let (registry, _view) = working(&server).await;
    ask(&registry, ListInstances::new("orders")).await.unwrap();
    let missing = ask(&registry, GetInstance::new("orders", "127.0.0.7", 81)).await;
    assert!(matches!(missing, Err(Error::NotFound { .. })), "{missing:?}");
    let text = reaches(&registry, "actix_nacos_heartbeat_lateness_seconds_count", 3.0).await;

    let requests =
        |operation, outcome| format!("actix_nacos_requests_total{{operation=\"{operation}\",outcome=\"{outcome}\"}}");
    assert_eq!(value(&text, &requests("register", "success")), 1.0);
    assert_eq!(value(&text, &requests("register", "failed")), 0.0);
    assert!(value(&text, &requests("beat", "success")) >= 2.0);
    assert!(value(&text, &requests("list", "success")) >= 2.0);
    assert!(value(&text, "actix_nacos_request_duration_seconds_sum{operation=\"register\"}") > 0.0);
    assert_eq!(value(&text, "actix_nacos_request_duration_seconds_bucket{operation=\"register\",le=\"+Inf\"}"), 1.0);
    assert_eq!(value(&text, "actix_nacos_instances{state=\"registered\"}"), 1.0);
    let service = "service=\"orders\",group=\"DEFAULT_GROUP\",clusters=\"\"";
    let states = |state| format!("actix_nacos_service_instances{{{service},state=\"{state}\"}}");
    assert_eq!(value(&text, &states("healthy")), 1.0);
    assert!(value(&text, &format!("actix_nacos_service_list_age_seconds{{{service}}}")) < 20.0);
    assert_eq!(value(&text, "actix_nacos_servers{state=\"in_use\"}"), 1.0);
    assert_eq!(value(&text, "actix_nacos_connection{state=\"connected\"}"), 1.0);

    // Now the server refuses connections.
    server.faults().refuse_connections();
    let text = reaches(&registry, "actix_nacos_connection{state=\"lost\"}", 1.0).await;
    assert!(value(&text, &requests("beat", "failed")) + value(&text, &requests("list", "failed")) >= 1.0);
    assert_eq!(value(&text, "actix_nacos_servers{state=\"failing\"}"), 1.0);
    server.faults().accept_connections();
    reaches(&registry, "actix_nacos_connection{state=\"connected\"}", 1.0).await;
    reaches(&registry, "actix_nacos_epochs_total", 1.0).await;
    shut_down(&registry).await;
}

#[actix::test]
async fn rejected_requests_and_logins_are_counted() {
    let server = builder().user("nacos", "secret").start().unwrap();
    let registry = start(config(&server).credentials("nacos", "secret"));
    server.faults().only_for(&[Operation::Register]);
    server.faults().fail_share(1.0, 400);
    ask(&registry, RegisterInstance::new("orders", "127.0.0.7", 80)).await.unwrap_err();
    let text = scrape(&registry).await;
    assert_eq!(value(&text, "actix_nacos_requests_total{operation=\"register\",outcome=\"rejected\"}"), 1.0);
    assert_eq!((value(&text, "actix_nacos_logins_total"), value(&text, "actix_nacos_logged_in")), (1.0, 1.0));
    shut_down(&registry).await;
}

/// `promtool` is part of Debian's package `prometheus`.
#[actix::test]
async fn promtool_finds_nothing_wrong_with_a_scrape() {
    let server = server();
    let (registry, _view) = working(&server).await;
    let text = reaches(&registry, "actix_nacos_heartbeat_lateness_seconds_count", 2.0).await;
    shut_down(&registry).await;
    let mut check = Command::new("promtool");
    check.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let Ok(mut check) = check.spawn() else {
        println!("skipped: promtool is not installed (Debian's package prometheus)");
        return;
    };
    check.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let checked = check.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&checked.stdout).into_owned() + &String::from_utf8_lossy(&checked.stderr);
    assert!(checked.status.success() && said.is_empty(), "{said}\n{text}");
}

#[actix::test]
async fn series_do_not_grow_with_instances() {
    let server = server();
    let (registry, _view) = working(&server).await;
    let series = |text: &str| text.lines().count();
    let text = reaches(&registry, "actix_nacos_heartbeat_lateness_seconds_count", 1.0).await;
    let before = series(&text);
    for port in 100..120 {
        ask(&registry, RegisterInstance::new("orders", "127.0.0.7", port)).await.unwrap();
    }
    let healthy =
        "actix_nacos_service_instances{service=\"orders\",group=\"DEFAULT_GROUP\",clusters=\"\",state=\"healthy\"}";
    let after = reaches(&registry, healthy, 21.0).await;
    assert_eq!(series(&after), before, "{text}\n{after}");
    assert!(!after.contains("127.0.0.7"), "{after}");
    shut_down(&registry).await;
}
