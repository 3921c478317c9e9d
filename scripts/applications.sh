#!/usr/bin/env bash
# Usage: scripts/applications.sh [--only NAME,...] [--short] [--keep] [--dir DIR]
# Real applications on a mounted cluster, each in a directory of its own and judged by its own check:
# PostgreSQL, SQLite, git, rsync, tar. What each left is looked at again after a kill -9 of the daemon, in a
# snapshot mounted read-only where its check only reads, and in a clone. Needs root. --short: smaller loads.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib/common.sh
need_program python3 postgresql git rsync tar acl attr
exec python3 scripts/lib/applications.py "$@"
