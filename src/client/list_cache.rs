//! The lists that were read last, by the text of their hosts: a list that has not changed is not read again.
//!
//! Nearly every poll finds what the one before it found. Comparing the text takes a hundredth of the time that reading it
//! does, and the instances stay the same in memory, for whoever compares them and for other threads that drop them. Only
//! what stands around the hosts differs each time: the server's clock, and r-nacos's check sum.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    model::{instance::Instance, service::ServiceInfo},
    wire::exchange::{Answer, Rejection},
};

/// A list that nobody asked for during this time is forgotten.
const KEPT: Duration = Duration::from_secs(60);

/// See the module.
pub(super) struct ListCache {
    lists: RefCell<HashMap<String, LastList>>,
    swept: Cell<Instant>,
}

struct LastList {
    /// From `[` to `]`.
    text: Vec<u8>,
    /// In order and filtered.
    hosts: Vec<Arc<Instance>>,
    asked: Instant,
}

impl ListCache {
    pub(super) fn new() -> Self {
        ListCache { lists: RefCell::default(), swept: Cell::new(Instant::now()) }
    }

    /// What `read` makes of `answer`, which is an ordered and filtered list. `key` names all that it depends on.
    pub(super) fn read(
        &self,
        key: &str,
        answer: &Answer,
        read: impl Fn(&Answer) -> Result<ServiceInfo, Rejection>,
    ) -> Result<ServiceInfo, Rejection> {
        let split = Split::of(&answer.body);
        if let Some((hosts, split)) = split.and_then(|split| Some((self.unchanged(key, split.hosts)?, split))) {
            if let Ok(info) = read(&split.without_hosts(answer)) {
                return Ok(ServiceInfo { hosts, ..info });
            }
        }
        let mut info = read(answer)?;
        let hosts = std::mem::take(&mut info.hosts);
        if let Some(split) = split.filter(|split| read(&split.without_hosts(answer)).is_ok_and(|rest| rest == info)) {
            let last = LastList { text: split.hosts.to_vec(), hosts: hosts.clone(), asked: Instant::now() };
            self.lists.borrow_mut().insert(key.to_owned(), last);
        }
        Ok(ServiceInfo { hosts, ..info })
    }

    fn unchanged(&self, key: &str, text: &[u8]) -> Option<Vec<Arc<Instance>>> {
        let mut lists = self.lists.borrow_mut();
        let last = lists.get_mut(key).filter(|last| last.text == text)?;
        last.asked = Instant::now();
        Some(last.hosts.clone())
    }

    /// Forgets what nobody asks for any more.
    pub(super) fn sweep(&self) {
        if self.swept.get().elapsed() > KEPT {
            self.swept.set(Instant::now());
            self.lists.borrow_mut().retain(|_, last| last.asked.elapsed() < KEPT);
        }
    }
}

/// An answer, taken apart around its hosts: from the first `[` to the last `]`.
///
/// Where brackets stand elsewhere, what is called the hosts has more in it. Then the rest does not say what the whole says
/// of all else, and such a list is read each time.
#[derive(Clone, Copy)]
struct Split<'a> {
    head: &'a [u8],
    hosts: &'a [u8],
    tail: &'a [u8],
}

impl<'a> Split<'a> {
    fn of(body: &'a [u8]) -> Option<Self> {
        let start = body.iter().position(|byte| *byte == b'[')?;
        let end = body.iter().rposition(|byte| *byte == b']')? + 1;
        (start < end).then(|| Split { head: &body[..start], hosts: &body[start..end], tail: &body[end..] })
    }

    fn without_hosts(self, answer: &Answer) -> Answer {
        Answer { status: answer.status, body: [self.head, b"[]", self.tail].concat() }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::{model::service::ServiceName, wire::v1};

    struct World {
        lists: ListCache,
        service: ServiceName,
        /// Answers that were read with their hosts.
        read: Cell<u32>,
    }

    impl World {
        fn new() -> Self {
            let service = ServiceName::parse("orders").unwrap();
            World { lists: ListCache::new(), service, read: Cell::new(0) }
        }

        fn read(&self, key: &str, body: &str) -> Result<ServiceInfo, Rejection> {
            let answer = Answer { status: 200, body: body.into() };
            self.lists.read(key, &answer, |answer| {
                self.read.set(self.read.get() + u32::from(answer.body == body.as_bytes()));
                Ok(v1::read_list(answer)?.into_info(&self.service))
            })
        }
    }

    fn list(ip: &str, time: u64) -> String {
        let host = format!(r#"{{"ip":"{ip}","port":80,"healthy":true,"clusterName":"a","metadata":{{"k":"]"}}}}"#);
        format!(r#"{{"hosts":[{host}],"lastRefTime":{time},"checksum":"{time}","cacheMillis":3000}}"#)
    }

    #[test]
    fn a_list_that_differs_in_its_time_alone_has_the_same_instances_and_the_new_time() {
        let world = World::new();
        let first = world.read("k", &list("127.0.0.1", 1)).unwrap();
        let second = world.read("k", &list("127.0.0.1", 2)).unwrap();
        assert!(Arc::ptr_eq(&first.hosts[0], &second.hosts[0]));
        assert_eq!((world.read.get(), second.last_ref_time, second.checksum.as_str()), (1, 2, "2"));
        assert_eq!(ServiceInfo { last_ref_time: 1, checksum: "1".into(), ..second }, first, "all else is as it was");
    }

    #[test]
    fn a_changed_list_and_one_of_another_query_are_read() {
        let world = World::new();
        world.read("k", &list("127.0.0.1", 1)).unwrap();
        assert_eq!(world.read("k", &list("127.0.0.2", 2)).unwrap().hosts[0].ip, "127.0.0.2");
        world.read("other", &list("127.0.0.2", 3)).unwrap();
        assert_eq!(world.read.get(), 3);
    }

    #[test]
    fn brackets_elsewhere_and_answers_without_a_list_are_no_trap() {
        let world = World::new();
        for round in 1..=2 {
            let tags = r#"{"lastRefTime":1,"hosts":[],"cacheMillis":3000,"tags":["x"]}"#;
            assert_eq!(world.read("tags", tags).unwrap().cache_millis, 3000);
            let name = r#"{"name":"[","hosts":[],"lastRefTime":2}"#;
            assert_eq!(world.read("name", name).unwrap().last_ref_time, 2);
            assert_eq!(world.read.get(), 2 * round, "each is read whole");
            assert!(world.read("no list", "[]").is_err() && world.read("no list", "]x[").is_err());
            world.read.set(2 * round);
        }
        let refused = Answer { status: 500, body: list("127.0.0.1", 1).into() };
        world.read("k", &list("127.0.0.1", 1)).unwrap();
        let outcome = world.lists.read("k", &refused, |answer| Ok(v1::read_list(answer)?.into_info(&world.service)));
        assert!(outcome.is_err(), "a failure is one, whatever it quotes");
    }
}
