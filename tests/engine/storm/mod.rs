//! Everything at once on one pool: threads write, sync, read, truncate, rename, make and remove
//! files of two clusters while checkpoints, snapshots, clones and deletions of both, and remounts
//! and restores in place of a third, go on beside them. Each knows what it may see: of a block that
//! one thread writes with rising numbers, a reader sees one number whole, none older than what was
//! acknowledged before it looked and none newer than what was begun when it had; so does a snapshot
//! of the moment it is taken, and a crash of what was synced.
//!
//! A thread without progress for [`STUCK`] is a deadlock. `STRONGROOM_STORM_SECONDS=n` blows longer,
//! `STRONGROOM_SEED=n` otherwise; a seed does not fix how threads meet.

mod blocks;
mod names;
mod snapshots;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use strongroom::base::{ClusterId, InodeNo};
use strongroom::catalog::{Catalog, Target};
use strongroom::device::sim::SimDevice;
use strongroom::pool::{CutPlan, Head};
use strongroom::sys::clock;
use strongroom::sys::threads::{self, JoinHandle};
use strongroom::volume::{Caller, OpenFlags, ROOT_INODE, Volume, VolumeOptions};

use crate::pools::{self, Dice, key_of, new_cluster, new_device};
use crate::volumes::{assert_sound, number};
use blocks::{Contested, Pair, Written};
use names::Names;

const STUCK: Duration = Duration::from_secs(120);
const ROOT: Caller = Caller { uid: 0, gid: 0, umask: 0o022, pid: 1 };
const WRITE: OpenFlags = OpenFlags { write: true, truncate: false };

/// An open cluster.
struct Mounted {
    head: Arc<Head>,
    volume: Arc<Volume>,
}

fn mount(catalog: &Catalog, id: ClusterId) -> Mounted {
    let info = catalog.clusters().unwrap().into_iter().find(|info| info.id == id).unwrap();
    let header = catalog.header(Target::Cluster(id)).unwrap();
    let head = catalog.open_head(&info.name, key_of(catalog, id, &header.keys)).unwrap();
    let options = VolumeOptions {
        inode_floor: info.next_inode_floor,
        cached_inodes: 64,
        buffer_bytes: 256 << 10,
        ..VolumeOptions::default()
    };
    let volume = Volume::open_head(Arc::clone(&head), options).unwrap();
    Mounted { head, volume }
}

/// A new file in the root directory.
fn new_file(volume: &Volume, name: &str) -> InodeNo {
    let made = volume.create(ROOT_INODE, name.as_bytes(), 0o644, WRITE, &ROOT);
    let (entry, handle) = made.unwrap();
    volume.release(handle).unwrap();
    entry.attr.ino
}

fn find(volume: &Volume, name: &str) -> InodeNo {
    let entry = volume.lookup(ROOT_INODE, name.as_bytes()).unwrap();
    volume.forget(entry.attr.ino, 1);
    entry.attr.ino
}

/// What all threads share.
struct Storm {
    catalog: Arc<Catalog>,
    /// Two clusters that stay mounted, and one that does not.
    clusters: [ClusterId; 3],
    volumes: [Arc<Volume>; 2],
    files: Vec<Written>,
    contested: Contested,
    pair: Pair,
    names: Names,
    /// Numbers for what needs one of its own.
    next: AtomicU64,
    over: AtomicBool,
}

impl Storm {
    fn begin(sim: &Arc<SimDevice>) -> (Arc<Self>, Vec<Mounted>) {
        let catalog = pools::open(sim);
        let clusters = [1, 2, 3].map(|n| {
            let new = new_cluster(&catalog, n);
            let id = new.id;
            catalog.create_cluster(new).unwrap();
            id
        });
        let mounted: Vec<Mounted> = clusters[..2].iter().map(|id| mount(&catalog, *id)).collect();
        let volumes = [0, 1].map(|n| Arc::clone(&mounted[n].volume));
        let files = (0..4).map(|n| Written::new(&volumes, n)).collect();
        let contested = Contested::new(&volumes[0]);
        let pair = Pair::new(&volumes);
        let names = Names::new(&volumes[0]);
        let (next, over) = (AtomicU64::new(1000), AtomicBool::new(false));
        let storm = Self { catalog, clusters, volumes, files, contested, pair, names, next, over };
        (Arc::new(storm), mounted)
    }

    fn next_number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}

