//! Lists of instances in the form of each dialect.
//!
//! A list goes through three steps: which instances are visible (late, since 2.x), which of them the request
//! selects ([`Selection`]), and how the dialect writes them ([`ListedHost`] and the list structs).
//!
//! | field of a list | 1.4 | 2.5 | 3.0 |
//! |---|---|---|---|
//! | `name` | `GROUP@@service` | the same | the same |
//! | `dom`, `env`, `useSpecifiedURL`, `metadata` | yes | no | no |
//! | `groupName` | no | yes, not in pushes | yes, not in pushes |
//! | `allIPs` / `allIps` | no | `allIPs` | `allIps` |
//! | `reachProtectionThreshold`, `valid` | no | yes | yes |
//! | `lastRefTime` | ms since 1970, by the server's clock | the same | the same |
//! | `cacheMillis` | 3,000, or 10,000 with pushes | 10,000 | 10,000 |

use std::{
    collections::hash_map::DefaultHasher,
    hash::{Hash, Hasher},
    sync::Arc,
};

use serde::{ser::Error, Serialize, Serializer};
use smol_str::SmolStr;

use crate::{
    model::instance::{HEART_BEAT_INTERVAL, HEART_BEAT_TIMEOUT, IP_DELETE_TIMEOUT},
    wire::v1::Host,
};

use super::{
    agenda::Due,
    agent::Agent,
    catalogue::{Instance, Service, ServiceKey},
    dialect::Dialect,
    settings::Settings,
    state::State,
};

/// The instances in one list.
///
/// Disabled instances are in no list. `reaches_protection_threshold`: so few instances are healthy that all are shown
/// as healthy, so that the few are not overloaded.
#[derive(Default)]
pub(crate) struct Selection {
    pub(crate) hosts: Vec<Instance>,
    reaches_protection_threshold: bool,
}

impl Selection {
    /// Selects from `visible` the enabled instances in `clusters` (separated by commas, all if empty), and with
    /// `healthy_only` only healthy ones.
    pub(crate) fn of(
        service: &Service,
        visible: Arc<Vec<Instance>>,
        dialect: Dialect,
        clusters: &str,
        healthy_only: bool,
    ) -> Self {
        let wanted: Vec<&str> = clusters.split(',').filter(|cluster| !cluster.is_empty()).collect();
        let mut hosts = Arc::unwrap_or_clone(visible);
        hosts.retain(|instance| wanted.is_empty() || wanted.contains(&instance.cluster.as_str()));
        if dialect.is_v1_4() {
            Selection::of_v1_4(service, hosts, healthy_only)
        } else {
            Selection::since_2(service, hosts, healthy_only)
        }
    }

    /// Disabled instances count for the threshold. With the default threshold of 0, all instances are listed as healthy
    /// when all are unhealthy (`InstanceController.doSrvIpxt`).
    fn of_v1_4(service: &Service, mut hosts: Vec<Instance>, healthy_only: bool) -> Self {
        let threshold = service.metadata.as_ref().map_or(0.0, |set| set.protect_threshold);
        let reaches_protection_threshold = is_reached(threshold, healthy(&hosts), hosts.len());
        hosts.retain(|instance| instance.enabled);
        if reaches_protection_threshold {
            hosts.iter_mut().for_each(|instance| instance.healthy = true);
        }
        hosts.retain(|instance| instance.healthy || !healthy_only);
        Selection { hosts, reaches_protection_threshold }
    }

    /// A service without metadata is not protected (`ServiceUtil.selectInstancesWithHealthyProtection`).
    fn since_2(service: &Service, mut hosts: Vec<Instance>, healthy_only: bool) -> Self {
        hosts.retain(|instance| instance.enabled && (instance.healthy || !healthy_only));
        let threshold = service.metadata.as_ref().map(|set| set.protect_threshold);
        let reaches_protection_threshold =
            threshold.is_some_and(|threshold| is_reached(threshold, healthy(&hosts), hosts.len()));
        if reaches_protection_threshold {
            hosts.iter_mut().for_each(|instance| instance.healthy = true);
        }
        Selection { hosts, reaches_protection_threshold }
    }
}

/// How many of these instances are healthy.
fn healthy(hosts: &[Instance]) -> usize {
    hosts.iter().filter(|instance| instance.healthy).count()
}

/// For an empty service the share is NaN, which reaches no threshold.
///
/// Compared as Nacos does, in 32 bits: a share that equals the threshold reaches it.
fn is_reached(threshold: f32, healthy: usize, all: usize) -> bool {
    healthy as f32 / all as f32 <= threshold.max(0.0)
}

/// An instance in a list, with the fields that only this dialect has.
///
/// Fields that only one version has are ignored by clients, and are written because other clients may read them.
pub(crate) struct ListedHost {
    host: Host,
    addition: Addition,
}

