//! What listeners are told.

use std::{
    ops::Deref,
    sync::Arc,
    time::{Duration, SystemTime},
};

use actix::Message;
use serde::Serialize;

use super::{
    instance::Instance,
    service::{Difference, ServiceInfo, ServiceName},
};

/// How a list was learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Source {
    /// The list was asked for.
    Poll,
    /// The server pushed it.
    Push,
    /// The list was asked for after an outage, or from another server than before.
    Failover,
    /// The list was read from the disk cache: no server has been reached yet.
    Cache,
}

/// Tells a listener that a service's list has changed, or what it is at first.
///
/// Cheap to clone: all listeners share one [`Change`], which this derefs to.
///
/// ```
/// use actix::prelude::*;
/// use actix_nacos::ServiceChanged;
///
/// struct Caller;
///
/// impl Actor for Caller {
///     type Context = Context<Self>;
/// }
///
/// impl Handler<ServiceChanged> for Caller {
///     type Result = ();
///
///     fn handle(&mut self, news: ServiceChanged, _: &mut Context<Self>) {
///         println!("{} has {} instances, {} are new", news.service, news.info.hosts.len(), news.added.len());
///     }
/// }
/// ```
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct ServiceChanged(Arc<Change>);

impl Deref for ServiceChanged {
    type Target = Change;

    fn deref(&self) -> &Change {
        &self.0
    }
}

/// What changed in a service's list since this listener was told last.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Change {
    /// The service.
    pub service: ServiceName,
    /// The whole list as it is now.
    pub info: Arc<ServiceInfo>,
    /// Instances that were not in the list before.
    pub added: Vec<Arc<Instance>>,
    /// Instances whose values changed: before and now.
    pub changed: Vec<(Arc<Instance>, Arc<Instance>)>,
    /// Instances that are not in the list any more.
    pub removed: Vec<Arc<Instance>>,
    /// Whether this is the first list that this listener gets; then all of it is `added`.
    pub first: bool,
    /// How the list was learned.
    pub source: Source,
    /// When the server made the list, by its own clock, where it says so.
    pub server_time: Option<SystemTime>,
    /// When the list came here.
    pub received: SystemTime,
}

impl ServiceChanged {
    /// The message of a listener that was told `before` and is told `after`, polled just now: for tests of listeners.
    ///
    /// ```
    /// use actix_nacos::{Instance, ServiceChanged, ServiceInfo, ServiceName};
    ///
    /// let list = |ports: &[u16]| {
    ///     let orders = ServiceName::parse("orders").expect("a name");
    ///     ServiceInfo::new(orders, ports.iter().map(|port| Instance::new("127.0.0.7", *port)))
    /// };
    /// let news = ServiceChanged::between(&list(&[80, 81]), &list(&[81, 82]));
    /// assert_eq!((news.added[0].port, news.removed[0].port, news.info.hosts.len()), (82, 80, 2));
    /// ```
    pub fn between(before: &ServiceInfo, after: &ServiceInfo) -> Self {
        Self::polled(Some(before), after)
    }

    /// The first message of a listener, with all of `info` added: for tests of listeners.
    pub fn first(info: &ServiceInfo) -> Self {
        Self::polled(None, info)
    }

    /// The same, learned in another way: for tests of listeners.
    #[must_use]
    pub fn learned_by(self, source: Source) -> Self {
        let mut change = Arc::unwrap_or_clone(self.0);
        change.source = source;
        ServiceChanged(Arc::new(change))
    }

    fn polled(before: Option<&ServiceInfo>, after: &ServiceInfo) -> Self {
        let in_order = |info: &ServiceInfo| {
            let mut info = info.clone();
            let clusters = info.clusters.clone();
            info.tidy(&clusters, false);
            info
        };
        let (before, after) = (before.map(in_order), in_order(after));
        let Difference { added, changed, removed } =
            Difference::between(before.as_ref().map_or(&[], |before| &before.hosts[..]), &after.hosts);
        ServiceChanged(Arc::new(Change {
            service: after.service(),
            added,
            changed,
            removed,
            first: before.is_none(),
            source: Source::Poll,
            server_time: server_time(after.last_ref_time),
            received: SystemTime::now(),
            info: Arc::new(after),
        }))
    }

    pub(crate) fn new(change: Change) -> Self {
        ServiceChanged(Arc::new(change))
    }
}

/// None where the server does not say.
pub(crate) fn server_time(millis: i64) -> Option<SystemTime> {
    let millis = u64::try_from(millis).ok().filter(|millis| *millis > 0)?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(weights: &[(u16, f64)]) -> ServiceInfo {
        let instance = |(port, weight): &(u16, f64)| Instance { weight: *weight, ..Instance::new("127.0.0.1", *port) };
        ServiceInfo::new(ServiceName::parse("SHOP@@orders").unwrap(), weights.iter().map(instance))
    }

    #[test]
    fn a_built_message_tells_what_a_listener_would_be_told() {
        let (before, mut after) = (list(&[(80, 1.0), (81, 1.0), (82, 1.0)]), list(&[(81, 2.0), (82, 1.0), (83, 1.0)]));
        after.hosts.reverse();
        after.last_ref_time = 1000;
        let news = ServiceChanged::between(&before, &after);
        let ports = |instances: &[Arc<Instance>]| instances.iter().map(|instance| instance.port).collect::<Vec<_>>();
        assert_eq!((ports(&news.added), ports(&news.removed)), (vec![83], vec![80]));
        let [(was, is)] = &news.changed[..] else { panic!("{news:?}") };
        assert_eq!((was.port, was.weight, is.weight), (81, 1.0, 2.0));
        assert_eq!((news.service.to_string().as_str(), news.first, news.source), ("SHOP@@orders", false, Source::Poll));
        assert_eq!(news.server_time, Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1)));
        assert_eq!(ports(&news.info.hosts), [81, 82, 83]);

        let first = ServiceChanged::first(&before).learned_by(Source::Cache);
        assert_eq!((ports(&first.added).len(), first.first, first.source), (3, true, Source::Cache));
        assert!(ServiceChanged::between(&before, &before).added.is_empty());
    }
}
