//! Scrub: a pool that serves is read whole, while others write; what is wrong is found, named, and
//! mended where a good copy is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::world::{World, name};
use crate::base::units::BLOCK_SIZE_U64;
use crate::base::{BlockAddr, KeyAnswer, KeyState, ProblemCode, SegmentId};
use crate::service::{ScrubWhat, Service};
use crate::sys::threads;
use crate::verify::{Defect, Report, Severity, TreeState, xray};

fn scrub(world: &World, what: &ScrubWhat) -> Report {
    world.service.scrub(what, None, &|_, _| {}).unwrap()
}

/// A block in the middle of the longest run of data.
fn data_block(service: &Service) -> BlockAddr {
    let pool = service.pool();
    let runs = pool.regions().into_iter().flat_map(|region| {
        let first = pool.geometry().region_start(region);
        let runs = pool.region_map(region).unwrap().runs();
        runs.into_iter().map(move |run| (first, run))
    });
    let data = runs.filter(|(_, run)| run.segment != SegmentId::POOL);
    let (first, run) = data.max_by_key(|(_, run)| run.blocks).unwrap();
    first.plus(u64::from(run.start + run.blocks / 2))
}

fn filled(world: &World) {
    world.create("db", None);
    world.mount("db");
    world.write("/mnt/db", "table", &vec![7; 2 << 20]);
    world.snap("db");
}

#[test]
fn a_sound_pool_is_clean_while_others_write_to_it() {
    let world = Arc::new(World::new());
    filled(&world);
    let stop = Arc::new(AtomicBool::new(false));
    let (writing, ended) = (Arc::clone(&world), Arc::clone(&stop));
    let writer = threads::spawn("writer", move || {
        let mut n = 0_u64;
        while !ended.load(Ordering::Acquire) {
            n += 1;
            let file = format!("f{}", n % 7);
            writing.write("/mnt/db", &file, &vec![n as u8; 100_000]);
            if n.is_multiple_of(5) {
                writing.volume("/mnt/db").sync().unwrap();
            }
            if n.is_multiple_of(11) {
                writing.service.pool().checkpoint(crate::pool::CutPlan::default()).unwrap();
            }
        }
    });
    for _ in 0..12 {
        let report = scrub(&world, &ScrubWhat::All);
        assert!(report.is_clean(), "{:#?}", report.findings);
        assert!(report.coverage.is_complete());
        assert!(report.coverage.blocks_checked > 512);
        assert!(report.coverage.blocks_authenticated >= 512);
    }
    stop.store(true, Ordering::Release);
    writer.join().unwrap();
}

#[test]
fn rot_is_named_in_the_head_and_in_the_snapshot_and_everything_else_goes_on() {
    let world = World::new();
    filled(&world);
    let addr = data_block(&world.service);
    world.device.corrupt(addr.get() * BLOCK_SIZE_U64 + 5, 1);
    let report = scrub(&world, &ScrubWhat::All);
    let [finding] = &report.findings[..] else { panic!("{:#?}", report.findings) };
    assert!(matches!(finding.defect, Defect::Rot { addr: found, .. } if found == addr));
    let paths: Vec<_> =
        finding.hits.iter().map(|hit| hit.file.as_ref().unwrap().path.clone().unwrap()).collect();
    assert_eq!(paths, [b"/table".to_vec(), b"/table".to_vec()], "{finding}");
    // A part: the tags find it without the checksums.
    let report = scrub(&world, &ScrubWhat::Cluster(name("db")));
    assert_eq!(report.worst, Some(Severity::Damage));
    world.write("/mnt/db", "other", b"goes on");
    assert_eq!(world.read("/mnt/db", "other").unwrap(), b"goes on");
}

#[test]
fn many_rotten_blocks_take_few_checkpoints() {
    let world = World::new();
    filled(&world);
    let middle = data_block(&world.service);
    let blocks = 100;
    for addr in (0..blocks).map(|n| middle.plus(n)) {
        world.device.corrupt(addr.get() * BLOCK_SIZE_U64 + 5, 1);
    }
    let pool = world.service.pool();
    let before = pool.generation().get();
    let report = scrub(&world, &ScrubWhat::All);
    assert_eq!(report.findings.len() as u64, blocks, "{:#?}", report.findings);
    assert!(report.findings.iter().all(|f| f.hits.len() == 2), "in the head and in the snapshot");
    let made = pool.generation().get() - before;
    assert!(made < 10, "{made} checkpoints");
}

