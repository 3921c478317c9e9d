//! Pools that do not open, as somebody at the prompt meets them: one line, the documented status,
//! nothing changed.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;

use crate::support::World;

/// Bytes of a superblock copy; copies stand at 0, 1, 2 and 3 MiB (docs/format.md).
const COPY_BYTES: usize = 16 << 10;

fn copies() -> impl Iterator<Item = u64> {
    (0..4).map(|number| number << 20)
}

fn image(world: &World) -> File {
    File::options().read(true).write(true).open(world.path("pool/pool.img")).unwrap()
}

fn made() -> World {
    let world = World::new();
    world.does("init --size 300M --recovery-key none");
    world
}

fn contents(world: &World) -> Vec<u8> {
    fs::read(world.path("pool/pool.img")).unwrap()
}

/// CRC-32C, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let fold = |crc: u32, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), fold))
}

fn code(world: &World, status: i32, line: &str) -> String {
    let problem = world.fails(status, &format!("{line} --json"));
    let problem: serde_json::Value = serde_json::from_str(&problem).unwrap();
    assert_eq!(problem["exitStatus"], status);
    problem["code"].as_str().unwrap().to_owned()
}

#[test]
fn a_pool_of_a_newer_format_is_refused_with_what_to_do_and_left_as_it_is() {
    let world = made();
    let file = image(&world);
    for at in copies() {
        let mut copy = vec![0; COPY_BYTES];
        file.read_exact_at(&mut copy, at).unwrap();
        copy[8..12].copy_from_slice(&99u32.to_le_bytes());
        let sum = crc32c(&copy[..COPY_BYTES - 4]);
        copy[COPY_BYTES - 4..].copy_from_slice(&sum.to_le_bytes());
        file.write_all_at(&copy, at).unwrap();
    }
    let before = contents(&world);
    for line in
        ["cluster list", "check", "salvage --list", "debug superblock", "pool upgrade --dry-run"]
    {
        let said = world.fails(1, line);
        assert!(said.contains("newer version: format version 99"), "{line}: {said}");
        assert!(said.contains("install the version"), "{line}: {said}");
    }
    assert_eq!(code(&world, 1, "cluster list"), "format-too-new");
    assert!(contents(&world) == before, "nothing was written");
}

#[test]
fn one_damaged_superblock_copy_is_repaired_and_four_are_damage() {
    let world = made();
    let file = image(&world);
    let rot = |at: u64| file.write_all_at(&[0x55; 8], at + 300).unwrap();
    for at in copies() {
        rot(at);
        world.does("cluster list");
        world.does("shutdown");
    }
    copies().for_each(rot);
    let before = contents(&world);
    for line in
        ["cluster list", "check", "salvage --list", "debug superblock", "pool upgrade --dry-run"]
    {
        let said = world.fails(4, line);
        assert!(said.contains("damaged in every copy") && said.contains("copy of the pool"));
    }
    assert_eq!(code(&world, 4, "cluster list"), "corrupt");
    assert!(contents(&world) == before, "nothing was written");
    assert_eq!(code(&world, 1, "init"), "pool-exists");
}

#[test]
fn a_pool_without_any_superblock_is_damage_as_long_as_something_shows_that_it_was_one() {
    let world = made();
    let file = image(&world);
    // The magics too: the space ring still shows what this was, to whoever looks.
    copies().for_each(|at| file.write_all_at(&vec![0; COPY_BYTES], at).unwrap());
    let elsewhere = |line: &str| {
        let config = world.path("another");
        world.type_with(("STRONGROOM_CONFIG", config.as_os_str()), line)
    };
    assert!(world.fails(4, "cluster list").contains("damaged in every copy"));
    assert_eq!(elsewhere("cluster list").status, 4);
    // Everything at the front: only the configuration still knows.
    file.write_all_at(&vec![0; 8 << 20], 0).unwrap();
    let said = world.fails(4, "cluster list");
    assert!(said.contains("stood here") && said.contains("copy of the pool"), "{said}");
    assert_eq!(world.type_in("check").status, 4);
    let done = elsewhere("cluster list");
    assert_eq!(done.status, 1, "{}", done.err);
    assert!(done.err.contains("there is no pool"), "{}", done.err);
}

#[test]
fn a_pool_that_was_cut_short_is_damage() {
    let world = made();
    image(&world).set_len(200 << 20).unwrap();
    assert_eq!(code(&world, 4, "cluster list"), "pool-truncated");
    assert_eq!(code(&world, 4, "check"), "pool-truncated");
}

