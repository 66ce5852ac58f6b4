//! `/v1/ns/instance` and below (`InstanceController`).

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::{
    nacos::v1::{BeatAnswer, BEAT_UNKNOWN},
    Metadata, DEFAULT_CLUSTER,
};

use super::{
    call::Call,
    catalogue::{Instance, ServiceKey},
    listing::{instance_id, Asked, Told},
    modification::{Batch, BatchAction, Patch},
    parameters::Parameters,
    registration::Beat,
    reply::{Reply, JSON},
    state::State,
};

/// Reads an instance with Nacos' defaults for what is not given.
fn instance(parameters: &Parameters) -> Result<Instance, Reply> {
    let ip = parameters.required("ip")?.to_owned();
    parameters.required("port")?;
    let instance = Instance {
        ip,
        port: parameters.number("port")?.unwrap_or(0),
        weight: parameters.weight()?.unwrap_or(1.0),
        healthy: parameters.flag("healthy").unwrap_or(true),
        // The older spelling counts where the newer is not given.
        enabled: parameters.flag("enabled").or(parameters.flag("enable")).unwrap_or(true),
        ephemeral: parameters.flag("ephemeral").unwrap_or(true),
        metadata: parameters.metadata()?.unwrap_or_default(),
        cluster: parameters.cluster()?.to_owned(),
        has_id: true,
        last_beat: Default::default(),
        registration: 0,
    };
    check_intervals(parameters, &instance)?;
    Ok(instance)
}

/// `NamingUtils.checkInstanceIsLegal`, since 2.x.
fn check_intervals(parameters: &Parameters, instance: &Instance) -> Result<(), Reply> {
    let millis = |key, default| instance.preserved(key).map_or(default, |time| time.as_millis());
    let interval = millis(crate::HEART_BEAT_INTERVAL, 5000);
    let shortest = millis(crate::HEART_BEAT_TIMEOUT, 15_000).min(millis(crate::IP_DELETE_TIMEOUT, 30_000));
    if parameters.dialect.is_v1_4() || interval <= shortest {
        return Ok(());
    }
    let rule = "Instance 'heart beat interval' must less than 'heart beat timeout' and 'ip delete timeout'.";
    Err(parameters.refused(400, rule))
}

pub(crate) fn register(state: &mut State, call: &Call) -> Result<Reply, Reply> {
    let key = call.parameters.service()?;
    let instance = instance(&call.parameters)?;
    state.register(&key, instance).map_err(|conflict| Reply::text(400, conflict))?;
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
    // 1.4 lets clients that are not Java register by a PUT.
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
    parameters.refused(status, &format!("service not found, namespace: {namespace}, service: {service}"))
}

/// Java's `Instance.toString()`, with `marked` before the last.
fn no_such_instance(parameters: &Parameters, instance: &Instance) -> Reply {
    let Instance { ip, port, cluster, weight, healthy, .. } = instance;
    let instance = format!("{ip}:{port}:unknown:{cluster}_{weight:?}_{healthy}_false_{cluster}");
    parameters.refused(500, &format!("instance not exist: {instance}"))
}

