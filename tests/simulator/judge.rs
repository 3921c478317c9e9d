//! Opens what is left after the power went, with a service of its own, looks at all of it and
//! compares it with what it may be.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use strongroom::base::{KeyState, ProblemCode, Timestamp};
use strongroom::device::Device;
use strongroom::device::sim::SimDevice;
use strongroom::keys::{
    ConfigDir, Deadline, Keyring, LocalProvider, PoolConfig, Registry, envelope,
};
use strongroom::pool::Pool;
use strongroom::service::{OpenService, Service, ServiceError, UmountWhat, types};
use strongroom::sys::simulation::{self, Simulation};
use strongroom::verify;
use strongroom::volume::VolumeOptions;

use crate::disk::{CrashPoint, put_files};
use crate::expected::{Expected, Found, FoundSnapshot};
use crate::model::files::Tree;
use crate::model::volume::try_look;
use crate::mounter::{Mounts, place_of, request};

/// A service over a device, with nothing that goes on by itself.
pub fn open(
    device: Arc<dyn Device>,
    config: &Path,
    mounts: &Arc<Mounts>,
) -> Result<Arc<Service>, ServiceError> {
    let volumes = VolumeOptions {
        cached_inodes: 16,
        buffer_bytes: 256 << 10,
        background: false,
        ..VolumeOptions::default()
    };
    let mounter = Arc::clone(mounts);
    let options = OpenService {
        volumes,
        cache_bytes: 1 << 20,
        ..OpenService::new(device, "/simulated".into(), ConfigDir::new(config), mounter)
    };
    Service::open(options, &mut || None)
}

/// What is allocated is what is reached, once, by trees and logs that are whole.
pub fn check(pool: &Arc<Pool>, config: &PoolConfig) -> Result<(), String> {
    let options = verify::CheckOptions { items: &verify::volume_items, data: true };
    let mut registry = Registry::new();
    let keyring = Keyring::open(config).map_err(|error| error.to_string())?;
    registry.register(Arc::new(LocalProvider::new(Arc::new(keyring))));
    let id = pool.id();
    let report = verify::check(pool, &options, &mut |cluster, keys| {
        let deadline = Deadline::after(Duration::from_secs(1));
        envelope::open(&registry, id, cluster, keys, deadline).ok()
    });
    let findings: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
    if report.is_clean() { Ok(()) } else { Err(format!("check: {}", findings.join("; "))) }
}

/// A place and the service that was opened on a crash point there.
struct Court {
    _dir: tempfile::TempDir,
    device: Arc<SimDevice>,
    service: Arc<Service>,
    mounts: Arc<Mounts>,
    /// How much could not be read; `None`: all of it must.
    unread: Cell<Option<u32>>,
}

impl Court {
    fn open(device: Arc<SimDevice>, point: &CrashPoint) -> Result<Self, String> {
        let dir = tempfile::tempdir().unwrap();
        put_files(dir.path(), &point.config);
        let mounts = Arc::new(Mounts::default());
        let service = open(device.clone(), dir.path(), &mounts);
        let service = service.map_err(|error| format!("it does not open: {error}"))?;
        Ok(Self { _dir: dir, device, service, mounts, unread: Cell::new(None) })
    }

    fn check(&self) -> Result<(), String> {
        check(self.service.pool(), self.service.config())
    }

    fn found(&self) -> Result<Found, ServiceError> {
        let service = &self.service;
        let keys = service.keys(true)?.into_iter();
        let keys: BTreeMap<_, _> = keys
            .filter_map(|key| Some((key.encryption_key_id, key.state?)))
            .filter_map(|(id, answer)| match answer {
                strongroom::base::KeyAnswer::State(state) => Some((id, state)),
                _ => None,
            })
            .collect();
        let mut found = Found { keys, ..Found::default() };
        self.refused_without_keys(&found)?;
        for (id, state) in &found.keys {
            if *state == KeyState::PendingDeletion {
                service.cancel_delete_key(id)?;
            }
            if matches!(state, KeyState::Disabled | KeyState::PendingDeletion) {
                service.enable_key(id)?;
            }
        }
        for cluster in service.clusters(false)? {
            let name = cluster.name.as_str().to_owned();
            let place = place_of(&name);
            let mounted = self.mount(&cluster, &place);
            let tree = self.tree(mounted, &place)?;
            found.clusters.insert(name, (cluster.encryption_key_id, tree));
        }
        for snapshot in service.snapshots(None, false)? {
            let place = place_of(&snapshot.id.to_string());
            let prefix = snapshot.id.to_string().parse().expect("an id is a prefix of itself");
            let mounted = service.restore_mount(&prefix, request(place.clone()));
            let tree = self.tree(mounted.map(drop), &place)?;
            if self.mounts.volume(&place).is_some() {
                service.umount(&UmountWhat::Snapshot(&prefix), false)?;
            }
            let mark = (snapshot.created_at.secs(), snapshot.cluster_name.as_str().to_owned());
            let (id, key, held) = (snapshot.id, snapshot.encryption_key_id, snapshot.held);
            let expires = snapshot.expires_at;
            found.snapshots.insert(mark, FoundSnapshot { id, key, held, expires, tree });
        }
        Ok(found)
    }

