"""The superblock: four copies, the wraps of the engine key, the state that counts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from codec import BLOCK, Cursor, crc32c, u32
from config import RootSecret
from crypto import Kdf, derive, open_seal
from device import Device
from errors import Damaged, Unsupported, WrongKey
from tree import Pointer

MIB = 1 << 20
COPY_BYTES = 16384
MAGIC = b"\x89SRM\r\n\x1a\n"
NODE_BYTES = (4096, 8192, 16384, 32768)
WRAP_KINDS = {1: "file", 2: "passphrase", 3: "credential", 4: "recovery key"}


@dataclass(frozen=True)
class EngineWrap:
    """The engine key under one root secret."""

    kind: str
    name: str
    kdf: Kdf | None
    sealed: bytes

    @classmethod
    def decode(cls, cursor: Cursor) -> EngineWrap:
        """One wrap of the clear part."""
        kind = WRAP_KINDS[cursor.one_of(WRAP_KINDS, "kind of wrap")]
        with_kdf = cursor.one_of((0, 1), "derivation")
        cursor.zeros(2)
        kdf = Kdf.decode(cursor) if with_kdf else None
        name, sealed = cursor.text(), cursor.sized()
        if len(name.encode()) > 128 or len(sealed) != 112:
            cursor.fail("a wrap of a wrong length")
        return cls(kind, name, kdf, sealed)

    def open(self, secret: RootSecret, pool_id: bytes, suite: int) -> bytes | None:
        """The engine key; none where the secret is not this wrap's."""
        root = secret.bytes_for(self.kdf)
        if root is None:
            return None
        ad = pool_id + u32(suite) + (self.kdf.raw if self.kdf else bytes(48))
        try:
            kek = derive(root, pool_id, "root")
            return open_seal(kek, "engine", ad, self.sealed, f"wrap {self.name}")
        except WrongKey:
            return None


@dataclass(frozen=True)
class Payload:
    """What a superblock says to who has the engine key."""

    catalog: Pointer | None
    ring_head: int
    ring_tail: int
    ring_last: bytes
    ring_before_tail: bytes
    ring_key: bytes
    outer_log_key: bytes
    shred_pending: int
    catalog_blocks: int
    created: int

    @classmethod
    def decode(cls, plain: bytes, node_bytes: int) -> Payload:
        """The payload's fields."""
        cursor = Cursor(plain, "superblock, its payload")
        payload = cls(
            catalog=Pointer.decode_root(cursor, node_bytes),
            ring_head=cursor.u64(),
            ring_tail=cursor.u64(),
            ring_last=cursor.take(32),
            ring_before_tail=cursor.take(32),
            ring_key=cursor.take(32),
            outer_log_key=cursor.take(32),
            shred_pending=cursor.u64(),
            catalog_blocks=cursor.u64(),
            created=cursor.i64(),
        )
        cursor.extensions()
        return payload


