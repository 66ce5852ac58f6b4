//! The v1 naming API of Nacos: requests, answers, and the meaning of answers. Pure functions, no I/O.
//!
//! The structs of answers serve both sides: the client reads them, the embedded server writes them.
//! Parameters go into the query, because Nacos 1.4 reads them only there.
//!
//! Parameters, in the query unless they are too long for it:
//!
//! | parameter | sent by | meaning |
//! |---|---|---|
//! | `namespaceId` | all | the id of the namespace; `public` by default |
//! | `groupName` | all but the login | the group |
//! | `serviceName` | all but the login and list services | `GROUP@@service`, which every version takes |
//! | `clusterName` | register, beat, deregister, overwrite, get | one cluster; GET also sends it as `cluster` |
//! | `clusters` | list | several, comma separated; empty for all |
//! | `ip`, `port` | the same as `clusterName` | the address |
//! | `weight` | register, overwrite | 0 to 10,000 |
//! | `enabled`, `healthy`, `ephemeral` | register, overwrite | `true` or `false` |
//! | `metadata` | register, overwrite | a JSON object as text |
//! | `beat` | beat | a JSON object as text ([`BeatBody`]); a light beat leaves it out |
//! | `healthyOnly` | list | `true`: without unhealthy instances |
//! | `udpPort`, `clientIP` | list | where to push changes of this list |
//! | `pageNo`, `pageSize` | list services | the page, counted from 1 |
//!
//! Answers:
//!
//! | operation | success |
//! |---|---|
//! | register, deregister, overwrite | the text `ok` |
//! | beat | `clientBeatInterval` (ms), `code` (10200 taken, 20404 unknown: register again), `lightBeatEnabled` |
//! | list | [`ListAnswer`]; a service that does not exist has an empty `hosts` |
//! | get | one [`Host`]; without `enabled` and `ephemeral` on 1.4 and 2.x |
//! | list services | `count`, `doms` |
//! | login | `accessToken`, `tokenTtl` (seconds), `globalAdmin` |

use crate::model::heartbeat::DEFAULT_INTERVAL;
use std::{collections::BTreeMap, fmt, sync::Arc};

use awc::http::Method;
use serde::{
    de::{self, DeserializeSeed as _, IgnoredAny, MapAccess, SeqAccess, Visitor},
    Deserialize, Deserializer, Serialize,
};
use smol_str::SmolStr;

use super::{
    exchange::{excerpt, Answer, Rejection, Request},
    lenient::{self, Any, Flag, LastMetadata, Lenient, Number, Text, Weight},
    parameters::{Parameter, Parameters},
};
use crate::model::{
    heartbeat::HeartbeatReply,
    instance::{Instance, InstanceKey, Metadata},
    service::{ServiceInfo, ServiceName},
};

/// Also for GET, PUT and DELETE.
pub(crate) const INSTANCE: &str = "/v1/ns/instance";
pub(crate) const INSTANCE_LIST: &str = "/v1/ns/instance/list";
pub(crate) const INSTANCE_BEAT: &str = "/v1/ns/instance/beat";
pub(crate) const SERVICE_LIST: &str = "/v1/ns/service/list";
pub(crate) const LOGIN: &str = "/v1/auth/login";

/// The parameters that register or modify an instance, whose service is named `service_name`.
///
/// All of them are always sent, because the defaults for missing parameters differ between versions.
pub(super) fn instance_parameters(
    namespace: &str,
    group: &str,
    service_name: impl Parameter,
    instance: &Instance,
    metadata: &Metadata,
) -> Parameters {
    Parameters::new()
        .add("namespaceId", namespace)
        .add("groupName", group)
        .add("serviceName", service_name)
        .add("clusterName", instance.cluster_name.as_str())
        .add("ip", instance.ip.as_str())
        .add("port", instance.port)
        .add("weight", instance.weight)
        .add("enabled", instance.enabled)
        .add("healthy", instance.healthy)
        .add("ephemeral", instance.ephemeral)
        .add("metadata", metadata_json(metadata).as_str())
}

/// Metadata as a JSON object, which every version reads. Servers also read `k=v` pairs, but these cannot hold every
/// text. Serialising a map of strings cannot fail.
pub(crate) fn metadata_json(metadata: &Metadata) -> String {
    serde_json::to_string(metadata).unwrap_or_else(|_| "{}".into())
}

