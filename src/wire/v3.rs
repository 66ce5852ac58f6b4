//! The v3 API of Nacos: requests, answers, and the meaning of answers. Pure functions, no I/O. Each function has a
//! counterpart of the same name in [`v1`].
//!
//! Covers the client API (`InstanceOpenApiController`), the used part of the admin API (`InstanceControllerV3`,
//! `ServiceControllerV3`), and the login (`UserControllerV3`). The tests compare them with recorded answers of Nacos
//! 3.0.3. "By source" marks what was read in the source of 3.0.3 and not measured.
//!
//! Requests carry service names without their group, because this API would take a grouped name for a plain name.
//!
//! | | v1 | v3 |
//! |---|---|---|
//! | a POST has its parameters in | the query | a form body |
//! | `serviceName` | `GROUP@@service` | the service alone, beside `groupName` |
//! | a success is | a text or an object | a [`Frame`] with code 0 |
//! | a beat carries | the values, or nothing | nothing: an unknown instance must be registered |
//! | "unknown instance" is | code 20404 | code 21003, with HTTP 200 |
//! | a list has | a time, a cache time, a threshold | only instances; clusters have to be named |
//! | a change is | pushed, or polled | polled |
//! | get and overwrite are for | everybody | administrators |
//!
//! The codes that matter here:
//!
//! | code | meaning |
//! |---|---|
//! | 0 | success |
//! | 20004 | resource not found: no such instance (GET of the admin API, with HTTP 404) |
//! | 21003 | instance not found: the answer to a beat |
//! | any other | an error; `message` and `data` say what is wrong |

use crate::model::heartbeat::BEAT_UNKNOWN;
use awc::http::Method;
use serde::{de::DeserializeOwned, Deserialize, Serialize};
use serde_json::Value;

use super::{
    exchange::{excerpt, Answer, Rejection, Request},
    parameters::Parameters,
    v1::{self, Found, Host, Hosts, ListAnswer, LoginAnswer, ServiceListAnswer},
};
use crate::model::{
    heartbeat::HeartbeatReply,
    instance::{Instance, InstanceKey},
    service::ServiceName,
};

/// POST registers or beats, DELETE deregisters.
pub(crate) const INSTANCE: &str = "/v3/client/ns/instance";
pub(crate) const INSTANCE_LIST: &str = "/v3/client/ns/instance/list";
/// GET reads and PUT overwrites; both need an administrator's token.
pub(crate) const ADMIN_INSTANCE: &str = "/v3/admin/ns/instance";
pub(crate) const ADMIN_SERVICE_LIST: &str = "/v3/admin/ns/service/list";
pub(crate) const LOGIN: &str = "/v3/auth/user/login";

/// Codes of `ErrorCode`. They occur with different HTTP statuses.
pub(crate) const SUCCESS: i64 = 0;
pub(crate) const RESOURCE_NOT_FOUND: i64 = 20004;
/// The answer to a beat of an instance that is not registered, with HTTP 200.
pub(crate) const INSTANCE_NOT_FOUND: i64 = 21003;

/// The frame of every answer and error. The exception is a filter in front of the API, which rejects requests with
/// plain text or Spring's error page.
///
/// `data` of an error is a text, usually the more precise of the two.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Frame<T> {
    pub(crate) code: i64,
    #[serde(default)]
    pub(crate) message: Option<String>,
    pub(crate) data: T,
}

/// The parameters of v1 with the service's name alone.
fn key_parameters(namespace: &str, key: &InstanceKey) -> Parameters {
    v1::key_parameters(namespace, key, key.service.name.as_str())
}

/// Registers an instance, or replaces all its values.
pub(crate) fn register(namespace: &str, service: &ServiceName, instance: &Instance) -> Request {
    let metadata = instance.metadata_to_register();
    let parameters = v1::instance_parameters(namespace, &service.group, service.name.as_str(), instance, &metadata);
    Request::by_form(INSTANCE, parameters)
}

/// An unknown instance is no error.
pub(crate) fn deregister(namespace: &str, key: &InstanceKey, ephemeral: bool) -> Request {
    Request::by_query(Method::DELETE, INSTANCE, key_parameters(namespace, key).add("ephemeral", ephemeral))
}

