//! The subscribers to pushes, and the pushes under way.
//!
//! This file has the state that `push` works on: the subscribers, the gathered changes, the pushes that wait for an
//! acknowledgement, and the datagrams that a fault delays. It also has the socket.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde_json::json;

use super::{
    active_faults::{ActiveFaults, PushFate},
    agenda::{Due, PushId},
    agent::Agent,
    catalogue::ServiceKey,
};
use crate::runtime::sockets::StdUdpSocket;

/// A receiver of pushes of one service. `asked` is when it last requested the list, by the server's clock.
pub(super) struct Subscriber {
    pub(super) address: SocketAddr,
    pub(super) agent: Agent,
    pub(super) clusters: String,
    /// The name that the client gave itself.
    pub(super) app: String,
    pub(super) asked: Duration,
}

impl Subscriber {
    /// As `/v1/ns/service/subscribers` shows it.
    fn described(&self, key: &ServiceKey, is_v1_4: bool) -> serde_json::Value {
        let mut described = json!({
            "addrStr": self.address.to_string(),
            "agent": self.agent.text(),
            "app": self.app,
            "ip": self.address.ip().to_string(),
            "namespaceId": key.namespace,
            "serviceName": key.service.to_string(),
        });
        if !is_v1_4 {
            described["port"] = json!(self.address.port());
            described["cluster"] = json!(self.clusters);
        }
        described
    }
}

/// The receivers for whom changes are collected.
pub(super) enum Audience {
    All,
    /// Only new subscribers.
    Some(Vec<SocketAddr>),
}

/// A push that waits for its acknowledgement, with its datagram for a second sending.
pub(super) struct Sent {
    pub(super) datagram: Arc<[u8]>,
    pub(super) sent_again: bool,
}

/// A datagram that a fault delays.
pub(super) struct DelayedDatagram {
    pub(super) datagram: Arc<[u8]>,
    /// Sent right after the next datagram to the same receiver.
    pub(super) is_overtaken: bool,
}

/// All subscribers, and the pushes on their way. Lists are made when they are sent, not when the change happens.
pub(crate) struct Pushes {
    socket: StdUdpSocket,
    faults: Arc<Mutex<ActiveFaults>>,
    pub(super) subscribers: HashMap<Arc<ServiceKey>, Vec<Subscriber>>,
    pub(super) gathering: HashMap<Arc<ServiceKey>, Audience>,
    pub(super) unacknowledged: HashMap<PushId, Sent>,
    pub(super) delayed: BTreeMap<PushId, DelayedDatagram>,
    /// Events that became due while the server hung.
    pub(super) postponed: Vec<Due>,
    /// Whether pushes are paused, because the server refuses connections.
    pub(super) is_paused: bool,
    last_ref_time: i64,
}

impl Pushes {
    /// `socket` must be non-blocking.
    pub(crate) fn new(socket: StdUdpSocket, faults: Arc<Mutex<ActiveFaults>>) -> Self {
        Pushes {
            socket,
            faults,
            subscribers: HashMap::new(),
            gathering: HashMap::new(),
            unacknowledged: HashMap::new(),
            delayed: BTreeMap::new(),
            postponed: Vec::new(),
            is_paused: false,
            last_ref_time: 0,
        }
    }

    /// Removes all subscribers, like a restart. Nothing is pushed until lists are requested again.
    pub(crate) fn forget_subscribers(&mut self) {
        self.subscribers.clear();
        self.forget_queued();
    }

    pub(super) fn forget_queued(&mut self) {
        self.gathering.clear();
        self.unacknowledged.clear();
        self.delayed.clear();
        self.postponed.clear();
    }

    pub(crate) fn resume(&mut self) {
        self.is_paused = false;
    }

    /// Whether a fault makes the whole server hang.
    pub(super) fn hang(&self) -> bool {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).hang(None)
    }

    pub(crate) fn subscribers(&self, service: &ServiceKey) -> usize {
        self.subscribers.get(service).map_or(0, Vec::len)
    }

    /// The number of subscriptions to all services.
    pub(crate) fn subscriptions(&self) -> usize {
        self.subscribers.values().map(Vec::len).sum()
    }

    /// The number of addresses that get pushes.
    pub(crate) fn receivers(&self) -> usize {
        self.subscribers.values().flatten().map(|subscriber| subscriber.address).collect::<HashSet<_>>().len()
    }

    /// Descriptions of the subscribers of all services whose group and name contain those of `pattern`.
    pub(crate) fn described(&self, pattern: &ServiceKey, is_v1_4: bool) -> Vec<serde_json::Value> {
        let ServiceKey { namespace, service: part } = pattern;
        let matching = self.subscribers.iter().filter(|(key, _)| {
            key.namespace == *namespace
                && key.service.group.contains(part.group.as_str())
                && key.service.name.contains(part.name.as_str())
        });
        matching.flat_map(|(key, subscribers)| subscribers.iter().map(move |s| s.described(key, is_v1_4))).collect()
    }

    /// Returns whether the subscriber is new. Since 2.x an address is one subscriber of a service, whatever clusters it
    /// requests. On 1.4 it is one subscriber for each clusters text (`PushClient`).
    pub(super) fn subscribe(&mut self, service: Arc<ServiceKey>, subscriber: Subscriber, by_clusters: bool) -> bool {
        let known = self.subscribers.entry(service).or_default();
        let same = |other: &&mut Subscriber| {
            other.address == subscriber.address && (!by_clusters || other.clusters == subscriber.clusters)
        };
        match known.iter_mut().find(same) {
            Some(known) => {
                *known = subscriber;
                false
            }
            None => {
                known.push(subscriber);
                true
            }
        }
    }

    /// Stands for Java's `System.nanoTime()`: clients only compare and repeat it, and never read it as a time.
    pub(super) fn next_ref_time(&mut self, now: Duration) -> i64 {
        self.last_ref_time = (self.last_ref_time + 1).max(now.as_nanos() as i64);
        self.last_ref_time
    }

    /// Ignores errors: a datagram that cannot be sent is lost.
    pub(super) fn send(&self, to: SocketAddr, datagram: &[u8]) {
        let _ = self.socket.send_to(datagram, to);
    }

    /// The pushes to this receiver that wait until another one has overtaken them.
    pub(super) fn overtaken(&self, to: SocketAddr) -> Vec<PushId> {
        let held = self.delayed.iter().filter(|(push, held)| push.to == to && held.is_overtaken);
        held.map(|(push, _)| *push).collect()
    }

    /// What the active faults do to the datagram that is sent now.
    pub(super) fn fate(&self) -> PushFate {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).push_fate()
    }
}

impl Audience {
    pub(super) fn includes(&self, address: &SocketAddr) -> bool {
        match self {
            Audience::All => true,
            Audience::Some(addresses) => addresses.contains(address),
        }
    }
}