/// The parameters that identify an instance, whose service is named `service_name`.
pub(super) fn key_parameters(namespace: &str, key: &InstanceKey, service_name: impl Parameter) -> Parameters {
    Parameters::new()
        .add("namespaceId", namespace)
        .add("groupName", key.service.group.as_str())
        .add("serviceName", service_name)
        .add("clusterName", key.cluster.as_str())
        .add("ip", key.ip.as_str())
        .add("port", key.port)
}

/// Registers an instance, or replaces all its values. Means the same on every version, unlike a PUT.
pub(crate) fn register(namespace: &str, service: &ServiceName, instance: &Instance) -> Request {
    let metadata = instance.metadata_to_register();
    Request::by_query(
        Method::POST,
        INSTANCE,
        instance_parameters(namespace, &service.group, service, instance, &metadata),
    )
}

/// Writes all values, because 1.4 deletes the values that are left out.
///
/// On 2.x and 3.x a PUT is an operator's override, which outlives the instance. So it is only used for instances that
/// another process registered.
pub(crate) fn overwrite(namespace: &str, service: &ServiceName, instance: &Instance) -> Request {
    let parameters = instance_parameters(namespace, &service.group, service, instance, &instance.metadata);
    Request::by_query(Method::PUT, INSTANCE, parameters)
}

/// `ephemeral` must be the kind that the instance was registered as, because servers keep both kinds apart.
pub(crate) fn deregister(namespace: &str, key: &InstanceKey, ephemeral: bool) -> Request {
    let parameters = key_parameters(namespace, key, &key.service).add("ephemeral", ephemeral);
    Request::by_query(Method::DELETE, INSTANCE, parameters)
}

/// Reads one instance. 3.0 answers 410. The cluster is sent under two names, because some servers read only one of them.
pub(crate) fn get(namespace: &str, key: &InstanceKey) -> Request {
    let parameters = key_parameters(namespace, key, &key.service).add("cluster", key.cluster.as_str());
    Request::by_query(Method::GET, INSTANCE, parameters)
}

/// The address that the server is asked to push to.
///
/// The server sends to this address, whatever address the request came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PushAddress {
    pub(crate) ip: std::net::IpAddr,
    pub(crate) port: u16,
}

/// Reads the list of a service. With `push_to` the server also pushes changes for a while: about 10 s on 1.4, 30 s
/// on 2.x and 3.0.
pub(crate) fn list(
    namespace: &str,
    service: &ServiceName,
    clusters: &str,
    healthy_only: bool,
    push_to: Option<PushAddress>,
) -> Request {
    // The last two are sent together or not at all: without a port, a server does not push.
    let parameters = Parameters::new()
        .add("namespaceId", namespace)
        .add("groupName", service.group.as_str())
        .add("serviceName", service)
        .add("clusters", clusters)
        .add("healthyOnly", healthy_only)
        .add_if("udpPort", push_to.map(|to| to.port))
        .add_if("clientIP", push_to.map(|to| to.ip.to_string()).as_deref());
    Request::by_query(Method::GET, INSTANCE_LIST, parameters)
}

/// The body of a full beat (`BeatInfo`). A light beat leaves it out.
///
/// Beats of a registered instance never change its values; they count only when the server does not know the
/// instance.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BeatBody {
    pub(crate) service_name: SmolStr,
    pub(crate) cluster: SmolStr,
    pub(crate) ip: SmolStr,
    pub(crate) port: u16,
    #[serde(default = "one")]
    pub(crate) weight: f64,
    #[serde(default)]
    pub(crate) metadata: Metadata,
    #[serde(default)]
    pub(crate) scheduled: bool,
    #[serde(default)]
    pub(crate) period: u64,
    #[serde(default)]
    pub(crate) stopped: bool,
}

/// A full beat with `values`, a light beat without.
///
/// Ephemeral instances only: servers check persistent instances themselves, and do not accept beats for them.
pub(crate) fn beat(namespace: &str, key: &InstanceKey, values: Option<&Instance>) -> Request {
    let beat = values.map(|instance| beat_body(key, instance));
    let parameters =
        key_parameters(namespace, key, &key.service).add("ephemeral", true).add_if("beat", beat.as_deref());
    Request::by_query(Method::PUT, INSTANCE_BEAT, parameters)
}

