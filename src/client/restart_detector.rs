//! Notices that the server in use restarts, also when nobody asks it anything.
//!
//! A server that restarts forgets its ephemeral instances. Nacos says so at the next beat; r-nacos does not, and restores an
//! instance from a light beat without its weight and metadata. So one idle connection to the server in use is watched.
//! Servers and load balancers close idle connections as they like, so its end means nothing by itself: it is opened again
//! at once, and only a connection that is refused, or accepted and closed again within a second, is an outage.

use std::{rc::Rc, time::Duration};

use actix_rt::{
    net::TcpStream,
    time::{sleep, timeout, Instant},
};
use futures_util::{future::select, pin_mut};
use tokio::io::AsyncReadExt as _;

use super::{server::Server, servers::Servers};

/// A refused connection is tried again after this. One that ends sooner was none: a proxy also accepts connections while
/// there is no server behind it.
const RETRY: Duration = Duration::from_secs(1);
/// Where connections end sooner than this, it is a habit: the next one that ends within a second is no outage.
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
        let watched = watch(&servers, &server);
        // Another server comes into use by a new epoch.
        let left = epochs.wait_for(|_| !servers.is_in_use(&server));
        pin_mut!(watched, left);
        select(watched, left).await;
    }
}

async fn watch(servers: &Servers, server: &Rc<Server>) {
    // Whether an outage has been noted that this would show again.
    let (mut is_refused, mut is_closed_early) = (false, false);
    loop {
        let began = Instant::now();
        let shown = match timeout(CONNECT_TIMEOUT, server.dialer.connect()).await {
            Ok(Ok(mut connection)) => {
                let ended = drain(&mut connection);
                pin_mut!(ended);
                if timeout(RETRY, &mut ended).await.is_err() {
                    is_refused = false;
                    servers.note_reachable(server);
                    if timeout(SETTLED - RETRY, &mut ended).await.is_err() {
                        is_closed_early = false;
                        ended.await;
                    }
                    continue;
                }
                Some(&mut is_closed_early)
            }
            // Not one that could not be tried: nobody could be asked for the server's address, or was silent.
            _ => server.dialer.was_refused_since(began).then_some(&mut is_refused),
        };
        // One outage, however often it shows.
        if shown.is_some_and(|is_known| !std::mem::replace(is_known, true)) {
            servers.note_outage(server);
        }
        sleep(RETRY).await;
    }
}

/// Until the connection ends. A server may say why it closes; a reset is an end, too.
async fn drain(connection: &mut TcpStream) {
    let mut answer = [0; 512];
    while connection.read(&mut answer).await.is_ok_and(|read| read > 0) {}
}

#[cfg(test)]
mod tests {
    use actix_rt::net::TcpListener;
    use awc::Client;
    use slog::Logger;

    use super::*;
    use crate::{config::ServerAddress, error::Operation};

    #[actix::test]
    async fn connections_that_often_end_within_a_second_are_one_outage() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = ServerAddress::parse(&listener.local_addr().unwrap().to_string(), "/nacos").unwrap();
        let log = Logger::root(slog::Discard, slog::o!());
        let servers = Rc::new(Servers::new(vec![address], RETRY, |_| Client::default(), log));
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
