//! The handler of each request, by dialect.
//!
//! There is one table for each API. A route names who may use it ([`Guard`]) and which [`Operation`] it is, so that
//! faults and counters can be limited to operations. [`find`] searches first what 3.0 has turned off, then v1, then v3.

use crate::error::Operation;

use super::{
    auth::{self, Guard},
    call::Call,
    dialect::Dialect,
    filter,
    reply::Reply,
    state::State,
    v1_catalog, v1_instance, v1_namespaces, v1_operator, v1_service, v3_admin, v3_client,
};

type Handler = fn(&mut State, &Call) -> Result<Reply, Reply>;

pub(crate) struct Route {
    pub(crate) operation: Option<Operation>,
    guard: Guard,
    action: Action,
}

/// What a route does. An unknown path is answered with 501 below v1's naming API, and with 404 elsewhere.
enum Action {
    Serve(Handler),
    /// Turned off in favour of another API, by the settings of `api`.
    Gone {
        method: &'static str,
        instead: &'static str,
        api: &'static str,
    },
    /// A path below v1's naming API without a controller.
    NotImplemented,
    Missing,
}

/// Finds the route of a request. `path` is relative to the context path, or `None` if the request is not below that
/// path.
pub(crate) fn find(dialect: Dialect, method: &str, path: Option<&str>) -> Route {
    let Some(path) = path else { return Route::of(Action::Missing) };
    let gone = (dialect == Dialect::V3_0).then(|| gone_in_3(method, path)).flatten();
    let v1 = || dialect.has_v1().then(|| v1(dialect, method, path)).flatten();
    let v3 = || dialect.has_v3().then(|| v3(method, path)).flatten();
    gone.or_else(v1).or_else(v3).unwrap_or_else(|| {
        let is_v1_naming = dialect.has_v1() && path.starts_with("/v1/ns/");
        Route::of(if is_v1_naming { Action::NotImplemented } else { Action::Missing })
    })
}

/// Serves the request.
///
/// Checks the token first, then the filter, then calls the handler, as Nacos does. So a request without a token gets no
/// other error.
pub(crate) fn serve(state: &mut State, route: &Route, call: &Call) -> Reply {
    let unix_millis = state.clock.unix_millis();
    match &route.action {
        Action::Serve(handler) => state
            .authorize(call, route.guard)
            .and_then(|()| filter::check(&call.parameters, &call.path, unix_millis))
            .and_then(|()| handler(state, call))
            .unwrap_or_else(|rejection| rejection),
        Action::Gone { method, instead, api } => Reply::gone(method, instead, api, &call.path, unix_millis),
        Action::NotImplemented => Reply::not_implemented(&call.method, &call.path, unix_millis),
        Action::Missing => Reply::spring(404, "No message available", &call.path, unix_millis),
    }
}

impl Route {
    fn of(action: Action) -> Self {
        Route { operation: None, guard: Guard::Open, action }
    }

    fn open(handler: Handler) -> Self {
        Route::of(Action::Serve(handler))
    }

    fn naming(operation: impl Into<Option<Operation>>, handler: Handler) -> Self {
        Route { operation: operation.into(), guard: Guard::Naming, action: Action::Serve(handler) }
    }

    fn admin(operation: impl Into<Option<Operation>>, handler: Handler) -> Self {
        Route { operation: operation.into(), guard: Guard::Admin, action: Action::Serve(handler) }
    }

    fn login() -> Self {
        Route { operation: Some(Operation::Login), ..Route::open(auth::login) }
    }
}

/// The v1 API of 1.4, 2.x and 3.0.
fn v1(dialect: Dialect, method: &str, path: &str) -> Option<Route> {
    use Operation::{Beat, Deregister, Get, List, ListServices, Modify, Register};
    let is_v1_4 = dialect.is_v1_4();
    Some(match (method, path) {
        ("POST", "/v1/ns/instance") => Route::naming(Register, v1_instance::register),
        ("DELETE", "/v1/ns/instance") => Route::naming(Deregister, v1_instance::deregister),
        ("PUT", "/v1/ns/instance") => Route::naming(Modify, v1_instance::overwrite),
        ("PATCH", "/v1/ns/instance") => Route::naming(Modify, v1_instance::patch),
        ("GET", "/v1/ns/instance") => Route::naming(Get, v1_instance::get),
        ("GET", "/v1/ns/instance/list") => Route::naming(List, v1_instance::list),
        ("PUT", "/v1/ns/instance/beat") => Route::naming(Beat, v1_instance::beat),
        ("PUT", "/v1/ns/instance/metadata/batch") => Route::naming(Modify, v1_instance::put_metadata),
        ("DELETE", "/v1/ns/instance/metadata/batch") => Route::naming(Modify, v1_instance::remove_metadata),
        ("GET", "/v1/ns/service/list") => Route::naming(ListServices, v1_service::list),
        ("GET", "/v1/ns/service") => Route::naming(None, v1_service::get),
        ("POST", "/v1/ns/service") => Route::naming(None, v1_service::create),
        ("PUT", "/v1/ns/service") => Route::naming(None, v1_service::update),
        ("DELETE", "/v1/ns/service") => Route::naming(None, v1_service::delete),
        ("GET", "/v1/ns/operator/metrics") => Route::open(v1_operator::metrics),
        ("GET", "/v1/ns/operator/servers") if is_v1_4 => Route::open(v1_operator::servers),
        ("GET", "/v1/ns/service/subscribers") => Route::naming(None, v1_service::subscribers),
        ("GET", "/v1/ns/catalog/services") => Route::naming(None, v1_catalog::services),
        ("GET", "/v1/ns/catalog/instances") => Route::naming(None, v1_catalog::instances),
        ("GET", "/v1/ns/operator/switches") => Route::open(v1_operator::switches),
        ("PUT", "/v1/ns/operator/switches") => Route::naming(None, v1_operator::change_switch),
        ("GET", "/v1/console/namespaces") => Route::open(v1_namespaces::get),
        ("POST", "/v1/console/namespaces") => Route::naming(None, v1_namespaces::create),
        ("PUT", "/v1/console/namespaces") => Route::naming(None, v1_namespaces::edit),
        ("DELETE", "/v1/console/namespaces") => Route::naming(None, v1_namespaces::delete),
        ("GET", "/v1/console/server/state") => Route::open(v1_operator::server_state),
        ("GET", "/v1/console/health/liveness" | "/v1/console/health/readiness") => Route::open(v1_operator::health),
        ("POST", "/v1/auth/login" | "/v1/auth/users/login") => Route::login(),
        _ => return None,
    })
}

