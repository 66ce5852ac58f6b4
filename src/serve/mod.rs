//! For actix-web applications: `serve`, which registers, serves and goes offline, and routes for health, metrics and
//! the live page.

mod access;
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
