//! Sending requests with a token, and logging in for one.

use std::rc::Rc;

use actix_rt::time::Instant;
use slog::{info, warn};

use super::{
    calls::{Call, Login},
    nacos::Nacos,
    server::Server,
    session::Credentials,
};
use crate::{
    error::{Error, Operation},
    wire::{
        exchange::{Rejection, WireProtocol},
        v1::LoginAnswer,
    },
};

impl Nacos {
    /// One request in one protocol; once more with another token when its token was refused, if there is one.
    pub(super) async fn speak<C: Call>(
        &self,
        call: &C,
        server: &Rc<Server>,
        protocol: WireProtocol,
        deadline: Instant,
    ) -> Result<Result<C::Value, Rejection>, Error> {
        let (operation, request) = (C::OPERATION, call.request(protocol));
        let send = async |token: Option<&str>| {
            self.send(server, operation, deadline, &request, token).await.map(|answer| call.read(protocol, &answer))
        };
        if !self.session.is_needed() {
            return Ok(send(None).await?.map_err(|rejection| self.without_login(rejection)));
        }
        let log_in = |credentials| self.log_in(server, deadline, credentials);
        let token = self.session.token(&server.name, log_in).await?;
        let outcome = send(token.as_deref()).await?;
        self.note_access(server, operation, token.as_deref(), &outcome);
        if !matches!(outcome, Err(Rejection::Forbidden(_))) {
            return Ok(outcome);
        }
        let other = self.session.replacement(&server.name, token.as_deref(), log_in).await?;
        let Some(token) = other else { return Ok(outcome) };
        let outcome = send(Some(&token)).await?;
        self.note_access(server, operation, Some(&token), &outcome);
        Ok(outcome)
    }

    /// Only an answer to the question shows that the server has looked at the token and accepted it, or wants none.
    fn note_access<T>(
        &self,
        server: &Server,
        operation: Operation,
        token: Option<&str>,
        outcome: &Result<T, Rejection>,
    ) {
        match outcome {
            Ok(_) | Err(Rejection::NotFound) => {
                if let Some(error) = self.session.note_served(&server.name, token) {
                    warn!(self.log, "the login is refused, but the server serves requests without a token"; "error" => %error);
                }
            }
            // Nacos 3 wants a token for its admin API in any case.
            Err(Rejection::Forbidden(_)) if token.is_none() => {
                if let Some(error) = self.session.note_not_served(&server.name, operation.is_in_every_api()) {
                    warn!(self.log, "the login is refused, and tried again at growing intervals"; "error" => %error);
                }
            }
            _ => {}
        }
    }

    async fn log_in(
        &self,
        server: &Rc<Server>,
        deadline: Instant,
        credentials: Rc<Credentials>,
    ) -> Result<LoginAnswer, Error> {
        let login = Login(&credentials);
        let log_in = async |protocol| {
            let answer = self.send(server, Operation::Login, deadline, &login.request(protocol), None).await?;
            Ok::<_, Error>(login.read(protocol, &answer))
        };
        let first = self.protocol_of(server);
        let mut answered = log_in(first).await?;
        if self.protocol.is_none() && matches!(answered, Err(Rejection::NotSpoken)) {
            answered = log_in(first.other()).await?;
        }
        if matches!(answered, Err(Rejection::NotSpoken)) {
            answered = Err(Rejection::Denied("it has no login".into()));
        }
        let answered =
            answered.map_err(|rejection| rejection.into_error(Operation::Login, &server.name, login.subject()));
        let is_refused = self.session.is_refused(&server.name);
        match &answered {
            Ok(_) if is_refused => info!(self.log, "the login is accepted"; "server" => &server.name),
            // Without a token, the next request shows what that means.
            Err(error) if !error.is_retryable() && !is_refused && self.session.has_token(&server.name) => {
                warn!(self.log, "the login is refused, the last token is used until its end"; "error" => %error);
            }
            _ => {}
        }
        answered
    }

    /// Says what would help where no login can be tried.
    fn without_login(&self, rejection: Rejection) -> Rejection {
        let hint = match &*self.access_key.borrow() {
            Some(_) => "check the access key and its secret",
            None => "no credentials are set",
        };
        match rejection {
            Rejection::Forbidden(said) => Rejection::Forbidden(format!("{said}; {hint}")),
            other => other,
        }
    }
}
