//! The check of all parameters in front of the controllers of 2.x and 3.x (`ParamCheckerFilter`, `ParamCheckRule`).
//!
//! Nacos 2.x and 3.x check names before any controller sees the request; 1.4 has no such filter. The limits since
//! 2.3:
//!
//! | parameter | limit | characters |
//! |---|---|---|
//! | `namespaceId` | 64 | letters, digits, `-`, `_` |
//! | `serviceName` | 512 | no blank, no Chinese character, no leading `@`, no second `@@` |
//! | `groupName` | 128 | letters, digits, `-`, `_`, `.`, `:` |
//! | cluster | 64 | letters, digits, `-`, `_` |
//! | `ip` | 128 | no blank, no Chinese character |
//! | `metadata` | 1,024 | any; keys and values together |
//!
//! Lengths are Java characters: UTF-16 units. A rejection is a 400 with plain text, in v3 as well; unreadable
//! metadata is a 500.

use crate::model::{instance::Metadata, service::DEFAULT_GROUP};

use super::{
    java,
    parameters::{bad_metadata, check_format, Parameters},
    reply::Reply,
    v1_instance::BeatBody,
};

/// In characters.
const METADATA_LIMIT: usize = 1024;

/// Rejects what the filter of Nacos rejects. `path` and time appear on the error page.
///
/// # Errors
/// The answer of the filter. The checks come in Nacos' order, since the first one that fails is answered.
pub(crate) fn check(parameters: &Parameters, path: &str, unix_millis: i64) -> Result<(), Reply> {
    if parameters.dialect.is_v1_4() {
        return Ok(());
    }
    if path.contains("/v1/ns/") {
        name_format(parameters, path, unix_millis)?;
    }
    // Only these parameters of a list are checked, so v3 accepts several clusters in `clusterName`.
    if path.ends_with("/list") {
        namespace(parameters)?;
        service_and_group(parameters)?;
        return clusters(parameters);
    }
    if path.ends_with("/beat") {
        namespace(parameters)?;
        service_and_group(parameters)?;
        address(parameters)?;
        return beat(parameters);
    }
    let metadata = metadata(parameters, path, unix_millis)?;
    namespace(parameters)?;
    service_and_group(parameters)?;
    cluster(parameters)?;
    address(parameters)?;
    if length(&metadata) > METADATA_LIMIT {
        return Err(too_long("Metadata", METADATA_LIMIT));
    }
    Ok(())
}

/// The check of another filter in front of this one (`ServiceNameFilter`).
fn name_format(parameters: &Parameters, path: &str, unix_millis: i64) -> Result<(), Reply> {
    check_format(parameters.or("serviceName", "")).map_err(|rule| {
        let message = format!("Service name filter error,caused: {rule};");
        Reply::spring(400, &message, path, unix_millis)
    })
}

/// Leaves an unreadable body to the controller.
fn beat(parameters: &Parameters) -> Result<(), Reply> {
    let Some(Ok(body)) = parameters.get("beat").map(BeatBody::read) else { return Ok(()) };
    body.cluster.as_deref().map_or(Ok(()), check_cluster)?;
    check_address(&body.ip, Some(&body.port.to_string()))
}

/// The filter reads the metadata first, and fails with a 500 if it is invalid.
fn metadata(parameters: &Parameters, path: &str, unix_millis: i64) -> Result<Metadata, Reply> {
    let Some(text) = parameters.get("metadata") else { return Ok(Metadata::new()) };
    java::metadata(text).ok_or_else(|| {
        let bad = bad_metadata(text);
        let message = format!("Server failed, caused: ErrCode:400, ErrMsg:{bad};caused: {bad};");
        Reply::spring(500, &message, path, unix_millis)
    })
}

fn namespace(parameters: &Parameters) -> Result<(), Reply> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    check_name("namespaceId/tenant", parameters.namespace(), 64, |name| name.chars().all(word))
}

fn service_and_group(parameters: &Parameters) -> Result<(), Reply> {
    let Some(service) = parameters.get("serviceName") else { return Ok(()) };
    let (group, name) = service.split_once("@@").unwrap_or((parameters.or("groupName", DEFAULT_GROUP), service));
    check_name("serviceName", name, 512, |name| !name.starts_with('@') && !name.contains("@@") && is_plain(name))?;
    let word = |c: char| c.is_ascii_alphanumeric() || "-_:.".contains(c);
    check_name("group", group, 128, |group| group.chars().all(word))
}

fn clusters(parameters: &Parameters) -> Result<(), Reply> {
    parameters.or("clusters", "").split(',').filter(|cluster| !cluster.is_empty()).try_for_each(check_cluster)
}

fn cluster(parameters: &Parameters) -> Result<(), Reply> {
    parameters.get("clusterName").or_else(|| parameters.get("cluster")).map_or(Ok(()), check_cluster)
}

fn check_cluster(cluster: &str) -> Result<(), Reply> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    check_name("cluster", cluster, 64, |cluster| cluster.chars().all(word))
}

fn address(parameters: &Parameters) -> Result<(), Reply> {
    check_address(parameters.or("ip", ""), parameters.get("port"))
}

fn check_address(ip: &str, port: Option<&str>) -> Result<(), Reply> {
    check_name("ip", ip, 128, is_plain)?;
    match port.map(str::parse::<u16>) {
        Some(Err(_)) => Err(Reply::filtered("Param 'port' is illegal, the value should be between 0 and 65535.")),
        _ => Ok(()),
    }
}

fn check_name(field: &str, name: &str, limit: usize, is_legal: impl FnOnce(&str) -> bool) -> Result<(), Reply> {
    if units(name) > limit {
        return Err(too_long(field, limit));
    }
    if is_legal(name) {
        return Ok(());
    }
    Err(Reply::filtered(&format!("Param '{field}' is illegal, illegal characters should not appear in the param.")))
}

/// The text for a value above its limit.
fn too_long(field: &str, limit: usize) -> Reply {
    Reply::filtered(&format!("Param '{field}' is illegal, the param length should not exceed {limit}."))
}

/// Whether the text has neither blanks nor Chinese characters.
fn is_plain(text: &str) -> bool {
    !text.chars().any(|c| c.is_whitespace() || ('\u{4E00}'..='\u{9FA5}').contains(&c))
}

/// The length of all keys and values. Blank ones are not counted.
fn length(metadata: &Metadata) -> usize {
    let count = |text: &str| if text.trim().is_empty() { 0 } else { units(text) };
    metadata.iter().map(|(key, value)| count(key) + count(value)).sum()
}

/// The number of Java characters (UTF-16 units).
fn units(text: &str) -> usize {
    text.encode_utf16().count()
}
