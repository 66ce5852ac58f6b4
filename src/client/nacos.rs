//! The client of a Registry, with one method per operation.
//!
//! Each method makes a [`calls`] value and hands it to [`attempt`](Nacos::attempt). Methods that need several
//! requests, such as [`current`](Nacos::current), share one deadline among them.
//!
//! A disabled client ([`Config::disabled`]) answers by itself: registrations succeed, lists are empty, nothing is
//! sent.

use std::{cell::RefCell, rc::Rc, sync::Arc, time::Duration};

use actix_rt::time::{sleep_until, Instant};
use slog::Logger;
use tokio::sync::watch;

use super::{
    calls::{self, LeftOut, ListQuery},
    list_cache::ListCache,
    request_counters::RequestCounters,
    server::Server,
    servers::Servers,
    session::Session,
    transport::{self, Transport},
};
use crate::{
    config::{AccessKey, Config},
    error::Error,
    model::{
        connection::ConnectionState,
        heartbeat::HeartbeatReply,
        instance::{Instance, InstanceKey},
        service::{ServiceInfo, ServiceName},
    },
    runtime::history::History,
    wire::{exchange::WireProtocol, v1},
};

/// How long a 2.x server may take to list a new instance. An instance that GET returns and a list lacks counts as
/// disabled only after this time.
const LIST_DELAY: Duration = Duration::from_secs(1);

/// The client of one Registry: its servers, its login, its connections.
///
/// It does not store what is registered. When [`epoch`](Nacos::epoch) changes, its user has to register again.
pub(crate) struct Nacos {
    pub(super) namespace: String,
    /// `None` if the protocol is found out for each server.
    pub(super) protocol: Option<WireProtocol>,
    pub(super) disabled: bool,
    pub(super) operation_timeout: Duration,
    pub(super) transport: Transport,
    pub(super) servers: Rc<Servers>,
    pub(super) session: Session,
    /// Signs requests.
    pub(super) access_key: RefCell<Option<Rc<AccessKey>>>,
    pub(super) list_cache: ListCache,
    /// Services for which a warning about unusable instances has been logged.
    pub(super) left_out: RefCell<LeftOut>,
    pub(super) connection: watch::Sender<ConnectionState>,
    pub(super) requests: RequestCounters,
    /// Hashes the subjects of failed requests.
    pub(super) subjects: foldhash::fast::RandomState,
    pub(super) log: Logger,
}

/// How long to repeat a request.
///
/// | who asks | patience |
/// |---|---|
/// | an application's message | `Operation` or `Until`: it waits for an answer |
/// | a Heartbeat, a Subscriber | `Round`: the next beat or poll comes soon, and would find the same |
/// | a question about the server in use | `InUse`: another server's answer says nothing about it |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// For [`Config::operation_timeout`], from the moment when the first request can be sent.
    Operation,
    /// Until a moment that several requests of one operation share.
    Until(Instant),
    /// Once at each server, for callers that come back soon.
    Round,
    /// Once, at the server in use.
    InUse,
}

impl Patience {
    /// When to give up, for an operation that would end at `of_operation`.
    pub(super) fn deadline(self, of_operation: Instant) -> Instant {
        match self {
            Patience::Until(deadline) => deadline,
            Patience::Operation | Patience::Round | Patience::InUse => of_operation,
        }
    }

    /// Whether no server is asked twice.
    pub(super) fn is_one_round(self) -> bool {
        matches!(self, Patience::Round | Patience::InUse)
    }
}

/// The value in an answer, and the server that answered.
///
/// The server shows whether a list is from the server in use.
pub(super) struct Answered<T> {
    pub(super) value: T,
    pub(super) server: Rc<Server>,
    pub(super) protocol: WireProtocol,
}

/// A list and its origin.
///
/// `epoch` decides which rules `ListMerge` applies to it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Listed {
    pub(crate) info: ServiceInfo,
    /// The epoch of the server in use. `None` if another server answered, which may not know the same instances.
    pub(crate) epoch: Option<u64>,
    pub(crate) protocol: WireProtocol,
}

