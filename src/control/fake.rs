//! A daemon of nothing, for tests of the wire.

use std::path::Path;

use crate::base::ids::SnapshotPrefix;
use crate::base::{
    ClusterId, ClusterName, EncryptionKeyId, PoolId, ProblemCode, SnapshotId, Timestamp,
};
use crate::control::api::{Api, Call, Gauge, Reply};
use crate::control::problem::Problem;
use crate::control::types::*;
use crate::sys;

/// Answers with fixed things; `slow` clusters take their time, `panic` ones panic.
pub(in crate::control) struct Fake;

fn name() -> ClusterName {
    "db".parse().unwrap()
}

fn cluster(name: &ClusterName) -> Cluster {
    Cluster {
        name: name.clone(),
        id: ClusterId([7; 16]),
        state: ClusterState::Unmounted,
        mountpoint: None,
        created_at: Timestamp::from_secs(0),
        encryption_key_id: None,
        encryption_status: NOT_ENABLED.to_owned(),
        encryption_status_at: None,
        also_reachable_via: Vec::new(),
        origin: None,
        referenced_bytes: 0,
        unique_bytes: 0,
        snapshot_count: 0,
        read_only: false,
    }
}

fn snapshot() -> Snapshot {
    Snapshot {
        id: SnapshotId(1),
        cluster_name: name(),
        cluster_id: ClusterId([7; 16]),
        cluster_deleted: false,
        created_at: Timestamp::from_secs(0),
        expires_at: None,
        snapshot_type: SnapshotKind::OnDemand,
        frequency_type: None,
        status: SnapshotStatus::Completed,
        description: String::new(),
        held: false,
        mountpoints: Vec::new(),
        referenced_bytes: 0,
        unique_bytes: 0,
        encryption_key_id: Some("k1".parse().unwrap()),
        key_version: Some(1),
        key_fingerprint: Some("00".repeat(16)),
        encryption_status: "enabled".to_owned(),
        encryption_status_at: None,
    }
}

fn key(id: &EncryptionKeyId) -> Key {
    Key {
        encryption_key_id: id.clone(),
        state: "enabled".to_owned(),
        deletion_at: None,
        created_at: None,
        used_by: 0,
        keys_not_backed_up: None,
    }
}

fn mounts() -> Reply<List<Mount>> {
    Ok(List { results: Vec::new() })
}

fn disabled<T>() -> Reply<T> {
    Err(Problem::new(ProblemCode::KeyDisabled, "snapshot snap-1: local://k1 is disabled")
        .with_hint("strongroom key enable local://k1"))
}

fn pool() -> Pool {
    Pool {
        path: "/p".to_owned(),
        id: PoolId([1; 16]),
        generation: 3,
        state: PoolState::Ok,
        reason: None,
        size_bytes: 0,
        used_bytes: 0,
        free_bytes: 0,
        pending_free_bytes: 0,
    }
}

