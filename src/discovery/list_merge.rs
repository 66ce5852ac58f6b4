//! Merges polled and pushed lists of one service into one current list. No actor, no I/O.
//!
//! The rules are explained in `docs/architecture.md` under "Recovery": which list is newer, and which instances are
//! withheld from removal after the server in use may have forgotten them.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use actix_rt::time::Instant;

use crate::{
    client::Listed,
    model::{
        change::{server_time, Change, ServiceChanged, Source},
        instance::Instance,
        service::{Difference, ServiceInfo},
    },
    wire::exchange::WireProtocol,
};

/// The list that listeners and views have, and what orders the next one.
#[derive(Debug)]
pub(crate) struct CurrentList {
    pub(crate) info: Arc<ServiceInfo>,
    /// None while no list of the server in use has come.
    epoch: Option<u64>,
    pub(crate) protocol: WireProtocol,
    /// By the server's clock.
    pub(crate) server_millis: i64,
    /// When a list last confirmed or changed it.
    applied: Instant,
    pub(crate) changed: Instant,
    pub(crate) source: Source,
    pub(crate) received: SystemTime,
}

impl CurrentList {
    /// The current list to a listener that was told `last`; nothing if that is the same. Who was told the list that `step`
    /// led away from needs no comparing.
    pub(crate) fn change_since(&self, last: Option<&Arc<ServiceInfo>>, step: &Step) -> Option<ServiceChanged> {
        let difference = match (last, &step.from) {
            (Some(last), Some(from)) if Arc::ptr_eq(last, from) => step.difference.clone(),
            _ => Difference::between(last.map_or(&[][..], |last| &last.hosts), &self.info.hosts),
        };
        if last.is_some() && difference.is_empty() {
            return None;
        }
        let Difference { added, changed, removed } = difference;
        Some(ServiceChanged::new(Change {
            service: self.info.service(),
            info: self.info.clone(),
            added,
            changed,
            removed,
            first: last.is_none(),
            source: self.source,
            server_time: server_time(self.server_millis),
            received: self.received,
        }))
    }
}

/// From one list to the next.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Step {
    /// None before the first list.
    pub(crate) from: Option<Arc<ServiceInfo>>,
    pub(crate) difference: Difference,
}

/// How a list came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    Pushed,
    Polled {
        /// When the request was sent.
        sent: Instant,
    },
}

/// What became of a list.
#[derive(Debug, PartialEq)]
pub(crate) enum Merged {
    Changed(Step),
    Unchanged,
    /// Older than the current list.
    Outdated,
    /// A push that cannot be ordered: only a poll can tell what the list is.
    NeedsPoll,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct ListMerge {
    current: Option<CurrentList>,
    outage_hold: Duration,
    protect_from_empty: bool,
    /// When the first list of the current epoch came.
    epoch_began: Instant,
    /// Instances that no list of the current epoch has contained, and when a list first lacked them. By their address:
    /// they are alive in the current list.
    withheld: HashMap<*const Instance, Instant>,
    /// How many polls have found the list empty that is not believed yet.
    empty_polls: Option<u32>,
}

impl ListMerge {
    pub(crate) fn new(outage_hold: Duration, protect_from_empty: bool) -> Self {
        ListMerge {
            current: None,
            outage_hold,
            protect_from_empty,
            epoch_began: Instant::now(),
            withheld: HashMap::new(),
            empty_polls: None,
        }
    }

    /// None before the first list.
    pub(crate) fn current(&self) -> Option<&CurrentList> {
        self.current.as_ref()
    }

    pub(crate) fn is_withheld(&self, instance: &Arc<Instance>) -> bool {
        self.withheld.contains_key(&Arc::as_ptr(instance))
    }

    pub(crate) fn withheld(&self) -> usize {
        self.withheld.len()
    }

    /// An empty list has come that only a second poll makes credible.
    pub(crate) fn awaits_second_poll(&self) -> bool {
        self.empty_polls.is_some()
    }

    /// When the next list may remove a withheld instance.
    pub(crate) fn hold_ends(&self) -> Option<Instant> {
        self.withheld.values().map(|since| self.hold_end(*since)).min()
    }

    /// The hold counts from the first list that lacked the instance. A later epoch extends it once.
    fn hold_end(&self, since: Instant) -> Instant {
        (since.max(self.epoch_began) + self.outage_hold).min(since + self.outage_hold * 2)
    }

