//! Copying what is readable out of a pool, also out of one that no longer opens.
//!
//! [`Survey`] reads the catalogs of every state that a superblock still leads to; [`Survey::copy`]
//! copies clusters, as their heads are, and snapshots into directories. What says which space is in
//! use (region maps, checksums, the space ring) is not needed and not read. Where a node cannot be
//! read the rest of its tree is; where a head cannot, an older state of it, and then its newest
//! snapshot, stands in; what the cluster's log holds of acknowledged writes is added in memory.
//!
//! Promises: nothing is written to the pool; nothing that fails its tag is given out as data, it is
//! a hole that the [`Report`] names; no key is asked for less than a restore asks for; nothing is
//! made outside of the destination, nothing in it replaced or followed; whatever bytes are there, it
//! ends, and does not panic. It knows no key service: who calls hands over cluster keys.

mod attributes;
mod content;
mod copier;
mod inodes;
mod report;
mod source;
mod survey;

use crate::base::{ClusterId, ClusterName, SnapshotId};
use crate::crypto::{self, ClusterKey, HeaderKeys};
use crate::pool::root::RootContext;
use crate::pool::{LogRemains, Pool, PoolError};
use crate::sys::new_tree::NewDirectory;
use crate::verify::findings::Owner;
use crate::verify::salvage::copier::Copier;
use crate::verify::salvage::inodes::Inodes;
use crate::verify::salvage::source::{Gap, Source};
use crate::verify::salvage::survey::Found;

pub use report::{Copied, Fate, Loss, NotKept, Report, State};
pub use survey::Survey;

/// Where clusters stand below the destination.
const CLUSTERS: &str = "clusters";
/// Where snapshots stand.
const SNAPSHOTS: &str = "snapshots";

/// What to copy: the heads of all clusters, where nothing is named.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// The heads of these clusters.
    pub clusters: Vec<ClusterName>,
    /// These snapshots.
    pub snapshots: Vec<SnapshotId>,
}

/// Why a cluster's key is not to be had.
pub enum NoKey {
    /// Its owner, or its provider, does not give it; in a line.
    Refused(String),
    /// What wraps it is damaged; in a line.
    Damaged(String),
}

/// Hands over the key of a header that has customer keys: now, whatever was handed over before.
pub type Keys<'a> = dyn FnMut(&str, ClusterId, &HeaderKeys) -> Result<ClusterKey, NoKey> + 'a;

/// Where copies go: nowhere, where it is only asked what there is.
struct Places<'a> {
    top: &'a NewDirectory,
    clusters: Option<NewDirectory>,
    snapshots: Option<NewDirectory>,
}

/// Why a tree is not copied.
enum Closed {
    Empty,
    Refused(String),
    Unreadable(String),
}

impl Survey {
    /// Copies what is wanted to `destination`, a directory that is empty; without one, says what
    /// could be copied.
    pub fn copy(
        &self,
        wanted: &Wanted,
        destination: Option<&NewDirectory>,
        keys: &mut Keys<'_>,
    ) -> Report {
        let mut report = Report::default();
        self.describe(&mut report);
        let mut places = destination.map(|top| Places { top, clusters: None, snapshots: None });
        let all = wanted.clusters.is_empty() && wanted.snapshots.is_empty();
        let named = |name: &ClusterName| all || wanted.clusters.contains(name);
        for (index, head) in self.heads.iter().enumerate().filter(|(_, h)| named(&h.cluster_name)) {
            let twice = self.heads[..index].iter().any(|h| h.cluster_name == head.cluster_name);
            self.head(head, twice, places.as_mut(), keys, &mut report);
        }
        if !self.is_whole() {
            for (cluster, name) in self.headless().into_iter().filter(|(_, name)| named(name)) {
                let owner = Owner::Cluster(cluster, name).to_string();
                let note = format!("{owner}: its head is not in what is left of the catalog");
                report.notes.push(note);
                self.stand_in(cluster, places.as_mut(), keys, &mut report);
            }
        }
        for snapshot in &self.snapshots {
            if snapshot.snapshot().is_some_and(|id| wanted.snapshots.contains(&id)) {
                self.one(&[snapshot], false, places.as_mut(), keys, &mut report);
            }
        }
        if all {
            self.say_unasked(destination.is_none(), &mut report);
        }
        report
    }

