//! The cost of the client across the wire: heartbeats, operations, registering, shutting down, watching, and how the costs
//! grow.
//!
//! - `cargo bench --bench load` runs everything and prints a table of the goals.
//! - `-- growth` prints the growth table.
//! - `-- --test` is a short run of everything.
//! - `-- beats --client ours --instances 1000 --seconds 20` makes one measurement. With `--against HOST:PORT` it uses a
//!   real server. Clients: `ours`, `here` (on the caller's thread), `raw` (plain awc) and `shape` (plain awc in actors).
//!
//! Each measurement runs in its own process, against a stub server in another process. Compare only figures of one run.
#![allow(clippy::expect_used, reason = "a bench that cannot measure has nothing to say")]

#[path = "../support/measure.rs"]
mod measure;
mod ours;
mod raw;
mod shape;
#[path = "../support/stub.rs"]
mod stub;
mod suite;

use std::{net::SocketAddr, time::Duration};

use measure::{Figures, Meter};
use stub::Counts;

/// How many operations are under way at the same time.
const IN_FLIGHT: usize = 64;

/// One measurement.
#[derive(Debug, Clone)]
struct Options {
    scenario: String,
    client: String,
    instances: usize,
    services: usize,
    /// The number of instances in each list that the stub sends.
    hosts: usize,
    seconds: f64,
    against: Option<SocketAddr>,
}

impl Options {
    fn parse(arguments: impl Iterator<Item = String>) -> Self {
        let mut options = Options {
            scenario: "all".into(),
            client: "ours".into(),
            instances: 1_000,
            services: 10,
            hosts: 10,
            seconds: 10.0,
            against: None,
        };
        let mut arguments = arguments.filter(|argument| argument != "--bench");
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().unwrap_or_else(|| panic_usage(&argument));
            match argument.as_str() {
                "--client" => options.client = value(),
                "--instances" => options.instances = number(&value()),
                "--services" => options.services = number(&value()),
                "--hosts" => options.hosts = number(&value()),
                "--seconds" => options.seconds = number(&value()),
                "--against" => options.against = Some(number(&value())),
                "--test" => options.scenario = "smoke".into(),
                scenario if !scenario.starts_with('-') => options.scenario = scenario.into(),
                _ => panic_usage(&argument),
            }
        }
        options
    }

    fn arguments(&self) -> Vec<String> {
        let pairs = [
            ("--client", self.client.clone()),
            ("--instances", self.instances.to_string()),
            ("--services", self.services.to_string()),
            ("--hosts", self.hosts.to_string()),
            ("--seconds", self.seconds.to_string()),
        ];
        let mut arguments = vec![self.scenario.clone()];
        arguments.extend(pairs.into_iter().flat_map(|(name, value)| [name.to_owned(), value]));
        arguments
    }

    fn limit(&self) -> Duration {
        Duration::from_secs_f64(self.seconds * 2.0 + 60.0)
    }
}

fn number<T: std::str::FromStr>(text: &str) -> T {
    text.parse().ok().unwrap_or_else(|| panic_usage(text))
}

fn panic_usage(argument: &str) -> ! {
    eprintln!("{argument:?}? The options are in the first lines of benches/load/main.rs.");
    std::process::exit(2)
}

/// The server that the measured client uses.
struct Target {
    address: SocketAddr,
    /// Whether the server is our stub, which counts requests.
    counts: bool,
}

impl Target {
    fn counts_and_reset(&self) -> Option<Counts> {
        self.counts.then(|| stub::counts_and_reset(self.address))
    }
}

/// The measured time, in which one operation is repeated.
struct Window<'a> {
    target: &'a Target,
    meter: Meter,
}

impl<'a> Window<'a> {
    fn open(target: &'a Target) -> Self {
        target.counts_and_reset();
        Window { target, meter: Meter::start() }
    }

    /// Divides the cost by the number of operations: the number that the server has counted if it counts, else
    /// `operations`.
    fn close(self, operations: f64, counted: impl Fn(&Counts) -> u64) -> Figures {
        let (cpu, wall) = self.meter.read();
        let (rss, peak) = measure::memory();
        let mut figures = Figures::new();
        let mut operations = operations;
        if let Some(counts) = self.target.counts_and_reset() {
            operations = counted(&counts) as f64;
            figures.insert("opened".into(), counts.opened as f64);
            figures.insert("closed".into(), counts.closed as f64);
            figures.insert("connections".into(), counts.connections as f64);
            figures.insert("late".into(), counts.late_beats as f64);
            figures.insert("latest_ms".into(), counts.latest_beat_ms as f64);
        }
        figures.insert("cpu_us".into(), cpu / operations.max(1.0));
        figures.insert("cores".into(), cpu / 1e6 / wall);
        figures.insert("per_second".into(), operations / wall);
        figures.insert("rss_kib".into(), rss);
        figures.insert("peak_kib".into(), peak);
        figures
    }
}

fn measure_one(options: &Options) -> Figures {
    let stub = options.against.is_none().then(|| stub::Stub::start(options.hosts));
    let address = options.against.or(stub.as_ref().map(|stub| stub.address)).expect("one of both");
    let target = Target { address, counts: stub.is_some() };
    actix::System::new().block_on(async {
        match (options.scenario.as_str(), options.client.as_str()) {
            ("beats", "raw") => raw::beats(options, &target).await,
            ("beats", "shape") => shape::beats(options, &target).await,
            ("beats", _) => ours::beats(options, &target).await,
            ("lists", "raw") => raw::lists(options, &target, false).await,
            ("lists", client) => ours::lists(options, &target, client, false).await,
            ("changing", "raw") => raw::lists(options, &target, true).await,
            ("changing", client) => ours::lists(options, &target, client, true).await,
            ("register", "raw") => raw::register(options, &target).await,
            ("register", "shape") => shape::register(options, &target).await,
            ("register", client) => ours::register(options, &target, client).await,
            // The plain loop registers first, too, so that the server has the same instances.
            ("shutdown", "raw") => raw::register(options, &target).await,
            ("shutdown", "shape") => shape::shutdown(options, &target).await,
            ("shutdown", _) => ours::shutdown(options, &target).await,
            ("watch", "raw") => raw::watch(options, &target).await,
            ("watch", _) => ours::watch(options, &target).await,
            (other, _) => panic_usage(other),
        }
    })
}

fn main() {
    if stub::run_if_asked() {
        return;
    }
    let options = Options::parse(std::env::args().skip(1));
    match options.scenario.as_str() {
        "all" => suite::goals(&suite::FULL),
        "growth" => suite::growth(&suite::FULL),
        "smoke" => {
            suite::goals(&suite::SMOKE);
            suite::growth(&suite::SMOKE);
        }
        // Exits at once: freeing all memory at the end takes time and is not measured.
        _ => {
            measure::hand_back(&measure_one(&options));
            std::process::exit(0)
        }
    }
}
