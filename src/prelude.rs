//! The types that most applications use: the Registry, its messages, and their answers.
//!
//! ```
//! use actix_nacos::prelude::*;
//!
//! # fn main() -> Result<(), Error> {
//! let registry = Registry::start(Config::disabled())?;
//! # Ok(())
//! # }
//! ```

#[cfg(feature = "actix-web")]
pub use crate::StatusRoutes;
pub use crate::{
    Call, Choose, Config, ConnectionChanged, ConnectionState, DeregisterInstance, Discover, Eject, EjectionChanged,
    Error, GetInstance, GetStatus, HeartbeatReply, Instance, InstanceState, InstanceStateChanged, ListInstances,
    ListServices, Metadata, ModifyInstance, Policy, RegisterInstance, Registration, Registry, RegistryStatus,
    Selection, SendHeartbeat, ServiceChanged, ServiceInfo, ServiceList, ServiceName, ServiceView, SetAccessKey,
    SetCredentials, Shutdown, ShutdownGuard, ShutdownReport, Source, StopSubscribe, Subscribe, Unsubscribe,
    UnwatchConnection, UnwatchEjections, UnwatchInstances, WatchConnection, WatchEjections, WatchInstances,
};
