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
    /// Of a copy that is whole.
    fn by(bytes: &[u8]) -> Option<Self> {
        let number = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let (body, sum) = bytes.split_at_checked(COPY_BYTES - 4)?;
        let whole = body[..8] == MAGIC && *sum == crc32c(body).to_le_bytes();
        let said = Self { sequence: number(80)?, generation: number(72)?, slot: body[64] };
        whole.then_some(said)
    }
}

/// The copies of a disk, by their places.
#[derive(Debug)]
pub struct Superblocks([Option<Said>; COPIES as usize]);

impl Superblocks {
    /// As the medium has them.
    pub fn on(device: &dyn Device) -> Self {
        let mut copies = [None; COPIES as usize];
        for (place, copy) in (0..).zip(&mut copies) {
            let mut bytes = vec![0; COPY_BYTES];
            *copy = device.read(place * MIB, &mut bytes).ok().and_then(|()| Said::by(&bytes));
        }
        Self(copies)
    }

    /// The newest of which both copies are there: copy `c` of slot `i` stands at `2 c + i`.
    fn newest(&self) -> Said {
        let [a, b, other_a, other_b] = self.0;
        let whole = [a.filter(|_| a == other_a), b.filter(|_| b == other_b)];
        whole.into_iter().flatten().max().unwrap_or_default()
    }

    /// Something is about to be written.
    pub fn before_write(&mut self, offset: u64, bytes: &[u8]) {
        if offset >= COPIES * MIB {
            return;
        }
        let (newest, new) = (self.newest(), Said::by(bytes));
        let place = (offset / MIB) as usize;
        self.0[place] = new;
        let Some(new) = new else { return };
        let follows = new.sequence > newest.sequence && new.generation >= newest.generation;
        // The newest, or a copy is written again from the other one of its slot.
        let repairs = new == newest || self.0[(place + 2) % 4] == Some(new);
        assert!(
            repairs || (follows && new.slot != newest.slot),
            "superblock {new:?} is written while {newest:?} is the newest"
        );
    }
}
