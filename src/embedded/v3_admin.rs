//! `/v3/admin`: the part that clients use (`ServiceControllerV3`, `InstanceControllerV3`).
//!
//! Since 3.0 the requests of operators are below `/v3/admin`, which needs an administrator's token by default. Clients
//! need them to get and modify single instances, and to list services.

use serde::Serialize;
use serde_json::json;

use crate::model::instance::DEFAULT_CLUSTER;

use super::{
    call::Call,
    catalogue::{Instance, Service},
    listing::ListedHost,
    parameters::Parameters,
    reply::Reply,
    state::State,
    v1_instance,
    v3_client::{
        failure, flag, instance, rejected, required, service, success, INSTANCE_ERROR, PARAMETER_VALIDATE_ERROR,
        RESOURCE_NOT_FOUND, SERVER_ERROR,
    },
};

pub(crate) fn health(_: &mut State, _: &Call) -> Result<Reply, Reply> {
    Ok(success("ok"))
}

pub(crate) fn server_state(state: &mut State, _: &Call) -> Result<Reply, Reply> {
    let mut settings = state.server_settings();
    // The admin API requires a token by default.
    for key in ["auth_enabled", "auth_admin_request", "login_page_enabled"] {
        settings[key] = json!("true");
    }
    settings["server_port"] = json!(state.settings.port.to_string());
    Ok(success(settings))
}

/// The frame of paged answers.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Page<T> {
    total_count: usize,
    page_number: usize,
    pages_available: usize,
    page_items: Vec<T>,
}

/// One service in a page. `triggerFlag` says that its protection threshold is reached.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ServiceView<'a> {
    name: &'a str,
    group_name: &'a str,
    cluster_count: usize,
    ip_count: usize,
    healthy_instance_count: usize,
    trigger_flag: &'static str,
}

/// A page of the services whose group and name contain the given texts.
pub(crate) fn list_services(state: &mut State, call: &Call) -> Result<Reply, Reply> {
    let parameters = &call.parameters;
    let (page, size) = (positive(parameters, "pageNo", 1)?, positive(parameters, "pageSize", 100)?);
    let (group, name) = (parameters.or("groupNameParam", ""), parameters.or("serviceNameParam", ""));
    let ignores_empty_ones = flag(parameters, "ignoreEmptyService")?.unwrap_or(false);
    let found: Vec<&Service> = state
        .services_in(parameters.namespace())
        .filter(|found| found.key.service.group.contains(group) && found.key.service.name.contains(name))
        .filter(|found| !ignores_empty_ones || !found.listed_or_all().is_empty())
        .collect();
    Ok(success(Page {
        total_count: found.len(),
        page_number: page,
        pages_available: found.len().div_ceil(size),
        page_items: found.iter().skip((page - 1).saturating_mul(size)).take(size).map(|found| view(found)).collect(),
    }))
}

pub(crate) fn view(service: &Service) -> ServiceView<'_> {
    let listed = service.listed_or_all();
    let (all, healthy) = (listed.len(), listed.iter().filter(|i| i.healthy).count());
    let threshold = service.metadata.as_ref().map_or(0.0, |set| set.protect_threshold);
    ServiceView {
        name: &service.key.service.name,
        group_name: &service.key.service.group,
        cluster_count: service.visible_clusters(false).len(),
        ip_count: all,
        healthy_instance_count: healthy,
        trigger_flag: if healthy as f32 / all as f32 <= threshold { "true" } else { "false" },
    }
}

/// # Errors
/// 400 for zero and for a value that is not a number.
fn positive(parameters: &Parameters, name: &str, default: usize) -> Result<usize, Reply> {
    let Some(text) = parameters.get(name) else { return Ok(default) };
    let rule = || format!("Required parameter '{name}' should be positive integer, current is {text}");
    let number = text.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| failure(400, PARAMETER_VALIDATE_ERROR, rule()))
}

/// One instance with all fields, unlike in v1. An unknown one is answered with 404 and code 20004.
pub(crate) fn get(state: &mut State, call: &Call) -> Result<Reply, Reply> {
    let key = service(&call.parameters)?;
    let requested = instance(&call.parameters)?;
    let address = (requested.cluster.as_str(), requested.ip.as_str(), requested.port);
    let found = v1_instance::find(state, &key, address);
    let instance = found.map_err(|missing| failure(404, RESOURCE_NOT_FOUND, missing))?;
    Ok(success(ListedHost::new(&state.settings, &key, instance, &key.service.to_string())))
}

/// The instances of one cluster, including disabled ones (`CatalogServiceV2Impl.listInstances`).
pub(crate) fn list(state: &mut State, call: &Call) -> Result<Reply, Reply> {
    let parameters = &call.parameters;
    let key = service(parameters)?;
    let cluster = parameters.or("clusterName", DEFAULT_CLUSTER);
    let healthy_only = flag(parameters, "healthyOnly")?.unwrap_or(false);
    let missing = |what: String| failure(404, SERVER_ERROR, format!("{what} is not found!"));
    let visible = state.visible_instances(&key).ok_or_else(|| missing(format!("service {}", key.service)))?;
    let mut hosts: Vec<Instance> = visible.iter().filter(|instance| instance.cluster == cluster).cloned().collect();
    if hosts.is_empty() {
        return Err(missing(format!("cluster {cluster}")));
    }
    hosts.retain(|instance| instance.healthy || !healthy_only);
    Ok(success(state.listed(&key, hosts, &key.service.to_string())))
}

/// Like PUT in v1: sets all values, stored as an override.
pub(crate) fn overwrite(state: &mut State, call: &Call) -> Result<Reply, Reply> {
    required(&call.parameters, "serviceName", "String")?;
    let key = service(&call.parameters)?;
    let instance = instance(&call.parameters)?;
    state.check(&instance).map_err(rejected)?;
    if state.overwrite(&key, instance) {
        return Ok(success("ok"));
    }
    let missing = format!("service not found, namespace: {}, service: {}", key.namespace, key.service);
    Err(failure(400, INSTANCE_ERROR, missing))
}
