//! The check itself: what is wrong is found and named, and nothing makes it panic.

use std::ops::ControlFlow;
use std::sync::Arc;

use strongroom::base::units::{BLOCK_SIZE, BLOCK_SIZE_U64};
use strongroom::base::{BlockAddr, ClusterId, SegmentId, SnapshotId, Timestamp};
use strongroom::block::Run;
use strongroom::catalog::{Catalog, Header, NewCluster, NewSnapshot, SnapshotKind, Target};
use strongroom::crypto::{self, HeaderKeys};
use strongroom::device::Device;
use strongroom::device::sim::SimDevice;
use strongroom::pool::{self, CutPlan, OpenOptions, Pool, superblock};
use strongroom::tree::Key;
use strongroom::verify::{self, CheckOptions, Defect, Owner, Report, Severity, TreeState, xray};
use strongroom::volume::items::{ExtentItem, kind};
use strongroom::volume::{ROOT_INODE, Volume, VolumeOptions};

use crate::pools::{
    CLUSTER, engine_key, header_keys, mounted, new_device, open, open_for_reading, with_two_files,
    wrap, write_file,
};

const SNAPSHOT: SnapshotId = SnapshotId(77);

/// A pool with a cluster, a snapshot, and blocks that only the snapshot reaches.
fn filled() -> Arc<SimDevice> {
    let sim = new_device();
    let catalog = open(&sim);
    let (head, volume) = with_two_files(&catalog);
    let new = NewSnapshot {
        id: SNAPSHOT,
        cluster: CLUSTER,
        created_at: Timestamp::from_secs(1),
        expires_at: None,
        kind: SnapshotKind::OnDemand,
        description: String::new(),
    };
    catalog.take_snapshots(&[new]).unwrap();
    volume.unlink(ROOT_INODE, b"a").unwrap();
    while volume.background_step().unwrap() {}
    write_file(&volume, "c", 3);
    catalog.close_head(&head).unwrap();
    drop(volume);
    catalog.pool().close().unwrap();
    sim
}

fn check(pool: &Arc<Pool>) -> Report {
    let options = CheckOptions { items: &verify::volume_items, data: true };
    verify::check(pool, &options, &mut |_, _| None)
}

fn defects(report: &Report) -> Vec<&Defect> {
    report.findings.iter().map(|finding| &finding.defect).collect()
}

#[test]
fn a_sound_pool_is_covered_whole() {
    let sim = filled();
    let report = check(&open_for_reading(&sim));
    assert!(report.is_clean(), "{:#?}", report.findings);
    let coverage = &report.coverage;
    assert!(coverage.is_complete());
    assert_eq!(coverage.superblock_copies, 4);
    assert_eq!(coverage.trees.len(), 3);
    assert_eq!(coverage.blocks_allocated, coverage.blocks_reached);
    assert_eq!(coverage.blocks_checked, coverage.blocks_allocated);
    assert!(coverage.blocks_allocated > 120);
}

#[test]
fn a_check_writes_nothing() {
    let sim = filled();
    let before = sim.counts().writes;
    check(&open_for_reading(&sim));
    assert_eq!(sim.counts().writes, before);
}

#[test]
fn a_bad_superblock_copy_is_repairable() {
    let sim = filled();
    sim.corrupt(superblock::copy_offset(0, 1) + 300, 0x10);
    let report = check(&open_for_reading(&sim));
    assert_eq!(report.worst, Some(Severity::Repairable));
    assert!(matches!(defects(&report)[..], [Defect::Superblock { slot: 0, copy: 1, .. }]));
}

