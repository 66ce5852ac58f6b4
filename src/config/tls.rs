//! Certificates for `https` servers.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Certificates for `https` servers; needs the feature `rustls` or `openssl`. See [`Config::tls`](crate::Config::tls).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) client_certificate_file: Option<PathBuf>,
    pub(crate) client_key_file: Option<PathBuf>,
}

impl TlsConfig {
    /// Trusts the certificates in this PEM file beside the platform's. Default: the platform's only.
    #[must_use]
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca_file = Some(path.into());
        self
    }

    /// Presents the certificate chain in one PEM file with the private key in the other. Default: none.
    #[must_use]
    pub fn client_certificate(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.client_certificate_file = Some(certificate.into());
        self.client_key_file = Some(key.into());
        self
    }

    /// See [`ca_file`](TlsConfig::ca_file).
    pub fn get_ca_file(&self) -> Option<&Path> {
        self.ca_file.as_deref()
    }

    /// The files of the certificate chain and of its key: see [`client_certificate`](TlsConfig::client_certificate).
    pub fn get_client_certificate(&self) -> Option<(&Path, &Path)> {
        self.client_certificate_file.as_deref().zip(self.client_key_file.as_deref())
    }
}
