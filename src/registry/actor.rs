//! The Registry actor: how it starts, dispatches messages, and ends.
//!
//! A message waits in the mailbox. [`Registry::dispatch`] then begins its work in order and catches panics. The work is
//! a future on [`Shared`], which gives the answer. The actor itself has no timers and no state beyond `Shared`, so a
//! restart after a panic loses nothing.
//!
//! The Registry ends in this order: deregister, stop the actors, give the last answers, end the thread.

use std::{
    future::Future,
    panic::{catch_unwind, AssertUnwindSafe},
    rc::Rc,
    sync::mpsc,
    thread,
};

use actix::{dev::channel, Actor, Addr, Arbiter, Context, ResponseFuture, Supervised, System, WeakAddr};
use actix_rt::task::yield_now;
use futures_util::future::{ready, FutureExt as _};
use slog::debug;

use super::{
    phase::Phase,
    shared::{panicked, Shared},
};
use crate::{
    config::Config,
    error::{Error, Operation},
    runtime::supervision::supervise,
};

/// How often the thread yields before it ends. Callers need that time to fetch answers that were just given; without it
/// most of them see a closed mailbox instead.
const YIELDS_FOR_LAST_ANSWERS: usize = 64;

/// The actor that an application sends its messages to, one type of message per operation, from any thread.
///
/// ```
/// # use actix_nacos::{embedded::EmbeddedServer, prelude::*};
/// # #[actix::main]
/// # async fn main() -> Result<(), Error> {
/// # let server = EmbeddedServer::start().unwrap();
/// # let registry = Registry::start(Config::new(server.server_address()))?;
/// registry.send(RegisterInstance::new("orders", "127.0.0.7", 8080)).await??;
/// let list = registry.send(ListInstances::new("orders")).await??;
/// assert_eq!(list.hosts[0].authority(), "127.0.0.7:8080");
///
/// let report = registry.send(Shutdown::default()).await??;
/// assert_eq!(report.deregistered, 1);
/// # Ok(())
/// # }
/// ```
///
/// # Lifecycle
/// [`start`](Registry::start) runs the Registry on a thread of its own. So whatever the application does to its threads
/// or its actix System, heartbeats go on.
///
/// The Registry ends by [`Shutdown`](crate::Shutdown), or when its last `Addr` is dropped. Either way it deregisters
/// the ephemeral instances that it registered, but only an awaited `Shutdown` guarantees that this is done. After the
/// end every message is answered with [`Error::Stopped`].
///
/// # Order
/// Messages about the same instance take effect on the server in the order in which the mailbox received them, whether
/// they are awaited or not. Different instances do not wait for each other, and no message blocks the mailbox while a
/// request is under way.
///
/// # Failures
/// A panic costs the operation in which it happens: that operation is answered with [`Error::Panicked`], and the
/// Registry goes on.
///
/// Registered instances and subscriptions are kept through failures. They are restored after a server has restarted,
/// after a change to another server, and after an actor has been restarted.
///
/// # Errors
/// Every message may be answered with [`Error::Stopped`] or [`Error::Panicked`]. A message that asks a server may also
/// be answered with an error that names the server. Where another attempt can help, the Registry has made further
/// attempts until [`Config::operation_timeout`](crate::Config::operation_timeout) had passed.
///
/// `addr.send(message).await` gives a `Result` in a `Result`: the outer error is actix's `MailboxError`, the inner one
/// is [`Error`]. `MailboxError` converts into `Error`, so `addr.send(message).await??` works in a function that returns
/// `Result<_, Error>`.
///
/// # Which message do I need?
///
/// | to | send |
/// |---|---|
/// | register an instance | [`RegisterInstance`](crate::RegisterInstance) |
/// | deregister an instance | [`DeregisterInstance`](crate::DeregisterInstance) |
/// | change what others see of an instance | [`ModifyInstance`](crate::ModifyInstance) |
/// | call others | [`Discover`](crate::Discover), or [`Choose`](crate::Choose) for an actor |
/// | be notified of changes of a service | [`Subscribe`](crate::Subscribe), [`Unsubscribe`](crate::Unsubscribe) |
/// | ask a server once for a list | [`ListInstances`](crate::ListInstances), [`ListServices`](crate::ListServices) |
/// | ask a server once for an instance | [`GetInstance`](crate::GetInstance) |
/// | read the status | [`GetStatus`](crate::GetStatus) |
/// | be notified of outages | [`WatchConnection`](crate::WatchConnection) |
/// | be notified of rejected and lost instances | [`WatchInstances`](crate::WatchInstances) |
/// | go offline | [`Shutdown`](crate::Shutdown), or a [`ShutdownGuard`](crate::ShutdownGuard) |
pub struct Registry {
    /// The state that the futures of handlers share with the actor. Stays in one thread.
    pub(super) shared: Rc<Shared>,
    /// The Registry's own address. It is weak, because only the application keeps the Registry alive.
    pub(super) myself: WeakAddr<Registry>,
}

