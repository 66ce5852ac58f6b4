//! Keeps the last lists on disk, for a start while no server can be reached.
//!
//! Each subscription has a file. It is written under another name and then renamed, so a reader never finds an
//! incomplete file. A file that is malformed, too old or of another subscription is ignored.
//!
//! The format is private: JSON with the key, the time and the list. A file of another version that cannot be read
//! is ignored like any other unusable one. Deleting the folder is always safe.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use super::subscription::SubscriptionKey;
use crate::model::service::ServiceInfo;

/// Older files are ignored, because their instances may be long gone.
const MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// The readable part of a file name, in bytes. File systems allow names of 255 bytes.
const MAX_READABLE_LENGTH: usize = 120;

/// The cache file of one subscription.
///
/// Several Registries may share a folder. The last one that writes a subscription's file wins; the lists are the
/// same.
#[derive(Debug, Clone)]
pub(crate) struct CacheFile {
    path: PathBuf,
    /// Namespace, service and clusters as a JSON array, because names may contain any separator. The file contains the
    /// key too, because the file name is cut.
    key: String,
}

/// The content of a file.
#[derive(Serialize, Deserialize)]
struct Cached {
    key: String,
    saved: SystemTime,
    info: ServiceInfo,
}

impl CacheFile {
    /// The name begins with readable text, for people who look into the folder. The hash distinguishes files
    /// whose readable texts are equal.
    pub(crate) fn new(folder: &Path, namespace: &str, subscription: &SubscriptionKey) -> Self {
        let key = serde_json::json!([namespace, subscription.service.to_string(), subscription.clusters]).to_string();
        let readable = format!("{namespace}/{}/{}", subscription.service, subscription.clusters);
        let plain = |c: char| if c.is_ascii_alphanumeric() || "-._".contains(c) { c } else { '+' };
        let cut: String = readable.chars().map(plain).take(MAX_READABLE_LENGTH).collect();
        CacheFile { path: folder.join(format!("{cut}-{:016x}.json", fingerprint(&key))), key }
    }

    /// Reads the list.
    ///
    /// # Errors
    /// `NotFound` if nothing was saved; `InvalidData` if the file is unusable; any other error of the file system.
    pub(crate) fn load(&self) -> io::Result<ServiceInfo> {
        read(&fs::read(&self.path)?, &self.key).map_err(|reason| io::Error::new(io::ErrorKind::InvalidData, reason))
    }

    /// Writes the list, and creates the folder if it is missing.
    ///
    /// # Errors
    /// Any error of the file system.
    pub(crate) fn save(&self, info: &ServiceInfo) -> io::Result<()> {
        let cached = Cached { key: self.key.clone(), saved: SystemTime::now(), info: info.clone() };
        let text = serde_json::to_vec(&cached)?;
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder)?;
        }
        // Unique for each write: several processes, and several Registries of one process, may share the folder.
        static WRITES: AtomicU64 = AtomicU64::new(0);
        let write = WRITES.fetch_add(1, Ordering::Relaxed);
        let temporary = self.path.with_extension(format!("{}-{write}.tmp", std::process::id()));
        fs::write(&temporary, text)?;
        fs::rename(&temporary, &self.path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// Reads the list of the subscription `key` from the text of a file.
///
/// # Errors
/// The reason why the text is no usable list.
pub(crate) fn read(text: &[u8], key: &str) -> Result<ServiceInfo, String> {
    let cached: Cached = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if cached.key != key {
        return Err(format!("the list is of {}", cached.key));
    }
    match cached.saved.elapsed() {
        Ok(age) if age <= MAX_AGE => {}
        _ => return Err("the list is over a day old, or has a time in the future".into()),
    }
    let mut info = cached.info;
    let clusters = info.clusters.clone();
    info.tidy(&clusters, false);
    Ok(info)
}

/// FNV-1a. The hashers of std may give other values in another build, which would then not find its files.
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

    fn subscription(service: &str) -> SubscriptionKey {
        SubscriptionKey { service: ServiceName::parse(service).unwrap(), clusters: String::new() }
    }

    fn list() -> ServiceInfo {
        let mut info = ServiceInfo::empty(&ServiceName::parse("orders").unwrap(), "");
        info.hosts = vec![Arc::new(Instance::new("127.0.0.7", 80))];
        info
    }

    #[test]
    fn a_saved_list_is_loaded_and_no_other_file_is_left() {
        let folder = folder("saved");
        let file = CacheFile::new(&folder, "public", &subscription("orders"));
        assert_eq!(file.load().unwrap_err().kind(), io::ErrorKind::NotFound);
        file.save(&list()).unwrap();
        file.save(&list()).unwrap();
        assert_eq!(file.load().unwrap(), list());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn malformed_old_and_foreign_files_are_rejected() {
        let folder = folder("bad");
        let file = CacheFile::new(&folder, "public", &subscription("orders"));
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
        cached.saved -= MAX_AGE * 2;
        serde_json::to_string(&cached).unwrap()
    }

    #[test]
    fn long_and_similar_names_have_different_files() {
        let file = |service: &str| CacheFile::new(Path::new("/"), "public", &subscription(service)).path;
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
            let subscription = SubscriptionKey {
                service: ServiceName { group: "..".into(), name: service.into() },
                clusters: "../a".into(),
            };
            let path = CacheFile::new(Path::new("/cache"), "..", &subscription).path;
            assert_eq!(path.parent(), Some(Path::new("/cache")), "{path:?}");
            assert!(path.file_name().unwrap().to_str().unwrap().is_ascii(), "{path:?}");
        }
    }

    #[test]
    fn names_with_separators_have_different_keys() {
        let key = |service: &str, clusters: &str| {
            let subscription =
                SubscriptionKey { service: ServiceName::parse(service).unwrap(), clusters: clusters.into() };
            CacheFile::new(Path::new("/"), "public", &subscription).key
        };
        assert_ne!(key("a/b", ""), key("a", "b/"));
        assert_ne!(key("a\",\"b", ""), key("a", "b\",\""));
    }
}
