//! Compares requests and answers of v1 with the recorded exchanges of real servers (`tests/fixtures/`).
//!
//! The expected values are read from the recorded JSON without any of the crate's own structs.
//!
//! A recording is a JSON file with the exchanges of one scripted conversation, recorded on loopback with the
//! default settings of the server. The script is the same for every server, except for those with authentication
//! (`…-auth`, `…-access`). `at_ms` counts from the start: pauses between requests are part of the script.
//!
//! | test | what it shows |
//! |---|---|
//! | `v1_reads_every_recorded_answer` | each answer is read correctly, field by field |
//! | `our_requests_equal_the_recorded_requests` | for the same purpose the client sends the same parameters |

use crate::model::heartbeat::{BEAT_TAKEN, BEAT_UNKNOWN};
use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::{
    exchange::{Answer, Rejection, Request},
    v1::{self, PushAddress},
};
use crate::model::{
    instance::{Instance, InstanceKey},
    service::ServiceName,
};

/// All recorded servers.
pub(crate) const SERVERS: [&str; 5] =
    ["nacos-1.4.8", "nacos-2.5.1", "nacos-2.5.1-auth", "nacos-3.0.3", "r-nacos-0.8.8"];

/// Servers with authentication on. Their recordings try tokens in all positions and forms.
pub(crate) const GUARDED: [&str; 4] =
    ["nacos-1.4.8-access", "nacos-2.5.1-access", "nacos-3.0.3-access", "r-nacos-0.8.8-access"];

