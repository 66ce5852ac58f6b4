//! The state of the server.
//!
//! One mutex protects the whole state ([`Shared`](super::shared::Shared)). A request changes the state and enters
//! events for later into the agenda. The timer of the server's thread, or
//! [`EmbeddedServer::advance`](super::EmbeddedServer::advance), handles the events when they are due.
//!
//! Invariant: an entry of the agenda may be outdated when it is taken, never missing. So code that changes the state
//! need not remove entries; handlers check whether an entry still applies.

use std::{collections::BTreeMap, time::Duration};

use super::{
    agenda::{Agenda, Due},
    catalogue::Catalogue,
    clock::Clock,
    counters::Counters,
    dialect::Dialect,
    pushes::Pushes,
    sessions::Sessions,
    settings::Settings,
};

/// What the process of a Nacos server would have in memory.
pub(crate) struct State {
    pub(crate) settings: Settings,
    pub(crate) clock: Clock,
    pub(crate) agenda: Agenda<Due>,
    pub(crate) catalogue: Catalogue,
    pub(crate) pushes: Pushes,
    pub(crate) sessions: Sessions,
    pub(crate) counters: Counters,
    /// Whether answers allow beats without a body.
    pub(crate) light_beats: bool,
    /// Name and description by id. `public` always exists and is not contained.
    pub(crate) namespaces: BTreeMap<String, (String, String)>,
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

    /// Forgets everything that a restart of the process would lose.
    pub(crate) fn forget_everything(&mut self) {
        self.forget_registrations();
        self.sessions = Sessions::new(&self.settings);
        self.light_beats = true;
        self.namespaces.clear();
    }

    /// Forgets services, instances and subscribers.
    pub(crate) fn forget_registrations(&mut self) {
        self.catalogue = Catalogue::default();
        self.pushes.forget_subscribers();
        self.agenda.clear();
    }

    /// Handles all events that are due.
    pub(crate) fn do_what_is_due(&mut self) {
        while let Some((at, due)) = self.agenda.take_due(self.clock.now()) {
            self.handle_due(at, due);
        }
    }

    /// Moves the clock from event to event, so that each event happens at its own time.
    pub(crate) fn advance(&mut self, by: Duration) {
        let end = self.clock.now() + by;
        while let Some((at, due)) = self.agenda.take_due(end) {
            self.clock.jump_to(at);
            self.handle_due(at, due);
        }
        self.clock.jump_to(end);
    }

    /// Handles one event. `at` is when it was due, which may be earlier than now.
    fn handle_due(&mut self, at: Duration, due: Due) {
        match due {
            Due::CheckBeat { service, instance, registration } => {
                self.check_beat(at, service, instance, registration);
            }
            Due::CleanService { service, empty_since } => self.clean_service(&service, empty_since),
            Due::RenewList { service } => self.renew_list(&service),
            Due::Push { .. } | Due::PushAgain(_) | Due::SendDelayed(_) => self.push_due(due),
        }
    }
}
