//! The message that changes some values of an instance.
//!
//! Nacos offers PUT and PATCH, but their meaning differs between versions. On 1.4 a PUT wipes the values that it leaves
//! out. On 2.x a PATCH of the metadata sets the weight to 1, and both become an override that outlives the instance.
//! 3.0 offers neither to clients. So an instance of this Registry is registered again with all values, which means the
//! same everywhere. An instance that another process registered can only be changed by a PUT with all values.

use std::sync::Arc;

use actix::{Context, Handler, Message, ResponseFuture};
use actix_rt::time::Instant;

use super::{
    actor::Registry,
    instances::as_sent,
    shared::Shared,
    target::{target_conversions, target_setters, Target},
    values::{value_setters, ValuesChange},
};
use crate::{
    client::Patience,
    error::{Error, Operation},
    model::{
        instance::{Instance, InstanceKey},
        service::ServiceRef,
    },
};

/// Changes some values of an instance. A value that is not given stays as it is, on every kind of server.
///
/// The Registry reads the current values, merges the change into them, and writes all values. It reads the instance
/// and, if necessary, the list of its service, because neither has all values.
///
/// - **An instance that this Registry registered** is registered again with the merged values. Changes by others, for
///   example by an operator who disabled the instance, stay unless the message changes the same value. The change
///   becomes part of the desired state. A server that forgets the instance later receives the desired values, without
///   the changes by others.
/// - **An instance that another process registered** gets all its values overwritten. Nacos 2 and later treat them as
///   an override of what the owner registered: metadata keys can be added and changed, but not removed.
///
/// Two changes in quick succession both hold. A server may need half a second to show a change, so the Registry
/// keeps its own writes for 2 s.
///
/// ```
/// # use actix_nacos::{embedded::EmbeddedServer, prelude::*};
/// # #[actix::main]
/// # async fn main() -> Result<(), Error> {
/// # let server = EmbeddedServer::start().unwrap();
/// # let registry = Registry::start(Config::new(server.server_address()))?;
/// registry.send(RegisterInstance::new("orders", "127.0.0.7", 8080).metadata("zone", "a")).await??;
/// registry.send(ModifyInstance::new("orders", "127.0.0.7", 8080).weight(0.5)).await??;
/// let instance = registry.send(GetInstance::new("orders", "127.0.0.7", 8080)).await??;
/// assert_eq!((instance.weight, instance.metadata["zone"].as_str()), (0.5, "a"));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// - [`Error::InvalidInput`] if a value is invalid. Correct the field that the error names.
/// - [`Error::NotFound`] if the server has no such instance. Register it first.
/// - [`Error::Unsupported`] if the server does not show all values, or does not support changes. Let the owner change
///   the instance.
/// - [`Error::Unauthorized`] for an instance that another process registered on Nacos 3, unless the login is an
///   administrator's. Let the owner change the instance.
/// - Any other error names the server and the reason. If [`is_retryable`](Error::is_retryable) is true, send the
///   message again.
#[derive(Debug, Clone, PartialEq, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct ModifyInstance {
    target: Target,
    values: ValuesChange,
}

impl ModifyInstance {
    /// Changes `ip:port` of `service`, which may be written `GROUP@@service`.
    pub fn new(service: impl Into<ServiceRef>, ip: impl Into<String>, port: u16) -> Self {
        Self::of(Target::new(service, ip, port), None)
    }

    fn of(target: Target, _: Option<Instance>) -> Self {
        ModifyInstance { target, values: ValuesChange::default() }
    }

    target_setters!();

    value_setters! {
        /// Changes the weight, from 0 to 10,000: the share of calls that this instance gets, compared with the other
        /// instances.
        weight;
        /// Adds one metadata entry, or replaces the entry with this key. [`Metadata`](crate::Metadata) names the
        /// limits.
        metadata;
        /// Replaces all metadata, except the keys under `preserved.`: those are changed or removed only by name.
        all_metadata;
        /// Removes one metadata entry.
        without_metadata;
        /// Changes whether the instance accepts calls. Servers leave disabled instances out of their lists.
        enabled;
    }

    /// Checks what can be checked without the current values of the instance.
    fn validate(&self) -> Result<Arc<InstanceKey>, Error> {
        let key = self.target.key()?;
        self.values.apply_to(&Instance::new(key.ip.clone(), key.port)).validate_values().map(|()| key)
    }
}

target_conversions!(ModifyInstance);

impl Handler<ModifyInstance> for Registry {
    type Result = ResponseFuture<Result<(), Error>>;

    fn handle(&mut self, message: ModifyInstance, _: &mut Context<Self>) -> Self::Result {
        self.dispatch(Operation::Modify, |shared| {
            let taken = message.validate().map(|key| (shared.desired.queue_change(&key), key));
            async move {
                let (mut turn, key) = taken?;
                turn.come().await;
                match shared.desired.get(&key, |desired| desired.instance.clone()) {
                    Some(wanted) => shared.modify_desired(&key, &message.values, &wanted).await,
                    None => shared.modify_others(&key, &message.values).await,
                }
            }
        })
    }
}