impl Nacos {
    /// Must be called in the arbiter that uses the client: see [`transport::client_factory`].
    pub(crate) fn new(config: &Config, history: Arc<History>) -> Result<Self, Error> {
        let transport = Transport::new(config);
        let new_client = transport::client_factory(config)?;
        let servers =
            Servers::new(config.addresses()?, config.request_timeout, new_client, history, config.logger.clone());
        Ok(Nacos {
            namespace: config.namespace_id().into(),
            protocol: WireProtocol::fixed_by(config.protocol),
            disabled: config.disabled,
            operation_timeout: config.operation_timeout,
            transport,
            servers: Rc::new(servers),
            session: Session::new(config.username.clone(), config.password.clone()),
            access_key: RefCell::new(config.signing_key().map(Rc::new)),
            list_cache: ListCache::new(),
            left_out: RefCell::default(),
            connection: watch::channel(ConnectionState::Unknown).0,
            requests: RequestCounters::default(),
            subjects: foldhash::fast::RandomState::default(),
            log: config.logger.clone(),
        })
    }

    pub(crate) fn servers(&self) -> &Rc<Servers> {
        &self.servers
    }

    /// Returns the counters of the requests so far.
    pub(crate) fn requests(&self) -> &RequestCounters {
        &self.requests
    }

    /// Replaces the key that signs all requests from now on.
    pub(crate) fn replace_access_key(&self, key: AccessKey) {
        self.access_key.replace(Some(Rc::new(key)));
    }

    pub(crate) fn session(&self) -> &Session {
        &self.session
    }

    /// The current epoch. It changes when the server in use may have forgotten its instances. Instances that were
    /// registered in another epoch have to be registered again.
    pub(crate) fn epoch(&self) -> u64 {
        self.servers.epoch()
    }

    /// Notes that the server in use does not know an instance that beats at `interval`. Unless a beat was late, the
    /// server has forgotten its instances.
    ///
    /// A beat that was late explains the answer: the server has removed that instance alone.
    pub(crate) fn note_unknown(&self, was_late: bool, interval: Duration) {
        if !was_late {
            self.servers.note_unknown(interval);
        }
    }

    /// The state after the last request.
    pub(crate) fn connection(&self) -> ConnectionState {
        *self.connection.borrow()
    }

    /// A receiver of the state of the connection. Changes in quick succession are merged.
    pub(crate) fn connection_changes(&self) -> watch::Receiver<ConnectionState> {
        self.connection.subscribe()
    }

