//! Changes by operators: 1.4 changes the instance itself, 2.x and later store an override.
//!
//! The difference matters to clients. On 1.4 a PATCH changes the given values of the instance. Since 2.x a PATCH
//! creates an override, in which values that are not given have Nacos' defaults: a PATCH of the metadata alone sets the
//! weight to 1. An override stays when the owner registers again.

use crate::model::instance::Metadata;

use super::{
    catalogue::{Instance, InstanceAddress, Override, ServiceKey},
    state::State,
};

/// The values that a PATCH sets.
#[derive(Debug, Default)]
pub(crate) struct Patch {
    pub(crate) weight: Option<f64>,
    pub(crate) enabled: Option<bool>,
    pub(crate) healthy: Option<bool>,
    pub(crate) metadata: Option<Metadata>,
}

/// The instances that a batch changes.
pub(crate) struct Batch {
    /// Empty for all.
    pub(crate) addresses: Vec<InstanceAddress>,
    /// Whether the request selects `ephemeral` or `persist` instances. 1.4 then changes all instances of that kind.
    pub(crate) consistency: Option<bool>,
}

/// What a batch does with the metadata of each instance: adds these pairs, or removes these keys.
pub(crate) enum BatchAction {
    Put(Metadata),
    Remove(Metadata),
}

impl State {
    /// PUT: sets all values. False if the instance does not exist on 1.4. 2.x accepts that.
    ///
    /// A PUT also counts as a beat on 1.4.
    pub(crate) fn overwrite(&mut self, key: &ServiceKey, instance: Instance) -> bool {
        let is_v1_4 = self.dialect().is_v1_4();
        let now = self.now();
        let Some(service) = self.catalogue.service_mut(key) else { return false };
        if is_v1_4 {
            let known = service.instances.values_mut().find(|known| known.address() == instance.address());
            let Some(known) = known else { return false };
            *known =
                Instance { ephemeral: known.ephemeral, registration: known.registration, last_beat: now, ..instance };
        } else {
            let Instance { weight, enabled, metadata, .. } = &instance;
            let over = Override { weight: *weight, enabled: *enabled, metadata: metadata.clone(), expires: None };
            service.overrides.insert(instance.address(), over);
        }
        let key = service.key.clone();
        self.changed(&key);
        true
    }

    /// PATCH: sets the given values. False if lists show no such instance.
    pub(crate) fn patch(&mut self, key: &ServiceKey, address: (&str, &str, i64), patch: Patch) -> bool {
        let is_v1_4 = self.dialect().is_v1_4();
        let now = self.now();
        let visible = self.visible_instances(key).unwrap_or_default();
        let Some(address) = visible.iter().find(|instance| instance.is_at(address)).map(Instance::address) else {
            return false;
        };
        let Some(service) = self.catalogue.service_mut(key) else { return false };
        if is_v1_4 {
            let known = service.instances.values_mut().find(|known| known.address() == address);
            let Some(known) = known else { return false };
            known.last_beat = now;
            known.healthy = patch.healthy.unwrap_or(known.healthy);
            patch.apply(&mut known.weight, &mut known.enabled, &mut known.metadata);
        } else {
            // A new override begins with the defaults of Nacos, not with the values of the instance: a PATCH of only
            // the metadata sets the weight to 1 (`InstanceOperatorClientImpl.patchInstance`).
            let mut over = service.overrides.get(&address).cloned().unwrap_or_default();
            patch.apply(&mut over.weight, &mut over.enabled, &mut over.metadata);
            service.overrides.insert(address, over);
        }
        let key = service.key.clone();
        self.changed(&key);
        true
    }

    /// Changes the metadata of many instances. Returns the instances that were changed.
    ///
    /// Nacos answers with the addresses of these instances.
    pub(crate) fn batch(&mut self, key: &ServiceKey, batch: &Batch, action: &BatchAction) -> Vec<Instance> {
        let is_v1_4 = self.dialect().is_v1_4();
        let visible = self.visible_instances(key).unwrap_or_default();
        let selected: Vec<Instance> = visible.iter().filter(|i| batch.selects(i, is_v1_4)).cloned().collect();
        let Some(service) = self.catalogue.service_mut(key) else { return Vec::new() };
        for instance in &selected {
            let address = instance.address();
            if is_v1_4 {
                let known = service.instances.values_mut().find(|known| known.address() == address);
                known.into_iter().for_each(|known| action.apply(&mut known.metadata));
            } else {
                let mut over = service.overrides.get(&address).cloned().unwrap_or_default();
                action.apply(&mut over.metadata);
                service.overrides.insert(address, over);
            }
        }
        let key = service.key.clone();
        self.changed(&key);
        selected
    }
}

impl Patch {
    fn apply(self, weight: &mut f64, enabled: &mut bool, metadata: &mut Metadata) {
        *weight = self.weight.unwrap_or(*weight);
        *enabled = self.enabled.unwrap_or(*enabled);
        if let Some(new) = self.metadata {
            *metadata = new;
        }
    }
}

impl Batch {
    fn selects(&self, instance: &Instance, is_v1_4: bool) -> bool {
        match self.consistency {
            Some(ephemeral) if is_v1_4 => instance.ephemeral == ephemeral,
            _ => self.addresses.is_empty() || self.addresses.contains(&instance.address()),
        }
    }
}

impl BatchAction {
    fn apply(&self, metadata: &mut Metadata) {
        match self {
            BatchAction::Put(more) => metadata.extend(more.clone()),
            BatchAction::Remove(fewer) => metadata.retain(|key, _| !fewer.contains_key(key)),
        }
    }
}
