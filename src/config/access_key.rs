//! The access key that signs requests.
//!
//! It has no `Debug`, so that no secret gets into a log.

/// An access key of Alibaba Cloud.
#[derive(Clone)]
pub(crate) struct AccessKey {
    pub(crate) id: String,
    pub(crate) secret: String,
    /// Belongs to temporary credentials.
    pub(crate) security_token: Option<String>,
    /// If set, requests are signed by version 4.
    pub(crate) region: Option<String>,
}
