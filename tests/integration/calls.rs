//! Calls by name: which instance gets a call, and which requests are sent again.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use crate::support::{ask, eventually, ms, registry, shut_down, soon, unique, until, web::Web};
use actix::Addr;
use actix_nacos::{
    balance::{cause, Client, ClientBuilder, HostHeader, Retry},
    embedded::EmbeddedServer,
    CallTotals, Discover, Eject, Error, GetStatus, RegisterInstance, Registry, Selection,
};
use actix_web::{http::StatusCode, web, HttpRequest, HttpResponse};
use awc::error::SendRequestError;
use futures_util::{future::join_all, stream, SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Nothing listens at this address.
const DEAD: (&str, u16) = ("127.0.0.7", 1);

/// A server, a Registry and a service.
struct World {
    _server: EmbeddedServer,
    registry: Addr<Registry>,
    service: String,
}

impl World {
    fn new() -> Self {
        let server = crate::support::server();
        let registry = registry(&server);
        World { registry, _server: server, service: unique("orders") }
    }

    async fn with(instances: &[&Web]) -> Self {
        let world = World::new();
        for instance in instances {
            instance.register(&world.registry, &world.service).await;
        }
        world
    }

    async fn register_dead(&self) {
        ask(&self.registry, RegisterInstance::new(&self.service, DEAD.0, DEAD.1)).await.unwrap();
    }

    fn builder(&self) -> ClientBuilder {
        Client::builder(&self.registry).service(&self.service)
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.service)
    }
}

/// Answers with the method, the path, the `Host` header and the body of the request.
fn echo() -> Web {
    Web::start(|request: HttpRequest, body: web::Bytes| async move {
        let host = request.headers().get("host").map(|host| host.to_str().unwrap_or_default().to_owned());
        let body = String::from_utf8_lossy(&body);
        HttpResponse::Ok().body(format!("{} {} {} {body}", request.method(), request.uri(), host.unwrap_or_default()))
    })
}

async fn text(mut answer: awc::ClientResponse) -> String {
    String::from_utf8(answer.body().await.unwrap().to_vec()).unwrap()
}

