//! The Heartbeat actor, which keeps one registered instance alive.
//!
//! | after | the next beat is due |
//! |---|---|
//! | a success | in its phase of the next interval |
//! | a first failure | after 0.75 to 3 s, or in its phase if that is sooner |
//! | each further failure | after 7.5 to 30 s, or in its phase if that is sooner |
//! | a rejection | in its phase |
//!
//! With the usual interval of 5 s, only the first failure is repeated before the next beat. So an outage does not
//! multiply the beats.

use std::{future::pending, rc::Rc, sync::Arc, time::Duration};

use actix::{
    fut::ActorFutureExt, Actor, ActorContext, AsyncContext, Context, Handler, MailboxError, Message, Supervised,
    WeakAddr, WeakRecipient, WrapFuture,
};
use actix_rt::time::{sleep, Instant};
use slog::Logger;
use tokio::sync::watch;

use super::phase::Phase;
use crate::{
    error::Error,
    model::{
        heartbeat::{HeartbeatReply, DEFAULT_INTERVAL},
        instance::InstanceKey,
    },
    runtime::{supervision, timer_grid::Grid},
};

/// The longest pause after the first failed beat.
const FIRST_RETRY: Duration = Duration::from_secs(3);
/// The longest pause after each further failed beat. Matters only for instances with a longer beat interval.
const LATER_RETRY: Duration = Duration::from_secs(30);

/// Asks the Registry to keep a registered instance alive. The Registry decides what to send: a beat, or a registration
/// with the values desired now.
///
/// The answer says whether the Heartbeat continues.
#[derive(Debug, Clone, PartialEq, Message)]
#[rtype(result = "Result<BeatOutcome, Error>")]
pub(crate) struct Beat {
    pub(crate) key: Arc<InstanceKey>,
    /// Whether to send the key without the values, because the server has said that it accepts such beats.
    pub(crate) light: bool,
    /// The time between two beats of this instance.
    pub(crate) interval: Duration,
    /// When the beat is due.
    pub(crate) due: Instant,
}

/// The outcome of a [`Beat`].
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum BeatOutcome {
    /// The server accepted the beat.
    Accepted(HeartbeatReply),
    /// The instance was registered again instead.
    Registered,
    /// The instance is not desired any more, or it is persistent. The Heartbeat ends.
    NotDesired,
}

/// Ends a Heartbeat.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct StopBeating;

/// What all Heartbeats of one Registry share.
pub(crate) struct HeartbeatSettings {
    /// The Registry. Weak, so that Heartbeats do not keep it alive.
    pub(crate) registry: WeakRecipient<Beat>,
    pub(crate) grid: Grid,
    pub(crate) log: Rc<Logger>,
    phase: watch::Receiver<Phase>,
}

impl HeartbeatSettings {
    pub(crate) fn new(
        registry: WeakRecipient<Beat>,
        grid: Grid,
        phase: watch::Receiver<Phase>,
        log: Logger,
    ) -> Rc<Self> {
        Rc::new(HeartbeatSettings { registry, grid, phase, log: log.into() })
    }

    /// Whether the Registry is shutting down, and will end all Heartbeats.
    fn is_closing(&self) -> bool {
        matches!(*self.phase.borrow(), Phase::Closing | Phase::Offline)
    }
}

