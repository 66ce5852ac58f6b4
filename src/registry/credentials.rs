//! Credentials that are replaced while the Registry runs.

use std::fmt;

use actix::{Context, Handler, Message, ResponseFuture};
use slog::info;

use super::{actor::Registry, shared::Shared};
use crate::{
    client::session::Credentials,
    config::AccessKey,
    config::{validate_access_key, validate_security_token},
    error::{Error, Operation},
};

/// Replaces the user name and password of a running Registry, or sets them where [`Config`](crate::Config) has none. All tokens
/// are dropped: the next request to each server logs in, also where the last login was refused just now. A request that is
/// under way keeps its token, and is repeated with a new one if the server refuses that.
///
/// # Errors
/// [`Error::Stopped`] alone.
///
/// ```
/// # use actix::Addr;
/// # use actix_nacos::{Error, Registry, SetCredentials};
/// # async fn rotate(registry: Addr<Registry>, password: String) -> Result<(), Error> {
/// registry.send(SetCredentials::new("orders", password)).await??;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct SetCredentials {
    username: String,
    password: String,
}

impl SetCredentials {
    /// Logs in with these from now on.
    pub fn new(username: impl Into<String>, password: impl Into<String>) -> Self {
        SetCredentials { username: username.into(), password: password.into() }
    }
}

/// Without the password.
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

/// Replaces the access key that a running Registry signs requests with, or begins to sign them: see
/// [`Config::access_key`](crate::Config::access_key). Every request that is sent from now on is signed with the new key, a
/// repeated one too. [`Config::signature_region`](crate::Config::signature_region) stays as configured.
///
/// Temporary credentials of Alibaba Cloud's STS are to be replaced before they end:
///
/// ```
/// # use actix::Addr;
/// # use actix_nacos::{Error, Registry, SetAccessKey};
/// # struct Sts { id: String, secret: String, token: String }
/// # async fn rotate(registry: Addr<Registry>, sts: Sts) -> Result<(), Error> {
/// registry.send(SetAccessKey::new(sts.id, sts.secret).security_token(sts.token)).await??;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::InvalidInput`] for an empty id or secret, and for a token that no header can hold.
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

    /// The token that belongs to a temporary key. Default: none, also where the key before had one.
    #[must_use]
    pub fn security_token(mut self, token: impl Into<String>) -> Self {
        self.security_token = Some(token.into());
        self
    }
}

/// Without secret and token.
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
        info!(self.log, "replaced the credentials"; "username" => &username);
        self.nacos.session().replace_credentials(Credentials { username, password });
    }

    fn set_access_key(&self, SetAccessKey { id, secret, security_token }: SetAccessKey) -> Result<(), Error> {
        validate_access_key(&id, &secret)?;
        security_token.as_deref().map_or(Ok(()), validate_security_token)?;
        info!(self.log, "replaced the access key"; "access_key" => &id);
        let region = self.config.signature_region.clone();
        self.nacos.replace_access_key(AccessKey { id, secret, security_token, region });
        Ok(())
    }
}
