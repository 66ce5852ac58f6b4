//! Settings from environment variables.
//!
//! One table, [`VARIABLES`], has each setting's variable, key and reader. An error names the variable, not the
//! setting, because the variable is what has to be corrected.

use std::{env::VarError, str::FromStr, time::Duration};

use serde::{
    de::{value, IntoDeserializer as _},
    Deserialize as _,
};

use super::{validate_namespace, validate_security_token, Config, Protocol};
use crate::error::Error;

const PREFIX: &str = "NACOS_";

/// A setting and the environment variable that sets it.
struct Variable {
    /// With the prefix `NACOS_`.
    name: &'static str,
    /// The key in a configuration file.
    key: &'static str,
    /// Parses the text. Returns the reason if the text is invalid.
    set: fn(&mut Config, &str) -> Result<(), String>,
}

macro_rules! variables {
    ($($name:literal, $key:literal: $config:ident $(. $field:ident)+ = $read:expr;)*) => {
        &[$(Variable {
            name: concat!("NACOS_", $name),
            key: $key,
            set: |$config, text| {
                $config $(. $field)+ = $read(text)?;
                Ok(())
            },
        }),*]
    };
}

/// The variable of the servers has the same name as in Nacos' other clients. It is not `NACOS_SERVERS`, because Nacos'
/// container images read the members of their cluster from that variable.
const VARIABLES: &[Variable] = variables! {
    "SERVER_ADDR", "servers": config.servers = |text| Ok::<_, String>(super::ServerList::from(text).0);
    "ENDPOINT", "endpoint": config.endpoint = optional::<String>;
    "ENDPOINT_INTERVAL", "endpoint_interval": config.endpoint_interval = duration;
    "CONTEXT_PATH", "context_path": config.context_path = parsed;
    "NAMESPACE", "namespace": config.namespace = namespace;
    "USERNAME", "username": config.username = optional::<String>;
    "PASSWORD", "password": config.password = optional::<String>;
    "ACCESS_KEY", "access_key": config.access_key = optional::<String>;
    "SECRET_KEY", "secret_key": config.secret_key = optional::<String>;
    "SECURITY_TOKEN", "security_token": config.security_token = security_token;
    "SIGNATURE_REGION", "signature_region": config.signature_region = optional::<String>;
    "PROTOCOL", "protocol": config.protocol = protocol;
    "DISABLED", "disabled": config.disabled = yes_or_no;
    "REQUEST_TIMEOUT", "request_timeout": config.request_timeout = duration;
    "OPERATION_TIMEOUT", "operation_timeout": config.operation_timeout = duration;
    "SHUTDOWN_TIMEOUT", "shutdown_timeout": config.shutdown_timeout = duration;
    "MAX_CONNECTIONS", "max_connections": config.max_connections = parsed;
    "MAILBOX_CAPACITY", "mailbox_capacity": config.mailbox_capacity = parsed;
    "MIN_POLL_INTERVAL", "min_poll_interval": config.min_poll_interval = duration;
    "MAX_POLL_INTERVAL", "max_poll_interval": config.max_poll_interval = duration;
    "PROTECT_FROM_EMPTY", "protect_from_empty": config.protect_from_empty = yes_or_no;
    "OUTAGE_HOLD", "outage_hold": config.outage_hold = duration;
    "CACHE_DIR", "cache_dir": config.cache_dir = optional;
    "PUSH_ENABLED", "push.enabled": config.push.enabled = yes_or_no;
    "PUSH_BIND", "push.bind": config.push.bind = optional;
    "PUSH_ADVERTISE_IP", "push.advertise_ip": config.push.advertise_ip = optional;
    "PUSH_ADVERTISE_PORT", "push.advertise_port": config.push.advertise_port = optional;
    "PUSH_ANY_SOURCE", "push.any_source": config.push.any_source = yes_or_no;
    "PUSH_HINT_ONLY", "push.hint_only": config.push.hint_only = yes_or_no;
    "TLS_CA_FILE", "tls.ca_file": config.tls.ca_file = optional;
    "TLS_CLIENT_CERTIFICATE_FILE", "tls.client_certificate_file": config.tls.client_certificate_file = optional;
    "TLS_CLIENT_KEY_FILE", "tls.client_key_file": config.tls.client_key_file = optional;
};

fn parsed<T: FromStr<Err: ToString>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

