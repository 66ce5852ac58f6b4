//! The servers have what the application registered, whichever requests fail.

use std::{
    sync::{
        atomic::{AtomicBool, Ordering},
        Arc, Mutex,
    },
    time::Instant,
};

use actix::prelude::*;
use actix_nacos::{
    embedded::{Dialect, EmbeddedServer, InstanceSnapshot},
    DeregisterInstance, Error, GetInstance, GetStatus, InstanceState, InstanceStateChanged, ListInstances,
    ModifyInstance, Operation, Protocol, RegisterInstance, Registry, Shutdown, UnwatchInstances, WatchInstances,
    HEART_BEAT_INTERVAL, HEART_BEAT_TIMEOUT, IP_DELETE_TIMEOUT,
};
use tokio::sync::mpsc;

use crate::support::{
    self, ask, config, config_at, eventually,
    fake::{Answer, Fake, Seen},
    ms, only_instance, registry, server, shut_down, soon, start, until, Gate, IP,
};

fn orders(port: u16) -> RegisterInstance {
    RegisterInstance::new("orders", IP, port)
}

fn beating(port: u16) -> RegisterInstance {
    orders(port).metadata(HEART_BEAT_INTERVAL, "200")
}

/// A Registry with short timeouts.
fn impatient(server: &EmbeddedServer) -> Addr<Registry> {
    start(config(server).request_timeout(ms(300)).operation_timeout(ms(600)))
}

/// The server carries these operations out, but answers too late.
fn answer_too_late(server: &EmbeddedServer, operations: &[Operation]) {
    server.faults().only_for(operations);
    server.faults().delay_answers(ms(5000));
}

fn requests(server: &EmbeddedServer, operation: Operation) -> u64 {
    server.counters().requests_for(operation)
}

fn may_have_been_applied<T>(outcome: &Result<T, Error>) -> bool {
    matches!(outcome, Err(Error::Timeout { .. } | Error::Unreachable { .. }))
}

// Registrations that fail.

#[actix::test]
async fn a_registration_that_failed_and_was_applied_is_deregistered() {
    for ephemeral in [true, false] {
        let server = server();
        let registry = impatient(&server);
        answer_too_late(&server, &[Operation::Register]);
        let late = ask(&registry, orders(80).ephemeral(ephemeral)).await;
        assert!(may_have_been_applied(&late), "{late:?}");
        assert!(requests(&server, Operation::Register) >= 1, "it was applied");
        server.faults().clear();
        let is_taken_back = || requests(&server, Operation::Deregister) >= 1 && server.instances("orders").is_empty();
        until("it is taken back", is_taken_back).await;
        assert!(ask(&registry, GetStatus).await.unwrap().instances.is_empty());
        shut_down(&registry).await;
    }
}

#[actix::test]
async fn a_registration_that_failed_over_another_one_is_taken_back_to_the_former_values() {
    for ephemeral in [true, false] {
        let server = server();
        let registry = impatient(&server);
        ask(&registry, beating(80).weight(2.0).ephemeral(ephemeral)).await.unwrap();
        answer_too_late(&server, &[Operation::Register]);
        let late = ask(&registry, beating(80).weight(5.0).ephemeral(ephemeral)).await;
        assert!(may_have_been_applied(&late), "{late:?}");
        server.faults().clear();
        until("the former values are back", || only_instance(&server, "orders").weight == 2.0).await;
        shut_down(&registry).await;
    }
}

#[actix::test]
async fn a_registration_is_taken_back_until_a_server_confirms_it() {
    let server = server();
    let registry = impatient(&server);
    server.faults().fail_share(1.0, 503);
    let failed = ask(&registry, orders(80)).await;
    assert!(matches!(failed, Err(Error::Refused { status: 503, .. })), "{failed:?}");
    until("it is tried again", || requests(&server, Operation::Deregister) >= 2).await;
    let so_far = requests(&server, Operation::Deregister);
    server.faults().clear();
    until("a server confirms it", || requests(&server, Operation::Deregister) > so_far).await;
    let report = ask(&registry, Shutdown::default()).await.unwrap();
    assert_eq!((report.deregistered, report.failed.len()), (0, 0), "nothing is left over: {report:?}");
}

