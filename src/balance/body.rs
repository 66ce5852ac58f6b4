//! Request bodies that can be sent again.
//!
//! awc has no public name for its body type. [`RequestFactory`] makes such bodies: it sends requests with a client
//! whose connector keeps the request instead of sending it.
//!
//! A retry needs the body again, but awc hands the middleware a body that can be read once. So the body is kept in
//! a [`Source`], and each attempt gets a [`Replay`] of it:
//!
//! - A body in memory arrives in one piece. The piece is kept, without a copy, and is sent as often as wanted.
//! - A streamed body is passed through and not stored, because it may be of any size. It can be sent again as long
//!   as nothing of it was read, for example after a refused connection.
//!
//! A request without a body, or with a body of length 0, can always be sent again.

use std::{
    cell::{Cell, RefCell},
    error::Error as StdError,
    future::{ready, Ready},
    pin::Pin,
    rc::Rc,
    task::{ready, Context, Poll},
};

use actix_http::{
    body::{self, BodySize, BoxBody, MessageBody},
    RequestHeadType,
};
use actix_rt::time::Instant;
use actix_service::{always_ready, Service};
use awc::{
    error::SendRequestError, middleware::Transform, Client, ConnectRequest, ConnectResponse, FrozenClientRequest,
};
use bytes::Bytes;
use futures_util::FutureExt as _;

/// The body of a request. It makes the body of each attempt.
pub(super) enum Body {
    /// Neither a body nor a length.
    None,
    /// A body with length 0.
    Empty,
    Source(Rc<Source>),
}

impl Body {
    pub(super) fn new(body: impl MessageBody + 'static) -> Self {
        match body.size() {
            BodySize::None => Body::None,
            BodySize::Sized(0) => Body::Empty,
            size => {
                let (body, progress) = (RefCell::new(body.boxed()), RefCell::new(Progress::Unread));
                Body::Source(Rc::new(Source { body, size, progress, awaited: Cell::default() }))
            }
        }
    }

    /// Whether the body can still be sent from its beginning.
    pub(super) fn can_be_sent(&self) -> bool {
        match self {
            Body::None | Body::Empty => true,
            Body::Source(source) => !matches!(*source.progress.borrow(), Progress::Streamed),
        }
    }

    /// Whether the last poll of this attempt waited for the application's next piece.
    pub(super) fn is_awaited(&self) -> bool {
        matches!(self, Body::Source(source) if source.awaited.get() == Awaited::Now)
    }

    /// When this attempt last waited for a piece of the application. `None` if it has not waited yet.
    pub(super) fn last_awaited(&self) -> Option<Instant> {
        let Body::Source(source) = self else { return None };
        match source.awaited.get() {
            Awaited::Never => None,
            Awaited::Now => Some(Instant::now()),
            Awaited::Until(arrived) => Some(arrived),
        }
    }

    /// Makes the body for one attempt.
    pub(super) fn for_attempt(&self) -> BoxBody {
        match self {
            Body::None => BoxBody::new(body::None::new()),
            Body::Empty => BoxBody::new(Bytes::new()),
            Body::Source(source) => {
                source.awaited.set(Awaited::Never);
                BoxBody::new(Replay { source: source.clone(), has_ended: false })
            }
        }
    }
}

/// The body that the application gave, shared by the attempts.
///
/// `progress` decides whether another attempt is possible: see [`Body::can_be_sent`].
pub(super) struct Source {
    body: RefCell<BoxBody>,
    size: BodySize,
    progress: RefCell<Progress>,
    awaited: Cell<Awaited>,
}

/// Whether the attempt under way has waited for a piece of the application.
#[derive(Clone, Copy, Default, PartialEq)]
enum Awaited {
    #[default]
    Never,
    /// The last poll found no piece.
    Now,
    /// The last piece that was waited for came at this time.
    Until(Instant),
}

enum Progress {
    Unread,
    /// The whole body was in the first piece, which is kept.
    Whole(Bytes),
    /// A part was read and cannot be read again.
    Streamed,
}

impl Source {
    fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Box<dyn StdError>>>> {
        let next = Pin::new(&mut *self.body.borrow_mut()).poll_next(cx);
        match self.awaited.get() {
            _ if next.is_pending() => self.awaited.set(Awaited::Now),
            Awaited::Now => self.awaited.set(Awaited::Until(Instant::now())),
            Awaited::Never | Awaited::Until(_) => {}
        }
        let mut progress = self.progress.borrow_mut();
        match &next {
            Poll::Ready(Some(Ok(piece))) if self.is_whole(&progress, piece) => {
                *progress = Progress::Whole(piece.clone())
            }
            Poll::Ready(_) => *progress = Progress::Streamed,
            Poll::Pending => {}
        }
        next
    }

    /// Whether this first piece has all bytes that the size announced.
    fn is_whole(&self, progress: &Progress, piece: &Bytes) -> bool {
        matches!(progress, Progress::Unread) && self.size == BodySize::Sized(piece.len() as u64)
    }
}

/// The body of one attempt.
///
/// Returns the kept piece if there is one, and otherwise continues to read the source. Only one attempt runs at a time.
struct Replay {
    source: Rc<Source>,
    has_ended: bool,
}

impl MessageBody for Replay {
    type Error = Box<dyn StdError>;

