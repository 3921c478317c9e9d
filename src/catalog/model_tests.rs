//! The rules against the truth: random histories over items in memory, in which every head and
//! every held cut keeps its whole tree. After every step the blocks allocated are exactly those
//! that a tree reaches, and every size said before a deletion is what the deletion freed.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::sequence::Sequence;
use crate::base::{BlockAddr, ClusterId, Generation, SegmentId};
use crate::block::Run;
use crate::catalog::memory::{Memory, REGION};
use crate::catalog::segments::Table;
use crate::catalog::steps::{self, Budget, Progress};
use crate::catalog::{kills, sizes, table_items};

/// A seed names a history for ever.
struct Dice(Sequence);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0.below(n as u64) as usize
    }
    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// Slot -> block and its birth. Slot 0 is the root: it changes with every write.
type Tree = BTreeMap<u8, (Run, Generation)>;

struct History {
    dice: Dice,
    memory: Memory,
    table: Table,
    progress: Progress,
    /// The last durable checkpoint; blocks are born in the next.
    generation: u64,
    next_addr: u64,
    next_number: u128,
    heads: BTreeMap<ClusterId, Tree>,
    snapshots: BTreeMap<u128, (ClusterId, SegmentId)>,
    cuts: BTreeMap<SegmentId, Tree>,
    sizes_checked: u64,
    /// Whether all work is done after each step, or only some of it.
    eager: bool,
}

impl History {
    fn new(seed: u64, eager: bool) -> Self {
        Self {
            dice: Dice(Sequence(seed)),
            memory: Memory::default(),
            table: Table::new(),
            progress: Progress::default(),
            generation: 1,
            next_addr: 1,
            next_number: 1,
            heads: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            cuts: BTreeMap::new(),
            sizes_checked: 0,
            eager,
        }
    }

    fn number(&mut self) -> u128 {
        self.next_number += 1;
        self.next_number
    }
    fn checkpoint(&mut self) -> Generation {
        self.generation += 1;
        Generation(self.generation)
    }
    fn save(&mut self) {
        table_items::save(&self.table, &mut self.memory).unwrap();
        self.table.commit();
    }

    fn create(&mut self) {
        let cluster = ClusterId(self.number().to_le_bytes());
        let at = self.checkpoint();
        self.table.create_head(cluster, None, at).unwrap();
        self.heads.insert(cluster, Tree::new());
        self.save();
    }
    fn write(&mut self, cluster: ClusterId) {
        let slot = 1 + self.dice.below(15) as u8;
        let remove = self.dice.below(100) < 15;
        let current = self.table.current(cluster).unwrap();
        let birth = Generation(self.generation + 1);
        let tree = self.heads.get_mut(&cluster).unwrap();
        let mut killed = Vec::new();
        for slot in [slot, 0] {
            killed.extend(tree.remove(&slot));
            if remove && slot != 0 {
                continue;
            }
            let blocks = 1 + (self.next_addr % 3) as u32;
            let run = Run { addr: BlockAddr(self.next_addr), blocks };
            // No run crosses into another region, and no two regions touch.
            self.next_addr += u64::from(blocks);
            if self.next_addr % REGION > REGION - 8 {
                self.next_addr = (self.next_addr / REGION + 1) * REGION;
            }
            for addr in run.addr.0..run.end().0 {
                self.memory.blocks.insert(addr, current);
            }
            self.table.add_blocks(current, u64::from(blocks)).unwrap();
            tree.insert(slot, (run, birth));
        }
        kills::apply(&mut self.table, &mut self.memory, cluster, killed).unwrap();
        self.save();
    }
    fn snapshot(&mut self, cluster: ClusterId) {
        let at = self.checkpoint();
        let next = self.table.take_segment_id().unwrap();
        let closed = self.table.cut(cluster, next, at).unwrap();
        self.table.hold(closed).unwrap();
        self.cuts.insert(closed, self.heads[&cluster].clone());
        let id = self.number();
        self.snapshots.insert(id, (cluster, closed));
        self.save();
    }
    fn clone_of(&mut self, id: u128) {
        let cluster = ClusterId(self.number().to_le_bytes());
        let segment = self.snapshots[&id].1;
        let at = self.checkpoint();
        self.table.create_head(cluster, Some(segment), at).unwrap();
        self.heads.insert(cluster, self.cuts[&segment].clone());
        self.save();
    }
    fn in_place(&mut self, id: u128) {
        let (cluster, segment) = self.snapshots[&id];
        if !self.heads.contains_key(&cluster) {
            return;
        }
        let at = self.checkpoint();
        let (safety, _) = self.table.restore_in_place(cluster, segment, at).unwrap();
        self.cuts.insert(safety, self.heads[&cluster].clone());
        let id = self.number();
        self.snapshots.insert(id, (cluster, safety));
        self.heads.insert(cluster, self.cuts[&segment].clone());
        self.save();
    }
    fn delete_cluster(&mut self, cluster: ClusterId) {
        let at = self.checkpoint();
        self.table.end_head(cluster, at).unwrap();
        self.heads.remove(&cluster);
        self.save();
    }
    fn delete_snapshots(&mut self, ids: &[u128]) {
        let segments: Vec<SegmentId> = ids.iter().map(|id| self.snapshots[id].1).collect();
        let release = |t: &mut Table| segments.iter().try_for_each(|s| t.release(*s));
        let said = sizes::dry_run(&mut self.table, &self.memory, release).unwrap();
        if let [one] = segments[..] {
            let unique = sizes::unique_blocks(&mut self.table, &self.memory, one).unwrap();
            assert_eq!(unique, said, "the short form and the dry run differ");
        }
        if self.eager {
            self.work_all();
        }
        let freed_before = self.memory.freed;
        let pending = !self.eager;
        release(&mut self.table).unwrap();
        self.save();
        for id in ids {
            self.snapshots.remove(id);
        }
        if !pending {
            self.work_all();
            assert_eq!(self.memory.freed - freed_before, said, "uniqueBytes is not what was freed");
            self.sizes_checked += 1;
        }
    }