#[actix::test]
async fn another_registration_supersedes_taking_back_the_one_that_failed() {
    let server = server();
    let registry = impatient(&server);
    answer_too_late(&server, &[Operation::Register]);
    assert!(may_have_been_applied(&ask(&registry, orders(80)).await));
    server.faults().clear();
    ask(&registry, beating(80).weight(3.0)).await.unwrap();
    let so_far = requests(&server, Operation::Beat);
    until("it has beaten", || requests(&server, Operation::Beat) >= so_far + 5).await;
    assert_eq!(only_instance(&server, "orders").weight, 3.0);
    shut_down(&registry).await;
}

#[actix::test]
async fn a_modification_that_failed_and_was_applied_is_taken_back_with_the_next_beat() {
    for ephemeral in [true, false] {
        let server = server();
        let registry = impatient(&server);
        ask(&registry, beating(80).weight(2.0).ephemeral(ephemeral)).await.unwrap();
        answer_too_late(&server, &[Operation::Register]);
        let late = ask(&registry, ModifyInstance::new("orders", IP, 80).weight(7.0)).await;
        assert!(may_have_been_applied(&late), "{late:?}");
        let so_far = requests(&server, Operation::Register);
        assert!(so_far >= 2, "it was applied");
        server.faults().clear();
        until("it is registered again", || requests(&server, Operation::Register) > so_far).await;
        until("the former values are back", || only_instance(&server, "orders").weight == 2.0).await;
        shut_down(&registry).await;
    }
}

#[actix::test]
async fn a_modification_after_one_that_failed_and_was_applied_takes_it_back() {
    let server = server();
    let registry = impatient(&server);
    // The interval is so long that no beat takes the change back before.
    let instance = orders(80).weight(2.0).heartbeat_interval(ms(14_000));
    ask(&registry, instance).await.unwrap();
    answer_too_late(&server, &[Operation::Register]);
    let late = ask(&registry, ModifyInstance::new("orders", IP, 80).weight(7.0)).await;
    assert!(may_have_been_applied(&late), "{late:?}");
    server.faults().clear();
    // The first beat may be due just now and may already have taken the change back. Then there is a third
    // registration.
    let is_applied = || only_instance(&server, "orders").weight == 7.0 || requests(&server, Operation::Register) >= 3;
    until("the late one was applied", is_applied).await;
    ask(&registry, ModifyInstance::new("orders", IP, 80).metadata("zone", "a")).await.unwrap();
    let instance = only_instance(&server, "orders");
    assert_eq!((instance.weight, instance.metadata.contains_key("zone")), (2.0, true));
    shut_down(&registry).await;
}

#[actix::test]
async fn a_single_failed_beat_is_no_reason_to_register_again() {
    let server = server();
    let (registry, operator) = (registry(&server), support::registry(&server));
    ask(&registry, beating(80).weight(2.0)).await.unwrap();
    ask(&operator, ModifyInstance::new("orders", IP, 80).weight(5.0)).await.unwrap();
    server.faults().only_for(&[Operation::Beat]);
    server.faults().fail_share(1.0, 503);
    let failed = async || {
        let status = ask(&registry, GetStatus).await.unwrap();
        status.instances[0].last_error.is_some().then_some(())
    };
    eventually("a beat has failed", failed).await;
    server.faults().clear();
    let so_far = requests(&server, Operation::Beat);
    until("it beats again", || requests(&server, Operation::Beat) >= so_far + 5).await;
    assert_eq!(requests(&server, Operation::Register), 1);
    shut_down(&registry).await;
    shut_down(&operator).await;
}

// The end.

#[actix::test]
async fn a_shutdown_reports_a_registration_that_is_under_way() {
    let server = server();
    let registry = registry(&server);
    server.faults().only_for(&[Operation::Register]);
    server.faults().delay_answers(ms(1000));
    let registering = registry.send(orders(80));
    until("it is under way", || !server.instances("orders").is_empty()).await;
    let shutdown = Shutdown::default().deadline(ms(100)).drain(ms(1500));
    let report = ask(&registry, shutdown).await.unwrap();
    assert_eq!((report.deregistered, report.failed.len()), (0, 1), "{report:?}");
    assert_eq!(report.failed[0].instance.port, 80);
    let answer = soon("the answer", registering).await.map_err(Error::from).and_then(|answer| answer);
    assert_eq!(answer, Err(Error::Stopped));
}