impl Registry {
    /// Starts a Registry on a thread of its own, with an arbiter of its own. It can be called from anywhere, also
    /// without a runtime. It does not wait for a server: unreachable servers show in the first message that needs one.
    ///
    /// ```
    /// # use actix_nacos::{embedded::EmbeddedServer, Config, Registry};
    /// # let server = EmbeddedServer::start().unwrap();
    /// let registry = Registry::start(Config::new(server.server_address()))?;
    /// assert!(registry.connected());
    /// # Ok::<(), actix_nacos::Error>(())
    /// ```
    ///
    /// # Errors
    /// - [`Error::InvalidInput`] if a setting is invalid. Correct the setting that the error names.
    /// - [`Error::NotStarted`] if the thread cannot be created.
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
            .map_err(|error| not_started(format!("cannot create its thread: {error}")))?;
        started_rx.recv().map_err(|_| not_started("its thread ended while it started".into()))??;
        Ok(address)
    }

    /// Starts a Registry on the current arbiter, which saves a thread. Everything that blocks the arbiter's thread
    /// delays heartbeats.
    ///
    /// The Registry ends with the arbiter, and `System::stop` ends every arbiter at once. Then nothing is deregistered,
    /// operations under way are dropped, and listeners miss changes. Servers list the instances until their heartbeats
    /// have been missing for 15 to 30 s. So await [`Shutdown`](crate::Shutdown) before the System stops. A Registry
    /// that [`start`](Registry::start) started outlives the System, and deregisters its instances when the last address
    /// is dropped.
    ///
    /// ```
    /// # use actix_nacos::{embedded::EmbeddedServer, Config, Error, Registry, Shutdown};
    /// # #[actix::main]
    /// # async fn main() -> Result<(), Error> {
    /// # let server = EmbeddedServer::start().unwrap();
    /// let registry = Registry::start_here(Config::new(server.server_address()))?;
    /// registry.send(Shutdown::default()).await??;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// - [`Error::InvalidInput`] if a setting is invalid. Correct the setting that the error names.
    /// - [`Error::NotStarted`] if no arbiter runs on this thread. Call it inside an actix System, or use
    ///   [`start`](Registry::start).
    pub fn start_here(config: Config) -> Result<Addr<Registry>, Error> {
        config.validate()?;
        // A System that was created and does not run yet has an arbiter, but cannot spawn anything.
        if Arbiter::try_current().is_none() || tokio::runtime::Handle::try_current().is_err() {
            let reason =
                "no arbiter runs on this thread; call it inside an actix System, or use Registry::start".into();
            return Err(Error::NotStarted { reason });
        }
        let (sender, mailbox) = channel::channel(config.mailbox_capacity);
        let address = Addr::new(sender);
        let registry = Registry::new(config, address.downgrade(), false)?;
        actix_rt::spawn(registry.run(mailbox));
        Ok(address)
    }

    pub(super) fn new(config: Config, myself: WeakAddr<Registry>, has_own_thread: bool) -> Result<Self, Error> {
        let shared = Rc::new(Shared::new(config, myself.clone().recipient(), has_own_thread)?);
        Ok(Registry { shared, myself })
    }

    /// Runs the actor until it stops, then deregisters what is left, then lets callers fetch the last answers.
    ///
    /// It is the main function of the Registry's thread.
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
        shared.history.end();
        if !shared.has_own_thread {
            // The thread goes on, and would keep the Heartbeats. One that starts after this ends with its next beat.
            shared.desired.stop_heartbeats();
        }
        for _ in 0..YIELDS_FOR_LAST_ANSWERS {
            yield_now().await;
        }
        debug!(log, "registry stopped");
    }

    /// The entry point of all messages except beats, which call [`Shared::catch_panics`] once they have a permit. Runs
    /// `work` with the shared state until the Registry is offline. A panic in `work` or in its future costs only this
    /// answer.
    ///
    /// # Errors
    /// [`Error::Stopped`] from the moment a shutdown begins, [`Error::Panicked`] after a panic, and the errors of
    /// `work`.
    pub(crate) fn dispatch<T, F>(
        &self,
        operation: Operation,
        work: impl FnOnce(Rc<Shared>) -> F,
    ) -> ResponseFuture<Result<T, Error>>
    where
        T: 'static,
        F: Future<Output = Result<T, Error>> + 'static,
    {
        if self.shared.has_reached(Phase::Closing) {
            return Box::pin(ready(Err(Error::Stopped)));
        }
        self.dispatch_until(operation, Phase::Offline, work)
    }

    /// Like [`dispatch`](Registry::dispatch), but also while the Registry is closing, and until it reaches the phase
    /// `last`.
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
            Ok(future) => {
                // Boxed by itself: a block that captures a future and pins it has room for it twice.
                let mut future = Box::pin(future);
                Box::pin(async move {
                    let outcome = shared.catch_panics(operation, last, future.as_mut()).await;
                    drop(future);
                    // Not at the end, when the thread may stop before the answer is given.
                    if shared.has_own_thread && !shared.has_reached(Phase::Ended) {
                        shared.answers.wait().await;
                    }
                    outcome
                })
            }
            Err(panic) => Box::pin(ready(Err(panicked(&shared.log, operation, &*panic)))),
        }
    }
}