/// A thread that does one thing again and again.
struct Worker {
    name: String,
    rounds: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    fn start(
        storm: &Arc<Storm>,
        name: String,
        mut round: impl FnMut(&Storm, &mut Dice) + Send + 'static,
    ) -> Self {
        let rounds = Arc::new(AtomicU64::new(0));
        let (storm, counted) = (Arc::clone(storm), Arc::clone(&rounds));
        let seed = number("STRONGROOM_SEED").unwrap_or(0);
        let mut dice =
            Dice(name.bytes().fold(seed, |sum, b| (sum << 5) ^ (sum >> 59) ^ u64::from(b)));
        let thread = threads::spawn(&name, move || {
            while !storm.over.load(Ordering::Relaxed) {
                round(&storm, &mut dice);
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { name, rounds, thread: Some(thread) }
    }

    fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

fn workers(storm: &Arc<Storm>) -> Vec<Worker> {
    let mut all = Vec::new();
    let mut start = |name: &str, round: fn(&Storm, &mut Dice)| {
        all.push(Worker::start(storm, name.to_owned(), round));
    };
    start("checkpoints", |storm, dice| {
        storm.catalog.pool().checkpoint(CutPlan::default()).unwrap();
        clock::sleep(Duration::from_millis(dice.roll(20) as u64));
    });
    start("snapshots", snapshots::take_look_delete);
    start("remounts", snapshots::remount);
    start("pair", |storm, _| storm.pair.write());
    start("truncations", |storm, dice| storm.contested.truncate(dice));
    start("contested-writes", |storm, dice| storm.contested.write(dice));
    start("contested-reads", |storm, dice| storm.contested.read(dice));
    start("renames-1", |storm, dice| storm.names.rename(dice));
    start("renames-2", |storm, dice| storm.names.rename(dice));
    start("renames-3", |storm, dice| storm.names.rename(dice));
    start("short-lives", |storm, dice| storm.names.short_life(storm.next_number(), dice));
    start("reads-1", |storm, dice| storm.files[dice.roll(4)].read(dice));
    start("reads-2", |storm, dice| storm.files[dice.roll(4)].read(dice));
    for n in 0..storm.files.len() {
        let round = move |storm: &Storm, dice: &mut Dice| storm.files[n].write(dice);
        all.push(Worker::start(storm, format!("writes-{n}"), round));
    }
    all
}

/// Watches until `ready`; a worker that ended before, or stands still, is a failure.
fn watch(workers: &[Worker], ready: impl Fn() -> bool, may_end: bool) {
    let mut seen: Vec<(u64, Duration)> = vec![(0, clock::monotonic()); workers.len()];
    while !ready() {
        clock::sleep(Duration::from_millis(50));
        let now = clock::monotonic();
        for (worker, seen) in workers.iter().zip(&mut seen) {
            let rounds = worker.rounds.load(Ordering::Relaxed);
            if rounds != seen.0 {
                *seen = (rounds, now);
            }
            assert!(
                may_end || !worker.has_ended(),
                "'{}' failed; its message is above",
                worker.name
            );
            let stands = now.saturating_sub(seen.1);
            assert!(
                worker.has_ended() || stands < STUCK,
                "'{}' stands still since round {rounds}: a deadlock",
                worker.name
            );
        }
    }
}

#[test]
fn whoever_looks_sees_a_moment_that_was_and_nobody_waits_for_ever() {
    let sim = new_device();
    let (storm, mounted) = Storm::begin(&sim);
    let mut workers = workers(&storm);
    let seconds = number("STRONGROOM_STORM_SECONDS").unwrap_or(6);
    let end = clock::monotonic() + Duration::from_secs(seconds);
    watch(&workers, || clock::monotonic() >= end, false);
    // The power goes while all goes on: what had been synced by now is in whatever is left.
    let synced: Vec<_> = storm.files.iter().map(Written::synced).collect();
    let crashed = sim.fork_crashed(number("STRONGROOM_SEED").unwrap_or(0));
    let begun: Vec<_> = storm.files.iter().map(Written::begun).collect();

    storm.over.store(true, Ordering::Relaxed);
    watch(&workers, || workers.iter().all(Worker::has_ended), true);
    for worker in &mut workers {
        let ended = worker.thread.take().map(JoinHandle::join);
        assert!(matches!(ended, Some(Ok(()))), "'{}' failed; its message is above", worker.name);
        let rounds = worker.rounds.load(Ordering::Relaxed);
        assert!(rounds > 0, "'{}' never came round", worker.name);
        println!("{}: {rounds}", worker.name);
    }
    storm.names.assert_all_there();
    storm.files.iter().for_each(|file| file.assert_last(&storm.volumes[file.volume]));
    for Mounted { head, volume } in mounted {
        while volume.background_step().unwrap() {}
        storm.catalog.close_head(&head).unwrap();
    }
    assert_sound(storm.catalog.pool());

    let catalog = pools::open(&crashed);
    assert_sound(catalog.pool());
    let opened = [0, 1].map(|n| mount(&catalog, storm.clusters[n]).volume);
    for ((file, synced), begun) in storm.files.iter().zip(&synced).zip(&begun) {
        file.assert_between(&opened[file.volume], synced, begun);
    }
}
