//! Lists that servers push by UDP: how a datagram reads, how it is acknowledged, and the actor that receives them.
//!
//! Nothing authenticates a datagram, and anybody can send one: whatever comes in costs bounded memory, and a list is
//! either what its text says or none.

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

use crate::nacos::v1::ListAnswer;

/// Nobody's list of instances is larger; what inflates to more is meant to hurt.
const LONGEST: usize = 4 * 1024 * 1024;
/// The largest that UDP can carry.
const LARGEST_DATAGRAM: usize = 65_535;
/// How many lists may wait for a recipient that is busy. The next ones are dropped, and come again if they are trusted.
const MOST_UNDER_WAY: usize = 64;
/// How many of them before strangers are dropped: the rest is for our servers.
const MOST_OF_STRANGERS: usize = 16;
/// So many datagrams of strangers are read in a second, and of each so much: they may be made to cost as much as possible.
/// A server whose address was translated is a stranger, too; polls bring what it could not hint at.
const STRANGERS_IN_A_SECOND: u32 = 20;
const LONGEST_OF_STRANGERS: usize = 256 * 1024;
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

/// Why a datagram is no push. It is not acknowledged.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NotAPush(pub(crate) String);

impl PushMessage {
    /// Reads a datagram. What follows the first JSON value, or the first gzip member, is ignored.
    pub(crate) fn decode(datagram: &[u8]) -> Result<Self, NotAPush> {
        Self::decode_up_to(LONGEST, datagram)
    }