    /// A list from the disk counts until a server answers. None when one has.
    pub(crate) fn restore(&mut self, info: ServiceInfo) -> Option<Step> {
        if self.current.is_some() {
            return None;
        }
        self.replace(Listed { info, epoch: None, protocol: WireProtocol::V1 }, 0, Source::Cache);
        Some(Step::default())
    }

    /// `listed` is in order and filtered.
    pub(crate) fn merge(&mut self, mut listed: Listed, arrival: Arrival) -> Merged {
        let is_first = self.current.is_none();
        let is_new_epoch =
            listed.epoch.is_some() && self.current.as_ref().is_none_or(|list| list.epoch != listed.epoch);
        if arrival == Arrival::Pushed && (is_first || is_new_epoch) {
            return Merged::NeedsPoll;
        }
        if !is_new_epoch && self.is_outdated(&listed, arrival) {
            return Merged::Outdated;
        }
        if is_new_epoch {
            self.epoch_began = Instant::now();
        }
        let source = match arrival {
            Arrival::Pushed => Source::Push,
            Arrival::Polled { .. } if is_new_epoch && !is_first => Source::Failover,
            Arrival::Polled { .. } => Source::Poll,
        };
        let server_millis = listed.info.last_ref_time;
        let Some(from) = self.current.as_ref().map(|current| current.info.clone()) else {
            self.replace(listed, server_millis, source);
            return Merged::Changed(Step::default());
        };
        let is_cached = self.current.as_ref().is_some_and(|current| current.source == Source::Cache);
        let mut difference = Difference::between(&from.hosts, &listed.info.hosts);
        let kept = self.withhold(&mut difference.removed, &listed, is_new_epoch, arrival);
        put_back(&mut listed.info, kept);
        match &mut self.current {
            // One from the disk becomes the server's own, also when it is the same: from now on it counts as one.
            Some(current) if difference.is_empty() && is_kept_alike(&from, &listed.info) && !is_cached => {
                if listed.epoch.is_some() {
                    (current.epoch, current.server_millis) = (listed.epoch, server_millis);
                }
                current.applied = Instant::now();
                Merged::Unchanged
            }
            _ => {
                self.replace(listed, server_millis, source);
                Merged::Changed(Step { from: Some(from), difference })
            }
        }
    }

    fn replace(&mut self, listed: Listed, server_millis: i64, source: Source) {
        let Listed { info, epoch, protocol } = listed;
        let before = self.current.take().filter(|_| epoch.is_none());
        let (now, received) = (Instant::now(), SystemTime::now());
        self.current = Some(CurrentList {
            info: Arc::new(info),
            // Another server's list has neither epoch nor clock.
            epoch: before.as_ref().map_or(epoch, |before| before.epoch),
            server_millis: before.map_or(server_millis, |before| before.server_millis),
            protocol,
            applied: now,
            changed: now,
            source,
            received,
        });
    }

    /// Whether the current list is newer. A poll that was sent after it came always wins; the server's clock orders only
    /// pushes, and a poll that was under way when one came.
    fn is_outdated(&self, listed: &Listed, arrival: Arrival) -> bool {
        let Some(current) = &self.current else { return false };
        match arrival {
            Arrival::Polled { sent } if sent >= current.applied => false,
            _ => listed.epoch.is_none() || listed.info.last_ref_time < current.server_millis,
        }
    }

    /// Takes out of `removed` what is not believed to be removed.
    fn withhold(
        &mut self,
        removed: &mut Vec<Arc<Instance>>,
        listed: &Listed,
        is_new_epoch: bool,
        arrival: Arrival,
    ) -> Vec<Arc<Instance>> {
        let now = Instant::now();
        let is_cached = self.current.as_ref().is_some_and(|current| current.source == Source::Cache);
        let mut withheld = std::mem::take(&mut self.withheld);
        if is_new_epoch && !is_cached {
            for instance in removed.iter() {
                withheld.entry(Arc::as_ptr(instance)).or_insert(now);
            }
        }
        let is_empty = self.protect_from_empty && listed.info.hosts.is_empty() && !removed.is_empty() && !is_cached;
        let (polls, is_push) = (self.empty_polls.unwrap_or(0), arrival == Arrival::Pushed);
        self.empty_polls = (is_empty && (is_push || polls == 0)).then(|| polls + u32::from(!is_push));
        // Another server than the one in use may not know what that one was told.
        let keeps_all = self.awaits_second_poll() || (listed.epoch.is_none() && !is_cached);
        let is_held = |instance: &Arc<Instance>| {
            withheld.get(&Arc::as_ptr(instance)).is_some_and(|since| now < self.hold_end(*since))
        };
        let kept: Vec<_> = removed.extract_if(.., |instance| keeps_all || is_held(instance)).collect();
        let known = kept.iter().filter_map(|instance| withheld.get_key_value(&Arc::as_ptr(instance)));
        self.withheld = known.map(|(instance, since)| (*instance, *since)).collect();
        kept
    }
}

/// What a list says besides its instances.
fn is_kept_alike(one: &ServiceInfo, other: &ServiceInfo) -> bool {
    one.cache_millis == other.cache_millis && one.reach_protection_threshold == other.reach_protection_threshold
}

fn put_back(info: &mut ServiceInfo, kept: Vec<Arc<Instance>>) {
    if kept.is_empty() {
        return;
    }
    info.hosts.extend(kept);
    let clusters = info.clusters.clone();
    info.tidy(&clusters, false);
}

#[cfg(test)]
mod tests {
    use actix_rt::time::sleep;

