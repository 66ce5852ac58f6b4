//! From an operation to its answer: which server is asked, in which protocol, with which token, and how often.
//!
//! All operations may be repeated, at another server too: registering, deregistering, modifying and beating twice is the
//! same as once, and the rest only reads.

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use slog::{debug, info, warn};
use tokio::sync::SemaphorePermit;

use super::{
    exchange::{Answer, Operation, Refusal, Request},
    servers::{pause, Choice, Server, Servers, OUTAGE},
    session::Credentials,
    v1::{self, LoginAnswer},
    v3, ConnectionState, Nacos, Patience,
};
use crate::{config::Protocol, error::Error};

/// How often it is looked whether an endpoint has named servers.
const SERVER_LIST_WAIT: Duration = Duration::from_millis(50);

/// What a server said, and which one.
pub(super) struct Told<T> {
    pub(super) value: T,
    pub(super) server: Rc<Server>,
    pub(super) protocol: Protocol,
}

/// How far an operation has come.
#[derive(Default)]
struct Progress {
    /// Counted from the moment at which it could first be sent; none before.
    deadline: Option<Instant>,
    /// In this round.
    tried: Vec<Rc<Server>>,
    /// That went through all servers.
    rounds: u32,
    /// The last one.
    failure: Option<Error>,
    /// The first one.
    refusal: Option<Error>,
    refused_by: Vec<Rc<Server>>,
}

impl Progress {
    fn failed(&mut self, server: Rc<Server>, error: Error) {
        self.failure = Some(error);
        self.tried.push(server);
    }

    fn refused(&mut self, server: Rc<Server>, error: Error) {
        self.refusal.get_or_insert(error);
        self.refused_by.push(server.clone());
        self.tried.push(server);
    }

    /// Everybody may be asked again, after the time that this gives.
    fn next_round(&mut self) -> Duration {
        if self.tried.is_empty() {
            // The first list of servers has not come yet.
            return SERVER_LIST_WAIT;
        }
        self.tried.clear();
        self.rounds += 1;
        pause(self.rounds)
    }

    fn is_over(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }
}

impl Nacos {
    /// Makes the request and reads the answer, at one server after the other, until one gives an answer that no other
    /// would give better.
    pub(super) async fn attempt<T>(
        &self,
        operation: Operation,
        patience: Patience,
        make: impl Fn(Protocol) -> Request,
        read: impl Fn(Protocol, &Answer) -> Result<T, Refusal>,
        subject: impl Fn() -> String,
    ) -> Result<Told<T>, Error> {
        let mut progress = Progress::default();
        loop {
            let Some((_room, server)) = self.next_server(operation, patience, &mut progress).await else {
                return Err(self.give_up(operation, progress));
            };
            // A refused login says nothing of the server's health.
            if let Err(refused) = self.session.check(&server.name) {
                progress.refused(server, refused);
                continue;
            }
            let began = Instant::now();
            match self.ask(&server, operation, &make, &read, &subject).await {
                Err(error) if error.is_retryable() => {
                    self.note_failure(&server, operation, &subject, began, &error);
                    progress.failed(server, error);
                }
                // It is well, and does not do this for us. Another one may.
                Err(error) if is_refusal(&error) => {
                    self.note_answer(&server, |servers| servers.refused(&server, operation));
                    progress.refused(server, error);
                    // An answer is there: nobody waits for those that gave none just now. A beat can.
                    if patience == Patience::Operation {
                        progress.tried.extend(self.servers.failed_lately());
                    }
                }
                answered => {
                    self.last_lists.sweep();
                    self.note_answer(&server, |servers| servers.succeeded(&server, operation, &progress.refused_by));
                    return answered;
                }
            }
            if progress.is_over() {
                return Err(self.give_up(operation, progress));
            }
        }
    }

