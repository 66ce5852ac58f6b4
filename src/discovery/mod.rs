//! From lists and pushes to what listeners are told and views show.

pub(crate) mod disk_cache;
pub(crate) mod list_merge;
pub(crate) mod listeners;
pub(crate) mod push_receiver;
pub(crate) mod subscriber;
pub(crate) mod view;
