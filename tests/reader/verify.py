"""Checks every tag, seal and CRC of what a pool's keys reach, and the CRCs of all the rest."""

from __future__ import annotations

import stat
from collections import Counter
from dataclasses import dataclass, field

from catalog import Cluster, Segment, Snapshot
from crypto import open_block
from errors import Damaged, ReaderError, Refused
from pool import Nodes, OpenedTree, Pool
from space import POOL_SEGMENT, Space
from volume import INODE, INODE_KINDS, ORPHAN, POOL_KINDS, ROOT_INODE, Inode, Volume

Segments = dict[int, Segment | None]


@dataclass
class Report:
    """What was found."""

    verified: list[str] = field(default_factory=list)
    unopened: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    blocks: int = 0


class Verifier:
    """Verifies a pool; one problem does not hide the next."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._report = Report(problems=list(pool.copies.problems))
        self._space: Space | None = None

    def run(self) -> Report:
        """Verifies everything."""
        catalog, report = self._pool.catalog, self._report
        self._superblocks()
        try:
            self._space = self._pool.space()
            self._accounts(self._space)
        except Damaged as error:
            report.problems.append(str(error))
        self._catalog()
        holders: list[Cluster | Snapshot] = [*catalog.clusters, *catalog.snapshots]
        for holder in holders:
            before = len(report.problems)
            try:
                self._holder(holder)
            except Refused as error:
                report.unopened.append(str(error))
                continue
            except ReaderError as error:
                report.problems.append(str(error))
            if len(report.problems) == before:
                report.verified.append(holder.title)
        return report

    def _superblocks(self) -> None:
        """The payload of every copy, the newest slot's and the other's."""
        for superblock in self._pool.copies.whole:
            try:
                superblock.open(self._pool.engine_key)
            except ReaderError as error:
                self._report.problems.append(str(error))

    def _accounts(self, space: Space) -> None:
        """How many blocks each segment has, and the CRC of every block that is allocated."""
        counted = Counter(segment for _, segment in space.allocated())
        segments = self._pool.catalog.segments
        stated = Counter({number: segment.allocated for number, segment in segments.items()})
        stated.update(self._claim(space))
        for number, segment in segments.items():
            if not segment.uncounted and stated[number] != counted[number]:
                self._report.problems.append(
                    f"segment {number}: {counted[number]} blocks, not {stated[number]}"
                )
        for stray in sorted(set(counted) - {POOL_SEGMENT, *segments}):
            self._report.problems.append(f"segment {stray}: has blocks and no item")
        for address, owner in space.allocated():
            self._report.blocks += 1
            try:
                space.check_crc(address, f"segment {owner}")
            except Damaged as error:
                self._report.problems.append(str(error))

    def _claim(self, space: Space) -> Counter[int]:
        """Allocates what logs claim; how many blocks are in the maps and in no segment's count.

        The maps hold what an outstanding log claims; the segment counts it once it is replayed.
        """
        uncounted: Counter[int] = Counter()
        for log in self._pool.logs.values():
            for claim in log.claims():
                if log.item.outstanding:
                    uncounted[log.item.segment] += len(claim.crcs)
                else:
                    space.claim(claim.address, claim.crcs, log.item.segment)
        return uncounted

    def _catalog(self) -> None:
        nodes, what = self._pool.catalog_nodes, "catalog"
        try:
            blocks = self._nodes(nodes, {POOL_SEGMENT: None}, what)
        except Damaged as error:
            self._report.problems.append(str(error))
            return
        if blocks != self._pool.payload.catalog_blocks:
            self._report.problems.append(
                f"{what}: {blocks} blocks, the superblock says {self._pool.payload.catalog_blocks}"
            )

    def _nodes(self, nodes: Nodes, segments: Segments, what: str) -> int:
        """Both copies of each node; how many blocks they have."""
        blocks = 0
        for pointer, level in nodes:
            twice = level > 0 or POOL_SEGMENT in segments
            if len(pointer.copies) != 1 + twice:
                raise Damaged(f"{what}: node at block {pointer.address} has not its copies")
            for address in pointer.copies:
                here = f"{what}, node at block {address}"
                ciphertext = self._pool.device.blocks(address, pointer.blocks)
                open_block(pointer.key, pointer.tag, "node", ciphertext, here)
                self._owned(address, pointer.blocks, pointer.birth, segments, here)
                blocks += pointer.blocks
        return blocks

    def _owned(self, address: int, blocks: int, birth: int, segments: Segments, what: str) -> None:
        """The blocks belong to a segment of this history, in which they were born."""
        if self._space is None:
            return
        for block in range(address, address + blocks):
            owner = self._space.owner(block)
            if owner not in segments:
                raise Damaged(f"{what}: block {block} belongs to segment {owner}, another's")
            segment = segments[owner]
            if segment is not None and not segment.spans(birth):
                raise Damaged(f"{what}: block {block}, born in {birth}, is none of segment {owner}")

    def _holder(self, holder: Cluster | Snapshot) -> None:
        opened = self._pool.open(holder)
        if opened is None:
            return
        catalog = self._pool.catalog
        history = catalog.history(catalog.segment_of(holder))
        segments: Segments = {number: catalog.segments[number] for number in history}
        blocks = self._tree(opened, segments, holder.title)
        log, stated = self._pool.log_of(holder), holder.header.referenced_blocks
        if not (log and log.records) and blocks != stated:
            raise Damaged(f"{holder.title}: reaches {blocks} blocks, its header says {stated}")

    def _tree(self, opened: OpenedTree, segments: Segments, what: str) -> int:
        """All that a tree reaches; how many blocks."""
        inodes = self._inodes(opened.volume)
        blocks = self._nodes(opened.nodes, segments, what)
        for inode in inodes.values():
            blocks += self._inode(opened.volume, inode, segments)
        self._names(opened.volume, inodes)
        return blocks

    def _inodes(self, volume: Volume) -> dict[int, Inode]:
        """All inodes; every item is one that belongs to an inode, or to the tree itself."""
        inodes: dict[int, Inode] = {}
        objects = set()
        for key, value in volume.items.range():
            if key.kind not in (INODE_KINDS if key.object else POOL_KINDS):
                raise Damaged(f"{volume.what}: an item of kind {key.kind:#x} of {key.object}")
            if key.kind == INODE:
                inodes[key.object] = Inode.decode(key.object, value)
            objects.add(key.object)
        if astray := objects - {0, *inodes}:
            raise Damaged(f"{volume.what}: items of inodes that are not there: {sorted(astray)}")
        return inodes

    def _inode(self, volume: Volume, inode: Inode, segments: Segments) -> int:
        """What hangs on an inode; how many blocks of data."""
        what = f"{volume.what}, inode {inode.number}"
        volume.xattrs(inode)
        if inode.is_symlink:
            volume.target(inode)
        extents = volume.extents(inode)
        for extent in extents:
            here = f"{what}, offset {extent.offset}"
            blocks = len(extent.references)
            self._owned(extent.address, blocks, extent.birth, segments, here)
        try:
            for _ in volume.blocks(inode):
                pass
        except Damaged as error:
            self._report.problems.append(f"{what}: {error}")
        return sum(len(extent.references) for extent in extents)

    def _names(self, volume: Volume, inodes: dict[int, Inode]) -> None:
        """Every inode has as many names as it says, and a directory is where it says."""
        names: Counter[int] = Counter()
        subdirectories: Counter[int] = Counter()
        for inode in (inode for inode in inodes.values() if inode.is_directory):
            for entry in volume.entries(inode):
                child = inodes.get(entry.inode)
                if child is None or entry.type != stat.S_IFMT(child.mode) >> 12:
                    raise Damaged(f"{volume.what}: {entry.name!r} leads to no inode of its type")
                names[child.number] += 1
                if child.is_directory:
                    subdirectories[inode.number] += 1
                    if child.parent != inode.number:
                        raise Damaged(f"{volume.what}: {entry.name!r} stands elsewhere")
        orphans = {number for number, _ in volume.items.of(0, ORPHAN)}
        for inode in inodes.values():
            links = names[inode.number]
            if inode.is_directory and inode.number not in orphans:
                links = 2 + subdirectories[inode.number]
            if links != inode.links:
                raise Damaged(
                    f"{volume.what}: inode {inode.number} has {links} links, not {inode.links}"
                )
            if not names[inode.number] and inode.number not in orphans | {ROOT_INODE}:
                raise Damaged(f"{volume.what}: inode {inode.number} has no name")
