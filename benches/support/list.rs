//! The text of a list, as servers send it.

use std::fmt::Write as _;

/// A list of `GROUP@@service` in the format of Nacos 2.x.
pub(crate) fn list(service: &str, hosts: usize) -> String {
    let mut list =
        format!(r#"{{"name":"{service}","groupName":"DEFAULT_GROUP","clusters":"","cacheMillis":10000,"hosts":["#,);
    for number in 0..hosts {
        let comma = if number > 0 { "," } else { "" };
        let (c, d) = (number / 250, number % 250 + 1);
        let _ = write!(
            list,
            r#"{comma}{{"instanceId":"127.1.{c}.{d}#8080#DEFAULT#{service}","ip":"127.1.{c}.{d}","port":8080,"weight":1.0,"healthy":true,"enabled":true,"ephemeral":true,"clusterName":"DEFAULT","serviceName":"{service}","metadata":{{"zone":"a","version":"1.2.3"}},"instanceHeartBeatInterval":5000,"instanceHeartBeatTimeOut":15000,"ipDeleteTimeout":30000,"instanceIdGenerator":"simple"}}"#
        );
    }
    list.push_str(
        r#"],"lastRefTime":1700000000000,"checksum":"","allIPs":false,"reachProtectionThreshold":false,"valid":true}"#,
    );
    list
}
