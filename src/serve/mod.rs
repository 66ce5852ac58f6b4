//! For actix-web applications: `serve`, which registers, serves and goes offline, and routes for health, metrics and
//! the live page.
//!
//! [`serve`] and [`StatusRoutes`] work without each other. `serve` runs the server and ends it in the right order;
//! `StatusRoutes` shows a Registry to probes, to Prometheus and to people, also in an application that runs its
//! server by itself.
//!
//! | file | what it has |
//! |---|---|
//! | `lifecycle`, `signals` | [`serve`]: register, wait for the end, deregister, drain, stop |
//! | `routes` | [`StatusRoutes`]: the paths, and the settings of the routes |
//! | `access` | who may see and change what |
//! | `health` | `/livez`, `/readyz`, `/offline` |
//! | `metrics` | `/metrics` |
//! | `page`, `live`, `problems` | the live page: the document, its stream of events, what is wrong |
//! | `response` | [`Error`](crate::Error) as an HTTP answer |
//!
//! Nothing here asks a registry server: each route is answered from the Registry's memory.

mod access;
mod context;
mod health;
mod lifecycle;
mod live;
mod metrics;
mod page;
mod problems;
mod response;
mod routes;
mod signals;

pub use self::{
    lifecycle::{serve, Serve},
    routes::StatusRoutes,
};
