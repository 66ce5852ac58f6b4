//! Lock-free reads of one service's list, and the weighted choice among its instances.
//!
//! One [`ViewWriter`], owned by the service's Subscriber, and any number of [`ServiceView`]s in any thread. A reader
//! borrows the present list from an [`ArcSwap`]: no lock, no allocation, and no reference count that threads would
//! contend for. What a choice needs is prepared when a list is published, not when it is read.

mod call;
mod controlled;
mod ejection;
mod policy;
mod selection;

use std::{
    cell::Cell,
    fmt,
    future::{poll_fn, Future},
    hint::select_unpredictable,
    ops::Deref,
    pin::pin,
    sync::{
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
        Arc,
    },
    task::Poll,
    time::Duration,
};

use actix_rt::time::sleep;
use arc_swap::{ArcSwap, Guard};
use futures_util::{
    future::{select, Either},
    stream::{FuturesUnordered, StreamExt},
};
use tokio::sync::{mpsc, oneshot, Notify};

pub(crate) use self::selection::selection_setters;
pub use self::{call::Call, controlled::ViewControl, ejection::Eject, policy::Policy, selection::Selection};
use crate::{
    error::{Error, Operation},
    model::{
        instance::Instance,
        service::{ServiceInfo, ServiceName},
    },
};

/// A service's instances, current without asking: reads take nanoseconds and no mailbox.
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
pub struct ServiceView {
    watched: Arc<Watched>,
    healthy_only: bool,
    /// The list that `changed` told of last.
    seen: u64,
    /// None in a view with a fixed list, which never waits.
    clock: Option<mpsc::WeakUnboundedSender<Deadline>>,
}

impl ServiceView {
    /// A view of a list that never changes, for tests of code that takes a `ServiceView`. See
    /// [`controlled`](ServiceView::controlled) for one that does.
    ///
    /// It is ready, never stale, and [`changed`](ServiceView::changed) waits for ever.
    pub fn fixed(service: ServiceName, instances: impl IntoIterator<Item = Instance>) -> Self {
        let info = ServiceInfo::new(service.clone(), instances);
        let watched = Watched::new(service, String::new());
        watched.publish(Arc::new(info), false, |_| false);
        watched.readers.fetch_add(1, Ordering::Relaxed);
        ServiceView { watched: Arc::new(watched), healthy_only: false, seen: 1, clock: None }
    }

    /// The service that is viewed.
    pub fn service(&self) -> &ServiceName {
        &self.watched.service
    }

    /// The clusters that are viewed, comma separated; empty for all.
    pub fn clusters(&self) -> &str {
        &self.watched.clusters
    }

    /// The instances as they are now, in order of cluster, ip and port; only the healthy ones if that was asked for.
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
    #[inline]
    pub fn instances(&self) -> Instances {
        Instances { list: self.watched.list.load(), healthy_only: self.healthy_only }
    }

    /// The instances that are withheld from removal: the server in use may have forgotten them, and has not listed them
    /// since. They are listed like the others, and not chosen once half of the instances are there again. See
    /// [`Config::outage_hold`](crate::Config::outage_hold).
    pub fn withheld(&self) -> Vec<Arc<Instance>> {
        self.watched.list.load().withheld.clone()
    }

    /// The whole list as the server told it; only the healthy instances if that was asked for.
    pub fn info(&self) -> Arc<ServiceInfo> {
        self.watched.list.load().of(self.healthy_only).clone()
    }

    /// One instance to call: by chance in proportion to the weights, among those that are healthy, enabled, of a weight
    /// above 0 and of a port other than 0. None if there is none.
    ///
    /// Keep the guard for the call at hand and not longer; to keep the instance, take [`Selected::into_owned`].
    // Inlined into the caller's crate it takes a third less (`benches/view.rs`).
    #[inline]
    pub fn select_one(&self) -> Option<Selected> {
        // Drawn first: loading the guard is a fence, behind which the draw would add to the wait (33 ns, not 20).
        let random = fastrand::u64(..);
        let list = self.watched.list.load();
        let index = list.choice.pick(random)?;
        Some(Selected { list, index })
    }

    /// Waits until the first list has come.
    ///
    /// # Errors
    /// [`Error::Stopped`] if the Registry has ended before.
    pub async fn ready(&self) -> Result<(), Error> {
        self.watched.until(|watched| watched.is_ready().then_some(())).await
    }

