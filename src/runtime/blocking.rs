//! Waiting for a future in a plain thread.

use std::{
    future::Future,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
};

/// Waits in a plain thread for a future, such as the Registry's answer to a message or a view's first list. The thread
/// sleeps until the future is ready, and needs no runtime.
///
/// This function has no timeout. Operations of the Registry end within
/// [`Config::operation_timeout`](crate::Config::operation_timeout). For a view use
/// [`ServiceView::ready_within`](crate::ServiceView::ready_within), whose time is kept by the Registry's thread. Do not
/// use the `timeout` of actix's own `Request` here, because it needs a runtime.
///
/// Do not call this function in a thread that runs an arbiter or another runtime: all other tasks of the thread would
/// not run. A Registry that was started [in that thread](crate::Registry::start_here) could never answer.
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
            // `park` may return without a wake-up. Then the loop polls once more.
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