fn streamed(pieces: &[&'static str]) -> impl futures_util::Stream<Item = Result<web::Bytes, std::io::Error>> {
    stream::iter(pieces.iter().map(|piece| Ok(web::Bytes::from_static(piece.as_bytes()))).collect::<Vec<_>>())
}

#[actix::test]
async fn requests_by_name_reach_an_instance_with_method_path_host_and_body() {
    let server = echo();
    let world = World::with(&[&server]).await;
    let (http, service) = (world.builder().finish(), &world.service);
    let get = http.get(world.url("/items?page=2")).send().await.unwrap();
    assert_eq!(text(get).await, format!("GET /items?page=2 {service} "));
    let post = http.post(world.url("/items")).send_body("three").await.unwrap();
    assert_eq!(text(post).await, format!("POST /items {service} three"));
    let put = http.put(world.url("/")).send_json(&["a"]).await.unwrap();
    assert_eq!(text(put).await, format!("PUT / {service} [\"a\"]"));
    let stream = http.post(world.url("/")).send_stream(streamed(&["a", "b"])).await.unwrap();
    assert_eq!(text(stream).await, format!("POST / {service} ab"));
    let long_host = format!("http://{}.DEFAULT_GROUP.nacos/", service.to_uppercase());
    assert_eq!(http.get(long_host).send().await.unwrap().status(), StatusCode::OK);
    assert_eq!(http.head(world.url("/")).send().await.unwrap().status(), StatusCode::OK);
}

#[actix::test]
async fn a_frozen_request_goes_to_another_instance_each_time() {
    let servers = [Web::with_its_port(), Web::with_its_port()];
    let world = World::with(&[&servers[0], &servers[1]]).await;
    let request = world.builder().finish().get(world.url("/")).freeze().unwrap();
    let mut seen = HashSet::new();
    for _ in 0..200 {
        seen.insert(text(request.send().await.unwrap()).await);
        if seen.len() == 2 {
            return;
        }
    }
    panic!("all 200 requests went to {seen:?}");
}

#[actix::test]
async fn a_host_of_ones_own_and_a_suffix_name_services_that_are_no_host_names() {
    let server = echo();
    let world = World::new();
    let greeter = format!("SHOP@@providers:{}::", world.service);
    server.register(&world.registry, &greeter).await;
    server.register(&world.registry, &format!("SHOP@@{}", world.service)).await;
    let http = Client::builder(&world.registry).host("greeter", Discover::new(&greeter)).suffix(".nacos").finish();
    assert_eq!(text(http.get("http://greeter/").send().await.unwrap()).await, "GET / greeter ");
    let url = format!("http://{}.SHOP.nacos/", world.service);
    assert_eq!(http.get(url).send().await.unwrap().status(), StatusCode::OK);
    let broken = Client::builder(&world.registry).service(&greeter).finish();
    let error = broken.get("http://greeter/").send().await.unwrap_err();
    assert!(matches!(cause(&error), Some(Error::InvalidInput { field: "service", .. })), "{error}");
}

#[actix::test]
async fn hosts_that_are_no_services_pass_through() {
    let server = echo();
    let world = World::new();
    let http = world.builder().suffix(".nacos").finish();
    let authority = format!("127.0.0.1:{}", server.port);
    let answer = http.post(format!("http://{authority}/other")).send_body("x").await.unwrap();
    assert_eq!(text(answer).await, format!("POST /other {authority} x"));
    let silent = Web::silent();
    let limited = world.builder().attempt_timeout(ms(50)).finish();
    let error = limited.get(format!("http://127.0.0.1:{}/", silent.port)).send().await.unwrap_err();
    assert!(matches!(error, SendRequestError::Timeout), "{error}");
}

#[actix::test]
async fn the_application_chooses_the_host_header() {
    let server = echo();
    let world = World::with(&[&server]).await;
    let host = async |builder: ClientBuilder| {
        let answer = builder.finish().get(world.url("/")).send().await.unwrap();
        text(answer).await.split(' ').nth(2).unwrap().to_owned()
    };
    let instance = world.builder().host_header(HostHeader::Instance);
    assert_eq!(host(instance).await, format!("127.0.0.1:{}", server.port));
    let fixed = "shop.example".parse().unwrap();
    assert_eq!(host(world.builder().host_header(HostHeader::Fixed(fixed))).await, "shop.example");
    let own = world.builder().finish().get(world.url("/")).insert_header(("host", "mine")).send().await.unwrap();
    assert_eq!(text(own).await, "GET / mine ");
}

#[actix::test]
async fn a_refused_connection_is_retried_for_every_method_and_body() {
    let server = echo();
    let world = World::with(&[&server]).await;
    let dead = RegisterInstance::new(&world.service, DEAD.0, DEAD.1).weight(10_000.0);
    ask(&world.registry, dead).await.unwrap();
    let http = world.builder().retry(Retry::once()).finish();
    let get = http.get(world.url("/")).send().await.unwrap();
    assert_eq!(text(get).await, format!("GET / {} ", world.service));
    let post = http.post(world.url("/")).send_body("three").await.unwrap();
    assert_eq!(text(post).await, format!("POST / {} three", world.service));
    let stream = http.post(world.url("/")).send_stream(streamed(&["a", "b"])).await.unwrap();
    assert_eq!(text(stream).await, format!("POST / {} ab", world.service));
}

#[actix::test]
async fn without_retry_a_refused_connection_is_an_error() {
    let world = World::new();
    world.register_dead().await;
    let http = world.builder().retry(Retry::never()).finish();
    let error = http.get(world.url("/")).send().await.unwrap_err();
    assert!(matches!(error, SendRequestError::Connect(_)), "{error}");
    assert!(cause(&error).is_none());
}

/// Sends calls until the failing one of two instances has got three requests. Checks that the other instance got one
/// request for each call.
async fn refused(builder: impl Fn(ClientBuilder) -> ClientBuilder, send: impl AsyncFn(&Client, String) -> StatusCode) {
    let (refusing, serving) = (Web::with_status(503), echo());
    let world = World::with(&[&refusing, &serving]).await;
    let http = builder(world.builder().selection(Selection::default().eject(Eject::never()))).finish();
    let mut calls = 0;
    // Three is the number of retries that a service with few requests may have in a second.
    while refusing.requests() < 3 {
        assert_eq!(send(&http, world.url("/")).await, StatusCode::OK);
        calls += 1;
        assert!(calls < 1000);
    }
    assert_eq!(serving.requests(), calls);
}

#[actix::test]
async fn a_503_is_retried_for_methods_that_may_be_repeated() {
    refused(|client| client, async |http, url| http.get(url).send().await.unwrap().status()).await;
    refused(|client| client, async |http, url| http.put(url).send_body("x").await.unwrap().status()).await;
}

#[actix::test]
async fn a_503_of_a_post_is_retried_only_if_the_application_says_so() {
    let may =
        |client: ClientBuilder| client.retry(Retry::once().repeat_when(|head| head.headers.contains_key("x-key")));
    refused(may, async |http, url| http.post(url).insert_header(("x-key", "1")).send_body("x").await.unwrap().status())
        .await;
    let (refusing, serving) = (Web::with_status(503), echo());
    let world = World::with(&[&refusing, &serving]).await;
    let http = world.builder().finish();
    while refusing.requests() == 0 {
        let (before, answer) = (serving.requests(), http.post(world.url("/")).send_body("x").await.unwrap());
        let was_refused = answer.status() == StatusCode::SERVICE_UNAVAILABLE;
        assert_eq!((was_refused, serving.requests() - before), (refusing.requests() == 1, usize::from(!was_refused)));
    }
}

#[actix::test]
async fn a_streamed_body_that_was_read_is_not_sent_twice() {
    let (refusing, serving) = (Web::with_status(503), echo());
    let world = World::with(&[&refusing, &serving]).await;
    let http = world.builder().finish();
    while refusing.requests() == 0 {
        let before = serving.requests();
        let answer = http.put(world.url("/")).send_stream(streamed(&["a", "b"])).await.unwrap();
        if refusing.requests() == 1 {
            assert_eq!((answer.status(), serving.requests()), (StatusCode::SERVICE_UNAVAILABLE, before));
        }
    }
}

#[actix::test]
async fn a_call_to_an_instance_that_hangs_is_retried_on_another_one() {
    let (silent, serving) = (Web::silent(), Web::with_its_port());
    let world = World::with(&[&silent, &serving]).await;
    // Long enough for the instance that serves, also on a busy machine.
    let http = world.builder().attempt_timeout(ms(2000)).finish();
    while silent.requests() == 0 {
        let answer = http.get(world.url("/")).send().await.unwrap();
        assert_eq!(text(answer).await, serving.port.to_string());
    }
}

#[actix::test]
async fn the_deadline_covers_all_attempts() {
    let servers = [Web::silent(), Web::silent(), Web::silent(), Web::silent()];
    let world = World::with(&[&servers[0], &servers[1], &servers[2], &servers[3]]).await;
    let http = world.builder().attempt_timeout(ms(400)).deadline(ms(1000)).retry(Retry::times(3)).finish();
    let began = Instant::now();
    let error = soon("the deadline", http.get(world.url("/")).send()).await.unwrap_err();
    assert!(matches!(error, SendRequestError::Timeout), "{error}");
    assert!(began.elapsed() >= ms(1000));
    let attempts = servers.iter().map(Web::requests).sum::<usize>();
    assert!((2..=3).contains(&attempts), "{attempts} attempts; four without the deadline");
}

/// Answers with the head at once, and then with a byte every 50 ms.
fn trickling() -> u16 {
    use std::io::{Read as _, Write as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let _ = stream.read(&mut [0; 1024]);
                let mut piece: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 10000\r\n\r\n";
                while stream.write_all(piece).is_ok() {
                    std::thread::sleep(ms(50));
                    piece = b"x";
                }
            });
        }
    });
    port
}

