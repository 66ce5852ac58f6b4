//! The services that one client calls, with their hosts and views.
//!
//! The first call of a [`Service`] discovers the service, which keeps its view from then on. The views of all workers
//! show the same list, so the first call of a further worker does not wait for a registry server.
//!
//! A client has two kinds of services. Services that the application named are kept for ever. Services [under a
//! suffix](UnderSuffix) come from URLs, so their number and the time for which they are kept are limited.

use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::HashMap,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use actix::WeakAddr;
use actix_rt::time::{sleep, Instant};
use foldhash::fast::RandomState;

use super::hosts::{key, service_under_suffix};
use crate::{
    discovery::view::ServiceView,
    error::Error,
    registry::{Discover, Registry},
};

/// A service under a suffix is no longer watched after this time without a call.
const IDLE_TIME: Duration = Duration::from_secs(600);
/// How often to look for idle services.
const LOOK_EVERY: Duration = Duration::from_secs(60);

type ByHost<T> = HashMap<String, T, RandomState>;

/// Adds the client's settings to the `Discover` of a service under a suffix.
pub(super) type MakeDiscover = Arc<dyn Fn(Discover) -> Discover + Send + Sync>;

/// A service that can be called.
pub(super) struct Service {
    discover: Discover,
    /// `None` before the first call.
    pub(super) view: OnceCell<ServiceView>,
}

impl Service {
    pub(super) fn new(discover: Discover) -> Self {
        Service { discover, view: OnceCell::new() }
    }

    /// Returns the view. The first call discovers the service.
    ///
    /// # Errors
    /// [`Error::Stopped`] if the Registry has ended, or the error of [`Discover`]. After an error, the next call
    /// discovers the service again.
    pub(super) async fn discovered(&self, registry: &WeakAddr<Registry>) -> Result<&ServiceView, Error> {
        let registry = registry.upgrade().ok_or(Error::Stopped)?;
        let view = registry.send(self.discover.clone()).await??;
        // Another call may have discovered the service meanwhile. Its view shows the same list.
        Ok(self.view.get_or_init(|| view))
    }

    /// Whether forgetting the service costs nothing: it has no instance, or was not discovered yet.
    fn lists_nothing(&self) -> bool {
        self.view.get().is_none_or(|view| view.instances().is_empty())
    }
}

/// All services of a client.
pub(super) struct Services {
    named: ByHost<Rc<Service>>,
    under_suffix: Option<Rc<UnderSuffix>>,
}

impl Services {
    pub(super) fn new(
        named: impl IntoIterator<Item = (String, Rc<Service>)>,
        under_suffix: Option<UnderSuffix>,
    ) -> Self {
        Services { named: named.into_iter().collect(), under_suffix: under_suffix.map(Rc::new) }
    }

    /// Returns the service that `host` names. `None` for a host that is not a service.
    pub(super) fn find(&self, host: &str) -> Result<Option<Rc<Service>>, Error> {
        // Most hosts are in lower case, so try without an allocation first.
        let named = self.named.get(host).cloned().or_else(|| self.named.get(&key(host)).cloned());
        match (named, &self.under_suffix) {
            (None, Some(under_suffix)) => under_suffix.find(host),
            (named, _) => Ok(named),
        }
    }
}

/// The services whose hosts end with a suffix. A service is watched until it was not called for [`IDLE_TIME`].
pub(super) struct UnderSuffix {
    suffix: String,
    limit: usize,
    make_discover: MakeDiscover,
    services: RefCell<ByHost<Recent>>,
    is_watched: Cell<bool>,
}

struct Recent {
    service: Rc<Service>,
    called: Cell<Instant>,
}

impl UnderSuffix {
    pub(super) fn new(suffix: String, limit: usize, make_discover: MakeDiscover) -> Self {
        UnderSuffix { suffix, limit, make_discover, services: RefCell::default(), is_watched: Cell::new(false) }
    }

    fn find(self: &Rc<Self>, host: &str) -> Result<Option<Rc<Service>>, Error> {
        if let Some(recent) = self.services.borrow().get(host) {
            recent.called.set(Instant::now());
            return Ok(Some(recent.service.clone()));
        }
        let Some(name) = service_under_suffix(host, &self.suffix) else { return Ok(None) };
        self.forget_one_if_full(host)?;
        let service = Rc::new(Service::new((self.make_discover)(Discover::new(name))));
        let recent = Recent { service: service.clone(), called: Cell::new(Instant::now()) };
        self.services.borrow_mut().insert(host.to_owned(), recent);
        self.watch();
        Ok(Some(service))
    }