#[test]
fn a_bad_copy_is_written_anew() {
    let world = World::new();
    filled(&world);
    let root = xray::nodes(world.service.pool())[0].clone();
    for addr in [root.addr, root.second.unwrap()] {
        world.device.corrupt(addr * BLOCK_SIZE_U64 + 9, 4);
        let report = scrub(&world, &ScrubWhat::All);
        let [finding] = &report.findings[..] else { panic!("{:#?}", report.findings) };
        assert!(matches!(finding.defect, Defect::NodeCopy { mended: true, .. }), "{finding}");
        assert_eq!(report.worst, Some(Severity::Repairable));
        let report = scrub(&world, &ScrubWhat::All);
        assert!(report.is_clean(), "{:#?}", report.findings);
    }
}

#[test]
fn what_is_locked_is_compared_with_its_checksums() {
    let world = World::new();
    let key = world.fake.create("k");
    world.create("db", Some(&key));
    world.mount("db");
    world.write("/mnt/db", "table", &vec![7; 2 << 20]);
    world.umount("db");
    let addr = data_block(&world.service);
    world.device.corrupt(addr.get() * BLOCK_SIZE_U64 + 5, 1);
    world.fake.set(&key, KeyAnswer::State(KeyState::Disabled));
    for what in [ScrubWhat::All, ScrubWhat::Cluster(name("db"))] {
        let report = scrub(&world, &what);
        let [finding] = &report.findings[..] else { panic!("{:#?}", report.findings) };
        assert!(matches!(finding.defect, Defect::Rot { addr: found, .. } if found == addr));
        assert!(finding.hits.iter().all(|hit| hit.locked) && !finding.hits.is_empty());
        let tree = &report.coverage.trees.iter().find(|t| t.owner == finding.hits[0].owner);
        assert!(matches!(tree.unwrap().state, TreeState::Locked(_)));
    }
}

#[test]
fn it_keeps_to_its_rate_tells_how_far_it_is_and_runs_alone() {
    let world = World::new();
    filled(&world);
    let begin = crate::sys::clock::monotonic();
    let (told, refused) = (AtomicU64::new(0), AtomicBool::new(false));
    let progress = |done: u64, total: u64| {
        assert!(done <= total);
        told.fetch_max(done, Ordering::Relaxed);
        if !refused.swap(true, Ordering::Relaxed) {
            let second = world.service.scrub(&ScrubWhat::All, None, &|_, _| {});
            assert_eq!(second.unwrap_err().code, ProblemCode::Busy);
            assert!(
                world.service.status(false).unwrap().background.iter().any(|w| w.kind == "scrub")
            );
        }
    };
    world.service.scrub(&ScrubWhat::All, Some(16 << 20), &progress).unwrap();
    let took = (crate::sys::clock::monotonic() - begin).as_secs_f64();
    // 2 MiB of data, read for its checksums and for its tags.
    assert!(told.load(Ordering::Relaxed) >= 4 && took >= 0.25, "{told:?} MiB in {took} s");
    assert!(world.service.scrub(&ScrubWhat::All, Some(0), &|_, _| {}).is_err());
}

#[test]
fn a_cluster_is_let_go_of_once_what_it_keeps_is_needed() {
    let world = World::new();
    world.create("db", None);
    world.mount("db");
    let (checkpoint, pool) = (crate::pool::CutPlan::default, world.service.pool());
    let bytes = vec![7; 8 << 20];
    let old = pool.space().free * BLOCK_SIZE_U64 / 2 / bytes.len() as u64;
    for n in 0..old {
        world.write("/mnt/db", &format!("old{n}"), &bytes);
    }
    world.snap("db");
    pool.checkpoint(checkpoint()).unwrap();
    let written = AtomicU64::new(0);
    // While it is being read, the same again is written over it, and again.
    let progress = |_, _| {
        let n = written.fetch_add(1, Ordering::Relaxed);
        if n < old + 2 {
            world.write("/mnt/db", "new", &bytes);
            pool.checkpoint(checkpoint()).unwrap();
        }
    };
    let report = world.service.scrub(&ScrubWhat::Cluster(name("db")), None, &progress).unwrap();
    assert!(report.is_clean(), "{:#?}", report.findings);
    let states: Vec<_> = report.coverage.trees.iter().map(|t| t.state.clone()).collect();
    assert!(states.contains(&TreeState::LetGo), "{states:?}");
    assert_eq!(states.last(), Some(&TreeState::Walked), "its snapshot is read all the same");
    assert!(!report.coverage.is_complete());
    assert!(report.next_steps().iter().any(|step| step.contains("little room")));
    pool.checkpoint(checkpoint()).unwrap();
    pool.checkpoint(checkpoint()).unwrap();
    assert!(pool.space().pending_free < pool.space().free, "{:?}", pool.space());
}
