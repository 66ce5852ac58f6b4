//! The route of the metrics.

use actix_web::{web, HttpRequest, HttpResponse};

use super::StatusRoutes;

pub(super) async fn metrics(routes: web::Data<StatusRoutes>, request: HttpRequest) -> HttpResponse {
    if let Some(rejection) = routes.access().refuses_to_show(&request) {
        return rejection;
    }
    HttpResponse::Ok().finish()
}