    fn work(&mut self, budget: Budget) {
        steps::step(&mut self.table, &mut self.memory, &mut self.progress, budget).unwrap();
        self.save();
    }
    fn work_all(&mut self) {
        for _ in 0..100_000 {
            let left = self.table.dead().len() + self.table.released().len();
            if left == 0 {
                return;
            }
            self.work(Budget { runs: 7, regions: 3 });
        }
        panic!("the work does not end");
    }

    fn reachable(&self) -> BTreeSet<u64> {
        let held = self.table.segments().filter(|(_, s)| s.holds() && !s.dead);
        let cuts = held.map(|(id, _)| &self.cuts[&id]);
        let trees = self.heads.values().chain(cuts);
        trees.flat_map(Tree::values).flat_map(|(run, _)| run.addr.0..run.end().0).collect()
    }
    fn check(&mut self) {
        let want = self.reachable();
        let got: BTreeSet<u64> = self.memory.blocks.keys().copied().collect();
        let lost: Vec<_> = want.difference(&got).collect();
        assert!(lost.is_empty(), "lost {lost:?}");
        if self.eager {
            let leaked: Vec<_> = got.difference(&want).collect();
            assert!(leaked.is_empty(), "leaked {leaked:?}");
        }
        self.table.check_shape().unwrap();
        let mut counted: BTreeMap<SegmentId, u64> = BTreeMap::new();
        for segment in self.memory.blocks.values() {
            *counted.entry(*segment).or_default() += 1;
        }
        for (id, segment) in self.table.segments() {
            assert_eq!(segment.allocated_blocks, counted.get(&id).copied().unwrap_or(0), "{id}");
        }
    }
    /// The table as a crash leaves it: read back from its items.
    fn reopen(&mut self) {
        let table = table_items::load(&self.memory, self.table.counters()).unwrap();
        let same = table.segments().map(|(id, s)| (id, sorted(s))).collect::<Vec<_>>()
            == self.table.segments().map(|(id, s)| (id, sorted(s))).collect::<Vec<_>>();
        assert!(same && table.lines().eq(self.table.lines()), "items and table differ");
        self.table = table;
        self.progress = Progress::default();
    }

