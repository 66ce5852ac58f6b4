//! Sends requests with a token, and logs in to get one.
//!
//! The order for one request: take the token, or log in for one; send; if the server forbids it, take another token
//! once and send again. `session.rs` decides when a login is due, and this file sends it and logs what comes of it.
//!
//! A 403 does not say whether the token or the right is missing: servers have a dozen texts for it, and they change. So
//! any 403 may cause one login, and no more than one per [pause](super::session).

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
    /// Sends one request in one protocol. Sends it again if the token was rejected and there is another token.
    ///
    /// # Errors
    /// The outer error is a failure of the request or of the login. The inner error is the server's rejection of the
    /// request.
    pub(super) async fn speak<C: Call>(
        &self,
        call: &C,
        server: &Rc<Server>,
        protocol: WireProtocol,
        deadline: Instant,
    ) -> Result<Result<C::Value, Rejection>, Error> {
        let operation = C::OPERATION;
        let is_in_use = self.servers.is_in_use(server);
        let request = if is_in_use { call.request(protocol) } else { call.request_elsewhere(protocol) };
        let send = async |token: Option<&str>| {
            self.send(server, operation, deadline, &request, token).await.map(|answer| call.read(protocol, &answer))
        };
        if !self.session.is_needed() {
            return Ok(send(None).await?.map_err(|rejection| self.without_login(rejection)));
        }
        // Boxed because logins are rare: every other request would reserve the memory of a login, too.
        let log_in = |credentials| Box::pin(self.log_in(server, deadline, credentials));
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

    /// Notes whether the server accepted the token. Only an answer to the request itself shows that the server checked
    /// the token, or needs none.
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
                    warn!(self.log, "login rejected, server accepts requests without a token";
                        "server" => &server.name, "error" => %error);
                }
            }
            // The admin API of Nacos 3 always needs a token, so its rejection says nothing about other operations.
            Err(Rejection::Forbidden(_)) if token.is_none() => {
                if let Some(error) = self.session.note_not_served(&server.name, operation.is_in_every_api()) {
                    warn!(self.log, "login rejected, retrying at growing intervals";
                        "server" => &server.name, "error" => %error);
                }
            }
            _ => {}
        }
    }

    /// # Errors
    /// [`Error::Unauthorized`] if the server rejects the login or offers none.
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
        if self.protocol.is_none() && matches!(answered, Err(Rejection::Unsupported)) {
            answered = log_in(first.other()).await?;
        }
        if matches!(answered, Err(Rejection::Unsupported)) {
            answered = Err(Rejection::LoginRejected("it offers no login".into()));
        }
        let answered =
            answered.map_err(|rejection| rejection.into_error(Operation::Login, &server.name, login.subject()));
        let was_rejected = self.session.is_rejected(&server.name);
        match &answered {
            Ok(_) if was_rejected => info!(self.log, "login accepted"; "server" => &server.name),
            // Without a token, the next request shows what the rejection means. See `note_access`.
            Err(error) if !error.is_retryable() && !was_rejected && self.session.has_token(&server.name) => {
                warn!(self.log, "login rejected, using the previous token until it expires";
                    "server" => &server.name, "error" => %error);
            }
            _ => {}
        }
        answered
    }

    /// Adds a hint to a rejection when no login is configured.
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
