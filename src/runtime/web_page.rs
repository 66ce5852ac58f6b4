//! Answers with self-contained web pages, and with the event streams that these pages show.
//!
//! A page's file contains only its own text. The text that all pages share is inserted at `<!--head-->`,
//! `/*shared style*/` and `/*shared script*/`.
//!
//! A page shows texts from untrusted sources, such as names, metadata and error texts of servers. They must never run
//! as scripts. So the policy allows only the page's own script, by its hash, loads nothing from elsewhere, and forbids
//! frames.
//!
//! This module also detects requests from pages of other sites, by `Host` and by `Origin`.

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

const HEAD: &str = include_str!("web_page_head.html");
const STYLE: &str = include_str!("web_page.css");
const SCRIPT: &str = include_str!("web_page.js");

/// A page with what all pages share, and its policy.
pub(crate) struct WebPage {
    html: Bytes,
    policy: String,
}

impl WebPage {
    pub(crate) fn new(own: &str) -> Self {
        let html = own.replacen("<!--head-->", HEAD.trim_end(), 1);
        let html = html.replacen("/*shared style*/", STYLE.trim_end(), 1);
        let html = html.replacen("/*shared script*/", SCRIPT.trim_end(), 1);
        WebPage { policy: policy(&html), html: html.into() }
    }

    pub(crate) fn answer(&self) -> HttpResponse {
        HttpResponse::Ok()
            .insert_header((CONTENT_TYPE, "text/html; charset=utf-8"))
            .insert_header((CONTENT_SECURITY_POLICY, self.policy.as_str()))
            .insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"))
            .insert_header((X_FRAME_OPTIONS, "DENY"))
            .insert_header((REFERRER_POLICY, "no-referrer"))
            .insert_header((CACHE_CONTROL, "no-store"))
            .body(self.html.clone())
    }

    /// Asserts that the page works within its policy, and that all shared text is in it. For the tests of each page.
    #[cfg(test)]
    pub(crate) fn assert_within_policy(&self) {
        let page = std::str::from_utf8(&self.html).unwrap();
        for shared in [HEAD, STYLE, SCRIPT] {
            assert_eq!(page.matches(shared.trim_end()).count(), 1);
        }
        assert_eq!((page.matches("<script").count(), page.matches("<style").count()), (1, 1));
        for forbidden in [" src=", "@import", "url(", " style=", " onclick", "innerHTML", "insertAdjacent", "eval("] {
            assert!(!page.contains(forbidden), "{forbidden}");
        }
        let is_absolute = page.contains("href=\"/") || page.contains("fetch(\"/");
        assert!(!is_absolute, "a proxy may put the page under another path");
        assert_ne!(hash_of(page, "script"), hash_of(page, "missing"));
    }
}

/// The Content-Security-Policy that allows only the page's own script and style, by their hashes.
fn policy(page: &str) -> String {
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
    let host = host(headers);
    host.is_some_and(|name| {
        is_localhost(&name) || name.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
    })
}

/// Whether `Host` is a name that may belong to another site, which then uses DNS rebinding: see [`names_this_machine`].
/// Programs reach a server as `localhost`, by an address, by a name without a dot, such as an entry in `/etc/hosts`, or
/// by a name below `internal`, as containers do. None of these can be the name of a site.
#[cfg(feature = "embedded")]
pub(crate) fn may_be_rebound(headers: &HeaderMap) -> bool {
    if !headers.contains_key(HOST) {
        // Every browser sends `Host`.
        return false;
    }
    host(headers).is_none_or(|name| {
        let is_address = name.parse::<IpAddr>().is_ok();
        !is_address && !is_localhost(&name) && name.contains('.') && !name.ends_with(".internal")
    })
}

/// The name in `Host`, without port and brackets. `None` if there is none that can be read.
fn host(headers: &HeaderMap) -> Option<String> {
    let host: Authority = headers.get(HOST)?.to_str().ok()?.parse().ok()?;
    Some(host.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase())
}

fn is_localhost(name: &str) -> bool {
    name == "localhost" || name.ends_with(".localhost")
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
