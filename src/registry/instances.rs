//! Messages that register an instance and deregister it.
//!
//! Like all of the application's messages about one instance, each takes the instance's turn when the mailbox takes the
//! message: so they reach the server in this order.

use std::{rc::Rc, sync::Arc, time::Duration};

use actix::{Context, Handler, Message, ResponseFuture};
use slog::info;

use super::{
    actor::Registry,
    desired::{DesiredInstance, Turn},
    instance_state::{InstanceState, InstanceStateChanged},
    metadata::metadata_setters,
    registration::Registration,
    shared::Shared,
    target::{target_conversions, target_setters, Target},
};
use crate::{
    client::Patience,
    error::{Error, Operation},
    model::{
        instance::{Instance, InstanceKey, HEART_BEAT_INTERVAL},
        service::ServiceRef,
    },
};

/// Registers an instance and, if it is ephemeral, starts its Heartbeat. Registering again with other values makes the
/// new values win. The answer is a [`Registration`], which tells in any thread whether the instance is registered; who does
/// not need it drops it.
///
/// # Errors
/// [`Error::InvalidInput`] naming the field; what the server says, after the operation's deadline
/// ([`Config::operation_timeout`](crate::Config::operation_timeout)) if it cannot be reached. Then nothing has changed: an
/// instance that was not registered before does not beat, one that was goes on with its former values. A server may have
/// applied a registration that failed. It is taken back in the background, until a server confirms that or another message
/// for this instance replaces it.
#[derive(Debug, Clone, PartialEq, Message)]
#[rtype(result = "Result<Registration, Error>")]
pub struct RegisterInstance {
    target: Target,
    values: Instance,
    when_reachable: bool,
}

impl RegisterInstance {
    /// Registers `ip:port` as an instance of `service` (or `GROUP@@service`).
    pub fn new(service: impl Into<ServiceRef>, ip: impl Into<String>, port: u16) -> Self {
        Self::of(Target::new(service, ip, port), None)
    }

    target_setters!();

    /// The share of calls it should get, 0 to 10,000. Default: 1.
    #[must_use]
    pub fn weight(mut self, weight: f64) -> Self {
        self.values.weight = weight;
        self
    }

    metadata_setters!(values.metadata, "Sets the whole metadata, instead of what was set before. Default: none.");

    /// Whether it lives by heartbeats (true) or stays until it is deregistered (false). Default: true.
    #[must_use]
    pub fn ephemeral(mut self, ephemeral: bool) -> Self {
        self.values.ephemeral = ephemeral;
        self
    }

    /// Whether it takes calls; a disabled instance is in no list. Default: true.
    #[must_use]
    pub fn enabled(mut self, enabled: bool) -> Self {
        self.values.enabled = enabled;
        self
    }

    /// Whether it starts as healthy. Default: true.
    #[must_use]
    pub fn healthy(mut self, healthy: bool) -> Self {
        self.values.healthy = healthy;
        self
    }

    /// The interval between its heartbeats, as `preserved.heart.beat.interval` in its metadata. Default: 5 s. A
    /// server may answer a beat with a shorter interval, and is obeyed; a longer one does not replace it. An interval near
    /// the server's 15 s until unhealthy wants its timeouts in the metadata, too.
    #[must_use]
    pub fn heartbeat_interval(self, interval: Duration) -> Self {
        self.metadata(HEART_BEAT_INTERVAL, interval.as_millis().to_string())
    }

    /// Answers at once and registers as soon as a server can be reached, instead of failing after the deadline. The
    /// [`Registration`] tells when it is done, by [`registered_within`](Registration::registered_within) for example; so do
    /// `GetStatus` and the log. Default: off.
    #[must_use]
    pub fn when_reachable(mut self) -> Self {
        self.when_reachable = true;
        self
    }
}

impl Handler<RegisterInstance> for Registry {
    type Result = ResponseFuture<Result<Registration, Error>>;

    fn handle(&mut self, message: RegisterInstance, _: &mut Context<Self>) -> Self::Result {
        let registry = self.myself.clone();
        self.dispatch(Operation::Register, |shared| {
            let when_reachable = message.when_reachable && !shared.nacos.is_disabled();
            let taken = message.target.with_values(message.values);
            let taken = taken.map(|(key, values)| (shared.queue_to_register(&key, &values), key, values));
            async move {
                let (mut turn, key, values) = taken?;
                turn.come().await;
                if when_reachable {
                    shared.want(key.clone(), values, None);
                } else {
                    shared.register(key.clone(), values).await?;
                }
                let registration = |desired: &DesiredInstance| desired.publisher.registration(key.clone(), registry);
                shared.desired.get(&key, registration).ok_or(Error::Stopped)
            }
        })
    }
}

impl Shared {
    fn queue_to_register(&self, key: &Arc<InstanceKey>, values: &Instance) -> Turn {
        match self.desired.get(key, |desired| desired.instance.ephemeral) {
            Some(ephemeral) if ephemeral == values.ephemeral => self.desired.queue_change(key),
            _ => self.desired.queue(key),
        }
    }

    async fn register(&self, key: Arc<InstanceKey>, values: Instance) -> Result<(), Error> {
        let former = self.desired.get(&key, |desired| desired.instance.clone());
        if former.as_ref().is_none_or(|former| former.ephemeral != values.ephemeral) {
            self.desired.add_leftover(&key, values.ephemeral);
        }
        // Read before sending: the epoch may change while the request is under way.
        let epoch = self.nacos.epoch();
        let outcome = self.nacos.register(&key.service, &values, Patience::Operation).await;
        match &outcome {
            Ok(()) => {
                self.note_registration(&key, former.as_deref(), &values);
                self.want(key, values, Some(epoch));
            }
            Err(error) if error.is_retryable() => self.take_back(&key, former),
            // Rejected: nothing has changed.
            Err(_) => self.desired.forget_leftover(&key),
        }
        outcome
    }

