//! `/v3/client/ns/instance` and below (`InstanceOpenApiController`).
//!
//! | request | what it does |
//! |---|---|
//! | POST | registers; with `heartBeat=true` it beats, and code 21003 says that the instance is unknown |
//! | DELETE | deregisters |
//! | GET `/list` | the instances of the clusters in `clusterName` (default: `DEFAULT`), as an array |
//!
//! Every answer is a [frame](Framed); code 0 is success. There are no pushes, no `cacheMillis` and no
//! `lastRefTime`.

use serde::Serialize;

use crate::model::{
    instance::DEFAULT_CLUSTER,
    service::{ServiceName, DEFAULT_GROUP},
};

use super::{
    call::Call,
    catalogue::{Instance, ServiceKey},
    java,
    listing::Selection,
    parameters::{bad_metadata, Parameters},
    registration::{Beat, Rejected},
    reply::Reply,
    state::State,
};

/// The frame of every answer and error (`Result`).
#[derive(Serialize)]
pub(crate) struct Framed<T> {
    pub(crate) code: i64,
    pub(crate) message: &'static str,
    pub(crate) data: T,
}

/// Error codes (`ErrorCode`).
pub(crate) const PARAMETER_MISSING: (i64, &str) = (10_000, "parameter missing");
pub(crate) const PARAMETER_VALIDATE_ERROR: (i64, &str) = (20_002, "parameter validate error");
pub(crate) const RESOURCE_NOT_FOUND: (i64, &str) = (20_004, "resource not found");
const WEIGHT_ERROR: (i64, &str) = (21_001, "weight error");
const INSTANCE_METADATA_ERROR: (i64, &str) = (21_002, "instance metadata error");
const INSTANCE_NOT_FOUND: (i64, &str) = (21_003, "instance not found");
pub(crate) const INSTANCE_ERROR: (i64, &str) = (21_004, "instance error");
pub(crate) const SERVER_ERROR: (i64, &str) = (30_000, "server error");

pub(crate) fn success(data: impl Serialize) -> Reply {
    Reply::json(&Framed { code: 0, message: "success", data })
}

pub(crate) fn failure(status: u16, (code, message): (i64, &'static str), data: impl Serialize) -> Reply {
    Reply::json_with(status, &Framed { code, message, data })
}

pub(crate) fn required<'a>(parameters: &'a Parameters, name: &str, kind: &str) -> Result<&'a str, Reply> {
    let missing = || failure(400, PARAMETER_MISSING, format!("Required parameter '{name}' type {kind} is not present"));
    parameters.get(name).ok_or_else(missing)
}

/// A boolean in one of the forms that Spring accepts. `None` if blank.
pub(crate) fn flag(parameters: &Parameters, name: &str) -> Result<Option<bool>, Reply> {
    let Some(text) = parameters.get(name) else { return Ok(None) };
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "on" | "yes" | "1" => Ok(Some(true)),
        "false" | "off" | "no" | "0" => Ok(Some(false)),
        _ => Err(unreadable(text, "boolean")),
    }
}

/// The error for a value that cannot be bound to the form, from the last exception handler
/// (`NacosApiExceptionHandler`).
fn unreadable(text: &str, kind: &str) -> Reply {
    let message = format!("Failed to convert value \"{text}\" to type {kind}");
    Reply::json_with(500, &serde_json::json!({ "code": SERVER_ERROR.0, "message": message, "data": null }))
}

pub(crate) fn service(parameters: &Parameters) -> Result<ServiceKey, Reply> {
    let name = required(parameters, "serviceName", "String")?;
    let service = ServiceName::from_wire(name, parameters.or("groupName", DEFAULT_GROUP));
    Ok(ServiceKey { namespace: parameters.namespace().to_owned(), service })
}

pub(crate) fn instance(parameters: &Parameters) -> Result<Instance, Reply> {
    // The form is bound before any other check.
    let given = |name| flag(parameters, name);
    let (enabled, healthy, ephemeral) = (given("enabled")?, given("healthy")?, given("ephemeral")?);
    if let Some(text) = parameters.get("weight").filter(|text| text.trim().parse::<f64>().is_err()) {
        return Err(unreadable(text, "double"));
    }
    let ip = required(parameters, "ip", "String")?.to_owned();
    let port = required(parameters, "port", "Integer")?;
    let weight_error = |_| failure(400, WEIGHT_ERROR, "instance format invalid: The weights range from 0.0 to 10000.0");
    let metadata_error = |text: &str| failure(400, INSTANCE_METADATA_ERROR, bad_metadata(text));
    Ok(Instance {
        ip,
        // The filter has rejected every invalid port.
        port: port.parse().unwrap_or(0),
        cluster: parameters.or("clusterName", DEFAULT_CLUSTER).to_owned(),
        weight: parameters.weight().map_err(weight_error)?.unwrap_or(1.0),
        enabled: enabled.unwrap_or(true),
        healthy: healthy.unwrap_or(true),
        ephemeral: ephemeral.unwrap_or(true),
        metadata: match parameters.get("metadata") {
            Some(text) => java::metadata(text).ok_or_else(|| metadata_error(text))?,
            None => Default::default(),
        },
        has_id: false,
        last_beat: Default::default(),
        registration: 0,
    })
}

/// A POST registers, or beats with `heartBeat=true`.
pub(crate) fn register_or_beat(state: &mut State, call: &Call) -> Result<Reply, Reply> {
    let key = service(&call.parameters)?;
    flag(&call.parameters, "heartBeat")?;
    let instance = instance(&call.parameters)?;
    if is_beat(call) {
        return beat(state, &key, instance);
    }
    state.register(&key, instance).map_err(rejected)?;
    Ok(success("ok"))
}

pub(crate) fn is_beat(call: &Call) -> bool {
    matches!(flag(&call.parameters, "heartBeat"), Ok(Some(true)))
}

pub(crate) fn rejected(rejected: Rejected) -> Reply {
    match rejected {
        Rejected::Illegal(text) => failure(400, INSTANCE_ERROR, text),
        Rejected::Conflict(text) => failure(400, SERVER_ERROR, text),
    }
}

fn beat(state: &mut State, key: &ServiceKey, instance: Instance) -> Result<Reply, Reply> {
    let Instance { ip, port, .. } = instance;
    let beat = Beat { ip, port, cluster: None, instance: None, renews: Some(key.clone()) };
    let taken = state.beat(key, beat).map_err(rejected)?;
    if taken.code == crate::model::heartbeat::BEAT_TAKEN {
        Ok(success("ok"))
    } else {
        Ok(failure(200, INSTANCE_NOT_FOUND, ()))
    }
}

pub(crate) fn deregister(state: &mut State, call: &Call) -> Result<Reply, Reply> {
    let key = service(&call.parameters)?;
    let gone = instance(&call.parameters)?;
    state.deregister(&key, &gone.ip, gone.port, &gone.cluster, gone.ephemeral);
    Ok(success("ok"))
}

/// Lists the given clusters, `DEFAULT` without any. Reads `healthyOnly` but ignores it, like Nacos.
pub(crate) fn list(state: &mut State, call: &Call) -> Result<Reply, Reply> {
    let key = service(&call.parameters)?;
    let clusters = call.parameters.or("clusterName", DEFAULT_CLUSTER);
    let visible = state.visible_instances(&key);
    let found = state.catalogue.service(&key).zip(visible);
    let selection = found.map(|(service, visible)| Selection::of(service, visible, state.dialect(), clusters, false));
    Ok(success(state.listed(&key, selection.unwrap_or_default().hosts, &key.service.to_string())))
}
