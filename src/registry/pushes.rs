//! Pushed lists: the socket that servers push to, which pushes are believed, and which subscriptions they are for.

use std::{
    cell::{Cell, RefCell},
    io,
    net::{IpAddr, SocketAddr},
    rc::Rc,
};

use actix::{Addr, Context, Handler, WeakAddr};
use serde::Serialize;
use slog::{debug, info, warn};

use super::{actor::Registry, shared::Shared};
use crate::{
    client::Listed,
    discovery::{
        push_receiver::{OverBudget, PushReceiver, PushTally, Pushed, StopReceiving},
        subscriber::{Hint, PushedList},
        subscription::SubscriptionKey,
    },
    model::service::ServiceName,
    runtime::supervision,
    wire::{exchange::WireProtocol, v1::PushAddress},
};

/// How many lists may wait in the mailbox. A server pushes again a list that was not acknowledged.
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
    fn port(&self, epoch: u64, is_fixed: bool) -> Option<u16> {
        let receiver = self.receiver.borrow();
        receiver.as_ref().filter(|receiver| receiver.epoch == epoch || is_fixed).map(|receiver| receiver.local.port())
    }
}

impl Shared {
    /// Where the server in use is to push changes. `None` if pushes are off, or if the server cannot push.
    pub(super) async fn push_address(self: &Rc<Self>, registry: &WeakAddr<Registry>) -> Option<PushAddress> {
        let settings = &self.config.push;
        if !settings.enabled || self.nacos.is_disabled() {
            return None;
        }
        let server = self.nacos.servers().current()?;
        if server.protocol() == Some(WireProtocol::V3) {
            return None;
        }
        server.resolved.resolve(&server.address).await;
        let ip = settings.advertise_ip.or_else(|| server.resolved.local_ip())?;
        let port = self.pushes.port(self.nacos.epoch(), self.has_fixed_push_port());
        let port =
            port.or_else(|| self.open_receiver(ip, registry).map_err(|error| self.log_open_failure(&error)).ok())?;
        Some(PushAddress { ip, port: settings.advertise_port.unwrap_or(port) })
    }

    fn has_fixed_push_port(&self) -> bool {
        self.config.push.bind.is_some_and(|address| address.port() != 0)
    }

    /// Opens a socket in place of the previous one, and returns its port.
    fn open_receiver(self: &Rc<Self>, reached_by: IpAddr, registry: &WeakAddr<Registry>) -> io::Result<u16> {
        let any = |ip: IpAddr| if ip.is_ipv4() { [0; 4].into() } else { IpAddr::from([0u16; 8]) };
        let bind = self.config.push.bind.unwrap_or_else(|| (any(reached_by), 0).into());
        let shared = Rc::downgrade(self);
        let trusts = Rc::new(move |ip| shared.upgrade().is_some_and(|shared| shared.trusts(ip)));
        let recipients = (registry.clone().recipient(), registry.clone().recipient());
        let epoch = self.nacos.epoch();
        let bound = PushReceiver::bind(bind, epoch, trusts, recipients, self.pushes.tally.clone());
        let receiver = bound.map_err(|error| io::Error::new(error.kind(), format!("{bind}: {error}")))?;
        let local = receiver.local_addr()?;
        if self.pushes.is_failure_logged.take() {
            info!(self.log, "opened push socket"; "address" => %local);
        } else {
            debug!(self.log, "opened push socket"; "address" => %local);
        }
        self.pushes.stop();
        let address = supervision::start(receiver, RECEIVER_MAILBOX, self.log.clone());
        self.pushes.receiver.replace(Some(Receiver { address, local, epoch }));
        Ok(local.port())
    }

    /// Logs one line until a socket is opened, however many polls try meanwhile.
    fn log_open_failure(&self, error: &io::Error) {
        if !self.pushes.is_failure_logged.replace(true) {
            warn!(self.log, "failed to open push socket, lists are only polled"; "error" => %error);
        }
    }

    /// Whether a datagram from `ip` may set a list. The sender's address is all that distinguishes a push from a
    /// forgery.
    fn trusts(&self, ip: IpAddr) -> bool {
        self.config.push.any_source || self.nacos.servers().trusts(ip)
    }

    /// Passes a pushed list to the subscriptions that it is for. Decides whether the list is believed or only a hint.
    fn pushed(&self, pushed: Pushed) {
        let service = ServiceName::from_wire(&pushed.list.name, &pushed.list.group_name);
        let subscribers = self.subscriptions.of_service(&service);
        // A server that is no longer in use still pushes for a while. Its lists lack instances that do not beat there
        // any more.
        let epoch = self.nacos.epoch();
        let is_current = self.has_fixed_push_port() || pushed.epoch == epoch;
        let may_be_list = pushed.trusted && !self.config.push.hint_only && is_current;
        if !(may_be_list && self.nacos.servers().may_be_current(pushed.from.ip().to_canonical())) {
            subscribers.iter().for_each(|(_, subscriber)| subscriber.do_send(Hint));
            return;
        }
        let info = pushed.list.into_info(&service);
        for (key, subscriber) in subscribers {
            if covers(&info.clusters, &key) {
                let listed = Listed { info: info.clone(), epoch: Some(epoch), protocol: WireProtocol::V1 };
                subscriber.do_send(PushedList(listed));
            } else {
                // Nacos 2 and later keep one subscriber per service and address, with the clusters of the last poll.
                subscriber.do_send(Hint);
            }
        }
    }
}

/// Whether a list of these clusters has every cluster of the subscription. Empty means all clusters.
fn covers(clusters: &str, key: &SubscriptionKey) -> bool {
    let listed = |cluster| clusters.split(',').any(|listed| listed == cluster);
    clusters.is_empty() || (!key.clusters.is_empty() && key.clusters.split(',').all(listed))
}

impl Handler<Pushed> for Registry {
    type Result = ();

    fn handle(&mut self, pushed: Pushed, _: &mut Context<Self>) {
        self.shared.pushed(pushed);
    }
}

/// Polls every list early, because the datagrams were not decoded and could be for any of them.
impl Handler<OverBudget> for Registry {
    type Result = ();

    fn handle(&mut self, _: OverBudget, _: &mut Context<Self>) {
        self.shared.subscriptions.all().iter().for_each(|(_, subscriber)| subscriber.do_send(Hint));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_one_cluster_is_no_list_of_all() {
        let key = |clusters: &str| SubscriptionKey {
            service: ServiceName::parse("orders").unwrap(),
            clusters: clusters.into(),
        };
        assert!(covers("", &key("")) && covers("", &key("a")));
        assert!(covers("b,a", &key("a,b")) && covers("a,b", &key("a")));
        assert!(!covers("a", &key("")) && !covers("a", &key("a,b")));
    }
}
