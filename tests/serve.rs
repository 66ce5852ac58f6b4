//! Runs a service with `serve` in a child process, sends it signals, and reads its routes, as Kubernetes does.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{
    cell::{Cell, RefCell},
    future::IntoFuture as _,
    io::{BufRead as _, BufReader},
    net::TcpListener,
    os::unix::process::ExitStatusExt as _,
    process::{Command, Stdio},
    sync::Arc,
    thread,
    time::Instant,
};

use actix::Addr;
use actix_nacos::{
    balance::{self, Client},
    embedded::EmbeddedServer,
    serve, Discover, Error, GetStatus, Operation, RegisterInstance, Registry, Serve, Shutdown, StatusRoutes,
};
use actix_web::{http, web, App, HttpServer};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::{mpsc, oneshot, Semaphore},
};

use base64::{engine::general_purpose::STANDARD as BASE64, Engine as _};
use support::{
    ask, config, config_at,
    logs::logger,
    ms, only_instance, ports,
    process::{example, Process},
    registry, server, shut_down, soon, start, until,
};

/// The answer of a route.
#[derive(Debug, Clone, PartialEq)]
struct Answered {
    status: u16,
    body: String,
}

/// Sends a request with these headers. Returns `None` if nothing listens.
async fn get_with(port: u16, path: &str, headers: &[(&str, &str)]) -> Option<Answered> {
    let mut request = awc::Client::default().get(format!("http://127.0.0.1:{port}{path}")).timeout(ms(15_000));
    for header in headers {
        request = request.insert_header(*header);
    }
    let mut answer = request.send().await.ok()?;
    let body = answer.body().await.ok()?;
    Some(Answered { status: answer.status().as_u16(), body: String::from_utf8_lossy(&body).into_owned() })
}

async fn get(port: u16, path: &str) -> Option<Answered> {
    get_with(port, path, &[]).await
}

async fn status_of(port: u16, path: &str) -> Option<u16> {
    get(port, path).await.map(|answered| answered.status)
}

fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// A service in this process that listens on `listener`.
fn service(listener: TcpListener, registry: Addr<Registry>, routes: StatusRoutes) -> Serve {
    let app = move || App::new().configure(|app| routes.configure(app)).route("/", web::get().to(async || "hello"));
    serve(HttpServer::new(app).workers(1).listen(listener).unwrap(), registry).disable_signals()
}

/// A running service. The test ends it and reads its result.
struct Running {
    end: oneshot::Sender<()>,
    task: actix_rt::task::JoinHandle<Result<(), Error>>,
}

impl Running {
    fn start(service: Serve) -> Self {
        let (end, ended) = oneshot::channel::<()>();
        let service = service.until(async { drop(ended.await) });
        Running { end, task: actix_rt::spawn(service.into_future()) }
    }

    async fn end(self) -> Result<(), Error> {
        drop(self.end);
        soon("the end of the service", self.task).await.unwrap()
    }
}

async fn until_status(port: u16, path: &str, status: u16) {
    let what = format!("{path} answers {status}");
    support::eventually(&what, async || (status_of(port, path).await == Some(status)).then_some(())).await;
}

#[actix::test]
async fn a_service_registers_the_address_it_listens_on_and_is_gone_when_it_ends() {
    let nacos = server();
    let registry = registry(&nacos);
    let (listener, port) = listen();
    let routes = StatusRoutes::new(&registry);
    let service = service(listener, registry, routes).register("orders").drain(ms(50));
    let running = Running::start(service);
    until_status(port, "/readyz", 200).await;
    let instance = only_instance(&nacos, "orders");
    assert_eq!((instance.ip.as_str(), instance.port), ("127.0.0.1", port));
    assert_eq!(running.end().await, Ok(()));
    assert!(ports(&nacos, "orders").is_empty());
    assert_eq!(status_of(port, "/livez").await, None, "the server has stopped");
}

