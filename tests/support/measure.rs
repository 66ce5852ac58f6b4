//! Measured times, and stalls of the machine, which measurements leave out.

use std::{
    sync::{
        atomic::{AtomicBool, Ordering},
        Arc, Mutex, PoisonError,
    },
    thread,
    time::{Duration, Instant},
};

const TICK: Duration = Duration::from_millis(10);
/// A thread that wakes up this much too late was stalled.
const STALL: Duration = Duration::from_millis(200);

/// Detects stalls until it is dropped: a thread sleeps for 10 ms again and again, and notes when it woke up late.
pub struct Stalls(Arc<Shared>);

struct Shared {
    ended: AtomicBool,
    seen: Mutex<Seen>,
}

struct Seen {
    last_wake_up: Instant,
    /// From the last wake-up before the stall to the first one after it.
    stalls: Vec<(Instant, Instant)>,
}

impl Stalls {
    pub fn watch() -> Self {
        let seen = Mutex::new(Seen { last_wake_up: Instant::now(), stalls: Vec::new() });
        let shared = Arc::new(Shared { ended: AtomicBool::new(false), seen });
        let watched = shared.clone();
        thread::spawn(move || {
            while !watched.ended.load(Ordering::Acquire) {
                thread::sleep(TICK);
                watched.wake_up();
            }
        });
        Stalls(shared)
    }

    /// Whether a stall overlaps this time.
    pub fn any_between(&self, from: Instant, to: Instant) -> bool {
        let seen = self.0.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // A stall that has not ended yet counts, too.
        let lasting = (seen.last_wake_up.elapsed() > STALL).then(|| (seen.last_wake_up, Instant::now()));
        let mut all = seen.stalls.iter().copied().chain(lasting);
        all.any(|(began, ended)| began < to && ended > from)
    }

    /// The number of stalls so far.
    pub fn count(&self) -> usize {
        self.0.seen.lock().unwrap_or_else(PoisonError::into_inner).stalls.len()
    }
}

impl Shared {
    fn wake_up(&self) {
        let now = Instant::now();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let last = std::mem::replace(&mut seen.last_wake_up, now);
        if now - last > TICK + STALL {
            seen.stalls.push((last, now));
        }
    }
}

impl Drop for Stalls {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Release);
    }
}

/// The median and the longest of some times.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Spread {
    pub count: usize,
    pub median: Duration,
    pub longest: Duration,
}

impl Spread {
    pub fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |index: usize| times.get(index).copied().unwrap_or_default();
        Spread { count: times.len(), median: at(times.len() / 2), longest: at(times.len().saturating_sub(1)) }
    }
}
