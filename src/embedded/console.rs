//! A console in the browser. It shows instances and injects faults. It answers only requests from this machine.
//!
//! A page of another site must neither read the console nor change anything. So `Host` must name this machine, which
//! excludes another site whose name was made to resolve to 127.0.0.1 (DNS rebinding). `Origin` must be the console's
//! own.
//!
//! Three routes outside of the context path:
//!
//! | route | what it does |
//! |---|---|
//! | `GET /` | the page; it loads nothing from elsewhere, and its policy allows only its own script |
//! | `GET /console/events` | a stream: the whole state as JSON, when it has changed, at most every 0.2 s |
//! | `POST /console/command` | one [`Command`] as JSON, answered with 204, or 400 and a reason |
//!
//! While the console is on, the Nacos API rejects requests from pages of other sites as well: otherwise such a page
//! could register instances that the console then shows. It always rejects names that may belong to another site
//! ([`web_page::may_be_rebound`]).

use std::{
    rc::Rc,
    sync::{
        atomic::{AtomicUsize, Ordering},
        Arc, LazyLock,
    },
    time::{Duration, Instant},
};

use actix_web::{
    http::{
        header::{HeaderMap, ORIGIN},
        Method, StatusCode,
    },
    rt,
    web::Bytes,
    HttpMessage as _, HttpRequest, HttpResponse,
};
use futures_util::{stream, Stream};
use serde::Deserialize;
use serde_json::{json, Value};

use super::{
    active_faults::FaultSettings,
    catalogue::{Instance, Service, ServiceKey},
    connection::Busy,
    faults::Faults,
    shared::Shared,
    state::State,
};
use crate::{
    model::service::ServiceName,
    runtime::web_page::{self, WebPage},
};

static PAGE: LazyLock<WebPage> = LazyLock::new(|| WebPage::new(include_str!("console.html")));

/// How many consoles may be open at once.
const MAX_STREAMS: usize = 16;
/// How often the state is compared with what the console shows. Less often if that takes long.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
const PAUSE_PER_COST: u32 = 10;
/// The time after which an idle stream sends a comment. Only a failed write shows that a console was closed.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// The console shows this many services, and counts the rest.
const SHOWN_SERVICES: usize = 200;
const SHOWN_INSTANCES: usize = 100;
const SHOWN_METADATA: usize = 12;

/// How long a command waits before it acts, so that its answer is sent first. Some commands close all connections.
const ANSWER_FIRST: Duration = Duration::from_millis(50);
const LONGEST_REFUSAL: u64 = 60;

static OPEN_STREAMS: AtomicUsize = AtomicUsize::new(0);

/// Whether this path belongs to the console and not to Nacos.
pub(crate) fn has(path: &str) -> bool {
    matches!(path, "/" | "/console/events" | "/console/command")
}

/// Answers a request. `busy` keeps the connection from counting as idle while a console is open.
pub(crate) fn answer(
    request: &HttpRequest,
    body: &Bytes,
    shared: &Arc<Shared>,
    era: u64,
    busy: Option<Busy>,
) -> HttpResponse {
    let headers = request.headers();
    if !web_page::names_this_machine(headers) {
        return text(StatusCode::FORBIDDEN, "open the console as http://127.0.0.1 or http://localhost\n");
    }
    match (request.method(), request.path()) {
        (&Method::GET, "/") => PAGE.answer(),
        (&Method::GET, _) | (&Method::POST, _) if is_of_another_site(headers) => refuse_other_site(),
        (&Method::GET, "/console/events") => match events(shared.clone(), era, busy) {
            Some(events) => web_page::event_stream(events),
            None => text(StatusCode::SERVICE_UNAVAILABLE, "too many consoles are open\n"),
        },
        (&Method::POST, "/console/command") => run(request, body, shared),
        _ => text(StatusCode::METHOD_NOT_ALLOWED, "no such command\n"),
    }
}

pub(crate) fn refuse_other_site() -> HttpResponse {
    text(StatusCode::FORBIDDEN, "answers its own page alone\n")
}

fn text(status: StatusCode, text: impl Into<String>) -> HttpResponse {
    HttpResponse::build(status).content_type("text/plain; charset=utf-8").body(text.into())
}

pub(crate) fn refuse_foreign_host() -> HttpResponse {
    text(StatusCode::FORBIDDEN, "reach the embedded server as 127.0.0.1 or localhost\n")
}