#[actix::test]
async fn several_services_and_ports_are_registered_as_they_are_given() {
    let nacos = server();
    let registry = registry(&nacos);
    let ((one, first), (other, second)) = (listen(), listen());
    let server = HttpServer::new(App::new).workers(1).listen(one).unwrap().listen(other).unwrap();
    let service = serve(server, registry)
        .disable_signals()
        .ip("127.0.0.9")
        .drain(ms(0))
        .register_with("orders", |instance| instance.weight(3.0).metadata("zone", "a").cluster("EAST"))
        .register_with("orders-admin", move |instance| instance.port(second).ip("127.0.0.10"));
    let running = Running::start(service);
    until("both are registered", || ports(&nacos, "orders").len() + ports(&nacos, "orders-admin").len() == 2).await;
    let (orders, admin) = (only_instance(&nacos, "orders"), only_instance(&nacos, "orders-admin"));
    assert_eq!((orders.ip.as_str(), orders.port, orders.weight), ("127.0.0.9", first, 3.0));
    assert_eq!(orders.metadata["zone"], "a");
    assert_eq!((admin.ip.as_str(), admin.port), ("127.0.0.10", second));
    assert_eq!(running.end().await, Ok(()));
}

#[actix::test]
async fn without_a_registry_server_a_service_serves_and_registers_as_soon_as_there_is_one() {
    let (reserved, nacos_port) = listen();
    drop(reserved);
    let registry = start(config_at(&format!("127.0.0.1:{nacos_port}")));
    let (listener, port) = listen();
    let routes = StatusRoutes::new(&registry);
    let strict = routes.clone().strict().livez(None).offline(None).metrics(None).prefix(None).readyz("/strict");
    let app = move || App::new().configure(|app| routes.configure(app)).configure(|app| strict.configure(app));
    let server = HttpServer::new(app).workers(1).listen(listener).unwrap();
    let running = Running::start(serve(server, registry).disable_signals().register("orders"));
    until_status(port, "/readyz", 200).await;
    assert_eq!(status_of(port, "/strict").await, Some(503));
    assert_eq!(status_of(port, "/livez").await, Some(200));
    let nacos = EmbeddedServer::builder().port(nacos_port).start().unwrap();
    until_status(port, "/strict", 200).await;
    assert_eq!(ports(&nacos, "orders"), [port]);
    assert_eq!(running.end().await, Ok(()));
}

#[actix::test]
async fn a_service_that_does_not_find_its_address_is_ready_unless_strict() {
    let registry = start(config_at("gone.invalid:8848"));
    let routes = StatusRoutes::new(&registry);
    let strict = routes.clone().strict().livez(None).offline(None).metrics(None).prefix(None).readyz("/strict");
    let app = move || App::new().configure(|app| routes.configure(app)).configure(|app| strict.configure(app));
    let server = HttpServer::new(app).workers(1).bind(("0.0.0.0", 0)).unwrap();
    let port = server.addrs()[0].port();
    let running = Running::start(serve(server, registry).disable_signals().register("orders").drain(ms(0)));
    until_status(port, "/readyz", 200).await;
    assert_eq!(status_of(port, "/strict").await, Some(503));
    assert_eq!(running.end().await, Ok(()));
}

#[actix::test]
async fn offline_during_the_registration_is_no_failed_registration() {
    let nacos = server();
    nacos.faults().hang(true);
    let registry = start(config_at(&nacos.server_address()).operation_timeout(support::PATIENCE));
    let (listener, port) = listen();
    let routes = StatusRoutes::new(&registry).drain(ms(0));
    // Only a strict service waits until it is registered.
    let running = Running::start(service(listener, registry.clone(), routes).register("orders").strict());
    until_status(port, "/readyz", 503).await;
    assert_eq!(get(port, "/readyz").await.unwrap().body, "not ready: registration has not begun\n");
    assert_eq!(status_of(port, "/offline").await, Some(200));
    until("the Registry has ended", || !registry.connected()).await;
    assert_eq!(status_of(port, "/livez").await, Some(200), "serves until it is told to end");
    assert_eq!(running.end().await, Ok(()));
}

