//! The HTTP answer for a handler that returns an error of this crate.
//!
//! `ResponseError` belongs to actix-web, so this is the one place where an error of the crate becomes a status.

use actix_web::{http::StatusCode, HttpResponse, ResponseError};

use crate::error::Error;

/// A handler can write `registry.send(…).await??` and return a `Result<_, actix_nacos::Error>`.
///
/// The status is 503 for a retryable error and for a Registry that has ended, 502 if a registry server rejected the
/// request, and otherwise 500. The body is only the name of the status, because errors name servers, which callers need
/// not know.
///
/// | error | status | why |
/// |---|---|---|
/// | a retryable one, [`Error::Stopped`] | 503 | the caller may try again, here or at another instance |
/// | [`Error::NotFound`], `Refused`, `Unauthorized`, `Unsupported` | 502 | a registry server rejected the request |
/// | any other | 500 | invalid input, or a defect |
///
/// # Examples
///
/// ```
/// use actix::Addr;
/// use actix_nacos::prelude::*;
/// use actix_web::{web, HttpResponse};
///
/// async fn services(registry: web::Data<Addr<Registry>>) -> Result<HttpResponse, Error> {
///     let page = registry.send(ListServices::new(1, 100)).await??;
///     Ok(HttpResponse::Ok().json(page))
/// }
/// ```
///
/// To show the error itself, map it before `?`: `.map_err(actix_web::error::ErrorBadGateway)`.
impl ResponseError for Error {
    fn status_code(&self) -> StatusCode {
        match self {
            error if error.is_retryable() => StatusCode::SERVICE_UNAVAILABLE,
            Error::Stopped => StatusCode::SERVICE_UNAVAILABLE,
            Error::NotFound { .. } | Error::Refused { .. } | Error::Unauthorized { .. } | Error::Unsupported { .. } => {
                StatusCode::BAD_GATEWAY
            }
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn error_response(&self) -> HttpResponse {
        let status = self.status_code();
        let body = status.canonical_reason().unwrap_or_default().to_ascii_lowercase();
        HttpResponse::build(status).content_type("text/plain; charset=utf-8").body(body + "\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Operation;

    #[test]
    fn the_status_of_an_error_says_whether_to_try_again() {
        let refused = |status| Error::Refused {
            operation: Operation::List,
            server: "192.0.2.1:8848".into(),
            status,
            body: "secret place".into(),
        };
        let status = |error: Error| ResponseError::status_code(&error).as_u16();
        assert_eq!((status(refused(503)), status(Error::Stopped)), (503, 503));
        assert_eq!(status(refused(403)), 502);
        assert_eq!(status(Error::invalid("port", "must not be 0")), 500);
        assert_eq!(status(Error::from(std::io::Error::other("no port"))), 500);
        let body = actix_web::body::MessageBody::try_into_bytes(refused(403).error_response().into_body());
        assert_eq!(body.unwrap(), "bad gateway\n");
    }
}
