//! Consistent hashing: a look-up table by weighted rendezvous.
//!
//! Each instance arrives at the slots at random times, more often the larger its weight. Slots and times depend only on
//! the instance. A slot belongs to the instance that arrives there first. So a new instance takes slots from the
//! others, and a removed one leaves its slots to the others. No slot moves between two instances that stay.
//!
//! Rendezvous hashing alone would compare all instances for each key. The table does that once per list, for
//! [`SLOTS`] slots, and a key then looks up one slot. It takes 256 KiB per list and group, and only for views with
//! `Policy::ConsistentHash`.
//!
//! The result must be the same in every process and version, since different callers must agree on the instance of
//! a key. So nothing here may depend on the order of the list, on a random seed, or on the hashers of std.

use std::sync::Arc;

use super::alias_table::GOLDEN_STRIDE;
use crate::model::instance::Instance;

/// The number of slots. It is the same for lists of any length, because another number would move every key.
const SLOTS: usize = 65_537;

#[derive(Debug)]
pub(super) struct HashTable {
    /// The place of the owner of each slot.
    owners: Box<[u32]>,
}

impl HashTable {
    /// Builds the table of the instances at these places. `None` without instances.
    pub(super) fn new(hosts: &[Arc<Instance>], places: impl Iterator<Item = usize> + Clone) -> Option<Self> {
        let heaviest = places.clone().map(|place| hosts[place].weight).fold(0.0, f64::max);
        let mut arriving: Vec<_> = places.map(|place| Arrivals::new(place, &hosts[place], heaviest)).collect();
        let all_weights: f64 = arriving.iter().map(|arrivals| arrivals.weight).sum();
        let mut first = vec![(f64::INFINITY, u32::MAX); SLOTS];
        let mut free = if arriving.is_empty() { return None } else { SLOTS };
        let mut until = 0.0;
        // A round has one arrival per slot on average. After about 12 rounds no slot is free, whatever the number of
        // instances.
        while free > 0 {
            until += SLOTS as f64 / all_weights;
            for arrivals in &mut arriving {
                while arrivals.time < until {
                    let earliest = &mut first[arrivals.slot];
                    free -= usize::from(earliest.0 == f64::INFINITY);
                    if arrivals.time < earliest.0 {
                        *earliest = (arrivals.time, arrivals.place);
                    }
                    arrivals.next();
                }
            }
        }
        Some(HashTable { owners: first.into_iter().map(|(_, place)| place).collect() })
    }

    /// Returns the place of the instance that owns the slot of this hash.
    pub(super) fn pick(&self, hash: u64) -> usize {
        // Uniform over the slots, by the upper bits of the hash.
        let slot = (u128::from(hash) * self.owners.len() as u128) >> 64;
        self.owners[slot as usize] as usize
    }
}

/// The arrivals of one instance, one after the other.
///
/// `time` and `slot` belong to the next arrival. `next` advances to the arrival after it.
struct Arrivals {
    place: u32,
    /// In units of the largest weight.
    weight: f64,
    random: u64,
    /// The time at which an instance of weight 1 would arrive.
    unweighted_time: f64,
    /// The time of the next arrival.
    time: f64,
    slot: usize,
}

impl Arrivals {
    fn new(place: usize, instance: &Instance, heaviest: f64) -> Self {
        let (cluster, ip, port) = instance.key_in_service();
        let random = hash_of(&[cluster.as_bytes(), &[0], ip.as_bytes(), &[0], &port.to_be_bytes()]);
        let weight = instance.weight / heaviest;
        // A list of more than u32::MAX instances does not fit in memory.
        let mut arrivals = Arrivals { place: place as u32, weight, random, unweighted_time: 0.0, time: 0.0, slot: 0 };
        arrivals.next();
        arrivals
    }

    fn next(&mut self) {
        self.random = self.random.wrapping_add(GOLDEN_STRIDE);
        let random = mix(self.random);
        self.slot = (((random >> 32) * SLOTS as u64) >> 32) as usize;
        // Exponentially distributed, which makes the first arrivals follow the weights.
        self.unweighted_time -= ((f64::from(random as u32) + 0.5) / 2f64.powi(32)).ln();
        self.time = self.unweighted_time / self.weight;
    }
}

/// Returns the same number for the same bytes in every process and version: FNV-1a, mixed so that all bits depend on
/// all bytes.
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
    use smol_str::SmolStr;

    use super::*;

    fn hosts(count: u32) -> Vec<Arc<Instance>> {
        let host = |number: u32| Instance::new(format!("127.0.{}.{}", number >> 8, number & 255), 80);
        (0..count).map(|number| Arc::new(host(number))).collect()
    }

    fn owners(hosts: &[Arc<Instance>]) -> Vec<SmolStr> {
        let table = HashTable::new(hosts, 0..hosts.len()).unwrap();
        let owner = |key: u32| hosts[table.pick(hash_of(&[&key.to_be_bytes()]))].ip.clone();
        (0..50_000).map(owner).collect()
    }

    #[test]
    fn removing_one_of_n_instances_moves_only_its_keys_which_are_one_nth() {
        for count in [2, 3, 10, 100] {
            let all = hosts(count);
            let (with, without) = (owners(&all), owners(&all[1..]));
            let moved = with.iter().zip(&without).filter(|(with, without)| with != without);
            assert!(moved.clone().all(|(with, _)| *with == all[0].ip));
            let share = moved.count() as f64 / with.len() as f64 * f64::from(count);
            assert!((0.8..1.2).contains(&share), "{share} times one of {count}");
        }
    }

    #[test]
    fn a_changed_weight_moves_only_the_difference_of_the_shares() {
        let mut hosts = hosts(4);
        let before = owners(&hosts);
        Arc::make_mut(&mut hosts[2]).weight = 2.0;
        let after = owners(&hosts);
        let moved = before.iter().zip(&after).filter(|(before, after)| before != after);
        assert!(moved.clone().all(|(_, after)| *after == hosts[2].ip));
        // From 1 of 4 to 2 of 5.
        assert!((moved.count() as f64 / before.len() as f64 - 0.15).abs() < 0.01);
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

    /// Processes that run different versions must agree on the instance of a key.
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
    fn a_tiny_weight_causes_no_endless_loop() {
        let mut hosts = hosts(2);
        Arc::make_mut(&mut hosts[0]).weight = f64::MIN_POSITIVE;
        Arc::make_mut(&mut hosts[1]).weight = f64::MAX;
        let table = HashTable::new(&hosts, 0..2).unwrap();
        assert_eq!(table.pick(1 << 63), 1);
    }
}
