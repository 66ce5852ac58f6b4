//! The soak in a simulation: client and servers in one thread, with a paused clock, a network in memory and seeded
//! faults. So a minute takes milliseconds, and a failure can be repeated.
//!
//! `SEEDS=10000 cargo test --release --test simulation` runs as many seeds, with `SEED=7` from there. `SEED=7 cargo test
//! --test simulation -- --nocapture` runs this seed alone, and prints its log.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "scenarios/soak.rs"]
mod soak;
mod support;

use std::{
    cell::{Cell, RefCell},
    env,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    panic::{self, AssertUnwindSafe},
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering},
        Arc, Mutex,
    },
    thread,
    time::Duration,
};

use actix::System;
use actix_nacos::testing::network::Network;
use slog::{o, Drain, Logger, Never, OwnedKVList, Record};
use soak::{removals, Figures, Simulation, Sizes};
use support::{logs, ms};
use tokio::{runtime::Builder, time::Instant};

/// How many seeds run if the environment does not say. A release build is ten times as fast.
const SEEDS: u64 = if cfg!(debug_assertions) { 5 } else { 300 };
/// How long faults are made for each seed.
const LAST: Duration = Duration::from_secs(40);
/// Violations after which no further seed begins.
const ENOUGH: usize = 5;

thread_local! {
    /// The first panic of the seed that this thread runs, also one that was caught.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
    static SIMULATES: Cell<bool> = const { Cell::new(false) };
}

/// What is done with the records of the log.
#[derive(Clone, Copy, PartialEq)]
enum Log {
    Discard,
    Print,
    /// Into the hash of the run.
    Hash,
}

/// Runs a seed. Gives its figures and the hash of its log, or what it violates.
fn simulate(seed: u64, log: Log) -> Result<(Figures, u64), String> {
    let run = || {
        let (network, _installed) = Network::install(seed);
        fastrand::seed(seed);
        let hash = Arc::new(Mutex::new(DefaultHasher::new()));
        let mut dice = fastrand::Rng::with_seed(seed);
        let (latency, hashed) = (ms(dice.u64(..20)), hash.clone());
        let paused = || Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let figures = System::with_tokio_rt(paused).block_on(async move {
            let log = match log {
                Log::Discard => Logger::root(slog::Discard, o!()),
                _ => Logger::root(
                    Trace { began: Instant::now(), log, hash: hashed, is_over: AtomicBool::new(false) },
                    o!(),
                ),
            };
            let simulation = Some(Simulation { network, latency, log });
            let sizes = Sizes {
                services: 3,
                workers: 3,
                of_each_worker: 4,
                beat_interval: ms(2000),
                pause: ms(500),
                simulation,
            };
            soak::soak(sizes, LAST, seed, |_| {}).await
        });
        let hash = hash.lock().unwrap().finish();
        (figures, hash)
    };
    PANIC.take();
    SIMULATES.set(true);
    let ran = panic::catch_unwind(AssertUnwindSafe(run));
    SIMULATES.set(false);
    match (PANIC.take(), ran) {
        (None, Ok(ran)) => check(&ran.0).map(|()| ran),
        (panic, _) => Err(panic.unwrap_or_default()),
    }
}

fn check(figures: &Figures) -> Result<(), String> {
    let removals = &figures.removals;
    if removals.overdue > 0 {
        return Err(format!("{} removals are overdue, the first one {:?}", removals.overdue, removals.first_overdue));
    }
    Ok(())
}

struct Trace {
    began: Instant,
    log: Log,
    hash: Arc<Mutex<DefaultHasher>>,
    is_over: AtomicBool,
}

impl Drain for Trace {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        let line = format!("{:10.3?} {}", self.began.elapsed().as_secs_f64(), logs::text(record, values));
        if self.log == Log::Print {
            println!("{line}");
        }
        // A shutdown deregisters in any order.
        if !self.is_over.load(Ordering::Relaxed) {
            line.hash(&mut *self.hash.lock().unwrap());
        }
        self.is_over.fetch_or(line.ends_with("test: the end"), Ordering::Relaxed);
        Ok(())
    }
}

/// Keeps the panics of a thread that runs a seed, and prints all others.
fn keep_panics() {
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        if SIMULATES.get() {
            PANIC.with_borrow_mut(|first| {
                first.get_or_insert_with(|| panic.to_string());
            });
        } else {
            print(panic);
        }
    }));
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

#[test]
fn no_seed_violates_a_promise() {
    let (seeds, log) = match (number("SEED"), number("SEEDS")) {
        (Some(seed), None) => (seed..seed + 1, Log::Print),
        (first, count) => (first.unwrap_or(0)..first.unwrap_or(0) + count.unwrap_or(SEEDS), Log::Discard),
    };
    keep_panics();
    let began = std::time::Instant::now();
    let (next, done) = (AtomicU64::new(seeds.start), Mutex::new(Done::default()));
    let work = || loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= seeds.end || done.lock().unwrap().violations.len() >= ENOUGH {
            return;
        }
        let ran = simulate(seed, log);
        done.lock().unwrap().count(seed, ran);
    };
    thread::scope(|scope| {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        (0..threads).for_each(|_| drop(scope.spawn(work)));
    });
    let done = done.into_inner().unwrap();
    println!("{} in {:.1?}", done.summary(), began.elapsed());
    assert!(done.violations.is_empty(), "{} violations, see above", done.violations.len());
    assert!(done.pushed.holds() && done.polled.holds(), "fewer than 95 percent of the removals in time");
}

/// The results of all seeds.
#[derive(Default)]
struct Done {
    seeds: u64,
    operations: u64,
    faults: u64,
    longest: Duration,
    pushed: removals::Summary,
    polled: removals::Summary,
    violations: Vec<String>,
}

impl Done {
    fn count(&mut self, seed: u64, ran: Result<(Figures, u64), String>) {
        self.seeds += 1;
        let figures = match ran {
            Ok((figures, _)) => figures,
            Err(violation) => {
                let command = format!("SEED={seed} cargo test --test simulation no_seed -- --nocapture");
                let violation = format!("seed {seed}: {violation}\nrepeat it by: {command}\n");
                println!("{violation}");
                return self.violations.push(violation);
            }
        };
        self.operations += figures.operations;
        self.faults += figures.faults;
        self.longest = self.longest.max(figures.settled_after);
        self.pushed.add(&figures.removals.pushed);
        self.polled.add(&figures.removals.polled);
    }

    fn summary(&self) -> String {
        let removals = |seen: &removals::Summary| format!("{} of {}", seen.in_time, seen.removals);
        format!(
            "{} seeds, {} violations, {} operations, {} faults, settled after at most {:.1?}, removals in time: {} \
             pushed and {} polled",
            self.seeds,
            self.violations.len(),
            self.operations,
            self.faults,
            self.longest,
            removals(&self.pushed),
            removals(&self.polled)
        )
    }
}

#[test]
fn a_seed_repeats_itself() {
    keep_panics();
    for seed in 0..2 {
        let [one, other] = [(), ()].map(|()| simulate(seed, Log::Hash).unwrap().1);
        assert_eq!(one, other, "seed {seed}");
    }
}
