//! Under which address others can call this machine.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _, UdpSocket},
};

use awc::http::Uri;

use crate::{config::Config, error::Error, nacos::Operation};

impl Config {
    /// The address of this machine by which it reaches the first server that it has a route to: what an instance is to be
    /// registered with, unless addresses are translated in between.
    ///
    /// Nothing is sent. A server's host name is resolved, which blocks the thread as long as that takes. Without any server
    /// ([`Config::disabled`]) it is 127.0.0.1.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] for a bad server address; [`Error::Unreachable`] if there is no route to any server.
    ///
    /// ```
    /// # use actix_nacos::Config;
    /// let config = Config::new("127.0.0.1:8848");
    /// assert_eq!(config.local_ip()?.to_string(), "127.0.0.1");
    /// # Ok::<(), actix_nacos::Error>(())
    /// ```
    pub fn local_ip(&self) -> Result<IpAddr, Error> {
        let servers = self.reachable_names()?;
        let mut last_error = None;
        for (host, port) in &servers {
            match local_ip_towards(host, *port) {
                Ok(ip) => return Ok(ip),
                Err(error) => last_error = Some((host, error)),
            }
        }
        match last_error {
            None if self.disabled => Ok(Ipv4Addr::LOCALHOST.into()),
            None => Err(Error::invalid("servers", "is empty; it wants host:port of a Nacos server")),
            Some((host, error)) => Err(Error::Unreachable {
                operation: Operation::LocalIp,
                server: host.clone(),
                reason: error.to_string(),
            }),
        }
    }

    /// Host and port of the servers, and of whoever lists them.
    fn reachable_names(&self) -> Result<Vec<(String, u16)>, Error> {
        let mut names: Vec<_> = self.addresses()?.into_iter().map(|address| (address.host, address.port)).collect();
        let endpoint = self.endpoint.as_ref().and_then(|endpoint| endpoint.parse::<Uri>().ok());
        if let Some(host) = endpoint.as_ref().and_then(Uri::host) {
            let host = host.trim_start_matches('[').trim_end_matches(']');
            names.push((host.to_owned(), endpoint.as_ref().and_then(Uri::port_u16).unwrap_or(80)));
        }
        Ok(names)
    }
}

/// A datagram socket that is connected has the address that its datagrams would be sent from; none is.
fn local_ip_towards(host: &str, port: u16) -> io::Result<IpAddr> {
    let mut last_error = io::Error::from(io::ErrorKind::NotFound);
    for server in (host, port).to_socket_addrs()? {
        match local_ip_to(server) {
            Ok(ip) => return Ok(ip),
            Err(error) => last_error = error,
        }
    }
    Err(last_error)
}

fn local_ip_to(server: SocketAddr) -> io::Result<IpAddr> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(server)?;
    Ok(socket.local_addr()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_address_on_the_way_to_the_server() {
        assert_eq!(Config::new("127.0.0.1:8848").local_ip(), Ok(Ipv4Addr::LOCALHOST.into()));
        assert_eq!(Config::at_endpoint("http://127.0.0.1/servers").local_ip(), Ok(Ipv4Addr::LOCALHOST.into()));
        assert_eq!(Config::disabled().local_ip(), Ok(Ipv4Addr::LOCALHOST.into()));
    }

    #[test]
    fn without_a_server_it_says_what_is_missing() {
        assert!(matches!(Config::new("").local_ip(), Err(Error::InvalidInput { field: "servers", .. })));
        // A label of more than 63 characters: no resolver is asked.
        let nowhere = Config::new(format!("{}:8848", "n".repeat(64))).local_ip();
        assert!(matches!(nowhere, Err(Error::Unreachable { .. })), "{nowhere:?}");
    }
}
