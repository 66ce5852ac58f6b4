//! The Subscriber actor: keeps one service's list current, and tells listeners and views.

use std::{
    fmt,
    ops::Deref,
    sync::Arc,
    time::{Duration, SystemTime},
};

use actix::{
    fut::ActorFutureExt, Actor, ActorContext, AsyncContext, Context, Handler, MailboxError, Message, MessageResult,
    Recipient, SpawnHandle, Supervised, WeakRecipient, WrapFuture,
};
use actix_rt::time::Instant;
use serde::Serialize;
use slog::{debug, Logger};

use crate::{
    config::Config,
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
    fn recipient(&self) -> Option<Recipient<ServiceChanged>> {
        match self {
            Listener::Strong(recipient) => Some(recipient.clone()),
            Listener::Weak(weak) => weak.upgrade(),
        }
    }

    fn is_alive(&self) -> bool {
        self.recipient().is_some_and(|recipient| recipient.connected())
    }
}

/// Adds a listener; one that listens already is the same one.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Listen(pub(crate) Listener);

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
    pub(crate) grid: Grid,
    pub(crate) log: Logger,
}

impl Settings {
    pub(crate) fn new(config: &Config, grid: Grid) -> Self {
        Settings {
            min_interval: config.min_poll_interval,
            max_interval: config.max_poll_interval,
            protect_from_empty: config.protect_from_empty,
            outage_hold: config.outage_hold,
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
    source: Source,
    received: SystemTime,
}

struct Told {
    listener: Listener,
    /// The list that this listener received last.
    last: Option<Arc<ServiceInfo>>,
    /// Its mailbox was full: it is to be tried again.
    owed: bool,
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
    view: ViewWriter,
    truth: Option<Truth>,
    /// Something happened after which a server may not know all instances: see [`Subscriber::merge`].
    upheaval: bool,
    /// Until then a sharply shrunken list is held back.
    hold_until: Option<Instant>,
    holding: bool,
    empty_polls: u32,
    polling: bool,
    poll_again: bool,
    next_poll: SpawnHandle,
    last_poll: Option<Instant>,
    retrying: bool,
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
            Ok(Err(error)) => self.poll_failed(error),
            Err(error) => self.poll_failed(error.into()),
        }
        let wait = self.pause();
        self.poll_after(wait, ctx);
    }

    fn poll_failed(&mut self, error: Error) {
        debug!(self.settings.log, "a subscribed list cannot be had"; "service" => %self.service, "error" => %error);
        self.status.last_error = Some(error);
        self.upheaval = true;
        self.view.set_stale(true);
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
        if self.holding || self.empty_polls > 0 {
            return interval.min(CONFIRM_INTERVAL);
        }
        // The first interval is cut by chance, so that subscriptions made together are not polled together for ever.
        if self.status.polls == 1 {
            return interval.mul_f64(0.5 + 0.5 * fastrand::f64());
        }
        interval
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
        self.status.changes += 1;
        let info = Arc::new(info);
        self.view.publish(info.clone());
        let (applied, received) = (Instant::now(), SystemTime::now());
        self.truth = Some(Truth { info, origin, server_millis, applied, source, received });
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
    /// A server that restarted empty fills up again within a beat interval: after an outage nothing is taken out of a
    /// list that lost more than half, until the hold is over and a poll says the same. With `protect_from_empty` an empty
    /// list always needs a second poll.
    fn hold_back(&mut self, old: Arc<ServiceInfo>, new: ServiceInfo, polled: bool) -> ServiceInfo {
        let lost = Difference::between(&old.hosts, &new.hosts).removed;
        if lost.is_empty() {
            self.holding = false;
            self.empty_polls = 0;
            return new;
        }
        let in_hold = self.hold_until.is_some_and(|until| Instant::now() < until);
        let still_holding = self.holding && !polled;
        self.holding = still_holding || (in_hold && (self.holding || lost.len() * 2 > old.hosts.len()));
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
            tell_one(told, prepared[known].1.as_ref(), &truth.info)
        });
        self.retry_owed(ctx);
        self.end_if_unused(ctx);
    }

    fn retry_owed(&mut self, ctx: &mut Context<Self>) {
        if self.retrying || !self.listeners.iter().any(|told| told.owed) {
            return;
        }
        self.retrying = true;
        ctx.run_later(FULL_RETRY, |subscriber, ctx| {
            subscriber.retrying = false;
            subscriber.tell(ctx);
        });
    }

    fn forget_the_gone(&mut self) {
        self.listeners.retain(|told| told.listener.is_alive());
    }

    fn is_unused(&self) -> bool {
        self.listeners.is_empty() && self.view.readers() == 0
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
fn tell_one(told: &mut Told, news: Option<&ServiceChanged>, now: &Arc<ServiceInfo>) -> bool {
    let Some(recipient) = told.listener.recipient() else { return false };
    let Some(news) = news else {
        told.last = Some(now.clone());
        told.owed = false;
        return true;
    };
    match recipient.try_send(news.clone()) {
        Ok(()) => {
            told.last = Some(now.clone());
            told.owed = false;
            true
        }
        Err(actix::prelude::SendError::Full(_)) => {
            told.owed = true;
            true
        }
        Err(actix::prelude::SendError::Closed(_)) => false,
    }
}

impl Actor for Subscriber {
    type Context = Context<Self>;

    /// Also after a restart, which has lost the timers and the poll under way.
    fn started(&mut self, ctx: &mut Context<Self>) {
        self.polling = false;
        self.retrying = false;
        self.next_poll = SpawnHandle::default();
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

    fn handle(&mut self, Listen(listener): Listen, ctx: &mut Context<Self>) {
        let Some(recipient) = listener.recipient() else { return self.end_if_unused(ctx) };
        if self.listeners.iter().any(|told| told.listener.recipient().as_ref() == Some(&recipient)) {
            return;
        }
        self.listeners.push(Told { listener, last: None, owed: false });
        self.tell(ctx);
    }
}

impl Handler<StopListening> for Subscriber {
    type Result = ();

    fn handle(&mut self, StopListening(listener): StopListening, ctx: &mut Context<Self>) {
        self.listeners.retain(|told| listener.is_some() && told.listener.recipient() != listener);
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
