"""Who owns each block, and its CRC: region maps, and the changes in the space ring."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from codec import BLOCK, Cursor, crc32c, padded, u64
from crypto import open_block, open_seal, seal_id
from device import Device
from errors import Damaged, WrongKey
from superblock import MIB, Payload, Superblock

REGION_BLOCKS = 16384
SLOT_BLOCKS = 32
MAPPED_BLOCKS = REGION_BLOCKS - 2 * SLOT_BLOCKS
RUN_BYTES = 8
DENSE_BYTES = 4 * MAPPED_BLOCKS
POOL_SEGMENT = 1
_FREE, _NODES, _CRCS = 1, 2, 4


@dataclass(frozen=True)
class RegionItem:
    """What the catalog says of a region: where its map is, and what opens it."""

    slot: int
    space_class: int
    blocks: int
    allocated: int
    through: int
    key: bytes
    tag: bytes

    @classmethod
    def decode(cls, value: bytes, what: str) -> RegionItem:
        """A region item."""
        cursor = Cursor(value, what)
        item = cls(
            slot=cursor.one_of((0, 1, 255), "slot"),
            space_class=cursor.one_of((0, 1, 2), "class"),
            blocks=cursor.u16(),
            allocated=cursor.u32(),
            through=cursor.u64(),
            key=cursor.take(32),
            tag=cursor.take(16),
        )
        cursor.end()
        empty = item.slot == 255
        rest = (item.space_class, item.blocks, item.allocated, any(item.key + item.tag))
        if (empty and any(rest)) or (not empty and not 1 <= item.blocks <= SLOT_BLOCKS):
            cursor.fail("an empty region that is none, or a map of a wrong length")
        return item


@dataclass
class Region:
    """The owners and CRCs of a region's blocks, slots included; owner 0: free."""

    through: int = 0
    owners: array[int] = field(default_factory=lambda: array("I", bytes(4 * REGION_BLOCKS)))
    crcs: array[int] = field(default_factory=lambda: array("I", bytes(4 * REGION_BLOCKS)))

    @classmethod
    def decode(cls, data: bytes, number: int, item: RegionItem) -> Region:
        """A region's map."""
        cursor = Cursor(data, f"map of region {number}")
        region = cls(item.through)
        if cursor.take(4) != b"SRMP":
            cursor.fail("is no map")
        form = cursor.one_of((0, 1), "form")
        cursor.zeros(3)
        stated, count, through = cursor.u32(), cursor.u32(), cursor.u64()
        if (stated, through) != (number, item.through):
            cursor.fail("is another region's, or of another time than its item")
        cursor.zeros(64 - cursor.at)
        if form == 0:
            region._decode_runs(cursor, count)
        else:
            region._decode_dense(cursor, count)
        allocated = [at for at, owner in enumerate(region.owners) if owner]
        if len(allocated) != item.allocated:
            cursor.fail(f"{len(allocated)} blocks allocated, its item says {item.allocated}")
        for at in allocated:
            region.crcs[at] = cursor.u32()
        if cursor.left() >= BLOCK:
            cursor.fail("longer than it needs to be")
        cursor.zeros(cursor.left())
        return region

    def _decode_runs(self, cursor: Cursor, count: int) -> None:
        if count * RUN_BYTES >= DENSE_BYTES:
            cursor.fail("runs where the dense form is shorter")
        end, last = 2 * SLOT_BLOCKS, 0
        for _ in range(count):
            start, blocks, segment = cursor.u16(), cursor.u16(), cursor.u32()
            if start < end or not blocks or start + blocks > REGION_BLOCKS or not segment:
                cursor.fail("a run that cannot be")
            if start == end and segment == last:
                cursor.fail("two runs that are one")
            end, last = start + blocks, segment
            for at in range(start, end):
                self.owners[at] = segment

    def _decode_dense(self, cursor: Cursor, count: int) -> None:
        if count != MAPPED_BLOCKS:
            cursor.fail(f"the dense form of {count} blocks")
        owners = array("I", bytes(8 * SLOT_BLOCKS))
        owners.extend(cursor.u32() for _ in range(MAPPED_BLOCKS))
        runs = sum(1 for before, owner in pairwise(owners) if owner and owner != before)
        if runs * RUN_BYTES < DENSE_BYTES:
            cursor.fail("the dense form where runs are shorter")
        self.owners = owners


