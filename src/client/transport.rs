//! Sends one request to one server. Only this file sees awc's errors, which cannot leave their thread.
//!
//! Two things are limited here for all operations together:
//!
//! - **Requests under way**, by permits. A quarter of `max_connections` is for heartbeats and registrations alone,
//!   so that they never wait behind an application's own requests.
//! - **Time.** A request takes `request_timeout` at most, or what is left until the deadline of its operation.
//!
//! A broken connection is tried once more at once: servers close keep-alive connections at any time, perhaps just when
//! the request is sent. Every request may be repeated, even if the first one arrived.
//!
//! The body of an answer is decoded and limited to 64 MiB. Redirects are not followed, and cookies are not kept.

use std::{
    borrow::Cow,
    cell::Cell,
    pin::pin,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use actix_http::error::ParseError;
use actix_rt::time::{timeout, Instant};
use awc::{
    error::{ConnectError, PayloadError, SendRequestError},
    http::{
        header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, USER_AGENT},
        uri::{Authority, Scheme},
        Uri,
    },
    Client, ClientResponse, Connector,
};
use bytes::Bytes;
use futures_core::Stream;
use futures_util::{future::select, StreamExt as _};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{decoding::decode, dialer::Dialer, health::FailureKind, tls};
use crate::{
    config::{AccessKey, Config},
    error::{Error, Operation},
    wire::{
        exchange::{Answer, Request},
        signature::SECURITY_TOKEN_HEADER,
    },
};

/// Servers push only to user agents that they know. All servers push to this user agent, and 1.4 sends it grouped
/// service names.
const AGENT: &str = concat!("Nacos-Java-Client:v1.4.6 actix-nacos/", env!("CARGO_PKG_VERSION"));

/// The largest answer that is read. A list of 100,000 instances fits.
const ANSWER_LIMIT: usize = 64 * 1024 * 1024;

/// Keeps connections until the server closes them. A closed connection is noticed before it is used again.
const CONNECTION_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// Limits the requests under way and the duration of each.
///
/// With one connection configured, one is shared and one is reserved: two in all.
pub(crate) struct Transport {
    /// For all requests.
    permits: Semaphore,
    /// For heartbeats and registrations only: they must not wait behind an application's other requests.
    reserved: Semaphore,
    /// Whether the Registry shuts down, so that deregistrations may use the reserved permits too.
    is_closing: Cell<bool>,
    timeout: Duration,
    /// The address in all URLs, whatever the server.
    ///
    /// A client belongs to one server: its dialer has the address and does TLS, and its `Host` header names the server.
    /// awc needs some address as the key of its pool, and takes 2,000 instructions less per request with a short one.
    authority: Authority,
}

/// The authentication of a request: a token, a signature, or both.
///
/// Both are added when the request is sent, so that a request can be repeated with another token.
#[derive(Clone, Copy, Default)]
pub(crate) struct Auth<'a> {
    pub(crate) token: Option<&'a str>,
    pub(crate) key: Option<&'a AccessKey>,
}

impl Auth<'_> {
    /// The query of `request`, signed with the current time.
    fn query<'a>(&self, request: &'a Request) -> Cow<'a, str> {
        let Some(key) = self.key else { return Cow::Borrowed(&request.query) };
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Cow::Owned(key.signed_query(request, i64::try_from(since_1970.as_millis()).unwrap_or_default()))
    }

    fn security_token(&self) -> Option<&str> {
        self.key?.security_token.as_deref()
    }
}

/// The reason why there is no answer.
///
/// It becomes an [`Error`] where the operation is known.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum NoAnswer {
    ConnectFailed(String),
    /// The connection ended before the complete answer was received.
    Broken(String),
    Timeout(Duration),
    Unreadable(String),
}

impl NoAnswer {
    pub(crate) fn into_error(self, operation: Operation, server: &str) -> Error {
        let server = server.to_owned();
        match self {
            NoAnswer::ConnectFailed(reason) | NoAnswer::Broken(reason) => {
                Error::Unreachable { operation, server, reason }
            }
            NoAnswer::Timeout(after) => Error::Timeout { operation, server, after },
            NoAnswer::Unreadable(reason) => Error::Unreadable { operation, server, reason },
        }
    }
}

