//! Numbers that a seed decides, for what must replay.

/// A deterministic sequence (SplitMix64) from a seed. The same seed gives the same numbers; nothing
/// secret may come of them.
#[derive(Clone, Debug)]
pub struct Sequence(pub u64);

impl Sequence {
    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The next number, from 0 up to, not including, `n`; 0 for 0.
    pub fn below(&mut self, n: u64) -> u64 {
        self.draw() % n.max(1)
    }
}
