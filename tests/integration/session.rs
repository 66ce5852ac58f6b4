//! The login: once for all requests, renewed in time, and never repeated in a loop.

use std::time::Instant;

use actix_nacos::{embedded::Dialect, Error, GetStatus, ListInstances, Operation, RegisterInstance};
use futures_util::future::join_all;

use crate::{
    scenarios::session::{guarded, keep_asking, logins, tokens_run_out},
    support::{self, ask, config, config_at, ms, shut_down, start},
};

#[actix::test]
async fn there_is_one_login_for_each_token_that_runs_out_and_no_operation_fails() {
    let (life, last) = (ms(2000), ms(6500));
    let figures = tokens_run_out(life, last).await;
    assert_eq!(figures.failed, []);
    // A token is renewed after 85 % of its life: at 0, 1.7, 3.4 and 5.1 s, and later if the machine is busy.
    let most = 1 + (figures.took.as_secs_f64() / (0.85 * life.as_secs_f64())) as u64;
    assert!((most - 1..=most).contains(&figures.logins), "{} logins in {:?}", figures.logins, figures.took);
}

#[actix::test]
async fn tokens_that_the_server_ends_early_cause_one_login_and_no_failure() {
    for dialect in [Dialect::V1_4, Dialect::V2_5, Dialect::V3_2] {
        let server = guarded().dialect(dialect).start().expect("a free port");
        let registry = start(config(&server).credentials("nacos", "secret"));
        ask(&registry, ListInstances::new("orders")).await.unwrap();
        let expired = std::cell::Cell::new(false);
        let figures = keep_asking(&registry, |figures| {
            if figures.operations >= 64 && !expired.replace(true) {
                server.faults().expire_tokens();
            }
            figures.operations >= 256
        })
        .await;
        assert_eq!(figures.failed, [], "{dialect}");
        assert_eq!(logins(&server), 2, "{dialect}");
        shut_down(&registry).await;
    }
}

#[actix::test]
async fn a_clock_that_is_an_hour_off_causes_no_login() {
    let server = guarded().start().expect("a free port");
    let registry = start(config(&server).credentials("nacos", "secret"));
    for skew in [0, 3_600_000, -3_600_000] {
        server.faults().skew_clock(skew);
        ask(&registry, RegisterInstance::new("orders", "127.0.0.7", 80)).await.unwrap();
    }
    assert_eq!(logins(&server), 1);
    shut_down(&registry).await;
}

#[actix::test]
async fn a_wrong_password_is_a_clear_error_and_tried_once_for_each_step_of_the_backoff() {
    let server = guarded().start().expect("a free port");
    let (logger, log) = support::logs::logger();
    let registry = start(config(&server).credentials("nacos", "wrong").logger(logger));
    // The client tries at 0, 1 and 3 s.
    let began = Instant::now();
    let figures = keep_asking(&registry, |_| began.elapsed() >= ms(3500)).await;
    assert_eq!(figures.failed.len(), figures.operations);
    let is_clear = |error: &Error| matches!(error, Error::Unauthorized { operation: Operation::Login, .. });
    assert!(figures.failed.iter().all(is_clear), "{:?}", figures.failed[0]);
    assert!(!figures.failed[0].is_retryable());
    assert_eq!(logins(&server), 3);
    assert_eq!(log.count("login rejected"), 1, "{:?}", log.loud());
    let status = ask(&registry, GetStatus).await.unwrap().session.expect("there are credentials");
    assert!(!status.logged_in && status.last_error.is_some(), "{status:?}");
    shut_down(&registry).await;
}

#[actix::test]
async fn all_requests_wait_for_the_same_login_that_hangs() {
    let (servers, addresses) = servers_with_users();
    servers[0].faults().only_for(&[Operation::Login]);
    servers[0].faults().hang(true);
    for _ in 0..2 {
        let config = config_at(&addresses).request_timeout(ms(500)).operation_timeout(ms(20_000));
        let registry = start(config.credentials("nacos", "secret"));
        let began = Instant::now();
        let asked = (0..256).map(|_| ask(&registry, ListInstances::new("orders")));
        for answer in join_all(asked).await {
            answer.unwrap();
        }
        assert!(began.elapsed() < ms(10_000), "{:?}", began.elapsed());
        shut_down(&registry).await;
    }
}

/// A client starts at a random server.
fn servers_with_users() -> (Vec<actix_nacos::embedded::EmbeddedServer>, String) {
    let servers: Vec<_> = (0..2).map(|_| guarded().start().expect("a free port")).collect();
    let addresses: Vec<_> = servers.iter().map(|server| server.server_address()).collect();
    (servers, addresses.join(","))
}
