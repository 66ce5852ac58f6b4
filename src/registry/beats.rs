//! Heartbeats: the `SendHeartbeat` messages of an application, the beats of the Heartbeat actors, and the registrations
//! that are sent instead of a beat.
//!
//! What is sent when a beat is due:
//!
//! | the instance | what is sent |
//! |---|---|
//! | was deregistered, and a server may still have it | a deregistration |
//! | no server has accepted it in this epoch, or it was silent for the delete timeout | a registration |
//! | a change of it failed, and may have been applied | a registration with the values before the change |
//! | any other | a beat; "unknown instance" is followed by a registration |
//!
//! Invariant: a beat reads the desired state after its turn has come, so it never registers an instance that was
//! deregistered before.

use std::{pin::pin, sync::Arc};

use actix::{Context, Handler, Message, ResponseFuture};
use slog::{debug, info, warn};
use tokio::sync::SemaphorePermit;

use super::{
    actor::Registry,
    desired::DesiredInstance,
    heartbeat::{Beat, BeatOutcome, Heartbeat},
    instances::as_sent,
    phase::Phase,
    shared::Shared,
    target::{target_conversions, target_setters, Target},
    values::{initial_values, value_setters},
};
use crate::{
    client::Patience,
    error::{Error, Operation},
    model::{
        heartbeat::HeartbeatReply,
        instance::{Instance, InstanceKey},
        instance_state::InstanceState,
        service::ServiceRef,
    },
    runtime::history::RegistryEventKind,
};

/// Sends one heartbeat. A server that does not know the instance registers it.
///
/// An instance that [`RegisterInstance`](super::RegisterInstance) registered sends its heartbeats by itself and does
/// not need this message. If it is sent all the same, it carries the values with which the instance was registered.
///
/// ```
/// # use actix_nacos::{embedded::EmbeddedServer, prelude::*};
/// # #[actix::main]
/// # async fn main() -> Result<(), Error> {
/// # let server = EmbeddedServer::start().unwrap();
/// # let registry = Registry::start(Config::new(server.server_address()))?;
/// let reply = registry.send(SendHeartbeat::new("orders", "127.0.0.7", 8080).weight(2.0)).await??;
/// assert_eq!(reply.client_beat_interval, 5000); // milliseconds until the next one
/// # Ok(())
/// # }
/// ```
///
/// Use it for instances that another process supervises, or where the application decides whether the instance is
/// alive. The application has to send it in time: every [`client_beat_interval`](HeartbeatReply::client_beat_interval)
/// milliseconds, or every 5 s if that is 0. Without beats Nacos marks an instance as unhealthy after 15 s and removes
/// it after 30 s.
///
/// # Errors
/// - [`Error::InvalidInput`] if a value is invalid, and for a persistent instance, which has no heartbeats. Correct the
///   field that the error names.
/// - Any other error names the server and the reason. If [`is_retryable`](Error::is_retryable) is true, send the
///   message again.
#[derive(Debug, Clone, PartialEq, Message)]
#[rtype(result = "Result<HeartbeatReply, Error>")]
pub struct SendHeartbeat {
    target: Target,
    values: Instance,
}

impl SendHeartbeat {
    /// Sends a heartbeat for `ip:port` of `service`, which may be written `GROUP@@service`.
    pub fn new(service: impl Into<ServiceRef>, ip: impl Into<String>, port: u16) -> Self {
        Self::of(Target::new(service, ip, port), None)
    }

    fn of(target: Target, values: Option<Instance>) -> Self {
        SendHeartbeat { target, values: initial_values(values) }
    }

    target_setters!();

    value_setters! {
        /// Sets the weight, from 0 to 10,000, of an instance that the server does not know yet. Default: 1.
        weight;
        /// Adds one metadata entry for an instance that the server does not know yet. [`Metadata`](crate::Metadata)
        /// names the limits. Default: no metadata.
        metadata;
        /// Sets all metadata for an instance that the server does not know yet, and discards what was set before.
        /// Default: no metadata.
        all_metadata;
        /// Removes one metadata entry that was set before, or that a converted [`Instance`] has.
        without_metadata;
        /// Sets whether the instance is ephemeral. Default: true. A persistent instance has no heartbeats: the message
        /// is answered with [`Error::InvalidInput`].
        ephemeral;
    }

