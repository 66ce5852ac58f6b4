//! Keeps track of the connections of one client: which name the certificate of each instance must have, and when to
//! close idle connections.
//!
//! awc closes an idle connection only when it is about to use it again. Without this module, connections to an instance
//! that gets no more calls would stay open.
//!
//! A [`Table`] has one [`Entry`] per authority, with and without TLS. A [`Carried`] marks each call under way. An entry
//! without a call for [`IDLE_TIME`] is removed, and its connections are closed. One task per client does that. The task
//! ends when the table is empty, so an unused client costs nothing.
//!
//! awc's pool keeps connections by the authority of the URI, and the URI is rewritten to the address of the
//! instance. So a call by name and a plain request to the same address share connections, unless their certificates
//! are checked for different names.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    fmt,
    io::{self, IoSlice},
    pin::Pin,
    rc::{Rc, Weak},
    task::{Context, Poll, Waker},
    time::Duration,
};

use actix_http::{
    uri::{Authority, Scheme},
    Uri,
};
use actix_rt::{
    net::{ActixStream, Ready, TcpStream},
    time::{sleep, Instant},
};
use actix_service::{fn_service, Service};
use actix_tls::connect::{ConnectError, ConnectInfo, Connection, Connector, Resolver};
use awc::error::SendRequestError;
use foldhash::fast::RandomState;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::outgoing::not_callable;

/// A connection without a call for this long is closed. It is shorter than the 5 s after which actix-web closes idle
/// connections.
///
/// A connection that the server closes first may break a request that is just being sent on it.
pub(super) const IDLE_TIME: Duration = Duration::from_secs(4);
/// How often to look for idle connections.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The connections of one client, by the authority under which awc's pool has them.
#[derive(Clone, Default)]
pub(super) struct Connections(Rc<Table>);

#[derive(Default)]
struct Table {
    entries: RefCell<HashMap<Key, Entry, RandomState>>,
    is_watched: Cell<bool>,
}

/// A connection with TLS and one without TLS are different for awc's pool.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    by_tls: bool,
    authority: Authority,
}

impl Key {
    fn of(uri: &Uri) -> Option<Self> {
        let by_tls = matches!(uri.scheme_str(), Some("https" | "wss"));
        Some(Key { by_tls, authority: uri.authority()?.clone() })
    }
}

/// `sockets` are weak, because awc owns the connections.
struct Entry {
    /// The name that the certificate must have. `None` without TLS.
    server_name: Option<Rc<str>>,
    calls: usize,
    last_call: Instant,
    sockets: Vec<Weak<Stream>>,
}

impl Connections {
    /// Begins a call to `address`, with TLS if there is a `server_name`.
    ///
    /// Returns the authority to use, which may have zeros before the port: see the comment inside.
    ///
    /// # Errors
    /// [`SendRequestError::Connect`] if `address` is not a valid authority.
    pub(super) fn begin(&self, address: &str, server_name: Option<&str>) -> Result<Carried, SendRequestError> {
        let mut entries = self.0.entries.borrow_mut();
        let mut written = address.to_owned();
        loop {
            let parsed = written.parse().map_err(|_| not_callable(&format!("{address:?} is no address")));
            let key = Key { by_tls: server_name.is_some(), authority: parsed? };
            let entry = entries.entry(key.clone()).or_insert_with(|| Entry {
                server_name: server_name.map(Rc::from),
                calls: 0,
                last_call: Instant::now(),
                sockets: Vec::new(),
            });
            let is_same = match (entry.server_name.as_deref(), server_name) {
                (Some(one), Some(other)) => one.eq_ignore_ascii_case(other),
                (one, other) => one == other,
            };
            if is_same {
                entry.calls += 1;
                drop(entries);
                self.watch();
                return Ok(Carried { key, connections: self.clone() });
            }
            // Two services may share one address. A connection whose certificate was checked for one name must not
            // carry calls for the other name. A zero before the port makes awc's pool treat it as another address.
            let port = written.rfind(':').map_or(written.len(), |colon| colon + 1);
            written.insert(port, '0');
        }
    }

    fn server_name(&self, uri: &Uri) -> Option<Rc<str>> {
        self.0.entries.borrow().get(&Key::of(uri)?)?.server_name.clone()
    }

    /// The connector for awc. It works like awc's own, but TLS checks the certificate for the entry's `server_name`.
    pub(super) fn connector(
        &self,
    ) -> impl Service<ConnectInfo<Uri>, Response = Connection<Uri, Socket>, Error = ConnectError> + Clone + use<> {
        let (connections, tcp) = (self.clone(), Connector::new(Resolver::default()).service());
        fn_service::<_, _, _, _, _, ()>(move |asked: ConnectInfo<Uri>| {
            let (connections, connecting) = (connections.clone(), tcp.call(asked));
            async move {
                let (stream, uri) = connecting.await?.into_parts();
                // Without this, Nagle's algorithm delays small requests.
                let _ = stream.set_nodelay(true);
                let socket = connections.keep(&uri, stream);
                Ok(Connection::new(connections.named(uri)?, socket))
            }
        })
    }

    /// Remembers a connection that awc has opened, so that it can be closed when it is idle.
    fn keep(&self, uri: &Uri, stream: TcpStream) -> Socket {
        let socket = Socket(Rc::new(Stream { open: RefCell::new(Some(stream)), reader: Cell::new(None) }));
        let mut entries = self.0.entries.borrow_mut();
        if let Some(entry) = Key::of(uri).and_then(|key| entries.get_mut(&key)) {
            entry.sockets.retain(|socket| socket.strong_count() > 0);
            entry.sockets.push(Rc::downgrade(&socket.0));
        }
        socket
    }

