//! Code that the examples share: arguments, logs, signals.
#![allow(dead_code)]

use std::{
    env, fmt, future,
    process::{exit, ExitCode},
    str::FromStr,
    time::Duration,
};

use actix_nacos::Config;
use actix_rt::{
    signal::unix::{signal, SignalKind},
    time::sleep,
};

/// The command line: options as `--option value` or `--option=value`, and other arguments.
pub(crate) struct Arguments {
    help: &'static str,
    options: Vec<(String, String)>,
    others: Vec<String>,
}

impl Arguments {
    /// Reads the command line. `--help` prints `help` and ends the program.
    pub(crate) fn read(help: &'static str) -> Self {
        let mut arguments = Arguments { help, options: Vec::new(), others: Vec::new() };
        let mut words = env::args().skip(1);
        while let Some(word) = words.next() {
            if word == "--help" || word == "-h" {
                println!("{help}");
                exit(0);
            }
            match word.strip_prefix("--").map(|option| option.split_once('=').ok_or(option)) {
                None => arguments.others.push(word),
                Some(Ok((option, value))) => arguments.options.push((option.into(), value.into())),
                Some(Err(option)) => match words.next() {
                    Some(value) => arguments.options.push((option.into(), value)),
                    None => arguments.refuse(format!("--{option} needs a value")),
                },
            }
        }
        arguments
    }

    /// Takes all values of an option.
    pub(crate) fn all(&mut self, name: &str) -> Vec<String> {
        let (taken, left) = std::mem::take(&mut self.options).into_iter().partition(|(option, _)| option == name);
        self.options = left;
        let taken: Vec<(String, String)> = taken;
        taken.into_iter().map(|(_, value)| value).collect()
    }

    /// Takes the value of an option. If it is given several times, the last one counts.
    pub(crate) fn option<T: FromStr>(&mut self, name: &str) -> Option<T> {
        let value = self.all(name).pop()?;
        let read = value.parse();
        Some(read.unwrap_or_else(|_| self.refuse(format!("--{name} has the invalid value {value:?}"))))
    }

    /// Takes the value of a required option.
    pub(crate) fn required<T: FromStr>(&mut self, name: &str) -> T {
        self.option(name).unwrap_or_else(|| self.refuse(format!("--{name} is missing")))
    }

    /// Takes the value of an option in seconds.
    pub(crate) fn seconds(&mut self, name: &str) -> Option<Duration> {
        let seconds: f64 = self.option(name)?;
        Some(Duration::try_from_secs_f64(seconds).unwrap_or_else(|error| self.refuse(format!("--{name}: {error}"))))
    }

    /// Takes the next argument that is not an option.
    pub(crate) fn next(&mut self, what: &str) -> String {
        if self.others.is_empty() {
            self.refuse(format!("{what} is missing"));
        }
        self.others.remove(0)
    }

    /// Takes the arguments that are left, at least one.
    pub(crate) fn rest(mut self, what: &str) -> Vec<String> {
        let mut rest = vec![self.next(what)];
        rest.append(&mut self.others);
        self.finish();
        rest
    }

    /// The settings for the server in `--server` or in `NACOS_SERVER_ADDR`, if there is one.
    pub(crate) fn config(&mut self) -> Option<Config> {
        let variable = |name| env::var(name).ok().filter(|value: &String| !value.is_empty());
        let server = self.option("server").or_else(|| variable("NACOS_SERVER_ADDR"))?;
        let mut config = Config::new(server);
        if let Some(namespace) = variable("NACOS_NAMESPACE") {
            config = config.namespace(namespace);
        }
        if let (Some(username), Some(password)) = (variable("NACOS_USERNAME"), variable("NACOS_PASSWORD")) {
            config = config.credentials(username, password);
        }
        if let Err(error) = config.validate() {
            self.refuse(error);
        }
        Some(config)
    }

    /// Like [`config`](Arguments::config), but a server is required.
    pub(crate) fn required_config(&mut self) -> Config {
        self.config().unwrap_or_else(|| self.refuse("--server or NACOS_SERVER_ADDR is required"))
    }

    /// Refuses arguments that were not taken.
    pub(crate) fn finish(self) {
        if let Some((option, _)) = self.options.first() {
            self.refuse(format!("unknown option --{option}"));
        }
        if let Some(other) = self.others.first() {
            self.refuse(format!("unexpected argument {other:?}"));
        }
    }

    /// Prints the mistake and the help, and ends the program.
    pub(crate) fn refuse(&self, mistake: impl fmt::Display) -> ! {
        eprintln!("{mistake}\n\n{}", self.help);
        exit(2)
    }
}

/// Logs warnings to stderr, or what `RUST_LOG` selects.
pub(crate) fn log_to_stderr() {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
}

/// Waits for Ctrl-C or SIGTERM, or until the time is over.
pub(crate) async fn told_to_end(after: Option<Duration>) {
    let over = async {
        match after {
            Some(time) => sleep(time).await,
            None => future::pending().await,
        }
    };
    tokio::select! {
        () = over => {}
        () = signalled(SignalKind::interrupt()) => {}
        () = signalled(SignalKind::terminate()) => {}
    }
}

async fn signalled(kind: SignalKind) {
    match signal(kind) {
        Ok(mut signals) => drop(signals.recv().await),
        Err(error) => {
            log::warn!("failed to wait for a signal: {error}");
            future::pending().await
        }
    }
}

/// Prints the error, if there is one.
pub(crate) fn ended(result: Result<(), impl fmt::Display>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
