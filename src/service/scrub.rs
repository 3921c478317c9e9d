//! Scrub: everything that can be read is read, while the pool serves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::base::units::BLOCK_SIZE_U64;
use crate::base::{ClusterId, ClusterName, EncryptionKeyId, ProblemCode, SnapshotId};
use crate::catalog::{CatalogError, ClusterInfo, SnapshotInfo, Target};
use crate::crypto::{ClusterKey, HeaderKeys};
use crate::keys::{Deadline, envelope};
use crate::pool::{Head, Pool};
use crate::service::Service;
use crate::service::error::ServiceError;
use crate::service::heads::Source;
use crate::service::mounts::Stage;
use crate::service::unlock::KEY_DEADLINE;
use crate::sys::clock;
use crate::verify::{Owner, Pace, Report, Scrub, ScrubTree};

/// One sleep of a scrub that is to be slow: short, so that the end of the daemon is noticed.
const NAP: Duration = Duration::from_millis(100);

/// What is to be scrubbed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScrubWhat {
    /// Everything.
    All,
    /// A cluster and its snapshots.
    Cluster(ClusterName),
    /// One snapshot.
    Snapshot(SnapshotId),
}

/// The scrub under way, for `status`.
#[derive(Default)]
pub(in crate::service) struct Scrubbing {
    running: AtomicBool,
    /// The daemon ends.
    stop: AtomicBool,
    done_bytes: AtomicU64,
    total_bytes: AtomicU64,
}

impl Scrubbing {
    /// Bytes read, of how many; `None` where none is under way.
    pub fn progress(&self) -> Option<(u64, u64)> {
        let progress = || {
            let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
            (read(&self.done_bytes), read(&self.total_bytes))
        };
        self.running.load(Ordering::Acquire).then(progress)
    }

    /// Ends the one under way, soon.
    pub fn end(&self) {
        self.stop.store(true, Ordering::Release);
    }
}

/// Clears the mark of a scrub that ends, however it does.
struct Running<'a>(&'a Scrubbing);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.store(false, Ordering::Release);
    }
}

/// Reads no faster than asked for, and tells how far it is.
struct Throttle<'a> {
    state: &'a Scrubbing,
    rate_bytes: Option<u64>,
    began: Duration,
    progress: &'a (dyn Fn(u64, u64) + Sync),
    pool: &'a Pool,
    /// Nothing that was freed since is given out again while the tree at hand is read.
    keeps: AtomicBool,
    let_go: AtomicBool,
}

impl Throttle<'_> {
    /// Around the reading of a tree that keeps what is freed meanwhile.
    fn keeping(&self, keeps: bool) {
        self.let_go.store(false, Ordering::Relaxed);
        self.keeps.store(keeps, Ordering::Relaxed);
    }
}

impl Pace for Throttle<'_> {
    fn read(&self, bytes: u64) -> bool {
        let done = self.state.done_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let total = self.state.total_bytes.load(Ordering::Relaxed);
        // In MiB: what people can follow.
        (self.progress)(done >> 20, total.max(done) >> 20);
        let due = self.rate_bytes.map(|rate| Duration::from_secs_f64(done as f64 / rate as f64));
        loop {
            if self.state.stop.load(Ordering::Acquire) {
                return false;
            }
            let elapsed = clock::monotonic().saturating_sub(self.began);
            match due.and_then(|due| due.checked_sub(elapsed)).filter(|left| !left.is_zero()) {
                Some(left) => clock::sleep(left.min(NAP)),
                None => return true,
            }
        }
    }

    /// Writers come first: once more waits to be used again than is free, the tree is let go of.
    fn lets_go(&self) -> bool {
        if self.keeps.load(Ordering::Relaxed) && !self.let_go.load(Ordering::Relaxed) {
            let space = self.pool.space();
            self.let_go.store(space.pending_free > space.free, Ordering::Relaxed);
        }
        self.let_go.load(Ordering::Relaxed)
    }
}

