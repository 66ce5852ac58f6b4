//! Messages that ask for lists: of a service's instances, of the services.

use actix::{Context, Handler, Message, ResponseFuture};
use serde::Serialize;

use super::{
    actor::Registry,
    filter::{filter_setters, Filter},
    shared::Phase,
};
use crate::{
    client::{ListQuery, Listed, Patience},
    config::{namespace_id, validate_namespace},
    discovery::subscriber::{PollList, SubscriptionKey},
    error::{Error, Operation},
    model::service::{validate_group, ServiceInfo, ServiceName, ServiceRef, DEFAULT_GROUP},
};

/// Asks the server for a service's instances, in one request. A service that does not exist has none.
///
/// Lists leave out disabled instances, and show what was registered after up to a second.
///
/// # Errors
/// [`Error::InvalidInput`] naming the field; what the server says.
#[derive(Debug, Clone, PartialEq, Message)]
#[rtype(result = "Result<ServiceInfo, Error>")]
pub struct ListInstances {
    filter: Filter,
    namespace: Option<String>,
    healthy_only: bool,
}

impl ListInstances {
    /// Lists all instances of `service` (or `GROUP@@service`).
    pub fn new(service: impl Into<ServiceRef>) -> Self {
        ListInstances { filter: Filter::new(service), namespace: None, healthy_only: false }
    }

    filter_setters!();

    /// The namespace, by its id; an empty one is `public`. Default: the configured one.
    #[must_use]
    pub fn namespace(mut self, id: impl Into<String>) -> Self {
        self.namespace = Some(id.into());
        self
    }

    /// Only healthy instances. Default: all.
    #[must_use]
    pub fn healthy_only(mut self) -> Self {
        self.healthy_only = true;
        self
    }
}

impl Handler<ListInstances> for Registry {
    type Result = ResponseFuture<Result<ServiceInfo, Error>>;

    fn handle(&mut self, message: ListInstances, _: &mut Context<Self>) -> Self::Result {
        self.dispatch(Operation::List, |shared| async move {
            let SubscriptionKey { service, clusters } = message.filter.resolve()?;
            validate_namespace(message.namespace.as_deref().unwrap_or_default())?;
            let query = ListQuery {
                namespace: message.namespace.as_deref().map(namespace_id),
                service: &service,
                clusters: &clusters,
                healthy_only: message.healthy_only,
                push_to: None,
            };
            shared.nacos.list(&query, Patience::Operation).await.map(|listed| listed.info)
        })
    }
}

/// Of our own Subscribers; views stay current while instances are drained.
impl Handler<PollList> for Registry {
    type Result = ResponseFuture<Result<Listed, Error>>;

    fn handle(&mut self, poll: PollList, _: &mut Context<Self>) -> Self::Result {
        let registry = self.myself.clone();
        self.dispatch_until(Operation::List, Phase::Ended, |shared| async move {
            let query = ListQuery {
                namespace: None,
                service: &poll.service,
                clusters: &poll.clusters,
                healthy_only: false,
                push_to: shared.push_address(&registry).await,
            };
            shared.nacos.list(&query, Patience::Round).await
        })
    }
}

/// Asks the server which services there are, a page at a time.
///
/// # Errors
/// [`Error::InvalidInput`] naming the field; what the server says. On Nacos 3.2 and later this needs a login with the right
/// to administer.
#[derive(Debug, Clone, PartialEq, Message)]
#[rtype(result = "Result<ServiceList, Error>")]
pub struct ListServices {
    page_no: u32,
    page_size: u32,
    group: String,
}

/// One page of services.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ServiceList {
    /// How many services the group has, over all pages. Nacos 3.2 and later (v3) also count those of groups whose names
    /// contain this one, and a page may then be shorter than asked for before the last.
    pub count: u64,
    /// The group.
    pub group: String,
    /// The services of this page, without their group, in the server's order.
    pub services: Vec<String>,
}

impl ServiceList {
    /// The services of this page with their group: what the other messages take.
    pub fn names(&self) -> impl Iterator<Item = ServiceName> + '_ {
        self.services.iter().map(|name| ServiceName { group: self.group.clone(), name: name.clone() })
    }
}

impl ListServices {
    /// The page `page_no`, counted from 1, of `page_size` services each.
    pub fn new(page_no: u32, page_size: u32) -> Self {
        ListServices { page_no, page_size, group: DEFAULT_GROUP.into() }
    }

    /// The group. Default: `DEFAULT_GROUP`.
    #[must_use]
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.group = group.into();
        self
    }

    fn validate(&self) -> Result<(), Error> {
        if self.page_no == 0 {
            return Err(Error::invalid("page_no", "pages are counted from 1"));
        }
        if self.page_size == 0 {
            return Err(Error::invalid("page_size", "must be at least 1"));
        }
        validate_group(&self.group)
    }
}

impl Handler<ListServices> for Registry {
    type Result = ResponseFuture<Result<ServiceList, Error>>;

    fn handle(&mut self, message: ListServices, _: &mut Context<Self>) -> Self::Result {
        self.dispatch(Operation::ListServices, |shared| async move {
            message.validate()?;
            let page = shared.nacos.list_services(&message.group, message.page_no, message.page_size).await;
            page.map(|(count, services)| ServiceList { count, group: message.group, services })
        })
    }
}
