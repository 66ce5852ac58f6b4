//! What the present process costs, and how figures are passed from one process to another.

use std::{
    collections::BTreeMap,
    fs,
    io::Read as _,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use rustix::time::{clock_gettime, ClockId};

/// CPU time of this process so far, all threads, user and system: what getrusage sums up, to the nanosecond.
pub(crate) fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Resident memory of this process in KiB, now and at its highest.
pub(crate) fn memory() -> (f64, f64) {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    (field("VmRSS:").unwrap_or(f64::NAN), field("VmHWM:").unwrap_or(f64::NAN))
}

/// CPU and time since a moment.
pub(crate) struct Meter {
    cpu: Duration,
    began: Instant,
}

impl Meter {
    pub(crate) fn start() -> Self {
        Meter { cpu: cpu(), began: Instant::now() }
    }

    /// (CPU in microseconds, wall time in seconds)
    pub(crate) fn read(&self) -> (f64, f64) {
        ((cpu() - self.cpu).as_secs_f64() * 1e6, self.began.elapsed().as_secs_f64())
    }
}

/// What one process found out, by name.
pub(crate) type Figures = BTreeMap<String, f64>;

/// Hands figures to the process that started this one.
pub(crate) fn hand_back(figures: &Figures) {
    println!("{}", serde_json::to_string(figures).expect("figures serialise"));
}

/// Runs this program again with `arguments`, and takes the figures that it hands back. It is ended when it takes longer
/// than `limit`.
pub(crate) fn run_apart(arguments: &[String], limit: Duration) -> Option<Figures> {
    let program = std::env::current_exe().ok()?;
    let mut child = Command::new(program).args(arguments).stdout(Stdio::piped()).spawn().ok()?;
    let began = Instant::now();
    while child.try_wait().ok()?.is_none() {
        if began.elapsed() > limit {
            eprintln!("ended after {limit:?}: {arguments:?}");
            let _ = child.kill();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut text = String::new();
    child.stdout.take()?.read_to_string(&mut text).ok()?;
    let figures = serde_json::from_str(text.lines().last()?).ok();
    if figures.is_none() {
        eprintln!("no figures from {arguments:?}");
    }
    figures
}

/// The middle one.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
