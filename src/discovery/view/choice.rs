//! Choosing one instance of a view's list.
//!
//! A choice draws an instance by the policy. It draws again if the instance must not be called, because it is ejected
//! or was tried. After [`DRAWS`] draws it looks at all instances. Nothing here allocates or locks.
//!
//! The order of preference:
//!
//! 1. an instance that the selection prefers, that was not tried and is not ejected (`first`);
//! 2. any other callable instance that was not tried and is not ejected (`others`);
//! 3. an ejected instance that was not tried: a call that probably fails is better than none;
//! 4. an instance that was tried and is not ejected; then any instance.
//!
//! A draw skips a new instance in its warm-up at random. If all draws find such instances, one of them is chosen.

use std::sync::{atomic::Ordering, Arc};

use super::{
    clock::Now,
    hash_table::mix,
    list::{Callable, Callables, Group, List, SharedList},
    policy::Policy,
    record::{is_less_loaded, Admission},
};
use crate::model::instance::Instance;

/// The number of draws before the choice looks at all instances. If half of the instances must not be called, that
/// happens in 1 choice of 256.
const DRAWS: u32 = 8;

/// The input of one choice.
///
/// It borrows its parts, so that a choice allocates nothing.
pub(super) struct Choice<'a> {
    pub(super) shared: &'a SharedList,
    pub(super) list: &'a List,
    pub(super) callable: &'a Callables,
    /// The hash of the caller's key, if there is one.
    pub(super) key: Option<u64>,
    pub(super) tried: &'a [Arc<Instance>],
    pub(super) now: Now,
    /// The same, in milliseconds of the coarse clock.
    pub(super) millis: u64,
    /// Whether the call may be the probe of an ejected instance.
    pub(super) may_probe: bool,
}

/// The place of the chosen instance, and whether the call is a probe.
///
/// `place` is an index into the list's `instances` and into `callable`.
pub(super) struct Chosen {
    pub(super) place: usize,
    pub(super) admission: Admission,
}

