//! Sends what the live page shows, as a stream of events.
//!
//! All streams share one snapshot, which is divided into parts: the servers, each registered instance, each service,
//! each event. An event has the parts that have changed since the snapshot before, and is rendered once for all pages.
//! A page that was too slow for an event skips to the newest snapshot.
//!
//! At most one event is queued for a page, and its bytes are shared with the other pages. The next event is queued when
//! the socket has taken this one. A page that takes nothing for [`LONGEST_STALL`] loses its permit and its queue. So a
//! slow browser delays no other page, and its cost is bounded.
//!
//! Invariants:
//!
//! - One snapshot serves all pages. It is taken when something has happened or a [`TICK`] has passed, and not more
//!   often than [`PAUSE_PER_COST`] allows.
//! - A part's JSON depends only on its content: times are absolute (`at`), not "ago", so an unchanged part is equal
//!   text.
//! - What the page shows is bounded (`SHOWN_…`), however large the Registry is. Counts are exact.
//!
//! The stream, as the page reads it (`text/event-stream`):
//!
//! | event | data |
//! |---|---|
//! | `all` | `{"now": <ms since 1970>, "parts": {<key>: <part>, …}}`, at the start, and when the page skips snapshots |
//! | `change` | the same, with the parts that differ; a part that is gone is `null` |
//! | `silent` | `{}`: the Registry does not answer; `all` follows when it does |
//! | `ended` | `{}`: the Registry has ended, no further event follows |
//! | a comment | nothing new for [`KEEP_ALIVE`] |
//!
//! | key of a part | what it describes |
//! |---|---|
//! | `registry`, `problems` | the Registry, and what is wrong |
//! | `server:<host:port>` | one server |
//! | `own:<instance>` | one instance that this process registered |
//! | `list:<service>:<clusters>` | when and how the list of a watched service arrived: changes with every poll |
//! | `service:<service>:<clusters>` | the content of that list: changes seldom and may be long |
//! | `event:<number>`, `listchange:<number>` | one entry of the history |

use std::{
    collections::BTreeMap,
    convert::Infallible,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use actix::MailboxError;
use actix_web::web::{Bytes, Data};
use futures_util::{stream, Stream};
use serde_json::{json, Value};
use tokio::{
    sync::watch,
    time::{sleep, timeout, Instant},
};

use super::{context::RouteContext, problems::problems};
use crate::{
    discovery::{subscriber::snapshot::ListSnapshot, view::CallStatus},
    error::Error,
    model::instance::{Instance, Metadata},
    registry::{
        snapshot::{GetSnapshot, Snapshot, WatchProgress},
        InstanceStatus, ServerStatus,
    },
    runtime::history::Progress,
};

/// How many pages may be open at once.
///
/// Each stream is a connection of the server. A browser that forgets to close pages must not use them up.
const MAX_STREAMS: usize = 64;

/// Heartbeats and polls do not wake a stream. They show after this time.
const TICK: Duration = Duration::from_secs(1);
/// The time after which an idle stream sends a comment. Only a failed write shows that a page was closed, and frees its
/// permit.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// A page whose socket takes nothing for this time loses its permit. An idle page takes a comment every 5 s.
const LONGEST_STALL: Duration = Duration::from_secs(20);
/// How long to wait for the Registry, which answers from memory.
const LONGEST_ANSWER: Duration = Duration::from_secs(5);
/// An event is sent in chunks of this many bytes, because the server copies each chunk for each page.
const CHUNK: usize = 16 * 1024;

/// The shortest time between two snapshots. It grows so that the Registry and a worker of the server spend at most a
/// tenth of their time on snapshots.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
const PAUSE_PER_COST: u32 = 10;

/// The page shows this many instances, and counts the rest.
const SHOWN_OWN_INSTANCES: usize = 300;
const SHOWN_SERVICES: usize = 300;
const SHOWN_INSTANCES: usize = 200;
const SHOWN_METADATA: usize = 12;
/// The longest text that is shown, in characters.
const SHOWN_TEXT: usize = 100;

/// The JSON of each part, by its key in the page.
type Parts = BTreeMap<String, Arc<str>>;

/// The open pages of one [`StatusRoutes`](super::StatusRoutes), and the snapshot that they share.
#[derive(Default)]
pub(super) struct Live {
    pages: Mutex<Vec<Arc<Page>>>,
    latest: tokio::sync::Mutex<Latest>,
}

/// The last snapshot. `taken` is `None` before the first one.
#[derive(Default)]
struct Latest {
    shown: Arc<Shown>,
    taken: Option<Taken>,
    /// When the Registry last did not answer in time.
    silent_at: Option<Instant>,
}

/// `version` is the version of the history that was read before the snapshot was taken, so the snapshot is at least as
/// new.
struct Taken {
    at: Instant,
    version: u64,
    /// The time until the next snapshot may be taken.
    pause: Duration,
}

/// The parts of one snapshot, and the text of the events that lead to it. All pages share the text.
#[derive(Default)]
struct Shown {
    /// Counted from 1. A snapshot that equals the one before has no number.
    number: u64,
    parts: Parts,
    /// The event for pages that have the previous snapshot.
    change: Bytes,
    /// The event for pages that have no snapshot, or an older one. Rendered when the first of them needs it.
    all: OnceLock<Bytes>,
}

/// The reason why there is no event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NoEvent {
    /// The Registry has ended.
    Ended,
    /// The Registry does not answer.
    Silent,
}

