//! A hundred listeners of one service. Four of them are slow, full, panicking or gone.
#![allow(dead_code, unreachable_pub)]

use std::{
    sync::{
        atomic::{AtomicU64, Ordering},
        Arc,
    },
    thread,
    time::{Duration, Instant},
};

use actix::prelude::*;
use actix_nacos::{Config, RegisterInstance, Registry, ServiceChanged, Subscribe};

use crate::support::{ask, ms, process::resident_kib, shut_down, start, until, Gate, News, StopListener};

const GOOD: u64 = 96;
const SLOW: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub struct Figures {
    pub changes: u64,
    pub took: Duration,
    /// The growth of the memory after a tenth of the changes.
    pub grown_kib: i64,
}

/// Checks that it receives every change, and fails the test otherwise.
struct Good {
    last: u64,
    seen: Arc<AtomicU64>,
}

impl Actor for Good {
    type Context = Context<Self>;
}

impl Handler<ServiceChanged> for Good {
    type Result = ();

    fn handle(&mut self, news: ServiceChanged, _: &mut Context<Self>) {
        if version(&news) == self.last + 1 {
            self.last += 1;
            self.seen.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Handles each message slowly.
struct Slow {
    last: Arc<AtomicU64>,
}

impl Actor for Slow {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        ctx.set_mailbox_capacity(1);
    }
}

impl Handler<ServiceChanged> for Slow {
    type Result = ();

    fn handle(&mut self, news: ServiceChanged, _: &mut Context<Self>) {
        thread::sleep(SLOW);
        self.last.store(version(&news), Ordering::Relaxed);
    }
}

/// Panics at each message.
struct Panicking;

impl Actor for Panicking {
    type Context = Context<Self>;
}

impl Handler<ServiceChanged> for Panicking {
    type Result = ();

    fn handle(&mut self, _: ServiceChanged, _: &mut Context<Self>) {
        std::panic::resume_unwind(Box::new("on purpose"));
    }
}

fn version(news: &ServiceChanged) -> u64 {
    news.info.hosts.first().map_or(0, |host| host.metadata["version"].parse().expect("a number"))
}

async fn change(registry: &Addr<Registry>, version: u64) {
    let instance = RegisterInstance::new("orders", "127.0.0.7", 80).metadata("version", version.to_string());
    ask(registry, instance).await.unwrap();
}

/// # Panics
/// When one of the 96 good listeners misses a change.
pub async fn four_bad_listeners_among_a_hundred(changes: u64) -> Figures {
    let server = crate::support::builder().push_delay(ms(1)).start().expect("a free port");
    let registry = start(Config::new(server.server_address()));
    change(&registry, 1).await;

    let subscribe = async |listener: Recipient<ServiceChanged>| {
        ask(&registry, Subscribe::new("orders", listener)).await.unwrap();
    };
    let (seen, arbiter, slow_arbiter) = (Arc::new(AtomicU64::new(0)), Arbiter::new(), Arbiter::new());
    for _ in 0..GOOD {
        let seen = seen.clone();
        let good = Good::start_in_arbiter(&arbiter.handle(), move |_| Good { last: 0, seen });
        subscribe(good.recipient()).await;
    }
    let slow_last = Arc::new(AtomicU64::new(0));
    let last = slow_last.clone();
    subscribe(Slow::start_in_arbiter(&slow_arbiter.handle(), move |_| Slow { last }).recipient()).await;
    let gate = Gate::default();
    let mut full = News::listen_behind(gate.clone(), 1);
    subscribe(full.recipient()).await;
    subscribe(Panicking.start().recipient()).await;
    let gone = News::listen();
    subscribe(gone.recipient()).await;
    gone.listener.send(StopListener).await.expect("it stops");

    let (began, mut early) = (Instant::now(), 0);
    for version in 1..=changes {
        if version > 1 {
            change(&registry, version).await;
        }
        until("all 96 have seen the change", || seen.load(Ordering::Relaxed) == GOOD * version).await;
        if version == changes / 10 {
            early = resident_kib();
        }
    }
    let (took, grown_kib) = (began.elapsed(), resident_kib() as i64 - early as i64);

    until("the slow one has the newest list", || slow_last.load(Ordering::Relaxed) == changes).await;
    gate.open();
    let newest = full.until(|news| version(news) == changes).await;
    assert!(!newest.first && newest.changed.len() == 1, "compared with what it was told last: {newest:?}");
    shut_down(&registry).await;
    arbiter.stop();
    slow_arbiter.stop();
    Figures { changes, took, grown_kib }
}