    /// Mounts a cluster; where there is no room for a log, room is made.
    fn mount(&self, cluster: &types::Cluster, place: &Path) -> Result<(), ServiceError> {
        let mount = || self.service.mount(&cluster.name, request(place.to_owned())).map(drop);
        let outstanding = self.service.pool().is_outstanding(cluster.id)?;
        match mount() {
            // What a replay needs was promised, and its log has its place.
            Err(error) if error.code == ProblemCode::PoolFull && !outstanding => {
                self.device.limit_backing(None);
                simulation::pass(Duration::from_secs(2));
                mount()
            }
            done => done,
        }
    }

    /// Something is damaged, where that may be.
    fn unread(&self, error: ServiceError) -> Result<Option<Tree>, ServiceError> {
        let so_far = self.unread.get().filter(|_| error.code == ProblemCode::Corrupt);
        self.unread.set(Some(so_far.ok_or(error)? + 1));
        Ok(None)
    }

    /// What a key that is not usable guards cannot be mounted.
    fn refused_without_keys(&self, found: &Found) -> Result<(), ServiceError> {
        for cluster in self.service.clusters(false)? {
            let Some(key) = &cluster.encryption_key_id else { continue };
            if found.keys.get(key).is_some_and(|state| *state != KeyState::Enabled) {
                let place = place_of(cluster.name.as_str());
                let mounted = self.service.mount(&cluster.name, request(place));
                let status = mounted.as_ref().err().map(|error| error.code.exit_status());
                assert_eq!(status, Some(3), "{}: {mounted:?}", cluster.name);
            }
        }
        Ok(())
    }

    /// What is mounted at a place, or would be; `None` where its key is gone.
    fn tree(
        &self,
        mounted: Result<(), ServiceError>,
        place: &Path,
    ) -> Result<Option<Tree>, ServiceError> {
        match mounted {
            Ok(()) => {
                let seen = self.mounts.volume(place).map(|volume| try_look(&volume)).transpose();
                seen.or_else(|error| self.unread(error.into()))
            }
            Err(error) if error.code.exit_status() == 3 => Ok(None),
            Err(error) if error.code == ProblemCode::Corrupt => self.unread(error),
            // A snapshot of a cluster whose creation did not come to its end.
            Err(error) if error.code == ProblemCode::MountFailed => Ok(Some(Tree::new())),
            Err(error) => Err(error),
        }
    }
}

/// Judges a crash point by the first of `allowed` that it does not contradict. Returns which, and
/// what was found.
pub fn judge(point: &CrashPoint, allowed: &[&Expected]) -> Result<(usize, Found), String> {
    let _time = Simulation::begin(point.seed, point.time);
    let court = Court::open(point.device.copy_without_cache(), point)?;
    court.check()?;
    let found = court.found().map_err(|error| error.to_string())?;
    let mut contradictions = Vec::new();
    for (index, expected) in allowed.iter().enumerate() {
        match expected.contradiction(&found) {
            None => {
                court.end()?;
                return Ok((index, found));
            }
            Some(what) => contradictions.push(what),
        }
    }
    Err(contradictions.join("\n  or: "))
}

/// Judges a pool that was closed and of which a block was damaged since: nothing is found to be
/// other than `expected`; what cannot be read, the check names. Returns whether the damage was told.
pub fn judge_damage(point: &CrashPoint, expected: &Expected) -> Result<bool, String> {
    let _time = Simulation::begin(point.seed, point.time);
    let Ok(court) = Court::open(point.device.copy_without_cache(), point) else { return Ok(true) };
    court.unread.set(Some(0));
    let checked = court.check();
    let found = match court.found() {
        Ok(found) => found,
        Err(error) if error.code == ProblemCode::Corrupt && checked.is_err() => return Ok(true),
        Err(error) => return Err(error.to_string()),
    };
    match (expected.contradiction(&found), court.unread.get(), &checked) {
        (Some(what), _, _) => Err(what),
        (None, Some(1..), Ok(())) => {
            Err("what cannot be read is not found by the check".to_owned())
        }
        _ => Ok(checked.is_err()),
    }
}

impl Court {
    /// After replays, and after what is left to be freed was freed, everything is whole still.
    fn end(self) -> Result<(), String> {
        let told = |error: ServiceError| error.to_string();
        for volume in self.mounts.volumes() {
            while volume.background_step().map_err(|error| error.to_string())? {}
        }
        self.service.unmount_all(true, true).map_err(told)?;
        let mut steps = 0;
        while self.service.tick_background().map_err(told)? {
            steps += 1;
            assert!(steps < 10_000, "the work in the background does not end");
        }
        self.check()?;
        self.service.close(true, true).map_err(told)
    }
}

/// When every history begins.
pub const START: Timestamp = Timestamp::from_secs(1_800_000_000);
