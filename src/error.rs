//! The one error type of the crate.

use std::{fmt, time::Duration};

use actix::MailboxError;
use serde::{Serialize, Serializer};

/// What went wrong, and in which step.
///
/// What to do about it: [`InvalidInput`](Error::InvalidInput), [`Unsupported`](Error::Unsupported) and
/// [`NotFound`](Error::NotFound) want another request; [`Unauthorized`](Error::Unauthorized) wants other credentials;
/// where [`is_retryable`](Error::is_retryable) says so, the same request may succeed later; after
/// [`Stopped`](Error::Stopped) this Registry answers nothing any more.
///
/// Serialises with the variant as `kind` (`"timeout"`) beside its fields, and holds no secrets.
#[derive(Debug, Clone, PartialEq, thiserror::Error, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Error {
    /// A value was refused before anything was sent. Mend the named field.
    #[error("invalid {field}: {reason}")]
    InvalidInput {
        /// The field of the message or of [`Config`](crate::Config) that is wrong.
        field: &'static str,
        /// The rule that the value breaks.
        reason: String,
    },

    /// The server has no such instance.
    #[error("{instance} is not registered{}", if *.may_be_disabled { ", or it is disabled" } else { "" })]
    NotFound {
        /// The instance that was asked for.
        instance: String,
        /// The server can only be asked for lists, which leave disabled instances out: the instance may exist all the same.
        may_be_disabled: bool,
    },

    /// No connection to the server came about, or it broke before the answer was whole. Worth a retry.
    #[error("{operation}: cannot reach {server}: {reason}")]
    Unreachable {
        /// The step that failed.
        operation: Operation,
        /// The server, as `host:port`.
        server: String,
        /// What the connection said.
        reason: String,
    },

    /// The server answered that it will not. A 5xx, a 429 and v3's own code 30000 (the server failed within) are worth a
    /// retry, anything else is not.
    #[error("{operation}: {server} answered {status}: {body}")]
    Refused {
        /// The step that failed.
        operation: Operation,
        /// The server, as `host:port`.
        server: String,
        /// The HTTP status, or the server's own error code where it sent one with HTTP 200.
        status: u16,
        /// The beginning of the answer's body.
        body: String,
    },

    /// The server does not accept the user name and password or the token, or they do not give this right.
    #[error("{operation}: {server} refuses access: {reason}")]
    Unauthorized {
        /// The step that failed.
        operation: Operation,
        /// The server, as `host:port`.
        server: String,
        /// What the server said, and what would help.
        reason: String,
    },

    /// The answer is none that this operation can have: cut off, too large, not JSON, or something else's page.
    #[error("{operation}: cannot read the answer of {server}: {reason}")]
    Unreadable {
        /// The step that failed.
        operation: Operation,
        /// The server, as `host:port`.
        server: String,
        /// What is wrong with the answer.
        reason: String,
    },

    /// No answer came in time. The operation may have taken effect all the same. Worth a retry.
    #[error("{operation}: no answer from {server}{}", within(*after))]
    Timeout {
        /// The step that was waited for.
        operation: Operation,
        /// Who was waited for: a server as `host:port`; `the registry` for a message with a timeout of its own, and for a
        /// view that has no list yet.
        server: String,
        /// How long was waited; zero where the waiting was not ours. Serialises as `after_ms`.
        #[serde(rename = "after_ms", serialize_with = "as_millis")]
        after: Duration,
    },

    /// This server cannot do it in any way.
    #[error("{operation}: {server} cannot do this: {reason}")]
    Unsupported {
        /// The operation.
        operation: Operation,
        /// The server, as `host:port`.
        server: String,
        /// Why not, and what to do instead.
        reason: String,
    },

    /// A defect in this crate or in code it was given. It cost this one operation; the Registry serves on.
    #[error("{operation}: panicked: {message}")]
    Panicked {
        /// The operation whose handler or future panicked.
        operation: Operation,
        /// The text of the panic.
        message: String,
    },

    /// No Registry came about: the present thread has no arbiter, or no thread could be had.
    #[error("the registry cannot start: {reason}")]
    NotStarted {
        /// What is missing.
        reason: String,
    },

    /// The Registry has ended and answers nothing any more. Start another.
    #[error("the registry has stopped")]
    Stopped,
}

impl Error {
    pub(crate) fn invalid(field: &'static str, reason: impl Into<String>) -> Self {
        Error::InvalidInput { field, reason: reason.into() }
    }

    /// Whether the same request may succeed later, or on another server: the server could not be reached, did not
    /// answer in time, answered unreadably, failed within (5xx, v3's 30000) or was asked too often (429).
    pub fn is_retryable(&self) -> bool {
        match self {
            Error::Unreachable { .. } | Error::Timeout { .. } | Error::Unreadable { .. } => true,
            // 30000: what v3 calls an error of the server's own. Its other codes are no better a second time.
            Error::Refused { status, .. } => matches!(status, 429 | 500..=599 | 30_000),
            _ => false,
        }
    }

    /// The HTTP status that the server refused with, or its own error code where it sent one with HTTP 200.
    pub fn status(&self) -> Option<u16> {
        match self {
            Error::Refused { status, .. } => Some(*status),
            _ => None,
        }
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

/// A closed mailbox is a Registry that has ended. An expired `addr.send(…).timeout(…)` is a timeout.
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

/// The steps that can fail; every [`Error`] of a server names one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Operation {
    /// Registering an instance.
    Register,
    /// Deregistering an instance.
    Deregister,
    /// Modifying an instance.
    Modify,
    /// Reading one instance.
    Get,
    /// Listing a service's instances.
    List,
    /// Sending a heartbeat.
    Beat,
    /// Listing the services.
    ListServices,
    /// Logging in.
    Login,
    /// Asking the `endpoint` for the list of servers.
    ServerList,
    /// Finding the local address that reaches the server.
    LocalIp,
    /// Subscribing, unsubscribing or discovering.
    Subscribe,
    /// Asking for the status.
    Status,
    /// Shutting the Registry down.
    Shutdown,
    /// Waiting for the Registry's answer to a message.
    Message,
}

impl Operation {
    /// Whether the server in use is left for another one that does this instead.
    pub(crate) fn decides_server(self) -> bool {
        matches!(self, Operation::Register | Operation::Beat | Operation::List)
    }

    /// Whether a registered instance lapses while this waits.
    pub(crate) fn keeps_registered(self) -> bool {
        matches!(self, Operation::Register | Operation::Beat)
    }

    /// Whether a server that does not speak this operation in one protocol does not speak that protocol. Nacos 3.0 has lost
    /// the others from v1, and has them in v3's admin API, while it still speaks v1.
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
            Operation::ServerList => "ask for the server list",
            Operation::LocalIp => "find the local address",
            Operation::Subscribe => "subscribe",
            Operation::Status => "get status",
            Operation::Shutdown => "shut down",
            Operation::Message => "answer a message",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_pass_is_retryable() {
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
    fn texts_name_the_field_the_operation_and_the_server() {
        assert_eq!(Error::invalid("port", "must not be 0").to_string(), "invalid port: must not be 0");
        let gone = Error::NotFound { instance: "orders".into(), may_be_disabled: true };
        assert_eq!(gone.to_string(), "orders is not registered, or it is disabled");
        let expired = Error::from(MailboxError::Timeout);
        assert_eq!(expired.to_string(), "answer a message: no answer from the registry in time");
        let (operation, server) = (Operation::List, "a:1".into());
        let late = Error::Timeout { operation, server, after: Duration::from_millis(1500) };
        assert_eq!(late.to_string(), "list instances: no answer from a:1 within 1.5s");
    }
}
