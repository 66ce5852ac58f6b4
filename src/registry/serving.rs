//! What a server asks of the Registry: whether requests may come.

use actix::{Context, Handler, Message, ResponseFuture};

use super::{actor::Registry, desired::DesiredInstance, instance_state::InstanceState, shared::Shared};
use crate::{
    config::Config,
    error::{Error, Operation},
    model::connection::ConnectionState,
};

/// A server begins to serve, and will register services: until then it is not ready. Gives the settings.
#[derive(Message)]
#[rtype(result = "Result<Config, Error>")]
pub(crate) struct BeginServing;

impl Handler<BeginServing> for Registry {
    type Result = ResponseFuture<Result<Config, Error>>;

    fn handle(&mut self, _: BeginServing, _: &mut Context<Self>) -> Self::Result {
        self.dispatch(Operation::Status, |shared| {
            shared.awaits_registrations.set(true);
            std::future::ready(Ok(shared.config.clone()))
        })
    }
}

/// All services of the server have been registered, or will be when a registry server can be reached.
#[derive(Message)]
#[rtype(result = "Result<(), Error>")]
pub(crate) struct RegistrationsAsked;

impl Handler<RegistrationsAsked> for Registry {
    type Result = ResponseFuture<Result<(), Error>>;

    fn handle(&mut self, _: RegistrationsAsked, _: &mut Context<Self>) -> Self::Result {
        self.dispatch(Operation::Status, |shared| {
            shared.awaits_registrations.set(false);
            std::future::ready(Ok(()))
        })
    }
}

/// Asks whether requests may come.
#[derive(Message)]
#[rtype(result = "Result<Readiness, Error>")]
pub(crate) struct GetReadiness {
    /// An instance that waits for a registry server is not ready either.
    pub(crate) strict: bool,
}

/// How many registrations keep the service from being ready.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Readiness {
    /// The server has not asked for its registrations yet.
    pub(crate) is_starting: bool,
    /// Instances that a server rejects.
    pub(crate) rejected: usize,
    /// Instances that are not registered yet.
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
        let mut readiness = Readiness { is_starting: self.awaits_registrations.get(), ..Readiness::default() };
        self.desired.for_each(|desired| match desired.state {
            InstanceState::Rejected => readiness.rejected += 1,
            InstanceState::Pending if strict || !waits_for_server(desired, is_lost) => readiness.pending += 1,
            // One that was registered stays ready: an outage of the registry takes nobody out of service.
            InstanceState::Pending | InstanceState::Registered | InstanceState::Lost => {}
        });
        readiness
    }
}

/// Whether it is pending because no server takes it, and not because its first attempt is still under way.
fn waits_for_server(desired: &DesiredInstance, is_lost: bool) -> bool {
    is_lost || desired.last_error.is_some()
}
