//! Users and their tokens.
//!
//! A token is valid if the server has issued it and it has not expired. It has the form of a JSON web token, because
//! Nacos rejects other texts with another message. Expired tokens are kept, because the message for them differs, too.

use std::{collections::HashMap, time::Duration};

use base64::{engine::general_purpose::URL_SAFE_NO_PAD, Engine as _};

use super::{call::Call, settings::Settings};

/// The users, and the tokens that they were given.
pub(crate) struct Sessions {
    users: Vec<(String, String)>,
    ttl: Duration,
    /// The end of each token's validity, also of expired tokens.
    tokens: HashMap<String, Duration>,
}

impl Sessions {
    pub(crate) fn new(settings: &Settings) -> Self {
        Sessions { users: settings.users.clone(), ttl: settings.token_ttl, tokens: HashMap::new() }
    }

    pub(crate) fn are_required(&self) -> bool {
        !self.users.is_empty()
    }

    /// Later requests get `token expired!`, as after the lifetime.
    pub(crate) fn expire_all(&mut self) {
        self.tokens.values_mut().for_each(|until| *until = Duration::ZERO);
    }

    /// Invalidates all tokens, as if another server had signed them.
    pub(crate) fn forget_tokens(&mut self) {
        self.tokens.clear();
    }

    /// Opens a session. The token has the form of Nacos' JSON web tokens; its signature is random.
    pub(super) fn open(&mut self, username: &str, now: Duration) -> String {
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#);
        let payload = URL_SAFE_NO_PAD.encode(serde_json::json!({ "sub": username }).to_string());
        let signature = [fastrand::u128(..).to_be_bytes(), fastrand::u128(..).to_be_bytes()].concat();
        let token = format!("{header}.{payload}.{}", URL_SAFE_NO_PAD.encode(signature));
        self.tokens.insert(token.clone(), now + self.ttl);
        token
    }

    pub(super) fn ttl(&self) -> Duration {
        self.ttl
    }

    pub(super) fn has_user(&self, username: &str) -> bool {
        self.users.iter().any(|(user, _)| user == username)
    }

    pub(super) fn knows(&self, username: &str, password: &str) -> bool {
        self.users.iter().any(|(user, secret)| user == username && secret == password)
    }

    /// The text of the rejection, if the request is not authorized.
    ///
    /// Without a token, the user name and the password may be in the parameters of the request itself.
    pub(super) fn rejection(&self, call: &Call, now: Duration) -> Option<&'static str> {
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
