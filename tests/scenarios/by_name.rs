//! Calls by name at a fixed rate, however long earlier calls take.
#![allow(dead_code, unreachable_pub, reason = "each binary that shares it takes what it needs")]

use std::{
    cell::{Cell, RefCell},
    future::Future,
    rc::Rc,
    time::{Duration, Instant},
};

use actix_nacos::balance::Client;
use actix_rt::time::sleep_until;

use crate::support::until;

/// The number and the outcomes of calls.
#[derive(Debug, Default)]
pub struct Calls {
    pub requests: usize,
    pub failed: Vec<String>,
    /// The latencies of the calls that did not fail.
    pub latencies: Vec<Duration>,
}

impl Calls {
    pub fn latency(&self, percentile: f64) -> Duration {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        let place = (sorted.len() as f64 * percentile / 100.0) as usize;
        sorted.get(place.min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
    }

    pub fn add(&mut self, other: Calls) {
        self.requests += other.requests;
        self.failed.extend(other.failed);
        self.latencies.extend(other.latencies);
    }
}

#[derive(Default)]
struct Load {
    calls: RefCell<Calls>,
    under_way: Cell<usize>,
}

/// Counts calls while they are under way.
#[derive(Clone, Default)]
pub struct Caller(Rc<Load>);

impl Caller {
    /// Begins `rate` calls per second until `is_over` returns true, and waits for the last of them.
    pub async fn call_at_rate<F>(&self, rate: u32, is_over: impl Fn() -> bool, call: impl Fn(usize) -> F)
    where
        F: Future<Output = Result<(), String>> + 'static,
    {
        let (began, mut number) = (actix_rt::time::Instant::now(), 0);
        while !is_over() {
            sleep_until(began + Duration::from_secs(1) * number as u32 / rate).await;
            let (load, calling, start) = (self.0.clone(), call(number), Instant::now());
            load.calls.borrow_mut().requests += 1;
            load.under_way.set(load.under_way.get() + 1);
            actix_rt::spawn(async move {
                let outcome = calling.await;
                load.under_way.set(load.under_way.get() - 1);
                let mut calls = load.calls.borrow_mut();
                match outcome {
                    Ok(()) => calls.latencies.push(start.elapsed()),
                    Err(error) => calls.failed.push(error),
                }
            });
            number += 1;
        }
        until("the last calls end", || self.under_way() == 0).await;
    }

    pub fn under_way(&self) -> usize {
        self.0.under_way.get()
    }

    pub fn requests(&self) -> usize {
        self.0.calls.borrow().requests
    }

    pub fn take(&self) -> Calls {
        self.0.calls.take()
    }
}

/// Sends a GET, or a POST with a body if `post` is set. Any status but 200 is a failure.
pub async fn call(http: Client, url: String, post: bool) -> Result<(), String> {
    let sent = if post { http.post(url).send_body("a body") } else { http.get(url).send() };
    let mut answer = sent.await.map_err(|error| format!("{} {error}", if post { "POST" } else { "GET" }))?;
    let _ = answer.body().await.map_err(|error| format!("body: {error}"))?;
    match answer.status().as_u16() {
        200 => Ok(()),
        status => Err(status.to_string()),
    }
}
