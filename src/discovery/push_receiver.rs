//! The PushReceiver actor: receives the lists that servers push by UDP, and acknowledges them.
//!
//! Nothing authenticates a datagram, and anybody can send one. So datagrams use bounded memory and a bounded share of
//! the thread's time: a flood of them must not delay heartbeats.
//!
//! | limit | value | beyond it |
//! |---|---|---|
//! | text decoded per second | 2 MiB, of which untrusted sources get 256 KiB | dropped; servers' lists are polled |
//! | datagrams decoded per second | 1,000, of which untrusted sources get 20 | the same |
//! | lists that wait for the Registry | 64, or 16 for untrusted sources | dropped, not acknowledged |
//!
//! An acknowledgement is sent to the sender of the datagram, and only to a trusted one: the receiver must not become a
//! reflector for forged sources. It is sent when the Registry has handled the list, so a list that is dropped is pushed
//! again.

use std::{
    cell::Cell,
    io,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    time::Duration,
};

use actix::{prelude::*, WeakRecipient};
use actix_rt::time::{sleep, Instant};
use futures_util::stream::{unfold, Stream};

use crate::{
    runtime::sockets::{StdUdpSocket, UdpSocket},
    wire::{
        datagram::{may_be_a_push, Acknowledgement, NotDecoded, PushContent, PushMessage, MAX_DATAGRAM_SIZE},
        v1::ListAnswer,
    },
};

/// How many bytes of text, and how many datagrams, are decoded per second, from all sources together. The longest list
/// that fits into a gzipped datagram, with about 3,000 instances, has half of these bytes.
const BYTES_PER_SECOND: usize = 2 * 1024 * 1024;
const DECODES_PER_SECOND: u32 = 1_000;
/// The part of both limits that untrusted sources may use. Servers behind address translation are untrusted, too;
/// polls find the changes whose pushes are dropped.
const UNTRUSTED_BYTES_PER_SECOND: usize = 256 * 1024;
const UNTRUSTED_DECODES_PER_SECOND: u32 = 20;
/// All datagrams that are dropped within this time cause one [`OverBudget`].
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// How many lists may wait for the recipient. More are dropped without an acknowledgement, so servers send them again.
const MAX_WAITING_LISTS: usize = 64;
/// How many lists may wait before those of untrusted sources are dropped. The rest is reserved for servers.
const MAX_WAITING_UNTRUSTED_LISTS: usize = 16;

/// Carries a list that was pushed.
///
/// Sent to the Registry, which finds the subscriptions.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Pushed {
    /// The epoch in which the receiving socket was opened.
    pub(crate) epoch: u64,
    pub(crate) from: SocketAddr,
    pub(crate) list: ListAnswer,
    /// Whether the datagram came from a configured server. Any other list is at most a reason to poll.
    pub(crate) trusted: bool,
}

/// Reports that datagrams of servers were dropped because the budget was spent. Any list may have changed.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub(crate) struct OverBudget;

/// Ends the receiver and closes its socket.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct StopReceiving;

/// Counts the datagrams, for the status.
#[derive(Debug, Default)]
pub(crate) struct PushTally {
    /// Decoded, from servers.
    pub(crate) pushes: Cell<u64>,
    /// From other sources, decoded or not.
    pub(crate) untrusted: Cell<u64>,
    /// Malformed, from servers.
    pub(crate) unreadable: Cell<u64>,
    /// Dropped because the budget was spent, from servers.
    pub(crate) over_budget: Cell<u64>,
}

/// `Cell` is enough, since all counting is in the Registry's thread.
fn count(counter: &Cell<u64>) {
    counter.set(counter.get() + 1);
}

/// Receives pushes on one socket for all subscriptions of a Registry, acknowledges them and forwards their lists.
///
/// It holds its recipient weakly, and ends on [`StopReceiving`] or when a push finds the recipient gone. A push that is
/// dropped, because too many lists wait or the budget is spent, is not acknowledged, so the server sends it again.
pub(crate) struct PushReceiver {
    socket: Rc<UdpSocket>,
    epoch: u64,
    trusts: Rc<dyn Fn(IpAddr) -> bool>,
    recipient: WeakRecipient<Pushed>,
    over_budget: WeakRecipient<OverBudget>,
    tally: Rc<PushTally>,
    /// How many lists the recipient has not handled yet.
    waiting_lists: usize,
    /// For all sources, untrusted ones included.
    budget: Budget,
    untrusted_budget: Budget,
    /// Whether [`OverBudget`] will be sent.
    report_is_pending: bool,
}

