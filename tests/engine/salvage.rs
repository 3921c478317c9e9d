//! Copying out of damaged pools: what a mount would show is what is copied; what is hit is a hole
//! or missing, and named; nothing is made up, and nothing is made outside of the destination.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use strongroom::base::units::{BLOCK_SIZE, BLOCK_SIZE_U64};
use strongroom::base::{BlockAddr, SnapshotId};
use strongroom::block::geometry::RING_START;
use strongroom::catalog::{Catalog, Target};
use strongroom::device::Device;
use strongroom::device::sim::SimDevice;
use strongroom::pool::superblock::copy_offset;
use strongroom::pool::{self, CutPlan, OpenOptions, Pool, Remains, Txn};
use strongroom::sys::new_tree::NewDirectory;
use strongroom::tree::{Key, Step};
use strongroom::verify::salvage::{Fate, Loss, NoKey, Report, Survey, Wanted};
use strongroom::verify::xray;
use strongroom::volume::items::{
    Dirent, ExtentItem, InodeItem, ROOT_INODE, dirent_key, inode_key, kind,
};
use strongroom::volume::{FileKind, OpenFlags};

use crate::corrupt::damage::Damage;
use crate::corrupt::sample::{Kind, Sample, key_of as key_of_sample};
use crate::model::files::{Seen, Tree};
use crate::pools::{Dice, ROOT, engine_key, mounted, new_device, open, with_two_files, write_file};

/// Mutations after each of which a pool is copied, where nothing else is asked for.
const MUTATIONS: u64 = 300;
/// Directories in one another: their path is longer than any call of the system takes.
const DEPTH: u64 = 100;

pub fn remains(sim: &Arc<SimDevice>) -> Remains {
    let device: Arc<dyn Device> = sim.clone();
    pool::probe_remains(&device).unwrap().remains(engine_key(), 8 << 20).unwrap()
}

pub fn states(sim: &Arc<SimDevice>) -> Vec<Arc<Pool>> {
    remains(sim).states
}

/// Copies everything that is asked for, with every key, to `to`.
fn copied(sim: &Arc<SimDevice>, sample: Option<&Sample>, wanted: &Wanted, to: &Path) -> Report {
    let survey = Survey::of(remains(sim));
    let newest = Arc::clone(survey.newest().unwrap());
    let destination = NewDirectory::begin(to).unwrap();
    survey.copy(wanted, Some(&destination), &mut |_, cluster, keys| {
        let key = sample.and_then(|s| key_of_sample(&s.secrets, &newest, cluster, keys));
        key.ok_or_else(|| NoKey::Refused("the key is disabled".to_owned()))
    })
}

/// What stands in a directory, but for attributes.
fn read_back(dir: &Path) -> Tree {
    let (mut tree, mut inodes) = (Tree::new(), BTreeMap::new());
    list(dir, "", &mut tree, &mut inodes);
    let mut firsts: BTreeMap<u64, String> = BTreeMap::new();
    for (path, ino) in &inodes {
        firsts.entry(*ino).or_insert_with(|| path.clone());
    }
    for (path, seen) in &mut tree {
        if let Seen::File { first, .. } = seen {
            *first = firsts[&inodes[path]].clone();
        }
    }
    tree
}

fn list(dir: &Path, prefix: &str, tree: &mut Tree, inodes: &mut BTreeMap<String, u64>) {
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let path = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        let kind = entry.file_type().unwrap();
        let seen = if kind.is_dir() {
            list(&entry.path(), &path, tree, inodes);
            Seen::Dir
        } else if kind.is_symlink() {
            Seen::Link(fs::read_link(entry.path()).unwrap().to_str().unwrap().to_owned())
        } else {
            inodes.insert(path.clone(), entry.metadata().unwrap().ino());
            let data = fs::read(entry.path()).unwrap().into();
            let file = crate::model::files::File { data, ..Default::default() };
            Seen::File { first: String::new(), file }
        };
        tree.insert(path, seen);
    }
}

