//! `check`: a pool verified without a daemon; what was found, what it hits, what to do next.

use serde::Serialize;

use crate::base::ProblemCode;
use crate::cli::context::{Context, Outcome};
use crate::cli::inspect;
use crate::control::Problem;
use crate::verify::{
    Coverage, Finding, Hit, LogState, Owner, Report, RolledBack, Severity, TreeState, printable,
};

/// What `check --json` prints.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Checked {
    pool_id: String,
    generation: u64,
    clean: bool,
    complete: bool,
    results: Vec<Found>,
    findings_left_out: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    rolled_back: Option<Back>,
    warnings: Vec<String>,
    next_steps: Vec<String>,
    superblock_copies: u64,
    ring_records: u64,
    regions: u64,
    regions_unreadable: u64,
    blocks_allocated: u64,
    blocks_reached: u64,
    blocks_awaiting_free: u64,
    blocks_uncovered: u64,
    blocks_checked: u64,
    blocks_authenticated: u64,
    trees: Vec<Tree>,
    logs: Vec<Log>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Back {
    generation: u64,
    seen_generation: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Found {
    severity: &'static str,
    kind: &'static str,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    block: Option<u64>,
    hits: Vec<Struck>,
    hits_left_out: u64,
}

/// What a finding hits.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Struck {
    #[serde(flatten)]
    owner: Named,
    /// Its key is not at hand: it may be hit.
    locked: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    inode: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    names: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    length: Option<u64>,
    #[serde(skip)]
    text: String,
}

