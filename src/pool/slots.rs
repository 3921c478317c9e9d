//! The superblock slots: which of four copies is the pool's state, repairing a bad one, writing the
//! next (engine.md, rule 16).

use crate::crypto::{OpenError, SlotKey};
use crate::device::{Device, DeviceError};
use crate::pool::ring;
use crate::pool::superblock::{
    COPIES, COPY_BYTES, Clear, Copy, Payload, SLOTS, Unreadable, copy_offset, encode,
};
use crate::pool::{OpenOptions, PoolError};
use crate::sys::AlignedBuf;

/// All copies that could be read, and what the others were.
pub(in crate::pool) struct Slots {
    copies: Vec<Copy>,
    damaged: Vec<(u8, u8)>,
}

/// The state that was chosen.
pub(in crate::pool) struct Chosen {
    pub clear: Clear,
    pub payload: Payload,
    /// Copies of the same slot that do not open.
    pub bad_copies: Vec<u8>,
}

/// What stands where superblock copies belong.
struct Gathered {
    copies: Vec<Copy>,
    damaged: Vec<(u8, u8)>,
    /// What this version does not know of a copy that a later one wrote.
    too_new: Option<String>,
    /// Why the device hands out no copy of a slot; with a damaged one beside it, nobody knows what
    /// stands there.
    unread: Option<DeviceError>,
}

impl Gathered {
    fn of(device: &dyn Device) -> Result<Self, PoolError> {
        let mut found =
            Self { copies: Vec::new(), damaged: Vec::new(), too_new: None, unread: None };
        for index in 0..SLOTS {
            let (mut unread, before) = (None, found.copies.len());
            for copy in 0..COPIES {
                let mut buf = AlignedBuf::new(COPY_BYTES);
                let offset = copy_offset(index, copy);
                if offset + COPY_BYTES as u64 > device.size_bytes() {
                    return Err(PoolError::NotAPool);
                }
                if let Err(error) = device.read(offset, &mut buf) {
                    unread = Some(error);
                    found.damaged.push((index, copy));
                    continue;
                }
                match Copy::decode(&buf) {
                    Ok(good) if (good.clear.index, good.clear.copy) == (index, copy) => {
                        found.copies.push(good);
                    }
                    Ok(_) | Err(Unreadable::Damaged) => found.damaged.push((index, copy)),
                    Err(Unreadable::Nothing) => {}
                    Err(Unreadable::TooNew(what)) => found.too_new = Some(what),
                }
            }
            if found.copies.len() == before {
                found.unread = found.unread.or(unread);
            }
        }
        Ok(found)
    }
}

impl Slots {
    /// Reads every copy, after a flush: what was written and never flushed is not believed. A copy
    /// that the device does not hand out is as good as a damaged one, but where the other one of its
    /// slot is not there either, nobody knows whether a later state stands in it.
    pub fn read(device: &dyn Device) -> Result<Self, PoolError> {
        device.flush()?;
        let gathered = Gathered::of(device)?;
        if let Some(what) = gathered.too_new {
            return Err(PoolError::TooNew { what });
        }
        if let Some(error) = gathered.unread {
            return Err(error.into());
        }
        Self::of(gathered.copies, gathered.damaged, device)
    }

    /// As [`Slots::read`], for who takes what is left and writes nothing: a slot that cannot be read
    /// and a copy of another version hide none that can be used.
    pub fn read_remains(device: &dyn Device) -> Result<Self, PoolError> {
        if let Err(error) = device.flush() {
            log::warn!("the device cannot be flushed: {error}");
        }
        let gathered = Gathered::of(device)?;
        match (gathered.copies.is_empty(), gathered.too_new, gathered.unread) {
            (true, Some(what), _) => Err(PoolError::TooNew { what }),
            (true, None, Some(error)) => Err(error.into()),
            _ => Self::of(gathered.copies, gathered.damaged, device),
        }
    }

    fn of(
        mut copies: Vec<Copy>,
        damaged: Vec<(u8, u8)>,
        device: &dyn Device,
    ) -> Result<Self, PoolError> {
        if copies.is_empty() {
            let was_a_pool = !damaged.is_empty() || ring::has_records(device)?;
            let lost = if was_a_pool { PoolError::SuperblockLost } else { PoolError::NotAPool };
            return Err(lost);
        }
        copies.sort_by_key(|c| (std::cmp::Reverse(c.clear.sequence), c.clear.copy));
        Ok(Self { copies, damaged })
    }

    /// The newest clear part, not yet authenticated.
    pub fn newest(&self) -> &Clear {
        &self.copies[0].clear
    }

    /// Every copy that could be read, the newest first.
    #[cfg(test)]
    pub fn copies(&self) -> &[Copy] {
        &self.copies
    }