#[actix::test]
async fn an_instance_that_trickles_its_answers_is_ejected_when_its_callers_give_up() {
    let (world, whole) = (World::new(), Web::with_its_port());
    let port = trickling();
    ask(&world.registry, RegisterInstance::new(&world.service, "127.0.0.1", port)).await.unwrap();
    whole.register(&world.registry, &world.service).await;
    let selection = Selection::default().slow_after(ms(200)).eject(Eject::consecutive(3));
    let http = world.builder().selection(selection).finish();
    let view = ask(&world.registry, Discover::new(&world.service)).await.unwrap();
    let ejected = eventually("the instance is ejected", async || {
        let mut answer = http.get(world.url("/")).send().await.unwrap();
        let _ = actix_rt::time::timeout(ms(400), answer.body()).await;
        drop(answer);
        view.ejected().first().map(|instance| instance.port)
    });
    assert_eq!(ejected.await, port);
    for _ in 0..20 {
        assert_eq!(text(http.get(world.url("/")).send().await.unwrap()).await, whole.port.to_string());
    }
}

#[actix::test]
async fn a_call_fails_when_no_instance_comes_in_time() {
    let world = World::new();
    let http = world.builder().wait(ms(200)).finish();
    let began = Instant::now();
    let error = http.get(world.url("/")).send().await.unwrap_err();
    let Some(Error::NoInstance { service, listed: 0, .. }) = cause(&error) else { panic!("{error}") };
    assert!(service.ends_with(&world.service), "{service}");
    assert!(began.elapsed() >= ms(200), "{:?}", began.elapsed());
}

