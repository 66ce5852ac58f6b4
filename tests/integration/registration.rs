//! The `Registration` that answers `RegisterInstance`: it has the state of the instance, in any thread.

use std::{
    sync::{
        atomic::{AtomicBool, Ordering},
        Arc,
    },
    thread,
    time::Duration,
};

use actix::Addr;
use actix_nacos::{
    block_on, Config, DeregisterInstance, Error, InstanceState, Operation, RegisterInstance, Registration, Registry,
    HEART_BEAT_TIMEOUT,
};

use crate::support::{ask, config, ms, ports, registry, server, shut_down, soon, start, until, IP, PATIENCE};

fn orders() -> RegisterInstance {
    RegisterInstance::new("orders", IP, 80).heartbeat_interval(ms(100))
}

async fn register(registry: &Addr<Registry>, instance: RegisterInstance) -> Registration {
    ask(registry, instance).await.unwrap()
}

fn known(registration: &Registration) -> (bool, Option<InstanceState>, Option<Error>) {
    (registration.is_registered(), registration.state(), registration.error())
}

#[test]
fn a_registration_is_read_and_awaited_in_plain_threads() {
    let server = server();
    server.faults().refuse_connections();
    let registry = registry(&server);
    let registration = block_on(registry.send(orders().when_reachable())).unwrap().unwrap();
    assert_eq!((registration.is_registered(), registration.state()), (false, Some(InstanceState::Pending)));
    assert_eq!(registration.instance().port, 80);
    let waiting: Vec<_> = (0..4)
        .map(|_| {
            let registration = registration.clone();
            thread::spawn(move || block_on(registration.registered_within(PATIENCE)))
        })
        .collect();
    server.faults().accept_connections();
    assert!(waiting.into_iter().all(|waiting| waiting.join().unwrap() == Ok(())));
    assert_eq!(known(&registration), (true, Some(InstanceState::Registered), None));
    block_on(registry.send(actix_nacos::Shutdown::default())).unwrap().unwrap();
}

#[actix::test]
async fn a_pending_registration_says_why_it_is_pending() {
    let server = server();
    server.faults().hang(true);
    let registry = start(config(&server).request_timeout(ms(300)));
    let registration = register(&registry, orders().when_reachable()).await;
    let limit = ms(1);
    let late = soon("its end", registration.registered_within(limit)).await;
    assert!(matches!(late, Err(Error::Timeout { after, .. }) if after == limit), "nothing has failed yet: {late:?}");
    until("an attempt fails", || registration.error().is_some()).await;
    assert_eq!(registration.state(), Some(InstanceState::Pending));
    let late = soon("its end", registration.registered_within(limit)).await.unwrap_err();
    assert!(matches!(&late, Error::Timeout { server, .. } if *server != "the registry"), "what failed: {late:?}");
    server.faults().clear();
    soon("it is registered", registration.registered_within(PATIENCE)).await.unwrap();
    shut_down(&registry).await;
}

#[actix::test]
async fn a_rejected_registration_tells_what_the_server_says_and_may_succeed_later() {
    let server = server();
    server.faults().fail_share(1.0, 400);
    let registry = registry(&server);
    let registration = register(&registry, orders().when_reachable()).await;
    until("it is rejected", || registration.state() == Some(InstanceState::Rejected)).await;
    assert_eq!(registration.error().and_then(|error| error.status()), Some(400));
    let rejected = registration.registered_within(ms(10)).await;
    assert_eq!(rejected.unwrap_err().status(), Some(400));
    let waiting = registration.registered_within(PATIENCE);
    server.faults().clear();
    soon("it is registered", waiting).await.unwrap();
    assert_eq!(known(&registration), (true, Some(InstanceState::Registered), None));
    shut_down(&registry).await;
}

#[actix::test]
async fn a_registration_whose_heartbeats_fail_for_too_long_is_lost_until_it_is_back() {
    let server = server();
    let registry = registry(&server);
    let registration = register(&registry, orders().metadata(HEART_BEAT_TIMEOUT, "1000")).await;
    assert!(registration.is_registered());
    server.faults().only_for(&[Operation::Beat]);
    server.faults().fail_share(1.0, 503);
    until("it is lost", || registration.state() == Some(InstanceState::Lost)).await;
    assert_eq!(registration.error().and_then(|error| error.status()), Some(503));
    server.faults().clear();
    soon("it is registered", registration.registered_within(PATIENCE)).await.unwrap();
    shut_down(&registry).await;
}

