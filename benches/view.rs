//! The cost of a lookup and of a call, compared with what a user would write without `ServiceView`.
//!
//! `cargo bench --bench view`. Every figure is per lookup, which includes reading the chosen instance.
//! `tests/allocations.rs` shows that lookups allocate nothing.

use std::{
    hint::black_box,
    sync::{
        atomic::{AtomicBool, Ordering},
        Arc, Barrier, RwLock,
    },
    thread,
    time::{Duration, Instant},
};

use actix::prelude::*;
use actix_nacos::{Instance, Policy, ServiceName, ServiceView};
use criterion::{criterion_group, criterion_main, BenchmarkId, Criterion};

const LENGTHS: [usize; 3] = [100, 10_000, 100_000];

fn instances(length: usize) -> Vec<Instance> {
    let with_weight = |number: usize| {
        let ip = format!("127.{}.{}.{}", number >> 16, number >> 8 & 255, number & 255);
        let mut instance = Instance::new(ip, 80);
        instance.weight = (number % 10 + 1) as f64;
        instance.metadata.insert("zone".into(), "a".into());
        instance
    };
    (1..=length).map(with_weight).collect()
}

fn view(length: usize) -> ServiceView {
    ServiceView::fixed(ServiceName { group: "DEFAULT_GROUP".into(), name: "orders".into() }, instances(length))
}

/// Runs `lookups` lookups in each of `threads` threads at the same time. Returns the time of the slowest thread.
fn together(threads: usize, lookups: u64, lookup: impl Fn() + Sync) -> Duration {
    let start = Barrier::new(threads);
    let run = || {
        start.wait();
        let before = Instant::now();
        (0..lookups).for_each(|_| lookup());
        before.elapsed()
    };
    thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        running.into_iter().filter_map(|thread| thread.join().ok()).max().unwrap_or_default()
    })
}

fn lookups(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("select_one");
    for length in LENGTHS {
        let view = view(length);
        let select = || _ = black_box(view.select_one().map(|chosen| chosen.port));
        group.bench_function(BenchmarkId::new("one_thread", length), |bench| bench.iter(select));
        group.bench_function(BenchmarkId::new("each_of_two_threads", length), |bench| {
            bench.iter_custom(|lookups| together(2, lookups, select));
        });
    }
    group.finish();
}

/// Measures a call: choosing an instance, `begin` and `succeeded`.
fn calls(criterion: &mut Criterion) {
    let policies = [
        ("weighted_random", Policy::WeightedRandom),
        ("least_loaded", Policy::LeastLoaded),
        ("round_robin", Policy::WeightedRoundRobin),
        ("consistent_hash", Policy::ConsistentHash),
    ];
    let mut group = criterion.benchmark_group("begin");
    // Calls of a service with three instances all write one reference count.
    for length in [3, 100, 10_000] {
        let all = view(length);
        for (name, policy) in policies {
            let view = all.with(|selection| selection.policy(policy));
            let call = || {
                let begun = if policy == Policy::ConsistentHash { view.begin_for(b"user-17") } else { view.begin() };
                if let Ok(call) = begun {
                    black_box(call.port);
                    call.succeeded();
                }
            };
            group.bench_function(BenchmarkId::new(name, length), |bench| bench.iter(call));
            // All calls with one key go to one instance, so two threads would contend for its record.
            if policy != Policy::ConsistentHash {
                group.bench_function(BenchmarkId::new(format!("{name}/each_of_two_threads"), length), |bench| {
                    bench.iter_custom(|calls| together(2, calls, call));
                });
            }
        }
    }
    group.finish();
}

/// Measures lookups while another thread clones and drops views all the time, as request handlers do.
fn beside_clones(criterion: &mut Criterion) {
    criterion.bench_function("select_one/beside_a_thread_that_clones_views/100", |bench| {
        let view = view(100);
        bench.iter_custom(|lookups| {
            let done = AtomicBool::new(false);
            thread::scope(|scope| {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        drop(black_box(view.clone()))
                    }
                });
                let took = together(1, lookups, || _ = black_box(view.select_one().map(|chosen| chosen.port)));
                done.store(true, Ordering::Relaxed);
                took
            })
        });
    });
}

/// For comparison: a list behind a lock that every reader copies, as most registry clients do it.
fn cloned_list(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("peers/cloned_list");
    for length in LENGTHS {
        let shared = RwLock::new(instances(length).into_iter().map(Arc::new).collect::<Vec<_>>());
        let lookup = || {
            let list = shared.read().map(|list| list.clone()).unwrap_or_default();
            let mut at = fastrand::f64() * list.iter().map(|instance| instance.weight).sum::<f64>();
            let chosen = list.iter().find(|instance| {
                at -= instance.weight;
                at < 0.0
            });
            black_box(chosen.map(|instance| instance.port));
        };
        group.bench_function(BenchmarkId::new("one_thread", length), |bench| bench.iter(lookup));
        group.bench_function(BenchmarkId::new("each_of_two_threads", length), |bench| {
            bench.iter_custom(|lookups| together(2, lookups, lookup));
        });
    }
    group.finish();
}

/// For comparison: an actor that owns the list and answers with one instance per message.
struct Keeper(ServiceView);

impl Actor for Keeper {
    type Context = Context<Self>;
}

#[derive(Message)]
#[rtype(result = "Option<Arc<Instance>>")]
struct SelectOne;

impl Handler<SelectOne> for Keeper {
    type Result = MessageResult<SelectOne>;

    fn handle(&mut self, _: SelectOne, _: &mut Context<Self>) -> Self::Result {
        MessageResult(self.0.select_one().map(|chosen| chosen.into_owned()))
    }
}

fn mailbox(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("peers/mailbox_round_trip");
    let asked = |lookups: u64, keeper: Addr<Keeper>| async move {
        let before = Instant::now();
        for _ in 0..lookups {
            black_box(keeper.send(SelectOne).await.ok().flatten().map(|instance| instance.port));
        }
        before.elapsed()
    };
    group.bench_function("same_thread/100", |bench| {
        let system = System::new();
        let keeper = system.block_on(async { Keeper(view(100)).start() });
        bench.iter_custom(|lookups| system.block_on(asked(lookups, keeper.clone())));
    });
    group.bench_function("other_thread/100", |bench| {
        let system = System::new();
        let keeper =
            system.block_on(async { Keeper::start_in_arbiter(&Arbiter::new().handle(), |_| Keeper(view(100))) });
        bench.iter_custom(|lookups| system.block_on(asked(lookups, keeper.clone())));
    });
    group.finish();
}

/// Few samples: the goals are ratios within one run, so the third digit does not matter.
fn briefly() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(700))
        .sample_size(20)
}

criterion_group! { name = benches; config = briefly(); targets = lookups, calls, beside_clones, cloned_list, mailbox }
criterion_main!(benches);
