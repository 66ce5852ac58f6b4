//! Describes what is wrong, for the live page.
//!
//! The page begins with these lines, so they are what an operator reads first. Each says what does not work, for
//! whom, and the last error if there is one. A state that ends by itself and harms no caller is not listed.
//!
//! An [error](Severity::Error) is something that callers notice now. A [warning](Severity::Warning) explains an unusual
//! state, or does harm if it lasts.

use serde::Serialize;

use crate::{
    discovery::subscriber::snapshot::ListSnapshot,
    model::{
        connection::ConnectionState,
        instance::{Instance, InstanceKey},
        instance_state::InstanceState,
        service::{ServiceName, DEFAULT_GROUP},
    },
    registry::{snapshot::Snapshot, InstanceStatus, RegistryStatus},
};

/// This many problems of one kind are listed. Further ones are counted.
const NAMED: usize = 3;

/// One problem that an operator may have to solve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Problem {
    severity: Severity,
    text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Severity {
    /// Calls fail, or other processes do not find this one.
    Error,
    /// Everything still works.
    Warning,
}

/// Lists the problems, the worst first.
pub(super) fn problems(snapshot: &Snapshot) -> Vec<Problem> {
    let mut found = Found::default();
    found.add_closing(snapshot);
    found.add_servers(&snapshot.status);
    found.add_session(&snapshot.status);
    found.add_instances(&snapshot.status);
    found.add_lists(&snapshot.lists);
    found.0.sort_by_key(|problem| problem.severity);
    found.0
}

#[derive(Default)]
struct Found(Vec<Problem>);

impl Found {
    fn error(&mut self, text: impl Into<String>) {
        self.0.push(Problem { severity: Severity::Error, text: text.into() });
    }

    fn warning(&mut self, text: impl Into<String>) {
        self.0.push(Problem { severity: Severity::Warning, text: text.into() });
    }

    /// Adds the first few problems, and then the number of further ones.
    fn add_each(&mut self, severity: Severity, texts: impl Iterator<Item = String>, more: &str) {
        let mut texts = texts.peekable();
        for text in texts.by_ref().take(NAMED) {
            self.0.push(Problem { severity, text });
        }
        let count = texts.count();
        if count > 0 {
            self.0.push(Problem { severity, text: format!("And {count} more {more}.") });
        }
    }

    fn add_closing(&mut self, snapshot: &Snapshot) {
        if snapshot.is_closing {
            self.warning("This process is going offline: its instances are being deregistered.");
        }
    }

    /// A failing server is only a warning while another server answers.
    fn add_servers(&mut self, status: &RegistryStatus) {
        let failing = status.servers.iter().filter(|server| server.failures > 0);
        let last_error = failing.clone().filter_map(|server| server.last_error.as_deref()).next_back();
        let because = last_error.map(|error| format!(" The last error: {error}.")).unwrap_or_default();
        match status.connection {
            ConnectionState::Lost => {
                self.error(format!(
                    "No registry server answers.{because} Lists stay as they were, and may be out of date."
                ));
            }
            ConnectionState::Degraded => {
                let failing: Vec<_> = failing.map(|server| server.address.as_str()).collect();
                if failing.is_empty() {
                    self.warning("A registry server failed lately; another one serves.");
                } else {
                    self.warning(format!("{} does not answer; another server serves.{because}", failing.join(", ")));
                }
            }
            ConnectionState::Unknown if last_error.is_some() => {
                self.error(format!("No registry server has answered yet.{because}"));
            }
            ConnectionState::Unknown | ConnectionState::Connected => {}
        }
    }

    /// A rejected login. The server may still serve requests without a login.
    fn add_session(&mut self, status: &RegistryStatus) {
        let Some(error) = status.session.as_ref().and_then(|session| session.last_error.as_ref()) else { return };
        self.error(format!("The server refuses the login: {error}."));
    }

    /// Instances of this process: rejected and lost ones are errors, since callers do not find them.
    fn add_instances(&mut self, status: &RegistryStatus) {
        let in_state = |state| status.instances.iter().filter(move |instance| instance.state == state);
        let because = |instance: &InstanceStatus| {
            instance.last_error.as_ref().map(|error| format!(": {error}")).unwrap_or_default()
        };
        let rejected = in_state(InstanceState::Rejected).map(|instance| {
            format!("{} is not registered: the server rejects it{}.", own_label(&instance.instance), because(instance))
        });
        self.add_each(Severity::Error, rejected, "rejected");
        let lost = in_state(InstanceState::Lost).map(|instance| {
            format!(
                "{} may have been removed from the lists, and is being registered again{}.",
                own_label(&instance.instance),
                because(instance)
            )
        });
        self.add_each(Severity::Error, lost, "lost");
        let pending = in_state(InstanceState::Pending)
            .map(|instance| format!("{} is not registered yet{}.", own_label(&instance.instance), because(instance)));
        self.add_each(Severity::Warning, pending, "not registered yet");
    }

