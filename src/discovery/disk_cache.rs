//! The last lists on disk, for a start while no server can be reached.
//!
//! One file a subscription, written whole beside its place and then moved there: a reader finds the old one or the new
//! one, never half of one. What cannot be read, is of another subscription or too old is no list.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use super::subscription::SubscriptionKey;
use crate::model::service::ServiceInfo;

/// An older list says more about the past than about where to call.
const OLDEST: Duration = Duration::from_secs(24 * 60 * 60);

/// File systems take names of 255 bytes.
const LONGEST_NAME: usize = 120;

/// The file of one subscription.
#[derive(Debug, Clone)]
pub(crate) struct CacheFile {
    path: PathBuf,
    /// What the list is of: a JSON array, since names and clusters may contain any separator. Stands in the file, since
    /// file names are cut.
    key: String,
}

#[derive(Serialize, Deserialize)]
struct Cached {
    key: String,
    saved: SystemTime,
    info: ServiceInfo,
}

impl CacheFile {
    pub(crate) fn new(folder: &Path, namespace: &str, watched: &SubscriptionKey) -> Self {
        let key = serde_json::json!([namespace, watched.service.to_string(), watched.clusters]).to_string();
        let readable = format!("{namespace}/{}/{}", watched.service, watched.clusters);
        let plain = |c: char| if c.is_ascii_alphanumeric() || "-._".contains(c) { c } else { '+' };
        let cut: String = readable.chars().map(plain).take(LONGEST_NAME).collect();
        CacheFile { path: folder.join(format!("{cut}-{:016x}.json", fingerprint(&key))), key }
    }

    /// # Errors
    /// Why there is no usable list; none that was ever saved is `NotFound`.
    pub(crate) fn load(&self) -> io::Result<ServiceInfo> {
        let bad = |reason: String| io::Error::new(io::ErrorKind::InvalidData, reason);
        let cached: Cached = serde_json::from_slice(&fs::read(&self.path)?).map_err(|error| bad(error.to_string()))?;
        if cached.key != self.key {
            return Err(bad(format!("is of {}", cached.key)));
        }
        match cached.saved.elapsed() {
            Ok(age) if age <= OLDEST => {}
            _ => return Err(bad("is too old, or of the future".into())),
        }
        let mut info = cached.info;
        let clusters = info.clusters.clone();
        info.tidy(&clusters, false);
        Ok(info)
    }

    pub(crate) fn save(&self, info: &ServiceInfo) -> io::Result<()> {
        let cached = Cached { key: self.key.clone(), saved: SystemTime::now(), info: info.clone() };
        let text = serde_json::to_vec(&cached)?;
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder)?;
        }
        // Of this write alone: several processes, and Registries of one, may share the folder.
        static WRITES: AtomicU64 = AtomicU64::new(0);
        let write = WRITES.fetch_add(1, Ordering::Relaxed);
        let beside = self.path.with_extension(format!("{}-{write}.tmp", std::process::id()));
        fs::write(&beside, text)?;
        fs::rename(&beside, &self.path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// FNV-1a: the same in every build, which std's hashers do not promise.
fn fingerprint(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{instance::Instance, service::ServiceName};

    fn folder(test: &str) -> PathBuf {
        std::env::temp_dir().join(format!("actix-nacos-cache-{test}-{}", std::process::id()))
    }

    fn watched(service: &str) -> SubscriptionKey {
        SubscriptionKey { service: ServiceName::parse(service).unwrap(), clusters: String::new() }
    }

    fn list() -> ServiceInfo {
        let mut info = ServiceInfo::empty(&ServiceName::parse("orders").unwrap(), "");
        info.hosts = vec![Arc::new(Instance::new("127.0.0.7", 80))];
        info
    }

    #[test]
    fn what_was_saved_is_loaded_and_nothing_lies_beside_it() {
        let folder = folder("saved");
        let file = CacheFile::new(&folder, "public", &watched("orders"));
        assert_eq!(file.load().unwrap_err().kind(), io::ErrorKind::NotFound);
        file.save(&list()).unwrap();
        file.save(&list()).unwrap();
        assert_eq!(file.load().unwrap(), list());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn bad_old_and_foreign_files_are_no_lists() {
        let folder = folder("bad");
        let file = CacheFile::new(&folder, "public", &watched("orders"));
        file.save(&list()).unwrap();
        let text = fs::read_to_string(file.path()).unwrap();
        for bad in ["", "{", &text[..text.len() / 2], &text.replace("public", "other"), &outdated(&text)] {
            fs::write(file.path(), bad).unwrap();
            assert_eq!(file.load().unwrap_err().kind(), io::ErrorKind::InvalidData, "{bad}");
        }
        fs::remove_dir_all(folder).unwrap();
    }

    fn outdated(text: &str) -> String {
        let mut cached: Cached = serde_json::from_str(text).unwrap();
        cached.saved -= OLDEST * 2;
        serde_json::to_string(&cached).unwrap()
    }

    #[test]
    fn long_and_similar_names_have_files_of_their_own() {
        let file = |service: &str| CacheFile::new(Path::new("/"), "public", &watched(service)).path;
        let (one, other) = (format!("{}a", "s".repeat(500)), format!("{}b", "s".repeat(500)));
        assert_ne!(file(&one), file(&other));
        assert_ne!(file("a:b"), file("a_b"));
        assert!(file(&one).file_name().unwrap().len() < 200);
    }

    #[test]
    fn no_name_leads_out_of_the_folder() {
        for service in
            ["../../etc/passwd", "..", "/etc/passwd", "a\\..\\b", "C:\\x", "order/api", "заказ", "~", ".", "@@@"]
        {
            let watched = SubscriptionKey {
                service: ServiceName { group: "..".into(), name: service.into() },
                clusters: "../a".into(),
            };
            let path = CacheFile::new(Path::new("/cache"), "..", &watched).path;
            assert_eq!(path.parent(), Some(Path::new("/cache")), "{path:?}");
            assert!(path.file_name().unwrap().to_str().unwrap().is_ascii(), "{path:?}");
        }
    }

    #[test]
    fn separators_in_names_make_no_two_subscriptions_one() {
        let key = |service: &str, clusters: &str| {
            let watched = SubscriptionKey { service: ServiceName::parse(service).unwrap(), clusters: clusters.into() };
            CacheFile::new(Path::new("/"), "public", &watched).key
        };
        assert_ne!(key("a/b", ""), key("a", "b/"));
        assert_ne!(key("a\",\"b", ""), key("a", "b\",\""));
    }
}
