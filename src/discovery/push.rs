//! Lists that servers push by UDP: how a datagram reads, how it is acknowledged, and the actor that receives them.
//!
//! Nothing authenticates a datagram, and anybody can send one: whatever comes in costs bounded memory and a bounded share
//! of the thread's time, and a list is either what its text says or none.

use std::{
    cell::Cell,
    io::{self, Read},
    net::{IpAddr, SocketAddr},
    rc::Rc,
    time::Duration,
};

use actix::{prelude::*, WeakRecipient};
use actix_rt::{
    net::UdpSocket,
    time::{sleep, Instant},
};
use flate2::read::GzDecoder;
use futures_util::stream::{unfold, Stream};
use serde::{Deserialize, Serialize};

use crate::wire::v1::ListAnswer;

/// How much text, and how many datagrams, are decoded per second, of all sources together: a flood of datagrams must delay no
/// heartbeat. The longest list that fits into a datagram, of some 3,000 instances, has about half of these bytes.
const BYTES_PER_SECOND: usize = 2 * 1024 * 1024;
const DECODES_PER_SECOND: u32 = 1_000;
/// The part of both that untrusted sources may use. A server whose address was translated is one of them, too: polls bring
/// what it could not hint at.
const UNTRUSTED_BYTES_PER_SECOND: usize = 256 * 1024;
const UNTRUSTED_DECODES_PER_SECOND: u32 = 20;
/// Datagrams that were not decoded are reported at most so often.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// The largest that UDP can carry.
const LARGEST_DATAGRAM: usize = 65_535;
/// How many lists may wait for a recipient that is busy. The next ones are dropped, and come again if they are trusted.
const MOST_UNDER_WAY: usize = 64;
/// How many of them before those of untrusted sources are dropped: the rest is for our servers.
const MOST_UNTRUSTED_UNDER_WAY: usize = 16;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// What a datagram carries, plain or gzipped.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Packet {
    #[serde(default, rename = "type")]
    pub(crate) kind: String,
    /// JSON once more, as text.
    #[serde(default)]
    pub(crate) data: Option<String>,
    /// Nanoseconds of the server's clock since some moment: it names the push, and says nothing about the list's age.
    #[serde(default)]
    pub(crate) last_ref_time: i64,
}

/// What is sent back, to the address that the datagram came from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Acknowledgement {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// The push's own, as text.
    pub(crate) last_ref_time: String,
    pub(crate) data: String,
}

/// A datagram that was understood.
#[derive(Debug, Clone)]
pub(crate) struct PushMessage {
    pub(crate) content: PushContent,
    last_ref_time: i64,
}

#[derive(Debug, Clone)]
pub(crate) enum PushContent {
    /// The whole list of a service, whose name in it is `GROUP@@service`.
    List(Box<ListAnswer>),
    /// A request for everything the client knows. It gets an empty answer: what we know is nobody's business.
    Dump,
    /// A type that Nacos' clients acknowledge as unknown.
    Unknown,
}

/// Why a datagram gave no message. It is not acknowledged.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum NotDecoded {
    /// It is no push.
    Malformed(String),
    /// It has more text than may be decoded now.
    OverLimit,
}

impl PushMessage {
    /// Reads a datagram of up to `limit` bytes of text, and tells how many it had. What follows the first JSON value, or the
    /// first gzip member, is ignored.
    pub(crate) fn decode(datagram: &[u8], limit: usize) -> (usize, Result<Self, NotDecoded>) {
        if datagram.starts_with(&GZIP_MAGIC) {
            let mut text = Vec::new();
            let inflated = inflate(datagram, limit, &mut text);
            (text.len().min(limit), inflated.and_then(|()| Self::read(&text)))
        } else if datagram.len() <= limit {
            (datagram.len(), Self::read(datagram))
        } else {
            (0, Err(NotDecoded::OverLimit))
        }
    }

    fn read(text: &[u8]) -> Result<Self, NotDecoded> {
        let packet: Packet = first_object(text)?;
        let content = match packet.kind.as_str() {
            "dom" | "service" => PushContent::List(Box::new(read_list(packet.data.as_deref())?)),
            "dump" => PushContent::Dump,
            _ => PushContent::Unknown,
        };
        Ok(PushMessage { content, last_ref_time: packet.last_ref_time })
    }

    /// As `PushReceiver` of Nacos' own 1.x client answers.
    pub(crate) fn acknowledgement(&self) -> Acknowledgement {
        let kind = match self.content {
            PushContent::List(_) => "push-ack",
            PushContent::Dump => "dump-ack",
            PushContent::Unknown => "unknown-ack",
        };
        Acknowledgement { kind: kind.into(), last_ref_time: self.last_ref_time.to_string(), data: String::new() }
    }
}

