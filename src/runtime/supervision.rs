//! Supervision of actors and background tasks.
//!
//! After a panic in a handler, timer or future, the actor is restarted with its state and its address, and `ctx.stop()`
//! is final. actix's own `Supervisor` differs in both: a panic closes the address for good, and `ctx.stop()` restarts
//! the actor.
//!
//! A restart loses the timers and futures of the actor's context. The actor's `started` has to create them again.
//!
//! Catching panics in the handlers alone would not be enough: timers and futures of a context may panic too, which ends
//! the actor. So the actor's whole future is polled under `catch_unwind`.

use std::{
    any::{type_name, Any},
    fmt::Display,
    future::Future,
    panic::{catch_unwind, AssertUnwindSafe},
    pin::Pin,
    rc::Rc,
    task::{ready, Context as TaskContext, Poll},
    time::Duration,
};

use actix::{
    dev::{
        channel::{self, AddressReceiver},
        ContextFut,
    },
    Actor, Addr, Context, Supervised,
};
use actix_rt::time::{sleep, Instant, Sleep};
use futures_util::future::FutureExt as _;
use slog::{error, Logger};

/// This many restarts within [`RESTART_WINDOW`] happen at once. Each further restart waits for [`RESTART_PAUSE`], so
/// that an actor that panics again and again does not occupy the thread.
const QUICK_RESTARTS: u32 = 20;
const RESTART_WINDOW: Duration = Duration::from_secs(1);
const RESTART_PAUSE: Duration = Duration::from_millis(100);

/// The pause before a background task that panicked is started again. No background task is urgent.
const TASK_PAUSE: Duration = Duration::from_secs(1);

/// Runs `actor` on the current arbiter until the actor stops itself, or until it has neither an address nor anything to
/// wait for.
pub(crate) fn start<A>(actor: A, mailbox_capacity: usize, log: impl Into<Rc<Logger>>) -> Addr<A>
where
    A: Supervised + Actor<Context = Context<A>>,
{
    let (sender, receiver) = channel::channel(mailbox_capacity);
    actix_rt::spawn(supervise(actor, receiver, log));
    Addr::new(sender)
}

/// Drives an actor and restarts it after a panic, also when it has no address. The future ends with the actor. An actor
/// whose `started` always panics never ends.
pub(crate) fn supervise<A>(actor: A, mailbox: AddressReceiver<A>, log: impl Into<Rc<Logger>>) -> Supervise<A>
where
    A: Supervised + Actor<Context = Context<A>>,
{
    Supervise { actor: Context::with_receiver(mailbox).into_future(actor), restarts: None, log: log.into() }
}

/// The future of [`supervise`].
pub(crate) struct Supervise<A: Actor<Context = Context<A>>> {
    actor: ContextFut<A, Context<A>>,
    /// `None` before the first panic, to save memory: there is one Heartbeat per instance.
    restarts: Option<Box<Restarts>>,
    /// Shared, for the same reason.
    log: Rc<Logger>,
}

/// The restarts of one actor.
struct Restarts {
    /// Since `window_began`.
    count: u32,
    window_began: Instant,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Restarts {
    fn begin() -> Box<Self> {
        Box::new(Restarts { count: 0, window_began: Instant::now(), pause: None })
    }

    /// Counts a restart, and arms the pause before it if there were too many.
    fn count(&mut self) {
        if self.window_began.elapsed() > RESTART_WINDOW {
            (self.count, self.window_began) = (0, Instant::now());
        }
        self.count += 1;
        self.pause = (self.count > QUICK_RESTARTS).then(|| Box::pin(sleep(RESTART_PAUSE)));
    }
}

/// `ContextFut` does not need to be pinned: actix's own arbiter moves and polls it in the same way.
impl<A: Actor<Context = Context<A>>> Unpin for Supervise<A> {}

impl<A: Supervised + Actor<Context = Context<A>>> Supervise<A> {
    fn restart(&mut self, panic: &(dyn Any + Send)) -> bool {
        log_panic(&self.log, "restarted actor after a panic", "actor", type_name::<A>(), panic);
        self.restarts.get_or_insert_with(Restarts::begin).count();
        // actix restarts no actor without an address, and a Heartbeat has none.
        let _address = self.actor.address();
        catch_unwind(AssertUnwindSafe(|| self.actor.restart())).unwrap_or(false)
    }
}

impl<A: Supervised + Actor<Context = Context<A>>> Future for Supervise<A> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<()> {
        loop {
            if let Some(restarts) = &mut self.restarts
                && let Some(pause) = &mut restarts.pause
            {
                ready!(pause.as_mut().poll(cx));
                restarts.pause = None;
            }
            match catch_unwind(AssertUnwindSafe(|| Pin::new(&mut self.actor).poll(cx))) {
                Ok(Poll::Ready(())) => return Poll::Ready(()),
                Ok(Poll::Pending) => return Poll::Pending,
                Err(panic) if !self.restart(&*panic) => return Poll::Ready(()),
                Err(_) => {}
            }
        }
    }
}

/// Runs a background task until it is done, and starts it again after a panic.
pub(crate) async fn supervise_task<F: Future<Output = ()>>(task: impl Fn() -> F, log: &Logger) {
    while let Err(panic) = AssertUnwindSafe(task()).catch_unwind().await {
        log_panic(log, "restarted background task after a panic", "task", type_name::<F>(), &*panic);
        sleep(TASK_PAUSE).await;
    }
}

