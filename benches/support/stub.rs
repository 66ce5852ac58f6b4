//! A stub of a Nacos server that uses little CPU time, so that the client is what is measured.
//!
//! It speaks HTTP/1.1 over raw TCP in one thread, with v1 answers that are rendered once. It counts requests,
//! connections, and how late the beats of each instance come. It runs in its own process (see [`Stub::start`]).

use std::{
    cell::RefCell,
    collections::{hash_map::DefaultHasher, HashMap},
    hash::{Hash as _, Hasher as _},
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream as StdStream},
    process::{Child, Command, Stdio},
    rc::Rc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

#[path = "list.rs"]
mod list;

/// The beat interval in the stub's answers.
pub(crate) const BEAT_INTERVAL: Duration = Duration::from_secs(5);
/// A beat counts as late if it comes this long after its interval.
const LATE: Duration = Duration::from_secs(1);

/// What the stub has counted since the last reset.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Counts {
    pub(crate) requests: u64,
    pub(crate) beats: u64,
    pub(crate) lists: u64,
    pub(crate) opened: i64,
    pub(crate) closed: i64,
    /// Connections that are open now.
    pub(crate) connections: i64,
    pub(crate) late_beats: u64,
    /// The longest time between two beats of one instance, beyond the interval.
    pub(crate) latest_beat_ms: u64,
}