#[actix::test]
async fn a_shutdown_takes_back_a_registration_that_failed() {
    let server = server();
    let registry = impatient(&server);
    answer_too_late(&server, &[Operation::Register]);
    assert!(may_have_been_applied(&ask(&registry, orders(80)).await));
    server.faults().clear();
    let report = ask(&registry, Shutdown::default()).await.unwrap();
    assert!(report.failed.is_empty(), "{report:?}");
    assert!(server.instances("orders").is_empty());
}

// Which values are sent again.

#[actix::test]
async fn an_instance_that_started_as_unhealthy_and_beats_is_not_turned_unhealthy_again() {
    for dialect in Dialect::all() {
        let server = support::builder().dialect(dialect).start().unwrap();
        let registry = registry(&server);
        ask(&registry, beating(80).healthy(false)).await.unwrap();
        assert!(!only_instance(&server, "orders").healthy);
        until("it is healthy by beating", || only_instance(&server, "orders").healthy).await;
        // Without this, the next beat would make the instance healthy again.
        server.faults().only_for(&[Operation::Beat]);
        server.faults().hang(true);
        ask(&registry, ModifyInstance::new("orders", IP, 80).weight(3.0)).await.unwrap();
        assert!(only_instance(&server, "orders").healthy, "after a change of weight on {dialect}");
        server.faults().clear();
        assert!(server.faults().forget_instance("orders", IP, 80));
        until("it is back", || !server.instances("orders").is_empty()).await;
        assert!(only_instance(&server, "orders").healthy, "after a registration on {dialect}");
        shut_down(&registry).await;
    }
}

// An operator's changes.

fn instance_at(server: &EmbeddedServer, port: u16) -> InstanceSnapshot {
    server.instances("orders").into_iter().find(|instance| instance.port == port).expect("it is registered")
}

/// The dialects in which another client can change an instance without an administrator's login.
const CHANGED_BY_ANYBODY: [Dialect; 2] = [Dialect::V1_4, Dialect::V2_5];

/// An owner of two instances, and an operator who has disabled one of them.
async fn owner_and_operator(server: &EmbeddedServer) -> (Addr<Registry>, Addr<Registry>) {
    let (owner, operator) = (registry(server), registry(server));
    ask(&owner, beating(80).weight(2.0)).await.unwrap();
    // The operator's client finds out from the second instance that the service is ephemeral.
    ask(&owner, beating(81)).await.unwrap();
    ask(&operator, ModifyInstance::new("orders", IP, 80).enabled(false)).await.unwrap();
    (owner, operator)
}

#[actix::test]
async fn the_owner_sees_that_its_instance_was_disabled_by_an_operator() {
    for dialect in CHANGED_BY_ANYBODY {
        let server = support::builder().dialect(dialect).start().unwrap();
        let (owner, operator) = owner_and_operator(&server).await;
        let found = ask(&owner, GetInstance::new("orders", IP, 80)).await.unwrap();
        assert_eq!((found.enabled, found.weight), (false, 2.0), "on {dialect}");
        ask(&operator, ModifyInstance::new("orders", IP, 80).enabled(true)).await.unwrap();
        assert!(ask(&owner, GetInstance::new("orders", IP, 80)).await.unwrap().enabled, "on {dialect}");
        shut_down(&owner).await;
        shut_down(&operator).await;
    }
}