impl Serialize for ListedHost {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Fields<'a> {
            #[serde(flatten)]
            host: &'a Host,
            #[serde(flatten)]
            addition: &'a Addition,
        }
        let fields = Fields { host: &self.host, addition: &self.addition };
        if !self.host.instance_id.is_empty() {
            return fields.serialize(serializer);
        }
        let mut fields = serde_json::to_value(&fields).map_err(S::Error::custom)?;
        if let Some(fields) = fields.as_object_mut() {
            fields.remove("instanceId");
        }
        fields.serialize(serializer)
    }
}

#[derive(Serialize)]
#[serde(untagged, rename_all_fields = "camelCase")]
enum Addition {
    V1_4 {
        valid: bool,
        marked: bool,
    },
    Since2 {
        instance_heart_beat_interval: u64,
        instance_heart_beat_time_out: u64,
        ip_delete_timeout: u64,
        /// Present only for instances without metadata, because Nacos' getter looks the default up incorrectly.
        #[serde(skip_serializing_if = "Option::is_none")]
        instance_id_generator: Option<&'static str>,
    },
}

impl ListedHost {
    pub(crate) fn new(settings: &Settings, key: &ServiceKey, instance: Instance, service_name: &str) -> Self {
        let addition = if settings.dialect.is_v1_4() {
            Addition::V1_4 { valid: instance.healthy, marked: false }
        } else {
            let millis =
                |key, default: std::time::Duration| instance.preserved(key).unwrap_or(default).as_millis() as u64;
            Addition::Since2 {
                instance_heart_beat_interval: millis(HEART_BEAT_INTERVAL, settings.beat_interval()),
                instance_heart_beat_time_out: millis(HEART_BEAT_TIMEOUT, settings.heartbeat_timeout),
                ip_delete_timeout: millis(IP_DELETE_TIMEOUT, settings.delete_timeout),
                instance_id_generator: instance.metadata.is_empty().then_some("simple"),
            }
        };
        ListedHost { host: host(key, instance, service_name), addition }
    }
}

/// The fields that every version has.
fn host(key: &ServiceKey, instance: Instance, service_name: &str) -> Host {
    Host {
        instance_id: if instance.has_id { instance_id(key, &instance).into() } else { SmolStr::default() },
        ip: instance.ip.into(),
        port: instance.port,
        weight: instance.weight,
        healthy: instance.healthy,
        enabled: instance.enabled,
        ephemeral: instance.ephemeral,
        cluster_name: instance.cluster.into(),
        service_name: service_name.into(),
        metadata: instance.metadata,
    }
}

/// `ip#port#cluster#GROUP@@service`. r-nacos writes `ip#port`, by which clients distinguish the two servers.
pub(crate) fn instance_id(key: &ServiceKey, instance: &Instance) -> String {
    format!("{}#{}#{}#{}", instance.ip, instance.port, instance.cluster, key.service)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct List1_4<'a> {
    name: String,
    dom: String,
    cache_millis: u64,
    last_ref_time: i64,
    checksum: String,
    #[serde(rename = "useSpecifiedURL")]
    use_specified_url: bool,
    clusters: &'a str,
    env: &'a str,
    metadata: &'a crate::model::instance::Metadata,
    hosts: Vec<ListedHost>,
}

/// The answer of 1.4 for an unknown service.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Unknown1_4<'a> {
    name: String,
    clusters: &'a str,
    cache_millis: u64,
    hosts: [ListedHost; 0],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ListSince2<'a> {
    name: String,
    /// Missing in pushes.
    #[serde(skip_serializing_if = "Option::is_none")]
    group_name: Option<&'a str>,
    clusters: &'a str,
    cache_millis: u64,
    hosts: Vec<ListedHost>,
    last_ref_time: i64,
    checksum: &'a str,
    #[serde(rename = "allIPs", skip_serializing_if = "Option::is_none")]
    all_ips_of_2: Option<bool>,
    #[serde(rename = "allIps", skip_serializing_if = "Option::is_none")]
    all_ips_of_3: Option<bool>,
    reach_protection_threshold: bool,
    valid: bool,
}

/// How a v1 list reaches the client.
#[derive(Clone, Copy)]
pub(crate) enum Delivery {
    /// In an answer. `subscribed` says whether the client gets pushes from now on.
    Answer {
        subscribed: bool,
    },
    Push,
}

/// A request for a v1 list.
pub(crate) struct ListRequest<'a> {
    /// Separated by commas. Empty for all clusters.
    pub(crate) clusters: &'a str,
    pub(crate) healthy_only: bool,
    pub(crate) agent: &'a Agent,
    pub(crate) delivery: Delivery,
}

