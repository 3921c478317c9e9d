//! A snapshot of a pool on disk, asked for the moment something was written, holds just that.
//!
//! Each round an application writes and syncs nothing, a snapshot is asked for at once, and the
//! application goes on while it is restored by mounting and compared byte by byte. Files that have
//! no name any more cannot be reached through a mount of the snapshot (freeing them is the first
//! thing that a restored cluster does), so they are compared where nobody serves the pool, by
//! their numbers.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use strongroom::base::SnapshotId;
use strongroom::sys::clock;

use crate::daemon::{Daemon, content, helpers_of, home_of, is_alive, take, within};
use crate::mapping::Mapping;
use crate::ordinary_user::{DeviceForAll, USER};
use crate::writer::{Expected, Writer, difference, read_tree};

/// Rounds before the pool is closed, looked at from outside, and made anew.
const ROUNDS_PER_POOL: usize = 50;

/// Rounds per kind of barrier: STRONGROOM_BARRIER_ROUNDS for more.
fn rounds() -> usize {
    std::env::var("STRONGROOM_BARRIER_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(50)
}

fn hold(kind: &str, start: fn() -> Daemon) {
    let (mut left, mut seed) = (rounds(), 1);
    let mut spent = Duration::ZERO;
    while left > 0 {
        let now = left.min(ROUNDS_PER_POOL);
        let daemon = start();
        assert_eq!(daemon.barrier(), kind);
        spent += hold_on(&daemon, now, seed);
        left -= now;
        seed += 1;
    }
    // For scripts/barrier.sh, which shows what a test prints.
    println!("{kind}: {} rounds, {} us a snapshot", rounds(), spent.as_micros() / rounds() as u128);
}

/// So many rounds on one pool. How long the snapshots took, all together.
fn hold_on(daemon: &Daemon, rounds: usize, seed: u64) -> Duration {
    let mut writer = Writer::new(&daemon.at("m"), seed);
    let mut taken: BTreeMap<SnapshotId, Expected> = BTreeMap::new();
    let client = daemon.client();
    let mut spent = Duration::ZERO;
    for round in 0..rounds {
        writer.work();
        let expected = writer.expected();
        let began = clock::monotonic();
        let id = take(&client).unwrap();
        spent += clock::monotonic() - began;
        // What comes later is not in it.
        writer.work();
        daemon.restore(id);
        let found = read_tree(&daemon.at("r"));
        let differs = difference(&found, &expected.named);
        assert!(differs.is_empty(), "seed {seed}, round {round}: {differs:#?}");
        daemon.end_restore();
        taken.insert(id, expected);
    }
    drop(writer);
    daemon.shut_down();
    let snapshots = daemon.snapshots_offline();
    assert_eq!(taken.len(), rounds);
    for (id, expected) in taken {
        let volume = snapshots.volume(id);
        assert_eq!(expected.nameless.len(), 3);
        for (ino, bytes) in expected.nameless {
            assert!(content(&volume, ino) == bytes, "seed {seed}: inode {ino} of {id} differs");
        }
    }
    spent
}

#[test]
fn what_was_written_is_in_the_snapshot_by_handle() {
    hold("handle", Daemon::new);
}

#[test]
fn what_was_written_is_in_the_snapshot_without_the_capability() {
    hold("invalidate", Daemon::without_handles);
}

#[test]
fn what_was_written_is_in_an_ordinary_users_snapshot() {
    let _device = DeviceForAll::begin();
    let home = home_of(USER);
    let done = Command::new("setpriv")
        .args([format!("--reuid={USER}"), format!("--regid={USER}")])
        .args(["--clear-groups"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "rounds::an_ordinary_users_part", "--ignored", "--nocapture"])
        .env(USERS_VARIABLE, "1")
        .env("HOME", home.path())
        .env("XDG_RUNTIME_DIR", home.path().join("run"))
        .env_remove("XDG_CONFIG_HOME")
        .current_dir("/")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{said}\n{}", String::from_utf8_lossy(&done.stderr));
    println!("as an ordinary user: {}", said.lines().find(|l| l.contains("rounds,")).unwrap());
}

const USERS_VARIABLE: &str = "STRONGROOM_TEST_ORDINARY_USER";

/// Not a test: the part of the test above that is done by the user.
#[test]
#[ignore = "the ordinary user's half of another test"]
fn an_ordinary_users_part() {
    if std::env::var_os(USERS_VARIABLE).is_some() {
        hold("invalidate", Daemon::new);
    }
}

/// Bytes that wait in the kernel when the daemon is killed.
const DIRTY: usize = 96 << 20;

/// SIGKILL while a snapshot waits for the kernel: nothing hangs, and what was synced is there when
/// the daemon comes back.
fn kill_during(start: fn() -> Daemon) {
    let daemon = start();
    let synced = daemon.at("m").join("synced");
    let mut cut_short = 0;
    for delay_ms in [0, 5, 20, 60] {
        let text = format!("before {delay_ms}");
        std::fs::write(&synced, &text).unwrap();
        std::fs::File::open(&synced).unwrap().sync_all().unwrap();
        let mut options = std::fs::File::options();
        options.read(true).write(true).create(true).truncate(true);
        let file = options.open(daemon.at("m").join("dirty")).unwrap();
        file.set_len(DIRTY as u64).unwrap();
        let mut mapping = Mapping::new(&file, DIRTY).unwrap();
        drop(file);
        mapping.store(0, &vec![delay_ms as u8 + 1; DIRTY]);
        let (pid, client) = (daemon.pid(), daemon.client());
        let snapshot = strongroom::sys::threads::spawn("test", move || take(&client));
        assert!(within(Duration::from_secs(10), || !helpers_of(pid).is_empty()), "no barrier");
        clock::sleep(Duration::from_millis(delay_ms));
        let helpers = helpers_of(pid);
        assert!(daemon.kill(pid), "the daemon is still there after SIGKILL");
        let gone = || helpers.iter().all(|helper| !is_alive(*helper));
        assert!(within(Duration::from_secs(10), gone), "a helper outlived its daemon");
        cut_short += usize::from(snapshot.join().unwrap().is_err());
        drop(mapping);
        daemon.sr(&["cluster", "list"]);
        let back = || std::fs::read_to_string(&synced).is_ok_and(|found| found == text);
        assert!(within(Duration::from_secs(20), back), "what was synced did not come back");
    }
    assert!(cut_short >= 2, "the barrier was over before the daemon was killed");
    daemon.shut_down();
}

#[test]
fn a_daemon_killed_during_a_barrier_by_handle_leaves_nothing_hanging() {
    kill_during(Daemon::new);
}

#[test]
fn a_daemon_killed_during_a_barrier_by_invalidation_leaves_nothing_hanging() {
    kill_during(Daemon::without_handles);
}
