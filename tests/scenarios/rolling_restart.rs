//! A gateway that has just started calls three instances while they are restarted one by one.
#![allow(dead_code, unreachable_pub, reason = "each binary that shares it takes what it needs")]

use std::{cell::Cell, time::Duration};

use actix_nacos::{embedded::EmbeddedServer, Config, Discover, Shutdown};
use futures_util::future::{join, join_all};

use super::{
    rolling::{Instance, INSTANCES},
    sigterm::{call_at_rate, Calls},
};
use crate::support::{ask, shut_down, start};

const SERVICE: &str = "greeter";

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

/// Restarts all instances, each on another port. Returns the gateway's calls, none of which is sent twice.
pub async fn rolling_restart(nacos: &EmbeddedServer, sizes: &Sizes) -> Calls {
    let old = Instance::start_all(nacos, SERVICE).await;
    let gateway = start(Config::new(nacos.server_address()));
    let mut view = ask(&gateway, Discover::new(SERVICE)).await.expect("a view");
    while view.instances().len() < INSTANCES {
        view.changed().await.expect("the registry lives");
    }

    let is_over = Cell::new(false);
    let deploy = async {
        // Only time passes here: there is no event to wait for.
        actix_rt::time::sleep(sizes.before).await;
        let shutdown = Shutdown::default().drain(sizes.drain);
        let new = Instance::restart_all(old, nacos, SERVICE, shutdown, sizes.between).await;
        is_over.set(true);
        new
    };
    let (new, calls) = join(deploy, call_at_rate(&view, sizes.rate, || is_over.get())).await;
    join_all(new.into_iter().map(|instance| instance.stop(Shutdown::default().drain(Duration::ZERO)))).await;
    shut_down(&gateway).await;
    calls
}
