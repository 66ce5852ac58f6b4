//! Messages that register and deregister an instance.
//!
//! Like every message about one instance, these take the instance's turn as soon as the mailbox receives them. So they
//! reach the server in the order in which they were sent.
//!
//! A request may fail and be applied all the same. So a registration first notes a leftover, and only its success
//! makes it a desired instance. If the Registry ends in between, the shutdown deregisters the leftover.

use std::{sync::Arc, time::Duration};

use actix::{Context, Handler, Message, ResponseFuture};
use slog::info;

use super::{
    actor::Registry,
    desired::{DesiredInstance, Turn},
    registration::Registration,
    shared::Shared,
    target::{target_conversions, target_setters, Target},
    values::{initial_values, value_setters},
};
use crate::{
    client::Patience,
    error::{Error, Operation},
    model::{
        instance::{Instance, InstanceKey, HEART_BEAT_INTERVAL},
        instance_state::InstanceState,
        service::ServiceRef,
    },
};

/// Registers an instance of a service. Heartbeats then keep an ephemeral instance alive.
///
/// The answer is a [`Registration`], by which any thread can check whether the instance is registered. It may be
/// dropped: the instance stays registered until [`DeregisterInstance`], [`Shutdown`](crate::Shutdown) or the end of the
/// Registry. Registering an instance again replaces its values.
///
/// After a server has restarted, or when another server is used, the Registry registers the instance again by itself.
///
/// ```
/// # use actix_nacos::{embedded::EmbeddedServer, prelude::*};
/// # #[actix::main]
/// # async fn main() -> Result<(), Error> {
/// # let server = EmbeddedServer::start().unwrap();
/// # let registry = Registry::start(Config::new(server.server_address()))?;
/// let orders = RegisterInstance::new("orders", "127.0.0.7", 8080).weight(2.0).metadata("zone", "a");
/// let registration = registry.send(orders).await??;
/// assert!(registration.is_registered());
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// - [`Error::InvalidInput`] if a value is invalid. Nothing was sent; correct the field that the error names.
/// - The error of the last attempt, if no server has accepted the registration within
///   [`Config::operation_timeout`](crate::Config::operation_timeout) (10 s). Send the message again, or use
///   [`when_reachable`](RegisterInstance::when_reachable).
/// - Any other error names the server and the reason. Correct what the server rejects.
///
/// After an error nothing has changed. An instance that was not registered before sends no heartbeats, and an instance
/// that was registered keeps its previous values. If the request was applied all the same, for example because only its
/// answer was lost, the Registry undoes it in the background.
#[derive(Debug, Clone, PartialEq, Message)]
#[rtype(result = "Result<Registration, Error>")]
pub struct RegisterInstance {
    target: Target,
    values: Instance,
    when_reachable: bool,
}

impl RegisterInstance {
    /// Registers `ip:port` as an instance of `service`, which may be written `GROUP@@service`.
    pub fn new(service: impl Into<ServiceRef>, ip: impl Into<String>, port: u16) -> Self {
        Self::of(Target::new(service, ip, port), None)
    }

    fn of(target: Target, values: Option<Instance>) -> Self {
        RegisterInstance { target, values: initial_values(values), when_reachable: false }
    }

    target_setters!();

    /// Replaces the address given to [`new`](RegisterInstance::new).
    ///
    /// Use it to change a message that was made elsewhere, as in `Serve::register_with`.
    #[must_use]
    pub fn ip(mut self, ip: impl Into<String>) -> Self {
        self.target.ip = ip.into().into();
        self
    }

    /// The address that this message registers.
    #[cfg(feature = "actix-web")]
    pub(crate) fn ip_to_register(&self) -> &str {
        &self.target.ip
    }

