//! What crosses the wire: the Nacos client. No actor in sight.
//!
//! [`Nacos`] has one method per operation. Each makes a request and reads the answer by the pure functions of the
//! protocol that the server speaks; [`Nacos::attempt`] is the one place that chooses servers, tries again, logs in and
//! finds out protocols.

mod endpoint;
pub(crate) mod exchange;
#[cfg(test)]
pub(crate) mod recordings;
pub(crate) mod sentinel;
pub(crate) mod servers;
pub(crate) mod session;
#[cfg(any(feature = "rustls", feature = "openssl"))]
mod tls;
pub(crate) mod transport;
pub(crate) mod v1;
#[allow(dead_code)]
pub(crate) mod v3;

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use actix_rt::time::sleep;
pub(crate) use endpoint::keep_server_list;
pub use exchange::Operation;
use serde::Serialize;
use slog::{debug, info, warn, Logger};
use tokio::sync::watch;

use self::{
    exchange::{Answer, Refusal, Request},
    servers::{Choice, Server, Servers, OUTAGE},
    session::{Credentials, Session},
    transport::Transport,
    v1::{LoginAnswer, PushAddress},
};
use crate::{
    config::{Config, Protocol},
    error::Error,
    heartbeat::HeartbeatReply,
    instance::{Instance, InstanceKey},
    service::{ServiceInfo, ServiceName},
};

/// A disabled instance is one that GET knows and lists do not; 2.x takes up to a second to list a new one.
const LIST_DELAY: Duration = Duration::from_secs(1);

/// How often it is looked whether an endpoint has named servers.
const SERVER_LIST_WAIT: Duration = Duration::from_millis(50);

/// The client of one Registry: which servers there are, the login, the connections.
pub(crate) struct Nacos {
    namespace: String,
    protocol: Protocol,
    disabled: bool,
    operation_timeout: Duration,
    transport: Transport,
    servers: Servers,
    session: Session,
    connection: watch::Sender<ConnectionState>,
    log: Logger,
}

/// How the servers can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ConnectionState {
    /// No server has answered yet.
    #[default]
    Unknown,
    /// The server in use answers, and no other is known to fail.
    Connected,
    /// A server fails, another one serves.
    Degraded,
    /// No server answers.
    Lost,
}

/// How long to go on trying.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Until the operation's deadline: somebody waits for it.
    Operation,
    /// Once at each server: whoever asks comes back soon.
    Round,
}

/// A list, and where it comes from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Listed {
    pub(crate) info: ServiceInfo,
    pub(crate) origin: Origin,
}

impl Listed {
    /// What there is without a server.
    fn nothing(query: &ListQuery<'_>) -> Self {
        let origin = Origin { server: String::new(), protocol: Protocol::V1, outages: 0 };
        Listed { info: ServiceInfo::empty(query.service, query.clusters), origin }
    }
}

/// Lists of one origin can be ordered by their server's clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) server: String,
    pub(crate) protocol: Protocol,
    /// See [`Servers::outages`].
    pub(crate) outages: u64,
}

impl Origin {
    /// No server: whatever one says is newer.
    pub(crate) fn disk() -> Self {
        Origin { server: String::new(), protocol: Protocol::Auto, outages: 0 }
    }
}

/// What a server said, and which one.
struct Told<T> {
    value: T,
    server: Rc<Server>,
    protocol: Protocol,
}

impl Nacos {
    /// Must be called inside the arbiter that uses it: see [`Transport::new`].
    pub(crate) fn new(config: &Config) -> Result<Self, Error> {
        Ok(Nacos {
            namespace: config.namespace_id().into(),
            protocol: config.protocol,
            disabled: config.disabled,
            operation_timeout: config.operation_timeout,
            transport: Transport::new(config)?,
            servers: Servers::new(config.addresses()?, config.request_timeout),
            session: Session::new(config.username.clone(), config.password.clone()),
            connection: watch::channel(ConnectionState::Unknown).0,
            log: config.logger.clone(),
        })
    }

