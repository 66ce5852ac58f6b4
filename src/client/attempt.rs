//! From an operation to its answer: which server is asked, in which protocol, and how often.
//!
//! All operations may be repeated, at another server too: registering, deregistering, modifying and beating twice is the
//! same as once, and the rest only reads.

use std::{hash::BuildHasher as _, rc::Rc, time::Duration};

use actix_rt::time::{timeout, Instant};
use slog::debug;
use tokio::sync::SemaphorePermit;

use super::{
    calls::Call,
    health::{pause, Failure, FailureKind},
    nacos::Nacos,
    nacos::Patience,
    server::Server,
    servers::Choice,
    transport::Proof,
};
use crate::{
    error::{Error, Operation},
    wire::exchange::{Answer, Rejection, Request, WireProtocol},
};

/// How often an operation looks whether an endpoint has named servers.
const SERVER_LIST_WAIT: Duration = Duration::from_millis(50);

/// What a server answered, and which one.
pub(super) struct Answered<T> {
    pub(super) value: T,
    pub(super) server: Rc<Server>,
    pub(super) protocol: WireProtocol,
}

/// How far an operation has come.
#[derive(Default)]
struct Progress {
    deadline: Option<Instant>,
    /// In this round.
    tried: Vec<Rc<Server>>,
    /// Completed rounds of all servers.
    rounds: u32,
    last_failure: Option<Error>,
    has_current_failed: bool,
    first_rejection: Option<Error>,
    /// Servers that will do nothing for us, whatever the subject.
    useless: Vec<Rc<Server>>,
}

impl Progress {
    fn reject(&mut self, server: Rc<Server>, rejection: Error) {
        if is_useless(&rejection) {
            self.useless.push(server.clone());
        }
        self.first_rejection.get_or_insert(rejection);
        self.tried.push(server);
    }

    fn fail(&mut self, server: Rc<Server>, failure: Error, is_cut_short: bool) {
        self.tried.push(server);
        // A request that was cut short by the deadline explains less than the one before.
        if !is_cut_short || self.last_failure.is_none() {
            self.last_failure = Some(failure);
        }
    }

