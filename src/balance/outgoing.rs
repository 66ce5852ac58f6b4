//! Rewrites a request by name for each instance that it is sent to.
//!
//! awc's pool is keyed by the authority of the URI, so the URI itself is rewritten. If awc got only the socket address,
//! it would send every call on the connection to the first call's instance. The scheme becomes `https` (`wss` for a
//! tunnel) if the URL or the instance's metadata require TLS, and `http` (`ws`) otherwise.

use std::{io, rc::Rc};

use actix_http::{
    body::{BodySize, MessageBody as _},
    header::{HeaderMap, HeaderValue, HOST},
    uri::{Authority, Scheme},
    RequestHead, RequestHeadType, Uri,
};
use actix_rt::time::Instant;
use awc::{
    error::{ConnectError, SendRequestError},
    ConnectRequest,
};

use super::body::{Body, RequestFactory};

/// The value of the `Host` header of a request by name, unless the request has set it.
///
/// Use [`AsCalled`](HostHeader::AsCalled) for services that serve several host names, and
/// [`Instance`](HostHeader::Instance) for instances that accept only their own address.
///
/// ```
/// use actix_nacos::balance::{Client, HostHeader};
/// # fn of(registry: &actix::Addr<actix_nacos::Registry>) {
/// let public_name = actix_http::header::HeaderValue::from_static("shop.example");
/// let http = Client::builder(registry).service("shop").host_header(HostHeader::Fixed(public_name));
/// # }
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum HostHeader {
    /// The host of the URL as the application wrote it, such as `orders`.
    #[default]
    AsCalled,
    /// The address of the instance, as `ip:port`.
    Instance,
    /// A fixed value.
    Fixed(HeaderValue),
}

/// A request that can be sent to one instance after another.
///
/// Most requests succeed at the first attempt, so that attempt copies nothing: the head is shared, and a request
/// without a body reuses awc's own body (`first`).
pub(super) struct Outgoing {
    called: Uri,
    /// `host` or `host:port` of the URL. `None` if the application has set another `Host` header.
    called_host: Option<String>,
    head: Rc<RequestHead>,
    extra_headers: Option<HeaderMap>,
    /// The request as it came, for the first attempt.
    first: Option<ConnectRequest>,
    kind: Kind,
}

#[allow(clippy::large_enum_variant, reason = "there is one of these for each call, and it is moved once")]
enum Kind {
    Tunnel,
    WithBody(Body),
}

impl Outgoing {
    pub(super) fn new(request: ConnectRequest) -> Self {
        match request {
            ConnectRequest::Tunnel(head, _) => Outgoing::of(Rc::new(head), None, None, Kind::Tunnel),
            ConnectRequest::Client(head, body, _) => {
                let (head, extra_headers) = match head {
                    RequestHeadType::Owned(head) => (Rc::new(head), None),
                    RequestHeadType::Rc(head, extra_headers) => (head, extra_headers),
                };
                let as_it_came = |body| {
                    let placeholder = RequestHeadType::Rc(head.clone(), None);
                    Some(ConnectRequest::Client(placeholder, body, None))
                };
                let (first, body) = match body.size() {
                    BodySize::None => (as_it_came(body), Body::None),
                    BodySize::Sized(0) => (as_it_came(body), Body::Empty),
                    _ => (None, Body::new(body)),
                };
                Outgoing::of(head, extra_headers, first, Kind::WithBody(body))
            }
        }
    }

    fn of(head: Rc<RequestHead>, extra_headers: Option<HeaderMap>, first: Option<ConnectRequest>, kind: Kind) -> Self {
        let called = head.uri.clone();
        let host = host_of(&called);
        let others = |headers: &HeaderMap| headers.get(HOST).is_some_and(|value| value.as_bytes() != host.as_bytes());
        let has_its_own = others(&head.headers) || extra_headers.as_ref().is_some_and(others);
        Outgoing { called, called_host: (!has_its_own).then_some(host), head, extra_headers, first, kind }
    }

    pub(super) fn head(&self) -> &RequestHead {
        &self.head
    }

    pub(super) fn called(&self) -> &Uri {
        &self.called
    }

    /// Whether another attempt can send the body.
    pub(super) fn can_be_sent(&self) -> bool {
        match &self.kind {
            Kind::Tunnel => true,
            Kind::WithBody(body) => body.can_be_sent(),
        }
    }

    /// Whether the application has not given the next piece of the body yet.
    pub(super) fn waits_for_body(&self) -> bool {
        matches!(&self.kind, Kind::WithBody(body) if body.is_awaited())
    }

    /// When the attempt last waited for the application's body.
    pub(super) fn last_awaited_body(&self) -> Option<Instant> {
        match &self.kind {
            Kind::Tunnel => None,
            Kind::WithBody(body) => body.last_awaited(),
        }
    }

