//! Items of a cluster's tree: their keys and layouts (docs/format.md, "volume items").
//!
//! | kind | object | offset | value |
//! | --- | --- | --- | --- |
//! | VOLUME | 0 | 0 | version of this table |
//! | NEXT_INODE | 0 | 0 | first inode number never handed out |
//! | ORPHAN | 0 | inode | none: an inode without a name, to be freed |
//! | TRUNCATE | 0 | inode | block from which extents are to be freed |
//! | INODE | inode | 0 | [`InodeItem`] |
//! | XATTR | inode | hash 48, probe 8, chunk 8 bits | [`crate::volume::xattr`] |
//! | SYMLINK | inode | chunk | target, in chunks |
//! | DIRENT | directory | cookie | inode u64, type u8, name |
//! | EXTENT | inode | offset in bytes | [`ExtentItem`] |

use crate::base::cursor::{DecodeError, Reader, Writer};
use crate::base::limits::{
    EXTENT_BLOCKS_MAX, FILE_BYTES_MAX, NAME_BYTES_MAX, XATTR_VALUE_BYTES_MAX,
};
use crate::base::units::{BLOCK_SIZE_U64, BlockAddr, Generation, InodeNo};
use crate::volume::attr::{Attr, FileKind, FileTime, mode_bits};
use crate::volume::backing::Key;

/// Version of the item table.
pub const VOLUME_VERSION: u16 = 1;
/// Inode number of the root directory.
pub const ROOT_INODE: InodeNo = InodeNo(1);
/// First inode number handed out; those below are kept for later use.
pub const FIRST_INODE: u64 = 16;
/// Bytes of a value's chunk, for what can be longer than a tree's value.
pub const CHUNK_BYTES: usize = 3072;
/// Bytes of one block reference (key and tag) in an extent item.
pub const REF_BYTES: usize = 48;

/// Item kinds.
pub mod kind {
    /// Version.
    pub const VOLUME: u8 = 0x01;
    /// Inode number allocator.
    pub const NEXT_INODE: u8 = 0x02;
    /// Inode without a name.
    pub const ORPHAN: u8 = 0x03;
    /// Truncation under way.
    pub const TRUNCATE: u8 = 0x04;
    /// Inode.
    pub const INODE: u8 = 0x10;
    /// Extended attribute.
    pub const XATTR: u8 = 0x11;
    /// Target of a symbolic link.
    pub const SYMLINK: u8 = 0x12;
    /// Directory entry.
    pub const DIRENT: u8 = 0x13;
    /// Extent of a file.
    pub const EXTENT: u8 = 0x14;
}

/// Flags of an inode item.
pub mod inode_flags {
    /// Has extended attributes.
    pub const XATTRS: u32 = 1;
    /// Has `security.capability`.
    pub const CAPABILITY: u32 = 2;
    /// Has an access ACL beyond its mode.
    pub const ACL_ACCESS: u32 = 4;
    /// A directory with a default ACL.
    pub const ACL_DEFAULT: u32 = 8;
    /// Every flag.
    pub const ALL: u32 = 15;
}

/// Key of the version item.
pub const VOLUME_KEY: Key = Key { object: 0, kind: kind::VOLUME, offset: 0 };
/// Key of the inode number allocator.
pub const NEXT_INODE_KEY: Key = Key { object: 0, kind: kind::NEXT_INODE, offset: 0 };

/// Key of an orphan's mark.
#[must_use]
pub const fn orphan_key(ino: InodeNo) -> Key {
    Key { object: 0, kind: kind::ORPHAN, offset: ino.0 }
}
/// Key of the intent to truncate.
#[must_use]
pub const fn truncate_key(ino: InodeNo) -> Key {
    Key { object: 0, kind: kind::TRUNCATE, offset: ino.0 }
}
/// Key of an inode.
#[must_use]
pub const fn inode_key(ino: InodeNo) -> Key {
    Key { object: ino.0, kind: kind::INODE, offset: 0 }
}
/// Key of a chunk of a symbolic link's target.
#[must_use]
pub const fn symlink_key(ino: InodeNo, chunk: u64) -> Key {
    Key { object: ino.0, kind: kind::SYMLINK, offset: chunk }
}
/// Key of a directory entry.
#[must_use]
pub const fn dirent_key(parent: InodeNo, cookie: u64) -> Key {
    Key { object: parent.0, kind: kind::DIRENT, offset: cookie }
}
/// Key of the extent that begins at a file's block.
#[must_use]
pub const fn extent_key(ino: InodeNo, block: u64) -> Key {
    Key { object: ino.0, kind: kind::EXTENT, offset: block * BLOCK_SIZE_U64 }
}

