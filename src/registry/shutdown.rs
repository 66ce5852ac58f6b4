//! Shutdown: deregisters the instances, then ends the Registry.
//!
//! 1. New messages are answered with [`Error::Stopped`], and Heartbeats begin no beat.
//! 2. The shutdown queues behind each message about an instance that is under way, and takes all other instances out of
//!    their table.
//! 3. Instances are deregistered, up to `max_connections` at a time, until the deadline.
//! 4. The phase becomes offline: what is still under way is abandoned.
//! 5. The drain: views stay current, and the application serves.
//! 6. Subscriptions, Heartbeats, sockets and the thread end.

use std::{
    cell::{Cell, RefCell},
    collections::HashSet,
    panic::AssertUnwindSafe,
    sync::{
        mpsc::{self, RecvTimeoutError},
        Arc,
    },
    thread,
    time::{Duration, Instant},
};

use actix::{ActorContext, Addr, AsyncContext, Context, Handler, Message, ResponseFuture};
use actix_rt::time::{sleep, timeout};
use futures_util::{
    future::{ready, Either, FutureExt as _},
    stream::{self, StreamExt as _},
};
use serde::Serialize;
use slog::{info, warn};

use super::{
    actor::Registry,
    desired::{Departure, DesiredInstance, Turn},
    phase::Phase,
    shared::{panicked, Shared},
};
use crate::{
    client::Patience,
    error::{as_millis, Error, Operation},
    model::instance::InstanceKey,
};

/// How long callers need to notice that an instance is gone if the server pushes changes. Nacos 1.4 pushes after a
/// second, later versions after half a second. The other second is for the push to arrive and to be handled.
const NOTICED_BY_PUSH: Duration = Duration::from_secs(2);
/// How long callers need if they poll, which Nacos clients do every 10 s. Lists may show the change half a second late,
/// and a poll takes some time.
const NOTICED_BY_POLL: Duration = Duration::from_secs(12);
/// How long deregistering may wait to find out whether the server pushes changes.
const PUSH_DETECTION_LIMIT: Duration = Duration::from_secs(1);

/// How often a guard checks whether a shutdown that another message requested is done.
const GUARD_CHECK_INTERVAL: Duration = Duration::from_millis(10);

/// Ends the Registry: stops the heartbeats, deregisters the ephemeral instances that this Registry registered, then
/// ends subscriptions, sockets and the thread.
///
/// This is final. Messages that were sent before take effect first; every later message is answered with
/// [`Error::Stopped`].
///
/// The answer comes when all is done or the deadline has passed, and after the [`drain`](Shutdown::drain) time.
///
/// ```
/// # use actix_nacos::{embedded::EmbeddedServer, prelude::*};
/// # use std::time::Duration;
/// # #[actix::main]
/// # async fn main() -> Result<(), Error> {
/// # let server = EmbeddedServer::start().unwrap();
/// # let registry = Registry::start(Config::new(server.server_address()))?;
/// registry.send(RegisterInstance::new("orders", "127.0.0.7", 8080)).await??;
///
/// let shutdown = Shutdown::default().deadline(Duration::from_secs(3)).drain(Duration::from_millis(50));
/// let report = registry.send(shutdown).await??;
/// assert_eq!((report.deregistered, report.failed.len()), (1, 0));
/// # Ok(())
/// # }
/// ```
///
/// Use no drain for a process that only calls others, and [`drain_until_noticed`](Self::drain_until_noticed) for a
/// service that others find in Nacos. `docs/guide/go-offline.md` describes how to go offline step by step.
///
/// # Errors
/// Only [`Error::Stopped`], if the Registry has ended or is shutting down already. Instances that could not be
/// deregistered are in the report and are no error: servers remove ephemeral instances after 30 s without heartbeats.
#[derive(Debug, Clone, Default, Message)]
#[rtype(result = "Result<ShutdownReport, Error>")]
pub struct Shutdown {
    deadline: Option<Duration>,
    persistent_too: bool,
    drain: Drain,
    /// Receives the report for a caller that cannot await: see [`ShutdownGuard`].
    report_tx: Option<mpsc::Sender<ShutdownReport>>,
}

impl Shutdown {
    /// Limits the time for deregistering. Default: [`Config::shutdown_timeout`](crate::Config::shutdown_timeout), 10 s.
    /// What is not deregistered by then is reported in [`ShutdownReport::failed`].
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Deregisters the registered persistent instances, too. Default: off, they outlive the process.
    ///
    /// Persistent instances are for services that Nacos checks itself, and that must be listed while they are
    /// down.
    #[must_use]
    pub fn persistent_too(mut self) -> Self {
        self.persistent_too = true;
        self
    }

    /// Waits for `time` after deregistering. Meanwhile the application can serve callers that have not noticed yet, and
    /// views stay current. Default: zero.
    #[must_use]
    pub fn drain(mut self, time: Duration) -> Self {
        self.drain = Drain::For(time);
        self
    }

