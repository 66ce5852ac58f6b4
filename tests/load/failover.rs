//! One of several servers dies, and no operation fails.

use crate::{
    alone, beside_quiet_ones,
    scenarios::failover::{instances_move_to_another_server, one_of_three_dies_under_load, Death},
    support::ms,
};

const OPERATIONS: usize = 1000;

#[actix::test]
async fn no_operation_fails_when_one_of_three_servers_refuses() {
    let _alone = alone();
    let figures = one_of_three_dies_under_load(OPERATIONS, Death::Refuses, ms(1000)).await;
    assert_eq!((figures.operations, figures.failed.len()), (OPERATIONS, 0), "{figures:?}");
}

#[actix::test]
async fn no_operation_fails_when_one_of_three_servers_hangs() {
    let _alone = beside_quiet_ones();
    let figures = one_of_three_dies_under_load(OPERATIONS, Death::Hangs, ms(1000)).await;
    assert_eq!((figures.operations, figures.failed.len()), (OPERATIONS, 0), "{figures:?}");
}

#[actix::test]
async fn instances_of_a_hanging_server_move_after_one_timeout_and_not_one_timeout_each() {
    let _alone = beside_quiet_ones();
    let (interval, request_timeout) = (ms(1000), ms(500));
    let took = instances_move_to_another_server(300, interval, Death::Hangs, request_timeout).await;
    // A beat under way waits for its timeout. Then each instance is registered at its next beat.
    assert!(took < interval + request_timeout + ms(2000), "{took:?}");
}
