//! The state of the connection to the servers, and its log lines.
//!
//! | state | when |
//! |---|---|
//! | `Unknown` | no server has answered yet, and not all servers are lost |
//! | `Connected` | a request was answered, and there is one server, or none has failed within a minute |
//! | `Degraded` | a request was answered, and one of several servers has failed within a minute |
//! | `Lost` | every server is lost, or has rejected everything; at least one is lost |
//!
//! The state is computed after each request from the health of all servers, so no event can be missed. The log has one
//! line for each change.

use std::{rc::Rc, time::Duration};

use slog::{info, warn};

use super::{health::Health, nacos::Nacos, server::Server, servers::Servers};
use crate::model::connection::ConnectionState;

/// How long a server counts as failing after its last failure. A server that is no longer asked cannot show that it has
/// recovered.
const RECENT_FAILURE_WINDOW: Duration = Duration::from_secs(60);

impl Servers {
    /// The state of the connection after a request. `None` after a failure that does not mean that all servers are
    /// lost.
    pub(crate) fn connection_after(&self, answered: bool) -> Option<ConnectionState> {
        self.with_all(|list| state_after(list, answered))
    }
}

fn state_after(list: &[Rc<Server>], answered: bool) -> Option<ConnectionState> {
    let is = |state: fn(&Health) -> bool| move |server: &Rc<Server>| state(&server.health.borrow());
    let serves_nothing = |health: &Health| health.is_lost() || health.has_only_rejected();
    if list.iter().all(is(serves_nothing)) && list.iter().any(is(Health::is_lost)) {
        return Some(ConnectionState::Lost);
    }
    let is_failing = is(|health| health.has_failed_within(RECENT_FAILURE_WINDOW));
    // A single server that fails cannot be replaced by another one.
    let is_degraded = list.len() > 1 && list.iter().any(is_failing);
    answered.then_some(if is_degraded { ConnectionState::Degraded } else { ConnectionState::Connected })
}

impl Nacos {
    /// Updates the state after a request. Logs one line per change, however many requests there are.
    pub(super) fn note_connection(&self, answered: bool) {
        let Some(state) = self.servers.connection_after(answered) else { return };
        if !self.connection.send_if_modified(|now| std::mem::replace(now, state) != state) {
            return;
        }
        let in_use = self.servers.current().map_or_else(String::new, |server| server.name.clone());
        let error = self.servers.last_error().map_or_else(String::new, |error| error.to_string());
        match state {
            ConnectionState::Lost => warn!(self.log, "no server reachable"; "error" => error),
            ConnectionState::Degraded => {
                warn!(self.log, "server failing, another server answers"; "server" => in_use, "error" => error);
            }
            _ => info!(self.log, "connected to server"; "server" => in_use),
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
    async fn the_connection_is_lost_when_all_servers_fail_repeatedly() {
        let servers = servers(&["a:1", "b:1"]);
        for _ in 1..3 {
            (0..2).for_each(|index| refuse(&servers, index));
            assert_eq!(servers.connection_after(false), None);
        }
        (0..2).for_each(|index| refuse(&servers, index));
        assert_eq!(servers.connection_after(false), Some(ConnectionState::Lost));
        succeed(&servers, 1, Operation::Beat);
        assert_eq!(servers.connection_after(true), Some(ConnectionState::Degraded), "the other server still fails");
    }

    #[actix::test]
    async fn a_server_that_only_rejects_does_not_keep_the_connection() {
        let servers = servers(&["a:1", "b:1"]);
        succeed(&servers, 0, Operation::Beat);
        servers.rejected(&servers.all()[1], Operation::Beat);
        assert_eq!(servers.connection_after(true), Some(ConnectionState::Connected));
        (0..3).for_each(|_| refuse(&servers, 0));
        assert_eq!(servers.connection_after(true), Some(ConnectionState::Lost));
    }

    #[actix::test]
    async fn the_connection_is_degraded_for_a_while_after_a_failover() {
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
