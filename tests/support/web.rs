//! HTTP servers that tests register and call as instances.

use std::{
    future::Future,
    sync::{
        atomic::{AtomicUsize, Ordering},
        Arc,
    },
};

use actix::Addr;
use actix_nacos::{RegisterInstance, Registry};
use actix_web::{dev::ServerHandle, web, App, HttpRequest, HttpResponse, HttpServer};

use super::ask;

pub const IP: &str = "127.0.0.1";

/// A server with one worker thread. It stops when this is dropped.
pub struct Web {
    pub port: u16,
    handle: ServerHandle,
    requests: Arc<AtomicUsize>,
}

impl Web {
    /// Answers every request with `answer`, which gets the whole body.
    pub fn start<F, A>(answer: F) -> Self
    where
        F: Fn(HttpRequest, web::Bytes) -> A + Clone + Send + 'static,
        A: Future<Output = HttpResponse> + 'static,
    {
        Web::start_at(0, answer)
    }

    pub fn start_at<F, A>(port: u16, answer: F) -> Self
    where
        F: Fn(HttpRequest, web::Bytes) -> A + Clone + Send + 'static,
        A: Future<Output = HttpResponse> + 'static,
    {
        let requests = Arc::new(AtomicUsize::new(0));
        let counted = requests.clone();
        let app = move || {
            let (answer, requests) = (answer.clone(), counted.clone());
            let handler = move |request, body| {
                requests.fetch_add(1, Ordering::AcqRel);
                answer(request, body)
            };
            App::new().app_data(web::PayloadConfig::new(1 << 24)).default_service(web::to(handler))
        };
        let server = HttpServer::new(app).workers(1).disable_signals().bind((IP, port)).expect("a free port");
        let port = server.addrs()[0].port();
        let server = server.run();
        let handle = server.handle();
        actix_rt::spawn(server);
        Web { port, handle, requests }
    }

    /// Answers every request with the server's port.
    pub fn with_its_port() -> Self {
        Web::start(|request: HttpRequest, _| async move {
            HttpResponse::Ok().body(request.app_config().local_addr().port().to_string())
        })
    }

    /// Answers every request with this status.
    pub fn with_status(status: u16) -> Self {
        let status = actix_web::http::StatusCode::from_u16(status).expect("a status");
        Web::start(move |_, _| async move { HttpResponse::new(status) })
    }

    /// Accepts requests and never answers.
    pub fn silent() -> Self {
        Web::start(|_, _| std::future::pending::<HttpResponse>())
    }

    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::Acquire)
    }

    pub async fn register(&self, registry: &Addr<Registry>, service: &str) {
        ask(registry, RegisterInstance::new(service, IP, self.port)).await.expect("registered");
    }

    /// Ends the server as a kill would: connections are closed at once.
    pub async fn kill(&self) {
        self.handle.stop(false).await;
    }

    /// Ends the server gracefully: requests under way are answered.
    pub async fn stop(&self) {
        self.handle.stop(true).await;
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        // The command is sent when `stop` is called. The future only waits for the end.
        drop(self.handle.stop(false));
    }
}
