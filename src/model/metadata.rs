//! The key-value pairs of an instance.

use std::{
    collections::{btree_map, BTreeMap},
    fmt,
    hash::{Hash, Hasher},
    ops::{Deref, DerefMut},
    sync::Arc,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use smol_str::SmolStr;

/// Key-value pairs that belong to an instance. This crate allows at most 64 KiB over all keys and values.
///
/// Nacos 2.3 and later reject more than 1,024 characters unless configured otherwise.
///
/// The keys under `preserved.` belong to Nacos: [`HEART_BEAT_INTERVAL`](crate::HEART_BEAT_INTERVAL),
/// [`HEART_BEAT_TIMEOUT`](crate::HEART_BEAT_TIMEOUT) and [`IP_DELETE_TIMEOUT`](crate::IP_DELETE_TIMEOUT). All clients
/// of a service receive the metadata of all instances with every list, so keep it short.
///
/// It is a [`BTreeMap`], to which it dereferences, behind a shared pointer. A clone shares the pairs until one of the
/// two is changed, so instances with equal metadata need the memory only once.
///
/// ```
/// use actix_nacos::{Instance, Metadata};
///
/// let mut instance = Instance::new("127.0.0.7", 8080);
/// instance.metadata.insert("zone".into(), "a".into());
/// let other = instance.clone();
/// instance.metadata.insert("version".into(), "2".into());
/// assert_eq!(instance.metadata, Metadata::from([("version", "2"), ("zone", "a")]));
/// assert_eq!((other.metadata.get("zone").map(|zone| zone.as_str()), other.metadata.len()), (Some("a"), 1));
/// ```
#[derive(Clone, Default)]
pub struct Metadata(Option<Arc<Pairs>>);

type Pairs = BTreeMap<SmolStr, SmolStr>;

static EMPTY: Pairs = BTreeMap::new();

impl Metadata {
    /// Creates empty metadata.
    pub const fn new() -> Self {
        Metadata(None)
    }
}

impl Deref for Metadata {
    type Target = BTreeMap<SmolStr, SmolStr>;

    fn deref(&self) -> &Self::Target {
        self.0.as_deref().unwrap_or(&EMPTY)
    }
}

/// Copies the pairs first if a clone shares them.
impl DerefMut for Metadata {
    fn deref_mut(&mut self) -> &mut Self::Target {
        Arc::make_mut(self.0.get_or_insert_default())
    }
}

/// Metadata that shares its pairs is equal without a comparison.
impl PartialEq for Metadata {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq::<Pairs>(&**self, &**other) || **self == **other
    }
}

impl Eq for Metadata {}

impl Hash for Metadata {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl Serialize for Metadata {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (**self).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Pairs::deserialize(deserializer).map(Metadata::from_iter)
    }
}

impl<K: Into<SmolStr>, V: Into<SmolStr>> FromIterator<(K, V)> for Metadata {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let pairs: Pairs = pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        Metadata((!pairs.is_empty()).then(|| Arc::new(pairs)))
    }
}

impl<K: Into<SmolStr>, V: Into<SmolStr>> Extend<(K, V)> for Metadata {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, pairs: I) {
        (**self).extend(pairs.into_iter().map(|(key, value)| (key.into(), value.into())));
    }
}

impl<K: Into<SmolStr>, V: Into<SmolStr>, const N: usize> From<[(K, V); N]> for Metadata {
    fn from(pairs: [(K, V); N]) -> Self {
        pairs.into_iter().collect()
    }
}

impl<K: Into<SmolStr>, V: Into<SmolStr>> From<BTreeMap<K, V>> for Metadata {
    fn from(pairs: BTreeMap<K, V>) -> Self {
        pairs.into_iter().collect()
    }
}

impl IntoIterator for Metadata {
    type Item = (SmolStr, SmolStr);
    type IntoIter = btree_map::IntoIter<SmolStr, SmolStr>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.map(Arc::unwrap_or_clone).unwrap_or_default().into_iter()
    }
}

impl<'a> IntoIterator for &'a Metadata {
    type Item = (&'a SmolStr, &'a SmolStr);
    type IntoIter = btree_map::Iter<'a, SmolStr, SmolStr>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_shares_the_pairs_until_it_is_changed() {
        let one = Metadata::from([("zone", "a")]);
        let mut other = one.clone();
        assert!(std::ptr::eq::<Pairs>(&*one, &*other));
        other.insert("zone".into(), "b".into());
        assert_eq!((one["zone"].as_str(), other["zone"].as_str()), ("a", "b"));
    }

    #[test]
    fn metadata_is_written_and_compared_like_a_map() {
        let mut emptied = Metadata::from([("zone".to_owned(), String::from("a"))]);
        assert_eq!(serde_json::to_string(&emptied).unwrap(), r#"{"zone":"a"}"#);
        assert_eq!(serde_json::from_str::<Metadata>(r#"{"zone":"a"}"#).unwrap(), emptied);
        assert_eq!(emptied.remove("zone").as_deref(), Some("a"));
        assert_eq!(emptied, Metadata::new());
        assert_eq!((serde_json::to_string(&emptied).unwrap(), format!("{emptied:?}")), ("{}".into(), "{}".into()));
    }
}
