//! Everything at a glance.

use crate::base::units::BLOCK_SIZE_U64;
use crate::base::{KeyAnswer, KeyState};
use crate::keys::backup;
use crate::service::Service;
use crate::service::error::ServiceError;
use crate::service::mounts::Stage;
use crate::service::offline;
use crate::service::types::{
    BackgroundWork, Cluster, ClusterState, EncryptionStatus, PoolStatus, Status,
};
use crate::sys::{process, secret_memory};

impl Service {
    /// The pool as it stands.
    #[must_use]
    pub fn pool_status(&self) -> PoolStatus {
        let pool = self.pool();
        let space = pool.space();
        let being_freed = self.catalog.blocks_being_freed().unwrap_or_else(|error| {
            log::warn!("how much is being freed is not known: {error}");
            0
        });
        PoolStatus {
            path: self.pool_path.clone(),
            id: pool.id(),
            generation: pool.generation().get(),
            state: pool.state(),
            size_bytes: pool.geometry().total_blocks * BLOCK_SIZE_U64,
            used_bytes: space.used * BLOCK_SIZE_U64,
            free_bytes: space.free * BLOCK_SIZE_U64,
            pending_free_bytes: (space.pending_free + being_freed) * BLOCK_SIZE_U64,
        }
    }

    /// Everything at a glance. `refresh` asks key providers.
    ///
    /// # Errors
    /// The pool's; corruption.
    pub fn status(&self, refresh: bool) -> Result<Status, ServiceError> {
        let clusters = self.clusters(refresh)?;
        let mut warnings = self.warnings();
        warnings.extend(clusters.iter().filter_map(goes_on_without_key));
        let mut next_steps = Vec::new();
        for loss in self.losses() {
            warnings.push(loss.what);
            next_steps.push(loss.step);
        }
        next_steps.extend(self.mounts_not_made_again());
        Ok(Status {
            pool: self.pool_status(),
            clusters,
            mounts: self.mounts(),
            keys: self.keys(refresh)?,
            background: self.background_work(),
            last_checkpoint_at: self.pool().last_checkpoint_at(),
            keys_not_backed_up: self.keys_not_backed_up(),
            warnings,
            next_steps,
        })
    }

    /// Keys of the embedded keyring that stand in no backup of the configuration.
    #[must_use]
    pub fn keys_not_backed_up(&self) -> u64 {
        match self.keyring.read().as_ref() {
            Some(keyring) => backup::not_backed_up(&self.config, keyring).unwrap_or_else(|error| {
                log::warn!("how many keys stand in a backup is not known: {error}");
                keyring.list().len() as u64
            }),
            None => 0,
        }
    }

    fn background_work(&self) -> Vec<BackgroundWork> {
        let mut work = Vec::new();
        let left = self.catalog.work_left();
        if !left.is_done() {
            let mib = left.blocks * BLOCK_SIZE_U64 / (1 << 20);
            let detail = format!(
                "freeing what deletions left: {} stretches of history ({mib} MiB), {} cuts",
                left.segments, left.cuts
            );
            work.push(BackgroundWork { kind: "free", detail });
        }
        if let Some((done, total)) = self.scrubbing.progress() {
            let (done, total) = (done >> 20, total >> 20);
            let detail = format!("reading everything: {done} of about {total} MiB");
            work.push(BackgroundWork { kind: "scrub", detail });
        }
        let waiting =
            self.mounts.lock().iter().filter(|(_, e)| matches!(e.stage, Stage::Locked)).count();
        if waiting > 0 {
            let detail = format!("{waiting} mounts wait for their keys");
            work.push(BackgroundWork { kind: "key-wait", detail });
        }
        work
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Some(problem) = self.keyring_problem.read().as_ref() {
            warnings.push(format!("keys of the embedded keyring are unreachable: {problem}"));
        }
        if offline::shares_device(&self.pool_path, self.config.path()) {
            warnings.push(format!(
                "the pool and what opens it ({}) stand on one device: who takes it has both",
                self.config.path().display()
            ));
        }
        let now = self.now();
        if self.keyring.read().as_ref().is_some_and(|k| k.is_time_held(now)) {
            warnings.push(
                "the clock jumped by more than a day: keys that are due for deletion are kept until \
                 the time is confirmed (strongroom key delete KEY_ID --force KEY_ID)"
                    .to_owned(),
            );
        }
        warnings.extend(self.doubted_clock());
        if secret_memory::is_swappable() && process::swap_is_on() {
            warnings.push(
                "keys may be swapped out: memory could not be locked (raise LimitMEMLOCK)"
                    .to_owned(),
            );
        }
        let space = self.pool().space();
        if space.backing_is_full {
            warnings.push(format!(
                "the filesystem that holds the pool is full: make room there; {} MiB of the pool can \
                 still be written",
                space.free * BLOCK_SIZE_U64 / (1 << 20)
            ));
        }
        if !self.pool().device().describe().direct {
            warnings.push("the device refuses direct I/O: its cache is in between".to_owned());
        }
        warnings
    }
}

/// A mount is not locked when its key is made unusable: whoever disabled the key should know.
fn goes_on_without_key(cluster: &Cluster) -> Option<String> {
    let EncryptionStatus::Answer(Some(KeyAnswer::State(state))) = cluster.encryption_status else {
        return None;
    };
    let id = cluster.encryption_key_id.as_ref()?;
    let goes_on = cluster.state == ClusterState::Mounted && state != KeyState::Enabled;
    goes_on.then(|| {
        format!(
            "the cluster '{}' is mounted and goes on until it is unmounted, although its key {id} \
             is {}",
            cluster.name,
            state.as_str()
        )
    })
}