    fn resolve(self) -> Result<(Arc<InstanceKey>, Instance), Error> {
        if !self.values.ephemeral {
            let reason = "a persistent instance has no heartbeats, the server checks its health";
            return Err(Error::invalid("ephemeral", reason));
        }
        self.target.with_values(self.values)
    }
}

target_conversions!(SendHeartbeat);

impl Handler<SendHeartbeat> for Registry {
    type Result = ResponseFuture<Result<HeartbeatReply, Error>>;

    fn handle(&mut self, message: SendHeartbeat, _: &mut Context<Self>) -> Self::Result {
        self.dispatch(Operation::Beat, |shared| {
            let taken = message.resolve().map(|(key, instance)| (shared.desired.queue_change(&key), key, instance));
            async move {
                let (mut turn, key, instance) = taken?;
                turn.come().await;
                let desired = shared.desired.get(&key, |desired| desired.instance.clone());
                if desired.as_ref().is_some_and(|desired| !desired.ephemeral) {
                    let reason = "the instance is registered as persistent and has no heartbeats";
                    return Err(Error::invalid("ephemeral", reason));
                }
                // The caller keeps the instance alive, so it must not be deregistered in the background.
                shared.desired.forget_leftover(&key);
                shared.beat_by_hand(&key, desired.as_ref().unwrap_or(&instance)).await
            }
        })
    }
}

impl Shared {
    /// A v1 server registers an unknown instance from the beat. A v3 beat has no values, so registering takes a second
    /// request.
    async fn beat_by_hand(&self, key: &Arc<InstanceKey>, instance: &Instance) -> Result<HeartbeatReply, Error> {
        let patience = self.nacos.patience();
        let reply = self.nacos.beat(key, Some(instance), patience).await?;
        if !reply.is_unknown() {
            self.recent_writes.registered(key, || as_sent(instance));
            return Ok(reply);
        }
        let epoch = self.nacos.register(&key.service, instance, patience).await?;
        self.recent_writes.registered(key, || as_sent(instance));
        self.note(key, |desired| desired.registered(epoch));
        Ok(HeartbeatReply::taken())
    }
}

impl Beat {
    /// The values to send. `None` for a light beat.
    fn values_of(&self, desired: &DesiredInstance) -> Option<Instance> {
        (!self.light).then(|| desired.instance.clone())
    }
}

/// Handles the beats of the Heartbeat actors. Sends a beat only if the instance is still desired, with the values
/// desired now.
impl Handler<Beat> for Registry {
    type Result = ResponseFuture<Result<BeatOutcome, Error>>;

    fn handle(&mut self, beat: Beat, _: &mut Context<Self>) -> Self::Result {
        let shared = self.shared.clone();
        // Thousands of beats fall due together. What a beat needs is allocated only when it has a permit, so that
        // waiting beats are small and memory is reused.
        Box::pin(async move {
            let permit = shared.beat_permit().await;
            if shared.has_reached(Phase::Closing) {
                return Err(Error::Stopped);
            }
            shared.heartbeat_lateness.count(beat.due.elapsed());
            let outcome = Box::pin(async {
                shared.catch_panics(Operation::Beat, Phase::Offline, pin!(shared.beat_in_turn(&beat, permit))).await
            })
            .await;
            if matches!(outcome, Ok(BeatOutcome::Accepted(_))) {
                shared.check_on_r_nacos(&beat.key);
            }
            outcome
        })
    }
}

