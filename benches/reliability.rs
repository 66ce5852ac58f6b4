//! Runs the scenarios at full length. `docs/reliability.md` has the promise and the measured figures of each.
//!
//! `cargo bench --bench reliability -- NAME [--seconds N] [--seed S] [--metrics FILE]` runs one scenario, `-- all` all of
//! them one after the other. The soak writes its metrics to the file. The program panics if a promise does not hold.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(missing_docs, reason = "a program has no readers of its items")]

#[path = "../tests/scenarios/mod.rs"]
mod scenarios;
#[path = "../tests/scenarios/soak.rs"]
mod soak;
#[path = "../tests/support/mod.rs"]
mod support;

use std::{future::Future, time::Duration};

use actix::System;
use actix_nacos::{balance::Retry, embedded::EmbeddedServer, Config, Policy, PushConfig, Selection};
use scenarios::{
    blocked, by_weight, datagrams, eject, failover, kill9, listeners, many_offline, outage, restart, rnacos, rolling,
    rolling_restart, session, sigterm, slow, time_to_remove,
};
use support::measure;

const NAMES: [&str; 19] = [
    "time_to_remove",
    "rolling_restart",
    "restart",
    "rnacos",
    "failover",
    "outage",
    "blocked",
    "listeners",
    "session",
    "datagrams",
    "sigterm",
    "offline",
    "kill9",
    "rolling",
    "eject",
    "slow",
    "shares",
    "calls_in_outage",
    "soak",
];

/// A bound for what usually takes milliseconds, so that a slow machine does not break it.
const SECOND: Duration = Duration::from_secs(1);
/// The default beat interval of Nacos' clients.
const BEAT: Duration = Duration::from_secs(5);

struct Options {
    seconds: u64,
    seed: u64,
    metrics: Option<String>,
}

fn main() {
    let (mut names, mut options) = (Vec::new(), Options { seconds: 300, seed: 1, metrics: None });
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|text| text.parse().ok()).expect("a number");
        match argument.as_str() {
            "--seconds" => options.seconds = number(),
            "--seed" => options.seed = number(),
            "--metrics" => options.metrics = Some(arguments.next().expect("a file")),
            "all" => names.extend(NAMES.map(String::from)),
            name if NAMES.contains(&name) => names.push(name.into()),
            _ => {}
        }
    }
    if names.is_empty() {
        println!(
            "cargo bench --bench reliability -- all | {} [--seconds N] [--seed S] [--metrics FILE]",
            NAMES.join(" | ")
        );
    }
    for name in names {
        stage(&name, &options);
    }
}

fn run<T>(scenario: impl Future<Output = T>) -> T {
    System::new().block_on(scenario)
}

fn stage(name: &str, options: &Options) {
    match name {
        "time_to_remove" => time_to_remove(),
        "rolling_restart" => rolling_restart(),
        "restart" => restart(),
        "rnacos" => rnacos(),
        "failover" => failover(),
        "outage" => outage(),
        "blocked" => blocked(),
        "listeners" => listeners(),
        "session" => session(),
        "datagrams" => datagrams(options),
        "sigterm" => sigterm(),
        "offline" => offline(),
        "kill9" => kill9(),
        "rolling" => rolling(),
        "eject" => eject(),
        "slow" => slow(),
        "shares" => shares(),
        "calls_in_outage" => calls_in_outage(),
        _ => soak(options),
    }
}

/// Measures on the embedded server, and on the server in `NACOS_SERVER_ADDR` if that is set.
fn time_to_remove() {
    // The short timeout makes the server close idle connections during the whole run.
    let server = EmbeddedServer::builder().idle_timeout(BEAT).start().expect("a free port");
    let mut figures = vec![time_to_remove_at("the embedded server", Config::new(server.server_address()))];
    if std::env::var_os("NACOS_SERVER_ADDR").is_some() {
        let config = Config::from_env().expect("the address of a server");
        figures.push(time_to_remove_at("NACOS_SERVER_ADDR", config));
    }
    for figures in figures {
        assert!(figures.longest() <= figures.bound(), "promised within {:?}", figures.bound());
    }
}

