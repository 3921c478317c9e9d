//! The control socket's requests as uses of the service.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::base::ids::{IdError, SnapshotPrefix};
use crate::base::{ClusterName, EncryptionKeyId, ProblemCode, limits};
use crate::control::types::*;
use crate::control::{Api, Call, Gauge, Problem, Reply};
use crate::daemon::audit::Audit;
use crate::daemon::ending::{End, Ender};
use crate::daemon::{told, told_check};
use crate::device;
use crate::service::types::PoolState as InnerState;
use crate::service::{
    MountOwner, MountRequest, RootSecretSpec, ScrubWhat, Service, UmountWhat, Which,
};

/// What answers on the control socket.
pub(in crate::daemon) struct DaemonApi {
    pub service: Arc<Service>,
    pub ender: Ender,
    /// What was done, and by whom.
    pub audit: Arc<Audit>,
    /// What was found wrong with this machine when the daemon started.
    pub warnings: Vec<String>,
}

fn request(call: &Call<'_>, mountpoint: &str, options: Vec<String>) -> Reply<MountRequest> {
    let mountpoint = PathBuf::from(mountpoint);
    if !mountpoint.is_absolute() {
        let detail = format!("the mount point '{}' is not an absolute path", mountpoint.display());
        return Err(Problem::new(ProblemCode::MountPoint, detail)
            .with_hint("write the whole path, from / on"));
    }
    Ok(MountRequest {
        mountpoint,
        options,
        owner: owner(call),
        // Both are filled in by the service.
        cluster_name: "x".parse().map_err(|_| told::usage("no cluster"))?,
        snapshot: None,
    })
}

fn or_none(key: Option<&EncryptionKeyId>) -> &str {
    key.map_or("none", EncryptionKeyId::as_str)
}