/// Sends a [`Beat`] to the Registry once per interval, and follows the interval in the answers. There is one for each
/// registered ephemeral instance, for each persistent instance that waits to be registered, and for each leftover that
/// waits to be deregistered.
///
/// All beats of an instance are due at the same random part of the interval, its phase. So instances that are
/// registered together, or that come back together after an outage, do not beat together. Only a failed beat is
/// repeated sooner.
///
/// The Heartbeat ends on [`StopBeating`], on the answer [`BeatOutcome::NotDesired`], and with the first beat after the
/// Registry has ended. It needs no address to live, because it always waits for something: a timer, an answer, or the
/// end of a shutdown. During a shutdown only [`StopBeating`] ends it, so whoever forgets a Heartbeat has to send it.
///
/// There may be 100,000 of these, and tokio rounds the memory of a task up to a multiple of 128 bytes. With these fields
/// it is 512 bytes.
pub(crate) struct Heartbeat {
    key: Arc<InstanceKey>,
    settings: Rc<HeartbeatSettings>,
    interval_ms: u32,
    /// The interval in the instance's metadata. A longer one would not fit its timeouts on the server.
    longest_interval_ms: u32,
    light: bool,
    /// The part of the interval at which the beats are due, from 0 to 1.
    phase: f64,
    /// Failed beats since the last success.
    failures: u32,
    /// When the next beat is due. The timer fires at the grid point after that.
    due: Instant,
}

impl Heartbeat {
    /// `interval` is the one in the instance's metadata. Intervals are limited to `u32::MAX` ms, about 49 days.
    pub(crate) fn new(key: Arc<InstanceKey>, interval: Option<Duration>, settings: Rc<HeartbeatSettings>) -> Self {
        let millis = |interval: Duration| u32::try_from(interval.as_millis()).unwrap_or(u32::MAX);
        let (interval_ms, phase) = (millis(interval.unwrap_or(DEFAULT_INTERVAL)), fastrand::f64());
        let mut heartbeat = Heartbeat {
            key,
            settings,
            interval_ms,
            longest_interval_ms: interval.map_or(u32::MAX, millis),
            light: false,
            phase,
            failures: 0,
            due: Instant::now(),
        };
        heartbeat.due = heartbeat.next_in_phase();
        heartbeat
    }

    /// Starts the actor. The address is weak to save memory: actix takes 96 bytes for each strong one.
    pub(crate) fn start_supervised(self) -> WeakAddr<Self> {
        let log = self.settings.log.clone();
        supervision::start(self, 1, log).downgrade()
    }

    fn interval(&self) -> Duration {
        Duration::from_millis(self.interval_ms.into())
    }

    /// Sends the first beat at once instead of in its phase.
    pub(crate) fn at_once(mut self) -> Self {
        self.due = Instant::now();
        self
    }

    /// Arms the timer for the due time, rounded up to the grid.
    fn arm(&mut self, ctx: &mut Context<Self>) {
        // A beat in its phase may wait for the coarse grid. A repeated beat is urgent.
        let interval = if self.failures > 0 { FIRST_RETRY.min(self.interval()) } else { self.interval() };
        let wait = sleep(self.settings.grid.wait_for(self.due, interval));
        // Takes 16 bytes less than `run_later`, which keeps a boxed function.
        ctx.spawn(wait.into_actor(self).map(|(), heartbeat, ctx| heartbeat.beat(ctx)));
    }

    /// Sends the beat and waits for its answer. No timer is armed meanwhile, so there is one beat under way at
    /// most.
    fn beat(&mut self, ctx: &mut Context<Self>) {
        if self.settings.is_closing() {
            return self.rest(ctx);
        }
        let Some(registry) = self.settings.registry.upgrade() else { return ctx.stop() };
        let beat = Beat { key: self.key.clone(), light: self.light, interval: self.interval(), due: self.due };
        let answered =
            registry.send(beat).into_actor(self).map(|answer, heartbeat, ctx| heartbeat.handle_answer(answer, ctx));
        ctx.spawn(answered);
    }

    /// Waits for [`StopBeating`], which comes after the last request of the shutdown. To end some Heartbeats between the
    /// requests would delay them.
    fn rest(&self, ctx: &mut Context<Self>) {
        ctx.spawn(pending().into_actor(self));
    }

