//! Deserialises fields that servers leave out, send as null, or send with an unexpected type.
//!
//! Many clients write into one registry, and one unusual field of one instance must not hide a whole service. So these
//! functions, for `#[serde(deserialize_with)]`, accept any JSON value and return a default for an unusable one.
//!
//! | function | JSON that is used | for anything else |
//! |---|---|---|
//! | [`text`] | a text | empty |
//! | [`flag`] | true, false, `"true"`, `"False"` | `None`; the caller has the default |
//! | [`number`] | a whole number, also as text | `None` |
//! | [`weight`] | a number, also as text | 0: no calls |
//! | [`metadata`] | an object | no metadata |
//!
//! The fields that identify an instance have no default: an entry without `ip` or `port` is left out.

use std::str::FromStr;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::model::instance::Metadata;

/// A text, or an empty text for any other value.
pub(super) fn text<'de, D: Deserializer<'de>, T: From<String>>(deserializer: D) -> Result<T, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::String(text) => text.into(),
        _ => String::new().into(),
    })
}

/// `None` if the value is neither true nor false.
pub(super) fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<bool>, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::Bool(flag) => Some(flag),
        Value::String(text) => text.to_lowercase().parse().ok(),
        _ => None,
    })
}

/// True, unless the value is false.
pub(super) fn true_by_default<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    flag(deserializer).map(|flag| flag.unwrap_or(true))
}

/// False, unless the value is true.
pub(super) fn false_by_default<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    flag(deserializer).map(|flag| flag.unwrap_or(false))
}

/// A whole number, also one that is written as a text. `None` for any other value.
pub(super) fn number<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<i64> + FromStr,
{
    Ok(match Value::deserialize(deserializer)? {
        Value::Number(number) => number.as_i64().and_then(|number| T::try_from(number).ok()),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    })
}

/// Servers accept a weight of NaN and list it as `"NaN"`. It becomes 0, so that the instance gets no calls.
pub(super) fn weight<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::Number(number) => number.as_f64().unwrap_or(0.0),
        Value::String(text) => text.parse().ok().filter(|weight: &f64| weight.is_finite()).unwrap_or(0.0),
        _ => 0.0,
    })
}

/// Clients register metadata as JSON, and servers list that JSON unchecked. A value that is not a text becomes its JSON
/// text. A null is left out.
pub(super) fn metadata<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Metadata, D::Error> {
    let Value::Object(pairs) = Value::deserialize(deserializer)? else { return Ok(Metadata::new()) };
    let pairs = pairs.into_iter().filter_map(|(key, value)| match value {
        Value::String(text) => Some((key, text)),
        Value::Null => None,
        other => Some((key, other.to_string())),
    });
    Ok(pairs.collect())
}
