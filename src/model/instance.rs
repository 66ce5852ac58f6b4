//! An instance of a service, its key, and the rules for its values.
//!
//! | value | what this crate accepts | what servers do beyond that |
//! |---|---|---|
//! | `ip` | a text without blanks and control characters, not `0.0.0.0` | 2.3 and later: no Chinese characters |
//! | `port` | 1 to 65,535 | 1.4 and r-nacos list others |
//! | `weight` | 0 to 10,000 | r-nacos takes any |
//! | cluster | 512 characters, no comma, no control character | letters, digits, `-`; 2.3 and later: 64 characters |
//! | metadata | 64 KiB | 2.3 and later: 1,024 characters |
//! | timeouts | positive milliseconds, longer than the interval | 2.x and 3.x check the same |
//!
//! An instance that a server lists is never rejected by these rules.

use std::{
    borrow::Cow,
    fmt,
    hash::{Hash, Hasher},
    net::IpAddr,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

pub(crate) use super::metadata::Metadata;
use super::{
    heartbeat::DEFAULT_INTERVAL,
    names::{validate_cluster, validate_name, ServiceName, DEFAULT_GROUP},
};
use crate::error::Error;

/// The cluster of an instance for which no cluster is given.
pub const DEFAULT_CLUSTER: &str = "DEFAULT";

/// Metadata key for the interval between two beats, in milliseconds.
///
/// The interval must be shorter than [`HEART_BEAT_TIMEOUT`] and [`IP_DELETE_TIMEOUT`]. An ephemeral instance with a
/// timeout and without this key is registered with the smaller of 5 s and a third of its smallest timeout.
///
/// ```
/// use actix_nacos::{RegisterInstance, HEART_BEAT_INTERVAL, HEART_BEAT_TIMEOUT};
///
/// let message = RegisterInstance::new("orders", "127.0.0.7", 8080)
///     .metadata(HEART_BEAT_INTERVAL, "1000")
///     .metadata(HEART_BEAT_TIMEOUT, "3000");
/// ```
pub const HEART_BEAT_INTERVAL: &str = "preserved.heart.beat.interval";
/// Metadata key for the time without a beat after which the server marks the instance as unhealthy, in milliseconds.
/// Default: 15 s.
///
/// The server checks every 5 s, so it may notice up to that much later. Unhealthy instances stay in lists, and views do
/// not choose them.
pub const HEART_BEAT_TIMEOUT: &str = "preserved.heart.beat.timeout";
/// Metadata key for the time without a beat after which the server removes the instance, in milliseconds. Default: 30
/// s.
///
/// Keep it well above [`HEART_BEAT_TIMEOUT`]: an instance that is removed comes back only by a registration
/// or a full heartbeat.
pub const IP_DELETE_TIMEOUT: &str = "preserved.ip.delete.timeout";

/// In bytes. Servers have a lower limit or none. This limit is ours: every list transfers the metadata of all
/// instances.
const LARGEST_METADATA: usize = 64 * 1024;
/// The defaults of Nacos (`Constants.DEFAULT_HEART_BEAT_TIMEOUT` and `DEFAULT_IP_DELETE_TIMEOUT`).
const DEFAULT_HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(15);
const DEFAULT_DELETE_TIMEOUT: Duration = Duration::from_secs(30);

/// An instance of a service.
///
/// Serialises with the field names of Nacos (`instanceId`, `clusterName`, …).
///
/// ```
/// use actix_nacos::Instance;
///
/// let mut instance = Instance::new("127.0.0.7", 8080);
/// instance.weight = 0.5;
/// assert_eq!(instance.authority(), "127.0.0.7:8080");
/// ```
///
/// An `Instance` is a copy: changing it changes nothing on a server. Messages can be made from an instance:
/// `DeregisterInstance::from(&instance)`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Instance {
    /// The server's identifier. Its form differs between servers. Use [`InstanceKey`] to identify an instance.
    pub instance_id: SmolStr,
    /// IPv4 address, IPv6 address, or host name.
    pub ip: SmolStr,
    /// TCP port. 0 for an instance that cannot be called, such as a Dubbo consumer.
    pub port: u16,
    /// Share of the calls that the instance should get, from 0 (none) to 10,000. Default: 1.
    pub weight: f64,
    /// Whether the server considers the instance alive.
    pub healthy: bool,
    /// Whether the instance takes calls. Servers leave disabled instances out of their lists.
    pub enabled: bool,
    /// True if heartbeats keep the instance registered. False for a *persistent* instance, which stays registered until
    /// it is deregistered.
    pub ephemeral: bool,
    /// The cluster within the service. Default: [`DEFAULT_CLUSTER`].
    pub cluster_name: SmolStr,
    /// `GROUP@@service`. Empty in an instance from [`Instance::new`]; a message that is made from an instance needs it.
    pub service_name: SmolStr,
    /// Key-value pairs of the application, and those of Nacos, whose keys begin with `preserved.`.
    pub metadata: Metadata,
}

