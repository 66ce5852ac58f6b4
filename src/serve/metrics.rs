//! The route of the metrics.

use actix_web::{web, HttpRequest, HttpResponse};

use super::StatusRoutes;

pub(super) async fn metrics(routes: web::Data<StatusRoutes>, request: HttpRequest) -> HttpResponse {
    if let Err(refusal) = routes.access().may_look(&request) {
        return refusal;
    }
    HttpResponse::NotImplemented().finish()
}