pub(crate) fn patch(state: &mut State, call: &Call) -> Result<Reply, Reply> {
    let parameters = &call.parameters;
    let key = parameters.service()?;
    let ip = parameters.required("ip")?;
    parameters.required("port")?;
    let place = (parameters.cluster()?, ip, parameters.number("port")?.unwrap_or(0));
    let patch = Patch {
        weight: parameters.weight()?,
        enabled: parameters.flag("enabled"),
        healthy: parameters.flag("healthy"),
        metadata: parameters.metadata()?,
    };
    if state.patch(&key, place, patch) {
        Ok(Reply::ok())
    } else if parameters.dialect.is_v1_4() {
        Err(parameters.refused(400, "instance not found"))
    } else {
        Err(Reply::text(404, "no matched ip found!"))
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OneInstance<'a> {
    /// As it was asked for.
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
    // No other spelling here, unlike when registering.
    let cluster = parameters.or("clusterName", DEFAULT_CLUSTER);
    let ip = parameters.required("ip")?;
    parameters.required("port")?;
    let port = parameters.number("port")?.unwrap_or(0);
    let instance = find(state, &key, (cluster, ip, port)).map_err(|missing| {
        let status = if parameters.dialect.is_v1_4() { 500 } else { 404 };
        parameters.refused(status, &missing)
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

/// The instance as lists show it. The error is Nacos' text.
pub(crate) fn find(state: &mut State, key: &ServiceKey, place: (&str, &str, i64)) -> Result<Instance, String> {
    let is_v1_4 = state.dialect().is_v1_4();
    let shown = state.shown(key);
    if is_v1_4 && shown.is_none() {
        return Err(format!("no service {} found!", key.service));
    }
    let shown = shown.unwrap_or_default();
    // 1.4 looks at the cluster alone.
    if !shown.iter().any(|instance| !is_v1_4 || instance.cluster == place.0) {
        return Err(format!("no ips found for cluster {} in service {}", place.0, key.service));
    }
    shown.iter().find(|instance| instance.is_at(place)).cloned().ok_or("no matched ip found!".into())
}

pub(crate) fn list(state: &mut State, call: &Call) -> Result<Reply, Reply> {
    let parameters = &call.parameters;
    let key = parameters.service()?;
    let clusters = parameters.or("clusters", "");
    let healthy_only = parameters.or("healthyOnly", "").eq_ignore_ascii_case("true");
    let udp_port = parameters.number::<u16>("udpPort")?.unwrap_or(0);
    let subscribed = state.subscribes(&call.agent, udp_port);
    if let (true, Ok(ip)) = (subscribed, parameters.or("clientIP", "").parse::<IpAddr>()) {
        state.subscribe(&key, SocketAddr::new(ip, udp_port), &call.agent, clusters);
    }
    let asked = Asked { clusters, healthy_only, agent: &call.agent, told: Told::InAnswer { subscribed } };
    let shown = state.shown(&key);
    let list = state.list(&key, shown, &asked);
    let body = list.map_err(|error| Reply::text(500, error.to_string()))?;
    Ok(Reply { status: 200, content_type: Some(JSON), body })
}

/// The body of a full beat. Clients differ in what they put in.
#[derive(Deserialize)]
struct BeatBody {
    #[serde(default)]
    ip: String,
    #[serde(default)]
    port: i64,
    cluster: Option<String>,
    weight: Option<f64>,
    metadata: Option<Metadata>,
}

pub(crate) fn beat(state: &mut State, call: &Call) -> Result<Reply, Reply> {
    let key = call.parameters.service()?;
    let beat = read_beat(&call.parameters)?;
    let taken = state.beat(&key, beat).map_err(|conflict| Reply::text(400, conflict))?;
    let interval = taken.interval.as_millis() as i64;
    if call.parameters.dialect.is_v1_4() && taken.code == BEAT_UNKNOWN {
        return Ok(Reply::json(&serde_json::json!({ "clientBeatInterval": interval, "code": taken.code })));
    }
    Ok(Reply::json(&BeatAnswer {
        client_beat_interval: Some(interval),
        code: taken.code,
        light_beat_enabled: true,
        extra: Default::default(),
    }))
}

/// What the body says counts before what the parameters say.
fn read_beat(parameters: &Parameters) -> Result<Beat, Reply> {
    let cluster = parameters.or("clusterName", DEFAULT_CLUSTER);
    let Some(body) = parameters.get("beat") else {
        return Ok(Beat {
            ip: parameters.or("ip", "").to_owned(),
            port: parameters.number("port")?.unwrap_or(0),
            cluster: cluster.to_owned(),
            instance: None,
        });
    };
    let body: BeatBody = serde_json::from_str(body)
        .map_err(|error| parameters.refused(500, &format!("the beat cannot be read: {error}")))?;
    let cluster = body.cluster.filter(|cluster| !cluster.trim().is_empty()).unwrap_or(cluster.to_owned());
    let instance = Instance {
        ip: body.ip.clone(),
        port: body.port,
        cluster: cluster.clone(),
        weight: body.weight.unwrap_or(1.0),
        enabled: true,
        healthy: true,
        ephemeral: true,
        metadata: body.metadata.unwrap_or_default(),
        has_id: true,
        last_beat: Default::default(),
        registration: 0,
    };
    Ok(Beat { ip: body.ip, port: body.port, cluster, instance: Some(instance) })
}

pub(crate) fn put_metadata(state: &mut State, call: &Call) -> Result<Reply, Reply> {
    change_metadata(state, call, BatchAction::Put)
}

pub(crate) fn remove_metadata(state: &mut State, call: &Call) -> Result<Reply, Reply> {
    change_metadata(state, call, BatchAction::Remove)
}

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
        places: places(parameters.or("instances", "")),
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

/// What cannot be read names nobody.
fn places(instances: &str) -> Vec<(String, String, i64)> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Place {
        ip: String,
        port: serde_json::Value,
        cluster_name: Option<String>,
    }
    let places: Vec<Place> = serde_json::from_str(instances).unwrap_or_default();
    let port = |port: &serde_json::Value| port.as_i64().or_else(|| port.as_str()?.parse().ok()).unwrap_or(0);
    let cluster = |name: Option<String>| name.filter(|name| !name.is_empty()).unwrap_or(DEFAULT_CLUSTER.into());
    places.into_iter().map(|place| (cluster(place.cluster_name), place.ip, port(&place.port))).collect()
}
