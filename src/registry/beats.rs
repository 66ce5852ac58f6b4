//! Signs of life: heartbeats by hand, those of our Heartbeats, and registering again what a server may have forgotten.

use std::{pin::pin, rc::Rc, sync::Arc};

use actix::{Addr, Context, Handler, Message, ResponseFuture};
use slog::{debug, info, warn};
use tokio::sync::SemaphorePermit;

use super::{
    actor::Registry,
    desired::DesiredInstance,
    heartbeat::{Beat, Beaten, Heartbeat},
    instances::as_sent,
    metadata::metadata_setters,
    shared::Phase,
    shared::Shared,
    target::{target_conversions, target_setters, Target},
};
use crate::{
    client::Patience,
    error::{Error, Operation},
    model::{
        heartbeat::HeartbeatReply,
        instance::{Instance, InstanceKey},
        service::ServiceRef,
    },
    runtime::supervision,
};

/// Sends one heartbeat by hand. A server that does not know the instance registers it.
///
/// Instances that were registered by [`RegisterInstance`](super::RegisterInstance) have a Heartbeat and need none by hand;
/// one that is sent all the same carries the values that they were registered with.
///
/// # Errors
/// [`Error::InvalidInput`] naming the field, for a persistent instance too: those have no heartbeats; what the server says.
#[derive(Debug, Clone, PartialEq, Message)]
#[rtype(result = "Result<HeartbeatReply, Error>")]
pub struct SendHeartbeat {
    target: Target,
    values: Instance,
}

impl SendHeartbeat {
    /// A heartbeat of `ip:port` of `service` (or `GROUP@@service`).
    pub fn new(service: impl Into<ServiceRef>, ip: impl Into<String>, port: u16) -> Self {
        Self::of(Target::new(service, ip, port), None)
    }

    fn of(target: Target, values: Option<Instance>) -> Self {
        let values = values.unwrap_or_else(|| Instance::new("", target.port));
        SendHeartbeat { target, values: Instance { instance_id: String::new(), ..values } }
    }

    target_setters!();

    /// The weight with which an unknown instance is registered, 0 to 10,000. Default: 1.
    #[must_use]
    pub fn weight(mut self, weight: f64) -> Self {
        self.values.weight = weight;
        self
    }

    metadata_setters!(
        values.metadata,
        "Sets the whole metadata with which an unknown instance is registered, instead of what was set before. Default: none."
    );

    /// Whether the instance is ephemeral. Default: true; a persistent one has no heartbeats and is refused.
    #[must_use]
    pub fn ephemeral(mut self, ephemeral: bool) -> Self {
        self.values.ephemeral = ephemeral;
        self
    }

    fn resolve(self) -> Result<(Arc<InstanceKey>, Instance), Error> {
        if !self.values.ephemeral {
            let reason = "a persistent instance has no heartbeats: the server checks its health by itself";
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
                    return Err(Error::invalid("ephemeral", "the instance is registered as persistent: no heartbeats"));
                }
                // Whoever beats for an instance wants it.
                shared.desired.forget_leftover(&key);
                shared.beat_by_hand(&key, desired.as_deref().unwrap_or(&instance)).await
            }
        })
    }
}

impl Shared {
    /// v1 registers the unknown instance of a beat by itself; v3's beats are the key alone, so that is a request of its own.
    async fn beat_by_hand(&self, key: &Arc<InstanceKey>, instance: &Instance) -> Result<HeartbeatReply, Error> {
        let patience = self.nacos.patience();
        let reply = self.nacos.beat(key, instance, false, patience).await?;
        if !reply.is_unknown() {
            self.recent_writes.registered(key, || as_sent(instance));
            return Ok(reply);
        }
        let epoch = self.nacos.epoch();
        self.nacos.register(&key.service, instance, patience).await?;
        self.recent_writes.registered(key, || as_sent(instance));
        self.note(key, |desired| desired.registered(epoch));
        Ok(HeartbeatReply::taken())
    }
}

/// From our Heartbeats: only for what is still wanted, with the values that are wanted now.
impl Handler<Beat> for Registry {
    type Result = ResponseFuture<Result<Beaten, Error>>;

    fn handle(&mut self, beat: Beat, _: &mut Context<Self>) -> Self::Result {
        let shared = self.shared.clone();
        // Thousands fall due together. All that a beat needs is set up when it has a permit: those that wait for one are
        // small, and those that are sent use the same memory over and over.
        Box::pin(async move {
            let permit = shared.beat_permit().await;
            if shared.is_in(Phase::Closing) {
                return Err(Error::Stopped);
            }
            let outcome = Box::pin(async {
                shared.catch_panics(Operation::Beat, Phase::Offline, pin!(shared.beat_in_turn(&beat, permit))).await
            })
            .await;
            if matches!(outcome, Ok(Beaten::Taken(_))) {
                shared.check_on_r_nacos(&beat.key);
            }
            outcome
        })
    }
}

