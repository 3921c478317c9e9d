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
need_program python3 postgresql
exec python3 scripts/lib/soak.py "$@"
