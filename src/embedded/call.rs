//! One request, read.

use super::{agent::Agent, parameters::Parameters};

pub(crate) struct Call {
    pub(crate) method: String,
    /// With the context path, as error pages show it.
    pub(crate) path: String,
    pub(crate) parameters: Parameters,
    pub(crate) agent: Agent,
    /// `accessToken`, or what `Authorization` bears.
    pub(crate) token_header: Option<String>,
}

impl Call {
    pub(crate) fn token(&self) -> Option<&str> {
        self.token_header.as_deref().or_else(|| self.parameters.get("accessToken"))
    }
}