    /// Waits until the first list has come, but not longer than `limit`. The time is kept in the Registry's thread:
    /// the caller needs no timer of its own.
    ///
    /// # Errors
    /// [`Error::Timeout`] after `limit`; [`Error::Stopped`] if the Registry has ended before.
    pub async fn ready_within(&self, limit: Duration) -> Result<(), Error> {
        if self.is_ready() {
            return Ok(());
        }
        let (over_tx, over_rx) = oneshot::channel();
        let clock = self.clock.as_ref().and_then(mpsc::WeakUnboundedSender::upgrade).ok_or(Error::Stopped)?;
        clock.send(Deadline { limit, over_tx }).map_err(|_| Error::Stopped)?;
        // Held any longer, it would hide the writer's end from the clock.
        drop(clock);
        let ready = pin!(self.ready());
        match select(ready, over_rx).await {
            Either::Left((ready, _)) => ready,
            // The writer's end drops the clock: whatever it was, `ready` knows by now.
            Either::Right((Err(_), ready)) => ready.await,
            Either::Right((Ok(()), _)) => {
                Err(Error::Timeout { operation: Operation::List, server: "the registry".into(), after: limit })
            }
        }
    }

    /// Waits until an instance can be called, but not longer than `limit`. The time is kept in the Registry's thread: the
    /// caller needs no timer of its own.
    ///
    /// # Errors
    /// [`Error::NoInstance`] after `limit`; [`Error::Stopped`] if the Registry has ended before.
    pub async fn available_within(&self, limit: Duration) -> Result<(), Error> {
        self.ready_within(limit).await
    }

    /// Another view of the same service, whose selection is changed by `change`. The list is the same one.
    #[must_use]
    pub fn with(&self, change: impl FnOnce(Selection) -> Selection) -> ServiceView {
        let _ = change;
        self.clone()
    }

    /// Waits for a list that this view has not told of yet. A view that was made before the first list tells of that
    /// one, a later view starts from what there is, and a clone from what its original has told. Several lists in
    /// between are told once. When it returns, [`is_stale`](ServiceView::is_stale) already speaks of the new list.
    ///
    /// # Errors
    /// [`Error::Stopped`] once the Registry has ended: there will be no other list.
    pub async fn changed(&mut self) -> Result<(), Error> {
        let seen = self.seen;
        self.seen = self.watched.until(|watched| Some(watched.version()).filter(|version| *version != seen)).await?;
        Ok(())
    }

    /// Whether the first list has come.
    pub fn is_ready(&self) -> bool {
        self.watched.is_ready()
    }

    /// Whether the list may be out of date: no server can be asked at the moment, or the Registry has ended.
    pub fn is_stale(&self) -> bool {
        self.watched.stale.load(Ordering::Acquire) || self.watched.ended.load(Ordering::Acquire)
    }
}

impl Clone for ServiceView {
    fn clone(&self) -> Self {
        self.watched.readers.fetch_add(1, Ordering::Relaxed);
        ServiceView {
            watched: self.watched.clone(),
            healthy_only: self.healthy_only,
            seen: self.seen,
            clock: self.clock.clone(),
        }
    }
}

impl Drop for ServiceView {
    fn drop(&mut self) {
        if self.watched.readers.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.watched.last_reader_left.notify_waiters();
        }
    }
}

impl fmt::Debug for ServiceView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceView")
            .field("service", &self.watched.service)
            .field("clusters", &self.watched.clusters)
            .field("healthy_only", &self.healthy_only)
            .field("instances", &self.instances().len())
            .field("ready", &self.is_ready())
            .field("stale", &self.is_stale())
            .finish()
    }
}

/// The instances of one moment. Derefs to a slice; it borrows the list and copies nothing.
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
pub struct Selected {
    list: Guard<Arc<List>>,
    index: usize,
}

