//! Parses text by the rules of Java and of Jackson, the JSON library of Nacos.
//!
//! Some clients depend on how Java reads texts: numbers as strings, metadata as `k=v` pairs, JSON followed by other
//! text. Each unusual rule comes from a recording or from Nacos' source.

use serde_json::{Map, Value};

use crate::model::instance::Metadata;

/// `String.split`, which drops empty parts at the end.
pub(crate) fn split<'a>(text: &'a str, separator: &str) -> Vec<&'a str> {
    let mut parts: Vec<&str> = text.split(separator).collect();
    // A text without the separator is one part, even if it is empty.
    while parts.len() > 1 && parts.last().is_some_and(|part| part.is_empty()) {
        parts.pop();
    }
    if parts == [""] && text.contains(separator) {
        parts.clear();
    }
    parts
}

/// A JSON object or null, or `k=v` pairs separated by commas (`UtilsAndCommons.parseMetadata`).
///
/// `None` if it is neither. Callers have filtered blank texts out.
pub(crate) fn metadata(text: &str) -> Option<Metadata> {
    // Jackson ignores what follows the first value.
    match serde_json::Deserializer::from_str(text).into_iter::<Value>().next() {
        Some(Ok(Value::Null)) => Some(Metadata::new()),
        Some(Ok(Value::Object(fields))) => texts(&fields).or_else(|| pairs(text)),
        _ => pairs(text),
    }
}

fn pairs(text: &str) -> Option<Metadata> {
    let pair = |pair| match split(pair, "=")[..] {
        [key, value] => Some((key.to_owned(), value.to_owned())),
        _ => None,
    };
    split(text, ",").into_iter().map(pair).collect()
}

fn texts(fields: &Map<String, Value>) -> Option<Metadata> {
    fields.iter().map(|(key, value)| Some((key.clone(), scalar(value)?))).collect()
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        _ => None,
    }
}

/// The fields of a JSON object, bound like by Jackson: scalars are converted, and null counts as missing. The error is
/// the name of a field that cannot be bound.
///
/// `{"port": "8080"}` and `{"port": 8080.0}` both bind to the number 8080.
pub(crate) struct Fields(Map<String, Value>);

impl Fields {
    pub(crate) fn read(json: &str) -> serde_json::Result<Self> {
        serde_json::from_str(json).map(Fields)
    }

    fn bind<'a, T>(
        &'a self,
        name: &'static str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, &'static str> {
        self.0.get(name).filter(|value| !value.is_null()).map(|value| read(value).ok_or(name)).transpose()
    }

    pub(crate) fn text(&self, name: &'static str) -> Result<Option<String>, &'static str> {
        self.bind(name, scalar)
    }

    /// An `int`. 0 if the field is missing.
    ///
    /// A fraction is cut off, and a number outside of 32 bits is an error.
    pub(crate) fn integer(&self, name: &'static str) -> Result<i64, &'static str> {
        let read = |value: &Value| match value {
            Value::Number(number) => number.as_i64().or_else(|| Some(number.as_f64()?.trunc() as i64)),
            Value::String(text) if text.trim().is_empty() => Some(0),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        };
        let number = self.bind(name, read)?.unwrap_or(0);
        i32::try_from(number).map(i64::from).map_err(|_| name)
    }

    /// A `double`. 0 if the field is missing.
    pub(crate) fn number(&self, name: &'static str) -> Result<f64, &'static str> {
        let read = |value: &Value| match value {
            Value::String(text) if text.trim().is_empty() => Some(0.0),
            Value::String(text) => text.trim().parse().ok(),
            other => other.as_f64(),
        };
        Ok(self.bind(name, read)?.unwrap_or(0.0))
    }

    /// A `boolean`. Explicit null is false, which differs from a missing field.
    pub(crate) fn flag(&self, name: &'static str, default: bool) -> Result<bool, &'static str> {
        if self.0.get(name).is_some_and(Value::is_null) {
            return Ok(false);
        }
        let read = |value: &Value| match value {
            Value::Bool(flag) => Some(*flag),
            Value::Number(number) => Some(number.as_i64()? != 0),
            Value::String(text) => match text.trim() {
                "true" | "True" | "TRUE" => Some(true),
                "false" | "False" | "FALSE" | "" => Some(false),
                _ => None,
            },
            _ => None,
        };
        Ok(self.bind(name, read)?.unwrap_or(default))
    }

    pub(crate) fn texts(&self, name: &'static str) -> Result<Metadata, &'static str> {
        Ok(self.bind(name, |value| texts(value.as_object()?))?.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_split_as_java_splits_it() {
        for (text, parts) in [
            ("a=b", &["a", "b"][..]),
            ("a=", &["a"]),
            ("=b", &["", "b"]),
            ("=", &[]),
            ("", &[""]),
            ("a", &["a"]),
            ("a==b", &["a", "", "b"]),
        ] {
            assert_eq!(split(text, "="), parts, "{text}");
        }
    }

    #[test]
    fn metadata_is_json_or_pairs() {
        let read =
            |text| metadata(text).map(|m| m.into_iter().map(|(k, v)| format!("{k}:{v}")).collect::<Vec<_>>().join(" "));
        for (text, expected) in [
            (r#"{"a":"1","b":2,"c":true}"#, Some("a:1 b:2 c:true")),
            (r#"{"a":"1"} and more"#, Some("a:1")),
            ("null", Some("")),
            (",", Some("")),
            ("a=1,b=2,", Some("a:1 b:2")),
            ("=b", Some(":b")),
            ("a=", None),
            ("a==b", None),
            (",a=b", None),
            ("nullx", None),
            ("{oops", None),
            ("[]", None),
            (r#"{"a":{"b":"c"}}"#, None),
        ] {
            assert_eq!(read(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn fields_are_converted_where_jackson_converts_them() {
        let json = r#"{"port":null,"cluster":-1,"weight":"1.5","int":"80","cut":80.9,"flag":"TRUE","no":0,"bad":[],"m":{"a":1}}"#;
        let fields = Fields::read(json).unwrap();
        assert_eq!((fields.integer("port"), fields.integer("int"), fields.integer("cut")), (Ok(0), Ok(80), Ok(80)));
        assert_eq!((fields.text("cluster"), fields.text("ip")), (Ok(Some("-1".into())), Ok(None)));
        assert_eq!((fields.number("weight"), fields.number("none")), (Ok(1.5), Ok(0.0)));
        assert_eq!(
            (fields.flag("flag", false), fields.flag("no", true), fields.flag("none", true)),
            (Ok(true), Ok(false), Ok(true))
        );
        assert_eq!(fields.texts("m").unwrap()["a"], "1");
        assert_eq!((fields.text("bad"), fields.integer("bad")), (Err("bad"), Err("bad")));
        assert!(Fields::read("[]").is_err());
    }
}