#[test]
fn a_wrong_a_missing_and_a_malformed_credential_are_told_apart_and_the_right_one_opens() {
    let world = World::new();
    let directory = world.path("credentials");
    fs::create_dir(&directory).unwrap();
    let write = |bytes: &[u8]| fs::write(directory.join("pool.root"), bytes).unwrap();
    let type_in =
        |line: &str| world.type_with(("CREDENTIALS_DIRECTORY", directory.as_os_str()), line);
    write(&[7; 32]);
    let init = "init --size 300M --recovery-key none --root-secret credential:pool.root";
    assert_eq!(world.type_in(init).status, 1, "systemd hands none over");
    let done = type_in(init);
    assert_eq!(done.status, 0, "{}", done.err);
    for (bytes, says) in [
        (Some(&[8u8; 32][..]), "does not open the pool"),
        (Some(b"short"), "not a secret file"),
        (None, "no root secret"),
    ] {
        match bytes {
            Some(bytes) => write(bytes),
            None => fs::remove_file(directory.join("pool.root")).unwrap(),
        }
        for line in ["cluster list", "check"] {
            let done = type_in(line);
            assert_eq!(done.status, 1, "{line}: {}", done.err);
            assert!(done.err.contains(says), "{line}: {}", done.err);
            assert_eq!(done.err.lines().count(), 1, "{line}: {}", done.err);
        }
    }
    write(&[7; 32]);
    assert_eq!(type_in("cluster list").status, 0);
    assert_eq!(type_in("root-secret show").out.matches("credential:pool.root").count(), 1);
    assert_eq!(type_in("shutdown").status, 0);
}

#[test]
fn a_configuration_is_not_restored_under_a_daemon_that_has_its_keys_in_memory() {
    let world = made();
    let backup = format!("{} {}", world.path("backup").display(), words(&world));
    world.does(&format!("config backup {backup}"));
    world.does("key create k1");
    let folder = fs::read_dir(world.path("config/pools")).unwrap().next().unwrap().unwrap().path();
    let keyring = || fs::read(folder.join("keyring")).unwrap();
    let before = keyring();
    let restore = format!("config restore {backup}");
    let said = world.fails(1, &restore);
    assert!(said.contains("serves the pool") && said.contains("strongroom shutdown"), "{said}");
    // Also by whoever asks with another pool in mind, and so finds no daemon.
    let done = world.type_with(("STRONGROOM_POOL", OsStr::new("/nowhere")), &restore);
    assert_eq!(done.status, 1, "{}", done.err);
    assert!(done.err.contains("is in use by process"), "{}", done.err);
    assert!(keyring() == before, "nothing was written");
    // A copy of the pool beside it would write to the same keyring.
    fs::create_dir(world.path("copy")).unwrap();
    fs::copy(world.path("pool/pool.img"), world.path("copy/pool.img")).unwrap();
    let copy: &Path = &world.path("copy");
    let done = world.type_with(("STRONGROOM_POOL", copy.as_os_str()), "cluster list");
    assert_eq!(done.status, 1, "{}", done.err);
    assert!(done.err.contains("or a copy of it"), "{}", done.err);
    world.does("shutdown");
    // The keyring that is there stays, with the key that was made since.
    let said = world.does(&restore);
    assert!(said.contains("stays; keys of the backup added to it: 0"), "{said}");
    assert!(world.does("key list").contains("local://k1"));
    world.does("shutdown");
}

/// Words for a backup, in a file.
fn words(world: &World) -> String {
    let words = world.path("words");
    fs::write(&words, "words").unwrap();
    fs::set_permissions(&words, fs::Permissions::from_mode(0o600)).unwrap();
    format!("--backup-passphrase-file {}", words.display())
}

#[test]
fn a_configuration_that_was_lost_comes_back_beside_the_keys_that_were_made_since() {
    let world = World::new();
    let recovery = world.path("recovery").display().to_string();
    world.does(&format!("init --size 300M --recovery-key {recovery}"));
    world.does("key create k1");
    world.does("cluster create one --key k1");
    let backup = format!("{} {}", world.path("backup").display(), words(&world));
    world.does(&format!("config backup {backup}"));
    world.does("shutdown");
    fs::remove_dir_all(world.path("config")).unwrap();
    world.does(&format!("daemon --recovery-key {recovery}"));
    world.does("key create k2");
    world.does("cluster create two --key k2");
    world.does("shutdown");
    let said = world.does(&format!("config restore {backup}"));
    assert!(said.contains("added to it: 1"), "{said}");
    // What proves a key: it is unwrapped with.
    for cluster in ["one", "two"] {
        world.does(&format!("cluster set-key {cluster} none"));
    }
    world.does("shutdown");
}

#[test]
fn a_backup_holds_no_root_secret_but_one_that_opens_the_pool_and_says_where_there_is_none() {
    let world = World::new();
    let named = world.path("named.key");
    world.does(&format!("init --size 300M --root-secret file:{}", named.display()));
    let folder = fs::read_dir(world.path("config/pools")).unwrap().next().unwrap().unwrap().path();
    let private = |path: &Path, bytes: &[u8]| {
        fs::write(path, bytes).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    };
    let good = fs::read(&named).unwrap();
    // A key file in the usual place that is of something else, and the right one elsewhere.
    private(&folder.join("root.key"), &[7; 32]);
    let words = words(&world);
    let back_up = |name: &str| {
        let done = world.type_in(&format!("config backup {} {words}", world.path(name).display()));
        assert_eq!(done.status, 0, "{}", done.err);
        done
    };
    let done = back_up("one");
    assert!(done.err.contains("root.key does not open the pool"), "{}", done.err);
    assert!(!done.err.contains("no root secret"), "{}", done.err);
    private(&named, &[8; 32]);
    let done = back_up("two");
    assert!(
        done.err.contains("holds no root secret") && done.err.contains("recovery"),
        "{}",
        done.err
    );
    assert!(!done.out.contains("root.key"), "{}", done.out);
    fs::remove_dir_all(world.path("config")).unwrap();
    let restore = |name: &str| {
        world.does(&format!("config restore {} {words}", world.path(name).display()));
    };
    restore("two");
    assert_eq!(world.type_in("cluster list").status, 1, "nothing opens the pool");
    restore("one");
    assert_eq!(fs::read(folder.join("root.key")).unwrap(), good);
    world.does("cluster list");
    world.does("shutdown");
}

