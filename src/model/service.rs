//! The list of a service's instances, and the difference between two lists.
//!
//! Invariant of lists: `hosts` are sorted by cluster, ip and port and have no duplicates ([`ServiceInfo::tidy`]).
//! Comparing two lists then takes one walk through both, and unchanged instances are recognised by their pointer.

use std::{cmp::Ordering, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use super::instance::Instance;
pub(crate) use super::names::{cluster_filter, validate_group, ServiceName, ServiceRef, DEFAULT_GROUP};

/// The instances of a service at one moment, as a server listed them.
///
/// `hosts` are sorted by cluster, ip and port, without duplicates. Serialises with the field names of Nacos
/// (`groupName`, `cacheMillis`, …).
///
/// ```
/// use actix_nacos::{Instance, ServiceInfo, ServiceName};
///
/// let list = ServiceInfo::new(ServiceName::parse("SHOP@@orders")?, [Instance::new("127.0.0.7", 8080)]);
/// assert_eq!((list.name.as_str(), list.group_name.as_str()), ("orders", "SHOP"));
/// assert_eq!(list.hosts[0].service_name, "SHOP@@orders");
/// # Ok::<(), actix_nacos::Error>(())
/// ```
///
/// A service that does not exist has an empty list: Nacos does not distinguish it from a service without instances.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ServiceInfo {
    /// The service, without its group.
    pub name: SmolStr,
    /// The group of the service.
    pub group_name: SmolStr,
    /// The requested clusters, separated by commas. Empty for all clusters.
    pub clusters: String,
    /// How long the server asks its clients to use this list, in milliseconds.
    pub cache_millis: u64,
    /// The enabled instances.
    pub hosts: Vec<Arc<Instance>>,
    /// When the server made the list, in milliseconds since the Unix epoch by the server's clock. 0 if the server does
    /// not say.
    pub last_ref_time: i64,
    /// The server's checksum of the list. Empty on most servers.
    pub checksum: String,
    /// Whether the list contains disabled instances too.
    #[serde(rename = "allIPs")]
    pub all_ips: bool,
    /// Whether the server lists all instances as healthy because too few of them are (the protect threshold of the
    /// service).
    pub reach_protection_threshold: bool,
}

impl ServiceInfo {
    /// Creates a list for tests: sorts `instances` and sets the `service_name` of each.
    pub fn new(service: ServiceName, instances: impl IntoIterator<Item = Instance>) -> Self {
        let mut info = ServiceInfo::empty(&service, "");
        let service_name = service.grouped();
        let of_service = |instance| Arc::new(Instance { service_name: service_name.clone(), ..instance });
        info.hosts = instances.into_iter().map(of_service).collect();
        info.tidy("", false);
        info
    }

    /// The list of a service without instances.
    pub(crate) fn empty(service: &ServiceName, clusters: &str) -> Self {
        ServiceInfo {
            name: service.name.clone(),
            group_name: service.group.clone(),
            clusters: clusters.into(),
            cache_millis: 10_000,
            hosts: Vec::new(),
            last_ref_time: 0,
            checksum: String::new(),
            all_ips: false,
            reach_protection_threshold: false,
        }
    }

    /// The service with its group.
    pub fn service(&self) -> ServiceName {
        ServiceName { group: self.group_name.clone(), name: self.name.clone() }
    }

    /// How long the server asks its clients to use this list: [`cache_millis`](ServiceInfo::cache_millis) as a
    /// duration.
    ///
    /// The Registry polls after 85 % of it, within [`Config::poll_interval`](crate::Config::poll_interval).
    pub fn cache_time(&self) -> Duration {
        Duration::from_millis(self.cache_millis)
    }

