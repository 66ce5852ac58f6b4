//! Which instance a message is about.

use std::sync::Arc;

use crate::{
    error::Error,
    instance::{Instance, InstanceKey, DEFAULT_CLUSTER},
    service::ServiceName,
};

/// Names one instance as the caller wrote it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Target {
    pub(super) service: String,
    pub(super) group: Option<String>,
    pub(super) cluster: String,
    pub(super) ip: String,
    pub(super) port: u16,
}

impl Target {
    pub(super) fn new(service: impl Into<String>, ip: impl Into<String>, port: u16) -> Self {
        Target { service: service.into(), group: None, cluster: DEFAULT_CLUSTER.into(), ip: ip.into(), port }
    }

    pub(super) fn key(&self) -> Result<Arc<InstanceKey>, Error> {
        let service = ServiceName::resolve(&self.service, self.group.as_deref())?;
        let key = InstanceKey { service, cluster: self.cluster.clone(), ip: self.ip.clone(), port: self.port };
        key.validate()?;
        Ok(Arc::new(key))
    }

    /// The instance with these values, whose own name of its place counts for nothing.
    pub(super) fn with_values(self, values: Instance) -> Result<(Arc<InstanceKey>, Instance), Error> {
        let service = ServiceName::resolve(&self.service, self.group.as_deref())?;
        let instance =
            Instance { ip: self.ip, cluster_name: self.cluster, service_name: service.to_string(), ..values };
        instance.validate()?;
        Ok((Arc::new(InstanceKey::of(&service, &instance)), instance))
    }
}

/// The setters of everything that names an instance.
macro_rules! target_setters {
    () => {
        /// The group of the service. Default: the one in `GROUP@@service`, else `DEFAULT_GROUP`.
        #[must_use]
        pub fn group(mut self, group: impl Into<String>) -> Self {
            self.target.group = Some(group.into());
            self
        }

        /// The cluster within the service. Default: `DEFAULT`.
        #[must_use]
        pub fn cluster(mut self, cluster: impl Into<String>) -> Self {
            self.target.cluster = cluster.into();
            self
        }
    };
}

pub(super) use target_setters;
