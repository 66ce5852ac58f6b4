//! The registered services, their instances, and the changes that operators made to them.
//!
//! The tables behind every list. They are more than a map of instances:
//!
//! - **Identity.** On 1.4 the cluster is part of an instance's identity. Since 2.x an address is one client with
//!   one instance per service, so the same address in another cluster replaces the instance.
//! - **Overrides.** On 1.4 a PUT changes the instance. Since 2.x it is stored beside the instance, wins over what
//!   the owner registers, and outlives the instance by a minute.
//! - **Two states.** `instances` has the current state. `listed` has what lists and GET show, which lags since 2.x.
//!
//! Services and instances are ordered by their keys, so pages and lists are the same each time.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use crate::model::{instance::Metadata, service::ServiceName};

/// A service within its namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ServiceKey {
    pub(crate) namespace: String,
    pub(crate) service: ServiceName,
}

/// Identifies an instance within its service, by the rules of the dialect.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct InstanceKey {
    pub(crate) ip: String,
    pub(crate) port: i64,
    pub(crate) ephemeral: bool,
    /// Empty since 2.x, where an address is one client (`IpPortBasedClient`). A client has one instance per service,
    /// independent of the cluster.
    pub(crate) cluster: String,
}

/// An instance as it was registered. [`Service::effective`] is what clients see of it.
#[derive(Clone, Debug)]
pub(crate) struct Instance {
    pub(crate) ip: String,
    pub(crate) port: i64,
    pub(crate) cluster: String,
    pub(crate) weight: f64,
    pub(crate) enabled: bool,
    pub(crate) healthy: bool,
    pub(crate) ephemeral: bool,
    pub(crate) metadata: Metadata,
    /// False for instances that were registered by v3, which are listed without `instanceId`.
    pub(crate) has_id: bool,
    pub(crate) last_beat: Duration,
    /// Distinguishes this registration from an earlier one with the same key.
    pub(crate) registration: u64,
}

/// The values that PUT and PATCH set on 2.x. They override those of the instance, and outlive it for a while
/// (`InstanceMetadata`).
#[derive(Clone, Debug)]
pub(crate) struct Override {
    pub(crate) weight: f64,
    pub(crate) enabled: bool,
    pub(crate) metadata: Metadata,
    /// Set while the instance does not exist.
    pub(crate) expires: Option<Duration>,
}

impl Default for Override {
    fn default() -> Self {
        Override { weight: 1.0, enabled: true, metadata: Metadata::new(), expires: None }
    }
}

/// Cluster, ip and port.
pub(crate) type InstanceAddress = (String, String, i64);

/// What an operator has set for a service, not for its instances.
#[derive(Clone, Debug, Default)]
pub(crate) struct ServiceMetadata {
    pub(crate) protect_threshold: f32,
    pub(crate) metadata: Metadata,
}

/// One service with all that depends on it. Created by its first instance, or by an operator.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) key: Arc<ServiceKey>,
    pub(crate) created: Duration,
    /// Since 2.x all instances of a service are ephemeral, or all are persistent.
    pub(crate) ephemeral: bool,
    /// `None` until it is set. 2.x protects no service without metadata.
    pub(crate) metadata: Option<ServiceMetadata>,
    pub(crate) instances: BTreeMap<Arc<InstanceKey>, Instance>,
    pub(crate) overrides: HashMap<InstanceAddress, Override>,
    /// The instances in lists and GET since 2.x, until they are renewed. `None` before the first list and the first
    /// change.
    pub(crate) listed: Option<Arc<Vec<Instance>>>,
    /// Whether a renewal of `listed` is pending.
    pub(crate) renews_list: bool,
    /// Since when the service has no instances.
    pub(crate) empty_since: Option<Duration>,
    /// All clusters that ever existed. 1.4 keeps them.
    pub(crate) clusters: BTreeSet<String>,
}

impl Service {
    pub(crate) fn new(key: Arc<ServiceKey>, ephemeral: bool, now: Duration) -> Self {
        Service {
            key,
            created: now,
            ephemeral,
            metadata: None,
            instances: BTreeMap::new(),
            overrides: HashMap::new(),
            listed: None,
            renews_list: false,
            empty_since: Some(now),
            clusters: BTreeSet::new(),
        }
    }

    /// The instance with an operator's override applied.
    pub(crate) fn effective(&self, instance: &Instance) -> Instance {
        let mut effective = instance.clone();
        if let Some(over) = self.overrides.get(&instance.address()) {
            effective.weight = over.weight;
            effective.enabled = over.enabled;
            effective.metadata.extend(over.metadata.clone());
        }
        effective
    }

    /// All current instances with the overrides applied.
    pub(crate) fn all_effective(&self) -> Arc<Vec<Instance>> {
        Arc::new(self.instances.values().map(|instance| self.effective(instance)).collect())
    }

    /// The instances that a list would show now. Unlike a list, does not store the result for later lists.
    pub(crate) fn listed_or_all(&self) -> Arc<Vec<Instance>> {
        self.listed.clone().unwrap_or_else(|| self.all_effective())
    }
}

impl Instance {
    pub(crate) fn address(&self) -> InstanceAddress {
        (self.cluster.clone(), self.ip.clone(), self.port)
    }

    /// Whether this is the instance at this cluster, ip and port.
    pub(crate) fn is_at(&self, (cluster, ip, port): (&str, &str, i64)) -> bool {
        self.cluster == cluster && self.ip == ip && self.port == port
    }

    /// A duration in the metadata, in milliseconds. Only digits are accepted.
    pub(crate) fn preserved(&self, key: &str) -> Option<Duration> {
        let digits = self.metadata.get(key).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
        digits.parse().ok().map(Duration::from_millis)
    }
}

/// All services of all namespaces.
#[derive(Debug, Default)]
pub(crate) struct Catalogue {
    services: BTreeMap<Arc<ServiceKey>, Service>,
    registrations: u64,
}

impl Catalogue {
    pub(crate) fn service(&self, key: &ServiceKey) -> Option<&Service> {
        self.services.get(key)
    }

    pub(crate) fn service_mut(&mut self, key: &ServiceKey) -> Option<&mut Service> {
        self.services.get_mut(key)
    }

    /// Returns the service, and creates it for a first instance. `ephemeral` is used only for a new service.
    pub(crate) fn service_or_new(&mut self, key: &ServiceKey, ephemeral: bool, now: Duration) -> &mut Service {
        let key = match self.services.get_key_value(key) {
            Some((key, _)) => key.clone(),
            None => Arc::new(key.clone()),
        };
        self.services.entry(key.clone()).or_insert_with(|| Service::new(key, ephemeral, now))
    }

    pub(crate) fn remove(&mut self, key: &ServiceKey) -> Option<Service> {
        self.services.remove(key)
    }

    pub(crate) fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.values()
    }

    /// A new number for each registration of a new instance, by which outdated checks are recognised.
    pub(crate) fn next_registration(&mut self) -> u64 {
        self.registrations += 1;
        self.registrations
    }
}
