//! The embedded server answers as real servers did.
//!
//! Replays every recording in `tests/fixtures` for which there is a dialect: the recorded requests in their order and
//! at their times. The server's clock stands still and the test advances it, so 90 recorded seconds take no time. The
//! test compares the status, the content type and the meaning of every field of each body. For each pushed datagram it
//! compares whether it is compressed, and its fields, in the order of each receiver.
//!
//! Not compared, because the original differs from run to run, too:
//! - `lastRefTime`, `checksum`, `timestamp`, tokens (only whether there is one), and the order of `hosts`, `doms`,
//!   `clusters`, `updated`, `pageItems`, which the originals keep in hash tables;
//! - `cpu`, `load`, `mem` of 1.4's metrics, and the servers' own ports and times.
//!
//! r-nacos has no dialect, so its recordings are not replayed.

use std::{
    collections::{BTreeMap, HashMap},
    io::Read,
    net::UdpSocket,
    time::Duration,
};

use actix_nacos::embedded::{Dialect, EmbeddedServer};
use serde_json::Value;

use crate::raw_http::{wait_until, Connection, Response};

/// How long the servers had run when the recordings began, modulo the 5 s after which Nacos 2.x and 3.x look for
/// subscribers that have expired. With this value the pushes of both recordings agree.
const RUNNING_FOR: Duration = Duration::from_millis(4250);

/// Fields that differ from run to run.
const VOLATILE: [&str; 10] = [
    "lastRefTime",
    "checksum",
    "timestamp",
    "accessToken",
    "cpu",
    "load",
    "mem",
    "server_port",
    "lastRefreshTime",
    "raftPort",
];

/// Arrays whose order has no meaning.
const SETS: [&str; 6] = ["hosts", "doms", "clusters", "updated", "data", "pageItems"];

#[test]
fn answers_like_nacos_1_4_8() {
    assert_eq!(replay("nacos-1.4.8", Dialect::V1_4, ""), Compared { answers: 153, pushes: 20 });
}

#[test]
fn answers_like_nacos_2_5_1() {
    assert_eq!(replay("nacos-2.5.1", Dialect::V2_5, ""), Compared { answers: 153, pushes: 36 });
}

#[test]
fn answers_like_nacos_2_5_1_with_authentication() {
    assert_eq!(replay("nacos-2.5.1-auth", Dialect::V2_5, ""), Compared { answers: 20, pushes: 0 });
}

#[test]
fn answers_like_nacos_3_0_3() {
    assert_eq!(replay("nacos-3.0.3", Dialect::V3_0, ""), Compared { answers: 168, pushes: 32 });
}

#[test]
fn accepts_and_rejects_tokens_like_nacos_1_4_8() {
    assert_eq!(replay("nacos-1.4.8-access", Dialect::V1_4, ""), Compared { answers: 47, pushes: 0 });
}

#[test]
fn accepts_and_rejects_tokens_like_nacos_2_5_1() {
    assert_eq!(replay("nacos-2.5.1-access", Dialect::V2_5, ""), Compared { answers: 47, pushes: 0 });
}

#[test]
fn accepts_and_rejects_tokens_like_nacos_3_0_3() {
    assert_eq!(replay("nacos-3.0.3-access", Dialect::V3_0, ""), Compared { answers: 60, pushes: 0 });
}

#[test]
fn accepts_and_rejects_tokens_like_nacos_3_0_3_from_3_2_on() {
    assert_eq!(replay("nacos-3.0.3-access", Dialect::V3_2, "/nacos/v3/"), Compared { answers: 29, pushes: 0 });
}

/// There is no recording of 3.2. According to its source, its v3 API is that of 3.0.
#[test]
fn answers_v3_like_nacos_3_0_3_from_3_2_on() {
    assert_eq!(replay("nacos-3.0.3", Dialect::V3_2, "/nacos/v3/"), Compared { answers: 15, pushes: 0 });
}

