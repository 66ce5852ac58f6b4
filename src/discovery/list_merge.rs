//! Merges polled and pushed lists of one service into one current list. No actor, no I/O.
//!
//! [`ListMerge::merge`] decides two questions about a list that arrives:
//!
//! 1. **Is it newer than the current list?** Polls and pushes overtake each other. A poll that was sent after the
//!    current list arrived is newer. For all other lists the server's clock decides, which orders only lists of the
//!    same epoch. If the clock cannot decide, or was set meanwhile, a poll has to.
//! 2. **Are the instances that it lacks really gone?** A server that has restarted lists too few instances until their
//!    clients have registered them again. So when an epoch begins, instances that the list lacks are *withheld* from
//!    removal, until a list of this epoch contains them or a time has passed.
//!
//! `docs/architecture.md` gives the reasons under "Recovery".
//!
//! | arrival | the current list | what happens |
//! |---|---|---|
//! | a poll | none, or of an older epoch | accepted; what it lacks is withheld |
//! | a poll, sent after the current list arrived | of the same epoch | accepted |
//! | a poll, sent before | of the same epoch | accepted if its server time is later, or if there is none |
//! | a push | none, or of an older epoch | dropped: a poll is needed |
//! | a push | of the same epoch | accepted if its server time is later, or if there is none |
//! | a list of the same server time with other instances | of the same epoch | dropped: a poll is needed |
//! | a push that is ahead of the server's clock at the last poll | of the same epoch | dropped: a poll is needed |
//! | a list of a server that is not in use | any | a poll sent after it is accepted, and removes nothing |

use std::{
    cmp::Ordering,
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

/// How much further a server's clock may advance between a poll and a push than our clock.
const MAX_CLOCK_DRIFT: Duration = Duration::from_secs(1);

/// The list that views show and listeners receive, with what is needed to order the next list.
#[derive(Debug)]
pub(crate) struct CurrentList {
    pub(crate) info: Arc<ServiceInfo>,
    /// `None` until the server in use has answered.
    epoch: Option<u64>,
    pub(crate) protocol: WireProtocol,
    /// When the server in use made its last list, by its own clock; 0 if it does not say.
    pub(crate) server_millis: i64,
    /// When a list last replaced or confirmed this one.
    applied: Instant,
    /// When this list replaced another one.
    pub(crate) changed: Instant,
    pub(crate) source: Source,
    pub(crate) received: SystemTime,
}

impl CurrentList {
    /// The change for a listener that received the list `last`. `None` if no instance differs.
    ///
    /// Most listeners have received the list that `step` replaced. For them the difference is known.
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

/// The difference between the previous list and the current one.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Step {
    /// The previous list. `None` if the current list is the first.
    pub(crate) from: Option<Arc<ServiceInfo>>,
    pub(crate) difference: Difference,
}

/// How a list arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    Pushed,
    Polled {
        /// When the request was sent.
        sent: Instant,
    },
}

/// The result of [`ListMerge::merge`].
#[derive(Debug, PartialEq)]
pub(crate) enum Merged {
    /// The list has replaced the current one. If both have the same instances, [`Step::difference`] is empty.
    Changed(Step),
    /// The list equals the current one.
    Unchanged,
    /// The list is older than the current one, and was dropped.
    Outdated,
    /// The list was dropped, because it is not known whether it is newer. Only a poll can show that.
    NeedsPoll,
}

/// How old a list is, compared to the current one.
enum Age {
    Newer,
    Older,
    /// Both were made in the same millisecond and differ, or the server's clock was set meanwhile.
    Unknown,
}

/// The current list of one service, and the rules by which another list replaces it.
///
/// Invariants: `withheld` has only instances of the current list. A list from the disk withholds nothing, since its
/// instances may have been gone for a day.
#[derive(Debug)]
pub(crate) struct ListMerge {
    current: Option<CurrentList>,
    outage_hold: Duration,
    protect_from_empty: bool,
    /// When the first list of the current epoch arrived.
    epoch_began: Instant,
    /// When the last accepted poll was sent, and the server time of its list. `None` if the server does not say.
    server_clock: Option<(Instant, i64)>,
    /// Instances that no list of the current epoch has contained, and when a list first lacked them. The address
    /// identifies an instance, because the current list keeps it alive.
    withheld: HashMap<*const Instance, Instant>,
    /// The number of polls that have found the list empty, while the empty list is not confirmed. 0 if only a push was
    /// empty.
    unconfirmed_empty: Option<u32>,
}

