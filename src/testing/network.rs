//! A network in memory, which replaces the system's in one thread.
//!
//! Client and embedded server then run in that thread, with a paused clock. All random choices come from one seed, so
//! that a run can be repeated. Threads without a simulated network use the system's.

#![allow(missing_docs)]

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, VecDeque},
    fmt,
    future::{self, Future as _},
    io::{self, IoSlice},
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    rc::{Rc, Weak},
    task::{ready, Context, Poll, Waker},
    time::Duration,
};

use actix_rt::{
    net::{self, ActixStream, Ready},
    time::{sleep, sleep_until, Instant, Sleep},
};
use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{mpsc, Notify},
};

thread_local! {
    static NETWORK: RefCell<Option<Network>> = const { RefCell::new(None) };
}

/// The first port that is given away.
const FIRST_PORT: u16 = 20_000;

/// The simulated network of a thread.
#[derive(Clone)]
pub struct Network(Rc<State>);

struct State {
    dice: RefCell<fastrand::Rng>,
    conditions: Cell<Conditions>,
    links: RefCell<BTreeMap<u16, Rc<Link>>>,
    listeners: RefCell<BTreeMap<u16, mpsc::UnboundedSender<TcpStream>>>,
    inboxes: RefCell<BTreeMap<u16, Inbox>>,
    next_port: Cell<u16>,
}

/// What happens to everything that is sent.
#[derive(Debug, Clone, Copy, Default)]
pub struct Conditions {
    /// The longest time that something is under way. The time is drawn for each piece of a stream, whose pieces keep
    /// their order, and for each datagram.
    pub latency: Duration,
    /// The share of the datagrams that get lost.
    pub lost: f64,
    /// The share of the datagrams that arrive twice.
    pub doubled: f64,
}

/// Removes the network from the thread.
pub struct Installed(());

/// The way to the server at one port, for streams.
#[derive(Default)]
struct Link {
    is_cut: Cell<bool>,
    restored: Notify,
    pipes: RefCell<Vec<Weak<Pipe>>>,
}

#[derive(Default)]
struct Inbox {
    datagrams: VecDeque<(SocketAddr, Bytes)>,
    reader: Option<Waker>,
}

impl Network {
    /// Replaces the network of this thread until the guard is dropped.
    pub fn install(seed: u64) -> (Network, Installed) {
        let network = Network(Rc::new(State {
            dice: RefCell::new(fastrand::Rng::with_seed(seed)),
            conditions: Cell::default(),
            links: RefCell::default(),
            listeners: RefCell::default(),
            inboxes: RefCell::default(),
            next_port: Cell::new(FIRST_PORT),
        }));
        NETWORK.replace(Some(network.clone()));
        (network, Installed(()))
    }

    fn current() -> Option<Network> {
        NETWORK.try_with(|network| network.borrow().clone()).ok().flatten()
    }

    /// Sets the conditions for everything that is sent from now on.
    pub fn set(&self, conditions: Conditions) {
        self.0.conditions.set(conditions);
    }

    /// Holds everything on streams from and to the server at `port`, connection attempts too, until
    /// [`restore`](Network::restore).
    pub fn cut(&self, port: u16) {
        self.link(port).is_cut.set(true);
    }

    /// Takes [`cut`](Network::cut) back.
    pub fn restore(&self, port: u16) {
        let link = self.link(port);
        link.is_cut.set(false);
        link.restored.notify_waiters();
        link.pipes().iter().for_each(|pipe| pipe.wake());
    }

    /// Resets all connections to the server at `port`.
    pub fn reset(&self, port: u16) {
        for pipe in self.link(port).pipes() {
            pipe.state.borrow_mut().is_reset = true;
            pipe.wake();
        }
    }

    fn link(&self, port: u16) -> Rc<Link> {
        self.0.links.borrow_mut().entry(port).or_default().clone()
    }

    fn free_port(&self, wanted: u16) -> u16 {
        if wanted != 0 {
            return wanted;
        }
        self.0.next_port.replace(self.0.next_port.get() + 1)
    }

    fn latency(&self) -> Duration {
        let longest = self.0.conditions.get().latency.as_millis() as u64;
        Duration::from_millis(self.0.dice.borrow_mut().u64(..=longest))
    }

    fn hits(&self, share: f64) -> bool {
        share > 0.0 && self.0.dice.borrow_mut().f64() < share
    }

