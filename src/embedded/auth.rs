//! Access control by tokens and signatures, and the login.
//!
//! Nacos checks access by a plugin. Here the checks are fixed: a token for each user, no rights, and the signatures of
//! Alibaba Cloud's managed Nacos (MSE). Each user may do everything.
//!
//! - The statuses and texts of rejections are those of the recordings, per dialect. Clients have to read the
//!   status: all bad tokens get 403, with different texts.
//! - Signatures are checked after tokens. Their age is not checked.

use serde::Serialize;

use super::{call::Call, reply::Reply, state::State};
use crate::{
    config::AccessKey,
    wire::{signature, v1::LoginAnswer},
};

/// The access control of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Guard {
    Open,
    /// Requires a token if the server has users.
    Naming,
    /// Always requires a token: 3.x protects its admin API by default.
    Admin,
}

/// The answer to a login: the fields that clients read, and the name.
#[derive(Serialize)]
struct LoggedIn<'a> {
    #[serde(flatten)]
    login: LoginAnswer,
    username: &'a str,
}

/// The text of the rejection, if the signature is missing or wrong. The texts are invented: no answer of Nacos was
/// recorded.
fn signature_rejection(keys: &[AccessKey], call: &Call) -> Option<&'static str> {
    let parameters = &call.parameters;
    let id = parameters.or(signature::ACCESS_KEY, "");
    let Some(key) = keys.iter().find(|key| key.id == id) else { return Some("access key not found!") };
    let data = parameters.or(signature::DATA, "");
    let time = data.split("@@").next().and_then(|time| time.parse().ok()).unwrap_or(0);
    let service = parameters.service().ok().map(|key| key.service);
    if data != signature::data(time, service.as_ref()) {
        return Some("signed data invalid!");
    }
    if parameters.get(signature::SIGNATURE_VERSION) != key.region.as_ref().map(|_| signature::V4) {
        return Some("signature version invalid!");
    }
    if parameters.get(signature::SIGNATURE) != Some(&key.sign(data, time)) {
        return Some("signature invalid!");
    }
    (call.security_token != key.security_token).then_some("security token invalid!")
}

impl State {
    /// Rejects a request that is not authorized.
    ///
    /// # Errors
    /// The 403 to answer with.
    pub(crate) fn authorize(&self, call: &Call, guard: Guard) -> Result<(), Reply> {
        let (needs_token, needs_signature) = match guard {
            Guard::Open => (false, false),
            Guard::Naming => (self.sessions.are_required(), !self.settings.access_keys.is_empty()),
            Guard::Admin => (true, !self.settings.access_keys.is_empty()),
        };
        let token_rejection = || self.sessions.rejection(call, self.now());
        let signature_rejection = || signature_rejection(&self.settings.access_keys, call);
        let rejection = needs_token.then(token_rejection).flatten();
        match rejection.or_else(|| needs_signature.then(signature_rejection).flatten()) {
            None => Ok(()),
            Some(rejection) => Err(self.forbidden(call, rejection)),
        }
    }

    /// 3.x wraps the text, and words one of the texts differently (`AuthResult`).
    fn forbidden(&self, call: &Call, rejection: &str) -> Reply {
        let message = match rejection {
            rejection if !self.dialect().has_v3() => rejection.to_owned(),
            "user not found!" => {
                "Code: 401, Message: User not found! Please check user exist or password is right!.".to_owned()
            }
            rejection => format!("Code: 401, Message: {rejection}."),
        };
        Reply::spring(403, &message, &call.path, self.clock.unix_millis())
    }
}

/// `POST /v1/auth/login` and `POST /v3/auth/user/login`.
///
/// # Errors
/// The rejection: its status and text depend on the dialect and on the path.
pub(crate) fn login(state: &mut State, call: &Call) -> Result<Reply, Reply> {
    let username = text_of(call, "username")?;
    let password = text_of(call, "password")?;
    if !state.sessions.are_required() {
        return log_in_without_users(state, call, username, password);
    }
    if state.sessions.knows(username, password) {
        return Ok(logged_in(state, username));
    }
    // 1.4 does not reveal which of the two is wrong (`NacosAuthManager.resolveTokenFromUser`).
    if state.dialect().is_v1_4() {
        return Err(Reply::text(403, "unknown user!"));
    }
    if !state.sessions.has_user(username) {
        return Err(Reply::text(500, format!("caused: User {username} not found;")));
    }
    if call.path.contains("/v3/") {
        return Err(Reply::spring(500, "No message available", &call.path, state.clock.unix_millis()));
    }
    Err(Reply::text(403, "user not found!"))
}

/// 1.4 has the user `nacos` by default. 2.x has no user. 3.0 has no user and fails with an internal error.
fn log_in_without_users(state: &mut State, call: &Call, username: &str, password: &str) -> Result<Reply, Reply> {
    if state.dialect().is_v1_4() {
        return if (username, password) == ("nacos", "nacos") {
            Ok(logged_in(state, username))
        } else {
            Err(Reply::text(403, "unknown user!"))
        };
    }
    if state.dialect().has_v3() && call.path.contains("/v1/") {
        let message = "Handle API Compatibility failed, please see log for detail.";
        return Err(Reply::spring(500, message, &call.path, state.clock.unix_millis()));
    }
    Err(Reply::text(500, format!("caused: User {username} not found;")))
}

fn logged_in(state: &mut State, username: &str) -> Reply {
    let now = state.now();
    let token_ttl = state.sessions.ttl().as_secs_f64().ceil() as i64;
    let login = LoginAnswer { access_token: state.sessions.open(username, now), token_ttl, global_admin: true };
    Reply::json(&LoggedIn { login, username })
}

fn text_of<'a>(call: &'a Call, name: &str) -> Result<&'a str, Reply> {
    call.parameters.get(name).ok_or_else(|| {
        let missing = "is not present";
        Reply::text(
            500,
            format!("caused: Required request parameter &#39;{name}&#39; for method parameter type String {missing};"),
        )
    })
}
