//! The keyring as its owner sees it: states, waiting periods, clocks, files.

use std::fs;
use std::time::Duration;

use super::*;

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);
const DAY: u64 = 86_400;

fn id(name: &str) -> EncryptionKeyId {
    name.parse().unwrap()
}

fn days(n: u64) -> Duration {
    Duration::from_secs(n * DAY)
}

fn keyring() -> (tempfile::TempDir, PoolConfig, Keyring) {
    let dir = tempfile::tempdir().unwrap();
    let config = PoolConfig::at(dir.path());
    let keyring = Keyring::create(&config, NOW).unwrap();
    (dir, config, keyring)
}

/// Ticks once an hour, as a running daemon does at least.
fn run_until(keyring: &Keyring, from: Timestamp, to: Timestamp) -> Vec<EncryptionKeyId> {
    let mut deleted = Vec::new();
    let mut now = from;
    while now < to {
        now = now.plus_secs(3600).min(to);
        deleted.extend(keyring.tick(now).unwrap().into_iter().map(|key| key.id));
    }
    deleted
}

#[test]
fn every_change_is_on_disk_when_it_returns() {
    let (_dir, config, keyring) = keyring();
    keyring.create_key(&id("a"), DEFAULT_WAIT, NOW).unwrap();
    keyring.create_key(&id("b"), DEFAULT_WAIT, NOW).unwrap();
    keyring.disable(&id("a"), NOW).unwrap();
    keyring.delete(&id("b"), None, NOW).unwrap();
    let again = Keyring::open(&config).unwrap();
    assert_eq!(again.list(), keyring.list());
    assert_eq!(again.version(), keyring.version());
    assert_eq!(again.version(), 5);
}

#[test]
fn a_failed_write_changes_nothing() {
    let (dir, _config, keyring) = keyring();
    keyring.create_key(&id("a"), DEFAULT_WAIT, NOW).unwrap();
    let (before, version) = (keyring.list(), keyring.version());
    dir.close().unwrap();
    assert!(matches!(keyring.disable(&id("a"), NOW), Err(KeysError::File { .. })));
    assert_eq!((keyring.list(), keyring.version()), (before, version));
}

#[test]
fn a_deletion_waits_for_its_period_and_can_be_cancelled() {
    let (_dir, _config, keyring) = keyring();
    keyring.create_key(&id("a"), days(2), NOW).unwrap();
    let pending = keyring.delete(&id("a"), None, NOW).unwrap();
    assert_eq!(pending.deletion_at, Some(NOW.plus_secs(2 * DAY)));
    let almost = NOW.plus_secs(2 * DAY - 1);
    assert!(run_until(&keyring, NOW, almost).is_empty());
    let kept = keyring.cancel_delete(&id("a"), almost).unwrap();
    assert_eq!((kept.state, kept.deletion_at), (KeyState::Disabled, None));
    assert!(run_until(&keyring, almost, NOW.plus_secs(9 * DAY)).is_empty());
    keyring.enable(&id("a"), NOW.plus_secs(9 * DAY)).unwrap();

    keyring.delete(&id("a"), None, NOW.plus_secs(9 * DAY)).unwrap();
    let end = NOW.plus_secs(11 * DAY);
    assert_eq!(run_until(&keyring, NOW.plus_secs(9 * DAY), end), [id("a")]);
    assert_eq!(keyring.show(&id("a")).unwrap().state, KeyState::Deleted);
    assert!(matches!(
        keyring.cancel_delete(&id("a"), end),
        Err(KeysError::State { state: KeyState::Deleted, .. })
    ));
}

#[test]
fn after_may_only_lengthen_the_waiting_period() {
    let (_dir, _config, keyring) = keyring();
    keyring.create_key(&id("a"), days(7), NOW).unwrap();
    for bad in [days(6), days(31)] {
        assert!(matches!(
            keyring.delete(&id("a"), Some(bad), NOW),
            Err(KeysError::WaitingPeriod { least_days: 7, .. })
        ));
    }
    assert_eq!(keyring.show(&id("a")).unwrap().state, KeyState::Enabled);
    let longer = keyring.delete(&id("a"), Some(days(10)), NOW).unwrap();
    assert_eq!(longer.deletion_at, Some(NOW.plus_secs(10 * DAY)));
    assert!(matches!(
        keyring.create_key(&id("b"), days(31), NOW),
        Err(KeysError::WaitingPeriod { .. })
    ));
}

