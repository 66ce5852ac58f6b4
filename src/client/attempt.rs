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
        let may_come_back = progress.has_current_failed || self.servers.is_current_open_for(operation);
        progress.first_rejection.is_some() && !may_come_back
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
            let is_over = now >= deadline && (progress.last_failure.is_some() || progress.first_rejection.is_some());
            let has_answer = self.has_answer(operation, progress);
            // If all servers that answered reject everything, ask failing servers too.
            let only_healthy = has_answer && progress.reject_all.len() < progress.tried.len();
            let wait = match self.servers.choose(operation, &progress.tried, only_healthy) {
                Choice::Ask(server) if !is_over => return Some((permit, server, deadline)),
                _ if now >= deadline || has_answer || patience == Patience::Round => return None,
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
            let sent = self.transport.send(&server.client, &server.base_url, request, auth, deadline).await;
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
