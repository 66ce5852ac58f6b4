//! The settings of a view: filters, preferences, policy, warm-up, ejection.
//!
//! Filters and preferences decide what is in a published list, so they are applied once per list. Policy, warm-up and
//! ejection decide at each choice. Views with equal selections share one published list, so selections can be compared.

use std::{
    collections::BTreeSet,
    fmt,
    panic::{catch_unwind, AssertUnwindSafe},
    sync::Arc,
    time::Duration,
};

use super::{ejection::Eject, policy::Policy};
use crate::{
    config::LONGEST_DURATION,
    model::instance::{Instance, Metadata},
};

/// A condition that the application gives.
type Predicate = Arc<dyn Fn(&Instance) -> bool + Send + Sync>;

/// Which instances a view shows and prefers, and how it chooses among them.
///
/// [`Discover`](crate::Discover) and [`Choose`](crate::Choose) have the same setters.
/// [`ServiceView::with`](crate::ServiceView::with) makes another view with a changed selection. Views of one service
/// with equal selections share their lists and tables.
///
/// ```
/// use std::time::Duration;
///
/// use actix_nacos::{Eject, Policy, Selection};
///
/// let selection = Selection::default()
///     .policy(Policy::LeastLoaded)
///     .prefer_cluster("EAST")
///     .only_metadata("version", "2")
///     .eject(Eject::consecutive(3).base(Duration::from_secs(10)));
/// ```
///
/// | setter | does it hide instances? | if nothing matches |
/// |---|---|---|
/// | `only_cluster`, `only_metadata`, `only` | yes | [`NoInstance`](crate::Error::NoInstance) |
/// | `prefer_cluster`, `prefer_metadata` | no | the other instances are chosen |
///
/// All filters must match. Several clusters of one setter are alternatives. Several metadata pairs must all be present.
#[derive(Clone)]
pub struct Selection {
    pub(super) policy: Policy,
    pub(super) only: Conditions,
    predicates: Vec<Predicate>,
    pub(super) prefer: Conditions,
    pub(super) warm_up: Duration,
    pub(super) eject: Eject,
    pub(super) slow_after: Duration,
}

impl Default for Selection {
    fn default() -> Self {
        Selection {
            policy: Policy::default(),
            only: Conditions::default(),
            predicates: Vec::new(),
            prefer: Conditions::default(),
            warm_up: Duration::ZERO,
            eject: Eject::default(),
            slow_after: Duration::from_secs(1),
        }
    }
}

impl Selection {
    /// How an instance is chosen. Default: [`Policy::WeightedRandom`].
    ///
    /// Views of one service share records even if their policies differ, so ejections and calls in flight count for all
    /// of them.
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// Shows and chooses only instances of this cluster. Call it again to add another cluster. Default: all clusters.
    ///
    /// All such views share one list from the server. [`Discover::clusters`](crate::Discover::clusters) requests a
    /// smaller list from the server instead.
    ///
    /// Names are compared exactly, with their case.
    #[must_use]
    pub fn only_cluster(mut self, cluster: impl Into<String>) -> Self {
        self.only.clusters.insert(cluster.into());
        self
    }

