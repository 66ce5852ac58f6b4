//! What a message says about an instance's metadata: the same three setters everywhere.

use std::collections::BTreeMap;

use crate::model::instance::Metadata;

/// Keys that servers and clients act upon begin so.
const PRESERVED: &str = "preserved.";

/// Metadata as a message sets it.
pub(super) trait EditMetadata {
    fn put(&mut self, key: String, value: String);
    fn replace(&mut self, all: Metadata);
    fn discard(&mut self, key: String);
}

/// Of a message that states everything.
impl EditMetadata for Metadata {
    fn put(&mut self, key: String, value: String) {
        self.insert(key, value);
    }

    fn replace(&mut self, all: Metadata) {
        *self = all;
    }

    fn discard(&mut self, key: String) {
        self.remove(&key);
    }
}

/// Of a message that changes what there is.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct MetadataChange {
    /// Instead of what there is.
    all: Option<Metadata>,
    /// Afterwards: the new value, or none to remove the key.
    keys: BTreeMap<String, Option<String>>,
}

impl EditMetadata for MetadataChange {
    fn put(&mut self, key: String, value: String) {
        self.keys.insert(key, Some(value));
    }

    fn replace(&mut self, all: Metadata) {
        *self = MetadataChange { all: Some(all), keys: BTreeMap::new() };
    }

    fn discard(&mut self, key: String) {
        self.keys.insert(key, None);
    }
}

impl MetadataChange {
    /// Keys under `preserved.` are only removed by name: whoever replaces the others seldom knows of them, and without them
    /// the server would give the instance up earlier, or later.
    pub(super) fn apply_to(&self, metadata: &mut Metadata) {
        if let Some(all) = &self.all {
            metadata.retain(|key, _| key.starts_with(PRESERVED));
            metadata.extend(all.clone());
        }
        for (key, value) in &self.keys {
            match value {
                Some(value) => metadata.put(key.clone(), value.clone()),
                None => metadata.discard(key.clone()),
            }
        }
    }
}

/// The setters of every message that carries metadata in the named field.
macro_rules! metadata_setters {
    ($($field:ident).+, $all:literal) => {
        /// Sets one pair of its metadata. All keys and values together may have 64 KiB; Nacos 2.3 and later take 1,024
        /// characters by default.
        #[must_use]
        pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
            $crate::registry::metadata::EditMetadata::put(&mut self.$($field).+, key.into(), value.into());
            self
        }

        #[doc = $all]
        #[must_use]
        pub fn all_metadata<K: Into<String>, V: Into<String>>(
            mut self,
            pairs: impl IntoIterator<Item = (K, V)>,
        ) -> Self {
            let all = pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
            $crate::registry::metadata::EditMetadata::replace(&mut self.$($field).+, all);
            self
        }

        /// Removes one key from its metadata.
        #[must_use]
        pub fn without_metadata(mut self, key: impl Into<String>) -> Self {
            $crate::registry::metadata::EditMetadata::discard(&mut self.$($field).+, key.into());
            self
        }
    };
}

pub(super) use metadata_setters;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::instance::{HEART_BEAT_INTERVAL, IP_DELETE_TIMEOUT};

    fn metadata(pairs: &[(&str, &str)]) -> Metadata {
        pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
    }

    fn changed(change: impl FnOnce(&mut MetadataChange)) -> Metadata {
        let mut now = metadata(&[("a", "1"), ("b", "2"), (HEART_BEAT_INTERVAL, "700"), (IP_DELETE_TIMEOUT, "9000")]);
        let mut given = MetadataChange::default();
        change(&mut given);
        given.apply_to(&mut now);
        now
    }

    const KEPT: [(&str, &str); 2] = [(HEART_BEAT_INTERVAL, "700"), (IP_DELETE_TIMEOUT, "9000")];

    #[test]
    fn a_change_adds_removes_and_leaves_the_rest() {
        let now = changed(|change| {
            change.put("c".into(), "3".into());
            change.put("a".into(), "0".into());
            change.discard("b".into());
        });
        assert_eq!(now, metadata(&[&[("a", "0"), ("c", "3")], &KEPT[..]].concat()));
        assert_eq!(changed(|_| {}), metadata(&[&[("a", "1"), ("b", "2")], &KEPT[..]].concat()));
    }

    #[test]
    fn replacing_all_keeps_what_servers_act_upon_unless_it_is_named() {
        assert_eq!(
            changed(|change| change.replace(metadata(&[("c", "3")]))),
            metadata(&[&[("c", "3")], &KEPT[..]].concat())
        );
        let now = changed(|change| {
            change.put("forgotten".into(), "it was said before".into());
            change.replace(metadata(&[(HEART_BEAT_INTERVAL, "900")]));
            change.discard(IP_DELETE_TIMEOUT.into());
        });
        assert_eq!(now, metadata(&[(HEART_BEAT_INTERVAL, "900")]));
    }
}