fn joined<T: ToString>(all: &[T]) -> String {
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn clusters_text(request: &CreateSnapshots) -> String {
    if request.all { "all".to_owned() } else { joined(&request.clusters) }
}

/// What is ended, and whether by force.
fn forced(what: String, force: bool) -> String {
    if force { format!("{what} --force").trim_start().to_owned() } else { what }
}

/// What a restore makes of a snapshot.
fn form_text(form: &RestoreForm) -> String {
    match form {
        RestoreForm::Mount { mountpoint, .. } => format!("at {mountpoint}"),
        RestoreForm::ToCluster(name) => format!("to cluster {name}"),
        RestoreForm::InPlace { .. } => "in place".to_owned(),
    }
}

const fn owner(call: &Call<'_>) -> MountOwner {
    MountOwner { uid: call.peer.uid, gid: call.peer.gid }
}

impl DaemonApi {
    fn unmount(&self, call: &Call<'_>, what: &UmountWhat<'_>, force: bool) -> Reply<List<Mount>> {
        let subject = match what {
            UmountWhat::Cluster(name) => name.to_string(),
            UmountWhat::Snapshot(id) => id.to_string(),
            UmountWhat::Place(place) => place.display().to_string(),
        };
        self.audit.record(call, "umount", &forced(subject, force), || {
            let gone = match (self.service.umount(what, force).map_err(told::problem), what) {
                // Nobody serves what is there: a daemon that is gone may have left it.
                (Err(problem), UmountWhat::Place(place))
                    if problem.code == ProblemCode::NotMounted =>
                {
                    let cleared = self.service.clear_dead_mount(place, owner(call));
                    if !cleared.map_err(told::problem)? {
                        return Err(problem);
                    }
                    Vec::new()
                }
                (gone, _) => gone?,
            };
            Ok(told::list(gone, told::mount))
        })
    }
}

impl Api for DaemonApi {
    fn check_pool(&self, named: &Path) -> Reply<()> {
        let own = self.service.pool_path();
        if named == own {
            return Ok(());
        }
        let identity = |path| {
            let (place, _) = device::locate(path).ok()?;
            std::fs::metadata(place).ok().map(|m| (m.dev(), m.ino()))
        };
        if identity(own).is_some_and(|own| identity(named) == Some(own)) {
            return Ok(());
        }
        let (own, named) = (own.display(), named.display());
        let detail = format!("the socket is that of the pool {own}, and --pool names {named}");
        Err(Problem::new(ProblemCode::Config, detail)
            .with_hint(format!("leave out --socket and STRONGROOM_SOCKET, or name {own}")))
    }

    fn status(&self, _: &Call<'_>, refresh: bool) -> Reply<Status> {
        let status = self.service.status(refresh).map_err(told::problem)?;
        Ok(told::status(status, &self.warnings))
    }

    fn gauges(&self) -> Vec<Gauge> {
        gauges(&self.service)
    }

    fn clusters(&self, _: &Call<'_>, refresh: bool) -> Reply<List<Cluster>> {
        let all = self.service.clusters(refresh).map_err(told::problem)?;
        Ok(told::list(all, told::cluster))
    }

    fn cluster(&self, _: &Call<'_>, name: &ClusterName, refresh: bool) -> Reply<Cluster> {
        self.service.cluster(name, refresh).map(told::cluster).map_err(told::problem)
    }

    fn create_cluster(&self, call: &Call<'_>, r: CreateCluster) -> Reply<Cluster> {
        self.audit.record(call, "cluster.create", &r.name.to_string(), || {
            let key = r.encryption_key_id.as_ref();
            let made = self.service.create_cluster(&r.name, key, owner(call));
            made.map(told::cluster).map_err(told::problem)
        })
    }

    fn delete_cluster(&self, call: &Call<'_>, name: &ClusterName) -> Reply<ClusterDeleted> {
        self.audit.record(call, "cluster.delete", &name.to_string(), || {
            self.service.delete_cluster(name).map(told::cluster_deleted).map_err(told::problem)
        })
    }

    fn set_key(&self, call: &Call<'_>, name: &ClusterName, r: SetKey) -> Reply<ClusterChanged> {
        self.audit.record(
            call,
            "cluster.set-key",
            &format!("{name} {}", or_none(r.encryption_key_id.as_ref())),
            || {
                let changed = self.service.set_key(name, r.encryption_key_id.as_ref(), r.snapshots);
                changed.map(told::cluster_changed).map_err(told::problem)
            },
        )
    }

    fn accept_log_loss(&self, call: &Call<'_>, name: &ClusterName) -> Reply<Cluster> {
        self.audit.record(call, "cluster.accept-log-loss", &name.to_string(), || {
            self.service.accept_log_loss(name).map(told::cluster).map_err(told::problem)
        })
    }

    fn mount(&self, call: &Call<'_>, name: &ClusterName, r: MountCluster) -> Reply<Mount> {
        self.audit.record(call, "mount", &format!("{name} at {}", r.mountpoint), || {
            let request = request(call, &r.mountpoint, r.options)?;
            self.service.mount(name, request).map(told::mount).map_err(told::problem)
        })
    }

    fn umount(&self, call: &Call<'_>, name: &ClusterName, r: Umount) -> Reply<List<Mount>> {
        self.unmount(call, &UmountWhat::Cluster(name), r.force)
    }

    fn umount_snapshot(
        &self,
        call: &Call<'_>,
        id: &SnapshotPrefix,
        r: Umount,
    ) -> Reply<List<Mount>> {
        self.unmount(call, &UmountWhat::Snapshot(id), r.force)
    }

    fn umount_any(&self, call: &Call<'_>, r: UmountAny) -> Reply<List<Mount>> {
        match (&r.mountpoint, r.all) {
            (Some(place), false) => {
                self.unmount(call, &UmountWhat::Place(Path::new(place)), r.force)
            }
            (None, true) => {
                let subject = forced("all".to_owned(), r.force);
                self.audit.record(call, "umount", &subject, || {
                    let gone = self.service.unmount_all(r.force, true).map_err(told::problem)?;
                    Ok(told::list(gone, told::mount))
                })
            }
            _ => {
                let detail = "umount takes exactly one of mountpoint and all";
                Err(Problem::new(ProblemCode::BadRequest, detail))
            }
        }
    }

    fn snapshots(
        &self,
        _: &Call<'_>,
        cluster: Option<&ClusterName>,
        refresh: bool,
    ) -> Reply<List<Snapshot>> {
        let all = self.service.snapshots(cluster, refresh).map_err(told::problem)?;
        Ok(told::list(all, told::snapshot))
    }

    fn snapshot(&self, _: &Call<'_>, id: &SnapshotPrefix, refresh: bool) -> Reply<Snapshot> {
        self.service.snapshot(id, refresh).map(told::snapshot).map_err(told::problem)
    }

    fn create_snapshots(&self, call: &Call<'_>, r: CreateSnapshots) -> Reply<List<Snapshot>> {
        self.audit.record(call, "snapshot.create", &clusters_text(&r), || {
            let bad = |detail: &str| Err(Problem::new(ProblemCode::BadRequest, detail));
            let which = match (r.all, r.clusters.is_empty()) {
                (true, true) => Which::All,
                (false, false) => Which::Named(r.clusters),
                _ => return bad("a snapshot is of clusters, or of all"),
            };
            if r.description.len() > limits::DESCRIPTION_BYTES_MAX {
                return bad("the description is longer than 1024 bytes");
            }
            let made = self.service.create_snapshots(&which, r.retain, &r.description);
            Ok(told::list(made.map_err(told::problem)?, told::snapshot))
        })
    }

    fn delete_snapshots(&self, call: &Call<'_>, r: DeleteSnapshots) -> Reply<SnapshotsDeleted> {
        self.audit.record(
            call,
            if r.dry_run { "snapshot.delete-dry-run" } else { "snapshot.delete" },
            &joined(&r.ids),
            || {
                if r.ids.is_empty() {
                    let detail = "no snapshot is named";
                    return Err(Problem::new(ProblemCode::BadRequest, detail));
                }
                let deleted = self.service.delete_snapshots(&r.ids, r.dry_run);
                deleted.map(told::snapshots_deleted).map_err(told::problem)
            },
        )
    }

    fn restore(&self, call: &Call<'_>, id: &SnapshotPrefix, form: RestoreForm) -> Reply<Restored> {
        self.audit.record(call, "snapshot.restore", &format!("{id} {}", form_text(&form)), || {
            match form {
                RestoreForm::Mount { mountpoint, options } => {
                    let request = request(call, &mountpoint, options)?;
                    let mounted = self.service.restore_mount(id, request).map_err(told::problem)?;
                    Ok(Restored::Mount(Box::new(told::mount(mounted))))
                }
                RestoreForm::ToCluster(name) => {
                    let made = self.service.restore_to_cluster(id, &name).map_err(told::problem)?;
                    Ok(Restored::Cluster(Box::new(told::cluster(made))))
                }
                RestoreForm::InPlace { retain } => {
                    let done = self.service.restore_in_place(id, retain).map_err(told::problem)?;
                    Ok(told::in_place(done))
                }
            }
        })
    }

    fn rewrap(
        &self,
        call: &Call<'_>,
        ids: &[SnapshotPrefix],
        r: Rewrap,
    ) -> Reply<SnapshotsRewrapped> {
        self.audit.record(
            call,
            "snapshot.rewrap",
            &format!("{} {}", joined(ids), r.encryption_key_id),
            || {
                let done = self.service.rewrap(ids, &r.encryption_key_id);
                done.map(told::rewrapped).map_err(told::problem)
            },
        )
    }

    fn hold(&self, call: &Call<'_>, id: &SnapshotPrefix, held: bool) -> Reply<Snapshot> {
        self.audit.record(
            call,
            if held { "snapshot.hold" } else { "snapshot.release" },
            &id.to_string(),
            || self.service.hold(id, held).map(told::snapshot).map_err(told::problem),
        )
    }

    fn keys(&self, _: &Call<'_>, refresh: bool) -> Reply<List<Key>> {
        let all = self.service.keys(refresh).map_err(told::problem)?;
        Ok(told::list(all, told::key))
    }

    fn key(&self, _: &Call<'_>, id: &EncryptionKeyId, refresh: bool) -> Reply<Key> {
        self.service.key(id, refresh).map(told::key).map_err(told::problem)
    }

    fn create_key(&self, call: &Call<'_>, r: CreateKey) -> Reply<Key> {
        self.audit.record(call, "key.create", r.name.as_deref().unwrap_or_default(), || {
            let made = self.service.create_key(r.name.as_deref(), r.deletion_wait);
            let mut key = told::key(made.map_err(told::problem)?);
            key.keys_not_backed_up = Some(self.service.keys_not_backed_up());
            Ok(key)
        })
    }

    fn key_usage(&self, _: &Call<'_>, id: &EncryptionKeyId) -> Reply<KeyUsage> {
        self.service.key_usage(id).map(told::key_usage).map_err(told::problem)
    }

    fn test_key(&self, call: &Call<'_>, id: &EncryptionKeyId) -> Reply<KeyTest> {
        self.audit.record(call, "key.test", id.as_str(), || {
            self.service.test_key(id).map(told::key_test).map_err(told::problem)
        })
    }

    fn enable_key(&self, call: &Call<'_>, id: &EncryptionKeyId) -> Reply<Key> {
        self.audit.record(call, "key.enable", id.as_str(), || {
            self.service.enable_key(id).map(told::key).map_err(told::problem)
        })
    }

    fn disable_key(&self, call: &Call<'_>, id: &EncryptionKeyId) -> Reply<Key> {
        self.audit.record(call, "key.disable", id.as_str(), || {
            self.service.disable_key(id).map(told::key).map_err(told::problem)
        })
    }

    fn delete_key(&self, call: &Call<'_>, id: &EncryptionKeyId, r: DeleteKey) -> Reply<Key> {
        self.audit.record(call, "key.delete", id.as_str(), || {
            if let Some(other) = r.force.as_ref().filter(|named| *named != id) {
                let detail = format!("--force names the key '{other}', and '{id}' is to go");
                return Err(told::usage(detail)
                    .with_hint(format!("name it again: strongroom key delete {id} --force {id}")));
            }
            let deleted = self.service.delete_key(id, r.after, r.force.as_ref());
            deleted.map(told::key).map_err(told::problem)
        })
    }

    fn cancel_delete_key(&self, call: &Call<'_>, id: &EncryptionKeyId) -> Reply<Key> {
        self.audit.record(call, "key.cancel-delete", id.as_str(), || {
            self.service.cancel_delete_key(id).map(told::key).map_err(told::problem)
        })
    }

    fn grow_pool(&self, call: &Call<'_>, r: GrowPool) -> Reply<Pool> {
        self.audit.record(call, "pool.grow", &r.size_bytes.to_string(), || {
            self.service.grow_pool(r.size_bytes).map_err(told::problem)?;
            Ok(told::pool(self.service.pool_status()))
        })
    }

    fn scrub(&self, call: &Call<'_>, r: ScrubRequest) -> Reply<Checked> {
        let bad = |e: IdError| told::usage(e.to_string());
        let what = match r.what.as_deref() {
            None => ScrubWhat::All,
            Some(id) if id.starts_with("snap-") => {
                let prefix: SnapshotPrefix = id.parse().map_err(bad)?;
                ScrubWhat::Snapshot(self.service.resolve(&prefix).map_err(told::problem)?)
            }
            Some(name) => ScrubWhat::Cluster(name.parse().map_err(bad)?),
        };
        let progress = |done, total| call.progress.set(done, total);
        let report = self.service.scrub(&what, r.rate_bytes, &progress).map_err(told::problem)?;
        Ok(told_check::checked(&report, &[]))
    }

    fn resume_pool(&self, call: &Call<'_>) -> Reply<Pool> {
        let status = self.service.pool_status();
        if matches!(status.state, InnerState::ReadOnly(_)) {
            // What the device holds decides, and only opening reads it (docs/decisions/031).
            let (uid, pid) = (call.peer.uid, call.peer.pid);
            log::warn!("ends to be started again: resume by user {uid} (process {pid})");
            self.audit.record(call, "pool.resume", "", || {
                self.service.check_may_end().map_err(told::problem)?;
                self.ender.end_and_wait(End::resuming())
            })?;
        }
        Ok(told::pool(status))
    }

    fn root_secrets(&self, _: &Call<'_>) -> Reply<List<RootSecret>> {
        Ok(told::list(self.service.root_secrets(), told::root_secret))
    }

    fn add_root_secret(&self, call: &Call<'_>, mut r: AddRootSecret) -> Reply<List<RootSecret>> {
        self.audit.record(call, "root-secret.add", &r.spec.clone(), || {
            may_change_root_secrets(call.peer.uid)?;
            let spec: RootSecretSpec = r.spec.parse().map_err(told::problem)?;
            let passphrase = r.passphrase.take().map(|text| Zeroizing::new(text.into_bytes()));
            let all =
                self.service.add_root_secret(&spec, passphrase.as_ref().map(|p| p.as_slice()));
            Ok(told::list(all.map_err(told::problem)?, told::root_secret))
        })
    }

    fn remove_root_secret(&self, call: &Call<'_>, r: RemoveRootSecret) -> Reply<List<RootSecret>> {
        self.audit.record(call, "root-secret.remove", &r.spec.clone(), || {
            may_change_root_secrets(call.peer.uid)?;
            let spec: RootSecretSpec = r.spec.parse().map_err(told::problem)?;
            let all = self.service.remove_root_secret(&spec).map_err(told::problem)?;
            Ok(told::list(all, told::root_secret))
        })
    }

    fn shutdown(&self, call: &Call<'_>, r: Shutdown) -> Reply<()> {
        log::info!("shutdown asked for by user {} (process {})", call.peer.uid, call.peer.pid);
        self.audit.record(call, "shutdown", &forced(String::new(), r.force), || {
            if !r.force {
                self.service.check_may_end().map_err(told::problem)?;
            }
            self.ender.end_and_wait(End::asked(r.force))
        })
    }
}

/// What opens the pool is for its owner and root: the daemon reads and makes files for it with its
/// own rights, and an administrators' group has others.
fn may_change_root_secrets(uid: u32) -> Reply<()> {
    if uid == 0 || uid == crate::sys::process::euid() {
        return Ok(());
    }
    let detail = "root secrets are changed by root and the user that the daemon runs as only";
    Err(Problem::new(ProblemCode::Forbidden, detail))
}

fn gauges(service: &Service) -> Vec<Gauge> {
    let gauge =
        |name, help, value: u64| Gauge { name, help, labels: Vec::new(), value: value as f64 };
    let pool = service.pool_status();
    let writable = u64::from(!matches!(pool.state, InnerState::ReadOnly(_)));
    let mut out = vec![
        gauge("pool_size_bytes", "Size of the pool.", pool.size_bytes),
        gauge("pool_used_bytes", "Bytes in use.", pool.used_bytes),
        gauge("pool_free_bytes", "Bytes free for data.", pool.free_bytes),
        gauge("pool_pending_free_bytes", "Bytes freed, not yet usable.", pool.pending_free_bytes),
        gauge("pool_generation", "The last durable checkpoint.", pool.generation),
        gauge("pool_writable", "Whether the pool takes changes.", writable),
        gauge("resident_bytes", "Memory of the daemon.", crate::sys::process::resident_bytes()),
    ];
    let mounts = service.mounts();
    let per_mount = |name, help, value: &dyn Fn(&crate::service::types::Mount) -> u64| {
        mounts
            .iter()
            .map(|m| Gauge {
                name,
                help,
                labels: vec![("mountpoint", m.mountpoint.to_string_lossy().into_owned())],
                value: value(m) as f64,
            })
            .collect::<Vec<_>>()
    };
    out.extend(per_mount("mount_locked", "Whether the mount waits for its key.", &|m| {
        u64::from(m.locked)
    }));
    out.extend(per_mount("mount_oldest_request_ms", "Age of the oldest request.", &|m| {
        u64::try_from(m.facts.oldest_request.as_millis()).unwrap_or(u64::MAX)
    }));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_administrator_does_not_change_what_opens_the_pool() {
        assert!(may_change_root_secrets(0).is_ok());
        assert!(may_change_root_secrets(crate::sys::process::euid()).is_ok());
        let refused = may_change_root_secrets(u32::MAX - 1).unwrap_err();
        assert_eq!(refused.code, ProblemCode::Forbidden);
    }
}