fn optional<T: FromStr<Err: ToString>>(text: &str) -> Result<Option<T>, String> {
    parsed(text).map(Some)
}

fn yes_or_no(text: &str) -> Result<bool, String> {
    match text.to_lowercase().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let read: Result<_, value::Error> = humantime_serde::deserialize(text.into_deserializer());
    read.map_err(|error| format!("{text:?} is not a duration such as 3s or 500ms: {error}"))
}

fn protocol(text: &str) -> Result<Protocol, String> {
    let lower = text.to_lowercase();
    let read: Result<_, value::Error> = Protocol::deserialize(lower.as_str().into_deserializer());
    read.map_err(|error| error.to_string())
}

fn namespace(text: &str) -> Result<String, String> {
    validate_namespace(text).map(|()| text.to_owned()).map_err(reason)
}

fn security_token(text: &str) -> Result<Option<String>, String> {
    validate_security_token(text).map(|()| Some(text.to_owned())).map_err(reason)
}

fn reason(error: Error) -> String {
    match error {
        Error::InvalidInput { reason, .. } => reason,
        error => error.to_string(),
    }
}

/// A source of environment variables whose names begin with `prefix`.
struct Environment<'a, R> {
    prefix: &'a str,
    read: R,
}

impl<R: Fn(&str) -> Result<String, VarError>> Environment<'_, R> {
    fn name(&self, variable: &Variable) -> String {
        variable.name.replacen(PREFIX, self.prefix, 1)
    }

    /// An error that names the variable: in its field if the variable has its usual name, otherwise in its reason.
    fn invalid(&self, variable: &Variable, reason: impl Into<String>) -> Error {
        if self.prefix == PREFIX {
            return Error::invalid(variable.name, reason);
        }
        Error::invalid(variable.key, format!("{}: {}", self.name(variable), reason.into()))
    }

    /// Makes `error` name the variable of `key` if the error is about that setting.
    fn about(&self, error: Error, key: &'static str) -> Error {
        match error {
            Error::InvalidInput { field, reason } if field == key => self.invalid(variable(key), reason),
            other => other,
        }
    }

    /// `None` if the variable is not set or empty.
    fn text(&self, variable: &Variable) -> Result<Option<String>, Error> {
        match (self.read)(&self.name(variable)) {
            Ok(text) => Ok(Some(text).filter(|text| !text.is_empty())),
            Err(VarError::NotPresent) => Ok(None),
            Err(VarError::NotUnicode(_)) => Err(self.invalid(variable, "is not UTF-8")),
        }
    }

    fn is_set(&self, key: &str) -> Result<bool, Error> {
        self.text(variable(key)).map(|text| text.is_some())
    }

    fn override_in(&self, mut config: Config) -> Result<Config, Error> {
        for variable in VARIABLES {
            if let Some(text) = self.text(variable)? {
                (variable.set)(&mut config, &text).map_err(|reason| self.invalid(variable, reason))?;
            }
        }
        // Servers from the environment together with an endpoint from a file would contradict each other.
        let (servers, endpoint) = (self.is_set("servers")?, self.is_set("endpoint")?);
        match (servers, endpoint) {
            (true, false) => config.endpoint = None,
            (false, true) => config.servers.clear(),
            _ => {}
        }
        if servers {
            config.addresses().map_err(|error| self.about(error, "servers"))?;
        }
        if endpoint {
            config.endpoint_address().map_err(|error| self.about(error, "endpoint"))?;
        }
        self.check_pair(("username", &config.username), ("password", &config.password))?;
        self.check_pair(("access_key", &config.access_key), ("secret_key", &config.secret_key))?;
        Ok(config)
    }

    /// Checks that two settings are given together.
    fn check_pair(&self, one: (&str, &Option<String>), other: (&str, &Option<String>)) -> Result<(), Error> {
        let (missing, given) = match (one.1, other.1) {
            (Some(_), None) => (other.0, one.0),
            (None, Some(_)) => (one.0, other.0),
            _ => return Ok(()),
        };
        Err(self.invalid(variable(missing), format!("is not set, but {} is", self.name(variable(given)))))
    }
}

fn variable(key: &str) -> &'static Variable {
    VARIABLES.iter().find(|variable| variable.key == key).unwrap_or(&VARIABLES[0])
}

