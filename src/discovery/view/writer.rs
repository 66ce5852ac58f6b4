//! Publishes the lists of one subscription.

use std::{
    future::Future,
    sync::{atomic::Ordering, Arc},
};

use super::{
    ejection::ServiceRecords,
    selection::Selection,
    service_view::ServiceView,
    source::ViewSource,
    timekeeper::{wait, Timekeeper},
};
use crate::model::{
    instance::Instance,
    service::{ServiceInfo, ServiceName},
};

/// The only writer of one subscription's lists. Its Subscriber owns it. When it is dropped, because the Registry ends,
/// the views stay readable and become stale.
pub(crate) struct ViewWriter {
    source: Arc<ViewSource>,
    time: Timekeeper,
}

impl ViewWriter {
    pub(crate) fn new(service: ServiceName, clusters: String, records: Arc<ServiceRecords>) -> Self {
        ViewWriter { source: ViewSource::new(service, clusters, records), time: Timekeeper::new() }
    }

    /// Publishes `info` and whether it is stale to all views, and wakes their readers. Publishing the same list with
    /// other withheld instances is no change.
    pub(crate) fn publish(&self, info: Arc<ServiceInfo>, stale: bool, is_withheld: impl Fn(&Arc<Instance>) -> bool) {
        self.source.publish(info, stale, is_withheld);
    }

    /// Does not wake readers, because staleness alone is no change of the list.
    pub(crate) fn set_stale(&self, stale: bool) {
        self.source.set_stale(stale);
    }

    pub(crate) fn view(&self, healthy_only: bool) -> ServiceView {
        ServiceView::new(&self.source, &Selection::default(), healthy_only, Some(self.time.clock()))
    }

    /// The number of living views, including clones.
    pub(crate) fn readers(&self) -> usize {
        self.source.readers.load(Ordering::Acquire)
    }

    /// Resolves when there is no reader, at once if there is none yet. A new reader may come afterwards, so check
    /// [`readers`](ViewWriter::readers) before ending anything.
    pub(crate) fn abandoned(&self) -> impl Future<Output = ()> + 'static {
        let source = self.source.clone();
        async move {
            let no_reader = || source.readers.load(Ordering::Acquire) == 0;
            wait(&source.last_reader_left, || no_reader().then_some(())).await;
        }
    }

    /// Runs the timers of all waiting views. Run it once, in the Registry's thread. It ends with the writer.
    pub(crate) fn keep_time(&self) -> impl Future<Output = ()> + 'static {
        self.time.run()
    }

    pub(super) fn records(&self) -> &Arc<ServiceRecords> {
        &self.source.records
    }
}

impl Drop for ViewWriter {
    fn drop(&mut self) {
        self.source.end();
    }
}
