//! Writes a status as metrics, in the text format of Prometheus.
//!
//! Each group of metrics has its own function, and [`RegistryStatus::to_prometheus`] calls all of them. The number of
//! series grows with services and servers, never with instances. `CONTRIBUTING.md` says what a new metric needs.
//!
//! Metrics are made from a [`RegistryStatus`] alone, without the Registry. So an application can take a status from
//! anywhere, for example from a test, and no metric needs a counter of its own.
//!
//! Rules for all families:
//!
//! - A name begins with `actix_nacos_`, and ends with its unit (`_seconds`) or with `_total` for a counter.
//! - A label has few values. Instances are never labels: a deployment would make a new series for each of them.
//! - A counter exists from the start with 0. Prometheus loses the first increment of a counter that appears later.
//! - Times are in seconds, as Prometheus recommends. The status has milliseconds.

mod exposition;

use std::collections::{BTreeMap, BTreeSet};

use self::exposition::{Exposition, Kind};
use crate::{
    client::request_counters::{RequestStatus, REQUESTS},
    discovery::{subscription::SubscriptionStatus, view::CallTotals},
    error::Operation,
    model::{connection::ConnectionState, histogram::Durations, instance_state::InstanceState, service::ServiceName},
    registry::{InstanceStatus, PushStatus, RegistryStatus, ServerStatus},
};

impl RegistryStatus {
    /// Returns the metrics of this Registry in the text format of Prometheus, version 0.0.4, for an application that
    /// serves them with its own. Their names begin with `actix_nacos_`. `docs/operations.md` lists them.
    ///
    /// ```
    /// let text = actix_nacos::RegistryStatus::default().to_prometheus();
    /// assert!(text.contains("actix_nacos_connection{state=\"unknown\"} 1\n"));
    /// ```
    ///
    /// | families | labels | what they show |
    /// |---|---|---|
    /// | `connection`, `servers` | `state` | whether servers can be reached |
    /// | `server_requests_total`, `server_failed_requests_total` | `server` | the requests to each server |
    /// | `requests_total`, `request_duration_seconds` | `operation`; the first also `outcome` | requests |
    /// | `heartbeat_lateness_seconds`, `oldest_heartbeat_age_seconds` | | whether heartbeats are in time |
    /// | `heartbeat_timeout_ratio` | | how close to its heartbeat timeout an instance is |
    /// | `instances` | `state` | the instances that this process registered |
    /// | `service_{instances,list_age_seconds,stale}` | `service`, `group`, `clusters`; first: `state` | lists |
    /// | `service_{polls,changes,pushes}_total` | the same; the last also `result` | how lists arrive and change |
    /// | `calls_total`, `call_retries_total` | `service`, `group`; the first also `outcome` | calls of services |
    /// | `service_ejected_instances` | `service`, `group` | instances that are left out |
    /// | `ejections_total` | | how often instances were ejected |
    /// | `push_datagrams_total` | `result` | the push socket; missing while there is none |
    /// | `epochs_total`, `logins_total`, `logged_in` | | restarts of servers, the login |
    /// | `uptime_seconds` | | restarts of the process |
    ///
    /// With the feature `actix-web`, `StatusRoutes` serves this text at `/metrics`. Making it takes no request and
    /// no lock. It grows with servers and watched services. The counters begin at 0 with each Registry; Prometheus'
    /// `rate` and `increase` handle that.
    ///
    /// # Examples
    ///
    /// A route in any framework:
    ///
    /// ```
    /// use actix_nacos::{embedded::EmbeddedServer, prelude::*};
    ///
    /// async fn metrics(registry: &actix::Addr<Registry>) -> Result<String, Error> {
    ///     Ok(registry.send(GetStatus).await??.to_prometheus())
    /// }
    /// # #[actix::main]
    /// # async fn main() -> Result<(), Error> {
    /// let server = EmbeddedServer::start().expect("a server");
    /// let registry = Registry::start(Config::new(server.server_address()))?;
    /// registry.send(RegisterInstance::new("orders", "127.0.0.7", 8080)).await??;
    /// let text = metrics(&registry).await?;
    /// assert!(text.contains("actix_nacos_instances{state=\"registered\"} 1\n"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn to_prometheus(&self) -> String {
        let mut text = Exposition::default();
        uptime(&mut text, self.uptime_ms);
        connection(&mut text, self.connection);
        servers(&mut text, &self.servers);
        requests(&mut text, &self.requests);
        heartbeats(&mut text, self);
        instances(&mut text, self);
        services(&mut text, &self.subscriptions);
        calls(&mut text, self);
        ejections(&mut text, self);
        pushes(&mut text, self.push.as_ref());
        epochs(&mut text, self);
        text.into_text()
    }
}

