//! A service's name, the list of its instances, and the difference between two lists.

use std::{cmp::Ordering, fmt, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::instance::Instance;
use crate::error::Error;

/// The group of a service for which no group is given.
pub const DEFAULT_GROUP: &str = "DEFAULT_GROUP";

/// Separates group and service in Nacos' grouped names.
const GROUP_SEPARATOR: &str = "@@";

/// In characters. No server accepts a longer name.
const LONGEST_NAME: usize = 512;

/// A service name with its group.
///
/// Displays as `GROUP@@service`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ServiceName {
    /// The group. Default: [`DEFAULT_GROUP`].
    pub group: String,
    /// The service, without its group.
    pub name: String,
}

impl ServiceName {
    /// Parses `service` or `GROUP@@service`.
    ///
    /// Servers differ in the characters that they accept (see `docs/servers.md`). This function rejects only what no
    /// server accepts. A server that rejects another name says so in its answer.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] with the field `service` or `group` if a part is empty, is longer than 512 characters,
    /// contains a control character, or contains an `@@` that servers would take for the end of the group.
    ///
    /// ```
    /// # use actix_nacos::ServiceName;
    /// let name = ServiceName::parse("PAY@@ledger")?;
    /// assert_eq!((name.group.as_str(), name.name.as_str()), ("PAY", "ledger"));
    /// assert_eq!(ServiceName::parse("orders")?.to_string(), "DEFAULT_GROUP@@orders");
    /// # Ok::<(), actix_nacos::Error>(())
    /// ```
    pub fn parse(service: &str) -> Result<Self, Error> {
        Self::resolve(service, None)
    }

    /// Parses `service` within `group`. A `service` that names a group itself must name the same group.
    pub(crate) fn resolve(service: &str, group: Option<&str>) -> Result<Self, Error> {
        let (own_group, name) = match service.split_once(GROUP_SEPARATOR) {
            Some((own_group, name)) => (Some(own_group), name),
            None => (None, service),
        };
        if let Some(own) = own_group {
            check_group(service, own, group)?;
        }
        let group = own_group.or(group).unwrap_or(DEFAULT_GROUP);
        let resolved = ServiceName { group: group.into(), name: name.into() };
        resolved.validate().map(|()| resolved)
    }

    /// Rejects what no server accepts.
    fn validate(&self) -> Result<(), Error> {
        validate_group(&self.group)?;
        validate_name("service", &self.name)?;
        if self.name.contains(GROUP_SEPARATOR) {
            return Err(Error::invalid("service", format!("{:?} has a second '{GROUP_SEPARATOR}'", self.name)));
        }
        Ok(())
    }

    /// Whether `text` is this name in its grouped form, `GROUP@@service`.
    pub(crate) fn is_grouped_name(&self, text: &str) -> bool {
        text.split_once(GROUP_SEPARATOR) == Some((&self.group, &self.name))
    }

    /// Parses a name from a server, without checks: every name that a server has must be usable.
    pub(crate) fn from_wire(name: &str, group: &str) -> Self {
        match name.split_once(GROUP_SEPARATOR) {
            Some((group, name)) => ServiceName { group: group.into(), name: name.into() },
            None => ServiceName { group: group.into(), name: name.into() },
        }
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{GROUP_SEPARATOR}{}", self.group, self.name)
    }
}

fn check_group(service: impl fmt::Display, own: &str, given: Option<&str>) -> Result<(), Error> {
    match given {
        Some(given) if given != own => {
            Err(Error::invalid("service", format!("{service} belongs to another group than {given}")))
        }
        _ => Ok(()),
    }
}

/// Rejects a group that ends with `@`: the group `G@` and the service `orders` become `G@@@orders`, which parses as the
/// group `G` and the service `@orders`.
pub(crate) fn validate_group(group: &str) -> Result<(), Error> {
    validate_name("group", group)?;
    if group.contains(GROUP_SEPARATOR) || group.ends_with('@') {
        let reason = format!("{group:?} must neither contain '{GROUP_SEPARATOR}' nor end with '@'");
        return Err(Error::invalid("group", reason));
    }
    Ok(())
}

/// Rejects only what is invalid on every server. r-nacos accepts nearly any character; Nacos accepts characters
/// depending on its version and settings, and names the problem in its answer.
pub(crate) fn validate_name(field: &'static str, name: &str) -> Result<(), Error> {
    if name.is_empty() {
        return Err(Error::invalid(field, "must not be empty"));
    }
    if name.chars().count() > LONGEST_NAME {
        return Err(Error::invalid(field, format!("is longer than {LONGEST_NAME} characters")));
    }
    if name.chars().any(char::is_control) {
        return Err(Error::invalid(field, format!("{name:?} contains a control character")));
    }
    Ok(())
}

/// Joins clusters by commas, sorted and without duplicates, so that equal filters have equal texts.
pub(crate) fn cluster_filter(clusters: &[String]) -> Result<String, Error> {
    for cluster in clusters {
        super::instance::validate_cluster(cluster)?;
    }
    let mut clusters: Vec<&str> = clusters.iter().map(String::as_str).collect();
    clusters.sort_unstable();
    clusters.dedup();
    Ok(clusters.join(","))
}