impl ListMerge {
    pub(crate) fn new(outage_hold: Duration, protect_from_empty: bool) -> Self {
        ListMerge {
            current: None,
            outage_hold,
            protect_from_empty,
            epoch_began: Instant::now(),
            server_clock: None,
            withheld: HashMap::new(),
            unconfirmed_empty: None,
        }
    }

    /// None before the first list.
    pub(crate) fn current(&self) -> Option<&CurrentList> {
        self.current.as_ref()
    }

    pub(crate) fn is_withheld(&self, instance: &Arc<Instance>) -> bool {
        self.withheld.contains_key(&Arc::as_ptr(instance))
    }

    /// How many instances are withheld from removal.
    pub(crate) fn withheld(&self) -> usize {
        self.withheld.len()
    }

    /// Whether an empty list has arrived that only a second poll can confirm.
    pub(crate) fn awaits_second_poll(&self) -> bool {
        self.unconfirmed_empty.is_some()
    }

    /// When the first hold ends. Only a list that arrives after that removes the instance.
    pub(crate) fn next_hold_end(&self) -> Option<Instant> {
        self.withheld.values().map(|since| self.hold_end(*since)).min()
    }

    /// The end of the hold of an instance that a list first lacked at `since`. A later epoch lets the hold begin anew,
    /// because the server may restart again before its list is complete. The hold ends after twice its length at the
    /// latest.
    fn hold_end(&self, since: Instant) -> Instant {
        (since.max(self.epoch_began) + self.outage_hold).min(since + self.outage_hold * 2)
    }

    /// Takes a list from the disk cache. `None` if there is already a list, which is newer.
    pub(crate) fn restore(&mut self, info: ServiceInfo) -> Option<Step> {
        if self.current.is_some() {
            return None;
        }
        self.replace(Listed { info, epoch: None, protocol: WireProtocol::V1 }, Source::Cache);
        Some(Step::default())
    }

    /// Merges a list that has just arrived. Its instances must be in order and of the right clusters
    /// ([`ServiceInfo::tidy`]).
    ///
    /// With `protect_from_empty`, an empty list that would remove instances needs a second poll to confirm it.
    pub(crate) fn merge(&mut self, mut listed: Listed, arrival: Arrival) -> Merged {
        let begins_epoch = self.begins_epoch(&listed);
        // A push may have been sent before the epoch began, so only a poll shows which instances the server still has.
        if arrival == Arrival::Pushed && (self.current.is_none() || begins_epoch) {
            return Merged::NeedsPoll;
        }
        if !begins_epoch {
            match self.age(&listed, arrival) {
                Age::Newer => {}
                Age::Older => return Merged::Outdated,
                Age::Unknown => return Merged::NeedsPoll,
            }
        }
        if begins_epoch {
            self.epoch_began = Instant::now();
        }
        if let (Arrival::Polled { sent }, Some(_)) = (arrival, listed.epoch) {
            let millis = listed.info.last_ref_time;
            self.server_clock = (millis != 0).then_some((sent, millis));
        }
        let source = match arrival {
            Arrival::Pushed => Source::Push,
            Arrival::Polled { .. } if begins_epoch && self.current.is_some() => Source::Failover,
            Arrival::Polled { .. } => Source::Poll,
        };
        let Some(from) = self.current.as_ref().map(|current| current.info.clone()) else {
            self.replace(listed, source);
            return Merged::Changed(Step::default());
        };
        let mut difference = Difference::between(&from.hosts, &listed.info.hosts);
        let withheld = self.withhold(&mut difference.removed, &listed, arrival, begins_epoch);
        put_back(&mut listed.info, withheld);
        // Even an equal list replaces a list from the disk, because its instances are confirmed by the server.
        if difference.is_empty() && is_otherwise_equal(&from, &listed.info) && !self.is_from_disk() {
            self.confirm(&listed);
            return Merged::Unchanged;
        }
        self.replace(listed, source);
        Merged::Changed(Step { from: Some(from), difference })
    }

