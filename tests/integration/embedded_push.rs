//! The embedded server pushes changes over UDP, as Nacos does.

use std::{io::Read, net::UdpSocket, time::Duration};

use actix_nacos::{
    embedded::{Dialect, EmbeddedServer},
    Operation,
};
use serde_json::Value;

use crate::raw_http::{wait_until, Connection, INSTANCE};

const JAVA: &str = "Nacos-Java-Client:v1.4.6 actix-nacos/0.1.0";
const SECOND: Duration = Duration::from_secs(1);

struct World {
    server: EmbeddedServer,
    nacos: Connection,
    socket: UdpSocket,
}

struct Push {
    gzip: bool,
    last_ref_time: i64,
    list: Value,
}

impl Push {
    fn ips(&self) -> Vec<&str> {
        let hosts = self.list["hosts"].as_array().expect("hosts");
        let mut ips: Vec<&str> = hosts.iter().filter_map(|host| host["ip"].as_str()).collect();
        ips.sort_unstable();
        ips
    }
}

impl World {
    fn of(dialect: Dialect) -> Self {
        let server = EmbeddedServer::builder()
            .list_delay(Duration::ZERO)
            .dialect(dialect)
            .time_stands_still()
            .start()
            .expect("a server");
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.set_nonblocking(true).expect("a socket that does not block");
        World { nacos: Connection::to(server.address()), server, socket }
    }

    /// A subscriber that has received and acknowledged its first push, which each new subscriber gets.
    fn subscribed() -> Self {
        let mut world = Self::of(Dialect::V2_5);
        world.subscribe(JAVA, "");
        world.server.advance(SECOND);
        let first = world.received();
        assert_eq!(first.len(), 1);
        world.acknowledge(&first[0]);
        world
    }

    fn subscribe(&mut self, agent: &str, clusters: &str) {
        let port = self.socket.local_addr().expect("an address").port();
        let target =
            format!("{INSTANCE}/list?serviceName=orders&clusters={clusters}&clientIP=127.0.0.1&udpPort={port}");
        let list = self.nacos.try_send("GET", &target, &[("User-Agent", agent)], None);
        assert_eq!(list.expect("a list").status, 200);
    }

    fn register(&mut self, more: &str) {
        self.nacos.send("POST", &format!("{INSTANCE}?serviceName=orders&port=80&ip=127.0.0.{more}")).is(200, "ok");
    }

    /// The pushes so far. Over loopback a datagram can be received as soon as it is sent.
    fn received(&self) -> Vec<Push> {
        let mut buffer = vec![0; 64 * 1024];
        std::iter::from_fn(|| self.socket.recv(&mut buffer).ok().map(|length| read(&buffer[..length]))).collect()
    }

