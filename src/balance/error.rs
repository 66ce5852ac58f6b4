//! Errors of this crate inside awc's error.
//!
//! An awc middleware can return only awc's `SendRequestError`. An error of this crate is wrapped in the variant
//! `Custom`, and [`cause`] unwraps it.

use std::{fmt, io};

use awc::error::{ConnectError, SendRequestError};

use crate::{error::Error, model::service::ServiceName};

/// Returns the error of this crate that made a call by name fail: no instance, an invalid setting, or the end of the
/// Registry. `None` if the call failed for another reason, such as a refused connection.
///
/// ```
/// use actix_nacos::{balance, Error};
///
/// async fn status(http: &balance::Client) -> u16 {
///     match http.get("http://orders/").send().await {
///         Ok(answer) => answer.status().as_u16(),
///         Err(error) if matches!(balance::cause(&error), Some(Error::NoInstance { .. })) => 503,
///         Err(_) => 502,
///     }
/// }
/// ```
///
/// What to do about each:
///
/// | error | meaning | what helps |
/// |---|---|---|
/// | [`Error::NoInstance`] | no instance could be called in time | answer 503; its `reasons` say why |
/// | [`Error::InvalidInput`] | a setting of the client is invalid | fix the program: every call fails |
/// | the same, field `host` | perhaps too many services under the suffix | raise `services_under_suffix` |
/// | [`Error::Stopped`] | the Registry ended before the first call of the service | nothing: the process is ending |
///
/// A service that was called before the Registry ended is still called, by its last list.
pub fn cause(error: &SendRequestError) -> Option<&Error> {
    match error {
        SendRequestError::Custom(error, _) => error.downcast_ref(),
        _ => None,
    }
}

/// Wraps an error of this crate in awc's error.
pub(super) fn into_awc(error: Error) -> SendRequestError {
    SendRequestError::Custom(Box::new(error), Box::new(Plain("call by name".into())))
}

/// Adds to a connection error that the list is stale, because the instance may be gone. The result is a
/// [`ConnectError::Io`] of the matching kind. Errors that cannot carry a text are returned unchanged.
pub(super) fn of_stale_list(error: ConnectError, service: &ServiceName) -> ConnectError {
    let (kind, error) = match error {
        ConnectError::Io(error) => (error.kind(), error.to_string()),
        ConnectError::Timeout => (io::ErrorKind::TimedOut, error.to_string()),
        ConnectError::Disconnected => (io::ErrorKind::ConnectionAborted, error.to_string()),
        error => return error,
    };
    let text = format!("the list of {service} is stale, no registry server answers: {error}");
    ConnectError::Io(io::Error::new(kind, text))
}

/// A text that awc shows beside the error. awc uses the debug format, which would quote a `String`.
struct Plain(String);

impl fmt::Debug for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_read_as_one_sentence() {
        assert_eq!(into_awc(Error::Stopped).to_string(), "call by name: the registry has stopped");
        assert_eq!(cause(&into_awc(Error::Stopped)), Some(&Error::Stopped));
        let service = ServiceName::parse("orders").unwrap();
        let refused = ConnectError::Io(io::Error::new(io::ErrorKind::ConnectionRefused, "refused"));
        let stale = of_stale_list(refused, &service);
        assert!(matches!(&stale, ConnectError::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused));
        let stale = SendRequestError::Connect(stale);
        let text = stale.to_string();
        assert!(
            text.ends_with("the list of DEFAULT_GROUP@@orders is stale, no registry server answers: refused"),
            "{text}"
        );
        assert_eq!(cause(&stale), None);
    }
}
