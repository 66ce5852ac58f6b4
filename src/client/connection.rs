//! How the servers can be reached, and what the log says of it.

use std::{rc::Rc, time::Duration};

use slog::{info, warn};

use super::{health::Health, nacos::Nacos, server::Server, servers::Servers};
use crate::model::connection::ConnectionState;

/// A server that is not asked any more cannot show that it is healthy again: it counts as failing for this long.
const RECENT_FAILURE_WINDOW: Duration = Duration::from_secs(60);

impl Servers {
    /// What the end of a request says of the connection; nothing when it was a single failure.
    pub(crate) fn connection_after(&self, answered: bool) -> Option<ConnectionState> {
        let list = self.all();
        let is = |state: fn(&Health) -> bool| move |server: &Rc<Server>| state(&server.health.borrow());
        let serves_nothing = |health: &Health| health.is_lost() || health.has_only_rejected();
        if list.iter().all(is(serves_nothing)) && list.iter().any(is(Health::is_lost)) {
            return Some(ConnectionState::Lost);
        }
        let is_failing = is(|health| health.has_failed_within(RECENT_FAILURE_WINDOW));
        // Where there is no other server, none can serve instead.
        let is_degraded = list.len() > 1 && list.iter().any(is_failing);
        answered.then_some(if is_degraded { ConnectionState::Degraded } else { ConnectionState::Connected })
    }
}

impl Nacos {
    /// One line when the connection turns bad and one when it is good again, however many requests tell so.
    pub(super) fn note_connection(&self, answered: bool) {
        let Some(state) = self.servers.connection_after(answered) else { return };
        if !self.connection.send_if_modified(|now| std::mem::replace(now, state) != state) {
            return;
        }
        let in_use = self.servers.current().map_or_else(String::new, |server| server.name.clone());
        let error = self.servers.last_error().map_or_else(String::new, |error| error.to_string());
        match state {
            ConnectionState::Lost => warn!(self.log, "no registry server answers"; "last_error" => error),
            ConnectionState::Degraded => {
                warn!(self.log, "a registry server fails, another one serves"; "in_use" => in_use, "last_error" => error);
            }
            _ => info!(self.log, "the registry can be reached"; "in_use" => in_use),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::servers::tests::{refuse, servers, succeed},
        *,
    };
    use crate::error::Operation;

    #[actix::test]
    async fn the_connection_is_lost_when_all_fail_and_not_only_once() {
        let servers = servers(&["a:1", "b:1"]);
        for _ in 1..3 {
            (0..2).for_each(|index| refuse(&servers, index));
            assert_eq!(servers.connection_after(false), None);
        }
        (0..2).for_each(|index| refuse(&servers, index));
        assert_eq!(servers.connection_after(false), Some(ConnectionState::Lost));
        succeed(&servers, 1, Operation::Beat);
        assert_eq!(servers.connection_after(true), Some(ConnectionState::Degraded), "the other one still fails");
    }

    #[actix::test]
    async fn the_connection_is_lost_also_beside_a_server_that_has_only_rejected() {
        let servers = servers(&["a:1", "b:1"]);
        succeed(&servers, 0, Operation::Beat);
        servers.rejected(&servers.all()[1], Operation::Beat);
        assert_eq!(servers.connection_after(true), Some(ConnectionState::Connected));
        (0..3).for_each(|_| refuse(&servers, 0));
        assert_eq!(servers.connection_after(true), Some(ConnectionState::Lost));
    }

    #[actix::test]
    async fn the_connection_is_degraded_after_a_failover_and_for_a_while() {
        tokio::time::pause();
        let servers = servers(&["a:1", "b:1"]);
        refuse(&servers, 0);
        assert_eq!(servers.connection_after(false), None, "no other server has taken over yet");
        succeed(&servers, 1, Operation::Beat);
        assert_eq!(servers.connection_after(true), Some(ConnectionState::Degraded));
        actix_rt::time::sleep(RECENT_FAILURE_WINDOW).await;
        assert_eq!(servers.connection_after(true), Some(ConnectionState::Connected));
    }
}