/// `period` is informative: servers take the interval from the metadata.
fn beat_body(key: &InstanceKey, instance: &Instance) -> String {
    let period = instance.preserved_interval().unwrap_or(DEFAULT_INTERVAL).as_millis() as u64;
    let body = BeatBody {
        service_name: key.service.grouped(),
        cluster: key.cluster.clone(),
        ip: key.ip.clone(),
        port: key.port,
        weight: instance.weight,
        metadata: instance.metadata_to_register().into_owned(),
        scheduled: true,
        period,
        stopped: false,
    };
    serde_json::to_string(&body).unwrap_or_default()
}

/// Reads a page of the names of a group's services.
pub(crate) fn list_services(namespace: &str, group: &str, page_no: u32, page_size: u32) -> Request {
    let page = Parameters::new()
        .add("namespaceId", namespace)
        .add("groupName", group)
        .add("pageNo", page_no)
        .add("pageSize", page_size);
    Request::by_query(Method::GET, SERVICE_LIST, page)
}

/// Sends the password in a form body, to keep it out of URLs. Every server reads the form of a login.
///
/// `path` is the login path of v1 or of v3.
pub(crate) fn login(path: &'static str, username: &str, password: &str) -> Request {
    Request::by_form(path, Parameters::new().add("username", username).add("password", password))
}

/// An instance in an answer. Any field may be missing, null or of another type: see [`lenient`].
///
/// Defaults of missing fields are those of Nacos: weight 1, healthy, enabled, ephemeral.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Host {
    pub(crate) instance_id: SmolStr,
    /// Empty if the server does not send it.
    pub(crate) ip: SmolStr,
    /// Wider than a port, because 1.4 and r-nacos accept port 70000. [`NO_PORT`] if the server does not send it.
    pub(crate) port: i64,
    pub(crate) weight: f64,
    pub(crate) healthy: bool,
    pub(crate) enabled: bool,
    pub(crate) ephemeral: bool,
    pub(crate) cluster_name: SmolStr,
    /// Not read: servers differ in how they write it, and it is always the requested service.
    pub(crate) service_name: SmolStr,
    pub(crate) metadata: Metadata,
}

/// The port of an entry without a readable port. It is never valid.
const NO_PORT: i64 = -1;

impl Default for Host {
    fn default() -> Self {
        Host {
            instance_id: SmolStr::default(),
            ip: SmolStr::default(),
            port: NO_PORT,
            weight: 1.0,
            healthy: true,
            enabled: true,
            ephemeral: true,
            cluster_name: SmolStr::default(),
            service_name: SmolStr::default(),
            metadata: Metadata::new(),
        }
    }
}

impl Host {
    /// Whether the host has an address. Port 0 is valid: Dubbo registers consumers with it, to be listed but not
    /// called.
    ///
    /// An entry without an address is left out of the list, and the rest of the list is used.
    pub(crate) fn is_usable(&self) -> bool {
        !self.ip.trim().is_empty() && self.port().is_some()
    }

    fn port(&self) -> Option<u16> {
        u16::try_from(self.port).ok()
    }

    /// Rejects an answer about one instance without an address.
    pub(crate) fn check_address(&self, answer: &Answer) -> Result<(), Rejection> {
        if self.is_usable() {
            return Ok(());
        }
        Err(Rejection::Unreadable(format!("neither ip nor port in {:?}", answer.excerpt())))
    }

    /// An instance of `GROUP@@service`. `None` if the host is not [usable](Host::is_usable).
    pub(crate) fn into_instance(self, service_name: SmolStr) -> Option<Instance> {
        let port = self.port().filter(|_| self.is_usable())?;
        Some(Instance {
            instance_id: self.instance_id,
            ip: self.ip,
            port,
            weight: self.weight,
            healthy: self.healthy,
            enabled: self.enabled,
            ephemeral: self.ephemeral,
            cluster_name: if self.cluster_name.is_empty() {
                crate::model::instance::DEFAULT_CLUSTER.into()
            } else {
                self.cluster_name
            },
            service_name,
            metadata: self.metadata,
        })
    }
}

/// The hosts of a list. An entry that is not an object becomes a host without an address. If no entry is an object, the
/// list contains something else and is an error: it must not look like a service without instances.
///
/// A single broken entry must not hide the whole service from its callers, so it is left out.
#[derive(Debug, Clone)]
pub(crate) struct Hosts(pub(crate) Vec<Host>);

impl<'de> Deserialize<'de> for Hosts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(HostsVisitor)
    }
}

