//! The Subscriber actor: keeps one service's list current, and notifies its listeners and views of changes.
//!
//! When the next poll is due:
//!
//! | situation | interval |
//! |---|---|
//! | as a rule | 85 % of the `cacheMillis` of the list, within `min_poll_interval` and `max_poll_interval` |
//! | after a failed poll | at most 2 s |
//! | a hint, a change of the epoch, an empty list to confirm | soon: a second after the last poll at the earliest |
//! | instances are withheld | when the first hold ends |
//! | after a change, where the server does not push (v3) | 2 s, for 20 s |
//! | after the first poll | 50 to 100 % of the interval, so that services are not polled together |
//!
//! The actor never waits: polls, disk accesses and deliveries are futures of its context. A panic restarts it with
//! its list and its listeners, and loses [`UnderWay`], which `started` builds again.

#[cfg(feature = "actix-web")]
pub(crate) mod snapshot;

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use actix::{
    fut::{self, ActorFutureExt},
    Actor, ActorContext, AsyncContext, Context, Handler, MailboxError, Message, MessageResult, Recipient, SpawnHandle,
    StreamHandler, Supervised, WeakRecipient, WrapFuture,
};
use actix_rt::{task::spawn_blocking, time::Instant};
use futures_util::stream::{poll_fn, StreamExt};
use slog::{debug, warn, Logger};
use tokio::sync::mpsc;

use super::{
    disk_cache::CacheFile,
    list_merge::{Arrival, CurrentList, ListMerge, Merged, Step},
    listeners::{Delivery, Listener, ListenerId, Listeners},
    subscription::{SubscriptionKey, SubscriptionStatus},
    view::{ServiceRecords, ServiceView, ViewWriter},
};
use crate::{
    client::Listed,
    config::Config,
    error::Error,
    model::{
        change::{ServiceChanged, Source},
        service::Difference,
    },
    runtime::{
        history::{History, RegistryEventKind},
        timer_grid::Grid,
    },
    wire::exchange::WireProtocol,
};

/// The longest interval between a failed poll and the next one.
const MAX_RETRY_INTERVAL: Duration = Duration::from_secs(2);
/// After this time a listener whose mailbox was full is notified again.
///
/// The listener then receives the newest list, so nothing is lost by waiting.
const FULL_MAILBOX_RETRY: Duration = Duration::from_millis(50);
/// The shortest interval between a poll and a poll that is brought forward, so that a flood of hints does not cause a
/// flood of polls.
const MIN_EARLY_INTERVAL: Duration = Duration::from_secs(1);
/// The polls that a new epoch causes are spread over this time, because it causes one for each subscription.
const EPOCH_POLL_SPREAD: Duration = Duration::from_secs(1);

/// After this time the list is written to the cache although it has not changed. It is well below the day after which a
/// file is too old.
const CACHE_REFRESH_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// The polling interval for [`CHANGE_SERIES_WINDOW`] after a change, where the server does not push.
const CHANGE_SERIES_INTERVAL: Duration = Duration::from_secs(2);
/// Changes seldom come alone: a deployment replaces its instances one after the other.
const CHANGE_SERIES_WINDOW: Duration = Duration::from_secs(20);

/// Asks the Registry to request the list from a server now.
///
/// The answer contains the epoch and the protocol, unlike the answer to [`ListInstances`](crate::ListInstances).
#[derive(Debug, Clone, PartialEq, Message)]
#[rtype(result = "Result<Listed, Error>")]
pub(crate) struct PollList(pub(crate) SubscriptionKey);

/// Adds a listener. If it is known already, this only changes a weak listener to a strong one.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Listen(pub(crate) Listener<ServiceChanged>);

/// Removes one listener, or all.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct StopListening(pub(crate) Option<Recipient<ServiceChanged>>);

/// Adds a view.
///
/// Views share the list. `healthy_only` changes only what a view shows.
#[derive(Message)]
#[rtype(result = "ServiceView")]
pub(crate) struct AddView {
    pub(crate) healthy_only: bool,
}

/// Carries a list that a server pushed.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub(crate) struct PushedList(pub(crate) Listed);

/// Reports that the list may have changed. The source need not be trusted, since only a poll follows.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub(crate) struct Hint;

/// Reports that the server in use may have forgotten instances and push subscriptions. The poll that follows shows
/// which instances are missing, and renews the push subscription.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub(crate) struct EpochBegan;

