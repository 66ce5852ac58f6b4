//! The middleware of an awc client. It sends requests by name to instances.
//!
//! [`Balancer`] is the state of one client, and [`Sending`] the state of one request. The loop in [`Sending::run`] is
//! the whole algorithm: choose an instance, send the request, and after a failure choose another instance if the
//! request may be sent again.
//!
//! What a failed attempt counts as:
//!
//! | what happened | the call counts as | another attempt |
//! |---|---|---|
//! | no connection | failed | yes, for every method |
//! | broken connection, no answer in time, 502, 503, 504 | failed | if the request may reach two instances |
//! | the attempt ended while it waited for the application's body | cancelled | not if a part of the body was read |
//! | awc cannot send the request (bad URL, body error) | cancelled | no, another instance would not help |
//!
//! Dropping the returned future, for example by a time limit on the request, drops the [`Call`]. The call then counts
//! as cancelled, or as failed if it lasted longer than `slow_after`.

use std::{fmt, pin::pin, rc::Rc, sync::Arc, time::Duration};

use actix::WeakAddr;
use actix_http::{header::HeaderMap, uri::Authority, RequestHead, StatusCode, Uri};
use actix_rt::time::{timeout, Instant};
use actix_service::{forward_ready, Service as ActixService};
use actix_tls::connect::{ConnectError, ConnectInfo, Connection};
use awc::{error::SendRequestError, middleware::Transform, ConnectRequest, ConnectResponse};
use futures_util::future::LocalBoxFuture;
use slog::{debug, Logger};
use tokio::time::timeout_at;

use super::{
    answer::{headers_of, status_of, until_its_end, UnderWay},
    body::RequestFactory,
    connections::{Connections, Socket},
    deadline::Deadline,
    error::{into_awc, of_stale_list},
    outgoing::{self, HostHeader, Outgoing},
    retry::{was_never_sent, Retry},
    services::{Service, Services},
    tunnels::Tunnels,
};
use crate::{
    config::LONGEST_DURATION,
    discovery::view::{Call, ServiceView},
    error::Error,
    model::{instance::Instance, service::ServiceName},
    registry::Registry,
};

/// The metadata key that makes calls to an instance use https.
///
/// Spring Cloud's Nacos client sets and reads the same key.
const SECURE: &str = "secure";

/// Whether an answer counts as a failure of the instance.
pub(super) type IsFailure = Arc<dyn Fn(StatusCode, &HeaderMap) -> bool + Send + Sync>;

/// Returns the key of a request for consistent hashing.
pub(super) type KeyOf = Arc<dyn Fn(&RequestHead) -> Option<String> + Send + Sync>;

/// The settings of a client's calls.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) retry: Retry,
    pub(super) attempt_timeout: Duration,
    pub(super) deadline: Duration,
    pub(super) wait: Duration,
    pub(super) host: HostHeader,
    pub(super) certificate_name: Arc<dyn Fn(&ServiceName) -> String + Send + Sync>,
    pub(super) is_failure: IsFailure,
    pub(super) key: Option<KeyOf>,
}

/// Sends calls by name to instances, as a middleware of an [`awc::Client`] that the application builds itself. See
/// [`ClientBuilder::middleware`](super::ClientBuilder::middleware).
///
/// # What does it change for other requests?
///
/// Requests to hosts that are not services pass through unchanged. Their connections are closed when they were idle
/// for 4 s, if the client uses the [connector](Middleware::connector).
///
/// # Examples
///
/// ```
/// use actix_nacos::{balance::Client, prelude::*};
/// # fn own_client(registry: &actix::Addr<Registry>) -> awc::Client {
/// let by_name = Client::builder(registry).service("orders").middleware();
/// let connector = awc::Connector::new().connector(by_name.connector());
/// awc::Client::builder()
///     .disable_timeout() // `attempt_timeout` and `deadline` replace it
///     .connector(connector)
///     .add_default_header(("x-caller", "billing"))
///     .wrap(by_name)
///     .finish()
/// # }
/// ```
#[derive(Clone)]
pub struct Middleware(pub(super) Rc<Balancer>);

