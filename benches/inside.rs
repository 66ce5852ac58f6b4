//! The work inside the process: comparing two lists, parsing lists, pushes and answers to beats, building beats, and
//! notifying many listeners of a change.
//!
//! `cargo bench --bench inside`.

use std::{
    cell::Cell,
    hint::black_box,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use actix::prelude::*;
use actix_nacos::{
    testing::bench::{beat, difference, pushed, Answered, BeatCounters, Watch},
    Instance, InstanceKey, InstanceStatus, RegistryStatus, ServerStatus, ServiceChanged, ServiceInfo, ServiceName,
    ServiceView, SubscriptionStatus, DEFAULT_CLUSTER, DEFAULT_GROUP,
};
use criterion::{criterion_group, criterion_main, BatchSize, BenchmarkId, Criterion};
use tokio::sync::Notify;

#[path = "support/list.rs"]
mod list;

const SERVICE: &str = "DEFAULT_GROUP@@orders";

fn service() -> ServiceName {
    ServiceName { group: DEFAULT_GROUP.into(), name: "orders".into() }
}

/// A list of `length` instances. The instance number `heavier` has another weight.
fn info(length: usize, heavier: Option<usize>) -> Arc<ServiceInfo> {
    let instance = |number: usize| {
        let mut instance = Instance::new(format!("127.{}.{}.{}", number >> 16, number >> 8 & 255, number & 255), 80);
        instance.weight = if heavier == Some(number) { 2.0 } else { 1.0 };
        instance.metadata.insert("zone".into(), "a".into());
        instance
    };
    ServiceView::fixed(service(), (1..=length).map(instance)).info()
}

fn differences(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("difference");
    for length in [10, 1_000, 10_000, 100_000] {
        let (old, same, other) = (info(length, None), info(length, None), info(length, Some(length / 2)));
        group.bench_function(BenchmarkId::new("none", length), |bench| bench.iter(|| difference(&old, &same)));
        group.bench_function(BenchmarkId::new("one", length), |bench| bench.iter(|| difference(&old, &other)));
    }
    group.finish();
}

fn reading(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("read");
    for length in [10, 1_000] {
        let answer = Answered::new(list::list(SERVICE, length));
        let service = service();
        group.bench_function(BenchmarkId::new("list", length), |bench| bench.iter(|| answer.list(&service)));
    }
    let text = list::list(SERVICE, 10);
    group.bench_function("serde_json_value/10", |bench| {
        bench.iter(|| serde_json::from_str::<serde_json::Value>(&text));
    });
    let push = serde_json::json!({ "type": "dom", "data": text, "lastRefTime": 1_700_000_000_000_000_i64 }).to_string();
    group.bench_function("push/10", |bench| bench.iter(|| pushed(push.as_bytes())));
    let reply = Answered::new(r#"{"clientBeatInterval":5000,"code":10200,"lightBeatEnabled":true}"#);
    group.bench_function("beat", |bench| bench.iter(|| reply.beat_code()));
    group.finish();
}

fn building(criterion: &mut Criterion) {
    let key = InstanceKey { service: service(), cluster: DEFAULT_CLUSTER.into(), ip: "127.0.0.7".into(), port: 8080 };
    let instance = Instance::new("127.0.0.7", 8080);
    criterion.bench_function("build/light_beat", |bench| bench.iter(|| beat(black_box(&key), None)));
    criterion.bench_function("build/full_beat", |bench| bench.iter(|| beat(black_box(&key), Some(&instance))));
}

/// Counts the messages that the listeners of one service have received.
struct Crowd {
    told: Cell<usize>,
    size: usize,
    all_told: Notify,
}

struct Listener(Rc<Crowd>);

impl Actor for Listener {
    type Context = Context<Self>;
}

impl Handler<ServiceChanged> for Listener {
    type Result = ();

    fn handle(&mut self, news: ServiceChanged, _: &mut Context<Self>) {
        black_box(news.changed.len());
        self.0.told.set(self.0.told.get() + 1);
        if self.0.told.get().is_multiple_of(self.0.size) {
            self.0.all_told.notify_one();
        }
    }
}

/// Measures from a pushed list with one change until the last listener has received the message.
fn telling(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("tell");
    for listeners in [1, 100] {
        for length in [1_000, 10_000] {
            let lists = [info(length, None), info(length, Some(length / 2))];
            group.bench_function(BenchmarkId::new(format!("listeners/{listeners}"), length), |bench| {
                bench.iter_custom(|rounds| System::new().block_on(tell(listeners, Watch::start, &lists, rounds)));
            });
        }
    }
    // The cost must grow linearly with the number of listeners.
    for listeners in [100, 1_000] {
        let lists = [info(10, None), info(10, Some(5))];
        let weakly = |first, recipients: Vec<Recipient<_>>| {
            Watch::start_weak(first, recipients.iter().map(Recipient::downgrade))
        };
        group.bench_function(BenchmarkId::new("weak_listeners", listeners), |bench| {
            bench.iter_custom(|rounds| System::new().block_on(tell(listeners, weakly, &lists, rounds)));
        });
    }
    group.finish();
}

async fn tell(
    listeners: usize,
    start: impl FnOnce(ServiceInfo, Vec<Recipient<ServiceChanged>>) -> Watch,
    lists: &[Arc<ServiceInfo>; 2],
    rounds: u64,
) -> Duration {
    let crowd = Rc::new(Crowd { told: Cell::new(0), size: listeners, all_told: Notify::new() });
    let recipients: Vec<_> = (0..listeners).map(|_| Listener(crowd.clone()).start().recipient()).collect();
    let watch = start((*lists[1]).clone(), recipients.clone());
    crowd.all_told.notified().await;
    let mut took = Duration::ZERO;
    for round in 0..rounds {
        let info = (*lists[(round % 2) as usize]).clone();
        let began = Instant::now();
        watch.push(info);
        crowd.all_told.notified().await;
        took += began.elapsed();
    }
    took
}

/// Measures a clone of the list, which the measurements of `tell` leave out.
fn copying(criterion: &mut Criterion) {
    let info = info(10_000, None);
    criterion.bench_function("tell/clone_of_the_list/10000", |bench| {
        bench.iter_batched(|| (), |()| (*info).clone(), BatchSize::SmallInput);
    });
}

/// Measures how much the metrics cost: counting one beat, and one scrape of 1,000 instances and 100 services.
fn counting(criterion: &mut Criterion) {
    let (counters, due) = (BeatCounters::default(), Instant::now());
    criterion
        .bench_function("metrics/count_a_beat", |bench| bench.iter(|| counters.count(black_box(due), Instant::now())));
    let status = large_status();
    assert!(status.to_prometheus().lines().count() > 900);
    criterion
        .bench_function("metrics/render/1000_instances_100_services", |bench| bench.iter(|| status.to_prometheus()));
}

fn large_status() -> RegistryStatus {
    let mut status = RegistryStatus::default();
    let key = |port| InstanceKey { service: service(), cluster: DEFAULT_CLUSTER.into(), ip: "127.0.0.7".into(), port };
    status.instances = (1..=1_000).map(|port| InstanceStatus::new(key(port))).collect();
    let watched = |number| {
        let mut watched = SubscriptionStatus::new(ServiceName { name: format!("orders-{number}").into(), ..service() });
        (watched.instances, watched.healthy, watched.last_success_ms_ago) = (Some(10), 10, Some(1_234));
        watched
    };
    status.subscriptions = (0..100).map(watched).collect();
    status.servers = (1..=3).map(|number| ServerStatus::new(format!("127.0.0.{number}:8848"))).collect();
    status
}

/// Few samples: the goals are ratios within one run, so the third digit does not matter.
fn briefly() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(700))
        .sample_size(20)
}

criterion_group! { name = benches; config = briefly(); targets = differences, reading, building, telling, copying, counting }
criterion_main!(benches);
