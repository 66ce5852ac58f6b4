//! A look inside, for tests.

use std::time::Duration;

use crate::model::{
    instance::Metadata,
    service::{ServiceName, DEFAULT_GROUP},
};

use super::{
    catalogue::{Instance, ServiceKey},
    state::State,
};

/// An instance as the server has it at one moment, with what operators changed about it laid over.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct InstanceSnapshot {
    /// Its address.
    pub ip: String,
    /// Its port.
    pub port: u16,
    /// Its cluster.
    pub cluster: String,
    /// Its weight.
    pub weight: f64,
    /// Whether it takes calls.
    pub enabled: bool,
    /// Whether it has beaten in time.
    pub healthy: bool,
    /// Whether it lives by beats.
    pub ephemeral: bool,
    /// Its metadata.
    pub metadata: Metadata,
    /// How long ago it was registered or last beat.
    pub since_last_beat: Duration,
}

pub(crate) fn key_of(namespace: &str, service: &str) -> ServiceKey {
    ServiceKey { namespace: namespace.into(), service: ServiceName::from_wire(service, DEFAULT_GROUP) }
}

impl State {
    /// Disabled and unhealthy ones too.
    pub(crate) fn snapshot(&self, key: &ServiceKey) -> Vec<InstanceSnapshot> {
        let now = self.now();
        let Some(service) = self.catalogue.service(key) else { return Vec::new() };
        service.instances.values().map(|instance| InstanceSnapshot::of(service.shown(instance), now)).collect()
    }

    pub(crate) fn forget_instance(&mut self, service: &str, ip: &str, port: u16) -> bool {
        let key = key_of("public", service);
        let known = self.catalogue.service(&key).map(|service| service.instances.values());
        let met = known.into_iter().flatten().filter(|i| i.ip == ip && i.port == i64::from(port));
        let met: Vec<Instance> = met.cloned().collect();
        for i in &met {
            self.deregister(&key, &i.ip, i.port, &i.cluster, i.ephemeral);
        }
        !met.is_empty()
    }
}

impl InstanceSnapshot {
    fn of(instance: Instance, now: Duration) -> Self {
        InstanceSnapshot {
            ip: instance.ip,
            port: u16::try_from(instance.port).unwrap_or(0),
            cluster: instance.cluster,
            weight: instance.weight,
            enabled: instance.enabled,
            healthy: instance.healthy,
            ephemeral: instance.ephemeral,
            metadata: instance.metadata,
            since_last_beat: now.saturating_sub(instance.last_beat),
        }
    }
}
