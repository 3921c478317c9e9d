#!/usr/bin/env bash
# Usage: scripts/crash.sh [--short] [--seeds N] [--from N]
# Random histories with power cuts on simulated disks, N of each sort (100 unless told otherwise;
# 60 N of those that need no disk): a pool at every write, a head in and between commits and
# checkpoints, clusters with snapshots, clones and restores. The number that --from begins with gives
# the same histories; the others write their case to proptest-regressions/. --short: the few that
# scripts/test.sh runs, against the build that is there.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib/common.sh

seeds=100 from=1000 profile=(--profile campaign)
while [ $# -gt 0 ]; do
    case $1 in
        --short) seeds=6 profile=(); shift ;;
        --seeds) seeds=${2:?--seeds wants a number}; shift 2 ;;
        --from) from=${2:?--from wants a number}; shift 2 ;;
        *) die "usage: scripts/crash.sh [--short] [--seeds N] [--from N]" ;;
    esac
done
need_rust
export STRONGROOM_SEEDS=$seeds STRONGROOM_FROM=$from PROPTEST_CASES=$seeds
begin=$SECONDS
run() { cargo test --quiet "${profile[@]}" "$@"; }
run --lib -- --ignored catalog::model_tests::thousands_of_histories
run --lib -- pool::crash_tests::any_history pool::head::tests::any_history
run --test engine -- --ignored catalog::many_random_histories
say "$seeds of each in $((SECONDS - begin)) s, from number $from on"
