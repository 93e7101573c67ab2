//! The lines of one file: which count, and which of those ran.
//!
//! Owns the set. It is kept in blocks of 64 lines, so that a report of tens of millions of lines fits a small memory
//! whatever order and however often it names them. Invariants: a covered line counts; a line that any part of a report
//! calls covered is covered; there is no line 0.

use std::collections::BTreeMap;

/// Lines in one block.
const BLOCK: u32 = u64::BITS;

/// Most blocks of one measurement: sixty million lines where they lie close, still a million where none is near another.
pub const MOST_BLOCKS: usize = 1_000_000;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Block {
    counted: u64,
    covered: u64,
}

/// A set of lines that count, each covered or not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lines {
    blocks: BTreeMap<u32, Block>,
}

impl Lines {
    /// Adds a line; line 0 is none. Tells whether the set needed more room for it.
    pub fn add(&mut self, line: u32, covered: bool) -> bool {
        if line == 0 {
            return false;
        }
        let before = self.blocks.len();
        let block = self.blocks.entry(line / BLOCK).or_default();
        let bit = 1_u64 << (line % BLOCK);
        block.counted |= bit;
        if covered {
            block.covered |= bit;
        }
        self.blocks.len() > before
    }

    /// Adds all lines from `first` to `last`, a block at a time. `None`, and nothing is added: they are no range, or need
    /// more than `room` new blocks.
    pub fn add_range(&mut self, first: u32, last: u32, covered: bool, room: usize) -> Option<()> {
        let (from, to) = (first / BLOCK, last / BLOCK);
        if first == 0 || first > last {
            return None;
        }
        let all = (to - from) as usize + 1;
        if all > room + self.blocks.len() || all - self.blocks.range(from..=to).count() > room {
            return None;
        }
        for at in from..=to {
            let low = if at == from { first % BLOCK } else { 0 };
            let high = if at == to { last % BLOCK } else { BLOCK - 1 };
            let bits = (u64::MAX << low) & (u64::MAX >> (BLOCK - 1 - high));
            let block = self.blocks.entry(at).or_default();
            block.counted |= bits;
            if covered {
                block.covered |= bits;
            }
        }
        Some(())
    }

    /// Takes all lines of another set out: they do not count after all.
    pub fn remove_all(&mut self, other: &Self) {
        for (at, out) in &other.blocks {
            if let Some(block) = self.blocks.get_mut(at) {
                block.counted &= !out.counted;
                block.covered &= !out.counted;
            }
        }
    }

    /// How many blocks it takes: its size.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Takes in all lines of another set: of two words about one line, covered stands.
    pub fn merge(&mut self, other: &Self) {
        for (at, from) in &other.blocks {
            let block = self.blocks.entry(*at).or_default();
            block.counted |= from.counted;
            block.covered |= from.covered;
        }
    }

    /// Whether a line is covered; `None`: it does not count.
    #[must_use]
    pub fn get(&self, line: u32) -> Option<bool> {
        let block = self.blocks.get(&(line / BLOCK))?;
        let bit = 1_u64 << (line % BLOCK);
        (block.counted & bit != 0).then_some(block.covered & bit != 0)
    }

    /// How many lines are covered.
    #[must_use]
    pub fn covered(&self) -> u64 {
        self.blocks.values().map(|block| u64::from(block.covered.count_ones())).sum()
    }

    /// How many lines count.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.blocks.values().map(|block| u64::from(block.counted.count_ones())).sum()
    }

    /// The highest line that counts.
    #[must_use]
    pub fn last(&self) -> Option<u32> {
        let (at, block) = self.blocks.iter().rev().find(|(_, block)| block.counted != 0)?;
        Some(at * BLOCK + block.counted.ilog2())
    }

    /// Whether no line counts.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.blocks.values().all(|block| block.counted == 0)
    }

    /// All lines that count, rising, each with whether it is covered.
    pub fn iter(&self) -> impl Iterator<Item = (u32, bool)> + '_ {
        self.blocks.iter().flat_map(|(at, block)| {
            let of_bit = move |bit: u32| {
                let mask = 1_u64 << bit;
                (block.counted & mask != 0).then_some((at * BLOCK + bit, block.covered & mask != 0))
            };
            (0..BLOCK).filter_map(of_bit)
        })
    }
}
