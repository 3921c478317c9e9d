#!/usr/bin/env bash
# Usage: scripts/kills.sh [--rounds N] [--only ordered|pgbench|sqlite|writer]... [--power] [--short] [--seed N]
#        [--keep] [--dir DIR]
# kill -9 of the daemon, N times (200) under each of: PostgreSQL with pgbench, SQLite in both journal
# modes, a writer that records outside what was acknowledged, the same on a writethrough mount, where
# the order is kept too. After each: the mounts are back, what was acknowledged is there, snapshots are
# what they were; every ten rounds check finds nothing. --power: the disk beneath loses power with each
# kill, and what the pool had not flushed with it. Needs root. --short: 3 rounds of each.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib/common.sh
need_program python3 postgresql
case " $* " in *" --power "*)
    need_rust
    cargo build --quiet --example volatile-disk
    export STRONGROOM_DISK=${CARGO_TARGET_DIR:-$PWD/target}/debug/examples/volatile-disk ;;
esac
exec python3 scripts/lib/kills.py "$@"
