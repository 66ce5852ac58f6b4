//! Requests and answers of Nacos' HTTP APIs as pure functions. No I/O.
//!
//! [`v1`] and [`v3`] have a function per operation that creates the request, and a function that reads the answer. Both
//! use the types in [`exchange`], and write their parameters with [`parameters`]. The client and the embedded server share the structs of the answers, so a field that
//! is renamed on one side is renamed on the other side too. `recordings.rs` compares the functions with recorded
//! exchanges of real servers.
//!
//! | operation | v1 | v3 |
//! |---|---|---|
//! | register | POST `/v1/ns/instance` | POST `/v3/client/ns/instance` |
//! | beat | PUT `/v1/ns/instance/beat` | POST `/v3/client/ns/instance` with `heartBeat=true` |
//! | deregister | DELETE `/v1/ns/instance` | DELETE `/v3/client/ns/instance` |
//! | list | GET `/v1/ns/instance/list` | GET `/v3/client/ns/instance/list` |
//! | get | GET `/v1/ns/instance` | GET `/v3/admin/ns/instance` |
//! | overwrite | PUT `/v1/ns/instance` | PUT `/v3/admin/ns/instance` |
//! | list services | GET `/v1/ns/service/list` | GET `/v3/admin/ns/service/list` |
//! | login | POST `/v1/auth/login` | POST `/v3/auth/user/login` |
//!
//! All paths are below the context path, `/nacos` by default. `docs/servers.md` lists which server has which API.
//!
//! This layer decides the names, encodings and order of parameters, which answer is a success, and what a missing or
//! unusual field means. It does not decide which server is asked, how often, and with which token.

pub(crate) mod datagram;
pub(crate) mod exchange;
mod lenient;
mod parameters;
#[cfg(test)]
pub(crate) mod recordings;
pub(crate) mod signature;
pub(crate) mod v1;
pub(crate) mod v3;
