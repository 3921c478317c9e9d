//! What was copied out of a damaged pool, and what was not. However much is lost, what is kept of it
//! in memory has a bound: the rest is counted.

use std::io::{BufWriter, Write};

use serde::Serialize;

use crate::base::InodeNo;
use crate::sys::new_tree::NewDirectory;
use crate::verify::hits::printable;

/// Losses and the like that are listed; those beyond are counted.
const LISTED_MAX: usize = 100_000;
/// The same, in bytes of text.
const LISTED_BYTES_MAX: usize = 32 << 20;
/// Bytes of a path that are told; of a longer one its two ends are.
const PATH_BYTES_MAX: usize = 4096;
/// The report's own name in the destination.
const REPORT_NAME: &str = "salvage-report.json";

/// What was copied out of a pool, and what was not.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The pool.
    pub pool_id: String,
    /// The states that a superblock leads to, the newest first.
    pub states: Vec<State>,
    /// What somebody should know before trusting the copy, a line each.
    pub notes: Vec<String>,
    /// The trees: of clusters, and of snapshots.
    pub results: Vec<Copied>,
    /// What could not be read, and so is not in the copy.
    pub lost: Vec<Loss>,
    /// Losses beyond those listed.
    pub lost_left_out: u64,
    /// What was read and could not be written.
    pub not_written: Vec<Loss>,
    /// Those beyond the ones listed.
    pub not_written_left_out: u64,
    /// Attributes that the system did not take, by sort.
    pub not_kept: Vec<NotKept>,
    #[serde(skip)]
    lost_bytes: usize,
    #[serde(skip)]
    not_written_bytes: usize,
}

/// A state of the pool that a superblock leads to.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// The checkpoint.
    pub checkpoint: u64,
    /// Whether all of its catalog could be read.
    pub catalog_whole: bool,
}

/// What became of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Fate {
    /// All that could be read was copied.
    Copied,
    /// It can be copied: nothing was, as it was only asked what there is.
    Readable,
    /// Nothing was ever written to it.
    Empty,
    /// Its key is not usable.
    Refused,
    /// It cannot be opened.
    Unreadable,
    /// A snapshot that nobody asked for.
    Unasked,
}

/// One tree, and what was copied of it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)] // counts
pub struct Copied {
    /// For people: `cluster db`.
    pub owner: String,
    pub cluster_name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot_id: Option<String>,
    /// Of a snapshot that nobody asked for.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cluster_deleted: bool,
    pub state: Fate,
    /// Why it was refused or cannot be opened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Where it stands below the destination.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// What nothing leads to any more, where there is such.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost_and_found: Option<String>,
    /// The checkpoint whose state it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<u64>,
    /// Records of acknowledged writes after it that were added.
    pub log_records: u64,
    pub files: u64,
    pub directories: u64,
    pub symlinks: u64,
    pub special_files: u64,
    /// Further names of files.
    pub links: u64,
    pub bytes: u64,
    /// Entries of lost and found.
    pub found: u64,
}

/// Something that is not in the copy.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Loss {
    /// Whose tree.
    pub owner: String,
    /// The path in it, with what no terminal should get escaped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The inode.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inode: Option<u64>,
    /// Where in the file's content, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// How many bytes; absent where nobody knows how long the file was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
    /// What, in a few words.
    pub what: String,
}

/// Attributes of one sort that the system did not take.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NotKept {
    /// Which.
    pub what: String,
    /// How many files lack them.
    pub files: u64,
    /// The first of them.
    pub first: String,
}

/// What of a file.
pub(super) struct Of<'a> {
    pub owner: &'a str,
    pub path: Option<&'a [u8]>,
    pub inode: Option<InodeNo>,
}

impl Of<'_> {
    fn loss(&self, what: String, range: Option<(u64, Option<u64>)>) -> Loss {
        Loss {
            owner: self.owner.to_owned(),
            path: self.path.map(shown),
            inode: self.inode.map(|ino| ino.0),
            offset: range.map(|(offset, _)| offset),
            length: range.and_then(|(_, length)| length),
            what,
        }
    }
}

/// A path for people.
fn shown(path: &[u8]) -> String {
    if path.len() <= PATH_BYTES_MAX {
        return printable(path);
    }
    let (first, rest) = path.split_at(PATH_BYTES_MAX / 2);
    let (left_out, last) = rest.split_at(rest.len() - PATH_BYTES_MAX / 2);
    format!("{}[{} bytes more]{}", printable(first), left_out.len(), printable(last))
}

/// Whether a loss may be added to a list whose text has so many bytes.
fn has_room(listed: &[Loss], bytes: &mut usize, loss: &Loss) -> bool {
    let path_bytes = loss.path.as_ref().map_or(0, String::len);
    let more = size_of::<Loss>() + loss.owner.len() + path_bytes + loss.what.len();
    let fits = listed.len() < LISTED_MAX && *bytes + more <= LISTED_BYTES_MAX;
    *bytes += if fits { more } else { 0 };
    fits
}