impl Instance {
    /// Creates an instance with the defaults of Nacos: cluster `DEFAULT`, weight 1, healthy, enabled, ephemeral, no
    /// metadata.
    ///
    /// Nothing is checked here. A message that is made from the instance checks its values.
    pub fn new(ip: impl Into<String>, port: u16) -> Self {
        Instance {
            instance_id: SmolStr::default(),
            ip: SmolStr::from(ip.into()),
            port,
            weight: 1.0,
            healthy: true,
            enabled: true,
            ephemeral: true,
            cluster_name: DEFAULT_CLUSTER.into(),
            service_name: SmolStr::default(),
            metadata: Metadata::new(),
        }
    }

    /// `ip:port`, as a URL or a socket address needs it. An IPv6 address gets brackets.
    ///
    /// ```
    /// # use actix_nacos::Instance;
    /// assert_eq!(Instance::new("127.0.0.7", 8080).authority(), "127.0.0.7:8080");
    /// assert_eq!(Instance::new("::1", 80).authority(), "[::1]:80");
    /// ```
    pub fn authority(&self) -> String {
        if self.ip.contains(':') && !self.ip.starts_with('[') {
            format!("[{}]:{}", self.ip, self.port)
        } else {
            format!("{}:{}", self.ip, self.port)
        }
    }

    /// Identifies the instance within its service. Lists are sorted by this key.
    pub(crate) fn key_in_service(&self) -> (&str, &str, u16) {
        (&self.cluster_name, &self.ip, self.port)
    }

    /// Whether a call can be sent to the instance. Dubbo registers consumers with port 0.
    pub(crate) fn takes_calls(&self) -> bool {
        self.healthy && self.enabled && self.weight > 0.0 && self.port > 0
    }

    /// The beat interval in the metadata, or the interval that follows from the timeouts in the metadata.
    pub(crate) fn preserved_interval(&self) -> Option<Duration> {
        // The metadata of registered instances was validated. An unreadable value can only come from another client.
        let millis = match preserved_millis(&self.metadata, HEART_BEAT_INTERVAL).ok()? {
            Some(millis) => millis,
            None => interval_within_timeouts(&self.metadata)?,
        };
        Some(Duration::from_millis(millis))
    }

