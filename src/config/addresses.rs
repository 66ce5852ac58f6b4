//! Addresses: of a server, of several servers, of a server list, and of this machine.
//!
//! Every text that may contain a password is kept out of errors and logs: an address with an `@` is rejected
//! without being quoted, and URLs are shown without their query.

use std::{
    fmt,
    net::{IpAddr, SocketAddr, ToSocketAddrs as _, UdpSocket},
    str::FromStr,
    sync::Arc,
};

use awc::http::Uri;
use serde::{
    de::{SeqAccess, Visitor},
    Deserializer,
};

use crate::error::{Error, Operation};

/// The addresses of one or several servers.
///
/// Made from one text with commas or from several texts: a `&str`, a `String`, a `Vec`, a slice, or an array. See
/// [`Config::new`](crate::Config::new) for the forms of an address. Addresses are checked by
/// [`Config::validate`](crate::Config::validate).
///
/// ```
/// use actix_nacos::{Config, ServerList};
///
/// let servers = ServerList::from(["192.0.2.1:8848", "192.0.2.2:8848"]);
/// assert_eq!(servers, ServerList::from("192.0.2.1:8848, 192.0.2.2:8848"));
/// let config = Config::new(servers);
/// ```
///
/// The Registry begins with a random server, whatever the order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerList(pub(super) Vec<String>);

/// Replaces an address that may contain a password.
const REDACTED: &str = "***";

/// The addresses for logs. All are redacted if any may contain a password: a comma in a password splits one address
/// into two texts, and only one of them contains the `@`.
pub(super) fn redacted_servers(servers: &[String]) -> Vec<&str> {
    if servers.iter().any(|server| server.contains('@')) {
        return vec![REDACTED];
    }
    servers.iter().map(String::as_str).collect()
}

impl ServerList {
    fn of<S: AsRef<str>>(texts: impl IntoIterator<Item = S>) -> Self {
        let mut servers = Vec::new();
        for text in texts {
            let split = text.as_ref().split(',').map(str::trim).filter(|server| !server.is_empty());
            servers.extend(split.map(str::to_owned));
        }
        ServerList(servers)
    }
}

macro_rules! from_text {
    ($($text:ty),*) => {
        $(impl From<$text> for ServerList {
            fn from(servers: $text) -> Self {
                ServerList::of([servers])
            }
        })*
    };
}

from_text!(&str, String, &String, Arc<str>, Box<str>, std::borrow::Cow<'_, str>);

impl<S: AsRef<str>> From<Vec<S>> for ServerList {
    fn from(servers: Vec<S>) -> Self {
        ServerList::of(servers)
    }
}

impl<S: AsRef<str>> From<&[S]> for ServerList {
    fn from(servers: &[S]) -> Self {
        ServerList::of(servers)
    }
}

impl<S: AsRef<str>, const N: usize> From<[S; N]> for ServerList {
    fn from(servers: [S; N]) -> Self {
        ServerList::of(servers)
    }
}

/// Deserialises a list of texts, or one text.
pub(super) fn read_servers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct Servers;

    impl<'de> Visitor<'de> for Servers {
        type Value = ServerList;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(r#"servers as "host:port,host:port" or a list of "host:port""#)
        }

        fn visit_str<E>(self, text: &str) -> Result<ServerList, E> {
            Ok(text.into())
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<ServerList, A::Error> {
            let mut texts = Vec::<String>::new();
            while let Some(text) = list.next_element()? {
                texts.push(text);
            }
            Ok(texts.into())
        }
    }

    deserializer.deserialize_any(Servers).map(|servers| servers.0)
}

/// The address of one server's API.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ServerAddress {
    pub(crate) https: bool,
    /// Without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Empty, or with a leading and no trailing slash.
    pub(crate) context_path: String,
}

