use std::{future::Future, pin::pin, sync::Arc, thread, time::Duration};

use actix_rt::time::{timeout, Instant};
use tokio::sync::oneshot;

use super::{Policy, ServiceRecords, ServiceView, ViewWriter};
use crate::{
    error::Error,
    model::{
        instance::Instance,
        service::{ServiceInfo, ServiceName},
    },
    runtime::blocking::block_on,
};

fn service() -> ServiceName {
    ServiceName::parse("orders").unwrap()
}

/// One instance per weight, at ports 1, 2, and so on.
fn instances(weights: &[f64]) -> Vec<Instance> {
    let with = |(port, weight): (u16, &f64)| Instance { weight: *weight, ..Instance::new("127.0.0.1", port) };
    (1..).zip(weights).map(with).collect()
}

fn list(weights: &[f64]) -> Arc<ServiceInfo> {
    let mut info = ServiceInfo::empty(&service(), "");
    info.hosts = instances(weights).into_iter().map(Arc::new).collect();
    Arc::new(info)
}

fn writer() -> ViewWriter {
    ViewWriter::new(service(), String::new(), ServiceRecords::new(service(), None))
}

#[test]
#[cfg_attr(miri, ignore = "too many draws for Miri")]
fn a_view_draws_by_the_weights_too() {
    let weights = [1.0, 0.0, 2.0, 5.0];
    let view = ServiceView::fixed(service(), instances(&weights));
    let mut seen = [0.0; 4];
    (0..200_000).for_each(|_| seen[usize::from(view.select_one().unwrap().port) - 1] += 1.0);
    assert_eq!(seen[1], 0.0);
    for (weight, seen) in weights.iter().zip(seen) {
        assert!((seen / 200_000.0 - weight / 8.0).abs() < 0.01, "{seen} of 200,000 for weight {weight}");
    }
}

#[test]
fn calls_reach_each_instance_whatever_their_number() {
    for count in 1..=9 {
        let view = ServiceView::fixed(service(), instances(&vec![1.0; usize::from(count)]));
        let view = view.with(|selection| selection.policy(Policy::WeightedRoundRobin));
        let mut ports: Vec<_> = (0..count).map(|_| view.begin().unwrap().instance().port).collect();
        ports.sort_unstable();
        assert!(ports.iter().copied().eq(1..=count), "{ports:?}");
    }
}

#[test]
fn an_instance_that_takes_no_calls_is_never_chosen() {
    let mut hosts = instances(&[0.0, 1.0, 1.0, f64::INFINITY, f64::NAN, 1.0, 1e-300, 1.0]);
    hosts[1].healthy = false;
    hosts[2].enabled = false;
    hosts[7].port = 0;
    let view = ServiceView::fixed(service(), hosts);
    for _ in 0..if cfg!(miri) { 50 } else { 10_000 } {
        assert_eq!(view.select_one().unwrap().port, 6);
    }
}

#[test]
fn no_instance_is_chosen_without_one_of_a_weight_above_0() {
    let select = |weights: &[f64]| ServiceView::fixed(service(), instances(weights)).select_one();
    assert!(select(&[]).is_none());
    assert!(select(&[0.0, 0.0, 0.0]).is_none());
    assert_eq!(select(&[0.001]).unwrap().port, 1);
    assert_eq!(select(&[0.0, f64::MAX]).unwrap().into_owned().port, 2);
}

#[test]
fn a_healthy_only_view_shows_only_healthy_instances() {
    let mut info = ServiceInfo::clone(&list(&[1.0, 1.0]));
    Arc::make_mut(&mut info.hosts[0]).healthy = false;
    let writer = writer();
    writer.publish(Arc::new(info), false, |_| false);
    let (all, healthy) = (writer.view(false), writer.view(true));
    assert_eq!((all.instances().len(), healthy.instances().len()), (2, 1));
    assert_eq!((all.info().hosts.len(), healthy.info().hosts.len()), (2, 1));
    assert_eq!(healthy.clone().instances()[0].port, 2);
    writer.publish(list(&[1.0, 1.0]), false, |_| false);
    assert!(Arc::ptr_eq(&all.info(), &healthy.info()));
}

