//! Pushed lists: opening the socket, telling servers where it is, and handing on what comes in.

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
        subscriber::{Hint, PushedList, SubscriptionKey},
    },
    model::service::ServiceName,
    runtime::supervision,
    wire::{exchange::WireProtocol, v1::PushAddress},
};

/// So many lists wait for the Registry; one that finds no room is pushed again.
const RECEIVER_MAILBOX: usize = 16;

/// The socket of one Registry, opened by the first subscription and anew in each epoch: what arrives at an older socket was
/// sent by a server that we left, or before its restart.
#[derive(Default)]
pub(crate) struct Pushes {
    /// None while there is no socket to be had: then lists are only polled, and the next poll tries again.
    receiver: RefCell<Option<Receiver>>,
    tally: Rc<PushTally>,
    /// That no socket can be had is in the log.
    is_missed: Cell<bool>,
}

/// The socket that servers push to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PushStatus {
    /// The UDP port it is bound to.
    pub port: u16,
    /// Pushes of our servers.
    pub pushes: u64,
    /// Datagrams from anybody else: dropped, or at most a reason to ask for a list.
    pub untrusted: u64,
    /// Datagrams of our servers that could not be read.
    pub unreadable: u64,
    /// Datagrams of our servers that were not read, since more came within a second than is decoded: a reason to ask for
    /// all lists.
    pub over_budget: u64,
}

struct Receiver {
    address: Addr<PushReceiver>,
    local: SocketAddr,
    epoch: u64,
}

impl Pushes {
    /// None before the first subscription, where pushes are off, and while no socket can be had.
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

    /// The port of the present epoch's socket; none if there is none.
    fn port(&self, epoch: u64, is_fixed: bool) -> Option<u16> {
        let receiver = self.receiver.borrow();
        receiver.as_ref().filter(|receiver| receiver.epoch == epoch || is_fixed).map(|receiver| receiver.local.port())
    }
}

impl Shared {
    /// Where the server in use may push to; none if it shall not, or cannot.
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
            port.or_else(|| self.open_receiver(ip, registry).map_err(|error| self.miss_receiver(&error)).ok())?;
        Some(PushAddress { ip, port: settings.advertise_port.unwrap_or(port) })
    }

    fn has_fixed_push_port(&self) -> bool {
        self.config.push.bind.is_some_and(|address| address.port() != 0)
    }

    /// Gives the port.
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
        if self.pushes.is_missed.take() {
            info!(self.log, "a socket for pushes is there now"; "address" => %local);
        } else {
            debug!(self.log, "receiving pushes"; "address" => %local);
        }
        self.pushes.stop();
        let address = supervision::start(receiver, RECEIVER_MAILBOX, self.log.clone());
        self.pushes.receiver.replace(Some(Receiver { address, local, epoch }));
        Ok(local.port())
    }

    /// One line, however many lists are asked for meanwhile.
    fn miss_receiver(&self, error: &io::Error) {
        if !self.pushes.is_missed.replace(true) {
            warn!(self.log, "no socket for pushes, lists are only asked for"; "error" => %error);
        }
    }

    /// Only servers may say what the list is: nothing else tells a push from a forgery.
    fn trusts(&self, ip: IpAddr) -> bool {
        self.config.push.any_source || self.nacos.servers().trusts(ip)
    }

    fn pushed(&self, pushed: Pushed) {
        let service = ServiceName::from_wire(&pushed.list.name, &pushed.list.group_name);
        let subscribers = self.subscriptions.of_service(&service);
        // A server that we left pushes on for a while, what it believes without our beats.
        let epoch = self.nacos.epoch();
        let is_current = self.has_fixed_push_port() || pushed.epoch == epoch;
        let may_be_list = pushed.trusted && !self.config.push.hint_only && is_current;
        if !(may_be_list && self.nacos.servers().may_be_current(pushed.from.ip().to_canonical())) {
            subscribers.iter().for_each(|(_, subscriber)| subscriber.do_send(Hint));
            return;
        }
        let info = pushed.list.into_info(&service);
        for (watched, subscriber) in subscribers {
            if covers(&info.clusters, &watched) {
                let listed = Listed { info: info.clone(), epoch: Some(epoch), protocol: WireProtocol::V1 };
                subscriber.do_send(PushedList(listed));
            } else {
                // To Nacos 2 and later we are one subscriber of a service, with the clusters that were asked for last.
                subscriber.do_send(Hint);
            }
        }
    }
}

/// Whether a list of these clusters has all that is watched: a list of one cluster says nothing about the others.
fn covers(clusters: &str, watched: &SubscriptionKey) -> bool {
    let told = |cluster| clusters.split(',').any(|told| told == cluster);
    clusters.is_empty() || (!watched.clusters.is_empty() && watched.clusters.split(',').all(told))
}

impl Handler<Pushed> for Registry {
    type Result = ();

    fn handle(&mut self, pushed: Pushed, _: &mut Context<Self>) {
        self.shared.pushed(pushed);
    }
}

/// Every list is asked for early, since nobody knows which ones the datagrams were about.
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
        let watched = |clusters: &str| SubscriptionKey {
            service: ServiceName::parse("orders").unwrap(),
            clusters: clusters.into(),
        };
        assert!(covers("", &watched("")) && covers("", &watched("a")));
        assert!(covers("b,a", &watched("a,b")) && covers("a,b", &watched("a")));
        assert!(!covers("a", &watched("")) && !covers("a", &watched("a,b")));
    }
}
