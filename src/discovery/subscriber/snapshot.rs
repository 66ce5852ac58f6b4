//! A subscription with its whole list, for the status page.
//!
//! It costs copies of pointers, not of instances. The status page takes one per change, so a list is read as it is
//! published.

use std::sync::Arc;

use actix::{Context, Handler, Message, MessageResult};

use super::{Subscriber, SubscriptionStatus};
use crate::{
    discovery::view::CallStatus,
    model::{change::Source, instance::Instance, service::ServiceInfo},
};

/// Asks for all that the page shows of this subscription.
#[derive(Message)]
#[rtype(result = "ListSnapshot")]
pub(crate) struct TakeSnapshot;

/// The list of one subscription at one moment.
pub(crate) struct ListSnapshot {
    pub(crate) status: SubscriptionStatus,
    /// None before the first list.
    pub(crate) list: Option<Arc<ServiceInfo>>,
    /// The withheld instances of `list`.
    pub(crate) withheld: Vec<Arc<Instance>>,
    pub(crate) source: Option<Source>,
    /// The calls to each instance of `list`, in the same order. `None` for an instance that no view has called. Empty
    /// if no view has called any instance.
    pub(crate) calls: Vec<Option<CallStatus>>,
}

impl Handler<TakeSnapshot> for Subscriber {
    type Result = MessageResult<TakeSnapshot>;

    fn handle(&mut self, _: TakeSnapshot, _: &mut Context<Self>) -> Self::Result {
        let current = self.merge.current();
        let hosts = current.map(|current| current.info.hosts.as_slice()).unwrap_or_default();
        MessageResult(ListSnapshot {
            status: self.describe(),
            list: current.map(|current| current.info.clone()),
            withheld: hosts.iter().filter(|host| self.merge.is_withheld(host)).cloned().collect(),
            source: current.map(|current| current.source),
            calls: self.settings.records.calls(hosts),
        })
    }
}
