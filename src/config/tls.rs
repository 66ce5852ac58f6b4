//! TLS settings for `https` servers.
//!
//! These settings are used for registry servers ([`Config::tls`](crate::Config::tls)) and for calls by name
//! (`balance::ClientBuilder::tls`).

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// TLS settings for `https` servers. Needs the feature `rustls` or `openssl`. See [`Config::tls`](crate::Config::tls).
///
/// The files are read once, when the Registry is started or the `balance` client is built.
///
/// ```
/// use actix_nacos::{Config, TlsConfig};
///
/// let tls = TlsConfig::default().ca_file("ca.pem").client_certificate("client.pem", "client.key");
/// let config = Config::new("192.0.2.1:8848").tls(tls);
/// ```
///
/// Certificates are always checked. The certificate of a registry server must be for the host in the server's address.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) client_certificate_file: Option<PathBuf>,
    pub(crate) client_key_file: Option<PathBuf>,
}

impl TlsConfig {
    /// Trusts the certificates in this PEM file in addition to the platform's roots. Default: only the platform's
    /// roots.
    ///
    /// Use it for servers with a certificate of a company's own authority. The file may contain several
    /// certificates.
    ///
    /// # Errors
    /// [`Registry::start`](crate::Registry::start) fails with `InvalidInput` if there is an `https` server and the
    /// file cannot be read.
    #[must_use]
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca_file = Some(path.into());
        self
    }

    /// Presents a client certificate: its chain from the PEM file `certificate`, its private key from the PEM file
    /// `key`. Default: no client certificate.
    ///
    /// The key must not be encrypted.
    #[must_use]
    pub fn client_certificate(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.client_certificate_file = Some(certificate.into());
        self.client_key_file = Some(key.into());
        self
    }

    /// The file from [`ca_file`](TlsConfig::ca_file).
    pub fn get_ca_file(&self) -> Option<&Path> {
        self.ca_file.as_deref()
    }

    /// The files from [`client_certificate`](TlsConfig::client_certificate): the chain and the private key.
    pub fn get_client_certificate(&self) -> Option<(&Path, &Path)> {
        self.client_certificate_file.as_deref().zip(self.client_key_file.as_deref())
    }
}
