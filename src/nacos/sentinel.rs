//! Notices at once when a server ends, also when nobody asks it anything.
//!
//! A server that restarts forgets its ephemeral instances. Nacos says so at the next beat; r-nacos does not, and a light
//! beat there brings an instance back without its weight and metadata. So one idle connection to the server in use is
//! held, and watched for its end. Servers also end idle connections by themselves, after a time that is always the same:
//! one that ends earlier was cut off, and so was one after which the server refuses the next.

use std::{io, rc::Weak, time::Duration};

use actix_rt::{
    net::TcpStream,
    time::{sleep, timeout, Instant},
};
use futures_util::{
    future::{select, Either},
    pin_mut,
};
use slog::debug;
use tokio::{io::AsyncReadExt as _, sync::watch};

use crate::registry::Desk;

/// Before a refused connection is tried again.
const RETRY: Duration = Duration::from_secs(1);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Watches the server in use until the Registry ends.
pub(crate) async fn watch_server(desk: Weak<Desk>, mut ended: watch::Receiver<bool>) {
    let watching = watch_servers(desk);
    let ended = ended.wait_for(|ended| *ended);
    pin_mut!(watching, ended);
    select(watching, ended).await;
}

async fn watch_servers(desk: Weak<Desk>) {
    let mut habit = Habit::default();
    while let Some(present) = desk.upgrade() {
        let mut generations = present.nacos.servers().generations();
        generations.mark_unchanged();
        let server = present.nacos.servers().current();
        // Held any longer, it would keep the Registry's state alive while nothing happens.
        drop(present);
        let Some(server) = server else {
            sleep(RETRY).await;
            continue;
        };
        let address = (server.address.host.clone(), server.address.port);
        let watched = hold_connection(address);
        let changed = generations.changed();
        pin_mut!(watched, changed);
        let outcome = match select(watched, changed).await {
            Either::Left((outcome, _)) => outcome,
            // Another server is in use, with habits of its own.
            Either::Right(_) => {
                habit = Habit::default();
                continue;
            }
        };
        let refused = outcome.is_err();
        if habit.is_broken_by(outcome) {
            if let Some(present) = desk.upgrade() {
                debug!(present.log, "registry server ended our connections"; "server" => &server.name);
                present.nacos.servers().next_generation();
            }
        }
        if refused {
            sleep(RETRY).await;
        }
    }
}

/// How long the connection lived; an error if there was none.
async fn hold_connection(address: (String, u16)) -> io::Result<Duration> {
    let mut stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await??;
    let opened = Instant::now();
    let mut answer = [0; 512];
    // A server may say why it closes; that it does is what counts. A reset is an end, too.
    while stream.read(&mut answer).await.is_ok_and(|read| read > 0) {}
    Ok(opened.elapsed())
}

/// For how long a server keeps idle connections.
#[derive(Debug, Default)]
struct Habit {
    usual: Option<Duration>,
    last: Option<Duration>,
    refusing: bool,
}

impl Habit {
    /// Whether this end of a connection means that the server ended.
    fn is_broken_by(&mut self, lived: io::Result<Duration>) -> bool {
        let Ok(lived) = lived else {
            // One outage, however often it refuses.
            return !std::mem::replace(&mut self.refusing, true);
        };
        self.refusing = false;
        let alike = |other: Duration| lived >= other.mul_f64(0.9) && lived <= other.mul_f64(1.1);
        let usual = self.usual.is_some_and(|usual| lived >= usual.mul_f64(0.9));
        if usual || self.last.is_some_and(alike) {
            self.usual = Some(lived);
        }
        // The first end may be either: it is taken for the worse, and for the habit.
        self.usual = self.usual.or(Some(lived));
        self.last = Some(lived);
        !usual
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lived(millis: u64) -> io::Result<Duration> {
        Ok(Duration::from_millis(millis))
    }

    fn refused() -> io::Result<Duration> {
        Err(io::ErrorKind::ConnectionRefused.into())
    }

    #[test]
    fn an_end_before_its_usual_time_is_a_cut() {
        let mut habit = Habit::default();
        assert!(habit.is_broken_by(lived(5000)), "the first one may be");
        assert!(!habit.is_broken_by(lived(5003)));
        assert!(!habit.is_broken_by(lived(4998)));
        assert!(habit.is_broken_by(lived(1200)));
        assert!(!habit.is_broken_by(lived(5001)), "the habit is remembered");
    }

    #[test]
    fn a_new_habit_is_learned() {
        let mut habit = Habit::default();
        habit.is_broken_by(lived(20_000));
        assert!(habit.is_broken_by(lived(5000)));
        assert!(habit.is_broken_by(lived(5000)), "twice the same is a habit from now on");
        assert!(!habit.is_broken_by(lived(5000)));
    }

    #[test]
    fn refused_connections_are_one_outage() {
        let mut habit = Habit::default();
        assert!(habit.is_broken_by(refused()));
        assert!(!habit.is_broken_by(refused()));
        habit.is_broken_by(lived(5000));
        assert!(habit.is_broken_by(refused()), "a new one");
    }
}