    /// Replaces the port given to [`new`](RegisterInstance::new).
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.target.port = port;
        self.values.port = port;
        self
    }

    value_setters! {
        /// Sets the weight, from 0 to 10,000: the share of calls that this instance gets, compared with the other
        /// instances. Default: 1.
        weight;
        /// Adds one metadata entry, or replaces the entry with this key. [`Metadata`](crate::Metadata) names the
        /// limits. Default: no metadata.
        metadata;
        /// Sets all metadata and discards what was set before. Default: no metadata.
        all_metadata;
        /// Removes one metadata entry that was set before, or that a converted [`Instance`] has.
        without_metadata;
        /// Sets whether the instance is ephemeral (true) or persistent (false). Heartbeats keep an ephemeral instance
        /// alive. A persistent instance stays registered until it is deregistered, and the server checks its health.
        /// Default: true.
        ephemeral;
        /// Sets whether the instance accepts calls. Servers leave disabled instances out of their lists. Default: true.
        enabled;
    }

    /// Sets whether the instance is healthy when it is registered for the first time. Default: true.
    ///
    /// Use false for an instance that others must see before it takes calls. An ephemeral instance becomes healthy
    /// with its first heartbeat, so this setting matters mostly for persistent instances.
    #[must_use]
    pub fn healthy(mut self, healthy: bool) -> Self {
        self.values.healthy = healthy;
        self
    }

    /// Sets the interval between heartbeats, as the metadata entry `preserved.heart.beat.interval`. Default: 5 s.
    ///
    /// If a server asks for a shorter interval, the Registry uses the shorter one; a longer one is ignored. Servers
    /// mark an instance as unhealthy after 15 s without a heartbeat. If the interval comes near that, raise
    /// [`HEART_BEAT_TIMEOUT`](crate::HEART_BEAT_TIMEOUT) and [`IP_DELETE_TIMEOUT`](crate::IP_DELETE_TIMEOUT) in the
    /// metadata, too.
    #[must_use]
    pub fn heartbeat_interval(self, interval: Duration) -> Self {
        self.metadata(HEART_BEAT_INTERVAL, interval.as_millis().to_string())
    }

    /// Answers at once, and registers the instance as soon as a server can be reached. Default: off, the message waits
    /// for a server and fails after [`Config::operation_timeout`](crate::Config::operation_timeout).
    ///
    /// [`Registration::registered_within`] waits for the registration. [`GetStatus`](crate::GetStatus) and
    /// [`WatchInstances`](crate::WatchInstances) report the state, too.
    ///
    /// Use it for a process that must start although the registry is down. Invalid values are still an error at
    /// once.
    #[must_use]
    pub fn when_reachable(mut self) -> Self {
        self.when_reachable = true;
        self
    }
}

target_conversions!(RegisterInstance);

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
                    shared.set_desired(key.clone(), values, None);
                } else {
                    shared.register(key.clone(), values).await?;
                }
                let published = shared.desired.get(&key, |desired| desired.publisher.published());
                Ok(Registration::new(published.ok_or(Error::Stopped)?, registry))
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
        let previous = self.desired.get(&key, |desired| desired.instance.clone());
        if previous.as_ref().is_none_or(|previous| previous.ephemeral != values.ephemeral) {
            self.desired.add_leftover(&key, values.ephemeral);
        }
        let outcome = self.nacos.register(&key.service, &values, Patience::Operation).await;
        match &outcome {
            Ok(epoch) => {
                self.note_registration(&key, previous.as_ref(), &values);
                self.set_desired(key, values, Some(*epoch));
            }
            Err(error) if error.is_retryable() => self.take_back(&key, previous),
            // The server rejected the registration, so there is nothing to take back.
            Err(_) => self.desired.forget_leftover(&key),
        }
        outcome.map(drop)
    }

    fn note_registration(&self, key: &Arc<InstanceKey>, previous: Option<&Instance>, values: &Instance) {
        match previous {
            Some(previous) => self.recent_writes.changed(key, as_sent(previous), as_sent(values)),
            None => self.recent_writes.registered(key, || as_sent(values)),
        }
    }

    /// Undoes a registration that failed, since a server may have applied it: deregisters the instance in the
    /// background, or registers it with its previous values.
    fn take_back(&self, key: &Arc<InstanceKey>, previous: Option<Instance>) {
        self.deregister_in_background(key);
        if previous.is_some() {
            self.restore(key, previous);
        }
    }

    /// Makes the instance part of the desired state. `known_to` is the epoch in which a server accepted these values;
    /// `None` if no server has, then the first beat is due at once and registers the instance.
    fn set_desired(&self, key: Arc<InstanceKey>, values: Instance, known_to: Option<u64>) {
        let is_pending = known_to.is_none();
        let needs_heartbeat = (values.ephemeral || is_pending) && !self.nacos.is_disabled();
        let heartbeat = needs_heartbeat.then(|| {
            let heartbeat = self.new_heartbeat(&key, &values);
            if is_pending { heartbeat.at_once() } else { heartbeat }.start_supervised()
        });
        self.desired.insert(DesiredInstance::new(key.clone(), values, heartbeat));
        if is_pending {
            self.desired.update(&key, |desired| desired.publisher.publish(InstanceState::Pending, None));
        }
        // Notify last: a logger that panics must not cost the instance its Heartbeat.
        match known_to {
            None => self.notify_of_state(&key, InstanceState::Pending, InstanceState::Pending, None),
            Some(epoch) => {
                if epoch != self.nacos.epoch() {
                    self.start_restoring(&key);
                }
                self.note(&key, |desired| desired.registered(epoch));
            }
        }
    }
}