impl Api for Fake {
    fn status(&self, _: &Call<'_>, _: bool) -> Reply<Status> {
        Err(Problem::new(ProblemCode::Unsupported, "the fake has no status"))
    }
    fn check_pool(&self, named: &Path) -> Reply<()> {
        match named == Path::new("/other pool") {
            true => Err(Problem::new(ProblemCode::Config, "the other pool is served")),
            false => Ok(()),
        }
    }
    fn gauges(&self) -> Vec<Gauge> {
        Vec::new()
    }
    fn clusters(&self, _: &Call<'_>, _: bool) -> Reply<List<Cluster>> {
        Ok(List { results: vec![cluster(&name())] })
    }
    fn cluster(&self, _: &Call<'_>, name: &ClusterName, _: bool) -> Reply<Cluster> {
        match name.as_str() {
            "slow" => sys::clock::sleep(std::time::Duration::from_millis(600)),
            "panic" => panic!("expected by the test"),
            _ => {}
        }
        Ok(cluster(name))
    }
    fn create_cluster(&self, _: &Call<'_>, request: CreateCluster) -> Reply<Cluster> {
        Ok(cluster(&request.name))
    }
    fn delete_cluster(&self, call: &Call<'_>, name: &ClusterName) -> Reply<ClusterDeleted> {
        if name.as_str() == "slow" {
            call.progress.set(1, 2);
            sys::clock::sleep(std::time::Duration::from_millis(600));
        }
        let id = ClusterId([7; 16]);
        Ok(ClusterDeleted { name: name.clone(), id, snapshots_kept: 1, shredded: None })
    }
    fn set_key(&self, _: &Call<'_>, name: &ClusterName, _: SetKey) -> Reply<ClusterChanged> {
        let cluster = cluster(name);
        Ok(ClusterChanged { cluster, rewrapped_snapshots: Vec::new(), shredded: None })
    }
    fn accept_log_loss(&self, _: &Call<'_>, name: &ClusterName) -> Reply<Cluster> {
        Ok(cluster(name))
    }
    fn mount(&self, _: &Call<'_>, name: &ClusterName, request: MountCluster) -> Reply<Mount> {
        Ok(Mount {
            mountpoint: request.mountpoint,
            cluster_name: name.clone(),
            snapshot_id: None,
            read_only: false,
            options: request.options,
            barrier: Some("handle".to_owned()),
            capabilities: Vec::new(),
            waiting_requests: None,
            oldest_request_ms: 0,
            already_mounted: false,
            locked: false,
        })
    }
    fn umount(&self, _: &Call<'_>, _: &ClusterName, _: Umount) -> Reply<List<Mount>> {
        mounts()
    }
    fn umount_snapshot(&self, _: &Call<'_>, _: &SnapshotPrefix, _: Umount) -> Reply<List<Mount>> {
        mounts()
    }
    fn umount_any(&self, _: &Call<'_>, _: UmountAny) -> Reply<List<Mount>> {
        mounts()
    }
    fn snapshots(&self, _: &Call<'_>, _: Option<&ClusterName>, _: bool) -> Reply<List<Snapshot>> {
        Ok(List { results: vec![snapshot()] })
    }
    fn snapshot(&self, _: &Call<'_>, _: &SnapshotPrefix, _: bool) -> Reply<Snapshot> {
        Ok(snapshot())
    }
    fn create_snapshots(&self, _: &Call<'_>, _: CreateSnapshots) -> Reply<List<Snapshot>> {
        Ok(List { results: vec![snapshot()] })
    }
    fn delete_snapshots(&self, _: &Call<'_>, r: DeleteSnapshots) -> Reply<SnapshotsDeleted> {
        let results = vec![snapshot()];
        Ok(SnapshotsDeleted { results, dry_run: r.dry_run, frees_bytes: 0, shredded: None })
    }
    fn restore(&self, _: &Call<'_>, _: &SnapshotPrefix, form: RestoreForm) -> Reply<Restored> {
        match form {
            RestoreForm::Mount { .. } => disabled(),
            RestoreForm::ToCluster(name) => Ok(Restored::Cluster(Box::new(cluster(&name)))),
            RestoreForm::InPlace { .. } => Ok(Restored::InPlace(Box::new(RestoredInPlace {
                cluster: cluster(&name()),
                safety_snapshot: snapshot(),
            }))),
        }
    }
    fn rewrap(&self, _: &Call<'_>, _: &[SnapshotPrefix], _: Rewrap) -> Reply<SnapshotsRewrapped> {
        Ok(SnapshotsRewrapped { results: vec![snapshot()], shredded: None })
    }
    fn hold(&self, _: &Call<'_>, _: &SnapshotPrefix, _: bool) -> Reply<Snapshot> {
        Ok(snapshot())
    }
    fn keys(&self, _: &Call<'_>, _: bool) -> Reply<List<Key>> {
        Ok(List { results: Vec::new() })
    }
    fn key(&self, _: &Call<'_>, id: &EncryptionKeyId, _: bool) -> Reply<Key> {
        Ok(key(id))
    }
    fn create_key(&self, _: &Call<'_>, _: CreateKey) -> Reply<Key> {
        Ok(key(&"k1".parse().unwrap()))
    }
    fn key_usage(&self, _: &Call<'_>, _: &EncryptionKeyId) -> Reply<KeyUsage> {
        Ok(KeyUsage {
            results: Vec::new(),
            safe_to_delete: true,
            scope: UsageScope {
                pool_id: PoolId([1; 16]),
                pool_path: "/p".to_owned(),
                clusters: 0,
                snapshots: 0,
            },
            also_reachable_via: Vec::new(),
            needing_former_key: Vec::new(),
        })
    }
    fn test_key(&self, _: &Call<'_>, id: &EncryptionKeyId) -> Reply<KeyTest> {
        let state = "enabled".to_owned();
        Ok(KeyTest { encryption_key_id: id.clone(), state, elapsed_ms: 1 })
    }
    fn enable_key(&self, _: &Call<'_>, id: &EncryptionKeyId) -> Reply<Key> {
        Ok(key(id))
    }
    fn disable_key(&self, _: &Call<'_>, id: &EncryptionKeyId) -> Reply<Key> {
        Ok(key(id))
    }
    fn delete_key(&self, _: &Call<'_>, id: &EncryptionKeyId, _: DeleteKey) -> Reply<Key> {
        Ok(key(id))
    }
    fn cancel_delete_key(&self, _: &Call<'_>, id: &EncryptionKeyId) -> Reply<Key> {
        Ok(key(id))
    }
    fn grow_pool(&self, _: &Call<'_>, _: GrowPool) -> Reply<Pool> {
        Ok(pool())
    }
    fn scrub(&self, _: &Call<'_>, _: ScrubRequest) -> Reply<Checked> {
        Ok(Checked::default())
    }
    fn resume_pool(&self, _: &Call<'_>) -> Reply<Pool> {
        Ok(pool())
    }
    fn root_secrets(&self, _: &Call<'_>) -> Reply<List<RootSecret>> {
        Ok(List { results: Vec::new() })
    }
    fn add_root_secret(&self, call: &Call<'_>, _: AddRootSecret) -> Reply<List<RootSecret>> {
        self.root_secrets(call)
    }
    fn remove_root_secret(&self, call: &Call<'_>, _: RemoveRootSecret) -> Reply<List<RootSecret>> {
        self.root_secrets(call)
    }
    fn shutdown(&self, _: &Call<'_>, _: Shutdown) -> Reply<()> {
        Ok(())
    }
}
