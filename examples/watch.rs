//! Prints every change of a service: `cargo run --example watch -- --server 127.0.0.1:8848 orders`.

mod cli;

use std::{
    process::ExitCode,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use actix::prelude::*;
use actix_nacos::{prelude::*, Source};
use serde::Serialize;

const HELP: &str = "\
Prints the present list of a service, then every change of it, each as one line of JSON.

Usage: watch --server HOST:PORT SERVICE [OPTIONS]

  --server HOST:PORT  the Nacos servers, separated by commas [NACOS_SERVER_ADDR]
  SERVICE             the service, or GROUP@@SERVICE
  --group GROUP       the group [DEFAULT_GROUP]
  --cluster CLUSTER   only this cluster; may be given several times [all]
  --for SECS          stop after this time [only on Ctrl-C or SIGTERM]
  --help              print this help";

/// One line of output. Instances have the field names of Nacos.
#[derive(Serialize)]
struct Line<'a> {
    /// When this program received the change, in microseconds since 1970.
    at_us: u64,
    /// The service as given on the command line.
    service: &'a str,
    first: bool,
    source: Source,
    /// The number of instances now.
    instances: usize,
    added: &'a [Arc<Instance>],
    /// Each changed instance before and after the change.
    changed: &'a [(Arc<Instance>, Arc<Instance>)],
    removed: &'a [Arc<Instance>],
}

struct Printer {
    service: String,
}

impl Actor for Printer {
    type Context = Context<Self>;
}

impl Handler<ServiceChanged> for Printer {
    type Result = ();

    fn handle(&mut self, change: ServiceChanged, _: &mut Context<Self>) {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let line = Line {
            at_us: u64::try_from(at.as_micros()).unwrap_or(u64::MAX),
            service: &self.service,
            first: change.first,
            source: change.source,
            instances: change.info.hosts.len(),
            added: &change.added,
            changed: &change.changed,
            removed: &change.removed,
        };
        match serde_json::to_string(&line) {
            Ok(line) => println!("{line}"),
            Err(error) => log::error!("failed to write a change: {error}"),
        }
    }
}

#[actix::main]
async fn main() -> ExitCode {
    cli::log_to_stderr();
    let mut arguments = cli::Arguments::read(HELP);
    let config = arguments.required_config();
    let last = arguments.seconds("for");
    let group: Option<String> = arguments.option("group");
    let clusters = arguments.all("cluster");
    let service = arguments.next("SERVICE");
    arguments.finish();
    let printer = Printer { service: service.clone() }.start();
    let mut subscribe = Subscribe::new(service, printer.recipient()).clusters(clusters);
    if let Some(group) = group {
        subscribe = subscribe.group(group);
    }
    cli::ended(run(config, subscribe, last).await)
}

async fn run(config: Config, subscribe: Subscribe, last: Option<Duration>) -> Result<(), Error> {
    let registry = Registry::start(config)?;
    registry.send(subscribe).await??;
    cli::told_to_end(last).await;
    registry.send(Shutdown::default()).await?.map(drop)
}