    async fn connect(self, to: SocketAddr) -> io::Result<TcpStream> {
        let link = self.link(to.port());
        sleep(self.latency()).await;
        while link.is_cut.get() {
            link.restored.notified().await;
        }
        let Some(listener) = self.0.listeners.borrow().get(&to.port()).cloned() else {
            return Err(io::ErrorKind::ConnectionRefused.into());
        };
        let (there, back) = (Pipe::new(&link), Pipe::new(&link));
        let end = |reads: &Rc<Pipe>, writes: &Rc<Pipe>, peer| Simulated {
            network: self.clone(),
            reads: reads.clone(),
            writes: writes.clone(),
            timer: None,
            peer,
        };
        let from = SocketAddr::from((Ipv4Addr::LOCALHOST, self.free_port(0)));
        let accepted = listener.send(TcpStream::Simulated(end(&there, &back, from)));
        accepted.map_err(|_| io::ErrorKind::ConnectionRefused)?;
        Ok(TcpStream::Simulated(end(&back, &there, to)))
    }

    fn send(&self, from: u16, to: SocketAddr, bytes: &[u8]) {
        let Conditions { lost, doubled, .. } = self.0.conditions.get();
        let copies = if self.hits(lost) { 0 } else { 1 + u8::from(self.hits(doubled)) };
        let (from, bytes) = (SocketAddr::from((Ipv4Addr::LOCALHOST, from)), Bytes::copy_from_slice(bytes));
        for _ in 0..copies {
            let (network, bytes, latency) = (self.clone(), bytes.clone(), self.latency());
            actix_rt::spawn(async move {
                sleep(latency).await;
                network.deliver(from, to.port(), bytes);
            });
        }
    }

    fn deliver(&self, from: SocketAddr, to: u16, bytes: Bytes) {
        // A datagram to a port that is closed is lost.
        if let Some(inbox) = self.0.inboxes.borrow_mut().get_mut(&to) {
            inbox.datagrams.push_back((from, bytes));
            inbox.reader.take().into_iter().for_each(Waker::wake);
        }
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        NETWORK.take();
    }
}

impl Link {
    fn pipes(&self) -> Vec<Rc<Pipe>> {
        self.pipes.borrow_mut().retain(|pipe| pipe.strong_count() > 0);
        self.pipes.borrow().iter().filter_map(Weak::upgrade).collect()
    }
}

/// Whether the thread has a simulated network.
pub(crate) fn is_simulated() -> bool {
    Network::current().is_some()
}

// Streams

/// One direction of a connection.
struct Pipe {
    link: Rc<Link>,
    state: RefCell<PipeState>,
}

struct PipeState {
    /// With the time of arrival.
    pieces: VecDeque<(Instant, Bytes)>,
    last_arrival: Instant,
    is_ended: bool,
    is_reset: bool,
    has_reader: bool,
    reader: Option<Waker>,
}

impl Pipe {
    fn new(link: &Rc<Link>) -> Rc<Self> {
        let state = PipeState {
            pieces: VecDeque::new(),
            last_arrival: Instant::now(),
            is_ended: false,
            is_reset: false,
            has_reader: true,
            reader: None,
        };
        let pipe = Rc::new(Pipe { link: link.clone(), state: RefCell::new(state) });
        link.pipes.borrow_mut().push(Rc::downgrade(&pipe));
        pipe
    }

    fn wake(&self) {
        let reader = self.state.borrow_mut().reader.take();
        reader.into_iter().for_each(Waker::wake);
    }

    /// What arrives in order, after what was written before.
    fn arrive(&self, latency: Duration) -> Instant {
        let mut state = self.state.borrow_mut();
        state.last_arrival = state.last_arrival.max(Instant::now() + latency);
        state.last_arrival
    }

