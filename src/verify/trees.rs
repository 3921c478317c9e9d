//! The trees of clusters and snapshots.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::base::{ClusterId, LineId};
use crate::catalog::Header;
use crate::crypto::{self, ClusterKey};
use crate::pool::Pool;
use crate::pool::root::RootContext;
use crate::tree::Node;
use crate::verify::coverage::{TreeCoverage, TreeState};
use crate::verify::facts::Facts;
use crate::verify::findings::{Defect, Owner, Report};
use crate::verify::nodes;
use crate::verify::owners::{Expected, Owners, Reach};
use crate::verify::structure::{CheckOptions, ItemRuns, KeySource};

/// Families of lines that no tree was left out of.
pub(in crate::verify) struct Uncovered {
    families: BTreeSet<LineId>,
    /// Trees may be missing altogether: the catalog could not be read whole.
    all: bool,
}

impl Uncovered {
    /// Whether a tree that was not walked may reach blocks of this family.
    pub fn contains(&self, family: Option<LineId>) -> bool {
        self.all || family.is_none_or(|family| self.families.contains(&family))
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

/// Walks every tree whose key is at hand. Which families could not be covered.
pub(in crate::verify) fn check(
    pool: &Arc<Pool>,
    facts: &Facts,
    owners: &mut Owners,
    options: &CheckOptions<'_>,
    keys: &mut KeySource<'_>,
    report: &mut Report,
) -> Uncovered {
    let mut uncovered = Uncovered { families: BTreeSet::new(), all: !facts.complete };
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
        let walk = Walk { pool, facts, items: options.items };
        let coverage = walk.subject(&subject, owners, keys, report);
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

struct Walk<'a> {
    pool: &'a Arc<Pool>,
    facts: &'a Facts,
    items: &'a ItemRuns<'a>,
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
        report: &mut Report,
    ) -> TreeCoverage {
        let owner = subject.owner.clone();
        let coverage = |state| TreeCoverage { owner, state, nodes: 0, items: 0, blocks: 0 };
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
            Ok((view, _)) => self.tree(subject, view.tree(), owners, report),
            Err(error) => {
                let owner = subject.owner.clone();
                report.damage(Defect::Root { owner, why: error.to_string() });
                coverage(TreeState::Damaged)
            }
        }
    }

    fn tree(
        &self,
        subject: &Subject<'_>,
        tree: &crate::tree::Tree,
        owners: &mut Owners,
        report: &mut Report,
    ) -> TreeCoverage {
        let owner = &subject.owner;
        let mut reaches = Vec::new();
        let (mut count, mut items) = (0, 0);
        let newest = subject.header.root_generation;
        let nodes = self.pool.nodes();
        let complete =
            nodes::walk(nodes, tree, owner, newest, report, &mut |report, pointer, node| {
                count += 1;
                let expected = Expected::Born(pointer.birth);
                reaches.extend(pointer.runs().map(|run| Reach { run, expected }));
                if let Some(leaf) = node.filter(|node| node.level() == 0) {
                    items += leaf.count() as u64;
                    self.leaf(owner, leaf, &mut reaches, report);
                }
            });
        let may_hold = |segment, birth| self.facts.may_hold(subject.family, segment, birth);
        let blocks = owners.take_in(owner, reaches, &may_hold, report);
        let stated = subject.header.referenced_blocks;
        if complete && stated != blocks {
            report.add(
                crate::verify::Severity::Waste,
                Defect::Count { what: owner.to_string(), stated, counted: blocks },
            );
        }
        let state = if complete { TreeState::Walked } else { TreeState::Damaged };
        TreeCoverage { owner: owner.clone(), state, nodes: count, items, blocks }
    }

    fn leaf(&self, owner: &Owner, leaf: &Node, reaches: &mut Vec<Reach>, report: &mut Report) {
        for i in 0..leaf.count() {
            let key = leaf.key(i);
            let decoded = (self.items)(key, leaf.value(i), &mut |run, birth| {
                reaches.push(Reach { run, expected: Expected::Born(birth) });
            });
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
