//! All threads of the application are blocked.
#![allow(dead_code, unreachable_pub)]

use std::{
    thread,
    time::{Duration, Instant},
};

use actix::{Arbiter, System};
use actix_nacos::{Config, RegisterInstance};

use crate::support::{ask, ms, only_instance, server, shut_down, start};

/// Blocks the application's System and its arbiters for this time. Returns the longest time between two beats.
///
/// # Panics
/// When the instance turns unhealthy.
pub fn application_threads_are_blocked(blocked_for: Duration, interval: Duration) -> Duration {
    let server = server();
    System::new().block_on(async {
        let registry = start(Config::new(server.server_address()));
        let instance = RegisterInstance::new("orders", "127.0.0.7", 80).heartbeat_interval(interval);
        ask(&registry, instance).await.unwrap();
        for _ in 0..4 {
            Arbiter::new().spawn_fn(move || thread::sleep(blocked_for));
        }
        let (began, mut silence) = (Instant::now(), Duration::ZERO);
        while began.elapsed() < blocked_for {
            thread::sleep(ms(10));
            let instance = only_instance(&server, "orders");
            assert!(instance.healthy, "{instance:?}");
            silence = silence.max(instance.since_last_beat);
        }
        shut_down(&registry).await;
        silence
    })
}
