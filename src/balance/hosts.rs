//! Decides which host names are services.
//!
//! The case of a host name does not matter, and few characters are allowed in it. The name of a Nacos service has a
//! case and may have nearly any character. So a service whose name is not a host name needs
//! [`ClientBuilder::host`](super::ClientBuilder::host). Hosts are looked up in lower case, and the service keeps its
//! own spelling. Under a suffix, the name of the service is the part of the host as the caller wrote it.

use crate::{
    error::Error,
    model::service::{ServiceName, DEFAULT_GROUP},
};

/// Reads the service from a host with this suffix. With the suffix `.nacos`, `orders.nacos` is the service `orders` of
/// the default group, and `orders.SHOP.nacos` is `SHOP@@orders`. A service whose name has dots needs its group. `None`
/// if the host names no valid service.
pub(crate) fn service_under_suffix(host: &str, suffix: &str) -> Option<ServiceName> {
    let split = host.len().checked_sub(suffix.len())?;
    let (name, end) = host.split_at_checked(split)?;
    if name.is_empty() || !end.eq_ignore_ascii_case(suffix) {
        return None;
    }
    let (name, group) = name.rsplit_once('.').unwrap_or((name, DEFAULT_GROUP));
    ServiceName::parse(&format!("{group}@@{name}")).ok()
}

/// The two hosts of a service, in lower case: `NAME` and `NAME.GROUP.nacos`.
pub(super) fn hosts_of(service: &ServiceName) -> Result<[String; 2], Error> {
    if !is_host_name(&service.name) {
        let reason = format!("{:?} is no host name; give the service one with ClientBuilder::host", service.name);
        return Err(Error::invalid("service", reason));
    }
    Ok([key(&service.name), key(&format!("{}.{}.nacos", service.name, service.group))])
}

/// The key by which a host is looked up: lower case.
pub(super) fn key(host: &str) -> String {
    host.to_ascii_lowercase()
}

/// Whether this name can be the host of a URL.
pub(super) fn is_host_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_under_the_suffix_names_a_service_and_its_group() {
        let read = |host| service_under_suffix(host, ".nacos").map(|service| service.to_string());
        assert_eq!(read("orders.nacos").as_deref(), Some("DEFAULT_GROUP@@orders"));
        assert_eq!(read("orders.SHOP.nacos").as_deref(), Some("SHOP@@orders"));
        assert_eq!(read("com.example.orders.SHOP.Nacos").as_deref(), Some("SHOP@@com.example.orders"));
        for host in ["", ".nacos", "nacos", "orders", "orders.nacos.example", "é.nac", "..nacos", "a..nacos"] {
            assert_eq!(read(host), None, "{host}");
        }
    }

    #[test]
    fn a_service_has_its_name_as_host_and_one_with_its_group() {
        let service = ServiceName::parse("SHOP@@Orders").unwrap();
        assert_eq!(hosts_of(&service).unwrap(), ["orders", "orders.shop.nacos"]);
        for name in ["providers:a.b.IGreeter::", "a b", "заказ"] {
            let error = hosts_of(&ServiceName::parse(name).unwrap()).unwrap_err();
            assert!(matches!(error, Error::InvalidInput { field: "service", .. }), "{error}");
        }
    }
}
