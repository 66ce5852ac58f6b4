//! Nacos service registry for actix applications.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod cache;
mod config;
mod error;
mod grid;
mod heartbeat;
mod instance;
mod nacos;
mod push;
mod registry;
mod service;
#[cfg(feature = "embedded")]
mod staged_panic;
mod subscriber;
mod supervise;
mod view;

#[cfg(feature = "embedded")]
#[cfg_attr(docsrs, doc(cfg(feature = "embedded")))]
pub mod embedded;

#[cfg(feature = "embedded")]
#[doc(hidden)]
pub use staged_panic::{Place, StagePanic, Victim};

pub use config::{Config, Protocol, PushConfig, TlsConfig};
pub use error::Error;
pub use heartbeat::HeartbeatReply;
pub use instance::{
    Instance, InstanceKey, Metadata, DEFAULT_CLUSTER, HEART_BEAT_INTERVAL, HEART_BEAT_TIMEOUT, IP_DELETE_TIMEOUT,
};
pub use nacos::{ConnectionState, Operation};
pub use registry::{
    ConnectionChanged, DeregisterInstance, Discover, GetInstance, GetStatus, InstanceStatus, ListInstances,
    ListServices, ModifyInstance, NotDeregistered, PushStatus, RegisterInstance, Registry, RegistryStatus,
    SendHeartbeat, ServerStatus, ServiceList, SessionStatus, Shutdown, ShutdownGuard, ShutdownReport, StopSubscribe,
    Subscribe, Unsubscribe, WatchConnection,
};
pub use service::{ServiceInfo, ServiceName, DEFAULT_GROUP};
pub use subscriber::{Change, ServiceChanged, Source, SubscriptionStatus};
pub use view::{Instances, Selected, ServiceView};
