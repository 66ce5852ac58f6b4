//! Many calls by name: the share of each instance, and the retries when all instances fail.
#![allow(dead_code, unreachable_pub, reason = "each binary that shares it takes what it needs")]

use std::time::{Duration, Instant};

use actix_nacos::{
    balance::{Client, Retry},
    RegisterInstance,
};
use futures_util::{stream, StreamExt as _};

use crate::{
    scenarios::by_name::{call, Caller},
    support::{ask, registry, server, shut_down, unique, web, web::Web},
};

/// Returns the share of each instance in `calls` calls.
pub async fn shares<const N: usize>(weights: [f64; N], calls: usize) -> [f64; N] {
    let (server, service) = (server(), unique("orders"));
    let registry = registry(&server);
    let instances = weights.map(|weight| (Web::with_its_port(), weight));
    for (instance, weight) in &instances {
        let message = RegisterInstance::new(&service, web::IP, instance.port).weight(*weight);
        ask(&registry, message).await.expect("registered");
    }
    let http = Client::builder(&registry).service(&service).finish();
    let url = format!("http://{service}/");
    let calling = (0..calls).map(|_| call(http.clone(), url.clone(), false));
    let outcomes: Vec<_> = stream::iter(calling).buffer_unordered(32).collect().await;
    assert!(outcomes.iter().all(Result::is_ok), "{:?}", outcomes.iter().find(|outcome| outcome.is_err()));
    shut_down(&registry).await;
    instances.map(|(instance, _)| instance.requests() as f64 / calls as f64)
}

/// Returns how many requests are sent for each call when all three instances answer 503.
pub async fn requests_per_call(rate: u32, last: Duration) -> f64 {
    let (server, service) = (server(), unique("orders"));
    let instances = [Web::with_status(503), Web::with_status(503), Web::with_status(503)];
    let registry = registry(&server);
    for instance in &instances {
        instance.register(&registry, &service).await;
    }
    let http = Client::builder(&registry).service(&service).retry(Retry::times(3)).finish();
    let (caller, end, url) = (Caller::default(), Instant::now() + last, format!("http://{service}/"));
    caller.call_at_rate(rate, || Instant::now() >= end, |_| call(http.clone(), url.clone(), false)).await;
    shut_down(&registry).await;
    let calls = caller.take();
    assert_eq!(calls.failed.len(), calls.requests, "an outage is one");
    instances.iter().map(Web::requests).sum::<usize>() as f64 / calls.requests as f64
}