impl Config {
    /// Creates a configuration from the environment variables in the [table](Config#in-a-configuration-file).
    ///
    /// One of `NACOS_SERVER_ADDR`, `NACOS_ENDPOINT` and `NACOS_DISABLED=true` is required. An empty variable counts as
    /// not set. Setters that are called on the result replace what the environment gave.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] with the name of the variable as its field.
    ///
    /// ```no_run
    /// # use actix_nacos::{Config, Registry};
    /// // NACOS_SERVER_ADDR=nacos:8848 NACOS_NAMESPACE=staging
    /// let registry = Registry::start(Config::from_env()?)?;
    /// # Ok::<(), actix_nacos::Error>(())
    /// ```
    pub fn from_env() -> Result<Self, Error> {
        Self::from_variables(|name| std::env::var(name))
    }

    fn from_variables(read: impl Fn(&str) -> Result<String, VarError>) -> Result<Self, Error> {
        let config = Environment { prefix: PREFIX, read }.override_in(Config::default())?;
        if config.servers.is_empty() && config.endpoint.is_none() && !config.disabled {
            return Err(Error::invalid("NACOS_SERVER_ADDR", "is not set; set it to host:port of a Nacos server"));
        }
        config.validate().map(|()| config)
    }

    /// Replaces settings by the environment variables in the [table](Config#in-a-configuration-file).
    ///
    /// No variable is required, and an empty variable counts as not set. Servers from the environment replace an
    /// endpoint in `self`, and an endpoint from the environment replaces servers.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] with the name of the variable as its field.
    ///
    /// ```
    /// # use actix_nacos::Config;
    /// // The file has what all machines share, the environment what differs on this machine.
    /// let config: Config = serde_json::from_str(r#"{"servers": "nacos:8848", "namespace": "staging"}"#).unwrap();
    /// let config = config.overridden_by_env()?; // NACOS_NAMESPACE=production
    /// # Ok::<(), actix_nacos::Error>(())
    /// ```
    pub fn overridden_by_env(self) -> Result<Self, Error> {
        self.overridden_by_env_with_prefix(PREFIX)
    }

    /// Replaces settings like [`overridden_by_env`](Config::overridden_by_env), by variables with `prefix` instead of
    /// `NACOS_`. The prefix `"ORDERS_NACOS_"` reads `ORDERS_NACOS_SERVER_ADDR` and so on.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] with the setting as its field and the name of the variable in its reason.
    ///
    /// ```
    /// # use actix_nacos::Config;
    /// // Two registries in one process, each with variables of its own.
    /// let orders = Config::new("nacos:8848").overridden_by_env_with_prefix("ORDERS_NACOS_")?;
    /// let billing = Config::new("nacos:8848").overridden_by_env_with_prefix("BILLING_NACOS_")?;
    /// # Ok::<(), actix_nacos::Error>(())
    /// ```
    pub fn overridden_by_env_with_prefix(self, prefix: &str) -> Result<Self, Error> {
        Environment { prefix, read: |name: &str| std::env::var(name) }.override_in(self)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Settings that are read and never written.
    const SECRETS: [&str; 3] = ["password", "secret_key", "security_token"];

    fn lookup<'a>(set: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Result<String, VarError> + 'a {
        |name| set.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string()).ok_or(VarError::NotPresent)
    }

    fn overridden(config: Config, prefix: &str, set: &[(&str, &str)]) -> Result<Config, Error> {
        Environment { prefix, read: lookup(set) }.override_in(config)
    }

