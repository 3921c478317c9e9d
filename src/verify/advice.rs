//! What to do about what was found: for each sort of finding one sentence, most urgent first.

use std::collections::BTreeSet;

use crate::base::SnapshotId;
use crate::verify::coverage::TreeState;
use crate::verify::findings::{Defect, Finding, Owner, Report, Severity};

/// Snapshots that one sentence names.
const NAMED_MAX: usize = 3;

impl Report {
    /// What to do next, a sentence each; nothing for a pool in which nothing was found.
    #[must_use]
    pub fn next_steps(&self) -> Vec<String> {
        let mut steps = Vec::new();
        let mut add = |when: bool, step: &str| steps.extend(when.then(|| step.to_owned()));
        add(
            self.rolled_back.is_some(),
            "bring the newest copy of the pool back; where the older one is meant to live on, start \
             `strongroom daemon --accept-rollback` once",
        );
        let any = |of: &dyn Fn(&Defect) -> bool| self.findings.iter().any(|f| of(&f.defect));
        let catalog = |owner: &Owner| matches!(owner, Owner::Catalog);
        let books = self.findings.iter().any(|f| f.severity == Severity::Damage && of_books(f));
        add(
            books,
            "the pool's own books are damaged: copy the pool as it is before any daemon writes to \
             it, and what can be read into a new pool: `strongroom salvage DEST` copies it out, \
             also where the pool does not open",
        );
        let log = any(&|d| matches!(d, Defect::Log { .. }));
        add(
            log,
            "writes that were acknowledged after the last checkpoint are in a damaged log: go on with \
             what comes before the damage by `strongroom cluster accept-log-loss NAME`, or restore a \
             snapshot; what comes behind it may be in a copy of the pool",
        );
        let damaged = self.damaged();
        let root = any(&|d| matches!(d, Defect::Root { .. }))
            || any(&|d| matches!(d, Defect::Node { owner, .. } if !catalog(owner)));
        add(
            root,
            "where a tree node is lost, files that it describes cannot be read: go back to a \
             snapshot that is not hit, or copy the rest: `strongroom salvage DEST` finds what has \
             lost its name, too",
        );
        let files = self.findings.iter().any(of_content);
        add(
            files,
            "bring the files that are named back from a backup or a snapshot that is not hit, or \
             delete them; everything else in their clusters can be read",
        );
        for owner in &damaged {
            let Owner::Cluster(_, name) = owner else { continue };
            let sound = self.sound_snapshots(owner, &damaged);
            if let Some((first, rest)) = sound.split_first() {
                let more = rest.iter().take(NAMED_MAX - 1).map(|id| format!(", {id}"));
                let ids: String = std::iter::once(first.to_string()).chain(more).collect();
                steps.push(format!("snapshots of {name} that are not hit: {ids}"));
            }
        }
        self.lesser_steps(&mut steps);
        steps
    }

    /// What is not urgent.
    fn lesser_steps(&self, steps: &mut Vec<String>) {
        let any = |of: &dyn Fn(&Defect) -> bool| self.findings.iter().any(|f| of(&f.defect));
        let mut add = |when: bool, step: &str| steps.extend(when.then(|| step.to_owned()));
        let superblock = any(&|d| matches!(d, Defect::Superblock { .. }));
        add(superblock, "the next start of the daemon writes bad superblock copies anew");
        let copy = any(&|d| matches!(d, Defect::NodeCopy { .. }));
        add(
            copy,
            "one good copy of each of these nodes serves; `strongroom scrub` writes the bad one anew",
        );
        let waste = self.worst == Some(Severity::Waste);
        add(waste, "nothing is lost; space or counts are not as they should be: please report it");
        let rotten = any(&|d| matches!(d, Defect::Rot { .. } | Defect::Device { .. }));
        add(
            rotten || copy,
            "look at the medium: its own error log (SMART), cables, memory; what rots once rots \
             again",
        );
        let let_go = self.coverage.trees.iter().any(|t| t.state == TreeState::LetGo);
        add(
            let_go,
            "the pool has little room: clusters that were let go of were not read to their end; take a \
             snapshot and scrub that, or make room",
        );
        let locked = self.coverage.trees.iter().any(|t| matches!(t.state, TreeState::Locked(_)));
        add(
            locked && !self.is_clean(),
            "enable the keys of the trees that are not covered and check again, to know which of \
             their files are hit",
        );
    }

    /// Trees that damage hits.
    fn damaged(&self) -> BTreeSet<Owner> {
        let damage = self.findings.iter().filter(|f| f.severity == Severity::Damage);
        damage.flat_map(|f| &f.hits).map(|hit| hit.owner.clone()).collect()
    }

    /// Snapshots of a cluster of that name which were read whole and are not hit, the newest first.
    fn sound_snapshots(&self, cluster: &Owner, damaged: &BTreeSet<Owner>) -> Vec<SnapshotId> {
        let Owner::Cluster(_, name) = cluster else { return Vec::new() };
        let walked = self.coverage.trees.iter().filter(|t| t.state == TreeState::Walked);
        let sound = walked.filter(|t| !damaged.contains(&t.owner));
        sound
            .filter_map(|tree| match &tree.owner {
                Owner::Snapshot(id, of) if of == name => Some(*id),
                _ => None,
            })
            .rev()
            .collect()
    }
}

/// Whether a finding concerns what says which space belongs to whom.
fn of_books(finding: &Finding) -> bool {
    match &finding.defect {
        Defect::Node { owner, .. } | Defect::Item { owner, .. } => *owner == Owner::Catalog,
        Defect::Ring { .. }
        | Defect::Region { .. }
        | Defect::Catalog { .. }
        | Defect::OutOfRange { .. }
        | Defect::ReachedTwice { .. }
        | Defect::NotAllocated { .. }
        | Defect::WrongSegment { .. }
        | Defect::ClaimedTwice { .. }
        | Defect::Count { .. } => true,
        _ => false,
    }
}

/// Whether a finding concerns what stands in files.
fn of_content(finding: &Finding) -> bool {
    match finding.defect {
        Defect::Rot { .. } | Defect::Tag { .. } | Defect::Device { .. } => {
            finding.hits.iter().any(|hit| hit.file.is_some())
        }
        Defect::File { .. } | Defect::Item { .. } => true,
        _ => false,
    }
}
