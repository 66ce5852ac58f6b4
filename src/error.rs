//! The error type of the crate, and the operations that an error can name.

use std::{fmt, time::Duration};

use actix::MailboxError;
use serde::{Deserialize, Serialize, Serializer};

/// The error of all operations. The variant says how the operation failed.
///
/// What to do about it:
///
/// - [`InvalidInput`](Error::InvalidInput), [`Unsupported`](Error::Unsupported) and [`NotFound`](Error::NotFound):
///   change the request.
/// - [`Unauthorized`](Error::Unauthorized): change the credentials, or the rights of the user.
/// - [`is_retryable`](Error::is_retryable) returns true: repeat the same request later.
/// - [`Stopped`](Error::Stopped): start another Registry. This Registry answers no messages any more.
///
/// An error serialises as an object that has the variant's name as `kind` (`"timeout"`) beside the variant's fields. No
/// error contains a secret.
///
/// ```
/// use actix_nacos::{Config, Error};
///
/// // The port is missing.
/// let error = Config::new("192.0.2.1").validate().unwrap_err();
/// assert!(matches!(error, Error::InvalidInput { field: "servers", .. }));
/// assert!(!error.is_retryable());
/// assert_eq!(serde_json::to_value(&error).unwrap()["kind"], "invalid_input");
/// ```
#[derive(Debug, Clone, PartialEq, thiserror::Error, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Error {
    /// A value breaks a rule. Nothing was sent to a server. Correct the named field.
    #[error("invalid {field}: {reason}")]
    InvalidInput {
        /// The field of the message or of [`Config`](crate::Config) that has the invalid value.
        field: &'static str,
        /// The rule that the value breaks, and often what to write instead.
        reason: String,
    },

    /// The server does not have this instance.
    #[error("{instance} is not registered{}", if *.may_be_disabled { ", or it is disabled" } else { "" })]
    NotFound {
        /// The requested instance.
        instance: String,
        /// Whether the instance may exist although it was not found, because it is disabled. True for servers that can
        /// only be asked for lists: lists leave disabled instances out.
        may_be_disabled: bool,
    },

    /// No instance of the service can be called. Retryable, because an instance may be registered in the meantime.
    #[error("no instance of {service} can be called: {listed} listed, {reasons}{}", if *.stale { "; the list is stale" } else { "" })]
    NoInstance {
        /// The service, as `GROUP@@service`.
        service: String,
        /// The number of instances in the list of the service.
        listed: usize,
        /// Why no instance can be called.
        reasons: NoInstanceReasons,
        /// Whether the list may be outdated, because no server can be reached or the Registry has ended.
        stale: bool,
    },

    /// No connection to the server could be made, or the connection broke before the whole answer was received.
    /// Retryable.
    #[error("{operation}: cannot reach {server}: {reason}")]
    Unreachable {
        /// The operation that failed.
        operation: Operation,
        /// The server, as `host:port`.
        server: String,
        /// The error of the connection.
        reason: String,
    },

    /// The server rejected the request. Retryable if the status is a 5xx, 429, or 30000 (an error inside the server in
    /// the v3 API).
    #[error("{operation}: {server} answered {status}: {body}")]
    Refused {
        /// The operation that failed.
        operation: Operation,
        /// The server, as `host:port`.
        server: String,
        /// The HTTP status, or the server's own error code where it sent one with HTTP 200.
        status: u16,
        /// The beginning of the answer's body.
        body: String,
    },

    /// The server rejects the user name and password, the token or the signature, or the user lacks a right.
    #[error("{operation}: {server} denied access: {reason}")]
    Unauthorized {
        /// The operation that failed.
        operation: Operation,
        /// The server, as `host:port`.
        server: String,
        /// What the server answered, and what may help.
        reason: String,
    },

    /// The answer could not be read: it is incomplete, too large, not JSON, or not from a Nacos server. Retryable.
    #[error("{operation}: cannot read the answer of {server}: {reason}")]
    Unreadable {
        /// The operation that failed.
        operation: Operation,
        /// The server, as `host:port`.
        server: String,
        /// What is wrong with the answer.
        reason: String,
    },

    /// No answer was received in time. The server may have applied the operation all the same. Retryable.
    #[error("{operation}: no answer from {server}{}", within(*after))]
    Timeout {
        /// The operation that failed.
        operation: Operation,
        /// The server that did not answer, as `host:port`. `the registry` if a message's own timeout expired or a view
        /// did not get its first list in time.
        server: String,
        /// The timeout. Zero when it was set outside of this crate, as by `addr.send(…).timeout(…)`. Serialises as
        /// `after_ms`.
        #[serde(rename = "after_ms", serialize_with = "as_millis")]
        after: Duration,
    },

    /// The server does not offer this operation.
    #[error("{operation}: {server} cannot do this: {reason}")]
    Unsupported {
        /// The operation that failed.
        operation: Operation,
        /// The server, as `host:port`.
        server: String,
        /// Why the operation is not available, and what to do instead.
        reason: String,
    },

    /// A handler or a future panicked. Only this operation is lost; the Registry continues to serve.
    ///
    /// This is a defect of this crate, or of code that it called, such as a log drain. Please report the former.
    #[error("{operation}: panicked: {message}")]
    Panicked {
        /// The operation whose handler or future panicked.
        operation: Operation,
        /// The text of the panic.
        message: String,
    },

    /// The Registry could not be started: the current thread has no arbiter, or no thread could be created.
    #[error("failed to start the registry: {reason}")]
    NotStarted {
        /// Why the Registry could not be started.
        reason: String,
    },

    /// A call to the operating system failed, for example opening a port. Requests to servers have errors of their own.
    #[error("{reason}")]
    Io {
        /// The text of the system's error.
        reason: String,
    },

    /// The Registry has ended. It answers no message any more.
    #[error("the registry has stopped")]
    Stopped,
}

