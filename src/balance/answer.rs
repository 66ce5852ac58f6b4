//! Decides what an answer says about the instance, and ends a call when the answer's body ends.
//!
//! When awc returns the head of the answer, the call has not ended: the instance is busy until it has sent the whole
//! body, and may break off before. So the [`Call`] and its connection are kept in the body of the answer, as
//! [`UnderWay`]:
//!
//! | what happens | the call |
//! |---|---|
//! | all bytes of `Content-Length` were read, or the body ended | succeeded |
//! | the body broke off, or ended before `Content-Length` | failed; the reader gets an error too |
//! | the caller drops a body that has arrived, or [`PIECES_READ_AT_DROP`] further pieces of it have | succeeded |
//! | the caller drops a body that has not arrived | cancelled, or failed if it took longer than `slow_after` |
//! | `101 Switching Protocols` (a WebSocket) | its latency ends with the head; succeeded when the tunnel is closed |
//! | an event stream (`text/event-stream`) | its latency ends with the head; succeeded when the caller drops it |
//!
//! Invariant: each call is reported exactly once. [`Call`]'s `Drop` reports a call that has no outcome yet.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    task::{ready, Context, Poll, Waker},
};

use actix_http::{
    header::{HeaderMap, CONTENT_LENGTH, CONTENT_TYPE},
    BoxedPayloadStream, Payload, StatusCode,
};
use awc::{error::PayloadError, BoxedSocket, ClientResponse, ConnectResponse};
use bytes::Bytes;
use futures_util::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connections::Carried;
use crate::discovery::view::Call;

/// When a body is dropped, at most this many pieces that have already arrived are read.
///
/// Bounds the work of a `drop`, which must not become a download. Small answers, such as those of a health check,
/// fit in one piece.
const PIECES_READ_AT_DROP: usize = 8;

/// A call under way. While it exists, its connection does not count as idle.
pub(super) struct UnderWay {
    /// `None` if the outcome was already reported, or if the host is not a service.
    pub(super) call: Option<Call>,
    pub(super) _carried: Carried,
}

/// Whether this status means that the instance cannot serve.
///
/// With any other 5xx the instance works, and another instance would probably answer the same.
/// [`ClientBuilder::failure_when`](super::ClientBuilder::failure_when) replaces this rule.
pub(super) fn is_failure(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
}

pub(super) fn status_of(answer: &ConnectResponse) -> StatusCode {
    match answer {
        ConnectResponse::Client(answer) => answer.status(),
        ConnectResponse::Tunnel(head, _) => head.status,
    }
}

pub(super) fn headers_of(answer: &ConnectResponse) -> &HeaderMap {
    match answer {
        ConnectResponse::Client(answer) => answer.headers(),
        ConnectResponse::Tunnel(head, _) => &head.headers,
    }
}

impl UnderWay {
    /// Reports that the instance has answered, although the connection stays open for as long as the caller wants.
    ///
    /// The time after this does not count as latency, so a tunnel or an event stream does not make the instance look
    /// slow. If the call is a probe, its success readmits the instance now, without waiting for the end of the stream.
    fn answered(mut self) -> Self {
        if let Some(call) = &mut self.call {
            call.answered();
        }
        self
    }

    /// Reports the outcome. Does nothing for a host that is not a service.
    fn ended(self, succeeded: bool) {
        match self.call {
            Some(call) if succeeded => call.succeeded(),
            Some(call) => call.failed(),
            None => {}
        }
    }
}

/// Returns the answer with the call attached. The call ends when the body ends or is dropped, and the call of a tunnel
/// when the tunnel is closed.
pub(super) fn until_its_end(answer: ConnectResponse, under_way: UnderWay) -> ConnectResponse {
    match answer {
        ConnectResponse::Client(answer) => ConnectResponse::Client(with_call(answer, under_way)),
        ConnectResponse::Tunnel(head, framed) => {
            let is_open = head.status == StatusCode::SWITCHING_PROTOCOLS;
            let under_way = if is_open {
                Some(under_way.answered())
            } else {
                under_way.ended(true);
                None
            };
            let under_way = Cell::new(under_way);
            let tunnel = |io| Box::new(Tunnel { io, under_way: under_way.take() }) as BoxedSocket;
            ConnectResponse::Tunnel(head, framed.into_map_io(tunnel))
        }
    }
}