impl Choice<'_> {
    /// `random` is uniformly distributed. None if no instance can be called.
    #[inline]
    pub(super) fn choose(&self, random: u64) -> Option<Chosen> {
        if self.list.is_plain()
            && self.tried.is_empty()
            && let Some(place) = self.list.first.table.pick(random)
        {
            return Some(Chosen { place, admission: Admission::Granted });
        }
        self.choose_otherwise(random)
    }

    fn choose_otherwise(&self, random: u64) -> Option<Chosen> {
        self.choose_from(&self.list.first, random)
            .or_else(|| self.choose_from(&self.list.others, random))
            .or_else(|| self.last_resort())
    }

    /// Chooses from one group. `None` if no instance of it may be called.
    #[inline]
    fn choose_from(&self, group: &Group, random: u64) -> Option<Chosen> {
        if group.table.places().is_empty() {
            return None;
        }
        let first = self.draw(group, random)?;
        if self.shared.selection.policy == Policy::LeastLoaded && first.admission == Admission::Granted {
            return Some(self.less_loaded(group, first));
        }
        Some(first)
    }

    /// Draws until an instance may be called. `None` if no instance of the group may be called.
    #[inline]
    fn draw(&self, group: &Group, random: u64) -> Option<Chosen> {
        let mut cold = None;
        for attempt in 0..DRAWS {
            let place = self.drawn(group, random, attempt)?;
            let Some(chosen) = self.admitted(place) else { continue };
            if chosen.admission == Admission::Granted && self.is_too_cold(place) {
                cold.get_or_insert(place);
                continue;
            }
            return Some(chosen);
        }
        cold.map(|place| Chosen { place, admission: Admission::Granted }).or_else(|| self.look(group))
    }

    /// Draws a place by the policy, without looking at the instance. Each further attempt uses a new random number.
    #[inline]
    fn drawn(&self, group: &Group, random: u64, attempt: u32) -> Option<usize> {
        let random = if attempt == 0 { random } else { fastrand::u64(..) };
        match (self.shared.selection.policy, self.key, &group.keys) {
            (Policy::WeightedRoundRobin, ..) => {
                group.table.pick_in_turn(self.shared.turns.fetch_add(1, Ordering::Relaxed))
            }
            (Policy::ConsistentHash, Some(key), Some(keys)) => {
                // Another hash per attempt spreads the keys of an instance that cannot be called over all other
                // instances.
                Some(keys.pick(if attempt == 0 { key } else { mix(key.wrapping_add(u64::from(attempt))) }))
            }
            _ => group.table.pick(random),
        }
    }

    /// Whether the instance at this place may be called now. May claim the probe of an ejected one.
    #[inline]
    fn admitted(&self, place: usize) -> Option<Chosen> {
        let callable = self.callable.at(place);
        if self.was_tried(callable) {
            return None;
        }
        if !self.may_probe {
            return (!callable.record.is_ejected()).then_some(Chosen { place, admission: Admission::Granted });
        }
        match callable.record.admit(&self.now) {
            Admission::Ejected => None,
            admission => Some(Chosen { place, admission }),
        }
    }

    /// Compares the identity too, because a newer list may have another pointer for the same instance.
    fn was_tried(&self, callable: &Callable) -> bool {
        self.tried.iter().any(|tried| {
            let instance = &callable.instance;
            Arc::ptr_eq(tried, instance) || tried.key_in_service() == instance.key_in_service()
        })
    }

    /// Whether to skip a new instance: at random, and more often the newer it is. Consistent hashing never skips one,
    /// so that a key keeps its instance.
    #[inline]
    fn is_too_cold(&self, place: usize) -> bool {
        let selection = &self.shared.selection;
        if selection.warm_up.is_zero() || selection.policy == Policy::ConsistentHash {
            return false;
        }
        self.list.warmth(place, selection, &self.now).is_some_and(|warmth| fastrand::f64() > warmth)
    }

    /// Returns the less loaded of `first` and a second instance that is drawn by the weights.
    fn less_loaded(&self, group: &Group, first: Chosen) -> Chosen {
        let Some(second) = self.draw_other(group, first.place) else { return first };
        let load = |place: usize| (&*self.callable.at(place).record, self.callable.at(place).share);
        // A probe is taken in any case: an ejected instance has no load to compare.
        if second.admission != Admission::Granted
            || is_less_loaded(load(second.place), load(first.place), self.millis as u32)
        {
            second
        } else {
            first
        }
    }

    /// `None` if there is no other instance that may be called.
    fn draw_other(&self, group: &Group, first: usize) -> Option<Chosen> {
        for _ in 0..DRAWS / 2 {
            let place = group.table.pick(fastrand::u64(..)).filter(|place| *place != first);
            if let Some(chosen) = place.filter(|place| !self.is_too_cold(*place)).and_then(|place| self.admitted(place))
            {
                return Some(chosen);
            }
        }
        // Several draws found no second instance: one instance has nearly all the weight, or most must not be called.
        let places = group.table.places();
        let start = fastrand::usize(..places.len());
        let neighbours = (0..2).map(|step| places.start + (start + step) % places.len());
        neighbours.filter(|place| *place != first).find_map(|place| self.admitted(place))
    }

    /// Looks at all instances of a group, and chooses by the weights among those that may be called.
    #[cold]
    fn look(&self, group: &Group) -> Option<Chosen> {
        let may_be_called = |callable: &Callable| {
            let is_admitted =
                if self.may_probe { callable.record.would_admit(&self.now) } else { !callable.record.is_ejected() };
            is_admitted && !self.was_tried(callable)
        };
        let place = self.by_weight(group.table.places(), &may_be_called)?;
        // Another call may have become the probe meanwhile.
        self.admitted(place)
            .or_else(|| self.by_weight(group.table.places(), &may_be_called).and_then(|p| self.admitted(p)))
    }

    /// Chooses although no instance may be called: an ejected instance that was not tried, or else a tried one.
    #[cold]
    fn last_resort(&self) -> Option<Chosen> {
        let all = || 0..self.callable.len();
        let place = self
            .by_weight(all(), &|callable| !self.was_tried(callable))
            .or_else(|| self.by_weight(all(), &|callable| !callable.record.is_ejected()))
            .or_else(|| self.by_weight(all(), &|_| true))?;
        let record = &self.callable.at(place).record;
        // If the call succeeds, the ejection ends early.
        let admission = match (record.is_ejected(), self.may_probe) {
            (false, _) => Admission::Granted,
            (true, true) => record.claim_probe(self.now.get()),
            (true, false) => Admission::Ejected,
        };
        Some(Chosen { place, admission })
    }

    /// Draws by the weights among the candidates, in one pass over all of them.
    fn by_weight(
        &self,
        places: impl Iterator<Item = usize> + Clone,
        may_be_called: &dyn Fn(&Callable) -> bool,
    ) -> Option<usize> {
        let candidates = places.filter_map(|place| {
            let callable = self.callable.at(place);
            may_be_called(callable).then_some((place, f64::from(callable.share)))
        });
        let total: f64 = candidates.clone().map(|(_, share)| share).sum();
        let mut at = fastrand::f64() * total;
        let mut last = None;
        for (place, share) in candidates {
            last = Some(place);
            at -= share;
            if at < 0.0 {
                break;
            }
        }
        last
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{HashMap, HashSet},
        sync::{
            atomic::{AtomicUsize, Ordering},
            Mutex,
        },
        time::Duration,
    };

    use super::{
        super::{Call, Eject, Selection, ServiceView},
        *,
    };
    use crate::{
        error::{Error, NoInstanceReasons},
        model::service::ServiceName,
    };

    /// Miri takes minutes for each table of `ConsistentHash`, which is read as the other tables are.
    const LAST_POLICY: Policy = if cfg!(miri) { Policy::WeightedRandom } else { Policy::ConsistentHash };
    const POLICIES: [Policy; 4] =
        [Policy::WeightedRandom, Policy::LeastLoaded, Policy::WeightedRoundRobin, LAST_POLICY];

    fn service() -> ServiceName {
        ServiceName::parse("orders").unwrap()
    }

    fn instance(port: u16, weight: f64) -> Instance {
        Instance { weight, ..Instance::new("127.0.0.1", port) }
    }

    /// At ports 1, 2, and so on.
    fn instances(weights: &[f64]) -> Vec<Instance> {
        (1..).zip(weights).map(|(port, weight)| instance(port, *weight)).collect()
    }

    fn in_cluster(cluster: &str, instance: Instance) -> Instance {
        Instance { cluster_name: cluster.into(), ..instance }
    }

    fn view(instances: Vec<Instance>, policy: Policy) -> ServiceView {
        ServiceView::fixed(service(), instances).with(|selection| selection.policy(policy))
    }

    /// The share of each port among `calls` calls, each with a key of its own.
    fn shares(view: &ServiceView, calls: u32) -> HashMap<u16, f64> {
        let mut shares = HashMap::new();
        for key in 0..calls {
            let call = view.begin_for(key.to_be_bytes()).unwrap();
            *shares.entry(call.port).or_insert(0.0) += 1.0 / f64::from(calls);
            call.succeeded();
        }
        shares
    }

    #[actix::test]
    #[cfg_attr(miri, ignore = "too many draws for Miri")]
    async fn calls_are_shared_by_the_weights_within_one_percentage_point_whatever_the_policy() {
        // Without this, delays of the machine would count as latencies.
        tokio::time::pause();
        for policy in POLICIES {
            let shares = shares(&view(instances(&[1.0, 2.0, 7.0]), policy), 100_000);
            for (port, expected) in [(1, 0.1), (2, 0.2), (3, 0.7)] {
                assert!((shares[&port] - expected).abs() < 0.01, "{policy:?}: {shares:?}");
            }
        }
    }

    #[test]
    fn a_tried_instance_is_not_chosen_again_while_there_is_another() {
        for policy in POLICIES {
            // One instance has nearly all the weight, and there are more instances than draws.
            let mut weights = vec![1.0; 20];
            weights[7] = 10_000.0;
            let view = view(instances(&weights), policy);
            for _ in 0..if cfg!(miri) { 1 } else { 50 } {
                let mut tried = Vec::new();
                for _ in 0..20 {
                    let call = view.begin_for_excluding("key", &tried).unwrap();
                    assert!(!tried.contains(call.instance()), "{policy:?}");
                    tried.push(call.instance().clone());
                }
                assert!(view.begin_excluding(&tried).is_ok(), "rather one that was tried than none");
            }
        }
    }

    #[test]
    fn an_ejected_instance_is_chosen_before_one_that_was_tried() {
        let view = view(instances(&[1.0, 1.0]), Policy::WeightedRandom);
        let [ejected, well] = [0, 1].map(|place| view.instances()[place].clone());
        view.shared.records.eject_now(&ejected, Duration::from_secs(60));
        for _ in 0..if cfg!(miri) { 20 } else { 100 } {
            assert_eq!(view.begin().unwrap().port, 2);
        }
        let call = view.begin_excluding(std::slice::from_ref(&well)).unwrap();
        assert!(call.port == 1 && call.is_ejected());
        call.failed();
        let call = view.begin_excluding(&[well, ejected]).unwrap();
        assert!(call.port == 2 && !call.is_ejected(), "of those that were tried, one that is not ejected");
    }

    #[actix::test]
    #[cfg_attr(miri, ignore = "too many draws for Miri")]
    async fn calls_stay_in_the_preferred_zone_until_no_instance_there_can_be_called() {
        // Without this, delays of the machine would count as latencies.
        tokio::time::pause();
        for policy in POLICIES {
            let east = |port, weight| in_cluster("EAST", instance(port, weight));
            let hosts = vec![instance(1, 1.0), instance(2, 3.0), east(3, 1.0), east(4, 1.0)];
            let view = view(hosts, policy).with(|selection| selection.prefer_cluster("EAST"));
            assert!(shares(&view, 2_000).keys().all(|port| *port > 2), "{policy:?}");
            let local = [0, 1].map(|place| view.instances()[place + 2].clone());
            view.shared.records.eject_now(local.iter().find(|host| host.port == 3).unwrap(), Duration::from_secs(60));
            assert!(shares(&view, 2_000).keys().all(|port| *port == 4), "{policy:?}");
            view.shared.records.eject_now(local.iter().find(|host| host.port == 4).unwrap(), Duration::from_secs(60));
            let shares = shares(&view, 20_000);
            assert!((shares[&1] - 0.25).abs() < 0.02 && (shares[&2] - 0.75).abs() < 0.02, "{policy:?}: {shares:?}");
        }
    }

    #[test]
    fn preferences_fall_back_and_filters_do_not() {
        let mut hosts = instances(&[1.0, 1.0]);
        hosts[0].metadata.insert("version".into(), "2".into());
        let all = ServiceView::fixed(service(), hosts);
        let chosen = |change: fn(Selection) -> Selection| {
            let view = all.with(change);
            let calls = if cfg!(miri) { 30 } else { 100 };
            (0..calls).filter_map(|_| view.begin().ok().map(|call| call.port)).collect::<HashSet<_>>()
        };
        assert_eq!(chosen(|selection| selection.prefer_metadata("version", "2")), [1].into());
        assert_eq!(chosen(|selection| selection.prefer_metadata("version", "3")), [1, 2].into());
        assert_eq!(chosen(|selection| selection.prefer_metadata("version", "2").prefer_cluster("EAST")), [1, 2].into());
        assert_eq!(chosen(|selection| selection.only_metadata("version", "2")), [1].into());
        assert_eq!(chosen(|selection| selection.only_metadata("version", "3")), [].into());
        assert_eq!(chosen(|selection| selection.only_cluster("EAST").only_cluster("DEFAULT")), [1, 2].into());
        assert_eq!(chosen(|selection| selection.only(|instance| instance.port == 2)), [2].into());
        assert_eq!(all.with(|selection| selection.only_metadata("version", "2")).instances().len(), 1);
        assert_eq!(all.with(|selection| selection.prefer_metadata("version", "2")).instances().len(), 2);
    }

    #[test]
    fn a_predicate_that_panics_matches_nothing() {
        let view = ServiceView::fixed(service(), instances(&[1.0, 1.0, 1.0]));
        let view = view.with(|selection| selection.only(|instance| instance.port > 1 || panic!("staged")));
        assert_eq!(view.instances().iter().map(|instance| instance.port).collect::<Vec<_>>(), [2, 3]);
    }

    #[test]
    fn views_with_equal_selections_share_one_list() {
        let all = ServiceView::fixed(service(), instances(&[1.0]));
        let with = |cluster: &str| all.with(|selection| selection.only_cluster(cluster));
        assert!(
            Arc::ptr_eq(&with("EAST").shared, &with("EAST").shared) || !Arc::ptr_eq(&with("EAST").shared, &all.shared)
        );
        let east = with("EAST");
        assert!(Arc::ptr_eq(&east.shared, &with("EAST").shared) && !Arc::ptr_eq(&east.shared, &with("WEST").shared));
        assert!(Arc::ptr_eq(&all.shared, &east.with(|_| Selection::default()).shared));
        let by_predicate = || all.with(|selection| selection.only(|_| true));
        assert!(!Arc::ptr_eq(&by_predicate().shared, &by_predicate().shared));
    }

    #[test]
    fn equal_views_that_are_made_at_the_same_time_share_one_list() {
        let all = ServiceView::fixed(service(), instances(&[1.0]));
        let (other, made) = (Arc::new(Mutex::new(None::<Selection>)), Arc::new(Mutex::new(None)));
        let selection = Selection::default().only({
            let (all, other, made) = (all.clone(), other.clone(), made.clone());
            // Makes the other view while the list of the first one is filtered.
            move |_| {
                let selection = other.lock().unwrap().take();
                if let Some(selection) = selection {
                    *made.lock().unwrap() = Some(all.with(|_| selection));
                }
                true
            }
        });
        *other.lock().unwrap() = Some(selection.clone());
        let view = all.with(|_| selection);
        assert!(Arc::ptr_eq(&view.shared, &made.lock().unwrap().take().unwrap().shared));
    }

    #[test]
    fn the_error_counts_why_no_instance_can_be_called() {
        let mut hosts = instances(&[1.0, 1.0, 0.0, 1.0, f64::NAN, 1.0]);
        hosts[0].healthy = false;
        hosts[1].enabled = false;
        hosts[5].port = 0;
        hosts[3].metadata.insert("version".into(), "1".into());
        let view = ServiceView::fixed(service(), hosts);
        assert_eq!(view.begin().unwrap().port, 4);
        let view = view.with(|selection| selection.only(|instance| instance.metadata.is_empty()));
        let Err(Error::NoInstance { service, listed, reasons, stale }) = view.begin() else { panic!("a call began") };
        assert_eq!((service.as_str(), listed, stale), ("DEFAULT_GROUP@@orders", 6, false));
        let expected =
            NoInstanceReasons { filtered: 1, disabled: 1, unhealthy: 1, no_port: 1, no_weight: 2, ejected: 0 };
        assert_eq!(reasons, expected);
        let (view, control) = ServiceView::controlled(self::service());
        assert!(matches!(view.begin(), Err(Error::NoInstance { listed: 0, stale: false, .. })));
        drop(control);
        assert!(matches!(view.begin(), Err(Error::NoInstance { listed: 0, stale: true, .. })));
    }

    #[test]
    #[cfg_attr(miri, ignore = "too large a table for Miri")]
    fn a_key_keeps_its_instance_and_returns_to_it_after_an_ejection() {
        let view = view(instances(&[1.0; 10]), Policy::ConsistentHash);
        let owner = |key: u32| view.begin_for(key.to_be_bytes()).unwrap().instance().clone();
        let before: Vec<_> = (0..1000).map(owner).collect();
        assert_eq!(before, (0..1000).map(owner).collect::<Vec<_>>());
        let gone = before[0].clone();
        view.shared.records.eject_now(&gone, Duration::from_secs(60));
        let during: Vec<_> = (0..1000).map(owner).collect();
        assert_eq!(during, (0..1000).map(owner).collect::<Vec<_>>());
        let mut taken_over = HashSet::new();
        for (before, during) in before.iter().zip(&during) {
            if *before == gone {
                taken_over.insert(during.port);
            } else {
                assert_eq!(before, during, "only the keys of the one that is gone move");
            }
        }
        assert!(taken_over.len() > 5, "they are spread over the others: {taken_over:?}");
        view.begin_excluding(&view.instances().iter().filter(|host| **host != gone).cloned().collect::<Vec<_>>())
            .unwrap()
            .succeeded();
        assert_eq!(before, (0..1000).map(owner).collect::<Vec<_>>());
    }

    #[actix::test]
    async fn the_less_loaded_of_two_is_called() {
        // Without this, delays of the machine would count as latencies.
        tokio::time::pause();
        let view = view(instances(&[1.0, 1.0, 1.0]), Policy::LeastLoaded);
        let held: Vec<_> = (0..300).map(|_| view.begin().unwrap()).collect();
        let count = |port| held.iter().filter(|call| call.port == port).count();
        // With random choices, one of two runs would be off by more than 8.
        assert!((1..=3).all(|port| (95..=105).contains(&count(port))), "{:?}", (1..=3).map(count).collect::<Vec<_>>());
        let (ended, _under_way): (Vec<_>, Vec<_>) = held.into_iter().partition(|call| call.port == 2);
        ended.into_iter().for_each(Call::succeeded);
        let next: Vec<_> = (0..30).map(|_| view.begin().unwrap()).filter(|call| call.port == 2).collect();
        assert!(next.len() >= 12, "{} of 30 went to the one that is idle", next.len());
    }

    #[actix::test]
    #[cfg_attr(miri, ignore = "too many draws for Miri")]
    async fn a_new_instance_gets_a_share_that_grows_to_its_weight() {
        tokio::time::pause();
        let (view, control) = ServiceView::controlled(service());
        for policy in [Policy::WeightedRandom, Policy::LeastLoaded, Policy::WeightedRoundRobin] {
            control.publish([]);
            let warmed_up = |selection: Selection| selection.policy(policy).warm_up(Duration::from_secs(100));
            control.publish(instances(&[1.0, 1.0, 1.0]));
            let view = view.with(warmed_up);
            let share = |port| shares(&view, 20_000)[&port];
            assert!((share(3) - 1.0 / 3.0).abs() < 0.02, "those of the first list are not new");
            control.publish(instances(&[1.0, 1.0, 1.0, 1.0]));
            let share_at_first = share(4);
            assert!(share_at_first < 0.06 && share_at_first > 0.01, "{policy:?}: {share_at_first}");
            tokio::time::advance(Duration::from_secs(50)).await;
            control.publish(instances(&[1.0, 1.0, 2.0, 1.0]));
            control.publish(instances(&[1.0, 1.0, 1.0, 1.0]));
            assert!((share(4) - 0.5 / 3.5).abs() < 0.04, "{policy:?}: {} at half time", share(4));
            tokio::time::advance(Duration::from_secs(51)).await;
            assert!((share(4) - 0.25).abs() < 0.02, "{policy:?}: {}", share(4));
        }
    }

    #[test]
    fn in_a_round_robin_instances_of_equal_weight_take_turns() {
        let view = view(instances(&[1.0; 5]), Policy::WeightedRoundRobin);
        let turns: Vec<_> = (0..20).map(|_| view.begin().unwrap().port).collect();
        assert!(turns.chunks(5).all(|round| round.iter().collect::<HashSet<_>>().len() == 5), "{turns:?}");
    }

    #[test]
    fn a_tried_instance_is_recognised_in_a_newer_list() {
        let (view, control) = ServiceView::controlled(service());
        control.publish(instances(&[1.0, 1.0]));
        let tried = [view.instances()[0].clone()];
        control.publish(instances(&[9.0, 1.0]));
        assert!((0..if cfg!(miri) { 20 } else { 50 }).all(|_| view.begin_excluding(&tried).unwrap().port == 2));
    }

    #[test]
    fn the_only_instance_that_is_not_ejected_is_found_among_many() {
        let view = view(instances(&[1.0; 40]), Policy::WeightedRandom);
        view.instances()[..39].iter().for_each(|host| view.shared.records.eject_now(host, Duration::from_secs(60)));
        for _ in 0..if cfg!(miri) { 5 } else { 50 } {
            assert_eq!((view.select_one().unwrap().port, view.begin().unwrap().port), (40, 40));
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "too many draws for Miri")]
    fn while_all_instances_are_ejected_they_are_chosen_by_their_weights() {
        let view = view(instances(&[1.0, 2.0, 7.0]), Policy::WeightedRandom);
        view.instances().iter().for_each(|host| view.shared.records.eject_now(host, Duration::from_secs(60)));
        let mut shares = [0.0f64; 4];
        (0..10_000).for_each(|_| shares[usize::from(view.select_one().unwrap().port)] += 1.0 / 10_000.0);
        for (port, expected) in [(1, 0.1), (2, 0.2), (3, 0.7)] {
            assert!((shares[port] - expected).abs() < 0.025, "{shares:?}");
        }
    }

    #[actix::test]
    async fn only_the_policy_least_loaded_avoids_instances_with_calls_under_way() {
        tokio::time::pause();
        for policy in POLICIES {
            let view = view(instances(&[1.0, 1.0]), policy);
            let mut under_way = Vec::new();
            for key in 0..200u32 {
                let call = view.begin_for(key.to_be_bytes()).unwrap();
                if call.port == 1 {
                    under_way.push(call);
                }
            }
            assert_eq!(under_way.len() > 40, policy != Policy::LeastLoaded, "{policy:?}: {}", under_way.len());
        }
    }

    #[actix::test]
    #[cfg_attr(miri, ignore = "too large a table for Miri")]
    async fn a_key_is_not_taken_from_a_new_instance_while_it_warms_up() {
        tokio::time::pause();
        let (view, control) = ServiceView::controlled(service());
        let warms_up =
            |selection: Selection| selection.policy(Policy::ConsistentHash).warm_up(Duration::from_secs(100));
        control.publish(instances(&[1.0; 3]));
        let view = view.with(warms_up);
        control.publish(instances(&[1.0; 4]));
        let owner = |key: u32| view.begin_for(key.to_be_bytes()).unwrap().port;
        let owners: Vec<_> = (0..100).map(owner).collect();
        assert!(owners.contains(&4) && (0..10).all(|_| owners == (0..100).map(owner).collect::<Vec<_>>()));
    }

    #[actix::test]
    async fn a_probe_is_called_before_an_instance_that_is_less_loaded() {
        tokio::time::pause();
        for _ in 0..if cfg!(miri) { 3 } else { 20 } {
            let view = view(instances(&[1.0, 1.0]), Policy::LeastLoaded);
            let calls: Vec<_> = (0..20).map(|_| view.begin().unwrap()).collect();
            let (_under_way, ended): (Vec<_>, Vec<_>) = calls.into_iter().partition(|call| call.port == 1);
            ended.into_iter().for_each(Call::succeeded);
            view.shared.records.eject_now(&view.instances()[0], Duration::from_secs(30));
            tokio::time::advance(Duration::from_secs(30)).await;
            let probe = view.begin().unwrap();
            assert!(probe.port == 1 && probe.is_ejected());
        }
    }

    #[actix::test]
    async fn an_instance_of_little_weight_is_called_while_the_only_other_one_is_busy() {
        tokio::time::pause();
        for _ in 0..if cfg!(miri) { 5 } else { 50 } {
            let view = view(instances(&[1e12, 1.0]), Policy::LeastLoaded);
            let under_way = [(); 3].map(|()| view.begin().unwrap());
            assert_eq!(under_way.map(|call| call.port), [1, 2, 1], "its one call is more than its share");
        }
    }

    #[actix::test]
    async fn of_two_instances_of_equal_weight_the_idle_one_is_always_called() {
        tokio::time::pause();
        for _ in 0..10 {
            let view = view(instances(&[1.0, 1.0]), Policy::LeastLoaded);
            let busy = view.begin().unwrap();
            let calls = if cfg!(miri) { 20 } else { 500 };
            assert!((0..calls).all(|_| view.begin().unwrap().port != busy.port));
        }
    }

    #[actix::test]
    async fn the_second_of_two_is_drawn_by_the_weights_and_sometimes_regardless_of_them() {
        tokio::time::pause();
        let mut weights = vec![1.0; 202];
        weights[..2].fill(1e9);
        let view = view(instances(&weights), Policy::LeastLoaded);
        let under_way: Vec<_> = (0..200).map(|_| view.begin().unwrap()).collect();
        // 1 choice in 16 draws the first instance five times, and looks beside it.
        let light = under_way.iter().filter(|call| call.port > 2).count();
        assert!((1..40).contains(&light), "{light} of 200");
    }

    #[test]
    #[cfg_attr(miri, ignore = "too many instances for Miri")]
    fn a_hundred_thousand_instances_can_be_chosen_from_while_half_of_them_are_ejected_or_tried() {
        let host =
            |number: u32| Instance::new(format!("127.{}.{}.{}", number >> 16, number >> 8 & 255, number & 255), 80);
        let all = ServiceView::fixed(service(), (1..=100_000).map(host));
        for policy in POLICIES {
            let view = all.with(|selection| selection.policy(policy).prefer_cluster("DEFAULT"));
            let mut tried = Vec::new();
            for _ in 0..100 {
                let call = view.begin_excluding(&tried).unwrap();
                assert!(!tried.contains(call.instance()));
                tried.push(call.instance().clone());
            }
        }
    }

    #[test]
    fn lists_that_change_while_calls_are_under_way_do_no_harm() {
        let (view, control) = ServiceView::controlled(service());
        let view = view.with(|selection| selection.policy(Policy::LeastLoaded).eject(Eject::consecutive(1)));
        control.publish(instances(&[1.0; 10]));
        let calling = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let callers: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| {
                        let mut calls = 0u32;
                        while !view.is_stale() {
                            let Ok(call) = view.begin() else { continue };
                            calling.fetch_add(usize::from(calls == 0), Ordering::Relaxed);
                            calls += 1;
                            match calls % 3 {
                                0 => call.failed(),
                                1 => call.succeeded(),
                                _ => drop(call),
                            }
                        }
                        calls
                    })
                })
                .collect();
            let (mut length, lists) = (0, if cfg!(miri) { 30 } else { 300 });
            while length < lists || calling.load(Ordering::Relaxed) < 2 {
                control.publish(instances(&vec![1.0; length % 13]));
                length += 1;
            }
            control.publish(instances(&[1.0; 10]));
            control.set_stale(true);
            assert!(callers.into_iter().all(|caller| caller.join().unwrap() > 0));
        });
        control.publish([]);
        assert!(!view.shared.records.any_ejected(), "those that left are no longer counted");
    }
}
