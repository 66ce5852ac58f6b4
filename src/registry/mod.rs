//! The Registry actor: owns the Nacos client, takes one message per operation, knows what should be registered and watched.

mod beats;
mod connection;
mod credentials;
mod desired;
mod doubles;
mod filter;
mod get;
pub(crate) mod heartbeat;
mod instance_state;
mod instances;
mod lists;
mod metadata;
mod modify;
mod pushes;
mod r_nacos;
mod recent_writes;
mod registration;
mod shutdown;
mod status;
mod subscriptions;
mod target;

use std::{
    future::Future,
    panic::{catch_unwind, AssertUnwindSafe},
    pin::{pin, Pin},
    rc::{Rc, Weak},
    sync::mpsc,
    thread,
};

use actix::{dev::channel, Actor, Addr, Arbiter, Context, ResponseFuture, Supervised, System, WeakAddr, WeakRecipient};
use actix_rt::task::yield_now;
use futures_util::{
    future::{ready, select, Either, FutureExt as _},
    pin_mut,
};
use slog::{debug, info, Logger};
use tokio::sync::{watch, Semaphore};

use self::heartbeat::Beat;
pub use self::{
    beats::SendHeartbeat,
    connection::{ConnectionChanged, UnwatchConnection, WatchConnection},
    credentials::{SetAccessKey, SetCredentials},
    get::GetInstance,
    instance_state::{InstanceState, InstanceStateChanged, UnwatchInstances, WatchInstances},
    instances::{DeregisterInstance, RegisterInstance},
    lists::{ListInstances, ListServices, ServiceList},
    modify::ModifyInstance,
    pushes::PushStatus,
    registration::Registration,
    shutdown::{NotDeregistered, Shutdown, ShutdownGuard, ShutdownReport},
    status::{GetStatus, InstanceStatus, RegistryStatus, ServerStatus, SessionStatus},
    subscriptions::{Discover, StopSubscribe, Subscribe, Unsubscribe},
};
use self::{
    connection::ConnectionListeners, desired::DesiredInstances, instance_state::InstanceListeners, pushes::Pushes,
    r_nacos::ServerKind, recent_writes::RecentWrites, subscriptions::Subscriptions,
};
use crate::{
    client::{refresh_server_list, restart_detector::detect_restarts, Nacos},
    config::Config,
    discovery::subscriber::EpochBegan,
    error::{Error, Operation},
    runtime::{
        supervision::{log_panic, supervise, supervise_task},
        timer_grid::Grid,
    },
};

/// So often the answers that were just given may be fetched before the thread ends: without it most waiting callers
/// would see a closed mailbox instead of their answer.
const YIELDS_FOR_LAST_ANSWERS: usize = 64;

/// The actor that an application talks to: one typed message per operation, from any thread.
///
/// # Life
/// [`start`](Registry::start) runs it on a thread of its own, so that nothing the application does to its own threads,
/// its System included, costs a heartbeat. It ends by [`Shutdown`], or when the last `Addr` is dropped; either way it
/// deregisters what it registered as ephemeral, but only an awaited `Shutdown` promises that this is done. From then on
/// every message is answered with [`Error::Stopped`].
///
/// # Order
/// Messages for the same instance take effect on the server in the order in which the mailbox took them, awaited or not.
/// Different instances do not wait for each other, and no handler holds the mailbox while a request is under way.
///
/// # Failures
/// A panic costs the operation it happened in, which is answered with [`Error::Panicked`]; the address serves on. What is
/// registered and watched is kept, and made so again after every trouble: a server that restarted, another server, an
/// actor that was restarted.
pub struct Registry {
    /// What the handlers' futures share with the actor; all of it in one thread.
    shared: Rc<Shared>,
    /// Handlers and our own actors hold the Registry weakly: only the application keeps it alive.
    myself: WeakAddr<Registry>,
}

