//! Consistent hashing: Maglev's look-up table.
//!
//! Each instance has an order of preference over all slots, and instances take turns, by their weights, at taking the best
//! slot that is left. So shares are even, and few slots change their owner when an instance comes or goes.

use std::sync::Arc;

use crate::model::instance::Instance;

/// A prime, so that every step visits every slot. The same for lists of any length: another number would move every key.
const SLOTS: usize = 65_537;

#[derive(Debug)]
pub(super) struct HashTable {
    /// Places in the list's hosts.
    owners: Box<[u32]>,
}

impl HashTable {
    /// A table of instances with their places in a list. None for no instances.
    pub(super) fn new(hosts: &[Arc<Instance>], places: impl Iterator<Item = usize>) -> Option<Self> {
        let mut takers: Vec<_> = places.map(|place| Taker::new(place, &hosts[place])).collect();
        let heaviest = takers.iter().map(|taker| taker.weight).fold(0.0, f64::max);
        let mut owners = vec![u32::MAX; SLOTS].into_boxed_slice();
        let mut left = if takers.is_empty() { return None } else { SLOTS };
        // Whoever takes before the others in a round has an advantage that must not depend on the place in the list.
        takers.sort_by_key(|taker| taker.offset);
        loop {
            for taker in &mut takers {
                taker.turns += taker.weight / heaviest;
                if taker.turns < 1.0 {
                    continue;
                }
                taker.turns -= 1.0;
                owners[taker.next_free(&owners)] = taker.place;
                left -= 1;
                if left == 0 {
                    return Some(HashTable { owners });
                }
            }
        }
    }

    pub(super) fn pick(&self, hash: u64) -> usize {
        // Uniform over the slots, by the upper bits of the hash.
        let slot = (u128::from(hash) * self.owners.len() as u128) >> 64;
        self.owners[slot as usize] as usize
    }
}

/// One instance while the table is filled.
struct Taker {
    place: u32,
    weight: f64,
    /// Grows by the share of the heaviest one's weight in each round; a whole one is a slot.
    turns: f64,
    /// The slot it looks at next, and the step to the one after.
    offset: usize,
    step: usize,
}

impl Taker {
    fn new(place: usize, instance: &Instance) -> Self {
        let (cluster, ip, port) = instance.key_in_service();
        let hash = hash_of(&[cluster.as_bytes(), &[0], ip.as_bytes(), &port.to_be_bytes()]);
        let offset = hash as usize % SLOTS;
        let step = (hash >> 32) as usize % (SLOTS - 1) + 1;
        // A list of more than u32::MAX instances fits in no memory.
        Taker { place: place as u32, weight: instance.weight, turns: 0.0, offset, step }
    }

    fn next_free(&mut self, owners: &[u32]) -> usize {
        loop {
            let slot = self.offset;
            self.offset = (slot + self.step) % SLOTS;
            if owners[slot] == u32::MAX {
                return slot;
            }
        }
    }
}

/// The same number for the same bytes in every process and version: FNV-1a, and mixed so that all bits depend on all bytes.
pub(super) fn hash_of(parts: &[&[u8]]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.iter());
    mix(bytes.fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3)))
}

/// The finaliser of MurmurHash3.
pub(super) fn mix(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xC4CE_B9FE_1A85_EC53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(count: u32) -> Vec<Arc<Instance>> {
        let host = |number: u32| Instance::new(format!("127.0.{}.{}", number >> 8, number & 255), 80);
        (0..count).map(|number| Arc::new(host(number))).collect()
    }

    fn owners(hosts: &[Arc<Instance>]) -> Vec<String> {
        let table = HashTable::new(hosts, 0..hosts.len()).unwrap();
        let owner = |key: u32| hosts[table.pick(hash_of(&[&key.to_be_bytes()]))].ip.clone();
        (0..50_000).map(owner).collect()
    }

    fn moved(before: &[String], after: &[String]) -> f64 {
        before.iter().zip(after).filter(|(before, after)| before != after).count() as f64 / before.len() as f64
    }

    #[test]
    fn one_of_n_instances_that_comes_or_goes_moves_about_one_nth_of_the_keys() {
        for count in [3, 10, 100] {
            let all = hosts(count);
            let (with, without) = (owners(&all), owners(&all[1..]));
            let share = 1.0 / f64::from(count);
            let moved = moved(&with, &without);
            assert!(moved > 0.7 * share && moved < 1.5 * share, "{moved} of the keys moved for one of {count}");
        }
    }

    #[test]
    fn keys_are_spread_by_the_weights() {
        let mut hosts = hosts(3);
        for (host, weight) in hosts.iter_mut().zip([1.0, 2.0, 7.0]) {
            Arc::make_mut(host).weight = weight;
        }
        let owners = owners(&hosts);
        for host in &hosts {
            let share = owners.iter().filter(|ip| **ip == host.ip).count() as f64 / owners.len() as f64;
            assert!((share - host.weight / 10.0).abs() < 0.01, "{share} for weight {}", host.weight);
        }
    }

    /// Other processes may run another version.
    #[test]
    fn a_key_has_the_same_hash_for_ever() {
        assert_eq!(hash_of(&[b"user-17"]), hash_of(&[b"user", b"-17"]));
        assert_eq!(hash_of(&[b"user-17"]), 0xD89D_F135_9EF4_B32F);
    }

    #[test]
    fn more_instances_than_slots_make_a_table() {
        let hosts = hosts(65_537 + 5_000);
        let table = HashTable::new(&hosts, 0..hosts.len()).unwrap();
        assert!(table.pick(u64::MAX) < hosts.len() && table.pick(0) < hosts.len());
        assert!(HashTable::new(&[], 0..0).is_none());
    }

    #[test]
    fn an_instance_of_hardly_any_weight_costs_no_endless_loop() {
        let mut hosts = hosts(2);
        Arc::make_mut(&mut hosts[0]).weight = f64::MIN_POSITIVE;
        Arc::make_mut(&mut hosts[1]).weight = f64::MAX;
        let table = HashTable::new(&hosts, 0..2).unwrap();
        assert_eq!(table.pick(1 << 63), 1);
    }
}
