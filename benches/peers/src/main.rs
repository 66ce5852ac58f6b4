//! Compares actix-nacos with other clients, in one run on one machine.
//!
//! Each client runs in its own process, one after the other: against a stub server that uses little CPU time, and
//! against r-nacos if the program `rnacos` is found. nacos-sdk speaks gRPC, so it runs only against r-nacos. `--write
//! FILE` also writes the table between the marks `<!-- peers -->` and `<!-- /peers -->` of that file; `--test` is a
//! short run.

mod clients;
#[path = "../../support/measure.rs"]
mod measure;
mod rnacos;
#[path = "../../support/stub.rs"]
mod stub;

use std::{fmt::Write as _, fs, net::SocketAddr, process::Command, time::Duration};

use measure::{median, run_apart, Figures, Meter};

/// How many operations are under way at the same time.
const IN_FLIGHT: usize = 64;
/// How many services the instances are spread over.
const SERVICES: usize = 10;

/// The work of one client, in its own process.
#[derive(Debug, Clone)]
struct Options {
    client: String,
    work: String,
    instances: usize,
    seconds: f64,
    against: SocketAddr,
    counts: bool,
}

impl Options {
    fn address(&self) -> String {
        self.against.to_string()
    }

    fn parse(arguments: &[String]) -> Option<Self> {
        let [role, client, work, instances, seconds, against, counts] = arguments else { return None };
        (role == "client").then_some(())?;
        Some(Options {
            client: client.clone(),
            work: work.clone(),
            instances: instances.parse().ok()?,
            seconds: seconds.parse().ok()?,
            against: against.parse().ok()?,
            counts: counts.parse().ok()?,
        })
    }

    fn arguments(&self) -> Vec<String> {
        vec![
            "client".into(),
            self.client.clone(),
            self.work.clone(),
            self.instances.to_string(),
            self.seconds.to_string(),
            self.against.to_string(),
            self.counts.to_string(),
        ]
    }
}

/// The measured time, in which one operation is repeated.
struct Window<'a> {
    options: &'a Options,
    meter: Meter,
}

impl<'a> Window<'a> {
    fn open(options: &'a Options) -> Self {
        if options.counts {
            stub::counts_and_reset(options.against);
        }
        Window { options, meter: Meter::start() }
    }

    fn close(self, operations: f64) -> Figures {
        let (cpu, wall) = self.meter.read();
        let (rss, _) = measure::memory();
        let mut operations = operations;
        let mut figures = Figures::new();
        if self.options.counts {
            let counts = stub::counts_and_reset(self.options.against);
            operations = counts.requests as f64;
            figures.insert("connections".into(), counts.connections as f64);
            figures.insert("closed".into(), counts.closed as f64);
        }
        figures.insert("cpu_us".into(), cpu / operations.max(1.0));
        figures.insert("per_second".into(), operations / wall);
        figures.insert("rss_mb".into(), rss / 1024.0);
        figures
    }
}

