//! `/v1/ns/instance` and below (`InstanceController`).
//!
//! | request | what it does | answers |
//! |---|---|---|
//! | POST | registers | `ok` |
//! | DELETE | deregisters; an unknown instance is no error | `ok` |
//! | PUT | sets all values | `ok`; on 1.4 an error for an unknown instance |
//! | PATCH | sets the given values | `ok`, or an error for an unknown instance |
//! | GET | one instance, without `enabled` and `ephemeral` | JSON; unknown: 404, on 1.4 500 |
//! | GET `/list` | the list, and a subscription if `udpPort` is given | JSON; an unknown service is empty |
//! | PUT `/beat` | renews; a full beat registers | JSON with `code` |
//! | PUT, DELETE `/metadata/batch` | changes the metadata of several instances | the changed instances |

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::{
    model::heartbeat::BEAT_UNKNOWN,
    model::{
        instance::{Metadata, DEFAULT_CLUSTER},
        service::{ServiceName, DEFAULT_GROUP},
    },
    wire::v1::BeatAnswer,
};

use super::{
    call::Call,
    catalogue::{Instance, InstanceAddress, ServiceKey},
    java,
    listing::{instance_id, Delivery, ListRequest},
    modification::{Batch, BatchAction, Patch},
    parameters::Parameters,
    registration::{Beat, Rejected},
    reply::{Reply, JSON},
    state::State,
};

/// Parses an instance. Missing values have the defaults of Nacos.
fn instance(parameters: &Parameters) -> Result<Instance, Reply> {
    let ip = parameters.required("ip")?.to_owned();
    parameters.required("port")?;
    Ok(Instance {
        ip,
        port: parameters.number("port")?.unwrap_or(0),
        weight: parameters.weight()?.unwrap_or(1.0),
        healthy: parameters.flag("healthy").unwrap_or(true),
        // `enable` is the older name, and counts only without `enabled`.
        enabled: parameters.flag("enabled").or(parameters.flag("enable")).unwrap_or(true),
        ephemeral: parameters.flag("ephemeral").unwrap_or(true),
        metadata: parameters.metadata()?.unwrap_or_default(),
        cluster: parameters.cluster()?.to_owned(),
        has_id: true,
        last_beat: Default::default(),
        registration: 0,
    })
}

/// 400 with Nacos' own text.
fn rejected(rejected: Rejected) -> Reply {
    Reply::text(400, rejected.into_text())
}

pub(crate) fn register(state: &mut State, call: &Call) -> Result<Reply, Reply> {
    let key = call.parameters.service()?;
    let instance = instance(&call.parameters)?;
    state.register(&key, instance).map_err(rejected)?;
    Ok(Reply::ok())
}

pub(crate) fn deregister(state: &mut State, call: &Call) -> Result<Reply, Reply> {
    let key = call.parameters.service()?;
    let gone = instance(&call.parameters)?;
    state.deregister(&key, &gone.ip, gone.port, &gone.cluster, gone.ephemeral);
    Ok(Reply::ok())
}

pub(crate) fn overwrite(state: &mut State, call: &Call) -> Result<Reply, Reply> {
    let parameters = &call.parameters;
    let key = parameters.service()?;
    let instance = instance(parameters)?;
    state.check(&instance).map_err(rejected)?;
    // On 1.4 a PUT of a client other than Java registers the instance.
    if parameters.dialect.is_v1_4() && !call.agent.is_java() {
        return register(state, call);
    }
    if state.catalogue.service(&key).is_none() {
        return Err(no_such_service(parameters, &key, &instance));
    }
    let missing = no_such_instance(parameters, &instance);
    if state.overwrite(&key, instance) {
        Ok(Reply::ok())
    } else {
        Err(missing)
    }
}

fn no_such_service(parameters: &Parameters, key: &ServiceKey, instance: &Instance) -> Reply {
    let (namespace, name) = (&key.namespace, &key.service);
    let (status, service) = if parameters.dialect.is_v1_4() {
        (500, name.to_string())
    } else {
        let (group, name, ephemeral) = (&name.group, &name.name, instance.ephemeral);
        let service =
            format!("namespace='{namespace}', group='{group}', name='{name}', ephemeral={ephemeral}, revision=0");
        (400, format!("Service{{{service}}}"))
    };
    parameters.error(status, &format!("service not found, namespace: {namespace}, service: {service}"))
}

/// Formats the instance like Java's `Instance.toString()`, where `false` is the field `marked`.
fn no_such_instance(parameters: &Parameters, instance: &Instance) -> Reply {
    let Instance { ip, port, cluster, weight, healthy, .. } = instance;
    let instance = format!("{ip}:{port}:unknown:{cluster}_{weight:?}_{healthy}_false_{cluster}");
    parameters.error(500, &format!("instance not exist: {instance}"))
}