#[test]
fn a_recovery_key_that_others_can_read_is_refused() {
    let world = World::new();
    let recovery = world.path("recovery");
    world.does(&format!("init --size 300M --recovery-key {}", recovery.display()));
    fs::set_permissions(&recovery, fs::Permissions::from_mode(0o640)).unwrap();
    let daemon = format!("daemon --recovery-key {}", recovery.display());
    let done = world.type_in(&daemon);
    assert_eq!(done.status, 1, "{}", done.err);
    assert!(done.err.contains("chmod 600"), "{}", done.err);
    fs::set_permissions(&recovery, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(world.type_in(&daemon).status, 0);
    world.does("shutdown");
}

#[test]
fn a_pool_that_stood_there_is_not_answered_with_another_one() {
    let world = made();
    world.does("cluster list");
    world.does("shutdown");
    fs::rename(world.path("pool"), world.path("away")).unwrap();
    let said = world.fails(1, "cluster list");
    assert!(said.contains("stood there") && said.contains("mount the disk"), "{said}");
    fs::create_dir(world.path("pool")).unwrap();
    assert!(world.fails(1, "cluster list").contains("stood there"));
    assert_eq!(code(&world, 1, "cluster list"), "pool-not-found");
    let done = world.type_with(("STRONGROOM_POOL", OsStr::new("/nowhere")), "cluster list");
    assert!(done.err.contains("make one: strongroom init"), "{}", done.err);
}

#[test]
fn a_pool_removed_under_its_daemon_is_told_and_neither_ended_nor_replaced_unasked() {
    let world = made();
    world.does("cluster create db");
    fs::remove_file(world.path("pool/pool.img")).unwrap();
    let done = world.type_in("status");
    assert!(done.err.contains("was removed"), "{}", done.err);
    assert!(done.out.contains("copy out what is mounted"), "{}", done.out);
    assert_eq!(code(&world, 1, "init --size 300M"), "pool-busy");
    let said = world.fails(1, "shutdown");
    assert!(said.contains("was removed") && said.contains("--force"), "{said}");
    assert!(world.does("cluster list").contains("db"));
    world.does("shutdown --force");
    world.does("init --size 300M --recovery-key none");
}

#[test]
fn a_device_that_is_not_there_is_no_place_for_a_pool() {
    let world = World::new();
    let place = format!("/dev/strongroom-typo-{}", std::process::id());
    let said = world.fails(1, &format!("init --pool {place}"));
    assert!(said.contains("does not exist"), "{said}");
    assert!(!Path::new(&place).exists());
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let place = memory.path().join("pool").display().to_string();
    let done = world.type_in(&format!("init --pool {place} --size 300M --recovery-key none"));
    assert_eq!(done.status, 0, "{}", done.err);
    assert!(done.err.contains("stands in memory (tmpfs)"), "{}", done.err);
}

#[test]
fn a_backup_without_the_keyring_says_so() {
    let world = made();
    world.does("key create k1");
    let folder = fs::read_dir(world.path("config/pools")).unwrap().next().unwrap().unwrap().path();
    let back_up = |name: &str| {
        let line = format!("config backup {} {}", world.path(name).display(), words(&world));
        let done = world.type_in(&line);
        assert_eq!(done.status, 0, "{}", done.err);
        done.err
    };
    assert!(!back_up("one").contains("keyring"));
    fs::rename(folder.join("keyring"), folder.join("away")).unwrap();
    let said = back_up("two");
    assert!(said.contains("no keyring that opens") && said.contains("local://NAME"), "{said}");
    fs::write(folder.join("keyring"), b"something else").unwrap();
    assert!(back_up("three").contains("is damaged"));
    fs::rename(folder.join("away"), folder.join("keyring")).unwrap();
    world.does("shutdown");
}

#[test]
fn a_key_is_deleted_by_force_only_where_its_own_name_is_repeated() {
    let world = made();
    world.does("key create app");
    let done = world.type_in("key delete app --force ap --yes");
    assert_eq!(done.status, 2, "{}", done.err);
    assert!(done.err.contains("--force names the key 'local://ap'"), "{}", done.err);
    assert!(world.does("key show app").contains("enabled"));
    world.does("shutdown");
}
