//! Keeps the lists of services current, and notifies listeners and views of changes.
//!
//! A list passes through these modules. It arrives by a poll, or by a push ([`push_receiver`]). The service's
//! [`subscriber`] passes it to [`list_merge`], which decides whether it is newer and what it removes. The result goes
//! to [`listeners`], to the [`view`]s and to the [`disk_cache`].
//!
//! | module | owns | is independent of |
//! |---|---|---|
//! | [`subscription`] | the key and the status of a subscription | how lists arrive |
//! | [`subscriber`] | the actor of one subscription: polling, notifying | HTTP: it asks the Registry by a message |
//! | [`list_merge`] | the rules by which one list replaces another | actors, I/O, time limits of requests |
//! | [`listeners`] | what each listener received last | what a change means |
//! | [`push_receiver`] | the UDP socket | which subscription a list is for |
//! | [`disk_cache`] | the files | when to read or write them |
//! | [`view`] | reads from any thread, the choice, the outcomes of calls | where lists come from |
//!
//! Invariant: a subscription has one current list. Views and listeners never see a list that `list_merge` has not
//! accepted, and all of them see the same list.

pub(crate) mod disk_cache;
pub(crate) mod list_merge;
pub(crate) mod listeners;
pub(crate) mod push_receiver;
pub(crate) mod subscriber;
pub(crate) mod subscription;
pub(crate) mod view;