    /// All servers may be asked again, after the time that this gives.
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
    /// Sends the request and reads the answer, at one server after the other, until one gives an answer that no other
    /// server would give better.
    pub(super) async fn attempt<C: Call>(&self, call: &C, patience: Patience) -> Result<Answered<C::Value>, Error> {
        let operation = C::OPERATION;
        let mut progress = Progress::default();
        while let Some((_permit, server, deadline)) = self.next_server(operation, patience, &mut progress).await {
            // A rejected login says nothing of the server's health.
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
                    let is_useless = |current: &Rc<Server>| progress.useless.iter().any(|s| Rc::ptr_eq(s, current));
                    self.servers.succeeded(&server, operation, is_useless);
                    self.note_connection(true);
                    return answered;
                }
            }
        }
        let is_answered = self.is_answered(operation, &progress);
        let rejection = progress.first_rejection.filter(|_| is_answered);
        Err(rejection.or(progress.last_failure).unwrap_or_else(|| self.no_server(operation)))
    }

    /// Whether we already have an answer: healthy servers may have a better one, others are not worth waiting for. Unless
    /// the server in use fails: it may come back.
    fn is_answered(&self, operation: Operation, progress: &Progress) -> bool {
        let may_come_back = progress.has_current_failed || self.servers.is_current_open_for(operation);
        progress.first_rejection.is_some() && !may_come_back
    }

    /// Waits for a permit to send a request, and for a server that may be asked. None when none is worth waiting for.
    async fn next_server(
        &self,
        operation: Operation,
        patience: Patience,
        progress: &mut Progress,
    ) -> Option<(Option<SemaphorePermit<'_>>, Rc<Server>, Instant)> {
        loop {
            // Before a server is chosen: many wait here while one hangs, and none of them shall choose that one.
            let permit = self.permit(operation, patience, progress).await?;
            let now = Instant::now();
            // Not counted while nobody could be asked: a burst of operations may wait for longer than one may take.
            let deadline = *progress.deadline.get_or_insert_with(|| patience.deadline(now + self.operation_timeout));
            let is_over = now >= deadline && (progress.last_failure.is_some() || progress.first_rejection.is_some());
            let is_answered = self.is_answered(operation, progress);
            // Where only useless servers have answered, one that failed may be the one that serves.
            let only_healthy = is_answered && progress.useless.len() < progress.tried.len();
            let wait = match self.servers.choose(operation, &progress.tried, only_healthy) {
                Choice::Ask(server) if !is_over => return Some((permit, server, deadline)),
                _ if now >= deadline || is_answered || patience == Patience::Round => return None,
                Choice::Wait(pause) => pause,
                Choice::Ask(_) | Choice::Nobody => progress.next_round(),
            };
            drop(permit);
            self.servers.wait(wait.min(deadline - now)).await;
        }
    }

    /// None when the deadline that an operation shares with others has passed.
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

    /// Every breaker is open: the last error of the server in use says why.
    fn no_server(&self, operation: Operation) -> Error {
        let current = self.servers.current();
        let server = current.as_ref().map_or_else(|| "any server".to_owned(), |server| server.name.clone());
        let last = current.and_then(|server| server.last_error());
        let reason = last.map_or_else(|| "no server is known yet".to_owned(), |error| error.to_string());
        Error::Unreachable { operation, server, reason }
    }

    /// Asks one server, in the protocol it is known to speak, and in the other if it does not speak that (any more).
    async fn ask<C: Call>(
        &self,
        call: &C,
        server: &Rc<Server>,
        deadline: Instant,
    ) -> Result<Answered<C::Value>, Error> {
        let mut protocol = self.protocol_of(server);
        let mut answered = self.speak(call, server, protocol, deadline).await?;
        if self.protocol.is_none() && matches!(answered, Err(Rejection::NotSpoken)) {
            protocol = protocol.other();
            answered = self.speak(call, server, protocol, deadline).await?;
        }
        if C::OPERATION.is_in_every_api() && !matches!(answered, Err(Rejection::NotSpoken)) {
            self.servers.note_protocol(server, protocol);
        }
        match answered {
            Ok(value) => Ok(Answered { value, server: server.clone(), protocol }),
            Err(rejection) => Err(rejection.into_error(C::OPERATION, &server.name, call.subject())),
        }
    }

    /// v1 is tried first: where a server speaks both, only v1 has push.
    pub(super) fn protocol_of(&self, server: &Server) -> WireProtocol {
        self.protocol.or(server.protocol()).unwrap_or(WireProtocol::V1)
    }

    /// Sends long parameters in a form, unless the server is known to read those of this method from the query alone.
    pub(super) async fn send(
        &self,
        server: &Server,
        operation: Operation,
        deadline: Instant,
        request: &Request,
        token: Option<&str>,
    ) -> Result<Answer, Error> {
        let send = async |request: &Request| {
            // A login is no request of the naming API.
            let key = self.access_key.borrow().clone().filter(|_| operation != Operation::Login);
            let proof = Proof { token, key: key.as_deref() };
            let sent = self.transport.send(&server.client, &server.base_url, request, proof, deadline).await;
            sent.map_err(|none| none.into_error(operation, &server.name))
        };
        let Some(in_query) = request.in_query() else { return send(request).await };
        // A server that does not read the form finds another service signed than named.
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
        // The server may have been replaced by one that reads forms.
        let by_form = send(request).await?;
        server.note_query_only(&request.method, lacks_parameters(&by_form));
        Ok(if lacks_parameters(&by_form) { by_query } else { by_form })
    }

    /// Tells whether the failure counts.
    fn note_failure<C: Call>(&self, call: &C, server: &Server, sent: Instant, error: &Error) -> bool {
        debug!(self.log, "request to registry server failed"; "server" => &server.name, "error" => %error);
        let Some(kind) = self.transport.failure_kind(error) else {
            // One that came too often was answered, another was cut short.
            match error.status() {
                Some(_) => self.servers.rejected(server, C::OPERATION),
                None => self.servers.undecided(server, C::OPERATION),
            }
            return false;
        };
        // A connection that breaks is no refused one: a proxy may break it for what one request asks.
        let is_refused = kind == FailureKind::ConnectFailed && server.dialer.was_refused_since(sent);
        let kind = if kind == FailureKind::ConnectFailed && !is_refused { FailureKind::NoAnswer } else { kind };
        let subject = self.subjects.hash_one(call.subject());
        self.servers.failed(server, Failure { kind, operation: C::OPERATION, subject, sent, error: error.clone() });
        self.note_connection(false);
        true
    }
}

/// Whether another server may do what this one will not. A server that is no Nacos may reject in any way, so this cannot
/// be told from a request that is bad at each.
fn is_rejection(error: &Error) -> bool {
    matches!(error, Error::Unauthorized { .. } | Error::Unsupported { .. } | Error::Refused { .. })
}

/// Whether the server would reject every other request likewise: wrong login, no Nacos, or a gateway that redirects.
fn is_useless(rejection: &Error) -> bool {
    !matches!(rejection, Error::Refused { status, .. } if *status >= 400)
}
