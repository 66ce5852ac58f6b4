//! A dropped embedded server leaves nothing behind. This is a separate binary, because it counts threads and
//! descriptors of the process.
#![cfg(target_os = "linux")]
#![allow(clippy::expect_used, clippy::panic)] // A test says what it expected.

mod raw_http;

use std::{fs, time::Duration};

use actix_nacos::embedded::EmbeddedServer;
use raw_http::{wait_until, Connection};

fn threads() -> usize {
    fs::read_dir("/proc/self/task").expect("this process' threads").count()
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").expect("this process' descriptors").count()
}

fn one_life() {
    let server = EmbeddedServer::builder().restart_downtime(Duration::ZERO).start().expect("a server");
    let mut nacos = Connection::to(server.address());
    nacos.send("POST", "/nacos/v1/ns/instance?serviceName=orders&ip=127.0.0.1&port=80").is(200, "ok");
    server.restart_empty().expect("a restart");
    server.faults().refuse_connections();
}

#[test]
fn a_hundred_servers_leave_no_thread_and_no_descriptor() {
    one_life();
    wait_until("the first server's worker is gone", || threads() <= 3);
    let (threads_before, descriptors_before) = (threads(), descriptors());
    for _ in 0..100 {
        one_life();
    }
    wait_until("all threads are gone", || threads() <= threads_before);
    wait_until("all descriptors are closed", || descriptors() <= descriptors_before);
}
