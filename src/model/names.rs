//! The names of services, groups and clusters, and the rules for them.
//!
//! Nacos writes the group into the name (`GROUP@@service`), so a name that contains the separator could belong to
//! another group. Other restrictions depend on the server's version, and the server reports them in its answer.

use std::fmt;

use serde::{Deserialize, Serialize};
use smol_str::{SmolStr, SmolStrBuilder};

use crate::error::Error;

/// The group of a service for which no group is given.
///
/// All Nacos clients use the same default.
pub const DEFAULT_GROUP: &str = "DEFAULT_GROUP";

/// Separates group and service in Nacos' grouped names.
const GROUP_SEPARATOR: &str = "@@";

/// In characters. No server accepts a longer name.
const LONGEST_NAME: usize = 512;

/// A service name with its group.
///
/// Displays as `GROUP@@service`.
///
/// Services with the same name in different groups are different services. Messages of this crate accept the form
/// `GROUP@@service` wherever a service is named.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ServiceName {
    /// The group. Default: [`DEFAULT_GROUP`].
    pub group: SmolStr,
    /// The service, without its group.
    pub name: SmolStr,
}

impl ServiceName {
    /// Parses `service` or `GROUP@@service`.
    ///
    /// Servers differ in the characters that they accept (see `docs/servers.md`). This function rejects only what no
    /// server accepts. A server that rejects another name says so in its answer.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] with the field `service` or `group` if a part is empty, is longer than 512 characters,
    /// contains a control character, or contains an `@@` that servers would take for the end of the group.
    ///
    /// ```
    /// # use actix_nacos::ServiceName;
    /// let name = ServiceName::parse("PAY@@ledger")?;
    /// assert_eq!((name.group.as_str(), name.name.as_str()), ("PAY", "ledger"));
    /// assert_eq!(ServiceName::parse("orders")?.to_string(), "DEFAULT_GROUP@@orders");
    /// # Ok::<(), actix_nacos::Error>(())
    /// ```
    pub fn parse(service: &str) -> Result<Self, Error> {
        Self::resolve(service, None)
    }

    /// Parses `service` within `group`. A `service` that names a group itself must name the same group.
    pub(crate) fn resolve(service: &str, group: Option<&str>) -> Result<Self, Error> {
        let (own_group, name) = match split_grouped(service) {
            Some((own_group, name)) => (Some(own_group), name),
            None => (None, service),
        };
        if let Some(own) = own_group {
            check_group(service, own, group)?;
        }
        let group = own_group.or(group).unwrap_or(DEFAULT_GROUP);
        let resolved = ServiceName { group: group.into(), name: name.into() };
        resolved.validate().map(|()| resolved)
    }

    /// Rejects what no server accepts.
    fn validate(&self) -> Result<(), Error> {
        validate_group(&self.group)?;
        validate_name("service", &self.name)?;
        if split_grouped(&self.name).is_some() {
            return Err(Error::invalid("service", format!("{:?} has a second '{GROUP_SEPARATOR}'", self.name)));
        }
        Ok(())
    }

    /// `GROUP@@service`, as servers write it.
    pub(crate) fn grouped(&self) -> SmolStr {
        let mut grouped = SmolStrBuilder::new();
        [&self.group, GROUP_SEPARATOR, &self.name].into_iter().for_each(|part| grouped.push_str(part));
        grouped.finish()
    }

    /// Parses a name from a server, without checks: every name that a server has must be usable.
    pub(crate) fn from_wire(name: &str, group: &str) -> Self {
        match split_grouped(name) {
            Some((group, name)) => ServiceName { group: group.into(), name: name.into() },
            None => ServiceName { group: group.into(), name: name.into() },
        }
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{GROUP_SEPARATOR}{}", self.group, self.name)
    }
}

/// Group and service of a grouped name. Names are short, so the search of the standard library would take most of its
/// time to prepare itself.
fn split_grouped(name: &str) -> Option<(&str, &str)> {
    let at = name.as_bytes().windows(2).position(|pair| pair == GROUP_SEPARATOR.as_bytes())?;
    Some((&name[..at], &name[at + GROUP_SEPARATOR.len()..]))
}

fn check_group(service: impl fmt::Display, own: &str, given: Option<&str>) -> Result<(), Error> {
    match given {
        Some(given) if given != own => {
            Err(Error::invalid("service", format!("{service} belongs to another group than {given}")))
        }
        _ => Ok(()),
    }
}

/// Rejects a group that ends with `@`: the group `G@` and the service `orders` become `G@@@orders`, which parses as the
/// group `G` and the service `@orders`.
pub(crate) fn validate_group(group: &str) -> Result<(), Error> {
    validate_name("group", group)?;
    if split_grouped(group).is_some() || group.ends_with('@') {
        let reason = format!("{group:?} must neither contain '{GROUP_SEPARATOR}' nor end with '@'");
        return Err(Error::invalid("group", reason));
    }
    Ok(())
}

/// Rejects only what is invalid on every server. r-nacos accepts nearly any character; Nacos accepts characters
/// depending on its version and settings, and names the problem in its answer.
pub(super) fn validate_name(field: &'static str, name: &str) -> Result<(), Error> {
    if name.is_empty() {
        return Err(Error::invalid(field, "must not be empty"));
    }
    if name.len() > LONGEST_NAME && name.chars().count() > LONGEST_NAME {
        return Err(Error::invalid(field, format!("is longer than {LONGEST_NAME} characters")));
    }
    if name.chars().any(char::is_control) {
        return Err(Error::invalid(field, format!("{name:?} contains a control character")));
    }
    Ok(())
}