    fn handle_answer(&mut self, answer: Result<Result<BeatOutcome, Error>, MailboxError>, ctx: &mut Context<Self>) {
        match answer.map_err(Error::from).and_then(|answer| answer) {
            Err(Error::Stopped) if self.settings.is_closing() => return self.rest(ctx),
            Ok(BeatOutcome::NotDesired) | Err(Error::Stopped) => return ctx.stop(),
            Ok(BeatOutcome::Accepted(reply)) => {
                self.light = reply.light_beat_enabled;
                if reply.client_beat_interval > 0 {
                    // Some servers answer their default interval, whatever interval the instance was registered with.
                    let asked_for = u32::try_from(reply.client_beat_interval).unwrap_or(u32::MAX);
                    self.interval_ms = asked_for.min(self.longest_interval_ms);
                }
                self.succeeded();
            }
            Ok(BeatOutcome::Registered) => self.succeeded(),
            Err(error) => self.failed(&error),
        }
        self.arm(ctx);
    }

    fn succeeded(&mut self) {
        self.failures = 0;
        self.due = self.next_in_phase();
    }

    fn next_in_phase(&self) -> Instant {
        // The moment that has just been served must not be found again.
        self.settings.grid.next_in_phase(self.phase, self.interval(), self.due.max(Instant::now()))
    }

    /// Repeats a failed beat after a random pause, so that thousands of instances that fail together do not come back
    /// together. A rejected beat is not repeated before the next one is due.
    fn failed(&mut self, error: &Error) {
        self.failures += 1;
        self.due = self.next_in_phase();
        if error.is_retryable() {
            let pause = if self.failures == 1 { FIRST_RETRY } else { LATER_RETRY };
            self.due = self.due.min(Instant::now() + pause.mul_f64(0.25 + 0.75 * fastrand::f64()));
        }
    }
}

impl Actor for Heartbeat {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        if self.due <= Instant::now() {
            self.beat(ctx);
        } else {
            self.arm(ctx);
        }
    }
}

/// A restart loses the timer and the answer to a beat under way; `started` sets the timer again.
impl Supervised for Heartbeat {}

impl Handler<StopBeating> for Heartbeat {
    type Result = ();