impl Selected {
    /// The instance to keep, apart from the list it was chosen from.
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

/// The only writer of one service's data, owned by its Subscriber. Dropped when the Registry ends: the views stay
/// readable, and are stale.
pub(crate) struct ViewWriter {
    watched: Arc<Watched>,
    clock_tx: mpsc::UnboundedSender<Deadline>,
    /// Until `keep_time` takes it.
    clock_rx: Cell<Option<mpsc::UnboundedReceiver<Deadline>>>,
}

impl ViewWriter {
    pub(crate) fn new(service: ServiceName, clusters: String) -> Self {
        let (clock_tx, clock_rx) = mpsc::unbounded_channel();
        let watched = Arc::new(Watched::new(service, clusters));
        ViewWriter { watched, clock_tx, clock_rx: Cell::new(Some(clock_rx)) }
    }

    /// Shows `info` to all views, which are stale or not from then on, and wakes their readers. The same list may be shown again
    /// when other instances of it are withheld from removal: that is no change.
    pub(crate) fn publish(&self, info: Arc<ServiceInfo>, stale: bool, is_withheld: impl Fn(&Arc<Instance>) -> bool) {
        self.watched.publish(info, stale, is_withheld);
    }

    pub(crate) fn set_stale(&self, stale: bool) {
        self.watched.stale.store(stale, Ordering::Release);
    }

    /// A new reader.
    pub(crate) fn view(&self, healthy_only: bool) -> ServiceView {
        self.watched.readers.fetch_add(1, Ordering::Relaxed);
        ServiceView {
            watched: self.watched.clone(),
            healthy_only,
            seen: self.watched.version(),
            clock: Some(self.clock_tx.downgrade()),
        }
    }

    /// How many views are alive, clones counted.
    pub(crate) fn readers(&self) -> usize {
        self.watched.readers.load(Ordering::Acquire)
    }

    /// Resolves when there is no reader; at once if there is none yet. A new reader may come afterwards: look again at
    /// [`readers`](ViewWriter::readers) before ending anything.
    pub(crate) fn abandoned(&self) -> impl Future<Output = ()> + 'static {
        let watched = self.watched.clone();
        async move {
            let no_reader = || watched.readers.load(Ordering::Acquire) == 0;
            wait(&watched.last_reader_left, || no_reader().then_some(())).await;
        }
    }

    /// Keeps the time for `ready_within` of all views. To be run once, in the Registry's thread; ends with the writer.
    pub(crate) fn keep_time(&self) -> impl Future<Output = ()> + 'static {
        let clock_rx = self.clock_rx.take();
        async move {
            let Some(mut clock_rx) = clock_rx else { return };
            let mut running = FuturesUnordered::new();
            poll_fn(|context| {
                while let Poll::Ready(deadline) = clock_rx.poll_recv(context) {
                    let Some(deadline) = deadline else { return Poll::Ready(()) };
                    running.push(deadline.run());
                }
                while let Poll::Ready(Some(())) = running.poll_next_unpin(context) {}
                Poll::Pending
            })
            .await;
        }
    }
}

impl Drop for ViewWriter {
    fn drop(&mut self) {
        self.watched.ended.store(true, Ordering::Release);
        self.watched.changed.notify_waiters();
    }
}

/// The end of one caller's patience.
#[derive(Debug)]
struct Deadline {
    limit: Duration,
    over_tx: oneshot::Sender<()>,
}

impl Deadline {
    /// Ends early when the caller waits no longer.
    async fn run(mut self) {
        let given_up = {
            let over = pin!(sleep(self.limit));
            let caller_left = pin!(self.over_tx.closed());
            matches!(select(over, caller_left).await, Either::Right(_))
        };
        if !given_up {
            let _ = self.over_tx.send(());
        }
    }
}

/// What writer and readers of one service share.
#[derive(Debug)]
struct Watched {
    service: ServiceName,
    clusters: String,
    list: Apart<ArcSwap<List>>,
    stale: AtomicBool,
    /// How many lists were published. Counted once a list and its staleness can be read: whoever sees the count sees both.
    version: AtomicU64,
    /// The writer is gone.
    ended: AtomicBool,
    readers: AtomicUsize,
    /// Notified of every list and of the writer's end.
    changed: Notify,
    last_reader_left: Notify,
}

/// On cache lines of its own: readers that come and go elsewhere must not slow down those who read here.
#[derive(Debug)]
#[repr(align(128))]
struct Apart<T>(T);

