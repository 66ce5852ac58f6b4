//! The server's clock, which tests can advance, stop and skew.
//!
//! [`now`](Clock::now) counts from the start and drives all timeouts; it never goes back.
//! [`unix_millis`](Clock::unix_millis) is the time in answers. It may be skewed, which affects only clients.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::runtime::sockets;

/// The real time, plus what tests have added (`moved_on`). A clock that stands still counts only what was added.
pub(crate) struct Clock {
    started: Instant,
    unix_at_start: Duration,
    moved_on: Duration,
    stands_still: bool,
    /// Milliseconds by which the time in answers is ahead.
    pub(crate) skew: i64,
}

impl Clock {
    pub(crate) fn new(stands_still: bool) -> Self {
        Clock {
            started: present(),
            unix_at_start: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
            moved_on: Duration::ZERO,
            stands_still,
            skew: 0,
        }
    }

    /// The time since the server began. All times inside the server are measured by it.
    pub(crate) fn now(&self) -> Duration {
        if self.stands_still {
            self.moved_on
        } else {
            self.moved_on.saturating_add(present().saturating_duration_since(self.started))
        }
    }

    /// Moves forward to `time`. A time in the past changes nothing.
    pub(crate) fn jump_to(&mut self, time: Duration) {
        self.moved_on += time.saturating_sub(self.now());
    }

    /// The real time until `time`. `None` if the clock stands still.
    pub(crate) fn real_time_until(&self, time: Duration) -> Option<Duration> {
        (!self.stands_still).then(|| time.saturating_sub(self.now()))
    }

    /// The time in answers.
    pub(crate) fn unix_millis(&self) -> i64 {
        let millis = self.unix_at_start.saturating_add(self.now()).as_millis();
        i64::try_from(millis).unwrap_or(i64::MAX).saturating_add(self.skew)
    }
}

/// The same for all threads: the server's thread and those of tests read the clock. A runtime whose clock is paused has a
/// time of its own, which counts only in a simulation, where everything runs in one thread.
fn present() -> Instant {
    if sockets::is_simulated() {
        actix_web::rt::time::Instant::now().into_std()
    } else {
        Instant::now()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[actix::test]
    async fn a_runtime_whose_clock_is_paused_does_not_move_the_servers_clock() {
        const HOUR: Duration = Duration::from_secs(3_600);
        tokio::time::pause();
        tokio::time::advance(HOUR).await;
        let clock = Clock::new(false);
        std::thread::sleep(Duration::from_millis(2));
        tokio::time::advance(HOUR).await;
        assert!(clock.now() < HOUR, "tests would see another time than the server's thread");
        let elsewhere = std::thread::spawn(move || clock.now()).join().unwrap();
        assert!(!elsewhere.is_zero(), "nothing would become due in the server's thread");
    }

    #[test]
    fn extreme_skews_and_jumps_do_not_overflow() {
        let mut clock = Clock::new(true);
        for time in [Duration::ZERO, Duration::from_secs(60), Duration::MAX] {
            clock.jump_to(time);
            for skew in [i64::MIN, -1, 0, 1, i64::MAX] {
                clock.skew = skew;
                assert!(skew < 1 || clock.unix_millis() > 0);
            }
        }
    }
}