#[derive(Debug, PartialEq)]
struct Compared {
    answers: usize,
    pushes: usize,
}

/// The content of a datagram after decompression.
#[derive(Debug, Clone)]
struct Push {
    gzip: bool,
    text: String,
}

struct Receiver {
    socket: UdpSocket,
    acknowledges: bool,
    received: Vec<Push>,
}

struct Replay {
    server: EmbeddedServer,
    connection: Connection,
    token: String,
    /// The receivers by the name of their pushes in the recording.
    receivers: BTreeMap<&'static str, Receiver>,
    acknowledged: u64,
    time: u64,
    faults: Vec<String>,
}

/// Replays the exchanges whose paths begin with `path`.
fn replay(recording: &'static str, dialect: Dialect, path: &str) -> Compared {
    let text = std::fs::read_to_string(format!("tests/fixtures/{recording}.json")).expect("a recording");
    let recorded: Value = serde_json::from_str(&text).expect("a recording in JSON");
    let exchanges = recorded["exchanges"].as_array().expect("exchanges");
    let mut replay = Replay::new(recording, dialect);
    let mut answers = 0;
    let mut pushes: HashMap<&str, Vec<Push>> = HashMap::new();
    for exchange in exchanges {
        let name = exchange["name"].as_str().unwrap_or_default();
        if let Some(push) = exchange.get("udp_push") {
            let push = Push { gzip: push["gzip"] == true, text: text_of(&push["text"]) };
            pushes.entry(name).or_default().push(push);
        } else if text_of(&exchange["request"]["path"]).starts_with(path) {
            replay.exchange(name, exchange);
            answers += 1;
        }
    }
    let compared = Compared { answers, pushes: replay.compare_pushes(&pushes) };
    assert!(replay.faults.is_empty(), "{recording}: {}\n{}", replay.faults.len(), replay.faults.join("\n"));
    println!("{recording}: {compared:?}");
    compared
}

impl Replay {
    fn new(recording: &'static str, dialect: Dialect) -> Self {
        let mut builder = EmbeddedServer::builder().dialect(dialect).time_stands_still();
        if recording.ends_with("-auth") {
            builder = builder.user("nacos", "nacosPw1").token_ttl(Duration::from_secs(8));
        } else if recording.ends_with("-access") {
            builder = builder.user("nacos", "nacos");
        }
        let server = builder.start().expect("a server");
        server.advance(RUNNING_FOR);
        let connection = Connection::to(server.address());
        let receivers = BTreeMap::new();
        let (token, faults) = (String::new(), Vec::new());
        if recording == "nacos-3.0.3-access" {
            leave_services(&server);
        }
        Replay { server, connection, token, receivers, acknowledged: 0, time: 0, faults }
    }

    fn exchange(&mut self, name: &str, exchange: &Value) {
        // The recording with authentication has no times. Its tokens lived for 8 s.
        let at = exchange["at_ms"].as_u64().unwrap_or(if name.contains("expired") { 10_000 } else { self.time });
        self.advance_to(at);
        let answer = self.ask(name, &exchange["request"]);
        if let Ok(Value::String(token)) =
            serde_json::from_str(&answer.body).map(|body: Value| body["accessToken"].clone())
        {
            self.token = token;
        }
        let mut recorded = exchange["response"].clone();
        if (name, self.server.dialect()) == ("v3 server state", Dialect::V3_2) {
            recorded["body"] = text_of(&recorded["body"]).replace("3.0.3", "3.2.0").into();
        }
        if name == "operator servers" {
            // The answer contains the server's own port.
            recorded["body"] =
                text_of(&recorded["body"]).replace("8748", &self.server.address().port().to_string()).into();
        }
        for difference in differences(&recorded, &answer) {
            self.faults.push(format!("{name}: {difference}"));
        }
    }

