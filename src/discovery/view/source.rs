//! The state that the writer and all views of one subscription share, and the publishing of lists.
//!
//! | type | one per | shared by |
//! |---|---|---|
//! | [`ViewSource`] | subscription | the writer and all views |
//! | [`SharedList`] | selection of a subscription | the views with this selection |
//! | [`ViewWriter`] | subscription | nobody: its Subscriber owns it |
//!
//! Lists are published in this order: store the list, store its staleness, raise the version, wake the readers. A
//! reader that sees the version therefore sees the rest. Locks are only taken to publish and to make views; readers
//! take none.

use std::{
    collections::HashSet,
    fmt,
    future::Future,
    ops::Deref,
    sync::{
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
        Arc, Mutex, MutexGuard, PoisonError, Weak,
    },
};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use super::{
    ejection::ServiceRecords,
    list::{List, Published},
    selection::Selection,
    waiting::{wait, Timekeeper},
    ServiceView,
};
use crate::{
    error::Error,
    model::{
        instance::Instance,
        service::{Difference, ServiceInfo, ServiceName},
    },
};

/// The shared state of one subscription's views.
///
/// It outlives the writer: views of an ended Registry keep reading.
pub(super) struct ViewSource {
    pub(super) service: ServiceName,
    pub(super) clusters: String,
    pub(super) records: Arc<ServiceRecords>,
    lists: Mutex<Lists>,
    pub(super) stale: AtomicBool,
    /// Whether the writer has ended.
    pub(super) ended: AtomicBool,
    /// The number of living views, including clones.
    pub(super) readers: AtomicUsize,
    pub(super) last_reader_left: Notify,
}

#[derive(Default)]
struct Lists {
    /// `None` before the first list.
    current: Option<Published>,
    /// The number of lists that were published.
    published: u64,
    /// One list for each selection that views have.
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
        records.add_source(&source);
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
                lists.shared.retain(|shared| shared.strong_count() > 0);
                let mut living = lists.shared.iter().filter_map(Weak::upgrade);
                if let Some(same) = living.find(|shared| shared.selection == *selection) {
                    return same;
                }
                (lists.current.clone(), lists.published)
            };
            // Filter without the lock: predicates of the application may be slow, and may create views.
            let new = Arc::new(SharedList::new(self.clone(), selection.clone(), current.as_ref()));
            let mut lists = self.lists();
            if lists.published == published {
                lists.shared.push(Arc::downgrade(&new));
                return new;
            }
        }
    }

    /// Stores the list, then its staleness, and then wakes the readers, so that a woken reader sees both.
    pub(super) fn publish(&self, info: Arc<ServiceInfo>, stale: bool, is_withheld: impl Fn(&Arc<Instance>) -> bool) {
        let withheld = info.hosts.iter().filter(|host| is_withheld(host)).map(|host| Arc::as_ptr(host) as usize);
        let published = Published { withheld: Arc::new(withheld.collect::<HashSet<_>>()), info };
        let (before, shared) = {
            let mut lists = self.lists();
            lists.published += 1;
            let before = lists.current.replace(published.clone());
            lists.shared.retain(|shared| shared.strong_count() > 0);
            (before, lists.shared.iter().filter_map(Weak::upgrade).collect::<Vec<_>>())
        };
        if let Some(before) = before.filter(|_| !stale) {
            self.records.left(&before.info.hosts, &published.info.hosts);
        }
        let changed: Vec<_> = shared.into_iter().map(|shared| (shared.replace(&published), shared)).collect();
        self.stale.store(stale, Ordering::Release);
        for (is_change, shared) in changed {
            shared.version.fetch_add(u64::from(is_change), Ordering::Release);
            shared.changed.notify_waiters();
        }
    }

    /// Says that no further list will come, and wakes everybody who waits for one.
    fn end(&self) {
        self.ended.store(true, Ordering::Release);
        let shared: Vec<_> = self.lists().shared.iter().filter_map(Weak::upgrade).collect();
        shared.iter().for_each(|shared| shared.changed.notify_waiters());
    }

    /// Whether the last poll failed, or the writer has ended.
    pub(super) fn is_stale(&self) -> bool {
        self.stale.load(Ordering::Acquire) || self.ended.load(Ordering::Acquire)
    }

    /// Whether the present list has this instance.
    pub(super) fn lists_instance(&self, instance: &Instance) -> bool {
        let current = self.lists().current.clone();
        current.is_some_and(|list| {
            list.info.hosts.binary_search_by(|host| host.key_in_service().cmp(&instance.key_in_service())).is_ok()
        })
    }

    /// How many instances the present list has.
    pub(super) fn listed(&self) -> usize {
        self.lists().current.as_ref().map_or(0, |list| list.info.hosts.len())
    }
}

impl fmt::Debug for ViewSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ViewSource").field("service", &self.service).finish_non_exhaustive()
    }
}

