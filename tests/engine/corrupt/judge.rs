//! The judgement on one mutation.

use std::collections::BTreeSet;
use std::sync::Arc;

use strongroom::base::{ClusterId, InodeNo};
use strongroom::catalog::{Catalog, CatalogError, Target};
use strongroom::device::Device;
use strongroom::device::sim::SimDevice;
use strongroom::pool::{self, CutPlan, Head, OpenOptions, Pool, PoolError};
use strongroom::verify::{self, CheckOptions, Owner, Report, Severity};
use strongroom::volume::{Caller, OpenFlags, ROOT_INODE, Volume, VolumeError};

use crate::corrupt::damage::Damage;
use crate::corrupt::look::{Looked, look};
use crate::corrupt::sample::{Cluster, Kind, Sample, key_of, options};
use crate::model::files::Tree;
use crate::pools::engine_key;

const ROOT: Caller = Caller { uid: 0, gid: 0, umask: 0o022, pid: 1 };

/// What a mutation came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Found and named; what is hit cannot be read, all else can.
    Detected,
    /// The pool does not open, and says why.
    Refused,
    /// The pool does not open because it is older than what was seen of it.
    RolledBack,
    /// Another copy serves.
    Repaired,
    /// Nothing needs what was changed.
    Harmless,
    /// The end of a log is gone: as if the power had gone before it was written.
    Tail,
}

type Judged<T> = Result<T, String>;

fn unlock(sick: &Arc<SimDevice>, options: OpenOptions) -> Result<Arc<Pool>, PoolError> {
    let device: Arc<dyn Device> = sick.clone();
    pool::probe(&device)?.unlock(engine_key(), options)
}

fn check(sample: &Sample, pool: &Arc<Pool>) -> Report {
    let options = CheckOptions { items: &verify::volume_items, data: true };
    let id = Arc::clone(pool);
    verify::check(pool, &options, &mut |cluster, keys| key_of(&sample.secrets, &id, cluster, keys))
}

/// That an error is one of corruption: nothing else may come of damage.
fn corruption(error: &PoolError) -> bool {
    matches!(error, PoolError::Corrupt { .. } | PoolError::RolledBack { .. })
        || error.to_string().contains("corrupt")
}

/// Judges one mutation of a pool.
pub fn judge(sample: &Sample, damage: &Damage) -> Judged<Verdict> {
    let sick = damage.done_to(sample);
    let looking = OpenOptions { read_only: true, accept_rollback: true, ..OpenOptions::default() };
    let report = match unlock(&sick, looking) {
        Ok(pool) => Some(check(sample, &pool)),
        Err(error) if corruption(&error) => None,
        Err(error) => return Err(format!("check cannot open it: {error}")),
    };
    let remembered = Some(sample.generation);
    let opened = unlock(&sick, OpenOptions { remembered, ..OpenOptions::default() });
    let pool = match opened {
        Ok(pool) => pool,
        Err(PoolError::RolledBack { .. }) if damage.kind == Kind::Superblock => {
            return Ok(Verdict::RolledBack);
        }
        Err(error) => return refused(damage, &error, report.as_ref()),
    };
    let Some(report) = report else {
        return Err("it opens, and check could not".to_owned());
    };
    let live = Live { sample, damage, report: &report, sick: &sick };
    live.judge(pool)
}

/// A pool that does not open: only where the damage is one that everything depends on.
fn refused(damage: &Damage, error: &PoolError, report: Option<&Report>) -> Judged<Verdict> {
    if !corruption(error) {
        return Err(format!("it does not open, for another reason: {error}"));
    }
    let all_depends =
        damage.both_superblocks || matches!(damage.kind, Kind::Ring) || damage.way() == "swapped";
    if !all_depends {
        return Err(format!("it does not open: {error}"));
    }
    match report {
        Some(report) if report.worst != Some(Severity::Damage) => {
            Err(format!("it does not open ({error}), and check found no damage"))
        }
        _ => Ok(Verdict::Refused),
    }
}

struct Live<'a> {
    sample: &'a Sample,
    damage: &'a Damage,
    report: &'a Report,
    sick: &'a Arc<SimDevice>,
}

/// What was seen in one tree.
struct Seen {
    owner: Owner,
    looked: Looked,
}

