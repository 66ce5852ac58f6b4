//! Decides who may see metrics and the page, and who may take the process out of service.
//!
//! Three levels, by what a route reveals or does:
//!
//! | routes | who may |
//! |---|---|
//! | `/livez`, `/readyz` | everybody: they show no names |
//! | `/metrics`, the page | this machine, the token, or everybody if the routes are public |
//! | `/offline` | this machine, or the token as a bearer; never everybody |
//!
//! "This machine" is a request from loopback that no proxy forwarded and no other site's page made. The peer's
//! address alone is not enough: a proxy on this machine also connects from loopback, and a browser on this machine
//! runs the pages of all sites. A doubtful request is rejected.

use actix_web::{
    http::{
        header::{HeaderMap, AUTHORIZATION, HOST, WWW_AUTHENTICATE},
        Version,
    },
    HttpRequest, HttpResponse,
};
use base64::{engine::general_purpose::STANDARD as BASE64, Engine as _};

use crate::runtime::web_page;

/// Headers that proxies add to a request that they forward, besides those that begin with `x-forwarded-`.
const FORWARDING: [&str; 6] = ["forwarded", "via", "x-real-ip", "x-client-ip", "true-client-ip", "cf-connecting-ip"];

/// The rules of one [`StatusRoutes`](super::StatusRoutes).
#[derive(Clone, Default)]
pub(super) struct Access {
    pub(super) public: bool,
    pub(super) token: Option<String>,
}

impl Access {
    /// Returns the answer to a request that may not see metrics and the page. `None` if it may.
    pub(super) fn refuses_to_show(&self, request: &HttpRequest) -> Option<HttpResponse> {
        if self.public {
            return None;
        }
        if self.has_token(request.headers(), given_token) || is_from_this_machine(request) {
            return None;
        }
        Some(self.refusal("Basic realm=\"registry\", charset=\"UTF-8\"", "Authorization: Bearer, or as the password"))
    }

    /// Returns the answer to a request that may not take the process out of service. `None` if it may.
    ///
    /// Does not accept the token as a password: a browser that knows the password of the page also sends it with
    /// requests that pages of other sites make.
    pub(super) fn refuses_to_change(&self, request: &HttpRequest) -> Option<HttpResponse> {
        if self.has_token(request.headers(), given_bearer) || is_from_this_machine(request) {
            return None;
        }
        Some(self.refusal("Bearer realm=\"registry\"", "Authorization: Bearer"))
    }

    /// The answer to a request without a token that would be accepted in `place`.
    fn refusal(&self, challenge: &'static str, place: &str) -> HttpResponse {
        if self.token.is_none() {
            let text = "answers requests from loopback only, until a token is set in StatusRoutes\n";
            return HttpResponse::Forbidden().content_type("text/plain; charset=utf-8").body(text);
        }
        let mut response = HttpResponse::Unauthorized();
        response.insert_header((WWW_AUTHENTICATE, challenge));
        response.content_type("text/plain; charset=utf-8");
        response.body(format!("wants the token: {place}\n"))
    }

    /// An empty token is no token. Otherwise an unset environment variable would let everybody in.
    fn has_token(&self, headers: &HeaderMap, read: impl Fn(&[u8]) -> Option<Vec<u8>>) -> bool {
        let Some(token) = self.token.as_deref().filter(|token| !token.is_empty()) else { return false };
        let given = headers.get(AUTHORIZATION).and_then(|value| read(value.as_bytes()));
        given.is_some_and(|given| equals(&given, token.as_bytes()))
    }
}

/// Reads the token from an `Authorization` header: the token of `Bearer`, or the password of `Basic`.
fn given_token(header: &[u8]) -> Option<Vec<u8>> {
    given_bearer(header).or_else(|| given_password(header))
}

fn given_bearer(header: &[u8]) -> Option<Vec<u8>> {
    value_of(header, b"bearer").map(<[u8]>::to_vec)
}

/// The value of an `Authorization` header, if its scheme is this one.
fn value_of<'a>(header: &'a [u8], scheme: &[u8]) -> Option<&'a [u8]> {
    let blank = header.iter().position(|byte| *byte == b' ')?;
    header[..blank].eq_ignore_ascii_case(scheme).then(|| header[blank + 1..].trim_ascii())
}

fn given_password(header: &[u8]) -> Option<Vec<u8>> {
    let decoded = BASE64.decode(value_of(header, b"basic")?).ok()?;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    Some(decoded[colon + 1..].to_vec())
}

/// Compares in constant time, so that the time reveals nothing about the token.
fn equals(given: &[u8], token: &[u8]) -> bool {
    let differences = given.iter().zip(token).fold(0, |differences, (a, b)| differences | (a ^ b));
    given.len() == token.len() && differences == 0
}

/// Whether the request comes from a program on this machine, and neither from a proxy nor from another site's page in a
/// browser here.
fn is_from_this_machine(request: &HttpRequest) -> bool {
    let headers = request.headers();
    let peer = request.peer_addr().map(|peer| peer.ip().to_canonical());
    peer.is_some_and(|peer| peer.is_loopback())
        && !is_forwarded(request)
        && (!headers.contains_key(HOST) || web_page::names_this_machine(headers))
        && !is_cross_site(headers)
}

/// Some proxies add no header. By default nginx before 1.29.7 then sends HTTP/1.0, which hardly any other client does.
/// Later versions send HTTP/1.1, and look like a local program unless `X-Forwarded-For` is configured there.
///
/// A client that adds such a header itself only loses access.
fn is_forwarded(request: &HttpRequest) -> bool {
    let is_added = |name: &str| name.starts_with("x-forwarded-") || FORWARDING.contains(&name);
    request.version() < Version::HTTP_11 || request.headers().keys().any(|name| is_added(name.as_str()))
}

/// Whether a page of another site has made the request. Current browsers send `Sec-Fetch-Site` with all requests, older
/// ones `Origin` with requests that change something.
fn is_cross_site(headers: &HeaderMap) -> bool {
    let site = headers.get("sec-fetch-site").map(|site| site.as_bytes());
    site.is_some_and(|site| site != b"same-origin" && site != b"none") || web_page::has_foreign_origin(headers)
}