/// Ends a Subscriber.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct StopWatching;

/// Asks for the entry of this subscription in the status.
#[derive(Message)]
#[rtype(result = "SubscriptionStatus")]
pub(crate) struct DescribeSubscription;

/// The settings of one Subscriber.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) history: Arc<History>,
    pub(crate) min_interval: Duration,
    pub(crate) max_interval: Duration,
    pub(crate) protect_from_empty: bool,
    pub(crate) outage_hold: Duration,
    pub(crate) cache: Option<CacheFile>,
    /// The records of the calls to the service's instances, shared by all its subscriptions.
    pub(crate) records: Arc<ServiceRecords>,
    pub(crate) grid: Grid,
    pub(crate) log: Logger,
}

impl Settings {
    pub(crate) fn new(config: &Config, subscription: &SubscriptionKey, grid: Grid, history: Arc<History>) -> Self {
        let file = |folder: &PathBuf| CacheFile::new(folder, config.namespace_id(), subscription);
        Settings {
            history,
            min_interval: config.min_poll_interval,
            max_interval: config.max_poll_interval,
            protect_from_empty: config.protect_from_empty,
            outage_hold: config.outage_hold,
            cache: config.cache_dir.as_ref().map(file),
            records: ServiceRecords::new(subscription.service.clone(), None),
            grid,
            log: config.logger.clone(),
        }
    }
}

/// Merges the polled and pushed lists of one subscription into one current list, and notifies its listeners and views.
///
/// It polls from its start, at the interval that the server asks for, within the configured bounds. It ends on
/// [`StopWatching`], when its last listener and view are gone, and when the Registry, which it holds weakly, has ended.
pub(crate) struct Subscriber {
    subscription: SubscriptionKey,
    registry: WeakRecipient<PollList>,
    settings: Settings,
    merge: ListMerge,
    view: ViewWriter,
    listeners: Listeners,
    /// Messages to weak listeners that they have not handled yet.
    deliveries: mpsc::UnboundedSender<Delivery>,
    under_way: UnderWay,
    /// When the last poll was sent.
    last_poll: Option<Instant>,
    status: Status,
}

/// The timers, requests and disk accesses under way in the actor's context. A restart loses them all.
#[derive(Default)]
struct UnderWay {
    polling: Polling,
    cache: Cache,
    last_write: Option<Instant>,
    /// Whether a timer will notify the listeners whose mailboxes were full.
    retry_is_armed: bool,
}

#[derive(Default)]
enum Polling {
    #[default]
    NotScheduled,
    Scheduled {
        timer: SpawnHandle,
        due: Instant,
    },
    /// A poll has been sent and not been answered. `repeat_soon`: the poll may miss something that has happened since.
    Sent {
        repeat_soon: bool,
    },
}

/// The use of the cache file.
#[derive(Default, PartialEq)]
enum Cache {
    /// Neither read nor written yet.
    #[default]
    Untouched,
    Idle,
    /// `write_again`: the list has changed since.
    Writing {
        write_again: bool,
    },
}

/// Facts for [`SubscriptionStatus`] that the Subscriber does not need otherwise.
#[derive(Default)]
struct Status {
    last_success: Option<Instant>,
    last_error: Option<Error>,
    polls: u64,
    pushes: u64,
    ignored_pushes: u64,
    changes: u64,
}

impl Subscriber {
    pub(crate) fn new(subscription: SubscriptionKey, registry: WeakRecipient<PollList>, settings: Settings) -> Self {
        Subscriber {
            view: ViewWriter::new(
                subscription.service.clone(),
                subscription.clusters.clone(),
                settings.records.clone(),
            ),
            merge: ListMerge::new(settings.outage_hold, settings.protect_from_empty),
            subscription,
            registry,
            settings,
            listeners: Listeners::default(),
            deliveries: mpsc::unbounded_channel().0,
            under_way: UnderWay::default(),
            last_poll: None,
            status: Status::default(),
        }
    }

