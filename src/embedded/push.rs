//! Pushes changes over UDP to clients that requested a list with a UDP port.
//!
//! The life of a push:
//!
//! 1. A list request with `udpPort` and `clientIP`, from a client that takes pushes, makes a subscriber. Each
//!    further request renews the subscription.
//! 2. A change is gathered for [`push_delay`](super::EmbeddedServerBuilder::push_delay), so that several changes make
//!    one push. Then each subscriber gets the current list of its clusters.
//! 3. A push that is not acknowledged is sent once more, with its old content.
//! 4. A subscriber that has not asked for the list for
//!    [`subscriber_timeout`](super::EmbeddedServerBuilder::subscriber_timeout) gets no more pushes.
//!
//! | field of the datagram | meaning |
//! |---|---|
//! | `type` | `dom` |
//! | `data` | the list as JSON, in a string |
//! | `lastRefTime` | the server's `System.nanoTime()`; identifies the push, and is no time |
//!
//! An acknowledgement is `{"type":"push-ack","lastRefTime":"<the same>","data":""}`, sent back to the server's
//! port. Datagrams of 1 KiB and more are gzipped.

use std::{collections::HashMap, io::Write, net::SocketAddr, sync::Arc, time::Duration};

use flate2::{write::GzEncoder, Compression};
use serde::Deserialize;

use super::{
    active_faults::PushFate,
    agenda::{Due, PushId},
    agent::Agent,
    catalogue::{Instance, Service, ServiceKey},
    listing::{Delivery, ListRequest},
    pushes::{Audience, DelayedDatagram, Sent, Subscriber},
    state::State,
};
use crate::wire::datagram::Packet;

/// Datagrams of this size and above are compressed (`UdpPushService.compressIfNecessary`).
const COMPRESSED_FROM: usize = 1024;

/// How long a datagram waits at most for the datagram that is to overtake it.
const OVERTAKING_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Acknowledgement {
    r#type: String,
    last_ref_time: serde_json::Value,
}

impl State {
    /// Whether a list request with this port and user agent subscribes to pushes.
    pub(crate) fn subscribes(&self, agent: &Agent, udp_port: u16) -> bool {
        udp_port > 0 && agent.takes_pushes() && self.dialect().pushes()
    }

    pub(crate) fn subscribe(&mut self, key: &ServiceKey, address: SocketAddr, request: &ListRequest<'_>, app: &str) {
        let now = self.now();
        let is_v1_4 = self.dialect().is_v1_4();
        let service = Arc::new(key.clone());
        let (agent, clusters) = (request.agent.clone(), request.clusters.to_owned());
        let subscriber = Subscriber { address, agent, clusters, app: app.to_owned(), asked: now };
        let is_new = self.pushes.subscribe(service.clone(), subscriber, is_v1_4);
        // Since 2.x a new subscriber gets one push at the start (`NamingSubscriberServiceV2Impl`).
        if is_new && !is_v1_4 {
            self.gather(&service, Audience::Some(vec![address]));
        }
    }

    /// Shows and pushes a change of a service after the delays.
    pub(crate) fn changed(&mut self, service: &Arc<ServiceKey>) {
        self.renew_list_later(service);
        if self.pushes.subscribers.contains_key(service) {
            self.gather(service, Audience::All);
        }
    }

