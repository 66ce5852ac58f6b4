//! Operators change instances: 1.4 changes the instance itself, later Nacos lays an override over it.

use crate::model::instance::Metadata;

use super::{
    catalogue::{Instance, Override, Service, ServiceKey},
    state::State,
};

/// What a PATCH sets.
#[derive(Debug, Default)]
pub(crate) struct Patch {
    pub(crate) weight: Option<f64>,
    pub(crate) enabled: Option<bool>,
    pub(crate) healthy: Option<bool>,
    pub(crate) metadata: Option<Metadata>,
}

/// Which instances a batch means.
pub(crate) struct Batch {
    /// Cluster, ip and port; none for all.
    pub(crate) places: Vec<(String, String, i64)>,
    /// Whether the request says `ephemeral` or `persist` at all: 1.4 then takes all of that kind.
    pub(crate) consistency: Option<bool>,
}

pub(crate) enum BatchAction {
    Put(Metadata),
    Remove(Metadata),
}

impl State {
    /// PUT, all values at once. False when 1.4 knows no such instance; 2.x does not care.
    pub(crate) fn overwrite(&mut self, key: &ServiceKey, instance: Instance) -> bool {
        let is_v1_4 = self.dialect().is_v1_4();
        let now = self.now();
        let Some(service) = self.catalogue.service_mut(key) else { return false };
        if is_v1_4 {
            let known = service.instances.values_mut().find(|known| known.place() == instance.place());
            let Some(known) = known else { return false };
            *known =
                Instance { ephemeral: known.ephemeral, registration: known.registration, last_beat: now, ..instance };
        } else {
            let Instance { weight, enabled, metadata, .. } = &instance;
            let over = Override { weight: *weight, enabled: *enabled, metadata: metadata.clone(), expires: None };
            service.lay_over(instance.place(), over);
        }
        let key = service.key.clone();
        self.changed(&key);
        true
    }

    /// PATCH: what is given. False when lists show no such instance.
    pub(crate) fn patch(&mut self, key: &ServiceKey, place: (&str, &str, i64), patch: Patch) -> bool {
        let is_v1_4 = self.dialect().is_v1_4();
        let now = self.now();
        let shown = self.shown(key).unwrap_or_default();
        let Some(place) = shown.iter().find(|instance| instance.is_at(place)).map(Instance::place) else {
            return false;
        };
        let Some(service) = self.catalogue.service_mut(key) else { return false };
        if is_v1_4 {
            let known = service.instances.values_mut().find(|known| known.place() == place);
            let Some(known) = known else { return false };
            known.last_beat = now;
            known.healthy = patch.healthy.unwrap_or(known.healthy);
            patch.apply(&mut known.weight, &mut known.enabled, &mut known.metadata);
        } else {
            // What the override did not know yet begins with Nacos' defaults, not with the instance's values: a PATCH
            // of the metadata alone sets the weight to 1 (`InstanceOperatorClientImpl.patchInstance`).
            let mut over = service.overrides.get(&place).cloned().unwrap_or_default();
            patch.apply(&mut over.weight, &mut over.enabled, &mut over.metadata);
            service.lay_over(place, over);
        }
        let key = service.key.clone();
        self.changed(&key);
        true
    }

    /// Metadata of many; gives those that were changed.
    pub(crate) fn batch(&mut self, key: &ServiceKey, batch: &Batch, action: &BatchAction) -> Vec<Instance> {
        let is_v1_4 = self.dialect().is_v1_4();
        let shown = self.shown(key).unwrap_or_default();
        let meant: Vec<Instance> = shown.iter().filter(|i| batch.means(i, is_v1_4)).cloned().collect();
        let Some(service) = self.catalogue.service_mut(key) else { return Vec::new() };
        for instance in &meant {
            let place = instance.place();
            if is_v1_4 {
                let known = service.instances.values_mut().find(|known| known.place() == place);
                known.into_iter().for_each(|known| action.apply(&mut known.metadata));
            } else {
                let mut over = service.overrides.get(&place).cloned().unwrap_or_default();
                action.apply(&mut over.metadata);
                service.lay_over(place, over);
            }
        }
        let key = service.key.clone();
        self.changed(&key);
        meant
    }
}

impl Service {
    fn lay_over(&mut self, place: (String, String, i64), over: Override) {
        self.overrides.insert(place, over);
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
    fn means(&self, instance: &Instance, is_v1_4: bool) -> bool {
        match self.consistency {
            Some(ephemeral) if is_v1_4 => instance.ephemeral == ephemeral,
            _ => self.places.is_empty() || self.places.contains(&instance.place()),
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