impl Shared {
    /// Waits until one more beat may be under way.
    async fn beat_permit(&self) -> Option<SemaphorePermit<'_>> {
        // The semaphore is never closed.
        self.beats_under_way.acquire().await.ok()
    }

    async fn beat_in_turn<'a>(&'a self, beat: &Beat, mut permit: Option<SemaphorePermit<'a>>) -> Result<Beaten, Error> {
        let mut turn = self.desired.queue(&beat.key);
        let outcome = if turn.is_behind_changes_only() && self.wants_a_beat(&beat.key) {
            let outcome = self.beat_past_changes(beat).await;
            turn.end_after_others();
            outcome
        } else {
            if turn.is_behind_others() {
                // They may take long: other instances shall beat meanwhile.
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

    fn wants_a_beat(&self, key: &Arc<InstanceKey>) -> bool {
        let epoch = self.nacos.epoch();
        let is_known = |desired: &DesiredInstance| desired.instance.ephemeral && desired.to_register(epoch).is_none();
        self.desired.get(key, is_known).unwrap_or(false)
    }

    /// A beat while the instance is being changed, which may last as long as an operation may. The beat of an instance that
    /// the server knows changes nothing.
    async fn beat_past_changes(&self, beat: &Beat) -> Result<Beaten, Error> {
        let Some(values) = self.desired.get(&beat.key, |desired| desired.instance.clone()) else {
            return Ok(Beaten::NotWanted);
        };
        let reply = self.nacos.beat(&beat.key, &values, beat.light, Patience::Round).await?;
        if reply.is_unknown() {
            // Registered by the change, or with the next beat: not now, with values that are about to change.
            self.note(&beat.key, DesiredInstance::forgotten);
        } else {
            self.note(&beat.key, DesiredInstance::beaten);
        }
        Ok(Beaten::Taken(reply))
    }

    /// The sign of life that the instance needs now: a registration if the server may not have what is wanted, else a beat.
    async fn beat(&self, beat: &Beat) -> Result<Beaten, Error> {
        let deregistered = self.deregister_leftover(&beat.key).await;
        let epoch = self.nacos.epoch();
        let Some((instance, to_register, was_late)) = self
            .desired
            .get(&beat.key, |desired| (desired.instance.clone(), desired.to_register(epoch), desired.is_late()))
        else {
            return deregistered.map(|()| Beaten::NotWanted);
        };
        if let Some(values) = to_register {
            return self.register_again(&beat.key, &values).await;
        }
        if !instance.ephemeral {
            // It was registered as persistent while this beat waited.
            return Ok(self.needs_no_beat(&beat.key));
        }
        let reply = self.nacos.beat(&beat.key, &instance, beat.light, Patience::Round).await?;
        if reply.is_unknown() {
            self.note(&beat.key, DesiredInstance::forgotten);
            // A new epoch explains it: the server in use is another one than before, or was restarted.
            if self.nacos.epoch() == epoch {
                self.nacos.note_unknown(was_late, beat.interval);
            }
            return self.register_again(&beat.key, &instance).await;
        }
        self.note(&beat.key, DesiredInstance::beaten);
        // The beat itself may have found that the server restarted. A light beat brings an instance back without its weight
        // and metadata on r-nacos.
        if self.nacos.epoch() != epoch {
            self.register_again(&beat.key, &instance).await?;
        }
        Ok(Beaten::Taken(reply))
    }

    async fn deregister_leftover(&self, key: &Arc<InstanceKey>) -> Result<(), Error> {
        let leftover = self.desired.leftover(key, |left| left.heartbeat.is_some().then_some(left.ephemeral)).flatten();
        let Some(ephemeral) = leftover else { return Ok(()) };
        match self.nacos.deregister(key, ephemeral, Patience::Round).await {
            Err(error) if error.is_retryable() => return Err(error),
            Err(error) => {
                warn!(self.log, "failed to deregister instance"; "instance" => %key, "error" => %error);
                // A shutdown tries again.
                self.desired.leftover(key, |leftover| leftover.stop());
            }
            Ok(()) => {
                self.desired.forget_leftover(key);
                // Some servers take an ephemeral and a persistent instance at one address for the same.
                self.restore(key, self.desired.get(key, |desired| desired.instance.clone()));
                info!(self.log, "deregistered instance after a failure"; "instance" => %key);
            }
        }
        Ok(())
    }

    pub(super) async fn register_again(&self, key: &Arc<InstanceKey>, values: &Instance) -> Result<Beaten, Error> {
        // Read before sending: the epoch may change while the request is under way.
        let epoch = self.nacos.epoch();
        self.nacos.register(&key.service, values, Patience::Round).await?;
        debug!(self.log, "registered instance instead of a heartbeat"; "instance" => %key);
        self.note(key, |desired| {
            desired.registered(epoch);
            desired.beats += u64::from(values.ephemeral);
        });
        // An epoch that began meanwhile does not know a persistent instance, and has left it to its Heartbeat.
        let is_done = !values.ephemeral && self.nacos.epoch() == epoch;
        Ok(if is_done { self.needs_no_beat(key) } else { Beaten::Registered })
    }

    /// Persistent instances that the present epoch does not know are registered again, spread over the interval of beats.
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

    /// Has the instance registered with the values `before` a change that failed.
    pub(super) fn restore(&self, key: &Arc<InstanceKey>, before: Option<Rc<Instance>>) {
        self.desired.update(key, |desired| desired.restore = before);
        self.start_restoring(key);
    }

    /// Lets a persistent instance be registered again; an ephemeral one is with its next beat.
    pub(super) fn start_restoring(&self, key: &Arc<InstanceKey>) {
        let start = |desired: &mut DesiredInstance| {
            desired.heartbeat.get_or_insert_with(|| self.start_heartbeat(self.new_heartbeat(key, &desired.instance)));
        };
        self.desired.update(key, start);
    }

    /// Lets a leftover be deregistered, until a server confirms it.
    pub(super) fn deregister_in_background(&self, key: &Arc<InstanceKey>) {
        let heartbeat = || Heartbeat::new(key.clone(), self.heartbeats_ask.clone(), None, self.grid).at_once();
        self.desired.leftover(key, |leftover| leftover.heartbeat = Some(self.start_heartbeat(heartbeat())));
    }

    pub(super) fn new_heartbeat(&self, key: &Arc<InstanceKey>, instance: &Instance) -> Heartbeat {
        Heartbeat::new(key.clone(), self.heartbeats_ask.clone(), instance.preserved_interval(), self.grid)
    }

    pub(super) fn start_heartbeat(&self, heartbeat: Heartbeat) -> Addr<Heartbeat> {
        supervision::start(heartbeat, 1, self.log.clone())
    }

    /// The Heartbeat of a persistent instance ends when the instance is registered.
    fn needs_no_beat(&self, key: &Arc<InstanceKey>) -> Beaten {
        self.desired.update(key, |desired| desired.heartbeat = None);
        Beaten::NotWanted
    }
}

#[cfg(test)]
mod tests {
    use crate::model::heartbeat::DEFAULT_INTERVAL;
    use std::{rc::Rc, time::Duration};

    use actix::{dev::channel, Addr};
    use actix_rt::time::timeout;
    use futures_util::{pin_mut, FutureExt as _};

    use super::{super::desired::tests::key, *};
    use crate::{config::Config, runtime::supervision::supervise};

    /// Nobody is asked anything there.
    fn registry_of_nobody() -> (Addr<Registry>, Rc<Shared>) {
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
        Beat { key: key(port), light: false, interval: DEFAULT_INTERVAL }
    }

    #[actix::test]
    async fn a_beat_that_was_overtaken_by_registering_as_persistent_is_not_sent() {
        let (registry, shared) = registry_of_nobody();
        let persistent = Instance { ephemeral: false, ..Instance::new("127.0.0.7", 1) };
        let mut desired = DesiredInstance::new(key(1), persistent, None);
        desired.registered(shared.nacos.epoch());
        shared.desired.insert(desired);
        let beat = beat(1);
        assert_eq!(registry.send(beat).await, Ok(Ok(Beaten::NotWanted)));
        assert_eq!(shared.desired.get(&key(1), |desired| desired.last_error.clone()), Some(None));
    }

    #[actix::test]
    async fn a_beat_that_waits_for_its_turn_keeps_no_other_instance_from_beating() {
        let (registry, shared) = registry_of_nobody();
        let turn = shared.desired.queue(&key(1));
        let beat = |port| registry.send(beat(port));
        let waiting = beat(1);
        pin_mut!(waiting);
        assert!(waiting.as_mut().now_or_never().is_none());
        let other = timeout(Duration::from_secs(1), beat(2)).await;
        assert_eq!(other.expect("it does not wait for the first"), Ok(Ok(Beaten::NotWanted)));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(turn);
        assert_eq!(waiting.await, Ok(Ok(Beaten::NotWanted)));
    }
}