impl Actor for Registry {
    type Context = Context<Self>;
}

/// A restart loses nothing: the Registry has no timers, and its operations do not run in its context.
impl Supervised for Registry {}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use actix_rt::time::sleep;

    use super::{
        super::{
            desired::{tests::key, DesiredInstance},
            shutdown::Shutdown,
        },
        *,
    };
    use crate::model::instance::Instance;

    /// A Registry without a server, on the thread of the test. It does not run yet.
    pub(in crate::registry) fn disabled_registry() -> (Registry, Addr<Registry>, channel::AddressReceiver<Registry>) {
        let (sender, mailbox) = channel::channel(16);
        let address = Addr::new(sender);
        (Registry::new(Config::disabled(), address.downgrade(), false).unwrap(), address, mailbox)
    }

    #[actix::test]
    async fn the_heartbeats_end_with_a_registry_on_the_thread_of_the_application() {
        tokio::time::pause();
        let (registry, address, mailbox) = disabled_registry();
        let (shared, instance) = (registry.shared.clone(), Instance::new("127.0.0.7", 1));
        let heartbeat = shared.new_heartbeat(&key(1), &instance).start_supervised();
        shared.desired.insert(DesiredInstance::new(key(1), instance, Some(heartbeat.clone())));
        let run = actix_rt::spawn(registry.run(mailbox));
        drop(address);
        run.await.unwrap();
        let late = shared.new_heartbeat(&key(1), &Instance::new("127.0.0.7", 1)).start_supervised();
        for _ in 0..YIELDS_FOR_LAST_ANSWERS {
            yield_now().await;
        }
        assert!(heartbeat.upgrade().is_none() && late.upgrade().is_some(), "only a beat ends the late one");
        sleep(Duration::from_secs(10)).await;
        assert!(late.upgrade().is_none());
    }

    #[actix::test]
    async fn a_heartbeat_that_another_one_made_needless_ends_although_a_shutdown_follows() {
        tokio::time::pause();
        let (registry, address, mailbox) = disabled_registry();
        let shared = registry.shared.clone();
        let persistent = Instance { ephemeral: false, ..Instance::new("127.0.0.7", 1) };
        let mut desired = DesiredInstance::new(key(1), persistent.clone(), None);
        desired.registered(shared.nacos.epoch());
        shared.desired.insert(desired);
        shared.desired.add_leftover(&key(1), true);
        let run = actix_rt::spawn(registry.run(mailbox));
        // The Heartbeat of the leftover beats at once, and registers the persistent instance again, too.
        shared.deregister_in_background(&key(1));
        shared.restore(&key(1), Some(persistent));
        let heartbeat = shared.desired.get(&key(1), |desired| desired.heartbeat.clone()).flatten().unwrap();
        while shared.desired.get(&key(1), |desired| desired.heartbeat.is_some()) == Some(true) {
            yield_now().await;
        }
        address.send(Shutdown::default().drain(Duration::from_secs(20))).await.unwrap().unwrap();
        drop(address);
        run.await.unwrap();
        assert!(heartbeat.upgrade().is_none());
    }
}