/// Falls to 0 when the process restarts, which explains jumps of the other metrics.
fn uptime(text: &mut Exposition, millis: u64) {
    text.family("actix_nacos_uptime_seconds", Kind::Gauge, "Time since the registry client started.");
    text.sample(&[], seconds(millis));
}

/// One series for each state, with 1 for the current one. A query for a state never has to handle a missing series.
fn connection(text: &mut Exposition, now: ConnectionState) {
    text.family("actix_nacos_connection", Kind::Gauge, "Whether this is the state of the connection to the registry.");
    for (name, state) in [
        ("unknown", ConnectionState::Unknown),
        ("connected", ConnectionState::Connected),
        ("degraded", ConnectionState::Degraded),
        ("lost", ConnectionState::Lost),
    ] {
        text.count(&[("state", name)], u64::from(now == state));
    }
}

/// The states exclude each other: a server in use that fails counts as failing.
fn servers(text: &mut Exposition, servers: &[ServerStatus]) {
    text.family("actix_nacos_servers", Kind::Gauge, "Registry servers by state.");
    let state_of = |server: &ServerStatus| match server {
        server if server.failures > 0 => "failing",
        server if server.in_use => "in_use",
        _ => "standby",
    };
    for state in ["in_use", "standby", "failing"] {
        let count = servers.iter().filter(|server| state_of(server) == state).count();
        text.count(&[("state", state)], count as u64);
    }
    text.family("actix_nacos_server_requests_total", Kind::Counter, "Requests to a registry server.");
    for server in servers {
        text.count(&[("server", &server.address)], server.requests);
    }
    let help = "Requests to a registry server without a usable answer.";
    text.family("actix_nacos_server_failed_requests_total", Kind::Counter, help);
    for server in servers {
        text.count(&[("server", &server.address)], server.failed_requests);
    }
}

/// Lists each operation from the start, with its histogram: see the rules of the module.
fn requests(text: &mut Exposition, requests: &[RequestStatus]) {
    let of = |operation| requests.iter().find(|request| request.operation == operation);
    let help = "Requests to registry servers by operation and outcome.";
    text.family("actix_nacos_requests_total", Kind::Counter, help);
    for operation in REQUESTS {
        let (name, status) = (name_of(operation), of(operation));
        let outcomes = [
            ("success", status.map_or(0, |status| status.succeeded)),
            ("rejected", status.map_or(0, |status| status.rejected)),
            ("failed", status.map_or(0, |status| status.failed)),
        ];
        for (outcome, count) in outcomes {
            text.count(&[("operation", name), ("outcome", outcome)], count);
        }
    }
    let help = "Time from sending a request to its answer or failure.";
    text.family("actix_nacos_request_duration_seconds", Kind::Histogram, help);
    let none = Durations::default().histogram();
    for operation in REQUESTS {
        let duration = of(operation).map_or(&none, |status| &status.duration);
        text.histogram(&[("operation", name_of(operation))], duration);
    }
}

/// The value of the label `operation`. Dashboards depend on it, so it never changes.
fn name_of(operation: Operation) -> &'static str {
    match operation {
        Operation::Register => "register",
        Operation::Deregister => "deregister",
        Operation::Modify => "modify",
        Operation::Get => "get",
        Operation::List => "list",
        Operation::Beat => "beat",
        Operation::ListServices => "list_services",
        _ => "other",
    }
}