#[test]
fn rot_is_found_in_every_allocated_block_without_any_key() {
    let sim = filled();
    let pool = open_for_reading(&sim);
    let shapes = xray::regions(&pool).unwrap();
    let runs = shapes.iter().flat_map(|r| xray::region(&pool, r.region).unwrap().unwrap().runs);
    let addrs: Vec<u64> = runs.flat_map(|run| run.addr..run.addr + u64::from(run.blocks)).collect();
    assert!(addrs.len() > 120);
    let (mut data, mut nodes, mut copies) = (0, 0, 0);
    for addr in addrs.into_iter().step_by(5) {
        let sick = sim.copy();
        sick.corrupt(addr * BLOCK_SIZE_U64 + 99, 0x80);
        let device: Arc<dyn Device> = sick;
        let options = OpenOptions { read_only: true, ..OpenOptions::default() };
        let Ok(pool) = pool::probe(&device).unwrap().unlock(engine_key(), options) else {
            continue;
        };
        let report = check(&pool);
        // A fault is one finding: of the node, or of the copy of it, or of the data.
        let [finding] = &report.findings[..] else { panic!("{addr}: {:#?}", report.findings) };
        let first = finding.defect.block().expect("a block is named").get();
        assert!((first..first + 4).contains(&addr), "block {addr}: {finding}");
        match &finding.defect {
            Defect::Rot { addr: found, .. } => {
                assert_eq!(*found, BlockAddr(addr));
                // The head has deleted /a; the snapshot has it still.
                let files: Vec<_> = finding.hits.iter().filter_map(|h| h.file.as_ref()).collect();
                assert!(files.iter().any(|f| f.path.is_some() && f.range.is_some()), "{finding}");
                data += 1;
            }
            Defect::Node { owner, .. } => {
                assert!(!matches!(owner, Owner::Catalog), "it has another copy: {finding}");
                nodes += 1;
            }
            Defect::NodeCopy { .. } => copies += 1,
            _ => panic!("{finding}"),
        }
    }
    assert!(data > 10 && nodes > 0 && copies > 0, "{data} {nodes} {copies}");
}

#[test]
fn one_bad_copy_of_a_catalog_node_is_repairable_and_said_to_be() {
    let sim = filled();
    let pool = open_for_reading(&sim);
    let root = xray::nodes(&pool)[0].clone();
    let second = root.second.expect("catalog nodes are written twice");
    drop(pool);
    sim.corrupt(root.addr * BLOCK_SIZE_U64 + 5, 1);
    let report = check(&open_for_reading(&sim));
    let addr = BlockAddr(root.addr);
    let copy = Defect::NodeCopy { owner: Owner::Catalog, addr, mended: false };
    assert!(defects(&report).contains(&&copy), "{:#?}", report.findings);
    assert!(report.coverage.is_complete());
    sim.corrupt(second * BLOCK_SIZE_U64 + 5, 1);
    let device: Arc<dyn Device> = sim;
    let options = OpenOptions { read_only: true, ..OpenOptions::default() };
    assert!(pool::probe(&device).unwrap().unlock(engine_key(), options).is_err());
}

#[test]
fn a_log_that_a_crash_left_is_covered_before_and_after_recovery() {
    let sim = filled();
    let catalog = open(&sim);
    let (_head, volume) = mounted(&catalog);
    write_file(&volume, "d", 4);
    volume.sync().unwrap();
    let crashed = sim.fork_crashed(3);
    let pool = open_for_reading(&crashed);
    let report = check(&pool);
    assert!(report.is_clean(), "{:#?}", report.findings);
    let log = report.coverage.logs[0];
    assert_eq!(log.state, verify::LogState::Undecided);
    assert!(log.records > 0 && log.claimed_blocks >= 40, "{log:?}");
    let shown = xray::logs(&pool, None).unwrap();
    assert_eq!(shown[0].records.len() as u64, log.records);
    drop(pool);
    let catalog = open(&crashed);
    let report = check(catalog.pool());
    assert!(report.is_clean(), "{:#?}", report.findings);
    assert_eq!(report.coverage.logs[0].state, verify::LogState::Outstanding);
}

