#!/usr/bin/env bash
# Usage: scripts/bench.sh [--short] [--rounds N] [--only NAME,...] [--json FILE] [--dir DIR]
# Times strongroom, gocryptfs and the filesystem beneath, side by side in one run, the order rotated
# each round; prints medians and ratios. Needs root. --short is a smoke run: small sizes, one round.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib/common.sh
install_packages gcc libc6-dev fuse3 python3 fio gocryptfs sqlite3 postgresql postgresql-client
need_rust
need_fuse
cargo build --release --quiet
export STRONGROOM_BIN=${CARGO_TARGET_DIR:-$PWD/target}/release/strongroom
exec python3 scripts/lib/bench.py "$@"