#[actix::test]
async fn a_call_waits_for_the_first_instance() {
    let world = World::new();
    let http = world.builder().wait(Duration::from_secs(20)).deadline(Duration::from_secs(20)).finish();
    let server = Web::with_its_port();
    let calling = async { text(http.get(world.url("/")).send().await.unwrap()).await };
    let registering = async {
        actix_rt::time::sleep(ms(300)).await;
        server.register(&world.registry, &world.service).await;
    };
    let (answer, ()) = futures_util::future::join(calling, registering).await;
    assert_eq!(answer, server.port.to_string());
}

#[actix::test]
async fn the_last_list_is_used_after_the_end_of_the_registry_and_errors_say_that_it_is_stale() {
    let server = Web::with_its_port();
    let world = World::with(&[&server]).await;
    let http = world.builder().retry(Retry::never()).finish();
    assert_eq!(http.get(world.url("/")).send().await.unwrap().status(), StatusCode::OK);
    shut_down(&world.registry).await;
    assert_eq!(http.get(world.url("/")).send().await.unwrap().status(), StatusCode::OK);
    server.kill().await;
    // The open connection still works for a moment.
    let error = eventually("calls fail", async || http.get(world.url("/")).send().await.err()).await;
    assert!(matches!(error, SendRequestError::Connect(_)), "{error:?}");
    assert!(error.to_string().contains("is stale"), "{error}");
    let other = Client::builder(&world.registry).service("other").finish();
    let error = other.get("http://other/").send().await.unwrap_err();
    assert_eq!(cause(&error), Some(&Error::Stopped));
}

#[actix::test]
async fn a_time_limit_is_told_as_such_while_the_list_is_stale() {
    let silent = Web::silent();
    let world = World::with(&[&silent]).await;
    let http = world.builder().attempt_timeout(ms(100)).retry(Retry::never()).finish();
    let get = async || http.get(world.url("/")).send().await.unwrap_err();
    let before = get().await;
    shut_down(&world.registry).await;
    for error in [before, get().await] {
        assert!(matches!(error, SendRequestError::Timeout), "{error:?}");
    }
}