impl Service {
    /// Reads everything, or a part: superblocks and catalog always; all blocks against their
    /// checksums, unless a part is named whose key is at hand; the trees down to the tags of their
    /// data. At most `rate_bytes` a second. `progress` is told MiB read, of how many.
    ///
    /// # Errors
    /// [`ProblemCode::Busy`] while another one runs; [`ProblemCode::ClusterNotFound`],
    /// [`ProblemCode::SnapshotNotFound`]; [`ProblemCode::Usage`] for a rate of 0. What is found is
    /// no error.
    pub fn scrub(
        &self,
        what: &ScrubWhat,
        rate_bytes: Option<u64>,
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<Report, ServiceError> {
        if rate_bytes == Some(0) {
            return Err(ServiceError::new(ProblemCode::Usage, "a rate of 0 bytes never ends"));
        }
        let subjects = self.scrub_subjects(what)?;
        let state = &self.scrubbing;
        if state.running.swap(true, Ordering::AcqRel) {
            return Err(ServiceError::new(ProblemCode::Busy, "a scrub is under way already")
                .with_hint("strongroom status shows how far it is"));
        }
        let _running = Running(state);
        let referenced: u64 = subjects.iter().map(Subject::referenced_blocks).sum();
        let all = *what == ScrubWhat::All;
        let used = if all { self.pool().space().used } else { 0 };
        state.done_bytes.store(0, Ordering::Relaxed);
        state.total_bytes.store((referenced + used) * BLOCK_SIZE_U64, Ordering::Relaxed);
        let pool: Arc<Pool> = Arc::clone(self.pool());
        let throttle = Throttle {
            state,
            rate_bytes,
            began: clock::monotonic(),
            progress,
            pool: &pool,
            keeps: AtomicBool::new(false),
            let_go: AtomicBool::new(false),
        };
        let mut scrub = Scrub::begin(&pool, &throttle);
        let mut goes_on = true;
        if all {
            goes_on = scrub.blocks();
        }
        let mut locked = Vec::new();
        for subject in &subjects {
            throttle.keeping(matches!(subject, Subject::Head(_)));
            goes_on = goes_on && self.scrub_tree(&mut scrub, subject, &mut locked);
            throttle.keeping(false);
        }
        // Of what is locked, checksums are all that can be compared.
        if goes_on && !locked.is_empty() && !all {
            goes_on = scrub.blocks();
        }
        let report = scrub.end();
        if !goes_on {
            log::warn!("the scrub was ended before all was read");
        }
        log::info!(
            "scrub: {} findings, {} blocks compared",
            report.findings.len() as u64 + report.findings_left_out,
            report.coverage.blocks_checked + report.coverage.blocks_authenticated
        );
        for finding in &report.findings {
            log::error!("scrub: {}", finding.nameless());
        }
        Ok(report)
    }

    fn scrub_subjects(&self, what: &ScrubWhat) -> Result<Vec<Subject>, ServiceError> {
        let (heads, snapshots) = match what {
            ScrubWhat::All => (self.catalog.clusters()?, self.catalog.snapshots(None)?),
            ScrubWhat::Cluster(name) => {
                let cluster = self.catalog.cluster(name)?;
                let snapshots = self.catalog.snapshots(Some(cluster.id))?;
                (vec![cluster], snapshots)
            }
            ScrubWhat::Snapshot(id) => (Vec::new(), vec![self.catalog.snapshot(*id)?]),
        };
        let heads = heads.into_iter().map(|info| Subject::Head(Box::new(info)));
        Ok(heads.chain(snapshots.into_iter().map(|s| Subject::Snapshot(Box::new(s)))).collect())
    }

    fn open_head_of(&self, cluster: ClusterId) -> Option<Arc<Head>> {
        let table = self.mounts.lock();
        match &table.of_cluster(cluster)?.1.stage {
            Stage::Serving(Source::Head { head, .. }) => Some(Arc::clone(head)),
            _ => None,
        }
    }

    fn scrub_key(
        &self,
        cluster: ClusterId,
        keys: &HeaderKeys,
        locked: &mut Vec<Vec<EncryptionKeyId>>,
    ) -> Result<ClusterKey, Vec<EncryptionKeyId>> {
        let ids: Vec<EncryptionKeyId> = keys.wraps.iter().map(|w| w.key_id.clone()).collect();
        // A provider that does not answer is asked once.
        if !locked.contains(&ids) {
            let deadline = Deadline::after(KEY_DEADLINE);
            let registry = self.registry();
            if let Ok(key) = envelope::open(&registry, self.pool_id(), cluster, keys, deadline) {
                return Ok(key);
            }
            locked.push(ids.clone());
        }
        Err(ids)
    }

    /// One tree. What was deleted meanwhile is left out.
    fn scrub_tree(
        &self,
        scrub: &mut Scrub<'_>,
        subject: &Subject,
        locked: &mut Vec<Vec<EncryptionKeyId>>,
    ) -> bool {
        match subject {
            Subject::Head(info) => {
                let owner = Owner::Cluster(info.id, info.name.clone());
                // While this is held, nothing that the root read below it reaches is given out. It
                // is that of the last checkpoint, also of a head that is open: what items say
                // together holds at cuts only, since attributes are stored late.
                let _kept = self.pool().read_catalog();
                let Ok(header) = self.catalog.header(Target::Cluster(info.id)) else { return true };
                let Some(sealed) = &header.sealed_root else {
                    return scrub.tree(owner, ScrubTree::Empty);
                };
                let context = self.catalog.root_context(info.id, &header);
                let open = self.open_head_of(info.id);
                let view = open.map(|head| head.durable_view(self.pool(), &context, sealed));
                if let Some(Ok(Some((view, name_key)))) = view {
                    return scrub.tree(owner, ScrubTree::Open(view, &name_key));
                }
                let key = match self.scrub_key(info.id, &header.keys, locked) {
                    Ok(key) => key,
                    Err(ids) => return scrub.tree(owner, ScrubTree::Locked(ids)),
                };
                match self.pool().open_view(&key, &context, sealed) {
                    Ok((view, name_key)) => scrub.tree(owner, ScrubTree::Open(view, &name_key)),
                    Err(error) => scrub.tree(owner, ScrubTree::Damaged(error.to_string())),
                }
            }
            Subject::Snapshot(info) => {
                let owner = Owner::Snapshot(info.id, info.cluster_name.clone());
                let Ok(header) = self.catalog.header(Target::Snapshot(info.id)) else {
                    return true;
                };
                if header.sealed_root.is_none() {
                    return scrub.tree(owner, ScrubTree::Empty);
                }
                let key = match self.scrub_key(info.cluster, &header.keys, locked) {
                    Ok(key) => key,
                    Err(ids) => return scrub.tree(owner, ScrubTree::Locked(ids)),
                };
                // Its reader is counted: it is not deleted while it is read. While it is being deleted,
                // or once it is, it is left out.
                match self.catalog.open_snapshot(info.id, &key) {
                    Ok(open) => {
                        let (view, name_key, _reader) = open.into_parts();
                        scrub.tree(owner, ScrubTree::Open(view, &name_key))
                    }
                    Err(CatalogError::SnapshotBusy(_) | CatalogError::SnapshotNotFound(_)) => true,
                    Err(CatalogError::NothingWritten(_)) => scrub.tree(owner, ScrubTree::Empty),
                    Err(error) => scrub.tree(owner, ScrubTree::Damaged(error.to_string())),
                }
            }
        }
    }
}

/// A tree that is to be read.
enum Subject {
    Head(Box<ClusterInfo>),
    Snapshot(Box<SnapshotInfo>),
}

impl Subject {
    fn referenced_blocks(&self) -> u64 {
        match self {
            Self::Head(info) => info.referenced_blocks,
            Self::Snapshot(info) => info.referenced_blocks,
        }
    }
}
