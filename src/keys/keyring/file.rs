//! The keyring's file.
//!
//! ```text
//! magic 16 | format u32 | zero u32 | keyring id 16 | version u64
//! | sealed file key (length u32, 112 bytes) = seal(HKDF(KRS), "file-key", AD, KF)
//! | sealed body (length u32, bytes)         = seal(KF, "keyring", AD, body)
//! AD = keyring id | version
//! body = largest time seen i64 | count u32 | entries
//! entry = name (length u32) | fingerprint 16 | state u8 | zero 3 | wait seconds u64 | created i64
//!         | deletion i64 (0: none) | versions u32 | { number u32 | created i64 | LK 32 } each
//! ```

use std::path::Path;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::base::cursor::{DecodeError, Reader, Writer};
use crate::base::limits::CLUSTER_NAME_BYTES_MAX;
use crate::base::{EncryptionKeyId, KeyState, Timestamp};
use crate::crypto::{self, KeyringFileKey, KeyringSecret, LocalKey, OpenError};
use crate::keys::config::{read_private, replace_private};
use crate::keys::error::KeysError;
use crate::keys::keyring::{
    Body, Entry, KEYS_MAX, KeyVersion, MAX_WAIT, State, TOMBSTONES_MAX, VERSIONS_MAX,
};

const MAGIC: &[u8; 16] = b"\x89SRkeyring\r\n\x1a\n\0\0";
const FORMAT: u32 = 1;
const FILE_BYTES_MAX: u64 = 8 << 20;
const ENTRY_BYTES: usize = 4 + CLUSTER_NAME_BYTES_MAX + 16 + 4 + 8 + 8 + 8 + 4;
const VERSION_BYTES: usize = 4 + 8 + 32;

fn associated_data(keyring_id: &[u8; 16], version: u64) -> [u8; 24] {
    let mut ad = [0; 24];
    ad[..16].copy_from_slice(keyring_id);
    ad[16..].copy_from_slice(&version.to_le_bytes());
    ad
}

const fn state_code(state: KeyState) -> u8 {
    match state {
        KeyState::Enabled => 1,
        KeyState::Disabled => 2,
        KeyState::PendingDeletion => 3,
        KeyState::Deleted => 4,
    }
}

const fn state_of(code: u8) -> Option<KeyState> {
    Some(match code {
        1 => KeyState::Enabled,
        2 => KeyState::Disabled,
        3 => KeyState::PendingDeletion,
        4 => KeyState::Deleted,
        _ => return None,
    })
}

/// The body's bytes. The buffer is as large as it will be from the start: one that grows leaves
/// copies of keys behind.
pub(in crate::keys) fn encode_body(body: &Body) -> Zeroizing<Vec<u8>> {
    let versions: usize = body.entries.iter().map(|e| e.versions.len()).sum();
    let room = 12 + body.entries.len() * ENTRY_BYTES + versions * VERSION_BYTES;
    let mut out = Writer::with_capacity(room);
    out.i64(body.time_seen.ns).u32(body.entries.len() as u32);
    for entry in &body.entries {
        out.sized(entry.name.as_bytes()).bytes(&entry.fingerprint);
        out.u8(state_code(entry.state)).bytes(&[0; 3]).u64(entry.wait.as_secs());
        out.i64(entry.created_at.ns).i64(entry.deletion_at.map_or(0, |t| t.ns));
        out.u32(entry.versions.len() as u32);
        for version in &entry.versions {
            out.u32(version.number).i64(version.created_at.ns).bytes(version.key.bytes());
        }
    }
    debug_assert!(out.len() <= room);
    out.into_secret()
}

pub(in crate::keys) fn decode_body(bytes: &[u8]) -> Result<Body, DecodeError> {
    let mut from = Reader::new(bytes);
    let time_seen = Timestamp { ns: from.i64()? };
    let count = from.u32()? as usize;
    if count > KEYS_MAX + TOMBSTONES_MAX {
        return Err(DecodeError::Field("keys"));
    }
    let entries = (0..count).map(|_| decode_entry(&mut from)).collect::<Result<_, _>>()?;
    from.finish()?;
    Ok(Body { time_seen, entries })
}

fn decode_entry(from: &mut Reader<'_>) -> Result<Entry, DecodeError> {
    let name = from.text(CLUSTER_NAME_BYTES_MAX)?.to_owned();
    let parsed: Result<EncryptionKeyId, _> = format!("local://{name}").parse();
    if parsed.is_err() {
        return Err(DecodeError::Field("name"));
    }
    let fingerprint = from.array()?;
    let state = state_of(from.u8()?).ok_or(DecodeError::Field("state"))?;
    if from.array::<3>()? != [0; 3] {
        return Err(DecodeError::Reserved);
    }
    let wait = Duration::from_secs(from.u64()?);
    let created_at = Timestamp { ns: from.i64()? };
    let deletion_at = Some(from.i64()?).filter(|ns| *ns != 0).map(|ns| Timestamp { ns });
    let count = from.u32()? as usize;
    let dead = state == KeyState::Deleted;
    let dated = matches!(state, KeyState::PendingDeletion | KeyState::Deleted);
    if count > VERSIONS_MAX || dead != (count == 0) {
        return Err(DecodeError::Field("versions"));
    }
    if dated != deletion_at.is_some() || wait > MAX_WAIT {
        return Err(DecodeError::Field("dates"));
    }
    let versions = (0..count).map(|_| decode_version(from)).collect::<Result<_, _>>()?;
    Ok(Entry { name, fingerprint, state, wait, created_at, deletion_at, versions })
}

