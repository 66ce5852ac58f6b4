//! The health of one server: a circuit breaker for the server, and one for each of its operations.
//!
//! These failures count against the server: a refused connection, and a registration, beat or list without an answer
//! while the server answers nothing else. All other failures count against the operation: a 5xx, an unreadable answer,
//! and any other request without an answer. A rejection (4xx) never counts.
//!
//! A refused connection opens the breaker of the server at once. Otherwise a breaker opens when requests for a second
//! service or instance fail too, because requests for a single one may fail for reasons of their own. The breaker of
//! the server also opens after three failures in a row.
//!
//! # Example
//!
//! A server answers everything except beats, which hang:
//!
//! 1. The first beat times out. It counts against the operation, since the server answers lists meanwhile.
//! 2. A beat of a second instance times out: the breaker of beats opens, for a tenth of a second at first. Lists
//!    are not affected.
//! 3. Beats go to another server. If one answers, it comes into use, since beats decide about that.
//! 4. If there is no other server, one beat after the other is tried, with pauses up to 2 s.
//!
//! # Words
//!
//! | word | meaning |
//! |---|---|
//! | subject | the service or instance that a request is about |
//! | outage | failures after which the server may have forgotten its instances: the next success begins an epoch |
//! | lost | the server answers nothing, or no list; the connection is lost if all servers are |
//! | trial | one request to a server whose breaker is half-open; others wait for its end |

use std::{collections::HashMap, time::Duration};

use actix_rt::time::Instant;
use foldhash::fast::RandomState as FastHash;

use crate::error::{Error, Operation};

/// How long a breaker stays open after the first failure. Each further failure doubles the time.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest time that a breaker stays open, and so the longest delay until a recovered server is used again.
///
/// A registration that waits for a server that restarts is at most this late.
const MAX_PAUSE: Duration = Duration::from_secs(2);

/// The server in use is not left for a server that failed within this time, unless the server in use answers nothing.
const FLAPPING_PAUSE: Duration = Duration::from_secs(60);

/// This many failures in a row, without a success in between, are an outage.
const FAILURES_PER_OUTAGE: u32 = 3;

/// How a request failed.
///
/// Decided where the error is known: see `Transport::failure_kind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FailureKind {
    /// No connection could be opened.
    ConnectFailed,
    /// No answer came in time, or the connection broke before the answer.
    NoAnswer,
    /// The server answered with a 5xx, or unreadably.
    BadAnswer,
}

/// One failed request.
///
/// `sent` distinguishes failures of concurrent requests from failures of requests that followed each other.
pub(crate) struct Failure {
    pub(crate) kind: FailureKind,
    pub(crate) operation: Operation,
    /// Identifies the service or instance that the request was about.
    pub(crate) subject: u64,
    pub(crate) sent: Instant,
    pub(crate) error: Error,
}

/// Whether a request may be sent.
///
/// Computed from stored moments when it is needed. No timer changes a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Availability {
    Closed,
    /// The breaker has been open for long enough. One request may try.
    HalfOpen,
    /// The breaker stays open for this time.
    Open(Duration),
}

/// A circuit breaker. Counts failures in a row, and stays open for a time that grows with each failure.
///
/// Open while `open_until` is in the future, half-open after that, closed when it is `None`. Only an answer closes
/// it.
#[derive(Debug, Clone, Default)]
struct Breaker {
    /// Requests that were under way at the same time count once.
    failures: u32,
    last_failure: Option<Instant>,
    /// The subject of the first failure, and when its request was sent.
    first: Option<(u64, Instant)>,
    has_several_subjects: bool,
    open_until: Option<Instant>,
}

impl Breaker {
    /// Counts a failure. `opens` decides whether the breaker opens now.
    fn fail(&mut self, failure: &Failure, opens: impl Fn(&Self) -> bool) {
        let now = Instant::now();
        let (subject, _) = *self.first.get_or_insert((failure.subject, failure.sent));
        self.has_several_subjects |= subject != failure.subject;
        if self.last_failure.is_none_or(|last| failure.sent >= last) {
            self.failures += 1;
            self.last_failure = Some(now);
        }
        if opens(self) {
            self.open_until = Some(now + pause(self.failures));
        }
    }

