//! The addresses behind a server's name, and our own address towards it.

use std::{
    cell::{Cell, RefCell},
    net::IpAddr,
    time::Duration,
};

use actix_rt::time::{timeout, Instant};
use tokio::{net::lookup_host, sync::Mutex};

use crate::config::{local_ip_towards, ServerAddress};

/// A name service that hangs must not hold up the lists.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(1);
/// A lookup that failed is repeated after this.
const LOOKUP_PAUSE: Duration = Duration::from_secs(2);

/// What was looked up last for one server.
#[derive(Default)]
pub(crate) struct Resolved {
    addresses: RefCell<(Vec<IpAddr>, Option<IpAddr>)>,
    failed_at: Cell<Option<Instant>>,
    /// Held by the one lookup under way: many callers ask together, and each lookup may hold a thread.
    lookup: Mutex<()>,
}

impl Resolved {
    /// Looks the addresses of `server` up, unless that is done.
    pub(crate) async fn resolve(&self, server: &ServerAddress) {
        let _one_at_a_time = self.lookup.lock().await;
        let has_failed_recently = self.failed_at.get().is_some_and(|failed| failed.elapsed() < LOOKUP_PAUSE);
        if self.local_ip().is_some() || has_failed_recently {
            return;
        }
        let found = timeout(LOOKUP_TIMEOUT, lookup_host((server.host.as_str(), server.port))).await;
        let addresses: Vec<_> = found.ok().and_then(Result::ok).map(Iterator::collect).unwrap_or_default();
        let local_ip = addresses.iter().find_map(|address| local_ip_towards(*address).ok());
        self.failed_at.set(local_ip.is_none().then(Instant::now));
        *self.addresses.borrow_mut() = (addresses.iter().map(|address| address.ip()).collect(), local_ip);
    }

    /// Our address by which the server is reached, once that was looked up.
    pub(crate) fn local_ip(&self) -> Option<IpAddr> {
        self.addresses.borrow().1
    }

    pub(crate) fn contains(&self, ip: IpAddr) -> bool {
        self.addresses.borrow().0.contains(&ip)
    }

    /// The server may have moved.
    pub(crate) fn forget(&self) {
        *self.addresses.borrow_mut() = Default::default();
    }
}
