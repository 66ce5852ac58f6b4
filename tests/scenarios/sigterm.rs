//! A deployment: one of two instances receives SIGTERM while it is called.
#![allow(dead_code, unreachable_pub)]

use std::{
    cell::{Cell, RefCell},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use actix_nacos::{embedded::EmbeddedServer, Config, Discover, ServiceView};
use futures_util::future::join_all;

use crate::support::{
    ask, ms, ports,
    process::{example, Process},
    server, shut_down, start, until,
};

const WORKERS: u32 = 16;

#[derive(Debug, Default)]
pub struct Figures {
    pub requests: usize,
    pub failed: Vec<String>,
    /// The time from the signal to the end of the process.
    pub ended_after: Duration,
}

fn start_example(server: &EmbeddedServer) -> Process {
    let mut command = Command::new(example("actix_web"));
    let address = server.server_address();
    command.args(["--server", address.as_str(), "--service", "greeter"]).stdout(Stdio::null());
    Process::start(&mut command)
}

/// Sends `rate` requests per second: for `before`, until the instance has ended, and for one more second.
pub async fn sigterm_under_load(rate: u32, before: Duration) -> Figures {
    let server = server();
    let (mut leaving, _staying) = (start_example(&server), start_example(&server));
    until("both are registered", || ports(&server, "greeter").len() == 2).await;
    let registry = start(Config::new(server.server_address()));
    let mut view = ask(&registry, Discover::new("greeter")).await.unwrap();
    while view.instances().len() < 2 {
        view.changed().await.expect("the registry lives");
    }

    let (ended_after, over) = (Cell::new(Duration::ZERO), Cell::new(None));
    let deploy = async {
        actix_rt::time::sleep(before).await;
        leaving.signal("TERM");
        let told = Instant::now();
        while leaving.has_ended().is_none() {
            actix_rt::time::sleep(ms(10)).await;
        }
        ended_after.set(told.elapsed());
        over.set(Some(Instant::now() + ms(1000)));
    };
    let is_over = || over.get().is_some_and(|over| Instant::now() >= over);
    let ((), calls) = futures_util::future::join(deploy, call_at_rate(&view, rate, is_over)).await;
    assert!(leaving.wait().success());
    assert_eq!(ports(&server, "greeter").len(), 1);
    shut_down(&registry).await;
    Figures { requests: calls.requests, failed: calls.failed, ended_after: ended_after.get() }
}

#[derive(Debug, Default)]
pub struct Calls {
    pub requests: usize,
    pub failed: Vec<String>,
}

/// Sends `rate` requests per second to instances that the view chooses, until `is_over` returns true.
pub async fn call_at_rate(view: &ServiceView, rate: u32, is_over: impl Fn() -> bool) -> Calls {
    let calls = RefCell::new(Calls::default());
    let client = awc::Client::default();
    let period = Duration::from_secs(1) * WORKERS / rate;
    let worker = async |number: u32| {
        let mut due = actix_rt::time::Instant::now() + period * number / WORKERS;
        while !is_over() {
            actix_rt::time::sleep_until(due).await;
            due += period;
            let outcome = match view.select_one().map(|chosen| chosen.authority()) {
                Some(authority) => call(&client, &authority).await,
                None => Err("nobody is there".into()),
            };
            let mut calls = calls.borrow_mut();
            calls.requests += 1;
            calls.failed.extend(outcome.err());
        }
    };
    join_all((0..WORKERS).map(worker)).await;
    calls.into_inner()
}

async fn call(client: &awc::Client, authority: &str) -> Result<(), String> {
    let said = |error: &dyn std::fmt::Display| format!("{authority}: {error}");
    let mut answer = client.get(format!("http://{authority}/")).send().await.map_err(|error| said(&error))?;
    let body = answer.body().await.map_err(|error| said(&error))?;
    match answer.status().as_u16() {
        200 if body.starts_with(b"hello from") => Ok(()),
        status => Err(format!("{authority}: {status}")),
    }
}
