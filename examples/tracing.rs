//! Log records as events of `tracing`: `cargo run --example tracing`.
//!
//! An application that logs by `tracing` receives the records about its instances as events with fields, by which it
//! can search. It only has to set up its own subscriber.

mod cli;

use std::{process::ExitCode, time::Duration};

use actix_nacos::{embedded::EmbeddedServer, prelude::*};
use tracing_subscriber::fmt;

const HELP: &str = "\
Registers, loses the server, finds it again and goes offline, and logs what happens.

Usage: tracing [OPTIONS]

  --help  print this";

#[actix::main]
async fn main() -> ExitCode {
    cli::Arguments::read(HELP).finish();
    fmt().with_max_level(tracing_subscriber::filter::LevelFilter::INFO).with_ansi(false).init();
    cli::ended(run().await)
}

async fn run() -> Result<(), Error> {
    let nacos = EmbeddedServer::start()?;
    let registry = Registry::start(Config::new(nacos.server_address()))?;
    registry
        .send(RegisterInstance::new("orders", "127.0.0.7", 8080).heartbeat_interval(Duration::from_millis(100)))
        .await??;
    let orders = registry.send(Discover::new("orders")).await??;
    orders.ready_within(Duration::from_secs(5)).await?;

    nacos.faults().refuse_connections();
    until(&registry, ConnectionState::Lost).await?;
    nacos.faults().accept_connections();
    until(&registry, ConnectionState::Connected).await?;
    registry.send(Shutdown::default()).await??;
    Ok(())
}

async fn until(registry: &actix::Addr<Registry>, state: ConnectionState) -> Result<(), Error> {
    while registry.send(GetStatus).await??.connection != state {
        actix_rt::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