    /// Advances in small steps, so that receivers acknowledge before the server pushes again.
    fn advance_to(&mut self, at: u64) {
        while self.time < at {
            let step = 1000.min(at - self.time);
            self.server.advance(Duration::from_millis(step));
            self.time += step;
            self.receive();
        }
    }

    fn receive(&mut self) {
        for receiver in self.receivers.values_mut() {
            self.acknowledged += receiver.receive();
        }
        let acknowledged = self.acknowledged;
        wait_until("the server has the acknowledgements", || {
            self.server.counters().pushes_acknowledged == acknowledged
        });
    }

    fn ask(&mut self, name: &str, request: &Value) -> Response {
        let mut query = pairs(&request["query"], &self.token);
        if let Some((_, port)) = query.iter_mut().find(|(key, _)| key == "udpPort") {
            *port = self.receiver_for(name).to_string();
        }
        let query = serde_urlencoded::to_string(query).expect("a query");
        let target = format!("{}?{query}", text_of(&request["path"]));
        let form = request.get("form").filter(|form| !form.is_null()).map(|form| pairs(form, &self.token));
        let form = form.map(|form| serde_urlencoded::to_string(form).expect("a form"));
        let headers = pairs(&request["headers"], &self.token);
        let headers: Vec<(&str, &str)> = headers.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let sent = self.connection.try_send(&text_of(&request["method"]), &target, &headers, form.as_deref());
        sent.unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn receiver_for(&mut self, name: &str) -> u16 {
        let pushed_as = match name {
            "subscribe by list with udpPort" => "push, acked",
            "subscribe, client that never acks" => "push, never acked",
            "subscribe with an unknown user agent" => "push, unknown user agent",
            "subscribe to one cluster" => "push, cluster production only",
            other => panic!("a receiver for {other}"),
        };
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.set_nonblocking(true).expect("a socket that does not block");
        let port = socket.local_addr().expect("an address").port();
        // All receivers but one acknowledge, as in the recordings.
        let receiver = Receiver { socket, acknowledges: pushed_as != "push, never acked", received: Vec::new() };
        self.receivers.insert(pushed_as, receiver);
        port
    }

    fn compare_pushes(&mut self, recorded: &HashMap<&str, Vec<Push>>) -> usize {
        let mut compared = 0;
        for (name, receiver) in &self.receivers {
            let recorded = recorded.get(name).map_or(&[][..], Vec::as_slice);
            if recorded.len() != receiver.received.len() {
                let (ours, theirs) = (receiver.received.len(), recorded.len());
                self.faults.push(format!("{name}: {ours} pushes instead of {theirs}"));
            }
            for (i, (recorded, ours)) in recorded.iter().zip(&receiver.received).enumerate() {
                let difference = push_difference(recorded, ours);
                self.faults.extend(difference.map(|difference| format!("{name} {i}: {difference}")));
                compared += 1;
            }
        }
        compared
    }
}

/// Creates what the recorded server had before: two empty services, and `guarded`, which the recording registers by v1,
/// a protocol that 3.2 does not have.
fn leave_services(server: &EmbeddedServer) {
    let mut connection = Connection::to(server.address());
    let mut send = |method: &str, path: &str, form: &str| {
        connection.try_send(method, path, &[], Some(form)).expect("an answer").json()
    };
    let login = send("POST", "/nacos/v3/auth/user/login", "username=nacos&password=nacos");
    let token = login["accessToken"].as_str().expect("a token");
    let instance = "/nacos/v3/client/ns/instance";
    let about = |service: &str| format!("serviceName={service}&ip=127.0.0.9&port=81&accessToken={token}");
    if server.dialect() == Dialect::V3_2 {
        send("POST", instance, &about("guarded"));
    }
    for service in ["v3probe13852", "v3probe13768"] {
        send("POST", instance, &about(service));
        send("DELETE", instance, &about(service));
    }
}

impl Receiver {
    /// Receives pushes and acknowledges them. Returns how many it has acknowledged.
    fn receive(&mut self) -> u64 {
        let mut buffer = vec![0; 64 * 1024];
        let mut acknowledged = 0;
        while let Ok((length, from)) = self.socket.recv_from(&mut buffer) {
            let push = unpack(&buffer[..length]);
            if self.acknowledges {
                let pushed: Value = serde_json::from_str(&push.text).expect("a push in JSON");
                let ack = format!(r#"{{"type":"push-ack","lastRefTime":"{}","data":""}}"#, pushed["lastRefTime"]);
                self.socket.send_to(ack.as_bytes(), from).expect("an acknowledgement sent");
                acknowledged += 1;
            }
            self.received.push(push);
        }
        acknowledged
    }
}

fn unpack(datagram: &[u8]) -> Push {
    let gzip = datagram.starts_with(&[0x1f, 0x8b]);
    let mut text = String::new();
    if gzip {
        flate2::read::GzDecoder::new(datagram).read_to_string(&mut text).expect("a packed text");
    } else {
        text = String::from_utf8(datagram.to_vec()).expect("a text");
    }
    Push { gzip, text }
}

fn push_difference(recorded: &Push, ours: &Push) -> Option<String> {
    let read = |push: &Push| {
        let mut outer: Value = serde_json::from_str(&push.text).expect("a push in JSON");
        outer["data"] = serde_json::from_str(outer["data"].as_str().expect("a list as text")).expect("a list");
        (push.gzip, meaning(outer))
    };
    let (recorded, ours) = (read(recorded), read(ours));
    (recorded != ours).then(|| format!("\n  recorded {recorded:?}\n  ours     {ours:?}"))
}

fn differences(recorded: &Value, ours: &Response) -> Vec<String> {
    let mut differences = Vec::new();
    if recorded["status"] != ours.status {
        differences.push(format!("status {} instead of {}", ours.status, recorded["status"]));
    }
    let content_type = recorded["content_type"].as_str().map(simple);
    if content_type != ours.content_type.as_deref().map(simple) {
        differences.push(format!("{:?} instead of {content_type:?}", ours.content_type));
    }
    let body = text_of(&recorded["body"]);
    let (recorded, ours) = (body_of(&body), body_of(&ours.body));
    if recorded != ours {
        differences.push(format!("\n  recorded {recorded}\n  ours     {ours}"));
    }
    differences
}

fn simple(content_type: &str) -> String {
    content_type.to_ascii_lowercase().replace(' ', "")
}

/// Parses JSON. Any other body is compared as text.
fn body_of(body: &str) -> Value {
    serde_json::from_str(body).map_or_else(|_| Value::String(body.to_owned()), meaning)
}

/// Removes fields that differ from run to run, and sorts sets.
fn meaning(value: Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(
            fields
                .into_iter()
                .map(|(key, value)| {
                    let mut value = if VOLATILE.contains(&key.as_str()) { Value::from("…") } else { meaning(value) };
                    if let (true, Some(items)) = (SETS.contains(&key.as_str()), value.as_array_mut()) {
                        items.sort_by_key(Value::to_string);
                    }
                    (key, value)
                })
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.into_iter().map(meaning).collect()),
        // 1 and 1.0 are the same weight.
        Value::Number(number) => number.as_f64().map_or(Value::Number(number), Value::from),
        other => other,
    }
}

fn pairs(object: &Value, token: &str) -> Vec<(String, String)> {
    let another = signed_by_another(token);
    let filled = |text: String| text.replace("<token>", token).replace("<token with another signature>", &another);
    let fields = object.as_object().into_iter().flatten();
    fields.map(|(key, value)| (key.clone(), filled(text_of(value)))).collect()
}

/// Returns the token with another signature.
fn signed_by_another(token: &str) -> String {
    let (signed, signature) = token.rsplit_once('.').unwrap_or((token, ""));
    format!("{signed}.{}", signature.chars().rev().collect::<String>())
}

fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
