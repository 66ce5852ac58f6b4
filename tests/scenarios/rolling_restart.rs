//! A gateway that has just started calls three instances while they are restarted one by one.
#![allow(dead_code, unreachable_pub, reason = "each binary that shares it takes what it needs")]

use std::{cell::Cell, time::Duration};

use actix::Addr;
use actix_nacos::{embedded::EmbeddedServer, Config, Discover, RegisterInstance, Registry, Shutdown};
use actix_web::{dev::ServerHandle, web, App, HttpServer};
use futures_util::future::{join, join_all};

use super::sigterm::{call_at_rate, Calls};
use crate::support::{ask, shut_down, start};

const SERVICE: &str = "greeter";
const INSTANCES: usize = 3;

pub struct Sizes {
    /// Requests per second.
    pub rate: u32,
    /// From the start of the gateway to the first restart.
    pub before: Duration,
    /// How long each instance serves on after it was deregistered.
    pub drain: Duration,
    /// From the start of a new instance to the end of the next old one. After the last restart, to the end of the
    /// requests.
    pub between: Duration,
}

/// One instance: an HTTP server on its own port, and its Registry.
struct Instance {
    registry: Addr<Registry>,
    server: ServerHandle,
}

impl Instance {
    async fn start(nacos: &EmbeddedServer) -> Self {
        let app = || App::new().route("/", web::get().to(|| async { "hello from a tiny server" }));
        let server = HttpServer::new(app).workers(1).disable_signals().bind(("127.0.0.1", 0)).expect("a free port");
        let port = server.addrs()[0].port();
        let server = server.run();
        let handle = server.handle();
        actix_rt::spawn(server);
        let registry = start(Config::new(nacos.server_address()));
        ask(&registry, RegisterInstance::new(SERVICE, "127.0.0.1", port)).await.expect("registered");
        Instance { registry, server: handle }
    }

    /// Ends gracefully, as an application does: the server runs until callers have noticed.
    async fn stop(self, drain: Duration) {
        let report = ask(&self.registry, Shutdown::default().drain(drain)).await.expect("a report");
        assert_eq!((report.deregistered, report.failed.len()), (1, 0));
        self.server.stop(true).await;
    }
}

/// Restarts all instances, each on another port. Returns the gateway's calls, none of which is sent twice.
pub async fn rolling_restart(nacos: &EmbeddedServer, sizes: &Sizes) -> Calls {
    let mut old = join_all((0..INSTANCES).map(|_| Instance::start(nacos))).await;
    let gateway = start(Config::new(nacos.server_address()));
    let mut view = ask(&gateway, Discover::new(SERVICE)).await.expect("a view");
    while view.instances().len() < INSTANCES {
        view.changed().await.expect("the registry lives");
    }

    let is_over = Cell::new(false);
    let deploy = async {
        // Only time passes here: there is no event to wait for.
        actix_rt::time::sleep(sizes.before).await;
        let mut new = Vec::new();
        while let Some(instance) = old.pop() {
            instance.stop(sizes.drain).await;
            new.push(Instance::start(nacos).await);
            actix_rt::time::sleep(sizes.between).await;
        }
        is_over.set(true);
        new
    };
    let (new, calls) = join(deploy, call_at_rate(&view, sizes.rate, || is_over.get())).await;
    join_all(new.into_iter().map(|instance| instance.stop(Duration::ZERO))).await;
    shut_down(&gateway).await;
    calls
}