const COOKIE_BIT: u64 = 1 << 62;

/// The first of the 256 cookies that an entry may have whose name has this keyed hash.
#[must_use]
pub const fn first_cookie(name_hash: u64) -> u64 {
    COOKIE_BIT | ((name_hash >> 10) << 8)
}

/// The head of an extended attribute's chunk 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XattrHead<'a> {
    /// Bytes of the whole value.
    pub value_bytes: usize,
    /// The attribute's name.
    pub name: &'a [u8],
    /// The value's bytes in this chunk.
    pub first: &'a [u8],
}

impl<'a> XattrHead<'a> {
    /// The head that `bytes` hold.
    ///
    /// # Errors
    /// [`DecodeError`]
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let value_bytes = r.u32()? as usize;
        let name_len = usize::from(r.u8()?);
        let name = r.bytes(name_len)?;
        let first = r.bytes(r.remaining())?;
        let whole = first.len() == value_bytes.min(CHUNK_BYTES);
        if value_bytes > XATTR_VALUE_BYTES_MAX || !whole || name.is_empty() {
            return Err(DecodeError::Field("attribute"));
        }
        Ok(Self { value_bytes, name, first })
    }
}

/// The first of the 256 keys (their offsets) that an attribute may have whose name has this hash.
#[must_use]
pub const fn xattr_base(name_hash: u64) -> u64 {
    name_hash & !0xffff
}

/// What is stored of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InodeItem {
    /// Type and permissions.
    pub mode: u32,
    /// Names.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number.
    pub rdev: u32,
    /// [`inode_flags`]
    pub flags: u32,
    /// Bytes.
    pub size: u64,
    /// Blocks of 4 KiB that extents map.
    pub blocks: u64,
    /// Access.
    pub atime: FileTime,
    /// Modification.
    pub mtime: FileTime,
    /// Change.
    pub ctime: FileTime,
    /// Creation.
    pub btime: FileTime,
    /// A directory's parent; zero for everything else.
    pub parent: u64,
    /// A directory's entries; zero for everything else.
    pub entries: u64,
}

/// Blocks of the largest file.
const BLOCKS_MAX: u64 = FILE_BYTES_MAX.div_ceil(BLOCK_SIZE_U64);
/// Bytes of an encoded inode item.
pub const INODE_ITEM_BYTES: usize = 6 * 4 + 2 * 8 + 4 * 12 + 2 * 8;