/// Limits what is decoded in each second.
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
    ///
    /// # Errors
    /// [`NotDecoded::OverLimit`] if the budget of this second is spent.
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
    /// Binds the socket. Must be called on the arbiter that the actor will run on.
    pub(crate) fn bind(
        address: SocketAddr,
        epoch: u64,
        trusts: Rc<dyn Fn(IpAddr) -> bool>,
        (recipient, over_budget): (WeakRecipient<Pushed>, WeakRecipient<OverBudget>),
        tally: Rc<PushTally>,
    ) -> io::Result<Self> {
        let socket = StdUdpSocket::bind(address)?;
        socket.set_nonblocking(true)?;
        Ok(PushReceiver {
            socket: Rc::new(UdpSocket::from_std(socket)?),
            epoch,
            trusts,
            recipient,
            over_budget,
            tally,
            waiting_lists: 0,
            budget: Budget::new(BYTES_PER_SECOND, DECODES_PER_SECOND),
            untrusted_budget: Budget::new(UNTRUSTED_BYTES_PER_SECOND, UNTRUSTED_DECODES_PER_SECOND),
            report_is_pending: false,
        })
    }

    /// The address of the socket, with the port that the system has chosen.
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Decodes a datagram within the budget.
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

    /// Sends [`OverBudget`] after a while, so that one message covers all datagrams that are dropped until then.
    fn report_later(&mut self, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.report_is_pending, true) {
            return;
        }
        ctx.run_later(REPORT_INTERVAL, |this, ctx| {
            this.report_is_pending = false;
            match this.over_budget.upgrade() {
                Some(recipient) => recipient.do_send(OverBudget),
                None => ctx.stop(),
            }
        });
    }

    /// Sends the acknowledgement without waiting for it.
    fn acknowledge(&self, to: SocketAddr, acknowledgement: &Acknowledgement, ctx: &mut Context<Self>) {
        let (socket, bytes) = (self.socket.clone(), acknowledgement.encode());
        // If the acknowledgement is lost, the server repeats the push.
        let send = async move { drop(socket.send_to(&bytes, to).await) };
        ctx.spawn(send.into_actor(self));
    }

    /// Sends the list to the recipient, and acknowledges it once it is handled.
    fn forward(&mut self, pushed: Pushed, acknowledgement: Acknowledgement, ctx: &mut Context<Self>) {
        let Some(recipient) = self.recipient.upgrade().filter(Recipient::connected) else {
            ctx.stop();
            return;
        };
        let limit = if pushed.trusted { MAX_WAITING_LISTS } else { MAX_WAITING_UNTRUSTED_LISTS };
        if self.waiting_lists >= limit {
            return;
        }
        self.waiting_lists += 1;
        let (from, trusted) = (pushed.from, pushed.trusted);
        // `try_send` would not limit anything: each upgraded address may put one message into a full mailbox.
        let handled = recipient.send(pushed).into_actor(self).map(move |handled, this, ctx| {
            this.waiting_lists -= 1;
            if handled.is_ok() && trusted {
                this.acknowledge(from, &acknowledgement, ctx);
            }
        });
        ctx.spawn(handled);
    }
}

impl Actor for PushReceiver {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // A restart loses the futures that count down, and the timer.
        self.waiting_lists = 0;
        if std::mem::take(&mut self.report_is_pending) {
            self.report_later(ctx);
        }
        ctx.add_stream(datagrams(self.socket.clone()));
    }
}

/// A restart loses the stream and the datagram that it has read. `started` makes a new stream of the same socket.
impl Supervised for PushReceiver {}

/// One datagram as it was received.
struct Datagram {
    from: SocketAddr,
    bytes: Vec<u8>,
}

/// What arrives at the socket, for ever: an error of the socket does not end it.
fn datagrams(socket: Rc<UdpSocket>) -> impl Stream<Item = Datagram> {
    unfold((socket, vec![0; MAX_DATAGRAM_SIZE]), |(socket, mut buffer)| async move {
        loop {
            match socket.recv_from(&mut buffer).await {
                Ok((length, from)) => {
                    let datagram = Datagram { from, bytes: buffer[..length].to_vec() };
                    return Some((datagram, (socket, buffer)));
                }
                // Usually an ICMP message about an acknowledgement that was not received: receiving goes on.
                Err(_) => sleep(Duration::from_millis(10)).await,
            }
        }
    })
}

