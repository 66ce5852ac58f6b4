//! Which instances of which service a message is about.

use crate::{
    discovery::subscriber::SubscriptionKey,
    error::Error,
    model::service::{cluster_filter, ServiceRef},
};

/// Names what to list or to watch, as the caller wrote it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Filter {
    pub(super) service: ServiceRef,
    pub(super) group: Option<String>,
    pub(super) clusters: Vec<String>,
}

impl Filter {
    pub(super) fn new(service: impl Into<ServiceRef>) -> Self {
        Filter { service: service.into(), group: None, clusters: Vec::new() }
    }

    pub(super) fn resolve(&self) -> Result<SubscriptionKey, Error> {
        let service = self.service.resolve(self.group.as_deref())?;
        Ok(SubscriptionKey { service, clusters: cluster_filter(&self.clusters)? })
    }
}

/// The setters of everything that lists or watches.
macro_rules! filter_setters {
    () => {
        /// The group of the service. Default: the one of a [`ServiceName`](crate::ServiceName) or in `GROUP@@service`, else
        /// `DEFAULT_GROUP`.
        #[must_use]
        pub fn group(mut self, group: impl Into<String>) -> Self {
            self.filter.group = Some(group.into());
            self
        }

        /// Only these clusters. Default: all.
        #[must_use]
        pub fn clusters<C: Into<String>>(mut self, clusters: impl IntoIterator<Item = C>) -> Self {
            self.filter.clusters.extend(clusters.into_iter().map(Into::into));
            self
        }
    };
}

pub(super) use filter_setters;