    /// The metadata to register with: `metadata`, and a beat interval if only timeouts are given. Without an interval
    /// servers assume 5 s. Some servers then reject a shorter timeout, and others mark the instance as unhealthy
    /// between two beats.
    pub(crate) fn metadata_to_register(&self) -> Cow<'_, Metadata> {
        if self.ephemeral
            && !self.metadata.contains_key(HEART_BEAT_INTERVAL)
            && let Some(interval) = interval_within_timeouts(&self.metadata)
        {
            let mut metadata = self.metadata.clone();
            metadata.insert(HEART_BEAT_INTERVAL.into(), interval.to_string().into());
            return Cow::Owned(metadata);
        }
        Cow::Borrowed(&self.metadata)
    }

    /// Whether the metadata asks for other timeouts than the metadata of `other`.
    pub(crate) fn has_other_timeouts_than(&self, other: &Instance) -> bool {
        [HEART_BEAT_TIMEOUT, IP_DELETE_TIMEOUT].iter().any(|key| self.metadata.get(*key) != other.metadata.get(*key))
    }

    /// Removes the beat interval that [`metadata_to_register`](Instance::metadata_to_register) added, because a later
    /// registration with other timeouts needs another interval.
    pub(crate) fn forget_derived_interval(&self, registered: &mut Metadata) {
        let added = self.metadata_to_register();
        if !self.metadata.contains_key(HEART_BEAT_INTERVAL)
            && added.get(HEART_BEAT_INTERVAL) == registered.get(HEART_BEAT_INTERVAL)
        {
            registered.remove(HEART_BEAT_INTERVAL);
        }
    }

    /// The time without a beat after which a server marks the instance as unhealthy.
    pub(crate) fn heartbeat_timeout(&self) -> Duration {
        self.preserved(HEART_BEAT_TIMEOUT).unwrap_or(DEFAULT_HEARTBEAT_TIMEOUT)
    }

    /// The time without a beat after which a server removes the instance.
    pub(crate) fn delete_timeout(&self) -> Duration {
        self.preserved(IP_DELETE_TIMEOUT).unwrap_or(DEFAULT_DELETE_TIMEOUT)
    }

    fn preserved(&self, key: &'static str) -> Option<Duration> {
        preserved_millis(&self.metadata, key).ok().flatten().map(Duration::from_millis)
    }

    /// Checks address, cluster and values.
    pub(crate) fn validate(&self) -> Result<(), Error> {
        validate_address(&self.ip, self.port)?;
        validate_cluster(&self.cluster_name)?;
        self.validate_values()?;
        self.validate_interval()
    }

    /// An interval must also be shorter than the timeouts that servers use if the metadata has none: Nacos 2 and 3
    /// reject the instance otherwise, and Nacos 1.4 removes it between two beats.
    fn validate_interval(&self) -> Result<(), Error> {
        let Some(interval) = self.preserved(HEART_BEAT_INTERVAL) else { return Ok(()) };
        let timeouts = [(HEART_BEAT_TIMEOUT, self.heartbeat_timeout()), (IP_DELETE_TIMEOUT, self.delete_timeout())];
        let Some((key, timeout)) = timeouts.into_iter().find(|(_, timeout)| interval >= *timeout) else {
            return Ok(());
        };
        let (interval, timeout) = (interval.as_millis(), timeout.as_millis());
        let reason =
            format!("{HEART_BEAT_INTERVAL} of {interval} ms must be shorter than {key}, {timeout} ms; set both");
        Err(Error::invalid("metadata", reason))
    }

    /// Checks only the values: weight and metadata.
    pub(crate) fn validate_values(&self) -> Result<(), Error> {
        validate_weight(self.weight)?;
        validate_metadata(&self.metadata)
    }
}

/// Identifies an instance within a namespace.
///
/// The key differs from a server's `instanceId`, whose form depends on the server. Displays as
/// `127.0.0.7:8080 of DEFAULT_GROUP@@orders (cluster DEFAULT)`.
///
/// ```
/// use actix_nacos::{Instance, InstanceKey};
///
/// let mut instance = Instance::new("127.0.0.7", 8080);
/// instance.service_name = "SHOP@@orders".into();
/// assert_eq!(InstanceKey::from(&instance).to_string(), "127.0.0.7:8080 of SHOP@@orders (cluster DEFAULT)");
/// ```
///
/// Two instances with the same key are the same instance on 1.4. Since 2.0, Nacos allows one instance per ip and
/// port in a service, whatever its cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct InstanceKey {
    /// The service with its group.
    pub service: ServiceName,
    /// The cluster within the service.
    pub cluster: SmolStr,
    /// IP address or host name.
    pub ip: SmolStr,
    /// TCP port.
    pub port: u16,
}

/// Leaves out the group and the cluster, which are the same for nearly all keys, because an operation hashes its key
/// several times.
impl Hash for InstanceKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.service.name.hash(state);
        self.ip.hash(state);
        self.port.hash(state);
    }
}

impl InstanceKey {
    pub(crate) fn of(service: &ServiceName, instance: &Instance) -> Self {
        InstanceKey {
            service: service.clone(),
            cluster: instance.cluster_name.clone(),
            ip: instance.ip.clone(),
            port: instance.port,
        }
    }