    /// Makes the request to the instance at `authority`.
    ///
    /// # Errors
    /// [`SendRequestError`] if the authority does not fit the URI, or if awc makes no request with the body.
    pub(super) fn to(
        &mut self,
        authority: Authority,
        by_tls: bool,
        host: &HostHeader,
        factory: &RequestFactory,
    ) -> Result<ConnectRequest, SendRequestError> {
        let host = self.host_header(&authority, host);
        let uri = self.uri_at(authority, by_tls)?;
        let body_as_it_came = self.first.take().and_then(|request| match request {
            ConnectRequest::Client(_, body, _) => Some(body),
            ConnectRequest::Tunnel(..) => None,
        });
        // Copies the head only if an earlier attempt or the application still has it.
        let head = Rc::make_mut(&mut self.head);
        head.uri = uri;
        if let Some(host) = host {
            head.headers.insert(HOST, host);
        }
        let head = || RequestHeadType::Rc(self.head.clone(), self.extra_headers.clone());
        match (&self.kind, body_as_it_came) {
            (Kind::Tunnel, _) => Ok(ConnectRequest::Tunnel(RequestHead::clone(&self.head), None)),
            (_, Some(body)) => Ok(ConnectRequest::Client(head(), body, None)),
            (Kind::WithBody(body), None) => factory.request(head(), body.for_attempt()),
        }
    }

    fn uri_at(&self, authority: Authority, by_tls: bool) -> Result<Uri, SendRequestError> {
        let is_tunnel = matches!(self.kind, Kind::Tunnel);
        let mut parts = self.called.clone().into_parts();
        parts.authority = Some(authority);
        parts.scheme = match (is_tunnel, by_tls) {
            (false, false) => Some(Scheme::HTTP),
            (false, true) => Some(Scheme::HTTPS),
            (true, false) => "ws".parse().ok(),
            (true, true) => "wss".parse().ok(),
        };
        Uri::from_parts(parts).map_err(|error| not_callable(&error.to_string()))
    }

    fn host_header(&self, authority: &Authority, choice: &HostHeader) -> Option<HeaderValue> {
        let called = self.called_host.as_deref()?;
        match choice {
            HostHeader::AsCalled => HeaderValue::from_str(called).ok(),
            HostHeader::Instance => {
                let port = authority.port_u16().map_or(String::new(), |port| format!(":{port}"));
                HeaderValue::from_str(&format!("{}{port}", authority.host())).ok()
            }
            HostHeader::Fixed(value) => Some(value.clone()),
        }
    }
}

/// Whether the URL asks for TLS.
pub(super) fn wants_tls(uri: &Uri) -> bool {
    matches!(uri.scheme_str(), Some("https" | "wss"))
}

/// The value of `Host`, as awc writes it.
fn host_of(uri: &Uri) -> String {
    let host = uri.host().unwrap_or_default();
    match uri.port_u16() {
        None | Some(80 | 443) => host.to_owned(),
        Some(port) => format!("{host}:{port}"),
    }
}

/// The error for an instance whose address is invalid.
pub(super) fn not_callable(reason: &str) -> SendRequestError {
    SendRequestError::Connect(ConnectError::Io(io::Error::new(io::ErrorKind::InvalidInput, reason)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A request as an awc client passes it to its middleware.
    fn outgoing(url: &str) -> Outgoing {
        let mut head = RequestHead::default();
        head.uri = url.parse().unwrap();
        let request = RequestFactory::new().request(RequestHeadType::Owned(head), Body::Empty.for_attempt());
        Outgoing::new(request.unwrap())
    }

    fn sent(outgoing: &mut Outgoing, authority: &str, by_tls: bool, host: &HostHeader) -> (String, String) {
        let request = outgoing.to(authority.parse().unwrap(), by_tls, host, &RequestFactory::new()).unwrap();
        let ConnectRequest::Client(head, ..) = request else { panic!("a tunnel") };
        let head = head.as_ref();
        (head.uri.to_string(), head.headers.get(HOST).map_or(String::new(), |host| host.to_str().unwrap().into()))
    }

    #[test]
    fn each_attempt_goes_to_its_instance_and_names_the_host_that_was_called() {
        let mut request = outgoing("http://orders/items?page=2");
        let called = &HostHeader::AsCalled;
        for authority in ["127.0.0.7:8080", "[::1]:80"] {
            let (url, host) = sent(&mut request, authority, false, called);
            assert_eq!((url, host.as_str()), (format!("http://{authority}/items?page=2"), "orders"));
        }
        assert_eq!(sent(&mut request, "127.0.0.7:8443", true, called).0, "https://127.0.0.7:8443/items?page=2");
        assert_eq!(sent(&mut outgoing("http://orders:81"), "127.0.0.7:8080", false, called).1, "orders:81");
    }

    #[test]
    fn the_application_chooses_the_host_header() {
        let fixed = HostHeader::Fixed(HeaderValue::from_static("shop.example"));
        for (choice, expected) in [(&HostHeader::Instance, "127.0.0.7:80"), (&fixed, "shop.example")] {
            assert_eq!(sent(&mut outgoing("http://orders/"), "127.0.0.7:80", false, choice).1, expected);
        }
    }

    #[test]
    fn a_host_header_of_the_request_stays_for_every_attempt() {
        let mut head = RequestHead::default();
        head.uri = "http://orders/".parse().unwrap();
        head.headers.insert(HOST, HeaderValue::from_static("mine"));
        let request = RequestFactory::new().request(RequestHeadType::Owned(head), Body::Empty.for_attempt());
        let mut request = Outgoing::new(request.unwrap());
        for _ in 0..2 {
            assert_eq!(sent(&mut request, "127.0.0.7:80", false, &HostHeader::Instance).1, "mine");
        }
    }
}