/// A comma is not allowed because list requests separate clusters by commas.
pub(super) fn validate_cluster(cluster: &str) -> Result<(), Error> {
    validate_name("cluster", cluster)?;
    if cluster.contains(',') {
        return Err(Error::invalid("cluster", format!("{cluster:?} contains a comma")));
    }
    Ok(())
}

/// Joins clusters by commas, sorted and without duplicates, so that equal filters have equal texts.
pub(crate) fn cluster_filter(clusters: &[String]) -> Result<String, Error> {
    for cluster in clusters {
        validate_cluster(cluster)?;
    }
    let mut clusters: Vec<&str> = clusters.iter().map(String::as_str).collect();
    clusters.sort_unstable();
    clusters.dedup();
    Ok(clusters.join(","))
}

/// Names a service in a message: `service` or `GROUP@@service` as text, or a [`ServiceName`].
///
/// Messages take `impl Into<ServiceRef>`. The text is checked when the message is handled.
///
/// ```
/// use actix_nacos::{ListInstances, ServiceName};
///
/// let by_text = ListInstances::new("PAY@@ledger");
/// let by_name = ListInstances::new(ServiceName::parse("PAY@@ledger")?);
/// # Ok::<(), actix_nacos::Error>(())
/// ```
///
/// Converting never fails, so that builders need no `Result`. An invalid name is the answer of the message:
/// [`Error::InvalidInput`].
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceRef(Reference);

#[derive(Debug, Clone, PartialEq)]
enum Reference {
    Text(String),
    Name(ServiceName),
}

impl<T: Into<String>> From<T> for ServiceRef {
    fn from(text: T) -> Self {
        ServiceRef(Reference::Text(text.into()))
    }
}

impl From<ServiceName> for ServiceRef {
    fn from(name: ServiceName) -> Self {
        ServiceRef(Reference::Name(name))
    }
}

impl From<&ServiceName> for ServiceRef {
    fn from(name: &ServiceName) -> Self {
        name.clone().into()
    }
}

impl ServiceRef {
    /// The name of the service, in `group` if one is given. A reference that has a group must have the same group.
    pub(crate) fn resolve(&self, group: Option<&str>) -> Result<ServiceName, Error> {
        match &self.0 {
            Reference::Text(text) => ServiceName::resolve(text, group),
            Reference::Name(name) => {
                check_group(name, &name.group, group)?;
                name.validate().map(|()| name.clone())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_parsed_with_and_without_group() {
        assert_eq!(ServiceName::parse("orders").unwrap().to_string(), "DEFAULT_GROUP@@orders");
        assert_eq!(ServiceName::parse("G@@orders").unwrap().group, "G");
        assert_eq!(ServiceName::resolve("G@@orders", Some("G")).unwrap().group, "G");
        assert_eq!(ServiceName::resolve("orders", Some("H")).unwrap().group, "H");
    }

    #[test]
    fn invalid_names_are_reported_with_their_field() {
        let field = |service: &str, group: Option<&str>| match ServiceName::resolve(service, group) {
            Err(Error::InvalidInput { field, .. }) => field,
            other => panic!("{service:?} gave {other:?}"),
        };
        for service in ["", "a\nb", "a\u{7f}", "x@@y@@z", "G@@", &"s".repeat(513)] {
            assert_eq!(field(service, None), "service", "{service:?}");
        }
        assert_eq!(field("G@@orders", Some("H")), "service");
        for group in ["", "a\tb", "G@", "G@@H", &"g".repeat(513)] {
            assert_eq!(field("orders", Some(group)), "group", "{group:?}");
        }
        assert_eq!(field("@@orders", None), "group");
    }

    #[test]
    fn names_that_some_server_accepts_survive_parsing_and_writing() {
        let names = [
            "providers:a.b.IGreeter::",
            "a$b",
            "order/api",
            "{{1}}",
            "заказ",
            "订单",
            "a b",
            "@orders",
            "a@b",
            "..",
            "a%2Fb",
        ];
        for name in names {
            let read = ServiceName::parse(name).unwrap();
            assert_eq!((read.group.as_str(), read.name.as_str()), (DEFAULT_GROUP, name));
            assert_eq!(ServiceName::parse(&read.to_string()), Ok(read.clone()));
            assert_eq!(ServiceName::from_wire(&read.to_string(), ""), read);
            let in_group = ServiceName::resolve("orders", Some(&name.replace('@', "x"))).unwrap();
            assert_eq!(ServiceName::parse(&in_group.to_string()), Ok(in_group));
        }
        let longest = "ж".repeat(512);
        assert_eq!(ServiceName::parse(&longest).unwrap().name, longest, "characters count, not bytes");
    }

    #[test]
    fn a_name_in_a_message_keeps_its_group() {
        let name = ServiceName::parse("PAY@@ledger").unwrap();
        let resolve = |group| ServiceRef::from(&name).resolve(group);
        assert_eq!(resolve(None), Ok(name.clone()));
        assert_eq!(resolve(Some("PAY")), Ok(name.clone()));
        assert!(matches!(resolve(Some("SHOP")), Err(Error::InvalidInput { field: "service", .. })));
        let unchecked = ServiceName { group: "".into(), name: "ledger".into() };
        assert!(matches!(ServiceRef::from(unchecked).resolve(None), Err(Error::InvalidInput { field: "group", .. })));
        assert_eq!(ServiceRef::from(String::from("PAY@@ledger")).resolve(None), Ok(name));
    }

    #[test]
    fn equal_cluster_filters_have_equal_texts() {
        let filter = |clusters: &[&str]| cluster_filter(&clusters.iter().map(|c| c.to_string()).collect::<Vec<_>>());
        assert_eq!(filter(&["b", "a", "b"]), Ok("a,b".into()));
        assert_eq!(filter(&[]), Ok(String::new()));
        assert!(filter(&["a,b"]).is_err());
    }
}
