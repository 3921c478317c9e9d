//! The rules that change the table (docs/format.md, "Space without keys"): heads, cuts, holds,
//! in-place restore (promote), the sweep of a line's end, and adoption by the only branch left.
//!
//! All are pure: they change the [`Table`] alone. What they leave to do stands in the table
//! itself: dead segments await the sweep, released cuts the freeing of the cells across them.

use std::collections::BTreeSet;

use crate::base::{ClusterId, Generation, LineId, SegmentId};
use crate::catalog::segments::{Line, Segment, Table, TableError};

impl Table {
    /// A new line with a head, branching off `origin`, whose births lie above `at`.
    ///
    /// # Errors
    /// [`TableError`]: `origin` is unknown or still open, the cluster has a head already.
    pub fn create_head(
        &mut self,
        cluster: ClusterId,
        origin: Option<SegmentId>,
        at: Generation,
    ) -> Result<SegmentId, TableError> {
        if self.head_line(cluster).is_ok() {
            return Err(TableError::UnknownCluster(cluster));
        }
        let segment = self.take_segment_id()?;
        let line = self.take_line_id()?;
        self.set_line(
            line,
            Some(Line {
                cluster,
                origin: None,
                head: true,
                segments: vec![segment],
                holders: BTreeSet::new(),
            }),
        );
        self.set_segment(segment, Some(open_segment(line, at)));
        if let Some(origin) = origin {
            self.branch(line, origin)?;
        }
        Ok(segment)
    }

    /// The cut at generation `at`: closes the head's segment, opens `next`, returns the closed.
    ///
    /// # Errors
    /// [`TableError`]: the cluster has no head.
    pub fn cut(
        &mut self,
        cluster: ClusterId,
        next: SegmentId,
        at: Generation,
    ) -> Result<SegmentId, TableError> {
        let line = self.head_line(cluster)?;
        let closed = self.current(cluster)?;
        if next <= closed {
            return Err(TableError::Shape(next));
        }
        self.edit_segment(closed, |s| s.closed = Some(at))?;
        self.set_segment(next, Some(open_segment(line, at)));
        self.edit_line(line, |l| l.segments.push(next))?;
        Ok(closed)
    }

    /// A snapshot holds the cut at the end of `segment`, which was just closed.
    ///
    /// # Errors
    /// [`TableError::Hold`] where one does already.
    pub fn hold(&mut self, segment: SegmentId) -> Result<(), TableError> {
        let found = self.segment(segment)?;
        if found.held || found.dead || found.closed.is_none() {
            return Err(TableError::Hold(segment));
        }
        let line = found.line;
        self.edit_segment(segment, |s| s.held = true)?;
        self.edit_line(line, |l| l.holders.insert(segment))?;
        Ok(())
    }

    /// The snapshot at the end of `segment` is gone.
    ///
    /// # Errors
    /// [`TableError::Hold`] where none held it.
    pub fn release(&mut self, segment: SegmentId) -> Result<(), TableError> {
        if !self.segment(segment)?.held {
            return Err(TableError::Hold(segment));
        }
        self.edit_segment(segment, |s| s.held = false)?;
        self.let_go(segment)
    }

    /// The cluster's head is gone.
    ///
    /// # Errors
    /// [`TableError::UnknownCluster`]
    pub fn end_head(&mut self, cluster: ClusterId, at: Generation) -> Result<(), TableError> {
        let line = self.head_line(cluster)?;
        let last = self.current(cluster)?;
        self.edit_segment(last, |s| s.closed = Some(at))?;
        self.edit_line(line, |l| l.head = false)?;
        self.collect(line)
    }

