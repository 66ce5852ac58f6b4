//! The parameters of a request, parsed like by Nacos.
//!
//! Parameters come in the query, and in a form body where the dialect reads one. A blank value counts as missing,
//! as in Nacos' `WebUtils`. A value that cannot be read is answered with the dialect's own text.

use crate::model::{
    instance::{Metadata, DEFAULT_CLUSTER},
    service::{ServiceName, DEFAULT_GROUP},
};

use super::{catalogue::ServiceKey, dialect::Dialect, java, reply::Reply};

/// The parameters of the query, followed by those of the form body. The first parameter of a name counts, as in
/// servlets.
#[derive(Clone, Debug, Default)]
pub(crate) struct Parameters {
    pairs: Vec<(String, String)>,
    pub(crate) dialect: Dialect,
}

impl Parameters {
    pub(crate) fn read(dialect: Dialect, query: &str, form: Option<&[u8]>) -> Self {
        let pairs = [query.as_bytes(), form.unwrap_or_default()].into_iter().flat_map(form_urlencoded::parse);
        Parameters { pairs: pairs.map(|(name, value)| (name.into_owned(), value.into_owned())).collect(), dialect }
    }

    /// The value of a parameter, unless it is blank.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.pairs.iter().find(|(key, _)| key == name)?;
        Some(value.as_str()).filter(|value| !value.trim().is_empty())
    }

    pub(crate) fn or<'a>(&'a self, name: &str, default: &'a str) -> &'a str {
        self.get(name).unwrap_or(default)
    }

    /// # Errors
    /// 400 with Nacos' text, if the parameter is missing or blank.
    pub(crate) fn required(&self, name: &str) -> Result<&str, Reply> {
        self.get(name).ok_or_else(|| self.error(400, &format!("Param '{name}' is required.")))
    }

    /// An error of a v1 controller in the form of the dialect.
    pub(crate) fn error(&self, status: u16, message: &str) -> Reply {
        Reply::v1_error(self.dialect, status, message)
    }

    /// A boolean of v1: `true` in any case, everything else is false. Since 2.x surrounding blanks are ignored.
    pub(crate) fn flag(&self, name: &str) -> Option<bool> {
        let value = self.get(name)?;
        Some(if self.dialect.is_v1_4() { value } else { value.trim() }.eq_ignore_ascii_case("true"))
    }

    /// A number, or an error if the value is not a number.
    pub(crate) fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, Reply> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let number = text.trim().parse().map_err(|_| self.error(400, &format!("For input string: \"{text}\"")))?;
        Ok(Some(number))
    }

    /// A weight within the bounds of Nacos, whose checks accept NaN.
    pub(crate) fn weight(&self) -> Result<Option<f64>, Reply> {
        let weight: Option<f64> = self.number("weight")?;
        if weight.is_some_and(|weight| !(0.0..=10_000.0).contains(&weight) && !weight.is_nan()) {
            let status = if self.dialect.is_v1_4() { 500 } else { 400 };
            return Err(self.error(status, "instance format invalid: The weights range from 0.0 to 10000.0"));
        }
        Ok(weight)
    }

    /// # Errors
    /// 500, as Nacos answers to metadata that is neither JSON nor `k=v` pairs.
    pub(crate) fn metadata(&self) -> Result<Option<Metadata>, Reply> {
        let Some(text) = self.get("metadata") else { return Ok(None) };
        let metadata = java::metadata(text).ok_or_else(|| self.error(500, &bad_metadata(text)))?;
        Ok(Some(metadata))
    }

    pub(crate) fn namespace(&self) -> &str {
        self.or("namespaceId", "public")
    }

    /// Reads `serviceName`, which may name its group, and `groupName` otherwise.
    ///
    /// # Errors
    /// 400 for a name that the dialect does not accept.
    pub(crate) fn service(&self) -> Result<ServiceKey, Reply> {
        let name = self.required("serviceName")?;
        check_format(name).map_err(|rule| self.error(400, rule))?;
        let name = ServiceName::from_wire(name, self.or("groupName", DEFAULT_GROUP));
        if self.dialect.is_v1_4() && !name.name.chars().all(|c| c.is_ascii_alphanumeric() || "-._:@".contains(c)) {
            let rule = "dom name can only have these characters: 0-9a-zA-Z-._:";
            return Err(self.error(400, &format!("{rule}, current: {name}")));
        }
        Ok(ServiceKey { namespace: self.namespace().to_owned(), service: name })
    }

    /// `clusterName`, or `cluster` from the oldest clients. 2.x and later check the name when they register an
    /// instance.
    pub(crate) fn cluster(&self) -> Result<&str, Reply> {
        let cluster = self.get("clusterName").unwrap_or_else(|| self.or("cluster", DEFAULT_CLUSTER));
        if !self.dialect.is_v1_4() || is_cluster_name(cluster) {
            return Ok(cluster);
        }
        let rule = "cluster name can only have these characters: 0-9a-zA-Z-, current: ";
        Err(self.error(400, &format!("{rule}{cluster}")))
    }
}

/// The rule of 1.4, and of registrations since 2.x.
pub(crate) fn is_cluster_name(name: &str) -> bool {
    name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

/// A name with `@@` needs a text before and after it (`NamingUtils.checkServiceNameFormat`).
pub(crate) fn check_format(name: &str) -> Result<(), &'static str> {
    match java::split(name, "@@")[..] {
        _ if !name.contains("@@") => Ok(()),
        [] | [_] => Err("Param 'serviceName' is illegal, it should be format as 'groupName@@serviceName'"),
        ["", ..] => Err("Param 'serviceName' is illegal, groupName can't be empty"),
        _ => Ok(()),
    }
}

/// Nacos' text for metadata that it cannot read.
pub(crate) fn bad_metadata(text: &str) -> String {
    format!("metadata format incorrect:{text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_parameter_of_a_name_counts_and_the_query_comes_first() {
        let parameters = Parameters::read(Dialect::V2_5, "ip=a&ip=b&port=", Some(b"ip=c&weight=2&port=7"));
        assert_eq!(parameters.get("ip"), Some("a"));
        assert_eq!(parameters.weight(), Ok(Some(2.0)));
        assert_eq!(parameters.get("port"), None, "an empty value hides a later one");
    }
}