    pub(crate) fn servers(&self) -> &Servers {
        &self.servers
    }

    pub(crate) fn session(&self) -> &Session {
        &self.session
    }

    /// Changes when a server may have forgotten what it was told: it cut us off, or another one is in use. Whatever was
    /// registered in another generation is registered again.
    pub(crate) fn generation(&self) -> u64 {
        self.servers.generation()
    }

    pub(crate) fn connection(&self) -> ConnectionState {
        *self.connection.borrow()
    }

    /// Told of every change of the connection; ends with the client.
    pub(crate) fn connection_changes(&self) -> watch::Receiver<ConnectionState> {
        self.connection.subscribe()
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
        let make = |protocol| match protocol {
            Protocol::V3 => v3::register(&self.namespace, service, instance),
            _ => v1::register(&self.namespace, service, instance),
        };
        let key = || InstanceKey::of(service, instance).to_string();
        self.attempt(Operation::Register, patience, make, read_ok, key).await.map(drop)
    }

    pub(crate) async fn deregister(&self, key: &InstanceKey, ephemeral: bool) -> Result<(), Error> {
        if self.disabled {
            return Ok(());
        }
        let make = |protocol| match protocol {
            Protocol::V3 => v3::deregister(&self.namespace, key, ephemeral),
            _ => v1::deregister(&self.namespace, key, ephemeral),
        };
        self.attempt(Operation::Deregister, Patience::Operation, make, read_ok, || key.to_string()).await.map(drop)
    }

    pub(crate) async fn beat(
        &self,
        service: &ServiceName,
        instance: &Instance,
        light: bool,
        patience: Patience,
    ) -> Result<HeartbeatReply, Error> {
        if self.disabled {
            return Ok(HeartbeatReply::taken());
        }
        let key = InstanceKey::of(service, instance);
        let make = |protocol| match protocol {
            Protocol::V3 => v3::beat(&self.namespace, &key),
            _ => v1::beat(&self.namespace, service, instance, light),
        };
        let read = |protocol, answer: &Answer| match protocol {
            Protocol::V3 => v3::read_beat(answer),
            _ => v1::read_beat(answer),
        };
        let told = self.attempt(Operation::Beat, patience, make, read, || key.to_string()).await?;
        Ok(told.value)
    }

    /// Asks for one list, in order and filtered. `namespace`: another one than the configured.
    pub(crate) async fn list(&self, query: &ListQuery<'_>, patience: Patience) -> Result<Listed, Error> {
        if self.disabled {
            return Ok(Listed::nothing(query));
        }
        let namespace = query.namespace.unwrap_or(&self.namespace);
        let ListQuery { service, clusters, healthy_only, push_to, .. } = *query;
        let make = |protocol| match protocol {
            Protocol::V3 => v3::list(namespace, service, clusters, healthy_only),
            _ => v1::list(namespace, service, clusters, healthy_only, push_to),
        };
        let read = |protocol, answer: &Answer| match protocol {
            Protocol::V3 => v3::read_list(answer, service),
            _ => v1::read_list(answer, service),
        };
        let outages = self.servers.outages();
        let told = self.attempt(Operation::List, patience, make, read, || query.service.to_string()).await?;
        let mut info = told.value;
        info.tidy(query.clusters, query.healthy_only);
        let origin = Origin { server: told.server.name.clone(), protocol: told.protocol, outages };
        Ok(Listed { info, origin })
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
        let make = |protocol| match protocol {
            Protocol::V3 => v3::list_services(&self.namespace, group, page_no, page_size),
            _ => v1::list_services(&self.namespace, group, page_no, page_size),
        };
        let read = |protocol, answer: &Answer| match protocol {
            Protocol::V3 => v3::read_services(answer, group),
            _ => v1::read_services(answer),
        };
        let told = self.attempt(Operation::ListServices, Patience::Operation, make, read, || group.to_owned()).await?;
        Ok((told.value.count, told.value.doms))
    }