/// Logs a panic in `location`, which the line names as `key`, and returns its text. Never panics itself, although a
/// drain may: slog's `Fuse` panics when its output is closed, which may be the very panic that is being logged.
pub(crate) fn log_panic(
    log: &Logger,
    message: &str,
    key: &'static str,
    location: impl Display,
    panic: &(dyn Any + Send),
) -> String {
    let text = panic_text(panic);
    let line = || error!(log, "{message}"; key => %location, "error" => &text);
    let _ = catch_unwind(AssertUnwindSafe(line));
    text
}

/// The text of a panic, if its payload is a text.
fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| text.to_string());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no text".into())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use actix::{ActorContext, AsyncContext, Handler, Message, ResponseFuture, WrapFuture};
    use actix_rt::time::timeout;

    use super::*;

    #[derive(Default)]
    struct Counting {
        started: u32,
        kept: u32,
        panic_at_start: u32,
    }

    impl Actor for Counting {
        type Context = Context<Self>;

        fn started(&mut self, ctx: &mut Context<Self>) {
            self.started += 1;
            // Keeps the actor alive without an address.
            ctx.run_later(Duration::from_secs(3600), |_, _| {});
            if self.panic_at_start > 0 {
                self.panic_at_start -= 1;
                panic!("staged in started");
            }
        }
    }

    impl Supervised for Counting {}

    #[derive(Message)]
    #[rtype(result = "(u32, u32)")]
    struct Count;

    impl Handler<Count> for Counting {
        type Result = actix::MessageResult<Count>;

        fn handle(&mut self, _: Count, _: &mut Context<Self>) -> Self::Result {
            self.kept += 1;
            actix::MessageResult((self.started, self.kept))
        }
    }

    #[derive(Message, Clone, Copy)]
    #[rtype(result = "()")]
    enum Misbehave {
        InHandler,
        InTimer,
        InActorFuture,
        InFuture,
        Stop,
    }

    impl Handler<Misbehave> for Counting {
        type Result = ResponseFuture<()>;

        fn handle(&mut self, how: Misbehave, ctx: &mut Context<Self>) -> Self::Result {
            match how {
                Misbehave::InHandler => panic!("staged in a handler"),
                Misbehave::InTimer => {
                    ctx.run_later(Duration::from_millis(1), |_, _| panic!("staged in a timer"));
                }
                Misbehave::InActorFuture => {
                    ctx.spawn(async { panic!("staged in an actor future") }.into_actor(self));
                }
                Misbehave::InFuture => return Box::pin(async { panic!("staged in a future") }),
                Misbehave::Stop => ctx.stop(),
            }
            Box::pin(async {})
        }
    }

    fn begin(actor: Counting) -> Addr<Counting> {
        start(actor, 16, Logger::root(slog::Discard, slog::o!()))
    }

    #[actix::test]
    async fn the_same_address_serves_after_any_panic_and_state_is_kept() {
        let address = begin(Counting::default());
        let kinds =
            [Misbehave::InHandler, Misbehave::InTimer, Misbehave::InActorFuture, Misbehave::InFuture].repeat(25);
        for (round, kind) in kinds.into_iter().enumerate() {
            let _ = address.send(kind).await;
            sleep(Duration::from_millis(2)).await;
            let (_, kept) = address.send(Count).await.unwrap();
            assert_eq!(kept as usize, round + 1);
        }
        assert!(address.send(Count).await.unwrap().0 > 75, "each but the last kind restarts the actor");
    }

    /// Panics like slog's `Fuse` around a closed terminal.
    struct BrokenDrain;

    impl slog::Drain for BrokenDrain {
        type Ok = ();
        type Err = slog::Never;

        fn log(&self, _: &slog::Record<'_>, _: &slog::OwnedKVList) -> Result<(), slog::Never> {
            panic!("the log is broken")
        }
    }

    #[actix::test]
    async fn a_panicking_log_drain_does_not_prevent_a_restart() {
        let address = start(Counting::default(), 16, Logger::root(BrokenDrain, slog::o!()));
        let _ = address.send(Misbehave::InHandler).await;
        assert_eq!(address.send(Count).await, Ok((2, 1)));
    }

    #[actix::test]
    async fn a_task_that_panics_is_restarted_until_it_is_done() {
        tokio::time::pause();
        let (began, times) = (Instant::now(), Cell::new(0));
        let task = async || {
            times.set(times.get() + 1);
            assert!(times.get() > 2, "staged in a task");
        };
        supervise_task(task, &Logger::root(BrokenDrain, slog::o!())).await;
        assert_eq!(times.get(), 3);
        assert!(began.elapsed() >= TASK_PAUSE * 2, "no hot loop: {:?}", began.elapsed());
    }

    #[actix::test]
    async fn an_actor_without_an_address_is_restarted_too() {
        tokio::time::pause();
        let address = begin(Counting::default());
        let weak = address.downgrade();
        address.do_send(Misbehave::InTimer);
        drop(address);
        sleep(Duration::from_millis(5)).await;
        let (started, _) = weak.upgrade().expect("it lives").send(Count).await.unwrap();
        assert_eq!(started, 2);
    }

    #[actix::test]
    async fn stopping_is_final() {
        let address = begin(Counting::default());
        address.send(Misbehave::Stop).await.unwrap();
        assert!(address.send(Count).await.is_err());
        assert!(!address.connected());
    }

    #[actix::test]
    async fn restarts_pause_when_started_keeps_panicking_and_the_actor_serves_afterwards() {
        tokio::time::pause();
        let began = Instant::now();
        let address = begin(Counting { panic_at_start: 40, ..Counting::default() });
        let (started, _) = timeout(Duration::from_secs(60), address.send(Count)).await.unwrap().unwrap();
        assert_eq!(started, 41);
        assert!(began.elapsed() >= RESTART_PAUSE * 10, "{:?}", began.elapsed());
    }
}
