#!/usr/bin/env bash
# Usage: scripts/shell_tests.sh [FILE.bats...]
# Runs the tests at the shell (tests/shell), one after the other, against $STRONGROOM_BIN, or the
# debug build where that is not set.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib/common.sh
READER_PYTHON=$(reader_python)
export READER_PYTHON
if [ -z "${STRONGROOM_BIN:-}" ]; then
    cargo build --quiet --bins
    export STRONGROOM_BIN=${CARGO_TARGET_DIR:-$PWD/target}/debug/strongroom
fi
if [ $# -eq 0 ]; then set -- tests/shell/*.bats; fi
exec bats --tap --timing "$@"
