//! An actix-web application with the status routes, and a reader of server-sent events.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{net::SocketAddr, pin::Pin, time::Duration};

use actix_nacos::StatusRoutes;
use actix_web::{dev::ServerHandle, web, App, HttpServer};
use awc::{error::PayloadError, http::header::HeaderMap};
use futures_util::{Stream, StreamExt as _};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);

/// Serves the routes below a path, as behind a proxy. The server ends when this is dropped.
pub struct Site {
    pub address: SocketAddr,
    path: String,
    handle: ServerHandle,
}

impl Site {
    pub fn start(routes: StatusRoutes) -> Self {
        Self::start_below("", routes)
    }

    pub fn start_below(path: &'static str, routes: StatusRoutes) -> Self {
        let app = move || App::new().service(web::scope(path).configure(|app| routes.configure(app)));
        let server = HttpServer::new(app).workers(2).disable_signals().bind("127.0.0.1:0").expect("a free port");
        let address = server.addrs()[0];
        let server = server.run();
        let handle = server.handle();
        actix_rt::spawn(server);
        Site { address, path: path.into(), handle }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{}{path}", self.address, self.path)
    }

    pub async fn stop(self) {
        self.handle.stop(true).await;
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        drop(self.handle.stop(false));
    }
}

/// An answer with its body as text.
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }
}

/// A client whose time limits only stop tests that hang. The limits of awc are 5 s.
fn client() -> awc::Client {
    let connector = awc::Connector::new().timeout(PATIENCE);
    awc::Client::builder().timeout(PATIENCE).connector(connector).disable_redirects().finish()
}

pub async fn get(url: &str, headers: &[(&str, &str)]) -> Answer {
    send("GET", url, headers, "").await
}

pub async fn send(method: &str, url: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let mut request = client().request(method.parse().unwrap(), url);
    for header in headers {
        request = request.insert_header(*header);
    }
    let mut answer = request.send_body(body.to_owned()).await.expect("an answer");
    let body = answer.body().limit(10 << 20).await.expect("a body");
    Answer {
        status: answer.status().as_u16(),
        headers: answer.headers().clone(),
        body: String::from_utf8(body.to_vec()).unwrap(),
    }
}

type Chunks = Pin<Box<dyn Stream<Item = Result<web::Bytes, PayloadError>>>>;

/// An open stream of server-sent events.
pub struct Events {
    headers: HeaderMap,
    chunks: Chunks,
    /// What has come and was not read yet. A chunk may end within a character.
    bytes: Vec<u8>,
}

/// One event.
#[derive(Debug)]
pub struct Event {
    pub name: String,
    pub data: Value,
}

impl Events {
    pub async fn open(url: &str) -> Self {
        Self::try_open(url).await.unwrap_or_else(|status| panic!("status {status}"))
    }

    pub async fn try_open(url: &str) -> Result<Self, u16> {
        Self::try_connect(url).await.expect("an answer")
    }

    /// `None` if the server cannot be reached.
    pub async fn try_connect(url: &str) -> Option<Result<Self, u16>> {
        let response = client().get(url).send().await.ok()?;
        Some(match response.status().as_u16() {
            200 => Ok(Events { headers: response.headers().clone(), chunks: Box::pin(response), bytes: Vec::new() }),
            status => Err(status),
        })
    }

    pub fn header(&self, name: &str) -> String {
        self.headers.get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
    }

    /// Returns `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(end) = self.bytes.windows(2).position(|pair| pair == b"\n\n") {
                let block: Vec<u8> = self.bytes.drain(..end + 2).collect();
                let block = String::from_utf8(block).expect("UTF-8");
                let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name).map(str::to_owned));
                if let Some(name) = field("event: ") {
                    let data = field("data: ").expect("data");
                    return Some(Event { name, data: serde_json::from_str(&data).expect("JSON") });
                }
                continue;
            }
            let chunk = actix_rt::time::timeout(PATIENCE, self.chunks.next()).await.expect("an event in time")?;
            let Ok(chunk) = chunk else { return None };
            self.bytes.extend_from_slice(&chunk);
        }
    }

    /// Returns the first of the next events for which `is_so` holds.
    pub async fn until(&mut self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        loop {
            let event = self.next().await.unwrap_or_else(|| panic!("the stream ended before {what}"));
            if is_so(&event.data) {
                return event.data;
            }
        }
    }
}
