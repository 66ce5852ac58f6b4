//! Which changes of a service's list listeners receive, and when.
// The lock is a gate: while a test holds it, a listener blocks its own thread.
#![allow(clippy::await_holding_lock)]

use actix::{Actor, Addr, AsyncContext, Context, Handler};
use actix_nacos::{
    embedded::{EmbeddedServer, Spoilt},
    DeregisterInstance, Discover, GetStatus, ModifyInstance, Operation, PushConfig, RegisterInstance, Registry,
    ServiceChanged, Source, StopSubscribe, Subscribe, SubscriptionStatus, Unsubscribe,
};
use futures_util::future::join_all;

use crate::support::{
    self, ask, config, eventually, listed_ports, ms, ports_of, registry, server, shut_down, soon, start, until, Gate,
    News, StopListener, IP,
};

fn register(port: u16) -> RegisterInstance {
    RegisterInstance::new("orders", IP, port)
}

fn deregister(port: u16) -> DeregisterInstance {
    DeregisterInstance::new("orders", IP, port)
}

async fn subscribe(registry: &Addr<Registry>, news: &News) {
    ask(registry, Subscribe::new("orders", news.recipient())).await.unwrap();
}

/// Starts a server and a Registry with one instance, at port 80.
async fn world() -> (EmbeddedServer, Addr<Registry>) {
    let server = server();
    let registry = registry(&server);
    ask(&registry, register(80)).await.unwrap();
    (server, registry)
}

async fn subscriptions(registry: &Addr<Registry>) -> Vec<SubscriptionStatus> {
    ask(registry, GetStatus).await.unwrap().subscriptions
}

/// Waits for several polls. All messages about earlier changes have been sent by then.
async fn some_polls(server: &EmbeddedServer) {
    let polls = || server.counters().requests_for(Operation::List);
    let so_far = polls();
    until("the list is asked for again", || polls() >= so_far + 3).await;
}

// Which listener receives what.

#[actix::test]
async fn the_first_message_has_first_set_and_all_instances_in_added() {
    let (_server, registry) = world().await;
    ask(&registry, register(81)).await.unwrap();
    let mut news = News::listen();
    subscribe(&registry, &news).await;
    let first = news.next().await;
    assert!(first.first && first.changed.is_empty() && first.removed.is_empty());
    assert_eq!((ports_of(&first.added), listed_ports(&first)), (vec![80, 81], vec![80, 81]));
    assert_eq!((first.source, first.service.to_string().as_str()), (Source::Poll, "DEFAULT_GROUP@@orders"));
    assert!(first.server_time.is_some() && first.server_time.unwrap() <= first.received + ms(1000));
}

#[actix::test]
async fn listeners_receive_an_empty_first_list() {
    let server = server();
    let registry = registry(&server);
    let mut news = News::listen();
    subscribe(&registry, &news).await;
    let first = news.next().await;
    assert!(first.first && first.info.hosts.is_empty() && first.added.is_empty());
}

#[actix::test]
async fn every_change_has_the_values_before_and_after() {
    let (_server, registry) = world().await;
    let mut news = News::listen();
    subscribe(&registry, &news).await;
    news.next().await;
    ask(&registry, register(81)).await.unwrap();
    let added = news.next().await;
    assert!(!added.first);
    assert_eq!((ports_of(&added.added), added.changed.len(), added.removed.len()), (vec![81], 0, 0));
    ask(&registry, ModifyInstance::new("orders", IP, 81).weight(2.0)).await.unwrap();
    let changed = news.next().await;
    let (before, now) = &changed.changed[0];
    assert_eq!((before.port, before.weight, now.weight), (81, 1.0, 2.0));
    assert_eq!((changed.added.len(), changed.changed.len(), changed.removed.len()), (0, 1, 0));
    ask(&registry, deregister(80)).await.unwrap();
    let removed = news.next().await;
    assert_eq!((ports_of(&removed.removed), removed.added.len(), removed.changed.len()), (vec![80], 0, 0));
    assert_eq!(listed_ports(&removed), [81]);
}