/// Creates a function that creates clients. All clients have the same configuration; each belongs to the server of its
/// dialer. Clients must be created and used in the same arbiter, because awc's client is bound to its thread.
///
/// # Errors
/// [`Error::InvalidInput`] for certificates that cannot be read.
pub(crate) fn client_factory(config: &Config) -> Result<impl Fn(&Dialer) -> Client + use<>, Error> {
    let (timeout, limit) = (config.request_timeout, config.max_connections.saturating_add(1));
    let tls = tls::connector(config)?;
    Ok(move |dialer: &Dialer| {
        let connector = Connector::new()
            .connector(dialer.clone().service(tls.clone()))
            .timeout(timeout)
            .limit(limit)
            .conn_keep_alive(CONNECTION_LIFETIME)
            .conn_lifetime(CONNECTION_LIFETIME);
        Client::builder()
            .connector(connector)
            .disable_timeout()
            .disable_redirects()
            .no_default_headers()
            .add_default_header((USER_AGENT, AGENT))
            // awc would write it anew for each request, which takes some 2,000 instructions.
            .add_default_header((HOST, dialer.host_header()))
            .finish()
    })
}

impl Transport {
    pub(crate) fn new(config: &Config) -> Self {
        let reserved = (config.max_connections / 4).max(1);
        let shared = (config.max_connections - reserved).max(1);
        Transport {
            permits: Semaphore::new(shared),
            reserved: Semaphore::new(reserved),
            is_closing: Cell::new(false),
            timeout: config.request_timeout,
            authority: Authority::from_static("s"),
        }
    }

    /// Lets deregistrations use the reserved permits from now on.
    pub(crate) fn close(&self) {
        self.is_closing.set(true);
    }

    /// Waits until another request may be sent. Requests wait here and not in awc's pool, where the wait would count
    /// against the request's timeout. Never returns `None`, because the semaphores are never closed.
    ///
    /// While the Registry shuts down, deregistrations may use the reserved permits too.
    pub(crate) async fn permit(&self, operation: Operation) -> Option<SemaphorePermit<'_>> {
        let is_last = self.is_closing.get() && operation == Operation::Deregister;
        if !operation.keeps_registered() && !is_last {
            return self.permits.acquire().await.ok();
        }
        if let Ok(permit) = self.reserved.try_acquire() {
            return Some(permit);
        }
        let (any, reserved) = (pin!(self.permits.acquire()), pin!(self.reserved.acquire()));
        select(any, reserved).await.factor_first().0.ok()
    }

    /// How `error` counts against the server. `None` if it does not: a request that its operation's deadline cut short
    /// shows nothing about the server, and a 429 is an answer.
    ///
    /// A timeout counts if the server had at least half of the request timeout to answer.
    pub(crate) fn failure_kind(&self, error: &Error) -> Option<FailureKind> {
        match error {
            Error::Timeout { after, .. } => (*after >= self.timeout / 2).then_some(FailureKind::NoAnswer),
            Error::Unreachable { .. } => Some(FailureKind::ConnectFailed),
            _ => error.status().is_none_or(|status| status >= 500).then_some(FailureKind::BadAnswer),
        }
    }

    /// Sends `request` to the server of `client`, below `context_path`, and waits for the answer until `deadline`.
    ///
    /// # Errors
    /// [`NoAnswer`]. For a timeout it contains the limit that applied.
    pub(crate) async fn send(
        &self,
        client: &Client,
        context_path: &str,
        request: &Request,
        auth: Auth<'_>,
        deadline: Instant,
    ) -> Result<Answer, NoAnswer> {
        let limit = self.timeout.min(deadline.saturating_duration_since(Instant::now()));
        let exchange = async {
            match self.exchange(client, context_path, request, auth).await {
                // The server or a proxy closed the idle connection just then. A new connection shows whether the server
                // is there.
                Err(NoAnswer::Broken(_)) => self.exchange(client, context_path, request, auth).await,
                exchanged => exchanged,
            }
        };
        timeout(limit, exchange).await.unwrap_or(Err(NoAnswer::Timeout(limit)))
    }

    /// Sends the request once and reads the whole answer.
    async fn exchange(
        &self,
        client: &Client,
        context_path: &str,
        request: &Request,
        auth: Auth<'_>,
    ) -> Result<Answer, NoAnswer> {
        let target = match &*auth.query(request) {
            "" => [context_path, request.path].concat(),
            query => [context_path, request.path, "?", query].concat(),
        };
        let mut url = Uri::try_from(target).map_err(|error| NoAnswer::Broken(error.to_string()))?.into_parts();
        (url.scheme, url.authority) = (Some(Scheme::HTTP), Some(self.authority.clone()));
        // Bodies are decoded below, independent of awc's features that other crates may have turned on.
        let mut head = client.request(request.method.clone(), url).no_decompress();
        if let Some(token) = auth.security_token() {
            head = head.insert_header((SECURITY_TOKEN_HEADER, token));
        }
        if let Some(token) = auth.token {
            // A header keeps the token out of access logs. All servers read this header; 1.4 and 2.0 read no other.
            head = head.insert_header((AUTHORIZATION, format!("Bearer {token}")));
        }
        let sent = match &request.form {
            Some(form) => {
                head.insert_header((CONTENT_TYPE, "application/x-www-form-urlencoded")).send_body(form.clone())
            }
            None => head.send(),
        };
        let mut response = sent.await.map_err(|error| self.not_sent(error))?;
        let status = response.status();
        let body = read_body(&mut response, ANSWER_LIMIT).await?;
        let body = decode(status, response.headers(), body, request.path, ANSWER_LIMIT);
        Ok(Answer { status: status.as_u16(), body })
    }

    /// Translates awc's error, which cannot leave the thread.
    fn not_sent(&self, error: SendRequestError) -> NoAnswer {
        match error {
            SendRequestError::Timeout | SendRequestError::Connect(ConnectError::Timeout) => {
                NoAnswer::Timeout(self.timeout)
            }
            // A connection that was reset, as by a server that closed it just then.
            SendRequestError::Response(ParseError::Io(error)) => NoAnswer::Broken(error.to_string()),
            SendRequestError::Response(error) => NoAnswer::Unreadable(format!("not HTTP: {error}")),
            SendRequestError::Connect(error) if !matches!(error, ConnectError::Disconnected) => {
                NoAnswer::ConnectFailed(error.to_string())
            }
            error => NoAnswer::Broken(error.to_string()),
        }
    }
}

