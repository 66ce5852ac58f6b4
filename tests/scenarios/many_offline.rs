//! One Registry with very many instances shuts down.
#![allow(dead_code, unreachable_pub)]

use std::time::{Duration, Instant};

use actix_nacos::{Config, RegisterInstance, Shutdown, HEART_BEAT_TIMEOUT, IP_DELETE_TIMEOUT};
use futures_util::stream::{self, StreamExt as _};

use crate::support::{ask, server, start};

#[derive(Debug)]
pub struct Figures {
    pub registered_in: Duration,
    pub took: Duration,
    pub deregistered: usize,
    pub failed: usize,
    pub still_there: usize,
}

const PORTS: usize = 50_000;

pub async fn many_instances_go_offline(instances: usize, deadline: Duration) -> Figures {
    let server = server();
    let registry = start(Config::new(server.server_address()));
    let began = Instant::now();
    let register = |number: usize| {
        let ip = format!("127.0.{}.7", number / PORTS);
        let instance = RegisterInstance::new(format!("orders-{}", number % 100), ip, (number % PORTS + 1) as u16);
        // The interval is so long that beats do not affect the measurement.
        let instance = instance.heartbeat_interval(Duration::from_secs(600));
        ask(&registry, instance.metadata(HEART_BEAT_TIMEOUT, "1800000").metadata(IP_DELETE_TIMEOUT, "3600000"))
    };
    let registered = stream::iter(0..instances).map(register).buffer_unordered(256);
    registered.for_each(|registered| async { drop(registered.unwrap()) }).await;
    let registered_in = began.elapsed();

    let began = Instant::now();
    let report = ask(&registry, Shutdown::default().deadline(deadline)).await.unwrap();
    let took = began.elapsed();
    let still_there = (0..100).map(|number| server.instances(&format!("orders-{number}")).len()).sum();
    Figures { registered_in, took, deregistered: report.deregistered, failed: report.failed.len(), still_there }
}
