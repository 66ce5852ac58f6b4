//! Health checks, and going offline by request.
//!
//! The three checks answer different questions. Mixing them up takes processes out of service for no reason:
//!
//! - `/livez`: must this process be restarted? It does not ask the Registry: restarting a process does not repair
//!   Nacos.
//! - `/readyz`: may requests be sent here? Only a rejected or unfinished registration and a shutdown lead to a 503. An
//!   outage of the registry does not, since callers still have their lists. Nor does a single rejected heartbeat.
//! - `/offline`: deregister now. A hook that runs before the process is stopped calls it.

use std::time::Duration;

use actix_rt::time::{sleep, timeout};
use actix_web::{http::StatusCode, web, HttpRequest, HttpResponse};

use super::context::RouteContext;
use crate::{
    error::Error,
    registry::{GetReadiness, Readiness},
};

/// The time limit of a check. The Registry answers from memory, and most probes time out after a second.
const LONGEST_CHECK: Duration = Duration::from_millis(800);
/// How often to check whether a shutdown that was requested elsewhere is done.
const SHUTDOWN_CHECK: Duration = Duration::from_millis(20);

/// Always 200: the process serves. An outage of the registry is no reason to restart the process.
pub(super) async fn livez() -> HttpResponse {
    text(StatusCode::OK, "ok".into())
}

/// Answers 200 or 503. The body of a 503 is one line with the reason.
pub(super) async fn readyz(context: web::Data<RouteContext>) -> HttpResponse {
    match timeout(LONGEST_CHECK, readiness(&context)).await {
        Ok(Ok(readiness)) if readiness.is_ready() => text(StatusCode::OK, "ok".into()),
        Ok(Ok(readiness)) => text(StatusCode::SERVICE_UNAVAILABLE, reason(readiness)),
        Ok(Err(_)) => text(StatusCode::SERVICE_UNAVAILABLE, "not ready: going offline".into()),
        Err(_) => text(StatusCode::SERVICE_UNAVAILABLE, "not ready: the registry client does not answer".into()),
    }
}

/// # Errors
/// [`Error::Stopped`] from the moment a shutdown begins.
async fn readiness(context: &RouteContext) -> Result<Readiness, Error> {
    context.registry()?.send(GetReadiness { strict: context.is_strict }).await?
}

/// Describes the readiness without names, because everybody may read it.
fn reason(Readiness { is_starting, rejected, pending }: Readiness) -> String {
    if is_starting {
        return "not ready: registration has not begun".into();
    }
    format!("not ready: {rejected} registrations rejected, {pending} pending")
}

/// Takes the process out of service, for example for `preStop` of Kubernetes, and answers when callers have noticed.
/// The process keeps serving. Further requests wait for the same shutdown.
///
/// | answer | meaning |
/// |---|---|
/// | 200 with a report as JSON | this request has shut the Registry down |
/// | 200 `offline` | another request has shut the Registry down |
/// | 401, 403 | no token that is accepted here |
/// | 500 with the error as JSON | the Registry failed to shut down |
pub(super) async fn offline(context: web::Data<RouteContext>, request: HttpRequest) -> HttpResponse {
    if let Some(rejection) = context.access.refuses_to_change(&request) {
        return rejection;
    }
    let is_offline = || text(StatusCode::OK, "offline".into());
    let Ok(registry) = context.registry() else { return is_offline() };
    match registry.send(context.shutdown.clone()).await.unwrap_or_else(|closed| Err(closed.into())) {
        Ok(report) => HttpResponse::Ok().json(report),
        Err(Error::Stopped) => {
            while registry.connected() {
                sleep(SHUTDOWN_CHECK).await;
            }
            is_offline()
        }
        Err(error) => HttpResponse::InternalServerError().json(error),
    }
}

fn text(status: StatusCode, line: String) -> HttpResponse {
    let mut response = HttpResponse::build(status);
    response.content_type("text/plain; charset=utf-8").insert_header(("cache-control", "no-store")).body(line + "\n")
}
