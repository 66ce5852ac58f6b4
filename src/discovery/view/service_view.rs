//! A view of one service's instances, which any thread can read.

use std::{
    fmt,
    ops::Deref,
    sync::{atomic::Ordering, Arc},
};

use arc_swap::Guard;

use super::{
    budget::Budget,
    choice::{Choice, Chosen},
    clock::Now,
    ejection::ServiceRecords,
    list::{List, SharedList},
    selection::Selection,
    source::ViewSource,
    timekeeper::Clock,
};
use crate::model::{
    instance::Instance,
    service::{ServiceInfo, ServiceName},
};

/// The current instances of a service. Reading takes nanoseconds and sends no message.
///
/// Cheap to clone, usable in any thread and under any runtime. The list behind all views of a service is the same one;
/// it is a cache, as old as the last push or poll. When the last view of a service is dropped and nobody listens to it,
/// the Registry stops watching the service. When the Registry ends, its views keep their last list and are
/// [stale](ServiceView::is_stale).
///
/// ```
/// use actix_nacos::{Instance, ServiceName, ServiceView};
///
/// // As `registry.send(Discover::new("orders"))` gives it; here with a list that stays as it is.
/// let view = ServiceView::fixed(ServiceName::parse("orders")?, [Instance::new("127.0.0.7", 8080)]);
/// if let Some(instance) = view.select_one() {
///     assert_eq!(instance.authority(), "127.0.0.7:8080");
/// }
/// # Ok::<(), actix_nacos::Error>(())
/// ```
///
/// # Which method do I need?
///
/// | to | call |
/// |---|---|
/// | call an instance and report the outcome | [`begin`](Self::begin) |
/// | call another instance after a failure | [`begin_excluding`](Self::begin_excluding) |
/// | call the same instance for the same key | [`begin_for`](Self::begin_for) |
/// | choose where no outcome can be reported | [`select_one`](Self::select_one) |
/// | look at all instances | [`instances`](Self::instances), [`info`](Self::info) |
/// | wait at the start | [`available_within`](Self::available_within), [`ready_within`](Self::ready_within) |
/// | follow changes without an actor | [`changed`](Self::changed), [`changes`](Self::changes), [`lists`](Self::lists) |
/// | choose differently for some calls | [`with`](Self::with) |
///
/// # How old can the list be?
///
/// Where the server pushes (Nacos up to 3.1, with UDP from the server to the client), a change shows after about a
/// second. Elsewhere it shows with the next poll, after 10 s at most by default. While no server answers, the list
/// stays and [`is_stale`](Self::is_stale) is true; calls should go on.
pub struct ServiceView {
    pub(super) shared: Arc<SharedList>,
    pub(super) source: Arc<ViewSource>,
    healthy_only: bool,
    /// The version of the list that `changed` returned for last.
    pub(super) seen: u64,
    /// `None` in a view with a fixed list, which never waits.
    pub(super) clock: Option<Clock>,
}

impl ServiceView {
    /// Creates a view of a list that never changes, for tests of code that takes a `ServiceView`. See
    /// [`controlled`](ServiceView::controlled) for a list that changes.
    ///
    /// It is ready, never stale, and [`changed`](ServiceView::changed) waits for ever.
    ///
    /// The instances are put in order, and may be chosen by every policy. Ejection works, too.
    pub fn fixed(service: ServiceName, instances: impl IntoIterator<Item = Instance>) -> Self {
        let info = ServiceInfo::new(service.clone(), instances);
        let source = ViewSource::new(service.clone(), String::new(), ServiceRecords::new(service, None));
        source.publish(Arc::new(info), false, |_| false);
        ServiceView::new(&source, &Selection::default(), false, None)
    }

    pub(super) fn new(
        source: &Arc<ViewSource>,
        selection: &Selection,
        healthy_only: bool,
        clock: Option<Clock>,
    ) -> Self {
        let shared = source.list_for(selection);
        source.readers.fetch_add(1, Ordering::Relaxed);
        ServiceView { seen: shared.version(), shared, source: source.clone(), healthy_only, clock }
    }