impl<T> Deref for Apart<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl Watched {
    fn new(service: ServiceName, clusters: String) -> Self {
        let nothing_yet = List::prepare(Arc::new(ServiceInfo::empty(&service, &clusters)), |_| false);
        Watched {
            service,
            clusters,
            list: Apart(ArcSwap::from_pointee(nothing_yet)),
            stale: AtomicBool::new(false),
            version: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            readers: AtomicUsize::new(0),
            changed: Notify::new(),
            last_reader_left: Notify::new(),
        }
    }

    /// First the list, then its staleness, then the wake-up: a reader that is woken finds both as they are now.
    fn publish(&self, info: Arc<ServiceInfo>, stale: bool, is_withheld: impl Fn(&Arc<Instance>) -> bool) {
        let is_change = self.version() == 0 || !Arc::ptr_eq(&self.list.load().all, &info);
        self.list.store(Arc::new(List::prepare(info, is_withheld)));
        self.stale.store(stale, Ordering::Release);
        self.version.fetch_add(u64::from(is_change), Ordering::Release);
        self.changed.notify_waiters();
    }

    fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    fn is_ready(&self) -> bool {
        self.version() > 0
    }

    /// Waits for what `look` finds, or for the writer's end.
    async fn until<T>(&self, look: impl Fn(&Self) -> Option<T>) -> Result<T, Error> {
        wait(&self.changed, || {
            // Read before the look, so that a list that came right before the end is seen.
            let ended = self.ended.load(Ordering::Acquire);
            look(self).map(Ok).or(ended.then_some(Err(Error::Stopped)))
        })
        .await
    }
}

/// Waits until `look` finds something, looking again whenever `bell` rings.
async fn wait<T>(bell: &Notify, look: impl Fn() -> Option<T>) -> T {
    loop {
        // Made before the look, it hears every ring since.
        let ring = bell.notified();
        if let Some(found) = look() {
            return found;
        }
        ring.await;
    }
}

/// One published list with all that readers need, prepared.
#[derive(Debug)]
struct List {
    all: Arc<ServiceInfo>,
    /// The same `Arc` where all are healthy.
    healthy: Arc<ServiceInfo>,
    /// Instances that are withheld from removal.
    withheld: Vec<Arc<Instance>>,
    choice: Choice,
}

impl List {
    fn prepare(info: Arc<ServiceInfo>, is_withheld: impl Fn(&Arc<Instance>) -> bool) -> Self {
        let healthy = if info.hosts.iter().all(|host| host.healthy) {
            info.clone()
        } else {
            let mut healthy = ServiceInfo::clone(&info);
            healthy.hosts.retain(|host| host.healthy);
            Arc::new(healthy)
        };
        let choice = Choice::prepare(&info.hosts, &is_withheld);
        let withheld = info.hosts.iter().filter(|host| is_withheld(host)).cloned().collect();
        List { all: info, healthy, withheld, choice }
    }

    fn of(&self, healthy_only: bool) -> &Arc<ServiceInfo> {
        if healthy_only {
            &self.healthy
        } else {
            &self.all
        }
    }
}

/// A weighted choice in constant time: Walker's alias table, built by Vose's method.
///
/// Every slot is drawn equally often and shared by at most two instances, so that each instance's shares add up to its
/// weight.
#[derive(Debug, Default)]
struct Choice {
    slots: Vec<Slot>,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    /// How much of the slot is `owner`'s, of 2^32.
    share: u32,
    /// Both are places in the list's hosts.
    owner: u32,
    /// Who has the rest.
    other: u32,
}

impl Choice {
    /// Withheld instances are left out once half of the callable ones are confirmed. Before, the first confirmed one would get
    /// all the calls.
    fn prepare(hosts: &[Arc<Instance>], is_withheld: impl Fn(&Arc<Instance>) -> bool) -> Self {
        // A list of more than u32::MAX instances fits in no memory.
        let callable = (0u32..).zip(hosts).filter(|(_, host)| host.takes_calls() && host.weight.is_finite());
        let (mut confirmed, withheld): (Vec<_>, Vec<_>) = callable.partition(|(_, host)| !is_withheld(host));
        if confirmed.len() < withheld.len() {
            confirmed.extend(withheld);
        }
        let owners = confirmed.into_iter();
        let (owners, weights): (Vec<u32>, Vec<f64>) = owners.map(|(place, host)| (place, host.weight)).unzip();
        let mut slots: Vec<Slot> = owners.iter().map(|&owner| Slot { share: u32::MAX, owner, other: owner }).collect();
        share_out(&mut slots, &relative(weights));
        Choice { slots }
    }