impl Shared {
    /// Waits until another beat may be sent. `None` cannot happen: the semaphore is never closed.
    async fn beat_permit(&self) -> Option<SemaphorePermit<'_>> {
        self.beat_permits.acquire().await.ok()
    }

    /// Waits for the instance's turn, unless the turns before it leave the instance registered.
    async fn beat_in_turn<'a>(
        &'a self,
        beat: &Beat,
        mut permit: Option<SemaphorePermit<'a>>,
    ) -> Result<BeatOutcome, Error> {
        let mut turn = self.desired.queue(&beat.key);
        let outcome = if turn.is_behind_changes_only() && self.needs_a_beat(&beat.key) {
            self.beat_past_changes(beat).await
        } else {
            if turn.is_behind_others() {
                // The turns before this one may take long. Let other instances beat meanwhile.
                drop(permit);
                turn.come().await;
                permit = self.beat_permit().await;
            }
            self.beat(beat).await
        };
        drop(permit);
        if let Err(error) = &outcome {
            self.note(&beat.key, |desired| desired.failed(error));
        }
        outcome
    }

    /// Whether the instance needs a beat, and not a registration.
    fn needs_a_beat(&self, key: &Arc<InstanceKey>) -> bool {
        let epoch = self.nacos.epoch();
        let is_known = |desired: &DesiredInstance| desired.instance.ephemeral && desired.to_register(epoch).is_none();
        self.desired.get(key, is_known).unwrap_or(false)
    }

    /// Sends a beat while the instance is being changed, because a change may last as long as an operation may. The
    /// beat of an instance that the server knows changes nothing.
    async fn beat_past_changes(&self, beat: &Beat) -> Result<BeatOutcome, Error> {
        let Some(values) = self.desired.get(&beat.key, |desired| beat.values_of(desired)) else {
            return Ok(BeatOutcome::NotDesired);
        };
        let reply = self.nacos.beat(&beat.key, values.as_ref(), Patience::Round).await?;
        if reply.is_unknown() {
            // The change or the next beat registers the instance. Now the values are about to change.
            self.note(&beat.key, DesiredInstance::forgotten);
        } else {
            self.note(&beat.key, DesiredInstance::beat_accepted);
        }
        Ok(BeatOutcome::Accepted(reply))
    }

    /// Sends what the instance needs now: a registration if the server may not have the desired values, otherwise a
    /// beat.
    async fn beat(&self, beat: &Beat) -> Result<BeatOutcome, Error> {
        let deregistered = self.deregister_leftover(&beat.key).await;
        let epoch = self.nacos.epoch();
        let state = |desired: &DesiredInstance| {
            let to_register = desired.to_register(epoch).cloned();
            (to_register, desired.instance.ephemeral, beat.values_of(desired), desired.is_late())
        };
        let Some((to_register, ephemeral, values, was_late)) = self.desired.get(&beat.key, state) else {
            return deregistered.map(|()| BeatOutcome::NotDesired);
        };
        if let Some(values) = to_register {
            let registered = self.register_again(&beat.key, &values).await?;
            self.keep_in_use(&beat.key, &values, epoch).await;
            return Ok(registered);
        }
        if !ephemeral {
            // The instance was registered as persistent while this beat waited.
            return Ok(self.end_heartbeat(&beat.key));
        }
        let reply = self.nacos.beat(&beat.key, values.as_ref(), Patience::Round).await?;
        if reply.is_unknown() {
            return self.register_forgotten(beat, epoch, was_late).await;
        }
        self.note(&beat.key, DesiredInstance::beat_accepted);
        // The beat itself may have shown that the server restarted. On r-nacos a light beat brings an instance back
        // without its weight and metadata.
        if self.nacos.epoch() != epoch {
            self.register_desired(&beat.key).await?;
        }
        Ok(BeatOutcome::Accepted(reply))
    }

    /// Sends a beat as well if another server has taken the registration that was sent in `epoch`. The server in use may
    /// have the instance with earlier values, and would remove it without beats. A full beat has the values, so that it
    /// brings back no instance without them.
    async fn keep_in_use(&self, key: &Arc<InstanceKey>, values: &Instance, epoch: u64) {
        let is_missing = self.desired.get(key, |desired| desired.to_register(epoch).is_some()).unwrap_or(false);
        if is_missing && values.ephemeral && self.nacos.epoch() == epoch {
            // The next registration shows whatever this beat would.
            let _ = self.nacos.beat(key, Some(values), Patience::Round).await;
        }
    }

    /// Registers an instance again whose beat, sent in `epoch`, was answered "unknown instance".
    async fn register_forgotten(&self, beat: &Beat, epoch: u64, was_late: bool) -> Result<BeatOutcome, Error> {
        self.note(&beat.key, DesiredInstance::forgotten);
        // If a new epoch has begun meanwhile, it explains the answer: the server was changed or restarted.
        if self.nacos.epoch() == epoch {
            self.nacos.note_unknown(was_late, beat.interval);
        }
        self.register_desired(&beat.key).await
    }

    /// Registers the instance again with the desired values.
    async fn register_desired(&self, key: &Arc<InstanceKey>) -> Result<BeatOutcome, Error> {
        match self.desired.get(key, |desired| desired.instance.clone()) {
            Some(values) => self.register_again(key, &values).await,
            None => Ok(BeatOutcome::NotDesired),
        }
    }

    /// Deregisters the leftover of an instance, if there is one. After an error the caller has to repeat this.
    async fn deregister_leftover(&self, key: &Arc<InstanceKey>) -> Result<(), Error> {
        let leftover = self.desired.leftover(key, |left| left.heartbeat.is_some().then_some(left.ephemeral)).flatten();
        let Some(ephemeral) = leftover else { return Ok(()) };
        match self.nacos.deregister(key, ephemeral, Patience::Round).await {
            Err(error) if error.is_retryable() => return Err(error),
            Err(error) => {
                warn!(self.log, "failed to deregister instance"; "instance" => %key, "error" => %error);
                // The server rejects the request, so repeating is useless now. A shutdown tries once more.
                self.desired.leftover(key, |leftover| leftover.stop());
            }
            Ok(()) => {
                self.desired.forget_leftover(key);
                // On some servers the request also removes the desired instance: they do not distinguish an ephemeral
                // and a persistent instance with the same address.
                self.restore(key, self.desired.get(key, |desired| desired.instance.clone()));
                info!(self.log, "deregistered instance in background"; "instance" => %key);
            }
        }
        Ok(())
    }

    /// Registers the instance in place of a beat.
    pub(super) async fn register_again(&self, key: &Arc<InstanceKey>, values: &Instance) -> Result<BeatOutcome, Error> {
        let epoch = self.nacos.register(&key.service, values, Patience::Round).await?;
        debug!(self.log, "registered instance instead of heartbeat"; "instance" => %key);
        if self.desired.get(key, |desired| desired.state != InstanceState::Pending).unwrap_or(false) {
            self.history.record(RegistryEventKind::InstanceRegisteredAgain, |event| {
                event.instance = Some((**key).clone());
            });
        }
        self.note(key, |desired| {
            desired.registered(epoch);
            desired.beats += u64::from(values.ephemeral);
        });
        // If a new epoch began meanwhile, a persistent instance must be registered once more: keep its Heartbeat.
        let is_done = !values.ephemeral && self.nacos.epoch() == epoch;
        Ok(if is_done { self.end_heartbeat(key) } else { BeatOutcome::Registered })
    }

    /// Registers again the persistent instances that are not registered in the current epoch, spread over the beat
    /// interval.
    pub(super) fn restore_persistent(&self) {
        let epoch = self.nacos.epoch();
        let mut lost = Vec::new();
        self.desired.for_each(|desired| {
            if desired.heartbeat.is_none() && desired.to_register(epoch).is_some() {
                lost.push(desired.key.clone());
            }
        });
        lost.iter().for_each(|key| self.start_restoring(key));
    }

    /// Registers the instance again with the values `before` a change that failed and may have been applied.
    ///
    /// The next beat does it. A persistent instance gets a Heartbeat for this one purpose.
    pub(super) fn restore(&self, key: &Arc<InstanceKey>, before: Option<Instance>) {
        self.desired.update(key, |desired| desired.restore = before.map(Box::new));
        self.start_restoring(key);
    }

    /// Starts a Heartbeat that registers a persistent instance again. An ephemeral instance has a Heartbeat already.
    pub(super) fn start_restoring(&self, key: &Arc<InstanceKey>) {
        let start = |desired: &mut DesiredInstance| {
            desired.heartbeat.get_or_insert_with(|| self.new_heartbeat(key, &desired.instance).start_supervised());
        };
        self.desired.update(key, start);
    }

    /// Deregisters a leftover in the background, until a server confirms it.
    pub(super) fn deregister_in_background(&self, key: &Arc<InstanceKey>) {
        let heartbeat = || Heartbeat::new(key.clone(), None, self.heartbeat_settings.clone()).at_once();
        self.desired.leftover(key, |leftover| {
            // Deregistering may have failed before.
            leftover.stop();
            leftover.heartbeat = Some(heartbeat().start_supervised());
        });
    }

    pub(super) fn new_heartbeat(&self, key: &Arc<InstanceKey>, instance: &Instance) -> Heartbeat {
        Heartbeat::new(key.clone(), instance.preserved_interval(), self.heartbeat_settings.clone())
    }

    /// Ends the Heartbeat of a persistent instance once the instance is registered.
    fn end_heartbeat(&self, key: &Arc<InstanceKey>) -> BeatOutcome {
        self.desired.update(key, DesiredInstance::end_heartbeat);
        BeatOutcome::NotDesired
    }
}

