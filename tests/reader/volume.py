"""The items of a cluster's tree: inodes, names, attributes, links and the blocks of files."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from codec import BLOCK, Cursor
from crypto import name_hash, open_block
from device import Device
from errors import Damaged, Unsupported
from tree import BEYOND, FIRST, Key, Tree

VERSION, NEXT_INODE, ORPHAN, TRUNCATION = 0x01, 0x02, 0x03, 0x04
INODE, XATTR, SYMLINK, ENTRY, EXTENT = range(0x10, 0x15)
POOL_KINDS = {VERSION, NEXT_INODE, ORPHAN, TRUNCATION}
INODE_KINDS = {INODE, XATTR, SYMLINK, ENTRY, EXTENT}
ROOT_INODE = 1
CHUNK_BYTES = 3072
EXTENT_BLOCKS = 32
NAME_BYTES = 255
TARGET_BYTES = 4095
XATTR_BYTES = 65536
NANOSECONDS = 1_000_000_000


class Items:
    """The items of a tree with a log's edits applied to them."""

    def __init__(self, tree: Tree, edits: Mapping[Key, bytes | None]) -> None:
        self._tree = tree
        self._edits = dict(sorted(edits.items()))

    def range(self, low: Key = FIRST, high: Key = BEYOND) -> Iterator[tuple[Key, bytes]]:
        """The items from `low` on and below `high`."""
        edits = [(key, value) for key, value in self._edits.items() if low <= key < high]
        at = 0
        for key, value in self._tree.items(low, high):
            while at < len(edits) and edits[at][0] < key:
                yield from _if_there(edits[at])
                at += 1
            if at < len(edits) and edits[at][0] == key:
                yield from _if_there(edits[at])
                at += 1
            else:
                yield key, value
        for edit in edits[at:]:
            yield from _if_there(edit)

    def of(self, number: int, kind: int) -> Iterator[tuple[int, bytes]]:
        """The items of one object and kind, by offset."""
        for key, value in self.range(Key(number, kind, 0), Key(number, kind + 1, 0)):
            yield key.offset, value


def _if_there(edit: tuple[Key, bytes | None]) -> Iterator[tuple[Key, bytes]]:
    key, value = edit
    if value is not None:
        yield key, value


@dataclass(frozen=True)
class Inode:
    """What the tree says of a file, whatever its type."""

    number: int
    mode: int
    links: int
    uid: int
    gid: int
    rdev: int
    flags: int
    size: int
    mapped_blocks: int
    atime: int
    mtime: int
    ctime: int
    btime: int
    parent: int
    entries: int

    @classmethod
    def decode(cls, number: int, value: bytes) -> Inode:
        """An inode item; times become nanoseconds."""
        cursor = Cursor(value, f"inode {number}")
        inode = cls(
            number=number,
            mode=cursor.u32(),
            links=cursor.u32(),
            uid=cursor.u32(),
            gid=cursor.u32(),
            rdev=cursor.u32(),
            flags=cursor.flags(4, 15),
            size=cursor.u64(),
            mapped_blocks=cursor.u64(),
            atime=_time(cursor),
            mtime=_time(cursor),
            ctime=_time(cursor),
            btime=_time(cursor),
            parent=cursor.u64(),
            entries=cursor.u64(),
        )
        cursor.extensions()
        if not inode.is_directory and (inode.parent or inode.entries):
            cursor.fail("no directory, and has a parent or entries")
        return inode

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return stat.S_ISREG(self.mode)

    @property
    def is_symlink(self) -> bool:
        """Whether it is a symbolic link."""
        return stat.S_ISLNK(self.mode)


def _time(cursor: Cursor) -> int:
    seconds, nanoseconds = cursor.i64(), cursor.u32()
    if nanoseconds >= NANOSECONDS:
        cursor.fail("a time with more than a second of nanoseconds")
    return seconds * NANOSECONDS + nanoseconds


@dataclass(frozen=True)
class DirectoryEntry:
    """A name in a directory."""

    name: bytes
    inode: int
    type: int


@dataclass(frozen=True)
class Extent:
    """Blocks of a file that stand one behind the other on the device."""

    offset: int
    address: int
    birth: int
    references: tuple[tuple[bytes, bytes], ...]

    @classmethod
    def decode(cls, inode: int, offset: int, value: bytes) -> Extent:
        """An extent item."""
        cursor = Cursor(value, f"inode {inode}, extent at {offset}")
        address, birth, blocks = cursor.u64(), cursor.u64(), cursor.u32()
        cursor.zeros(4)
        references = tuple((cursor.take(32), cursor.take(16)) for _ in range(blocks))
        cursor.end()
        if not 1 <= blocks <= EXTENT_BLOCKS or offset % BLOCK:
            cursor.fail("blocks that it cannot have")
        return cls(offset, address, birth, references)


