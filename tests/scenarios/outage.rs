//! No server answers for a while.
#![allow(dead_code, unreachable_pub)]

use std::time::{Duration, Instant};

use actix::Addr;
use actix_nacos::{
    embedded::EmbeddedServer, Config, ConnectionState, Discover, GetStatus, RegisterInstance, Registry, RegistryStatus,
    Subscribe,
};
use futures_util::future::join_all;

use crate::support::{ask, eventually, ms, servers, shut_down, start, until, News};

pub struct Sizes {
    pub instances: u16,
    pub services: u16,
    pub interval: Duration,
    pub request_timeout: Duration,
    pub down_for: Duration,
}

#[derive(Debug, Clone, Copy)]
pub enum Fault {
    Refuse,
    Hang,
}

impl Fault {
    fn befall(self, server: &EmbeddedServer) {
        match self {
            Fault::Refuse => server.faults().refuse_connections(),
            Fault::Hang => server.faults().hang(true),
        }
    }
}

#[derive(Debug)]
pub struct Figures {
    /// Requests for all instances and subscriptions to all servers while no server answered.
    pub requests_per_second: f64,
    /// The time from the first answer of a server until all instances are registered there.
    pub back_after: Duration,
}

fn service(number: u16) -> String {
    format!("orders-{number}")
}

/// All three servers fail. Then one of them comes back, possibly without its data.
///
/// # Panics
/// When a listener is notified of a removal, a view is empty or not stale, or an instance has lost its values.
pub async fn all_servers_fail(fault: Fault, sizes: &Sizes) -> Figures {
    let (servers, addresses) = servers(3);
    let config = Config::new(addresses).request_timeout(sizes.request_timeout).poll_interval(ms(200), ms(1000));
    let registry = start(config);
    let register = |port: u16| {
        let instance = RegisterInstance::new(service(port % sizes.services), "127.0.0.7", port).weight(2.0);
        ask(&registry, instance.heartbeat_interval(sizes.interval).metadata("port", port.to_string()))
    };
    join_all((1..=sizes.instances).map(register)).await.into_iter().for_each(|answer| drop(answer.unwrap()));
    let mut news = News::listen();
    let mut views = Vec::new();
    for number in 0..sizes.services {
        ask(&registry, Subscribe::new(service(number), news.recipient())).await.unwrap();
        news.until(|news| !news.info.hosts.is_empty()).await;
        views.push(ask(&registry, Discover::new(service(number))).await.unwrap());
    }
    news.waiting();
    let known: usize = views.iter().map(|view| view.instances().len()).sum();
    assert_eq!(known, usize::from(sizes.instances));

    servers.iter().for_each(|server| fault.befall(server));
    eventually("nobody answers", async || (status(&registry).await.connection == ConnectionState::Lost).then_some(()))
        .await;
    until("all views know", || views.iter().all(|view| view.is_stale())).await;
    let (before, began) = (requests(&registry).await, Instant::now());
    // The outage lasts for this time.
    actix_rt::time::sleep(sizes.down_for).await;
    let requests_per_second = (requests(&registry).await - before) as f64 / began.elapsed().as_secs_f64();
    let known: usize = views.iter().map(|view| view.instances().len()).sum();
    assert_eq!(known, usize::from(sizes.instances));

    let began = Instant::now();
    let first = &servers[1];
    first.faults().clear();
    let registered = || (0..sizes.services).flat_map(|number| first.instances(&service(number)));
    until("all are back", || registered().filter(|instance| instance.healthy).count() == known).await;
    let back_after = began.elapsed();
    for instance in registered() {
        assert_eq!((instance.weight, instance.metadata["port"].parse()), (2.0, Ok(instance.port)));
    }
    until("all views are current", || views.iter().all(|view| !view.is_stale())).await;
    let told = news.waiting();
    assert!(told.iter().all(|news| news.removed.is_empty()), "{told:?}");
    servers.iter().for_each(|server| server.faults().clear());
    shut_down(&registry).await;
    Figures { requests_per_second, back_after }
}

async fn status(registry: &Addr<Registry>) -> RegistryStatus {
    ask(registry, GetStatus).await.expect("a status")
}

async fn requests(registry: &Addr<Registry>) -> u64 {
    status(registry).await.servers.iter().map(|server| server.requests).sum()
}
