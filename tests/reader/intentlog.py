"""The intent log of a cluster: which records count, what they claim, and what they change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from codec import BLOCK, Cursor, block_crcs, padded, u64
from crypto import derive, open_seal, seal_id, sha256
from device import Device
from errors import Damaged, WrongKey
from superblock import Payload, Superblock
from tree import Key

MAGIC = b"SRLOGREC"
FRAME_BYTES = 64
_DAMAGED = 2


@dataclass(frozen=True)
class Interval:
    """Where the records of an interval between two checkpoints stand, and what opens them."""

    incarnation: int
    generation: int
    half: int
    outer_key: bytes


@dataclass(frozen=True)
class LogItem:
    """What the catalog says of a cluster's log."""

    address: int
    blocks: int
    segment: int
    sealed_seed: bytes
    start: Interval
    records: int | None

    @property
    def outstanding(self) -> bool:
        """Whether a crash left it, and an opening decided since how many of its records count."""
        return self.records is not None

    @classmethod
    def decode(cls, value: bytes, superblock: Superblock, payload: Payload, what: str) -> LogItem:
        """A log item, behind its cluster's id."""
        cursor = Cursor(value, what)
        address, blocks = cursor.u64(), cursor.u32()
        half, outstanding = cursor.one_of((0, 1), "half"), cursor.one_of((0, 1, 2), "outstanding")
        cursor.zeros(2)
        segment, seed = cursor.u32(), cursor.sized()
        records = None
        start = Interval(
            superblock.incarnation, superblock.generation + 1, half, payload.outer_log_key
        )
        if outstanding:
            outer_key, incarnation, generation = cursor.take(32), cursor.u64(), cursor.u64()
            start = Interval(incarnation, generation, cursor.one_of((0, 1), "half"), outer_key)
            records = cursor.u64()
            cursor.u64()  # blocks that a replay may need
        cursor.end()
        if blocks % 2:
            cursor.fail("an area of two unequal halves")
        if outstanding == _DAMAGED:
            cursor.fail("records that had been flushed are missing")
        return cls(address, blocks, segment, seed, start, records)


@dataclass(frozen=True)
class Claim:
    """Blocks that a record takes, and the CRCs of what is written to them."""

    address: int
    crcs: tuple[int, ...]


@dataclass(frozen=True)
class Record:
    """A record whose frame, outer part and inner hash are those of its place."""

    sequence: int
    blocks: int
    ad: bytes
    outer_id: bytes
    outer_key: bytes
    flushed_mark: int
    claims: tuple[Claim, ...]
    images: dict[int, bytes]
    switch: Interval | None
    sealed_edits: bytes

    def claims_stand(self, device: Device) -> bool:
        """Whether the blocks it claims have the CRCs it states."""
        for claim in self.claims:
            count = len(claim.crcs)
            data = device.read(claim.address * BLOCK, count * BLOCK)
            for number, crc in enumerate(block_crcs(data)):
                image = self.images.get(claim.address + number)
                if (block_crcs(image)[0] if image else crc) != claim.crcs[number]:
                    return False
        return True

    def edits(self, seed: bytes, cluster_id: bytes) -> Iterator[tuple[Key, bytes | None]]:
        """The items it changes, with their new values; none: the item is gone."""
        if not self.sealed_edits:
            return
        key = derive(seed, self.outer_key, "log-inner", cluster_id)
        what = f"intent log, edits of record {self.sequence}"
        ad = self.ad + self.outer_id
        cursor = Cursor(open_seal(key, "log-inner", ad, self.sealed_edits, what), what)
        while cursor.left():
            item = Key(cursor.u64(), cursor.u8(), cursor.u64())
            yield item, cursor.sized() if cursor.one_of((0, 1), "edit") else None


