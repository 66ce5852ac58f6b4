//! Lock-free reads of one service's list, the choice of an instance, and the outcomes of calls.
//!
//! The service's Subscriber owns one [`ViewWriter`]. Any number of [`ServiceView`]s read its lists, in any thread. A
//! reader borrows the current list from an [`ArcSwap`](arc_swap::ArcSwap): no lock, no allocation, and no reference
//! count that threads would contend for. Everything that a choice needs is prepared when a list is published, not when
//! it is read.
//!
//! Each of these files imports only from files above it:
//!
//! - `clock`: the time. `policy`, `alias_table`, `hash_table`: how one of several instances is drawn.
//! - `record`: the calls of one instance. `budget`: the retries of a service. `ejection`: the records of a service;
//!   ejects instances.
//! - `selection`: the settings of a view. `list`: a list, prepared for a selection. `choice`: chooses from a list.
//! - `source`: the lists of one subscription. `timekeeper`: timers of waiting views.
//! - `service_view`: the view. `call`: a call and its outcome. `waiting`: waits for lists and instances.
//!   `stream`: lists and changes as streams.
//! - `writer`: publishes lists. `controlled`: views for tests of applications.
//!
//! # Why it is built like this
//!
//! A choice happens for every call of the application, perhaps a million times a second, in many threads. A list
//! changes a few times an hour. So the work is done when the list changes, and a choice does as little as possible. A
//! published [`List`](list::List) is replaced as a whole. The values that calls change are in the
//! [`Record`](record::Record)s, which outlive the lists and are shared by all selections of a service.
//!
//! Invariants:
//!
//! - `select_one` and `begin` take no lock and, after a view's first call, allocate nothing
//!   (`tests/allocations.rs`).
//! - The application's predicates run when a list is published or a view is made: never in a choice, and never
//!   under a lock.
//! - This crate never keeps a `Guard` of the list across an `await`. A [`Call`] keeps a small part of the list instead.

mod alias_table;
mod budget;
mod call;
mod choice;
mod clock;
mod controlled;
mod ejection;
mod hash_table;
mod list;
mod policy;
mod record;
mod selection;
mod service_view;
mod source;
mod stream;
mod timekeeper;
mod waiting;
mod writer;

#[cfg(test)]
mod tests;

#[cfg(feature = "actix-web")]
pub(crate) use self::ejection::CallStatus;
pub use self::{
    call::Call,
    controlled::ViewControl,
    ejection::{CallTotals, Eject, EjectionChanged, EjectionStatus},
    policy::Policy,
    selection::Selection,
    service_view::{Instances, Selected, ServiceView},
    stream::{InstanceChange, InstanceChanges, Lists},
};
pub(crate) use self::{
    ejection::{EjectionReports, ServiceRecords},
    selection::selection_setters,
    writer::ViewWriter,
};
