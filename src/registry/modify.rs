//! Changing some values of an instance.

use std::{rc::Rc, sync::Arc};

use actix::{Context, Handler, Message, ResponseFuture};
use actix_rt::time::Instant;

use super::{
    actor::Registry,
    instances::as_sent,
    metadata::{metadata_setters, MetadataChange},
    shared::Shared,
    target::{target_conversions, target_setters, Target},
};
use crate::{
    client::Patience,
    error::{Error, Operation},
    model::{
        instance::{Instance, InstanceKey},
        service::ServiceRef,
    },
};

/// Changes some values of an instance; what is not given stays as it is, on every server.
///
/// The present values are read first (GET and list together, since neither tells all), then all are written. An instance
/// that this Registry registered is registered again: what somebody else changed of it, say an operator who disabled it,
/// stays as it is unless the message changes it, too. A server that forgot the instance gets what this application wanted,
/// without such changes. What this Registry wrote within the last 2 s counts also where the server does not show it yet, so
/// that changes right after each other all hold. Of somebody else's instance all values are overwritten. Nacos 2 and later lay that over what the
/// owner registered: keys of its metadata can be added and changed there, and not be taken away.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::Unsupported`] where the server does not tell what is so now, or takes no changes;
/// [`Error::Unauthorized`] for somebody else's instance on Nacos 3, unless the login is an administrator's: let the owner
/// change it; [`Error::InvalidInput`] naming the field; what the server says.
#[derive(Debug, Clone, PartialEq, Message)]
#[rtype(result = "Result<(), Error>")]
pub struct ModifyInstance {
    target: Target,
    weight: Option<f64>,
    metadata: MetadataChange,
    enabled: Option<bool>,
}

impl ModifyInstance {
    /// Changes `ip:port` of `service` (or `GROUP@@service`).
    pub fn new(service: impl Into<ServiceRef>, ip: impl Into<String>, port: u16) -> Self {
        Self::of(Target::new(service, ip, port), None)
    }

    target_setters!();

    /// Its new weight, 0 to 10,000.
    #[must_use]
    pub fn weight(mut self, weight: f64) -> Self {
        self.weight = Some(weight);
        self
    }

    metadata_setters!(
        metadata,
        "Sets the whole metadata, instead of all that it has but the keys under `preserved.`: those stay until they are set or \
         removed by name. For the limits see [`ModifyInstance`]."
    );

    /// Whether it takes calls from now on.
    #[must_use]
    pub fn enabled(mut self, enabled: bool) -> Self {
        self.enabled = Some(enabled);
        self
    }

    fn apply_to(&self, instance: &Instance) -> Instance {
        let mut changed = instance.clone();
        changed.weight = self.weight.unwrap_or(changed.weight);
        changed.enabled = self.enabled.unwrap_or(changed.enabled);
        self.metadata.apply_to(&mut changed.metadata);
        changed
    }

    /// The key, if the given values are acceptable whatever the instance is like.
    fn validate(&self) -> Result<Arc<InstanceKey>, Error> {
        let key = self.target.key()?;
        self.apply_to(&Instance::new(&key.ip, key.port)).validate_values().map(|()| key)
    }
}

impl Handler<ModifyInstance> for Registry {
    type Result = ResponseFuture<Result<(), Error>>;

    fn handle(&mut self, message: ModifyInstance, _: &mut Context<Self>) -> Self::Result {
        self.dispatch(Operation::Modify, |shared| {
            let taken = message.validate().map(|key| (shared.desired.queue_change(&key), key));
            async move {
                let (mut turn, key) = taken?;
                turn.come().await;
                match shared.desired.get(&key, |desired| desired.instance.clone()) {
                    Some(wanted) => shared.modify_desired(&key, &message, &wanted).await,
                    None => shared.modify_others(&key, &message).await,
                }
            }
        })
    }
}

