//! A weighted choice in constant time: Walker's alias table, built by Vose's method, over runs of equal weights.
//!
//! A *place* is an index into the callable instances of a list. Neighbours of equal weight may form a *run*. A draw finds a
//! run by the weight of all its instances, and then each instance of the run is equally likely. Lists are sorted by
//! weight, so the table has about as many slots as the list has different weights. Those are usually few, and then the
//! table stays in the cache, whatever the number of instances. The table of a small list stays there in any case, so each
//! of its instances is a run of its own.
//!
//! A draw costs one random number, a few multiplications and one memory access. Building the table takes time in
//! proportion to the number of instances, once per list. Shares are rounded to 2^-32.

use std::{hint::select_unpredictable, ops::Range};

/// 2^64 divided by the golden ratio. Any number of its multiples, modulo 2^64, are spread evenly.
pub(super) const GOLDEN_STRIDE: u64 = 0x9E37_79B9_7F4A_7C15;

/// Every slot is drawn equally often and belongs to at most two runs. The shares of a run add up to its weight.
#[derive(Debug, Default)]
pub(super) struct AliasTable {
    slots: Vec<Slot>,
    places: Range<usize>,
    /// Whether each run is one instance.
    runs_are_single: bool,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    /// The part of the slot that belongs to `owner`, in units of 2^-32.
    share: u64,
    owner: Run,
    /// Has the rest of the slot.
    other: Run,
}

/// Neighbouring places of instances of equal weight.
#[derive(Debug, Clone, Copy)]
struct Run {
    start: u32,
    length: u32,
}

impl AliasTable {
    /// Builds the table for the places from `start` on, which have these weights. The weights must be finite and above
    /// 0.
    ///
    /// With `in_runs`, equal weights that are neighbours become one run, and their instances take turns strictly.
    /// Without, each instance is a run of its own: the table is larger, and a draw a bit faster while the table stays in
    /// the cache.
    pub(super) fn new(start: usize, weights: &[f64], in_runs: bool) -> Self {
        let places = start..start + weights.len();
        // Divide before summing, because the sum of large weights could be infinite.
        let largest = weights.iter().copied().fold(0.0, f64::max);
        let (mut slots, mut sums) = (Vec::new(), Vec::new());
        let mut next = start;
        for equal in weights.chunk_by(|one, other| in_runs && one == other) {
            // A list of more than u32::MAX instances does not fit in memory.
            let run = Run { start: next as u32, length: equal.len() as u32 };
            next += equal.len();
            slots.push(Slot { share: 1 << 32, owner: run, other: run });
            sums.push(equal[0] / largest * equal.len() as f64);
        }
        let runs_are_single = slots.len() == weights.len();
        // A power of two, so that the lower bits of a number are the index of a slot. The added slots have no weight.
        if let Some(last) = slots.last().copied() {
            slots.resize(slots.len().next_power_of_two(), last);
            sums.resize(slots.len(), 0.0);
        }
        share_out(&mut slots, sums);
        AliasTable { slots, places, runs_are_single }
    }

    /// Returns the place for a uniformly distributed number.
    ///
    /// `None` if the table is empty.
    #[inline]
    pub(super) fn pick(&self, random: u64) -> Option<usize> {
        let slot = self.slots.get(random as usize & self.slots.len().wrapping_sub(1))?;
        // The lower bits are the slot, and the upper half is the position in it.
        let within = random >> 32;
        if self.runs_are_single {
            return Some(slot.instance_at(within));
        }
        // In the product, the upper half depends on all bits.
        Some(slot.at(within, random.wrapping_mul(GOLDEN_STRIDE) >> 32))
    }

    /// Returns the place for this turn. Each round visits every slot once. The two runs of a slot take turns evenly
    /// over the rounds, and so do the instances of a run.
    pub(super) fn pick_in_turn(&self, turn: u64) -> Option<usize> {
        let index = turn & (self.slots.len() as u64).wrapping_sub(1);
        let slot = self.slots.get(index as usize)?;
        let round = (turn >> self.slots.len().trailing_zeros()) as u32;
        // Each slot begins elsewhere, so that neighbouring slots do not give the same run, or instance, at once.
        let offset = index.wrapping_mul(GOLDEN_STRIDE) >> 32;
        let (run, turn) = slot.in_turn(round, offset);
        Some(run.in_turn(turn, offset))
    }

    /// The places of all instances in the table.
    pub(super) fn places(&self) -> Range<usize> {
        self.places.clone()
    }
}

impl Slot {
    /// Returns the place at this position in a slot of single instances, in units of 2^-32.
    #[inline]
    fn instance_at(&self, within: u64) -> usize {
        select_unpredictable(within < self.share, self.owner.start, self.other.start) as usize
    }

