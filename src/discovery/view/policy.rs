//! The policies by which a view chooses an instance.
//!
//! A policy decides only among instances that may be called. Filters, health, ejection and preferences are applied
//! before.

/// How an instance is chosen among those that can be called.
///
/// | policy | best for | cost beside a random draw |
/// |---|---|---|
/// | [`WeightedRandom`](Policy::WeightedRandom) | instances that are alike | none |
/// | [`LeastLoaded`](Policy::LeastLoaded) | instances or calls that differ in speed | a second draw, the clock |
/// | [`WeightedRoundRobin`](Policy::WeightedRoundRobin) | few and long calls | a counter that all threads share |
/// | [`ConsistentHash`](Policy::ConsistentHash) | caches and sessions in the instances | a table of 256 KiB per list |
///
/// ```
/// use actix_nacos::{Discover, Policy};
///
/// let orders = Discover::new("orders").policy(Policy::LeastLoaded);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Policy {
    /// At random, in proportion to the weights.
    #[default]
    WeightedRandom,
    /// The less loaded of two different instances that are drawn at random by the weights. The load is the number of
    /// calls in flight, in proportion to the weight, times the mean latency of recent calls. Use it for instances that
    /// differ in speed.
    LeastLoaded,
    /// One after the other, in proportion to the weights. All views with the same [`Selection`](crate::Selection) share
    /// the turns.
    WeightedRoundRobin,
    /// The same instance for the same key, as long as it can be called: see
    /// [`begin_for`](crate::ServiceView::begin_for). Keys are spread by the weights. When one of n instances comes or
    /// goes, about 1/n of the keys move. Calls without a key are spread at random.
    ConsistentHash,
}
