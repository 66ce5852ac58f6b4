//! Three instances are restarted one by one while they are called by name, also by callers that have just started.
#![allow(dead_code, unreachable_pub, reason = "each binary that shares it takes what it needs")]

use std::{cell::Cell, time::Duration};

use actix::Addr;
use actix_nacos::{
    balance::{Client, Retry},
    embedded::EmbeddedServer,
    Config, RegisterInstance, Registry, Shutdown,
};
use actix_web::{dev::ServerHandle, web, App, HttpServer};
use futures_util::future::{join3, join_all};

use crate::{
    scenarios::by_name::{call, Caller, Calls},
    support::{ask, shut_down, start, unique},
};

pub const INSTANCES: usize = 3;
/// The number of calls of a caller that has just started.
const FIRST_CALLS: usize = 10;

pub struct Sizes {
    /// Requests per second.
    pub rate: u32,
    /// From the start of the callers to the first restart.
    pub before: Duration,
    /// From the start of a new instance to the end of the next old one. After the last restart, to the end of the
    /// requests.
    pub between: Duration,
    /// From one new caller to the next one.
    pub newcomers: Duration,
}

pub struct Figures {
    /// The calls of the caller that runs throughout.
    pub calls: Calls,
    /// The calls of the callers that have just started.
    pub first_calls: Calls,
}

/// One instance: an HTTP server on a port of its own, and its Registry.
pub struct Instance {
    registry: Addr<Registry>,
    server: ServerHandle,
}

impl Instance {
    async fn start(nacos: &EmbeddedServer, service: &str) -> Self {
        let app =
            || App::new().route("/", web::get().to(hello)).route("/", web::post().to(|body: String| async { body }));
        let server = HttpServer::new(app).workers(1).disable_signals().bind(("127.0.0.1", 0)).expect("a free port");
        let port = server.addrs()[0].port();
        let server = server.run();
        let handle = server.handle();
        actix_rt::spawn(server);
        let registry = start(Config::new(nacos.server_address()));
        ask(&registry, RegisterInstance::new(service, "127.0.0.1", port)).await.expect("registered");
        Instance { registry, server: handle }
    }

    pub async fn start_all(nacos: &EmbeddedServer, service: &str) -> Vec<Self> {
        join_all((0..INSTANCES).map(|_| Instance::start(nacos, service))).await
    }

    /// Ends one instance after the other by `shutdown`, and starts another in its place.
    pub async fn restart_all(
        old: Vec<Self>,
        nacos: &EmbeddedServer,
        service: &str,
        shutdown: Shutdown,
        between: Duration,
    ) -> Vec<Self> {
        let mut new = Vec::new();
        for instance in old {
            instance.stop(shutdown.clone()).await;
            new.push(Instance::start(nacos, service).await);
            actix_rt::time::sleep(between).await;
        }
        new
    }

    pub async fn stop(self, shutdown: Shutdown) {
        let report = ask(&self.registry, shutdown).await.expect("a report");
        assert_eq!((report.deregistered, report.failed.len()), (1, 0));
        self.server.stop(true).await;
    }
}

async fn hello() -> &'static str {
    "hello from an instance"
}

/// Starts a caller and makes its first calls at once.
async fn just_started(nacos: &EmbeddedServer, service: &str) -> Calls {
    let registry = start(Config::new(nacos.server_address()));
    let http = Client::builder(&registry).service(service).retry(Retry::once()).finish();
    let mut calls = Calls::default();
    for number in 0..FIRST_CALLS {
        let outcome = call(http.clone(), format!("http://{service}/"), number % 2 == 1).await;
        calls.requests += 1;
        calls.failed.extend(outcome.err());
    }
    shut_down(&registry).await;
    calls
}

pub async fn rolling(nacos: &EmbeddedServer, sizes: &Sizes) -> Figures {
    let service = unique("greeter");
    let old = Instance::start_all(nacos, &service).await;
    let registry = start(Config::new(nacos.server_address()));
    let http = Client::builder(&registry).service(&service).retry(Retry::once()).finish();

    let (caller, is_over) = (Caller::default(), Cell::new(false));
    let deploy = async {
        actix_rt::time::sleep(sizes.before).await;
        let shutdown = Shutdown::default().drain_until_noticed();
        let new = Instance::restart_all(old, nacos, &service, shutdown, sizes.between).await;
        is_over.set(true);
        new
    };
    let url = format!("http://{service}/");
    let load =
        caller.call_at_rate(sizes.rate, || is_over.get(), |number| call(http.clone(), url.clone(), number % 2 == 1));
    let newcomers = async {
        let mut calls = Calls::default();
        while !is_over.get() {
            calls.add(just_started(nacos, &service).await);
            actix_rt::time::sleep(sizes.newcomers).await;
        }
        calls
    };
    let (new, (), first_calls) = join3(deploy, load, newcomers).await;
    join_all(new.into_iter().map(|instance| async move { shut_down(&instance.registry).await })).await;
    shut_down(&registry).await;
    Figures { calls: caller.take(), first_calls }
}