impl Error {
    pub(crate) fn invalid(field: &'static str, reason: impl Into<String>) -> Self {
        Error::InvalidInput { field, reason: reason.into() }
    }

    /// Whether the same request may succeed later, or on another server.
    ///
    /// True when the server could not be reached, did not answer in time, gave an unreadable answer, reported an error
    /// of its own (a 5xx, or 30000 of the v3 API), or limits requests (429). Also true for
    /// [`NoInstance`](Error::NoInstance).
    ///
    /// ```
    /// # use actix_nacos::Error;
    /// fn retry(attempt: u32, error: &Error) -> bool {
    ///     attempt < 3 && error.is_retryable()
    /// }
    /// assert!(!retry(1, &Error::Stopped));
    /// ```
    pub fn is_retryable(&self) -> bool {
        match self {
            Error::NoInstance { .. } | Error::Unreachable { .. } | Error::Timeout { .. } | Error::Unreadable { .. } => {
                true
            }
            // v3 reports an error inside the server as 30000. Repeating the request does not help with its other codes.
            Error::Refused { status, .. } => matches!(status, 429 | 500..=599 | 30_000),
            _ => false,
        }
    }

    /// The HTTP status of a rejected request, or the server's own error code if that came with HTTP 200. `None` for all
    /// variants except [`Refused`](Error::Refused).
    pub fn status(&self) -> Option<u16> {
        match self {
            Error::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }
}

/// Lets a program's `main` use one error type for opening a port and for starting a Registry.
impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Error::Io { reason: error.to_string() }
    }
}

/// Serialises a duration as whole milliseconds.
pub(crate) fn as_millis<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

fn within(after: Duration) -> String {
    if after.is_zero() {
        return " in time".into();
    }
    format!(" within {after:?}")
}

/// The numbers of instances that cannot be called, by reason. Each instance is counted once, for the first reason in
/// the order of the fields.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct NoInstanceReasons {
    /// Excluded by the filters of the view.
    pub filtered: usize,
    /// Disabled, by an operator or by the instance itself.
    pub disabled: usize,
    /// Unhealthy according to the server.
    pub unhealthy: usize,
    /// With port 0, on which nothing listens.
    pub no_port: usize,
    /// With weight 0 or NaN.
    pub no_weight: usize,
    /// Ejected after failed calls. 0 in this error, because an ejected instance is chosen if there is no other.
    pub ejected: usize,
}