#[test]
fn no_byte_that_is_changed_makes_the_check_panic() {
    let sim = filled();
    let used: Vec<u64> = (0..256u64 << 20)
        .step_by(BLOCK_SIZE)
        .filter(|offset| {
            let mut block = vec![0; BLOCK_SIZE];
            sim.read(*offset, &mut block).unwrap();
            block.iter().any(|byte| *byte != 0)
        })
        .collect();
    let mut dice = crate::pools::Dice(11);
    for _ in 0..60 {
        let sick = sim.copy();
        for _ in 0..=dice.roll(3) {
            let at = dice.pick(&used) + dice.roll(BLOCK_SIZE) as u64;
            sick.corrupt(at, 1 << dice.roll(8));
        }
        let device: Arc<dyn Device> = sick;
        let options = OpenOptions { read_only: true, ..OpenOptions::default() };
        let opened = pool::probe(&device).and_then(|found| found.unlock(engine_key(), options));
        let Ok(pool) = opened else { continue };
        let _ = check(&pool);
        let _ = (xray::nodes(&pool), xray::regions(&pool), xray::logs(&pool, None));
        let _ = xray::superblocks(&*device, Some(&pool)).unwrap();
    }
}

#[test]
fn a_header_is_shown_without_its_key() {
    let sim = filled();
    let catalog = open(&sim);
    let header = catalog.header(Target::Snapshot(SNAPSHOT)).unwrap();
    drop(catalog);
    let pool = open_for_reading(&sim);
    let shown = xray::header(&pool, xray::HeaderOf::Snapshot(SNAPSHOT)).unwrap().unwrap();
    assert_eq!((shown.name.as_str(), shown.wraps.len()), ("db", 0));
    let secret = header.keys.plain.as_ref().unwrap().bytes();
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(!format!("{shown:?}").contains(&hex));
}

#[test]
fn a_locked_cluster_is_listed_and_its_blocks_are_counted() {
    let sim = filled();
    let catalog = open(&sim);
    let id = ClusterId([6; 16]);
    let mut keys = header_keys(&catalog);
    let secret = wrap(&mut keys);
    let pool_id = catalog.pool().id();
    let key =
        |keys: &HeaderKeys| crypto::cluster_key(&secret, &keys.salt, &pool_id, &id, keys.ck_id);
    let cluster_key = key(&keys);
    let (name, created_at) = ("locked".parse().unwrap(), Timestamp::from_secs(1));
    let new = NewCluster { id, name, created_at, header: Header::empty(keys) };
    let name = catalog.create_cluster(new).unwrap().name;
    let head = catalog.open_head(&name, cluster_key).unwrap();
    let options = VolumeOptions { background: false, ..VolumeOptions::default() };
    let volume = Volume::open_head(Arc::clone(&head), options).unwrap();
    write_file(&volume, "secret", 9);
    catalog.close_head(&head).unwrap();
    drop((volume, head));
    catalog.pool().close().unwrap();
    drop(catalog);

    let pool = open_for_reading(&sim);
    let report = check(&pool);
    assert!(report.is_clean(), "{:#?}", report.findings);
    assert!(!report.coverage.is_complete());
    let locked: Vec<_> = report
        .coverage
        .trees
        .iter()
        .filter(|tree| matches!(&tree.state, TreeState::Locked(ids) if ids.len() == 1))
        .collect();
    assert_eq!(locked.len(), 1);
    assert!(report.coverage.blocks_uncovered > 40);
    let options = CheckOptions { items: &verify::volume_items, data: false };
    let report = verify::check(&pool, &options, &mut |_, keys| Some(key(keys)));
    assert!(report.is_clean(), "{:#?}", report.findings);
    assert!(report.coverage.is_complete());
    assert_eq!(report.coverage.blocks_uncovered, 0);
}

