//! Each model has a writer and at most two readers in threads of their own.

use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::{sync::Arc, time::Duration};

use actix_rt::time::Instant;
use loom::{future::block_on, thread};
use standins::explore;

use super::{
    call::Call,
    clock::Now,
    ejection::{CallTotals, Eject, ServiceRecords},
    record::{Admission, EndedCalls, Record},
    selection::Selection,
    service_view::ServiceView,
    writer::ViewWriter,
};
use crate::{
    error::Error,
    model::{
        instance::Instance,
        service::{ServiceInfo, ServiceName},
    },
};

macro_rules! models {
    ($($model:ident: $switches:expr),* $(,)?) => {
        &[$((stringify!($model), $switches, $model)),*]
    };
}

/// The number is the limit of thread switches that no thread asked for; `None` is every interleaving.
const MODELS: &[(&str, Option<usize>, fn())] = models! {
    calls_of_two_threads_are_all_counted: None,
    each_failure_in_a_row_is_counted_once: None,
    one_call_at_a_time_is_the_probe: None,
    a_reader_sees_one_list_and_never_an_older_one_again: None,
    an_instance_is_chosen_from_the_list_that_is_read: None,
    a_reader_that_was_woken_sees_the_list_and_its_staleness: Some(4),
    the_last_list_is_seen_before_the_end: Some(4),
    the_last_view_that_is_dropped_tells_the_writer_once: Some(4),
    a_new_view_shows_the_list_that_is_published_meanwhile: Some(4),
    calls_begin_and_end_while_a_list_is_published: Some(3),
    the_last_instance_is_not_ejected: None,
    an_instance_that_leaves_while_its_calls_fail_is_not_ejected: Some(4),
    a_probe_that_succeeds_while_its_instance_leaves_ends_one_ejection: None,
    two_probes_that_succeed_end_one_ejection: Some(4),
};

pub(crate) fn run() {
    let name = std::env::args().nth(1).unwrap_or_default();
    let chosen: Vec<_> = MODELS.iter().filter(|(model, ..)| model.contains(&name)).collect();
    assert!(!chosen.is_empty(), "no model has this name");
    for (model, switches, check) in chosen {
        explore(model, *switches, *check);
    }
}

fn service() -> ServiceName {
    ServiceName::parse("orders").unwrap()
}

fn list(ports: &[u16]) -> Arc<ServiceInfo> {
    Arc::new(ServiceInfo::new(service(), ports.iter().map(|port| Instance::new("127.0.0.1", *port))))
}

/// A writer that has published instances at these ports.
fn writer(ports: &[u16]) -> ViewWriter {
    let writer = ViewWriter::new(service(), String::new(), ServiceRecords::new(service(), None));
    publish(&writer, ports);
    writer
}

fn publish(writer: &ViewWriter, ports: &[u16]) {
    writer.publish(list(ports), false, |_| false);
}

/// A view whose calls eject an instance at the first failure.
fn view(writer: &ViewWriter, base: Duration) -> ServiceView {
    writer.view(false).with(|selection| selection.eject(Eject::consecutive(1).base(base).max_share(1.0)))
}

fn ports(view: &ServiceView) -> Vec<u16> {
    view.instances().iter().map(|instance| instance.port).collect()
}

/// A call of the instance at this port.
fn call(view: &ServiceView, port: u16) -> Call {
    (0..200).map(|_| view.begin().unwrap()).find(|call| call.port == port).unwrap()
}

fn in_flight(view: &ServiceView) -> u32 {
    let list = view.shared.list.load();
    list.callable(&view.shared).iter().map(|callable| callable.record.in_flight()).sum()
}

/// Checks what must hold when no other thread is left.
fn check_ejections(writer: &ViewWriter, view: &ServiceView) {
    let records = writer.records();
    let ejected = view.instances().iter().filter(|instance| records.is_ejected(instance)).count();
    assert_eq!(records.any_ejected(), ejected > 0, "an instance that is not listed is ejected, or one is not counted");
    assert_eq!(view.shared.list.load().is_plain(), ejected == 0, "choices must look for ejected instances");
    assert_eq!(in_flight(view), 0);
    publish(writer, &[]);
    assert!(!records.any_ejected(), "the number of ejected instances is wrong");
}