impl Acknowledgement {
    pub(crate) fn encode(&self) -> Vec<u8> {
        // Three strings always serialise.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// Whether a datagram begins as a push does, plain or gzipped. Any other one is refused without a cost.
fn may_be_a_push(datagram: &[u8]) -> bool {
    datagram.starts_with(&GZIP_MAGIC) || begins_an_object(datagram)
}

/// Inflates no more than it must to know that there is more than `limit`.
fn inflate(datagram: &[u8], limit: usize, text: &mut Vec<u8>) -> Result<(), NotDecoded> {
    // Read to its end, the check sum is compared.
    let mut limited = GzDecoder::new(datagram).take((limit as u64).saturating_add(1));
    limited.read_to_end(text).map_err(|error| NotDecoded::Malformed(format!("bad gzip: {error}")))?;
    if text.len() > limit {
        return Err(NotDecoded::OverLimit);
    }
    Ok(())
}

fn read_list(data: Option<&str>) -> Result<ListAnswer, NotDecoded> {
    let data = data.ok_or_else(|| NotDecoded::Malformed("a push without data".into()))?;
    let list: ListAnswer = first_object(data.as_bytes())?;
    if list.name.is_empty() {
        return Err(NotDecoded::Malformed("a list that names no service".into()));
    }
    Ok(list)
}

/// Reads one object, whatever follows it. An array would pass for an object with its fields in order.
fn first_object<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, NotDecoded> {
    if !begins_an_object(text) {
        return Err(NotDecoded::Malformed("no JSON object".into()));
    }
    let read = T::deserialize(&mut serde_json::Deserializer::from_slice(text));
    read.map_err(|error| NotDecoded::Malformed(error.to_string()))
}

fn begins_an_object(text: &[u8]) -> bool {
    text.trim_ascii_start().starts_with(b"{")
}

/// A list came by UDP.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Pushed {
    /// The epoch in which the socket was opened that it came to.
    pub(crate) epoch: u64,
    pub(crate) from: SocketAddr,
    pub(crate) list: ListAnswer,
    /// It came from a server of ours. Another one's list is at most a reason to ask our servers.
    pub(crate) trusted: bool,
}

/// Datagrams of our servers were not decoded, because they would have cost too much. Any list may have changed.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub(crate) struct OverBudget;

/// Ends the receiver and closes its socket.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct StopReceiving;

/// What came in so far, for the status.
#[derive(Debug, Default)]
pub(crate) struct PushTally {
    /// Understood, from servers of ours.
    pub(crate) pushes: Cell<u64>,
    /// Understood or not, from anybody else.
    pub(crate) untrusted: Cell<u64>,
    /// From servers of ours, and not understood.
    pub(crate) unreadable: Cell<u64>,
    /// From servers of ours, and not decoded.
    pub(crate) over_budget: Cell<u64>,
}

fn count(counter: &Cell<u64>) {
    counter.set(counter.get() + 1);
}

/// Receives pushes on one socket for the whole Registry, acknowledges them and hands their lists on.
///
/// It lives until [`StopReceiving`], or until a push finds its recipient gone, which it holds weakly. A push that the
/// recipient has no room for, or that exceeds the budget, is not acknowledged: the server will send it again.
pub(crate) struct PushReceiver {
    socket: Rc<UdpSocket>,
    epoch: u64,
    trusts: Rc<dyn Fn(IpAddr) -> bool>,
    recipient: WeakRecipient<Pushed>,
    over_budget: WeakRecipient<OverBudget>,
    tally: Rc<PushTally>,
    /// Lists that the recipient has not taken yet.
    under_way: usize,
    /// What all sources share.
    budget: Budget,
    untrusted_budget: Budget,
    /// [`OverBudget`] is to be reported.
    report_pending: bool,
}

/// How much may be decoded in each second.
#[derive(Debug, Clone)]
struct Budget {
    bytes_per_second: usize,
    decodes_per_second: u32,
    second_began: Instant,
    bytes_left: usize,
    decodes_left: u32,
}

impl Budget {
    fn new(bytes_per_second: usize, decodes_per_second: u32) -> Self {
        Budget {
            bytes_per_second,
            decodes_per_second,
            second_began: Instant::now(),
            bytes_left: bytes_per_second,
            decodes_left: decodes_per_second,
        }
    }

