//! The thread of the server, with its actix System, its timer and its sockets.
//!
//! The thread lives as long as [`EmbeddedServer`](super::EmbeddedServer). The HTTP server in it is made anew by
//! each restart; the UDP socket, the timer and the state stay. Commands are obeyed one after the other.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{atomic::Ordering, mpsc, Arc},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use actix_web::{dev::ServerHandle, rt};
use tokio::sync::mpsc::UnboundedReceiver;

use super::{
    http,
    shared::{Command, Shared},
};

/// How long a restart tries to bind its port, which connections of the previous era may still occupy.
const BIND_TIMEOUT: Duration = Duration::from_secs(2);

/// How long to wait for connections to close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Starts the thread and returns when the server listens.
///
/// # Errors
/// The error of binding the port or of starting the thread. No thread is left then.
pub(crate) fn start(
    shared: Arc<Shared>,
    port: u16,
    pushes: UdpSocket,
    commands: UnboundedReceiver<Command>,
) -> io::Result<(SocketAddr, JoinHandle<()>)> {
    let (listening_tx, listening_rx) = mpsc::channel();
    let thread = std::thread::Builder::new().name("embedded-nacos".into()).spawn(move || {
        rt::System::new().block_on(run(shared, port, pushes, commands, listening_tx));
    })?;
    match listening_rx.recv() {
        Ok(Ok(address)) => Ok((address, thread)),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(io::Error::other("the thread of the embedded server ended before it listened")),
    }
}

/// Runs until [`Command::End`]. Tells `listening_tx` the address, or why there is none.
async fn run(
    shared: Arc<Shared>,
    port: u16,
    pushes: UdpSocket,
    mut commands: UnboundedReceiver<Command>,
    listening_tx: mpsc::Sender<io::Result<SocketAddr>>,
) {
    let wanted = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let (handle, address) = match http::serve(shared.clone(), wanted) {
        Ok(listening) => listening,
        Err(error) => return drop(listening_tx.send(Err(error))),
    };
    let timer = rt::spawn(run_timer(shared.clone()));
    let acknowledgements = rt::spawn(receive_acknowledgements(shared.clone(), pushes));
    let _ = listening_tx.send(Ok(address));
    let mut listener = Listener { shared, address, handle: Some(handle) };
    while let Some(command) = commands.recv().await {
        if listener.handle_command(command).await.is_break() {
            break;
        }
    }
    listener.stop().await;
    timer.abort();
    acknowledgements.abort();
}

/// The HTTP server of the present era. Its address stays the same.
struct Listener {
    shared: Arc<Shared>,
    address: SocketAddr,
    /// `None` while connections are refused.
    handle: Option<ServerHandle>,
}

impl Listener {
    async fn handle_command(&mut self, command: Command) -> std::ops::ControlFlow<()> {
        match command {
            Command::StopListening(done) => {
                self.stop().await;
                let _ = done.send(Ok(()));
            }
            Command::ListenAgain(done) => drop(done.send(self.listen().await)),
            Command::Restart(dialect, done) => {
                self.stop().await;
                let downtime = self.shared.with(|state| {
                    state.settings.dialect = dialect.unwrap_or(state.settings.dialect);
                    state.forget_everything();
                    state.settings.restart_downtime
                });
                // A sleep of zero would still last until the timer's next tick.
                if !downtime.is_zero() {
                    rt::time::sleep(downtime).await;
                }
                let _ = done.send(self.listen().await);
            }
            Command::End => return std::ops::ControlFlow::Break(()),
        }
        std::ops::ControlFlow::Continue(())
    }

    /// Listens again. Does nothing if the server listens already.
    ///
    /// # Errors
    /// The port is taken by another program.
    async fn listen(&mut self) -> io::Result<()> {
        if self.handle.is_none() {
            self.handle = Some(listen_again(&self.shared, self.address).await?);
            self.shared.with(|state| state.pushes.resume());
        }
        Ok(())
    }

    /// Closes the port and all connections, also those with a request under way.
    async fn stop(&mut self) {
        let Some(handle) = self.handle.take() else { return };
        self.shared.era.fetch_add(1, Ordering::AcqRel);
        self.shared.with(|state| state.pause_pushes());
        handle.stop(false).await;
        // The worker ends on a thread of its own, which cannot be joined.
        let deadline = Instant::now() + CLOSE_TIMEOUT;
        while self.shared.open_connections.load(Ordering::Acquire) > 0 && Instant::now() < deadline {
            rt::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Tries until the sockets of the previous era have left the port.
async fn listen_again(shared: &Arc<Shared>, address: SocketAddr) -> io::Result<ServerHandle> {
    let deadline = Instant::now() + BIND_TIMEOUT;
    loop {
        match http::serve(shared.clone(), address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                rt::time::sleep(Duration::from_millis(10)).await;
            }
            listening => return listening.map(|(handle, _)| handle),
        }
    }
}

/// Handles events when they are due.
async fn run_timer(shared: Arc<Shared>) {
    loop {
        let wait = shared.with(|state| {
            state.do_what_is_due();
            state.agenda.next_due().and_then(|due| state.clock.real_time_until(due))
        });
        match wait {
            Some(wait) => {
                let _ = rt::time::timeout(wait, shared.due_earlier.notified()).await;
            }
            None => shared.due_earlier.notified().await,
        }
    }
}

/// Takes acknowledgements from the socket that pushes are sent from.
async fn receive_acknowledgements(shared: Arc<Shared>, socket: UdpSocket) {
    let Ok(socket) = rt::net::UdpSocket::from_std(socket) else { return };
    let mut datagram = vec![0; 64 * 1024];
    loop {
        // An error belongs to an earlier send to a port that is closed.
        if let Ok((length, from)) = socket.recv_from(&mut datagram).await {
            shared.with(|state| state.acknowledge(from, &datagram[..length]));
        }
    }
}
