//! A fake server that sends the bytes that a test sets, and keeps the requests.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        atomic::{AtomicBool, AtomicUsize, Ordering},
        Arc, Mutex,
    },
    thread,
    time::{Duration, Instant},
};

/// One request as it was received.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    /// Path and query, still encoded.
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
    /// When the request was received.
    pub at: Instant,
}

impl Seen {
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// Returns a parameter of the query, still encoded.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let query = self.target.split_once('?').map_or("", |(_, query)| query);
        query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| &**value)
    }
}

/// How the server answers a request.
#[derive(Debug, Clone)]
pub enum Answer {
    Text(u16, &'static str, String),
    /// Sends these bytes, then closes the connection.
    Raw(Vec<u8>),
    /// Closes the connection without an answer.
    Close,
    /// Sends nothing for this time, then closes the connection.
    Silence(Duration),
    /// Sends a head without a length, then bytes until the client closes the connection.
    Endless,
}

impl Answer {
    pub fn ok() -> Self {
        Answer::Text(200, "text/plain", "ok".into())
    }

    pub fn json(body: impl Into<String>) -> Self {
        Answer::Text(200, "application/json", body.into())
    }

    /// The usual answer of Nacos to a request about instances.
    pub fn usual(seen: &Seen) -> Self {
        match seen.path() {
            "/nacos/v1/ns/instance/list" => Answer::json(
                r#"{"name":"DEFAULT_GROUP@@x","groupName":"DEFAULT_GROUP","clusters":"","cacheMillis":10000,"hosts":[],"lastRefTime":1,"checksum":"","allIPs":false,"reachProtectionThreshold":false,"valid":true}"#,
            ),
            "/nacos/v1/ns/instance" if seen.method == "GET" => {
                let value = |name| seen.parameter(name).unwrap_or_default();
                Answer::json(format!(
                    r#"{{"ip":"{}","port":{},"clusterName":"{}","weight":1.0,"healthy":true,"enabled":true,"ephemeral":true,"instanceId":"fake","metadata":{{}}}}"#,
                    value("ip"),
                    value("port"),
                    value("clusterName"),
                ))
            }
            "/nacos/v1/ns/instance/beat" => {
                Answer::json(r#"{"clientBeatInterval":5000,"code":10200,"lightBeatEnabled":true}"#)
            }
            _ => Answer::ok(),
        }
    }

    /// Returns false if the connection has ended.
    fn write(self, stream: &mut TcpStream) -> io::Result<bool> {
        match self {
            Answer::Text(status, kind, body) => {
                let length = body.len();
                let head = format!("HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n");
                stream.write_all((head + &body).as_bytes())?;
                return Ok(true);
            }
            Answer::Raw(bytes) => stream.write_all(&bytes)?,
            Answer::Close => {}
            Answer::Silence(time) => thread::sleep(time),
            Answer::Endless => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n")?;
                while stream.write_all(&[b' '; 64 * 1024]).is_ok() {}
            }
        }
        Ok(false)
    }
}

/// A server on a free port. It stops when this is dropped.
pub struct Fake {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    /// The number of connections that the client has not closed yet.
    connections: Arc<AtomicUsize>,
    ended: Arc<AtomicBool>,
}

impl Fake {
    pub fn start(answer: impl Fn(&Seen) -> Answer + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1:0", answer)
    }

    /// Listens at `address`, which may be an IPv6 address.
    pub fn start_at(address: &str, answer: impl Fn(&Seen) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(address).expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (seen, ended) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let connections = Arc::new(AtomicUsize::new(0));
        let answer: Arc<dyn Fn(&Seen) -> Answer + Send + Sync> = Arc::new(answer);
        let (seen_by_all, ended_for_all, count) = (seen.clone(), ended.clone(), connections.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if ended_for_all.load(Ordering::Acquire) {
                    return;
                }
                let (answer, seen, count) = (answer.clone(), seen_by_all.clone(), count.clone());
                count.fetch_add(1, Ordering::AcqRel);
                thread::spawn(move || {
                    serve(stream, &*answer, &seen);
                    count.fetch_sub(1, Ordering::AcqRel);
                });
            }
        });
        Fake { address, seen, connections, ended }
    }

    pub fn server_address(&self) -> String {
        self.address.to_string()
    }

    /// The number of open connections. A connection that the client has closed does not count.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Acquire)
    }

    /// All requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("no panic").clone()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        // Wakes the thread that listens.
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(stream: TcpStream, answer: &dyn Fn(&Seen) -> Answer, seen: &Mutex<Vec<Seen>>) {
    let _ = stream.set_nodelay(true);
    let mut stream = BufReader::new(stream);
    // Ends when the client closes the connection.
    while let Ok(request) = read(&mut stream) {
        seen.lock().expect("no panic").push(request.clone());
        if !answer(&request).write(stream.get_mut()).unwrap_or(false) {
            return;
        }
    }
}

fn read(stream: &mut BufReader<TcpStream>) -> io::Result<Seen> {
    let mut line = || {
        let mut line = String::new();
        match stream.read_line(&mut line)? {
            0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            _ => Ok(line.trim_end().to_owned()),
        }
    };
    let first = line()?;
    let mut words = first.split(' ').map(str::to_owned);
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut headers = Vec::new();
    loop {
        let line = line()?;
        let Some((name, value)) = line.split_once(": ") else { break };
        headers.push((name.to_owned(), value.to_owned()));
    }
    let mut seen = Seen { method, target, headers, body: String::new(), at: Instant::now() };
    let length = seen.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    seen.body = String::from_utf8_lossy(&body).into_owned();
    seen.at = Instant::now();
    Ok(seen)
}
