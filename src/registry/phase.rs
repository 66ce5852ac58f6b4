//! The phases of a Registry.

/// The phases of a Registry, in the order in which it goes through them.
///
/// A phase is never left for an earlier one. A `watch` channel wakes the tasks that wait for a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Serving,
    /// A `Shutdown` was received, or the last address was dropped. New messages are answered with `Stopped`, and
    /// Heartbeats begin no beat.
    Closing,
    /// Everything is deregistered, or the deadline has passed. Operations under way are abandoned.
    Offline,
    /// Polls are abandoned, too, and the thread ends.
    Ended,
}
