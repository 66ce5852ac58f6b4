//! An actor of the application under actix's `Supervisor`: what it does again after a restart, and what it need not do.
//! `cargo run --example supervised`.

mod cli;

use std::{process::ExitCode, time::Duration};

use actix::prelude::*;
use actix_nacos::{embedded::EmbeddedServer, prelude::*};
use actix_rt::time::sleep;

const HELP: &str = "\
An actor registers an instance and listens to its service; then it fails, and its Supervisor restarts it.

Usage: supervised [--server HOST:PORT]

  --server HOST:PORT  use this Nacos; else the one in NACOS_SERVER_ADDR, else one inside this process
  --help              print this";

/// What the actor works for. Registration and subscription belong to the Registry, which outlives every restart of ours;
/// a restarted actor may ask for both again: neither is done twice.
struct Worker {
    registry: Addr<Registry>,
    service: String,
    /// Kept by the Supervisor through a restart; a timer or a future under way would not be.
    starts: u32,
}

impl Actor for Worker {
    type Context = Context<Self>;

    /// Also after each restart.
    fn started(&mut self, ctx: &mut Context<Self>) {
        self.starts += 1;
        println!("worker    start {}: registers and subscribes", self.starts);
        let listener = ctx.address().recipient();
        // Forgotten and subscribed anew, it hears the present list again, as its first.
        self.registry.do_send(Unsubscribe::new(&self.service).listener(listener.clone()));
        self.registry.do_send(Subscribe::new(&self.service, listener));
        let register = RegisterInstance::new(&self.service, "127.0.0.7", 8080);
        let registered = self.registry.send(register).into_actor(self).map(|answer, worker, ctx| match answer {
            Ok(Ok(_)) => println!("worker    start {}: the instance is registered", worker.starts),
            Ok(Err(error)) => {
                log::error!("not registered: {error}");
                // Restarts the actor: an easy way to try again, with no more than a pause to add.
                ctx.run_later(Duration::from_secs(1), |_, ctx| ctx.stop());
            }
            Err(_) => ctx.stop(),
        });
        ctx.spawn(registered);
    }
}

impl Supervised for Worker {
    fn restarting(&mut self, _: &mut Context<Self>) {
        println!("worker    is restarted");
    }
}

impl Handler<ServiceChanged> for Worker {
    type Result = ();

    fn handle(&mut self, news: ServiceChanged, _: &mut Context<Self>) {
        let what = if news.first { "the list as it is" } else { "a change" };
        println!("worker    hears {what}: {} instances", news.info.hosts.len());
    }
}

/// Makes the worker stop, as an error in its work would.
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
    // The address stays the same through all restarts. A panic would end it: actix's Supervisor restarts what stops.
    let worker = Supervisor::start(move |_| worker);

    sleep(2 * second).await;
    worker.send(Fail).await?;
    sleep(2 * second).await;

    let list = registry.send(ListInstances::new(&service).healthy_only()).await??;
    println!("registry  {} instance, registered all the time", list.hosts.len());
    let status = registry.send(GetStatus).await??;
    println!("registry  {} subscription", status.subscriptions.len());
    let report = registry.send(Shutdown::default()).await??;
    println!("registry  {} deregistered", report.deregistered);
    Ok(())
}
