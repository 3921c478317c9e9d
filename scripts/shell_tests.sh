#!/usr/bin/env bash
# Usage: scripts/shell_tests.sh [FILE.bats...]
# Runs the tests at the shell (tests/shell) against the debug build, one after the other.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib/common.sh
READER_PYTHON=$(reader_python)
export READER_PYTHON
cargo build --quiet --bins
export STRONGROOM_BIN=${CARGO_TARGET_DIR:-$PWD/target}/debug/strongroom
if [ $# -eq 0 ]; then set -- tests/shell/*.bats; fi
exec bats --tap "$@"