/// The list of all views with one selection.
///
/// `turns` begins at a random number, so that the processes of a deployment do not begin with the same instance.
#[derive(Debug)]
pub(super) struct SharedList {
    pub(super) list: Apart<ArcSwap<List>>,
    /// The turns of the policy `WeightedRoundRobin`.
    pub(super) turns: Apart<AtomicU64>,
    pub(super) records: Arc<ServiceRecords>,
    pub(super) selection: Selection,
    pub(super) source: Arc<ViewSource>,
    /// The number of lists that were published. It is increased after the list and its staleness are stored, so a
    /// reader that sees the number sees both.
    version: AtomicU64,
    /// Notified by every list and by the writer's end.
    changed: Notify,
}

/// A value on its own cache lines, so that writes to its neighbours do not slow down its readers.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Apart<T>(T);

impl<T> Deref for Apart<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0
    }
}

impl SharedList {
    fn new(source: Arc<ViewSource>, selection: Selection, current: Option<&Published>) -> Self {
        let list = match current {
            Some(current) => List::prepare(current, &selection, None),
            None => {
                let info = Arc::new(ServiceInfo::empty(&source.service, &source.clusters));
                List::prepare(&Published { info, withheld: Arc::default() }, &selection, None)
            }
        };
        SharedList {
            list: Apart(ArcSwap::from_pointee(list)),
            turns: Apart(AtomicU64::new(fastrand::u64(..1 << 32))),
            records: source.records.clone(),
            selection,
            source,
            version: AtomicU64::new(u64::from(current.is_some())),
            changed: Notify::new(),
        }
    }

    /// Replaces the list. Returns whether it differs for these views.
    fn replace(self: &Arc<Self>, published: &Published) -> bool {
        let before = self.list.load_full();
        let is_first = self.version() == 0;
        let list = List::prepare(published, &self.selection, Some(&*before).filter(|_| !is_first));
        let is_same = Arc::ptr_eq(&before.all, &list.all)
            || (!self.selection.shows_all() && Difference::between(&before.all.hosts, &list.all.hosts).is_empty());
        if before.prepared_targets().is_some() {
            list.targets(self);
        }
        self.list.store(Arc::new(list));
        is_first || !is_same
    }

    /// 0 before the first list.
    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    pub(super) fn is_ready(&self) -> bool {
        self.version() > 0
    }

    /// Waits until `look` finds something, or until the writer ends.
    pub(super) async fn until<T>(&self, look: impl Fn(&Self) -> Option<T>) -> Result<T, Error> {
        wait(&self.changed, || {
            // Read the flag before `look`, so that a list that arrived right before the end is seen.
            let ended = self.source.ended.load(Ordering::Acquire);
            look(self).map(Ok).or(ended.then_some(Err(Error::Stopped)))
        })
        .await
    }
}

/// The only writer of one subscription's lists, owned by its Subscriber. Dropped when the Registry ends: the views stay
/// readable, and are stale.
pub(crate) struct ViewWriter {
    source: Arc<ViewSource>,
    time: Timekeeper,
}

impl ViewWriter {
    pub(crate) fn new(service: ServiceName, clusters: String, records: Arc<ServiceRecords>) -> Self {
        ViewWriter { source: ViewSource::new(service, clusters, records), time: Timekeeper::new() }
    }

    /// Publishes `info` and whether it is stale to all views, and wakes their readers. Publishing the same list with
    /// other withheld instances is no change.
    pub(crate) fn publish(&self, info: Arc<ServiceInfo>, stale: bool, is_withheld: impl Fn(&Arc<Instance>) -> bool) {
        self.source.publish(info, stale, is_withheld);
    }

    /// Nobody is woken: staleness alone is no change of the list.
    pub(crate) fn set_stale(&self, stale: bool) {
        self.source.stale.store(stale, Ordering::Release);
    }

    /// Creates a view.
    pub(crate) fn view(&self, healthy_only: bool) -> ServiceView {
        ServiceView::new(self.source.list_for(&Selection::default()), healthy_only, Some(self.time.clock()))
    }

    /// The number of living views, including clones.
    pub(crate) fn readers(&self) -> usize {
        self.source.readers.load(Ordering::Acquire)
    }

    /// Resolves when there is no reader, at once if there is none yet. A new reader may come afterwards, so check
    /// [`readers`](ViewWriter::readers) before ending anything.
    pub(crate) fn abandoned(&self) -> impl Future<Output = ()> + 'static {
        let source = self.source.clone();
        async move {
            let no_reader = || source.readers.load(Ordering::Acquire) == 0;
            wait(&source.last_reader_left, || no_reader().then_some(())).await;
        }
    }

    /// Runs the timers of all waiting views. Run it once, in the Registry's thread. It ends with the writer.
    pub(crate) fn keep_time(&self) -> impl Future<Output = ()> + 'static {
        self.time.run()
    }

    pub(super) fn records(&self) -> &Arc<ServiceRecords> {
        &self.source.records
    }
}

impl Drop for ViewWriter {
    fn drop(&mut self) {
        self.source.end();
    }
}
