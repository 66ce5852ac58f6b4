//! Messages about one instance: register, deregister, modify, get, and signs of life.
//!
//! Each takes its instance's turn when the mailbox takes the message, so that they reach the server in this order.

use std::{
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use actix::{Context, Handler, Message, ResponseFuture};
use slog::{debug, info};

use super::{own::OwnInstance, Desk, Registry};
use crate::{
    error::Error,
    heartbeat::{Beat, BeatKind, Beaten, Heartbeat, HeartbeatReply},
    instance::{Instance, InstanceKey, Metadata, DEFAULT_CLUSTER, HEART_BEAT_INTERVAL},
    nacos::{Operation, Patience},
    service::ServiceName,
    supervise,
};

/// Names one instance as the caller wrote it.
#[derive(Debug, Clone, PartialEq)]
struct Target {
    service: String,
    group: Option<String>,
    cluster: String,
    ip: String,
    port: u16,
}

impl Target {
    fn new(service: impl Into<String>, ip: impl Into<String>, port: u16) -> Self {
        Target { service: service.into(), group: None, cluster: DEFAULT_CLUSTER.into(), ip: ip.into(), port }
    }

    fn key(&self) -> Result<Arc<InstanceKey>, Error> {
        let service = ServiceName::resolve(&self.service, self.group.as_deref())?;
        let key = InstanceKey { service, cluster: self.cluster.clone(), ip: self.ip.clone(), port: self.port };
        key.validate()?;
        Ok(Arc::new(key))
    }
}

/// The setters of everything that names an instance.
macro_rules! target_setters {
    () => {
        /// The group of the service. Default: the one in `GROUP@@service`, else `DEFAULT_GROUP`.
        #[must_use]
        pub fn group(mut self, group: impl Into<String>) -> Self {
            self.target.group = Some(group.into());
            self
        }

        /// The cluster within the service. Default: `DEFAULT`.
        #[must_use]
        pub fn cluster(mut self, cluster: impl Into<String>) -> Self {
            self.target.cluster = cluster.into();
            self
        }
    };
}

/// Registers an instance and, if it is ephemeral, starts its Heartbeat. Registering again with other values makes the
/// new values win.
///
/// # Errors
/// [`Error::InvalidInput`] naming the field; what the server says, after the operation's deadline
/// ([`Config::operation_timeout`](crate::Config::operation_timeout)) if it cannot be reached: nothing beats then.
#[derive(Debug, Clone, PartialEq, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct RegisterInstance {
    target: Target,
    values: Instance,
    when_reachable: bool,
}

impl RegisterInstance {
    /// Registers `ip:port` as an instance of `service` (or `GROUP@@service`).
    pub fn new(service: impl Into<String>, ip: impl Into<String>, port: u16) -> Self {
        RegisterInstance {
            target: Target::new(service, ip, port),
            values: Instance::new("", port),
            when_reachable: false,
        }
    }

    target_setters!();

    /// The share of calls it should get, 0 to 10,000. Default: 1.
    #[must_use]
    pub fn weight(mut self, weight: f64) -> Self {
        self.values.weight = weight;
        self
    }

    /// Adds one pair to its metadata. Default: none. All keys and values together have at most 1,024 characters.
    #[must_use]
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.values.metadata.insert(key.into(), value.into());
        self
    }

    /// Adds these pairs to its metadata.
    #[must_use]
    pub fn with_metadata(mut self, metadata: Metadata) -> Self {
        self.values.metadata.extend(metadata);
        self
    }

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

    /// The interval between its heartbeats, as `preserved.heart.beat.interval` in its metadata. Default: 5 s, or what the
    /// server says. An interval near the server's 15 s until unhealthy wants its timeouts in the metadata, too.
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

    fn resolve(self) -> Result<(Arc<InstanceKey>, Instance), Error> {
        let service = ServiceName::resolve(&self.target.service, self.target.group.as_deref())?;
        let instance = Instance {
            ip: self.target.ip,
            cluster_name: self.target.cluster,
            service_name: service.to_string(),
            ..self.values
        };
        instance.validate()?;
        Ok((Arc::new(InstanceKey::of(&service, &instance)), instance))
    }
}

