//! Changes are pushed over UDP to those who asked for a list with a port.

use std::{
    collections::{HashMap, HashSet},
    io::Write,
    net::{SocketAddr, UdpSocket},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use flate2::{write::GzEncoder, Compression};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    agent::Agent,
    catalogue::{Instance, Service, ServiceKey},
    faults::{Orders, PushFate},
    listing::{Asked, Told},
    state::{Due, State},
};

/// Datagrams of this size and above are packed (`UdpPushService.compressIfNecessary`).
const PACKED_FROM: usize = 1024;

/// How long a datagram waits at most for one that it lets pass.
const LETS_PASS_FOR: Duration = Duration::from_secs(1);

/// A push is known by where it goes and by its own `lastRefTime`, which its acknowledgement repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PushId {
    to: SocketAddr,
    last_ref_time: i64,
}

struct Subscriber {
    address: SocketAddr,
    agent: Agent,
    clusters: String,
    /// What the client says it is.
    app: String,
    asked: Duration,
}

impl Subscriber {
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

/// For whom changes are being gathered.
enum Audience {
    All,
    /// Those who have just subscribed.
    Some(Vec<SocketAddr>),
}

struct Sent {
    datagram: Arc<[u8]>,
    sent_again: bool,
}

/// Held back by a fault.
struct HeldBack {
    datagram: Arc<[u8]>,
    /// Goes out right after the next one to the same receiver.
    is_overtaken: bool,
}

pub(crate) struct Pushes {
    socket: UdpSocket,
    orders: Arc<Mutex<Orders>>,
    subscribers: HashMap<Arc<ServiceKey>, Vec<Subscriber>>,
    gathering: HashMap<Arc<ServiceKey>, Audience>,
    unacknowledged: HashMap<PushId, Sent>,
    held_back: HashMap<PushId, HeldBack>,
    /// What fell due while the server hung.
    postponed: Vec<Due>,
    /// While the server refuses connections it sends nothing.
    is_silent: bool,
    last_ref_time: i64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Datagram<'a> {
    r#type: &'a str,
    /// The list as text, not as an object.
    data: &'a str,
    last_ref_time: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Acknowledgement {
    r#type: String,
    last_ref_time: serde_json::Value,
}

impl Pushes {
    /// `socket` must not block.
    pub(crate) fn new(socket: UdpSocket, orders: Arc<Mutex<Orders>>) -> Self {
        Pushes {
            socket,
            orders,
            subscribers: HashMap::new(),
            gathering: HashMap::new(),
            unacknowledged: HashMap::new(),
            held_back: HashMap::new(),
            postponed: Vec::new(),
            is_silent: false,
            last_ref_time: 0,
        }
    }

    pub(crate) fn forget_subscribers(&mut self) {
        self.subscribers.clear();
        self.forget_queued();
    }

    fn forget_queued(&mut self) {
        self.gathering.clear();
        self.unacknowledged.clear();
        self.held_back.clear();
        self.postponed.clear();
    }

    pub(crate) fn speak(&mut self) {
        self.is_silent = false;
    }

    /// Whether a fault lets the whole server hang.
    fn hang(&self) -> bool {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).hang(None)
    }

    pub(crate) fn subscribers(&self, service: &ServiceKey) -> usize {
        self.subscribers.get(service).map_or(0, Vec::len)
    }

    /// All subscribers of all services.
    pub(crate) fn subscriptions(&self) -> usize {
        self.subscribers.values().map(Vec::len).sum()
    }

    /// How many addresses are pushed to.
    pub(crate) fn receivers(&self) -> usize {
        self.subscribers.values().flatten().map(|subscriber| subscriber.address).collect::<HashSet<_>>().len()
    }

    /// Subscribers of the services of a namespace whose group and name contain what is given, with what is known of
    /// them.
    pub(crate) fn described(&self, asked: &ServiceKey, is_v1_4: bool) -> Vec<serde_json::Value> {
        let ServiceKey { namespace, service: part } = asked;
        let met = self.subscribers.iter().filter(|(key, _)| {
            key.namespace == *namespace
                && key.service.group.contains(&part.group)
                && key.service.name.contains(&part.name)
        });
        met.flat_map(|(key, subscribers)| subscribers.iter().map(move |s| s.described(key, is_v1_4))).collect()
    }

