//! All that a server remembers, and what it does when something falls due.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    agenda::Agenda,
    auth::Sessions,
    catalogue::{Catalogue, InstanceKey, ServiceKey},
    clock::Clock,
    counters::Counters,
    dialect::Dialect,
    push::{PushId, Pushes},
    settings::Settings,
};

pub(crate) struct State {
    pub(crate) settings: Settings,
    pub(crate) clock: Clock,
    pub(crate) agenda: Agenda<Due>,
    pub(crate) catalogue: Catalogue,
    pub(crate) pushes: Pushes,
    pub(crate) sessions: Sessions,
    pub(crate) counters: Counters,
    /// Whether clients are told that beats without a body will do.
    pub(crate) light_beats: bool,
    /// Beside `public`, which is always there: name and description by id.
    pub(crate) namespaces: BTreeMap<String, (String, String)>,
}

/// What can fall due.
#[derive(Debug)]
pub(crate) enum Due {
    /// Has the instance beaten in time?
    CheckBeat { service: Arc<ServiceKey>, instance: Arc<InstanceKey>, registration: u64 },
    /// Is the service still without instances?
    CleanService { service: Arc<ServiceKey>, empty_since: Duration },
    /// A change of the service shows in its lists from now on.
    RenewList { service: Arc<ServiceKey> },
    /// Changes have been gathered for long enough.
    Push { service: Arc<ServiceKey> },
    /// Has the push been acknowledged?
    PushAgain(PushId),
    /// A datagram that a fault holds back.
    LetGo(PushId),
}

impl State {
    pub(crate) fn new(settings: Settings, pushes: Pushes) -> Self {
        State {
            clock: Clock::new(settings.clock_stands_still),
            sessions: Sessions::new(&settings),
            settings,
            agenda: Agenda::new(),
            catalogue: Catalogue::default(),
            pushes,
            counters: Counters::default(),
            light_beats: true,
            namespaces: BTreeMap::new(),
        }
    }

    pub(crate) fn dialect(&self) -> Dialect {
        self.settings.dialect
    }

    pub(crate) fn now(&self) -> Duration {
        self.clock.now()
    }

    /// Loses everything that a restart of the process would lose.
    pub(crate) fn forget_everything(&mut self) {
        self.forget_registrations();
        self.sessions = Sessions::new(&self.settings);
        self.light_beats = true;
        self.namespaces.clear();
    }

    /// Loses services, instances and subscribers.
    pub(crate) fn forget_registrations(&mut self) {
        self.catalogue = Catalogue::default();
        self.pushes.forget_subscribers();
        self.agenda.clear();
    }

    /// Does what is due by now.
    pub(crate) fn do_what_is_due(&mut self) {
        while let Some((at, due)) = self.agenda.take_due(self.clock.now()) {
            self.fall_due(at, due);
        }
    }

    /// Moves the clock on, step by step, so that everything due on the way happens at its own time.
    pub(crate) fn advance(&mut self, by: Duration) {
        let end = self.clock.now() + by;
        while let Some((at, due)) = self.agenda.take_due(end) {
            self.clock.jump_to(at);
            self.fall_due(at, due);
        }
        self.clock.jump_to(end);
    }

    fn fall_due(&mut self, at: Duration, due: Due) {
        match due {
            Due::CheckBeat { service, instance, registration } => {
                self.check_beat(at, service, instance, registration);
            }
            Due::CleanService { service, empty_since } => self.clean_service(&service, empty_since),
            Due::RenewList { service } => self.renew_list(&service),
            Due::Push { .. } | Due::PushAgain(_) | Due::LetGo(_) => self.push_due(due),
        }
    }
}
