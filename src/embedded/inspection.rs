//! Snapshots of the server's state for tests.
//!
//! What the API shows depends on the dialect and on delays. These snapshots show the current state with the overrides
//! of operators, even if lists do not show it yet.

use std::time::Duration;

use crate::model::{
    instance::Metadata,
    service::{ServiceName, DEFAULT_GROUP},
};

use super::{
    catalogue::{Instance, ServiceKey},
    state::State,
};

/// An instance as the server has it at one moment, with the changes that operators made to it.
///
/// ```
/// # use actix_nacos::{embedded::EmbeddedServer, prelude::*};
/// # #[actix::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let server = EmbeddedServer::start()?;
/// # let registry = Registry::start(Config::new(server.server_address()))?;
/// registry.send(RegisterInstance::new("orders", "127.0.0.7", 8080).weight(2.0)).await??;
/// let instance = &server.instances("orders")[0];
/// assert!(instance.healthy && instance.weight == 2.0);
/// # Ok(())
/// # }
/// ```
///
/// It is a copy and does not change. The fields mean the same in every dialect.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct InstanceSnapshot {
    /// IP address or host name.
    pub ip: String,
    /// TCP port.
    pub port: u16,
    /// The cluster within the service.
    pub cluster: String,
    /// Share of the calls, from 0 to 10,000.
    pub weight: f64,
    /// Whether the instance takes calls.
    pub enabled: bool,
    /// Whether the last beat came in time.
    pub healthy: bool,
    /// Whether beats keep the instance registered.
    pub ephemeral: bool,
    /// The metadata, including the changes of operators.
    pub metadata: Metadata,
    /// The time since the registration or the last beat.
    pub since_last_beat: Duration,
}

/// Reads `name` or `GROUP@@name`.
pub(crate) fn key_of(namespace: &str, service: &str) -> ServiceKey {
    ServiceKey { namespace: namespace.into(), service: ServiceName::from_wire(service, DEFAULT_GROUP) }
}

impl State {
    /// Includes disabled and unhealthy instances.
    pub(crate) fn snapshot(&self, key: &ServiceKey) -> Vec<InstanceSnapshot> {
        let now = self.now();
        let Some(service) = self.catalogue.service(key) else { return Vec::new() };
        service.instances.values().map(|instance| InstanceSnapshot::of(service.effective(instance), now)).collect()
    }

    pub(crate) fn forget_instance(&mut self, service: &str, ip: &str, port: u16) -> bool {
        let key = key_of("public", service);
        let known = self.catalogue.service(&key).map(|service| service.instances.values());
        let matching = known.into_iter().flatten().filter(|i| i.ip == ip && i.port == i64::from(port));
        let matching: Vec<Instance> = matching.cloned().collect();
        for i in &matching {
            self.deregister(&key, &i.ip, i.port, &i.cluster, i.ephemeral);
        }
        !matching.is_empty()
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
