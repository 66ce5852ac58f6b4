//! One published list, prepared for choices.
//!
//! [`List::prepare`] does the expensive part, in the writer's thread: filters, preferences, tables. A reader then
//! needs one random number and a look into a table.

use std::{
    cmp::Ordering,
    collections::HashSet,
    sync::{Arc, OnceLock, Weak},
};

use actix_rt::time::Instant;

use super::{
    alias_table::AliasTable, ejection::ServiceRecords, hash_table::HashTable, policy::Policy, record::Record,
    selection::Selection, source::SharedList,
};
use crate::model::{instance::Instance, service::ServiceInfo};

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
/// Immutable, except for `targets`, which the first call fills in. Views that only use `select_one` never need
/// them.
#[derive(Debug)]
pub(super) struct List {
    /// The instances that the filters accept.
    pub(super) all: Arc<ServiceInfo>,
    /// The healthy ones of `all`. The same `Arc` if all are healthy.
    healthy: Arc<ServiceInfo>,
    /// Instances that are withheld from removal.
    pub(super) withheld: Vec<Arc<Instance>>,
    /// The number of instances before the filters.
    pub(super) listed: usize,
    /// The instances to choose from: the preferred ones, or all if there is no preference.
    pub(super) first: Group,
    /// The instances to choose from when none of `first` can be called.
    pub(super) others: Group,
    /// Whether, while no instance is ejected, a random draw from `first` is already the choice.
    pub(super) is_plain: bool,
    new: Option<NewInstances>,
    targets: OnceLock<Box<[Option<Arc<Target>>]>>,
}

/// A part of a list's callable instances.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) table: AliasTable,
    /// Only for the policy that needs it.
    pub(super) keys: Option<HashTable>,
}

/// The instances that were added after the view's first list, by their places.
#[derive(Debug)]
struct NewInstances {
    since: Box<[Option<Instant>]>,
    /// When the last of them has warmed up.
    until: Option<Instant>,
}

/// What a call keeps of the list that its instance was chosen from.
///
/// It keeps one instance alive, and not the list: calls may last much longer than a list.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) instance: Arc<Instance>,
    pub(super) record: Arc<Record>,
    /// The instance's weight in units of the mean over all callable instances.
    pub(super) share: f32,
    pub(super) records: Arc<ServiceRecords>,
    /// Only failed calls need the list.
    pub(super) list: Weak<SharedList>,
}

