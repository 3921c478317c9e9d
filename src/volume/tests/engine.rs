//! The same operations on the real engine, over a simulated disk that loses power.

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;

use super::{USER, pattern, read};
use crate::base::units::InodeNo;
use crate::base::{ClusterId, PoolId, SnapshotId, Timestamp};
use crate::catalog::{Catalog, Header, NewCluster, NewSnapshot, SnapshotKind};
use crate::crypto::{
    ClusterKey, ClusterSecret, EngineKey, EngineWrap, EngineWrapKind, HeaderKeys, HeaderSalt,
};
use crate::device::Device;
use crate::device::sim::SimDevice;
use crate::pool::{self, CreateOptions, CutPlan, OpenOptions, Pool};
use crate::volume::{
    AllocateMode, FileKind, ROOT_INODE, RenameFlags, Result, SetAttr, Volume, VolumeError,
    VolumeOptions,
};

const CLUSTER: ClusterId = ClusterId([7; 16]);

fn cluster_key() -> ClusterKey {
    ClusterKey::from_bytes(&[2; 32])
}

/// Pool, catalog, head and volume over one simulated disk.
struct Engine {
    sim: Arc<SimDevice>,
    pool: Arc<Pool>,
    catalog: Arc<Catalog>,
    volume: Arc<Volume>,
}

impl Engine {
    fn new(size: u64) -> Self {
        let sim = SimDevice::new(size);
        let device: Arc<dyn Device> = sim.clone();
        let wrap = EngineWrap {
            kind: EngineWrapKind::File,
            name: "test".to_owned(),
            kdf: None,
            sealed: vec![1; 112],
        };
        let options = CreateOptions {
            pool_id: PoolId([3; 16]),
            node_bytes: 16 << 10,
            engine_key: EngineKey::from_bytes(&[1; 32]),
            wraps: vec![wrap],
            now: Timestamp::default(),
        };
        pool::create(&device, options).unwrap();
        let (pool, catalog) = open_pool(&sim);
        let keys = HeaderKeys {
            wraps: Vec::new(),
            plain: Some(ClusterSecret::from_bytes(&[6; 32])),
            salt: HeaderSalt([5; 32]),
            ck_id: 1,
        };
        let new = NewCluster {
            id: CLUSTER,
            name: "c".parse().unwrap(),
            created_at: Timestamp::default(),
            header: Header::empty(keys),
        };
        catalog.create_cluster(new).unwrap();
        Self::mount(sim, pool, catalog)
    }

    fn mount(sim: Arc<SimDevice>, pool: Arc<Pool>, catalog: Arc<Catalog>) -> Self {
        let head = catalog.open_head(&"c".parse().unwrap(), cluster_key()).unwrap();
        let options = VolumeOptions { background: false, ..VolumeOptions::default() };
        let volume = Volume::open_head(head, options).unwrap();
        Self { sim, pool, catalog, volume }
    }

    /// The power goes; what the disk kept is opened again.
    fn crash(&self, seed: u64) -> Self {
        let sim = self.sim.crash(seed);
        let (pool, catalog) = open_pool(&sim);
        Self::mount(sim, pool, catalog)
    }

    fn file(&self, name: &str) -> InodeNo {
        self.volume.mknod(ROOT_INODE, name.as_bytes(), 0o644, 0, &USER).unwrap().attr.ino
    }

    fn find(&self, name: &str) -> Result<InodeNo> {
        self.volume.lookup(ROOT_INODE, name.as_bytes()).map(|entry| entry.attr.ino)
    }

    fn checkpoint(&self) {
        self.pool.checkpoint(CutPlan::default()).unwrap();
    }
}

fn open_pool(sim: &Arc<SimDevice>) -> (Arc<Pool>, Arc<Catalog>) {
    let device: Arc<dyn Device> = sim.clone();
    let sealed = pool::probe(&device).unwrap();
    let pool = sealed.unlock(EngineKey::from_bytes(&[1; 32]), OpenOptions::default()).unwrap();
    let catalog = Catalog::open(Arc::clone(&pool)).unwrap();
    (pool, catalog)
}

#[test]
fn more_small_writes_than_the_space_ring_takes_at_once_wait_for_a_checkpoint_and_go_on() {
    // A drain that is throttled makes a checkpoint, which asks for a drain: neither may wait for
    // the other, on one thread or on two.
    let engine = Engine::new(512 << 20);
    let ino = engine.file("f");
    let blocks = 8_000u64;
    std::thread::scope(|scope| {
        let beside = scope.spawn(|| {
            for _ in 0..20 {
                engine.checkpoint();
                crate::sys::clock::sleep(std::time::Duration::from_millis(300));
            }
        });
        for pass in 0..6u64 {
            for n in 0..blocks {
                let block = (n * 2_654_435_761 + pass) % blocks;
                engine.volume.write(ino, block * 2 * 4096, &pattern(pass, 4096), true).unwrap();
            }
        }
        beside.join().unwrap();
    });
    engine.volume.sync().unwrap();
    let after = engine.crash(1);
    let ino = after.find("f").unwrap();
    for block in [0, 1, blocks - 1] {
        assert_eq!(read(&after.volume, ino, block * 2 * 4096, 4096), Ok(pattern(5, 4096)));
    }
}