fn calls_of_two_threads_are_all_counted() {
    let record = Arc::new(Record::new(Instant::now(), None));
    let outcomes = [Some(true), None];
    let threads = outcomes.map(|outcome| {
        let record = record.clone();
        thread::spawn(move || {
            record.call_began();
            record.call_ended(outcome);
        })
    });
    assert!(record.in_flight() <= 2, "never negative");
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    record.call_began();
    // A number below zero is shown as zero, so look while a call is in flight.
    assert_eq!(record.in_flight(), 1);
    assert_eq!(record.ended_calls(), EndedCalls { succeeded: 1, failed: 0, cancelled: 1 });
}

fn each_failure_in_a_row_is_counted_once() {
    let record = Arc::new(Record::new(Instant::now(), None));
    let threads = [(); 2].map(|()| {
        let record = record.clone();
        thread::spawn(move || record.count_failure())
    });
    let mut counts = threads.map(|thread| thread.join().unwrap());
    counts.sort_unstable();
    assert_eq!(counts, [1, 2], "else two calls eject the instance, or none");
}

fn one_call_at_a_time_is_the_probe() {
    let origin = Instant::now();
    let record = Arc::new(Record::new(origin, None));
    record.eject_until(origin);
    let probing = Arc::new(AtomicUsize::new(0));
    let threads = [(); 2].map(|()| {
        let (record, probing) = (record.clone(), probing.clone());
        thread::spawn(move || {
            let Admission::Probe(probe) = record.admit(&Now::default()) else { return };
            assert_eq!(probing.fetch_add(1, Relaxed), 0, "two probes");
            thread::yield_now();
            probing.fetch_sub(1, Relaxed);
            assert!(record.end_probe(probe), "nobody else ends it");
        })
    });
    record.would_admit(&Now::default());
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert!(record.would_admit(&Now::default()), "a cancelled probe is over");
}

fn a_reader_sees_one_list_and_never_an_older_one_again() {
    let writer = writer(&[1, 2]);
    let threads = [(); 2].map(|()| {
        let view = writer.view(false);
        thread::spawn(move || {
            let (first, second) = (ports(&view), ports(&view));
            assert!(first == [1, 2] || first == [2, 3]);
            assert!(second == [2, 3] || second == first);
            view
        })
    });
    publish(&writer, &[2, 3]);
    for thread in threads {
        assert_eq!(ports(&thread.join().unwrap()), [2, 3]);
    }
}

fn an_instance_is_chosen_from_the_list_that_is_read() {
    let writer = writer(&[1, 2]);
    let threads = [(); 2].map(|()| {
        let view = writer.view(false);
        thread::spawn(move || {
            let published = view.shared.version();
            let chosen = view.select_one().unwrap().port;
            assert!([1, 2, 3].contains(&chosen));
            assert!(published == 1 || [2, 3].contains(&chosen), "the version is counted after the list is stored");
            view
        })
    });
    publish(&writer, &[2, 3]);
    threads.into_iter().for_each(|thread| drop(thread.join().unwrap()));
}

