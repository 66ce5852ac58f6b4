//! `/v1/ns/service` and below (`ServiceController`).
//!
//! Services exist because of their instances. An operator can also create one, to set its metadata and its
//! protection threshold before the first instance comes.

use std::{collections::BTreeSet, sync::Arc};

use serde::Serialize;
use serde_json::json;

use crate::{
    model::{instance::Metadata, service::DEFAULT_GROUP},
    wire::v1::ServiceListAnswer,
};

use super::{
    call::Call,
    catalogue::{Service, ServiceKey, ServiceMetadata},
    parameters::Parameters,
    reply::Reply,
    state::State,
};

/// A page of names, without the group. An unreadable page number counts as 0, like the first page.
pub(crate) fn list(state: &mut State, call: &Call) -> Result<Reply, Reply> {
    let parameters = &call.parameters;
    parameters.required("pageNo")?;
    parameters.required("pageSize")?;
    let number = |name| parameters.get(name).and_then(|text| text.parse::<usize>().ok()).unwrap_or(0);
    let (page, size) = (number("pageNo"), number("pageSize"));
    let group = parameters.or("groupName", DEFAULT_GROUP);
    let label = service_label(parameters)?;
    let names: Vec<String> = state
        .services_in(parameters.namespace())
        .filter(|service| service.key.service.group == group)
        .filter(|service| label.as_ref().is_none_or(|label| label.is_of(service)))
        .map(|service| service.key.service.name.to_string())
        .collect();
    let doms = names.iter().skip(page.saturating_sub(1).saturating_mul(size)).take(size).cloned().collect();
    Ok(Reply::json(&ServiceListAnswer { count: names.len() as u64, doms }))
}

/// The receivers of pushes.
pub(crate) fn subscribers(state: &mut State, call: &Call) -> Result<Reply, Reply> {
    let parameters = &call.parameters;
    let key = parameters.service()?;
    let number = |name, default| parameters.get(name).map_or(default, |text| text.parse::<usize>().unwrap_or(0));
    let (page, size) = (number("pageNo", 1), number("pageSize", 1000));
    let all = state.pushes.described(&key, parameters.dialect.is_v1_4());
    let count = all.len();
    let page: Vec<_> = all.into_iter().skip(page.saturating_sub(1).saturating_mul(size)).take(size).collect();
    Ok(Reply::json(&json!({ "subscribers": page, "count": count })))
}

/// The answer to GET. Nacos' answers have a selector and health checkers, which have no effect here.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OneService<'a> {
    namespace_id: &'a str,
    group_name: &'a str,
    name: &'a str,
    protect_threshold: f32,
    metadata: &'a Metadata,
    selector: serde_json::Value,
    clusters: Vec<serde_json::Value>,
}

pub(crate) fn get(state: &mut State, call: &Call) -> Result<Reply, Reply> {
    let parameters = &call.parameters;
    let key = parameters.service()?;
    let is_v1_4 = parameters.dialect.is_v1_4();
    let service = state.catalogue.service(&key).ok_or_else(|| {
        let (namespace, name) = (&key.namespace, &key.service);
        if is_v1_4 {
            parameters.error(404, &format!("service {name} is not found!"))
        } else {
            parameters.error(400, &format!("service not found, namespace: {namespace}, serviceName: {name}"))
        }
    })?;
    let set = service.metadata.clone().unwrap_or_default();
    let cluster = |name| json!({ "name": name, "healthChecker": { "type": "TCP" }, "metadata": {} });
    Ok(Reply::json(&OneService {
        namespace_id: &key.namespace,
        group_name: &key.service.group,
        name: &key.service.name,
        protect_threshold: set.protect_threshold,
        metadata: &set.metadata,
        selector: if is_v1_4 { json!({ "type": "none" }) } else { json!({ "type": "none", "contextType": "NONE" }) },
        clusters: service.visible_clusters(is_v1_4).into_iter().map(cluster).collect(),
    }))
}

/// Since 2.x a created service is a persistent one: an ephemeral instance is rejected.
pub(crate) fn create(state: &mut State, call: &Call) -> Result<Reply, Reply> {
    let parameters = &call.parameters;
    let key = parameters.service()?;
    if state.catalogue.service(&key).is_some() {
        let name = &key.service;
        return Err(parameters.error(
            400,
            &if parameters.dialect.is_v1_4() {
                format!("specified service already exists, serviceName : {name}")
            } else {
                format!("specified service {name} already exists!")
            },
        ));
    }
    let metadata = service_metadata(call)?;
    let now = state.now();
    let service = state.catalogue.service_or_new(&key, false, now);
    service.metadata = Some(metadata);
    let key = service.key.clone();
    state.clean_later(key, now);
    Ok(Reply::ok())
}

