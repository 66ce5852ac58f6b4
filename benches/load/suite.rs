//! All measurements in one run, as tables: the goals, and the growth.

use crate::{
    measure::{median, run_apart, Figures},
    Options,
};

/// How many runs, and how large.
pub(crate) struct Size {
    /// Runs of a short measurement. A measurement with thousands of beats or polls has half as many runs.
    runs: usize,
    seconds: f64,
    many: usize,
    /// The number of instances in one process for the largest load.
    most: usize,
    services: usize,
    growth_instances: &'static [usize],
    growth_services: &'static [usize],
}

pub(crate) const FULL: Size = Size {
    runs: 3,
    seconds: 5.0,
    many: 10_000,
    most: 100_000,
    services: 1_000,
    growth_instances: &[1_000, 3_000, 10_000, 30_000, 100_000],
    growth_services: &[1, 10, 100, 1_000],
};

pub(crate) const SMOKE: Size =
    Size { runs: 1, seconds: 0.2, many: 64, most: 64, services: 16, growth_instances: &[16], growth_services: &[2] };

/// Runs each client once in every round, so that a slow machine slows all clients alike. The tables show medians.
fn rounds(runs: usize, options: &Options, clients: &[&str]) -> Vec<Runs> {
    let mut all: Vec<Runs> = clients.iter().map(|_| Runs(Vec::new())).collect();
    for _ in 0..runs {
        for (client, runs) in clients.iter().zip(&mut all) {
            let options = Options { client: (*client).into(), ..options.clone() };
            runs.0.extend(run_apart(&options.arguments(), options.limit()));
        }
    }
    all
}

struct Runs(Vec<Figures>);

impl Runs {
    fn median(&self, name: &str) -> f64 {
        median(self.0.iter().filter_map(|figures| figures.get(name).copied()).collect())
    }

    fn ratio(&self, other: &Runs, name: &str) -> f64 {
        let pairs = self.0.iter().zip(&other.0);
        median(pairs.map(|(own, other)| own.get(name).zip(other.get(name)).map_or(f64::NAN, |(a, b)| a / b)).collect())
    }
}

fn base(scenario: &str, size: &Size) -> Options {
    Options {
        scenario: scenario.into(),
        client: "ours".into(),
        instances: 1_000.min(size.many),
        services: 10,
        hosts: 10,
        seconds: size.seconds,
        against: None,
    }
}

fn row(work: &str, ours: &str, beside: &str, ratio: f64, goal: &str) {
    println!("| {work} | {ours} | {beside} | {ratio:.2} | {goal} |");
}

/// Prints the goals that compare with nothing but plain awc.
pub(crate) fn goals(size: &Size) {
    println!("| work | ours | raw awc | ratio | goal |\n|---|---|---|---|---|");
    steady_beats(size);
    crowd(size);
    lists(size);
    registering(size);
    shutting_down(size);
    watching(size);
}

/// Only one size: the peers bench compares other sizes.
fn steady_beats(size: &Size) {
    let options = base("beats", size);
    let runs = rounds(size.runs.div_ceil(2), &options, &["ours", "raw", "shape"]);
    let (ours, raw, shape) = (&runs[0], &runs[1], &runs[2]);
    let measured = format!(
        "{:.1} µs; RSS {:.1} MB, at most {:.1}; {} connections, {} closed; latest beat {} ms late",
        ours.median("cpu_us"),
        ours.median("rss_kib") / 1024.0,
        ours.median("peak_kib") / 1024.0,
        ours.median("connections"),
        ours.median("closed"),
        ours.median("latest_ms"),
    );
    let work = format!("CPU per beat, {} instances", options.instances);
    let raw_cpu = format!("{:.1} µs", raw.median("cpu_us"));
    row(&work, &measured, &raw_cpu, ours.ratio(raw, "cpu_us"), "RSS 10 MB, 0 closed");
    let measured = format!("{:.1} µs", shape.median("cpu_us"));
    row(&format!("{work}, awc in actors"), &measured, &raw_cpu, shape.ratio(raw, "cpu_us"), "");
}

fn crowd(size: &Size) {
    let options = Options { instances: size.most, ..base("beats", size) };
    let runs = rounds(1, &options, &["ours", "raw", "shape"]);
    let (ours, raw, shape) = (&runs[0], &runs[1], &runs[2]);
    let measured = format!(
        "{:.2} cores, {:.2} KiB each; {} connections, {} closed; {} beats late, the latest {} ms",
        ours.median("cores"),
        ours.median("kib_each"),
        ours.median("connections"),
        ours.median("closed"),
        ours.median("late"),
        ours.median("latest_ms"),
    );
    let work = format!("{} instances", size.most);
    let goal = "0.4 cores, 2.5 KiB each, 64 connections, none 1 s late";
    let raw_cores = format!("{:.2} cores", raw.median("cores"));
    row(&work, &measured, &raw_cores, ours.ratio(raw, "cores"), goal);
    let measured = format!("{:.2} cores, {:.2} KiB each", shape.median("cores"), shape.median("kib_each"));
    row(&format!("{work}, awc in actors"), &measured, &raw_cores, shape.ratio(raw, "cores"), "");
}