#[test]
fn instances_do_not_change_while_they_are_held() {
    let writer = writer();
    let view = writer.view(false);
    writer.publish(list(&[1.0]), false, |_| false);
    let (before, chosen) = (view.instances(), view.select_one().unwrap());
    writer.publish(list(&[0.0, 0.0]), false, |_| false);
    assert_eq!((before.len(), chosen.port, view.instances().len()), (1, 1, 2));
    assert!(view.select_one().is_none());
}

#[test]
fn many_guards_may_be_held_at_once() {
    let writer = writer();
    let view = writer.view(false);
    let mut held = Vec::new();
    for length in 1..=50 {
        writer.publish(list(&vec![1.0; length]), false, |_| false);
        held.push((view.instances(), view.select_one().unwrap()));
    }
    for (length, (instances, chosen)) in (1..).zip(&held) {
        assert!(instances.len() == length && usize::from(chosen.port) <= length);
    }
}

#[test]
fn views_and_guards_go_into_any_thread() {
    fn sendable<T: Send + Sync>(value: T) -> T {
        value
    }
    fn sendable_future(future: impl Future + Send) {
        drop(future);
    }
    let mut view = sendable(ServiceView::fixed(service(), instances(&[1.0])));
    sendable(view.instances());
    sendable(view.select_one());
    sendable_future(view.ready());
    sendable_future(view.ready_within(Duration::ZERO));
    sendable_future(view.changed());
    sendable_future(view.available_within(Duration::ZERO));
    let _ = sendable(view.begin().unwrap());
    sendable(view.clone());
    fn sends<T: Send + 'static>(_: T) {}
    sends(view.lists());
    sends(view.changes());
}

#[actix::test]
async fn a_view_is_ready_only_after_the_first_list_even_an_empty_one() {
    let writer = writer();
    let view = writer.view(false);
    assert!(!view.is_ready() && view.instances().is_empty() && view.select_one().is_none());
    assert!(timeout(Duration::from_millis(1), view.ready()).await.is_err());
    let waiting = actix_rt::spawn({
        let view = view.clone();
        async move { view.ready().await }
    });
    writer.publish(list(&[]), false, |_| false);
    assert_eq!(waiting.await.unwrap(), Ok(()));
    assert!(view.is_ready() && view.instances().is_empty());
    assert_eq!(view.ready_within(Duration::ZERO).await, Ok(()));
}

#[actix::test]
async fn waiting_ends_with_the_writer() {
    let writer = writer();
    let mut view = writer.view(false);
    actix_rt::spawn(writer.keep_time());
    let waiting = actix_rt::spawn({
        let view = view.clone();
        async move { view.ready_within(Duration::from_secs(60)).await }
    });
    actix_rt::task::yield_now().await;
    drop(writer);
    assert_eq!(waiting.await.unwrap(), Err(Error::Stopped));
    assert_eq!(view.ready().await, Err(Error::Stopped));
    assert_eq!(view.ready_within(Duration::ZERO).await, Err(Error::Stopped));
    assert_eq!(view.changed().await, Err(Error::Stopped));
    assert!(view.is_stale());
}

#[actix::test]
async fn a_view_outlives_its_writer_and_is_stale() {
    let writer = writer();
    let mut view = writer.view(false);
    writer.publish(list(&[1.0]), false, |_| false);
    assert!(!view.is_stale());
    writer.set_stale(true);
    assert!(view.is_stale());
    writer.set_stale(false);
    assert!(!view.is_stale());
    drop(writer);
    assert!(view.is_stale());
    assert_eq!(view.select_one().unwrap().port, 1);
    assert_eq!(view.ready().await, Ok(()));
    assert_eq!(view.changed().await, Ok(()), "the last list, not seen yet");
    assert_eq!(view.changed().await, Err(Error::Stopped));
}