    /// The future that runs the timers of waiting views. It is not part of the actor, so restarts do not disturb it.
    pub(crate) fn clock(&self) -> impl std::future::Future<Output = ()> + 'static {
        self.view.keep_time()
    }

    // Polling.

    /// Sends a poll. Only the timer calls this, so no other poll is under way.
    fn poll(&mut self, ctx: &mut Context<Self>) {
        self.listeners.remove_ended();
        if self.is_unused() {
            return ctx.stop();
        }
        let Some(registry) = self.registry.upgrade() else { return ctx.stop() };
        let sent = Instant::now();
        self.last_poll = Some(sent);
        self.under_way.polling = Polling::Sent { repeat_soon: false };
        let answered = registry.send(PollList(self.subscription.clone())).into_actor(self);
        ctx.spawn(answered.map(move |answer, subscriber, ctx| subscriber.polled(sent, answer, ctx)));
    }

    /// Takes the answer to the poll that was sent at `sent`, and arms the next poll.
    fn polled(&mut self, sent: Instant, answer: Result<Result<Listed, Error>, MailboxError>, ctx: &mut Context<Self>) {
        self.status.polls += 1;
        match answer {
            Ok(Ok(listed)) => {
                self.status.last_success = Some(Instant::now());
                self.status.last_error = None;
                self.apply(listed, Arrival::Polled { sent }, ctx);
                self.view.set_stale(false);
            }
            Err(MailboxError::Closed) | Ok(Err(Error::Stopped)) => return ctx.stop(),
            Ok(Err(error)) => self.poll_failed(error, ctx),
            Err(error) => self.poll_failed(error.into(), ctx),
        }
        let repeat_soon = matches!(self.under_way.polling, Polling::Sent { repeat_soon: true });
        self.poll_after(self.next_interval(repeat_soon), ctx);
    }

    /// Views keep their list and become stale. If there is no list yet, the list of the cache file is used.
    fn poll_failed(&mut self, error: Error, ctx: &mut Context<Self>) {
        debug!(self.settings.log, "failed to fetch service list";
            "service" => %self.subscription.service, "error" => %error);
        self.status.last_error = Some(error);
        self.view.set_stale(true);
        if self.merge.current().is_none() {
            self.load_cached(ctx);
        }
    }

    /// When to poll again, by the table of the module. `repeat_soon`: something happened while the poll was under
    /// way.
    fn next_interval(&self, repeat_soon: bool) -> Duration {
        let settings = &self.settings;
        // Nacos 1.4 stops pushing to a client that polls later than the cache time, so leave time for the timer grid
        // and the request.
        let cache_time =
            self.merge.current().map_or(settings.max_interval, |list| list.info.cache_time().mul_f64(0.85));
        let interval = cache_time.clamp(settings.min_interval, settings.max_interval);
        if repeat_soon {
            return interval.min(MIN_EARLY_INTERVAL);
        }
        if self.status.last_error.is_some() {
            return interval.min(MAX_RETRY_INTERVAL);
        }
        // The hold ends only when a list arrives after it. If servers push and nothing changes, only a poll brings a
        // list.
        if let Some(end) = self.merge.next_hold_end() {
            return interval.min(end.saturating_duration_since(Instant::now()).max(MIN_EARLY_INTERVAL));
        }
        if self.expects_more_changes() {
            return interval.min(CHANGE_SERIES_INTERVAL).max(settings.min_interval);
        }
        // Subscriptions that are made together must not be polled together from then on.
        if self.status.polls == 1 {
            return interval.mul_f64(0.5 + 0.5 * fastrand::f64());
        }
        interval
    }

    /// Whether further changes are likely that only polls can show: a deployment may be going on, and a server that
    /// speaks v3 does not push.
    fn expects_more_changes(&self) -> bool {
        self.merge.current().is_some_and(|list| {
            list.protocol == WireProtocol::V3
                && self.status.changes > 1
                && list.changed.elapsed() < CHANGE_SERIES_WINDOW
        })
    }

    /// Arms the timer of the next poll, in place of an armed one.
    fn poll_after(&mut self, wait: Duration, ctx: &mut Context<Self>) {
        if let Polling::Scheduled { timer, .. } = self.under_way.polling {
            ctx.cancel_future(timer);
        }
        let due = Instant::now() + wait;
        let timer = ctx.run_later(self.settings.grid.wait_for(due, wait), Self::poll);
        self.under_way.polling = Polling::Scheduled { timer, due };
    }

    /// Brings the next poll forward, to a random moment within `spread`.
    fn poll_soon(&mut self, spread: Duration, ctx: &mut Context<Self>) {
        let now = Instant::now();
        // A due time in the past would count as earlier than the armed timer's each time, so frequent hints would arm
        // the timer again and again, and no poll would ever be sent.
        let earliest = self.last_poll.map_or(now, |last| now.max(last + MIN_EARLY_INTERVAL));
        let due = earliest + spread.mul_f64(fastrand::f64());
        match &mut self.under_way.polling {
            Polling::Sent { repeat_soon } => *repeat_soon = true,
            Polling::Scheduled { due: scheduled, .. } if *scheduled <= due => {}
            _ => self.poll_after(due - now, ctx),
        }
    }

    // The disk cache. It is accessed in another thread, because a slow disk must not delay heartbeats.

    /// Loads the cache file once. A file that was unusable does not become usable.
    fn load_cached(&mut self, ctx: &mut Context<Self>) {
        let Some(file) = self.settings.cache.clone() else { return };
        if self.under_way.cache != Cache::Untouched {
            return;
        }
        self.under_way.cache = Cache::Idle;
        let path = file.path().display().to_string();
        let loaded = spawn_blocking(move || file.load()).into_actor(self);
        ctx.spawn(loaded.map(move |loaded, subscriber, ctx| match loaded {
            Ok(Ok(info)) => {
                if let Some(step) = subscriber.merge.restore(info) {
                    subscriber.publish(&step, ctx);
                }
            }
            Ok(Err(error)) if error.kind() != io::ErrorKind::NotFound => {
                warn!(subscriber.settings.log, "ignored unusable cache file";
                    "service" => %subscriber.subscription.service, "file" => path, "error" => %error);
            }
            _ => {}
        }));
    }

    /// Writes the current list to the cache file. While a write is under way, one more is planned.
    fn save_cached(&mut self, ctx: &mut Context<Self>) {
        let (Some(file), Some(current)) = (self.settings.cache.clone(), self.merge.current()) else { return };
        if current.source == Source::Cache {
            return;
        }
        if let Cache::Writing { write_again } = &mut self.under_way.cache {
            *write_again = true;
            return;
        }
        self.under_way.cache = Cache::Writing { write_again: false };
        self.under_way.last_write = Some(Instant::now());
        let info = current.info.clone();
        let path = file.path().display().to_string();
        let saved = spawn_blocking(move || file.save(&info)).into_actor(self);
        ctx.spawn(saved.map(move |saved, subscriber, ctx| {
            if let Ok(Err(error)) = saved {
                warn!(subscriber.settings.log, "failed to write cache file";
                    "service" => %subscriber.subscription.service, "file" => path, "error" => %error);
            }
            let written = std::mem::replace(&mut subscriber.under_way.cache, Cache::Idle);
            if written == (Cache::Writing { write_again: true }) {
                subscriber.save_cached(ctx);
            }
        }));
    }

    // Merging and notifying.

    /// Merges a list and does what follows from the result.
    fn apply(&mut self, listed: Listed, arrival: Arrival, ctx: &mut Context<Self>) {
        let had_withheld = self.merge.withheld() > 0;
        match self.merge.merge(listed, arrival) {
            Merged::Changed(step) => self.publish(&step, ctx),
            Merged::Unchanged => {
                // Which instances are withheld may have changed, although the list has not.
                if had_withheld || self.merge.withheld() > 0 {
                    self.update_views();
                }
                // A restart forgets when the file was written.
                if self.under_way.last_write.is_none_or(|at| at.elapsed() > CACHE_REFRESH_INTERVAL) {
                    self.save_cached(ctx);
                }
            }
            Merged::Outdated => self.status.ignored_pushes += u64::from(arrival == Arrival::Pushed),
            Merged::NeedsPoll => {
                self.status.ignored_pushes += u64::from(arrival == Arrival::Pushed);
                self.poll_soon(Duration::ZERO, ctx);
            }
        }
        if self.merge.awaits_second_poll() {
            self.poll_soon(Duration::ZERO, ctx);
        }
        if self.merge.withheld() > 0 {
            debug!(self.settings.log, "withholding instances from removal";
                "service" => %self.subscription.service, "instances" => self.merge.withheld());
            if !had_withheld {
                self.settings.history.record(RegistryEventKind::InstancesWithheld, |event| {
                    event.service = Some(self.subscription.service.clone());
                });
            }
        }
    }

    /// Counts the healthy and the unhealthy instances of the current list that are not withheld.
    fn count_by_health(&self) -> (usize, usize) {
        let Some(current) = self.merge.current() else { return (0, 0) };
        let confirmed = current.info.hosts.iter().filter(|instance| !self.merge.is_withheld(instance));
        confirmed.fold((0, 0), |(healthy, unhealthy), instance| match instance.healthy {
            true => (healthy + 1, unhealthy),
            false => (healthy, unhealthy + 1),
        })
    }

    /// Updates the views with the current list.
    fn update_views(&self) {
        if let Some(current) = self.merge.current() {
            let is_stale = self.status.last_error.is_some();
            self.view.publish(current.info.clone(), is_stale, |instance| self.merge.is_withheld(instance));
        }
    }

    /// Sends the new current list to views, listeners and the cache.
    fn publish(&mut self, step: &Step, ctx: &mut Context<Self>) {
        self.status.changes += u64::from(step.from.is_none() || !step.difference.is_empty());
        self.update_views();
        let Some(current) = self.merge.current() else { return };
        self.record(current, step);
        let deliveries = self.listeners.notify_all(current, step);
        self.follow(deliveries, ctx);
        self.save_cached(ctx);
    }

    /// Records the change for the status. All instances of a first list are new.
    fn record(&self, current: &CurrentList, step: &Step) {
        let history = &self.settings.history;
        if step.from.is_some() {
            history.record_change(&self.subscription.service, current.source, &step.difference);
        } else {
            let first = Difference { added: current.info.hosts.clone(), ..Difference::default() };
            history.record_change(&self.subscription.service, current.source, &first);
        }
    }

    /// Notifies one listener of the current list, if there is one.
    fn notify(&mut self, listener: ListenerId, ctx: &mut Context<Self>) {
        let Some(current) = self.merge.current() else { return };
        let deliveries = self.listeners.notify([listener], current, &Step::default());
        self.follow(deliveries, ctx);
    }

    fn notify_pending(&mut self, ctx: &mut Context<Self>) {
        self.under_way.retry_is_armed = false;
        let Some(current) = self.merge.current() else { return };
        let deliveries = self.listeners.notify_pending(current);
        self.follow(deliveries, ctx);
    }

    /// Handles what notifying has left to do: unhandled messages, full mailboxes, listeners that have ended.
    fn follow(&mut self, deliveries: Vec<Delivery>, ctx: &mut Context<Self>) {
        for delivery in deliveries {
            // The stream in `await_deliveries` holds the receiver, and lives as long as the context.
            let _ = self.deliveries.send(delivery);
        }
        self.retry_pending(ctx);
        self.end_if_unused(ctx);
    }

    /// Plans to notify the listeners whose mailboxes were full.
    fn retry_pending(&mut self, ctx: &mut Context<Self>) {
        if !self.under_way.retry_is_armed && self.listeners.are_pending() {
            self.under_way.retry_is_armed = true;
            ctx.run_later(FULL_MAILBOX_RETRY, Self::notify_pending);
        }
    }

    /// Waits in one stream until weak listeners have handled their messages. With a future of the context for each
    /// message, every wake-up would poll them all.
    fn await_deliveries(&mut self, ctx: &mut Context<Self>) {
        let (deliveries, mut sent) = mpsc::unbounded_channel();
        self.deliveries = deliveries;
        let handled = poll_fn(move |task| sent.poll_recv(task)).map(Delivery::handled).buffer_unordered(usize::MAX);
        ctx.add_stream(handled);
    }

    /// Whether there is no listener and no view. The Subscriber then ends.
    fn is_unused(&self) -> bool {
        self.listeners.is_empty() && self.view.readers() == 0
    }

    /// Ends the actor if it is still unused once the mailbox is empty: a new listener may be in it.
    fn end_if_unused(&mut self, ctx: &mut Context<Self>) {
        if self.is_unused() {
            ctx.spawn(fut::ready(()).map(|(), subscriber: &mut Self, ctx: &mut Context<Self>| {
                if subscriber.is_unused() {
                    ctx.stop();
                }
            }));
        }
    }

    /// Ends the actor when the last view is dropped, without waiting for the next poll.
    fn end_when_abandoned(&mut self, ctx: &mut Context<Self>) {
        let abandoned = self.view.abandoned().into_actor(self);
        ctx.spawn(abandoned.map(|(), subscriber, ctx| subscriber.end_if_unused(ctx)));
    }
}

