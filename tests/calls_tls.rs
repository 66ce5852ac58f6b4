//! Calls by name with https: which certificates are accepted, on HTTP/1 and HTTP/2.
#![cfg(any(feature = "rustls", feature = "openssl"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use actix::Addr;
use actix_nacos::{
    balance::{Client, ClientBuilder},
    RegisterInstance, Registry, TlsConfig,
};
use actix_web::{http::Version, web, App, HttpRequest, HttpServer};
use awc::error::{ConnectError, SendRequestError};
use futures_util::StreamExt as _;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use support::{ask, registry, server, soon, unique};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{
    rustls::{crypto::ring, pki_types::PrivateKeyDer, ServerConfig},
    TlsAcceptor,
};

/// A certificate authority that lives for one test.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: PathBuf,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = std::env::temp_dir().join(unique("calls-tls"));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("ca.pem"), issuer.pem()).unwrap();
        Authority { issuer, folder }
    }

    fn trusted(&self) -> TlsConfig {
        TlsConfig::default().ca_file(self.folder.join("ca.pem"))
    }

    /// Starts an https server that speaks `protocol`, with a certificate for `name`. It answers with the HTTP version
    /// and the host of the request.
    async fn serve(&self, name: &str, protocol: &str) -> u16 {
        let app = || App::new().default_service(web::to(answer));
        let plain = HttpServer::new(app).workers(1).bind_auto_h2c(("127.0.0.1", 0)).expect("a free port");
        let behind = plain.addrs()[0];
        actix_rt::spawn(plain.disable_signals().run());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let acceptor = self.acceptor(name, &[protocol]);
        actix_rt::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                actix_rt::spawn(pass_on(acceptor.clone(), stream, behind));
            }
        });
        port
    }

    /// Speaks HTTP/2 and HTTP/1.1 by what the client offers, and greets on WebSockets.
    async fn serve_websockets(&self, name: &str) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let acceptor = self.acceptor(name, &["h2", "http/1.1"]);
        actix_rt::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                actix_rt::spawn(greet(acceptor.clone(), stream));
            }
        });
        port
    }

    fn acceptor(&self, name: &str, protocols: &[&str]) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        // OpenSSL takes a certificate for self-signed if it has the same name as its authority.
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth();
        let mut config = builder.with_single_cert(vec![certificate.der().clone()], key).unwrap();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

async fn answer(request: HttpRequest) -> String {
    format!("{:?} {}", request.version(), request.connection_info().host())
}

async fn pass_on(acceptor: TlsAcceptor, stream: TcpStream, server: SocketAddr) -> std::io::Result<()> {
    let mut outside = acceptor.accept(stream).await?;
    let mut inside = TcpStream::connect(server).await?;
    tokio::io::copy_bidirectional(&mut outside, &mut inside).await.map(drop)
}

async fn greet(acceptor: TlsAcceptor, stream: TcpStream) -> std::io::Result<()> {
    let mut stream = acceptor.accept(stream).await?;
    let (mut head, mut buffer) = (String::new(), [0; 1024]);
    while !head.contains("\r\n\r\n") {
        let length = stream.read(&mut buffer).await?;
        head.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
    let key = head.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ")).unwrap_or_default();
    let accept = String::from_utf8(actix_http::ws::hash_key(key.as_bytes()).to_vec()).unwrap();
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: {accept}\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.write_all(b"\x81\x05hello").await?;
    while stream.read(&mut buffer).await? > 0 {}
    Ok(())
}

async fn register(registry: &Addr<Registry>, service: &str, port: u16, is_secure: bool) {
    let instance = RegisterInstance::new(service, "127.0.0.1", port);
    let instance = if is_secure { instance.metadata("secure", "true") } else { instance };
    ask(registry, instance).await.unwrap();
}

async fn get(client: ClientBuilder, url: String) -> Result<(Version, String), SendRequestError> {
    let mut answer = client.finish().get(url).send().await?;
    let body = answer.body().await.unwrap();
    Ok((answer.version(), String::from_utf8(body.to_vec()).unwrap()))
}

#[actix::test]
async fn the_certificate_of_the_service_is_accepted_and_another_one_rejected() {
    let (nacos, authority) = (server(), Authority::new());
    let registry = registry(&nacos);
    for (protocol, version) in [("http/1.1", Version::HTTP_11), ("h2", Version::HTTP_2)] {
        let service = unique("orders");
        register(&registry, &service, authority.serve(&service, protocol).await, true).await;
        let client = || Client::builder(&registry).service(&service).tls(authority.trusted());
        let (spoken, body) = get(client(), format!("http://{service}/")).await.unwrap();
        assert_eq!(spoken, version);
        assert!(body.starts_with(&format!("{version:?}")), "{body}");
        assert!(version == Version::HTTP_2 || body.ends_with(&service), "{body}");

        let other = unique("billing");
        register(&registry, &other, authority.serve("orders.example", protocol).await, true).await;
        let client = || Client::builder(&registry).service(&other).tls(authority.trusted());
        let error = get(client(), format!("http://{other}/")).await.unwrap_err();
        assert!(matches!(error, SendRequestError::Connect(ConnectError::Io(_))), "{error:?}");
        let named = client().certificate_name(|_| "orders.example".into());
        assert_eq!(get(named, format!("http://{other}/")).await.unwrap().0, version);
    }
}

#[actix::test]
async fn the_application_may_say_https_where_the_instance_does_not() {
    let (nacos, authority, service) = (server(), Authority::new(), unique("orders"));
    let registry = registry(&nacos);
    register(&registry, &service, authority.serve(&service, "http/1.1").await, false).await;
    let client = || Client::builder(&registry).service(&service);
    assert!(get(client().tls(authority.trusted()), format!("https://{service}/")).await.is_ok());
    let error = get(client(), format!("https://{service}/")).await.unwrap_err();
    assert!(matches!(error, SendRequestError::Connect(ConnectError::Io(_))), "its authority is unknown: {error:?}");
}

#[actix::test]
async fn two_services_at_one_address_need_a_certificate_each() {
    let (nacos, authority) = (server(), Authority::new());
    let registry = registry(&nacos);
    let (orders, billing) = (unique("orders"), unique("billing"));
    let port = authority.serve(&orders, "http/1.1").await;
    register(&registry, &orders, port, true).await;
    register(&registry, &billing, port, true).await;
    let http = Client::builder(&registry).service(&orders).service(&billing).tls(authority.trusted()).finish();
    let mut answer = http.get(format!("http://{orders}/")).send().await.unwrap();
    answer.body().await.unwrap();
    let error = http.get(format!("http://{billing}/")).send().await.unwrap_err();
    assert!(matches!(error, SendRequestError::Connect(ConnectError::Io(_))), "{error:?}");
    assert!(http.get(format!("http://{orders}/")).send().await.is_ok());
}

#[actix::test]
async fn a_websocket_is_opened_at_an_instance_that_prefers_http2() {
    let (nacos, authority, service) = (server(), Authority::new(), unique("orders"));
    let registry = registry(&nacos);
    register(&registry, &service, authority.serve_websockets(&service).await, true).await;
    let http = Client::builder(&registry).service(&service).tls(authority.trusted()).finish();
    for scheme in ["ws", "wss"] {
        let opening = http.ws(format!("{scheme}://{service}/")).connect();
        let (_, mut socket) = soon("the handshake", opening).await.unwrap();
        let frame = soon("a greeting", socket.next()).await.unwrap().unwrap();
        assert_eq!(frame, awc::ws::Frame::Text("hello".into()));
    }
}
