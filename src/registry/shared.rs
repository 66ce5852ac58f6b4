//! The Registry's state that outlives one handler, and how its futures are guarded.

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    rc::{Rc, Weak},
};

use actix::WeakRecipient;
use futures_util::{
    future::{select, Either, FutureExt as _},
    pin_mut,
};
use slog::{info, Logger};
use tokio::sync::{watch, Semaphore};

use super::{
    connection::ConnectionListeners, desired::DesiredInstances, heartbeat::Beat, instance_state::InstanceListeners,
    pushes::Pushes, r_nacos::ServerKind, recent_writes::RecentWrites, subscriptions::Subscriptions,
};
use crate::{
    client::{refresh_server_list, restart_detector::detect_restarts, Nacos},
    config::Config,
    discovery::subscriber::EpochBegan,
    error::{Error, Operation},
    runtime::{
        supervision::{log_panic, supervise_task},
        timer_grid::Grid,
    },
};

/// The Registry's state, beyond one handler.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) nacos: Rc<Nacos>,
    pub(crate) desired: DesiredInstances,
    pub(crate) subscriptions: Subscriptions,
    pub(crate) pushes: Pushes,
    pub(crate) connection_listeners: ConnectionListeners,
    pub(super) instance_listeners: InstanceListeners,
    pub(super) server_kind: ServerKind,
    pub(super) recent_writes: Rc<RecentWrites>,
    pub(crate) grid: Grid,
    /// The Registry, for its Heartbeats.
    pub(super) heartbeats_ask: WeakRecipient<Beat>,
    /// Of our Heartbeats: as many as there are connections, so that an application's own requests wait behind few.
    pub(super) beats_under_way: Semaphore,
    pub(crate) began: std::time::Instant,
    /// On a thread of its own: whoever asks is in another one.
    pub(super) is_apart: bool,
    pub(crate) log: Logger,
    pub(super) phase: watch::Sender<Phase>,
}

/// How far a Registry has come, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Serving,
    /// A `Shutdown` was taken, or the last address is gone: new messages are refused.
    Closing,
    /// All is deregistered, or the deadline has passed: operations that are under way are given up.
    Offline,
    /// Polls are given up, too, and the thread ends.
    Ended,
}

impl Shared {
    /// `heartbeats_ask`: the Registry that the state belongs to. `is_apart`: whether it has a thread of its own.
    pub(super) fn new(config: Config, heartbeats_ask: WeakRecipient<Beat>, is_apart: bool) -> Result<Self, Error> {
        let log = config.logger.clone();
        Ok(Shared {
            nacos: Rc::new(Nacos::new(&config)?),
            desired: DesiredInstances::default(),
            subscriptions: Subscriptions::default(),
            pushes: Pushes::default(),
            connection_listeners: ConnectionListeners::default(),
            instance_listeners: InstanceListeners::default(),
            server_kind: ServerKind::default(),
            recent_writes: Rc::default(),
            grid: Grid::new(),
            heartbeats_ask,
            beats_under_way: Semaphore::new(config.max_connections),
            began: std::time::Instant::now(),
            is_apart,
            phase: watch::channel(Phase::Serving).0,
            config,
            log,
        })
    }

    /// Whether it has come so far.
    pub(super) fn is_in(&self, phase: Phase) -> bool {
        *self.phase.borrow() >= phase
    }

    /// Gives `work` up when the Registry is in the phase `last`, and answers for it when it panics.
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
        let catch_panics = AssertUnwindSafe(work).catch_unwind();
        let ended = phases.wait_for(|phase| *phase >= last);
        pin_mut!(catch_panics, ended);
        // The end first: whoever is told `Stopped` must not find the operation in effect a moment later.
        let Either::Right((outcome, _)) = select(ended, catch_panics).await else { return Err(Error::Stopped) };
        outcome.unwrap_or_else(|panic| Err(panicked(&self.log, operation, &*panic)))
    }

    /// What runs beside the actor. Each holds the shared weakly.
    pub(super) fn spawn_background_tasks(self: &Rc<Self>) {
        let recent_writes = self.recent_writes.clone();
        self.spawn_background_task(move || recent_writes.clone().forget_in_time());
        if self.nacos.is_disabled() {
            info!(self.log, "no registry: configured as disabled, nothing is registered and every list is empty");
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

    /// Runs a chore until the Registry ends, whatever it waits for then; begins it anew after a panic.
    fn spawn_background_task<F: Future<Output = ()>>(&self, chore: impl Fn() -> F + 'static) {
        let (mut phases, log) = (self.phase.subscribe(), self.log.clone());
        actix_rt::spawn(async move {
            let work = supervise_task(chore, &log);
            let ended = phases.wait_for(|phase| *phase >= Phase::Ended);
            pin_mut!(work, ended);
            select(work, ended).await;
        });
    }
}

/// What a new epoch does, besides what each heartbeat does by itself: an instance that an older epoch knows is registered
/// instead of its next beat.
async fn recover(shared: Weak<Shared>, mut epochs: watch::Receiver<u64>) {
    while epochs.changed().await.is_ok() {
        let Some(shared) = shared.upgrade() else { return };
        for (_, subscriber) in shared.subscriptions.all() {
            subscriber.do_send(EpochBegan);
        }
        shared.restore_persistent();
    }
}

pub(super) fn panicked(log: &Logger, operation: Operation, panic: &(dyn std::any::Any + Send)) -> Error {
    let message = log_panic(log, "an operation panicked", operation, panic);
    Error::Panicked { operation, message }
}
