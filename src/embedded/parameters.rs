//! The parameters of a request, and what Nacos makes of them.

use crate::{service::ServiceName, Metadata, DEFAULT_CLUSTER, DEFAULT_GROUP};

use super::{catalogue::ServiceKey, dialect::Dialect, reply::Reply};

/// The parameters of the query, then those of a form body. The first of a name counts, as in servlets.
#[derive(Clone, Debug, Default)]
pub(crate) struct Parameters {
    pairs: Vec<(String, String)>,
    pub(crate) dialect: Dialect,
}

impl Parameters {
    /// What cannot be decoded counts as not given.
    pub(crate) fn read(dialect: Dialect, query: &str, form: Option<&[u8]>) -> Self {
        let mut pairs: Vec<(String, String)> = serde_urlencoded::from_str(query).unwrap_or_default();
        if let Some(form) = form {
            pairs.extend(serde_urlencoded::from_bytes::<Vec<(String, String)>>(form).unwrap_or_default());
        }
        Parameters { pairs, dialect }
    }

    /// A parameter that is there and not blank.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.pairs.iter().find(|(key, _)| key == name)?;
        Some(value.as_str()).filter(|value| !value.trim().is_empty())
    }

    pub(crate) fn or<'a>(&'a self, name: &str, default: &'a str) -> &'a str {
        self.get(name).unwrap_or(default)
    }

    pub(crate) fn required(&self, name: &str) -> Result<&str, Reply> {
        self.get(name).ok_or_else(|| self.refused(400, &format!("Param '{name}' is required.")))
    }

    pub(crate) fn refused(&self, status: u16, message: &str) -> Reply {
        Reply::refused(self.dialect, status, message)
    }

    pub(crate) fn flag(&self, name: &str) -> Option<bool> {
        self.get(name).map(|value| ["true", "on", "yes", "t", "y", "1"].contains(&value.to_lowercase().as_str()))
    }

    /// A number that must be one, where it is given.
    pub(crate) fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, Reply> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let number = text.trim().parse().map_err(|_| self.refused(400, &format!("For input string: \"{text}\"")))?;
        Ok(Some(number))
    }

    /// A weight within Nacos' bounds; NaN passes all Nacos' checks.
    pub(crate) fn weight(&self) -> Result<Option<f64>, Reply> {
        let weight: Option<f64> = self.number("weight")?;
        if weight.is_some_and(|weight| !(0.0..=10_000.0).contains(&weight) && !weight.is_nan()) {
            let status = if self.dialect.is_v1_4() { 500 } else { 400 };
            return Err(self.refused(status, "instance format invalid: The weights range from 0.0 to 10000.0"));
        }
        Ok(weight)
    }

    pub(crate) fn metadata(&self) -> Result<Option<Metadata>, Reply> {
        let Some(text) = self.get("metadata") else { return Ok(None) };
        let metadata = read_metadata(text).ok_or_else(|| self.refused(500, &bad_metadata(text)))?;
        Ok(Some(metadata))
    }

    pub(crate) fn namespace(&self) -> &str {
        self.or("namespaceId", "public")
    }

    pub(crate) fn service(&self) -> Result<ServiceKey, Reply> {
        let name = ServiceName::from_wire(self.required("serviceName")?, self.or("groupName", DEFAULT_GROUP));
        if self.dialect.is_v1_4() && !name.name.chars().all(|c| c.is_ascii_alphanumeric() || "-._:@".contains(c)) {
            let rule = "dom name can only have these characters: 0-9a-zA-Z-._:";
            return Err(self.refused(400, &format!("{rule}, current: {name}")));
        }
        Ok(ServiceKey { namespace: self.namespace().to_owned(), service: name })
    }

    /// `clusterName`, or `cluster` as the oldest clients call it.
    pub(crate) fn cluster(&self) -> Result<&str, Reply> {
        let cluster = self.get("clusterName").unwrap_or_else(|| self.or("cluster", DEFAULT_CLUSTER));
        if cluster.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
            return Ok(cluster);
        }
        Err(self.refused(
            400,
            &if self.dialect.is_v1_4() {
                format!("cluster name can only have these characters: 0-9a-zA-Z-, current: {cluster}")
            } else {
                format!("Instance 'clusterName' should be characters with only 0-9a-zA-Z-. (current: {cluster})")
            },
        ))
    }
}

pub(crate) fn bad_metadata(text: &str) -> String {
    format!("metadata format incorrect:{text}")
}

/// A JSON object, or `k=v` pairs separated by commas (`UtilsAndCommons.parseMetadata`).
pub(crate) fn read_metadata(text: &str) -> Option<Metadata> {
    use serde_json::Value;
    match serde_json::from_str::<serde_json::Map<String, Value>>(text) {
        Ok(object) => object
            .into_iter()
            .map(|(key, value)| match value {
                Value::String(text) => Some((key, text)),
                Value::Number(_) | Value::Bool(_) => Some((key, value.to_string())),
                _ => None,
            })
            .collect(),
        Err(_) => text
            .split(',')
            .map(|pair| pair.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned())))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_a_name_counts_and_the_query_comes_first() {
        let parameters = Parameters::read(Dialect::V2_5, "ip=a&ip=b&port=", Some(b"ip=c&weight=2&port=7"));
        assert_eq!(parameters.get("ip"), Some("a"));
        assert_eq!(parameters.weight(), Ok(Some(2.0)));
        assert_eq!(parameters.get("port"), None, "an empty one hides the later");
    }

    #[test]
    fn metadata_is_json_or_pairs() {
        let read = |text| read_metadata(text).map(|m| m.into_iter().collect::<Vec<_>>());
        assert_eq!(read(r#"{"a":"1","b":2}"#), Some(vec![("a".into(), "1".into()), ("b".into(), "2".into())]));
        assert_eq!(read("a=1,b=2"), Some(vec![("a".into(), "1".into()), ("b".into(), "2".into())]));
        assert_eq!(read("{oops"), None);
    }
}