impl ServerAddress {
    /// Parses `host:port` or `http(s)://host:port[/context]`. `context_path` applies to an address without a path.
    pub(crate) fn parse(text: &str, context_path: &str) -> Result<Self, Error> {
        let invalid = |reason: String| Error::invalid("servers", reason);
        if text.contains('@') {
            return Err(no_credentials());
        }
        let url = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let uri = Uri::from_str(&url).map_err(|error| invalid(format!("{text:?} is not an address: {error}")))?;
        let https = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => tls_is_built_in("servers").map(|()| true)?,
            scheme => return Err(invalid(format!("{text:?} has the scheme {scheme:?}; use http or https"))),
        };
        let host = host_of(&uri, text).map_err(invalid)?;
        let port = port_of(&uri, text).map_err(invalid)?;
        let path = if uri.path().trim_matches('/').is_empty() { context_path } else { uri.path() };
        let path = path.trim_matches('/');
        let context_path = if path.is_empty() { String::new() } else { format!("/{path}") };
        if let Err(error) = Uri::from_str(&format!("/{path}")) {
            return Err(Error::invalid("context_path", format!("{path:?} is not a path: {error}")));
        }
        Ok(ServerAddress { https, host, port, context_path })
    }

    /// Parses the URL of a server list. The context path of the result is empty.
    pub(crate) fn parse_endpoint(url: &str) -> Result<Self, Error> {
        let invalid = |reason: String| Error::invalid("endpoint", reason);
        let uri = Uri::from_str(url).map_err(|error| invalid(error.to_string()))?;
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(invalid("must not contain credentials, because logs show the address".into()));
        }
        let https = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => tls_is_built_in("endpoint").map(|()| true)?,
            _ => return Err(invalid("must begin with http:// or https://".into())),
        };
        let redacted = if url.contains('@') { REDACTED } else { url.split('?').next().unwrap_or_default() };
        let host = host_of(&uri, redacted).map_err(invalid)?;
        let has_port = uri.authority().is_some_and(|authority| Some(authority.as_str()) != uri.host());
        let port = match has_port {
            true => port_of(&uri, redacted).map_err(invalid)?,
            false if https => 443,
            false => 80,
        };
        Ok(ServerAddress { https, host, port, context_path: String::new() })
    }

    /// The URL of a server list for logs and errors: without query and fragment, which may contain secrets.
    pub(crate) fn redacted_endpoint(url: &str) -> &str {
        let is_valid = ServerAddress::parse_endpoint(url).is_ok();
        if url.contains('@') && !is_valid {
            return REDACTED;
        }
        url.split(['?', '#']).next().unwrap_or_default()
    }

    /// The local address from which this machine reaches the server. Looks a host name up, which blocks.
    pub(super) fn local_ip(&self) -> Result<IpAddr, Error> {
        let unreachable = |error: std::io::Error| Error::Unreachable {
            operation: Operation::LocalIp,
            server: self.to_string(),
            reason: error.to_string(),
        };
        let mut found = Err(std::io::ErrorKind::AddrNotAvailable.into());
        // No route may lead to the first address, for example to an IPv6 address of a host that has both kinds.
        for target in (self.host.as_str(), self.port).to_socket_addrs().map_err(unreachable)? {
            found = local_ip_towards(target);
            if found.is_ok() {
                break;
            }
        }
        found.map_err(unreachable)
    }
}

pub(super) fn no_credentials() -> Error {
    Error::invalid("servers", "an address must not contain credentials; use Config::credentials")
}

/// The host, without brackets. Rejects an IPv6 address with a zone (`%eth0`), because neither a socket nor a
/// certificate check accepts a zone.
fn host_of(uri: &Uri, text: &str) -> Result<String, String> {
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() {
        return Err(format!("{text:?} has no host"));
    }
    if host.contains('%') {
        return Err(format!(
            "{text:?} contains a '%' (a zone or an escape); use an address without it, or a host name"
        ));
    }
    Ok(host.to_owned())
}

/// Reads the port from the authority, because `Uri` treats an invalid port like a missing one. The error must say
/// which.
fn port_of(uri: &Uri, text: &str) -> Result<u16, String> {
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let port = authority.strip_prefix(uri.host().unwrap_or_default()).and_then(|rest| rest.strip_prefix(':'));
    match port.unwrap_or_default() {
        "" => Err(format!("{text:?} has no port; the default port of Nacos is 8848")),
        port => match port.parse() {
            Ok(port) if port > 0 => Ok(port),
            _ => Err(format!("{text:?} is not an address: its port is not between 1 and 65535")),
        },
    }
}

