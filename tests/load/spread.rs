//! The heartbeats of many instances stay spread over the interval, also after a common outage.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use actix_nacos::{
    embedded::{EmbeddedServer, InstanceSnapshot},
    Operation, RegisterInstance, HEART_BEAT_INTERVAL,
};
use futures_util::future::join_all;

use crate::{
    beside_quiet_ones,
    support::{ask, config, ms, registry, server, shut_down, start, until, IP},
};

/// The number of beats and registrations that a server has received, over time.
struct Timeline(Arc<Mutex<Vec<(Instant, u64)>>>);

impl Timeline {
    /// Samples the server's counters until the timeline is dropped, in its own thread, because the test's thread may be
    /// busy.
    fn watch(server: &Arc<EmbeddedServer>) -> Self {
        let looks = Arc::new(Mutex::new(Vec::new()));
        let (server, kept) = (Arc::downgrade(server), Arc::downgrade(&looks));
        thread::spawn(move || {
            while let (Some(server), Some(looks)) = (server.upgrade(), kept.upgrade()) {
                let counters = server.counters();
                let signs = counters.requests_for(Operation::Beat) + counters.requests_for(Operation::Register);
                looks.lock().unwrap().push((Instant::now(), signs));
                thread::sleep(ms(5));
            }
        });
        Timeline(looks)
    }

    /// The largest number of beats within half a second, from `since` on.
    fn most_in_half_a_second(&self, since: Instant) -> u64 {
        let looks = self.0.lock().unwrap();
        let looks: Vec<_> = looks.iter().filter(|(at, _)| *at >= since).collect();
        let sent_from = |first: &(Instant, u64)| {
            let within = looks.iter().rev().find(|(at, _)| *at <= first.0 + ms(500));
            within.map_or(0, |(_, signs)| signs - first.1)
        };
        looks.iter().map(|first| sent_from(first)).max().unwrap_or(0)
    }
}

/// With these sizes 60 beats are due in half a second. The interval is long enough for the coarse grid, like the
/// default interval, and for retries within the interval.
const MANY: u16 = 600;
const LONG_INTERVAL: Duration = Duration::from_secs(5);
const MEAN: u64 = 60;

fn many() -> impl Iterator<Item = RegisterInstance> {
    (1..=MANY).map(|port| RegisterInstance::new("orders", IP, port).heartbeat_interval(LONG_INTERVAL))
}

#[actix::test]
async fn instances_that_waited_for_the_server_beat_spread_over_the_interval() {
    let _alone = beside_quiet_ones();
    let server = Arc::new(server());
    server.faults().refuse_connections();
    let registry = start(config(&server));
    for instance in many() {
        ask(&registry, instance.when_reachable()).await.unwrap();
    }
    server.faults().accept_connections();
    until("all are registered", || server.instances("orders").len() == usize::from(MANY)).await;
    let timeline = Timeline::watch(&server);
    let registered = Instant::now();
    // One interval is enough: each interval repeats it.
    actix_rt::time::sleep(LONG_INTERVAL + ms(500)).await;
    let most = timeline.most_in_half_a_second(registered);
    assert!(most * 2 <= MEAN * 5, "{most} beats in half a second, {MEAN} in the mean");
    shut_down(&registry).await;
}

#[actix::test]
async fn instances_come_back_from_an_outage_spread_over_the_interval() {
    let _alone = beside_quiet_ones();
    let server = Arc::new(server());
    let registry = start(config(&server));
    join_all(many().map(|instance| ask(&registry, instance)))
        .await
        .into_iter()
        .for_each(|answer| drop(answer.unwrap()));
    server.faults().refuse_connections();
    // Until the beats of all instances have failed.
    actix_rt::time::sleep(LONG_INTERVAL).await;
    let timeline = Timeline::watch(&server);
    let back = Instant::now();
    server.faults().accept_connections();
    // All instances come back within an interval, and stay spread as they are then.
    actix_rt::time::sleep(LONG_INTERVAL + ms(1000)).await;
    let most = timeline.most_in_half_a_second(back);
    assert!(most * 2 <= MEAN * 5, "{most} beats in half a second, {MEAN} in the mean");
    shut_down(&registry).await;
}

#[actix::test]
async fn instances_registered_in_one_burst_do_not_beat_in_one_spike() {
    let _alone = beside_quiet_ones();
    let server = server();
    let registry = registry(&server);
    let register = |port| RegisterInstance::new("orders", IP, port).metadata(HEART_BEAT_INTERVAL, "2000");
    join_all((8000..8400).map(|port| ask(&registry, register(port))))
        .await
        .into_iter()
        .for_each(|answer| drop(answer.unwrap()));
    until("all have beaten", || server.counters().requests_for(Operation::Beat) >= 400).await;
    // How many grid steps of 100 ms ago each instance has last beaten.
    let ago = |instance: InstanceSnapshot| instance.since_last_beat.as_millis() / 100;
    let steps: BTreeSet<_> = server.instances("orders").into_iter().map(ago).collect();
    // Out of 20 steps. On a busy machine several steps are sent together.
    assert!(steps.len() >= 8, "{steps:?}");
    shut_down(&registry).await;
}