fn time_to_remove_at(server: &str, config: Config) -> time_to_remove::Figures {
    let sizes = time_to_remove::Sizes {
        shapes: time_to_remove::SHAPES.to_vec(),
        services: 20,
        // Longer than the time for which a list is polled more often after a change.
        rest: Duration::from_secs(25),
        spread: Duration::from_secs(20),
        poll_interval: Duration::from_secs(10),
    };
    let figures = run(time_to_remove::time_to_remove(config, &sizes));
    let how = figures.polled_every.map_or("pushed".into(), |interval| format!("polled every {interval:.1?}"));
    for (time_to_remove::Shape { leaving, of }, times) in &figures.times {
        let measure::Spread { count, median, longest } = times;
        println!(
            "time_to_remove: {leaving} of {of} on {server}, {how}: median {median:.2?}, longest {longest:.2?}, {count} times"
        );
    }
    if figures.left_out > 0 {
        println!("time_to_remove: {} more were left out, since the machine stalled", figures.left_out);
    }
    figures
}

fn rolling_restart() {
    let server = EmbeddedServer::builder().idle_timeout(BEAT).start().expect("a free port");
    let sizes = rolling_restart::Sizes {
        rate: 200,
        before: Duration::from_secs(3),
        drain: Duration::from_secs(2),
        between: Duration::from_secs(2),
    };
    let calls = run(rolling_restart::rolling_restart(&server, &sizes));
    let failed = calls.failed.len();
    println!(
        "rolling_restart: {} requests at 200/s while three instances were restarted, {failed} failed",
        calls.requests
    );
    assert_eq!(failed, 0, "{:?}", calls.failed.first());
}

fn restart() {
    let sizes = restart::Sizes { instances: 1000, subscriptions: 50, interval: BEAT };
    let took = run(restart::restart_empty(&sizes));
    println!("restart: 1,000 instances and 50 subscriptions, all back after {took:.1?}, nobody told of a removal");
    assert!(took <= BEAT + SECOND);
}

fn rnacos() {
    let figures = run(rnacos::killed_and_restarted_without_data(1000, 50));
    let rnacos::Figures { back_after, out_for } = figures;
    println!("rnacos: 1,000 instances and 50 subscriptions, all back with weights and metadata {back_after:.1?} after its first answer, {out_for:.1?} after its end");
    assert!(back_after <= rnacos::INTERVAL + SECOND);
}

fn failover() {
    use failover::{instances_move_to_another_server, one_of_three_dies_under_load, Death};
    for death in [Death::Refuses, Death::Hangs] {
        let timeout = Duration::from_secs(3);
        let figures = run(one_of_three_dies_under_load(10_000, death, timeout));
        let failover::Figures { operations, failed, slowest, took } = figures;
        let failed = failed.len();
        println!("failover: {death:?}: {operations} operations in {took:.1?}, {failed} failed, the slowest took {slowest:.1?}");
        assert_eq!(failed, 0);
        let moved = run(instances_move_to_another_server(1000, BEAT, death, timeout));
        println!("failover: {death:?}: 1,000 instances at another server after {moved:.1?}");
        assert!(moved <= BEAT + timeout + SECOND);
    }
}

fn outage() {
    let sizes = outage::Sizes {
        instances: 1000,
        services: 50,
        interval: BEAT,
        request_timeout: Duration::from_secs(3),
        down_for: Duration::from_secs(60),
    };
    for fault in [outage::Fault::Refuse, outage::Fault::Hang] {
        let outage::Figures { requests_per_second, back_after } = run(outage::all_servers_fail(fault, &sizes));
        println!("outage: {fault:?} for 60 s: {requests_per_second:.1} requests/s, 1,000 instances back after {back_after:.1?}");
        // A breaker that is open delays the first request by up to 2 s. Then each instance beats within one interval.
        assert!(requests_per_second < 5.0 && back_after < BEAT + 2 * SECOND);
    }
}

fn blocked() {
    let silence = blocked::application_threads_are_blocked(Duration::from_secs(20), BEAT);
    let late = silence.saturating_sub(BEAT);
    println!(
        "blocked: 5 threads for 20 s: a beat at least every {silence:.1?}, late by {late:.1?}, healthy throughout"
    );
    assert!(late < SECOND);
}

