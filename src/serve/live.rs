//! Sends what the live page shows, as a stream of events.
//!
//! All streams share one snapshot, which is divided into parts: the servers, each registered instance, each service,
//! each event. A stream sends the parts that differ from those that it sent before. It makes the next event only when
//! the system's socket has taken the last one. So a slow browser misses intermediate states and delays nobody.
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
//! | `all` | `{"now": <ms since 1970>, "parts": {<key>: <part>, …}}`, once at the start |
//! | `change` | the same, with the parts that differ; a part that is gone is `null` |
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
    sync::{
        atomic::{AtomicUsize, Ordering},
        Arc,
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use actix_web::web::{Bytes, Data};
use futures_util::{stream, Stream};
use serde_json::{json, Value};
use tokio::{
    sync::{watch, Mutex},
    time::{sleep, timeout, Instant},
};

use super::{problems::problems, StatusRoutes};
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

/// The open streams of one [`StatusRoutes`], and the snapshot that they share.
#[derive(Default)]
pub(super) struct Live {
    streams: AtomicUsize,
    latest: Mutex<Latest>,
}

/// The last snapshot. `taken` is `None` before the first one.
#[derive(Default)]
struct Latest {
    parts: Arc<Parts>,
    taken: Option<Taken>,
}

/// `version` is that of the history, read before the snapshot: the snapshot shows at least that much.
struct Taken {
    at: Instant,
    version: u64,
    /// The time until the next snapshot may be taken.
    pause: Duration,
}

/// The permit of one open page, one of [`MAX_STREAMS`].
struct Permit(Arc<Live>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Live {
    /// Counts one more page. `None` if [`MAX_STREAMS`] are open.
    fn permit(self: &Arc<Self>) -> Option<Permit> {
        let one_more = |streams| (streams < MAX_STREAMS).then_some(streams + 1);
        self.streams.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).ok()?;
        Some(Permit(self.clone()))
    }

    /// Returns the parts of a snapshot that has at least this version, and is at most a tick old.
    async fn parts(&self, routes: &StatusRoutes, version: u64) -> Result<Arc<Parts>, Error> {
        // A second stream waits here for the snapshot that the first one takes.
        let mut latest = self.latest.lock().await;
        if let Some(taken) = &latest.taken {
            if taken.version >= version && taken.at.elapsed() < TICK {
                return Ok(latest.parts.clone());
            }
            sleep(taken.pause.saturating_sub(taken.at.elapsed())).await;
        }
        let began = Instant::now();
        let snapshot = routes.registry()?.send(GetSnapshot).await??;
        latest.parts = Arc::new(parts(&snapshot, SystemTime::now()));
        let pause = (began.elapsed() * PAUSE_PER_COST).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
        latest.taken = Some(Taken { at: Instant::now(), version, pause });
        Ok(latest.parts.clone())
    }
}

/// The events for one page. `None` if too many pages are open.
pub(super) fn events(routes: Data<StatusRoutes>) -> Option<impl Stream<Item = Result<Bytes, Infallible>>> {
    let permit = routes.live().permit()?;
    let reader = Reader { permit, routes, progress: None, sent: None, last_sent: Instant::now(), has_ended: false };
    Some(stream::unfold(reader, |mut reader| async {
        let event = reader.next().await?;
        Some((Ok(event), reader))
    }))
}

/// One open page.
struct Reader {
    permit: Permit,
    routes: Data<StatusRoutes>,
    /// `None` before the first event.
    progress: Option<watch::Receiver<Progress>>,
    /// The parts that the page has.
    sent: Option<Arc<Parts>>,
    last_sent: Instant,
    has_ended: bool,
}

impl Reader {
    /// Returns the next event. `None` after the Registry's end, because an open stream would delay the server's
    /// graceful stop.
    async fn next(&mut self) -> Option<Bytes> {
        if self.has_ended {
            return None;
        }
        let event = match self.next_change().await {
            Ok(event) => event,
            Err(_) => {
                self.has_ended = true;
                "event: ended\ndata: {}\n\n".into()
            }
        };
        self.last_sent = Instant::now();
        Some(Bytes::from(event))
    }

    /// Returns the next event, or a comment if there is nothing to say for a while.
    async fn next_change(&mut self) -> Result<String, Error> {
        loop {
            let version = self.wait_for_progress().await?;
            let parts = self.permit.0.parts(&self.routes, version).await?;
            let before = self.sent.replace(parts.clone());
            if let Some(event) = change(before.as_deref(), &parts) {
                return Ok(event);
            }
            if self.last_sent.elapsed() >= KEEP_ALIVE {
                return Ok(": nothing new\n\n".into());
            }
        }
    }

    /// Returns the version that the next snapshot must have. Waits for a change, or for a tick, if the page already has
    /// a snapshot.
    async fn wait_for_progress(&mut self) -> Result<u64, Error> {
        let progress = match &mut self.progress {
            Some(progress) => {
                // After a change and after a tick, a snapshot is due.
                let _ = timeout(TICK, progress.changed()).await;
                progress
            }
            None => {
                let progress = self.routes.registry()?.send(WatchProgress).await??;
                self.progress.insert(progress)
            }
        };
        let Progress { version, has_ended } = *progress.borrow_and_update();
        if has_ended {
            return Err(Error::Stopped);
        }
        Ok(version)
    }
}

/// The event that brings the page from one state to another. `None` if the states are equal. Removed parts are null.
fn change(before: Option<&Parts>, now: &Parts) -> Option<String> {
    let is_new = |(key, part): &(&String, &Arc<str>)| before.and_then(|before| before.get(*key)) != Some(part);
    let new = now.iter().filter(is_new).map(|(key, part)| format!("{}:{part}", json!(key)));
    let gone = before.into_iter().flat_map(BTreeMap::keys).filter(|key| !now.contains_key(*key));
    let parts: Vec<String> = new.chain(gone.map(|key| format!("{}:null", json!(key)))).collect();
    if parts.is_empty() {
        return None;
    }
    let event = if before.is_some() { "change" } else { "all" };
    let now = unix_millis(SystemTime::now());
    // `serde_json` writes no line breaks, so the data fits in one line.
    Some(format!("event: {event}\ndata: {{\"now\":{now},\"parts\":{{{}}}}}\n\n", parts.join(",")))
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
    use super::*;

    fn state(parts: &[(&str, &str)]) -> Parts {
        parts.iter().map(|(key, part)| ((*key).to_owned(), Arc::from(*part))).collect()
    }

    #[test]
    fn an_event_has_what_is_new_and_what_is_gone_and_nothing_else() {
        let (before, now) =
            (state(&[("a", "1"), ("b", "2"), ("c\"", "3")]), state(&[("a", "1"), ("b", "4"), ("d", "5")]));
        let event = change(Some(&before), &now).unwrap();
        assert!(event.starts_with("event: change\ndata: {\"now\":"));
        assert!(event.ends_with(",\"parts\":{\"b\":4,\"d\":5,\"c\\\"\":null}}\n\n"), "{event}");
        assert_eq!(change(Some(&now), &now), None);
        assert!(change(None, &now).unwrap().starts_with("event: all\n"));
    }

    #[test]
    fn sixty_four_streams_may_be_open() {
        let live = Arc::new(Live::default());
        let mut open: Vec<_> = (0..MAX_STREAMS).map(|_| live.permit().unwrap()).collect();
        assert!(live.permit().is_none());
        open.pop();
        assert!(live.permit().is_some(), "a page was closed");
    }

    #[test]
    fn long_texts_are_shortened_between_characters_and_many_pairs_are_counted() {
        let mut metadata: Metadata = (0..20).map(|number| (format!("k{number:02}"), "v".into())).collect();
        metadata.insert("a".into(), "😀".repeat(200));
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
