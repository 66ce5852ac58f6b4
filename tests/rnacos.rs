//! What holds on r-nacos alone: it restarts without its data and says so to nobody, and it never pushes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "scenarios/rnacos.rs"]
mod scenario;
mod support;
#[path = "scenarios/time_to_remove.rs"]
mod time_to_remove;

use std::time::Duration;

use actix_nacos::Config;
use support::ms;

#[actix::test]
#[ignore = "needs r-nacos (RNACOS=path, or rnacos in PATH)"]
async fn all_instances_are_back_with_weights_and_metadata_after_r_nacos_lost_its_data() {
    let figures = scenario::killed_and_restarted_without_data(50, 5).await;
    assert!(figures.back_after <= scenario::INTERVAL + Duration::from_secs(1), "{figures:?}");
}

#[actix::test]
#[ignore = "needs r-nacos (RNACOS=path, or rnacos in PATH)"]
async fn removals_on_r_nacos_are_seen_within_a_poll_interval() {
    let server = scenario::Rnacos::start().await;
    let shapes = time_to_remove::SHAPES.to_vec();
    // It has closed idle connections twice by then.
    let sizes =
        time_to_remove::Sizes { shapes, services: 3, rest: ms(11_000), spread: ms(2000), poll_interval: ms(500) };
    let figures = time_to_remove::time_to_remove(Config::new(&server.address), &sizes).await;
    assert_eq!(figures.polled_every, Some(ms(500)), "{figures:?}");
    // Not five times as long, as elsewhere: a list was once held back for 6.5 s after an idle connection had ended.
    assert!(figures.longest() <= figures.bound() * 3, "{figures:?}");
}
