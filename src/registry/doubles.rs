//! Constructors for tests of applications: what a Registry sends or returns, built by hand. All other fields can be
//! assigned.
//!
//! The structs are `#[non_exhaustive]`, so that fields can be added. Without these constructors, code outside of the
//! crate could not create them.

use super::{InstanceStatus, NotDeregistered, ServerStatus};
use crate::{
    discovery::subscription::SubscriptionStatus,
    error::Error,
    model::{
        connection::{ConnectionChanged, ConnectionState},
        instance::InstanceKey,
        instance_state::InstanceState,
        service::ServiceName,
    },
};

impl ServerStatus {
    /// For tests: a server without any request so far.
    pub fn new(address: impl Into<String>) -> Self {
        ServerStatus { address: address.into(), ..Self::default() }
    }
}

impl InstanceStatus {
    /// For tests: an ephemeral instance that is registered and has not sent a heartbeat yet.
    pub fn new(instance: InstanceKey) -> Self {
        InstanceStatus {
            instance,
            ephemeral: true,
            registered: true,
            state: InstanceState::Registered,
            since_ms_ago: 0,
            beats: 0,
            last_success_ms_ago: Some(0),
            heartbeat_timeout_ms: 15_000,
            last_error: None,
        }
    }
}

impl SubscriptionStatus {
    /// For tests: a subscription to all clusters of a service, which has no list yet.
    pub fn new(service: ServiceName) -> Self {
        SubscriptionStatus {
            service,
            clusters: String::new(),
            listeners: 0,
            views: 0,
            instances: None,
            withheld: 0,
            healthy: 0,
            unhealthy: 0,
            stale: false,
            last_success_ms_ago: None,
            last_error: None,
            polls: 0,
            pushes: 0,
            ignored_pushes: 0,
            changes: 0,
        }
    }
}

impl ConnectionChanged {
    /// For tests of listeners: the message, with `server` as the server in use.
    pub fn new(state: ConnectionState, server: Option<&str>) -> Self {
        ConnectionChanged { state, server: server.map(str::to_owned) }
    }
}

impl NotDeregistered {
    /// For tests: an entry of a [`ShutdownReport`](super::ShutdownReport).
    pub fn new(instance: InstanceKey, error: Error) -> Self {
        NotDeregistered { instance, error }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{PushStatus, RegistryStatus, SessionStatus, ShutdownReport},
        *,
    };
    use crate::{error::Operation, model::instance::Instance};

    fn key() -> InstanceKey {
        InstanceKey::of(&ServiceName::parse("SHOP@@orders").unwrap(), &Instance::new("127.0.0.7", 80))
    }

    #[test]
    fn a_status_that_was_built_by_hand_serialises_like_a_real_one() {
        let status = RegistryStatus {
            connection: ConnectionState::Degraded,
            servers: vec![ServerStatus::new("a:8848")],
            session: Some(SessionStatus::default()),
            instances: vec![InstanceStatus::new(key())],
            subscriptions: vec![SubscriptionStatus::new(key().service)],
            push: Some(PushStatus::default()),
            ..RegistryStatus::default()
        };
        let json = serde_json::to_value(&status).unwrap();
        assert_eq!((&json["connection"], &json["servers"][0]["address"]), (&"degraded".into(), &"a:8848".into()));
        assert_eq!(json["instances"][0]["instance"]["service"]["group"], "SHOP");
        assert_eq!(json["subscriptions"][0]["service"]["name"], "orders");
        assert_eq!(ConnectionChanged::new(ConnectionState::Lost, Some("a:8848")).server.as_deref(), Some("a:8848"));
    }

    #[test]
    fn a_report_serialises_with_its_errors() {
        let (operation, server) = (Operation::Deregister, "a:8848".into());
        let late = Error::Timeout { operation, server, after: std::time::Duration::from_millis(1500) };
        let report = ShutdownReport {
            deregistered: 2,
            failed: vec![NotDeregistered::new(key(), late)],
            ..ShutdownReport::default()
        };
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!((&json["deregistered"], &json["failed"][0]["instance"]["port"]), (&2.into(), &80.into()));
        let error = &json["failed"][0]["error"];
        assert_eq!((&error["kind"], &error["operation"]), (&"timeout".into(), &"deregister".into()));
        assert_eq!((&error["server"], &error["after_ms"]), (&"a:8848".into(), &1500.into()));
    }
}
