//! Registers instances, receives their beats, and removes them.
//!
//! The life of an ephemeral instance: a registration or a full beat creates it, each beat renews it, and a check
//! every 5 s finds out that beats are missing.
//!
//! | time without a beat | what happens | set by |
//! |---|---|---|
//! | 15 s | unhealthy | `preserved.heart.beat.timeout` in its metadata, or the server's setting |
//! | 30 s | removed | `preserved.ip.delete.timeout`, or the server's setting |
//!
//! Each instance has one check in the agenda, with the number of its registration. A check whose number is not the
//! instance's is outdated and does nothing. A persistent instance has no checks.

use std::{sync::Arc, time::Duration};

use crate::{
    model::heartbeat::{BEAT_TAKEN, BEAT_UNKNOWN},
    model::instance::DEFAULT_CLUSTER,
};

use super::{
    agenda::Due,
    catalogue::{Instance, InstanceKey, Service, ServiceKey},
    dialect::Dialect,
    parameters::is_cluster_name,
    state::State,
};

/// How long 2.x keeps a service without instances, and an operator's override without an instance
/// (`EmptyServiceCleaner`, `ExpiredMetadataCleaner`).
const EMPTY_SERVICE_LIFETIME: Duration = Duration::from_secs(60);

/// A received beat.
///
/// A light beat has no `instance`: it names only the address, and renews what exists.
pub(crate) struct Beat {
    pub(crate) ip: String,
    pub(crate) port: i64,
    /// `None` for any cluster.
    pub(crate) cluster: Option<String>,
    /// The instance that a full beat registers if it does not exist.
    pub(crate) instance: Option<Instance>,
    /// The service whose instance the beat keeps alive. Since 2.x the body of a full beat names it.
    pub(crate) renews: Option<ServiceKey>,
}

/// The answer to a beat: `code` 10200 (taken) or 20404 (unknown), and the interval that the server asks for.
pub(crate) struct BeatTaken {
    pub(crate) code: i64,
    /// In milliseconds.
    pub(crate) interval: i64,
}

/// The reason why an instance is not registered, with the error text of Nacos.
#[derive(Debug)]
pub(crate) enum Rejected {
    /// A value of the instance is invalid.
    Illegal(String),
    /// The instance does not fit the service.
    Conflict(String),
}

impl Rejected {
    pub(crate) fn into_text(self) -> String {
        match self {
            Rejected::Illegal(text) | Rejected::Conflict(text) => text,
        }
    }
}

impl State {
    /// The identity of an instance: see [`InstanceKey`].
    fn instance_key(&self, ip: &str, port: i64, cluster: &str, ephemeral: bool) -> InstanceKey {
        let cluster = if self.dialect().is_v1_4() { cluster.to_owned() } else { String::new() };
        InstanceKey { ip: ip.to_owned(), port, ephemeral, cluster }
    }

