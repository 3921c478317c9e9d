//! `debug`: a pool looked at without a daemon.

use std::path::Path;

use serde_json::Value;

use crate::base::ProblemCode;
use crate::base::units::put_back;
use crate::cli::args::DebugCommand;
use crate::cli::context::{Context, Outcome};
use crate::cli::offline::{config_dir, problem};
use crate::cli::passphrase;
use crate::cli::words::Target;
use crate::control::Problem;
use crate::keys::ConfigDir;
use crate::service::inspect::{Inspection, Look};
use crate::service::{AskPassphrase, ServiceError};
use crate::verify::RolledBack;

/// Opens the pool for looking.
pub(in crate::cli) fn open(context: &Context) -> Result<Inspection, Problem> {
    opened(context, Inspection::open)
}

/// Opens the pool by `open`, without a daemon.
pub(in crate::cli) fn opened<T>(
    context: &Context,
    open: impl Fn(&ConfigDir, &Path, AskPassphrase<'_>) -> Result<T, ServiceError>,
) -> Result<T, Problem> {
    let file = context.globals.passphrase_file.clone();
    let mut refused = None;
    let mut ask = || {
        let asked = passphrase::existing(file.as_deref());
        asked.map_err(|problem| refused = Some(problem)).ok()
    };
    open(&config_dir()?, &context.places.pool, &mut ask).map_err(|error| {
        let busy = error.code == ProblemCode::PoolBusy;
        let told = refused.unwrap_or_else(|| problem(error));
        if busy {
            told.with_hint("strongroom shutdown ends the daemon that serves it")
        } else {
            told
        }
    })
}

/// Says what should be known before what is shown is believed.
fn warn(context: &Context, opened: &Inspection) {
    opened.warnings().iter().for_each(|warning| context.out.warn(warning));
    if let Some(RolledBack { found, seen }) = opened.rolled_back() {
        let stands = put_back(found.get(), seen.get());
        let text = format!("the pool was put back: it stands at checkpoint {stands}");
        context.out.warn(&text);
    }
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
    let opened = open(context)?;
    warn(context, &opened);
    let shown = opened.look(&look).map_err(problem)?;
    // Lists stand in results, as everywhere.
    let document = match shown {
        Value::Array(results) => serde_json::json!({ "results": results }),
        one => one,
    };
    context.out.reply(&document, |value| outline(value, 0))
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
