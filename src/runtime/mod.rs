//! Supervision, timers and waiting: what actors and threads need besides actix.

pub(crate) mod blocking;
pub(crate) mod supervision;
pub(crate) mod timer_grid;
