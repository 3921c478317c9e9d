#!/usr/bin/env bash
# Usage: scripts/mutations.sh [--simulator [--seeds N]] [NAME...]
# Takes one protection of the engine away at a time (tests/mutations/NAME.patch), in a copy of the
# sources, and runs the test that its patch names: the test has to fail. A patch that does not apply,
# or does not build, is a failure too. All of them take half an hour or more on two cores; the
# target directory is CARGO_TARGET_DIR, or target/mutations. --simulator: instead of those tests, N
# seeds of the simulator (300), in the build of scripts/simulate.sh.
set -uo pipefail
cd "$(dirname "$0")/.."
. scripts/lib/common.sh

simulator=false seeds=300
while :; do
    case ${1:-} in
        --simulator) simulator=true; shift ;;
        --seeds) seeds=${2:?--seeds wants a number}; shift 2 ;;
        *) break ;;
    esac
done
need_rust
root=$PWD
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$root/target/mutations} CARGO_TERM_COLOR=never
if $simulator; then export STRONGROOM_SEEDS=$seeds; fi
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp -r Cargo.toml Cargo.lock src tests docs README.md "$copy"
for extra in build.rs benches rust-toolchain.toml .cargo scripts; do
    if [ -e "$extra" ]; then cp -r "$extra" "$copy"; fi
done
cd "$copy" || exit 1

caught=0 failed=()
# verdict NAME TEXT...: says what became of a mutation, and gives the sources back.
verdict() {
    printf '%-28s %s\n' "$1" "${*:2}"
    git apply -R "$root/tests/mutations/$1.patch" || die "the copy could not be mended"
    touch src/lib.rs
}

# The tests that failed, or the seed.
what_failed() {
    if $simulator; then
        grep -oE '^seed [0-9]+ failed' "$copy/log"
    else
        sed -n 's/^test \([a-z_:0-9]*\) \.\.\. FAILED$/\1/p' "$copy/log" | sort -u | head -3 | tr '\n' ' '
    fi
}

check() {
    local name=$1 patch=$root/tests/mutations/$1.patch target filters
    target=$(sed -n 's/^Test: \(--lib\|--test [a-z]*\) .*/\1/p' "$patch")
    filters=$(sed -n 's/^Test: \(--lib\|--test [a-z]*\) //p' "$patch")
    if [ -z "$filters" ] || ! git apply "$patch"; then
        printf '%-28s %s\n' "$name" "DOES NOT APPLY"
        failed+=("$name")
        return
    fi
    if $simulator; then target="--profile campaign --test simulator" filters=whatever_the_seed; fi
    touch src/lib.rs
    # shellcheck disable=SC2086 # several words on purpose
    if ! cargo test --quiet $target --no-run >"$copy/log" 2>&1; then
        tail -20 "$copy/log"
        failed+=("$name")
        verdict "$name" "DOES NOT BUILD"
        return
    fi
    # shellcheck disable=SC2086
    timeout 600 cargo test $target -- $filters >"$copy/log" 2>&1
    local status=$?
    # Others may take for ever once one has failed.
    if [ $status -eq 124 ] && grep -q '\.\.\. FAILED$' "$copy/log"; then status=1; fi
    case $status in
        0)
            failed+=("$name")
            verdict "$name" "NOT CAUGHT by $target $filters"
            ;;
        124)
            failed+=("$name")
            verdict "$name" "NO END within 600 s of $target $filters"
            ;;
        *)
            caught=$((caught + 1))
            verdict "$name" "caught: $(what_failed)"
            ;;
    esac
}

if [ $# -eq 0 ]; then
    for patch in "$root"/tests/mutations/*.patch; do set -- "$@" "$(basename "$patch" .patch)"; done
fi
for name in "$@"; do check "$name"; done
printf '\n%d caught, %d not\n' "$caught" "${#failed[@]}"
[ "${#failed[@]}" -eq 0 ]
