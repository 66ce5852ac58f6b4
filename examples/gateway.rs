//! A reverse proxy for services by name: `cargo run --example gateway -- orders billing`.
//!
//! `/orders/items` is forwarded to `/items` of an instance of `orders`. When an instance dies, requests go to another
//! one. An instance that keeps failing gets no requests for a while. `/metrics` and the live page at `/registry/` show
//! the requests and the instances.

mod cli;

use std::{collections::HashMap, process::ExitCode, time::Duration};

use actix_nacos::{
    balance::{cause, Client, ClientBuilder, Retry},
    embedded::EmbeddedServer,
    prelude::*,
};
use actix_web::{
    body::{BodyStream, SizedStream},
    http::header::{self, HeaderMap, HeaderName, HeaderValue},
    web, App, HttpRequest, HttpResponse, HttpServer,
};
use awc::{error::SendRequestError, ClientRequest, SendClientRequest};

const HELP: &str = "\
Forwards /SERVICE/path to /path of an instance of that service. Other services cannot be reached. WebSockets are not
forwarded. /metrics and /registry/ show what is going on, to this machine only.

Usage: gateway [OPTIONS] SERVICE...

  SERVICE             a service to forward to, as orders or SHOP@@orders
  --server HOST:PORT  the Nacos; else the one in NACOS_SERVER_ADDR, else one inside this process
  --port PORT         where to listen [a free one]
  --help              print this";

/// Headers that concern one connection, so they are not forwarded.
const HOP_BY_HOP: [HeaderName; 10] = [
    header::CONNECTION,
    // actix-web has already answered `Expect: 100-continue`.
    header::EXPECT,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// The host by which the client knows each service. Service names need not be host names.
type Hosts = HashMap<String, String>;

#[actix_web::main]
async fn main() -> ExitCode {
    cli::log_to_stderr();
    let mut arguments = cli::Arguments::read(HELP);
    let config = arguments.config();
    let port: u16 = arguments.option("port").unwrap_or(0);
    let services = arguments.rest("a SERVICE");
    cli::ended(run(config, port, &services).await)
}

async fn run(config: Option<Config>, port: u16, services: &[String]) -> Result<(), Box<dyn std::error::Error>> {
    let (config, _embedded) = or_embedded(config)?;
    let registry = Registry::start(config)?;
    let hosts: Hosts = (0..).zip(services).map(|(number, name)| (name.clone(), format!("service-{number}"))).collect();
    let by_name = hosts.iter().fold(settings(&registry), |client, (service, host)| {
        client.host(host, Discover::new(service).slow_after(Duration::from_secs(60)))
    });
    let _views = first_lists(&registry, services).await?;

    let status = StatusRoutes::new(&registry).livez(None).readyz(None).offline(None);
    let app = move || {
        let app = App::new().app_data(web::Data::new(hosts.clone())).app_data(web::Data::new(client(&by_name)));
        app.configure(|app| status.configure(app))
            .route("/{service}", web::to(forward))
            .route("/{service}/{path:.*}", web::to(forward))
    };
    let server = HttpServer::new(app).bind(("127.0.0.1", port))?;
    let address = server.addrs()[0];
    println!("listening on http://{address}");
    // Ends the Registry first, which ends the streams of open pages.
    Ok(actix_nacos::serve(server, registry).await?)
}

/// Passes redirects on to the caller, and gives uploads as much time as their senders need.
fn settings(registry: &actix::Addr<Registry>) -> ClientBuilder {
    Client::builder(registry).retry(Retry::once()).redirects(0).deadline(Duration::from_secs(600))
}

/// Makes the client of one worker, because a client belongs to one thread.
fn client(by_name: &ClientBuilder) -> Client {
    by_name.clone().finish()
}

/// Creates views, which keep the lists current while there are no calls. The gateway also starts if a list is missing.
async fn first_lists(registry: &actix::Addr<Registry>, services: &[String]) -> Result<Vec<ServiceView>, Error> {
    let mut views = Vec::new();
    for service in services {
        let view = registry.send(Discover::new(service)).await??;
        if let Err(error) = view.ready_within(Duration::from_secs(5)).await {
            log::warn!("no list of {service} yet: {error}");
        }
        views.push(view);
    }
    Ok(views)
}

async fn forward(
    request: HttpRequest,
    body: web::Payload,
    hosts: web::Data<Hosts>,
    http: web::Data<Client>,
) -> HttpResponse {
    let Some(host) = request.match_info().get("service").and_then(|service| hosts.get(service)) else {
        return HttpResponse::NotFound().body("no such service\n");
    };
    let url = format!("http://{host}{}", below_service(&request));
    match send(prepare(&request, &http, url), &request, body).await {
        Ok(answer) => pass_back(answer),
        Err(error) => unavailable(&error),
    }
}

/// Returns path and query without the service.
fn below_service(request: &HttpRequest) -> String {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    match path[1..].find(['/', '?']) {
        Some(end) if path[1 + end..].starts_with('/') => path[1 + end..].to_owned(),
        Some(end) => format!("/{}", &path[1 + end..]),
        None => "/".into(),
    }
}

fn prepare(request: &HttpRequest, http: &Client, url: String) -> ClientRequest {
    let mut forwarded = http.request(request.method().clone(), url).no_decompress();
    let connection = request.connection_info();
    copy_headers(request.headers(), forwarded.headers_mut());
    if let Some(host) = request.headers().get(header::HOST) {
        forwarded.headers_mut().insert(header::HOST, host.clone());
    }
    let mut add = |name, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            forwarded.headers_mut().append(HeaderName::from_static(name), value);
        }
    };
    add("x-forwarded-for", connection.peer_addr().unwrap_or("unknown"));
    add("x-forwarded-host", connection.host());
    add("x-forwarded-proto", connection.scheme());
    forwarded
}

