//! What was written before the barrier is with the daemon after it.

use std::fs::{File, OpenOptions};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::MetadataExt as _;

use strongroom::fuse::BarrierKind;
use strongroom::sys::clock;

use crate::mapping::Mapping;
use crate::server::{Mount, Setup};

const LEN: usize = 96 * 1024 + 123;

/// Rounds per kind of barrier: STRONGROOM_BARRIER_ROUNDS for more.
fn rounds() -> usize {
    std::env::var("STRONGROOM_BARRIER_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(25)
}

fn bytes(round: usize, salt: usize) -> Vec<u8> {
    let mut state = (round as u64) << 32 | (salt as u64 + 1);
    (0..LEN)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect()
}

fn create(mount: &Mount, name: &str) -> File {
    let path = mount.path(name);
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

/// Four ways of having dirty pages: written; written and unlinked; stored through a mapping whose
/// descriptor is closed; the same, unlinked.
struct Dirty {
    written: Vec<(u64, File)>,
    mapped: Vec<(u64, Mapping)>,
}

impl Dirty {
    fn new(mount: &Mount) -> Self {
        let mut written = Vec::new();
        let mut mapped = Vec::new();
        for (name, unlink) in [("written", false), ("written-unlinked", true)] {
            let file = create(mount, name);
            if unlink {
                std::fs::remove_file(mount.path(name)).unwrap();
            }
            written.push((file.metadata().unwrap().ino(), file));
        }
        for (name, unlink) in [("mapped", false), ("mapped-unlinked", true)] {
            let file = create(mount, name);
            file.set_len(LEN as u64).unwrap();
            if unlink {
                std::fs::remove_file(mount.path(name)).unwrap();
            }
            let ino = file.metadata().unwrap().ino();
            mapped.push((ino, Mapping::new(&file, LEN).unwrap()));
        }
        Self { written, mapped }
    }

    fn dirty(&mut self, round: usize) {
        for (salt, (_, file)) in self.written.iter_mut().enumerate() {
            file.seek(SeekFrom::Start(0)).unwrap();
            file.write_all(&bytes(round, salt)).unwrap();
        }
        for (salt, (_, mapping)) in self.mapped.iter_mut().enumerate() {
            mapping.store(0, &bytes(round, 10 + salt));
        }
    }

    /// How many of the four files the daemon has otherwise than they were made.
    fn missing(&self, mount: &mut Mount, round: usize) -> usize {
        let written = self.written.iter().enumerate().map(|(salt, (ino, _))| (*ino, salt));
        let mapped = self.mapped.iter().enumerate().map(|(salt, (ino, _))| (*ino, 10 + salt));
        written
            .chain(mapped)
            .filter(|(ino, salt)| mount.content(*ino) != bytes(round, *salt))
            .count()
    }
}

fn hold(kind: BarrierKind, delay_ms: u64, rounds: usize) {
    let mut mount = Mount::new(&Setup { kind, delay_ms, ..Setup::default() });
    let mut dirty = Dirty::new(&mount);
    for round in 0..rounds {
        dirty.dirty(round);
        assert_eq!(mount.settle(), "ok 4", "round {round}");
        assert_eq!(dirty.missing(&mut mount, round), 0, "round {round}");
    }
    drop(dirty);
}

#[test]
fn everything_written_before_it_arrives_by_handle() {
    hold(BarrierKind::Handle, 0, rounds());
}

#[test]
fn everything_written_before_it_arrives_by_invalidation() {
    hold(BarrierKind::Invalidate, 0, rounds());
}

#[test]
fn a_slow_daemon_makes_it_slower_not_wrong() {
    hold(BarrierKind::Handle, 5, 3);
    hold(BarrierKind::Invalidate, 2, 2);
}

/// The same without the barrier: if this finds nothing missing, the tests above prove nothing.
#[test]
fn without_the_barrier_pages_are_missing() {
    for kind in [BarrierKind::Handle, BarrierKind::Invalidate] {
        let mut mount = Mount::new(&Setup { kind, ..Setup::default() });
        let mut dirty = Dirty::new(&mount);
        let mut missing = 0;
        for round in 0..5 {
            dirty.dirty(round);
            missing += dirty.missing(&mut mount, round);
        }
        assert!(missing > 0, "{kind}");
    }
}

#[test]
fn it_costs_nothing_where_nothing_is_open_and_no_commit_where_something_is() {
    let mut mount = Mount::new(&Setup::default());
    assert_eq!(mount.settle(), "ok 0");
    let before = mount.ask("commits");
    let mut file = create(&mount, "f");
    file.write_all(b"x").unwrap();
    assert_eq!(mount.settle(), "ok 1");
    assert_eq!(mount.ask("commits"), before);
    // Anybody else's fsync is honest.
    file.sync_all().unwrap();
    assert_ne!(mount.ask("commits"), before);
}

#[test]
fn it_is_bounded_in_time() {
    let mut mount = Mount::new(&Setup { delay_ms: 300, ..Setup::default() });
    let mut files: Vec<_> = (0..8).map(|i| create(&mount, &format!("f{i}"))).collect();
    for file in &mut files {
        file.write_all(&bytes(1, 1)).unwrap();
    }
    let began = clock::monotonic();
    let answer = mount.ask("settle-within-ms 100");
    assert!(answer.starts_with("error"), "{answer}");
    assert!(
        (clock::monotonic() - began) < std::time::Duration::from_millis(800),
        "{:?}",
        (clock::monotonic() - began)
    );
    assert_eq!(mount.settle(), "ok 8");
}

/// Hidden below another mount, the root cannot be reached by any path: pages are had otherwise.
#[test]
fn a_hidden_mount_is_flushed_too() {
    let mut mount = Mount::new(&Setup::default());
    let mut dirty = Dirty::new(&mount);
    let dir = mount.dir();
    let run = |program: &str, args: &[&str]| {
        let done = std::process::Command::new(program).args(args).arg(&dir).status().unwrap();
        assert!(done.success(), "{program}");
    };
    run("mount", &["-t", "tmpfs", "none"]);
    dirty.dirty(3);
    let answer = mount.settle();
    let missing = dirty.missing(&mut mount, 3);
    run("umount", &[]);
    assert_eq!((answer.as_str(), missing), ("ok 4", 0));
}