    fn note_registration(&self, key: &Arc<InstanceKey>, former: Option<&Instance>, values: &Instance) {
        match former {
            Some(former) => self.recent_writes.changed(key, as_sent(former), as_sent(values)),
            None => self.recent_writes.registered(key, || as_sent(values)),
        }
    }

    /// A registration failed, and may have been applied all the same: lets the instance be deregistered, or registered
    /// with the values that it had before.
    fn take_back(&self, key: &Arc<InstanceKey>, former: Option<Rc<Instance>>) {
        self.deregister_in_background(key);
        if former.is_some() {
            self.restore(key, former);
        }
    }

    /// The instance is wanted from now on with these values, which a server took in the epoch `known_to`, if one did.
    fn want(&self, key: Arc<InstanceKey>, values: Instance, known_to: Option<u64>) {
        let is_pending = known_to.is_none();
        let needs_heartbeat = (values.ephemeral || is_pending) && !self.nacos.is_disabled();
        let heartbeat = needs_heartbeat.then(|| {
            let heartbeat = self.new_heartbeat(&key, &values);
            self.start_heartbeat(if is_pending { heartbeat.at_once() } else { heartbeat })
        });
        let desired = DesiredInstance::new(key.clone(), values, heartbeat);
        let pending = InstanceStateChanged::of(&desired);
        self.desired.insert(desired);
        if is_pending {
            self.desired.update(&key, |desired| desired.publisher.publish(InstanceState::Pending, None));
        }
        // Last: a log that panics must not cost the instance its Heartbeat.
        match known_to {
            None => self.notify_of_state(InstanceState::Pending, &pending),
            Some(epoch) => {
                if epoch != self.nacos.epoch() {
                    self.start_restoring(&key);
                }
                self.note(&key, |desired| desired.registered(epoch));
            }
        }
    }
}

/// As the server has an instance that is registered with these values.
pub(super) fn as_sent(instance: &Instance) -> Instance {
    Instance { metadata: instance.metadata_to_register().into_owned(), ..instance.clone() }
}

/// Stops an instance's Heartbeat and deregisters it. One that is not there is ok.
///
/// An instance that this Registry registered is deregistered as the ephemeral or persistent one it was registered as, also
/// when the message is sent again after an error.
///
/// # Errors
/// [`Error::InvalidInput`] naming the field; what the server says. The Heartbeat has ended in any case: the server
/// removes an ephemeral instance after a while without beats. Of an instance that this Registry registered, deregistering is
/// repeated in the background until a server confirms it, rejects it, or the instance is registered again.
#[derive(Debug, Clone, PartialEq, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct DeregisterInstance {
    target: Target,
    ephemeral: bool,
}

impl DeregisterInstance {
    /// Deregisters `ip:port` from `service` (or `GROUP@@service`).
    pub fn new(service: impl Into<ServiceRef>, ip: impl Into<String>, port: u16) -> Self {
        DeregisterInstance { target: Target::new(service, ip, port), ephemeral: true }
    }

    target_setters!();

    /// Whether somebody else's instance is ephemeral or persistent. Default: true, ephemeral.
    #[must_use]
    pub fn ephemeral(mut self, ephemeral: bool) -> Self {
        self.ephemeral = ephemeral;
        self
    }
}

impl Handler<DeregisterInstance> for Registry {
    type Result = ResponseFuture<Result<(), Error>>;

    fn handle(&mut self, message: DeregisterInstance, _: &mut Context<Self>) -> Self::Result {
        self.dispatch(Operation::Deregister, |shared| {
            let taken = message.target.key().map(|key| (shared.desired.queue(&key), key));
            async move {
                let (mut turn, key) = taken?;
                turn.come().await;
                shared.deregister(&key, message.ephemeral).await?;
                info!(shared.log, "deregistered instance"; "instance" => %key);
                Ok(())
            }
        })
    }
}

impl Shared {
    async fn deregister(&self, key: &Arc<InstanceKey>, ephemeral: bool) -> Result<(), Error> {
        if let Some(desired) = self.desired.remove(key) {
            self.desired.add_leftover(key, desired.instance.ephemeral);
            desired.publisher.deregistered(key);
        }
        let leftover = self.desired.leftover(key, |leftover| leftover.ephemeral);
        let outcome = self.nacos.deregister(key, leftover.unwrap_or(ephemeral), Patience::Operation).await;
        match &outcome {
            Ok(()) => {
                self.desired.forget_leftover(key);
                self.recent_writes.deregistered(key);
            }
            Err(error) if error.is_retryable() => self.deregister_in_background(key),
            Err(_) => {}
        }
        outcome
    }
}
impl RegisterInstance {
    fn of(target: Target, values: Option<Instance>) -> Self {
        let values = values.unwrap_or_else(|| Instance::new("", target.port));
        RegisterInstance { target, values: Instance { instance_id: String::new(), ..values }, when_reachable: false }
    }
}

target_conversions!(RegisterInstance);

impl DeregisterInstance {
    fn of(target: Target, values: Option<Instance>) -> Self {
        DeregisterInstance { target, ephemeral: values.is_none_or(|values| values.ephemeral) }
    }
}

target_conversions!(DeregisterInstance);