/// A light beat: this API ignores the values of the instance. `heartBeat` makes a registration a beat.
pub(crate) fn beat(namespace: &str, key: &InstanceKey) -> Request {
    Request::by_form(INSTANCE, key_parameters(namespace, key).add("heartBeat", true))
}

/// Selects all clusters: Nacos 3.0 splits this text into an empty list of clusters. A request without clusters selects
/// only `DEFAULT`, until the release that contains alibaba/nacos#14778.
const ALL_CLUSTERS: &str = ",";

/// The answer may ignore `healthy_only` (3.0.3 does) and the clusters, so the caller has to filter the list again.
///
/// No push can be asked for: the client API has none.
pub(crate) fn list(namespace: &str, service: &ServiceName, clusters: &str, healthy_only: bool) -> Request {
    let parameters = Parameters::new()
        .add("namespaceId", namespace)
        .add("groupName", service.group.as_str())
        .add("serviceName", service.name.as_str())
        .add("clusterName", if clusters.is_empty() { ALL_CLUSTERS } else { clusters })
        .add("healthyOnly", healthy_only);
    Request::by_query(Method::GET, INSTANCE_LIST, parameters)
}

/// Reads one instance, by the admin API.
pub(crate) fn get(namespace: &str, key: &InstanceKey) -> Request {
    Request::by_query(Method::GET, ADMIN_INSTANCE, key_parameters(namespace, key))
}

/// Writes all values, by the admin API.
pub(crate) fn overwrite(namespace: &str, service: &ServiceName, instance: &Instance) -> Request {
    let (group, name) = (service.group.as_str(), service.name.as_str());
    let parameters = v1::instance_parameters(namespace, group, name, instance, &instance.metadata);
    Request::by_query(Method::PUT, ADMIN_INSTANCE, parameters)
}

/// Uses the admin API, which finds all groups whose name contains `group`. [`read_services`] removes the others (by
/// source).
pub(crate) fn list_services(namespace: &str, group: &str, page_no: u32, page_size: u32) -> Request {
    let page = Parameters::new()
        .add("namespaceId", namespace)
        .add("groupNameParam", group)
        .add("pageNo", page_no)
        .add("pageSize", page_size);
    Request::by_query(Method::GET, ADMIN_SERVICE_LIST, page)
}

/// The same form as v1's, at another path.
pub(crate) fn login(username: &str, password: &str) -> Request {
    v1::login(LOGIN, username, password)
}

/// # Errors
/// As the frame says; [`Rejection::Unreadable`] if a success has other data than `ok`.
pub(crate) fn read_ok(answer: &Answer) -> Result<(), Rejection> {
    match open::<String>(answer)?.as_str() {
        "ok" => Ok(()),
        other => Err(Rejection::Unreadable(format!("expected \"ok\", not {other:?}"))),
    }
}

/// Reads the answer to [`overwrite`].
pub(crate) fn read_overwritten(answer: &Answer) -> Result<(), Rejection> {
    read_ok(answer).map_err(with_admin_hint)
}

/// Translates the answer into v1's codes.
pub(crate) fn read_beat(answer: &Answer) -> Result<HeartbeatReply, Rejection> {
    if answer.status == 200 && code(answer) == Some(INSTANCE_NOT_FOUND) {
        return Ok(HeartbeatReply { code: BEAT_UNKNOWN, ..HeartbeatReply::taken() });
    }
    read_ok(answer).map(|()| HeartbeatReply::taken())
}

/// Reads a list of `service`, neither sorted nor filtered. The answer contains neither a cache time nor the time of the
/// list, so they are set to the usual 10 s and to 0 (unknown).
pub(crate) fn read_list(answer: &Answer, service: &ServiceName) -> Result<ListAnswer, Rejection> {
    let Hosts(hosts) = open(answer)?;
    Ok(ListAnswer {
        name: service.grouped(),
        group_name: service.group.clone(),
        clusters: String::new(),
        cache_millis: 10_000,
        hosts,
        last_ref_time: 0,
        checksum: String::new(),
        all_ips: false,
        reach_protection_threshold: false,
    })
}

