//! What an application uses: the Registry, its messages, and what comes back.
//!
//! ```
//! use actix_nacos::prelude::*;
//! ```

pub use crate::{
    Config, ConnectionChanged, DeregisterInstance, Discover, Error, GetInstance, GetStatus, Instance, ListInstances,
    ListServices, ModifyInstance, RegisterInstance, Registry, SendHeartbeat, ServiceChanged, ServiceInfo, ServiceView,
    Shutdown, StopSubscribe, Subscribe, Unsubscribe, WatchConnection,
};