/// Lists up to this length are read without growing the vector.
const USUAL_HOSTS: usize = 16;

struct HostsVisitor;

impl<'de> Visitor<'de> for HostsVisitor {
    type Value = Hosts;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of instances")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Hosts, A::Error> {
        let (mut hosts, mut last) = (Vec::with_capacity(USUAL_HOSTS), LastHost::default());
        let mut has_host = false;
        while let Some(host) = entries.next_element_seed(Any(&mut last))? {
            has_host |= host.is_some();
            hosts.push(host.unwrap_or_default());
        }
        if !has_host && !hosts.is_empty() {
            return Err(de::Error::custom("the list contains no instance"));
        }
        Ok(Hosts(hosts))
    }
}

impl<'de> Deserialize<'de> for Host {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let host = Any(&mut LastHost::default()).deserialize(deserializer)?;
        host.ok_or_else(|| de::Error::custom("it is not an instance"))
    }
}

/// What the host that was read last has in common with most others. The next one shares it.
#[derive(Default)]
struct LastHost {
    cluster_name: SmolStr,
    metadata: LastMetadata,
}

/// Reads a host, or `None` for any other JSON value than an object.
impl<'de> Lenient<'de> for &mut LastHost {
    type Value = Option<Host>;

    fn text(self, _: &str) -> Option<Host> {
        None
    }

    fn other(self, _: serde_json::Value) -> Option<Host> {
        None
    }

    fn list<A: SeqAccess<'de>>(self, mut values: A) -> Result<Option<Host>, A::Error> {
        while values.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    /// If a field is there twice, the last one counts.
    fn object<A: MapAccess<'de>>(self, mut fields: A) -> Result<Option<Host>, A::Error> {
        #[derive(Deserialize)]
        #[serde(field_identifier, rename_all = "camelCase")]
        enum Field {
            InstanceId,
            Ip,
            Port,
            Weight,
            Healthy,
            Enabled,
            Ephemeral,
            ClusterName,
            Metadata,
            #[serde(other)]
            Unknown,
        }
        let mut host = Host::default();
        while let Some(field) = fields.next_key()? {
            match field {
                Field::InstanceId => host.instance_id = fields.next_value_seed(Any(Text(None)))?,
                Field::Ip => host.ip = fields.next_value_seed(Any(Text(None)))?,
                Field::Port => host.port = fields.next_value_seed(Any(Number::default()))?.unwrap_or(NO_PORT),
                Field::Weight => host.weight = fields.next_value_seed(Any(Weight))?,
                Field::Healthy => host.healthy = fields.next_value_seed(Any(Flag))?.unwrap_or(true),
                Field::Enabled => host.enabled = fields.next_value_seed(Any(Flag))?.unwrap_or(true),
                Field::Ephemeral => host.ephemeral = fields.next_value_seed(Any(Flag))?.unwrap_or(true),
                Field::ClusterName => {
                    host.cluster_name = fields.next_value_seed(Any(Text(Some(&self.cluster_name))))?;
                }
                Field::Metadata => host.metadata = fields.next_value_seed(Any(&mut self.metadata))?,
                Field::Unknown => drop(fields.next_value::<IgnoredAny>()?),
            }
        }
        self.cluster_name.clone_from(&host.cluster_name);
        Ok(Some(host))
    }
}

/// A list of a service's instances, polled or pushed. Servers differ in the fields that they send; all send `hosts`.
///
/// | field | versions | meaning |
/// |---|---|---|
/// | `name` | all | `GROUP@@service` |
/// | `groupName` | 2.x, 3.0 | the group |
/// | `clusters` | all | as requested |
/// | `cacheMillis` | all | how long the list may be used, in ms; 10,000 by default |
/// | `hosts` | all | the instances, without disabled ones |
/// | `lastRefTime` | all but an unknown service on 1.4 | when the list was made: ms since 1970, by the server's clock |
/// | `checksum` | 1.4, r-nacos | not used: r-nacos changes it with each answer |
/// | `allIPs`, `allIps` | 2.x; 3.0 | not used |
/// | `reachProtectionThreshold` | 2.x, 3.0 | too few are healthy, so all are listed as healthy |
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ListAnswer {
    /// `GROUP@@service`. 1.4 also sends it as `dom`.
    #[serde(default, deserialize_with = "lenient::text")]
    pub(crate) name: SmolStr,
    #[serde(default, deserialize_with = "lenient::text")]
    pub(crate) group_name: SmolStr,
    #[serde(default, deserialize_with = "lenient::text")]
    pub(crate) clusters: String,
    #[serde(default = "ten_seconds", deserialize_with = "ten_seconds_by_default")]
    pub(crate) cache_millis: u64,
    #[serde(deserialize_with = "hosts")]
    pub(crate) hosts: Vec<Host>,
    #[serde(default, deserialize_with = "zero_by_default")]
    pub(crate) last_ref_time: i64,
    #[serde(default, deserialize_with = "lenient::text")]
    pub(crate) checksum: String,
    #[serde(default, rename = "allIPs", alias = "allIps", deserialize_with = "lenient::false_by_default")]
    pub(crate) all_ips: bool,
    #[serde(default, deserialize_with = "lenient::false_by_default")]
    pub(crate) reach_protection_threshold: bool,
}

