//! Settings for receiving pushes.
//!
//! Facts about Nacos: servers push to the address and port that the client's last list request named. So a client
//! behind address translation has to name an address that leads to it.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// Settings for receiving pushes: the datagrams by which Nacos 1.x to 3.1 report a changed list within about a second.
///
/// Without pushes every change is found by polling. See [`Config::push`](crate::Config::push).
///
/// ```
/// use actix_nacos::{Config, PushConfig};
///
/// // In a container: a fixed port that the host forwards, and the host's address.
/// let push = PushConfig::default()
///     .bind("0.0.0.0:7848".parse()?)
///     .advertise_ip("192.0.2.7".parse()?);
/// let config = Config::new("192.0.2.1:8848").push(push);
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
///
/// | situation | settings |
/// |---|---|
/// | client and servers in one network | none |
/// | a firewall between them | [`bind`](Self::bind) to a fixed UDP port, which the firewall opens |
/// | the client in a container with a forwarded port | [`bind`](Self::bind) and [`advertise_ip`](Self::advertise_ip) |
/// | the forwarded port is another one | also [`advertise_port`](Self::advertise_port) |
/// | the servers behind address translation | [`any_source`](Self::any_source) with [`hint_only`](Self::hint_only) |
/// | UDP is not possible | [`off`](Self::off): changes show with the next poll |
///
/// If pushes do not arrive, nothing fails: lists are polled in any case.
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
    /// Turns pushes off: lists are only polled.
    ///
    /// Saves a socket. Nacos 3.2 and r-nacos never push, whatever is set here.
    #[must_use]
    pub fn off() -> Self {
        PushConfig { enabled: false, ..Self::default() }
    }

    /// Sets the address and the port of the UDP socket. Default: a free port on all local addresses of the address
    /// family by which the server is reached.
    ///
    /// Port 0 means a free port. Only one Registry of the machine can have a fixed port; another Registry with the same
    /// port only polls, and logs a warning.
    #[must_use]
    pub fn bind(mut self, address: SocketAddr) -> Self {
        self.bind = Some(address);
        self
    }

    /// Sets the IP address that servers send pushes to. Default: the local address from which the server is reached.
    #[must_use]
    pub fn advertise_ip(mut self, ip: IpAddr) -> Self {
        self.advertise_ip = Some(ip);
        self
    }

    /// Sets the port that servers send pushes to. Default: the port of the UDP socket.
    #[must_use]
    pub fn advertise_port(mut self, port: u16) -> Self {
        self.advertise_port = Some(port);
        self
    }

    /// Accepts pushes from any address, for servers behind address translation. Default: false, only pushes from the
    /// addresses of the configured servers are accepted.
    ///
    /// Datagrams are not authenticated. With this setting anybody who can send a datagram to this process decides where
    /// calls go. Consider [`hint_only`](PushConfig::hint_only) too.
    #[must_use]
    pub fn any_source(mut self, yes: bool) -> Self {
        self.any_source = yes;
        self
    }

    /// Uses pushes only as a hint to poll the list from a server, so that a forged push cannot change a list. Default:
    /// false.
    ///
    /// Costs one request per push and service, and a little time.
    #[must_use]
    pub fn hint_only(mut self, yes: bool) -> Self {
        self.hint_only = yes;
        self
    }

    /// Whether pushes are received: false after [`off`](PushConfig::off).
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// The address from [`bind`](PushConfig::bind), or `None` for a free port.
    pub fn get_bind(&self) -> Option<SocketAddr> {
        self.bind
    }

    /// The address from [`advertise_ip`](PushConfig::advertise_ip), or `None` for the local address.
    pub fn get_advertise_ip(&self) -> Option<IpAddr> {
        self.advertise_ip
    }

    /// The port from [`advertise_port`](PushConfig::advertise_port), or `None` for the port of the socket.
    pub fn get_advertise_port(&self) -> Option<u16> {
        self.advertise_port
    }

    /// Whether pushes from any address are accepted: see [`any_source`](PushConfig::any_source).
    pub fn get_any_source(&self) -> bool {
        self.any_source
    }

    /// Whether pushes are only hints: see [`hint_only`](PushConfig::hint_only).
    pub fn get_hint_only(&self) -> bool {
        self.hint_only
    }
}
