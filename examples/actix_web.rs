//! An actix-web service that registers and calls other instances: `cargo run --example actix_web`.
//!
//! It registers once it listens, and calls instances that it discovers. On Ctrl-C or SIGTERM it deregisters, serves
//! until callers have noticed, and then stops. Health checks, metrics and a status page are mounted, too.

mod cli;

use std::{net::TcpListener, process::ExitCode, time::Duration};

use actix_nacos::{balance::Client, embedded::EmbeddedServer, prelude::*};
use actix_web::{get, rt, web, App, HttpResponse, HttpServer, Responder};

const HELP: &str = "\
Serves `/`, `/friend`, which calls `/` of another instance of the service, health checks at `/livez` and `/readyz`,
`/metrics`, and a status page at `/registry/`. `/offline` deregisters the service.

Usage: actix_web [OPTIONS]

  --server HOST:PORT  the Nacos server [NACOS_SERVER_ADDR, otherwise one inside this process]
  --service SERVICE   the service to register and to call [greeter]
  --port PORT         the port to listen on [a free port]
  --token TOKEN       shows metrics and page, and accepts `/offline`, from other machines with this token [only from here]
  --drain SECS        how long to serve after deregistering [until callers have noticed]
  --for SECS          stop after this time [only on a signal]
  --help              print this help";

/// This instance.
struct Me {
    address: String,
}

#[get("/")]
async fn hello(me: web::Data<Me>) -> impl Responder {
    format!("hello from {}\n", me.address)
}

#[get("/friend")]
async fn friend(http: web::Data<Client>) -> impl Responder {
    match http.get("http://friend/").send().await {
        Ok(answer) => HttpResponse::build(answer.status()).streaming(answer),
        Err(error) => HttpResponse::BadGateway().body(format!("{error}\n")),
    }
}

#[actix_web::main]
async fn main() -> ExitCode {
    cli::log_to_stderr();
    let mut arguments = cli::Arguments::read(HELP);
    let config = arguments.config();
    let options = Options {
        service: arguments.option("service").unwrap_or_else(|| "greeter".into()),
        port: arguments.option("port").unwrap_or(0),
        token: arguments.option("token"),
        drain: arguments.seconds("drain"),
        last: arguments.seconds("for"),
    };
    arguments.finish();
    cli::ended(run(config, options).await)
}

struct Options {
    service: String,
    port: u16,
    token: Option<String>,
    drain: Option<Duration>,
    last: Option<Duration>,
}

async fn run(config: Option<Config>, options: Options) -> Result<(), Error> {
    let (config, _embedded) = or_embedded(config)?;
    let ip = config.local_ip()?.to_string();
    let registry = Registry::start(config)?;
    let mut status = StatusRoutes::new(&registry);
    if let Some(token) = options.token {
        status = status.token(token);
    }

    let listener = TcpListener::bind(("0.0.0.0", options.port))?;
    let me = web::Data::new(Me { address: Instance::new(&ip, listener.local_addr()?.port()).authority() });
    println!("listening on http://{}/, /friend, /livez, /readyz, /offline, /metrics and /registry/", me.address);
    let others = Discover::new(options.service.as_str()).only({
        let me = me.address.clone();
        move |instance| instance.authority() != me
    });
    let by_name = Client::builder(&registry).host("friend", others);
    let app = move || {
        let http = web::Data::new(by_name.clone().finish());
        let app = App::new().app_data(me.clone()).app_data(http);
        app.configure(|app| status.configure(app)).service(hello).service(friend)
    };
    let server = HttpServer::new(app).listen(listener)?;
    let mut service = actix_nacos::serve(server, registry).register(options.service).ip(ip);
    if let Some(time) = options.drain {
        service = service.drain(time);
    }
    if let Some(time) = options.last {
        service = service.until(rt::time::sleep(time));
    }
    service.await?;
    println!("done");
    Ok(())
}

/// Starts an embedded server if no server is configured. The embedded server stops when it is dropped.
fn or_embedded(config: Option<Config>) -> std::io::Result<(Config, Option<EmbeddedServer>)> {
    if let Some(config) = config {
        return Ok((config, None));
    }
    let server = EmbeddedServer::start()?;
    let address = server.server_address();
    println!("a Nacos server runs inside this process; start another instance with");
    println!("cargo run --example actix_web -- --server {address}");
    Ok((Config::new(address), Some(server)))
}