#[actix::test]
async fn timers_of_a_caller_without_runtime_run_in_the_writers_thread() {
    let writer = writer();
    actix_rt::spawn(writer.keep_time());
    let view = writer.view(false);
    let (done_tx, done_rx) = oneshot::channel();
    let limit = Duration::from_millis(20);
    let caller = thread::spawn(move || {
        let before = Instant::now();
        let result = block_on(view.ready_within(limit));
        let _ = done_tx.send((result, before.elapsed()));
    });
    let (result, waited) = done_rx.await.unwrap();
    caller.join().unwrap();
    assert!(matches!(result, Err(Error::Timeout { after, .. }) if after == limit), "{result:?}");
    assert!(waited >= limit);
}

#[actix::test]
async fn a_timer_ends_when_its_caller_no_longer_waits() {
    let writer = writer();
    let mut time = pin!(writer.keep_time());
    let view = writer.view(false);
    let mut gave_up = Box::pin(view.ready_within(Duration::from_secs(3600)));
    let poll = |future: &mut (dyn Future<Output = ()> + Unpin)| {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        std::pin::Pin::new(future).poll(&mut context)
    };
    assert!(timeout(Duration::from_millis(1), &mut gave_up).await.is_err());
    assert!(poll(&mut time).is_pending());
    drop(gave_up);
    drop(writer);
    assert!(poll(&mut time).is_ready());
}

#[actix::test]
async fn changed_returns_once_per_view_for_a_change() {
    let writer = writer();
    let mut early = writer.view(false);
    writer.publish(list(&[1.0]), false, |_| false);
    let mut late = writer.view(false);
    assert_eq!(early.changed().await, Ok(()));
    for view in [&mut early, &mut late] {
        assert!(timeout(Duration::from_millis(1), view.changed()).await.is_err());
    }
    let waiting = actix_rt::spawn(async move { (late.changed().await, late) });
    actix_rt::task::yield_now().await;
    writer.publish(list(&[1.0, 1.0]), false, |_| false);
    writer.publish(list(&[1.0, 1.0, 1.0]), false, |_| false);
    let (outcome, mut late) = waiting.await.unwrap();
    assert_eq!((outcome, late.instances().len()), (Ok(()), 3));
    assert!(timeout(Duration::from_millis(1), late.changed()).await.is_err());
    let mut cloned = early.clone();
    assert_eq!((early.changed().await, cloned.changed().await), (Ok(()), Ok(())));
}

#[actix::test]
async fn a_writer_is_abandoned_when_its_last_reader_is_gone() {
    let writer = writer();
    assert_eq!(writer.readers(), 0);
    writer.abandoned().await;
    let view = writer.view(false);
    let other = view.clone();
    assert_eq!(writer.readers(), 2);
    let abandoned = actix_rt::spawn(writer.abandoned());
    drop(view);
    actix_rt::task::yield_now().await;
    assert!(!abandoned.is_finished() && writer.readers() == 1);
    thread::spawn(move || drop(other)).join().unwrap();
    abandoned.await.unwrap();
    assert_eq!(writer.readers(), 0);
}

#[test]
fn readers_see_whole_lists_while_they_are_replaced() {
    let writer = writer();
    writer.publish(list(&[1.0]), false, |_| false);
    let readers: Vec<_> = (0..2).map(|_| writer.view(false)).collect();
    let threads = readers.into_iter().map(|view| {
        thread::spawn(move || {
            let (mut reads, mut longest) = (0, 0);
            while !view.is_stale() {
                let (instances, chosen) = (view.instances(), view.select_one().unwrap());
                // In a list of n instances only the last has a weight.
                assert_eq!(instances.iter().filter(|instance| instance.weight > 0.0).count(), 1);
                assert_eq!((instances.last().unwrap().weight, chosen.weight), (1.0, 1.0));
                assert!(usize::from(chosen.port) >= longest, "an older list after a newer one");
                (reads, longest) = (reads + 1, usize::from(chosen.port));
            }
            reads
        })
    });
    let threads: Vec<_> = threads.collect();
    let lists = if cfg!(miri) { 30 } else { 500 };
    for length in 1..=lists {
        let mut weights = vec![0.0; length];
        weights[length - 1] = 1.0;
        writer.publish(list(&weights), false, |_| false);
        thread::sleep(Duration::from_micros(100));
    }
    drop(writer);
    for reads in threads.into_iter().map(|thread| thread.join().unwrap()) {
        assert!(reads > lists / 5, "{reads} reads say little");
    }
}

