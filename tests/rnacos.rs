//! Tests that need a running r-nacos. It restarts without its data, never answers "unknown instance", and never pushes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "scenarios/rnacos.rs"]
mod scenario;
mod support;
#[path = "scenarios/time_to_remove.rs"]
mod time_to_remove;

use std::time::{Duration, Instant};

use actix_nacos::{Config, DeregisterInstance, GetInstance, ModifyInstance, RegisterInstance};
use support::{ask, ms, shut_down, start};

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
    // The pauses are so long that r-nacos closes the idle connections twice meanwhile.
    let sizes =
        time_to_remove::Sizes { shapes, services: 3, rest: ms(11_000), spread: ms(2000), poll_interval: ms(500) };
    let figures = time_to_remove::time_to_remove(Config::new(&server.address), &sizes).await;
    assert_eq!(figures.polled_every, Some(ms(500)), "{figures:?}");
    // Other tests allow five times the bound. Here that would hide a fault of the past: a list was withheld for 6.5 s
    // after an idle connection had ended.
    assert!(figures.longest() <= figures.bound() * 3, "{figures:?}");
}

#[actix::test]
#[ignore = "needs r-nacos (RNACOS=path, or rnacos in PATH)"]
async fn an_instance_that_r_nacos_has_lost_gets_its_values_back_and_an_operators_change_stays() {
    let server = scenario::Rnacos::start().await;
    let (owner, other) = (start(Config::new(&server.address)), start(Config::new(&server.address)));
    let register = |port| RegisterInstance::new("orders", "127.0.0.7", port).weight(3.0);
    // Without metadata, because r-nacos keeps the metadata of an address.
    ask(&owner, register(80)).await.unwrap();
    ask(&owner, register(81).metadata("zone", "a")).await.unwrap();
    ask(&other, ModifyInstance::new("orders", "127.0.0.7", 81).weight(5.0).enabled(false)).await.unwrap();
    // The next beat registers the instance again, with the defaults of r-nacos.
    ask(&other, DeregisterInstance::new("orders", "127.0.0.7", 80)).await.unwrap();
    let began = Instant::now();
    loop {
        actix_rt::time::sleep(ms(500)).await;
        let found = ask(&other, GetInstance::new("orders", "127.0.0.7", 80)).await;
        if found.is_ok_and(|found| found.weight == 3.0) {
            break;
        }
        // The first beat detects r-nacos. From then on the instance is read once in 30 s, after a beat.
        assert!(began.elapsed() < Duration::from_secs(5 + 30 + 5 + 2), "its values are not back");
    }
    // The other instance is also read within 30 s.
    actix_rt::time::sleep(Duration::from_secs(40).saturating_sub(began.elapsed())).await;
    let changed = ask(&other, GetInstance::new("orders", "127.0.0.7", 81)).await.unwrap();
    assert_eq!((changed.weight, changed.enabled, changed.metadata["zone"].as_str()), (5.0, false, "a"));
    shut_down(&owner).await;
    shut_down(&other).await;
}
