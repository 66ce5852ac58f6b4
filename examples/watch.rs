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
Prints one line of JSON for every change of a service, beginning with the list as it is.

Usage: watch --server HOST:PORT SERVICE [OPTIONS]

  --server HOST:PORT  the Nacos; several comma separated; else NACOS_SERVER_ADDR
  SERVICE             the service, or GROUP@@SERVICE
  --group GROUP       the group [DEFAULT_GROUP]
  --cluster CLUSTER   only this cluster; may be given several times [all]
  --for SECS          end after so long [on Ctrl-C or SIGTERM only]
  --help              print this";

/// One line of output. Instances have Nacos' own field names.
#[derive(Serialize)]
struct Line<'a> {
    /// When this program heard of it, in microseconds since 1970.
    at_us: u64,
    /// As it was asked for.
    service: &'a str,
    first: bool,
    source: Source,
    /// How many there are now.
    instances: usize,
    added: &'a [Arc<Instance>],
    /// Before and now.
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

    fn handle(&mut self, news: ServiceChanged, _: &mut Context<Self>) {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let line = Line {
            at_us: u64::try_from(at.as_micros()).unwrap_or(u64::MAX),
            service: &self.service,
            first: news.first,
            source: news.source,
            instances: news.info.hosts.len(),
            added: &news.added,
            changed: &news.changed,
            removed: &news.removed,
        };
        match serde_json::to_string(&line) {
            Ok(line) => println!("{line}"),
            Err(error) => log::error!("a change cannot be written: {error}"),
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
