//! Sends the request of an operation: chooses the server and the protocol, and repeats the request after failures.
//!
//! Every operation may be repeated, also at another server. Registering, deregistering, modifying or beating twice has
//! the effect of once, and the other operations only read.
//!
//! # Which server, how often
//!
//! A *round* asks each server once, the server in use first. After a round without success, a pause of 50 ms to 2 s
//! follows, and another round, until the deadline. [`Patience::Round`] stops after one round: a heartbeat or a poll
//! comes back soon by itself.
//!
//! | the answer | what happens next |
//! |---|---|
//! | a success, or "not found" | the end |
//! | a failure: no connection, no answer, 5xx, 429, unreadable | the next server |
//! | a rejection: 4xx, a rejected login | the next healthy server; if none accepts, the first rejection |
//!
//! A rejection ends the operation early, because waiting does not change it. The exception is a failing server in
//! use, which might accept the request when it is back.
//!
//! # Which protocol
//!
//! v1 is tried first at a server whose protocol is not known. If the server does not offer the operation in v1, v3 is
//! tried in the same attempt. The protocol that works is stored for the server, but only after an operation that both
//! APIs have: Nacos 3.0 offers GET only in v3, and these operations in v1 too.

use std::{hash::BuildHasher as _, rc::Rc, time::Duration};

use actix_rt::time::{timeout, Instant};
use slog::debug;
use tokio::sync::SemaphorePermit;

use super::{
    calls::Call,
    health::{pause, Failure, FailureKind},
    nacos::{Answered, Nacos, Patience},
    server::Server,
    servers::Choice,
    transport::Auth,
};
use crate::{
    error::{Error, Operation},
    wire::exchange::{Answer, Rejection, Request, WireProtocol},
};

/// How often an operation without servers checks whether the server list has been fetched.
///
/// With an endpoint, the client has no server until the first server list has been fetched.
const SERVER_LIST_WAIT: Duration = Duration::from_millis(50);

/// The progress of one operation.
///
/// A rejection is kept from the first server, because that is the server in use. A failure is kept from the last
/// server, because it is the most recent.
#[derive(Default)]
struct Progress {
    deadline: Option<Instant>,
    /// Servers that were asked in this round.
    tried: Vec<Rc<Server>>,
    /// Completed rounds of all servers.
    rounds: u32,
    last_failure: Option<Error>,
    has_current_failed: bool,
    first_rejection: Option<Error>,
    /// Servers that reject every request, whatever it is about.
    reject_all: Vec<Rc<Server>>,
}

impl Progress {
    /// Notes that a server does not accept the request.
    fn reject(&mut self, server: Rc<Server>, rejection: Error) {
        if rejects_all(&rejection) {
            self.reject_all.push(server.clone());
        }
        self.first_rejection.get_or_insert(rejection);
        self.tried.push(server);
    }

    /// Notes that a request failed.
    fn fail(&mut self, server: Rc<Server>, failure: Error, is_cut_short: bool) {
        self.tried.push(server);
        // A request that the deadline cut short explains less than an earlier failure.
        if !is_cut_short || self.last_failure.is_none() {
            self.last_failure = Some(failure);
        }
    }

    /// Begins another round over all servers. Returns the pause before that round.
    fn next_round(&mut self) -> Duration {
        if self.tried.is_empty() {
            return SERVER_LIST_WAIT;
        }
        self.tried.clear();
        self.rounds += 1;
        pause(self.rounds)
    }
}

impl Nacos {
    /// Sends the request to one server after the other and reads the answers, until one is a success or no other server
    /// is expected to answer better.
    ///
    /// # Errors
    /// The first rejection, if waiting would not help; otherwise the last failure.
    pub(super) async fn attempt<C: Call>(&self, call: &C, patience: Patience) -> Result<Answered<C::Value>, Error> {
        let operation = C::OPERATION;
        let mut progress = Progress::default();
        while let Some((_permit, server, deadline)) = self.next_server(operation, patience, &mut progress).await {
            // A rejected login does not affect the server's health.
            if let Err(rejected) = self.session.check(&server.name) {
                progress.reject(server, rejected);
                continue;
            }
            let sent = Instant::now();
            let asked = self.ask(call, &server, deadline).await;
            self.requests.count(operation, sent.elapsed(), &asked);
            match asked {
                Err(error) if error.is_retryable() => {
                    let counts = self.note_failure(call, &server, sent, &error);
                    progress.has_current_failed |= self.servers.is_in_use(&server);
                    progress.fail(server, error, !counts);
                }
                // The server is healthy but rejects this request; another server may accept it.
                Err(error) if is_rejection(&error) => {
                    self.servers.rejected(&server, operation);
                    self.note_connection(true);
                    progress.reject(server, error);
                }
                answered => {
                    self.list_cache.sweep();
                    let rejects_all = |current: &Rc<Server>| progress.reject_all.iter().any(|s| Rc::ptr_eq(s, current));
                    self.servers.succeeded(&server, operation, rejects_all);
                    self.note_connection(true);
                    return answered;
                }
            }
        }
        let has_answer = self.has_answer(operation, &progress);
        let rejection = progress.first_rejection.filter(|_| has_answer);
        Err(rejection.or(progress.last_failure).unwrap_or_else(|| self.no_server(operation)))
    }

