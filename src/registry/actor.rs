//! The Registry actor: its start, its end, and how it dispatches messages.

use std::{
    future::Future,
    panic::{catch_unwind, AssertUnwindSafe},
    pin::pin,
    rc::Rc,
    sync::mpsc,
    thread,
};

use actix::{dev::channel, Actor, Addr, Arbiter, Context, ResponseFuture, Supervised, System, WeakAddr};
use actix_rt::task::yield_now;
use futures_util::future::{ready, FutureExt as _};
use slog::debug;

use super::shared::{panicked, Phase, Shared};
use crate::{
    config::Config,
    error::{Error, Operation},
    runtime::supervision::supervise,
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
    pub(super) shared: Rc<Shared>,
    /// Handlers and our own actors hold the Registry weakly: only the application keeps it alive.
    pub(super) myself: WeakAddr<Registry>,
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

    pub(super) fn new(config: Config, myself: WeakAddr<Registry>, is_apart: bool) -> Result<Self, Error> {
        let shared = Rc::new(Shared::new(config, myself.clone().recipient(), is_apart)?);
        Ok(Registry { shared, myself })
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
    pub(super) fn dispatch_until<T, F>(
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

impl Actor for Registry {
    type Context = Context<Self>;
}

/// Nothing is lost with the context: the Registry has no timers, and its operations run apart from it.
impl Supervised for Registry {}
