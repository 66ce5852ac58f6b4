//! Going offline: deregister what we registered, then end.

use std::{
    cell::RefCell,
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

use super::{desired::Turn, panicked, Desk, Phase, Registry};
use crate::{
    error::Error,
    heartbeat::StopBeating,
    instance::InstanceKey,
    nacos::{Operation, Patience},
};

/// A guard looks so often whether somebody else's shutdown is done.
const GUARD_STEP: Duration = Duration::from_millis(10);

/// Ends the Registry: stops the beats, deregisters the own ephemeral instances, then ends subscriptions, sockets and the
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
    drain: Duration,
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

    /// Also deregisters the own persistent instances, which otherwise outlive the process. Default: off.
    #[must_use]
    pub fn persistent_too(mut self) -> Self {
        self.persistent_too = true;
        self
    }

    /// Waits so long after deregistering: callers that have not heard of it yet are still served meanwhile, and views stay
    /// current. Default: zero.
    #[must_use]
    pub fn drain(mut self, time: Duration) -> Self {
        self.drain = time;
        self
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
        if self.desk.is_in(Phase::Closing) {
            return Box::pin(ready(Err(Error::Stopped)));
        }
        self.guard(Operation::Shutdown, Phase::Ended, |desk| {
            desk.phase.send_replace(Phase::Closing);
            let ends = EndsRegistry(registry);
            let turns = desk.take_all_turns();
            async move {
                let _ends = ends;
                let deadline = message.deadline.unwrap_or(desk.config.shutdown_timeout);
                let report = desk.go_offline(turns, deadline, message.persistent_too).await;
                sleep(message.drain).await;
                desk.subscriptions.stop_all();
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

impl Desk {
    /// Nobody can ask for anything any more: the same as a `Shutdown` that nobody awaits.
    pub(super) async fn last_address_dropped(&self) {
        if !self.is_in(Phase::Closing) {
            self.phase.send_replace(Phase::Closing);
            let turns = self.take_all_turns();
            self.go_offline(turns, self.config.shutdown_timeout, false).await;
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
    ) -> ShutdownReport {
        self.nacos.close();
        let report = RefCell::new(ShutdownReport::default());
        let work = stream::iter(turns).for_each_concurrent(self.config.max_connections, |(mut turn, key)| {
            let report = &report;
            async move {
                turn.come().await;
                let work = AssertUnwindSafe(self.take_offline(&key, persistent_too, report));
                if let Err(panic) = work.catch_unwind().await {
                    // The others are still to be taken offline.
                    self.desired.remove(&key);
                    let error = panicked(&self.log, Operation::Deregister, &*panic);
                    report.borrow_mut().failed.push(NotDeregistered { instance: (*key).clone(), error });
                }
            }
        });
        let in_time = timeout(deadline, work).await.is_ok();
        let mut report = report.into_inner();
        if !in_time {
            report.failed.extend(self.not_in_time(deadline, persistent_too));
        }
        // What is still under way is answered with `Stopped`: nobody can tell any more what becomes of it.
        self.phase.send_replace(Phase::Offline);
        match report.failed.first() {
            None => info!(self.log, "registry client is offline"; "deregistered" => report.deregistered),
            Some(first) => warn!(self.log, "registry client is offline, some instances are still registered";
                "deregistered" => report.deregistered, "failed" => report.failed.len(), "first_error" => %first.error),
        }
        report
    }

    /// Deregisters what is wanted at `key` and what is left over there, which as a rule is one of the two.
    async fn take_offline(&self, key: &Arc<InstanceKey>, persistent_too: bool, report: &RefCell<ShutdownReport>) {
        let wanted = self.desired.get(key, |desired| desired.instance.ephemeral);
        if wanted == Some(false) && !persistent_too {
            self.desired.remove(key);
            report.borrow_mut().left += 1;
        } else if let Some(ephemeral) = wanted {
            // Kept as wanted until it is done, so that a deadline that passes meanwhile reports it.
            let outcome = self.nacos.deregister(key, ephemeral, Patience::Operation).await;
            self.desired.remove(key);
            report.borrow_mut().add(key, outcome);
        }
        if let Some(ephemeral) = self.desired.leftover(key, |leftover| leftover.ephemeral) {
            let outcome = self.nacos.deregister(key, ephemeral, Patience::Operation).await;
            self.desired.forget_leftover(key);
            report.borrow_mut().add(key, outcome);
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

impl ShutdownReport {
    fn add(&mut self, key: &InstanceKey, outcome: Result<(), Error>) {
        match outcome {
            Ok(()) => self.deregistered += 1,
            Err(error) => self.failed.push(NotDeregistered { instance: key.clone(), error }),
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
    drain: Duration,
}

impl ShutdownGuard {
    /// Blocks for at most `deadline` when dropped.
    pub fn new(registry: Addr<Registry>, deadline: Duration) -> Self {
        ShutdownGuard { registry, deadline, drain: Duration::ZERO }
    }

    /// See [`Shutdown::drain`]; comes on top of the deadline. Default: zero.
    pub fn drain(mut self, time: Duration) -> Self {
        self.drain = time;
        self
    }
}

impl Drop for ShutdownGuard {
    fn drop(&mut self) {
        let (began, patience) = (Instant::now(), self.deadline.saturating_add(self.drain));
        let (tell, told) = mpsc::channel();
        let shutdown = Shutdown { tell: Some(tell), ..Shutdown::default() };
        self.registry.do_send(shutdown.deadline(self.deadline).drain(self.drain));
        // A Registry that has ended, or is shutting down already, drops the sender at once.
        if told.recv_timeout(patience) == Err(RecvTimeoutError::Disconnected) {
            while self.registry.connected() && began.elapsed() < patience {
                thread::sleep(GUARD_STEP);
            }
        }
    }
}
