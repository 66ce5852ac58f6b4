//! Going offline: deregister what we registered, then end.

use std::{
    cell::{Cell, RefCell},
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
    future::{ready, FutureExt as _},
    stream::{self, StreamExt as _},
};
use serde::Serialize;
use slog::{info, warn};

use super::{
    actor::Registry,
    desired::Turn,
    heartbeat::StopBeating,
    shared::{panicked, Phase, Shared},
};
use crate::{
    client::Patience,
    error::{as_millis, Error, Operation},
    model::instance::InstanceKey,
};

/// How long callers need to notice that an instance is gone where the server pushes changes: 1.4 does after a second, later
/// Nacos after half a second. The other second is for the push to arrive and to be handled.
const NOTICED_BY_PUSH: Duration = Duration::from_secs(2);
/// The same where callers poll, which Nacos clients do every 10 s. Lists may show the end half a second late, and a poll takes
/// its time.
const NOTICED_BY_POLL: Duration = Duration::from_secs(12);
/// How long finding out whether the server pushes may hold up deregistering.
const LONGEST_READ: Duration = Duration::from_secs(1);

/// A guard looks so often whether somebody else's shutdown is done.
const GUARD_STEP: Duration = Duration::from_millis(10);

/// Ends the Registry: stops the beats, deregisters the registered ephemeral instances, then ends subscriptions, sockets and the
/// thread. Final: every later message is answered with [`Error::Stopped`].
///
/// What was asked for before takes effect before. Answered when all is done, or the deadline has passed; then the
/// [`drain`](Shutdown::drain) is over, too.
///
/// # Errors
/// [`Error::Stopped`] if the Registry is shutting down already. What could not be deregistered is in the report, and no
/// error: a server removes ephemeral instances by itself after a while without beats.
#[derive(Debug, Clone, Default, Message)]
#[rtype(result = "Result<ShutdownReport, Error>")]
pub struct Shutdown {
    deadline: Option<Duration>,
    persistent_too: bool,
    drain: Drain,
    /// For those who cannot await: see [`ShutdownGuard`].
    tell: Option<mpsc::Sender<ShutdownReport>>,
}

impl Shutdown {
    /// How long deregistering may take. Default: [`Config::shutdown_timeout`](crate::Config::shutdown_timeout), 10 s.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Also deregisters the registered persistent instances, which otherwise outlive the process. Default: off.
    #[must_use]
    pub fn persistent_too(mut self) -> Self {
        self.persistent_too = true;
        self
    }

    /// Waits so long after deregistering: callers that have not heard of it yet are still served meanwhile, and views stay
    /// current. Default: zero.
    #[must_use]
    pub fn drain(mut self, time: Duration) -> Self {
        self.drain = Drain::For(time);
        self
    }

    /// Waits after deregistering as long as callers need to notice: 2 s where the server in use pushes changes (Nacos up to
    /// 3.1), 12 s where clients poll for them (Nacos 3.2 and later, r-nacos), every 10 s as a rule. Does not wait where nobody
    /// notices anything: no instance was registered, or none could be deregistered, because no server can be reached for
    /// example. Replaces [`drain`](Shutdown::drain).
    ///
    /// [`ShutdownReport::drained`] is the time that was waited. Shortly after the start it may take one request to find out what
    /// the server is; where that cannot be found out, it counts as one that does not push.
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

/// How long to serve on after deregistering.
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

/// What a [`Shutdown`] did.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// How many instances the servers have confirmed to be deregistered.
    pub deregistered: usize,
    /// How many persistent instances were left registered.
    pub left: usize,
    /// What could not be deregistered.
    pub failed: Vec<NotDeregistered>,
    /// How long callers were still served after deregistering: see [`Shutdown::drain`] and
    /// [`Shutdown::drain_until_noticed`]. Serialises as `drained_ms`.
    #[serde(rename = "drained_ms", serialize_with = "as_millis")]
    pub drained: Duration,
}

/// An instance that could not be deregistered.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct NotDeregistered {
    /// The instance.
    pub instance: InstanceKey,
    /// Why not.
    pub error: Error,
}

/// Ends the actor, when all else is done.
#[derive(Message)]
#[rtype(result = "()")]
struct End;

impl Handler<Shutdown> for Registry {
    type Result = ResponseFuture<Result<ShutdownReport, Error>>;