/// Copies all headers except those of the connection. The length is sent with the body.
fn copy_headers(from: &HeaderMap, to: &mut HeaderMap) {
    let named: Vec<_> = from.get_all(header::CONNECTION).filter_map(|value| value.to_str().ok()).collect();
    let is_named = |name: &HeaderName| {
        named.iter().flat_map(|names| names.split(',')).any(|one| one.trim().eq_ignore_ascii_case(name.as_str()))
    };
    let stays = |name: &HeaderName| {
        HOP_BY_HOP.contains(name) || [header::CONTENT_LENGTH, header::HOST].contains(name) || is_named(name)
    };
    for (name, value) in from.iter().filter(|(name, _)| !stays(name)) {
        to.append(name.clone(), value.clone());
    }
}

/// A request without a body can be sent again. A request with a body can be sent again only if nothing of it was read.
fn send(forwarded: ClientRequest, request: &HttpRequest, body: web::Payload) -> SendClientRequest {
    let is_chunked = request.headers().contains_key(header::TRANSFER_ENCODING);
    match length(request.headers()) {
        None | Some(0) if !is_chunked => forwarded.send(),
        Some(length) => forwarded.send_body(SizedStream::new(length, body)),
        None => forwarded.send_body(BodyStream::new(body)),
    }
}

fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn pass_back(answer: awc::ClientResponse) -> HttpResponse {
    let mut response = HttpResponse::build(answer.status());
    let mut headers = HeaderMap::new();
    copy_headers(answer.headers(), &mut headers);
    headers.into_iter().for_each(|header| _ = response.append_header(header));
    match length(answer.headers()) {
        Some(length) => response.body(SizedStream::new(length, answer)),
        None => response.streaming(answer),
    }
}

fn unavailable(error: &SendRequestError) -> HttpResponse {
    log::warn!("not forwarded: {error}");
    let mut response = match error {
        error if matches!(cause(error), Some(Error::NoInstance { .. })) => HttpResponse::ServiceUnavailable(),
        SendRequestError::Timeout => HttpResponse::GatewayTimeout(),
        _ => HttpResponse::BadGateway(),
    };
    response.body(format!("{error}\n"))
}

/// The embedded server stops when the returned value is dropped.
fn or_embedded(config: Option<Config>) -> std::io::Result<(Config, Option<EmbeddedServer>)> {
    if let Some(config) = config {
        return Ok((config, None));
    }
    let server = EmbeddedServer::start()?;
    let address = server.server_address();
    println!("a Nacos inside this process; an instance: cargo run --example actix_web -- --server {address}");
    Ok((Config::new(address), Some(server)))
}