    fn rejection<T: std::fmt::Debug>(outcome: Result<T, Error>) -> (&'static str, String) {
        match outcome {
            Err(Error::InvalidInput { field, reason }) => (field, reason),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn variables_are_read_and_checked() {
        let read = |set: &[(&str, &str)]| Config::from_variables(lookup(set));
        let config = read(&[
            ("NACOS_SERVER_ADDR", "a:1, b:2"),
            ("NACOS_NAMESPACE", "dev"),
            ("NACOS_USERNAME", "me"),
            ("NACOS_PASSWORD", "hush"),
        ])
        .unwrap();
        assert_eq!(config.servers, ["a:1", "b:2"]);
        assert_eq!((config.namespace_id(), config.username.as_deref()), ("dev", Some("me")));
        let field = |set: &[(&str, &str)]| rejection(read(set)).0;
        assert_eq!(field(&[]), "NACOS_SERVER_ADDR");
        assert_eq!(field(&[("NACOS_SERVER_ADDR", "a")]), "NACOS_SERVER_ADDR");
        assert_eq!(field(&[("NACOS_SERVER_ADDR", "a:1"), ("NACOS_NAMESPACE", "a b")]), "NACOS_NAMESPACE");
        assert_eq!(field(&[("NACOS_SERVER_ADDR", "a:1"), ("NACOS_USERNAME", "me")]), "NACOS_PASSWORD");
        assert_eq!(field(&[("NACOS_SERVER_ADDR", "a:1"), ("NACOS_PASSWORD", "hush")]), "NACOS_USERNAME");
        assert_eq!(field(&[("NACOS_SERVER_ADDR", "a:1"), ("NACOS_ACCESS_KEY", "id")]), "NACOS_SECRET_KEY");
        assert_eq!(field(&[("NACOS_SERVER_ADDR", "a:1"), ("NACOS_SECRET_KEY", "hush")]), "NACOS_ACCESS_KEY");
        assert!(
            read(&[("NACOS_ENDPOINT", "http://nacos/list")]).is_ok() && read(&[("NACOS_DISABLED", "true")]).is_ok()
        );
    }

    #[test]
    fn every_setting_has_a_variable() {
        let set = [
            ("NACOS_SERVER_ADDR", "a:1, b:2"),
            ("NACOS_ENDPOINT", "http://nacos/list"),
            ("NACOS_ENDPOINT_INTERVAL", "1m"),
            ("NACOS_CONTEXT_PATH", "/"),
            ("NACOS_NAMESPACE", "dev"),
            ("NACOS_USERNAME", "me"),
            ("NACOS_PASSWORD", "hush-1"),
            ("NACOS_ACCESS_KEY", "id"),
            ("NACOS_SECRET_KEY", "hush-2"),
            ("NACOS_SECURITY_TOKEN", "hush-3"),
            ("NACOS_SIGNATURE_REGION", "cn-hangzhou"),
            ("NACOS_PROTOCOL", "V3"),
            ("NACOS_DISABLED", "True"),
            ("NACOS_REQUEST_TIMEOUT", "500ms"),
            ("NACOS_OPERATION_TIMEOUT", "5s"),
            ("NACOS_SHUTDOWN_TIMEOUT", "6s"),
            ("NACOS_MAX_CONNECTIONS", "7"),
            ("NACOS_MAILBOX_CAPACITY", "8"),
            ("NACOS_MIN_POLL_INTERVAL", "2s"),
            ("NACOS_MAX_POLL_INTERVAL", "3s"),
            ("NACOS_PROTECT_FROM_EMPTY", "true"),
            ("NACOS_OUTAGE_HOLD", "0s"),
            ("NACOS_CACHE_DIR", "/var/cache/nacos"),
            ("NACOS_PUSH_ENABLED", "false"),
            ("NACOS_PUSH_BIND", "0.0.0.0:7848"),
            ("NACOS_PUSH_ADVERTISE_IP", "192.0.2.1"),
            ("NACOS_PUSH_ADVERTISE_PORT", "7849"),
            ("NACOS_PUSH_ANY_SOURCE", "true"),
            ("NACOS_PUSH_HINT_ONLY", "true"),
            ("NACOS_TLS_CA_FILE", "ca.pem"),
            ("NACOS_TLS_CLIENT_CERTIFICATE_FILE", "us.pem"),
            ("NACOS_TLS_CLIENT_KEY_FILE", "us.key"),
        ];
        assert_eq!(set.map(|(name, _)| name).to_vec(), VARIABLES.iter().map(|v| v.name).collect::<Vec<_>>());
        let config = overridden(Config::default(), PREFIX, &set).unwrap();
        let secrets = [&config.password, &config.secret_key, &config.security_token].map(Option::as_deref);
        assert_eq!(secrets, [Some("hush-1"), Some("hush-2"), Some("hush-3")]);
        let (given, default) = (flat(&config), flat(&Config::default()));
        for variable in VARIABLES.iter().filter(|variable| !SECRETS.contains(&variable.key)) {
            assert_ne!(given[variable.key], default[variable.key], "{} changes nothing", variable.name);
        }
        assert_eq!((given["servers"].as_str(), given["protocol"].as_str()), (r#"["a:1","b:2"]"#, r#""v3""#));
    }

    /// The settings by their keys in a file.
    fn flat(config: &Config) -> std::collections::BTreeMap<String, String> {
        let mut flat = std::collections::BTreeMap::new();
        let serde_json::Value::Object(settings) = serde_json::to_value(config).unwrap() else { panic!("no object") };
        for (key, value) in settings {
            match value {
                serde_json::Value::Object(group) => {
                    flat.extend(group.into_iter().map(|(name, value)| (format!("{key}.{name}"), value.to_string())));
                }
                value => drop(flat.insert(key, value.to_string())),
            }
        }
        flat
    }

    #[test]
    fn the_documented_table_has_every_key_and_its_variable() {
        let rows = include_str!("mod.rs").lines().filter_map(|line| line.strip_prefix("/// | `"));
        let documented: BTreeSet<_> = rows
            .map(|row| {
                let mut cells = row.split(" | ").map(|cell| cell.trim_matches('`'));
                (cells.next().unwrap(), cells.next().unwrap())
            })
            .collect();
        assert_eq!(documented, VARIABLES.iter().map(|variable| (variable.key, variable.name)).collect());
        let mut keys: BTreeSet<_> = flat(&Config::default()).into_keys().collect();
        keys.extend(SECRETS.map(str::to_owned));
        assert_eq!(keys, VARIABLES.iter().map(|variable| variable.key.to_owned()).collect());
    }

    #[test]
    fn the_environment_overrides_a_file_and_nothing_is_required() {
        let file = || Config::new("file:1").namespace("file").credentials("file", "hush");
        let untouched = overridden(file(), PREFIX, &[("NACOS_NAMESPACE", "")]).unwrap();
        assert_eq!(flat(&untouched), flat(&file()));
        let config = overridden(file(), PREFIX, &[("NACOS_SERVER_ADDR", "env:1"), ("NACOS_PASSWORD", "new")]).unwrap();
        assert_eq!((config.get_servers(), config.get_namespace()), (&["env:1".to_owned()][..], "file"));
        assert_eq!((config.get_username(), config.password.as_deref()), (Some("file"), Some("new")));
    }

    #[test]
    fn servers_and_an_endpoint_replace_each_other() {
        let with_endpoint =
            overridden(Config::new("file:1"), PREFIX, &[("NACOS_ENDPOINT", "http://env/list")]).unwrap();
        assert_eq!((with_endpoint.get_servers().len(), with_endpoint.get_endpoint()), (0, Some("http://env/list")));
        let file = Config::at_endpoint("http://file/list");
        let with_servers = overridden(file, PREFIX, &[("NACOS_SERVER_ADDR", "env:1")]).unwrap();
        assert_eq!((with_servers.get_servers().len(), with_servers.get_endpoint()), (1, None));
    }

    #[test]
    fn with_another_prefix_only_its_variables_are_read_and_named() {
        let set =
            [("ORDERS_NACOS_NAMESPACE", "dev"), ("NACOS_NAMESPACE", "other"), ("ORDERS_NACOS_MAX_CONNECTIONS", "9")];
        let config = overridden(Config::new("a:1"), "ORDERS_NACOS_", &set).unwrap();
        assert_eq!((config.get_namespace(), config.get_max_connections()), ("dev", 9));
        let (field, reason) = rejection(overridden(config, "X_", &[("X_REQUEST_TIMEOUT", "soon")]));
        assert_eq!(field, "request_timeout");
        assert!(reason.starts_with("X_REQUEST_TIMEOUT: "), "{reason}");
    }

    #[test]
    fn an_invalid_variable_is_named_in_the_error() {
        let bad = [
            ("NACOS_SERVER_ADDR", "nacos"),
            ("NACOS_ENDPOINT", "nacos/list"),
            ("NACOS_NAMESPACE", "a b"),
            ("NACOS_SECURITY_TOKEN", "a b"),
            ("NACOS_PROTOCOL", "v2"),
            ("NACOS_DISABLED", "maybe"),
            ("NACOS_REQUEST_TIMEOUT", "3"),
            ("NACOS_MAX_CONNECTIONS", "-1"),
            ("NACOS_PUSH_BIND", "7848"),
            ("NACOS_PUSH_ADVERTISE_PORT", "70000"),
        ];
        for (name, value) in bad {
            assert_eq!(rejection(overridden(Config::new("a:1"), PREFIX, &[(name, value)])).0, name, "{value}");
        }
        let read = |_: &str| Err(VarError::NotUnicode("?".into()));
        assert_eq!(
            rejection(Environment { prefix: PREFIX, read }.override_in(Config::default())).0,
            "NACOS_SERVER_ADDR"
        );
    }
}
