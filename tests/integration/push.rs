//! Pushed lists are applied at once, in order, once each, and only from servers.

use std::{net::UdpSocket, time::Duration};

use actix::Addr;
use actix_nacos::{
    embedded::{Dialect, EmbeddedServer},
    Config, DeregisterInstance, Discover, Error, GetStatus, ModifyInstance, PushConfig, RegisterInstance, Registry,
    ServiceChanged, Source, Subscribe,
};

use crate::support::{self, ms, News};

/// Polls so rarely that a change that arrives in time was pushed.
fn pushed_only(server: &EmbeddedServer) -> Config {
    Config::new(server.server_address()).poll_interval(Duration::from_secs(600), Duration::from_secs(600))
}

async fn subscribed(registry: &Addr<Registry>, service: &str) -> Result<News, Error> {
    let mut news = News::listen();
    registry.send(Subscribe::new(service, news.recipient())).await??;
    assert!(news.next().await.first);
    Ok(news)
}

fn instance(port: u16) -> RegisterInstance {
    RegisterInstance::new("orders", "127.0.0.7", port)
}

/// Waits for the first change for which `says_so` holds, and checks that it was pushed. In between an instance may turn
/// healthy.
async fn pushed(news: &mut News, says_so: impl Fn(&ServiceChanged) -> bool) -> ServiceChanged {
    let change = news.until(says_so).await;
    assert_eq!(change.source, Source::Push, "{change:?}");
    assert!(change.server_time.is_some());
    change
}

/// Since Nacos 2 a server keeps one subscriber per address and service, with the clusters of its last poll.
#[actix::test]
async fn subscriptions_of_other_clusters_of_the_same_service_receive_changes_too() -> Result<(), Error> {
    for dialect in Dialect::all().filter(|dialect| *dialect != Dialect::V3_2) {
        let server = support::builder().dialect(dialect).start().expect("a free port");
        let registry = support::start(pushed_only(&server));
        let mut all = subscribed(&registry, "orders").await?;
        let mut north = News::listen();
        registry.send(Subscribe::new("orders", north.recipient()).clusters(["north"])).await??;
        assert!(north.next().await.first);
        for (port, cluster) in [(1, "south"), (2, "north")] {
            registry.send(instance(port).cluster(cluster)).await??;
            all.until(|news| news.info.hosts.len() == usize::from(port)).await;
        }
        north.until(|news| news.info.hosts.len() == 1).await;
        support::shut_down(&registry).await;
    }
    Ok(())
}

#[actix::test]
async fn every_kind_of_change_is_pushed() -> Result<(), Error> {
    // The test must end before the server closes an idle connection: a removal after that might show only with a poll.
    let server = support::builder().push_delay(ms(20)).start().expect("a free port");
    let registry = support::start(pushed_only(&server));
    let mut news = subscribed(&registry, "orders").await?;

    registry.send(instance(1)).await??;
    pushed(&mut news, |news| news.added.len() == 1).await;

    registry.send(instance(1).metadata("zone", "b")).await??;
    pushed(&mut news, |news| news.changed.iter().any(|(_, now)| now.metadata.contains_key("zone"))).await;

    registry.send(ModifyInstance::new("orders", "127.0.0.7", 1).weight(5.0)).await??;
    let change = pushed(&mut news, |news| news.info.hosts[0].weight == 5.0).await;
    assert_eq!(change.changed[0].0.weight, 1.0);

    registry.send(instance(1).healthy(false)).await??;
    pushed(&mut news, |news| news.changed.iter().any(|(before, now)| before.healthy && !now.healthy)).await;

    registry.send(instance(2)).await??;
    pushed(&mut news, |news| news.info.hosts.len() == 2).await;
    registry.send(DeregisterInstance::new("orders", "127.0.0.7", 1)).await??;
    pushed(&mut news, |news| news.removed.len() == 1).await;

    registry.send(DeregisterInstance::new("orders", "127.0.0.7", 2)).await??;
    pushed(&mut news, |news| news.info.hosts.is_empty()).await;
    Ok(())
}

