//! A parsed request.
//!
//! A [`Call`] contains everything that handlers may read. It owns its texts, because a fault may delay a request for
//! longer than actix-web keeps it.

use super::{agent::Agent, parameters::Parameters};

/// One request. `parameters` contains the dialect, since the rules for blanks, defaults and errors differ.
pub(crate) struct Call {
    pub(crate) method: String,
    /// Includes the context path, for error pages.
    pub(crate) path: String,
    pub(crate) parameters: Parameters,
    pub(crate) agent: Agent,
    /// The token in `Authorization: Bearer`.
    pub(crate) bearer: Option<String>,
    /// The header `accessToken`.
    pub(crate) token_header: Option<String>,
    /// The header `Spas-SecurityToken`.
    pub(crate) security_token: Option<String>,
}

impl Call {
    /// The token. The first of these that is given is used: the bearer token, the parameter, the header `accessToken`.
    /// 1.4 does not read that header.
    pub(crate) fn token(&self) -> Option<&str> {
        let header = self.token_header.as_deref().filter(|_| !self.parameters.dialect.is_v1_4());
        self.bearer.as_deref().or_else(|| self.parameters.get("accessToken")).or(header)
    }
}
