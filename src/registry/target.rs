//! Which instance a message is about.

use std::sync::Arc;

use crate::{
    error::Error,
    model::{
        instance::{Instance, InstanceKey, DEFAULT_CLUSTER},
        service::ServiceRef,
    },
};

/// Names one instance as the caller wrote it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Target {
    pub(super) service: ServiceRef,
    pub(super) group: Option<String>,
    pub(super) cluster: String,
    pub(super) ip: String,
    pub(super) port: u16,
    /// Known from a list or a status: its address is what it is, though nobody could call it.
    is_known: bool,
}

impl Target {
    pub(super) fn new(service: impl Into<ServiceRef>, ip: impl Into<String>, port: u16) -> Self {
        let (service, ip, cluster) = (service.into(), ip.into(), DEFAULT_CLUSTER.into());
        Target { service, group: None, cluster, ip, port, is_known: false }
    }

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

    /// The instance with these values, whose own name of its place counts for nothing.
    pub(super) fn with_values(self, values: Instance) -> Result<(Arc<InstanceKey>, Instance), Error> {
        let service = self.service.resolve(self.group.as_deref())?;
        let instance =
            Instance { ip: self.ip, cluster_name: self.cluster, service_name: service.to_string(), ..values };
        instance.validate()?;
        Ok((Arc::new(InstanceKey::of(&service, &instance)), instance))
    }
}

impl From<InstanceKey> for Target {
    fn from(InstanceKey { service, cluster, ip, port }: InstanceKey) -> Self {
        Target { service: service.into(), group: None, cluster, ip, port, is_known: true }
    }
}

/// Makes a message from whatever names an instance, by its `of(Target, Option<Instance>)`.
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

        /// By its `service_name`, cluster, ip and port.
        impl From<$crate::model::instance::Instance> for $message {
            fn from(instance: $crate::model::instance::Instance) -> Self {
                $message::of($crate::model::instance::InstanceKey::from(&instance).into(), Some(instance))
            }
        }

        /// By its `service_name`, cluster, ip and port.
        impl From<&$crate::model::instance::Instance> for $message {
            fn from(instance: &$crate::model::instance::Instance) -> Self {
                instance.clone().into()
            }
        }

        /// By its `service_name`, cluster, ip and port.
        impl From<std::sync::Arc<$crate::model::instance::Instance>> for $message {
            fn from(instance: std::sync::Arc<$crate::model::instance::Instance>) -> Self {
                std::sync::Arc::unwrap_or_clone(instance).into()
            }
        }

        /// By its `service_name`, cluster, ip and port.
        impl From<&std::sync::Arc<$crate::model::instance::Instance>> for $message {
            fn from(instance: &std::sync::Arc<$crate::model::instance::Instance>) -> Self {
                $crate::model::instance::Instance::clone(instance).into()
            }
        }
    };
}

/// The setters of everything that names an instance.
macro_rules! target_setters {
    () => {
        /// The group of the service. Default: the one of a [`ServiceName`](crate::ServiceName) or in `GROUP@@service`, else
        /// `DEFAULT_GROUP`.
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

pub(super) use target_conversions;
pub(super) use target_setters;
