//! What the catalog says: clusters, snapshots, segments, lines, cells.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::base::{ClusterId, Generation, LineId, SegmentId};
use crate::catalog::{ClusterRecord, Item, Line, Segment, SnapshotRecord};
use crate::catalog::{check_table, visit_items};
use crate::pool::Pool;
use crate::verify::coverage::{TreeCoverage, TreeState};
use crate::verify::findings::{Defect, Owner, Report};
use crate::verify::nodes;
use crate::verify::owners::{Expected, Owners, Reach};
use crate::verify::pace::Unhurried;

/// The catalog, decoded.
#[derive(Default)]
pub(in crate::verify) struct Facts {
    pub clusters: Vec<ClusterRecord>,
    pub snapshots: Vec<SnapshotRecord>,
    pub segments: BTreeMap<SegmentId, Segment>,
    pub lines: BTreeMap<LineId, Line>,
    /// Runs in cells, by the segment of the kill.
    pub cell_runs: BTreeMap<SegmentId, Vec<Reach>>,
    /// Blocks in each cell: as stated, as counted.
    cells: BTreeMap<(SegmentId, SegmentId), (u64, u64)>,
    /// The family of each line: lines that branch off one another share blocks.
    families: BTreeMap<LineId, LineId>,
    /// Blocks that logs claim in a segment beyond what the table counts.
    pub claimed: std::cell::RefCell<BTreeMap<SegmentId, u64>>,
    /// Every item was read.
    pub complete: bool,
}

/// What keeps blocks that were let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::verify) enum Held {
    /// Nothing does: they are to be freed.
    Nothing,
    /// A line that branches off, which may have let them go as well.
    ByBranch,
    /// A snapshot, which reaches them.
    BySnapshot,
}

impl Facts {
    /// Reads the catalog, and takes its own nodes in.
    pub fn read(pool: &Arc<Pool>, owners: &mut Owners, report: &mut Report) -> Self {
        let complete = walk_catalog(pool, owners, report);
        let mut facts = Self { complete, ..Self::default() };
        let visited = visit_items(pool.read_catalog(), &mut |item| match item {
            Ok(item) => facts.take(item),
            Err(bad) => report.bad_item(bad),
        });
        // A node that cannot be read was reported by the walk.
        facts.complete &= visited;
        if facts.complete
            && let Err(error) = check_table(pool.read_catalog())
        {
            report.damage(Defect::Catalog { why: error.to_string() });
        }
        for ((death, birth), (stated, counted)) in &facts.cells {
            if stated != counted {
                let what = format!("the cell of segments {death} and {birth}");
                report.damage(Defect::Count { what, stated: *stated, counted: *counted });
            }
        }
        facts.find_families();
        facts
    }

    fn take(&mut self, item: Item) {
        match item {
            Item::Cluster(record) => self.clusters.push(*record),
            Item::Snapshot(record) => self.snapshots.push(*record),
            Item::Segment(id, segment) => drop(self.segments.insert(id, segment)),
            Item::Line(id, line) => drop(self.lines.insert(id, line)),
            Item::Cell { death, birth, blocks } => {
                self.cells.entry((death, birth)).or_default().0 = blocks;
            }
            Item::CellRun { death, birth, run } => {
                self.cells.entry((death, birth)).or_default().1 += u64::from(run.blocks);
                let reach = Reach { run, expected: Expected::Segment(birth) };
                self.cell_runs.entry(death).or_default().push(reach);
            }
            Item::Meta(_) | Item::Tombstones(_) => {}
        }
    }

    /// Lines of one family get the same representative.
    fn find_families(&mut self) {
        let mut families: BTreeMap<LineId, LineId> =
            self.lines.keys().map(|line| (*line, *line)).collect();
        for (id, line) in &self.lines {
            let origin = line.origin.and_then(|segment| self.segments.get(&segment));
            let (Some(origin), Some(mine)) = (origin, families.get(id).copied()) else { continue };
            let Some(theirs) = families.get(&origin.line).copied() else { continue };
            for family in families.values_mut().filter(|family| **family == mine) {
                *family = theirs;
            }
        }
        self.families = families;
    }

