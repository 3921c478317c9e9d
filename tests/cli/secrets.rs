//! Secrets of real processes: what their memory holds after use, and that nobody else reads it.

use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use strongroom::sys::clock;

use crate::support::World;

/// Some user that is not root: `nobody`.
const SOMEBODY: u32 = 65534;

/// For each place in a process's writable memory that holds `needle`: whether it lies in memory
/// that is left out of core dumps, as the arena of keys is.
fn places_in_memory(pid: u64, needle: &[u8]) -> Vec<bool> {
    let mem = File::open(format!("/proc/{pid}/mem")).expect("tests run as root");
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let mut places = Vec::new();
    let mut range = None;
    for line in smaps.lines() {
        let first = line.split_whitespace().next().unwrap_or_default();
        if let Some((from, to)) = first.split_once('-').filter(|_| !first.ends_with(':')) {
            let number = |text| u64::from_str_radix(text, 16).unwrap();
            range = line.contains(" rw").then(|| (number(from), number(to)));
        } else if let (Some(flags), Some((from, to))) = (line.strip_prefix("VmFlags:"), range) {
            let in_arena = format!("{flags} ").contains(" dd ");
            let mut bytes = Vec::new();
            for page in (from..to).step_by(4096) {
                let mut buf = [0; 4096];
                if mem.read_at(&mut buf, page).is_ok() {
                    bytes.extend_from_slice(&buf);
                }
            }
            let found = bytes.windows(needle.len()).filter(|w| *w == needle);
            places.extend(found.map(|_| in_arena));
        }
    }
    places
}

fn write_private(path: &Path, bytes: &[u8]) {
    let mut options = File::options();
    let file = options.write(true).create_new(true).mode(0o600).open(path).unwrap();
    file.write_all_at(bytes, 0).unwrap();
}

/// A passphrase that nothing else in memory looks like.
fn passphrase(word: &str) -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap();
    format!("{word}-{}", id.trim())
}

fn only_file(folder: &Path, name: &str) -> Vec<u8> {
    let pool = fs::read_dir(folder.join("pools")).unwrap().next().unwrap().unwrap();
    fs::read(pool.path().join(name)).unwrap()
}

#[test]
fn a_daemon_forgets_passphrases_and_root_secrets_and_keeps_keys_in_locked_memory() {
    let world = World::new();
    let (first, second) = (passphrase("first"), passphrase("second"));
    write_private(&world.path("first"), first.as_bytes());
    write_private(&world.path("second"), second.as_bytes());
    let (first_at, second_at) = (world.path("first"), world.path("second"));
    let (first_at, second_at) = (first_at.display(), second_at.display());
    let file = world.path("third");
    for line in [
        format!("init --size 300M --root-secret passphrase --passphrase-file {first_at}"),
        format!("daemon --passphrase-file {first_at}"),
        "key create k1".to_owned(),
        "cluster create db --key k1".to_owned(),
        format!("root-secret add file:{}", file.display()),
        "root-secret remove passphrase".to_owned(),
        format!("root-secret add passphrase --new-passphrase-file {second_at}"),
    ] {
        let done = world.type_in(&line);
        assert_eq!(done.status, 0, "{line}: {}", done.err);
    }
    let status: serde_json::Value =
        serde_json::from_str(&world.type_in("status --json").out).unwrap();
    let pid = status["pid"].as_u64().unwrap();
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let found = [
        ("the passphrase that opened the pool", first.into_bytes()),
        ("a passphrase that came through the socket", second.into_bytes()),
        ("a root secret that was made", fs::read(&file).unwrap()),
    ]
    .map(|(what, secret)| (what, places_in_memory(pid, &secret).len()));
    let keyring = places_in_memory(pid, &only_file(&world.path("config"), "keyring.key"));
    assert_eq!(world.type_in("shutdown").status, 0);
    for (what, places) in found {
        assert_eq!(places, 0, "{what}");
    }
    assert!(!keyring.is_empty(), "the keyring's secret is in use: it is found");
    assert!(keyring.iter().all(|in_arena| *in_arena), "{keyring:?}");
    let core = limits.lines().find(|l| l.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
}

/// A command of somebody's who has a pool in this world.
fn of_somebody(world: &World, line: &str) -> Command {
    let program = File::open(env!("CARGO_BIN_EXE_strongroom")).unwrap();
    // By descriptor: somebody may have no way to the program's folder.
    let mut command = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
    command
        .args(line.split_whitespace())
        .env_clear()
        .env("STRONGROOM_POOL", world.path("pool"))
        .env("STRONGROOM_CONFIG", world.path("config"))
        .env("XDG_RUNTIME_DIR", world.dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .uid(SOMEBODY)
        .gid(SOMEBODY);
    // It must stay open until the program runs.
    std::mem::forget(program);
    command
}

/// Waits until the kernel counts a process's files in `/proc` as root's: it is not dumpable, and
/// its own user can neither trace it nor read its memory.
fn wait_until_private(child: &mut Child) -> Result<(), String> {
    let end = clock::monotonic() + Duration::from_secs(20);
    let status = format!("/proc/{}/status", child.id());
    while clock::monotonic() < end {
        if fs::metadata(&status).map_err(|e| e.to_string())?.uid() == 0 {
            return Ok(());
        }
        if let Some(ended) = child.try_wait().map_err(|e| e.to_string())? {
            return Err(format!("it ended: {ended}"));
        }
        clock::sleep(Duration::from_millis(20));
    }
    Err("its user can read its memory".to_owned())
}

#[test]
fn no_command_that_comes_to_hold_secrets_can_be_dumped_or_read() {
    let world = World::new();
    std::os::unix::fs::chown(world.dir.path(), Some(SOMEBODY), Some(SOMEBODY)).unwrap();
    fs::set_permissions(world.dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let words = world.path("words");
    write_private(&words, b"some words");
    std::os::unix::fs::chown(&words, Some(SOMEBODY), Some(SOMEBODY)).unwrap();
    let pipe = world.path("pipe");
    assert!(Command::new("mkfifo").args(["-m", "666"]).arg(&pipe).status().unwrap().success());
    let (words, pipe) = (words.display(), pipe.display());
    let made = of_somebody(
        &world,
        &format!("init --size 300M --root-secret passphrase --passphrase-file {words}"),
    );
    let made = { made }.status().unwrap();
    assert!(made.success(), "{made}");
    for line in [
        format!("--pool {pipe}.new init --root-secret passphrase --passphrase-file {pipe}"),
        format!("check --passphrase-file {pipe}"),
        format!("debug superblock --passphrase-file {pipe}"),
        format!("config backup {pipe}.backup --backup-passphrase-file {pipe}"),
        format!("config restore {words} --backup-passphrase-file {pipe}"),
        format!("daemon --foreground --passphrase-file {pipe}"),
    ] {
        // Each waits for somebody to write its passphrase.
        let mut child = of_somebody(&world, &line).stderr(Stdio::null()).spawn().unwrap();
        let private = wait_until_private(&mut child);
        let limits = fs::read_to_string(format!("/proc/{}/limits", child.id()));
        let _ = child.kill();
        let _ = child.wait();
        assert_eq!(private, Ok(()), "{line}");
        let core = limits.unwrap();
        let core = core.lines().find(|l| l.starts_with("Max core file size")).unwrap();
        assert_eq!(core.split_whitespace().nth(4), Some("0"), "{line}: {core}");
    }
}
