//! Total readers and writers over bytes: little-endian, never a panic, never past the end.

use zeroize::Zeroizing;

use crate::base::erase::erase;
use crate::base::units::{BlockAddr, Generation, SegmentId};

/// Bytes that do not hold what was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end before the value does.
    #[error("the bytes end early")]
    Short,
    /// Bytes follow the value.
    #[error("bytes follow the value")]
    Trailing,
    /// A field holds what no writer puts there.
    #[error("the field '{0}' is out of range")]
    Field(&'static str),
    /// A byte that must be zero is not.
    #[error("reserved bytes are not zero")]
    Reserved,
    /// An extension field that this version does not know and may not skip.
    #[error("an extension field (tag {0}) needs a newer version")]
    UnknownTag(u16),
}

/// Reads values from the front of a byte slice.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader of all of `bytes`.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
    /// Bytes not yet read.
    #[must_use]
    pub const fn remaining(&self) -> usize {
        self.rest.len()
    }
    /// The next `len` bytes.
    ///
    /// # Errors
    /// [`DecodeError::Short`] where fewer are left.
    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or(DecodeError::Short)?;
        self.rest = rest;
        Ok(head)
    }
    /// The next `N` bytes as an array.
    ///
    /// # Errors
    /// [`DecodeError::Short`] where fewer are left.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(DecodeError::Short)?;
        self.rest = rest;
        Ok(*head)
    }
    /// # Errors
    /// [`DecodeError::Short`]
    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.array::<1>()?[0])
    }
    /// # Errors
    /// [`DecodeError::Short`]
    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_le_bytes)
    }
    /// # Errors
    /// [`DecodeError::Short`]
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_le_bytes)
    }
    /// # Errors
    /// [`DecodeError::Short`]
    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_le_bytes)
    }
    /// # Errors
    /// [`DecodeError::Short`]
    pub fn i64(&mut self) -> Result<i64, DecodeError> {
        self.array().map(i64::from_le_bytes)
    }
    /// # Errors
    /// [`DecodeError::Short`]; [`DecodeError::Field`] for what no device is large enough for.
    pub fn addr(&mut self) -> Result<BlockAddr, DecodeError> {
        BlockAddr::checked(self.u64()?).ok_or(DecodeError::Field("block address"))
    }
    /// # Errors
    /// [`DecodeError::Short`]
    pub fn generation(&mut self) -> Result<Generation, DecodeError> {
        self.u64().map(Generation)
    }
    /// # Errors
    /// [`DecodeError::Short`]
    pub fn segment(&mut self) -> Result<SegmentId, DecodeError> {
        self.u32().map(SegmentId)
    }
    /// Bytes preceded by their length (u32).
    ///
    /// # Errors
    /// [`DecodeError::Short`]; [`DecodeError::Field`] where the length is above `max`.
    pub fn sized(&mut self, max: usize) -> Result<&'a [u8], DecodeError> {
        let len = self.u32()? as usize;
        if len > max {
            return Err(DecodeError::Field("length"));
        }
        self.bytes(len)
    }
    /// UTF-8 text preceded by its length in bytes (u32).
    ///
    /// # Errors
    /// As [`Reader::sized`]; [`DecodeError::Field`] where it is not UTF-8.
    pub fn text(&mut self, max: usize) -> Result<&'a str, DecodeError> {
        std::str::from_utf8(self.sized(max)?).map_err(|_| DecodeError::Field("text"))
    }
    /// That nothing is left.
    ///
    /// # Errors
    /// [`DecodeError::Trailing`]
    pub const fn finish(&self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::Trailing) }
    }
    /// That all that is left is zero (canonical bytes).
    ///
    /// # Errors
    /// [`DecodeError::Reserved`]
    pub fn finish_zero(&self) -> Result<(), DecodeError> {
        if self.rest.iter().all(|b| *b == 0) { Ok(()) } else { Err(DecodeError::Reserved) }
    }
    /// Extension fields to the end: `(tag u16, length u32, bytes)`. A tag whose highest bit is set
    /// may be skipped by a reader that does not know it; any other unknown tag is an error.
    ///
    /// # Errors
    /// Whatever `known` returns, [`DecodeError::UnknownTag`], [`DecodeError::Short`].
    pub fn extensions(
        &mut self,
        mut known: impl FnMut(u16, &'a [u8]) -> Result<bool, DecodeError>,
    ) -> Result<(), DecodeError> {
        while !self.rest.is_empty() {
            let tag = self.u16()?;
            let body = self.sized(u32::MAX as usize)?;
            if !known(tag, body)? && tag & 0x8000 == 0 {
                return Err(DecodeError::UnknownTag(tag));
            }
        }
        Ok(())
    }
}

/// Fewest bytes that a buffer begins with.
const ROOM_MIN: usize = 128;