#[test]
fn a_waiting_period_of_zero_deletes_at_once() {
    let (_dir, _config, keyring) = keyring();
    keyring.create_key(&id("a"), Duration::ZERO, NOW).unwrap();
    assert_eq!(keyring.delete(&id("a"), None, NOW).unwrap().state, KeyState::Deleted);
}

#[test]
fn what_a_deletion_tells_is_the_deleted_key_and_not_the_next_of_its_name() {
    let (_dir, _config, keyring) = keyring();
    let first = keyring.create_key(&id("a"), days(1), NOW).unwrap();
    keyring.delete(&id("a"), None, NOW).unwrap();
    let purged = keyring.tick(NOW.plus_secs(DAY)).unwrap();
    let second = keyring.create_key(&id("a"), Duration::ZERO, NOW).unwrap();
    assert_eq!(purged.len(), 1);
    assert_eq!((purged[0].fingerprint, purged[0].state), (first.fingerprint, KeyState::Deleted));
    assert_ne!(purged[0].fingerprint, keyring.show(&id("a")).unwrap().fingerprint);
    let deleted = keyring.delete(&id("a"), None, NOW).unwrap();
    assert_eq!((deleted.fingerprint, deleted.state), (second.fingerprint, KeyState::Deleted));
}

#[test]
fn a_clock_that_jumps_forward_holds_the_purge_until_confirmed() {
    let (_dir, config, keyring) = keyring();
    keyring.create_key(&id("a"), days(7), NOW).unwrap();
    keyring.delete(&id("a"), None, NOW).unwrap();
    let later = NOW.plus_secs(100 * DAY);
    for keyring in [&keyring, &Keyring::open(&config).unwrap()] {
        assert!(matches!(keyring.tick(later), Err(KeysError::ClockJumped { .. })));
        assert!(keyring.is_time_held(later));
    }
    // Neither another change nor waiting confirms it.
    keyring.create_key(&id("b"), days(7), later).unwrap();
    assert!(keyring.tick(later.plus_secs(60)).is_err());
    assert_eq!(keyring.show(&id("a")).unwrap().state, KeyState::PendingDeletion);
    keyring.confirm_time(later).unwrap();
    assert_eq!(keyring.tick(later).unwrap()[0].id, id("a"));
}

#[test]
fn a_clock_that_goes_back_neither_delays_nor_hastens_a_deletion() {
    let (_dir, _config, keyring) = keyring();
    keyring.create_key(&id("a"), days(1), NOW).unwrap();
    keyring.create_key(&id("b"), days(1), NOW).unwrap();
    keyring.delete(&id("a"), None, NOW).unwrap();
    let before = Timestamp::from_secs(NOW.secs() - 365 * DAY as i64);
    assert!(keyring.tick(before).unwrap().is_empty());
    let pending = keyring.delete(&id("b"), None, before).unwrap();
    assert_eq!(pending.deletion_at, Some(NOW.plus_secs(DAY)), "counted from the largest time seen");
}

#[test]
fn a_new_key_of_a_deleted_name_is_another_key_and_the_old_one_is_remembered() {
    let (_dir, config, keyring) = keyring();
    let old = keyring.create_key(&id("a"), Duration::ZERO, NOW).unwrap();
    keyring.delete(&id("a"), None, NOW).unwrap();
    let new = keyring.create_key(&id("a"), DEFAULT_WAIT, NOW.plus_secs(1)).unwrap();
    assert_ne!(old.fingerprint, new.fingerprint);
    let all = Keyring::open(&config).unwrap().list();
    assert_eq!(all.len(), 2);
    assert_eq!(all[0].state, KeyState::Deleted);
    assert_eq!(all[1], new);
    assert!(matches!(
        keyring.create_key(&id("a"), DEFAULT_WAIT, NOW),
        Err(KeysError::Exists { .. })
    ));
}