    /// Returns the URI with the host that the certificate must be for.
    ///
    /// # Errors
    /// [`ConnectError::Io`] if [`certificate_name`](super::ClientBuilder::certificate_name) has returned a name that is
    /// not a valid host.
    fn named(&self, uri: Uri) -> Result<Uri, ConnectError> {
        let Some(name) = self.server_name(&uri) else { return Ok(uri) };
        let named = Uri::builder().scheme(Scheme::HTTPS).authority(&*name).path_and_query("/").build();
        let reason =
            |_| io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is no name that a certificate has"));
        named.map_err(reason).map_err(ConnectError::Io)
    }

    /// Starts the task that closes idle connections, if it does not run yet. The task ends when the table is empty.
    fn watch(&self) {
        if self.0.is_watched.replace(true) {
            return;
        }
        let table = Rc::downgrade(&self.0);
        actix_rt::spawn(async move {
            loop {
                sleep(LOOK_EVERY).await;
                let Some(table) = table.upgrade() else { return };
                table.close_idle();
                if table.entries.borrow().is_empty() {
                    table.is_watched.set(false);
                    return;
                }
            }
        });
    }
}

impl Table {
    fn close_idle(&self) {
        self.entries.borrow_mut().retain(|_, entry| {
            if entry.calls > 0 || entry.last_call.elapsed() < IDLE_TIME {
                return true;
            }
            // awc notices that the connection has ended when it next looks for one.
            entry.sockets.iter().filter_map(Weak::upgrade).for_each(|stream| stream.close());
            false
        });
    }
}

/// One call to an address. While it exists, connections to the address are not idle.
///
/// Dropping it starts the idle time.
pub(super) struct Carried {
    key: Key,
    connections: Connections,
}

impl Carried {
    pub(super) fn authority(&self) -> &Authority {
        &self.key.authority
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        if let Some(entry) = self.connections.0.entries.borrow_mut().get_mut(&self.key) {
            entry.calls -= 1;
            entry.last_call = Instant::now();
        }
    }
}

/// A connection that can be closed while awc holds it.
///
/// awc has no function that closes a pooled connection. If the stream below awc's codec is closed, awc treats the
/// connection as closed by the server.
pub(super) struct Socket(Rc<Stream>);

struct Stream {
    open: RefCell<Option<TcpStream>>,
    /// Wakes the task that waits for data. The task of an HTTP/2 connection always waits.
    reader: Cell<Option<Waker>>,
}

impl Stream {
    fn close(&self) {
        self.open.borrow_mut().take();
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    /// Runs `work` on the stream. Returns `closed` if the stream is closed.
    fn with<T>(&self, closed: impl FnOnce() -> T, work: impl FnOnce(Pin<&mut TcpStream>) -> T) -> T {
        match &mut *self.open.borrow_mut() {
            Some(stream) => work(Pin::new(stream)),
            None => closed(),
        }
    }
}

fn broken<T>() -> Poll<io::Result<T>> {
    Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Socket").field(&self.0.open.borrow()).finish()
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = self.0.with(|| Poll::Ready(Ok(())), |stream| stream.poll_read(cx, buffer));
        if read.is_pending() {
            self.0.reader.set(Some(cx.waker().clone()));
        }
        read
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.with(broken, |stream| stream.poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.with(broken, |stream| stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.with(|| Poll::Ready(Ok(())), |stream| stream.poll_shutdown(cx))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.with(broken, |stream| stream.poll_write_vectored(cx, pieces))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

/// awc requires this trait but never asks for readiness, so always being ready is enough.
impl ActixStream for Socket {
    fn poll_read_ready(&self, _: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        Poll::Ready(Ok(Ready::ALL))
    }

    fn poll_write_ready(&self, _: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        Poll::Ready(Ok(Ready::ALL))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[actix::test]
    async fn two_names_at_one_address_share_no_connection() {
        let connections = Connections::default();
        let authority = |name| connections.begin("127.0.0.7:8443", name).unwrap().authority().to_string();
        let (orders, billing, plain) = (authority(Some("orders")), authority(Some("billing")), authority(None));
        assert_eq!((orders.as_str(), billing.as_str()), ("127.0.0.7:8443", "127.0.0.7:08443"));
        assert_eq!(plain, orders, "awc keeps them apart by the scheme");
        assert_eq!((authority(Some("orders")), authority(Some("billing"))), (orders, billing.clone()));
        assert_eq!(billing.parse::<Authority>().unwrap().port_u16(), Some(8443));
        let named = |authority: &str| connections.named(format!("https://{authority}/").parse().unwrap()).unwrap();
        assert_eq!(named(&billing).host(), Some("billing"));
        assert_eq!(named("127.0.0.9:1").host(), Some("127.0.0.9"));
    }

    #[actix::test]
    async fn an_invalid_address_is_an_error() {
        let connections = Connections::default();
        for address in ["a b:80", "", "[::1:80"] {
            assert!(connections.begin(address, None).is_err(), "{address}");
        }
    }

    #[actix::test]
    async fn connections_without_calls_are_closed_after_four_seconds() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Connections::default();
        let (busy, idle) = (Connections::begin(&connections, &address.to_string(), None).unwrap(), "127.0.0.1:1");
        let uri: Uri = format!("http://{address}/").parse().unwrap();
        let connected = connections.connector().call(ConnectInfo::new(uri)).await.unwrap();
        drop(connections.begin(idle, None));
        tokio::time::pause();
        sleep(2 * IDLE_TIME).await;
        assert!(connected.io_ref().0.open.borrow().is_some());
        assert_eq!(connections.0.entries.borrow().len(), 1);
        drop(busy);
        sleep(IDLE_TIME + 2 * LOOK_EVERY).await;
        assert!(connected.io_ref().0.open.borrow().is_none() && !connections.0.is_watched.get());
    }
}