impl ListAnswer {
    /// The list of the service `requested`. Leaves hosts without an address out.
    ///
    /// The name in the answer is ignored: servers differ in how they write it, and the list is always that of the
    /// requested service.
    pub(crate) fn into_info(self, requested: &ServiceName) -> ServiceInfo {
        let service_name = requested.grouped();
        // Collecting would shrink the memory of the hosts, which is much larger, instead of freeing it.
        let mut hosts = Vec::with_capacity(self.hosts.len());
        hosts.extend(self.hosts.into_iter().filter_map(|host| host.into_instance(service_name.clone())).map(Arc::new));
        ServiceInfo {
            name: requested.name.clone(),
            group_name: requested.group.clone(),
            clusters: self.clusters,
            cache_millis: self.cache_millis,
            hosts,
            last_ref_time: self.last_ref_time,
            checksum: self.checksum,
            all_ips: self.all_ips,
            reach_protection_threshold: self.reach_protection_threshold,
        }
    }
}

/// The answer to a beat. Unknown fields are kept for the application.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BeatAnswer {
    /// Milliseconds.
    #[serde(default)]
    pub(crate) client_beat_interval: Option<i64>,
    pub(crate) code: i64,
    #[serde(default, deserialize_with = "lenient::false_by_default")]
    pub(crate) light_beat_enabled: bool,
    #[serde(flatten)]
    pub(crate) extra: BTreeMap<String, serde_json::Value>,
}

/// A page of services: the number of all of them, and the names without the group.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ServiceListAnswer {
    pub(crate) count: u64,
    pub(crate) doms: Vec<String>,
}

/// The answer to a login. It has no `Debug`, so that no token gets into a log.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LoginAnswer {
    pub(crate) access_token: String,
    /// Seconds.
    pub(crate) token_ttl: i64,
    #[serde(default)]
    pub(crate) global_admin: bool,
}

/// The error page of Spring as JSON.
///
/// 1.4 to 3.x send it for errors that no controller handled, such as a rejected token or a path that does not exist.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct SpringError {
    pub(crate) timestamp: String,
    pub(crate) status: u16,
    pub(crate) error: String,
    pub(crate) message: String,
    pub(crate) path: String,
}

/// # Errors
/// [`Rejection::Unreadable`] if a success has another text than `ok`: a proxy's page must not count as a
/// registration.
pub(crate) fn read_ok(answer: &Answer) -> Result<(), Rejection> {
    check_status(answer)?;
    match answer.body.as_slice() {
        b"ok" => Ok(()),
        _ => Err(Rejection::Unreadable(format!("expected \"ok\", not {:?}", answer.excerpt()))),
    }
}

/// The list as the server sent it, not sorted yet.
///
/// # Errors
/// [`Rejection::Unreadable`] if there is no `hosts`: any other field may be missing.
pub(crate) fn read_list(answer: &Answer) -> Result<ListAnswer, Rejection> {
    check_status(answer)?;
    answer.json()
}

