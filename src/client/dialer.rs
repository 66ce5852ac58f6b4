//! Opens connections to one server, which may have several addresses behind its name.

use std::{cell::Cell, future::Future, io, net::SocketAddr, rc::Rc, time::Duration};

use actix_rt::{
    net::TcpStream,
    time::{timeout, Instant},
};
use actix_service::{fn_service, Service};
use actix_tls::connect::{ConnectError, ConnectInfo, Connection};
use awc::http::Uri;
use futures_util::{stream::FuturesUnordered, StreamExt as _};
use tokio::net::lookup_host;

use super::{
    stream::Stream,
    tls::{self, TlsConnectorService},
};
use crate::config::{ServerAddress, LONGEST_DURATION};

/// So long one address may keep silent before the next is tried beside it (RFC 8305, connection attempt delay).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Tries the addresses of a server one after the other, and remembers which of them answers.
#[derive(Clone)]
pub(crate) struct Dialer {
    host: Rc<str>,
    port: u16,
    https: bool,
    /// Clones share it.
    memory: Rc<Memory>,
}

#[derive(Default)]
struct Memory {
    /// Took the last connection.
    connected: Cell<Option<SocketAddr>>,
    /// Took connections, and did not answer a request in time.
    silent: Cell<Option<SocketAddr>>,
    /// When another address than before took a connection.
    changed_at: Cell<Option<Instant>>,
    /// When a connection was last refused.
    refused_at: Cell<Option<Instant>>,
}

impl Dialer {
    pub(crate) fn new(server: &ServerAddress) -> Self {
        Dialer { host: server.host.as_str().into(), port: server.port, https: server.https, memory: Rc::default() }
    }

    /// The address that took the last connection does not answer what was `sent` then: the others are tried before it.
    pub(crate) fn note_silence(&self, sent: Instant) {
        // Many requests may wait for the address that was left meanwhile.
        if self.memory.changed_at.get().is_some_and(|changed| sent < changed) {
            return;
        }
        if let Some(address) = self.memory.connected.take() {
            self.memory.silent.set(Some(address));
        }
    }

    fn note_connected(&self, address: SocketAddr) {
        let before = self.memory.connected.replace(Some(address));
        if before != Some(address) && (before.is_some() || self.memory.silent.get().is_some()) {
            self.memory.changed_at.set(Some(Instant::now()));
        }
    }

    /// Looks the server up and connects to it. Never ends while an address keeps silent: give it a timeout.
    pub(crate) async fn connect(&self) -> Result<TcpStream, ConnectError> {
        let found =
            lookup_host((&*self.host, self.port)).await.map_err(|error| ConnectError::Resolver(error.into()))?;
        let addresses = self.in_order(found.collect());
        if addresses.is_empty() {
            return Err(ConnectError::NoRecords);
        }
        self.connect_to_one_of(addresses).await.map_err(|error| {
            if error.kind() == io::ErrorKind::ConnectionRefused {
                self.memory.refused_at.set(Some(Instant::now()));
            }
            ConnectError::Io(error)
        })
    }

    /// Whether the server has refused a connection since then. A name that cannot be looked up, or a network that is down,
    /// says nothing of the server.
    pub(crate) fn was_refused_since(&self, since: Instant) -> bool {
        self.memory.refused_at.get().is_some_and(|refused| refused >= since)
    }

    /// The system's order, but for what is remembered.
    fn in_order(&self, mut addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
        let (connected, silent) = (self.memory.connected.get(), self.memory.silent.get());
        addresses.sort_by_key(|address| match Some(*address) {
            address if address == connected => 0,
            address if address == silent => 2,
            _ => 1,
        });
        addresses
    }

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
                // It is the next one's turn.
                _ => {}
            }
        }
    }

    /// Connects with TLS where the server is asked by https, whatever the URI's scheme is.
    async fn open(&self, tls: &Option<TlsConnectorService>) -> Result<Stream, ConnectError> {
        let tcp = self.connect().await?;
        if !self.https {
            return Ok(Stream::new(tcp));
        }
        let no_tls = || io::Error::other("no TLS: the platform has no root certificates; name a CA file");
        let tls = tls.as_ref().ok_or_else(no_tls).map_err(ConnectError::Io)?;
        tls::handshake(tls, &self.host, tcp).await.map_err(ConnectError::Io)
    }

    /// What awc connects by.
    pub(super) fn service(
        self,
        tls: Option<TlsConnectorService>,
    ) -> impl Service<
        ConnectInfo<Uri>,
        Response = Connection<Uri, Stream>,
        Error = ConnectError,
        Future = impl Future<Output = Result<Connection<Uri, Stream>, ConnectError>>,
    > + Clone {
        fn_service::<_, _, _, _, _, ()>(move |asked: ConnectInfo<Uri>| {
            let (dialer, tls) = (self.clone(), tls.clone());
            async move { Ok(Connection::new(asked.request().clone(), dialer.open(&tls).await?)) }
        })
    }
}

#[cfg(test)]
mod tests {
    use actix_rt::net::{TcpListener, TcpSocket};

    use super::*;

    fn dialer() -> Dialer {
        Dialer::new(&ServerAddress::parse("nacos:8848", "/nacos").unwrap())
    }

    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    /// Swallows connections: its backlog is full of those that are returned with it.
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
    async fn an_address_that_swallows_connections_does_not_keep_us_from_the_next() {
        let ((_swallows, silent, _waiting), (_listener, open)) = (silent().await, listener().await);
        let (dialer, began) = (dialer(), Instant::now());
        let connection = dialer.connect_to_one_of(dialer.in_order(vec![silent, open])).await.unwrap();
        assert_eq!(connection.peer_addr().unwrap(), open);
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
        assert_eq!(dialer.clone().in_order(vec![silent, open]), [open, silent], "remembered");
    }

    #[actix::test]
    async fn an_address_that_refuses_costs_no_time_and_the_last_refusal_is_told() {
        let (closed, (_listener, open)) = (listener().await.1, listener().await);
        let dialer = dialer();
        let connection = dialer.connect_to_one_of(vec![closed, closed, closed, closed, open]).await.unwrap();
        assert_eq!(connection.peer_addr().unwrap(), open);
        let refused = dialer.connect_to_one_of(vec![closed, closed]).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(dialer.in_order(vec![closed, open]), [open, closed]);
    }

    #[actix::test]
    async fn only_a_refused_connection_is_one() {
        let closed = listener().await.1;
        let dialer =
            |host: &str| Dialer::new(&ServerAddress::parse(&format!("{host}:{}", closed.port()), "/nacos").unwrap());
        let (refusing, unknown, began) = (dialer("127.0.0.1"), dialer("unknown.invalid"), Instant::now());
        assert!(refusing.connect().await.is_err() && unknown.connect().await.is_err());
        assert!(refusing.was_refused_since(began) && !unknown.was_refused_since(began));
        assert!(!refusing.was_refused_since(Instant::now() + ATTEMPT_DELAY));
    }

    #[actix::test]
    async fn an_address_that_took_a_connection_and_no_request_is_tried_last() {
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
        assert_eq!(dialer.in_order(vec![first, second]), [second, first], "the other one was not asked then");
        dialer.note_silence(Instant::now());
        assert_eq!(dialer.in_order(vec![first, second]), [first, second]);
    }
}
