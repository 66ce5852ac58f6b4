//! Messages that replace the credentials of a running Registry.
//!
//! Both take effect for requests that are sent from then on; no request is interrupted. Neither waits for a server,
//! so the answer says nothing about whether the new credentials are right.

use std::fmt;

use actix::{Context, Handler, Message, ResponseFuture};
use slog::info;

use super::{actor::Registry, shared::Shared};
use crate::{
    client::session::Credentials,
    config::{validate_access_key, validate_security_token, AccessKey},
    error::{Error, Operation},
};

/// Replaces the user name and password of a running Registry, or sets them if [`Config`](crate::Config) has none. Use
/// it when a password is rotated.
///
/// All tokens are dropped. The next request to each server logs in with the new password, even if the server has just
/// rejected the previous one. A request under way keeps its token; if the server rejects it, the request is repeated
/// with a new token.
///
/// ```
/// # use actix_nacos::{embedded::EmbeddedServer, prelude::*};
/// # #[actix::main]
/// # async fn main() -> Result<(), Error> {
/// # let server = EmbeddedServer::start().unwrap();
/// # let registry = Registry::start(Config::new(server.server_address()))?;
/// registry.send(SetCredentials::new("orders", "the new password")).await??;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Only [`Error::Stopped`], if the Registry has ended. A wrong password does not fail this message. It
/// fails later requests with [`Error::Unauthorized`], if the server requires a login.
#[derive(Clone, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct SetCredentials {
    username: String,
    password: String,
}

impl SetCredentials {
    /// Logs in as `username` with `password` from now on.
    pub fn new(username: impl Into<String>, password: impl Into<String>) -> Self {
        SetCredentials { username: username.into(), password: password.into() }
    }
}

/// Leaves out the password.
impl fmt::Debug for SetCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SetCredentials").field("username", &self.username).finish_non_exhaustive()
    }
}

impl Handler<SetCredentials> for Registry {
    type Result = ResponseFuture<Result<(), Error>>;

    fn handle(&mut self, credentials: SetCredentials, _: &mut Context<Self>) -> Self::Result {
        self.dispatch(Operation::Login, |shared| {
            shared.set_credentials(credentials);
            std::future::ready(Ok(()))
        })
    }
}

/// Replaces the access key with which a running Registry signs its requests, or begins to sign them: see
/// [`Config::access_key`](crate::Config::access_key).
///
/// Every request sent from now on is signed with the new key, including repeated requests.
/// [`Config::signature_region`](crate::Config::signature_region) stays as configured. Replace temporary credentials of
/// Alibaba Cloud STS before they expire:
///
/// ```
/// # use actix_nacos::{embedded::EmbeddedServer, prelude::*};
/// # #[actix::main]
/// # async fn main() -> Result<(), Error> {
/// # let server = EmbeddedServer::start().unwrap();
/// # let registry = Registry::start(Config::new(server.server_address()))?;
/// # let (id, secret, token) = ("STS.key", "secret", "token");
/// registry.send(SetAccessKey::new(id, secret).security_token(token)).await??;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// - [`Error::InvalidInput`] if the id or the secret is empty, or if the token cannot be sent in an HTTP header. The
///   previous key stays in use.
/// - [`Error::Stopped`] if the Registry has ended.
#[derive(Clone, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct SetAccessKey {
    id: String,
    secret: String,
    security_token: Option<String>,
}

impl SetAccessKey {
    /// Signs with this key from now on.
    pub fn new(id: impl Into<String>, secret: impl Into<String>) -> Self {
        SetAccessKey { id: id.into(), secret: secret.into(), security_token: None }
    }

    /// Sets the token that belongs to a temporary key. Default: none, even if the previous key had one.
    #[must_use]
    pub fn security_token(mut self, token: impl Into<String>) -> Self {
        self.security_token = Some(token.into());
        self
    }
}

/// Leaves out the secret and the token.
impl fmt::Debug for SetAccessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SetAccessKey").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Handler<SetAccessKey> for Registry {
    type Result = ResponseFuture<Result<(), Error>>;

    fn handle(&mut self, key: SetAccessKey, _: &mut Context<Self>) -> Self::Result {
        self.dispatch(Operation::Login, |shared| std::future::ready(shared.set_access_key(key)))
    }
}

impl Shared {
    fn set_credentials(&self, SetCredentials { username, password }: SetCredentials) {
        info!(self.log, "replaced credentials"; "username" => &username);
        self.nacos.session().replace_credentials(Credentials { username, password });
    }

    fn set_access_key(&self, SetAccessKey { id, secret, security_token }: SetAccessKey) -> Result<(), Error> {
        validate_access_key(&id, &secret)?;
        security_token.as_deref().map_or(Ok(()), validate_security_token)?;
        info!(self.log, "replaced access key"; "access_key" => &id);
        let region = self.config.signature_region.clone();
        self.nacos.replace_access_key(AccessKey { id, secret, security_token, region });
        Ok(())
    }
}
