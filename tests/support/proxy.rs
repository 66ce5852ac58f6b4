//! A TCP proxy that closes connections on which nothing has passed for a while, as load balancers do.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    ops::Range,
    sync::{
        atomic::{AtomicBool, AtomicUsize, Ordering},
        Arc, Mutex,
    },
    thread,
    time::{Duration, Instant},
};

/// How late the end of an idle time is noticed at most.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Forwards to one server until it is dropped.
pub struct Proxy {
    pub address: SocketAddr,
    idle_ends: Arc<AtomicUsize>,
    ended: Arc<AtomicBool>,
}

impl Proxy {
    /// Starts a proxy for the server at `to`. For each connection a random time within `idle` is chosen. The connection
    /// is closed when nothing has passed for that time.
    pub fn start(to: SocketAddr, idle: Range<Duration>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (idle_ends, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, ended_for_all) = (idle_ends.clone(), ended.clone());
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if ended_for_all.load(Ordering::Acquire) {
                    return;
                }
                let drawn = idle.start + (idle.end - idle.start).mul_f64(fastrand::f64());
                let line = Line { idle: drawn, last: Mutex::new(Instant::now()), ended: AtomicBool::new(false) };
                // If the server cannot be reached, dropping `client` closes the client's connection at once.
                if let Ok(server) = TcpStream::connect(to) {
                    let _ = line.carry(client, server, &count);
                }
            }
        });
        Proxy { address, idle_ends, ended }
    }

    pub fn server_address(&self) -> String {
        self.address.to_string()
    }

    /// The number of connections that were closed because they were idle.
    pub fn idle_ends(&self) -> usize {
        self.idle_ends.load(Ordering::Acquire)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        // Wakes the thread that listens.
        let _ = TcpStream::connect(self.address);
    }
}

/// One connection through the proxy.
struct Line {
    idle: Duration,
    /// When data last passed, in either direction.
    last: Mutex<Instant>,
    ended: AtomicBool,
}

impl Line {
    fn carry(self, client: TcpStream, server: TcpStream, idle_ends: &Arc<AtomicUsize>) -> io::Result<()> {
        for stream in [&client, &server] {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(LOOK_EVERY))?;
        }
        let line = Arc::new(self);
        for (from, to) in [(client.try_clone()?, server.try_clone()?), (server, client)] {
            let (line, count) = (line.clone(), idle_ends.clone());
            thread::spawn(move || line.forward(from, to, &count));
        }
        Ok(())
    }

    fn forward(&self, mut from: TcpStream, mut to: TcpStream, idle_ends: &AtomicUsize) {
        let mut buffer = vec![0; 64 * 1024];
        while !self.ended.load(Ordering::Acquire) {
            match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => {
                    *self.last.lock().expect("no panic") = Instant::now();
                    if to.write_all(&buffer[..length]).is_err() {
                        break;
                    }
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    let is_idle = self.last.lock().expect("no panic").elapsed() >= self.idle;
                    if is_idle && !self.ended.swap(true, Ordering::AcqRel) {
                        idle_ends.fetch_add(1, Ordering::AcqRel);
                    }
                }
                Err(_) => break,
            }
        }
        self.ended.store(true, Ordering::Release);
        // An error means that the other direction has already closed the connection.
        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    }
}