    /// Whether this is the first list of an epoch. A list of a server that is not in use belongs to no epoch.
    fn begins_epoch(&self, listed: &Listed) -> bool {
        listed.epoch.is_some() && self.current.as_ref().is_none_or(|current| current.epoch != listed.epoch)
    }

    fn is_from_disk(&self) -> bool {
        self.current.as_ref().is_some_and(|current| current.source == Source::Cache)
    }

    /// How old `listed` is, compared to the current list. It is of the same epoch or of another server.
    fn age(&self, listed: &Listed, arrival: Arrival) -> Age {
        let Some(current) = &self.current else { return Age::Newer };
        if matches!(arrival, Arrival::Polled { sent } if sent >= current.applied) {
            return Age::Newer;
        }
        // Clocks of different servers cannot be compared.
        if listed.epoch.is_none() {
            return Age::Older;
        }
        match listed.info.last_ref_time.cmp(&current.server_millis) {
            Ordering::Less => Age::Older,
            _ if arrival == Arrival::Pushed && self.is_ahead(listed) => Age::Unknown,
            // Lists without a server time cannot be ordered, so the later one wins.
            Ordering::Equal if current.server_millis != 0 && !self.is_confirmed_by(listed) => Age::Unknown,
            _ => Age::Newer,
        }
    }

    /// Whether the server's clock would have to run too fast for a push to be newer than the last poll. Then it was set
    /// between the push and the poll. If it was set back after the push, the push is the older one.
    fn is_ahead(&self, listed: &Listed) -> bool {
        self.server_clock.is_some_and(|(sent, millis)| {
            let ahead = listed.info.last_ref_time.saturating_sub(millis);
            Duration::from_millis(u64::try_from(ahead).unwrap_or(0)) > sent.elapsed() + MAX_CLOCK_DRIFT
        })
    }

    /// Whether `listed` has the same instances as the current list, apart from withheld ones.
    fn is_confirmed_by(&self, listed: &Listed) -> bool {
        let Some(current) = &self.current else { return false };
        let mut difference = Difference::between(&current.info.hosts, &listed.info.hosts);
        difference.removed.retain(|instance| !self.is_withheld(instance));
        difference.is_empty()
    }

    /// Makes `listed` the current list.
    fn replace(&mut self, listed: Listed, source: Source) {
        let Listed { info, epoch, protocol } = listed;
        // A time from the disk says nothing about the server that will answer.
        let server_millis = if source == Source::Cache { 0 } else { info.last_ref_time };
        // A list of another server than the one in use changes neither the epoch nor the clock.
        let in_use = self.current.take().filter(|_| epoch.is_none());
        let (epoch, server_millis) = in_use.map_or((epoch, server_millis), |list| (list.epoch, list.server_millis));
        let (now, received) = (Instant::now(), SystemTime::now());
        let info = Arc::new(info);
        self.current =
            Some(CurrentList { info, epoch, protocol, server_millis, applied: now, changed: now, source, received });
    }

    /// Keeps the current list, and orders the next one by `listed`, which is equal and newer.
    fn confirm(&mut self, listed: &Listed) {
        let Some(current) = &mut self.current else { return };
        if listed.epoch.is_some() {
            (current.epoch, current.server_millis) = (listed.epoch, listed.info.last_ref_time);
        }
        current.applied = Instant::now();
    }

    /// Takes the instances out of `removed` that stay in the list for now.
    fn withhold(
        &mut self,
        removed: &mut Vec<Arc<Instance>>,
        listed: &Listed,
        arrival: Arrival,
        begins_epoch: bool,
    ) -> Vec<Arc<Instance>> {
        // The instances of a list from the disk may have been gone for a day, so the list of a server is accepted as it
        // is.
        if self.is_from_disk() {
            return Vec::new();
        }
        let now = Instant::now();
        if begins_epoch {
            for instance in removed.iter() {
                self.withheld.entry(Arc::as_ptr(instance)).or_insert(now);
            }
        }
        let is_doubtful = self.protect_from_empty && listed.info.hosts.is_empty() && !removed.is_empty();
        self.unconfirmed_empty = if is_doubtful { self.count_empty(arrival) } else { None };
        // A server that is not in use may not know instances that the server in use has registered.
        let withholds_all = self.awaits_second_poll() || listed.epoch.is_none();
        let is_held = |instance: &Arc<Instance>| {
            self.withheld.get(&Arc::as_ptr(instance)).is_some_and(|since| now < self.hold_end(*since))
        };
        let kept: Vec<_> = removed.extract_if(.., |instance| withholds_all || is_held(instance)).collect();
        // What the list contains, or what is removed now, is not withheld any more.
        let withheld = kept.iter().filter_map(|instance| self.withheld.get_key_value(&Arc::as_ptr(instance)));
        self.withheld = withheld.map(|(instance, since)| (*instance, *since)).collect();
        kept
    }