impl fmt::Display for NoInstanceReasons {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = [
            (self.filtered, "filtered"),
            (self.disabled, "disabled"),
            (self.unhealthy, "unhealthy"),
            (self.no_port, "without a port"),
            (self.no_weight, "of weight 0"),
            (self.ejected, "ejected"),
        ];
        let mut counted = counts.iter().filter(|(count, _)| *count > 0).peekable();
        if counted.peek().is_none() {
            return f.write_str("none of them filtered or unfit");
        }
        for (place, (count, reason)) in counted.enumerate() {
            write!(f, "{}{count} {reason}", if place > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

/// A closed mailbox becomes [`Error::Stopped`]. An expired `addr.send(…).timeout(…)` becomes [`Error::Timeout`].
impl From<MailboxError> for Error {
    fn from(error: MailboxError) -> Self {
        match error {
            MailboxError::Closed => Error::Stopped,
            MailboxError::Timeout => {
                Error::Timeout { operation: Operation::Message, server: "the registry".into(), after: Duration::ZERO }
            }
        }
    }
}

/// The operation that an [`Error`] belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Operation {
    /// Register an instance.
    Register,
    /// Deregister an instance.
    Deregister,
    /// Modify an instance.
    Modify,
    /// Read one instance.
    Get,
    /// List the instances of a service.
    List,
    /// Send a heartbeat.
    Beat,
    /// List the services.
    ListServices,
    /// Log in.
    Login,
    /// Fetch the list of servers from [`Config::endpoint`](crate::Config::endpoint).
    ServerList,
    /// Find the local address from which the server can be reached.
    LocalIp,
    /// Subscribe, unsubscribe or discover.
    Subscribe,
    /// Read the status.
    Status,
    /// Shut the Registry down.
    Shutdown,
    /// Wait for the Registry's answer to a message.
    Message,
}

impl Operation {
    /// Whether the client leaves the server in use when this operation fails there and succeeds on another server.
    pub(crate) fn decides_server(self) -> bool {
        matches!(self, Operation::Register | Operation::Beat | Operation::List)
    }

    /// Whether a registered instance can expire while this operation waits.
    pub(crate) fn keeps_registered(self) -> bool {
        matches!(self, Operation::Register | Operation::Beat)
    }

    /// Whether every server that speaks a protocol offers this operation in that protocol. Nacos 3.0 still speaks v1
    /// but offers the other operations only in v3's admin API.
    pub(crate) fn is_in_every_api(self) -> bool {
        matches!(self, Operation::Register | Operation::Deregister | Operation::List | Operation::Beat)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Operation::Register => "register instance",
            Operation::Deregister => "deregister instance",
            Operation::Modify => "modify instance",
            Operation::Get => "get instance",
            Operation::List => "list instances",
            Operation::Beat => "send heartbeat",
            Operation::ListServices => "list services",
            Operation::Login => "log in",
            Operation::ServerList => "fetch server list",
            Operation::LocalIp => "find local address",
            Operation::Subscribe => "subscribe",
            Operation::Status => "get status",
            Operation::Shutdown => "shut down",
            Operation::Message => "send message",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_transient_errors_are_retryable() {
        let refused =
            |status| Error::Refused { operation: Operation::List, server: "a:1".into(), status, body: String::new() };
        assert!(refused(503).is_retryable());
        assert!(refused(429).is_retryable() && refused(30_000).is_retryable());
        assert!(!refused(400).is_retryable());
        assert!(!refused(21_000).is_retryable(), "v3's own code for a bad service name");
        assert_eq!(refused(400).status(), Some(400));
        assert!(!Error::Stopped.is_retryable());
        assert!(!Error::invalid("port", "must not be 0").is_retryable());
        assert!(Error::from(MailboxError::Timeout).is_retryable());
        assert_eq!(Error::from(MailboxError::Closed), Error::Stopped);
    }

    #[test]
    fn an_error_serialises_with_its_kind_and_facts() {
        let json = |error: Error| serde_json::to_value(error).unwrap();
        assert_eq!(json(Error::Stopped), serde_json::json!({ "kind": "stopped" }));
        let refused =
            Error::Refused { operation: Operation::List, server: "a:1".into(), status: 503, body: "no".into() };
        let facts =
            serde_json::json!({ "kind": "refused", "operation": "list", "server": "a:1", "status": 503, "body": "no" });
        assert_eq!(json(refused), facts);
        assert_eq!(json(Error::from(MailboxError::Timeout))["after_ms"], 0);
    }

    #[test]
    fn texts_name_the_field_or_the_operation_and_the_server() {
        assert_eq!(Error::invalid("port", "must not be 0").to_string(), "invalid port: must not be 0");
        let gone = Error::NotFound { instance: "orders".into(), may_be_disabled: true };
        assert_eq!(gone.to_string(), "orders is not registered, or it is disabled");
        let expired = Error::from(MailboxError::Timeout);
        assert_eq!(expired.to_string(), "send message: no answer from the registry in time");
        let (operation, server) = (Operation::List, "a:1".into());
        let late = Error::Timeout { operation, server, after: Duration::from_millis(1500) };
        assert_eq!(late.to_string(), "list instances: no answer from a:1 within 1.5s");
    }
}