    /// Shows and chooses only instances with this metadata. Call it again to require another pair as well. Default: all
    /// instances.
    ///
    /// ```
    /// use actix_nacos::{Instance, Selection, ServiceName, ServiceView};
    ///
    /// let mut canary = Instance::new("127.0.0.7", 8080);
    /// canary.metadata.insert("version".into(), "2".into());
    /// let orders = ServiceView::fixed(ServiceName::parse("orders")?, [canary, Instance::new("127.0.0.8", 8080)]);
    /// let second = orders.with(|selection| selection.only_metadata("version", "2"));
    /// assert_eq!(second.instances().len(), 1);
    /// # Ok::<(), actix_nacos::Error>(())
    /// ```
    #[must_use]
    pub fn only_metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.only.metadata.insert(key.into().into(), value.into().into());
        self
    }

    /// Shows and chooses only instances that `predicate` accepts. Call it again to add another condition. Default: all
    /// instances.
    ///
    /// `predicate` is called once for each instance of a new list, in the Registry's thread, so it must not block. If
    /// it panics, the instance is not accepted.
    ///
    /// Two selections with predicates are equal only if the predicates are clones of one another, so make a
    /// selection once and clone it.
    #[must_use]
    pub fn only(mut self, predicate: impl Fn(&Instance) -> bool + Send + Sync + 'static) -> Self {
        self.predicates.push(Arc::new(predicate));
        self
    }

    /// Chooses instances of this cluster as long as one of them can be called, otherwise any instance. Call it again to
    /// prefer another cluster as well. Default: no preference.
    ///
    /// An instance of the cluster that is unhealthy or ejected does not count as one that can be called.
    #[must_use]
    pub fn prefer_cluster(mut self, cluster: impl Into<String>) -> Self {
        self.prefer.clusters.insert(cluster.into());
        self
    }

    /// Chooses instances with this metadata as long as one of them can be called, otherwise any instance. With several
    /// preferences, also with [`prefer_cluster`](Selection::prefer_cluster), an instance must match all of them.
    /// Default: no preference.
    ///
    /// Use it, for example, for the zone of the caller: `prefer_metadata("zone", "eu-1")`.
    #[must_use]
    pub fn prefer_metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.prefer.metadata.insert(key.into().into(), value.into().into());
        self
    }

    /// Gives a growing share to an instance that appears in the list later than the view's first list. During this time
    /// the share grows from a tenth of its weight to its weight. Default: zero, which is no warm-up.
    /// [`Policy::ConsistentHash`] has none.
    ///
    /// Use it for instances that are slow at first, because of cold caches or a just-in-time compiler. 30 s to 2 min
    /// are usual. If all instances are new, each still gets its share by weight.
    #[must_use]
    pub fn warm_up(mut self, time: Duration) -> Self {
        self.warm_up = time.min(LONGEST_DURATION);
        self
    }

    /// When this view's failed calls eject an instance. Default: [`Eject::consecutive`]`(5)`.
    ///
    /// [`Eject::never`] turns ejection by this view's calls off.
    #[must_use]
    pub fn eject(mut self, eject: Eject) -> Self {
        self.eject = eject;
        self
    }

    /// A [`Call`](crate::Call) that is dropped without an outcome counts as failed when it lasted longer than this,
    /// otherwise as cancelled. Default: 1 s.
    ///
    /// On Linux the time is exact to about 10 ms, and `tokio::time::pause` does not stop it.
    ///
    /// A caller that gives up after a time limit drops its call. Set `slow_after` a little below that limit, so that
    /// such calls count against the instance.
    #[must_use]
    pub fn slow_after(mut self, limit: Duration) -> Self {
        self.slow_after = limit;
        self
    }

    /// Whether the view shows every instance of the service.
    pub(super) fn shows_all(&self) -> bool {
        self.only.is_empty() && self.predicates.is_empty()
    }

    /// Whether the filters accept the instance.
    pub(super) fn shows(&self, instance: &Instance) -> bool {
        let accepts = |predicate: &Predicate| catch_unwind(AssertUnwindSafe(|| predicate(instance))).unwrap_or(false);
        self.only.matches(instance) && self.predicates.iter().all(accepts)
    }
}

/// Two predicates are equal if they are the same `Arc`.
///
/// Selections that were built separately are equal if their settings are, unless they have predicates.
impl PartialEq for Selection {
    fn eq(&self, other: &Self) -> bool {
        let same = |(one, other): (&Predicate, &Predicate)| Arc::ptr_eq(one, other);
        self.policy == other.policy
            && self.only == other.only
            && self.prefer == other.prefer
            && self.warm_up == other.warm_up
            && self.eject == other.eject
            && self.slow_after == other.slow_after
            && self.predicates.len() == other.predicates.len()
            && self.predicates.iter().zip(&other.predicates).all(same)
    }
}

