//! The operations of the client: how each is requested and read in both protocols.
//!
//! A new operation is a struct with a [`Call`] here, and a method in `nacos.rs`. Everything that operations have in
//! common, such as retries and tokens, is elsewhere and depends only on the trait.

use std::{cell::RefCell, collections::HashSet};

use slog::{warn, Logger};

use super::{list_cache::ListCache, session::Credentials};
use crate::{
    error::Operation,
    model::{
        heartbeat::HeartbeatReply,
        instance::{Instance, InstanceKey},
        service::{ServiceInfo, ServiceName},
    },
    wire::v1::PushAddress,
    wire::{
        exchange::{Answer, Rejection, Request, WireProtocol},
        v1::{self, Found, ListAnswer, LoginAnswer, ServiceListAnswer},
        v3,
    },
};

/// An operation. Its request and the value of its answer depend only on its fields, and for [`List`] on the list cache.
///
/// The request is made anew for each server, because the protocol may differ.
pub(super) trait Call {
    type Value;
    const OPERATION: Operation;

    /// The request in this protocol, without server and token.
    fn request(&self, protocol: WireProtocol) -> Request;

    /// The request to a server that is not in use.
    fn request_elsewhere(&self, protocol: WireProtocol) -> Request {
        self.request(protocol)
    }

    /// The value of the answer.
    ///
    /// # Errors
    /// The server's rejection. Failures of the connection do not reach this function.
    fn read(&self, protocol: WireProtocol, answer: &Answer) -> Result<Self::Value, Rejection>;

    /// The service or instance that the operation is about, as errors name it. A failure for one subject does not count
    /// against others.
    fn subject(&self) -> String;
}

/// Registers an instance with all its values.
pub(super) struct Register<'a> {
    pub(super) namespace: &'a str,
    pub(super) service: &'a ServiceName,
    pub(super) instance: &'a Instance,
}

impl Call for Register<'_> {
    type Value = ();
    const OPERATION: Operation = Operation::Register;

    fn request(&self, protocol: WireProtocol) -> Request {
        match protocol {
            WireProtocol::V1 => v1::register(self.namespace, self.service, self.instance),
            WireProtocol::V3 => v3::register(self.namespace, self.service, self.instance),
        }
    }

    fn read(&self, protocol: WireProtocol, answer: &Answer) -> Result<(), Rejection> {
        read_ok(protocol, answer)
    }

    fn subject(&self) -> String {
        InstanceKey::of(self.service, self.instance).to_string()
    }
}

/// Deregisters one instance of one kind.
pub(super) struct Deregister<'a> {
    pub(super) namespace: &'a str,
    pub(super) key: &'a InstanceKey,
    pub(super) ephemeral: bool,
}

impl Call for Deregister<'_> {
    type Value = ();
    const OPERATION: Operation = Operation::Deregister;

    fn request(&self, protocol: WireProtocol) -> Request {
        match protocol {
            WireProtocol::V1 => v1::deregister(self.namespace, self.key, self.ephemeral),
            WireProtocol::V3 => v3::deregister(self.namespace, self.key, self.ephemeral),
        }
    }

    fn read(&self, protocol: WireProtocol, answer: &Answer) -> Result<(), Rejection> {
        read_ok(protocol, answer)
    }

    fn subject(&self) -> String {
        self.key.to_string()
    }
}

/// Keeps an ephemeral instance alive. v3 has only light beats.
pub(super) struct Beat<'a> {
    pub(super) namespace: &'a str,
    pub(super) key: &'a InstanceKey,
    /// `None` for a light beat.
    pub(super) values: Option<&'a Instance>,
}

impl Call for Beat<'_> {
    type Value = HeartbeatReply;
    const OPERATION: Operation = Operation::Beat;

    fn request(&self, protocol: WireProtocol) -> Request {
        match protocol {
            WireProtocol::V1 => v1::beat(self.namespace, self.key, self.values),
            WireProtocol::V3 => v3::beat(self.namespace, self.key),
        }
    }

    fn read(&self, protocol: WireProtocol, answer: &Answer) -> Result<HeartbeatReply, Rejection> {
        match protocol {
            WireProtocol::V1 => v1::read_beat(answer),
            WireProtocol::V3 => v3::read_beat(answer),
        }
    }

    fn subject(&self) -> String {
        self.key.to_string()
    }
}

