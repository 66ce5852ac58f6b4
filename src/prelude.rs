//! What an application uses: the Registry, its messages, and what comes back.
//!
//! ```
//! use actix_nacos::prelude::*;
//! ```

pub use crate::{
    Config, ConnectionChanged, ConnectionState, DeregisterInstance, Discover, Error, GetInstance, GetStatus,
    HeartbeatReply, Instance, InstanceState, InstanceStateChanged, ListInstances, ListServices, Metadata,
    ModifyInstance, RegisterInstance, Registration, Registry, RegistryStatus, SendHeartbeat, ServiceChanged,
    ServiceInfo, ServiceList, ServiceName, ServiceView, SetAccessKey, SetCredentials, Shutdown, ShutdownGuard,
    ShutdownReport, Source, StopSubscribe, Subscribe, Unsubscribe, UnwatchConnection, UnwatchInstances,
    WatchConnection, WatchInstances,
};