impl Actor for Subscriber {
    type Context = Context<Self>;

    /// Arms everything, at the start and after a restart.
    fn started(&mut self, ctx: &mut Context<Self>) {
        self.under_way = UnderWay::default();
        self.listeners.restarted();
        self.await_deliveries(ctx);
        if self.view.readers() > 0 {
            self.end_when_abandoned(ctx);
        }
        // Poll at once, without waiting for the grid. The first listener or view is in the mailbox already.
        let timer = ctx.run_later(Duration::ZERO, Self::poll);
        self.under_way.polling = Polling::Scheduled { timer, due: Instant::now() };
        self.retry_pending(ctx);
    }
}

impl Supervised for Subscriber {}

impl Handler<Listen> for Subscriber {
    type Result = ();

    fn handle(&mut self, Listen(listener): Listen, ctx: &mut Context<Self>) {
        match self.listeners.add(listener) {
            Some(added) => self.notify(added, ctx),
            None => self.end_if_unused(ctx),
        }
    }
}

/// Each item is a weak listener that has handled its message.
impl StreamHandler<ListenerId> for Subscriber {
    fn handle(&mut self, listener: ListenerId, ctx: &mut Context<Self>) {
        self.listeners.acknowledge(listener);
        self.notify(listener, ctx);
    }
}