    /// In-place restore to the snapshot at the end of `target`: the head's segment is closed and
    /// held for the safety snapshot; what came after `target` becomes a branch; the head goes on
    /// in a new segment behind `target`. Returns the closed segment and the new one.
    ///
    /// # Errors
    /// [`TableError`]: `target` is not held by a snapshot, or its line has another's head.
    pub fn restore_in_place(
        &mut self,
        cluster: ClusterId,
        target: SegmentId,
        at: Generation,
    ) -> Result<(SegmentId, SegmentId), TableError> {
        if !self.segment(target)?.held {
            return Err(TableError::Hold(target));
        }
        let old_line = self.head_line(cluster)?;
        let safety = self.current(cluster)?;
        self.edit_segment(safety, |s| s.closed = Some(at))?;
        self.hold(safety)?;
        self.edit_line(old_line, |l| l.head = false)?;

        let line = self.segment(target)?.line;
        if self.line(line)?.head || self.line(line)?.cluster != cluster {
            return Err(TableError::Hold(target));
        }
        self.split_after(line, target)?;
        let next = self.take_segment_id()?;
        self.set_segment(next, Some(open_segment(line, at)));
        self.edit_line(line, |l| {
            l.segments.push(next);
            l.head = true;
        })?;
        Ok((safety, next))
    }

    /// What follows `at` in `line` becomes a line of its own that branches off `at`.
    fn split_after(&mut self, line: LineId, at: SegmentId) -> Result<(), TableError> {
        let found = self.line(line)?;
        let cluster = found.cluster;
        let keep = found.segments.partition_point(|id| *id <= at);
        if keep == found.segments.len() {
            return Ok(());
        }
        let (moved, holders) = self.edit_line(line, |l| {
            let moved = l.segments.split_off(keep);
            let holders = l.holders.split_off(&SegmentId(at.0 + 1));
            (moved, holders)
        })?;
        let branch = self.take_line_id()?;
        for id in &moved {
            self.edit_segment(*id, |s| s.line = branch)?;
        }
        self.set_line(
            branch,
            Some(Line { cluster, origin: None, head: false, segments: moved, holders }),
        );
        self.branch(branch, at)
    }

    /// `line` branches off `origin` from now on.
    fn branch(&mut self, line: LineId, origin: SegmentId) -> Result<(), TableError> {
        let found = self.segment(origin)?;
        if found.dead || found.closed.is_none() {
            return Err(TableError::Shape(origin));
        }
        let origin_line = found.line;
        self.edit_segment(origin, |s| s.branches.push(line))?;
        self.edit_line(origin_line, |l| l.holders.insert(origin))?;
        self.edit_line(line, |l| l.origin = Some(origin))
    }

    /// `line` branches off `origin` no more.
    fn unbranch(&mut self, line: LineId, origin: SegmentId) -> Result<(), TableError> {
        self.edit_segment(origin, |s| s.branches.retain(|b| *b != line))?;
        self.let_go(origin)
    }

    /// One hold less on the cut of `segment`: does what follows from it.
    fn let_go(&mut self, segment: SegmentId) -> Result<(), TableError> {
        let found = self.segment(segment)?;
        let line = found.line;
        if !found.holds() {
            self.edit_line(line, |l| l.holders.remove(&segment))?;
            if self.line(line)?.segments.last() != Some(&segment) {
                self.edit_segment(segment, |s| s.released = true)?;
            }
        }
        self.collect(line)
    }

    /// Applies the rules to the end of a line without a head, until nothing follows any more.
    fn collect(&mut self, line: LineId) -> Result<(), TableError> {
        loop {
            let found = self.line(line)?;
            if found.head {
                return Ok(());
            }
            let keep = match found.holders.last() {
                Some(last) => found.segments.partition_point(|id| id <= last),
                None => 0,
            };
            if keep < found.segments.len() {
                for id in self.edit_line(line, |l| l.segments.split_off(keep))? {
                    self.edit_segment(id, |s| {
                        s.dead = true;
                        s.released = false;
                    })?;
                }
            }
            let found = self.line(line)?;
            let Some(last) = found.segments.last().copied() else {
                let origin = found.origin;
                self.set_line(line, None);
                return match origin {
                    Some(origin) => self.unbranch(line, origin),
                    None => Ok(()),
                };
            };
            let end = self.segment(last)?;
            match (end.held, end.branches.as_slice()) {
                (false, [only]) => {
                    let only = *only;
                    self.adopt(line, last, only)?;
                }
                _ => return Ok(()),
            }
        }
    }

