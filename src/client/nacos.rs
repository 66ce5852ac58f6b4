//! The client: one method per operation.

use std::{cell::RefCell, rc::Rc, time::Duration};

use actix_rt::time::{sleep_until, Instant};
use slog::Logger;
use tokio::sync::watch;

use super::{
    attempt::Answered,
    calls::{self, LeftOut, ListQuery},
    list_cache::ListCache,
    request_counters::RequestCounters,
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
    wire::{exchange::WireProtocol, v1},
};

/// A disabled instance is one that GET knows and lists do not; 2.x takes up to a second to list a new one.
const LIST_DELAY: Duration = Duration::from_secs(1);

/// The client of one Registry: which servers there are, the login, the connections.
pub(crate) struct Nacos {
    pub(super) namespace: String,
    /// None where it is found out for each server.
    pub(super) protocol: Option<WireProtocol>,
    pub(super) disabled: bool,
    pub(super) operation_timeout: Duration,
    pub(super) transport: Transport,
    pub(super) servers: Rc<Servers>,
    pub(super) session: Session,
    /// What requests are signed with.
    pub(super) access_key: RefCell<Option<Rc<AccessKey>>>,
    pub(super) list_cache: ListCache,
    /// Those that were warned of.
    pub(super) left_out: RefCell<LeftOut>,
    pub(super) connection: watch::Sender<ConnectionState>,
    pub(super) requests: RequestCounters,
    /// Hashes what a failed request was about.
    pub(super) subjects: foldhash::fast::RandomState,
    pub(super) log: Logger,
}

/// How long to go on trying.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// For [`Config::operation_timeout`], counted from the moment at which the first request can be sent.
    Operation,
    /// Until then: the requests of one operation share its time.
    Until(Instant),
    /// Once at each server: whoever asks comes back soon.
    Round,
}

impl Patience {
    pub(super) fn deadline(self, of_operation: Instant) -> Instant {
        match self {
            Patience::Until(deadline) => deadline,
            Patience::Operation | Patience::Round => of_operation,
        }
    }
}

/// A list, and where it comes from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Listed {
    pub(crate) info: ServiceInfo,
    /// The epoch of the server in use; none if another server answered, which may not know what that one was told.
    pub(crate) epoch: Option<u64>,
    pub(crate) protocol: WireProtocol,
}

impl Nacos {
    /// Must be called inside the arbiter that uses it: see [`transport::client_factory`].
    pub(crate) fn new(config: &Config) -> Result<Self, Error> {
        let transport = Transport::new(config);
        let new_client = transport::client_factory(config)?;
        let servers = Servers::new(config.addresses()?, config.request_timeout, new_client, config.logger.clone());
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

    /// What became of the requests so far.
    pub(crate) fn requests(&self) -> &RequestCounters {
        &self.requests
    }

    /// Requests that are sent from now on are signed with this.
    pub(crate) fn replace_access_key(&self, key: AccessKey) {
        self.access_key.replace(Some(Rc::new(key)));
    }

    pub(crate) fn session(&self) -> &Session {
        &self.session
    }

    /// Changes when the server in use may have forgotten what it was told. What was registered in another epoch is
    /// registered again.
    pub(crate) fn epoch(&self) -> u64 {
        self.servers.epoch()
    }

    /// The server in use answered that it does not know an instance, `interval` being that of its beats. If no beat was
    /// late, the server has forgotten what it was told.
    pub(crate) fn note_unknown(&self, was_late: bool, interval: Duration) {
        if !was_late {
            self.servers.note_unknown(interval);
        }
    }

    pub(crate) fn connection(&self) -> ConnectionState {
        *self.connection.borrow()
    }

    /// Told of every change of the connection; ends with the client.
    pub(crate) fn connection_changes(&self) -> watch::Receiver<ConnectionState> {
        self.connection.subscribe()
    }

    /// For an operation of several requests that begins now.
    pub(crate) fn patience(&self) -> Patience {
        Patience::Until(self.deadline())
    }

    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.operation_timeout
    }

    /// The application goes offline: deregistering waits behind none of its other requests.
    pub(crate) fn close(&self) {
        self.transport.close();
    }

    /// There is no server, and none is missed: see [`Config::disabled`].
    pub(crate) fn is_disabled(&self) -> bool {
        self.disabled
    }

    pub(crate) async fn register(
        &self,
        service: &ServiceName,
        instance: &Instance,
        patience: Patience,
    ) -> Result<(), Error> {
        if self.disabled {
            return Ok(());
        }
        let call = calls::Register { namespace: &self.namespace, service, instance };
        self.attempt(&call, patience).await.map(drop)
    }

    pub(crate) async fn deregister(&self, key: &InstanceKey, ephemeral: bool, patience: Patience) -> Result<(), Error> {
        if self.disabled {
            return Ok(());
        }
        let call = calls::Deregister { namespace: &self.namespace, key, ephemeral };
        self.attempt(&call, patience).await.map(drop)
    }

    pub(crate) async fn beat(
        &self,
        key: &InstanceKey,
        instance: &Instance,
        light: bool,
        patience: Patience,
    ) -> Result<HeartbeatReply, Error> {
        if self.disabled {
            return Ok(HeartbeatReply::taken());
        }
        let call = calls::Beat { namespace: &self.namespace, key, values: (!light).then_some(instance) };
        self.attempt(&call, patience).await.map(|answered| answered.value)
    }

