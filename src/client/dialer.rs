//! Opens connections to one server, whose name may have several IP addresses.
//!
//! A name may resolve to several addresses, of which some do not work: an IPv6 address without a route, or a member
//! of a cluster behind one name that is down. So addresses are tried in turn, a new one every 250 ms, and the first
//! that connects wins. awc's own connector would wait for each address until the timeout.
//!
//! The dialer also records why a connection failed. Only a *refused* connection shows that no server listens; the
//! restart detector and the health depend on that difference.

use std::{cell::Cell, future::Future, io, net::SocketAddr, rc::Rc, time::Duration};

use actix_rt::time::{timeout, Instant};
use actix_service::{fn_service, Service};
use actix_tls::connect::{ConnectError, ConnectInfo, Connection};
use awc::http::Uri;
use futures_util::{stream::FuturesUnordered, StreamExt as _};
use tokio::net::lookup_host;

use super::{
    stream::Stream,
    tls::{self, TlsConnectorService},
};
use crate::{
    config::{ServerAddress, LONGEST_DURATION},
    runtime::sockets::TcpStream,
};

/// How long to wait for one address before the next address is tried too (RFC 8305, connection attempt delay).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Tries the addresses of a server one after the other, and records which address answers.
///
/// Clones share their history, because awc takes a clone of the connector.
#[derive(Clone)]
pub(crate) struct Dialer {
    host: Rc<str>,
    port: u16,
    https: bool,
    /// Shared by all clones.
    history: Rc<History>,
}

/// The results of the connections to one server so far. Lives as long as the server.
#[derive(Default)]
struct History {
    /// The address of the last connection.
    connected: Cell<Option<SocketAddr>>,
    /// An address that accepted a connection and did not answer a request in time.
    silent: Cell<Option<SocketAddr>>,
    /// When the last connection went to another address than the one before.
    changed_at: Cell<Option<Instant>>,
    /// When a connection was last refused.
    refused_at: Cell<Option<Instant>>,
}

impl Dialer {
    pub(crate) fn new(server: &ServerAddress) -> Self {
        Dialer { host: server.host.as_str().into(), port: server.port, https: server.https, history: Rc::default() }
    }

