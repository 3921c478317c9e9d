"""The catalog: clusters and snapshots with their headers, segments, lines, logs, regions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from codec import Cursor
from config import Keyring
from crypto import cluster_key, open_seal
from errors import Damaged, Refused, Unsupported, WrongKey
from space import RegionItem
from tree import Key, Pointer, Tree

REGION, LOG = 0x01, 0x02
COUNTERS, CLUSTER, SNAPSHOT, SEGMENT, LINE, CELL, CELL_RUN, TOMBSTONES = range(0x20, 0x28)
CHUNK_BYTES = 2000
RECORD_BYTES = 512 * 1024
LOCAL = "local://"
SNAPSHOT_TYPES = {1: "on demand", 2: "scheduled", 3: "safety"}
FREQUENCIES = {0: None, 1: "hour", 2: "day", 3: "week", 4: "month", 5: "year"}
_STAGED, _ORIGIN = 2, 1


@dataclass(frozen=True)
class KeyWrap:
    """W under a version of a customer key."""

    key_id: str
    resolved: str
    version: int
    fingerprint: bytes
    wrapped: bytes

    @classmethod
    def decode(cls, raw: bytes, what: str) -> KeyWrap:
        """One wrap of a header."""
        cursor = Cursor(raw, what)
        wrap = cls(cursor.text(), cursor.text(), cursor.u32(), cursor.take(16), cursor.sized())
        cursor.extensions()
        return wrap


@dataclass(frozen=True)
class Header:
    """What opening a cluster or snapshot needs, but for the customer's key."""

    root_generation: int
    referenced_blocks: int
    sealed_root: bytes
    ck_id: int
    salt: bytes
    wraps: tuple[KeyWrap, ...]
    plain: bytes | None

    @classmethod
    def decode(cls, raw: bytes, what: str) -> Header:
        """A header."""
        cursor = Cursor(raw, f"{what}, its header")
        if (version := cursor.u16()) != 1:
            raise Unsupported(f"{cursor.what}: version {version} is not known")
        has_root = cursor.flags(2, 1)
        generation, referenced = cursor.u64(), cursor.u64()
        sealed_root, ck_id, salt = cursor.sized(), cursor.u32(), cursor.take(32)
        count, plain = cursor.u8(), cursor.one_of((0, 1), "plain")
        cursor.zeros(2)
        secret = cursor.take(32) if plain else None
        wraps = tuple(KeyWrap.decode(cursor.sized(), cursor.what) for _ in range(count))
        cursor.extensions()
        if bool(has_root) != bool(sealed_root):
            cursor.fail("its flag and its sealed root do not agree")
        if bool(wraps) == bool(plain) or count > 8:
            cursor.fail("neither wraps nor a plain secret, or both, or too many")
        return cls(generation, referenced, sealed_root, ck_id, salt, wraps, secret)

    def secret(self, keyring: Callable[[], Keyring], pool_id: bytes, cluster_id: bytes) -> bytes:
        """W: plain, or by the first wrap whose key may be used and opens it."""
        if self.plain is not None:
            return self.plain
        problems = []
        for wrap in self.wraps:
            if not wrap.key_id.startswith(LOCAL):
                problems.append(f"{wrap.key_id}: only keys of the keyring are read")
                continue
            try:
                key = keyring().find(wrap.key_id.removeprefix(LOCAL), wrap.fingerprint)
                return key.unwrap(wrap.version, wrap.wrapped, pool_id, cluster_id, self.ck_id)
            except (Refused, WrongKey, Damaged) as error:
                problems.append(str(error))
        raise Refused("; ".join(problems))


@dataclass(frozen=True)
class Root:
    """An opened sealed root."""

    pointer: Pointer | None
    name_hash_key: bytes


@dataclass(frozen=True)
class Holder:
    """What has a tree: a cluster's head, or a snapshot."""

    cluster_id: bytes
    lineage_id: bytes
    cluster_name: str
    created: int
    inode_floor: int
    header: Header

    @property
    def title(self) -> str:
        """How it is called."""
        return f"cluster {self.cluster_name}"

    def key(self, keyring: Callable[[], Keyring], pool_id: bytes) -> bytes:
        """CK, which its root is sealed under."""
        try:
            secret = self.header.secret(keyring, pool_id, self.cluster_id)
        except (Refused, WrongKey) as error:
            raise Refused(f"{self.title}: {error}") from error
        return cluster_key(secret, self.header.salt, pool_id, self.cluster_id, self.header.ck_id)

    def root(self, key: bytes, pool_id: bytes, node_bytes: int) -> Root | None:
        """The sealed root under CK; none where nothing was ever written."""
        header = self.header
        if not header.sealed_root:
            return None
        what = f"{self.title}, its sealed root"
        ad = (
            pool_id
            + self.cluster_id
            + header.ck_id.to_bytes(4, "little")
            + header.root_generation.to_bytes(8, "little")
        )
        cursor = Cursor(open_seal(key, "root", ad, header.sealed_root, what), what)
        root = Root(Pointer.decode_root(cursor, node_bytes), cursor.take(32))
        cursor.end()
        return root


