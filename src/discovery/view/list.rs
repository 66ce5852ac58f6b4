//! One published list, prepared for choices, and the [`SharedList`] from which views read it.
//!
//! [`List::prepare`] does the expensive part, in the writer's thread: filters, preferences, tables. A reader then
//! needs one random number and a look into a table.

use std::{
    array,
    collections::HashSet,
    ops::{Deref, Range},
    sync::{
        atomic::{self, AtomicBool, AtomicU64},
        Arc, OnceLock, Weak,
    },
};

use actix_rt::time::Instant;
use arc_swap::ArcSwap;
use tokio::sync::Notify;

use super::{
    alias_table::AliasTable,
    clock::Now,
    ejection::{walk, Called, ServiceRecords},
    hash_table::HashTable,
    policy::Policy,
    record::Record,
    selection::Selection,
};
use crate::model::{
    instance::Instance,
    service::{Difference, ServiceInfo},
};

/// The list of the subscription, before the filters of views.
#[derive(Debug, Clone)]
pub(super) struct Published {
    pub(super) info: Arc<ServiceInfo>,
    /// The withheld instances, by their address in memory. `info` keeps them alive.
    pub(super) withheld: Arc<HashSet<usize>>,
}

impl Published {
    fn is_withheld(&self, instance: &Arc<Instance>) -> bool {
        !self.withheld.is_empty() && self.withheld.contains(&(Arc::as_ptr(instance) as usize))
    }
}

/// The list that the views with one selection read.
///
/// Immutable, except for `is_plain`, and for `callable`, which the first call fills in. `select_one` does not need
/// `callable` while `is_plain` is true.
///
/// A *place* is an index into the instances that can be called: those of `first`, then those of `others`, each in order
/// of their weights, or in the order of the list for `Policy::WeightedRoundRobin`.
#[derive(Debug)]
pub(super) struct List {
    /// The instances that the filters accept.
    pub(super) all: Arc<ServiceInfo>,
    /// The healthy instances of `all`. The same `Arc` if all are healthy.
    healthy: Arc<ServiceInfo>,
    /// Instances that are withheld from removal.
    pub(super) withheld: Vec<Arc<Instance>>,
    /// The number of instances before the filters.
    pub(super) listed: usize,
    /// The instances to choose from: the preferred ones, or all if there is no preference.
    pub(super) first: Group,
    /// The instances to choose from when none of `first` can be called.
    pub(super) others: Group,
    /// The instances that can be called, by place. A choice reads only this array and the instance.
    pub(super) instances: Box<[Arc<Instance>]>,
    /// Whether a random draw from `first` is already the choice, as long as no instance is ejected.
    may_be_plain: bool,
    /// `may_be_plain`, and no instance is ejected. Kept here, because every choice reads this cache line.
    is_plain: AtomicBool,
    new: Option<NewInstances>,
    callable: OnceLock<Callables>,
}

/// A part of a list's callable instances.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) table: AliasTable,
    /// Only for `Policy::ConsistentHash`.
    pub(super) keys: Option<HashTable>,
}

/// The instances that were added after the view's first list.
#[derive(Debug)]
struct NewInstances {
    /// By the index of the host.
    since: Box<[Option<Instant>]>,
    /// The index of the host, by place.
    hosts: Box<[u32]>,
    /// When the newest instance has warmed up. `None` if none is warming up.
    until: Option<Instant>,
}

/// What calls need of the instances that can be called, by place.
#[derive(Debug)]
pub(super) struct Callables {
    blocks: Box<[Arc<Block>]>,
    len: usize,
}

/// What calls need of the instances at neighbouring places. It is the part of a list that a call keeps in memory. The
/// call does not keep the list, because it may last much longer.
///
/// The instances share one reference count, so that the counts of all instances of a list stay in the processor's
/// cache.
#[derive(Debug)]
pub(super) struct Block {
    /// The last block of a list repeats its last instance.
    callable: [Callable; BLOCK],
    /// Only failed calls and probes need these. A call that outlives the views of its service must not keep them.
    pub(super) records: Weak<ServiceRecords>,
    /// Only failed and dropped calls need the list, for its settings.
    pub(super) list: Weak<SharedList>,
}

/// Up to this number of instances, a table with a slot for each of them stays in the processor's cache.
const SMALL: usize = 256;

/// How many instances a block has. Larger ones save a few ns at 10,000 instances, but then all calls of a small service
/// would write one reference count, and a call would keep more instances in memory.
const BLOCK: usize = 4;

/// What calls need of an instance. A choice reads only this and the record, so that it waits for few cache lines.
#[derive(Debug)]
pub(super) struct Callable {
    pub(super) record: Arc<Record>,
    pub(super) instance: Arc<Instance>,
    /// The instance's weight in units of the mean over all callable instances.
    pub(super) share: f32,
}

impl Callables {
    #[inline]
    pub(super) fn block(&self, place: usize) -> &Arc<Block> {
        &self.blocks[place / BLOCK]
    }

