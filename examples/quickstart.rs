//! Every step in the life of an instance: `cargo run --example quickstart`.

mod cli;

use std::{
    path::PathBuf,
    process::{id, ExitCode},
    time::{Duration, Instant},
};

use actix::prelude::*;
use actix_nacos::{embedded::EmbeddedServer, prelude::*};
use actix_rt::time::{sleep, timeout};
use tokio::sync::mpsc;

const HELP: &str = "\
Registers two instances, lists them, reports every change, and shuts down.

Usage: quickstart [OPTIONS]

  --server HOST:PORT  the Nacos server [NACOS_SERVER_ADDR, otherwise one inside this process]
  --metrics FILE      write the metrics of the run to this file, in the text format of Prometheus
  --help              print this help";

/// How long a server may take to show a change.
const CHANGE_LIMIT: Duration = Duration::from_secs(5);

/// Forwards every change to the main task.
struct Listener {
    changes_tx: mpsc::UnboundedSender<ServiceChanged>,
}

impl Actor for Listener {
    type Context = Context<Self>;
}

impl Handler<ServiceChanged> for Listener {
    type Result = ();

    fn handle(&mut self, change: ServiceChanged, _: &mut Context<Self>) {
        // An error says that the main task has ended.
        let _ = self.changes_tx.send(change);
    }
}

#[actix::main]
async fn main() -> ExitCode {
    cli::log_to_stderr();
    let mut arguments = cli::Arguments::read(HELP);
    let config = arguments.config();
    let metrics = arguments.option("metrics");
    arguments.finish();
    cli::ended(run(config, metrics).await)
}

async fn run(config: Option<Config>, metrics: Option<PathBuf>) -> Result<(), Box<dyn std::error::Error>> {
    let began = Instant::now();
    let embedded = if config.is_none() { Some(EmbeddedServer::start()?) } else { None };
    let address = embedded.as_ref().map(EmbeddedServer::server_address).unwrap_or_default();
    let second = Duration::from_secs(1);
    let registry = Registry::start(config.unwrap_or_else(|| Config::new(address)).poll_interval(second, second))?;
    let servers = registry.send(GetStatus).await??.servers;
    let servers: Vec<_> = servers.iter().map(|server| server.address.as_str()).collect();
    let inside = if embedded.is_some() { ", inside this process" } else { "" };
    println!("server      {}{inside}", servers.join(", "));
    // A service name of this process, so that the lists have no other instances.
    let service = format!("quickstart-{}", id());

    register_and_list(&registry, &service).await?;
    follow_changes(&registry, &service).await?;

    if let Some(file) = metrics {
        std::fs::write(file, registry.send(GetStatus).await??.to_prometheus())?;
    }
    let report = registry.send(Shutdown::default()).await??;
    println!("shutdown    {} deregistered, {} failed", report.deregistered, report.failed.len());
    println!("done        in {:.1} s", began.elapsed().as_secs_f64());
    Ok(())
}

async fn register_and_list(registry: &Addr<Registry>, service: &str) -> Result<(), Box<dyn std::error::Error>> {
    let first = RegisterInstance::new(service, "127.0.0.1", 8080).weight(2.0).metadata("zone", "a");
    registry.send(first).await??;
    registry.send(RegisterInstance::new(service, "127.0.0.2", 8080)).await??;
    println!("register    two instances of {service}; each sends heartbeats now");

    let list = list_of(registry, service, 2).await?;
    println!("list        {}", instances(&list));
    Ok(())
}

/// Subscribes, then changes the instances and prints the change that the listener receives.
async fn follow_changes(registry: &Addr<Registry>, service: &str) -> Result<(), Box<dyn std::error::Error>> {
    let (changes_tx, mut changes) = mpsc::unbounded_channel();
    let listener = Listener { changes_tx }.start();
    registry.send(Subscribe::new(service, listener.recipient())).await??;
    let change = next_change(&mut changes, |change| change.first && change.info.hosts.len() == 2).await?;
    println!("subscribe   the present list: {} instances", change.added.len());

    registry.send(ModifyInstance::new(service, "127.0.0.1", 8080).weight(5.0)).await??;
    let change = next_change(&mut changes, |change| !change.changed.is_empty()).await?;
    for (before, now) in &change.changed {
        println!("modify      {}: weight {} -> {} ({:?})", now.authority(), before.weight, now.weight, change.source);
    }

    let instance = registry.send(GetInstance::new(service, "127.0.0.1", 8080)).await??;
    println!("get         {} has weight {} and {:?}", instance.authority(), instance.weight, instance.metadata);

    let reply = registry.send(SendHeartbeat::new(service, "127.0.0.2", 8080)).await??;
    println!("heartbeat   sent once; the server asks for one every {} ms", reply.client_beat_interval);

    registry.send(DeregisterInstance::new(service, "127.0.0.2", 8080)).await??;
    let change = next_change(&mut changes, |change| !change.removed.is_empty()).await?;
    for gone in &change.removed {
        println!("deregister  {} is gone, {} left ({:?})", gone.authority(), change.info.hosts.len(), change.source);
    }
    Ok(())
}

/// Lists until the server shows all instances, which may take a second.
async fn list_of(
    registry: &Addr<Registry>,
    service: &str,
    instances: usize,
) -> Result<ServiceInfo, Box<dyn std::error::Error>> {
    let give_up = Instant::now() + CHANGE_LIMIT;
    loop {
        let list = registry.send(ListInstances::new(service).healthy_only()).await??;
        if list.hosts.len() == instances {
            return Ok(list);
        }
        if Instant::now() > give_up {
            return Err(format!("the server lists {} instances, not {instances}", list.hosts.len()).into());
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Waits for a change that `matters`.
async fn next_change(
    changes: &mut mpsc::UnboundedReceiver<ServiceChanged>,
    matters: impl Fn(&ServiceChanged) -> bool,
) -> Result<ServiceChanged, Box<dyn std::error::Error>> {
    let waiting = async {
        while let Some(change) = changes.recv().await {
            if matters(&change) {
                return Ok(change);
            }
        }
        Err("the listener has stopped")
    };
    Ok(timeout(CHANGE_LIMIT, waiting).await.map_err(|_| format!("no change within {CHANGE_LIMIT:?}"))??)
}

fn instances(list: &ServiceInfo) -> String {
    let describe = |instance: &Instance| format!("{} (weight {})", instance.authority(), instance.weight);
    list.hosts.iter().map(|instance| describe(instance)).collect::<Vec<_>>().join(", ")
}