    /// The `Host` header of all requests, as awc would write it: without the default port of http or https.
    pub(super) fn host_header(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.to_string() };
        match self.port {
            80 | 443 => host,
            port => format!("{host}:{port}"),
        }
    }

    /// Notes that a request that was sent at `sent` got no answer. The address of the last connection is then tried
    /// last.
    pub(crate) fn note_silence(&self, sent: Instant) {
        // The request may have gone to an address that has been replaced since.
        if self.history.changed_at.get().is_some_and(|changed| sent < changed) {
            return;
        }
        if let Some(address) = self.history.connected.take() {
            self.history.silent.set(Some(address));
        }
    }

    /// Remembers the address that has just accepted a connection.
    fn note_connected(&self, address: SocketAddr) {
        let before = self.history.connected.replace(Some(address));
        if before != Some(address) && (before.is_some() || self.history.silent.get().is_some()) {
            self.history.changed_at.set(Some(Instant::now()));
        }
    }

    /// Looks the server's addresses up and connects. Does not return while an address does not respond, so the caller
    /// needs a timeout.
    pub(crate) async fn connect(&self) -> Result<TcpStream, ConnectError> {
        let found =
            lookup_host((&*self.host, self.port)).await.map_err(|error| ConnectError::Resolver(error.into()))?;
        let addresses = self.in_order(found.collect());
        if addresses.is_empty() {
            return Err(ConnectError::NoRecords);
        }
        self.connect_to_one_of(addresses).await.map_err(|error| {
            if error.kind() == io::ErrorKind::ConnectionRefused {
                self.note_refused();
            }
            ConnectError::Io(error)
        })
    }

    /// Notes that the server has just refused a connection.
    pub(super) fn note_refused(&self) {
        self.history.refused_at.set(Some(Instant::now()));
    }

    /// Whether the server has refused a connection since `since`. A failed lookup or a network that is down does not
    /// count, because neither shows that the server is down.
    pub(crate) fn was_refused_since(&self, since: Instant) -> bool {
        self.history.refused_at.get().is_some_and(|refused| refused >= since)
    }

    /// Sorts the addresses: the address of the last connection first, an address that did not answer last, the others
    /// in the system's order.
    fn in_order(&self, mut addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
        let (connected, silent) = (self.history.connected.get(), self.history.silent.get());
        addresses.sort_by_key(|address| match Some(*address) {
            address if address == connected => 0,
            address if address == silent => 2,
            _ => 1,
        });
        addresses
    }

    /// # Errors
    /// The last error, when no address is left.
    async fn connect_to_one_of(&self, addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
        let mut addresses = addresses.into_iter();
        let mut attempts = FuturesUnordered::new();
        loop {
            attempts
                .extend(addresses.next().map(|address| async move { (address, TcpStream::connect(address).await) }));
            let delay = if addresses.len() > 0 { ATTEMPT_DELAY } else { LONGEST_DURATION };
            match timeout(delay, attempts.next()).await {
                Ok(Some((address, Ok(stream)))) => {
                    self.note_connected(address);
                    return Ok(stream);
                }
                Ok(Some((_, Err(error)))) if attempts.is_empty() && addresses.len() == 0 => return Err(error),
                // Try the next address too.
                _ => {}
            }
        }
    }

    /// Connects, and adds TLS if the server is configured with https. The scheme of the request's URI does not matter.
    async fn open(&self, tls: &Option<TlsConnectorService>) -> Result<Stream, ConnectError> {
        let tcp = self.connect().await?;
        if !self.https {
            return Ok(Stream::new(tcp));
        }
        let no_tls = || io::Error::other("no TLS: the platform has no root certificates; configure a CA file");
        let tls = tls.as_ref().ok_or_else(no_tls).map_err(ConnectError::Io)?;
        tls::handshake(tls, &self.host, tcp).await.map_err(ConnectError::Io)
    }

    /// The connector for awc.
    pub(super) fn service(
        self,
        tls: Option<TlsConnectorService>,
    ) -> impl Service<
        ConnectInfo<Uri>,
        Response = Connection<Uri, Stream>,
        Error = ConnectError,
        Future = impl Future<Output = Result<Connection<Uri, Stream>, ConnectError>>,
    > + Clone {
        fn_service::<_, _, _, _, _, ()>(move |request: ConnectInfo<Uri>| {
            let (dialer, tls) = (self.clone(), tls.clone());
            async move { Ok(Connection::new(request.request().clone(), dialer.open(&tls).await?)) }
        })
    }
}

#[cfg(test)]
mod tests {
    use actix_rt::net::{TcpListener, TcpSocket};
    use awc::{Client, Connector};
    use tokio::io::AsyncReadExt as _;

    use super::*;

