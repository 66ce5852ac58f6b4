//! Whether the server in use is Nacos or r-nacos.
//!
//! The kind is found by reading one registered instance per epoch: Nacos writes its `instanceId` as
//! `ip#port#cluster#GROUP@@service`, r-nacos as `ip#port`. Nacos 3 rejects the read, which shows the kind too. Until
//! the kind is known, no instance is restored by the rules for r-nacos.

use std::cell::Cell;

use actix_rt::time::Instant;

use crate::{
    error::{Error, Operation},
    model::instance::Instance,
};

/// The kind of the server in use, detected once in each epoch.
#[derive(Default)]
pub(crate) struct ServerKind {
    found: Cell<Option<(u64, Kind)>>,
}

/// A server that speaks v3 is Nacos: r-nacos is asked in v1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Kind {
    /// An instance is being read. If the answer does not show the kind, the next read may start at this time.
    Unknown(Instant),
    Nacos,
    RNacos,
}

impl ServerKind {
    pub(super) fn in_epoch(&self, epoch: u64) -> Option<Kind> {
        self.found.get().filter(|(found_in, _)| *found_in == epoch).map(|(_, kind)| kind)
    }

    pub(super) fn set(&self, epoch: u64, kind: Kind) {
        self.found.set(Some((epoch, kind)));
    }
}

/// The kind of the server, by its answer to reading an instance. `None` if the answer does not show it.
pub(super) fn kind_of(shown: &Result<Instance, Error>) -> Option<Kind> {
    match shown {
        Ok(shown) => Some(kind_of_instance(shown)),
        // Every server may reject the login.
        Err(Error::Unauthorized { operation: Operation::Login, .. }) => None,
        // Only Nacos 3 does not support the request.
        Err(Error::Unsupported { .. } | Error::Unauthorized { .. }) => Some(Kind::Nacos),
        Err(_) => None,
    }
}

/// The kind of the server that shows `instance`.
pub(super) fn kind_of_instance(instance: &Instance) -> Kind {
    // The id on Nacos also has the cluster and the service.
    let is_r_nacos = instance.instance_id == format!("{}#{}", instance.ip, instance.port);
    if is_r_nacos {
        Kind::RNacos
    } else {
        Kind::Nacos
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(instance_id: &str) -> Result<Instance, Error> {
        Ok(Instance { instance_id: instance_id.into(), ..Instance::new("127.0.0.7", 80) })
    }

    #[test]
    fn r_nacos_is_known_by_the_id_of_an_instance() {
        assert_eq!(kind_of(&shown("127.0.0.7#80")), Some(Kind::RNacos));
        for other in ["127.0.0.7#80#DEFAULT#DEFAULT_GROUP@@orders", "127.0.0.7#8", "127.0.0.8#80", "127.0.0.7", ""] {
            assert_eq!(kind_of(&shown(other)), Some(Kind::Nacos), "{other:?}");
        }
    }

    #[test]
    fn a_server_that_denies_or_does_not_support_the_read_is_nacos() {
        let (operation, server, reason) = (Operation::Get, String::new, String::new);
        let kind = |error: Error| kind_of(&Err(error));
        let gone = Error::Unsupported { operation, server: server(), reason: reason() };
        assert_eq!(kind(gone), Some(Kind::Nacos));
        let denied = Error::Unauthorized { operation, server: server(), reason: reason() };
        assert_eq!(kind(denied), Some(Kind::Nacos));
        let login = Error::Unauthorized { operation: Operation::Login, server: server(), reason: reason() };
        assert_eq!(kind(login), None, "any server may reject a login");
        let unreachable = Error::Unreachable { operation, server: server(), reason: reason() };
        assert_eq!(kind(unreachable), None);
        let unreadable = Error::Unreadable { operation, server: server(), reason: reason() };
        assert_eq!(kind(unreadable), None, "any server may answer so");
        assert_eq!(kind(Error::Stopped), None);
    }

    #[test]
    fn the_kind_is_known_in_the_epoch_in_which_it_was_found_and_in_no_other() {
        let kind = ServerKind::default();
        assert_eq!(kind.in_epoch(0), None, "nothing was found yet");
        for (epoch, found) in [(3, Kind::Nacos), (4, Kind::RNacos), (5, Kind::Unknown(Instant::now()))] {
            assert_eq!(kind.in_epoch(epoch), None);
            kind.set(epoch, found);
            assert_eq!(kind.in_epoch(epoch), Some(found));
            assert_eq!((kind.in_epoch(epoch - 1), kind.in_epoch(epoch + 1)), (None, None));
        }
        kind.set(5, Kind::Nacos);
        assert_eq!(kind.in_epoch(5), Some(Kind::Nacos), "a later read showed the kind");
    }
}