#[actix::test]
async fn a_strict_service_that_cannot_be_registered_ends_with_the_error() {
    let (reserved, nacos_port) = listen();
    drop(reserved);
    let registry = start(config_at(&format!("127.0.0.1:{nacos_port}")).operation_timeout(ms(300)));
    let (listener, port) = listen();
    let routes = StatusRoutes::new(&registry);
    let outcome = soon("the end", service(listener, registry, routes).register("orders").strict().into_future()).await;
    assert!(matches!(outcome, Err(Error::Unreachable { .. })), "{outcome:?}");
    assert_eq!(status_of(port, "/livez").await, None);
}

#[actix::test]
async fn what_cannot_be_served_or_registered_is_an_error_and_no_panic() {
    let nacos = server();
    let outcome = serve(HttpServer::new(App::new), registry(&nacos)).register("orders").await;
    assert!(matches!(&outcome, Err(Error::InvalidInput { field: "server", .. })), "{outcome:?}");

    let registry = registry(&nacos);
    let (listener, _) = listen();
    let routes = StatusRoutes::new(&registry);
    let outcome = service(listener, registry, routes).register("").await;
    assert!(matches!(outcome, Err(Error::InvalidInput { .. })), "{outcome:?}");
}

#[actix::test]
async fn a_panic_in_the_applications_code_ends_the_service_with_an_error() {
    let nacos = server();
    let (log, lines) = logger();
    let registry = start(config(&nacos).logger(log));
    let (listener, port) = listen();
    let routes = StatusRoutes::new(&registry);
    let service = service(listener, registry.clone(), routes).register("orders");
    let service = service.register_with("admin", |_| panic!("no weight"));
    let outcome = soon("the end", service.into_future()).await;
    let message = "no weight".to_owned();
    assert_eq!(outcome, Err(Error::Panicked { operation: Operation::Register, message }));
    assert_eq!(status_of(port, "/livez").await, None, "the server has stopped");
    until("the Registry has ended", || !registry.connected()).await;
    assert!(ports(&nacos, "orders").is_empty());
    let line = "application panicked in serve error=no weight operation=register instance";
    assert_eq!(lines.count(line), 1, "{:?}", lines.loud());

    let registry = support::registry(&nacos);
    let (listener, _) = listen();
    let routes = StatusRoutes::new(&registry);
    let service = self::service(listener, registry, routes).register("orders").until(async { panic!("no end") });
    let outcome = soon("the end", service.into_future()).await;
    let message = "no end".to_owned();
    assert_eq!(outcome, Err(Error::Panicked { operation: Operation::Shutdown, message }));
    assert!(ports(&nacos, "orders").is_empty());
}

#[actix::test]
async fn a_loopback_address_is_registered_with_a_warning_unless_the_registry_is_here_too() {
    let nacos = server();
    let elsewhere = "gone.invalid:8848".to_owned();
    for (servers, ip, warnings) in
        [(&elsewhere, None, 1), (&elsewhere, Some("orders.example"), 0), (&nacos.server_address(), None, 0)]
    {
        let (log, lines) = logger();
        let registry = start(config_at(servers).logger(log));
        let (listener, port) = listen();
        let routes = StatusRoutes::new(&registry);
        let end = Shutdown::default().deadline(ms(100));
        let service = service(listener, registry, routes).shutdown(end);
        let running = Running::start(service.register_with("orders", move |instance| match ip {
            Some(ip) => instance.ip(ip),
            None => instance,
        }));
        until_status(port, "/readyz", 200).await;
        assert_eq!(running.end().await, Ok(()));
        let warned = "registering a loopback address, other machines cannot reach it advice=bind the server";
        assert_eq!(lines.count(warned), warnings, "{servers} {:?}", lines.loud());
    }
}