impl Report {
    /// Something could not be read.
    pub(super) fn lose(&mut self, of: &Of<'_>, what: impl Into<String>) {
        self.lose_range(of, what, None);
    }

    /// A part of a file's content could not be read: from an offset on, so many bytes.
    pub(super) fn lose_range(
        &mut self,
        of: &Of<'_>,
        what: impl Into<String>,
        range: Option<(u64, Option<u64>)>,
    ) {
        let loss = of.loss(what.into(), range);
        if has_room(&self.lost, &mut self.lost_bytes, &loss) {
            self.lost.push(loss);
        } else {
            self.lost_left_out += 1;
        }
    }

    /// Something could be read, and not written.
    pub(super) fn cannot_write(&mut self, of: &Of<'_>, why: impl Into<String>) {
        let loss = of.loss(why.into(), None);
        if has_room(&self.not_written, &mut self.not_written_bytes, &loss) {
            self.not_written.push(loss);
        } else {
            self.not_written_left_out += 1;
        }
    }

    /// The system did not take an attribute of a file.
    pub(super) fn not_kept(&mut self, what: &str, of: &Of<'_>) {
        match self.not_kept.iter_mut().find(|kept| kept.what == what) {
            Some(kept) => kept.files += 1,
            None => {
                let path = of.path.map(shown).unwrap_or_default();
                let first = format!("{}: {path}", of.owner);
                self.not_kept.push(NotKept { what: what.to_owned(), files: 1, first });
            }
        }
    }

    /// Writes the report beside what was copied, and makes all of it durable.
    pub fn store(&mut self, destination: &NewDirectory) {
        let written = destination.create(REPORT_NAME.as_bytes()).and_then(|file| {
            let mut out = BufWriter::new(file);
            serde_json::to_writer_pretty(&mut out, self)?;
            out.write_all(b"\n")?;
            out.flush()
        });
        if let Err(error) = written {
            self.cannot_write(
                &Of { owner: REPORT_NAME, path: None, inode: None },
                error.to_string(),
            );
        }
        if let Err(error) = destination.sync() {
            let of = Of { owner: "the copy", path: None, inode: None };
            self.cannot_write(&of, format!("it is not known to be on the disk: {error}"));
        }
    }

    /// Something of the pool as a whole is lost.
    pub fn lose_of_pool(&mut self, what: String) {
        self.lose(&Of { owner: "the pool", path: None, inode: None }, what);
    }

    /// Whether something could not be read.
    #[must_use]
    pub fn has_lost(&self) -> bool {
        let unreadable = self.results.iter().any(|tree| tree.state == Fate::Unreadable);
        let catalog = self.states.first().is_none_or(|newest| !newest.catalog_whole);
        unreadable || catalog || !self.lost.is_empty() || self.lost_left_out > 0
    }

    /// Whether something could be read and not written.
    #[must_use]
    pub const fn has_unwritten(&self) -> bool {
        !self.not_written.is_empty() || self.not_written_left_out > 0
    }

    /// The trees whose keys are not usable.
    pub fn refused(&self) -> impl Iterator<Item = &Copied> {
        self.results.iter().filter(|tree| tree.state == Fate::Refused)
    }
}

impl Loss {
    /// A line for people.
    #[must_use]
    pub fn line(&self) -> String {
        let mut line = self.owner.clone();
        match (&self.path, self.inode) {
            (Some(path), _) => line.push_str(&format!(": {path}")),
            (None, Some(inode)) => line.push_str(&format!(": inode {inode}")),
            (None, None) => {}
        }
        match (self.offset, self.length) {
            (Some(offset), Some(length)) => {
                line.push_str(&format!(" (offset {offset}, {length} bytes)"));
            }
            (Some(offset), None) => line.push_str(&format!(" (from offset {offset} on)")),
            (None, _) => {}
        }
        format!("{line}: {}", self.what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_much_is_lost_the_report_has_a_bound_and_counts_all() {
        let mut report = Report::default();
        let long = [b"/start".to_vec(), vec![b'x'; 16 << 10], b"/end".to_vec()].concat();
        let of = Of { owner: "cluster db", path: Some(&long), inode: Some(InodeNo(7)) };
        let all: u64 = 20_000;
        for _ in 0..all {
            report.lose(&of, "content");
            report.cannot_write(&of, "no room");
        }
        for list in [&report.lost, &report.not_written] {
            let bytes: usize = list.iter().map(|loss| loss.line().len()).sum();
            assert!((1000..20_000).contains(&list.len()) && bytes <= LISTED_BYTES_MAX, "{bytes}");
        }
        assert_eq!(report.lost.len() as u64 + report.lost_left_out, all);
        assert_eq!(report.not_written.len() as u64 + report.not_written_left_out, all);
        let path = report.lost[0].path.as_deref().unwrap();
        assert!(path.starts_with("/start") && path.ends_with("/end") && path.len() < 5000);
    }
}