@dataclass(frozen=True)
class Cluster(Holder):
    """A cluster's record."""

    origin: int | None

    @classmethod
    def decode(cls, raw: bytes) -> Cluster:
        """The record, once its chunks are together."""
        cursor = Cursor(raw, "cluster record")
        if (version := cursor.u16()) != 1:
            raise Unsupported(f"cluster record: version {version} is not known")
        cursor.zeros(2)
        cluster_id, lineage, created = cursor.take(16), cursor.take(16), cursor.i64()
        floor, name = cursor.u64(), cursor.text()
        header = Header.decode(cursor.sized(), f"cluster {name}")
        extensions = cursor.extensions((_ORIGIN, _STAGED))
        origin = extensions.get(_ORIGIN)
        return cls(
            cluster_id=cluster_id,
            lineage_id=lineage,
            cluster_name=name,
            created=created,
            inode_floor=floor,
            header=header,
            origin=None if origin is None else _decode_origin(origin),
        )


def _decode_origin(raw: bytes) -> int:
    cursor = Cursor(raw, "origin of a cluster")
    snapshot_id = cursor.u64()
    cursor.take(16)
    cursor.text()
    cursor.end()
    return snapshot_id


@dataclass(frozen=True)
class Snapshot(Holder):
    """A snapshot's record."""

    snapshot_id: int
    held: bool
    expires: int | None
    segment: int
    snapshot_type: str
    frequency: str | None
    generation: int
    description: str

    @property
    def name(self) -> str:
        """The id as a user sees it."""
        return f"snap-{self.snapshot_id:016x}"

    @property
    def title(self) -> str:
        """How it is called."""
        return f"snapshot {self.name} of cluster {self.cluster_name}"

    @classmethod
    def decode(cls, raw: bytes) -> Snapshot:
        """The record, once its chunks are together."""
        cursor = Cursor(raw, "snapshot record")
        if (version := cursor.u16()) != 1:
            raise Unsupported(f"snapshot record: version {version} is not known")
        flags, snapshot_id = cursor.flags(2, 3), cursor.u64()
        cluster_id, lineage, segment = cursor.take(16), cursor.take(16), cursor.u32()
        snapshot_type = SNAPSHOT_TYPES[cursor.one_of(SNAPSHOT_TYPES, "type")]
        frequency = FREQUENCIES[cursor.one_of(FREQUENCIES, "frequency")]
        cursor.zeros(2)
        generation, created, expires = cursor.u64(), cursor.i64(), cursor.i64()
        floor, name, description = cursor.u64(), cursor.text(), cursor.text()
        header = Header.decode(cursor.sized(), f"snapshot snap-{snapshot_id:016x}")
        cursor.extensions((_STAGED,))
        if bool(flags & 2) != bool(expires):
            cursor.fail("its flags and its time of expiry do not agree")
        return cls(
            cluster_id=cluster_id,
            lineage_id=lineage,
            cluster_name=name,
            created=created,
            inode_floor=floor,
            header=header,
            snapshot_id=snapshot_id,
            held=bool(flags & 1),
            expires=expires or None,
            segment=segment,
            snapshot_type=snapshot_type,
            frequency=frequency,
            generation=generation,
            description=description,
        )


@dataclass(frozen=True)
class Segment:
    """A stretch of one line of history, between two cuts."""

    closed: bool
    uncounted: bool
    line: int
    opened_at: int
    closed_at: int
    allocated: int

    @classmethod
    def decode(cls, value: bytes, what: str) -> Segment:
        """A segment item."""
        cursor = Cursor(value, what)
        flags = cursor.flags(1, 31)
        segment = cls(
            closed=bool(flags & 1),
            uncounted=bool(flags & 16),
            line=cursor.u32(),
            opened_at=cursor.u64(),
            closed_at=cursor.u64(),
            allocated=cursor.u64(),
        )
        cursor.end()
        if not segment.closed and segment.closed_at:
            cursor.fail("open, and closed at a time")
        return segment

    def spans(self, birth: int) -> bool:
        """Whether a block of that birth can have been born in it."""
        return self.opened_at < birth and (not self.closed or birth <= self.closed_at)


@dataclass(frozen=True)
class Line:
    """A line of history."""

    has_head: bool
    cluster_id: bytes
    origin: int

    @classmethod
    def decode(cls, value: bytes, what: str) -> Line:
        """A line item."""
        cursor = Cursor(value, what)
        line = cls(bool(cursor.flags(1, 1)), cursor.take(16), cursor.u32())
        cursor.end()
        return line


