//! Messages that register an instance and deregister it.
//!
//! Like all of the application's messages about one instance, each takes the instance's turn when the mailbox takes the
//! message: so they reach the server in this order.

use std::{
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use actix::{Addr, Context, Handler, Message, ResponseFuture};
use slog::info;

use super::{
    metadata::metadata_setters,
    own::OwnInstance,
    target::{target_conversions, target_setters, Target},
    Desk, Registry,
};
use crate::{
    error::Error,
    heartbeat::{Beat, Heartbeat},
    instance::{Instance, InstanceKey, HEART_BEAT_INTERVAL},
    nacos::{Operation, Patience},
    service::ServiceRef,
    supervise,
};

/// Registers an instance and, if it is ephemeral, starts its Heartbeat. Registering again with other values makes the
/// new values win.
///
/// # Errors
/// [`Error::InvalidInput`] naming the field; what the server says, after the operation's deadline
/// ([`Config::operation_timeout`](crate::Config::operation_timeout)) if it cannot be reached. Then nothing has changed: an
/// instance that was not registered before does not beat, one that was goes on with its former values.
#[derive(Debug, Clone, PartialEq, Message)]
#[rtype(result = "Result<(), Error>")]
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

    /// The interval between its heartbeats, as `preserved.heart.beat.interval` in its metadata. Default: 5 s. What the
    /// server answers to a beat replaces it: Nacos repeats this value, r-nacos says 5 s to everybody. An interval near the
    /// server's 15 s until unhealthy wants its timeouts in the metadata, too.
    #[must_use]
    pub fn heartbeat_interval(self, interval: Duration) -> Self {
        self.metadata(HEART_BEAT_INTERVAL, interval.as_millis().to_string())
    }

    /// Answers at once and registers as soon as a server can be reached, instead of failing after the deadline.
    /// `GetStatus` and the log tell when it is done. Default: off.
    #[must_use]
    pub fn when_reachable(mut self) -> Self {
        self.when_reachable = true;
        self
    }
}

impl Handler<RegisterInstance> for Registry {
    type Result = ResponseFuture<Result<(), Error>>;

    fn handle(&mut self, message: RegisterInstance, _: &mut Context<Self>) -> Self::Result {
        let registry = self.myself.clone().recipient();
        self.answer(Operation::Register, |desk| {
            let when_reachable = message.when_reachable;
            let taken =
                message.target.with_values(message.values).map(|(key, instance)| (desk.own.queue(&key), key, instance));
            async move {
                let (mut turn, key, instance) = taken?;
                turn.come().await;
                // Of before: whatever happens meanwhile may have cost us what we were just told.
                let known_to = (!when_reachable).then(|| desk.nacos.epoch());
                if !when_reachable {
                    desk.nacos.register(&key.service, &instance, Patience::Operation).await?;
                }
                desk.want(key, instance, known_to, registry);
                Ok(())
            }
        })
    }
}

impl Desk {
    /// The instance is wanted from now on with these values; a new Heartbeat keeps it so.
    fn want(
        &self,
        key: Arc<InstanceKey>,
        instance: Instance,
        known_to: Option<u64>,
        registry: actix::WeakRecipient<Beat>,
    ) {
        let interval = instance.preserved_interval();
        let needs_heartbeat = (instance.ephemeral || known_to.is_none()) && !self.nacos.is_disabled();
        let heartbeat = needs_heartbeat.then(|| {
            let heartbeat = Heartbeat::new(key.clone(), registry, interval, self.grid);
            let heartbeat = if known_to.is_none() { heartbeat.registering() } else { heartbeat };
            self.start_heartbeat(heartbeat)
        });
        let now = Instant::now();
        let last_success = known_to.map(|_| now);
        self.own.remove(&key);
        self.own.insert(OwnInstance {
            key: key.clone(),
            instance: Rc::new(instance),
            heartbeat,
            known_to,
            since: now,
            last_success,
            last_error: None,
            beats: 0,
        });
        // Last: a log that panics must not cost the instance its Heartbeat.
        info!(self.log, "instance registered"; "instance" => %key, "pending" => known_to.is_none());
    }

    pub(super) fn start_heartbeat(&self, heartbeat: Heartbeat) -> Addr<Heartbeat> {
        supervise::start(heartbeat, 1, self.log.clone())
    }
}

/// Stops an instance's Heartbeat and deregisters it. One that is not there is ok.
///
/// An instance that this Registry registered is deregistered as the ephemeral or persistent one it was registered as, also
/// when the message is sent again after an error.
///
/// # Errors
/// [`Error::InvalidInput`] naming the field; what the server says. The Heartbeat has ended in any case: the server
/// removes an ephemeral instance after a while without beats.
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
        self.answer(Operation::Deregister, |desk| {
            let taken = message.target.key().map(|key| (desk.own.queue(&key), key));
            async move {
                let (mut turn, key) = taken?;
                turn.come().await;
                let own = desk.own.remove(&key);
                let ephemeral = match own {
                    Some(own) => own.instance.ephemeral,
                    None => message.ephemeral && !desk.own.is_left(&key),
                };
                let outcome = desk.nacos.deregister(&key, ephemeral).await;
                if !ephemeral {
                    desk.own.note_persistent_end(&key, outcome.is_ok());
                }
                outcome?;
                info!(desk.log, "instance deregistered"; "instance" => %key);
                Ok(())
            }
        })
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
