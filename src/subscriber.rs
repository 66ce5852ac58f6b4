//! The Subscriber actor: keeps one service's list current, and tells listeners and views.

use std::{
    fmt, io,
    ops::Deref,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use actix::{
    fut::{self, ActorFutureExt},
    prelude::SendError,
    Actor, ActorContext, AsyncContext, Context, Handler, MailboxError, Message, MessageResult, Recipient, SpawnHandle,
    Supervised, WeakRecipient, WrapFuture,
};
use actix_rt::{task::spawn_blocking, time::Instant};
use serde::Serialize;
use slog::{debug, warn, Logger};

use crate::{
    cache::CacheFile,
    config::{Config, Protocol},
    error::Error,
    grid::Grid,
    instance::Instance,
    nacos::{Listed, Origin},
    service::{Difference, ServiceInfo, ServiceName},
    view::{ServiceView, ViewWriter},
};

/// A failed poll is repeated after this at the latest.
const LONGEST_RETRY: Duration = Duration::from_secs(2);
/// A listener whose mailbox is full is tried again after this.
const FULL_RETRY: Duration = Duration::from_millis(50);
/// Hints of strangers bring the next poll forward at most so often.
const HINT_INTERVAL: Duration = Duration::from_secs(1);
/// A list that is held back is asked for again after this.
const CONFIRM_INTERVAL: Duration = Duration::from_secs(1);

/// After a change on a server without push, the list is asked for so often…
const RESTLESS_INTERVAL: Duration = Duration::from_secs(2);
/// …for so long.
const RESTLESS_TIME: Duration = Duration::from_secs(20);

/// How a list was learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Source {
    /// The list was asked for.
    Poll,
    /// The server pushed it.
    Push,
    /// The list was asked for after an outage, or from another server than before.
    Failover,
    /// The list was read from the disk cache: no server has been reached yet.
    Cache,
}

/// Tells a listener that a service's list has changed, or what it is at first.
///
/// Cheap to clone: all listeners share one [`Change`], which this derefs to.
///
/// ```
/// use actix::prelude::*;
/// use actix_nacos::ServiceChanged;
///
/// struct Caller;
///
/// impl Actor for Caller {
///     type Context = Context<Self>;
/// }
///
/// impl Handler<ServiceChanged> for Caller {
///     type Result = ();
///
///     fn handle(&mut self, news: ServiceChanged, _: &mut Context<Self>) {
///         println!("{} has {} instances, {} are new", news.service, news.info.hosts.len(), news.added.len());
///     }
/// }
/// ```
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct ServiceChanged(Arc<Change>);

impl Deref for ServiceChanged {
    type Target = Change;

    fn deref(&self) -> &Change {
        &self.0
    }
}

/// What changed in a service's list since this listener was told last.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Change {
    /// The service.
    pub service: ServiceName,
    /// The whole list as it is now.
    pub info: Arc<ServiceInfo>,
    /// Instances that were not in the list before.
    pub added: Vec<Arc<Instance>>,
    /// Instances whose values changed: before and now.
    pub changed: Vec<(Arc<Instance>, Arc<Instance>)>,
    /// Instances that are not in the list any more.
    pub removed: Vec<Arc<Instance>>,
    /// Whether this is the first list that this listener gets; then all of it is `added`.
    pub first: bool,
    /// How the list was learned.
    pub source: Source,
    /// When the server made the list, by its own clock, where it says so.
    pub server_time: Option<SystemTime>,
    /// When the list came here.
    pub received: SystemTime,
}

/// Asks the Registry for the list as the server has it now.
#[derive(Debug, Clone, PartialEq, Message)]
#[rtype(result = "Result<Listed, Error>")]
pub(crate) struct PollList {
    pub(crate) service: ServiceName,
    pub(crate) clusters: String,
}

/// A listener, as it was given.
#[derive(Debug, Clone)]
pub(crate) enum Listener {
    Strong(Recipient<ServiceChanged>),
    Weak(WeakRecipient<ServiceChanged>),
}

impl Listener {
    fn is(&self, recipient: &Recipient<ServiceChanged>) -> bool {
        match self {
            Listener::Strong(own) => own == recipient,
            Listener::Weak(weak) => weak.upgrade().as_ref() == Some(recipient),
        }
    }

    fn is_alive(&self) -> bool {
        match self {
            Listener::Strong(recipient) => recipient.connected(),
            Listener::Weak(weak) => weak.upgrade().is_some_and(|recipient| recipient.connected()),
        }
    }
}

/// Adds a listener; one that listens already is the same one.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Listen {
    pub(crate) listener: Listener,
    /// While this is in the mailbox, the Subscriber does not end.
    pub(crate) on_its_way: Expected,
}

/// Counts the listeners that are on their way to a Subscriber: one that is about to end, because its last listener has
/// just left, would lose them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Expected(Arc<()>);

