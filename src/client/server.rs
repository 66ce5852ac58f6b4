//! One server: its address, its connections, its state.
//!
//! A [`Server`] is created when the server list first contains it, and is dropped after it has left the list.
//! Everything that belongs to one server is here, so that it is dropped with the server, including the client and its
//! connections.

use std::{
    cell::{Cell, RefCell},
    collections::HashSet,
    net::IpAddr,
};

use awc::{http::Method, Client};

use super::{dialer::Dialer, health::Health, resolve::Resolved};
use crate::{config::ServerAddress, error::Error, wire::exchange::WireProtocol};

/// A server to which requests may be sent. It keeps its state when the server list is replaced.
pub(crate) struct Server {
    pub(crate) address: ServerAddress,
    /// `host:port`, for errors and logs.
    pub(crate) name: String,
    /// Owns the connections, which are closed when the server is dropped.
    pub(super) client: Client,
    pub(super) dialer: Dialer,
    /// The protocol that the server spoke last.
    protocol: Cell<Option<WireProtocol>>,
    /// Methods for which the server reads parameters only from the query, as Nacos 1.4 does for POST.
    query_only: RefCell<HashSet<Method>>,
    pub(crate) resolved: Resolved,
    pub(super) health: RefCell<Health>,
}

impl Server {
    pub(super) fn new(address: ServerAddress, new_client: impl Fn(&Dialer) -> Client) -> Self {
        let dialer = Dialer::new(&address);
        Server {
            name: address.to_string(),
            address,
            client: new_client(&dialer),
            dialer,
            protocol: Cell::new(None),
            query_only: RefCell::default(),
            resolved: Resolved::default(),
            health: RefCell::default(),
        }
    }

    /// The protocol that the server was last found to speak. `None` before the first answer.
    pub(crate) fn protocol(&self) -> Option<WireProtocol> {
        self.protocol.get()
    }

    /// Sets the protocol. Returns the previous one.
    pub(super) fn replace_protocol(&self, protocol: WireProtocol) -> Option<WireProtocol> {
        self.protocol.replace(Some(protocol))
    }

    /// Whether the server reads the parameters of this method only from the query.
    pub(super) fn is_query_only(&self, method: &Method) -> bool {
        self.query_only.borrow().contains(method)
    }

    /// Remembers where the server reads the parameters of this method.
    pub(super) fn note_query_only(&self, method: &Method, is_query_only: bool) {
        let mut methods = self.query_only.borrow_mut();
        if is_query_only {
            methods.insert(method.clone());
        } else {
            methods.remove(method);
        }
    }

    /// Whether this is an address of the server, as far as it is known.
    pub(super) fn is_at(&self, ip: IpAddr) -> bool {
        self.resolved.contains(ip) || self.address.host.parse::<IpAddr>() == Ok(ip)
    }

    /// A copy, for the status.
    pub(crate) fn health(&self) -> Health {
        self.health.borrow().clone()
    }

    pub(crate) fn last_error(&self) -> Option<Error> {
        self.health.borrow().last_error.clone()
    }
}