/// How late heartbeats are sent, which shows a busy thread, and how old the oldest success is, which shows an instance
/// that is about to expire.
fn heartbeats(text: &mut Exposition, status: &RegistryStatus) {
    let help = "How long after they were due heartbeats were sent; the timer grid accounts for up to 0.5 s.";
    text.family("actix_nacos_heartbeat_lateness_seconds", Kind::Histogram, help);
    text.histogram(&[], &status.heartbeat_lateness);
    let age = |instance: &InstanceStatus| instance.last_success_ms_ago.filter(|_| instance.ephemeral);
    if let Some(oldest) = status.instances.iter().filter_map(age).max() {
        let help = "Time since the last heartbeat that a server took, of the instance where that is longest ago.";
        text.family("actix_nacos_oldest_heartbeat_age_seconds", Kind::Gauge, help);
        text.sample(&[], seconds(oldest));
    }
    let share = |instance: &InstanceStatus| Some(age(instance)? as f64 / instance.heartbeat_timeout_ms.max(1) as f64);
    if let Some(largest) = status.instances.iter().filter_map(share).reduce(f64::max) {
        let help =
            "Age of the last heartbeat as a share of the instance's heartbeat timeout, of the instance where that \
                    is largest; at 1 servers call the instance unhealthy.";
        text.family("actix_nacos_heartbeat_timeout_ratio", Kind::Gauge, help);
        text.sample(&[], largest);
    }
}

/// `lost` above 0 means that callers may not find an instance of this process.
fn instances(text: &mut Exposition, status: &RegistryStatus) {
    text.family("actix_nacos_instances", Kind::Gauge, "Instances that this process keeps registered, by state.");
    for (name, state) in [
        ("pending", InstanceState::Pending),
        ("registered", InstanceState::Registered),
        ("rejected", InstanceState::Rejected),
        ("lost", InstanceState::Lost),
    ] {
        let count = status.instances.iter().filter(|instance| instance.state == state).count();
        text.count(&[("state", name)], count as u64);
    }
}

/// The services that are watched.
///
/// A service without a list has no `service_instances`, which is different from a service without instances.
fn services(text: &mut Exposition, services: &[SubscriptionStatus]) {
    let help = "Instances of a watched service, each in one state.";
    text.family("actix_nacos_service_instances", Kind::Gauge, help);
    for service in services.iter().filter(|service| service.instances.is_some()) {
        let states = [("healthy", service.healthy), ("unhealthy", service.unhealthy), ("withheld", service.withheld)];
        for (state, count) in states {
            text.count(&labels(service, "state", state), count as u64);
        }
    }
    text.family("actix_nacos_service_list_age_seconds", Kind::Gauge, "Time since the last list of a watched service.");
    for service in services {
        if let Some(age) = service.last_success_ms_ago {
            text.sample(&labels_of(service), seconds(age));
        }
    }
    let help = "Whether the list of a watched service may be out of date, because it could not be asked for.";
    text.family("actix_nacos_service_stale", Kind::Gauge, help);
    each(text, services, |service| u64::from(service.stale));
    text.family("actix_nacos_service_polls_total", Kind::Counter, "Lists of a watched service that were asked for.");
    each(text, services, |service| service.polls);
    text.family("actix_nacos_service_changes_total", Kind::Counter, "Changes of a watched service.");
    each(text, services, |service| service.changes);
    let help = "Pushed lists of a watched service, by what became of them.";
    text.family("actix_nacos_service_pushes_total", Kind::Counter, help);
    for service in services {
        let applied = service.pushes.saturating_sub(service.ignored_pushes);
        text.count(&labels(service, "result", "applied"), applied);
        text.count(&labels(service, "result", "ignored"), service.ignored_pushes);
    }
}

/// Writes one sample for each watched service.
fn each(text: &mut Exposition, services: &[SubscriptionStatus], value: impl Fn(&SubscriptionStatus) -> u64) {
    for service in services {
        text.count(&labels_of(service), value(service));
    }
}

/// A service that is watched for different clusters is several subscriptions, so the clusters are a label.
fn labels_of(service: &SubscriptionStatus) -> [(&'static str, &str); 3] {
    [("service", &service.service.name), ("group", &service.service.group), ("clusters", &service.clusters)]
}

fn labels<'a>(service: &'a SubscriptionStatus, name: &'static str, value: &'a str) -> [(&'static str, &'a str); 4] {
    let [one, two, three] = labels_of(service);
    [one, two, three, (name, value)]
}

