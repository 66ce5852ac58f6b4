//! A balancer of tower that follows the list of a service: `cargo run --example tower`.
//!
//! [`endpoints`] makes tower's `Discover` from a view, which tower's own balancers take, too, such as
//! `tower::balance::p2c::Balance`. For tonic, send each change to the sender of `Channel::balance_channel`.

mod cli;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    future::{poll_fn, ready, Ready},
    pin::Pin,
    process::ExitCode,
    task::{ready, Context, Poll},
    time::Duration,
};

use actix_nacos::{embedded::EmbeddedServer, prelude::*, InstanceChange};
use futures_util::stream::StreamExt;
use tower::{
    discover::{Change, Discover as DiscoverEndpoints},
    Service,
};

const HELP: &str = "\
Calls instances by a balancer of tower while instances come and go.

Usage: tower [OPTIONS]

  --help  print this";

/// The service of tower for one instance. A real one would send the request.
struct Endpoint(String);

impl Service<&str> for Endpoint {
    type Response = String;
    type Error = Infallible;
    type Future = Ready<Result<String, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, path: &str) -> Self::Future {
        ready(Ok(format!("{path} at {}", self.0)))
    }
}

/// The endpoints of a view's instances by their addresses. The stream has disabled and unhealthy instances, too, unless
/// the view filters them.
fn endpoints(view: &ServiceView) -> impl DiscoverEndpoints<Key = String, Service = Endpoint, Error = Infallible> {
    view.changes().map(|change| {
        Ok(match change {
            InstanceChange::Removed(instance) => Change::Remove(instance.authority()),
            InstanceChange::Added(instance) | InstanceChange::Changed { now: instance, .. } => {
                Change::Insert(instance.authority(), Endpoint(instance.authority()))
            }
        })
    })
}

/// Calls one endpoint after the other.
struct InTurn<D: DiscoverEndpoints> {
    discover: Pin<Box<D>>,
    endpoints: BTreeMap<D::Key, D::Service>,
    turn: usize,
}

impl<D> InTurn<D>
where
    D: DiscoverEndpoints<Key = String, Service = Endpoint, Error = Infallible>,
{
    /// Waits until there are so many endpoints.
    async fn until(&mut self, count: usize) {
        poll_fn(|context| loop {
            if self.endpoints.len() == count {
                return Poll::Ready(());
            }
            match ready!(self.discover.as_mut().poll_discover(context)) {
                Some(Ok(Change::Insert(address, endpoint))) => {
                    println!("+ {address}");
                    self.endpoints.insert(address, endpoint);
                }
                Some(Ok(Change::Remove(address))) => {
                    println!("- {address}");
                    self.endpoints.remove(&address);
                }
                None => return Poll::Ready(()),
            }
        })
        .await;
    }

    async fn call(&mut self, path: &str) -> Option<String> {
        self.turn += 1;
        let turn = self.turn % self.endpoints.len().max(1);
        let endpoint = self.endpoints.values_mut().nth(turn)?;
        let Ok(()) = poll_fn(|context| endpoint.poll_ready(context)).await;
        let Ok(answer) = endpoint.call(path).await;
        Some(answer)
    }
}

#[actix::main]
async fn main() -> ExitCode {
    cli::log_to_stderr();
    cli::Arguments::read(HELP).finish();
    cli::ended(run().await)
}

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let nacos = EmbeddedServer::start()?;
    let registry = Registry::start(Config::new(nacos.server_address()))?;
    for port in [8080, 8081, 8082] {
        registry.send(RegisterInstance::new("orders", "127.0.0.7", port)).await??;
    }
    let orders = registry.send(Discover::new("orders").only(|instance| instance.healthy)).await??;
    let mut balancer = InTurn { discover: Box::pin(endpoints(&orders)), endpoints: BTreeMap::new(), turn: 0 };
    balancer.until(3).await;
    for _ in 0..3 {
        println!("{:?}", balancer.call("/items").await);
    }
    registry.send(DeregisterInstance::new("orders", "127.0.0.7", 8081)).await??;
    actix_rt::time::timeout(Duration::from_secs(10), balancer.until(2)).await?;
    println!("{:?}", balancer.call("/items").await);
    registry.send(Shutdown::default()).await??;
    Ok(())
}
