//! The key of a subscription, and its status.
//!
//! Nacos identifies a subscription by service and clusters: `a,b` and `b,a` are the same here, because the key has
//! the clusters in order. A subscription to all clusters and a subscription to a single cluster have different lists.

use serde::Serialize;

use crate::model::service::ServiceName;

/// Identifies a subscription. All listeners and views with the same key share one Subscriber.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SubscriptionKey {
    pub(crate) service: ServiceName,
    /// Comma separated, in order; empty for all.
    pub(crate) clusters: String,
}

/// The status of one subscription: an entry of [`RegistryStatus::subscriptions`](crate::RegistryStatus::subscriptions).
///
/// All listeners and views of the same service and clusters share one subscription.
///
/// ```
/// # use std::time::Duration;
/// # use actix_nacos::{embedded::EmbeddedServer, prelude::*};
/// # #[actix::main]
/// # async fn main() -> Result<(), Error> {
/// # let nacos = EmbeddedServer::start().unwrap();
/// # let registry = Registry::start(Config::new(nacos.server_address()))?;
/// let orders = registry.send(Discover::new("orders")).await??;
/// orders.ready_within(Duration::from_secs(5)).await?;
///
/// let status = registry.send(GetStatus).await??;
/// let subscription = &status.subscriptions[0];
/// assert_eq!(subscription.service.name, "orders");
/// assert_eq!((subscription.views, subscription.instances), (1, Some(0)));
/// assert!(!subscription.stale && subscription.last_error.is_none());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SubscriptionStatus {
    /// The service.
    pub service: ServiceName,
    /// The clusters, comma separated; empty for all.
    pub clusters: String,
    /// How many listeners receive changes.
    pub listeners: usize,
    /// How many views are alive. Clones count.
    pub views: usize,
    /// How many instances the current list has. `None` before the first list has arrived.
    pub instances: Option<usize>,
    /// How many of these instances are withheld from removal: the server may have forgotten them, and has not listed
    /// them since. They stay in the list for [`Config::outage_hold`](crate::Config::outage_hold).
    pub withheld: usize,
    /// How many healthy instances the list has, not counting withheld ones.
    pub healthy: usize,
    /// How many instances of the list the server considers unhealthy, not counting withheld ones.
    pub unhealthy: usize,
    /// Whether the list may be out of date, because the last poll failed.
    pub stale: bool,
    /// Milliseconds since the last polled or pushed list arrived.
    pub last_success_ms_ago: Option<u64>,
    /// Why the last poll failed. `None` after a poll that succeeded.
    pub last_error: Option<String>,
    /// How many polls have ended, those that failed included.
    pub polls: u64,
    /// How many pushed lists have arrived.
    pub pushes: u64,
    /// How many of these lists were ignored, because they were older than the current list, or because only a poll
    /// could show that.
    pub ignored_pushes: u64,
    /// How many lists changed the instances, including the first list.
    pub changes: u64,
}