impl Handler<RegisterInstance> for Registry {
    type Result = ResponseFuture<Result<(), Error>>;

    fn handle(&mut self, message: RegisterInstance, _: &mut Context<Self>) -> Self::Result {
        let registry = self.myself.clone().recipient();
        self.answer(Operation::Register, |desk| {
            let when_reachable = message.when_reachable;
            let taken = message.resolve().map(|(key, instance)| (desk.own.queue(&key), key, instance));
            async move {
                let (mut turn, key, instance) = taken?;
                turn.come().await;
                if !when_reachable {
                    desk.nacos.register(&key.service, &instance, Patience::Operation).await?;
                }
                let known_to = (!when_reachable).then(|| desk.nacos.generation());
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
            supervise::start(heartbeat, 1, self.log.clone())
        });
        let now = Instant::now();
        let last_success = known_to.map(|_| now);
        self.own.remove(&key);
        info!(self.log, "instance registered"; "instance" => %key, "pending" => known_to.is_none());
        self.own.insert(OwnInstance {
            key,
            instance: Rc::new(instance),
            heartbeat,
            known_to,
            since: now,
            last_success,
            last_error: None,
            beats: 0,
        });
    }
}

/// Stops an instance's Heartbeat and deregisters it. One that is not there is ok.
///
/// An instance that this Registry registered is deregistered as the ephemeral or persistent one it was registered as.
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
    pub fn new(service: impl Into<String>, ip: impl Into<String>, port: u16) -> Self {
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
                let ephemeral = own.map_or(message.ephemeral, |own| own.instance.ephemeral);
                desk.nacos.deregister(&key, ephemeral).await?;
                info!(desk.log, "instance deregistered"; "instance" => %key);
                Ok(())
            }
        })
    }
}

/// Changes some values of an instance; what is not given stays as it is, on every server.
///
/// An own instance is registered again with the merged values, and keeps them. Of somebody else's the present values are
/// read first (GET and list together, since neither tells all), then all are written.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::Unsupported`] where the server does not tell what is so now, or takes no changes;
/// [`Error::InvalidInput`] naming the field.
#[derive(Debug, Clone, PartialEq, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct ModifyInstance {
    target: Target,
    weight: Option<f64>,
    metadata: Option<Metadata>,
    enabled: Option<bool>,
}

impl ModifyInstance {
    /// Changes `ip:port` of `service` (or `GROUP@@service`).
    pub fn new(service: impl Into<String>, ip: impl Into<String>, port: u16) -> Self {
        ModifyInstance { target: Target::new(service, ip, port), weight: None, metadata: None, enabled: None }
    }

    target_setters!();

    /// Its new weight, 0 to 10,000.
    #[must_use]
    pub fn weight(mut self, weight: f64) -> Self {
        self.weight = Some(weight);
        self
    }

    /// Its new metadata, instead of all that it has.
    #[must_use]
    pub fn metadata(mut self, metadata: Metadata) -> Self {
        self.metadata = Some(metadata);
        self
    }

    /// Whether it takes calls from now on.
    #[must_use]
    pub fn enabled(mut self, enabled: bool) -> Self {
        self.enabled = Some(enabled);
        self
    }

    fn apply_to(&self, instance: &Instance) -> Result<Instance, Error> {
        let mut changed = instance.clone();
        changed.weight = self.weight.unwrap_or(changed.weight);
        changed.enabled = self.enabled.unwrap_or(changed.enabled);
        if let Some(metadata) = &self.metadata {
            changed.metadata.clone_from(metadata);
        }
        changed.validate()?;
        Ok(changed)
    }

    /// The key, if the given values are acceptable whatever the instance is like.
    fn validate(&self) -> Result<Arc<InstanceKey>, Error> {
        let key = self.target.key()?;
        self.apply_to(&Instance::new(&key.ip, key.port)).map(|_| key)
    }
}

impl Handler<ModifyInstance> for Registry {
    type Result = ResponseFuture<Result<(), Error>>;