fn decode_version(from: &mut Reader<'_>) -> Result<KeyVersion, DecodeError> {
    let number = from.u32()?;
    let created_at = Timestamp { ns: from.i64()? };
    let key = LocalKey::from_bytes(&Zeroizing::new(from.array()?));
    Ok(KeyVersion { number, created_at, key })
}

fn encode(secret: &KeyringSecret, state: &State) -> Vec<u8> {
    let ad = associated_data(&state.keyring_id, state.version);
    let file_kek = crypto::keyring_kek(secret);
    let body = encode_body(&state.body);
    let mut out = Writer::new();
    out.bytes(MAGIC).u32(FORMAT).u32(0).bytes(&state.keyring_id).u64(state.version);
    out.sized(&crypto::seal(&file_kek, "file-key", &ad, state.file_key.bytes()));
    out.sized(&crypto::seal(state.file_key.bytes(), "keyring", &ad, &body));
    out.into_bytes()
}

/// Reads the file's bytes.
///
/// # Errors
/// [`KeysError::KeyringMissing`], [`KeysError::File`]
pub(in crate::keys::keyring) fn read(path: &Path) -> Result<Vec<u8>, KeysError> {
    read_private(path, FILE_BYTES_MAX)?
        .ok_or_else(|| KeysError::KeyringMissing { what: "keyring", path: path.to_owned() })
}

/// Opens what [`read`] read.
///
/// # Errors
/// [`KeysError::KeyringSecret`], [`KeysError::KeyringCorrupt`]
pub(in crate::keys::keyring) fn open(
    path: &Path,
    secret_path: &Path,
    secret: &KeyringSecret,
    bytes: &[u8],
) -> Result<State, KeysError> {
    let corrupt = |why| KeysError::KeyringCorrupt { path: path.to_owned(), why };
    let parts = split(bytes).map_err(|_| corrupt("not a keyring"))?;
    if parts.format != FORMAT {
        return Err(corrupt("made by a newer version"));
    }
    let ad = associated_data(&parts.keyring_id, parts.version);
    let file_key = crypto::open(&crypto::keyring_kek(secret), "file-key", &ad, parts.file_key);
    let file_key = file_key.map_err(|e| match e {
        OpenError::WrongKey => {
            KeysError::KeyringSecret { path: path.to_owned(), secret: secret_path.to_owned() }
        }
        _ => corrupt("its file key does not open"),
    })?;
    let file_key: &[u8; 32] =
        file_key.as_slice().try_into().map_err(|_| corrupt("its file key has another length"))?;
    let file_key = KeyringFileKey::from_bytes(file_key);
    let body = crypto::open(file_key.bytes(), "keyring", &ad, parts.body)
        .map_err(|_| corrupt("its contents do not open"))?;
    let body = decode_body(&body).map_err(|_| corrupt("its contents cannot be read"))?;
    Ok(State { keyring_id: parts.keyring_id, version: parts.version, file_key, body })
}

pub(in crate::keys) struct Parts<'a> {
    format: u32,
    keyring_id: [u8; 16],
    version: u64,
    file_key: &'a [u8],
    body: &'a [u8],
}

pub(in crate::keys) fn split(bytes: &[u8]) -> Result<Parts<'_>, DecodeError> {
    let mut from = Reader::new(bytes);
    if from.array()? != *MAGIC {
        return Err(DecodeError::Field("magic"));
    }
    let format = from.u32()?;
    if from.u32()? != 0 {
        return Err(DecodeError::Reserved);
    }
    let keyring_id = from.array()?;
    let version = from.u64()?;
    let file_key = from.sized(32 + crypto::SEAL_OVERHEAD)?;
    let body = from.sized(FILE_BYTES_MAX as usize)?;
    from.finish()?;
    Ok(Parts { format, keyring_id, version, file_key, body })
}

