//! The messages that listeners receive.
//!
//! A change is built once and shared by all listeners that have received the same list before.

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

/// How a list was obtained.
///
/// Use it for logs. The Registry drops outdated lists before it notifies listeners, whatever their source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Source {
    /// By a poll: the server was asked for the list.
    Poll,
    /// By a push of the server.
    Push,
    /// By the first poll after an outage or after a change to another server.
    Failover,
    /// From the cache on disk, because no server could be reached yet. See
    /// [`Config::cache_dir`](crate::Config::cache_dir).
    Cache,
}

/// Notifies a listener that the list of a service changed, or gives the listener its first list.
///
/// Register a listener by [`Subscribe`](crate::Subscribe). A listener receives every change once, in the server's
/// order. A listener whose mailbox is full is notified later, with the newest list.
///
/// Cloning is cheap: all listeners share one [`Change`], to which this type dereferences.
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
///     fn handle(&mut self, change: ServiceChanged, _: &mut Context<Self>) {
///         println!("{} has {} instances", change.service, change.info.hosts.len());
///         for instance in &change.added {
///             println!("added {}", instance.authority());
///         }
///         for (before, now) in &change.changed {
///             println!("changed {}: weight {} to {}", now.authority(), before.weight, now.weight);
///         }
///         for instance in &change.removed {
///             println!("removed {}", instance.authority());
///         }
///     }
/// }
/// ```
///
/// The message carries the whole list, so a listener needs no memory of its own: `change.info.hosts` is always
/// complete. Use `added`, `changed` and `removed` where something has to be done for each instance, such as opening
/// a connection.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct ServiceChanged(Arc<Change>);

impl Deref for ServiceChanged {
    type Target = Change;

    fn deref(&self) -> &Change {
        &self.0
    }
}

/// The difference between the current list of a service and the list that this listener received last.
///
/// Instances are the same if cluster, ip and port are. [`changed`](Change::changed) has instances with another
/// weight, health, `enabled`, `ephemeral` or metadata; another `instance_id` is no change.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Change {
    /// The service.
    pub service: ServiceName,
    /// The complete current list.
    pub info: Arc<ServiceInfo>,
    /// Instances that were not in the previous list.
    pub added: Vec<Arc<Instance>>,
    /// Instances whose values changed, each with its previous and its current values.
    pub changed: Vec<(Arc<Instance>, Arc<Instance>)>,
    /// Instances that are no longer in the list.
    pub removed: Vec<Arc<Instance>>,
    /// Whether this is the first list that this listener receives. Then all instances are in `added`.
    pub first: bool,
    /// How the list was obtained.
    pub source: Source,
    /// When the server made the list, by the server's clock. `None` if the server does not say.
    pub server_time: Option<SystemTime>,
    /// When this process received the list.
    pub received: SystemTime,
}

impl ServiceChanged {
    /// Makes the message for a change from `before` to `after`, obtained by a poll just now. For tests of listeners.
    ///
    /// ```
    /// use actix_nacos::{Instance, ServiceChanged, ServiceInfo, ServiceName};
    ///
    /// let list = |ports: &[u16]| {
    ///     let orders = ServiceName::parse("orders").expect("a name");
    ///     ServiceInfo::new(orders, ports.iter().map(|port| Instance::new("127.0.0.7", *port)))
    /// };
    /// let change = ServiceChanged::between(&list(&[80, 81]), &list(&[81, 82]));
    /// assert_eq!((change.added[0].port, change.removed[0].port, change.info.hosts.len()), (82, 80, 2));
    /// ```
    pub fn between(before: &ServiceInfo, after: &ServiceInfo) -> Self {
        Self::polled(Some(before), after)
    }

    /// Makes a listener's first message, with all instances of `info` in `added`. For tests of listeners.
    ///
    /// ```
    /// use actix_nacos::{Instance, ServiceChanged, ServiceInfo, ServiceName, Source};
    ///
    /// let orders = ServiceName::parse("orders")?;
    /// let list = ServiceInfo::new(orders, [Instance::new("127.0.0.7", 80)]);
    /// let change = ServiceChanged::first(&list).learned_by(Source::Cache);
    /// assert!(change.first && change.added.len() == 1 && change.source == Source::Cache);
    /// # Ok::<(), actix_nacos::Error>(())
    /// ```
    pub fn first(info: &ServiceInfo) -> Self {
        Self::polled(None, info)
    }

    /// Replaces the source of the list. For tests of listeners that treat a list from the [disk cache](Source::Cache)
    /// differently.
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

/// Converts a server's milliseconds. `None` for 0 and below, which servers send when they do not know the time.
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
    fn a_built_message_equals_the_message_that_a_listener_receives() {
        let (before, mut after) = (list(&[(80, 1.0), (81, 1.0), (82, 1.0)]), list(&[(81, 2.0), (82, 1.0), (83, 1.0)]));
        after.hosts.reverse();
        after.last_ref_time = 1000;
        let change = ServiceChanged::between(&before, &after);
        let ports = |instances: &[Arc<Instance>]| instances.iter().map(|instance| instance.port).collect::<Vec<_>>();
        assert_eq!((ports(&change.added), ports(&change.removed)), (vec![83], vec![80]));
        let [(was, is)] = &change.changed[..] else { panic!("{change:?}") };
        assert_eq!((was.port, was.weight, is.weight), (81, 1.0, 2.0));
        assert_eq!(
            (change.service.to_string().as_str(), change.first, change.source),
            ("SHOP@@orders", false, Source::Poll)
        );
        assert_eq!(change.server_time, Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1)));
        assert_eq!(ports(&change.info.hosts), [81, 82, 83]);

        let first = ServiceChanged::first(&before).learned_by(Source::Cache);
        assert_eq!((ports(&first.added).len(), first.first, first.source), (3, true, Source::Cache));
        assert!(ServiceChanged::between(&before, &before).added.is_empty());
    }
}