/// Browsers send `Sec-Fetch-Site` with all requests.
fn is_of_another_site(headers: &HeaderMap) -> bool {
    let site = headers.get("sec-fetch-site").map(|site| site.as_bytes());
    web_page::has_foreign_origin(headers) || site.is_some_and(|site| site != b"same-origin")
}

/// Whether a page of another site makes this request to the Nacos API. Unlike the console's events, the API may be
/// opened from the address bar.
pub(crate) fn is_cross_site(headers: &HeaderMap) -> bool {
    web_page::has_foreign_origin(headers) || headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site")
}

// What the console shows.

/// A permit of one open console, of [`MAX_STREAMS`] in the process.
struct OpenStream;

impl OpenStream {
    fn new() -> Option<Self> {
        let one_more = |streams| (streams < MAX_STREAMS).then_some(streams + 1);
        OPEN_STREAMS.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).ok()?;
        Some(OpenStream)
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        OPEN_STREAMS.fetch_sub(1, Ordering::AcqRel);
    }
}

/// One open console. `sent` is the state that it has, as text.
struct Reader {
    _open: OpenStream,
    _busy: Option<Busy>,
    shared: Arc<Shared>,
    era: u64,
    sent: Rc<str>,
    last_sent: Instant,
    pause: Duration,
}

/// Sends the whole state whenever it has changed. `None` if too many consoles are open.
fn events(
    shared: Arc<Shared>,
    era: u64,
    busy: Option<Busy>,
) -> Option<impl Stream<Item = Result<Bytes, std::convert::Infallible>>> {
    let _open = OpenStream::new()?;
    let (last_sent, pause) = (Instant::now(), Duration::ZERO);
    let reader = Reader { _open, _busy: busy, shared, era, sent: "".into(), last_sent, pause };
    Some(stream::unfold(reader, |mut reader| async {
        let event = reader.next().await?;
        reader.last_sent = Instant::now();
        Some((Ok(Bytes::from(event)), reader))
    }))
}

impl Reader {
    async fn next(&mut self) -> Option<String> {
        loop {
            rt::time::sleep(self.pause).await;
            if self.shared.is_over(self.era) {
                return None;
            }
            let began = Instant::now();
            let faults = self.shared.faults().settings();
            let state = self.shared.with(|state| shown(state, &faults)).to_string();
            self.pause = LOOK_INTERVAL.max(began.elapsed() * PAUSE_PER_COST);
            if *self.sent != *state {
                self.sent = state.into();
                return Some(format!("event: state\ndata: {}\n\n", self.sent));
            }
            if self.last_sent.elapsed() >= KEEP_ALIVE {
                return Some(": nothing new\n\n".into());
            }
        }
    }
}

/// The state that the page shows. Large registries are cut; the counts are exact.
fn shown(state: &State, faults: &FaultSettings) -> Value {
    let counters = &state.counters;
    let services: Vec<Value> = state.catalogue.services().take(SHOWN_SERVICES).map(|one| service(state, one)).collect();
    json!({
        "nacos": state.dialect().version(),
        "now": state.now().as_secs(),
        "count": state.catalogue.services().count(),
        "services": services,
        "requests": counters.requests,
        "pushes": counters.pushes_sent,
        "faults": faults,
    })
}

fn service(state: &State, service: &Service) -> Value {
    let instances = service.instances.values().take(SHOWN_INSTANCES);
    let instances: Vec<Value> = instances.map(|one| instance(&service.effective(one))).collect();
    json!({
        "namespace": service.key.namespace,
        "group": service.key.service.group,
        "name": service.key.service.name,
        "subscribers": state.pushes.subscribers(&service.key),
        "count": service.instances.len(),
        "instances": instances,
    })
}

fn instance(instance: &Instance) -> Value {
    let metadata = instance.metadata.iter().take(SHOWN_METADATA).map(|(key, value)| [key, value]);
    json!({
        "ip": instance.ip,
        "port": instance.port,
        "cluster": instance.cluster,
        "weight": instance.weight,
        "enabled": instance.enabled,
        "healthy": instance.healthy,
        "ephemeral": instance.ephemeral,
        "metadata": metadata.collect::<Vec<_>>(),
        "last_beat": instance.last_beat.as_secs(),
    })
}

// What the console changes.

