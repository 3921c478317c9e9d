//! Names for what findings hit. Only a pool in which something was found pays for it: its trees are
//! read a second and third time, for the extents that touch a finding's blocks, and for the names
//! that lead to the inodes concerned.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use crate::base::InodeNo;
use crate::base::units::BLOCK_SIZE_U64;
use crate::block::Run;
use crate::pool::{Pool, View};
use crate::tree::{Key, Node, Step};
use crate::verify::findings::{Defect, Owner, Report};
use crate::verify::hits::{FileHit, HITS_MAX, Hit};
use crate::verify::spots::{Spot, Spots};
use crate::volume::FileKind;
use crate::volume::items::{
    Dirent, ExtentItem, InodeItem, ROOT_INODE, dirent_key, inode_key, kind,
};

/// Directories above a file that are followed.
const DEPTH_MAX: usize = 4096;

/// A tree that could be opened.
pub(in crate::verify) struct OpenTree {
    pub owner: Owner,
    pub view: View,
}

/// A finding hits this part of this inode.
type Touched = (usize, InodeNo, Option<(u64, u64)>);

/// Adds to every finding the files of this tree that it hits.
pub(in crate::verify) fn resolve(pool: &Pool, tree: &OpenTree, report: &mut Report) {
    if report.spots.is_empty() {
        return;
    }
    let spots = std::mem::take(&mut report.spots);
    let blocks = Blocks::new(&spots);
    {
        let mut touched = Vec::new();
        let mut whole = Vec::new();
        each_node(pool, &tree.view, &mut |pointer, node| {
            for run in pointer.into_iter().flat_map(crate::block::Pointer::runs) {
                blocks.touching(run, &mut |at, _| whole.push(at));
            }
            if let Some(leaf) = node.filter(|node| node.level() == 0) {
                extents(leaf, &blocks, &mut touched);
            }
        });
        let of_tree = spots.inodes.iter().filter(|(_, owner, _)| *owner == tree.owner);
        touched.extend(of_tree.map(|(at, _, inode)| (*at, *inode, None)));
        let lost = spots.keys.iter().filter(|(_, spot)| spot.owner == tree.owner);
        let lost: Vec<&(usize, Spot)> = lost.collect();
        let names = Names::gather(pool, tree, &mut touched, &lost);
        for at in whole {
            if let Some(finding) = report.findings.get_mut(at) {
                finding.hit_tree(&tree.owner);
            }
        }
        for (at, inode, range) in touched {
            let Some(finding) = report.findings.get_mut(at) else { continue };
            // The file says more than the tree; but of a lost node, not all files may have a name.
            let lost = matches!(finding.defect, Defect::Node { .. });
            finding.hits.retain(|hit| lost || hit.owner != tree.owner || hit.file.is_some());
            let (path, count) = names.of(inode);
            let file = FileHit { inode, path, names: count, range };
            finding.hit(Hit { owner: tree.owner.clone(), file: Some(file), locked: false });
        }
    }
    report.spots = spots;
}

/// Findings by the blocks that they concern.
struct Blocks {
    /// In the order of addresses.
    runs: Vec<(Run, usize)>,
    longest: u64,
}

impl Blocks {
    fn new(spots: &Spots) -> Self {
        let mut runs: Vec<(Run, usize)> = spots.runs.iter().map(|(at, run)| (*run, *at)).collect();
        runs.sort_unstable();
        let longest = runs.iter().map(|(run, _)| u64::from(run.blocks)).max().unwrap_or(0);
        Self { runs, longest }
    }

    /// Findings that concern a part of `run`, with that part.
    fn touching(&self, run: Run, found: &mut dyn FnMut(usize, Run)) {
        let from = run.addr.get().saturating_sub(self.longest);
        let first = self.runs.partition_point(|(spot, _)| spot.addr.get() < from);
        let behind = self.runs.iter().skip(first).take_while(|(spot, _)| spot.addr < run.end());
        for (spot, at) in behind {
            let (start, end) = (spot.addr.max(run.addr), spot.end().min(run.end()));
            if start < end {
                let blocks = (end.get() - start.get()) as u32;
                found(*at, Run { addr: start, blocks });
            }
        }
    }
}

/// Every node that can be read; findings name those that cannot.
fn each_node(
    pool: &Pool,
    view: &View,
    visit: &mut dyn FnMut(Option<&crate::block::Pointer>, Option<&Node>),
) {
    view.tree().walk(pool.nodes(), &mut |step| {
        match step {
            Step::Node { pointer, node } => visit(pointer, Some(node)),
            Step::Unreadable { pointer, .. } => visit(Some(pointer), None),
        }
        ControlFlow::Continue(())
    });
}

fn extents(leaf: &Node, blocks: &Blocks, touched: &mut Vec<Touched>) {
    for i in (0..leaf.count()).filter(|i| leaf.key(*i).kind == kind::EXTENT) {
        let Ok(extent) = ExtentItem::decode(leaf.value(i)) else { continue };
        let (key, addr) = (leaf.key(i), extent.addr);
        blocks.touching(Run { addr, blocks: extent.blocks() }, &mut |at, part| {
            let offset = key.offset + (part.addr.get() - addr.get()) * BLOCK_SIZE_U64;
            let bytes = u64::from(part.blocks) * BLOCK_SIZE_U64;
            let touches = (at, InodeNo(key.object), Some((offset, bytes)));
            match touched.last_mut() {
                // Neighbouring blocks of one finding.
                Some((same, ino, Some((from, len))))
                    if (*same, *ino) == (at, touches.1) && *from + *len == offset =>
                {
                    *len += bytes;
                }
                _ => touched.push(touches),
            }
        });
    }
}