    use super::*;
    use crate::model::service::ServiceName;

    const HOLD: Duration = Duration::from_secs(15);

    struct World {
        merge: ListMerge,
        clock: i64,
    }

    fn begin() -> World {
        tokio::time::pause();
        World { merge: ListMerge::new(HOLD, false), clock: 0 }
    }

    impl World {
        fn list(&self, hosts: &[u16], epoch: impl Into<Option<u64>>) -> Listed {
            let mut info = ServiceInfo::empty(&ServiceName::parse("orders").unwrap(), "");
            info.last_ref_time = self.clock;
            info.hosts = hosts.iter().map(|port| Arc::new(Instance::new("127.0.0.1", *port))).collect();
            Listed { info, epoch: epoch.into(), protocol: WireProtocol::V1 }
        }

        fn poll(&mut self, hosts: &[u16], epoch: impl Into<Option<u64>>) -> Merged {
            self.clock += 1000;
            let listed = self.list(hosts, epoch);
            self.merge.merge(listed, Arrival::Polled { sent: Instant::now() })
        }

        fn push(&mut self, hosts: &[u16], epoch: u64) -> Merged {
            self.clock += 1000;
            let listed = self.list(hosts, epoch);
            self.merge.merge(listed, Arrival::Pushed)
        }

        fn ports(&self) -> Vec<u16> {
            self.merge.current().unwrap().info.hosts.iter().map(|host| host.port).collect()
        }

        fn withheld(&self) -> Vec<u16> {
            let hosts = self.merge.current().unwrap().info.hosts.iter();
            hosts.filter(|host| self.merge.is_withheld(host)).map(|host| host.port).collect()
        }
    }

    #[actix::test]
    async fn a_removal_within_an_epoch_is_believed_at_once() {
        let mut world = begin();
        world.poll(&[1, 2, 3], 0);
        world.push(&[1, 2], 0);
        assert_eq!(world.ports(), [1, 2]);
        world.poll(&[], 0);
        assert_eq!(world.ports(), [0u16; 0]);
    }

    #[actix::test]
    async fn what_a_new_epoch_has_not_shown_yet_is_withheld_until_the_hold_ends() {
        let mut world = begin();
        world.poll(&[1, 2, 3], 0);
        world.poll(&[1], 1);
        assert_eq!((world.ports(), world.withheld()), (vec![1, 2, 3], vec![2, 3]));
        world.push(&[1, 2], 1);
        assert_eq!((world.ports(), world.withheld()), (vec![1, 2, 3], vec![3]));
        world.push(&[1], 1);
        assert_eq!((world.ports(), world.withheld()), (vec![1, 3], vec![3]), "2 was shown: its removal is believed");
        sleep(HOLD - Duration::from_millis(10)).await;
        world.push(&[1], 1);
        assert_eq!(world.ports(), [1, 3]);
        sleep(Duration::from_millis(10)).await;
        world.push(&[1], 1);
        assert_eq!((world.ports(), world.withheld()), (vec![1], vec![]));
    }

    #[actix::test]
    async fn later_epochs_extend_a_hold_to_twice_its_length_and_no_further() {
        let mut world = begin();
        world.poll(&[1, 2], 0);
        for epoch in 1..=29 {
            world.poll(&[1], epoch);
            assert_eq!(world.ports(), [1, 2], "after {epoch} s");
            sleep(Duration::from_secs(1)).await;
        }
        sleep(Duration::from_secs(1)).await;
        world.poll(&[1], 30);
        assert_eq!(world.ports(), [1]);
    }

