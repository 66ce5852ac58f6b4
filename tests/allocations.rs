//! What must not allocate, counted by an allocator of this test binary's own.

use actix_nacos::{Instance, ServiceName, ServiceView};
use allocation_counter::measure;

#[test]
fn lookups_allocate_nothing() {
    let instances = (1..=10_000).map(|port| Instance::new("10.0.0.7", port));
    let view = ServiceView::fixed(ServiceName::parse("orders").unwrap(), instances);
    // A thread's first lookup sets up its random generator and its place among the readers.
    assert!(view.select_one().is_some());
    let counted = measure(|| {
        for _ in 0..1_000 {
            assert!(view.select_one().is_some_and(|chosen| chosen.port > 0));
            assert_eq!(view.instances().len(), 10_000);
            assert!(view.is_ready() && !view.is_stale());
        }
    });
    assert_eq!(counted.count_total, 0, "{counted:?}");
    assert!(measure(|| drop(view.instances().to_vec())).count_total > 0, "the counter counts");
}