impl From<Error> for NoEvent {
    fn from(error: Error) -> Self {
        if error == Error::Stopped {
            NoEvent::Ended
        } else {
            NoEvent::Silent
        }
    }
}

/// Waits for an answer of the Registry.
async fn answer<T>(waiting: impl Future<Output = Result<Result<T, Error>, MailboxError>>) -> Result<T, NoEvent> {
    match timeout(LONGEST_ANSWER, waiting).await {
        Ok(answered) => Ok(answered.map_err(Error::from)??),
        Err(_) => Err(NoEvent::Silent),
    }
}

impl Shown {
    fn after(before: &Shown, parts: Parts) -> Self {
        let change = render(&before.parts, &parts);
        Shown { number: before.number + 1, parts, change, all: OnceLock::new() }
    }

    /// The name and the parts of the event for a page that has the snapshot with this number. `None` if the page has
    /// this one.
    fn event(&self, sent: Option<u64>) -> Option<(&'static str, Bytes)> {
        match sent {
            Some(sent) if sent == self.number => None,
            Some(sent) if sent + 1 == self.number => Some(("change", self.change.clone())),
            _ => Some(("all", self.all.get_or_init(|| render(&Parts::new(), &self.parts)).clone())),
        }
    }
}

/// The end of an event that brings a page from one state to another. Removed parts are null.
fn render(before: &Parts, now: &Parts) -> Bytes {
    let is_new = |(key, part): &(&String, &Arc<str>)| before.get(*key) != Some(part);
    let new = now.iter().filter(is_new).map(|(key, part)| format!("{}:{part}", json!(key)));
    let gone = before.keys().filter(|key| !now.contains_key(*key)).map(|key| format!("{}:null", json!(key)));
    let parts: Vec<String> = new.chain(gone).collect();
    // `serde_json` writes no line breaks, so the data fits in one line.
    Bytes::from(format!("{{{}}}}}\n\n", parts.join(",")))
}

/// The beginning of an event. It is not shared, because it contains the time by which the page sets its clock.
fn head(name: &str) -> Bytes {
    let now = unix_millis(SystemTime::now());
    Bytes::from(format!("event: {name}\ndata: {{\"now\":{now},\"parts\":"))
}

/// What an open page has not been sent yet.
#[derive(Default)]
struct Page(Mutex<Queue>);

#[derive(Default)]
struct Queue {
    /// The rest of the event under way.
    rest: Bytes,
    /// When the last chunk was given to the server. `None` while the server waits for a chunk.
    given_at: Option<Instant>,
    is_dropped: bool,
}

impl Page {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops a page that takes nothing: frees its queue, and ends its stream when the server asks for the next chunk.
    /// Returns whether the page was dropped.
    fn drop_if_stalled(&self) -> bool {
        let mut queue = self.queue();
        let is_stalled = queue.given_at.is_some_and(|at| at.elapsed() >= LONGEST_STALL);
        if is_stalled {
            *queue = Queue { is_dropped: true, ..Queue::default() };
        }
        is_stalled
    }
}

/// One of [`MAX_STREAMS`] permits, for one open page.
struct Permit {
    live: Arc<Live>,
    page: Arc<Page>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.live.pages().retain(|page| !Arc::ptr_eq(page, &self.page));
    }
}