impl StreamHandler<Datagram> for PushReceiver {
    fn handle(&mut self, datagram: Datagram, ctx: &mut Self::Context) {
        // A socket for both families gives IPv4 addresses in their IPv6 form.
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
                self.forward(
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
    use std::sync::Arc;

    use actix_rt::{net::UdpSocket, time::timeout};
    use serde_json::json;
    use tokio::sync::{mpsc, Notify};

    use super::*;
    use crate::wire::datagram::samples::{gzip, push};

    /// Forwards what it receives: a list, or `None` for [`OverBudget`].
    struct Forwarder(mpsc::UnboundedSender<Option<Pushed>>);

    impl Forwarder {
        fn new() -> (Addr<Self>, mpsc::UnboundedReceiver<Option<Pushed>>) {
            let (forwarded_tx, forwarded) = mpsc::unbounded_channel();
            (Forwarder(forwarded_tx).start(), forwarded)
        }
    }

    /// Returns `None` for [`OverBudget`].
    async fn next(forwarded: &mut mpsc::UnboundedReceiver<Option<Pushed>>) -> Option<Pushed> {
        timeout(Duration::from_secs(10), forwarded.recv()).await.unwrap().unwrap()
    }

    impl Actor for Forwarder {
        type Context = Context<Self>;
    }

    impl Handler<Pushed> for Forwarder {
        type Result = ();

        fn handle(&mut self, pushed: Pushed, _: &mut Self::Context) {
            self.0.send(Some(pushed)).unwrap();
        }
    }

    impl Handler<OverBudget> for Forwarder {
        type Result = ();

        fn handle(&mut self, _: OverBudget, _: &mut Self::Context) {
            self.0.send(None).unwrap();
        }
    }

    /// A receiver, and the socket of a server that pushes to it.
    struct World {
        receiver: Addr<PushReceiver>,
        tally: Rc<PushTally>,
        server: UdpSocket,
    }

    impl World {
        async fn forwarding_to<A>(recipient: &Addr<A>, trusts: impl Fn(IpAddr) -> bool + 'static) -> Self
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

    /// Gives the receiver budgets that last for an hour instead of a second.
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
    async fn a_push_of_a_server_is_forwarded_and_acknowledged() {
        let (recipient, mut forwarded) = Forwarder::new();
        let world = World::forwarding_to(&recipient, |ip| ip.is_loopback()).await;
        world.server.send(&push("dom", &json!({ "name": "G@@s", "hosts": [] }))).await.unwrap();
        let pushed = next(&mut forwarded).await.unwrap();
        assert!(pushed.trusted && pushed.list.name == "G@@s");
        assert_eq!(pushed.from, world.server.local_addr().unwrap());
        assert_eq!(world.acknowledged().await.kind, "push-ack");
        world.server.send(b"nonsense").await.unwrap();
        world.server.send(&push("dump", &json!(null))).await.unwrap();
        assert_eq!(world.acknowledged().await.kind, "dump-ack", "the malformed datagram is not acknowledged");
        assert_eq!((world.tally.pushes.get(), world.tally.unreadable.get()), (2, 1));
    }

    #[actix::test]
    async fn an_untrusted_source_gets_no_acknowledgement() {
        let (recipient, mut forwarded) = Forwarder::new();
        let world = World::forwarding_to(&recipient, |_| false).await;
        for name in ["G@@a", "G@@b"] {
            world.server.send(&push("dom", &json!({ "name": name, "hosts": [] }))).await.unwrap();
            let pushed = next(&mut forwarded).await.unwrap();
            assert!(!pushed.trusted && pushed.list.name == name);
        }
        assert_eq!(world.tally.untrusted.get(), 2);
        // The absence of a reply cannot be awaited. The second push was handled after the first, so this time suffices.
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
    async fn pushes_over_the_budget_are_not_acknowledged_and_reported_once_a_second() {
        let (recipient, mut forwarded) = Forwarder::new();
        let world = World::forwarding_to(&recipient, |_| true).await;
        for budget in [(10_000, 100), (100_000, 1)] {
            world.receiver.send(SetBudgets { all: budget, untrusted: PLENTY }).await.unwrap();
            world.server.send(&gzipped_list("G@@read", 5_000)).await.unwrap();
            assert_eq!(next(&mut forwarded).await.unwrap().list.name, "G@@read");
            assert_eq!(world.acknowledged().await.kind, "push-ack");
            let before = world.tally.over_budget.get();
            for _ in 0..10 {
                world.server.send(&gzipped_list("G@@unread", 5_000)).await.unwrap();
            }
            assert!(next(&mut forwarded).await.is_none(), "OverBudget, not a list");
            assert_eq!(world.tally.over_budget.get() - before, 10);
        }
        world.receiver.send(SetBudgets { all: PLENTY, untrusted: PLENTY }).await.unwrap();
        world.server.send(&push("dump", &json!(null))).await.unwrap();
        assert_eq!(world.acknowledged().await.kind, "dump-ack", "no push was acknowledged before");
        assert!(forwarded.is_empty(), "one OverBudget for ten datagrams");
    }

    #[actix::test]
    async fn untrusted_sources_use_a_part_of_the_budget_at_most() {
        let (recipient, mut forwarded) = Forwarder::new();
        let trusts_servers = Rc::new(Cell::new(false));
        let trusts = trusts_servers.clone();
        let world = World::forwarding_to(&recipient, move |_| trusts.get()).await;
        world.server.send(&gzipped_list("G@@bomb", UNTRUSTED_BYTES_PER_SECOND)).await.unwrap();
        world.counted(1, |tally| &tally.untrusted).await;
        world.receiver.send(SetBudgets { all: PLENTY, untrusted: (10_000, 2) }).await.unwrap();
        for name in ["G@@a", "G@@b", "G@@c"] {
            world.server.send(&gzipped_list(name, 0)).await.unwrap();
        }
        assert_eq!(next(&mut forwarded).await.unwrap().list.name, "G@@a");
        assert_eq!(next(&mut forwarded).await.unwrap().list.name, "G@@b");
        world.counted(4, |tally| &tally.untrusted).await;
        trusts_servers.set(true);
        world.server.send(&gzipped_list("G@@ours", 2 * UNTRUSTED_BYTES_PER_SECOND)).await.unwrap();
        assert_eq!(next(&mut forwarded).await.unwrap().list.name, "G@@ours", "no OverBudget was sent before");
        world.receiver.send(SetBudgets { all: (1_000, 1), untrusted: PLENTY }).await.unwrap();
        trusts_servers.set(false);
        world.server.send(&gzipped_list("G@@d", 0)).await.unwrap();
        assert_eq!(next(&mut forwarded).await.unwrap().list.name, "G@@d");
        trusts_servers.set(true);
        world.server.send(&gzipped_list("G@@ours", 0)).await.unwrap();
        assert!(next(&mut forwarded).await.is_none(), "trusted and untrusted sources share the budget");
    }

    /// Handles no message before it is notified.
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
    async fn pushes_beyond_the_limit_of_waiting_lists_are_not_acknowledged() {
        let free = Arc::new(Notify::new());
        let busy = Busy(free.clone()).start();
        let world = World::forwarding_to(&busy, |_| true).await;
        for _ in 0..MAX_WAITING_LISTS + 20 {
            world.server.send(&push("dom", &json!({ "name": "G@@s", "hosts": [] }))).await.unwrap();
        }
        // Received after all pushes and acknowledged first, because the pushes wait for their recipient.
        world.server.send(&push("dump", &json!(null))).await.unwrap();
        assert_eq!(world.acknowledged().await.kind, "dump-ack");
        free.notify_one();
        for _ in 0..MAX_WAITING_LISTS {
            assert_eq!(world.acknowledged().await.kind, "push-ack");
        }
        // The other pushes were dropped: the next acknowledgement is that of the next datagram.
        world.server.send(&push("weather", &json!(null))).await.unwrap();
        assert_eq!(world.acknowledged().await.kind, "unknown-ack");
    }

    #[actix::test]
    async fn the_receiver_ends_on_stop_receiving_and_when_its_recipient_is_gone() {
        let (recipient, mut forwarded) = Forwarder::new();
        let world = World::forwarding_to(&recipient, |_| true).await;
        world.receiver.send(StopReceiving).await.unwrap();
        assert!(world.receiver.send(StopReceiving).await.is_err());

        let World { receiver, server, .. } = World::forwarding_to(&recipient, |_| true).await;
        drop(recipient);
        assert!(forwarded.recv().await.is_none(), "the recipient is gone");
        server.send(&push("dom", &json!({ "name": "G@@s", "hosts": [] }))).await.unwrap();
        let ended = async {
            while receiver.connected() {
                actix_rt::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(5), ended).await.unwrap();
    }
}
