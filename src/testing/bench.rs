//! Gives `benches/`, which are another crate, access to private parts of this one.
#![allow(missing_docs)]

use std::time::Instant;

use actix::{Actor, Addr, Context, Handler, Recipient, ResponseFuture, WeakRecipient};

use crate::{
    client::{request_counters::RequestCounters, Listed},
    config::Config,
    discovery::{
        listeners::Listener,
        subscriber::{Listen, PollList, PushedList, Settings, Subscriber},
        subscription::SubscriptionKey,
    },
    error::{Error, Operation},
    model::{
        change::ServiceChanged,
        histogram::Durations,
        instance::{Instance, InstanceKey},
        service::{Difference, ServiceInfo, ServiceName},
    },
    runtime::{history::History, supervision, timer_grid::Grid},
    wire::{
        datagram::{PushContent, PushMessage},
        exchange::{Answer, Request, WireProtocol},
        v1,
    },
};

/// How many instances differ between two lists.
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
        v1::read_list(&self.0).ok().map(|list| list.into_info(service))
    }

    pub fn beat_code(&self) -> Option<i64> {
        v1::read_beat(&self.0).ok().map(|reply| reply.code)
    }
}

/// How many instances a pushed list has.
pub fn pushed(datagram: &[u8]) -> Option<usize> {
    match PushMessage::decode(datagram, usize::MAX).1.ok()?.content {
        PushContent::List(list) => Some(list.hosts.len()),
        _ => None,
    }
}

/// The length of a heartbeat request in bytes: of a full one with `values`, else of a light one.
pub fn beat(key: &InstanceKey, values: Option<&Instance>) -> usize {
    let Request { path, query, .. } = v1::beat("public", key, values);
    path.len() + query.len()
}

/// The counters that one beat updates: its lateness, its result and its duration.
#[derive(Default)]
pub struct BeatCounters {
    requests: RequestCounters,
    lateness: Durations,
}

impl BeatCounters {
    pub fn count(&self, due: Instant, sent: Instant) {
        self.lateness.count(due.elapsed());
        self.requests.count(Operation::Beat, sent.elapsed(), &Ok(()));
    }
}

/// A subscription that polls its first list. Each further list is pushed.
pub struct Watch {
    subscriber: Addr<Subscriber>,
    _server: Addr<FirstList>,
}

impl Watch {
    pub fn start(first: ServiceInfo, listeners: impl IntoIterator<Item = Recipient<ServiceChanged>>) -> Self {
        Self::with(first, listeners.into_iter().map(Listener::Strong))
    }

    pub fn start_weak(first: ServiceInfo, listeners: impl IntoIterator<Item = WeakRecipient<ServiceChanged>>) -> Self {
        Self::with(first, listeners.into_iter().map(Listener::Weak))
    }

    fn with(first: ServiceInfo, listeners: impl Iterator<Item = Listener<ServiceChanged>>) -> Self {
        let config = Config::disabled();
        let subscription = SubscriptionKey { service: first.service(), clusters: String::new() };
        let settings = Settings::new(&config, &subscription, Grid::new(), History::new());
        let server = FirstList(Some(first)).start();
        let subscriber = Subscriber::new(subscription, server.downgrade().recipient(), settings);
        let subscriber = supervision::start(subscriber, 16, config.logger);
        listeners.for_each(|listener| subscriber.do_send(Listen(listener)));
        Watch { subscriber, _server: server }
    }

    pub fn push(&self, info: ServiceInfo) {
        self.subscriber.do_send(PushedList(listed(info)));
    }
}

fn listed(mut info: ServiceInfo) -> Listed {
    // Without a server time, a pushed list is always newer.
    info.last_ref_time = 0;
    Listed { info, epoch: Some(0), protocol: WireProtocol::V1 }
}

/// Answers the first poll, and leaves all others without an answer.
struct FirstList(Option<ServiceInfo>);

impl Actor for FirstList {
    type Context = Context<Self>;
}

impl Handler<PollList> for FirstList {
    type Result = ResponseFuture<Result<Listed, Error>>;

    fn handle(&mut self, _: PollList, _: &mut Context<Self>) -> Self::Result {
        match self.0.take() {
            Some(first) => Box::pin(std::future::ready(Ok(listed(first)))),
            None => Box::pin(std::future::pending()),
        }
    }
}
