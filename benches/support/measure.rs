//! CPU time and memory of this process, and passing figures from one process to another.

use std::{
    collections::BTreeMap,
    fs,
    io::Read as _,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use rustix::time::{clock_gettime, ClockId};

/// CPU time of all threads of this process so far, user and system.
pub(crate) fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Resident memory of this process in KiB: now, and at its peak.
pub(crate) fn memory() -> (f64, f64) {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    (field("VmRSS:").unwrap_or(f64::NAN), field("VmHWM:").unwrap_or(f64::NAN))
}

/// Measures CPU time and wall time from its creation on.
pub(crate) struct Meter {
    cpu: Duration,
    began: Instant,
}

impl Meter {
    pub(crate) fn start() -> Self {
        Meter { cpu: cpu(), began: Instant::now() }
    }

    /// Returns CPU time in microseconds and wall time in seconds.
    pub(crate) fn read(&self) -> (f64, f64) {
        ((cpu() - self.cpu).as_secs_f64() * 1e6, self.began.elapsed().as_secs_f64())
    }
}

/// The figures that one process has measured, by name.
pub(crate) type Figures = BTreeMap<String, f64>;

/// Prints the figures for the process that started this one.
pub(crate) fn hand_back(figures: &Figures) {
    println!("{}", serde_json::to_string(figures).expect("figures serialise"));
}

/// Runs this program again with `arguments`, and reads the figures that it prints. Kills the process after `limit`.
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

/// Returns the middle value.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