    /// Writes all values of somebody else's instance.
    pub(crate) async fn overwrite(&self, service: &ServiceName, instance: &Instance) -> Result<(), Error> {
        let key = || InstanceKey::of(service, instance).to_string();
        let make = |protocol| match protocol {
            Protocol::V3 => v3::overwrite(&self.namespace, service, instance),
            _ => v1::overwrite(&self.namespace, service, instance),
        };
        let read = |protocol, answer: &Answer| match protocol {
            Protocol::V3 => v3::read_overwritten(answer),
            _ => v1::read_ok(answer),
        };
        self.attempt(Operation::Modify, Patience::Operation, make, read, key).await.map(drop)
    }

    /// What is so now with an instance: GET and list together, since GET tells neither `enabled` nor `ephemeral` on
    /// Nacos 1.4 and 2.x.
    ///
    /// # Errors
    /// [`Error::NotFound`]; with `may_be_disabled` where the server has no GET.
    pub(crate) async fn current(&self, key: &InstanceKey) -> Result<Current, Error> {
        let found = match self.get(key).await {
            // Nacos 3 has it in the admin API alone, for those with that right.
            Err(Error::Unsupported { .. } | Error::Unauthorized { .. }) => return self.find_in_list(key).await,
            found => found?,
        };
        let v1::Found { instance, enabled_told, ephemeral_told } = found.value;
        if enabled_told && ephemeral_told {
            return Ok(Current { instance, is_complete: true });
        }
        let mut list = self.list(&ListQuery::all_of(&key.service), Patience::Operation).await?.info;
        if find(&list, key).is_none() {
            sleep(LIST_DELAY).await;
            list = self.list(&ListQuery::all_of(&key.service), Patience::Operation).await?.info;
        }
        Ok(complete(instance, &list, key))
    }

    async fn get(&self, key: &InstanceKey) -> Result<Told<v1::Found>, Error> {
        if self.disabled {
            return Err(Error::NotFound { instance: key.to_string(), may_be_disabled: false });
        }
        let make = |protocol| match protocol {
            Protocol::V3 => v3::get(&self.namespace, key),
            _ => v1::get(&self.namespace, key),
        };
        let read = |protocol, answer: &Answer| match protocol {
            Protocol::V3 => v3::read_instance(answer, key),
            _ => v1::read_instance(answer, key),
        };
        self.attempt(Operation::Get, Patience::Operation, make, read, || key.to_string()).await
    }

    async fn find_in_list(&self, key: &InstanceKey) -> Result<Current, Error> {
        let listed = self.list(&ListQuery::all_of(&key.service), Patience::Operation).await?;
        let found = find(&listed.info, key).cloned();
        found
            .map(|instance| Current { instance, is_complete: true })
            .ok_or_else(|| Error::NotFound { instance: key.to_string(), may_be_disabled: true })
    }

    /// Makes the request and reads the answer, at one server after the other, until one gives an answer that no other
    /// would give better.
    async fn attempt<T>(
        &self,
        operation: Operation,
        patience: Patience,
        make: impl Fn(Protocol) -> Request,
        read: impl Fn(Protocol, &Answer) -> Result<T, Refusal>,
        subject: impl Fn() -> String,
    ) -> Result<Told<T>, Error> {
        let deadline = Instant::now() + self.operation_timeout;
        let mut tried = Vec::new();
        let mut last_error = None;
        loop {
            let server = match self.servers.choose(&tried) {
                Choice::Ask(server) => server,
                Choice::Wait(pause) if patience == Patience::Operation && Instant::now() + pause < deadline => {
                    self.servers.wait(pause).await;
                    continue;
                }
                Choice::Nobody if patience == Patience::Operation && Instant::now() < deadline => {
                    // Once around; or the first list of servers has not come yet.
                    if tried.is_empty() {
                        sleep(SERVER_LIST_WAIT).await;
                    }
                    tried.clear();
                    continue;
                }
                _ => return Err(last_error.unwrap_or_else(|| self.nobody(operation))),
            };
            let began = Instant::now();
            match self.ask(&server, operation, &make, &read, &subject).await {
                Err(error) if error.is_retryable() => {
                    self.note_failure(&server, began, &error);
                    last_error = Some(error);
                    tried.push(server);
                }
                answered => {
                    self.note_success(&server);
                    return answered;
                }
            }
            if Instant::now() >= deadline {
                return Err(last_error.unwrap_or_else(|| self.nobody(operation)));
            }
        }
    }

