//! One of three instances answers 503 for a time.
#![allow(dead_code, unreachable_pub, reason = "each binary that shares it takes what it needs")]

use std::{
    cell::Cell,
    sync::{
        atomic::{AtomicBool, Ordering},
        Arc,
    },
    time::{Duration, Instant},
};

use actix_nacos::{
    balance::{Client, Retry},
    Selection,
};
use actix_web::HttpResponse;
use futures_util::future::join;

use crate::{
    scenarios::by_name::{call, Caller},
    support::{ms, registry, server, shut_down, unique, web::Web},
};

pub struct Sizes {
    /// Requests per second.
    pub rate: u32,
    pub selection: Selection,
    /// How long the instance answers 503.
    pub bad_for: Duration,
    /// How soon after that the instance must get calls again.
    pub back_within: Duration,
}

pub struct Figures {
    /// Requests that the instance got before it was ejected.
    pub until_ejected: usize,
    /// The instance's share of the calls from then on, while it answered 503.
    pub share_afterwards: f64,
    /// The time from its recovery until it got its share of the calls again. `None` if it did not get it.
    pub back_after: Option<Duration>,
    pub failed: usize,
}

pub async fn one_of_three_answers_503(sizes: &Sizes) -> Figures {
    let (server, service, is_bad) = (server(), unique("orders"), Arc::new(AtomicBool::new(false)));
    let bad = is_bad.clone();
    let sick = Web::start(move |_, _| {
        let is_bad = bad.load(Ordering::Acquire);
        async move { if is_bad { HttpResponse::ServiceUnavailable() } else { HttpResponse::Ok() }.finish() }
    });
    let others = [Web::with_its_port(), Web::with_its_port()];
    let registry = registry(&server);
    for instance in [&sick, &others[0], &others[1]] {
        instance.register(&registry, &service).await;
    }
    let selection = sizes.selection.clone();
    let http = Client::builder(&registry).service(&service).selection(selection).retry(Retry::once()).finish();

    let (caller, is_over) = (Caller::default(), Cell::new(false));
    let illness = async {
        actix_rt::time::sleep(ms(2000)).await;
        let before = sick.requests();
        is_bad.store(true, Ordering::Release);
        // Long enough for many more requests than the instance may get, if it is not ejected.
        actix_rt::time::sleep(ms(1000)).await;
        let (ejected, calls) = (sick.requests(), caller.requests());
        actix_rt::time::sleep(sizes.bad_for.saturating_sub(ms(1000))).await;
        let (afterwards, calls) = (sick.requests() - ejected, caller.requests() - calls);
        is_bad.store(false, Ordering::Release);
        let back_after = back(&sick, sizes).await;
        is_over.set(true);
        (ejected - before, afterwards as f64 / calls as f64, back_after)
    };
    let url = format!("http://{service}/");
    let load = caller.call_at_rate(sizes.rate, || is_over.get(), |_| call(http.clone(), url.clone(), false));
    let ((until_ejected, share_afterwards, back_after), ()) = join(illness, load).await;
    shut_down(&registry).await;
    Figures { until_ejected, share_afterwards, back_after, failed: caller.take().failed.len() }
}

/// Returns how long it takes until the instance gets half of its share of the calls in half a second.
async fn back(sick: &Web, sizes: &Sizes) -> Option<Duration> {
    let well = Instant::now();
    while well.elapsed() < sizes.back_within + ms(5000) {
        let (before, began) = (sick.requests(), well.elapsed());
        actix_rt::time::sleep(ms(500)).await;
        if sick.requests() - before >= sizes.rate as usize / 12 {
            return Some(began);
        }
    }
    None
}
