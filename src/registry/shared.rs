//! The state that the Registry shares with the futures of its handlers, and how these futures are run.
//!
//! Handlers return futures that outlive the handler, and each needs the whole state. So the state is one `Rc`,
//! whose parts are `Cell`s and `RefCell`s. The rule that makes this sound: nothing is borrowed across an `await`.

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    rc::{Rc, Weak},
    sync::Arc,
};

use actix::WeakRecipient;
use actix_rt::time::Instant;
use futures_util::{
    future::{select, Either, FutureExt as _},
    pin_mut,
};
use slog::{info, Logger};
use tokio::sync::{watch, Semaphore};

use super::{
    answers::Answers,
    choosers::Choosers,
    desired::DesiredInstances,
    ejections::Ejections,
    heartbeat::{Beat, HeartbeatSettings},
    phase::Phase,
    push_socket::Pushes,
    recent_writes::RecentWrites,
    server_kind::ServerKind,
    subscriptions::Subscriptions,
    watchers::Watchers,
};
use crate::{
    client::{refresh_server_list, restart_detector::detect_restarts, Nacos},
    config::Config,
    discovery::subscriber::EpochBegan,
    error::{Error, Operation},
    model::{connection::ConnectionChanged, histogram::Durations, instance_state::InstanceStateChanged},
    runtime::{
        history::History,
        supervision::{log_panic, supervise_task},
        timer_grid::Grid,
    },
};

/// The state of a Registry, shared with the futures of its handlers and with its background tasks.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) nacos: Rc<Nacos>,
    pub(crate) history: Arc<History>,
    pub(crate) desired: DesiredInstances,
    pub(crate) subscriptions: Subscriptions,
    pub(crate) pushes: Pushes,
    pub(super) ejections: Rc<Ejections>,
    pub(super) choosers: Rc<Choosers>,
    pub(super) connection_watchers: Watchers<ConnectionChanged, ()>,
    pub(super) instance_watchers: Watchers<InstanceStateChanged>,
    pub(super) server_kind: ServerKind,
    pub(super) recent_writes: Rc<RecentWrites>,
    pub(super) answers: Answers,
    pub(crate) grid: Grid,
    pub(super) heartbeat_settings: Rc<HeartbeatSettings>,
    /// Limits the beats under way to the number of connections, so that an application's own requests wait behind few
    /// beats.
    pub(super) beat_permits: Semaphore,
    /// How long after they were due heartbeats were sent.
    pub(super) heartbeat_lateness: Durations,
    pub(crate) started_at: Instant,
    /// Whether the Registry has a thread of its own, so that callers wait in other threads.
    pub(super) has_own_thread: bool,
    /// The number of servers that `serve` has started and whose services are not registered yet.
    #[cfg(feature = "actix-web")]
    pub(super) unregistered_servers: std::cell::Cell<usize>,
    /// The number of these servers for which no address to register has been found.
    #[cfg(feature = "actix-web")]
    pub(super) servers_without_address: std::cell::Cell<usize>,
    pub(crate) log: Logger,
    pub(super) phase: watch::Sender<Phase>,
}

impl Shared {
    /// State for a Registry without instances and subscriptions. `beat_recipient` is the Registry itself.
    pub(super) fn new(
        config: Config,
        beat_recipient: WeakRecipient<Beat>,
        has_own_thread: bool,
    ) -> Result<Self, Error> {
        let (log, history, grid) = (config.logger.clone(), History::new(), Grid::new());
        let phase = watch::channel(Phase::Serving).0;
        let heartbeat_settings = HeartbeatSettings::new(beat_recipient, grid, phase.subscribe(), log.clone());
        Ok(Shared {
            nacos: Rc::new(Nacos::new(&config, history.clone())?),
            history,
            desired: DesiredInstances::default(),
            subscriptions: Subscriptions::default(),
            pushes: Pushes::default(),
            ejections: Rc::default(),
            choosers: Rc::default(),
            connection_watchers: Watchers::default(),
            instance_watchers: Watchers::default(),
            server_kind: ServerKind::default(),
            recent_writes: Rc::default(),
            answers: Answers::default(),
            grid,
            heartbeat_settings,
            beat_permits: Semaphore::new(config.max_connections),
            heartbeat_lateness: Durations::default(),
            started_at: Instant::now(),
            has_own_thread,
            #[cfg(feature = "actix-web")]
            unregistered_servers: std::cell::Cell::new(0),
            #[cfg(feature = "actix-web")]
            servers_without_address: std::cell::Cell::new(0),
            phase,
            config,
            log,
        })
    }

