//! Resources that this process uses, and child processes that end with the test.

use std::{
    path::PathBuf,
    process::{Child, Command, ExitStatus},
    thread,
    time::Instant,
};

use super::{ms, PATIENCE};

/// Resident memory in KiB; 0 if the system does not provide it.
pub fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Open file descriptors; 0 if the system does not provide them.
pub fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

/// A child process. It is killed when this is dropped.
pub struct Process(Child);

impl Process {
    pub fn start(command: &mut Command) -> Self {
        Process(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    pub fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    /// Sends a signal, named as for `kill`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.0.id().to_string()).status();
        assert!(sent.expect("kill(1)").success());
    }

    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().expect("a child of ours")
    }

    /// Waits until the process ends by itself.
    pub fn wait(&mut self) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.has_ended() {
                return status;
            }
            assert!(began.elapsed() < PATIENCE, "the child does not end");
            thread::sleep(ms(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error means that the process has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Returns the path of an example's binary. `cargo test` builds all examples with the features of the tests. If only
/// one test was built, the binary may be missing or old.
pub fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a path");
    let profile = test.parent().and_then(|deps| deps.parent()).expect("target/<profile>/deps");
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--example", name, "--target-dir"]).arg(profile.parent().expect("target"));
    build.args(profile.ends_with("release").then_some("--release"));
    for (feature, is_on) in [("rustls", cfg!(feature = "rustls")), ("openssl", cfg!(feature = "openssl"))] {
        build.args(is_on.then(|| format!("--features={feature}")));
    }
    assert!(build.status().expect("cargo").success(), "the example {name} is built");
    profile.join("examples").join(name)
}
