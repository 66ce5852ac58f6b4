//! The Heartbeat actor: keeps one own instance alive.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use actix::{
    fut::ActorFutureExt, Actor, ActorContext, AsyncContext, Context, Handler, MailboxError, Message, Supervised,
    WeakRecipient, WrapFuture,
};
use actix_rt::time::Instant;
use serde::{Deserialize, Serialize};

use crate::{error::Error, grid::Grid, instance::InstanceKey};

/// As Nacos' clients have it (`Constants.DEFAULT_HEART_BEAT_INTERVAL`).
pub(crate) const DEFAULT_INTERVAL: Duration = Duration::from_secs(5);

/// A failed beat is sent again after this at the latest: several times before the instance would turn unhealthy.
const LONGEST_RETRY: Duration = Duration::from_secs(2);

/// What the server answered to a heartbeat.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct HeartbeatReply {
    /// The interval that the server wants between two beats, in milliseconds; 0 where it does not say.
    pub client_beat_interval: u64,
    /// 10200: taken. 20404: the instance is not registered here.
    pub code: i64,
    /// Whether the next beat may leave the values of the instance out.
    pub light_beat_enabled: bool,
    /// What else the server sent.
    #[serde(flatten)]
    pub extra: BTreeMap<String, serde_json::Value>,
}

impl HeartbeatReply {
    /// A beat that was taken, with nothing more to say.
    pub(crate) fn taken() -> Self {
        HeartbeatReply {
            client_beat_interval: 0,
            code: crate::nacos::v1::BEAT_TAKEN,
            light_beat_enabled: false,
            extra: BTreeMap::new(),
        }
    }

    /// Whether the server does not know the instance: it is to be registered again.
    pub fn is_unknown(&self) -> bool {
        self.code == crate::nacos::v1::BEAT_UNKNOWN
    }
}

/// Asks the Registry for one sign of life of an own instance. The Registry takes the values that are wanted now.
#[derive(Debug, Clone, PartialEq, Message)]
#[rtype(result = "Result<Beaten, Error>")]
pub(crate) struct Beat {
    pub(crate) key: Arc<InstanceKey>,
    pub(crate) kind: BeatKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BeatKind {
    /// With all values, for servers that know no other.
    Full,
    /// The key alone.
    Light,
    /// No beat: register again.
    Register,
}

/// What became of a [`Beat`].
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Beaten {
    /// The server took it.
    Taken(HeartbeatReply),
    /// The instance was registered again, because the beat asked for it or the server may have forgotten it.
    Registered,
    /// The server does not know the instance.
    Forgotten,
    /// Nobody wants the instance any more, or it is persistent: no more beats.
    NotWanted,
}

/// Ends a Heartbeat.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct StopBeating;

/// Sends a [`Beat`] at every interval, and obeys the answer. One per own ephemeral instance.
///
/// It begins with a random part of the interval, so that instances registered in one burst do not beat in one spike. It
/// ends on [`StopBeating`], when told that nobody wants the instance, and when the Registry, which it holds weakly, has
/// ended. It knows a recipient, not HTTP.
pub(crate) struct Heartbeat {
    key: Arc<InstanceKey>,
    registry: WeakRecipient<Beat>,
    interval: Duration,
    next: BeatKind,
    /// When the next beat is due; the timer is set for the grid point after it.
    due: Instant,
    grid: Grid,
}

impl Heartbeat {
    pub(crate) fn new(
        key: Arc<InstanceKey>,
        registry: WeakRecipient<Beat>,
        interval: Option<Duration>,
        grid: Grid,
    ) -> Self {
        let interval = interval.unwrap_or(DEFAULT_INTERVAL);
        let due = Instant::now() + interval.mul_f64(fastrand::f64());
        Heartbeat { key, registry, interval, next: BeatKind::Full, due, grid }
    }

    /// Begins at once, by registering.
    pub(crate) fn registering(mut self) -> Self {
        self.next = BeatKind::Register;
        self.due = Instant::now();
        self
    }

    fn arm(&mut self, ctx: &mut Context<Self>) {
        // Registering again is urgent, a beat is not.
        let interval = if self.next == BeatKind::Register { LONGEST_RETRY } else { self.interval };
        ctx.run_later(self.grid.wait_for(self.due, interval), Self::beat);
    }

    fn beat(&mut self, ctx: &mut Context<Self>) {
        let Some(registry) = self.registry.upgrade() else { return ctx.stop() };
        let beat = Beat { key: self.key.clone(), kind: self.next };
        let answered = registry.send(beat).into_actor(self).map(|answer, heartbeat, ctx| heartbeat.obey(answer, ctx));
        ctx.spawn(answered);
    }

