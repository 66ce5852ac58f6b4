//! Bad answers from servers and proxies give the right error, never a panic, and never an empty list.

use std::{
    io::Write as _,
    sync::{Arc, Mutex},
    time::Duration,
};

use actix::Addr;
use actix_nacos::{
    Config, Discover, Error, GetInstance, GetStatus, ListInstances, ListServices, ModifyInstance, Protocol,
    RegisterInstance, Registry, SendHeartbeat, Subscribe,
};
use flate2::{write::GzEncoder, Compression};
use futures_util::{
    future::{join_all, LocalBoxFuture},
    FutureExt as _, TryFutureExt as _,
};

use crate::support::{
    ask, config_at, eventually,
    fake::{Answer, Fake},
    logs, soon, start, unique, until, News, IP,
};

/// A Registry and a server that gives the same answer to every request.
struct World {
    answer: Arc<Mutex<Option<Answer>>>,
    fake: Fake,
    registry: Addr<Registry>,
}

/// An operation is repeated for this time. On a busy machine, its first request takes a large part of it.
const LIMIT: Duration = Duration::from_millis(1000);

/// The time limit of a request is the time that the operation has left.
fn quick(config: Config) -> Config {
    config.request_timeout(2 * LIMIT).operation_timeout(LIMIT).protocol(Protocol::V1)
}

impl World {
    fn answering(answer: Answer) -> Self {
        let answer = Arc::new(Mutex::new(Some(answer)));
        let given = answer.clone();
        let fake = Fake::start(move |seen| given.lock().unwrap().clone().unwrap_or_else(|| Answer::usual(seen)));
        let registry = start(quick(config_at(&fake.server_address())));
        World { answer, fake, registry }
    }

    /// The server gives good answers again. Checks that all messages then succeed.
    async fn serves_on(&self) {
        *self.answer.lock().unwrap() = None;
        let registered = async || ask(&self.registry, RegisterInstance::new("orders", IP, 80)).await.ok();
        eventually("the server is used again", registered).await;
        assert!(ask(&self.registry, ListInstances::new("orders")).await.unwrap().hosts.is_empty());
        ask(&self.registry, GetStatus).await.unwrap();
    }
}

/// Sends one kind of message.
type Ask = fn(&Addr<Registry>) -> LocalBoxFuture<'_, Result<(), Error>>;

const MESSAGES: [Ask; 6] = [
    |registry| ask(registry, ListInstances::new("orders")).map_ok(drop).boxed_local(),
    |registry| ask(registry, RegisterInstance::new("orders", IP, 80)).map_ok(drop).boxed_local(),
    |registry| ask(registry, SendHeartbeat::new("orders", IP, 80)).map_ok(drop).boxed_local(),
    |registry| ask(registry, GetInstance::new("orders", IP, 80)).map_ok(drop).boxed_local(),
    |registry| ask(registry, ModifyInstance::new("orders", IP, 80).weight(2.0)).boxed_local(),
    |registry| ask(registry, ListServices::new(1, 10)).map_ok(drop).boxed_local(),
];

fn text(status: u16, kind: &'static str, body: &str) -> Answer {
    Answer::Text(status, kind, body.into())
}

fn raw(text: &str) -> Answer {
    Answer::Raw(text.as_bytes().to_vec())
}

fn is_unreadable(error: &Error) -> bool {
    matches!(error, Error::Unreadable { .. })
}

fn is_unreachable(error: &Error) -> bool {
    matches!(error, Error::Unreachable { .. })
}

/// Checks that each message fails with an error for which `is_right` holds and that names the server, and that the
/// Registry works afterwards.
async fn gives(answer: Answer, is_right: impl Fn(&Error) -> bool) {
    let (answer, is_right) = (&answer, &is_right);
    let gives = |message: Ask| async move {
        let world = World::answering(answer.clone());
        let error = soon("an answer", message(&world.registry)).await.expect_err("no sense can be made of it");
        assert!(is_right(&error), "{answer:.200?} gave {error:?}");
        assert!(error.to_string().contains(&world.fake.server_address()), "{error}");
        world.serves_on().await;
    };
    join_all(MESSAGES.map(gives)).await;
}