    fn write(&self, latency: Duration, bytes: &[u8]) -> io::Result<usize> {
        let arrival = self.arrive(latency);
        let mut state = self.state.borrow_mut();
        if state.is_reset {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if state.is_ended || !state.has_reader && !self.link.is_cut.get() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        state.pieces.push_back((arrival, Bytes::copy_from_slice(bytes)));
        drop(state);
        self.wake();
        Ok(bytes.len())
    }

    fn end(&self, latency: Duration) {
        self.arrive(latency);
        self.state.borrow_mut().is_ended = true;
        self.wake();
    }

    /// Reads what has arrived. Otherwise gives the time of the next arrival, if that is known.
    fn read(&self, cx: &Context<'_>, buffer: &mut ReadBuf<'_>) -> Result<io::Result<()>, Option<Instant>> {
        let mut state = self.state.borrow_mut();
        if state.is_reset {
            return Ok(Err(io::ErrorKind::ConnectionReset.into()));
        }
        state.reader = Some(cx.waker().clone());
        if self.link.is_cut.get() {
            return Err(None);
        }
        let end = state.is_ended.then_some(state.last_arrival);
        let due = state.pieces.front().map(|(arrival, _)| *arrival).or(end).ok_or(None)?;
        if due > Instant::now() {
            return Err(Some(due));
        }
        // At the end there is no piece, and an empty read says so.
        if let Some((_, bytes)) = state.pieces.front_mut() {
            buffer.put_slice(&bytes.split_to(buffer.remaining().min(bytes.len())));
            if bytes.is_empty() {
                state.pieces.pop_front();
            }
        }
        Ok(Ok(()))
    }
}

/// One end of a simulated connection.
pub struct Simulated {
    network: Network,
    reads: Rc<Pipe>,
    writes: Rc<Pipe>,
    timer: Option<Pin<Box<Sleep>>>,
    peer: SocketAddr,
}

impl Simulated {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            match self.reads.read(cx, buffer) {
                Ok(read) => return Poll::Ready(read),
                Err(None) => return Poll::Pending,
                Err(Some(arrival)) => {
                    let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(arrival)));
                    if timer.deadline() != arrival {
                        timer.as_mut().reset(arrival);
                    }
                    ready!(timer.as_mut().poll(cx));
                }
            }
        }
    }
}

impl Drop for Simulated {
    fn drop(&mut self) {
        self.reads.state.borrow_mut().has_reader = false;
        self.writes.end(self.network.latency());
    }
}

/// A connection of the system or a simulated one.
pub enum TcpStream {
    System(net::TcpStream),
    Simulated(Simulated),
}

impl TcpStream {
    pub(crate) async fn connect(to: SocketAddr) -> io::Result<Self> {
        match Network::current() {
            Some(network) => network.connect(to).await,
            None => net::TcpStream::connect(to).await.map(TcpStream::System),
        }
    }

    #[cfg(test)]
    pub(crate) fn peer_addr(&self) -> io::Result<SocketAddr> {
        match self {
            TcpStream::System(stream) => stream.peer_addr(),
            TcpStream::Simulated(stream) => Ok(stream.peer),
        }
    }

    /// Closes a simulated connection in both directions, whoever owns it.
    #[cfg(feature = "embedded")]
    pub(crate) fn closer(&self) -> Option<Box<dyn FnOnce()>> {
        let TcpStream::Simulated(stream) = self else { return None };
        let (reads, writes, latency) = (stream.reads.clone(), stream.writes.clone(), stream.network.latency());
        Some(Box::new(move || {
            reads.end(Duration::ZERO);
            writes.end(latency);
        }))
    }
}

impl fmt::Debug for TcpStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TcpStream::System(stream) => stream.fmt(f),
            TcpStream::Simulated(stream) => f.debug_tuple("Simulated").field(&stream.peer).finish(),
        }
    }
}

