//! Instances come, beat and go.

use std::{sync::Arc, time::Duration};

use crate::nacos::v1::{BEAT_TAKEN, BEAT_UNKNOWN};

use super::{
    catalogue::{Instance, InstanceKey, Service, ServiceKey},
    dialect::Dialect,
    state::{Due, State},
};

/// How long 2.x keeps a service without instances, and an operator's override of an instance that has gone
/// (`EmptyServiceCleaner`, `ExpiredMetadataCleaner`).
const KEPT_AFTER_THE_LAST: Duration = Duration::from_secs(60);

/// A beat, as it came.
pub(crate) struct Beat {
    pub(crate) ip: String,
    pub(crate) port: i64,
    pub(crate) cluster: String,
    /// What a full beat registers when the instance is not there.
    pub(crate) instance: Option<Instance>,
}

pub(crate) struct BeatTaken {
    pub(crate) code: i64,
    pub(crate) interval: Duration,
}

impl State {
    fn instance_key(&self, ip: &str, port: i64, cluster: &str, ephemeral: bool) -> InstanceKey {
        let cluster = if self.dialect().is_v1_4() { cluster.to_owned() } else { String::new() };
        InstanceKey { ip: ip.to_owned(), port, ephemeral, cluster }
    }

    /// Registers the instance, or replaces the one under the same key. The error is Nacos' text.
    pub(crate) fn register(&mut self, key: &ServiceKey, instance: Instance) -> Result<(), String> {
        let now = self.now();
        let is_v1_4 = self.dialect().is_v1_4();
        let instance_key = self.instance_key(&instance.ip, instance.port, &instance.cluster, instance.ephemeral);
        let registration = self.catalogue.next_registration();
        let service = self.catalogue.service_or_new(key, instance.ephemeral, now);
        if !is_v1_4 && service.ephemeral != instance.ephemeral {
            return Err(mixing(service));
        }
        let newcomer = service.take_in(instance_key, Instance { last_beat: now, registration, ..instance });
        let (service, created) = (service.key.clone(), service.created);
        if let Some(instance) = newcomer.filter(|newcomer| newcomer.ephemeral) {
            let first_check = self.first_check(created, now);
            self.agenda.enter(first_check, Due::CheckBeat { service: service.clone(), instance, registration });
        }
        self.changed(&service);
        Ok(())
    }

    /// 1.4 checks all instances of a service together, later Nacos each client on its own
    /// (`ClientBeatCheckTask`, `ClientBeatCheckTaskV2`).
    fn first_check(&self, service_created: Duration, now: Duration) -> Duration {
        let interval = self.settings.sweep_interval();
        if !self.dialect().is_v1_4() {
            return now + interval;
        }
        let since_last_sweep = now.saturating_sub(service_created).as_nanos() % interval.as_nanos();
        // Less than the interval, which is at most ten years.
        let since_last_sweep = Duration::from_nanos(u64::try_from(since_last_sweep).unwrap_or(0));
        now + interval - since_last_sweep
    }

    /// Whether there was such an instance.
    pub(crate) fn deregister(&mut self, key: &ServiceKey, ip: &str, port: i64, cluster: &str, ephemeral: bool) -> bool {
        let instance_key = self.instance_key(ip, port, cluster, ephemeral);
        self.remove_instance(key, &instance_key)
    }

    fn remove_instance(&mut self, key: &ServiceKey, instance: &InstanceKey) -> bool {
        let now = self.now();
        let Some(service) = self.catalogue.service_mut(key) else { return false };
        if !service.let_out(instance, now) {
            return false;
        }
        let (service_key, is_empty) = (service.key.clone(), service.instances.is_empty());
        if is_empty {
            self.clean_later(service_key.clone(), now);
        }
        self.changed(&service_key);
        true
    }

    /// 1.4 keeps empty services for ever.
    pub(crate) fn clean_later(&mut self, service: Arc<ServiceKey>, empty_since: Duration) {
        if self.dialect() != Dialect::V1_4 {
            self.agenda.enter(empty_since + KEPT_AFTER_THE_LAST, Due::CleanService { service, empty_since });
        }
    }

    pub(crate) fn clean_service(&mut self, key: &ServiceKey, empty_since: Duration) {
        if self.catalogue.service(key).is_some_and(|service| service.empty_since == Some(empty_since)) {
            self.catalogue.remove(key);
        }
    }

