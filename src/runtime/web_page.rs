//! Answers with self-contained web pages, and with the event streams that these pages show.
//!
//! A page shows what others have written: names, metadata, error texts of servers. So it must be impossible for
//! them to be run. The policy names the page's own script by its hash, loads nothing from elsewhere, and forbids
//! frames.
//!
//! It also finds the requests that pages of other sites make: by `Host`, and by `Origin`.

use std::{convert::Infallible, net::IpAddr};

use actix_web::{
    http::{
        header::{
            HeaderMap, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, ORIGIN,
            REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
        },
        uri::Authority,
    },
    web::Bytes,
    HttpResponse,
};
use base64::{engine::general_purpose::STANDARD as BASE64, Engine as _};
use futures_util::Stream;
use sha2::{Digest as _, Sha256};

/// The Content-Security-Policy that allows only the page's own script and style, by their hashes.
pub(crate) fn policy(page: &str) -> String {
    format!(
        "default-src 'none'; script-src '{}'; style-src '{}'; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        hash_of(page, "script"),
        hash_of(page, "style")
    )
}

/// The hash of the page's only element of this kind.
fn hash_of(page: &str, element: &str) -> String {
    let (open, close) = (format!("<{element}>"), format!("</{element}>"));
    let content =
        page.split_once(&open).and_then(|(_, rest)| rest.split_once(&close)).map_or("", |(content, _)| content);
    format!("sha256-{}", BASE64.encode(Sha256::digest(content)))
}

pub(crate) fn document(page: &'static str, policy: &str) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, "text/html; charset=utf-8"))
        .insert_header((CONTENT_SECURITY_POLICY, policy))
        .insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((X_FRAME_OPTIONS, "DENY"))
        .insert_header((REFERRER_POLICY, "no-referrer"))
        .insert_header((CACHE_CONTROL, "no-store"))
        .body(page)
}

pub(crate) fn event_stream(events: impl Stream<Item = Result<Bytes, Infallible>> + 'static) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, "text/event-stream"))
        .insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((CACHE_CONTROL, "no-store, no-transform"))
        // Compression by the application, or buffering by a proxy, would delay events.
        .insert_header((CONTENT_ENCODING, "identity"))
        .insert_header(("X-Accel-Buffering", "no"))
        .streaming(events)
}

/// Whether `Host` names this machine. Rejects DNS rebinding: another site may make its name resolve to 127.0.0.1, but
/// that name is in `Host`.
pub(crate) fn names_this_machine(headers: &HeaderMap) -> bool {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).and_then(|host| host.parse::<Authority>().ok());
    host.is_some_and(|host| {
        let name = host.host().trim_start_matches('[').trim_end_matches(']');
        name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
    })
}

/// Whether `Origin` names another site than `Host`. Browsers send it with requests that may change something.
pub(crate) fn has_foreign_origin(headers: &HeaderMap) -> bool {
    let host = headers.get(HOST).map(|host| host.as_bytes()).filter(|host| !host.is_empty());
    let is_own = |origin: &[u8]| {
        let named = origin.strip_prefix(b"http://").or_else(|| origin.strip_prefix(b"https://"));
        host.is_some() && named == host
    };
    headers.get(ORIGIN).is_some_and(|origin| !is_own(origin.as_bytes()))
}

/// Asserts that a page works within its policy. For the tests of each page.
#[cfg(test)]
pub(crate) fn assert_within_policy(page: &str) {
    assert_eq!((page.matches("<script").count(), page.matches("<style").count()), (1, 1));
    for forbidden in [" src=", "@import", "url(", " style=", " onclick", "innerHTML", "insertAdjacent", "eval("] {
        assert!(!page.contains(forbidden), "{forbidden}");
    }
    assert!(!page.contains("href=\"/") && !page.contains("fetch(\"/"), "a proxy may put the page under another path");
    assert_ne!(hash_of(page, "script"), hash_of(page, "missing"));
}