class Volume:
    """The tree of a cluster or snapshot as files."""

    def __init__(self, device: Device, items: Items, name_hash_key: bytes, what: str) -> None:
        self._device = device
        self.items = items
        self._name_hash_key = name_hash_key
        self.what = what
        version = next(iter(items.of(0, VERSION)), None)
        if version != (0, b"\1\0"):
            raise Unsupported(f"{what}: its tree says no version that is known")

    def inode(self, number: int) -> Inode:
        """An inode that must be there."""
        for offset, value in self.items.of(number, INODE):
            if offset == 0:
                return Inode.decode(number, value)
        raise Damaged(f"{self.what}: inode {number} is missing")

    def entries(self, directory: Inode) -> list[DirectoryEntry]:
        """The names of a directory, each under the hash that it must have."""
        found = []
        for cookie, value in self.items.of(directory.number, ENTRY):
            cursor = Cursor(value, f"{self.what}, directory {directory.number}")
            entry = DirectoryEntry(inode=cursor.u64(), type=cursor.u8(), name=cursor.rest())
            name = entry.name
            if not 1 <= len(name) <= NAME_BYTES or name in (b".", b"..") or set(name) & set(b"/\0"):
                cursor.fail(f"a name that cannot be: {name!r}")
            hashed = name_hash(self._name_hash_key, directory.number, name)
            if cookie >> 8 != 1 << 54 | hashed >> 10:
                cursor.fail(f"the entry {name!r} is not under its hash")
            found.append(entry)
        if len({entry.name for entry in found}) != len(found):
            raise Damaged(f"{self.what}: directory {directory.number} has a name twice")
        if len(found) != directory.entries:
            raise Damaged(
                f"{self.what}: directory {directory.number} has {len(found)} entries, "
                f"not {directory.entries}"
            )
        return found

    def xattrs(self, inode: Inode) -> dict[bytes, bytes]:
        """The extended attributes of an inode, their chunks put together."""
        found: dict[bytes, bytes] = {}
        chunks: dict[int, list[bytes]] = {}
        what = f"{self.what}, attributes of inode {inode.number}"
        for offset, value in self.items.of(inode.number, XATTR):
            parts = chunks.setdefault(offset >> 8, [])
            if offset & 0xFF != len(parts):
                raise Damaged(f"{what}: a chunk is missing")
            parts.append(value)
        for place, parts in chunks.items():
            cursor = Cursor(parts[0], what)
            length, name = cursor.u32(), cursor.take(cursor.u8())
            value = _joined([cursor.rest(), *parts[1:]], length, what)
            hashed = name_hash(self._name_hash_key, inode.number, name)
            if place >> 8 != hashed >> 16 or name in found or length > XATTR_BYTES:
                cursor.fail(f"{name!r} twice, too long, or not under its hash")
            found[name] = value
        if bool(found) != bool(inode.flags & 1):
            raise Damaged(f"{what}: the inode's flags do not say that there are {len(found)}")
        return found

    def target(self, inode: Inode) -> bytes:
        """Where a symbolic link leads."""
        what = f"{self.what}, symbolic link {inode.number}"
        parts: list[bytes] = []
        for chunk, value in self.items.of(inode.number, SYMLINK):
            if chunk != len(parts):
                raise Damaged(f"{what}: a chunk is missing")
            parts.append(value)
        if not 1 <= inode.size <= TARGET_BYTES:
            raise Damaged(f"{what}: a target of {inode.size} bytes")
        return _joined(parts, inode.size, what)

    def extents(self, inode: Inode) -> list[Extent]:
        """The extents of a file, which do not overlap."""
        found = []
        end = 0
        for offset, value in self.items.of(inode.number, EXTENT):
            extent = Extent.decode(inode.number, offset, value)
            if offset < end:
                raise Damaged(f"{self.what}: extents of inode {inode.number} overlap")
            end = offset + len(extent.references) * BLOCK
            found.append(extent)
        mapped = sum(len(extent.references) for extent in found)
        if mapped != inode.mapped_blocks:
            raise Damaged(
                f"{self.what}: inode {inode.number} maps {mapped} blocks, not {inode.mapped_blocks}"
            )
        return found

    def blocks(self, inode: Inode) -> Iterator[tuple[int, bytes]]:
        """Offset and content of each block that is no hole, cut at the size."""
        cut = dict(self.items.of(0, TRUNCATION)).get(inode.number)
        limit = (
            inode.size if cut is None else min(inode.size, int.from_bytes(cut, "little") * BLOCK)
        )
        for extent in self.extents(inode):
            data = self._device.blocks(extent.address, len(extent.references))
            for number, (key, tag) in enumerate(extent.references):
                offset = extent.offset + number * BLOCK
                what = f"byte {offset}, device block {extent.address + number}"
                ciphertext = data[number * BLOCK : (number + 1) * BLOCK]
                plain = open_block(key, tag, "data", ciphertext, what)
                if offset < limit:
                    yield offset, plain[: limit - offset]


def _joined(parts: list[bytes], length: int, what: str) -> bytes:
    value = b"".join(parts)
    if len(value) != length or any(len(part) != CHUNK_BYTES for part in parts[:-1]):
        raise Damaged(f"{what}: its chunks make {len(value)} bytes of {length}")
    return value
