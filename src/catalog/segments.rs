//! The table of segments and lines: who holds what, in memory, with an undo.
//!
//! A *segment* is one line of history between two cuts. A *line* is a chain of segments, with at
//! most one head at its end; a line may branch off the end of a segment of another line. The cut
//! at the end of a segment is *held* by the snapshot taken there and by every line that branches
//! off it. Segment ids grow along every path, so a range of ids selects a stretch of a path.
//!
//! Every change is journalled until [`Table::commit`], so that a failed operation, or a dry run,
//! leaves no trace. The rules that change the table stand in `lines`, its items in `table_items`.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use crate::base::{ClusterId, Generation, LineId, SegmentId};

/// Segments and lines that catalog never hands out: 0 is none, 1 the pool's own blocks.
pub(in crate::catalog) const FIRST_SEGMENT: SegmentId = SegmentId(16);
/// Cell runs are keyed by two segments in 64 bits, of which the top byte names other items.
pub(in crate::catalog) const LAST_SEGMENT: SegmentId = SegmentId((1 << 29) - 1);

/// What contradicts the table: a defect or corruption, never an ordinary refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// A segment that is not in the table.
    #[error("segment {0} is unknown")]
    UnknownSegment(SegmentId),
    /// A line that is not in the table.
    #[error("line {0} is unknown")]
    UnknownLine(LineId),
    /// A cluster without a line of history.
    #[error("cluster {0} has no line of history")]
    UnknownCluster(ClusterId),
    /// A block whose birth lies in no segment on the path of the head that killed it.
    #[error("no segment on the path of line {line} holds births of generation {birth}")]
    BirthNotOnPath {
        /// Line of the head.
        line: LineId,
        /// Birth of the block.
        birth: Generation,
    },
    /// More blocks freed than were allocated.
    #[error("segment {0} has fewer blocks than are freed")]
    FreedTooMuch(SegmentId),
    /// A cut that must be held is not, or the other way round.
    #[error("the cut of segment {0} is not held as recorded")]
    Hold(SegmentId),
    /// Items that contradict each other.
    #[error("the table of segments contradicts itself at segment {0}")]
    Shape(SegmentId),
    /// No segment ids are left.
    #[error("no segment ids are left in this pool")]
    Exhausted,
}

/// One segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its line. Of a dead segment: the one it was in.
    pub line: LineId,
    /// Births are above this generation.
    pub opened: Generation,
    /// Births are at or below this one; `None`: the current segment of a head.
    pub closed: Option<Generation>,
    /// Blocks that region maps hold under this segment.
    pub allocated_blocks: u64,
    /// A snapshot holds the cut at its end.
    pub held: bool,
    /// Nothing reaches its blocks any more; they await the sweep.
    pub dead: bool,
    /// The cut at its end was let go inside its line; cells across it await their freeing.
    pub released: bool,
    /// Region maps hold more blocks than are counted here: a log was never replayed. Dead only.
    pub uncounted: bool,
    /// Lines that branch off the cut at its end.
    pub branches: Vec<LineId>,
}

impl Segment {
    /// Whether the cut at its end must stay reachable.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.held || !self.branches.is_empty()
    }
}

/// One line of history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The cluster whose history it is, alive or deleted.
    pub cluster: ClusterId,
    /// The segment it branches off.
    pub origin: Option<SegmentId>,
    /// Whether the cluster's head stands at its end.
    pub head: bool,
    /// Its segments, oldest first, ids ascending.
    pub segments: Vec<SegmentId>,
    /// Those of its segments whose cut is held.
    pub holders: BTreeSet<SegmentId>,
}

/// Numbers handed out next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Next segment.
    pub segment: SegmentId,
    /// Next line.
    pub line: LineId,
}

/// What a transaction changed: the state before, by id.
#[derive(Debug, Default)]
struct Journal {
    segments: BTreeMap<SegmentId, Option<Segment>>,
    lines: BTreeMap<LineId, Option<Line>>,
    counters: Option<Counters>,
}

/// The table. All reads are in memory.
#[derive(Debug)]
pub struct Table {
    segments: BTreeMap<SegmentId, Segment>,
    lines: BTreeMap<LineId, Line>,
    counters: Counters,
    // Derived from the two maps by `index_segment` and `index_line`:
    heads: BTreeMap<ClusterId, LineId>,
    dead: BTreeSet<SegmentId>,
    released: BTreeSet<SegmentId>,
    /// Closed, holding nothing, without blocks: may leave the table once no cell names them.
    empty: BTreeSet<SegmentId>,
    journal: Journal,
}

