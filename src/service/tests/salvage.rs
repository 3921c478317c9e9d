//! Copying out of a pool on disk: what the configuration remembers of it is heeded, and what cannot
//! be read of that is said.

use std::fs;
use std::path::PathBuf;

use crate::base::Generation;
use crate::base::units::BLOCK_SIZE;
use crate::catalog::Tombstone;
use crate::device::Device;
use crate::keys::{Anchor, AnchorKey, ConfigDir, PoolConfig};
use crate::service::inspect::Inspection;
use crate::service::salvage::{Asked, Salvage};
use crate::service::tests::world::{World, name};
use crate::sys::AlignedBuf;
use crate::verify::salvage::{Fate, Report};
use crate::verify::{Owner, TreeCoverage, TreeState};

/// A pool in a file, as a daemon left it when it ended.
struct Left {
    dir: tempfile::TempDir,
    image: PathBuf,
    folder: PoolConfig,
    anchor_key: AnchorKey,
}

impl Left {
    /// With a cluster of one file, under a key where one is named.
    fn of(world: World) -> Self {
        world.service.close(true, true).unwrap();
        let id = world.service.pool().id();
        let anchor_key = AnchorKey::of(&world.service.engine_key);
        let World { device, dir, service, .. } = world;
        drop(service);
        let image = dir.path().join("pool.img");
        let file = fs::File::create_new(&image).unwrap();
        file.set_len(device.size_bytes()).unwrap();
        let mut block = AlignedBuf::new(BLOCK_SIZE);
        for at in (0..device.size_bytes()).step_by(BLOCK_SIZE) {
            device.read(at, &mut block).unwrap();
            if block.iter().any(|byte| *byte != 0) {
                std::os::unix::fs::FileExt::write_all_at(&file, &block, at).unwrap();
            }
        }
        let folder = ConfigDir::new(dir.path().join("config")).pool(&id);
        Self { dir, image, folder, anchor_key }
    }

    fn salvage(&self) -> Salvage {
        let config = ConfigDir::new(self.dir.path().join("config"));
        Salvage::open(&config, &self.image, &mut || None).unwrap()
    }

    fn listed(&self) -> Report {
        self.salvage().copy(&Asked::default(), None).unwrap()
    }

    fn anchor(&self) -> Anchor {
        let id = self.folder.path().file_name().unwrap().to_str().unwrap().parse().unwrap();
        Anchor::load(&self.folder.anchor(), &id, &self.anchor_key).unwrap().unwrap()
    }
}

fn with_a_key() -> World {
    let world = World::new();
    let key = world.local_key("k1");
    world.create("db", Some(&key));
    world.mount("db");
    world.write("/mnt/db", "f", b"data");
    world.umount("db");
    world
}

#[test]
fn an_anchor_that_cannot_be_read_is_said_and_so_is_one_that_shows_a_later_state() {
    let left = Left::of(with_a_key());
    let sound = left.listed();
    assert!(sound.notes.is_empty() && !sound.has_lost(), "{sound:#?}");
    assert_eq!(sound.results[0].state, Fate::Readable);
    let anchor = left.anchor();
    let later = Anchor { generation: Generation(anchor.generation.get() + 1), ..anchor };
    later.store(&left.folder.anchor(), &left.anchor_key).unwrap();
    let older = left.listed();
    let words = "the pool was put back";
    assert!(older.lost.iter().any(|loss| loss.what.contains(words)), "{:#?}", older.lost);
    fs::write(left.folder.anchor(), b"something else").unwrap();
    let words = "whether the pool or its keyring was put back is not known";
    let unknown = left.listed();
    assert!(unknown.notes.iter().any(|note| note.starts_with(words)), "{:?}", unknown.notes);
}

#[test]
fn a_keyring_older_than_the_one_last_seen_opens_nothing() {
    let left = Left::of(with_a_key());
    let anchor = left.anchor();
    let newer = Anchor { keyring_version: anchor.keyring_version + 1, ..anchor };
    newer.store(&left.folder.anchor(), &left.anchor_key).unwrap();
    let report = left.listed();
    assert_eq!(report.results[0].state, Fate::Refused, "{report:#?}");
    assert!(report.notes.iter().any(|note| note.starts_with("the keyring is of version")));
}

#[test]
fn a_key_that_the_pool_knows_to_be_deleted_opens_nothing_whatever_the_keyring_says() {
    let world = with_a_key();
    let header = world.service.catalog().cluster(&name("db")).unwrap().id;
    let header = world.service.catalog().header(crate::catalog::Target::Cluster(header)).unwrap();
    let fingerprint = header.keys.wraps[0].fingerprint;
    let deleted_at = crate::base::Timestamp::from_secs(1);
    world.service.catalog().set_tombstone(Tombstone { fingerprint, deleted_at }, true).unwrap();
    let left = Left::of(world);
    let report = left.listed();
    assert_eq!(report.results[0].state, Fate::Refused);
    let config = ConfigDir::new(left.dir.path().join("config"));
    let checked = Inspection::open(&config, &left.image, &mut || None).unwrap().check();
    let of = |tree: &&TreeCoverage| matches!(tree.owner, Owner::Cluster(..));
    let tree = checked.coverage.trees.iter().find(of).unwrap();
    assert!(matches!(tree.state, TreeState::Locked(_)), "{tree:?}");
    let why = report.results[0].why.as_deref().unwrap();
    assert!(why.contains("cluster db cannot be copied") && why.contains("deleted"), "{why}");
}

#[test]
fn what_is_being_copied_is_served_by_nobody_and_not_written_to() {
    let left = Left::of(with_a_key());
    let mut permissions = fs::metadata(&left.image).unwrap().permissions();
    permissions.set_readonly(true);
    fs::set_permissions(&left.image, permissions).unwrap();
    let before = fs::read(&left.image).unwrap();
    let salvage = left.salvage();
    let writer = crate::device::open(&left.image, crate::device::Mode::ReadWrite);
    assert!(matches!(writer, Err(crate::device::DeviceError::Busy { .. })));
    let to = left.dir.path().join("out");
    let report = salvage.copy(&Asked::default(), Some(&to)).unwrap();
    assert_eq!((report.results[0].state, report.has_lost()), (Fate::Copied, false));
    assert_eq!(fs::read(to.join("clusters/db/f")).unwrap(), b"data");
    assert!(fs::read(&left.image).unwrap() == before);
    let told: serde_json::Value =
        serde_json::from_slice(&fs::read(to.join("salvage-report.json")).unwrap()).unwrap();
    assert_eq!(told["results"][0]["bytes"], 4);
    assert!(told.get("lostBytes").is_none());
}

#[test]
fn a_place_that_others_may_use_is_refused_before_anything_is_made() {
    let left = Left::of(with_a_key());
    let to = left.dir.path().join("out");
    fs::create_dir(&to).unwrap();
    std::os::unix::fs::chown(&to, Some(4711), None).expect("tests run as root");
    let error = left.salvage().copy(&Asked::default(), Some(&to)).unwrap_err();
    assert_eq!(error.code, crate::base::ProblemCode::Usage);
    assert!(error.detail.contains("belongs to user 4711"), "{}", error.detail);
    assert_eq!(fs::read_dir(&to).unwrap().count(), 0);
}
