//! Waits for a view's lists. The caller needs no timer: the `timekeeper` has one.

use std::{future::Future, pin::pin, time::Duration};

use futures_util::future::{poll_immediate, select, Either};

use super::{list::SharedList, service_view::ServiceView, timekeeper::wait};
use crate::{
    error::{Error, Operation},
    runtime::blocking::block_on,
};

impl ServiceView {
    /// Waits until the first list has come.
    ///
    /// A service that does not exist has an empty list, which counts. This waits for as long as no server answers:
    /// prefer [`ready_within`](Self::ready_within).
    ///
    /// # Errors
    /// [`Error::Stopped`] if the Registry has ended before.
    pub async fn ready(&self) -> Result<(), Error> {
        self.until(|shared| shared.is_ready().then_some(())).await
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
        let available = self.until(|shared| shared.list.load().can_be_called().then_some(()));
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

    /// Waits until the list has changed since the previous call. A view that was made before the first list waits for
    /// the first list. A later view starts from the current list, and a clone from the list of its original. Several
    /// lists in between count as one change. A list that shows nothing new to this view is no change. When the method
    /// returns, [`is_stale`](ServiceView::is_stale) already refers to the new list.
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
        self.seen = self.until(|shared| Some(shared.version()).filter(|version| *version != seen)).await?;
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
        let Some(over) = clock.timer(limit) else { return Some(answer.await) };
        match select(answer, over).await {
            Either::Left((answer, _)) => Some(answer),
            // The clock was dropped because the writer ended, so the answer is ready.
            Either::Right((Err(_), answer)) => Some(answer.await),
            Either::Right((Ok(()), _)) => None,
        }
    }

    /// Waits until `look` finds something, or until the writer ends.
    async fn until<T>(&self, look: impl Fn(&SharedList) -> Option<T>) -> Result<T, Error> {
        wait(&self.shared.changed, || {
            // Read the flag before `look`, so that a list that arrived right before the end is seen.
            let ended = self.source.has_ended();
            look(&self.shared).map(Ok).or(ended.then_some(Err(Error::Stopped)))
        })
        .await
    }
}