    fn dialer() -> Dialer {
        Dialer::new(&ServerAddress::parse("nacos:8848", "/nacos").unwrap())
    }

    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    /// An address that does not accept connections, because its backlog is full. Keeps the backlog full until dropped.
    async fn silent() -> (TcpListener, SocketAddr, Vec<TcpStream>) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut waiting = Vec::new();
        while let Ok(stream) = timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
            waiting.push(stream.unwrap());
        }
        (listener, address, waiting)
    }

    #[actix::test]
    async fn an_address_that_keeps_silent_does_not_block_the_next() {
        let ((_swallows, silent, _waiting), (_listener, open)) = (silent().await, listener().await);
        let (dialer, began) = (dialer(), Instant::now());
        let connection = dialer.connect_to_one_of(dialer.in_order(vec![silent, open])).await.unwrap();
        assert_eq!(connection.peer_addr().unwrap(), open);
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
        assert_eq!(dialer.clone().in_order(vec![silent, open]), [open, silent], "remembered");
    }

    #[actix::test]
    async fn an_address_that_refuses_costs_no_time_and_the_last_refusal_is_returned() {
        let (closed, (_listener, open)) = (listener().await.1, listener().await);
        let dialer = dialer();
        let connection = dialer.connect_to_one_of(vec![closed, closed, closed, closed, open]).await.unwrap();
        assert_eq!(connection.peer_addr().unwrap(), open);
        let refused = dialer.connect_to_one_of(vec![closed, closed]).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(dialer.in_order(vec![closed, open]), [open, closed]);
    }

    #[actix::test]
    async fn a_failed_lookup_is_not_a_refused_connection() {
        let closed = listener().await.1;
        let dialer =
            |host: &str| Dialer::new(&ServerAddress::parse(&format!("{host}:{}", closed.port()), "/nacos").unwrap());
        let (refusing, unknown, began) = (dialer("127.0.0.1"), dialer("unknown.invalid"), Instant::now());
        assert!(refusing.connect().await.is_err() && unknown.connect().await.is_err());
        assert!(refusing.was_refused_since(began) && !unknown.was_refused_since(began));
        assert!(!refusing.was_refused_since(Instant::now() + ATTEMPT_DELAY));
    }

    #[actix::test]
    async fn an_address_that_accepts_connections_without_answering_is_tried_last() {
        let ((_first, first), (_second, second)) = (listener().await, listener().await);
        let dialer = dialer();
        dialer.connect_to_one_of(vec![first, second]).await.unwrap();
        assert_eq!(dialer.in_order(vec![second, first]), [first, second]);
        let sent = Instant::now();
        dialer.note_silence(sent);
        dialer.note_silence(sent);
        assert_eq!(dialer.in_order(vec![first, second]), [second, first]);
        dialer.connect_to_one_of(dialer.in_order(vec![first, second])).await.unwrap();
        dialer.note_silence(sent);
        assert_eq!(
            dialer.in_order(vec![first, second]),
            [second, first],
            "the request did not go to the second address"
        );
        dialer.note_silence(Instant::now());
        assert_eq!(dialer.in_order(vec![first, second]), [first, second]);
    }

    /// The `Host` header that awc writes by itself in a request for `url`.
    async fn host_header_of_awc(url: &str) -> String {
        let (listener, address) = listener().await;
        let connect = fn_service::<_, _, _, _, _, ()>(move |asked: ConnectInfo<Uri>| async move {
            let stream = TcpStream::connect(address).await.map_err(ConnectError::Io)?;
            Ok(Connection::new(asked.request().clone(), Stream::new(stream)))
        });
        let client = Client::builder().connector(Connector::new().connector(connect)).finish();
        actix_rt::spawn(client.get(url).send());
        let (mut connection, mut request) = (listener.accept().await.unwrap().0, Vec::new());
        while !request.ends_with(b"\r\n\r\n") {
            connection.read_buf(&mut request).await.unwrap();
        }
        let request = String::from_utf8(request).unwrap();
        request.lines().find_map(|line| line.strip_prefix("host: ")).unwrap().to_owned()
    }

    #[actix::test]
    async fn the_host_header_is_what_awc_writes_for_the_address() {
        for url in ["nacos:8848", "nacos:80", "nacos:443", "192.0.2.1:8848", "[2001:db8::1]:8848", "[2001:db8::1]:80"] {
            let url = format!("http://{url}");
            let dialer = Dialer::new(&ServerAddress::parse(&url, "/nacos").unwrap());
            assert_eq!(dialer.host_header(), host_header_of_awc(&url).await, "{url}");
        }
        for url in ["http://nacos/list", "http://[::1]/list"] {
            let dialer = Dialer::new(&ServerAddress::parse_endpoint(url).unwrap());
            assert_eq!(dialer.host_header(), host_header_of_awc(url).await, "{url}");
        }
    }
}
