//! Messages for one instance take effect in order, awaited or not; different instances do not wait for each other.

use actix::Addr;
use actix_nacos::{
    DeregisterInstance, Error, GetStatus, Metadata, ModifyInstance, Operation, Protocol, RegisterInstance, Registry,
    HEART_BEAT_INTERVAL,
};
use futures_util::future::join_all;

use crate::support::{
    self, ask, config, config_at,
    fake::{Answer, Fake, Seen},
    ms, ports, registry, server, shut_down, soon, start, until, Gate, IP,
};

/// A server that delays each answer by a random time, so that unordered requests arrive out of order.
fn unsteady() -> Fake {
    Fake::start(|seen| {
        std::thread::sleep(std::time::Duration::from_micros(fastrand::u64(..1500)));
        Answer::usual(seen)
    })
}

fn registry_at(fake: &Fake) -> Addr<Registry> {
    start(config_at(&fake.server_address()).protocol(Protocol::V1))
}

/// Returns the weights in the requests about an instance, in order; 0 for a deregistration.
fn effects(fake: &Fake) -> Vec<u32> {
    let weight = |seen: &Seen| match seen.method.as_str() {
        "DELETE" => 0,
        _ => seen.parameter("weight").and_then(|weight| weight.parse::<f64>().ok()).unwrap() as u32,
    };
    let writes = |seen: &&Seen| seen.path() == "/nacos/v1/ns/instance" && seen.method != "GET";
    fake.seen().iter().filter(writes).map(weight).collect()
}

#[actix::test]
async fn a_thousand_unawaited_sends_for_one_instance_take_effect_in_order() {
    let fake = unsteady();
    let registry = registry_at(&fake);
    let mut expected = Vec::new();
    let mut registers = Vec::new();
    let mut modifies = Vec::new();
    let mut deregisters = Vec::new();
    for step in 1..=1000u32 {
        match step % 5 {
            // After a `DeregisterInstance` there is no instance to modify.
            1 | 3 => registers.push(registry.send(RegisterInstance::new("orders", IP, 80).weight(step.into()))),
            0 => deregisters.push(registry.send(DeregisterInstance::new("orders", IP, 80))),
            _ => modifies.push(registry.send(ModifyInstance::new("orders", IP, 80).weight(step.into()))),
        }
        expected.push(if step % 5 == 0 { 0 } else { step });
    }
    let all = async {
        // The answers are not awaited in the order of the messages.
        let answers = (join_all(deregisters).await, join_all(modifies).await, join_all(registers).await);
        answers.0.into_iter().chain(answers.1).for_each(|answer| answer.unwrap().unwrap());
        answers.2.into_iter().for_each(|answer| drop(answer.unwrap().unwrap()));
    };
    soon("all answers", all).await;
    assert_eq!(effects(&fake), expected);
}

#[actix::test]
async fn do_send_and_try_send_and_send_keep_one_order() {
    let fake = unsteady();
    let registry = registry_at(&fake);
    let mut requests = Vec::new();
    for step in 1..=300u32 {
        let register = RegisterInstance::new("orders", IP, 80).weight(step.into());
        match step % 3 {
            0 => registry.do_send(register),
            1 => registry.try_send(register).unwrap(),
            _ => requests.push(registry.send(register)),
        }
    }
    soon("the last one", registry.send(DeregisterInstance::new("orders", IP, 80))).await.unwrap().unwrap();
    let expected: Vec<u32> = (1..=300).chain([0]).collect();
    assert_eq!(effects(&fake), expected);
}

#[actix::test]
async fn the_last_of_many_unawaited_messages_decides_what_the_server_has() {
    let server = server();
    let registry = registry(&server);
    let mut last = None;
    for step in 1..=200u32 {
        registry.do_send(RegisterInstance::new("orders", IP, 80).metadata("step", step.to_string()));
        registry.do_send(DeregisterInstance::new("orders", IP, 80));
        registry.do_send(RegisterInstance::new("orders", IP, 80));
        let metadata = Metadata::from([("step".to_owned(), step.to_string())]);
        last = Some(registry.send(ModifyInstance::new("orders", IP, 80).all_metadata(metadata).weight(step.into())));
    }
    soon("the last answer", last.unwrap()).await.unwrap().unwrap();
    let instance = support::only_instance(&server, "orders");
    assert_eq!((instance.weight, instance.metadata["step"].as_str()), (200.0, "200"));
}

#[actix::test]
async fn different_instances_do_not_wait_for_each_other() {
    let gate = Gate::default();
    let held = gate.clone();
    let fake = Fake::start(move |seen| {
        if seen.parameter("port") == Some("81") {
            held.wait();
        }
        Answer::usual(seen)
    });
    let registry = start(config_at(&fake.server_address()).protocol(Protocol::V1).request_timeout(support::PATIENCE));
    let hung = registry.send(RegisterInstance::new("orders", IP, 81));
    let behind = registry.send(DeregisterInstance::new("orders", IP, 81));
    until("the first request hangs", || !fake.seen().is_empty()).await;
    for port in 8000..8100 {
        soon("others", ask(&registry, RegisterInstance::new("orders", IP, port))).await.unwrap();
    }
    soon("the status", ask(&registry, GetStatus)).await.unwrap();
    let of_the_hung = fake.seen().iter().filter(|seen| seen.parameter("port") == Some("81")).count();
    assert_eq!(of_the_hung, 1, "its own successor waits");
    gate.open();
    soon("the hung one", hung).await.unwrap().unwrap();
    soon("the one behind it", behind).await.unwrap().unwrap();
}

#[actix::test]
async fn a_beat_under_way_never_brings_a_deregistered_instance_back() {
    let server = server();
    let registry = registry(&server);
    let beats = || server.counters().requests_for(Operation::Beat);
    let register = |port| RegisterInstance::new("orders", IP, port).metadata(HEART_BEAT_INTERVAL, "300");
    server.faults().only_for(&[Operation::Beat]);
    server.faults().delay_requests(ms(150));
    join_all((8000..8050).map(|port| ask(&registry, register(port))))
        .await
        .into_iter()
        .for_each(|answer| drop(answer.unwrap()));
    // A full beat would register the deregistered instance again, and every first beat is a full one.
    until("beats are under way", || beats() >= 5).await;
    let gone = (8000..8050).map(|port| ask(&registry, DeregisterInstance::new("orders", IP, port)));
    join_all(gone).await.into_iter().for_each(Result::unwrap);
    assert_eq!(ports(&server, "orders"), [0; 0]);
    // When an instance that was registered later has beaten several times, all earlier beats have arrived.
    ask(&registry, register(9000)).await.unwrap();
    let so_far = beats();
    until("the later one has beaten", || beats() >= so_far + 3).await;
    assert_eq!(ports(&server, "orders"), [9000]);
    shut_down(&registry).await;
}

#[actix::test]
async fn a_failed_operation_does_not_stop_those_behind_it() {
    let server = server();
    let registry = start(config(&server).operation_timeout(ms(100)));
    server.faults().fail_share(1.0, 503);
    let first = registry.send(RegisterInstance::new("orders", IP, 80));
    let refused = soon("the first answer", first).await.unwrap();
    assert!(matches!(refused, Err(Error::Refused { status: 503, .. })), "{refused:?}");
    server.faults().clear();
    soon("the second answer", ask(&registry, RegisterInstance::new("orders", IP, 80).weight(2.0))).await.unwrap();
    assert_eq!(support::only_instance(&server, "orders").weight, 2.0);
}
