//! The values that applications and servers exchange: instances, services, changes.
//!
//! These types do no I/O and know neither servers nor actors.
//!
//! They are the vocabulary of every other layer, so they have no behaviour beyond checks, order and comparison.
//! Rules for values that an application gives are strict and name the field; values from servers are taken as they
//! are.
//!
//! | module | what it has |
//! |---|---|
//! | [`names`] | names of services, groups and clusters |
//! | [`service`] | lists, the difference between two lists |
//! | [`instance`] | an instance, its key, the rules for its values |
//! | [`change`] | the message about a changed list |
//! | [`connection`], [`instance_state`] | the states of the connection and of an instance, and their messages |
//! | [`heartbeat`] | the reply to a heartbeat |
//! | [`histogram`] | counted durations |

pub(crate) mod change;
pub(crate) mod connection;
pub(crate) mod heartbeat;
pub(crate) mod histogram;
pub(crate) mod instance;
pub(crate) mod instance_state;
pub(crate) mod names;
pub(crate) mod service;