impl InodeItem {
    /// A new inode: one name, no content, no parent, all times `time`.
    #[must_use]
    pub const fn new(mode: u32, uid: u32, gid: u32, time: FileTime) -> Self {
        Self {
            mode,
            nlink: 1,
            uid,
            gid,
            rdev: 0,
            flags: 0,
            size: 0,
            blocks: 0,
            atime: time,
            mtime: time,
            ctime: time,
            btime: time,
            parent: 0,
            entries: 0,
        }
    }
    /// Kind of file.
    #[must_use]
    pub fn kind(&self) -> FileKind {
        // A decoded item always has a kind; one made here too.
        FileKind::from_mode(self.mode).unwrap_or(FileKind::File)
    }
    /// Whether it is a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        self.kind() == FileKind::Directory
    }
    /// Whether it is a regular file.
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.kind() == FileKind::File
    }
    /// Attributes; `unwritten` buffered blocks are counted as taken.
    #[must_use]
    pub fn attr(&self, ino: InodeNo, unwritten: u64) -> Attr {
        let size_blocks = self.size.div_ceil(BLOCK_SIZE_U64);
        let blocks = match self.kind() {
            // A buffered block may lie over a mapped one; never show more than the size holds.
            FileKind::File => (self.blocks + unwritten).min(self.blocks.max(size_blocks)),
            FileKind::Directory => 1,
            _ => 0,
        };
        Attr {
            ino,
            size: if self.is_dir() { BLOCK_SIZE_U64 } else { self.size },
            blocks: blocks * 8,
            atime: self.atime,
            mtime: self.mtime,
            ctime: self.ctime,
            btime: self.btime,
            kind: self.kind(),
            perm: (self.mode & mode_bits::PERM) as u16,
            nlink: self.nlink,
            uid: self.uid,
            gid: self.gid,
            rdev: self.rdev,
        }
    }
    /// The item's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u32(self.mode).u32(self.nlink).u32(self.uid).u32(self.gid).u32(self.rdev);
        w.u32(self.flags).u64(self.size).u64(self.blocks);
        for t in [self.atime, self.mtime, self.ctime, self.btime] {
            w.i64(t.secs).u32(t.nanos);
        }
        w.u64(self.parent).u64(self.entries);
        w.into_bytes()
    }
    /// The item that `bytes` hold. Unknown extension fields behind the fixed part obey their
    /// compatibility bit.
    ///
    /// # Errors
    /// [`DecodeError`]
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let (mode, nlink, uid, gid, rdev) = (r.u32()?, r.u32()?, r.u32()?, r.u32()?, r.u32()?);
        let (flags, size, blocks) = (r.u32()?, r.u64()?, r.u64()?);
        let mut times = [FileTime::default(); 4];
        for t in &mut times {
            *t = FileTime { secs: r.i64()?, nanos: r.u32()? };
            if t.nanos >= 1_000_000_000 {
                return Err(DecodeError::Field("nanoseconds"));
            }
        }
        let [atime, mtime, ctime, btime] = times;
        let (parent, entries) = (r.u64()?, r.u64()?);
        r.extensions(|_, _| Ok(false))?;
        if FileKind::from_mode(mode).is_none() || mode & !(mode_bits::TYPE | mode_bits::PERM) != 0 {
            return Err(DecodeError::Field("mode"));
        }
        if size > i64::MAX as u64 {
            return Err(DecodeError::Field("size"));
        }
        if flags & !inode_flags::ALL != 0 {
            return Err(DecodeError::Field("inode flags"));
        }
        // Counts that nobody reaches: what adds to them need not look.
        if blocks > BLOCKS_MAX || nlink > u32::MAX / 2 || entries > u64::MAX / 2 {
            return Err(DecodeError::Field("inode counts"));
        }
        Ok(Self {
            mode,
            nlink,
            uid,
            gid,
            rdev,
            flags,
            size,
            blocks,
            atime,
            mtime,
            ctime,
            btime,
            parent,
            entries,
        })
    }
}

/// A directory entry's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dirent {
    /// The inode.
    pub ino: InodeNo,
    /// Its kind.
    pub kind: FileKind,
    /// The name.
    pub name: Vec<u8>,
}

impl Dirent {
    /// The value's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u64(self.ino.0).u8(self.kind.dirent_type()).bytes(&self.name);
        w.into_bytes()
    }
    /// The entry that `bytes` hold.
    ///
    /// # Errors
    /// [`DecodeError`]
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let ino = InodeNo(r.u64()?);
        let kind = FileKind::from_dirent_type(r.u8()?).ok_or(DecodeError::Field("entry type"))?;
        let name = r.bytes(r.remaining())?;
        let dots = name == b"." || name == b"..";
        let cut = name.contains(&b'/') || name.contains(&0);
        if name.is_empty() || name.len() > NAME_BYTES_MAX || dots || cut {
            return Err(DecodeError::Field("entry name"));
        }
        Ok(Self { ino, kind, name: name.to_vec() })
    }
}

/// A run of a file's blocks in one run of the device's, borrowed from an item's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtentItem<'a> {
    /// First block on the device.
    pub addr: BlockAddr,
    /// Interval in which the blocks were born.
    pub birth: Generation,
    /// Key and tag of each block, [`REF_BYTES`] each.
    pub refs: &'a [u8],
}

