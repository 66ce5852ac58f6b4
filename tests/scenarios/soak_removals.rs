//! Measures how long the views of the soak show an instance that was deregistered at a healthy server.

use std::{collections::BTreeMap, time::Duration};

use actix_nacos::{embedded::Dialect, Protocol};
use tokio::time::Instant;

use crate::support::measure::{Spread, Stalls};

/// A server is healthy if it has been in use for this time and no fault of it was ordered or lasted meanwhile.
///
/// An instance that no list of the present epoch has contained may be withheld from removal. So each list must have
/// contained all its instances since the epoch began. Until then a server that failed must be tried again (at most 2
/// s), each instance must be registered again (its beat interval, 1 s, or 2 s in the simulation), and the list must be
/// polled after that (2 s). The rest is for a slow network and a slow machine.
const HEALTHY_AFTER: Duration = Duration::from_secs(8);

/// The longest interval between two polls of a list.
pub const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// All removals must be seen at the latest this long after [`How::bound`].
const GRACE: Duration = Duration::from_secs(3);

/// How a removal reaches the views.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    Pushed,
    /// Nacos 1.4 gathers changes for a second, not for half a second, before it pushes them.
    PushedLate,
    Polled,
}

impl How {
    /// A server that knows v1 and v3 pushes by v1 only. If it has replaced a server without v1, the client still speaks
    /// v3.
    fn at(dialect: Dialect, protocol: Option<Protocol>) -> Self {
        match (dialect, protocol) {
            (Dialect::V3_2, _) | (_, Some(Protocol::V3)) => How::Polled,
            (Dialect::V1_4, _) => How::PushedLate,
            _ => How::Pushed,
        }
    }

    /// Views must show 95 percent of the removals within this time.
    fn bound(self) -> Duration {
        match self {
            How::Pushed => Duration::from_secs(1),
            How::PushedLate => Duration::from_millis(1500),
            How::Polled => POLL_INTERVAL + Duration::from_millis(1500),
        }
    }
}

/// The health of one server: the faults that were ordered, and since when it has been healthy.
#[derive(Debug, Clone, Copy)]
struct Health {
    is_faulty: bool,
    since: Instant,
}

/// An instance whose deregistration was answered, but that its view still shows.
#[derive(Debug, Clone, Copy)]
struct Pending {
    answered: Instant,
    how: How,
}

#[derive(Debug, Default)]
struct Seen {
    times: Vec<Duration>,
    in_time: usize,
    late: usize,
}

/// Decides which removals count, and records when the views showed them. Identifies instances by their ports.
pub struct Removals {
    health: [Health; 2],
    in_use: usize,
    /// The protocol that the server in use last spoke.
    protocol: Option<Protocol>,
    /// When each instance was registered.
    registered: BTreeMap<u16, Instant>,
    pending: BTreeMap<u16, Pending>,
    pushed: Seen,
    polled: Seen,
    overdue: usize,
    first_overdue: Option<String>,
    left_out: usize,
    /// `None` in a simulation, where time stands still meanwhile.
    stalls: Option<Stalls>,
}

#[derive(Debug, Default)]
pub struct Figures {
    pub pushed: Summary,
    pub polled: Summary,
    /// Removals that were seen later than the limit for all, or never.
    pub overdue: usize,
    pub first_overdue: Option<String>,
    /// Removals during which the machine stalled for more than 200 ms.
    pub left_out: usize,
}

#[derive(Debug, Default)]
pub struct Summary {
    pub removals: usize,
    /// Removals that were seen within the time for 95 percent.
    pub in_time: usize,
    pub median: Duration,
    pub longest: Duration,
}

impl Summary {
    /// Adds the numbers of removals. Leaves the times out.
    pub fn add(&mut self, other: &Summary) {
        self.removals += other.removals;
        self.in_time += other.in_time;
    }

    /// Also true if there were no removals.
    pub fn holds(&self) -> bool {
        self.in_time * 100 >= self.removals * 95
    }
}

impl Removals {
    pub fn new(is_simulated: bool) -> Self {
        let healthy = Health { is_faulty: false, since: Instant::now() };
        Removals {
            health: [healthy; 2],
            in_use: 0,
            protocol: None,
            registered: BTreeMap::new(),
            pending: BTreeMap::new(),
            pushed: Seen::default(),
            polled: Seen::default(),
            overdue: 0,
            first_overdue: None,
            left_out: 0,
            stalls: (!is_simulated).then(Stalls::watch),
        }
    }