    fn one_step(&mut self) {
        let heads: Vec<ClusterId> = self.heads.keys().copied().collect();
        let snapshots: Vec<u128> = self.snapshots.keys().copied().collect();
        if heads.is_empty() {
            return self.create();
        }
        match self.dice.below(100) {
            0..53 => {
                let head = self.dice.pick(&heads);
                for _ in 0..=self.dice.below(6) {
                    self.write(head);
                }
            }
            53..56 => self.reopen(),
            56..62 => drop(self.checkpoint()),
            62..76 => {
                let head = self.dice.pick(&heads);
                self.snapshot(head);
            }
            76..81 if !snapshots.is_empty() && heads.len() < 6 => {
                let id = self.dice.pick(&snapshots);
                self.clone_of(id);
            }
            81..86 if !snapshots.is_empty() => {
                let id = self.dice.pick(&snapshots);
                self.in_place(id);
            }
            86..96 if !snapshots.is_empty() => {
                let mut ids = BTreeSet::from([self.dice.pick(&snapshots)]);
                while self.dice.below(3) == 0 {
                    ids.insert(self.dice.pick(&snapshots));
                }
                self.delete_snapshots(&ids.into_iter().collect::<Vec<_>>());
            }
            96..98 => {
                let head = self.dice.pick(&heads);
                self.delete_cluster(head);
            }
            _ => {}
        }
        if self.eager {
            self.work_all();
        } else if self.dice.below(3) == 0 {
            let budget = Budget { runs: self.dice.below(20), regions: self.dice.below(3) };
            self.work(budget);
        }
        self.check();
    }

    fn run(seed: u64, steps: usize, eager: bool) -> u64 {
        let mut history = Self::new(seed, eager);
        history.create();
        for _ in 0..steps {
            history.one_step();
        }
        history.end();
        history.sizes_checked
    }
    /// Deletes everything in random order: nothing may stay behind.
    fn end(&mut self) {
        while !self.heads.is_empty() || !self.snapshots.is_empty() {
            let heads: Vec<ClusterId> = self.heads.keys().copied().collect();
            let snapshots: Vec<u128> = self.snapshots.keys().copied().collect();
            if !snapshots.is_empty() && (heads.is_empty() || self.dice.below(4) > 0) {
                let id = self.dice.pick(&snapshots);
                self.delete_snapshots(&[id]);
            } else {
                let head = self.dice.pick(&heads);
                self.delete_cluster(head);
            }
            if self.eager {
                self.work_all();
                self.check();
            }
        }
        self.work_all();
        assert!(self.memory.blocks.is_empty(), "blocks leaked: {:?}", self.memory.blocks);
        assert!(self.memory.items.is_empty(), "items leaked: {:?}", self.memory.items.keys());
        assert_eq!((self.table.segments().count(), self.table.lines().count()), (0, 0));
    }
}

fn sorted(segment: &crate::catalog::segments::Segment) -> crate::catalog::segments::Segment {
    let mut segment = segment.clone();
    segment.branches.sort_unstable();
    segment
}

fn campaign(seeds: std::ops::Range<u64>, eager: bool) -> u64 {
    let run = |seed| {
        std::panic::catch_unwind(|| History::run(seed, 220, eager))
            .unwrap_or_else(|_| panic!("seed {seed} (eager: {eager}) failed; its message is above"))
    };
    seeds.map(run).sum()
}

#[test]
fn allocated_is_reachable_after_every_step_and_sizes_are_what_deletion_frees() {
    let checked = campaign(0..300, true);
    assert!(checked > 3_000, "only {checked} deletions were compared");
}

#[test]
fn nothing_is_lost_and_nothing_leaks_when_the_work_lags_behind() {
    campaign(10_000..10_300, false);
}

/// 60 histories for each of STRONGROOM_SEEDS, from the number STRONGROOM_FROM on.
#[test]
#[ignore = "as long as is wanted: scripts/crash.sh"]
fn thousands_of_histories() {
    let number = |name: &str, otherwise: u64| {
        std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
    };
    let (from, count) = (number("STRONGROOM_FROM", 20_000), number("STRONGROOM_SEEDS", 100));
    campaign(from..from + 30 * count, true);
    campaign(from + 30 * count..from + 60 * count, false);
}
