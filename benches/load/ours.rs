//! Drives the measured client as an application would.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use actix::Addr;
use actix_nacos::{Config, DeregisterInstance, Discover, ListInstances, RegisterInstance, Registry, Shutdown};
use actix_rt::time::sleep;
use futures_util::{future::join_all, stream, StreamExt as _};

use crate::{
    measure::{memory, Figures, Meter},
    stub::BEAT_INTERVAL,
    Options, Target, Window, IN_FLIGHT,
};

/// The step of the timer grid, and some more. The first beat is sent at the first point of the grid after it is due.
const GRID: Duration = Duration::from_millis(600);

/// The interval between two polls of a watched list.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The deadline of a shutdown that is measured.
const LONGEST_SHUTDOWN: Duration = Duration::from_secs(60);

/// The time until every instance has beaten, or every list has been polled again. Then the load is steady. A short run
/// does not wait for that.
fn warm_up(options: &Options, interval: Duration) -> Duration {
    Duration::from_secs_f64(options.seconds * 3.0).min(interval + GRID)
}

fn start(address: SocketAddr, client: &str) -> Addr<Registry> {
    let config = Config::new(address.to_string()).poll_interval(POLL_INTERVAL, POLL_INTERVAL);
    match client {
        // Runs the Registry on the caller's thread, so that no messages cross threads.
        "here" => Registry::start_here(config).expect("it starts"),
        _ => Registry::start(config).expect("it starts"),
    }
}

pub(crate) fn service(number: usize, options: &Options) -> String {
    format!("orders-{}", number % options.services)
}

pub(crate) fn ip(number: usize) -> String {
    format!("127.{}.{}.{}", number >> 16, number >> 8 & 255, number & 255)
}

async fn register_all(registry: &Addr<Registry>, options: &Options) {
    let one = |number| registry.send(RegisterInstance::new(service(number, options), ip(number + 1), 8080));
    let answers = stream::iter(0..options.instances).map(one).buffer_unordered(IN_FLIGHT);
    answers.for_each(|answer| async { drop(answer.expect("it lives").expect("registered")) }).await;
}

/// Measures heartbeats without any other requests.
pub(crate) async fn beats(options: &Options, target: &Target) -> Figures {
    let registry = start(target.address, "thread");
    let (before, _) = memory();
    register_all(&registry, options).await;
    steady_beats(options, target, before).await
}

/// Measures the beats of instances that have just been registered. `before` is the memory before that.
pub(crate) async fn steady_beats(options: &Options, target: &Target, before: f64) -> Figures {
    sleep(warm_up(options, BEAT_INTERVAL)).await;
    let window = Window::open(target);
    sleep(Duration::from_secs_f64(options.seconds)).await;
    let nominal = options.instances as f64 * options.seconds / BEAT_INTERVAL.as_secs_f64();
    let mut figures = window.close(nominal, |counts| counts.beats);
    let growth = figures["rss_kib"] - before;
    figures.insert("kib_each".into(), growth / options.instances as f64);
    figures
}

/// Measures lists, as many as the client can get. With `changing`, each list differs from the one before.
pub(crate) async fn lists(options: &Options, target: &Target, client: &str, changing: bool) -> Figures {
    let registry = start(target.address, client);
    let until = Instant::now() + Duration::from_secs_f64(options.seconds);
    let window = Window::open(target);
    let ask = |number| {
        let (registry, service) = (&registry, service(number, options));
        async move {
            let mut asked = 0;
            while Instant::now() < until {
                let message = ListInstances::new(&service);
                let message = if changing { message.healthy_only() } else { message };
                let list = registry.send(message).await.expect("it lives").expect("a list");
                asked += usize::from(list.hosts.len() < usize::MAX);
            }
            asked
        }
    };
    let asked: usize = join_all((0..IN_FLIGHT).map(ask)).await.into_iter().sum();
    window.close(asked as f64, |counts| counts.lists)
}

/// Measures registering all instances, then deregistering them.
pub(crate) async fn register(options: &Options, target: &Target, client: &str) -> Figures {
    let registry = start(target.address, client);
    let registering = Meter::start();
    register_all(&registry, options).await;
    let registering = registering.read();
    let deregistering = Meter::start();
    let one = |number| registry.send(DeregisterInstance::new(service(number, options), ip(number + 1), 8080));
    let answers = stream::iter(0..options.instances).map(one).buffer_unordered(IN_FLIGHT);
    answers.for_each(|answer| async { answer.expect("it lives").expect("deregistered") }).await;
    both(options.instances, registering, deregistering.read())
}

/// Measures deregistering all instances by a `Shutdown`.
pub(crate) async fn shutdown(options: &Options, target: &Target) -> Figures {
    let registry = start(target.address, "thread");
    register_all(&registry, options).await;
    let meter = Meter::start();
    let report = registry.send(Shutdown::default().deadline(LONGEST_SHUTDOWN)).await.expect("it lives");
    assert_eq!(report.expect("it shuts down").deregistered, options.instances);
    deregistered(options.instances, meter.read())
}

pub(crate) fn deregistered(instances: usize, (cpu, wall): (f64, f64)) -> Figures {
    let instances = instances as f64;
    Figures::from([("deregistered_per_second".into(), instances / wall), ("deregister_cpu_us".into(), cpu / instances)])
}

pub(crate) fn both(instances: usize, registering: (f64, f64), deregistering: (f64, f64)) -> Figures {
    let instances = instances as f64;
    Figures::from([
        ("registered_per_second".into(), instances / registering.1),
        ("register_cpu_us".into(), registering.0 / instances),
        ("deregistered_per_second".into(), instances / deregistering.1),
        ("deregister_cpu_us".into(), deregistering.0 / instances),
    ])
}

/// Measures views of services in which nothing changes, each polled once a second.
pub(crate) async fn watch(options: &Options, target: &Target) -> Figures {
    let registry = start(target.address, "thread");
    let (before, _) = memory();
    let mut views = Vec::new();
    for number in 0..options.services {
        let view = registry.send(Discover::new(service(number, options))).await.expect("it lives").expect("a view");
        view.ready().await.expect("a first list");
        views.push(view);
    }
    sleep(warm_up(options, POLL_INTERVAL)).await;
    let window = Window::open(target);
    sleep(Duration::from_secs_f64(options.seconds)).await;
    let mut figures = window.close(options.services as f64 * options.seconds, |counts| counts.lists);
    let growth = figures["rss_kib"] - before;
    figures.insert("kib_each".into(), growth / options.services as f64);
    figures
}