    /// Sorts `hosts`, removes duplicates, and keeps only instances in `clusters` (all if empty) and, with
    /// `healthy_only`, healthy ones. Servers filter too, but r-nacos ignores `clusters`, and a push may have another
    /// filter.
    pub(crate) fn tidy(&mut self, clusters: &str, healthy_only: bool) {
        let wanted: Vec<&str> = clusters.split(',').filter(|cluster| !cluster.is_empty()).collect();
        self.hosts.retain(|host| {
            (wanted.is_empty() || wanted.contains(&host.cluster_name.as_str())) && (host.healthy || !healthy_only)
        });
        self.hosts.sort_by(|a, b| a.key_in_service().cmp(&b.key_in_service()));
        self.hosts.dedup_by(|a, b| a.key_in_service() == b.key_in_service());
        self.clusters = clusters.into();
    }
}

/// The difference between two lists.
///
/// Each part is in the order of the lists.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Difference {
    pub(crate) added: Vec<Arc<Instance>>,
    pub(crate) changed: Vec<(Arc<Instance>, Arc<Instance>)>,
    pub(crate) removed: Vec<Arc<Instance>>,
}

impl Difference {
    /// Compares two lists that are sorted (see [`ServiceInfo::tidy`]).
    pub(crate) fn between(old: &[Arc<Instance>], new: &[Arc<Instance>]) -> Self {
        let mut difference = Difference::default();
        let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
        loop {
            let order = match (old.peek(), new.peek()) {
                (None, None) => return difference,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(before), Some(after)) if Arc::ptr_eq(before, after) => Ordering::Equal,
                (Some(before), Some(after)) => before.key_in_service().cmp(&after.key_in_service()),
            };
            let before = if order.is_le() { old.next() } else { None };
            let after = if order.is_ge() { new.next() } else { None };
            match (before, after) {
                (Some(before), Some(after)) if !same_values(before, after) => {
                    difference.changed.push((before.clone(), after.clone()));
                }
                (Some(before), None) => difference.removed.push(before.clone()),
                (None, Some(after)) => difference.added.push(after.clone()),
                _ => {}
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.added.is_empty() && self.changed.is_empty() && self.removed.is_empty()
    }
}

/// Ignores `instance_id`: the servers of one cluster write different ones for the same instance.
fn same_values(before: &Arc<Instance>, after: &Arc<Instance>) -> bool {
    Arc::ptr_eq(before, after)
        || (before.weight == after.weight
            && before.healthy == after.healthy
            && before.enabled == after.enabled
            && before.ephemeral == after.ephemeral
            && before.metadata == after.metadata)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(ip: &str, weight: f64) -> Arc<Instance> {
        let mut instance = Instance::new(ip, 80);
        instance.weight = weight;
        Arc::new(instance)
    }

    #[test]
    fn a_tidy_list_is_sorted_and_filtered() {
        let mut info = ServiceInfo::empty(&ServiceName::parse("orders").unwrap(), "");
        let mut other = Instance::new("127.0.0.1", 80);
        other.cluster_name = "b".into();
        other.healthy = false;
        info.hosts = vec![host("127.0.0.2", 1.0), Arc::new(other), host("127.0.0.1", 1.0), host("127.0.0.2", 1.0)];
        let mut all = info.clone();
        all.tidy("", false);
        assert_eq!(
            all.hosts.iter().map(|h| h.ip.as_str()).collect::<Vec<_>>(),
            ["127.0.0.1", "127.0.0.2", "127.0.0.1"]
        );
        all.tidy("b", true);
        assert!(all.hosts.is_empty());
    }

    #[test]
    fn a_difference_contains_added_changed_and_removed_instances() {
        let old = [host("1", 1.0), host("2", 1.0), host("3", 1.0)];
        let new = [host("0", 1.0), host("2", 2.0), host("3", 1.0), host("4", 1.0)];
        let difference = Difference::between(&old, &new);
        assert_eq!(difference.added, [new[0].clone(), new[3].clone()]);
        assert_eq!(difference.changed, [(old[1].clone(), new[1].clone())]);
        assert_eq!(difference.removed, [old[0].clone()]);
        assert!(Difference::between(&new, &new).is_empty());
    }
}