    fn size(&self) -> BodySize {
        self.source.size
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let whole = match &*self.source.progress.borrow() {
            Progress::Whole(bytes) => Some(bytes.clone()),
            _ => None,
        };
        if let Some(bytes) = whole {
            self.has_ended = true;
            return Poll::Ready(Some(Ok(bytes)));
        }
        let next = ready!(self.source.poll_next(cx));
        self.has_ended = next.is_none() || matches!(*self.source.progress.borrow(), Progress::Whole(_));
        Poll::Ready(next)
    }
}

/// Makes awc requests with these bodies.
///
/// It depends on awc calling the middleware synchronously in the first poll of `send_body`. If a version of awc
/// does not, requests with a body fail with a text that says so, and requests without a body still work.
pub(super) struct RequestFactory {
    frozen: Result<FrozenClientRequest, String>,
    caught: Rc<Cell<Option<ConnectRequest>>>,
}

impl RequestFactory {
    pub(super) fn new() -> Self {
        let caught = Rc::default();
        let client = Client::builder().disable_timeout().disable_redirects().wrap(Catch(Rc::clone(&caught))).finish();
        // Each request replaces this URL with its own head.
        let frozen = client.get("http://localhost/").freeze().map_err(|error| error.to_string());
        RequestFactory { frozen, caught }
    }

    /// Makes a request with this head and body.
    ///
    /// # Errors
    /// [`SendRequestError::Body`] if awc has not passed the body to the [`Catch`] connector.
    pub(super) fn request(&self, head: RequestHeadType, body: BoxBody) -> Result<ConnectRequest, SendRequestError> {
        if let Ok(frozen) = &self.frozen {
            let _ = frozen.send_body(body).now_or_never();
        }
        match self.caught.take() {
            Some(ConnectRequest::Client(_, body, address)) => Ok(ConnectRequest::Client(head, body, address)),
            _ => Err(SendRequestError::Body("this version of awc sends no body through middleware".into())),
        }
    }
}

/// The connector that keeps the request.
///
/// [`RequestFactory::request`] discards the error that this connector returns.
struct Catch(Rc<Cell<Option<ConnectRequest>>>);

impl<S> Transform<S, ConnectRequest> for Catch {
    type Transform = Self;

    fn new_transform(self, _: S) -> Self {
        self
    }
}

impl Service<ConnectRequest> for Catch {
    type Response = ConnectResponse;
    type Error = SendRequestError;
    type Future = Ready<Result<ConnectResponse, SendRequestError>>;

    always_ready!();

    fn call(&self, request: ConnectRequest) -> Self::Future {
        self.0.set(Some(request));
        ready(Err(SendRequestError::Timeout))
    }
}

#[cfg(test)]
mod tests {
    use actix_http::body::{to_bytes, BodyStream, SizedStream};
    use actix_http::RequestHead;
    use futures_util::stream;

    use super::*;

    fn pieces(pieces: &[&'static [u8]]) -> impl futures_util::Stream<Item = Result<Bytes, std::io::Error>> {
        stream::iter(pieces.iter().map(|piece| Ok(Bytes::from_static(piece))).collect::<Vec<_>>())
    }

    async fn sent(body: &Body) -> Bytes {
        to_bytes(body.for_attempt()).await.map_err(|error| error.to_string()).unwrap()
    }

    #[actix::test]
    async fn a_body_in_memory_is_sent_as_often_as_wanted() {
        for body in [Body::new("hello"), Body::new(SizedStream::new(5, pieces(&[b"hello"])))] {
            for _ in 0..3 {
                assert!(body.can_be_sent());
                assert_eq!(body.for_attempt().size(), BodySize::Sized(5));
                assert_eq!(sent(&body).await, "hello");
            }
        }
    }

    #[actix::test]
    async fn a_streamed_body_is_sent_once_and_again_only_if_nothing_was_read() {
        for body in [
            Body::new(BodyStream::new(pieces(&[b"he", b"llo"]))),
            Body::new(SizedStream::new(5, pieces(&[b"he", b"llo"]))),
        ] {
            drop(body.for_attempt());
            assert!(body.can_be_sent());
            assert_eq!(sent(&body).await, "hello");
            assert!(!body.can_be_sent());
        }
    }

    #[actix::test]
    async fn a_body_that_an_attempt_has_waited_for_is_not_awaited_by_the_next_attempt_yet() {
        let body = Body::new(BodyStream::new(stream::pending::<Result<Bytes, std::io::Error>>()));
        for _ in 0..2 {
            let mut attempt = body.for_attempt();
            assert!(!body.is_awaited() && body.last_awaited().is_none());
            assert!(std::future::poll_fn(|cx| Pin::new(&mut attempt).poll_next(cx)).now_or_never().is_none());
            assert!(body.is_awaited() && body.last_awaited().is_some());
        }
    }

    #[actix::test]
    async fn no_body_stays_none() {
        let (none, empty) = (Body::new(body::None::new()), Body::new(()));
        assert_eq!((none.for_attempt().size(), empty.for_attempt().size()), (BodySize::None, BodySize::Sized(0)));
        assert!(none.can_be_sent() && empty.can_be_sent());
        assert_eq!(sent(&empty).await, "");
    }

    #[actix::test]
    async fn the_factory_makes_requests_with_the_given_body() {
        let factory = RequestFactory::new();
        for text in ["first", "second"] {
            let head = RequestHeadType::Owned(RequestHead::default());
            let ConnectRequest::Client(_, body, None) = factory.request(head, BoxBody::new(text)).unwrap() else {
                panic!("another kind of request");
            };
            assert_eq!(to_bytes(body).await.map_err(|error| error.to_string()).unwrap(), text);
        }
    }
}