/// The calls by name, and those that views began. Each watched service is listed from the start: see the rules of the
/// module.
fn calls(text: &mut Exposition, status: &RegistryStatus) {
    let mut calls: BTreeMap<_, Option<&CallTotals>> = watched(status).map(|service| (service, None)).collect();
    calls.extend(status.calls.iter().map(|totals| (&totals.service, Some(totals))));
    text.family("actix_nacos_calls_total", Kind::Counter, "Calls of services by their outcome.");
    for (service, totals) in &calls {
        let [name, group] = service_labels(service);
        let count = |of: fn(&CallTotals) -> u64| totals.map_or(0, of);
        for (outcome, count) in [
            ("succeeded", count(|totals| totals.succeeded)),
            ("failed", count(|totals| totals.failed)),
            ("cancelled", count(|totals| totals.cancelled)),
        ] {
            text.count(&[name, group, ("outcome", outcome)], count);
        }
    }
    let help = "Calls that were begun on another instance as retries.";
    text.family("actix_nacos_call_retries_total", Kind::Counter, help);
    for (service, totals) in &calls {
        text.count(&service_labels(service), totals.map_or(0, |totals| totals.retries));
    }
}

/// The watched services. A service that is watched with several sets of clusters occurs several times.
fn watched(status: &RegistryStatus) -> impl Iterator<Item = &ServiceName> {
    status.subscriptions.iter().map(|subscription| &subscription.service)
}