#[cfg(test)]
mod tests {
    use std::{rc::Rc, time::Duration};

    use actix::{dev::channel, Addr};
    use actix_rt::time::{timeout, Instant};
    use futures_util::{pin_mut, FutureExt as _};

    use super::{super::desired::tests::key, *};
    use crate::{config::Config, model::heartbeat::DEFAULT_INTERVAL, runtime::supervision::supervise};

    /// A Registry whose server is never asked anything.
    fn registry_without_server() -> (Addr<Registry>, Rc<Shared>) {
        tokio::time::pause();
        let (sender, mailbox) = channel::channel(16);
        let registry = Addr::new(sender);
        let config = Config::new("127.0.0.1:1").max_connections(1);
        let actor = Registry::new(config, registry.downgrade(), false).unwrap();
        let shared = actor.shared.clone();
        actix_rt::spawn(supervise(actor, mailbox, shared.log.clone()));
        (registry, shared)
    }

    fn beat(port: u16) -> Beat {
        Beat { key: key(port), light: false, interval: DEFAULT_INTERVAL, due: Instant::now() }
    }

    #[actix::test]
    async fn a_beat_that_was_overtaken_by_registering_as_persistent_is_not_sent() {
        let (registry, shared) = registry_without_server();
        let persistent = Instance { ephemeral: false, ..Instance::new("127.0.0.7", 1) };
        let mut desired = DesiredInstance::new(key(1), persistent, None);
        desired.registered(shared.nacos.epoch());
        shared.desired.insert(desired);
        let beat = beat(1);
        assert_eq!(registry.send(beat).await, Ok(Ok(BeatOutcome::NotDesired)));
        assert_eq!(shared.desired.get(&key(1), |desired| desired.last_error()), Some(None));
    }