/// The instance as a server shows it after a registration with these values.
///
/// Comparisons with what a server shows must use these values, and not the desired values.
pub(super) fn as_sent(instance: &Instance) -> Instance {
    Instance { metadata: instance.metadata_to_register().into_owned(), ..instance.clone() }
}

/// Deregisters an instance and stops its heartbeats. An instance that is not registered is no error.
///
/// An instance that this Registry registered is deregistered as ephemeral or persistent, whichever it was registered
/// as. That also holds when the message is sent again after an error.
///
/// ```
/// # use actix_nacos::{embedded::EmbeddedServer, prelude::*};
/// # #[actix::main]
/// # async fn main() -> Result<(), Error> {
/// # let server = EmbeddedServer::start().unwrap();
/// # let registry = Registry::start(Config::new(server.server_address()))?;
/// registry.send(RegisterInstance::new("orders", "127.0.0.7", 8080)).await??;
/// registry.send(DeregisterInstance::new("orders", "127.0.0.7", 8080)).await??;
/// assert!(registry.send(ListInstances::new("orders")).await??.hosts.is_empty());
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// - [`Error::InvalidInput`] if a value is invalid. Nothing was sent; correct the field that the error names.
/// - Any other error names the server and the reason. If [`is_retryable`](Error::is_retryable) is true, send the
///   message again.
///
/// After an error of a server the heartbeats have stopped all the same, and the server removes an ephemeral instance
/// after 30 s without them. If this Registry registered the instance, it goes on deregistering in the background until
/// a server confirms or rejects that, or the instance is registered again.
#[derive(Debug, Clone, PartialEq, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct DeregisterInstance {
    target: Target,
    ephemeral: bool,
}

impl DeregisterInstance {
    /// Deregisters `ip:port` from `service`, which may be written `GROUP@@service`.
    pub fn new(service: impl Into<ServiceRef>, ip: impl Into<String>, port: u16) -> Self {
        Self::of(Target::new(service, ip, port), None)
    }

    fn of(target: Target, values: Option<Instance>) -> Self {
        DeregisterInstance { target, ephemeral: values.is_none_or(|values| values.ephemeral) }
    }

    target_setters!();

    /// Sets whether an instance that this Registry did not register is ephemeral (true) or persistent (false). Default:
    /// true.
    #[must_use]
    pub fn ephemeral(mut self, ephemeral: bool) -> Self {
        self.ephemeral = ephemeral;
        self
    }
}

target_conversions!(DeregisterInstance);

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
            desired.publisher.deregistered();
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
