//! A weighted choice in constant time: Walker's alias table, built by Vose's method.
//!
//! A draw costs one random number, one multiplication and one memory access, whatever the number of instances.
//! Building the table takes time in proportion to that number, once per list. The weights are rounded to 2^-32 of a
//! slot.

use std::hint::select_unpredictable;

/// 2^64 divided by the golden ratio. Any number of its multiples, modulo 2^64, are spread evenly.
pub(super) const GOLDEN_STRIDE: u64 = 0x9E37_79B9_7F4A_7C15;

/// Every slot is drawn equally often and belongs to at most two instances. The shares of an instance add up to its
/// weight. A *place* is an index into the list's hosts.
#[derive(Debug, Default)]
pub(super) struct AliasTable {
    slots: Vec<Slot>,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    /// The part of the slot that belongs to `owner`, in units of 2^-32.
    share: u32,
    /// The place of the first instance.
    owner: u32,
    /// The place of the instance that has the rest of the slot.
    other: u32,
}

impl AliasTable {
    /// Builds the table from places and weights. The weights must be finite and above 0.
    pub(super) fn new(weighted: impl Iterator<Item = (u32, f64)>) -> Self {
        let (owners, weights): (Vec<u32>, Vec<f64>) = weighted.unzip();
        let mut slots: Vec<Slot> = owners.iter().map(|&owner| Slot { share: u32::MAX, owner, other: owner }).collect();
        share_out(&mut slots, &relative(weights));
        AliasTable { slots }
    }

    /// Returns the place for a uniformly distributed number.
    ///
    /// `None` if the table is empty.
    #[inline]
    pub(super) fn pick(&self, random: u64) -> Option<usize> {
        // The upper half of the product is the slot. The lower half is a position in the slot, again uniform.
        let product = u128::from(random) * self.slots.len() as u128;
        let slot = self.slots.get((product >> 64) as usize)?;
        Some(slot.at((product as u64 >> 32) as u32))
    }

    /// Returns the place for this turn. Each round visits every slot once, and the instances of a slot take turns
    /// evenly over the rounds.
    pub(super) fn pick_in_turn(&self, turn: u64) -> Option<usize> {
        let slots = self.slots.len().max(1) as u64;
        let (round, index) = (turn / slots, turn % slots);
        let within = (round + index).wrapping_mul(GOLDEN_STRIDE) >> 32;
        self.slots.get(index as usize).map(|slot| slot.at(within as u32))
    }

    /// The number of instances in the table.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// The places of all instances in the table, each once.
    pub(super) fn places(&self) -> impl Iterator<Item = usize> + Clone + '_ {
        self.slots.iter().map(|slot| slot.owner as usize)
    }

    /// Returns the place of the instance at this index, regardless of its weight. `index` is below
    /// [`len`](AliasTable::len).
    pub(super) fn place(&self, index: usize) -> Option<usize> {
        self.slots.get(index).map(|slot| slot.owner as usize)
    }
}

impl Slot {
    #[inline]
    fn at(self, within: u32) -> usize {
        // A branch would often be mispredicted, because the draws are random.
        select_unpredictable(within < self.share, self.owner, self.other) as usize
    }
}

/// Divides the weights by their mean, without overflow.
fn relative(mut weights: Vec<f64>) -> Vec<f64> {
    let largest = weights.iter().copied().fold(0.0, f64::max);
    weights.iter_mut().for_each(|weight| *weight /= largest);
    let mean = weights.iter().sum::<f64>() / weights.len() as f64;
    weights.iter_mut().for_each(|weight| *weight /= mean);
    weights
}