/// The Registry's state, beyond one handler.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) nacos: Rc<Nacos>,
    pub(crate) desired: DesiredInstances,
    pub(crate) subscriptions: Subscriptions,
    pub(crate) pushes: Pushes,
    pub(crate) connection_listeners: ConnectionListeners,
    instance_listeners: InstanceListeners,
    server_kind: ServerKind,
    recent_writes: Rc<RecentWrites>,
    pub(crate) grid: Grid,
    /// The Registry, for its Heartbeats.
    heartbeats_ask: WeakRecipient<Beat>,
    /// Of our Heartbeats: as many as there are connections, so that an application's own requests wait behind few.
    beats_under_way: Semaphore,
    pub(crate) began: std::time::Instant,
    /// On a thread of its own: whoever asks is in another one.
    is_apart: bool,
    pub(crate) log: Logger,
    phase: watch::Sender<Phase>,
}

/// How far a Registry has come, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Serving,
    /// A `Shutdown` was taken, or the last address is gone: new messages are refused.
    Closing,
    /// All is deregistered, or the deadline has passed: operations that are under way are given up.
    Offline,
    /// Polls are given up, too, and the thread ends.
    Ended,
}

impl Registry {
    /// Starts a Registry on a thread with an arbiter of its own. Call it from anywhere: no runtime is needed.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] for a setting that cannot work; [`Error::NotStarted`] if no thread can be had.
    pub fn start(config: Config) -> Result<Addr<Registry>, Error> {
        config.validate()?;
        let (sender, mailbox) = channel::channel(config.mailbox_capacity);
        let address = Addr::new(sender);
        let myself = address.downgrade();
        let (started_tx, started_rx) = mpsc::channel();
        let run = move || {
            System::new().block_on(async move {
                match Registry::new(config, myself, true) {
                    Ok(registry) => {
                        let _ = started_tx.send(Ok(()));
                        registry.run(mailbox).await;
                    }
                    Err(error) => drop(started_tx.send(Err(error))),
                }
            });
        };
        let not_started = |reason: String| Error::NotStarted { reason };
        thread::Builder::new()
            .name("actix-nacos".into())
            .spawn(run)
            .map_err(|error| not_started(format!("no thread for it: {error}")))?;
        started_rx.recv().map_err(|_| not_started("its thread ended at once".into()))??;
        Ok(address)
    }

    /// Starts a Registry on the present arbiter, which saves a thread. A handler that blocks the arbiter's thread blocks the
    /// heartbeats.
    ///
    /// It ends with the arbiter, and `System::stop` ends every arbiter at once: then nothing is deregistered, operations under
    /// way are dropped, unsent changes are lost, and servers list the instances until they give up on them, after 15 to 30 s.
    /// So await [`Shutdown`] before the System ends. A Registry of [`start`](Registry::start) outlives the System, and
    /// deregisters when its last address is dropped.
    ///
    /// # Errors
    /// As [`start`](Registry::start); [`Error::NotStarted`] outside an arbiter.
    pub fn start_here(config: Config) -> Result<Addr<Registry>, Error> {
        config.validate()?;
        // A System that was made and does not run yet has an arbiter, but nothing can be spawned there.
        if Arbiter::try_current().is_none() || tokio::runtime::Handle::try_current().is_err() {
            let reason = "no arbiter runs here; call it inside an actix System, or use Registry::start".into();
            return Err(Error::NotStarted { reason });
        }
        let (sender, mailbox) = channel::channel(config.mailbox_capacity);
        let address = Addr::new(sender);
        let registry = Registry::new(config, address.downgrade(), false)?;
        actix_rt::spawn(registry.run(mailbox));
        Ok(address)
    }