    /// Whether a rejection is the answer unless a healthy server gives a better one. Waiting for failing servers is not
    /// worth it then, except for the server in use, which may recover.
    ///
    /// So an application that is rejected by the only healthy server gets the error at once.
    fn has_answer(&self, operation: Operation, progress: &Progress) -> bool {
        progress.first_rejection.is_some()
            && !progress.has_current_failed
            && !self.servers.is_current_open_for(operation)
    }

    /// Waits for a permit and for a server that may be asked. `None` if no server is worth waiting for.
    ///
    /// The permit is held as long as the request is under way.
    async fn next_server(
        &self,
        operation: Operation,
        patience: Patience,
        progress: &mut Progress,
    ) -> Option<(Option<SemaphorePermit<'_>>, Rc<Server>, Instant)> {
        loop {
            // Wait for the permit first. Requests that wait while a server hangs then choose another server.
            let permit = self.permit(operation, patience, progress).await?;
            let now = Instant::now();
            // The time of an operation begins with its first permit: a burst may have to wait longer than an operation
            // may take.
            let deadline = *progress.deadline.get_or_insert_with(|| patience.deadline(now + self.operation_timeout));
            if patience == Patience::InUse {
                let others = self.servers.all().into_iter().filter(|server| !self.servers.is_in_use(server));
                progress.tried.extend(others);
            }
            let is_over = now >= deadline && (progress.last_failure.is_some() || progress.first_rejection.is_some());
            let has_answer = self.has_answer(operation, progress);
            // If all servers that answered reject everything, ask failing servers too.
            let only_healthy = has_answer && progress.reject_all.len() < progress.tried.len();
            let wait = match self.servers.choose(operation, &progress.tried, only_healthy) {
                Choice::Ask(server) if !is_over => return Some((permit, server, deadline)),
                _ if now >= deadline || has_answer || patience.is_one_round() => return None,
                Choice::Wait(pause) => pause,
                Choice::Ask(_) | Choice::Nobody => progress.next_round(),
            };
            drop(permit);
            self.servers.wait(wait.min(deadline - now)).await;
        }
    }