/// The instance of `key`.
///
/// # Errors
/// [`Rejection::NotFound`] if there is none. [`Rejection::Forbidden`] unless the token is an administrator's.
pub(crate) fn read_instance(answer: &Answer, key: &InstanceKey) -> Result<Found, Rejection> {
    if answer.status == 404 && code(answer) == Some(RESOURCE_NOT_FOUND) {
        return Err(Rejection::NotFound);
    }
    let data: Value = open(answer).map_err(with_admin_hint)?;
    let has = |name: &str| data.get(name).is_some_and(Value::is_boolean);
    let (has_enabled, has_ephemeral) = (has("enabled"), has("ephemeral"));
    let host: Host = serde_json::from_value(data)
        .map_err(|error| Rejection::Unreadable(format!("{error}: {}", answer.excerpt())))?;
    host.check_address(answer)?;
    let instance = host.into_instance(key.service.grouped()).filter(|instance| key.identifies(instance));
    Ok(Found { instance: instance.ok_or(Rejection::NotFound)?, has_enabled, has_ephemeral })
}

/// The services of `group`. The server's count includes groups with a longer name (by source).
pub(crate) fn read_services(answer: &Answer, group: &str) -> Result<ServiceListAnswer, Rejection> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Page {
        total_count: u64,
        page_items: Vec<Service>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Service {
        name: String,
        group_name: String,
    }
    let page: Page = open(answer).map_err(with_admin_hint)?;
    let of_group = page.page_items.into_iter().filter(|service| service.group_name == group);
    Ok(ServiceListAnswer { count: page.total_count, doms: of_group.map(|service| service.name).collect() })
}

/// A success has no frame and equals v1's. A server that keeps its users elsewhere says so in a frame (by source).
pub(crate) fn read_login(answer: &Answer) -> Result<LoginAnswer, Rejection> {
    match framed_rejection(answer) {
        Some(Rejection::Refused { body, .. }) if answer.status == 200 => Err(Rejection::LoginRejected(body)),
        // The answer of 3.0.3 to a wrong password.
        _ if answer.status == 500 && answer.excerpt().contains("No message available") => {
            Err(Rejection::LoginRejected("login failed; check username and password".into()))
        }
        _ => v1::read_login(answer),
    }
}

/// The data of a successful answer.
///
/// # Errors
/// The HTTP status is checked first, then the code of the frame, since an error may come with HTTP 200.
fn open<T: DeserializeOwned>(answer: &Answer) -> Result<T, Rejection> {
    match answer.status {
        200 => {}
        // The answer comes from the filter in front of the API, and is like v1's.
        401 | 403 => return Err(v1::check_status(answer).err().unwrap_or(Rejection::Unsupported)),
        _ => return Err(framed_rejection(answer).or(v1::check_status(answer).err()).unwrap_or(Rejection::Unsupported)),
    }
    match answer.json::<Frame<T>>() {
        Ok(frame) if frame.code == SUCCESS => Ok(frame.data),
        // The data of an error usually has another type, so reading the frame fails.
        Ok(_) | Err(_) if code(answer).is_some_and(|code| code != SUCCESS) => {
            Err(framed_rejection(answer).unwrap_or(Rejection::Unsupported))
        }
        Ok(_) => Err(Rejection::Unreadable(format!("no code in {:?}", answer.excerpt()))),
        Err(unreadable) => Err(unreadable),
    }
}

/// The frame of an answer with any data. `None` if it is no frame.
fn frame(answer: &Answer) -> Option<Frame<Value>> {
    answer.json().ok()
}

fn code(answer: &Answer) -> Option<i64> {
    frame(answer).map(|frame| frame.code)
}

/// The error in the frame of an answer. If the HTTP status is 200, the code takes the place of the status.
///
/// A code such as 30000 then decides whether another attempt may help.
fn framed_rejection(answer: &Answer) -> Option<Rejection> {
    let frame = frame(answer).filter(|frame| frame.code != SUCCESS)?;
    let status = if answer.status == 200 { u16::try_from(frame.code).unwrap_or(u16::MAX) } else { answer.status };
    let message = frame.message.unwrap_or_default();
    let body = match frame.data {
        Value::Null => message,
        Value::String(detail) => format!("{message}: {detail}"),
        detail => format!("{message}: {detail}"),
    };
    Some(Rejection::Refused { status, body: excerpt(&body) })
}

