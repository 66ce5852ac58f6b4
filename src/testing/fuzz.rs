//! The functions that the fuzz targets in `fuzz/` run, and `tests/corpus.rs` with the stored inputs. Each gives a
//! parser untrusted input, and panics if the parser breaks a promise.
#![allow(clippy::panic, clippy::expect_used, clippy::unwrap_used)]

use std::str::from_utf8;

use crate::{
    balance::hosts::service_under_suffix,
    client::server_list::read_list as read_server_list,
    discovery::disk_cache,
    embedded::{
        java::{self, Fields},
        parameters::Parameters,
        Dialect,
    },
    model::{
        instance::{Instance, InstanceKey},
        service::{ServiceInfo, ServiceName},
    },
    wire::{
        datagram::{NotDecoded, PushContent, PushMessage},
        exchange::Answer,
        v1, v3,
    },
};

/// A fuzz target, and the folder of its inputs below `tests/corpus/`.
pub type Target = (&'static str, fn(&[u8]));

/// All fuzz targets.
pub const TARGETS: [Target; 9] = [
    ("datagram", datagram),
    ("v1_answer", v1_answer),
    ("v3_answer", v3_answer),
    ("login_answer", login_answer),
    ("cache_file", cache_file),
    ("server_list", server_list),
    ("names", names),
    ("embedded_request", embedded_request),
    ("service_uri", service_uri),
];

/// The budget that the datagram target decodes within, in bytes.
const DATAGRAM_LIMIT: usize = 64 * 1024;

/// A pushed list is a whole list of a named service, and decoding stays within its limit.
pub fn datagram(input: &[u8]) {
    let (decoded, message) = PushMessage::decode(input, DATAGRAM_LIMIT);
    assert!(decoded <= DATAGRAM_LIMIT, "decoded {decoded} bytes");
    match message {
        Ok(message) => {
            let acknowledgement = message.acknowledgement().encode();
            assert!(acknowledgement.len() < 256, "an acknowledgement amplifies nothing");
            if let PushContent::List(list) = message.content {
                assert!(!list.name.is_empty());
                check_list(&list.into_info(&orders()));
            }
        }
        Err(NotDecoded::Malformed(reason)) => assert!(!reason.is_empty()),
        Err(NotDecoded::OverLimit) => {}
    }
}

/// Any answer of a v1 server is read or rejected.
pub fn v1_answer(input: &[u8]) {
    let answer = answer(input);
    if let Ok(list) = v1::read_list(&answer) {
        check_list(&list.into_info(&orders()));
    }
    let _ = v1::read_instance(&answer, &key());
    let _ = v1::read_beat(&answer);
    let _ = v1::read_services(&answer);
    let _ = v1::read_ok(&answer);
}

/// Any answer of a v3 server is read or rejected.
pub fn v3_answer(input: &[u8]) {
    let answer = answer(input);
    if let Ok(list) = v3::read_list(&answer, &orders()) {
        check_list(&list.into_info(&orders()));
    }
    let _ = v3::read_instance(&answer, &key());
    let _ = v3::read_beat(&answer);
    let _ = v3::read_services(&answer, "DEFAULT_GROUP");
    let _ = v3::read_ok(&answer);
    let _ = v3::read_overwritten(&answer);
}

/// A token is taken from a login's answer only if it can be sent in a header.
pub fn login_answer(input: &[u8]) {
    let answer = answer(input);
    for login in [v1::read_login(&answer), v3::read_login(&answer)].into_iter().flatten() {
        assert!(!login.access_token.is_empty() && login.access_token.bytes().all(|byte| byte.is_ascii_graphic()));
    }
}

/// A cache file holds a list in order, or none.
pub fn cache_file(input: &[u8]) {
    if let Ok(info) = disk_cache::read(input, "key") {
        check_list(&info);
    }
}

/// A page is a list of servers, or is described in one short line.
pub fn server_list(input: &[u8]) {
    let Ok(page) = from_utf8(input) else { return };
    match read_server_list(page, "/nacos") {
        Ok(servers) => assert!(!servers.is_empty()),
        Err(reason) => assert!(reason.len() < 4096 && !reason.contains('\n'), "{reason:?}"),
    }
}

/// A name that is accepted reads the same after it was written.
pub fn names(input: &[u8]) {
    let Ok(text) = from_utf8(input) else { return };
    if let Ok(name) = ServiceName::parse(text) {
        assert_eq!(ServiceName::parse(&name.to_string()).as_ref(), Ok(&name), "{text:?}");
    }
}

/// The embedded server reads or rejects the parameters of any request: the first line is the query, the rest the form.
pub fn embedded_request(input: &[u8]) {
    let mut parts = input.splitn(2, |byte| *byte == b'\n');
    let query = parts.next().and_then(|query| from_utf8(query).ok()).unwrap_or_default();
    let form = parts.next();
    for dialect in [Dialect::V1_4, Dialect::V2_5, Dialect::V3_0, Dialect::V3_2] {
        let parameters = Parameters::read(dialect, query, form);
        let _ = (parameters.service(), parameters.cluster(), parameters.metadata(), parameters.flag("ephemeral"));
        if let Ok(Some(weight)) = parameters.weight() {
            assert!(weight.is_nan() || (0.0..=10_000.0).contains(&weight), "{weight}");
        }
        if let Some(beat) = parameters.get("beat") {
            let _ = Fields::read(beat);
            let _ = java::metadata(beat);
        }
    }
}

/// A host under a suffix names a service that can be asked for.
pub fn service_uri(input: &[u8]) {
    let Ok(host) = from_utf8(input) else { return };
    if let Some(service) = service_under_suffix(host, ".nacos") {
        assert_eq!(ServiceName::parse(&service.to_string()).as_ref(), Ok(&service), "{host:?}");
    }
}

/// The first byte stands for the status, the rest is the body.
fn answer(input: &[u8]) -> Answer {
    let statuses = [200, 400, 403, 404, 410, 500, 501];
    let (status, body) = input
        .split_first()
        .map_or((200, input), |(first, body)| (statuses[usize::from(*first) % statuses.len()], body));
    Answer { status, body: body.to_vec() }
}

/// Lists are in order, name every instance once, and have nothing that cannot be called by an address.
fn check_list(info: &ServiceInfo) {
    let mut tidy = info.clone();
    tidy.tidy("", false);
    let addresses = tidy.hosts.iter().map(|host| host.key_in_service());
    assert!(addresses.is_sorted_by(|one, other| one < other), "each instance once, in order");
    assert!(info.hosts.iter().all(|host| !host.ip.is_empty() && !host.weight.is_nan()));
}

fn orders() -> ServiceName {
    ServiceName::parse("orders").expect("a name")
}

fn key() -> InstanceKey {
    InstanceKey::of(&orders(), &Instance::new("127.0.0.7", 8080))
}