class Log:
    """The log of one cluster, read with the engine layer alone."""

    def __init__(
        self, device: Device, pool_id: bytes, cluster_id: bytes, item: LogItem, what: str
    ) -> None:
        self._device = device
        self._pool_id = pool_id
        self._cluster_id = cluster_id
        self._item = item
        self._what = what

    def counting(self) -> list[Record]:
        """The records that count, in order."""
        first = self._chain(self._item.start)
        switch = first[-1].switch if first else None
        second = self._chain(switch) if switch else []
        if self._item.records is not None:
            counting = (first + second)[: self._item.records]
            if len(counting) < self._item.records:
                raise Damaged(f"{self._what}: records that had been counted are missing")
            return counting
        if not any(record.flushed_mark for record in second):
            counted = self._count(self._item.start, first)
            if len(counted) < len(first):
                return counted
        return first + (self._count(switch, second) if switch else [])

    def _count(self, interval: Interval, chain: list[Record]) -> list[Record]:
        """Those of an interval that count."""
        mark = max((record.flushed_mark for record in chain), default=0)
        counted = []
        for record in chain:
            if record.sequence >= mark and not record.claims_stand(self._device):
                break
            counted.append(record)
        for record in self._strays(interval, sum(record.blocks for record in chain)):
            if record.flushed_mark > len(counted):
                raise Damaged(
                    f"{self._what}: record {record.sequence} says that "
                    f"{record.flushed_mark} were flushed, and {len(counted)} are there"
                )
        return counted

    def _half(self, interval: Interval) -> tuple[int, int]:
        """First block and blocks of the half in which an interval's records stand."""
        blocks = self._item.blocks // 2
        return self._item.address + interval.half * blocks, blocks

    def _chain(self, interval: Interval) -> list[Record]:
        """The unbroken records from the start of an interval."""
        records: list[Record] = []
        at, before = 0, bytes(32)
        while record := self._record(interval, at, (len(records), before)):
            records.append(record)
            at, before = at + record.blocks, record.outer_id
            if record.switch:
                break
        return records

    def _strays(self, interval: Interval, at: int) -> Iterator[Record]:
        """Records of an interval that stand behind the end of its chain."""
        while at < self._half(interval)[1]:
            record = self._record(interval, at, None)
            if record:
                yield record
            at += record.blocks if record else 1

    def _record(
        self, interval: Interval, at: int, place: tuple[int, bytes] | None
    ) -> Record | None:
        """The record at a block of the half, if it is one of this interval and place."""
        first, blocks = self._half(interval)
        if at >= blocks:
            return None
        what = f"{self._what}, record at block {first + at}"
        frame = Cursor(self._device.blocks(first + at, 1)[:FRAME_BYTES], what)
        magic, outer_length, inner_length = frame.take(8), frame.u32(), frame.u32()
        sequence = frame.u64()
        reserved, before = frame.u64(), frame.take(32)
        count = padded(FRAME_BYTES + outer_length + inner_length) // BLOCK
        if magic != MAGIC or reserved or at + count > blocks:
            return None
        if place not in (None, (sequence, before)):
            return None
        body = Cursor(self._device.blocks(first + at, count)[FRAME_BYTES:], what)
        sealed, edits = body.take(outer_length), body.take(inner_length)
        ad = (
            self._pool_id
            + u64(interval.incarnation)
            + u64(interval.generation)
            + self._cluster_id
            + u64(sequence)
            + before
        )
        try:
            plain = open_seal(interval.outer_key, "log-outer", ad, sealed, what)
        except (WrongKey, Damaged):
            return None
        outer = Cursor(plain, what)
        mark = outer.u64()
        outer.u64()  # the generation that was durable
        outer.u64()  # blocks that a replay may need
        if outer.take(32) != sha256(edits):
            return None
        body.zeros(body.left())
        claims = tuple(_decode_claim(outer) for _ in range(outer.u32()))
        for _ in range(outer.u32()):
            outer.take(20)  # a kill: what its edits let go, for the accounts of space
        images: dict[int, bytes] = {}
        for _ in range(outer.u32()):
            images.update(_decode_image(outer))
        switch = _decode_switch(outer, interval)
        outer.end()
        return Record(
            sequence=sequence,
            blocks=count,
            ad=ad,
            outer_id=seal_id(sealed),
            outer_key=interval.outer_key,
            flushed_mark=mark,
            claims=claims,
            images=images,
            switch=switch,
            sealed_edits=edits,
        )


def _decode_claim(cursor: Cursor) -> Claim:
    address, blocks = cursor.u64(), cursor.u32()
    return Claim(address, tuple(cursor.u32() for _ in range(blocks)))


def _decode_image(cursor: Cursor) -> dict[int, bytes]:
    address, blocks = cursor.u64(), cursor.u32()
    return {address + number: cursor.take(BLOCK) for number in range(blocks)}


def _decode_switch(cursor: Cursor, before: Interval) -> Interval | None:
    if not cursor.one_of((0, 1), "switch"):
        return None
    generation, half = cursor.u64(), cursor.one_of((0, 1), "half")
    if generation <= before.generation or half == before.half:
        cursor.fail("a switch that leads nowhere")
    return Interval(before.incarnation, generation, half, cursor.take(32))