/// The instance of `key`. Answers of 1.4 and 2.x contain neither `enabled` nor `ephemeral`.
///
/// # Errors
/// [`Rejection::NotFound`] if the server does not have it, whatever its status says.
pub(crate) fn read_instance(answer: &Answer, key: &InstanceKey) -> Result<Found, Rejection> {
    if instance_is_missing(answer) {
        return Err(Rejection::NotFound);
    }
    check_status(answer)?;
    #[derive(Deserialize)]
    struct Flags {
        #[serde(default, deserialize_with = "lenient::flag")]
        enabled: Option<bool>,
        #[serde(default, deserialize_with = "lenient::flag")]
        ephemeral: Option<bool>,
    }
    let host: Host = answer.json()?;
    host.check_address(answer)?;
    let flags: Flags = answer.json()?;
    // r-nacos finds an instance by ip and port alone, and may answer with an instance of another cluster.
    let instance = host.into_instance(key.service.grouped()).filter(|instance| key.identifies(instance));
    let instance = instance.ok_or(Rejection::NotFound)?;
    Ok(Found { instance, has_enabled: flags.enabled.is_some(), has_ephemeral: flags.ephemeral.is_some() })
}

/// An instance, and whether the answer contained two fields that some servers leave out.
///
/// Missing values are taken from the service's list.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) instance: Instance,
    pub(crate) has_enabled: bool,
    pub(crate) has_ephemeral: bool,
}

/// A missing instance is 404 with a text on 2.x, 500 with a text on 1.4, and 500 with the text `error` on r-nacos.
///
/// The texts are compared, since the same statuses mean other things: 404 without a text is a server without this
/// API.
fn instance_is_missing(answer: &Answer) -> bool {
    let text = String::from_utf8_lossy(&answer.body);
    match answer.status {
        404 => text.starts_with("no matched ip") || text.starts_with("no ips found") || text.starts_with("no service"),
        500 => {
            text.contains("no matched ip")
                || text.contains("no ips found")
                || text.contains("no service ")
                || text == "error"
        }
        _ => false,
    }
}

/// Reads the reply to a beat. "Unknown instance" is a reply, not a rejection.
pub(crate) fn read_beat(answer: &Answer) -> Result<HeartbeatReply, Rejection> {
    /// Every server sends these fields, and most servers send no others. Reading only them halves the time.
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct Usual {
        client_beat_interval: u64,
        code: i64,
        light_beat_enabled: bool,
    }
    check_status(answer)?;
    if let Ok(Usual { client_beat_interval, code, light_beat_enabled }) = serde_json::from_slice(&answer.body) {
        return Ok(HeartbeatReply { client_beat_interval, code, light_beat_enabled, extra: BTreeMap::new() });
    }
    let beat: BeatAnswer = answer.json()?;
    Ok(HeartbeatReply {
        client_beat_interval: u64::try_from(beat.client_beat_interval.unwrap_or(0)).unwrap_or(0),
        code: beat.code,
        light_beat_enabled: beat.light_beat_enabled,
        extra: beat.extra,
    })
}

/// The page as the server sent it.
pub(crate) fn read_services(answer: &Answer) -> Result<ServiceListAnswer, Rejection> {
    check_status(answer)?;
    answer.json()
}

/// Never quotes an unreadable answer, which may contain a token.
///
/// # Errors
/// [`Rejection::LoginRejected`] if the server rejects the user name and password. Any other rejection may be temporary.
pub(crate) fn read_login(answer: &Answer) -> Result<LoginAnswer, Rejection> {
    let text = answer.excerpt();
    match answer.status {
        200 => read_token(&answer.body),
        401 | 403 => Err(Rejection::LoginRejected(format!("{text}; check username and password"))),
        // On 2.x: an unknown user, or no user. A 500 with another text is a failure inside the server.
        500 if text.starts_with("caused: User ") || text.starts_with("caused: Required request parameter") => {
            Err(Rejection::LoginRejected(format!("{text}; check username and password")))
        }
        // 3.0 keeps the path without an implementation.
        500 if text.contains("API Compatibility") => Err(Rejection::Unsupported),
        404 | 405 | 410 | 501 => Err(Rejection::Unsupported),
        status => Err(Rejection::Refused { status, body: text }),
    }
}

/// Rejects a token that no header can carry. Otherwise the HTTP client would fail each request without sending it.
///
/// # Errors
/// [`Rejection::Unreadable`], without the body.
fn read_token(body: &[u8]) -> Result<LoginAnswer, Rejection> {
    let login: LoginAnswer = serde_json::from_slice(body).map_err(|error| unreadable_login(&error))?;
    if login.access_token.is_empty() || !login.access_token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Rejection::Unreadable("its token is empty or cannot be sent in a header".into()));
    }
    Ok(login)
}

