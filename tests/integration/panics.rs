//! A panic ends only the operation in which it happens.

use std::sync::Once;

use actix_nacos::{
    testing::failpoints::{ActorKind, PanicSite, TriggerPanic},
    Error, GetStatus, Operation, RegisterInstance, Shutdown, Subscribe,
};
use slog::{o, Drain, Logger, Never, OwnedKVList, Record};

use crate::support;

const ROUNDS: usize = 100;

/// Hides the panic messages that these tests cause. Panics of other tests are printed.
fn silence_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let shown = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !panic.to_string().contains("staged in") {
                shown(panic);
            }
        }));
    });
}

#[actix::test]
async fn every_actor_survives_panics_anywhere_and_nothing_is_lost() -> Result<(), Error> {
    silence_panics();
    let server = support::builder().start().expect("a free port");
    let registry = support::start(support::config(&server).push(Default::default()));
    let mut told = support::News::listen();
    for port in 1..=5 {
        let instance = RegisterInstance::new("orders", "127.0.0.7", port);
        registry.send(instance.heartbeat_interval(support::ms(200)).weight(f64::from(port))).await??;
    }
    registry.send(Subscribe::new("orders", told.recipient())).await??;
    told.next().await;
    for actor in [ActorKind::Registry, ActorKind::Heartbeats, ActorKind::Subscribers, ActorKind::PushReceiver] {
        for site in [PanicSite::Handler, PanicSite::Timer, PanicSite::Future] {
            for _ in 0..ROUNDS {
                let answer = registry.send(TriggerPanic { actor, site }).await?;
                let costs_the_answer = actor == ActorKind::Registry && site != PanicSite::Timer;
                match answer {
                    Err(Error::Panicked { .. }) if costs_the_answer => {}
                    Ok(()) if !costs_the_answer => {}
                    other => panic!("{actor:?} {site:?} gave {other:?}"),
                }
            }
            let status = registry.send(GetStatus).await??;
            assert_eq!((status.instances.len(), status.subscriptions.len()), (5, 1), "after {actor:?} {site:?}");
            let beats: u64 = status.instances.iter().map(|instance| instance.beats).sum();
            support::eventually("every instance beats on", || async {
                let status = registry.send(GetStatus).await.ok()?.ok()?;
                let now: u64 = status.instances.iter().map(|instance| instance.beats).sum();
                (now >= beats + 5).then_some(())
            })
            .await;
        }
    }
    registry.send(RegisterInstance::new("orders", "127.0.0.7", 6)).await??;
    let news = told.until(|news| news.info.hosts.len() == 6).await;
    assert_eq!(news.added.len(), 1, "{news:?}");
    assert_eq!(server.instances("orders").len(), 6);
    Ok(())
}

/// A logger that panics at this line.
struct BrokenLog(&'static str);

impl Drain for BrokenLog {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, _: &OwnedKVList) -> Result<(), Never> {
        assert_ne!(record.msg().to_string(), self.0, "staged in the log");
        Ok(())
    }
}

#[actix::test]
async fn a_panic_while_one_instance_is_deregistered_leaves_no_other_registered() -> Result<(), Error> {
    silence_panics();
    let server = support::server();
    let log = Logger::root(BrokenLog("request failed"), o!());
    let registry = support::start(support::config(&server).logger(log));
    for port in 1..=20 {
        registry.send(RegisterInstance::new("orders", "127.0.0.7", port)).await??;
    }
    server.faults().only_for(&[Operation::Deregister]);
    server.faults().fail_share(0.3, 503);
    let report = registry.send(Shutdown::default()).await??;
    assert!(report.deregistered > 0 && !report.failed.is_empty(), "{report:?}");
    assert_eq!(report.deregistered + report.failed.len(), 20, "each is accounted for: {report:?}");
    assert!(report.failed.iter().all(|failed| matches!(failed.error, Error::Panicked { .. })), "{report:?}");
    assert_eq!(server.instances("orders").len(), report.failed.len());
    Ok(())
}

#[actix::test]
async fn a_log_that_panics_costs_no_heartbeat() -> Result<(), Error> {
    silence_panics();
    let server = support::server();
    let log = Logger::root(BrokenLog("registered instance"), o!());
    let registry = support::start(support::config(&server).logger(log));
    let register = RegisterInstance::new("orders", "127.0.0.7", 80).heartbeat_interval(support::ms(100));
    assert!(matches!(registry.send(register).await?, Err(Error::Panicked { .. })));
    support::until("it beats", || server.counters().requests_for(Operation::Beat) >= 2).await;
    Ok(())
}
