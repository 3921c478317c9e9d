"""Pointers, nodes, and the items of a tree in the order of their keys."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from codec import BLOCK, Cursor
from crypto import open_block
from device import Device
from errors import Damaged

POINTER_BYTES = 80
_HEADER = struct.Struct("<2sBBI")
_SLOT = struct.Struct("<H")
_KEY = struct.Struct(">QBQ")
_SLOT_BYTES = _KEY.size + _SLOT.size


class Key(NamedTuple):
    """Names an item; keys order as tuples."""

    object: int
    kind: int
    offset: int


FIRST = Key(0, 0, 0)
BEYOND = Key(1 << 64, 0, 0)


@dataclass(frozen=True)
class Pointer:
    """The way to a node: where it stands, once or twice, its key and its tag."""

    address: int
    second: int
    blocks: int
    birth: int
    key: bytes
    tag: bytes

    @classmethod
    def decode(cls, cursor: Cursor, node_bytes: int) -> Pointer:
        """The 80 bytes of a pointer to a node of this pool."""
        address, second, blocks = cursor.u64(), cursor.u64(), cursor.u32()
        cursor.zeros(4)
        pointer = cls(address, second, blocks, cursor.u64(), cursor.take(32), cursor.take(16))
        if address == 0 or blocks * BLOCK != node_bytes:
            cursor.fail("a pointer to no node")
        return pointer

    @classmethod
    def decode_root(cls, cursor: Cursor, node_bytes: int) -> Pointer | None:
        """`present u32` and a pointer: the root of a tree, or of an empty one."""
        present = cursor.u32()
        if present > 1:
            cursor.fail("a root neither present nor absent")
        if present:
            return cls.decode(cursor, node_bytes)
        cursor.zeros(POINTER_BYTES)
        return None

    @property
    def copies(self) -> tuple[int, ...]:
        """The addresses of its copies."""
        return (self.address, self.second) if self.second else (self.address,)


@dataclass(frozen=True)
class Node:
    """A decoded node."""

    level: int
    keys: tuple[Key, ...]
    values: tuple[bytes, ...]

    @classmethod
    def decode(cls, data: bytes, what: str) -> Node:
        """A node of exactly these bytes."""
        size = len(data)
        magic, level, flags, count = _HEADER.unpack_from(data)
        slots_end = _HEADER.size + count * _SLOT_BYTES
        if magic != b"SN" or level > 15 or flags or not count or slots_end > size:
            raise Damaged(f"{what}: is no node")
        keys, values, end = [], [], 0
        for at in range(_HEADER.size, slots_end, _SLOT_BYTES):
            keys.append(Key(*_KEY.unpack_from(data, at)))
            (next_end,) = _SLOT.unpack_from(data, at + _KEY.size)
            if not end <= next_end <= size - slots_end:
                raise Damaged(f"{what}: a value stands outside the node")
            values.append(data[size - next_end : size - end])
            end = next_end
        if any(data[slots_end : size - end]):
            raise Damaged(f"{what}: bytes between slots and values are not zero")
        if any(left >= right for left, right in pairwise(keys)):
            raise Damaged(f"{what}: its keys are not in order")
        if level == 0 and any(len(value) > size // 4 for value in values):
            raise Damaged(f"{what}: a value longer than a quarter of the node")
        return cls(level, tuple(keys), tuple(values))


def read_node(device: Device, pointer: Pointer, what: str) -> Node:
    """The node, out of the first of its copies that is good."""
    problems = []
    for address in pointer.copies:
        here = f"{what}, node at block {address}"
        ciphertext = device.blocks(address, pointer.blocks)
        try:
            return Node.decode(open_block(pointer.key, pointer.tag, "node", ciphertext, here), here)
        except Damaged as error:
            problems.append(str(error))
    raise Damaged("; ".join(problems))


class Tree:
    """A tree under a root pointer, or an empty one; it checks every node that it reads.

    `visit` is called with each node's pointer and level as it is first met.
    """

    def __init__(
        self,
        device: Device,
        root: Pointer | None,
        node_bytes: int,
        what: str,
        visit: Callable[[Pointer, int], None] | None = None,
    ) -> None:
        self._device = device
        self._root = root
        self._node_bytes = node_bytes
        self._visit = visit
        self._nodes: dict[Pointer, Node] = {}
        self.what = what

    def items(self, low: Key = FIRST, high: Key = BEYOND) -> Iterator[tuple[Key, bytes]]:
        """The items from `low` on and below `high`."""
        if self._root is not None:
            yield from self._below(self._root, None, (FIRST, BEYOND), low, high)

    def _node(self, pointer: Pointer) -> Node:
        node = self._nodes.get(pointer)
        if node is None:
            node = self._nodes[pointer] = read_node(self._device, pointer, self.what)
            if self._visit is not None:
                self._visit(pointer, node.level)
        return node

    def _below(
        self, pointer: Pointer, level: int | None, bounds: tuple[Key, Key], low: Key, high: Key
    ) -> Iterator[tuple[Key, bytes]]:
        node = self._node(pointer)
        here = f"{self.what}, node at block {pointer.address}"
        if level is not None and node.level != level:
            raise Damaged(f"{here}: is of level {node.level}, not {level}")
        # The first key of an inner node bounds nothing: its first child goes down to the bound.
        firm = node.keys[1:] if node.level else node.keys
        if node.keys[-1] >= bounds[1] or (firm and firm[0] < bounds[0]):
            raise Damaged(f"{here}: holds keys outside its bounds")
        if node.level == 0:
            for key, value in zip(node.keys, node.values, strict=True):
                if low <= key < high:
                    yield key, value
            return
        starts = (bounds[0], *node.keys[1:])
        ends = (*node.keys[1:], bounds[1])
        for start, end, value in zip(starts, ends, node.values, strict=True):
            if start < high and low < end:
                cursor = Cursor(value, here)
                child = Pointer.decode(cursor, self._node_bytes)
                cursor.end()
                yield from self._below(child, node.level - 1, (start, end), low, high)
