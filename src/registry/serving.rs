//! The readiness of a process whose server is run by `serve`.
//!
//! `serve` reports its progress to the Registry, because `/readyz` is answered from the Registry's state: a process
//! that has not asked for its registrations yet is not ready, although nothing is pending.

use actix::{Context, Handler, Message, ResponseFuture};

use super::{actor::Registry, desired::DesiredInstance, shared::Shared};
use crate::{
    config::Config,
    error::{Error, Operation},
    model::{connection::ConnectionState, instance_state::InstanceState},
};

/// Reports that `serve` begins and will register services. The process is not ready until it has. The answer has the
/// settings.
#[derive(Message)]
#[rtype(result = "Result<Config, Error>")]
pub(crate) struct BeginServing;

impl Handler<BeginServing> for Registry {
    type Result = ResponseFuture<Result<Config, Error>>;

    fn handle(&mut self, _: BeginServing, _: &mut Context<Self>) -> Self::Result {
        self.dispatch(Operation::Status, |shared| {
            shared.unregistered_servers.set(shared.unregistered_servers.get() + 1);
            std::future::ready(Ok(shared.config.clone()))
        })
    }
}

/// Reports that `serve` has not found the address to register and keeps trying. Until it has found the address, only a
/// strict readiness waits. Send it once for each `BeginServing`.
#[derive(Message)]
#[rtype(result = "Result<(), Error>")]
pub(crate) struct AddressMissing;

impl Handler<AddressMissing> for Registry {
    type Result = ResponseFuture<Result<(), Error>>;

    fn handle(&mut self, _: AddressMissing, _: &mut Context<Self>) -> Self::Result {
        self.dispatch(Operation::Status, |shared| {
            shared.servers_without_address.set(shared.servers_without_address.get() + 1);
            std::future::ready(Ok(()))
        })
    }
}

/// Reports that `serve` has sent the registrations of all services. Each service is registered, or will be when a
/// registry server can be reached.
#[derive(Message)]
#[rtype(result = "Result<(), Error>")]
pub(crate) struct RegistrationsAsked {
    /// Whether this server has sent `AddressMissing` before.
    pub(crate) lacked_address: bool,
}

impl Handler<RegistrationsAsked> for Registry {
    type Result = ResponseFuture<Result<(), Error>>;

    fn handle(&mut self, message: RegistrationsAsked, _: &mut Context<Self>) -> Self::Result {
        self.dispatch(Operation::Status, move |shared| {
            let (unregistered, without_address) = (&shared.unregistered_servers, &shared.servers_without_address);
            unregistered.set(unregistered.get().saturating_sub(1));
            without_address.set(without_address.get().saturating_sub(usize::from(message.lacked_address)));
            std::future::ready(Ok(()))
        })
    }
}

/// Asks whether the process is ready for requests.
#[derive(Message)]
#[rtype(result = "Result<Readiness, Error>")]
pub(crate) struct GetReadiness {
    /// Whether an instance that waits for a registry server, or for its address, makes the process not ready.
    pub(crate) strict: bool,
}

/// The reasons why the process is not ready. All are zero if it is ready.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Readiness {
    /// Whether `serve` has not sent its registrations yet.
    pub(crate) is_starting: bool,
    /// The number of instances that a server rejects.
    pub(crate) rejected: usize,
    /// The number of instances that are not registered yet.
    pub(crate) pending: usize,
}

impl Readiness {
    pub(crate) fn is_ready(self) -> bool {
        self == Readiness::default()
    }
}

impl Handler<GetReadiness> for Registry {
    type Result = ResponseFuture<Result<Readiness, Error>>;

    fn handle(&mut self, GetReadiness { strict }: GetReadiness, _: &mut Context<Self>) -> Self::Result {
        self.dispatch(Operation::Status, |shared| std::future::ready(Ok(shared.readiness(strict))))
    }
}

impl Shared {
    fn readiness(&self, strict: bool) -> Readiness {
        let is_lost = self.nacos.connection() == ConnectionState::Lost;
        let unregistered = self.unregistered_servers.get();
        let waiting = if strict { 0 } else { self.servers_without_address.get() };
        let mut readiness = Readiness { is_starting: unregistered > waiting, ..Readiness::default() };
        self.desired.for_each(|desired| match desired.state {
            InstanceState::Rejected if is_rejected_for_good(desired) => readiness.rejected += 1,
            InstanceState::Pending if strict || !waits_for_server(desired, is_lost) => readiness.pending += 1,
            // An instance that was registered before stays ready, so that an outage of the registry takes no process
            // out of service.
            InstanceState::Pending | InstanceState::Registered | InstanceState::Rejected | InstanceState::Lost => {}
        });
        readiness
    }
}

/// Whether the instance is pending because no server takes it, and not because the first attempt is still under way.
fn waits_for_server(desired: &DesiredInstance, is_lost: bool) -> bool {
    is_lost || desired.last_error().is_some()
}

/// Whether the servers keep rejecting the instance. A server may reject a single beat of an instance that was
/// registered, for example while it restarts or reads its rights, and accept the next one. That must not take the
/// process out of service and back in.
fn is_rejected_for_good(desired: &DesiredInstance) -> bool {
    desired.last_success.is_none() || desired.rejections > 1
}

#[cfg(test)]
mod tests {
    use actix::Addr;

    use super::{super::desired::tests::key, *};
    use crate::model::instance::Instance;

    #[actix::test]
    async fn one_rejection_of_a_registered_instance_does_not_count() {
        let rejected = Error::Unauthorized { operation: Operation::Beat, server: "a:1".into(), reason: String::new() };
        let mut desired = DesiredInstance::new(key(1), Instance::new("127.0.0.7", 1), None);
        desired.failed(&rejected);
        assert!(is_rejected_for_good(&desired), "it was never registered");
        for _ in 0..3 {
            desired.registered(7);
            desired.failed(&rejected);
            assert!(!is_rejected_for_good(&desired), "each success begins anew");
        }
        desired.failed(&rejected);
        assert!(is_rejected_for_good(&desired));
    }

    async fn is_starting(registry: &Addr<Registry>, strict: bool) -> bool {
        registry.send(GetReadiness { strict }).await.unwrap().unwrap().is_starting
    }

    #[actix::test]
    async fn readiness_waits_for_each_server_that_begins() {
        let registry = Registry::start(Config::disabled()).unwrap();
        assert!(!is_starting(&registry, false).await);
        for _ in 0..2 {
            registry.send(BeginServing).await.unwrap().unwrap();
        }
        registry.send(RegistrationsAsked { lacked_address: false }).await.unwrap().unwrap();
        assert!(is_starting(&registry, false).await, "the other server has not registered its services");
        registry.send(AddressMissing).await.unwrap().unwrap();
        assert_eq!((is_starting(&registry, false).await, is_starting(&registry, true).await), (false, true));
        registry.send(RegistrationsAsked { lacked_address: true }).await.unwrap().unwrap();
        assert!(!is_starting(&registry, true).await);
        registry.send(BeginServing).await.unwrap().unwrap();
        assert!(is_starting(&registry, false).await, "the address of another server was missing");
    }
}
