#!/usr/bin/env bash
# Usage: scripts/simulate.sh [--seeds N] [--from N] [--seed N]
# Runs the simulator (tests/simulator) in an optimized build with assertions: the histories of N seeds
# (1000 unless told otherwise) from the number --from on, or of the one seed that --seed names. A seed
# decides everything: a failing one is named with its steps, and fails again.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib/common.sh

seeds=1000 from=0
usage="usage: scripts/simulate.sh [--seeds N] [--from N] [--seed N]"
while [ $# -gt 0 ]; do
    case $1 in
        --seeds) seeds=${2:?--seeds wants a number}; shift 2 ;;
        --from) from=${2:?--from wants a number}; shift 2 ;;
        --seed) seeds=1 from=${2:?--seed wants a number}; shift 2 ;;
        *) die "$usage" ;;
    esac
done
need_rust
# Files of keys are flushed often, and no disk need turn for that.
if [ -z "${TMPDIR:-}" ] && [ -w /dev/shm ]; then export TMPDIR=/dev/shm; fi
export STRONGROOM_SEEDS=$seeds STRONGROOM_FROM=$from
begin=$SECONDS
cargo test --quiet --profile campaign --test simulator whatever_the_seed -- --nocapture
say "$seeds seeds from $from on in $((SECONDS - begin)) s"
