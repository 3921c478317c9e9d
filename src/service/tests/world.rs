//! A pool, a configuration directory, a clock, a mounter and a key provider, all in hand.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::ids::SnapshotPrefix;
use crate::base::{ClusterName, EncryptionKeyId, PoolId, ProblemCode, SnapshotId, Timestamp};
use crate::crypto::{EngineKey, EngineWrapKind};
use crate::device::Device;
use crate::device::sim::SimDevice;
use crate::keys::fake::FakeProvider;
use crate::keys::{ConfigDir, Deadline, root_secret, wrap_engine_key};
use crate::pool::{self, CreateOptions};
use crate::service::UmountWhat;
use crate::service::types::Mount;
use crate::service::{
    MountFacts, MountId, MountMeaning, MountOwner, MountRequest, Mounter, OpenService, Service,
    ServiceError, Which,
};
use crate::sys::random;
use crate::sys::sync::{Mutex, Rank};
use crate::volume::{Caller, OpenFlags, ROOT_INODE, Volume};

pub const OWNER: MountOwner = MountOwner { uid: 1000, gid: 1000 };
const CALLER: Caller = Caller { uid: 1000, gid: 1000, umask: 0, pid: 1 };

/// Mounts in memory only.
pub struct FakeMounter {
    pub state: Mutex<FakeMounts>,
}

impl Default for FakeMounter {
    fn default() -> Self {
        Self { state: Mutex::new(Rank::Test, FakeMounts::default()) }
    }
}

#[derive(Default)]
pub struct FakeMounts {
    pub mounts: BTreeMap<MountId, (Option<Arc<Volume>>, MountRequest)>,
    pub busy: bool,
    pub refuse_mount: bool,
    pub barrier_fails: bool,
    pub settled: Vec<Vec<MountId>>,
}

impl Mounter for FakeMounter {
    fn check(&self, request: &MountRequest) -> Result<MountMeaning, ServiceError> {
        let mut meaning = MountMeaning::default();
        for option in &request.options {
            match option.as_str() {
                "ro" => meaning.read_only = true,
                "key_wait" => meaning.key_wait = true,
                other => {
                    let what = format!("unknown mount option '{other}'");
                    return Err(ServiceError::new(ProblemCode::Usage, what));
                }
            }
        }
        Ok(meaning)
    }

    fn mount(
        &self,
        id: MountId,
        volume: Option<Arc<Volume>>,
        request: &MountRequest,
    ) -> Result<(), ServiceError> {
        let mut state = self.state.lock();
        if state.refuse_mount {
            return Err(ServiceError::new(ProblemCode::MountFailed, "mount(2) failed"));
        }
        state.mounts.insert(id, (volume, request.clone()));
        Ok(())
    }

    fn unlock(&self, id: MountId, volume: Arc<Volume>) -> Result<(), ServiceError> {
        if let Some(mount) = self.state.lock().mounts.get_mut(&id) {
            mount.0 = Some(volume);
        }
        Ok(())
    }

    fn umount(&self, id: MountId, force: bool) -> Result<(), ServiceError> {
        let mut state = self.state.lock();
        if state.busy && !force {
            return Err(ServiceError::new(ProblemCode::Busy, "files are open"));
        }
        state.mounts.remove(&id);
        Ok(())
    }

    fn settle(&self, mounts: &[MountId], _: Deadline) -> Result<(), ServiceError> {
        let mut state = self.state.lock();
        if state.barrier_fails {
            return Err(ServiceError::new(ProblemCode::BarrierFailed, "no answer"));
        }
        state.settled.push(mounts.to_vec());
        Ok(())
    }

    fn facts(&self, _: MountId) -> MountFacts {
        MountFacts { barrier: Some("handle"), ..MountFacts::default() }
    }
}

pub struct World {
    pub device: Arc<SimDevice>,
    pub dir: tempfile::TempDir,
    pub mounter: Arc<FakeMounter>,
    pub fake: Arc<FakeProvider>,
    pub time: Arc<Mutex<Timestamp>>,
    pub service: Arc<Service>,
}

pub fn name(text: &str) -> ClusterName {
    text.parse().unwrap()
}

pub fn prefix(id: SnapshotId) -> SnapshotPrefix {
    id.to_string().parse().unwrap()
}

pub fn request(place: &str) -> MountRequest {
    MountRequest {
        mountpoint: PathBuf::from(place),
        options: Vec::new(),
        owner: OWNER,
        cluster_name: name("unset"),
        snapshot: None,
    }
}

fn start() -> Timestamp {
    Timestamp::from_secs(1_800_000_000)
}

fn open(
    device: Arc<dyn Device>,
    dir: &std::path::Path,
    mounter: &Arc<FakeMounter>,
    fake: &Arc<FakeProvider>,
    time: &Arc<Mutex<Timestamp>>,
) -> Result<Arc<Service>, ServiceError> {
    let time = time.clone();
    let options = OpenService {
        providers: vec![fake.clone()],
        clock: Arc::new(move || *time.lock()),
        ..OpenService::new(
            device,
            PathBuf::from("/pool"),
            ConfigDir::new(dir.join("config")),
            mounter.clone(),
        )
    };
    Service::open(options, &mut || None)
}

