//! One of three instances is killed while it is called.
#![allow(dead_code, unreachable_pub, reason = "each binary that shares it takes what it needs")]

use std::{
    cell::Cell,
    process::{Command, Stdio},
    time::Duration,
};

use actix_nacos::{
    balance::{Client, Retry},
    embedded::EmbeddedServer,
    Config,
};
use futures_util::future::join;

use crate::{
    scenarios::by_name::{call, Caller},
    support::{
        ports,
        process::{example, Process},
        server, shut_down, start, unique, until,
    },
};

pub struct Sizes {
    /// Requests per second.
    pub rate: u32,
    pub before: Duration,
    /// Shorter than the time after which a server notices the missing heartbeats.
    pub after: Duration,
}

pub struct Figures {
    pub requests: usize,
    pub failed: Vec<String>,
    /// Calls that were under way when the instance was killed.
    pub in_flight: usize,
}

fn start_instance(server: &EmbeddedServer, service: &str) -> Process {
    let mut command = Command::new(example("actix_web"));
    let address = server.server_address();
    command.args(["--server", address.as_str(), "--service", service]).stdout(Stdio::null());
    Process::start(&mut command)
}

pub async fn one_of_three_is_killed(retry: Retry, sizes: &Sizes) -> Figures {
    let (server, service) = (server(), unique("greeter"));
    let instances: Vec<_> = (0..3).map(|_| start_instance(&server, &service)).collect();
    until("all are registered", || ports(&server, &service).len() == instances.len()).await;
    let registry = start(Config::new(server.server_address()));
    let http = Client::builder(&registry).service(&service).retry(retry).finish();

    let (caller, in_flight, is_over) = (Caller::default(), Cell::new(0), Cell::new(false));
    let kill = async {
        actix_rt::time::sleep(sizes.before).await;
        in_flight.set(caller.under_way());
        instances[0].signal("KILL");
        actix_rt::time::sleep(sizes.after).await;
        is_over.set(true);
    };
    let url = format!("http://{service}/");
    let load = caller.call_at_rate(sizes.rate, || is_over.get(), |_| call(http.clone(), url.clone(), false));
    join(kill, load).await;
    shut_down(&registry).await;
    let calls = caller.take();
    Figures { requests: calls.requests, failed: calls.failed, in_flight: in_flight.get() }
}