pub(crate) fn update(state: &mut State, call: &Call) -> Result<Reply, Reply> {
    let parameters = &call.parameters;
    let key = parameters.service()?;
    parameters.required("protectThreshold")?;
    let metadata = service_metadata(call)?;
    let missing = || parameters.error(400, &format!("service {} not found!", key.service));
    let service = state.catalogue.service_mut(&key).ok_or_else(missing)?;
    service.metadata = Some(metadata);
    let key = service.key.clone();
    state.changed(&key);
    Ok(Reply::ok())
}

/// Removes a service. 1.4 removes its instances too, 2.x and later reject that.
pub(crate) fn delete(state: &mut State, call: &Call) -> Result<Reply, Reply> {
    let parameters = &call.parameters;
    let key = parameters.service()?;
    let is_v1_4 = parameters.dialect.is_v1_4();
    match state.catalogue.service(&key) {
        None => Err(parameters.error(400, &format!("service {} not found!", key.service))),
        Some(service) if !is_v1_4 && !service.instances.is_empty() => {
            let advice = "is not empty, can't be delete. Please unregister instance first";
            Err(parameters.error(400, &format!("Service {} {advice}", key.service)))
        }
        Some(_) => {
            state.catalogue.remove(&key);
            state.changed(&Arc::<ServiceKey>::new(key));
            Ok(Reply::ok())
        }
    }
}

/// A label that limits a list of services.
struct Label {
    of_instances: bool,
    key: String,
    value: String,
}

impl Label {
    fn is_of(&self, service: &Service) -> bool {
        let has = |metadata: &Metadata| metadata.get(self.key.as_str()).is_some_and(|value| *value == self.value);
        if self.of_instances {
            service.instances.values().any(|instance| has(&instance.metadata))
        } else {
            service.metadata.as_ref().is_some_and(|set| has(&set.metadata))
        }
    }
}

/// 1.4 applies `INSTANCE.metadata.key = 'value'` and `SERVICE.metadata.key = 'value'`. 2.x and later ignore the
/// selector of a list (`ServiceOperatorV2Impl.listService`).
fn service_label(parameters: &Parameters) -> Result<Option<Label>, Reply> {
    let Some(selector) = parameters.get("selector").filter(|_| parameters.dialect.is_v1_4()) else { return Ok(None) };
    let (kind, expression) = selector_of(parameters, selector)?;
    let expression: String = expression.chars().filter(|c| !c.is_whitespace() && *c != '\'').collect();
    let Some((path, value)) = expression.split_once('=').filter(|_| kind == "label") else { return Ok(None) };
    let (of, key) = (path.split('.').next().unwrap_or(""), path.rsplit('.').next().unwrap_or(""));
    let label = Label { of_instances: of == "INSTANCE", key: key.to_owned(), value: value.to_owned() };
    Ok(["INSTANCE", "SERVICE"].contains(&of).then_some(label))
}

/// The type and the expression of a selector.
fn selector_of(parameters: &Parameters, json: &str) -> Result<(String, String), Reply> {
    let no_match = || parameters.error(400, "not match any type of selector!");
    let selector: serde_json::Value = serde_json::from_str(json)
        .map_err(|error| parameters.error(500, &format!("the selector cannot be read: {error}")))?;
    let kind = selector["type"].as_str().ok_or_else(no_match)?;
    match kind {
        "none" | "label" => Ok((kind.to_owned(), selector["expression"].as_str().unwrap_or("").to_owned())),
        // 1.4 has the constant `unknown`, which selects nothing.
        other if other != "unknown" && parameters.dialect.is_v1_4() => {
            let constant = format!("No enum constant com.alibaba.nacos.api.selector.SelectorType.{other}");
            Err(parameters.error(400, &constant))
        }
        _ => Err(no_match()),
    }
}

/// Rejects label selectors, which compare the labels of caller and instance and need a CMDB.
fn check_selector(parameters: &Parameters) -> Result<(), Reply> {
    let Some(selector) = parameters.get("selector") else { return Ok(()) };
    match selector_of(parameters, selector)? {
        (kind, _) if kind == "label" => {
            Err(parameters.error(400, "selectors of type label are not supported by the embedded server"))
        }
        _ => Ok(()),
    }
}

/// Reads the values of an operator's request.
fn service_metadata(call: &Call) -> Result<ServiceMetadata, Reply> {
    check_selector(&call.parameters)?;
    Ok(ServiceMetadata {
        protect_threshold: call.parameters.number("protectThreshold")?.unwrap_or(0.0),
        metadata: call.parameters.metadata()?.unwrap_or_default(),
    })
}

impl State {
    pub(crate) fn services_in<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a Service> {
        self.catalogue.services().filter(move |service| service.key.namespace == namespace)
    }
}

impl Service {
    /// 1.4 keeps empty clusters. 2.x and later show only the clusters of the instances.
    pub(crate) fn visible_clusters(&self, with_empty_ones: bool) -> BTreeSet<&str> {
        if with_empty_ones {
            self.clusters.iter().map(String::as_str).collect()
        } else {
            self.instances.values().map(|instance| instance.cluster.as_str()).collect()
        }
    }
}
