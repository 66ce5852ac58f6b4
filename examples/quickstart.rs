//! Every step of an instance's life, one line each: `cargo run --example quickstart`.

mod cli;

use std::{
    process::{id, ExitCode},
    time::{Duration, Instant},
};

use actix::prelude::*;
use actix_nacos::{embedded::EmbeddedServer, prelude::*};
use actix_rt::time::{sleep, timeout};
use tokio::sync::mpsc;

const HELP: &str = "\
Registers two instances, lists them, hears of every change, and goes.

Usage: quickstart [--server HOST:PORT]

  --server HOST:PORT  use this Nacos; else the one in NACOS_SERVER_ADDR, else one inside this process
  --help              print this";

/// Longer than a server takes to show a change.
const PATIENCE: Duration = Duration::from_secs(5);

/// Hands on what it hears.
struct Listener {
    heard_tx: mpsc::UnboundedSender<ServiceChanged>,
}

impl Actor for Listener {
    type Context = Context<Self>;
}

impl Handler<ServiceChanged> for Listener {
    type Result = ();

    fn handle(&mut self, news: ServiceChanged, _: &mut Context<Self>) {
        // Nobody listens at the end.
        let _ = self.heard_tx.send(news);
    }
}

#[actix::main]
async fn main() -> ExitCode {
    cli::log_to_stderr();
    let mut arguments = cli::Arguments::read(HELP);
    let config = arguments.config();
    arguments.finish();
    cli::ended(run(config).await)
}

async fn run(config: Option<Config>) -> Result<(), Box<dyn std::error::Error>> {
    let began = Instant::now();
    let embedded = if config.is_none() { Some(EmbeddedServer::start()?) } else { None };
    let config = match (config, &embedded) {
        (Some(config), _) => config,
        (None, Some(server)) => Config::new(server.server_address()),
        (None, None) => return Err("no server".into()),
    };
    let second = Duration::from_secs(1);
    let registry = Registry::start(config.poll_interval(second, second))?;
    let servers = registry.send(GetStatus).await??.servers;
    let servers: Vec<_> = servers.iter().map(|server| server.address.as_str()).collect();
    let inside = if embedded.is_some() { ", inside this process" } else { "" };
    println!("server      {}{inside}", servers.join(", "));
    // A service of our own, so that nobody else's instances confuse the reader.
    let service = format!("quickstart-{}", id());

    let first = RegisterInstance::new(&service, "127.0.0.1", 8080).weight(2.0).metadata("zone", "a");
    registry.send(first).await??;
    registry.send(RegisterInstance::new(&service, "127.0.0.2", 8080)).await??;
    println!("register    two instances of {service}; each has a heartbeat now");

    let list = list_of(&registry, &service, 2).await?;
    println!("list        {}", instances(&list));

    let (heard_tx, mut heard) = mpsc::unbounded_channel();
    let listener = Listener { heard_tx }.start();
    registry.send(Subscribe::new(&service, listener.recipient())).await??;
    let news = hear(&mut heard, |news| news.first && news.info.hosts.len() == 2).await?;
    println!("subscribe   the list as it is: {} added", news.added.len());

    registry.send(ModifyInstance::new(&service, "127.0.0.1", 8080).weight(5.0)).await??;
    let news = hear(&mut heard, |news| !news.changed.is_empty()).await?;
    for (before, now) in &news.changed {
        println!("modify      {}: weight {} is {} now ({:?})", now.authority(), before.weight, now.weight, news.source);
    }

    let instance = registry.send(GetInstance::new(&service, "127.0.0.1", 8080)).await??;
    println!("get         {} has weight {} and {:?}", instance.authority(), instance.weight, instance.metadata);

    let reply = registry.send(SendHeartbeat::new(&service, "127.0.0.2", 8080)).await??;
    println!("heartbeat   by hand; the server wants one every {} ms", reply.client_beat_interval);

    registry.send(DeregisterInstance::new(&service, "127.0.0.2", 8080)).await??;
    let news = hear(&mut heard, |news| !news.removed.is_empty()).await?;
    for gone in &news.removed {
        println!("deregister  {} is gone, {} left ({:?})", gone.authority(), news.info.hosts.len(), news.source);
    }

    let report = registry.send(Shutdown::default()).await??;
    println!("shutdown    {} deregistered, {} failed", report.deregistered, report.failed.len());
    println!("done        in {:.1} s", began.elapsed().as_secs_f64());
    Ok(())
}

/// Servers may take a second to list what was registered.
async fn list_of(
    registry: &Addr<Registry>,
    service: &str,
    instances: usize,
) -> Result<ServiceInfo, Box<dyn std::error::Error>> {
    let give_up = Instant::now() + PATIENCE;
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

/// Waits for the news that matter.
async fn hear(
    heard: &mut mpsc::UnboundedReceiver<ServiceChanged>,
    matters: impl Fn(&ServiceChanged) -> bool,
) -> Result<ServiceChanged, Box<dyn std::error::Error>> {
    let hearing = async {
        while let Some(news) = heard.recv().await {
            if matters(&news) {
                return Ok(news);
            }
        }
        Err("the listener is gone")
    };
    Ok(timeout(PATIENCE, hearing).await.map_err(|_| format!("heard nothing for {PATIENCE:?}"))??)
}

fn instances(list: &ServiceInfo) -> String {
    let describe = |instance: &Instance| format!("{} (weight {})", instance.authority(), instance.weight);
    list.hosts.iter().map(|instance| describe(instance)).collect::<Vec<_>>().join(", ")
}
