//! Whoever can send a datagram cannot send calls elsewhere.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "scenarios/datagrams.rs"]
mod scenario;
mod support;

#[actix::test]
async fn random_mutated_and_forged_datagrams_change_no_list_and_fill_no_memory() {
    let figures = scenario::datagrams_that_no_server_sent(20_000, 10_000, 7).await;
    assert!(figures.grown_kib < 8 * 1024, "{figures:?}");
}
