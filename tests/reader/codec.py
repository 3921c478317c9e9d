"""Fields out of bytes: little-endian, canonical, nothing left over ("Conventions")."""

from __future__ import annotations

from collections.abc import Collection
from typing import NoReturn

from errors import Damaged, Unsupported

BLOCK = 4096


class Cursor:
    """Takes one field after another; what is missing, left over or not canonical is damage."""

    def __init__(self, data: bytes, what: str) -> None:
        self.data = data
        self.what = what
        self.at = 0

    def fail(self, why: str) -> NoReturn:
        """Refuses the bytes."""
        raise Damaged(f"{self.what}: {why}")

    def take(self, length: int) -> bytes:
        """The next bytes."""
        field = self.data[self.at : self.at + length]
        if len(field) != length:
            self.fail(f"ends {length - len(field)} bytes short")
        self.at += length
        return field

    def _integer(self, length: int, signed: bool = False) -> int:
        return int.from_bytes(self.take(length), "little", signed=signed)

    def u8(self) -> int:
        """An unsigned byte."""
        return self._integer(1)

    def u16(self) -> int:
        """Two bytes, unsigned."""
        return self._integer(2)

    def u32(self) -> int:
        """Four bytes, unsigned."""
        return self._integer(4)

    def u64(self) -> int:
        """Eight bytes, unsigned."""
        return self._integer(8)

    def i64(self) -> int:
        """Eight bytes, signed."""
        return self._integer(8, signed=True)

    def one_of(self, values: Collection[int], what: str) -> int:
        """A byte that can only be one of these."""
        value = self.u8()
        if value not in values:
            self.fail(f"{what} {value} is not known")
        return value

    def flags(self, length: int, known: int) -> int:
        """Flags of that many bytes, of which only the known ones may be set."""
        value = self._integer(length)
        if value & ~known:
            self.fail(f"unknown flags {value:#x}")
        return value

    def sized(self) -> bytes:
        """A length u32, then that many bytes."""
        return self.take(self.u32())

    def text(self) -> str:
        """Sized UTF-8."""
        try:
            return self.sized().decode()
        except UnicodeDecodeError as error:
            raise Damaged(f"{self.what}: text that is not UTF-8") from error

    def zeros(self, length: int) -> None:
        """Bytes that are zero."""
        if any(self.take(length)):
            self.fail("a reserved field or padding is not zero")

    def left(self) -> int:
        """How many bytes are still there."""
        return len(self.data) - self.at

    def rest(self) -> bytes:
        """All bytes that are still there."""
        return self.take(self.left())

    def extensions(self, known: Collection[int] = ()) -> dict[int, bytes]:
        """Extension fields to the end; unknown ones without the highest bit are refused."""
        found: dict[int, bytes] = {}
        while self.left():
            tag, body = self.u16(), self.sized()
            if tag in found:
                self.fail(f"extension field {tag:#x} stands there twice")
            if tag in known:
                found[tag] = body
            elif not tag & 0x8000:
                raise Unsupported(f"{self.what}: extension field {tag:#x} is not known")
        return found

    def end(self) -> None:
        """Nothing may follow."""
        if self.left():
            self.fail(f"{self.left()} bytes too many")


def padded(length: int) -> int:
    """The next multiple of a block."""
    return -(-length // BLOCK) * BLOCK


def u32(value: int) -> bytes:
    """Four bytes."""
    return value.to_bytes(4, "little")


def u64(value: int) -> bytes:
    """Eight bytes."""
    return value.to_bytes(8, "little")


def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_CRC_TABLE = _crc_table()


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli)."""
    table, crc = _CRC_TABLE, 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def block_crcs(data: bytes) -> list[int]:
    """The CRC of each block."""
    return [crc32c(data[at : at + BLOCK]) for at in range(0, len(data), BLOCK)]
