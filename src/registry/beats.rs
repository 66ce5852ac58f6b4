//! Signs of life: heartbeats by hand, those of our Heartbeats, and registering again what a server may have forgotten.

use std::{pin::pin, sync::Arc, time::Instant};

use actix::{Context, Handler, Message, ResponseFuture};
use slog::{debug, info};
use tokio::sync::SemaphorePermit;

use super::{
    metadata::metadata_setters,
    target::{target_conversions, target_setters, Target},
    Desk, Registry,
};
use crate::{
    error::Error,
    heartbeat::{Beat, BeatKind, Beaten, HeartbeatReply},
    instance::{Instance, InstanceKey},
    nacos::{Operation, Patience},
    service::ServiceRef,
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
        self.answer(Operation::Beat, |desk| {
            let taken = message.resolve().map(|(key, instance)| (desk.own.queue(&key), key, instance));
            async move {
                let (mut turn, key, instance) = taken?;
                turn.come().await;
                let own = desk.own.get(&key, |own| own.instance.clone());
                if own.as_ref().is_some_and(|own| !own.ephemeral) {
                    return Err(Error::invalid("ephemeral", "the instance is registered as persistent: no heartbeats"));
                }
                desk.beat_by_hand(&key, own.as_deref().unwrap_or(&instance)).await
            }
        })
    }
}

impl Desk {
    /// v1 registers the unknown instance of a beat by itself; v3's beats are the key alone, so that is a request of its own.
    async fn beat_by_hand(&self, key: &InstanceKey, instance: &Instance) -> Result<HeartbeatReply, Error> {
        let reply = self.nacos.beat(key, instance, false, Patience::Operation).await?;
        if !reply.is_unknown() {
            return Ok(reply);
        }
        self.nacos.register(&key.service, instance, Patience::Operation).await?;
        Ok(HeartbeatReply::taken())
    }
}

/// Of our own Heartbeats: only for what is still wanted, with the values that are wanted now.
impl Handler<Beat> for Registry {
    type Result = ResponseFuture<Result<Beaten, Error>>;

    fn handle(&mut self, beat: Beat, _: &mut Context<Self>) -> Self::Result {
        let desk = self.desk.clone();
        // Thousands fall due together. All that a beat needs is set up when it has a place: those that wait for one are
        // small, and those that are sent use the same memory over and over.
        Box::pin(async move {
            let place = desk.place().await;
            if desk.closing.get() {
                return Err(Error::Stopped);
            }
            Box::pin(async { desk.guarded(Operation::Beat, pin!(desk.beat_in_turn(&beat, place))).await }).await
        })
    }
}