    /// Returns the place at these positions in the slot and in its run, in units of 2^-32.
    #[inline]
    fn at(&self, within: u64, within_run: u64) -> usize {
        // A branch would often be mispredicted, because the draws are random.
        select_unpredictable(within < self.share, self.owner.at(within_run), self.other.at(within_run))
    }

    /// Returns the run that has the slot in this round, and how often it had the slot before. `offset` is the position
    /// of round 0.
    fn in_turn(&self, round: u32, offset: u64) -> (Run, u32) {
        let position = u64::from(round) * self.share + offset;
        let of_owner = (position >> 32) as u32;
        if position.wrapping_add(self.share) >> 32 == position >> 32 {
            (self.other, round.wrapping_sub(of_owner))
        } else {
            (self.owner, of_owner)
        }
    }
}

impl Run {
    /// `within` is a position in the run, in units of 2^-32 of its length.
    #[inline]
    fn at(self, within: u64) -> usize {
        self.start as usize + ((within * u64::from(self.length)) >> 32) as usize
    }

    /// Turn 0 is at the position `offset`.
    fn in_turn(self, turn: u32, offset: u64) -> usize {
        let first = (offset * u64::from(self.length)) >> 32;
        self.start as usize + (turn.wrapping_add(first as u32) % self.length) as usize
    }
}

/// Fills the slots of light runs with the surplus of heavy ones. Runs that are left at the end because of rounding own
/// their slot alone. `weights` are those of all instances of a run together.
fn share_out(slots: &mut [Slot], mut weights: Vec<f64>) {
    let mean = weights.iter().sum::<f64>() / weights.len() as f64;
    weights.iter_mut().for_each(|weight| *weight /= mean);
    let (mut light, mut heavy): (Vec<usize>, Vec<usize>) = (0..weights.len()).partition(|&run| weights[run] < 1.0);
    while let (Some(small), Some(&large)) = (light.pop(), heavy.last()) {
        slots[small].share = (weights[small] * 2f64.powi(32)) as u64;
        slots[small].other = slots[large].owner;
        weights[large] -= 1.0 - weights[small];
        if weights[large] < 1.0 {
            heavy.pop();
            light.push(large);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use fastrand::Rng;

    use super::*;

    fn table(weights: &[f64]) -> AliasTable {
        AliasTable::new(0, weights, true)
    }

    fn tally(weights: &[f64], in_runs: bool, draws: u32, rng: &mut Rng) -> Vec<f64> {
        let table = AliasTable::new(0, weights, in_runs);
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
            vec![1.0, 1.0, 2.0, 2.0, 2.0, 9.0],
            [[1.0; 50], [2.0; 50], [7.0; 50]].concat(),
            vec![10_000.0, 1.0, 5_000.0],
            vec![0.3, 0.3, 0.4],
            vec![1e-3, 1e3, 1.0, 7.5],
            (1..=100).map(f64::from).collect(),
        ]
    }

    #[test]
    fn instances_are_chosen_in_proportion_to_their_weights() {
        for (seed, weights) in (1..).zip(lists()) {
            for in_runs in [true, false] {
                let sum = chi_squared(&weights, &tally(&weights, in_runs, 1_000_000, &mut Rng::with_seed(seed)));
                assert!(sum < bound(&weights), "{weights:?}: {sum} >= {}", bound(&weights));
            }
        }
    }

    #[test]
    fn the_distribution_test_can_fail() {
        let seen = tally(&[1.0, 2.0, 3.0], true, 1_000_000, &mut Rng::with_seed(1));
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
    fn a_table_of_the_places_behind_others_picks_only_these() {
        let table = AliasTable::new(4, &[2.0, 2.0, 3.0], true);
        let picked = |pick: &dyn Fn(u64) -> Option<usize>| (0..1_000).filter_map(pick).collect::<BTreeSet<_>>();
        assert!(picked(&|number| table.pick(number.wrapping_mul(GOLDEN_STRIDE))).into_iter().eq(table.places()));
        assert!(picked(&|turn| table.pick_in_turn(turn)).into_iter().eq(4..7));
    }

    #[test]
    fn every_random_number_picks_an_instance() {
        for weights in [&[1.0][..], &[1.0, 1.0], &[f64::MAX, f64::MAX, f64::MIN_POSITIVE], &[0.1; 1000]] {
            let (table, single) = (table(weights), AliasTable::new(0, weights, false));
            for random in [0, 1, u64::MAX / 2, u64::MAX - 1, u64::MAX] {
                assert!(single.pick(random).is_some_and(|place| place < weights.len()));
                assert!(table.pick(random).is_some_and(|place| place < weights.len()));
                assert!(table.pick_in_turn(random).is_some_and(|place| place < weights.len()));
            }
        }
    }
}
