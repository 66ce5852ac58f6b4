//! The Subscriber actor: keeps one service's list current, and tells listeners and views.

use std::{io, path::PathBuf, time::Duration};

use actix::{
    fut::{self, ActorFutureExt},
    Actor, ActorContext, AsyncContext, Context, Handler, MailboxError, Message, MessageResult, Recipient, SpawnHandle,
    StreamHandler, Supervised, WeakRecipient, WrapFuture,
};
use actix_rt::{task::spawn_blocking, time::Instant};
use futures_util::stream::{poll_fn, StreamExt};
use serde::Serialize;
use slog::{debug, warn, Logger};
use tokio::sync::mpsc;

use super::{
    disk_cache::CacheFile,
    list_merge::{Arrival, ListMerge, Merged, Step},
    listeners::{Delivery, Listener, ListenerId, Listeners},
    view::{ServiceView, ViewWriter},
};
use crate::{
    client::Listed,
    config::Config,
    error::Error,
    model::{
        change::{ServiceChanged, Source},
        service::ServiceName,
    },
    runtime::timer_grid::Grid,
    wire::exchange::WireProtocol,
};

/// A failed poll is repeated after this at the latest.
const LONGEST_RETRY: Duration = Duration::from_secs(2);
/// A listener whose mailbox is full is tried again after this.
const FULL_RETRY: Duration = Duration::from_millis(50);
/// Hints, and pushes that are not believed yet, bring the next poll forward at most so often.
const EARLY_INTERVAL: Duration = Duration::from_secs(1);
/// An empty list that is not believed yet is asked for again after this.
const SECOND_POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Polls that a new epoch asks for are spread over this time.
const EPOCH_SPREAD: Duration = Duration::from_secs(1);

/// A list that has not changed since is cached again after this: too old a file counts for nothing.
const SAVE_AGAIN: Duration = Duration::from_secs(60 * 60);

/// After a change on a server without push, the list is asked for so often…
const RESTLESS_INTERVAL: Duration = Duration::from_secs(2);
/// …for so long.
const RESTLESS_TIME: Duration = Duration::from_secs(20);

/// Asks the Registry for the list as the server has it now.
#[derive(Debug, Clone, PartialEq, Message)]
#[rtype(result = "Result<Listed, Error>")]
pub(crate) struct PollList {
    pub(crate) service: ServiceName,
    pub(crate) clusters: String,
}

/// Adds a listener; one that listens already is the same one.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Listen(pub(crate) Listener<ServiceChanged>);

/// Removes one listener, or all.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct StopListening(pub(crate) Option<Recipient<ServiceChanged>>);

/// Adds a view.
#[derive(Message)]
#[rtype(result = "ServiceView")]
pub(crate) struct AddView {
    pub(crate) healthy_only: bool,
}

/// A list that a server pushed.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub(crate) struct PushedList(pub(crate) Listed);

/// Somebody claims that the list has changed: worth a poll, no more.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub(crate) struct Hint;

/// The server in use may have forgotten what it was told: its list is polled soon, which also renews the push subscription.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub(crate) struct EpochBegan;

/// Ends a Subscriber.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct StopWatching;

/// What is known of one subscription.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SubscriptionStatus {
    /// The service.
    pub service: ServiceName,
    /// The clusters, comma separated; empty for all.
    pub clusters: String,
    /// How many listeners are told.
    pub listeners: usize,
    /// How many views are alive.
    pub views: usize,
    /// How many instances the list has; none before the first list.
    pub instances: Option<usize>,
    /// How many of them the server has not listed since it may have forgotten them; they are withheld from removal for
    /// [`Config::outage_hold`].
    pub withheld: usize,
    /// How many of them are neither withheld nor unhealthy.
    pub healthy: usize,
    /// How many of them are not withheld and, as the server says, unhealthy.
    pub unhealthy: usize,
    /// Whether the list may be out of date.
    pub stale: bool,
    /// Milliseconds since the last list came.
    pub last_success_ms_ago: Option<u64>,
    /// Why the last poll failed, if it did.
    pub last_error: Option<String>,
    /// Lists that were asked for.
    pub polls: u64,
    /// Lists that were pushed.
    pub pushes: u64,
    /// Pushed lists that were not taken: older than the current list, or none that could be ordered without a poll.
    pub ignored_pushes: u64,
    /// Changes that were found.
    pub changes: u64,
}

