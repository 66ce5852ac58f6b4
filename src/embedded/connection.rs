//! Open connections. An idle connection is closed after a timeout, as Tomcat does.
//!
//! actix-web has a keep-alive timeout, but it is fixed when the server starts, and faults change it while the
//! server runs. So each connection has a task of its own that closes its socket when it has been idle for too long.
//! A connection that has not sent a request yet is idle, too.

use std::{
    any::Any,
    cell::RefCell,
    net::{Shutdown, TcpStream},
    pin::pin,
    rc::Rc,
    sync::{atomic::Ordering, Arc},
    time::Duration,
};

use actix_web::{
    dev::Extensions,
    rt::{self, task::JoinHandle, time::Instant},
};
use futures_util::future::select;
use tokio::sync::Notify;

use crate::config::LONGEST_DURATION;

use super::{active_faults::IdleTimeouts, shared::Shared};

/// Stored in the data of a connection, and dropped with it.
///
/// Counts the connection as open as long as it lives. A restart waits until none is left.
pub(crate) struct OpenConnection {
    shared: Arc<Shared>,
    idle: Rc<Idle>,
    closer: JoinHandle<()>,
}

type Closer = Box<dyn FnOnce()>;

/// The idle state of a connection.
struct Idle {
    state: RefCell<IdleState>,
    /// Wakes the closing task when the deadline is earlier than the task expects.
    earlier: Notify,
}

struct IdleState {
    /// Closes the connection, which actix-web owns.
    close: Option<Closer>,
    /// When the connection became idle. `None` while a request is under way.
    since: Option<Instant>,
    timeouts: IdleTimeouts,
    /// Drawn from `timeouts` whenever the connection becomes idle.
    timeout: Duration,
    /// When the closing task checks again. `None` while it waits for `earlier`.
    looks_at: Option<Instant>,
}

/// Marks a connection as busy until dropped.
///
/// A request holds it from its arrival until its answer is made, so a slow answer does not end the connection.
pub(crate) struct Busy {
    shared: Arc<Shared>,
    idle: Rc<Idle>,
}

impl OpenConnection {
    /// Counts a new connection and starts the task that closes it when it is idle.
    pub(crate) fn accepted(shared: &Arc<Shared>, connection: &dyn Any, data: &mut Extensions) {
        shared.with(|state| state.counters.connections += 1);
        shared.open_connections.fetch_add(1, Ordering::AcqRel);
        let (timeouts, timeout) = shared.draw_idle_timeout();
        let close = closer(connection);
        let state = IdleState { close, since: Some(Instant::now()), timeouts, timeout, looks_at: None };
        let idle = Rc::new(Idle { state: RefCell::new(state), earlier: Notify::new() });
        let closer = rt::spawn(close_when_idle(shared.clone(), idle.clone()));
        data.insert(OpenConnection { shared: shared.clone(), idle, closer });
    }

    /// Marks the connection as busy.
    pub(crate) fn busy(&self) -> Busy {
        self.idle.state.borrow_mut().since = None;
        Busy { shared: self.shared.clone(), idle: self.idle.clone() }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.closer.abort();
        // The task ends later, but the file descriptor must be closed now.
        self.idle.state.borrow_mut().close = None;
        self.shared.open_connections.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut state = self.idle.state.borrow_mut();
        state.since = Some(Instant::now());
        (state.timeouts, state.timeout) = self.shared.draw_idle_timeout();
        let deadline = state.deadline();
        if state.looks_at.is_none_or(|looks_at| deadline.is_some_and(|deadline| deadline < looks_at)) {
            self.idle.earlier.notify_one();
        }
    }
}

impl IdleState {
    /// `None` while a request is under way.
    fn deadline(&self) -> Option<Instant> {
        self.since.map(|since| since + self.timeout)
    }
}

impl Idle {
    /// When to close the connection, by the current timeouts.
    fn next_look(&self, shared: &Shared) -> Option<Instant> {
        let mut state = self.state.borrow_mut();
        if state.timeouts != shared.idle_timeouts() {
            (state.timeouts, state.timeout) = shared.draw_idle_timeout();
        }
        state.looks_at = state.deadline();
        state.looks_at
    }

    /// Shuts the socket down. The client and actix-web then read the end of the stream, and actix-web drops the
    /// connection.
    fn close(&self) {
        if let Some(close) = self.state.borrow_mut().close.take() {
            close();
        }
    }
}

async fn close_when_idle(shared: Arc<Shared>, idle: Rc<Idle>) {
    loop {
        let mut faults_changed = pin!(shared.faults_changed.notified());
        // Enable before reading the faults, so that no change is missed.
        faults_changed.as_mut().enable();
        let looks_at = idle.next_look(&shared);
        let wait = looks_at.map_or(LONGEST_DURATION, |at| at.saturating_duration_since(Instant::now()));
        if wait.is_zero() {
            return idle.close();
        }
        let _ = rt::time::timeout(wait, select(faults_changed, pin!(idle.earlier.notified()))).await;
    }
}

/// A function that closes the connection by a duplicate of its descriptor. `None` if the system refuses; then this
/// connection is never closed for being idle.
fn closer(connection: &dyn Any) -> Option<Closer> {
    #[cfg(feature = "_testing")]
    if let Some(simulated) = connection.downcast_ref::<crate::runtime::sockets::TcpStream>() {
        return simulated.closer();
    }
    let connection = connection.downcast_ref::<rt::net::TcpStream>()?;
    #[cfg(unix)]
    let handle = std::os::fd::AsFd::as_fd(connection).try_clone_to_owned();
    #[cfg(windows)]
    let handle = std::os::windows::io::AsSocket::as_socket(connection).try_clone_to_owned();
    let socket = TcpStream::from(handle.ok()?);
    // An error means that the client has already closed the connection.
    Some(Box::new(move || drop(socket.shutdown(Shutdown::Both))))
}
