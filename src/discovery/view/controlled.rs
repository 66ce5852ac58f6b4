//! Views whose list is set by a test.
//!
//! A [`ViewControl`] owns the same writer as a Subscriber does, so a controlled view takes the same code paths as a
//! real one.

use std::{sync::Arc, thread, time::Duration};

use super::{ejection::ServiceRecords, service_view::ServiceView, writer::ViewWriter};
use crate::model::{
    instance::Instance,
    service::{ServiceInfo, ServiceName},
};

impl ServiceView {
    /// Creates a view and a control that sets what the view shows, for tests of code that takes a `ServiceView`. There
    /// is no Registry and no server. See [`fixed`](ServiceView::fixed) for a list that never changes.
    ///
    /// The view has no list until a list is [published](ViewControl::publish). It behaves like a view of a Registry,
    /// except that the timers of [`ready_within`](ServiceView::ready_within) and
    /// [`available_within`](ServiceView::available_within) run in a thread of the control. [`with`](ServiceView::with)
    /// gives views with another selection, and [`eject`](ViewControl::eject) ejects an instance.
    ///
    /// ```
    /// use actix_nacos::{Instance, ServiceName, ServiceView};
    ///
    /// let (view, control) = ServiceView::controlled(ServiceName::parse("orders")?);
    /// assert!(!view.is_ready());
    /// control.publish([Instance::new("127.0.0.7", 8080)]);
    /// assert_eq!(view.select_one().map(|chosen| chosen.port), Some(8080));
    /// control.publish([]);
    /// assert!(view.is_ready() && view.select_one().is_none());
    /// # Ok::<(), actix_nacos::Error>(())
    /// ```
    pub fn controlled(service: ServiceName) -> (ServiceView, ViewControl) {
        let records = ServiceRecords::new(service.clone(), None);
        let writer = ViewWriter::new(service.clone(), String::new(), records);
        let time = writer.keep_time();
        let keep_time = move || {
            if let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_time().build() {
                runtime.block_on(time);
            }
        };
        // The thread ends with the writer. If no thread can be started, `ready_within` returns `Error::Stopped`.
        let _ = thread::Builder::new().name("actix-nacos-view".into()).spawn(keep_time);
        (writer.view(false), ViewControl { service, writer })
    }
}

/// Sets what a [controlled](ServiceView::controlled) view shows. Dropping the control looks to the view like the end of
/// the Registry.
///
/// It is `Send`, and its methods take `&self`: a test may publish from another thread than the one that reads.
pub struct ViewControl {
    service: ServiceName,
    writer: ViewWriter,
}

impl ViewControl {
    /// Publishes these instances as a list that is not stale, and wakes all readers that wait for a change.
    ///
    /// The list replaces the previous list as a whole: instances that are not in it are removed.
    pub fn publish(&self, instances: impl IntoIterator<Item = Instance>) {
        let info = ServiceInfo::new(self.service.clone(), instances);
        self.writer.publish(Arc::new(info), false, |_| false);
    }

    /// Sets [`ServiceView::is_stale`] until the next list. Default: false.
    ///
    /// ```
    /// # use actix_nacos::{ServiceName, ServiceView};
    /// let (view, control) = ServiceView::controlled(ServiceName::parse("orders")?);
    /// control.publish([]);
    /// control.set_stale(true);
    /// assert!(view.is_stale());
    /// # Ok::<(), actix_nacos::Error>(())
    /// ```
    pub fn set_stale(&self, stale: bool) {
        self.writer.set_stale(stale);
    }

    /// Ejects the instance at this address for this time, as failed calls would. Returns false if the list has no such
    /// instance. The ejection ends early with a list without the instance, or with a successful call.
    ///
    /// ```
    /// # use std::time::Duration;
    /// use actix_nacos::{Instance, ServiceName, ServiceView};
    ///
    /// let (view, control) = ServiceView::controlled(ServiceName::parse("orders")?);
    /// control.publish([Instance::new("127.0.0.7", 80), Instance::new("127.0.0.8", 80)]);
    /// assert!(control.eject("127.0.0.7", 80, Duration::from_secs(60)));
    /// assert_eq!(view.begin()?.ip, "127.0.0.8");
    /// # Ok::<(), actix_nacos::Error>(())
    /// ```
    ///
    /// It ejects regardless of [`Eject::max_share`](crate::Eject::max_share), also the last instance.
    pub fn eject(&self, ip: &str, port: u16, time: Duration) -> bool {
        let instances = self.writer.view(false).info();
        let found = instances.hosts.iter().find(|instance| instance.ip == ip && instance.port == port);
        found.is_some_and(|instance| {
            self.writer.records().eject_now(instance, time);
            true
        })
    }

    /// Another view of the same list, which shows only healthy instances.
    ///
    /// It is like a view that was made with [`Discover::healthy_only`](crate::Discover::healthy_only).
    pub fn healthy_view(&self) -> ServiceView {
        self.writer.view(true)
    }
}

impl std::fmt::Debug for ViewControl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ViewControl").field("service", &self.service).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{error::Error, runtime::blocking::block_on};

    fn controlled() -> (ServiceView, ViewControl) {
        ServiceView::controlled(ServiceName::parse("SHOP@@orders").unwrap())
    }

    fn instance(port: u16) -> Instance {
        Instance::new("127.0.0.1", port)
    }

    #[test]
    fn the_control_decides_what_its_views_show() {
        let (mut view, control) = controlled();
        assert!(!view.is_ready() && !view.is_stale());
        control.publish([instance(81), instance(80), Instance { healthy: false, ..instance(82) }]);
        assert_eq!(view.instances().iter().map(|instance| instance.port).collect::<Vec<_>>(), [80, 81, 82]);
        assert_eq!(control.healthy_view().instances().len(), 2);
        assert_eq!(view.instances()[0].service_name, "SHOP@@orders");
        assert_eq!(block_on(view.changed()), Ok(()));
        control.set_stale(true);
        assert!(view.is_stale());
        control.publish([instance(80)]);
        assert!(!view.is_stale());
        assert_eq!(block_on(view.changed()), Ok(()));
        drop(control);
        assert!(view.is_stale() && view.select_one().is_some());
        assert_eq!(block_on(view.changed()), Err(Error::Stopped));
    }

    #[test]
    fn waiting_for_a_list_that_never_comes_ends_without_a_runtime() {
        let (view, control) = controlled();
        let limit = Duration::from_millis(20);
        assert!(matches!(block_on(view.ready_within(limit)), Err(Error::Timeout { after, .. }) if after == limit));
        let waiting = thread::spawn({
            let view = view.clone();
            move || block_on(view.ready_within(Duration::from_secs(60)))
        });
        control.publish([]);
        assert_eq!(waiting.join().unwrap(), Ok(()));
    }
}
