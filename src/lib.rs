//! Nacos service registry for actix applications.
mod error;
mod heartbeat;
mod instance;
mod nacos;
mod push;
mod service;
mod view;

#[cfg(feature = "embedded")]
#[cfg_attr(docsrs, doc(cfg(feature = "embedded")))]
pub mod embedded;

pub use error::Error;
pub use heartbeat::HeartbeatReply;
pub use instance::{
    Instance, InstanceKey, Metadata, DEFAULT_CLUSTER, HEART_BEAT_INTERVAL, HEART_BEAT_TIMEOUT, IP_DELETE_TIMEOUT,
};
pub use nacos::Operation;
pub use service::{ServiceInfo, ServiceName, DEFAULT_GROUP};
pub use view::{Instances, Selected, ServiceView};
