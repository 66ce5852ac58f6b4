//! The routes of the live page: one document that loads nothing from other sites, and the stream of events that it
//! shows.
//!
//! The document is static. Its content security policy names its own script and style by their hashes, so a name
//! that Nacos lists can run no script in the page, whatever it contains.

use std::sync::LazyLock;

use actix_web::{
    web::{self, ServiceConfig},
    HttpRequest, HttpResponse,
};

use super::{live, StatusRoutes};
use crate::runtime::web_page;

const PAGE: &str = include_str!("page.html");

static POLICY: LazyLock<String> = LazyLock::new(|| web_page::policy(PAGE));

/// Mounts the page at `prefix`, with and without a slash at the end. A redirect from one to the other would never end
/// in an application that normalizes paths.
pub(super) fn configure(app: &mut ServiceConfig, prefix: &str, routes: web::Data<StatusRoutes>) {
    let page = web::scope(prefix)
        .app_data(routes)
        .route("", web::get().to(page))
        .route("/", web::get().to(page))
        .route("/events", web::get().to(events));
    app.service(page);
}

/// The document itself reveals nothing. It is protected so that a browser asks for the password before the page
/// asks for its events.
async fn page(routes: web::Data<StatusRoutes>, request: HttpRequest) -> HttpResponse {
    if let Some(rejection) = routes.access().refuses_to_show(&request) {
        return rejection;
    }
    web_page::document(PAGE, &POLICY)
}

/// The stream, or 503 if too many pages are open.
async fn events(routes: web::Data<StatusRoutes>, request: HttpRequest) -> HttpResponse {
    if let Some(rejection) = routes.access().refuses_to_show(&request) {
        return rejection;
    }
    match live::events(routes) {
        Some(events) => web_page::event_stream(events),
        None => HttpResponse::ServiceUnavailable()
            .content_type("text/plain; charset=utf-8")
            .body("too many pages are open\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_needs_nothing_that_its_policy_forbids() {
        web_page::assert_within_policy(PAGE);
    }
}
