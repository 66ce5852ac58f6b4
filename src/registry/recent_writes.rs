//! The recent writes of this Registry to instances, which servers may not show yet.
//!
//! Nacos 2 and later show a change only after about half a second. If the next change were merged into what the server
//! shows meanwhile, it would undo the first change. So for 2 s each written value takes the place of the value that it
//! replaced, as long as the server still shows the replaced value. Any other value was written by another client since,
//! and stays.
//!
//! Example: weight 2 is changed to 3, and 0.1 s later metadata is added. The server still shows weight 2. Without the
//! recorded write, the second change would write weight 2 again.

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

/// How long a write is remembered: at least three times as long as servers need to show it.
pub(super) const REMEMBERED_FOR: Duration = Duration::from_secs(2);
/// Bounds the memory to several thousand writes. The oldest writes are forgotten first.
const MAX_BYTES: usize = 4 * 1024 * 1024;
/// The size of a write without its metadata.
const BYTES_PER_WRITE: usize = 512;

/// The writes of the last [`REMEMBERED_FOR`].
#[derive(Default)]
pub(crate) struct RecentWrites {
    /// The writes to each instance, oldest first.
    by_instance: RefCell<HashMap<Arc<InstanceKey>, VecDeque<Write>, FastHash>>,
    /// The time and instance of each write, oldest first.
    order: RefCell<VecDeque<(Instant, Arc<InstanceKey>)>>,
    bytes: Cell<usize>,
    /// Wakes [`forget_in_time`](RecentWrites::forget_in_time).
    has_writes: Notify,
}

/// One write. `None` if there was no instance before it, or none after it.
///
/// A registration after a deregistration has no `before`: the server may still show nothing.
struct Write {
    before: Option<Box<Instance>>,
    after: Option<Box<Instance>>,
}

impl RecentWrites {
    /// Records that a server accepted the values `after` in place of `before`.
    pub(super) fn changed(&self, key: &Arc<InstanceKey>, before: Instance, after: Instance) {
        self.note(key, Write { before: Some(before.into()), after: Some(after.into()) });
    }

    /// Records the registration of an instance that the server may not have had before. This is needed only shortly
    /// after the instance was deregistered. Otherwise a server shows no instance, or the values of this registration,
    /// or later ones.
    pub(super) fn registered(&self, key: &Arc<InstanceKey>, after: impl FnOnce() -> Instance) {
        if self.by_instance.borrow().contains_key(key) {
            self.note(key, Write { before: None, after: Some(after().into()) });
        }
    }

    /// Records that a server deregistered the instance.
    pub(super) fn deregistered(&self, key: &Arc<InstanceKey>) {
        self.note(key, Write { before: None, after: None });
    }

    fn note(&self, key: &Arc<InstanceKey>, write: Write) {
        self.bytes.set(self.bytes.get() + write.bytes());
        self.by_instance.borrow_mut().entry(key.clone()).or_default().push_back(write);
        self.order.borrow_mut().push_back((Instant::now(), key.clone()));
        while self.bytes.get() > MAX_BYTES {
            self.forget_oldest();
        }
        self.has_writes.notify_one();
    }

