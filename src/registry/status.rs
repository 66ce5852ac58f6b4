//! The message that reads the state of the Registry.
//!
//! Everything is read from counters and tables that exist anyway. Times are "milliseconds ago", so that a reader
//! needs no clock in common with the process.

use actix::{Context, Handler, Message, ResponseFuture};
use actix_rt::time::Instant;
use serde::Serialize;

use super::{actor::Registry, desired::DesiredInstance, push_socket::PushStatus, shared::Shared};
use crate::{
    client::{request_counters::RequestStatus, server::Server},
    config::Protocol,
    discovery::{
        subscription::SubscriptionStatus,
        view::{CallTotals, EjectionStatus},
    },
    error::{Error, Operation},
    model::{connection::ConnectionState, histogram::Histogram, instance::InstanceKey, instance_state::InstanceState},
    runtime::history::{ListChange, RegistryEvent},
};

/// Reads the state of the servers, the login, the instances and the subscriptions. The answer comes from memory; no
/// server is asked. It serialises to JSON, for a status page or for metrics.
///
/// ```
/// # use actix_nacos::{embedded::EmbeddedServer, prelude::*};
/// # #[actix::main]
/// # async fn main() -> Result<(), Error> {
/// # let server = EmbeddedServer::start().unwrap();
/// # let registry = Registry::start(Config::new(server.server_address()))?;
/// registry.send(RegisterInstance::new("orders", "127.0.0.7", 8080)).await??;
/// let status = registry.send(GetStatus).await??;
/// assert_eq!(status.connection, ConnectionState::Connected);
/// assert!(status.servers[0].in_use && status.instances[0].registered);
/// println!("{}", serde_json::to_string_pretty(&status).unwrap());
/// # Ok(())
/// # }
/// ```
///
/// The answer takes time in proportion to instances and subscriptions: with 100,000 instances, do not ask every
/// second.
///
/// # Errors
/// Only [`Error::Stopped`], if the Registry has ended.
#[derive(Debug, Clone, Copy, Default, Message)]
#[rtype(result = "Result<RegistryStatus, Error>")]
pub struct GetStatus;

/// The state of a Registry at one moment: the answer to [`GetStatus`]. It serialises to JSON and holds no secrets.
///
/// Tests of code that reads it can build one:
///
/// ```
/// use actix_nacos::{ConnectionState, RegistryStatus, ServerStatus};
///
/// let mut server = ServerStatus::new("192.0.2.1:8848");
/// server.failures = 3;
/// let mut status = RegistryStatus::default();
/// status.connection = ConnectionState::Lost;
/// status.servers.push(server);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct RegistryStatus {
    /// Milliseconds since the Registry started.
    pub uptime_ms: u64,
    /// Whether the servers can be reached.
    pub connection: ConnectionState,
    /// The servers, as configured or as listed by the [`endpoint`](crate::Config::endpoint).
    pub servers: Vec<ServerStatus>,
    /// The requests to all servers so far, by operation.
    pub requests: Vec<RequestStatus>,
    /// How late heartbeats were sent, counted from the moment at which they were due. The timer grid makes them up to
    /// half a second late.
    pub heartbeat_lateness: Histogram,
    /// The number of epochs so far: how often the server in use may have forgotten its instances.
    pub epochs: u64,
    /// The last 100 events, the oldest first.
    pub events: Vec<RegistryEvent>,
    /// The last 100 changes of watched lists, the oldest first.
    pub changes: Vec<ListChange>,
    /// The login. `None` without credentials.
    pub session: Option<SessionStatus>,
    /// The instances that this Registry keeps registered.
    pub instances: Vec<InstanceStatus>,
    /// The services that are subscribed to or discovered.
    pub subscriptions: Vec<SubscriptionStatus>,
    /// The instances that are left out because calls of them failed.
    pub ejections: Vec<EjectionStatus>,
    /// The calls of services that views began, by service.
    pub calls: Vec<CallTotals>,
    /// The number of ejections so far.
    pub ejections_total: u64,
    /// The socket that servers push changes to. `None` before the first subscription, if pushes are off, and while no
    /// socket could be opened.
    pub push: Option<PushStatus>,
}

/// The state of one server, in a [`RegistryStatus`].
///
/// A server that is not in use and has `failures` is not known to be down now: it is not asked until it is needed.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ServerStatus {
    /// `host:port`.
    pub address: String,
    /// Whether this is the server in use, which is asked first.
    pub in_use: bool,
    /// The protocol that the server was last found to speak. `None` before its first answer.
    pub protocol: Option<Protocol>,
    /// Failed requests since the last success. 0 also before the first request.
    pub failures: u32,
    /// Requests since the start of the Registry.
    pub requests: u64,
    /// Requests without a usable answer since the start of the Registry.
    pub failed_requests: u64,
    /// Milliseconds since the last request that succeeded. `None` before the first one.
    pub last_success_ms_ago: Option<u64>,
    /// Milliseconds since the last failed request. `None` before the first one.
    pub last_failure_ms_ago: Option<u64>,
    /// Why the last failed request failed.
    pub last_error: Option<String>,
}