    /// Whether these failures are an outage: there are enough of them, and nothing has succeeded since the first one.
    fn is_outage(&self, last_success: Option<Instant>) -> bool {
        let nothing_succeeded = self.first.is_some_and(|(_, sent)| last_success.is_none_or(|success| success <= sent));
        self.open_until.is_some() && self.failures >= FAILURES_PER_OUTAGE && nothing_succeeded
    }
}

/// The results of the requests to one server, and the breakers that follow from them.
///
/// A copy is taken for the status, so it has no interior mutability.
#[derive(Debug, Clone, Default)]
pub(crate) struct Health {
    server: Breaker,
    operations: HashMap<Operation, Breaker, FastHash>,
    /// Until when the trial under way holds up other requests. The second trial is for heartbeats and registrations,
    /// which must not wait for another operation that hangs.
    trials_until: [Option<Instant>; 2],
    /// Whether the server may have restarted since its last success.
    is_in_outage: bool,
    last_answer: Option<Instant>,
    has_rejected: bool,
    /// Failures since the last success.
    pub(crate) failures: u32,
    pub(crate) last_success: Option<Instant>,
    pub(crate) last_failure: Option<Instant>,
    pub(crate) last_error: Option<Error>,
    pub(crate) requests: u64,
    pub(crate) failed_requests: u64,
}

impl Health {
    /// Whether a request of this operation may be sent now. Both breakers must allow it.
    pub(super) fn availability(&self, operation: Operation) -> Availability {
        let at_operation = self.operations.get(&operation).and_then(|breaker| breaker.open_until);
        let Some(until) = self.server.open_until.max(at_operation) else { return Availability::Closed };
        let now = Instant::now();
        let [trial, trial_of_heartbeat] = self.trials_until;
        let trial = if operation.keeps_registered() { None } else { trial };
        let until = until.max(trial.max(trial_of_heartbeat).unwrap_or(now));
        if until > now {
            return Availability::Open(until - now);
        }
        Availability::HalfOpen
    }

    /// Notes that a request tries a half-open breaker. Others wait for its end, but not longer than `longest`.
    pub(super) fn begin_trial(&mut self, operation: Operation, longest: Duration) {
        self.trials_until[usize::from(operation.keeps_registered())] = Some(Instant::now() + longest);
    }

    /// Notes a success. Returns whether it ended an outage.
    pub(super) fn succeed(&mut self, operation: Operation) -> bool {
        self.answer(operation);
        self.failures = 0;
        self.last_success = self.last_answer;
        std::mem::take(&mut self.is_in_outage)
    }

    /// Notes a rejection.
    pub(super) fn reject(&mut self, operation: Operation) {
        self.answer(operation);
        self.has_rejected = true;
    }

    /// Notes an answer, either a success or a rejection.
    fn answer(&mut self, operation: Operation) {
        self.requests += 1;
        self.last_answer = Some(Instant::now());
        self.server = Breaker::default();
        self.operations.remove(&operation);
        self.end_trial(operation);
    }

    /// Ends the trial, so that other requests may be sent.
    pub(super) fn end_trial(&mut self, operation: Operation) {
        self.trials_until[usize::from(operation.keeps_registered())] = None;
    }

