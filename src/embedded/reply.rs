//! Answers in the forms of Nacos.
//!
//! Nacos has four forms of errors, by where a request fails: plain text from a v1 controller, plain text that ends
//! with a line break from the filter, a Spring page as JSON, and a frame with `code`, `message` and `data` in v3.
//! Clients see all of them.

use serde::Serialize;

use crate::wire::{signature::utc_date, v1::SpringError};

use super::dialect::Dialect;

/// The answer to a request. Errors are answers too, so handlers return `Result<Reply, Reply>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) content_type: Option<&'static str>,
    pub(crate) body: String,
}

const TEXT: &str = "text/plain;charset=UTF-8";
pub(crate) const JSON: &str = "application/json";

impl Reply {
    /// The answer to a change in v1: the text `ok`.
    pub(crate) fn ok() -> Self {
        Reply::text(200, "ok")
    }

    pub(crate) fn text(status: u16, body: impl Into<String>) -> Self {
        Reply { status, content_type: Some(TEXT), body: body.into() }
    }

    pub(crate) fn json(body: &impl Serialize) -> Self {
        Reply::json_with(200, body)
    }

    pub(crate) fn json_with(status: u16, body: &impl Serialize) -> Self {
        match serde_json::to_string(body) {
            Ok(body) => Reply { status, content_type: Some(JSON), body },
            Err(error) => Reply::text(500, error.to_string()),
        }
    }

    /// An error of a v1 controller.
    pub(crate) fn v1_error(dialect: Dialect, status: u16, message: &str) -> Self {
        Reply::text(status, dialect.error_text(message))
    }

    /// An error of the filter in front of the controllers since 2.x (`ParamCheckerFilter`).
    pub(crate) fn filtered(message: &str) -> Self {
        Reply { status: 400, content_type: None, body: format!("{message}\r\n") }
    }

    /// The answer to a path of v1's naming API that does not exist: 501, not 404.
    pub(crate) fn not_implemented(method: &str, path: &str, unix_millis: i64) -> Self {
        let message = format!("no such api:{method}:{path}");
        Reply::spring(501, &message, path, unix_millis)
    }

    /// The answer of 3.0 for a part of v1 that is turned off in favour of `instead`.
    pub(crate) fn gone(method: &str, instead: &str, api: &str, path: &str, unix_millis: i64) -> Self {
        let message = format!(
            "{{\"code\":40000,\"message\":\"Current API will be deprecated, please use API(s) `{method} \
             ${{contextPath:nacos}}{instead}` instead, or set `nacos.core.api.compatibility.{api}.enabled=true` in \
             application.properties.\"}}"
        );
        Reply::spring(410, &message, path, unix_millis)
    }

    /// Spring's error page as JSON.
    pub(crate) fn spring(status: u16, message: &str, path: &str, unix_millis: i64) -> Self {
        let error = match status {
            400 => "Bad Request",
            403 => "Forbidden",
            404 => "Not Found",
            410 => "Gone",
            501 => "Not Implemented",
            _ => "Internal Server Error",
        };
        let page = SpringError {
            timestamp: timestamp(unix_millis),
            status,
            error: error.into(),
            message: message.into(),
            path: path.into(),
        };
        Reply::json_with(status, &page)
    }
}

/// `2026-11-24T03:01:44.938+00:00`.
fn timestamp(unix_millis: i64) -> String {
    let (days, of_day) = (unix_millis.div_euclid(86_400_000), unix_millis.rem_euclid(86_400_000));
    let (year, month, day) = utc_date(days);
    let (hours, minutes, seconds, millis) =
        (of_day / 3_600_000, of_day / 60_000 % 60, of_day / 1000 % 60, of_day % 1000);
    format!("{year:04}-{month:02}-{day:02}T{hours:02}:{minutes:02}:{seconds:02}.{millis:03}+00:00")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_utc_dates() {
        assert_eq!(timestamp(0), "1970-01-01T00:00:00.000+00:00");
        assert_eq!(timestamp(951_782_400_000), "2000-02-29T00:00:00.000+00:00");
        assert_eq!(timestamp(1_795_489_304_938), "2026-11-24T03:01:44.938+00:00");
        assert_eq!(timestamp(1_735_689_599_999), "2024-12-31T23:59:59.999+00:00");
        assert_eq!(timestamp(i64::MAX), "292278994-08-17T07:12:55.807+00:00");
        assert_eq!(timestamp(i64::MIN), "-292275055-05-16T16:47:04.192+00:00");
    }
}
