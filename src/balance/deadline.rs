//! One deadline for a call and for the redirects that it follows.
//!
//! awc's redirects are a middleware around ours, and each request on the way begins anew there. So another middleware
//! around both tells ours the deadline while it polls.

use std::{
    cell::Cell,
    future::{poll_fn, Future as _},
    pin::pin,
    rc::Rc,
};

use actix_rt::time::Instant;
use actix_service::{forward_ready, Service};
use awc::{error::SendRequestError, middleware::Transform, ConnectRequest, ConnectResponse};
use futures_util::future::LocalBoxFuture;

use super::middleware::Balancer;

/// The deadline of the call that is being polled.
#[derive(Default)]
pub(super) struct Deadline(Cell<Option<Instant>>);

impl Deadline {
    /// `None` for a call that follows no redirects.
    pub(super) fn of_the_whole_call(&self) -> Option<Instant> {
        self.0.get()
    }
}

/// Gives a call its deadline. Goes around the redirects.
pub(super) struct WithDeadline(pub(super) Rc<Balancer>);

impl<S> Transform<S, ConnectRequest> for WithDeadline
where
    S: Service<ConnectRequest, Response = ConnectResponse, Error = SendRequestError> + 'static,
{
    type Transform = Limited<S>;

    fn new_transform(self, redirects: S) -> Limited<S> {
        Limited { redirects, balancer: self.0 }
    }
}

pub(super) struct Limited<S> {
    redirects: S,
    balancer: Rc<Balancer>,
}

impl<S> Service<ConnectRequest> for Limited<S>
where
    S: Service<ConnectRequest, Response = ConnectResponse, Error = SendRequestError> + 'static,
{
    type Response = ConnectResponse;
    type Error = SendRequestError;
    type Future = LocalBoxFuture<'static, Result<ConnectResponse, SendRequestError>>;

    forward_ready!(redirects);

    fn call(&self, request: ConnectRequest) -> Self::Future {
        let (calling, balancer) = (self.redirects.call(request), self.balancer.clone());
        let end = Instant::now() + balancer.settings.deadline;
        Box::pin(async move {
            let mut calling = pin!(calling);
            poll_fn(|context| {
                balancer.deadline.0.set(Some(end));
                let polled = calling.as_mut().poll(context);
                balancer.deadline.0.set(None);
                polled
            })
            .await
        })
    }
}