#[derive(Message)]
#[rtype(result = "SubscriptionStatus")]
pub(crate) struct DescribeSubscription;

/// What a Subscriber is told at its start.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) min_interval: Duration,
    pub(crate) max_interval: Duration,
    pub(crate) protect_from_empty: bool,
    pub(crate) outage_hold: Duration,
    pub(crate) cache: Option<CacheFile>,
    pub(crate) grid: Grid,
    pub(crate) log: Logger,
}

impl Settings {
    pub(crate) fn new(config: &Config, watched: &SubscriptionKey, grid: Grid) -> Self {
        let file = |folder: &PathBuf| CacheFile::new(folder, config.namespace_id(), watched);
        Settings {
            min_interval: config.min_poll_interval,
            max_interval: config.max_poll_interval,
            protect_from_empty: config.protect_from_empty,
            outage_hold: config.outage_hold,
            cache: config.cache_dir.as_ref().map(file),
            grid,
            log: config.logger.clone(),
        }
    }
}

/// Merges polled and pushed lists of one (service, group, clusters) into one current list, and tells its listeners and
/// views what changed.
///
/// It polls from its start, at the interval that the server asks for, within the configured bounds. It ends on
/// [`StopWatching`], when its last listener and view are gone, and when the Registry, which it holds weakly, has ended.
pub(crate) struct Subscriber {
    service: ServiceName,
    clusters: String,
    registry: WeakRecipient<PollList>,
    settings: Settings,
    listeners: Listeners,
    /// What is sent to weak listeners, until it is handled.
    deliveries: mpsc::UnboundedSender<Delivery>,
    view: ViewWriter,
    merge: ListMerge,
    polling: bool,
    poll_again: bool,
    next_poll: SpawnHandle,
    next_due: Instant,
    last_poll: Option<Instant>,
    retrying: bool,
    cache_is_read: bool,
    saving: bool,
    save_again: bool,
    last_save: Option<Instant>,
    status: Counters,
}

#[derive(Default)]
struct Counters {
    last_success: Option<Instant>,
    last_error: Option<Error>,
    polls: u64,
    pushes: u64,
    ignored_pushes: u64,
    changes: u64,
}

impl Subscriber {
    pub(crate) fn new(
        service: ServiceName,
        clusters: String,
        registry: WeakRecipient<PollList>,
        settings: Settings,
    ) -> Self {
        Subscriber {
            view: ViewWriter::new(service.clone(), clusters.clone()),
            service,
            clusters,
            merge: ListMerge::new(settings.outage_hold, settings.protect_from_empty),
            registry,
            settings,
            listeners: Listeners::default(),
            deliveries: mpsc::unbounded_channel().0,
            polling: false,
            poll_again: false,
            next_poll: SpawnHandle::default(),
            next_due: Instant::now(),
            last_poll: None,
            retrying: false,
            cache_is_read: false,
            saving: false,
            save_again: false,
            last_save: None,
            status: Counters::default(),
        }
    }

