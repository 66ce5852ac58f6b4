//! An actix-web service among others: `cargo run --example actix_web`.
//!
//! It registers once it listens, calls instances that it finds by the registry, and on Ctrl-C or SIGTERM first takes
//! itself out of the lists, then serves those who have not heard of it yet, then ends.

mod cli;

use std::{process::ExitCode, time::Duration};

use actix_nacos::{embedded::EmbeddedServer, prelude::*};
use actix_web::{get, rt, web, App, HttpResponse, HttpServer, Responder};

const HELP: &str = "\
Serves `/`, and `/friend`, which asks another instance of the service for its `/`.

Usage: actix_web [OPTIONS]

  --server HOST:PORT  the Nacos; else the one in NACOS_SERVER_ADDR, else one inside this process
  --service SERVICE   the service to be an instance of, and to call [greeter]
  --port PORT         where to listen [a free one]
  --drain SECS        serve on for so long after deregistering [until callers have noticed]
  --for SECS          end after so long [on a signal only]
  --help              print this";

/// Which instance this is.
struct Me {
    address: String,
}

#[get("/")]
async fn hello(me: web::Data<Me>) -> impl Responder {
    format!("hello from {}\n", me.address)
}

#[get("/friend")]
async fn friend(view: web::Data<ServiceView>, me: web::Data<Me>, client: web::Data<awc::Client>) -> impl Responder {
    // With few instances the choice often is oneself.
    let chosen = (0..16).filter_map(|_| view.select_one()).find(|chosen| chosen.authority() != me.address);
    let Some(friend) = chosen.map(|chosen| chosen.authority()) else {
        return HttpResponse::ServiceUnavailable().body("nobody else is here\n");
    };
    match client.get(format!("http://{friend}/")).send().await {
        Ok(mut answer) => match answer.body().await {
            Ok(body) => HttpResponse::Ok().body(body),
            Err(error) => HttpResponse::BadGateway().body(format!("{friend}: {error}\n")),
        },
        Err(error) => HttpResponse::BadGateway().body(format!("{friend}: {error}\n")),
    }
}

#[actix_web::main]
async fn main() -> ExitCode {
    cli::log_to_stderr();
    let mut arguments = cli::Arguments::read(HELP);
    let config = arguments.config();
    let service: String = arguments.option("service").unwrap_or_else(|| "greeter".into());
    let port: u16 = arguments.option("port").unwrap_or(0);
    let shutdown = match arguments.seconds("drain") {
        Some(time) => Shutdown::default().drain(time),
        None => Shutdown::default().drain_until_noticed(),
    };
    let last = arguments.seconds("for");
    arguments.finish();
    cli::ended(run(config, &service, port, shutdown, last).await)
}

async fn run(
    config: Option<Config>,
    service: &str,
    port: u16,
    shutdown: Shutdown,
    last: Option<Duration>,
) -> Result<(), Box<dyn std::error::Error>> {
    let (config, _embedded) = or_embedded(config)?;
    let ip = config.local_ip()?.to_string();
    let registry = Registry::start(config)?;
    let view = registry.send(Discover::new(service)).await??;

    let listener = std::net::TcpListener::bind(("0.0.0.0", port))?;
    let port = listener.local_addr()?.port();
    let me = web::Data::new(Me { address: Instance::new(&ip, port).authority() });
    println!("listening on http://{}/ and /friend", me.address);
    let app = move || {
        let (view, client) = (web::Data::new(view.clone()), web::Data::new(awc::Client::default()));
        App::new().app_data(me.clone()).app_data(view).app_data(client).service(hello).service(friend)
    };
    let server = HttpServer::new(app).listen(listener)?.disable_signals().run();
    registry.send(RegisterInstance::new(service, ip, port)).await??;

    let handle = server.handle();
    rt::spawn(async move {
        cli::told_to_end(last).await;
        println!("deregistering, then serving on until callers have noticed");
        match registry.send(shutdown).await.unwrap_or_else(|error| Err(error.into())) {
            Ok(report) => println!("{} deregistered, served on for {:?}", report.deregistered, report.drained),
            Err(error) => log::warn!("not deregistered: {error}"),
        }
        println!("ending the last requests");
        handle.stop(true).await;
    });
    server.await?;
    println!("done");
    Ok(())
}

/// The embedded server lives as long as what is returned.
fn or_embedded(config: Option<Config>) -> std::io::Result<(Config, Option<EmbeddedServer>)> {
    if let Some(config) = config {
        return Ok((config, None));
    }
    let server = EmbeddedServer::start()?;
    let address = server.server_address();
    println!("a Nacos inside this process; another instance: cargo run --example actix_web -- --server {address}");
    Ok((Config::new(address), Some(server)))
}
