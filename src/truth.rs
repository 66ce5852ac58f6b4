//! What is believed of one service: polled and pushed lists, in one order. No actor, no I/O.
//!
//! All lists come through one door, [`Truth::offer`]. An older one is dropped; what an outage took out of a list is held
//! back; an equal one is no news.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use actix_rt::time::Instant;

use crate::{
    change::Source,
    instance::Instance,
    nacos::{IdleEnd, Listed, Origin},
    service::{Difference, ServiceInfo},
};

/// The list that everybody is told, and what orders the next one.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) info: Arc<ServiceInfo>,
    pub(crate) origin: Origin,
    /// By the clock of the origin's server.
    pub(crate) server_millis: i64,
    /// When a list last confirmed or changed it.
    pub(crate) applied: Instant,
    pub(crate) changed: Instant,
    pub(crate) source: Source,
    pub(crate) received: SystemTime,
}

/// From one list to the next.
#[derive(Debug, Default)]
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
        asked: Instant,
    },
}

/// While troubles follow each other, an instance that no list has any more is held for so many times the usual hold at most:
/// else one unsteady registry would keep the dead in every list for ever.
const LONGEST_HOLD: u32 = 4;

/// A usual beat interval, rounded up to the grid, and a second: after that all are back whom a restarted server forgot.
const SUSPICION: Duration = Duration::from_millis(6500);

/// See the module.
#[derive(Debug)]
pub(crate) struct Truth {
    held: Option<Held>,
    outage_hold: Duration,
    protect_from_empty: bool,
    /// Something happened after which a server may not know all instances.
    upheaval: bool,
    /// Until then nothing is taken out of the list but what has been missing for very long.
    hold_until: Option<Instant>,
    /// Since when every list has missed an instance; empty when none is held. By its address: what is held is alive from one
    /// list to the next, so that no two share one.
    missing_since: HashMap<*const Instance, Instant>,
    /// Until then an instance that went missing after it began is held, too.
    suspect_until: Option<Instant>,
    holding: bool,
    /// Polls in a row that gave an empty list which is not believed yet.
    empty_polls: u32,
}

impl Truth {
    pub(crate) fn new(outage_hold: Duration, protect_from_empty: bool) -> Self {
        Truth {
            held: None,
            outage_hold,
            protect_from_empty,
            upheaval: false,
            hold_until: None,
            suspect_until: None,
            missing_since: HashMap::new(),
            holding: false,
            empty_polls: 0,
        }
    }

    /// None before the first list.
    pub(crate) fn held(&self) -> Option<&Held> {
        self.held.as_ref()
    }

    /// Whether instances are held that the last list does not have: worth asking again soon.
    pub(crate) fn is_holding(&self) -> bool {
        !self.missing_since.is_empty()
    }

    /// The server could not be asked: it may come back empty.
    pub(crate) fn note_failure(&mut self) {
        self.upheaval = true;
    }

    /// A list from the disk counts until a server says anything. Gives nothing when it does not.
    pub(crate) fn restore(&mut self, info: ServiceInfo) -> Option<Step> {
        if self.held.is_some() {
            return None;
        }
        self.apply(info, Origin::disk(), 0, Source::Cache);
        Some(Step::default())
    }

    /// Gives what is new, if anything is. `info` is in order and filtered.
    pub(crate) fn offer(&mut self, listed: Listed, arrival: Arrival) -> Option<Step> {
        let Listed { mut info, origin, idle_end } = listed;
        if self.is_outdated(&info, &origin, arrival) {
            return None;
        }
        let source = self.note_origin(&origin, arrival);
        let server_millis = info.last_ref_time;
        let Some(from) = self.held.as_ref().map(|held| held.info.clone()) else {
            self.apply(info, origin, server_millis, source);
            return Some(Step::default());
        };
        let mut difference = Difference::between(&from.hosts, &info.hosts);
        self.suspect(difference.removed.len(), info.hosts.len(), idle_end);
        let kept = self.hold_back(&mut difference.removed, &info, arrival);
        put_back(&mut info, kept);
        match &mut self.held {
            Some(held) if difference.is_empty() && is_kept_alike(&held.info, &info) => {
                held.origin = origin;
                held.server_millis = server_millis;
                held.applied = Instant::now();
                None
            }
            _ => {
                self.apply(info, origin, server_millis, source);
                Some(Step { from: Some(from), difference })
            }
        }
    }

    fn apply(&mut self, info: ServiceInfo, origin: Origin, server_millis: i64, source: Source) {
        let (now, received) = (Instant::now(), SystemTime::now());
        let info = Arc::new(info);
        self.held = Some(Held { info, origin, server_millis, applied: now, changed: now, source, received });
    }

    /// Whether what we have is newer. Clocks of two servers, or of one before and after its restart, say nothing.
    fn is_outdated(&self, info: &ServiceInfo, origin: &Origin, arrival: Arrival) -> bool {
        let Some(held) = self.held.as_ref().filter(|held| held.origin == *origin) else { return false };
        match arrival {
            // Asked after the list that is held came: newer, whatever the clock says.
            Arrival::Polled { asked } if asked >= held.applied => false,
            _ => info.last_ref_time < held.server_millis,
        }
    }