    /// True for one that was not subscribed yet. Since 2.x an address is one subscriber of a service, whatever clusters
    /// it asks for; on 1.4 it is one for each (`PushClient`).
    fn subscribe(&mut self, service: Arc<ServiceKey>, subscriber: Subscriber, by_clusters: bool) -> bool {
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

    /// Java's `System.nanoTime()`: only told apart and repeated, never read as a time.
    fn next_ref_time(&mut self, now: Duration) -> i64 {
        self.last_ref_time = (self.last_ref_time + 1).max(now.as_nanos() as i64);
        self.last_ref_time
    }

    /// UDP: what cannot be sent is lost.
    fn send(&self, to: SocketAddr, datagram: &[u8]) {
        let _ = self.socket.send_to(datagram, to);
    }

    fn overtaken(&self, to: SocketAddr) -> Vec<PushId> {
        let held = self.held_back.iter().filter(|(push, held)| push.to == to && held.is_overtaken);
        held.map(|(push, _)| *push).collect()
    }

    fn fate(&self) -> PushFate {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).push_fate()
    }
}

impl State {
    /// Whether a list request with this port and agent is one to push to.
    pub(crate) fn subscribes(&self, agent: &Agent, udp_port: u16) -> bool {
        udp_port > 0 && agent.takes_pushes() && self.dialect().pushes()
    }

    pub(crate) fn subscribe(&mut self, key: &ServiceKey, address: SocketAddr, asked: &Asked<'_>, app: &str) {
        let now = self.now();
        let is_v1_4 = self.dialect().is_v1_4();
        let service = Arc::new(key.clone());
        let (agent, clusters) = (asked.agent.clone(), asked.clusters.to_owned());
        let subscriber = Subscriber { address, agent, clusters, app: app.to_owned(), asked: now };
        let is_new = self.pushes.subscribe(service.clone(), subscriber, is_v1_4);
        // Since 2.x a new subscriber is pushed to once for a start (`NamingSubscriberServiceV2Impl`).
        if is_new && !is_v1_4 {
            self.gather(&service, Audience::Some(vec![address]));
        }
    }

    /// The list of a service has changed.
    pub(crate) fn changed(&mut self, service: &Arc<ServiceKey>) {
        self.renew_list_later(service);
        if self.pushes.subscribers.contains_key(service) {
            self.gather(service, Audience::All);
        }
    }

    fn gather(&mut self, service: &Arc<ServiceKey>, audience: Audience) {
        if self.pushes.is_silent {
            return;
        }
        match (self.pushes.gathering.get_mut(service), audience) {
            (None, audience) => {
                self.pushes.gathering.insert(service.clone(), audience);
                let at = self.now() + self.settings.push_delay();
                self.agenda.enter(at, Due::Push { service: service.clone() });
            }
            (Some(Audience::Some(gathered)), Audience::Some(more)) => gathered.extend(more),
            (Some(gathered), _) => *gathered = Audience::All,
        }
    }

    /// Pushes nothing until [`Pushes::speak`], and forgets what was queued. Subscribers stay.
    pub(crate) fn fall_silent(&mut self) {
        self.pushes.is_silent = true;
        self.pushes.forget_queued();
        self.agenda.discard(|due| matches!(due, Due::Push { .. } | Due::PushAgain(_) | Due::LetGo(_)));
    }

    /// A push, or a part of one, is due. A server that hangs sends it when it goes on.
    pub(crate) fn push_due(&mut self, due: Due) {
        if self.pushes.hang() {
            self.pushes.postponed.push(due);
            return;
        }
        match due {
            Due::Push { service } => self.push(&service),
            Due::PushAgain(push) => self.push_again(push),
            Due::LetGo(push) => self.let_go(push),
            Due::CheckBeat { .. } | Due::CleanService { .. } | Due::RenewList { .. } => {}
        }
    }

    /// Sends what fell due while the server hung, unless it still hangs.
    pub(crate) fn send_postponed(&mut self) {
        std::mem::take(&mut self.pushes.postponed).into_iter().for_each(|due| self.push_due(due));
    }

    /// Tells the subscribers what the list is now.
    fn push(&mut self, service: &ServiceKey) {
        let Some(audience) = self.pushes.gathering.remove(service) else { return };
        let (noticed, timeout) = (self.last_look_at_subscribers(), self.settings.subscriber_timeout());
        let Some(subscribers) = self.pushes.subscribers.get_mut(service) else { return };
        subscribers.retain(|subscriber| noticed.saturating_sub(subscriber.asked) <= timeout);
        if subscribers.is_empty() {
            self.pushes.subscribers.remove(service);
            return;
        }
        self.renew_list(service);
        let shown = self.catalogue.service(service).map(Service::all_shown);
        for (to, list) in self.lists_for(service, shown.as_ref(), &audience) {
            self.push_to(to, &list);
        }
    }

    /// When the server last looked for subscribers whose time was up. 1.4 looks before every push (`PushClient.zombie`),
    /// later Nacos every 5 seconds (`ExpiredClientCleaner`); more often here if the timeout is short.
    fn last_look_at_subscribers(&self) -> Duration {
        let now = self.now();
        let interval = Duration::from_secs(5).min(self.settings.subscriber_timeout() / 6);
        if self.dialect().is_v1_4() || interval.is_zero() {
            return now;
        }
        let since = now.as_nanos() % interval.as_nanos();
        now - Duration::from_nanos(u64::try_from(since).unwrap_or(0))
    }

