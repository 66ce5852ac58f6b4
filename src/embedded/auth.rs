//! Users, tokens, signatures, and who may do what.

use crate::config::AccessKey;
use std::{collections::HashMap, time::Duration};

use base64::{engine::general_purpose::URL_SAFE_NO_PAD, Engine as _};
use serde::Serialize;

use crate::wire::{signature, v1::LoginAnswer};

use super::{call::Call, reply::Reply, settings::Settings, state::State};

pub(crate) struct Sessions {
    users: Vec<(String, String)>,
    ttl: Duration,
    /// Until when each token holds. Expired ones stay, since the server says so of them.
    tokens: HashMap<String, Duration>,
}

/// What a request needs before it is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Guard {
    Open,
    /// A token, if the server has users.
    Naming,
    /// A token in any case: 3.x guards its admin API from the start.
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

    /// Makes all tokens such as another server has signed.
    pub(crate) fn forget_tokens(&mut self) {
        self.tokens.clear();
    }

    /// Opens a session. Its token looks like the JSON web tokens of the originals; it is its signature that is random.
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

    /// Why the request is not let in.
    fn complaint(&self, call: &Call, now: Duration) -> Option<&'static str> {
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

/// Whether it is of the form of a token that a server has signed.
fn is_web_token(token: &str) -> bool {
    let parts: Vec<&str> = token.split('.').collect();
    let is_encoded = |part: &str| part.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    parts.len() == 3 && parts.into_iter().all(|part| !part.is_empty() && is_encoded(part))
}

/// Why the signature does not let the request in. Our own words: no answer of an original has been recorded.
fn signature_complaint(keys: &[AccessKey], call: &Call) -> Option<&'static str> {
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
    /// Refuses a request that may not be served.
    pub(crate) fn admit(&self, call: &Call, guard: Guard) -> Result<(), Reply> {
        let (needs_token, needs_signature) = match guard {
            Guard::Open => (false, false),
            Guard::Naming => (self.sessions.are_required(), !self.settings.access_keys.is_empty()),
            Guard::Admin => (true, !self.settings.access_keys.is_empty()),
        };
        let token_complaint = || self.sessions.complaint(call, self.now());
        let signature_complaint = || signature_complaint(&self.settings.access_keys, call);
        let complaint = needs_token.then(token_complaint).flatten();
        match complaint.or_else(|| needs_signature.then(signature_complaint).flatten()) {
            None => Ok(()),
            Some(complaint) => Err(self.forbidden(call, complaint)),
        }
    }

    /// 3.x wraps the complaint, and words one of them differently (`AuthResult`).
    fn forbidden(&self, call: &Call, complaint: &str) -> Reply {
        let complaint = match complaint {
            complaint if !self.dialect().has_v3() => complaint.to_owned(),
            "user not found!" => {
                "Code: 401, Message: User not found! Please check user exist or password is right!.".to_owned()
            }
            complaint => format!("Code: 401, Message: {complaint}."),
        };
        Reply::spring(403, &complaint, &call.path, self.clock.unix_millis())
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
    // 1.4 does not tell which of the two is wrong (`NacosAuthManager.resolveTokenFromUser`).
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

/// 1.4 comes with the user `nacos`; 2.x comes with none; 3.0 has none and falls over itself.
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
