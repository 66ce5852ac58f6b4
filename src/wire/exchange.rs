//! A request, its answer, and the ways in which an answer can be unsuccessful. No I/O.
//!
//! [`Request`] says what to send, without a server and without a token. [`Answer`] is the status and the body that a
//! server returned. A reading function turns an answer into a value or a [`Rejection`]. The client adds the server's
//! name and the operation to a rejection, which makes it an [`Error`].
//!
//! How a status is read, unless the API says more:
//!
//! | status | rejection | what the client does |
//! |---|---|---|
//! | 200 | none, if the body is as expected | uses the value |
//! | 401, 403 | [`Forbidden`](Rejection::Forbidden) | logs in again once, then asks another server |
//! | 404, 405, 410, 501 | [`Unsupported`](Rejection::Unsupported) | asks in the other protocol, then another server |
//! | 429, 5xx | [`Refused`](Rejection::Refused), which may be repeated | asks another server |
//! | any other | [`Refused`](Rejection::Refused) | asks another server |

use std::fmt;

use awc::http::Method;

use super::parameters::Parameters;
use crate::{
    config::Protocol,
    error::{Error, Operation},
};

/// In bytes. Tomcat and most proxies reject request lines above 8 KiB; some count the headers too.
///
/// Longer parameters go into a form body, where the method has one and the server reads it.
const MAX_QUERY: usize = 4 * 1024;

/// An HTTP API of Nacos. Unlike [`Protocol`] it has no `Auto`.
///
/// A server may speak both: 3.0 does. Then v1 is used, because only v1 has pushes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WireProtocol {
    V1,
    V3,
}

impl WireProtocol {
    /// `None` for `Auto`.
    pub(crate) fn fixed_by(protocol: Protocol) -> Option<Self> {
        match protocol {
            Protocol::Auto => None,
            Protocol::V1 => Some(WireProtocol::V1),
            Protocol::V3 => Some(WireProtocol::V3),
        }
    }

    /// The API to try when a server does not offer this one.
    pub(crate) fn other(self) -> Self {
        match self {
            WireProtocol::V1 => WireProtocol::V3,
            WireProtocol::V3 => WireProtocol::V1,
        }
    }
}

impl From<WireProtocol> for Protocol {
    fn from(protocol: WireProtocol) -> Self {
        match protocol {
            WireProtocol::V1 => Protocol::V1,
            WireProtocol::V3 => Protocol::V3,
        }
    }
}

/// A request for which no server has been chosen yet.
///
/// It can be sent again, also to another server, since it borrows nothing and contains no address, token or time.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: Method,
    /// Relative to the context path.
    pub(crate) path: &'static str,
    /// Percent-encoded.
    pub(crate) query: String,
    /// Percent-encoded, for parameters that are not in the query.
    pub(crate) form: Option<String>,
    /// Whether the parameters are in the form only because they are too long for a request line.
    pub(crate) form_may_be_query: bool,
}

impl Request {
    /// Puts the parameters into the query. Parameters that are too long for a request line go into a form body if the
    /// method has one. [`in_query`](Request::in_query) is for servers that do not read a form body.
    ///
    /// All requests of v1 use this function, except the login.
    pub(crate) fn by_query(method: Method, path: &'static str, parameters: Parameters) -> Self {
        let parameters = parameters.into_text();
        if parameters.len() > MAX_QUERY && matches!(method, Method::POST | Method::PUT) {
            return Request { method, path, query: String::new(), form: Some(parameters), form_may_be_query: true };
        }
        Request { method, path, query: parameters, form: None, form_may_be_query: false }
    }

    /// The same request with all parameters in the query, whatever their length. `None` if they are there already, or
    /// must not be in a URL.
    pub(crate) fn in_query(&self) -> Option<Self> {
        let form = self.form.as_deref().filter(|_| self.form_may_be_query)?;
        let query = [&self.query, form].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("&");
        Some(Request { method: self.method.clone(), path: self.path, query, form: None, form_may_be_query: false })
    }

    /// Puts the parameters into a form body. Used for secrets, which must not be in a URL, and for v3, whose POST
    /// requests read a form.
    pub(crate) fn by_form(path: &'static str, parameters: Parameters) -> Self {
        let form = Some(parameters.into_text());
        Request { method: Method::POST, path, query: String::new(), form, form_may_be_query: false }
    }
}

/// In characters.
const MAX_EXCERPT: usize = 300;

/// The beginning of a server's text in one line, without control characters that a terminal would interpret.
///
/// Texts of servers go into errors and logs, so they are cut at [`MAX_EXCERPT`] characters and cannot inject lines.
pub(crate) fn excerpt(text: &str) -> String {
    let words: Vec<_> = text.split_whitespace().take(MAX_EXCERPT).collect();
    let printable = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    let mut line: String = words.join(" ").chars().map(printable).take(MAX_EXCERPT + 1).collect();
    if let Some((end, _)) = line.char_indices().nth(MAX_EXCERPT) {
        line.replace_range(end.., "…");
    }
    line
}

