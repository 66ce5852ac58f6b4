//! The servers, which of them is asked next, and what is known of each.
//!
//! A server's health is what happens to requests, nobody is probed. The one in use is used until it fails; then the next
//! takes its place. While all fail, each is tried once per step of a growing pause and everybody else waits, so that
//! requests while the registry is down do not grow with the number of instances. One that answers, but with failures, is
//! paused for the operations that fail alone: see [`Refusals`].

use std::{
    cell::{Cell, RefCell, RefMut},
    net::IpAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use actix_rt::time::timeout;
use tokio::{
    net::lookup_host,
    sync::{watch, Mutex, Notify},
};

use super::{refusals::Refusals, Operation};
use crate::{
    config::{local_ip_towards, Protocol, ServerAddress},
    error::Error,
    nacos::ConnectionState,
};

/// The pause after the first failure; each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause: what a server that came back waits at most to be used again.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// So many failures in a row are an outage; fewer are a hiccup, unless another server took over.
pub(crate) const OUTAGE: u32 = 3;
/// So long a request that is answered with failures may be the only one: others are asked more often, as a rule.
const LONE: Duration = Duration::from_secs(15);
/// So long nobody who has an answer asks one that failed for a better one.
const GRUDGE: Duration = Duration::from_secs(5);
/// A server that another one took over from is not asked any more: so long it counts as one that fails.
const MEMORY: Duration = Duration::from_secs(60);

/// A name service that hangs must not hold up the lists.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(1);

/// One server.
pub(crate) struct Server {
    pub(crate) address: ServerAddress,
    /// `host:port`, as errors and logs name it.
    pub(crate) name: String,
    pub(crate) base_url: String,
    /// What it was last found to speak.
    protocol: Cell<Option<Protocol>>,
    /// Its addresses and ours towards it, as they were last looked up.
    resolved: RefCell<Resolved>,
    /// Held by the one lookup under way.
    lookup: Mutex<()>,
    lookup_failed: Cell<Option<Instant>>,
    health: RefCell<Health>,
}

#[derive(Default)]
struct Resolved {
    ips: Vec<IpAddr>,
    local: Option<IpAddr>,
}

/// What happened to the requests to one server.
#[derive(Debug, Clone, Default)]
pub(crate) struct Health {
    /// In a row.
    pub(crate) failures: u32,
    /// Not to be asked before.
    pub(crate) paused_until: Option<Instant>,
    refusals: Refusals,
    /// The one request that was answered with a failure since the server was last well, however often, and since when.
    lone_failure: Option<(Operation, String, Instant)>,
    /// When it refused us what every server can do; none once it has done something.
    refused: Option<Instant>,
    /// Another one did what it refused, and it has done nothing since.
    is_no_use: bool,
    pub(crate) last_success: Option<Instant>,
    pub(crate) last_failure: Option<Instant>,
    pub(crate) last_error: Option<Error>,
    pub(crate) requests: u64,
    pub(crate) failed_requests: u64,
}

impl Health {
    /// Whether no other request was answered with a failure since the server was last well, for `longest` at most.
    fn is_alone(&mut self, operation: Operation, subject: &str, longest: Duration) -> bool {
        let (of, about, since) =
            self.lone_failure.get_or_insert_with(|| (operation, subject.to_owned(), Instant::now()));
        *of == operation && about == subject && since.elapsed() < longest
    }
}

impl Server {
    fn new(address: ServerAddress) -> Self {
        Server {
            name: address.to_string(),
            base_url: address.base_url(),
            address,
            protocol: Cell::new(None),
            resolved: RefCell::default(),
            lookup: Mutex::default(),
            lookup_failed: Cell::default(),
            health: RefCell::default(),
        }
    }

    pub(crate) fn protocol(&self) -> Option<Protocol> {
        self.protocol.get()
    }

    /// Gives what was known before.
    pub(crate) fn speaks(&self, protocol: Protocol) -> Option<Protocol> {
        self.protocol.replace(Some(protocol))
    }

    /// Looks its addresses up, unless that is done. Many ask together, and each lookup may hold a thread: one is made.
    pub(crate) async fn resolve(&self) {
        let _one_at_a_time = self.lookup.lock().await;
        let failed_lately = self.lookup_failed.get().is_some_and(|failed| failed.elapsed() < LONGEST_PAUSE);
        if self.local_ip().is_some() || failed_lately {
            return;
        }
        let found = timeout(LOOKUP_TIMEOUT, lookup_host((self.address.host.as_str(), self.address.port))).await;
        let addresses: Vec<_> = found.ok().and_then(Result::ok).map(Iterator::collect).unwrap_or_default();
        let local = addresses.iter().find_map(|address| local_ip_towards(*address).ok());
        self.lookup_failed.set(local.is_none().then(Instant::now));
        *self.resolved.borrow_mut() = Resolved { ips: addresses.iter().map(|address| address.ip()).collect(), local };
    }

    /// Our address by which it is reached, once that was looked up.
    pub(crate) fn local_ip(&self) -> Option<IpAddr> {
        self.resolved.borrow().local
    }

    fn is_at(&self, ip: IpAddr) -> bool {
        self.resolved.borrow().ips.contains(&ip) || self.address.host.parse::<IpAddr>() == Ok(ip)
    }

    pub(crate) fn health(&self) -> Health {
        self.health.borrow().clone()
    }

    /// In a row.
    pub(crate) fn failures(&self) -> u32 {
        self.health.borrow().failures
    }

    pub(crate) fn last_error(&self) -> Option<Error> {
        self.health.borrow().last_error.clone()
    }

    /// And has not answered since.
    fn failed_within(&self, time: Duration) -> bool {
        let health = self.health.borrow();
        health.failures > 0 && health.last_failure.is_some_and(|last| last.elapsed() < time)
    }

    /// Whether it is to be asked after the others.
    fn is_in_trouble(&self) -> bool {
        let health = self.health.borrow();
        health.failures > 0 || health.is_no_use
    }

    /// Whether nothing can be had from it: it fails, or has never done anything but refuse.
    fn is_out(&self) -> bool {
        let health = self.health.borrow();
        health.failures >= OUTAGE || (health.refused.is_some() && health.last_success.is_none())
    }

    /// How long it is not to be asked for what it will refuse again.
    fn refusal_pause(&self, now: Instant) -> Duration {
        let refused = self.health.borrow().refused;
        refused.map_or(Duration::ZERO, |at| (at + LONGEST_PAUSE).saturating_duration_since(now))
    }

    /// How long it is not to be asked for `operation`; zero if it may be.
    fn pause_for(&self, operation: Operation, now: Instant) -> Duration {
        let health = self.health.borrow();
        let until = health.paused_until.max(health.refusals.paused_until(operation));
        until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now))
    }
}

