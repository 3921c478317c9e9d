//! What the service tells, in the words of the wire.

use std::path::Path;

use crate::base::ProblemCode;
use crate::control::Problem;
use crate::control::types as wire;
use crate::daemon::next_steps;
use crate::service::types::{self as told, Frequency, PoolState, ShredScope, SnapshotKind};
use crate::service::{ServiceError, offline};

/// A refusal.
pub(in crate::daemon) fn problem(error: ServiceError) -> Problem {
    Problem::new(error.code, error.detail).with_hint(error.hint.unwrap_or_default())
}

fn path(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn shredded(scope: Option<ShredScope>) -> Option<String> {
    scope.map(|s| s.as_str().to_owned())
}

pub(in crate::daemon) fn list<T, W>(items: Vec<T>, one: impl Fn(T) -> W) -> wire::List<W> {
    wire::List { results: items.into_iter().map(one).collect() }
}

pub(in crate::daemon) fn usage_entry(e: told::UsageEntry) -> wire::UsageEntry {
    let (kind, name) = match e.snapshot {
        Some(_) => (wire::UsageKind::Snapshot, None),
        None => (wire::UsageKind::Cluster, Some(e.cluster_name.clone())),
    };
    wire::UsageEntry {
        kind,
        name,
        id: e.snapshot,
        cluster_name: e.cluster_name,
        encryption_key_id: e.encryption_key_id,
    }
}

pub(in crate::daemon) fn cluster(c: told::Cluster) -> wire::Cluster {
    wire::Cluster {
        name: c.name,
        id: c.id,
        state: match c.state {
            told::ClusterState::Unmounted => wire::ClusterState::Unmounted,
            told::ClusterState::Mounted => wire::ClusterState::Mounted,
            told::ClusterState::Locked => wire::ClusterState::Locked,
        },
        mountpoint: c.mountpoint.as_deref().map(path),
        created_at: c.created_at,
        encryption_key_id: c.encryption_key_id,
        encryption_status: c.encryption_status.as_str().to_owned(),
        encryption_status_at: c.encryption_status_at,
        also_reachable_via: c.also_reachable_via.into_iter().map(usage_entry).collect(),
        origin: c.origin,
        referenced_bytes: c.referenced_bytes,
        unique_bytes: c.unique_bytes,
        snapshot_count: c.snapshot_count,
        read_only: c.read_only,
    }
}

pub(in crate::daemon) fn cluster_changed(c: told::ClusterChanged) -> wire::ClusterChanged {
    wire::ClusterChanged {
        cluster: cluster(c.cluster),
        rewrapped_snapshots: c.rewrapped,
        shredded: shredded(c.shredded),
    }
}

pub(in crate::daemon) fn cluster_deleted(c: told::ClusterDeleted) -> wire::ClusterDeleted {
    wire::ClusterDeleted {
        name: c.name,
        id: c.id,
        snapshots_kept: c.snapshots_kept,
        shredded: shredded(c.shredded),
    }
}

pub(in crate::daemon) fn mount(m: told::Mount) -> wire::Mount {
    wire::Mount {
        mountpoint: path(&m.mountpoint),
        cluster_name: m.cluster_name,
        snapshot_id: m.snapshot_id,
        read_only: m.read_only,
        options: m.options,
        barrier: m.facts.barrier.map(str::to_owned),
        capabilities: m.facts.capabilities,
        waiting_requests: m.facts.waiting_requests,
        oldest_request_ms: u64::try_from(m.facts.oldest_request.as_millis()).unwrap_or(u64::MAX),
        already_mounted: m.already_mounted,
        locked: m.locked,
    }
}

pub(in crate::daemon) fn snapshot(s: told::Snapshot) -> wire::Snapshot {
    let (snapshot_type, frequency) = match s.kind {
        SnapshotKind::OnDemand => (wire::SnapshotKind::OnDemand, None),
        SnapshotKind::Safety => (wire::SnapshotKind::Safety, None),
        SnapshotKind::Scheduled(frequency) => (wire::SnapshotKind::Scheduled, Some(frequency)),
    };
    let frequency_type = frequency.map(|f| match f {
        Frequency::Hourly => "hourly",
        Frequency::Daily => "daily",
        Frequency::Weekly => "weekly",
        Frequency::Monthly => "monthly",
        Frequency::Yearly => "yearly",
    });
    let digits = |f: [u8; 16]| f.iter().map(|b| format!("{b:02x}")).collect::<String>();
    wire::Snapshot {
        id: s.id,
        cluster_name: s.cluster_name,
        cluster_id: s.cluster_id,
        cluster_deleted: s.cluster_deleted,
        created_at: s.created_at,
        expires_at: s.expires_at,
        snapshot_type,
        frequency_type: frequency_type.map(str::to_owned),
        status: match s.status {
            told::SnapshotStatus::Completed => wire::SnapshotStatus::Completed,
            told::SnapshotStatus::Unrecoverable => wire::SnapshotStatus::Unrecoverable,
        },
        description: s.description,
        held: s.held,
        mountpoints: s.mountpoints.iter().map(|p| path(p)).collect(),
        referenced_bytes: s.referenced_bytes,
        unique_bytes: s.unique_bytes,
        encryption_key_id: s.encryption_key_id,
        key_version: s.key_version,
        key_fingerprint: s.key_fingerprint.map(digits),
        encryption_status: s.encryption_status.as_str().to_owned(),
        encryption_status_at: s.encryption_status_at,
    }
}

pub(in crate::daemon) fn snapshots_deleted(d: told::SnapshotsDeleted) -> wire::SnapshotsDeleted {
    wire::SnapshotsDeleted {
        results: d.results.into_iter().map(snapshot).collect(),
        dry_run: d.dry_run,
        frees_bytes: d.frees_bytes,
        shredded: shredded(d.shredded),
    }
}

pub(in crate::daemon) fn rewrapped(r: told::SnapshotsRewrapped) -> wire::SnapshotsRewrapped {
    wire::SnapshotsRewrapped {
        results: r.results.into_iter().map(snapshot).collect(),
        shredded: shredded(r.shredded),
    }
}

pub(in crate::daemon) fn key(k: told::Key) -> wire::Key {
    wire::Key {
        encryption_key_id: k.encryption_key_id,
        state: k.state.map_or("unknown", |s| s.as_str()).to_owned(),
        deletion_at: k.deletion_at,
        created_at: k.created_at,
        used_by: k.used_by,
        keys_not_backed_up: None,
    }
}

pub(in crate::daemon) fn key_usage(u: told::KeyUsage) -> wire::KeyUsage {
    wire::KeyUsage {
        results: u.results.into_iter().map(usage_entry).collect(),
        safe_to_delete: u.safe_to_delete,
        scope: wire::UsageScope {
            pool_id: u.pool,
            pool_path: path(&u.pool_path),
            clusters: u.clusters,
            snapshots: u.snapshots,
        },
        also_reachable_via: u.also_reachable_via.into_iter().map(usage_entry).collect(),
        needing_former_key: u.needing_former_key.into_iter().map(usage_entry).collect(),
    }
}

pub(in crate::daemon) fn key_test(t: told::KeyTest) -> wire::KeyTest {
    wire::KeyTest {
        encryption_key_id: t.encryption_key_id,
        state: t.state.as_str().to_owned(),
        elapsed_ms: u64::try_from(t.elapsed.as_millis()).unwrap_or(u64::MAX),
    }
}

pub(in crate::daemon) fn root_secret(r: told::RootSecretInfo) -> wire::RootSecret {
    wire::RootSecret { kind: r.kind.to_owned(), name: r.name, spec: r.spec }
}

pub(in crate::daemon) fn pool(p: told::PoolStatus) -> wire::Pool {
    let (state, reason) = match p.state {
        PoolState::Ok => (wire::PoolState::Ok, None),
        PoolState::ReadOnly(reason) => (wire::PoolState::ReadOnly, Some(reason)),
        PoolState::Degraded(reason) => (wire::PoolState::Degraded, Some(reason)),
    };
    wire::Pool {
        path: path(&p.path),
        id: p.id,
        generation: p.generation,
        state,
        reason,
        size_bytes: p.size_bytes,
        used_bytes: p.used_bytes,
        free_bytes: p.free_bytes,
        pending_free_bytes: p.pending_free_bytes,
    }
}

pub(in crate::daemon) fn status(s: told::Status, more_warnings: &[String]) -> wire::Status {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let mut warnings = s.warnings;
    warnings.extend_from_slice(more_warnings);
    let mut status = wire::Status {
        pid: crate::sys::process::pid(),
        version: version.clone(),
        daemon_version: version,
        format_version: offline::FORMAT_VERSION,
        pool: pool(s.pool),
        clusters: s.clusters.into_iter().map(cluster).collect(),
        mounts: s.mounts.into_iter().map(mount).collect(),
        dead_mounts: Vec::new(),
        keys: s.keys.into_iter().map(key).collect(),
        background: s
            .background
            .into_iter()
            .map(|b| wire::BackgroundWork { kind: b.kind.to_owned(), detail: b.detail })
            .collect(),
        last_checkpoint_at: Some(s.last_checkpoint_at),
        keys_not_backed_up: s.keys_not_backed_up,
        warnings,
        next_steps: s.next_steps,
    };
    let of_states = next_steps::of(&status);
    status.next_steps.extend(of_states);
    status
}

/// A restore in place.
pub(in crate::daemon) fn in_place(r: told::RestoredInPlace) -> wire::Restored {
    wire::Restored::InPlace(Box::new(wire::RestoredInPlace {
        cluster: cluster(r.cluster),
        safety_snapshot: snapshot(r.safety_snapshot),
    }))
}

/// Wrong usage that only the daemon could find.
pub(in crate::daemon) fn usage(detail: impl Into<String>) -> Problem {
    Problem::new(ProblemCode::Usage, detail)
}