    /// Every server is paused: the last error of the one in use says why.
    fn nobody(&self, operation: Operation) -> Error {
        let current = self.servers.current();
        let server = current.as_ref().map_or_else(|| "any server".to_owned(), |server| server.name.clone());
        let last = current.and_then(|server| server.health().last_error);
        let reason = last.map_or_else(|| "no server is known yet".to_owned(), |error| error.to_string());
        Error::Unreachable { operation, server, reason }
    }

    /// Asks one server, in the protocol it is known to speak, and in the other if it does not speak that (any more).
    async fn ask<T>(
        &self,
        server: &Rc<Server>,
        operation: Operation,
        make: &impl Fn(Protocol) -> Request,
        read: &impl Fn(Protocol, &Answer) -> Result<T, Refusal>,
        subject: &impl Fn() -> String,
    ) -> Result<Told<T>, Error> {
        let mut protocol = self.protocol_of(server);
        let mut answered = self.speak(server, operation, protocol, make, read).await?;
        if self.protocol == Protocol::Auto && matches!(answered, Err(Refusal::NotSpoken)) {
            protocol = other(protocol);
            answered = self.speak(server, operation, protocol, make, read).await?;
        }
        if is_in_every_api(operation) && !matches!(answered, Err(Refusal::NotSpoken)) {
            self.note_protocol(server, protocol);
        }
        match answered {
            Ok(value) => Ok(Told { value, server: server.clone(), protocol }),
            Err(refusal) => Err(refusal.into_error(operation, &server.name, subject())),
        }
    }

    /// v1 is tried first: where both are there, only that has push.
    fn protocol_of(&self, server: &Server) -> Protocol {
        match self.protocol {
            Protocol::Auto => server.protocol().unwrap_or(Protocol::V1),
            fixed => fixed,
        }
    }

    /// A server that speaks another protocol than before was replaced: it may not know what that was told.
    fn note_protocol(&self, server: &Server, protocol: Protocol) {
        match server.speaks(protocol) {
            Some(before) if before != protocol => {
                info!(self.log, "registry server speaks another protocol now";
                    "server" => &server.name, "before" => ?before, "now" => ?protocol);
                self.servers.next_generation();
            }
            _ => {}
        }
    }

    /// One request in one protocol; once more after a new login when the token was refused.
    async fn speak<T>(
        &self,
        server: &Rc<Server>,
        operation: Operation,
        protocol: Protocol,
        make: &impl Fn(Protocol) -> Request,
        read: &impl Fn(Protocol, &Answer) -> Result<T, Refusal>,
    ) -> Result<Result<T, Refusal>, Error> {
        let request = make(protocol);
        let token = self.token(server).await?;
        let outcome = self.send(server, operation, &request, token.as_deref()).await.map(|a| read(protocol, &a))?;
        match (outcome, token) {
            (Err(Refusal::TokenRefused(_)), Some(token)) => {
                self.session.forget(&token);
                let token = self.token(server).await?;
                self.send(server, operation, &request, token.as_deref()).await.map(|a| read(protocol, &a))
            }
            (Err(Refusal::TokenRefused(said)), None) => {
                Ok(Err(Refusal::Denied(format!("{said}; it wants a login: set credentials"))))
            }
            (outcome, _) => Ok(outcome),
        }
    }

    async fn token(&self, server: &Rc<Server>) -> Result<Option<Rc<str>>, Error> {
        self.session.token(|credentials| self.log_in(server, credentials)).await
    }

