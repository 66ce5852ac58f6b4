//! The live page: one document without anything from elsewhere, and the stream of events that it shows.

use std::sync::LazyLock;

use actix_web::{
    http::header::{
        CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION, REFERRER_POLICY,
        X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
    },
    web::{self, ServiceConfig},
    HttpRequest, HttpResponse,
};
use base64::{engine::general_purpose::STANDARD as BASE64, Engine as _};
use sha2::{Digest as _, Sha256};

use super::{live, StatusRoutes};

const PAGE: &str = include_str!("page.html");

/// Allows the page's own script and style, known by their hashes, and nothing else.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    format!(
        "default-src 'none'; script-src '{}'; style-src '{}'; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        hash_of("script"),
        hash_of("style")
    )
});

/// Of the one such element in the page, as a Content-Security-Policy wants it.
fn hash_of(element: &str) -> String {
    let (open, close) = (format!("<{element}>"), format!("</{element}>"));
    let content =
        PAGE.split_once(&open).and_then(|(_, rest)| rest.split_once(&close)).map_or("", |(content, _)| content);
    format!("sha256-{}", BASE64.encode(Sha256::digest(content)))
}

/// Mounts the page at `prefix` and a slash.
pub(super) fn configure(app: &mut ServiceConfig, prefix: &str, routes: web::Data<StatusRoutes>) {
    let page = web::scope(prefix)
        .app_data(routes)
        .route("", web::get().to(with_slash))
        .route("/", web::get().to(page))
        .route("/events", web::get().to(events));
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
    HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, "text/html; charset=utf-8"))
        .insert_header((CONTENT_SECURITY_POLICY, POLICY.as_str()))
        .insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((X_FRAME_OPTIONS, "DENY"))
        .insert_header((REFERRER_POLICY, "no-referrer"))
        .insert_header((CACHE_CONTROL, "no-store"))
        .body(PAGE)
}

async fn events(routes: web::Data<StatusRoutes>, request: HttpRequest) -> HttpResponse {
    if let Some(rejection) = routes.access().refuses_to_show(&request) {
        return rejection;
    }
    let Some(events) = live::events(routes) else {
        return HttpResponse::ServiceUnavailable()
            .content_type("text/plain; charset=utf-8")
            .body("too many pages are open\n");
    };
    HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, "text/event-stream"))
        .insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((CACHE_CONTROL, "no-store, no-transform"))
        // Neither the application's compression nor a proxy may hold events back.
        .insert_header((CONTENT_ENCODING, "identity"))
        .insert_header(("X-Accel-Buffering", "no"))
        .streaming(events)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_needs_nothing_that_its_policy_forbids() {
        assert_eq!((PAGE.matches("<script").count(), PAGE.matches("<style").count()), (1, 1));
        for forbidden in [" src=", "@import", "url(", " style=", " onclick", "innerHTML", "insertAdjacent", "eval("] {
            assert!(!PAGE.contains(forbidden), "{forbidden}");
        }
        assert!(
            !PAGE.contains("href=\"/") && !PAGE.contains("fetch(\"/"),
            "a proxy may put the page under another path"
        );
        assert_ne!(hash_of("script"), hash_of("missing"));
    }
}
