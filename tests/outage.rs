//! Servers that are gone for a while, or come back without their data: nothing is lost, and nobody is told "empty".
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "scenarios/restart.rs"]
mod restart;
mod support;

use support::ms;

#[actix::test]
async fn a_thousand_instances_are_back_within_a_beat_and_a_second_after_a_restart_without_data() {
    let sizes = restart::Sizes { instances: 1000, subscriptions: 50, interval: ms(1000) };
    let took = restart::restart_empty(&sizes).await;
    assert!(took <= sizes.interval + ms(1000), "{took:?}");
}