/// Whose something is.
#[derive(Serialize, Default)]
#[serde(rename_all = "camelCase")]
struct Named {
    owner: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot_id: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Tree {
    #[serde(flatten)]
    owner: Named,
    state: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    encryption_key_ids: Vec<String>,
    nodes: u64,
    items: u64,
    blocks: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Log {
    cluster_id: String,
    state: &'static str,
    records: u64,
    claimed_blocks: u64,
}

pub(in crate::cli) fn check(context: &Context) -> Outcome {
    let inspection = inspect::open(context)?;
    let report = inspection.check();
    let checked = told(&report, inspection.warnings());
    context.out.reply(&checked, check_text);
    let pool = context.places.pool.display();
    if report.worst == Some(Severity::Damage) {
        let count = report.findings.len() as u64 + report.findings_left_out;
        let detail = format!("{pool}: {count} findings, the worst is damage");
        return Err(Problem::new(ProblemCode::Corrupt, detail)
            .with_hint("what to do next stands in the report"));
    }
    match report.rolled_back {
        Some(RolledBack { found, seen }) => {
            let detail = format!(
                "{pool}: at checkpoint {found}, and {seen} was seen before: it was put back"
            );
            Err(Problem::new(ProblemCode::PoolRolledBack, detail).with_hint(
                "bring the newest copy back, or accept it with `strongroom daemon \
                 --accept-rollback`",
            ))
        }
        None => Ok(()),
    }
}

const fn severity_word(severity: Severity) -> &'static str {
    match severity {
        Severity::Waste => "waste",
        Severity::Repairable => "repairable",
        Severity::Damage => "damage",
    }
}

fn named(owner: &Owner) -> Named {
    let mut named = Named { owner: owner.to_string(), ..Named::default() };
    match owner {
        Owner::Cluster(id, name) => {
            named.cluster_id = Some(id.to_string());
            named.cluster_name = Some(name.to_string());
        }
        Owner::Snapshot(id, name) => {
            named.snapshot_id = Some(id.to_string());
            named.cluster_name = Some(name.to_string());
        }
        Owner::Log(id) => named.cluster_id = Some(id.to_string()),
        Owner::Catalog | Owner::Cells => {}
    }
    named
}

fn struck(hit: &Hit) -> Struck {
    let file = hit.file.as_ref();
    let range = file.and_then(|file| file.range);
    Struck {
        owner: named(&hit.owner),
        locked: hit.locked,
        path: file.and_then(|file| file.path.as_deref()).map(printable),
        inode: file.map(|file| file.inode.0),
        names: file.map(|file| file.names),
        offset: range.map(|(offset, _)| offset),
        length: range.map(|(_, length)| length),
        text: hit.to_string(),
    }
}

fn found(finding: &Finding) -> Found {
    Found {
        severity: severity_word(finding.severity),
        kind: finding.defect.kind(),
        detail: finding.defect.to_string(),
        block: finding.defect.block().map(|addr| addr.get()),
        hits: finding.hits.iter().map(struck).collect(),
        hits_left_out: finding.hits_left_out,
    }
}

fn trees(coverage: &Coverage) -> Vec<Tree> {
    let tree = |tree: &crate::verify::TreeCoverage| {
        let (state, ids) = match &tree.state {
            TreeState::Walked => ("walked", Vec::new()),
            TreeState::Empty => ("empty", Vec::new()),
            TreeState::Damaged => ("damaged", Vec::new()),
            TreeState::Locked(ids) => ("locked", ids.iter().map(ToString::to_string).collect()),
        };
        let (nodes, items, blocks) = (tree.nodes, tree.items, tree.blocks);
        let owner = named(&tree.owner);
        Tree { owner, state, encryption_key_ids: ids, nodes, items, blocks }
    };
    coverage.trees.iter().map(tree).collect()
}

fn logs(coverage: &Coverage) -> Vec<Log> {
    let log = |log: &crate::verify::LogCoverage| Log {
        cluster_id: log.cluster.to_string(),
        state: match log.state {
            LogState::Open => "open",
            LogState::Outstanding => "outstanding",
            LogState::Undecided => "undecided",
            LogState::Damaged => "damaged",
        },
        records: log.records,
        claimed_blocks: log.claimed_blocks,
    };
    coverage.logs.iter().map(log).collect()
}

fn told(report: &Report, warnings: &[String]) -> Checked {
    let c = &report.coverage;
    let back = |RolledBack { found, seen }: RolledBack| Back {
        generation: found.get(),
        seen_generation: seen.get(),
    };
    Checked {
        pool_id: report.pool.to_string(),
        generation: report.generation.get(),
        clean: report.is_clean(),
        complete: c.is_complete(),
        results: report.findings.iter().map(found).collect(),
        findings_left_out: report.findings_left_out,
        rolled_back: report.rolled_back.map(back),
        warnings: warnings.to_vec(),
        next_steps: report.next_steps(),
        superblock_copies: c.superblock_copies,
        ring_records: c.ring_records,
        regions: c.regions,
        regions_unreadable: c.regions_unreadable,
        blocks_allocated: c.blocks_allocated,
        blocks_reached: c.blocks_reached,
        blocks_awaiting_free: c.blocks_awaiting_free,
        blocks_uncovered: c.blocks_uncovered,
        blocks_checked: c.blocks_checked,
        blocks_authenticated: c.blocks_authenticated,
        trees: trees(c),
        logs: logs(c),
    }
}

fn check_text(c: &Checked) -> String {
    let mut lines = Vec::new();
    for found in &c.results {
        lines.push(format!("{}: {}", found.severity, found.detail));
        lines.extend(found.hits.iter().map(|hit| format!("    hits {}", hit.text)));
        if found.hits_left_out > 0 {
            lines.push(format!("    and {} more", found.hits_left_out));
        }
    }
    if c.findings_left_out > 0 {
        lines.push(format!("and {} more findings", c.findings_left_out));
    }
    if let Some(back) = &c.rolled_back {
        let (found, seen) = (back.generation, back.seen_generation);
        lines.push(format!("put back: at checkpoint {found}, and {seen} was seen before"));
    }
    for tree in c.trees.iter().filter(|t| t.state == "locked") {
        let ids = tree.encryption_key_ids.join(", ");
        let owner = &tree.owner.owner;
        lines.push(format!("not covered: {owner} (key {ids} is not at hand): checksums only"));
    }
    lines.extend(covered(c));
    if !c.next_steps.is_empty() {
        lines.push("what to do next:".to_owned());
        lines.extend(c.next_steps.iter().map(|step| format!("  - {step}")));
    }
    let complete = if c.complete { "" } else { ", as far as it could be read" };
    let clean = if c.clean { "clean" } else { "not clean" };
    lines.push(format!("{clean}{complete}"));
    lines.join("\n")
}

/// What was read.
fn covered(c: &Checked) -> Vec<String> {
    let walked = c.trees.iter().filter(|t| t.state == "walked" || t.state == "empty").count();
    let unreadable = match c.regions_unreadable {
        0 => String::new(),
        n => format!(" ({n} cannot be read)"),
    };
    vec![
        format!(
            "pool {}, checkpoint {}: {} of 4 superblock copies, {} ring records, {} regions\
             {unreadable}, {walked} of {} trees, {} logs",
            c.pool_id,
            c.generation,
            c.superblock_copies,
            c.ring_records,
            c.regions,
            c.trees.len(),
            c.logs.len()
        ),
        format!(
            "{} blocks allocated: {} reached, {} awaiting their release, {} not covered; {} have \
             their checksum compared, {} their tag",
            c.blocks_allocated,
            c.blocks_reached,
            c.blocks_awaiting_free,
            c.blocks_uncovered,
            c.blocks_checked,
            c.blocks_authenticated
        ),
    ]
}