    /// Whether the Registry has reached `phase`.
    pub(super) fn has_reached(&self, phase: Phase) -> bool {
        *self.phase.borrow() >= phase
    }

    /// Runs `work` until the Registry reaches the phase `last`, then answers [`Error::Stopped`]. Turns a panic into
    /// [`Error::Panicked`].
    pub(super) async fn catch_panics<T, F>(
        &self,
        operation: Operation,
        last: Phase,
        work: Pin<&mut F>,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut phases = self.phase.subscribe();
        let caught = AssertUnwindSafe(work).catch_unwind();
        let ended = phases.wait_for(|phase| *phase >= last);
        pin_mut!(caught, ended);
        // Poll the end first: an operation that is answered with `Stopped` must not take effect a moment later.
        let Either::Right((outcome, _)) = select(ended, caught).await else { return Err(Error::Stopped) };
        outcome.unwrap_or_else(|panic| Err(panicked(&self.log, operation, &*panic)))
    }

    /// Starts the tasks that run beside the actor. They do not keep the shared state alive.
    pub(super) fn spawn_background_tasks(self: &Rc<Self>) {
        let recent_writes = self.recent_writes.clone();
        self.spawn_background_task(move || recent_writes.clone().forget_in_time());
        let (ejections, history, log) = (self.ejections.clone(), self.history.clone(), self.log.clone());
        self.spawn_background_task(move || ejections.clone().report(history.clone(), log.clone()));
        let choosers = self.choosers.clone();
        self.spawn_background_task(move || choosers.clone().forget_idle_in_time());
        if self.nacos.is_disabled() {
            info!(self.log, "registry is disabled, nothing is registered and all lists are empty");
            return;
        }
        let servers = self.nacos.servers().clone();
        self.spawn_background_task(move || detect_restarts(servers.clone()));
        let (shared, epochs) = (Rc::downgrade(self), self.nacos.servers().epochs());
        self.spawn_background_task(move || recover(shared.clone(), epochs.clone()));
        if let Some(url) = self.config.endpoint.clone() {
            let (nacos, config) = (self.nacos.clone(), &self.config);
            let (context_path, interval) = (config.context_path.clone(), config.endpoint_interval);
            let refresh = move || refresh_server_list(nacos.clone(), url.clone(), context_path.clone(), interval);
            self.spawn_background_task(refresh);
        }
    }

    /// Runs a task until the Registry ends, even if the task is waiting then. Starts it again after a panic.
    fn spawn_background_task<F: Future<Output = ()>>(&self, task: impl Fn() -> F + 'static) {
        let (mut phases, log) = (self.phase.subscribe(), self.log.clone());
        actix_rt::spawn(async move {
            let work = supervise_task(task, &log);
            let ended = phases.wait_for(|phase| *phase >= Phase::Ended);
            pin_mut!(work, ended);
            // Poll the end first: a task that is due at the same moment must not begin anything.
            select(ended, work).await;
        });
    }
}

/// Does what a new epoch requires: polls every list soon, and registers persistent instances again. Ephemeral instances
/// register again by themselves, instead of their next beat.
async fn recover(shared: Weak<Shared>, mut epochs: watch::Receiver<u64>) {
    while epochs.changed().await.is_ok() {
        let Some(shared) = shared.upgrade() else { return };
        for (_, subscriber) in shared.subscriptions.all() {
            subscriber.do_send(EpochBegan);
        }
        shared.restore_persistent();
    }
}

/// Logs a panic in an operation, and gives the error that answers it.
pub(super) fn panicked(log: &Logger, operation: Operation, panic: &(dyn std::any::Any + Send)) -> Error {
    let message = log_panic(log, "operation panicked", "operation", operation, panic);
    Error::Panicked { operation, message }
}
