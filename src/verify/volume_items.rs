//! The items of a cluster's tree: each can be decoded, and says which blocks it points to.

use crate::base::Generation;
use crate::base::cursor::DecodeError;
use crate::base::units::BLOCK_SIZE_U64;
use crate::block::Run;
use crate::tree::Key;
use crate::volume::items::{
    CHUNK_BYTES, Dirent, ExtentItem, InodeItem, NEXT_INODE_KEY, VOLUME_KEY, VOLUME_VERSION, kind,
};

/// Bytes before an extended attribute's value in its first chunk: lengths and a name.
const XATTR_HEAD_BYTES_MAX: usize = 5 + 255;

/// Decodes an item of a cluster's tree and hands the blocks that it points to to `reach`, with the
/// generation of their birth: the `items` of [`crate::verify::CheckOptions`] for what `volume`
/// writes.
///
/// # Errors
/// [`DecodeError`] for what `volume` does not write.
pub fn volume_items(
    key: Key,
    value: &[u8],
    reach: &mut dyn FnMut(Run, Generation),
) -> Result<(), DecodeError> {
    let fits = |ok: bool, what| if ok { Ok(()) } else { Err(DecodeError::Field(what)) };
    match key.kind {
        kind::VOLUME => {
            fits(key == VOLUME_KEY && value == VOLUME_VERSION.to_le_bytes(), "volume version")
        }
        kind::NEXT_INODE => fits(key == NEXT_INODE_KEY && value.len() == 8, "next inode"),
        kind::ORPHAN => fits(key.object == 0 && value.is_empty(), "orphan"),
        kind::TRUNCATE => fits(key.object == 0 && value.len() == 8, "truncation"),
        kind::INODE => {
            InodeItem::decode(value)?;
            fits(key.offset == 0, "inode offset")
        }
        kind::XATTR => fits(
            !value.is_empty() && value.len() <= CHUNK_BYTES + XATTR_HEAD_BYTES_MAX,
            "extended attribute",
        ),
        kind::SYMLINK => fits(!value.is_empty() && value.len() <= CHUNK_BYTES, "link target"),
        kind::DIRENT => Dirent::decode(value).map(|_| ()),
        kind::EXTENT => {
            let extent = ExtentItem::decode(value)?;
            reach(Run { addr: extent.addr, blocks: extent.blocks() }, extent.birth);
            fits(key.offset.is_multiple_of(BLOCK_SIZE_U64), "extent offset")
        }
        _ => Err(DecodeError::Field("item kind")),
    }
}
