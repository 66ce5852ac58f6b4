//! The Subscriber actors of a Registry.
//!
//! A Subscriber starts with the first listener or view of its key, and ends by itself with the last one. So the map
//! here may have ended entries, which are replaced or removed when they are found.

use std::{cell::RefCell, collections::HashMap};

use actix::Addr;
use futures_util::future::join_all;

use crate::{
    discovery::{
        subscriber::{DescribeSubscription, StopWatching, Subscriber},
        subscription::{SubscriptionKey, SubscriptionStatus},
    },
    model::service::ServiceName,
};

/// The Subscriber actors, one for each service and set of clusters.
#[derive(Default)]
pub(crate) struct Subscriptions {
    subscribers: RefCell<HashMap<SubscriptionKey, Addr<Subscriber>>>,
}

impl Subscriptions {
    /// The running Subscribers, in order. A Subscriber ends by itself when it has no listener and no view any more.
    pub(crate) fn all(&self) -> Vec<(SubscriptionKey, Addr<Subscriber>)> {
        let mut subscribers = self.subscribers.borrow_mut();
        subscribers.retain(|_, subscriber| subscriber.connected());
        let mut all: Vec<_> = subscribers.iter().map(|(key, subscriber)| (key.clone(), subscriber.clone())).collect();
        all.sort_by(|(one, _), (other, _)| one.cmp(other));
        all
    }

    pub(crate) fn of_service(&self, service: &ServiceName) -> Vec<(SubscriptionKey, Addr<Subscriber>)> {
        let subscribers = self.subscribers.borrow();
        let found = subscribers.iter().filter(|(key, subscriber)| key.service == *service && subscriber.connected());
        found.map(|(key, subscriber)| (key.clone(), subscriber.clone())).collect()
    }

    pub(crate) fn stop_all(&self) {
        for (_, subscriber) in self.subscribers.borrow_mut().drain() {
            subscriber.do_send(StopWatching);
        }
    }

    pub(crate) async fn describe(&self) -> Vec<SubscriptionStatus> {
        let asked = self.all().into_iter().map(|(_, subscriber)| subscriber.send(DescribeSubscription));
        join_all(asked).await.into_iter().flatten().collect()
    }

    /// Returns the running Subscriber of `key`. If there is none, `start` starts it.
    pub(super) fn get_or_start(
        &self,
        key: &SubscriptionKey,
        start: impl FnOnce() -> Addr<Subscriber>,
    ) -> Addr<Subscriber> {
        let mut subscribers = self.subscribers.borrow_mut();
        if let Some(living) = subscribers.get(key).filter(|subscriber| subscriber.connected()) {
            return living.clone();
        }
        let address = start();
        if subscribers.len() == subscribers.capacity() {
            // Remove Subscribers that have ended, so that the map does not grow for them.
            subscribers.retain(|_, subscriber| subscriber.connected());
        }
        subscribers.insert(key.clone(), address.clone());
        address
    }
}