impl Live {
    fn pages(&self) -> MutexGuard<'_, Vec<Arc<Page>>> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one more page. `None` if [`MAX_STREAMS`] are open.
    fn permit(self: &Arc<Self>) -> Option<Permit> {
        self.drop_stalled();
        let mut pages = self.pages();
        if pages.len() >= MAX_STREAMS {
            return None;
        }
        let page = Arc::<Page>::default();
        pages.push(page.clone());
        drop(pages);
        Some(Permit { live: self.clone(), page })
    }

    fn drop_stalled(&self) {
        self.pages().retain(|page| !page.drop_if_stalled());
    }

    /// Returns a snapshot that has at least this version, and is at most a tick old.
    async fn shown(&self, context: &RouteContext, version: u64) -> Result<Arc<Shown>, NoEvent> {
        // A second stream waits here for the snapshot that the first one takes.
        let mut latest = self.latest.lock().await;
        if let Some(taken) = &latest.taken
            && taken.version >= version
            && taken.at.elapsed() < TICK
        {
            return Ok(latest.shown.clone());
        }
        if latest.silent_at.is_some_and(|at| at.elapsed() < TICK) {
            return Err(NoEvent::Silent);
        }
        if let Some(taken) = &latest.taken {
            sleep(taken.pause.saturating_sub(taken.at.elapsed())).await;
        }
        self.drop_stalled();
        let began = Instant::now();
        let snapshot = answer(context.registry()?.send(GetSnapshot)).await;
        latest.silent_at = (snapshot.as_ref().err() == Some(&NoEvent::Silent)).then(Instant::now);
        let parts = parts(&snapshot?, SystemTime::now());
        if latest.shown.number == 0 || latest.shown.parts != parts {
            latest.shown = Arc::new(Shown::after(&latest.shown, parts));
        }
        let pause = (began.elapsed() * PAUSE_PER_COST).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
        latest.taken = Some(Taken { at: Instant::now(), version, pause });
        Ok(latest.shown.clone())
    }
}

/// The events for one page, in chunks. `None` if too many pages are open.
pub(super) fn events(
    context: Data<RouteContext>,
    live: Arc<Live>,
) -> Option<impl Stream<Item = Result<Bytes, Infallible>>> {
    let permit = live.permit()?;
    let last_sent = Instant::now();
    let reader = Reader { permit, context, progress: None, sent: None, last_sent, is_silent: false, has_ended: false };
    Some(stream::unfold(reader, |mut reader| async {
        let chunk = reader.next().await?;
        Some((Ok(chunk), reader))
    }))
}

/// One open page.
struct Reader {
    permit: Permit,
    context: Data<RouteContext>,
    /// `None` before the first event.
    progress: Option<watch::Receiver<Progress>>,
    /// The number of the snapshot that the page has.
    sent: Option<u64>,
    last_sent: Instant,
    /// Whether the page has received `silent`.
    is_silent: bool,
    has_ended: bool,
}

impl Reader {
    /// Returns the next chunk. `None` after the Registry's end, because an open stream would delay the server's
    /// graceful stop, and when the page was dropped.
    async fn next(&mut self) -> Option<Bytes> {
        {
            let mut queue = self.permit.page.queue();
            queue.given_at = None;
            if queue.is_dropped || (self.has_ended && queue.rest.is_empty()) {
                return None;
            }
            if !queue.rest.is_empty() {
                let length = queue.rest.len().min(CHUNK);
                queue.given_at = Some(Instant::now());
                return Some(queue.rest.split_to(length));
            }
        }
        let (head, rest) = self.next_event().await;
        self.last_sent = Instant::now();
        let mut queue = self.permit.page.queue();
        (queue.rest, queue.given_at) = (rest, Some(self.last_sent));
        Some(head)
    }

    /// Returns the beginning of the next event, and the rest, which is shared. Returns a comment if nothing has changed
    /// for [`KEEP_ALIVE`].
    async fn next_event(&mut self) -> (Bytes, Bytes) {
        loop {
            match self.next_shown().await {
                Ok(shown) => {
                    self.is_silent = false;
                    let event = shown.event(self.sent);
                    self.sent = Some(shown.number);
                    if let Some((name, parts)) = event {
                        return (head(name), parts);
                    }
                }
                Err(NoEvent::Ended) => {
                    self.has_ended = true;
                    return (Bytes::from_static(b"event: ended\ndata: {}\n\n"), Bytes::new());
                }
                Err(NoEvent::Silent) if self.is_silent => sleep(TICK).await,
                Err(NoEvent::Silent) => {
                    // When the Registry answers again, the page must get `all`, even if nothing has changed.
                    (self.is_silent, self.sent) = (true, None);
                    return (Bytes::from_static(b"event: silent\ndata: {}\n\n"), Bytes::new());
                }
            }
            if self.last_sent.elapsed() >= KEEP_ALIVE {
                return (Bytes::from_static(b": nothing new\n\n"), Bytes::new());
            }
        }
    }