/// A tree without the attributes that [`read_back`] does not read.
fn without_xattrs(tree: &Tree) -> Tree {
    let mut tree = tree.clone();
    for seen in tree.values_mut() {
        if let Seen::File { file, .. } = seen {
            file.xattrs.clear();
        }
    }
    tree
}

fn all_of(sample: &Sample) -> Wanted {
    let clusters = sample.clusters.iter().map(|c| c.name.clone()).collect();
    Wanted { clusters, snapshots: sample.snapshots.keys().copied().collect() }
}

/// That everything of a sample is in the copy, as it was.
fn assert_whole(sample: &Sample, report: &Report, to: &Path) {
    assert!(!report.has_lost(), "{:#?}", report.lost);
    // What is copied to may hold fewer attributes of a file: ext4 has no room for more than a block.
    let content = |loss: &&Loss| !loss.what.starts_with("attributes: ");
    let unwritten: Vec<_> = report.not_written.iter().filter(content).collect();
    assert!(unwritten.is_empty(), "{unwritten:#?}");
    for cluster in &sample.clusters {
        let found = read_back(&to.join("clusters").join(cluster.name.as_str()));
        assert!(found == without_xattrs(cluster.moments.last().unwrap()), "{}", cluster.name);
    }
    let mut snapshots = 0;
    for (id, (_, tree)) in &sample.snapshots {
        let place = to.join("snapshots").join(id.to_string());
        if !place.exists() && tree.is_empty() {
            continue;
        }
        assert!(read_back(&place) == without_xattrs(tree), "{id}");
        snapshots += 1;
    }
    assert!(snapshots > 3);
    let extras = fs::read_dir(to.join("clusters")).unwrap().count();
    assert_eq!(extras, sample.clusters.len(), "nothing is lost and found");
}

#[test]
fn a_sound_pool_is_copied_as_it_is_with_what_its_logs_hold() {
    for crashed in [false, true] {
        let sample = Sample::new(1, crashed);
        let place = tempfile::tempdir().unwrap();
        let before = sample.sim.counts().writes;
        let report = copied(&sample.sim, Some(&sample), &all_of(&sample), &place.path().join("d"));
        assert_eq!(sample.sim.counts().writes, before, "a copy writes nothing to the pool");
        assert_whole(&sample, &report, &place.path().join("d"));
        let records: u64 = report.results.iter().map(|tree| tree.log_records).sum();
        assert_eq!(records > 0, crashed);
    }
}

#[test]
fn a_pool_whose_space_ring_is_overwritten_does_not_open_and_is_copied_whole() {
    let sample = Sample::new(2, true);
    let sick = sample.sim.copy();
    let ring = &sample.blocks[&Kind::Ring];
    let noise = vec![0x5a; BLOCK_SIZE];
    ring.iter().for_each(|block| sick.write(block * BLOCK_SIZE_U64, &noise).unwrap());
    assert!(ring.iter().all(|block| *block >= RING_START));
    let maps = sample.blocks.get(&Kind::Map).into_iter().flatten();
    maps.for_each(|block| sick.write(block * BLOCK_SIZE_U64, &noise).unwrap());
    sick.flush().unwrap();
    let device: Arc<dyn Device> = sick.clone();
    let opened = pool::probe(&device).unwrap().unlock(engine_key(), OpenOptions::default());
    assert!(opened.is_err(), "the pool opens without its ring");
    let place = tempfile::tempdir().unwrap();
    let report = copied(&sick, Some(&sample), &all_of(&sample), &place.path().join("d"));
    assert_whole(&sample, &report, &place.path().join("d"));
}

#[test]
fn a_superblock_of_another_version_hides_none_that_can_be_used() {
    let sim = filled();
    let mut copy = vec![0; 4 * BLOCK_SIZE];
    sim.read(copy_offset(0, 0), &mut copy).unwrap();
    copy[8] = 9;
    let end = copy.len() - 4;
    let sum = strongroom::base::crc::crc32c(&copy[..end]).to_le_bytes();
    copy[end..].copy_from_slice(&sum);
    sim.write(copy_offset(0, 0), &copy).unwrap();
    sim.flush().unwrap();
    let device: Arc<dyn Device> = sim.clone();
    assert!(matches!(pool::probe(&device), Err(pool::PoolError::TooNew { .. })));
    let place = tempfile::tempdir().unwrap();
    let report = copied(&sim, None, &Wanted::default(), &place.path().join("d"));
    assert!(!report.has_lost(), "{:#?}", report.lost);
    assert_eq!(fs::read(place.path().join("d/clusters/db/a")).unwrap(), vec![1; 40 * BLOCK_SIZE]);
}