fn listeners() {
    let figures = run(listeners::four_bad_listeners_among_a_hundred(10_000));
    let listeners::Figures { changes, took, grown_kib } = figures;
    println!("listeners: 96 of 100 saw each of {changes} changes in {took:.1?}; memory grew by {grown_kib} KiB");
    assert!(grown_kib < 8 * 1024);
}

fn session() {
    let (life, last) = (Duration::from_secs(8), Duration::from_secs(60));
    let session::Figures { operations, failed, logins, .. } = run(session::tokens_run_out(life, last));
    let failed = failed.len();
    println!("session: {operations} operations in 60 s with tokens of 8 s: {logins} logins, {failed} failed");
    // Tokens are renewed after 6.8 s, so there are logins at 0, 6.8, …, 54.4 s.
    assert_eq!((failed, logins), (0, 9));
}

fn datagrams(options: &Options) {
    let figures = run(datagrams::datagrams_that_no_server_sent(1_000_000, 10_000, options.seed));
    let datagrams::Figures { sent, polls, grown_kib } = figures;
    println!("datagrams: {sent}, none applied or answered; {polls} polls; memory grew by {grown_kib} KiB");
    assert!(grown_kib < 8 * 1024);
    for (hint_only, kib) in [(false, 256), (false, 4096), (true, 256), (true, 4096)] {
        let push = PushConfig::default().hint_only(hint_only);
        let figures = run(datagrams::flood_from_a_trusted_address(push, kib * 1024, 100));
        println!("datagrams: a flood of {kib} KiB each, hint_only({hint_only}): {figures:?}");
        assert!(figures.longest_pause < datagrams::FLOOD_BEAT_INTERVAL + SECOND);
        assert!(figures.polls <= figures.took.as_secs() + 2);
    }
}

fn sigterm() {
    let figures = run(sigterm::sigterm_under_load(1000, Duration::from_secs(3)));
    let sigterm::Figures { requests, failed, ended_after } = figures;
    println!(
        "sigterm: {requests} requests at 1,000/s, {} failed; ended {ended_after:.1?} after the signal",
        failed.len()
    );
    assert!(failed.is_empty(), "{failed:?}");
}

fn offline() {
    let figures = run(many_offline::many_instances_go_offline(100_000, Duration::from_secs(60)));
    let many_offline::Figures { registered_in, took, deregistered, failed, still_there } = figures;
    println!("offline: 100,000 instances registered in {registered_in:.1?}, {deregistered} deregistered in {took:.1?}");
    assert_eq!((deregistered, failed, still_there), (100_000, 0, 0));
}

fn kill9() {
    let sizes = kill9::Sizes { rate: 1000, before: 3 * SECOND, after: 10 * SECOND };
    let retried = run(kill9::one_of_three_is_killed(Retry::once(), &sizes));
    let once = run(kill9::one_of_three_is_killed(Retry::never(), &sizes));
    println!(
        "kill9: one of three instances killed at 1,000 GET/s: retry once: {} of {} failed; no retry: {} of {} failed, \
         {} were in flight",
        retried.failed.len(),
        retried.requests,
        once.failed.len(),
        once.requests,
        once.in_flight
    );
    assert!(retried.failed.is_empty(), "{:?}", retried.failed.first());
    assert!(once.failed.len() <= 5 + once.in_flight, "{:?}", once.failed);
}

fn rolling() {
    let server = EmbeddedServer::start().expect("a free port");
    let sizes =
        rolling::Sizes { rate: 1000, before: 3 * SECOND, between: 2 * SECOND, newcomers: Duration::from_millis(50) };
    let rolling::Figures { calls, first_calls } = run(rolling::rolling(&server, &sizes));
    println!(
        "rolling: three instances restarted one by one at 1,000 GET and POST/s: {} of {} failed, and {} of {} first \
         calls of callers that had just started",
        calls.failed.len(),
        calls.requests,
        first_calls.failed.len(),
        first_calls.requests
    );
    assert!(calls.failed.is_empty() && first_calls.failed.is_empty(), "{:?} {:?}", calls.failed, first_calls.failed);
}

