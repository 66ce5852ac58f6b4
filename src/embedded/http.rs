//! The HTTP server: reads requests, applies faults, writes answers.
//!
//! A request passes through these steps: [`read`] parses it and finds its [`Route`]. The active faults may delay it or
//! make it fail. [`routes::serve`] checks the authorization and the parameters, and calls the handler, which changes
//! the [state](super::state). The faults may then delay or spoil the answer.
//!
//! Requests of an earlier [`Era`] are never answered: after a restart a real server would be another process,
//! which has not received them.

use std::{
    io,
    net::SocketAddr,
    pin::pin,
    sync::{atomic::Ordering, Arc},
    time::Duration,
};

use actix_web::{
    body::{MessageBody, SizedStream},
    dev::{ServerHandle, ServiceFactory, ServiceRequest, ServiceResponse},
    http::KeepAlive,
    rt,
    web::{self, Bytes, Data, PayloadConfig},
    App, Error, HttpMessage, HttpRequest, HttpResponse, HttpResponseBuilder, HttpServer,
};
use futures_util::stream;

use crate::{error::Operation, runtime::web_page, wire::signature::SECURITY_TOKEN_HEADER};

use super::{
    active_faults::Spoilt,
    agent::Agent,
    call::Call,
    connection::OpenConnection,
    console,
    dialect::Dialect,
    parameters::Parameters,
    reply::{Reply, JSON},
    routes::{self, Route},
    shared::Shared,
    v3_client,
};

/// The longest body that is read, in bytes.
const MAX_REQUEST: usize = 16 * 1024 * 1024;
/// The length of the answer [`Spoilt::TooLarge`], in bytes. A client must stop reading long before.
const TOO_LARGE: u64 = 64 * 1024 * 1024;

/// The time from one start of listening to the next restart.
///
/// The settings are copied, so that a request is read by the dialect that the server had when it began to listen.
struct Era {
    shared: Arc<Shared>,
    number: u64,
    dialect: Dialect,
    context_path: String,
    has_console: bool,
}

impl Era {
    fn now(shared: Arc<Shared>) -> Self {
        let settings = shared.with(|state| state.settings.clone());
        Era {
            number: shared.era.load(Ordering::Acquire),
            dialect: settings.dialect,
            context_path: settings.context_path,
            has_console: settings.console,
            shared,
        }
    }
}

/// An open port, with the connections to it.
pub(crate) enum Listening {
    System(ServerHandle),
    #[cfg(feature = "_testing")]
    Simulated(rt::task::JoinHandle<()>),
}

impl Listening {
    /// Closes the port and all connections, also those with a request under way.
    pub(crate) async fn stop(self) {
        match self {
            Listening::System(handle) => handle.stop(false).await,
            #[cfg(feature = "_testing")]
            Listening::Simulated(server) => server.abort(),
        }
    }
}

/// Listens on `address` with one worker. actix-web sets `SO_REUSEADDR`.
pub(crate) fn serve(shared: Arc<Shared>, address: SocketAddr) -> io::Result<(Listening, SocketAddr)> {
    let era = Data::new(Era::now(shared.clone()));
    #[cfg(feature = "_testing")]
    if let Some(bound) = crate::runtime::sockets::TcpListener::bind(address) {
        return bound.map(|(listener, address)| (serve_simulated(shared, era, listener), address));
    }
    let server = HttpServer::new(move || app(era.clone()))
        .workers(1)
        // `OpenConnection` closes idle connections, because its timeout can change.
        .keep_alive(KeepAlive::Os)
        .client_request_timeout(Duration::ZERO)
        .disable_signals()
        .on_connect(move |connection, data| OpenConnection::accepted(&shared, connection, data))
        .bind(address)?;
    let address = server.addrs().first().copied().unwrap_or(address);
    let server = server.run();
    let handle = server.handle();
    rt::spawn(server);
    Ok((Listening::System(handle), address))
}

fn app(
    era: Data<Era>,
) -> App<
    impl ServiceFactory<
        ServiceRequest,
        Config = (),
        Response = ServiceResponse<impl MessageBody>,
        Error = Error,
        InitError = (),
    >,
> {
    App::new().app_data(PayloadConfig::new(MAX_REQUEST)).app_data(era).default_service(web::to(answer))
}

/// Serves in this thread, as [`HttpServer`] does in its worker.
#[cfg(feature = "_testing")]
fn serve_simulated(
    shared: Arc<Shared>,
    era: Data<Era>,
    mut listener: crate::runtime::sockets::TcpListener,
) -> Listening {
    use actix_service::{map_config, IntoServiceFactory as _, Service as _, ServiceFactoryExt as _};

    let app = app(era).into_factory().map_err(|error: Error| error.error_response());
    let http = actix_http::HttpService::build()
        .keep_alive(KeepAlive::Os)
        .client_request_timeout(Duration::ZERO)
        .on_connect_ext(move |connection, data| OpenConnection::accepted(&shared, connection, data))
        .h1(map_config(app, |()| actix_web::dev::AppConfig::default()));
    Listening::Simulated(rt::spawn(async move {
        let Ok(service) = http.new_service(()).await else { return };
        let mut connections = tokio::task::JoinSet::new();
        while let Some(connection) = listener.accept().await {
            connections.spawn_local(service.call((connection, None)));
        }
    }))
}