    fn obey(&mut self, answer: Result<Result<Beaten, Error>, MailboxError>, ctx: &mut Context<Self>) {
        match answer {
            Ok(Ok(Beaten::Taken(reply))) => {
                self.next = if reply.light_beat_enabled { BeatKind::Light } else { BeatKind::Full };
                if reply.client_beat_interval > 0 {
                    self.interval = Duration::from_millis(reply.client_beat_interval);
                }
                self.due += self.interval;
            }
            Ok(Ok(Beaten::Registered)) => {
                self.next = if self.next == BeatKind::Register { BeatKind::Full } else { self.next };
                self.due += self.interval;
            }
            Ok(Ok(Beaten::Forgotten)) => {
                self.next = BeatKind::Register;
                return self.beat(ctx);
            }
            Ok(Ok(Beaten::NotWanted)) | Err(MailboxError::Closed) | Ok(Err(Error::Stopped)) => return ctx.stop(),
            // What the server knows is uncertain now: register instead of the next beat. Soon, unless it said that it will
            // not: a fleet that is refused asks no more often than one that is served.
            Ok(Err(error)) => {
                let wait = if error.is_retryable() { self.interval.min(LONGEST_RETRY) } else { self.interval };
                self.register_in(wait);
            }
            Err(MailboxError::Timeout) => self.register_in(self.interval.min(LONGEST_RETRY)),
        }
        self.due = self.due.max(Instant::now());
        self.arm(ctx);
    }
}

impl Heartbeat {
    fn register_in(&mut self, wait: Duration) {
        self.next = BeatKind::Register;
        self.due = Instant::now() + wait.mul_f64(0.5 + 0.5 * fastrand::f64());
    }
}

impl Actor for Heartbeat {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        self.arm(ctx);
    }
}

/// A restart has lost the timer, or the answer to a beat: `started` arms the one again, and the other is asked for again.
impl Supervised for Heartbeat {}

impl Handler<StopBeating> for Heartbeat {
    type Result = ();

    fn handle(&mut self, _: StopBeating, ctx: &mut Context<Self>) {
        ctx.stop();
    }
}

#[cfg(test)]
mod tests {
    use actix::Addr;
    use actix_rt::time::sleep;

    use super::*;
    use crate::{instance::Instance, service::ServiceName, supervise};

    /// Takes beats as the Registry does, and answers what it is told.
    struct Server {
        began: Instant,
        answers: Vec<Result<Beaten, Error>>,
        beats: Vec<(Duration, BeatKind)>,
    }

    impl Actor for Server {
        type Context = Context<Self>;
    }

    impl Handler<Beat> for Server {
        type Result = Result<Beaten, Error>;

        fn handle(&mut self, beat: Beat, _: &mut Context<Self>) -> Self::Result {
            self.beats.push((self.began.elapsed(), beat.kind));
            if self.answers.is_empty() {
                return taken(5000, true);
            }
            self.answers.remove(0)
        }
    }

    #[derive(Message)]
    #[rtype(result = "Vec<(Duration, BeatKind)>")]
    struct Beats;

    impl Handler<Beats> for Server {
        type Result = Vec<(Duration, BeatKind)>;

        fn handle(&mut self, _: Beats, _: &mut Context<Self>) -> Self::Result {
            self.beats.clone()
        }
    }

    fn taken(interval: u64, light: bool) -> Result<Beaten, Error> {
        Ok(Beaten::Taken(HeartbeatReply {
            client_beat_interval: interval,
            code: 10200,
            light_beat_enabled: light,
            extra: BTreeMap::new(),
        }))
    }

    fn key() -> Arc<InstanceKey> {
        Arc::new(InstanceKey::of(&ServiceName::parse("orders").unwrap(), &Instance::new("10.0.0.7", 80)))
    }

    fn begin(answers: Vec<Result<Beaten, Error>>) -> (Addr<Server>, Addr<Heartbeat>) {
        tokio::time::pause();
        let server = Server { began: Instant::now(), answers, beats: vec![] }.start();
        let registry = server.clone().downgrade().recipient();
        let heartbeat = Heartbeat::new(key(), registry, None, Grid::new());
        (server, supervise::start(heartbeat, 1, slog::Logger::root(slog::Discard, slog::o!())))
    }

    async fn beats_after(server: &Addr<Server>, time: Duration) -> Vec<(Duration, BeatKind)> {
        sleep(time).await;
        server.send(Beats).await.unwrap()
    }

    fn kinds(beats: &[(Duration, BeatKind)]) -> Vec<BeatKind> {
        beats.iter().map(|(_, kind)| *kind).collect()
    }