    /// Creates another view of the same service. `change` receives the [`Selection`] of this view and returns that of
    /// the new one.
    ///
    /// ```
    /// use actix_nacos::{Instance, ServiceName, ServiceView};
    ///
    /// let mut east = Instance::new("127.0.0.7", 8080);
    /// east.cluster_name = "EAST".into();
    /// let orders = ServiceView::fixed(ServiceName::parse("orders")?, [east, Instance::new("127.0.0.8", 8080)]);
    /// let local = orders.with(|selection| selection.prefer_cluster("EAST"));
    /// assert_eq!(local.begin()?.ip, "127.0.0.7");
    /// # Ok::<(), actix_nacos::Error>(())
    /// ```
    ///
    /// Cheap if a view with an equal selection exists; otherwise the list is filtered once, in the caller's thread.
    /// Keep the new view instead of making it for each call.
    #[must_use]
    pub fn with(&self, change: impl FnOnce(Selection) -> Selection) -> ServiceView {
        let selection = change(self.shared.selection.clone());
        ServiceView::new(&self.source, &selection, self.healthy_only, self.clock.clone())
    }

    /// The retries that all clients of the Registry may send to this service.
    pub(crate) fn retry_budget(&self) -> &Budget {
        &self.shared.records.retry_budget
    }

    #[cfg(test)]
    pub(crate) fn call_totals(&self) -> Option<super::ejection::CallTotals> {
        self.shared.records.call_totals()
    }

    /// The service that is viewed.
    ///
    /// With its group, which `Display` writes as `GROUP@@name`.
    pub fn service(&self) -> &ServiceName {
        &self.source.service
    }

    /// The clusters that are viewed, comma separated; empty for all.
    ///
    /// The clusters of [`Discover::clusters`](crate::Discover::clusters), which the server was asked for. Those of
    /// [`Selection::only_cluster`] are part of the [selection](Self::selection).
    pub fn clusters(&self) -> &str {
        &self.source.clusters
    }

    /// The filters and preferences of the view.
    pub fn selection(&self) -> &Selection {
        &self.shared.selection
    }

    /// The current instances, in order of cluster, ip and port; only the healthy ones if that was asked for.
    /// Empty before the first list has come.
    ///
    /// ```
    /// # use actix_nacos::{Instance, ServiceName, ServiceView};
    /// # let view = ServiceView::fixed(ServiceName::parse("orders")?, [Instance::new("127.0.0.7", 8080)]);
    /// for instance in view.instances().iter() {
    ///     println!("{}", instance.authority());
    /// }
    /// # Ok::<(), actix_nacos::Error>(())
    /// ```
    ///
    /// Contains also instances that cannot be called: unhealthy ones, those of weight 0, and ejected ones. Drop the
    /// result soon, because it keeps the whole list in memory.
    #[inline]
    pub fn instances(&self) -> Instances {
        Instances { list: self.shared.list.load(), healthy_only: self.healthy_only }
    }

    /// The instances that are withheld from removal: the server in use may have forgotten them, and has not listed them
    /// since. They are listed like the others, but not chosen once half of the callable instances are listed again. See
    /// [`Config::outage_hold`](crate::Config::outage_hold).
    ///
    /// ```
    /// # use actix_nacos::{Instance, ServiceName, ServiceView};
    /// # let orders = ServiceView::fixed(ServiceName::parse("orders")?, [Instance::new("127.0.0.7", 8080)]);
    /// if !orders.withheld().is_empty() {
    ///     println!("the registry has lost {} of {} instances", orders.withheld().len(), orders.instances().len());
    /// }
    /// # Ok::<(), actix_nacos::Error>(())
    /// ```
    pub fn withheld(&self) -> Vec<Arc<Instance>> {
        self.shared.list.load().withheld.clone()
    }

    /// The instances that are not chosen for a while because calls to them failed: see [`Eject`](crate::Eject).
    ///
    /// Takes a lock and allocates, unless nothing is ejected. It is meant for a status page, not for every call.
    pub fn ejected(&self) -> Vec<Arc<Instance>> {
        let records = &self.shared.records;
        if !records.any_ejected() {
            return Vec::new();
        }
        self.instances().iter().filter(|instance| records.is_ejected(instance)).cloned().collect()
    }

    /// The whole list from the server, without the instances that the view's filters leave out; only the healthy
    /// instances if that was asked for.
    ///
    /// Besides the instances it has what the server says of the list: `cache_millis`, `last_ref_time` and whether
    /// the protection threshold is reached.
    pub fn info(&self) -> Arc<ServiceInfo> {
        self.shared.list.load().of(self.healthy_only).clone()
    }

