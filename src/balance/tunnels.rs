//! The connector for tunnels, such as WebSockets. Tunnels need HTTP/1, even if the instance prefers HTTP/2.

use std::{cell::RefCell, rc::Rc};

use actix_service::{
    boxed::{rc_service, RcService},
    Service,
};
use awc::{error::SendRequestError, middleware::Transform, ConnectRequest, ConnectResponse};

/// The connector of an awc client, without the client.
pub(super) type Tunnels = RcService<ConnectRequest, ConnectResponse, SendRequestError>;

/// Takes the connector out of an awc client that is being built. Only a middleware of the client receives the
/// connector.
#[derive(Clone, Default)]
pub(super) struct TakeConnector(Rc<RefCell<Option<Tunnels>>>);

impl TakeConnector {
    pub(super) fn taken(&self) -> Option<Tunnels> {
        self.0.take()
    }
}

impl<S> Transform<S, ConnectRequest> for TakeConnector
where
    S: Service<ConnectRequest, Response = ConnectResponse, Error = SendRequestError> + 'static,
{
    type Transform = Tunnels;

    fn new_transform(self, connector: S) -> Tunnels {
        let tunnels = rc_service(connector);
        self.0.replace(Some(tunnels.clone()));
        tunnels
    }
}
