//! The key that requests are signed with.

/// A key that requests are signed with.
#[derive(Clone)]
pub(crate) struct AccessKey {
    pub(crate) id: String,
    pub(crate) secret: String,
    /// Of temporary credentials.
    pub(crate) security_token: Option<String>,
    /// With a region, signatures are those of V4.
    pub(crate) region: Option<String>,
}