#[actix::test]
async fn a_retry_that_the_budget_rejects_is_no_call() {
    let world = World::new();
    for ip in ["127.0.0.7", "127.0.0.8"] {
        ask(&world.registry, RegisterInstance::new(&world.service, ip, DEAD.1)).await.unwrap();
    }
    let selection = Selection::default().eject(Eject::never());
    let http = world.builder().selection(selection).retry(Retry::once()).finish();
    for _ in 0..40 {
        http.get(world.url("/")).send().await.unwrap_err();
    }
    let calls = ask(&world.registry, GetStatus).await.unwrap().calls;
    let CallTotals { failed, cancelled, retries, .. } = &calls[0];
    assert!(*retries < 40, "the budget rejects some of {retries}");
    assert_eq!((*failed, *cancelled), (40 + *retries, 0));
}

#[actix::test]
async fn the_middleware_works_in_a_plain_awc_client() {
    let server = echo();
    let world = World::with(&[&server]).await;
    world.register_dead().await;
    // There are more calls than the budget has retries, so the dead instance must be ejected after one failure.
    let builder = world.builder().selection(Selection::default().eject(Eject::consecutive(1)));
    let http = awc::Client::builder().disable_timeout().wrap(builder.clone().middleware()).finish();
    let connecting = builder.middleware();
    let connector = awc::Connector::new().connector(connecting.connector());
    let with_connector = awc::Client::builder().connector(connector).wrap(connecting).finish();
    for client in [http, with_connector] {
        for _ in 0..4 {
            let answer = client.post(world.url("/")).send_body("x").await.unwrap();
            assert_eq!(text(answer).await, format!("POST / {} x", world.service));
        }
    }
}

#[actix::test]
async fn a_redirect_within_the_service_goes_to_an_instance() {
    let server = Web::start(|request: HttpRequest, _| async move {
        match request.path() {
            "/old" => HttpResponse::Found().insert_header(("location", "/new")).finish(),
            path => HttpResponse::Ok().body(path.to_owned()),
        }
    });
    let world = World::with(&[&server]).await;
    let answer = world.builder().finish().get(world.url("/old")).send().await.unwrap();
    assert_eq!(text(answer).await, "/new");
}

#[actix::test]
async fn the_deadline_covers_redirects() {
    let server = Web::start(|_: HttpRequest, _: web::Bytes| async move {
        actix_rt::time::sleep(ms(200)).await;
        HttpResponse::Found().insert_header(("location", "/again")).finish()
    });
    let world = World::with(&[&server]).await;
    let http = world.builder().deadline(ms(500)).finish();
    let error = soon("the deadline", http.get(world.url("/")).send()).await.unwrap_err();
    assert!(matches!(error, SendRequestError::Timeout), "{error}");
    assert!(server.requests() <= 3, "{}", server.requests());
}

/// Accepts one WebSocket and sends a greeting. Returns the port.
async fn websocket_greeter() -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    actix_rt::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let (mut head, mut buffer) = (String::new(), [0; 1024]);
        while !head.contains("\r\n\r\n") {
            let length = stream.read(&mut buffer).await.unwrap();
            head.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
        }
        let key = head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("sec-websocket-key").then_some(value)
        });
        let accept = actix_http::ws::hash_key(key.unwrap().as_bytes());
        let accept = std::str::from_utf8(&accept).unwrap();
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: {accept}\r\n\r\n"
        );
        stream.write_all(answer.as_bytes()).await.unwrap();
        stream.write_all(b"\x81\x05hello").await.unwrap();
        // Reads until the client closes the connection.
        while stream.read(&mut buffer).await.is_ok_and(|length| length > 0) {}
    });
    port
}

