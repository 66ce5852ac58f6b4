//! Watches the client's connections for the server's end: a connection that the server broke off may mean that it
//! restarted and forgot everything.

use std::{
    cell::Cell,
    fmt, io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use actix_rt::net::{ActixStream, Ready, TcpStream};
use actix_service::{fn_service, Service};
use actix_tls::connect::{ConnectError, ConnectInfo, Connection, Connector};
use awc::http::Uri;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A connection that was not read for so long is idle.
const IDLE: Duration = Duration::from_secs(1);

/// What became of the connections so far.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    opened: Cell<u64>,
    broken: Cell<u64>,
}

impl Connections {
    pub(crate) fn opened(&self) -> u64 {
        self.opened.get()
    }

    /// How many the other side ended, in whichever way.
    pub(crate) fn broken(&self) -> u64 {
        self.broken.get()
    }
}

/// Connects as awc does by itself, and hands out watched streams.
pub(crate) fn watched_connector(
    connections: Rc<Connections>,
) -> impl Service<ConnectInfo<Uri>, Response = Connection<Uri, WatchedStream>, Error = ConnectError> + Clone {
    let tcp = Rc::new(Connector::default().service());
    fn_service(move |info: ConnectInfo<Uri>| {
        let (tcp, connections) = (tcp.clone(), connections.clone());
        async move {
            let connection = tcp.call(info).await?;
            connections.opened.set(connections.opened.get() + 1);
            let (stream, request) = connection.into_parts();
            Ok(Connection::new(request, WatchedStream { stream, ended: false, last_read: Instant::now(), connections }))
        }
    })
}

/// A TCP stream that counts when its other side ends it.
pub(crate) struct WatchedStream {
    stream: TcpStream,
    /// Either side has ended it, and it is counted where that was the other one.
    ended: bool,
    last_read: Instant,
    connections: Rc<Connections>,
}

impl WatchedStream {
    fn ended_by_server(&mut self) {
        if !std::mem::replace(&mut self.ended, true) {
            self.connections.broken.set(self.connections.broken.get() + 1);
        }
    }

    /// An idle connection is read by nobody, so its end is only seen when somebody looks.
    ///
    /// One that was read just now is closed because the answer said so (Tomcat does after 100 requests): that is no break.
    fn look_for_end(&mut self) {
        if self.ended || self.last_read.elapsed() < IDLE {
            return;
        }
        let mut byte = [0; 1];
        let mut context = Context::from_waker(Waker::noop());
        let _ = Pin::new(self).poll_read(&mut context, &mut ReadBuf::new(&mut byte));
    }
}

impl fmt::Debug for WatchedStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.stream.fmt(f)
    }
}

impl Drop for WatchedStream {
    fn drop(&mut self) {
        self.look_for_end();
    }
}

impl AsyncRead for WatchedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        match &result {
            Poll::Ready(Ok(())) if buf.filled().len() > before => self.last_read = Instant::now(),
            Poll::Ready(Ok(())) if buf.remaining() > 0 => self.ended_by_server(),
            Poll::Ready(Err(_)) => self.ended_by_server(),
            _ => {}
        }
        result
    }
}

impl AsyncWrite for WatchedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        if let Poll::Ready(Err(_)) = result {
            self.ended_by_server();
        }
        result
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.look_for_end();
        self.ended = true;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl ActixStream for WatchedStream {
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        ActixStream::poll_read_ready(&self.stream, cx)
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        ActixStream::poll_write_ready(&self.stream, cx)
    }
}