    /// Snapshots that nobody asked for: how many; which, where it is only asked what there is.
    fn say_unasked(&self, list: bool, report: &mut Report) {
        let headless = self.headless();
        // What a catalog that is not whole does not list need not have been deleted.
        let deleted =
            |s: &Found| self.is_whole() && headless.iter().any(|(id, _)| *id == s.cluster);
        let unasked = self.snapshots.iter().map(|snapshot| Copied {
            state: Fate::Unasked,
            cluster_deleted: deleted(snapshot),
            ..begun(snapshot)
        });
        let stands_in = |s: &Copied| report.results.iter().any(|r| r.snapshot_id == s.snapshot_id);
        let unasked: Vec<Copied> = unasked.filter(|snapshot| !stands_in(snapshot)).collect();
        let of_deleted = unasked.iter().filter(|snapshot| snapshot.cluster_deleted).count();
        let (what, were) = match unasked.len() {
            0 => return,
            1 => ("1 snapshot".to_owned(), "was"),
            n => (format!("{n} snapshots"), "were"),
        };
        let of = match of_deleted {
            0 => String::new(),
            n => format!(", {n} of them of deleted clusters"),
        };
        report.notes.push(format!("{what} {were} not asked for{of}: --snapshot ID copies one"));
        report.results.extend(unasked.into_iter().filter(|_| list));
    }

    fn describe(&self, report: &mut Report) {
        let newest = self.newest();
        report.pool_id = newest.map(|pool| pool.id().to_string()).unwrap_or_default();
        for state in &self.facts {
            let State { checkpoint, catalog_whole } = *state;
            report.states.push(State { checkpoint, catalog_whole });
        }
        self.say_later_states(report);
        if !self.tombstones_whole {
            let note = "not all that the pool remembers of deleted keys can be read: where an older \
                        keyring was put there, it may open what a deleted key protects";
            report.notes.push(note.to_owned());
        }
        if self.is_whole() {
            return;
        }
        let Some(newest) = self.facts.first() else { return };
        let mut note = format!(
            "not all of the catalog of checkpoint {} can be read: clusters and snapshots may be \
             missing",
            newest.checkpoint
        );
        if let Some(older) = self.facts.get(1) {
            let how = if older.catalog_whole { "" } else { ", as far as that can be read" };
            note.push_str(&format!(
                "; what it does not show is looked for in that of checkpoint {}{how}",
                older.checkpoint
            ));
        }
        report.notes.push(note);
    }

    /// That the newest state which is left may not be the newest that was.
    fn say_later_states(&self, report: &mut Report) {
        let Some(newest) = self.facts.first() else { return };
        let after = format!("what was written after checkpoint {}", newest.checkpoint);
        for slot in &self.lost_slots {
            report.lose_of_pool(format!(
                "{after}, if anything was: neither copy of superblock slot {slot} can be used, and a \
                 later state may have stood there"
            ));
        }
        if let Some(later) = self.later {
            let why = "the space ring shows checkpoint";
            report.lose_of_pool(format!("{after}: {why} {later}, whose superblock is gone"));
        }
    }

    /// A cluster's head; where that cannot be read, as an older state has it, and then its newest
    /// snapshot that can.
    fn head(
        &self,
        head: &Found,
        twice: bool,
        places: Option<&mut Places<'_>>,
        keys: &mut Keys<'_>,
        report: &mut Report,
    ) {
        let older = self.older.iter().filter(|older| older.cluster == head.cluster);
        let ways: Vec<&Found> = std::iter::once(head).chain(older).collect();
        let mut places = places;
        if self.one(&ways, twice, places.as_deref_mut(), keys, report) == Fate::Unreadable {
            self.stand_in(head.cluster, places, keys, report);
        }
    }