#[actix::test]
async fn a_turn_to_unhealthy_is_a_change() {
    let server = support::builder().heartbeat_timeout(ms(600)).delete_timeout(ms(60_000)).start().unwrap();
    let registry = registry(&server);
    ask(&registry, register(80)).await.unwrap();
    let mut news = News::listen();
    subscribe(&registry, &news).await;
    news.next().await;
    server.faults().only_for(&[Operation::Beat, Operation::Register]);
    server.faults().fail_share(1.0, 503);
    let ill = news.next().await;
    assert_eq!((ill.changed[0].0.healthy, ill.changed[0].1.healthy), (true, false));
    server.faults().clear();
    let well = news.next().await;
    assert_eq!((well.changed[0].0.healthy, well.changed[0].1.healthy), (false, true));
}

#[actix::test]
async fn a_listener_that_comes_late_gets_the_present_list_at_once_as_its_first() {
    let (server, registry) = world().await;
    let mut early = News::listen();
    subscribe(&registry, &early).await;
    early.next().await;
    ask(&registry, register(81)).await.unwrap();
    early.next().await;
    // From now on lists hang. The late listener receives the list that the Registry already has.
    server.faults().only_for(&[Operation::List]);
    server.faults().hang(true);
    let mut late = News::listen();
    subscribe(&registry, &late).await;
    let first = late.next().await;
    assert!(first.first);
    assert_eq!((ports_of(&first.added), listed_ports(&first)), (vec![80, 81], vec![80, 81]));
    assert!(early.waiting().is_empty(), "to the others it is no news");
    server.faults().clear();
}

#[actix::test]
async fn listeners_receive_nothing_while_nothing_changes() {
    let (server, registry) = world().await;
    let mut news = News::listen();
    subscribe(&registry, &news).await;
    news.next().await;
    some_polls(&server).await;
    ask(&registry, register(80)).await.unwrap();
    some_polls(&server).await;
    assert!(news.waiting().is_empty());
    assert_eq!(subscriptions(&registry).await[0].changes, 1, "the first list");
}

#[actix::test]
async fn an_empty_list_after_a_full_one_is_a_change() {
    let (_server, registry) = world().await;
    let mut news = News::listen();
    subscribe(&registry, &news).await;
    news.next().await;
    ask(&registry, deregister(80)).await.unwrap();
    let empty = news.next().await;
    assert_eq!((empty.info.hosts.len(), ports_of(&empty.removed)), (0, vec![80]));
    ask(&registry, register(80)).await.unwrap();
    assert_eq!(ports_of(&news.next().await.added), [80]);
}

#[actix::test]
async fn a_failed_poll_is_no_change() {
    let (server, registry) = world().await;
    let mut news = News::listen();
    subscribe(&registry, &news).await;
    news.next().await;
    let failed = async || subscriptions(&registry).await[0].last_error.clone();
    let fine = async || subscriptions(&registry).await[0].last_error.is_none().then_some(());
    server.faults().only_for(&[Operation::List]);
    for fault in [Spoilt::CutOff, Spoilt::Html, Spoilt::WrongType] {
        server.faults().spoil_share(1.0, fault);
        eventually("polls fail", failed).await;
        some_polls(&server).await;
        server.faults().spoil_share(0.0, fault);
        eventually("polls succeed", fine).await;
    }
    server.faults().fail_share(1.0, 500);
    eventually("polls fail", failed).await;
    server.faults().clear();
    server.faults().refuse_connections();
    eventually("polls fail", failed).await;
    server.faults().accept_connections();
    eventually("polls succeed", fine).await;
    assert!(news.waiting().is_empty());
    ask(&registry, register(81)).await.unwrap();
    assert_eq!(ports_of(&news.next().await.added), [81], "and the next change is told");
}

#[actix::test]
async fn a_restart_without_data_is_no_change_for_listeners() {
    let (server, registry) = world().await;
    let mut news = News::listen();
    subscribe(&registry, &news).await;
    news.next().await;
    let other_owner = support::registry(&server);
    let quick = |port| register(port).metadata(actix_nacos::HEART_BEAT_INTERVAL, "300");
    join_all((81..90).map(|port| ask(&other_owner, quick(port))))
        .await
        .into_iter()
        .for_each(|answer| drop(answer.unwrap()));
    news.until(|news| news.info.hosts.len() == 10).await;
    server.restart_empty().unwrap();
    until("all are back", || server.instances("orders").len() == 10).await;
    some_polls(&server).await;
    assert!(news.waiting().iter().all(|news| news.removed.is_empty()), "nobody was told that they had gone");
    shut_down(&other_owner).await;
}

// Listeners.