    #[actix::test]
    async fn a_beat_that_waits_for_its_turn_keeps_no_other_instance_from_beating() {
        let (registry, shared) = registry_without_server();
        let turn = shared.desired.queue(&key(1));
        let beat = |port| registry.send(beat(port));
        let waiting = beat(1);
        pin_mut!(waiting);
        assert!(waiting.as_mut().now_or_never().is_none());
        let other = timeout(Duration::from_secs(1), beat(2)).await;
        assert_eq!(other.expect("does not wait for the first instance"), Ok(Ok(BeatOutcome::NotDesired)));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(turn);
        assert_eq!(waiting.await, Ok(Ok(BeatOutcome::NotDesired)));
    }

    #[actix::test]
    async fn a_leftover_has_one_heartbeat_however_often_deregistering_fails() {
        let (_registry, shared) = registry_without_server();
        shared.desired.add_leftover(&key(1), true);
        let start = || {
            shared.deregister_in_background(&key(1));
            shared.desired.leftover(&key(1), |leftover| leftover.heartbeat.clone()).flatten().unwrap()
        };
        let (first, second) = (start(), start());
        for _ in 0..10 {
            actix_rt::task::yield_now().await;
        }
        assert!(second.upgrade().is_some());
        assert!(first.upgrade().is_none(), "two Heartbeats for one leftover");
    }
}
