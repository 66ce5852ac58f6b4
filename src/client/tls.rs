//! TLS for `https` servers, by rustls or OpenSSL. With both features on, rustls is used.
//!
//! awc's own TLS is not used, because it verifies certificates against an IPv6 address with brackets, which never
//! matches.
//!
//! The server's name in the certificate is always checked: no setting turns this off. A server whose certificate comes
//! from a private authority needs [`TlsConfig::ca_file`](crate::TlsConfig::ca_file).

use std::io;

use actix_service::Service as _;
use actix_tls::connect::{Connection, Host};

pub(crate) use self::by_library::{client_config, ClientConfig};
pub(super) use self::by_library::{connector, TlsConnectorService};
use super::stream::Stream;
use crate::{config::Config, error::Error, runtime::sockets::TcpStream};

/// A host name or an IP address without brackets.
struct ServerName(String);

impl Host for ServerName {
    fn hostname(&self) -> &str {
        &self.0
    }
}

/// Does the TLS handshake with the server `host`.
pub(super) async fn handshake(tls: &TlsConnectorService, host: &str, tcp: TcpStream) -> io::Result<Stream> {
    let connection = tls.call(Connection::new(ServerName(host.to_owned()), tcp)).await?;
    Ok(Stream::new(connection.into_parts().0))
}

/// The error for a configured file that cannot be used.
fn unusable(what: &str, path: &std::path::Path, error: impl std::fmt::Display) -> Error {
    Error::invalid("tls", format!("{what} {}: {error}", path.display()))
}

/// Whether a server may need https. Reading the platform's roots takes time and memory, and is skipped otherwise. A
/// server list may contain an https server later.
///
/// # Errors
/// [`Error::InvalidInput`] for an address that cannot be parsed.
fn is_needed(config: &Config) -> Result<bool, Error> {
    Ok(config.endpoint.is_some() || is_certain(config)?)
}

/// Whether the endpoint or a configured server needs https.
fn is_certain(config: &Config) -> Result<bool, Error> {
    let by_https = config.endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("https:"));
    Ok(by_https || config.addresses()?.iter().any(|address| address.https))
}

#[cfg(feature = "rustls")]
mod by_library {
    use std::{path::Path, sync::Arc};

    use actix_tls::connect::rustls_0_23::TlsConnector;
    pub(crate) use actix_tls::connect::rustls_0_23::TlsConnectorService;
    use rustls::{
        crypto::ring,
        pki_types::{pem::PemObject as _, CertificateDer, PrivateKeyDer},
        RootCertStore,
    };

    use super::{is_certain, is_needed, unusable};
    use crate::{
        config::{Config, TlsConfig},
        error::Error,
    };

    pub(crate) type ClientConfig = Arc<rustls::ClientConfig>;

    /// `None` if no server needs https.
    pub(crate) fn connector(config: &Config) -> Result<Option<TlsConnectorService>, Error> {
        if !is_needed(config)? {
            return Ok(None);
        }
        let roots = roots(&config.tls)?;
        if roots.is_empty() {
            // Without a configured https server, only a server list could contain one. It cannot be reached then.
            let reason = "the platform has no root certificates; configure a CA file";
            return if is_certain(config)? { Err(Error::invalid("tls", reason)) } else { Ok(None) };
        }
        Ok(Some(TlsConnector::service(trusting(roots, &config.tls, &["http/1.1"])?)))
    }

    /// The configuration of a client that offers `protocols` by ALPN, the preferred one first.
    pub(crate) fn client_config(tls: &TlsConfig, protocols: &[&str]) -> Result<ClientConfig, Error> {
        trusting(roots(tls)?, tls, protocols)
    }

    fn trusting(roots: RootCertStore, tls: &TlsConfig, protocols: &[&str]) -> Result<ClientConfig, Error> {
        // The provider is explicit because a process with several providers has no default.
        let builder = rustls::ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::invalid("tls", error.to_string()))?
            .with_root_certificates(roots);
        let mut client = match tls.get_client_certificate() {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let private = PrivateKeyDer::from_pem_file(key).map_err(|error| unusable("client key", key, error))?;
                builder
                    .with_client_auth_cert(certificates(certificate)?, private)
                    .map_err(|error| unusable("client certificate", certificate, error))?
            }
        };
        client.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Ok(Arc::new(client))
    }

    fn roots(tls: &TlsConfig) -> Result<RootCertStore, Error> {
        let mut roots = RootCertStore::empty();
        // Ignores unreadable certificates of the platform.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if let Some(file) = &tls.ca_file {
            for certificate in certificates(file)? {
                roots.add(certificate).map_err(|error| unusable("CA file", file, error))?;
            }
        }
        Ok(roots)
    }

    fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
        let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let certificates = read.map_err(|error| unusable("certificate file", file, error))?;
        if certificates.is_empty() {
            return Err(unusable("certificate file", file, "contains no certificate"));
        }
        Ok(certificates)
    }
}

#[cfg(all(feature = "openssl", not(feature = "rustls")))]
mod by_library {
    use actix_tls::connect::openssl::TlsConnector;
    pub(crate) use actix_tls::connect::openssl::TlsConnectorService;
    use openssl::ssl::{SslConnector, SslFiletype, SslMethod};

    use super::{is_needed, unusable};
    use crate::{
        config::{Config, TlsConfig},
        error::Error,
    };

    pub(crate) type ClientConfig = SslConnector;

    /// `None` if no server needs https.
    pub(crate) fn connector(config: &Config) -> Result<Option<TlsConnectorService>, Error> {
        if !is_needed(config)? {
            return Ok(None);
        }
        Ok(Some(TlsConnector::service(client_config(&config.tls, &["http/1.1"])?)))
    }

    /// The configuration of a client that offers `protocols` by ALPN, the preferred one first.
    pub(crate) fn client_config(tls: &TlsConfig, protocols: &[&str]) -> Result<ClientConfig, Error> {
        let no_tls = |error: openssl::error::ErrorStack| Error::invalid("tls", error.to_string());
        let mut client = SslConnector::builder(SslMethod::tls()).map_err(no_tls)?;
        // Each name is preceded by its length.
        let named = protocols.iter().flat_map(|name| [name.len() as u8].into_iter().chain(name.bytes()));
        client.set_alpn_protos(&named.collect::<Vec<_>>()).map_err(no_tls)?;
        if let Some(file) = tls.get_ca_file() {
            client.set_ca_file(file).map_err(|error| unusable("CA file", file, error))?;
        }
        if let Some((certificate, key)) = tls.get_client_certificate() {
            client
                .set_certificate_chain_file(certificate)
                .map_err(|error| unusable("client certificate", certificate, error))?;
            client.set_private_key_file(key, SslFiletype::PEM).map_err(|error| unusable("client key", key, error))?;
        }
        Ok(client.build())
    }
}