#[test]
fn what_was_synced_is_there_after_the_power_went() {
    let mut engine = Engine::new(512 << 20);
    let mut plain = Vec::new();
    for round in 0..12u64 {
        let ino = engine.find("a").unwrap_or_else(|_| engine.file("a"));
        for i in 0..6u64 {
            let data = pattern(round * 10 + i, 1 + (round * 7919 + i * 33_331) as usize % 400_000);
            let at = (round * 104_729 + i * 4096) as usize % 900_000;
            engine.volume.write(ino, at as u64, &data, true).unwrap();
            plain.resize(plain.len().max(at + data.len()), 0);
            plain[at..at + data.len()].copy_from_slice(&data);
            if round % 4 == 3 && i == 2 {
                engine.checkpoint();
            }
        }
        engine.file(&format!("n{round}"));
        engine.volume.fsync(ino, true).unwrap();
        engine.volume.write(ino, 0, b"never synced", true).unwrap();
        engine = engine.crash(round);
        let ino = engine.find("a").unwrap();
        let got = read(&engine.volume, ino, 0, 4 << 20).unwrap();
        let kept_more = got.starts_with(b"never synced");
        assert_eq!(got.len(), plain.len());
        assert!(got == plain || kept_more, "round {round}");
        plain[..12].copy_from_slice(&got[..12]);
        assert!(got == plain, "round {round}");
        engine.find(&format!("n{round}")).unwrap();
    }
}

#[test]
fn a_snapshot_keeps_what_was_buffered_before_it() {
    let engine = Engine::new(512 << 20);
    let ino = engine.file("a");
    engine.volume.write(ino, 0, &pattern(1, 300_000), true).unwrap();
    engine.volume.write(ino, 300_000, b"tail", true).unwrap();
    let snapshot = NewSnapshot {
        id: SnapshotId(5),
        cluster: CLUSTER,
        created_at: Timestamp::from_secs(5),
        expires_at: None,
        kind: SnapshotKind::OnDemand,
        description: String::new(),
    };
    engine.catalog.take_snapshots(&[snapshot]).unwrap();
    engine.volume.write(ino, 0, &[0; 300_004], true).unwrap();
    engine.checkpoint();
    let opened = engine.catalog.open_snapshot(SnapshotId(5), &cluster_key()).unwrap();
    let (view, name_key) = (opened.view, opened.name_key);
    let volume = Volume::open_view(view, name_key, VolumeOptions::default()).unwrap();
    let found = volume.lookup(ROOT_INODE, b"a").unwrap().attr;
    assert_eq!((found.ino, found.kind, found.size), (ino, FileKind::File, 300_004));
    let mut want = pattern(1, 300_000);
    want.extend_from_slice(b"tail");
    assert_eq!(read(&volume, ino, 0, 1 << 20).unwrap(), want);
    assert_eq!(volume.write(ino, 0, b"x", true), Err(VolumeError::ReadOnly));
}

#[test]
fn what_a_pool_that_takes_no_changes_refuses_says_why_and_is_told_to_fsync() {
    let engine = Engine::new(256 << 20);
    let ino = engine.file("a");
    engine.volume.write(ino, 0, b"hello", true).unwrap();
    engine.pool.close().unwrap();
    let refused = VolumeError::PoolReadOnly("it was closed".to_owned());
    assert_eq!(engine.volume.write(ino, 0, b"x", true).unwrap_err(), refused);
    let made = engine.volume.mkdir(ROOT_INODE, b"d", 0o755, &USER);
    assert_eq!(made.unwrap_err(), refused);
    assert_eq!(engine.volume.fsync(ino, false).unwrap_err(), refused);
}

#[test]
fn a_full_pool_refuses_writes_and_takes_them_again_after_a_deletion() {
    let engine = Engine::new(256 << 20);
    let ino = engine.file("a");
    let data = vec![7; 1 << 20];
    let mut at = 0;
    let error = loop {
        match engine.volume.write(ino, at, &data, true) {
            Ok(_) => at += data.len() as u64,
            Err(error) => break error,
        }
    };
    assert_eq!(error, VolumeError::NoSpace);
    assert!(at > 50 << 20, "only {at} bytes of 256 MiB");
    engine.volume.fsync(ino, false).unwrap();
    // Small writes may still fit where a large one did not, until they do not either.
    let small = engine.file("small");
    let mut end = 0;
    while engine.volume.write(small, end, &data[..8192], true).is_ok() {
        end += 8192;
    }
    engine.volume.fsync(small, false).unwrap();
    engine.volume.unlink(ROOT_INODE, b"a").unwrap();
    engine.volume.forget(ino, 1);
    while engine.volume.background_step().unwrap() {}
    let again = engine.file("b");
    for at in 0..50u64 {
        engine.volume.write(again, at << 20, &data, true).unwrap();
    }
    engine.volume.fsync(again, false).unwrap();
    assert_eq!(engine.volume.getattr(small).unwrap().size, end);
}

