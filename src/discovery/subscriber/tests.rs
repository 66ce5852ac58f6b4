//! The Subscriber with a paused clock and a fake Registry.

use std::{
    cell::RefCell,
    future::Future,
    pin::pin,
    rc::Rc,
    sync::{Arc, Mutex},
    task::{self, Wake, Waker},
};

use actix::{Addr, ResponseFuture};
use actix_rt::time::sleep;

use super::*;
use crate::{
    model::{
        instance::Instance,
        service::{ServiceInfo, ServiceName},
    },
    runtime::supervision,
};

/// A fake Registry: answers polls from its fields.
#[derive(Clone, Default)]
struct Server(Rc<RefCell<ServerState>>);

#[derive(Default)]
struct ServerState {
    hosts: Vec<(&'static str, f64)>,
    fails: bool,
    clock: i64,
    epoch: u64,
    is_v3: bool,
    polls: u32,
    delay: Duration,
}

impl Server {
    fn set_hosts(&self, hosts: &[(&'static str, f64)]) {
        self.0.borrow_mut().hosts = hosts.to_vec();
    }

    fn list(&self) -> Listed {
        let state = self.0.borrow();
        let protocol = if state.is_v3 { WireProtocol::V3 } else { WireProtocol::V1 };
        Listed { info: list(&state.hosts, state.clock), epoch: Some(state.epoch), protocol }
    }
}

impl Actor for Server {
    type Context = Context<Self>;
}

impl Handler<PollList> for Server {
    type Result = ResponseFuture<Result<Listed, Error>>;

    fn handle(&mut self, _: PollList, _: &mut Context<Self>) -> Self::Result {
        self.0.borrow_mut().polls += 1;
        self.0.borrow_mut().clock += 1000;
        let delay = self.0.borrow().delay;
        let answer = if self.0.borrow().fails {
            let reason = "refused".into();
            Err(Error::Unreachable { operation: crate::error::Operation::List, server: "a:1".into(), reason })
        } else {
            Ok(self.list())
        };
        Box::pin(async move {
            sleep(delay).await;
            answer
        })
    }
}

fn service() -> ServiceName {
    ServiceName::parse("orders").unwrap()
}

fn subscription() -> SubscriptionKey {
    SubscriptionKey { service: service(), clusters: String::new() }
}

fn list(hosts: &[(&str, f64)], clock: i64) -> ServiceInfo {
    let mut info = ServiceInfo::empty(&service(), "");
    info.last_ref_time = clock;
    for (ip, weight) in hosts {
        let mut instance = Instance::new(*ip, 80);
        instance.weight = *weight;
        info.hosts.push(Arc::new(instance));
    }
    info.tidy("", false);
    info
}

/// Keeps the changes that it receives.
#[derive(Default)]
struct Recorder {
    received: Vec<ServiceChanged>,
}

impl Actor for Recorder {
    type Context = Context<Self>;
}

impl Handler<ServiceChanged> for Recorder {
    type Result = ();

    fn handle(&mut self, change: ServiceChanged, _: &mut Context<Self>) {
        self.received.push(change);
    }
}

#[derive(Message)]
#[rtype(result = "Vec<ServiceChanged>")]
struct TakeReceived;

impl Handler<TakeReceived> for Recorder {
    type Result = Vec<ServiceChanged>;

    fn handle(&mut self, _: TakeReceived, _: &mut Context<Self>) -> Self::Result {
        std::mem::take(&mut self.received)
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct Stop;

impl Handler<Stop> for Recorder {
    type Result = ();

    fn handle(&mut self, _: Stop, ctx: &mut Context<Self>) {
        ctx.stop();
    }
}

struct World {
    server: Server,
    registry: Addr<Server>,
    subscriber: Addr<Subscriber>,
    recorder: Addr<Recorder>,
}

fn settings() -> Settings {
    Settings {
        min_interval: Duration::from_secs(1),
        max_interval: Duration::from_secs(1),
        protect_from_empty: false,
        outage_hold: Duration::from_secs(15),
        cache: None,
        records: ServiceRecords::new(service(), None),
        grid: Grid::new(),
        history: History::new(),
        log: Logger::root(slog::Discard, slog::o!()),
    }
}

fn begin_with(settings: Settings, hosts: &[(&'static str, f64)]) -> World {
    tokio::time::pause();
    let server = Server::default();
    server.set_hosts(hosts);
    let registry = server.clone().start();
    let log = settings.log.clone();
    let subscriber = Subscriber::new(subscription(), registry.clone().downgrade().recipient(), settings);
    let subscriber = supervision::start(subscriber, 16, log);
    let recorder = Recorder::default().start();
    let world = World { server, registry, subscriber, recorder };
    world.listen(Listener::Strong(world.recorder.clone().recipient()));
    world
}

fn begin(hosts: &[(&'static str, f64)]) -> World {
    begin_with(settings(), hosts)
}

impl World {
    fn listen(&self, listener: Listener<ServiceChanged>) {
        self.subscriber.do_send(Listen(listener));
    }

    async fn received_after(&self, seconds: f64) -> Vec<ServiceChanged> {
        sleep(Duration::from_secs_f64(seconds)).await;
        self.recorder.send(TakeReceived).await.unwrap()
    }

    fn push(&self, hosts: &[(&str, f64)], clock: i64) {
        let listed = Listed { info: list(hosts, clock), epoch: Some(0), protocol: WireProtocol::V1 };
        self.subscriber.do_send(PushedList(listed));
    }
}

fn ips(instances: &[Arc<Instance>]) -> Vec<&str> {
    instances.iter().map(|instance| instance.ip.as_str()).collect()
}

#[actix::test]
async fn a_listener_receives_the_first_list_and_then_what_changes() {
    let world = begin(&[("1", 1.0)]);
    let received = world.received_after(2.5).await;
    assert_eq!(received.len(), 1, "nothing changed, so nothing more is sent");
    assert!(received[0].first && ips(&received[0].added) == ["1"] && received[0].source == Source::Poll);
    world.server.set_hosts(&[("1", 2.0), ("2", 1.0)]);
    let received = world.received_after(1.2).await;
    assert_eq!((received.len(), ips(&received[0].added)), (1, vec!["2"]));
    assert_eq!((received[0].changed[0].0.weight, received[0].changed[0].1.weight), (1.0, 2.0));
    world.server.set_hosts(&[]);
    let received = world.received_after(1.2).await;
    assert!(!received[0].first && ips(&received[0].removed) == ["1", "2"] && received[0].info.hosts.is_empty());
}

#[actix::test]
async fn a_late_listener_receives_the_current_list_at_once_and_a_known_one_does_not() {
    let world = begin(&[("1", 1.0)]);
    world.received_after(0.5).await;
    let late = Recorder::default().start();
    world.listen(Listener::Strong(late.clone().recipient()));
    world.listen(Listener::Strong(world.recorder.clone().recipient()));
    assert!(world.received_after(0.1).await.is_empty());
    let received = late.send(TakeReceived).await.unwrap();
    assert!(received.len() == 1 && received[0].first);
}

#[actix::test]
async fn a_listener_that_is_added_as_the_last_one_leaves_receives_the_list() {
    let world = begin(&[("1", 1.0)]);
    world.received_after(0.5).await;
    world.subscriber.do_send(StopListening(None));
    world.listen(Listener::Strong(world.recorder.clone().recipient()));
    let received = world.received_after(0.1).await;
    assert!(received.len() == 1 && received[0].first);
    world.subscriber.do_send(StopListening(None));
    sleep(Duration::from_secs(1)).await;
    assert!(!world.subscriber.connected(), "no listener is left");
}

#[actix::test]
async fn a_list_is_polled_before_the_server_forgets_the_push_subscription() {
    let (min_interval, max_interval) = (Duration::from_secs(1), Duration::from_secs(60));
    let world = begin_with(Settings { min_interval, max_interval, ..settings() }, &[]);
    // The first interval has a random length.
    sleep(Duration::from_secs(20)).await;
    let polls = world.server.0.borrow().polls;
    sleep(Duration::from_secs(200)).await;
    let more = world.server.0.borrow().polls - polls;
    assert!((22..=24).contains(&more), "cacheMillis is 10 s: {more}");
}

#[actix::test]
async fn a_list_that_never_changes_is_cached_again_before_the_file_is_too_old() {
    let folder = std::env::temp_dir().join(format!("actix-nacos-subscriber-{}", std::process::id()));
    let file = CacheFile::new(&folder, "", &subscription());
    let _world = begin_with(Settings { cache: Some(file.clone()), ..settings() }, &[("1", 1.0)]);
    for _ in 0..2 {
        sleep(Duration::from_secs(3700)).await;
        let saved = file.load();
        assert!(saved.is_ok_and(|saved| ips(&saved.hosts) == ["1"]));
        std::fs::remove_file(file.path()).unwrap();
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[actix::test]
async fn a_failed_poll_is_no_change() {
    let world = begin(&[("1", 1.0)]);
    world.received_after(0.5).await;
    world.server.0.borrow_mut().fails = true;
    assert!(world.received_after(10.0).await.is_empty());
    world.server.0.borrow_mut().fails = false;
    assert!(world.received_after(3.0).await.is_empty());
}

#[actix::test]
async fn an_older_push_is_dropped_and_a_newer_one_published_at_once() {
    let world = begin(&[("1", 1.0)]);
    world.received_after(0.2).await;
    world.push(&[("1", 1.0), ("2", 1.0)], 1500);
    world.push(&[("1", 1.0)], 1200);
    world.push(&[("1", 1.0), ("2", 1.0)], 1500);
    let received = world.received_after(0.1).await;
    assert_eq!((received.len(), received[0].source, ips(&received[0].info.hosts)), (1, Source::Push, vec!["1", "2"]));
}

#[actix::test]
async fn a_poll_is_dropped_only_after_a_newer_push_that_arrived_meanwhile() {
    let world = begin(&[("1", 1.0)]);
    world.received_after(0.2).await;
    world.server.0.borrow_mut().delay = Duration::from_millis(500);
    sleep(Duration::from_secs(1)).await;
    // The poll that is under way answers with server time 2000.
    world.push(&[("2", 1.0)], 2500);
    let received = world.received_after(0.6).await;
    assert_eq!(ips(&received.last().unwrap().info.hosts), ["2"], "the poll's list is older");
    // A poll that is sent after the current list wins at any server time.
    world.server.0.borrow_mut().clock = -100_000;
    let received = world.received_after(2.0).await;
    assert_eq!(ips(&received.last().unwrap().info.hosts), ["1"]);
}

#[actix::test]
async fn clocks_of_different_epochs_are_not_compared() {
    let world = begin(&[("1", 1.0)]);
    world.received_after(0.2).await;
    world.server.set_hosts(&[("1", 1.0), ("2", 1.0)]);
    world.server.0.borrow_mut().epoch = 1;
    world.server.0.borrow_mut().clock = -3_600_000;
    let received = world.received_after(1.2).await;
    assert_eq!((ips(&received[0].added), received[0].source), (vec!["2"], Source::Failover));
}

#[actix::test]
async fn a_list_emptied_by_a_new_epoch_is_withheld_from_listeners_and_views() {
    let world = begin(&[("1", 1.0), ("2", 1.0), ("3", 1.0)]);
    let view = world.subscriber.send(AddView { healthy_only: false }).await.unwrap();
    world.received_after(0.2).await;
    world.server.set_hosts(&[]);
    world.server.0.borrow_mut().epoch = 1;
    assert!(world.received_after(5.0).await.is_empty());
    assert_eq!(ips(&view.withheld()), ["1", "2", "3"]);
    assert!(view.select_one().is_some(), "no instance is confirmed yet");
    world.server.set_hosts(&[("2", 1.0), ("3", 1.0), ("4", 1.0)]);
    let received = world.received_after(2.0).await;
    assert_eq!(
        (received.len(), ips(&received[0].added)),
        (1, vec!["4"]),
        "listeners are notified of new instances meanwhile"
    );
    assert_eq!((ips(&view.instances()), ips(&view.withheld())), (vec!["1", "2", "3", "4"], vec!["1"]));
    assert!((0..100).all(|_| view.select_one().unwrap().ip != "1"), "half of the instances are confirmed");
    let received = world.received_after(10.0).await;
    assert_eq!((received.len(), ips(&received[0].removed)), (1, vec!["1"]));
    assert!(view.withheld().is_empty());
}

#[actix::test]
async fn views_show_a_confirmed_instance_without_a_change() {
    let world = begin(&[("1", 1.0), ("2", 1.0)]);
    let mut view = world.subscriber.send(AddView { healthy_only: false }).await.unwrap();
    view.changed().await.unwrap();
    world.received_after(0.2).await;
    world.server.set_hosts(&[]);
    world.server.0.borrow_mut().epoch = 1;
    world.received_after(1.5).await;
    world.server.set_hosts(&[("1", 1.0), ("2", 1.0)]);
    assert!(world.received_after(1.5).await.is_empty());
    assert!(view.withheld().is_empty());
    assert!(futures_util::FutureExt::now_or_never(view.changed()).is_none());
}

#[actix::test]
async fn a_new_epoch_brings_one_poll_forward_by_a_random_time() {
    let slow = Duration::from_secs(10);
    let world = begin_with(Settings { min_interval: slow, max_interval: slow, ..settings() }, &[]);
    sleep(Duration::from_secs(2)).await;
    let polls = world.server.0.borrow().polls;
    for _ in 0..10 {
        world.subscriber.send(EpochBegan).await.unwrap();
    }
    sleep(Duration::from_millis(1600)).await;
    assert_eq!(world.server.0.borrow().polls, polls + 1);
}

#[actix::test]
async fn the_end_of_a_hold_is_not_missed_between_two_polls() {
    let slow = Duration::from_secs(600);
    let world = begin_with(Settings { min_interval: slow, max_interval: slow, ..settings() }, &[("1", 1.0)]);
    world.received_after(0.2).await;
    world.server.set_hosts(&[]);
    world.server.0.borrow_mut().epoch = 1;
    world.subscriber.do_send(EpochBegan);
    assert!(world.received_after(15.0).await.is_empty());
    assert_eq!(world.received_after(3.0).await.len(), 1);
    let polls = world.server.0.borrow().polls;
    world.received_after(60.0).await;
    assert_eq!(world.server.0.borrow().polls, polls, "nothing is withheld any more");
}

#[actix::test]
async fn with_protection_an_empty_push_is_followed_by_a_poll_at_once() {
    let rare = Duration::from_secs(600);
    let settings = Settings { min_interval: rare, max_interval: rare, protect_from_empty: true, ..settings() };
    let world = begin_with(settings, &[("1", 1.0)]);
    world.received_after(0.2).await;
    world.server.set_hosts(&[]);
    world.push(&[], 1500);
    assert!(world.received_after(0.3).await.is_empty(), "a push alone is not believed");
    assert_eq!(ips(&world.received_after(3.0).await[0].removed), ["1"]);
}

#[actix::test]
async fn a_list_that_shrinks_without_an_outage_takes_effect_at_once() {
    let world = begin(&[("1", 1.0), ("2", 1.0), ("3", 1.0)]);
    world.received_after(0.2).await;
    world.server.set_hosts(&[("1", 1.0)]);
    assert_eq!(world.received_after(1.2).await[0].removed.len(), 2);
}

#[actix::test]
async fn with_protection_an_empty_list_needs_a_second_poll() {
    let world = begin_with(Settings { protect_from_empty: true, ..settings() }, &[("1", 1.0)]);
    world.received_after(0.2).await;
    world.push(&[], 1500);
    assert!(world.received_after(0.3).await.is_empty(), "a push alone is not believed");
    world.server.set_hosts(&[]);
    let polls = world.server.0.borrow().polls;
    let received = world.received_after(3.0).await;
    assert_eq!(received.len(), 1);
    assert!(world.server.0.borrow().polls >= polls + 2);
}

#[actix::test]
async fn a_full_listener_receives_the_newest_list_compared_with_what_it_received_last() {
    let world = begin(&[("1", 1.0)]);
    let (slow, mailbox) = full_listener();
    world.listen(Listener::Strong(slow.clone().recipient()));
    world.received_after(0.5).await;
    for weight in [2.0, 3.0, 4.0] {
        world.server.0.borrow_mut().hosts = vec![("1", weight), ("2", weight)];
        world.received_after(1.1).await;
    }
    actix_rt::spawn(supervision::supervise(Recorder::default(), mailbox, Logger::root(slog::Discard, slog::o!())));
    sleep(Duration::from_millis(200)).await;
    let received = slow.send(TakeReceived).await.unwrap();
    let last = received.last().unwrap();
    assert!(received.len() <= 3, "one that fitted into the mailbox, one that was pending: {}", received.len());
    assert!(received[0].first && last.info.hosts[0].weight == 4.0);
    let before = &received[received.len() - 2].info.hosts;
    assert_eq!(last.changed.first().map(|(old, _)| old.weight), Some(before[0].weight));
}

#[derive(Message)]
#[rtype(result = "()")]
struct TriggerPanic;

impl Handler<TriggerPanic> for Subscriber {
    type Result = ();

    fn handle(&mut self, _: TriggerPanic, _: &mut Context<Self>) {
        panic!("triggered by a test");
    }
}

#[actix::test]
async fn after_a_restart_it_polls_and_notifies_listeners_that_were_full() {
    let world = begin(&[("1", 1.0)]);
    let (slow, mailbox) = full_listener();
    world.listen(Listener::Strong(slow.clone().recipient()));
    for weight in [2.0, 3.0, 4.0] {
        world.server.set_hosts(&[("1", weight)]);
        world.received_after(1.1).await;
    }
    world.server.0.borrow_mut().delay = Duration::from_secs(3600);
    sleep(Duration::from_secs(2)).await;
    world.server.0.borrow_mut().delay = Duration::ZERO;
    let polls = world.server.0.borrow().polls;
    assert!(world.subscriber.send(TriggerPanic).await.is_err());
    actix_rt::spawn(supervision::supervise(Recorder::default(), mailbox, Logger::root(slog::Discard, slog::o!())));
    sleep(Duration::from_millis(200)).await;
    assert_eq!(world.server.0.borrow().polls, polls + 1, "the poll under way was lost");
    let received = slow.send(TakeReceived).await.unwrap();
    assert_eq!(received.last().unwrap().info.hosts[0].weight, 4.0);
}

/// An actor that does not run yet, with a mailbox of one.
fn full_listener() -> (Addr<Recorder>, actix::dev::channel::AddressReceiver<Recorder>) {
    let (sender, mailbox) = actix::dev::channel::channel(1);
    (Addr::new(sender), mailbox)
}

impl Supervised for Recorder {}

#[actix::test]
async fn a_weak_listener_is_notified_and_not_kept_alive() {
    let world = begin(&[("1", 1.0)]);
    let weak = Recorder::default().start();
    world.listen(Listener::Weak(weak.clone().downgrade().recipient()));
    world.received_after(0.5).await;
    world.server.set_hosts(&[("2", 1.0)]);
    world.received_after(1.2).await;
    assert_eq!(weak.send(TakeReceived).await.unwrap().len(), 2);
    let gone = weak.downgrade();
    drop(weak);
    world.server.set_hosts(&[("3", 1.0)]);
    world.received_after(1.2).await;
    assert!(gone.upgrade().is_none_or(|recorder| !recorder.connected()));
}

#[actix::test]
async fn a_listener_subscribed_both_weakly_and_strongly_is_kept_alive_and_notified_once() {
    let world = begin(&[("1", 1.0)]);
    let recorder = Recorder::default().start();
    for listener in [
        Listener::Weak(recorder.downgrade().recipient()),
        Listener::Strong(recorder.clone().recipient()),
        Listener::Weak(recorder.downgrade().recipient()),
    ] {
        world.listen(listener);
        world.received_after(0.5).await;
    }
    assert_eq!(recorder.send(TakeReceived).await.unwrap().len(), 1);
    let gone = recorder.downgrade();
    drop(recorder);
    world.server.set_hosts(&[("2", 1.0)]);
    world.received_after(1.2).await;
    let recorder = gone.upgrade().expect("the subscription keeps it alive");
    assert_eq!(recorder.send(TakeReceived).await.unwrap().len(), 1);
}

/// Records at each wake-up whether the view is stale.
struct StaleAtWakeUp {
    view: ServiceView,
    recorded: Mutex<Vec<bool>>,
}

impl Wake for StaleAtWakeUp {
    fn wake(self: Arc<Self>) {
        self.recorded.lock().unwrap().push(self.view.is_stale());
    }
}

#[actix::test]
async fn a_view_is_fresh_before_its_readers_are_woken() {
    let world = begin(&[("1", 1.0)]);
    let mut view = world.subscriber.send(AddView { healthy_only: false }).await.unwrap();
    view.changed().await.unwrap();
    world.server.0.borrow_mut().fails = true;
    sleep(Duration::from_secs(2)).await;
    assert!(view.is_stale());
    let woken = Arc::new(StaleAtWakeUp { view: view.clone(), recorded: Mutex::default() });
    let waker = Waker::from(woken.clone());
    let mut changed = pin!(view.changed());
    assert!(changed.as_mut().poll(&mut task::Context::from_waker(&waker)).is_pending());
    world.server.0.borrow_mut().fails = false;
    world.server.set_hosts(&[("1", 1.0), ("2", 1.0)]);
    sleep(Duration::from_secs(3)).await;
    assert_eq!(*woken.recorded.lock().unwrap(), [false]);
    changed.await.unwrap();
}

#[actix::test]
async fn it_ends_with_its_last_listener_and_view() {
    let world = begin(&[]);
    let view = world.subscriber.send(AddView { healthy_only: false }).await.unwrap();
    world.subscriber.send(StopListening(None)).await.unwrap();
    sleep(Duration::from_secs(5)).await;
    assert!(world.subscriber.connected(), "a view is left");
    drop(view);
    sleep(Duration::from_millis(10)).await;
    assert!(!world.subscriber.connected());
}

#[actix::test]
async fn a_listener_that_has_stopped_is_removed() {
    let world = begin(&[]);
    world.received_after(0.5).await;
    world.recorder.do_send(Stop);
    sleep(Duration::from_secs(2)).await;
    assert!(!world.subscriber.connected());
}

#[actix::test]
async fn it_ends_with_the_registry_and_its_views_are_stale() {
    let World { server: _, registry, subscriber, recorder: _ear } = begin(&[("1", 1.0)]);
    let view = subscriber.send(AddView { healthy_only: false }).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    assert!(view.is_ready() && !view.is_stale());
    drop(registry);
    sleep(Duration::from_secs(3)).await;
    assert!(!subscriber.connected() && view.is_stale());
    assert_eq!(ips(&view.instances()), ["1"], "the last list stays");
}

#[actix::test]
async fn hints_bring_the_next_poll_forward_once_a_second() {
    let slow = Duration::from_secs(10);
    let world = begin_with(Settings { min_interval: slow, max_interval: slow, ..settings() }, &[]);
    sleep(Duration::from_secs(2)).await;
    let polls = world.server.0.borrow().polls;
    for _ in 0..2000 {
        world.subscriber.send(Hint).await.unwrap();
        sleep(Duration::from_millis(1)).await;
    }
    let more = world.server.0.borrow().polls - polls;
    assert!((1..=4).contains(&more), "{more}");
}

#[actix::test]
async fn hints_during_a_poll_bring_the_next_one_forward_no_more_often() {
    let (min_interval, max_interval) = (Duration::from_millis(100), Duration::from_secs(10));
    let world = begin_with(Settings { min_interval, max_interval, ..settings() }, &[]);
    world.server.0.borrow_mut().delay = Duration::from_millis(50);
    sleep(Duration::from_secs(2)).await;
    let polls = world.server.0.borrow().polls;
    for _ in 0..400 {
        world.subscriber.send(Hint).await.unwrap();
        sleep(Duration::from_millis(10)).await;
    }
    let more = world.server.0.borrow().polls - polls;
    assert!((3..=5).contains(&more), "{more}");
}

#[actix::test]
async fn hints_do_not_postpone_an_earlier_poll() {
    let quick = Duration::from_millis(300);
    let world = begin_with(Settings { min_interval: quick, max_interval: quick, ..settings() }, &[]);
    sleep(Duration::from_secs(2)).await;
    let polls = world.server.0.borrow().polls;
    for _ in 0..300 {
        world.subscriber.send(Hint).await.unwrap();
        sleep(Duration::from_millis(10)).await;
    }
    let more = world.server.0.borrow().polls - polls;
    assert!(more >= 7, "{more}");
}