    #[actix::test]
    async fn beats_follow_the_interval_and_are_light_when_told() {
        let (server, _heartbeat) = begin(vec![]);
        let beats = beats_after(&server, Duration::from_secs(21)).await;
        assert!(beats[0].0 <= Duration::from_millis(5500), "{beats:?}");
        assert_eq!(kinds(&beats)[..3], [BeatKind::Full, BeatKind::Light, BeatKind::Light]);
        let gap = beats[2].0 - beats[1].0;
        assert!(gap >= Duration::from_millis(4990) && gap <= Duration::from_millis(5010), "{beats:?}");
    }

    #[actix::test]
    async fn the_servers_interval_is_obeyed() {
        let (server, _heartbeat) = begin(vec![taken(1000, true), taken(1000, true), taken(1000, true)]);
        let beats = beats_after(&server, Duration::from_secs(9)).await;
        assert!(beats[2].0 - beats[1].0 <= Duration::from_millis(1100), "{beats:?}");
    }

    #[actix::test]
    async fn registers_again_when_the_server_forgot_the_instance() {
        let (server, _heartbeat) = begin(vec![Ok(Beaten::Forgotten), Ok(Beaten::Registered)]);
        let beats = beats_after(&server, Duration::from_secs(11)).await;
        assert_eq!(kinds(&beats)[..3], [BeatKind::Full, BeatKind::Register, BeatKind::Full]);
        assert_eq!(beats[0].0, beats[1].0, "at once");
    }

    #[actix::test]
    async fn a_failed_beat_is_followed_by_registering_well_before_15_seconds() {
        let down = || {
            Err(Error::Unreachable {
                operation: crate::Operation::Beat,
                server: "a:1".into(),
                reason: "refused".into(),
            })
        };
        let (server, _heartbeat) = begin(vec![down(), down(), Ok(Beaten::Registered)]);
        let beats = beats_after(&server, Duration::from_secs(10)).await;
        assert_eq!(kinds(&beats)[..3], [BeatKind::Full, BeatKind::Register, BeatKind::Register]);
        assert!(beats[2].0 - beats[0].0 <= Duration::from_millis(4200), "{beats:?}");
    }

    #[actix::test]
    async fn a_beat_that_is_refused_for_good_is_not_repeated_faster_than_beats_are() {
        let refused = || {
            Err(Error::Unauthorized { operation: crate::Operation::Beat, server: "a:1".into(), reason: "no".into() })
        };
        let (server, _heartbeat) = begin((0..100).map(|_| refused()).collect());
        let beats = beats_after(&server, Duration::from_secs(60)).await;
        assert!(beats.len() >= 11 && beats.len() <= 25, "{beats:?}");
    }

    #[actix::test]
    async fn it_ends_when_nobody_wants_the_instance() {
        let (server, heartbeat) = begin(vec![Ok(Beaten::NotWanted)]);
        assert_eq!(beats_after(&server, Duration::from_secs(60)).await.len(), 1);
        assert!(!heartbeat.connected());
    }

    #[actix::test]
    async fn it_ends_when_told() {
        let (server, heartbeat) = begin(vec![]);
        heartbeat.send(StopBeating).await.unwrap();
        assert!(beats_after(&server, Duration::from_secs(20)).await.is_empty());
    }

    #[actix::test]
    async fn it_ends_when_the_registry_is_gone() {
        let (server, heartbeat) = begin(vec![]);
        drop(server);
        sleep(Duration::from_secs(10)).await;
        assert!(!heartbeat.connected());
    }

    #[actix::test]
    async fn instances_registered_in_one_burst_beat_on_common_grid_points_spread_over_the_interval() {
        tokio::time::pause();
        let grid = Grid::new();
        let server = Server { began: Instant::now(), answers: vec![], beats: vec![] }.start();
        let log = slog::Logger::root(slog::Discard, slog::o!());
        let start = |_| {
            let registry = server.clone().downgrade().recipient();
            supervise::start(Heartbeat::new(key(), registry, None, grid), 1, log.clone())
        };
        let _heartbeats: Vec<_> = (0..1000).map(start).collect();
        let mut times: Vec<_> = beats_after(&server, Duration::from_millis(5450)).await.iter().map(|b| b.0).collect();
        assert!(times.len() >= 1000, "each at least once");
        // tokio's timers have a resolution of a millisecond.
        assert!(times.iter().all(|time| time.as_millis() % 500 <= 1), "all on the grid");
        times.dedup_by_key(|time| time.as_millis() / 500);
        assert!(times.len() >= 10 && times.len() <= 11, "{} wake-ups", times.len());
    }
}
