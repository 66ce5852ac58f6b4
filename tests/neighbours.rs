//! What one operation that fails costs: itself, and nobody else.

mod support;

use std::time::Instant;

use actix::Addr;
use actix_nacos::{DeregisterInstance, Error, Operation, RegisterInstance, Registry};
use futures_util::future::join;
use support::{
    ask, config, config_at,
    fake::{Answer, Fake},
    ms, ports, server, shut_down, start,
};

async fn register(registry: &Addr<Registry>, port: u16) -> Result<(), Error> {
    ask(registry, RegisterInstance::new("orders", "10.0.0.7", port).ephemeral(false)).await
}

#[actix::test]
async fn a_request_that_always_fails_costs_nobody_else_anything() -> Result<(), Error> {
    let fake = Fake::start(|seen| match seen.parameter("ip") {
        Some("10.0.0.66") => Answer::Text(500, "text/plain", "caused: no leader!;".into()),
        _ => Answer::usual(seen),
    });
    let registry = start(config_at(&fake.server_address()).operation_timeout(ms(2000)));
    let doomed = registry.send(RegisterInstance::new("orders", "10.0.0.66", 80).ephemeral(false));
    let others = async {
        let mut slowest = ms(0);
        for port in 1..=50 {
            let began = Instant::now();
            register(&registry, port).await?;
            slowest = slowest.max(began.elapsed());
            actix_rt::time::sleep(ms(20)).await; // Spread over the time in which the other fails.
        }
        Ok::<_, Error>(slowest)
    };
    let (doomed, slowest) = join(doomed, others).await;
    assert_eq!(doomed?.unwrap_err().status(), Some(500));
    let slowest = slowest?;
    assert!(slowest < ms(40), "no pause: {slowest:?}");
    let asked = fake.seen().iter().filter(|seen| seen.parameter("ip") == Some("10.0.0.66")).count();
    assert!(asked < 10, "with growing pauses of its own: {asked}");
    shut_down(&registry).await;
    Ok(())
}

#[actix::test]
async fn a_request_that_always_fails_is_no_outage() -> Result<(), Error> {
    let fake = Fake::start(|seen| match seen.parameter("ip") {
        Some("10.0.0.66") => Answer::Text(500, "text/plain", "caused: no leader!;".into()),
        _ => Answer::usual(seen),
    });
    let (logger, log) = support::logs::logger();
    let registry = start(config_at(&fake.server_address()).operation_timeout(ms(1000)).logger(logger));
    register(&registry, 1).await?;
    let doomed = ask(&registry, RegisterInstance::new("orders", "10.0.0.66", 80).ephemeral(false)).await;
    assert_eq!(doomed.unwrap_err().status(), Some(500));
    register(&registry, 2).await?;
    assert_eq!(log.count("no registry server answers"), 0, "{:?}", log.loud());
    let again = fake.seen().iter().filter(|seen| seen.method == "POST" && seen.parameter("port") == Some("1")).count();
    assert_eq!(again, 1, "nothing was registered again");
    shut_down(&registry).await;
    Ok(())
}

#[actix::test]
async fn a_persistent_instance_is_deregistered_as_one_at_the_second_try_too() -> Result<(), Error> {
    let server = server();
    let registry = start(config(&server).operation_timeout(ms(300)));
    ask(&registry, RegisterInstance::new("ledger", "10.0.0.7", 80).ephemeral(false)).await?;
    server.faults().only_for(&[Operation::Deregister]);
    server.faults().fail_share(1.0, 503);
    let deregister = DeregisterInstance::new("ledger", "10.0.0.7", 80);
    assert!(ask(&registry, deregister.clone()).await.unwrap_err().is_retryable());
    server.faults().clear();
    ask(&registry, deregister).await?;
    assert!(ports(&server, "ledger").is_empty());
    shut_down(&registry).await;
    Ok(())
}
