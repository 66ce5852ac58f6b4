//! Going offline: no request fails, and instances that are still registered are reported.

use crate::{
    alone,
    scenarios::{many_offline, sigterm},
    support::ms,
};

#[cfg(unix)]
#[actix::test]
async fn a_sigterm_under_load_fails_no_request() {
    let _alone = alone();
    let figures = sigterm::sigterm_under_load(300, ms(1000)).await;
    assert!(figures.failed.is_empty(), "{} of {}: {:?}", figures.failed.len(), figures.requests, figures.failed);
    assert!(figures.requests > 600, "{figures:?}");
    assert!(figures.ended_after >= ms(2000), "it drains: {:?}", figures.ended_after);
}

#[actix::test]
async fn many_instances_are_deregistered_within_the_deadline() {
    let _alone = alone();
    let figures = many_offline::many_instances_go_offline(1000, ms(10_000)).await;
    assert_eq!((figures.deregistered, figures.failed, figures.still_there), (1000, 0, 0), "{figures:?}");
}

#[actix::test]
async fn a_shutdown_reports_exactly_the_instances_that_the_deadline_cut_off() {
    let _alone = alone();
    let figures = many_offline::many_instances_go_offline(1000, ms(100)).await;
    assert_eq!(figures.deregistered + figures.failed, 1000, "{figures:?}");
    assert!(figures.failed > 0 && figures.took < ms(1500), "{figures:?}");
    assert!(figures.still_there <= figures.failed, "{figures:?}");
}