    /// Asks for one list, in order and filtered. `namespace`: another one than the configured.
    pub(crate) async fn list(&self, query: &ListQuery<'_>, patience: Patience) -> Result<Listed, Error> {
        if self.disabled {
            let info = ServiceInfo::empty(query.service, query.clusters);
            return Ok(Listed { info, epoch: Some(self.epoch()), protocol: WireProtocol::V1 });
        }
        let namespace = query.namespace.unwrap_or(&self.namespace);
        let (list_cache, left_out) = (&self.list_cache, &self.left_out);
        let call = calls::List { namespace, query, list_cache, left_out, log: &self.log };
        let answered = self.attempt(&call, patience).await?;
        // Read now: an epoch that begins later did not answer this.
        let epoch = self.servers.is_in_use(&answered.server).then(|| self.epoch());
        Ok(Listed { info: answered.value, epoch, protocol: answered.protocol })
    }

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

    /// Writes all values of somebody else's instance.
    pub(crate) async fn overwrite(
        &self,
        service: &ServiceName,
        instance: &Instance,
        patience: Patience,
    ) -> Result<(), Error> {
        let call = calls::Overwrite { namespace: &self.namespace, service, instance };
        self.attempt(&call, patience).await.map(drop)
    }

    /// What is so now with an instance: GET and list together, since GET tells neither `enabled` nor `ephemeral` on
    /// Nacos 1.4 and 2.x. `written`: when this Registry registered it, if it did; lists show that after [`LIST_DELAY`].
    ///
    /// # Errors
    /// [`Error::NotFound`]; with `may_be_disabled` where the server has no GET.
    pub(crate) async fn current(
        &self,
        key: &InstanceKey,
        written: Option<Instant>,
        patience: Patience,
    ) -> Result<Current, Error> {
        let found = match self.get(key, patience).await {
            // Nacos 3 has it in the admin API alone, for those with that right.
            Err(Error::Unsupported { .. } | Error::Unauthorized { .. }) => {
                return self.find_in_list(key, written, patience).await
            }
            found => found?,
        };
        let v1::Found { instance, enabled_told, ephemeral_told } = found.value;
        if enabled_told && ephemeral_told {
            return Ok(Current { instance, is_complete: true });
        }
        // Somebody else may have registered it just now.
        let shown = written.unwrap_or_else(Instant::now) + LIST_DELAY;
        let list = self.list_to_find(key, shown, patience).await?;
        Ok(complete(instance, &list, key))
    }

    /// What the server itself says of an instance, in one request where it has GET. `enabled` and `ephemeral` may be guesses.
    ///
    /// # Errors
    /// As [`current`](Nacos::current).
    pub(crate) async fn told(&self, key: &InstanceKey, patience: Patience) -> Result<Instance, Error> {
        match self.get(key, patience).await {
            Err(Error::Unsupported { .. } | Error::Unauthorized { .. }) => {
                self.find_in_list(key, None, patience).await.map(|current| current.instance)
            }
            found => Ok(found?.value.instance),
        }
    }

    /// What the server in use says of an instance, asked once; none if another server answered.
    pub(crate) async fn read_in_use(&self, key: &InstanceKey) -> Result<Option<Instance>, Error> {
        let told = self.get(key, Patience::Round).await?;
        Ok(self.servers.is_in_use(&told.server).then_some(told.value.instance))
    }

    async fn get(&self, key: &InstanceKey, patience: Patience) -> Result<Answered<v1::Found>, Error> {
        if self.disabled {
            return Err(Error::NotFound { instance: key.to_string(), may_be_disabled: false });
        }
        self.attempt(&calls::Get { namespace: &self.namespace, key }, patience).await
    }

    async fn find_in_list(
        &self,
        key: &InstanceKey,
        written: Option<Instant>,
        patience: Patience,
    ) -> Result<Current, Error> {
        let shown = written.map_or_else(Instant::now, |written| written + LIST_DELAY);
        let list = self.list_to_find(key, shown, patience).await?;
        let found = find(&list, key).cloned();
        found
            .map(|instance| Current { instance, is_complete: true })
            .ok_or_else(|| Error::NotFound { instance: key.to_string(), may_be_disabled: true })
    }

    /// A list that has the instance, or one that was asked for after `shown` and has not.
    async fn list_to_find(&self, key: &InstanceKey, shown: Instant, patience: Patience) -> Result<ServiceInfo, Error> {
        let asked = Instant::now();
        let list = self.list(&ListQuery::all_of(&key.service), patience).await?.info;
        if asked >= shown || find(&list, key).is_some() {
            return Ok(list);
        }
        sleep_until(shown.min(patience.deadline(self.deadline()))).await;
        Ok(self.list(&ListQuery::all_of(&key.service), patience).await?.info)
    }
}

/// What is known of an instance.
#[derive(Debug)]
pub(crate) struct Current {
    pub(crate) instance: Instance,
    /// False where `ephemeral` is a guess.
    pub(crate) is_complete: bool,
}

/// Puts together what GET said and the list that followed. Who is not in the list is disabled, and as ephemeral as all
/// the others of its service: 2.x and later keep no mixed services.
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

fn find<'a>(list: &'a ServiceInfo, key: &InstanceKey) -> Option<&'a Instance> {
    list.hosts.iter().find(|host| key.names(host)).map(|host| &**host)
}
