//! `/v1/ns/operator` and `/v1/console`: requests of operators and load balancers.
//!
//! Load balancers and operators' scripts send these requests. Figures that the embedded server has are real; all others
//! are those of an idle server.

use std::collections::BTreeSet;

use serde_json::json;

use super::{call::Call, reply::Reply, state::State};

/// The switch by which clients leave the body out of beats.
const LIGHT_BEATS: &str = "lightBeatEnabled";

/// Since 2.x only the status is shown, unless `onlyStatus=false`.
pub(crate) fn metrics(state: &mut State, call: &Call) -> Result<Reply, Reply> {
    if !call.parameters.dialect.is_v1_4() {
        return Ok(Reply::json(&state.metrics_since_2(call.parameters.flag("onlyStatus").unwrap_or(true))));
    }
    let services = state.catalogue.services().count();
    let instances: usize = state.catalogue.services().map(|service| service.instances.len()).sum();
    Ok(Reply::json(&json!({
        "status": "UP",
        "serviceCount": services,
        "instanceCount": instances,
        "raftNotifyTaskCount": 0,
        "responsibleServiceCount": services,
        "responsibleInstanceCount": instances,
        "cpu": 0.0,
        "load": 0.0,
        "mem": 0.0,
    })))
}

/// The members of the cluster, which only 1.4 shows: this server alone.
pub(crate) fn servers(state: &mut State, _: &Call) -> Result<Reply, Reply> {
    let port = state.settings.port;
    let address = format!("127.0.0.1:{port}");
    Ok(Reply::json(&json!({ "servers": [{
        "ip": "127.0.0.1",
        "port": port,
        "state": "UP",
        "extendInfo": {
            "lastRefreshTime": state.clock.unix_millis(),
            "raftPort": port.saturating_sub(1000).to_string(),
            "version": state.dialect().version(),
        },
        "address": address,
        "failAccessCnt": 0,
    }] })))
}

pub(crate) fn health(_: &mut State, _: &Call) -> Result<Reply, Reply> {
    Ok(Reply::text(200, "OK"))
}

/// The settings, as `/v1/console/server/state` shows them.
pub(crate) fn server_state(state: &mut State, call: &Call) -> Result<Reply, Reply> {
    if call.parameters.dialect.is_v1_4() {
        return Ok(Reply::json(&json!({
            "version": state.dialect().version(),
            "standalone_mode": "standalone",
            "function_mode": null,
        })));
    }
    let mut settings = state.server_settings();
    settings["auth_admin_request"] = json!("false");
    settings["server_port"] = json!("8848");
    Ok(Reply::json(&settings))
}

impl State {
    fn metrics_since_2(&self, only_status: bool) -> serde_json::Value {
        if only_status {
            return json!({ "status": "UP" });
        }
        let instances = || self.catalogue.services().flat_map(|service| service.instances.keys());
        // A client is identified by its address and by whether its instances are ephemeral (`IpPortBasedClient`).
        let publishers: BTreeSet<(&str, i64, bool)> =
            instances().map(|key| (key.ip.as_str(), key.port, key.ephemeral)).collect();
        let persistent = publishers.iter().filter(|(.., ephemeral)| !ephemeral).count();
        let clients = publishers.len() + self.pushes.receivers();
        json!({
            "status": "UP",
            "serviceCount": self.catalogue.services().count(),
            "instanceCount": instances().count(),
            "subscribeCount": self.pushes.subscriptions(),
            "responsibleInstanceCount": instances().count(),
            "clientCount": clients,
            "connectionBasedClientCount": 0,
            "ephemeralIpPortClientCount": clients - persistent,
            "persistentIpPortClientCount": persistent,
            "responsibleClientCount": clients,
            "cpu": 0.0,
            "load": 0.0,
            "mem": 0.0,
        })
    }

    /// The settings that 2.x and 3.x report, as of a server with default settings.
    pub(crate) fn server_settings(&self) -> serde_json::Value {
        json!({
            "version": self.dialect().version(),
            "startup_mode": "standalone",
            "function_mode": null,
            "auth_enabled": self.sessions.are_required().to_string(),
            "auth_system_type": "nacos",
            "console_ui_enabled": "true",
            "login_page_enabled": self.sessions.are_required().to_string(),
            "config_retention_days": "30",
            "datasource_platform": "",
            "plugin_datasource_log_enabled": "false",
            "isHealthCheck": "true",
            "maxHealthCheckFailCount": "12",
            "isManageCapacity": "true",
            "isCapacityLimitCheck": "false",
            "defaultClusterQuota": "100000",
            "defaultGroupQuota": "200",
            "defaultMaxSize": "102400",
            "defaultMaxAggrSize": "1024",
            "defaultMaxAggrCount": "10000",
            "maxContent": "10485760",
            "notifyConnectTimeout": "100",
            "notifySocketTimeout": "200",
        })
    }
}

/// Accepts a change of any switch. Only `lightBeatEnabled` has an effect.
pub(crate) fn change_switch(state: &mut State, call: &Call) -> Result<Reply, Reply> {
    let given = |name: &str| {
        let missing = || call.parameters.error(400, &format!("Parameter '{name}' is missing"));
        call.parameters.get(name).ok_or_else(missing)
    };
    let (entry, value) = (given("entry")?, given("value")?);
    if entry == LIGHT_BEATS {
        state.light_beats = ["true", "yes", "on", "y", "t"].contains(&value.to_lowercase().as_str());
    }
    Ok(Reply::ok())
}

/// `SwitchDomain`, with defaults for all switches that have no effect here.
pub(crate) fn switches(state: &mut State, _: &Call) -> Result<Reply, Reply> {
    let mut switches = json!({
        "name": "00-00---000-NACOS_SWITCH_DOMAIN-000---00-00",
        "masters": null, "checksum": null, "overriddenServerStatus": null,
        "adWeightMap": {}, "limitedUrlMap": {}, "incrementalList": [], "healthCheckWhiteList": [],
        "defaultPushCacheMillis": 10_000, "defaultCacheMillis": 3000,
        "distroThreshold": 0.7, "distroEnabled": true, "distroServerExpiredMillis": 10_000,
        "healthCheckEnabled": true, "autoChangeHealthCheckEnabled": true, "checkTimes": 3,
        "httpHealthParams": { "max": 5000, "min": 500, "factor": 0.85 },
        "tcpHealthParams": { "max": 5000, "min": 1000, "factor": 0.75 },
        "mysqlHealthParams": { "max": 3000, "min": 2000, "factor": 0.65 },
        "enableStandalone": true, "enableAuthentication": false, "defaultInstanceEphemeral": true,
        "serverStatusSynchronizationPeriodMillis": 2000, "serviceStatusSynchronizationPeriodMillis": 5000,
        "disableAddIP": false, "sendBeatOnly": false, "lightBeatEnabled": true, "pushEnabled": true,
        "pushGoVersion": "0.1.0", "pushJavaVersion": "0.1.0", "pushPythonVersion": "0.4.3",
        "pushCVersion": "1.0.12", "pushCSharpVersion": "0.9.0",
    });
    switches[LIGHT_BEATS] = json!(state.light_beats);
    switches["clientBeatInterval"] = json!(state.settings.beat_interval().as_millis() as u64);
    Ok(Reply::json(&switches))
}