    #[inline]
    pub(super) fn at(&self, place: usize) -> &Callable {
        self.block(place).at(place)
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Callable> {
        (0..self.len).map(|place| self.at(place))
    }
}

impl Block {
    /// `place` must be in this block.
    #[inline]
    pub(super) fn at(&self, place: usize) -> &Callable {
        &self.callable[place % BLOCK]
    }
}

impl Callable {
    pub(super) fn called(&self) -> Called<'_> {
        Called { instance: &self.instance, record: &self.record }
    }
}

impl List {
    /// Prepares a list. `before` is the list that it replaces, `None` for the first one.
    pub(super) fn prepare(published: &Published, selection: &Selection, before: Option<&List>) -> Self {
        let all = filtered(&published.info, selection.shows_all(), |host| selection.shows(host));
        let healthy = filtered(&all, all.hosts.iter().all(|host| host.healthy), |host| host.healthy);
        let mut first = confirmed(&all.hosts, |host| published.is_withheld(host));
        let mut others = Vec::new();
        if !selection.prefer.is_empty() {
            let is_preferred = |host: &u32| selection.prefer.matches(&all.hosts[*host as usize]);
            let (preferred, rest): (Vec<_>, Vec<_>) = first.iter().copied().partition(is_preferred);
            if !preferred.is_empty() {
                (first, others) = (preferred, rest);
            }
        }
        // A weight is finite and above 0 here, so its bits are in the order of the weights.
        let weight = |host: &u32| all.hosts[*host as usize].weight.to_bits();
        // Turns follow the order of the list, because neighbours in memory are read faster one after the other.
        if selection.policy != Policy::WeightedRoundRobin {
            first.sort_by_cached_key(weight);
            others.sort_by_cached_key(weight);
        }
        let hosts: Box<[u32]> = first.iter().chain(&others).copied().collect();
        let instances: Box<[_]> = hosts.iter().map(|host| all.hosts[*host as usize].clone()).collect();
        let new = (!selection.warm_up.is_zero()).then(|| NewInstances::find(&all.hosts, hosts, selection, before));
        let may_be_plain =
            selection.policy == Policy::WeightedRandom && new.as_ref().is_none_or(|new| new.until.is_none());
        List {
            first: Group::new(&instances, 0..first.len(), selection.policy),
            others: Group::new(&instances, first.len()..instances.len(), selection.policy),
            instances,
            withheld: all.hosts.iter().filter(|host| published.is_withheld(host)).cloned().collect(),
            listed: published.info.hosts.len(),
            all,
            healthy,
            may_be_plain,
            is_plain: AtomicBool::new(false),
            new,
            callable: OnceLock::new(),
        }
    }

    /// What a view shows: all instances, or the healthy ones.
    pub(super) fn of(&self, healthy_only: bool) -> &Arc<ServiceInfo> {
        if healthy_only {
            &self.healthy
        } else {
            &self.all
        }
    }

    #[inline]
    pub(super) fn is_plain(&self) -> bool {
        self.is_plain.load(atomic::Ordering::Acquire)
    }

    /// Whether a choice would find an instance.
    pub(super) fn can_be_called(&self) -> bool {
        !self.instances.is_empty()
    }

    /// What calls need of the instances, by place. It is prepared for the first call of a view, and from then on when a
    /// list is published.
    #[inline]
    pub(super) fn callable(&self, shared: &Arc<SharedList>) -> &Callables {
        self.callable.get_or_init(|| self.prepare_callable(shared))
    }

    #[cold]
    fn prepare_callable(&self, shared: &Arc<SharedList>) -> Callables {
        let (instances, len) = (&self.instances, self.instances.len());
        // Divide before summing, because the sum of large weights could be infinite.
        let mean: f64 = instances.iter().map(|instance| instance.weight / len as f64).sum();
        let records = shared.records.records(instances.iter());
        let callable = |place: usize| {
            let share = (instances[place].weight / mean).clamp(1e-9, 1e9) as f32;
            Callable { record: records[place].clone(), instance: instances[place].clone(), share }
        };
        let blocks = (0..len).step_by(BLOCK).map(|first| {
            let callable = array::from_fn(|within| callable((first + within).min(len - 1)));
            Arc::new(Block { callable, records: Arc::downgrade(&shared.records), list: Arc::downgrade(shared) })
        });
        Callables { blocks: blocks.collect(), len }
    }

    /// The part of its weight that a new instance gets, from 0.1 to 1. `None` if the instance is not new.
    pub(super) fn warmth(&self, place: usize, selection: &Selection, now: &Now) -> Option<f64> {
        let new = self.new.as_ref().filter(|new| new.until.is_some_and(|until| now.get() < until))?;
        let age = now.get().saturating_duration_since(new.since[new.hosts[place] as usize]?);
        let grown = age.as_secs_f64() / selection.warm_up.as_secs_f64();
        (grown < 1.0).then(|| grown.max(0.1))
    }
}

impl Group {
    fn new(instances: &[Arc<Instance>], places: Range<usize>, policy: Policy) -> Self {
        let weights: Vec<_> = instances[places.clone()].iter().map(|instance| instance.weight).collect();
        let by_key = policy == Policy::ConsistentHash;
        let keys = if by_key { HashTable::new(instances, places.clone()) } else { None };
        // Only runs take turns strictly.
        let in_runs = policy == Policy::WeightedRoundRobin || weights.len() > SMALL;
        Group { table: AliasTable::new(places.start, &weights, in_runs), keys }
    }
}