    /// Checks that an instance can be registered under this key.
    pub(crate) fn validate(&self) -> Result<(), Error> {
        validate_address(&self.ip, self.port)?;
        validate_cluster(&self.cluster)
    }

    /// Checks only what no server accepts. Servers have instances that this crate would not register, such as port 0.
    pub(crate) fn validate_known(&self) -> Result<(), Error> {
        validate_name("ip", &self.ip)?;
        validate_cluster(&self.cluster)
    }

    pub(crate) fn identifies(&self, instance: &Instance) -> bool {
        instance.key_in_service() == (&self.cluster, &self.ip, self.port)
    }
}

/// Takes the service from `service_name` (`GROUP@@service`), which every listed instance has.
///
/// A bare service name is taken to be in [`DEFAULT_GROUP`].
impl From<&Instance> for InstanceKey {
    fn from(instance: &Instance) -> Self {
        InstanceKey::of(&ServiceName::from_wire(&instance.service_name, DEFAULT_GROUP), instance)
    }
}

impl fmt::Display for InstanceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{} of {} (cluster {})", self.ip, self.port, self.service, self.cluster)
    }
}

fn validate_address(ip: &str, port: u16) -> Result<(), Error> {
    if ip.is_empty() {
        return Err(Error::invalid("ip", "must not be empty"));
    }
    if ip.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(Error::invalid("ip", "must not contain blanks or control characters"));
    }
    if ip.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified()) {
        return Err(Error::invalid(
            "ip",
            format!(
                "{ip} is an address that callers cannot reach; use Config::local_ip() to find this machine's address"
            ),
        ));
    }
    if port == 0 {
        return Err(Error::invalid("port", "must be between 1 and 65535"));
    }
    Ok(())
}

fn validate_weight(weight: f64) -> Result<(), Error> {
    if (0.0..=10_000.0).contains(&weight) {
        return Ok(());
    }
    Err(Error::invalid("weight", format!("{weight} is not between 0 and 10000")))
}

fn validate_metadata(metadata: &Metadata) -> Result<(), Error> {
    let size: usize = metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
    if size > LARGEST_METADATA {
        let reason = format!("has {size} bytes in keys and values, at most {LARGEST_METADATA} are allowed");
        return Err(Error::invalid("metadata", reason));
    }
    let given = preserved_millis(metadata, HEART_BEAT_INTERVAL)?;
    for key in [HEART_BEAT_TIMEOUT, IP_DELETE_TIMEOUT] {
        let Some(timeout) = preserved_millis(metadata, key)? else { continue };
        let interval = given.or_else(|| interval_within_timeouts(metadata)).unwrap_or(0);
        if timeout <= interval {
            let reason = format!("{key} of {timeout} ms must be longer than {HEART_BEAT_INTERVAL}, {interval} ms");
            return Err(Error::invalid("metadata", reason));
        }
    }
    Ok(())
}

/// The beat interval for an instance that has only timeouts, in milliseconds: 5 s or a third of the smallest timeout. A
/// third allows two beats to be lost.
fn interval_within_timeouts(metadata: &Metadata) -> Option<u64> {
    let timeout = |key| preserved_millis(metadata, key).ok().flatten();
    let smallest = [HEART_BEAT_TIMEOUT, IP_DELETE_TIMEOUT].into_iter().filter_map(timeout).min()?;
    let usual = DEFAULT_INTERVAL.as_millis() as u64;
    Some(usual.min(smallest / 3).max(1))
}