/// A running stub. Its process ends when this is dropped, or when the process that started it ends.
pub(crate) struct Stub {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Stub {
    /// Starts this program again as a stub. `main` must call [`run_if_asked`] first.
    pub(crate) fn start(hosts: usize) -> Self {
        let program = std::env::current_exe().expect("the program has a path");
        let mut child = Command::new(program)
            .args(["stub", &hosts.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the stub starts");
        let mut line = String::new();
        let stdout = child.stdout.as_mut().expect("stdout is piped");
        io::BufRead::read_line(&mut io::BufReader::new(stdout), &mut line).expect("the stub says where it listens");
        Stub { child, address: line.trim().parse().expect("an address") }
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads the counts of the stub at `address` and resets them.
pub(crate) fn counts_and_reset(address: SocketAddr) -> Counts {
    let mut stream = StdStream::connect(address).expect("the stub listens");
    stream.write_all(b"GET /stub HTTP/1.1\r\nconnection: close\r\n\r\n").expect("the stub reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the stub answers");
    let (_, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    serde_json::from_str(body).expect("counts")
}

/// Runs the stub if the arguments say so, until the process that started this one ends. Returns whether it did.
pub(crate) fn run_if_asked() -> bool {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() != Some("stub") {
        return false;
    }
    let hosts = arguments.next().and_then(|hosts| hosts.parse().ok()).unwrap_or(10);
    std::thread::spawn(|| {
        let _ = io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(tokio::task::LocalSet::new().run_until(serve(hosts)));
    true
}

async fn serve(hosts: usize) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    println!("{}", listener.local_addr().expect("an address"));
    let shared =
        Rc::new(Shared { answers: Answers::new(hosts), counts: RefCell::default(), beats: RefCell::default() });
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        shared.counts.borrow_mut().opened += 1;
        shared.counts.borrow_mut().connections += 1;
        let shared = shared.clone();
        tokio::task::spawn_local(async move {
            let _ = shared.converse(stream).await;
            shared.counts.borrow_mut().closed += 1;
            shared.counts.borrow_mut().connections -= 1;
        });
    }
}

struct Answers {
    ok: Vec<u8>,
    beat: Vec<u8>,
    hosts: usize,
    /// The answers by the parameter that names the service. Each list is rendered twice, with different weights.
    lists: RefCell<HashMap<Vec<u8>, [Vec<u8>; 2]>>,
}

impl Answers {
    fn new(hosts: usize) -> Self {
        Answers {
            ok: answer("text/plain", "ok"),
            beat: answer("application/json", r#"{"clientBeatInterval":5000,"code":10200,"lightBeatEnabled":true}"#),
            hosts,
            lists: RefCell::default(),
        }
    }
}

impl Answers {
    fn list(&self, request: &Request<'_>, outbox: &mut Vec<u8>) {
        let name = parameter(request.query, b"serviceName=").unwrap_or_default();
        let mut lists = self.lists.borrow_mut();
        if !lists.contains_key(name) {
            lists.insert(name.to_vec(), self.render(name));
        }
        let Some(list) = lists.get_mut(name) else { return };
        outbox.extend(&list[0]);
        // A request for healthy instances alone always gets the other list, so each list differs from the one before.
        if parameter(request.query, b"healthyOnly=") == Some(b"true") {
            list.swap(0, 1);
        }
    }

    fn render(&self, name: &[u8]) -> [Vec<u8>; 2] {
        let service = String::from_utf8_lossy(name).replace("%40", "@");
        let list = list::list(&service, self.hosts);
        let heavier = list.replace("\"weight\":1.0", "\"weight\":2.0");
        [list, heavier].map(|list| answer("application/json", &list))
    }
}

fn answer(kind: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

struct Shared {
    answers: Answers,
    counts: RefCell<Counts>,
    /// The last beat of each instance.
    beats: RefCell<HashMap<u64, Instant>>,
}

impl Shared {
    async fn converse(&self, mut stream: TcpStream) -> io::Result<()> {
        let mut inbox = Vec::with_capacity(4096);
        let mut outbox = Vec::with_capacity(4096);
        loop {
            if stream.read_buf(&mut inbox).await? == 0 {
                return Ok(());
            }
            let mut done = 0;
            while let Some(request) = Request::read(&inbox[done..]) {
                done += request.length;
                self.serve(&request, &mut outbox);
            }
            let asked_for_counts = inbox.starts_with(b"GET /stub ");
            inbox.drain(..done);
            stream.write_all(&outbox).await?;
            outbox.clear();
            if asked_for_counts {
                return Ok(());
            }
        }
    }

    fn serve(&self, request: &Request<'_>, outbox: &mut Vec<u8>) {
        if request.path.starts_with(b"/stub") {
            return outbox.extend(answer("application/json", &self.report()).iter());
        }
        let mut counts = self.counts.borrow_mut();
        counts.requests += 1;
        if request.path.ends_with(b"/instance/beat") {
            counts.beats += 1;
            self.note_beat(request, &mut counts);
            outbox.extend(&self.answers.beat);
        } else if request.path.ends_with(b"/instance/list") {
            counts.lists += 1;
            self.answers.list(request, outbox);
        } else {
            outbox.extend(&self.answers.ok);
        }
    }

    /// The connection of the report itself is not counted.
    fn report(&self) -> String {
        let mut counts = self.counts.borrow_mut();
        let connections = counts.connections - 1;
        let report = Counts { connections, opened: counts.opened - 1, ..counts.clone() };
        *counts = Counts { connections: counts.connections, closed: -1, ..Counts::default() };
        serde_json::to_string(&report).unwrap_or_default()
    }

    fn note_beat(&self, request: &Request<'_>, counts: &mut Counts) {
        let now = Instant::now();
        if let Some(before) = self.beats.borrow_mut().insert(request.instance(), now) {
            let late = (now - before).saturating_sub(BEAT_INTERVAL);
            counts.late_beats += u64::from(late > LATE);
            counts.latest_beat_ms = counts.latest_beat_ms.max(late.as_millis() as u64);
        }
    }
}

struct Request<'a> {
    path: &'a [u8],
    query: &'a [u8],
    body: &'a [u8],
    length: usize,
}

impl<'a> Request<'a> {
    /// `None` if the request is not complete yet.
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let head_end = find(bytes, b"\r\n\r\n")? + 4;
        let head = &bytes[..head_end];
        let target = head.split(|byte| *byte == b' ').nth(1)?;
        let (path, query) = match find(target, b"?") {
            Some(mark) => (&target[..mark], &target[mark + 1..]),
            None => (target, &[][..]),
        };
        let length = head_end + content_length(head);
        Some(Request { path, query, body: bytes.get(head_end..length)?, length })
    }

    /// Identifies the beating instance by the parameters, or by the whole body if the client sends the beat there.
    fn instance(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        if self.body.is_empty() {
            for name in [&b"serviceName="[..], b"ip=", b"port="] {
                parameter(self.query, name).hash(&mut hasher);
            }
        } else {
            self.body.hash(&mut hasher);
        }
        hasher.finish()
    }
}

fn content_length(head: &[u8]) -> usize {
    let lines = head.split(|byte| *byte == b'\n');
    let mut values = lines.filter_map(|line| {
        let (name, value) = line.split_at_checked(15)?;
        name.eq_ignore_ascii_case(b"content-length:").then_some(value)
    });
    let text = values.next_back().and_then(|value| std::str::from_utf8(value).ok());
    text.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

fn parameter<'a>(query: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    query.split(|byte| *byte == b'&').find_map(|pair| pair.strip_prefix(name))
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
