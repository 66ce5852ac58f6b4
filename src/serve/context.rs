//! What the handlers of all routes share.

use actix::{Addr, WeakAddr};

use super::access::Access;
use crate::{
    error::Error,
    registry::{Registry, Shutdown},
};

/// The Registry that the routes report, and the rules of one [`StatusRoutes`](super::StatusRoutes). Each worker of the
/// server has a clone.
#[derive(Clone)]
pub(super) struct RouteContext {
    /// Weak, so that the routes do not keep the Registry alive.
    pub(super) registry: WeakAddr<Registry>,
    /// Who may see metrics and the page.
    pub(super) access: Access,
    /// Whether the process is ready only once each instance has been registered.
    pub(super) is_strict: bool,
    /// How `/offline` shuts the Registry down.
    pub(super) shutdown: Shutdown,
}

impl RouteContext {
    /// The Registry, unless it has ended.
    pub(super) fn registry(&self) -> Result<Addr<Registry>, Error> {
        self.registry.upgrade().ok_or(Error::Stopped)
    }
}
