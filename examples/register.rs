//! Keeps many instances registered: `cargo run --example register -- --server 127.0.0.1:8848 --service orders --ip
//! 127.0.0.7 --port 8080`.

mod cli;

use std::{
    net::Ipv4Addr,
    process::ExitCode,
    time::{Duration, Instant},
};

use actix::Addr;
use actix_nacos::{prelude::*, Metadata};
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

const HELP: &str = "\
Registers instances, keeps them alive, and deregisters them on Ctrl-C, on SIGTERM, or after --for.
Prints `REGISTERED <seconds>` when all instances are registered.

Usage: register --server HOST:PORT --service SERVICE --ip IP --port PORT [OPTIONS]

  --server HOST:PORT    the Nacos servers, separated by commas [NACOS_SERVER_ADDR]
  --service SERVICE     the service, or GROUP@@SERVICE
  --ip IP               the ip of the first instance
  --port PORT           the port of the first instance
  --count N             how many instances [1]; the port counts up, and after 65535 the last part of the ip
  --for SECS            stop after this time [only on a signal]
  --group GROUP         the group [DEFAULT_GROUP]
  --cluster CLUSTER     the cluster [DEFAULT]
  --weight WEIGHT       the weight [1]
  --metadata KEY=VALUE  a metadata entry; may be given several times
  --help                print this help";

/// How many registrations are under way at the same time.
const AT_ONCE: usize = 256;

#[actix::main]
async fn main() -> ExitCode {
    cli::log_to_stderr();
    let mut arguments = cli::Arguments::read(HELP);
    let config = arguments.required_config();
    let last = arguments.seconds("for");
    let instances = instances(&mut arguments);
    arguments.finish();
    cli::ended(run(config, instances, last).await)
}

async fn run(config: Config, instances: Vec<RegisterInstance>, last: Option<Duration>) -> Result<(), Error> {
    let registry = Registry::start(config)?;
    tokio::select! {
        outcome = register(&registry, instances) => outcome?,
        () = cli::told_to_end(None) => return shut_down(&registry).await,
    }
    cli::told_to_end(last).await;
    shut_down(&registry).await
}

async fn register(registry: &Addr<Registry>, instances: Vec<RegisterInstance>) -> Result<(), Error> {
    let began = Instant::now();
    let register = |instance: RegisterInstance| async { registry.send(instance).await? };
    let registered = stream::iter(instances).map(register).buffer_unordered(AT_ONCE);
    registered.try_for_each(|_| async { Ok(()) }).await?;
    println!("REGISTERED {:.3}", began.elapsed().as_secs_f64());
    Ok(())
}

async fn shut_down(registry: &Addr<Registry>) -> Result<(), Error> {
    let began = Instant::now();
    let report = registry.send(Shutdown::default().deadline(Duration::from_secs(30))).await??;
    let taken = began.elapsed().as_secs_f64();
    eprintln!("deregistered {}, failed {}, {taken:.3} s", report.deregistered, report.failed.len());
    match report.failed.into_iter().next() {
        None => Ok(()),
        Some(failed) => Err(failed.error),
    }
}

/// All instances that the command line describes.
fn instances(arguments: &mut cli::Arguments) -> Vec<RegisterInstance> {
    let service: String = arguments.required("service");
    let (ip, port): (String, u16) = (arguments.required("ip"), arguments.required("port"));
    let count: usize = arguments.option("count").unwrap_or(1);
    let (group, cluster): (Option<String>, Option<String>) = (arguments.option("group"), arguments.option("cluster"));
    let weight: f64 = arguments.option("weight").unwrap_or(1.0);
    let metadata: Metadata = arguments.all("metadata").iter().map(|pair| key_and_value(arguments, pair)).collect();
    let instance = |(ip, port): (String, u16)| {
        let mut instance = RegisterInstance::new(&service, ip, port).weight(weight).all_metadata(metadata.clone());
        if let Some(group) = &group {
            instance = instance.group(group);
        }
        if let Some(cluster) = &cluster {
            instance = instance.cluster(cluster);
        }
        instance
    };
    let addresses: Option<Vec<_>> = (0..count).map(|step| address(&ip, port, step)).collect();
    match addresses {
        Some(addresses) => addresses.into_iter().map(instance).collect(),
        None => arguments.refuse(format!("--count {count} is too high: the last part of {ip} would exceed 255")),
    }
}

fn key_and_value(arguments: &cli::Arguments, pair: &str) -> (String, String) {
    match pair.split_once('=') {
        Some((key, value)) => (key.to_owned(), value.to_owned()),
        None => arguments.refuse(format!("--metadata needs KEY=VALUE, not {pair:?}")),
    }
}

/// The address of the instance `step` after the first one: the port counts up, and after the last port the ip.
fn address(ip: &str, port: u16, step: usize) -> Option<(String, u16)> {
    const PORTS: usize = u16::MAX as usize;
    let from_one = usize::from(port).saturating_sub(1) + step;
    let (ips, port) = (from_one / PORTS, u16::try_from(from_one % PORTS + 1).ok()?);
    if ips == 0 {
        return Some((ip.to_owned(), port));
    }
    let [a, b, c, d] = ip.parse::<Ipv4Addr>().ok()?.octets();
    let d = u8::try_from(usize::from(d) + ips).ok()?;
    Some((Ipv4Addr::new(a, b, c, d).to_string(), port))
}
