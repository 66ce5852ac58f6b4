//! The clocks for calls: a coarse clock, and an exact time that is read only when it is needed.

use std::cell::Cell;

use actix_rt::time::Instant;

/// Milliseconds of a clock that never goes back, exact to about 10 ms. The exact clock takes 23 ns to read and this one
/// 3 ns.
#[cfg(all(target_os = "linux", not(test)))]
#[inline]
pub(super) fn coarse_millis() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    (now.tv_sec as u64).wrapping_mul(1_000).wrapping_add(now.tv_nsec as u64 / 1_000_000)
}

/// Other systems have no coarse clock. Tokio's clock does not serve, because a runtime may have paused it.
#[cfg(all(not(target_os = "linux"), not(test)))]
pub(super) fn coarse_millis() -> u64 {
    static ORIGIN: std::sync::LazyLock<std::time::Instant> = std::sync::LazyLock::new(std::time::Instant::now);
    ORIGIN.elapsed().as_millis() as u64
}

/// Unit tests use a clock that they can pause.
#[cfg(test)]
pub(super) fn coarse_millis() -> u64 {
    static ORIGIN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let origin = *ORIGIN.get_or_init(|| {
        // The paused clock of another test may be behind this clock, so begin an hour earlier.
        let earlier = Instant::now().checked_sub(std::time::Duration::from_secs(3_600));
        earlier.unwrap_or_else(Instant::now)
    });
    Instant::now().saturating_duration_since(origin).as_millis() as u64
}

/// The exact time, read when it is needed for the first time. Most choices do not need it.
#[derive(Default)]
pub(super) struct Now(Cell<Option<Instant>>);

impl Now {
    #[cfg(test)]
    pub(super) fn at(moment: Instant) -> Self {
        Now(Cell::new(Some(moment)))
    }

    pub(super) fn get(&self) -> Instant {
        let now = self.0.get().unwrap_or_else(Instant::now);
        self.0.set(Some(now));
        now
    }
}