    /// The family that a segment's line belongs to; `None` for a dead one, whose line may be gone.
    pub fn family_of(&self, segment: SegmentId) -> Option<LineId> {
        let segment = self.segments.get(&segment).filter(|s| !s.dead)?;
        self.families.get(&segment.line).copied()
    }

    /// The family of a cluster's head.
    pub fn family_of_head(&self, cluster: ClusterId) -> Option<LineId> {
        let mut heads = self.lines.iter().filter(|(_, line)| line.head && line.cluster == cluster);
        heads.next().and_then(|(id, _)| self.families.get(id).copied())
    }

    /// Whether a block of this family, born then, may belong to this segment.
    pub fn may_hold(&self, family: Option<LineId>, segment: SegmentId, birth: Generation) -> bool {
        let in_family = self.family_of(segment) == family && family.is_some();
        let born = self
            .segments
            .get(&segment)
            .is_some_and(|s| s.opened < birth && s.closed.is_none_or(|closed| birth <= closed));
        in_family && born
    }

    /// What holds a cut from the end of `birth` up to before `death`, along the history that leads
    /// to `death`.
    pub fn held_between(&self, birth: SegmentId, death: SegmentId) -> Held {
        let (mut from, mut held) = (death, Held::Nothing);
        // Segments grow along every path, and each turn goes to an older line.
        while let Some(line) = self.segments.get(&from).map(|segment| segment.line) {
            let between = self.segments.range(birth..from).filter(|(_, s)| s.line == line);
            for (id, segment) in between {
                if segment.held {
                    return Held::BySnapshot;
                }
                if self.lines.values().any(|other| other.origin == Some(*id)) {
                    held = Held::ByBranch;
                }
            }
            if self.segments.get(&birth).is_some_and(|segment| segment.line == line) {
                return held;
            }
            held = Held::ByBranch;
            let Some(origin) = self.lines.get(&line).and_then(|line| line.origin) else { break };
            if origin >= from || origin < birth {
                break;
            }
            if self.segments.get(&origin).is_some_and(|segment| segment.held) {
                return Held::BySnapshot;
            }
            from = origin;
        }
        held
    }

    /// Whether deletions left nothing to do in the background.
    pub fn is_settled(&self) -> bool {
        self.segments.values().all(|s| !s.dead && !s.released)
    }
}

/// The catalog's own nodes. Whether all could be read.
fn walk_catalog(pool: &Arc<Pool>, owners: &mut Owners, report: &mut Report) -> bool {
    let view = pool.read_catalog();
    let owner = Owner::Catalog;
    let expected = Expected::Segment(SegmentId::POOL);
    let mut reaches = Vec::new();
    let (mut count, mut items) = (0, 0);
    let newest = view.generation();
    let complete = nodes::walk(
        pool.nodes(),
        view.tree(),
        &owner,
        newest,
        &Unhurried,
        report,
        &mut |_, p, node| {
            count += 1;
            items += node.filter(|n| n.level() == 0).map_or(0, |n| n.count() as u64);
            reaches.extend(p.runs().map(|run| Reach { run, expected }));
        },
    );
    let blocks = owners.take_in(&owner, reaches, &|_, _| false, report);
    let stated = pool.catalog_blocks();
    // A checkpoint since then counts those of another tree.
    if complete && stated != blocks && pool.generation() == newest {
        let what = "the catalog's nodes".to_owned();
        report.damage(Defect::Count { what, stated, counted: blocks });
    }
    let state = if complete { TreeState::Walked } else { TreeState::Damaged };
    report.coverage.trees.push(TreeCoverage { owner, state, nodes: count, items, blocks });
    complete
}
