//! The server's time: it can be moved on, stand still, and be wrong.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub(crate) struct Clock {
    started: Instant,
    unix_at_start: Duration,
    moved_on: Duration,
    stands_still: bool,
    /// Milliseconds that the time told to clients is ahead.
    pub(crate) skew: i64,
}

impl Clock {
    pub(crate) fn new(stands_still: bool) -> Self {
        Clock {
            started: Instant::now(),
            unix_at_start: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
            moved_on: Duration::ZERO,
            stands_still,
            skew: 0,
        }
    }

    /// The time since the server began: what everything inside is measured with.
    pub(crate) fn now(&self) -> Duration {
        if self.stands_still {
            self.moved_on
        } else {
            self.started.elapsed() + self.moved_on
        }
    }

    pub(crate) fn jump_to(&mut self, time: Duration) {
        self.moved_on += time.saturating_sub(self.now());
    }

    /// How long it really takes until `time`; never, on a clock that stands still.
    pub(crate) fn real_time_until(&self, time: Duration) -> Option<Duration> {
        (!self.stands_still).then(|| time.saturating_sub(self.now()))
    }

    /// What the server tells clients.
    pub(crate) fn unix_millis(&self) -> i64 {
        (self.unix_at_start + self.now()).as_millis() as i64 + self.skew
    }
}
