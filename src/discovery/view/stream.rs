//! A view's lists and their changes as streams.
//!
//! Both streams are built on [`ServiceView::changed`], so they need no actor and no runtime of their own. They hold
//! a view, which keeps the service watched.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{ready, Context, Poll},
};

use futures_core::Stream;

use super::service_view::ServiceView;
use crate::{
    error::Error,
    model::{
        instance::Instance,
        service::{Difference, ServiceInfo},
    },
};

/// Resolves to the view when there is a list that the stream has not returned yet, or at the end.
type Changed = Pin<Box<dyn Future<Output = (ServiceView, Result<(), Error>)> + Send>>;

impl ServiceView {
    /// Returns the current list, if there is one, and then every newer list: see [`changed`](ServiceView::changed). If
    /// lists arrive faster than the stream is polled, only the newest one is returned. The stream ends with the
    /// Registry.
    ///
    /// ```
    /// use actix_nacos::{Instance, ServiceName, ServiceView};
    /// use futures_util::StreamExt;
    ///
    /// # #[actix::main]
    /// # async fn main() -> Result<(), actix_nacos::Error> {
    /// let (view, control) = ServiceView::controlled(ServiceName::parse("orders")?);
    /// let mut lists = view.lists();
    /// control.publish([Instance::new("127.0.0.7", 8080)]);
    /// assert_eq!(lists.next().await.map(|list| list.hosts.len()), Some(1));
    /// drop(control); // as the end of the Registry
    /// assert!(lists.next().await.is_none());
    /// # Ok(())
    /// # }
    /// ```
    pub fn lists(&self) -> Lists {
        let mut view = self.clone();
        // Version 0 is before the first list, so the current list is always returned.
        view.seen = 0;
        Lists { next: changed(view) }
    }

    /// Returns the changes of the list, one instance at a time. All instances of the current list come first, as
    /// [added](InstanceChange::Added). If lists arrive faster than the stream is polled, the changes lead directly to
    /// the newest list. The stream ends with the Registry.
    ///
    /// Balancers such as tower's take such a stream: see `docs/guide/choose-instances.md`.
    ///
    /// Withheld and unhealthy instances are in the list, so they are not reported as removed. To follow only
    /// instances that can be called, use a view with a filter: `view.with(|selection| selection.only(|instance|
    /// instance.healthy))`.
    ///
    /// ```
    /// use actix_nacos::{Instance, InstanceChange, ServiceName, ServiceView};
    /// use futures_util::StreamExt;
    ///
    /// # #[actix::main]
    /// # async fn main() -> Result<(), actix_nacos::Error> {
    /// let (view, control) = ServiceView::controlled(ServiceName::parse("orders")?);
    /// let mut changes = view.changes();
    /// control.publish([Instance::new("127.0.0.7", 8080)]);
    /// assert!(matches!(changes.next().await, Some(InstanceChange::Added(instance)) if instance.port == 8080));
    /// # Ok(())
    /// # }
    /// ```
    pub fn changes(&self) -> InstanceChanges {
        InstanceChanges { lists: self.lists(), last: Vec::new(), changes: VecDeque::new() }
    }
}

fn changed(mut view: ServiceView) -> Changed {
    Box::pin(async move {
        let outcome = view.changed().await;
        (view, outcome)
    })
}

/// The stream that [`ServiceView::lists`] gives. It keeps the service watched as a view does.
///
/// An item is the same `Arc` that [`ServiceView::info`] returns at that moment. Lists do not queue up: a slow reader
/// skips lists.
#[must_use = "streams do nothing unless polled"]
pub struct Lists {
    next: Changed,
}

impl Stream for Lists {
    type Item = Arc<ServiceInfo>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let (view, outcome) = ready!(self.next.as_mut().poll(context));
        let list = outcome.ok().map(|()| view.info());
        // A stream that is polled after its end returns `None` again.
        self.next = changed(view);
        Poll::Ready(list)
    }
}

/// What changed in a list.
///
/// Two entries are the same instance if their cluster, ip and port are equal. A change of any other value, such as
/// weight, health or metadata, is [`Changed`](InstanceChange::Changed).
#[derive(Debug, Clone, PartialEq)]
pub enum InstanceChange {
    /// An instance that was not in the list before.
    Added(Arc<Instance>),
    /// An instance with other values than before.
    Changed {
        /// The instance in the previous list.
        before: Arc<Instance>,
        /// The instance in the new list.
        now: Arc<Instance>,
    },
    /// An instance that is not in the list any more.
    Removed(Arc<Instance>),
}

