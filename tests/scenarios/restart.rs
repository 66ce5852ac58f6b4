//! A server is killed and comes back without its data.
#![allow(dead_code, unreachable_pub, reason = "each binary that shares it takes what it needs")]

use std::time::{Duration, Instant};

use actix::Addr;
use actix_nacos::{embedded::EmbeddedServer, Config, GetStatus, PushConfig, RegisterInstance, Registry, Subscribe};
use futures_util::future::join_all;

use crate::support::{ask, eventually, ms, server, shut_down, start, until, News};

pub struct Sizes {
    pub instances: u16,
    pub subscriptions: u16,
    /// The beat interval of each instance.
    pub interval: Duration,
}

fn service(number: u16) -> String {
    format!("orders-{number}")
}

fn weight(port: u16) -> f64 {
    f64::from(port % 7 + 1)
}

/// Restarts the server without its data. Returns the time until all instances are back, with their weights and
/// metadata.
///
/// # Panics
/// When a listener is notified of a removal.
pub async fn restart_empty(sizes: &Sizes) -> Duration {
    let server = server();
    let config = Config::new(server.server_address()).poll_interval(ms(200), ms(500)).push(PushConfig::default());
    let registry = start(config);
    register_all(&registry, sizes).await;
    let mut news = News::listen();
    for number in 0..sizes.subscriptions {
        ask(&registry, Subscribe::new(service(number), news.recipient())).await.unwrap();
        assert!(!news.next().await.info.hosts.is_empty());
    }

    let began = Instant::now();
    server.restart_empty().expect("the same port");
    until("all are back", || registered(&server, sizes) == usize::from(sizes.instances)).await;
    let took = began.elapsed();

    assert_as_before(&server, sizes);
    every_list_is_asked_for_again(&registry).await;
    let told = news.waiting();
    assert!(told.iter().all(|news| news.removed.is_empty()), "{told:?}");
    shut_down(&registry).await;
    took
}

async fn register_all(registry: &Addr<Registry>, sizes: &Sizes) {
    let register = |port: u16| {
        let instance = RegisterInstance::new(service(port % sizes.subscriptions), "127.0.0.7", port);
        let instance = instance.heartbeat_interval(sizes.interval).weight(weight(port));
        ask(registry, instance.metadata("port", port.to_string()))
    };
    join_all((1..=sizes.instances).map(register)).await.into_iter().for_each(|answer| drop(answer.unwrap()));
}

fn registered(server: &EmbeddedServer, sizes: &Sizes) -> usize {
    (0..sizes.subscriptions).map(|number| server.instances(&service(number)).len()).sum()
}

fn assert_as_before(server: &EmbeddedServer, sizes: &Sizes) {
    for instance in (0..sizes.subscriptions).flat_map(|number| server.instances(&service(number))) {
        assert_eq!((instance.weight, instance.healthy), (weight(instance.port), true), "{instance:?}");
        assert_eq!(instance.metadata["port"], instance.port.to_string());
    }
}

/// Waits for two polls of every list, because the first one may have been under way.
async fn every_list_is_asked_for_again(registry: &Addr<Registry>) {
    let polls = async || {
        let status = ask(registry, GetStatus).await.expect("a status");
        status.subscriptions.into_iter().map(|subscription| (subscription.service, subscription.polls)).collect()
    };
    let before: std::collections::HashMap<_, _> = polls().await;
    eventually("every list is asked for again", async || {
        let now: std::collections::HashMap<_, _> = polls().await;
        before.iter().all(|(service, polls)| now[service] >= polls + 2).then_some(())
    })
    .await;
}
