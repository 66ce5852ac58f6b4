//! Detects that the server in use restarts, even if no request is sent to it.
//!
//! A server that restarts forgets its ephemeral instances. Nacos says so at the next beat. r-nacos does not, and
//! restores an instance from a light beat without its weight and metadata. So one idle connection to the server in use
//! is kept and watched.
//!
//! Servers and load balancers close idle connections at any time, so the end of the connection alone has no effect: it
//! is opened again at once. An outage is only a connection that is refused, or that is accepted and closed again within
//! a second.
//!
//! | what the detector sees | what it means |
//! |---|---|
//! | the connection ends | nothing: it is opened again |
//! | the new connection is refused | an outage |
//! | it is accepted and ends within 1 s | an outage, noted once until a connection has lasted for 5 s |
//! | it lasts for 1 s | the server is there; an outage that was noted ends, and an epoch begins |
//! | no address, or no answer to the attempt | nothing: the network may be at fault |
//!
//! The detector sends nothing, and reads only to notice the end. Idle connections cost a server little, and there is
//! one per Registry.

use std::{rc::Rc, time::Duration};

use actix_rt::time::{sleep, timeout, Instant};
use actix_tls::connect::ConnectError;
use futures_util::{future::select, pin_mut};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::{server::Server, servers::Servers};

/// The pause before a refused connection is tried again. A connection that ends within this time does not show that the
/// server is there, because a proxy accepts connections even if there is no server behind it.
const RETRY: Duration = Duration::from_secs(1);
/// Some servers close every connection soon. All connections that end within [`RETRY`] are one outage, until a
/// connection has lasted for this time.
const SETTLED: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Watches the server in use, for ever.
pub(crate) async fn detect_restarts(servers: Rc<Servers>) {
    let mut epochs = servers.epochs();
    loop {
        let Some(server) = servers.current() else {
            sleep(RETRY).await;
            continue;
        };
        let watched = watch(&servers, &server, async || server.dialer.connect().await);
        // Another server comes into use only with a new epoch.
        let left = epochs.wait_for(|_| !servers.is_in_use(&server));
        pin_mut!(watched, left);
        select(watched, left).await;
    }
}

/// Never returns. The caller drops it when another server comes into use.
async fn watch<C: AsyncRead + Unpin>(
    servers: &Servers,
    server: &Rc<Server>,
    connect: impl AsyncFn() -> Result<C, ConnectError>,
) {
    // Whether an outage of this kind has been noted already.
    let (mut refused_noted, mut closed_early_noted) = (false, false);
    loop {
        let began = Instant::now();
        let noted = match timeout(CONNECT_TIMEOUT, connect()).await {
            Ok(Ok(mut connection)) => {
                let ended = drain(&mut connection);
                pin_mut!(ended);
                if timeout(RETRY, &mut ended).await.is_err() {
                    refused_noted = false;
                    servers.note_reachable(server);
                    if timeout(SETTLED - RETRY, &mut ended).await.is_err() {
                        closed_early_noted = false;
                        ended.await;
                    }
                    continue;
                }
                Some(&mut closed_early_noted)
            }
            // Only a refused connection counts. A failed lookup or a silent address does not show that the server is
            // down.
            _ => server.dialer.was_refused_since(began).then_some(&mut refused_noted),
        };
        // Note an outage once, however many connections show it.
        if noted.is_some_and(|noted| !std::mem::replace(noted, true)) {
            servers.note_outage(server);
        }
        sleep(RETRY).await;
    }
}