    /// Counts an empty list. `None` if a second poll has confirmed it. A push does not confirm it.
    fn count_empty(&self, arrival: Arrival) -> Option<u32> {
        let polls = self.unconfirmed_empty.unwrap_or(0);
        match arrival {
            Arrival::Pushed => Some(polls),
            Arrival::Polled { .. } => (polls == 0).then_some(1),
        }
    }
}

/// Whether two lists are equal except for their instances.
fn is_otherwise_equal(one: &ServiceInfo, other: &ServiceInfo) -> bool {
    one.cache_millis == other.cache_millis && one.reach_protection_threshold == other.reach_protection_threshold
}

/// Adds the withheld instances to the list, in their order.
fn put_back(info: &mut ServiceInfo, withheld: Vec<Arc<Instance>>) {
    if withheld.is_empty() {
        return;
    }
    info.hosts.extend(withheld);
    let clusters = info.clusters.clone();
    info.tidy(&clusters, false);
}

#[cfg(test)]
mod tests {
    use actix_rt::time::sleep;

    use super::*;
    use crate::model::service::ServiceName;

    const HOLD: Duration = Duration::from_secs(15);
    /// The milliseconds between two lists by the server's clock.
    const STEP: i64 = 10;

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
            self.clock += STEP;
            let listed = self.list(hosts, epoch);
            self.merge.merge(listed, Arrival::Polled { sent: Instant::now() })
        }

        fn push(&mut self, hosts: &[u16], epoch: u64) -> Merged {
            self.clock += STEP;
            let listed = self.list(hosts, epoch);
            self.merge.merge(listed, Arrival::Pushed)
        }

        fn ports(&self) -> Vec<u16> {
            self.merge.current().unwrap().info.hosts.iter().map(|host| host.port).collect()
        }

        fn withheld(&self) -> Vec<u16> {
            let hosts = self.merge.current().unwrap().info.hosts.iter();
            let ports: Vec<_> = hosts.filter(|host| self.merge.is_withheld(host)).map(|host| host.port).collect();
            assert_eq!(self.merge.withheld(), ports.len());
            ports
        }
    }

    #[actix::test]
    async fn a_removal_within_an_epoch_takes_effect_at_once() {
        let mut world = begin();
        world.poll(&[1, 2, 3], 0);
        world.push(&[1, 2], 0);
        assert_eq!(world.ports(), [1, 2]);
        world.poll(&[], 0);
        assert_eq!(world.ports(), [0u16; 0]);
    }

    #[actix::test]
    async fn instances_that_a_new_epoch_lacks_are_withheld_until_the_hold_ends() {
        let mut world = begin();
        world.poll(&[1, 2, 3], 0);
        world.poll(&[1], 1);
        assert_eq!((world.ports(), world.withheld()), (vec![1, 2, 3], vec![2, 3]));
        world.push(&[1, 2], 1);
        assert_eq!((world.ports(), world.withheld()), (vec![1, 2, 3], vec![3]));
        world.push(&[1], 1);
        assert_eq!((world.ports(), world.withheld()), (vec![1, 3], vec![3]), "a list of this epoch contained 2");
        sleep(HOLD - Duration::from_millis(10)).await;
        world.push(&[1], 1);
        assert_eq!(world.ports(), [1, 3]);
        sleep(Duration::from_millis(10)).await;
        world.push(&[1], 1);
        assert_eq!((world.ports(), world.withheld()), (vec![1], vec![]));
    }

    #[actix::test]
    async fn a_hold_ends_at_its_end() {
        let mut world = begin();
        world.poll(&[1, 2], 0);
        world.poll(&[1], 1);
        tokio::time::advance(HOLD).await;
        assert_eq!(world.merge.next_hold_end(), Some(Instant::now()));
        world.poll(&[1], 1);
        assert_eq!((world.ports(), world.merge.next_hold_end()), (vec![1], None));
    }

    #[actix::test]
    async fn an_empty_list_is_confirmed_by_the_second_poll_and_by_no_push() {
        let mut world = begin();
        world.merge = ListMerge::new(HOLD, true);
        world.poll(&[1, 2], 0);
        world.push(&[], 0);
        world.push(&[], 0);
        assert_eq!((world.ports(), world.merge.awaits_second_poll()), (vec![1, 2], true));
        world.poll(&[], 0);
        world.push(&[], 0);
        assert_eq!((world.ports(), world.merge.awaits_second_poll()), (vec![1, 2], true));
        world.poll(&[], 0);
        assert_eq!((world.ports(), world.merge.awaits_second_poll()), (vec![], false));
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
    async fn instances_of_a_list_from_the_disk_are_never_withheld() {
        let mut world = begin();
        let cached = world.list(&[1, 2, 3], None).info;
        world.merge.restore(cached);
        world.poll(&[3], 0);
        assert_eq!(world.ports(), [3]);
    }

    #[actix::test]
    async fn a_list_from_the_disk_replaces_no_other_list() {
        let mut world = begin();
        let cached = |world: &World| world.list(&[9], None).info;
        assert_eq!(world.merge.restore(cached(&world)), Some(Step::default()));
        assert_eq!(world.ports(), [9]);
        world.poll(&[1], 0);
        assert_eq!(world.merge.restore(cached(&world)), None);
        assert_eq!(world.ports(), [1]);
    }

    #[actix::test]
    async fn an_equal_list_of_a_server_replaces_a_list_from_the_disk() {
        let mut world = begin();
        let cached = world.list(&[1, 2], None).info;
        world.merge.restore(cached);
        world.poll(&[1, 2], 0);
        assert_ne!(world.merge.current().unwrap().source, Source::Cache);
        assert_eq!(world.poll(&[1, 2], 0), Merged::Unchanged);
        world.poll(&[1], 1);
        assert_eq!((world.ports(), world.withheld()), (vec![1, 2], vec![2]), "as any list of a server");
    }

    #[actix::test]
    async fn only_a_poll_is_the_first_list_of_an_epoch() {
        let mut world = begin();
        assert_eq!(world.push(&[1], 0), Merged::NeedsPoll);
        world.poll(&[1, 2], 0);
        assert_eq!(world.push(&[1], 1), Merged::NeedsPoll, "it may have been sent before the epoch began");
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
        world.clock -= STEP * 3 / 2;
        assert_eq!(world.push(&[1], 0), Merged::Outdated);
        let slow = world.list(&[1], 0);
        assert_eq!(world.merge.merge(slow, Arrival::Polled { sent }), Merged::Outdated);
        world.clock = -100_000;
        world.poll(&[3], 0);
        assert_eq!(world.ports(), [3], "a poll that is sent after the current list wins at any server time");
    }

    #[actix::test]
    async fn lists_of_the_same_server_time_that_differ_need_a_poll() {
        let mut world = begin();
        let sent = Instant::now();
        sleep(Duration::from_millis(1)).await;
        world.poll(&[1, 2], 0);
        let [same, other] = [&[1, 2][..], &[1]].map(|hosts| world.list(hosts, 0));
        for arrival in [Arrival::Pushed, Arrival::Polled { sent }] {
            assert_eq!(world.merge.merge(other.clone(), arrival), Merged::NeedsPoll);
            assert_eq!(world.merge.merge(same.clone(), arrival), Merged::Unchanged);
        }
        assert_eq!(world.ports(), [1, 2]);
        world.poll(&[1], 0);
        assert_eq!(world.ports(), [1]);
    }

    #[actix::test]
    async fn a_push_that_is_doubled_while_instances_are_withheld_needs_no_poll() {
        let mut world = begin();
        world.poll(&[1, 2], 0);
        world.poll(&[1], 1);
        world.push(&[1], 1);
        world.clock -= STEP;
        assert_eq!(world.push(&[1], 1), Merged::Unchanged);
        assert_eq!((world.ports(), world.withheld()), (vec![1, 2], vec![2]));
    }

    #[actix::test]
    async fn of_two_pushes_without_a_server_time_the_later_one_wins() {
        let mut world = begin();
        world.clock = -STEP;
        world.poll(&[1], 0);
        for hosts in [&[1, 2][..], &[1, 2, 3]] {
            world.clock = -STEP;
            world.push(hosts, 0);
        }
        assert_eq!(world.ports(), [1, 2, 3]);
    }

    #[actix::test]
    async fn a_push_from_before_the_servers_clock_was_set_back_needs_a_poll() {
        let mut world = begin();
        world.clock = 3_600_000;
        world.poll(&[1], 0);
        let late = world.list(&[1, 2], 0);
        world.clock = 0;
        world.poll(&[1], 0);
        sleep(Duration::from_secs(10)).await;
        assert_eq!(world.merge.merge(late, Arrival::Pushed), Merged::NeedsPoll);
        assert_eq!(world.ports(), [1]);
        world.clock += 10_000;
        world.push(&[1, 3], 0);
        assert_eq!(world.ports(), [1, 3], "the clock goes at its usual speed");
    }

    #[actix::test]
    async fn after_the_servers_clock_was_set_forward_pushes_are_believed_from_the_next_poll_on() {
        let mut world = begin();
        world.poll(&[1], 0);
        world.clock += 3_600_000;
        assert_eq!(world.push(&[1, 2], 0), Merged::NeedsPoll);
        world.poll(&[1, 2], 0);
        world.push(&[1, 2, 3], 0);
        assert_eq!(world.ports(), [1, 2, 3]);
    }

    #[actix::test]
    async fn a_push_may_be_ahead_of_the_servers_clock_by_a_second_and_no_more() {
        let mut world = begin();
        world.poll(&[1], 0);
        world.clock += 1000 - STEP;
        world.push(&[1, 2], 0);
        assert_eq!(world.ports(), [1, 2]);
        world.clock += 1 - STEP;
        assert_eq!(world.push(&[1, 2, 3], 0), Merged::NeedsPoll);
    }

    #[actix::test]
    async fn a_listener_that_missed_a_list_gets_the_difference_from_the_list_that_it_received() {
        let mut world = begin();
        let mut steps = Vec::new();
        for hosts in [&[1][..], &[1, 2], &[1, 2, 3]] {
            let Merged::Changed(step) = world.poll(hosts, 0) else { panic!("it changes") };
            steps.push((world.merge.current().unwrap().info.clone(), step));
        }
        let current = world.merge.current().unwrap();
        let added = |received: Option<usize>| {
            let change = current.change_since(received.map(|list| &steps[list].0), &steps[2].1)?;
            Some(change.added.iter().map(|instance| instance.port).collect::<Vec<_>>())
        };
        assert_eq!(added(None), Some(vec![1, 2, 3]));
        assert_eq!((added(Some(0)), added(Some(1)), added(Some(2))), (Some(vec![2, 3]), Some(vec![3]), None));
    }

    #[actix::test]
    async fn a_list_of_another_server_than_the_one_in_use_removes_nothing() {
        let mut world = begin();
        world.poll(&[1, 2], 0);
        world.poll(&[2, 3], None);
        assert_eq!((world.ports(), world.withheld()), (vec![1, 2, 3], vec![]));
        world.poll(&[1, 2], 0);
        assert_eq!(world.ports(), [1, 2], "no epoch has begun");
    }

    #[actix::test]
    async fn other_fields_of_a_list_are_updated_and_are_no_change_of_instances() {
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
        assert_eq!(merge(false, 10_000), (Some(true), false, 10_000), "the first list");
        assert_eq!(merge(false, 10_000), (None, false, 10_000));
        assert_eq!(merge(true, 10_000), (Some(true), true, 10_000));
        assert_eq!(merge(true, 3000), (Some(true), true, 3000));
        assert_eq!(merge(true, 3000), (None, true, 3000));
    }
}