    fn handle(&mut self, message: Shutdown, ctx: &mut Context<Self>) -> Self::Result {
        let registry = ctx.address();
        if self.shared.is_in(Phase::Closing) {
            return Box::pin(ready(Err(Error::Stopped)));
        }
        self.dispatch_until(Operation::Shutdown, Phase::Ended, |shared| {
            shared.phase.send_replace(Phase::Closing);
            let ends = EndsRegistry(registry);
            let turns = shared.take_all_turns();
            async move {
                let _ends = ends;
                let deadline = message.deadline.unwrap_or(shared.config.shutdown_timeout);
                let report = shared.go_offline(turns, deadline, message.persistent_too, message.drain).await;
                sleep(report.drained).await;
                shared.subscriptions.stop_all();
                if let Some(tell) = message.tell {
                    // Whoever waited may have given up.
                    let _ = tell.send(report.clone());
                }
                Ok(report)
            }
        })
    }
}

/// Ends the Registry when dropped, also by a panic: one that is closing for ever would answer nobody and never end. Until
/// then it keeps it: whoever asked for the shutdown may have dropped the last address.
struct EndsRegistry(Addr<Registry>);

impl Drop for EndsRegistry {
    fn drop(&mut self) {
        self.0.do_send(End);
    }
}

impl Handler<End> for Registry {
    type Result = ();

    fn handle(&mut self, _: End, ctx: &mut Context<Self>) {
        ctx.stop();
    }
}

impl Shared {
    /// Nobody can ask for anything any more: the same as a `Shutdown` that nobody awaits.
    pub(super) async fn last_address_dropped(&self) {
        if !self.is_in(Phase::Closing) {
            self.phase.send_replace(Phase::Closing);
            let turns = self.take_all_turns();
            self.go_offline(turns, self.config.shutdown_timeout, false, Drain::default()).await;
        }
        self.subscriptions.stop_all();
    }

    /// Behind everything that was asked for before.
    fn take_all_turns(&self) -> Vec<(Turn, Arc<InstanceKey>)> {
        self.desired.heartbeats().iter().for_each(|heartbeat| heartbeat.do_send(StopBeating));
        self.desired.keys().into_iter().map(|key| (self.desired.queue(&key), key)).collect()
    }

    async fn go_offline(
        &self,
        turns: Vec<(Turn, Arc<InstanceKey>)>,
        deadline: Duration,
        persistent_too: bool,
        drain: Drain,
    ) -> ShutdownReport {
        self.nacos.close();
        let (progress, noticed_within) = (RefCell::new(Progress::default()), Cell::new(NOTICED_BY_POLL));
        let work = async {
            if drain == Drain::UntilNoticed {
                // Before deregistering: only a registered instance tells what the server is.
                noticed_within.set(self.noticed_within(deadline / 4).await);
            }
            self.take_all_offline(turns, persistent_too, &progress).await;
        };
        let in_time = timeout(deadline, work).await.is_ok();
        let Progress { mut report, was_listed } = progress.into_inner();
        if !in_time {
            report.failed.extend(self.not_in_time(deadline, persistent_too));
        }
        report.drained = match drain {
            Drain::For(time) => time,
            Drain::UntilNoticed if was_listed && !self.nacos.is_disabled() => noticed_within.get(),
            Drain::UntilNoticed => Duration::ZERO,
        };
        // What is still under way is answered with `Stopped`: nobody can tell any more what becomes of it.
        self.phase.send_replace(Phase::Offline);
        match report.failed.first() {
            None => info!(self.log, "registry client is offline"; "deregistered" => report.deregistered),
            Some(first) => warn!(self.log, "registry client is offline, some instances are still registered";
                "deregistered" => report.deregistered, "failed" => report.failed.len(), "first_error" => %first.error),
        }
        report
    }

    /// How long callers need to notice that instances are gone. Takes at most `limit`.
    async fn noticed_within(&self, limit: Duration) -> Duration {
        // The oldest one: servers show a new one late.
        let mut oldest = None::<(Arc<InstanceKey>, _)>;
        self.desired.for_each(|desired| {
            let is_oldest = oldest.as_ref().is_none_or(|(_, since)| desired.since < *since);
            if desired.known_to.is_some() && is_oldest {
                oldest = Some((desired.key.clone(), desired.since));
            }
        });
        let pushes = self.pushes_changes(oldest.map(|(key, _)| key));
        match timeout(limit.min(LONGEST_READ), pushes).await {
            Ok(true) => NOTICED_BY_PUSH,
            Ok(false) | Err(_) => NOTICED_BY_POLL,
        }
    }