impl fmt::Debug for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Selection")
            .field("policy", &self.policy)
            .field("only", &self.only)
            .field("predicates", &self.predicates.len())
            .field("prefer", &self.prefer)
            .field("warm_up", &self.warm_up)
            .field("eject", &self.eject)
            .field("slow_after", &self.slow_after)
            .finish()
    }
}

/// Conditions on an instance. An empty one matches every instance.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Conditions {
    /// The instance must be in one of these clusters. Empty for any cluster.
    clusters: BTreeSet<String>,
    /// The instance must have all of these pairs.
    metadata: Metadata,
}

impl Conditions {
    pub(super) fn is_empty(&self) -> bool {
        self.clusters.is_empty() && self.metadata.is_empty()
    }

    pub(super) fn matches(&self, instance: &Instance) -> bool {
        (self.clusters.is_empty() || self.clusters.contains(instance.cluster_name.as_str()))
            && self.metadata.iter().all(|(key, value)| instance.metadata.get(key) == Some(value))
    }
}

/// The setters of [`Selection`] for a message with a field `selection`. Needs `Eject`, `Policy` and `Selection` in
/// scope.
macro_rules! selection_setters {
    () => {
        /// Replaces all settings of the setters below. Default: [`Selection::default`](crate::Selection).
        #[must_use]
        pub fn selection(mut self, selection: Selection) -> Self {
            self.selection = selection;
            self
        }

        /// How an instance is chosen: see [`Selection::policy`](crate::Selection::policy).
        #[must_use]
        pub fn policy(mut self, policy: Policy) -> Self {
            self.selection = self.selection.policy(policy);
            self
        }

        /// Only instances of this cluster: see [`Selection::only_cluster`](crate::Selection::only_cluster).
        #[must_use]
        pub fn only_cluster(mut self, cluster: impl Into<String>) -> Self {
            self.selection = self.selection.only_cluster(cluster);
            self
        }

        /// Only instances with this metadata: see [`Selection::only_metadata`](crate::Selection::only_metadata).
        #[must_use]
        pub fn only_metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
            self.selection = self.selection.only_metadata(key, value);
            self
        }

        /// Only instances that `predicate` accepts: see [`Selection::only`](crate::Selection::only).
        #[must_use]
        pub fn only(
            mut self,
            predicate: impl Fn(&$crate::model::instance::Instance) -> bool + Send + Sync + 'static,
        ) -> Self {
            self.selection = self.selection.only(predicate);
            self
        }

        /// Prefers this cluster: see [`Selection::prefer_cluster`](crate::Selection::prefer_cluster).
        #[must_use]
        pub fn prefer_cluster(mut self, cluster: impl Into<String>) -> Self {
            self.selection = self.selection.prefer_cluster(cluster);
            self
        }

        /// Prefers instances with this metadata: see [`Selection::prefer_metadata`](crate::Selection::prefer_metadata).
        #[must_use]
        pub fn prefer_metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
            self.selection = self.selection.prefer_metadata(key, value);
            self
        }

        /// Gives new instances a growing share: see [`Selection::warm_up`](crate::Selection::warm_up).
        #[must_use]
        pub fn warm_up(mut self, time: std::time::Duration) -> Self {
            self.selection = self.selection.warm_up(time);
            self
        }

        /// When failed calls eject an instance: see [`Selection::eject`](crate::Selection::eject).
        #[must_use]
        pub fn eject(mut self, eject: Eject) -> Self {
            self.selection = self.selection.eject(eject);
            self
        }

        /// When a call that is dropped without an outcome counts as failed: see
        /// [`Selection::slow_after`](crate::Selection::slow_after).
        #[must_use]
        pub fn slow_after(mut self, limit: std::time::Duration) -> Self {
            self.selection = self.selection.slow_after(limit);
            self
        }
    };
}

pub(crate) use selection_setters;
