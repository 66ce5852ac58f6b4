//! Servers are gone for a while, or come back without their data. Nothing is lost, and no listener receives an empty
//! list.

use std::{
    sync::{
        atomic::{AtomicUsize, Ordering},
        Arc,
    },
    time::Instant,
};

use actix_nacos::{DeregisterInstance, Discover, RegisterInstance, Source, Subscribe, HEART_BEAT_INTERVAL};

use crate::support::{
    self, ask, config, config_at, listed_ports, ms, registry, server, shut_down, soon, start, until, News,
};

#[actix::test]
async fn an_instance_that_does_not_come_back_is_taken_out_after_the_hold() {
    let (server, hold) = (server(), ms(1500));
    let registry = start(config(&server).outage_hold(hold));
    let other = support::registry(&server);
    ask(&registry, RegisterInstance::new("orders", "127.0.0.7", 80).metadata(HEART_BEAT_INTERVAL, "200"))
        .await
        .unwrap();
    ask(&other, RegisterInstance::new("orders", "127.0.0.7", 81)).await.unwrap();
    let mut news = News::listen();
    ask(&registry, Subscribe::new("orders", news.recipient())).await.unwrap();
    news.until(|news| news.info.hosts.len() == 2).await;

    // The other Registry ends while the server is down, so its instance is not deregistered.
    server.faults().refuse_connections();
    ask(&other, actix_nacos::Shutdown::default().deadline(ms(1))).await.unwrap();
    server.faults().accept_connections();
    server.restart_empty().expect("the same port");
    let restarted = Instant::now();
    let news = news.next().await;
    assert_eq!((listed_ports(&news), news.removed.len()), (vec![80], 1), "{news:?}");
    assert!(restarted.elapsed() >= hold, "{:?}", restarted.elapsed());
    shut_down(&registry).await;
}

#[actix::test]
async fn a_removal_without_an_outage_reaches_listeners_at_once() {
    let server = server();
    let registry = registry(&server);
    for port in [80, 81] {
        ask(&registry, RegisterInstance::new("orders", "127.0.0.7", port)).await.unwrap();
    }
    let mut news = News::listen();
    ask(&registry, Subscribe::new("orders", news.recipient())).await.unwrap();
    news.until(|news| news.info.hosts.len() == 2).await;
    ask(&registry, DeregisterInstance::new("orders", "127.0.0.7", 80)).await.unwrap();
    let began = Instant::now();
    let news = news.next().await;
    assert_eq!((listed_ports(&news), news.source), (vec![81], Source::Poll));
    // After an outage the instance would be withheld for 15 s.
    assert!(began.elapsed() < ms(10_000), "{:?}", began.elapsed());
    shut_down(&registry).await;
}

#[actix::test]
async fn a_view_that_never_had_a_list_is_not_ready_in_an_outage() {
    let server = server();
    server.faults().refuse_connections();
    let registry = registry(&server);
    let view = ask(&registry, Discover::new("orders")).await.unwrap();
    assert!(view.ready_within(ms(300)).await.is_err());
    server.faults().accept_connections();
    soon("the first list", view.ready()).await.unwrap();
    until("it is current", || !view.is_stale()).await;
    shut_down(&registry).await;
}

#[actix::test]
async fn a_second_restart_soon_after_the_first_is_noticed_too() {
    const INSTANCES: u16 = 50;
    let server = server();
    let registry = registry(&server);
    for port in 1..=INSTANCES {
        let instance = RegisterInstance::new("orders", "127.0.0.7", port).enabled(false).weight(2.0);
        ask(&registry, instance.heartbeat_interval(ms(1000))).await.unwrap();
    }
    for _ in 0..3 {
        server.restart_empty().unwrap();
        until("some are back", || !server.instances("orders").is_empty()).await;
    }
    // A full beat would also bring an instance back, but enabled.
    until("all are back as they were registered", || {
        let instances = server.instances("orders");
        instances.len() == usize::from(INSTANCES) && instances.iter().all(|it| !it.enabled && it.weight == 2.0)
    })
    .await;
    shut_down(&registry).await;
}

/// A proxy without servers behind it accepts connections and closes them at once.
#[actix::test]
async fn a_proxy_without_servers_behind_it_gets_few_connections() {
    let proxy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = proxy.local_addr().unwrap().to_string();
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = accepted.clone();
    std::thread::spawn(move || {
        for connection in proxy.incoming() {
            count.fetch_add(1, Ordering::Relaxed);
            drop(connection);
        }
    });
    let registry = start(config_at(&address).operation_timeout(ms(1000)));
    let failed = ask(&registry, RegisterInstance::new("orders", "127.0.0.7", 80)).await.unwrap_err();
    assert!(failed.is_retryable(), "{failed:?}");
    let accepted = accepted.load(Ordering::Relaxed);
    assert!(accepted <= 20, "{accepted} connections in a second");
}