    /// Plans a push, unless one is planned. A planned push for some receivers becomes one for all if the service
    /// changes.
    fn gather(&mut self, service: &Arc<ServiceKey>, audience: Audience) {
        if self.pushes.is_paused {
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

    /// Sends no pushes until [`Pushes::resume`](super::pushes::Pushes::resume), and drops all queued pushes. Subscribers
    /// stay.
    pub(crate) fn pause_pushes(&mut self) {
        self.pushes.is_paused = true;
        self.pushes.forget_queued();
        self.agenda.discard(|due| matches!(due, Due::Push { .. } | Due::PushAgain(_) | Due::SendDelayed(_)));
    }

    /// Handles an event of a push. A server that hangs handles the event when it continues.
    pub(crate) fn push_due(&mut self, due: Due) {
        if self.pushes.hang() {
            self.pushes.postponed.push(due);
            return;
        }
        match due {
            Due::Push { service } => self.push(&service),
            Due::PushAgain(push) => self.push_again(push),
            Due::SendDelayed(push) => self.send_delayed(push),
            Due::CheckBeat { .. } | Due::CleanService { .. } | Due::RenewList { .. } => {}
        }
    }

    /// Handles the events that became due while the server hung, unless it still hangs.
    pub(crate) fn send_postponed(&mut self) {
        std::mem::take(&mut self.pushes.postponed).into_iter().for_each(|due| self.push_due(due));
    }

    /// Sends the current list to the subscribers.
    fn push(&mut self, service: &ServiceKey) {
        let Some(audience) = self.pushes.gathering.remove(service) else { return };
        let (checked, timeout) = (self.last_subscriber_check(), self.settings.subscriber_timeout());
        let Some(subscribers) = self.pushes.subscribers.get_mut(service) else { return };
        subscribers.retain(|subscriber| checked.saturating_sub(subscriber.asked) <= timeout);
        if subscribers.is_empty() {
            self.pushes.subscribers.remove(service);
            return;
        }
        self.renew_list(service);
        let visible = self.catalogue.service(service).map(Service::all_effective);
        for (to, list) in self.lists_for(service, visible.as_ref(), &audience) {
            self.push_to(to, &list);
        }
    }

    /// When the server last checked for subscribers whose time is up. 1.4 checks before every push
    /// (`PushClient.zombie`), 2.x and later every 5 seconds (`ExpiredClientCleaner`). With a short timeout, this server
    /// checks more often.
    fn last_subscriber_check(&self) -> Duration {
        let now = self.now();
        let interval = Duration::from_secs(5).min(self.settings.subscriber_timeout() / 6);
        if self.dialect().is_v1_4() || interval.is_zero() {
            return now;
        }
        let since = now.as_nanos() % interval.as_nanos();
        now - Duration::from_nanos(u64::try_from(since).unwrap_or(0))
    }

    /// Creates each list once per kind of subscriber, because a service may have thousands of subscribers.
    fn lists_for(
        &self,
        service: &ServiceKey,
        visible: Option<&Arc<Vec<Instance>>>,
        audience: &Audience,
    ) -> Vec<(SocketAddr, Arc<str>)> {
        let mut lists: HashMap<(&str, bool), Arc<str>> = HashMap::new();
        let mut addressed = Vec::new();
        for subscriber in self.pushes.subscribers.get(service).into_iter().flatten() {
            if !audience.includes(&subscriber.address) {
                continue;
            }
            let kind = (subscriber.clusters.as_str(), subscriber.agent.gets_grouped_names());
            let list = match lists.get(&kind) {
                Some(list) => list.clone(),
                None => {
                    let request = ListRequest {
                        clusters: &subscriber.clusters,
                        healthy_only: false,
                        agent: &subscriber.agent,
                        delivery: Delivery::Push,
                    };
                    match self.list(service, visible.cloned(), &request) {
                        Ok(list) => lists.entry(kind).or_insert(list.into()).clone(),
                        Err(_) => continue,
                    }
                }
            };
            addressed.push((subscriber.address, list));
        }
        addressed
    }

    /// Sends one new push, and plans its repetition.
    fn push_to(&mut self, to: SocketAddr, list: &str) {
        let push = PushId { to, last_ref_time: self.pushes.next_ref_time(self.clock.now()) };
        let datagram = Packet { kind: "dom".into(), data: Some(list.into()), last_ref_time: push.last_ref_time };
        let Ok(datagram) = serde_json::to_vec(&datagram).map_err(Into::into).and_then(compress) else { return };
        let datagram: Arc<[u8]> = datagram.into();
        self.pushes.unacknowledged.insert(push, Sent { datagram: datagram.clone(), sent_again: false });
        self.counters.pushes_sent += 1;
        self.agenda.enter(self.now() + self.settings.push_retry, Due::PushAgain(push));
        self.put_on_the_wire(push, datagram);
    }

    /// Sends an unacknowledged datagram again, with its old list, unless it has been sent twice.
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

    /// Sends a datagram as the faults allow.
    fn put_on_the_wire(&mut self, push: PushId, datagram: Arc<[u8]>) {
        let overtaken = self.pushes.overtaken(push.to);
        match self.pushes.fate() {
            PushFate::Sent => self.pushes.send(push.to, &datagram),
            PushFate::Dropped => {}
            PushFate::Doubled => (0..2).for_each(|_| self.pushes.send(push.to, &datagram)),
            PushFate::Delayed(by) => self.delay(push, DelayedDatagram { datagram, is_overtaken: false }, by),
            PushFate::Overtaken => {
                self.delay(push, DelayedDatagram { datagram, is_overtaken: true }, OVERTAKING_TIMEOUT);
                return;
            }
        }
        overtaken.into_iter().for_each(|overtaken| self.send_delayed(overtaken));
    }

    fn delay(&mut self, push: PushId, delayed: DelayedDatagram, by: Duration) {
        self.pushes.delayed.insert(push, delayed);
        self.agenda.enter(self.now() + by, Due::SendDelayed(push));
    }

    fn send_delayed(&mut self, push: PushId) {
        if let Some(delayed) = self.pushes.delayed.remove(&push) {
            self.pushes.send(push.to, &delayed.datagram);
        }
    }

    /// Handles a received datagram. Ignores everything except acknowledgements.
    pub(crate) fn acknowledge(&mut self, from: SocketAddr, datagram: &[u8]) {
        let Ok(Acknowledgement { r#type, last_ref_time }) = serde_json::from_slice(datagram) else { return };
        let last_ref_time = last_ref_time.as_i64().or_else(|| last_ref_time.as_str()?.parse().ok());
        let (true, Some(last_ref_time)) = (r#type == "push-ack", last_ref_time) else { return };
        if self.pushes.unacknowledged.remove(&PushId { to: from, last_ref_time }).is_some() {
            self.counters.pushes_acknowledged += 1;
        }
    }
}

/// Nacos compresses only large datagrams. Clients recognise gzip by its first two bytes.
fn compress(datagram: Vec<u8>) -> std::io::Result<Vec<u8>> {
    if datagram.len() < COMPRESSED_FROM {
        return Ok(datagram);
    }
    let mut compressed = GzEncoder::new(Vec::new(), Compression::default());
    compressed.write_all(&datagram)?;
    compressed.finish()
}
