//! `/v1/ns/catalog`: the lists of consoles (`CatalogController`).
//!
//! No client needs these. They are here for consoles that are pointed at the embedded server.

use std::collections::BTreeMap;

use serde_json::{json, Value};

use super::{
    call::Call,
    catalogue::{Instance, Service},
    parameters::Parameters,
    reply::Reply,
    state::State,
    v3_admin::{self, ServiceView},
};

/// A page of services, with their instances if requested.
pub(crate) fn services(state: &mut State, call: &Call) -> Result<Reply, Reply> {
    let parameters = &call.parameters;
    let (page, size) = page(parameters)?;
    let (group, name) = (parameters.or("groupNameParam", ""), parameters.or("serviceNameParam", ""));
    let has_instances = parameters.flag("hasIpCount") == Some(true);
    let found: Vec<&Service> = state
        .services_in(parameters.namespace())
        .filter(|found| found.key.service.group.contains(group) && found.key.service.name.contains(name))
        .filter(|found| !has_instances || !found.listed_or_all().is_empty())
        .collect();
    // If all services fit into one page, every page number returns them.
    let skipped = if found.len() <= size { 0 } else { page.saturating_sub(1).saturating_mul(size) };
    let page = found.iter().skip(skipped).take(size);
    if parameters.flag("withInstances") == Some(true) {
        return Ok(Reply::json(&page.map(|service| detail(service)).collect::<Vec<Value>>()));
    }
    let views: Vec<ServiceView<'_>> = page.map(|service| v3_admin::view(service)).collect();
    Ok(Reply::json(&json!({ "serviceList": views, "count": found.len() })))
}

fn detail(service: &Service) -> Value {
    let mut clusters: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for i in service.listed_or_all().iter() {
        clusters.entry(i.cluster.clone()).or_default().push(json!({
            "ip": i.ip, "port": i.port, "weight": i.weight, "valid": i.healthy, "enabled": i.enabled,
            "metadata": i.metadata,
        }));
    }
    let clusters = clusters.into_iter().map(|(name, hosts)| (name, json!({ "hosts": hosts })));
    json!({
        "serviceName": service.key.service.name,
        "groupName": service.key.service.group,
        "metadata": service.metadata.clone().unwrap_or_default().metadata,
        "clusterMap": clusters.collect::<BTreeMap<String, Value>>(),
    })
}

/// A page of the instances of one cluster, including disabled ones.
pub(crate) fn instances(state: &mut State, call: &Call) -> Result<Reply, Reply> {
    let parameters = &call.parameters;
    let key = parameters.service()?;
    let cluster = parameters.required("clusterName")?;
    let (page, size) = page(parameters)?;
    let missing = |what: String| parameters.error(404, &format!("{what} is not found!"));
    let visible = state.visible_instances(&key).ok_or_else(|| missing(format!("service {}", key.service)))?;
    let hosts: Vec<Instance> = visible.iter().filter(|instance| instance.cluster == cluster).cloned().collect();
    if hosts.is_empty() {
        return Err(missing(format!("cluster {cluster}")));
    }
    let count = hosts.len();
    let hosts = hosts.into_iter().skip(page.saturating_sub(1).saturating_mul(size)).take(size).collect();
    let list = state.listed(&key, hosts, &key.service.to_string());
    Ok(Reply::json(&json!({ "list": list, "count": count })))
}

/// The page number and the size, which these requests must have.
fn page(parameters: &Parameters) -> Result<(usize, usize), Reply> {
    parameters.required("pageNo")?;
    parameters.required("pageSize")?;
    Ok((parameters.number("pageNo")?.unwrap_or(0), parameters.number("pageSize")?.unwrap_or(0)))
}
