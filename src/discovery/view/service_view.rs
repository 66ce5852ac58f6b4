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
    clock::{coarse_millis, Now},
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
/// A view is cheap to clone, and works in any thread and under any runtime. All views of a service read the same list,
/// which is as old as the last push or poll. When the last view of a service is dropped and no actor has subscribed to
/// it, the Registry stops watching the service. When the Registry ends, its views keep their last list and are
/// [stale](ServiceView::is_stale).
///
/// ```
/// use actix_nacos::{Instance, ServiceName, ServiceView};
///
/// // `registry.send(Discover::new("orders"))` returns a view. This one has a list that never changes.
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
    /// The version of the list when `changed` returned last.
    pub(super) seen: u64,
    /// `None` in a view with a fixed list, which needs no timers.
    pub(super) clock: Option<Clock>,
}

impl ServiceView {
    /// Creates a view of a list that never changes, for tests of code that takes a `ServiceView`. See
    /// [`controlled`](ServiceView::controlled) for a list that changes.
    ///
    /// The view is ready and never stale, and [`changed`](ServiceView::changed) waits for ever. The instances are
    /// sorted. Policies and ejection work as in any other view.
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

    /// Creates another view of the same service. `change` receives the [`Selection`] of this view and returns the
    /// [`Selection`] of the new view.
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
    /// This is cheap if a view with an equal selection exists. Otherwise the list is filtered once, in the caller's
    /// thread. Keep the new view instead of making it for each call.
    #[must_use]
    pub fn with(&self, change: impl FnOnce(Selection) -> Selection) -> ServiceView {
        let selection = change(self.shared.selection.clone());
        ServiceView::new(&self.source, &selection, self.healthy_only, self.clock.clone())
    }

    /// The budget of retries that all clients of the Registry share for this service.
    pub(crate) fn retry_budget(&self) -> &Budget {
        &self.shared.records.retry_budget
    }

    #[cfg(test)]
    pub(crate) fn call_totals(&self) -> Option<super::ejection::CallTotals> {
        self.shared.records.call_totals()
    }

    /// The service, with its group. `Display` writes it as `GROUP@@name`.
    pub fn service(&self) -> &ServiceName {
        &self.source.service
    }

    /// The clusters of [`Discover::clusters`](crate::Discover::clusters), comma separated; empty for all. The server
    /// was asked for these. The clusters of [`Selection::only_cluster`] are part of the [selection](Self::selection).
    pub fn clusters(&self) -> &str {
        &self.source.clusters
    }

    /// The filters and preferences of the view.
    pub fn selection(&self) -> &Selection {
        &self.shared.selection
    }

    /// The current instances, in order of cluster, ip and port; only the healthy instances with
    /// [`Discover::healthy_only`](crate::Discover::healthy_only). Empty before the first list has arrived.
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
    /// The result also contains instances that cannot be called: unhealthy ones, those of weight 0, and ejected ones.
    /// Drop it soon, because it keeps the whole list in memory.
    #[inline]
    pub fn instances(&self) -> Instances {
        Instances { list: self.shared.list.load(), healthy_only: self.healthy_only }
    }

    /// The instances that are withheld from removal, because the server in use may have forgotten them. The list
    /// contains them. They are chosen only until half of the callable instances are confirmed: see
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

    /// The list with what the server says about it: `cache_millis`, `last_ref_time`, and whether the protection
    /// threshold is reached. Its instances are those of [`instances`](Self::instances).
    pub fn info(&self) -> Arc<ServiceInfo> {
        self.shared.list.load().of(self.healthy_only).clone()
    }

    /// Chooses one instance like [`begin`](ServiceView::begin), for calls whose outcome is not reported. By default it
    /// draws at random by the weights, among the instances that are healthy, enabled, of a weight above 0 and of a port
    /// other than 0. `None` if there is no such instance.
    ///
    /// Drop the result after the call, because it keeps the whole list in memory. To keep the instance, use
    /// [`Selected::into_owned`].
    ///
    /// [`Policy::LeastLoaded`](crate::Policy::LeastLoaded) counts only calls that began with [`begin`](Self::begin).
    /// [`Policy::ConsistentHash`](crate::Policy::ConsistentHash) has no key here, so it draws at random.
    ///
    /// ```
    /// # use actix_nacos::{Instance, ServiceName, ServiceView};
    /// # let orders = ServiceView::fixed(ServiceName::parse("orders")?, [Instance::new("127.0.0.7", 8080)]);
    /// let address = orders.select_one().map(|instance| instance.authority()); // take what is needed, then await
    /// assert_eq!(address.as_deref(), Some("127.0.0.7:8080"));
    /// # Ok::<(), actix_nacos::Error>(())
    /// ```
    // Inlining saves a third of the time (`benches/view.rs`). Without it the processor waits for the result, because
    // the callee writes the parts of the result one by one and the caller reads them in one piece.
    #[inline(always)]
    pub fn select_one(&self) -> Option<Selected> {
        // Draw before loading the guard, which is a fence: the other order takes 33 ns instead of 20.
        let random = fastrand::u64(..);
        let list = self.shared.list.load();
        let place =
            if list.is_plain() { list.first.table.pick(random)? } else { self.select_by_policy(&list, random)? };
        Some(Selected { list, place })
    }

    #[cold]
    fn select_by_policy(&self, list: &List, random: u64) -> Option<usize> {
        let shared = &*self.shared;
        let callable = list.callable(&self.shared);
        let (now, millis) = (Now::default(), coarse_millis());
        let choice = Choice { shared, list, callable, key: None, tried: &[], now, millis, may_probe: false };
        choice.choose(random).map(|Chosen { place, .. }| place)
    }

    /// Whether the first list has arrived. A list from the disk cache counts, and is [stale](Self::is_stale).
    pub fn is_ready(&self) -> bool {
        self.shared.is_ready()
    }

    /// Whether the list may be out of date, because no server can be reached or the Registry has ended.
    ///
    /// Continue to call instances of a stale list: they seldom change while the registry is down.
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

/// Dropping the last view ends the polling of its list, if no actor has subscribed to it.
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
/// Drop it soon, because it keeps the whole list in memory. To keep the instance, use [`into_owned`](Self::into_owned).
pub struct Selected {
    list: Guard<Arc<List>>,
    place: usize,
}

impl Selected {
    /// Returns the instance without the list.
    pub fn into_owned(self) -> Arc<Instance> {
        self.list.instances[self.place].clone()
    }
}

impl Deref for Selected {
    type Target = Instance;

    #[inline]
    fn deref(&self) -> &Instance {
        &self.list.instances[self.place]
    }
}

impl fmt::Debug for Selected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
