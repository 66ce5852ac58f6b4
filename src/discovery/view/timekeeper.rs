//! The timers of waiting views.
//!
//! A view may be used in a thread without a runtime, where no timer exists. So a waiting view sends its [`Deadline`] to
//! the [`Timekeeper`], which runs in the Registry's thread and notifies the view when the time is over.

use std::{
    cell::Cell,
    future::{poll_fn, Future},
    pin::pin,
    task::Poll,
    time::Duration,
};

use actix_rt::time::sleep;
use futures_util::{
    future::{select, Either},
    stream::{FuturesUnordered, StreamExt},
};
use tokio::sync::{mpsc, oneshot, Notify};

/// Waits until `look` finds something. Calls `look` again after every notification of `bell`.
pub(super) async fn wait<T>(bell: &Notify, look: impl Fn() -> Option<T>) -> T {
    loop {
        // Register before calling `look`, so that no notification is missed.
        let ring = bell.notified();
        if let Some(found) = look() {
            return found;
        }
        ring.await;
    }
}

/// The channel by which a view requests a timer.
///
/// Weak, so that views do not keep the Timekeeper running after the writer's end.
#[derive(Clone)]
pub(super) struct Clock(mpsc::WeakUnboundedSender<Deadline>);

impl Clock {
    /// Resolves after `limit`, or with an error when the Timekeeper is dropped before. `None` if it was dropped
    /// already.
    pub(super) fn timer(&self, limit: Duration) -> Option<oneshot::Receiver<()>> {
        let (over_tx, over_rx) = oneshot::channel();
        let _ = self.0.upgrade()?.send(Deadline { limit, over_tx });
        Some(over_rx)
    }
}

/// Runs the timers of all views of one subscription.
pub(super) struct Timekeeper {
    clock_tx: mpsc::UnboundedSender<Deadline>,
    /// `None` after `run` has taken it.
    clock_rx: Cell<Option<mpsc::UnboundedReceiver<Deadline>>>,
}

impl Timekeeper {
    pub(super) fn new() -> Self {
        let (clock_tx, clock_rx) = mpsc::unbounded_channel();
        Timekeeper { clock_tx, clock_rx: Cell::new(Some(clock_rx)) }
    }

    pub(super) fn clock(&self) -> Clock {
        Clock(self.clock_tx.downgrade())
    }

    /// Ends when the Timekeeper is dropped.
    pub(super) fn run(&self) -> impl Future<Output = ()> + 'static {
        let clock_rx = self.clock_rx.take();
        async move {
            let Some(mut clock_rx) = clock_rx else { return };
            let mut running = FuturesUnordered::new();
            poll_fn(|context| {
                while let Poll::Ready(deadline) = clock_rx.poll_recv(context) {
                    let Some(deadline) = deadline else { return Poll::Ready(()) };
                    running.push(deadline.run());
                }
                while let Poll::Ready(Some(())) = running.poll_next_unpin(context) {}
                Poll::Pending
            })
            .await;
        }
    }
}

/// The deadline of one caller.
#[derive(Debug)]
struct Deadline {
    limit: Duration,
    over_tx: oneshot::Sender<()>,
}

impl Deadline {
    /// Ends early if the caller no longer waits.
    async fn run(mut self) {
        let given_up = {
            let over = pin!(sleep(self.limit));
            let caller_left = pin!(self.over_tx.closed());
            matches!(select(over, caller_left).await, Either::Right(_))
        };
        if !given_up {
            let _ = self.over_tx.send(());
        }
    }
}