#[actix::test]
async fn the_same_listener_subscribed_twice_is_notified_once() {
    let (server, registry) = world().await;
    let mut news = News::listen();
    subscribe(&registry, &news).await;
    subscribe(&registry, &news).await;
    news.next().await;
    subscribe(&registry, &news).await;
    some_polls(&server).await;
    assert!(news.waiting().is_empty());
    ask(&registry, register(81)).await.unwrap();
    news.next().await;
    some_polls(&server).await;
    assert!(news.waiting().is_empty());
    assert_eq!(subscriptions(&registry).await[0].listeners, 1);
}

#[actix::test]
async fn all_listeners_of_a_service_share_one_poll_and_one_message() {
    let (server, registry) = world().await;
    let mut listeners: Vec<_> = (0..20).map(|_| News::listen()).collect();
    for news in &listeners {
        subscribe(&registry, news).await;
    }
    for news in &mut listeners {
        assert!(news.next().await.first);
    }
    ask(&registry, register(81)).await.unwrap();
    let mut lists = Vec::new();
    for news in &mut listeners {
        lists.push(news.next().await);
    }
    assert!(lists.windows(2).all(|pair| std::ptr::eq(&*pair[0], &*pair[1])), "one change for all");
    let status = subscriptions(&registry).await;
    assert_eq!((status.len(), status[0].listeners), (1, 20));
    assert!(server.counters().requests_for(Operation::List) <= status[0].polls + 1);
}

#[actix::test]
async fn a_subscription_keeps_its_listener_alive() {
    let (_server, registry) = world().await;
    let mut news = News::listen();
    subscribe(&registry, &news).await;
    news.next().await;
    let weak = news.listener.downgrade();
    let (listener, mut told) = news.into_parts();
    drop(listener);
    ask(&registry, register(81)).await.unwrap();
    assert_eq!(ports_of(&soon("news", told.recv()).await.unwrap().added), [81]);
    ask(&registry, Unsubscribe::new("orders")).await.unwrap();
    assert!(soon("the end of the listener", told.recv()).await.is_none());
    drop(weak);
}

#[actix::test]
async fn a_weak_subscription_does_not_keep_its_listener_alive() {
    let (_server, registry) = world().await;
    let news = News::listen();
    let weak = news.listener.downgrade().recipient();
    ask(&registry, Subscribe::weak("orders", weak)).await.unwrap();
    let (listener, mut told) = news.into_parts();
    assert!(soon("news", told.recv()).await.unwrap().first);
    drop(listener);
    assert!(soon("the end of the listener", told.recv()).await.is_none());
    let gone = async || subscriptions(&registry).await.is_empty().then_some(());
    eventually("the subscription has ended", gone).await;
}

#[actix::test]
async fn a_listener_that_has_stopped_is_forgotten_and_the_last_one_ends_the_polls() {
    let (server, registry) = world().await;
    let (mut stops, mut stays) = (News::listen(), News::listen());
    for news in [&stops, &stays] {
        subscribe(&registry, news).await;
    }
    stops.next().await;
    stays.next().await;
    stops.listener.send(StopListener).await.unwrap();
    let one_left = async || (subscriptions(&registry).await[0].listeners == 1).then_some(());
    eventually("it is forgotten", one_left).await;
    ask(&registry, register(81)).await.unwrap();
    stays.next().await;
    stays.listener.send(StopListener).await.unwrap();
    let ended = async || subscriptions(&registry).await.is_empty().then_some(());
    eventually("the subscription has ended", ended).await;
    let polls = server.counters().requests_for(Operation::List);
    // Nothing shows that no poll follows, so wait for three poll intervals.
    actix_rt::time::sleep(ms(300)).await;
    assert_eq!(server.counters().requests_for(Operation::List), polls);
}

#[actix::test]
async fn one_actor_may_listen_to_several_services() {
    let (_server, registry) = world().await;
    let mut news = News::listen();
    for service in ["orders", "PAY@@ledger", "stock"] {
        ask(&registry, Subscribe::new(service, news.recipient())).await.unwrap();
    }
    let mut named = Vec::new();
    for _ in 0..3 {
        let first = news.next().await;
        assert!(first.first);
        named.push(first.service.to_string());
    }
    named.sort();
    assert_eq!(named, ["DEFAULT_GROUP@@orders", "DEFAULT_GROUP@@stock", "PAY@@ledger"]);
    ask(&registry, RegisterInstance::new("ledger", IP, 81).group("PAY")).await.unwrap();
    let added = news.next().await;
    assert_eq!((added.service.to_string().as_str(), ports_of(&added.added)), ("PAY@@ledger", vec![81]));
    ask(&registry, Unsubscribe::new("PAY@@ledger").listener(news.recipient())).await.unwrap();
    ask(&registry, deregister(80)).await.unwrap();
    assert_eq!(news.next().await.service.name, "orders");
}

