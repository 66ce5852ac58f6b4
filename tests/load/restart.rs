//! A server comes back without its data.

use crate::{alone, scenarios::restart, support::ms};

#[actix::test]
async fn a_thousand_instances_are_back_within_a_beat_and_a_second_after_a_restart_without_data() {
    let _alone = alone();
    let sizes = restart::Sizes { instances: 1000, subscriptions: 50, interval: ms(3000) };
    let took = restart::restart_empty(&sizes).await;
    // Five times the promised time, because the machine may be busy. `cargo bench --bench reliability -- restart`
    // checks the promised time.
    assert!(took <= 5 * (sizes.interval + ms(1000)), "{took:?}");
}