impl AsyncRead for TcpStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            TcpStream::System(stream) => Pin::new(stream).poll_read(cx, buffer),
            TcpStream::Simulated(stream) => stream.poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for TcpStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            TcpStream::System(stream) => Pin::new(stream).poll_write(cx, bytes),
            TcpStream::Simulated(stream) => Poll::Ready(stream.writes.write(stream.network.latency(), bytes)),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            TcpStream::System(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
            TcpStream::Simulated(stream) => Poll::Ready(stream.writes.write(
                stream.network.latency(),
                &parts.iter().flat_map(|part| part.iter().copied()).collect::<Vec<_>>(),
            )),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            TcpStream::System(stream) => Pin::new(stream).poll_flush(cx),
            TcpStream::Simulated(_) => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            TcpStream::System(stream) => Pin::new(stream).poll_shutdown(cx),
            TcpStream::Simulated(stream) => {
                stream.writes.end(stream.network.latency());
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl ActixStream for TcpStream {
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        match self {
            TcpStream::System(stream) => ActixStream::poll_read_ready(stream, cx),
            TcpStream::Simulated(_) => Poll::Ready(Ok(Ready::ALL)),
        }
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        match self {
            TcpStream::System(stream) => ActixStream::poll_write_ready(stream, cx),
            TcpStream::Simulated(_) => Poll::Ready(Ok(Ready::ALL)),
        }
    }
}

/// Accepts simulated connections until it is dropped.
pub struct TcpListener {
    network: Network,
    port: u16,
    accepted: mpsc::UnboundedReceiver<TcpStream>,
}

impl TcpListener {
    /// `None` without a simulated network.
    pub(crate) fn bind(address: SocketAddr) -> Option<io::Result<(Self, SocketAddr)>> {
        let network = Network::current()?;
        let port = network.free_port(address.port());
        if network.0.listeners.borrow().contains_key(&port) {
            return Some(Err(io::ErrorKind::AddrInUse.into()));
        }
        let (accepted_tx, accepted) = mpsc::unbounded_channel();
        network.0.listeners.borrow_mut().insert(port, accepted_tx);
        Some(Ok((TcpListener { network, port, accepted }, (address.ip(), port).into())))
    }

    pub(crate) async fn accept(&mut self) -> Option<TcpStream> {
        self.accepted.recv().await
    }
}

impl Drop for TcpListener {
    fn drop(&mut self) {
        self.network.0.listeners.borrow_mut().remove(&self.port);
    }
}

// Datagrams

/// A socket of the standard library or a simulated port.
#[derive(Debug)]
pub enum StdUdpSocket {
    System(std::net::UdpSocket),
    Simulated(SocketAddr),
}

impl StdUdpSocket {
    pub(crate) fn bind(address: impl Into<SocketAddr>) -> io::Result<Self> {
        let address = address.into();
        let Some(network) = Network::current() else {
            return std::net::UdpSocket::bind(address).map(StdUdpSocket::System);
        };
        let port = network.free_port(address.port());
        network.0.inboxes.borrow_mut().insert(port, Inbox::default());
        Ok(StdUdpSocket::Simulated((address.ip(), port).into()))
    }

    pub(crate) fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        match self {
            StdUdpSocket::System(socket) => socket.set_nonblocking(nonblocking),
            StdUdpSocket::Simulated(_) => Ok(()),
        }
    }

    #[cfg(feature = "embedded")]
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            StdUdpSocket::System(socket) => socket.local_addr(),
            StdUdpSocket::Simulated(address) => Ok(*address),
        }
    }

    #[cfg(feature = "embedded")]
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        match self {
            StdUdpSocket::System(socket) => socket.try_clone().map(StdUdpSocket::System),
            StdUdpSocket::Simulated(address) => Ok(StdUdpSocket::Simulated(*address)),
        }
    }

    #[cfg(feature = "embedded")]
    pub(crate) fn send_to(&self, bytes: &[u8], to: SocketAddr) -> io::Result<usize> {
        match self {
            StdUdpSocket::System(socket) => socket.send_to(bytes, to),
            StdUdpSocket::Simulated(address) => {
                Network::current().into_iter().for_each(|network| network.send(address.port(), to, bytes));
                Ok(bytes.len())
            }
        }
    }
}

/// A socket of tokio or a simulated port, which is closed with it.
#[derive(Debug)]
pub enum UdpSocket {
    System(net::UdpSocket),
    Simulated(SocketAddr),
}

impl UdpSocket {
    pub(crate) fn from_std(socket: StdUdpSocket) -> io::Result<Self> {
        match socket {
            StdUdpSocket::System(socket) => net::UdpSocket::from_std(socket).map(UdpSocket::System),
            StdUdpSocket::Simulated(address) => Ok(UdpSocket::Simulated(address)),
        }
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            UdpSocket::System(socket) => socket.local_addr(),
            UdpSocket::Simulated(address) => Ok(*address),
        }
    }

    pub(crate) async fn send_to(&self, bytes: &[u8], to: SocketAddr) -> io::Result<usize> {
        match self {
            UdpSocket::System(socket) => socket.send_to(bytes, to).await,
            UdpSocket::Simulated(address) => {
                Network::current().into_iter().for_each(|network| network.send(address.port(), to, bytes));
                Ok(bytes.len())
            }
        }
    }

    pub(crate) async fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        match self {
            UdpSocket::System(socket) => socket.recv_from(buffer).await,
            UdpSocket::Simulated(address) => {
                let (from, bytes) = future::poll_fn(|cx| receive(address.port(), cx)).await;
                buffer[..bytes.len()].copy_from_slice(&bytes);
                Ok((bytes.len(), from))
            }
        }
    }
}

fn receive(port: u16, cx: &Context<'_>) -> Poll<(SocketAddr, Bytes)> {
    let Some(network) = Network::current() else { return Poll::Pending };
    let mut inboxes = network.0.inboxes.borrow_mut();
    let Some(inbox) = inboxes.get_mut(&port) else { return Poll::Pending };
    match inbox.datagrams.pop_front() {
        Some(datagram) => Poll::Ready(datagram),
        None => {
            inbox.reader = Some(cx.waker().clone());
            Poll::Pending
        }
    }
}

impl Drop for UdpSocket {
    fn drop(&mut self) {
        if let (UdpSocket::Simulated(address), Some(network)) = (self, Network::current()) {
            network.0.inboxes.borrow_mut().remove(&address.port());
        }
    }
}