#[actix::test]
async fn a_websocket_is_opened_by_name() {
    let world = World::new();
    ask(&world.registry, RegisterInstance::new(&world.service, "127.0.0.1", websocket_greeter().await)).await.unwrap();
    world.register_dead().await;
    let http = world.builder().retry(Retry::once()).finish();
    let (_, mut socket) = http.ws(format!("ws://{}/", world.service)).connect().await.unwrap();
    let frame = soon("a greeting", socket.next()).await.unwrap().unwrap();
    assert_eq!(frame, awc::ws::Frame::Text("hello".into()));
    socket.send(awc::ws::Message::Close(None)).await.unwrap();
}

/// Announces ten bytes, sends five, and closes the connection.
fn cut_off() -> u16 {
    use std::io::{Read as _, Write as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello");
        }
    });
    port
}

#[actix::test]
async fn an_answer_that_is_cut_off_is_an_error_and_a_failure_of_the_instance() {
    let (world, whole) = (World::new(), Web::with_its_port());
    ask(&world.registry, RegisterInstance::new(&world.service, "127.0.0.1", cut_off())).await.unwrap();
    whole.register(&world.registry, &world.service).await;
    let http = world.builder().selection(Selection::default().eject(Eject::consecutive(1))).finish();
    let mut errors = 0;
    for _ in 0..100 {
        let mut answer = http.get(world.url("/")).send().await.unwrap();
        match answer.body().await {
            Ok(body) => assert_eq!(body, whole.port.to_string()),
            Err(error) => {
                assert!(matches!(error, awc::error::PayloadError::Incomplete(_)), "{error}");
                errors += 1;
            }
        }
    }
    assert_eq!(errors, 1, "the instance is ejected after the first");
}

#[actix::test]
async fn a_caller_that_drops_bodies_ejects_no_instance() {
    let (one, other) = (Web::with_its_port(), Web::with_its_port());
    let world = World::with(&[&one, &other]).await;
    let selection = Selection::default().slow_after(ms(1)).eject(Eject::consecutive(1));
    let http = world.builder().selection(selection).finish();
    let view = ask(&world.registry, Discover::new(&world.service)).await.unwrap();
    for _ in 0..20 {
        let answer = http.get(world.url("/")).send().await.unwrap();
        actix_rt::time::sleep(ms(5)).await;
        drop(answer);
    }
    assert_eq!(view.ejected(), []);
}

#[actix::test]
async fn a_slow_upload_is_no_failure_of_the_instance() {
    let (one, other) = (echo(), echo());
    let world = World::with(&[&one, &other]).await;
    // The upload takes longer than this. It is long, because the instance has to answer within it.
    let limit = ms(2000);
    let http = world.builder().attempt_timeout(limit).selection(Selection::default().eject(Eject::consecutive(1)));
    let http = http.retry(Retry::never()).finish();
    let view = ask(&world.registry, Discover::new(&world.service)).await.unwrap();
    let slow = stream::iter(["a", "b"]).then(move |piece| async move {
        actix_rt::time::sleep(limit.mul_f64(0.6)).await;
        Ok::<_, std::io::Error>(web::Bytes::from_static(piece.as_bytes()))
    });
    let answer = http.put(world.url("/")).send_stream(Box::pin(slow)).await.unwrap();
    assert!(text(answer).await.ends_with(" ab"));
    let broken = stream::once(async { Err::<web::Bytes, _>(std::io::Error::other("the sender has gone")) });
    assert!(http.put(world.url("/")).send_stream(Box::pin(broken)).await.is_err());
    assert_eq!(view.ejected(), []);
}

