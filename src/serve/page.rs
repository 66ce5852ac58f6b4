//! The live page.

use actix_web::{
    http::header::LOCATION,
    web::{self, ServiceConfig},
    HttpRequest, HttpResponse,
};

use super::StatusRoutes;

/// Mounts the page at `prefix` and a slash.
pub(super) fn configure(app: &mut ServiceConfig, prefix: &str, routes: web::Data<StatusRoutes>) {
    let page = web::scope(prefix).app_data(routes).route("", web::get().to(with_slash)).route("/", web::get().to(page));
    app.service(page);
}

/// Relative links need the slash. Relative itself: the page may be behind a proxy under another path.
async fn with_slash(request: HttpRequest) -> HttpResponse {
    let last = request.path().rsplit('/').next().unwrap_or_default();
    HttpResponse::PermanentRedirect().insert_header((LOCATION, format!("{last}/"))).finish()
}

async fn page(routes: web::Data<StatusRoutes>, request: HttpRequest) -> HttpResponse {
    if let Some(rejection) = routes.access().refuses_to_show(&request) {
        return rejection;
    }
    match routes.status().await {
        Ok(status) => HttpResponse::Ok().json(status),
        Err(error) => HttpResponse::ServiceUnavailable().json(error),
    }
}