impl Desk {
    /// Among the beats under way.
    async fn place(&self) -> Option<SemaphorePermit<'_>> {
        // The semaphore is never closed.
        self.beats_under_way.acquire().await.ok()
    }

    async fn beat_in_turn<'a>(&'a self, beat: &Beat, mut place: Option<SemaphorePermit<'a>>) -> Result<Beaten, Error> {
        let mut turn = self.own.queue(&beat.key);
        if turn.is_behind_others() {
            // They may take long: other instances shall beat meanwhile.
            drop(place);
            turn.come().await;
            place = self.place().await;
        }
        let outcome = self.beat(beat).await;
        drop(place);
        self.note_beat(&beat.key, &outcome);
        outcome
    }

    async fn beat(&self, beat: &Beat) -> Result<Beaten, Error> {
        let Some((instance, known_to)) = self.own.get(&beat.key, |own| (own.instance.clone(), own.known_to)) else {
            return Ok(Beaten::NotWanted);
        };
        let epoch = self.nacos.epoch();
        if beat.kind == BeatKind::Register || known_to != Some(epoch) {
            return self.register_again(&beat.key, &instance, Patience::Round).await;
        }
        if !instance.ephemeral {
            // Registered so since this beat began to wait.
            return Ok(Beaten::NotWanted);
        }
        let light = beat.kind == BeatKind::Light;
        let reply = self.nacos.beat(&beat.key, &instance, light, Patience::Round).await?;
        if reply.is_unknown() {
            return Ok(Beaten::Forgotten);
        }
        // The beat itself found a connection broken: the server that took it may be a new one, which has the instance
        // from a light beat without its weight and metadata (r-nacos).
        if self.nacos.epoch() != epoch {
            let again = self.register_again(&beat.key, &instance, Patience::Round).await?;
            // What the beat was answered holds: the interval, above all.
            return Ok(if again == Beaten::Registered { Beaten::Taken(reply) } else { again });
        }
        Ok(Beaten::Taken(reply))
    }

    async fn register_again(
        &self,
        key: &Arc<InstanceKey>,
        instance: &Instance,
        patience: Patience,
    ) -> Result<Beaten, Error> {
        // Of before: whatever happens meanwhile may have cost us what we were just told.
        let epoch = self.nacos.epoch();
        self.nacos.register(&key.service, instance, patience).await?;
        let first = self.own.get(key, |own| own.known_to.is_none()).unwrap_or(false);
        self.own.update(key, |own| {
            own.known_to = Some(epoch);
            own.last_success = Some(Instant::now());
            own.last_error = None;
            // Whose first registration was all that there was to do.
            own.heartbeat.take_if(|_| !own.instance.ephemeral);
        });
        if first {
            info!(self.log, "instance registered, now that the server can be reached"; "instance" => %key);
        } else {
            debug!(self.log, "instance registered again"; "instance" => %key);
        }
        Ok(if instance.ephemeral { Beaten::Registered } else { Beaten::NotWanted })
    }

    /// Persistent instances have no Heartbeat that would notice that a server does not know them. Tells whether none is
    /// left to restore.
    pub(super) async fn restore_persistent(&self) -> bool {
        let epoch = self.nacos.epoch();
        let mut lost = Vec::new();
        self.own.for_each(|own| {
            if !own.instance.ephemeral && own.heartbeat.is_none() && own.known_to != Some(epoch) {
                lost.push(own.key.clone());
            }
        });
        let mut all = true;
        for key in lost {
            let mut turn = self.own.queue(&key);
            turn.come().await;
            let Some(instance) = self.own.get(&key, |own| own.instance.clone()) else { continue };
            let outcome = self.register_again(&key, &instance, Patience::Round).await;
            self.note_beat(&key, &outcome);
            all &= outcome.is_ok();
        }
        all
    }

    fn note_beat(&self, key: &Arc<InstanceKey>, outcome: &Result<Beaten, Error>) {
        self.own.update(key, |own| match outcome {
            Ok(Beaten::Forgotten | Beaten::NotWanted) => {}
            Ok(_) => {
                own.beats += 1;
                own.last_success = Some(Instant::now());
                own.last_error = None;
            }
            Err(error) => own.last_error = Some(error.clone()),
        });
    }
}

#[cfg(test)]
mod tests {
    use std::{rc::Rc, time::Duration};

    use actix::{dev::channel, Addr};
    use actix_rt::time::timeout;
    use futures_util::{pin_mut, FutureExt as _};

    use super::{
        super::own::{tests::key, OwnInstance},
        *,
    };
    use crate::{supervise::supervise, Config};

    /// Nobody is asked anything there.
    fn registry_of_nobody() -> (Addr<Registry>, Rc<Desk>) {
        tokio::time::pause();
        let (sender, mailbox) = channel::channel(16);
        let registry = Addr::new(sender);
        let config = Config::new("127.0.0.1:1").max_connections(1);
        let actor = Registry::new(config, registry.downgrade(), false).unwrap();
        let desk = actor.desk.clone();
        actix_rt::spawn(supervise(actor, mailbox, desk.log.clone()));
        (registry, desk)
    }

    #[actix::test]
    async fn a_beat_that_was_overtaken_by_registering_as_persistent_is_not_sent() {
        let (registry, desk) = registry_of_nobody();
        let persistent = Instance { ephemeral: false, ..Instance::new("10.0.0.7", 1) };
        desk.own.insert(OwnInstance {
            key: key(1),
            instance: Rc::new(persistent),
            heartbeat: None,
            known_to: Some(desk.nacos.epoch()),
            since: Instant::now(),
            last_success: None,
            last_error: None,
            beats: 0,
        });
        let beat = Beat { key: key(1), kind: BeatKind::Full };
        assert_eq!(registry.send(beat).await, Ok(Ok(Beaten::NotWanted)));
        assert_eq!(desk.own.get(&key(1), |own| own.last_error.clone()), Some(None));
    }

    #[actix::test]
    async fn a_beat_that_waits_for_its_turn_keeps_no_other_instance_from_beating() {
        let (registry, desk) = registry_of_nobody();
        let turn = desk.own.queue(&key(1));
        let beat = |port| registry.send(Beat { key: key(port), kind: BeatKind::Full });
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