fn service_labels(service: &ServiceName) -> [(&'static str, &str); 2] {
    [("service", &service.name), ("group", &service.group)]
}

/// An ejected instance is also counted by its state in the list.
///
/// A service may be watched by several subscriptions, and ejections belong to the service: each one is written
/// once.
fn ejections(text: &mut Exposition, status: &RegistryStatus) {
    let help = "Instances of a watched service that are left out because calls of them failed.";
    text.family("actix_nacos_service_ejected_instances", Kind::Gauge, help);
    for service in watched(status).collect::<BTreeSet<_>>() {
        let count = status.ejections.iter().filter(|ejection| ejection.instance.service == *service).count();
        text.count(&service_labels(service), count as u64);
    }
    let help = "Instances that were ejected because calls of them failed.";
    text.family("actix_nacos_ejections_total", Kind::Counter, help);
    text.count(&[], status.ejections_total);
}

/// The datagrams of all services together.
fn pushes(text: &mut Exposition, push: Option<&PushStatus>) {
    let Some(push) = push else { return };
    let help = "Datagrams at the socket for pushes, by what became of them.";
    text.family("actix_nacos_push_datagrams_total", Kind::Counter, help);
    for (result, count) in [
        ("accepted", push.pushes),
        ("untrusted", push.untrusted),
        ("unreadable", push.unreadable),
        ("over_budget", push.over_budget),
    ] {
        text.count(&[("result", result)], count);
    }
}

/// Each epoch after the start means that a server restarted or was changed: see "Recovery" in
/// `docs/architecture.md`. The login is left out without credentials.
fn epochs(text: &mut Exposition, status: &RegistryStatus) {
    let help = "How often the server in use may have forgotten what it was told.";
    text.family("actix_nacos_epochs_total", Kind::Counter, help);
    text.count(&[], status.epochs);
    let Some(session) = &status.session else { return };
    text.family("actix_nacos_logins_total", Kind::Counter, "Logins, refused ones too.");
    text.count(&[], session.logins);
    text.family("actix_nacos_logged_in", Kind::Gauge, "Whether there is a token.");
    text.count(&[], u64::from(session.logged_in));
}

/// The status counts in milliseconds.
fn seconds(millis: u64) -> f64 {
    millis as f64 / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        discovery::view::ServiceView,
        model::{
            histogram::Histogram,
            instance::{Instance, InstanceKey},
        },
    };

    fn watched(name: &str) -> SubscriptionStatus {
        let mut status = SubscriptionStatus::new(ServiceName { group: "DEFAULT_GROUP".into(), name: name.into() });
        (status.instances, status.healthy, status.withheld) = (Some(5), 3, 2);
        (status.pushes, status.ignored_pushes, status.last_success_ms_ago) = (7, 2, Some(1500));
        status
    }

    #[test]
    fn every_sample_belongs_to_the_family_above_it() {
        let mut status = RegistryStatus { subscriptions: vec![watched("orders")], ..RegistryStatus::default() };
        status.servers.push(ServerStatus::new("192.0.2.1:8848"));
        (status.push, status.session) = (Some(PushStatus::default()), Some(Default::default()));
        status.requests.push(RequestStatus {
            operation: Operation::Beat,
            succeeded: 1,
            rejected: 0,
            failed: 0,
            duration: Histogram::default(),
        });
        let (mut family, mut families) = (String::new(), Vec::new());
        for line in status.to_prometheus().lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                family = help.split(' ').next().unwrap().to_owned();
                assert!(!families.contains(&family), "{family} comes twice");
                families.push(family.clone());
            } else {
                let name = line.strip_prefix("# TYPE ").unwrap_or(line);
                assert!(name.starts_with(&family) && family.starts_with("actix_nacos_"), "{line} after {family}");
            }
        }
        assert!(families.len() > 15, "{families:?}");
    }

    #[test]
    fn a_service_has_one_series_for_each_state_however_many_instances_it_has() {
        let status = RegistryStatus { subscriptions: vec![watched("orders")], ..RegistryStatus::default() };
        let text = status.to_prometheus();
        let line = |state, count| {
            format!(
                "actix_nacos_service_instances{{service=\"orders\",group=\"DEFAULT_GROUP\",clusters=\"\",state=\"{state}\"}} {count}\n"
            )
        };
        assert!(text.contains(&line("healthy", 3)) && text.contains(&line("withheld", 2)), "{text}");
        assert!(text.contains("result=\"applied\"} 5\n") && text.contains("result=\"ignored\"} 2\n"), "{text}");
        assert!(text.contains(
            "actix_nacos_service_list_age_seconds{service=\"orders\",group=\"DEFAULT_GROUP\",clusters=\"\"} 1.5\n"
        ));
    }

    #[test]
    fn names_of_services_cannot_break_out_of_their_label() {
        let name = "a\"} 1\nevil_metric{x=\"\\\u{1F511}";
        let status = RegistryStatus { subscriptions: vec![watched(name)], ..RegistryStatus::default() };
        let text = status.to_prometheus();
        assert!(text.contains("service=\"a\\\"} 1\\nevil_metric{x=\\\"\\\\\u{1F511}\""), "{text}");
        assert!(text.lines().all(|line| line.starts_with('#') || line.starts_with("actix_nacos_")), "{text}");
    }

    #[test]
    fn ejected_instances_are_counted_once_for_a_service_however_it_is_watched() {
        let mut of_a_cluster = watched("orders");
        of_a_cluster.clusters = "EAST".into();
        let subscriptions = vec![watched("stock"), of_a_cluster, watched("orders")];
        let status = RegistryStatus { subscriptions, ejections_total: 3, ..RegistryStatus::default() };
        let text = status.to_prometheus();
        let line = "actix_nacos_service_ejected_instances{service=\"orders\",group=\"DEFAULT_GROUP\"} 0\n";
        assert_eq!(text.matches(line).count(), 1, "{text}");
        assert!(text.contains("actix_nacos_ejections_total 3\n"), "{text}");
    }

    #[test]
    fn calls_are_counted_by_service_and_outcome() {
        let (view, _control) = ServiceView::controlled(ServiceName::parse("orders").unwrap());
        assert!(view.begin().is_err());
        let view = ServiceView::fixed(ServiceName::parse("orders").unwrap(), [Instance::new("127.0.0.1", 80)]);
        view.begin().unwrap().succeeded();
        view.begin().unwrap().failed();
        drop(view.begin().unwrap());
        let tried = [view.begin().unwrap().instance().clone()];
        view.begin_excluding(&tried).unwrap().succeeded();
        let calls = vec![view.call_totals().unwrap()];
        let text = RegistryStatus { calls, ..RegistryStatus::default() }.to_prometheus();
        for (outcome, count) in [("succeeded", 2), ("failed", 1), ("cancelled", 2)] {
            let line = format!("service=\"orders\",group=\"DEFAULT_GROUP\",outcome=\"{outcome}\"}} {count}\n");
            assert!(text.contains(&line), "{text}");
        }
        assert!(text.contains("retries_total{service=\"orders\",group=\"DEFAULT_GROUP\"} 1\n"), "{text}");
    }

    /// The names of all metrics in a text.
    fn names(text: &str) -> BTreeSet<String> {
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let name = |rest: &str| rest.chars().take_while(|c| is_part(*c)).collect::<String>();
        text.split("actix_nacos_").skip(1).map(name).collect()
    }

    #[test]
    fn dashboard_and_alerts_name_metrics_that_exist_and_the_dashboard_shows_calls() {
        let mut status = RegistryStatus { subscriptions: vec![watched("orders")], ..RegistryStatus::default() };
        status.servers.push(ServerStatus::new("192.0.2.1:8848"));
        (status.push, status.session) = (Some(PushStatus::default()), Some(Default::default()));
        let mut instance = InstanceStatus::new(InstanceKey::of(
            &ServiceName::parse("orders").unwrap(),
            &Instance::new("127.0.0.7", 80),
        ));
        instance.last_success_ms_ago = Some(0);
        status.instances.push(instance);
        let known = names(&status.to_prometheus());
        let dashboard = include_str!("../../docs/grafana-dashboard.json");
        let alerts = include_str!("../../docs/prometheus-alerts.yml");
        let missing: Vec<_> =
            names(dashboard).into_iter().chain(names(alerts)).filter(|name| !known.contains(name)).collect();
        assert!(missing.is_empty(), "{missing:?} are not in {known:?}");
        for name in ["calls_total", "call_retries_total", "ejections_total", "service_ejected_instances"] {
            assert!(names(dashboard).contains(name), "{name}");
        }
        let documented = names(include_str!("../../docs/operations.md"));
        assert!(names(alerts).is_subset(&documented), "{documented:?}");
    }

    #[test]
    fn the_age_of_a_heartbeat_is_compared_with_the_timeout_of_its_instance() {
        let instance = |port, age, timeout| {
            let key = InstanceKey::of(&ServiceName::parse("orders").unwrap(), &Instance::new("127.0.0.7", port));
            let mut instance = InstanceStatus::new(key);
            (instance.last_success_ms_ago, instance.heartbeat_timeout_ms) = (Some(age), timeout);
            instance
        };
        let instances = vec![instance(80, 6_000, 15_000), instance(81, 60_000, 240_000)];
        let mut status = RegistryStatus { instances, ..RegistryStatus::default() };
        let text = status.to_prometheus();
        assert!(text.contains("actix_nacos_oldest_heartbeat_age_seconds 60\n"), "{text}");
        assert!(text.contains("actix_nacos_heartbeat_timeout_ratio 0.4\n"), "{text}");
        status.instances.iter_mut().for_each(|instance| instance.ephemeral = false);
        assert!(!status.to_prometheus().contains("timeout_ratio"));
    }

    #[test]
    fn counters_are_there_before_anything_happens() {
        let status = RegistryStatus { subscriptions: vec![watched("orders")], ..RegistryStatus::default() };
        let text = status.to_prometheus();
        for outcome in ["succeeded", "failed", "cancelled"] {
            let line = format!("calls_total{{service=\"orders\",group=\"DEFAULT_GROUP\",outcome=\"{outcome}\"}} 0\n");
            assert!(text.contains(&line), "{text}");
        }
        assert!(text.contains("retries_total{service=\"orders\",group=\"DEFAULT_GROUP\"} 0\n"), "{text}");
        assert!(text.contains("duration_seconds_bucket{operation=\"beat\",le=\"0.001\"} 0\n"), "{text}");
        let text = RegistryStatus::default().to_prometheus();
        assert!(text.contains("actix_nacos_requests_total{operation=\"beat\",outcome=\"failed\"} 0\n"), "{text}");
        assert!(text.contains("actix_nacos_instances{state=\"rejected\"} 0\n"), "{text}");
    }
}