    /// Notes a failure. A bad answer closes the server's breaker, because it shows that the server can be reached.
    pub(super) fn fail(&mut self, failure: Failure) {
        self.requests += 1;
        self.failed_requests += 1;
        self.failures += 1;
        self.end_trial(failure.operation);
        let answers_others = self.last_answer.is_some_and(|answered| answered > failure.sent);
        if failure.kind == FailureKind::BadAnswer {
            self.last_answer = Some(Instant::now());
            self.server = Breaker::default();
        }
        let is_refused = failure.kind == FailureKind::ConnectFailed;
        let decides = failure.operation.decides_server();
        if is_refused || (failure.kind == FailureKind::NoAnswer && decides && !answers_others) {
            self.server.fail(&failure, |breaker| {
                is_refused || breaker.has_several_subjects || breaker.failures >= FAILURES_PER_OUTAGE
            });
        } else {
            let breaker = self.operations.entry(failure.operation).or_default();
            breaker.fail(&failure, |breaker| breaker.has_several_subjects);
            self.is_in_outage |= decides && breaker.is_outage(self.last_success);
        }
        self.is_in_outage |= self.server.open_until.is_some();
        self.last_failure = Some(Instant::now());
        self.last_error = Some(failure.error);
    }

    /// Whether the next success begins an epoch.
    pub(super) fn is_in_outage(&self) -> bool {
        self.is_in_outage
    }

    /// Notes an outage that the restart detector has found.
    pub(super) fn note_outage(&mut self) {
        self.is_in_outage = true;
    }

    /// Notes that the restart detector has a connection. Returns whether that ended an outage.
    pub(super) fn note_reachable(&mut self) -> bool {
        self.server.open_until.is_none() && !self.is_lost() && std::mem::take(&mut self.is_in_outage)
    }

    /// Whether a breaker for this operation is open or half-open.
    pub(super) fn is_open_for(&self, operation: Operation) -> bool {
        self.availability(operation) != Availability::Closed
    }

    /// Whether to leave this server in use for `other`, which succeeded at `operation`. Two servers that each fail at
    /// some operation must not alternate, because each change begins a new epoch.
    pub(super) fn is_left_for(&self, other: &Health, operation: Operation) -> bool {
        let is_unreachable = self.server.open_until.is_some();
        self.is_open_for(operation) && (is_unreachable || !other.has_lately_failed_to_serve())
    }

    /// Whether a breaker of registrations, beats or lists opened recently and is still open.
    fn has_lately_failed_to_serve(&self) -> bool {
        let is_late = |breaker: &Breaker| breaker.last_failure.is_some_and(|last| last.elapsed() < FLAPPING_PAUSE);
        let fails = |breaker: &Breaker| breaker.open_until.is_some() && is_late(breaker);
        self.operations.iter().any(|(operation, breaker)| operation.decides_server() && fails(breaker))
    }

    /// Whether the server answers nothing, or answers every list with a failure. A server that lists some services and
    /// fails for others is not lost.
    ///
    /// An outage of other operations alone does not make a server lost.
    pub(super) fn is_lost(&self) -> bool {
        let lists = self.operations.get(&Operation::List);
        // Every answer resets the server's breaker, so nothing has succeeded since its first failure. The first one may
        // have been sent before the last success, for example if it waited for a connection.
        self.server.is_outage(None) || lists.is_some_and(|lists| lists.is_outage(self.last_success))
    }

    /// Whether the server has rejected requests and never served one.
    pub(super) fn has_only_rejected(&self) -> bool {
        self.last_success.is_none() && self.has_rejected
    }

    /// Whether a failure within this time counts against the server or has opened a breaker.
    ///
    /// Failures of one subject count here although they open no breaker.
    pub(super) fn has_failed_within(&self, time: Duration) -> bool {
        let is_suspect =
            self.server.failures > 0 || self.operations.values().any(|breaker| breaker.open_until.is_some());
        is_suspect && self.last_failure.is_some_and(|last| last.elapsed() < time)
    }
}

/// Doubles from 50 ms to 2 s, minus a random part of up to a quarter, so that many clients do not retry at the same
/// moment.
pub(super) fn pause(failures: u32) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1 << (failures.clamp(1, 16) - 1));
    doubled.min(MAX_PAUSE).mul_f64(0.75 + 0.25 * fastrand::f64())
}

