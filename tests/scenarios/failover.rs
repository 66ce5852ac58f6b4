//! One of three servers dies.
#![allow(dead_code, unreachable_pub, reason = "each binary that shares it takes what it needs")]

use std::{
    cell::{Cell, RefCell},
    time::{Duration, Instant},
};

use actix::Addr;
use actix_nacos::{
    embedded::EmbeddedServer, Config, DeregisterInstance, Error, ListInstances, ModifyInstance, RegisterInstance,
    Registry, SendHeartbeat,
};
use futures_util::future::join_all;

use crate::support::{ask, in_use, servers, shut_down, start, until};

const IN_FLIGHT: usize = 64;

#[derive(Debug, Clone, Copy)]
pub enum Death {
    Refuses,
    Hangs,
}

impl Death {
    fn befall(self, server: &EmbeddedServer) {
        match self {
            Death::Refuses => server.faults().refuse_connections(),
            Death::Hangs => server.faults().hang(true),
        }
    }
}

#[derive(Debug, Default)]
pub struct Figures {
    pub operations: usize,
    pub failed: Vec<Error>,
    pub slowest: Duration,
    pub took: Duration,
}

/// The server in use dies after a quarter of the operations.
pub async fn one_of_three_dies_under_load(operations: usize, death: Death, request_timeout: Duration) -> Figures {
    let (servers, addresses) = servers(3);
    let registry = start(Config::new(addresses).request_timeout(request_timeout));
    let (next, figures) = (Cell::new(0), RefCell::new(Figures::default()));
    let began = Instant::now();
    let worker = |worker: usize| {
        let (registry, next, figures, servers) = (&registry, &next, &figures, &servers);
        async move {
            while next.get() < operations {
                let number = next.replace(next.get() + 1);
                if number == operations / 4 {
                    death.befall(in_use(registry, servers).await);
                }
                let began = Instant::now();
                let outcome = operation(registry, worker, number).await;
                let mut figures = figures.borrow_mut();
                figures.operations += 1;
                figures.slowest = figures.slowest.max(began.elapsed());
                figures.failed.extend(outcome.err());
            }
        }
    };
    join_all((0..IN_FLIGHT).map(worker)).await;
    servers.iter().for_each(|server| server.faults().clear());
    shut_down(&registry).await;
    Figures { took: began.elapsed(), ..figures.into_inner() }
}

/// Sends the next operation of a worker. Each worker has an instance of its own, and goes through all operations.
async fn operation(registry: &Addr<Registry>, worker: usize, number: usize) -> Result<(), Error> {
    let (ip, port) = ("127.0.0.7", 8000 + worker as u16);
    match number % 5 {
        0 => ask(registry, RegisterInstance::new("orders", ip, port).weight(2.0)).await.map(drop),
        1 => ask(registry, ListInstances::new("orders")).await.map(drop),
        2 => ask(registry, SendHeartbeat::new("orders", "127.0.0.8", port)).await.map(drop),
        3 => match ask(registry, ModifyInstance::new("orders", ip, port).weight(3.0)).await {
            // The worker has not registered its instance yet, or has deregistered it.
            Err(Error::NotFound { .. }) => Ok(()),
            outcome => outcome,
        },
        _ => ask(registry, DeregisterInstance::new("orders", ip, port)).await,
    }
}

/// The server in use dies. Returns the time until all instances are registered at another server.
pub async fn instances_move_to_another_server(
    instances: u16,
    interval: Duration,
    death: Death,
    request_timeout: Duration,
) -> Duration {
    let (servers, addresses) = servers(3);
    let registry = start(Config::new(addresses).request_timeout(request_timeout));
    let register =
        |port| ask(&registry, RegisterInstance::new("orders", "127.0.0.7", port).heartbeat_interval(interval));
    join_all((1..=instances).map(register)).await.into_iter().for_each(|answer| drop(answer.unwrap()));

    let dead = in_use(&registry, &servers).await;
    let others = || servers.iter().filter(|server| server.address() != dead.address());
    let began = Instant::now();
    death.befall(dead);
    until("all are at another one", || {
        others().any(|server| server.instances("orders").len() == usize::from(instances))
    })
    .await;
    let took = began.elapsed();
    dead.faults().clear();
    shut_down(&registry).await;
    took
}
