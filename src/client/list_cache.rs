//! Caches parsed lists in memory, so that a list that has not changed is not parsed again.
//!
//! Nearly every poll returns the same hosts as the poll before. Comparing their text costs a hundredth of parsing it.
//! The instances also stay the same objects in memory, which makes it cheap to compare two lists, and to drop an old
//! list in another thread. Only the fields beside the hosts differ each time: the server's clock, and the checksum of
//! r-nacos.
//!
//! The key is the query, not the server: a list of another server with the same text has the same instances. The cache
//! needs about 350 bytes per instance. A cached list is removed one to two minutes after its last use.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    sync::Arc,
    time::Duration,
};

use actix_rt::time::Instant;

use crate::{
    model::{instance::Instance, service::ServiceInfo},
    wire::exchange::{Answer, Rejection},
};

/// A list that has not been requested for this time is removed.
const UNUSED_LIFETIME: Duration = Duration::from_secs(60);

/// The cached lists by query.
pub(super) struct ListCache {
    lists: RefCell<HashMap<String, CachedList>>,
    swept: Cell<Instant>,
}

/// `hosts` are the instances that views and listeners share, so an unchanged list has the same pointers.
struct CachedList {
    /// The text of the hosts, from `[` to `]`.
    text: Vec<u8>,
    /// Whether the text is known to contain the hosts and nothing else. Found out when the text comes again, since most
    /// texts of lists that change never do.
    is_hosts_alone: bool,
    /// Sorted and filtered.
    hosts: Vec<Arc<Instance>>,
    last_used: Instant,
}

impl ListCache {
    pub(super) fn new() -> Self {
        ListCache { lists: RefCell::default(), swept: Cell::new(Instant::now()) }
    }

    /// Parses `answer` by `read`, which returns a sorted and filtered list. `key` contains everything that the list
    /// depends on.
    ///
    /// If the text is unchanged, only the rest of the answer is parsed, with an empty list in place of the hosts.
    ///
    /// # Errors
    /// Those of `read`. A list that cannot be read is not cached.
    pub(super) fn read(
        &self,
        key: &str,
        answer: &Answer,
        read: impl Fn(&Answer) -> Result<ServiceInfo, Rejection>,
    ) -> Result<ServiceInfo, Rejection> {
        let Some(split) = Split::of(&answer.body) else { return read(answer) };
        let mut lists = self.lists.borrow_mut();
        if let Some(list) = lists.get_mut(key).filter(|list| list.text == split.hosts) {
            list.last_used = Instant::now();
            return list.read_again(split, answer, read);
        }
        let info = read(answer)?;
        match lists.get_mut(key) {
            Some(list) => list.replace(split, &info),
            None => drop(lists.insert(key.to_owned(), CachedList::new(split, &info))),
        }
        Ok(info)
    }

    /// Removes lists that are no longer requested.
    pub(super) fn sweep(&self) {
        if self.swept.get().elapsed() > UNUSED_LIFETIME {
            self.swept.set(Instant::now());
            self.lists.borrow_mut().retain(|_, list| list.last_used.elapsed() < UNUSED_LIFETIME);
        }
    }
}

impl CachedList {
    fn new(split: Split<'_>, info: &ServiceInfo) -> Self {
        let (text, hosts) = (split.hosts.to_vec(), info.hosts.clone());
        CachedList { text, is_hosts_alone: false, hosts, last_used: Instant::now() }
    }

    /// Takes another list into the same memory.
    fn replace(&mut self, split: Split<'_>, info: &ServiceInfo) {
        self.text.clear();
        self.text.extend_from_slice(split.hosts);
        self.hosts.clone_from(&info.hosts);
        (self.is_hosts_alone, self.last_used) = (false, Instant::now());
    }

    /// Reads an answer with the text of this list.
    fn read_again(
        &mut self,
        split: Split<'_>,
        answer: &Answer,
        read: impl Fn(&Answer) -> Result<ServiceInfo, Rejection>,
    ) -> Result<ServiceInfo, Rejection> {
        let hosts = self.hosts.clone();
        match read(&split.without_hosts(answer)) {
            Ok(rest) if self.is_hosts_alone => Ok(ServiceInfo { hosts, ..rest }),
            rest => {
                let info = read(answer)?;
                let rest = rest.map(|rest| ServiceInfo { hosts: info.hosts.clone(), ..rest });
                self.is_hosts_alone = rest.is_ok_and(|rest| rest == info);
                Ok(if self.is_hosts_alone { ServiceInfo { hosts, ..info } } else { info })
            }
        }
    }
}

/// An answer, split around its hosts: from the first `[` to the last `]`.
///
/// If other fields contain brackets, `hosts` contains more than the hosts. The rest then differs from the complete
/// answer, and such a list is not cached.
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
        /// The number of answers that were parsed with their hosts.
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
    fn a_list_with_only_a_new_time_keeps_its_instances() {
        let world = World::new();
        let first = world.read("k", &list("127.0.0.1", 1)).unwrap();
        for time in 2..=4 {
            let again = world.read("k", &list("127.0.0.1", time)).unwrap();
            assert!(Arc::ptr_eq(&first.hosts[0], &again.hosts[0]));
            assert_eq!((again.last_ref_time, again.checksum.as_str()), (time as i64, time.to_string().as_str()));
            let as_first = ServiceInfo { last_ref_time: 1, checksum: "1".into(), ..again };
            assert_eq!(as_first, first, "nothing else differs");
        }
        assert_eq!(world.read.get(), 2, "the second text shows that the hosts can be left out");
    }

    #[test]
    fn a_changed_list_and_the_list_of_another_query_are_parsed() {
        let world = World::new();
        world.read("k", &list("127.0.0.1", 1)).unwrap();
        assert_eq!(world.read("k", &list("127.0.0.2", 2)).unwrap().hosts[0].ip, "127.0.0.2");
        world.read("other", &list("127.0.0.2", 3)).unwrap();
        assert_eq!(world.read.get(), 3);
    }

    #[test]
    fn answers_with_other_brackets_or_without_a_list_are_not_cached() {
        let world = World::new();
        for round in 1..=2 {
            let tags = r#"{"lastRefTime":1,"hosts":[],"cacheMillis":3000,"tags":["x"]}"#;
            assert_eq!(world.read("tags", tags).unwrap().cache_millis, 3000);
            let name = r#"{"name":"[","hosts":[],"lastRefTime":2}"#;
            assert_eq!(world.read("name", name).unwrap().last_ref_time, 2);
            assert_eq!(world.read.get(), 2 * round, "each is parsed completely");
            assert!(world.read("no list", "[]").is_err() && world.read("no list", "]x[").is_err());
            world.read.set(2 * round);
        }
        let failed = Answer { status: 500, body: list("127.0.0.1", 1).into() };
        world.read("k", &list("127.0.0.1", 1)).unwrap();
        let outcome = world.lists.read("k", &failed, |answer| Ok(v1::read_list(answer)?.into_info(&world.service)));
        assert!(outcome.is_err(), "a failure stays a failure, even if it quotes the cached list");
    }
}
