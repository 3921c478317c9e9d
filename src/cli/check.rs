//! `check` and `scrub`: a pool verified without a daemon, and one that serves; what was found, what
//! it hits, what was covered, what to do next.

use crate::base::ProblemCode;
use crate::base::units::put_back;
use crate::cli::context::{Context, Outcome};
use crate::cli::inspect;
use crate::cli::output::next_steps;
use crate::cli::words::Target;
use crate::control::Problem;
use crate::control::types::{Checked, ScrubRequest};
use crate::daemon::told_check;

pub(in crate::cli) fn check(context: &Context) -> Outcome {
    let inspection = inspect::open(context)?;
    let checked = told_check::checked(&inspection.check(), inspection.warnings());
    context.out.reply(&checked, text)?;
    end(context, &checked)
}

pub(in crate::cli) fn scrub(
    context: &Context,
    what: Option<&Target>,
    rate_bytes: Option<u64>,
) -> Outcome {
    let what = match what {
        Some(Target::Path(path)) => {
            let detail = format!("{} is no cluster and no snapshot", path.display());
            return Err(Problem::new(ProblemCode::Usage, detail));
        }
        Some(Target::Cluster(name)) => Some(name.to_string()),
        Some(Target::Snapshot(id)) => Some(id.to_string()),
        None => None,
    };
    let request = ScrubRequest { what, rate_bytes };
    let checked: Checked = context.post("/v1/scrub", &request)?;
    context.out.reply(&checked, text)?;
    end(context, &checked)
}

/// The exit status of what was found (docs/decisions/040).
fn end(context: &Context, checked: &Checked) -> Outcome {
    let pool = context.places.pool.display();
    if checked.worst.as_deref() == Some("damage") {
        let count = checked.results.len() as u64 + checked.findings_left_out;
        let findings = if count == 1 { "finding" } else { "findings" };
        let detail = format!("{pool}: {count} {findings}, the worst is damage");
        return Err(Problem::new(ProblemCode::Corrupt, detail)
            .with_hint("what to do next stands in the report"));
    }
    let Some(back) = &checked.rolled_back else { return Ok(()) };
    let stands = put_back(back.generation, back.seen_generation);
    let detail = format!("{pool}: at checkpoint {stands}: it was put back");
    Err(Problem::new(ProblemCode::PoolRolledBack, detail).with_hint(
        "bring the newest copy back, or accept it with `strongroom daemon --accept-rollback`",
    ))
}

fn text(c: &Checked) -> String {
    let mut lines: Vec<String> = Vec::new();
    lines.extend(c.warnings.iter().map(|warning| format!("warning: {warning}")));
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
        let stands = put_back(back.generation, back.seen_generation);
        lines.push(format!("put back: at checkpoint {stands}"));
    }
    for tree in c.trees.iter().filter(|t| t.state == "locked") {
        let ids = tree.encryption_key_ids.join(", ");
        let owner = &tree.owner.owner;
        lines.push(format!("not covered: {owner} (key {ids} is not at hand): checksums only"));
    }
    for tree in c.trees.iter().filter(|t| t.state == "letGo") {
        lines.push(format!("not covered: {} (let go of before its end)", tree.owner.owner));
    }
    lines.extend(covered(c));
    lines.extend(next_steps(&c.next_steps));
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
    // A scrub compares no books.
    let reached = match (c.blocks_reached, c.blocks_awaiting_free, c.blocks_uncovered) {
        (Some(reached), Some(awaiting), Some(uncovered)) => format!(
            ": {reached} reached, {awaiting} awaiting their release, {uncovered} not covered"
        ),
        _ => String::new(),
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
            "{} blocks allocated{reached}; {} have their checksum compared, {} their tag",
            c.blocks_allocated, c.blocks_checked, c.blocks_authenticated
        ),
    ]
}
