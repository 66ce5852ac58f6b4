//! Runs the example `gateway` as a user does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[cfg(unix)]
mod site;
mod support;

#[cfg(unix)]
use std::time::{Duration, Instant};
use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use actix_web::{web, HttpRequest, HttpResponse};
use futures_util::stream;
use support::{
    eventually,
    process::{example, Process},
    registry, server,
    web::Web,
};

/// Starts a gateway for `orders`. Returns the process and its address.
fn start(nacos: &str) -> (Process, String) {
    let mut command = Command::new(example("gateway"));
    let mut gateway = Process::start(command.args(["--server", nacos, "orders"]).stdout(Stdio::piped()));
    let mut line = String::new();
    BufReader::new(gateway.child().stdout.take().unwrap()).read_line(&mut line).unwrap();
    let url = line.trim().strip_prefix("listening on ").expect("where it listens").to_owned();
    (gateway, url)
}

fn echo() -> Web {
    Web::start(|request: HttpRequest, body: web::Bytes| async move {
        let forwarded = request.headers().contains_key("x-forwarded-for");
        let proxied = request.headers().contains_key("proxy-authorization");
        let text = format!("{} {} {forwarded} {proxied} {}", request.method(), request.uri(), body.len());
        HttpResponse::Ok().insert_header(("x-mine", "1")).body(text)
    })
}

#[actix::test]
async fn requests_are_forwarded_by_name_and_survive_the_death_of_an_instance() {
    let (nacos, instances) = (server(), [echo(), echo()]);
    let registry = registry(&nacos);
    for instance in &instances {
        instance.register(&registry, "orders").await;
    }
    let (_gateway, url) = start(&nacos.server_address());
    let http = awc::Client::builder().disable_timeout().finish();
    let get = async |path: &str| {
        let request = http.get(format!("{url}{path}")).insert_header(("proxy-authorization", "of this hop"));
        let mut answer = request.send().await.unwrap();
        let body = answer.body().await.unwrap();
        (answer.status().as_u16(), String::from_utf8(body.to_vec()).unwrap())
    };
    for (path, expected) in [("/orders", "/"), ("/orders/a%20b?c=d", "/a%20b?c=d"), ("/orders?c=d", "/?c=d")] {
        assert_eq!(get(path).await, (200, format!("GET {expected} true false 0")));
    }
    for path in ["/billing/items", "/", "/orders2/"] {
        assert_eq!(get(path).await.0, 404, "{path}");
    }
    let pieces = (0..100).map(|_| Ok::<_, std::io::Error>(web::Bytes::from(vec![7; 10_000])));
    let mut posted = http.post(format!("{url}/orders/")).send_stream(stream::iter(pieces)).await.unwrap();
    assert_eq!(posted.body().await.unwrap(), "POST / true false 1000000");
    assert!(posted.headers().contains_key("x-mine"));

    // Enough calls to leave a budget for the retries after the kill below.
    for _ in 0..40 {
        assert_eq!(get("/orders/").await.0, 200);
    }
    assert!(instances.iter().all(|instance| instance.requests() > 0));
    instances[0].kill().await;
    for _ in 0..50 {
        assert_eq!(get("/orders/items").await.0, 200);
    }
    instances[1].kill().await;
    eventually("nobody answers", async || (get("/orders/items").await.0 == 502).then_some(())).await;
}

#[cfg(unix)]
#[actix::test]
async fn an_open_page_does_not_hold_up_the_end() {
    let nacos = server();
    let (mut gateway, url) = start(&nacos.server_address());
    let mut page = site::Events::open(&format!("{url}/registry/events")).await;
    page.next().await.unwrap();
    let told = Instant::now();
    gateway.signal("TERM");
    while page.next().await.is_some() {}
    assert_eq!(gateway.wait().code(), Some(0));
    // Without ending the page's stream, the server would wait for 30 s.
    assert!(told.elapsed() < Duration::from_secs(20), "{:?}", told.elapsed());
}