/// What changed since the last commit: the items to write.
#[derive(Debug, Default)]
pub struct Changes {
    /// Changed segments; gone where the table has them no more.
    pub segments: Vec<SegmentId>,
    /// Changed lines, likewise.
    pub lines: Vec<LineId>,
}

impl Table {
    /// The table of a new pool.
    #[must_use]
    pub fn new() -> Self {
        Self {
            segments: BTreeMap::new(),
            lines: BTreeMap::new(),
            counters: Counters { segment: FIRST_SEGMENT, line: LineId(1) },
            heads: BTreeMap::new(),
            dead: BTreeSet::new(),
            released: BTreeSet::new(),
            empty: BTreeSet::new(),
            journal: Journal::default(),
        }
    }

    /// The table that these items make: `lines` come without `segments` and `holders`, `segments`
    /// without `branches`.
    ///
    /// # Errors
    /// [`TableError`] where the items contradict each other.
    pub fn load(
        counters: Counters,
        segments: BTreeMap<SegmentId, Segment>,
        lines: BTreeMap<LineId, Line>,
    ) -> Result<Self, TableError> {
        let mut table = Self { counters, segments, lines, ..Self::new() };
        let links: Vec<(LineId, Option<SegmentId>)> =
            table.lines.iter().map(|(id, line)| (*id, line.origin)).collect();
        for (line, origin) in links {
            if let Some(origin) = origin {
                let segment =
                    table.segments.get_mut(&origin).ok_or(TableError::UnknownSegment(origin))?;
                segment.branches.push(line);
            }
        }
        for (id, segment) in &table.segments {
            if *id >= counters.segment || *id < FIRST_SEGMENT {
                return Err(TableError::Shape(*id));
            }
            if segment.uncounted && !segment.dead {
                return Err(TableError::Shape(*id));
            }
            if segment.dead {
                if segment.holds() {
                    return Err(TableError::Hold(*id));
                }
                continue;
            }
            let line =
                table.lines.get_mut(&segment.line).ok_or(TableError::UnknownLine(segment.line))?;
            line.segments.push(*id);
            if segment.holds() {
                line.holders.insert(*id);
            }
        }
        table.check_shape()?;
        for id in table.segments.keys().copied().collect::<Vec<_>>() {
            table.index_segment(id);
        }
        for id in table.lines.keys().copied().collect::<Vec<_>>() {
            table.index_line(id, None);
        }
        Ok(table)
    }

    /// That every line is what the rules leave behind: generations ascend, only a head's last
    /// segment is open, a line without a head ends in a holder.
    ///
    /// # Errors
    /// [`TableError::Shape`], [`TableError::UnknownLine`], [`TableError::Exhausted`]
    pub fn check_shape(&self) -> Result<(), TableError> {
        let mut seen = BTreeSet::new();
        for (id, line) in &self.lines {
            if *id >= self.counters.line {
                return Err(TableError::UnknownLine(*id));
            }
            let last = *line.segments.last().ok_or(TableError::UnknownLine(*id))?;
            if line.head && !seen.insert(line.cluster) {
                return Err(TableError::UnknownCluster(line.cluster));
            }
            let mut floor = match line.origin {
                Some(origin) if line.segments.first() <= Some(&origin) => {
                    return Err(TableError::Shape(origin));
                }
                Some(origin) => self.segment(origin)?.closed.ok_or(TableError::Shape(origin))?,
                None => Generation(0),
            };
            for segment_id in &line.segments {
                let segment = self.segment(*segment_id)?;
                let end = segment.closed.unwrap_or(segment.opened);
                if segment.opened < floor || end < segment.opened {
                    return Err(TableError::Shape(*segment_id));
                }
                if segment.closed.is_none() != (line.head && *segment_id == last) {
                    return Err(TableError::Shape(*segment_id));
                }
                floor = end;
            }
            if !line.head && !line.holders.contains(&last) {
                return Err(TableError::Hold(last));
            }
        }
        Ok(())
    }

