//! The readiness of a process whose server is run by `serve`.

use actix::{Context, Handler, Message, ResponseFuture};

use super::{actor::Registry, desired::DesiredInstance, instance_state::InstanceState, shared::Shared};
use crate::{
    config::Config,
    error::{Error, Operation},
    model::connection::ConnectionState,
};

/// `serve` begins and will register services. The process is not ready until then. The answer has the settings.
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

/// `serve` has sent the registrations of all services. Each is registered, or will be when a registry server can be
/// reached.
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

/// Asks whether the process is ready for requests.
#[derive(Message)]
#[rtype(result = "Result<Readiness, Error>")]
pub(crate) struct GetReadiness {
    /// Whether an instance that waits for a registry server makes the process not ready.
    pub(crate) strict: bool,
}

/// The reasons why the process is not ready. All are zero if it is ready.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Readiness {
    /// `serve` has not sent its registrations yet.
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
        let mut readiness = Readiness { is_starting: self.awaits_registrations.get(), ..Readiness::default() };
        self.desired.for_each(|desired| match desired.state {
            InstanceState::Rejected => readiness.rejected += 1,
            InstanceState::Pending if strict || !waits_for_server(desired, is_lost) => readiness.pending += 1,
            // An instance that was registered before stays ready, so that an outage of the registry takes no process
            // out of service.
            InstanceState::Pending | InstanceState::Registered | InstanceState::Lost => {}
        });
        readiness
    }
}

/// Whether the instance is pending because no server takes it, and not because the first attempt is still under way.
fn waits_for_server(desired: &DesiredInstance, is_lost: bool) -> bool {
    is_lost || desired.last_error.is_some()
}
