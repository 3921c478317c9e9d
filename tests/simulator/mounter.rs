//! Mounts in memory: the volumes that a kernel would send its requests to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use strongroom::base::ClusterName;
use strongroom::keys::Deadline;
use strongroom::service::{
    MountFacts, MountId, MountMeaning, MountOwner, MountRequest, Mounter, ServiceError,
};
use strongroom::sys::sync::{Mutex, Rank};
use strongroom::volume::Volume;

pub const OWNER: MountOwner = MountOwner { uid: 0, gid: 0 };

/// What is mounted, and where; nothing, where it waits for its key.
type Mount = (Option<Arc<Volume>>, PathBuf);

pub struct Mounts(Mutex<BTreeMap<MountId, Mount>>);

impl Default for Mounts {
    fn default() -> Self {
        Self(Mutex::new(Rank::Test, BTreeMap::new()))
    }
}

/// Where the head of a cluster is mounted.
pub fn place_of(cluster: &str) -> PathBuf {
    Path::new("/mnt").join(cluster)
}

/// How it is asked for.
pub fn request(place: PathBuf) -> MountRequest {
    let cluster_name: ClusterName = "unset".parse().unwrap();
    MountRequest {
        mountpoint: place,
        options: Vec::new(),
        owner: OWNER,
        cluster_name,
        snapshot: None,
    }
}

impl Mounts {
    /// The volume that is mounted at a place.
    pub fn volume(&self, place: &Path) -> Option<Arc<Volume>> {
        let mounts = self.0.lock();
        mounts.values().find(|(_, at)| at == place).and_then(|(volume, _)| volume.clone())
    }

    /// Everything that is mounted.
    pub fn volumes(&self) -> Vec<Arc<Volume>> {
        self.0.lock().values().filter_map(|(volume, _)| volume.clone()).collect()
    }
}

impl Mounter for Mounts {
    fn check(&self, _: &MountRequest) -> Result<MountMeaning, ServiceError> {
        Ok(MountMeaning::default())
    }
    fn mount(
        &self,
        id: MountId,
        volume: Option<Arc<Volume>>,
        request: &MountRequest,
    ) -> Result<(), ServiceError> {
        self.0.lock().insert(id, (volume, request.mountpoint.clone()));
        Ok(())
    }
    fn unlock(&self, id: MountId, volume: Arc<Volume>) -> Result<(), ServiceError> {
        if let Some(mount) = self.0.lock().get_mut(&id) {
            mount.0 = Some(volume);
        }
        Ok(())
    }
    fn umount(&self, id: MountId, _: bool) -> Result<(), ServiceError> {
        self.0.lock().remove(&id);
        Ok(())
    }
    fn settle(&self, _: &[MountId], _: Deadline) -> Result<(), ServiceError> {
        Ok(())
    }
    fn facts(&self, _: MountId) -> MountFacts {
        MountFacts::default()
    }
}