#[actix::test]
async fn a_change_by_the_owner_undoes_no_change_by_an_operator() {
    for dialect in CHANGED_BY_ANYBODY {
        let server = support::builder().dialect(dialect).start().unwrap();
        let (owner, operator) = owner_and_operator(&server).await;
        ask(&owner, ModifyInstance::new("orders", IP, 80).weight(4.0)).await.unwrap();
        assert!(!instance_at(&server, 80).enabled, "by a change of weight on {dialect}");
        ask(&operator, ModifyInstance::new("orders", IP, 80).weight(9.0)).await.unwrap();
        ask(&owner, ModifyInstance::new("orders", IP, 80).metadata("zone", "a")).await.unwrap();
        let instance = instance_at(&server, 80);
        assert_eq!((instance.enabled, instance.weight), (false, 9.0), "by a change of metadata on {dialect}");
        assert_eq!(instance.metadata["zone"], "a");
        shut_down(&owner).await;
        shut_down(&operator).await;
    }
}

#[actix::test]
async fn a_server_that_forgot_an_operators_change_gets_the_owners_values() {
    let server = support::builder().dialect(Dialect::V1_4).start().unwrap();
    let (owner, operator) = (registry(&server), registry(&server));
    ask(&owner, beating(80).weight(2.0)).await.unwrap();
    ask(&operator, ModifyInstance::new("orders", IP, 80).enabled(false)).await.unwrap();
    ask(&owner, ModifyInstance::new("orders", IP, 80).metadata("zone", "a")).await.unwrap();
    server.restart_empty().unwrap();
    until("it is back", || !server.instances("orders").is_empty()).await;
    let instance = only_instance(&server, "orders");
    assert_eq!((instance.enabled, instance.weight, instance.metadata["zone"].as_str()), (true, 2.0, "a"));
    shut_down(&owner).await;
    shut_down(&operator).await;
}