/// The answer of a server.
///
/// The body is decoded already: plain UTF-8, not compressed.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The beginning of the body, in one line, for an error text.
    ///
    /// Meant for people. Some functions also search it for known texts of servers.
    pub(crate) fn excerpt(&self) -> String {
        // An answer may have many megabytes. Only its beginning is examined.
        let text = String::from_utf8_lossy(&self.body[..self.body.len().min(8 * MAX_EXCERPT)]);
        let is_unprintable = |c: &char| *c == char::REPLACEMENT_CHARACTER || c.is_control() && !c.is_whitespace();
        if text.chars().filter(is_unprintable).count() > text.chars().count() / 8 {
            return format!("{} bytes of binary data", self.body.len());
        }
        excerpt(&text)
    }

    /// Whether the server did not find the parameters of a request, although the request had all of them.
    ///
    /// Nacos 1.4 answers so to a form body, which it does not read for POST.
    pub(crate) fn lacks_parameters(&self) -> bool {
        let text = self.excerpt().to_lowercase();
        self.status == 400 && ["required", "not present", "missing"].iter().any(|word| text.contains(word))
    }

    /// Whether the request line may have been too long for the server, or for a proxy in front of it.
    pub(crate) fn may_be_too_long(&self) -> bool {
        matches!(self.status, 400 | 414 | 431)
    }

    /// Reads the body as JSON.
    ///
    /// # Errors
    /// [`Rejection::Unreadable`], which quotes the beginning of the body.
    pub(crate) fn json<'a, T: serde::Deserialize<'a>>(&'a self) -> Result<T, Rejection> {
        // Checking the whole text is cheaper than checking each string in it. Strings that are not read may be invalid.
        let read = match std::str::from_utf8(&self.body) {
            Ok(text) => serde_json::from_str(text),
            Err(_) => serde_json::from_slice(&self.body),
        };
        read.map_err(|error| Rejection::Unreadable(format!("{error} in {:?}", self.excerpt())))
    }
}

/// The meaning of an unsuccessful answer. Becomes an [`Error`] where the server and the operation are known.
///
/// It does not say whether another attempt may help: [`Error::is_retryable`] does, by the status.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Rejection {
    /// The instance does not exist.
    NotFound,
    /// The server does not offer this API, or does not offer it any more.
    Unsupported,
    /// The token is missing, invalid or expired, or it lacks a right. The server's text does not say which.
    Forbidden(String),
    /// The credentials are wrong.
    LoginRejected(String),
    /// The server rejected the request for another reason.
    Refused { status: u16, body: String },
    /// The answer is not valid for this operation.
    Unreadable(String),
}

impl Rejection {
    /// Makes an [`Error`] that names the operation, the server and the instance.
    pub(crate) fn into_error(self, operation: Operation, server: &str, instance: impl fmt::Display) -> Error {
        let server = server.to_owned();
        match self {
            Rejection::NotFound => Error::NotFound { instance: instance.to_string(), may_be_disabled: false },
            Rejection::Unsupported => Error::Unsupported {
                operation,
                server,
                reason: "it offers this in neither API, v1 or v3; is it a Nacos server, and is the context path right?"
                    .into(),
            },
            Rejection::Forbidden(reason) | Rejection::LoginRejected(reason) => {
                Error::Unauthorized { operation, server, reason }
            }
            Rejection::Refused { status, body } => Error::Refused { operation, server, status, body },
            Rejection::Unreadable(reason) => Error::Unreadable { operation, server, reason },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_too_long_for_a_request_line_go_into_a_form() {
        let request = |method, length| {
            Request::by_query(method, "/", Parameters::new().add("metadata", "x".repeat(length).as_str()))
        };
        let longest = 4 * 1024;
        for method in [Method::POST, Method::PUT] {
            let fits = request(method.clone(), longest - "metadata=".len());
            assert_eq!((fits.query.len(), fits.form.is_some()), (longest, false), "{method}");
            let long = request(method.clone(), longest);
            assert_eq!(fits.in_query().map(|request| request.query), None);
            let in_query = long.in_query().unwrap();
            assert_eq!((Some(&in_query.query), in_query.form), (long.form.as_ref(), None));
            assert!(long.query.is_empty() && long.form.is_some_and(|form| form.starts_with("metadata=xx")), "{method}");
        }
        assert_eq!(request(Method::GET, 10_000).form, None, "a GET has no body");
        assert!(
            Request::by_form("/", Parameters::new().add("password", "hush")).in_query().is_none(),
            "never in a URL"
        );
    }

    #[test]
    fn an_excerpt_is_one_short_line() {
        let answer = Answer { status: 500, body: format!("<html>\n {}", "x".repeat(1000)).into_bytes() };
        let excerpt = answer.excerpt();
        assert!(excerpt.starts_with("<html> xxx") && excerpt.ends_with('…') && excerpt.chars().count() == 301);
        let excerpt = |body: &[u8]| Answer { status: 500, body: body.to_vec() }.excerpt();
        assert_eq!(excerpt(b"\x8b\x0e\x80{\"a\"\x03\x00"), "9 bytes of binary data");
        assert_eq!(
            excerpt(b"r\xe9serv\xe9, and \x1b[31m the rest of it"),
            "r\u{fffd}serv\u{fffd}, and \u{fffd}[31m the rest of it"
        );
    }
}
