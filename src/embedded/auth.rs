//! Users, tokens, signatures, and access control.

use crate::config::AccessKey;
use std::{collections::HashMap, time::Duration};

use base64::{engine::general_purpose::URL_SAFE_NO_PAD, Engine as _};
use serde::Serialize;

use crate::wire::{signature, v1::LoginAnswer};

use super::{call::Call, reply::Reply, settings::Settings, state::State};

pub(crate) struct Sessions {
    users: Vec<(String, String)>,
    ttl: Duration,
    /// The end of each token's validity. Expired tokens stay, because the error for them differs.
    tokens: HashMap<String, Duration>,
}

/// The access control of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Guard {
    Open,
    /// Requires a token if the server has users.
    Naming,
    /// Always requires a token: 3.x protects its admin API by default.
    Admin,
}

#[derive(Serialize)]
struct LoggedIn<'a> {
    #[serde(flatten)]
    login: LoginAnswer,
    username: &'a str,
}

impl Sessions {
    pub(crate) fn new(settings: &Settings) -> Self {
        Sessions { users: settings.users.clone(), ttl: settings.token_ttl, tokens: HashMap::new() }
    }

    pub(crate) fn are_required(&self) -> bool {
        !self.users.is_empty()
    }

    pub(crate) fn expire_all(&mut self) {
        self.tokens.values_mut().for_each(|until| *until = Duration::ZERO);
    }

    /// Invalidates all tokens, as if another server had signed them.
    pub(crate) fn forget_tokens(&mut self) {
        self.tokens.clear();
    }

    /// Opens a session. The token has the form of Nacos' JSON web tokens; its signature is random.
    fn open(&mut self, username: &str, now: Duration) -> String {
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#);
        let payload = URL_SAFE_NO_PAD.encode(serde_json::json!({ "sub": username }).to_string());
        let signature = [fastrand::u128(..).to_be_bytes(), fastrand::u128(..).to_be_bytes()].concat();
        let token = format!("{header}.{payload}.{}", URL_SAFE_NO_PAD.encode(signature));
        self.tokens.insert(token.clone(), now + self.ttl);
        token
    }

    fn knows(&self, username: &str, password: &str) -> bool {
        self.users.iter().any(|(user, secret)| user == username && secret == password)
    }

    /// The text of the rejection, if the request is not authorized.
    fn rejection(&self, call: &Call, now: Duration) -> Option<&'static str> {
        let is_v1_4 = call.parameters.dialect.is_v1_4();
        if let Some(token) = call.token() {
            return match self.tokens.get(token) {
                Some(until) if *until > now => None,
                Some(_) => Some("token expired!"),
                None if !is_v1_4 && is_web_token(token) => Some("Invalid signature"),
                None => Some("token invalid!"),
            };
        }
        let parameters = &call.parameters;
        let is_known = self.knows(parameters.or("username", ""), parameters.or("password", ""));
        (!is_known).then_some(if is_v1_4 { "unknown user!" } else { "user not found!" })
    }
}

/// Whether the token has the form of a JSON web token.
fn is_web_token(token: &str) -> bool {
    let parts: Vec<&str> = token.split('.').collect();
    let is_encoded = |part: &str| part.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    parts.len() == 3 && parts.into_iter().all(|part| !part.is_empty() && is_encoded(part))
}

/// The text of the rejection, if the signature is missing or wrong. The texts are ours: no answer of Nacos was
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
    if !state.sessions.users.iter().any(|(user, _)| user == username) {
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
    let token_ttl = state.sessions.ttl.as_secs_f64().ceil() as i64;
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
