//! Pushed lists: where servers push to, which lists are accepted, and which subscriptions they are for.
//!
//! Whether a push sets a list, or is only a hint to poll it:
//!
//! | the push | it is |
//! |---|---|
//! | from the server in use, at the socket of this epoch | the list |
//! | during an outage of the server in use | a hint: it may have been sent before the outage |
//! | from another configured server | a hint: that server may know other instances |
//! | at the socket of an earlier epoch | a hint: it may have been sent before the restart |
//! | from an unknown address | a hint, or the list with `any_source` |
//! | any, with `hint_only` | a hint |
//! | of other clusters than the subscription's | a hint |
//!
//! Pushes are only an optimisation: the next poll finds every change that is dropped here.

use std::{io, net::IpAddr, rc::Rc};

use actix::{Context, Handler, WeakAddr};

use super::{actor::Registry, shared::Shared};
use crate::{
    client::Listed,
    discovery::{
        push_receiver::{OverBudget, PushReceiver, Pushed},
        subscriber::{Hint, PushedList},
        subscription::SubscriptionKey,
    },
    model::service::ServiceName,
    wire::{exchange::WireProtocol, v1::PushAddress},
};

impl Shared {
    /// Where the server in use is to push changes. `None` if pushes are off, or if the server cannot push.
    ///
    /// Looks the server up if needed, since the advertised address is the local address from which it is reached.
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
        let open = || self.open_receiver(ip, registry);
        let port = port.or_else(|| open().map_err(|error| self.pushes.log_open_failure(&error, &self.log)).ok())?;
        Some(PushAddress { ip, port: settings.advertise_port.unwrap_or(port) })
    }

    fn has_fixed_push_port(&self) -> bool {
        self.config.push.bind.is_some_and(|address| address.port() != 0)
    }

    /// Opens a socket for the current epoch, and returns its port.
    fn open_receiver(self: &Rc<Self>, reached_by: IpAddr, registry: &WeakAddr<Registry>) -> io::Result<u16> {
        let any = |ip: IpAddr| if ip.is_ipv4() { [0; 4].into() } else { IpAddr::from([0u16; 8]) };
        let bind = self.config.push.bind.unwrap_or_else(|| (any(reached_by), 0).into());
        let shared = Rc::downgrade(self);
        let trusts = Rc::new(move |ip| shared.upgrade().is_some_and(|shared| shared.trusts(ip)));
        let recipients = (registry.clone().recipient(), registry.clone().recipient());
        let epoch = self.nacos.epoch();
        let bound = PushReceiver::bind(bind, epoch, trusts, recipients, self.pushes.tally());
        let receiver = bound.map_err(|error| io::Error::new(error.kind(), format!("{bind}: {error}")))?;
        self.pushes.replace_receiver(receiver, epoch, &self.log)
    }

    /// Whether a datagram from `ip` may set a list. The sender's address is all that distinguishes a push from a
    /// forgery.
    fn trusts(&self, ip: IpAddr) -> bool {
        self.config.push.any_source || self.nacos.servers().trusts(ip)
    }

    /// Passes a pushed list to the subscriptions that it is for. Decides whether the list is accepted or only a hint.
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
