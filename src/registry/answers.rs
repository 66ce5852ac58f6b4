//! Answers are given together where the Registry has a thread of its own, so that they wake the caller's thread once.
//!
//! To wake a caller's thread for every second answer takes a third of the CPU of an operation. On a machine with few
//! cores it also interrupts the Registry's thread each time.

use std::cell::Cell;

use actix_rt::task::yield_now;
use tokio::sync::Notify;

/// For how many turns of the thread an answer waits for others at most. A turn handles everything that is ready, which
/// takes about 0.1 ms if the thread is busy.
const MOST_TURNS: usize = 8;

/// The answers that wait to be given.
#[derive(Default)]
pub(super) struct Answers {
    waiting: Cell<usize>,
    given: Notify,
}

impl Answers {
    /// Waits until an answer that is ready may be given: after the first turn of the thread in which no other answer
    /// became ready, or after [`MOST_TURNS`].
    pub(super) async fn wait(&self) {
        let before = self.waiting.replace(self.waiting.get() + 1);
        if before > 0 {
            return self.given.notified().await;
        }
        let _give = GiveOnDrop(self);
        for _ in 0..MOST_TURNS {
            let before = self.waiting.get();
            yield_now().await;
            if self.waiting.get() == before {
                return;
            }
        }
    }
}

/// Lets all answers be given, also if the first one is abandoned.
struct GiveOnDrop<'a>(&'a Answers);

impl Drop for GiveOnDrop<'_> {
    fn drop(&mut self) {
        self.0.waiting.set(0);
        self.0.given.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use actix_rt::time::timeout;
    use futures_util::{future::join_all, FutureExt as _};

    use super::*;

    #[actix::test]
    async fn answers_that_are_ready_together_are_given_together() {
        let (answers, given) = (Answers::default(), Cell::new(0));
        let answer = || async {
            answers.wait().await;
            given.set(given.get() + 1);
        };
        let mut first = Box::pin(answer());
        assert!(first.as_mut().now_or_never().is_none(), "another may become ready in the same turn");
        let mut second = Box::pin(answer());
        assert!(second.as_mut().now_or_never().is_none());
        join_all([first, second]).await;
        assert_eq!((given.get(), answers.waiting.get()), (2, 0));
    }

    #[actix::test]
    async fn answers_that_follow_each_other_without_a_pause_are_not_held_for_ever() {
        let answers = Rc::new(Answers::default());
        let busy = answers.clone();
        actix_rt::spawn(async move {
            loop {
                actix_rt::spawn({
                    let busy = busy.clone();
                    async move { busy.wait().await }
                });
                yield_now().await;
            }
        });
        timeout(std::time::Duration::from_secs(10), answers.wait()).await.expect("it is given");
    }

    #[actix::test]
    async fn an_abandoned_answer_holds_no_other_one() {
        let answers = Answers::default();
        let mut first = Box::pin(answers.wait());
        assert!(first.as_mut().now_or_never().is_none());
        let mut second = Box::pin(answers.wait());
        assert!(second.as_mut().now_or_never().is_none());
        drop(first);
        second.now_or_never().expect("it is given");
    }
}