    /// Every key epoch and wrap list that a copy carries may differ; the newest that opens is the
    /// state.
    pub fn choose(&self, key: &SlotKey) -> Result<Chosen, PoolError> {
        let mut wrong_key = true;
        for copy in &self.copies {
            match copy.open(key) {
                Ok(payload) => return Ok(self.chosen(copy, payload, key)),
                Err(OpenError::WrongKey) => {}
                Err(OpenError::Corrupt | OpenError::Short) => wrong_key = false,
            }
        }
        if wrong_key {
            return Err(PoolError::WrongKey);
        }
        Err(PoolError::SuperblockLost)
    }

    /// The newest that opens of the slot that was not chosen.
    pub fn other(&self, chosen: &Chosen, key: &SlotKey) -> Option<Chosen> {
        let mut of_slot = self.copies.iter().filter(|c| c.clear.index != chosen.clear.index);
        of_slot.find_map(|copy| Some(self.chosen(copy, copy.open(key).ok()?, key)))
    }

    fn chosen(&self, copy: &Copy, payload: Payload, key: &SlotKey) -> Chosen {
        let bad = (0..COPIES).filter(|number| !self.is_good(copy, *number, key));
        Chosen { clear: copy.clear.clone(), payload, bad_copies: bad.collect() }
    }

    /// Slots of which no copy opens, though a new pool has written to each: what stood there may be
    /// later than what is chosen.
    pub fn lost(&self, key: &SlotKey) -> Vec<u8> {
        let opens = |copy: &Copy| copy.open(key).is_ok();
        let has = |slot: u8| self.copies.iter().any(|c| c.clear.index == slot && opens(c));
        (0..SLOTS).filter(|slot| !has(*slot)).collect()
    }

    /// The state of each slot that opens, the newest first.
    pub fn choose_each(&self, key: &SlotKey) -> Result<Vec<Chosen>, PoolError> {
        let mut chosen = vec![self.choose(key)?];
        let newest = chosen[0].clear.sequence;
        let mut older = self.copies.iter().filter(|copy| copy.clear.sequence < newest);
        chosen.extend(older.find_map(|copy| {
            let payload = copy.open(key).ok()?;
            Some(Chosen { clear: copy.clear.clone(), payload, bad_copies: Vec::new() })
        }));
        Ok(chosen)
    }

    fn is_good(&self, like: &Copy, number: u8, key: &SlotKey) -> bool {
        let wanted = Clear { copy: number, ..like.clear.clone() };
        let copy = self.copies.iter().find(|c| c.clear == wanted);
        copy.is_some_and(|c| c.open(key).is_ok())
    }

    /// Copies with a superblock's magic that cannot be read.
    pub fn damaged(&self) -> &[(u8, u8)] {
        &self.damaged
    }
}

/// Writes one copy; the caller flushes.
pub(in crate::pool) fn write_copy(
    device: &dyn Device,
    clear: &Clear,
    copy: u8,
    payload: &Payload,
    key: &SlotKey,
) -> Result<(), PoolError> {
    let clear = Clear { copy, ..clear.clone() };
    let buf = AlignedBuf::from_slice(&encode(&clear, payload, key));
    Ok(device.write(copy_offset(clear.index, copy), &buf)?)
}

/// Writes both copies of a slot; the superblock is durable once the caller has flushed.
pub(in crate::pool) fn write_slot(
    device: &dyn Device,
    clear: &Clear,
    payload: &Payload,
    key: &SlotKey,
) -> Result<(), PoolError> {
    for copy in 0..COPIES {
        write_copy(device, clear, copy, payload, key)?;
    }
    Ok(())
}

/// Reads both copies of a slot back and opens them: what was written is there.
pub(in crate::pool) fn verify_slot(
    device: &dyn Device,
    clear: &Clear,
    key: &SlotKey,
) -> Result<(), PoolError> {
    for copy in 0..COPIES {
        let offset = copy_offset(clear.index, copy);
        let mut buf = AlignedBuf::new(COPY_BYTES);
        device.read(offset, &mut buf)?;
        let wanted = Clear { copy, ..clear.clone() };
        let found = Copy::decode(&buf).ok().filter(|c| c.clear == wanted);
        if found.is_none_or(|c| c.open(key).is_err()) {
            let addr = crate::base::BlockAddr(offset / crate::base::units::BLOCK_SIZE_U64);
            return Err(PoolError::Corrupt { what: "superblock that was just written", addr });
        }
    }
    Ok(())
}

/// That the pool is not older than what is remembered of it.
pub(in crate::pool) fn check_rollback(
    found: &Clear,
    options: &OpenOptions,
) -> Result<(), PoolError> {
    let remembered = options.remembered.unwrap_or_default();
    if remembered > found.generation || options.remembered_incarnation > found.incarnation {
        return Err(PoolError::RolledBack { found: found.generation, remembered });
    }
    Ok(())
}
