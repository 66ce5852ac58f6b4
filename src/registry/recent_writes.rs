//! What this Registry has just written of instances, and servers may not show yet.
//!
//! Since 2.x a server shows a change only after half a second. A change that was merged into what the server told meanwhile
//! would undo the one before it. So each value that was written counts instead of the one before it, as long as the server
//! tells that. Any other value was written by somebody else since, and stays.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use actix_rt::time::{sleep_until, Instant};
use foldhash::fast::RandomState as FastHash;
use tokio::sync::Notify;

use crate::{
    error::Error,
    model::instance::{Instance, InstanceKey, Metadata},
};

/// How long a write is remembered: three times what servers take to show it.
pub(super) const REMEMBERED_FOR: Duration = Duration::from_secs(2);
/// Bounds the memory. Several thousand writes; the oldest are forgotten first.
const MAX_BYTES: usize = 4 * 1024 * 1024;
/// Of a write without its texts.
const BYTES_PER_WRITE: usize = 512;

/// The writes of the last [`REMEMBERED_FOR`], oldest first.
#[derive(Default)]
pub(crate) struct RecentWrites {
    of: RefCell<HashMap<Arc<InstanceKey>, VecDeque<Write>, FastHash>>,
    order: RefCell<VecDeque<(Instant, Arc<InstanceKey>)>>,
    bytes: Cell<usize>,
    /// Wakes [`forget_in_time`](RecentWrites::forget_in_time).
    has_writes: Notify,
}

/// How one write changed an instance. None where there was or is no instance.
struct Write {
    before: Option<Instance>,
    after: Option<Instance>,
}

impl RecentWrites {
    /// A server took `after`, instead of `before`, which it showed or would have shown.
    pub(super) fn changed(&self, key: &Arc<InstanceKey>, before: Instance, after: Instance) {
        self.note(key, Write { before: Some(before), after: Some(after) });
    }

    /// A server took the registration of an instance that it may have lacked before. Only one that follows its deregistration
    /// is remembered: what a server shows of an instance that it lacked is what was registered, or later.
    pub(super) fn registered(&self, key: &Arc<InstanceKey>, after: impl FnOnce() -> Instance) {
        if self.of.borrow().contains_key(key) {
            self.note(key, Write { before: None, after: Some(after()) });
        }
    }

    pub(super) fn deregistered(&self, key: &Arc<InstanceKey>) {
        self.note(key, Write { before: None, after: None });
    }

    fn note(&self, key: &Arc<InstanceKey>, write: Write) {
        self.bytes.set(self.bytes.get() + write.bytes());
        self.of.borrow_mut().entry(key.clone()).or_default().push_back(write);
        self.order.borrow_mut().push_back((Instant::now(), key.clone()));
        while self.bytes.get() > MAX_BYTES {
            self.forget_oldest();
        }
        self.has_writes.notify_one();
    }

    fn forget_oldest(&self) {
        let Some((_, key)) = self.order.borrow_mut().pop_front() else { return };
        let mut of = self.of.borrow_mut();
        let Some(writes) = of.get_mut(&key) else { return };
        let bytes = writes.pop_front().map_or(0, |write| write.bytes());
        self.bytes.set(self.bytes.get() - bytes);
        if writes.is_empty() {
            of.remove(&key);
        }
    }

    fn oldest(&self) -> Option<Instant> {
        self.order.borrow().front().map(|(at, _)| *at)
    }

    fn forget_old(&self) {
        while self.oldest().is_some_and(|at| at.elapsed() >= REMEMBERED_FOR) {
            self.forget_oldest();
        }
    }

    /// Forgets each write in time, also when nothing else happens. Never ends.
    pub(super) async fn forget_in_time(self: std::rc::Rc<Self>) {
        loop {
            match self.oldest() {
                Some(at) => sleep_until(at + REMEMBERED_FOR).await,
                None => self.has_writes.notified().await,
            }
            self.forget_old();
        }
    }

    /// What is so with an instance of which a server told this.
    ///
    /// # Errors
    /// As it was told; [`Error::NotFound`] if it was deregistered since.
    pub(super) fn applied_to(&self, key: &Arc<InstanceKey>, told: Result<Instance, Error>) -> Result<Instance, Error> {
        self.forget_old();
        let of = self.of.borrow();
        let Some(writes) = of.get(key) else { return told };
        let not_found = match &told {
            Ok(_) => Error::NotFound { instance: key.to_string(), may_be_disabled: false },
            Err(error @ Error::NotFound { .. }) => error.clone(),
            Err(_) => return told,
        };
        writes.iter().fold(told.ok(), |told, write| write.applied_to(told)).ok_or(not_found)
    }

    /// Whether an instance was written as an ephemeral one; none if it was not written.
    pub(super) fn is_ephemeral(&self, key: &Arc<InstanceKey>) -> Option<bool> {
        let of = self.of.borrow();
        of.get(key)?.back()?.after.as_ref().map(|after| after.ephemeral)
    }
}

impl Write {
    fn applied_to(&self, told: Option<Instance>) -> Option<Instance> {
        match (told, &self.before, self.after.as_ref()?) {
            (Some(told), Some(before), after) => Some(merged(told, before, after)),
            (told, None, after) => told.or_else(|| Some(after.clone())),
            // Somebody else has deregistered it.
            (None, Some(_), _) => None,
        }
    }

    fn bytes(&self) -> usize {
        let texts = |instance: &Instance| instance.metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
        let bytes = |instance: &Option<Instance>| instance.as_ref().map_or(0, texts);
        BYTES_PER_WRITE + bytes(&self.before) + bytes(&self.after)
    }
}

