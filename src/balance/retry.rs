//! Which requests are sent again, and how often.
//!
//! awc's errors say where they appeared, not whether the server has received the request. [`was_never_sent`] finds the
//! errors after which every request may be repeated. After any other error, only requests that [`is_idempotent`]
//! accepts are repeated.

use std::{fmt, sync::Arc};

use actix_http::{Method, RequestHead};
use awc::error::{ConnectError, SendRequestError};

/// How often a request is sent again to another instance, and which requests may be.
///
/// If the connection was refused or could not be opened, no instance has received the request. It is sent again
/// whatever its method is. A request that an instance may have received is sent again only if its method may be
/// repeated: by default GET, HEAD, OPTIONS, TRACE, PUT and DELETE. A request with a streamed body is sent again only if
/// nothing of the body was read. All clients of a Registry together retry at most a fifth of a service's requests over
/// 10 s. The first 3 retries in a second are always allowed.
///
/// Each attempt has its own [`attempt_timeout`](super::ClientBuilder::attempt_timeout);
/// [`deadline`](super::ClientBuilder::deadline) covers all of them. Retries do not pause between attempts, because
/// they go to another instance.
///
/// # Examples
///
/// ```
/// use actix_nacos::balance::{Client, Retry};
/// # fn of(registry: &actix::Addr<actix_nacos::Registry>) {
/// // Two more instances are tried; a POST is repeated only if no instance can have received it.
/// let http = Client::builder(registry).service("orders").retry(Retry::times(2));
/// # }
/// ```
#[derive(Clone)]
pub struct Retry {
    pub(super) times: usize,
    may_repeat: Arc<dyn Fn(&RequestHead) -> bool + Send + Sync>,
}

impl Retry {
    /// No request is sent again.
    ///
    /// Not even after a refused connection. The call returns its first failure.
    pub fn never() -> Self {
        Retry::times(0)
    }

    /// A request is sent again at most once.
    ///
    /// The default. It hides the failure of one instance, and at most doubles the load of a call.
    pub fn once() -> Self {
        Retry::times(1)
    }

    /// A request is sent again at most `times` times, each time to an instance that was not tried yet, if there is one.
    ///
    /// More than 2 seldom helps: by then [`deadline`](super::ClientBuilder::deadline) is near.
    pub fn times(times: usize) -> Self {
        Retry { times, may_repeat: Arc::new(|head| is_idempotent(&head.method)) }
    }

    /// Replaces the rule about methods: `may_repeat` decides which requests may reach two instances. It is called only
    /// for requests that an instance may have received.
    ///
    /// ```
    /// use actix_nacos::balance::Retry;
    ///
    /// let retry =
    ///     Retry::once().repeat_when(|head| head.method == "GET" || head.headers.contains_key("idempotency-key"));
    /// ```
    #[must_use]
    pub fn repeat_when(mut self, may_repeat: impl Fn(&RequestHead) -> bool + Send + Sync + 'static) -> Self {
        self.may_repeat = Arc::new(may_repeat);
        self
    }

    pub(super) fn may_repeat(&self, head: &RequestHead) -> bool {
        (self.may_repeat)(head)
    }
}

impl Default for Retry {
    fn default() -> Self {
        Retry::once()
    }
}

impl fmt::Debug for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retry").field("times", &self.times).finish_non_exhaustive()
    }
}

/// Methods whose effect is the same when they arrive twice (RFC 9110, 9.2.2).
fn is_idempotent(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE, Method::PUT, Method::DELETE].contains(method)
}

/// Whether no instance can have received the request, because no connection was opened. awc reports a connection that
/// ended before the answer as `Disconnected`.
pub(super) fn was_never_sent(error: &SendRequestError) -> bool {
    matches!(error, SendRequestError::Connect(error) if !matches!(error, ConnectError::Disconnected))
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn head(method: Method) -> RequestHead {
        let mut head = RequestHead::default();
        head.method = method;
        head
    }

    #[test]
    fn methods_without_a_second_effect_may_be_repeated() {
        let retry = Retry::once();
        for method in [Method::GET, Method::HEAD, Method::PUT, Method::DELETE, Method::OPTIONS, Method::TRACE] {
            assert!(retry.may_repeat(&head(method)));
        }
        for method in [Method::POST, Method::PATCH, Method::CONNECT] {
            assert!(!retry.may_repeat(&head(method)));
        }
    }

    #[test]
    fn the_application_may_decide_instead() {
        let retry = Retry::times(2).repeat_when(|head| head.method == Method::POST);
        assert!(retry.may_repeat(&head(Method::POST)) && !retry.may_repeat(&head(Method::GET)));
        assert_eq!((retry.times, Retry::never().times), (2, 0));
    }

    #[test]
    fn a_connection_that_ended_may_have_carried_the_request() {
        let refused = || ConnectError::Io(io::ErrorKind::ConnectionRefused.into());
        for error in [ConnectError::Timeout, ConnectError::NoRecords, refused()] {
            assert!(was_never_sent(&SendRequestError::Connect(error)));
        }
        assert!(!was_never_sent(&SendRequestError::Connect(ConnectError::Disconnected)));
        assert!(!was_never_sent(&SendRequestError::Send(io::ErrorKind::BrokenPipe.into())));
        assert!(!was_never_sent(&SendRequestError::Timeout));
    }
}
