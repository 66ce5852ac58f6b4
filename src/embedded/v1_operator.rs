//! What operators and load balancers ask: `/v1/ns/operator`, `/v1/console`.

use serde_json::json;

use super::{call::Call, reply::Reply, state::State};

pub(crate) fn metrics(state: &mut State, call: &Call) -> Result<Reply, Reply> {
    if !call.parameters.dialect.is_v1_4() {
        return Ok(Reply::json(&json!({ "status": "UP" })));
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

pub(crate) fn server_state(state: &mut State, call: &Call) -> Result<Reply, Reply> {
    if call.parameters.dialect.is_v1_4() {
        return Ok(Reply::json(&json!({
            "version": state.dialect().version(),
            "standalone_mode": "standalone",
            "function_mode": null,
        })));
    }
    let mut told = state.told_of_server();
    told["auth_admin_request"] = json!("false");
    told["server_port"] = json!("8848");
    Ok(Reply::json(&told))
}

impl State {
    /// The settings that 2.x and 3.x tell of themselves, in the words of a server with default settings.
    pub(crate) fn told_of_server(&self) -> serde_json::Value {
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

/// The defaults of `SwitchDomain`, which nobody can change here.
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
    switches["clientBeatInterval"] = json!(state.settings.beat_interval().as_millis() as u64);
    Ok(Reply::json(&switches))
}