    /// The future that keeps the time for the views' waiting, apart from the actor and its restarts.
    pub(crate) fn clock(&self) -> impl std::future::Future<Output = ()> + 'static {
        self.view.keep_time()
    }

    // Polling.

    fn poll(&mut self, ctx: &mut Context<Self>) {
        if self.polling {
            self.poll_again = true;
            return;
        }
        self.listeners.remove_ended();
        if self.is_unused() {
            return ctx.stop();
        }
        let Some(registry) = self.registry.upgrade() else { return ctx.stop() };
        let sent = Instant::now();
        self.polling = true;
        self.last_poll = Some(sent);
        ctx.cancel_future(self.next_poll);
        let poll = PollList { service: self.service.clone(), clusters: self.clusters.clone() };
        let answered = registry.send(poll).into_actor(self);
        ctx.spawn(answered.map(move |answer, subscriber, ctx| subscriber.polled(sent, answer, ctx)));
    }

    fn polled(&mut self, sent: Instant, answer: Result<Result<Listed, Error>, MailboxError>, ctx: &mut Context<Self>) {
        self.polling = false;
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
        let wait = self.pause();
        self.poll_after(wait, ctx);
    }

    fn poll_failed(&mut self, error: Error, ctx: &mut Context<Self>) {
        debug!(self.settings.log, "a subscribed list cannot be had"; "service" => %self.service, "error" => %error);
        self.status.last_error = Some(error);
        self.view.set_stale(true);
        if self.merge.current().is_none() {
            self.load_cached(ctx);
        }
    }

    // The disk, always in another thread: a slow one must cost no heartbeat.

    /// Once: what was no list then is none at the next failure either.
    fn load_cached(&mut self, ctx: &mut Context<Self>) {
        let Some(file) = self.settings.cache.clone() else { return };
        if std::mem::replace(&mut self.cache_is_read, true) {
            return;
        }
        let path = file.path().display().to_string();
        let loaded = spawn_blocking(move || file.load()).into_actor(self);
        ctx.spawn(loaded.map(move |loaded, subscriber, ctx| match loaded {
            Ok(Ok(info)) => {
                if let Some(step) = subscriber.merge.restore(info) {
                    subscriber.publish(&step, ctx);
                }
            }
            Ok(Err(error)) if error.kind() != io::ErrorKind::NotFound => {
                warn!(subscriber.settings.log, "a cached list cannot be used"; "file" => path, "error" => %error);
            }
            _ => {}
        }));
    }

    fn save_cached(&mut self, ctx: &mut Context<Self>) {
        let (Some(file), Some(current)) = (self.settings.cache.clone(), self.merge.current()) else { return };
        if current.source == Source::Cache {
            return;
        }
        if std::mem::replace(&mut self.saving, true) {
            self.save_again = true;
            return;
        }
        self.last_save = Some(Instant::now());
        let info = current.info.clone();
        let path = file.path().display().to_string();
        let saved = spawn_blocking(move || file.save(&info)).into_actor(self);
        ctx.spawn(saved.map(move |saved, subscriber, ctx| {
            subscriber.saving = false;
            if let Ok(Err(error)) = saved {
                warn!(subscriber.settings.log, "a list cannot be cached"; "file" => path, "error" => %error);
            }
            if std::mem::take(&mut subscriber.save_again) {
                subscriber.save_cached(ctx);
            }
        }));
    }

    /// How long until the next poll.
    fn pause(&mut self) -> Duration {
        let settings = &self.settings;
        // Well within that time, grid and request included: Nacos 1.4 pushes to nobody who asks a moment later.
        let asked_for = self.merge.current().map_or(settings.max_interval, |list| list.info.cache_time().mul_f64(0.85));
        let interval = asked_for.clamp(settings.min_interval, settings.max_interval);
        if std::mem::take(&mut self.poll_again) {
            return interval.min(EARLY_INTERVAL);
        }
        if self.status.last_error.is_some() {
            return interval.min(LONGEST_RETRY);
        }
        if self.merge.awaits_second_poll() {
            return interval.min(SECOND_POLL_INTERVAL);
        }
        // Where changes are pushed, no other list may come.
        if let Some(ends) = self.merge.hold_ends() {
            return interval.min(ends.saturating_duration_since(Instant::now()).max(EARLY_INTERVAL));
        }
        if self.is_restless() {
            return interval.min(RESTLESS_INTERVAL).max(settings.min_interval);
        }
        // The first interval is cut by chance, so that subscriptions made together are not polled together for ever.
        if self.status.polls == 1 {
            return interval.mul_f64(0.5 + 0.5 * fastrand::f64());
        }
        interval
    }

    /// v3 has no push, and changes seldom come alone: instances of a deployment are replaced one after the other.
    fn is_restless(&self) -> bool {
        self.merge.current().is_some_and(|list| {
            list.protocol == WireProtocol::V3 && self.status.changes > 1 && list.changed.elapsed() < RESTLESS_TIME
        })
    }

    fn poll_after(&mut self, wait: Duration, ctx: &mut Context<Self>) {
        ctx.cancel_future(self.next_poll);
        self.next_due = Instant::now() + wait;
        let wait = self.settings.grid.wait_for(self.next_due, wait);
        self.next_poll = ctx.run_later(wait, Self::poll);
    }

    /// Brings the next poll forward, to a random moment within `spread`.
    fn poll_soon(&mut self, spread: Duration, ctx: &mut Context<Self>) {
        if self.polling {
            self.poll_again = true;
            return;
        }
        let now = Instant::now();
        // Never before now: else each hint would set the timer anew, and many hints would put the poll off for ever.
        let due = self.last_poll.map_or(now, |last| now.max(last + EARLY_INTERVAL)) + spread.mul_f64(fastrand::f64());
        if due < self.next_due {
            self.poll_after(due - now, ctx);
        }
    }

    // Merging and notifying.

    fn apply(&mut self, listed: Listed, arrival: Arrival, ctx: &mut Context<Self>) {
        let had_withheld = self.merge.withheld() > 0;
        match self.merge.merge(listed, arrival) {
            Merged::Changed(step) => self.publish(&step, ctx),
            Merged::Unchanged => {
                if had_withheld || self.merge.withheld() > 0 {
                    self.show();
                }
                if self.last_save.is_some_and(|last| last.elapsed() > SAVE_AGAIN) {
                    self.save_cached(ctx);
                }
            }
            Merged::Outdated => self.status.ignored_pushes += u64::from(arrival == Arrival::Pushed),
            Merged::NeedsPoll => {
                self.status.ignored_pushes += 1;
                self.poll_soon(Duration::ZERO, ctx);
            }
        }
        if self.merge.awaits_second_poll() {
            self.poll_soon(Duration::ZERO, ctx);
        }
        if self.merge.withheld() > 0 {
            debug!(self.settings.log, "instances are withheld from removal";
                "service" => %self.service, "instances" => self.merge.withheld());
        }
    }

    /// The instances of the current list that are not withheld: healthy ones and others.
    fn count_by_health(&self) -> (usize, usize) {
        let Some(current) = self.merge.current() else { return (0, 0) };
        let confirmed = current.info.hosts.iter().filter(|instance| !self.merge.is_withheld(instance));
        confirmed.fold((0, 0), |(healthy, unhealthy), instance| match instance.healthy {
            true => (healthy + 1, unhealthy),
            false => (healthy, unhealthy + 1),
        })
    }

    /// Shows the current list to the views.
    fn show(&self) {
        if let Some(current) = self.merge.current() {
            let is_stale = self.status.last_error.is_some();
            self.view.publish(current.info.clone(), is_stale, |instance| self.merge.is_withheld(instance));
        }
    }

    /// Shows everybody what is new.
    fn publish(&mut self, step: &Step, ctx: &mut Context<Self>) {
        self.status.changes += u64::from(step.from.is_none() || !step.difference.is_empty());
        self.show();
        let Some(current) = self.merge.current() else { return };
        let deliveries = self.listeners.notify_all(current, step);
        self.deliver(deliveries, ctx);
        self.save_cached(ctx);
    }

    /// Sends one listener what is new to it.
    fn notify(&mut self, listener: ListenerId, ctx: &mut Context<Self>) {
        let Some(current) = self.merge.current() else { return };
        let deliveries = self.listeners.notify([listener], current, &Step::default());
        self.deliver(deliveries, ctx);
    }

    fn notify_pending(&mut self, ctx: &mut Context<Self>) {
        self.retrying = false;
        let Some(current) = self.merge.current() else { return };
        let deliveries = self.listeners.notify_pending(current);
        self.deliver(deliveries, ctx);
    }

    /// Follows what was sent until it is handled.
    fn deliver(&mut self, deliveries: Vec<Delivery>, ctx: &mut Context<Self>) {
        for delivery in deliveries {
            // The other end is ours, and lives as long as the context.
            let _ = self.deliveries.send(delivery);
        }
        self.retry_pending(ctx);
        self.end_if_unused(ctx);
    }

    fn retry_pending(&mut self, ctx: &mut Context<Self>) {
        if !self.retrying && self.listeners.are_pending() {
            self.retrying = true;
            ctx.run_later(FULL_RETRY, Self::notify_pending);
        }
    }

    /// Waits for all weak listeners at once: each that has handled its message costs the same, however many there are.
    fn await_handled(&mut self, ctx: &mut Context<Self>) {
        let (deliveries, mut sent) = mpsc::unbounded_channel();
        self.deliveries = deliveries;
        let handled = poll_fn(move |task| sent.poll_recv(task)).map(Delivery::handled).buffer_unordered(usize::MAX);
        ctx.add_stream(handled);
    }

    fn is_unused(&self) -> bool {
        self.listeners.is_empty() && self.view.readers() == 0
    }

    /// Not before the mailbox is empty: a listener that came as the last one left is in it.
    fn end_if_unused(&mut self, ctx: &mut Context<Self>) {
        if self.is_unused() {
            ctx.spawn(fut::ready(()).map(|(), subscriber: &mut Self, ctx: &mut Context<Self>| {
                if subscriber.is_unused() {
                    ctx.stop();
                }
            }));
        }
    }

    fn end_when_abandoned(&mut self, ctx: &mut Context<Self>) {
        let abandoned = self.view.abandoned().into_actor(self);
        ctx.spawn(abandoned.map(|(), subscriber, ctx| subscriber.end_if_unused(ctx)));
    }
}

