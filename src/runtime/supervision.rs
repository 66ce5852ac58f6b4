//! A supervising future for our actors.
//!
//! actix's own `Supervisor` leaves an address dead after a panic, and restarts after `ctx.stop()`. This one is the other way
//! round: a panic in a handler, timer or future restarts the actor with its state and its address, and `ctx.stop()` is final.
//! Lost at a restart are the context's timers and futures: `started` arms them again.

use std::{
    any::{type_name, Any},
    fmt::Display,
    future::Future,
    panic::{catch_unwind, AssertUnwindSafe},
    pin::Pin,
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

/// So many restarts within [`WINDOW`] happen at once; from then on each waits, so that an actor that panics over and over is
/// no hot loop.
const QUICK_RESTARTS: u32 = 20;
const WINDOW: Duration = Duration::from_secs(1);
const RESTART_PAUSE: Duration = Duration::from_millis(100);

/// A chore that panicked is begun anew after this: none is urgent.
const TASK_PAUSE: Duration = Duration::from_secs(1);

/// Runs `actor` on the present arbiter until it stops itself, or nobody can reach it and it waits for nothing.
pub(crate) fn start<A>(actor: A, mailbox_capacity: usize, log: Logger) -> Addr<A>
where
    A: Supervised + Actor<Context = Context<A>>,
{
    let (sender, receiver) = channel::channel(mailbox_capacity);
    actix_rt::spawn(supervise(actor, receiver, log));
    Addr::new(sender)
}

/// Ends when the actor has ended.
pub(crate) fn supervise<A>(actor: A, mailbox: AddressReceiver<A>, log: Logger) -> Supervise<A>
where
    A: Supervised + Actor<Context = Context<A>>,
{
    Supervise {
        actor: Context::with_receiver(mailbox).into_future(actor),
        panics: 0,
        window: Instant::now(),
        pause: None,
        log,
    }
}

/// See [`supervise`].
pub(crate) struct Supervise<A: Actor<Context = Context<A>>> {
    actor: ContextFut<A, Context<A>>,
    /// Since the window began.
    panics: u32,
    window: Instant,
    pause: Option<Pin<Box<Sleep>>>,
    log: Logger,
}

/// The future it drives is never pinned structurally: actix's own arbiter polls it so, too.
impl<A: Actor<Context = Context<A>>> Unpin for Supervise<A> {}

impl<A: Supervised + Actor<Context = Context<A>>> Supervise<A> {
    fn restart(&mut self, panic: &(dyn Any + Send)) -> bool {
        if self.window.elapsed() > WINDOW {
            (self.panics, self.window) = (0, Instant::now());
        }
        self.panics += 1;
        log_panic(&self.log, "an actor panicked and is restarted", type_name::<A>(), panic);
        if self.panics > QUICK_RESTARTS {
            self.pause = Some(Box::pin(sleep(RESTART_PAUSE)));
        }
        catch_unwind(AssertUnwindSafe(|| self.actor.restart())).unwrap_or(false)
    }
}

impl<A: Supervised + Actor<Context = Context<A>>> Future for Supervise<A> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<()> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
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

/// Runs what is no actor until it is done; begins it anew after a panic.
pub(crate) async fn supervise_task<F: Future<Output = ()>>(chore: impl Fn() -> F, log: &Logger) {
    while let Err(panic) = AssertUnwindSafe(chore()).catch_unwind().await {
        log_panic(log, "a chore of the registry client panicked and is begun anew", type_name::<F>(), &*panic);
        sleep(TASK_PAUSE).await;
    }
}

/// One line for a panic in `place`; gives its text. Never panics, as a drain may: slog's `Fuse` does when its output is
/// closed, and that may be why we are here.
pub(crate) fn log_panic(log: &Logger, message: &str, place: impl Display, panic: &(dyn Any + Send)) -> String {
    let text = panic_text(panic);
    let line = || error!(log, "{message}"; "in" => %place, "panic" => &text);
    let _ = catch_unwind(AssertUnwindSafe(line));
    text
}

/// The text of a panic, as far as it has one.
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

        fn started(&mut self, _: &mut Context<Self>) {
            self.started += 1;
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
    async fn the_same_address_serves_after_a_panic_anywhere_and_state_is_kept() {
        let address = begin(Counting::default());
        let places =
            [Misbehave::InHandler, Misbehave::InTimer, Misbehave::InActorFuture, Misbehave::InFuture].repeat(25);
        for (round, place) in places.into_iter().enumerate() {
            let _ = address.send(place).await;
            sleep(Duration::from_millis(2)).await;
            let (_, kept) = address.send(Count).await.unwrap();
            assert_eq!(kept as usize, round + 1);
        }
        assert!(address.send(Count).await.unwrap().0 > 75, "each but the last kind restarts the actor");
    }

    /// As slog's `Fuse` around a terminal that was closed.
    struct BrokenDrain;

    impl slog::Drain for BrokenDrain {
        type Ok = ();
        type Err = slog::Never;

        fn log(&self, _: &slog::Record<'_>, _: &slog::OwnedKVList) -> Result<(), slog::Never> {
            panic!("the log is broken")
        }
    }

    #[actix::test]
    async fn a_broken_log_costs_no_restart() {
        let address = start(Counting::default(), 16, Logger::root(BrokenDrain, slog::o!()));
        let _ = address.send(Misbehave::InHandler).await;
        assert_eq!(address.send(Count).await, Ok((2, 1)));
    }

    #[actix::test]
    async fn a_task_that_panics_is_begun_anew_until_it_is_done() {
        tokio::time::pause();
        let (began, times) = (Instant::now(), Cell::new(0));
        let chore = async || {
            times.set(times.get() + 1);
            assert!(times.get() > 2, "staged in a chore");
        };
        supervise_task(chore, &Logger::root(BrokenDrain, slog::o!())).await;
        assert_eq!(times.get(), 3);
        assert!(began.elapsed() >= TASK_PAUSE * 2, "no hot loop: {:?}", began.elapsed());
    }

    #[actix::test]
    async fn stopping_is_final() {
        let address = begin(Counting::default());
        address.send(Misbehave::Stop).await.unwrap();
        assert!(address.send(Count).await.is_err());
        assert!(!address.connected());
    }

    #[actix::test]
    async fn a_start_that_panics_over_and_over_is_no_hot_loop_and_ends_well() {
        tokio::time::pause();
        let began = Instant::now();
        let address = begin(Counting { panic_at_start: 40, ..Counting::default() });
        let (started, _) = timeout(Duration::from_secs(60), address.send(Count)).await.unwrap().unwrap();
        assert_eq!(started, 41);
        assert!(began.elapsed() >= RESTART_PAUSE * 10, "{:?}", began.elapsed());
    }
}