    /// The time limit of an operation with several requests that begins now.
    pub(crate) fn patience(&self) -> Patience {
        Patience::Until(self.deadline())
    }

    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.operation_timeout
    }

    /// Gives deregistrations the reserved permits too, because the application goes offline.
    pub(crate) fn close(&self) {
        self.transport.close();
    }

    /// Whether the Registry works without any server: see [`Config::disabled`].
    pub(crate) fn is_disabled(&self) -> bool {
        self.disabled
    }

    /// Registers an instance, or replaces the values of a registered one. Returns the epoch in which the server in use
    /// has them. If another server has taken them, that is a past epoch, so that the instance is registered again.
    ///
    /// # Errors
    /// The first rejection or the last failure: see [`attempt`](super::attempt). After a retryable error, the
    /// server may have registered the instance all the same.
    pub(crate) async fn register(
        &self,
        service: &ServiceName,
        instance: &Instance,
        patience: Patience,
    ) -> Result<u64, Error> {
        // Read before sending: the epoch may change while the request is under way.
        let epoch = self.epoch();
        if self.disabled {
            return Ok(epoch);
        }
        let call = calls::Register { namespace: &self.namespace, service, instance };
        let answered = self.attempt(&call, patience).await?;
        let is_taken = self.servers.is_in_use(&answered.server);
        Ok(if is_taken { epoch } else { epoch.wrapping_sub(1) })
    }

    /// Deregisters an instance.
    ///
    /// An instance that is not registered is no error.
    pub(crate) async fn deregister(&self, key: &InstanceKey, ephemeral: bool, patience: Patience) -> Result<(), Error> {
        if self.disabled {
            return Ok(());
        }
        let call = calls::Deregister { namespace: &self.namespace, key, ephemeral };
        self.attempt(&call, patience).await.map(drop)
    }

    /// Sends a beat. Without `values` it is a light beat, which cannot register an unknown instance.
    ///
    /// "Unknown instance" is an answer: see [`HeartbeatReply::is_unknown`].
    pub(crate) async fn beat(
        &self,
        key: &InstanceKey,
        values: Option<&Instance>,
        patience: Patience,
    ) -> Result<HeartbeatReply, Error> {
        if self.disabled {
            return Ok(HeartbeatReply::taken());
        }
        let call = calls::Beat { namespace: &self.namespace, key, values };
        self.attempt(&call, patience).await.map(|answered| answered.value)
    }

    /// Fetches a list, sorted and filtered.
    ///
    /// A service that does not exist has an empty list.
    pub(crate) async fn list(&self, query: &ListQuery<'_>, patience: Patience) -> Result<Listed, Error> {
        if self.disabled {
            let info = ServiceInfo::empty(query.service, query.clusters);
            return Ok(Listed { info, epoch: Some(self.epoch()), protocol: WireProtocol::V1 });
        }
        let namespace = query.namespace.unwrap_or(&self.namespace);
        let (list_cache, left_out) = (&self.list_cache, &self.left_out);
        let call = calls::List { namespace, query, list_cache, left_out, log: &self.log };
        let answered = self.attempt(&call, patience).await?;
        // Read the epoch now, because an epoch that begins later has not produced this list.
        let epoch = self.servers.is_in_use(&answered.server).then(|| self.epoch());
        Ok(Listed { info: answered.value, epoch, protocol: answered.protocol })
    }

    /// Fetches a page of the names of a group's services. Returns the number of all services and the names.
    pub(crate) async fn list_services(
        &self,
        group: &str,
        page_no: u32,
        page_size: u32,
    ) -> Result<(u64, Vec<String>), Error> {
        if self.disabled {
            return Ok((0, Vec::new()));
        }
        let call = calls::ListServices { namespace: &self.namespace, group, page_no, page_size };
        let answered = self.attempt(&call, Patience::Operation).await?;
        Ok((answered.value.count, answered.value.doms))
    }

    /// Writes all values of an instance that another process registered.
    ///
    /// On 2.x and later these values win over the owner's until they are overwritten again.
    pub(crate) async fn overwrite(
        &self,
        service: &ServiceName,
        instance: &Instance,
        patience: Patience,
    ) -> Result<(), Error> {
        let call = calls::Overwrite { namespace: &self.namespace, service, instance };
        self.attempt(&call, patience).await.map(drop)
    }

    /// The current values of an instance. Combines GET and list, because GET returns neither `enabled` nor `ephemeral`
    /// on Nacos 1.4 and 2.x. `written` is when this Registry registered the instance, if it did: lists show it after
    /// [`LIST_DELAY`].
    ///
    /// A disabled instance is recognised by being in GET and not in a list that is new enough.
    ///
    /// # Errors
    /// [`Error::NotFound`], with `may_be_disabled` if the server has no GET.
    pub(crate) async fn current(
        &self,
        key: &InstanceKey,
        written: Option<Instant>,
        patience: Patience,
    ) -> Result<Current, Error> {
        let found = match self.get(key, patience).await {
            // Nacos 3 has GET only in the admin API, which needs an administrator.
            Err(Error::Unsupported { .. } | Error::Unauthorized { .. }) => {
                return self.find_in_list(key, written, patience).await
            }
            found => found?,
        };
        let v1::Found { instance, has_enabled, has_ephemeral } = found.value;
        if has_enabled && has_ephemeral {
            return Ok(Current { instance, is_complete: true });
        }
        // Another process may have registered the instance a moment ago.
        let listed_at = written.unwrap_or_else(Instant::now) + LIST_DELAY;
        let epoch = self.servers.is_in_use(&found.server).then(|| self.epoch());
        let list = self.list_to_find(key, listed_at, patience).await?;
        if find(&list.info, key).is_none() && (epoch.is_none() || list.epoch != epoch) {
            // The list is another server's, or was made after a restart. It does not show that the instance is disabled.
            return Err(Error::NotFound { instance: key.to_string(), may_be_disabled: true });
        }
        Ok(complete(instance, &list.info, key))
    }

    /// The values of an instance as the server has them, by a single request if the server has GET. `enabled` and
    /// `ephemeral` may be guesses.
    ///
    /// # Errors
    /// As [`current`](Nacos::current).
    pub(crate) async fn read_values(&self, key: &InstanceKey, patience: Patience) -> Result<Instance, Error> {
        match self.get(key, patience).await {
            Err(Error::Unsupported { .. } | Error::Unauthorized { .. }) => {
                self.find_in_list(key, None, patience).await.map(|current| current.instance)
            }
            found => Ok(found?.value.instance),
        }
    }

    /// The values of an instance at the server in use, by one request. `None` if another epoch has begun meanwhile:
    /// then the answer may be another server's.
    pub(crate) async fn read_in_use(&self, key: &InstanceKey) -> Option<Result<Instance, Error>> {
        let epoch = self.epoch();
        let found = self.get(key, Patience::InUse).await;
        (self.epoch() == epoch).then(|| found.map(|found| found.value.instance))
    }

    async fn get(&self, key: &InstanceKey, patience: Patience) -> Result<Answered<v1::Found>, Error> {
        if self.disabled {
            return Err(Error::NotFound { instance: key.to_string(), may_be_disabled: false });
        }
        self.attempt(&calls::Get { namespace: &self.namespace, key }, patience).await
    }

    /// Finds the instance in a list, which has all values but leaves disabled instances out.
    async fn find_in_list(
        &self,
        key: &InstanceKey,
        written: Option<Instant>,
        patience: Patience,
    ) -> Result<Current, Error> {
        let listed_at = written.map_or_else(Instant::now, |written| written + LIST_DELAY);
        let list = self.list_to_find(key, listed_at, patience).await?.info;
        let found = find(&list, key).cloned();
        found
            .map(|instance| Current { instance, is_complete: true })
            .ok_or_else(|| Error::NotFound { instance: key.to_string(), may_be_disabled: true })
    }

    /// Returns the first list that contains the instance or was requested after `listed_at`.
    async fn list_to_find(&self, key: &InstanceKey, listed_at: Instant, patience: Patience) -> Result<Listed, Error> {
        let asked = Instant::now();
        let list = self.list(&ListQuery::all_of(&key.service), patience).await?;
        if asked >= listed_at || find(&list.info, key).is_some() {
            return Ok(list);
        }
        sleep_until(listed_at.min(patience.deadline(self.deadline()))).await;
        self.list(&ListQuery::all_of(&key.service), patience).await
    }
}