    /// Registers an instance, or replaces the instance with the same key.
    ///
    /// Registering again replaces all values. Overrides of operators stay.
    ///
    /// # Errors
    /// [`Rejected`], with the text for the answer. Since 2.x a service is ephemeral or persistent as a whole.
    pub(crate) fn register(&mut self, key: &ServiceKey, instance: Instance) -> Result<(), Rejected> {
        let now = self.now();
        let is_v1_4 = self.dialect().is_v1_4();
        self.check(&instance)?;
        let instance_key = self.instance_key(&instance.ip, instance.port, &instance.cluster, instance.ephemeral);
        let registration = self.catalogue.next_registration();
        let service = self.catalogue.service_or_new(key, instance.ephemeral, now);
        if !is_v1_4 && service.ephemeral != instance.ephemeral {
            return Err(Rejected::Conflict(mixing(service)));
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

    /// Checks the rules for all registrations and changes since 2.x (`NamingUtils.checkInstanceIsLegal`).
    ///
    /// # Errors
    /// [`Rejected::Illegal`] for a beat interval that is longer than a timeout, and for a cluster with other
    /// characters.
    pub(crate) fn check(&self, instance: &Instance) -> Result<(), Rejected> {
        if self.dialect().is_v1_4() {
            return Ok(());
        }
        let millis = |key, default| instance.preserved(key).map_or(default, |time| time.as_millis());
        let interval = millis(crate::model::instance::HEART_BEAT_INTERVAL, 5000);
        if millis(crate::model::instance::HEART_BEAT_TIMEOUT, 15_000)
            .min(millis(crate::model::instance::IP_DELETE_TIMEOUT, 30_000))
            < interval
        {
            let rule = "Instance 'heart beat interval' must less than 'heart beat timeout' and 'ip delete timeout'.";
            return Err(Rejected::Illegal(rule.into()));
        }
        if !is_cluster_name(&instance.cluster) {
            let rule = "Instance 'clusterName' should be characters with only 0-9a-zA-Z-. (current: ";
            return Err(Rejected::Illegal(format!("{rule}{})", instance.cluster)));
        }
        Ok(())
    }

    /// 1.4 checks all instances of a service together, 2.x and later each client on its own (`ClientBeatCheckTask`,
    /// `ClientBeatCheckTaskV2`).
    fn first_check(&self, service_created: Duration, now: Duration) -> Duration {
        let interval = self.settings.sweep_interval();
        if !self.dialect().is_v1_4() {
            return now + interval;
        }
        let since_last_sweep = now.saturating_sub(service_created).as_nanos() % interval.as_nanos();
        // Fits, because the interval is limited to ten years.
        let since_last_sweep = Duration::from_nanos(u64::try_from(since_last_sweep).unwrap_or(0));
        now + interval - since_last_sweep
    }

    /// Deregisters an instance. Returns whether there was such an instance.
    pub(crate) fn deregister(&mut self, key: &ServiceKey, ip: &str, port: i64, cluster: &str, ephemeral: bool) -> bool {
        let instance_key = self.instance_key(ip, port, cluster, ephemeral);
        self.remove_instance(key, &instance_key)
    }

    /// Removes an instance, plans the end of a service that is empty now, and shows and pushes the change.
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

    /// Removes an empty service later. 1.4 keeps empty services for ever.
    pub(crate) fn clean_later(&mut self, service: Arc<ServiceKey>, empty_since: Duration) {
        if self.dialect() != Dialect::V1_4 {
            self.agenda.enter(empty_since + EMPTY_SERVICE_LIFETIME, Due::CleanService { service, empty_since });
        }
    }

    /// Removes the service if it has been empty since `empty_since`.
    pub(crate) fn clean_service(&mut self, key: &ServiceKey, empty_since: Duration) {
        if self.catalogue.service(key).is_some_and(|service| service.empty_since == Some(empty_since)) {
            self.catalogue.remove(key);
        }
    }

    /// Handles a beat: registers an unknown instance if the beat is full, otherwise keeps the instance alive.
    ///
    /// # Errors
    /// [`Rejected`], if the instance of a full beat cannot be registered.
    pub(crate) fn beat(&mut self, key: &ServiceKey, beat: Beat) -> Result<BeatTaken, Rejected> {
        if self.beating(key, &beat).is_none() {
            let Some(instance) = beat.instance.clone() else {
                let interval = self.settings.beat_interval().as_millis() as i64;
                return Ok(BeatTaken { code: BEAT_UNKNOWN, interval });
            };
            // Since 2.x only ephemeral instances beat.
            let ephemeral = instance.ephemeral || !self.dialect().is_v1_4();
            self.register(key, Instance { ephemeral, ..instance })?;
        }
        if let Some(renewed) = &beat.renews {
            self.keep_alive(renewed, &beat);
        }
        Ok(BeatTaken { code: BEAT_TAKEN, interval: self.beat_interval(key, &beat) })
    }

    /// The key of the instance that beats, if it is registered. 1.4 accepts beats of persistent instances too.
    fn beating(&self, key: &ServiceKey, beat: &Beat) -> Option<InstanceKey> {
        let service = self.catalogue.service(key)?;
        let cluster = beat.cluster.as_deref().unwrap_or(DEFAULT_CLUSTER);
        let kinds: &[bool] = if self.dialect().is_v1_4() { &[true, false] } else { &[true] };
        let mut keys = kinds.iter().map(|ephemeral| self.instance_key(&beat.ip, beat.port, cluster, *ephemeral));
        keys.find(|key| service.instances.contains_key(key))
    }

    /// Renews the instance. An unhealthy instance becomes healthy, and this change is pushed.
    fn keep_alive(&mut self, key: &ServiceKey, beat: &Beat) {
        let now = self.now();
        let Some(instance_key) = self.beating(key, beat) else { return };
        let Some(service) = self.catalogue.service_mut(key) else { return };
        let Some(instance) = service.instances.get_mut(&instance_key) else { return };
        if beat.cluster.as_ref().is_some_and(|cluster| *cluster != instance.cluster) {
            return;
        }
        instance.last_beat = now;
        let has_recovered = !std::mem::replace(&mut instance.healthy, true);
        if has_recovered {
            let key = service.key.clone();
            self.changed(&key);
        }
    }

    /// The interval in the answer to a beat, in milliseconds.
    fn beat_interval(&self, key: &ServiceKey, beat: &Beat) -> i64 {
        let instance_key = self.beating(key, beat);
        let service = self.catalogue.service(key);
        let instance =
            service.zip(instance_key).and_then(|(service, key)| Some(service.effective(service.instances.get(&key)?)));
        let interval = self.preserved(
            instance.as_ref(),
            crate::model::instance::HEART_BEAT_INTERVAL,
            self.settings.beat_interval(),
        );
        i64::try_from(interval.as_millis()).unwrap_or(i64::MAX)
    }

    /// A duration in the instance's metadata. Since 2.x an invalid number counts as zero (`ConvertUtils.toLong`).
    fn preserved(&self, instance: Option<&Instance>, key: &str, default: Duration) -> Duration {
        let Some(instance) = instance.filter(|instance| instance.metadata.contains_key(key)) else { return default };
        let unreadable = if self.dialect().is_v1_4() { default } else { Duration::ZERO };
        instance.preserved(key).unwrap_or(unreadable)
    }

    /// Removes an instance or marks it as unhealthy if it has not beaten for too long at the time `at`.
    pub(crate) fn check_beat(
        &mut self,
        at: Duration,
        service: Arc<ServiceKey>,
        instance: Arc<InstanceKey>,
        registration: u64,
    ) {
        let Some(known) = self.catalogue.service(&service) else { return };
        let Some(found) = known.instances.get(&instance).filter(|found| found.registration == registration) else {
            return;
        };
        let silence = at.saturating_sub(found.last_beat);
        let effective = known.effective(found);
        let timeout = |key, default| self.preserved(Some(&effective), key, default);
        if silence >= timeout(crate::model::instance::IP_DELETE_TIMEOUT, self.settings.delete_timeout) {
            self.remove_instance(&service, &instance);
            return;
        }
        let is_late = silence >= timeout(crate::model::instance::HEART_BEAT_TIMEOUT, self.settings.heartbeat_timeout);
        if is_late && effective.healthy {
            let known = self.catalogue.service_mut(&service).and_then(|known| known.instances.get_mut(&instance));
            known.into_iter().for_each(|found| found.healthy = false);
            self.changed(&service);
        }
        // Count from the time at which the check was due, so that checks do not drift.
        let next = at + self.settings.sweep_interval();
        self.agenda.enter(next, Due::CheckBeat { service, instance, registration });
    }
}

impl Service {
    /// Inserts or replaces an instance. Returns the key of a new instance. A replaced one keeps its registration
    /// number, and so its checks.
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
        let address = instance.address();
        let Some(over) = self.overrides.get_mut(&address) else { return };
        if over.expires.take().is_some_and(|expires| expires <= instance.last_beat) {
            self.overrides.remove(&address);
        }
    }

    /// Removes an instance. Its override begins to expire. Returns whether there was such an instance.
    fn let_out(&mut self, key: &InstanceKey, now: Duration) -> bool {
        let Some(gone) = self.instances.remove(key) else { return false };
        if let Some(over) = self.overrides.get_mut(&gone.address()) {
            over.expires = Some(now + EMPTY_SERVICE_LIFETIME);
        }
        if self.instances.is_empty() {
            self.empty_since = Some(now);
        }
        true
    }
}

/// Nacos' text for an ephemeral instance of a persistent service, and the reverse.
fn mixing(service: &Service) -> String {
    let (is, comes) = if service.ephemeral { ("ephemeral", "persistent") } else { ("persistent", "ephemeral") };
    let name = &service.key.service;
    format!("errCode: 400, errMsg: Current service {name} is {is} service, can't register {comes} instance. ")
}