    pub fn fault_ordered(&mut self, server: usize) {
        self.health[server].is_faulty = true;
        if server == self.in_use {
            self.give_up_all();
        }
    }

    pub fn fault_cleared(&mut self, server: usize) {
        self.health[server] = Health { is_faulty: false, since: Instant::now() };
    }

    pub fn is_used(&mut self, server: usize, protocol: Option<Protocol>) {
        self.protocol = protocol;
        if std::mem::replace(&mut self.in_use, server) != server {
            self.health[server].since = Instant::now();
            self.give_up_all();
        }
    }

    /// Returns how a removal reaches the views now, given the dialect of each server.
    pub fn how(&self, dialect_of: impl Fn(usize) -> Dialect) -> How {
        How::at(dialect_of(self.in_use), self.protocol)
    }

    fn is_healthy(&self) -> bool {
        let Health { is_faulty, since } = self.health[self.in_use];
        !is_faulty && since.elapsed() >= HEALTHY_AFTER
    }

    /// Stops waiting for the removal of an instance that is registered again: a late view need not show it.
    pub fn registering(&mut self, port: u16) {
        self.give_up(port);
    }

    pub fn registered(&mut self, port: u16) {
        self.registered.insert(port, Instant::now());
    }

    /// Whether the removal of `port` would count now: the server is healthy, and a list of this epoch should contain
    /// the instance.
    pub fn counts(&self, port: u16, how: How) -> bool {
        let is_listed = self.registered.get(&port).is_some_and(|registered| registered.elapsed() > how.bound());
        is_listed && self.is_healthy()
    }

    /// Records that the deregistration was answered, if it counts.
    pub fn deregistered(&mut self, port: u16, how: How) {
        if self.is_healthy() {
            self.pending.insert(port, Pending { answered: Instant::now(), how });
        }
    }

    pub fn pending(&self) -> impl Iterator<Item = u16> + '_ {
        self.pending.keys().copied()
    }

    /// Records that no view shows the instance any more.
    pub fn seen(&mut self, port: u16) {
        let Some(pending) = self.pending.remove(&port) else { return };
        let took = pending.answered.elapsed();
        self.count(pending, took);
    }

    fn count(&mut self, Pending { answered, how }: Pending, took: Duration) {
        if self.was_stalled_between(answered, answered + took) {
            self.left_out += 1;
            return;
        }
        let seen = if how == How::Polled { &mut self.polled } else { &mut self.pushed };
        seen.times.push(took);
        if took <= how.bound() {
            seen.in_time += 1;
        } else {
            seen.late += 1;
        }
    }

    fn was_stalled_between(&self, from: Instant, to: Instant) -> bool {
        self.stalls.as_ref().is_some_and(|stalls| stalls.any_between(from.into_std(), to.into_std()))
    }

    /// Stops waiting for a removal. If its time is already over, it counts as late.
    fn give_up(&mut self, port: u16) {
        let late = |pending: &Pending| pending.answered.elapsed() > pending.how.bound();
        if let Some(pending) = self.pending.remove(&port).filter(late) {
            self.count(pending, pending.answered.elapsed());
        }
    }

    fn give_up_all(&mut self) {
        let ports: Vec<_> = self.pending().collect();
        ports.into_iter().for_each(|port| self.give_up(port));
    }

    /// Finds removals that are overdue. Must be called from time to time.
    pub fn find_overdue(&mut self) {
        let is_overdue = |pending: &Pending| pending.answered.elapsed() > pending.how.bound() + GRACE;
        let overdue: Vec<_> =
            self.pending.iter().filter(|(_, pending)| is_overdue(pending)).map(|(p, q)| (*p, *q)).collect();
        for (port, pending) in overdue {
            self.pending.remove(&port);
            let Pending { answered, how } = pending;
            let took = answered.elapsed();
            if !self.was_stalled_between(answered, Instant::now()) {
                self.overdue += 1;
                self.first_overdue.get_or_insert_with(|| format!("port {port}, {how:?}, shown for {took:.1?}"));
            }
            self.count(pending, took);
        }
    }

    pub fn into_figures(self) -> Figures {
        let summary = |Seen { times, in_time, late }: Seen| {
            let Spread { median, longest, .. } = Spread::of(times);
            Summary { removals: in_time + late, in_time, median, longest }
        };
        Figures {
            pushed: summary(self.pushed),
            polled: summary(self.polled),
            overdue: self.overdue,
            first_overdue: self.first_overdue,
            left_out: self.left_out,
        }
    }
}