impl NewInstances {
    /// `by_place` has the index of the host of each place.
    fn find(hosts: &[Arc<Instance>], by_place: Box<[u32]>, selection: &Selection, before: Option<&List>) -> Self {
        let mut since = vec![None; hosts.len()].into_boxed_slice();
        let now = Instant::now();
        if let Some(before) = before {
            let known = before.new.as_ref();
            walk(&before.all.hosts, hosts, |old, new| match (old, new) {
                (Some(old), Some(new)) => since[new] = known.and_then(|known| known.since[old]),
                (None, Some(new)) => since[new] = Some(now),
                _ => {}
            });
        }
        let last = since.iter().flatten().max().map(|last| *last + selection.warm_up);
        NewInstances { since, hosts: by_place, until: last.filter(|until| *until > now) }
    }
}

/// Filters a list. Returns the same `Arc` if everything is kept.
fn filtered(info: &Arc<ServiceInfo>, keeps_all: bool, keep: impl Fn(&Instance) -> bool) -> Arc<ServiceInfo> {
    if keeps_all {
        return info.clone();
    }
    let mut kept = ServiceInfo::clone(info);
    kept.hosts.retain(|host| keep(host));
    Arc::new(kept)
}

/// The indices of the callable instances. Withheld instances are left out once half of the callable ones are confirmed.
/// If they were left out earlier, the first confirmed instance would get all the calls.
///
/// An instance takes calls if it is enabled, healthy, of a weight above 0 and of a port other than 0.
fn confirmed(hosts: &[Arc<Instance>], is_withheld: impl Fn(&Arc<Instance>) -> bool) -> Vec<u32> {
    // A list of more than u32::MAX instances does not fit in memory.
    let callable = (0u32..).zip(hosts).filter(|(_, host)| host.takes_calls() && host.weight.is_finite());
    let (mut confirmed, withheld): (Vec<_>, Vec<_>) = callable.partition(|(_, host)| !is_withheld(host));
    if confirmed.len() < withheld.len() {
        confirmed.extend(withheld);
    }
    confirmed.into_iter().map(|(index, _)| index).collect()
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
    /// The number of lists that were a change for these views. It is increased after the list is stored: see `source`.
    version: AtomicU64,
    /// Notified by every list and by the writer's end.
    pub(super) changed: Notify,
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
    /// `is_published` is false for the empty list before the first one.
    pub(super) fn new(
        records: Arc<ServiceRecords>,
        selection: Selection,
        current: &Published,
        is_published: bool,
    ) -> Self {
        SharedList {
            list: Apart(ArcSwap::from_pointee(List::prepare(current, &selection, None))),
            turns: Apart(AtomicU64::new(fastrand::u64(..1 << 32))),
            records,
            selection,
            version: AtomicU64::new(u64::from(is_published)),
            changed: Notify::new(),
        }
    }

    /// Replaces the list. Returns whether it differs for these views.
    pub(super) fn replace(self: &Arc<Self>, published: &Published) -> bool {
        let before = self.list.load_full();
        let is_first = self.version() == 0;
        let list = List::prepare(published, &self.selection, Some(&*before).filter(|_| !is_first));
        let is_same = Arc::ptr_eq(&before.all, &list.all)
            || (!self.selection.shows_all() && Difference::between(&before.all.hosts, &list.all.hosts).is_empty());
        if before.callable.get().is_some() {
            list.callable(self);
        }
        self.list.store(Arc::new(list));
        self.look_for_ejections();
        is_first || !is_same
    }

    /// Counts the new list if it is a change, and wakes all readers that wait.
    pub(super) fn notify(&self, is_change: bool) {
        self.version.fetch_add(u64::from(is_change), atomic::Ordering::Release);
        self.changed.notify_waiters();
    }

    /// Sets `is_plain` of a new list. Call it after [`note_ejections`](SharedList::note_ejections) can reach the list,
    /// so that no ejection is missed.
    pub(super) fn look_for_ejections(&self) {
        self.records.with_ejections(|any_ejected| self.note_ejections(any_ejected));
    }

    /// Call it whenever the first instance of the service is ejected or the last one is back.
    pub(super) fn note_ejections(&self, any_ejected: bool) {
        let list = self.list.load();
        list.is_plain.store(list.may_be_plain && !any_ejected, atomic::Ordering::Release);
    }

    /// How many instances can be called, and how many of them are ejected. `None` before the first call.
    pub(super) fn count_ejected(&self) -> Option<(usize, usize)> {
        let list = self.list.load();
        let callable = list.callable.get()?;
        Some((callable.len(), callable.iter().filter(|callable| callable.record.is_ejected()).count()))
    }

    /// 0 before the first list.
    pub(super) fn version(&self) -> u64 {
        self.version.load(atomic::Ordering::Acquire)
    }

    pub(super) fn is_ready(&self) -> bool {
        self.version() > 0
    }
}
