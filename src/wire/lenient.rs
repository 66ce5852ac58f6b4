//! Fields as servers send them: left out, null, or of another type than everybody else's.
//!
//! Many clients write into one registry, and one odd field of one instance must not hide a whole service. So these
//! functions, for `#[serde(deserialize_with)]`, take any JSON value and give a default where it makes no sense.

use std::str::FromStr;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::model::instance::Metadata;

/// Empty where the value is no text.
pub(super) fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::String(text) => text,
        _ => String::new(),
    })
}

/// None where the value says neither true nor false.
pub(super) fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<bool>, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::Bool(flag) => Some(flag),
        Value::String(text) => text.to_lowercase().parse().ok(),
        _ => None,
    })
}

/// True unless the value says false.
pub(super) fn true_by_default<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    flag(deserializer).map(|flag| flag.unwrap_or(true))
}

/// False unless the value says true.
pub(super) fn false_by_default<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    flag(deserializer).map(|flag| flag.unwrap_or(false))
}

/// None where the value is no whole number of this type, as a number or as text.
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

/// Servers register a weight of NaN and list it as `"NaN"`: such an instance gets no calls.
pub(super) fn weight<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::Number(number) => number.as_f64().unwrap_or(0.0),
        Value::String(text) => text.parse().ok().filter(|weight: &f64| weight.is_finite()).unwrap_or(0.0),
        _ => 0.0,
    })
}

/// Clients register metadata as JSON, and servers list what they get. A value that is no text becomes its JSON; a null is
/// left out.
pub(super) fn metadata<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Metadata, D::Error> {
    let Value::Object(pairs) = Value::deserialize(deserializer)? else { return Ok(Metadata::new()) };
    let pairs = pairs.into_iter().filter_map(|(key, value)| match value {
        Value::String(text) => Some((key, text)),
        Value::Null => None,
        other => Some((key, other.to_string())),
    });
    Ok(pairs.collect())
}