/// All servers. Never empty while requests are sent, except before an `endpoint` has answered.
pub(crate) struct Servers {
    list: RefCell<Vec<Rc<Server>>>,
    /// The index of the one in use.
    current: Cell<usize>,
    /// How long a trial of a failing server may take before another is allowed.
    trial: Duration,
    /// Counts what may have cost us our registrations: another server is in use, or the one in use was cut off.
    generation: watch::Sender<u64>,
    /// Wakes whoever waits for a server to come back.
    recovered: Notify,
    /// Counts what surely emptied or changed the lists: another server is in use, or the one in use ended.
    outages: Cell<u64>,
    last_idle_end: Cell<Option<IdleEnd>>,
}

/// An idle connection to the server in use ended, at its usual age as far as that is known. Nothing tells it from the end
/// of a server that was restarted just then.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct IdleEnd {
    pub(crate) at: Instant,
    /// Whether it is not yet known what is usual.
    pub(crate) is_doubtful: bool,
}

/// What to do next.
pub(crate) enum Choice {
    Ask(Rc<Server>),
    /// Every server failed lately: not before then.
    Wait(Duration),
    /// There is no server that was not tried.
    Nobody,
}

impl Servers {
    /// Starts at a random one, so that many applications spread over a cluster.
    pub(crate) fn new(addresses: Vec<ServerAddress>, request_timeout: Duration) -> Self {
        let list: Vec<_> = addresses.into_iter().map(|address| Rc::new(Server::new(address))).collect();
        Servers {
            current: Cell::new(fastrand::usize(..list.len().max(1))),
            list: RefCell::new(list),
            trial: request_timeout,
            generation: watch::channel(0).0,
            outages: Cell::new(0),
            last_idle_end: Cell::new(None),
            recovered: Notify::new(),
        }
    }

