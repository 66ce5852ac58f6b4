//! What the files of `src/` import from std, tokio, actix, actix_rt and arc_swap, with loom's types in place of those
//! that threads share. `models.rs` gives this crate those names, so that the files are compiled unchanged.
//!
//! `Arc` and `Weak` stay those of std: loom has no `Weak`. Their counts are no points of interleaving.

pub use std::{array, borrow, cell, cmp, env, fmt, future, hash, hint, io, mem, net, ops, panic, pin, ptr, task};

pub use actix_derive::Message;

pub use self::{arc_swap::*, explore::explore, mailbox::*};

mod explore {
    use std::{
        sync::{
            atomic::{AtomicU64, Ordering},
            Arc,
        },
        time::Instant,
    };

    /// Runs the model in every interleaving with at most so many thread switches that no thread asked for, or in every
    /// interleaving. A run that fails panics.
    pub fn explore(name: &str, switches: Option<usize>, model: fn()) {
        println!("{name}");
        let (began, runs) = (Instant::now(), Arc::new(AtomicU64::new(0)));
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = builder.preemption_bound.or(switches);
        builder.max_branches = 20_000;
        let counted = runs.clone();
        builder.check(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            // The same choices in each run.
            fastrand::seed(1);
            super::time::restart();
            model();
        });
        println!("  {} interleavings, {:.1} s", runs.load(Ordering::Relaxed), began.elapsed().as_secs_f64());
    }
}

pub mod sync {
    //! Of std and of tokio.

    pub use std::sync::{Arc, PoisonError, Weak};

    pub use loom::sync::MutexGuard;
    pub use tokio::sync::{mpsc, oneshot};

    pub use super::{mutex::Mutex, notify::Notify, once_lock::OnceLock};

    pub mod atomic {
        pub use loom::sync::atomic::*;
    }
}

pub mod collections {
    //! Maps that iterate in the same order in each run of a model.

    use std::{collections::hash_map::DefaultHasher, hash::BuildHasherDefault};

    pub use std::collections::{btree_map, BTreeMap, BTreeSet};

    pub type HashMap<K, V> = std::collections::HashMap<K, V, BuildHasherDefault<DefaultHasher>>;
    pub type HashSet<T> = std::collections::HashSet<T, BuildHasherDefault<DefaultHasher>>;
}

pub mod time {
    //! A clock that goes on by a microsecond whenever it is read, in place of tokio's and of std's. It orders no memory
    //! accesses.

    use std::{
        ops::{Add, Sub},
        sync::atomic::{AtomicU64, Ordering},
    };

    pub use std::time::{Duration, SystemTime};

    static MICROS: AtomicU64 = AtomicU64::new(0);

    /// Call it at the beginning of each run of a model.
    pub fn restart() {
        MICROS.store(0, Ordering::Relaxed);
    }

    pub fn pass(time: Duration) {
        MICROS.fetch_add(time.as_micros() as u64, Ordering::Relaxed);
    }

    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    pub struct Instant(Duration);

    impl Instant {
        pub fn now() -> Self {
            Instant(Duration::from_micros(MICROS.fetch_add(1, Ordering::Relaxed)))
        }

        pub fn elapsed(&self) -> Duration {
            Instant::now().saturating_duration_since(*self)
        }

        pub fn saturating_duration_since(&self, earlier: Instant) -> Duration {
            self.0.saturating_sub(earlier.0)
        }
    }

    impl Add<Duration> for Instant {
        type Output = Instant;

        fn add(self, time: Duration) -> Instant {
            Instant(self.0 + time)
        }
    }

    impl Sub<Duration> for Instant {
        type Output = Instant;

        fn sub(self, time: Duration) -> Instant {
            Instant(self.0 - time)
        }
    }

    /// No timer ends in a model.
    pub async fn sleep(_: Duration) {
        std::future::pending::<()>().await;
    }
}

mod mailbox {
    pub trait Message {
        type Result: 'static;
    }

    pub enum MailboxError {
        Closed,
        Timeout,
    }
}

mod mutex {
    use std::{fmt, sync::LockResult};

    use loom::sync::MutexGuard;

    pub struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub fn new(value: T) -> Self {
            Mutex(loom::sync::Mutex::new(value))
        }