/// Says what may help when the admin API denies access.
///
/// The server's own text does not mention that an ordinary user will never be allowed.
fn with_admin_hint(rejection: Rejection) -> Rejection {
    match rejection {
        Rejection::Forbidden(said) => {
            Rejection::Forbidden(format!("{said}; the admin API needs a user with the right to use it"))
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::recordings::{
            assert_same_instance, assert_same_parameters, of, sent, Recorded, RecordedRequest, RecordedResponse,
            GUARDED, SERVERS,
        },
        *,
    };

    /// The recorded exchanges of the v3 API.
    fn recorded(server: &str) -> Vec<(Recorded, String)> {
        let exchanges = of(server).into_iter().filter_map(|exchange| {
            let operation = exchange.request.as_ref()?.operation();
            operation.contains(" /v3/").then_some((exchange, operation))
        });
        exchanges.collect()
    }

    /// The meaning of the recorded errors of the client API.
    fn rejection(name: &str) -> Rejection {
        let refused = |body: &str| Rejection::Refused { status: 400, body: body.into() };
        match name {
            "v3 register without ip" => {
                refused("parameter missing: Required parameter 'ip' type String is not present")
            }
            "v3 register bad port" => refused("Param 'port' is illegal, the value should be between 0 and 65535."),
            "v3 register persistent" => refused(
                "server error: errCode: 400, errMsg: Current service DEFAULT_GROUP@@modern is ephemeral service, can't \
                 register persistent instance.",
            ),
            other => panic!("unknown exchange {other}"),
        }
    }

    /// Asserts that the operation reads a recorded 403 as `Forbidden`.
    fn assert_forbidden(name: &str, operation: &str, request: &RecordedRequest, response: &RecordedResponse) {
        let (answer, key) = (response.answer(), request.key());
        let said = response.json()["message"].as_str().unwrap().to_owned();
        let of_admin = format!("{said}; the admin API needs a user with the right to use it");
        let (read, said) = match operation {
            "GET /v3/client/ns/instance/list" => (read_list(&answer, &request.service().unwrap()).map(drop), said),
            "GET /v3/admin/ns/instance" => (read_instance(&answer, &key.unwrap()).map(drop), of_admin),
            "GET /v3/admin/ns/service/list" => (read_services(&answer, "DEFAULT_GROUP").map(drop), of_admin),
            _ if request.parameter("heartBeat").is_some() => (read_beat(&answer).map(drop), said),
            _ => (read_ok(&answer), said),
        };
        assert_eq!(read, Err(Rejection::Forbidden(said)), "{name}");
    }

    fn assert_read(name: &str, operation: &str, request: &RecordedRequest, response: &RecordedResponse) -> bool {
        let answer = response.answer();
        match operation {
            // This crate has no such operation.
            "GET /v3/admin/ns/instance/list" => return false,
            _ if answer.status == 403 => assert_forbidden(name, operation, request, response),
            "GET /v3/admin/ns/instance" => {
                let read = read_instance(&answer, &request.key().unwrap());
                match answer.status {
                    404 => assert_eq!(read.map(drop), Err(Rejection::NotFound), "{name}"),
                    _ => {
                        let found = read.unwrap();
                        assert!(found.has_enabled && found.has_ephemeral, "{name}");
                        let service = request.service().unwrap();
                        assert_same_instance(name, &found.instance, &response.json()["data"], &service);
                    }
                }
            }
            "PUT /v3/admin/ns/instance" => assert_eq!(read_overwritten(&answer), Ok(()), "{name}"),
            "GET /v3/admin/ns/service/list" => {
                let services = read_services(&answer, "DEFAULT_GROUP").unwrap();
                assert!(services.doms.contains(&"guarded".to_owned()), "{name}: {services:?}");
            }
            "POST /v3/auth/user/login" if answer.status == 200 => {
                assert_eq!(read_login(&answer).unwrap().token_ttl, 18_000, "{name}");
            }
            "POST /v3/auth/user/login" if answer.status == 500 => {
                assert!(matches!(read_login(&answer), Err(Rejection::LoginRejected(_))), "{name}");
            }
            "POST /v3/client/ns/instance" if request.parameter("heartBeat").is_some() => {
                let unknown = response.json()["code"] == INSTANCE_NOT_FOUND;
                assert_eq!(name.contains("unknown"), unknown, "{name}");
                let code = if unknown { BEAT_UNKNOWN } else { crate::model::heartbeat::BEAT_TAKEN };
                assert_eq!(read_beat(&answer).map(|reply| reply.code), Ok(code), "{name}");
            }
            _ if answer.status == 404 => {
                assert_eq!(read_ok(&answer), Err(Rejection::Unsupported), "{name}");
                assert_eq!(read_login(&answer).map(drop), Err(Rejection::Unsupported), "{name}");
            }
            "POST /v3/client/ns/instance" | "DELETE /v3/client/ns/instance" => match answer.status {
                200 => assert_eq!(read_ok(&answer), Ok(()), "{name}"),
                _ => assert_eq!(read_ok(&answer), Err(rejection(name)), "{name}"),
            },
            "GET /v3/client/ns/instance/list" => assert_list(name, request, response),
            _ => return false,
        }
        true
    }

    fn assert_list(name: &str, request: &RecordedRequest, response: &RecordedResponse) {
        let service = request.service().unwrap();
        let info = read_list(&response.answer(), &service).unwrap().into_info(&service);
        let json = response.json();
        let hosts = json["data"].as_array().unwrap();
        assert_eq!((hosts.len(), info.service()), (info.hosts.len(), service.clone()), "{name}");
        for (host, ours) in hosts.iter().zip(&info.hosts) {
            assert_same_instance(name, ours, host, &service);
        }
    }

    #[test]
    fn every_recorded_answer_is_read() {
        let mut read = Vec::new();
        for server in SERVERS.into_iter().chain(GUARDED) {
            let exchanges = recorded(server);
            let read_here = exchanges.iter().filter(|(exchange, operation)| {
                let (request, response) = (exchange.request.as_ref().unwrap(), exchange.response.as_ref().unwrap());
                assert_read(&exchange.name, operation, request, response)
            });
            read.push((server, read_here.count()));
        }
        let expected = [0, 0, 2, 13, 0, 0, 0, 28, 0];
        assert_eq!(read, SERVERS.into_iter().chain(GUARDED).zip(expected).collect::<Vec<_>>());
    }

    fn ours(operation: &str, request: &RecordedRequest) -> Option<Request> {
        let (namespace, service) = (request.namespace(), request.service()?);
        Some(match operation {
            "POST /v3/client/ns/instance" if request.parameter("heartBeat").is_some() => {
                beat(&namespace, &request.key()?)
            }
            "POST /v3/client/ns/instance" => register(&namespace, &service, &request.instance()?),
            "DELETE /v3/client/ns/instance" => deregister(&namespace, &request.key()?, true),
            "GET /v3/client/ns/instance/list" => {
                let clusters = request.parameter("clusterName").unwrap_or_default();
                list(&namespace, &service, &clusters, request.parameter("healthyOnly").is_some())
            }
            "GET /v3/admin/ns/instance" => get(&namespace, &request.key()?),
            _ => return None,
        })
    }

    #[test]
    fn our_requests_equal_the_recorded_requests() {
        let mut asked = 0;
        for (exchange, operation) in recorded("nacos-3.0.3") {
            let request = exchange.request.as_ref().unwrap();
            let Some(ours) = ours(&operation, request) else { continue };
            asked += 1;
            assert_eq!(format!("{} {}", ours.method, ours.path), operation, "{}", exchange.name);
            assert_eq!(ours.form.is_some(), request.form.is_some(), "{}", exchange.name);
            let sent = sent(ours.form.as_deref().unwrap_or(&ours.query));
            assert_eq!(request.parameter("serviceName").as_ref(), sent.get("serviceName"), "{}", exchange.name);
            let cluster = if operation.ends_with("/list") { ALL_CLUSTERS } else { "DEFAULT" };
            let more = [
                ("namespaceId", "public"),
                ("groupName", "DEFAULT_GROUP"),
                ("clusterName", cluster),
                ("healthyOnly", "false"),
                ("weight", "1"),
                ("enabled", "true"),
                ("healthy", "true"),
                ("ephemeral", "true"),
                ("metadata", "{}"),
            ];
            assert_same_parameters(&exchange.name, request, &sent, &more);
        }
        assert_eq!(asked, 11);
    }

    fn answer(status: u16, body: &str) -> Answer {
        Answer { status, body: body.into() }
    }

    fn key() -> InstanceKey {
        InstanceKey::of(&ServiceName::parse("PAY@@ledger").unwrap(), &Instance::new("127.0.0.7", 80))
    }

    #[test]
    fn the_admin_api_lists_services_of_one_group() {
        let page = r#"{"code":0,"message":"success","data":{"totalCount":2,"pageNumber":1,"pagesAvailable":1,
            "pageItems":[{"name":"a","groupName":"PAY","ipCount":1},{"name":"b","groupName":"PAYROLL","ipCount":1}]}}"#;
        let services = read_services(&answer(200, page), "PAY").unwrap();
        assert_eq!((services.count, services.doms), (2, vec!["a".to_owned()]));
        let query = sent(&list_services("public", "PAY", 2, 20).query);
        assert_eq!(query["groupNameParam"], "PAY");
        assert_eq!((query["pageNo"].as_str(), query["pageSize"].as_str()), ("2", "20"));
    }

    #[test]
    fn the_admin_api_returns_one_instance_or_not_found() {
        let body = r#"{"code":0,"message":"success","data":{"ip":"127.0.0.7","port":80,"weight":2.0,"healthy":true,
            "enabled":false,"ephemeral":true,"clusterName":"DEFAULT","serviceName":"PAY@@ledger","metadata":{}}}"#;
        let found = read_instance(&answer(200, body), &key()).unwrap();
        assert!(found.has_enabled && found.has_ephemeral && !found.instance.enabled);
        assert_eq!((found.instance.weight, found.instance.service_name.as_str()), (2.0, "PAY@@ledger"));
        let missing = r#"{"code":20004,"message":"resource not found","data":"no matched ip found!"}"#;
        assert_eq!(read_instance(&answer(404, missing), &key()).map(drop), Err(Rejection::NotFound));
        let no_right = r#"{"code":10001,"message":"access denied","data":"authorization failed!"}"#;
        let denied = read_services(&answer(403, no_right), "PAY").map(drop);
        assert!(matches!(denied, Err(Rejection::Forbidden(said)) if said.contains("needs a user with the right")));
    }

    #[test]
    fn a_login_equals_v1s_except_for_its_path() {
        let token = r#"{"accessToken":"t","tokenTtl":18000,"globalAdmin":true,"username":"nacos"}"#;
        assert_eq!(read_login(&answer(200, token)).unwrap().token_ttl, 18_000);
        let elsewhere = r#"{"code":23000,"message":"not by this plugin","data":null}"#;
        let denied = Rejection::LoginRejected("not by this plugin".into());
        assert_eq!(read_login(&answer(200, elsewhere)).map(drop), Err(denied));
        assert_eq!(login("a", "b").path, LOGIN);
        assert_eq!(login("a", "b&c").form.as_deref(), Some("username=a&password=b%26c"));
    }

    #[test]
    fn unusual_hosts_do_not_invalidate_the_list() {
        let odd =
            r#"{"code":0,"message":null,"data":[{"ip":"127.0.0.7","port":"80","healthy":null},{"ip":null},null]}"#;
        let service = &key().service;
        let info = read_list(&answer(200, odd), service).unwrap().into_info(service);
        assert_eq!(info.hosts.len(), 1);
        assert!(info.hosts[0].healthy && info.hosts[0].port == 80);
    }

    #[test]
    fn an_answer_from_something_else_is_never_read_as_a_list() {
        let service = &key().service;
        for body in ["", "ok", "<html>", "{}", "[]", r#"{"code":0}"#, r#"{"code":0,"data":null}"#, r#"{"data":[]}"#] {
            let read = read_list(&answer(200, body), service);
            assert!(matches!(read, Err(Rejection::Unreadable(_))), "{body}: {read:?}");
        }
        let whole = r#"{"code":0,"message":"success","data":[{"ip":"127.0.0.7","port":80,"healthy":true}]}"#;
        assert_eq!(read_list(&answer(200, whole), service).unwrap().hosts.len(), 1);
        for cut in 0..whole.len() {
            assert!(read_list(&answer(200, &whole[..cut]), service).is_err(), "cut at {cut}");
        }
        let failed = read_list(&answer(200, r#"{"code":30000,"message":"server error","data":null}"#), service);
        assert_eq!(failed.map(drop), Err(Rejection::Refused { status: 30_000, body: "server error".into() }));
        for status in [404, 405, 410, 501] {
            let read = read_list(&answer(status, "<html>nothing here"), service).map(drop);
            assert_eq!(read, Err(Rejection::Unsupported));
        }
        assert!(matches!(read_list(&answer(502, "<html>"), service), Err(Rejection::Refused { status: 502, .. })));
    }
}