// Unsubscribing.

#[actix::test]
async fn unsubscribing_with_a_listener_ends_that_one_alone() {
    let (server, registry) = world().await;
    let (mut leaves, mut stays) = (News::listen(), News::listen());
    for news in [&leaves, &stays] {
        subscribe(&registry, news).await;
    }
    leaves.next().await;
    stays.next().await;
    ask(&registry, Unsubscribe::new("orders").listener(leaves.recipient())).await.unwrap();
    ask(&registry, register(81)).await.unwrap();
    stays.next().await;
    some_polls(&server).await;
    assert!(leaves.waiting().is_empty());
    subscribe(&registry, &leaves).await;
    assert!(leaves.next().await.first, "it may come back");
}

#[actix::test]
async fn unsubscribing_without_a_listener_ends_all_of_the_service_in_all_clusters() {
    let (_server, registry) = world().await;
    let mut all: Vec<_> = (0..3).map(|_| News::listen()).collect();
    subscribe(&registry, &all[0]).await;
    ask(&registry, Subscribe::new("orders", all[1].recipient()).clusters(["north"])).await.unwrap();
    ask(&registry, Subscribe::new("orders", all[2].recipient()).clusters(["south", "north"])).await.unwrap();
    let mut other = News::listen();
    ask(&registry, Subscribe::new("stock", other.recipient())).await.unwrap();
    other.next().await;
    for news in &mut all {
        news.next().await;
    }
    assert_eq!(subscriptions(&registry).await.len(), 4);
    ask(&registry, Unsubscribe::new("orders")).await.unwrap();
    let left = async || {
        let left = subscriptions(&registry).await;
        (left.len() == 1).then(|| left[0].service.name.clone())
    };
    assert_eq!(eventually("the others have ended", left).await, "stock");
}

#[actix::test]
async fn unsubscribing_from_clusters_ends_the_subscription_of_these_clusters() {
    let (_server, registry) = world().await;
    let (mut north, mut both, mut every) = (News::listen(), News::listen(), News::listen());
    ask(&registry, Subscribe::new("orders", north.recipient()).clusters(["north"])).await.unwrap();
    // The order of the clusters makes no difference.
    ask(&registry, Subscribe::new("orders", both.recipient()).clusters(["south", "north"])).await.unwrap();
    subscribe(&registry, &every).await;
    for news in [&mut north, &mut both, &mut every] {
        news.next().await;
    }
    ask(&registry, Unsubscribe::new("orders").clusters(["north", "south"])).await.unwrap();
    ask(&registry, register(81).cluster("north")).await.unwrap();
    assert_eq!(ports_of(&north.next().await.added), [81]);
    assert_eq!(ports_of(&every.next().await.added), [81]);
    assert!(both.waiting().is_empty());
}

#[actix::test]
async fn unsubscribing_without_a_subscription_is_ok() {
    let (_server, registry) = world().await;
    let (mut news, other_owner) = (News::listen(), News::listen());
    subscribe(&registry, &news).await;
    news.next().await;
    ask(&registry, Unsubscribe::new("unknown")).await.unwrap();
    ask(&registry, Unsubscribe::new("orders").listener(other_owner.recipient())).await.unwrap();
    ask(&registry, Unsubscribe::new("orders").clusters(["north"])).await.unwrap();
    ask(&registry, register(81)).await.unwrap();
    assert_eq!(ports_of(&news.next().await.added), [81], "those that are go on");
}

#[actix::test]
async fn stop_subscribe_ends_all_subscriptions_and_no_view() {
    let (server, registry) = world().await;
    let mut news = News::listen();
    for service in ["orders", "stock"] {
        ask(&registry, Subscribe::new(service, news.recipient())).await.unwrap();
        news.next().await;
    }
    let mut view = ask(&registry, Discover::new("orders")).await.unwrap();
    view.ready().await.unwrap();
    ask(&registry, StopSubscribe).await.unwrap();
    ask(&registry, register(81)).await.unwrap();
    soon("the view's news", view.changed()).await.unwrap();
    assert_eq!(view.instances().len(), 2);
    some_polls(&server).await;
    assert!(news.waiting().is_empty());
    assert_eq!(subscriptions(&registry).await.len(), 1);
}