        pub fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
            self.0.lock()
        }
    }

    impl<T: Default> Default for Mutex<T> {
        fn default() -> Self {
            Mutex::new(T::default())
        }
    }

    impl<T> fmt::Debug for Mutex<T> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Mutex")
        }
    }
}

mod notify {
    //! The part of tokio's `Notify` that views use, with the order of memory accesses that tokio has: a `Notified` is
    //! woken by every call of `notify_waiters` after it was made.

    use std::{
        future::Future,
        mem,
        pin::Pin,
        task::{Context, Poll, Waker},
    };

    use loom::sync::atomic::{AtomicUsize, Ordering};

    use super::mutex::Mutex;

    #[derive(Debug)]
    pub struct Notify {
        calls: AtomicUsize,
        waiting: Mutex<Vec<Waker>>,
    }

    pub struct Notified<'a> {
        notify: &'a Notify,
        calls: usize,
    }

    impl Notify {
        #[allow(clippy::new_without_default)]
        pub fn new() -> Self {
            Notify { calls: AtomicUsize::new(0), waiting: Mutex::default() }
        }

        pub fn notified(&self) -> Notified<'_> {
            Notified { notify: self, calls: self.calls() }
        }

        pub fn notify_waiters(&self) {
            let woken = {
                let mut waiting = self.waiting.lock().unwrap();
                self.calls.fetch_add(1, Ordering::SeqCst);
                mem::take(&mut *waiting)
            };
            woken.into_iter().for_each(Waker::wake);
        }

        /// How often `notify_waiters` was called.
        pub fn calls(&self) -> usize {
            self.calls.load(Ordering::SeqCst)
        }
    }

    impl Future for Notified<'_> {
        type Output = ();

        fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
            let mut waiting = self.notify.waiting.lock().unwrap();
            if self.notify.calls() != self.calls {
                return Poll::Ready(());
            }
            waiting.push(context.waker().clone());
            Poll::Pending
        }
    }
}

mod once_lock {
    use loom::sync::atomic::{AtomicBool, Ordering};

    use super::mutex::Mutex;

    #[derive(Debug)]
    pub struct OnceLock<T> {
        is_set: AtomicBool,
        setting: Mutex<()>,
        value: std::sync::OnceLock<T>,
    }

    impl<T> OnceLock<T> {
        #[allow(clippy::new_without_default)]
        pub fn new() -> Self {
            OnceLock { is_set: AtomicBool::new(false), setting: Mutex::new(()), value: std::sync::OnceLock::new() }
        }

        pub fn get(&self) -> Option<&T> {
            self.is_set.load(Ordering::Acquire).then(|| self.value.get().unwrap())
        }

        pub fn get_or_init(&self, value: impl FnOnce() -> T) -> &T {
            if let Some(value) = self.get() {
                return value;
            }
            let _setting = self.setting.lock().unwrap();
            if !self.is_set.load(Ordering::Relaxed) {
                assert!(self.value.set(value()).is_ok());
                self.is_set.store(true, Ordering::Release);
            }
            self.value.get().unwrap()
        }
    }
}

mod arc_swap {
    //! A reader may get an older value than the last one, as long as nothing has told it about the last one. The real
    //! `ArcSwap` promises no less.

    use std::{
        ops::Deref,
        sync::{Arc, Mutex},
    };

    use loom::sync::atomic::{AtomicUsize, Ordering};

    #[derive(Debug)]
    pub struct ArcSwap<T> {
        current: AtomicUsize,
        /// All values so far.
        values: Mutex<Vec<Arc<T>>>,
    }

    pub struct Guard<T>(T);

    impl<T> Deref for Guard<T> {
        type Target = T;

        fn deref(&self) -> &T {
            &self.0
        }
    }

    impl<T> ArcSwap<T> {
        pub fn from_pointee(value: T) -> Self {
            ArcSwap { current: AtomicUsize::new(0), values: Mutex::new(vec![Arc::new(value)]) }
        }

        pub fn load(&self) -> Guard<Arc<T>> {
            Guard(self.load_full())
        }

        pub fn load_full(&self) -> Arc<T> {
            let current = self.current.load(Ordering::Acquire);
            self.values.lock().unwrap()[current].clone()
        }

        pub fn store(&self, value: Arc<T>) {
            let next = {
                let mut values = self.values.lock().unwrap();
                values.push(value);
                values.len() - 1
            };
            self.current.swap(next, Ordering::AcqRel);
        }
    }
}
