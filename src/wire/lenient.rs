//! Deserialises fields that servers leave out, send as null, or send with an unexpected type.
//!
//! Many clients write into one registry, and one unusual field of one instance must not hide a whole service. So what
//! is here accepts any JSON value and returns a default for an unusable one. Each kind is a [`Lenient`]; the functions
//! are for `#[serde(deserialize_with)]`.
//!
//! | kind | JSON that is used | for anything else |
//! |---|---|---|
//! | [`Text`] | a text | empty |
//! | [`Flag`] | true, false, `"true"`, `"False"` | `None`; the caller has the default |
//! | [`Number`] | a whole number, also as text | `None` |
//! | [`Weight`] | a number, also as text | 0: no calls |
//! | [`LastMetadata`] | an object | no metadata |
//!
//! The fields that identify an instance have no default: an entry without `ip` or `port` is left out.

use std::{collections::BTreeMap, fmt, marker::PhantomData, str::FromStr};

use serde::{
    de::{
        value::{MapAccessDeserializer, SeqAccessDeserializer},
        DeserializeSeed, MapAccess, SeqAccess, Visitor,
    },
    Deserialize, Deserializer,
};
use serde_json::Value;
use smol_str::SmolStr;

use crate::model::instance::Metadata;

/// What any JSON value is read as. A text is not copied into a [`Value`] first, because nearly all values are texts.
pub(super) trait Lenient<'de>: Sized {
    type Value;

    fn text(self, text: &str) -> Self::Value;

    /// Anything but a text. Also a list or an object, unless the functions below read them.
    fn other(self, value: Value) -> Self::Value;

    fn list<A: SeqAccess<'de>>(self, values: A) -> Result<Self::Value, A::Error> {
        Value::deserialize(SeqAccessDeserializer::new(values)).map(|value| self.other(value))
    }

    /// With the feature `arbitrary_precision` of serde_json, a number comes as an object too. [`Value`] tells the two
    /// apart.
    fn object<A: MapAccess<'de>>(self, fields: A) -> Result<Self::Value, A::Error> {
        Value::deserialize(MapAccessDeserializer::new(fields)).map(|value| self.other(value))
    }
}

/// Deserialises what a [`Lenient`] reads.
pub(super) struct Any<L>(pub(super) L);

