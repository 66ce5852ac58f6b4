//! Instances that die and restart under load, in short runs. The reliability bench runs the same scenarios at full
//! length.

use std::time::Duration;

use crate::{
    alone, beside_quiet_ones,
    scenarios::{by_weight, kill9, rolling},
    support::ms,
};
use actix_nacos::{balance::Retry, embedded::EmbeddedServer};

#[actix::test]
async fn with_one_retry_no_call_fails_when_an_instance_is_killed() {
    let _alone = alone();
    let sizes = kill9::Sizes { rate: 100, before: ms(1000), after: ms(2000) };
    let figures = kill9::one_of_three_is_killed(Retry::once(), &sizes).await;
    assert!(figures.failed.is_empty(), "{:?} of {}", figures.failed, figures.requests);
    assert!(figures.requests > 100);
}

#[actix::test]
async fn without_retry_an_ejected_instance_costs_at_most_five_calls_and_those_in_flight() {
    let _alone = alone();
    let sizes = kill9::Sizes { rate: 100, before: ms(1000), after: ms(2000) };
    let figures = kill9::one_of_three_is_killed(Retry::never(), &sizes).await;
    assert!(figures.failed.len() <= 5 + figures.in_flight, "{:?}, {} in flight", figures.failed, figures.in_flight);
}

#[actix::test]
async fn instances_restarted_one_by_one_cost_no_call() {
    let _alone = alone();
    let server = EmbeddedServer::start().expect("a free port");
    let sizes = rolling::Sizes { rate: 50, before: ms(500), between: ms(500), newcomers: ms(100) };
    let rolling::Figures { calls, first_calls } = rolling::rolling(&server, &sizes).await;
    assert!(calls.failed.is_empty() && first_calls.failed.is_empty(), "{:?} {:?}", calls.failed, first_calls.failed);
    assert!(calls.requests > 100 && first_calls.requests > 10);
}

#[actix::test]
async fn retries_of_an_outage_are_within_their_budget() {
    let _alone = beside_quiet_ones();
    let per_call = by_weight::requests_per_call(100, Duration::from_secs(3)).await;
    assert!(per_call <= 1.25, "{per_call}");
}

#[actix::test]
async fn calls_by_name_follow_the_weights() {
    let _alone = alone();
    let shares = by_weight::shares([1.0, 2.0, 7.0], 3000).await;
    // Within five standard deviations.
    let within = |(share, expected): (&f64, f64)| (share - expected).abs() < 0.042;
    assert!(shares.iter().zip([0.1, 0.2, 0.7]).all(within), "{shares:?}");
}
