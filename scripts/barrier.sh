#!/usr/bin/env bash
# Usage: scripts/barrier.sh [--rounds N]
# Writes, takes a snapshot at once, restores it by mounting and compares byte by byte, N times (200)
# for each kind of barrier; then takes the barrier out and sees it fail, and kills the daemon in the
# middle of it. Needs root and /dev/fuse. scripts/test.sh runs the same with 50 rounds.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib/common.sh

rounds=200
case "${1:-}" in
    '') ;;
    --rounds) rounds=${2:-}; [[ $rounds =~ ^[1-9][0-9]*$ ]] || die "--rounds needs a number" ;;
    *) sed -n '2,5s/^# //p' "$0"; exit 2 ;;
esac
[ "$(id -u)" = 0 ] || die "this mounts, and acts as an ordinary user: run it as root"
install_packages gcc libc6-dev fuse3 util-linux
need_rust
need_fuse
STRONGROOM_BARRIER_ROUNDS=$rounds exec cargo test --quiet --test mount -- \
    rounds:: no_barrier:: barrier:: kill9:: --nocapture