    /// How many bytes of text the next datagram may have.
    fn left(&mut self) -> Result<usize, NotDecoded> {
        if self.second_began.elapsed() >= Duration::from_secs(1) {
            *self = Budget::new(self.bytes_per_second, self.decodes_per_second);
        }
        if self.decodes_left == 0 || self.bytes_left == 0 {
            return Err(NotDecoded::OverLimit);
        }
        Ok(self.bytes_left)
    }

    fn spend(&mut self, bytes: usize) {
        self.decodes_left = self.decodes_left.saturating_sub(1);
        self.bytes_left = self.bytes_left.saturating_sub(bytes);
    }
}

impl PushReceiver {
    /// Must be called inside the arbiter that it runs on.
    pub(crate) fn bind(
        address: SocketAddr,
        epoch: u64,
        trusts: Rc<dyn Fn(IpAddr) -> bool>,
        (recipient, over_budget): (WeakRecipient<Pushed>, WeakRecipient<OverBudget>),
        tally: Rc<PushTally>,
    ) -> io::Result<Self> {
        let socket = std::net::UdpSocket::bind(address)?;
        socket.set_nonblocking(true)?;
        Ok(PushReceiver {
            socket: Rc::new(UdpSocket::from_std(socket)?),
            epoch,
            trusts,
            recipient,
            over_budget,
            tally,
            under_way: 0,
            budget: Budget::new(BYTES_PER_SECOND, DECODES_PER_SECOND),
            untrusted_budget: Budget::new(UNTRUSTED_BYTES_PER_SECOND, UNTRUSTED_DECODES_PER_SECOND),
            report_pending: false,
        })
    }

    /// Where it listens, the port that was found free included.
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Decodes a datagram, if there is something left in this second to do so, and as far as that goes.
    fn decode(&mut self, datagram: &[u8], trusted: bool) -> Result<PushMessage, NotDecoded> {
        let mut limit = self.budget.left()?;
        if !trusted {
            limit = limit.min(self.untrusted_budget.left()?);
        }
        let (bytes, message) = PushMessage::decode(datagram, limit);
        self.budget.spend(bytes);
        if !trusted {
            self.untrusted_budget.spend(bytes);
        }
        message
    }

    /// A datagram that was not decoded may have been about any service. The report waits, so that it covers what comes
    /// until then.
    fn report_later(&mut self, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.report_pending, true) {
            return;
        }
        ctx.run_later(REPORT_INTERVAL, |this, ctx| {
            this.report_pending = false;
            match this.over_budget.upgrade() {
                Some(recipient) => recipient.do_send(OverBudget),
                None => ctx.stop(),
            }
        });
    }

    fn acknowledge(&self, to: SocketAddr, acknowledgement: &Acknowledgement, ctx: &mut Context<Self>) {
        let (socket, bytes) = (self.socket.clone(), acknowledgement.encode());
        // One that is lost is asked for again, by the same push once more.
        let send = async move { drop(socket.send_to(&bytes, to).await) };
        ctx.spawn(send.into_actor(self));
    }

    /// Asks the recipient to take the list, and acknowledges it once that is done.
    fn hand_on(&mut self, pushed: Pushed, acknowledgement: Acknowledgement, ctx: &mut Context<Self>) {
        let Some(recipient) = self.recipient.upgrade().filter(Recipient::connected) else {
            ctx.stop();
            return;
        };
        let room = if pushed.trusted { MOST_UNDER_WAY } else { MOST_UNTRUSTED_UNDER_WAY };
        if self.under_way >= room {
            return;
        }
        self.under_way += 1;
        let (from, trusted) = (pushed.from, pushed.trusted);
        // Not `try_send`: each upgraded address has a place of its own in the mailbox, however full that is.
        let taken = recipient.send(pushed).into_actor(self).map(move |taken, this, ctx| {
            this.under_way -= 1;
            if taken.is_ok() && trusted {
                this.acknowledge(from, &acknowledgement, ctx);
            }
        });
        ctx.spawn(taken);
    }
}

impl Actor for PushReceiver {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // After a restart nothing is under way any more, and no timer runs.
        self.under_way = 0;
        if std::mem::take(&mut self.report_pending) {
            self.report_later(ctx);
        }
        ctx.add_stream(datagrams(self.socket.clone()));
    }
}

/// A restart loses the stream and what it had read; `started` reads on from the same socket.
impl Supervised for PushReceiver {}

/// One datagram.
struct Datagram {
    from: SocketAddr,
    bytes: Vec<u8>,
}

