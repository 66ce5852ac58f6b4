//! Waiting for a view's lists, without a timer of the caller's own.

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
    /// # Errors
    /// [`Error::Stopped`] if the Registry has ended before.
    pub async fn ready(&self) -> Result<(), Error> {
        self.shared.until(|shared| shared.is_ready().then_some(())).await
    }

    /// Waits until the first list has come, but not longer than `limit`. The time is kept in the Registry's thread:
    /// the caller needs no timer of its own.
    ///
    /// # Errors
    /// [`Error::Timeout`] after `limit`; [`Error::Stopped`] if the Registry has ended before.
    pub async fn ready_within(&self, limit: Duration) -> Result<(), Error> {
        let timeout = || Error::Timeout { operation: Operation::List, server: "the registry".into(), after: limit };
        self.limited(limit, self.ready()).await.unwrap_or_else(|| Err(timeout()))
    }

    /// Waits until an instance can be called, not only until a list has come, and not longer than `limit`. The time is kept
    /// in the Registry's thread: the caller needs no timer of its own.
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
    /// # Errors
    /// [`Error::NoInstance`] after `limit`, at once for a view with a [fixed](ServiceView::fixed) list; [`Error::Stopped`] if
    /// the Registry has ended before.
    pub async fn available_within(&self, limit: Duration) -> Result<(), Error> {
        let available = self.shared.until(|shared| shared.list.load().can_be_called().then_some(()));
        self.limited(limit, available).await.unwrap_or_else(|| Err(self.no_instance()))
    }

    /// As [`available_within`](ServiceView::available_within), for a plain thread, which sleeps meanwhile. Do not call it in a
    /// thread that runs an arbiter or another runtime: see [`block_on`].
    ///
    /// # Errors
    /// As [`available_within`](ServiceView::available_within).
    pub fn available_blocking(&self, limit: Duration) -> Result<(), Error> {
        block_on(self.available_within(limit))
    }

    /// Waits for a list that this view has not told of yet. A view that was made before the first list tells of that
    /// one, a later view starts from what there is, and a clone from what its original has told. Several lists in
    /// between are told once. A list in which nothing has changed that the view shows is not told. When it returns,
    /// [`is_stale`](ServiceView::is_stale) already speaks of the new list.
    ///
    /// # Errors
    /// [`Error::Stopped`] once the Registry has ended: there will be no other list.
    pub async fn changed(&mut self) -> Result<(), Error> {
        let seen = self.seen;
        self.seen = self.shared.until(|shared| Some(shared.version()).filter(|version| *version != seen)).await?;
        Ok(())
    }

    /// None when the time is over; at once if nobody keeps the time and the answer is not there yet.
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
        // Held any longer, it would hide the writer's end from the clock.
        drop(clock);
        match select(answer, over_rx).await {
            Either::Left((answer, _)) => Some(answer),
            // The writer's end drops the clock: whatever the answer is, it is known by now.
            Either::Right((Err(_), answer)) => Some(answer.await),
            Either::Right((Ok(()), _)) => None,
        }
    }
}

/// Waits until `look` finds something, looking again whenever `bell` rings.
pub(super) async fn wait<T>(bell: &Notify, look: impl Fn() -> Option<T>) -> T {
    loop {
        // Made before the look, it hears every ring since.
        let ring = bell.notified();
        if let Some(found) = look() {
            return found;
        }
        ring.await;
    }
}

/// By which a view asks for the time to be kept.
pub(super) type Clock = mpsc::WeakUnboundedSender<Deadline>;

/// Keeps the time of all views of one subscription.
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

/// The end of one caller's patience.
#[derive(Debug)]
pub(super) struct Deadline {
    limit: Duration,
    over_tx: oneshot::Sender<()>,
}

impl Deadline {
    /// Ends early when the caller waits no longer.
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