@dataclass(frozen=True)
class Superblock:
    """The clear part of one copy."""

    pool_id: bytes
    incarnation: int
    node_bytes: int
    generation: int
    sequence: int
    total_blocks: int
    ring_blocks: int
    wraps: tuple[EngineWrap, ...]
    payload_ad: bytes
    sealed_payload: bytes
    place: str

    @property
    def regions_start(self) -> int:
        """The first block of region 0."""
        return 4 * MIB // BLOCK + self.ring_blocks

    @classmethod
    def decode(cls, raw: bytes, slot: int, copy: int) -> Superblock:
        """One copy; what may not be skipped is `Unsupported`, what may is `Damaged`."""
        place = f"superblock, slot {slot}, copy {copy}"
        cursor = Cursor(raw, place)
        if cursor.take(8) != MAGIC:
            cursor.fail("is no superblock")
        if crc32c(raw[:-4]) != int.from_bytes(raw[-4:], "little"):
            cursor.fail("its CRC differs")
        version, suite = cursor.u32(), cursor.u32()
        cursor.u64()  # features that a reader may ignore
        cursor.u64()  # features that only a writer must know
        incompatible = cursor.u64()
        if version != 1 or suite != 1 or incompatible:
            raise Unsupported(
                f"{place}: version {version}, suite {suite}, features {incompatible:#x}"
            )
        pool_id, incarnation = cursor.take(16), cursor.u64()
        if (cursor.u8(), cursor.u8()) != (slot, copy):
            cursor.fail("belongs to another place")
        cursor.zeros(2)
        node_bytes, generation, sequence = cursor.u32(), cursor.u64(), cursor.u64()
        if node_bytes not in NODE_BYTES:
            cursor.fail(f"nodes of {node_bytes} bytes")
        if any(cursor.take(16)):
            raise Unsupported(f"{place}: names an epoch key")
        total_blocks, ring_blocks, wraps = cursor.u64(), cursor.u32(), cursor.u32()
        if wraps > 8:
            cursor.fail("more than eight wraps")
        decoded = tuple(EngineWrap.decode(cursor) for _ in range(wraps))
        ad, sealed = raw[: cursor.at], cursor.sized()
        cursor.zeros(cursor.left() - 4)
        return cls(
            pool_id=pool_id,
            incarnation=incarnation,
            node_bytes=node_bytes,
            generation=generation,
            sequence=sequence,
            total_blocks=total_blocks,
            ring_blocks=ring_blocks,
            wraps=decoded,
            payload_ad=ad,
            sealed_payload=sealed,
            place=place,
        )

    def open(self, engine_key: bytes) -> Payload:
        """The payload, under the engine key."""
        slot_key = derive(engine_key, bytes(32), "slot")
        plain = open_seal(slot_key, "slot", self.payload_ad, self.sealed_payload, self.place)
        return Payload.decode(plain, self.node_bytes)


@dataclass(frozen=True)
class Copies:
    """The copies that are whole, the newest first; and what is wrong with others."""

    whole: tuple[Superblock, ...]
    problems: tuple[str, ...]


def read_copies(device: Device) -> Copies:
    """Reads the four copies. A slot that was never written is no problem."""
    whole: list[Superblock] = []
    problems: list[str] = []
    blank: list[str] = []
    for slot, copy in ((slot, copy) for slot in range(2) for copy in range(2)):
        raw = device.read((2 * copy + slot) * MIB, COPY_BYTES)
        try:
            whole.append(Superblock.decode(raw, slot, copy))
        except Damaged as error:
            (problems if any(raw) else blank).append(str(error))
    if not whole:
        raise Damaged(f"{device.path}: no superblock is whole: {'; '.join(problems + blank)}")
    if len({superblock.pool_id for superblock in whole}) > 1:
        raise Damaged(f"{device.path}: superblocks of different pools")
    whole.sort(key=lambda superblock: -superblock.sequence)
    return Copies(tuple(whole), tuple(problems + blank if len(blank) % 2 else problems))


def engine_key(superblocks: Iterable[Superblock], secret: RootSecret) -> bytes:
    """The engine key, by any wrap that the secret opens."""
    tried = set()
    for superblock in superblocks:
        for wrap in superblock.wraps:
            if wrap in tried:
                continue
            tried.add(wrap)
            key = wrap.open(secret, superblock.pool_id, 1)
            if key is not None:
                return key
    known = ", ".join(sorted({f"{wrap.kind} {wrap.name!r}" for wrap in tried}))
    raise WrongKey(f"the root secret opens no wrap of the engine key; there are: {known}")


def choose(superblocks: Iterable[Superblock], key: bytes) -> tuple[Superblock, Payload]:
    """The newest copy whose payload opens: the pool's state."""
    problems = []
    for superblock in superblocks:
        try:
            return superblock, superblock.open(key)
        except (Damaged, WrongKey) as error:
            problems.append(str(error))
    raise Damaged(f"the payload of no superblock opens: {'; '.join(problems)}")