/// A client asks during the drain, and its answer takes until the server stops.
#[actix::test]
async fn a_request_that_is_under_way_when_the_server_stops_is_answered() {
    let nacos = server();
    let registry = registry(&nacos);
    let (listener, port) = listen();
    let (begun_tx, mut begun) = mpsc::unbounded_channel();
    let go_on = Arc::new(Semaphore::new(0));
    let app = {
        let go_on = go_on.clone();
        move || {
            let (begun_tx, go_on) = (begun_tx.clone(), go_on.clone());
            let slow = move || {
                let (begun_tx, go_on) = (begun_tx.clone(), go_on.clone());
                async move {
                    begun_tx.send(()).unwrap();
                    go_on.acquire().await.unwrap().forget();
                    "slow"
                }
            };
            App::new().route("/slow", web::get().to(slow)).route("/", web::get().to(async || "hello"))
        }
    };
    let server = HttpServer::new(app).workers(1).listen(listener).unwrap();
    let service = serve(server, registry.clone()).disable_signals().register("orders").drain(ms(0));
    let running = Running::start(service);
    until("it is registered", || ports(&nacos, "orders") == [port]).await;
    let slow: Vec<_> = (0..5).map(|_| actix_rt::spawn(get(port, "/slow"))).collect();
    for _ in 0..5 {
        soon("the handler begins", begun.recv()).await.unwrap();
    }
    let ended = actix_rt::spawn(running.end());
    until("the Registry has ended", || !registry.connected()).await;
    // The listener is closed, and clients see that at once.
    support::eventually("new connections are refused", async || status_of(port, "/").await.is_none().then_some(()))
        .await;
    assert!(!ended.is_finished());
    go_on.add_permits(5);
    for slow in slow {
        assert_eq!(soon("the answer", slow).await.unwrap(), Some(Answered { status: 200, body: "slow".into() }));
    }
    assert_eq!(ended.await.unwrap(), Ok(()));
}

#[actix::test]
async fn beats_that_are_rejected_again_and_again_make_the_process_not_ready() {
    let nacos = server();
    let registry = registry(&nacos);
    let (listener, port) = listen();
    let routes = StatusRoutes::new(&registry);
    let service = service(listener, registry.clone(), routes).drain(ms(0));
    let running = Running::start(service.register_with("orders", |instance| instance.heartbeat_interval(ms(200))));
    until_status(port, "/readyz", 200).await;
    nacos.faults().only_for(&[Operation::Beat]);
    nacos.faults().fail_share(1.0, 403);
    until_status(port, "/readyz", 503).await;
    let rejected = ask(&registry, GetStatus).await.unwrap().requests;
    let rejected = rejected.iter().find(|of| of.operation == Operation::Beat).unwrap().rejected;
    assert!(rejected >= 2, "{rejected}");
    nacos.faults().clear();
    until_status(port, "/readyz", 200).await;
    assert_eq!(running.end().await, Ok(()));
}

#[actix::test]
async fn a_rejected_registration_is_not_ready() {
    let nacos = server();
    nacos.faults().fail_share(1.0, 400);
    let registry = registry(&nacos);
    let (listener, port) = listen();
    let routes = StatusRoutes::new(&registry);
    let running = Running::start(service(listener, registry, routes).register("orders"));
    support::eventually("the rejection shows", async || {
        get(port, "/readyz").await.filter(|answered| answered.body.contains("1 registrations rejected"))
    })
    .await;
    assert_eq!(status_of(port, "/livez").await, Some(200));
    nacos.faults().clear();
    until_status(port, "/readyz", 200).await;
    assert_eq!(running.end().await, Ok(()));
}

#[actix::test]
async fn offline_deregisters_and_answers_when_callers_have_noticed_while_the_process_serves_on() {
    let nacos = server();
    let registry = registry(&nacos);
    let (listener, port) = listen();
    let routes = StatusRoutes::new(&registry).drain(ms(700));
    let running = Running::start(service(listener, registry, routes).register("orders"));
    until_status(port, "/readyz", 200).await;
    let asked = Instant::now();
    let (offline, others) = futures_util::future::join(get(port, "/offline"), async {
        until("it is deregistered", || ports(&nacos, "orders").is_empty()).await;
        let at_once = asked.elapsed();
        (at_once, status_of(port, "/readyz").await, status_of(port, "/").await, status_of(port, "/metrics").await)
    })
    .await;
    let offline = offline.unwrap();
    assert_eq!(offline.status, 200);
    assert!(offline.body.contains("\"deregistered\":1"), "{}", offline.body);
    assert!(asked.elapsed() >= ms(700), "answered before callers have noticed");
    assert_eq!((others.1, others.2, others.3), (Some(503), Some(200), Some(200)), "during the drain");
    // A second request, as by a second `preStop` hook.
    assert_eq!(status_of(port, "/offline").await, Some(200));
    assert_eq!((status_of(port, "/livez").await, status_of(port, "/").await), (Some(200), Some(200)));
    assert_eq!(status_of(port, "/readyz").await, Some(503), "a Registry that has ended");
    assert_eq!(running.end().await, Ok(()));
}

