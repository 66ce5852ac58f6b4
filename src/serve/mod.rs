//! For actix-web applications: one line that registers, serves and goes offline, and the routes that show how it goes.

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
