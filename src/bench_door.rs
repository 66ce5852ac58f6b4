//! The door by which `benches/` reach what is inside: they are another crate, and what they measure is no API. Only with
//! the feature `embedded`, and in no documentation.
#![allow(missing_docs)]

use actix::{Actor, Addr, Context, Handler, Recipient, ResponseFuture};

use crate::{
    change::ServiceChanged,
    config::{Config, Protocol},
    grid::Grid,
    instance::{Instance, InstanceKey},
    listeners::Listener,
    nacos::{
        exchange::{Answer, Request},
        v1, Listed, Origin,
    },
    push::{PushContent, PushMessage},
    service::{Difference, ServiceInfo, ServiceName},
    subscriber::{Listen, PollList, PushedList, Settings, Subscriber, Watched},
    supervise, Error,
};

/// How many instances differ.
pub fn difference(old: &ServiceInfo, new: &ServiceInfo) -> usize {
    let Difference { added, changed, removed } = Difference::between(&old.hosts, &new.hosts);
    added.len() + changed.len() + removed.len()
}

/// An answer of a v1 server.
pub struct Answered(Answer);

impl Answered {
    pub fn new(body: impl Into<Vec<u8>>) -> Self {
        Answered(Answer { status: 200, body: body.into() })
    }

    pub fn list(&self, service: &ServiceName) -> Option<ServiceInfo> {
        v1::read_list(&self.0, service).ok()
    }

    pub fn beat_code(&self) -> Option<i64> {
        v1::read_beat(&self.0).ok().map(|reply| reply.code)
    }
}

/// How many instances a push tells.
pub fn pushed(datagram: &[u8]) -> Option<usize> {
    match PushMessage::decode(datagram).ok()?.content {
        PushContent::List(list) => Some(list.hosts.len()),
        _ => None,
    }
}

/// How long the request of a beat is: full with `values`, else light.
pub fn beat(key: &InstanceKey, values: Option<&Instance>) -> usize {
    let Request { path, query, .. } = v1::beat("public", key, values);
    path.len() + query.len()
}

/// A subscription without a server: it is told by pushes alone.
pub struct Watch {
    subscriber: Addr<Subscriber>,
    _server: Addr<SilentServer>,
}

impl Watch {
    pub fn start(service: ServiceName, listeners: impl IntoIterator<Item = Recipient<ServiceChanged>>) -> Self {
        let config = Config::disabled();
        let watched = Watched { service: service.clone(), clusters: String::new() };
        let server = SilentServer.start();
        let settings = Settings::new(&config, &watched, Grid::new());
        let subscriber = Subscriber::new(service, String::new(), server.downgrade().recipient(), settings);
        let subscriber = supervise::start(subscriber, 16, config.logger);
        listeners.into_iter().for_each(|listener| subscriber.do_send(Listen(Listener::Strong(listener))));
        Watch { subscriber, _server: server }
    }

    pub fn push(&self, info: ServiceInfo) {
        let origin = Origin { server: "bench".into(), protocol: Protocol::V1, outages: 0 };
        self.subscriber.do_send(PushedList(Listed { info, origin, idle_end: None }));
    }
}

struct SilentServer;

impl Actor for SilentServer {
    type Context = Context<Self>;
}

impl Handler<PollList> for SilentServer {
    type Result = ResponseFuture<Result<Listed, Error>>;

    fn handle(&mut self, _: PollList, _: &mut Context<Self>) -> Self::Result {
        Box::pin(std::future::pending())
    }
}
