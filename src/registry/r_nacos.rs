//! What r-nacos needs beyond heartbeats.
//!
//! r-nacos never answers "unknown instance". Instead, a beat registers the instance, with weight 1 and without its
//! metadata. So the Registry reads each instance on r-nacos from time to time. An instance that is missing, or that
//! shows these defaults although it was registered with other values, is registered again. Any other difference may be
//! an operator's change, and stays.
//!
//! r-nacos keeps the metadata of an instance that has expired, so after a beat it looks as if an operator had changed
//! the weight. Therefore an instance that has been silent for so long is registered instead of sending a beat: see
//! [`DesiredInstance::to_register`].

use std::{pin::pin, rc::Rc, sync::Arc, time::Duration};

use actix_rt::time::Instant;
use slog::debug;

use super::{
    desired::DesiredInstance,
    phase::Phase,
    server_kind::{kind_of, kind_of_instance, Kind},
    shared::Shared,
};
use crate::{
    client::{ListQuery, Patience},
    error::{Error, Operation},
    model::instance::{Instance, InstanceKey},
    wire::exchange::WireProtocol,
};

/// How long to wait before another read, if an answer does not show whether the server is r-nacos.
const READ_AGAIN_AFTER: Duration = Duration::from_secs(30);

impl Shared {
    /// Starts to read the instance, if that is due after an accepted beat. The read takes no turn of the instance,
    /// because it may wait behind an application's own requests, and beats must not wait for it.
    pub(super) fn check_on_r_nacos(self: &Rc<Self>, key: &Arc<InstanceKey>) {
        let epoch = self.nacos.epoch();
        if !self.is_read_due(key, epoch) {
            return;
        }
        let (shared, key) = (self.clone(), key.clone());
        actix_rt::spawn(async move {
            let reading = pin!(shared.read_and_restore(&key, epoch));
            // A failure is stored in the state of the instance.
            let _ = shared.catch_panics(Operation::Get, Phase::Offline, reading).await;
        });
    }

    /// Reads the instance, and registers it again if r-nacos has lost it or its values.
    async fn read_and_restore(&self, key: &Arc<InstanceKey>, epoch: u64) -> Result<(), Error> {
        let last_written = self.desired.get(key, |desired| desired.last_written);
        let Some(shown) = self.nacos.read_in_use(key).await else { return Ok(()) };
        if let Some(kind) = kind_of(&shown) {
            self.server_kind.set(epoch, kind);
        }
        if self.server_kind.in_epoch(epoch) != Some(Kind::RNacos) {
            return Ok(());
        }
        let mut turn = self.desired.queue(key);
        turn.come().await;
        let wanted = self.desired.get(key, |desired| (desired.instance.clone(), desired.last_written));
        // If a registration or a new epoch came in between, the answer is outdated.
        let Some((wanted, written)) = wanted.filter(|_| self.nacos.epoch() == epoch) else { return Ok(()) };
        let is_lost = match shown {
            Ok(shown) => has_lost_values(&shown, &wanted),
            Err(error) => matches!(error, Error::NotFound { .. }),
        };
        if !is_lost || last_written != Some(written) {
            return Ok(());
        }
        debug!(self.log, "r-nacos lost instance or its values"; "instance" => %key);
        self.note(key, DesiredInstance::forgotten);
        let restored = self.register_again(key, &wanted).await;
        restored.inspect_err(|error| self.note(key, |desired| desired.failed(error))).map(drop)
    }

    /// Whether the server in use pushes changes to its clients. Nacos does with protocol v1; Nacos with v3 and r-nacos
    /// do not. If the kind of the server is not known yet, reads the registered instance `key`; false if that does not
    /// show it.
    pub(super) async fn pushes_changes(&self, key: Option<Arc<InstanceKey>>) -> bool {
        if self.speaks_v3() {
            return false;
        }
        match (self.server_kind.in_epoch(self.nacos.epoch()), key) {
            (Some(Kind::Nacos), _) => true,
            (Some(Kind::RNacos), _) | (_, None) => false,
            (Some(Kind::Unknown(_)) | None, Some(key)) => self.find_out_kind(&key).await == Some(Kind::Nacos),
        }
    }

    async fn find_out_kind(&self, key: &InstanceKey) -> Option<Kind> {
        let kind = self.nacos.read_in_use(key).await.and_then(|shown| kind_of(&shown));
        if kind.is_some() {
            return kind;
        }
        // The server may not show a new instance yet. Then any other instance of the service shows the kind.
        let list = self.nacos.list(&ListQuery::all_of(&key.service), Patience::Round).await.ok()?;
        let host = list.info.hosts.first().filter(|_| list.epoch.is_some())?;
        Some(kind_of_instance(host))
    }

    fn speaks_v3(&self) -> bool {
        self.nacos.servers().current().is_some_and(|server| server.protocol() == Some(WireProtocol::V3))
    }

    fn is_read_due(&self, key: &Arc<InstanceKey>, epoch: u64) -> bool {
        match self.server_kind.in_epoch(epoch) {
            Some(Kind::Nacos) => false,
            Some(Kind::RNacos) => {
                let mut is_due = false;
                self.desired.update(key, |desired| is_due = desired.count_down_to_read());
                is_due
            }
            Some(Kind::Unknown(until)) if Instant::now() < until => false,
            Some(Kind::Unknown(_)) | None => {
                let speaks_v3 = self.speaks_v3();
                let kind = if speaks_v3 { Kind::Nacos } else { Kind::Unknown(Instant::now() + READ_AGAIN_AFTER) };
                self.server_kind.set(epoch, kind);
                !speaks_v3
            }
        }
    }
}

/// Whether a beat has brought the instance back with the defaults of r-nacos, although it was registered with other
/// values.
fn has_lost_values(shown: &Instance, wanted: &Instance) -> bool {
    let shows_defaults = shown.weight == 1.0 && shown.metadata.is_empty();
    shows_defaults && (wanted.weight != 1.0 || !wanted.metadata_to_register().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_defaults_that_were_not_registered_are_lost_values() {
        let instance = |weight, zone: &[&str]| {
            let metadata = zone.iter().map(|zone| ("zone".to_owned(), zone.to_string())).collect();
            Instance { weight, metadata, ..Instance::new("127.0.0.7", 80) }
        };
        let defaults = instance(1.0, &[]);
        assert!(has_lost_values(&defaults, &instance(3.0, &[])) && has_lost_values(&defaults, &instance(1.0, &["a"])));
        assert!(!has_lost_values(&defaults, &defaults));
        assert!(!has_lost_values(&instance(5.0, &[]), &instance(3.0, &["a"])), "changed by an operator");
        assert!(!has_lost_values(&instance(1.0, &["b"]), &instance(3.0, &["a"])), "changed by an operator");
    }
}