    fn handle(&mut self, message: ModifyInstance, _: &mut Context<Self>) -> Self::Result {
        self.answer(Operation::Modify, |desk| {
            let taken = message.validate().map(|key| (desk.own.queue(&key), key));
            async move {
                let (mut turn, key) = taken?;
                turn.come().await;
                match desk.own.get(&key, |own| own.instance.clone()) {
                    Some(instance) => desk.modify_own(&key, message.apply_to(&instance)?).await,
                    None => desk.modify_others(&key, &message).await,
                }
            }
        })
    }
}

impl Desk {
    async fn modify_own(&self, key: &InstanceKey, instance: Instance) -> Result<(), Error> {
        self.nacos.register(&key.service, &instance, Patience::Operation).await?;
        let generation = self.nacos.generation();
        self.own.update(key, |own| {
            own.instance = Rc::new(instance);
            own.known_to = Some(generation);
        });
        Ok(())
    }
}

impl Desk {
    /// What cannot be learned is never written over.
    async fn modify_others(&self, key: &InstanceKey, change: &ModifyInstance) -> Result<(), Error> {
        let current = self.nacos.current(key).await?;
        if !current.is_complete {
            let server = self.nacos.servers().current().map_or_else(String::new, |server| server.name.clone());
            let reason = format!("it does not tell whether {key}, which is disabled, is ephemeral");
            return Err(Error::Unsupported { operation: Operation::Modify, server, reason });
        }
        self.nacos.overwrite(&key.service, &change.apply_to(&current.instance)?).await
    }
}

/// Reads one instance.
///
/// # Errors
/// [`Error::NotFound`], which on servers without such a request (Nacos 3) says that the instance may also be disabled;
/// [`Error::InvalidInput`] naming the field; what the server says.
#[derive(Debug, Clone, PartialEq, Message)]
#[rtype(result = "Result<Instance, Error>")]
pub struct GetInstance {
    target: Target,
}

impl GetInstance {
    /// Reads `ip:port` of `service` (or `GROUP@@service`).
    pub fn new(service: impl Into<String>, ip: impl Into<String>, port: u16) -> Self {
        GetInstance { target: Target::new(service, ip, port) }
    }

    target_setters!();
}

impl Handler<GetInstance> for Registry {
    type Result = ResponseFuture<Result<Instance, Error>>;

    fn handle(&mut self, message: GetInstance, _: &mut Context<Self>) -> Self::Result {
        self.answer(Operation::Get, |desk| {
            let taken = message.target.key().map(|key| (desk.own.queue(&key), key));
            async move {
                let (mut turn, key) = taken?;
                turn.come().await;
                let own = desk.own.get(&key, |own| own.instance.clone());
                match own {
                    Some(own) => desk.get_own(&key, &own).await,
                    None => desk.nacos.current(&key).await.map(|current| current.instance),
                }
            }
        })
    }
}

impl Desk {
    /// Of an own instance we know by ourselves what servers do not tell.
    async fn get_own(&self, key: &InstanceKey, own: &Instance) -> Result<Instance, Error> {
        match self.nacos.current(key).await {
            Ok(current) => Ok(Instance { enabled: own.enabled, ephemeral: own.ephemeral, ..current.instance }),
            Err(Error::NotFound { may_be_disabled: true, .. }) if !own.enabled => Ok(own.clone()),
            Err(error) => Err(error),
        }
    }
}

/// Sends one heartbeat by hand. A server that does not know the instance registers it.
///
/// Instances that were registered by [`RegisterInstance`] have a Heartbeat and need none by hand.
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
    pub fn new(service: impl Into<String>, ip: impl Into<String>, port: u16) -> Self {
        SendHeartbeat { target: Target::new(service, ip, port), values: Instance::new("", port) }
    }

    target_setters!();

    /// The weight with which an unknown instance is registered, 0 to 10,000. Default: 1.
    #[must_use]
    pub fn weight(mut self, weight: f64) -> Self {
        self.values.weight = weight;
        self
    }

    /// Adds one pair to the metadata with which an unknown instance is registered. Default: none.
    #[must_use]
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.values.metadata.insert(key.into(), value.into());
        self
    }

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
        RegisterInstance { target: self.target, values: self.values, when_reachable: false }.resolve()
    }
}