impl Live<'_> {
    fn judge(&self, pool: Arc<Pool>) -> Judged<Verdict> {
        let catalog = Catalog::open(pool).map_err(|e| format!("the catalog does not open: {e}"))?;
        let mut tail = false;
        let mut failed = 0;
        for cluster in &self.sample.clusters {
            failed += self.cluster(&catalog, cluster, &mut tail)?;
        }
        failed += self.snapshots(&catalog)?;
        let closed = catalog.pool().close();
        drop(catalog);
        self.again(closed)?;
        match (self.report.worst, failed) {
            (None, 0) if tail => Ok(Verdict::Tail),
            (None, 0) => Ok(Verdict::Harmless),
            (Some(Severity::Repairable), 0) => Ok(Verdict::Repaired),
            (Some(Severity::Damage), _) => Ok(Verdict::Detected),
            (worst, 0) => Err(format!("check says {worst:?}: {:#?}", self.report.findings)),
            (_, failed) => Err(format!("{failed} things cannot be read, and check says nothing")),
        }
    }

    fn hits_only(&self, kind: Kind) -> bool {
        self.damage.is_only(self.sample, kind)
    }

    fn named(&self, hits: impl Fn(&verify::Hit) -> bool) -> bool {
        let damage = self.report.findings.iter().filter(|f| f.severity == Severity::Damage);
        damage.flat_map(|f| &f.hits).any(hits)
    }

    /// That the check named what failed.
    fn assert_named(&self, seen: &Seen) -> Judged<()> {
        for (path, ino, error) in &seen.looked.failed {
            let hits = |hit: &verify::Hit| {
                let file = hit.file.as_ref();
                hit.owner == seen.owner && file.is_none_or(|f| f.inode == *ino)
            };
            if !self.named(hits) {
                let found = &self.report.findings;
                return Err(format!(
                    "{}: '{path}' ({ino}): {error}: not named: {found:#?}",
                    seen.owner
                ));
            }
            if !error.to_string().contains("corrupt") {
                return Err(format!(
                    "{}: '{path}' ({ino}): not called corrupt: {error}",
                    seen.owner
                ));
            }
        }
        // A block of data belongs to one file of a tree.
        let mut inodes: Vec<InodeNo> = seen.looked.failed.iter().map(|(_, ino, _)| *ino).collect();
        inodes.sort_unstable();
        inodes.dedup();
        let blocks = if self.damage.way() == "swapped" { 2 } else { 1 };
        if self.hits_only(Kind::Data) && inodes.len() > blocks {
            return Err(format!("{}: {} files are hit", seen.owner, inodes.len()));
        }
        let beside = [Kind::Map, Kind::Superblock, Kind::Ring, Kind::Catalog, Kind::Log];
        if beside.into_iter().any(|kind| self.hits_only(kind)) && !inodes.is_empty() {
            return Err(format!("{}: files cannot be read", seen.owner));
        }
        Ok(())
    }

    /// A cluster's head, read and changed. How many things failed.
    fn cluster(&self, catalog: &Arc<Catalog>, of: &Cluster, tail: &mut bool) -> Judged<usize> {
        let owner = Owner::Cluster(of.id, of.name.clone());
        let header = catalog.header(Target::Cluster(of.id)).map_err(|e| e.to_string())?;
        let key = key_of(&self.sample.secrets, catalog.pool(), of.id, &header.keys).unwrap();
        let opened = catalog.open_head(&of.name, key).map_err(|e| e.to_string());
        let opened = opened.and_then(|head| {
            Volume::open_head(Arc::clone(&head), options())
                .map(|volume| (head, volume))
                .map_err(|e| e.to_string())
        });
        let (head, volume) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                // The whole tree: its root, the log that belongs to it, or the space for a new log.
                let named = self.named(|hit| hit.owner == owner);
                if !named {
                    return Err(format!("{owner} does not open ({error}), and is not named"));
                }
                return Ok(1);
            }
        };
        let seen = Seen { owner, looked: look(&volume) };
        self.assert_named(&seen)?;
        self.content(&seen, &of.moments, tail)?;
        let failed = seen.looked.failed.len();
        self.change(catalog, &head, &volume, &seen)?;
        drop(volume);
        Ok(failed)
    }

    fn content(&self, seen: &Seen, moments: &[Tree], tail: &mut bool) -> Judged<()> {
        let (last, earlier) = moments.split_last().unwrap();
        let Some(wrong) = seen.looked.wrong(last) else { return Ok(()) };
        let in_log = self.sample.crashed
            && (self.damage.kind == Kind::Log || self.damage.way() == "swapped");
        if in_log && earlier.iter().any(|tree| seen.looked.wrong(tree).is_none()) {
            *tail = true;
            return Ok(());
        }
        Err(format!("{}: wrong data: {wrong}", seen.owner))
    }

    /// A new file is written, the damaged ones are deleted.
    fn change(
        &self,
        catalog: &Arc<Catalog>,
        head: &Arc<Head>,
        volume: &Arc<Volume>,
        seen: &Seen,
    ) -> Judged<()> {
        let needs_maps = self.damage.hits(self.sample, Kind::Ring);
        let told =
            |what: String| if needs_maps { Ok(()) } else { Err(format!("{}: {what}", seen.owner)) };
        let flags = OpenFlags { write: true, truncate: false };
        let content = vec![0x5a; 20_000];
        let made = volume.create(ROOT_INODE, b"new-file", 0o644, flags, &ROOT);
        let written = made.and_then(|(entry, handle)| {
            volume.write(entry.attr.ino, 0, &content, true)?;
            volume.release(handle)?;
            volume.sync()?;
            let mut back = Vec::new();
            volume.read(entry.attr.ino, 0, content.len(), &mut |bytes| {
                back.extend_from_slice(bytes)
            })?;
            assert!(back == content, "what was just written reads otherwise");
            Ok(())
        });
        // Where the root directory or what a new name needs is lost, nothing can be made.
        if let Err(error) = written
            && !self.damage.hits(self.sample, Kind::Node)
        {
            told(format!("nothing can be written: {error}"))?;
        }
        if self.damage.hits(self.sample, Kind::Node) {
            overwrite(volume, seen);
        }
        self.delete(volume, seen)?;
        if let Err(error) = catalog.pool().checkpoint(CutPlan::default()) {
            told(format!("no checkpoint: {error}"))?;
        }
        if let Err(error) = catalog.close_head(head) {
            told(format!("it cannot be closed: {error}"))?;
        }
        Ok(())
    }

    /// Every damaged file can be deleted: each that is listed and cannot be read whole, whatever of
    /// it is hit. Directories stay.
    fn delete(&self, volume: &Volume, seen: &Seen) -> Judged<()> {
        let files = |looked: &Looked| {
            let is_file = |path: &&String| !path.is_empty() && !looked.directories.contains(*path);
            looked.failed.iter().map(|(path, ..)| path).filter(is_file).cloned().collect()
        };
        let damaged: BTreeSet<String> = files(&seen.looked);
        for path in &damaged {
            let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
            let mut at = ROOT_INODE;
            for part in parent.split('/').filter(|part| !part.is_empty()) {
                at = volume.lookup(at, part.as_bytes()).map_err(|e| e.to_string())?.attr.ino;
            }
            if let Err(error) = volume.unlink(at, name.as_bytes()) {
                return Err(format!("{}: {path} cannot be deleted: {error}", seen.owner));
            }
        }
        let data_alone = self.hits_only(Kind::Data);
        loop {
            match volume.background_step() {
                Ok(true) => {}
                Ok(false) => break,
                // What is to be freed lies where the tree cannot be read.
                Err(VolumeError::Corrupt { .. }) if !data_alone => break,
                Err(error) => return Err(format!("{}: not freed: {error}", seen.owner)),
            }
        }
        // What was written over where the tree cannot be read fails from then on.
        let mut left: BTreeSet<String> = files(&look(volume));
        left.retain(|path| data_alone || damaged.contains(path));
        if !left.is_empty() {
            return Err(format!("{}: still failing after deletion: {left:?}", seen.owner));
        }
        Ok(())
    }

    fn snapshots(&self, catalog: &Arc<Catalog>) -> Judged<usize> {
        let mut failed = 0;
        for (id, (cluster, wanted)) in &self.sample.snapshots {
            failed += self.snapshot(catalog, *id, *cluster, wanted)?;
        }
        Ok(failed)
    }

    fn snapshot(
        &self,
        catalog: &Arc<Catalog>,
        id: strongroom::base::SnapshotId,
        cluster: ClusterId,
        wanted: &Tree,
    ) -> Judged<usize> {
        let name = self.sample.clusters.iter().find(|c| c.id == cluster).unwrap().name.clone();
        let owner = Owner::Snapshot(id, name);
        let header = catalog.header(Target::Snapshot(id)).map_err(|e| e.to_string())?;
        let key = key_of(&self.sample.secrets, catalog.pool(), cluster, &header.keys).unwrap();
        let open = match catalog.open_snapshot(id, &key) {
            Ok(open) => open,
            Err(CatalogError::NothingWritten(_)) => return Ok(0),
            Err(error) => return Err(format!("{owner} does not open: {error}")),
        };
        let volume = match Volume::open_view(open.view, open.name_key, options()) {
            Ok(volume) => volume,
            Err(error) => {
                if self.named(|hit| hit.owner == owner) {
                    return Ok(1);
                }
                return Err(format!("{owner} does not open ({error}), and is not named"));
            }
        };
        let seen = Seen { owner, looked: look(&volume) };
        self.assert_named(&seen)?;
        match seen.looked.wrong(wanted) {
            Some(wrong) => Err(format!("{}: wrong data: {wrong}", seen.owner)),
            None => Ok(seen.looked.failed.len()),
        }
    }

    /// Opened once more: nothing got worse, and a pool that took the changes is sound but for the
    /// damage.
    fn again(&self, closed: Result<(), PoolError>) -> Judged<()> {
        let looking =
            OpenOptions { read_only: true, accept_rollback: true, ..OpenOptions::default() };
        let pool = match unlock(self.sick, looking) {
            Ok(pool) => pool,
            Err(error) if closed.is_err() && corruption(&error) => return Ok(()),
            Err(error) => return Err(format!("it does not open again: {error}")),
        };
        let report = check(self.sample, &pool);
        let worse = report.findings.len() > self.report.findings.len() + 1;
        if worse && closed.is_ok() {
            return Err(format!("it got worse: {:#?}", report.findings));
        }
        Ok(())
    }
}

/// Writes into every file, also where that cannot be: it is refused, or lost with an error that the
/// file keeps, and stops nothing else.
fn overwrite(volume: &Volume, seen: &Seen) {
    for (ino, found) in seen.looked.tree.values() {
        if matches!(found, Some(crate::model::files::Seen::File { .. }) | None) {
            for offset in [0, 150_000, 600_000] {
                let _ = volume.write(*ino, offset, &[1; 5000], true);
            }
        }
    }
    let _ = volume.sync();
}