fn datagrams(socket: Rc<UdpSocket>) -> impl Stream<Item = Datagram> {
    unfold((socket, vec![0; LARGEST_DATAGRAM]), |(socket, mut buffer)| async move {
        loop {
            match socket.recv_from(&mut buffer).await {
                Ok((length, from)) => {
                    let datagram = Datagram { from, bytes: buffer[..length].to_vec() };
                    return Some((datagram, (socket, buffer)));
                }
                // Somebody else's trouble, as a rule: where our acknowledgement went, nobody listens any more.
                Err(_) => sleep(Duration::from_millis(10)).await,
            }
        }
    })
}

impl StreamHandler<Datagram> for PushReceiver {
    fn handle(&mut self, datagram: Datagram, ctx: &mut Self::Context) {
        // A socket for both families shows IPv4 addresses in their IPv6 form.
        let trusted = (self.trusts)(datagram.from.ip().to_canonical());
        let message = if may_be_a_push(&datagram.bytes) {
            self.decode(&datagram.bytes, trusted)
        } else {
            Err(NotDecoded::Malformed("neither JSON nor gzip".into()))
        };
        count(match &message {
            _ if !trusted => &self.tally.untrusted,
            Ok(_) => &self.tally.pushes,
            Err(NotDecoded::Malformed(_)) => &self.tally.unreadable,
            Err(NotDecoded::OverLimit) => &self.tally.over_budget,
        });
        if trusted && matches!(message, Err(NotDecoded::OverLimit)) {
            self.report_later(ctx);
        }
        let Ok(message) = message else { return };
        let acknowledgement = message.acknowledgement();
        match message.content {
            PushContent::List(list) => {
                self.hand_on(
                    Pushed { epoch: self.epoch, from: datagram.from, list: *list, trusted },
                    acknowledgement,
                    ctx,
                );
            }
            PushContent::Dump | PushContent::Unknown if trusted => {
                self.acknowledge(datagram.from, &acknowledgement, ctx);
            }
            PushContent::Dump | PushContent::Unknown => {}
        }
    }
}

impl Handler<StopReceiving> for PushReceiver {
    type Result = ();

    fn handle(&mut self, _: StopReceiving, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        sync::{Arc, LazyLock},
    };

    use actix_rt::time::timeout;
    use flate2::{write::GzEncoder, Compression};
    use proptest::prelude::*;
    use serde_json::{json, Value};
    use tokio::sync::{mpsc, Notify};

    use super::*;
    use crate::{
        model::service::ServiceName,
        wire::recordings::{self, assert_same_instance, SERVERS},
    };

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn decode(datagram: &[u8]) -> Result<PushMessage, NotDecoded> {
        PushMessage::decode(datagram, BYTES_PER_SECOND).1
    }

    fn list_of(message: PushMessage) -> ListAnswer {
        match message.content {
            PushContent::List(list) => *list,
            other => panic!("{other:?} is no list"),
        }
    }

    fn push(kind: &str, data: &Value) -> Vec<u8> {
        json!({ "type": kind, "data": data.to_string(), "lastRefTime": 7 }).to_string().into_bytes()
    }

    /// Asserts that `list` says what the text of the datagram says, read here without our structs.
    fn assert_same_list(list: ListAnswer, text: &str) {
        let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
        let packet = values.next().unwrap().unwrap();
        let data: Value = serde_json::from_str(packet["data"].as_str().unwrap()).unwrap();
        let service = ServiceName::from_wire(&list.name, &list.group_name);
        assert_eq!(data["name"], list.name);
        assert_eq!(data["clusters"].as_str().unwrap_or(""), list.clusters);
        assert_eq!(data["lastRefTime"].as_i64().unwrap_or(0), list.last_ref_time);
        let hosts: Vec<&Value> = data["hosts"].as_array().unwrap().iter().collect();
        assert_eq!(hosts.len(), list.hosts.len());
        for (host, ours) in hosts.into_iter().zip(list.hosts) {
            if let Some(instance) = ours.into_instance(&service) {
                assert_same_instance(text, &instance, host, &service);
            }
        }
    }

    /// The datagrams of all recordings, as they came.
    static RECORDED: LazyLock<Vec<(Vec<u8>, String)>> = LazyLock::new(|| {
        let pushes = SERVERS.into_iter().flat_map(recordings::of).filter_map(|exchange| exchange.udp_push);
        let datagram = |gzipped: bool, text: &str| if gzipped { gzip(text.as_bytes()) } else { text.into() };
        pushes.map(|push| (datagram(push.gzip, &push.text), push.text)).collect()
    });