/// Replaces the file, by what was opened as it will be at the next start: a keyring that cannot be
/// read is every key lost. The bytes of the one before it are overwritten at each change, not only
/// where a key goes: whoever has the keyring's secret opens any of them, and a key that is deleted
/// later stands in all that were written while it lived. What the medium keeps is out of reach.
///
/// # Errors
/// [`KeysError::KeyringUnwritable`], [`KeysError::File`]: nothing was written. Where the old one
/// could not be overwritten, the new one stands.
pub(in crate::keys::keyring) fn write(
    path: &Path,
    secret: &KeyringSecret,
    state: &State,
) -> Result<(), KeysError> {
    let bytes = encode(secret, state);
    let same = |read: &State| *encode_body(&read.body) == *encode_body(&state.body);
    if !open(path, path, secret, &bytes).as_ref().is_ok_and(same) {
        return Err(KeysError::KeyringUnwritable { path: path.to_owned() });
    }
    if let Err(e) = replace_private(path, &bytes)? {
        log::warn!("the bytes of the keyring before a change could not be overwritten: {e}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn state() -> State {
        let now = Timestamp::from_secs(1_800_000_000);
        let mut body = Body { time_seen: now, entries: Vec::new() };
        let id = |n: &str| n.parse().unwrap();
        body.create(&id("a"), Duration::ZERO, now).unwrap();
        body.create(&id("b"), MAX_WAIT, now).unwrap();
        body.rotate(&id("b"), now).unwrap();
        body.delete(&id("a"), None, now).unwrap();
        body.delete(&id("b"), None, now).unwrap();
        let file_key = KeyringFileKey::random();
        State { keyring_id: [1; 16], version: 9, file_key, body }
    }

    fn try_open(secret: &KeyringSecret, bytes: &[u8]) -> Result<State, KeysError> {
        open(Path::new("keyring"), Path::new("keyring.key"), secret, bytes)
    }

    #[test]
    fn reads_back_and_tells_a_wrong_secret_from_damage() {
        let (secret, state) = (KeyringSecret::random(), state());
        let bytes = encode(&secret, &state);
        let back = try_open(&secret, &bytes).unwrap();
        assert_eq!(*encode_body(&back.body), *encode_body(&state.body));
        let other = try_open(&KeyringSecret::random(), &bytes).map(|_| ()).unwrap_err();
        assert!(matches!(other, KeysError::KeyringSecret { .. }));
        let mut damaged = bytes.clone();
        *damaged.last_mut().unwrap() ^= 1;
        let error = try_open(&secret, &damaged).map(|_| ()).unwrap_err();
        assert!(matches!(error, KeysError::KeyringCorrupt { .. }));
    }

    #[test]
    fn a_version_number_cannot_be_changed_from_outside() {
        let (secret, state) = (KeyringSecret::random(), state());
        let mut bytes = encode(&secret, &state);
        bytes[40] ^= 1;
        assert!(try_open(&secret, &bytes).is_err());
    }

    #[test]
    fn what_does_not_read_back_is_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keyring");
        let (secret, mut state) = (KeyringSecret::random(), state());
        write(&path, &secret, &state).unwrap();
        let good = std::fs::read(&path).unwrap();
        state.body.entries[0].name = "no name".to_owned();
        let refused = write(&path, &secret, &state).unwrap_err();
        assert!(matches!(refused, KeysError::KeyringUnwritable { .. }), "{refused}");
        assert_eq!(std::fs::read(&path).unwrap(), good);
    }

    #[test]
    fn as_many_tombstones_are_kept_as_read_back_whenever_they_died() {
        let now = Timestamp::from_secs(1_800_000_000);
        let mut body = Body { time_seen: now, entries: Vec::new() };
        let id = |n: usize| format!("k{n}").parse().unwrap();
        for n in 0..TOMBSTONES_MAX + KEYS_MAX {
            body.create(&id(n), Duration::ZERO, now).unwrap();
            body.delete(&id(n), None, now).unwrap();
        }
        for n in 0..KEYS_MAX {
            body.create(&id(n), Duration::ZERO, now).unwrap();
        }
        let (first, last) = (body.entries[0].name.clone(), body.entries.last().unwrap());
        assert_eq!((first, last.state), (format!("k{KEYS_MAX}"), KeyState::Enabled));
        // As where an older keyring comes back to a pool that remembers its keys as deleted.
        let alive: Vec<_> = body.entries.iter().filter(|e| !e.versions.is_empty()).collect();
        let buried: Vec<_> = alive.iter().map(|e| e.fingerprint).collect();
        assert_eq!(body.bury(&buried, now.plus_secs(1)).len(), KEYS_MAX);
        assert_eq!(body.entries.len(), TOMBSTONES_MAX);
        assert!(buried.iter().all(|of| body.of_fingerprint(of).is_some()), "the youngest stay");
        body.create(&id(0), Duration::ZERO, now).unwrap();
        assert_eq!(decode_body(&encode_body(&body)).unwrap().entries.len(), TOMBSTONES_MAX + 1);
    }

    proptest! {
        #[test]
        fn any_flipped_bit_and_any_cut_is_refused(at in 0usize..10_000, bit in 0u8..8) {
            let (secret, state) = (KeyringSecret::from_bytes(&[3; 32]), state());
            let bytes = encode(&secret, &state);
            let at = at % bytes.len();
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            prop_assert!(try_open(&secret, &flipped).is_err());
            prop_assert!(try_open(&secret, &bytes[..at]).is_err());
        }

        #[test]
        fn a_body_of_any_bytes_is_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode_body(&bytes);
        }
    }
}