/// Each value of `after` instead of the one of `before`, where that is told.
fn merged(told: Instance, before: &Instance, after: &Instance) -> Instance {
    let weight = if told.weight == before.weight { after.weight } else { told.weight };
    let enabled = if told.enabled == before.enabled { after.enabled } else { told.enabled };
    let metadata = merged_metadata(told.metadata, &before.metadata, &after.metadata);
    Instance { weight, enabled, metadata, ..told }
}

fn merged_metadata(mut told: Metadata, before: &Metadata, after: &Metadata) -> Metadata {
    for key in before.keys().chain(after.keys()) {
        let (was, is) = (before.get(key), after.get(key));
        if was != is && told.get(key) == was {
            match is {
                Some(value) => told.insert(key.clone(), value.clone()),
                None => told.remove(key),
            };
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::{super::desired::tests::key, *};

    fn instance(weight: f64, pairs: &[(&str, &str)]) -> Instance {
        let metadata = pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        Instance { weight, metadata, ..Instance::new("127.0.0.7", 1) }
    }

    fn not_found() -> Error {
        Error::NotFound { instance: key(1).to_string(), may_be_disabled: false }
    }

    fn told(writes: &RecentWrites, told: Instance) -> Result<Instance, Error> {
        writes.applied_to(&key(1), Ok(told))
    }

    #[actix::test]
    async fn what_was_written_counts_instead_of_what_it_replaced_and_nothing_else() {
        let writes = RecentWrites::default();
        let steps =
            [instance(2.0, &[("a", "1")]), instance(3.0, &[("a", "1")]), instance(3.0, &[("a", "2"), ("b", "1")])];
        writes.changed(&key(1), steps[0].clone(), steps[1].clone());
        writes.changed(&key(1), steps[1].clone(), steps[2].clone());
        for shown in &steps {
            assert_eq!(told(&writes, shown.clone()), Ok(steps[2].clone()), "{shown:?}");
        }
        let by_others = instance(9.0, &[("a", "7"), ("c", "1")]);
        assert_eq!(told(&writes, by_others), Ok(instance(9.0, &[("a", "7"), ("b", "1"), ("c", "1")])));
        assert_eq!(writes.applied_to(&key(1), Err(not_found())), Err(not_found()), "by others");
        assert_eq!(writes.applied_to(&key(2), Ok(steps[0].clone())), Ok(steps[0].clone()), "another instance");
    }

    #[actix::test]
    async fn a_removed_key_and_a_value_that_was_set_back_are_as_they_were_written_last() {
        let writes = RecentWrites::default();
        let (first, second) = (instance(2.0, &[("a", "1")]), instance(3.0, &[]));
        writes.changed(&key(1), first.clone(), second.clone());
        assert_eq!(told(&writes, first.clone()), Ok(second.clone()));
        writes.changed(&key(1), second.clone(), first.clone());
        for shown in [&first, &second] {
            assert_eq!(told(&writes, shown.clone()), Ok(first.clone()));
        }
    }

    #[actix::test]
    async fn a_deregistered_instance_is_not_found_until_it_is_registered_again() {
        let writes = RecentWrites::default();
        writes.registered(&key(1), || unreachable!("it was not deregistered"));
        writes.deregistered(&key(1));
        assert_eq!(told(&writes, instance(2.0, &[])), Err(not_found()));
        writes.registered(&key(1), || instance(5.0, &[]));
        assert_eq!(told(&writes, instance(2.0, &[])), Ok(instance(5.0, &[])));
        assert_eq!(writes.applied_to(&key(1), Err(not_found())), Ok(instance(5.0, &[])));
        let gone = Err(Error::Stopped);
        assert_eq!(writes.applied_to(&key(1), gone.clone()), gone, "nothing was told");
    }

    #[actix::test]
    async fn a_write_is_forgotten_after_two_seconds_also_when_nothing_else_happens() {
        tokio::time::pause();
        let writes = Rc::new(RecentWrites::default());
        actix_rt::spawn(writes.clone().forget_in_time());
        for _ in 0..2 {
            writes.changed(&key(1), instance(2.0, &[]), instance(3.0, &[]));
            actix_rt::time::sleep(Duration::from_millis(1000)).await;
            writes.deregistered(&key(2));
            actix_rt::time::sleep(Duration::from_millis(990)).await;
            assert_eq!(told(&writes, instance(2.0, &[])).unwrap().weight, 3.0);
            actix_rt::time::sleep(Duration::from_millis(20)).await;
            assert_eq!(writes.of.borrow().len(), 1, "the other one is younger");
            actix_rt::time::sleep(Duration::from_millis(1000)).await;
            assert!(writes.of.borrow().is_empty() && writes.order.borrow().is_empty());
            assert_eq!(writes.bytes.get(), 0);
        }
    }

    #[actix::test]
    async fn the_oldest_writes_are_forgotten_when_they_are_too_many() {
        let writes = RecentWrites::default();
        let long = "v".repeat(60_000);
        for port in 1..=200 {
            writes.changed(&key(port), instance(2.0, &[]), instance(3.0, &[("k", &long)]));
        }
        assert!(writes.bytes.get() <= MAX_BYTES && writes.of.borrow().len() > 60);
        assert_eq!(writes.applied_to(&key(200), Ok(instance(2.0, &[]))).unwrap().weight, 3.0);
        assert_eq!(told(&writes, instance(2.0, &[])).unwrap().weight, 2.0);
    }
}