    async fn take_all_offline(
        &self,
        turns: Vec<(Turn, Arc<InstanceKey>)>,
        persistent_too: bool,
        progress: &RefCell<Progress>,
    ) {
        let take_offline = |(mut turn, key): (Turn, Arc<InstanceKey>)| async move {
            turn.come().await;
            let work = AssertUnwindSafe(self.take_offline(&key, persistent_too, progress));
            if let Err(panic) = work.catch_unwind().await {
                // The others are still to be taken offline.
                self.desired.remove(&key);
                let error = panicked(&self.log, Operation::Deregister, &*panic);
                progress.borrow_mut().report.failed.push(NotDeregistered { instance: (*key).clone(), error });
            }
        };
        stream::iter(turns).for_each_concurrent(self.config.max_connections, take_offline).await;
    }

    /// Deregisters what is wanted at `key` and what is left over there, which as a rule is one of the two.
    async fn take_offline(&self, key: &Arc<InstanceKey>, persistent_too: bool, progress: &RefCell<Progress>) {
        let wanted = self.desired.get(key, |desired| (desired.instance.ephemeral, desired.known_to.is_some()));
        if matches!(wanted, Some((false, _))) && !persistent_too {
            self.desired.remove(key);
            progress.borrow_mut().report.left += 1;
        } else if let Some((ephemeral, was_listed)) = wanted {
            // Kept as wanted until it is done, so that a deadline that passes meanwhile reports it.
            let outcome = self.nacos.deregister(key, ephemeral, Patience::Operation).await;
            self.desired.remove(key);
            progress.borrow_mut().note(key, outcome, was_listed);
        }
        if let Some(ephemeral) = self.desired.leftover(key, |leftover| leftover.ephemeral) {
            let outcome = self.nacos.deregister(key, ephemeral, Patience::Operation).await;
            self.desired.forget_leftover(key);
            progress.borrow_mut().note(key, outcome, true);
        }
    }

    fn not_in_time(&self, after: Duration, persistent_too: bool) -> Vec<NotDeregistered> {
        let mut late = Vec::new();
        self.desired.for_each(|desired| {
            if desired.instance.ephemeral || persistent_too {
                late.push(desired.key.clone());
            }
        });
        self.desired.for_each_leftover(|key, _| late.push(key.clone()));
        let server = self.nacos.servers().current().map_or_else(String::new, |server| server.name.clone());
        let error = Error::Timeout { operation: Operation::Deregister, server, after };
        late.into_iter().map(|key| NotDeregistered { instance: (*key).clone(), error: error.clone() }).collect()
    }
}

/// How far going offline has come.
#[derive(Default)]
struct Progress {
    report: ShutdownReport,
    /// An instance was deregistered that callers may know.
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

/// Shuts the Registry down when dropped, and blocks until that is done or its deadline has passed, also where a [`Shutdown`]
/// is under way already. For programs that end in many ways, by `?` or by a panic.
///
/// Do not drop it on the Registry's own arbiter (after [`Registry::start_here`]): it would wait for itself until the deadline.
///
/// ```
/// # use actix_nacos::{embedded::EmbeddedServer, Config, Registry, ShutdownGuard};
/// # use std::time::Duration;
/// # let server = EmbeddedServer::start().unwrap();
/// let registry = Registry::start(Config::new(server.address().to_string()))?;
/// let _offline_at_the_end = ShutdownGuard::new(registry.clone(), Duration::from_secs(5));
/// # Ok::<(), actix_nacos::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "shuts the Registry down when dropped: bind it to a name"]
pub struct ShutdownGuard {
    registry: Addr<Registry>,
    deadline: Duration,
    drain: Drain,
}

impl ShutdownGuard {
    /// Blocks for at most `deadline` when dropped.
    pub fn new(registry: Addr<Registry>, deadline: Duration) -> Self {
        ShutdownGuard { registry, deadline, drain: Drain::default() }
    }

    /// See [`Shutdown::drain`]; comes on top of the deadline. Default: zero.
    pub fn drain(mut self, time: Duration) -> Self {
        self.drain = Drain::For(time);
        self
    }

    /// See [`Shutdown::drain_until_noticed`]; comes on top of the deadline. Replaces [`drain`](ShutdownGuard::drain).
    pub fn drain_until_noticed(mut self) -> Self {
        self.drain = Drain::UntilNoticed;
        self
    }
}

impl Drop for ShutdownGuard {
    fn drop(&mut self) {
        let (began, patience) = (Instant::now(), self.deadline.saturating_add(self.drain.longest()));
        let (tell, told) = mpsc::channel();
        let shutdown = Shutdown { drain: self.drain, tell: Some(tell), ..Shutdown::default() };
        self.registry.do_send(shutdown.deadline(self.deadline));
        // A Registry that has ended, or is shutting down already, drops the sender at once.
        if told.recv_timeout(patience) == Err(RecvTimeoutError::Disconnected) {
            while self.registry.connected() && began.elapsed() < patience {
                thread::sleep(GUARD_STEP);
            }
        }
    }
}
