#!/usr/bin/env bash
# Usage: scripts/corrupt.sh [--mutations N] [--from N]
# Damages pools in N places (100,000 unless told otherwise), one at a time, and judges each: found
# and named, repaired, or harmless; never wrong data, never a panic (tests/engine/corrupt). Prints
# what became of them, by the sort of place and the way it was changed. The same number gives the
# same pool and the same damage.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib/common.sh

mutations=100000 from=0
while [ $# -gt 0 ]; do
    case $1 in
        --mutations) mutations=${2:?--mutations wants a number} ;;
        --from) from=${2:?--from wants a number} ;;
        *) die "usage: scripts/corrupt.sh [--mutations N] [--from N]" ;;
    esac
    shift 2
done
need_rust
begin=$SECONDS
STRONGROOM_SEED=$from STRONGROOM_MUTATIONS=$mutations \
    cargo test --quiet --profile campaign --test engine corrupt:: -- --nocapture
say "$mutations mutations in $((SECONDS - begin)) s"
