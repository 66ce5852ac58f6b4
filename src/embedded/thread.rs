//! The thread of the server, with its actix System, its timer and its sockets.
//!
//! The thread lives as long as [`EmbeddedServer`](super::EmbeddedServer). The HTTP server in it is made anew by
//! each restart; the UDP socket, the timer and the state stay. Commands are executed one after the other.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{atomic::Ordering, mpsc, Arc},
    thread::JoinHandle,
    time::Duration,
};

use actix_web::rt::{self, time::Instant};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::runtime::sockets::{self, StdUdpSocket, UdpSocket};

use super::{
    http::{self, Listening},
    shared::{Command, Shared},
};

/// How long a restart tries to bind its port, which connections of the previous era may still occupy.
const BIND_TIMEOUT: Duration = Duration::from_secs(2);

/// How long to wait for connections to close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Starts the thread and returns when the server listens. A simulation has only the caller's thread.
pub(crate) fn start(
    shared: Arc<Shared>,
    port: u16,
    pushes: StdUdpSocket,
    commands: UnboundedReceiver<Command>,
) -> io::Result<(SocketAddr, Option<JoinHandle<()>>)> {
    let wanted = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    if sockets::is_simulated() {
        let (listening, address) = http::serve(shared.clone(), wanted)?;
        rt::spawn(run(shared, listening, address, pushes, commands));
        return Ok((address, None));
    }
    let (listening_tx, listening_rx) = mpsc::channel();
    let thread = std::thread::Builder::new().name("embedded-nacos".into()).spawn(move || {
        rt::System::new().block_on(async move {
            match http::serve(shared.clone(), wanted) {
                Ok((listening, address)) => {
                    let _ = listening_tx.send(Ok(address));
                    run(shared, listening, address, pushes, commands).await;
                }
                Err(error) => drop(listening_tx.send(Err(error))),
            }
        });
    })?;
    match listening_rx.recv() {
        Ok(Ok(address)) => Ok((address, Some(thread))),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(io::Error::other("the thread of the embedded server ended before it listened")),
    }
}

/// Runs the server until [`Command::End`].
async fn run(
    shared: Arc<Shared>,
    listening: Listening,
    address: SocketAddr,
    pushes: StdUdpSocket,
    mut commands: UnboundedReceiver<Command>,
) {
    let timer = rt::spawn(run_timer(shared.clone()));
    let acknowledgements = rt::spawn(receive_acknowledgements(shared.clone(), pushes));
    let mut listener = Listener { shared, address, listening: Some(listening) };
    while let Some(command) = commands.recv().await {
        if listener.handle_command(command).await.is_break() {
            break;
        }
    }
    listener.stop().await;
    timer.abort();
    acknowledgements.abort();
}

/// The HTTP server of the current era. Its address stays the same.
struct Listener {
    shared: Arc<Shared>,
    address: SocketAddr,
    /// `None` while connections are refused.
    listening: Option<Listening>,
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
        if self.listening.is_none() {
            self.listening = Some(listen_again(&self.shared, self.address).await?);
            self.shared.with(|state| state.pushes.resume());
        }
        Ok(())
    }

    /// Closes the port and all connections, also those with a request under way.
    async fn stop(&mut self) {
        let Some(listening) = self.listening.take() else { return };
        self.shared.era.fetch_add(1, Ordering::AcqRel);
        self.shared.with(|state| state.pause_pushes());
        listening.stop().await;
        // The worker ends on a thread of its own, which cannot be joined.
        let deadline = Instant::now() + CLOSE_TIMEOUT;
        while self.shared.open_connections.load(Ordering::Acquire) > 0 && Instant::now() < deadline {
            rt::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Tries until the sockets of the previous era have left the port.
async fn listen_again(shared: &Arc<Shared>, address: SocketAddr) -> io::Result<Listening> {
    let deadline = Instant::now() + BIND_TIMEOUT;
    loop {
        match http::serve(shared.clone(), address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                rt::time::sleep(Duration::from_millis(10)).await;
            }
            listening => return listening.map(|(listening, _)| listening),
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
async fn receive_acknowledgements(shared: Arc<Shared>, socket: StdUdpSocket) {
    let Ok(socket) = UdpSocket::from_std(socket) else { return };
    let mut datagram = vec![0; 64 * 1024];
    loop {
        // An error belongs to an earlier send to a port that is closed.
        if let Ok((length, from)) = socket.recv_from(&mut datagram).await {
            shared.with(|state| state.acknowledge(from, &datagram[..length]));
        }
    }
}