impl<'de, L: Lenient<'de>> DeserializeSeed<'de> for Any<L> {
    type Value = L::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<L::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, L: Lenient<'de>> Visitor<'de> for Any<L> {
    type Value = L::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_str<E>(self, text: &str) -> Result<L::Value, E> {
        Ok(self.0.text(text))
    }

    fn visit_bool<E>(self, flag: bool) -> Result<L::Value, E> {
        Ok(self.0.other(flag.into()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<L::Value, E> {
        Ok(self.0.other(number.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<L::Value, E> {
        Ok(self.0.other(number.into()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<L::Value, E> {
        Ok(self.0.other(number.into()))
    }

    fn visit_unit<E>(self) -> Result<L::Value, E> {
        Ok(self.0.other(Value::Null))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, values: A) -> Result<L::Value, A::Error> {
        self.0.list(values)
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<L::Value, A::Error> {
        self.0.object(fields)
    }
}

/// A text, or an empty text for any other value. A text that equals that of the instance before is shared with it.
pub(super) struct Text<'a>(pub(super) Option<&'a SmolStr>);

impl<'de> Lenient<'de> for Text<'_> {
    type Value = SmolStr;

    fn text(self, text: &str) -> SmolStr {
        self.0.filter(|before| *before == text).map_or_else(|| text.into(), SmolStr::clone)
    }

    fn other(self, _: Value) -> SmolStr {
        SmolStr::default()
    }
}

/// A text, or an empty text for any other value.
pub(super) fn text<'de, D: Deserializer<'de>, T: From<SmolStr>>(deserializer: D) -> Result<T, D::Error> {
    Any(Text(None)).deserialize(deserializer).map(T::from)
}

/// `None` if the value is neither true nor false.
pub(super) struct Flag;

impl Lenient<'_> for Flag {
    type Value = Option<bool>;

    fn text(self, text: &str) -> Option<bool> {
        text.to_lowercase().parse().ok()
    }

    fn other(self, value: Value) -> Option<bool> {
        value.as_bool()
    }
}

pub(super) fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<bool>, D::Error> {
    Any(Flag).deserialize(deserializer)
}

/// False, unless the value is true.
pub(super) fn false_by_default<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    flag(deserializer).map(|flag| flag.unwrap_or(false))
}

/// A whole number, also one that is written as a text. `None` for any other value.
pub(super) struct Number<T>(PhantomData<T>);

impl<T> Default for Number<T> {
    fn default() -> Self {
        Number(PhantomData)
    }
}

impl<T: TryFrom<i64> + FromStr> Lenient<'_> for Number<T> {
    type Value = Option<T>;

    fn text(self, text: &str) -> Option<T> {
        text.trim().parse().ok()
    }

    fn other(self, value: Value) -> Option<T> {
        value.as_i64().and_then(|number| T::try_from(number).ok())
    }
}

pub(super) fn number<'de, D: Deserializer<'de>, T: TryFrom<i64> + FromStr>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    Any(Number::default()).deserialize(deserializer)
}

/// Servers accept a weight of NaN and list it as `"NaN"`. It becomes 0, so that the instance gets no calls.
pub(super) struct Weight;

impl Lenient<'_> for Weight {
    type Value = f64;

    fn text(self, text: &str) -> f64 {
        text.parse().ok().filter(|weight: &f64| weight.is_finite()).unwrap_or(0.0)
    }

    fn other(self, value: Value) -> f64 {
        value.as_f64().unwrap_or(0.0)
    }
}

/// The metadata that was read last, with its pairs in the order of the text. A pair with a null has no value.
#[derive(Default)]
pub(super) struct LastMetadata {
    metadata: Metadata,
    pairs: Vec<(SmolStr, Option<SmolStr>)>,
}

/// Clients register metadata as JSON, and servers list that JSON unchecked. A value that is not a text becomes its JSON
/// text. A null is left out. Any other value than an object is read as no metadata.
///
/// Metadata that equals that of the instance before is shared with it.
impl<'de> Lenient<'de> for &mut LastMetadata {
    type Value = Metadata;

    fn text(self, _: &str) -> Metadata {
        Metadata::new()
    }

    fn other(self, _: Value) -> Metadata {
        Metadata::new()
    }

    fn object<A: MapAccess<'de>>(self, mut fields: A) -> Result<Metadata, A::Error> {
        let (mut count, mut is_equal) = (0, true);
        while let Some(key) = fields.next_key_seed(Any(Text(self.pairs.get(count).map(|(key, _)| key))))? {
            let before = self.pairs.get(count).and_then(|(_, value)| value.as_ref());
            let pair = (key, fields.next_value_seed(Any(MetadataValue(before)))?);
            match self.pairs.get_mut(count) {
                Some(before) if *before == pair => {}
                Some(before) => (*before, is_equal) = (pair, false),
                None => {
                    self.pairs.push(pair);
                    is_equal = false;
                }
            }
            count += 1;
        }
        if !is_equal || count < self.pairs.len() {
            self.pairs.truncate(count);
            self.metadata = collect(&self.pairs);
        }
        Ok(self.metadata.clone())
    }
}

/// Of several values for one key the last one counts, even if it is a null.
fn collect(pairs: &[(SmolStr, Option<SmolStr>)]) -> Metadata {
    let mut all = BTreeMap::new();
    for (key, value) in pairs {
        match value {
            Some(value) => all.insert(key.clone(), value.clone()),
            None => all.remove(key),
        };
    }
    all.into()
}

/// A value of metadata, or `None` for a null.
struct MetadataValue<'a>(Option<&'a SmolStr>);

impl Lenient<'_> for MetadataValue<'_> {
    type Value = Option<SmolStr>;

    fn text(self, text: &str) -> Option<SmolStr> {
        Some(Text(self.0).text(text))
    }

    fn other(self, value: Value) -> Option<SmolStr> {
        (!value.is_null()).then(|| value.to_string().into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::select};

    use super::*;

    /// An object whose keys may repeat, as JSON.
    fn object() -> impl Strategy<Value = String> {
        let key = select(vec!["a", "b", "preserved.register.source"]);
        let value =
            select(vec!["null", "1", "\"1\"", "\"é\\n\"", "[1]", "{\"c\":null}", "\"a value of more than 23 bytes\""]);
        vec((key, value), 0..5).prop_map(|pairs| {
            let pairs: Vec<_> = pairs.iter().map(|(key, value)| format!("{key:?}:{value}")).collect();
            format!("{{{}}}", pairs.join(","))
        })
    }

    /// The metadata in `text`, read without what was read before.
    fn expected(text: &str) -> Metadata {
        let Ok(Value::Object(pairs)) = serde_json::from_str(text) else { return Metadata::new() };
        let text = |(key, value): (String, Value)| match value {
            Value::String(text) => Some((key, text)),
            Value::Null => None,
            other => Some((key, other.to_string())),
        };
        pairs.into_iter().filter_map(text).collect()
    }

    proptest! {
        #[test]
        fn metadata_does_not_depend_on_the_metadata_read_before(texts in vec(object(), 1..8), none in select(vec!["null", "7", "\"\"", "[]"])) {
            let mut last = LastMetadata::default();
            for text in texts.iter().flat_map(|text| [text.as_str(), none, text]) {
                let read = Any(&mut last).deserialize(&mut serde_json::Deserializer::from_str(text)).unwrap();
                prop_assert_eq!(read, expected(text), "{}", text);
            }
        }
    }
}
