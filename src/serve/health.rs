//! Health checks, and going offline by request.

use actix_web::{web, HttpRequest, HttpResponse};

use super::StatusRoutes;
use crate::registry::Shutdown;

/// The process serves: that is all. An outage of the registry is no reason to restart it.
pub(super) async fn livez() -> HttpResponse {
    HttpResponse::Ok().body("ok\n")
}

pub(super) async fn readyz(routes: web::Data<StatusRoutes>) -> HttpResponse {
    let _ = routes.is_strict();
    match routes.status().await {
        Ok(_) => HttpResponse::Ok().body("ok\n"),
        Err(error) => HttpResponse::ServiceUnavailable().body(format!("{error}\n")),
    }
}

pub(super) async fn offline(routes: web::Data<StatusRoutes>, request: HttpRequest) -> HttpResponse {
    if let Some(refusal) = routes.access().refuses_to_change(&request) {
        return refusal;
    }
    let Ok(registry) = routes.registry() else { return HttpResponse::Ok().finish() };
    match registry.send(Shutdown::default().drain_until_noticed()).await {
        Ok(Ok(report)) => HttpResponse::Ok().json(report),
        Ok(Err(_)) | Err(_) => HttpResponse::Ok().finish(),
    }
}