    /// Takes over a new list; servers that were known stay what they were.
    pub(crate) fn replace(&self, addresses: Vec<ServerAddress>) {
        let mut list = self.list.borrow_mut();
        let current = list.get(self.current.get()).cloned();
        let kept = |address: &ServerAddress| list.iter().find(|server| server.address == *address).cloned();
        let new: Vec<_> = addresses
            .into_iter()
            .map(|address| kept(&address).unwrap_or_else(|| Rc::new(Server::new(address))))
            .collect();
        let place = current.and_then(|current| new.iter().position(|server| Rc::ptr_eq(server, &current)));
        if place.is_none() {
            self.next_generation();
        }
        self.current.set(place.unwrap_or_else(|| fastrand::usize(..new.len().max(1))));
        *list = new;
    }

    /// Of the request that failed last.
    pub(crate) fn last_error(&self) -> Option<Error> {
        let list = self.list.borrow();
        list.iter().max_by_key(|server| server.health.borrow().last_failure)?.last_error()
    }

    pub(crate) fn all(&self) -> Vec<Rc<Server>> {
        self.list.borrow().clone()
    }

    /// What the end of a request says of the connection; nothing when it is a hiccup.
    pub(crate) fn connection_after(&self, answered: bool) -> Option<ConnectionState> {
        let list = self.list.borrow();
        if list.iter().all(|server| server.is_out()) && list.iter().any(|server| server.failures() >= OUTAGE) {
            return Some(ConnectionState::Lost);
        }
        let degraded = list.iter().any(|server| server.failed_within(MEMORY));
        answered.then_some(if degraded { ConnectionState::Degraded } else { ConnectionState::Connected })
    }

    pub(crate) fn current(&self) -> Option<Rc<Server>> {
        self.list.borrow().get(self.current.get()).cloned()
    }

    /// Changes when the server in use may not know what the one before was told.
    pub(crate) fn generation(&self) -> u64 {
        *self.generation.borrow()
    }