/// Appends values to a growing buffer, as [`Reader`] reads them.
///
/// What is written may be keys. So nothing of it is left behind in memory that is given back: not
/// where the buffer grows, and not where it is dropped. What is taken out by
/// [`Writer::into_secret`] is wiped by its owner's drop, what is taken out by
/// [`Writer::into_bytes`] is not.
#[derive(Default)]
pub struct Writer {
    out: Vec<u8>,
}

impl Drop for Writer {
    fn drop(&mut self) {
        erase(&mut self.out);
    }
}

impl Writer {
    /// An empty buffer.
    #[must_use]
    pub const fn new() -> Self {
        Self { out: Vec::new() }
    }
    /// An empty buffer with room for `bytes`: it does not move until more are written.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        Self { out: Vec::with_capacity(bytes) }
    }
    /// What was written, where it holds no key.
    #[must_use]
    pub fn into_bytes(mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }
    /// What was written, erased when dropped.
    #[must_use]
    pub fn into_secret(mut self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(std::mem::take(&mut self.out))
    }
    /// Room for `more` bytes behind those that are there. The old place of a buffer that moves is
    /// returned, wiped.
    fn make_room(&mut self, more: usize) -> Option<Vec<u8>> {
        let wanted = self.out.len().saturating_add(more);
        if wanted <= self.out.capacity() {
            return None;
        }
        let room = wanted.max(self.out.capacity().saturating_mul(2)).max(ROOM_MIN);
        let mut grown = Vec::with_capacity(room);
        grown.extend_from_slice(&self.out);
        let mut old = std::mem::replace(&mut self.out, grown);
        erase(&mut old);
        Some(old)
    }
    /// Bytes written so far.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.out.len()
    }
    /// Whether nothing was written.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.out.is_empty()
    }
    /// Bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        drop(self.make_room(bytes.len()));
        self.out.extend_from_slice(bytes);
        self
    }
    /// One byte.
    pub fn u8(&mut self, v: u8) -> &mut Self {
        self.bytes(&[v])
    }
    /// Little-endian.
    pub fn u16(&mut self, v: u16) -> &mut Self {
        self.bytes(&v.to_le_bytes())
    }
    /// Little-endian.
    pub fn u32(&mut self, v: u32) -> &mut Self {
        self.bytes(&v.to_le_bytes())
    }
    /// Little-endian.
    pub fn u64(&mut self, v: u64) -> &mut Self {
        self.bytes(&v.to_le_bytes())
    }
    /// Little-endian, two's complement.
    pub fn i64(&mut self, v: i64) -> &mut Self {
        self.bytes(&v.to_le_bytes())
    }
    /// Length (u32), then the bytes.
    ///
    /// # Panics
    /// Where `bytes` is 4 GiB or longer: a programming error, no input is.
    pub fn sized(&mut self, bytes: &[u8]) -> &mut Self {
        self.u32(u32::try_from(bytes.len()).expect("a field is shorter than 4 GiB"));
        self.bytes(bytes)
    }
    /// One extension field.
    pub fn extension(&mut self, tag: u16, body: &[u8]) -> &mut Self {
        self.u16(tag);
        self.sized(body)
    }
    /// Zeros up to a length of `len` bytes.
    pub fn pad_to(&mut self, len: usize) -> &mut Self {
        if self.out.len() < len {
            drop(self.make_room(len - self.out.len()));
            self.out.resize(len, 0);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_what_was_written_and_stops_at_the_end() {
        let mut w = Writer::new();
        w.u8(1).u16(2).u32(3).u64(4).i64(-5).sized(b"six").extension(0x8007, b"seven");
        let bytes = w.into_bytes();
        let mut r = Reader::new(&bytes);
        assert_eq!(
            (r.u8(), r.u16(), r.u32(), r.u64(), r.i64()),
            (Ok(1), Ok(2), Ok(3), Ok(4), Ok(-5))
        );
        assert_eq!(r.sized(3), Ok(&b"six"[..]));
        r.extensions(|_, _| Ok(false)).unwrap();
        r.finish().unwrap();
        assert_eq!(r.u8(), Err(DecodeError::Short));
    }

    #[test]
    fn a_buffer_that_moves_leaves_zeros_behind() {
        let mut w = Writer::with_capacity(4);
        w.bytes(b"keys");
        let old = w.make_room(1).unwrap();
        assert_eq!(old, [0; 4], "the place that is given back holds no key");
        assert!(w.make_room(1).is_none(), "it moves seldom");
        w.pad_to(600);
        assert_eq!((w.len(), &w.into_secret()[..5]), (600, &b"keys\0"[..]));
    }

    #[test]
    fn an_unknown_tag_obeys_its_compatibility_bit() {
        let mut w = Writer::new();
        w.extension(7, b"");
        let bytes = w.into_bytes();
        assert_eq!(
            Reader::new(&bytes).extensions(|_, _| Ok(false)),
            Err(DecodeError::UnknownTag(7))
        );
    }
}
