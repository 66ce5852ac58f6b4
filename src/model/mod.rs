//! The values that applications and servers exchange: instances, services, changes.
//!
//! These types do no I/O, and they depend on neither servers nor actors. All other layers use them, so they contain
//! only checks, order and comparison. Values from an application are checked strictly, and errors name the field.
//! Values from servers are accepted as they are.
//!
//! | module | what it has |
//! |---|---|
//! | [`names`] | names of services, groups and clusters |
//! | [`service`] | lists, the difference between two lists |
//! | [`instance`] | an instance, its key, the rules for its values |
//! | [`metadata`] | the key-value pairs of an instance |
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
pub(crate) mod metadata;
pub(crate) mod names;
pub(crate) mod service;