#[actix::test]
async fn a_signal_while_offline_drains_waits_for_it_and_no_longer() {
    let nacos = server();
    let registry = registry(&nacos);
    let (listener, port) = listen();
    let routes = StatusRoutes::new(&registry).drain(ms(600));
    let running = Running::start(service(listener, registry, routes).register("orders").drain(ms(60_000)));
    until_status(port, "/readyz", 200).await;
    let asked = Instant::now();
    let offline = actix_rt::spawn(async move { get(port, "/offline").await.map(|answered| answered.status) });
    until("it is deregistered", || ports(&nacos, "orders").is_empty()).await;
    assert_eq!(running.end().await, Ok(()));
    assert!(asked.elapsed() >= ms(600), "the drain of /offline was cut short");
    assert_eq!(offline.await.unwrap(), Some(200));
}

#[actix::test]
async fn a_service_whose_application_ended_the_registry_still_ends_without_an_error() {
    let nacos = server();
    let registry = registry(&nacos);
    let (listener, port) = listen();
    let routes = StatusRoutes::new(&registry);
    let running = Running::start(service(listener, registry.clone(), routes).register("orders"));
    until_status(port, "/readyz", 200).await;
    ask(&registry, Shutdown::default()).await.unwrap();
    assert_eq!(status_of(port, "/readyz").await, Some(503));
    assert_eq!(running.end().await, Ok(()));
}

#[actix::test]
async fn routes_are_renamed_and_left_out_and_keep_no_registry_alive() {
    let nacos = server();
    let registry = registry(&nacos);
    let (listener, port) = listen();
    let routes = StatusRoutes::new(&registry).livez("/health/live").readyz("/health/ready").offline(None).prefix(None);
    let app = move || App::new().configure(|app| routes.configure(app));
    let server = HttpServer::new(app).workers(1).listen(listener).unwrap().disable_signals().run();
    let handle = server.handle();
    let server = actix_rt::spawn(server);
    until_status(port, "/health/live", 200).await;
    assert_eq!(status_of(port, "/health/ready").await, Some(200), "nothing is to be registered");
    for left_out in ["/livez", "/readyz", "/offline", "/registry", "/registry/"] {
        assert_eq!(status_of(port, left_out).await, Some(404), "{left_out}");
    }
    drop(registry);
    until_status(port, "/health/ready", 503).await;
    assert_eq!(status_of(port, "/health/live").await, Some(200));
    handle.stop(true).await;
    server.await.unwrap().unwrap();
}

