//! Tokens that expire under load, and a wrong password.
#![allow(dead_code, unreachable_pub)]

use std::{
    cell::RefCell,
    time::{Duration, Instant},
};

use actix::Addr;
use actix_nacos::{
    embedded::{EmbeddedServer, EmbeddedServerBuilder},
    Config, Error, ListInstances, Operation, RegisterInstance, Registry,
};
use futures_util::future::join_all;

use crate::support::{ask, shut_down, start};

const IN_FLIGHT: u16 = 64;

#[derive(Debug, Default)]
pub struct Figures {
    pub operations: usize,
    pub failed: Vec<Error>,
    pub logins: u64,
    pub took: Duration,
}

pub fn guarded() -> EmbeddedServerBuilder {
    crate::support::builder().user("nacos", "secret")
}

pub fn logins(server: &EmbeddedServer) -> u64 {
    server.counters().requests_for(Operation::Login)
}

/// Keeps 64 requests in flight until `is_over` returns true.
pub async fn keep_asking(registry: &Addr<Registry>, is_over: impl Fn(&Figures) -> bool) -> Figures {
    let (began, figures) = (Instant::now(), RefCell::new(Figures::default()));
    let worker = async |port: u16| {
        while !is_over(&figures.borrow()) {
            let outcome = match port % 2 {
                0 => ask(registry, RegisterInstance::new("orders", "127.0.0.7", 8000 + port)).await.map(drop),
                _ => ask(registry, ListInstances::new("orders")).await.map(drop),
            };
            let mut figures = figures.borrow_mut();
            figures.operations += 1;
            figures.failed.extend(outcome.err());
        }
    };
    join_all((0..IN_FLIGHT).map(worker)).await;
    Figures { took: began.elapsed(), ..figures.into_inner() }
}

/// Sends requests for `last`, with tokens that live for `life`.
pub async fn tokens_run_out(life: Duration, last: Duration) -> Figures {
    let server = guarded().token_ttl(life).start().expect("a free port");
    let registry = start(Config::new(server.server_address()).credentials("nacos", "secret"));
    let began = Instant::now();
    let figures = keep_asking(&registry, |_| began.elapsed() >= last).await;
    let logins = logins(&server);
    shut_down(&registry).await;
    Figures { logins, ..figures }
}