    /// Takes a beat. The error is Nacos' text.
    pub(crate) fn beat(&mut self, key: &ServiceKey, beat: Beat) -> Result<BeatTaken, String> {
        if !self.keep_alive(key, &beat) {
            let Some(instance) = beat.instance else {
                return Ok(BeatTaken { code: BEAT_UNKNOWN, interval: self.settings.beat_interval() });
            };
            self.register(key, Instance { ephemeral: true, ..instance })?;
        }
        Ok(BeatTaken { code: BEAT_TAKEN, interval: self.beat_interval(key, &beat.ip, beat.port, &beat.cluster) })
    }

    /// False when there is no such instance. On 1.4 a persistent one takes beats too.
    fn keep_alive(&mut self, key: &ServiceKey, beat: &Beat) -> bool {
        let now = self.now();
        let mut keys = vec![self.instance_key(&beat.ip, beat.port, &beat.cluster, true)];
        if self.dialect().is_v1_4() {
            keys.push(self.instance_key(&beat.ip, beat.port, &beat.cluster, false));
        }
        let Some(service) = self.catalogue.service_mut(key) else { return false };
        let Some(known) = keys.iter().find(|key| service.instances.contains_key(*key)) else { return false };
        let Some(instance) = service.instances.get_mut(known) else { return false };
        instance.last_beat = now;
        let has_recovered = !std::mem::replace(&mut instance.healthy, true);
        if has_recovered {
            let key = service.key.clone();
            self.changed(&key);
        }
        true
    }

    fn beat_interval(&self, key: &ServiceKey, ip: &str, port: i64, cluster: &str) -> Duration {
        let instance_key = self.instance_key(ip, port, cluster, true);
        self.catalogue
            .service(key)
            .and_then(|service| Some(service.shown(service.instances.get(&instance_key)?)))
            .and_then(|instance| instance.preserved(crate::HEART_BEAT_INTERVAL))
            .unwrap_or(self.settings.beat_interval())
    }

    /// Turns an instance unhealthy, or removes it, that has not beaten for too long at the time `at`.
    pub(crate) fn check_beat(
        &mut self,
        at: Duration,
        service: Arc<ServiceKey>,
        instance: Arc<InstanceKey>,
        registration: u64,
    ) {
        let (heartbeat_timeout, delete_timeout) = (self.settings.heartbeat_timeout, self.settings.delete_timeout);
        let Some(known) = self.catalogue.service_mut(&service) else { return };
        let Some(found) = known.instances.get(&instance).filter(|found| found.registration == registration) else {
            return;
        };
        let silence = at.saturating_sub(found.last_beat);
        let shown = known.shown(found);
        if silence >= shown.preserved(crate::IP_DELETE_TIMEOUT).unwrap_or(delete_timeout) {
            self.remove_instance(&service, &instance);
            return;
        }
        let is_late = silence >= shown.preserved(crate::HEART_BEAT_TIMEOUT).unwrap_or(heartbeat_timeout);
        if is_late && shown.healthy {
            if let Some(found) = known.instances.get_mut(&instance) {
                found.healthy = false;
            }
            self.changed(&service);
        }
        // From the time it was due, not from now: checks must not drift.
        let next = at + self.settings.sweep_interval();
        self.agenda.enter(next, Due::CheckBeat { service, instance, registration });
    }
}

impl Service {
    /// Gives the key of one that was not there before. One that was keeps its registration, and so its checks.
    fn take_in(&mut self, key: InstanceKey, mut instance: Instance) -> Option<Arc<InstanceKey>> {
        self.revive_override(&instance);
        self.clusters.insert(instance.cluster.clone());
        self.empty_since = None;
        if let Some(known) = self.instances.get_mut(&key) {
            instance.registration = known.registration;
            *known = instance;
            return None;
        }
        let key = Arc::new(key);
        self.instances.insert(key.clone(), instance);
        Some(key)
    }

    fn revive_override(&mut self, instance: &Instance) {
        let place = instance.place();
        let Some(over) = self.overrides.get_mut(&place) else { return };
        if over.expires.take().is_some_and(|expires| expires <= instance.last_beat) {
            self.overrides.remove(&place);
        }
    }

    fn let_out(&mut self, key: &InstanceKey, now: Duration) -> bool {
        let Some(gone) = self.instances.remove(key) else { return false };
        if let Some(over) = self.overrides.get_mut(&gone.place()) {
            over.expires = Some(now + KEPT_AFTER_THE_LAST);
        }
        if self.instances.is_empty() {
            self.empty_since = Some(now);
        }
        true
    }
}

fn mixing(service: &Service) -> String {
    let (is, comes) = if service.ephemeral { ("ephemeral", "persistent") } else { ("persistent", "ephemeral") };
    let name = &service.key.service;
    format!("errCode: 400, errMsg: Current service {name} is {is} service, can't register {comes} instance. ")
}