fn eject() {
    let (bad_for, back_within) = (60 * SECOND, 35 * SECOND);
    let sizes = eject::Sizes { rate: 300, selection: Selection::default(), bad_for, back_within };
    let eject::Figures { until_ejected, share_afterwards, back_after, failed } =
        run(eject::one_of_three_answers_503(&sizes));
    let back = back_after.map_or("not back".into(), |time| format!("back after {time:.1?}"));
    println!(
        "eject: one of three instances answers 503 for 60 s at 300/s: ejected within {until_ejected} of its requests, \
         {:.3} % of the calls afterwards, {back}, {failed} calls failed with one retry",
        100.0 * share_afterwards
    );
    assert!(until_ejected <= 10 && share_afterwards <= 0.01);
    assert!(back_after.is_some_and(|time| time <= back_within));
}

fn slow() {
    let millis = Duration::from_millis;
    let sizes = slow::Sizes { rate: 500, slow: millis(20), others: millis(2), last: 20 * SECOND };
    let (random, share_at_random) = run(slow::one_of_three_is_slow(Policy::WeightedRandom, &sizes));
    let (least, share_of_least) = run(slow::one_of_three_is_slow(Policy::LeastLoaded, &sizes));
    println!(
        "slow: one of three takes 20 ms, the others 2 ms, at 500/s: p99 {:.1?} at random and {:.1?} by least loaded, the \
         slow one's share {:.1} % and {:.1} %",
        random.latency(99.0),
        least.latency(99.0),
        100.0 * share_at_random,
        100.0 * share_of_least
    );
    assert!(random.failed.is_empty() && least.failed.is_empty());
    assert!(least.latency(99.0) <= random.latency(99.0) / 2);
}

fn shares() {
    let shares = run(by_weight::shares([1.0, 2.0, 7.0], 100_000));
    let percent = shares.map(|share| 100.0 * share);
    println!("shares: weights 1 : 2 : 7, 100,000 calls by name: {percent:.2?} %");
    assert!(percent.iter().zip([10.0, 20.0, 70.0]).all(|(share, expected)| (share - expected).abs() <= 1.0));
}

fn calls_in_outage() {
    let [slow, fast] = [100, 1000].map(|rate| run(by_weight::requests_per_call(rate, 20 * SECOND)));
    println!(
        "calls_in_outage: all instances answer 503: {slow:.3} requests for each call at 100/s, {fast:.3} at 1,000/s"
    );
    assert!(slow <= 1.25 && fast <= 1.25);
}

fn soak(options: &Options) {
    let Options { seconds, seed, .. } = *options;
    let mut figures =
        run(soak::soak(soak::Sizes::full(), Duration::from_secs(seconds), seed, |line| println!("soak: {line}")));
    let metrics = std::mem::take(&mut figures.metrics);
    if let Some(file) = &options.metrics {
        std::fs::write(file, metrics).expect("the file can be written");
    }
    println!("soak: {seconds} s, seed {seed}: {figures:?}");
    let soak::removals::Figures { pushed, polled, overdue, first_overdue, left_out } = &figures.removals;
    for (how, seen) in [("pushed", pushed), ("polled", polled)] {
        let soak::removals::Summary { removals, in_time, median, longest } = seen;
        println!("soak: removals, {how}: {removals}, {in_time} in time, median {median:.2?}, longest {longest:.2?}");
        assert!(seen.holds(), "fewer than 95 percent in time");
    }
    println!("soak: removals: {left_out} left out, since the machine stalled");
    assert_eq!(*overdue, 0, "overdue, the first one {first_overdue:?}");
    let (early, late) = figures.resident_kib;
    assert!(late < early + early / 4 + 8 * 1024, "memory grew from {early} to {late} KiB");
    let (early, late) = figures.descriptors;
    // A full pool has 33 connections. There is one pool for each of the two servers. Each connection has three
    // descriptors in this process: one of the client and two of the server. Beside the pools, a few listeners and views
    // come and go.
    let pools = 2 * 3 * 33;
    assert!(late <= early + pools + 16, "descriptors grew from {early} to {late}");
}
