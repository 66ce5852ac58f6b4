//! Changing some values of an instance.

use std::{rc::Rc, sync::Arc};

use actix::{Context, Handler, Message, ResponseFuture};

use super::{
    metadata::{metadata_setters, MetadataChange},
    target::{target_conversions, target_setters, Target},
    Desk, Registry,
};
use crate::{
    error::Error,
    instance::{Instance, InstanceKey},
    nacos::{Operation, Patience},
    service::ServiceRef,
};

/// Changes some values of an instance; what is not given stays as it is, on every server.
///
/// An own instance is registered again with the merged values, and keeps them. Of somebody else's the present values are
/// read first (GET and list together, since neither tells all), then all are written. Nacos 2 and later lay that over what
/// the owner registered: keys of its metadata can be added and changed there, and not be taken away.
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
        self.answer(Operation::Modify, |desk| {
            let taken = message.validate().map(|key| (desk.desired.queue(&key), key));
            async move {
                let (mut turn, key) = taken?;
                turn.come().await;
                match desk.desired.get(&key, |desired| desired.instance.clone()) {
                    Some(values) => desk.modify_desired(&key, message.apply_to(&values)).await,
                    None => desk.modify_others(&key, &message).await,
                }
            }
        })
    }
}

impl Desk {
    async fn modify_desired(&self, key: &Arc<InstanceKey>, values: Instance) -> Result<(), Error> {
        values.validate_values()?;
        // Read before sending: the epoch may change while the request is under way.
        let epoch = self.nacos.epoch();
        if let Err(error) = self.nacos.register(&key.service, &values, Patience::Operation).await {
            if error.is_retryable() {
                // A server may have applied it.
                self.restore(key, self.desired.get(key, |desired| desired.instance.clone()));
            }
            return Err(error);
        }
        self.desired.update(key, |desired| {
            let before = std::mem::replace(&mut desired.instance, Rc::new(values));
            desired.registered(epoch);
            let interval = desired.instance.preserved_interval();
            if desired.instance.ephemeral && interval != before.preserved_interval() {
                // The next beat may be due long after the server has given the instance up.
                let heartbeat = self.new_heartbeat(key, &desired.instance);
                desired.replace_heartbeat(|| self.start_heartbeat(heartbeat));
            }
        });
        Ok(())
    }
}

impl Desk {
    /// What cannot be learned is never written over.
    async fn modify_others(&self, key: &InstanceKey, change: &ModifyInstance) -> Result<(), Error> {
        let patience = self.nacos.patience();
        let current = self.nacos.current(key, patience).await?;
        if !current.is_complete {
            let server = self.nacos.servers().current().map_or_else(String::new, |server| server.name.clone());
            let reason = format!("it does not tell whether {key}, which is disabled, is ephemeral");
            return Err(Error::Unsupported { operation: Operation::Modify, server, reason });
        }
        // What it has already may be more than we would register: only the given values were checked.
        self.nacos.overwrite(&key.service, &change.apply_to(&current.instance), patience).await
    }
}

impl ModifyInstance {
    fn of(target: Target, _: Option<Instance>) -> Self {
        ModifyInstance { target, weight: None, metadata: MetadataChange::default(), enabled: None }
    }
}

target_conversions!(ModifyInstance);