fn main() {
    if stub::run_if_asked() {
        return;
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(options) = Options::parse(&arguments) {
        return clients::run(&options);
    }
    let quick = arguments.iter().any(|argument| argument == "--test");
    let table = table(if quick { &SMOKE } else { &FULL });
    println!("{table}");
    if quick && table.contains("NaN") {
        eprintln!("a client gave no figures");
        std::process::exit(1);
    }
    if let Some(at) = arguments.iter().position(|argument| argument == "--write") {
        write_section(&arguments[at + 1], &table);
    }
}

struct Size {
    runs: usize,
    instances: [usize; 2],
    beat_seconds: f64,
    /// For servers that do not count requests. Long, so that a client that beats in bursts sends about as many beats as
    /// it should.
    uncounted_seconds: f64,
    list_seconds: f64,
}

const FULL: Size =
    Size { runs: 2, instances: [1_000, 5_000], beat_seconds: 5.0, uncounted_seconds: 10.0, list_seconds: 1.0 };
const SMOKE: Size = Size { runs: 1, instances: [10, 20], beat_seconds: 0.3, uncounted_seconds: 0.3, list_seconds: 0.2 };

fn table(size: &Size) -> String {
    let mut table = String::from(
        "| server | work | client | CPU per operation | ratio | per second | RSS | connections, closed |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    // Compare with plain HTTP clients only where there are many beats.
    let (few, many) = (&["ours", "nacos_rust_client"][..], &["ours", "nacos_rust_client", "reqwest", "awc"][..]);
    for (instances, http) in size.instances.into_iter().zip([few, many]) {
        let stub = stub::Stub::start(10);
        let options = base("beats", instances, size.beat_seconds, stub.address, true);
        rows(&mut table, "stub", &format!("a beat, {instances} instances"), size.runs, &options, http);
    }
    let stub = stub::Stub::start(10);
    let options = base("lists", 0, size.list_seconds, stub.address, true);
    rows(&mut table, "stub", "a list of 10, 64 in flight", size.runs, &options, &["ours", "reqwest", "awc"]);
    let Some(real) = rnacos::Rnacos::start() else {
        eprintln!("no r-nacos here: no rows for it");
        return table;
    };
    let clients = ["ours", "nacos_rust_client", "nacos-sdk"];
    let options = base("beats", size.instances[0], size.uncounted_seconds, real.address, false);
    let work = format!("keeping {} instances, per instance and 5 s", size.instances[0]);
    rows(&mut table, "r-nacos", &work, size.runs, &options, &clients);
    // nacos-sdk comes last, because its end removes the instances that all clients list.
    let options = base("lists", 100.min(size.instances[0]), size.list_seconds, real.address, false);
    rows(
        &mut table,
        "r-nacos",
        "a list of 10, 64 in flight",
        size.runs,
        &options,
        &["ours", "reqwest", "awc", "nacos-sdk"],
    );
    table
}

fn base(work: &str, instances: usize, seconds: f64, against: SocketAddr, counts: bool) -> Options {
    Options { client: String::new(), work: work.into(), instances, seconds, against, counts }
}

/// Runs each client once in every round. Prints the medians of the figures and of the ratios to the first client.
fn rows(table: &mut String, server: &str, work: &str, runs: usize, options: &Options, clients: &[&str]) {
    let mut rounds: Vec<Vec<Figures>> = vec![Vec::new(); clients.len()];
    for _ in 0..runs {
        for (client, figures) in clients.iter().zip(&mut rounds) {
            let options = Options { client: (*client).into(), ..options.clone() };
            let limit = Duration::from_secs_f64(options.seconds * 2.0 + 40.0);
            figures.push(run_apart(&options.arguments(), limit).unwrap_or_default());
        }
    }
    for (client, figures) in clients.iter().zip(&rounds) {
        let value = |name: &str| median(figures.iter().filter_map(|figures| figures.get(name).copied()).collect());
        let cost = |figures: &Figures| figures.get("cpu_us").copied().unwrap_or(f64::NAN);
        let ratio = median(figures.iter().zip(&rounds[0]).map(|(peer, ours)| cost(ours) / cost(peer)).collect());
        let connections = match value("connections") {
            unknown if unknown.is_nan() => "".into(),
            known => format!("{known:.0}, {:.0}", value("closed")),
        };
        let (cpu, speed, rss) = (value("cpu_us"), value("per_second"), value("rss_mb"));
        let row = format!(
            "| {server} | {work} | {client} | {cpu:.1} µs | {ratio:.2} | {speed:.0} | {rss:.1} MB | {connections} |"
        );
        let _ = writeln!(table, "{row}");
    }
}

fn write_section(path: &str, table: &str) {
    const BEGIN: &str = "<!-- peers -->\n";
    const END: &str = "<!-- /peers -->";
    let text = fs::read_to_string(path).expect("the document is there");
    let (before, rest) = text.split_once(BEGIN).expect("the document has the mark");
    let (_, after) = rest.split_once(END).expect("the document has the mark of the end");
    let output = Command::new("date").args(["-u", "+%F"]).output();
    let date = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    let section = format!("{before}{BEGIN}\nMeasured {date}. Ratio: ours to that client's.\n\n{table}\n{END}{after}");
    fs::write(path, section).expect("the document can be written");
}