    #[test]
    fn every_recorded_push_is_read_and_acknowledged() {
        let mut read = 0;
        for (datagram, text) in RECORDED.iter() {
            let message = decode(datagram).unwrap();
            let packet: Value = serde_json::from_str(text).unwrap();
            let expected = format!(r#"{{"type":"push-ack","lastRefTime":"{}","data":""}}"#, packet["lastRefTime"]);
            assert_eq!(String::from_utf8(message.acknowledgement().encode()).unwrap(), expected);
            let list = list_of(message);
            assert_eq!(list.name, "DEFAULT_GROUP@@watched");
            assert_same_list(list, text);
            read += 1;
        }
        assert_eq!(read, 88);
    }

    #[test]
    fn what_follows_a_push_is_ignored() {
        for (datagram, text) in RECORDED.iter() {
            let datagram = [datagram, &b"\0\0\0 garbage"[..]].concat();
            assert_same_list(list_of(decode(&datagram).unwrap()), text);
        }
    }

    #[test]
    fn other_types_get_their_own_empty_acknowledgement() {
        let acknowledged = |kind: &str| {
            let message = decode(&push(kind, &json!({}))).unwrap();
            String::from_utf8(message.acknowledgement().encode()).unwrap()
        };
        assert_eq!(acknowledged("dump"), r#"{"type":"dump-ack","lastRefTime":"7","data":""}"#);
        assert_eq!(acknowledged("weather"), r#"{"type":"unknown-ack","lastRefTime":"7","data":""}"#);
        assert!(matches!(decode(b"{}").unwrap().content, PushContent::Unknown));
        let list = json!({ "name": "G@@s", "hosts": [] });
        assert_eq!(list_of(decode(&push("service", &list)).unwrap()).name, "G@@s");
    }

    #[test]
    fn what_is_no_push_is_refused() {
        let host = json!({ "ip": "127.0.0.1", "port": 80, "healthy": true });
        let nameless = json!({ "hosts": [host] });
        let hostless = json!({ "name": "G@@s" });
        let no_hosts = json!({ "name": "G@@s", "hosts": [1] });
        for data in [json!({}), json!([]), json!("text"), Value::Null, nameless, hostless, no_hosts] {
            assert!(decode(&push("dom", &data)).is_err(), "{data}");
        }
        let deep = "[".repeat(100_000);
        for text in [
            "",
            " ",
            "null",
            "7",
            "[]",
            r#"["dom","{\"name\":\"s\",\"hosts\":[]}",7]"#,
            r#"{"type":"dom"}"#,
            r#"{"type":7}"#,
            r#"{"type":"dom","data":{}}"#,
            &deep,
        ] {
            assert!(decode(text.as_bytes()).is_err(), "{text}");
            assert!(decode(&gzip(text.as_bytes())).is_err(), "{text}");
        }
        let valid = gzip(&push("dom", &json!({ "name": "G@@s", "hosts": [] })));
        for cut in 0..valid.len() {
            assert!(decode(&valid[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn a_datagram_is_inflated_up_to_the_limit_and_no_further() {
        let text = push("dom", &json!({ "name": "G@@s", "hosts": [] }));
        for datagram in [gzip(&text), text.clone()] {
            let (bytes, message) = PushMessage::decode(&datagram, text.len());
            assert_eq!((bytes, list_of(message.unwrap()).name.as_str()), (text.len(), "G@@s"));
        }
        let (bytes, message) = PushMessage::decode(&gzip(&text), text.len() - 1);
        assert_eq!((bytes, message.err()), (text.len() - 1, Some(NotDecoded::OverLimit)));
        assert!(matches!(PushMessage::decode(&text, text.len() - 1), (0, Err(NotDecoded::OverLimit))));

        let bomb = gzip(&vec![b' '; 64 * 1024 * 1024]);
        assert!(bomb.len() < 2 * LARGEST_DATAGRAM);
        let mut inflated = Vec::new();
        assert_eq!(inflate(&bomb, 1000, &mut inflated), Err(NotDecoded::OverLimit));
        assert_eq!(inflated.len(), 1001, "one more tells that there is more");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn random_bytes_are_never_a_list(bytes in prop::collection::vec(any::<u8>(), 0..2000), gzipped in any::<bool>()) {
            let datagram = if gzipped { gzip(&bytes) } else { bytes.clone() };
            if let Ok(message) = decode(&datagram) {
                prop_assert!(!matches!(message.content, PushContent::List(_)));
            }
            // With the magic number in front, but no gzip behind it.
            prop_assert!(decode(&[&GZIP_MAGIC[..], &bytes].concat()).is_err());
        }

        /// A damaged plain datagram is another text: its list is what that text says. A damaged gzipped one is no push,
        /// or the damage hit nothing.
        #[test]
        fn a_damaged_push_is_no_wrong_list(
            which in any::<prop::sample::Index>(),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            cut in prop::option::of(any::<prop::sample::Index>()),
        ) {
            let (mut datagram, text) = RECORDED[which.index(RECORDED.len())].clone();
            let gzipped = datagram.starts_with(&GZIP_MAGIC);
            for (place, byte) in damage {
                let place = place.index(datagram.len());
                datagram[place] = byte;
            }
            if let Some(cut) = cut {
                datagram.truncate(cut.index(datagram.len()));
            }
            if let Ok(PushMessage { content: PushContent::List(list), .. }) = decode(&datagram) {
                let now = if gzipped { text } else { String::from_utf8_lossy(&datagram).into_owned() };
                assert_same_list(*list, &now);
            }
        }

        #[test]
        fn absurd_values_neither_panic_nor_grow(port in any::<i64>(), time in any::<i64>(), weight in any::<f64>(), name in ".{0,3000}") {
            let host = json!({ "ip": name, "port": port, "healthy": true, "weight": weight });
            let list = json!({ "name": name, "hosts": [host], "lastRefTime": time, "cacheMillis": time });
            for datagram in [push("dom", &list), gzip(&push("dom", &list))] {
                if let Ok(message) = decode(&datagram) {
                    let list = list_of(message);
                    prop_assert_eq!((list.name, list.last_ref_time, list.hosts.len()), (name.clone(), time, 1));
                }
            }
        }
    }

    /// Shows what it is handed, and reports in between.
    struct Keeper(mpsc::UnboundedSender<Option<Pushed>>);

    impl Keeper {
        fn new() -> (Addr<Self>, mpsc::UnboundedReceiver<Option<Pushed>>) {
            let (handed_on_tx, handed_on) = mpsc::unbounded_channel();
            (Keeper(handed_on_tx).start(), handed_on)
        }
    }

    /// None is a report of [`OverBudget`].
    async fn next(handed_on: &mut mpsc::UnboundedReceiver<Option<Pushed>>) -> Option<Pushed> {
        timeout(Duration::from_secs(10), handed_on.recv()).await.unwrap().unwrap()
    }

    impl Actor for Keeper {
        type Context = Context<Self>;
    }

    impl Handler<Pushed> for Keeper {
        type Result = ();

        fn handle(&mut self, pushed: Pushed, _: &mut Self::Context) {
            self.0.send(Some(pushed)).unwrap();
        }
    }

    impl Handler<OverBudget> for Keeper {
        type Result = ();

        fn handle(&mut self, _: OverBudget, _: &mut Self::Context) {
            self.0.send(None).unwrap();
        }
    }

    /// A receiver, and the server that pushes to it.
    struct World {
        receiver: Addr<PushReceiver>,
        tally: Rc<PushTally>,
        server: UdpSocket,
    }

    impl World {
        async fn handing_on_to<A>(recipient: &Addr<A>, trusts: impl Fn(IpAddr) -> bool + 'static) -> Self
        where
            A: Actor<Context = Context<A>> + Handler<Pushed> + Handler<OverBudget>,
        {
            let free: SocketAddr = "127.0.0.1:0".parse().unwrap();
            let recipients = (recipient.downgrade().recipient(), recipient.downgrade().recipient());
            let receiver = PushReceiver::bind(free, 0, Rc::new(trusts), recipients, Rc::default()).unwrap();
            let server = UdpSocket::bind(free).await.unwrap();
            server.connect(receiver.local_addr().unwrap()).await.unwrap();
            World { tally: receiver.tally.clone(), receiver: receiver.start(), server }
        }

        async fn counted(&self, count: u64, counter: impl Fn(&PushTally) -> &Cell<u64>) {
            while counter(&self.tally).get() < count {
                sleep(Duration::from_millis(1)).await;
            }
        }

        async fn acknowledged(&self) -> Acknowledgement {
            let mut buffer = vec![0; 1000];
            let length = timeout(Duration::from_secs(5), self.server.recv(&mut buffer)).await.unwrap().unwrap();
            serde_json::from_slice(&buffer[..length]).unwrap()
        }
    }

    /// Gives the receiver other budgets, which last for a long time instead of a second.
    #[derive(Message)]
    #[rtype(result = "()")]
    struct SetBudgets {
        all: (usize, u32),
        untrusted: (usize, u32),
    }

    impl Handler<SetBudgets> for PushReceiver {
        type Result = ();

        fn handle(&mut self, SetBudgets { all, untrusted }: SetBudgets, _: &mut Self::Context) {
            let lasting = |(bytes, decodes)| {
                let second_began = Instant::now() + Duration::from_secs(3600);
                Budget { second_began, ..Budget::new(bytes, decodes) }
            };
            (self.budget, self.untrusted_budget) = (lasting(all), lasting(untrusted));
        }
    }

    const PLENTY: (usize, u32) = (BYTES_PER_SECOND, DECODES_PER_SECOND);

    #[actix::test]
    async fn a_servers_push_is_handed_on_and_acknowledged() {
        let (keeper, mut handed_on) = Keeper::new();
        let world = World::handing_on_to(&keeper, |ip| ip.is_loopback()).await;
        world.server.send(&push("dom", &json!({ "name": "G@@s", "hosts": [] }))).await.unwrap();
        let pushed = next(&mut handed_on).await.unwrap();
        assert!(pushed.trusted && pushed.list.name == "G@@s");
        assert_eq!(pushed.from, world.server.local_addr().unwrap());
        assert_eq!(world.acknowledged().await.kind, "push-ack");
        world.server.send(b"nonsense").await.unwrap();
        world.server.send(&push("dump", &json!(null))).await.unwrap();
        assert_eq!(world.acknowledged().await.kind, "dump-ack", "and none for nonsense");
        assert_eq!((world.tally.pushes.get(), world.tally.unreadable.get()), (2, 1));
    }

    #[actix::test]
    async fn an_untrusted_source_gets_no_answer() {
        let (keeper, mut handed_on) = Keeper::new();
        let world = World::handing_on_to(&keeper, |_| false).await;
        for name in ["G@@a", "G@@b"] {
            world.server.send(&push("dom", &json!({ "name": name, "hosts": [] }))).await.unwrap();
            let pushed = next(&mut handed_on).await.unwrap();
            assert!(!pushed.trusted && pushed.list.name == name);
        }
        assert_eq!(world.tally.untrusted.get(), 2);
        // What cannot be awaited is that nothing comes: by the second push the first was dealt with long ago.
        assert!(timeout(Duration::from_millis(50), world.server.recv(&mut [0; 100])).await.is_err());
    }

    #[actix::test]
    async fn a_budget_limits_bytes_and_decodes_in_each_second() {
        tokio::time::pause();
        let mut budget = Budget::new(100, 3);
        for _second in 0..3 {
            assert_eq!(budget.left(), Ok(100));
            budget.spend(99);
            assert_eq!(budget.left(), Ok(1));
            budget.spend(1);
            assert_eq!(budget.left(), Err(NotDecoded::OverLimit), "no bytes are left");
            tokio::time::advance(Duration::from_secs(1)).await;
            for _ in 0..3 {
                assert_eq!(budget.left(), Ok(100));
                budget.spend(0);
            }
            assert_eq!(budget.left(), Err(NotDecoded::OverLimit), "no decodes are left");
            tokio::time::advance(Duration::from_secs(1)).await;
        }
    }

    /// A gzipped list of `name`, which inflates to about `length` bytes.
    fn gzipped_list(name: &str, length: usize) -> Vec<u8> {
        gzip(&push("dom", &json!({ "name": name, "hosts": [], "filler": " ".repeat(length) })))
    }

    #[actix::test]
    async fn what_exceeds_the_budget_is_not_acknowledged_and_reported_once_a_second() {
        let (keeper, mut handed_on) = Keeper::new();
        let world = World::handing_on_to(&keeper, |_| true).await;
        for budget in [(10_000, 100), (100_000, 1)] {
            world.receiver.send(SetBudgets { all: budget, untrusted: PLENTY }).await.unwrap();
            world.server.send(&gzipped_list("G@@read", 5_000)).await.unwrap();
            assert_eq!(next(&mut handed_on).await.unwrap().list.name, "G@@read");
            assert_eq!(world.acknowledged().await.kind, "push-ack");
            let before = world.tally.over_budget.get();
            for _ in 0..10 {
                world.server.send(&gzipped_list("G@@unread", 5_000)).await.unwrap();
            }
            assert!(next(&mut handed_on).await.is_none(), "not a list, but a report");
            assert_eq!(world.tally.over_budget.get() - before, 10);
        }
        world.receiver.send(SetBudgets { all: PLENTY, untrusted: PLENTY }).await.unwrap();
        world.server.send(&push("dump", &json!(null))).await.unwrap();
        assert_eq!(world.acknowledged().await.kind, "dump-ack", "and none before");
        assert!(handed_on.is_empty(), "one report for each ten");
    }

    #[actix::test]
    async fn untrusted_sources_use_a_part_of_the_one_budget_at_most() {
        let (keeper, mut handed_on) = Keeper::new();
        let trusts_servers = Rc::new(Cell::new(false));
        let trusts = trusts_servers.clone();
        let world = World::handing_on_to(&keeper, move |_| trusts.get()).await;
        world.server.send(&gzipped_list("G@@bomb", UNTRUSTED_BYTES_PER_SECOND)).await.unwrap();
        world.counted(1, |tally| &tally.untrusted).await;
        world.receiver.send(SetBudgets { all: PLENTY, untrusted: (10_000, 2) }).await.unwrap();
        for name in ["G@@a", "G@@b", "G@@c"] {
            world.server.send(&gzipped_list(name, 0)).await.unwrap();
        }
        assert_eq!(next(&mut handed_on).await.unwrap().list.name, "G@@a");
        assert_eq!(next(&mut handed_on).await.unwrap().list.name, "G@@b");
        world.counted(4, |tally| &tally.untrusted).await;
        trusts_servers.set(true);
        world.server.send(&gzipped_list("G@@ours", 2 * UNTRUSTED_BYTES_PER_SECOND)).await.unwrap();
        assert_eq!(next(&mut handed_on).await.unwrap().list.name, "G@@ours", "and no report before");
        world.receiver.send(SetBudgets { all: (1_000, 1), untrusted: PLENTY }).await.unwrap();
        trusts_servers.set(false);
        world.server.send(&gzipped_list("G@@d", 0)).await.unwrap();
        assert_eq!(next(&mut handed_on).await.unwrap().list.name, "G@@d");
        trusts_servers.set(true);
        world.server.send(&gzipped_list("G@@ours", 0)).await.unwrap();
        assert!(next(&mut handed_on).await.is_none(), "the budget is one for all");
    }

    /// Takes nothing out of its mailbox before it is told to.
    struct Busy(Arc<Notify>);

    impl Actor for Busy {
        type Context = Context<Self>;

        fn started(&mut self, ctx: &mut Self::Context) {
            let free = self.0.clone();
            ctx.wait(async move { free.notified().await }.into_actor(self));
        }
    }

    impl Handler<Pushed> for Busy {
        type Result = ();

        fn handle(&mut self, _: Pushed, _: &mut Self::Context) {}
    }

    impl Handler<OverBudget> for Busy {
        type Result = ();

        fn handle(&mut self, _: OverBudget, _: &mut Self::Context) {}
    }

    #[actix::test]
    async fn a_push_nobody_has_room_for_is_not_acknowledged() {
        let free = Arc::new(Notify::new());
        let busy = Busy(free.clone()).start();
        let world = World::handing_on_to(&busy, |_| true).await;
        for _ in 0..MOST_UNDER_WAY + 20 {
            world.server.send(&push("dom", &json!({ "name": "G@@s", "hosts": [] }))).await.unwrap();
        }
        // Read after all those, and the first to be acknowledged: they still wait.
        world.server.send(&push("dump", &json!(null))).await.unwrap();
        assert_eq!(world.acknowledged().await.kind, "dump-ack");
        free.notify_one();
        for _ in 0..MOST_UNDER_WAY {
            assert_eq!(world.acknowledged().await.kind, "push-ack");
        }
        // Room again, for what comes next alone.
        world.server.send(&push("weather", &json!(null))).await.unwrap();
        assert_eq!(world.acknowledged().await.kind, "unknown-ack");
    }

    #[actix::test]
    async fn the_receiver_ends_when_told_and_when_nobody_wants_its_pushes() {
        let (keeper, mut handed_on) = Keeper::new();
        let world = World::handing_on_to(&keeper, |_| true).await;
        world.receiver.send(StopReceiving).await.unwrap();
        assert!(world.receiver.send(StopReceiving).await.is_err());

        let World { receiver, server, .. } = World::handing_on_to(&keeper, |_| true).await;
        drop(keeper);
        assert!(handed_on.recv().await.is_none(), "the recipient is gone");
        server.send(&push("dom", &json!({ "name": "G@@s", "hosts": [] }))).await.unwrap();
        let ended = async {
            while receiver.connected() {
                actix_rt::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(5), ended).await.unwrap();
    }
}
