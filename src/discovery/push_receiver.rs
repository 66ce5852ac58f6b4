//! The PushReceiver actor: receives the lists that servers push by UDP, and acknowledges them.
//!
//! Nothing authenticates a datagram, and anybody can send one. So datagrams get bounded memory and a bounded share of the
//! thread's time.

use std::{
    cell::Cell,
    io,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    time::Duration,
};

use actix::{prelude::*, WeakRecipient};
use actix_rt::{
    net::UdpSocket,
    time::{sleep, Instant},
};
use futures_util::stream::{unfold, Stream};

use crate::wire::{
    datagram::{may_be_a_push, Acknowledgement, NotDecoded, PushContent, PushMessage, LARGEST_DATAGRAM},
    v1::ListAnswer,
};

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
/// How many lists may wait for a recipient that is busy. The next ones are dropped, and come again if they are trusted.
const MOST_UNDER_WAY: usize = 64;
/// How many of them before those of untrusted sources are dropped: the rest is for our servers.
const MOST_UNTRUSTED_UNDER_WAY: usize = 16;

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
    use std::sync::Arc;

    use actix_rt::time::timeout;
    use serde_json::json;
    use tokio::sync::{mpsc, Notify};

    use super::*;
    use crate::wire::datagram::samples::{gzip, push};

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
