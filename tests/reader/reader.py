#!/usr/bin/env python3
"""Reads a Strongroom pool without Strongroom: written from docs/format.md alone.

    reader.py --pool PATH --config-dir DIR list
    reader.py --pool PATH --config-dir DIR extract SNAPSHOT_OR_CLUSTER OUT_DIR
    reader.py --pool PATH --config-dir DIR verify

Nothing is written to the pool. No daemon may serve it meanwhile: what is read would change.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

from catalog import Cluster, Holder, Snapshot
from config import (
    Configuration,
    RootSecret,
    key_bytes,
    passphrase_file,
    read_file,
    recovery_key,
)
from errors import ReaderError, Refused
from extract import Extractor
from pool import Pool
from verify import Verifier


def _holder(holder: Holder) -> dict[str, Any]:
    header = holder.header
    return {
        "clusterName": holder.cluster_name,
        "clusterId": holder.cluster_id.hex(),
        "lineageId": holder.lineage_id.hex(),
        "created": holder.created,
        "rootGeneration": header.root_generation,
        "referencedBlocks": header.referenced_blocks,
        "clusterKeyId": header.ck_id,
        "encryptionStatus": "Not enabled" if header.plain else "customer key",
        "wraps": [
            {
                "encryptionKeyId": wrap.key_id,
                "keyVersion": wrap.version,
                "keyFingerprint": wrap.fingerprint.hex(),
            }
            for wrap in header.wraps
        ],
    }


def _cluster(pool: Pool, cluster: Cluster) -> dict[str, Any]:
    origin = None if cluster.origin is None else f"snap-{cluster.origin:016x}"
    log = pool.log_of(cluster)
    return {**_holder(cluster), "origin": origin, "logRecords": len(log.records) if log else 0}


def _snapshot(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "id": snapshot.name,
        **_holder(snapshot),
        "type": snapshot.snapshot_type,
        "frequency": snapshot.frequency,
        "generation": snapshot.generation,
        "expires": snapshot.expires,
        "held": snapshot.held,
        "description": snapshot.description,
    }


def list_pool(pool: Pool) -> int:
    """Prints the clusters and snapshots with what their headers say, as JSON."""
    listing = {
        "poolId": pool.pool_id.hex(),
        "generation": pool.superblock.generation,
        "clusters": [_cluster(pool, cluster) for cluster in pool.catalog.clusters],
        "snapshots": [_snapshot(snapshot) for snapshot in pool.catalog.snapshots],
    }
    print(json.dumps(listing, indent=2))
    return 0


def extract(pool: Pool, name: str, out: Path) -> int:
    """Extracts a snapshot, or a cluster as its users saw it last."""
    opened = pool.open(pool.catalog.holder(name))
    if opened is None:
        raise Refused(f"{name}: nothing was ever written to it")
    names = Extractor(opened.volume, out).run()
    print(f"{name}: {names} names in {out}")
    return 0


def verify(pool: Pool) -> int:
    """Prints what holds, what could not be opened and what is damaged; 0 if all holds."""
    report = Verifier(pool).run()
    for title in report.verified:
        print(f"verified: {title}")
    for line in report.unopened:
        print(f"not opened: {line}")
    for line in report.problems:
        print(f"damaged: {line}")
    print(f"{report.blocks} allocated blocks")
    return 1 if report.unopened or report.problems else 0


def _secret(arguments: argparse.Namespace) -> RootSecret | None:
    if arguments.passphrase_file:
        return RootSecret(passphrase=passphrase_file(arguments.passphrase_file))
    if arguments.recovery_key:
        return RootSecret(key=recovery_key(read_file(arguments.recovery_key).decode()))
    if arguments.root_key:
        return RootSecret(key=key_bytes(read_file(arguments.root_key), arguments.root_key))
    return None


def _configuration(arguments: argparse.Namespace, pool_id: bytes) -> Configuration:
    if not arguments.backup:
        return Configuration.of_folder(arguments.config_dir, pool_id)
    passphrase = passphrase_file(arguments.backup_passphrase_file)
    return Configuration.of_backup(arguments.backup, passphrase, pool_id)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Reads a Strongroom pool without Strongroom.")
    parser.add_argument("--pool", type=Path, required=True, help="a directory, image or device")
    beside = parser.add_mutually_exclusive_group(required=True)
    beside.add_argument("--config-dir", type=Path, help="the directory of what stands beside it")
    beside.add_argument("--backup", type=Path, help="a backup of the configuration instead")
    parser.add_argument("--backup-passphrase-file", type=Path, help="what opens the backup")
    secret = parser.add_mutually_exclusive_group()
    secret.add_argument("--root-key", type=Path, help="a key file instead of the configuration's")
    secret.add_argument("--passphrase-file", type=Path, help="a file with the pool's passphrase")
    secret.add_argument("--recovery-key", type=Path, help="a file with the recovery key")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="clusters and snapshots, as JSON")
    extracting = commands.add_parser("extract", help="the files of a snapshot or cluster")
    extracting.add_argument("name", help="a snapshot's id or a cluster's name")
    extracting.add_argument("out", type=Path, help="a folder to be made")
    commands.add_parser("verify", help="every tag, seal and CRC")
    arguments = parser.parse_args()
    if arguments.backup and not arguments.backup_passphrase_file:
        parser.error("--backup needs --backup-passphrase-file")
    return arguments


def main() -> int:
    """The command line."""
    arguments = _arguments()
    try:
        configuration = partial(_configuration, arguments)
        pool = Pool(arguments.pool, configuration, _secret(arguments))
        if arguments.command == "list":
            return list_pool(pool)
        if arguments.command == "extract":
            return extract(pool, arguments.name, arguments.out)
        return verify(pool)
    except (ReaderError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
