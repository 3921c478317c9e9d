//! A pool that a liar wrote: contents that no writer makes, under valid tags. It is opened, checked,
//! read whole, written to, emptied, closed and opened again. Whatever it holds, that ends, in an
//! error or in an answer.

use std::collections::BTreeSet;
use std::error::Error;
use std::sync::{Arc, OnceLock};

use crate::base::{ClusterId, ClusterName, InodeNo, PoolId, SnapshotId, Timestamp};
use crate::catalog::{Budget, Catalog, Header, NewCluster, NewSnapshot, SnapshotKind, Target};
use crate::crypto::liar::{How, Lie, SORTS, overhear, tell};
use crate::crypto::{self, ClusterKey, ClusterSecret, EngineKey, HeaderKeys, HeaderSalt};
use crate::device::Device;
use crate::device::sim::SimDevice;
use crate::pool::superblock::{COPIES, COPY_BYTES, SLOTS, copy_offset};
use crate::pool::{self, CreateOptions, CutPlan, Head, OpenOptions, Pool};
use crate::sys::random;
use crate::verify::{self, CheckOptions, xray};
use crate::volume::{
    AllocateMode, Caller, FileKind, OpenFlags, ROOT_INODE, RenameFlags, Seek, SetAttr, Volume,
    VolumeOptions, XattrMode,
};

type Outcome = Result<(), Box<dyn Error>>;

const ROOT: Caller = Caller { uid: 0, gid: 0, umask: 0o022, pid: 1 };
const WRITE: OpenFlags = OpenFlags { write: true, truncate: false };
/// Steps of background work after which it is called endless.
const STEPS_MAX: usize = 5000;
/// Names and stretches of a file that are looked at: a lie may say that there are 2^60.
const LOOKS_MAX: usize = 2000;

/// The first byte says when lies are told, the rest is lies of six bytes each.
pub(super) fn run(bytes: &[u8]) {
    let Some((when, rest)) = bytes.split_first() else { return };
    let lies: Vec<Lie> = rest.chunks_exact(6).map(lie).collect();
    let sim = if when & 1 != 0 {
        let sim = SimDevice::new(256 << 20);
        told(tell(&lies, || create(&sim).and_then(|()| first_life(&sim))));
        sim
    } else {
        base().copy()
    };
    // Lies of the second life tell of what the first one left.
    let later = if when & 1 != 0 { Vec::new() } else { lies };
    told(tell(&later, || second_life(&sim, when & 2 != 0)));
    judge(&sim.copy(), when & 4 != 0);
}

fn lie(bytes: &[u8]) -> Lie {
    let &[sort, nth, low, high, how, value] = bytes else { unreachable!("six bytes") };
    let width = 1 << (how >> 4 & 3);
    let number = match value {
        0 => 0,
        1 => u64::MAX,
        2 => u64::MAX / 2,
        3 => u64::MAX / 2 + 1,
        4 => u64::MAX / 4096,
        5 => 1 << 60,
        6 => 1 << 32,
        7 => u32::MAX.into(),
        8 => 1 << 31,
        9 => 65_536,
        10 => 16_384,
        11 => 4096,
        small => u64::from(small - 12),
    };
    let how = match how & 7 {
        0 => How::Flip(value.max(1)),
        1 | 2 => How::Set(width, number),
        3 | 4 => How::Add(width, value as i8),
        5 => How::Copy(width * 8, value),
        6 => How::Cut,
        _ => How::Grow(value),
    };
    let at = u16::from_le_bytes([low, high]);
    Lie { sort: sort % SORTS.len() as u8, nth: u16::from(nth), at, how }
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for when in [0, 3, 5] {
        for sort in 0..SORTS.len() as u8 {
            for (nth, at, how) in [(0, 5, 0x21), (1, 40, 0x03), (3, 90, 0x31), (7, 200, 0)] {
                seeds.push(vec![when, sort, nth, at, 0, how, sort + 1]);
            }
        }
    }
    seeds
}

/// Every refusal has words.
fn told(outcome: Outcome) {
    if let Err(error) = outcome {
        assert!(!error.to_string().is_empty());
    }
}

/// The pool that truthful lives have left.
fn base() -> &'static Arc<SimDevice> {
    static BASE: OnceLock<Arc<SimDevice>> = OnceLock::new();
    BASE.get_or_init(|| {
        let sim = SimDevice::new(256 << 20);
        create(&sim).and_then(|()| first_life(&sim)).expect("a pool can be made");
        sim
    })
}