/// The values of an instance, as far as they are known.
///
/// `ephemeral` is unknown only for a disabled instance whose service does not show the kind: it lists no other
/// instances, or instances of both kinds.
#[derive(Debug)]
pub(crate) struct Current {
    pub(crate) instance: Instance,
    /// False if `ephemeral` is a guess.
    pub(crate) is_complete: bool,
}

/// Completes an instance from GET by a newer list. An instance that is not listed is disabled. It is as ephemeral as
/// the other instances of its service, because 2.x and later do not mix both kinds in one service.
///
/// `list` must be new enough to contain the instance if it is enabled: see [`LIST_DELAY`].
fn complete(instance: Instance, list: &ServiceInfo, key: &InstanceKey) -> Current {
    if let Some(listed) = find(list, key) {
        let instance = Instance { enabled: true, ephemeral: listed.ephemeral, ..instance };
        return Current { instance, is_complete: true };
    }
    let first = list.hosts.first().map(|host| host.ephemeral);
    let agreed = first.filter(|ephemeral| list.hosts.iter().all(|host| host.ephemeral == *ephemeral));
    let instance = Instance { enabled: false, ephemeral: agreed.unwrap_or(true), ..instance };
    Current { instance, is_complete: agreed.is_some() }
}

/// The instance with this key.
fn find<'a>(list: &'a ServiceInfo, key: &InstanceKey) -> Option<&'a Instance> {
    list.hosts.iter().find(|host| key.identifies(host)).map(|host| &**host)
}