/// Reads the whole body, up to `limit` bytes. `ClientResponse::body` would copy it once more.
async fn read_body<S>(response: &mut ClientResponse<S>, limit: usize) -> Result<Vec<u8>, NoAnswer>
where
    S: Stream<Item = Result<Bytes, PayloadError>> + Unpin,
{
    let too_long = || NoAnswer::Unreadable(format!("longer than {limit} bytes"));
    let (promised, mut body) = (promised_length(response).unwrap_or_default(), Vec::new());
    if promised > limit {
        return Err(too_long());
    }
    while let Some(part) = response.next().await {
        body.extend_from_slice(&part.map_err(not_read)?);
        if body.len() > limit {
            return Err(too_long());
        }
    }
    // awc ends an incomplete body without an error when the connection ends early.
    if body.len() < promised {
        return Err(NoAnswer::Unreadable("cut off".into()));
    }
    Ok(body)
}

/// The length that the answer announced.
fn promised_length<S>(response: &ClientResponse<S>) -> Option<usize> {
    response.headers().get(CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok()
}

fn not_read(error: PayloadError) -> NoAnswer {
    match error {
        PayloadError::Incomplete(_) => NoAnswer::Unreadable("cut off".into()),
        PayloadError::EncodingCorrupted => NoAnswer::Unreadable("corrupt transfer encoding".into()),
        error => NoAnswer::Broken(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use actix_rt::net::TcpListener;
    use awc::{http::Method, test::TestResponse};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::config::ServerAddress;

    /// The lines of the request that is sent to a server with this context path, without the date. The headers are
    /// sorted.
    async fn sent(request: &Request, context_path: &str, auth: Auth<'_>) -> Vec<String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = ServerAddress::parse(&listener.local_addr().unwrap().to_string(), context_path).unwrap();
        let config = Config::disabled();
        let client = client_factory(&config).unwrap()(&Dialer::new(&address));
        let serve = async {
            let (mut connection, mut sent) = (listener.accept().await.unwrap().0, Vec::new());
            while !sent.ends_with(b"\r\n\r\n") && !sent.ends_with(b"a=1") {
                connection.read_buf(&mut sent).await.unwrap();
            }
            connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
            String::from_utf8(sent).unwrap()
        };
        let (transport, deadline) = (Transport::new(&config), Instant::now() + Duration::from_secs(60));
        let answer = transport.send(&client, &address.context_path, request, auth, deadline);
        let (answer, sent) = futures_util::future::join(answer, serve).await;
        assert_eq!(answer.unwrap().body, b"ok");
        let lines = sent.split("\r\n").filter(|line| !line.starts_with("date: "));
        let mut lines: Vec<_> = lines.map(|line| line.replace(&address.to_string(), "ADDRESS")).collect();
        let end_of_headers = lines.len() - 2;
        lines[1..end_of_headers].sort();
        lines
    }

    #[actix::test]
    async fn a_body_is_read_if_it_is_whole_and_not_longer_than_the_limit() {
        let read = async |length: &str, body: &'static str| {
            let response = TestResponse::with_header((CONTENT_LENGTH, length)).set_payload(body);
            read_body(&mut response.finish(), 4).await
        };
        let unreadable = |reason: &str| Err(NoAnswer::Unreadable(reason.into()));
        assert_eq!(read("4", "body").await, Ok(b"body".to_vec()));
        assert_eq!(read("4", "bod").await, unreadable("cut off"));
        assert_eq!(read("5", "").await, unreadable("longer than 4 bytes"), "it is not read");
        assert_eq!(read("unknown", "longer").await, unreadable("longer than 4 bytes"));
    }

    #[actix::test]
    async fn a_request_whose_url_is_too_long_is_not_sent() {
        let config = Config::disabled();
        let client = client_factory(&config).unwrap()(&Dialer::new(&ServerAddress::parse("127.0.0.1:1", "").unwrap()));
        let request = Request {
            method: Method::GET,
            path: "/",
            query: "x".repeat(1 << 16),
            form: None,
            form_may_be_query: false,
        };
        let deadline = Instant::now() + Duration::from_secs(60);
        let sent = Transport::new(&config).send(&client, "", &request, Auth::default(), deadline).await;
        assert_eq!(sent.map(|answer| answer.status), Err(NoAnswer::Broken("uri too long".into())));
    }

    #[actix::test]
    async fn a_request_contains_nothing_but_this() {
        let agent = format!("user-agent: {AGENT}");
        let get = Request {
            method: Method::GET,
            path: "/v1/ns/instance",
            query: "ip=1&text=%D0%B7+a".into(),
            form: None,
            form_may_be_query: false,
        };
        assert_eq!(
            sent(&get, "/nacos", Auth::default()).await,
            [
                "GET /nacos/v1/ns/instance?ip=1&text=%D0%B7+a HTTP/1.1",
                "content-length: 0",
                "host: ADDRESS",
                &agent,
                "",
                "",
            ]
        );
        let post = Request { method: Method::POST, query: String::new(), form: Some("a=1".into()), ..get };
        assert_eq!(
            sent(&post, "", Auth { token: Some("hush"), key: None }).await,
            [
                "POST /v1/ns/instance HTTP/1.1",
                "authorization: Bearer hush",
                "content-length: 3",
                "content-type: application/x-www-form-urlencoded",
                "host: ADDRESS",
                &agent,
                "",
                "a=1",
            ]
        );
    }

    #[test]
    fn a_connection_that_was_reset_is_broken_and_not_unreadable() {
        let transport = Transport::new(&Config::disabled());
        let reset = SendRequestError::Response(ParseError::Io(io::ErrorKind::ConnectionReset.into()));
        assert!(matches!(transport.not_sent(reset), NoAnswer::Broken(_)));
        let no_http = SendRequestError::Response(ParseError::Method);
        assert!(matches!(transport.not_sent(no_http), NoAnswer::Unreadable(_)));
    }
}
