//! Measures how long a view shows a deregistered instance, without a fault.
#![allow(dead_code, unreachable_pub, reason = "each binary that shares it takes what it needs")]

use std::time::{Duration, Instant};

use actix::Addr;
use actix_nacos::{
    Config, DeregisterInstance, Discover, GetStatus, PushConfig, RegisterInstance, Registry, ServiceView,
};
use futures_util::future::{join_all, try_join_all};

use crate::support::{
    ask,
    measure::{Spread, Stalls},
    shut_down, start, unique, IP,
};

/// Says how many instances of a service there are (`of`), and how many of them are deregistered (`leaving`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub leaving: u16,
    pub of: u16,
}

pub const SHAPES: [Shape; 3] = [Shape { leaving: 1, of: 10 }, Shape { leaving: 2, of: 3 }, Shape { leaving: 1, of: 1 }];

pub struct Sizes {
    pub shapes: Vec<Shape>,
    /// The number of services of each shape.
    pub services: u16,
    /// From the last registration to the first deregistration.
    pub rest: Duration,
    /// The deregistrations are spread over this time, so that they happen at any time between two polls.
    pub spread: Duration,
    /// The longest interval between two polls of a list.
    pub poll_interval: Duration,
}

#[derive(Debug)]
pub struct Figures {
    /// The poll interval, if the server pushed nothing.
    pub polled_every: Option<Duration>,
    /// The time from the answer to the last deregistration until the view shows all of them.
    pub times: Vec<(Shape, Spread)>,
    /// Measurements during which the machine stalled for more than 200 ms.
    pub left_out: usize,
}

impl Figures {
    /// The promised time.
    pub fn bound(&self) -> Duration {
        match self.polled_every {
            None => Duration::from_secs(1),
            Some(interval) => interval + Duration::from_millis(1500),
        }
    }

    pub fn longest(&self) -> Duration {
        self.times.iter().map(|(_, times)| times.longest).max().unwrap_or_default()
    }
}

/// One Registry registers and deregisters, another one watches.
pub async fn time_to_remove(config: Config, sizes: &Sizes) -> Figures {
    let owner = start(config.clone().push(PushConfig::off()));
    let caller = start(config.poll_interval(sizes.poll_interval.min(Duration::from_secs(1)), sizes.poll_interval));
    let stalls = Stalls::watch();
    let shapes = sizes.shapes.iter().flat_map(|shape| (0..sizes.services).map(|_| *shape));
    let services: Vec<_> = join_all(shapes.map(|shape| Service::register(&owner, &caller, shape))).await;
    // Nothing shows when a server has finished its work after a registration, so wait for a fixed time.
    actix_rt::time::sleep(sizes.rest).await;
    let measured = join_all(services.into_iter().map(|service| service.measure(&owner, &stalls, sizes.spread))).await;

    let polled_every = polled_every(&caller, &measured).await.map(|asked_for| asked_for.min(sizes.poll_interval));
    let times_of = |shape: &Shape| measured.iter().filter(|it| it.shape == *shape).filter_map(|it| it.took).collect();
    let figures = Figures {
        polled_every,
        times: sizes.shapes.iter().map(|shape| (*shape, Spread::of(times_of(shape)))).collect(),
        left_out: measured.iter().filter(|it| it.took.is_none()).count(),
    };
    shut_down(&owner).await;
    shut_down(&caller).await;
    figures
}

struct Service {
    name: String,
    shape: Shape,
    view: ServiceView,
}

struct Measured {
    shape: Shape,
    view: ServiceView,
    /// `None` if the machine stalled meanwhile.
    took: Option<Duration>,
}

impl Service {
    /// Registers all instances, and waits until the view shows them.
    async fn register(owner: &Addr<Registry>, caller: &Addr<Registry>, shape: Shape) -> Self {
        let name = unique("leaving");
        let register = |port| ask(owner, RegisterInstance::new(&name, IP, port));
        try_join_all((1..=shape.of).map(register)).await.expect("registered");
        let mut view = ask(caller, Discover::new(&name)).await.expect("a view");
        shows(&mut view, shape.of).await;
        Service { name, shape, view }
    }

    async fn measure(mut self, owner: &Addr<Registry>, stalls: &Stalls, spread: Duration) -> Measured {
        actix_rt::time::sleep(spread.mul_f64(fastrand::f64())).await;
        let deregister = |port| ask(owner, DeregisterInstance::new(&self.name, IP, port));
        try_join_all((1..=self.shape.leaving).map(deregister)).await.expect("deregistered");
        let answered = Instant::now();
        shows(&mut self.view, self.shape.of - self.shape.leaving).await;
        let seen = Instant::now();
        let took = (!stalls.any_between(answered, seen)).then_some(seen - answered);
        Measured { shape: self.shape, view: self.view, took }
    }
}

/// Waits until the view has this number of instances.
async fn shows(view: &mut ServiceView, instances: u16) {
    while view.instances().len() != usize::from(instances) {
        actix_rt::time::timeout(PATIENCE, view.changed()).await.expect("a list in time").expect("the registry lives");
    }
}

/// Longer than any view has ever shown an instance after its removal.
const PATIENCE: Duration = Duration::from_secs(90);

/// `None` on a server that pushes.
async fn polled_every(caller: &Addr<Registry>, measured: &[Measured]) -> Option<Duration> {
    let status = ask(caller, GetStatus).await.expect("a status");
    if status.push.is_some_and(|push| push.pushes > 0) {
        return None;
    }
    // The server asks for this interval by `cacheMillis`. A Subscriber polls after 85 percent of it.
    measured.iter().map(|it| it.view.info().cache_time().mul_f64(0.85)).max()
}