    /// Watched services: no instance to call is an error; ejected, stale, withheld and protected lists are warnings.
    fn add_lists(&mut self, lists: &[ListSnapshot]) {
        let empty = lists.iter().filter_map(nobody_to_call);
        self.add_each(Severity::Error, empty, "without an instance to call");
        let ejected = lists.iter().filter_map(|list| {
            let count = list.calls.iter().flatten().filter(|calls| calls.is_ejected).count();
            let service = label(&list.status.service);
            match count {
                0 => None,
                1 => Some(format!("An instance of {service} is ejected: calls to it failed.")),
                _ => Some(format!("{count} instances of {service} are ejected: calls to them failed.")),
            }
        });
        self.add_each(Severity::Warning, ejected, "with ejected instances");
        let stale = lists.iter().filter(|list| list.status.stale).map(|list| {
            let because = list.status.last_error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
            format!("The list of {} may be out of date{because}.", label(&list.status.service))
        });
        self.add_each(Severity::Warning, stale, "whose list may be out of date");
        let withheld = lists.iter().filter_map(|list| {
            let (count, service) = (list.withheld.len(), label(&list.status.service));
            let why = "although the server does not list";
            match count {
                0 => None,
                1 => Some(format!("An instance of {service} is kept {why} it: it may have been forgotten.")),
                _ => Some(format!("{count} instances of {service} are kept {why} them: they may have been forgotten.")),
            }
        });
        self.add_each(Severity::Warning, withheld, "with instances that are kept");
        let protected =
            lists.iter().filter(|list| list.list.as_ref().is_some_and(|info| info.reach_protection_threshold));
        let protected = protected.map(|list| {
            format!(
                "Few instances of {} are healthy: the server calls all of them healthy.",
                label(&list.status.service)
            )
        });
        self.add_each(Severity::Warning, protected, "with few healthy instances");
    }
}

/// The name of a service, with its group if that is not the default group.
fn label(service: &ServiceName) -> String {
    if service.group == DEFAULT_GROUP {
        service.name.to_string()
    } else {
        service.to_string()
    }
}

/// The name of an instance with its service.
fn own_label(instance: &InstanceKey) -> String {
    format!("{} {}", label(&instance.service), Instance::new(&*instance.ip, instance.port).authority())
}

/// Describes a list that was received and has no instance that can be called.
fn nobody_to_call(list: &ListSnapshot) -> Option<String> {
    let (info, service) = (list.list.as_ref()?, label(&list.status.service));
    if info.hosts.is_empty() {
        return Some(format!("{service} has no instance."));
    }
    let is_callable = info.hosts.iter().any(|host| host.healthy && host.enabled && host.weight > 0.0);
    (!is_callable).then(|| format!("{service} has no healthy instance with a weight."))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        discovery::subscription::SubscriptionStatus,
        model::service::ServiceInfo,
        registry::{ServerStatus, SessionStatus},
    };

    fn snapshot() -> Snapshot {
        let status = RegistryStatus { connection: ConnectionState::Connected, ..RegistryStatus::default() };
        Snapshot { status, namespace: "public".into(), is_closing: false, lists: Vec::new() }
    }

    fn list(instances: impl IntoIterator<Item = Instance>) -> ListSnapshot {
        let service = ServiceName::parse("orders").unwrap();
        let info = Arc::new(ServiceInfo::new(service.clone(), instances));
        ListSnapshot {
            status: SubscriptionStatus::new(service),
            list: Some(info),
            withheld: Vec::new(),
            source: None,
            calls: Vec::new(),
        }
    }

    fn own(state: InstanceState, port: u16) -> InstanceStatus {
        let service = ServiceName::parse("orders").unwrap();
        let mut status = InstanceStatus::new(InstanceKey::of(&service, &Instance::new("127.0.0.7", port)));
        status.state = state;
        status.last_error = Some("unknown user".into());
        status
    }

    fn texts(snapshot: &Snapshot) -> Vec<String> {
        problems(snapshot).into_iter().map(|problem| problem.text).collect()
    }

    #[test]
    fn a_healthy_snapshot_has_no_problems() {
        let mut snapshot = snapshot();
        snapshot.lists.push(list([Instance::new("127.0.0.7", 80)]));
        snapshot.status.instances.push(InstanceStatus { last_error: None, ..own(InstanceState::Registered, 80) });
        assert_eq!(problems(&snapshot), []);
    }

    #[test]
    fn a_rejected_login_and_a_rejected_instance_are_listed_with_the_reason() {
        let mut snapshot = snapshot();
        snapshot.status.session =
            Some(SessionStatus { last_error: Some("wrong password".into()), ..SessionStatus::default() });
        snapshot.status.instances.push(own(InstanceState::Rejected, 80));
        assert_eq!(
            texts(&snapshot),
            [
                "The server refuses the login: wrong password.",
                "orders 127.0.0.7:80 is not registered: the server rejects it: unknown user.",
            ]
        );
    }

    #[test]
    fn a_thousand_rejected_instances_are_four_problems() {
        let mut snapshot = snapshot();
        snapshot.status.instances = (1..=1000).map(|port| own(InstanceState::Rejected, port)).collect();
        let texts = texts(&snapshot);
        assert_eq!((texts.len(), texts[NAMED].as_str()), (NAMED + 1, "And 997 more rejected."));
    }

    #[test]
    fn errors_come_before_warnings() {
        let mut snapshot = snapshot();
        snapshot.is_closing = true;
        let mut server = ServerStatus::new("192.0.2.1:8848");
        (server.failures, server.last_error) = (3, Some("refused".into()));
        snapshot.status.servers.push(server);
        snapshot.status.connection = ConnectionState::Lost;
        let problems = problems(&snapshot);
        assert!(problems[0].severity == Severity::Error && problems[0].text.contains("refused"), "{problems:?}");
        assert_eq!(problems[1].severity, Severity::Warning);
    }

    #[test]
    fn a_service_without_an_instance_to_call_is_listed() {
        let mut snapshot = snapshot();
        snapshot.lists.push(list([]));
        snapshot.lists.push(list([Instance { healthy: false, ..Instance::new("127.0.0.7", 80) }]));
        assert_eq!(texts(&snapshot), ["orders has no instance.", "orders has no healthy instance with a weight."]);
    }
}
