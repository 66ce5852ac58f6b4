//! One deadline for a call and for the redirects that it follows.
//!
//! awc follows redirects in a middleware around ours. Each redirected request passes through our middleware again,
//! which does not know how long the call has already taken. So [`WithDeadline`], a middleware around both, sets the
//! deadline of the call while it polls the call.

use std::{
    cell::Cell,
    future::{poll_fn, Future as _},
    pin::pin,
    rc::Rc,
    time::Duration,
};

use actix_rt::time::Instant;
use actix_service::{forward_ready, Service};
use awc::{error::SendRequestError, middleware::Transform, ConnectRequest, ConnectResponse};
use futures_util::future::LocalBoxFuture;

/// The deadline of the call that is being polled.
pub(super) struct Deadline {
    /// How long a call may take.
    limit: Duration,
    end: Cell<Option<Instant>>,
}

impl Deadline {
    pub(super) fn new(limit: Duration) -> Self {
        Deadline { limit, end: Cell::new(None) }
    }

    /// The deadline of a request that is sent now. Without a [`WithDeadline`] around it, each request has its own.
    pub(super) fn of_the_request(&self) -> Instant {
        self.of_the_whole_call().unwrap_or_else(|| Instant::now() + self.limit)
    }

    /// `None` if there is no [`WithDeadline`] around the call.
    pub(super) fn of_the_whole_call(&self) -> Option<Instant> {
        self.end.get()
    }
}

/// Sets the deadline of each call. It wraps the middleware that follows redirects.
pub(super) struct WithDeadline(pub(super) Rc<Deadline>);

impl<S> Transform<S, ConnectRequest> for WithDeadline
where
    S: Service<ConnectRequest, Response = ConnectResponse, Error = SendRequestError> + 'static,
{
    type Transform = Limited<S>;

    fn new_transform(self, redirects: S) -> Limited<S> {
        Limited { redirects, deadline: self.0 }
    }
}

pub(super) struct Limited<S> {
    redirects: S,
    deadline: Rc<Deadline>,
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
        let (calling, deadline) = (self.redirects.call(request), self.deadline.clone());
        let end = Instant::now() + deadline.limit;
        Box::pin(async move {
            let mut calling = pin!(calling);
            poll_fn(|context| {
                deadline.end.set(Some(end));
                let polled = calling.as_mut().poll(context);
                deadline.end.set(None);
                polled
            })
            .await
        })
    }
}