// Listeners that are slow, full or broken.

#[actix::test]
async fn a_listener_whose_mailbox_was_full_receives_the_difference_to_the_newest_list() {
    let (_server, registry) = world().await;
    let gate = Gate::default();
    let mut slow = News::listen_behind(gate.clone(), 1);
    let mut quick = News::listen();
    for news in [&slow, &quick] {
        subscribe(&registry, news).await;
    }
    // The listener is busy with its first message.
    assert_eq!(listed_ports(&slow.next().await), [80]);
    quick.next().await;
    for port in 81..100 {
        ask(&registry, register(port)).await.unwrap();
        quick.next().await;
    }
    ask(&registry, deregister(80)).await.unwrap();
    quick.next().await;
    gate.open();
    let mut known = vec![80];
    let mut messages = 0;
    while known != (81..100).collect::<Vec<_>>() {
        let news = slow.next().await;
        messages += 1;
        assert!(!news.first);
        // Each message is the difference to the list that the listener received last.
        known.retain(|port| !ports_of(&news.removed).contains(port));
        known.extend(ports_of(&news.added));
        known.sort_unstable();
        assert_eq!(known, listed_ports(&news));
    }
    assert!(messages <= 4, "{messages} messages for 20 changes: what it missed is told at once");
}

/// Panics at the first change, and forwards the later ones.
struct Panicking {
    panicked: bool,
}

impl Actor for Panicking {
    type Context = Context<Self>;
}

impl Handler<ServiceChanged> for Panicking {
    type Result = ();

    fn handle(&mut self, _: ServiceChanged, _: &mut Context<Self>) {
        self.panicked = true;
        std::panic::resume_unwind(Box::new("on purpose"));
    }
}

#[actix::test]
async fn bad_listeners_do_not_affect_the_others() {
    let (_server, registry) = world().await;
    let gate = Gate::default();
    let troubled = [News::listen_behind(gate.clone(), 1), News::listen_behind(gate.clone(), 1), News::listen()];
    troubled[2].listener.send(StopListener).await.unwrap();
    let panicking = Panicking::start_in_arbiter(&actix::Arbiter::new().handle(), |_| Panicking { panicked: false });
    ask(&registry, Subscribe::new("orders", panicking.recipient())).await.unwrap();
    for news in &troubled {
        subscribe(&registry, news).await;
    }
    let mut others: Vec<_> = (0..20).map(|_| News::listen()).collect();
    for news in &others {
        subscribe(&registry, news).await;
    }
    for news in &mut others {
        news.next().await;
    }
    for port in 81..90 {
        ask(&registry, register(port)).await.unwrap();
        for news in &mut others {
            assert_eq!(ports_of(&news.next().await.added), [port]);
        }
    }
    gate.open();
}

/// Subscribes in `started`, as actors do.
struct Watcher(Addr<Registry>, tokio::sync::mpsc::UnboundedSender<usize>);

impl Actor for Watcher {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        self.0.do_send(Subscribe::new("orders", ctx.address().recipient()));
    }
}

impl Handler<ServiceChanged> for Watcher {
    type Result = ();

    fn handle(&mut self, news: ServiceChanged, _: &mut Context<Self>) {
        self.1.send(news.info.hosts.len()).unwrap();
    }
}

#[actix::test]
async fn an_actor_can_subscribe_its_own_address() {
    let (_server, registry) = world().await;
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    Watcher(registry.clone(), tell).start();
    assert_eq!(soon("news", told.recv()).await, Some(1));
}

// How lists arrive.

#[actix::test]
async fn a_pushed_change_reaches_listeners_without_waiting_for_a_poll() {
    let server = support::builder().push_delay(ms(20)).start().unwrap();
    let push = PushConfig::default().bind(([127, 0, 0, 1], 0).into());
    let minute = ms(60_000);
    let registry = start(config(&server).poll_interval(minute, minute).push(push));
    let mut news = News::listen();
    subscribe(&registry, &news).await;
    assert_eq!(news.next().await.source, Source::Poll);
    ask(&registry, register(80)).await.unwrap();
    let pushed = news.next().await;
    assert_eq!((pushed.source, ports_of(&pushed.added)), (Source::Push, vec![80]));
}
