//! The routes of the live page: one document that loads nothing from other sites, and the stream of events that it
//! shows.
//!
//! The document is static. Its content security policy names its own script and style by their hashes, so a name
//! that Nacos lists can run no script in the page, whatever it contains.

use std::sync::{Arc, LazyLock};

use actix_web::{
    web::{self, ServiceConfig},
    HttpRequest, HttpResponse,
};

use super::{
    context::RouteContext,
    live::{self, Live},
};
use crate::runtime::web_page::{self, WebPage};

static PAGE: LazyLock<WebPage> = LazyLock::new(|| WebPage::new(include_str!("page.html")));

/// Mounts the page at `prefix`, with and without a slash at the end. A redirect from one to the other would never end
/// in an application that normalizes paths. A scope would take all paths below the prefix; at the root these are all
/// paths of the application.
pub(super) fn configure(app: &mut ServiceConfig, prefix: &str, context: &web::Data<RouteContext>, live: &Arc<Live>) {
    let prefix = prefix.trim_matches('/');
    let prefix = if prefix.is_empty() { String::new() } else { format!("/{prefix}") };
    let page_paths = [prefix.clone(), format!("{prefix}/")];
    app.service(web::resource(page_paths).app_data(context.clone()).get(page));
    let events_path = web::resource(format!("{prefix}/events"));
    app.service(events_path.app_data(context.clone()).app_data(web::Data::from(live.clone())).get(events));
}

/// The document itself reveals nothing. It is protected so that a browser asks for the password before the page
/// asks for its events.
async fn page(context: web::Data<RouteContext>, request: HttpRequest) -> HttpResponse {
    if let Some(rejection) = context.access.refuses_to_show(&request) {
        return rejection;
    }
    PAGE.answer()
}

/// The stream, or 503 if too many pages are open.
async fn events(context: web::Data<RouteContext>, live: web::Data<Live>, request: HttpRequest) -> HttpResponse {
    if let Some(rejection) = context.access.refuses_to_show(&request) {
        return rejection;
    }
    match live::events(context, live.into_inner()) {
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
        PAGE.assert_within_policy();
    }
}