#[actix::test]
async fn lost_doubled_and_late_pushes_reach_no_listener() -> Result<(), Error> {
    const CHANGES: u32 = 200;
    let server = support::builder().push_delay(ms(5)).push_retry(ms(200)).start().expect("a free port");
    let faults = server.faults();
    faults.seed(20);
    faults.drop_pushes(0.1);
    faults.double_pushes(0.1);
    faults.reorder_pushes(0.1);
    faults.delay_pushes(0.1, ms(100));
    let registry = support::start(Config::new(server.server_address()).poll_interval(ms(1000), ms(1000)));
    registry.send(instance(1)).await??;
    let mut listeners = Vec::new();
    for _ in 0..3 {
        listeners.push(subscribed(&registry, "orders").await?);
    }
    let view = registry.send(Discover::new("orders")).await??;
    for version in 2..=CHANGES {
        registry.send(instance(1).weight(f64::from(version))).await??;
        actix_rt::time::sleep(ms(20)).await;
    }
    for news in &mut listeners {
        let mut seen = 1.0;
        while seen < f64::from(CHANGES) {
            let change = news.next().await;
            let weight = change.info.hosts[0].weight;
            assert!(weight > seen, "{weight} after {seen}");
            assert_eq!(change.changed[0].0.weight, seen, "compared with what this listener was told last");
            seen = weight;
        }
        assert!(news.waiting().is_empty());
    }
    support::until("the view has the last list", || view.instances()[0].weight == f64::from(CHANGES)).await;
    let status = registry.send(GetStatus).await??;
    assert!(status.subscriptions[0].pushes > 50, "{status:?}");
    Ok(())
}

#[actix::test]
async fn a_thousand_services_are_watched_and_no_change_is_missed() -> Result<(), Error> {
    const SERVICES: usize = 1000;
    // No beat is late on a busy machine.
    let hour = Duration::from_secs(3600);
    let server = support::builder().heartbeat_timeout(hour).delete_timeout(hour).start().expect("a free port");
    // A burst of a thousand datagrams may overflow the socket's buffer. Polls find the changes that are lost.
    let often = Duration::from_secs(5);
    let registry = support::start(Config::new(server.server_address()).poll_interval(often, often));
    let mut news = News::listen();
    for n in 0..SERVICES {
        registry.send(Subscribe::new(format!("service-{n}"), news.recipient())).await??;
    }
    for _ in 0..SERVICES {
        assert!(news.next().await.first);
    }
    for n in 0..SERVICES {
        registry.send(RegisterInstance::new(format!("service-{n}"), "127.0.0.7", 80)).await??;
    }
    let mut seen = std::collections::HashSet::new();
    while seen.len() < SERVICES {
        let change = news.next().await;
        assert_eq!((change.added.len(), change.changed.len(), change.removed.len()), (1, 0, 0));
        assert!(seen.insert(change.service.name.clone()), "told once each");
    }
    Ok(())
}

#[actix::test]
async fn polls_keep_the_push_subscription_alive() -> Result<(), Error> {
    let builder = support::builder().dialect(Dialect::V1_4).cache_millis(ms(1000)).push_delay(ms(10));
    let server = builder.start().expect("a free port");
    let registry = support::start(Config::new(server.server_address()));
    let mut news = subscribed(&registry, "orders").await?;
    for port in 1..=4 {
        // Longer than the server remembers a subscriber that does not poll.
        actix_rt::time::sleep(ms(700)).await;
        registry.send(instance(port)).await??;
        assert_eq!(news.next().await.source, Source::Push);
    }
    Ok(())
}

/// The text of a push with a false list.
fn forged(service: &str) -> Vec<u8> {
    let list = serde_json::json!({
        "name": format!("DEFAULT_GROUP@@{service}"), "groupName": "DEFAULT_GROUP", "clusters": "", "cacheMillis": 10000,
        "hosts": [{"ip": "6.6.6.6", "port": 666, "weight": 1.0, "healthy": true, "enabled": true, "ephemeral": true,
            "clusterName": "DEFAULT", "serviceName": format!("DEFAULT_GROUP@@{service}"), "metadata": {}}],
        // Later than the list that was polled, perhaps in the same millisecond.
        "lastRefTime": support::unix_millis() + 1,
    });
    serde_json::json!({"type": "dom", "data": list.to_string(), "lastRefTime": 1}).to_string().into_bytes()
}

