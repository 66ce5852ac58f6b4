//! What actors and threads need besides actix: supervision, timers, and waiting.

pub(crate) mod blocking;
pub(crate) mod supervision;
pub(crate) mod timer_grid;
