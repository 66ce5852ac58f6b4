//! How calls are shared among instances: `cargo run --example discover`.
//!
//! Threads choose instances from one view without a pause while instances are added, changed and removed. After each
//! change the shares of the choices follow the weights.

mod cli;

use std::{
    collections::BTreeMap,
    process::{id, ExitCode},
    sync::{
        atomic::{AtomicUsize, Ordering},
        Arc,
    },
    thread,
    time::Duration,
};

use actix::Addr;
use actix_nacos::{embedded::EmbeddedServer, prelude::*};
use actix_rt::time::{sleep, timeout};

const HELP: &str = "\
Chooses instances in several threads while the list changes, and compares the shares with the weights.

Usage: discover [OPTIONS]

  --server HOST:PORT  the Nacos server [NACOS_SERVER_ADDR, otherwise one inside this process]
  --threads N         how many threads choose [4]
  --for SECS          the duration of each of the three phases [1]
  --help              print this help";

/// How long the view may take to show a change.
const CHANGE_LIMIT: Duration = Duration::from_secs(10);
/// How far a share may be from the weight's share. The standard deviation of 100,000 choices is a tenth of this.
const TOLERANCE: f64 = 0.015;
/// The phase in which choices are not counted, because the list is changing.
const BETWEEN: usize = usize::MAX;
const END: usize = usize::MAX - 1;

/// How often each instance was chosen in each phase.
type Tally = BTreeMap<(usize, String), u64>;

#[actix::main]
async fn main() -> ExitCode {
    cli::log_to_stderr();
    let mut arguments = cli::Arguments::read(HELP);
    let config = arguments.config();
    let threads: usize = arguments.option("threads").unwrap_or(4);
    let time = arguments.seconds("for").unwrap_or(Duration::from_secs(1));
    arguments.finish();
    cli::ended(run(config, threads, time).await)
}

async fn run(config: Option<Config>, threads: usize, time: Duration) -> Result<(), Box<dyn std::error::Error>> {
    let embedded = if config.is_none() { Some(EmbeddedServer::start()?) } else { None };
    let address = embedded.as_ref().map(EmbeddedServer::server_address).unwrap_or_default();
    let second = Duration::from_secs(1);
    let config = config.unwrap_or_else(|| Config::new(address)).poll_interval(second, second);
    let registry = Registry::start(config)?;
    let service = format!("discover-{}", id());
    let instance = |last: u8| RegisterInstance::new(&service, format!("127.0.0.{last}"), 8080);

    registry.send(instance(1).weight(1.0)).await??;
    registry.send(instance(2).weight(2.0)).await??;
    registry.send(instance(3).weight(5.0)).await??;
    let mut view = registry.send(Discover::new(&service)).await??;
    until(&mut view, |list| list.len() == 3).await?;

    let phase = Arc::new(AtomicUsize::new(BETWEEN));
    let choosers: Vec<_> = (0..threads).map(|_| choose(view.clone(), phase.clone())).collect();
    let mut expected = Vec::new();
    expected.push(("three instances", count(&view, &phase, 0, time).await));
    registry.send(instance(4).weight(2.0)).await??;
    until(&mut view, |list| list.len() == 4).await?;
    expected.push(("one instance added", count(&view, &phase, 1, time).await));
    change_and_remove(&registry, &service).await?;
    until(&mut view, |list| list.len() == 3 && list.iter().any(|host| host.weight == 10.0)).await?;
    expected.push(("one instance removed, one weight raised", count(&view, &phase, 2, time).await));
    phase.store(END, Ordering::Release);

    let tally = add_up(choosers)?;
    registry.send(Shutdown::default()).await??;
    compare(&tally, &expected)
}

fn add_up(choosers: Vec<thread::JoinHandle<Tally>>) -> Result<Tally, &'static str> {
    let mut tally = Tally::new();
    for chooser in choosers {
        let chosen = chooser.join().map_err(|_| "a thread panicked")?;
        chosen.into_iter().for_each(|(instance, times)| *tally.entry(instance).or_default() += times);
    }
    Ok(tally)
}

async fn change_and_remove(registry: &Addr<Registry>, service: &str) -> Result<(), Error> {
    registry.send(ModifyInstance::new(service, "127.0.0.1", 8080).weight(10.0)).await??;
    registry.send(DeregisterInstance::new(service, "127.0.0.3", 8080)).await?
}

/// Waits until the view shows a change.
async fn until(
    view: &mut ServiceView,
    shows: impl Fn(&[Arc<Instance>]) -> bool,
) -> Result<(), Box<dyn std::error::Error>> {
    let shown = async {
        while !shows(&view.instances()) {
            view.changed().await?;
        }
        Ok::<(), Error>(())
    };
    Ok(timeout(CHANGE_LIMIT, shown).await.map_err(|_| "the view does not show the change")??)
}

/// Lets the threads count for a while. Returns the weight of each instance in that time.
async fn count(view: &ServiceView, phase: &AtomicUsize, number: usize, time: Duration) -> BTreeMap<String, f64> {
    phase.store(number, Ordering::Release);
    sleep(time).await;
    phase.store(BETWEEN, Ordering::Release);
    view.instances().iter().map(|host| (host.authority(), host.weight)).collect()
}

/// Chooses instances in a plain thread without a runtime, until the phase is `END`.
fn choose(view: ServiceView, phase: Arc<AtomicUsize>) -> thread::JoinHandle<Tally> {
    thread::spawn(move || {
        let mut tally = Tally::new();
        loop {
            let before = phase.load(Ordering::Acquire);
            let chosen = view.select_one().map(|instance| instance.authority());
            match (before, chosen) {
                (END, _) => return tally,
                (BETWEEN, _) | (_, None) => thread::yield_now(),
                (number, Some(chosen)) => *tally.entry((number, chosen)).or_default() += 1,
            }
        }
    })
}

/// Prints the shares, and fails if one of them is too far from its weight.
fn compare(tally: &Tally, expected: &[(&str, BTreeMap<String, f64>)]) -> Result<(), Box<dyn std::error::Error>> {
    let mut worst: f64 = 0.0;
    for (number, (title, weights)) in expected.iter().enumerate() {
        let total: u64 = tally.iter().filter(|((phase, _), _)| *phase == number).map(|(_, times)| times).sum();
        let whole: f64 = weights.values().sum();
        println!("{title}: {total} choices");
        for (address, weight) in weights {
            let times = tally.get(&(number, address.clone())).copied().unwrap_or_default();
            let (share, wanted) = (times as f64 / total as f64, weight / whole);
            println!("  {address}  weight {weight:>4}  expected {wanted:.3}  chosen {share:.3}");
            worst = worst.max((share - wanted).abs());
        }
    }
    if worst < TOLERANCE {
        return Ok(());
    }
    Err(format!("a share differs from its weight by {worst:.3}").into())
}
