//! What listeners are told.

use std::{
    ops::Deref,
    sync::Arc,
    time::{Duration, SystemTime},
};

use actix::Message;
use serde::Serialize;

use crate::{
    instance::Instance,
    list_merge::{CurrentList, Step},
    service::{Difference, ServiceInfo, ServiceName},
};

/// How a list was learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Source {
    /// The list was asked for.
    Poll,
    /// The server pushed it.
    Push,
    /// The list was asked for after an outage, or from another server than before.
    Failover,
    /// The list was read from the disk cache: no server has been reached yet.
    Cache,
}

/// Tells a listener that a service's list has changed, or what it is at first.
///
/// Cheap to clone: all listeners share one [`Change`], which this derefs to.
///
/// ```
/// use actix::prelude::*;
/// use actix_nacos::ServiceChanged;
///
/// struct Caller;
///
/// impl Actor for Caller {
///     type Context = Context<Self>;
/// }
///
/// impl Handler<ServiceChanged> for Caller {
///     type Result = ();
///
///     fn handle(&mut self, news: ServiceChanged, _: &mut Context<Self>) {
///         println!("{} has {} instances, {} are new", news.service, news.info.hosts.len(), news.added.len());
///     }
/// }
/// ```
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct ServiceChanged(Arc<Change>);

impl Deref for ServiceChanged {
    type Target = Change;

    fn deref(&self) -> &Change {
        &self.0
    }
}

/// What changed in a service's list since this listener was told last.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Change {
    /// The service.
    pub service: ServiceName,
    /// The whole list as it is now.
    pub info: Arc<ServiceInfo>,
    /// Instances that were not in the list before.
    pub added: Vec<Arc<Instance>>,
    /// Instances whose values changed: before and now.
    pub changed: Vec<(Arc<Instance>, Arc<Instance>)>,
    /// Instances that are not in the list any more.
    pub removed: Vec<Arc<Instance>>,
    /// Whether this is the first list that this listener gets; then all of it is `added`.
    pub first: bool,
    /// How the list was learned.
    pub source: Source,
    /// When the server made the list, by its own clock, where it says so.
    pub server_time: Option<SystemTime>,
    /// When the list came here.
    pub received: SystemTime,
}

impl ServiceChanged {
    /// The current list to a listener that was told `last`; nothing if that is the same. Who was told the list that `step`
    /// led away from needs no comparing.
    pub(crate) fn since(last: Option<&Arc<ServiceInfo>>, current: &CurrentList, step: &Step) -> Option<Self> {
        let difference = match (last, &step.from) {
            (Some(last), Some(from)) if Arc::ptr_eq(last, from) => step.difference.clone(),
            _ => Difference::between(last.map_or(&[][..], |last| &last.hosts), &current.info.hosts),
        };
        if last.is_some() && difference.is_empty() {
            return None;
        }
        let Difference { added, changed, removed } = difference;
        let millis = u64::try_from(current.server_millis).ok().filter(|millis| *millis > 0);
        Some(ServiceChanged(Arc::new(Change {
            service: current.info.service(),
            info: current.info.clone(),
            added,
            changed,
            removed,
            first: last.is_none(),
            source: current.source,
            server_time: millis.map(|millis| SystemTime::UNIX_EPOCH + Duration::from_millis(millis)),
            received: current.received,
        })))
    }
}
