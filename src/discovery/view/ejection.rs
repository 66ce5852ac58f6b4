//! Ejection: an instance whose calls fail is left out for a time.

use std::time::Duration;

/// When failed calls eject an instance, and for how long.
///
/// ```
/// use std::time::Duration;
///
/// use actix_nacos::Eject;
///
/// // The default.
/// let eject = Eject::consecutive(5).base(Duration::from_secs(30)).longest(Duration::from_secs(300)).max_share(0.5);
/// assert_eq!(eject, Eject::default());
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Eject {
    pub(super) failures: u32,
    pub(super) base: Duration,
    pub(super) longest: Duration,
    pub(super) max_share: f64,
}

impl Default for Eject {
    fn default() -> Self {
        Eject::consecutive(5)
    }
}

impl Eject {
    /// After so many failed calls of an instance in a row, whoever made them; 0 is the same as [`never`](Eject::never).
    /// Default: 5.
    pub fn consecutive(failures: u32) -> Self {
        Eject { failures, base: Duration::from_secs(30), longest: Duration::from_secs(300), max_share: 0.5 }
    }

    /// Failed calls of this view eject nobody. Instances that other views ejected are left out all the same.
    pub fn never() -> Self {
        Eject::consecutive(0)
    }

    /// How long the first ejection lasts; it doubles with each one that follows, and halves again for each `base` that passes
    /// without one. Default: 30 s.
    #[must_use]
    pub fn base(mut self, time: Duration) -> Self {
        self.base = time;
        self
    }

    /// How long an ejection lasts at most. Default: 300 s.
    #[must_use]
    pub fn longest(mut self, time: Duration) -> Self {
        self.longest = time;
        self
    }

    /// Which share of a view's instances may be ejected at the same time, from 0 to 1. One may always be, the last one never.
    /// Default: 0.5.
    #[must_use]
    pub fn max_share(mut self, share: f64) -> Self {
        self.max_share = share;
        self
    }
}
