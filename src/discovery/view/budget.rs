//! Limits the retries to a service. All clients of a Registry share one budget per service.
//!
//! Retries help when one instance fails and harm when all do: then they multiply the load on instances that are
//! overloaded already. The budget allows [`RETRIES_PER_REQUEST`] of the requests of the last [`WINDOW_SECONDS`], so
//! with all instances down the load of a busy service grows by a fifth at most. [`RETRIES_PER_SECOND`] lets a
//! service with few requests retry at all.
//!
//! The numbers are fixed. An application that wants fewer retries sets `balance::Retry`.

use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

/// Requests and retries are counted over this many seconds.
const WINDOW_SECONDS: u64 = 10;
/// The share of the requests in the window that may be retried.
const RETRIES_PER_REQUEST: f64 = 0.2;
/// The number of retries that are always allowed in a second, however few requests there are.
const RETRIES_PER_SECOND: u32 = 3;

/// The budget of one service.
#[derive(Debug)]
pub(crate) struct Budget {
    began: Instant,
    window: Mutex<Window>,
}

/// The counts of one second.
///
/// An entry is reused after [`WINDOW_SECONDS`]. `number` shows whether its counts belong to this window.
#[derive(Debug, Clone, Copy, Default)]
struct Second {
    /// The number of the second, counted from the start of the budget.
    number: u64,
    requests: u32,
    retries: u32,
}

#[derive(Debug, Default)]
struct Window([Second; WINDOW_SECONDS as usize]);

impl Budget {
    pub(super) fn new() -> Self {
        Budget { began: Instant::now(), window: Mutex::default() }
    }

    /// Counts a request. Retries are not counted here.
    pub(crate) fn note_request(&self, now: Instant) {
        self.in_window(now, |window, number| window.second(number).requests += 1);
    }

    /// Takes one retry from the budget. Returns false if none is left.
    pub(crate) fn take_retry(&self, now: Instant) -> bool {
        self.in_window(now, |window, number| {
            let may_retry = window.allows_retry(number);
            window.second(number).retries += u32::from(may_retry);
            may_retry
        })
    }

    fn in_window<T>(&self, now: Instant, count: impl FnOnce(&mut Window, u64) -> T) -> T {
        let number = now.saturating_duration_since(self.began).as_secs();
        count(&mut self.window.lock().unwrap_or_else(PoisonError::into_inner), number)
    }
}

impl Window {
    /// Returns the entry of this second, cleared if it still has the counts of an older one.
    fn second(&mut self, number: u64) -> &mut Second {
        let second = &mut self.0[(number % WINDOW_SECONDS) as usize];
        if second.number != number {
            *second = Second { number, ..Second::default() };
        }
        second
    }

    fn allows_retry(&mut self, number: u64) -> bool {
        if self.second(number).retries < RETRIES_PER_SECOND {
            return true;
        }
        let recent = self.0.iter().filter(|second| number - second.number.min(number) < WINDOW_SECONDS);
        let (requests, retries) = recent.fold((0, 0), |(requests, retries), second| {
            (requests + u64::from(second.requests), retries + u64::from(second.retries))
        });
        ((retries + 1) as f64) <= requests as f64 * RETRIES_PER_REQUEST
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// The retries that are allowed when each of `rate` requests a second fails, during `seconds` seconds.
    fn retries(budget: &Budget, from: u64, seconds: u64, rate: u32) -> u32 {
        let mut retries = 0;
        for request in 0..seconds * u64::from(rate) {
            let now = budget.began + Duration::from_secs(from) + Duration::from_secs(1) * request as u32 / rate;
            budget.note_request(now);
            retries += u32::from(budget.take_retry(now));
        }
        retries
    }

    #[test]
    fn one_request_in_five_may_be_retried() {
        let budget = Budget::new();
        for (from, rate) in [(0, 100), (100, 1000)] {
            let requests = 60 * rate;
            let retries = retries(&budget, from, 60, rate);
            assert!((requests / 6..=requests / 5 + 3).contains(&retries), "{retries} of {requests}");
        }
    }

    #[test]
    fn an_outage_that_follows_a_quiet_time_is_bounded_too() {
        let budget = Budget::new();
        for request in 0..1000 {
            budget.note_request(budget.began + Duration::from_millis(10) * request);
        }
        let retries = retries(&budget, 10, 30, 100);
        assert!(retries <= 3000 / 4, "{retries}");
    }

    #[test]
    fn few_requests_may_have_three_retries_a_second() {
        let budget = Budget::new();
        assert_eq!(retries(&budget, 0, 60, 3), 180);
        assert_eq!(retries(&budget, 100, 10, 10), 30);
    }

    #[test]
    fn clocks_that_stand_still_or_go_back_do_no_harm() {
        let budget = Budget::new();
        let later = budget.began + Duration::from_secs(1000);
        assert!(budget.take_retry(later) && budget.take_retry(budget.began));
        for _ in 0..100 {
            budget.take_retry(budget.began);
        }
        assert!(!budget.take_retry(budget.began));
        budget.note_request(later);
    }
}