class Catalog:
    """All items of the catalog, decoded."""

    def __init__(self, tree: Tree) -> None:
        self.regions: dict[int, RegionItem] = {}
        self.logs: dict[bytes, bytes] = {}
        self.segments: dict[int, Segment] = {}
        self.lines: dict[int, Line] = {}
        self._chunks: dict[tuple[int, int], list[bytes]] = {}
        for key, value in tree.items():
            self._add(key, value)
        records = [(kind, _join(chunks)) for (kind, _), chunks in sorted(self._chunks.items())]
        self.clusters = [Cluster.decode(raw) for kind, raw in records if kind == CLUSTER]
        self.snapshots = [Snapshot.decode(raw) for kind, raw in records if kind == SNAPSHOT]

    def _add(self, key: Key, value: bytes) -> None:
        what = f"catalog item {key.object:#x}/{key.kind:#x}/{key.offset:#x}"
        top, low = key.object >> 56, key.object & (1 << 56) - 1
        if key.kind not in (REGION, LOG, CELL_RUN) and top != key.kind:
            raise Damaged(f"{what}: its object is not of its kind")
        if key.kind == REGION:
            self.regions[key.offset] = RegionItem.decode(value, what)
        elif key.kind == LOG:
            self.logs[value[:16]] = value[16:]
            if value[:8] != key.offset.to_bytes(8, "little"):
                raise Damaged(f"{what}: its cluster is not the one of its key")
        elif key.kind in (CLUSTER, SNAPSHOT):
            chunks = self._chunks.setdefault((key.kind, key.offset), [])
            if low != len(chunks):
                raise Damaged(f"{what}: a chunk is missing before it")
            chunks.append(value)
        elif key.kind == SEGMENT:
            self.segments[key.offset] = Segment.decode(value, what)
        elif key.kind == LINE:
            self.lines[key.offset] = Line.decode(value, what)
        else:
            _check_other(key, value, what)

    def history(self, segment: int) -> frozenset[int]:
        """The segments in which what stands at the end of this one can have been born."""
        found: set[int] = set()
        while segment:
            if segment not in self.segments or segment in found:
                raise Damaged(f"segment {segment}: missing, or its own ancestor")
            own = self.segments[segment]
            found.update(
                number
                for number, other in self.segments.items()
                if other.line == own.line and (other.opened_at, number) <= (own.opened_at, segment)
            )
            if own.line not in self.lines:
                raise Damaged(f"segment {segment}: its line {own.line} is missing")
            segment = self.lines[own.line].origin
        return frozenset(found)

    def segment_of(self, holder: Holder) -> int:
        """The segment at whose end a snapshot stands, or in which a head is written on."""
        if isinstance(holder, Snapshot):
            return holder.segment
        cluster_id = holder.cluster_id
        heads = [
            number
            for number, segment in self.segments.items()
            if not segment.closed
            and segment.line in self.lines
            and self.lines[segment.line].has_head
            and self.lines[segment.line].cluster_id == cluster_id
        ]
        if len(heads) != 1:
            raise Damaged(f"cluster {cluster_id.hex()}: {len(heads)} open segments of its head")
        return heads[0]

    def holder(self, name: str) -> Cluster | Snapshot:
        """The snapshot of this id, or the cluster of this name."""
        found: Iterable[Cluster | Snapshot] = (
            *(snapshot for snapshot in self.snapshots if snapshot.name == name),
            *(cluster for cluster in self.clusters if cluster.cluster_name == name),
        )
        for holder in found:
            return holder
        raise Refused(f"the pool has no snapshot or cluster {name}")


def _join(chunks: list[bytes]) -> bytes:
    cursor = Cursor(chunks[0], "record in chunks")
    length = cursor.u32()
    parts = [cursor.rest(), *chunks[1:]]
    raw = b"".join(parts)
    full = all(len(part) == CHUNK_BYTES for part in parts[:-1]) and len(parts[-1]) <= CHUNK_BYTES
    if len(raw) != length or not full or length > RECORD_BYTES:
        cursor.fail(f"its chunks make {len(raw)} bytes of {length}")
    return raw


def _check_other(key: Key, value: bytes, what: str) -> None:
    """Items that reading files does not need: only their form."""
    cursor = Cursor(value, what)
    if key.kind == COUNTERS:
        if (version := cursor.u16()) != 1:
            raise Unsupported(f"{what}: version {version} is not known")
        cursor.take(12)
    elif key.kind == CELL:
        if not cursor.u64():
            cursor.fail("an empty cell")
    elif key.kind == CELL_RUN:
        if not cursor.u32():
            cursor.fail("an empty run")
    elif key.kind == TOMBSTONES:
        while cursor.left():
            cursor.take(16)
            cursor.i64()
    else:
        raise Unsupported(f"{what}: its kind is not known")
    cursor.end()