    fn new(config: Config, myself: WeakAddr<Registry>, is_apart: bool) -> Result<Self, Error> {
        let log = config.logger.clone();
        let shared = Shared {
            nacos: Rc::new(Nacos::new(&config)?),
            desired: DesiredInstances::default(),
            subscriptions: Subscriptions::default(),
            pushes: Pushes::default(),
            connection_listeners: ConnectionListeners::default(),
            instance_listeners: InstanceListeners::default(),
            server_kind: ServerKind::default(),
            recent_writes: Rc::default(),
            grid: Grid::new(),
            heartbeats_ask: myself.clone().recipient(),
            beats_under_way: Semaphore::new(config.max_connections),
            began: std::time::Instant::now(),
            is_apart,
            phase: watch::channel(Phase::Serving).0,
            config,
            log,
        };
        Ok(Registry { shared: Rc::new(shared), myself })
    }

    /// Serves until the end, then goes offline, then lets the last answers out.
    async fn run(self, mailbox: channel::AddressReceiver<Registry>) {
        let shared = self.shared.clone();
        let log = shared.log.clone();
        shared.spawn_background_tasks();
        supervise(self, mailbox, log.clone()).await;
        if let Err(panic) = AssertUnwindSafe(shared.last_address_dropped()).catch_unwind().await {
            panicked(&log, Operation::Shutdown, &*panic);
            shared.subscriptions.stop_all();
        }
        shared.pushes.stop();
        shared.phase.send_replace(Phase::Ended);
        for _ in 0..YIELDS_FOR_LAST_ANSWERS {
            yield_now().await;
        }
        debug!(log, "registry client ended");
    }

    /// The one door of all messages but beats, which are catch_panics once they have a place: begins `work` with the shared state,
    /// and guards it. Whatever panics in `work` or in the future it gives costs this answer alone.
    pub(crate) fn dispatch<T, F>(
        &self,
        operation: Operation,
        work: impl FnOnce(Rc<Shared>) -> F,
    ) -> ResponseFuture<Result<T, Error>>
    where
        T: 'static,
        F: Future<Output = Result<T, Error>> + 'static,
    {
        if self.shared.is_in(Phase::Closing) {
            return Box::pin(ready(Err(Error::Stopped)));
        }
        self.dispatch_until(operation, Phase::Offline, work)
    }

    /// As [`answer`](Registry::dispatch), also while the Registry is closing, and until `last`.
    fn dispatch_until<T, F>(
        &self,
        operation: Operation,
        last: Phase,
        work: impl FnOnce(Rc<Shared>) -> F,
    ) -> ResponseFuture<Result<T, Error>>
    where
        T: 'static,
        F: Future<Output = Result<T, Error>> + 'static,
    {
        let shared = self.shared.clone();
        match catch_unwind(AssertUnwindSafe(|| work(shared.clone()))) {
            Ok(future) => Box::pin(async move {
                let outcome = shared.catch_panics(operation, last, pin!(future)).await;
                // At the end there is no time to lose.
                if shared.is_apart && !shared.is_in(Phase::Ended) {
                    // What is answered together wakes another thread together: registering takes 24 us of CPU, not 27.
                    yield_now().await;
                }
                outcome
            }),
            Err(panic) => Box::pin(ready(Err(panicked(&shared.log, operation, &*panic)))),
        }
    }
}

impl Shared {
    /// Whether it has come so far.
    fn is_in(&self, phase: Phase) -> bool {
        *self.phase.borrow() >= phase
    }

    /// Gives `work` up when the Registry is in the phase `last`, and answers for it when it panics.
    async fn catch_panics<T, F>(&self, operation: Operation, last: Phase, work: Pin<&mut F>) -> Result<T, Error>
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
    fn spawn_background_tasks(self: &Rc<Self>) {
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

fn panicked(log: &Logger, operation: Operation, panic: &(dyn std::any::Any + Send)) -> Error {
    let message = log_panic(log, "an operation panicked", operation, panic);
    Error::Panicked { operation, message }
}

impl Actor for Registry {
    type Context = Context<Self>;
}

/// Nothing is lost with the context: the Registry has no timers, and its operations run apart from it.
impl Supervised for Registry {}
