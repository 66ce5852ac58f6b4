//! The snapshot of the Registry that the live page shows.
//!
//! It is like the status, with the lists themselves, and is also answered while the Registry drains. It is not
//! public: its shape follows the page.

use actix::{Context, Handler, Message, ResponseFuture};
use futures_util::future::join_all;
use tokio::sync::watch;

use super::{actor::Registry, phase::Phase, status::RegistryStatus};
use crate::{
    discovery::subscriber::snapshot::{ListSnapshot, TakeSnapshot},
    error::{Error, Operation},
    runtime::history::Progress,
};

/// Asks for the status and all watched lists, also while the Registry is closing.
#[derive(Message)]
#[rtype(result = "Result<Snapshot, Error>")]
pub(crate) struct GetSnapshot;

/// The state of a Registry and of its watched lists at one moment.
pub(crate) struct Snapshot {
    pub(crate) status: RegistryStatus,
    pub(crate) namespace: String,
    /// Whether a `Shutdown` has begun, so that instances are being deregistered.
    pub(crate) is_closing: bool,
    /// Sorted by service.
    pub(crate) lists: Vec<ListSnapshot>,
}

impl Handler<GetSnapshot> for Registry {
    type Result = ResponseFuture<Result<Snapshot, Error>>;

    fn handle(&mut self, _: GetSnapshot, _: &mut Context<Self>) -> Self::Result {
        self.dispatch_until(Operation::Status, Phase::Ended, |shared| async move {
            let subscribers = shared.subscriptions.all().into_iter().map(|(_, subscriber)| subscriber);
            let lists = join_all(subscribers.map(|subscriber| subscriber.send(TakeSnapshot))).await;
            let mut lists: Vec<_> = lists.into_iter().flatten().collect();
            let place = |list: &ListSnapshot| (list.status.service.clone(), list.status.clusters.clone());
            lists.sort_by_cached_key(place);
            let subscriptions = lists.iter().map(|list| list.status.clone()).collect();
            Ok(Snapshot {
                status: shared.status(subscriptions),
                namespace: shared.config.namespace_id().into(),
                is_closing: shared.has_reached(Phase::Closing),
                lists,
            })
        })
    }
}

/// Subscribes to the progress of the Registry's history, which changes with every event.
#[derive(Message)]
#[rtype(result = "Result<watch::Receiver<Progress>, Error>")]
pub(crate) struct WatchProgress;

impl Handler<WatchProgress> for Registry {
    type Result = ResponseFuture<Result<watch::Receiver<Progress>, Error>>;

    fn handle(&mut self, _: WatchProgress, _: &mut Context<Self>) -> Self::Result {
        self.dispatch_until(Operation::Status, Phase::Ended, |shared| std::future::ready(Ok(shared.history.progress())))
    }
}
