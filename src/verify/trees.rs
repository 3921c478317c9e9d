//! The trees of clusters and snapshots.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::base::cursor::Reader;
use crate::base::units::BLOCK_SIZE;
use crate::base::{ClusterId, Generation, InodeNo, LineId};
use crate::block::{BlockRef, Run};
use crate::catalog::Header;
use crate::crypto::{self, ClusterKey};
use crate::pool::root::RootContext;
use crate::pool::{NameHashKey, Pool, View};
use crate::sys::AlignedBuf;
use crate::tree::Node;
use crate::verify::coverage::{TreeCoverage, TreeState};
use crate::verify::facts::Facts;
use crate::verify::files::Files;
use crate::verify::findings::{Defect, Owner, Report, Severity};
use crate::verify::names::OpenTree;
use crate::verify::nodes;
use crate::verify::owners::{Expected, Owners, Reach};
use crate::verify::pace::{Pace, Unhurried};
use crate::verify::structure::{CheckOptions, ItemRuns, KeySource};
use crate::volume::items::{ExtentItem, kind};

/// Families of lines that no tree was left out of.
pub(in crate::verify) struct Uncovered {
    families: BTreeSet<LineId>,
    /// Trees may be missing altogether: the catalog could not be read whole.
    all: bool,
    /// Trees whose key is not at hand.
    locked: Vec<(Option<LineId>, Owner)>,
}

impl Uncovered {
    /// Whether a tree that was not walked may reach blocks of this family.
    pub fn contains(&self, family: Option<LineId>) -> bool {
        self.all || family.is_none_or(|family| self.families.contains(&family))
    }

    /// Locked trees that may reach blocks of this family.
    pub fn locked(&self, family: Option<LineId>) -> impl Iterator<Item = &Owner> {
        let of_it = move |of: &Option<LineId>| of.is_none() || family.is_none() || *of == family;
        self.locked.iter().filter(move |(of, _)| of_it(of)).map(|(_, owner)| owner)
    }
}

/// A header to be followed.
struct Subject<'a> {
    owner: Owner,
    /// Whose id its root was sealed with.
    cluster: ClusterId,
    header: &'a Header,
    family: Option<LineId>,
}

/// What a tree's header says of it.
pub(in crate::verify) struct Stated {
    /// The checkpoint that wrote its root.
    pub newest: Generation,
    /// Blocks that it reaches; `None` for a tree that is being changed.
    pub blocks: Option<u64>,
    /// Which segments may hold its blocks.
    pub family: Option<LineId>,
}

/// Walks every tree whose key is at hand, and leaves them in `open`. Which families could not be
/// covered.
pub(in crate::verify) fn check(
    pool: &Arc<Pool>,
    facts: &Facts,
    owners: &mut Owners,
    options: &CheckOptions<'_>,
    keys: &mut KeySource<'_>,
    open: &mut Vec<OpenTree>,
    report: &mut Report,
) -> Uncovered {
    let all = !facts.complete;
    let mut uncovered = Uncovered { families: BTreeSet::new(), all, locked: Vec::new() };
    let heads = facts.clusters.iter().map(|record| Subject {
        owner: Owner::Cluster(record.id, record.name.clone()),
        cluster: record.id,
        header: &record.header,
        family: facts.family_of_head(record.id),
    });
    let snapshots = facts.snapshots.iter().map(|record| Subject {
        owner: Owner::Snapshot(record.id, record.cluster_name.clone()),
        cluster: record.cluster,
        header: &record.header,
        family: facts.family_of(record.segment),
    });
    for subject in heads.chain(snapshots) {
        let walk = Walk { pool, facts, items: options.items, data: options.data, pace: &Unhurried };
        let coverage = walk.subject(&subject, owners, keys, open, report);
        if matches!(coverage.state, TreeState::Locked(_)) {
            uncovered.locked.push((subject.family, subject.owner.clone()));
        }
        if !matches!(coverage.state, TreeState::Walked | TreeState::Empty) {
            match subject.family {
                Some(family) => drop(uncovered.families.insert(family)),
                None => uncovered.all = true,
            }
        }
        report.coverage.trees.push(coverage);
    }
    uncovered
}

/// How trees are walked.
pub(in crate::verify) struct Walk<'a> {
    pub pool: &'a Arc<Pool>,
    pub facts: &'a Facts,
    pub items: &'a ItemRuns<'a>,
    /// Reads what extents point to.
    pub data: bool,
    pub pace: &'a dyn Pace,
}