#[test]
fn an_older_keyring_does_not_bring_back_what_the_pool_remembers_as_deleted() {
    let (_dir, config, keyring) = keyring();
    let key = keyring.create_key(&id("a"), Duration::ZERO, NOW).unwrap();
    let old_file = fs::read(config.keyring()).unwrap();
    keyring.delete(&id("a"), None, NOW).unwrap();
    fs::write(config.keyring(), old_file).unwrap();
    let older = Keyring::open(&config).unwrap();
    assert_eq!(older.show(&id("a")).unwrap().state, KeyState::Enabled);
    assert_eq!(older.bury(&[key.fingerprint], NOW).unwrap(), [id("a")]);
    assert_eq!(Keyring::open(&config).unwrap().show(&id("a")).unwrap().state, KeyState::Deleted);
    assert!(older.bury(&[key.fingerprint], NOW).unwrap().is_empty());
}

#[test]
fn states_allow_what_they_allow() {
    let (_dir, _config, keyring) = keyring();
    let a = id("a");
    assert!(matches!(keyring.disable(&a, NOW), Err(KeysError::NotFound { .. })));
    keyring.create_key(&a, DEFAULT_WAIT, NOW).unwrap();
    assert!(matches!(keyring.cancel_delete(&a, NOW), Err(KeysError::Transition { .. })));
    keyring.disable(&a, NOW).unwrap();
    keyring.disable(&a, NOW).unwrap();
    assert!(matches!(keyring.rotate(&a, NOW), Err(KeysError::Transition { .. })));
    keyring.delete(&a, None, NOW).unwrap();
    for result in [keyring.enable(&a, NOW), keyring.disable(&a, NOW), keyring.delete(&a, None, NOW)]
    {
        assert!(matches!(
            result,
            Err(KeysError::Transition { state: KeyState::PendingDeletion, .. })
        ));
    }
}

#[test]
fn every_change_overwrites_the_file_before_it() {
    let (dir, config, keyring) = keyring();
    let mut kept = Vec::new();
    // Hard links keep the old files' bytes in sight.
    let mut keep = || {
        let link = dir.path().join(format!("kept-{}", kept.len()));
        fs::hard_link(config.keyring(), &link).unwrap();
        kept.push(link);
    };
    let (doomed, other) = (id("doomed"), id("other"));
    keep();
    keyring.create_key(&doomed, Duration::ZERO, NOW).unwrap();
    keep();
    keyring.create_key(&other, DEFAULT_WAIT, NOW).unwrap();
    keep();
    keyring.disable(&other, NOW).unwrap();
    keep();
    keyring.enable(&other, NOW).unwrap();
    keep();
    keyring.rotate(&other, NOW).unwrap();
    keep();
    keyring.tick(NOW.plus_secs(3600)).unwrap();
    keep();
    keyring.delete(&doomed, None, NOW).unwrap();
    for old in &kept {
        assert!(fs::read(old).unwrap().iter().all(|b| *b == 0), "{}", old.display());
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), kept.len() + 2, "nothing else is left");
    assert_eq!(Keyring::open(&config).unwrap().list(), keyring.list());
}

#[test]
fn missing_files_and_strange_secrets_say_which() {
    let (dir, config, keyring) = keyring();
    drop(keyring);
    assert!(matches!(Keyring::create(&config, NOW), Err(KeysError::FileExists { .. })));
    let (secret, hidden) = (config.keyring_key(), dir.path().join("hidden"));
    fs::rename(&secret, &hidden).unwrap();
    let missing = Keyring::open(&config).map(|_| ()).unwrap_err();
    assert!(matches!(missing, KeysError::KeyringMissing { what: "secret of the keyring", .. }));
    root_secret::create_secret_file(&secret).unwrap();
    let strange = Keyring::open(&config).map(|_| ()).unwrap_err();
    assert!(matches!(strange, KeysError::KeyringSecret { .. }));
    fs::remove_file(config.keyring()).unwrap();
    let missing = Keyring::open(&config).map(|_| ()).unwrap_err();
    assert!(matches!(missing, KeysError::KeyringMissing { what: "keyring", .. }));
}