    /// One branch alone hangs on the end of `line`: it takes over the segments since the cut
    /// before that is held.
    fn adopt(&mut self, line: LineId, end: SegmentId, child: LineId) -> Result<(), TableError> {
        let found = self.line(line)?;
        let keep = match self.holder_before(found, end) {
            Some(before) => found.segments.partition_point(|id| *id <= before),
            None => 0,
        };
        let moved = self.edit_line(line, |l| {
            l.holders.remove(&end);
            l.segments.split_off(keep)
        })?;
        for id in &moved {
            self.edit_segment(*id, |s| s.line = child)?;
        }
        self.edit_segment(end, |s| {
            s.branches.clear();
            s.released = true;
        })?;
        let found = self.line(line)?;
        let origin = found.segments.last().copied().or(found.origin);
        self.edit_line(child, |l| {
            l.segments.splice(0..0, moved);
            l.origin = None;
        })?;
        match origin {
            Some(origin) => self.branch(child, origin),
            None => Ok(()),
        }
    }

    /// Blocks of `segment` that its region maps gained.
    ///
    /// # Errors
    /// [`TableError::UnknownSegment`]
    pub fn add_blocks(&mut self, segment: SegmentId, blocks: u64) -> Result<(), TableError> {
        self.edit_segment(segment, |s| s.allocated_blocks += blocks)
    }

    /// Blocks of `segment` that its region maps lost.
    ///
    /// # Errors
    /// [`TableError::FreedTooMuch`]
    pub fn remove_blocks(&mut self, segment: SegmentId, blocks: u64) -> Result<(), TableError> {
        let found = self.segment(segment)?;
        let left = match found.uncounted {
            true => Some(found.allocated_blocks.saturating_sub(blocks)),
            false => found.allocated_blocks.checked_sub(blocks),
        };
        let left = left.ok_or(TableError::FreedTooMuch(segment))?;
        self.edit_segment(segment, |s| s.allocated_blocks = left)
    }

    /// Region maps may hold more blocks of `segment` than the table counts.
    ///
    /// # Errors
    /// [`TableError::UnknownSegment`]
    pub fn set_uncounted(&mut self, segment: SegmentId) -> Result<(), TableError> {
        self.edit_segment(segment, |s| s.uncounted = true)
    }

    /// A whole pass over the region maps freed all blocks of an uncounted `segment`.
    ///
    /// # Errors
    /// [`TableError::UnknownSegment`]
    pub fn settle_uncounted(&mut self, segment: SegmentId) -> Result<(), TableError> {
        self.edit_segment(segment, |s| {
            s.uncounted = false;
            s.allocated_blocks = 0;
        })
    }

    /// The cells across the cut of `segment` are all freed.
    ///
    /// # Errors
    /// [`TableError::UnknownSegment`]
    pub fn settle_release(&mut self, segment: SegmentId) -> Result<(), TableError> {
        self.edit_segment(segment, |s| s.released = false)
    }

    /// Takes a segment out that has no blocks, holds nothing, and that no cell names.
    ///
    /// # Errors
    /// [`TableError::Shape`] where it may not go.
    pub fn forget(&mut self, segment: SegmentId) -> Result<(), TableError> {
        let found = self.segment(segment)?;
        if found.allocated_blocks > 0
            || found.uncounted
            || found.holds()
            || found.released
            || found.closed.is_none()
        {
            return Err(TableError::Shape(segment));
        }
        if !found.dead {
            self.edit_line(found.line, |l| l.segments.retain(|id| *id != segment))?;
        }
        self.set_segment(segment, None);
        Ok(())
    }
}

fn open_segment(line: LineId, after: Generation) -> Segment {
    Segment {
        line,
        opened: after,
        closed: None,
        allocated_blocks: 0,
        held: false,
        dead: false,
        released: false,
        uncounted: false,
        branches: Vec::new(),
    }
}