/// The part of one inode that the keys of a lost node cover.
fn lost_part(spot: &Spot, inode: u64) -> Option<(u64, u64)> {
    let inside = spot.lower.object == inode && spot.lower.kind == kind::EXTENT;
    let upper = spot.upper.unwrap_or(Key::MAX);
    let from = if inside { spot.lower.offset } else { 0 };
    if !inside && spot.lower <= Key::new(inode, kind::EXTENT, 0).previous()? {
        // Its attributes, or other items, are among what is lost.
        return None;
    }
    let to = if upper.object == inode && upper.kind == kind::EXTENT {
        upper.offset
    } else {
        i64::MAX as u64
    };
    (from < to).then_some((from, to - from))
}

/// A name: of whom, in which directory.
struct Name {
    parent: InodeNo,
    name: Vec<u8>,
    count: u64,
}

/// Names in one tree of the inodes that are concerned.
struct Names<'a> {
    tree: &'a OpenTree,
    found: BTreeMap<InodeNo, Name>,
}

impl<'a> Names<'a> {
    /// Reads all entries for those that lead to an inode in `touched`, or to one whose items were
    /// lost; those are added to `touched`.
    fn gather(
        pool: &Pool,
        tree: &'a OpenTree,
        touched: &mut Vec<Touched>,
        lost: &[&(usize, Spot)],
    ) -> Self {
        let mut found: BTreeMap<InodeNo, Name> = BTreeMap::new();
        let mut wanted: Vec<InodeNo> = touched.iter().map(|(_, inode, _)| *inode).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let mut many = BTreeMap::new();
        each_node(pool, &tree.view, &mut |_, node| {
            let Some(leaf) = node.filter(|node| node.level() == 0) else { return };
            for i in (0..leaf.count()).filter(|i| leaf.key(*i).kind == kind::DIRENT) {
                let Ok(entry) = Dirent::decode(leaf.value(i)) else { continue };
                let ino = entry.ino;
                let mut want = wanted.binary_search(&ino).is_ok() || found.contains_key(&ino);
                for (at, spot) in lost {
                    if !holds(spot, ino, entry.kind)
                        || touched.iter().any(|t| (t.0, t.1) == (*at, ino))
                    {
                        continue;
                    }
                    let count: &mut usize = many.entry(*at).or_default();
                    *count += 1;
                    // One more than are shown, so that the rest is counted as such.
                    if *count <= HITS_MAX + 1 {
                        touched.push((*at, ino, lost_part(spot, ino.0)));
                        want = true;
                    }
                }
                if want {
                    let parent = InodeNo(leaf.key(i).object);
                    let name = || Name { parent, name: entry.name.clone(), count: 0 };
                    found.entry(ino).or_insert_with(name).count += 1;
                }
            }
        });
        // A file that was lost in part, and a directory's own entries, stand by their numbers.
        for (at, spot) in lost {
            let ino = InodeNo(spot.lower.object);
            if spot.lower.kind >= kind::INODE && !touched.iter().any(|t| (t.0, t.1) == (*at, ino)) {
                touched.push((*at, ino, lost_part(spot, ino.0)));
            }
        }
        Self { tree, found }
    }

    /// The first path of an inode, and how many names lead to it.
    fn of(&self, inode: InodeNo) -> (Option<Vec<u8>>, u64) {
        if inode == ROOT_INODE {
            return (Some(b"/".to_vec()), 1);
        }
        let Some(first) = self.found.get(&inode) else {
            let path = self.directory_name(inode).map(|(parent, name)| self.path(parent, name));
            let names = u64::from(path.is_some());
            return (path, names);
        };
        (Some(self.path(first.parent, first.name.clone())), first.count)
    }

    fn path(&self, mut parent: InodeNo, name: Vec<u8>) -> Vec<u8> {
        let mut parts = vec![name];
        while parent != ROOT_INODE && parts.len() < DEPTH_MAX {
            match self.directory_name(parent) {
                Some((above, name)) => {
                    parts.push(name);
                    parent = above;
                }
                None => {
                    parts.push(b"?".to_vec());
                    break;
                }
            }
        }
        let mut path = Vec::new();
        for part in parts.into_iter().rev() {
            path.push(b'/');
            path.extend_from_slice(&part);
        }
        path
    }

    /// The name of a directory, found by way of the parent that it states.
    fn directory_name(&self, inode: InodeNo) -> Option<(InodeNo, Vec<u8>)> {
        let view = &self.tree.view;
        let item = view.get(inode_key(inode)).ok().flatten()?;
        let item = InodeItem::decode(&item).ok().filter(InodeItem::is_dir)?;
        let parent = InodeNo(item.parent);
        let mut name = None;
        let _ = view.range(dirent_key(parent, 0), dirent_key(parent, u64::MAX), &mut |_, value| {
            match Dirent::decode(value) {
                Ok(entry) if entry.ino == inode => {
                    name = Some(entry.name);
                    ControlFlow::Break(())
                }
                _ => ControlFlow::Continue(()),
            }
        });
        name.map(|name| (parent, name))
    }
}

/// Whether items of an inode of this kind are among what was lost. A file's extents are the last of
/// its items: a range that begins behind them holds none of it.
fn holds(spot: &Spot, ino: InodeNo, of: FileKind) -> bool {
    let (first, last_kind) =
        (inode_key(ino), if of == FileKind::File { kind::EXTENT } else { kind::DIRENT });
    let last = Key::new(ino.0, last_kind, u64::MAX);
    spot.lower <= last && spot.upper.is_none_or(|upper| first < upper)
}
