//! Keeps the lists of services current, and notifies listeners and views of changes.

pub(crate) mod disk_cache;
pub(crate) mod list_merge;
pub(crate) mod listeners;
pub(crate) mod push_receiver;
pub(crate) mod subscriber;
pub(crate) mod subscription;
pub(crate) mod view;