    /// How this list was learned; opens the time in which nothing is taken out after an outage.
    fn note_origin(&mut self, origin: &Origin, arrival: Arrival) -> Source {
        let other_origin = self.held.as_ref().is_some_and(|held| held.origin != *origin);
        let upheaval = std::mem::take(&mut self.upheaval) || other_origin;
        if upheaval {
            self.hold_until = Some(Instant::now() + self.outage_hold);
        }
        match arrival {
            Arrival::Pushed => Source::Push,
            Arrival::Polled { .. } if upheaval && self.held.is_some() => Source::Failover,
            Arrival::Polled { .. } => Source::Poll,
        }
    }

    /// An idle connection that ended may have ended with the server: then that restarts empty. So a list that lost most of
    /// its instances just after such an end has to say so until each would have beaten; one that lost any, where it is not
    /// known yet what is usual.
    fn suspect(&mut self, lost: usize, left: usize, idle_end: Option<IdleEnd>) {
        let now = Instant::now();
        let Some(end) = idle_end.filter(|end| end.at.elapsed() < SUSPICION) else { return };
        let tolerated = if end.is_doubtful { 0 } else { left };
        if lost > tolerated && self.suspect_until.is_none_or(|until| now >= until) {
            self.suspect_until = Some(now + SUSPICION);
        }
    }

    /// Takes out of `lost` what is not believed to be lost.
    ///
    /// A server that restarted empty fills up again within a beat interval: for a while after an outage nothing is taken
    /// out of a list, until a poll after that still misses it. With `protect_from_empty` an empty list always needs a
    /// second poll.
    fn hold_back(&mut self, lost: &mut Vec<Arc<Instance>>, new: &ServiceInfo, arrival: Arrival) -> Vec<Arc<Instance>> {
        let polled = arrival != Arrival::Pushed;
        let now = Instant::now();
        let before = std::mem::take(&mut self.missing_since);
        let missing = lost.iter().map(Arc::as_ptr).map(|lost| (lost, before.get(&lost).copied().unwrap_or(now)));
        let missing: HashMap<_, _> = missing.collect();

        let empty = self.protect_from_empty && new.hosts.is_empty() && !lost.is_empty();
        let unconfirmed = empty && (self.empty_polls == 0 || !polled);
        self.empty_polls = if unconfirmed { self.empty_polls + u32::from(polled) } else { 0 };

        let in_hold = self.hold_until.is_some_and(|until| now < until) || (self.holding && !polled);
        let suspicious = self.suspect_until.is_some_and(|until| now < until);
        let (longest, shortest) = (self.outage_hold.saturating_mul(LONGEST_HOLD), self.outage_hold.min(SUSPICION));
        let is_held = |lost: &Arc<Instance>| {
            let missing_for = now - missing[&Arc::as_ptr(lost)];
            (in_hold && missing_for < longest) || (suspicious && missing_for < shortest)
        };
        let held: Vec<_> = lost.extract_if(.., |lost| unconfirmed || is_held(lost)).collect();
        self.holding = (in_hold || suspicious) && !held.is_empty();
        if !held.is_empty() {
            self.missing_since = missing;
        }
        held
    }
}

/// What a list says besides its instances.
fn is_kept_alike(one: &ServiceInfo, other: &ServiceInfo) -> bool {
    one.cache_millis == other.cache_millis && one.reach_protection_threshold == other.reach_protection_threshold
}

fn put_back(info: &mut ServiceInfo, held: Vec<Arc<Instance>>) {
    if held.is_empty() {
        return;
    }
    info.hosts.extend(held);
    let clusters = info.clusters.clone();
    info.tidy(&clusters, false);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Protocol, service::ServiceName};

    #[test]
    fn what_a_list_says_besides_its_instances_is_kept_current_and_no_change_of_them() {
        let mut truth = Truth::new(Duration::ZERO, false);
        let mut offer = |reach_protection_threshold, cache_millis| {
            let mut info = ServiceInfo::empty(&ServiceName::parse("orders").unwrap(), "");
            info.hosts.push(Arc::new(Instance::new("10.0.0.7", 80)));
            (info.reach_protection_threshold, info.cache_millis) = (reach_protection_threshold, cache_millis);
            let origin = Origin { server: "a:1".into(), protocol: Protocol::V1, outages: 0 };
            let listed = Listed { info, origin, idle_end: None };
            let step = truth.offer(listed, Arrival::Polled { asked: Instant::now() });
            let held = truth.held().unwrap().info.clone();
            (step.map(|step| step.difference.is_empty()), held.reach_protection_threshold, held.cache_millis)
        };
        assert_eq!(offer(false, 10_000), (Some(true), false, 10_000), "the first one");
        assert_eq!(offer(false, 10_000), (None, false, 10_000));
        assert_eq!(offer(true, 10_000), (Some(true), true, 10_000));
        assert_eq!(offer(true, 3000), (Some(true), true, 3000));
        assert_eq!(offer(true, 3000), (None, true, 3000));
    }
}