#[test]
fn where_the_newest_catalog_is_gone_the_one_before_serves_and_that_is_said() {
    let sim = filled();
    // One more checkpoint, so that the other slot holds an older state.
    let catalog = open(&sim);
    let (head, volume) = mounted(&catalog);
    write_file(&volume, "later", 7);
    catalog.pool().checkpoint(CutPlan::default()).unwrap();
    let sick = sim.copy();
    drop((volume, head, catalog));
    let newest = Arc::clone(&states(&sick)[0]);
    let root = xray::nodes(&newest)[0].clone();
    for addr in [root.addr, root.second.unwrap()] {
        sick.corrupt(addr * BLOCK_SIZE_U64 + 5, 1);
    }
    let place = tempfile::tempdir().unwrap();
    let report = copied(&sick, None, &Wanted::default(), &place.path().join("d"));
    assert!(report.has_lost(), "it is an older state");
    let older = newest.generation().get();
    assert!(report.results[0].checkpoint.unwrap() < older, "{report:#?}");
    assert!(report.notes.iter().any(|note| note.contains("checkpoint")), "{:?}", report.notes);
    assert_eq!(fs::read(place.path().join("d/clusters/db/a")).unwrap(), vec![1; 40 * BLOCK_SIZE]);
}

/// A pool with a cluster of three files, two of them in the root.
pub fn filled() -> Arc<SimDevice> {
    changed(|_, _| {})
}