/// Measures lists that do not change, and lists that differ each time.
fn lists(size: &Size) {
    for (scenario, lists) in [("lists", "lists"), ("changing", "changing lists")] {
        these_lists(size, scenario, lists);
    }
}

fn these_lists(size: &Size, scenario: &str, lists: &str) {
    let options = Options { seconds: size.seconds / 3.0, ..base(scenario, size) };
    let runs = rounds(size.runs, &options, &["ours", "here", "raw"]);
    let raw = &runs[2];
    for (ours, where_) in [(&runs[0], "own thread"), (&runs[1], "caller's thread")] {
        let (speed, raw_speed) = (ours.median("per_second"), raw.median("per_second"));
        let work = format!("{lists}, 64 in flight, {where_}");
        let goal = "at least 0.9";
        row(&work, &format!("{speed:.0}/s"), &format!("{raw_speed:.0}/s"), ours.ratio(raw, "per_second"), goal);
        let (cpu, raw_cpu) = (ours.median("cpu_us"), raw.median("cpu_us"));
        let work = format!("CPU of {lists}, {where_}");
        row(&work, &format!("{cpu:.1} µs"), &format!("{raw_cpu:.1} µs"), ours.ratio(raw, "cpu_us"), "at most 1.15");
    }
}

fn registering(size: &Size) {
    let options = Options { instances: size.many, ..base("register", size) };
    let runs = rounds(size.runs, &options, &["ours", "raw", "shape"]);
    let (ours, raw, shape) = (&runs[0], &runs[1], &runs[2]);
    for (work, speed, cpu) in [
        ("registering", "registered_per_second", "register_cpu_us"),
        ("deregistering", "deregistered_per_second", "deregister_cpu_us"),
    ] {
        let measured = |runs: &Runs| format!("{:.0}/s, {:.1} µs CPU", runs.median(speed), runs.median(cpu));
        row(&format!("{work} {}", size.many), &measured(ours), &measured(raw), ours.ratio(raw, speed), "at least 0.9");
        row(&format!("{work}, awc in actors"), &measured(shape), &measured(raw), shape.ratio(raw, speed), "");
    }
}

fn shutting_down(size: &Size) {
    let options = Options { instances: size.most, ..base("shutdown", size) };
    let runs = rounds(1, &options, &["ours", "raw"]);
    let (ours, raw) = (&runs[0], &runs[1]);
    let measured = |runs: &Runs| {
        let speed = runs.median("deregistered_per_second");
        format!("{:.1} s, {:.1} µs CPU", size.most as f64 / speed, runs.median("deregister_cpu_us"))
    };
    let time = 1.0 / ours.ratio(raw, "deregistered_per_second");
    row(&format!("shutdown of {}", size.most), &measured(ours), &measured(raw), time, "at most 1.2");
}

fn watching(size: &Size) {
    let options = Options { services: size.services, ..base("watch", size) };
    let runs = rounds(size.runs.div_ceil(2), &options, &["ours", "raw"]);
    let (ours, raw) = (&runs[0], &runs[1]);
    let measured = |runs: &Runs| format!("{:.1} µs", runs.median("cpu_us"));
    let work = format!("CPU per poll, {} services", size.services);
    row(&work, &measured(ours), &measured(raw), ours.ratio(raw, "cpu_us"), "at most 1.3");
}

/// Prints how the costs grow with instances and services.
pub(crate) fn growth(size: &Size) {
    println!("\n| instances | services | CPU per beat | cores | KiB each | latest beat |\n|---|---|---|---|---|---|");
    let by_instances = size.growth_instances.iter().map(|instances| (*instances, 10));
    let by_services = size.growth_services.iter().map(|services| (size.many, *services));
    for (instances, services) in by_instances.chain(by_services) {
        let options = Options { instances, services, ..base("beats", size) };
        let ours = &rounds(1, &options, &["ours"])[0];
        println!(
            "| {instances} | {services} | {:.1} µs | {:.3} | {:.2} | {:.0} ms |",
            ours.median("cpu_us"),
            ours.median("cores"),
            ours.median("kib_each"),
            ours.median("latest_ms"),
        );
    }
    println!("\n| services watched | CPU per poll | KiB each |\n|---|---|---|");
    for services in size.growth_services {
        let options = Options { services: *services, ..base("watch", size) };
        let ours = &rounds(1, &options, &["ours"])[0];
        println!("| {services} | {:.1} µs | {:.1} |", ours.median("cpu_us"), ours.median("kib_each"));
    }
}
