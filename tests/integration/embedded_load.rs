//! The embedded server is fast enough for load tests.

use std::time::{Duration, Instant};

use actix_nacos::embedded::EmbeddedServer;

use crate::raw_http::Connection;

const INSTANCES: usize = 10_000;
const CONNECTIONS: usize = 4;

/// Sends one request for each instance, over several connections. Returns how long that took.
fn for_each(server: &EmbeddedServer, method: &'static str, path: &'static str) -> Duration {
    let began = Instant::now();
    let address = server.address();
    let threads: Vec<_> = (0..CONNECTIONS)
        .map(|n| {
            std::thread::spawn(move || {
                let mut nacos = Connection::to(address);
                for i in (n..INSTANCES).step_by(CONNECTIONS) {
                    let (high, low) = (i / 250, i % 250);
                    let target = format!("{path}?serviceName=load&ip=127.0.{high}.{low}&port=80");
                    assert_eq!(nacos.send(method, &target).status, 200);
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("all requests are answered"));
    began.elapsed()
}

#[test]
#[ignore = "a measurement: cargo test --release --test integration embedded_load -- --ignored --nocapture"]
fn ten_thousand_instances_register_beat_and_go() {
    let server = EmbeddedServer::builder().list_delay(Duration::ZERO).start().expect("a server");
    let path = "/nacos/v1/ns/instance";
    println!("registered in {:?}", for_each(&server, "POST", path));
    assert_eq!(server.instances("load").len(), INSTANCES);
    println!("one beat each in {:?}", for_each(&server, "PUT", "/nacos/v1/ns/instance/beat"));
    let began = Instant::now();
    let list = Connection::to(server.address()).get(&format!("{path}/list?serviceName=load"));
    println!("listed in {:?}, {} bytes", began.elapsed(), list.body.len());
    println!("deregistered in {:?}", for_each(&server, "DELETE", path));
    assert!(server.instances("load").is_empty());
}