    /// A segment, dead ones too.
    ///
    /// # Errors
    /// [`TableError::UnknownSegment`]
    pub fn segment(&self, id: SegmentId) -> Result<&Segment, TableError> {
        self.segments.get(&id).ok_or(TableError::UnknownSegment(id))
    }
    /// A line.
    ///
    /// # Errors
    /// [`TableError::UnknownLine`]
    pub fn line(&self, id: LineId) -> Result<&Line, TableError> {
        self.lines.get(&id).ok_or(TableError::UnknownLine(id))
    }
    /// The line at whose end the cluster's head stands.
    ///
    /// # Errors
    /// [`TableError::UnknownCluster`]
    pub fn head_line(&self, cluster: ClusterId) -> Result<LineId, TableError> {
        self.heads.get(&cluster).copied().ok_or(TableError::UnknownCluster(cluster))
    }
    /// The segment that a cluster's head writes into now.
    ///
    /// # Errors
    /// [`TableError::UnknownCluster`]
    pub fn current(&self, cluster: ClusterId) -> Result<SegmentId, TableError> {
        let line = self.line(self.head_line(cluster)?)?;
        line.segments.last().copied().ok_or(TableError::UnknownCluster(cluster))
    }
    /// The segment of a cluster's line that the cut at generation `at` closed.
    ///
    /// # Errors
    /// [`TableError::UnknownCluster`], [`TableError::Shape`] where that cut closed none.
    pub fn closed_at(&self, cluster: ClusterId, at: Generation) -> Result<SegmentId, TableError> {
        let line = self.line(self.head_line(cluster)?)?;
        let mut last = line.segments.iter().rev();
        let current = *last.next().ok_or(TableError::UnknownCluster(cluster))?;
        let closed = *last.next().ok_or(TableError::Shape(current))?;
        if self.segment(closed)?.closed != Some(at) {
            return Err(TableError::Shape(closed));
        }
        Ok(closed)
    }
    /// Every segment, dead ones too.
    pub fn segments(&self) -> impl Iterator<Item = (SegmentId, &Segment)> {
        self.segments.iter().map(|(id, segment)| (*id, segment))
    }
    /// Every line.
    pub fn lines(&self) -> impl Iterator<Item = (LineId, &Line)> {
        self.lines.iter().map(|(id, line)| (*id, line))
    }
    /// Segments that await the sweep.
    #[must_use]
    pub const fn dead(&self) -> &BTreeSet<SegmentId> {
        &self.dead
    }
    /// Cuts that await the freeing of the cells across them.
    #[must_use]
    pub const fn released(&self) -> &BTreeSet<SegmentId> {
        &self.released
    }
    /// Segments that may leave the table once no cell names them.
    #[must_use]
    pub const fn empty(&self) -> &BTreeSet<SegmentId> {
        &self.empty
    }
    /// The numbers handed out next.
    #[must_use]
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// The last holder of the line before `segment`.
    #[must_use]
    pub fn holder_before(&self, line: &Line, segment: SegmentId) -> Option<SegmentId> {
        line.holders.range(..segment).next_back().copied()
    }
    /// The first holder of the line after `segment`.
    #[must_use]
    pub fn holder_after(&self, line: &Line, segment: SegmentId) -> Option<SegmentId> {
        line.holders.range((Bound::Excluded(segment), Bound::Unbounded)).next().copied()
    }

    /// The segment in which a block of that birth was born, as seen from the head of `line`.
    ///
    /// # Errors
    /// [`TableError::BirthNotOnPath`]: the tree holds a pointer that no segment accounts for.
    pub fn find(&self, line: LineId, birth: Generation) -> Result<SegmentId, TableError> {
        let missing = TableError::BirthNotOnPath { line, birth };
        let mut at = self.line(line)?;
        let mut end = at.segments.len();
        loop {
            let path = at.segments.get(..end).ok_or(missing)?;
            let after =
                path.partition_point(|id| self.segments.get(id).is_some_and(|s| s.opened < birth));
            if let Some(id) = after.checked_sub(1).and_then(|i| path.get(i)) {
                let closed = self.segment(*id)?.closed;
                let inside = closed.is_none_or(|closed| birth <= closed);
                return if inside { Ok(*id) } else { Err(missing) };
            }
            let origin = at.origin.ok_or(missing)?;
            at = self.line(self.segment(origin)?.line)?;
            end = at.segments.partition_point(|id| *id <= origin);
        }
    }

    /// A number for a new segment.
    ///
    /// # Errors
    /// [`TableError::Exhausted`]
    pub fn take_segment_id(&mut self) -> Result<SegmentId, TableError> {
        let id = self.counters.segment;
        if id > LAST_SEGMENT {
            return Err(TableError::Exhausted);
        }
        self.journal.counters.get_or_insert(self.counters);
        self.counters.segment = SegmentId(id.0 + 1);
        Ok(id)
    }
    /// A number for a new line.
    ///
    /// # Errors
    /// [`TableError::Exhausted`]
    pub(in crate::catalog) fn take_line_id(&mut self) -> Result<LineId, TableError> {
        let id = self.counters.line;
        let next = id.0.checked_add(1).ok_or(TableError::Exhausted)?;
        self.journal.counters.get_or_insert(self.counters);
        self.counters.line = LineId(next);
        Ok(id)
    }