impl State {
    /// The instances of a service that lists and GET show now. `None` for an unknown service.
    ///
    /// The first list stores the instances that it shows. Later lists show these instances until the renewal that the
    /// next change plans.
    pub(crate) fn visible_instances(&mut self, key: &ServiceKey) -> Option<Arc<Vec<Instance>>> {
        let is_late = !self.settings.list_delay().is_zero();
        let service = self.catalogue.service_mut(key)?;
        if !is_late {
            return Some(service.all_effective());
        }
        if service.listed.is_none() {
            service.listed = Some(service.all_effective());
        }
        service.listed.clone()
    }

    /// Shows a change of the service after the list delay.
    pub(crate) fn renew_list_later(&mut self, key: &Arc<ServiceKey>) {
        let delay = self.settings.list_delay();
        let Some(service) = self.catalogue.service_mut(key).filter(|_| !delay.is_zero()) else { return };
        if !std::mem::replace(&mut service.renews_list, true) {
            self.agenda.enter(self.clock.now() + delay, Due::RenewList { service: key.clone() });
        }
    }

    /// Shows the current state from now on.
    pub(crate) fn renew_list(&mut self, key: &ServiceKey) {
        let is_late = !self.settings.list_delay().is_zero();
        if let Some(service) = self.catalogue.service_mut(key).filter(|_| is_late) {
            service.listed = Some(service.all_effective());
            service.renews_list = false;
        }
    }

    /// A v1 list of the instances in `visible`, as JSON.
    pub(crate) fn list(
        &self,
        key: &ServiceKey,
        visible: Option<Arc<Vec<Instance>>>,
        request: &ListRequest<'_>,
    ) -> serde_json::Result<String> {
        let service = self.catalogue.service(key);
        let selection = service.zip(visible).map(|(service, visible)| {
            Selection::of(service, visible, self.dialect(), request.clusters, request.healthy_only)
        });
        if self.dialect().is_v1_4() {
            self.list_of_v1_4(key, service.zip(selection), request)
        } else {
            self.list_since_2(key, selection.unwrap_or_default(), request)
        }
    }

    fn list_of_v1_4(
        &self,
        key: &ServiceKey,
        found: Option<(&Service, Selection)>,
        &ListRequest { clusters, agent, delivery, .. }: &ListRequest<'_>,
    ) -> serde_json::Result<String> {
        let name = key.service.to_string();
        let cache_millis = self.settings.cache_millis(!matches!(delivery, Delivery::Answer { subscribed: false }));
        let Some((service, selection)) = found else {
            return serde_json::to_string(&Unknown1_4 { name, clusters, cache_millis, hosts: [] });
        };
        let dom = if agent.gets_grouped_names() { name.clone() } else { key.service.name.to_string() };
        let metadata = service.metadata.as_ref().map(|set| &set.metadata);
        serde_json::to_string(&List1_4 {
            cache_millis,
            last_ref_time: self.clock.unix_millis(),
            checksum: checksum(&selection),
            use_specified_url: false,
            clusters,
            env: "",
            metadata: metadata.unwrap_or(&crate::model::instance::Metadata::new()),
            hosts: self.listed(key, selection.hosts, &dom),
            name,
            dom,
        })
    }

    /// 2.x and 3.x differ in the spelling of one field. An unknown service has an empty list.
    fn list_since_2(
        &self,
        key: &ServiceKey,
        selection: Selection,
        &ListRequest { clusters, delivery, .. }: &ListRequest<'_>,
    ) -> serde_json::Result<String> {
        let name = key.service.to_string();
        let is_v2 = self.dialect() == Dialect::V2_5;
        serde_json::to_string(&ListSince2 {
            group_name: matches!(delivery, Delivery::Answer { .. }).then_some(&key.service.group),
            clusters,
            cache_millis: self.settings.cache_millis(true),
            last_ref_time: self.clock.unix_millis(),
            checksum: "",
            all_ips_of_2: is_v2.then_some(false),
            all_ips_of_3: (!is_v2).then_some(false),
            reach_protection_threshold: selection.reaches_protection_threshold,
            valid: true,
            hosts: self.listed(key, selection.hosts, &name),
            name,
        })
    }

    /// The instances as the dialect writes them.
    pub(crate) fn listed(&self, key: &ServiceKey, hosts: Vec<Instance>, service_name: &str) -> Vec<ListedHost> {
        hosts.into_iter().map(|instance| ListedHost::new(&self.settings, key, instance, service_name)).collect()
    }
}

/// The checksum is not the MD5 that Nacos computes. Clients only compare it with the previous checksum.
fn checksum(selection: &Selection) -> String {
    let mut hasher = DefaultHasher::new();
    for i in &selection.hosts {
        (&i.ip, i.port, &i.cluster, i.weight.to_bits(), i.healthy, i.ephemeral, &i.metadata).hash(&mut hasher);
    }
    let low = hasher.finish();
    1u8.hash(&mut hasher);
    format!("{low:016x}{:016x}", hasher.finish())
}
