//! The socket that servers push changed lists to.

use std::{
    cell::{Cell, RefCell},
    io,
    net::SocketAddr,
    rc::Rc,
};

use actix::Addr;
use serde::Serialize;
use slog::{debug, info, warn, Logger};

use crate::{
    discovery::push_receiver::{PushReceiver, PushTally, StopReceiving},
    runtime::supervision,
};

/// How many lists may wait in the mailbox. A server repeats a push that was not acknowledged.
const RECEIVER_MAILBOX: usize = 16;

/// The push socket of one Registry. The first subscription opens it, and each epoch opens a new one: what arrives at an
/// older socket was sent by a server that is not in use any more, or before the server restarted.
#[derive(Default)]
pub(crate) struct Pushes {
    /// `None` until a socket could be opened. Until then lists are only polled, and each poll tries again.
    receiver: RefCell<Option<Receiver>>,
    tally: Rc<PushTally>,
    /// Whether the log already says that no socket could be opened.
    is_failure_logged: Cell<bool>,
}

/// The UDP socket that servers push changed lists to, with the number of datagrams since the start of the Registry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PushStatus {
    /// The UDP port to which the socket is bound.
    pub port: u16,
    /// Lists that servers have pushed.
    pub pushes: u64,
    /// Datagrams from addresses that belong to no server. They are dropped, or at most make the Registry poll a list
    /// early.
    pub untrusted: u64,
    /// Datagrams from servers that could not be decoded.
    pub unreadable: u64,
    /// Datagrams from servers that were not decoded because too many arrived within a second. All lists are polled
    /// early instead.
    pub over_budget: u64,
}

struct Receiver {
    address: Addr<PushReceiver>,
    local: SocketAddr,
    epoch: u64,
}

impl Pushes {
    /// `None` before the first subscription, if pushes are off, and while no socket could be opened.
    pub(crate) fn status(&self) -> Option<PushStatus> {
        let port = self.receiver.borrow().as_ref()?.local.port();
        Some(PushStatus {
            port,
            pushes: self.tally.pushes.get(),
            untrusted: self.tally.untrusted.get(),
            unreadable: self.tally.unreadable.get(),
            over_budget: self.tally.over_budget.get(),
        })
    }

    #[cfg(feature = "_testing")]
    pub(crate) fn receiver(&self) -> Option<Addr<PushReceiver>> {
        self.receiver.borrow().as_ref().map(|receiver| receiver.address.clone())
    }

    pub(crate) fn stop(&self) {
        if let Some(receiver) = self.receiver.take() {
            receiver.address.do_send(StopReceiving);
        }
    }

    /// The port of the socket, if there is one that belongs to this epoch or has a fixed port.
    pub(super) fn port(&self, epoch: u64, is_fixed: bool) -> Option<u16> {
        let receiver = self.receiver.borrow();
        receiver.as_ref().filter(|receiver| receiver.epoch == epoch || is_fixed).map(|receiver| receiver.local.port())
    }

    pub(super) fn tally(&self) -> Rc<PushTally> {
        self.tally.clone()
    }

    /// Starts `receiver` in place of the previous one, and returns its port.
    pub(super) fn replace_receiver(&self, receiver: PushReceiver, epoch: u64, log: &Logger) -> io::Result<u16> {
        let local = receiver.local_addr()?;
        if self.is_failure_logged.take() {
            info!(log, "opened push socket"; "address" => %local);
        } else {
            debug!(log, "opened push socket"; "address" => %local);
        }
        self.stop();
        let address = supervision::start(receiver, RECEIVER_MAILBOX, log.clone());
        self.receiver.replace(Some(Receiver { address, local, epoch }));
        Ok(local.port())
    }

    /// Logs one line until a socket is opened, however many polls try meanwhile.
    pub(super) fn log_open_failure(&self, error: &io::Error, log: &Logger) {
        if !self.is_failure_logged.replace(true) {
            warn!(log, "failed to open push socket, lists are only polled"; "error" => %error);
        }
    }
}
