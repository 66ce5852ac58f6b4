//! Servers behind https, with a test certificate authority and with client certificates.
#![cfg(any(feature = "rustls", feature = "openssl"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc};

use actix_nacos::{Config, Error, ListInstances, RegisterInstance, TlsConfig};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{
    rustls::{crypto::ring, pki_types::PrivateKeyDer, server::WebPkiClientVerifier, RootCertStore, ServerConfig},
    TlsAcceptor,
};

/// A certificate authority that lives for one test.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: PathBuf,
}

impl Authority {
    fn new(test: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a certificate");
        let folder = std::env::temp_dir().join(support::unique(test));
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join("ca.pem"), issuer.pem()).expect("a file");
        Authority { issuer, folder }
    }

    /// Issues a certificate for a host name or an IP address.
    fn issue(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        // OpenSSL takes a certificate for self-signed if it has the same name as its authority.
        params.distinguished_name.push(DnType::CommonName, name);
        (params.signed_by(&key, &self.issuer).expect("a certificate"), key)
    }

    fn ca_file(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Starts a TLS server that forwards to `server`.
async fn tls_in_front_of(server: SocketAddr, authority: &Authority, wants_client_certificate: bool) -> SocketAddr {
    tls_at("127.0.0.1", server, authority, wants_client_certificate).await
}

async fn tls_at(ip: &str, server: SocketAddr, authority: &Authority, wants_client_certificate: bool) -> SocketAddr {
    let (certificate, key) = authority.issue(ip);
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("protocol versions");
    let builder = if wants_client_certificate {
        let mut roots = RootCertStore::empty();
        roots.add(authority.issuer.der().clone()).expect("a root");
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
        builder.with_client_cert_verifier(verifier.expect("a verifier"))
    } else {
        builder.with_no_client_auth()
    };
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let config = builder.with_single_cert(vec![certificate.der().clone()], key).expect("a server certificate");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind((ip, 0)).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    actix_rt::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            actix_rt::spawn(pass_on(acceptor.clone(), stream, server));
        }
    });
    address
}

async fn pass_on(acceptor: TlsAcceptor, stream: TcpStream, server: SocketAddr) -> io::Result<()> {
    let mut outside = acceptor.accept(stream).await?;
    let mut inside = TcpStream::connect(server).await?;
    tokio::io::copy_bidirectional(&mut outside, &mut inside).await.map(drop)
}

fn config(address: SocketAddr, tls: TlsConfig) -> Config {
    Config::new(format!("https://{address}")).tls(tls).operation_timeout(support::ms(2000))
}

async fn register_and_list(config: Config) -> Result<usize, Error> {
    let registry = support::start(config);
    registry.send(RegisterInstance::new("orders", "127.0.0.7", 8080)).await??;
    let list = support::eventually("the instance is listed", || async {
        let list = registry.send(ListInstances::new("orders")).await.ok()?.ok()?;
        (!list.hosts.is_empty()).then_some(list)
    })
    .await;
    Ok(list.hosts.len())
}

#[actix::test]
async fn a_server_with_a_certificate_of_ones_own_authority_is_trusted_by_its_ca_file() -> Result<(), Error> {
    let server = support::builder().start().expect("a free port");
    let authority = Authority::new("ca");
    let address = tls_in_front_of(server.address(), &authority, false).await;
    let trusting = TlsConfig::default().ca_file(authority.ca_file());
    assert_eq!(register_and_list(config(address, trusting)).await?, 1);
    let refused = support::start(config(address, TlsConfig::default()));
    let error = refused.send(ListInstances::new("orders")).await?;
    assert!(matches!(error, Err(Error::Unreachable { .. })), "{error:?}");
    Ok(())
}

#[actix::test]
async fn a_server_with_an_ipv6_address_is_trusted_by_its_certificate() -> Result<(), Error> {
    let server = support::builder().start().expect("a free port");
    let authority = Authority::new("ipv6");
    let address = tls_at("::1", server.address(), &authority, false).await;
    let trusting = || TlsConfig::default().ca_file(authority.ca_file());
    assert_eq!(register_and_list(config(address, trusting())).await?, 1);
    let other = tls_in_front_of(server.address(), &authority, false).await;
    let wrong_name = Config::new(format!("https://localhost:{}", other.port())).operation_timeout(support::ms(2000));
    let error = support::start(wrong_name.tls(trusting())).send(ListInstances::new("orders")).await?;
    assert!(matches!(error, Err(Error::Unreachable { .. })), "the certificate is one of 127.0.0.1: {error:?}");
    Ok(())
}

#[actix::test]
async fn a_server_that_requires_a_client_certificate_gets_it() -> Result<(), Error> {
    let server = support::builder().start().expect("a free port");
    let authority = Authority::new("client");
    let address = tls_in_front_of(server.address(), &authority, true).await;
    let (certificate, key) = authority.issue("client");
    let (certificate_file, key_file) = (authority.folder.join("client.pem"), authority.folder.join("client.key"));
    std::fs::write(&certificate_file, certificate.pem()).expect("a file");
    std::fs::write(&key_file, key.serialize_pem()).expect("a file");
    let tls = TlsConfig::default().ca_file(authority.ca_file());
    assert_eq!(register_and_list(config(address, tls.client_certificate(&certificate_file, &key_file))).await?, 1);
    Ok(())
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let tls = TlsConfig::default().ca_file("/nowhere/ca.pem");
    let error = actix_nacos::Registry::start(Config::new("https://127.0.0.1:1").tls(tls)).err();
    assert!(error.as_ref().is_some_and(|error| error.to_string().contains("/nowhere/ca.pem")), "{error:?}");
}
