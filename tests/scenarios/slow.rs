//! One of three instances is slower than the others.
#![allow(dead_code, unreachable_pub, reason = "each binary that shares it takes what it needs")]

use std::time::{Duration, Instant};

use actix_nacos::{balance::Client, Policy, Selection};
use actix_web::HttpResponse;

use crate::{
    scenarios::by_name::{call, Caller, Calls},
    support::{registry, server, shut_down, unique, web::Web},
};

pub struct Sizes {
    /// Requests per second.
    pub rate: u32,
    pub slow: Duration,
    pub others: Duration,
    pub last: Duration,
}

fn taking(time: Duration) -> Web {
    Web::start(move |_, _| async move {
        actix_rt::time::sleep(time).await;
        HttpResponse::Ok().finish()
    })
}

/// Returns the calls, and the slow instance's share of them.
pub async fn one_of_three_is_slow(policy: Policy, sizes: &Sizes) -> (Calls, f64) {
    let (server, service) = (server(), unique("orders"));
    let instances = [taking(sizes.slow), taking(sizes.others), taking(sizes.others)];
    let registry = registry(&server);
    for instance in &instances {
        instance.register(&registry, &service).await;
    }
    let selection = Selection::default().policy(policy);
    let http = Client::builder(&registry).service(&service).selection(selection).finish();
    let (caller, end, url) = (Caller::default(), Instant::now() + sizes.last, format!("http://{service}/"));
    caller.call_at_rate(sizes.rate, || Instant::now() >= end, |_| call(http.clone(), url.clone(), false)).await;
    shut_down(&registry).await;
    let calls = caller.take();
    let share = instances[0].requests() as f64 / calls.requests as f64;
    (calls, share)
}