#[actix::test]
async fn registering_again_never_looks_unregistered_and_earlier_registrations_stay_true() {
    let server = server();
    let registry = registry(&server);
    let first = register(&registry, orders()).await;
    let is_over = Arc::new(AtomicBool::new(false));
    let (reader, over) = (first.clone(), is_over.clone());
    let reading = thread::spawn(move || {
        let mut is_always_registered = true;
        while !over.load(Ordering::Acquire) {
            is_always_registered &= reader.is_registered();
        }
        is_always_registered
    });
    for weight in 1..=100 {
        let again = register(&registry, orders().weight(weight.into())).await;
        assert_eq!(again, first);
    }
    is_over.store(true, Ordering::Release);
    assert!(reading.join().unwrap());
    let other = register(&registry, RegisterInstance::new("orders", IP, 81)).await;
    assert_ne!(other, first);
    shut_down(&registry).await;
}

#[actix::test]
async fn dropping_a_registration_changes_nothing_and_keeping_one_keeps_nothing() {
    let server = server();
    let registry = registry(&server);
    drop(register(&registry, orders()).await);
    let beats = server.counters().requests_for(Operation::Beat);
    until("it beats on", || server.counters().requests_for(Operation::Beat) >= beats + 2).await;
    assert_eq!(ports(&server, "orders"), [80]);
    let registration = register(&registry, orders()).await;
    drop(registry);
    until("it is deregistered", || server.instances("orders").is_empty()).await;
    until("it says so", || registration.state().is_none()).await;
    assert_eq!(registration.error(), Some(Error::Stopped));
    assert_eq!(soon("its end", registration.registered_within(PATIENCE)).await, Err(Error::Stopped));
}

#[actix::test]
async fn a_deregistered_instance_is_not_registered_again() {
    let server = server();
    let registry = registry(&server);
    let registration = register(&registry, orders()).await;
    ask(&registry, DeregisterInstance::from(registration.instance())).await.unwrap();
    assert_eq!((registration.is_registered(), registration.state()), (false, None));
    assert!(matches!(registration.error(), Some(Error::NotFound { .. })), "{registration:?}");
    let gone = soon("its end", registration.registered_within(PATIENCE)).await;
    assert!(matches!(gone, Err(Error::NotFound { .. })), "{gone:?}");
    let again = register(&registry, orders()).await;
    assert!(again.is_registered() && !registration.is_registered(), "a registration of its own");
    shut_down(&registry).await;
    assert_eq!(known(&again), (false, None, Some(Error::Stopped)));
}

#[actix::test]
async fn waiting_ends_with_the_deregistration_and_with_the_registry() {
    let server = server();
    server.faults().refuse_connections();
    let registry = registry(&server);
    let waiting = |registration: &Registration| {
        let registration = registration.clone();
        actix_rt::spawn(async move { registration.registered_within(Duration::MAX).await })
    };
    let (first, second) = (
        register(&registry, orders().when_reachable()).await,
        register(&registry, RegisterInstance::new("orders", IP, 81).when_reachable()).await,
    );
    let (one, other) = (waiting(&first), waiting(&second));
    // The deregistration is answered only when all servers have failed. The test does not wait for that.
    drop(registry.send(DeregisterInstance::from(first.instance())).await);
    let gone = soon("its end", one).await.unwrap();
    assert!(matches!(gone, Err(Error::NotFound { .. })), "{gone:?}");
    drop(registry);
    server.faults().accept_connections();
    assert_eq!(soon("the end", other).await.unwrap(), Err(Error::Stopped));
}

#[actix::test]
async fn a_disabled_registry_registers_at_once() {
    let registry = start(Config::disabled());
    for instance in [orders(), orders().when_reachable()] {
        let registration = register(&registry, instance).await;
        assert_eq!(registration.registered_within(Duration::ZERO).await, Ok(()));
    }
    shut_down(&registry).await;
}
