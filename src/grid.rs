//! Timers on a common grid: those that fall due together cost one wake-up.
//!
//! 100,000 heartbeats at 5 s wake the process 10 times a second and not 20,000 times.

use std::time::Duration;

use actix_rt::time::Instant;

const STEP: Duration = Duration::from_millis(100);

/// The grid of one Registry: its points must be the same for all timers, so it has one origin.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grid {
    origin: Instant,
}

impl Grid {
    pub(crate) fn new() -> Self {
        Grid { origin: Instant::now() }
    }

    /// How long to wait for the first point of the grid that is not before `due`.
    pub(crate) fn wait_for(&self, due: Instant) -> Duration {
        let since = due.saturating_duration_since(self.origin).as_millis();
        let points = u32::try_from(since.div_ceil(STEP.as_millis())).unwrap_or(u32::MAX);
        (self.origin + STEP.saturating_mul(points)).saturating_duration_since(Instant::now())
    }
}