/// Takes one request through all steps. Never fails: a rejection is an answer, too.
async fn answer(request: HttpRequest, body: Bytes, era: Data<Era>) -> HttpResponse {
    let shared = &era.shared;
    if shared.is_over(era.number) {
        return std::future::pending().await;
    }
    let busy = request.conn_data::<OpenConnection>().map(OpenConnection::busy);
    if era.has_console && console::has(request.path()) {
        return console::answer(&request, &body, shared, era.number, busy);
    }
    if web_page::may_be_rebound(request.headers()) {
        return console::refuse_foreign_host();
    }
    if era.has_console && console::is_cross_site(request.headers()) {
        return console::refuse_other_site();
    }
    let (call, route) = read(&request, &body, &era);
    let operation = route.operation;
    shared.with(|state| state.counters.count_request(operation));
    hang(shared, operation).await;
    let plan = shared.faults().plan(operation);
    pause(plan.before).await;
    if shared.is_over(era.number) {
        return std::future::pending().await;
    }
    let reply = match plan.fail {
        Some(status) => Reply::text(status, format!("injected fault: {status}")),
        None => shared.with(|state| routes::serve(state, &route, &call)),
    };
    pause(plan.after).await;
    match plan.spoil {
        Some(spoilt) => spoil(reply, spoilt),
        None => write(&reply).body(reply.body),
    }
}

/// Does not sleep for zero, which would still last until the timer's next tick.
async fn pause(time: Duration) {
    if !time.is_zero() {
        rt::time::sleep(time).await;
    }
}

/// Waits while a fault makes requests hang.
async fn hang(shared: &Shared, operation: Option<Operation>) {
    loop {
        let mut changed = pin!(shared.faults_changed.notified());
        // Enable before reading the faults, so that no change is missed.
        changed.as_mut().enable();
        if !shared.faults().hang(operation) {
            return;
        }
        changed.await;
    }
}

/// Parses a request and finds its route. The faults depend on the operation, before the request is served.
fn read(request: &HttpRequest, body: &Bytes, era: &Era) -> (Call, Route) {
    let dialect = era.dialect;
    let method = request.method().as_str();
    let path = request.path().strip_prefix(era.context_path.as_str()).filter(|path| path.starts_with('/'));
    let mut route = routes::find(dialect, method, path);
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    let call = Call {
        method: method.to_owned(),
        path: request.path().to_owned(),
        parameters: Parameters::read(dialect, request.query_string(), form(dialect, request, body)),
        agent: Agent::read(header("User-Agent").or(header("Client-Version")).unwrap_or("")),
        bearer: header("Authorization").and_then(|value| value.strip_prefix("Bearer ")).map(str::to_owned),
        token_header: header("accessToken").map(str::to_owned),
        security_token: header(SECURITY_TOKEN_HEADER).map(str::to_owned),
    };
    if route.operation == Some(Operation::Register) && v3_client::is_beat(&call) {
        route.operation = Some(Operation::Beat);
    }
    (call, route)
}

/// The form body, if the server reads it. The naming API of 1.4 reads parameters of a POST only from the query.
fn form<'a>(dialect: Dialect, request: &HttpRequest, body: &'a Bytes) -> Option<&'a [u8]> {
    let is_form = request.content_type() == "application/x-www-form-urlencoded";
    let is_read = !(dialect.is_v1_4() && request.method() == "POST" && request.path().contains("/ns/"));
    (is_form && is_read).then_some(body)
}

/// The answer without its body.
fn write(reply: &Reply) -> HttpResponseBuilder {
    let status = actix_web::http::StatusCode::from_u16(reply.status);
    let mut response = HttpResponse::build(status.unwrap_or(actix_web::http::StatusCode::INTERNAL_SERVER_ERROR));
    if let Some(content_type) = reply.content_type {
        response.insert_header(("Content-Type", content_type));
    }
    response
}

fn spoil(reply: Reply, spoilt: Spoilt) -> HttpResponse {
    match spoilt {
        Spoilt::CutOff => cut_off(reply),
        Spoilt::TooLarge => too_large(),
        Spoilt::Html => {
            let page = "<!DOCTYPE html>\n<html><head><title>Welcome</title></head><body><h1>Welcome</h1></body></html>\n";
            HttpResponse::Ok().content_type("text/html; charset=utf-8").body(page)
        }
        Spoilt::WrongType => HttpResponse::Ok().content_type(JSON).body(
            r#"{"name":[1],"hosts":{"ip":true},"cacheMillis":"soon","lastRefTime":"now","code":"fine","message":{},"data":"none","clientBeatInterval":[],"lightBeatEnabled":"maybe","count":"many","doms":7,"accessToken":5,"tokenTtl":"long","ip":1,"port":"none"}"#,
        ),
    }
}

/// Announces the length of the complete body and sends half of it.
fn cut_off(reply: Reply) -> HttpResponse {
    let whole = Bytes::from(reply.body.clone());
    let half = whole.slice(..whole.len() / 2);
    let chunks = [Ok(half), Err(io::Error::from(io::ErrorKind::ConnectionReset))];
    write(&reply).body(SizedStream::new(whole.len() as u64, stream::iter(chunks)))
}

fn too_large() -> HttpResponse {
    const CHUNK: &[u8] = &[b' '; 64 * 1024];
    let chunks = (0..TOO_LARGE / CHUNK.len() as u64).map(|_| Ok::<_, io::Error>(Bytes::from_static(CHUNK)));
    HttpResponse::Ok().content_type(JSON).body(SizedStream::new(TOO_LARGE, stream::iter(chunks)))
}