/// The same, with something done to its tree that nobody does.
fn changed(edit: impl Fn(&mut Txn<'_>, &pool::Head)) -> Arc<SimDevice> {
    let sim = new_device();
    let catalog = open(&sim);
    let (head, volume) = with_two_files(&catalog);
    let dir = volume.mkdir(ROOT_INODE, b"dir", 0o755, &ROOT).unwrap().attr.ino;
    let flags = OpenFlags { write: true, truncate: false };
    let (entry, handle) = volume.create(dir, b"inner", 0o640, flags, &ROOT).unwrap();
    volume.write(entry.attr.ino, 0, b"inner", true).unwrap();
    volume.release(handle).unwrap();
    volume.sync().unwrap();
    head.transact(|txn| {
        edit(txn, &head);
        Ok::<_, pool::PoolError>(())
    })
    .unwrap();
    catalog.close_head(&head).unwrap();
    drop(volume);
    catalog.pool().close().unwrap();
    sim
}

fn entry_of(head: &pool::Head, name: &[u8]) -> (Key, Dirent) {
    let mut found = None;
    let (first, last) = (dirent_key(ROOT_INODE, 0), dirent_key(ROOT_INODE, u64::MAX));
    head.view()
        .range(first, last, &mut |key, value| {
            let entry = Dirent::decode(value).unwrap();
            if entry.name == name {
                found = Some((key, entry));
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    found.unwrap()
}

fn only(sim: &Arc<SimDevice>) -> (tempfile::TempDir, Report) {
    let place = tempfile::tempdir().unwrap();
    let report = copied(sim, None, &Wanted::default(), &place.path().join("d"));
    (place, report)
}

#[test]
fn a_rotten_block_is_a_hole_in_its_file_and_is_named() {
    let sim = filled();
    let catalog = open(&sim);
    let (head, volume) = mounted(&catalog);
    let (_, entry) = entry_of(&head, b"b");
    let mut at = None;
    let (from, to) = (Key::new(entry.ino.0, kind::EXTENT, 0), Key::MAX);
    head.view()
        .range(from, to, &mut |_, value| {
            at = Some(ExtentItem::decode(value).unwrap().addr);
            ControlFlow::Break(())
        })
        .unwrap();
    catalog.close_head(&head).unwrap();
    drop((head, volume, catalog));
    let BlockAddr(rotten) = at.unwrap().plus(3);
    sim.corrupt(rotten * BLOCK_SIZE_U64 + 77, 4);
    let (place, report) = only(&sim);
    let loss = match &report.lost[..] {
        [loss] => loss,
        all => panic!("{all:#?}"),
    };
    assert_eq!(loss.path.as_deref(), Some("/b"));
    assert_eq!((loss.offset, loss.length), (Some(3 * BLOCK_SIZE_U64), Some(BLOCK_SIZE_U64)));
    let mut wanted = vec![2; 40 * BLOCK_SIZE];
    wanted[3 * BLOCK_SIZE..4 * BLOCK_SIZE].fill(0);
    assert!(fs::read(place.path().join("d/clusters/db/b")).unwrap() == wanted);
    assert!(fs::read(place.path().join("d/clusters/db/a")).unwrap() == vec![1; 40 * BLOCK_SIZE]);
}

#[test]
fn what_no_name_leads_to_is_found_by_its_number_and_what_is_gone_is_named() {
    let ino = std::cell::Cell::new(0);
    let sim = changed(|txn, head| {
        let (key, entry) = entry_of(head, b"b");
        ino.set(entry.ino.0);
        txn.remove(key);
        let (key, entry) = entry_of(head, b"dir");
        txn.remove(key);
        assert_eq!(entry.kind, FileKind::Directory);
        let (_, entry) = entry_of(head, b"a");
        txn.remove(inode_key(entry.ino));
    });
    let (place, report) = only(&sim);
    let found = read_back(&place.path().join("d/clusters/db.lost+found"));
    let content = |path: &str| match &found[path] {
        Seen::File { file, .. } => file.data.to_vec(),
        other => panic!("{other:?}"),
    };
    assert!(content(&ino.get().to_string()) == vec![2; 40 * BLOCK_SIZE]);
    let inner = found.keys().find(|path| path.ends_with("/inner")).expect("a directory is found");
    assert_eq!(content(inner), b"inner");
    // Its content is there, and ends with its last block; its owner and mode are not.
    assert_eq!(fs::read(place.path().join("d/clusters/db/a")).unwrap(), vec![1; 40 * BLOCK_SIZE]);
    let named = report.lost.iter().any(|loss| loss.path.as_deref() == Some("/a"));
    assert!(named, "{:#?}", report.lost);
    assert_eq!(report.results[0].found, 2);
}

#[test]
fn names_and_numbers_that_nobody_writes_lead_nowhere_outside() {
    let sim = changed(|txn, head| {
        let (key, entry) = entry_of(head, b"b");
        let names: [&[u8]; 6] = [b"..", b"../../escape", b"/tmp/escape", b"x\0y", b".", b""];
        for (name, at) in names.into_iter().zip(1..) {
            let key = Key { offset: key.offset ^ (at << 20), ..key };
            txn.put(key, Dirent { name: name.to_vec(), ..entry.clone() }.encode());
        }
        // A directory in itself, the root in a directory, and a file as long as can be.
        let (key, dir) = entry_of(head, b"dir");
        let own = Key { object: dir.ino.0, ..key };
        txn.put(own, Dirent { name: b"self".to_vec(), ..dir.clone() }.encode());
        let root = Dirent { ino: ROOT_INODE, kind: FileKind::Directory, name: b"root".to_vec() };
        txn.put(Key { offset: own.offset + 1, ..own }, root.encode());
        let (_, entry) = entry_of(head, b"a");
        let item = head.view().get(inode_key(entry.ino)).unwrap().unwrap();
        let item = InodeItem::decode(&item).unwrap();
        txn.put(inode_key(entry.ino), InodeItem { size: i64::MAX as u64, ..item }.encode());
        // A name twice in one directory.
        let (key, entry) = entry_of(head, b"b");
        txn.put(Key { offset: key.offset ^ (9 << 20), ..key }, entry.encode());
    });
    let (place, report) = only(&sim);
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1, "something is made outside");
    let names = |dir: &str| {
        let mut names: Vec<_> = fs::read_dir(place.path().join(dir))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names("d"), ["clusters"]);
    assert_eq!(names("d/clusters"), ["db"]);
    let there = names("d/clusters/db");
    assert!(there.iter().all(|name| ["a", "b", "dir"].contains(&name.as_str())), "{there:?}");
    assert_eq!(names("d/clusters/db/dir"), ["inner"]);
    let mut head = vec![0; 40 * BLOCK_SIZE];
    let long = fs::File::open(place.path().join("d/clusters/db/a")).unwrap();
    long.read_exact_at(&mut head, 0).unwrap();
    assert!(head == vec![1; 40 * BLOCK_SIZE]);
    assert!(!Path::new("/tmp/escape").exists());
    assert!(report.lost.iter().any(|loss| loss.what.contains("circle")), "{:#?}", report.lost);
    assert!(report.lost.iter().any(|loss| loss.what.contains("is none")), "{:#?}", report.lost);
}

#[test]
fn offsets_that_nobody_writes_and_paths_without_end_are_named_and_no_more() {
    let sim = changed(|txn, head| {
        let (_, entry) = entry_of(head, b"a");
        let key = Key::new(entry.ino.0, kind::EXTENT, 0);
        let extent = head.view().get(key).unwrap().unwrap();
        txn.remove(inode_key(entry.ino));
        // The last block that there can be, with its length lost.
        txn.put(Key { offset: u64::MAX - BLOCK_SIZE_U64 + 1, ..key }, extent.to_vec());
        txn.put(Key { offset: i64::MAX as u64 - BLOCK_SIZE_U64 + 1, ..key }, extent.to_vec());
    });
    let catalog = open(&sim);
    let (head, volume) = mounted(&catalog);
    let mut dir = ROOT_INODE;
    for _ in 0..DEPTH {
        dir = volume.mkdir(dir, &[b'x'; 250], 0o755, &ROOT).unwrap().attr.ino;
    }
    volume.symlink(dir, b"end", b"target", &ROOT).unwrap();
    let end = volume.lookup(dir, b"end").unwrap().attr.ino;
    volume.sync().unwrap();
    head.transact(|txn| {
        txn.remove(inode_key(end));
        Ok::<_, pool::PoolError>(())
    })
    .unwrap();
    catalog.close_head(&head).unwrap();
    drop(volume);
    catalog.pool().close().unwrap();
    let (place, report) = only(&sim);
    assert!(report.not_written.is_empty(), "{:#?}", report.not_written);
    let first = fs::read(place.path().join("d/clusters/db/a")).unwrap();
    assert!(first == vec![1; 40 * BLOCK_SIZE]);
    let of_a = report.lost.iter().filter(|loss| loss.path.as_deref() == Some("/a"));
    assert_eq!(of_a.filter(|loss| loss.offset.is_some()).count(), 2, "{:#?}", report.lost);
    assert_eq!(report.results[0].directories, DEPTH + 2);
    let long = report.lost.iter().filter_map(|loss| loss.path.as_deref()).map(str::len).max();
    assert!((4000..5000).contains(&long.unwrap()), "{long:?}");
}

#[test]
fn without_its_key_nothing_of_a_cluster_is_copied_and_the_rest_is() {
    let sample = Sample::new(3, false);
    let place = tempfile::tempdir().unwrap();
    let to = place.path().join("d");
    let report = copied(&sample.sim, None, &Wanted::default(), &to);
    let locked: Vec<_> = report.refused().collect();
    assert_eq!(locked.len(), 1, "{:#?}", report.results);
    assert_eq!(locked[0].why.as_deref(), Some("the key is disabled"));
    assert_eq!((locked[0].state, locked[0].bytes), (Fate::Refused, 0));
    assert!(!to.join("clusters").join(&locked[0].cluster_name).exists());
    let others = report.results.iter().filter(|tree| tree.state == Fate::Copied).count();
    assert_eq!(others, sample.clusters.len() - 1);
    assert!(!report.has_lost());
}

#[test]
fn of_a_cluster_whose_root_node_is_gone_the_newest_snapshot_is_copied() {
    let sample = Sample::new(4, false);
    let sick = sample.sim.copy();
    let pool = Arc::clone(&states(&sick)[0]);
    let catalog = Catalog::open(Arc::clone(&pool)).unwrap();
    let of = &sample.clusters[0];
    let header = catalog.header(Target::Cluster(of.id)).unwrap();
    let key = key_of_sample(&sample.secrets, &pool, of.id, &header.keys).unwrap();
    let context = catalog.root_context(of.id, &header);
    let (view, _) = pool.open_view(&key, &context, header.sealed_root.as_ref().unwrap()).unwrap();
    view.tree().walk(pool.nodes(), &mut |step| {
        if let Step::Node { pointer: Some(root), .. } = step {
            for run in root.runs() {
                sick.corrupt(run.addr.get() * BLOCK_SIZE_U64 + 9, 1);
            }
        }
        ControlFlow::Break(())
    });
    drop((view, catalog, pool));
    let place = tempfile::tempdir().unwrap();
    let to = place.path().join("d");
    let wanted = Wanted { clusters: vec![of.name.clone()], snapshots: Vec::new() };
    let report = copied(&sick, Some(&sample), &wanted, &to);
    assert!(report.has_lost());
    // A snapshot that shares the root with the head is lost with it.
    let of_it: Vec<_> = report.results.iter().filter(|tree| tree.snapshot_id.is_some()).collect();
    let (stood_in, before) = of_it.split_last().expect("a snapshot stands in");
    assert_eq!(stood_in.state, Fate::Copied);
    assert!(before.iter().all(|tree| tree.state == Fate::Unreadable), "{:#?}", report.results);
    let id: SnapshotId = stood_in.snapshot_id.as_ref().unwrap().parse().unwrap();
    let newest = sample.snapshots.iter().rev().filter(|(_, (cluster, _))| *cluster == of.id);
    assert_eq!(newest.map(|(id, _)| *id).nth(before.len()), Some(id));
    let (_, tree) = &sample.snapshots[&id];
    assert!(read_back(&to.join("snapshots").join(id.to_string())) == without_xattrs(tree));
}

/// The first thing in a copy that is not what it was, but for what the report names.
fn wrong(found: &Tree, wanted: &Tree, report: &Report, owner: &str) -> Option<String> {
    let losses: Vec<_> = report.lost.iter().filter(|loss| loss.owner == owner).collect();
    let is_named = |path: &str| {
        losses.iter().any(|loss| {
            let named = loss.path.as_deref().unwrap_or("?").trim_start_matches('/');
            named.is_empty() || named == path || path.starts_with(&format!("{named}/"))
        })
    };
    for (path, seen) in wanted {
        let same = match (found.get(path), seen) {
            (Some(Seen::File { file, .. }), Seen::File { file: wanted, .. }) => {
                let of_file = losses.iter().filter(|l| l.path == Some(format!("/{path}")));
                let ranges: Vec<_> = of_file.filter_map(|l| Some((l.offset?, l.length?))).collect();
                let cut = file.data.len() != wanted.data.len();
                let differs = file.data.iter().zip(wanted.data.iter()).zip(0..).find(
                    |((found, wanted), at)| {
                        let lost =
                            ranges.iter().any(|(from, len)| (*from..from + len).contains(at));
                        found != wanted && (!lost || **found != 0)
                    },
                );
                if differs.is_some() || (cut && !is_named(path)) {
                    return Some(format!("{path} has other content"));
                }
                true
            }
            (Some(found), wanted) => found == wanted,
            (None, _) => is_named(path),
        };
        if !same {
            return Some(format!("{path} is gone or something else"));
        }
    }
    let new = found.keys().find(|path| !wanted.contains_key(*path))?;
    Some(format!("{new} was never there"))
}

fn judge(sample: &Sample, damage: &Damage, to: &Path) -> Result<(), String> {
    let sick = damage.done_to(sample);
    let device: Arc<dyn Device> = sick.clone();
    let Ok(sealed) = pool::probe_remains(&device) else {
        return Err("nothing is left of it".to_owned());
    };
    drop(sealed);
    let report = copied(&sick, Some(sample), &all_of(sample), to);
    if report.states[0].checkpoint < sample.generation.get() {
        // An older state as a whole, which the sample does not know.
        return if damage.both_superblocks { Ok(()) } else { Err("an older state".to_owned()) };
    }
    let older = |owner: &str| report.notes.iter().any(|note| note.starts_with(owner));
    for cluster in &sample.clusters {
        let owner = format!("cluster {}", cluster.name);
        let place = to.join("clusters").join(cluster.name.as_str());
        if older(&owner) {
            continue;
        }
        if !place.exists() {
            let known = report.results.iter().find(|tree| tree.owner == owner);
            let catalog = damage.hits(sample, Kind::Catalog);
            if known.is_none_or(|tree| tree.state != Fate::Unreadable) && !catalog {
                return Err(format!("{owner} is not copied: {known:?}"));
            }
            continue;
        }
        let found = read_back(&place);
        let moments: Vec<Tree> = cluster.moments.iter().map(without_xattrs).collect();
        let Some(first) = wrong(&found, moments.last().unwrap(), &report, &owner) else { continue };
        let of_log = damage.kind == Kind::Log
            || damage.way() == "swapped"
            || damage.hits(sample, Kind::Catalog);
        let earlier = moments.iter().any(|tree| wrong(&found, tree, &report, &owner).is_none());
        if !(sample.crashed && of_log && earlier) {
            return Err(format!("{owner}: {first}: {:#?}", report.lost));
        }
    }
    for (id, (_, tree)) in &sample.snapshots {
        let place = to.join("snapshots").join(id.to_string());
        let result = report.results.iter().find(|tree| tree.snapshot_id == Some(id.to_string()));
        if !place.exists() {
            continue;
        }
        let owner = &result.expect("what is copied is told").owner;
        if let Some(first) = wrong(&read_back(&place), &without_xattrs(tree), &report, owner) {
            return Err(format!("{owner}: {first}: {:#?}", report.lost));
        }
    }
    let spared = [Kind::Ring, Kind::Map, Kind::Superblock];
    let spares = !damage.both_superblocks;
    if spares && spared.iter().any(|kind| damage.is_only(sample, *kind)) && report.has_lost() {
        return Err(format!("nothing needs what was hit: {:#?}", report.lost));
    }
    Ok(())
}

#[test]
fn no_damage_makes_a_copy_wrong_or_lose_what_it_does_not_name() {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let (first, count) = match (number("STRONGROOM_SEED"), number("STRONGROOM_MUTATIONS")) {
        (Some(seed), count) => (seed, count.unwrap_or(1)),
        (None, count) => (0, count.unwrap_or(MUTATIONS)),
    };
    let samples = [Sample::new(10, false), Sample::new(11, true)];
    let mut failures = Vec::new();
    for n in first..first + count {
        let sample = &samples[(n % 2) as usize];
        let damage = Damage::choose(sample, &mut Dice(n.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ 9));
        let place = tempfile::tempdir().unwrap();
        let to = place.path().join("d");
        let judged = std::panic::catch_unwind(|| judge(sample, &damage, &to));
        match judged {
            Ok(Ok(())) => {}
            Ok(Err(wrong)) => failures.push(format!("STRONGROOM_SEED={n}: {damage}: {wrong}")),
            Err(_) => failures.push(format!("STRONGROOM_SEED={n}: {damage}: it panicked")),
        }
    }
    assert!(failures.is_empty(), "{} of {count}:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn what_is_in_the_way_stays_and_what_cannot_be_written_is_named() {
    let sim = filled();
    let place = tempfile::tempdir().unwrap();
    let to = place.path().join("d");
    let survey = Survey::of(remains(&sim));
    let destination = NewDirectory::begin(&to).unwrap();
    fs::write(to.join("clusters"), "in the way").unwrap();
    let report = survey.copy(&Wanted::default(), Some(&destination), &mut |_, _, _| {
        Err(NoKey::Refused(String::new()))
    });
    assert_eq!(report.not_written.len(), 1, "{report:#?}");
    assert_eq!(report.not_written[0].owner, "cluster db");
    assert_eq!(fs::read_to_string(to.join("clusters")).unwrap(), "in the way");
}