impl Handler<StopListening> for Subscriber {
    type Result = ();

    fn handle(&mut self, StopListening(listener): StopListening, ctx: &mut Context<Self>) {
        self.listeners.remove(listener.as_ref());
        self.end_if_unused(ctx);
    }
}

impl Handler<AddView> for Subscriber {
    type Result = MessageResult<AddView>;

    fn handle(&mut self, view: AddView, ctx: &mut Context<Self>) -> Self::Result {
        let is_first = self.view.readers() == 0;
        let view = self.view.view(view.healthy_only);
        if is_first {
            self.end_when_abandoned(ctx);
        }
        MessageResult(view)
    }
}

impl Handler<PushedList> for Subscriber {
    type Result = ();

    fn handle(&mut self, PushedList(mut pushed): PushedList, ctx: &mut Context<Self>) {
        self.status.pushes += 1;
        self.status.last_success = Some(Instant::now());
        // The server may have pushed more clusters than this subscription is for.
        pushed.info.tidy(&self.subscription.clusters, false);
        self.apply(pushed, Arrival::Pushed, ctx);
    }
}

impl Handler<Hint> for Subscriber {
    type Result = ();

    fn handle(&mut self, _: Hint, ctx: &mut Context<Self>) {
        self.poll_soon(Duration::ZERO, ctx);
    }
}

