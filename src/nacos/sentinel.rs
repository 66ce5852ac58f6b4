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
use tokio::io::AsyncReadExt as _;

use crate::registry::Desk;

/// Before a refused connection is tried again. One that ends sooner was none: a proxy accepts also while there is nobody
/// behind it.
const RETRY: Duration = Duration::from_secs(1);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Watches the server in use.
pub(crate) async fn watch_server(desk: Weak<Desk>) {
    let mut habit = Habit::default();
    let mut habit_of = String::new();
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
        if habit_of != server.name {
            (habit, habit_of) = (Habit::default(), server.name.clone());
        }
        let address = (server.address.host.clone(), server.address.port);
        let trouble = habit.trouble;
        let in_doubt = if trouble == Some(Trouble::EndsAtOnce) { RETRY } else { Duration::ZERO };
        let watched = hold_connection(address, in_doubt, || {
            // It may have come back, and gone again, and come back since it was last seen.
            if let Some(present) = desk.upgrade().filter(|_| trouble.is_some()) {
                note_cut(&present);
            }
        });
        let changed = generations.changed();
        pin_mut!(watched, changed);
        let outcome = match select(watched, changed).await {
            Either::Left((outcome, _)) => outcome,
            // Another server may be in use; or it is this one, which does not refuse any more.
            Either::Right(_) => {
                habit.trouble = None;
                continue;
            }
        };
        let end = habit.judge(outcome);
        let serves = habit.trouble.is_none();
        if let Some(present) = desk.upgrade() {
            note(&present, end, serves);
        }
        if !serves {
            sleep(RETRY).await;
        }
    }
}

fn note(desk: &Desk, end: End, serves: bool) {
    let servers = desk.nacos.servers();
    match end {
        End::Usual if !serves => return,
        End::Usual => return servers.note_idle_end(false),
        End::Doubtful => {
            servers.note_idle_end(true);
            servers.next_generation();
        }
        End::Cut => note_cut(desk),
    }
    let in_use = servers.current().map_or_else(String::new, |server| server.name.clone());
    debug!(desk.log, "registry server ended our connections"; "server" => in_use, "how" => ?end);
}

/// What the server knew is gone, and its lists fill up again.
fn note_cut(desk: &Desk) {
    desk.nacos.servers().next_generation();
    desk.nacos.servers().note_outage();
}

/// How long the connection lived; an error if there was none. `opened` is called once it is no more `in_doubt`.
async fn hold_connection(address: (String, u16), in_doubt: Duration, opened: impl FnOnce()) -> io::Result<Duration> {
    let mut stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await??;
    let began = Instant::now();
    let ended = async {
        let mut answer = [0; 512];
        // A server may say why it closes; that it does is what counts. A reset is an end, too.
        while stream.read(&mut answer).await.is_ok_and(|read| read > 0) {}
    };
    pin_mut!(ended);
    if timeout(in_doubt, &mut ended).await.is_err() {
        opened();
        ended.await;
    }
    Ok(began.elapsed())
}

/// What the end of the connection says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The server does that with idle connections.
    Usual,
    /// It may be the one or the other: there is no habit yet.
    Doubtful,
    /// The server ended.
    Cut,
}

/// No server ends idle connections earlier.
const SHORTEST_HABIT: Duration = Duration::from_secs(4);

/// So many ends at the same age, one after the other, are a habit.
const TIMES_FOR_HABIT: u32 = 3;

/// For how long a server keeps idle connections: the age at which several of them ended one after the other. It has no such
/// habit if one lives longer.
#[derive(Debug, Default)]
struct Habit {
    usual: Option<Duration>,
    /// Of those that a habit could explain.
    last: Option<Duration>,
    /// Ends in a row that were like the last one.
    times: u32,
    /// Since the last connection that lived.
    trouble: Option<Trouble>,
}

/// Why there is no connection to watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Refuses,
    EndsAtOnce,
}

impl Habit {
    fn judge(&mut self, lived: io::Result<Duration>) -> End {
        let trouble = match lived {
            Err(_) => Some(Trouble::Refuses),
            Ok(lived) if lived < RETRY => Some(Trouble::EndsAtOnce),
            Ok(_) => None,
        };
        let known = std::mem::replace(&mut self.trouble, trouble);
        let Some(lived) = lived.ok().filter(|_| trouble.is_none()) else {
            // One outage, however often it shows.
            return if known.is_some() { End::Usual } else { End::Cut };
        };
        if lived < SHORTEST_HABIT {
            return End::Cut;
        }
        self.usual.take_if(|usual| lived > usual.mul_f64(LONGER));
        let last = self.last.replace(lived);
        self.times = if alike(last, lived) { self.times + 1 } else { 1 };
        if self.times >= TIMES_FOR_HABIT {
            self.usual = Some(lived);
        }
        match last {
            _ if alike(self.usual, lived) => End::Usual,
            Some(last) if !alike(Some(last), lived) => End::Cut,
            _ => End::Doubtful,
        }
    }
}

/// What servers and machines that are busy make of the same time.
const LONGER: f64 = 1.1;

fn alike(other: Option<Duration>, lived: Duration) -> bool {
    other.is_some_and(|other| lived.mul_f64(LONGER) >= other && lived <= other.mul_f64(LONGER))
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
        assert_eq!(habit.judge(lived(5000)), End::Doubtful, "the first one");
        assert_eq!(habit.judge(lived(5003)), End::Doubtful, "by chance?");
        assert_eq!(habit.judge(lived(4998)), End::Usual);
        assert_eq!(habit.judge(lived(1200)), End::Cut);
        assert_eq!(habit.judge(lived(5001)), End::Usual, "the habit is remembered");
    }

    #[test]
    fn a_short_life_is_a_cut_before_there_is_a_habit() {
        let mut habit = Habit::default();
        assert_eq!(habit.judge(lived(1200)), End::Cut);
        assert_eq!(habit.judge(lived(1200)), End::Cut, "again");
        assert_eq!(habit.judge(lived(5000)), End::Doubtful);
    }

    #[test]
    fn a_new_habit_is_learned() {
        let mut habit = Habit::default();
        habit.judge(lived(20_000));
        assert_eq!(habit.judge(lived(5000)), End::Cut);
        assert_eq!(habit.judge(lived(5000)), End::Doubtful);
        assert_eq!(habit.judge(lived(5000)), End::Usual, "three times the same is a habit");
        assert_eq!(habit.judge(lived(60_000)), End::Cut, "no idle connection outlives it");
        assert_eq!(habit.judge(lived(5000)), End::Cut, "so it was none");
    }

    #[test]
    fn refused_connections_are_one_outage() {
        let mut habit = Habit::default();
        assert_eq!(habit.judge(refused()), End::Cut);
        assert_eq!(habit.judge(refused()), End::Usual);
        habit.judge(lived(5000));
        assert_eq!(habit.judge(refused()), End::Cut, "a new one");
    }

    #[test]
    fn connections_that_end_at_once_are_one_outage_too() {
        let mut habit = Habit::default();
        assert_eq!(habit.judge(lived(3)), End::Cut);
        assert_eq!(habit.judge(lived(1)), End::Usual);
        assert_eq!(habit.judge(refused()), End::Usual, "the same one");
        habit.judge(lived(5000));
        assert_eq!(habit.judge(lived(1)), End::Cut, "a new one");
    }
}