    async fn next_shown(&mut self) -> Result<Arc<Shown>, NoEvent> {
        let version = self.wait_for_progress().await?;
        self.permit.live.shown(&self.context, version).await
    }

    /// Returns the version that the next snapshot must have. Waits for a change, or for a tick, if the page already has
    /// a snapshot.
    async fn wait_for_progress(&mut self) -> Result<u64, NoEvent> {
        let progress = match &mut self.progress {
            Some(progress) => {
                // After a change and after a tick, a snapshot is due.
                let _ = timeout(TICK, progress.changed()).await;
                progress
            }
            None => {
                let progress = answer(self.context.registry()?.send(WatchProgress)).await?;
                self.progress.insert(progress)
            }
        };
        let Progress { version, has_ended } = *progress.borrow_and_update();
        if has_ended {
            return Err(NoEvent::Ended);
        }
        Ok(version)
    }
}

fn unix_millis(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

// The parts.

/// Converts "milliseconds ago" to seconds since 1970, so that the value is the same in each snapshot.
struct Times {
    now_millis: u64,
}

impl Times {
    fn at(&self, ms_ago: Option<u64>) -> Option<u64> {
        Some((self.now_millis.saturating_sub(ms_ago?) + 500) / 1000)
    }
}

/// Divides a snapshot into parts. Each part is turned into text once, for all pages.
fn parts(snapshot: &Snapshot, now: SystemTime) -> Parts {
    let times = Times { now_millis: unix_millis(now) };
    let status = &snapshot.status;
    let mut parts = Parts::new();
    let mut add = |key: String, part: Value| drop(parts.insert(key, part.to_string().into()));
    add("registry".into(), registry(snapshot, &times));
    add("problems".into(), json!(problems(snapshot)));
    for server in &status.servers {
        add(format!("server:{}", server.address), server_part(server, &times));
    }
    for instance in status.instances.iter().take(SHOWN_OWN_INSTANCES) {
        add(format!("own:{}", instance.instance), own_instance(instance, &times));
    }
    for list in snapshot.lists.iter().take(SHOWN_SERVICES) {
        let name = format!("{}:{}", list.status.service, list.status.clusters);
        add(format!("list:{name}"), list_state(list, &times));
        add(format!("service:{name}"), service(list));
    }
    for event in &status.events {
        add(format!("event:{}", event.number), json!(event));
    }
    for change in &status.changes {
        add(format!("listchange:{}", change.number), json!(change));
    }
    parts
}

fn registry(snapshot: &Snapshot, times: &Times) -> Value {
    let status = &snapshot.status;
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "namespace": snapshot.namespace,
        "connection": status.connection,
        "closing": snapshot.is_closing,
        "started_at": times.at(Some(status.uptime_ms)),
        "session": status.session,
        "push_port": status.push.as_ref().map(|push| push.port),
        "own": status.instances.len(),
        "services": snapshot.lists.len(),
    })
}

fn server_part(server: &ServerStatus, times: &Times) -> Value {
    json!({
        "address": server.address,
        "in_use": server.in_use,
        "protocol": server.protocol,
        "failures": server.failures,
        "requests": server.requests,
        "failed_requests": server.failed_requests,
        "last_success_at": times.at(server.last_success_ms_ago),
        "last_failure_at": times.at(server.last_failure_ms_ago),
        "last_error": server.last_error,
    })
}

fn own_instance(status: &InstanceStatus, times: &Times) -> Value {
    json!({
        "service": status.instance.service,
        "cluster": status.instance.cluster,
        "authority": Instance::new(&*status.instance.ip, status.instance.port).authority(),
        "ephemeral": status.ephemeral,
        "state": status.state,
        "beats": status.beats,
        "since": times.at(Some(status.since_ms_ago)),
        "last_beat_at": times.at(status.last_success_ms_ago),
        "error": status.last_error,
    })
}

/// The part of a list that changes with every poll.
fn list_state(list: &ListSnapshot, times: &Times) -> Value {
    let status = &list.status;
    json!({
        "at": times.at(status.last_success_ms_ago),
        "stale": status.stale,
        "error": status.last_error,
        "polls": status.polls,
        "pushes": status.pushes,
    })
}

