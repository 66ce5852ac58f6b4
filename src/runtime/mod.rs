//! What actors and threads need besides actix: supervision, timers, waiting, and the history of recent events.
//!
//! Nothing here depends on Nacos. What runs in the Registry's thread must not block.

pub(crate) mod blocking;
pub(crate) mod history;
pub(crate) mod sockets;
pub(crate) mod supervision;
pub(crate) mod timer_grid;
#[cfg(any(feature = "actix-web", feature = "embedded"))]
pub(crate) mod web_page;