impl List {
    /// Prepares a list. `before` is the list that it replaces, `None` for the first one.
    pub(super) fn prepare(published: &Published, selection: &Selection, before: Option<&List>) -> Self {
        let all = filtered(&published.info, selection.shows_all(), |host| selection.shows(host));
        let healthy = filtered(&all, all.hosts.iter().all(|host| host.healthy), |host| host.healthy);
        let mut callable = confirmed(&all.hosts, |host| published.is_withheld(host));
        let mut others = Vec::new();
        if !selection.prefer.is_empty() {
            let is_preferred = |place: &u32| selection.prefer.matches(&all.hosts[*place as usize]);
            let (preferred, rest): (Vec<_>, Vec<_>) = callable.iter().copied().partition(is_preferred);
            if !preferred.is_empty() {
                (callable, others) = (preferred, rest);
            }
        }
        let new = (!selection.warm_up.is_zero()).then(|| NewInstances::find(&all.hosts, selection, before));
        let is_plain = selection.policy == Policy::WeightedRandom && new.as_ref().is_none_or(|new| new.until.is_none());
        List {
            first: Group::new(&all.hosts, callable, selection.policy),
            others: Group::new(&all.hosts, others, selection.policy),
            withheld: all.hosts.iter().filter(|host| published.is_withheld(host)).cloned().collect(),
            listed: published.info.hosts.len(),
            all,
            healthy,
            is_plain,
            new,
            targets: OnceLock::new(),
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

    /// Whether a choice would find an instance.
    pub(super) fn can_be_called(&self) -> bool {
        self.first.table.len() > 0
    }

    /// The places of all callable instances.
    pub(super) fn callable(&self) -> impl Iterator<Item = usize> + Clone + '_ {
        self.first.table.places().chain(self.others.table.places())
    }

    /// The targets of this list by place, `None` for an instance that cannot be called. They are made for the first
    /// call of a view, and from then on when a list is published.
    #[inline]
    pub(super) fn targets(&self, shared: &Arc<SharedList>) -> &[Option<Arc<Target>>] {
        self.targets.get_or_init(|| self.prepare_targets(shared))
    }

    /// `None` before the first call.
    pub(super) fn prepared_targets(&self) -> Option<&[Option<Arc<Target>>]> {
        self.targets.get().map(|targets| &**targets)
    }

    #[cold]
    fn prepare_targets(&self, shared: &Arc<SharedList>) -> Box<[Option<Arc<Target>>]> {
        let hosts = &self.all.hosts;
        let mut targets: Box<[_]> = vec![None; hosts.len()].into_boxed_slice();
        let count = (self.first.table.len() + self.others.table.len()) as f64;
        // Divide before summing, because the sum of large weights could be infinite.
        let mean: f64 = self.callable().map(|place| hosts[place].weight / count).sum();
        let places: Vec<_> = self.callable().collect();
        let records = shared.records.records(places.iter().map(|place| &hosts[*place]));
        for (place, record) in places.into_iter().zip(records) {
            let share = (hosts[place].weight / mean).clamp(1e-9, 1e9) as f32;
            let (instance, list) = (hosts[place].clone(), Arc::downgrade(shared));
            let records = shared.records.clone();
            targets[place] = Some(Arc::new(Target { instance, record, share, records, list }));
        }
        targets
    }

    /// The part of its weight that a new instance gets, from 0.1 to 1. `None` if the instance is not new.
    pub(super) fn warmth(&self, place: usize, selection: &Selection, now: Instant) -> Option<f64> {
        let new = self.new.as_ref().filter(|new| new.until.is_some_and(|until| now < until))?;
        let age = now.saturating_duration_since(new.since[place]?);
        let grown = age.as_secs_f64() / selection.warm_up.as_secs_f64();
        (grown < 1.0).then(|| grown.max(0.1))
    }
}

impl Group {
    fn new(hosts: &[Arc<Instance>], places: Vec<u32>, policy: Policy) -> Self {
        let table = AliasTable::new(places.into_iter().map(|place| (place, hosts[place as usize].weight)));
        let by_key = policy == Policy::ConsistentHash;
        let keys = if by_key { HashTable::new(hosts, table.places()) } else { None };
        Group { table, keys }
    }
}

impl NewInstances {
    fn find(hosts: &[Arc<Instance>], selection: &Selection, before: Option<&List>) -> Self {
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
        NewInstances { since, until: last.filter(|until| *until > now) }
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

/// The places of the callable instances. Withheld instances are left out once half of the callable ones are confirmed.
/// If they were left out earlier, the first confirmed instance would get all the calls.
///
/// An instance takes calls if it is enabled, healthy, of a weight above 0 and of a port other than 0.
fn confirmed(hosts: &[Arc<Instance>], is_withheld: impl Fn(&Arc<Instance>) -> bool) -> Vec<u32> {
    // A list of more than u32::MAX instances fits in no memory.
    let callable = (0u32..).zip(hosts).filter(|(_, host)| host.takes_calls() && host.weight.is_finite());
    let (mut confirmed, withheld): (Vec<_>, Vec<_>) = callable.partition(|(_, host)| !is_withheld(host));
    if confirmed.len() < withheld.len() {
        confirmed.extend(withheld);
    }
    confirmed.into_iter().map(|(place, _)| place).collect()
}

/// Walks two ordered lists once, and calls `each` with the places of each instance in both.
pub(super) fn walk(old: &[Arc<Instance>], new: &[Arc<Instance>], mut each: impl FnMut(Option<usize>, Option<usize>)) {
    let (mut i, mut j) = (0, 0);
    while i < old.len() || j < new.len() {
        let order = match (old.get(i), new.get(j)) {
            (Some(_), None) => Ordering::Less,
            (None, _) => Ordering::Greater,
            (Some(before), Some(after)) if Arc::ptr_eq(before, after) => Ordering::Equal,
            (Some(before), Some(after)) => before.key_in_service().cmp(&after.key_in_service()),
        };
        each(order.is_le().then_some(i), order.is_ge().then_some(j));
        i += usize::from(order.is_le());
        j += usize::from(order.is_ge());
    }
}
