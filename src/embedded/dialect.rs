//! Whose manners the server has.

use std::{fmt, str::FromStr, time::Duration};

/// The Nacos whose API the embedded server speaks: its paths, statuses, field names and habits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dialect {
    /// Nacos 1.4: v1, parameters in the query only, pushes after 1 s, no `allIPs` in lists.
    V1_4,
    /// Nacos 2.x: all of v1, pushes after 0.5 s. The default.
    #[default]
    V2_5,
    /// Nacos 3.0 with its default settings: v3, and of v1 what clients need most (register, deregister, list, beat).
    V3_0,
    /// Nacos 3.2 and later: v3 only, no push.
    V3_2,
}

impl Dialect {
    /// All of them, oldest first.
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

    /// What the server says it is.
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

    /// How long a client is pushed to without asking for the list again.
    pub(crate) fn subscriber_timeout(self) -> Duration {
        Duration::from_secs(if self.is_v1_4() { 10 } else { 30 })
    }

    /// The error text of a refused v1 request: 1.4 wraps it (`ResponseExceptionHandler`).
    pub(crate) fn complaint(self, message: &str) -> String {
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

/// The text names no dialect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no dialect; there are 1.4, 2.5, 3.0 and 3.2")]
pub struct UnknownDialect(String);

impl FromStr for Dialect {
    type Err = UnknownDialect;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Dialect::all().find(|dialect| dialect.to_string() == text).ok_or_else(|| UnknownDialect(text.to_owned()))
    }
}