#[actix::test]
async fn metrics_and_offline_need_a_local_request_or_the_token() {
    let nacos = server();
    let registry = registry(&nacos);
    let (listener, port) = listen();
    let (plain, public) = (StatusRoutes::new(&registry), StatusRoutes::new(&registry).public().prefix(None));
    let public = public.metrics("/public/metrics").offline("/public/offline").livez(None).readyz(None);
    // The token has a newline at its end, like the content of a mounted secret.
    let guarded = StatusRoutes::new(&registry).token("s3cret:\u{1F511}\n").prefix(None);
    let guarded = guarded.metrics("/guarded/metrics").offline("/guarded/offline").livez(None).readyz(None);
    let app = move || {
        let app = App::new().configure(|app| plain.configure(app)).configure(|app| public.configure(app));
        app.configure(|app| guarded.configure(app))
    };
    let server = HttpServer::new(app).workers(1).listen(listener).unwrap().disable_signals().run();
    let handle = server.handle();
    let server = actix_rt::spawn(server);
    until_status(port, "/livez", 200).await;

    let status = async |path: &str, headers: &[(&str, &str)]| get_with(port, path, headers).await.unwrap().status;
    assert_eq!(status("/metrics", &[]).await, 200);
    let proxied = [("x-forwarded-for", "203.0.113.9"), ("forwarded", "for=203.0.113.9"), ("via", "1.1 proxy")];
    let strange = [("host", "evil.example"), ("origin", "http://evil.example"), ("sec-fetch-site", "cross-site")];
    for header in proxied.into_iter().chain(strange) {
        for path in ["/metrics", "/offline", "/registry/", "/public/offline"] {
            assert_eq!(status(path, &[header]).await, 403, "{path} {header:?}");
        }
        for path in ["/guarded/metrics", "/guarded/offline"] {
            assert_eq!(status(path, &[header]).await, 401, "{path} {header:?}");
        }
        assert_eq!(status("/public/metrics", &[header]).await, 200, "{header:?}");
    }
    assert_eq!(raw_status(port, "GET /metrics HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n").await, 200);
    assert_eq!(raw_status(port, "GET /metrics HTTP/1.0\r\nhost: 127.0.0.1\r\n\r\n").await, 403, "as nginx forwards");
    let key = "s3cret:\u{1F511}";
    let (bearer, basic) = (format!("Bearer {key}"), format!("basic {}", BASE64.encode(format!("operator:{key}"))));
    for wrong in ["Bearer s3cret", "Bearer ", "Basic !!!", "Basic czNjcmV0", key, "Bearer s3cret:\u{1F511}x"] {
        let answered = status("/guarded/metrics", &[proxied[0], ("authorization", wrong)]).await;
        assert_eq!(answered, 401, "{wrong:?}");
    }
    for right in [&bearer, &basic] {
        assert_eq!(status("/guarded/metrics", &[proxied[0], ("authorization", right)]).await, 200, "{right:?}");
    }
    let basic = status("/guarded/offline", &[proxied[0], ("authorization", &basic)]).await;
    assert_eq!(basic, 401, "browsers send the password with requests of other sites, too");
    assert_eq!(status("/readyz", &[]).await, 200, "nobody got through to /offline");
    assert_eq!(status("/guarded/offline", &[proxied[0], ("authorization", &bearer)]).await, 200);
    assert_eq!(status("/readyz", &[]).await, 503);
    handle.stop(true).await;
    server.await.unwrap().unwrap();
}

/// Sends these bytes and returns the status of the answer.
async fn raw_status(port: u16, request: &str) -> u16 {
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut start = [0; 12];
    soon("an answer", stream.read_exact(&mut start)).await.unwrap();
    std::str::from_utf8(&start[9..]).unwrap().parse().unwrap()
}

/// Under a tokio runtime without an actix System.
#[test]
fn a_service_runs_under_tokio_without_an_actix_system() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let nacos = server();
    let registry = registry(&nacos);
    let (listener, port) = listen();
    let routes = StatusRoutes::new(&registry);
    let (end, ended) = oneshot::channel::<()>();
    let service = service(listener, registry, routes).register("orders").drain(ms(50));
    // The future must be `Send` to be spawned.
    let task = runtime.spawn(service.until(async { drop(ended.await) }).into_future());
    let began = Instant::now();
    while ports(&nacos, "orders") != [port] {
        assert!(began.elapsed() < support::PATIENCE, "not registered");
        thread::sleep(ms(5));
    }
    drop(end);
    assert_eq!(runtime.block_on(task).unwrap(), Ok(()));
    assert!(ports(&nacos, "orders").is_empty());
}

/// The example `actix_web` as a child process.
struct Example {
    process: Process,
    port: u16,
}

impl Example {
    fn start(nacos: &str, arguments: &[&str]) -> Self {
        Self::run(&mut Self::command(nacos, arguments))
    }

    fn command(nacos: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(example("actix_web"));
        command.args(["--server", nacos, "--service", "greeter"]).args(arguments);
        command
    }