#[actix::test]
async fn a_fixed_view_is_ready_and_never_changes() {
    let mut view = ServiceView::fixed(service(), instances(&[1.0, 2.0]));
    assert!(view.is_ready() && !view.is_stale());
    assert_eq!((view.ready().await, view.service().name.as_str(), view.clusters()), (Ok(()), "orders", ""));
    assert!(timeout(Duration::from_millis(1), view.changed()).await.is_err());
    assert_eq!(view.instances().len(), 2);
}

#[test]
fn withheld_instances_are_chosen_until_half_of_the_callable_ones_are_confirmed() {
    let chosen = |withheld: &[u16]| {
        let writer = writer();
        writer.publish(list(&[1.0, 1.0, 1.0, 0.0]), false, |host| withheld.contains(&host.port));
        let view = writer.view(false);
        let choices = if cfg!(miri) { 50 } else { 1000 };
        let mut ports: Vec<_> = (0..choices).map(|_| view.select_one().unwrap().port).collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    };
    assert_eq!(chosen(&[1, 2, 3]), [1, 2, 3]);
    assert_eq!(chosen(&[1, 2]), [1, 2, 3], "one of three is less than half");
    assert_eq!(chosen(&[1]), [2, 3]);
}

#[actix::test]
async fn waiting_for_an_instance_ends_when_one_can_be_called_and_not_with_a_list() {
    let writer = writer();
    actix_rt::spawn(writer.keep_time());
    let view = writer.view(false);
    let waiting = actix_rt::spawn({
        let view = view.clone();
        async move { view.available_within(Duration::from_secs(60)).await }
    });
    actix_rt::task::yield_now().await;
    writer.publish(list(&[]), false, |_| false);
    writer.publish(list(&[0.0]), false, |_| false);
    for _ in 0..10 {
        actix_rt::task::yield_now().await;
    }
    assert!(!waiting.is_finished());
    writer.publish(list(&[0.0, 1.0]), false, |_| false);
    assert_eq!(waiting.await.unwrap(), Ok(()));
    assert_eq!(view.available_within(Duration::ZERO).await, Ok(()));
    writer.publish(list(&[0.0]), false, |_| false);
    let waited = view.available_within(Duration::from_millis(5)).await;
    assert!(matches!(waited, Err(Error::NoInstance { listed: 1, .. })), "{waited:?}");
    let waiting = actix_rt::spawn(async move { view.available_within(Duration::from_secs(60)).await });
    actix_rt::task::yield_now().await;
    drop(writer);
    assert_eq!(waiting.await.unwrap(), Err(Error::Stopped));
}

#[test]
fn a_plain_thread_waits_for_an_instance() {
    let (view, control) = ServiceView::controlled(service());
    let waiting = thread::spawn({
        let view = view.clone();
        move || view.available_blocking(Duration::from_secs(60))
    });
    control.publish(instances(&[0.0]));
    control.publish(instances(&[1.0]));
    assert_eq!(waiting.join().unwrap(), Ok(()));
    control.publish([]);
    let waited = view.available_blocking(Duration::from_millis(5));
    assert!(matches!(waited, Err(Error::NoInstance { listed: 0, .. })), "{waited:?}");
    let fixed = ServiceView::fixed(service(), []);
    assert!(matches!(fixed.available_blocking(Duration::from_secs(60)), Err(Error::NoInstance { .. })));
}

#[test]
fn a_view_made_from_another_one_follows_the_same_list() {
    let writer = writer();
    let view = writer.view(true);
    let other = view.with(|selection| selection.policy(Policy::WeightedRoundRobin));
    drop(view);
    assert_eq!(writer.readers(), 1);
    writer.publish(list(&[1.0, 1.0]), true, |_| false);
    assert!(other.is_ready() && other.is_stale() && other.begin().is_ok());
    assert_ne!(other.begin().unwrap().port, other.begin().unwrap().port);
}
