"""A pool, opened for reading: its state, its catalog, its logs, and its trees as volumes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from catalog import Catalog, Cluster, Holder, Snapshot
from codec import u32
from config import Configuration, Keyring, RootSecret
from crypto import open_seal
from device import Device
from errors import Damaged, WrongKey
from intentlog import Claim, Log, LogItem, Record
from space import Ring, Space
from superblock import choose, engine_key, read_copies
from tree import Key, Pointer, Tree
from volume import Items, Volume

Nodes = list[tuple[Pointer, int]]


@dataclass(frozen=True)
class OpenedTree:
    """A holder's tree, and the nodes that were met while its items were read, with levels."""

    volume: Volume
    nodes: Nodes


@dataclass(frozen=True)
class ReplayedLog:
    """What a crash left in a cluster's log: its item, and the records that count."""

    item: LogItem
    records: list[Record]

    def claims(self) -> Iterator[Claim]:
        """The blocks that its records take."""
        for record in self.records:
            yield from record.claims


class Pool:
    """The engine layer of a pool; clusters and snapshots are opened one by one.

    `configuration` gives what stands beside the pool of an id.
    """

    def __init__(
        self,
        path: Path,
        configuration: Callable[[bytes], Configuration],
        secret: RootSecret | None = None,
    ) -> None:
        self.device = Device(path)
        self.copies = read_copies(self.device)
        self.pool_id = self.copies.whole[0].pool_id
        self._configuration = configuration(self.pool_id)
        root_secret = secret or self._configuration.root_secret()
        self.engine_key = engine_key(self.copies.whole, root_secret)
        self.superblock, self.payload = choose(self.copies.whole, self.engine_key)
        self._refuse_older()
        self.catalog_nodes: Nodes = []
        self.catalog = Catalog(self._tree(self.payload.catalog, "catalog", self.catalog_nodes))
        self.logs: dict[bytes, ReplayedLog] = {}
        self._broken_logs: dict[bytes, Damaged] = {}
        for cluster_id, value in self.catalog.logs.items():
            self._read_log(cluster_id, value)

    def _refuse_older(self) -> None:
        """Refuses a state that is older than the anchor or the ring says."""
        self._anchor = self._configuration.anchor(self.engine_key, self.pool_id)
        here = (self.superblock.incarnation, self.superblock.generation)
        if self._anchor and here < (self._anchor.incarnation, self._anchor.generation):
            raise Damaged(
                f"the pool is of generation {here[1]}, older than {self._anchor.generation}, "
                "which this machine has seen: it was put back"
            )
        Ring(self.device, self.superblock, self.payload).refuse_newer()

    def _tree(self, root: Pointer | None, what: str, nodes: Nodes) -> Tree:
        def visit(pointer: Pointer, level: int) -> None:
            nodes.append((pointer, level))

        return Tree(self.device, root, self.superblock.node_bytes, what, visit)

    def _read_log(self, cluster_id: bytes, value: bytes) -> None:
        """Takes in a cluster's log; one that is damaged keeps that cluster closed, and no other."""
        what = f"intent log of cluster {cluster_id.hex()}"
        try:
            item = LogItem.decode(value, self.superblock, self.payload, what)
            records = Log(self.device, self.pool_id, cluster_id, item, what).counting()
        except Damaged as error:
            self._broken_logs[cluster_id] = error
            return
        self.logs[cluster_id] = ReplayedLog(item, records)
        for record in records:
            self.device.overlay.update(record.images)

    def space(self) -> Space:
        """Who owns each block, as of the superblock: without what logs claim."""
        space = Space(self.device, self.superblock)
        space.load(self.catalog.regions, self.superblock, self.payload)
        return space

    @cached_property
    def keyring(self) -> Keyring:
        """The customer keys."""
        keyring = self._configuration.keyring()
        if self._anchor and keyring.version < self._anchor.keyring_version:
            raise Damaged(
                f"the keyring is of version {keyring.version}, older than "
                f"{self._anchor.keyring_version}, which this machine has seen"
            )
        return keyring

    def log_of(self, holder: Holder) -> ReplayedLog | None:
        """What is applied to it beyond its tree: only a cluster's head has a log."""
        if not isinstance(holder, Cluster):
            return None
        if holder.cluster_id in self._broken_logs:
            raise Damaged(f"{holder.title}: {self._broken_logs[holder.cluster_id]}")
        return self.logs.get(holder.cluster_id)

    def open(self, holder: Cluster | Snapshot) -> OpenedTree | None:
        """A cluster as its users saw it last, or a snapshot; none where nothing was written."""
        key = holder.key(lambda: self.keyring, self.pool_id)
        try:
            root = holder.root(key, self.pool_id, self.superblock.node_bytes)
            edits = self._edits(holder, key)
        except WrongKey as error:
            raise Damaged(f"{error}, though its header says so") from error
        if root is None:
            if edits:
                raise Damaged(f"{holder.title}: a log, and no root that it changes")
            return None
        nodes: Nodes = []
        items = Items(self._tree(root.pointer, holder.title, nodes), edits)
        return OpenedTree(Volume(self.device, items, root.name_hash_key, holder.title), nodes)

    def _edits(self, holder: Holder, key: bytes) -> dict[Key, bytes | None]:
        log = self.log_of(holder)
        if log is None:
            return {}
        ad = self.pool_id + holder.cluster_id + u32(holder.header.ck_id)
        seed = open_seal(key, "log", ad, log.item.sealed_seed, f"{holder.title}, its log seed")
        edits: dict[Key, bytes | None] = {}
        for record in log.records:
            edits.update(record.edits(seed, holder.cluster_id))
        return edits