impl<'a> ExtentItem<'a> {
    /// Blocks.
    #[must_use]
    pub const fn blocks(&self) -> u32 {
        (self.refs.len() / REF_BYTES) as u32
    }
    /// Blocks `from..to` of it (relative to its start, clipped to its length).
    #[must_use]
    pub fn slice(&self, from: u32, to: u32) -> ExtentItem<'a> {
        let to = to.min(self.blocks());
        let from = from.min(to);
        ExtentItem {
            addr: self.addr.plus(u64::from(from)),
            birth: self.birth,
            refs: &self.refs[from as usize * REF_BYTES..to as usize * REF_BYTES],
        }
    }
    /// The value's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u64(self.addr.0).u64(self.birth.0).u32(self.blocks()).u32(0).bytes(self.refs);
        w.into_bytes()
    }
    /// The extent that `bytes` hold.
    ///
    /// # Errors
    /// [`DecodeError`]
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let (addr, birth) = (r.addr()?, r.generation()?);
        let blocks = r.u32()?;
        if r.u32()? != 0 {
            return Err(DecodeError::Reserved);
        }
        if blocks == 0 || blocks > EXTENT_BLOCKS_MAX {
            return Err(DecodeError::Field("extent length"));
        }
        let refs = r.bytes(blocks as usize * REF_BYTES)?;
        r.finish()?;
        Ok(Self { addr, birth, refs })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> InodeItem {
        InodeItem {
            mode: 0o104_755,
            nlink: 3,
            uid: 1000,
            gid: u32::MAX - 1,
            rdev: 0,
            flags: inode_flags::XATTRS,
            size: i64::MAX as u64,
            blocks: 7,
            atime: FileTime { secs: -1, nanos: 999_999_999 },
            mtime: FileTime { secs: i64::MAX, nanos: 0 },
            ctime: FileTime { secs: 4_102_444_800, nanos: 5 },
            btime: FileTime { secs: i64::MIN, nanos: 1 },
            parent: 9,
            entries: 10,
        }
    }

    #[test]
    fn inode_items_keep_every_field_and_refuse_nonsense() {
        let item = sample();
        let bytes = item.encode();
        assert_eq!(bytes.len(), INODE_ITEM_BYTES);
        assert_eq!(InodeItem::decode(&bytes), Ok(item));
        assert!(InodeItem::decode(&bytes[..bytes.len() - 1]).is_err());
        for bad in [
            InodeItem { mode: 0o755, ..item },
            InodeItem { flags: 1 << 20, ..item },
            InodeItem { size: 1 << 63, ..item },
            InodeItem { atime: FileTime { secs: 0, nanos: 1_000_000_000 }, ..item },
        ] {
            assert!(InodeItem::decode(&bad.encode()).is_err());
        }
    }

    #[test]
    fn entries_have_names_that_a_directory_can_hold() {
        let entry = |name: &[u8]| {
            let name = name.to_vec();
            Dirent { ino: InodeNo(17), kind: FileKind::File, name }.encode()
        };
        let long = [b'x'; NAME_BYTES_MAX + 1];
        for good in [&b"a"[..], b"...", b"..a", b"\xff\n", &long[1..]] {
            assert_eq!(Dirent::decode(&entry(good)).unwrap().name, good);
        }
        for bad in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0", &long] {
            assert!(Dirent::decode(&entry(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn extents_slice_by_block() {
        let refs: Vec<u8> = (0..4 * REF_BYTES).map(|i| (i / REF_BYTES) as u8).collect();
        let extent = ExtentItem { addr: BlockAddr(100), birth: Generation(5), refs: &refs };
        let middle = extent.slice(1, 3);
        assert_eq!((middle.addr, middle.blocks()), (BlockAddr(101), 2));
        assert!(middle.refs.iter().all(|b| *b == 1 || *b == 2));
        assert_eq!(ExtentItem::decode(&extent.encode()), Ok(extent));
        assert!(ExtentItem::decode(&extent.slice(2, 2).encode()).is_err());
    }

    #[test]
    fn counts_that_nobody_reaches_are_refused() {
        let good = InodeItem { blocks: BLOCKS_MAX, ..sample() };
        assert_eq!(InodeItem::decode(&good.encode()), Ok(good));
        assert_eq!(good.attr(InodeNo(9), 1).blocks, BLOCKS_MAX * 8);
        for bad in [
            InodeItem { blocks: BLOCKS_MAX + 1, ..good },
            InodeItem { nlink: u32::MAX, ..good },
            InodeItem { entries: u64::MAX, ..good },
        ] {
            assert!(InodeItem::decode(&bad.encode()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_extent_beyond_every_device_is_refused() {
        let refs = [7; 2 * REF_BYTES];
        let at = |addr| ExtentItem { addr: BlockAddr(addr), birth: Generation(1), refs: &refs };
        assert!(ExtentItem::decode(&at(1 << 40).encode()).is_ok());
        for addr in [u64::MAX, u64::MAX - 1, u64::MAX / BLOCK_SIZE_U64] {
            assert!(ExtentItem::decode(&at(addr).encode()).is_err());
        }
    }

    proptest! {
        #[test]
        fn decoders_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = InodeItem::decode(&bytes);
            let _ = Dirent::decode(&bytes);
            let _ = ExtentItem::decode(&bytes);
        }
    }
}