/// `host:port`.
impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// The local address from which the system would send to `target`. Connecting a UDP socket sends no packet.
pub(crate) fn local_ip_towards(target: SocketAddr) -> std::io::Result<IpAddr> {
    let any: SocketAddr = match target {
        SocketAddr::V4(_) => SocketAddr::from(([0, 0, 0, 0], 0)),
        SocketAddr::V6(_) => SocketAddr::from(([0u16; 8], 0)),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(target)?;
    socket.local_addr().map(|address| address.ip())
}

fn tls_is_built_in(field: &'static str) -> Result<(), Error> {
    if cfg!(any(feature = "rustls", feature = "openssl")) {
        return Ok(());
    }
    Err(Error::invalid(field, "https needs the feature `rustls` or `openssl` of actix-nacos"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ServerAddress, Error> {
        ServerAddress::parse(text, "/nacos")
    }

    #[test]
    fn an_address_is_parsed_in_all_its_forms() {
        let parts = |text: &str| parse(text).map(|address| (address.to_string(), address.context_path)).unwrap();
        assert_eq!(parts("192.0.2.1:8848"), ("192.0.2.1:8848".into(), "/nacos".into()));
        assert_eq!(parts("http://nacos:80/"), ("nacos:80".into(), "/nacos".into()));
        assert_eq!(parts("http://nacos:80/other/place/"), ("nacos:80".into(), "/other/place".into()));
        assert_eq!(parse("[::1]:8848").unwrap().to_string(), "[::1]:8848");
        assert_eq!(ServerAddress::parse("a:1", "/").unwrap().context_path, "");
    }

    #[test]
    fn the_error_of_an_invalid_address_names_the_problem() {
        let reason = |text: &str| parse(text).unwrap_err().to_string();
        assert!(reason("nacos").contains("no port"), "{}", reason("nacos"));
        assert!(reason("ftp://nacos:21").contains("scheme"));
        assert!(parse(":8848").is_err() && parse("http://:8848").is_err() && parse("nacos:0").is_err());
        assert!(parse("nacos:70000").is_err() && parse("a b:1").is_err());
        let secret = reason("http://me:hush@nacos:8848");
        assert!(secret.contains("credentials") && !secret.contains("hush"));
    }

    #[cfg(not(any(feature = "rustls", feature = "openssl")))]
    #[test]
    fn https_without_a_tls_feature_names_the_feature() {
        assert!(parse("https://nacos:8848").unwrap_err().to_string().contains("`rustls`"));
    }

    #[test]
    fn an_address_with_a_zone_is_rejected() {
        for text in ["[fe80::1%eth0]:8848", "http://[fe80::1%2]:8848", "[fe80::1%25eth0]:8848", "a%20b:8848"] {
            let reason = parse(text).unwrap_err().to_string();
            assert!(reason.contains("zone") || reason.contains("not an address"), "{reason}");
        }
        assert!(ServerAddress::parse_endpoint("http://[fe80::1%eth0]/list").is_err());
    }

    #[test]
    fn an_endpoint_without_a_port_has_the_default_port_of_its_scheme() {
        let of = |url: &str| ServerAddress::parse_endpoint(url).unwrap().to_string();
        assert_eq!(of("http://nacos/list"), "nacos:80");
        assert_eq!(of("http://[::1]:8080/list"), "[::1]:8080");
        assert!(ServerAddress::parse_endpoint("http://nacos:80x/list").is_err());
    }

    #[test]
    fn possible_secrets_are_redacted() {
        let shown = ServerAddress::redacted_endpoint;
        assert_eq!(shown("http://nacos/list?key=hush#hush"), "http://nacos/list");
        assert_eq!(shown("http://nacos/a@b?key=hush"), "http://nacos/a@b");
        for url in ["http://me:hush@nacos/list", "http://me:hu?sh@nacos/list", "me:hush@nacos"] {
            assert_eq!(shown(url), REDACTED, "{url}");
        }
        let error = ServerAddress::parse_endpoint("http://a%20b/list?key=hush").unwrap_err();
        assert!(!error.to_string().contains("hush"), "{error}");
    }

    #[test]
    fn servers_are_given_as_one_text_or_several() {
        let expected = ServerList(vec!["a:1".into(), "b:2".into()]);
        assert_eq!(ServerList::from("a:1, b:2,"), expected);
        assert_eq!(ServerList::from(String::from("a:1,b:2")), expected);
        assert_eq!(ServerList::from(["a:1", "b:2"]), expected);
        assert_eq!(ServerList::from(vec![String::from("a:1,b:2")]), expected);
        assert_eq!(ServerList::from(&expected.0[..]), expected);
        assert_eq!(ServerList::from(" , "), ServerList::default());
    }
}
