//! The values of an instance in messages: setters that several messages have, and values that change an instance.
//!
//! Registering starts from the defaults and sets all values; modifying changes some and leaves the rest. Both have
//! the same setters, so the macro writes them once, for a field of either type.

use std::collections::BTreeMap;

use smol_str::SmolStr;

use crate::model::instance::{Instance, Metadata};

/// Prefix of the metadata keys that servers and clients act upon.
const PRESERVED: &str = "preserved.";

/// Writes the named setters, each with the given documentation, for a message with a field `values`: an [`Instance`] or
/// a [`ValuesChange`].
macro_rules! value_setters {
    ($($(#[$doc:meta])+ $setter:ident;)+) => { $(value_setters!(@ $(#[$doc])+ $setter);)+ };
    (@ $(#[$doc:meta])+ weight) => {
        $(#[$doc])+
        #[must_use]
        pub fn weight(mut self, weight: f64) -> Self {
            self.values.weight = weight.into();
            self
        }
    };
    (@ $(#[$doc:meta])+ enabled) => {
        $(#[$doc])+
        #[must_use]
        pub fn enabled(mut self, enabled: bool) -> Self {
            self.values.enabled = enabled.into();
            self
        }
    };
    (@ $(#[$doc:meta])+ ephemeral) => {
        $(#[$doc])+
        #[must_use]
        pub fn ephemeral(mut self, ephemeral: bool) -> Self {
            self.values.ephemeral = ephemeral;
            self
        }
    };
    (@ $(#[$doc:meta])+ metadata) => {
        $(#[$doc])+
        #[must_use]
        pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
            self.values.metadata.insert(key.into().into(), value.into().into());
            self
        }
    };
    (@ $(#[$doc:meta])+ all_metadata) => {
        $(#[$doc])+
        #[must_use]
        pub fn all_metadata<K: Into<String>, V: Into<String>>(
            mut self,
            pairs: impl IntoIterator<Item = (K, V)>,
        ) -> Self {
            let all = pairs.into_iter().map(|(key, value)| (key.into(), value.into()));
            self.values.metadata = all.collect::<$crate::model::instance::Metadata>().into();
            self
        }
    };
    (@ $(#[$doc:meta])+ without_metadata) => {
        $(#[$doc])+
        #[must_use]
        pub fn without_metadata(mut self, key: impl Into<String>) -> Self {
            self.values.metadata.remove(key.into().as_str());
            self
        }
    };
}

pub(super) use value_setters;

/// The values that a registration or a beat starts from: the values of a known instance, otherwise the defaults. The id
/// of the instance is left out, because it was assigned by a server.
pub(super) fn initial_values(known: Option<Instance>) -> Instance {
    let values = known.unwrap_or_else(|| Instance::new("", 0));
    Instance { instance_id: SmolStr::default(), ..values }
}

/// Changes to the values of an instance. What is not given stays as it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct ValuesChange {
    pub(super) weight: Option<f64>,
    pub(super) enabled: Option<bool>,
    pub(super) metadata: MetadataChange,
}

impl ValuesChange {
    pub(super) fn apply_to(&self, instance: &Instance) -> Instance {
        let mut changed = instance.clone();
        changed.weight = self.weight.unwrap_or(changed.weight);
        changed.enabled = self.enabled.unwrap_or(changed.enabled);
        self.metadata.apply_to(&mut changed.metadata);
        changed
    }
}

/// Changes to the metadata of an instance. Has the methods of a map that `value_setters` calls.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct MetadataChange {
    /// Replaces the current metadata, except the keys under [`PRESERVED`].
    all: Option<Metadata>,
    /// Applied afterwards: the new value of each key, or `None` to remove the key.
    keys: BTreeMap<SmolStr, Option<SmolStr>>,
}

/// Replaces all metadata.
impl From<Metadata> for MetadataChange {
    fn from(all: Metadata) -> Self {
        MetadataChange { all: Some(all), keys: BTreeMap::new() }
    }
}

impl MetadataChange {
    pub(super) fn insert(&mut self, key: SmolStr, value: SmolStr) {
        self.keys.insert(key, Some(value));
    }

    pub(super) fn remove(&mut self, key: &str) {
        self.keys.insert(key.into(), None);
    }

    /// Keys under [`PRESERVED`] are removed only by name. A caller that replaces all metadata seldom knows them, and
    /// without them the server would change the timeouts of the instance.
    fn apply_to(&self, metadata: &mut Metadata) {
        if let Some(all) = &self.all {
            metadata.retain(|key, _| key.starts_with(PRESERVED));
            metadata.extend(all.clone());
        }
        for (key, value) in &self.keys {
            match value {
                Some(value) => metadata.insert(key.clone(), value.clone()),
                None => metadata.remove(key),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::instance::{HEART_BEAT_INTERVAL, IP_DELETE_TIMEOUT};

    fn metadata(pairs: &[(&str, &str)]) -> Metadata {
        pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
    }

    fn changed(edit: impl FnOnce(&mut MetadataChange)) -> Metadata {
        let mut now = metadata(&[("a", "1"), ("b", "2"), (HEART_BEAT_INTERVAL, "700"), (IP_DELETE_TIMEOUT, "9000")]);
        let mut given = MetadataChange::default();
        edit(&mut given);
        given.apply_to(&mut now);
        now
    }

    const KEPT: [(&str, &str); 2] = [(HEART_BEAT_INTERVAL, "700"), (IP_DELETE_TIMEOUT, "9000")];

    #[test]
    fn a_change_adds_removes_and_leaves_the_rest() {
        let now = changed(|change| {
            change.insert("c".into(), "3".into());
            change.insert("a".into(), "0".into());
            change.remove("b");
        });
        assert_eq!(now, metadata(&[&[("a", "0"), ("c", "3")], &KEPT[..]].concat()));
        assert_eq!(changed(|_| {}), metadata(&[&[("a", "1"), ("b", "2")], &KEPT[..]].concat()));
    }

    #[test]
    fn replacing_all_metadata_keeps_preserved_keys_that_are_not_named() {
        assert_eq!(
            changed(|change| *change = metadata(&[("c", "3")]).into()),
            metadata(&[&[("c", "3")], &KEPT[..]].concat())
        );
        let now = changed(|change| {
            change.insert("forgotten".into(), "set before all was replaced".into());
            *change = metadata(&[(HEART_BEAT_INTERVAL, "900")]).into();
            change.remove(IP_DELETE_TIMEOUT);
        });
        assert_eq!(now, metadata(&[(HEART_BEAT_INTERVAL, "900")]));
    }
}
