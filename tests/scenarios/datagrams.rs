//! Datagrams that no server sent.
#![allow(dead_code, unreachable_pub)]

use std::{
    io::Write,
    net::UdpSocket,
    sync::{
        atomic::{AtomicBool, Ordering},
        Arc,
    },
    thread,
    time::{Duration, Instant},
};

use actix::Addr;
use actix_nacos::{
    embedded::EmbeddedServer, Config, Discover, GetStatus, Operation, PushConfig, PushStatus, RegisterInstance,
    Registry, Subscribe, HEART_BEAT_INTERVAL,
};
use flate2::{write::GzEncoder, Compression};

use crate::support::{
    ask, eventually, listed_ports, process::resident_kib, shut_down, start, unix_millis, until, News,
};

/// The number of datagrams that fit into a socket's buffer at once.
const BATCH: usize = 32;
const LONGEST: usize = 1400;

#[derive(Debug)]
pub struct Figures {
    pub sent: u64,
    pub polls: u64,
    /// The growth of the memory after a tenth of the datagrams.
    pub grown_kib: i64,
}

/// Sends random bytes from the servers' address, and forged and mutated pushes from an untrusted address.
///
/// # Panics
/// When a datagram is answered, or a list in one is applied.
pub async fn datagrams_that_no_server_sent(random: usize, forged: usize, seed: u64) -> Figures {
    let server = crate::support::builder().start().expect("a free port");
    let seldom = Duration::from_secs(600);
    let registry = start(Config::new(server.server_address()).poll_interval(seldom, seldom));
    ask(&registry, RegisterInstance::new("orders", "127.0.0.7", 80)).await.unwrap();
    let mut news = News::listen();
    ask(&registry, Subscribe::new("orders", news.recipient())).await.unwrap();
    let view = ask(&registry, Discover::new("orders")).await.unwrap();
    news.until(|news| news.info.hosts.len() == 1).await;
    let port = push_port(&registry).await;

    let (trusted, untrusted) = (socket("127.0.0.1"), socket("127.0.0.2"));
    let mut dice = fastrand::Rng::with_seed(seed);
    let push = forged_push();
    let (total, mut early) = (random + forged, 0);
    for number in 0..total {
        // Spreads the forged datagrams evenly among the random ones.
        let is_forged = (number + 1) * forged / total > number * forged / total;
        let (socket, datagram) = match is_forged {
            true if dice.bool() => (&untrusted, push.clone()),
            true => (&untrusted, mutated(&push, &mut dice)),
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
    assert_eq!(status.push.expect("the socket is open").untrusted, forged as u64);
    assert!(news.waiting().is_empty());
    assert_eq!(view.instances().iter().map(|instance| instance.port).collect::<Vec<_>>(), [80]);
    assert!(untrusted.recv_from(&mut [0; 64]).is_err(), "an untrusted source is not answered");
    shut_down(&registry).await;
    Figures { sent: total as u64, polls: status.subscriptions[0].polls, grown_kib }
}

async fn push_port(registry: &Addr<Registry>) -> u16 {
    eventually("the socket is open", async || ask(registry, GetStatus).await.ok()?.push.map(|push| push.port)).await
}

fn socket(ip: &str) -> UdpSocket {
    let socket = UdpSocket::bind((ip, 0)).expect("a free port");
    socket.set_nonblocking(true).expect("set");
    socket
}

async fn received(registry: &Addr<Registry>, count: u64) {
    eventually("all datagrams have come in", async || {
        let PushStatus { untrusted, unreadable, over_budget, pushes, .. } = ask(registry, GetStatus).await.ok()?.push?;
        (untrusted + unreadable + over_budget + pushes >= count).then_some(())
    })
    .await;
}

fn forged_push() -> Vec<u8> {
    let host = r#"{"ip":"6.6.6.6","port":666,"weight":1.0,"healthy":true,"enabled":true,"ephemeral":true,"clusterName":"DEFAULT","serviceName":"DEFAULT_GROUP@@orders","metadata":{}}"#;
    let now = unix_millis();
    let list = format!(
        r#"{{"name":"DEFAULT_GROUP@@orders","groupName":"DEFAULT_GROUP","clusters":"","cacheMillis":10000,"hosts":[{host}],"lastRefTime":{now},"checksum":"","allIPs":false,"reachProtectionThreshold":false,"valid":true}}"#
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

/// A quarter of the datagrams begins like gzip.
fn random_bytes(dice: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = vec![0; dice.usize(..LONGEST)];
    dice.fill(&mut bytes);
    if dice.u8(..4) == 0 && bytes.len() > 10 {
        bytes[..4].copy_from_slice(&[0x1f, 0x8b, 8, 0]);
    }
    bytes
}

/// The rate of the flood, which is sent in small portions.
const FLOOD_BYTES_PER_SECOND: usize = 480_000;
const PORTIONS_PER_SECOND: usize = 100;

/// The beat interval of each of the two instances.
pub const FLOOD_BEAT_INTERVAL: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub struct Flooded {
    pub took: Duration,
    pub beats: u64,
    /// The longest time between two heartbeats of one of the instances.
    pub longest_pause: Duration,
    pub polls: u64,
}

/// Floods the push socket from the servers' address with datagrams that inflate to `inflated` bytes each, until the
/// instances have sent `beats` heartbeats. Each datagram is a list of a service that nobody watches.
///
/// # Panics
/// When the heartbeats stop, or a change of the watched service is not noticed.
pub async fn flood_from_a_trusted_address(push: PushConfig, inflated: usize, beats: u64) -> Flooded {
    let server = EmbeddedServer::start().expect("a free port");
    let seldom = Duration::from_secs(600);
    let registry = start(Config::new(server.server_address()).poll_interval(seldom, seldom).push(push));
    let interval = FLOOD_BEAT_INTERVAL.as_millis().to_string();
    let instance = |port| RegisterInstance::new("orders", "127.0.0.7", port).metadata(HEART_BEAT_INTERVAL, &interval);
    ask(&registry, instance(80)).await.unwrap();
    let mut news = News::listen();
    ask(&registry, Subscribe::new("orders", news.recipient())).await.unwrap();
    news.until(|news| listed_ports(news) == [80]).await;
    let port = push_port(&registry).await;

    let is_over = Arc::new(AtomicBool::new(false));
    let flood = {
        let (datagram, is_over) = (bomb(inflated), is_over.clone());
        thread::spawn(move || flood(port, &datagram, &is_over))
    };
    let beats_so_far = || server.counters().requests_for(Operation::Beat);
    let (began, earlier) = (Instant::now(), beats_so_far());
    let polls_earlier = polls(&registry).await;
    ask(&registry, instance(81)).await.unwrap();
    news.until(|news| listed_ports(news) == [80, 81]).await;
    let (mut seen, mut last, mut longest_pause) = (beats_so_far(), Instant::now(), Duration::ZERO);
    until("the heartbeats have come", || {
        let now = beats_so_far();
        if now > seen {
            longest_pause = longest_pause.max(last.elapsed());
            (seen, last) = (now, Instant::now());
        }
        seen >= earlier + beats
    })
    .await;
    let (took, polls) = (began.elapsed(), polls(&registry).await - polls_earlier);
    is_over.store(true, Ordering::Relaxed);
    flood.join().expect("it ends");
    shut_down(&registry).await;
    Flooded { took, beats: seen - earlier, longest_pause, polls }
}

async fn polls(registry: &Addr<Registry>) -> u64 {
    ask(registry, GetStatus).await.expect("a status").subscriptions[0].polls
}

fn flood(port: u16, datagram: &[u8], is_over: &AtomicBool) {
    let (socket, began, mut sent) = (socket("127.0.0.1"), Instant::now(), 0);
    while !is_over.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_secs(1) / PORTIONS_PER_SECOND as u32);
        let due = (began.elapsed().as_secs_f64() * FLOOD_BYTES_PER_SECOND as f64) as usize;
        while sent < due {
            // A datagram for which the socket's buffer has no room is lost, as on any network.
            let _ = socket.send_to(datagram, ("127.0.0.1", port));
            sent += datagram.len();
        }
    }
}

/// A gzipped push that inflates to `inflated` bytes.
fn bomb(inflated: usize) -> Vec<u8> {
    let list = r#"{"name":"DEFAULT_GROUP@@elsewhere","hosts":[],"lastRefTime":1}"#;
    let push = serde_json::json!({"type": "dom", "data": list, "lastRefTime": 1, "padding": ""}).to_string();
    let padded = push.replace(r#""padding":""#, &format!(r#""padding":"{}"#, " ".repeat(inflated - push.len())));
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(padded.as_bytes()).expect("in memory");
    encoder.finish().expect("in memory")
}
