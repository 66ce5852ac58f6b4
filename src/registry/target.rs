//! Which instance a message is about.
//!
//! Names from an application are checked strictly, since they become registrations. Names from a list or a status
//! are only checked for what no server accepts: whatever a server has must be possible to read, change and
//! deregister.

use std::sync::Arc;

use smol_str::SmolStr;

use crate::{
    error::Error,
    model::{
        instance::{Instance, InstanceKey, DEFAULT_CLUSTER},
        service::ServiceRef,
    },
};

/// The name of one instance, as the caller wrote it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Target {
    pub(super) service: ServiceRef,
    pub(super) group: Option<String>,
    pub(super) cluster: SmolStr,
    pub(super) ip: SmolStr,
    pub(super) port: u16,
    /// Whether the name comes from a list or a status. Then its address is accepted even if it could not be registered.
    is_known: bool,
}

impl Target {
    pub(super) fn new(service: impl Into<ServiceRef>, ip: impl Into<String>, port: u16) -> Self {
        let (service, ip, cluster) = (service.into(), SmolStr::from(ip.into()), DEFAULT_CLUSTER.into());
        Target { service, group: None, cluster, ip, port, is_known: false }
    }

    /// Checks the name.
    pub(super) fn key(&self) -> Result<Arc<InstanceKey>, Error> {
        let service = self.service.resolve(self.group.as_deref())?;
        let key = InstanceKey { service, cluster: self.cluster.clone(), ip: self.ip.clone(), port: self.port };
        if self.is_known {
            key.validate_known()?;
        } else {
            key.validate()?;
        }
        Ok(Arc::new(key))
    }

    /// Checks the name and the values. The instance gets this name, whatever name `values` has.
    pub(super) fn with_values(self, values: Instance) -> Result<(Arc<InstanceKey>, Instance), Error> {
        let service = self.service.resolve(self.group.as_deref())?;
        let Target { cluster: cluster_name, ip, port, .. } = self;
        let instance = Instance { ip, port, cluster_name, service_name: service.grouped(), ..values };
        instance.validate()?;
        Ok((Arc::new(InstanceKey::of(&service, &instance)), instance))
    }
}

impl From<InstanceKey> for Target {
    fn from(InstanceKey { service, cluster, ip, port }: InstanceKey) -> Self {
        Target { service: service.into(), group: None, cluster, ip, port, is_known: true }
    }
}

/// Converts everything that names an instance into a message. The message has a constructor
/// `of(Target, Option<Instance>)`, which also receives the values if they are known.
macro_rules! target_conversions {
    ($message:ident) => {
        impl From<$crate::model::instance::InstanceKey> for $message {
            fn from(key: $crate::model::instance::InstanceKey) -> Self {
                $message::of(key.into(), None)
            }
        }

        impl From<&$crate::model::instance::InstanceKey> for $message {
            fn from(key: &$crate::model::instance::InstanceKey) -> Self {
                key.clone().into()
            }
        }

        /// Names the instance by its `service_name`, cluster, ip and port.
        impl From<$crate::model::instance::Instance> for $message {
            fn from(instance: $crate::model::instance::Instance) -> Self {
                $message::of($crate::model::instance::InstanceKey::from(&instance).into(), Some(instance))
            }
        }

        /// Names the instance by its `service_name`, cluster, ip and port.
        impl From<&$crate::model::instance::Instance> for $message {
            fn from(instance: &$crate::model::instance::Instance) -> Self {
                instance.clone().into()
            }
        }

        /// Names the instance by its `service_name`, cluster, ip and port.
        impl From<std::sync::Arc<$crate::model::instance::Instance>> for $message {
            fn from(instance: std::sync::Arc<$crate::model::instance::Instance>) -> Self {
                std::sync::Arc::unwrap_or_clone(instance).into()
            }
        }

        /// Names the instance by its `service_name`, cluster, ip and port.
        impl From<&std::sync::Arc<$crate::model::instance::Instance>> for $message {
            fn from(instance: &std::sync::Arc<$crate::model::instance::Instance>) -> Self {
                $crate::model::instance::Instance::clone(instance).into()
            }
        }
    };
}

/// The setters of every message with a [`Target`].
macro_rules! target_setters {
    () => {
        $crate::registry::filter::group_setter!(target);

        /// Sets the cluster within the service. Default: `DEFAULT`.
        #[must_use]
        pub fn cluster(mut self, cluster: impl Into<String>) -> Self {
            self.target.cluster = cluster.into().into();
            self
        }
    };
}

pub(super) use target_conversions;
pub(super) use target_setters;