    async fn log_in(&self, server: &Rc<Server>, credentials: Credentials) -> Result<LoginAnswer, Error> {
        let first = self.protocol_of(server);
        let mut answered = self.log_in_by(server, first, &credentials).await?;
        if self.protocol == Protocol::Auto && matches!(answered, Err(Refusal::NotSpoken)) {
            answered = self.log_in_by(server, other(first), &credentials).await?;
        }
        answered.map_err(|refusal| refusal.into_error(Operation::Login, &server.name, &credentials.username))
    }

    async fn log_in_by(
        &self,
        server: &Server,
        protocol: Protocol,
        credentials: &Credentials,
    ) -> Result<Result<LoginAnswer, Refusal>, Error> {
        let Credentials { username, password } = credentials;
        let (request, read): (_, fn(&Answer) -> _) = match protocol {
            Protocol::V3 => (v3::login(username, password), v3::read_login),
            _ => (v1::login(v1::LOGIN, username, password), v1::read_login),
        };
        let answer = self.send(server, Operation::Login, &request, None).await?;
        Ok(read(&answer))
    }

    async fn send(
        &self,
        server: &Server,
        operation: Operation,
        request: &Request,
        token: Option<&str>,
    ) -> Result<Answer, Error> {
        let sent = self.transport.send(&server.base_url, request, token).await;
        sent.map_err(|none| none.into_error(operation, &server.name))
    }

    fn note_success(&self, server: &Rc<Server>) {
        let failures = server.failures();
        self.servers.succeeded(server);
        if failures >= OUTAGE {
            info!(self.log, "registry server is back"; "server" => &server.name);
        }
        self.note_connection(true);
    }

    fn note_failure(&self, server: &Rc<Server>, began: Instant, error: &Error) {
        let failures = server.failures();
        self.servers.failed(server, began, error);
        debug!(self.log, "request to registry server failed"; "server" => &server.name, "error" => %error);
        if failures < OUTAGE && server.failures() >= OUTAGE {
            warn!(self.log, "registry server fails"; "server" => &server.name, "error" => %error);
        }
        self.note_connection(false);
    }

    /// A few failures are a hiccup: they change nothing.
    fn note_connection(&self, answered: bool) {
        let (failing, servers) = self.servers.failing();
        let state = match failing {
            0 if answered => ConnectionState::Connected,
            0 => return,
            _ if failing == servers => ConnectionState::Lost,
            _ => ConnectionState::Degraded,
        };
        self.connection.send_if_modified(|now| std::mem::replace(now, state) != state);
    }
}

fn other(protocol: Protocol) -> Protocol {
    match protocol {
        Protocol::V3 => Protocol::V1,
        _ => Protocol::V3,
    }
}

/// Whether a server that does not speak this operation in one protocol does not speak that protocol. Nacos 3.0 has lost
/// the others from v1, and has them in v3's admin API, while it still speaks v1.
fn is_in_every_api(operation: Operation) -> bool {
    matches!(operation, Operation::Register | Operation::Deregister | Operation::List | Operation::Beat)
}

fn read_ok(protocol: Protocol, answer: &Answer) -> Result<(), Refusal> {
    match protocol {
        Protocol::V3 => v3::read_ok(answer),
        _ => v1::read_ok(answer),
    }
}

/// What to list.
#[derive(Clone, Copy)]
pub(crate) struct ListQuery<'a> {
    pub(crate) namespace: Option<&'a str>,
    pub(crate) service: &'a ServiceName,
    /// Comma separated; empty for all.
    pub(crate) clusters: &'a str,
    pub(crate) healthy_only: bool,
    pub(crate) push_to: Option<PushAddress>,
}

impl<'a> ListQuery<'a> {
    fn all_of(service: &'a ServiceName) -> Self {
        ListQuery { namespace: None, service, clusters: "", healthy_only: false, push_to: None }
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