#[cfg(test)]
mod tests {
    use actix_rt::time::sleep;

    use super::*;

    fn fail(health: &mut Health, kind: FailureKind, operation: Operation, subject: u64) {
        fail_sent_at(Instant::now(), health, kind, operation, subject);
    }

    fn fail_sent_at(sent: Instant, health: &mut Health, kind: FailureKind, operation: Operation, subject: u64) {
        health.fail(Failure { kind, operation, subject, sent, error: Error::Stopped });
    }

    fn is_open(health: &Health, operation: Operation) -> bool {
        matches!(health.availability(operation), Availability::Open(_))
    }

    #[actix::test]
    async fn a_refused_connection_opens_the_servers_breaker() {
        let mut health = Health::default();
        fail(&mut health, FailureKind::ConnectFailed, Operation::Get, 1);
        assert!(is_open(&health, Operation::Beat));
        assert!(health.succeed(Operation::List), "it was an outage");
        assert_eq!(health.availability(Operation::Beat), Availability::Closed);
        assert!(!health.succeed(Operation::List), "it ends only once");
    }

    #[actix::test]
    async fn failures_for_one_subject_open_no_breaker() {
        let mut health = Health::default();
        for _ in 0..10 {
            fail(&mut health, FailureKind::BadAnswer, Operation::Register, 1);
            fail(&mut health, FailureKind::NoAnswer, Operation::ListServices, 1);
        }
        // An application may send any number of GETs that the server never answers in time.
        (0..10).for_each(|subject| fail(&mut health, FailureKind::NoAnswer, Operation::Get, subject));
        assert_eq!(health.availability(Operation::Register), Availability::Closed);
        assert_eq!(health.availability(Operation::ListServices), Availability::Closed);
        assert!(!health.is_lost() && !health.succeed(Operation::Beat));
    }

    #[actix::test]
    async fn bad_answers_for_a_second_subject_open_the_breaker_of_that_operation_only() {
        let mut health = Health::default();
        fail(&mut health, FailureKind::BadAnswer, Operation::List, 1);
        fail(&mut health, FailureKind::BadAnswer, Operation::List, 2);
        assert!(is_open(&health, Operation::List) && !is_open(&health, Operation::Beat));
        health.answer(Operation::List);
        assert_eq!(health.availability(Operation::List), Availability::Closed);
    }

    #[actix::test]
    async fn timeouts_count_against_the_operation_while_the_server_answers_others() {
        tokio::time::pause();
        let mut health = Health::default();
        let sent = Instant::now();
        let late = |health: &mut Health, subject| {
            let (kind, operation, error) = (FailureKind::NoAnswer, Operation::List, Error::Stopped);
            health.fail(Failure { kind, operation, subject, sent, error });
        };
        sleep(Duration::from_secs(1)).await;
        health.succeed(Operation::Beat);
        (1..=3).for_each(|subject| late(&mut health, subject));
        assert!(is_open(&health, Operation::List) && !is_open(&health, Operation::Beat));
        let mut health = Health::default();
        (1..=2).for_each(|subject| late(&mut health, subject));
        assert!(is_open(&health, Operation::Beat), "it answers nothing");
    }

    #[actix::test]
    async fn three_timeouts_of_one_beat_open_the_servers_breaker() {
        let mut health = Health::default();
        for failures in 1..=FAILURES_PER_OUTAGE {
            assert!(!is_open(&health, Operation::Beat));
            fail(&mut health, FailureKind::NoAnswer, Operation::Beat, 1);
            assert_eq!(health.failures, failures);
        }
        assert!(is_open(&health, Operation::Beat) && health.is_lost());
    }