@dataclass(frozen=True)
class Entry:
    """One change of a region: blocks that a segment was given, or that were freed."""

    generation: int
    free: bool
    segment: int
    address: int
    blocks: int
    crcs: tuple[int, ...]

    @classmethod
    def decode(cls, cursor: Cursor, generation: int) -> Entry:
        """An entry of a ring record."""
        flags = cursor.flags(1, _FREE | _NODES | _CRCS)
        cursor.zeros(1)
        blocks, segment, address = cursor.u16(), cursor.u32(), cursor.u64()
        crcs = tuple(cursor.u32() for _ in range(blocks)) if flags & _CRCS else ()
        if not blocks or not segment or (flags & _FREE and flags & _CRCS):
            cursor.fail("an entry that cannot be")
        return cls(generation, bool(flags & _FREE), segment, address, blocks, crcs)


class Space:
    """The blocks of a pool: who owns them and which CRC they have."""

    def __init__(self, device: Device, superblock: Superblock) -> None:
        self._device = device
        self._start = superblock.regions_start
        self._end = superblock.total_blocks
        self._regions: dict[int, Region] = {}

    def _region_of(self, address: int, blocks: int) -> tuple[Region, int]:
        number, at = divmod(address - self._start, REGION_BLOCKS)
        inside = self._start <= address and address + blocks <= self._end
        if not inside or at < 2 * SLOT_BLOCKS or at + blocks > REGION_BLOCKS:
            raise Damaged(f"blocks {address}+{blocks} are not ones that can be allocated")
        return self._regions.setdefault(number, Region()), at

    def load(
        self, regions: Mapping[int, RegionItem], superblock: Superblock, payload: Payload
    ) -> None:
        """Reads the maps of the regions, and applies what the ring holds beyond them."""
        for number, item in regions.items():
            self._load_map(number, item)
        self._apply_ring(Ring(self._device, superblock, payload), superblock.generation)

    def _load_map(self, number: int, item: RegionItem) -> None:
        if item.slot == 255:
            self._regions[number] = Region(item.through)
            return
        address = self._start + number * REGION_BLOCKS + item.slot * SLOT_BLOCKS
        what = f"map of region {number} at block {address}"
        ciphertext = self._device.blocks(address, item.blocks)
        data = open_block(item.key, item.tag, "map", ciphertext, what)
        self._regions[number] = Region.decode(data, number, item)

    def _apply_ring(self, ring: Ring, newest: int) -> None:
        pending: dict[int, list[Entry]] = {}
        for record in ring.records():
            self._gather(Cursor(record, "space ring"), newest, pending)
        for number, entries in pending.items():
            through = self._regions.setdefault(number, Region()).through
            for entry in entries:
                if entry.generation > through:
                    self._apply(entry)

    def _gather(self, cursor: Cursor, newest: int, pending: dict[int, list[Entry]]) -> None:
        """Adds a record's entries to those of their regions."""
        generation = cursor.u64()
        if generation > newest:
            cursor.fail("a record newer than the superblock")
        if cursor.one_of((1, 2), "group") == 1:
            for _ in range(cursor.u32()):
                entry = Entry.decode(cursor, generation)
                number = (entry.address - self._start) // REGION_BLOCKS
                pending.setdefault(number, []).append(entry)
        else:
            number, through = cursor.u32(), cursor.u64()
            carried = [Entry.decode(cursor, cursor.u64()) for _ in range(cursor.u32())]
            later = [e for e in pending.get(number, ()) if e.generation > through]
            pending[number] = carried + later
        cursor.end()

    def _apply(self, entry: Entry) -> None:
        region, at = self._region_of(entry.address, entry.blocks)
        expected, owner = (entry.segment, 0) if entry.free else (0, entry.segment)
        for number in range(at, at + entry.blocks):
            if region.owners[number] != expected:
                raise Damaged(
                    f"space ring: block {entry.address + number - at} belongs to segment "
                    f"{region.owners[number]}, not {expected}"
                )
            region.owners[number] = owner
            region.crcs[number] = entry.crcs[number - at] if entry.crcs else 0

    def claim(self, address: int, crcs: tuple[int, ...], segment: int) -> None:
        """Allocates blocks that a log's record claims."""
        self._apply(Entry(0, False, segment, address, len(crcs), crcs))

    def owner(self, address: int) -> int:
        """The segment to which a block is allocated."""
        region, at = self._region_of(address, 1)
        return region.owners[at]

    def allocated(self) -> Iterator[tuple[int, int]]:
        """Address and segment of every allocated block."""
        for number, region in sorted(self._regions.items()):
            first = self._start + number * REGION_BLOCKS
            for at, owner in enumerate(region.owners):
                if owner:
                    yield first + at, owner

    def check_crc(self, address: int, what: str) -> None:
        """Refuses an allocated block whose CRC is not the one it was allocated with."""
        region, at = self._region_of(address, 1)
        if region.crcs[at] not in (0, crc32c(self._device.blocks(address, 1))):
            raise Damaged(f"{what}: block {address} is damaged, its CRC differs")