impl Shared {
    /// Registers the instance with the change merged into the values that the server has now, so that changes by others
    /// stay. The desired values get the change alone: they are what a server receives that has forgotten the instance.
    async fn modify_desired(
        &self,
        key: &Arc<InstanceKey>,
        change: &ValuesChange,
        wanted: &Instance,
    ) -> Result<(), Error> {
        let now_wanted = change.apply_to(wanted);
        now_wanted.validate_values()?;
        let patience = self.nacos.patience();
        let before = self.values_before(key, change, wanted, patience).await?;
        let after = change.apply_to(&before);
        let epoch = match self.nacos.register(&key.service, &after, patience).await {
            Ok(epoch) => epoch,
            Err(error) => {
                if error.is_retryable() {
                    // A server may have applied the change.
                    self.restore(key, Some(before));
                }
                return Err(error);
            }
        };
        self.recent_writes.changed(key, as_sent(&before), as_sent(&after));
        self.note_modified(key, wanted, now_wanted, epoch);
        Ok(())
    }

    fn note_modified(&self, key: &Arc<InstanceKey>, wanted: &Instance, now_wanted: Instance, epoch: u64) {
        let has_new_interval = now_wanted.preserved_interval() != wanted.preserved_interval();
        self.note(key, |desired| {
            desired.instance = now_wanted;
            desired.registered(epoch);
            if desired.instance.ephemeral && has_new_interval {
                // With the previous interval, the next beat may be due after the server has removed the instance.
                let heartbeat = self.new_heartbeat(key, &desired.instance);
                desired.replace_heartbeat(|| heartbeat.start_supervised());
            }
        });
    }

    /// The values into which a change is merged.
    async fn values_before(
        &self,
        key: &Arc<InstanceKey>,
        change: &ValuesChange,
        wanted: &Instance,
        patience: Patience,
    ) -> Result<Instance, Error> {
        let state = self.desired.get(key, |desired| (desired.restore.clone(), desired.last_written));
        match state.unwrap_or_default() {
            // The server may have applied a change that failed and that is not taken back yet.
            (Some(restore), _) => Ok(*restore),
            (None, Some(written)) => self.present_values(key, change, wanted, written, patience).await,
            (None, None) => Ok(wanted.clone()),
        }
    }

    /// The values that the server has of a registered instance; the desired values if the server does not have it.
    async fn present_values(
        &self,
        key: &Arc<InstanceKey>,
        change: &ValuesChange,
        wanted: &Instance,
        written: Instant,
        patience: Patience,
    ) -> Result<Instance, Error> {
        // If the change sets `enabled`, the current value does not matter and one request is enough.
        let shown = match change.enabled {
            Some(_) => self.nacos.read_values(key, patience).await,
            None => self.nacos.current(key, Some(written), patience).await.map(|current| current.instance),
        };
        let mut present = match self.recent_writes.applied_to(key, shown) {
            Err(Error::NotFound { .. }) => return Ok(wanted.clone()),
            shown => shown?,
        };
        present.ephemeral = wanted.ephemeral;
        // Its heartbeats make an ephemeral instance healthy; registering it must not make it unhealthy.
        present.healthy |= wanted.ephemeral;
        wanted.forget_derived_interval(&mut present.metadata);
        Ok(present)
    }

    /// Overwrites all values. A value that the server does not show is never guessed: then this is an error.
    async fn modify_others(&self, key: &Arc<InstanceKey>, change: &ValuesChange) -> Result<(), Error> {
        let patience = self.nacos.patience();
        let shown = self.nacos.current(key, None, patience).await;
        let is_complete = shown.as_ref().is_ok_and(|current| current.is_complete);
        let mut before = self.recent_writes.applied_to(key, shown.map(|current| current.instance))?;
        if !is_complete {
            before.ephemeral = self.recent_writes.is_ephemeral(key).ok_or_else(|| self.kind_not_shown(key))?;
        }
        let mut after = change.apply_to(&before);
        if after.has_other_timeouts_than(&before) {
            // The server sends the owner the interval with the answer to its next beat.
            after.metadata = after.metadata_to_register().into_owned();
        }
        // Only the values of the message were checked. Values of another process may exceed the limits of this crate.
        self.nacos.overwrite(&key.service, &after, patience).await?;
        self.recent_writes.changed(key, before, after);
        Ok(())
    }

    fn kind_not_shown(&self, key: &InstanceKey) -> Error {
        let server = self.nacos.servers().current().map_or_else(String::new, |server| server.name.clone());
        let reason = format!("it does not show whether {key}, which is disabled, is ephemeral or persistent");
        Error::Unsupported { operation: Operation::Modify, server, reason }
    }
}
