//! What the server's thread, its HTTP worker and the handles of the application have in common.

use std::{
    io,
    sync::{
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc, Arc, Mutex, MutexGuard, PoisonError,
    },
    time::Duration,
};

use tokio::sync::{mpsc::UnboundedSender, Notify};

use super::{
    dialect::Dialect,
    faults::{IdleTimeouts, Orders},
    state::State,
};

pub(crate) struct Shared {
    state: Mutex<State>,
    orders: Arc<Mutex<Orders>>,
    /// Of connections, where no fault orders others.
    idle_timeout: Duration,
    /// Wakes what a fault lets hang.
    pub(crate) orders_changed: Notify,
    /// Wakes the timer: something falls due earlier than it thinks.
    pub(crate) due_earlier: Notify,
    commands: UnboundedSender<Command>,
    /// Counts how often the server has begun to listen: connections of earlier times are dead, even while their
    /// worker still winds up.
    pub(crate) era: AtomicU64,
    pub(crate) open_connections: AtomicUsize,
}

/// What the server's thread is told to do. It answers when it has done so.
pub(crate) enum Command {
    StopListening(mpsc::Sender<io::Result<()>>),
    ListenAgain(mpsc::Sender<io::Result<()>>),
    /// Closes all connections, loses everything, and listens again.
    Restart(Option<Dialect>, mpsc::Sender<io::Result<()>>),
    End,
}

impl Shared {
    pub(crate) fn new(state: State, orders: Arc<Mutex<Orders>>, commands: UnboundedSender<Command>) -> Self {
        Shared {
            idle_timeout: state.settings.idle_timeout,
            state: Mutex::new(state),
            orders,
            orders_changed: Notify::new(),
            due_earlier: Notify::new(),
            commands,
            era: AtomicU64::new(0),
            open_connections: AtomicUsize::new(0),
        }
    }

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

    /// To be taken after the state, if both are needed.
    pub(crate) fn orders(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn idle_timeouts(&self) -> IdleTimeouts {
        self.orders().idle_timeouts.unwrap_or(IdleTimeouts::always(self.idle_timeout))
    }

    /// The timeouts in force, and one of them for a connection that becomes idle now.
    pub(crate) fn draw_idle_timeout(&self) -> (IdleTimeouts, Duration) {
        let timeouts = self.idle_timeouts();
        (timeouts, self.orders().draw(timeouts))
    }

    pub(crate) fn is_over(&self, era: u64) -> bool {
        self.era.load(Ordering::Acquire) != era
    }

    /// A server that has ended has stopped listening anyway.
    pub(crate) fn stop_listening(&self) {
        let _ = self.command(Command::StopListening);
    }

    pub(crate) fn listen_again(&self) {
        let _ = self.command(Command::ListenAgain);
    }

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
        done_rx.recv().map_err(|_| ended())?
    }
}
