//! The check as a whole, in the order of trust: what opens everything else comes first.

use std::sync::Arc;

use crate::base::cursor::DecodeError;
use crate::base::{ClusterId, Generation, SegmentId};
use crate::block::Run;
use crate::crypto::{ClusterKey, HeaderKeys};
use crate::pool::Pool;
use crate::tree::Key;
use crate::verify::facts::Facts;
use crate::verify::findings::{Defect, Report};
use crate::verify::hits::Hit;
use crate::verify::owners::Owners;
use crate::verify::trees::Uncovered;
use crate::verify::{data, logs, names, regions, segments, superblocks, trees};

/// Hands over the key of a header that has customer keys; `None`: it is not at hand.
pub type KeySource<'a> = dyn FnMut(ClusterId, &HeaderKeys) -> Option<ClusterKey> + 'a;

/// Says which blocks an item of a cluster's tree points to, and when they were born; an item that
/// cannot be decoded is an error.
pub type ItemRuns<'a> =
    dyn Fn(Key, &[u8], &mut dyn FnMut(Run, Generation)) -> Result<(), DecodeError> + 'a;

/// How a pool is checked.
pub struct CheckOptions<'a> {
    /// What the items of cluster trees mean.
    pub items: &'a ItemRuns<'a>,
    /// Reads every allocated block and compares its checksum; and the tag, where its key is at hand.
    pub data: bool,
}

/// Checks an unlocked pool: one that was opened for reading only, or one that serves and in which
/// nothing happens meanwhile. Headers without a customer key are opened by themselves, `keys` is
/// asked for the others.
pub fn check(pool: &Arc<Pool>, options: &CheckOptions<'_>, keys: &mut KeySource<'_>) -> Report {
    let mut report = Report::new(pool.id(), pool.generation());
    let maps_known = superblocks::check(pool, &mut report);
    let mut owners = Owners::new(pool, maps_known);
    regions::check(pool, &mut report);
    let facts = Facts::read(pool, &mut owners, &mut report);
    logs::check(pool, &facts, &mut owners, &mut report);
    let mut open = Vec::new();
    let uncovered = trees::check(pool, &facts, &mut owners, options, keys, &mut open, &mut report);
    segments::check(&facts, &uncovered, &mut owners, &mut report);
    if options.data {
        data::check(pool, maps_known, &mut report);
    }
    open.iter().for_each(|tree| names::resolve(pool, tree, &mut report));
    locked(&facts, &uncovered, &mut report);
    report
}

/// Damage that no open tree reaches may be that of locked ones of the same family.
fn locked(facts: &Facts, uncovered: &Uncovered, report: &mut Report) {
    for finding in &mut report.findings {
        let segment = match &finding.defect {
            Defect::Rot { segment, .. } | Defect::ClaimedTwice { segment, .. } => *segment,
            _ => continue,
        };
        if segment == SegmentId::POOL {
            continue;
        }
        for owner in uncovered.locked(facts.family_of(segment)) {
            finding.hit(Hit { owner: owner.clone(), file: None, locked: true });
        }
    }
}
