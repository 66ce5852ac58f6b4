//! The servers, which of them is in use, and which is asked next.
//!
//! Servers are not probed. The server in use is left when a breaker of registrations, beats or lists opens and another
//! server answers that operation. While all breakers are open, each server is tried once or twice per step of a growing
//! pause, so that the number of requests does not grow with the number of instances.
//!
//! *In use* is a state of this process, not of the cluster: it is the server that is asked first, and whose answers
//! about instances count. It changes seldom, because each change begins an epoch, in which everything is registered
//! again.
//!
//! | operation | may change the server in use |
//! |---|---|
//! | register, beat, list | yes: [`Operation::decides_server`] |
//! | every other one | no |
//!
//! An epoch begins for one of the reasons with which this file calls [`Servers::begin_epoch`].

use std::{
    cell::{Cell, RefCell},
    net::IpAddr,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use actix_rt::time::{timeout, Instant};
use awc::Client;
use slog::{debug, Logger};
use tokio::sync::{watch, Notify};

use super::{
    dialer::Dialer,
    health::{Availability, Failure, FailureKind, Health},
    server::Server,
};
use crate::{
    config::ServerAddress,
    error::{Error, Operation},
    runtime::history::{History, RegistryEventKind},
    wire::exchange::WireProtocol,
};

/// All servers. Empty only until the server list has been fetched.
///
/// `current` may point beyond the list while the list is empty.
pub(crate) struct Servers {
    list: RefCell<Vec<Rc<Server>>>,
    /// The index of the server in use.
    current: Cell<usize>,
    new_client: Box<dyn Fn(&Dialer) -> Client>,
    /// How long a trial of an open breaker may take before the next trial is allowed.
    longest_trial: Duration,
    epoch: watch::Sender<u64>,
    /// When an epoch last began because the server did not know an instance.
    unknown_at: Cell<Option<Instant>>,
    /// Wakes all requests that wait for a breaker.
    trial_ended: Notify,
    history: Arc<History>,
    log: Logger,
}

/// The next step of an operation.
pub(crate) enum Choice {
    Ask(Rc<Server>),
    /// Every breaker is open. Wait for this time.
    Wait(Duration),
    /// All servers have been tried.
    Nobody,
}

impl Servers {
    /// Begins with a random server, so that the applications of a cluster spread over its servers.
    pub(crate) fn new(
        addresses: Vec<ServerAddress>,
        longest_trial: Duration,
        new_client: impl Fn(&Dialer) -> Client + 'static,
        history: Arc<History>,
        log: Logger,
    ) -> Self {
        let list: Vec<_> = addresses.into_iter().map(|address| Rc::new(Server::new(address, &new_client))).collect();
        Servers {
            current: Cell::new(fastrand::usize(..list.len().max(1))),
            list: RefCell::new(list),
            new_client: Box::new(new_client),
            longest_trial,
            epoch: watch::channel(0).0,
            unknown_at: Cell::new(None),
            trial_ended: Notify::new(),
            history,
            log,
        }
    }

    /// Replaces the list. Known servers keep their state.
    ///
    /// Requests to a server that left the list go on; its connections are closed after them.
    pub(crate) fn replace(&self, addresses: Vec<ServerAddress>) {
        let current = self.current();
        let server_at = |address| {
            let known = self.list.borrow().iter().find(|server| server.address == address).cloned();
            known.unwrap_or_else(|| Rc::new(Server::new(address, &self.new_client)))
        };
        let new: Vec<_> = addresses.into_iter().map(server_at).collect();
        let index = current.and_then(|current| new.iter().position(|server| Rc::ptr_eq(server, &current)));
        self.current.set(index.unwrap_or_else(|| fastrand::usize(..new.len().max(1))));
        *self.list.borrow_mut() = new;
        if index.is_none() {
            self.begin_epoch("the server in use left the server list");
        }
    }

    /// A client for an address that is no server of the list, such as the endpoint.
    pub(crate) fn new_client(&self, address: &ServerAddress) -> Client {
        (self.new_client)(&Dialer::new(address))
    }

    pub(crate) fn all(&self) -> Vec<Rc<Server>> {
        self.list.borrow().clone()
    }

    /// Reads all servers. `read` must not change the list.
    pub(super) fn with_all<T>(&self, read: impl FnOnce(&[Rc<Server>]) -> T) -> T {
        read(&self.list.borrow())
    }

    /// The server in use. `None` until the server list has been fetched.
    pub(crate) fn current(&self) -> Option<Rc<Server>> {
        self.list.borrow().get(self.current.get()).cloned()
    }

    pub(crate) fn is_in_use(&self, server: &Rc<Server>) -> bool {
        self.list.borrow().get(self.current.get()).is_some_and(|current| Rc::ptr_eq(current, server))
    }

    /// The error of the most recent failure.
    pub(crate) fn last_error(&self) -> Option<Error> {
        let list = self.list.borrow();
        list.iter().max_by_key(|server| server.health.borrow().last_failure)?.last_error()
    }

    // Epochs

    /// The current epoch: the number of the period in which the server in use keeps its instances.
    pub(crate) fn epoch(&self) -> u64 {
        *self.epoch.borrow()
    }

    /// A receiver of the current epoch.
    pub(crate) fn epochs(&self) -> watch::Receiver<u64> {
        self.epoch.subscribe()
    }

    /// Begins an epoch: increases its number. The Registry then registers its instances again and polls its lists.
    fn begin_epoch(&self, reason: &str) {
        let server = self.current().map_or_else(String::new, |server| server.name.clone());
        debug!(self.log, "server may have forgotten instances, registering them again";
            "server" => &server, "reason" => reason);
        self.history.record(RegistryEventKind::EpochBegan, |event| {
            event.server = Some(server);
            event.reason = Some(reason.into());
        });
        self.epoch.send_modify(|epoch| *epoch += 1);
    }

    /// Begins an epoch because the server in use does not know an instance although its beats were in time. At most one
    /// epoch per `interval`: all instances of a restarted server are unknown, and would each begin an epoch.
    pub(crate) fn note_unknown(&self, interval: Duration) {
        if self.unknown_at.get().is_none_or(|last| last.elapsed() >= interval) {
            self.unknown_at.set(Some(Instant::now()));
            self.begin_epoch("the server does not know a registered instance");
        }
    }

    /// Notes the protocol of `server`. A server that speaks another protocol than before has been replaced.
    ///
    /// The first protocol that is found is no change.
    pub(crate) fn note_protocol(&self, server: &Rc<Server>, protocol: WireProtocol) {
        let before = server.replace_protocol(protocol);
        if before.is_some_and(|before| before != protocol) && self.is_in_use(server) {
            self.begin_epoch("the server speaks another protocol than before");
        }
    }

    /// Notes an outage that the restart detector has found.
    pub(super) fn note_outage(&self, server: &Server) {
        server.health.borrow_mut().note_outage();
    }

    /// Notes that the restart detector's connection is open.
    pub(super) fn note_reachable(&self, server: &Rc<Server>) {
        let ended_outage = server.health.borrow_mut().note_reachable();
        if ended_outage && self.is_in_use(server) {
            self.begin_epoch("the server is reachable again");
        }
    }

    // Choice and outcome

    /// Chooses the server in use if a request may be sent to it, otherwise the next server that is healthy. If there is
    /// none, chooses a server whose breaker is half-open, except with `only_healthy`. Never chooses a server in
    /// `tried`.
    ///
    /// Requests are not balanced between healthy servers: all go to the server in use.
    pub(crate) fn choose(&self, operation: Operation, tried: &[Rc<Server>], only_healthy: bool) -> Choice {
        let list = self.list.borrow();
        let order = (0..list.len()).map(|step| &list[(self.current.get() + step) % list.len()]);
        let (mut half_open, mut wait) = (None, None::<Duration>);
        for server in order.filter(|server| !tried.iter().any(|tried| Rc::ptr_eq(tried, server))) {
            let availability = server.health.borrow().availability(operation);
            match availability {
                Availability::Closed => return Choice::Ask(server.clone()),
                Availability::HalfOpen => half_open = half_open.or(Some(server)),
                Availability::Open(pause) => wait = Some(wait.map_or(pause, |wait| wait.min(pause))),
            }
            // Try the server in use even if another server is healthy. Otherwise its breaker would stay half-open for
            // ever, and two servers with one such breaker each would alternate.
            if availability == Availability::HalfOpen && !only_healthy && self.is_in_use(server) {
                break;
            }
        }
        match (half_open, wait) {
            (Some(server), _) if !only_healthy => {
                server.health.borrow_mut().begin_trial(operation, self.longest_trial);
                Choice::Ask(server.clone())
            }
            (_, Some(wait)) if !only_healthy => Choice::Wait(wait),
            _ => Choice::Nobody,
        }
    }

    /// Waits for `pause` or until a trial ends.
    pub(crate) async fn wait(&self, pause: Duration) {
        // The caller chooses again after either.
        let _ = timeout(pause, self.trial_ended.notified()).await;
    }

    /// Notes a success of `server`. It comes into use if the server in use fails or rejects everything.
    ///
    /// The breaker of the server in use must be open, or half-open: see [`Health::is_left_for`].
    pub(crate) fn succeeded(
        &self,
        server: &Rc<Server>,
        operation: Operation,
        rejects_all: impl Fn(&Rc<Server>) -> bool,
    ) {
        let ended_outage = self.note(server, operation, |health| health.succeed(operation));
        if self.is_in_use(server) {
            if ended_outage {
                self.begin_epoch("the server answers again");
            }
        } else if operation.decides_server() {
            let is_left = |current: &Rc<Server>| {
                rejects_all(current) || current.health.borrow().is_left_for(&server.health.borrow(), operation)
            };
            if self.current().as_ref().is_none_or(is_left) {
                self.use_now(server);
            }
        }
    }

    /// Makes `server` the one in use, which begins an epoch. Does nothing if it has left the list.
    fn use_now(&self, server: &Rc<Server>) {
        let index = self.list.borrow().iter().position(|listed| Rc::ptr_eq(listed, server));
        if let Some(index) = index {
            self.current.set(index);
            self.begin_epoch("another server is in use");
        }
    }

    /// Notes that a request ended without showing anything about the server's health. Others may try now.
    pub(crate) fn undecided(&self, server: &Server, operation: Operation) {
        self.note(server, operation, |health| health.end_trial(operation));
    }

    /// Notes that `server` rejected a request.
    pub(crate) fn rejected(&self, server: &Server, operation: Operation) {
        self.note(server, operation, |health| health.reject(operation));
    }

    /// Notes a failed request. The server's addresses are looked up again, in case it has moved.
    pub(crate) fn failed(&self, server: &Server, failure: Failure) {
        if failure.kind != FailureKind::BadAnswer {
            server.resolved.forget();
        }
        if matches!(failure.error, Error::Timeout { .. }) {
            server.dialer.note_silence(failure.sent);
        }
        self.note(server, failure.operation, |health| health.fail(failure));
    }

    /// Changes the health of a server. Wakes waiting requests, and records that the server was lost or is back.
    fn note<T>(&self, server: &Server, operation: Operation, change: impl FnOnce(&mut Health) -> T) -> T {
        let mut health = server.health.borrow_mut();
        if health.is_open_for(operation) {
            self.trial_ended.notify_waiters();
        }
        let was_lost = health.is_lost();
        let changed = change(&mut health);
        if health.is_lost() != was_lost {
            self.record_loss_or_return(server, &health);
        }
        changed
    }

    fn record_loss_or_return(&self, server: &Server, health: &Health) {
        let kind = if health.is_lost() { RegistryEventKind::ServerLost } else { RegistryEventKind::ServerBack };
        self.history.record(kind, |event| {
            event.server = Some(server.name.clone());
            let error = health.last_error.as_ref().filter(|_| health.is_lost());
            event.reason = error.map(ToString::to_string);
        });
    }

    /// Whether the breaker of the server in use is open or half-open for this operation.
    pub(crate) fn is_current_open_for(&self, operation: Operation) -> bool {
        self.current().is_some_and(|current| current.health.borrow().is_open_for(operation))
    }

    // Datagrams

    /// Whether `ip` is an address of a server, by the addresses that were last looked up.
    pub(crate) fn trusts(&self, ip: IpAddr) -> bool {
        self.list.borrow().iter().any(|server| server.is_at(ip))
    }

    /// Whether a datagram from `ip` may show the state of the server in use in this epoch. An unknown address may be
    /// the translated address of the server. During an outage every datagram may have been sent before the outage.
    pub(crate) fn may_be_current(&self, ip: IpAddr) -> bool {
        let current = self.current().filter(|current| !current.health.borrow().is_in_outage());
        current.is_some_and(|current| current.is_at(ip) || !self.trusts(ip))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn servers(names: &[&str]) -> Servers {
        servers_of(names, |_| Client::default())
    }

    /// The first one is in use.
    pub(crate) fn servers_of(names: &[&str], new_client: impl Fn(&Dialer) -> Client + 'static) -> Servers {
        let addresses = names.iter().map(|name| ServerAddress::parse(name, "/nacos").unwrap()).collect();
        let log = Logger::root(slog::Discard, slog::o!());
        let servers = Servers::new(addresses, Duration::from_secs(3), new_client, History::new(), log);
        servers.current.set(0);
        servers
    }

    fn ask(servers: &Servers, operation: Operation, tried: &[Rc<Server>]) -> Option<String> {
        match servers.choose(operation, tried, false) {
            Choice::Ask(server) => Some(server.name.clone()),
            _ => None,
        }
    }

    fn fail(servers: &Servers, index: usize, kind: FailureKind, operation: Operation, subject: u64) {
        let failure = Failure { kind, operation, subject, sent: Instant::now(), error: Error::Stopped };
        servers.failed(&servers.all()[index], failure);
    }

    pub(crate) fn refuse(servers: &Servers, index: usize) {
        fail(servers, index, FailureKind::ConnectFailed, Operation::Beat, 1);
    }

    pub(crate) fn succeed(servers: &Servers, index: usize, operation: Operation) {
        servers.succeeded(&servers.all()[index], operation, |_| false);
    }

    fn in_use(servers: &Servers) -> (String, u64) {
        (servers.current().unwrap().name.clone(), servers.epoch())
    }

    #[actix::test]
    async fn the_server_in_use_is_used_until_its_breaker_opens_and_another_one_answers() {
        let servers = servers(&["a:1", "b:1"]);
        succeed(&servers, 0, Operation::Beat);
        assert_eq!(ask(&servers, Operation::Beat, &[]).as_deref(), Some("a:1"));
        refuse(&servers, 0);
        assert_eq!(ask(&servers, Operation::Get, &[]).as_deref(), Some("b:1"));
        succeed(&servers, 1, Operation::Get);
        assert_eq!(in_use(&servers), ("a:1".into(), 0), "a GET does not change the server in use");
        succeed(&servers, 1, Operation::Beat);
        assert_eq!(in_use(&servers), ("b:1".into(), 1));
    }

    #[actix::test]
    async fn one_failure_of_the_server_in_use_is_not_enough_to_leave_it() {
        let servers = servers(&["a:1", "b:1"]);
        fail(&servers, 0, FailureKind::BadAnswer, Operation::Beat, 1);
        succeed(&servers, 1, Operation::Beat);
        assert_eq!(in_use(&servers), ("a:1".into(), 0));
        fail(&servers, 0, FailureKind::BadAnswer, Operation::Beat, 2);
        succeed(&servers, 1, Operation::Beat);
        assert_eq!(in_use(&servers), ("b:1".into(), 1), "a second instance failed in the same way");
    }

    #[actix::test]
    async fn a_server_that_rejects_everything_is_left_for_one_that_does_not() {
        let servers = servers(&["a:1", "b:1"]);
        let second = servers.all()[1].clone();
        servers.rejected(&servers.all()[0], Operation::Beat);
        servers.succeeded(&second, Operation::Get, |_| true);
        assert_eq!(in_use(&servers), ("a:1".into(), 0), "not every server offers GET");
        servers.succeeded(&second, Operation::Beat, |_| true);
        assert_eq!(in_use(&servers), ("b:1".into(), 1));
    }

    #[actix::test]
    async fn while_all_breakers_are_open_one_request_tries_and_the_others_wait() {
        tokio::time::pause();
        let servers = servers(&["a:1"]);
        refuse(&servers, 0);
        assert!(matches!(servers.choose(Operation::Beat, &[], false), Choice::Wait(_)));
        actix_rt::time::sleep(Duration::from_millis(50)).await;
        assert!(matches!(servers.choose(Operation::Beat, &[], true), Choice::Nobody), "not known to be healthy");
        assert!(ask(&servers, Operation::Beat, &[]).is_some());
        assert!(matches!(servers.choose(Operation::Beat, &[], false), Choice::Wait(_)));
        succeed(&servers, 0, Operation::Beat);
        assert!(ask(&servers, Operation::Beat, &[]).is_some());
    }

    #[actix::test]
    async fn a_trial_without_a_result_allows_the_next_trial() {
        tokio::time::pause();
        let servers = servers(&["a:1"]);
        refuse(&servers, 0);
        actix_rt::time::sleep(Duration::from_millis(50)).await;
        assert!(ask(&servers, Operation::Beat, &[]).is_some());
        servers.undecided(&servers.all()[0], Operation::Beat);
        assert!(ask(&servers, Operation::Beat, &[]).is_some());
    }

    #[actix::test]
    async fn one_request_tries_the_server_in_use_and_others_prefer_a_healthy_server() {
        tokio::time::pause();
        let servers = servers(&["a:1", "b:1", "c:1"]);
        (0..2).for_each(|index| refuse(&servers, index));
        actix_rt::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(ask(&servers, Operation::Beat, &[]).as_deref(), Some("a:1"));
        assert_eq!(ask(&servers, Operation::Beat, &[]).as_deref(), Some("c:1"), "the trial is under way");
        let all = servers.all();
        assert_eq!(ask(&servers, Operation::Beat, &[all[0].clone(), all[2].clone()]).as_deref(), Some("b:1"));
    }

    #[actix::test]
    async fn two_servers_that_have_recovered_do_not_alternate() {
        tokio::time::pause();
        let servers = servers(&["a:1", "b:1"]);
        for subject in 1..=2 {
            fail(&servers, 0, FailureKind::BadAnswer, Operation::List, subject);
            fail(&servers, 1, FailureKind::BadAnswer, Operation::Beat, subject);
        }
        let mut epochs = Vec::new();
        for _ in 0..3 {
            actix_rt::time::sleep(Duration::from_secs(120)).await;
            for operation in [Operation::List, Operation::Beat] {
                let asked = ask(&servers, operation, &[]).unwrap();
                let index = servers.all().iter().position(|server| server.name == asked).unwrap();
                succeed(&servers, index, operation);
            }
            epochs.push(servers.epoch());
        }
        assert_eq!(epochs, [0, 0, 0]);
    }

    #[actix::test]
    async fn an_epoch_begins_when_the_server_in_use_answers_again_after_an_outage() {
        let servers = servers(&["a:1", "b:1"]);
        refuse(&servers, 0);
        succeed(&servers, 0, Operation::Get);
        assert_eq!(servers.epoch(), 1);
        servers.note_outage(&servers.all()[0]);
        servers.note_outage(&servers.all()[1]);
        succeed(&servers, 1, Operation::Get);
        assert_eq!(servers.epoch(), 1, "no instance depends on a server that is not in use");
        servers.note_reachable(&servers.all()[0]);
        assert_eq!(servers.epoch(), 2);
        succeed(&servers, 0, Operation::List);
        assert_eq!(servers.epoch(), 2, "one outage, one epoch");
        servers.note_outage(&servers.all()[1]);
        (0..2).for_each(|index| servers.note_reachable(&servers.all()[index]));
        assert_eq!(servers.epoch(), 2, "the server in use had no outage");
    }

    #[actix::test]
    async fn a_client_for_another_address_is_made_like_the_clients_of_the_servers() {
        let made = Rc::new(Cell::new(0));
        let count = made.clone();
        let new_client = move |_: &Dialer| {
            count.set(count.get() + 1);
            Client::default()
        };
        servers_of(&[], new_client).new_client(&ServerAddress::parse("a:1", "/nacos").unwrap());
        assert_eq!(made.get(), 1);
    }

    #[actix::test]
    async fn the_last_error_is_the_error_of_the_most_recent_failure_of_any_server() {
        tokio::time::pause();
        let servers = servers(&["a:1", "b:1"]);
        let last_reason = || servers.last_error().map(|error| error.to_string());
        assert_eq!(last_reason(), None);
        for index in [0, 1, 0] {
            tokio::time::advance(Duration::from_secs(1)).await;
            let server = servers.all()[index].clone();
            let (kind, operation, reason) = (FailureKind::ConnectFailed, Operation::Beat, "staged".to_owned());
            let error = Error::Unreachable { operation, server: server.name.clone(), reason };
            let expected = error.to_string();
            servers.failed(&server, Failure { kind, operation, subject: 1, sent: Instant::now(), error });
            assert_eq!(last_reason(), Some(expected));
        }
    }

    #[actix::test]
    async fn a_request_that_needs_a_healthy_server_does_not_wait_for_another_one() {
        let servers = servers(&["a:1"]);
        refuse(&servers, 0);
        assert!(matches!(servers.choose(Operation::Beat, &[], true), Choice::Nobody));
    }

    #[actix::test]
    async fn a_rejection_closes_a_breaker() {
        let servers = servers(&["a:1"]);
        refuse(&servers, 0);
        assert!(servers.is_current_open_for(Operation::Beat));
        servers.rejected(&servers.all()[0], Operation::Beat);
        assert!(!servers.is_current_open_for(Operation::Beat));
    }

    #[actix::test]
    async fn a_request_waits_for_the_pause_or_until_a_trial_ends() {
        tokio::time::pause();
        let (servers, pause) = (servers(&["a:1"]), Duration::from_secs(1));
        let began = Instant::now();
        servers.wait(pause).await;
        assert!(began.elapsed() >= pause);
        refuse(&servers, 0);
        let began = Instant::now();
        let trial_ends = async { succeed(&servers, 0, Operation::Beat) };
        futures_util::future::join(servers.wait(pause), trial_ends).await;
        assert!(began.elapsed() < pause);
    }

    #[actix::test]
    async fn the_addresses_of_a_server_are_forgotten_unless_it_answered() {
        let servers = servers(&["127.0.0.1:1"]);
        let server = servers.all()[0].clone();
        for (kind, is_known) in
            [(FailureKind::BadAnswer, true), (FailureKind::NoAnswer, false), (FailureKind::ConnectFailed, false)]
        {
            server.resolved.resolve(&server.address).await;
            fail(&servers, 0, kind, Operation::Beat, 1);
            assert_eq!(server.resolved.local_ip().is_some(), is_known, "{kind:?}");
        }
    }

    #[actix::test]
    async fn the_history_has_an_event_when_a_server_is_lost_and_one_when_it_is_back() {
        let servers = servers(&["a:1"]);
        let events = || {
            let events = servers.history.events().into_iter();
            let events = events.filter(|event| event.kind != RegistryEventKind::EpochBegan);
            events.map(|event| (event.kind, event.count, event.reason.is_some())).collect::<Vec<_>>()
        };
        (0..2).for_each(|_| refuse(&servers, 0));
        assert_eq!(events(), []);
        (0..2).for_each(|_| refuse(&servers, 0));
        assert_eq!(events(), [(RegistryEventKind::ServerLost, 1, true)]);
        (0..2).for_each(|_| succeed(&servers, 0, Operation::Beat));
        assert_eq!(events()[1..], [(RegistryEventKind::ServerBack, 1, false)]);
    }

    #[actix::test]
    async fn unknown_instances_begin_one_epoch_per_interval() {
        tokio::time::pause();
        let servers = servers(&["a:1"]);
        let interval = Duration::from_secs(5);
        (0..100).for_each(|_| servers.note_unknown(interval));
        assert_eq!(servers.epoch(), 1);
        actix_rt::time::sleep(interval).await;
        servers.note_unknown(interval);
        assert_eq!(servers.epoch(), 2);
    }

    #[actix::test]
    async fn an_epoch_begins_when_the_server_in_use_speaks_another_protocol() {
        let servers = servers(&["a:1", "b:1"]);
        for server in servers.all() {
            servers.note_protocol(&server, WireProtocol::V1);
        }
        servers.note_protocol(&servers.all()[1], WireProtocol::V3);
        assert_eq!(servers.epoch(), 0);
        servers.note_protocol(&servers.all()[0], WireProtocol::V3);
        assert_eq!(servers.epoch(), 1);
    }

    #[actix::test]
    async fn a_datagram_is_assigned_to_the_server_in_use_or_to_another_one() {
        let servers = servers(&["127.0.0.1:1", "127.0.0.2:1", "127.0.0.2:2"]);
        let may_be_current = |ip: &str| servers.may_be_current(ip.parse().unwrap());
        assert!(may_be_current("127.0.0.1") && !may_be_current("127.0.0.2"));
        assert!(may_be_current("192.0.2.1"), "an unknown address may be a translated one");
        servers.current.set(2);
        assert!(may_be_current("127.0.0.2"));
        servers.note_outage(&servers.all()[2]);
        assert!(!may_be_current("127.0.0.2"));
    }

    #[actix::test]
    async fn known_servers_keep_their_state_in_a_new_list() {
        let servers = servers(&["a:1", "b:1"]);
        servers.note_protocol(&servers.all()[0], WireProtocol::V3);
        let parse = |name: &&str| ServerAddress::parse(name, "/nacos").unwrap();
        servers.replace(["c:1", "a:1"].iter().map(parse).collect());
        assert_eq!(servers.current().unwrap().protocol(), Some(WireProtocol::V3));
        assert_eq!(in_use(&servers), ("a:1".into(), 0));
        servers.replace(["c:1"].iter().map(parse).collect());
        assert_eq!(in_use(&servers), ("c:1".into(), 1));
    }
}