    /// Waits after deregistering as long as callers need to notice. Replaces [`drain`](Shutdown::drain).
    ///
    /// - 2 s if the server in use pushes changes (Nacos up to 3.1);
    /// - 12 s if clients poll, which they do every 10 s as a rule (Nacos 3.2 and later, r-nacos), and if the kind of
    ///   server is not known;
    /// - no time if callers have nothing to notice, because no instance was registered or none could be deregistered.
    ///
    /// [`ShutdownReport::drained`] has the time. Shortly after the start it takes one request to detect the kind of
    /// server.
    #[must_use]
    pub fn drain_until_noticed(mut self) -> Self {
        self.drain = Drain::UntilNoticed;
        self
    }

    #[cfg(feature = "actix-web")]
    pub(crate) fn longest_drain(&self) -> Duration {
        self.drain.longest()
    }

    /// How long it takes at most, with this deadline where none was given.
    #[cfg(feature = "actix-web")]
    pub(crate) fn longest(&self, deadline: Duration) -> Duration {
        self.deadline.unwrap_or(deadline).saturating_add(self.drain.longest())
    }
}

/// How long to wait after deregistering.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Drain {
    For(Duration),
    UntilNoticed,
}

impl Default for Drain {
    fn default() -> Self {
        Drain::For(Duration::ZERO)
    }
}

impl Drain {
    fn longest(self) -> Duration {
        match self {
            Drain::For(time) => time,
            Drain::UntilNoticed => NOTICED_BY_POLL,
        }
    }
}

/// The result of a [`Shutdown`].
///
/// An instance that failed is removed by the servers after 30 s without heartbeats, if it is ephemeral.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// The number of instances that servers have confirmed to be deregistered.
    pub deregistered: usize,
    /// The number of persistent instances that were left registered: see [`Shutdown::persistent_too`].
    pub left: usize,
    /// The instances that could not be deregistered.
    pub failed: Vec<NotDeregistered>,
    /// How long the Registry waited after deregistering: see [`Shutdown::drain`] and [`Shutdown::drain_until_noticed`].
    /// Serialises as `drained_ms`.
    #[serde(rename = "drained_ms", serialize_with = "as_millis")]
    pub drained: Duration,
}

/// An instance that could not be deregistered.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct NotDeregistered {
    /// The instance.
    pub instance: InstanceKey,
    /// Why it could not be deregistered.
    pub error: Error,
}

/// Stops the actor, after everything else is done.
#[derive(Message)]
#[rtype(result = "()")]
struct Stop;

impl Handler<Shutdown> for Registry {
    type Result = ResponseFuture<Result<ShutdownReport, Error>>;

    fn handle(&mut self, message: Shutdown, ctx: &mut Context<Self>) -> Self::Result {
        let registry = ctx.address();
        if self.shared.has_reached(Phase::Closing) {
            return Box::pin(ready(Err(Error::Stopped)));
        }
        self.dispatch_until(Operation::Shutdown, Phase::Ended, |shared| {
            let stop = StopOnDrop(registry);
            let departure = shared.close();
            async move {
                let _stop = stop;
                let deadline = message.deadline.unwrap_or(shared.config.shutdown_timeout);
                let report = shared.go_offline(departure, deadline, message.persistent_too, message.drain).await;
                if !report.drained.is_zero() {
                    // A drain may last, and needs no Heartbeats.
                    shared.desired.stop_heartbeats();
                }
                sleep(report.drained).await;
                shared.subscriptions.stop_all();
                if let Some(report_tx) = message.report_tx {
                    // An error means that the guard has stopped waiting.
                    let _ = report_tx.send(report.clone());
                }
                Ok(report)
            }
        })
    }
}

/// Stops the Registry when dropped, also by a panic, after which a closing Registry would never end. Until then it
/// keeps the Registry alive, because the application may have dropped its last address.
struct StopOnDrop(Addr<Registry>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.do_send(Stop);
    }
}

impl Handler<Stop> for Registry {
    type Result = ();

    fn handle(&mut self, _: Stop, ctx: &mut Context<Self>) {
        ctx.stop();
    }
}

impl Shared {
    /// Does the same as a `Shutdown` that is not awaited.
    pub(super) async fn last_address_dropped(&self) {
        if !self.has_reached(Phase::Closing) {
            let departure = self.close();
            self.go_offline(departure, self.config.shutdown_timeout, false, Drain::default()).await;
        }
        self.subscriptions.stop_all();
    }

    /// Begins the shutdown. No message and no beat about the instances in the departure can begin after this.
    fn close(&self) -> Departure {
        self.phase.send_replace(Phase::Closing);
        self.desired.begin_departure()
    }

