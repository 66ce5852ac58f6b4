//! The sockets of the client and of the embedded server.
//!
//! With the feature `_testing` a [simulated network](crate::testing::network) can replace the system's.

#[cfg(not(feature = "_testing"))]
pub(crate) use actix_rt::net::{TcpStream, UdpSocket};
#[cfg(not(feature = "_testing"))]
pub(crate) use std::net::UdpSocket as StdUdpSocket;

#[cfg(feature = "_testing")]
pub(crate) use crate::testing::network::{is_simulated, StdUdpSocket, TcpListener, TcpStream, UdpSocket};

/// Whether the network of this thread is simulated.
#[cfg(all(feature = "embedded", not(feature = "_testing")))]
pub(crate) const fn is_simulated() -> bool {
    false
}