/// What all calls of one client share.
pub(super) struct Balancer {
    pub(super) registry: WeakAddr<Registry>,
    /// An invalid setting makes every call fail.
    pub(super) services: Result<Services, Error>,
    pub(super) connections: Connections,
    /// Connects for requests that need HTTP/1. `None` in the middleware of another client.
    pub(super) tunnels: Option<Tunnels>,
    pub(super) factory: RequestFactory,
    pub(super) deadline: Rc<Deadline>,
    pub(super) settings: Settings,
    /// Whether `attempt_timeout` also applies to hosts that are not services.
    pub(super) limits_others: bool,
    pub(super) log: Logger,
}

impl Middleware {
    /// Returns the connector for awc. It checks certificates against the name of the service instead of the address of
    /// the instance, so https by name needs it. It also closes connections that were idle for 4 s.
    pub fn connector(
        &self,
    ) -> impl ActixService<
        ConnectInfo<Uri>,
        Response = Connection<Uri, impl actix_rt::net::ActixStream + fmt::Debug + use<>>,
        Error = ConnectError,
    > + Clone
           + use<> {
        self.sockets()
    }

    pub(super) fn sockets(
        &self,
    ) -> impl ActixService<ConnectInfo<Uri>, Response = Connection<Uri, Socket>, Error = ConnectError> + Clone + use<>
    {
        self.0.connections.connector()
    }
}

impl fmt::Debug for Middleware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Middleware").finish_non_exhaustive()
    }
}

/// Called by awc when the client is built with `.wrap(…)`. A clone of the middleware shares its services and
/// connections, so two clients of one thread may use clones of one middleware.
impl<S> Transform<S, ConnectRequest> for Middleware
where
    S: ActixService<ConnectRequest, Response = ConnectResponse, Error = SendRequestError> + 'static,
{
    type Transform = Balanced<S>;

    fn new_transform(self, connector: S) -> Balanced<S> {
        Balanced { connector: Rc::new(connector), balancer: self.0 }
    }
}

/// The service that [`Middleware`] makes around awc's connector.
///
/// Applications do not name it, except where they write the type of their own wrapped client.
pub struct Balanced<S> {
    connector: Rc<S>,
    balancer: Rc<Balancer>,
}

impl<S> fmt::Debug for Balanced<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Balanced").finish_non_exhaustive()
    }
}

/// A redirect and each send of a frozen request pass through here again, so each of them chooses an instance anew.
impl<S> ActixService<ConnectRequest> for Balanced<S>
where
    S: ActixService<ConnectRequest, Response = ConnectResponse, Error = SendRequestError> + 'static,
{
    type Response = ConnectResponse;
    type Error = SendRequestError;
    type Future = LocalBoxFuture<'static, Result<ConnectResponse, SendRequestError>>;

    forward_ready!(connector);

    fn call(&self, request: ConnectRequest) -> Self::Future {
        let (connector, balancer) = (self.connector.clone(), self.balancer.clone());
        if let (ConnectRequest::Tunnel(..), Some(tunnels)) = (&request, &balancer.tunnels) {
            let tunnels = tunnels.clone();
            return Box::pin(async move { balancer.call(&tunnels, request).await });
        }
        Box::pin(async move { balancer.call(&*connector, request).await })
    }
}

/// How an attempt failed.
///
/// Decides how the call is reported and whether another attempt is made: see the table in the module's documentation.
enum Failure {
    /// The instance answered that it cannot serve.
    Refused(ConnectResponse),
    /// The instance did not answer.
    NoAnswer(SendRequestError),
    /// The request cannot be sent to any instance.
    Unsendable(SendRequestError),
}

impl Failure {
    fn of(error: SendRequestError) -> Self {
        match error {
            SendRequestError::Connect(_)
            | SendRequestError::Send(_)
            | SendRequestError::Response(_)
            | SendRequestError::H2(_)
            | SendRequestError::Timeout => Failure::NoAnswer(error),
            error => Failure::Unsendable(error),
        }
    }

    /// Whether no instance can have received the request.
    fn was_never_sent(&self) -> bool {
        matches!(self, Failure::NoAnswer(error) if was_never_sent(error))
    }

    /// Whether the same instance may succeed on another connection: the instance may have closed a pooled connection
    /// just when awc used it.
    fn may_be_the_connections(&self) -> bool {
        matches!(self, Failure::NoAnswer(SendRequestError::Send(_) | SendRequestError::H2(_)))
            || matches!(self, Failure::NoAnswer(SendRequestError::Connect(_)) if !self.was_never_sent())
    }

    fn describe(&self) -> String {
        match self {
            Failure::Refused(answer) => status_of(answer).to_string(),
            Failure::NoAnswer(error) | Failure::Unsendable(error) => error.to_string(),
        }
    }
}