fn preserved_millis(metadata: &Metadata, key: &'static str) -> Result<Option<u64>, Error> {
    let Some(value) = metadata.get(key) else { return Ok(None) };
    match value.parse::<u64>() {
        Ok(millis) if millis > 0 => Ok(Some(millis)),
        _ => Err(Error::invalid("metadata", format!("{key} must be a positive number of milliseconds, not {value:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rejected_field(instance: Instance) -> &'static str {
        match instance.validate() {
            Err(Error::InvalidInput { field, .. }) => field,
            other => panic!("{instance:?} gave {other:?}"),
        }
    }

    fn with(change: impl FnOnce(&mut Instance)) -> Instance {
        let mut instance = Instance::new("127.0.0.7", 8080);
        change(&mut instance);
        instance
    }

    fn with_metadata(key: &str, value: &str) -> Instance {
        with(|i| drop(i.metadata.insert(key.into(), value.into())))
    }

    #[test]
    fn bad_input_names_its_field() {
        for ip in ["", "127.0.0.1 ", "a\nb", "0.0.0.0", "::", "0:0:0:0:0:0:0:0"] {
            assert_eq!(rejected_field(Instance::new(ip, 80)), "ip", "{ip:?}");
        }
        assert_eq!(rejected_field(Instance::new("127.0.0.1", 0)), "port");
        for weight in [-0.1, 10_000.1, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(rejected_field(with(|i| i.weight = weight)), "weight", "{weight}");
        }
        for cluster in ["", "a,b", "a\nb", &"c".repeat(513)] {
            assert_eq!(rejected_field(with(|i| i.cluster_name = cluster.into())), "cluster", "{cluster:?}");
        }
        for interval in ["", "5s", "0", "-1", "1.5"] {
            assert_eq!(rejected_field(with_metadata(HEART_BEAT_INTERVAL, interval)), "metadata", "{interval:?}");
        }
    }

    #[test]
    fn ipv6_addresses_and_host_names_are_valid() {
        for ip in ["::1", "fe80::1", "backend.example", "127.0.0.7"] {
            assert_eq!(Instance::new(ip, 80).validate(), Ok(()), "{ip}");
        }
    }

    #[test]
    fn metadata_is_limited_to_64_kib() {
        assert_eq!(with_metadata("k", &"v".repeat(65_535)).validate(), Ok(()));
        assert_eq!(rejected_field(with_metadata("k", &"v".repeat(65_536))), "metadata");
        assert_eq!(rejected_field(with_metadata("k", &"ж".repeat(32_768))), "metadata", "bytes count");
    }

    #[test]
    fn an_interval_must_be_shorter_than_the_timeouts() {
        let mut instance = with_metadata(HEART_BEAT_INTERVAL, "1000");
        instance.metadata.insert(HEART_BEAT_TIMEOUT.into(), "3000".into());
        assert_eq!(instance.validate(), Ok(()));
        assert_eq!(instance.preserved_interval(), Some(Duration::from_secs(1)));
        instance.metadata.insert(IP_DELETE_TIMEOUT.into(), "1000".into());
        assert_eq!(rejected_field(instance), "metadata");
    }

    #[test]
    fn timeouts_without_an_interval_are_registered_with_a_fitting_interval() {
        let interval = |pairs: &[(&str, &str)]| {
            let mut instance = Instance::new("127.0.0.7", 80);
            instance.metadata.extend(pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())));
            assert_eq!(instance.validate(), Ok(()), "{pairs:?}");
            let sent = instance.metadata_to_register().get(HEART_BEAT_INTERVAL).map(|millis| millis.parse().unwrap());
            assert_eq!(sent, instance.preserved_interval().map(|interval| interval.as_millis()), "{pairs:?}");
            sent
        };
        assert_eq!(interval(&[]), None);
        assert_eq!(interval(&[(HEART_BEAT_TIMEOUT, "3000")]), Some(1000));
        assert_eq!(interval(&[(HEART_BEAT_TIMEOUT, "30000"), (IP_DELETE_TIMEOUT, "6000")]), Some(2000));
        assert_eq!(interval(&[(IP_DELETE_TIMEOUT, "2")]), Some(1));
        assert_eq!(interval(&[(HEART_BEAT_TIMEOUT, "60000")]), Some(5000));
        assert_eq!(interval(&[(HEART_BEAT_TIMEOUT, "3000"), (HEART_BEAT_INTERVAL, "700")]), Some(700), "as given");
        assert_eq!(rejected_field(with_metadata(HEART_BEAT_TIMEOUT, "1")), "metadata", "no interval fits");
        assert_eq!(
            rejected_field(with_metadata(HEART_BEAT_INTERVAL, "15000")),
            "metadata",
            "the default timeout is 15 s"
        );
        let persistent = Instance { ephemeral: false, ..with_metadata(HEART_BEAT_TIMEOUT, "3000") };
        assert_eq!(*persistent.metadata_to_register(), persistent.metadata, "it does not beat");
    }
}
