//! The route of the metrics.
//!
//! Prometheus sends the token as `authorization: {credentials: …}` of a scrape job. See
//! [`RegistryStatus::to_prometheus`](crate::RegistryStatus::to_prometheus) for the text.

use std::time::Duration;

use actix_rt::time::timeout;
use actix_web::{web, HttpRequest, HttpResponse};

use super::context::RouteContext;
use crate::{
    error::Error,
    registry::{snapshot::GetSnapshot, RegistryStatus},
};

/// The content type of the text format.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// The time limit of a scrape. Prometheus gives up after 10 s by default.
const LONGEST_SCRAPE: Duration = Duration::from_secs(5);

/// Answers 200 with the text, 401 or 403 to a request without access, and 503 after the Registry's end.
pub(super) async fn metrics(context: web::Data<RouteContext>, request: HttpRequest) -> HttpResponse {
    if let Some(rejection) = context.access.refuses_to_show(&request) {
        return rejection;
    }
    match timeout(LONGEST_SCRAPE, status(&context)).await {
        Ok(Ok(status)) => HttpResponse::Ok().content_type(CONTENT_TYPE).body(status.to_prometheus()),
        Ok(Err(error)) => HttpResponse::ServiceUnavailable().body(format!("{error}\n")),
        Err(_) => HttpResponse::ServiceUnavailable().body("the registry client does not answer\n"),
    }
}

/// Asks the Registry for its status, also while it drains.
///
/// # Errors
/// [`Error::Stopped`] after the Registry's end.
async fn status(context: &RouteContext) -> Result<RegistryStatus, Error> {
    context.registry()?.send(GetSnapshot).await?.map(|snapshot| snapshot.status)
}