    fn forget_oldest(&self) {
        let Some((_, key)) = self.order.borrow_mut().pop_front() else { return };
        let mut writes_by_instance = self.by_instance.borrow_mut();
        let Some(writes) = writes_by_instance.get_mut(&key) else { return };
        let bytes = writes.pop_front().map_or(0, |write| write.bytes());
        self.bytes.set(self.bytes.get() - bytes);
        if writes.is_empty() {
            writes_by_instance.remove(&key);
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

    /// Forgets each write when its time is over, even if no other message arrives. Never ends.
    pub(super) async fn forget_in_time(self: std::rc::Rc<Self>) {
        loop {
            match self.oldest() {
                Some(at) => sleep_until(at + REMEMBERED_FOR).await,
                None => self.has_writes.notified().await,
            }
            self.forget_old();
        }
    }

    /// Applies the recent writes to what a server shows of an instance. The error is the server's, or
    /// [`Error::NotFound`] if the instance was deregistered since.
    pub(super) fn applied_to(&self, key: &Arc<InstanceKey>, shown: Result<Instance, Error>) -> Result<Instance, Error> {
        self.forget_old();
        let writes_by_instance = self.by_instance.borrow();
        let Some(writes) = writes_by_instance.get(key) else { return shown };
        let not_found = match &shown {
            Ok(_) => Error::NotFound { instance: key.to_string(), may_be_disabled: false },
            Err(error @ Error::NotFound { .. }) => error.clone(),
            Err(_) => return shown,
        };
        writes.iter().fold(shown.ok(), |shown, write| write.applied_to(shown)).ok_or(not_found)
    }

    /// Whether the last write made the instance ephemeral. `None` without a recent write.
    pub(super) fn is_ephemeral(&self, key: &Arc<InstanceKey>) -> Option<bool> {
        let writes_by_instance = self.by_instance.borrow();
        writes_by_instance.get(key)?.back()?.after.as_ref().map(|after| after.ephemeral)
    }
}

impl Write {
    fn applied_to(&self, shown: Option<Instance>) -> Option<Instance> {
        match (shown, &self.before, self.after.as_ref()?) {
            (Some(shown), Some(before), after) => Some(merged(shown, before, after)),
            (shown, None, after) => shown.or_else(|| Some((**after).clone())),
            // Another client has deregistered the instance.
            (None, Some(_), _) => None,
        }
    }

    fn bytes(&self) -> usize {
        let texts = |instance: &Instance| instance.metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
        let bytes = |instance: &Option<Box<Instance>>| instance.as_deref().map_or(0, texts);
        BYTES_PER_WRITE + bytes(&self.before) + bytes(&self.after)
    }
}

/// `shown` with each value of `after` where it has the value of `before`.
fn merged(shown: Instance, before: &Instance, after: &Instance) -> Instance {
    let weight = if shown.weight == before.weight { after.weight } else { shown.weight };
    let enabled = if shown.enabled == before.enabled { after.enabled } else { shown.enabled };
    let metadata = merged_metadata(shown.metadata, &before.metadata, &after.metadata);
    Instance { weight, enabled, metadata, ..shown }
}

fn merged_metadata(mut shown: Metadata, before: &Metadata, after: &Metadata) -> Metadata {
    for key in before.keys().chain(after.keys()) {
        let (was, is) = (before.get(key), after.get(key));
        if was != is && shown.get(key) == was {
            match is {
                Some(value) => shown.insert(key.clone(), value.clone()),
                None => shown.remove(key),
            };
        }
    }
    shown
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

    fn applied(writes: &RecentWrites, shown: Instance) -> Result<Instance, Error> {
        writes.applied_to(&key(1), Ok(shown))
    }

    #[actix::test]
    async fn a_written_value_replaces_only_the_value_that_it_was_written_over() {
        let writes = RecentWrites::default();
        let steps =
            [instance(2.0, &[("a", "1")]), instance(3.0, &[("a", "1")]), instance(3.0, &[("a", "2"), ("b", "1")])];
        writes.changed(&key(1), steps[0].clone(), steps[1].clone());
        writes.changed(&key(1), steps[1].clone(), steps[2].clone());
        for shown in &steps {
            assert_eq!(applied(&writes, shown.clone()), Ok(steps[2].clone()), "{shown:?}");
        }
        let by_others = instance(9.0, &[("a", "7"), ("c", "1")]);
        assert_eq!(applied(&writes, by_others), Ok(instance(9.0, &[("a", "7"), ("b", "1"), ("c", "1")])));
        assert_eq!(writes.applied_to(&key(1), Err(not_found())), Err(not_found()), "deregistered by somebody else");
        assert_eq!(writes.applied_to(&key(2), Ok(steps[0].clone())), Ok(steps[0].clone()), "another instance");
    }

    #[actix::test]
    async fn the_last_write_decides_about_a_removed_key_and_a_value_that_was_set_back() {
        let writes = RecentWrites::default();
        let (first, second) = (instance(2.0, &[("a", "1")]), instance(3.0, &[]));
        writes.changed(&key(1), first.clone(), second.clone());
        assert_eq!(applied(&writes, first.clone()), Ok(second.clone()));
        writes.changed(&key(1), second.clone(), first.clone());
        for shown in [&first, &second] {
            assert_eq!(applied(&writes, shown.clone()), Ok(first.clone()));
        }
    }

    #[actix::test]
    async fn a_deregistered_instance_is_not_found_until_it_is_registered_again() {
        let writes = RecentWrites::default();
        writes.registered(&key(1), || unreachable!("it was not deregistered"));
        writes.deregistered(&key(1));
        assert_eq!(applied(&writes, instance(2.0, &[])), Err(not_found()));
        writes.registered(&key(1), || instance(5.0, &[]));
        assert_eq!(applied(&writes, instance(2.0, &[])), Ok(instance(5.0, &[])));
        assert_eq!(writes.applied_to(&key(1), Err(not_found())), Ok(instance(5.0, &[])));
        let gone = Err(Error::Stopped);
        assert_eq!(writes.applied_to(&key(1), gone.clone()), gone, "the server could not be asked");
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
            assert_eq!(applied(&writes, instance(2.0, &[])).unwrap().weight, 3.0);
            actix_rt::time::sleep(Duration::from_millis(20)).await;
            assert_eq!(writes.by_instance.borrow().len(), 1, "the other one is younger");
            actix_rt::time::sleep(Duration::from_millis(1000)).await;
            assert!(writes.by_instance.borrow().is_empty() && writes.order.borrow().is_empty());
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
        assert!(writes.bytes.get() <= MAX_BYTES && writes.by_instance.borrow().len() > 60);
        assert_eq!(writes.applied_to(&key(200), Ok(instance(2.0, &[]))).unwrap().weight, 3.0);
        assert_eq!(applied(&writes, instance(2.0, &[])).unwrap().weight, 2.0);
    }
}
