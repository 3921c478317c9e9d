#!/usr/bin/env bash
# Usage: scripts/soak.sh [--minutes N] [--short] [--seed N] [--keep] [--dir DIR]
# For N minutes (60): PostgreSQL under pgbench with its data on one cluster and its log on another, and
# SQLite with large transactions on a third. All three are snapshotted together every few seconds, ranges
# of snapshots are deleted, snapshots are made clusters of, started, and checked with the database's own
# tools; the daemon is killed with kill -9 in between. Its memory and descriptors stay flat. Needs root.
# --short: a minute.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib/common.sh
if [ -z "${STRONGROOM_BIN:-}" ]; then
    install_packages gcc libc6-dev fuse3 python3 postgresql
    need_rust
    cargo build --release --quiet
    export STRONGROOM_BIN=${CARGO_TARGET_DIR:-$PWD/target}/release/strongroom
fi
need_fuse
exec python3 scripts/lib/soak.py "$@"