impl Handler<SendHeartbeat> for Registry {
    type Result = ResponseFuture<Result<HeartbeatReply, Error>>;

    fn handle(&mut self, message: SendHeartbeat, _: &mut Context<Self>) -> Self::Result {
        self.answer(Operation::Beat, |desk| {
            let taken = message.resolve().map(|(key, instance)| (desk.own.queue(&key), key, instance));
            async move {
                let (mut turn, key, instance) = taken?;
                turn.come().await;
                if desk.own.get(&key, |own| own.instance.ephemeral) == Some(false) {
                    return Err(Error::invalid("ephemeral", "the instance is registered as persistent: no heartbeats"));
                }
                desk.nacos.beat(&key.service, &instance, false, Patience::Operation).await
            }
        })
    }
}

/// Of our own Heartbeats: only for what is still wanted, with the values that are wanted now.
impl Handler<Beat> for Registry {
    type Result = ResponseFuture<Result<Beaten, Error>>;

    fn handle(&mut self, beat: Beat, _: &mut Context<Self>) -> Self::Result {
        self.answer(Operation::Beat, |desk| {
            let mut turn = desk.own.queue(&beat.key);
            async move {
                turn.come().await;
                let outcome = desk.beat(&beat).await;
                desk.note_beat(&beat.key, &outcome);
                outcome
            }
        })
    }
}

impl Desk {
    async fn beat(&self, beat: &Beat) -> Result<Beaten, Error> {
        let Some((instance, known_to)) = self.own.get(&beat.key, |own| (own.instance.clone(), own.known_to)) else {
            return Ok(Beaten::NotWanted);
        };
        let generation = self.nacos.generation();
        if beat.kind == BeatKind::Register || known_to != Some(generation) {
            return self.register_again(&beat.key, &instance, Patience::Round).await;
        }
        let light = beat.kind == BeatKind::Light;
        let reply = self.nacos.beat(&beat.key.service, &instance, light, Patience::Round).await?;
        if reply.is_unknown() {
            return Ok(Beaten::Forgotten);
        }
        // The beat itself found a connection broken: the server that took it may be a new one, which has the instance
        // from a light beat without its weight and metadata (r-nacos).
        if self.nacos.generation() != generation {
            return self.register_again(&beat.key, &instance, Patience::Round).await;
        }
        Ok(Beaten::Taken(reply))
    }

    async fn register_again(
        &self,
        key: &InstanceKey,
        instance: &Instance,
        patience: Patience,
    ) -> Result<Beaten, Error> {
        self.nacos.register(&key.service, instance, patience).await?;
        let generation = self.nacos.generation();
        let first = self.own.get(key, |own| own.known_to.is_none()).unwrap_or(false);
        self.own.update(key, |own| own.known_to = Some(generation));
        if first {
            info!(self.log, "instance registered, now that the server can be reached"; "instance" => %key);
        } else {
            debug!(self.log, "instance registered again"; "instance" => %key);
        }
        Ok(if instance.ephemeral { Beaten::Registered } else { Beaten::NotWanted })
    }

    /// Persistent instances have no Heartbeat that would notice that a server does not know them.
    pub(super) async fn restore_persistent(&self) {
        let generation = self.nacos.generation();
        let mut lost = Vec::new();
        self.own.for_each(|own| {
            if !own.instance.ephemeral && own.heartbeat.is_none() && own.known_to != Some(generation) {
                lost.push(own.key.clone());
            }
        });
        for key in lost {
            let mut turn = self.own.queue(&key);
            turn.come().await;
            let Some(instance) = self.own.get(&key, |own| own.instance.clone()) else { continue };
            let outcome = self.register_again(&key, &instance, Patience::Operation).await;
            self.note_beat(&key, &outcome);
        }
    }

    fn note_beat(&self, key: &InstanceKey, outcome: &Result<Beaten, Error>) {
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
