//! What is going on, for a health page.

use std::time::Instant;

use actix::{Context, Handler, Message, ResponseFuture};
use serde::Serialize;

use super::{
    actor::Registry, desired::DesiredInstance, instance_state::InstanceState, pushes::PushStatus, shared::Shared,
};
use crate::{
    client::{request_counters::RequestStatus, server::Server},
    config::Protocol,
    discovery::subscriber::SubscriptionStatus,
    error::{Error, Operation},
    model::{connection::ConnectionState, histogram::Histogram, instance::InstanceKey},
};

/// Asks for the state of servers, login, instances and subscriptions.
///
/// # Errors
/// [`Error::Stopped`] alone.
#[derive(Debug, Clone, Copy, Default, Message)]
#[rtype(result = "Result<RegistryStatus, Error>")]
pub struct GetStatus;

/// The state of a Registry at one moment. Serialises to JSON; holds no secrets.
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
    /// How the servers can be reached.
    pub connection: ConnectionState,
    /// The servers, configured or named by the endpoint.
    pub servers: Vec<ServerStatus>,
    /// The requests to all servers so far, by operation.
    pub requests: Vec<RequestStatus>,
    /// How late heartbeats were sent, counted from the moment at which they were due. The timer grid makes them up to
    /// half a second late.
    pub heartbeat_lateness: Histogram,
    /// The number of epochs so far: how often the server in use may have forgotten what it was told.
    pub epochs: u64,
    /// The login, if there are credentials.
    pub session: Option<SessionStatus>,
    /// The instances that this Registry keeps registered.
    pub instances: Vec<InstanceStatus>,
    /// The services that are watched.
    pub subscriptions: Vec<SubscriptionStatus>,
    /// The socket that servers push to; none before the first subscription, where pushes are off, and while no socket can be
    /// had.
    pub push: Option<PushStatus>,
}

/// One server.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ServerStatus {
    /// `host:port`.
    pub address: String,
    /// Whether it is the one that is asked.
    pub in_use: bool,
    /// What it was last found to speak.
    pub protocol: Option<Protocol>,
    /// Failed requests since the last success; 0 means well, or not asked yet.
    pub failures: u32,
    /// Requests so far.
    pub requests: u64,
    /// Requests without a usable answer so far.
    pub failed_requests: u64,
    /// Milliseconds since it last answered.
    pub last_success_ms_ago: Option<u64>,
    /// Milliseconds since a request last failed.
    pub last_failure_ms_ago: Option<u64>,
    /// Why a request last failed.
    pub last_error: Option<String>,
}

/// The login.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SessionStatus {
    /// Whether there is a token.
    pub logged_in: bool,
    /// Logins so far, refused ones too.
    pub logins: u64,
    /// Why the last login was refused, if it was. The server may serve without it all the same.
    pub last_error: Option<String>,
}

/// One instance that this Registry keeps registered.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct InstanceStatus {
    /// Which one.
    pub instance: InstanceKey,
    /// Whether it lives by heartbeats.
    pub ephemeral: bool,
    /// Whether the servers have it, as far as is known: the state is [`InstanceState::Registered`].
    pub registered: bool,
    /// What is known of it on the servers.
    pub state: InstanceState,
    /// Milliseconds since it was asked for.
    pub since_ms_ago: u64,
    /// Signs of life that were taken so far.
    pub beats: u64,
    /// Milliseconds since the server last took a sign of life.
    pub last_success_ms_ago: Option<u64>,
    /// Why the last sign of life failed, if it did; what the server said if it rejects the instance.
    pub last_error: Option<String>,
}

impl Handler<GetStatus> for Registry {
    type Result = ResponseFuture<Result<RegistryStatus, Error>>;

    fn handle(&mut self, _: GetStatus, _: &mut Context<Self>) -> Self::Result {
        self.dispatch(Operation::Status, |shared| async move {
            let mut instances = Vec::new();
            shared.desired.for_each(|desired| instances.push(InstanceStatus::of(desired)));
            Ok(RegistryStatus {
                uptime_ms: shared.started_at.elapsed().as_millis() as u64,
                connection: shared.nacos.connection(),
                servers: shared.server_status(),
                requests: shared.nacos.requests().status(),
                heartbeat_lateness: shared.heartbeat_lateness.histogram(),
                epochs: shared.nacos.epoch(),
                session: shared.session_status(),
                instances,
                subscriptions: shared.subscriptions.describe().await,
                push: shared.pushes.status(),
            })
        })
    }
}

impl Shared {
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
            last_success_ms_ago: health.last_success.map(|at| ms_ago(at.into_std())),
            last_failure_ms_ago: health.last_failure.map(|at| ms_ago(at.into_std())),
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
            since_ms_ago: ms_ago(desired.since.into_std()),
            beats: desired.beats,
            last_success_ms_ago: desired.last_success.map(|at| ms_ago(at.into_std())),
            last_error: desired.last_error.as_ref().map(ToString::to_string),
        }
    }
}

fn ms_ago(moment: Instant) -> u64 {
    moment.elapsed().as_millis() as u64
}