pub(crate) fn patch(state: &mut State, call: &Call) -> Result<Reply, Reply> {
    let parameters = &call.parameters;
    let key = parameters.service()?;
    let ip = parameters.required("ip")?;
    parameters.required("port")?;
    let address = (parameters.cluster()?, ip, parameters.number("port")?.unwrap_or(0));
    let patch = Patch {
        weight: parameters.weight()?,
        enabled: parameters.flag("enabled"),
        healthy: parameters.flag("healthy"),
        metadata: parameters.metadata()?,
    };
    if state.patch(&key, address, patch) {
        Ok(Reply::ok())
    } else if parameters.dialect.is_v1_4() {
        Err(parameters.error(400, "instance not found"))
    } else {
        Err(Reply::text(404, "no matched ip found!"))
    }
}

/// The answer to GET. It lacks `enabled` and `ephemeral` on every version.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OneInstance<'a> {
    /// As in the request.
    service: &'a str,
    ip: &'a str,
    port: i64,
    cluster_name: &'a str,
    weight: f64,
    healthy: bool,
    instance_id: String,
    metadata: &'a Metadata,
}

pub(crate) fn get(state: &mut State, call: &Call) -> Result<Reply, Reply> {
    let parameters = &call.parameters;
    let key = parameters.service()?;
    // GET does not read `cluster`, unlike a registration.
    let cluster = parameters.or("clusterName", DEFAULT_CLUSTER);
    let ip = parameters.required("ip")?;
    parameters.required("port")?;
    let port = parameters.number("port")?.unwrap_or(0);
    let instance = find(state, &key, (cluster, ip, port)).map_err(|missing| {
        let status = if parameters.dialect.is_v1_4() { 500 } else { 404 };
        parameters.error(status, &missing)
    })?;
    Ok(Reply::json(&OneInstance {
        service: &key.service.to_string(),
        ip,
        port,
        cluster_name: cluster,
        weight: instance.weight,
        healthy: instance.healthy,
        instance_id: instance_id(&key, &instance),
        metadata: &instance.metadata,
    }))
}

/// The instance that lists show now. The error is the text of Nacos.
pub(crate) fn find(state: &mut State, key: &ServiceKey, address: (&str, &str, i64)) -> Result<Instance, String> {
    let is_v1_4 = state.dialect().is_v1_4();
    let visible = state.visible_instances(key);
    if is_v1_4 && visible.is_none() {
        return Err(format!("no service {} found!", key.service));
    }
    let visible = visible.unwrap_or_default();
    // This error of 1.4 depends only on the cluster.
    if !visible.iter().any(|instance| !is_v1_4 || instance.cluster == address.0) {
        return Err(format!("no ips found for cluster {} in service {}", address.0, key.service));
    }
    visible.iter().find(|instance| instance.is_at(address)).cloned().ok_or("no matched ip found!".into())
}

/// The subscription is made before the list, so that no change between the two is missed.
pub(crate) fn list(state: &mut State, call: &Call) -> Result<Reply, Reply> {
    let parameters = &call.parameters;
    let key = parameters.service()?;
    let clusters = parameters.or("clusters", "");
    let healthy_only = parameters.or("healthyOnly", "").eq_ignore_ascii_case("true");
    let udp_port = parameters.number::<u16>("udpPort")?.unwrap_or(0);
    let subscribed = state.subscribes(&call.agent, udp_port);
    let request = ListRequest { clusters, healthy_only, agent: &call.agent, delivery: Delivery::Answer { subscribed } };
    if let (true, Ok(ip)) = (subscribed, parameters.or("clientIP", "").parse::<IpAddr>()) {
        state.subscribe(&key, SocketAddr::new(ip, udp_port), &request, parameters.or("app", ""));
    }
    let visible = state.visible_instances(&key);
    let list = state.list(&key, visible, &request);
    let body = list.map_err(|error| Reply::text(500, error.to_string()))?;
    Ok(Reply { status: 200, content_type: Some(JSON), body })
}

/// 1.4 leaves `lightBeatEnabled` out of the answer to an unknown instance.
pub(crate) fn beat(state: &mut State, call: &Call) -> Result<Reply, Reply> {
    let key = call.parameters.service()?;
    let beat = read_beat(&call.parameters, &key)?;
    let taken = state.beat(&key, beat).map_err(rejected)?;
    if call.parameters.dialect.is_v1_4() && taken.code == BEAT_UNKNOWN {
        return Ok(Reply::json(&serde_json::json!({ "clientBeatInterval": taken.interval, "code": taken.code })));
    }
    Ok(Reply::json(&BeatAnswer {
        client_beat_interval: Some(taken.interval),
        code: taken.code,
        light_beat_enabled: state.light_beats,
        extra: Default::default(),
    }))
}