    /// Deregisters until `deadline`, then abandons every operation under way. The caller waits for `report.drained`.
    async fn go_offline(
        &self,
        departure: Departure,
        deadline: Duration,
        persistent_too: bool,
        drain: Drain,
    ) -> ShutdownReport {
        self.nacos.close();
        let (progress, noticed_within) = (RefCell::new(Progress::default()), Cell::new(NOTICED_BY_POLL));
        let work = async {
            if drain == Drain::UntilNoticed {
                // Before deregistering: only a registered instance shows the kind of the server.
                noticed_within.set(self.noticed_within(deadline / 4).await);
            }
            self.take_all_offline(departure, persistent_too, &progress).await;
        };
        let in_time = timeout(deadline, work).await.is_ok();
        let Progress { mut report, was_listed } = progress.into_inner();
        if !in_time {
            report.failed.extend(self.timed_out(deadline, persistent_too));
        }
        report.drained = match drain {
            Drain::For(time) => time,
            Drain::UntilNoticed if was_listed && !self.nacos.is_disabled() => noticed_within.get(),
            Drain::UntilNoticed => Duration::ZERO,
        };
        // Operations under way are answered with `Stopped`, since their outcome will never be known.
        self.phase.send_replace(Phase::Offline);
        self.log_report(&report);
        report
    }

    fn log_report(&self, report: &ShutdownReport) {
        match report.failed.first() {
            None => info!(self.log, "registry is offline"; "deregistered" => report.deregistered),
            Some(first) => warn!(self.log, "registry is offline, some instances are still registered";
                "deregistered" => report.deregistered, "failed" => report.failed.len(), "error" => %first.error),
        }
    }

    /// How long callers need to notice that instances are gone. Detecting that takes at most `limit`.
    async fn noticed_within(&self, limit: Duration) -> Duration {
        // Use the oldest instance, because servers show a new one late.
        let mut oldest = None::<(Arc<InstanceKey>, _)>;
        self.desired.for_each(|desired| {
            let is_oldest = oldest.as_ref().is_none_or(|(_, since)| desired.since < *since);
            if desired.known_to.is_some() && is_oldest {
                oldest = Some((desired.key.clone(), desired.since));
            }
        });
        let pushes = self.pushes_changes(oldest.map(|(key, _)| key));
        match timeout(limit.min(PUSH_DETECTION_LIMIT), pushes).await {
            Ok(true) => NOTICED_BY_PUSH,
            Ok(false) | Err(_) => NOTICED_BY_POLL,
        }
    }

    async fn take_all_offline(&self, departure: Departure, persistent_too: bool, progress: &RefCell<Progress>) {
        let departing = departure.idle.map(Either::Left).chain(departure.busy.into_iter().map(Either::Right));
        let take_offline = |departing| async move {
            match departing {
                Either::Left(number) => self.take_offline(number, persistent_too, progress).await,
                Either::Right(turn) => self.take_busy_offline(turn, persistent_too, progress).await,
            }
        };
        stream::iter(departing).for_each_concurrent(self.config.max_connections, take_offline).await;
    }

    /// Deregisters the desired instance and the leftover at `key`, after every message about them. As a rule there is
    /// only one of them.
    async fn take_busy_offline(&self, mut turn: Turn, persistent_too: bool, progress: &RefCell<Progress>) {
        turn.come().await;
        let key = turn.key();
        if let Some(number) = self.desired.depart(key) {
            self.take_offline(number, persistent_too, progress).await;
        }
        if let Some(ephemeral) = self.desired.leftover(key, |leftover| leftover.ephemeral) {
            let outcome = self.deregister_last(key, ephemeral).await;
            self.desired.forget_leftover(key);
            progress.borrow_mut().note(key, outcome, true);
        }
    }

    /// Deregisters the instance with this number: see [`Departure`].
    async fn take_offline(&self, number: usize, persistent_too: bool, progress: &RefCell<Progress>) {
        let read =
            |desired: &DesiredInstance| (desired.key.clone(), desired.instance.ephemeral, desired.known_to.is_some());
        let Some((key, ephemeral, was_listed)) = self.desired.departing(number, read) else { return };
        if ephemeral || persistent_too {
            let outcome = self.deregister_last(&key, ephemeral).await;
            progress.borrow_mut().note(&key, outcome, was_listed);
        } else {
            progress.borrow_mut().report.left += 1;
        }
        // Afterwards, so that it is reported if the deadline passes meanwhile.
        self.desired.retire(number);
    }

    /// Deregisters an instance. After a panic, the other instances go on.
    async fn deregister_last(&self, key: &InstanceKey, ephemeral: bool) -> Result<(), Error> {
        let deregister = AssertUnwindSafe(self.nacos.deregister(key, ephemeral, Patience::Operation));
        deregister.catch_unwind().await.unwrap_or_else(|panic| Err(panicked(&self.log, Operation::Deregister, &*panic)))
    }

