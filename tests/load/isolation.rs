//! A bad listener or a blocked thread of the application does not affect others.

use crate::{
    alone, beside_quiet_ones,
    scenarios::{blocked, listeners},
    support::ms,
};

#[actix::test]
async fn bad_listeners_cost_the_other_96_no_change() {
    let _alone = alone();
    let figures = listeners::four_bad_listeners_among_a_hundred(300).await;
    assert!(figures.grown_kib < 8 * 1024, "{figures:?}");
}

#[test]
fn blocked_application_threads_cost_no_beat() {
    let _alone = beside_quiet_ones();
    let silence = blocked::application_threads_are_blocked(ms(4000), ms(1000));
    assert!(silence < ms(2000), "a beat was late by {:?}", silence - ms(1000));
}
