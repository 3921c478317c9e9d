//! `salvage`: what is readable is copied out of a pool, also where it no longer opens.

use crate::base::ProblemCode;
use crate::base::size::format_size;
use crate::cli::args::Salvage as Request;
use crate::cli::context::{Context, Outcome};
use crate::cli::inspect::opened;
use crate::control::Problem;
use crate::service::salvage::{Asked, Salvage};
use crate::verify::salvage::{Copied, Fate, Loss, Report};

/// Losses that are printed; all of them stand in the report.
const LINES_MAX: usize = 50;

pub(in crate::cli) fn salvage(context: &Context, request: Request) -> Outcome {
    let Request { dest, clusters, snapshots, list: _ } = request;
    let salvage = opened(context, Salvage::open)?;
    let asked = Asked { clusters, snapshots };
    let report = salvage.copy(&asked, dest.as_deref()).map_err(crate::cli::offline::problem)?;
    let listed_only = dest.is_none();
    context.out.reply(&report, |report| text(report, listed_only))?;
    for refused in report.refused().filter_map(|tree| tree.why.as_deref()) {
        context.out.warn(refused);
    }
    end(context, &report, listed_only)
}

/// The exit status of what came of it.
fn end(context: &Context, report: &Report, listed_only: bool) -> Outcome {
    let pool = context.places.pool.display();
    let problem = |code, what: &str, hint: &str| {
        Err(Problem::new(code, format!("{pool}: {what}")).with_hint(hint))
    };
    if report.has_unwritten() {
        let what = "not everything that can be read could be written";
        let hint = "make room or choose another place, and copy again to an empty directory";
        return problem(ProblemCode::Io, what, hint);
    }
    if report.has_lost() {
        let what = "not everything could be read";
        let hint = match (listed_only, any(report, Fate::Readable)) {
            (true, true) => "what is above can be copied all the same: strongroom salvage DEST",
            (false, _) if any(report, Fate::Copied) => "what is missing stands in the report",
            _ => "bring the pool back from a copy of it: nothing of this one can be copied",
        };
        return problem(ProblemCode::Corrupt, what, hint);
    }
    match report.refused().count() {
        0 => Ok(()),
        1 => problem(ProblemCode::KeyNotUsable, "a key is not usable", "see the line above"),
        n => {
            let what = format!("the keys of {n} trees are not usable");
            problem(ProblemCode::KeyNotUsable, &what, "see the lines above")
        }
    }
}

/// Whether any tree came to this.
fn any(report: &Report, fate: Fate) -> bool {
    report.results.iter().any(|tree| tree.state == fate)
}

fn text(report: &Report, listed_only: bool) -> String {
    let mut lines: Vec<String> = report.notes.iter().map(|note| format!("note: {note}")).collect();
    lines.extend(report.results.iter().map(tree));
    let whole = if listed_only { "--json" } else { "salvage-report.json" };
    lines.extend(losses("lost", &report.lost, report.lost_left_out, whole));
    let (all, left_out) = (&report.not_written, report.not_written_left_out);
    lines.extend(losses("not written", all, left_out, whole));
    for kept in &report.not_kept {
        lines.push(format!("not kept: {} ({} times, first {})", kept.what, kept.files, kept.first));
    }
    if lines.is_empty() {
        lines.push("there is nothing in the pool".to_owned());
    } else if listed_only && !any(report, Fate::Readable) {
        lines.push("no tree can be copied".to_owned());
    } else if !listed_only && !any(report, Fate::Copied) {
        lines.push("no tree was copied".to_owned());
    }
    lines.join("\n")
}

fn losses(word: &str, all: &[Loss], left_out: u64, whole: &str) -> Vec<String> {
    let shown = all.iter().take(LINES_MAX).map(|loss| format!("{word}: {}", loss.line()));
    let rest = all.len().saturating_sub(LINES_MAX) as u64 + left_out;
    let more = (rest > 0).then(|| format!("{word}: {rest} more, see {whole}"));
    shown.chain(more).collect()
}

fn tree(tree: &Copied) -> String {
    let as_of = match (tree.checkpoint, tree.log_records) {
        (Some(checkpoint), 0) => format!(", as of checkpoint {checkpoint}"),
        (Some(checkpoint), n) => {
            format!(", as of checkpoint {checkpoint} and {n} records of its log")
        }
        (None, _) => String::new(),
    };
    let owner = &tree.owner;
    match tree.state {
        Fate::Readable => format!("{owner}: can be copied{as_of}"),
        Fate::Empty => format!("{owner}: holds nothing"),
        Fate::Refused => format!("{owner}: refused"),
        Fate::Unasked => {
            let of = if tree.cluster_deleted { ", a cluster that was deleted" } else { "" };
            format!("{owner}{of}: not asked for")
        }
        Fate::Unreadable => {
            format!("{owner}: cannot be read: {}", tree.why.as_deref().unwrap_or("unknown"))
        }
        Fate::Copied => {
            let to = tree.directory.as_deref().unwrap_or("nowhere");
            let others = tree.symlinks + tree.special_files;
            let found = match &tree.lost_and_found {
                Some(place) => format!("; {} things without a name are in {place}", tree.found),
                None => String::new(),
            };
            format!(
                "{owner}: {} files ({}), {} directories, {others} links and special files copied \
                 to {to}{as_of}{found}",
                tree.files,
                format_size(tree.bytes),
                tree.directories
            )
        }
    }
}
