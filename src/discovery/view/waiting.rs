//! Waits for a view's lists. The caller needs no timer.
//!
//! A view may be used in a thread without any runtime, where no timer exists. So a waiting view sends its
//! [`Deadline`] to the [`Timekeeper`], which runs in the Registry's thread, and is told when it is over.

use std::{
    cell::Cell,
    future::{poll_fn, Future},
    pin::pin,
    task::Poll,
    time::Duration,
};

use actix_rt::time::sleep;
use futures_util::{
    future::{poll_immediate, select, Either},
    stream::{FuturesUnordered, StreamExt},
};
use tokio::sync::{mpsc, oneshot, Notify};

use super::ServiceView;
use crate::{
    error::{Error, Operation},
    runtime::blocking::block_on,
};

impl ServiceView {
    /// Waits until the first list has come.
    ///
    /// A service that does not exist has an empty list, which counts. Without a time limit this waits as long as no
    /// server answers: prefer [`ready_within`](Self::ready_within).
    ///
    /// # Errors
    /// [`Error::Stopped`] if the Registry has ended before.
    pub async fn ready(&self) -> Result<(), Error> {
        self.shared.until(|shared| shared.is_ready().then_some(())).await
    }

    /// Waits until the first list has come, but not longer than `limit`. The timer runs in the Registry's thread, so
    /// this works under any runtime.
    ///
    /// Returns at once if there is a list already, also a stale one from the disk cache.
    ///
    /// # Errors
    /// [`Error::Timeout`] after `limit`; [`Error::Stopped`] if the Registry has ended before.
    pub async fn ready_within(&self, limit: Duration) -> Result<(), Error> {
        let timeout = || Error::Timeout { operation: Operation::List, server: "the registry".into(), after: limit };
        self.limited(limit, self.ready()).await.unwrap_or_else(|| Err(timeout()))
    }

    /// Waits until an instance can be called, but not longer than `limit`. An empty list is not enough. The timer runs
    /// in the Registry's thread, so this works under any runtime.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use actix_nacos::{Error, Instance, ServiceName, ServiceView};
    ///
    /// # #[actix::main]
    /// # async fn main() -> Result<(), Error> {
    /// let (view, control) = ServiceView::controlled(ServiceName::parse("orders")?);
    /// control.publish([]);
    /// let waited = view.available_within(Duration::from_millis(10)).await;
    /// assert!(matches!(waited, Err(Error::NoInstance { listed: 0, .. })));
    /// control.publish([Instance::new("127.0.0.7", 8080)]);
    /// view.available_within(Duration::from_secs(5)).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Instances that are only ejected count as callable, since one of them would be chosen.
    ///
    /// # Errors
    /// [`Error::NoInstance`] after `limit`, and at once for a view with a [fixed](ServiceView::fixed) list;
    /// [`Error::Stopped`] if the Registry has ended before.
    pub async fn available_within(&self, limit: Duration) -> Result<(), Error> {
        let available = self.shared.until(|shared| shared.list.load().can_be_called().then_some(()));
        self.limited(limit, available).await.unwrap_or_else(|| Err(self.no_instance()))
    }

    /// Like [`available_within`](ServiceView::available_within), but blocks a plain thread. Do not call it in a thread
    /// that runs an arbiter or another runtime: see [`block_on`].
    ///
    /// Use it in `main` before the application starts.
    ///
    /// # Errors
    /// As [`available_within`](ServiceView::available_within).
    pub fn available_blocking(&self, limit: Duration) -> Result<(), Error> {
        block_on(self.available_within(limit))
    }

    /// Waits for a list that is newer than the last one this method returned for. A view that was made before the first
    /// list waits for the first list. A later view starts from the present list, and a clone from the list of its
    /// original. Several lists in between count as one change. A list that shows nothing new to this view is no change.
    /// When the method returns, [`is_stale`](ServiceView::is_stale) already refers to the new list.
    ///
    /// Cancelling the wait loses nothing: the next call returns for the same list.
    ///
    /// ```
    /// use actix_nacos::{Instance, ServiceName, ServiceView};
    ///
    /// # #[actix::main]
    /// # async fn main() -> Result<(), actix_nacos::Error> {
    /// let (mut view, control) = ServiceView::controlled(ServiceName::parse("orders")?);
    /// control.publish([Instance::new("127.0.0.7", 8080)]);
    /// view.changed().await?; // the first list
    /// control.publish([]);
    /// view.changed().await?;
    /// assert!(view.instances().is_empty());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Stopped`] once the Registry has ended: there will be no other list.
    pub async fn changed(&mut self) -> Result<(), Error> {
        let seen = self.seen;
        self.seen = self.shared.until(|shared| Some(shared.version()).filter(|version| *version != seen)).await?;
        Ok(())
    }

    /// Returns `None` after `limit`. A view without a clock returns `None` at once if there is no answer yet.
    async fn limited(
        &self,
        limit: Duration,
        answer: impl Future<Output = Result<(), Error>>,
    ) -> Option<Result<(), Error>> {
        let mut answer = pin!(answer);
        if let Some(answered) = poll_immediate(answer.as_mut()).await {
            return Some(answered);
        }
        let clock = self.clock.as_ref()?;
        let (over_tx, over_rx) = oneshot::channel();
        let Some(clock) = clock.upgrade() else { return Some(answer.await) };
        let _ = clock.send(Deadline { limit, over_tx });
        // Drop the sender here: it would keep the clock's channel open after the writer's end.
        drop(clock);
        match select(answer, over_rx).await {
            Either::Left((answer, _)) => Some(answer),
            // The clock was dropped because the writer ended, so the answer is ready.
            Either::Right((Err(_), answer)) => Some(answer.await),
            Either::Right((Ok(()), _)) => None,
        }
    }
}

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
pub(super) type Clock = mpsc::WeakUnboundedSender<Deadline>;

/// Runs the timers of all views of one subscription.
pub(super) struct Timekeeper {
    clock_tx: mpsc::UnboundedSender<Deadline>,
    /// Until `run` takes it.
    clock_rx: Cell<Option<mpsc::UnboundedReceiver<Deadline>>>,
}

impl Timekeeper {
    pub(super) fn new() -> Self {
        let (clock_tx, clock_rx) = mpsc::unbounded_channel();
        Timekeeper { clock_tx, clock_rx: Cell::new(Some(clock_rx)) }
    }

    pub(super) fn clock(&self) -> Clock {
        self.clock_tx.downgrade()
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
pub(super) struct Deadline {
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
