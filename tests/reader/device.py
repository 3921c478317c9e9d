"""The image or block device of a pool, read and never written."""

from __future__ import annotations

import os
from pathlib import Path

from codec import BLOCK
from errors import Damaged, Refused


class Device:
    """Reads whole ranges; with blocks laid over it that replace what stands on the medium."""

    def __init__(self, pool: Path) -> None:
        self.path = pool / "pool.img" if pool.is_dir() else pool
        self.overlay: dict[int, bytes] = {}
        try:
            self._file = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise Refused(f"{self.path}: {error.strerror}") from error

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the medium."""
        data = os.pread(self._file, length, offset)
        if len(data) != length:
            raise Damaged(f"{self.path}: ends before byte {offset + length}")
        return data

    def blocks(self, address: int, count: int) -> bytes:
        """Blocks as they count: those laid over the medium, and the medium's for the rest."""
        data = self.read(address * BLOCK, count * BLOCK)
        laid = [number for number in range(count) if address + number in self.overlay]
        if not laid:
            return data
        patched = bytearray(data)
        for number in laid:
            patched[number * BLOCK : (number + 1) * BLOCK] = self.overlay[address + number]
        return bytes(patched)