#[actix::test]
async fn a_304_has_no_body_whatever_its_length_says() {
    let (one, other) = (not_modified(), not_modified());
    let world = World::new();
    for port in [one, other] {
        ask(&world.registry, RegisterInstance::new(&world.service, "127.0.0.1", port)).await.unwrap();
    }
    let http = world.builder().selection(Selection::default().eject(Eject::consecutive(1))).finish();
    let view = ask(&world.registry, Discover::new(&world.service)).await.unwrap();
    for _ in 0..4 {
        let answer = http.get(world.url("/")).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::NOT_MODIFIED);
        assert_eq!(soon("the end", text(answer)).await, "");
    }
    assert_eq!(view.ejected(), []);
}

#[actix::test]
async fn a_client_that_follows_no_redirect_passes_it_on() {
    let unregistered = Web::with_its_port();
    let target = format!("http://{}:{}/", crate::support::web::IP, unregistered.port);
    let orders = Web::start(move |_: HttpRequest, _: web::Bytes| {
        let target = target.clone();
        async move { HttpResponse::Found().insert_header(("location", target)).finish() }
    });
    let world = World::with(&[&orders]).await;
    let answer = world.builder().redirects(0).finish().get(world.url("/")).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::FOUND);
}

#[actix::test]
async fn infinite_time_limits_are_accepted() {
    let server = Web::with_its_port();
    let world = World::with(&[&server]).await;
    let selection = Selection::default().warm_up(Duration::MAX);
    let http = world.builder().deadline(Duration::MAX).selection(selection).finish();
    assert_eq!(text(http.get(world.url("/")).send().await.unwrap()).await, server.port.to_string());
    let view = ask(&world.registry, Discover::new(&world.service).warm_up(Duration::MAX)).await.unwrap();
    let another = Web::with_its_port();
    another.register(&world.registry, &world.service).await;
    until("the new one is listed", || view.instances().len() == 2).await;
}

#[actix::test]
async fn two_services_cannot_have_one_host() {
    let world = World::new();
    let http = Client::builder(&world.registry).service("A@@orders").service("B@@orders").finish();
    let error = http.get("http://orders/").send().await.unwrap_err();
    assert!(matches!(cause(&error), Some(Error::InvalidInput { field: "host", .. })), "{error}");
}

/// Answers every request with a 304 that has a `Content-Length`, as the standard allows.
fn not_modified() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let port = listener.local_addr().unwrap().port();
    actix_rt::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            actix_rt::spawn(async move {
                let mut request = [0; 1024];
                while connection.read(&mut request).await.is_ok_and(|read| read > 0) {
                    let answer = b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n";
                    if connection.write_all(answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

#[actix::test]
async fn a_preferred_cluster_gets_all_calls_while_one_of_its_instances_can_be_called() {
    let (near, far) = (Web::with_its_port(), Web::with_its_port());
    let world = World::new();
    for (server, cluster) in [(&near, "EAST"), (&far, "WEST")] {
        let instance = RegisterInstance::new(&world.service, crate::support::web::IP, server.port).cluster(cluster);
        ask(&world.registry, instance).await.unwrap();
    }
    let http = world.builder().selection(Selection::default().prefer_cluster("EAST")).finish();
    let get = async || text(http.get(world.url("/")).send().await.unwrap()).await;
    for _ in 0..100 {
        assert_eq!(get().await, near.port.to_string());
    }
    near.kill().await;
    // The open connection still works for a moment.
    eventually("the far one is called", async || (get().await == far.port.to_string()).then_some(())).await;
    for _ in 0..20 {
        assert_eq!(get().await, far.port.to_string());
    }
}

#[actix::test]
async fn many_calls_at_once_reach_all_instances() {
    let servers = [Web::with_its_port(), Web::with_its_port(), Web::with_its_port()];
    let world = World::with(&[&servers[0], &servers[1], &servers[2]]).await;
    let http = world.builder().finish();
    let calls = join_all((0..300).map(|_| async { http.get(world.url("/")).send().await.unwrap().status() })).await;
    assert!(calls.iter().all(|status| *status == StatusCode::OK));
    until("all were asked", || servers.iter().all(|server| server.requests() > 0)).await;
}
