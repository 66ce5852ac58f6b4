//! What holds on r-nacos alone: it restarts without its data and says so to nobody.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "scenarios/rnacos.rs"]
mod scenario;
mod support;

use std::time::Duration;

#[actix::test]
#[ignore = "needs r-nacos (RNACOS=path, or rnacos in PATH)"]
async fn all_instances_are_back_with_weights_and_metadata_after_r_nacos_lost_its_data() {
    let figures = scenario::killed_and_restarted_without_data(50).await;
    assert!(figures.back_after <= scenario::INTERVAL + Duration::from_secs(1), "{figures:?}");
}