    /// Waits for room to send a request, and for a server that may be asked. None when nobody is worth waiting for.
    async fn next_server(
        &self,
        operation: Operation,
        patience: Patience,
        progress: &mut Progress,
    ) -> Option<(Option<SemaphorePermit<'_>>, Rc<Server>)> {
        loop {
            // Before a server is chosen: many wait here while one hangs, and none of them shall choose that one.
            let room = self.transport.room().await;
            // Not counted while nobody could be asked: a burst of operations may wait for longer than one may take.
            let deadline = *progress.deadline.get_or_insert_with(|| Instant::now() + self.operation_timeout);
            let is_answered = progress.refusal.is_some() && !self.servers.is_failing();
            let may_wait = patience == Patience::Operation && !is_answered;
            let wait = match self.servers.choose(operation, &progress.tried) {
                Choice::Ask(server) => return Some((room, server)),
                Choice::Wait(pause) if may_wait && Instant::now() + pause < deadline => pause,
                Choice::Nobody if may_wait && !progress.is_over() => progress.next_round(),
                _ => return None,
            };
            drop(room);
            self.servers.wait(wait.min(deadline.saturating_duration_since(Instant::now()))).await;
        }
    }

    /// A refusal is an answer, unless the one in use fails: that may come back, and serve.
    fn give_up(&self, operation: Operation, progress: Progress) -> Error {
        let answer = progress.refusal.filter(|_| !self.servers.is_failing());
        answer.or(progress.failure).unwrap_or_else(|| self.nobody(operation))
    }

    /// Every server is paused: the last error of the one in use says why.
    fn nobody(&self, operation: Operation) -> Error {
        let current = self.servers.current();
        let server = current.as_ref().map_or_else(|| "any server".to_owned(), |server| server.name.clone());
        let last = current.and_then(|server| server.last_error());
        let reason = last.map_or_else(|| "no server is known yet".to_owned(), |error| error.to_string());
        Error::Unreachable { operation, server, reason }
    }

    /// Asks one server, in the protocol it is known to speak, and in the other if it does not speak that (any more).
    async fn ask<T>(
        &self,
        server: &Rc<Server>,
        operation: Operation,
        make: &impl Fn(Protocol) -> Request,
        read: &impl Fn(Protocol, &Answer) -> Result<T, Refusal>,
        subject: &impl Fn() -> String,
    ) -> Result<Told<T>, Error> {
        let mut protocol = self.protocol_of(server);
        let mut answered = self.speak(server, operation, protocol, make, read).await?;
        if self.protocol == Protocol::Auto && matches!(answered, Err(Refusal::NotSpoken)) {
            protocol = other(protocol);
            answered = self.speak(server, operation, protocol, make, read).await?;
        }
        if operation.is_in_every_api() && !matches!(answered, Err(Refusal::NotSpoken)) {
            self.note_protocol(server, protocol);
        }
        match answered {
            Ok(value) => Ok(Told { value, server: server.clone(), protocol }),
            Err(refusal) => Err(refusal.into_error(operation, &server.name, subject())),
        }
    }

    /// v1 is tried first: where both are there, only that has push.
    fn protocol_of(&self, server: &Server) -> Protocol {
        match self.protocol {
            Protocol::Auto => server.protocol().unwrap_or(Protocol::V1),
            fixed => fixed,
        }
    }

    /// A server that speaks another protocol than before was replaced: it may not know what that was told.
    fn note_protocol(&self, server: &Server, protocol: Protocol) {
        match server.speaks(protocol) {
            Some(before) if before != protocol => {
                info!(self.log, "registry server speaks another protocol now";
                    "server" => &server.name, "before" => ?before, "now" => ?protocol);
                self.servers.next_generation();
            }
            _ => {}
        }
    }

    /// One request in one protocol; once more after a new login when the token was refused.
    async fn speak<T>(
        &self,
        server: &Rc<Server>,
        operation: Operation,
        protocol: Protocol,
        make: &impl Fn(Protocol) -> Request,
        read: &impl Fn(Protocol, &Answer) -> Result<T, Refusal>,
    ) -> Result<Result<T, Refusal>, Error> {
        let request = make(protocol);
        let token = self.token(server).await?;
        let outcome = self.send(server, operation, &request, token.as_deref()).await.map(|a| read(protocol, &a))?;
        let Some(token) = token else {
            return Ok(outcome.map_err(without_login));
        };
        if !matches!(outcome, Err(Refusal::TokenRefused(_))) {
            self.session.note_accepted(&server.name);
            return Ok(outcome);
        }
        self.session.forget(&server.name, &token);
        let Some(token) = self.token(server).await? else { return Ok(outcome) };
        let outcome = self.send(server, operation, &request, Some(&token)).await.map(|a| read(protocol, &a))?;
        if let Err(refusal @ Refusal::TokenRefused(_)) = &outcome {
            self.session.forget_useless(&server.name, &token, &refusal.clone().into_error(operation, &server.name, ""));
        }
        Ok(outcome)
    }