    /// Lists are written once for each kind of subscriber: a service may have thousands.
    fn lists_for(
        &self,
        service: &ServiceKey,
        shown: Option<&Arc<Vec<Instance>>>,
        audience: &Audience,
    ) -> Vec<(SocketAddr, Arc<str>)> {
        let mut lists: HashMap<(&str, bool), Arc<str>> = HashMap::new();
        let mut told = Vec::new();
        for subscriber in self.pushes.subscribers.get(service).into_iter().flatten() {
            if !audience.includes(&subscriber.address) {
                continue;
            }
            let kind = (subscriber.clusters.as_str(), subscriber.agent.gets_grouped_names());
            let list = match lists.get(&kind) {
                Some(list) => list.clone(),
                None => {
                    let asked = Asked {
                        clusters: &subscriber.clusters,
                        healthy_only: false,
                        agent: &subscriber.agent,
                        told: Told::ByPush,
                    };
                    match self.list(service, shown.cloned(), &asked) {
                        Ok(list) => lists.entry(kind).or_insert(list.into()).clone(),
                        Err(_) => continue,
                    }
                }
            };
            told.push((subscriber.address, list));
        }
        told
    }

    fn push_to(&mut self, to: SocketAddr, list: &str) {
        let push = PushId { to, last_ref_time: self.pushes.next_ref_time(self.clock.now()) };
        let datagram = Datagram { r#type: "dom", data: list, last_ref_time: push.last_ref_time };
        let Ok(datagram) = serde_json::to_vec(&datagram).map_err(Into::into).and_then(pack) else { return };
        let datagram: Arc<[u8]> = datagram.into();
        self.pushes.unacknowledged.insert(push, Sent { datagram: datagram.clone(), sent_again: false });
        self.counters.pushes_sent += 1;
        self.agenda.enter(self.now() + self.settings.push_retry, Due::PushAgain(push));
        self.put_on_the_wire(push, datagram);
    }

    /// Nobody has acknowledged: the same datagram goes out once more, however old its list is by now.
    fn push_again(&mut self, push: PushId) {
        let Some(sent) = self.pushes.unacknowledged.get_mut(&push) else { return };
        if std::mem::replace(&mut sent.sent_again, true) {
            self.pushes.unacknowledged.remove(&push);
            return;
        }
        let datagram = sent.datagram.clone();
        self.counters.pushes_sent_again += 1;
        self.agenda.enter(self.now() + self.settings.push_retry, Due::PushAgain(push));
        self.put_on_the_wire(push, datagram);
    }

    fn put_on_the_wire(&mut self, push: PushId, datagram: Arc<[u8]>) {
        let overtaken = self.pushes.overtaken(push.to);
        match self.pushes.fate() {
            PushFate::Sent => self.pushes.send(push.to, &datagram),
            PushFate::Dropped => {}
            PushFate::Doubled => (0..2).for_each(|_| self.pushes.send(push.to, &datagram)),
            PushFate::Delayed(by) => self.hold_back(push, HeldBack { datagram, is_overtaken: false }, by),
            PushFate::Overtaken => {
                self.hold_back(push, HeldBack { datagram, is_overtaken: true }, LETS_PASS_FOR);
                return;
            }
        }
        overtaken.into_iter().for_each(|overtaken| self.let_go(overtaken));
    }

    fn hold_back(&mut self, push: PushId, held: HeldBack, by: Duration) {
        self.pushes.held_back.insert(push, held);
        self.agenda.enter(self.now() + by, Due::LetGo(push));
    }

    fn let_go(&mut self, push: PushId) {
        if let Some(held) = self.pushes.held_back.remove(&push) {
            self.pushes.send(push.to, &held.datagram);
        }
    }

    /// A datagram has come in: an acknowledgement, or nothing of ours.
    pub(crate) fn acknowledge(&mut self, from: SocketAddr, datagram: &[u8]) {
        let Ok(Acknowledgement { r#type, last_ref_time }) = serde_json::from_slice(datagram) else { return };
        let last_ref_time = last_ref_time.as_i64().or_else(|| last_ref_time.as_str()?.parse().ok());
        let (true, Some(last_ref_time)) = (r#type == "push-ack", last_ref_time) else { return };
        if self.pushes.unacknowledged.remove(&PushId { to: from, last_ref_time }).is_some() {
            self.counters.pushes_acknowledged += 1;
        }
    }
}

impl Audience {
    fn includes(&self, address: &SocketAddr) -> bool {
        match self {
            Audience::All => true,
            Audience::Some(addresses) => addresses.contains(address),
        }
    }
}

fn pack(datagram: Vec<u8>) -> std::io::Result<Vec<u8>> {
    if datagram.len() < PACKED_FROM {
        return Ok(datagram);
    }
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    packed.write_all(&datagram)?;
    packed.finish()
}
