//! The cost of a call by name, compared with the same call by plain awc, on loopback.
//!
//! `cargo bench --bench calls` alternates between both for seven rounds and prints the medians. If a goal is missed,
//! the program panics.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/measure.rs"]
#[allow(dead_code, reason = "shared with the other benches")]
mod measure;

use std::time::{Duration, Instant};

use actix_nacos::{balance::Client, embedded::EmbeddedServer, Config, RegisterInstance, Registry};
use actix_web::{web, App, HttpServer};
use rustix::time::{clock_gettime, ClockId};

const ROUNDS: usize = 7;
const CALLS: u32 = 5000;
/// As a multiple of the CPU time of plain awc.
const CPU_GOAL: f64 = 1.10;
const P50_GOAL: Duration = Duration::from_micros(10);

/// The cost of one call.
struct Round {
    /// CPU time of the whole process, including the server, in microseconds.
    cpu: f64,
    /// CPU time of the calling thread alone, in microseconds.
    thread_cpu: f64,
    p50: f64,
}

fn main() {
    actix::System::new().block_on(run());
}

async fn run() {
    let nacos = EmbeddedServer::start().expect("a free port");
    let registry = Registry::start(Config::new(nacos.server_address())).expect("a registry");
    let app = || App::new().default_service(web::to(|| async { "hello" }));
    let server = HttpServer::new(app).workers(1).bind(("127.0.0.1", 0)).expect("a free port");
    let port = server.addrs()[0].port();
    actix_rt::spawn(server.run());
    registry.send(RegisterInstance::new("hello", "127.0.0.1", port)).await.expect("sent").expect("registered");

    let (plain, by_name) = (awc::Client::default(), Client::builder(&registry).service("hello").finish());
    let direct = format!("http://127.0.0.1:{port}/");
    // A test run only shows that the bench works. It is no release build, so its figures mean nothing.
    let is_test = std::env::args().any(|argument| argument == "--test");
    let rounds = if is_test { 1 } else { ROUNDS };
    let (mut of_plain, mut of_by_name) = (Vec::new(), Vec::new());
    // The first round warms up and is not counted.
    for round in 0..=rounds {
        let (one, other) = (measure(&plain, &direct).await, measure(&by_name, "http://hello/").await);
        if round > 0 {
            of_plain.push(one);
            of_by_name.push(other);
        }
    }
    let median = |rounds: &[Round], of: fn(&Round) -> f64| measure::median(rounds.iter().map(of).collect());
    let both = |of| (median(&of_plain, of), median(&of_by_name, of));
    let ((cpu, cpu_by_name), (p50, p50_by_name)) = (both(|round| round.cpu), both(|round| round.p50));
    let (thread, thread_by_name) = both(|round| round.thread_cpu);
    let ratio = cpu_by_name / cpu;
    println!(
        "calls: CPU {cpu:.1} us plain, {cpu_by_name:.1} us by name: {ratio:.3} times; of the caller's thread alone \
         {thread:.1} and {thread_by_name:.1} us: {:.3} times; p50 {p50:.1} and {p50_by_name:.1} us",
        thread_by_name / thread
    );
    if is_test {
        return;
    }
    assert!(ratio <= CPU_GOAL, "CPU");
    assert!(p50_by_name - p50 <= P50_GOAL.as_secs_f64() * 1e6, "p50");
}

async fn measure(client: &awc::Client, url: &str) -> Round {
    let (meter, thread, mut times) = (measure::Meter::start(), thread_cpu(), Vec::new());
    for _ in 0..CALLS {
        let began = Instant::now();
        let mut answer = client.get(url).send().await.expect("an answer");
        assert_eq!(answer.body().await.expect("a body"), "hello");
        times.push(began.elapsed().as_secs_f64() * 1e6);
    }
    let each = |micros: f64| micros / f64::from(CALLS);
    let thread = (thread_cpu() - thread).as_secs_f64() * 1e6;
    Round { cpu: each(meter.read().0), thread_cpu: each(thread), p50: measure::median(times) }
}

fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}