impl World {
    pub fn new() -> Self {
        let device = SimDevice::new(256 << 20);
        let dir = tempfile::tempdir().unwrap();
        let id = PoolId(random::array());
        let config = ConfigDir::new(dir.path().join("config")).pool(&id);
        config.ensure().unwrap();
        let secret = root_secret::create_secret_file(&config.root_key()).unwrap();
        let engine = EngineKey::random();
        let wrap = wrap_engine_key(&id, EngineWrapKind::File, "", &secret, None, &engine).unwrap();
        let dynamic: Arc<dyn Device> = device.clone();
        let options = CreateOptions {
            pool_id: id,
            node_bytes: pool::NODE_BYTES,
            engine_key: engine,
            wraps: vec![wrap],
            now: start(),
        };
        pool::create(&dynamic, options).unwrap();
        let (mounter, fake) = (Arc::new(FakeMounter::default()), Arc::new(FakeProvider::new()));
        let time = Arc::new(Mutex::new(Rank::StandIn, start()));
        let service = open(dynamic, dir.path(), &mounter, &fake, &time).unwrap();
        Self { device, dir, mounter, fake, time, service }
    }

    /// What is there after the power failed.
    pub fn crashed(self, seed: u64) -> Self {
        let device = self.device.crash(seed);
        self.mounter.state.lock().mounts.clear();
        drop(self.service);
        let dynamic: Arc<dyn Device> = device.clone();
        let service =
            open(dynamic, self.dir.path(), &self.mounter, &self.fake, &self.time).unwrap();
        Self { device, service, ..self }
    }

    /// Stopped (keeping its mount records, as by a signal) and started again.
    pub fn restarted(self) -> Self {
        self.service.close(true, false).unwrap();
        self.reopened().unwrap()
    }

    pub fn reopened(self) -> Result<Self, ServiceError> {
        drop(self.service);
        let dynamic: Arc<dyn Device> = self.device.clone();
        let service = open(dynamic, self.dir.path(), &self.mounter, &self.fake, &self.time)?;
        Ok(Self { service, ..self })
    }

    pub fn pass(&self, seconds: u64) {
        let mut time = self.time.lock();
        *time = time.plus_secs(seconds);
    }

    /// Time goes on hour by hour, with the daemon running.
    pub fn live(&self, hours: u64) {
        for _ in 0..hours {
            self.pass(3600);
            self.service.tick_minute();
        }
    }

    pub fn local_key(&self, text: &str) -> EncryptionKeyId {
        self.service.create_key(Some(text), None).unwrap().encryption_key_id
    }

    pub fn create(&self, cluster: &str, key: Option<&EncryptionKeyId>) {
        self.service.create_cluster(&name(cluster), key, OWNER).unwrap();
    }

    pub fn mount(&self, cluster: &str) -> Mount {
        self.service.mount(&name(cluster), request(&format!("/mnt/{cluster}"))).unwrap()
    }

    pub fn umount(&self, cluster: &str) {
        self.service.umount(&UmountWhat::Cluster(&name(cluster)), false).unwrap();
    }

    pub fn snap(&self, cluster: &str) -> SnapshotId {
        let which = Which::Named(vec![name(cluster)]);
        self.service.create_snapshots(&which, None, "").unwrap()[0].id
    }

    /// The volume that is mounted at a place.
    pub fn volume(&self, place: &str) -> Arc<Volume> {
        let state = self.mounter.state.lock();
        let found = state.mounts.values().find(|(_, r)| r.mountpoint == Path::new(place));
        found.and_then(|(volume, _)| volume.clone()).expect("a volume is mounted there")
    }

    pub fn write(&self, place: &str, file: &str, data: &[u8]) {
        let volume = self.volume(place);
        let flags = OpenFlags { write: true, truncate: true };
        let (ino, handle) = match volume.lookup(ROOT_INODE, file.as_bytes()) {
            Ok(entry) => (entry.attr.ino, volume.open(entry.attr.ino, flags).unwrap()),
            Err(_) => {
                let (entry, handle) =
                    volume.create(ROOT_INODE, file.as_bytes(), 0o644, flags, &CALLER).unwrap();
                (entry.attr.ino, handle)
            }
        };
        assert_eq!(volume.write(ino, 0, data, true).unwrap(), data.len());
        volume.release(handle).unwrap();
    }

    pub fn read(&self, place: &str, file: &str) -> Option<Vec<u8>> {
        let volume = self.volume(place);
        let entry = volume.lookup(ROOT_INODE, file.as_bytes()).ok()?;
        let mut found = Vec::new();
        let len = entry.attr.size as usize;
        volume.read(entry.attr.ino, 0, len, &mut |bytes| found.extend_from_slice(bytes)).unwrap();
        Some(found)
    }
}
