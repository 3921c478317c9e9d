//! Records that may be longer than a tree item: kept in chunks, the first with the whole length.
//!
//! A header holds up to eight wraps, and a key provider's may take kilobytes; a tree item may
//! take a quarter of a node.

use std::ops::ControlFlow;

use zeroize::{Zeroize, Zeroizing};

use crate::base::cursor::{DecodeError, Reader, Writer};
use crate::catalog::error::CatalogError;
use crate::catalog::keys::Key;
use crate::catalog::storage::{Items, Storage};

/// Bytes of a record in one item; with the length before it, below a quarter of an 8 KiB node.
const CHUNK_BYTES: usize = 2000;
/// Bytes of a whole record, at most.
const RECORD_BYTES_MAX: usize = 512 * 1024;

/// Where chunk `n` stands: the chunks of one number stand together, so that a range over the
/// first chunks meets every record once.
const fn chunk_key(first: Key, n: usize) -> Key {
    Key { object: first.object | n as u64, kind: first.kind, offset: first.offset }
}

/// A record's bytes, put together again. They may hold a key.
pub(in crate::catalog) type Bytes = Zeroizing<Vec<u8>>;

fn split_first(value: &[u8]) -> Result<(usize, &[u8]), DecodeError> {
    let mut r = Reader::new(value);
    let len = r.u32()? as usize;
    let first = r.bytes(r.remaining())?;
    if len > RECORD_BYTES_MAX || first.len() != len.min(CHUNK_BYTES) {
        return Err(DecodeError::Field("record length"));
    }
    Ok((len, first))
}

/// The record that begins at `key`.
///
/// # Errors
/// [`CatalogError::Item`] where its chunks do not fit together; the storage's errors.
pub(in crate::catalog) fn get(
    items: &impl Items,
    what: &'static str,
    key: Key,
) -> Result<Option<Bytes>, CatalogError> {
    match items.get(key)? {
        Some(first) => complete(items, what, key, Zeroizing::new(first)).map(Some),
        None => Ok(None),
    }
}

fn complete(
    items: &impl Items,
    what: &'static str,
    key: Key,
    first: Bytes,
) -> Result<Bytes, CatalogError> {
    let (len, head) = split_first(&first).map_err(CatalogError::item(what))?;
    let mut record = Zeroizing::new(Vec::with_capacity(len));
    record.extend_from_slice(head);
    for n in 1..len.div_ceil(CHUNK_BYTES) {
        let missing = CatalogError::Item { what, source: DecodeError::Short };
        let chunk = Zeroizing::new(items.get(chunk_key(key, n))?.ok_or(missing)?);
        record.extend_from_slice(&chunk);
    }
    if record.len() == len {
        Ok(record)
    } else {
        Err(CatalogError::Item { what, source: DecodeError::Field("record length") })
    }
}

fn chunk_count(
    storage: &impl Storage,
    what: &'static str,
    key: Key,
) -> Result<usize, CatalogError> {
    match storage.get(key)? {
        Some(mut first) => {
            let split = split_first(&first).map(|(len, _)| len.div_ceil(CHUNK_BYTES));
            first.zeroize();
            split.map_err(CatalogError::item(what))
        }
        None => Ok(0),
    }
}

/// Puts a record, in place of the one that begins at `key` if there is one.
///
/// # Errors
/// [`CatalogError::TooLong`]; the storage's errors.
pub(in crate::catalog) fn put(
    storage: &mut impl Storage,
    what: &'static str,
    key: Key,
    record: Vec<u8>,
) -> Result<(), CatalogError> {
    let record = Zeroizing::new(record);
    if record.len() > RECORD_BYTES_MAX {
        return Err(CatalogError::TooLong(what));
    }
    let before = chunk_count(storage, what, key)?;
    let len = u32::try_from(record.len()).map_err(|_| CatalogError::TooLong(what))?;
    let chunks = record.chunks(CHUNK_BYTES);
    let count = chunks.len().max(1);
    let mut first = Writer::new();
    first.u32(len).bytes(record.chunks(CHUNK_BYTES).next().unwrap_or_default());
    storage.put(key, &first.into_secret())?;
    for (n, chunk) in chunks.enumerate().skip(1) {
        storage.put(chunk_key(key, n), chunk)?;
    }
    for n in count..before {
        storage.remove(chunk_key(key, n))?;
    }
    Ok(())
}

/// Takes a record out.
///
/// # Errors
/// [`CatalogError::Item`]; the storage's errors.
pub(in crate::catalog) fn remove(
    storage: &mut impl Storage,
    what: &'static str,
    key: Key,
) -> Result<(), CatalogError> {
    for n in 0..chunk_count(storage, what, key)? {
        storage.remove(chunk_key(key, n))?;
    }
    Ok(())
}

/// Calls `visit` with every record that begins between `from` and `to`; long ones come last.
///
/// # Errors
/// The first that `visit` returns; [`CatalogError::Item`]; the storage's errors.
pub(in crate::catalog) fn for_each(
    items: &impl Items,
    what: &'static str,
    (from, to): (Key, Key),
    visit: &mut dyn FnMut(&[u8]) -> Result<(), CatalogError>,
) -> Result<(), CatalogError> {
    let mut long = Vec::new();
    let mut failed = None;
    items.range(from, to, &mut |key, value| {
        let done = match split_first(value) {
            Ok((len, _)) if len > CHUNK_BYTES => {
                long.push(key);
                Ok(())
            }
            Ok((_, record)) => visit(record),
            Err(source) => Err(CatalogError::Item { what, source }),
        };
        match done {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    for key in long {
        let gone = CatalogError::Item { what, source: DecodeError::Short };
        visit(&get(items, what, key)?.ok_or(gone)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::SnapshotId;
    use crate::catalog::keys;
    use crate::catalog::memory::Memory;

    #[test]
    fn records_of_every_length_come_back_and_shrinking_leaves_nothing_behind() {
        let mut memory = Memory::default();
        let lengths = [0, 1, 1999, 2000, 2001, 4000, 4001, 90_000, 2001, 7];
        for (n, len) in lengths.into_iter().enumerate() {
            let record: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            put(&mut memory, "test", keys::snapshot(SnapshotId(9)), record.clone()).unwrap();
            let other = vec![n as u8; 3000];
            put(&mut memory, "test", keys::snapshot(SnapshotId(4)), other.clone()).unwrap();
            let back = get(&memory, "test", keys::snapshot(SnapshotId(9))).unwrap().unwrap();
            assert_eq!(*back, record);
            let mut seen = Vec::new();
            for_each(&memory, "test", keys::snapshots(), &mut |r| {
                seen.push(r.to_vec());
                Ok(())
            })
            .unwrap();
            seen.sort();
            let mut want = vec![record, other];
            want.sort();
            assert_eq!(seen, want);
        }
        remove(&mut memory, "test", keys::snapshot(SnapshotId(9))).unwrap();
        remove(&mut memory, "test", keys::snapshot(SnapshotId(4))).unwrap();
        assert!(memory.items.is_empty());
    }

    #[test]
    fn a_record_with_a_chunk_missing_or_short_is_an_error() {
        let mut memory = Memory::default();
        let key = keys::snapshot(SnapshotId(9));
        put(&mut memory, "test", key, vec![1; 5000]).unwrap();
        let chunk = memory.items.remove(&chunk_key(key, 1)).unwrap();
        assert!(get(&memory, "test", key).is_err());
        memory.items.insert(chunk_key(key, 1), chunk[1..].to_vec());
        assert!(get(&memory, "test", key).is_err());
    }
}