    #[actix::test]
    async fn a_half_open_breaker_allows_one_trial_and_one_more_for_heartbeats_and_registrations() {
        tokio::time::pause();
        let mut health = Health::default();
        fail(&mut health, FailureKind::ConnectFailed, Operation::Beat, 1);
        sleep(FIRST_PAUSE).await;
        assert_eq!(health.availability(Operation::ListServices), Availability::HalfOpen);
        health.begin_trial(Operation::ListServices, Duration::from_secs(3));
        assert!(is_open(&health, Operation::ListServices));
        assert_eq!(health.availability(Operation::Beat), Availability::HalfOpen, "it waits for no other operation");
        health.begin_trial(Operation::Beat, Duration::from_secs(3));
        fail(&mut health, FailureKind::ConnectFailed, Operation::Beat, 1);
        sleep(2 * FIRST_PAUSE).await;
        assert_eq!(health.availability(Operation::Beat), Availability::HalfOpen, "the trial has ended");
    }

    #[actix::test]
    async fn servers_that_each_fail_at_some_operation_do_not_alternate() {
        tokio::time::pause();
        let (mut current, mut other) = (Health::default(), Health::default());
        let fails_at = |health: &mut Health, operation| {
            (1..=2).for_each(|subject| fail(health, FailureKind::BadAnswer, operation, subject));
        };
        fails_at(&mut current, Operation::Beat);
        fails_at(&mut other, Operation::Get);
        assert!(current.is_left_for(&other, Operation::Beat), "no instance depends on GET");
        assert!(!current.is_left_for(&other, Operation::List));
        fails_at(&mut other, Operation::List);
        assert!(!current.is_left_for(&other, Operation::Beat));
        fail(&mut current, FailureKind::ConnectFailed, Operation::Get, 1);
        assert!(current.is_left_for(&other, Operation::Beat), "it answers nothing");
        current.answer(Operation::Get);
        tokio::time::advance(FLAPPING_PAUSE).await;
        assert!(current.is_left_for(&other, Operation::Beat), "the other server may have recovered");
    }

    #[actix::test]
    async fn requests_that_fail_together_count_once() {
        tokio::time::pause();
        let mut health = Health::default();
        let sent = Instant::now();
        sleep(Duration::from_secs(1)).await;
        for subject in 0..64 {
            let (kind, operation, error) = (FailureKind::NoAnswer, Operation::Beat, Error::Stopped);
            health.fail(Failure { kind, operation, subject, sent, error });
        }
        assert!(!health.is_lost(), "one failure of many requests");
        assert_eq!((health.failures, health.failed_requests), (64, 64));
    }

    #[actix::test]
    async fn a_server_is_lost_after_three_failed_lists_without_a_success_since_the_first_was_sent() {
        tokio::time::pause();
        for succeeds_meanwhile in [false, true] {
            let mut health = Health::default();
            health.succeed(Operation::Beat);
            sleep(Duration::from_secs(1)).await;
            let sent = Instant::now();
            sleep(Duration::from_secs(1)).await;
            if succeeds_meanwhile {
                health.succeed(Operation::Beat);
            }
            fail_sent_at(sent, &mut health, FailureKind::BadAnswer, Operation::List, 1);
            fail(&mut health, FailureKind::BadAnswer, Operation::List, 2);
            assert!(!health.is_lost() && !health.is_in_outage(), "two failures");
            fail(&mut health, FailureKind::BadAnswer, Operation::List, 3);
            assert_eq!((health.is_lost(), health.is_in_outage()), (!succeeds_meanwhile, !succeeds_meanwhile));
            assert_eq!(health.succeed(Operation::List), !succeeds_meanwhile, "an outage has ended");
        }
    }

    #[actix::test]
    async fn a_server_is_lost_although_the_first_refused_request_was_sent_before_the_last_success() {
        tokio::time::pause();
        let mut health = Health::default();
        let sent = Instant::now();
        sleep(Duration::from_secs(1)).await;
        health.succeed(Operation::Beat);
        fail_sent_at(sent, &mut health, FailureKind::ConnectFailed, Operation::List, 1);
        (2..=3).for_each(|subject| fail(&mut health, FailureKind::ConnectFailed, Operation::List, subject));
        assert!(health.is_lost());
    }