    fn acknowledge(&self, push: &Push) {
        let before = self.server.counters().pushes_acknowledged;
        let ack = format!(r#"{{"type":"push-ack","lastRefTime":"{}","data":""}}"#, push.last_ref_time);
        self.socket.send_to(ack.as_bytes(), self.push_address()).expect("an acknowledgement sent");
        wait_until("the acknowledgement has arrived", || self.server.counters().pushes_acknowledged == before + 1);
    }

    fn push_address(&self) -> std::net::SocketAddr {
        self.server.push_address()
    }
}

fn read(datagram: &[u8]) -> Push {
    let gzip = datagram.starts_with(&[0x1f, 0x8b]);
    let mut text = Vec::new();
    if gzip {
        flate2::read::GzDecoder::new(datagram).read_to_end(&mut text).expect("a packed text");
    } else {
        text = datagram.to_vec();
    }
    let outer: Value = serde_json::from_slice(&text).expect("a push in JSON");
    assert_eq!(outer["type"], "dom");
    let list = serde_json::from_str(outer["data"].as_str().expect("a list as text")).expect("a list");
    Push { gzip, last_ref_time: outer["lastRefTime"].as_i64().expect("a number"), list }
}

#[test]
fn changes_are_gathered_for_half_a_second_into_one_push() {
    let mut world = World::subscribed();
    world.register("1");
    world.register("2");
    world.server.advance(Duration::from_millis(499));
    assert!(world.received().is_empty());
    world.server.advance(Duration::from_millis(1));
    let pushes = world.received();
    assert_eq!(pushes.len(), 1);
    assert_eq!(pushes[0].ips(), ["127.0.0.1", "127.0.0.2"]);
    assert_eq!(pushes[0].list["name"], "DEFAULT_GROUP@@orders");
}

#[test]
fn a_push_that_nobody_acknowledges_comes_once_more_with_its_old_content() {
    let mut world = World::subscribed();
    world.register("1");
    world.server.advance(SECOND);
    world.register("2");
    world.server.advance(SECOND);
    let pushes = world.received();
    assert_eq!(pushes.len(), 2);
    world.acknowledge(&pushes[1]);
    world.server.advance(9 * SECOND);
    let again = world.received();
    assert_eq!((again.len(), world.server.counters().pushes_sent_again), (1, 1));
    assert_eq!((again[0].ips(), again[0].last_ref_time), (vec!["127.0.0.1"], pushes[0].last_ref_time));
    world.server.advance(20 * SECOND);
    assert!(world.received().iter().all(|push| push.last_ref_time != pushes[0].last_ref_time), "not a third time");
}

#[test]
fn long_lists_are_packed() {
    let mut world = World::subscribed();
    world.register("1");
    world.server.advance(SECOND);
    for i in 2..20 {
        world.register(&i.to_string());
    }
    world.server.advance(SECOND);
    let packed: Vec<bool> = world.received().iter().map(|push| push.gzip).collect();
    assert_eq!(packed, [false, true]);
}

#[test]
fn unhealthy_and_removed_instances_are_pushed() {
    let mut world = World::subscribed();
    world.register("1");
    let mut told = Vec::new();
    for _ in 0..35 {
        world.server.advance(SECOND);
        world.subscribe(JAVA, "");
        for push in world.received() {
            told.push(
                push.list["hosts"].as_array().and_then(|hosts| hosts.first()).map(|host| host["healthy"] == true),
            );
            world.acknowledge(&push);
        }
    }
    assert_eq!(told, [Some(true), Some(false), None]);
}

#[test]
fn unknown_clients_and_clients_that_stopped_polling_get_no_push() {
    let mut world = World::of(Dialect::V2_5);
    world.subscribe("some-client/1.0", "");
    assert_eq!(world.server.subscribers("orders"), 0);
    world.subscribe(JAVA, "");
    // The subscription ends after 30 s; the server notices that within 5 s.
    world.server.advance(36 * SECOND);
    world.received();
    world.register("1");
    world.server.advance(SECOND);
    assert!(world.received().is_empty());
    assert_eq!(world.server.subscribers("orders"), 0);
}

#[test]
fn a_subscriber_of_a_cluster_gets_that_cluster() {
    let mut world = World::of(Dialect::V2_5);
    world.subscribe("Nacos-Go-Client:v1.0.1", "east");
    world.register("1");
    world.register("2&clusterName=east");
    world.server.advance(SECOND);
    let pushes = world.received();
    assert_eq!((pushes.len(), pushes[0].ips()), (1, vec!["127.0.0.2"]));
    assert_eq!(pushes[0].list["clusters"], "east");
}

#[test]
fn nothing_is_pushed_while_connections_are_refused_also_not_what_was_queued() {
    let mut world = World::subscribed();
    world.register("1");
    world.server.advance(SECOND);
    assert_eq!(world.received().len(), 1, "and it waits for an acknowledgement, to be sent again");
    world.register("2");
    let faults = world.server.faults();
    faults.refuse_connections();
    faults.forget_instance("orders", "127.0.0.1", 80);
    world.server.advance(15 * SECOND);
    assert!(world.received().is_empty());
    faults.accept_connections();
    world.nacos = Connection::to(world.server.address());
    world.register("3");
    world.server.advance(Duration::from_millis(499));
    assert!(world.received().is_empty(), "what was queued before is forgotten");
    world.server.advance(Duration::from_millis(1));
    let pushes = world.received();
    assert_eq!((pushes.len(), pushes[0].ips()), (1, vec!["127.0.0.2", "127.0.0.3"]));
}

#[test]
fn a_server_that_hangs_pushes_when_it_goes_on() {
    let mut world = World::subscribed();
    world.register("1");
    let faults = world.server.faults();
    faults.hang(true);
    world.server.advance(2 * SECOND);
    assert!(world.received().is_empty());
    faults.hang(false);
    let pushes = world.received();
    assert_eq!((pushes.len(), pushes[0].ips()), (1, vec!["127.0.0.1"]));
    world.acknowledge(&pushes[0]);

    faults.only_for(&[Operation::Login]);
    faults.hang(true);
    world.register("2");
    world.server.advance(SECOND);
    assert_eq!(world.received().len(), 1, "one operation hangs, not the server");
}

#[test]
fn nacos_1_4_gathers_for_a_second_and_forgets_after_ten() {
    let mut world = World::of(Dialect::V1_4);
    world.register("1");
    world.subscribe(JAVA, "");
    world.server.advance(2 * SECOND);
    assert!(world.received().is_empty(), "no push for a start");
    world.register("2");
    world.server.advance(Duration::from_millis(999));
    assert!(world.received().is_empty());
    world.server.advance(Duration::from_millis(1));
    let pushes = world.received();
    assert_eq!(pushes.len(), 1);
    assert_eq!(pushes[0].list["dom"], "DEFAULT_GROUP@@orders");
    world.acknowledge(&pushes[0]);
    world.server.advance(8 * SECOND);
    world.register("3");
    world.server.advance(SECOND);
    assert!(world.received().is_empty());
}

#[test]
fn nacos_3_2_does_not_push() {
    let mut world = World::of(Dialect::V3_2);
    let port = world.socket.local_addr().expect("an address").port();
    let list = format!("/nacos/v3/client/ns/instance/list?serviceName=orders&clientIP=127.0.0.1&udpPort={port}");
    let list = world.nacos.try_send("GET", &list, &[("User-Agent", JAVA)], None);
    assert_eq!(list.expect("a list").status, 200);
    let register = Some("serviceName=orders&ip=127.0.0.1&port=80");
    world.nacos.try_send("POST", "/nacos/v3/client/ns/instance", &[], register).expect("an answer");
    world.server.advance(2 * SECOND);
    assert_eq!(world.server.instances("orders").len(), 1);
    assert_eq!((world.server.subscribers("orders"), world.server.counters().pushes_sent), (0, 0));
}

#[test]
fn real_time_passes_too() {
    let server = EmbeddedServer::builder()
        .list_delay(Duration::ZERO)
        .push_delay(Duration::from_millis(20))
        .start()
        .expect("a server");
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.set_read_timeout(Some(10 * SECOND)).expect("a timeout");
    let port = socket.local_addr().expect("an address").port();
    let mut nacos = Connection::to(server.address());
    let list = format!("{INSTANCE}/list?serviceName=orders&clientIP=127.0.0.1&udpPort={port}");
    nacos.try_send("GET", &list, &[("User-Agent", JAVA)], None).expect("a list");
    nacos.send("POST", &format!("{INSTANCE}?serviceName=orders&port=80&ip=127.0.0.1")).is(200, "ok");
    let mut buffer = vec![0; 64 * 1024];
    let length = socket.recv(&mut buffer).expect("a push");
    assert_eq!(read(&buffer[..length]).ips(), ["127.0.0.1"]);
}