/// The state of the login, in a [`RegistryStatus`].
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SessionStatus {
    /// Whether the Registry has a token.
    pub logged_in: bool,
    /// Login attempts since the start of the Registry, including rejected and failed ones.
    pub logins: u64,
    /// Why the last login was rejected. `None` if it was accepted. The server may serve requests without a login all
    /// the same.
    pub last_error: Option<String>,
}

/// The state of one registered instance, in a [`RegistryStatus`].
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct InstanceStatus {
    /// The instance.
    pub instance: InstanceKey,
    /// Whether the instance is ephemeral, so that heartbeats keep it alive.
    pub ephemeral: bool,
    /// Whether the servers have the instance, as far as is known: the state is [`InstanceState::Registered`].
    pub registered: bool,
    /// The state on the servers, as far as is known.
    pub state: InstanceState,
    /// Milliseconds since the application registered the instance.
    pub since_ms_ago: u64,
    /// The number of heartbeats, and of registrations in place of a heartbeat, that servers have accepted.
    pub beats: u64,
    /// Milliseconds since a server last accepted a registration or a heartbeat.
    pub last_success_ms_ago: Option<u64>,
    /// The heartbeat timeout of the instance in milliseconds. After this time without a heartbeat, servers mark the
    /// instance as unhealthy. 15,000, or the metadata entry [`HEART_BEAT_TIMEOUT`](crate::HEART_BEAT_TIMEOUT).
    pub heartbeat_timeout_ms: u64,
    /// Why the last registration or heartbeat failed. `None` if it succeeded.
    pub last_error: Option<String>,
}

impl Handler<GetStatus> for Registry {
    type Result = ResponseFuture<Result<RegistryStatus, Error>>;

    fn handle(&mut self, _: GetStatus, _: &mut Context<Self>) -> Self::Result {
        self.dispatch(Operation::Status, |shared| async move {
            let subscriptions = shared.subscriptions.describe().await;
            Ok(shared.status(subscriptions))
        })
    }
}

impl Shared {
    pub(super) fn status(&self, subscriptions: Vec<SubscriptionStatus>) -> RegistryStatus {
        let mut instances = Vec::new();
        self.desired.for_each(|desired| instances.push(InstanceStatus::of(desired)));
        RegistryStatus {
            uptime_ms: self.started_at.elapsed().as_millis() as u64,
            connection: self.nacos.connection(),
            servers: self.server_status(),
            requests: self.nacos.requests().status(),
            heartbeat_lateness: self.heartbeat_lateness.histogram(),
            epochs: self.nacos.epoch(),
            session: self.session_status(),
            instances,
            subscriptions,
            calls: self.ejections.calls(),
            ejections_total: self.ejections.total(),
            push: self.pushes.status(),
            ejections: self.ejections.status(),
            events: self.history.events(),
            changes: self.history.changes(),
        }
    }

    fn server_status(&self) -> Vec<ServerStatus> {
        let current = self.nacos.servers().current().map(|server| server.name.clone());
        let describe = |server: &Server| ServerStatus::of(server, current.as_ref() == Some(&server.name));
        self.nacos.servers().all().iter().map(|server| describe(server)).collect()
    }

    fn session_status(&self) -> Option<SessionStatus> {
        let session = self.nacos.session();
        session.is_needed().then(|| {
            let health = session.health();
            SessionStatus {
                logged_in: health.logged_in,
                logins: health.logins,
                last_error: health.last_error.map(|error| error.to_string()),
            }
        })
    }
}

impl ServerStatus {
    fn of(server: &Server, in_use: bool) -> Self {
        let health = server.health();
        ServerStatus {
            address: server.name.clone(),
            in_use,
            protocol: server.protocol().map(Protocol::from),
            failures: health.failures,
            requests: health.requests,
            failed_requests: health.failed_requests,
            last_success_ms_ago: health.last_success.map(ms_ago),
            last_failure_ms_ago: health.last_failure.map(ms_ago),
            last_error: health.last_error.map(|error| error.to_string()),
        }
    }
}

impl InstanceStatus {
    fn of(desired: &DesiredInstance) -> Self {
        InstanceStatus {
            instance: (*desired.key).clone(),
            ephemeral: desired.instance.ephemeral,
            registered: desired.state == InstanceState::Registered,
            state: desired.state,
            since_ms_ago: ms_ago(desired.since),
            beats: desired.beats,
            last_success_ms_ago: desired.last_success.map(ms_ago),
            heartbeat_timeout_ms: desired.instance.heartbeat_timeout().as_millis() as u64,
            last_error: desired.last_error().as_ref().map(ToString::to_string),
        }
    }
}

fn ms_ago(moment: Instant) -> u64 {
    moment.elapsed().as_millis() as u64
}
