//! The embedded server starts anywhere, restarts on its port, and is gone when dropped.

use std::{
    io,
    net::TcpStream,
    time::{Duration, Instant},
};

use actix_nacos::embedded::{Dialect, EmbeddedServer};

use crate::raw_http::{wait_until, Connection, INSTANCE};

fn register(server: &EmbeddedServer) -> Connection {
    let mut nacos = Connection::to(server.address());
    nacos.send("POST", &format!("{INSTANCE}?serviceName=orders&ip=127.0.0.1&port=80")).is(200, "ok");
    nacos
}

#[test]
fn it_starts_in_a_plain_thread() {
    register(&EmbeddedServer::start().expect("a server"));
}

#[test]
fn it_starts_under_tokio() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async { register(&EmbeddedServer::start().expect("a server")) });
}

#[actix_web::test]
async fn it_starts_in_an_actix_system_and_leaves_it_alone() {
    let server = EmbeddedServer::start().expect("a server");
    register(&server);
    server.stop();
    let alive = actix_web::rt::spawn(async { "alive" });
    assert_eq!(alive.await.expect("the caller's System goes on"), "alive");
}

#[test]
fn a_restart_breaks_connections_off_and_forgets_everything() {
    let server = EmbeddedServer::start().expect("a server");
    let address = server.address();
    let mut nacos = register(&server);
    server.restart_empty().expect("a restart");
    assert_eq!(server.address(), address);
    let broken = nacos.try_send("GET", &format!("{INSTANCE}/list?serviceName=orders"), &[], None);
    broken.expect_err("the connection is gone");
    assert!(server.services().is_empty());
    register(&server);
    assert_eq!(server.instances("orders").len(), 1);
}

#[test]
fn a_restart_refuses_connections_for_its_downtime() {
    let server = EmbeddedServer::builder().restart_downtime(Duration::from_secs(1)).start().expect("a server");
    let address = server.address();
    let began = Instant::now();
    std::thread::scope(|scope| {
        let restart = scope.spawn(|| server.restart_empty().expect("a restart"));
        wait_until("connections are refused", || {
            TcpStream::connect(address).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
        });
        wait_until("connections are accepted", || TcpStream::connect(address).is_ok());
        assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
        restart.join().expect("it listens");
    });
    register(&server);
}

#[test]
fn a_restart_takes_300_ms_by_default() {
    let server = EmbeddedServer::start().expect("a server");
    let began = Instant::now();
    server.restart_empty().expect("a restart");
    assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
}

#[test]
fn a_restart_may_come_back_as_another_nacos() {
    let server = EmbeddedServer::start().expect("a server");
    register(&server);
    server.restart_as(Dialect::V3_2).expect("an upgrade");
    let mut nacos = Connection::to(server.address());
    assert_eq!(nacos.get(&format!("{INSTANCE}/list?serviceName=orders")).status, 404, "v1 is gone");
    let list = nacos.get("/nacos/v3/client/ns/instance/list?serviceName=orders").json();
    assert_eq!(list["data"].as_array().map(Vec::len), Some(0));
    server.restart_as(Dialect::V2_5).expect("a downgrade");
    register(&server);
}

#[test]
fn a_hundred_restarts_find_their_port() {
    let server = EmbeddedServer::builder().restart_downtime(Duration::ZERO).start().expect("a server");
    for _ in 0..100 {
        register(&server);
        server.restart_empty().expect("a restart");
    }
}

#[test]
fn another_server_starts_on_the_port_of_one_that_has_stopped() {
    let server = EmbeddedServer::start().expect("a server");
    let port = server.address().port();
    let _open = register(&server);
    server.stop();
    let second = EmbeddedServer::builder().port(port).start().expect("a server on the same port");
    assert!(second.services().is_empty());
    register(&second);
}

#[test]
fn nothing_listens_after_the_drop() {
    let server = EmbeddedServer::start().expect("a server");
    let address = server.address();
    let mut nacos = register(&server);
    let faults = server.faults();
    drop(server);
    assert_eq!(TcpStream::connect(address).map(drop).map_err(|e| e.kind()), Err(io::ErrorKind::ConnectionRefused));
    nacos.try_send("GET", &format!("{INSTANCE}/list?serviceName=orders"), &[], None).expect_err("closed");
    faults.clear();
}

#[test]
fn durations_without_end_mean_never() {
    let never = Duration::MAX;
    let builder = EmbeddedServer::builder().user("me", "secret").token_ttl(never).sweep_interval(never);
    let builder = builder.push_delay(never).push_retry(never).subscriber_timeout(never).idle_timeout(never);
    let server = builder.heartbeat_timeout(never).delete_timeout(never).start().expect("a server");
    server.faults().delay_pushes(1.0, never);
    let mut nacos = Connection::to(server.address());
    let login = nacos.send("POST", "/nacos/v1/auth/login?username=me&password=secret");
    let token = login.json()["accessToken"].as_str().expect("a token").to_owned();
    let about = format!("serviceName=orders&accessToken={token}");
    let subscribe = format!("{INSTANCE}/list?{about}&clientIP=127.0.0.1&udpPort=9");
    let agent = [("User-Agent", "Nacos-Java-Client:v1.4.6")];
    nacos.try_send("GET", &subscribe, &agent, None).expect("an answer");
    assert_eq!(server.subscribers("orders"), 1);
    let register = format!("{INSTANCE}?{about}&ip=127.0.0.1&port=80");
    nacos.send("POST", &register).is(200, "ok");
    server.advance(Duration::from_secs(60));
    assert_eq!(server.instances("orders").len(), 1);
    server.advance(never);
    nacos.send("POST", &register);
}

#[test]
fn a_taken_port_is_an_error() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
    let port = taken.local_addr().expect("an address").port();
    let error = EmbeddedServer::builder().port(port).start().map(|server| server.address());
    assert_eq!(error.map_err(|error| error.kind()), Err(io::ErrorKind::AddrInUse));
}