fn unreadable_login(error: &serde_json::Error) -> Rejection {
    Rejection::Unreadable(format!("it contains no token ({:?} error at column {})", error.classify(), error.column()))
}

/// Converts every status that is not a success.
///
/// # Errors
/// See the table in [`exchange`](super::exchange).
pub(crate) fn check_status(answer: &Answer) -> Result<(), Rejection> {
    match answer.status {
        200 => Ok(()),
        401 | 403 => Err(forbidden(answer)),
        404 | 405 | 410 | 501 => Err(Rejection::Unsupported),
        status => Err(Rejection::Refused { status, body: answer.excerpt() }),
    }
}

/// The body is Spring's error page, a text, or empty.
///
/// The text is only quoted for the user. Nothing depends on it, because it differs between versions.
fn forbidden(answer: &Answer) -> Rejection {
    let page = serde_json::from_slice::<SpringError>(&answer.body);
    let text = page.map_or_else(|_| answer.excerpt(), |error| excerpt(&error.message));
    Rejection::Forbidden(if text.is_empty() { format!("it answered {}", answer.status) } else { text })
}

fn one() -> f64 {
    1.0
}

/// The cache time that Nacos sends to clients with pushes.
fn ten_seconds() -> u64 {
    10_000
}

fn ten_seconds_by_default<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    lenient::number(deserializer).map(|millis| millis.unwrap_or(ten_seconds()))
}

fn zero_by_default<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    lenient::number(deserializer).map(Option::unwrap_or_default)
}