fn create(sim: &Arc<SimDevice>) -> Outcome {
    let device: Arc<dyn Device> = sim.clone();
    let options = CreateOptions {
        pool_id: PoolId([3; 16]),
        node_bytes: 16 << 10,
        engine_key: EngineKey::from_bytes(&[1; 32]),
        wraps: Vec::new(),
        now: Timestamp::default(),
    };
    Ok(pool::create(&device, options).map(drop)?)
}

fn open(sim: &Arc<SimDevice>, options: OpenOptions) -> Result<Arc<Pool>, Box<dyn Error>> {
    let device: Arc<dyn Device> = sim.clone();
    Ok(pool::probe(&device)?.unlock(EngineKey::from_bytes(&[1; 32]), options)?)
}

fn key_of(pool: &Pool, cluster: ClusterId, keys: &HeaderKeys) -> Option<ClusterKey> {
    let secret = keys.plain.as_ref()?;
    Some(crypto::cluster_key(secret, &keys.salt, &pool.id(), &cluster, keys.ck_id))
}

fn volume_options() -> VolumeOptions {
    VolumeOptions {
        cached_inodes: 4,
        buffer_bytes: 64 << 10,
        background: false,
        ..VolumeOptions::default()
    }
}

type Mounted = (Arc<Head>, Arc<Volume>);

fn mount(catalog: &Arc<Catalog>, cluster: u8, name: &str) -> Result<Mounted, Box<dyn Error>> {
    let id = ClusterId([cluster; 16]);
    let header = catalog.header(Target::Cluster(id))?;
    let key = key_of(catalog.pool(), id, &header.keys).ok_or("no key")?;
    let head = catalog.open_head(&name.parse::<ClusterName>()?, key)?;
    let volume = Volume::open_head(Arc::clone(&head), volume_options())?;
    Ok((head, volume))
}

fn snapshot(catalog: &Arc<Catalog>, number: u64, cluster: u8) -> Outcome {
    let new = NewSnapshot {
        id: SnapshotId(number),
        cluster: ClusterId([cluster; 16]),
        created_at: Timestamp::from_secs(number as i64),
        expires_at: None,
        kind: SnapshotKind::OnDemand,
        description: "before the upgrade".to_owned(),
    };
    Ok(catalog.take_snapshots(&[new]).map(drop)?)
}

/// Two clusters with something of everything, and snapshots.
fn first_life(sim: &Arc<SimDevice>) -> Outcome {
    let catalog = Catalog::open(open(sim, OpenOptions::default())?)?;
    for (cluster, name) in [(1, "a"), (2, "b")] {
        let keys = HeaderKeys {
            wraps: Vec::new(),
            plain: Some(ClusterSecret::random()),
            salt: HeaderSalt(random::array()),
            ck_id: catalog.new_ck_id(),
        };
        catalog.create_cluster(NewCluster {
            id: ClusterId([cluster; 16]),
            name: name.parse()?,
            created_at: Timestamp::from_secs(1),
            header: Header::empty(keys),
        })?;
    }
    let (head_a, a) = mount(&catalog, 1, "a")?;
    let (head_b, b) = mount(&catalog, 2, "b")?;
    fill(&a)?;
    snapshot(&catalog, 1, 1)?;
    let (entry, handle) = b.create(ROOT_INODE, b"f", 0o644, WRITE, &ROOT)?;
    b.write(entry.attr.ino, 0, &[7; 9000], true)?;
    b.release(handle)?;
    snapshot(&catalog, 2, 2)?;
    let file = a.lookup(ROOT_INODE, b"big")?.attr.ino;
    a.write(file, 100_000, &[9; 50_000], true)?;
    snapshot(&catalog, 3, 1)?;
    catalog.close_head(&head_a)?;
    catalog.close_head(&head_b)?;
    Ok(catalog.pool().close()?)
}

