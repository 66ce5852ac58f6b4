//! The IP addresses of a server, and the local address from which it is reached.
//!
//! The addresses of a server show whether a datagram comes from it. The local address is where the server is asked to
//! push. A server may move, so the addresses are forgotten when a request gets no answer, and looked up again with the
//! next list.

use std::{
    cell::{Cell, RefCell},
    net::IpAddr,
    time::Duration,
};

use actix_rt::time::{timeout, Instant};
use tokio::{net::lookup_host, sync::Mutex};

use crate::config::{local_ip_towards, ServerAddress};

/// The time limit of a lookup. Lists wait for the lookup, and a list without a push address is better than a late list.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(1);
/// The pause after a failed lookup.
const LOOKUP_PAUSE: Duration = Duration::from_secs(2);

/// The result of the last lookup for one server.
#[derive(Default)]
pub(crate) struct Resolved {
    addresses: RefCell<(Vec<IpAddr>, Option<IpAddr>)>,
    failed_at: Cell<Option<Instant>>,
    /// Held by the lookup under way. Many callers ask together, and each lookup may occupy a thread.
    lookup: Mutex<()>,
}

impl Resolved {
    /// Looks up the addresses of `server`, unless they are known.
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

    /// The local address from which the server is reached, if it is known.
    pub(crate) fn local_ip(&self) -> Option<IpAddr> {
        self.addresses.borrow().1
    }

    /// Whether the server was found at this address.
    pub(crate) fn contains(&self, ip: IpAddr) -> bool {
        self.addresses.borrow().0.contains(&ip)
    }

    /// Forgets the addresses, because the server may have moved.
    pub(crate) fn forget(&self) {
        *self.addresses.borrow_mut() = Default::default();
    }
}
