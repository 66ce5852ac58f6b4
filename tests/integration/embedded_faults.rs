//! Each fault that the embedded server can inject.

use std::{
    io,
    net::{TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use actix_nacos::{
    embedded::{Dialect, EmbeddedServer, Spoilt},
    Operation,
};
use serde_json::Value;

use crate::raw_http::{wait_until, Connection, INSTANCE};

const LIST: &str = "/nacos/v1/ns/instance/list?serviceName=orders";
const REGISTER: &str = "/nacos/v1/ns/instance?serviceName=orders&ip=127.0.0.1&port=80";

fn started() -> (EmbeddedServer, Connection) {
    let server = EmbeddedServer::builder().list_delay(Duration::ZERO).start().expect("a server");
    let connection = Connection::to(server.address());
    (server, connection)
}

#[test]
fn connections_are_refused_and_accepted_again_with_all_that_was_registered() {
    let (server, mut nacos) = started();
    nacos.send("POST", REGISTER).is(200, "ok");
    let faults = server.faults();
    faults.refuse_connections();
    assert_eq!(
        TcpStream::connect(server.address()).map(drop).map_err(|e| e.kind()),
        Err(io::ErrorKind::ConnectionRefused)
    );
    nacos.try_send("GET", LIST, &[], None).expect_err("open connections are closed");
    faults.accept_connections();
    let list = Connection::to(server.address()).get(LIST).json();
    assert_eq!(list["hosts"].as_array().map(Vec::len), Some(1));
}

#[test]
fn requests_hang_until_the_fault_is_taken_back() {
    let (server, mut nacos) = started();
    let faults = server.faults();
    faults.hang(true);
    let waiting = std::thread::spawn(move || nacos.send("POST", REGISTER));
    wait_until("the request has come in", || server.counters().requests == 1);
    assert!(server.services().is_empty());
    faults.hang(false);
    waiting.join().expect("an answer").is(200, "ok");
}

#[test]
fn a_delayed_request_has_changed_nothing_yet_a_delayed_answer_has() {
    let (server, mut nacos) = started();
    let faults = server.faults();
    let delay = Duration::from_millis(300);
    faults.delay_requests(delay);
    let began = Instant::now();
    let waiting = std::thread::spawn(move || {
        nacos.send("POST", REGISTER).is(200, "ok");
        nacos
    });
    wait_until("the request has come in", || server.counters().requests == 1);
    assert!(server.services().is_empty());
    let mut nacos = waiting.join().expect("an answer");
    assert!(began.elapsed() >= delay);
    faults.clear();
    faults.delay_answers(delay);
    let waiting = std::thread::spawn(move || nacos.send("DELETE", REGISTER).is(200, "ok"));
    wait_until("the request has been served", || server.instances("orders").is_empty());
    assert!(!waiting.is_finished());
    waiting.join().expect("an answer");
}

#[test]
fn a_share_of_requests_fails_without_being_served() {
    let (server, mut nacos) = started();
    let faults = server.faults();
    faults.fail_share(1.0, 503);
    assert_eq!(nacos.send("POST", REGISTER).status, 503);
    assert!(server.services().is_empty());
    faults.seed(7);
    faults.fail_share(0.5, 500);
    let failed = (0..200).filter(|_| nacos.get(LIST).status == 500).count();
    assert!((70..130).contains(&failed), "{failed} of 200");
    faults.clear();
    assert_eq!(nacos.get(LIST).status, 200);
}

#[test]
fn faults_may_be_limited_to_some_operations() {
    let (server, mut nacos) = started();
    let faults = server.faults();
    faults.only_for(&[Operation::Beat]);
    faults.fail_share(1.0, 502);
    nacos.send("POST", REGISTER).is(200, "ok");
    assert_eq!(nacos.send("PUT", "/nacos/v1/ns/instance/beat?serviceName=orders&ip=127.0.0.1&port=80").status, 502);
}

#[test]
fn answers_are_spoilt_after_the_request_was_served() {
    let (server, mut nacos) = started();
    let faults = server.faults();
    faults.spoil_share(1.0, Spoilt::Html);
    let page = nacos.send("POST", REGISTER);
    assert_eq!((page.status, page.body.starts_with("<!DOCTYPE html>")), (200, true));
    assert_eq!(server.instances("orders").len(), 1);
    faults.spoil_share(1.0, Spoilt::WrongType);
    assert!(nacos.get(LIST).json()["hosts"].is_object());
    faults.spoil_share(1.0, Spoilt::TooLarge);
    assert!(nacos.get(LIST).body.len() > 32 * 1024 * 1024);
    faults.spoil_share(1.0, Spoilt::CutOff);
    let error = nacos.try_send("GET", LIST, &[], None).expect_err("half of an answer");
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn one_instance_or_all_can_be_forgotten() {
    let (server, mut nacos) = started();
    nacos.send("POST", REGISTER).is(200, "ok");
    nacos.send("POST", &format!("{INSTANCE}?serviceName=orders&ip=127.0.0.2&port=80")).is(200, "ok");
    let faults = server.faults();
    assert!(faults.forget_instance("orders", "127.0.0.1", 80));
    assert!(!faults.forget_instance("orders", "127.0.0.1", 80));
    assert_eq!(server.instances("orders").len(), 1);
    faults.forget_everything();
    assert!(server.services().is_empty());
    assert_eq!(nacos.get(LIST).status, 200, "the connection lives");
}

#[test]
fn tokens_expire_when_the_test_says_so() {
    let server =
        EmbeddedServer::builder().list_delay(Duration::ZERO).user("nacos", "secret").start().expect("a server");
    let mut nacos = Connection::to(server.address());
    let login = nacos.try_send("POST", "/nacos/v1/auth/login", &[], Some("username=nacos&password=secret"));
    let token = login.expect("an answer").json()["accessToken"].as_str().expect("a token").to_owned();
    let list = format!("{LIST}&accessToken={token}");
    assert_eq!(nacos.get(&list).status, 200);
    server.faults().expire_tokens();
    assert_eq!(nacos.get(&list).json()["message"], "token expired!");
}

#[test]
fn the_clock_may_be_wrong() {
    let (server, mut nacos) = started();
    let mut told = || nacos.get(LIST).json()["lastRefTime"].as_i64().expect("a time");
    let right = told();
    server.faults().skew_clock(-3_600_000);
    assert!((right - told() - 3_600_000).abs() < 10_000);
    server.faults().clear();
    assert!(told() >= right);
}

#[test]
fn the_servers_clock_may_be_wrong_by_any_time() {
    for dialect in Dialect::all() {
        let server = EmbeddedServer::builder().list_delay(Duration::ZERO).dialect(dialect).start().expect("a server");
        let mut nacos = Connection::to(server.address());
        for skew in [i64::MIN, i64::MIN + 1, -1, 1, i64::MAX] {
            server.faults().skew_clock(skew);
            for target in [LIST, "/nacos/v3/client/ns/instance/list?serviceName=orders", "/nacos/nothing"] {
                assert!(nacos.get(target).status < 500, "{dialect} {skew} {target}");
            }
        }
    }
}

/// Returns how many bytes the server sends without a request: 0 if it closes the connection, `None` if nothing comes.
fn hears(connection: &mut TcpStream, limit: Duration) -> Option<usize> {
    connection.set_read_timeout(Some(limit)).expect("a timeout");
    io::Read::read(connection, &mut [0; 512]).ok()
}

fn ends_within(connection: &mut TcpStream, limit: Duration) -> bool {
    hears(connection, limit) == Some(0)
}

const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn idle_connections_end_after_the_idle_timeout() {
    let timeout = Duration::from_millis(200);
    let server = EmbeddedServer::builder().list_delay(Duration::ZERO).idle_timeout(timeout).start().expect("a server");
    let began = Instant::now();
    assert!(ends_within(&mut TcpStream::connect(server.address()).expect("a connection"), PATIENCE), "never asked");
    assert!(began.elapsed() >= timeout);
    let mut nacos = Connection::to(server.address());
    nacos.get(LIST);
    let answered = Instant::now();
    assert!(ends_within(nacos.stream(), PATIENCE), "asked once");
    assert!(answered.elapsed() >= timeout / 2, "{:?}", answered.elapsed());
}

/// The default of actix-web for the first request would be 5 s.
#[test]
fn by_default_a_connection_may_be_idle_for_longer_than_five_seconds() {
    let (server, mut nacos) = started();
    nacos.get(LIST);
    let mut unused = TcpStream::connect(server.address()).expect("a connection");
    assert_eq!(hears(&mut unused, Duration::from_secs(6)), None);
    assert_eq!(nacos.get(LIST).status, 200);
}

#[test]
fn a_connection_is_not_idle_while_it_waits_for_an_answer() {
    let server = EmbeddedServer::builder()
        .list_delay(Duration::ZERO)
        .idle_timeout(Duration::from_millis(50))
        .start()
        .expect("a server");
    server.faults().delay_answers(Duration::from_millis(500));
    assert_eq!(Connection::to(server.address()).get(LIST).status, 200);
}

#[test]
fn a_new_idle_timeout_applies_to_open_connections_until_it_is_taken_back() {
    let (server, mut nacos) = started();
    let faults = server.faults();
    nacos.get(LIST);
    let mut unused = TcpStream::connect(server.address()).expect("a connection");
    wait_until("both are accepted", || server.counters().connections == 2);
    faults.idle_timeout(Duration::from_millis(50));
    assert!(ends_within(nacos.stream(), PATIENCE) && ends_within(&mut unused, PATIENCE));
    faults.clear();
    let mut later = TcpStream::connect(server.address()).expect("a connection");
    assert_eq!(hears(&mut later, Duration::from_millis(300)), None);
}

#[test]
fn idle_connections_may_end_at_random_ages() {
    let (server, _) = started();
    let (shortest, longest) = (Duration::from_millis(100), Duration::from_millis(1500));
    server.faults().random_idle_timeout(longest..=shortest);
    let ages: Vec<Duration> = (0..8)
        .map(|_| {
            let address = server.address();
            std::thread::spawn(move || {
                let mut connection = TcpStream::connect(address).expect("a connection");
                let began = Instant::now();
                assert!(ends_within(&mut connection, PATIENCE));
                began.elapsed()
            })
        })
        .collect::<Vec<_>>()
        .into_iter()
        .map(|thread| thread.join().expect("an age"))
        .collect();
    let (youngest, oldest) = (ages.iter().min().expect("ages"), ages.iter().max().expect("ages"));
    assert!(*youngest >= shortest / 2 && *oldest > 2 * *youngest, "{ages:?}");
}

#[test]
fn no_idle_timeout_is_too_short_or_too_long() {
    let (server, _) = started();
    let faults = server.faults();
    for timeout in [Duration::ZERO, Duration::MAX, Duration::ZERO] {
        faults.idle_timeout(timeout);
        faults.random_idle_timeout(timeout..=Duration::MAX);
        faults.random_idle_timeout(timeout..=timeout);
        let mut connection = TcpStream::connect(server.address()).expect("a connection");
        assert_eq!(ends_within(&mut connection, Duration::from_millis(500)), timeout.is_zero(), "{timeout:?}");
    }
    faults.clear();
    assert_eq!(Connection::to(server.address()).get(LIST).status, 200);
}

/// Registers ten instances, 200 ms apart. Returns the number of hosts in each push, in the order of arrival.
fn pushed_under(order: impl FnOnce(&EmbeddedServer)) -> Vec<usize> {
    let server = EmbeddedServer::builder()
        .list_delay(Duration::ZERO)
        .push_delay(Duration::from_millis(100))
        .time_stands_still()
        .start()
        .expect("a server");
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.set_nonblocking(true).expect("a socket that does not block");
    let port = socket.local_addr().expect("an address").port();
    let mut nacos = Connection::to(server.address());
    let list = format!("{LIST}&clientIP=127.0.0.1&udpPort={port}");
    nacos.try_send("GET", &list, &[("User-Agent", "Nacos-Java-Client:v1.4.6")], None).expect("a list");
    order(&server);
    for i in 1..=10 {
        nacos.send("POST", &format!("{INSTANCE}?serviceName=orders&port=80&ip=127.0.0.{i}")).is(200, "ok");
        server.advance(Duration::from_millis(200));
    }
    server.advance(Duration::from_secs(2));
    let mut buffer = vec![0; 64 * 1024];
    std::iter::from_fn(|| socket.recv(&mut buffer).ok().map(|length| hosts(&buffer[..length]))).collect()
}

fn hosts(datagram: &[u8]) -> usize {
    let mut text = Vec::new();
    if datagram.starts_with(&[0x1f, 0x8b]) {
        io::Read::read_to_end(&mut flate2::read::GzDecoder::new(datagram), &mut text).expect("a packed text");
    } else {
        text = datagram.to_vec();
    }
    let outer: Value = serde_json::from_slice(&text).expect("a push in JSON");
    let list: Value = serde_json::from_str(outer["data"].as_str().expect("a list")).expect("a list");
    list["hosts"].as_array().expect("hosts").len()
}

#[test]
fn pushes_are_dropped_doubled_delayed_and_reordered() {
    let in_order: Vec<usize> = (1..=10).collect();
    assert_eq!(pushed_under(|_| {}), in_order);
    assert_eq!(pushed_under(|server| server.faults().drop_pushes(1.0)), [0; 0]);
    let some = pushed_under(|server| server.faults().drop_pushes(0.5));
    assert!((1..10).contains(&some.len()), "{some:?}");
    let doubled: Vec<usize> = in_order.iter().flat_map(|n| [*n, *n]).collect();
    assert_eq!(pushed_under(|server| server.faults().double_pushes(1.0)), doubled);
    let delayed = pushed_under(|server| server.faults().delay_pushes(0.5, Duration::from_millis(500)));
    assert_ne!(delayed, in_order);
    let mut reordered = pushed_under(|server| server.faults().reorder_pushes(0.5));
    assert_ne!(reordered, in_order);
    reordered.sort_unstable();
    assert_eq!(reordered, in_order, "none is lost");
}