impl Actor for Subscriber {
    type Context = Context<Self>;

    /// Also after a restart, which has lost the timers and the poll under way.
    fn started(&mut self, ctx: &mut Context<Self>) {
        self.polling = false;
        self.retrying = false;
        self.cache_is_read = false;
        self.saving = false;
        self.next_poll = SpawnHandle::default();
        self.listeners.restarted();
        self.await_handled(ctx);
        if self.view.readers() > 0 {
            self.end_when_abandoned(ctx);
        }
        // The first listener or view is in the mailbox already.
        self.next_due = Instant::now();
        self.next_poll = ctx.run_later(Duration::ZERO, Self::poll);
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
        let first = self.view.readers() == 0;
        let view = self.view.view(view.healthy_only);
        if first {
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
        // A push may be for another filter than ours.
        pushed.info.tidy(&self.clusters, false);
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
        self.poll_soon(EPOCH_SPREAD, ctx);
    }
}

impl Handler<StopWatching> for Subscriber {
    type Result = ();

    fn handle(&mut self, _: StopWatching, ctx: &mut Context<Self>) {
        ctx.stop();
    }
}

impl Handler<DescribeSubscription> for Subscriber {
    type Result = MessageResult<DescribeSubscription>;

    fn handle(&mut self, _: DescribeSubscription, _: &mut Context<Self>) -> Self::Result {
        let (healthy, unhealthy) = self.count_by_health();
        MessageResult(SubscriptionStatus {
            service: self.service.clone(),
            clusters: self.clusters.clone(),
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
        })
    }
}

/// What names a subscription, or a list.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct SubscriptionKey {
    pub(crate) service: ServiceName,
    /// Comma separated, in order; empty for all.
    pub(crate) clusters: String,
}

#[cfg(test)]
mod tests;