class Ring:
    """The records of the ring, each bound to the one before it."""

    def __init__(self, device: Device, superblock: Superblock, payload: Payload) -> None:
        self._device = device
        self._superblock = superblock
        self._payload = payload

    def records(self) -> Iterator[bytes]:
        """The plaintext of the records that count, from tail to head."""
        payload = self._payload
        position, before = payload.ring_tail, payload.ring_before_tail
        if not position <= payload.ring_head <= position + self._superblock.ring_blocks:
            raise Damaged("space ring: its head is not within a ring of its tail")
        while position < payload.ring_head:
            plain, blocks, before = self._record(position, before, payload.ring_head)
            position += blocks
            yield plain
        if before != payload.ring_last:
            raise Damaged("space ring: its last record is not the one the superblock names")

    def refuse_newer(self) -> None:
        """Refuses a superblock that is older than two checkpoints whose records follow the head."""
        position, before = self._payload.ring_head, self._payload.ring_last
        end = self._payload.ring_tail + self._superblock.ring_blocks
        generations = set()
        while position < end:
            try:
                plain, blocks, before = self._record(position, before, end)
            except (Damaged, WrongKey):
                break
            position += blocks
            generations.add(Cursor(plain, "space ring").u64())
        if len(generations) > 1:
            raise Damaged(
                "the superblock is older than the space ring, which has records of generations "
                f"{sorted(generations)}"
            )

    def _read(self, position: int, count: int) -> bytes:
        first, ring = 4 * MIB // BLOCK, self._superblock.ring_blocks
        places = (first + (position + number) % ring for number in range(count))
        return b"".join(self._device.blocks(place, 1) for place in places)

    def _record(self, position: int, before: bytes, end: int) -> tuple[bytes, int, bytes]:
        """The plaintext of a record, its blocks, and the id of its seal."""
        what = f"space ring, record at {position}"
        frame = Cursor(self._read(position, 1), what)
        magic, length = frame.take(4), frame.u32()
        blocks = padded(16 + length) // BLOCK
        if magic != b"SRRG" or position + blocks > end:
            frame.fail("is no record, or reaches beyond the end")
        record = Cursor(self._read(position, blocks), what)
        record.take(8)
        record.zeros(8)
        sealed = record.take(length)
        record.zeros(record.left())
        ad = self._superblock.pool_id + u64(position) + before
        plain = open_seal(self._payload.ring_key, "ring", ad, sealed, what)
        return plain, blocks, seal_id(sealed)