impl Handler<EpochBegan> for Subscriber {
    type Result = ();

    fn handle(&mut self, _: EpochBegan, ctx: &mut Context<Self>) {
        self.poll_soon(EPOCH_POLL_SPREAD, ctx);
    }
}

impl Handler<StopWatching> for Subscriber {
    type Result = ();

    fn handle(&mut self, _: StopWatching, ctx: &mut Context<Self>) {
        ctx.stop();
    }
}

impl Subscriber {
    fn describe(&self) -> SubscriptionStatus {
        let (healthy, unhealthy) = self.count_by_health();
        SubscriptionStatus {
            service: self.subscription.service.clone(),
            clusters: self.subscription.clusters.clone(),
            listeners: self.listeners.len(),
            views: self.view.readers(),
            instances: self.merge.current().map(|list| list.info.hosts.len()),
            withheld: self.merge.withheld(),
            healthy,
            unhealthy,
            stale: self.status.last_error.is_some(),
            last_success_ms_ago: self.status.last_success.map(|at| at.elapsed().as_millis() as u64),
            last_error: self.status.last_error.as_ref().map(ToString::to_string),
            polls: self.status.polls,
            pushes: self.status.pushes,
            ignored_pushes: self.status.ignored_pushes,
            changes: self.status.changes,
        }
    }
}

impl Handler<DescribeSubscription> for Subscriber {
    type Result = MessageResult<DescribeSubscription>;

    fn handle(&mut self, _: DescribeSubscription, _: &mut Context<Self>) -> Self::Result {
        MessageResult(self.describe())
    }
}

#[cfg(test)]
mod tests;
