//! `check` and `debug`: a pool looked at without a daemon.

use serde::Serialize;
use serde_json::Value;

use crate::base::ProblemCode;
use crate::cli::args::DebugCommand;
use crate::cli::context::{Context, Outcome};
use crate::cli::offline::{config_dir, problem};
use crate::cli::passphrase;
use crate::cli::words::Target;
use crate::control::Problem;
use crate::service::inspect::{Inspection, Look};
use crate::verify::{Report, Severity};

fn open(context: &Context) -> Result<Inspection, Problem> {
    let file = context.globals.passphrase_file.clone();
    let mut refused = None;
    let mut ask = || {
        let asked = passphrase::existing(file.as_deref());
        asked.map_err(|problem| refused = Some(problem)).ok()
    };
    let opened = Inspection::open(&config_dir()?, &context.places.pool, &mut ask);
    opened.map_err(|error| {
        let busy = error.code == ProblemCode::PoolBusy;
        let told = refused.unwrap_or_else(|| problem(error));
        if busy {
            told.with_hint("strongroom shutdown ends the daemon that serves it")
        } else {
            told
        }
    })
}

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
    superblock_copies: u64,
    regions: u64,
    regions_unreadable: u64,
    blocks_allocated: u64,
    blocks_reached: u64,
    blocks_awaiting_free: u64,
    blocks_uncovered: u64,
    blocks_checked: u64,
    trees: Vec<Tree>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Found {
    severity: String,
    detail: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Tree {
    owner: String,
    state: String,
    blocks: u64,
}

pub(in crate::cli) fn check(context: &Context) -> Outcome {
    let report = open(context)?.check();
    let checked = told(&report);
    context.out.reply(&checked, check_text);
    match report.worst {
        Some(Severity::Damage) => {
            let count = report.findings.len() as u64 + report.findings_left_out;
            let pool = context.places.pool.display();
            let detail = format!("{pool}: {count} findings, the worst is damage");
            Err(Problem::new(ProblemCode::Corrupt, detail)
                .with_hint("copy what can still be read before anything is written to the pool"))
        }
        _ => Ok(()),
    }
}

fn told(report: &Report) -> Checked {
    let c = &report.coverage;
    let word =
        |debug: String| debug.split(['(', ' ']).next().unwrap_or_default().to_ascii_lowercase();
    Checked {
        pool_id: report.pool.to_string(),
        generation: report.generation.get(),
        clean: report.is_clean(),
        complete: c.is_complete(),
        results: report
            .findings
            .iter()
            .map(|f| Found {
                severity: word(format!("{:?}", f.severity)),
                detail: f.defect.to_string(),
            })
            .collect(),
        findings_left_out: report.findings_left_out,
        superblock_copies: c.superblock_copies,
        regions: c.regions,
        regions_unreadable: c.regions_unreadable,
        blocks_allocated: c.blocks_allocated,
        blocks_reached: c.blocks_reached,
        blocks_awaiting_free: c.blocks_awaiting_free,
        blocks_uncovered: c.blocks_uncovered,
        blocks_checked: c.blocks_checked,
        trees: c
            .trees
            .iter()
            .map(|t| Tree {
                owner: t.owner.to_string(),
                state: word(format!("{:?}", t.state)),
                blocks: t.blocks,
            })
            .collect(),
    }
}

fn check_text(c: &Checked) -> String {
    let mut lines: Vec<String> =
        c.results.iter().map(|f| format!("{}: {}", f.severity, f.detail)).collect();
    if c.findings_left_out > 0 {
        lines.push(format!("and {} more", c.findings_left_out));
    }
    for tree in c.trees.iter().filter(|t| t.state == "locked") {
        lines.push(format!("not covered: {} (its key is not at hand)", tree.owner));
    }
    lines.push(format!(
        "pool {}, checkpoint {}: {} of 4 superblock copies, {} regions, {} blocks allocated, {} \
         reached, {} checked, {} awaiting their release, {} not covered",
        c.pool_id,
        c.generation,
        c.superblock_copies,
        c.regions,
        c.blocks_allocated,
        c.blocks_reached,
        c.blocks_checked,
        c.blocks_awaiting_free,
        c.blocks_uncovered
    ));
    lines.push(if c.clean { "clean".to_owned() } else { "not clean".to_owned() });
    lines.join("\n")
}

pub(in crate::cli) fn debug(context: &Context, command: &DebugCommand) -> Outcome {
    let look = match command {
        DebugCommand::Superblock => Look::Superblocks,
        DebugCommand::Header { what: Target::Cluster(name) } => Look::ClusterHeader(name),
        DebugCommand::Header { what: Target::Snapshot(id) } => Look::SnapshotHeader(id),
        DebugCommand::Header { what: Target::Path(path) } => {
            let detail = format!("{} is no cluster and no snapshot", path.display());
            return Err(Problem::new(ProblemCode::Usage, detail));
        }
        DebugCommand::Node { addr: None } => Look::Nodes,
        DebugCommand::Node { addr: Some(addr) } => Look::Node(*addr),
        DebugCommand::Log { name } => Look::Logs(name.as_ref()),
        DebugCommand::Region { index: None } => Look::Regions,
        DebugCommand::Region { index: Some(index) } => Look::Region(*index),
    };
    let shown = open(context)?.look(&look).map_err(problem)?;
    // Lists stand in results, as everywhere.
    let document = match shown {
        Value::Array(results) => serde_json::json!({ "results": results }),
        one => one,
    };
    context.out.reply(&document, |value| outline(value, 0));
    Ok(())
}

/// A document as indented lines: names and values, items of lists parted by an empty line.
fn outline(value: &Value, depth: usize) -> String {
    let pad = "  ".repeat(depth);
    match value {
        Value::Object(fields) => {
            let one = |(name, value): (&String, &Value)| match value {
                Value::Object(_) => format!("{pad}{name}:\n{}", outline(value, depth + 1)),
                Value::Array(items) if items.iter().any(|i| i.is_object() || i.is_array()) => {
                    format!("{pad}{name}:\n{}", outline(value, depth + 1))
                }
                plain => format!("{pad}{name}: {}", plain_text(plain)),
            };
            fields.iter().map(one).collect::<Vec<_>>().join("\n")
        }
        Value::Array(items) => {
            items.iter().map(|i| outline(i, depth)).collect::<Vec<_>>().join("\n\n")
        }
        plain => format!("{pad}{}", plain_text(plain)),
    }
}

fn plain_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_outlined() {
        let value = serde_json::json!({"a": 1, "b": {"c": "x"}, "d": [{"e": null}, {"e": 2}]});
        assert_eq!(outline(&value, 0), "a: 1\nb:\n  c: x\nd:\n  e: -\n\n  e: 2");
    }
}