    fn run(command: &mut Command) -> Self {
        let mut process = Process::start(command.stdout(Stdio::piped()));
        let mut lines = BufReader::new(process.child().stdout.take().unwrap());
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        let authority = line.split("http://").nth(1).and_then(|rest| rest.split('/').next()).expect("where it listens");
        let port = authority.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
        // Keep reading, otherwise the child cannot write to its output any more.
        thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        Example { process, port }
    }
}

/// The outcomes of the requests.
#[derive(Default)]
struct Calls {
    sent: Cell<usize>,
    failed: RefCell<Vec<String>>,
}

impl Calls {
    fn ended(&self, outcome: Result<http::StatusCode, String>) {
        self.sent.set(self.sent.get() + 1);
        let failure = outcome.map_or_else(Some, |status| (!status.is_success()).then(|| status.to_string()));
        self.failed.borrow_mut().extend(failure);
    }
}

/// Calls the service at its port without pause, as behind a Kubernetes Service, until it is over.
async fn call_at(port: u16, calls: &Calls, is_over: &Cell<bool>) {
    let client = awc::Client::default();
    while !is_over.get() {
        let outcome = client.get(format!("http://127.0.0.1:{port}/")).timeout(support::PATIENCE).send().await;
        calls.ended(outcome.map(|answer| answer.status()).map_err(|error| error.to_string()));
    }
}

/// Calls the service by its name without pause, over pooled connections, until the registry lists no instance.
async fn call_by_name(registry: &Addr<Registry>, calls: &Calls) {
    let client = Client::builder(registry).host("greeter", Discover::new("greeter")).finish();
    loop {
        match client.get("http://greeter/").send().await {
            Err(error) if matches!(balance::cause(&error), Some(Error::NoInstance { .. })) => return,
            outcome => calls.ended(outcome.map(|answer| answer.status()).map_err(|error| error.to_string())),
        }
    }
}

/// Does what Kubernetes does: asks `/readyz`, sends requests while the answer is 200, and sends SIGTERM at the end.
/// Callers that find the service in the registry send requests until it lists no instance.
#[actix::test]
async fn a_service_is_taken_in_and_out_as_kubernetes_does_it_without_a_failed_request() {
    let nacos = server();
    // The registration is under way as long as the server does not answer.
    nacos.faults().hang(true);
    let Example { mut process, port } = Example::start(&nacos.server_address(), &["--drain", "2"]);
    until_status(port, "/readyz", 503).await;
    assert_eq!(status_of(port, "/livez").await, Some(200));
    nacos.faults().clear();
    until_status(port, "/readyz", 200).await;
    assert_eq!(ports(&nacos, "greeter"), [port]);
    let metrics = get(port, "/metrics").await.unwrap().body;
    assert!(metrics.contains("actix_nacos_instances{state=\"registered\"} 1\n"), "{metrics}");

    let (calls, is_over, callers) = (Calls::default(), Cell::new(false), registry(&nacos));
    let walk = async {
        support::eventually("6,000 requests are sent", async || (calls.sent.get() >= 6000).then_some(())).await;
        // Each caller has a request under way.
        process.signal("TERM");
        let told = Instant::now();
        until_status(port, "/readyz", 503).await;
        let not_ready_after = told.elapsed();
        assert_eq!(status_of(port, "/livez").await, Some(200));
        // Under way when the drain ends and the server stops.
        let offline = actix_rt::spawn(get(port, "/offline"));
        until("it is deregistered", || ports(&nacos, "greeter").is_empty()).await;
        let sent_before = calls.sent.get();
        // Requests go on until callers have noticed.
        actix_rt::time::sleep((told + ms(1500)).saturating_duration_since(Instant::now())).await;
        is_over.set(true);
        (not_ready_after, calls.sent.get() - sent_before, offline)
    };
    let at_port = futures_util::future::join_all((0..4).map(|_| call_at(port, &calls, &is_over)));
    let by_name = futures_util::future::join_all((0..4).map(|_| call_by_name(&callers, &calls)));
    let ((not_ready_after, in_drain, offline), _, _) = futures_util::future::join3(walk, at_port, by_name).await;
    assert_eq!(calls.failed.take(), Vec::<String>::new(), "of {}", calls.sent.get());
    assert_eq!(offline.await.unwrap().map(|answered| answered.status), Some(200));
    assert!(not_ready_after < ms(1000), "{not_ready_after:?}");
    assert!(in_drain > 0, "the drain ended before a request");
    assert_eq!(process.wait().code(), Some(0));
    assert_eq!(status_of(port, "/livez").await, None);
    println!(
        "{} requests, {in_drain} of them in the drain, none failed; not ready {not_ready_after:?} after SIGTERM",
        calls.sent.get()
    );
    shut_down(&callers).await;
}

