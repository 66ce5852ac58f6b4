//! The Registry actor. It owns the Nacos client, takes one message per operation, and keeps the desired state: what is
//! to be registered, and what is subscribed to.

mod actor;
mod beats;
mod choose;
mod connection;
mod credentials;
mod desired;
mod doubles;
mod ejections;
mod filter;
mod get;
pub(crate) mod heartbeat;
mod instance_state;
mod instances;
mod lists;
mod modify;
mod pushes;
mod r_nacos;
mod recent_writes;
mod registration;
#[cfg(feature = "actix-web")]
mod serving;
mod shared;
mod shutdown;
#[cfg(feature = "actix-web")]
pub(crate) mod snapshot;
mod status;
mod subscriptions;
mod target;
mod values;
mod watchers;

#[cfg(feature = "actix-web")]
pub(crate) use self::serving::{AddressMissing, BeginServing, GetReadiness, Readiness, RegistrationsAsked};
pub use self::{
    actor::Registry,
    beats::SendHeartbeat,
    choose::Choose,
    connection::{ConnectionChanged, UnwatchConnection, WatchConnection},
    credentials::{SetAccessKey, SetCredentials},
    ejections::{UnwatchEjections, WatchEjections},
    get::GetInstance,
    instance_state::{InstanceState, InstanceStateChanged, UnwatchInstances, WatchInstances},
    instances::{DeregisterInstance, RegisterInstance},
    lists::{ListInstances, ListServices, ServiceList},
    modify::ModifyInstance,
    pushes::PushStatus,
    registration::Registration,
    shutdown::{NotDeregistered, Shutdown, ShutdownGuard, ShutdownReport},
    status::{GetStatus, InstanceStatus, RegistryStatus, ServerStatus, SessionStatus},
    subscriptions::{Discover, StopSubscribe, Subscribe, Unsubscribe},
};
