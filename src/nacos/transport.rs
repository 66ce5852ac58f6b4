//! One request to one server. The one place where awc's errors, which may not leave their thread, become ours.

use std::time::Duration;

use actix_rt::time::timeout;
use awc::{
    error::{ConnectError, PayloadError, SendRequestError},
    http::header::{HeaderName, CONTENT_LENGTH, CONTENT_TYPE, USER_AGENT},
    Client, ClientResponse, Connector,
};
use tokio::sync::{Semaphore, SemaphorePermit};

#[cfg(any(feature = "rustls", feature = "openssl"))]
use crate::nacos::tls;
use crate::{
    config::Config,
    error::Error,
    nacos::exchange::{Answer, Operation, Request},
};

/// Servers push to no other kind of client than their own; this one is pushed to by all of them, and 1.4 gives it
/// grouped service names.
const AGENT: &str = concat!("Nacos-Java-Client:v1.4.6 actix-nacos/", env!("CARGO_PKG_VERSION"));

/// A header keeps the token out of the servers' access logs.
const ACCESS_TOKEN: HeaderName = HeaderName::from_static("accesstoken");

/// Of the largest answer that is read: a list of some 100,000 instances.
const ANSWER_LIMIT: usize = 64 * 1024 * 1024;

/// Connections are kept as long as the server keeps them; one that it has closed is noticed before it is used.
const CONNECTION_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// Sends requests over a bounded pool of connections.
pub(crate) struct Transport {
    client: Client,
    /// See [`room`](Transport::room).
    permits: Semaphore,
    timeout: Duration,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum NoAnswer {
    Unreachable(String),
    Timeout(Duration),
    Unreadable(String),
}

impl NoAnswer {
    pub(crate) fn into_error(self, operation: Operation, server: &str) -> Error {
        let server = server.to_owned();
        match self {
            NoAnswer::Unreachable(reason) => Error::Unreachable { operation, server, reason },
            NoAnswer::Timeout(after) => Error::Timeout { operation, server, after },
            NoAnswer::Unreadable(reason) => Error::Unreadable { operation, server, reason },
        }
    }
}

impl Transport {
    /// Must be called, and used, inside the arbiter that sends: awc's client is bound to its thread.
    pub(crate) fn new(config: &Config) -> Result<Self, Error> {
        let connector = Connector::new()
            .timeout(config.request_timeout)
            .limit(config.max_connections)
            .conn_keep_alive(CONNECTION_LIFETIME)
            .conn_lifetime(CONNECTION_LIFETIME);
        #[cfg(feature = "rustls")]
        let connector = match tls::connector::client_config(config)? {
            Some(client) => connector.rustls_0_23(client),
            None => connector,
        };
        #[cfg(all(feature = "openssl", not(feature = "rustls")))]
        let connector = match tls::connector::client_config(config)? {
            Some(client) => connector.openssl(client),
            None => connector,
        };
        let client = Client::builder()
            .connector(connector)
            .disable_timeout()
            .disable_redirects()
            .no_default_headers()
            .add_default_header((USER_AGENT, AGENT))
            .finish();
        Ok(Transport { client, permits: Semaphore::new(config.max_connections), timeout: config.request_timeout })
    }

    /// Waits until one more request at a time may be sent. Whoever sends waits here first, and not in awc's pool, where
    /// the waiting would count against the request's timeout.
    pub(crate) async fn room(&self) -> Option<SemaphorePermit<'_>> {
        // The semaphore is never closed; without a permit the pool's own limit holds.
        self.permits.acquire().await.ok()
    }

    /// Sends `request` to the server at `base_url`.
    pub(crate) async fn send(
        &self,
        base_url: &str,
        request: &Request,
        token: Option<&str>,
    ) -> Result<Answer, NoAnswer> {
        match timeout(self.timeout, self.exchange(base_url, request, token)).await {
            Ok(result) => result,
            Err(_) => Err(NoAnswer::Timeout(self.timeout)),
        }
    }

    async fn exchange(&self, base_url: &str, request: &Request, token: Option<&str>) -> Result<Answer, NoAnswer> {
        let url = match request.query.as_str() {
            "" => [base_url, request.path].concat(),
            query => [base_url, request.path, "?", query].concat(),
        };
        let mut head = self.client.request(request.method.clone(), url);
        if let Some(token) = token {
            head = head.insert_header((ACCESS_TOKEN, token));
        }
        let sent = match &request.form {
            Some(form) => {
                head.insert_header((CONTENT_TYPE, "application/x-www-form-urlencoded")).send_body(form.clone())
            }
            None => head.send(),
        };
        let mut response = sent.await.map_err(|error| self.not_sent(error))?;
        let status = response.status().as_u16();
        let body = response.body().limit(ANSWER_LIMIT).await.map_err(not_read)?;
        // awc takes what came before the end of the connection for all of it.
        if promised_length(&response).is_some_and(|length| body.len() < length) {
            return Err(NoAnswer::Unreadable("cut off".into()));
        }
        Ok(Answer { status, body: body.into() })
    }

    fn not_sent(&self, error: SendRequestError) -> NoAnswer {
        match error {
            SendRequestError::Timeout | SendRequestError::Connect(ConnectError::Timeout) => {
                NoAnswer::Timeout(self.timeout)
            }
            SendRequestError::Response(error) => NoAnswer::Unreadable(format!("no HTTP: {error}")),
            error => NoAnswer::Unreachable(error.to_string()),
        }
    }
}

fn promised_length<S>(response: &ClientResponse<S>) -> Option<usize> {
    response.headers().get(CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok()
}

fn not_read(error: PayloadError) -> NoAnswer {
    match error {
        PayloadError::Overflow => NoAnswer::Unreadable(format!("longer than {ANSWER_LIMIT} bytes")),
        PayloadError::Incomplete(_) => NoAnswer::Unreadable("cut off".into()),
        PayloadError::EncodingCorrupted => NoAnswer::Unreadable("corrupt transfer encoding".into()),
        error => NoAnswer::Unreachable(error.to_string()),
    }
}