    /// The instances that were not deregistered in time.
    fn timed_out(&self, after: Duration, persistent_too: bool) -> Vec<NotDeregistered> {
        // Once each: an instance may be desired and a leftover.
        let mut late = HashSet::new();
        self.desired.for_each(|desired| {
            if desired.instance.ephemeral || persistent_too {
                late.insert(desired.key.clone());
            }
        });
        self.desired.for_each_leftover(|key, _| {
            late.insert(key.clone());
        });
        let server = self.nacos.servers().current().map_or_else(String::new, |server| server.name.clone());
        let error = Error::Timeout { operation: Operation::Deregister, server, after };
        late.into_iter().map(|key| NotDeregistered { instance: (*key).clone(), error: error.clone() }).collect()
    }
}

/// What going offline has done so far.
#[derive(Default)]
struct Progress {
    report: ShutdownReport,
    /// Whether an instance was deregistered that callers may still have in their lists.
    was_listed: bool,
}

impl Progress {
    fn note(&mut self, key: &InstanceKey, outcome: Result<(), Error>, was_listed: bool) {
        match outcome {
            Ok(()) => {
                self.report.deregistered += 1;
                self.was_listed |= was_listed;
            }
            Err(error) => self.report.failed.push(NotDeregistered { instance: key.clone(), error }),
        }
    }
}

/// Shuts the Registry down when dropped, and blocks until that is done or the deadline has passed. It also waits for a
/// [`Shutdown`] that is under way already. For programs that end in many places, by `?` or by a panic.
///
/// Do not drop it on the Registry's own arbiter (after [`Registry::start_here`]): the guard would block the thread that
/// it waits for.
///
/// ```
/// # use actix_nacos::{block_on, embedded::EmbeddedServer, Config, Error, RegisterInstance, Registry, ShutdownGuard};
/// # use std::time::Duration;
/// # let server = EmbeddedServer::start().unwrap();
/// let registry = Registry::start(Config::new(server.server_address()))?;
/// let guard = ShutdownGuard::new(registry.clone(), Duration::from_secs(5));
/// block_on(registry.send(RegisterInstance::new("orders", "127.0.0.7", 8080)))??;
///
/// drop(guard); // at the end of `main`, as a rule
/// assert!(server.instances("orders").is_empty());
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug)]
#[must_use = "shuts the Registry down when dropped: bind it to a name"]
pub struct ShutdownGuard {
    registry: Addr<Registry>,
    deadline: Duration,
    drain: Drain,
}

impl ShutdownGuard {
    /// Deregisters within `deadline` when dropped.
    pub fn new(registry: Addr<Registry>, deadline: Duration) -> Self {
        ShutdownGuard { registry, deadline, drain: Drain::default() }
    }

    /// Waits for `time` after deregistering, in addition to the deadline: see [`Shutdown::drain`]. Default: zero.
    pub fn drain(mut self, time: Duration) -> Self {
        self.drain = Drain::For(time);
        self
    }

    /// Waits after deregistering until callers have noticed, in addition to the deadline: see
    /// [`Shutdown::drain_until_noticed`]. Replaces [`drain`](ShutdownGuard::drain).
    pub fn drain_until_noticed(mut self) -> Self {
        self.drain = Drain::UntilNoticed;
        self
    }
}

impl Drop for ShutdownGuard {
    fn drop(&mut self) {
        let (began, patience) = (Instant::now(), self.deadline.saturating_add(self.drain.longest()));
        let (report_tx, report_rx) = mpsc::channel();
        let shutdown = Shutdown { drain: self.drain, report_tx: Some(report_tx), ..Shutdown::default() };
        self.registry.do_send(shutdown.deadline(self.deadline));
        // A Registry that has ended, or that is shutting down already, drops the sender at once.
        if report_rx.recv_timeout(patience) == Err(RecvTimeoutError::Disconnected) {
            while self.registry.connected() && began.elapsed() < patience {
                thread::sleep(GUARD_CHECK_INTERVAL);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{actor::tests::disabled_registry, desired::tests::key},
        *,
    };
    use crate::model::instance::Instance;

    #[actix::test]
    async fn an_instance_that_is_desired_and_a_leftover_is_reported_once_when_the_deadline_has_passed() {
        let (registry, ..) = disabled_registry();
        let desired = &registry.shared.desired;
        desired.insert(DesiredInstance::new(key(1), Instance::new("127.0.0.7", 1), None));
        [1, 2].iter().for_each(|port| desired.add_leftover(&key(*port), false));
        let late = registry.shared.timed_out(Duration::from_secs(1), false);
        let mut ports: Vec<_> = late.iter().map(|late| late.instance.port).collect();
        ports.sort();
        assert_eq!(ports, [1, 2]);
    }
}