    /// Forgets a service without instances if the limit is reached. A service that has instances is never forgotten
    /// in favour of a name that may be a mistake.
    ///
    /// A service whose call is under way (`strong_count` above 1) stays, too.
    fn forget_one_if_full(&self, host: &str) -> Result<(), Error> {
        let mut services = self.services.borrow_mut();
        if services.len() < self.limit {
            return Ok(());
        }
        let useless = services
            .iter()
            .filter(|(_, recent)| Rc::strong_count(&recent.service) == 1 && recent.service.lists_nothing());
        let oldest = useless.min_by_key(|(_, recent)| recent.called.get()).map(|(host, _)| host.clone());
        match oldest {
            Some(oldest) => drop(services.remove(&oldest)),
            None => {
                let reason = format!("{host} would be one service more than the {} that may be called", self.limit);
                return Err(Error::invalid("host", reason));
            }
        }
        Ok(())
    }

    fn forget_idle(&self) {
        self.services.borrow_mut().retain(|_, recent| recent.called.get().elapsed() < IDLE_TIME);
    }

    /// Starts a task that forgets idle services, if it does not run yet. The task ends when no service is left.
    fn watch(self: &Rc<Self>) {
        if self.is_watched.replace(true) {
            return;
        }
        let services = Rc::downgrade(self);
        actix_rt::spawn(async move {
            loop {
                sleep(LOOK_EVERY).await;
                let Some(services) = services.upgrade() else { return };
                services.forget_idle();
                if services.services.borrow().is_empty() {
                    services.is_watched.set(false);
                    return;
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{instance::Instance, service::ServiceName};

    fn under_suffix(limit: usize) -> Rc<UnderSuffix> {
        Rc::new(UnderSuffix::new(".nacos".into(), limit, Arc::new(|discover| discover)))
    }

    fn with_an_instance(service: &Service) {
        let view = ServiceView::fixed(ServiceName::parse("any").unwrap(), [Instance::new("127.0.0.7", 80)]);
        assert!(service.view.set(view).is_ok());
    }

    fn count(services: &UnderSuffix) -> usize {
        services.services.borrow().len()
    }

    #[actix::test]
    async fn a_service_under_the_suffix_is_forgotten_after_ten_idle_minutes() {
        tokio::time::pause();
        let services = under_suffix(10);
        let first = services.find("orders.nacos").unwrap().unwrap();
        services.find("idle.nacos").unwrap();
        assert_eq!(count(&services), 2);
        for _ in 0..11 {
            sleep(LOOK_EVERY).await;
            assert!(Rc::ptr_eq(&first, &services.find("orders.nacos").unwrap().unwrap()));
        }
        assert_eq!(count(&services), 1);
        sleep(IDLE_TIME + 2 * LOOK_EVERY).await;
        assert_eq!((count(&services), services.is_watched.get()), (0, false));
        services.find("orders.nacos").unwrap();
        sleep(IDLE_TIME + 2 * LOOK_EVERY).await;
        assert_eq!(count(&services), 0);
    }

    #[actix::test]
    async fn a_full_table_replaces_only_services_without_instances() {
        let services = under_suffix(3);
        for host in ["a.nacos", "b.nacos", "c.nacos"] {
            with_an_instance(&services.find(host).unwrap().unwrap());
        }
        let refused = services.find("d.nacos").err().unwrap();
        assert!(matches!(refused, Error::InvalidInput { field: "host", .. }), "{refused}");
        services.services.borrow_mut().remove("b.nacos");
        for host in ["d.nacos", "e.nacos", "f.nacos"] {
            assert!(services.find(host).unwrap().is_some());
        }
        let hosts: Vec<_> = ["a", "c", "f"].map(|name| format!("{name}.nacos")).into();
        assert!(hosts.iter().all(|host| services.services.borrow().contains_key(host)) && count(&services) == 3);
    }

    #[actix::test]
    async fn hosts_are_found_in_any_case_and_other_hosts_are_not_services() {
        let named = ("orders".to_owned(), Rc::new(Service::new(Discover::new("orders"))));
        let services = Services::new([named], None);
        for (host, is_one) in [("orders", true), ("ORDERS", true), ("orders.nacos", false), ("example.com", false)] {
            assert_eq!(services.find(host).unwrap().is_some(), is_one, "{host}");
        }
    }
}
