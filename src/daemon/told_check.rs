//! What a check or a scrub found, as it stands on the wire.

use crate::control::types::{
    CheckFinding, CheckHit, CheckOwner, Checked, CheckedLog, CheckedTree, RolledBack,
};
use crate::service::types::check::{
    Coverage, Finding, Hit, LogCoverage, LogState, Owner, Report, Severity, TreeCoverage,
    TreeState, printable,
};

const fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Waste => "waste",
        Severity::Repairable => "repairable",
        Severity::Damage => "damage",
    }
}

fn owner(owner: &Owner) -> CheckOwner {
    let mut told = CheckOwner { owner: owner.to_string(), ..CheckOwner::default() };
    match owner {
        Owner::Cluster(id, name) => {
            told.cluster_id = Some(id.to_string());
            told.cluster_name = Some(name.to_string());
        }
        Owner::Snapshot(id, name) => {
            told.snapshot_id = Some(id.to_string());
            told.cluster_name = Some(name.to_string());
        }
        Owner::Log(id) => told.cluster_id = Some(id.to_string()),
        Owner::Catalog | Owner::Cells => {}
    }
    told
}

fn hit(hit: &Hit) -> CheckHit {
    let file = hit.file.as_ref();
    let range = file.and_then(|file| file.range);
    CheckHit {
        owner: owner(&hit.owner),
        locked: hit.locked,
        path: file.and_then(|file| file.path.as_deref()).map(printable),
        inode: file.map(|file| file.inode.0),
        names: file.map(|file| file.names),
        offset: range.map(|(offset, _)| offset),
        length: range.map(|(_, length)| length),
        text: hit.to_string(),
    }
}

fn finding(finding: &Finding) -> CheckFinding {
    CheckFinding {
        severity: word(finding.severity).to_owned(),
        kind: finding.defect.kind().to_owned(),
        detail: finding.defect.to_string(),
        block: finding.defect.block().map(|addr| addr.get()),
        hits: finding.hits.iter().map(hit).collect(),
        hits_left_out: finding.hits_left_out,
    }
}

fn tree(tree: &TreeCoverage) -> CheckedTree {
    let (state, ids) = match &tree.state {
        TreeState::Walked => ("walked", Vec::new()),
        TreeState::Empty => ("empty", Vec::new()),
        TreeState::Damaged => ("damaged", Vec::new()),
        TreeState::LetGo => ("letGo", Vec::new()),
        TreeState::Locked(ids) => ("locked", ids.iter().map(ToString::to_string).collect()),
    };
    CheckedTree {
        owner: owner(&tree.owner),
        state: state.to_owned(),
        encryption_key_ids: ids,
        nodes: tree.nodes,
        items: tree.items,
        blocks: tree.blocks,
    }
}

fn log(log: &LogCoverage) -> CheckedLog {
    let state = match log.state {
        LogState::Open => "open",
        LogState::Outstanding => "outstanding",
        LogState::Undecided => "undecided",
        LogState::Damaged => "damaged",
    };
    CheckedLog {
        cluster_id: log.cluster.to_string(),
        state: state.to_owned(),
        records: log.records,
        claimed_blocks: log.claimed_blocks,
    }
}

/// A report on the wire; `warnings` should be known before it is believed.
#[must_use]
pub fn checked(report: &Report, warnings: &[String]) -> Checked {
    let Coverage { trees, logs, .. } = &report.coverage;
    let c = &report.coverage;
    let accounted = |blocks| c.accounted.then_some(blocks);
    Checked {
        pool_id: report.pool.to_string(),
        generation: report.generation.get(),
        clean: report.is_clean(),
        complete: c.is_complete(),
        worst: report.worst.map(|worst| word(worst).to_owned()),
        results: report.findings.iter().map(finding).collect(),
        findings_left_out: report.findings_left_out,
        rolled_back: report.rolled_back.map(|back| RolledBack {
            generation: back.found.get(),
            seen_generation: back.seen.get(),
        }),
        warnings: warnings.to_vec(),
        next_steps: report.next_steps(),
        superblock_copies: c.superblock_copies,
        ring_records: c.ring_records,
        regions: c.regions,
        regions_unreadable: c.regions_unreadable,
        blocks_allocated: c.blocks_allocated,
        blocks_reached: accounted(c.blocks_reached),
        blocks_awaiting_free: accounted(c.blocks_awaiting_free),
        blocks_uncovered: accounted(c.blocks_uncovered),
        blocks_checked: c.blocks_checked,
        blocks_authenticated: c.blocks_authenticated,
        trees: trees.iter().map(tree).collect(),
        logs: logs.iter().map(log).collect(),
    }
}
