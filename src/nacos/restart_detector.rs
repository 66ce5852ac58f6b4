//! Notices that the server in use restarts, also when nobody asks it anything.
//!
//! A server that restarts forgets its ephemeral instances. Nacos says so at the next beat; r-nacos does not, and restores an
//! instance from a light beat without its weight and metadata. So one idle connection to the server in use is watched.
//! Servers and load balancers close idle connections as they like, so its end means nothing by itself: it is opened again
//! at once, and only a connection that is refused, or accepted and closed again within a second, is an outage.

use std::{rc::Rc, time::Duration};

use actix_rt::{
    net::TcpStream,
    time::{sleep, timeout},
};
use futures_util::{future::select, pin_mut};
use tokio::io::AsyncReadExt as _;

use super::{server::Server, servers::Servers};

/// A refused connection is tried again after this. One that ends sooner was none: a proxy also accepts connections while
/// there is no server behind it.
const RETRY: Duration = Duration::from_secs(1);
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
    let mut is_out = false;
    loop {
        if let Ok(Ok(mut connection)) = timeout(CONNECT_TIMEOUT, server.dialer.connect()).await {
            let ended = drain(&mut connection);
            pin_mut!(ended);
            if timeout(RETRY, &mut ended).await.is_err() {
                is_out = false;
                servers.note_reachable(server);
                ended.await;
                continue;
            }
        }
        // One outage, however often it shows.
        if !std::mem::replace(&mut is_out, true) {
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
