#!/usr/bin/env bash
# Usage: scripts/history.sh [--seed N] [--short] [--verbose] [--dir DIR]
# A random history of a pool: bytes written at random over 2 GiB, snapshots kept and deleted in
# random order, clones, restores in place, a disabled key. What each deletion frees is what was said
# before, check finds nothing, and no space is lost. Needs root. --short: 64 MiB.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib/common.sh
need_program python3
exec python3 scripts/lib/history.py "$@"
