//! What the format page says of superblocks ("Superblock"), held to at every write of one: the write
//! sequence grows, generations do not go back, and the slot that holds the newest is not written over.

use strongroom::base::crc::crc32c;
use strongroom::device::Device;

const MAGIC: [u8; 8] = *b"\x89SRM\r\n\x1a\n";
const MIB: u64 = 1 << 20;
const COPY_BYTES: usize = 16 << 10;
const COPIES: u64 = 4;

/// What a copy says of itself, without any key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Said {
    sequence: u64,
    generation: u64,
    slot: u8,
}

impl Said {
    /// Of a copy that is whole; and which copy of its slot it is.
    fn by(bytes: &[u8]) -> Option<(Self, u8)> {
        let number = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let (body, sum) = bytes.split_at_checked(COPY_BYTES - 4)?;
        let whole = body[..8] == MAGIC && *sum == crc32c(body).to_le_bytes();
        let said = Self { sequence: number(80)?, generation: number(72)?, slot: body[64] };
        whole.then_some((said, body[65]))
    }
}

/// The newest superblock of a disk, both copies of which are there.
#[derive(Debug)]
pub struct Superblocks {
    newest: Said,
    /// The last copy that was written.
    last: (Said, u8),
}

impl Superblocks {
    /// As the medium has them.
    pub fn on(device: &dyn Device) -> Self {
        let said = |slot: u64, copy: u64| {
            let mut bytes = vec![0; COPY_BYTES];
            device.read((2 * copy + slot) * MIB, &mut bytes).ok()?;
            Said::by(&bytes).map(|(said, _)| said)
        };
        let whole = (0..2).filter_map(|slot| said(slot, 0).filter(|s| said(slot, 1) == Some(*s)));
        Self { newest: whole.max().unwrap_or_default(), last: (Said::default(), 0) }
    }

    /// Something is about to be written.
    pub fn before_write(&mut self, offset: u64, bytes: &[u8]) {
        if offset >= COPIES * MIB {
            return;
        }
        let Some((new, copy)) = Said::by(bytes) else { return };
        let newest = self.newest;
        let follows = new.sequence > newest.sequence && new.generation >= newest.generation;
        assert!(
            new == newest || (follows && new.slot != newest.slot),
            "superblock {new:?} is written while {newest:?} is the newest"
        );
        if self.last.0 == new && self.last.1 != copy {
            self.newest = new;
        }
        self.last = (new, copy);
    }
}
