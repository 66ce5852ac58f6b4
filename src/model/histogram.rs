//! A histogram of durations.
//!
//! The bounds are fixed, so that histograms of different processes and versions can be added up. They suit requests
//! to a server: 1 ms to 10 s.

use std::{cell::Cell, time::Duration};

use serde::Serialize;

/// The upper bounds of the buckets, from fast servers in the same network to servers that hang.
const BOUNDS: [Duration; 13] = [
    Duration::from_micros(1_000),
    Duration::from_micros(2_500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_millis(1_000),
    Duration::from_millis(2_500),
    Duration::from_millis(5_000),
    Duration::from_millis(10_000),
];

/// A histogram of durations.
///
/// Made for Prometheus: buckets are cumulative. The number of durations above the last bound is `count` minus the count
/// of the last bucket. All counts begin at 0 when the Registry starts, and never decrease.
///
/// ```
/// # use actix_nacos::{embedded::EmbeddedServer, prelude::*};
/// # #[actix::main]
/// # async fn main() -> Result<(), Error> {
/// # let server = EmbeddedServer::start().unwrap();
/// # let registry = Registry::start(Config::new(server.server_address()))?;
/// registry.send(ListInstances::new("orders")).await??;
/// let status = registry.send(GetStatus).await??;
/// let duration = &status.requests[0].duration;
/// println!("{} requests took {} s on average", duration.count, duration.sum_seconds / duration.count as f64);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Histogram {
    /// The number of durations.
    pub count: u64,
    /// The sum of the durations, in seconds.
    pub sum_seconds: f64,
    /// The buckets, the shortest bound first. Each bucket also counts the durations in the buckets before it.
    pub buckets: Vec<Bucket>,
}

/// A part of a [`Histogram`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Bucket {
    /// The upper bound, in seconds.
    pub at_most_seconds: f64,
    /// The number of durations that were no longer than the bound.
    pub count: u64,
}

/// Counts durations. Used by one thread.
#[derive(Debug, Default)]
pub(crate) struct Durations {
    /// The number of durations in each bucket. The last one counts the durations above all bounds.
    counts: [Cell<u64>; BOUNDS.len() + 1],
    sum: Cell<Duration>,
}

impl Durations {
    /// Counts one duration.
    pub(crate) fn count(&self, duration: Duration) {
        let index = BOUNDS.partition_point(|bound| *bound < duration);
        if let Some(count) = self.counts.get(index) {
            count.set(count.get() + 1);
        }
        self.sum.set(self.sum.get().saturating_add(duration));
    }

    /// The counts so far, as cumulative buckets.
    pub(crate) fn histogram(&self) -> Histogram {
        let mut count = 0;
        let mut up_to = |(bound, at): (&Duration, &Cell<u64>)| {
            count += at.get();
            Bucket { at_most_seconds: bound.as_secs_f64(), count }
        };
        let buckets = BOUNDS.iter().zip(&self.counts).map(&mut up_to).collect();
        let count = self.counts.iter().map(Cell::get).sum();
        Histogram { count, sum_seconds: self.sum.get().as_secs_f64(), buckets }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bucket_has_the_durations_up_to_its_bound() {
        let durations = Durations::default();
        for millis in [0, 1, 2, 5, 6, 20_000] {
            durations.count(Duration::from_millis(millis));
        }
        let histogram = durations.histogram();
        assert_eq!((histogram.count, histogram.sum_seconds), (6, 20.014));
        let counts: Vec<_> = histogram.buckets.iter().map(|bucket| bucket.count).collect();
        assert_eq!(counts, [2, 3, 4, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5]);
        assert_eq!((histogram.buckets[0].at_most_seconds, histogram.buckets[12].at_most_seconds), (0.001, 10.0));
    }
}
