//! Datagrams from untrusted sources cannot change a list.

use std::time::Duration;

use actix_nacos::PushConfig;

use crate::{alone, scenarios::datagrams};

#[actix::test]
async fn random_mutated_and_forged_datagrams_change_no_list_and_fill_no_memory() {
    let _alone = alone();
    let figures = datagrams::datagrams_that_no_server_sent(20_000, 10_000, 7).await;
    assert!(figures.grown_kib < 8 * 1024, "{figures:?}");
}

/// # Panics
/// When heartbeats are late, or lists are polled too often.
async fn flood(inflated: usize, push: PushConfig) {
    let figures = datagrams::flood_from_a_trusted_address(push, inflated, 30).await;
    assert!((1..=figures.took.as_secs() + 2).contains(&figures.polls), "{figures:?}");
    assert!(figures.longest_pause < Duration::from_secs(5), "{figures:?}");
}

#[actix::test]
async fn datagrams_that_inflate_to_256_kib_delay_no_heartbeat() {
    let _alone = alone();
    flood(256 * 1024, PushConfig::default()).await;
}

#[actix::test]
async fn datagrams_that_inflate_to_4_mib_delay_no_heartbeat() {
    let _alone = alone();
    flood(4 * 1024 * 1024, PushConfig::default()).await;
}

#[actix::test]
async fn datagrams_that_are_only_hints_delay_no_heartbeat() {
    let _alone = alone();
    flood(256 * 1024, PushConfig::default().hint_only(true)).await;
    flood(4 * 1024 * 1024, PushConfig::default().hint_only(true)).await;
}