/// The query of a list.
///
/// Lists that differ in any of these are different for the cache.
#[derive(Clone, Copy)]
pub(crate) struct ListQuery<'a> {
    /// `None` for the configured namespace.
    pub(crate) namespace: Option<&'a str>,
    pub(crate) service: &'a ServiceName,
    /// Separated by commas. Empty for all clusters.
    pub(crate) clusters: &'a str,
    pub(crate) healthy_only: bool,
    pub(crate) push_to: Option<PushAddress>,
}

impl<'a> ListQuery<'a> {
    pub(crate) fn all_of(service: &'a ServiceName) -> Self {
        ListQuery { namespace: None, service, clusters: "", healthy_only: false, push_to: None }
    }
}

/// Services with unusable instances.
///
/// Kept for the life of the client, so that the warning is logged once.
pub(super) type LeftOut = HashSet<ServiceName>;

/// Reads a list, from the cache if the hosts have not changed.
pub(super) struct List<'a> {
    pub(super) namespace: &'a str,
    pub(super) query: &'a ListQuery<'a>,
    pub(super) list_cache: &'a ListCache,
    pub(super) left_out: &'a RefCell<LeftOut>,
    pub(super) log: &'a Logger,
}

impl List<'_> {
    fn request_with(&self, protocol: WireProtocol, push_to: Option<PushAddress>) -> Request {
        let ListQuery { service, clusters, healthy_only, .. } = *self.query;
        match protocol {
            WireProtocol::V1 => v1::list(self.namespace, service, clusters, healthy_only, push_to),
            WireProtocol::V3 => v3::list(self.namespace, service, clusters, healthy_only),
        }
    }

    /// Parses, filters and sorts a list. Servers may ignore the filters: r-nacos does, and v3.
    fn read_list(&self, protocol: WireProtocol, answer: &Answer) -> Result<ServiceInfo, Rejection> {
        let list = match protocol {
            WireProtocol::V1 => v1::read_list(answer)?,
            WireProtocol::V3 => v3::read_list(answer, self.query.service)?,
        };
        self.warn_about_unusable_hosts(&list);
        let mut info = list.into_info(self.query.service);
        info.tidy(self.query.clusters, self.query.healthy_only);
        Ok(info)
    }

    /// Warns once per service, because lists are read every few seconds.
    fn warn_about_unusable_hosts(&self, list: &ListAnswer) {
        let unusable = list.hosts.iter().filter(|host| !host.is_usable()).count();
        if unusable > 0 && self.left_out.borrow_mut().insert(self.query.service.clone()) {
            warn!(self.log, "ignored instances without ip or port";
                "service" => %self.query.service, "instances" => unusable);
        }
    }
}

impl Call for List<'_> {
    type Value = ServiceInfo;
    const OPERATION: Operation = Operation::List;

    fn request(&self, protocol: WireProtocol) -> Request {
        self.request_with(protocol, self.query.push_to)
    }

    /// Requests no pushes. If servers share an address, pushes of this server would be taken for pushes of the server
    /// in use.
    fn request_elsewhere(&self, protocol: WireProtocol) -> Request {
        self.request_with(protocol, None)
    }

    fn read(&self, protocol: WireProtocol, answer: &Answer) -> Result<ServiceInfo, Rejection> {
        let ListQuery { service, clusters, healthy_only, .. } = self.query;
        // A newline separates the parts, because no name contains a control character.
        let health = if *healthy_only { "healthy" } else { "all" };
        let key = [self.namespace, &service.group, &service.name, clusters, health].join("\n");
        self.list_cache.read(&key, answer, |answer| self.read_list(protocol, answer))
    }

    fn subject(&self) -> String {
        self.query.service.to_string()
    }
}