    /// `longest` in bytes, once it is inflated.
    fn decode_up_to(longest: usize, datagram: &[u8]) -> Result<Self, NotAPush> {
        let inflated;
        let text = if datagram.starts_with(&GZIP_MAGIC) {
            inflated = inflate(datagram, longest)?;
            &inflated
        } else {
            datagram
        };
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

fn inflate(datagram: &[u8], longest: usize) -> Result<Vec<u8>, NotAPush> {
    let mut text = Vec::new();
    // One more than allowed tells too long from just fitting; read to its end, the check sum is compared.
    let mut limited = GzDecoder::new(datagram).take(longest as u64 + 1);
    limited.read_to_end(&mut text).map_err(|error| NotAPush(format!("bad gzip: {error}")))?;
    if text.len() > longest {
        return Err(NotAPush(format!("inflates to more than {longest} bytes")));
    }
    Ok(text)
}

fn read_list(data: Option<&str>) -> Result<ListAnswer, NotAPush> {
    let data = data.ok_or_else(|| NotAPush("a push without data".into()))?;
    let list: ListAnswer = first_object(data.as_bytes())?;
    if list.name.is_empty() {
        return Err(NotAPush("a list that names no service".into()));
    }
    Ok(list)
}

/// Reads one object, whatever follows it. An array would pass for an object with its fields in order.
fn first_object<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, NotAPush> {
    if !text.trim_ascii_start().starts_with(b"{") {
        return Err(NotAPush("no JSON object".into()));
    }
    T::deserialize(&mut serde_json::Deserializer::from_slice(text)).map_err(|error| NotAPush(error.to_string()))
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
    pub(crate) strangers: Cell<u64>,
    /// From servers of ours, and not understood.
    pub(crate) unreadable: Cell<u64>,
}

fn count(counter: &Cell<u64>) {
    counter.set(counter.get() + 1);
}

/// Receives pushes on one socket for the whole Registry, acknowledges them and hands their lists on.
///
/// It lives until [`StopReceiving`], or until a push finds its recipient gone, which it holds weakly. A push that the
/// recipient has no room for is not acknowledged: the server will send it again.
pub(crate) struct PushReceiver {
    socket: Rc<UdpSocket>,
    epoch: u64,
    trusts: Rc<dyn Fn(IpAddr) -> bool>,
    recipient: WeakRecipient<Pushed>,
    tally: Rc<PushTally>,
    /// Lists that the recipient has not taken yet.
    under_way: usize,
    strangers: Allowance,
}

/// How many datagrams of strangers were read in this second.
struct Allowance {
    since: Instant,
    read: u32,
}

impl Allowance {
    fn take(&mut self) -> bool {
        if self.since.elapsed() >= Duration::from_secs(1) {
            *self = Allowance { since: Instant::now(), read: 0 };
        }
        self.read += 1;
        self.read <= STRANGERS_IN_A_SECOND
    }
}

impl PushReceiver {
    /// Must be called inside the arbiter that it runs on.
    pub(crate) fn bind(
        address: SocketAddr,
        epoch: u64,
        trusts: Rc<dyn Fn(IpAddr) -> bool>,
        recipient: WeakRecipient<Pushed>,
        tally: Rc<PushTally>,
    ) -> io::Result<Self> {
        let socket = std::net::UdpSocket::bind(address)?;
        socket.set_nonblocking(true)?;
        let socket = Rc::new(UdpSocket::from_std(socket)?);
        let strangers = Allowance { since: Instant::now(), read: 0 };
        Ok(PushReceiver { socket, epoch, trusts, recipient, tally, under_way: 0, strangers })
    }

    /// Where it listens, the port that was found free included.
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
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
        let room = if pushed.trusted { MOST_UNDER_WAY } else { MOST_OF_STRANGERS };
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
        // After a restart nothing is under way any more.
        self.under_way = 0;
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
        let message = if trusted {
            let message = PushMessage::decode(&datagram.bytes);
            count(if message.is_ok() { &self.tally.pushes } else { &self.tally.unreadable });
            message
        } else {
            count(&self.tally.strangers);
            if !self.strangers.take() {
                return;
            }
            PushMessage::decode_up_to(LONGEST_OF_STRANGERS, &datagram.bytes)
        };
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
        nacos::recordings::{self, assert_same_instance, SERVERS},
        service::ServiceName,
    };

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
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
            let message = PushMessage::decode(datagram).unwrap();
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
            assert_same_list(list_of(PushMessage::decode(&datagram).unwrap()), text);
        }
    }

    #[test]
    fn other_types_get_their_own_empty_acknowledgement() {
        let acknowledged = |kind: &str| {
            let message = PushMessage::decode(&push(kind, &json!({}))).unwrap();
            String::from_utf8(message.acknowledgement().encode()).unwrap()
        };
        assert_eq!(acknowledged("dump"), r#"{"type":"dump-ack","lastRefTime":"7","data":""}"#);
        assert_eq!(acknowledged("weather"), r#"{"type":"unknown-ack","lastRefTime":"7","data":""}"#);
        assert!(matches!(PushMessage::decode(b"{}").unwrap().content, PushContent::Unknown));
        let list = json!({ "name": "G@@s", "hosts": [] });
        assert_eq!(list_of(PushMessage::decode(&push("service", &list)).unwrap()).name, "G@@s");
    }

    #[test]
    fn what_is_no_push_is_refused() {
        let host = json!({ "ip": "10.0.0.1", "port": 80, "healthy": true });
        let nameless = json!({ "hosts": [host] });
        let hostless = json!({ "name": "G@@s" });
        let no_hosts = json!({ "name": "G@@s", "hosts": [1] });
        for data in [json!({}), json!([]), json!("text"), Value::Null, nameless, hostless, no_hosts] {
            assert!(PushMessage::decode(&push("dom", &data)).is_err(), "{data}");
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
            assert!(PushMessage::decode(text.as_bytes()).is_err(), "{text}");
            assert!(PushMessage::decode(&gzip(text.as_bytes())).is_err(), "{text}");
        }
        let valid = gzip(&push("dom", &json!({ "name": "G@@s", "hosts": [] })));
        for cut in 0..valid.len() {
            assert!(PushMessage::decode(&valid[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn a_gzip_bomb_is_not_inflated() {
        let just_fits = LONGEST - 2;
        assert_eq!(inflate(&gzip(&vec![b' '; just_fits]), LONGEST).unwrap().len(), just_fits);
        let bomb = gzip(&vec![b' '; 64 * 1024 * 1024]);
        assert!(bomb.len() < 2 * LARGEST_DATAGRAM);
        assert!(PushMessage::decode(&bomb).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn random_bytes_are_never_a_list(bytes in prop::collection::vec(any::<u8>(), 0..2000), gzipped in any::<bool>()) {
            let datagram = if gzipped { gzip(&bytes) } else { bytes.clone() };
            if let Ok(message) = PushMessage::decode(&datagram) {
                prop_assert!(!matches!(message.content, PushContent::List(_)));
            }
            // With the magic number in front, but no gzip behind it.
            prop_assert!(PushMessage::decode(&[&GZIP_MAGIC[..], &bytes].concat()).is_err());
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
            if let Ok(PushMessage { content: PushContent::List(list), .. }) = PushMessage::decode(&datagram) {
                let now = if gzipped { text } else { String::from_utf8_lossy(&datagram).into_owned() };
                assert_same_list(*list, &now);
            }
        }

        #[test]
        fn absurd_values_neither_panic_nor_grow(port in any::<i64>(), time in any::<i64>(), weight in any::<f64>(), name in ".{0,3000}") {
            let host = json!({ "ip": name, "port": port, "healthy": true, "weight": weight });
            let list = json!({ "name": name, "hosts": [host], "lastRefTime": time, "cacheMillis": time });
            for datagram in [push("dom", &list), gzip(&push("dom", &list))] {
                if let Ok(message) = PushMessage::decode(&datagram) {
                    let list = list_of(message);
                    prop_assert_eq!((list.name, list.last_ref_time, list.hosts.len()), (name.clone(), time, 1));
                }
            }
        }
    }

    /// Shows what it is handed.
    struct Keeper(mpsc::UnboundedSender<Pushed>);

    impl Keeper {
        fn new() -> (Addr<Self>, mpsc::UnboundedReceiver<Pushed>) {
            let (handed_on_tx, handed_on) = mpsc::unbounded_channel();
            (Keeper(handed_on_tx).start(), handed_on)
        }
    }

    async fn next(handed_on: &mut mpsc::UnboundedReceiver<Pushed>) -> Pushed {
        timeout(Duration::from_secs(5), handed_on.recv()).await.unwrap().unwrap()
    }

    impl Actor for Keeper {
        type Context = Context<Self>;
    }

    impl Handler<Pushed> for Keeper {
        type Result = ();

        fn handle(&mut self, pushed: Pushed, _: &mut Self::Context) {
            self.0.send(pushed).unwrap();
        }
    }

    /// A receiver, and the server that pushes to it.
    struct World {
        receiver: Addr<PushReceiver>,
        tally: Rc<PushTally>,
        server: UdpSocket,
    }

    impl World {
        async fn handing_on_to(recipient: WeakRecipient<Pushed>, trusts: impl Fn(IpAddr) -> bool + 'static) -> Self {
            let free: SocketAddr = "127.0.0.1:0".parse().unwrap();
            let receiver = PushReceiver::bind(free, 0, Rc::new(trusts), recipient, Rc::default()).unwrap();
            let server = UdpSocket::bind(free).await.unwrap();
            server.connect(receiver.local_addr().unwrap()).await.unwrap();
            World { tally: receiver.tally.clone(), receiver: receiver.start(), server }
        }

        async fn acknowledged(&self) -> Acknowledgement {
            let mut buffer = vec![0; 1000];
            let length = timeout(Duration::from_secs(5), self.server.recv(&mut buffer)).await.unwrap().unwrap();
            serde_json::from_slice(&buffer[..length]).unwrap()
        }
    }

    /// Lets the receiver have read as much of strangers as it may, for a long time.
    #[derive(Message)]
    #[rtype(result = "()")]
    struct ExhaustStrangers;

    impl Handler<ExhaustStrangers> for PushReceiver {
        type Result = ();

        fn handle(&mut self, _: ExhaustStrangers, _: &mut Self::Context) {
            let since = Instant::now() + Duration::from_secs(3600);
            self.strangers = Allowance { since, read: STRANGERS_IN_A_SECOND };
        }
    }

    #[actix::test]
    async fn a_servers_push_is_handed_on_and_acknowledged() {
        let (keeper, mut handed_on) = Keeper::new();
        let world = World::handing_on_to(keeper.downgrade().recipient(), |ip| ip.is_loopback()).await;
        world.server.send(&push("dom", &json!({ "name": "G@@s", "hosts": [] }))).await.unwrap();
        let pushed = next(&mut handed_on).await;
        assert!(pushed.trusted && pushed.list.name == "G@@s");
        assert_eq!(pushed.from, world.server.local_addr().unwrap());
        assert_eq!(world.acknowledged().await.kind, "push-ack");
        world.server.send(b"nonsense").await.unwrap();
        world.server.send(&push("dump", &json!(null))).await.unwrap();
        assert_eq!(world.acknowledged().await.kind, "dump-ack", "and none for nonsense");
        assert_eq!((world.tally.pushes.get(), world.tally.unreadable.get()), (2, 1));
    }

    #[actix::test]
    async fn a_stranger_gets_no_answer() {
        let (keeper, mut handed_on) = Keeper::new();
        let world = World::handing_on_to(keeper.downgrade().recipient(), |_| false).await;
        for name in ["G@@a", "G@@b"] {
            world.server.send(&push("dom", &json!({ "name": name, "hosts": [] }))).await.unwrap();
            let pushed = next(&mut handed_on).await;
            assert!(!pushed.trusted && pushed.list.name == name);
        }
        assert_eq!(world.tally.strangers.get(), 2);
        // What cannot be awaited is that nothing comes: by the second push the first was dealt with long ago.
        assert!(timeout(Duration::from_millis(50), world.server.recv(&mut [0; 100])).await.is_err());
    }

    #[actix::test]
    async fn so_many_datagrams_of_strangers_are_read_in_a_second() {
        tokio::time::pause();
        let mut allowance = Allowance { since: Instant::now(), read: 0 };
        for _second in 0..3 {
            assert!((0..STRANGERS_IN_A_SECOND).all(|_| allowance.take()));
            assert!(!allowance.take());
            tokio::time::advance(Duration::from_secs(1)).await;
        }
    }

    #[actix::test]
    async fn strangers_beyond_that_and_their_bombs_are_not_read_and_cost_our_servers_nothing() {
        let (keeper, mut handed_on) = Keeper::new();
        let trusts_servers = Rc::new(Cell::new(false));
        let trusts = trusts_servers.clone();
        let list = |name: &str, filler: usize| {
            gzip(&push("dom", &json!({ "name": name, "hosts": [], "filler": " ".repeat(filler) })))
        };
        let world = World::handing_on_to(keeper.downgrade().recipient(), move |_| trusts.get()).await;
        world.server.send(&list("G@@bomb", LONGEST_OF_STRANGERS)).await.unwrap();
        world.server.send(&list("G@@strange", 0)).await.unwrap();
        assert_eq!(next(&mut handed_on).await.list.name, "G@@strange");
        world.receiver.send(ExhaustStrangers).await.unwrap();
        world.server.send(&list("G@@strange", 0)).await.unwrap();
        while world.tally.strangers.get() < 3 {
            sleep(Duration::from_millis(1)).await;
        }
        trusts_servers.set(true);
        world.server.send(&list("G@@ours", LONGEST_OF_STRANGERS)).await.unwrap();
        assert_eq!(next(&mut handed_on).await.list.name, "G@@ours");
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

    #[actix::test]
    async fn a_push_nobody_has_room_for_is_not_acknowledged() {
        let free = Arc::new(Notify::new());
        let busy = Busy(free.clone()).start();
        let world = World::handing_on_to(busy.downgrade().recipient(), |_| true).await;
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
        let world = World::handing_on_to(keeper.downgrade().recipient(), |_| true).await;
        world.receiver.send(StopReceiving).await.unwrap();
        assert!(world.receiver.send(StopReceiving).await.is_err());

        let World { receiver, server, .. } = World::handing_on_to(keeper.downgrade().recipient(), |_| true).await;
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