    fn handle(&mut self, _: StopBeating, ctx: &mut Context<Self>) {
        ctx.stop();
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use actix::Addr;

    use super::*;
    use crate::model::{instance::Instance, service::ServiceName};

    /// Receives beats like the Registry, and gives prepared answers.
    struct Server {
        began: Instant,
        answers: Vec<Result<BeatOutcome, Error>>,
        /// Fails every beat in this time, in seconds since the start.
        down: Range<u64>,
        beats: Vec<(Duration, bool)>,
    }

    impl Actor for Server {
        type Context = Context<Self>;
    }

    impl Handler<Beat> for Server {
        type Result = Result<BeatOutcome, Error>;

        fn handle(&mut self, beat: Beat, _: &mut Context<Self>) -> Self::Result {
            let time = self.began.elapsed();
            if self.down.contains(&time.as_secs()) {
                return down();
            }
            self.beats.push((time, beat.light));
            if self.answers.is_empty() {
                return taken(5000, true);
            }
            self.answers.remove(0)
        }
    }

    #[derive(Message)]
    #[rtype(result = "Vec<(Duration, bool)>")]
    struct Beats;

    impl Handler<Beats> for Server {
        type Result = Vec<(Duration, bool)>;

        fn handle(&mut self, _: Beats, _: &mut Context<Self>) -> Self::Result {
            self.beats.clone()
        }
    }

    fn taken(interval: u64, light: bool) -> Result<BeatOutcome, Error> {
        Ok(BeatOutcome::Accepted(HeartbeatReply {
            client_beat_interval: interval,
            code: 10200,
            light_beat_enabled: light,
            extra: std::collections::BTreeMap::new(),
        }))
    }

    fn down() -> Result<BeatOutcome, Error> {
        let (operation, server) = (crate::error::Operation::Beat, "a:1".into());
        Err(Error::Unreachable { operation, server, reason: "refused".into() })
    }

    fn key() -> Arc<InstanceKey> {
        Arc::new(InstanceKey::of(&ServiceName::parse("orders").unwrap(), &Instance::new("127.0.0.7", 80)))
    }

    /// Pauses the clock, and makes random numbers the same in every run.
    fn prepare() {
        tokio::time::pause();
        fastrand::seed(1);
    }

    fn server(answers: Vec<Result<BeatOutcome, Error>>, down: Range<u64>) -> Addr<Server> {
        Server { began: Instant::now(), answers, down, beats: vec![] }.start()
    }

    fn settings(server: &Addr<Server>) -> Rc<HeartbeatSettings> {
        settings_in(watch::channel(Phase::Serving).1, server)
    }

    fn settings_in(phase: watch::Receiver<Phase>, server: &Addr<Server>) -> Rc<HeartbeatSettings> {
        let registry = server.clone().downgrade().recipient();
        HeartbeatSettings::new(registry, Grid::new(), phase, Logger::root(slog::Discard, slog::o!()))
    }

    fn begin(answers: Vec<Result<BeatOutcome, Error>>) -> (Addr<Server>, WeakAddr<Heartbeat>) {
        prepare();
        let server = server(answers, 0..0);
        let heartbeat = Heartbeat::new(key(), None, settings(&server)).start_supervised();
        (server, heartbeat)
    }

    /// Starts 1,000 Heartbeats on one grid.
    fn start_many(server: &Addr<Server>, change: fn(Heartbeat) -> Heartbeat) {
        let settings = settings(server);
        (0..1000).for_each(|_| drop(change(Heartbeat::new(key(), None, settings.clone())).start_supervised()));
    }

    /// Whether the actor has not ended.
    fn is_alive(heartbeat: &WeakAddr<Heartbeat>) -> bool {
        heartbeat.upgrade().is_some_and(|heartbeat| heartbeat.connected())
    }

    async fn beats_after(server: &Addr<Server>, time: Duration) -> Vec<(Duration, bool)> {
        sleep(time).await;
        server.send(Beats).await.unwrap()
    }

    #[actix::test]
    async fn beats_follow_the_interval_and_are_light_when_the_server_accepts_that() {
        let (server, _heartbeat) = begin(vec![]);
        let beats = beats_after(&server, Duration::from_secs(21)).await;
        assert!(beats[0].0 <= Duration::from_millis(5500), "{beats:?}");
        assert_eq!(beats.iter().map(|(_, light)| *light).collect::<Vec<_>>()[..3], [false, true, true]);
        let gap = beats[2].0 - beats[1].0;
        assert!(gap >= Duration::from_millis(4990) && gap <= Duration::from_millis(5010), "{beats:?}");
    }

    #[actix::test]
    async fn the_interval_of_the_server_is_used() {
        let (server, _heartbeat) = begin(vec![taken(1000, true), taken(1000, true), taken(1000, true)]);
        let beats = beats_after(&server, Duration::from_secs(9)).await;
        assert!(beats[2].0 - beats[1].0 <= Duration::from_millis(1100), "{beats:?}");
    }

    #[actix::test]
    async fn a_server_does_not_lengthen_the_interval_that_the_instance_demands() {
        prepare();
        for (answered, gap) in [(5000, 1000), (600, 600)] {
            let server = server((0..100).map(|_| taken(answered, true)).collect(), 0..0);
            Heartbeat::new(key(), Some(Duration::from_secs(1)), settings(&server)).start_supervised();
            let beats = beats_after(&server, Duration::from_secs(10)).await;
            let gaps: Vec<_> = beats[1..].windows(2).map(|pair| (pair[1].0 - pair[0].0).as_millis()).collect();
            assert!(gaps.len() >= 6 && gaps.iter().all(|found| found.abs_diff(gap) <= 110), "{answered}: {gaps:?}");
        }
    }

    #[test]
    #[cfg(target_pointer_width = "64")]
    fn a_heartbeat_is_a_task_of_512_bytes() {
        // tokio's own fields take 104 bytes.
        assert!(size_of::<supervision::Supervise<Heartbeat>>() <= 512 - 104);
    }

    #[actix::test]
    async fn the_longest_interval_does_not_overflow() {
        let (server, heartbeat) = begin(vec![taken(u64::MAX, true)]);
        assert_eq!(beats_after(&server, Duration::from_secs(60)).await.len(), 1);
        assert!(is_alive(&heartbeat));
    }

    #[actix::test]
    async fn failed_beats_are_repeated_several_times_within_15_seconds() {
        let (server, _heartbeat) = begin((0..4).map(|_| down()).collect());
        let beats = beats_after(&server, Duration::from_secs(25)).await;
        assert!(beats[1].0 - beats[0].0 <= Duration::from_millis(3100), "{beats:?}");
        assert!(beats[3].0 - beats[0].0 <= Duration::from_millis(10_100), "{beats:?}");
    }

    #[actix::test]
    async fn a_rejected_beat_is_not_repeated_before_the_next_beat_is_due() {
        let rejected = || {
            Err(Error::Unauthorized {
                operation: crate::error::Operation::Beat,
                server: "a:1".into(),
                reason: "no".into(),
            })
        };
        let (server, _heartbeat) = begin((0..100).map(|_| rejected()).collect());
        let beats = beats_after(&server, Duration::from_secs(60)).await;
        assert!(beats.len() >= 11 && beats.len() <= 13, "{beats:?}");
    }

    #[actix::test]
    async fn it_ends_when_the_instance_is_not_desired() {
        let (server, heartbeat) = begin(vec![Ok(BeatOutcome::NotDesired)]);
        assert_eq!(beats_after(&server, Duration::from_secs(60)).await.len(), 1);
        assert!(!is_alive(&heartbeat));
    }

    #[actix::test]
    async fn it_ends_when_stopped() {
        let (server, heartbeat) = begin(vec![]);
        heartbeat.upgrade().unwrap().send(StopBeating).await.unwrap();
        assert!(beats_after(&server, Duration::from_secs(20)).await.is_empty());
    }

    #[actix::test]
    async fn it_lives_and_sends_nothing_while_the_registry_goes_offline() {
        prepare();
        for phase in [Phase::Closing, Phase::Offline] {
            let server = server(vec![], 0..0);
            let (phase_tx, phase_rx) = watch::channel(Phase::Serving);
            let heartbeat = Heartbeat::new(key(), None, settings_in(phase_rx, &server)).start_supervised();
            phase_tx.send_replace(phase);
            assert!(beats_after(&server, Duration::from_secs(20)).await.is_empty());
            assert!(is_alive(&heartbeat));
            heartbeat.upgrade().unwrap().send(StopBeating).await.unwrap();
            assert!(!is_alive(&heartbeat));
        }
    }

    /// A Registry that reaches a phase while a beat is under way, and abandons the beat.
    struct AbandonsBeats(watch::Sender<Phase>, Phase);

    impl Actor for AbandonsBeats {
        type Context = Context<Self>;
    }

    impl Handler<Beat> for AbandonsBeats {
        type Result = Result<BeatOutcome, Error>;

        fn handle(&mut self, _: Beat, _: &mut Context<Self>) -> Self::Result {
            self.0.send_replace(self.1);
            Err(Error::Stopped)
        }
    }

    #[actix::test]
    async fn it_ends_only_after_the_shutdown_that_abandoned_its_beat() {
        prepare();
        for (phase, lives) in [(Phase::Closing, true), (Phase::Offline, true), (Phase::Ended, false)] {
            let (phase_tx, phase_rx) = watch::channel(Phase::Serving);
            let registry = AbandonsBeats(phase_tx, phase).start();
            let log = Logger::root(slog::Discard, slog::o!());
            let settings = HeartbeatSettings::new(registry.downgrade().recipient(), Grid::new(), phase_rx.clone(), log);
            let heartbeat = Heartbeat::new(key(), None, settings).start_supervised();
            sleep(Duration::from_secs(20)).await;
            assert_eq!((*phase_rx.borrow(), is_alive(&heartbeat)), (phase, lives));
        }
    }

    #[actix::test]
    async fn it_ends_when_the_registry_is_gone() {
        let (server, heartbeat) = begin(vec![]);
        drop(server);
        sleep(Duration::from_secs(10)).await;
        assert!(!is_alive(&heartbeat));
    }

    #[actix::test]
    async fn instances_registered_in_one_burst_beat_on_common_grid_points_spread_over_the_interval() {
        prepare();
        let server = server(vec![], 0..0);
        start_many(&server, |heartbeat| heartbeat);
        let mut times: Vec<_> = beats_after(&server, Duration::from_millis(5450)).await.iter().map(|b| b.0).collect();
        assert!(times.len() >= 1000, "each at least once");
        // tokio's timers have a resolution of a millisecond.
        assert!(times.iter().all(|time| time.as_millis() % 500 <= 1), "all on the grid");
        times.dedup_by_key(|time| time.as_millis() / 500);
        assert!(times.len() >= 10 && times.len() <= 11, "{} wake-ups", times.len());
    }

    /// The most beats in half a second of `times`, as a multiple of what 1,000 instances send on average.
    fn peak(beats: &[(Duration, bool)], times: Range<u64>) -> f64 {
        let mut counts = vec![0.0; times.end as usize * 2];
        let of_interest = beats.iter().filter(|(time, _)| times.contains(&time.as_secs()));
        of_interest.for_each(|(time, _)| counts[time.as_millis() as usize / 500] += 1.0);
        counts.into_iter().fold(0.0, f64::max) / 100.0
    }

    #[actix::test]
    async fn a_thousand_instances_come_back_from_an_outage_spread_over_the_interval() {
        prepare();
        for outage in [30..31, 30..32, 30..33, 30..40, 30..90] {
            let server = server(vec![], outage.clone());
            start_many(&server, |heartbeat| heartbeat);
            let beats = beats_after(&server, Duration::from_secs(120)).await;
            let peak = peak(&beats, outage.end..120);
            assert!(peak <= 2.5, "{peak} after an outage of {outage:?}");
        }
    }

    #[actix::test]
    async fn repeated_outages_do_not_synchronise_the_beats() {
        prepare();
        for (first, second) in [(30, 50), (30, 42)] {
            let server = server(vec![], first..second);
            start_many(&server, |heartbeat| heartbeat);
            sleep(Duration::from_secs(second + 2)).await;
            server.send(Fail(second + 2..second + 5)).await.unwrap();
            let beats = beats_after(&server, Duration::from_secs(60)).await;
            let peak = peak(&beats, second + 5..second + 60);
            assert!(peak <= 2.5, "{peak}");
        }
    }

    #[derive(Message)]
    #[rtype(result = "()")]
    struct Fail(Range<u64>);

    impl Handler<Fail> for Server {
        type Result = ();

        fn handle(&mut self, Fail(time): Fail, _: &mut Context<Self>) {
            self.down = time;
        }
    }

    #[actix::test]
    async fn a_thousand_instances_that_waited_for_the_server_beat_spread_over_the_interval() {
        prepare();
        let server = server(vec![], 0..20);
        start_many(&server, Heartbeat::at_once);
        let beats = beats_after(&server, Duration::from_secs(60)).await;
        assert!(beats.iter().filter(|(time, _)| time.as_secs() < 26).count() >= 1000, "each is registered");
        let peak = peak(&beats, 20..60);
        assert!(peak <= 2.5, "{peak}");
    }
}
