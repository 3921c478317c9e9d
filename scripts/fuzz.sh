#!/usr/bin/env bash
# Usage: scripts/fuzz.sh [--minutes N] [--target T]... [--short] [--replay FILE]
# Runs the targets of src/fuzzing under libFuzzer, guided by coverage, N minutes in all (60; --short:
# 3), one after another, on stable Rust (docs/decisions/070-fuzzing-on-stable.md). They begin with
# what real writers make and with tests/fuzz/corpus; what they find there and beyond stays below the
# build folder, in fuzz/TARGET, and is minimized at the end. Stops at the first finding, whose input
# is named: --replay runs it again.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib/common.sh

minutes=60 replay='' targets=()
usage="usage: scripts/fuzz.sh [--minutes N] [--target T]... [--short] [--replay FILE]"
while [ $# -gt 0 ]; do
    case $1 in
        --minutes) minutes=${2:?--minutes wants a number}; shift ;;
        --target) targets+=("${2:?--target wants a name}"); shift ;;
        --replay) replay=$(realpath "${2:?--replay wants a file}"); shift ;;
        --short) minutes=3 ;;
        *) die "$usage" ;;
    esac
    shift
done
[ -z "$replay" ] || [ ${#targets[@]} -eq 1 ] || die "--replay wants one --target"
install_packages gcc g++ libc6-dev
need_rust
[ "$minutes" -ge 1 ] || die "--minutes wants a number from 1 on"
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(ls tests/fuzz/corpus)

# Coverage as libFuzzer reads it; without a sanitizer, which stable Rust does not have. The host's
# own programs (build scripts) are built without: that is what naming the target does.
host=$(rustc -vV | sed -n 's/^host: //p')
build=${CARGO_TARGET_DIR:-$PWD/target}/fuzz
flags="-Cpasses=sancov-module -Ccodegen-units=16 --cfg fuzzing"
for argument in level=4 inline-8bit-counters pc-table trace-compares; do
    flags+=" -Cllvm-args=-sanitizer-coverage-$argument"
done
CARGO_TARGET_DIR=$build RUSTFLAGS=$flags \
    cargo build --quiet --release --locked --target "$host" --manifest-path tests/fuzz/Cargo.toml
program=$build/$host/release/strongroom-fuzz

export STRONGROOM_FUZZ_TARGET
if [ -n "$replay" ]; then
    STRONGROOM_FUZZ_TARGET=${targets[0]} "$program" "$replay"
    exit
fi
seconds=$((minutes * 60 / ${#targets[@]}))
for target in "${targets[@]}"; do
    STRONGROOM_FUZZ_TARGET=$target
    work=$build/$target
    mkdir -p "$work/found" "$work/seeds" "$work/small"
    rm -f "$work"/seeds/* "$work"/small/*
    STRONGROOM_FUZZ_SEEDS=$work/seeds "$program"
    say "$target, $seconds s"
    options=(-timeout=30 -rss_limit_mb=2048 -malloc_limit_mb=1024 -artifact_prefix="$work/")
    # A pool takes ten lies at most: longer inputs are cut.
    [ "$target" = resealed ] && options+=(-max_len=61) || options+=(-max_len=16384)
    "$program" "${options[@]}" -max_total_time="$seconds" -print_final_stats=1 -len_control=0 \
        "$work/found" "$work/seeds" "tests/fuzz/corpus/$target" > "$work/log" 2>&1 || {
        grep -vE '^(#|INFO:|WARNING:)' "$work/log" | tail -n 60
        die "$target: a finding; its input lies in $work, all that was said in $work/log"
    }
    grep -E '(DONE|number_of_executed_units|peak_rss_mb)' "$work/log"
    "$program" -merge=1 "$work/small" "tests/fuzz/corpus/$target" "$work/found" > "$work/log.merge" 2>&1
done