    /// The place of the instance that a uniformly distributed number stands for.
    #[inline]
    fn pick(&self, random: u64) -> Option<usize> {
        // Upper half of the product: the slot. Lower half: where in it, uniform again.
        let product = u128::from(random) * self.slots.len() as u128;
        let slot = self.slots.get((product >> 64) as usize)?;
        let within = (product as u64 >> 32) as u32;
        // A jump would be mispredicted as often as the draws are random.
        Some(select_unpredictable(within < slot.share, slot.owner, slot.other) as usize)
    }
}

/// Weights in units of their mean, without overflow on the way.
fn relative(mut weights: Vec<f64>) -> Vec<f64> {
    let largest = weights.iter().copied().fold(0.0, f64::max);
    weights.iter_mut().for_each(|weight| *weight /= largest);
    let mean = weights.iter().sum::<f64>() / weights.len() as f64;
    weights.iter_mut().for_each(|weight| *weight /= mean);
    weights
}

/// Fills up the slots of the light with what the heavy have over. What rounding leaves at the end owns its slot alone.
fn share_out(slots: &mut [Slot], weights: &[f64]) {
    let mut left = weights.to_vec();
    let (mut light, mut heavy): (Vec<usize>, Vec<usize>) = (0..left.len()).partition(|&place| left[place] < 1.0);
    while let (Some(small), Some(&large)) = (light.pop(), heavy.last()) {
        slots[small].share = (left[small] * 2f64.powi(32)) as u32;
        slots[small].other = slots[large].owner;
        left[large] -= 1.0 - left[small];
        if left[large] < 1.0 {
            heavy.pop();
            light.push(large);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{thread, time::Instant};

    use actix_rt::time::timeout;
    use fastrand::Rng;

    use super::*;
    use crate::runtime::blocking::block_on;

    fn service() -> ServiceName {
        ServiceName::parse("orders").unwrap()
    }

    /// One instance per weight, at ports 1, 2, and so on.
    fn instances(weights: &[f64]) -> Vec<Instance> {
        let with = |(port, weight): (u16, &f64)| Instance { weight: *weight, ..Instance::new("127.0.0.1", port) };
        (1..).zip(weights).map(with).collect()
    }

    fn list(weights: &[f64]) -> Arc<ServiceInfo> {
        let mut info = ServiceInfo::empty(&service(), "");
        info.hosts = instances(weights).into_iter().map(Arc::new).collect();
        Arc::new(info)
    }

    fn writer() -> ViewWriter {
        ViewWriter::new(service(), String::new())
    }

    fn tally(weights: &[f64], draws: u32, rng: &mut Rng) -> Vec<f64> {
        let choice = Choice::prepare(&list(weights).hosts, |_| false);
        let mut tally = vec![0.0; weights.len()];
        (0..draws).for_each(|_| tally[choice.pick(rng.u64(..)).unwrap()] += 1.0);
        tally
    }

    /// The sum that is about as large as its degrees of freedom if the draws follow the weights.
    fn chi_squared(weights: &[f64], tally: &[f64]) -> f64 {
        let (draws, total) = (tally.iter().sum::<f64>(), weights.iter().sum::<f64>());
        let expected = weights.iter().map(|weight| draws * weight / total);
        expected.zip(tally).filter(|(expected, _)| *expected > 0.0).map(|(e, seen)| (seen - e).powi(2) / e).sum()
    }

    /// 4 standard deviations above the mean: 1 in some 10,000 lists would be above by chance, and seeds are fixed.
    fn bound(weights: &[f64]) -> f64 {
        let freedom = weights.iter().filter(|weight| **weight > 0.0).count() as f64 - 1.0;
        freedom + 4.0 * (2.0 * freedom).sqrt() + 4.0
    }

    #[test]
    fn instances_are_chosen_in_proportion_to_their_weights() {
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        let lists: [&[f64]; 7] = [
            &[1.0, 2.0, 3.0],
            &[1.0; 10],
            &[0.0, 1.0, 0.0, 9.0],
            &[10_000.0, 1.0, 5_000.0],
            &[0.3, 0.3, 0.4],
            &[1e-3, 1e3, 1.0, 7.5],
            &hundred,
        ];
        for (seed, weights) in (1..).zip(lists) {
            let seen = tally(weights, 1_000_000, &mut Rng::with_seed(seed));
            let sum = chi_squared(weights, &seen);
            assert!(sum < bound(weights), "{weights:?}: {sum} >= {}", bound(weights));
        }
    }

    #[test]
    fn the_distribution_test_can_fail() {
        let seen = tally(&[1.0, 2.0, 3.0], 1_000_000, &mut Rng::with_seed(1));
        let slightly_off = [1.0, 2.0, 3.03];
        assert!(chi_squared(&slightly_off, &seen) > bound(&slightly_off));
    }

    #[test]
    fn a_view_draws_by_the_weights_too() {
        let weights = [1.0, 0.0, 2.0, 5.0];
        let view = ServiceView::fixed(service(), instances(&weights));
        let mut seen = [0.0; 4];
        (0..200_000).for_each(|_| seen[usize::from(view.select_one().unwrap().port) - 1] += 1.0);
        assert_eq!(seen[1], 0.0);
        // The thread's generator is seeded by chance, so the bound is generous: it fails once in millions of runs.
        assert!(chi_squared(&weights, &seen) < 40.0, "{seen:?}");
    }

    #[test]
    fn who_takes_no_calls_is_never_chosen() {
        let mut hosts = instances(&[0.0, 1.0, 1.0, f64::INFINITY, f64::NAN, 1.0, 1e-300, 1.0]);
        hosts[1].healthy = false;
        hosts[2].enabled = false;
        hosts[7].port = 0;
        let view = ServiceView::fixed(service(), hosts);
        for _ in 0..10_000 {
            assert_eq!(view.select_one().unwrap().port, 6);
        }
    }

    #[test]
    fn none_is_chosen_of_none() {
        let select = |weights: &[f64]| ServiceView::fixed(service(), instances(weights)).select_one();
        assert!(select(&[]).is_none());
        assert!(select(&[0.0, 0.0, 0.0]).is_none());
        assert_eq!(select(&[0.001]).unwrap().port, 1);
        assert_eq!(select(&[0.0, f64::MAX]).unwrap().into_owned().port, 2);
    }

    #[test]
    fn every_number_stands_for_somebody() {
        for weights in [&[1.0][..], &[1.0, 1.0], &[f64::MAX, f64::MAX, f64::MIN_POSITIVE], &[0.1; 1000]] {
            let choice = Choice::prepare(&list(weights).hosts, |_| false);
            for random in [0, 1, u64::MAX / 2, u64::MAX - 1, u64::MAX] {
                assert!(choice.pick(random).is_some_and(|place| place < weights.len()));
            }
        }
    }

    #[test]
    fn a_healthy_view_leaves_the_others_out() {
        let mut info = ServiceInfo::clone(&list(&[1.0, 1.0]));
        Arc::make_mut(&mut info.hosts[0]).healthy = false;
        let writer = writer();
        writer.publish(Arc::new(info), false, |_| false);
        let (all, healthy) = (writer.view(false), writer.view(true));
        assert_eq!((all.instances().len(), healthy.instances().len()), (2, 1));
        assert_eq!((all.info().hosts.len(), healthy.info().hosts.len()), (2, 1));
        assert_eq!(healthy.clone().instances()[0].port, 2);
        writer.publish(list(&[1.0, 1.0]), false, |_| false);
        assert!(Arc::ptr_eq(&all.info(), &healthy.info()));
    }

    #[test]
    fn a_snapshot_stays_while_the_list_goes_on() {
        let writer = writer();
        let view = writer.view(false);
        writer.publish(list(&[1.0]), false, |_| false);
        let (before, chosen) = (view.instances(), view.select_one().unwrap());
        writer.publish(list(&[0.0, 0.0]), false, |_| false);
        assert_eq!((before.len(), chosen.port, view.instances().len()), (1, 1, 2));
        assert!(view.select_one().is_none());
    }

    #[test]
    fn many_guards_may_be_held_at_once() {
        let writer = writer();
        let view = writer.view(false);
        let mut held = Vec::new();
        for length in 1..=50 {
            writer.publish(list(&vec![1.0; length]), false, |_| false);
            held.push((view.instances(), view.select_one().unwrap()));
        }
        for (length, (instances, chosen)) in (1..).zip(&held) {
            assert!(instances.len() == length && usize::from(chosen.port) <= length);
        }
    }

    #[test]
    fn views_and_guards_go_into_any_thread() {
        fn sendable<T: Send + Sync>(value: T) -> T {
            value
        }
        fn sendable_future(future: impl Future + Send) {
            drop(future);
        }
        let mut view = sendable(ServiceView::fixed(service(), instances(&[1.0])));
        sendable(view.instances());
        sendable(view.select_one());
        sendable_future(view.ready());
        sendable_future(view.ready_within(Duration::ZERO));
        sendable_future(view.changed());
    }

    #[actix::test]
    async fn not_ready_is_not_empty() {
        let writer = writer();
        let view = writer.view(false);
        assert!(!view.is_ready() && view.instances().is_empty() && view.select_one().is_none());
        assert!(timeout(Duration::from_millis(1), view.ready()).await.is_err());
        let waiting = actix_rt::spawn({
            let view = view.clone();
            async move { view.ready().await }
        });
        writer.publish(list(&[]), false, |_| false);
        assert_eq!(waiting.await.unwrap(), Ok(()));
        assert!(view.is_ready() && view.instances().is_empty());
        assert_eq!(view.ready_within(Duration::ZERO).await, Ok(()));
    }

    #[actix::test]
    async fn waiting_ends_with_the_writer() {
        let writer = writer();
        let mut view = writer.view(false);
        actix_rt::spawn(writer.keep_time());
        let waiting = actix_rt::spawn({
            let view = view.clone();
            async move { view.ready_within(Duration::from_secs(60)).await }
        });
        actix_rt::task::yield_now().await;
        drop(writer);
        assert_eq!(waiting.await.unwrap(), Err(Error::Stopped));
        assert_eq!(view.ready().await, Err(Error::Stopped));
        assert_eq!(view.ready_within(Duration::ZERO).await, Err(Error::Stopped));
        assert_eq!(view.changed().await, Err(Error::Stopped));
        assert!(view.is_stale());
    }

    #[actix::test]
    async fn a_view_outlives_its_writer_and_says_so() {
        let writer = writer();
        let mut view = writer.view(false);
        writer.publish(list(&[1.0]), false, |_| false);
        assert!(!view.is_stale());
        writer.set_stale(true);
        assert!(view.is_stale());
        writer.set_stale(false);
        assert!(!view.is_stale());
        drop(writer);
        assert!(view.is_stale());
        assert_eq!(view.select_one().unwrap().port, 1);
        assert_eq!(view.ready().await, Ok(()));
        assert_eq!(view.changed().await, Ok(()), "the last list, not yet told");
        assert_eq!(view.changed().await, Err(Error::Stopped));
    }

    #[actix::test]
    async fn the_writers_thread_keeps_the_time_of_a_caller_without_runtime() {
        let writer = writer();
        actix_rt::spawn(writer.keep_time());
        let view = writer.view(false);
        let (done_tx, done_rx) = oneshot::channel();
        let limit = Duration::from_millis(20);
        let caller = thread::spawn(move || {
            let before = Instant::now();
            let result = block_on(view.ready_within(limit));
            let _ = done_tx.send((result, before.elapsed()));
        });
        let (result, waited) = done_rx.await.unwrap();
        caller.join().unwrap();
        assert!(matches!(result, Err(Error::Timeout { after, .. }) if after == limit), "{result:?}");
        assert!(waited >= limit);
    }

    #[actix::test]
    async fn time_is_kept_only_while_somebody_waits() {
        let writer = writer();
        let mut time = pin!(writer.keep_time());
        let view = writer.view(false);
        let mut gave_up = Box::pin(view.ready_within(Duration::from_secs(3600)));
        let poll = |future: &mut (dyn Future<Output = ()> + Unpin)| {
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            std::pin::Pin::new(future).poll(&mut context)
        };
        assert!(timeout(Duration::from_millis(1), &mut gave_up).await.is_err());
        assert!(poll(&mut time).is_pending());
        drop(gave_up);
        drop(writer);
        assert!(poll(&mut time).is_ready());
    }

    #[actix::test]
    async fn changed_tells_every_view_once_what_it_has_not_told_it() {
        let writer = writer();
        let mut early = writer.view(false);
        writer.publish(list(&[1.0]), false, |_| false);
        let mut late = writer.view(false);
        assert_eq!(early.changed().await, Ok(()));
        for view in [&mut early, &mut late] {
            assert!(timeout(Duration::from_millis(1), view.changed()).await.is_err());
        }
        let waiting = actix_rt::spawn(async move { (late.changed().await, late) });
        actix_rt::task::yield_now().await;
        writer.publish(list(&[1.0, 1.0]), false, |_| false);
        writer.publish(list(&[1.0, 1.0, 1.0]), false, |_| false);
        let (told, mut late) = waiting.await.unwrap();
        assert_eq!((told, late.instances().len()), (Ok(()), 3));
        assert!(timeout(Duration::from_millis(1), late.changed()).await.is_err());
        let mut cloned = early.clone();
        assert_eq!((early.changed().await, cloned.changed().await), (Ok(()), Ok(())));
    }

    #[actix::test]
    async fn the_last_reader_gone_abandons_the_writer() {
        let writer = writer();
        assert_eq!(writer.readers(), 0);
        writer.abandoned().await;
        let view = writer.view(false);
        let other = view.clone();
        assert_eq!(writer.readers(), 2);
        let abandoned = actix_rt::spawn(writer.abandoned());
        drop(view);
        actix_rt::task::yield_now().await;
        assert!(!abandoned.is_finished() && writer.readers() == 1);
        thread::spawn(move || drop(other)).join().unwrap();
        abandoned.await.unwrap();
        assert_eq!(writer.readers(), 0);
    }

    #[test]
    fn readers_see_whole_lists_while_they_are_replaced() {
        let writer = writer();
        writer.publish(list(&[1.0]), false, |_| false);
        let readers: Vec<_> = (0..2).map(|_| writer.view(false)).collect();
        let threads = readers.into_iter().map(|view| {
            thread::spawn(move || {
                let (mut reads, mut longest) = (0, 0);
                while !view.is_stale() {
                    let (instances, chosen) = (view.instances(), view.select_one().unwrap());
                    // Each list of n has the weight on the last of them alone.
                    assert_eq!(instances.iter().filter(|instance| instance.weight > 0.0).count(), 1);
                    assert_eq!((instances.last().unwrap().weight, chosen.weight), (1.0, 1.0));
                    assert!(usize::from(chosen.port) >= longest, "an older list after a newer one");
                    (reads, longest) = (reads + 1, usize::from(chosen.port));
                }
                reads
            })
        });
        let threads: Vec<_> = threads.collect();
        for length in 1..=500 {
            let mut weights = vec![0.0; length];
            weights[length - 1] = 1.0;
            writer.publish(list(&weights), false, |_| false);
            thread::sleep(Duration::from_micros(100));
        }
        drop(writer);
        for reads in threads.into_iter().map(|thread| thread.join().unwrap()) {
            assert!(reads > 100, "{reads} reads say little");
        }
    }

    #[actix::test]
    async fn a_fixed_view_is_ready_and_stays() {
        let mut view = ServiceView::fixed(service(), instances(&[1.0, 2.0]));
        assert!(view.is_ready() && !view.is_stale());
        assert_eq!((view.ready().await, view.service().name.as_str(), view.clusters()), (Ok(()), "orders", ""));
        assert!(timeout(Duration::from_millis(1), view.changed()).await.is_err());
        assert_eq!(view.instances().len(), 2);
    }

    #[test]
    fn withheld_instances_are_chosen_until_half_of_the_callable_ones_are_confirmed() {
        let info = list(&[1.0, 1.0, 1.0, 0.0]);
        let chosen = |withheld: &[u16]| {
            let choice = Choice::prepare(&info.hosts, |host| withheld.contains(&host.port));
            let mut rng = Rng::with_seed(7);
            let mut ports: Vec<_> = (0..1000).map(|_| info.hosts[choice.pick(rng.u64(..)).unwrap()].port).collect();
            ports.sort_unstable();
            ports.dedup();
            ports
        };
        assert_eq!(chosen(&[1, 2, 3]), [1, 2, 3]);
        assert_eq!(chosen(&[1, 2]), [1, 2, 3], "one of three is less than half");
        assert_eq!(chosen(&[1]), [2, 3]);
    }
}