    #[actix::test]
    async fn an_operation_on_which_no_instance_depends_causes_no_outage() {
        let mut health = Health::default();
        (1..=3).for_each(|subject| fail(&mut health, FailureKind::BadAnswer, Operation::Get, subject));
        assert!(is_open(&health, Operation::Get) && !health.is_in_outage() && !health.is_lost());
    }

    #[actix::test]
    async fn an_answer_before_a_request_was_sent_does_not_show_that_the_server_answers_others() {
        tokio::time::pause();
        let mut health = Health::default();
        health.succeed(Operation::Beat);
        (1..=2).for_each(|subject| fail(&mut health, FailureKind::NoAnswer, Operation::List, subject));
        assert!(is_open(&health, Operation::Beat));
    }

    #[actix::test]
    async fn a_trial_holds_up_others_until_its_time_limit_and_not_longer() {
        tokio::time::pause();
        let (mut health, longest) = (Health::default(), Duration::from_secs(3));
        fail(&mut health, FailureKind::ConnectFailed, Operation::Beat, 1);
        sleep(FIRST_PAUSE).await;
        health.begin_trial(Operation::Beat, longest);
        assert_eq!(health.availability(Operation::Beat), Availability::Open(longest));
        tokio::time::advance(longest).await;
        assert_eq!(health.availability(Operation::Beat), Availability::HalfOpen);
    }

    #[actix::test]
    async fn a_connection_ends_an_outage_unless_requests_still_fail() {
        let mut health = Health::default();
        assert!(!health.note_reachable(), "there was no outage");
        health.note_outage();
        assert!(health.note_reachable());
        assert!(!health.is_in_outage() && !health.note_reachable(), "it ends only once");
        fail(&mut health, FailureKind::ConnectFailed, Operation::Beat, 1);
        assert!(!health.note_reachable() && health.is_in_outage(), "connections were refused");
        let mut health = Health::default();
        (1..=3).for_each(|subject| fail(&mut health, FailureKind::BadAnswer, Operation::List, subject));
        assert!(!health.note_reachable() && health.is_in_outage(), "all lists fail");
    }

    #[actix::test]
    async fn a_rejection_is_an_answer_and_no_success() {
        let mut health = Health::default();
        assert!(!health.has_only_rejected(), "there was no answer");
        fail(&mut health, FailureKind::ConnectFailed, Operation::Beat, 1);
        health.reject(Operation::Beat);
        assert!(health.has_only_rejected() && !health.is_open_for(Operation::Beat));
        health.succeed(Operation::List);
        assert!(!health.has_only_rejected());
        assert_eq!((health.requests, health.failed_requests), (3, 1));
    }

    #[actix::test]
    async fn a_recent_failure_counts_against_a_server_if_a_breaker_is_open_or_may_open_next() {
        tokio::time::pause();
        let time = Duration::from_secs(10);
        let mut health = Health::default();
        fail(&mut health, FailureKind::BadAnswer, Operation::List, 1);
        assert!(!health.has_failed_within(time), "the server answers, and other lists may be good");
        fail(&mut health, FailureKind::BadAnswer, Operation::List, 2);
        assert!(health.has_failed_within(time), "the breaker of lists is open");
        let mut health = Health::default();
        fail(&mut health, FailureKind::NoAnswer, Operation::Beat, 1);
        assert!(health.has_failed_within(time), "the server has not answered");
        tokio::time::advance(time - Duration::from_millis(1)).await;
        assert!(health.has_failed_within(time));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!health.has_failed_within(time));
    }

    #[test]
    fn pauses_grow_up_to_a_limit() {
        for _ in 0..100 {
            assert!((0.74..=1.0).contains(&(pause(1).as_secs_f64() / FIRST_PAUSE.as_secs_f64())));
        }
        assert!(pause(3) > pause(1));
        assert!(pause(1000) <= MAX_PAUSE);
    }
}