/// Returns when the connection ends, by a close or a reset. Ignores what the server sends before.
async fn drain(connection: &mut (impl AsyncRead + Unpin)) {
    let mut answer = [0; 512];
    while connection.read(&mut answer).await.is_ok_and(|read| read > 0) {}
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, collections::VecDeque, future, io};

    use actix_rt::net::TcpListener;
    use awc::Client;
    use slog::Logger;
    use tokio::io::{duplex, AsyncWriteExt as _, DuplexStream};

    use super::{
        super::servers::tests::{servers, succeed},
        *,
    };
    use crate::{config::ServerAddress, error::Operation, runtime::history::History};

    const MS: Duration = Duration::from_millis(1);

    /// Watches a server in memory, on a clock that stands still while anything can go on. Its connections last as long
    /// as these times, and are refused where there is none. The connection after them is never opened.
    fn watch_connections(times: impl IntoIterator<Item = Option<Duration>>) -> Rc<Servers> {
        tokio::time::pause();
        let servers = Rc::new(servers(&["a:1"]));
        let (watching, server) = (servers.clone(), servers.current().unwrap());
        let times: RefCell<VecDeque<_>> = RefCell::new(times.into_iter().collect());
        actix_rt::spawn(async move {
            let connect = async || {
                let next = times.borrow_mut().pop_front();
                let Some(time) = next else { return future::pending().await };
                let Some(time) = time else {
                    server.dialer.note_refused();
                    return Err(ConnectError::Io(io::ErrorKind::ConnectionRefused.into()));
                };
                let (near, far) = duplex(64);
                actix_rt::spawn(keep_open(far, time));
                Ok(near)
            };
            watch(&watching, &server, connect).await;
        });
        servers
    }

    async fn keep_open(mut connection: DuplexStream, time: Duration) {
        connection.write_all(b"The detector ignores what a server sends.").await.unwrap();
        sleep(time).await;
    }

    fn is_in_outage(servers: &Servers) -> bool {
        servers.current().unwrap().health().is_in_outage()
    }

    #[actix::test]
    async fn connections_that_are_refused_one_after_the_other_are_one_outage_until_one_has_lasted() {
        let servers = watch_connections([None, None, None, Some(1500 * MS), None]);
        sleep(500 * MS).await;
        assert!(is_in_outage(&servers));
        succeed(&servers, 0, Operation::Beat);
        sleep(2000 * MS).await;
        assert!(!is_in_outage(&servers), "it has been noted already");
        sleep(2100 * MS).await;
        assert!(is_in_outage(&servers), "a connection has lasted for a second");
    }

    #[actix::test]
    async fn an_outage_ends_when_a_connection_has_lasted_for_a_second() {
        let servers = watch_connections([None, Some(5000 * MS)]);
        sleep(1900 * MS).await;
        assert!(is_in_outage(&servers) && servers.epoch() == 0);
        sleep(200 * MS).await;
        assert!(!is_in_outage(&servers) && servers.epoch() == 1);
    }

    #[actix::test]
    async fn a_connection_that_lasts_for_a_second_and_ends_is_no_outage() {
        let servers = watch_connections([Some(1100 * MS), Some(1100 * MS), Some(1100 * MS)]);
        sleep(5000 * MS).await;
        assert!(!is_in_outage(&servers) && servers.epoch() == 0);
    }

    #[actix::test]
    async fn connections_that_end_early_are_another_outage_after_one_has_lasted_for_five_seconds() {
        let early = Some(300 * MS);
        let servers = watch_connections([early, Some(4900 * MS), early, Some(5100 * MS), early]);
        sleep(400 * MS).await;
        assert!(is_in_outage(&servers));
        succeed(&servers, 0, Operation::Beat);
        // The connections begin at 0 s, 1.3 s, 6.2 s, 7.5 s and 12.6 s.
        sleep(12_100 * MS).await;
        assert!(!is_in_outage(&servers), "none has lasted for 5 s");
        sleep(500 * MS).await;
        assert!(is_in_outage(&servers));
    }

    #[actix::test]
    async fn connections_that_repeatedly_end_within_a_second_are_one_outage() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = ServerAddress::parse(&listener.local_addr().unwrap().to_string(), "/nacos").unwrap();
        let log = Logger::root(slog::Discard, slog::o!());
        let servers = Rc::new(Servers::new(vec![address], RETRY, |_| Client::default(), History::new(), log));
        actix_rt::spawn(detect_restarts(servers.clone()));
        let server = servers.current().unwrap();
        for (age, epochs) in [(300, 1), (1300, 1), (300, 1), (300, 1)] {
            let (connection, _) = listener.accept().await.unwrap();
            sleep(Duration::from_millis(age)).await;
            drop(connection);
            sleep(Duration::from_millis(100)).await;
            servers.succeeded(&server, Operation::Beat, |_| false);
            assert_eq!(servers.epoch(), epochs, "after {age} ms");
        }
    }
}
