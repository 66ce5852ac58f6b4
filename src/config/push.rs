//! How pushes are received.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// How pushes are received. See [`Config::push`](crate::Config::push).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PushConfig {
    pub(crate) enabled: bool,
    pub(crate) bind: Option<SocketAddr>,
    pub(crate) advertise_ip: Option<IpAddr>,
    pub(crate) advertise_port: Option<u16>,
    pub(crate) any_source: bool,
    pub(crate) hint_only: bool,
}

impl Default for PushConfig {
    fn default() -> Self {
        PushConfig {
            enabled: true,
            bind: None,
            advertise_ip: None,
            advertise_port: None,
            any_source: false,
            hint_only: false,
        }
    }
}

impl PushConfig {
    /// No push: lists are only asked for.
    #[must_use]
    pub fn off() -> Self {
        PushConfig { enabled: false, ..Self::default() }
    }

    /// Where the socket listens. Default: a free port on all addresses of the family by which the server is reached.
    #[must_use]
    pub fn bind(mut self, address: SocketAddr) -> Self {
        self.bind = Some(address);
        self
    }

    /// The address that servers are told to push to. Default: the local address by which the server is reached.
    #[must_use]
    pub fn advertise_ip(mut self, ip: IpAddr) -> Self {
        self.advertise_ip = Some(ip);
        self
    }

    /// The port that servers are told to push to. Default: the bound one.
    #[must_use]
    pub fn advertise_port(mut self, port: u16) -> Self {
        self.advertise_port = Some(port);
        self
    }

    /// Whether lists from any address are applied, for servers behind address translation. Nothing authenticates a
    /// datagram: whoever can send one then decides where calls go. Default: false, only the servers' addresses.
    #[must_use]
    pub fn any_source(mut self, yes: bool) -> Self {
        self.any_source = yes;
        self
    }

    /// Whether a push is only taken as a hint to ask for the list, which nobody can forge. Default: false.
    #[must_use]
    pub fn hint_only(mut self, yes: bool) -> Self {
        self.hint_only = yes;
        self
    }

    /// Whether servers are asked for pushes.
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// See [`bind`](PushConfig::bind); none for a free port.
    pub fn get_bind(&self) -> Option<SocketAddr> {
        self.bind
    }

    /// See [`advertise_ip`](PushConfig::advertise_ip); none for the one by which the server is reached.
    pub fn get_advertise_ip(&self) -> Option<IpAddr> {
        self.advertise_ip
    }

    /// See [`advertise_port`](PushConfig::advertise_port); none for the bound one.
    pub fn get_advertise_port(&self) -> Option<u16> {
        self.advertise_port
    }

    /// See [`any_source`](PushConfig::any_source).
    pub fn get_any_source(&self) -> bool {
        self.any_source
    }

    /// See [`hint_only`](PushConfig::hint_only).
    pub fn get_hint_only(&self) -> bool {
        self.hint_only
    }
}