fn fill(volume: &Arc<Volume>) -> Outcome {
    let dir = volume.mkdir(ROOT_INODE, b"dir", 0o755, &ROOT)?.attr.ino;
    let below = volume.mkdir(dir, b"below", 0o755, &ROOT)?.attr.ino;
    for n in 0..150 {
        let name = format!("file-with-a-name-{n}");
        let (entry, handle) = volume.create(dir, name.as_bytes(), 0o600, WRITE, &ROOT)?;
        if n % 10 == 0 {
            volume.write(entry.attr.ino, 0, name.as_bytes(), true)?;
        }
        volume.release(handle)?;
    }
    let (big, handle) = volume.create(ROOT_INODE, b"big", 0o644, WRITE, &ROOT)?;
    let ino = big.attr.ino;
    volume.write(ino, 0, &[5; 1 << 20], true)?;
    volume.write(ino, 100 << 20, &[6; 5000], true)?;
    volume.fallocate(ino, 65_536, 8192, AllocateMode::PunchHole)?;
    volume.setxattr(ino, b"user.small", b"value", XattrMode::Set, &ROOT)?;
    volume.setxattr(ino, b"user.large", &[8; 9000], XattrMode::Set, &ROOT)?;
    volume.release(handle)?;
    volume.link(ino, below, b"another name")?;
    volume.symlink(below, b"link", &[b'x'; 4000], &ROOT)?;
    Ok(volume.sync()?)
}

/// Changes of all that is there; it ends with closing or with a crash that leaves logs.
fn second_life(sim: &Arc<SimDevice>, crash: bool) -> Outcome {
    let catalog = Catalog::open(open(sim, OpenOptions::default())?)?;
    let (head_a, a) = mount(&catalog, 1, "a")?;
    let (head_b, b) = mount(&catalog, 2, "b")?;
    change(&a, 1)?;
    snapshot(&catalog, 4, 1)?;
    catalog.delete_snapshots(&[SnapshotId(1)])?;
    catalog.background_step(Budget::default())?;
    catalog.pool().checkpoint(CutPlan::default())?;
    let file = b.lookup(ROOT_INODE, b"f")?.attr.ino;
    b.write(file, 4096, &[1; 20_000], true)?;
    b.sync()?;
    change(&a, 2)?;
    if crash {
        return Ok(());
    }
    catalog.close_head(&head_a)?;
    catalog.close_head(&head_b)?;
    Ok(catalog.pool().close()?)
}

fn change(volume: &Arc<Volume>, round: u8) -> Outcome {
    let dir = volume.lookup(ROOT_INODE, b"dir")?.attr.ino;
    let big = volume.lookup(ROOT_INODE, b"big")?.attr.ino;
    volume.write(big, 200_000 * u64::from(round), &[round; 30_000], true)?;
    volume.setxattr(big, b"user.small", &[round; 40], XattrMode::Set, &ROOT)?;
    let name = format!("file-with-a-name-{}", u32::from(round) * 20);
    volume.rename(
        dir,
        name.as_bytes(),
        ROOT_INODE,
        &[b'n', round],
        RenameFlags::default(),
        &ROOT,
    )?;
    volume.unlink(dir, format!("file-with-a-name-{}", u32::from(round) * 30).as_bytes())?;
    let (entry, _open) = volume.create(dir, &[b'o', round], 0o644, WRITE, &ROOT)?;
    volume.write(entry.attr.ino, 0, &[3; 10_000], true)?;
    volume.unlink(dir, &[b'o', round])?;
    let size = SetAttr { size: Some(900_000), ..SetAttr::default() };
    volume.setattr(big, &size, &ROOT)?;
    Ok(volume.sync()?)
}

fn judge(sim: &Arc<SimDevice>, empty_it: bool) {
    let reading = OpenOptions { read_only: true, ..OpenOptions::default() };
    if let Ok(pool) = open(sim, reading) {
        let options = CheckOptions { items: &verify::volume_items, data: true };
        let report =
            verify::check(&pool, &options, &mut |cluster, keys| key_of(&pool, cluster, keys));
        assert!(!format!("{report:?}").is_empty());
        let _ = (xray::nodes(&pool), xray::regions(&pool).is_ok(), xray::logs(&pool, None).is_ok());
    }
    told(use_it(sim, empty_it));
    // Once more: what was done to it must not have made it another one.
    told(use_it(sim, true));
}

