//! Sending requests with a token, and logging in for one.

use std::rc::Rc;

use actix_rt::time::Instant;
use slog::{info, warn};

use super::{
    attempt::other,
    exchange::{Answer, Operation, Refusal, Request},
    servers::Server,
    session::Credentials,
    v1::{self, LoginAnswer},
    v3, Nacos,
};
use crate::{config::Protocol, error::Error};

impl Nacos {
    /// One request in one protocol; once more with another token when its token was refused, if there is one.
    pub(super) async fn speak<T>(
        &self,
        server: &Rc<Server>,
        operation: Operation,
        deadline: Instant,
        protocol: Protocol,
        make: &impl Fn(Protocol) -> Request,
        read: &impl Fn(Protocol, &Answer) -> Result<T, Refusal>,
    ) -> Result<Result<T, Refusal>, Error> {
        let request = make(protocol);
        let send = async |token: Option<&str>| {
            self.send(server, operation, deadline, &request, token).await.map(|answer| read(protocol, &answer))
        };
        let token = self.token(server, deadline).await?;
        let outcome = send(token.as_deref()).await?;
        let Some(token) = token else {
            return Ok(outcome.map_err(without_login));
        };
        if !matches!(outcome, Err(Refusal::Forbidden(_))) {
            self.note_accepted(server, &token, &outcome);
            return Ok(outcome);
        }
        let log_in = |credentials| self.log_in(server, deadline, credentials);
        let Some(token) = self.session.replacement(&server.name, &token, log_in).await? else { return Ok(outcome) };
        let outcome = send(Some(&token)).await?;
        self.note_accepted(server, &token, &outcome);
        Ok(outcome)
    }

    async fn token(&self, server: &Rc<Server>, deadline: Instant) -> Result<Option<Rc<str>>, Error> {
        self.session.token(&server.name, |credentials| self.log_in(server, deadline, credentials)).await
    }

    /// Only an answer to the question shows that the server has looked at the token and accepted it.
    fn note_accepted<T>(&self, server: &Server, token: &str, outcome: &Result<T, Refusal>) {
        if matches!(outcome, Ok(_) | Err(Refusal::NotFound)) {
            self.session.note_accepted(&server.name, token);
        }
    }

    async fn log_in(
        &self,
        server: &Rc<Server>,
        deadline: Instant,
        credentials: Credentials,
    ) -> Result<LoginAnswer, Error> {
        let first = self.protocol_of(server);
        let mut answered = self.log_in_by(server, deadline, first, &credentials).await?;
        if self.protocol == Protocol::Auto && matches!(answered, Err(Refusal::NotSpoken)) {
            answered = self.log_in_by(server, deadline, other(first), &credentials).await?;
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
        deadline: Instant,
        protocol: Protocol,
        credentials: &Credentials,
    ) -> Result<Result<LoginAnswer, Refusal>, Error> {
        let Credentials { username, password } = credentials;
        let (request, read): (_, fn(&Answer) -> _) = match protocol {
            Protocol::V3 => (v3::login(username, password), v3::read_login),
            _ => (v1::login(v1::LOGIN, username, password), v1::read_login),
        };
        let answer = self.send(server, Operation::Login, deadline, &request, None).await?;
        Ok(read(&answer))
    }
}

/// Says what would help where nothing can be tried.
fn without_login(refusal: Refusal) -> Refusal {
    match refusal {
        Refusal::Forbidden(said) => Refusal::Forbidden(format!("{said}; no credentials are set")),
        other => other,
    }
}
