//! The state that the writer and all views of one subscription share.
//!
//! | type | one per | shared by |
//! |---|---|---|
//! | [`ViewSource`] | subscription | the writer and all views |
//! | [`SharedList`] | selection of a subscription | the views with this selection |
//! | `ViewWriter` | subscription | not shared: owned by the Subscriber |
//!
//! Lists are published in this order: store the list, store its staleness, raise the version, wake the readers. A
//! reader that sees the version therefore sees the list and its staleness. Readers take no lock.

use std::{
    collections::HashSet,
    fmt,
    sync::{
        atomic::{AtomicBool, AtomicUsize, Ordering},
        Arc, Mutex, MutexGuard, PoisonError, Weak,
    },
};

use tokio::sync::Notify;

use super::{
    ejection::{Listing, ServiceRecords},
    list::{Published, SharedList},
    selection::Selection,
};
use crate::model::{
    instance::Instance,
    service::{ServiceInfo, ServiceName},
};

/// The shared state of one subscription's views.
///
/// It outlives the writer: views of an ended Registry keep reading.
pub(super) struct ViewSource {
    pub(super) service: ServiceName,
    pub(super) clusters: String,
    pub(super) records: Arc<ServiceRecords>,
    lists: Mutex<Lists>,
    stale: AtomicBool,
    /// Whether the writer has ended.
    ended: AtomicBool,
    /// The number of living views, including clones.
    pub(super) readers: AtomicUsize,
    pub(super) last_reader_left: Notify,
}

#[derive(Default)]
struct Lists {
    /// `None` before the first list.
    current: Option<Published>,
    /// The last list that a server confirmed. `None` while `current` is confirmed.
    confirmed: Option<Arc<ServiceInfo>>,
    /// Whether `current` was stale when it was published, and no server has confirmed it since.
    is_unconfirmed: bool,
    /// The number of lists that were published.
    published: u64,
    /// The prepared lists, one for each selection that views have.
    shared: Vec<Weak<SharedList>>,
}

impl ViewSource {
    pub(super) fn new(service: ServiceName, clusters: String, records: Arc<ServiceRecords>) -> Arc<Self> {
        let source = Arc::new(ViewSource {
            service,
            clusters,
            records: records.clone(),
            lists: Mutex::default(),
            stale: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            readers: AtomicUsize::new(0),
            last_reader_left: Notify::new(),
        });
        let listing: Arc<dyn Listing> = source.clone();
        records.add_source(&listing);
        source
    }

    fn lists(&self) -> MutexGuard<'_, Lists> {
        // Nothing under the lock can panic, so a poisoned lock is still consistent.
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the list for this selection: the list of other views with the same selection, or a new one.
    pub(super) fn list_for(self: &Arc<Self>, selection: &Selection) -> Arc<SharedList> {
        loop {
            let (current, published) = {
                let mut lists = self.lists();
                if let Some(same) = lists.with_selection(selection) {
                    return same;
                }
                (lists.current.clone(), lists.published)
            };
            // Filter without the lock: predicates of the application may be slow, and may create views.
            let is_published = current.is_some();
            let current = current.unwrap_or_else(|| Published {
                info: Arc::new(ServiceInfo::empty(&self.service, &self.clusters)),
                withheld: Arc::default(),
            });
            let new = Arc::new(SharedList::new(self.records.clone(), selection.clone(), &current, is_published));
            let mut lists = self.lists();
            // Another thread may have added the same list meanwhile.
            if let Some(same) = lists.with_selection(selection) {
                return same;
            }
            if lists.published == published {
                lists.shared.push(Arc::downgrade(&new));
                drop(lists);
                new.look_for_ejections();
                return new;
            }
        }
    }

    /// Publishes a list, in the order that the module's documentation gives.
    pub(super) fn publish(&self, info: Arc<ServiceInfo>, stale: bool, is_withheld: impl Fn(&Arc<Instance>) -> bool) {
        let withheld = info.hosts.iter().filter(|host| is_withheld(host)).map(|host| Arc::as_ptr(host) as usize);
        let published = Published { withheld: Arc::new(withheld.collect::<HashSet<_>>()), info };
        let (before, confirmed, shared) = {
            let mut lists = self.lists();
            lists.published += 1;
            let before = lists.current.replace(published.clone()).map(|before| before.info);
            if !std::mem::replace(&mut lists.is_unconfirmed, stale) && stale {
                lists.confirmed.clone_from(&before);
            }
            let confirmed = if stale { None } else { lists.confirmed.take() };
            (before, confirmed, lists.living())
        };
        if !stale {
            for before in before.iter().chain(&confirmed) {
                self.records.left(&before.hosts, &published.info.hosts);
            }
        }
        let changed: Vec<_> = shared.into_iter().map(|shared| (shared.replace(&published), shared)).collect();
        self.stale.store(stale, Ordering::Release);
        changed.iter().for_each(|(is_change, shared)| shared.notify(*is_change));
    }

    /// Marks the end of the lists, and wakes all readers that wait for a list. Without readers, the instances of the
    /// list have left, unless another subscription lists them.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        if self.readers.load(Ordering::Acquire) == 0 {
            let last = self.lists().current.take();
            last.iter().for_each(|last| self.records.left(&last.info.hosts, &[]));
        }
        let shared = self.lists().living();
        shared.iter().for_each(|shared| shared.notify(false));
    }

    pub(super) fn set_stale(&self, stale: bool) {
        self.stale.store(stale, Ordering::Release);
        if !stale {
            self.confirm();
        }
    }

    /// Notes that a server has confirmed the current list. Instances that only the last confirmed list had have left.
    fn confirm(&self) {
        let mut lists = self.lists();
        lists.is_unconfirmed = false;
        let (Some(before), Some(current)) = (lists.confirmed.take(), lists.current.clone()) else { return };
        drop(lists);
        self.records.left(&before.hosts, &current.info.hosts);
    }

    /// Whether the last poll failed, or the writer has ended.
    pub(super) fn is_stale(&self) -> bool {
        self.stale.load(Ordering::Acquire) || self.has_ended()
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
}

impl Lists {
    /// The lists that views read.
    fn living(&mut self) -> Vec<Arc<SharedList>> {
        self.shared.retain(|shared| shared.strong_count() > 0);
        self.shared.iter().filter_map(Weak::upgrade).collect()
    }

    fn with_selection(&mut self, selection: &Selection) -> Option<Arc<SharedList>> {
        self.living().into_iter().find(|shared| shared.selection == *selection)
    }
}

impl Listing for ViewSource {
    fn lists_instance(&self, instance: &Instance) -> bool {
        let current = self.lists().current.clone();
        current.is_some_and(|list| {
            list.info.hosts.binary_search_by(|host| host.key_in_service().cmp(&instance.key_in_service())).is_ok()
        })
    }

    fn listed(&self) -> usize {
        self.lists().current.as_ref().map_or(0, |list| list.info.hosts.len())
    }

    fn note_ejections(&self, any_ejected: bool) {
        self.lists().shared.iter().filter_map(Weak::upgrade).for_each(|shared| shared.note_ejections(any_ejected));
    }
}

impl fmt::Debug for ViewSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ViewSource").field("service", &self.service).finish_non_exhaustive()
    }
}