impl Walk<'_> {
    fn key(&self, subject: &Subject<'_>, keys: &mut KeySource<'_>) -> Option<ClusterKey> {
        let held = &subject.header.keys;
        match &held.plain {
            Some(secret) => {
                let (pool, cluster) = (self.pool.id(), subject.cluster);
                Some(crypto::cluster_key(secret, &held.salt, &pool, &cluster, held.ck_id))
            }
            None => keys(subject.cluster, held),
        }
    }

    fn subject(
        &self,
        subject: &Subject<'_>,
        owners: &mut Owners,
        keys: &mut KeySource<'_>,
        open: &mut Vec<OpenTree>,
        report: &mut Report,
    ) -> TreeCoverage {
        let owner = &subject.owner;
        let coverage = |state| TreeCoverage::without(owner.clone(), state);
        let Some(sealed) = &subject.header.sealed_root else {
            return coverage(TreeState::Empty);
        };
        let Some(key) = self.key(subject, keys) else {
            let ids = subject.header.keys.wraps.iter().map(|wrap| wrap.key_id.clone());
            return coverage(TreeState::Locked(ids.collect()));
        };
        let context = RootContext {
            pool: self.pool.id(),
            cluster: subject.cluster,
            ck_id: subject.header.keys.ck_id,
            generation: subject.header.root_generation,
        };
        match self.pool.open_view(&key, &context, sealed) {
            Ok((view, name_key)) => {
                let header = subject.header;
                let stated = Stated {
                    newest: header.root_generation,
                    blocks: Some(header.referenced_blocks),
                    family: subject.family,
                };
                let coverage = self.tree(owner, &stated, &view, &name_key, owners, report);
                open.push(OpenTree { owner: subject.owner.clone(), view });
                coverage
            }
            Err(error) => {
                let why = error.to_string();
                report.damage(Defect::Root { owner: owner.clone(), why });
                coverage(TreeState::Damaged)
            }
        }
    }

    /// One tree: its nodes, what its items say together, and the data that they point to.
    pub fn tree(
        &self,
        owner: &Owner,
        stated: &Stated,
        view: &View,
        name_key: &NameHashKey,
        owners: &mut Owners,
        report: &mut Report,
    ) -> TreeCoverage {
        let mut reaches = Vec::new();
        let (mut count, mut items) = (0, 0);
        let (nodes, tree) = (self.pool.nodes(), view.tree());
        let mut files = Files::new(name_key);
        let visit: &mut nodes::VisitNode<'_> = &mut |report, pointer, node| {
            count += 1;
            let expected = Expected::Born(pointer.birth);
            reaches.extend(pointer.runs().map(|run| Reach { run, expected }));
            match node {
                Some(leaf) if leaf.level() == 0 => {
                    items += leaf.count() as u64;
                    self.leaf(owner, leaf, &mut reaches, &mut files, report);
                    if self.data && files.is_volume() {
                        data(view, leaf, owners, self.pace, report);
                    }
                }
                Some(_) => {}
                None => files.gap(),
            }
        };
        let complete = nodes::walk(nodes, tree, owner, stated.newest, self.pace, report, visit);
        if !complete {
            files.gap();
        }
        files.end(&mut |inode, why| wrong(owner, inode, why, report));
        let may_hold = |segment, birth| self.facts.may_hold(stated.family, segment, birth);
        let blocks = owners.take_in(owner, reaches, &may_hold, report);
        if let Some(stated) = stated.blocks.filter(|stated| complete && *stated != blocks) {
            let what = owner.to_string();
            report.add(Severity::Waste, Defect::Count { what, stated, counted: blocks });
        }
        let state = match complete {
            _ if self.pace.lets_go() => TreeState::LetGo,
            true => TreeState::Walked,
            false => TreeState::Damaged,
        };
        TreeCoverage { owner: owner.clone(), state, nodes: count, items, blocks }
    }

    fn leaf(
        &self,
        owner: &Owner,
        leaf: &Node,
        reaches: &mut Vec<Reach>,
        files: &mut Files<'_>,
        report: &mut Report,
    ) {
        for i in 0..leaf.count() {
            let key = leaf.key(i);
            let decoded = (self.items)(key, leaf.value(i), &mut |run, birth| {
                reaches.push(Reach { run, expected: Expected::Born(birth) });
            });
            files.take(key, leaf.value(i), &mut |inode, why| wrong(owner, inode, why, report));
            if let Err(error) = decoded {
                report.damage(Defect::Item {
                    owner: owner.clone(),
                    object: key.object,
                    kind: key.kind,
                    offset: key.offset,
                    why: error.to_string(),
                });
            }
        }
    }
}

fn wrong(owner: &Owner, inode: InodeNo, why: String, report: &mut Report) {
    report.damage(Defect::File { owner: owner.clone(), inode, why });
}

/// Reads the data that a leaf's extents point to, and notes the blocks that do not carry their
/// tags. What a tree before this one reached was read for it.
fn data(view: &View, leaf: &Node, owners: &Owners, pace: &dyn Pace, report: &mut Report) {
    for i in (0..leaf.count()).filter(|i| leaf.key(*i).kind == kind::EXTENT) {
        let Ok(extent) = ExtentItem::decode(leaf.value(i)) else { continue };
        let run = Run { addr: extent.addr, blocks: extent.blocks() };
        if owners.unreached_of(run) == 0 {
            continue;
        }
        if !pace.read(run.bytes() as u64) || pace.lets_go() {
            return;
        }
        let mut from = Reader::new(extent.refs);
        let refs: Vec<BlockRef> =
            (0..run.blocks).map_while(|_| BlockRef::decode(&mut from).ok()).collect();
        let mut plain = AlignedBuf::new(run.bytes());
        if refs.len() == run.blocks as usize
            && view.read_blocks(run.addr, &refs, &mut plain).is_ok()
        {
            report.coverage.blocks_authenticated += u64::from(run.blocks);
            continue;
        }
        for ((reference, block), at) in refs.iter().zip(plain.chunks_mut(BLOCK_SIZE)).zip(0..) {
            let addr = run.addr.plus(at);
            match view.read_blocks(addr, std::slice::from_ref(reference), block) {
                Ok(()) => report.coverage.blocks_authenticated += 1,
                Err(_) => drop(report.spots.bad_tags.insert(addr)),
            }
        }
    }
}