fn uri_of(request: &ConnectRequest) -> &Uri {
    match request {
        ConnectRequest::Client(head, ..) => &head.as_ref().uri,
        ConnectRequest::Tunnel(head, _) => &head.uri,
    }
}

/// One request by name while it is being sent.
struct Sending<'a, S> {
    balancer: &'a Balancer,
    connector: &'a S,
    view: &'a ServiceView,
    request: Outgoing,
    tried: Vec<Arc<Instance>>,
    deadline: Instant,
}

impl Balancer {
    /// Returns the service that the request's host names, and `None` for any other host.
    ///
    /// # Errors
    /// The error of an invalid setting, or the error of a full table of services under the suffix.
    fn find(&self, request: &ConnectRequest) -> Result<Option<Rc<Service>>, Error> {
        let services = self.services.as_ref().map_err(Error::clone)?;
        uri_of(request).host().map_or(Ok(None), |host| services.find(host))
    }

    async fn call<S>(&self, connector: &S, request: ConnectRequest) -> Result<ConnectResponse, SendRequestError>
    where
        S: ActixService<ConnectRequest, Response = ConnectResponse, Error = SendRequestError>,
    {
        match self.find(&request).map_err(into_awc)? {
            Some(service) => self.send(connector, &service, request).await,
            None => self.pass_through(connector, request).await,
        }
    }

    /// Sends a request to a host that is not a service.
    async fn pass_through<S>(&self, connector: &S, request: ConnectRequest) -> Result<ConnectResponse, SendRequestError>
    where
        S: ActixService<ConnectRequest, Response = ConnectResponse, Error = SendRequestError>,
    {
        let (uri, wants_tls) = (uri_of(&request).clone(), outgoing::wants_tls(uri_of(&request)));
        let authority = uri.authority().map_or("", Authority::as_str);
        let carried = self.connections.begin(authority, uri.host().filter(|_| wants_tls))?;
        let request = if carried.authority() == authority {
            request
        } else {
            // A service that is called by name has the same address, with a certificate for another name.
            let address = carried.authority().clone();
            Outgoing::new(request).to(address, wants_tls, &HostHeader::AsCalled, &self.factory)?
        };
        let limit = if self.limits_others { self.settings.attempt_timeout } else { LONGEST_DURATION };
        let left = self.deadline.of_the_whole_call().map(|end| end.saturating_duration_since(Instant::now()));
        let limit = limit.min(left.unwrap_or(LONGEST_DURATION));
        let answer = timeout(limit, connector.call(request)).await.unwrap_or(Err(SendRequestError::Timeout))?;
        Ok(until_its_end(answer, UnderWay { call: None, _carried: carried }))
    }

    /// Sends a request to an instance of the service. The first call of a service waits for the Registry to
    /// discover it, within the deadline.
    async fn send<S>(
        &self,
        connector: &S,
        service: &Service,
        request: ConnectRequest,
    ) -> Result<ConnectResponse, SendRequestError>
    where
        S: ActixService<ConnectRequest, Response = ConnectResponse, Error = SendRequestError>,
    {
        let deadline = self.deadline.of_the_request();
        let view = match service.view.get() {
            Some(view) => view,
            None => {
                let discovered = timeout_at(deadline, service.discovered(&self.registry)).await;
                discovered.map_err(|_| SendRequestError::Timeout)?.map_err(into_awc)?
            }
        };
        view.retry_budget().note_request(std::time::Instant::now());
        let request = Outgoing::new(request);
        Sending { balancer: self, connector, view, request, tried: Vec::new(), deadline }.run().await
    }
}

