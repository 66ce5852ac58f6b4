//! The desired state: which instances this application wants registered, and the turns in which messages about an
//! instance take effect.
//!
//! Two tables by instance. *Desired* instances are to be registered; *leftovers* may be registered and are not to
//! be. An instance may be in both for a while: registered again while its previous registration is being taken
//! back. A Registry that goes offline takes its desired instances out of their table, to deregister them without
//! look-ups.
//!
//! A [`Turn`] is the right to work on one instance. Each message takes one when the mailbox receives it, and drops
//! it when its work is done; so messages about one instance take effect in their order, and others never wait.
//! A turn of a change leaves the instance registered, as ephemeral or persistent as it was. It may last as long as an
//! operation may, so beats pass it. All other turns are *exclusive*: beats wait for them.
//!
//! Invariants:
//!
//! - Only the holder of a turn changes the entries of its instance, except beats that pass changes, which only note
//!   their outcome.
//! - Each desired ephemeral instance has exactly one Heartbeat, unless the Registry is disabled; each leftover that
//!   is worked on has one.

use std::{
    cell::{Cell, RefCell},
    collections::{hash_map::Entry, HashMap, HashSet, VecDeque},
    ops::Range,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use actix::WeakAddr;
use actix_rt::time::Instant;
use foldhash::fast::RandomState as FastHash;
use tokio::sync::oneshot;

use super::{
    heartbeat::{Heartbeat, StopBeating},
    published_state::StatePublisher,
};
use crate::{
    error::Error,
    model::{
        instance::{Instance, InstanceKey},
        instance_state::{InstanceState, InstanceStateChanged},
    },
};

/// On r-nacos each instance is read after this many beats. That is every 30 s, at the interval of 5 s that r-nacos asks
/// for.
const BEATS_PER_READ: u8 = 6;

/// One instance that this application wants registered.
///
/// `instance` has the values that the application wants. The server may have other values: an operator may have changed
/// them.
pub(crate) struct DesiredInstance {
    pub(crate) key: Arc<InstanceKey>,
    /// The values that the application gave. `healthy` becomes true with the first registration, because a later one
    /// must not make an instance unhealthy that sends heartbeats.
    pub(crate) instance: Instance,
    /// `None` for a persistent instance, unless it waits to be registered.
    pub(crate) heartbeat: Option<WeakAddr<Heartbeat>>,
    /// The epoch in which the server in use accepted these values, a past one if another server did; `None` while no
    /// server has.
    pub(crate) known_to: Option<u64>,
    /// The values before a change that failed and that a server may have applied all the same. They are registered
    /// instead of the next beat.
    pub(crate) restore: Option<Box<Instance>>,
    pub(crate) state: InstanceState,
    pub(crate) since: Instant,
    /// When this Registry last registered the instance.
    pub(crate) last_written: Option<Instant>,
    /// When a server last accepted a registration or a beat.
    pub(crate) last_success: Option<Instant>,
    /// Registrations and beats that were rejected since the last success.
    pub(super) rejections: u32,
    pub(crate) beats: u64,
    /// Whether the published state has the error of the last attempt.
    has_failed: bool,
    /// On r-nacos: the number of beats until the instance is read.
    beats_until_read: u8,
    pub(super) publisher: StatePublisher,
}

impl DesiredInstance {
    /// An instance that no server has accepted yet.
    pub(crate) fn new(key: Arc<InstanceKey>, instance: Instance, heartbeat: Option<WeakAddr<Heartbeat>>) -> Self {
        DesiredInstance {
            publisher: StatePublisher::new(key.clone()),
            key,
            instance,
            heartbeat,
            known_to: None,
            restore: None,
            state: InstanceState::Pending,
            since: Instant::now(),
            last_written: None,
            last_success: None,
            rejections: 0,
            beats: 0,
            has_failed: false,
            // Random, so that instances that are registered together are not read together.
            beats_until_read: fastrand::u8(1..=BEATS_PER_READ),
        }
    }

    /// Counts a beat. Returns whether the instance is to be read now.
    pub(super) fn count_down_to_read(&mut self) -> bool {
        self.beats_until_read -= 1;
        let is_due = self.beats_until_read == 0;
        if is_due {
            self.beats_until_read = BEATS_PER_READ;
        }
        is_due
    }

    /// The values to register instead of the next beat in `epoch`, if any. Previous values are restored only in the
    /// epoch that knows the instance: in another epoch the server has not seen the change that failed.
    ///
    /// `None` means that a beat is enough.
    pub(crate) fn to_register(&self, epoch: u64) -> Option<&Instance> {
        if self.known_to == Some(epoch) && !self.is_expired() {
            self.restore.as_deref()
        } else {
            Some(&self.instance)
        }
    }

    /// Whether servers have removed the instance because its beats are missing.
    fn is_expired(&self) -> bool {
        self.instance.ephemeral && self.is_silent_for(self.instance.delete_timeout())
    }

    fn is_silent_for(&self, time: Duration) -> bool {
        self.last_success.is_some_and(|last| last.elapsed() >= time)
    }

    /// Replaces the Heartbeat, if the instance has one.
    pub(crate) fn replace_heartbeat(&mut self, start: impl FnOnce() -> WeakAddr<Heartbeat>) {
        if let Some(heartbeat) = &mut self.heartbeat {
            stop(Some(heartbeat));
            *heartbeat = start();
        }
    }

    /// Ends the Heartbeat, if the instance has one.
    pub(super) fn end_heartbeat(&mut self) {
        stop(self.heartbeat.take().as_ref());
    }

    /// Notes that a server accepted a registration that was sent in `epoch`.
    pub(crate) fn registered(&mut self, epoch: u64) {
        self.instance.healthy = true;
        self.known_to = Some(epoch);
        self.restore = None;
        self.succeeded();
        self.last_written = self.last_success;
    }

    /// Notes that a server accepted a beat.
    pub(crate) fn beat_accepted(&mut self) {
        self.beats += 1;
        self.succeeded();
    }

    /// Notes that a server accepted a registration or a beat.
    pub(crate) fn succeeded(&mut self) {
        let before = std::mem::replace(&mut self.state, InstanceState::Registered);
        self.last_success = Some(Instant::now());
        self.rejections = 0;
        let had_failed = std::mem::take(&mut self.has_failed);
        // The usual beat changes nothing, and the published state has left the CPU's cache since the previous one.
        if before != self.state || had_failed {
            self.publisher.publish(self.state, None);
        }
    }

    /// Notes that the server has forgotten the instance.
    pub(crate) fn forgotten(&mut self) {
        self.state = InstanceState::Lost;
        self.known_to = None;
        self.publisher.publish(self.state, self.last_error());
    }

    /// Notes that a registration or a beat failed.
    ///
    /// An error that is not retryable makes the instance rejected. Any other error makes a registered instance lost
    /// once its beats have failed for too long.
    pub(crate) fn failed(&mut self, error: &Error) {
        if !error.is_retryable() {
            self.state = InstanceState::Rejected;
            self.rejections = self.rejections.saturating_add(1);
        } else if self.state == InstanceState::Registered && self.is_late() {
            self.state = InstanceState::Lost;
        }
        self.has_failed = true;
        self.publisher.publish(self.state, Some(error.clone()));
    }

    /// The error of the last attempt, if it failed.
    pub(crate) fn last_error(&self) -> Option<Error> {
        self.publisher.last_error()
    }

    /// The message to listeners about the state.
    pub(super) fn state_change(&self) -> InstanceStateChanged {
        InstanceStateChanged { instance: (*self.key).clone(), state: self.state, error: self.error_of_state() }
    }

    /// Why the instance is rejected or lost.
    pub(super) fn error_of_state(&self) -> Option<Error> {
        match self.state {
            InstanceState::Rejected | InstanceState::Lost => self.last_error(),
            InstanceState::Pending | InstanceState::Registered => None,
        }
    }

    /// Whether servers consider the instance unhealthy, or have removed it, because its beats are missing.
    pub(crate) fn is_late(&self) -> bool {
        self.is_silent_for(self.instance.heartbeat_timeout())
    }
}

/// An instance that a server may have although the application does not want it, or not yet: its registration is under
/// way or failed, or deregistering it failed.
pub(crate) struct Leftover {
    pub(crate) ephemeral: bool,
    /// Deregisters the instance in the background. `None` while an operation is under way, and when a server rejects
    /// deregistering.
    pub(crate) heartbeat: Option<WeakAddr<Heartbeat>>,
}

impl Leftover {
    pub(crate) fn stop(&mut self) {
        stop(self.heartbeat.take().as_ref());
    }
}

impl Drop for Leftover {
    fn drop(&mut self) {
        self.stop();
    }
}

fn stop(heartbeat: Option<&WeakAddr<Heartbeat>>) {
    if let Some(heartbeat) = heartbeat.and_then(WeakAddr::upgrade) {
        heartbeat.do_send(StopBeating);
    }
}

/// All desired instances and leftovers. Only the holder of an instance's [`Turn`] changes its entries.
///
/// Keys are `&Arc<InstanceKey>`: comparing the same `Arc` does not compare its strings.
#[derive(Default)]
pub(crate) struct DesiredInstances {
    /// Boxed to save memory: a hash map may allocate twice as many slots as it has entries.
    desired: RefCell<HashMap<Arc<InstanceKey>, Box<DesiredInstance>, FastHash>>,
    leftovers: RefCell<HashMap<Arc<InstanceKey>, Leftover, FastHash>>,
    /// The instances that a Registry that goes offline has taken out of the table.
    departing: RefCell<Vec<Departing>>,
    turns: Rc<Turns>,
}

/// An instance of a Registry that goes offline.
///
/// Its Heartbeat and its memory are kept until the Registry has ended: ending 100,000 actors and freeing their memory
/// between the requests would take nearly as long as the requests.
struct Departing {
    instance: Box<DesiredInstance>,
    /// Whether the work on it has ended, so that it is not desired any more.
    is_gone: bool,
}

impl DesiredInstances {
    /// Queues behind every earlier message about this instance.
    pub(crate) fn queue(&self, key: &Arc<InstanceKey>) -> Turn {
        self.turns.take(key, true)
    }

    /// Like [`queue`](DesiredInstances::queue), for a change that leaves the instance registered, as ephemeral or
    /// persistent as it was. A change may last as long as an operation may, so beats do not wait for it.
    pub(crate) fn queue_change(&self, key: &Arc<InstanceKey>) -> Turn {
        self.turns.take(key, false)
    }

    pub(crate) fn get<T>(&self, key: &Arc<InstanceKey>, read: impl FnOnce(&DesiredInstance) -> T) -> Option<T> {
        self.desired.borrow().get(key).map(|desired| read(desired))
    }

    pub(crate) fn update(&self, key: &Arc<InstanceKey>, change: impl FnOnce(&mut DesiredInstance)) {
        if let Some(desired) = self.desired.borrow_mut().get_mut(key) {
            change(desired);
        }
    }

    /// Adds the instance, or replaces it. The Heartbeat of a replaced instance ends. Its published state moves to the
    /// new entry, so that each existing `Registration` reports the new instance from now on.
    pub(crate) fn insert(&self, mut desired: DesiredInstance) {
        if let Some(mut previous) = self.remove(&desired.key) {
            std::mem::swap(&mut previous.publisher, &mut desired.publisher);
        }
        self.forget_leftover(&desired.key);
        self.desired.borrow_mut().insert(desired.key.clone(), Box::new(desired));
    }

    /// Removes the instance and ends its Heartbeat.
    pub(crate) fn remove(&self, key: &Arc<InstanceKey>) -> Option<Box<DesiredInstance>> {
        let desired = self.desired.borrow_mut().remove(key)?;
        stop(desired.heartbeat.as_ref());
        Some(desired)
    }

    /// Takes the desired instance out of the table, for a Registry that goes offline. Returns its number there. It stays
    /// desired until it is [retired](DesiredInstances::retire).
    pub(super) fn depart(&self, key: &Arc<InstanceKey>) -> Option<usize> {
        let instance = self.desired.borrow_mut().remove(key)?;
        let mut departing = self.departing.borrow_mut();
        departing.push(Departing { instance, is_gone: false });
        Some(departing.len() - 1)
    }

    /// Does the same with all instances that no message is about and that are no leftovers, without a look-up for each.
    pub(super) fn begin_departure(&self) -> Departure {
        let busy = self.busy_keys();
        let mut desired = self.desired.borrow_mut();
        let stay: Vec<_> = busy.iter().filter_map(|key| desired.remove_entry(key)).collect();
        let mut departing = self.departing.borrow_mut();
        departing.extend(desired.drain().map(|(_, instance)| Departing { instance, is_gone: false }));
        desired.extend(stay);
        Departure { idle: 0..departing.len(), busy: busy.iter().map(|key| self.queue(key)).collect() }
    }

    /// Reads an instance of a Registry that goes offline, by its number.
    pub(super) fn departing<T>(&self, number: usize, read: impl FnOnce(&DesiredInstance) -> T) -> Option<T> {
        self.departing.borrow().get(number).map(|departing| read(&departing.instance))
    }

    /// Notes that the work on an instance of a Registry that goes offline has ended.
    pub(super) fn retire(&self, number: usize) {
        if let Some(departing) = self.departing.borrow_mut().get_mut(number) {
            departing.is_gone = true;
            departing.instance.publisher.stop();
        }
    }

    /// Ends all Heartbeats, also those of [retired](DesiredInstances::retire) instances.
    pub(super) fn stop_heartbeats(&self) {
        self.departing.borrow().iter().for_each(|departing| stop(departing.instance.heartbeat.as_ref()));
        self.desired.borrow().values().for_each(|desired| stop(desired.heartbeat.as_ref()));
        self.leftovers.borrow_mut().values_mut().for_each(Leftover::stop);
    }

    pub(crate) fn add_leftover(&self, key: &Arc<InstanceKey>, ephemeral: bool) {
        self.leftovers.borrow_mut().insert(key.clone(), Leftover { ephemeral, heartbeat: None });
    }

    pub(crate) fn forget_leftover(&self, key: &Arc<InstanceKey>) {
        self.leftovers.borrow_mut().remove(key);
    }

    pub(crate) fn leftover<T>(&self, key: &Arc<InstanceKey>, read: impl FnOnce(&mut Leftover) -> T) -> Option<T> {
        self.leftovers.borrow_mut().get_mut(key).map(read)
    }

    /// The keys of all leftovers, and of all instances with a message under way.
    fn busy_keys(&self) -> HashSet<Arc<InstanceKey>, FastHash> {
        let mut keys: HashSet<_, FastHash> = self.leftovers.borrow().keys().cloned().collect();
        keys.extend(self.turns.queues.borrow().keys().cloned());
        keys
    }

    #[cfg(feature = "_testing")]
    pub(crate) fn heartbeats(&self) -> Vec<WeakAddr<Heartbeat>> {
        let (desired, leftovers) = (self.desired.borrow(), self.leftovers.borrow());
        let desired = desired.values().filter_map(|desired| desired.heartbeat.clone());
        desired.chain(leftovers.values().filter_map(|leftover| leftover.heartbeat.clone())).collect()
    }

    pub(crate) fn for_each_leftover(&self, mut read: impl FnMut(&Arc<InstanceKey>, &Leftover)) {
        self.leftovers.borrow().iter().for_each(|(key, leftover)| read(key, leftover));
    }

    pub(crate) fn for_each(&self, mut read: impl FnMut(&DesiredInstance)) {
        self.desired.borrow().values().for_each(|desired| read(desired));
        let departing = self.departing.borrow();
        departing.iter().filter(|departing| !departing.is_gone).for_each(|departing| read(&departing.instance));
    }
}

/// What a Registry that goes offline has to deregister.
pub(super) struct Departure {
    /// The numbers of the instances that no message is about.
    pub(super) idle: Range<usize>,
    /// Turns of all others. Each queues behind every message about its instance.
    pub(super) busy: Vec<Turn>,
}

/// The turns of one instance that have not ended.
///
/// It exists as long as it has turns, so idle instances cost nothing here.
struct Queue {
    /// The number of the first turn, the only one that has come.
    first: u64,
    /// The turns behind it, in order. Dropping a sender starts the turn.
    waiting: VecDeque<(u64, oneshot::Sender<()>)>,
    /// How many turns a beat must wait for.
    exclusive: usize,
}

/// The queue of each instance. Messages about an instance wait there, first come, first served.
#[derive(Default)]
struct Turns {
    queues: RefCell<HashMap<Arc<InstanceKey>, Queue, FastHash>>,
    next: Cell<u64>,
}

impl Turns {
    fn take(self: &Rc<Self>, key: &Arc<InstanceKey>, is_exclusive: bool) -> Turn {
        let number = self.next.get();
        self.next.set(number + 1);
        let mut queues = self.queues.borrow_mut();
        let (comes, is_behind_exclusive) = match queues.entry(key.clone()) {
            Entry::Vacant(vacant) => {
                let exclusive = usize::from(is_exclusive);
                vacant.insert(Queue { first: number, waiting: VecDeque::new(), exclusive });
                (None, false)
            }
            Entry::Occupied(mut queue) => {
                let queue = queue.get_mut();
                let (start, comes) = oneshot::channel();
                queue.waiting.push_back((number, start));
                let is_behind_exclusive = queue.exclusive > 0;
                queue.exclusive += usize::from(is_exclusive);
                (Some(comes), is_behind_exclusive)
            }
        };
        let (turns, key) = (self.clone(), key.clone());
        Turn { turns, key, number, is_exclusive, is_behind_exclusive, comes }
    }
}

/// A position in the queue of one instance. An application's message takes it when the mailbox receives the message, a
/// beat when it has a permit. A turn comes when all turns before it have been dropped.
pub(crate) struct Turn {
    turns: Rc<Turns>,
    key: Arc<InstanceKey>,
    number: u64,
    is_exclusive: bool,
    is_behind_exclusive: bool,
    /// Resolves when this turn comes; `None` after that.
    comes: Option<oneshot::Receiver<()>>,
}

impl Turn {
    pub(crate) fn key(&self) -> &Arc<InstanceKey> {
        &self.key
    }

    pub(crate) fn is_behind_others(&self) -> bool {
        self.comes.is_some()
    }

    /// Whether a beat may overtake all turns before this one.
    ///
    /// Then no message before it can remove the instance or make it persistent.
    pub(crate) fn is_behind_changes_only(&self) -> bool {
        self.is_behind_others() && !self.is_behind_exclusive
    }

    /// Waits until all turns before this one have ended.
    pub(crate) async fn come(&mut self) {
        if let Some(comes) = &mut self.comes {
            // An error means that the sender was dropped, which is how a turn starts.
            let _ = comes.await;
            self.comes = None;
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut queues = self.turns.queues.borrow_mut();
        let Entry::Occupied(mut entry) = queues.entry(self.key.clone()) else { return };
        let queue = entry.get_mut();
        queue.exclusive = queue.exclusive.saturating_sub(usize::from(self.is_exclusive));
        if queue.first != self.number {
            // Given up before it came: the turns behind it still wait for those before it.
            queue.waiting.retain(|(number, _)| *number != self.number);
        } else if let Some((next, _start)) = queue.waiting.pop_front() {
            queue.first = next;
        } else {
            entry.remove();
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use actix::{Actor, Context, Handler};
    use futures_util::FutureExt as _;
    use tokio::sync::watch;

    use super::{
        super::{
            heartbeat::{Beat, BeatOutcome, HeartbeatSettings},
            phase::Phase,
        },
        *,
    };
    use crate::{error::Operation, model::service::ServiceName, runtime::timer_grid::Grid};

    pub(crate) fn key(port: u16) -> Arc<InstanceKey> {
        Arc::new(InstanceKey::of(&ServiceName::parse("orders").unwrap(), &Instance::new("127.0.0.7", port)))
    }

    fn desired(port: u16, heartbeat: Option<&WeakAddr<Heartbeat>>) -> DesiredInstance {
        DesiredInstance::new(key(port), Instance::new("127.0.0.7", port), heartbeat.cloned())
    }

    /// The recipient of beats in place of the Registry. These tests send none.
    struct NoRegistry;

    impl Actor for NoRegistry {
        type Context = Context<Self>;
    }

    impl Handler<Beat> for NoRegistry {
        type Result = Result<BeatOutcome, Error>;

        fn handle(&mut self, _: Beat, _: &mut Context<Self>) -> Self::Result {
            panic!("no beat is due")
        }
    }

    /// Heartbeats whose first beats are not due within a test: the clock stands still.
    fn heartbeats<const COUNT: usize>() -> [WeakAddr<Heartbeat>; COUNT] {
        tokio::time::pause();
        let registry = NoRegistry.start().downgrade().recipient();
        let log = slog::Logger::root(slog::Discard, slog::o!());
        let phase = watch::channel(Phase::Serving).1;
        let settings = HeartbeatSettings::new(registry, Grid::new(), phase, log);
        let interval = Some(Duration::from_secs(3600));
        std::array::from_fn(|_| Heartbeat::new(key(1), interval, settings.clone()).start_supervised())
    }

    async fn has_ended(heartbeat: &WeakAddr<Heartbeat>) -> bool {
        for _ in 0..10 {
            actix_rt::task::yield_now().await;
        }
        heartbeat.upgrade().is_none_or(|heartbeat| !heartbeat.connected())
    }

    fn registered(ephemeral: bool) -> DesiredInstance {
        let instance = Instance { ephemeral, weight: 2.0, healthy: false, ..Instance::new("127.0.0.7", 1) };
        let mut desired = DesiredInstance::new(key(1), instance, None);
        assert!(!desired.to_register(7).expect("it is pending").healthy);
        desired.registered(7);
        desired
    }

    fn wanted(instances: &DesiredInstances) -> Vec<Arc<InstanceKey>> {
        let mut keys = Vec::new();
        instances.for_each(|desired| keys.push(desired.key.clone()));
        keys
    }

    #[actix::test]
    async fn an_instance_that_is_known_in_the_epoch_is_not_registered_again() {
        let desired = registered(true);
        assert_eq!(desired.to_register(7), None);
        let again = desired.to_register(8).expect("another epoch does not know it");
        assert!(again.healthy, "later registrations do not make it unhealthy");
    }

    #[actix::test]
    async fn previous_values_are_restored_only_in_the_epoch_that_may_have_the_change() {
        let mut desired = registered(true);
        let before = Instance { weight: 5.0, ..Instance::new("127.0.0.7", 1) };
        desired.restore = Some(before.clone().into());
        assert_eq!(desired.to_register(7), Some(&before));
        assert_eq!(desired.to_register(8).map(|values| values.weight), Some(2.0));
        desired.registered(7);
        assert_eq!(desired.to_register(7), None, "once");
    }

    #[actix::test]
    async fn an_instance_that_servers_have_removed_is_registered_instead_of_beating() {
        tokio::time::pause();
        for (ephemeral, removed) in [(true, true), (false, false)] {
            let mut desired = registered(ephemeral);
            tokio::time::advance(Duration::from_secs(29)).await;
            assert_eq!(desired.to_register(7), None);
            tokio::time::advance(Duration::from_secs(1)).await;
            assert_eq!(desired.to_register(7).is_some(), removed);
            desired.succeeded();
            assert_eq!(desired.to_register(7), None);
        }
    }

    #[actix::test]
    async fn a_failure_makes_an_instance_rejected_or_lost_or_leaves_it_registered() {
        tokio::time::pause();
        let (operation, server, reason) = (crate::error::Operation::Beat, "a:1".to_owned(), String::new());
        let unreachable = Error::Unreachable { operation, server: server.clone(), reason: reason.clone() };
        let mut desired = registered(true);
        desired.failed(&unreachable);
        assert_eq!(desired.state, InstanceState::Registered);
        tokio::time::advance(Duration::from_secs(15)).await;
        desired.failed(&unreachable);
        assert_eq!(desired.state, InstanceState::Lost);
        desired.failed(&Error::Unauthorized { operation, server, reason });
        assert_eq!(desired.state, InstanceState::Rejected);
        desired.failed(&unreachable);
        assert_eq!(desired.state, InstanceState::Rejected, "no server has accepted it since");
        desired.succeeded();
        assert_eq!(desired.state, InstanceState::Registered);
        let mut pending = DesiredInstance::new(key(1), Instance::new("127.0.0.7", 1), None);
        pending.failed(&unreachable);
        assert_eq!(pending.state, InstanceState::Pending);
    }

    #[actix::test]
    async fn a_success_removes_the_error_of_an_instance_that_was_registered_all_the_time() {
        let (operation, server, reason) = (Operation::Beat, "a:1".to_owned(), String::new());
        let unreachable = Error::Unreachable { operation, server, reason };
        let mut desired = registered(true);
        desired.failed(&unreachable);
        assert_eq!((desired.state, desired.last_error()), (InstanceState::Registered, Some(unreachable)));
        desired.beat_accepted();
        assert_eq!((desired.state, desired.last_error()), (InstanceState::Registered, None));
    }

    #[actix::test]
    async fn an_instance_that_the_server_has_forgotten_is_lost_and_registered_again() {
        let mut desired = registered(true);
        (0..2).for_each(|_| desired.beat_accepted());
        assert_eq!((desired.to_register(7), desired.beats), (None, 2));
        desired.forgotten();
        assert!(desired.state == InstanceState::Lost && desired.to_register(7).is_some());
    }

    #[actix::test]
    async fn listeners_receive_the_error_of_a_rejected_or_lost_instance_and_of_no_other() {
        let (operation, server, reason) = (Operation::Beat, "a:1".to_owned(), String::new());
        let rejected = Error::Unauthorized { operation, server: server.clone(), reason: reason.clone() };
        let unreachable = Error::Unreachable { operation, server, reason };
        let mut desired = registered(true);
        desired.failed(&rejected);
        assert_eq!(desired.state_change().error, Some(rejected));
        desired.registered(7);
        desired.failed(&unreachable);
        assert_eq!((desired.state_change().state, desired.state_change().error), (InstanceState::Registered, None));
        desired.forgotten();
        assert_eq!(desired.state_change().error, Some(unreachable));
    }

    #[actix::test]
    async fn an_instance_is_read_after_every_sixth_beat_and_first_after_a_random_number_of_beats() {
        let mut first_reads = HashSet::new();
        for _ in 0..200 {
            let mut desired = desired(1, None);
            let reads: Vec<_> = (1..=20).filter(|_| desired.count_down_to_read()).collect();
            assert!(reads.len() >= 3 && reads.windows(2).all(|pair| pair[1] - pair[0] == BEATS_PER_READ), "{reads:?}");
            first_reads.insert(reads[0]);
        }
        assert_eq!(first_reads, (1..=BEATS_PER_READ).collect());
    }

    #[actix::test]
    async fn a_heartbeat_ends_with_the_entry_that_has_it() {
        let instances = DesiredInstances::default();
        let [first, second, of_leftover, last] = heartbeats();
        instances.insert(desired(1, Some(&first)));
        instances.insert(desired(1, Some(&second)));
        assert!(has_ended(&first).await && !has_ended(&second).await, "the second one replaces the first one");
        assert!(instances.remove(&key(1)).is_some() && has_ended(&second).await);
        instances.add_leftover(&key(1), true);
        instances.leftover(&key(1), |leftover| leftover.heartbeat = Some(of_leftover.clone()));
        assert_eq!(instances.heartbeats(), std::slice::from_ref(&of_leftover));
        instances.insert(desired(1, Some(&last)));
        assert!(has_ended(&of_leftover).await, "the instance is desired again");
        assert_eq!(instances.heartbeats(), std::slice::from_ref(&last));
        assert!(!has_ended(&last).await);
    }

    #[actix::test]
    async fn a_leftover_whose_heartbeat_was_stopped_is_still_a_leftover() {
        let (instances, [heartbeat]) = (DesiredInstances::default(), heartbeats());
        instances.add_leftover(&key(1), true);
        instances.leftover(&key(1), |leftover| leftover.heartbeat = Some(heartbeat.clone()));
        instances.leftover(&key(1), Leftover::stop);
        assert!(has_ended(&heartbeat).await);
        assert_eq!(instances.leftover(&key(1), |leftover| leftover.heartbeat.is_none()), Some(true));
    }

    #[actix::test]
    async fn an_instance_that_is_retired_is_not_desired_any_more_and_its_heartbeat_is_left_alone() {
        let (instances, [heartbeat]) = (DesiredInstances::default(), heartbeats());
        instances.insert(desired(1, Some(&heartbeat)));
        let registration = instances.get(&key(1), |desired| desired.publisher.published()).unwrap();
        assert_eq!(instances.depart(&key(1)), Some(0));
        assert_eq!((wanted(&instances), registration.outcome()), (vec![key(1)], None), "it is still registered");
        instances.retire(0);
        assert!(wanted(&instances).is_empty() && !has_ended(&heartbeat).await);
        assert_eq!(registration.outcome(), Some(Err(Error::Stopped)));
        instances.stop_heartbeats();
        assert!(has_ended(&heartbeat).await);
    }

    #[actix::test]
    async fn instances_without_work_go_offline_at_once_and_others_after_their_work() {
        let instances = DesiredInstances::default();
        (1..=4).for_each(|port| instances.insert(desired(port, None)));
        instances.add_leftover(&key(3), true);
        instances.add_leftover(&key(5), true);
        let under_way = [4, 6].map(|port| instances.queue(&key(port)));
        let Departure { idle, mut busy } = instances.begin_departure();
        let idle: HashSet<_> = idle.map(|number| instances.departing(number, |idle| idle.key.clone())).collect();
        assert_eq!(idle, [1, 2].map(|port| Some(key(port))).into());
        let in_table = [1, 2, 3, 4].map(|port| instances.get(&key(port), |_| ()).is_some());
        assert_eq!(in_table, [false, false, true, true]);
        busy.sort_by_key(|turn| turn.key().port);
        let come = busy.iter_mut().map(|turn| (turn.key().port, turn.come().now_or_never().is_some()));
        assert_eq!(come.collect::<Vec<_>>(), [(3, true), (4, false), (5, true), (6, false)]);
        assert_eq!(wanted(&instances).len(), 4);
        drop(under_way);
    }

    #[actix::test]
    async fn a_heartbeat_is_replaced_only_if_there_is_one() {
        let [first, second, third] = heartbeats();
        let mut beating = desired(1, Some(&first));
        beating.replace_heartbeat(|| second.clone());
        assert!(has_ended(&first).await && !has_ended(&second).await);
        assert_eq!(beating.heartbeat, Some(second));
        let mut silent = desired(2, None);
        silent.replace_heartbeat(|| third);
        assert_eq!(silent.heartbeat, None);
    }

    #[actix::test]
    async fn a_registration_reports_the_instance_that_replaced_its_own() {
        let instances = DesiredInstances::default();
        instances.insert(desired(1, None));
        let registration = instances.get(&key(1), |desired| desired.publisher.published()).unwrap();
        instances.insert(desired(1, None));
        assert_eq!(registration.outcome(), None);
        instances.update(&key(1), |desired| desired.registered(7));
        assert_eq!(registration.outcome(), Some(Ok(())));
    }

    #[actix::test]
    async fn all_instances_that_a_server_may_have_are_listed() {
        let instances = DesiredInstances::default();
        instances.insert(desired(1, None));
        instances.add_leftover(&key(2), false);
        let _under_way = instances.queue(&key(3));
        assert_eq!(instances.busy_keys(), (2..=3).map(key).collect());
        let mut leftovers = Vec::new();
        instances.for_each_leftover(|key, leftover| leftovers.push((key.clone(), leftover.ephemeral)));
        assert_eq!((wanted(&instances), leftovers), (vec![key(1)], vec![(key(2), false)]));
    }

    #[actix::test]
    async fn turns_of_one_instance_wait_for_each_other_and_turns_of_others_do_not() {
        let desired = DesiredInstances::default();
        let order = RefCell::new(Vec::new());
        let (mut first, mut second) = (desired.queue(&key(1)), desired.queue(&key(1)));
        let mut other = desired.queue(&key(2));
        let slow = async {
            first.come().await;
            actix_rt::task::yield_now().await;
            order.borrow_mut().push("first");
            drop(first);
        };
        let waiting = async {
            second.come().await;
            order.borrow_mut().push("second");
        };
        let free = async {
            other.come().await;
            order.borrow_mut().push("other");
        };
        futures_util::future::join3(waiting, slow, free).await;
        assert_eq!(*order.borrow(), ["other", "first", "second"]);
    }

    #[actix::test]
    async fn a_heartbeat_may_pass_changes_and_nothing_else() {
        let desired = DesiredInstances::default();
        let alone = desired.queue(&key(1));
        assert!(!alone.is_behind_changes_only());
        drop(alone);
        let change = desired.queue_change(&key(1));
        let beat = desired.queue(&key(1));
        assert!(beat.is_behind_changes_only());
        let behind_a_beat = desired.queue(&key(1));
        assert!(!behind_a_beat.is_behind_changes_only());
        drop((change, beat, behind_a_beat));
        let (deregistering, _change) = (desired.queue(&key(1)), desired.queue_change(&key(1)));
        let behind_both = desired.queue_change(&key(1));
        assert!(!behind_both.is_behind_changes_only());
        drop(deregistering);
        assert!(desired.queue(&key(1)).is_behind_changes_only(), "it has ended");
    }

    #[actix::test]
    async fn a_turn_after_a_heartbeat_that_passed_a_change_waits_for_the_change() {
        let desired = DesiredInstances::default();
        let change = desired.queue_change(&key(1));
        drop(desired.queue(&key(1)));
        let mut deregistering = desired.queue(&key(1));
        let mut come = std::pin::pin!(deregistering.come());
        actix_rt::task::yield_now().await;
        assert!(come.as_mut().now_or_never().is_none());
        drop(change);
        come.await;
    }

    #[actix::test]
    async fn a_heartbeat_does_not_wait_for_an_earlier_one_that_passed_a_change() {
        let desired = DesiredInstances::default();
        let _change = desired.queue_change(&key(1));
        drop(desired.queue(&key(1)));
        let next = desired.queue(&key(1));
        assert!(next.is_behind_changes_only());
    }

    #[actix::test]
    async fn a_turn_that_is_given_up_lets_no_later_one_overtake_an_earlier_one() {
        let desired = DesiredInstances::default();
        let first = desired.queue(&key(1));
        let [mut second, mut third, mut fourth] = std::array::from_fn(|_| desired.queue(&key(1)));
        assert!(second.come().now_or_never().is_none(), "it waits, and is given up then");
        drop(second);
        assert!(third.come().now_or_never().is_none() && fourth.come().now_or_never().is_none());
        drop(fourth);
        let mut last = desired.queue(&key(1));
        assert!(third.come().now_or_never().is_none() && last.come().now_or_never().is_none());
        drop(first);
        assert!(third.come().now_or_never().is_some() && last.come().now_or_never().is_none());
        drop(third);
        assert!(last.come().now_or_never().is_some());
        drop(last);
        assert!(desired.busy_keys().is_empty());
    }

    #[actix::test]
    async fn turns_that_are_given_up_one_after_the_other_start_no_later_turn() {
        let desired = DesiredInstances::default();
        let first = desired.queue(&key(1));
        let [second, third] = std::array::from_fn(|_| desired.queue(&key(1)));
        drop(second);
        drop(third);
        let mut last = desired.queue(&key(1));
        assert!(last.come().now_or_never().is_none(), "the first turn has not ended");
        drop(first);
        assert!(last.come().now_or_never().is_some());
    }

    #[actix::test]
    async fn a_queue_that_is_empty_is_forgotten() {
        let desired = DesiredInstances::default();
        let (first, mut second) = (desired.queue(&key(1)), desired.queue(&key(1)));
        assert_eq!(desired.busy_keys().len(), 1);
        drop(first);
        assert_eq!(desired.busy_keys().len(), 1, "the second turn has not ended");
        second.come().await;
        drop(second);
        assert!(desired.busy_keys().is_empty());
    }
}