    /// Waits for a permit. `None` if the shared deadline of the operation passes first.
    async fn permit(
        &self,
        operation: Operation,
        patience: Patience,
        progress: &mut Progress,
    ) -> Option<Option<SemaphorePermit<'_>>> {
        let permit = self.transport.permit(operation);
        let Patience::Until(deadline) = patience else { return Some(permit.await) };
        let permit = timeout(deadline.saturating_duration_since(Instant::now()), permit).await.ok();
        if permit.is_none() {
            let server = self.servers.current().map_or_else(String::new, |server| server.name.clone());
            let late = Error::Timeout { operation, server, after: self.operation_timeout };
            progress.last_failure.get_or_insert(late);
        }
        permit
    }

    /// The error when every breaker is open: the last error of the server in use.
    ///
    /// It happens to operations of one round, which do not wait for a breaker.
    fn no_server(&self, operation: Operation) -> Error {
        let current = self.servers.current();
        let server = current.as_ref().map_or_else(|| "any server".to_owned(), |server| server.name.clone());
        let last = current.and_then(|server| server.last_error());
        let reason = last.map_or_else(|| "no server is known yet".to_owned(), |error| error.to_string());
        Error::Unreachable { operation, server, reason }
    }

    /// Asks one server in the protocol that it was found to speak, and in the other protocol if it does not speak that
    /// one.
    ///
    /// # Errors
    /// The error of the protocol that was tried last.
    async fn ask<C: Call>(
        &self,
        call: &C,
        server: &Rc<Server>,
        deadline: Instant,
    ) -> Result<Answered<C::Value>, Error> {
        let mut protocol = self.protocol_of(server);
        let mut answered = self.speak(call, server, protocol, deadline).await?;
        if self.protocol.is_none() && matches!(answered, Err(Rejection::Unsupported)) {
            protocol = protocol.other();
            answered = self.speak(call, server, protocol, deadline).await?;
        }
        if C::OPERATION.is_in_every_api() && !matches!(answered, Err(Rejection::Unsupported)) {
            self.servers.note_protocol(server, protocol);
        }
        match answered {
            Ok(value) => Ok(Answered { value, server: server.clone(), protocol }),
            Err(rejection) => Err(rejection.into_error(C::OPERATION, &server.name, call.subject())),
        }
    }

    /// The protocol to ask a server in. v1 is tried first, because only v1 has pushes.
    pub(super) fn protocol_of(&self, server: &Server) -> WireProtocol {
        self.protocol.or(server.protocol()).unwrap_or(WireProtocol::V1)
    }

    /// Sends long parameters in a form, unless the server was found to read the parameters of this method only from the
    /// query.
    ///
    /// Nacos 1.4 reads the parameters of a POST only from the query, and answers 400 to a form. A proxy may reject
    /// a long query with 400, 414 or 431. What a server reads is stored by method.
    pub(super) async fn send(
        &self,
        server: &Server,
        operation: Operation,
        deadline: Instant,
        request: &Request,
        token: Option<&str>,
    ) -> Result<Answer, Error> {
        let send = async |request: &Request| {
            // Signatures belong to the naming API. The login has none.
            let key = self.access_key.borrow().clone().filter(|_| operation != Operation::Login);
            let auth = Auth { token, key: key.as_deref() };
            let context_path = &server.address.context_path;
            let sent = self.transport.send(&server.client, context_path, request, auth, deadline).await;
            sent.map_err(|no_answer| no_answer.into_error(operation, &server.name))
        };
        let Some(in_query) = request.in_query() else { return send(request).await };
        // A server that does not read the form does not find the signed service in the parameters, and answers 403.
        let is_signed = self.access_key.borrow().is_some();
        let lacks_parameters = |answer: &Answer| answer.lacks_parameters() || is_signed && answer.status == 403;
        if !server.is_query_only(&request.method) {
            let by_form = send(request).await?;
            if !lacks_parameters(&by_form) {
                return Ok(by_form);
            }
            let by_query = send(&in_query).await?;
            let is_read = !by_query.may_be_too_long() && !lacks_parameters(&by_query);
            server.note_query_only(&request.method, is_read);
            return Ok(by_query);
        }
        let by_query = send(&in_query).await?;
        if !by_query.may_be_too_long() {
            return Ok(by_query);
        }
        // The server may have been replaced by a server that reads forms.
        let by_form = send(request).await?;
        server.note_query_only(&request.method, lacks_parameters(&by_form));
        Ok(if lacks_parameters(&by_form) { by_query } else { by_form })
    }

    /// Notes a failure. Returns whether it counts against the server.
    ///
    /// A failed connection that was not refused may be a problem of the network or of the name server, so it opens
    /// no breaker at once.
    fn note_failure<C: Call>(&self, call: &C, server: &Server, sent: Instant, error: &Error) -> bool {
        debug!(self.log, "request failed";
            "server" => &server.name, "operation" => %C::OPERATION, "error" => %error);
        let Some(kind) = self.transport.failure_kind(error) else {
            // A 429 is an answer. A request that the deadline cut short says nothing about the server.
            match error.status() {
                Some(_) => self.servers.rejected(server, C::OPERATION),
                None => self.servers.undecided(server, C::OPERATION),
            }
            return false;
        };
        // A connection that broke counts as no answer: a proxy may break it because of the content of one request.
        let is_refused = kind == FailureKind::ConnectFailed && server.dialer.was_refused_since(sent);
        let kind = if kind == FailureKind::ConnectFailed && !is_refused { FailureKind::NoAnswer } else { kind };
        let subject = self.subjects.hash_one(call.subject());
        self.servers.failed(server, Failure { kind, operation: C::OPERATION, subject, sent, error: error.clone() });
        self.note_connection(false);
        true
    }
}

