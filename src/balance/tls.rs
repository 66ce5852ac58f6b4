//! TLS of the ready client, with HTTP/2 if the instance offers it, and without HTTP/2 for tunnels.
//!
//! Both libraries offer ALPN `h2` and `http/1.1`. If both features are on, rustls is used. Without either feature
//! the module `none` takes their place, so that `client` needs no `cfg`.

#[cfg(any(feature = "rustls", feature = "openssl"))]
pub(super) use self::by_library::{client_configs, with};
#[cfg(not(any(feature = "rustls", feature = "openssl")))]
pub(super) use self::none::{client_configs, with};

#[cfg(any(feature = "rustls", feature = "openssl"))]
mod by_library {
    use std::sync::OnceLock;

    use actix_http::Uri;
    use actix_service::Service;
    use actix_tls::connect::{ConnectError, ConnectInfo, Connection};
    use awc::Connector;

    use super::super::connections::Socket;
    use crate::{
        client::tls::{self, ClientConfig},
        config::TlsConfig,
        error::Error,
    };

    /// Returns two configurations: with HTTP/2, and without. For the default settings they are made once per process,
    /// because reading the platform's roots takes time.
    pub(in super::super) fn client_configs(tls: &TlsConfig) -> Result<Option<[ClientConfig; 2]>, Error> {
        static BY_DEFAULT: OnceLock<Result<[ClientConfig; 2], Error>> = OnceLock::new();
        let make = || {
            let with_http2 = tls::client_config(tls, &["h2", "http/1.1"])?;
            Ok([with_http2.clone(), without_http2(tls, &with_http2)?])
        };
        let configs = if *tls == TlsConfig::default() { BY_DEFAULT.get_or_init(make).clone() } else { make() };
        configs.map(Some)
    }

    #[cfg(feature = "rustls")]
    fn without_http2(_: &TlsConfig, with_http2: &ClientConfig) -> Result<ClientConfig, Error> {
        let mut config = rustls::ClientConfig::clone(with_http2);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config.into())
    }

    #[cfg(not(feature = "rustls"))]
    fn without_http2(tls: &TlsConfig, _: &ClientConfig) -> Result<ClientConfig, Error> {
        tls::client_config(tls, &["http/1.1"])
    }

    pub(in super::super) fn with<S>(connector: Connector<S>, config: Option<ClientConfig>) -> Connector<S>
    where
        S: Service<ConnectInfo<Uri>, Response = Connection<Uri, Socket>, Error = ConnectError> + Clone + 'static,
    {
        match config {
            #[cfg(feature = "rustls")]
            Some(config) => connector.rustls_0_23(config),
            #[cfg(not(feature = "rustls"))]
            Some(config) => connector.openssl(config),
            None => connector,
        }
    }
}

#[cfg(not(any(feature = "rustls", feature = "openssl")))]
mod none {
    use std::convert::Infallible;

    use crate::{config::TlsConfig, error::Error};

    pub(in super::super) fn client_configs(_: &TlsConfig) -> Result<Option<[Infallible; 2]>, Error> {
        Ok(None)
    }

    pub(in super::super) fn with<C>(connector: C, _: Option<Infallible>) -> C {
        connector
    }
}