/// Fills the slots of light instances with the surplus of heavy ones. Instances that are left at the end because of
/// rounding own their slot alone.
fn share_out(slots: &mut [Slot], weights: &[f64]) {
    let mut left = weights.to_vec();
    let (mut light, mut heavy): (Vec<usize>, Vec<usize>) = (0..left.len()).partition(|&place| left[place] < 1.0);
    while let (Some(small), Some(&large)) = (light.pop(), heavy.last()) {
        slots[small].share = (left[small] * 2f64.powi(32)) as u32;
        slots[small].other = slots[large].owner;
        left[large] -= 1.0 - left[small];
        if left[large] < 1.0 {
            heavy.pop();
            light.push(large);
        }
    }
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;

    use super::*;

    fn table(weights: &[f64]) -> AliasTable {
        AliasTable::new((0..).zip(weights.iter().copied()).filter(|(_, weight)| *weight > 0.0))
    }

    fn tally(weights: &[f64], draws: u32, rng: &mut Rng) -> Vec<f64> {
        let table = table(weights);
        let mut tally = vec![0.0; weights.len()];
        (0..draws).for_each(|_| tally[table.pick(rng.u64(..)).unwrap()] += 1.0);
        tally
    }

    /// The sum that is about as large as its degrees of freedom if the draws follow the weights.
    fn chi_squared(weights: &[f64], tally: &[f64]) -> f64 {
        let (draws, total) = (tally.iter().sum::<f64>(), weights.iter().sum::<f64>());
        let expected = weights.iter().map(|weight| draws * weight / total);
        expected.zip(tally).filter(|(expected, _)| *expected > 0.0).map(|(e, seen)| (seen - e).powi(2) / e).sum()
    }

    /// 4 standard deviations above the mean: 1 in some 10,000 lists would be above by chance, and seeds are fixed.
    fn bound(weights: &[f64]) -> f64 {
        let freedom = weights.iter().filter(|weight| **weight > 0.0).count() as f64 - 1.0;
        freedom + 4.0 * (2.0 * freedom).sqrt() + 4.0
    }

    fn lists() -> Vec<Vec<f64>> {
        vec![
            vec![1.0, 2.0, 3.0],
            vec![1.0; 10],
            vec![0.0, 1.0, 0.0, 9.0],
            vec![10_000.0, 1.0, 5_000.0],
            vec![0.3, 0.3, 0.4],
            vec![1e-3, 1e3, 1.0, 7.5],
            (1..=100).map(f64::from).collect(),
        ]
    }

    #[test]
    fn instances_are_chosen_in_proportion_to_their_weights() {
        for (seed, weights) in (1..).zip(lists()) {
            let sum = chi_squared(&weights, &tally(&weights, 1_000_000, &mut Rng::with_seed(seed)));
            assert!(sum < bound(&weights), "{weights:?}: {sum} >= {}", bound(&weights));
        }
    }

    #[test]
    fn the_distribution_test_can_fail() {
        let seen = tally(&[1.0, 2.0, 3.0], 1_000_000, &mut Rng::with_seed(1));
        let slightly_off = [1.0, 2.0, 3.03];
        assert!(chi_squared(&slightly_off, &seen) > bound(&slightly_off));
    }

    #[test]
    fn turns_are_dealt_out_in_proportion_to_the_weights_far_more_evenly_than_by_chance() {
        for weights in lists() {
            let (table, total) = (table(&weights), weights.iter().sum::<f64>());
            let mut tally = vec![0.0; weights.len()];
            (0..10_000).for_each(|turn| tally[table.pick_in_turn(turn).unwrap()] += 1.0);
            for (weight, seen) in weights.iter().zip(&tally) {
                let expected = 10_000.0 * weight / total;
                // With random draws, a third of 10,000 would differ by more than 47 in one of three runs.
                assert!(
                    (seen - expected).abs() < 25.0,
                    "{seen} of 10,000, not {expected}, for {weight} of {weights:?}"
                );
            }
        }
    }

    #[test]
    fn instances_of_equal_weight_take_turns_strictly() {
        let table = table(&[1.0; 5]);
        let turns: Vec<_> = (0..15).filter_map(|turn| table.pick_in_turn(turn)).collect();
        assert_eq!(turns[..5], [0, 1, 2, 3, 4]);
        assert_eq!((&turns[..5], &turns[..5]), (&turns[5..10], &turns[10..]));
        assert_eq!(AliasTable::default().pick_in_turn(7), None);
    }

    #[test]
    fn every_random_number_picks_an_instance() {
        for weights in [&[1.0][..], &[1.0, 1.0], &[f64::MAX, f64::MAX, f64::MIN_POSITIVE], &[0.1; 1000]] {
            let table = table(weights);
            for random in [0, 1, u64::MAX / 2, u64::MAX - 1, u64::MAX] {
                assert!(table.pick(random).is_some_and(|place| place < weights.len()));
                assert!(table.pick_in_turn(random).is_some_and(|place| place < weights.len()));
            }
        }
    }
}
