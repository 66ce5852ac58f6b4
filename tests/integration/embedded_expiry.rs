//! The embedded server marks instances that do not beat as unhealthy, and then removes them.

use std::time::Duration;

use actix_nacos::embedded::{Dialect, EmbeddedServer};

use crate::raw_http::{wait_until, Connection, INSTANCE};

const SECOND: Duration = Duration::from_secs(1);

fn standing_still(dialect: Dialect) -> (EmbeddedServer, Connection) {
    let server = EmbeddedServer::builder()
        .list_delay(Duration::ZERO)
        .dialect(dialect)
        .time_stands_still()
        .start()
        .expect("a server");
    let connection = Connection::to(server.address());
    (server, connection)
}

#[test]
fn without_beats_an_instance_turns_unhealthy_and_is_then_removed() {
    for dialect in [Dialect::V1_4, Dialect::V2_5, Dialect::V3_0] {
        let (server, mut nacos) = standing_still(dialect);
        nacos.send("POST", &format!("{INSTANCE}?serviceName=orders&ip=127.0.0.1&port=80")).is(200, "ok");
        server.advance(14 * SECOND);
        assert!(server.instances("orders")[0].healthy, "{dialect}");
        server.advance(6 * SECOND);
        assert!(!server.instances("orders")[0].healthy, "{dialect}");
        server.advance(15 * SECOND);
        assert!(server.instances("orders").is_empty(), "{dialect}");
        let beat = nacos.send("PUT", &format!("{INSTANCE}/beat?serviceName=orders&ip=127.0.0.1&port=80"));
        assert_eq!(beat.json()["code"], 20404, "{dialect}");
    }
}

#[test]
fn a_beat_keeps_an_instance_and_heals_it() {
    let (server, mut nacos) = standing_still(Dialect::V2_5);
    nacos.send("POST", &format!("{INSTANCE}?serviceName=orders&ip=127.0.0.1&port=80")).is(200, "ok");
    let mut beat = || nacos.send("PUT", &format!("{INSTANCE}/beat?serviceName=orders&ip=127.0.0.1&port=80"));
    for _ in 0..20 {
        server.advance(5 * SECOND);
        beat();
        assert!(server.instances("orders")[0].healthy);
    }
    server.advance(20 * SECOND);
    assert!(!server.instances("orders")[0].healthy);
    beat();
    assert!(server.instances("orders")[0].healthy);
    assert_eq!(server.instances("orders")[0].since_last_beat, Duration::ZERO);
}

#[test]
fn an_instance_may_have_timeouts_of_its_own() {
    let (server, mut nacos) = standing_still(Dialect::V2_5);
    let metadata =
        "preserved.heart.beat.interval=1000,preserved.heart.beat.timeout=3000,preserved.ip.delete.timeout=9000";
    let metadata = metadata.replace('=', "%3D");
    nacos
        .send("POST", &format!("{INSTANCE}?serviceName=orders&ip=127.0.0.1&port=80&metadata={metadata}"))
        .is(200, "ok");
    server.advance(5 * SECOND);
    assert!(!server.instances("orders")[0].healthy);
    server.advance(5 * SECOND);
    assert!(server.instances("orders").is_empty());
}

#[test]
fn persistent_instances_stay() {
    let (server, mut nacos) = standing_still(Dialect::V2_5);
    nacos.send("POST", &format!("{INSTANCE}?serviceName=orders&ip=127.0.0.1&port=80&ephemeral=false")).is(200, "ok");
    server.advance(3600 * SECOND);
    assert!(server.instances("orders")[0].healthy);
}

#[test]
fn a_service_without_instances_is_cleaned_away_after_a_minute() {
    let (server, mut nacos) = standing_still(Dialect::V2_5);
    nacos.send("POST", &format!("{INSTANCE}?serviceName=orders&ip=127.0.0.1&port=80")).is(200, "ok");
    nacos.send("DELETE", &format!("{INSTANCE}?serviceName=orders&ip=127.0.0.1&port=80")).is(200, "ok");
    server.advance(59 * SECOND);
    assert_eq!(server.services().len(), 1);
    server.advance(SECOND);
    assert!(server.services().is_empty());
}

#[test]
fn registering_again_resets_the_health_checks() {
    let (server, mut nacos) = standing_still(Dialect::V2_5);
    let one = format!("{INSTANCE}?serviceName=orders&ip=127.0.0.1&port=80");
    nacos.send("POST", &one).is(200, "ok");
    server.advance(14 * SECOND);
    nacos.send("DELETE", &one).is(200, "ok");
    nacos.send("POST", &one).is(200, "ok");
    server.advance(14 * SECOND);
    assert!(server.instances("orders")[0].healthy);
}

#[test]
fn timeouts_of_milliseconds_pass_in_real_time() {
    let server = EmbeddedServer::builder()
        .list_delay(Duration::ZERO)
        .heartbeat_timeout(Duration::from_millis(60))
        .delete_timeout(Duration::from_millis(120))
        .start()
        .expect("a server");
    let mut nacos = Connection::to(server.address());
    nacos.send("POST", &format!("{INSTANCE}?serviceName=orders&ip=127.0.0.1&port=80")).is(200, "ok");
    let beat = nacos.send("PUT", &format!("{INSTANCE}/beat?serviceName=orders&ip=127.0.0.1&port=80")).json();
    assert_eq!(beat["clientBeatInterval"], 20, "clients must know that they have to hurry");
    wait_until("the instance is unhealthy", || server.instances("orders").iter().any(|i| !i.healthy));
    wait_until("the instance is gone", || server.instances("orders").is_empty());
}