fn a_reader_that_was_woken_sees_the_list_and_its_staleness() {
    let writer = writer(&[1, 2]);
    let threads = [(); 2].map(|()| {
        let mut view = writer.view(false);
        thread::spawn(move || {
            assert_eq!(block_on(view.changed()), Ok(()));
            assert_eq!(ports(&view), [2, 3]);
            assert!(view.is_stale());
        })
    });
    writer.publish(list(&[2, 3]), true, |_| false);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

fn the_last_list_is_seen_before_the_end() {
    let writer = writer(&[1, 2]);
    let mut view = writer.view(false);
    let reader = thread::spawn(move || {
        assert_eq!(block_on(view.changed()), Ok(()), "the list was published before the end");
        assert_eq!(ports(&view), [2, 3]);
        assert_eq!(block_on(view.changed()), Err(Error::Stopped));
        assert!(view.is_stale());
    });
    publish(&writer, &[2, 3]);
    drop(writer);
    reader.join().unwrap();
}

fn the_last_view_that_is_dropped_tells_the_writer_once() {
    let writer = writer(&[1]);
    let source = writer.view(false).source.clone();
    let (one, other) = (writer.view(false), writer.view(false));
    let before = source.last_reader_left.calls();
    let threads = [thread::spawn(move || drop(one.clone())), thread::spawn(move || drop(other))];
    block_on(writer.abandoned());
    assert_eq!(writer.readers(), 0);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(source.last_reader_left.calls() - before, 1);
}

fn a_new_view_shows_the_list_that_is_published_meanwhile() {
    let writer = writer(&[1, 2]);
    let threads = [(); 2].map(|()| {
        let view = writer.view(false);
        thread::spawn(move || view.with(|selection| selection.only_cluster("DEFAULT")))
    });
    publish(&writer, &[2, 3]);
    let views = threads.map(|thread| thread.join().unwrap());
    for view in &views {
        assert_eq!(ports(view), [2, 3]);
        assert!(view.shared.list.load().is_plain());
    }
    assert!(Arc::ptr_eq(&views[0].shared, &views[1].shared), "equal selections share a list");
}

fn calls_begin_and_end_while_a_list_is_published() {
    let writer = writer(&[1, 2]);
    let view = view(&writer, Duration::from_secs(30));
    let succeeding = view.clone();
    let failing = view.clone();
    let second = view.instances()[1].clone();
    // These are the first calls, so the threads make the records of the instances.
    let threads = [
        thread::spawn(move || succeeding.begin().unwrap().succeeded()),
        // Not to the instance that stays.
        thread::spawn(move || failing.begin_excluding(&[second]).unwrap().failed()),
    ];
    publish(&writer, &[2, 3]);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let CallTotals { succeeded, failed, cancelled, .. } = writer.records().call_totals().unwrap();
    assert_eq!((succeeded, failed, cancelled), (1, 1, 0));
    check_ejections(&writer, &view);
}

/// Each thread ends the call of another instance of the list with a failure.
fn fail_each(view: &ServiceView) -> [thread::JoinHandle<()>; 2] {
    [1, 2].map(|port| {
        let call = call(view, port);
        thread::spawn(move || call.failed())
    })
}

fn the_last_instance_is_not_ejected() {
    let writer = writer(&[1, 2]);
    let view = view(&writer, Duration::from_secs(30));
    fail_each(&view).into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(view.ejected().len(), 1);
    check_ejections(&writer, &view);
}

fn an_instance_that_leaves_while_its_calls_fail_is_not_ejected() {
    let writer = writer(&[1, 2, 3]);
    let view = view(&writer, Duration::from_secs(30));
    let threads = fail_each(&view);
    publish(&writer, &[2, 3]);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    check_ejections(&writer, &view);
}

fn a_probe_that_succeeds_while_its_instance_leaves_ends_one_ejection() {
    let writer = writer(&[1, 2]);
    let view = view(&writer, Duration::ZERO);
    call(&view, 1).failed();
    let probe = call(&view, 1);
    assert!(probe.is_ejected());
    let other = call(&view, 2);
    let threads = [thread::spawn(move || probe.succeeded()), thread::spawn(move || other.failed())];
    publish(&writer, &[2, 3]);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    check_ejections(&writer, &view);
}

fn two_probes_that_succeed_end_one_ejection() {
    let writer = writer(&[1, 2]);
    let view = view(&writer, Duration::ZERO);
    call(&view, 1).failed();
    let slow = call(&view, 1);
    // So slow that there is another probe.
    std::time::pass(Duration::from_secs(31));
    let probe = call(&view, 1);
    assert!(slow.is_ejected() && probe.is_ejected());
    let threads = [slow, probe].map(|call| thread::spawn(move || call.succeeded()));
    publish(&writer, &[1, 2, 3]);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert!(view.ejected().is_empty());
    check_ejections(&writer, &view);
}