    async fn token(&self, server: &Rc<Server>) -> Result<Option<Rc<str>>, Error> {
        self.session.token(&server.name, |credentials| self.log_in(server, credentials)).await
    }

    async fn log_in(&self, server: &Rc<Server>, credentials: Credentials) -> Result<LoginAnswer, Error> {
        let first = self.protocol_of(server);
        let mut answered = self.log_in_by(server, first, &credentials).await?;
        if self.protocol == Protocol::Auto && matches!(answered, Err(Refusal::NotSpoken)) {
            answered = self.log_in_by(server, other(first), &credentials).await?;
        }
        let answered =
            answered.map_err(|refusal| refusal.into_error(Operation::Login, &server.name, &credentials.username));
        match &answered {
            Err(error @ Error::Unauthorized { .. }) if !self.session.is_refused(&server.name) => {
                warn!(self.log, "the login is refused, and tried again at growing intervals"; "error" => %error);
            }
            Ok(_) if self.session.is_refused(&server.name) => {
                info!(self.log, "the login is accepted"; "server" => &server.name)
            }
            _ => {}
        }
        answered
    }

    async fn log_in_by(
        &self,
        server: &Server,
        protocol: Protocol,
        credentials: &Credentials,
    ) -> Result<Result<LoginAnswer, Refusal>, Error> {
        let Credentials { username, password } = credentials;
        let (request, read): (_, fn(&Answer) -> _) = match protocol {
            Protocol::V3 => (v3::login(username, password), v3::read_login),
            _ => (v1::login(v1::LOGIN, username, password), v1::read_login),
        };
        let answer = self.send(server, Operation::Login, &request, None).await?;
        Ok(read(&answer))
    }

    async fn send(
        &self,
        server: &Server,
        operation: Operation,
        request: &Request,
        token: Option<&str>,
    ) -> Result<Answer, Error> {
        let sent = self.transport.send(&server.base_url, request, token).await;
        sent.map_err(|none| none.into_error(operation, &server.name))
    }

    fn note_answer(&self, server: &Server, note: impl FnOnce(&Servers)) {
        let failures = server.failures();
        note(&self.servers);
        if failures >= OUTAGE {
            // Whatever it was: it may have forgotten us meanwhile.
            self.servers.next_generation();
        }
        self.note_connection(true);
    }

    fn note_failure(
        &self,
        server: &Rc<Server>,
        operation: Operation,
        subject: &impl Fn() -> String,
        began: Instant,
        error: &Error,
    ) {
        self.servers.failed(server, operation, subject, began, error);
        debug!(self.log, "request to registry server failed"; "server" => &server.name, "error" => %error);
        self.note_connection(false);
    }

    /// One line when it turns bad, one when it is good again, however many requests tell so.
    fn note_connection(&self, answered: bool) {
        let Some(state) = self.servers.connection_after(answered) else { return };
        if !self.connection.send_if_modified(|now| std::mem::replace(now, state) != state) {
            return;
        }
        let in_use = self.servers.current().map_or_else(String::new, |server| server.name.clone());
        let error = self.servers.last_error().map_or_else(String::new, |error| error.to_string());
        match state {
            ConnectionState::Lost => warn!(self.log, "no registry server answers"; "last_error" => error),
            ConnectionState::Degraded => {
                warn!(self.log, "a registry server fails, another one serves"; "in_use" => in_use, "last_error" => error);
            }
            _ => info!(self.log, "the registry can be reached"; "in_use" => in_use),
        }
    }
}

/// Whether another server may do what this one will not. One that is no Nacos may say so in any way, which is not told
/// from a request that is bad at each.
fn is_refusal(error: &Error) -> bool {
    matches!(error, Error::Unauthorized { .. } | Error::Unsupported { .. } | Error::Refused { .. })
}

/// A token that is missing is no matter of logging in again.
fn without_login(refusal: Refusal) -> Refusal {
    match refusal {
        Refusal::TokenRefused(said) => Refusal::Denied(format!("{said}; it wants a login: set credentials")),
        other => other,
    }
}

fn other(protocol: Protocol) -> Protocol {
    match protocol {
        Protocol::V3 => Protocol::V1,
        _ => Protocol::V3,
    }
}