    /// Told of every change of the generation.
    pub(crate) fn generations(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// Changes when lists from before and after may not be compared: servers that restart empty fill up again, and clocks
    /// differ.
    pub(crate) fn outages(&self) -> u64 {
        self.outages.get()
    }

    pub(crate) fn note_outage(&self) {
        self.outages.set(self.outages.get() + 1);
    }

    pub(crate) fn last_idle_end(&self) -> Option<IdleEnd> {
        self.last_idle_end.get()
    }

    pub(crate) fn note_idle_end(&self, is_doubtful: bool) {
        self.last_idle_end.set(Some(IdleEnd { at: Instant::now(), is_doubtful }));
    }

    /// See [`generation`](Servers::generation).
    pub(crate) fn next_generation(&self) {
        self.generation.send_modify(|generation| *generation += 1);
    }

    /// The one in use, else the next that is not paused, else how long to wait. `tried` are left out. Those that are well
    /// go first: one that hangs may take as long as an operation may. While the one in use fails, those that refused a
    /// moment ago are left in peace: everybody would ask them again and again.
    pub(crate) fn choose(&self, operation: Operation, tried: &[Rc<Server>]) -> Choice {
        let list = self.list.borrow();
        let now = Instant::now();
        let order = (0..list.len()).map(|step| &list[(self.current.get() + step) % list.len()]);
        let untried = order.filter(|server| !tried.iter().any(|tried| Rc::ptr_eq(tried, server)));
        if untried.clone().next().is_none() {
            return Choice::Nobody;
        }
        let well = untried.clone().filter(|server| !server.is_in_trouble());
        let spares_refusing = self.is_failing();
        let mut wait = LONGEST_PAUSE;
        for server in well.chain(untried.filter(|server| server.is_in_trouble())) {
            let refused = if spares_refusing { server.refusal_pause(now) } else { Duration::ZERO };
            let pause = server.pause_for(operation, now).max(refused);
            if pause.is_zero() {
                self.begin_trial(server, operation, now);
                return Choice::Ask(server.clone());
            }
            wait = wait.min(pause);
        }
        Choice::Wait(wait)
    }

    /// A failing server is asked by one request at a time.
    fn begin_trial(&self, server: &Server, operation: Operation, now: Instant) {
        let mut health = server.health.borrow_mut();
        let until = now + self.trial;
        health.paused_until = health.paused_until.map(|_| until);
        health.refusals.begin_trial(operation, until);
    }

    /// It answered as one that is well, and did what `refused_by` had refused.
    pub(crate) fn succeeded(&self, server: &Rc<Server>, operation: Operation, refused_by: &[Rc<Server>]) {
        for refusing in refused_by.iter().filter(|_| operation.is_in_every_api()) {
            refusing.health.borrow_mut().is_no_use = true;
        }
        self.use_now(server);
        let mut health = server.health.borrow_mut();
        health.last_success = Some(Instant::now());
        health.refused = None;
        health.is_no_use = false;
        self.answered(health, operation);
    }

    /// It is well, and refuses: no reason to leave another one for it.
    pub(crate) fn refused(&self, server: &Rc<Server>, operation: Operation) {
        let mut health = server.health.borrow_mut();
        if operation.is_in_every_api() {
            health.refused = Some(Instant::now());
        }
        self.answered(health, operation);
    }

    fn answered(&self, mut health: RefMut<'_, Health>, operation: Operation) {
        health.requests += 1;
        health.failures = 0;
        health.lone_failure = None;
        let was_paused = health.refusals.succeeded(operation) | health.paused_until.take().is_some();
        drop(health);
        if was_paused {
            self.recovered.notify_waiters();
        }
    }

    /// Waits for `pause`, but not longer than until a server answers again.
    pub(crate) async fn wait(&self, pause: Duration) {
        // Waiting too long is all that an elapsed pause means.
        let _ = timeout(pause, self.recovered.notified()).await;
    }

    /// A request of `subject` that began at `began` failed in a way that another server might not.
    pub(crate) fn failed(
        &self,
        server: &Rc<Server>,
        operation: Operation,
        subject: impl Fn() -> String,
        began: Instant,
        error: &Error,
    ) {
        let now = Instant::now();
        let mut health = server.health.borrow_mut();
        health.requests += 1;
        health.failed_requests += 1;
        health.last_error = Some(error.clone());
        let answers = !matches!(error, Error::Unreachable { .. } | Error::Timeout { .. });
        // The one in use is asked for other things, too, as a rule. Where this one is all, it says something after all.
        let longest_alone = if self.is_in_use(server) { LONE } else { Duration::MAX };
        let mut is_alone = false;
        if answers {
            let subject = subject();
            is_alone = health.is_alone(operation, &subject, longest_alone);
            health.paused_until = None;
            health.refusals.failed(operation, subject, began);
        }
        // Of many requests that failed together one counts, and none that may be the request's own fault.
        if !is_alone && health.last_failure.is_none_or(|last| began >= last) {
            health.failures += 1;
            health.last_failure = Some(now);
            if !answers {
                health.paused_until = Some(now + pause(health.failures));
                // It may have moved.
                *server.resolved.borrow_mut() = Resolved::default();
            }
        }
    }

    fn use_now(&self, server: &Rc<Server>) {
        let list = self.list.borrow();
        // The one in use may answer again a moment after another took over for one request: it stays.
        if self.is_in_use(server) || list.get(self.current.get()).is_some_and(|current| !current.is_in_trouble()) {
            return;
        }
        if let Some(place) = list.iter().position(|listed| Rc::ptr_eq(listed, server)) {
            self.current.set(place);
            self.next_generation();
        }
    }

    /// Whether a datagram from `ip` may come from a server.
    pub(crate) fn trusts(&self, ip: IpAddr) -> bool {
        self.list.borrow().iter().any(|server| server.is_at(ip))
    }

    /// The server in use, if a datagram from `ip` may be its: the datagram does not tell the server's port, and an address
    /// of none of them is a translated one.
    pub(crate) fn in_use_at(&self, ip: IpAddr) -> Option<Rc<Server>> {
        self.current().filter(|current| current.is_at(ip) || !self.trusts(ip))
    }

    fn is_in_use(&self, server: &Rc<Server>) -> bool {
        self.list.borrow().get(self.current.get()).is_some_and(|current| Rc::ptr_eq(current, server))
    }

    /// Whether the one in use fails.
    pub(crate) fn is_failing(&self) -> bool {
        self.current().is_some_and(|current| current.failures() > 0)
    }

    /// Those that gave no answer a moment ago, and none since. Not those of longer ago: nobody else may ask them.
    pub(crate) fn failed_lately(&self) -> Vec<Rc<Server>> {
        self.list.borrow().iter().filter(|server| server.failed_within(GRUDGE)).cloned().collect()
    }
}

/// Doubles from 50 ms to 2 s, with a quarter of jitter so that a fleet does not return in step.
pub(super) fn pause(failures: u32) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1 << (failures.clamp(1, 16) - 1));
    let longest = doubled.min(LONGEST_PAUSE);
    longest.mul_f64(0.75 + 0.25 * fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(names: &[&str]) -> Servers {
        let addresses = names.iter().map(|name| ServerAddress::parse(name, "/nacos").unwrap()).collect();
        let servers = Servers::new(addresses, Duration::from_secs(3));
        servers.current.set(0);
        servers
    }

    fn ask(servers: &Servers, tried: &[Rc<Server>]) -> Option<Rc<Server>> {
        match servers.choose(Operation::Beat, tried) {
            Choice::Ask(server) => Some(server),
            _ => None,
        }
    }

    fn fail(servers: &Servers, server: &Rc<Server>) {
        let error =
            Error::Unreachable { operation: Operation::Beat, server: server.name.clone(), reason: "refused".into() };
        servers.failed(server, Operation::Beat, String::new, Instant::now(), &error);
    }

    #[test]
    fn the_one_in_use_is_used_until_it_fails() {
        let servers = servers(&["a:1", "b:1"]);
        let first = ask(&servers, &[]).unwrap();
        assert_eq!(first.name, "a:1");
        servers.succeeded(&first, Operation::Beat, &[]);
        assert_eq!(ask(&servers, &[]).unwrap().name, "a:1");
        fail(&servers, &first);
        let second = ask(&servers, std::slice::from_ref(&first)).unwrap();
        servers.succeeded(&second, Operation::Beat, &[]);
        assert_eq!(servers.current().unwrap().name, "b:1");
        assert_eq!(servers.generation(), 1);
    }

    #[test]
    fn while_all_fail_one_request_tries_and_the_others_wait() {
        let servers = servers(&["a:1"]);
        let server = ask(&servers, &[]).unwrap();
        fail(&servers, &server);
        assert!(matches!(servers.choose(Operation::Beat, &[]), Choice::Wait(wait) if wait <= FIRST_PAUSE));
        server.health.borrow_mut().paused_until = Some(Instant::now());
        assert!(ask(&servers, &[]).is_some(), "the pause is over: one may try");
        assert!(matches!(servers.choose(Operation::Beat, &[]), Choice::Wait(_)), "a second may not");
        servers.succeeded(&server, Operation::Beat, &[]);
        assert!(ask(&servers, &[]).is_some());
    }

    #[test]
    fn one_request_that_is_answered_with_failures_says_nothing_of_the_server() {
        let servers = servers(&["a:1"]);
        let server = ask(&servers, &[]).unwrap();
        let refuse = |operation, subject: &str| {
            let (status, body) = (500, "no leader".into());
            let error = Error::Refused { operation, server: "a:1".into(), status, body };
            servers.failed(&server, operation, || subject.into(), Instant::now(), &error);
        };
        (0..10).for_each(|_| refuse(Operation::Register, "orders"));
        assert_eq!((server.failures(), server.health().failed_requests), (0, 10));
        refuse(Operation::List, "orders");
        assert_eq!(server.failures(), 1, "two of them do");
        servers.succeeded(&server, Operation::List, &[]);
        refuse(Operation::Register, "orders");
        assert_eq!(server.failures(), 0);
        server.health.borrow_mut().lone_failure.as_mut().unwrap().2 -= LONE;
        refuse(Operation::Register, "orders");
        assert_eq!(server.failures(), 1, "where it is all that is asked, it says something");

        let servers = self::servers(&["a:1", "b:1"]);
        let idle = servers.all()[1].clone();
        let fail = || {
            let (operation, server, status, body) = (Operation::List, "b:1".into(), 500, String::new());
            let error = Error::Refused { operation, server, status, body };
            servers.failed(&idle, operation, || "orders".into(), Instant::now(), &error);
        };
        fail();
        idle.health.borrow_mut().lone_failure.as_mut().unwrap().2 -= LONE;
        fail();
        assert_eq!(idle.failures(), 0, "one that is not in use is asked for nothing else");
    }

    #[test]
    fn one_that_does_what_the_one_in_use_refuses_takes_over() {
        let after = |operation, refuses: bool| {
            let servers = servers(&["a:1", "b:1"]);
            let (first, second) = (servers.all()[0].clone(), servers.all()[1].clone());
            if refuses {
                servers.refused(&first, operation);
                servers.succeeded(&second, operation, &[first]);
            } else {
                let (server, status, body) = ("a:1".into(), 503, String::new());
                let error = Error::Refused { operation, server, status, body };
                servers.failed(&first, operation, String::new, Instant::now(), &error);
                servers.succeeded(&second, operation, &[]);
            }
            (servers.current().unwrap().name.clone(), servers.generation())
        };
        assert_eq!(after(Operation::Beat, true), ("b:1".into(), 1));
        assert_eq!(after(Operation::Get, true), ("a:1".into(), 0), "not every server can do that");
        assert_eq!(after(Operation::Beat, false), ("a:1".into(), 0), "one failure may be the request's own");
    }

    #[test]
    fn one_that_is_well_goes_before_the_one_in_use_that_fails() {
        let servers = servers(&["a:1", "b:1"]);
        let first = ask(&servers, &[]).unwrap();
        fail(&servers, &first);
        first.health.borrow_mut().paused_until = None;
        assert_eq!(ask(&servers, &[]).unwrap().name, "b:1");
        fail(&servers, &servers.all()[1]);
        assert_eq!(ask(&servers, &[]).unwrap().name, "a:1", "all fail");
    }

    #[test]
    fn while_the_one_in_use_fails_others_do_not_refuse_over_and_over() {
        let servers = servers(&["a:1", "b:1"]);
        let (first, second) = (servers.all()[0].clone(), servers.all()[1].clone());
        servers.refused(&second, Operation::Beat);
        assert_eq!(ask(&servers, std::slice::from_ref(&first)).unwrap().name, "b:1");
        fail(&servers, &first);
        assert!(matches!(servers.choose(Operation::Beat, &[]), Choice::Wait(_)));
        second.health.borrow_mut().refused = Instant::now().checked_sub(LONGEST_PAUSE);
        assert_eq!(ask(&servers, &[]).unwrap().name, "b:1", "now and then");
    }

    #[test]
    fn the_connection_is_lost_also_beside_one_that_has_only_refused() {
        let servers = servers(&["a:1", "b:1"]);
        let (first, second) = (servers.all()[0].clone(), servers.all()[1].clone());
        servers.succeeded(&first, Operation::Beat, &[]);
        servers.refused(&second, Operation::Beat);
        assert_eq!(servers.connection_after(true), Some(ConnectionState::Connected));
        (0..OUTAGE).for_each(|_| fail(&servers, &first));
        assert_eq!(servers.connection_after(true), Some(ConnectionState::Lost));
    }

    #[test]
    fn a_server_that_refuses_does_not_take_over() {
        let servers = servers(&["a:1", "b:1"]);
        let (first, second) = (servers.all()[0].clone(), servers.all()[1].clone());
        fail(&servers, &first);
        servers.refused(&second, Operation::Beat);
        assert_eq!(servers.current().unwrap().name, "a:1");
    }

    #[test]
    fn requests_that_failed_together_count_once() {
        let servers = servers(&["a:1"]);
        let server = ask(&servers, &[]).unwrap();
        let began = Instant::now() - Duration::from_secs(1);
        let error = Error::Timeout { operation: Operation::Beat, server: "a:1".into(), after: Duration::from_secs(3) };
        for _ in 0..64 {
            servers.failed(&server, Operation::Beat, String::new, began, &error);
        }
        assert_eq!((server.health().failures, server.health().failed_requests), (1, 64));
    }

    #[test]
    fn the_connection_is_degraded_after_a_failover_and_for_a_while() {
        let servers = servers(&["a:1", "b:1"]);
        let (first, second) = (servers.all()[0].clone(), servers.all()[1].clone());
        servers.succeeded(&first, Operation::Beat, &[]);
        assert_eq!(servers.connection_after(true), Some(ConnectionState::Connected));
        fail(&servers, &first);
        assert_eq!(servers.connection_after(false), None, "nobody has taken over yet");
        servers.succeeded(&second, Operation::Beat, &[]);
        assert_eq!(servers.connection_after(true), Some(ConnectionState::Degraded));
        first.health.borrow_mut().last_failure = Instant::now().checked_sub(MEMORY);
        assert_eq!(servers.connection_after(true), Some(ConnectionState::Connected));
    }

    #[test]
    fn the_connection_is_lost_when_all_fail_and_not_only_hiccup() {
        let servers = servers(&["a:1", "b:1"]);
        for _ in 1..OUTAGE {
            servers.all().iter().for_each(|server| fail(&servers, server));
            assert_eq!(servers.connection_after(false), None);
        }
        servers.all().iter().for_each(|server| fail(&servers, server));
        assert_eq!(servers.connection_after(false), Some(ConnectionState::Lost));
        servers.succeeded(&servers.all()[1], Operation::Beat, &[]);
        assert_eq!(servers.connection_after(true), Some(ConnectionState::Degraded), "the other one still fails");
    }

    #[test]
    fn a_datagram_is_of_the_server_in_use_or_of_another_one() {
        let servers = servers(&["10.0.0.1:1", "10.0.0.2:1", "10.0.0.2:2"]);
        let of = |ip: &str| servers.in_use_at(ip.parse().unwrap()).map(|server| server.name.clone());
        assert_eq!(of("10.0.0.1").as_deref(), Some("10.0.0.1:1"));
        assert_eq!(of("10.0.0.2"), None, "of another one");
        assert_eq!(of("172.17.0.1").as_deref(), Some("10.0.0.1:1"), "translated");
        servers.current.set(2);
        assert_eq!(of("10.0.0.2").as_deref(), Some("10.0.0.2:2"));
    }

    #[test]
    fn pauses_grow_and_end() {
        assert!(pause(1) <= FIRST_PAUSE && pause(1) >= FIRST_PAUSE.mul_f64(0.74));
        assert!(pause(3) > pause(1));
        assert!(pause(1000) <= LONGEST_PAUSE);
    }

    #[test]
    fn a_new_list_keeps_what_is_known() {
        let servers = servers(&["a:1", "b:1"]);
        let first = ask(&servers, &[]).unwrap();
        first.speaks(Protocol::V3);
        let list = ["c:1", "a:1"].iter().map(|name| ServerAddress::parse(name, "").unwrap());
        servers.replace(
            list.map(|mut a| {
                a.context_path = "/nacos".into();
                a
            })
            .collect(),
        );
        assert_eq!(servers.current().unwrap().protocol(), Some(Protocol::V3));
        assert_eq!(servers.generation(), 0);
    }
}