/// The stream that [`ServiceView::changes`] gives. It keeps the service watched as a view does.
///
/// For each list, added instances come first, then changed and then removed ones. A reader that has applied all changes
/// has the current list.
#[must_use = "streams do nothing unless polled"]
pub struct InstanceChanges {
    lists: Lists,
    /// The hosts of the list whose changes were returned last.
    last: Vec<Arc<Instance>>,
    /// The changes that are still to be returned.
    changes: VecDeque<InstanceChange>,
}

impl Stream for InstanceChanges {
    type Item = InstanceChange;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(change) = self.changes.pop_front() {
                return Poll::Ready(Some(change));
            }
            let Some(list) = ready!(Pin::new(&mut self.lists).poll_next(context)) else { return Poll::Ready(None) };
            let Difference { added, changed, removed } = Difference::between(&self.last, &list.hosts);
            self.last.clone_from(&list.hosts);
            // Additions come first, so that the reader always has at least the instances that both lists share.
            let changed = changed.into_iter().map(|(before, now)| InstanceChange::Changed { before, now });
            self.changes.extend(added.into_iter().map(InstanceChange::Added));
            self.changes.extend(changed.chain(removed.into_iter().map(InstanceChange::Removed)));
        }
    }
}

impl std::fmt::Debug for Lists {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lists").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for InstanceChanges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InstanceChanges").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream::StreamExt;

    use super::*;
    use crate::model::service::ServiceName;

    fn instances(ports: &[u16], weight: f64) -> Vec<Instance> {
        ports.iter().map(|port| Instance { weight, ..Instance::new("127.0.0.1", *port) }).collect()
    }

    #[actix::test]
    async fn lists_begin_with_the_present_one_and_end_with_the_registry() {
        let (view, control) = ServiceView::controlled(ServiceName::parse("orders").unwrap());
        let mut lists = view.lists();
        control.publish(instances(&[1], 1.0));
        assert_eq!(lists.next().await.map(|list| list.hosts.len()), Some(1));
        assert_eq!(view.lists().next().await.map(|list| list.hosts.len()), Some(1));
        control.publish(instances(&[1, 2], 1.0));
        control.publish(instances(&[1, 2, 3], 1.0));
        assert_eq!(lists.next().await.map(|list| list.hosts.len()), Some(3));
        let waiting = actix_rt::spawn(async move { (lists.next().await, lists.next().await) });
        actix_rt::task::yield_now().await;
        drop(control);
        assert_eq!(waiting.await.unwrap(), (None, None));
    }

    #[actix::test]
    async fn changes_lead_from_nothing_to_the_present_list_and_on() {
        let (view, control) = ServiceView::controlled(ServiceName::parse("orders").unwrap());
        let mut changes = view.changes().map(|change| match change {
            InstanceChange::Added(instance) => ('+', instance.port),
            InstanceChange::Changed { now, .. } => ('~', now.port),
            InstanceChange::Removed(instance) => ('-', instance.port),
        });
        control.publish(instances(&[1, 2], 1.0));
        assert_eq!((changes.next().await, changes.next().await), (Some(('+', 1)), Some(('+', 2))));
        control.publish(instances(&[2, 3], 2.0));
        let seen = (changes.next().await, changes.next().await, changes.next().await);
        assert_eq!(seen, (Some(('+', 3)), Some(('~', 2)), Some(('-', 1))));
        control.publish(instances(&[2, 4], 2.0));
        control.publish(instances(&[2, 3, 4], 2.0));
        assert_eq!(changes.next().await, Some(('+', 4)), "what came and went meanwhile is left out");
        drop(control);
        assert_eq!(changes.next().await, None);
    }

    #[actix::test]
    async fn a_filtered_view_is_told_only_of_what_it_shows() {
        let (view, control) = ServiceView::controlled(ServiceName::parse("orders").unwrap());
        let mut even = view.with(|selection| selection.only(|instance| instance.port % 2 == 0));
        control.publish(instances(&[1, 2], 1.0));
        assert_eq!(even.changed().await, Ok(()));
        control.publish(instances(&[1, 2, 3], 1.0));
        assert!(actix_rt::time::timeout(std::time::Duration::from_millis(1), even.changed()).await.is_err());
        control.publish(instances(&[1, 2, 3, 4], 1.0));
        assert_eq!((even.changed().await, even.instances().len()), (Ok(()), 2));
    }
}