impl Shared {
    /// Registers the instance with the change merged into what the server has now, so that it undoes no change by somebody
    /// else. What the application wants is merged with the change alone: that is what a server gets that forgot the instance.
    async fn modify_desired(
        &self,
        key: &Arc<InstanceKey>,
        change: &ModifyInstance,
        wanted: &Instance,
    ) -> Result<(), Error> {
        let now_wanted = change.apply_to(wanted);
        now_wanted.validate_values()?;
        let patience = self.nacos.patience();
        let so_far = self.desired.get(key, |desired| (desired.restore.clone(), desired.last_written));
        let before = match so_far.unwrap_or_default() {
            // The server may have a change that failed, and that is still to be taken back.
            (Some(restore), _) => (*restore).clone(),
            (None, Some(written)) => self.present_values(key, change, wanted, written, patience).await?,
            (None, None) => wanted.clone(),
        };
        let after = change.apply_to(&before);
        // Read before sending: the epoch may change while the request is under way.
        let epoch = self.nacos.epoch();
        if let Err(error) = self.nacos.register(&key.service, &after, patience).await {
            if error.is_retryable() {
                // A server may have applied it.
                self.restore(key, Some(Rc::new(before)));
            }
            return Err(error);
        }
        self.recent_writes.changed(key, as_sent(&before), as_sent(&after));
        self.note(key, |desired| {
            desired.instance = Rc::new(now_wanted);
            desired.registered(epoch);
            let interval = desired.instance.preserved_interval();
            if desired.instance.ephemeral && interval != wanted.preserved_interval() {
                // The next beat may be due long after the server has given the instance up.
                let heartbeat = self.new_heartbeat(key, &desired.instance);
                desired.replace_heartbeat(|| self.start_heartbeat(heartbeat));
            }
        });
        Ok(())
    }

    /// What the server has of an instance that is wanted; what is wanted where it does not have it.
    async fn present_values(
        &self,
        key: &Arc<InstanceKey>,
        change: &ModifyInstance,
        wanted: &Instance,
        written: Instant,
        patience: Patience,
    ) -> Result<Instance, Error> {
        // One request where it makes no difference whether the instance is enabled now.
        let told = match change.enabled {
            Some(_) => self.nacos.told(key, patience).await,
            None => self.nacos.current(key, Some(written), patience).await.map(|current| current.instance),
        };
        let mut present = match self.recent_writes.applied_to(key, told) {
            Err(Error::NotFound { .. }) => return Ok(wanted.clone()),
            told => told?,
        };
        present.ephemeral = wanted.ephemeral;
        // An ephemeral instance is healthy by its beats.
        present.healthy |= wanted.ephemeral;
        wanted.forget_derived_interval(&mut present.metadata);
        Ok(present)
    }
}

impl Shared {
    /// What cannot be learned is never written over.
    async fn modify_others(&self, key: &Arc<InstanceKey>, change: &ModifyInstance) -> Result<(), Error> {
        let patience = self.nacos.patience();
        let told = self.nacos.current(key, None, patience).await;
        let is_complete = told.as_ref().is_ok_and(|current| current.is_complete);
        let mut before = self.recent_writes.applied_to(key, told.map(|current| current.instance))?;
        if !is_complete {
            before.ephemeral = self.recent_writes.is_ephemeral(key).ok_or_else(|| self.tells_too_little(key))?;
        }
        let after = change.apply_to(&before);
        // What it has already may be more than we would register: only the given values were checked.
        self.nacos.overwrite(&key.service, &after, patience).await?;
        self.recent_writes.changed(key, before, after);
        Ok(())
    }

    fn tells_too_little(&self, key: &InstanceKey) -> Error {
        let server = self.nacos.servers().current().map_or_else(String::new, |server| server.name.clone());
        let reason = format!("it does not tell whether {key}, which is disabled, is ephemeral");
        Error::Unsupported { operation: Operation::Modify, server, reason }
    }
}

impl ModifyInstance {
    fn of(target: Target, _: Option<Instance>) -> Self {
        ModifyInstance { target, weight: None, metadata: MetadataChange::default(), enabled: None }
    }
}

target_conversions!(ModifyInstance);