fn service(list: &ListSnapshot) -> Value {
    let status = &list.status;
    let hosts = list.list.as_ref().map(|info| info.hosts.as_slice()).unwrap_or_default();
    let calls = list.calls.iter().copied().chain(std::iter::repeat(None));
    let shown = hosts.iter().zip(calls).take(SHOWN_INSTANCES);
    let instances: Vec<Value> = shown.map(|(host, calls)| listed_instance(host, calls, list)).collect();
    let ejected = list.calls.iter().flatten().filter(|calls| calls.is_ejected).count();
    json!({
        "service": status.service,
        "clusters": status.clusters,
        "known": list.list.is_some(),
        "protected": list.list.as_ref().is_some_and(|info| info.reach_protection_threshold),
        "count": hosts.len(),
        "healthy": hosts.iter().filter(|host| host.healthy).count(),
        "withheld": list.withheld.len(),
        "ejected": ejected,
        "source": list.source,
        "listeners": status.listeners,
        "views": status.views,
        "instances": instances,
    })
}

fn listed_instance(host: &Arc<Instance>, calls: Option<CallStatus>, list: &ListSnapshot) -> Value {
    let latency = calls.and_then(|calls| calls.latency);
    json!({
        "authority": host.authority(),
        "cluster": host.cluster_name,
        "weight": host.weight,
        "healthy": host.healthy,
        "ephemeral": host.ephemeral,
        "withheld": list.withheld.iter().any(|withheld| Arc::ptr_eq(withheld, host)),
        "ejected": calls.is_some_and(|calls| calls.is_ejected),
        "in_flight": calls.map(|calls| calls.in_flight),
        "latency_ms": latency.map(|latency| (latency.as_secs_f64() * 1e4).round() / 10.0),
        "metadata": shown_metadata(&host.metadata),
    })
}