    /// Chooses one instance like [`begin`](ServiceView::begin), for calls whose outcome is not reported. By default it
    /// draws at random by the weights, among the instances that are healthy, enabled, of a weight above 0 and of a port
    /// other than 0. `None` if there is no such instance.
    ///
    /// Drop the guard after the call, because it keeps the whole list in memory. To keep the instance, use
    /// [`Selected::into_owned`].
    ///
    /// The policies that need to know calls, such as [`Policy::LeastLoaded`](crate::Policy::LeastLoaded), only know
    /// those of [`begin`](Self::begin). [`Policy::ConsistentHash`](crate::Policy::ConsistentHash) has no key here, so
    /// it draws at random.
    ///
    /// ```
    /// # use actix_nacos::{Instance, ServiceName, ServiceView};
    /// # let orders = ServiceView::fixed(ServiceName::parse("orders")?, [Instance::new("127.0.0.7", 8080)]);
    /// let address = orders.select_one().map(|instance| instance.authority()); // take what is needed, then await
    /// assert_eq!(address.as_deref(), Some("127.0.0.7:8080"));
    /// # Ok::<(), actix_nacos::Error>(())
    /// ```
    // Inlining saves a third of the time (`benches/view.rs`). When the compiler leaves it at a call, the processor waits
    // for the result: the callee writes its parts one by one, and the caller reads them in one piece.
    #[inline(always)]
    pub fn select_one(&self) -> Option<Selected> {
        // Draw before loading the guard, which is a fence: the other order takes 33 ns instead of 20.
        let random = fastrand::u64(..);
        let list = self.shared.list.load();
        let index =
            if list.is_plain() { list.first.table.pick(random)? } else { self.select_by_policy(&list, random)? };
        Some(Selected { list, index })
    }

    #[cold]
    fn select_by_policy(&self, list: &List, random: u64) -> Option<usize> {
        let shared = &*self.shared;
        let callable = list.callable(&self.shared);
        let choice = Choice { shared, list, callable, key: None, tried: &[], now: Now::default(), may_probe: false };
        choice.choose(random).map(|Chosen { place, .. }| place)
    }

    /// Whether the first list has come.
    ///
    /// Stays true from then on. A list from the disk cache counts, and is [stale](Self::is_stale).
    pub fn is_ready(&self) -> bool {
        self.shared.is_ready()
    }

    /// Whether the list may be out of date, because no server can be reached or the Registry has ended.
    ///
    /// A stale list is the best that is known: instances seldom change while the registry is down. Show it on a
    /// status page, and go on calling.
    pub fn is_stale(&self) -> bool {
        self.source.is_stale()
    }
}

/// A clone reads the same list and has the same selection. It counts as a view of its own for
/// [`SubscriptionStatus::views`](crate::SubscriptionStatus::views).
impl Clone for ServiceView {
    fn clone(&self) -> Self {
        self.source.readers.fetch_add(1, Ordering::Relaxed);
        ServiceView {
            shared: self.shared.clone(),
            source: self.source.clone(),
            healthy_only: self.healthy_only,
            seen: self.seen,
            clock: self.clock.clone(),
        }
    }
}

/// The last view that is dropped ends the polling of its list, if nobody has subscribed to it.
impl Drop for ServiceView {
    fn drop(&mut self) {
        if self.source.readers.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.source.last_reader_left.notify_waiters();
        }
    }
}

impl fmt::Debug for ServiceView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceView")
            .field("service", self.service())
            .field("clusters", &self.clusters())
            .field("healthy_only", &self.healthy_only)
            .field("selection", self.selection())
            .field("instances", &self.instances().len())
            .field("ready", &self.is_ready())
            .field("stale", &self.is_stale())
            .finish()
    }
}

/// The instances at one moment. Derefs to a slice. It borrows the list and copies nothing.
///
/// The slice is in order of cluster, ip and port, and does not change while it is borrowed. A later list needs
/// another call of [`ServiceView::instances`].
pub struct Instances {
    list: Guard<Arc<List>>,
    healthy_only: bool,
}

impl Deref for Instances {
    type Target = [Arc<Instance>];

    fn deref(&self) -> &Self::Target {
        &self.list.of(self.healthy_only).hosts
    }
}

impl fmt::Debug for Instances {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// The instance that [`ServiceView::select_one`] chose. Derefs to [`Instance`].
///
/// It borrows the whole list: keep it for the length of an expression.
pub struct Selected {
    list: Guard<Arc<List>>,
    index: usize,
}

impl Selected {
    /// Returns the instance alone, which does not keep the list in memory.
    pub fn into_owned(self) -> Arc<Instance> {
        self.list.all.hosts[self.index].clone()
    }
}

impl Deref for Selected {
    type Target = Instance;

    #[inline]
    fn deref(&self) -> &Instance {
        &self.list.all.hosts[self.index]
    }
}

impl fmt::Debug for Selected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