/// A pool in which somebody did what nobody does.
pub fn broken(what: impl FnOnce(&Catalog, &Arc<pool::Head>)) -> Report {
    let sim = filled();
    let catalog = open(&sim);
    let (head, volume) = mounted(&catalog);
    what(&catalog, &head);
    catalog.pool().checkpoint(CutPlan::default()).unwrap();
    let report = check(catalog.pool());
    drop((volume, head));
    report
}

/// The first extent in the head's tree.
pub fn some_extent(head: &pool::Head) -> (Key, Vec<u8>) {
    let mut found = None;
    head.view()
        .range(Key::MIN, Key::MAX, &mut |key, value| {
            if key.kind == kind::EXTENT {
                found = Some((key, value.to_vec()));
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    found.unwrap()
}

#[test]
fn blocks_that_nothing_reaches_are_found() {
    let report = broken(|_, head| {
        let runs = head.prepare(&[1; 3 * BLOCK_SIZE]).unwrap();
        head.transact(|txn| {
            runs.into_iter().for_each(|run| txn.claim(run));
            Ok::<_, pool::PoolError>(())
        })
        .unwrap();
    });
    let found = |d: &&Defect| matches!(d, Defect::Unreached { blocks: 3, .. });
    assert!(defects(&report).iter().any(found), "{:#?}", report.findings);
}

#[test]
fn blocks_that_are_reached_twice_are_found() {
    let report = broken(|_, head| {
        let (key, value) = some_extent(head);
        head.transact(|txn| {
            txn.put(Key { offset: key.offset + (1 << 30), ..key }, value);
            Ok::<_, pool::PoolError>(())
        })
        .unwrap();
    });
    let found = |d: &&Defect| matches!(d, Defect::ReachedTwice { .. });
    assert!(defects(&report).iter().any(found), "{:#?}", report.findings);
}

#[test]
fn blocks_in_use_that_were_freed_are_found() {
    let report = broken(|catalog, head| {
        let (_, value) = some_extent(head);
        let addr = ExtentItem::decode(&value).unwrap().addr;
        let regions = xray::regions(catalog.pool()).unwrap();
        let mut runs = regions
            .iter()
            .flat_map(|r| xray::region(catalog.pool(), r.region).unwrap().unwrap().runs);
        let run = runs
            .find(|run| (run.addr..run.addr + u64::from(run.blocks)).contains(&addr.get()))
            .unwrap();
        let plan = CutPlan {
            edit: Some(Box::new(move |txn, _| {
                txn.free(Run { addr, blocks: 1 }, SegmentId(run.segment))
            })),
            ..CutPlan::default()
        };
        catalog.pool().checkpoint(plan).unwrap();
    });
    let found = defects(&report);
    let not_allocated = |d: &&Defect| matches!(d, Defect::NotAllocated { blocks: 1, .. });
    assert!(found.iter().any(not_allocated), "{:#?}", report.findings);
    assert!(found.iter().any(|d| matches!(d, Defect::Count { .. })), "{:#?}", report.findings);
    assert_eq!(report.worst, Some(Severity::Damage));
}

#[test]
fn a_lost_item_of_the_catalog_is_found() {
    const CELL_RUN: u8 = 0x26;
    let report = broken(|catalog, _| {
        let plan = CutPlan {
            edit: Some(Box::new(|txn, _| {
                let mut keys = Vec::new();
                txn.range(Key::MIN, Key::MAX, &mut |key, _| {
                    if key.kind == CELL_RUN {
                        keys.push(key);
                    }
                    ControlFlow::Continue(())
                })?;
                assert!(!keys.is_empty(), "the snapshot holds what was deleted");
                txn.remove(keys[0]).map(|_| ())
            })),
            ..CutPlan::default()
        };
        catalog.pool().checkpoint(plan).unwrap();
    });
    let found = |d: &&Defect| matches!(d, Defect::Count { what, .. } if what.contains("cell"));
    assert!(defects(&report).iter().any(found), "{:#?}", report.findings);
}
