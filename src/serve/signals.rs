//! SIGTERM and Ctrl-C.
//!
//! A process has one handler per signal, so this state belongs to the process and not to a Registry. A separate thread
//! receives the signals, so that a handler of the application that blocks a runtime does not prevent the end of the
//! process.
//!
//! The first signal belongs to the services that are running: it is stored, and each of them goes offline. Every
//! further one ends the process at once, with the exit code that shells expect (128 + the signal's number). So a
//! drain can always be cut short by a second Ctrl-C.

use std::{
    io,
    process::exit,
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc, LazyLock, Mutex, PoisonError,
    },
    thread,
};

use tokio::sync::watch;

static STATE: LazyLock<State> = LazyLock::new(|| State {
    serving: AtomicUsize::new(0),
    first: watch::channel(None).0,
    is_listening: Mutex::new(false),
});

/// The handlers are installed by the first service and are never removed: a process cannot go back to the default
/// handling by means of tokio. [`received`] does what the default would do.
struct State {
    /// The number of services that the first signal takes offline.
    serving: AtomicUsize,
    /// The name of the first signal, once it has arrived.
    first: watch::Sender<Option<&'static str>>,
    is_listening: Mutex<bool>,
}

/// The signals for one service. After its end, signals end the process, unless another service is running.
///
/// `serve` of two servers in one process takes both offline by one signal.
pub(super) struct Signals(watch::Receiver<Option<&'static str>>);

/// Reserves the first signal for this service. Every later signal ends the process, as it does without a handler.
///
/// # Errors
/// The error of the system, if a handler cannot be installed or no thread can be started.
pub(super) fn listen() -> io::Result<Signals> {
    let mut is_listening = STATE.is_listening.lock().unwrap_or_else(PoisonError::into_inner);
    if !*is_listening {
        start_listening()?;
        *is_listening = true;
    }
    STATE.serving.fetch_add(1, Ordering::SeqCst);
    Ok(Signals(STATE.first.subscribe()))
}

impl Signals {
    /// Waits for the first signal and returns its name.
    pub(super) async fn first(&mut self) -> &'static str {
        let first = self.0.wait_for(Option::is_some).await.ok().and_then(|first| *first);
        match first {
            Some(name) => name,
            // Cannot happen: the sender is never dropped.
            None => std::future::pending().await,
        }
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        STATE.serving.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Returns when the handlers are installed, so that no signal is missed.
fn start_listening() -> io::Result<()> {
    let (ready, is_ready) = mpsc::channel();
    let take = move || match actix_rt::Runtime::new() {
        Ok(runtime) => runtime.block_on(take_signals(ready)),
        Err(error) => drop(ready.send(Err(error))),
    };
    thread::Builder::new().name("nacos-signals".into()).spawn(take)?;
    is_ready.recv().unwrap_or_else(|_| Err(io::Error::other("the thread that takes signals ended at once")))
}

#[cfg(unix)]
async fn take_signals(ready: mpsc::Sender<io::Result<()>>) {
    use actix_rt::signal::unix::{signal, SignalKind};
    use futures_util::{future::select, pin_mut};

    let streams =
        signal(SignalKind::interrupt()).and_then(|one| signal(SignalKind::terminate()).map(|other| (one, other)));
    let (mut interrupts, mut terminates) = match streams {
        Ok(streams) => streams,
        Err(error) => return drop(ready.send(Err(error))),
    };
    let _ = ready.send(Ok(()));
    loop {
        let (interrupt, terminate) = (interrupts.recv(), terminates.recv());
        pin_mut!(interrupt, terminate);
        match select(interrupt, terminate).await {
            futures_util::future::Either::Left(_) => received("SIGINT", 130),
            futures_util::future::Either::Right(_) => received("SIGTERM", 143),
        }
    }
}

#[cfg(not(unix))]
async fn take_signals(ready: mpsc::Sender<io::Result<()>>) {
    let _ = ready.send(Ok(()));
    while actix_rt::signal::ctrl_c().await.is_ok() {
        received("Ctrl-C", 130);
    }
}

/// Ends the process with `code`, unless a service is waiting for its first signal.
fn received(name: &'static str, code: i32) {
    if STATE.first.borrow().is_some() || STATE.serving.load(Ordering::SeqCst) == 0 {
        exit(code);
    }
    STATE.first.send_replace(Some(name));
}