/// An instance of the example's service that answers its first request when the test says so. The example calls it for
/// `/friend`.
struct Friend {
    asked: oneshot::Receiver<()>,
    answer: oneshot::Sender<()>,
}

impl Friend {
    async fn start(registry: &Addr<Registry>) -> Self {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let ((asked_tx, asked), (answer, answer_rx)) = (oneshot::channel(), oneshot::channel::<()>());
        actix_rt::spawn(async move {
            let mut connection = listener.accept().await.unwrap().0;
            let mut request = [0; 1024];
            assert!(connection.read(&mut request).await.unwrap() > 0);
            asked_tx.send(()).unwrap();
            answer_rx.await.unwrap();
            connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").await.unwrap();
        });
        ask(registry, RegisterInstance::new("greeter", "127.0.0.1", port)).await.unwrap();
        Friend { asked, answer }
    }
}

#[actix::test]
async fn the_first_signal_after_until_interrupts_neither_the_drain_nor_the_last_requests() {
    for is_in_drain in [true, false] {
        let nacos = server();
        let registry = registry(&nacos);
        let friend = Friend::start(&registry).await;
        let Example { mut process, port } = Example::start(&nacos.server_address(), &["--for", "2", "--drain", "2"]);
        until_status(port, "/readyz", 200).await;
        let under_way = actix_rt::spawn(get(port, "/friend"));
        soon("the request is under way", friend.asked).await.unwrap();
        until_status(port, "/readyz", 503).await;
        if !is_in_drain {
            let is_stopping = async || status_of(port, "/livez").await.is_none().then_some(());
            support::eventually("the server stops", is_stopping).await;
        }
        assert_eq!(process.has_ended(), None);
        process.signal("TERM");
        // The signal has come by then, and would have ended the process.
        actix_rt::time::sleep(ms(100)).await;
        friend.answer.send(()).unwrap();
        let answered = soon("the answer", under_way).await.unwrap();
        assert_eq!(answered, Some(Answered { status: 200, body: "hello".into() }));
        assert_eq!(process.wait().code(), Some(0));
        shut_down(&registry).await;
    }
}

#[actix::test]
async fn a_second_signal_ends_at_once() {
    let nacos = server();
    for (name, code) in [("TERM", 143), ("INT", 130)] {
        let Example { mut process, port } = Example::start(&nacos.server_address(), &["--drain", "60"]);
        until_status(port, "/readyz", 200).await;
        process.signal("TERM");
        until_status(port, "/readyz", 503).await;
        assert_eq!(process.has_ended(), None, "it drains");
        process.signal(name);
        assert_eq!(process.wait().code(), Some(code));
    }
}

#[actix::test]
async fn a_service_whose_stderr_is_closed_still_ends_on_a_signal() {
    let nacos = server();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    // Every log line fails, from the first one on.
    let mut command = Example::command(&nacos.server_address(), &["--drain", "0.2"]);
    let Example { mut process, port } = Example::run(command.env("RUST_LOG", "actix_nacos=trace").stderr(writer));
    until_status(port, "/readyz", 200).await;
    process.signal("TERM");
    let status = process.wait();
    assert_eq!((status.code(), status.signal()), (Some(0), None));
    assert!(ports(&nacos, "greeter").is_empty());
}