/// Reads a page of service names.
pub(super) struct ListServices<'a> {
    pub(super) namespace: &'a str,
    pub(super) group: &'a str,
    pub(super) page_no: u32,
    pub(super) page_size: u32,
}

impl Call for ListServices<'_> {
    type Value = ServiceListAnswer;
    const OPERATION: Operation = Operation::ListServices;

    fn request(&self, protocol: WireProtocol) -> Request {
        match protocol {
            WireProtocol::V1 => v1::list_services(self.namespace, self.group, self.page_no, self.page_size),
            WireProtocol::V3 => v3::list_services(self.namespace, self.group, self.page_no, self.page_size),
        }
    }

    fn read(&self, protocol: WireProtocol, answer: &Answer) -> Result<ServiceListAnswer, Rejection> {
        match protocol {
            WireProtocol::V1 => v1::read_services(answer),
            WireProtocol::V3 => v3::read_services(answer, self.group),
        }
    }

    fn subject(&self) -> String {
        self.group.to_owned()
    }
}

/// Writes all values of an instance that another process registered.
///
/// The Registry's own instances are registered again instead, which means the same on all versions.
pub(super) struct Overwrite<'a> {
    pub(super) namespace: &'a str,
    pub(super) service: &'a ServiceName,
    pub(super) instance: &'a Instance,
}

impl Call for Overwrite<'_> {
    type Value = ();
    const OPERATION: Operation = Operation::Modify;

    fn request(&self, protocol: WireProtocol) -> Request {
        match protocol {
            WireProtocol::V1 => v1::overwrite(self.namespace, self.service, self.instance),
            WireProtocol::V3 => v3::overwrite(self.namespace, self.service, self.instance),
        }
    }

    fn read(&self, protocol: WireProtocol, answer: &Answer) -> Result<(), Rejection> {
        match protocol {
            WireProtocol::V1 => v1::read_ok(answer),
            WireProtocol::V3 => v3::read_overwritten(answer),
        }
    }

    fn subject(&self) -> String {
        InstanceKey::of(self.service, self.instance).to_string()
    }
}

/// Reads one instance.
pub(super) struct Get<'a> {
    pub(super) namespace: &'a str,
    pub(super) key: &'a InstanceKey,
}

impl Call for Get<'_> {
    type Value = Found;
    const OPERATION: Operation = Operation::Get;

    fn request(&self, protocol: WireProtocol) -> Request {
        match protocol {
            WireProtocol::V1 => v1::get(self.namespace, self.key),
            WireProtocol::V3 => v3::get(self.namespace, self.key),
        }
    }

    fn read(&self, protocol: WireProtocol, answer: &Answer) -> Result<Found, Rejection> {
        match protocol {
            WireProtocol::V1 => v1::read_instance(answer, self.key),
            WireProtocol::V3 => v3::read_instance(answer, self.key),
        }
    }

    fn subject(&self) -> String {
        self.key.to_string()
    }
}

/// The login. Its request carries no token.
///
/// `login.rs` sends it directly, because a login must not wait for a token.
pub(super) struct Login<'a>(pub(super) &'a Credentials);

impl Call for Login<'_> {
    type Value = LoginAnswer;
    const OPERATION: Operation = Operation::Login;

    fn request(&self, protocol: WireProtocol) -> Request {
        let Credentials { username, password } = self.0;
        match protocol {
            WireProtocol::V1 => v1::login(v1::LOGIN, username, password),
            WireProtocol::V3 => v3::login(username, password),
        }
    }

    fn read(&self, protocol: WireProtocol, answer: &Answer) -> Result<LoginAnswer, Rejection> {
        match protocol {
            WireProtocol::V1 => v1::read_login(answer),
            WireProtocol::V3 => v3::read_login(answer),
        }
    }

    fn subject(&self) -> String {
        self.0.username.clone()
    }
}

fn read_ok(protocol: WireProtocol, answer: &Answer) -> Result<(), Rejection> {
    match protocol {
        WireProtocol::V1 => v1::read_ok(answer),
        WireProtocol::V3 => v3::read_ok(answer),
    }
}