fn hosts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Host>, D::Error> {
    Hosts::deserialize(deserializer).map(|hosts| hosts.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(body: &str) -> Answer {
        Answer { status: 200, body: body.into() }
    }

    #[test]
    fn an_error_about_a_login_contains_no_token() {
        for body in
            [r#"{"accessToken":"hush","tokenTtl":180"#, r#"{"accessToken":"hush","tokenTtl":"long"}"#, r#""hush""#]
        {
            match read_login(&answer(body)) {
                Err(Rejection::Unreadable(reason)) => assert!(!reason.contains("hush"), "{reason}"),
                other => panic!("{body} gave {:?}", other.map(drop)),
            }
        }
    }

    #[test]
    fn unusual_metadata_of_one_instance_does_not_invalidate_the_list() {
        let strange = r#"{"hosts":[{"ip":"127.0.0.7","port":80,"healthy":true,
            "metadata":{"none":null,"number":7,"yes":true,"text":"t","more":{"a":[1]}}},
            {"ip":"127.0.0.8","port":80,"healthy":true,"metadata":null}]}"#;
        let info = read_list(&answer(strange)).unwrap().into_info(&ServiceName::parse("orders").unwrap());
        let read: Vec<_> = info.hosts[0].metadata.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(read, [("more", r#"{"a":[1]}"#), ("number", "7"), ("text", "t"), ("yes", "true")]);
        assert!(info.hosts[1].metadata.is_empty());
    }

    #[test]
    fn instances_of_a_list_share_what_is_equal() {
        let host = |port: u16, metadata: &str| {
            format!(
                r#"{{"ip":"127.0.0.7","port":{port},"clusterName":"a-cluster-with-a-name-of-more-than-23-bytes",
                "metadata":{metadata}}}"#
            )
        };
        let (equal, other) = (r#"{"zone":"a","b":"1"}"#, r#"{"zone":"b","b":"1"}"#);
        let hosts = [host(1, equal), host(2, equal), host(3, other), host(4, other), host(5, "{}"), host(6, equal)];
        let list = read_list(&answer(&format!(r#"{{"hosts":[{}]}}"#, hosts.join(",")))).unwrap();
        let service = ServiceName::parse("a-service-with-a-long-name").unwrap();
        let hosts = list.into_info(&service).hosts;
        let shared = |one: usize, other: usize| {
            let same = |text: fn(&Instance) -> &str| text(&hosts[one]).as_ptr() == text(&hosts[other]).as_ptr();
            assert!(same(|host| &host.cluster_name) && same(|host| &host.service_name), "{one} and {other}");
            std::ptr::eq(&*hosts[one].metadata, &*hosts[other].metadata)
        };
        assert!(shared(0, 1) && !shared(1, 2) && shared(2, 3) && !shared(3, 4) && !shared(4, 5));
        let zone = |number: usize| hosts[number].metadata.get("zone").map(SmolStr::as_str);
        assert_eq!([0, 1, 2, 3, 4, 5].map(zone), [Some("a"), Some("a"), Some("b"), Some("b"), None, Some("a")]);
    }

    #[test]
    fn unusual_hosts_and_null_fields_do_not_invalidate_the_list() {
        let odd = r#"{"name":null,"groupName":null,"clusters":null,"cacheMillis":null,"lastRefTime":null,"checksum":null,
            "allIPs":null,"reachProtectionThreshold":null,"hosts":[
            {"ip":"127.0.0.1","port":80},
            {"ip":"127.0.0.2","port":"8080","healthy":null,"enabled":null,"ephemeral":null,"weight":null,
             "clusterName":null,"serviceName":null,"instanceId":null,"metadata":null},
            {"ip":"127.0.0.3","port":0,"healthy":"false","enabled":"TRUE","ephemeral":[],"weight":"2.5","metadata":"none"},
            {"port":80},{"ip":null,"port":80},{"ip":"","port":80},{"ip":7,"port":80},
            {"ip":"127.0.0.9"},{"ip":"127.0.0.9","port":null},{"ip":"127.0.0.9","port":"http"},{"ip":"127.0.0.9","port":70000},
            {"ip":"127.0.0.9","port":-1},null,"127.0.0.9:80",7,-7,1.5,true,[],["127.0.0.9",80],{}]}"#;
        let list = read_list(&answer(odd)).unwrap();
        assert_eq!(list.hosts.iter().filter(|host| !host.is_usable()).count(), 18);
        let info = list.into_info(&ServiceName::parse("orders").unwrap());
        assert_eq!((info.cache_millis, info.last_ref_time, info.all_ips), (10_000, 0, false));
        let [plain, nulls, texts] = &info.hosts[..] else { panic!("{info:?}") };
        for host in [plain, nulls] {
            assert!(host.healthy && host.enabled && host.ephemeral, "{host:?}");
            assert_eq!((host.cluster_name.as_str(), host.service_name.as_str()), ("DEFAULT", "DEFAULT_GROUP@@orders"));
        }
        assert_eq!((plain.weight, nulls.weight, nulls.port), (1.0, 0.0, 8080));
        assert!(!texts.healthy && texts.enabled && texts.ephemeral && texts.metadata.is_empty());
        assert_eq!((texts.port, texts.weight), (0, 2.5));

        let missing = read_list(&answer(r#"{"hosts":[]}"#)).unwrap();
        assert_eq!((missing.cache_millis, missing.last_ref_time), (10_000, 0));
        let texts = read_list(&answer(r#"{"hosts":[],"cacheMillis":"3000","lastRefTime":"7"}"#)).unwrap();
        assert_eq!((texts.cache_millis, texts.last_ref_time), (3000, 7));
        for no_list in [
            r#"{"hosts":["a","b"]}"#,
            r#"{"hosts":[[],7]}"#,
            r#"{"hosts":null}"#,
            r#"{"hosts":{}}"#,
            "{}",
            "[]",
            "null",
        ] {
            assert!(read_list(&answer(no_list)).is_err(), "{no_list}");
        }
    }

    #[test]
    fn an_answer_about_an_instance_without_an_address_is_unreadable() {
        let key = InstanceKey::of(&ServiceName::parse("orders").unwrap(), &Instance::new("127.0.0.7", 80));
        for body in ["{}", "[]", "null", r#"{"ip":"127.0.0.7"}"#, r#"{"ip":1,"port":"none"}"#] {
            assert!(matches!(read_instance(&answer(body), &key), Err(Rejection::Unreadable(_))), "{body}");
        }
        let odd = r#"{"ip":"127.0.0.7","port":"80","healthy":null,"enabled":"?","ephemeral":"false"}"#;
        let found = read_instance(&answer(odd), &key).unwrap();
        assert!(found.has_ephemeral && !found.instance.ephemeral && !found.has_enabled && found.instance.healthy);
    }

    #[test]
    fn a_token_that_no_header_can_carry_is_no_token() {
        for token in ["", "a b", "a\nb", "\u{1}", "é"] {
            let body = serde_json::json!({ "accessToken": token, "tokenTtl": 5 }).to_string();
            let rejection = read_login(&Answer { status: 200, body: body.into() }).err();
            assert!(matches!(rejection, Some(Rejection::Unreadable(_))), "{token:?}");
        }
    }
}