/// Names a service in a message: `service` or `GROUP@@service` as text, or a [`ServiceName`].
///
/// Messages take `impl Into<ServiceRef>`. The text is checked when the message is handled.
///
/// ```
/// use actix_nacos::{ListInstances, ServiceName};
///
/// let by_text = ListInstances::new("PAY@@ledger");
/// let by_name = ListInstances::new(ServiceName::parse("PAY@@ledger")?);
/// # Ok::<(), actix_nacos::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceRef(Reference);

#[derive(Debug, Clone, PartialEq)]
enum Reference {
    Text(String),
    Name(ServiceName),
}

impl<T: Into<String>> From<T> for ServiceRef {
    fn from(text: T) -> Self {
        ServiceRef(Reference::Text(text.into()))
    }
}

impl From<ServiceName> for ServiceRef {
    fn from(name: ServiceName) -> Self {
        ServiceRef(Reference::Name(name))
    }
}

impl From<&ServiceName> for ServiceRef {
    fn from(name: &ServiceName) -> Self {
        name.clone().into()
    }
}

impl ServiceRef {
    /// The name of the service, in `group` if one is given. A reference that has a group must have the same group.
    pub(crate) fn resolve(&self, group: Option<&str>) -> Result<ServiceName, Error> {
        match &self.0 {
            Reference::Text(text) => ServiceName::resolve(text, group),
            Reference::Name(name) => {
                check_group(name, &name.group, group)?;
                name.validate().map(|()| name.clone())
            }
        }
    }
}

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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ServiceInfo {
    /// The service, without its group.
    pub name: String,
    /// The group of the service.
    pub group_name: String,
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
        let of_service = |instance| Arc::new(Instance { service_name: service.to_string(), ..instance });
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
    fn names_are_parsed_with_and_without_group() {
        assert_eq!(ServiceName::parse("orders").unwrap().to_string(), "DEFAULT_GROUP@@orders");
        assert_eq!(ServiceName::parse("G@@orders").unwrap().group, "G");
        assert_eq!(ServiceName::resolve("G@@orders", Some("G")).unwrap().group, "G");
        assert_eq!(ServiceName::resolve("orders", Some("H")).unwrap().group, "H");
    }

    #[test]
    fn invalid_names_are_reported_with_their_field() {
        let field = |service: &str, group: Option<&str>| match ServiceName::resolve(service, group) {
            Err(Error::InvalidInput { field, .. }) => field,
            other => panic!("{service:?} gave {other:?}"),
        };
        for service in ["", "a\nb", "a\u{7f}", "x@@y@@z", "G@@", &"s".repeat(513)] {
            assert_eq!(field(service, None), "service", "{service:?}");
        }
        assert_eq!(field("G@@orders", Some("H")), "service");
        for group in ["", "a\tb", "G@", "G@@H", &"g".repeat(513)] {
            assert_eq!(field("orders", Some(group)), "group", "{group:?}");
        }
        assert_eq!(field("@@orders", None), "group");
    }

    #[test]
    fn names_that_some_server_accepts_survive_parsing_and_writing() {
        let names = [
            "providers:a.b.IGreeter::",
            "a$b",
            "order/api",
            "{{1}}",
            "заказ",
            "订单",
            "a b",
            "@orders",
            "a@b",
            "..",
            "a%2Fb",
        ];
        for name in names {
            let read = ServiceName::parse(name).unwrap();
            assert_eq!((read.group.as_str(), read.name.as_str()), (DEFAULT_GROUP, name));
            assert_eq!(ServiceName::parse(&read.to_string()), Ok(read.clone()));
            assert_eq!(ServiceName::from_wire(&read.to_string(), ""), read);
            let in_group = ServiceName::resolve("orders", Some(&name.replace('@', "x"))).unwrap();
            assert_eq!(ServiceName::parse(&in_group.to_string()), Ok(in_group));
        }
        let longest = "ж".repeat(512);
        assert_eq!(ServiceName::parse(&longest).unwrap().name, longest, "characters count, not bytes");
    }

    #[test]
    fn a_name_in_a_message_keeps_its_group() {
        let name = ServiceName::parse("PAY@@ledger").unwrap();
        let resolve = |group| ServiceRef::from(&name).resolve(group);
        assert_eq!(resolve(None), Ok(name.clone()));
        assert_eq!(resolve(Some("PAY")), Ok(name.clone()));
        assert!(matches!(resolve(Some("SHOP")), Err(Error::InvalidInput { field: "service", .. })));
        let unchecked = ServiceName { group: String::new(), name: "ledger".into() };
        assert!(matches!(ServiceRef::from(unchecked).resolve(None), Err(Error::InvalidInput { field: "group", .. })));
        assert_eq!(ServiceRef::from(String::from("PAY@@ledger")).resolve(None), Ok(name));
    }

    #[test]
    fn equal_cluster_filters_have_equal_texts() {
        let filter = |clusters: &[&str]| cluster_filter(&clusters.iter().map(|c| c.to_string()).collect::<Vec<_>>());
        assert_eq!(filter(&["b", "a", "b"]), Ok("a,b".into()));
        assert_eq!(filter(&[]), Ok(String::new()));
        assert!(filter(&["a,b"]).is_err());
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
