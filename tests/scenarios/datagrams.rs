//! Datagrams that no server sent.
#![allow(dead_code, unreachable_pub)]

use std::{net::UdpSocket, time::Duration};

use actix::Addr;
use actix_nacos::{Config, Discover, GetStatus, PushStatus, RegisterInstance, Registry, Subscribe};

use crate::support::{ask, eventually, process::resident_kib, shut_down, start, News};

/// So many fit into a socket's buffer at once.
const BATCH: usize = 32;
const LONGEST: usize = 1400;

#[derive(Debug)]
pub struct Figures {
    pub sent: u64,
    pub polls: u64,
    /// From the moment when a tenth was through.
    pub grown_kib: i64,
}

/// Sends random bytes from the servers' own address, and pushes that are forged, or mutated, from a stranger's.
///
/// # Panics
/// When one is answered, or a list of theirs is applied.
pub async fn datagrams_that_no_server_sent(random: usize, forged: usize, seed: u64) -> Figures {
    let server = crate::support::builder().start().expect("a free port");
    let seldom = Duration::from_secs(600);
    let registry = start(Config::new(server.server_address()).poll_interval(seldom, seldom));
    ask(&registry, RegisterInstance::new("orders", "10.0.0.7", 80)).await.unwrap();
    let mut news = News::listen();
    ask(&registry, Subscribe::new("orders", news.recipient())).await.unwrap();
    let view = ask(&registry, Discover::new("orders")).await.unwrap();
    news.until(|news| news.info.hosts.len() == 1).await;
    let open = async || ask(&registry, GetStatus).await.ok()?.push.map(|push| push.port);
    let port = eventually("the socket is open", open).await;

    let (trusted, stranger) = (socket("127.0.0.1"), socket("127.0.0.2"));
    let mut dice = fastrand::Rng::with_seed(seed);
    let push = forged_push();
    let (total, mut early) = (random + forged, 0);
    for number in 0..total {
        // The one after the other, evenly mixed.
        let is_forged = (number + 1) * forged / total > number * forged / total;
        let (socket, datagram) = match is_forged {
            true if dice.bool() => (&stranger, push.clone()),
            true => (&stranger, mutated(&push, &mut dice)),
            false if dice.u8(..8) == 0 => (&trusted, push[..dice.usize(..push.len())].to_vec()),
            false => (&trusted, random_bytes(&mut dice)),
        };
        socket.send_to(&datagram, ("127.0.0.1", port)).expect("sent");
        if number % BATCH == BATCH - 1 || number + 1 == total {
            received(&registry, number as u64 + 1).await;
        }
        if number == total / 10 {
            early = resident_kib();
        }
    }
    let grown_kib = resident_kib() as i64 - early as i64;

    let status = ask(&registry, GetStatus).await.expect("a status");
    assert_eq!(status.push.expect("the socket is open").strangers, forged as u64);
    assert!(news.waiting().is_empty());
    assert_eq!(view.instances().iter().map(|instance| instance.port).collect::<Vec<_>>(), [80]);
    assert!(stranger.recv_from(&mut [0; 64]).is_err(), "a stranger is not answered");
    shut_down(&registry).await;
    Figures { sent: total as u64, polls: status.subscriptions[0].polls, grown_kib }
}

fn socket(ip: &str) -> UdpSocket {
    let socket = UdpSocket::bind((ip, 0)).expect("a free port");
    socket.set_nonblocking(true).expect("set");
    socket
}

async fn received(registry: &Addr<Registry>, count: u64) {
    eventually("all datagrams have come in", async || {
        let PushStatus { strangers, unreadable, pushes, .. } = ask(registry, GetStatus).await.ok()?.push?;
        (strangers + unreadable + pushes >= count).then_some(())
    })
    .await;
}

fn forged_push() -> Vec<u8> {
    let host = r#"{"ip":"6.6.6.6","port":666,"weight":1.0,"healthy":true,"enabled":true,"ephemeral":true,"clusterName":"DEFAULT","serviceName":"DEFAULT_GROUP@@orders","metadata":{}}"#;
    let list = format!(
        r#"{{"name":"DEFAULT_GROUP@@orders","groupName":"DEFAULT_GROUP","clusters":"","cacheMillis":10000,"hosts":[{host}],"lastRefTime":99999999999999,"checksum":"","allIPs":false,"reachProtectionThreshold":false,"valid":true}}"#
    );
    serde_json::json!({"type": "dom", "data": list, "lastRefTime": 99_999_999_999_999_u64}).to_string().into_bytes()
}

fn mutated(push: &[u8], dice: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = push.to_vec();
    for _ in 0..dice.usize(1..8) {
        let place = dice.usize(..bytes.len());
        bytes[place] = dice.u8(..);
    }
    bytes
}

/// A quarter claims to be gzip.
fn random_bytes(dice: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = vec![0; dice.usize(..LONGEST)];
    dice.fill(&mut bytes);
    if dice.u8(..4) == 0 && bytes.len() > 10 {
        bytes[..4].copy_from_slice(&[0x1f, 0x8b, 8, 0]);
    }
    bytes
}
