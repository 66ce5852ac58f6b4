//! Which service a message is about, and which clusters of the service.
//!
//! The names are checked when the message is handled, not when it is built, so that builders need no `Result`.
//! Clusters are sorted and deduplicated then: equal filters share one subscription.

use crate::{
    discovery::subscription::SubscriptionKey,
    error::Error,
    model::service::{cluster_filter, ServiceRef},
};

/// The service and the clusters to list or to watch, as the caller wrote them.
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

    /// Checks the names. Filters with the same meaning give the same key.
    pub(super) fn resolve(&self) -> Result<SubscriptionKey, Error> {
        let service = self.service.resolve(self.group.as_deref())?;
        Ok(SubscriptionKey { service, clusters: cluster_filter(&self.clusters)? })
    }
}

/// The setter for the group of the service that is named in `field`.
macro_rules! group_setter {
    ($field:ident) => {
        /// Sets the group of the service. Default: the group in a [`ServiceName`](crate::ServiceName) or in
        /// `GROUP@@service`, otherwise `DEFAULT_GROUP`. Naming two different groups is an error.
        #[must_use]
        pub fn group(mut self, group: impl Into<String>) -> Self {
            self.$field.group = Some(group.into());
            self
        }
    };
}

/// The setters of every message with a [`Filter`].
macro_rules! filter_setters {
    () => {
        $crate::registry::filter::group_setter!(filter);

        /// Selects only the instances in these clusters. Default: all clusters. Several calls add up.
        #[must_use]
        pub fn clusters<C: Into<String>>(mut self, clusters: impl IntoIterator<Item = C>) -> Self {
            self.filter.clusters.extend(clusters.into_iter().map(Into::into));
            self
        }
    };
}

pub(super) use filter_setters;
pub(super) use group_setter;