/// Nacos lists a new instance up to a second late, and its answer to GET never says whether an instance is enabled.
#[actix::test]
async fn an_instance_that_is_not_listed_yet_is_not_taken_for_a_disabled_one() {
    let registered = Mutex::new(None);
    let fake = Fake::start(move |seen| {
        let mut registered = registered.lock().unwrap();
        let host = format!(r#"{{"ip":"{IP}","port":80,"clusterName":"DEFAULT","weight":2.0,"healthy":true}}"#);
        match (seen.method.as_str(), seen.path()) {
            ("POST", _) => {
                registered.get_or_insert_with(Instant::now);
                Answer::ok()
            }
            ("GET", "/nacos/v1/ns/instance") => Answer::json(host),
            ("GET", _) if registered.is_some_and(|at: Instant| at.elapsed() >= ms(700)) => {
                Answer::json(format!(r#"{{"hosts":[{host}]}}"#))
            }
            _ => Answer::usual(seen),
        }
    });
    let registry = start(config_at(&fake.server_address()).protocol(Protocol::V1));
    ask(&registry, orders(80).weight(2.0)).await.unwrap();
    assert!(ask(&registry, GetInstance::new("orders", IP, 80)).await.unwrap().enabled);
    ask(&registry, ModifyInstance::new("orders", IP, 80).weight(3.0)).await.unwrap();
    let written = fake.seen().into_iter().rfind(|seen| seen.method == "POST").unwrap();
    assert_eq!((written.parameter("weight"), written.parameter("enabled")), (Some("3.0"), Some("true")));
    shut_down(&registry).await;
}

#[actix::test]
async fn reading_an_instance_does_not_wait_for_its_changes() {
    let server = server();
    let registry = start(config(&server).request_timeout(support::PATIENCE));
    ask(&registry, orders(80)).await.unwrap();
    server.faults().only_for(&[Operation::Register]);
    server.faults().hang(true);
    let registering = registry.send(orders(80).weight(2.0));
    until("it hangs", || requests(&server, Operation::Register) == 2).await;
    let found = soon("the instance", ask(&registry, GetInstance::new("orders", IP, 80))).await.unwrap();
    assert_eq!(found.weight, 1.0);
    server.faults().clear();
    soon("the answer", registering).await.unwrap().unwrap();
    shut_down(&registry).await;
}

#[actix::test]
async fn changes_that_fail_for_long_delay_no_heartbeat() {
    let server = server();
    let registry = start(config(&server).request_timeout(ms(500)).operation_timeout(ms(3000)));
    let register = || beating(80).metadata(HEART_BEAT_TIMEOUT, "1500").metadata(IP_DELETE_TIMEOUT, "60000");
    ask(&registry, register()).await.unwrap();
    server.faults().only_for(&[Operation::Get, Operation::Register]);
    server.faults().fail_share(1.0, 500);
    let modifying = registry.send(ModifyInstance::new("orders", IP, 80).weight(2.0));
    let registering = registry.send(register().weight(3.0));
    let changes = async {
        assert!(soon("an answer", modifying).await.unwrap().is_err());
        assert!(soon("an answer", registering).await.unwrap().is_err());
    };
    let mut longest = ms(0);
    let watching = async {
        loop {
            longest = longest.max(only_instance(&server, "orders").since_last_beat);
            actix_rt::time::sleep(ms(10)).await;
        }
    };
    futures_util::future::select(Box::pin(changes), Box::pin(watching)).await;
    assert!(longest < ms(1500), "{longest:?}");
    shut_down(&registry).await;
}

// Persistent instances.

#[actix::test]
async fn a_persistent_instance_that_was_being_registered_when_the_server_changed_is_registered_there() {
    let gate = Gate::default();
    let is_down = Arc::new(AtomicBool::new(false));
    let (held, down) = (gate.clone(), is_down.clone());
    let first = Fake::start(move |seen| {
        if seen.path().ends_with("/list") && down.load(Ordering::Acquire) {
            return Answer::Close;
        }
        if seen.method == "POST" {
            held.wait();
        }
        Answer::usual(seen)
    });
    let second = Fake::start(Answer::usual);
    // A client starts at a random server.
    let addresses = format!("{},{}", first.server_address(), second.server_address());
    let registry = loop {
        let config = config_at(&addresses).protocol(Protocol::V1).request_timeout(support::PATIENCE);
        let registry = start(config.operation_timeout(support::PATIENCE));
        let status = ask(&registry, GetStatus).await.unwrap();
        if status.servers.iter().any(|server| server.in_use && server.address == first.server_address()) {
            break registry;
        }
    };
    let registering = registry.send(orders(80).ephemeral(false));
    until("it is under way", || first.seen().iter().any(|seen| seen.method == "POST")).await;
    is_down.store(true, Ordering::Release);
    let other_is_used = async || {
        for service in ["a", "b", "c"] {
            let _ = ask(&registry, ListInstances::new(service)).await;
        }
        let status = ask(&registry, GetStatus).await.unwrap();
        status.servers.iter().any(|server| server.in_use && server.address == second.server_address()).then_some(())
    };
    eventually("the other server is used", other_is_used).await;
    gate.open();
    soon("the answer", registering).await.unwrap().unwrap();
    until("it is registered there", || second.seen().iter().any(|seen: &Seen| seen.method == "POST")).await;
    ask(&registry, DeregisterInstance::new("orders", IP, 80)).await.unwrap();
    shut_down(&registry).await;
}

#[actix::test]
async fn a_persistent_instance_that_was_being_restored_when_another_epoch_began_is_restored_again() {
    let gate = Gate::default();
    let (is_held, is_unknown) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (held, hold, unknown) = (gate.clone(), is_held.clone(), is_unknown.clone());
    let fake = Fake::start(move |seen| {
        if seen.parameter("port") == Some("90") && hold.load(Ordering::Acquire) {
            held.wait();
        }
        if seen.path() != "/nacos/v1/ns/instance/beat" {
            return Answer::usual(seen);
        }
        let code = if unknown.swap(false, Ordering::AcqRel) { 20404 } else { 10200 };
        Answer::json(format!(r#"{{"clientBeatInterval":100,"code":{code},"lightBeatEnabled":true}}"#))
    });
    let config = config_at(&fake.server_address()).request_timeout(support::PATIENCE);
    let registry = start(config.operation_timeout(support::PATIENCE));
    let persistent = RegisterInstance::new("ledger", IP, 90).ephemeral(false).metadata(HEART_BEAT_INTERVAL, "100");
    ask(&registry, persistent).await.unwrap();
    ask(&registry, beating(80)).await.unwrap();
    let registrations = |port: &str| {
        let is_one = |seen: &&Seen| seen.method == "POST" && seen.parameter("port") == Some(port);
        fake.seen().iter().filter(is_one).count()
    };
    is_held.store(true, Ordering::Release);
    is_unknown.store(true, Ordering::Release);
    until("it is being restored", || registrations("90") == 2).await;
    // At most one epoch begins in each interval.
    actix_rt::time::sleep(ms(500)).await;
    let so_far = registrations("80");
    is_unknown.store(true, Ordering::Release);
    until("another epoch has begun", || registrations("80") > so_far).await;
    gate.open();
    until("it is restored there, too", || registrations("90") == 3).await;
    shut_down(&registry).await;
}

// r-nacos, which never answers "unknown instance".

/// The weight and the metadata in the fake r-nacos.
type OnRNacos = Arc<Mutex<Option<(String, String)>>>;

/// Answers as r-nacos 0.8.8 does, for one instance.
fn answer_as_r_nacos(seen: &Seen, has: &OnRNacos) -> Answer {
    let mut has = has.lock().unwrap();
    match (seen.method.as_str(), seen.path()) {
        ("POST", "/nacos/v1/ns/instance") => {
            let value = |name| seen.parameter(name).unwrap_or_default().to_owned();
            *has = Some((value("weight"), value("metadata")));
            Answer::ok()
        }
        ("GET", "/nacos/v1/ns/instance") => match &*has {
            None => Answer::Text(500, "text/plain", "error".into()),
            Some((weight, metadata)) => Answer::json(format!(
                r#"{{"service":"DEFAULT_GROUP@@orders","ip":"{IP}","port":80,"clusterName":"DEFAULT","weight":{weight},"healthy":true,"instanceId":"{IP}#80","metadata":{},"marked":true,"enabled":true,"serviceName":"DEFAULT_GROUP@@orders","ephemeral":true}}"#,
                percent_decoded(metadata)
            )),
        },
        ("PUT", "/nacos/v1/ns/instance/beat") => {
            has.get_or_insert_with(|| ("1.0".into(), "{}".into()));
            Answer::json(r#"{"lightBeatEnabled":true,"code":10200,"clientBeatInterval":100}"#)
        }
        _ => Answer::usual(seen),
    }
}

fn is_read(seen: &Seen) -> bool {
    seen.method == "GET" && seen.path() == "/nacos/v1/ns/instance"
}

fn percent_decoded(text: &str) -> String {
    form_urlencoded::parse(text.as_bytes()).map(|(key, _)| key.into_owned()).collect()
}

fn of(fake: &Fake, method: &str, path: &str) -> usize {
    fake.seen().iter().filter(|seen| seen.method == method && seen.path() == path).count()
}

#[actix::test]
async fn on_r_nacos_an_instance_that_a_beat_brought_back_without_its_values_is_registered_again() {
    let has = OnRNacos::default();
    let on_server = has.clone();
    let fake = Fake::start(move |seen| answer_as_r_nacos(seen, &on_server));
    let registry = start(config_at(&fake.server_address()).protocol(Protocol::V1));
    let register = orders(80).weight(3.0).metadata("zone", "a").metadata(HEART_BEAT_INTERVAL, "100");
    ask(&registry, register).await.unwrap();
    let registered = has.lock().unwrap().clone();
    for _ in 0..2 {
        // The instance expires. The next beat registers it again, with the defaults of r-nacos.
        *has.lock().unwrap() = None;
        until("its values are back", || *has.lock().unwrap() == registered).await;
    }
    assert_eq!(of(&fake, "POST", "/nacos/v1/ns/instance"), 3);

    let operators = Some(("5.0".to_owned(), "{}".to_owned()));
    *has.lock().unwrap() = operators.clone();
    let so_far = of(&fake, "GET", "/nacos/v1/ns/instance");
    until("it is read again", || of(&fake, "GET", "/nacos/v1/ns/instance") >= so_far + 3).await;
    assert_eq!(*has.lock().unwrap(), operators, "an operator's change stays");
    let (beats, reads) = (of(&fake, "PUT", "/nacos/v1/ns/instance/beat"), of(&fake, "GET", "/nacos/v1/ns/instance"));
    assert!(reads * 4 <= beats, "{reads} reads at {beats} beats");
    shut_down(&registry).await;
}

#[actix::test]
async fn on_r_nacos_no_other_server_than_the_one_in_use_shows_that_an_instance_is_lost() {
    let fails_reads = Arc::new(AtomicBool::new(false));
    // The servers share nothing, so the one that is not in use never has the instance.
    let has: [OnRNacos; 2] = Default::default();
    let fakes = has.clone().map(|has| {
        let fails_reads = fails_reads.clone();
        Fake::start(move |seen| match is_read(seen) && fails_reads.load(Ordering::Acquire) {
            true if has.lock().unwrap().is_some() => Answer::Close,
            _ => answer_as_r_nacos(seen, &has),
        })
    });
    let addresses = fakes.each_ref().map(Fake::server_address).join(",");
    let registry = start(config_at(&addresses).protocol(Protocol::V1));
    let register = orders(80).weight(3.0).metadata("zone", "a").metadata(HEART_BEAT_INTERVAL, "100");
    ask(&registry, register).await.unwrap();
    let in_use = has.iter().position(|has| has.lock().unwrap().is_some()).unwrap();
    let reads = |of: usize| fakes[of].seen().iter().filter(|seen| is_read(seen)).count();
    until("it is read regularly, because the server is known to be r-nacos", || reads(in_use) >= 2).await;

    let operators = Some(("5.0".to_owned(), "{}".to_owned()));
    *has[in_use].lock().unwrap() = operators.clone();
    fails_reads.store(true, Ordering::Release);
    let so_far = reads(in_use);
    until("some reads have failed", || reads(in_use) >= so_far + 3).await;
    assert_eq!(*has[in_use].lock().unwrap(), operators, "an operator's change stays");
    assert_eq!(reads(1 - in_use), 0, "the other server is not asked");
    shut_down(&registry).await;
}

#[actix::test]
async fn nacos_is_asked_once_whether_it_is_r_nacos() {
    for dialect in [Dialect::V1_4, Dialect::V2_5] {
        let server = support::builder().dialect(dialect).start().unwrap();
        let registry = registry(&server);
        for port in 80..90 {
            ask(&registry, beating(port)).await.unwrap();
        }
        until("each has beaten many times", || requests(&server, Operation::Beat) >= 150).await;
        assert_eq!(requests(&server, Operation::Get), 1, "on {dialect}");
        assert_eq!(requests(&server, Operation::Register), 10, "on {dialect}");
        shut_down(&registry).await;
    }
}

// The state of an instance.

/// Forwards the changes of state that it receives.
struct StateListener(mpsc::UnboundedSender<InstanceStateChanged>);

impl Actor for StateListener {
    type Context = Context<Self>;
}

impl Handler<InstanceStateChanged> for StateListener {
    type Result = ();

    fn handle(&mut self, change: InstanceStateChanged, _: &mut Context<Self>) {
        // An error means that the test has dropped the receiver.
        let _ = self.0.send(change);
    }
}

fn listen() -> (Addr<StateListener>, mpsc::UnboundedReceiver<InstanceStateChanged>) {
    let (tell, told) = mpsc::unbounded_channel();
    (StateListener(tell).start(), told)
}

async fn next(told: &mut mpsc::UnboundedReceiver<InstanceStateChanged>) -> InstanceStateChanged {
    soon("a change of state", told.recv()).await.expect("the listener lives")
}

async fn next_state(told: &mut mpsc::UnboundedReceiver<InstanceStateChanged>) -> InstanceState {
    next(told).await.state
}

#[actix::test]
async fn a_rejection_of_an_instance_is_logged_when_it_begins_and_when_it_ends() {
    let rejects = Arc::new(AtomicBool::new(true));
    let server_rejects = rejects.clone();
    let fake = Fake::start(move |seen| match seen.method.as_str() {
        "POST" | "PUT" if server_rejects.load(Ordering::Acquire) => {
            Answer::Text(403, "text/plain", "no right to write".into())
        }
        _ => Answer::usual(seen),
    });
    let (logger, log) = support::logs::logger();
    let registry = start(config_at(&fake.server_address()).protocol(Protocol::V1).logger(logger));
    let (listener, mut told) = listen();
    ask(&registry, WatchInstances::new(listener.recipient())).await.unwrap();
    ask(&registry, beating(80).when_reachable()).await.unwrap();
    assert_eq!(next_state(&mut told).await, InstanceState::Pending);

    for times in 1..=2 {
        let rejected = next(&mut told).await;
        assert_eq!((rejected.state, rejected.instance.port), (InstanceState::Rejected, 80));
        assert!(matches!(rejected.error, Some(Error::Unauthorized { .. })), "{rejected:?}");
        let so_far = fake.seen().len();
        until("it is tried again", || fake.seen().len() >= so_far + 5).await;
        let status = ask(&registry, GetStatus).await.unwrap().instances.remove(0);
        assert!(!status.registered && status.state == InstanceState::Rejected, "{status:?}");
        assert!(status.last_error.unwrap().contains("no right to write"));
        assert_eq!(log.count("server rejected instance"), times, "{:?}", log.loud());
        assert_eq!(log.count("registered instance before="), times - 1, "{:?}", log.loud());

        rejects.store(false, Ordering::Release);
        assert_eq!(next_state(&mut told).await, InstanceState::Registered);
        until("it is logged", || log.count("registered instance before=") == times).await;
        assert!(ask(&registry, GetStatus).await.unwrap().instances[0].registered);
        // The next rejection is that of a beat.
        rejects.store(true, Ordering::Release);
    }
    rejects.store(false, Ordering::Release);
    shut_down(&registry).await;
}

#[actix::test]
async fn listeners_are_notified_of_instances_that_are_lost() {
    let server = server();
    let registry = registry(&server);
    ask(&registry, beating(80).metadata(HEART_BEAT_TIMEOUT, "1000")).await.unwrap();
    let (listener, mut told) = listen();
    ask(&registry, WatchInstances::new(listener.recipient())).await.unwrap();
    assert_eq!(next_state(&mut told).await, InstanceState::Registered, "as it is");

    until("it beats", || requests(&server, Operation::Beat) >= 2).await;
    assert!(server.faults().forget_instance("orders", IP, 80));
    let lost = next(&mut told).await;
    assert_eq!((lost.state, lost.error), (InstanceState::Lost, None));
    assert_eq!(next_state(&mut told).await, InstanceState::Registered);

    server.faults().refuse_connections();
    let lost = next(&mut told).await;
    assert_eq!(lost.state, InstanceState::Lost);
    assert!(lost.error.is_some_and(|error| error.is_retryable()));
    assert!(!ask(&registry, GetStatus).await.unwrap().instances[0].registered);
    server.faults().accept_connections();
    assert_eq!(next_state(&mut told).await, InstanceState::Registered);
    shut_down(&registry).await;
}

#[actix::test]
async fn a_listener_that_unwatched_is_not_notified() {
    let server = server();
    let registry = registry(&server);
    let (watching, mut told) = listen();
    let (unwatching, mut told_unwatching) = listen();
    let (weak, mut told_weak) = listen();
    for _ in 0..2 {
        ask(&registry, WatchInstances::new(watching.clone().recipient())).await.unwrap();
        ask(&registry, WatchInstances::new(unwatching.clone().recipient())).await.unwrap();
        ask(&registry, WatchInstances::weak(weak.downgrade().recipient())).await.unwrap();
    }
    ask(&registry, orders(80)).await.unwrap();
    for told in [&mut told, &mut told_unwatching, &mut told_weak] {
        assert_eq!(next_state(told).await, InstanceState::Registered);
    }
    ask(&registry, UnwatchInstances::new(unwatching.clone().recipient())).await.unwrap();
    drop(weak);
    assert_eq!(soon("the end of the weak listener", told_weak.recv()).await, None);
    ask(&registry, orders(81)).await.unwrap();
    let second = next(&mut told).await;
    assert_eq!((second.instance.port, second.state), (81, InstanceState::Registered), "each is notified once");
    assert!(told.try_recv().is_err() && told_unwatching.try_recv().is_err());
    shut_down(&registry).await;
}