/// The parts of the v3 API that clients use. The client API is for everybody, the admin API needs a token in any
/// case.
fn v3(method: &str, path: &str) -> Option<Route> {
    use Operation::{Deregister, Get, List, ListServices, Modify, Register};
    Some(match (method, path) {
        ("POST", "/v3/client/ns/instance") => Route::naming(Register, v3_client::register_or_beat),
        ("DELETE", "/v3/client/ns/instance") => Route::naming(Deregister, v3_client::deregister),
        ("GET", "/v3/client/ns/instance/list") => Route::naming(List, v3_client::list),
        ("POST", "/v3/auth/user/login") => Route::login(),
        ("GET", "/v3/admin/ns/service/list") => Route::admin(ListServices, v3_admin::list_services),
        ("GET", "/v3/admin/ns/instance/list") => Route::admin(None, v3_admin::list),
        ("GET", "/v3/admin/ns/instance") => Route::admin(Get, v3_admin::get),
        ("PUT", "/v3/admin/ns/instance") => Route::admin(Modify, v3_admin::overwrite),
        ("GET", "/v3/admin/core/state/liveness" | "/v3/admin/core/state/readiness") => Route::open(v3_admin::health),
        ("GET", "/v3/admin/core/state") => Route::open(v3_admin::server_state),
        _ => return None,
    })
}

/// The part of v1 that 3.0 turns off in its default settings.
fn gone_in_3(method: &str, path: &str) -> Option<Route> {
    let (instead_method, instead, api, operation) = match (method, path) {
        ("GET", "/v1/ns/instance") => ("GET", "/v3/admin/ns/instance", "admin", Some(Operation::Get)),
        ("PUT", "/v1/ns/instance") => ("PUT", "/v3/admin/ns/instance", "admin", Some(Operation::Modify)),
        ("PATCH", "/v1/ns/instance") => ("PUT", "/v3/admin/ns/instance/partial", "admin", Some(Operation::Modify)),
        ("PUT", "/v1/ns/instance/metadata/batch") => {
            ("PUT", "/v3/admin/ns/instance/metadata/batch", "admin", Some(Operation::Modify))
        }
        ("DELETE", "/v1/ns/instance/metadata/batch") => {
            ("DELETE", "/v3/admin/ns/instance/metadata/batch", "admin", Some(Operation::Modify))
        }
        ("GET", "/v1/ns/service") => ("GET", "/v3/admin/ns/service", "admin", None),
        ("POST", "/v1/ns/service") => ("POST", "/v3/admin/ns/service", "admin", None),
        ("PUT", "/v1/ns/service") => ("PUT", "/v3/admin/ns/service", "admin", None),
        ("DELETE", "/v1/ns/service") => ("DELETE", "/v3/admin/ns/service", "admin", None),
        ("GET", "/v1/ns/operator/switches") => ("GET", "/v3/admin/ns/ops/switches", "admin", None),
        ("PUT", "/v1/ns/operator/switches") => ("PUT", "/v3/admin/ns/ops/switches", "admin", None),
        ("GET", "/v1/ns/service/subscribers") => ("GET", "/v3/admin/ns/service/subscribers", "admin", None),
        ("GET", "/v1/ns/catalog/services") => ("GET", "/v3/console/ns/service/list", "console", None),
        ("GET", "/v1/ns/catalog/instances") => ("GET", "/v3/console/ns/instance/list", "console", None),
        ("GET", "/v1/console/namespaces") => ("GET", "/v3/console/core/namespace/list", "console", None),
        ("POST", "/v1/console/namespaces") => ("POST", "/v3/console/core/namespace", "console", None),
        ("PUT", "/v1/console/namespaces") => ("PUT", "/v3/console/core/namespace", "console", None),
        ("DELETE", "/v1/console/namespaces") => ("DELETE", "/v3/console/core/namespace", "console", None),
        ("GET", "/v1/console/server/state") => ("GET", "/v3/console/server/state", "console", None),
        ("GET", "/v1/console/health/liveness") => ("GET", "/v3/console/health/liveness", "console", None),
        ("GET", "/v1/console/health/readiness") => ("GET", "/v3/console/health/readiness", "console", None),
        _ => return None,
    };
    Some(Route { operation, ..Route::of(Action::Gone { method: instead_method, instead, api }) })
}