/// A recorded exchange or push.
#[derive(Debug, Deserialize)]
pub(crate) struct Recorded {
    pub(crate) name: String,
    pub(crate) request: Option<RecordedRequest>,
    pub(crate) response: Option<RecordedResponse>,
    pub(crate) udp_push: Option<RecordedPush>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct RecordedRequest {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: BTreeMap<String, Value>,
    pub(crate) form: Option<BTreeMap<String, Value>>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct RecordedResponse {
    status: u16,
    body: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct RecordedPush {
    pub(crate) gzip: bool,
    pub(crate) text: String,
}

/// All exchanges of one server's recording, in the order of the recording.
pub(crate) fn of(server: &str) -> Vec<Recorded> {
    #[derive(Deserialize)]
    struct Recording {
        exchanges: Vec<Recorded>,
    }
    let file = format!("{}/tests/fixtures/{server}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file}: {error}"));
    serde_json::from_str::<Recording>(&text).unwrap_or_else(|error| panic!("{file}: {error}")).exchanges
}

impl RecordedResponse {
    pub(crate) fn answer(&self) -> Answer {
        Answer { status: self.status, body: self.body.clone().into_bytes() }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {}", self.body))
    }
}

impl RecordedRequest {
    /// Method and path without the context path.
    pub(crate) fn operation(&self) -> String {
        format!("{} {}", self.method, self.path.trim_start_matches("/nacos"))
    }

    /// A parameter from the query or the form.
    pub(crate) fn parameter(&self, name: &str) -> Option<String> {
        self.parameters().remove(name)
    }

    pub(crate) fn parameters(&self) -> BTreeMap<String, String> {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let form = self.form.iter().flatten();
        self.query.iter().chain(form).map(|(name, value)| (name.clone(), text(value))).collect()
    }

    pub(crate) fn namespace(&self) -> String {
        self.parameter("namespaceId").unwrap_or_else(|| "public".into())
    }

    /// The service, resolved as the server does. `None` if the request does not name a valid service.
    pub(crate) fn service(&self) -> Option<ServiceName> {
        ServiceName::resolve(&self.parameter("serviceName")?, self.parameter("groupName").as_deref()).ok()
    }

    /// The instance, with the server's defaults. `None` if the crate cannot send one of its values.
    pub(crate) fn instance(&self) -> Option<Instance> {
        let mut instance = Instance::new(self.parameter("ip")?, self.parameter("port")?.parse().ok()?);
        let flag = |name| self.parameter(name).map(|text| text == "true");
        instance.healthy = flag("healthy").unwrap_or(true);
        instance.enabled = flag("enabled").or(flag("enable")).unwrap_or(true);
        instance.ephemeral = flag("ephemeral").unwrap_or(true);
        if let Some(cluster) = self.parameter("cluster").or(self.parameter("clusterName")) {
            instance.cluster_name = cluster.into();
        }
        if let Some(weight) = self.parameter("weight") {
            instance.weight = weight.parse().ok()?;
        }
        if let Some(metadata) = self.parameter("metadata") {
            instance.metadata = serde_json::from_str(&metadata).ok()?;
        }
        instance.validate().is_ok().then_some(instance)
    }

    pub(crate) fn key(&self) -> Option<InstanceKey> {
        Some(InstanceKey::of(&self.service()?, &self.instance()?))
    }
}

/// The parameters of one of our own requests.
pub(crate) fn sent(encoded: &str) -> BTreeMap<String, String> {
    form_urlencoded::parse(encoded.as_bytes()).into_owned().collect()
}

/// Asserts that `ours` contains every recorded parameter with the same meaning. All other parameters must be in `more`:
/// defaults that the recorded request left out.
pub(crate) fn assert_same_parameters(
    what: &str,
    recorded: &RecordedRequest,
    ours: &BTreeMap<String, String>,
    more: &[(&str, &str)],
) {
    let mut recorded = recorded.parameters();
    recorded.remove("enable"); // An old name of `enabled`. Every server accepts both.
    for credential in ["accessToken", "username", "password"] {
        recorded.remove(credential); // Our transport sends the token in a header.
    }
    for (name, value) in &recorded {
        let our = ours.get(name).unwrap_or_else(|| panic!("{what}: we do not send {name}: {ours:?}"));
        assert!(same_value(name, value, our), "{what}: {name} is {our:?}, recorded {value:?}");
    }
    for (name, value) in ours.iter().filter(|(name, _)| !recorded.contains_key(*name)) {
        let allowed = more.iter().any(|(allowed, default)| name == allowed && same_value(name, default, value));
        assert!(allowed, "{what}: we send {name}={value:?}, which was not recorded");
    }
}

/// Compares numbers and JSON by value, and service names with or without group.
fn same_value(name: &str, recorded: &str, ours: &str) -> bool {
    if name == "serviceName" {
        return ours.split_once("@@").map(|(_, name)| name) == Some(recorded) || ours == recorded;
    }
    let json = |text: &str| serde_json::from_str::<Value>(text).ok();
    let number = |text: &str| text.parse::<f64>().ok();
    recorded == ours
        || (number(ours).is_some() && number(recorded) == number(ours))
        || (json(ours).is_some_and(|value| value.is_object()) && json(recorded) == json(ours))
}

/// Asserts that `ours` is the instance in `host`. Fields that `host` lacks must have Nacos' defaults.
pub(crate) fn assert_same_instance(what: &str, ours: &Instance, host: &Value, service: &ServiceName) {
    let or = |name: &str, default: Value| host.get(name).cloned().unwrap_or(default);
    assert_eq!(host["ip"], *ours.ip, "{what}");
    assert_eq!(host["port"], ours.port, "{what}");
    assert_eq!(or("weight", 1.0.into()).as_f64().unwrap_or(0.0), ours.weight, "{what}"); // `"NaN"` is read as 0.
    assert_eq!(or("healthy", true.into()), ours.healthy, "{what}");
    assert_eq!(or("enabled", true.into()), ours.enabled, "{what}");
    assert_eq!(or("ephemeral", true.into()), ours.ephemeral, "{what}");
    assert_eq!(or("clusterName", "DEFAULT".into()), *ours.cluster_name, "{what}");
    assert_eq!(or("instanceId", "".into()), *ours.instance_id, "{what}");
    assert_eq!(or("metadata", Value::Object(Default::default())), json(&ours.metadata), "{what}");
    assert_eq!(service.to_string(), ours.service_name, "{what}");
}

fn json(value: &impl serde::Serialize) -> Value {
    serde_json::to_value(value).unwrap()
}

/// The number of exchanges by kind. Compared with literals, so that an empty recording fails.
#[derive(Debug, Default, PartialEq)]
struct Read {
    done: usize,
    lists: usize,
    beats: usize,
    gets: usize,
    service_lists: usize,
    logins: usize,
    unsupported: usize,
}

impl Read {
    fn all(server: &str) -> Read {
        let mut read = Read::default();
        for exchange in of(server) {
            let (Some(request), Some(response)) = (&exchange.request, &exchange.response) else { continue };
            let what = format!("{server}, {}", exchange.name);
            match request.operation().as_str() {
                "POST /v1/ns/instance" | "PUT /v1/ns/instance" | "DELETE /v1/ns/instance" => {
                    read.done += 1;
                    assert_done(&what, response);
                }
                "GET /v1/ns/instance/list" => {
                    read.lists += 1;
                    assert_list(&what, request, response);
                }
                "PUT /v1/ns/instance/beat" => {
                    read.beats += 1;
                    assert_beat(&what, response);
                }
                "GET /v1/ns/instance" => {
                    read.gets += 1;
                    assert_get(&what, request, response);
                }
                "GET /v1/ns/service/list" => {
                    read.service_lists += 1;
                    assert_services(&what, response);
                }
                "POST /v1/auth/login" => {
                    read.logins += 1;
                    assert_login(&what, response);
                }
                _ if [404, 410, 501].contains(&response.status) => {
                    read.unsupported += 1;
                    assert_eq!(v1::check_status(&response.answer()), Err(Rejection::Unsupported), "{what}");
                }
                _ => {}
            }
        }
        read
    }
}

/// The meaning of an unsuccessful answer, which is the same for all operations.
fn rejection(what: &str, response: &RecordedResponse) -> Rejection {
    match response.status {
        404 | 410 | 501 => Rejection::Unsupported,
        403 => {
            let message = response.json()["message"].as_str().unwrap_or_else(|| panic!("{what}")).to_owned();
            Rejection::Forbidden(message)
        }
        status => Rejection::Refused { status, body: response.answer().excerpt() },
    }
}

fn assert_done(what: &str, response: &RecordedResponse) {
    let read = v1::read_ok(&response.answer());
    match response.status {
        200 => assert_eq!((read, response.body.as_str()), (Ok(()), "ok"), "{what}"),
        _ => assert_eq!(read, Err(rejection(what, response)), "{what}"),
    }
}

fn assert_list(what: &str, request: &RecordedRequest, response: &RecordedResponse) {
    let service = request.service().unwrap_or_else(|| panic!("{what}: no service"));
    let read = v1::read_list(&response.answer()).map(|list| list.into_info(&service));
    if response.status != 200 {
        assert_eq!(read, Err(rejection(what, response)), "{what}");
        return;
    }
    let (info, json) = (read.unwrap_or_else(|rejection| panic!("{what}: {rejection:?}")), response.json());
    assert_eq!(json["name"], service.to_string(), "{what}");
    assert_eq!(info.service(), service, "{what}");
    assert_eq!(json["clusters"], info.clusters, "{what}");
    assert_eq!(json["cacheMillis"], info.cache_millis, "{what}");
    assert_eq!(json["lastRefTime"].as_i64().unwrap_or(0), info.last_ref_time, "{what}");
    assert_eq!(json["checksum"].as_str().unwrap_or(""), info.checksum, "{what}");
    assert_eq!(json["reachProtectionThreshold"].as_bool().unwrap_or(false), info.reach_protection_threshold, "{what}");
    // Instances with an invalid port are left out: 1.4 and r-nacos accept 70000.
    let hosts = json["hosts"].as_array().unwrap().iter().filter(|host| host["port"].as_u64() <= Some(65535));
    assert_eq!(hosts.clone().count(), info.hosts.len(), "{what}");
    for (host, ours) in hosts.zip(&info.hosts) {
        assert_same_instance(what, ours, host, &service);
    }
}

fn assert_beat(what: &str, response: &RecordedResponse) {
    let read = v1::read_beat(&response.answer());
    if response.status != 200 {
        assert_eq!(read, Err(rejection(what, response)), "{what}");
        return;
    }
    let (reply, json) = (read.unwrap_or_else(|rejection| panic!("{what}: {rejection:?}")), response.json());
    assert!([BEAT_TAKEN, BEAT_UNKNOWN].contains(&reply.code), "{what}");
    assert_eq!(json["code"], reply.code, "{what}");
    assert_eq!(json["clientBeatInterval"], reply.client_beat_interval, "{what}");
    assert_eq!(json["lightBeatEnabled"].as_bool().unwrap_or(false), reply.light_beat_enabled, "{what}");
    assert_eq!(serde_json::to_value(&reply).unwrap()["code"], json["code"], "{what}");
}

fn assert_get(what: &str, request: &RecordedRequest, response: &RecordedResponse) {
    let key = request.key().unwrap_or_else(|| panic!("{what}: no key"));
    let read = v1::read_instance(&response.answer(), &key);
    let json = || response.json();
    match response.status {
        410 => assert_eq!(read.map(drop), Err(Rejection::Unsupported), "{what}"),
        404 | 500 => assert_eq!(read.map(drop), Err(Rejection::NotFound), "{what}"),
        // r-nacos answers with the instance of another cluster.
        200 if json()["clusterName"] != *key.cluster => assert_eq!(read.map(drop), Err(Rejection::NotFound), "{what}"),
        _ => {
            let found = read.unwrap_or_else(|rejection| panic!("{what}: {rejection:?}"));
            assert_same_instance(what, &found.instance, &json(), &key.service);
            assert_eq!(found.has_enabled, json()["enabled"].is_boolean(), "{what}");
            assert_eq!(found.has_ephemeral, json()["ephemeral"].is_boolean(), "{what}");
        }
    }
}

fn assert_services(what: &str, response: &RecordedResponse) {
    let services = v1::read_services(&response.answer()).unwrap_or_else(|rejection| panic!("{what}: {rejection:?}"));
    assert_eq!(serde_json::to_value(&services).unwrap(), response.json(), "{what}");
    assert!(services.count > 0, "{what}");
}

fn assert_login(what: &str, response: &RecordedResponse) {
    let read = v1::read_login(&response.answer());
    match response.status {
        200 => {
            let (login, json) = (read.unwrap_or_else(|rejection| panic!("{what}: {rejection:?}")), response.json());
            assert_eq!(json["accessToken"], login.access_token, "{what}");
            assert_eq!(json["tokenTtl"], login.token_ttl, "{what}");
            assert_eq!(json["globalAdmin"], login.global_admin, "{what}");
        }
        // 3.0 keeps the path without an implementation.
        500 if what.starts_with("nacos-3.0.3") => assert_eq!(read.map(drop), Err(Rejection::Unsupported), "{what}"),
        _ => assert!(matches!(read, Err(Rejection::LoginRejected(_))), "{what}"),
    }
}

#[test]
fn v1_reads_every_recorded_answer() {
    let expected = |server| match server {
        "nacos-1.4.8" => Read { done: 59, lists: 49, beats: 15, gets: 9, service_lists: 1, logins: 1, unsupported: 2 },
        "nacos-2.5.1" => Read { done: 59, lists: 49, beats: 15, gets: 9, service_lists: 1, logins: 1, unsupported: 3 },
        "nacos-2.5.1-auth" => Read { done: 6, lists: 3, beats: 3, logins: 6, unsupported: 2, ..Read::default() },
        "nacos-3.0.3" => Read { done: 59, lists: 49, beats: 15, gets: 9, service_lists: 1, logins: 1, unsupported: 18 },
        _ => Read { done: 59, lists: 49, beats: 15, gets: 9, service_lists: 1, logins: 1, unsupported: 6 },
    };
    for server in SERVERS {
        assert_eq!(Read::all(server), expected(server), "{server}");
    }
}

#[test]
fn v1_reads_every_recorded_answer_of_servers_with_authentication() {
    let read: Vec<_> = GUARDED.into_iter().map(Read::all).collect();
    let usual = || Read { done: 12, lists: 17, beats: 10, gets: 7, logins: 1, ..Read::default() };
    let nacos_3 = Read { done: 10, lists: 10, beats: 10, logins: 1, unsupported: 2, ..Read::default() };
    assert_eq!(read, [usual(), usual(), nacos_3, usual()]);
}

/// Our request for the same purpose. `None` for a recorded request that the crate would not send: those that servers
/// reject, and those that change only a part of the values.
fn ours(request: &RecordedRequest) -> Option<Request> {
    let namespace = request.namespace();
    let service = request.service()?;
    Some(match request.operation().as_str() {
        "POST /v1/ns/instance" if request.form.is_none() => v1::register(&namespace, &service, &request.instance()?),
        "PUT /v1/ns/instance" => v1::overwrite(&namespace, &service, &request.instance()?),
        "DELETE /v1/ns/instance" => v1::deregister(&namespace, &request.key()?, request.instance()?.ephemeral),
        "GET /v1/ns/instance" => v1::get(&namespace, &request.key()?),
        "PUT /v1/ns/instance/beat" => beat(request)?,
        "GET /v1/ns/instance/list" => {
            let clusters = request.parameter("clusters").unwrap_or_default();
            let healthy_only = request.parameter("healthyOnly").is_some_and(|text| text == "true");
            v1::list(&namespace, &service, &clusters, healthy_only, push_address(request))
        }
        _ => return None,
    })
}

/// A beat with the values of the recorded body, which differ from the parameters beside the body.
fn beat(request: &RecordedRequest) -> Option<Request> {
    let mut instance = request.instance().filter(|instance| instance.ephemeral)?;
    let body: Option<Value> = request.parameter("beat").map(|text| serde_json::from_str(&text).unwrap());
    if let Some(body) = &body {
        instance.weight = body["weight"].as_f64().unwrap();
        instance.metadata = serde_json::from_value(body["metadata"].clone()).unwrap();
    }
    Some(v1::beat(&request.namespace(), &request.key()?, body.is_some().then_some(&instance)))
}

fn push_address(request: &RecordedRequest) -> Option<PushAddress> {
    let port = request.parameter("udpPort")?.parse().unwrap();
    Some(PushAddress { ip: request.parameter("clientIP")?.parse().unwrap(), port })
}

/// Parameters that a recorded request left out and that we always send.
const DEFAULTS: &[(&str, &str)] = &[
    ("namespaceId", "public"),
    ("groupName", "DEFAULT_GROUP"),
    ("clusterName", "DEFAULT"),
    ("cluster", "DEFAULT"),
    ("clusters", ""),
    ("healthyOnly", "false"),
    ("weight", "1"),
    ("enabled", "true"),
    ("healthy", "true"),
    ("ephemeral", "true"),
    ("metadata", "{}"),
];

#[test]
fn our_requests_equal_the_recorded_requests() {
    for server in SERVERS {
        let mut asked = 0;
        for exchange in of(server) {
            let Some(request) = &exchange.request else { continue };
            let Some(ours) = ours(request) else { continue };
            let what = format!("{server}, {}", exchange.name);
            asked += 1;
            assert_eq!(format!("{} {}", ours.method, ours.path), request.operation(), "{what}");
            assert_eq!(ours.form, None, "{what}: Nacos 1.4 reads the query only");
            let mut more = DEFAULTS.to_vec();
            let cluster = request.parameter("cluster").or(request.parameter("clusterName"));
            // A GET sends the cluster under both names.
            more.extend(cluster.iter().flat_map(|cluster| [("cluster", cluster.as_str()), ("clusterName", cluster)]));
            assert_same_parameters(&what, request, &sent(&ours.query), &more);
        }
        // The script of the recordings was the same, except for the server with authentication.
        assert_eq!(asked, if server == "nacos-2.5.1-auth" { 12 } else { 113 }, "{server}");
    }
}

#[test]
fn our_service_lists_and_logins_equal_the_recorded_requests() {
    let page = sent(&v1::list_services("public", "DEFAULT_GROUP", 1, 10).query);
    let login = v1::login(v1::LOGIN, "nacos", "nacosPw1");
    let mut compared = 0;
    for exchange in SERVERS.into_iter().flat_map(of) {
        let Some(request) = &exchange.request else { continue };
        if request.operation() == "GET /v1/ns/service/list" {
            compared += 1;
            assert_same_parameters(&exchange.name, request, &page, &[("groupName", "DEFAULT_GROUP")]);
        } else if exchange.name == "login, all in a form body" {
            compared += 1;
            assert_eq!(format!("{} {}", login.method, login.path), request.operation());
            assert_eq!(request.parameters(), sent(login.form.as_deref().unwrap()));
            assert_eq!(login.query, "", "no password in a URL");
        }
    }
    assert_eq!(compared, 5);
}