    /// Changes a segment.
    ///
    /// # Errors
    /// [`TableError::UnknownSegment`]
    pub(in crate::catalog) fn edit_segment(
        &mut self,
        id: SegmentId,
        edit: impl FnOnce(&mut Segment),
    ) -> Result<(), TableError> {
        let segment = self.segments.get_mut(&id).ok_or(TableError::UnknownSegment(id))?;
        self.journal.segments.entry(id).or_insert_with(|| Some(segment.clone()));
        edit(segment);
        self.index_segment(id);
        Ok(())
    }
    /// Puts a new segment in, or takes one out.
    pub(in crate::catalog) fn set_segment(&mut self, id: SegmentId, segment: Option<Segment>) {
        let before = match segment {
            Some(segment) => self.segments.insert(id, segment),
            None => self.segments.remove(&id),
        };
        self.journal.segments.entry(id).or_insert(before);
        self.index_segment(id);
    }
    /// Changes a line.
    ///
    /// # Errors
    /// [`TableError::UnknownLine`]
    pub(in crate::catalog) fn edit_line<R>(
        &mut self,
        id: LineId,
        edit: impl FnOnce(&mut Line) -> R,
    ) -> Result<R, TableError> {
        let line = self.lines.get_mut(&id).ok_or(TableError::UnknownLine(id))?;
        self.journal.lines.entry(id).or_insert_with(|| Some(line.clone()));
        let head_before = line.head.then_some(line.cluster);
        let result = edit(line);
        self.index_line(id, head_before);
        Ok(result)
    }
    /// Puts a new line in, or takes one out.
    pub(in crate::catalog) fn set_line(&mut self, id: LineId, line: Option<Line>) {
        let before = match line {
            Some(line) => self.lines.insert(id, line),
            None => self.lines.remove(&id),
        };
        let head_before = before.as_ref().filter(|line| line.head).map(|line| line.cluster);
        self.journal.lines.entry(id).or_insert(before);
        self.index_line(id, head_before);
    }

    fn index_segment(&mut self, id: SegmentId) {
        let segment = self.segments.get(&id);
        let mark = |set: &mut BTreeSet<SegmentId>, belongs: bool| {
            if belongs {
                set.insert(id)
            } else {
                set.remove(&id)
            };
        };
        mark(&mut self.dead, segment.is_some_and(|s| s.dead));
        mark(&mut self.released, segment.is_some_and(|s| s.released && !s.dead));
        let empty = |s: &Segment| {
            !s.dead
                && !s.released
                && s.closed.is_some()
                && s.allocated_blocks == 0
                && !s.uncounted
                && !s.holds()
        };
        mark(&mut self.empty, segment.is_some_and(empty));
    }

    fn index_line(&mut self, id: LineId, head_before: Option<ClusterId>) {
        if let Some(cluster) = head_before
            && self.heads.get(&cluster) == Some(&id)
        {
            self.heads.remove(&cluster);
        }
        if let Some(line) = self.lines.get(&id)
            && line.head
        {
            self.heads.insert(line.cluster, id);
        }
    }

    /// The changes since the last commit.
    #[must_use]
    pub fn changes(&self) -> Changes {
        Changes {
            segments: self.journal.segments.keys().copied().collect(),
            lines: self.journal.lines.keys().copied().collect(),
        }
    }
    /// Makes the changes since the last commit final.
    pub fn commit(&mut self) {
        self.journal = Journal::default();
    }
    /// Undoes the changes since the last commit.
    pub fn roll_back(&mut self) {
        let journal = std::mem::take(&mut self.journal);
        if let Some(counters) = journal.counters {
            self.counters = counters;
        }
        for (id, before) in journal.segments {
            self.set_segment(id, before);
        }
        // Two passes: a head may have moved between lines, and its entry must end at the old one.
        let lines: Vec<LineId> = journal.lines.keys().copied().collect();
        for (id, before) in journal.lines {
            self.set_line(id, before);
        }
        for id in lines {
            self.index_line(id, None);
        }
        self.journal = Journal::default();
    }
    /// Whether changes await [`Table::commit`] or [`Table::roll_back`].
    #[must_use]
    pub fn is_changed(&self) -> bool {
        let journal = &self.journal;
        journal.counters.is_some() || !journal.segments.is_empty() || !journal.lines.is_empty()
    }
    /// The segments changed since the last commit, as they were before.
    pub(in crate::catalog) fn changed_segments(
        &self,
    ) -> impl Iterator<Item = (SegmentId, Option<&Segment>)> {
        self.journal.segments.iter().map(|(id, before)| (*id, before.as_ref()))
    }
}

impl Default for Table {
    fn default() -> Self {
        Self::new()
    }
}
