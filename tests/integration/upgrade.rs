//! A server is upgraded and downgraded while the client runs, and is empty each time.

use std::time::Duration;

use actix_nacos::{
    embedded::{Dialect, EmbeddedServer},
    Error, RegisterInstance, Subscribe,
};

use crate::support;

const INSTANCES: u16 = 100;
const SERVICES: usize = 10;

fn registered(server: &EmbeddedServer) -> usize {
    (0..SERVICES).map(|n| server.instances(&format!("orders-{n}")).len()).sum()
}

#[actix::test]
async fn a_hundred_instances_and_ten_subscriptions_live_through_an_upgrade_and_back() -> Result<(), Error> {
    let server = support::builder().start().expect("a free port");
    let interval = Duration::from_millis(1000);
    let registry = support::start(support::config(&server));
    let mut told = support::News::listen();
    for port in 1..=INSTANCES {
        let service = format!("orders-{}", usize::from(port) % SERVICES);
        let instance = RegisterInstance::new(service, "127.0.0.7", port).heartbeat_interval(interval).weight(2.0);
        registry.send(instance.metadata("port", port.to_string())).await??;
    }
    for n in 0..SERVICES {
        registry.send(Subscribe::new(format!("orders-{n}"), told.recipient())).await??;
        assert_eq!(told.next().await.info.hosts.len(), usize::from(INSTANCES) / SERVICES);
    }
    for dialect in [Dialect::V3_2, Dialect::V2_5] {
        server.restart_as(dialect).expect("the same port");
        support::until("all are registered again", || registered(&server) == usize::from(INSTANCES)).await;
        let instance = server.instances("orders-0").remove(0);
        assert_eq!((instance.weight, instance.metadata["port"].parse()), (2.0, Ok(instance.port)));
        // Wait for all messages about the restart: longer than another poll of every list.
        actix_rt::time::sleep(support::POLL * 5).await;
        let news = told.waiting();
        assert!(news.iter().all(|news| news.removed.is_empty()), "{dialect}: {news:?}");
    }
    Ok(())
}