/// A commit counts whole or not at all: of a file that was renamed over another one, with much that was
/// written besides, the old one is there or the new one.
#[test]
fn a_commit_of_which_a_part_arrived_is_no_mixture() {
    let records = |sim: &SimDevice| -> BTreeSet<u64> {
        let mut block = [0; 4096];
        let is_record = |n: &u64| {
            sim.read(n * 4096, &mut block).unwrap();
            block.starts_with(b"SRLOGREC")
        };
        sim.used_blocks().into_iter().filter(is_record).collect()
    };
    for mebibytes in [1, 30, 100] {
        let engine = Engine::new(1 << 30);
        let old = engine.file("F");
        engine.volume.write(old, 0, &pattern(1, 4096), true).unwrap();
        engine.volume.sync().unwrap();
        engine.checkpoint();
        let before = records(&engine.sim);
        let new = engine.file("tmp");
        engine.volume.write(new, 0, &pattern(2, 4096), true).unwrap();
        let (over, user) = (RenameFlags::default(), &USER);
        engine.volume.rename(ROOT_INODE, b"tmp", ROOT_INODE, b"F", over, user).unwrap();
        let big = engine.file("big");
        for n in 0..mebibytes {
            engine.volume.write(big, n << 20, &vec![9; 1 << 20], true).unwrap();
        }
        engine.volume.sync().unwrap();
        let written: Vec<u64> = records(&engine.sim).difference(&before).copied().collect();
        // As if its last record had not arrived before the flush came.
        let sim = engine.sim.copy();
        if let Some(last) = written.last() {
            sim.corrupt(last * 4096 + 100, 1);
        }
        let (pool, catalog) = open_pool(&sim);
        let engine = Engine::mount(sim, pool, catalog);
        let found = read(&engine.volume, engine.find("F").unwrap(), 0, 4096).unwrap();
        let one_of_them = found == pattern(1, 4096) || found == pattern(2, 4096);
        assert!(one_of_them, "{mebibytes} MiB: neither the old file nor the new one");
        assert!(written.len() <= 1, "{mebibytes} MiB: {} records", written.len());
        assert!(mebibytes > 1 || found == pattern(1, 4096), "the record was not there");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// Files beside a plain model; after a crash each is as at the last sync, or as at a later
    /// instant: a prefix of what was done since.
    #[test]
    fn after_a_crash_the_files_are_as_at_one_instant(
        ops in prop::collection::vec((0..3usize, 0..300_000usize, 1..200_000usize, 0..12u8), 5..60),
        seed in any::<u64>(),
    ) {
        let engine = Engine::new(512 << 20);
        let inos: Vec<InodeNo> = (0..3).map(|i| engine.file(&format!("f{i}"))).collect();
        engine.volume.sync().unwrap();
        let mut model = vec![Vec::new(); 3];
        let mut instants = vec![model.clone()];
        for (i, (file, offset, len, what)) in ops.into_iter().enumerate() {
            let (ino, content) = (inos[file], &mut model[file]);
            match what {
                0 => {
                    engine.volume.sync().unwrap();
                    instants = instants.split_off(instants.len() - 1);
                    continue;
                }
                1 => {
                    engine.checkpoint();
                    instants = instants.split_off(instants.len() - 1);
                    continue;
                }
                2 => {
                    let set = SetAttr { size: Some(offset as u64), ..SetAttr::default() };
                    engine.volume.setattr(ino, &set, &USER).unwrap();
                    content.resize(offset, 0);
                }
                3 => {
                    let punch = AllocateMode::PunchHole;
                    engine.volume.fallocate(ino, offset as u64, len as u64, punch).unwrap();
                    let end = (offset + len).min(content.len());
                    content[offset.min(end)..end].fill(0);
                }
                _ => {
                    let data = pattern(i as u64 + 1, len);
                    engine.volume.write(ino, offset as u64, &data, true).unwrap();
                    content.resize(content.len().max(offset + len), 0);
                    content[offset..offset + len].copy_from_slice(&data);
                }
            }
            instants.push(model.clone());
        }
        let engine = engine.crash(seed);
        let got: Vec<Vec<u8>> =
            inos.iter().map(|ino| read(&engine.volume, *ino, 0, 4 << 20).unwrap()).collect();
        prop_assert!(instants.contains(&got), "the files are as at no instant");
    }
}