/// Values in the body take precedence over the parameters.
///
/// Without a body the beat is light.
///
/// # Errors
/// An unreadable body is answered with 500, as Nacos does.
fn read_beat(parameters: &Parameters, key: &ServiceKey) -> Result<Beat, Reply> {
    let cluster = parameters.or("clusterName", DEFAULT_CLUSTER);
    let Some(body) = parameters.get("beat") else {
        return Ok(Beat {
            ip: parameters.or("ip", "").to_owned(),
            port: parameters.number("port")?.unwrap_or(0),
            cluster: Some(cluster.to_owned()),
            instance: None,
            renews: Some(key.clone()),
        });
    };
    let body =
        BeatBody::read(body).map_err(|error| parameters.error(500, &format!("the beat cannot be read: {error}")))?;
    let cluster = body.cluster.filter(|cluster| !cluster.trim().is_empty()).unwrap_or(cluster.to_owned());
    let instance = Instance {
        ip: body.ip.clone(),
        port: body.port,
        cluster: cluster.clone(),
        weight: body.weight,
        enabled: true,
        healthy: true,
        ephemeral: body.ephemeral,
        metadata: body.metadata,
        has_id: true,
        last_beat: Default::default(),
        registration: 0,
    };
    // 1.4 keeps the instance in the query alive, 2.x and later the instance in the body (`ClientBeatProcessorV2`).
    let renews = if parameters.dialect.is_v1_4() {
        Some(key.clone())
    } else {
        let service = body.service_name.map(|name| ServiceName::from_wire(&name, DEFAULT_GROUP));
        service.map(|service| ServiceKey { service, ..key.clone() })
    };
    Ok(Beat { ip: body.ip, port: body.port, cluster: Some(cluster), instance: Some(instance), renews })
}

/// The body of a full beat (`RsInfo`). Clients send different fields.
///
/// Values that are missing have the defaults of Nacos' class: weight 0, and ephemeral.
pub(crate) struct BeatBody {
    pub(crate) ip: String,
    pub(crate) port: i64,
    pub(crate) cluster: Option<String>,
    service_name: Option<String>,
    weight: f64,
    ephemeral: bool,
    metadata: Metadata,
}

impl BeatBody {
    pub(crate) fn read(json: &str) -> Result<Self, String> {
        let fields = java::Fields::read(json).map_err(|error| error.to_string())?;
        Self::bind(&fields).map_err(|field| format!("{field} is of a wrong type"))
    }

    fn bind(fields: &java::Fields) -> Result<Self, &'static str> {
        Ok(BeatBody {
            ip: fields.text("ip")?.unwrap_or_default(),
            port: fields.integer("port")?,
            cluster: fields.text("cluster")?,
            service_name: fields.text("serviceName")?,
            weight: fields.number("weight")?,
            ephemeral: fields.flag("ephemeral", true)?,
            metadata: fields.texts("metadata")?,
        })
    }
}

pub(crate) fn put_metadata(state: &mut State, call: &Call) -> Result<Reply, Reply> {
    change_metadata(state, call, BatchAction::Put)
}

pub(crate) fn remove_metadata(state: &mut State, call: &Call) -> Result<Reply, Reply> {
    change_metadata(state, call, BatchAction::Remove)
}

/// Handles both batches. The answer names the instances that were changed.
fn change_metadata(
    state: &mut State,
    call: &Call,
    action: impl FnOnce(Metadata) -> BatchAction,
) -> Result<Reply, Reply> {
    let parameters = &call.parameters;
    let key = parameters.service()?;
    parameters.required("metadata")?;
    let action = action(parameters.metadata()?.unwrap_or_default());
    let batch = Batch {
        addresses: addresses(parameters.or("instances", "")),
        consistency: parameters.get("consistencyType").map(|kind| kind != "persist"),
    };
    let updated: Vec<String> = state
        .batch(&key, &batch, &action)
        .into_iter()
        .map(|i| {
            let kind = if i.ephemeral { "ephemeral" } else { "persist" };
            format!("{}:{}:unknown:{}:{kind}", i.ip, i.port, i.cluster)
        })
        .collect();
    Ok(Reply::json(&serde_json::json!({ "updated": updated })))
}

/// The addresses of the instances. Empty if the text is invalid.
fn addresses(instances: &str) -> Vec<InstanceAddress> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Address {
        ip: String,
        port: serde_json::Value,
        cluster_name: Option<String>,
    }
    let addresses: Vec<Address> = serde_json::from_str(instances).unwrap_or_default();
    let port = |port: &serde_json::Value| port.as_i64().or_else(|| port.as_str()?.parse().ok()).unwrap_or(0);
    let cluster = |name: Option<String>| name.filter(|name| !name.is_empty()).unwrap_or(DEFAULT_CLUSTER.into());
    addresses.into_iter().map(|one| (cluster(one.cluster_name), one.ip, port(&one.port))).collect()
}
