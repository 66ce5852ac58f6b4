//! Operations that must allocate nothing or little. The allocator of this test binary counts.
#![allow(clippy::unwrap_used)]

use std::{cell::Cell, rc::Rc};

use actix::prelude::*;
use actix_nacos::{testing::bench::Watch, Instance, Policy, ServiceChanged, ServiceInfo, ServiceName, ServiceView};
use allocation_counter::measure;
use tokio::sync::Notify;

fn service() -> ServiceName {
    ServiceName::parse("orders").unwrap()
}

#[test]
fn lookups_allocate_nothing() {
    let instances = (1..=10_000).map(|port| Instance::new("127.0.0.7", port));
    let view = ServiceView::fixed(service(), instances);
    // The first lookup of a thread sets up its random generator and its slot in `arc-swap`. Not counted.
    assert!(view.select_one().is_some());
    let counted = measure(|| {
        for _ in 0..1_000 {
            assert!(view.select_one().is_some_and(|chosen| chosen.port > 0));
            assert_eq!(view.instances().len(), 10_000);
            assert!(view.is_ready() && !view.is_stale());
        }
    });
    assert_eq!(counted.count_total, 0, "{counted:?}");
    assert!(measure(|| drop(view.instances().to_vec())).count_total > 0, "the counter counts");
}

#[test]
fn calls_allocate_nothing_whatever_the_policy() {
    let all = ServiceView::fixed(service(), (1..=10_000).map(|port| Instance::new("127.0.0.7", port)));
    for policy in [Policy::WeightedRandom, Policy::LeastLoaded, Policy::WeightedRoundRobin, Policy::ConsistentHash] {
        let view = all.with(|selection| selection.policy(policy).prefer_cluster("DEFAULT"));
        // The first call of a view prepares the records of calls. Not counted.
        let tried = [view.begin().unwrap().instance().clone()];
        let counted = measure(|| {
            for _ in 0..1_000 {
                view.begin().unwrap().succeeded();
                drop(view.begin_for("key").unwrap());
                view.begin_excluding(&tried).unwrap().failed();
            }
        });
        assert_eq!(counted.count_total, 0, "{policy:?}: {counted:?}");
    }
}

/// Counts the messages that all listeners of one service have received.
#[derive(Default)]
struct Received {
    count: Cell<usize>,
    one_more: Notify,
}

struct Listener(Rc<Received>);

impl Actor for Listener {
    type Context = Context<Self>;
}

impl Handler<ServiceChanged> for Listener {
    type Result = ();

    fn handle(&mut self, _: ServiceChanged, _: &mut Context<Self>) {
        self.0.count.set(self.0.count.get() + 1);
        self.0.one_more.notify_one();
    }
}

/// `count` weak listeners subscribe and receive three lists.
async fn notify_weak_listeners(count: usize) {
    let received = Rc::new(Received::default());
    let listeners: Vec<_> = (0..count).map(|_| Listener(received.clone()).start()).collect();
    let watch = Watch::start_weak(list(1), listeners.iter().map(|listener| listener.downgrade().recipient()));
    for lists in 1..=3 {
        if lists > 1 {
            watch.push(list(lists));
        }
        while received.count.get() < count * usize::from(lists) {
            received.one_more.notified().await;
        }
    }
}

fn list(length: u16) -> ServiceInfo {
    let instances = (1..=length).map(|port| Instance::new("127.0.0.1", port));
    ServiceInfo::clone(&ServiceView::fixed(service(), instances).info())
}

/// Each check of a weak listener allocates a sender, so the number of allocations shows the number of checks.
#[test]
fn the_work_for_a_change_grows_linearly_with_the_number_of_weak_listeners() {
    let counted = |listeners| measure(|| System::new().block_on(notify_weak_listeners(listeners))).count_total;
    let (hundred, thousand) = (counted(100), counted(1_000));
    assert!(thousand < 12 * hundred, "{hundred} allocations for 100 listeners, {thousand} for 1,000");
}