impl Expected {
    /// Besides the two that the Subscriber and whoever sends to it keep.
    fn is_any(&self) -> bool {
        Arc::strong_count(&self.0) > 2
    }
}

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
pub(crate) struct PushedList {
    pub(crate) info: ServiceInfo,
    pub(crate) origin: Origin,
}

/// Somebody claims that the list has changed: worth a poll, no more.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub(crate) struct Hint;

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
    pub(crate) fn new(config: &Config, watched: &Watched, grid: Grid) -> Self {
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

/// The list that everybody is told, and what orders the next one.
struct Truth {
    info: Arc<ServiceInfo>,
    origin: Origin,
    /// By the clock of the origin's server.
    server_millis: i64,
    applied: Instant,
    changed: Instant,
    source: Source,
    received: SystemTime,
}

struct Told {
    id: u64,
    listener: Listener,
    /// The list that this listener received last.
    last: Option<Arc<ServiceInfo>>,
    /// Its mailbox was full: it is to be tried again.
    owed: bool,
    /// A weak listener's message that it has not handled yet. It gets no other before: a sender that is made anew for
    /// each message would not notice that the mailbox is full, and one that is kept would keep the listener alive.
    unhandled: bool,
}

/// Merges polled and pushed lists of one (service, group, clusters) into one ordered truth, and tells its listeners and
/// views what changed.
///
/// It polls from its start, at the interval that the server asks for, within the configured bounds. It ends on
/// [`StopWatching`], when its last listener and view are gone, and when the Registry, which it holds weakly, has ended.
pub(crate) struct Subscriber {
    service: ServiceName,
    clusters: String,
    registry: WeakRecipient<PollList>,
    settings: Settings,
    listeners: Vec<Told>,
    expected: Expected,
    next_id: u64,
    view: ViewWriter,
    truth: Option<Truth>,
    /// Something happened after which a server may not know all instances: see [`Subscriber::merge`].
    upheaval: bool,
    /// Until then nothing is taken out of the list.
    hold_until: Option<Instant>,
    holding: bool,
    empty_polls: u32,
    polling: bool,
    poll_again: bool,
    next_poll: SpawnHandle,
    last_poll: Option<Instant>,
    retrying: bool,
    saving: bool,
    save_again: bool,
    status: Counters,
}

#[derive(Default)]
struct Counters {
    last_success: Option<Instant>,
    last_error: Option<Error>,
    polls: u64,
    pushes: u64,
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
            registry,
            settings,
            listeners: Vec::new(),
            expected: Expected::default(),
            next_id: 0,
            truth: None,
            upheaval: false,
            hold_until: None,
            holding: false,
            empty_polls: 0,
            polling: false,
            poll_again: false,
            next_poll: SpawnHandle::default(),
            last_poll: None,
            retrying: false,
            saving: false,
            save_again: false,
            status: Counters::default(),
        }
    }

    /// To be sent along with each [`Listen`].
    pub(crate) fn expected(&self) -> Expected {
        self.expected.clone()
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
        self.forget_the_gone();
        if self.is_unused() {
            return ctx.stop();
        }
        let Some(registry) = self.registry.upgrade() else { return ctx.stop() };
        let asked = Instant::now();
        self.polling = true;
        self.last_poll = Some(asked);
        ctx.cancel_future(self.next_poll);
        let poll = PollList { service: self.service.clone(), clusters: self.clusters.clone() };
        let answered = registry.send(poll).into_actor(self);
        ctx.spawn(answered.map(move |answer, subscriber, ctx| subscriber.polled(asked, answer, ctx)));
    }

    fn polled(&mut self, asked: Instant, answer: Result<Result<Listed, Error>, MailboxError>, ctx: &mut Context<Self>) {
        self.polling = false;
        self.status.polls += 1;
        match answer {
            Ok(Ok(listed)) => {
                self.status.last_success = Some(Instant::now());
                self.status.last_error = None;
                self.merge(listed.info, listed.origin, Some(asked), ctx);
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
        self.upheaval = true;
        self.view.set_stale(true);
        if self.truth.is_none() {
            self.load_cached(ctx);
        }
    }

    // The disk, always in another thread: a slow one must cost no heartbeat.

    fn load_cached(&mut self, ctx: &mut Context<Self>) {
        let Some(file) = self.settings.cache.clone() else { return };
        let path = file.path().display().to_string();
        let loaded = spawn_blocking(move || file.load()).into_actor(self);
        ctx.spawn(loaded.map(move |loaded, subscriber, ctx| match loaded {
            Ok(Ok(info)) if subscriber.truth.is_none() => subscriber.apply(info, Origin::disk(), Source::Cache, ctx),
            Ok(Err(error)) if error.kind() != io::ErrorKind::NotFound => {
                warn!(subscriber.settings.log, "a cached list cannot be used"; "file" => path, "error" => %error);
            }
            _ => {}
        }));
    }

    fn save_cached(&mut self, ctx: &mut Context<Self>) {
        let (Some(file), Some(truth)) = (self.settings.cache.clone(), &self.truth) else { return };
        if truth.source == Source::Cache {
            return;
        }
        if std::mem::replace(&mut self.saving, true) {
            self.save_again = true;
            return;
        }
        let info = truth.info.clone();
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
        let asked_for = self.truth.as_ref().map_or(settings.max_interval, |truth| truth.info.cache_time());
        let interval = asked_for.clamp(settings.min_interval, settings.max_interval);
        if std::mem::take(&mut self.poll_again) {
            return settings.min_interval.min(HINT_INTERVAL);
        }
        if self.status.last_error.is_some() {
            return interval.min(LONGEST_RETRY);
        }
        if self.is_restless() {
            return interval.min(RESTLESS_INTERVAL).max(settings.min_interval);
        }
        if self.holding || self.empty_polls > 0 {
            return interval.min(CONFIRM_INTERVAL);
        }
        // The first interval is cut by chance, so that subscriptions made together are not polled together for ever.
        if self.status.polls == 1 {
            return interval.mul_f64(0.5 + 0.5 * fastrand::f64());
        }
        interval
    }

    /// v3 has no push, and changes seldom come alone: instances of a deployment are replaced one after the other.
    fn is_restless(&self) -> bool {
        self.truth.as_ref().is_some_and(|truth| {
            truth.origin.protocol == Protocol::V3 && self.status.changes > 1 && truth.changed.elapsed() < RESTLESS_TIME
        })
    }

    fn poll_after(&mut self, wait: Duration, ctx: &mut Context<Self>) {
        ctx.cancel_future(self.next_poll);
        let wait = self.settings.grid.wait_for(Instant::now() + wait);
        self.next_poll = ctx.run_later(wait, Self::poll);
    }

    // Merging.

    /// The one door of all lists. An older one is dropped; what an outage has emptied is held back; an equal one is no
    /// news.
    fn merge(&mut self, mut info: ServiceInfo, origin: Origin, asked: Option<Instant>, ctx: &mut Context<Self>) {
        if self.is_outdated(&info, &origin, asked) {
            return;
        }
        let source = self.note_origin(&origin, asked);
        let server_millis = info.last_ref_time;
        if let Some(truth) = &self.truth {
            info = self.hold_back(truth.info.clone(), info, asked.is_some());
        }
        let unchanged =
            self.truth.as_ref().is_some_and(|truth| Difference::between(&truth.info.hosts, &info.hosts).is_empty());
        if let (true, Some(truth)) = (unchanged, &mut self.truth) {
            truth.origin = origin;
            truth.server_millis = server_millis;
            truth.applied = Instant::now();
            return;
        }
        self.apply(info, origin, source, ctx);
    }

    fn apply(&mut self, info: ServiceInfo, origin: Origin, source: Source, ctx: &mut Context<Self>) {
        self.status.changes += 1;
        let info = Arc::new(info);
        self.view.publish(info.clone());
        let (applied, received, server_millis) = (Instant::now(), SystemTime::now(), info.last_ref_time);
        self.truth = Some(Truth { info, origin, server_millis, applied, changed: applied, source, received });
        self.save_cached(ctx);
        self.tell(ctx);
    }

    /// Whether what we have is newer. Clocks of two servers, or of one before and after its restart, say nothing.
    fn is_outdated(&self, info: &ServiceInfo, origin: &Origin, asked: Option<Instant>) -> bool {
        let Some(truth) = &self.truth else { return false };
        if truth.origin != *origin {
            return false;
        }
        match asked {
            // Asked after the truth came: newer, whatever the clock says.
            Some(asked) if asked >= truth.applied => false,
            _ => info.last_ref_time < truth.server_millis,
        }
    }

    /// How this list was learned; opens the time in which shrunken lists are held back after an outage.
    fn note_origin(&mut self, origin: &Origin, asked: Option<Instant>) -> Source {
        let other_origin = self.truth.as_ref().is_some_and(|truth| truth.origin != *origin);
        let upheaval = std::mem::take(&mut self.upheaval) || other_origin;
        if upheaval {
            self.hold_until = Some(Instant::now() + self.settings.outage_hold);
        }
        match asked {
            None => Source::Push,
            Some(_) if upheaval && self.truth.is_some() => Source::Failover,
            Some(_) => Source::Poll,
        }
    }

    /// What to believe of a list that lost instances.
    ///
    /// A server that restarted empty fills up again within a beat interval: for a while after an outage nothing is taken
    /// out of a list, until a poll after that still misses it. With `protect_from_empty` an empty list always needs a
    /// second poll.
    fn hold_back(&mut self, old: Arc<ServiceInfo>, new: ServiceInfo, polled: bool) -> ServiceInfo {
        let lost = Difference::between(&old.hosts, &new.hosts).removed;
        if lost.is_empty() {
            self.holding = false;
            self.empty_polls = 0;
            return new;
        }
        let in_hold = self.hold_until.is_some_and(|until| Instant::now() < until);
        self.holding = in_hold || (self.holding && !polled);
        let unconfirmed =
            self.settings.protect_from_empty && new.hosts.is_empty() && (self.empty_polls == 0 || !polled);
        self.empty_polls = if unconfirmed { self.empty_polls + u32::from(polled) } else { 0 };
        if !self.holding && !unconfirmed {
            return new;
        }
        debug!(self.settings.log, "instances are missing and held"; "service" => %self.service, "missing" => lost.len());
        let mut held = new;
        held.hosts.extend(lost);
        let clusters = held.clusters.clone();
        held.tidy(&clusters, false);
        held
    }

    // Telling.

    /// Tells all listeners what is new to them. Those that were told the same list last share one message.
    fn tell(&mut self, ctx: &mut Context<Self>) {
        let Some(truth) = &self.truth else { return };
        let mut prepared: Vec<(*const ServiceInfo, Option<ServiceChanged>)> = Vec::new();
        self.listeners.retain_mut(|told| {
            let last = told.last.as_ref().map_or(std::ptr::null(), Arc::as_ptr);
            let known = prepared.iter().position(|(base, _)| *base == last).unwrap_or_else(|| {
                prepared.push((last, news(&self.service, told.last.as_ref(), truth)));
                prepared.len() - 1
            });
            tell_one(told, prepared[known].1.as_ref(), &truth.info, ctx)
        });
        self.retry_owed(ctx);
        self.end_if_unused(ctx);
    }

    fn handled(&mut self, id: u64, ctx: &mut Context<Self>) {
        if let Some(told) = self.listeners.iter_mut().find(|told| told.id == id) {
            told.unhandled = false;
            self.tell(ctx);
        }
    }

    fn retry_owed(&mut self, ctx: &mut Context<Self>) {
        if self.retrying || !self.listeners.iter().any(|told| told.owed && !told.unhandled) {
            return;
        }
        self.retrying = true;
        ctx.run_later(FULL_RETRY, |subscriber, ctx| {
            subscriber.retrying = false;
            subscriber.tell(ctx);
        });
    }

    fn is_told(&self, recipient: &Recipient<ServiceChanged>) -> bool {
        self.listeners.iter().any(|told| told.listener.is(recipient))
    }

    fn forget_the_gone(&mut self) {
        self.listeners.retain(|told| told.listener.is_alive());
    }

    fn is_unused(&self) -> bool {
        self.listeners.is_empty() && !self.expected.is_any() && self.view.readers() == 0
    }

    fn end_if_unused(&mut self, ctx: &mut Context<Self>) {
        if self.is_unused() {
            ctx.stop();
        }
    }

    fn end_when_abandoned(&mut self, ctx: &mut Context<Self>) {
        let abandoned = self.view.abandoned().into_actor(self);
        ctx.spawn(abandoned.map(|(), subscriber, ctx| subscriber.end_if_unused(ctx)));
    }
}

/// What `truth` is to a listener that knows `last`; nothing if that is the same.
fn news(service: &ServiceName, last: Option<&Arc<ServiceInfo>>, truth: &Truth) -> Option<ServiceChanged> {
    let before = last.map_or(&[][..], |last| &last.hosts);
    let difference = Difference::between(before, &truth.info.hosts);
    if last.is_some() && difference.is_empty() {
        return None;
    }
    let Difference { added, changed, removed } = difference;
    let millis = u64::try_from(truth.server_millis).ok().filter(|millis| *millis > 0);
    Some(ServiceChanged(Arc::new(Change {
        service: service.clone(),
        info: truth.info.clone(),
        added,
        changed,
        removed,
        first: last.is_none(),
        source: truth.source,
        server_time: millis.map(|millis| SystemTime::UNIX_EPOCH + Duration::from_millis(millis)),
        received: truth.received,
    })))
}

/// False if the listener is gone. A full mailbox blocks and grows nothing: what is owed is worked out anew when it is
/// tried again.
fn tell_one(
    told: &mut Told,
    news: Option<&ServiceChanged>,
    now: &Arc<ServiceInfo>,
    ctx: &mut Context<Subscriber>,
) -> bool {
    let Some(news) = news else {
        told.last = Some(now.clone());
        told.owed = false;
        return told.listener.is_alive();
    };
    told.owed = true;
    let sent = match &told.listener {
        Listener::Strong(recipient) => recipient.try_send(news.clone()),
        Listener::Weak(_) if told.unhandled => return true,
        Listener::Weak(weak) => {
            let Some(recipient) = weak.upgrade() else { return false };
            let (id, handled) = (told.id, recipient.send(news.clone()));
            told.unhandled = true;
            let handled = fut::wrap_future::<_, Subscriber>(handled);
            ctx.spawn(handled.map(move |_, subscriber, ctx| subscriber.handled(id, ctx)));
            Ok(())
        }
    };
    match sent {
        Ok(()) => {
            told.last = Some(now.clone());
            told.owed = false;
            true
        }
        Err(SendError::Full(_)) => true,
        Err(SendError::Closed(_)) => false,
    }
}

impl Actor for Subscriber {
    type Context = Context<Self>;

    /// Also after a restart, which has lost the timers and the poll under way.
    fn started(&mut self, ctx: &mut Context<Self>) {
        self.polling = false;
        self.retrying = false;
        self.saving = false;
        self.next_poll = SpawnHandle::default();
        self.listeners.iter_mut().for_each(|told| told.unhandled = false);
        if self.view.readers() > 0 {
            self.end_when_abandoned(ctx);
        }
        // The first listener or view is in the mailbox already.
        self.next_poll = ctx.run_later(Duration::ZERO, Self::poll);
        self.retry_owed(ctx);
    }
}

impl Supervised for Subscriber {}

impl Handler<Listen> for Subscriber {
    type Result = ();

    fn handle(&mut self, Listen { listener, on_its_way }: Listen, ctx: &mut Context<Self>) {
        drop(on_its_way);
        let known = match &listener {
            Listener::Strong(recipient) => self.is_told(recipient),
            Listener::Weak(weak) => weak.upgrade().is_some_and(|recipient| self.is_told(&recipient)),
        };
        if !known && listener.is_alive() {
            self.listeners.push(Told { id: self.next_id, listener, last: None, owed: false, unhandled: false });
            self.next_id += 1;
        }
        self.tell(ctx);
        self.end_if_unused(ctx);
    }
}

impl Handler<StopListening> for Subscriber {
    type Result = ();

    fn handle(&mut self, StopListening(listener): StopListening, ctx: &mut Context<Self>) {
        self.listeners.retain(|told| listener.as_ref().is_some_and(|gone| !told.listener.is(gone)));
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

    fn handle(&mut self, pushed: PushedList, ctx: &mut Context<Self>) {
        self.status.pushes += 1;
        self.status.last_success = Some(Instant::now());
        let mut info = pushed.info;
        // A push may be for another filter than ours.
        info.tidy(&self.clusters, false);
        self.merge(info, pushed.origin, None, ctx);
    }
}

impl Handler<Hint> for Subscriber {
    type Result = ();

    fn handle(&mut self, _: Hint, ctx: &mut Context<Self>) {
        let since = self.last_poll.map_or(HINT_INTERVAL, |last| last.elapsed());
        if self.polling {
            self.poll_again = true;
        } else {
            self.poll_after(HINT_INTERVAL.saturating_sub(since), ctx);
        }
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
        MessageResult(SubscriptionStatus {
            service: self.service.clone(),
            clusters: self.clusters.clone(),
            listeners: self.listeners.len(),
            views: self.view.readers(),
            instances: self.truth.as_ref().map(|truth| truth.info.hosts.len()),
            stale: self.status.last_error.is_some(),
            last_success_ms_ago: self.status.last_success.map(|at| at.elapsed().as_millis() as u64),
            last_error: self.status.last_error.as_ref().map(ToString::to_string),
            polls: self.status.polls,
            pushes: self.status.pushes,
            changes: self.status.changes,
        })
    }
}

/// What names a subscription.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Watched {
    pub(crate) service: ServiceName,
    /// Comma separated, in order; empty for all.
    pub(crate) clusters: String,
}

impl fmt::Display for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.service)?;
        if !self.clusters.is_empty() {
            write!(f, " (clusters {})", self.clusters)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, rc::Rc};

    use actix::{Addr, ResponseFuture};
    use actix_rt::time::sleep;

    use super::*;
    use crate::supervise;

    /// Answers polls as the Registry does.
    #[derive(Clone, Default)]
    struct Server(Rc<RefCell<ServerState>>);

    #[derive(Default)]
    struct ServerState {
        hosts: Vec<(&'static str, f64)>,
        fails: bool,
        clock: i64,
        outages: u64,
        polls: u32,
        delay: Duration,
    }

    impl Server {
        fn holds(&self, hosts: &[(&'static str, f64)]) {
            self.0.borrow_mut().hosts = hosts.to_vec();
        }

        fn list(&self) -> Listed {
            let state = self.0.borrow();
            Listed { info: list(&state.hosts, state.clock), origin: origin(state.outages) }
        }
    }

    impl Actor for Server {
        type Context = Context<Self>;
    }

    impl Handler<PollList> for Server {
        type Result = ResponseFuture<Result<Listed, Error>>;

        fn handle(&mut self, _: PollList, _: &mut Context<Self>) -> Self::Result {
            self.0.borrow_mut().polls += 1;
            self.0.borrow_mut().clock += 1000;
            let delay = self.0.borrow().delay;
            let answer = if self.0.borrow().fails {
                let reason = "refused".into();
                Err(Error::Unreachable { operation: crate::Operation::List, server: "a:1".into(), reason })
            } else {
                Ok(self.list())
            };
            Box::pin(async move {
                sleep(delay).await;
                answer
            })
        }
    }

    fn service() -> ServiceName {
        ServiceName::parse("orders").unwrap()
    }

    fn origin(outages: u64) -> Origin {
        Origin { server: "a:1".into(), protocol: Protocol::V1, outages }
    }

    fn list(hosts: &[(&str, f64)], clock: i64) -> ServiceInfo {
        let mut info = ServiceInfo::empty(&service(), "");
        info.last_ref_time = clock;
        for (ip, weight) in hosts {
            let mut instance = Instance::new(*ip, 80);
            instance.weight = *weight;
            info.hosts.push(Arc::new(instance));
        }
        info.tidy("", false);
        info
    }

    /// Notes what it is told.
    #[derive(Default)]
    struct Ear {
        told: Vec<ServiceChanged>,
    }

    impl Actor for Ear {
        type Context = Context<Self>;
    }

    impl Handler<ServiceChanged> for Ear {
        type Result = ();

        fn handle(&mut self, news: ServiceChanged, _: &mut Context<Self>) {
            self.told.push(news);
        }
    }

    #[derive(Message)]
    #[rtype(result = "Vec<ServiceChanged>")]
    struct TellBack;

    impl Handler<TellBack> for Ear {
        type Result = Vec<ServiceChanged>;

        fn handle(&mut self, _: TellBack, _: &mut Context<Self>) -> Self::Result {
            std::mem::take(&mut self.told)
        }
    }

    #[derive(Message)]
    #[rtype(result = "()")]
    struct Leave;

    impl Handler<Leave> for Ear {
        type Result = ();

        fn handle(&mut self, _: Leave, ctx: &mut Context<Self>) {
            ctx.stop();
        }
    }

    struct World {
        server: Server,
        registry: Addr<Server>,
        subscriber: Addr<Subscriber>,
        expected: Expected,
        ear: Addr<Ear>,
    }

    fn settings() -> Settings {
        Settings {
            min_interval: Duration::from_secs(1),
            max_interval: Duration::from_secs(1),
            protect_from_empty: false,
            outage_hold: Duration::from_secs(15),
            cache: None,
            grid: Grid::new(),
            log: Logger::root(slog::Discard, slog::o!()),
        }
    }

    fn begin_with(settings: Settings, hosts: &[(&'static str, f64)]) -> World {
        tokio::time::pause();
        let server = Server::default();
        server.holds(hosts);
        let registry = server.clone().start();
        let log = settings.log.clone();
        let subscriber = Subscriber::new(service(), String::new(), registry.clone().downgrade().recipient(), settings);
        let expected = subscriber.expected();
        let subscriber = supervise::start(subscriber, 16, log);
        let ear = Ear::default().start();
        let world = World { server, registry, subscriber, expected, ear };
        world.listen(Listener::Strong(world.ear.clone().recipient()));
        world
    }

    fn begin(hosts: &[(&'static str, f64)]) -> World {
        begin_with(settings(), hosts)
    }

    impl World {
        fn listen(&self, listener: Listener) {
            self.subscriber.do_send(Listen { listener, on_its_way: self.expected.clone() });
        }

        async fn told_after(&self, seconds: f64) -> Vec<ServiceChanged> {
            sleep(Duration::from_secs_f64(seconds)).await;
            self.ear.send(TellBack).await.unwrap()
        }

        fn push(&self, hosts: &[(&str, f64)], clock: i64) {
            self.subscriber.do_send(PushedList { info: list(hosts, clock), origin: origin(0) });
        }
    }

    fn ips(instances: &[Arc<Instance>]) -> Vec<&str> {
        instances.iter().map(|instance| instance.ip.as_str()).collect()
    }

    #[actix::test]
    async fn a_listener_is_told_the_first_list_and_then_what_changes() {
        let world = begin(&[("1", 1.0)]);
        let told = world.told_after(2.5).await;
        assert_eq!(told.len(), 1, "nothing changed, nothing more is told");
        assert!(told[0].first && ips(&told[0].added) == ["1"] && told[0].source == Source::Poll);
        world.server.holds(&[("1", 2.0), ("2", 1.0)]);
        let told = world.told_after(1.2).await;
        assert_eq!((told.len(), ips(&told[0].added)), (1, vec!["2"]));
        assert_eq!((told[0].changed[0].0.weight, told[0].changed[0].1.weight), (1.0, 2.0));
        world.server.holds(&[]);
        let told = world.told_after(1.2).await;
        assert!(!told[0].first && ips(&told[0].removed) == ["1", "2"] && told[0].info.hosts.is_empty());
    }

    #[actix::test]
    async fn a_late_listener_is_told_the_present_list_at_once_and_a_known_one_is_not() {
        let world = begin(&[("1", 1.0)]);
        world.told_after(0.5).await;
        let late = Ear::default().start();
        world.listen(Listener::Strong(late.clone().recipient()));
        world.listen(Listener::Strong(world.ear.clone().recipient()));
        assert!(world.told_after(0.1).await.is_empty());
        let told = late.send(TellBack).await.unwrap();
        assert!(told.len() == 1 && told[0].first);
    }

    #[actix::test]
    async fn a_listener_that_comes_as_the_last_one_leaves_is_told() {
        let world = begin(&[("1", 1.0)]);
        world.told_after(0.5).await;
        world.subscriber.do_send(StopListening(None));
        world.listen(Listener::Strong(world.ear.clone().recipient()));
        let told = world.told_after(0.1).await;
        assert!(told.len() == 1 && told[0].first);
        world.subscriber.do_send(StopListening(None));
        sleep(Duration::from_secs(1)).await;
        assert!(!world.subscriber.connected(), "nobody is left, nobody is expected");
    }

    #[actix::test]
    async fn a_failed_poll_is_no_change() {
        let world = begin(&[("1", 1.0)]);
        world.told_after(0.5).await;
        world.server.0.borrow_mut().fails = true;
        assert!(world.told_after(10.0).await.is_empty());
        world.server.0.borrow_mut().fails = false;
        assert!(world.told_after(3.0).await.is_empty());
    }

    #[actix::test]
    async fn an_older_push_is_dropped_and_a_newer_one_told_at_once() {
        let world = begin(&[("1", 1.0)]);
        world.told_after(0.2).await;
        world.push(&[("1", 1.0), ("2", 1.0)], 1500);
        world.push(&[("1", 1.0)], 1200);
        world.push(&[("1", 1.0), ("2", 1.0)], 1500);
        let told = world.told_after(0.1).await;
        assert_eq!((told.len(), told[0].source, ips(&told[0].info.hosts)), (1, Source::Push, vec!["1", "2"]));
    }

    #[actix::test]
    async fn a_poll_loses_only_to_a_later_push_that_came_meanwhile() {
        let world = begin(&[("1", 1.0)]);
        world.told_after(0.2).await;
        world.server.0.borrow_mut().delay = Duration::from_millis(500);
        sleep(Duration::from_secs(1)).await;
        // The poll that is under way answers with the list of its time, 2000.
        world.push(&[("2", 1.0)], 2500);
        let told = world.told_after(0.6).await;
        assert_eq!(ips(&told.last().unwrap().info.hosts), ["2"], "the poll's list is older");
        // A poll that is sent now wins, whatever the clock says.
        world.server.0.borrow_mut().clock = -100_000;
        let told = world.told_after(2.0).await;
        assert_eq!(ips(&told.last().unwrap().info.hosts), ["1"]);
    }

    #[actix::test]
    async fn the_clock_of_another_server_orders_nothing() {
        let world = begin(&[("1", 1.0)]);
        world.told_after(0.2).await;
        world.server.holds(&[("1", 1.0), ("2", 1.0)]);
        world.server.0.borrow_mut().outages = 1;
        world.server.0.borrow_mut().clock = -3_600_000;
        let told = world.told_after(1.2).await;
        assert_eq!((ips(&told[0].added), told[0].source), (vec!["2"], Source::Failover));
    }

    #[actix::test]
    async fn a_list_emptied_by_an_outage_is_held_back_until_the_hold_is_over() {
        let world = begin(&[("1", 1.0), ("2", 1.0)]);
        world.told_after(0.2).await;
        world.server.holds(&[]);
        world.server.0.borrow_mut().outages = 1;
        assert!(world.told_after(5.0).await.is_empty(), "held");
        world.server.holds(&[("1", 1.0), ("2", 1.0), ("3", 1.0)]);
        let told = world.told_after(2.0).await;
        assert_eq!((told.len(), ips(&told[0].added)), (1, vec!["3"]), "new ones are told meanwhile");
        world.server.holds(&[]);
        world.server.0.borrow_mut().outages = 2;
        assert!(world.told_after(14.0).await.is_empty(), "held again");
        let told = world.told_after(5.0).await;
        assert_eq!((told.len(), told[0].removed.len()), (1, 3), "believed in the end");
    }

    #[actix::test]
    async fn a_list_that_shrinks_without_an_outage_is_believed_at_once() {
        let world = begin(&[("1", 1.0), ("2", 1.0), ("3", 1.0)]);
        world.told_after(0.2).await;
        world.server.holds(&[("1", 1.0)]);
        assert_eq!(world.told_after(1.2).await[0].removed.len(), 2);
    }

    #[actix::test]
    async fn with_protection_an_empty_list_needs_a_second_poll() {
        let world = begin_with(Settings { protect_from_empty: true, ..settings() }, &[("1", 1.0)]);
        world.told_after(0.2).await;
        world.push(&[], 1500);
        assert!(world.told_after(0.3).await.is_empty(), "a push alone is not believed");
        world.server.holds(&[]);
        let polls = world.server.0.borrow().polls;
        let told = world.told_after(3.0).await;
        assert_eq!(told.len(), 1);
        assert!(world.server.0.borrow().polls >= polls + 2);
    }

    #[actix::test]
    async fn a_full_listener_is_told_the_newest_list_compared_with_what_it_received() {
        let world = begin(&[("1", 1.0)]);
        let (slow, mailbox) = full_listener();
        world.listen(Listener::Strong(slow.clone().recipient()));
        world.told_after(0.5).await;
        for weight in [2.0, 3.0, 4.0] {
            world.server.0.borrow_mut().hosts = vec![("1", weight), ("2", weight)];
            world.told_after(1.1).await;
        }
        actix_rt::spawn(supervise::supervise(Ear::default(), mailbox, Logger::root(slog::Discard, slog::o!())));
        sleep(Duration::from_millis(200)).await;
        let told = slow.send(TellBack).await.unwrap();
        let last = told.last().unwrap();
        assert!(told.len() <= 3, "one that fitted, one that was owed: {}", told.len());
        assert!(told[0].first && last.info.hosts[0].weight == 4.0);
        let received = &told[told.len() - 2].info.hosts;
        assert_eq!(last.changed.first().map(|(old, _)| old.weight), Some(received[0].weight));
    }

    /// An actor that does not run yet, with a mailbox of one.
    fn full_listener() -> (Addr<Ear>, actix::dev::channel::AddressReceiver<Ear>) {
        let (sender, mailbox) = actix::dev::channel::channel(1);
        (Addr::new(sender), mailbox)
    }

    impl Supervised for Ear {}

    #[actix::test]
    async fn a_weak_listener_is_told_and_not_kept_alive() {
        let world = begin(&[("1", 1.0)]);
        let weak = Ear::default().start();
        world.listen(Listener::Weak(weak.clone().downgrade().recipient()));
        world.told_after(0.5).await;
        world.server.holds(&[("2", 1.0)]);
        world.told_after(1.2).await;
        assert_eq!(weak.send(TellBack).await.unwrap().len(), 2);
        let gone = weak.downgrade();
        drop(weak);
        world.server.holds(&[("3", 1.0)]);
        world.told_after(1.2).await;
        assert!(gone.upgrade().is_none_or(|ear| !ear.connected()));
    }

    #[actix::test]
    async fn it_ends_with_its_last_listener_and_view() {
        let world = begin(&[]);
        let view = world.subscriber.send(AddView { healthy_only: false }).await.unwrap();
        world.subscriber.send(StopListening(None)).await.unwrap();
        sleep(Duration::from_secs(5)).await;
        assert!(world.subscriber.connected(), "a view is left");
        drop(view);
        sleep(Duration::from_millis(10)).await;
        assert!(!world.subscriber.connected());
    }

    #[actix::test]
    async fn a_listener_that_stopped_is_forgotten() {
        let world = begin(&[]);
        world.told_after(0.5).await;
        world.ear.do_send(Leave);
        sleep(Duration::from_secs(2)).await;
        assert!(!world.subscriber.connected());
    }

    #[actix::test]
    async fn it_ends_with_the_registry_and_its_views_say_so() {
        let World { server: _, registry, subscriber, expected: _, ear: _ear } = begin(&[("1", 1.0)]);
        let view = subscriber.send(AddView { healthy_only: false }).await.unwrap();
        sleep(Duration::from_secs(1)).await;
        assert!(view.is_ready() && !view.is_stale());
        drop(registry);
        sleep(Duration::from_secs(3)).await;
        assert!(!subscriber.connected() && view.is_stale());
        assert_eq!(ips(&view.instances()), ["1"], "the last list stays");
    }

    #[actix::test]
    async fn a_stranger_brings_the_next_poll_forward_once_a_second() {
        let slow = Duration::from_secs(10);
        let world = begin_with(Settings { min_interval: slow, max_interval: slow, ..settings() }, &[]);
        sleep(Duration::from_secs(2)).await;
        let polls = world.server.0.borrow().polls;
        for _ in 0..2000 {
            world.subscriber.send(Hint).await.unwrap();
            sleep(Duration::from_millis(1)).await;
        }
        let more = world.server.0.borrow().polls - polls;
        assert!((1..=4).contains(&more), "{more}");
    }
}
