//! The Registry actor. It owns the Nacos client, takes one message per operation, and keeps the desired state: what is
//! to be registered, and what is subscribed to.
//!
//! | theme | files |
//! |---|---|
//! | the actor and its state | `actor`, `shared`, `shutdown` |
//! | messages about one instance | `instances`, `modify`, `get`, `beats` |
//! | messages about services | `lists`, `subscribe`, `choose` |
//! | messages that watch and report | `connection`, `instance_state`, `watch_ejections`, `status`, `snapshot` |
//! | messages that change settings | `credentials` |
//! | what messages share | `target`, `filter`, `values`, `watchers`, `doubles` |
//! | what keeps instances registered | `heartbeat`, `registration`, `r_nacos` |
//! | parts of the state, about instances | `desired`, `published_state`, `recent_writes`, `server_kind` |
//! | parts of the state, about services | `subscriptions`, `choosers`, `ejections`, `push_socket` |
//! | pushes | `pushes` |
//! | for `serve` | `serving` |
//!
//! The parts of the state depend on neither the actor nor `shared`, so that imports go one way.
//!
//! A message is a struct with its setters, the rules of its values, and the handler below it. The handler queues for
//! the instance's turn if there is one, and returns a future, so it never blocks the mailbox.

mod actor;
mod answers;
mod beats;
mod choose;
mod choosers;
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
mod phase;
mod published_state;
mod push_socket;
mod pushes;
mod r_nacos;
mod recent_writes;
mod registration;
mod server_kind;
#[cfg(feature = "actix-web")]
mod serving;
mod shared;
mod shutdown;
#[cfg(feature = "actix-web")]
pub(crate) mod snapshot;
mod status;
mod subscribe;
mod subscriptions;
mod target;
mod values;
mod watch_ejections;
mod watchers;

#[cfg(feature = "actix-web")]
pub(crate) use self::serving::{AddressMissing, BeginServing, GetReadiness, Readiness, RegistrationsAsked};
pub use self::{
    actor::Registry,
    beats::SendHeartbeat,
    choose::Choose,
    connection::{UnwatchConnection, WatchConnection},
    credentials::{SetAccessKey, SetCredentials},
    get::GetInstance,
    instance_state::{UnwatchInstances, WatchInstances},
    instances::{DeregisterInstance, RegisterInstance},
    lists::{ListInstances, ListServices, ServiceList},
    modify::ModifyInstance,
    push_socket::PushStatus,
    registration::Registration,
    shutdown::{NotDeregistered, Shutdown, ShutdownGuard, ShutdownReport},
    status::{GetStatus, InstanceStatus, RegistryStatus, ServerStatus, SessionStatus},
    subscribe::{Discover, StopSubscribe, Subscribe, Unsubscribe},
    watch_ejections::{UnwatchEjections, WatchEjections},
};
