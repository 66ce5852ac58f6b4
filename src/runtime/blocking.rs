//! Waiting in plain threads.

use std::{
    future::Future,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
};

/// Waits in a plain thread for what is awaited elsewhere: an answer of the Registry, or the first list of a view. The thread
/// sleeps meanwhile and needs no runtime.
///
/// Operations end by themselves ([`Config::operation_timeout`](crate::Config::operation_timeout)), and
/// [`ServiceView::ready_within`](crate::ServiceView::ready_within) keeps its time in the Registry's thread; `timeout` of
/// actix's own `Request` needs a runtime and must not be used here.
///
/// Do not call it in a thread that runs an arbiter or another runtime: everything else there would stand still, and a Registry
/// that was started [there](crate::Registry::start_here) could never answer.
///
/// ```
/// # use std::{thread, time::Duration};
/// # use actix_nacos::{block_on, embedded::EmbeddedServer, prelude::*};
/// # let nacos = EmbeddedServer::start().unwrap();
/// let registry = Registry::start(Config::new(nacos.server_address()))?;
/// let worker = thread::spawn(move || -> Result<(), Error> {
///     block_on(registry.send(RegisterInstance::new("orders", "127.0.0.7", 8080)))??;
///     let orders = block_on(registry.send(Discover::new("orders")))??;
///     block_on(orders.ready_within(Duration::from_secs(5)))?;
///     assert!(orders.select_one().is_some());
///     block_on(registry.send(Shutdown::default()))??;
///     Ok(())
/// });
/// worker.join().unwrap()?;
/// # Ok::<(), Error>(())
/// ```
pub fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            // May return without a wake-up: then the future is polled once more.
            Poll::Pending => thread::park(),
        }
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
