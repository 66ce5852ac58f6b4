//! Messages that list the instances of a service, and the services of a group.
//!
//! Each [`ListInstances`] message makes a request of its own. The Subscribers poll by [`PollList`], which also
//! subscribes to pushes, tries each server only once, and returns the epoch of the list.

use actix::{Context, Handler, Message, ResponseFuture};
use serde::Serialize;

use super::{
    actor::Registry,
    filter::{filter_setters, Filter},
    phase::Phase,
};
use crate::{
    client::{ListQuery, Listed, Patience},
    config::{namespace_id, validate_namespace},
    discovery::{subscriber::PollList, subscription::SubscriptionKey},
    error::{Error, Operation},
    model::service::{validate_group, ServiceInfo, ServiceName, ServiceRef, DEFAULT_GROUP},
};

/// Asks a server for the instances of a service. Each message is one request; to ask often, use
/// [`Discover`](super::Discover). A service that does not exist has no instances, which is no error.
///
/// Servers leave disabled instances out of lists, and show a new instance after up to a second.
///
/// ```
/// # use actix_nacos::{embedded::EmbeddedServer, prelude::*};
/// # #[actix::main]
/// # async fn main() -> Result<(), Error> {
/// # let server = EmbeddedServer::start().unwrap();
/// # let registry = Registry::start(Config::new(server.server_address()))?;
/// registry.send(RegisterInstance::new("orders", "127.0.0.7", 8080).cluster("EAST")).await??;
/// let list = registry.send(ListInstances::new("orders").clusters(["EAST"]).healthy_only()).await??;
/// assert_eq!(list.hosts[0].authority(), "127.0.0.7:8080");
/// # Ok(())
/// # }
/// ```
///
/// While no server answers, this is an error; a view still has its last list.
///
/// # Errors
/// - [`Error::InvalidInput`] if a value is invalid. Correct the field that the error names.
/// - Any other error names the server and the reason. If [`is_retryable`](Error::is_retryable) is true, send the
///   message again.
#[derive(Debug, Clone, PartialEq, Message)]
#[rtype(result = "Result<ServiceInfo, Error>")]
pub struct ListInstances {
    filter: Filter,
    namespace: Option<String>,
    healthy_only: bool,
}

impl ListInstances {
    /// Lists the instances of `service`, which may be written `GROUP@@service`.
    pub fn new(service: impl Into<ServiceRef>) -> Self {
        ListInstances { filter: Filter::new(service), namespace: None, healthy_only: false }
    }

    filter_setters!();

    /// Sets the id of the namespace; an empty one means `public`. Default:
    /// [`Config::namespace`](crate::Config::namespace).
    ///
    /// Subscriptions and views exist only for the namespace of [`Config`](crate::Config): start another Registry for
    /// another namespace.
    #[must_use]
    pub fn namespace(mut self, id: impl Into<String>) -> Self {
        self.namespace = Some(id.into());
        self
    }

    /// Selects only healthy instances. Default: all instances.
    ///
    /// When few instances are healthy, the service's protection threshold makes Nacos list all of them as healthy. Then
    /// [`reach_protection_threshold`](crate::ServiceInfo::reach_protection_threshold) is true.
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

/// Handles the polls of the Subscriber actors, also while the Registry drains, so that views stay current.
impl Handler<PollList> for Registry {
    type Result = ResponseFuture<Result<Listed, Error>>;

    fn handle(&mut self, PollList(subscription): PollList, _: &mut Context<Self>) -> Self::Result {
        let registry = self.myself.clone();
        self.dispatch_until(Operation::List, Phase::Ended, |shared| async move {
            let query = ListQuery {
                namespace: None,
                service: &subscription.service,
                clusters: &subscription.clusters,
                healthy_only: false,
                push_to: shared.push_address(&registry).await,
            };
            shared.nacos.list(&query, Patience::Round).await
        })
    }
}

/// Asks a server for the services of a group, one page at a time.
///
/// ```
/// # use actix_nacos::{embedded::EmbeddedServer, prelude::*};
/// # #[actix::main]
/// # async fn main() -> Result<(), Error> {
/// # let server = EmbeddedServer::start().unwrap();
/// # let registry = Registry::start(Config::new(server.server_address()))?;
/// registry.send(RegisterInstance::new("orders", "127.0.0.7", 8080).group("SHOP")).await??;
/// let page = registry.send(ListServices::new(1, 100).group("SHOP")).await??;
/// assert_eq!((page.count, page.services), (1, vec!["orders".to_owned()]));
/// # Ok(())
/// # }
/// ```
///
/// To get all services, ask for pages until one is empty. Services are added and removed meanwhile, so pages may
/// overlap.
///
/// # Errors
/// - [`Error::InvalidInput`] if the group, the page number or the page size is invalid. Correct the field that the
///   error names.
/// - [`Error::Unauthorized`] on Nacos 3.2 and later, unless the login is an administrator's.
/// - Any other error names the server and the reason. If [`is_retryable`](Error::is_retryable) is true, send the
///   message again.
#[derive(Debug, Clone, PartialEq, Message)]
#[rtype(result = "Result<ServiceList, Error>")]
pub struct ListServices {
    page_no: u32,
    page_size: u32,
    group: String,
}

/// One page of the services of a group: the answer to [`ListServices`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ServiceList {
    /// The number of services in the group, on all pages. Nacos 3.2 and later also count services of groups whose names
    /// contain the name of this group. Then a page may have fewer services than requested although it is not the last
    /// one.
    pub count: u64,
    /// The group.
    pub group: String,
    /// The services of this page without their group, in the order of the server.
    pub services: Vec<String>,
}

impl ServiceList {
    /// The services of this page with their group, as the other messages take them.
    pub fn names(&self) -> impl Iterator<Item = ServiceName> + '_ {
        self.services.iter().map(|name| ServiceName { group: self.group.as_str().into(), name: name.into() })
    }
}

impl ListServices {
    /// Lists page `page_no`, counted from 1, with `page_size` services per page.
    pub fn new(page_no: u32, page_size: u32) -> Self {
        ListServices { page_no, page_size, group: DEFAULT_GROUP.into() }
    }

    /// Sets the group. Default: `DEFAULT_GROUP`.
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