/// An array of pairs, so that the page keeps the order.
///
/// Metadata may have 64 KiB per instance, so only its beginning is sent.
fn shown_metadata(metadata: &Metadata) -> Value {
    let shown = metadata.iter().take(SHOWN_METADATA).map(|(key, value)| [shortened(key), shortened(value)]);
    let more = metadata.len().saturating_sub(SHOWN_METADATA);
    let more = (more > 0).then(|| ["…".to_owned(), format!("{more} more")]);
    json!(shown.chain(more).collect::<Vec<_>>())
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(SHOWN_TEXT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use actix::Addr;
    use futures_util::{future::join_all, StreamExt as _};

    use super::*;
    use crate::{
        registry::{Registry, Shutdown},
        serve::access::Access,
    };

    fn state(parts: &[(&str, &str)]) -> Parts {
        parts.iter().map(|(key, part)| ((*key).to_owned(), Arc::from(*part))).collect()
    }

    fn shown(number: u64, parts: &[(&str, &str)]) -> Shown {
        Shown { number, parts: state(parts), ..Shown::default() }
    }

    #[test]
    fn an_event_has_only_new_and_removed_parts() {
        let before = shown(6, &[("a", "1"), ("b", "2"), ("c\"", "3")]);
        let now = Shown::after(&before, state(&[("a", "1"), ("b", "4"), ("d", "5")]));
        let (name, parts) = now.event(Some(6)).unwrap();
        assert_eq!((name, &parts[..]), ("change", &b"{\"b\":4,\"d\":5,\"c\\\"\":null}}\n\n"[..]));
        assert_eq!(now.event(Some(7)), None);
        let event = [head("change"), parts].concat();
        assert!(event.starts_with(b"event: change\ndata: {\"now\":"));
    }

    #[test]
    fn all_pages_share_the_bytes_of_an_event_and_a_late_one_skips_to_the_newest() {
        let (first, second) = (shown(6, &[("a", "1")]), state(&[("a", "2"), ("b", "1")]));
        let now = Shown::after(&Shown::after(&first, second), state(&[("a", "3"), ("b", "1")]));
        let event = |sent| now.event(sent).unwrap();
        assert_eq!(event(Some(7)).1.as_ptr(), event(Some(7)).1.as_ptr());
        assert_eq!(event(None).1.as_ptr(), event(Some(6)).1.as_ptr());
        assert_eq!(event(Some(6)), ("all", Bytes::from_static(b"{\"a\":3,\"b\":1}}\n\n")));
        assert_eq!(event(Some(7)), ("change", Bytes::from_static(b"{\"a\":3}}\n\n")));
    }

    #[actix::test]
    async fn sixty_four_streams_may_be_open() {
        let live = Arc::new(Live::default());
        let mut open: Vec<_> = (0..MAX_STREAMS).map(|_| live.permit().unwrap()).collect();
        assert!(live.permit().is_none());
        open.pop();
        assert!(live.permit().is_some(), "a page was closed");
    }

    /// A Registry that never answers: nobody reads its mailbox.
    fn hanging() -> (actix::dev::channel::AddressReceiver<Registry>, Addr<Registry>, Data<RouteContext>) {
        let (sender, mailbox) = actix::dev::channel::channel(16);
        let registry = Addr::new(sender);
        let (access, shutdown) = (Access::default(), Shutdown::default());
        let context = RouteContext { registry: registry.downgrade(), access, is_strict: false, shutdown };
        (mailbox, registry, Data::new(context))
    }

    #[actix::test]
    async fn a_page_that_takes_nothing_loses_its_permit_and_its_queue() {
        tokio::time::pause();
        let (_mailbox, _registry, context) = hanging();
        let live = Arc::<Live>::default();
        let mut stalled = pin!(events(context, live.clone()).unwrap());
        assert!(stalled.next().await.is_some());
        let page = live.pages()[0].clone();
        page.queue().rest = Bytes::from(vec![b' '; 10 * CHUNK]);
        let waiting: Vec<_> = (1..MAX_STREAMS).map(|_| live.permit().unwrap()).collect();
        sleep(LONGEST_STALL - Duration::from_millis(100)).await;
        assert!(live.permit().is_none());
        assert_eq!(stalled.next().await.unwrap().unwrap().len(), CHUNK, "a slow one is not stalled");
        sleep(LONGEST_STALL).await;
        let another = live.permit().expect("the permit of the stalled page");
        assert!(page.queue().rest.is_empty());
        assert!(stalled.next().await.is_none(), "it was dropped");
        assert!(live.permit().is_none(), "pages that wait for news are not stalled");
        drop((another, waiting));
    }

    #[actix::test]
    async fn a_hanging_registry_is_reported_and_closed_pages_are_still_noticed() {
        tokio::time::pause();
        let (_mailbox, _registry, context) = hanging();
        let live = Arc::<Live>::default();
        let began = Instant::now();
        let mut pages: Vec<_> = (0..3).map(|_| Box::pin(events(context.clone(), live.clone()).unwrap())).collect();
        for event in join_all(pages.iter_mut().map(|page| page.next())).await {
            assert_eq!(event.unwrap().unwrap(), &b"event: silent\ndata: {}\n\n"[..]);
        }
        for comment in join_all(pages.iter_mut().map(|page| page.next())).await {
            assert_eq!(comment.unwrap().unwrap(), &b": nothing new\n\n"[..]);
        }
        assert!(began.elapsed() <= 4 * LONGEST_ANSWER, "{:?}", began.elapsed());
        pages.clear();
        assert!(live.pages().is_empty());
    }

    #[actix::test]
    async fn streams_that_wait_for_a_snapshot_of_a_hanging_registry_wait_once_for_all() {
        tokio::time::pause();
        let (_mailbox, _registry, context) = hanging();
        let live = Live::default();
        let began = Instant::now();
        let answered = join_all((0..MAX_STREAMS).map(|_| live.shown(&context, 1))).await;
        assert!(answered.into_iter().all(|shown| shown.err() == Some(NoEvent::Silent)));
        assert!(began.elapsed() < 2 * LONGEST_ANSWER, "{:?}", began.elapsed());
    }

    #[test]
    fn long_texts_are_shortened_between_characters_and_many_pairs_are_counted() {
        let mut metadata: Metadata = (0..20).map(|number| (format!("k{number:02}"), "v")).collect();
        metadata.insert("a".into(), "😀".repeat(200).into());
        let shown = shown_metadata(&metadata);
        assert_eq!(shown.as_array().map(Vec::len), Some(SHOWN_METADATA + 1));
        assert_eq!(shown[0][1], json!(format!("{}…", "😀".repeat(SHOWN_TEXT))));
        assert_eq!(shown[SHOWN_METADATA], json!(["…", "9 more"]));
    }

    #[test]
    fn a_time_stays_the_same_from_snapshot_to_snapshot() {
        let (one, other) = (Times { now_millis: 1_700_000_000_400 }, Times { now_millis: 1_700_000_001_401 });
        assert_eq!(one.at(Some(100)), Some(1_700_000_000));
        assert_eq!(one.at(Some(100)), other.at(Some(1100)));
        assert_eq!(one.at(None), None);
    }
}