/// Reads and changes all that can be.
fn use_it(sim: &Arc<SimDevice>, empty_it: bool) -> Outcome {
    let catalog = Catalog::open(open(sim, OpenOptions::default())?)?;
    for number in 1..=4 {
        told(look_at_snapshot(&catalog, SnapshotId(number)));
    }
    for (cluster, name) in [(1, "a"), (2, "b")] {
        let Ok((head, volume)) = mount(&catalog, cluster, name) else { continue };
        look(&volume, empty_it);
        told(change(&volume, 3));
        let _ = (volume.sync(), volume.statfs());
        ends(|| volume.background_step().unwrap_or(false));
        let _ = catalog.close_head(&head);
    }
    for number in 1..=4 {
        let _ = catalog.delete_snapshots(&[SnapshotId(number)]);
    }
    let mut before = None;
    ends(|| {
        let left = catalog.background_step(Budget::default()).ok();
        // What cannot be done is left, and said so: the same then as before.
        left.is_some_and(|left| !left.is_done()) && std::mem::replace(&mut before, left) != left
    });
    if empty_it {
        let _ = catalog.delete_cluster(&"b".parse()?);
    }
    catalog.pool().checkpoint(CutPlan::default())?;
    Ok(catalog.pool().close()?)
}

fn ends(mut goes_on: impl FnMut() -> bool) {
    assert!((0..STEPS_MAX).any(|_| !goes_on()), "work in the background does not end");
}

fn look_at_snapshot(catalog: &Arc<Catalog>, id: SnapshotId) -> Outcome {
    let header = catalog.header(Target::Snapshot(id))?;
    for cluster in [1, 2] {
        let Some(key) = key_of(catalog.pool(), ClusterId([cluster; 16]), &header.keys) else {
            continue;
        };
        let Ok(opened) = catalog.open_snapshot(id, &key) else { continue };
        let (view, name_key, _reader) = opened.into_parts();
        let volume = Volume::open_view(view, name_key, volume_options())?;
        look(&volume, false);
    }
    Ok(())
}

/// Everything that can be seen in a volume, and then deleted.
fn look(volume: &Arc<Volume>, empty_it: bool) {
    let (mut seen, mut waiting) = (BTreeSet::new(), vec![ROOT_INODE]);
    let mut looks = 0;
    while let Some(dir) = waiting.pop() {
        let mut entries = Vec::new();
        let _ = volume.readdir(dir, 0, true, &mut |entry| {
            entries.push((entry.name.to_vec(), entry.ino, entry.kind));
            entries.len() > LOOKS_MAX
        });
        for (name, ino, kind) in entries {
            looks += 1;
            if looks > LOOKS_MAX || name == b"." || name == b".." {
                continue;
            }
            if volume.lookup(dir, &name).is_ok() {
                volume.forget(ino, 1);
            }
            if seen.insert(ino) {
                look_at(volume, ino);
                if kind == FileKind::Directory {
                    waiting.push(ino);
                }
            }
            if empty_it && kind != FileKind::Directory {
                let _ = volume.unlink(dir, &name);
            }
        }
    }
}

fn look_at(volume: &Arc<Volume>, ino: InodeNo) {
    let _ = (volume.getattr(ino), volume.readlink(ino));
    if let Ok(names) = volume.listxattr(ino) {
        for name in names.split(|b| *b == 0).filter(|name| !name.is_empty()).take(LOOKS_MAX) {
            let _ = volume.getxattr(ino, name);
        }
    }
    let mut at = 0;
    for _ in 0..64 {
        let Ok(from) = volume.lseek(ino, at, Seek::Data) else { break };
        assert!(from >= at, "data before where it was looked for");
        let mut bytes = 0;
        let read = volume.read(ino, from, 128 << 10, &mut |part| bytes += part.len());
        assert!(bytes <= 128 << 10, "more is read than was asked for");
        let Some(end) = from.checked_add(read.unwrap_or(4096).max(1) as u64) else { break };
        at = end;
    }
}

/// What the engine seals in two lives, with its sorts.
pub(super) fn overheard() -> Vec<(&'static str, Vec<u8>)> {
    overhear(|| {
        let sim = SimDevice::new(256 << 20);
        told(create(&sim).and_then(|()| first_life(&sim)).and_then(|()| second_life(&sim, true)));
    })
}

/// Copies of superblocks, without their checksums.
pub(super) fn superblocks() -> Vec<Vec<u8>> {
    let copy = |(slot, copy)| {
        let mut bytes = vec![0; COPY_BYTES];
        base().read(copy_offset(slot, copy), &mut bytes).expect("it is on the device");
        bytes.truncate(COPY_BYTES - 4);
        bytes
    };
    (0..SLOTS).flat_map(|slot| (0..COPIES).map(move |copy| (slot, copy))).map(copy).collect()
}
