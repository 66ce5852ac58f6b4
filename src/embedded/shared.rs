//! The data that the server's thread, its HTTP worker and the application's handles share.
//!
//! | who | does what |
//! |---|---|
//! | the server's thread | runs the timer, receives acknowledgements, executes [`Command`]s |
//! | the HTTP worker | serves requests |
//! | handles, in any thread | read the state, set faults, send commands |
//!
//! All of them work on the state under one mutex, for microseconds, and never wait while they hold it. Restarting
//! and stopping the listener need the thread that owns it; they are commands, and the caller blocks until they are
//! done.

use std::{
    io,
    sync::{
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc, Arc, Mutex, MutexGuard, PoisonError,
    },
    time::Duration,
};

use tokio::sync::{mpsc::UnboundedSender, Notify};

use crate::runtime::sockets;

use super::{
    active_faults::{ActiveFaults, IdleTimeouts},
    dialect::Dialect,
    state::State,
};

/// Lock order: the state before the faults.
pub(crate) struct Shared {
    state: Mutex<State>,
    faults: Arc<Mutex<ActiveFaults>>,
    /// The timeout of the settings.
    idle_timeout: Duration,
    /// Wakes everything that depends on the active faults.
    pub(crate) faults_changed: Notify,
    /// Wakes the timer when an event has become due earlier than the timer expects.
    pub(crate) due_earlier: Notify,
    commands: UnboundedSender<Command>,
    /// The number of times that the server began to listen. Connections of an earlier era are dead, even while their
    /// worker still shuts down.
    pub(crate) era: AtomicU64,
    pub(crate) open_connections: AtomicUsize,
}

/// A command to the server's thread, which answers when the command is done.
pub(crate) enum Command {
    StopListening(mpsc::Sender<io::Result<()>>),
    ListenAgain(mpsc::Sender<io::Result<()>>),
    /// Closes all connections, forgets everything, and listens again.
    Restart(Option<Dialect>, mpsc::Sender<io::Result<()>>),
    End,
}

impl Shared {
    pub(crate) fn new(state: State, faults: Arc<Mutex<ActiveFaults>>, commands: UnboundedSender<Command>) -> Self {
        Shared {
            idle_timeout: state.settings.idle_timeout,
            state: Mutex::new(state),
            faults,
            faults_changed: Notify::new(),
            due_earlier: Notify::new(),
            commands,
            era: AtomicU64::new(0),
            open_connections: AtomicUsize::new(0),
        }
    }

    /// Works on the state. Wakes the timer if the next event has become earlier. Must not be called by `work`, because
    /// the state is locked.
    pub(crate) fn with<R>(&self, work: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let due_before = state.agenda.next_due();
        let result = work(&mut state);
        let due_after = state.agenda.next_due();
        drop(state);
        if due_after.is_some_and(|after| due_before.is_none_or(|before| after < before)) {
            self.due_earlier.notify_one();
        }
        result
    }

    /// The active faults. See the lock order of [`Shared`].
    pub(crate) fn faults(&self) -> MutexGuard<'_, ActiveFaults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn idle_timeouts(&self) -> IdleTimeouts {
        self.faults().idle_timeouts.unwrap_or(IdleTimeouts::always(self.idle_timeout))
    }

    /// The current timeouts, and a timeout that is drawn from them for a connection that becomes idle now.
    pub(crate) fn draw_idle_timeout(&self) -> (IdleTimeouts, Duration) {
        let timeouts = self.idle_timeouts();
        (timeouts, self.faults().draw(timeouts))
    }

    /// Requests of an era that is over must not be answered.
    pub(crate) fn is_over(&self, era: u64) -> bool {
        self.era.load(Ordering::Acquire) != era
    }

    /// Ignores an error, because a server that has ended does not listen anyway.
    pub(crate) fn stop_listening(&self) {
        let _ = self.command(Command::StopListening);
    }

    pub(crate) fn listen_again(&self) {
        let _ = self.command(Command::ListenAgain);
    }

    /// # Errors
    /// The error of binding the port again, or `NotConnected` if the server has ended.
    pub(crate) fn restart(&self, dialect: Option<Dialect>) -> io::Result<()> {
        self.command(|done| Command::Restart(dialect, done))
    }

    pub(crate) fn end(&self) {
        let _ = self.commands.send(Command::End);
    }

    fn command(&self, command: impl FnOnce(mpsc::Sender<io::Result<()>>) -> Command) -> io::Result<()> {
        let ended = || io::Error::new(io::ErrorKind::NotConnected, "the server has ended");
        let (done_tx, done_rx) = mpsc::channel();
        self.commands.send(command(done_tx)).map_err(|_| ended())?;
        if sockets::is_simulated() {
            // This thread serves the command later.
            return Ok(());
        }
        done_rx.recv().map_err(|_| ended())?
    }
}