    /// The newest snapshot of a cluster that can be read.
    fn stand_in(
        &self,
        cluster: ClusterId,
        mut places: Option<&mut Places<'_>>,
        keys: &mut Keys<'_>,
        report: &mut Report,
    ) {
        for snapshot in self.snapshots.iter().filter(|s| s.cluster == cluster) {
            let fate = self.one(&[snapshot], false, places.as_deref_mut(), keys, report);
            // One whose key is not usable says nothing of those before it.
            if matches!(fate, Fate::Copied | Fate::Readable) {
                return;
            }
        }
    }

    /// One tree, by the first of these ways that leads into it.
    fn one(
        &self,
        ways: &[&Found],
        twice: bool,
        places: Option<&mut Places<'_>>,
        keys: &mut Keys<'_>,
        report: &mut Report,
    ) -> Fate {
        let Some(first) = ways.first() else { return Fate::Unreadable };
        let mut copied = begun(first);
        let is_same = |done: &&Copied| done.owner == copied.owner && done.snapshot_id.is_some();
        if let Some(done) = report.results.iter().find(is_same) {
            return done.state;
        }
        let mut why = String::new();
        for found in ways {
            let Some(pool) = self.pool(found.state) else { continue };
            copied.checkpoint = Some(pool.generation().get());
            match self.open(found, pool, &copied.owner, keys, report) {
                Ok(source) => {
                    if found.state > 0 {
                        let note = "as an older state of the pool has it, of checkpoint";
                        let owner = &copied.owner;
                        report.notes.push(format!("{owner}: {note} {}", pool.generation()));
                        let of = report::Of { owner, path: None, inode: None };
                        report.lose(&of, format!("what was written after it{}", because(&why)));
                    }
                    copied.log_records = source.log_records();
                    copied.state = Fate::Readable;
                    let name = directory_name(found, twice);
                    return copy_tree(&source, pool, (copied, &name), places, report);
                }
                Err(Closed::Unreadable(reason)) if why.is_empty() => why = reason,
                Err(Closed::Unreadable(_)) => {}
                // An older state of what the newest one lists says nothing of the newest.
                Err(_) if !std::ptr::eq(*found, *first) => {}
                Err(Closed::Empty) => return close(Fate::Empty, None, copied, report),
                Err(Closed::Refused(line)) => {
                    return close(Fate::Refused, Some(line), copied, report);
                }
            }
        }
        close(Fate::Unreadable, Some(why), copied, report)
    }

    /// The tree behind a header.
    fn open(
        &self,
        found: &Found,
        pool: &std::sync::Arc<Pool>,
        owner: &str,
        keys: &mut Keys<'_>,
        report: &mut Report,
    ) -> Result<Source, Closed> {
        let header = &found.header;
        // Before its first checkpoint a head has a log alone.
        let has_log = found.snapshot().is_none() && pool.may_have_log(found.cluster);
        if header.sealed_root.is_none() && !has_log {
            return Err(Closed::Empty);
        }
        let held = &header.keys;
        let key = match &held.plain {
            Some(secret) => {
                Ok(crypto::cluster_key(secret, &held.salt, &pool.id(), &found.cluster, held.ck_id))
            }
            None => keys(owner, found.cluster, held),
        };
        let key = key.map_err(|no| match no {
            NoKey::Refused(line) => Closed::Refused(line),
            NoKey::Damaged(line) => Closed::Unreadable(line),
        })?;
        let context = RootContext {
            pool: pool.id(),
            cluster: found.cluster,
            ck_id: held.ck_id,
            generation: header.root_generation,
        };
        let unreadable = |error: PoolError| Closed::Unreadable(error.to_string());
        let view = match &header.sealed_root {
            Some(sealed) => pool.open_view(&key, &context, sealed).map_err(unreadable)?.0,
            None => pool.empty_view(),
        };
        let log = match found.snapshot() {
            Some(_) => LogRemains::default(),
            None => log_of(pool, found, &key, owner, report),
        };
        let source = Source::new(view, log);
        if source.is_readable() {
            Ok(source)
        } else {
            Err(Closed::Unreadable("the root of its tree cannot be read".to_owned()))
        }
    }
}