/// Whether another server may accept what this server rejects. A server that is not a Nacos may reject in any way, so
/// no rejection is known to hold for all servers.
fn is_rejection(error: &Error) -> bool {
    matches!(error, Error::Unauthorized { .. } | Error::Unsupported { .. } | Error::Refused { .. })
}

/// Whether the server probably rejects every request: it denies access, is not a Nacos server, or redirects.
///
/// Another server comes into use then, as after a failure.
fn rejects_all(rejection: &Error) -> bool {
    !matches!(rejection, Error::Refused { status, .. } if *status >= 400)
}

#[cfg(test)]
mod tests {
    use std::{
        cell::{Cell, RefCell},
        future, io,
    };

    use actix_rt::time::sleep;
    use actix_service::fn_service;
    use actix_tls::connect::{ConnectError, ConnectInfo, Connection};
    use awc::{http::Uri, Client, Connector};
    use tokio::io::{duplex, AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

    use super::{
        super::{
            calls::{Get, Register},
            dialer::Dialer,
            servers::tests::{refuse, servers_of, succeed},
            stream::Stream,
        },
        *,
    };
    use crate::{
        config::{Config, Protocol, ServerAddress},
        model::{
            instance::{Instance, InstanceKey},
            service::ServiceName,
        },
        runtime::history::History,
    };

    const SECOND: Duration = Duration::from_secs(1);
    /// How Nacos 1.4 answers a form body.
    const FORM_NOT_READ: &str = "Param 'serviceName' is required.";

    /// What a server does with a request.
    #[derive(Clone)]
    enum Reply {
        /// Status and body.
        Answer(u16, String),
        Silence,
    }

    fn ok() -> Reply {
        answer(200, "ok")
    }

    fn answer(status: u16, body: impl ToString) -> Reply {
        Reply::Answer(status, body.to_string())
    }

    /// The request as it is sent. Its head and body are the second part.
    type Sent = (String, String);

    /// A client whose servers are in memory, and a clock that stands still while anything can go on.
    struct World {
        nacos: Nacos,
        sent: Rc<RefCell<Vec<Sent>>>,
        /// How connections fail. `None` while they succeed.
        failing: Rc<Cell<Option<io::ErrorKind>>>,
        instance: Instance,
    }

    fn world(
        names: &[&str],
        set: impl FnOnce(Config) -> Config,
        reply: impl Fn(&str, &str, usize) -> Reply + 'static,
    ) -> World {
        tokio::time::pause();
        in_memory(names, set, reply)
    }

    /// `reply` decides by the server, the request, and the number of earlier requests.
    fn in_memory(
        names: &[&str],
        set: impl FnOnce(Config) -> Config,
        reply: impl Fn(&str, &str, usize) -> Reply + 'static,
    ) -> World {
        let (sent, failing) = (Rc::new(RefCell::new(Vec::<Sent>::new())), Rc::new(Cell::new(None::<io::ErrorKind>)));
        let log = sent.clone();
        let replies = move |server: &str, request: &str| {
            let before = log.borrow().len();
            log.borrow_mut().push((server.to_owned(), request.to_owned()));
            reply(server, request, before)
        };
        let (replies, fails) = (Rc::new(replies), failing.clone());
        let new_client = move |dialer: &Dialer| {
            let (dialer, replies, fails) = (dialer.clone(), replies.clone(), fails.clone());
            let connect = fn_service::<_, _, _, _, _, ()>(move |asked: ConnectInfo<Uri>| {
                let connected = match fails.get() {
                    None => {
                        let (near, far) = duplex(1 << 16);
                        let (name, replies) = (dialer.host_header(), replies.clone());
                        actix_rt::spawn(serve(far, move |request| replies(&name, request)));
                        Ok(Connection::new(asked.request().clone(), Stream::new(near)))
                    }
                    Some(kind) => {
                        if kind == io::ErrorKind::ConnectionRefused {
                            dialer.note_refused();
                        }
                        Err(ConnectError::Io(kind.into()))
                    }
                };
                future::ready(connected)
            });
            Client::builder().connector(Connector::new().connector(connect)).disable_timeout().finish()
        };
        let config = set(Config::new("a:1").request_timeout(3 * SECOND).operation_timeout(10 * SECOND));
        let mut nacos = Nacos::new(&config, History::new()).unwrap();
        nacos.servers = Rc::new(servers_of(names, new_client));
        World { nacos, sent, failing, instance: Instance::new("127.0.0.7", 80) }
    }

    /// Answers the requests of one connection.
    async fn serve(mut connection: DuplexStream, reply: impl Fn(&str) -> Reply) {
        let mut request = Vec::new();
        while connection.read_buf(&mut request).await.is_ok_and(|read| read > 0) {
            let text = String::from_utf8(request.clone()).unwrap();
            if !is_complete(&text) {
                continue;
            }
            request.clear();
            let Reply::Answer(status, body) = reply(&text) else { return future::pending().await };
            let answer = format!("HTTP/1.1 {status} -\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            connection.write_all(answer.as_bytes()).await.unwrap();
        }
    }

    fn is_complete(request: &str) -> bool {
        let Some((head, body)) = request.split_once("\r\n\r\n") else { return false };
        let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        body.len() >= length.unwrap_or(0)
    }

    impl World {
        async fn register(&self, patience: Patience) -> Result<(), Error> {
            let service = ServiceName::parse("orders").unwrap();
            let call = Register { namespace: "", service: &service, instance: &self.instance };
            self.nacos.attempt(&call, patience).await.map(drop)
        }

        async fn get(&self, patience: Patience) -> Result<(), Error> {
            let key = InstanceKey::of(&ServiceName::parse("orders").unwrap(), &self.instance);
            self.nacos.attempt(&Get { namespace: "", key: &key }, patience).await.map(drop)
        }

        /// With parameters that are too long for a request line. Returns how they were sent each time, and the result.
        async fn register_long(&mut self) -> (Vec<&'static str>, Result<(), Error>) {
            self.instance.metadata.insert("long".into(), "x".repeat(5000).into());
            self.sent.borrow_mut().clear();
            let registered = self.register(Patience::Round).await;
            let sent = self.sent.borrow();
            (sent.iter().map(|(_, request)| if is_form(request) { "form" } else { "query" }).collect(), registered)
        }

        /// The servers that received a request, in order.
        fn asked(&self) -> Vec<String> {
            self.sent.borrow().iter().map(|(server, _)| server.clone()).collect()
        }

        /// The APIs that were asked, in order.
        fn apis(&self) -> Vec<&'static str> {
            self.sent.borrow().iter().map(|(_, request)| if is_v3(request) { "v3" } else { "v1" }).collect()
        }

        fn server(&self, index: usize) -> Rc<Server> {
            self.nacos.servers.all()[index].clone()
        }

        fn in_use(&self) -> String {
            self.nacos.servers.current().unwrap().name.clone()
        }
    }

    fn is_form(request: &str) -> bool {
        request.contains("x-www-form-urlencoded")
    }

    fn is_v3(request: &str) -> bool {
        request.contains("/v3/")
    }

    fn as_is(config: Config) -> Config {
        config
    }

    #[actix::test]
    async fn a_failure_counts_against_the_server_and_the_next_one_is_asked() {
        let world = world(&["a:1", "b:1"], as_is, |server, _, _| if server == "a:1" { answer(500, "") } else { ok() });
        world.register(Patience::Round).await.unwrap();
        assert_eq!(world.asked(), ["a:1", "b:1"]);
        let health = world.server(0).health();
        assert_eq!((health.failures, health.has_failed_within(SECOND)), (1, false), "it answers, though badly");
    }

    #[actix::test]
    async fn a_rejection_counts_against_no_server_and_the_next_one_is_asked() {
        tokio::time::pause();
        for (status, in_use) in [(400, "a:1"), (403, "b:1")] {
            let reply = move |server: &str, _: &str, _| if server == "a:1" { answer(status, "") } else { ok() };
            let world = in_memory(&["a:1", "b:1"], as_is, reply);
            world.register(Patience::Round).await.unwrap();
            assert_eq!((world.asked(), world.server(0).health().failures), (vec!["a:1".into(), "b:1".into()], 0));
            assert_eq!(world.in_use(), in_use, "a server that denies access probably rejects everything");
        }
    }

    #[actix::test]
    async fn the_answer_that_there_is_no_such_instance_ends_an_operation() {
        let world = world(&["a:1", "b:1"], as_is, |_, _, _| answer(404, "no matched ip"));
        assert!(matches!(world.get(Patience::Operation).await, Err(Error::NotFound { .. })));
        assert_eq!(world.asked(), ["a:1"]);
    }

    #[actix::test]
    async fn the_first_rejection_is_the_answer_at_once_if_no_server_accepts_the_request() {
        let world = world(&["a:1", "b:1"], as_is, |server, _, _| answer(400, server));
        let began = Instant::now();
        let rejected = world.register(Patience::Operation).await;
        assert!(matches!(rejected, Err(Error::Refused { body, .. }) if body == "a:1"));
        assert_eq!((world.asked(), began.elapsed()), (vec!["a:1".into(), "b:1".into()], Duration::ZERO));
    }

    #[actix::test]
    async fn a_rejection_does_not_end_an_operation_while_the_server_in_use_fails() {
        let world = world(&["a:1", "b:1"], as_is, |server, _, before| match (server, before) {
            ("b:1", _) => answer(400, ""),
            (_, 0) => answer(500, ""),
            _ => ok(),
        });
        world.register(Patience::Operation).await.unwrap();
        assert_eq!(world.asked(), ["a:1", "b:1", "a:1"]);
    }

    #[actix::test]
    async fn a_rejection_does_not_end_an_operation_while_the_breaker_of_the_server_in_use_is_open() {
        let mut world = world(&["a:1", "b:1"], as_is, |server, _, before| match server {
            "a:1" if before < 4 => answer(500, ""),
            "a:1" => ok(),
            _ => answer(400, "no"),
        });
        for port in [80, 81] {
            world.instance.port = port;
            world.register(Patience::Round).await.unwrap_err();
        }
        assert!(world.nacos.servers.is_current_open_for(Operation::Register));
        world.register(Patience::Operation).await.unwrap();
        assert_eq!(world.asked()[4..], ["b:1", "a:1"]);
    }

    #[actix::test]
    async fn a_half_open_server_is_asked_unless_a_rejection_is_the_answer() {
        tokio::time::pause();
        for (status, asked) in [(500, &["a:1", "b:1"][..]), (403, &["a:1", "b:1"]), (400, &["a:1"])] {
            let reply = move |server: &str, _: &str, _| if server == "a:1" { answer(status, "") } else { ok() };
            let world = in_memory(&["a:1", "b:1"], as_is, reply);
            refuse(&world.nacos.servers, 1);
            sleep(SECOND).await;
            assert_eq!(world.register(Patience::Round).await.is_ok(), asked.len() > 1);
            assert_eq!(world.asked(), asked, "after {status}");
        }
    }

    #[actix::test]
    async fn an_operation_asks_in_rounds_at_growing_intervals_until_its_deadline() {
        let world = world(&["a:1"], as_is, |_, _, before| answer(500, before));
        let began = Instant::now();
        let failed = world.register(Patience::Operation).await;
        assert!((10 * SECOND..11 * SECOND).contains(&began.elapsed()));
        let requests = world.asked().len();
        assert!((8..20).contains(&requests), "{requests}");
        let last = (requests - 1).to_string();
        assert!(matches!(failed, Err(Error::Refused { status: 500, body, .. }) if body == last));
    }

    #[actix::test]
    async fn one_round_asks_each_server_once() {
        let world = world(&["a:1", "b:1"], as_is, |_, _, _| answer(500, ""));
        let began = Instant::now();
        assert!(world.register(Patience::Round).await.is_err());
        assert_eq!((world.asked(), began.elapsed()), (vec!["a:1".into(), "b:1".into()], Duration::ZERO));
    }

    #[actix::test]
    async fn a_question_about_the_server_in_use_is_answered_by_no_other_server_and_in_no_other_epoch() {
        let world = world(&["a:1", "b:1"], as_is, |server, _, _| match server {
            "a:1" => answer(500, "busy"),
            _ => answer(404, "no matched ip"),
        });
        let key = InstanceKey::of(&ServiceName::parse("orders").unwrap(), &world.instance);
        let read = world.nacos.read_in_use(&key).await;
        assert!(matches!(read, Some(Err(Error::Refused { status: 500, .. }))), "{read:?}");
        assert_eq!(world.asked(), ["a:1"]);
        let change = async {
            refuse(&world.nacos.servers, 0);
            succeed(&world.nacos.servers, 1, Operation::Beat);
        };
        let (read, ()) = futures_util::future::join(world.nacos.read_in_use(&key), change).await;
        assert_eq!((read, world.in_use()), (None, "b:1".into()));
        let read = world.nacos.read_in_use(&key).await;
        assert!(matches!(read, Some(Err(Error::NotFound { .. }))), "{read:?}");
    }

    #[actix::test]
    async fn a_request_that_the_deadline_cut_short_explains_less_than_an_earlier_failure() {
        let short = |config: Config| config.request_timeout(10 * SECOND).operation_timeout(4 * SECOND);
        let world = world(&["a:1"], short, |_, _, before| if before == 0 { answer(500, "") } else { Reply::Silence });
        let failed = world.register(Patience::Operation).await;
        assert!(matches!(failed, Err(Error::Refused { status: 500, .. })));
        assert_eq!(world.server(0).health().failures, 1, "nor does it count against the server");
        let failed = world.register(Patience::Operation).await;
        assert!(matches!(failed, Err(Error::Timeout { .. })), "there was no other failure");
    }

    #[actix::test]
    async fn no_server_is_asked_after_the_deadline() {
        let world = world(&["a:1", "b:1"], |config| config.request_timeout(10 * SECOND), |_, _, _| Reply::Silence);
        let began = Instant::now();
        assert!(matches!(world.register(Patience::Operation).await, Err(Error::Timeout { .. })));
        assert_eq!((world.asked(), began.elapsed().as_secs()), (vec!["a:1".into()], 10));
        assert_eq!(world.nacos.requests.status()[0].failed, 1);
    }

    #[actix::test]
    async fn an_operation_begins_soon_after_the_server_list_has_been_fetched() {
        let world = world(&[], as_is, |_, _, _| ok());
        let began = Instant::now();
        let fetched = async {
            sleep(SECOND).await;
            world.nacos.servers.replace(vec![ServerAddress::parse("a:1", "/nacos").unwrap()]);
        };
        let (registered, ()) = futures_util::future::join(world.register(Patience::Operation), fetched).await;
        registered.unwrap();
        assert!((SECOND..SECOND + 2 * SERVER_LIST_WAIT).contains(&began.elapsed()), "{:?}", began.elapsed());
    }

    #[actix::test]
    async fn a_request_waits_for_a_permit_until_the_deadline_that_it_was_given() {
        let world = world(&["a:1"], |config| config.max_connections(1), |_, _, _| answer(404, "no matched ip"));
        let permit = world.nacos.transport.permit(Operation::Get).await;
        let began = Instant::now();
        let late = world.get(Patience::Until(began + SECOND)).await;
        assert!(matches!(late, Err(Error::Timeout { server, .. }) if server == "a:1"));
        assert_eq!((world.asked().len(), began.elapsed().as_secs()), (0, 1));
        drop(permit);
        assert!(matches!(world.get(Patience::Until(began + 2 * SECOND)).await, Err(Error::NotFound { .. })));
    }

    #[actix::test]
    async fn the_protocol_that_works_is_found_once_and_kept() {
        let only_v3 = |_: &str, request: &str, _| {
            if is_v3(request) {
                answer(200, r#"{"code":0,"message":"success","data":"ok"}"#)
            } else {
                answer(404, "")
            }
        };
        let world = world(&["a:1"], as_is, only_v3);
        for _ in 0..2 {
            world.register(Patience::Round).await.unwrap();
        }
        assert_eq!((world.apis(), world.server(0).protocol()), (vec!["v1", "v3", "v3"], Some(WireProtocol::V3)));
    }

    #[actix::test]
    async fn a_protocol_is_not_found_by_operations_that_not_every_server_offers_nor_where_none_works() {
        let not_in_v1 = |_: &str, request: &str, _| match is_v3(request) && request.starts_with("GET") {
            true => answer(404, r#"{"code":20004,"message":"none","data":null}"#),
            false => answer(404, ""),
        };
        let world = world(&["a:1"], as_is, not_in_v1);
        assert!(matches!(world.get(Patience::Round).await, Err(Error::NotFound { .. })));
        assert_eq!((world.apis(), world.server(0).protocol()), (vec!["v1", "v3"], None));
        assert!(matches!(world.register(Patience::Round).await, Err(Error::Unsupported { .. })));
        assert_eq!(world.server(0).protocol(), None);
    }

    #[actix::test]
    async fn with_a_configured_protocol_the_other_one_is_not_tried() {
        let world = world(&["a:1"], |config| config.protocol(Protocol::V1), |_, _, _| answer(404, ""));
        assert!(matches!(world.register(Patience::Round).await, Err(Error::Unsupported { .. })));
        assert_eq!(world.apis(), ["v1"]);
    }

    #[actix::test]
    async fn a_server_that_reads_no_form_gets_long_parameters_in_the_query_from_then_on() {
        let reply = |_: &str, request: &str, _| if is_form(request) { answer(400, FORM_NOT_READ) } else { ok() };
        let mut world = world(&["a:1"], as_is, reply);
        assert_eq!(world.register_long().await, (vec!["form", "query"], Ok(())));
        assert_eq!(world.register_long().await, (vec!["query"], Ok(())));
    }

    #[actix::test]
    async fn a_server_that_reads_forms_gets_one_request() {
        tokio::time::pause();
        for key in [None, Some("key")] {
            let signed = |config: Config| match key {
                Some(key) => config.access_key(key, "secret"),
                None => config,
            };
            let mut world = in_memory(&["a:1"], signed, |_, _, _| ok());
            assert_eq!(world.register_long().await, (vec!["form"], Ok(())));
        }
    }

    #[actix::test]
    async fn a_server_that_does_not_read_a_long_query_either_gets_a_form_first_again() {
        let reply =
            |_: &str, request: &str, _| if is_form(request) { answer(400, FORM_NOT_READ) } else { answer(414, "") };
        let mut world = world(&["a:1"], as_is, reply);
        for _ in 0..2 {
            let (sent, registered) = world.register_long().await;
            assert!(sent == ["form", "query"] && matches!(registered, Err(Error::Refused { status: 414, .. })));
        }
    }

    #[actix::test]
    async fn a_server_that_was_replaced_by_one_that_reads_forms_is_noticed() {
        let is_replaced = Rc::new(Cell::new(false));
        let replaced = is_replaced.clone();
        let mut world = world(&["a:1"], as_is, move |_, request, _| match (replaced.get(), is_form(request)) {
            (false, true) => answer(400, FORM_NOT_READ),
            (true, false) => answer(414, ""),
            _ => ok(),
        });
        assert_eq!(world.register_long().await, (vec!["form", "query"], Ok(())));
        is_replaced.set(true);
        assert_eq!(world.register_long().await, (vec!["query", "form"], Ok(())));
        assert_eq!(world.register_long().await, (vec!["form"], Ok(())));
    }

    #[actix::test]
    async fn only_a_signed_form_may_be_forbidden_because_it_was_not_read() {
        let reply = |_: &str, request: &str, _| if is_form(request) { answer(403, "") } else { ok() };
        let mut unsigned = world(&["a:1"], as_is, reply);
        let (sent, registered) = unsigned.register_long().await;
        assert!(sent == ["form"] && matches!(registered, Err(Error::Unauthorized { .. })));
        let mut signed = in_memory(&["a:1"], |config| config.access_key("key", "secret"), reply);
        assert_eq!(signed.register_long().await, (vec!["form", "query"], Ok(())));
        assert_eq!(signed.register_long().await, (vec!["query"], Ok(())));
    }

    #[actix::test]
    async fn a_signature_that_is_rejected_does_not_show_where_a_server_reads_parameters() {
        let mut world = world(&["a:1"], |config| config.access_key("key", "secret"), |_, _, _| answer(403, ""));
        for _ in 0..2 {
            assert_eq!(world.register_long().await.0, ["form", "query"]);
        }
    }

    #[actix::test]
    async fn every_request_is_signed_except_the_login() {
        let config = |config: Config| config.access_key("key", "secret").credentials("nacos", "nacos");
        let world = world(&["a:1"], config, |_, request, _| match request.contains("/login") {
            true => answer(200, r#"{"accessToken":"token","tokenTtl":18000}"#),
            false => ok(),
        });
        world.register(Patience::Round).await.unwrap();
        let sent = world.sent.borrow();
        let has = |part: &str| sent.iter().map(|(_, request)| request.contains(part)).collect::<Vec<_>>();
        assert_eq!((has("/login"), has("signature=")), (vec![true, false], vec![false, true]));
    }

    #[actix::test]
    async fn only_a_refused_connection_opens_the_servers_breaker_at_once() {
        let world = world(&["a:1"], as_is, |_, _, _| ok());
        world.failing.set(Some(io::ErrorKind::HostUnreachable));
        assert!(matches!(world.register(Patience::Round).await, Err(Error::Unreachable { .. })));
        assert_eq!(world.server(0).health().failures, 1);
        assert!(!world.nacos.servers.is_current_open_for(Operation::Beat));
        world.failing.set(Some(io::ErrorKind::ConnectionRefused));
        assert!(matches!(world.register(Patience::Round).await, Err(Error::Unreachable { .. })));
        assert!(world.nacos.servers.is_current_open_for(Operation::Beat));
    }
}