/// Puts the call into the body. An answer without a body has ended already.
fn with_call(answer: ClientResponse, under_way: UnderWay) -> ClientResponse {
    answer.map_body(|head, payload| {
        // These have no body, whatever their headers say.
        let is_bodiless = matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if is_bodiless || matches!(payload, Payload::None) {
            under_way.ended(true);
            return Payload::None;
        }
        let text = |name| head.headers.get(name).and_then(|value| value.to_str().ok());
        let is_event_stream = text(CONTENT_TYPE).is_some_and(|kind| kind.starts_with("text/event-stream"));
        let body = CountedBody {
            payload,
            left: text(CONTENT_LENGTH).and_then(|length| length.trim().parse().ok()),
            is_event_stream,
            under_way: Some(if is_event_stream { under_way.answered() } else { under_way }),
        };
        Payload::Stream { payload: Box::pin(body) as BoxedPayloadStream }
    })
}

/// The body of an answer, with the call that it belongs to.
///
/// awc pools a connection only after its body was read to the end. [`Carried`] lives as long as this body, so the
/// connection does not count as idle before that.
struct CountedBody {
    payload: Payload,
    /// The bytes that are still missing, if the answer has a `Content-Length`.
    left: Option<u64>,
    /// An event stream ends when the caller drops it.
    is_event_stream: bool,
    under_way: Option<UnderWay>,
}

impl CountedBody {
    fn ended(&mut self, succeeded: bool) {
        if let Some(under_way) = self.under_way.take() {
            under_way.ended(succeeded);
        }
    }
}

impl Stream for CountedBody {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut next = ready!(Pin::new(&mut self.payload).poll_next(cx));
        match &next {
            Some(Ok(piece)) => {
                self.left = self.left.map(|left| left.saturating_sub(piece.len() as u64));
                // A caller that has read all bytes may never poll for the end of the body.
                if self.left == Some(0) {
                    self.ended(true);
                }
            }
            Some(Err(_)) => self.ended(false),
            // awc reports a connection that ended early as the end of the body.
            None if self.under_way.is_some() && self.left.is_some_and(|left| left > 0) => {
                self.ended(false);
                next = Some(Err(PayloadError::Incomplete(Some(io::ErrorKind::UnexpectedEof.into()))));
            }
            None => self.ended(true),
        }
        Poll::Ready(next)
    }
}

impl Drop for CountedBody {
    /// A caller that needs only the status drops a body that may have arrived already. Reading that body to its end
    /// shows that the call succeeded, and keeps the connection.
    fn drop(&mut self) {
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..PIECES_READ_AT_DROP {
            if self.under_way.is_none() {
                return;
            }
            match Pin::new(&mut *self).poll_next(&mut context) {
                Poll::Ready(Some(_)) => {}
                Poll::Ready(None) => return,
                Poll::Pending if self.is_event_stream => break,
                // The call counts as cancelled, or as failed if the instance was silent for long.
                Poll::Pending => return,
            }
        }
        // The instance was still answering.
        self.ended(true);
    }
}

/// The connection of a tunnel, such as a WebSocket, with the call that it belongs to.
///
/// The call cannot fail any more when the instance has switched protocols. How the tunnel ends says nothing about the
/// instance: a restart breaks all tunnels of the instance at once, and must not eject the instance that is back.
///
/// The call counts as in flight while the tunnel is open. `Policy::LeastLoaded` needs this for WebSockets.
struct Tunnel {
    io: BoxedSocket,
    under_way: Option<UnderWay>,
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        if let Some(under_way) = self.under_way.take() {
            under_way.ended(true);
        }
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.io).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.io).poll_shutdown(cx)
    }
}
