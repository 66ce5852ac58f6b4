//! A program without a runtime uses the whole API in plain threads.

use std::{thread, time::Duration};

use actix_nacos::{block_on, embedded::EmbeddedServer, prelude::*};

const SOON: Duration = Duration::from_secs(20);

#[test]
fn plain_threads_register_discover_wait_and_shut_down() {
    let server = EmbeddedServer::start().unwrap();
    let registry = Registry::start(Config::new(server.server_address())).unwrap();
    let workers = (1..=4).map(|port| {
        let registry = registry.clone();
        thread::spawn(move || -> Result<ServiceView, Error> {
            let orders = block_on(registry.send(Discover::new("orders")))??;
            block_on(registry.send(RegisterInstance::new("orders", "127.0.0.7", port)))??;
            block_on(orders.ready_within(SOON))?;
            Ok(orders)
        })
    });
    let workers: Vec<_> = workers.collect();
    let mut views: Vec<_> = workers.into_iter().map(|worker| worker.join().unwrap().unwrap()).collect();
    for view in &mut views {
        while view.instances().len() < 4 {
            block_on(view.changed()).unwrap();
        }
    }
    let report = block_on(registry.send(Shutdown::default())).unwrap().unwrap();
    assert_eq!((report.deregistered, server.instances("orders").len()), (4, 0));
    assert_eq!(
        block_on(registry.send(GetStatus)).map_err(Error::from).and_then(|told| told).unwrap_err(),
        Error::Stopped
    );
}

#[test]
fn waiting_in_a_plain_thread_ends_without_a_list() {
    let server = EmbeddedServer::start().unwrap();
    server.faults().refuse_connections();
    let registry = Registry::start(Config::new(server.server_address())).unwrap();
    let orders = block_on(registry.send(Discover::new("orders"))).unwrap().unwrap();
    let limit = Duration::from_millis(50);
    assert!(matches!(block_on(orders.ready_within(limit)), Err(Error::Timeout { after, .. }) if after == limit));
    server.faults().accept_connections();
    block_on(orders.ready_within(SOON)).unwrap();
    block_on(registry.send(Shutdown::default())).unwrap().unwrap();
}