/// What the log of a head adds to its tree; what it cannot is lost.
fn log_of(
    pool: &Pool,
    found: &Found,
    key: &ClusterKey,
    owner: &str,
    report: &mut Report,
) -> LogRemains {
    let of = report::Of { owner, path: None, inode: None };
    let after = pool.generation();
    match pool.log_remains(found.cluster, found.header.keys.ck_id, key) {
        Ok(remains) => {
            if let Some(damage) = &remains.damage {
                let taken = remains.records;
                report.lose(
                    &of,
                    format!(
                        "writes acknowledged after checkpoint {after}, but for the first {taken} \
                         records of its log: {damage}"
                    ),
                );
            }
            remains
        }
        Err(error) => {
            let what = format!("writes acknowledged after checkpoint {after}, if any: {error}");
            report.lose(&of, what);
            LogRemains::default()
        }
    }
}

/// What stands in nodes that cannot be read: the files that are known are named, and others may have
/// been there.
fn say_gaps(gaps: &[Gap], owner: &str, report: &mut Report) {
    for gap in gaps {
        let upto = gap.upper.map_or("the last".to_owned(), |upper| upper.object.to_string());
        let what = format!(
            "a tree node cannot be read: it held items of inodes {} to {upto}",
            gap.lower.object
        );
        report.lose(&report::Of { owner, path: None, inode: None }, what);
    }
}

/// A reason behind what it explains, if there is one.
fn because(why: &str) -> String {
    if why.is_empty() { String::new() } else { format!(": {why}") }
}

fn begun(found: &Found) -> Copied {
    Copied {
        owner: found.owner.to_string(),
        cluster_name: found.cluster_name.to_string(),
        snapshot_id: found.snapshot().map(|id| id.to_string()),
        cluster_deleted: false,
        state: Fate::Unreadable,
        why: None,
        directory: None,
        lost_and_found: None,
        checkpoint: None,
        log_records: 0,
        files: 0,
        directories: 0,
        symlinks: 0,
        special_files: 0,
        links: 0,
        bytes: 0,
        found: 0,
    }
}

/// No name of a cluster holds a plus sign.
fn directory_name(found: &Found, twice: bool) -> String {
    match found.snapshot() {
        Some(id) => id.to_string(),
        None if twice => format!("{}+{}", found.cluster_name, found.cluster),
        None => found.cluster_name.to_string(),
    }
}

fn close(fate: Fate, why: Option<String>, copied: Copied, report: &mut Report) -> Fate {
    report.results.push(Copied { state: fate, why, ..copied });
    fate
}

fn copy_tree(
    source: &Source,
    pool: &Pool,
    (mut copied, name): (Copied, &str),
    places: Option<&mut Places<'_>>,
    report: &mut Report,
) -> Fate {
    let inodes = Inodes::of(source);
    if !inodes.is_volume {
        let why = "its tree was written by another version".to_owned();
        return close(Fate::Unreadable, Some(why), copied, report);
    }
    say_gaps(&inodes.gaps, &copied.owner, report);
    if let Some(places) = places {
        let place = if copied.snapshot_id.is_some() { SNAPSHOTS } else { CLUSTERS };
        let made = places.parent(place);
        match made {
            Ok((top, parent)) => {
                let blocks_max = pool.geometry().total_blocks;
                copied.directory = Some(format!("{place}/{name}"));
                copied.state = Fate::Copied;
                Copier::new(source, inodes, top, (report, &mut copied), blocks_max)
                    .run(parent, place, name);
            }
            Err(error) => {
                let of = report::Of { owner: &copied.owner, path: None, inode: None };
                report.cannot_write(&of, error.to_string());
            }
        }
    }
    let fate = copied.state;
    report.results.push(copied);
    fate
}

impl Places<'_> {
    /// The destination, and the directory of that name in it.
    fn parent(&mut self, place: &str) -> std::io::Result<(&NewDirectory, &NewDirectory)> {
        let there = if place == SNAPSHOTS { &mut self.snapshots } else { &mut self.clusters };
        if there.is_none() {
            *there = Some(self.top.make(place.as_bytes())?);
        }
        match there {
            Some(there) => Ok((self.top, there)),
            None => Err(std::io::ErrorKind::NotFound.into()),
        }
    }
}
