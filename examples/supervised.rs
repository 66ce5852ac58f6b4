//! An actor of the application under actix's `Supervisor`, and what it must do again after a restart: `cargo run
//! --example supervised`.

mod cli;

use std::{process::ExitCode, time::Duration};

use actix::prelude::*;
use actix_nacos::{embedded::EmbeddedServer, prelude::*};
use actix_rt::time::sleep;

const HELP: &str = "\
Runs an actor that registers an instance and subscribes to its service. The actor fails, and its Supervisor restarts it.

Usage: supervised [--server HOST:PORT]

  --server HOST:PORT  the Nacos server [NACOS_SERVER_ADDR, otherwise one inside this process]
  --help              print this help";

/// An actor that registers an instance. Registration and subscription belong to the Registry, which keeps them while
/// the actor restarts. The restarted actor may request both again: neither is done twice.
struct Worker {
    registry: Addr<Registry>,
    service: String,
    /// A restart keeps this value, but loses timers and futures under way.
    starts: u32,
}

impl Actor for Worker {
    type Context = Context<Self>;

    /// Also runs after each restart.
    fn started(&mut self, ctx: &mut Context<Self>) {
        self.starts += 1;
        println!("worker    start {}: registers and subscribes", self.starts);
        let listener = ctx.address().recipient();
        // Unsubscribing first makes the Registry send the present list again, as the first one.
        self.registry.do_send(Unsubscribe::new(&self.service).listener(listener.clone()));
        self.registry.do_send(Subscribe::new(&self.service, listener));
        let register = RegisterInstance::new(&self.service, "127.0.0.7", 8080);
        let registered = self.registry.send(register).into_actor(self).map(|answer, worker, ctx| match answer {
            Ok(Ok(_)) => println!("worker    start {}: the instance is registered", worker.starts),
            Ok(Err(error)) => {
                log::error!("failed to register: {error}");
                // Stopping restarts the actor, which tries again. The pause avoids a busy loop.
                ctx.run_later(Duration::from_secs(1), |_, ctx| ctx.stop());
            }
            Err(_) => ctx.stop(),
        });
        ctx.spawn(registered);
    }
}

impl Supervised for Worker {
    fn restarting(&mut self, _: &mut Context<Self>) {
        println!("worker    restarts");
    }
}

impl Handler<ServiceChanged> for Worker {
    type Result = ();

    fn handle(&mut self, change: ServiceChanged, _: &mut Context<Self>) {
        let what = if change.first { "the present list" } else { "a change" };
        println!("worker    receives {what}: {} instances", change.info.hosts.len());
    }
}

/// Makes the worker stop, as after an error in its work.
#[derive(Message)]
#[rtype(result = "()")]
struct Fail;

impl Handler<Fail> for Worker {
    type Result = ();

    fn handle(&mut self, _: Fail, ctx: &mut Context<Self>) {
        println!("worker    fails");
        ctx.stop();
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
    let embedded = if config.is_none() { Some(EmbeddedServer::start()?) } else { None };
    let address = embedded.as_ref().map(EmbeddedServer::server_address).unwrap_or_default();
    let second = Duration::from_secs(1);
    let config = config.unwrap_or_else(|| Config::new(address)).poll_interval(second, second);
    let registry = Registry::start(config)?;
    let service = format!("supervised-{}", std::process::id());
    let worker = Worker { registry: registry.clone(), service: service.clone(), starts: 0 };
    // The address survives restarts. A panic would close it: actix's Supervisor restarts only actors that stop.
    let worker = Supervisor::start(move |_| worker);

    sleep(2 * second).await;
    worker.send(Fail).await?;
    sleep(2 * second).await;

    let list = registry.send(ListInstances::new(&service).healthy_only()).await??;
    println!("registry  {} instance, registered throughout", list.hosts.len());
    let status = registry.send(GetStatus).await??;
    println!("registry  {} subscription", status.subscriptions.len());
    let report = registry.send(Shutdown::default()).await??;
    println!("registry  {} deregistered", report.deregistered);
    Ok(())
}
