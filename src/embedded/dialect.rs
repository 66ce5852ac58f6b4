//! The version of Nacos that the server behaves like.
//!
//! Everything that depends on the version is decided by the dialect. The behaviour was recorded from the versions that
//! [`Dialect::version`] names, except that of 3.2, which comes from the source of Nacos.

use std::{fmt, str::FromStr, time::Duration};

/// The version of Nacos that the embedded server behaves like: its paths, statuses, field names and timing.
///
/// Parses from and displays as `1.4`, `2.5`, `3.0` and `3.2`.
///
/// ```
/// use actix_nacos::embedded::Dialect;
///
/// assert_eq!("3.0".parse(), Ok(Dialect::V3_0));
/// assert_eq!(Dialect::default().to_string(), "2.5");
/// assert!("4.0".parse::<Dialect>().is_err());
/// ```
///
/// What a client notices of the differences:
///
/// | | 1.4 | 2.5 | 3.0 | 3.2 |
/// |---|---|---|---|---|
/// | protocol | v1 | v1 | v1 in part, v3 | v3 |
/// | a change shows in lists | at once | after 0.5 s | after 0.5 s | after 0.5 s |
/// | pushes | after 1 s | after 0.5 s | after 0.5 s | none |
/// | get and modify an instance | v1 | v1 | v3, administrators only | v3, administrators only |
/// | an operator's change outlives the instance | no | yes | yes | yes |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dialect {
    /// Nacos 1.4: the v1 API, parameters only in the query, pushes after 1 s, no `allIPs` in lists.
    V1_4,
    /// Nacos 2.x: the complete v1 API, pushes after 0.5 s. The default.
    #[default]
    V2_5,
    /// Nacos 3.0 with its default settings: the v3 API, and the part of v1 that clients need most (register,
    /// deregister, list, beat).
    V3_0,
    /// Nacos 3.2 and later: the v3 API only, no pushes.
    V3_2,
}

impl Dialect {
    /// All dialects, the oldest first.
    ///
    /// For tests that must hold on every version.
    pub fn all() -> impl Iterator<Item = Dialect> {
        [Dialect::V1_4, Dialect::V2_5, Dialect::V3_0, Dialect::V3_2].into_iter()
    }

    pub(crate) fn is_v1_4(self) -> bool {
        self == Dialect::V1_4
    }

    pub(crate) fn has_v1(self) -> bool {
        self != Dialect::V3_2
    }

    pub(crate) fn has_v3(self) -> bool {
        matches!(self, Dialect::V3_0 | Dialect::V3_2)
    }

    pub(crate) fn pushes(self) -> bool {
        self != Dialect::V3_2
    }

    /// The version that the server reports.
    pub(crate) fn version(self) -> &'static str {
        match self {
            Dialect::V1_4 => "1.4.8",
            Dialect::V2_5 => "2.5.1",
            Dialect::V3_0 => "3.0.3",
            Dialect::V3_2 => "3.2.0",
        }
    }

    pub(crate) fn push_delay(self) -> Duration {
        Duration::from_millis(if self.is_v1_4() { 1000 } else { 500 })
    }

    /// How long a client gets pushes without requesting the list again.
    pub(crate) fn subscriber_timeout(self) -> Duration {
        Duration::from_secs(if self.is_v1_4() { 10 } else { 30 })
    }

    /// The error text of a v1 controller. 1.4 wraps it (`ResponseExceptionHandler`).
    pub(crate) fn error_text(self, message: &str) -> String {
        if self.is_v1_4() {
            format!("caused: {message};")
        } else {
            message.to_owned()
        }
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Dialect::V1_4 => "1.4",
            Dialect::V2_5 => "2.5",
            Dialect::V3_0 => "3.0",
            Dialect::V3_2 => "3.2",
        })
    }
}

/// The error of parsing a [`Dialect`]: there is no dialect of this name.
///
/// Only the short names are known: `2.5`, not `2.5.1`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a dialect; use 1.4, 2.5, 3.0 or 3.2")]
pub struct UnknownDialect(String);

impl FromStr for Dialect {
    type Err = UnknownDialect;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Dialect::all().find(|dialect| dialect.to_string() == text).ok_or_else(|| UnknownDialect(text.to_owned()))
    }
}