    #[actix::test]
    async fn a_hold_is_extended_by_a_new_epoch_only() {
        let mut world = begin();
        world.poll(&[1, 2], 0);
        world.poll(&[1], 1);
        sleep(Duration::from_secs(14)).await;
        world.poll(&[1], 2);
        sleep(Duration::from_secs(2)).await;
        world.poll(&[1], 2);
        assert_eq!(world.ports(), [1, 2], "the second restart emptied the list again");
    }

    #[actix::test]
    async fn a_list_from_the_disk_is_never_held_against_a_server() {
        let mut world = begin();
        let cached = world.list(&[1, 2, 3], None).info;
        world.merge.restore(cached);
        world.poll(&[3], 0);
        assert_eq!(world.ports(), [3]);
    }

    #[actix::test]
    async fn a_list_from_the_disk_that_a_server_confirms_is_the_servers() {
        let mut world = begin();
        let cached = world.list(&[1, 2], None).info;
        world.merge.restore(cached);
        world.poll(&[1, 2], 0);
        assert_ne!(world.merge.current().unwrap().source, Source::Cache);
        assert_eq!(world.poll(&[1, 2], 0), Merged::Unchanged);
        world.poll(&[1], 1);
        assert_eq!((world.ports(), world.withheld()), (vec![1, 2], vec![2]), "the server may have forgotten it");
    }

    #[actix::test]
    async fn only_a_poll_is_the_first_list_of_an_epoch() {
        let mut world = begin();
        assert_eq!(world.push(&[1], 0), Merged::NeedsPoll);
        world.poll(&[1, 2], 0);
        assert_eq!(world.push(&[1], 1), Merged::NeedsPoll, "sent before the epoch, or after: nothing tells");
        assert_eq!(world.ports(), [1, 2]);
        assert_eq!(world.merge.current().unwrap().source, Source::Poll);
        world.poll(&[1, 2, 3], 1);
        assert_eq!(world.merge.current().unwrap().source, Source::Failover);
    }

    #[actix::test]
    async fn the_servers_clock_orders_pushes_and_a_poll_under_way() {
        let mut world = begin();
        let sent = Instant::now();
        world.poll(&[1], 0);
        sleep(Duration::from_millis(1)).await;
        world.push(&[1, 2], 0);
        world.clock -= 1500;
        assert_eq!(world.push(&[1], 0), Merged::Outdated);
        let slow = world.list(&[1], 0);
        assert_eq!(world.merge.merge(slow, Arrival::Polled { sent }), Merged::Outdated);
        world.clock = -100_000;
        world.poll(&[3], 0);
        assert_eq!(world.ports(), [3], "a poll that is sent now wins, whatever the clock says");
    }

    #[actix::test]
    async fn a_list_of_another_server_than_the_one_in_use_removes_nothing() {
        let mut world = begin();
        world.poll(&[1, 2], 0);
        world.poll(&[2, 3], None);
        assert_eq!((world.ports(), world.withheld()), (vec![1, 2, 3], vec![]));
        world.poll(&[1, 2], 0);
        assert_eq!(world.ports(), [1, 2], "it began no epoch");
    }

    #[actix::test]
    async fn what_a_list_says_besides_its_instances_is_kept_current_and_no_change_of_them() {
        let mut world = begin();
        let mut merge = |reach_protection_threshold, cache_millis| {
            let mut listed = world.list(&[80], 0);
            listed.info.reach_protection_threshold = reach_protection_threshold;
            listed.info.cache_millis = cache_millis;
            let merged = world.merge.merge(listed, Arrival::Polled { sent: Instant::now() });
            let info = world.merge.current().unwrap().info.clone();
            let difference = match merged {
                Merged::Changed(step) => Some(step.difference.is_empty()),
                _ => None,
            };
            (difference, info.reach_protection_threshold, info.cache_millis)
        };
        assert_eq!(merge(false, 10_000), (Some(true), false, 10_000), "the first one");
        assert_eq!(merge(false, 10_000), (None, false, 10_000));
        assert_eq!(merge(true, 10_000), (Some(true), true, 10_000));
        assert_eq!(merge(true, 3000), (Some(true), true, 3000));
        assert_eq!(merge(true, 3000), (None, true, 3000));
    }
}
