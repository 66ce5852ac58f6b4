//! The events in the status after an outage.

use crate::site::{Events, Site};
use crate::support::{ask, builder, config, eventually, ms, registry, server, shut_down, IP};
use actix::Addr;
use actix_nacos::{
    embedded::EmbeddedServer, Discover, GetStatus, RegisterInstance, Registry, RegistryEvent, RegistryEventKind,
    Source, StatusRoutes, HEART_BEAT_INTERVAL,
};

fn beating(port: u16) -> RegisterInstance {
    RegisterInstance::new("orders", IP, port).metadata(HEART_BEAT_INTERVAL, "100")
}

async fn events(registry: &Addr<Registry>) -> Vec<RegistryEvent> {
    ask(registry, GetStatus).await.unwrap().events
}

async fn event(registry: &Addr<Registry>, kind: RegistryEventKind) -> RegistryEvent {
    let find = async || events(registry).await.into_iter().find(|event| event.kind == kind);
    eventually(&format!("there is an event {kind:?}"), find).await
}

#[actix::test]
async fn an_outage_and_a_restart_without_data_are_events_in_order() {
    let server = server();
    let registry = registry(&server);
    ask(&registry, beating(80)).await.unwrap();
    assert_eq!(events(&registry).await, [], "a good day has no events");

    server.faults().refuse_connections();
    let lost = event(&registry, RegistryEventKind::ServerLost).await;
    assert_eq!(lost.server, Some(server.server_address()));
    assert!(lost.reason.is_some(), "{lost:?}");

    server.faults().forget_everything();
    server.faults().accept_connections();
    let back = event(&registry, RegistryEventKind::ServerBack).await;
    let epoch = event(&registry, RegistryEventKind::EpochBegan).await;
    let again = event(&registry, RegistryEventKind::InstanceRegisteredAgain).await;
    assert_eq!(again.instance.map(|instance| instance.port), Some(80));
    assert!(lost.number < back.number && back.number <= epoch.number + 1 && epoch.number < again.number);
    assert!(lost.at <= back.at);
    shut_down(&registry).await;
}

#[actix::test]
async fn an_instance_that_the_servers_reject_is_an_event_with_the_reason() {
    let server = server();
    let registry = registry(&server);
    server.faults().fail_share(1.0, 403);
    ask(&registry, beating(80).when_reachable()).await.unwrap();
    let rejected = event(&registry, RegistryEventKind::InstanceRejected).await;
    assert_eq!(rejected.instance.map(|instance| instance.port), Some(80));
    assert!(rejected.reason.unwrap().contains("403"));
    shut_down(&registry).await;
}

#[actix::test]
async fn withheld_instances_are_an_event() {
    let server: EmbeddedServer = builder().start().unwrap();
    let registry = crate::support::start(config(&server).outage_hold(ms(2000)));
    let others = crate::support::registry(&server);
    ask(&others, RegisterInstance::new("orders", IP, 81)).await.unwrap();
    let view = ask(&registry, Discover::new("orders")).await.unwrap();
    view.ready_within(crate::support::PATIENCE).await.unwrap();
    shut_down_without(&server, &others).await;
    let withheld = event(&registry, RegistryEventKind::InstancesWithheld).await;
    assert_eq!(withheld.service.map(|service| service.name), Some("orders".into()));
    shut_down(&registry).await;
}

/// Ends the Registry without deregistering and makes the server forget its instances, so that they are gone.
async fn shut_down_without(server: &EmbeddedServer, registry: &Addr<Registry>) {
    server.faults().refuse_connections();
    let _ = ask(registry, actix_nacos::Shutdown::default().deadline(ms(10))).await;
    server.restart_empty().unwrap();
}

#[actix::test]
async fn changes_of_watched_lists_are_recorded_with_added_and_removed_instances() {
    let server = server();
    let registry = registry(&server);
    let _view = ask(&registry, Discover::new("orders")).await.unwrap();
    ask(&registry, beating(80)).await.unwrap();
    let came = eventually("it came", async || {
        let changes = ask(&registry, GetStatus).await.unwrap().changes;
        changes.into_iter().find(|change| change.added.count == 1)
    })
    .await;
    assert_eq!((came.added.first, came.source), (vec![format!("{IP}:80")], Source::Poll));
    ask(&registry, actix_nacos::DeregisterInstance::new("orders", IP, 80)).await.unwrap();
    eventually("it went", async || {
        let changes = ask(&registry, GetStatus).await.unwrap().changes;
        changes.into_iter().find(|change| change.removed.count == 1)
    })
    .await;
    shut_down(&registry).await;
}

#[actix::test]
async fn an_ejected_instance_is_an_event_and_shown_with_its_calls() {
    let server = server();
    let registry = registry(&server);
    for port in [80, 81] {
        ask(&registry, RegisterInstance::new("orders", IP, port)).await.unwrap();
    }
    let view = ask(&registry, Discover::new("orders")).await.unwrap();
    eventually("both are listed", async || (view.instances().len() == 2).then_some(())).await;
    let site = Site::start(StatusRoutes::new(&registry));
    let mut page = Events::open(&site.url("/registry/events")).await;
    let under_way = loop {
        let call = view.begin().unwrap();
        match call.port {
            80 => call.failed(),
            _ if ask(&registry, GetStatus).await.unwrap().ejections.is_empty() => call.succeeded(),
            _ => break call,
        }
    };
    let key = "service:DEFAULT_GROUP@@orders:";
    let is_shown = |data: &serde_json::Value| data["parts"][key]["ejected"] == 1;
    let shown = page.until("it is ejected", is_shown).await;
    let instances = &shown["parts"][key]["instances"];
    assert_eq!((&instances[0]["ejected"], &instances[1]["ejected"]), (&true.into(), &false.into()));
    let is_called = |data: &serde_json::Value| data["parts"][key]["instances"][1]["in_flight"] == 1;
    if !is_called(&shown) {
        page.until("the call is under way", is_called).await;
    }
    under_way.succeeded();
    let ejected = event(&registry, RegistryEventKind::InstanceEjected).await;
    assert_eq!(ejected.instance.map(|instance| instance.port), Some(80));
    shut_down(&registry).await;
}