/// Sends one datagram from `ip`. Returns whether it was answered.
fn send_from(ip: &str, port: u16, datagram: &[u8]) -> bool {
    let socket = UdpSocket::bind((ip, 0)).expect("a loopback address");
    socket.set_read_timeout(Some(ms(200))).expect("a timeout");
    socket.send_to(datagram, ("127.0.0.1", port)).expect("sent");
    socket.recv_from(&mut [0; 1500]).is_ok()
}

async fn push_port(registry: &Addr<Registry>) -> u16 {
    support::eventually("the socket is open", || async { Some(registry.send(GetStatus).await.ok()?.ok()?.push?.port) })
        .await
}

#[actix::test]
async fn a_list_of_an_untrusted_source_is_not_applied_and_not_answered() -> Result<(), Error> {
    let server = support::builder().start().expect("a free port");
    let registry = support::start(pushed_only(&server));
    registry.send(instance(1)).await??;
    let mut news = subscribed(&registry, "orders").await?;
    let port = push_port(&registry).await;
    for _ in 0..3 {
        assert!(!send_from("127.0.0.2", port, &forged("orders")));
    }
    let status = registry.send(GetStatus).await??;
    assert_eq!(status.push.as_ref().map(|push| push.untrusted), Some(3), "{status:?}");
    // The push makes the client poll the server.
    support::eventually("the list is asked for", || async {
        let status = registry.send(GetStatus).await.ok()?.ok()?;
        (status.subscriptions[0].polls >= 2).then_some(())
    })
    .await;
    assert!(news.waiting().is_empty());
    Ok(())
}

#[actix::test]
async fn any_source_is_believed_if_that_is_set() -> Result<(), Error> {
    let server = support::builder().start().expect("a free port");
    let registry = support::start(pushed_only(&server).push(PushConfig::default().any_source(true)));
    let mut news = subscribed(&registry, "orders").await?;
    assert!(send_from("127.0.0.2", push_port(&registry).await, &forged("orders")));
    assert_eq!(news.next().await.added[0].ip, "6.6.6.6");
    Ok(())
}

#[actix::test]
async fn a_push_is_only_a_hint_if_that_is_set() -> Result<(), Error> {
    let server = support::builder().start().expect("a free port");
    let registry = support::start(pushed_only(&server).push(PushConfig::default().hint_only(true)));
    let mut news = subscribed(&registry, "orders").await?;
    registry.send(instance(1)).await??;
    assert_eq!(news.next().await.source, Source::Poll);
    Ok(())
}

#[actix::test]
async fn with_push_off_lists_are_only_polled() -> Result<(), Error> {
    let server = support::builder().start().expect("a free port");
    let registry = support::start(support::config(&server));
    let mut news = subscribed(&registry, "orders").await?;
    registry.send(instance(1)).await??;
    assert_eq!(news.next().await.source, Source::Poll);
    let status = registry.send(GetStatus).await??;
    assert_eq!((status.push, server.subscribers("orders")), (None, 0));
    Ok(())
}

#[actix::test]
async fn the_advertised_address_is_what_servers_push_to() -> Result<(), Error> {
    let server = support::builder().start().expect("a free port");
    let elsewhere = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    elsewhere.set_read_timeout(Some(support::PATIENCE)).expect("a timeout");
    let advertised = elsewhere.local_addr().expect("an address");
    let push = PushConfig::default().advertise_ip(advertised.ip()).advertise_port(advertised.port());
    let registry = support::start(pushed_only(&server).push(push));
    let _news = subscribed(&registry, "orders").await?;
    registry.send(instance(1)).await??;
    let (length, _) = elsewhere.recv_from(&mut [0; 65_535]).expect("a push");
    assert!(length > 0);
    Ok(())
}

#[actix::test]
async fn the_next_poll_tries_again_to_open_a_push_socket() -> Result<(), Error> {
    let server = support::builder().start().expect("a free port");
    let taken = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("it has an address");
    let config = Config::new(server.server_address()).poll_interval(ms(100), ms(100));
    let registry = support::start(config.push(PushConfig::default().bind(address)));
    let _news = subscribed(&registry, "orders").await?;
    assert!(registry.send(GetStatus).await??.push.is_none(), "somebody else has it");
    drop(taken);
    assert_eq!(push_port(&registry).await, address.port());
    Ok(())
}
