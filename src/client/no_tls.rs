//! Replaces `tls.rs` when no TLS feature is on. No server address can be `https` then.
//!
//! It has the same names and types, so that no other file needs a `cfg`. `Config` rejects https addresses before.

use std::io;

use super::stream::Stream;
use crate::{config::Config, error::Error, runtime::sockets::TcpStream};

/// Has no value.
#[derive(Clone)]
pub(super) enum TlsConnectorService {}

pub(super) fn connector(_: &Config) -> Result<Option<TlsConnectorService>, Error> {
    Ok(None)
}

pub(super) async fn handshake(tls: &TlsConnectorService, _: &str, _: TcpStream) -> io::Result<Stream> {
    match *tls {}
}