impl<S> Sending<'_, S>
where
    S: ActixService<ConnectRequest, Response = ConnectResponse, Error = SendRequestError>,
{
    /// Attempts until there is an answer, or until no other attempt is allowed.
    async fn run(mut self) -> Result<ConnectResponse, SendRequestError> {
        let mut call = self.first_call().await.map_err(into_awc)?;
        loop {
            let instance = call.instance().clone();
            let failure = match self.attempt(call).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            self.note(&instance, &failure);
            self.tried.push(instance);
            match self.next_call(&failure) {
                Some(next) => call = next,
                None => return self.give_up(failure),
            }
        }
    }

    fn choose(&self) -> Result<Call, Error> {
        let key = self.balancer.settings.key.as_ref().and_then(|key| key(self.request.head()));
        match key {
            Some(key) => self.view.begin_for_excluding(key, &self.tried),
            None => self.view.begin_excluding(&self.tried),
        }
    }

    /// Begins the first call. Waits if no instance can be called.
    async fn first_call(&self) -> Result<Call, Error> {
        let begun = self.choose();
        let Err(Error::NoInstance { .. }) = begun else { return begun };
        let left = self.deadline.saturating_duration_since(Instant::now());
        // The view's timer runs in the Registry's thread, which may be busy, so wait with a timer of this thread. If
        // there still is no instance, `choose` returns the reason.
        let limit = self.balancer.settings.wait.min(left);
        let _ = timeout(limit, self.view.available_within(LONGEST_DURATION)).await;
        self.choose()
    }

    /// Begins the call of the next attempt, if another attempt is allowed.
    ///
    /// The checks that cost nothing come first. The budget comes before the choice, because a choice is counted. If every
    /// instance was tried, a retry on the same instance helps only when the connection was at fault.
    fn next_call(&self, failure: &Failure) -> Option<Call> {
        let retry = &self.balancer.settings.retry;
        let is_allowed = self.tried.len() <= retry.times
            && !matches!(failure, Failure::Unsendable(_))
            && Instant::now() < self.deadline
            && self.request.can_be_sent()
            && (failure.was_never_sent() || retry.may_repeat(self.request.head()))
            && self.view.retry_budget().take_retry(std::time::Instant::now());
        if !is_allowed {
            return None;
        }
        let call = self.choose().ok()?;
        let is_new = !self.tried.iter().any(|tried| tried.key_in_service() == call.key_in_service());
        (is_new || failure.may_be_the_connections()).then_some(call)
    }

    /// Sends the request to the call's instance, and reports the outcome to the call.
    async fn attempt(&mut self, call: Call) -> Result<ConnectResponse, Failure> {
        let Balancer { connections, factory, settings, .. } = self.balancer;
        let by_tls = outgoing::wants_tls(self.request.called())
            || call.metadata.get(SECURE).is_some_and(|secure| secure == "true");
        let name = by_tls.then(|| (settings.certificate_name)(self.view.service()));
        let carried = match connections.begin(&call.authority(), name.as_deref()) {
            Ok(carried) => carried,
            Err(error) => {
                call.failed();
                return Err(Failure::of(error));
            }
        };
        let request = self.request.to(carried.authority().clone(), by_tls, &settings.host, factory);
        let request = request.map_err(Failure::of)?;
        let answered = self.answer_in_time(self.connector.call(request)).await;
        match answered.map_err(Failure::of) {
            Ok(answer) if (settings.is_failure)(status_of(&answer), headers_of(&answer)) => {
                call.failed();
                Err(Failure::Refused(until_its_end(answer, UnderWay { call: None, _carried: carried })))
            }
            Ok(answer) => Ok(until_its_end(answer, UnderWay { call: Some(call), _carried: carried })),
            // The application's body did not come, or awc cannot send the request. The instance is not at fault.
            Err(failure) if matches!(failure, Failure::Unsendable(_)) || self.request.waits_for_body() => {
                call.cancelled();
                Err(failure)
            }
            Err(failure) => {
                call.failed();
                Err(failure)
            }
        }
    }

    /// Waits for the answer. The time that the application takes to give its body is not the instance's, so the limit
    /// of the attempt counts from the last moment when the attempt waited for the body. The deadline always applies.
    async fn answer_in_time(&self, answering: S::Future) -> Result<ConnectResponse, SendRequestError> {
        let mut answering = pin!(answering);
        let mut since = Instant::now();
        loop {
            let limit = self.balancer.settings.attempt_timeout.min(self.deadline.saturating_duration_since(since));
            if let Ok(answered) = timeout_at(since + limit, answering.as_mut()).await {
                return answered;
            }
            match self.request.last_awaited_body() {
                Some(awaited) if awaited > since && Instant::now() < self.deadline => since = awaited,
                _ => return Err(SendRequestError::Timeout),
            }
        }
    }

    fn note(&self, instance: &Instance, failure: &Failure) {
        debug!(self.balancer.log, "call failed"; "service" => %self.view.service(),
            "instance" => instance.authority(), "error" => failure.describe());
    }

    /// Returns the outcome of the last attempt. An answer that counts as a failure is still returned as an answer.
    fn give_up(&self, failure: Failure) -> Result<ConnectResponse, SendRequestError> {
        match failure {
            Failure::Refused(answer) => Ok(answer),
            Failure::NoAnswer(SendRequestError::Connect(error)) if self.view.is_stale() => {
                Err(SendRequestError::Connect(of_stale_list(error, self.view.service())))
            }
            Failure::NoAnswer(error) | Failure::Unsendable(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use actix_http::{
        body::{to_bytes, BodyStream, BoxBody},
        RequestHeadType,
    };
    use actix_rt::time::sleep;
    use actix_service::fn_service;
    use futures_util::{stream, StreamExt as _};

    use super::*;
    use crate::{
        balance::{cause, Client},
        config::Config,
        discovery::view::{ServiceRecords, ViewWriter},
    };

    #[actix::test]
    async fn a_call_waits_no_longer_than_it_may_while_the_registry_is_busy() {
        let registry = Registry::start(Config::new("127.0.0.7:1")).unwrap();
        let middleware = Client::builder(&registry).service("orders").wait(Duration::from_millis(50)).middleware();
        let name = ServiceName::parse("orders").unwrap();
        // Nobody runs the timers of this view.
        let writer = ViewWriter::new(name.clone(), String::new(), ServiceRecords::new(name, None));
        let service = middleware.0.services.as_ref().unwrap().find("orders").unwrap().unwrap();
        assert!(service.view.set(writer.view(false)).is_ok());
        let http = awc::Client::builder().disable_timeout().wrap(middleware).finish();
        let called = timeout(Duration::from_secs(20), http.get("http://orders/").send());
        let error = called.await.expect("the call has ended").unwrap_err();
        assert!(matches!(cause(&error), Some(Error::NoInstance { .. })), "{error}");
    }

    const SECOND: Duration = Duration::from_secs(1);

    /// Sends a body whose pieces come at these intervals, with a limit of 10 s for the attempt and 60 s for the call.
    /// The instance breaks the connection `breaks_after` it has received the whole body. Returns the error.
    async fn upload(
        registry: &actix::Addr<Registry>,
        intervals: &'static [u64],
        breaks_after: Duration,
    ) -> SendRequestError {
        let middleware = Client::builder(registry).retry(Retry::never()).attempt_timeout(10 * SECOND).middleware();
        let connector = fn_service(|request| async move {
            let ConnectRequest::Client(_, body, _) = request else { panic!("a tunnel") };
            assert!(to_bytes(body).await.is_ok());
            sleep(breaks_after).await;
            Err(SendRequestError::Send(std::io::Error::other("broken")))
        });
        let pieces = stream::iter(intervals).then(|seconds| async {
            sleep(*seconds as u32 * SECOND).await;
            Ok::<_, std::io::Error>(bytes::Bytes::from_static(b"piece"))
        });
        let mut head = RequestHead::default();
        head.uri = Uri::from_static("http://orders/");
        let body = BoxBody::new(BodyStream::new(Box::pin(pieces)));
        let balancer = &*middleware.0;
        let request = Outgoing::new(balancer.factory.request(RequestHeadType::Owned(head), body).unwrap());
        let view = ServiceView::fixed(ServiceName::parse("orders").unwrap(), [Instance::new("127.0.0.7", 80)]);
        let deadline = Instant::now() + 60 * SECOND;
        let sending = Sending { balancer, connector: &connector, view: &view, request, tried: Vec::new(), deadline };
        sending.run().await.err().unwrap()
    }

    #[actix::test]
    async fn after_a_slow_upload_the_instance_has_as_long_to_answer_as_after_a_fast_one() {
        let registry = Registry::start(Config::disabled()).unwrap();
        tokio::time::pause();
        for intervals in [&[0][..], &[9], &[15], &[6, 6, 6], &[5, 10, 15, 19]] {
            let in_time = upload(&registry, intervals, 9 * SECOND).await;
            assert!(matches!(in_time, SendRequestError::Send(_)), "{intervals:?}: {in_time}");
            let late = upload(&registry, intervals, 11 * SECOND).await;
            assert!(matches!(late, SendRequestError::Timeout), "{intervals:?}: {late}");
        }
        let endless = upload(&registry, &[61], Duration::ZERO).await;
        assert!(matches!(endless, SendRequestError::Timeout), "the deadline applies: {endless}");
    }
}