const PAGE: &str = "<html><body><h1>Welcome</h1></body></html>";

#[actix::test]
async fn a_page_of_something_else_is_unreadable() {
    gives(text(200, "text/html", PAGE), is_unreadable).await;
}

#[actix::test]
async fn json_of_the_wrong_type_is_unreadable() {
    for body in [
        "[]",
        "{}",
        "null",
        "42",
        "true",
        r#"{"hosts":{},"code":"x","count":"x","doms":7}"#,
        r#"{"hosts":null}"#,
        r#"{"hosts":["a"]}"#,
    ] {
        gives(text(200, "application/json", body), is_unreadable).await;
    }
}

#[actix::test]
async fn an_empty_body_is_unreadable() {
    gives(text(200, "application/json", ""), is_unreadable).await;
}

#[actix::test]
async fn a_body_that_is_cut_off_is_no_answer() {
    let cut_off = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n\r\n{\"hosts\":[],";
    gives(raw(cut_off), |error| is_unreadable(error) || is_unreachable(error)).await;
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"hos";
    gives(raw(chunked), |error| is_unreadable(error) || is_unreachable(error)).await;
    let json = text(200, "application/json", r#"{"name":"DEFAULT_GROUP@@orders","hosts":[{"ip":"127.0"#);
    gives(json, is_unreadable).await;
}

#[actix::test]
async fn an_absurd_length_is_no_answer_and_costs_no_memory() {
    for length in ["99999999999999", "18446744073709551615", "-1", "many"] {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{{}}");
        let no_answer = |error: &Error| is_unreadable(error) || is_unreachable(error);
        gives(raw(&head), |error| no_answer(error) || matches!(error, Error::Timeout { .. })).await;
    }
}

#[actix::test]
async fn a_body_without_end_is_given_up() {
    let world = World::answering(Answer::Endless);
    let endless = soon("an answer", ask(&world.registry, ListInstances::new("orders"))).await.unwrap_err();
    assert!(is_unreadable(&endless) || matches!(endless, Error::Timeout { .. }), "{endless:?}");
    world.serves_on().await;
}

#[actix::test]
async fn what_is_no_http_is_unreadable() {
    gives(raw("SSH-2.0-OpenSSH_9.9\r\n"), |error| is_unreadable(error) || is_unreachable(error)).await;
    gives(Answer::Raw(vec![0; 4096]), |error| is_unreadable(error) || is_unreachable(error)).await;
}

/// The timeout of the request is the time that the operation has left.
#[actix::test]
async fn a_slow_answer_is_a_timeout() {
    gives(Answer::Silence(4 * LIMIT), |error| matches!(error, Error::Timeout { after, .. } if *after <= LIMIT)).await;
}

#[actix::test]
async fn a_closed_connection_is_unreachable() {
    gives(Answer::Close, is_unreachable).await;
}

#[actix::test]
async fn nobody_listening_is_unreachable() {
    let address = Fake::start(Answer::usual).server_address();
    // The port is closed when the listening thread has ended.
    until("nobody listens", || std::net::TcpStream::connect(&address).is_err()).await;
    let registry = start(quick(config_at(&address)));
    let refused = ask(&registry, ListInstances::new("orders")).await.unwrap_err();
    assert!(is_unreachable(&refused) && refused.is_retryable(), "{refused:?}");
    assert!(refused.to_string().contains(&address), "{refused}");
}

#[actix::test]
async fn a_host_that_has_no_address_is_unreachable() {
    let registry = start(quick(config_at("nowhere.invalid:8848")));
    let refused = soon("an answer", ask(&registry, ListInstances::new("orders"))).await.unwrap_err();
    assert!(is_unreachable(&refused) || matches!(refused, Error::Timeout { .. }), "{refused:?}");
}

#[actix::test]
async fn a_404_from_a_proxy_is_not_taken_for_a_missing_instance() {
    for answer in [text(404, "text/html", PAGE), text(404, "text/plain", ""), text(404, "application/json", "{}")] {
        let said = |error: &Error| matches!(error, Error::Unsupported { .. } | Error::Refused { .. });
        gives(answer, said).await;
    }
}

#[actix::test]
async fn errors_of_a_server_are_retryable() {
    for status in [500, 502, 503] {
        for body in ["", PAGE, "caused: no leader;", r#"{"timestamp":"x","status":503,"error":"x"}"#] {
            let world = World::answering(text(status, "text/plain", body));
            let refused = ask(&world.registry, ListInstances::new("orders")).await.unwrap_err();
            assert_eq!(refused.status(), Some(status), "{refused:?}");
            assert!(refused.is_retryable());
            world.serves_on().await;
        }
    }
}

#[actix::test]
async fn a_permanently_rejected_request_is_sent_once() {
    let world = World::answering(text(400, "text/plain", "Param 'serviceName' is illegal"));
    let refused = ask(&world.registry, RegisterInstance::new("orders", IP, 80)).await.unwrap_err();
    assert_eq!(refused.status(), Some(400));
    assert!(refused.to_string().contains("illegal") && !refused.is_retryable(), "{refused}");
    assert_eq!(world.fake.seen().len(), 1);
}

#[actix::test]
async fn a_redirection_is_not_followed() {
    let elsewhere = Fake::start(Answer::usual);
    let to = elsewhere.server_address();
    let redirect =
        format!("HTTP/1.1 302 Found\r\nLocation: http://{to}/nacos/v1/ns/instance\r\nContent-Length: 0\r\n\r\n");
    gives(raw(&redirect), |error| !matches!(error, Error::NotFound { .. })).await;
    assert!(elsewhere.seen().is_empty());
}

#[actix::test]
async fn an_error_about_a_redirect_names_its_target_and_what_to_do() {
    for (status, location) in [
        (301, "https://nacos.example/nacos/v1/ns/instance/list?token=hush"),
        (302, "http://sso.example:8080/login?next=hush"),
        (307, "https://nacos.example:443/nacos/v1/ns/instance/list"),
        (308, "https://hush:hush@nacos.example/nacos/v1/ns/instance/list"),
    ] {
        let world = World::answering(raw(&format!("HTTP/1.1 {status} X\r\nLocation: {location}\r\n\r\n<html>")));
        let refused = ask(&world.registry, ListInstances::new("orders")).await.unwrap_err();
        assert_eq!(refused.status(), Some(status), "{refused:?}");
        let advice =
            if status == 302 { "http://sso.example:8080/login; " } else { "set https://nacos.example:443/nacos " };
        assert!(refused.to_string().contains(advice) && !refused.to_string().contains("hush"), "{refused}");
    }
}

#[actix::test]
async fn an_answer_in_an_unrequested_encoding_is_read() {
    let list = r#"{"hosts":[{"ip":"127.0.0.1","port":80,"metadata":{"name":"订单"}}]}"#;
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(list.as_bytes()).unwrap();
    let gbk = [&list.as_bytes()[..list.len() - 11], b"\xb6\xa9\xb5\xa5\"}}]}"].concat();
    for (header, body) in [
        ("Content-Encoding: gzip", gzip.finish().unwrap()),
        ("Content-Type: application/json;charset=GBK", gbk),
        ("Content-Type: application/json", format!("\u{feff}{list}").into_bytes()),
    ] {
        let head = format!("HTTP/1.1 200 OK\r\n{header}\r\nContent-Length: {}\r\n\r\n", body.len());
        let world = World::answering(Answer::Raw([head.as_bytes(), &body].concat()));
        let list = ask(&world.registry, ListInstances::new("orders")).await.unwrap();
        assert_eq!(list.hosts[0].metadata["name"], "订单", "{header}");
    }
}

#[actix::test]
async fn no_error_has_bytes_that_are_no_text() {
    let body = [0x1b, 0x5b, 0x00, 0x80, 0x8b, 0x03, 0xff, 0xfe, 0x07];
    for head in ["200 OK\r\nContent-Encoding: br", "502 X\r\nContent-Encoding: br", "400 X", "200 OK"] {
        let head = format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n", body.len());
        gives(Answer::Raw([head.as_bytes(), &body].concat()), |error| {
            error.to_string().chars().all(|c| c != char::REPLACEMENT_CHARACTER && !c.is_control())
        })
        .await;
    }
}

#[actix::test]
async fn an_error_quotes_only_the_beginning_of_a_huge_page() {
    let world = World::answering(text(400, "text/html", &"<p>no</p>".repeat(100_000)));
    let refused = ask(&world.registry, ListInstances::new("orders")).await.unwrap_err();
    assert!(refused.to_string().len() < 2000, "{} characters", refused.to_string().len());
}

#[actix::test]
async fn listeners_are_not_notified_of_bad_answers() {
    let service = unique("orders");
    let hosts =
        r#"{"name":"DEFAULT_GROUP@@x","hosts":[{"ip":"127.0.0.1","port":80,"healthy":true}],"cacheMillis":100}"#;
    let world = World::answering(text(200, "application/json", hosts));
    let mut news = News::listen();
    ask(&world.registry, Subscribe::new(&service, news.recipient())).await.unwrap();
    assert_eq!(news.next().await.info.hosts.len(), 1);
    for bad in [text(200, "text/html", PAGE), text(200, "application/json", "{}"), Answer::Close, text(500, "x", "")] {
        *world.answer.lock().unwrap() = Some(bad);
        let failed = async || ask(&world.registry, GetStatus).await.unwrap().subscriptions[0].last_error.clone();
        eventually("a poll fails", failed).await;
        *world.answer.lock().unwrap() = Some(text(200, "application/json", hosts));
        let fine =
            async || ask(&world.registry, GetStatus).await.unwrap().subscriptions[0].last_error.is_none().then_some(());
        eventually("a poll succeeds", fine).await;
    }
    assert!(news.waiting().is_empty());
}

#[actix::test]
async fn a_host_without_an_address_is_left_out_with_one_warning_per_service() {
    let odd = r#"{"name":null,"cacheMillis":null,"hosts":[{"ip":"127.0.0.1","port":"80","healthy":null,"enabled":null},
        {"ip":"127.0.0.2"},{"port":80},null]}"#;
    let fake = Fake::start(move |seen| match seen.path() {
        "/nacos/v1/ns/instance/list" => text(200, "application/json", odd),
        _ => Answer::usual(seen),
    });
    let (logger, log) = logs::logger();
    let registry = start(config_at(&fake.server_address()).protocol(Protocol::V1).logger(logger));
    let mut news = News::listen();
    for name in ["orders", "bills"] {
        ask(&registry, Subscribe::new(name, news.recipient())).await.unwrap();
        let told = news.next().await;
        let [host] = &told.info.hosts[..] else { panic!("{told:?}") };
        assert_eq!((host.authority().as_str(), host.healthy, host.enabled), ("127.0.0.1:80", true, true));
    }
    let asked = fake.seen().len();
    until("both are asked for again and again", || fake.seen().len() > asked + 8).await;
    ask(&registry, ListInstances::new("orders").clusters(["DEFAULT"])).await.unwrap();
    assert_eq!(log.count("ignored instances without ip or port"), 2, "{:?}", log.loud());
    assert_eq!(log.count("instances=3"), 2, "{:?}", log.loud());
}

#[actix::test]
async fn an_instance_with_port_0_is_listed_and_never_chosen() {
    let consumer = r#"{"hosts":[{"ip":"127.0.0.1","port":0},{"ip":"127.0.0.2","port":80}]}"#;
    let fake = Fake::start(move |_| text(200, "application/json", consumer));
    let registry = start(config_at(&fake.server_address()).protocol(Protocol::V1));
    let view = ask(&registry, Discover::new("orders")).await.unwrap();
    soon("the list", view.ready()).await.unwrap();
    assert_eq!(view.instances().len(), 2);
    assert!((0..100).all(|_| view.select_one().is_some_and(|chosen| chosen.port == 80)));
}
