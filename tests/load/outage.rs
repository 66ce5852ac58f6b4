//! No server answers for a while. Few requests are sent meanwhile.

use crate::{
    beside_quiet_ones,
    scenarios::outage::{self, all_servers_fail, Fault, Figures},
    support::ms,
};

fn sizes() -> outage::Sizes {
    outage::Sizes { instances: 100, services: 10, interval: ms(1000), request_timeout: ms(500), down_for: ms(5000) }
}

#[actix::test]
async fn while_all_servers_refuse_few_requests_are_sent_and_all_instances_are_back_soon_after() {
    let _quiet = beside_quiet_ones();
    let figures = all_servers_fail(Fault::Refuse, &sizes()).await;
    assert_bounded(&figures);
}

#[actix::test]
async fn while_all_servers_hang_few_requests_are_sent_and_all_instances_are_back_soon_after() {
    let _quiet = beside_quiet_ones();
    let figures = all_servers_fail(Fault::Hang, &sizes()).await;
    assert_bounded(&figures);
}

/// Three servers are each tried every 1.5 to 2 s once the pauses have grown. Without breakers there would be 100 beats
/// a second.
fn assert_bounded(figures: &Figures) {
    assert!(figures.requests_per_second < 8.0, "{figures:?}");
    assert!(figures.back_after < ms(5000), "{figures:?}");
}