/// What a person does on the page.
#[derive(Debug, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
enum Command {
    /// Enables or disables an instance. Lists leave disabled instances out.
    Enable {
        instance: Target,
        enabled: bool,
    },
    Weigh {
        instance: Target,
        weight: f64,
    },
    /// Removes an instance. Its owner usually registers it again at its next heartbeat.
    Remove {
        instance: Target,
    },
    Faults {
        faults: FaultSettings,
    },
    /// Removes all faults.
    Clear,
    ForgetEverything,
    ExpireTokens,
    Restart,
    Refuse {
        seconds: u64,
    },
}

/// Names one instance, as the page has received it.
#[derive(Debug, Deserialize)]
struct Target {
    namespace: String,
    group: String,
    name: String,
    cluster: String,
    ip: String,
    port: i64,
}

impl Target {
    fn service(&self) -> ServiceKey {
        let service = ServiceName { group: self.group.as_str().into(), name: self.name.as_str().into() };
        ServiceKey { namespace: self.namespace.clone(), service }
    }

    /// Returns the instance as lists show it.
    fn find(&self, state: &State) -> Option<Instance> {
        let service = state.catalogue.service(&self.service())?;
        let found = service.instances.values().find(|one| one.is_at((&self.cluster, &self.ip, self.port)))?;
        Some(service.effective(found))
    }
}

/// Carries out a command, after checks that only the console's own page passes.
fn run(request: &HttpRequest, body: &Bytes, shared: &Arc<Shared>) -> HttpResponse {
    // A form of another site can send some content types without permission, but not this one.
    if request.content_type() != "application/json" || !request.headers().contains_key(ORIGIN) {
        return text(StatusCode::FORBIDDEN, "wants JSON, and the console's own Origin\n");
    }
    let done =
        serde_json::from_slice(body).map_err(|error| error.to_string()).and_then(|command| carry_out(command, shared));
    match done {
        Ok(()) => HttpResponse::NoContent().finish(),
        Err(mistake) => text(StatusCode::BAD_REQUEST, format!("{mistake}\n")),
    }
}

fn carry_out(command: Command, shared: &Arc<Shared>) -> Result<(), String> {
    let faults = Faults { shared: shared.clone() };
    match command {
        Command::Enable { instance, enabled } => change(shared, &instance, |known| known.enabled = enabled)?,
        Command::Weigh { instance, weight } => {
            if !(0.0..=10_000.0).contains(&weight) {
                return Err("a weight is 0 to 10,000".into());
            }
            change(shared, &instance, |known| known.weight = weight)?;
        }
        Command::Remove { instance } => shared.with(|state| {
            let known = instance.find(state).ok_or("there is no such instance")?;
            state.deregister(&instance.service(), &known.ip, known.port, &known.cluster, known.ephemeral);
            Ok::<(), String>(())
        })?,
        Command::Faults { faults: wanted } => faults.apply(wanted)?,
        Command::Clear => in_background(move || faults.clear()),
        Command::ForgetEverything => faults.forget_everything(),
        Command::ExpireTokens => faults.expire_tokens(),
        Command::Restart => {
            let shared = shared.clone();
            // If another program has taken the port, there is no console to report the error to.
            in_background(move || drop(shared.restart(None)));
        }
        Command::Refuse { seconds } => in_background(move || {
            faults.refuse_connections();
            std::thread::sleep(Duration::from_secs(seconds.min(LONGEST_REFUSAL)));
            faults.accept_connections();
        }),
    }
    Ok(())
}

/// Changes an instance like an operator: on 2.x the change outlives the instance.
fn change(shared: &Shared, target: &Target, change: impl FnOnce(&mut Instance)) -> Result<(), String> {
    shared.with(|state| {
        let mut known = target.find(state).ok_or("there is no such instance")?;
        change(&mut known);
        state.overwrite(&target.service(), known);
        Ok(())
    })
}

/// Runs a command in a thread. Such a command waits for the server's thread, or closes the connection that it came by.
fn in_background(work: impl FnOnce() + Send + 'static) {
    let waits = move || {
        std::thread::sleep(ANSWER_FIRST);
        work();
    };
    // If no thread can be started, the command is lost. The console then shows no effect.
    let _ = std::thread::Builder::new().name("embedded-nacos-command".into()).spawn(waits);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_console_needs_nothing_that_its_policy_forbids() {
        PAGE.assert_within_policy();
    }
}
