#!/usr/bin/env bash
# Usage: scripts/test.sh [--no-install]
# Installs what the tests need, runs every one of them, prints seconds per part and, last,
# "N passed, N failed". Needs root (mounts, loop devices, other users) and /dev/fuse.
set -uo pipefail
cd "$(dirname "$0")/.."
. scripts/lib/common.sh

# Tests act as other users with what is built: not so in a home that is closed to them, as root's is.
if [ -z "${CARGO_TARGET_DIR:-}" ] && ! everybody_reaches "$PWD"; then
    CARGO_TARGET_DIR=/var/tmp/strongroom-target
    say "other users cannot reach $PWD: building in $CARGO_TARGET_DIR"
    mkdir -p "$CARGO_TARGET_DIR"
    [ -O "$CARGO_TARGET_DIR" ] || die "$CARGO_TARGET_DIR is somebody else's: set CARGO_TARGET_DIR"
    export CARGO_TARGET_DIR
fi
[ "${1:-}" = --no-install ] || {
    install_packages gcc libc6-dev fuse3 bats jq curl python3 python3-venv \
        acl attr e2fsprogs util-linux procps sqlite3 postgresql postgresql-client tmux git rsync
    need_rust
    install_reader
}
[ "$(id -u)" = 0 ] || die "the tests mount, make loop devices and act as other users: run them as root"
need_fuse

export CARGO_TERM_COLOR=never
log=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null; rm -rf "$log"' EXIT
passed=0 failed=0 skipped=0 parts=() failures=()

# part NAME COMMAND...: runs it, counts its tests, remembers its time.
part() {
    local name=$1 begin=$SECONDS status=0
    shift
    say "$name"
    "$@" 2>&1 | tee "$log/out" || status=${PIPESTATUS[0]}
    count "$status"
    parts+=("$(printf '%5ds  %s' $((SECONDS - begin)) "$name")")
}

# beside NAME COMMAND...: begins it beside the parts that follow, out of their way: they wait more than
# they compute. outcome_of NAME says afterwards what it said.
beside() {
    local name=$1
    shift
    { nice -n 19 "$@" >"$log/$name" 2>&1; echo $? >"$log/$name.status"; } &
}
outcome_of() {
    cat "$log/$1"
    return "$(cat "$log/$1.status")"
}

# Remembers which tests failed, and what was said of it; of a part that counts none, what it said last.
name_failures() {
    local lines
    lines=$(grep -E '^not ok [0-9]+' -A 20 "$log/out" | grep -E '^(not ok|#)'
        grep -E '^---- .* stdout ----$' -A 6 "$log/out")
    failures+=("${lines:-$(tail -n 20 "$log/out")}")
}

# Adds up the closing lines of cargo test and of bats; a part without any counts as one test.
count() {
    local status=$1 ok bad ignored
    ok=$(grep -oE '^test result: .* [0-9]+ passed' "$log/out" | grep -oE '[0-9]+ passed' | awk '{n+=$1} END {print n+0}')
    bad=$(grep -oE '^test result: .*; [0-9]+ failed' "$log/out" | grep -oE '[0-9]+ failed' | awk '{n+=$1} END {print n+0}')
    ignored=$(grep -oE '^test result: .*; [0-9]+ ignored' "$log/out" | grep -oE '[0-9]+ ignored' | awk '{n+=$1} END {print n+0}')
    ok=$((ok + $(grep -cE '^ok [0-9]+' "$log/out") - $(grep -cE '^ok [0-9]+ .*# skip' "$log/out")))
    bad=$((bad + $(grep -cE '^not ok [0-9]+' "$log/out")))
    skipped=$((skipped + ignored + $(grep -cE '^ok [0-9]+ .*# skip' "$log/out")))
    if [ $((ok + bad)) -eq 0 ]; then
        if [ "$status" -eq 0 ]; then ok=1; else bad=1; fi
    elif [ "$status" -ne 0 ] && [ "$bad" -eq 0 ]; then
        bad=1
    fi
    if [ "$bad" -gt 0 ]; then name_failures; fi
    passed=$((passed + ok)) failed=$((failed + bad))
}

part "formatting" cargo fmt --check
part "build" cargo build --quiet --tests --bins
part "unit, engine, command line and mount tests" cargo test --quiet --no-fail-fast
part "crashes" scripts/crash.sh --short
# What "build" made: building the program alone would resolve its features anew.
export STRONGROOM_BIN=${CARGO_TARGET_DIR:-$PWD/target}/debug/strongroom
beside clippy cargo clippy --quiet --all-targets -- -D warnings
beside deny scripts/deny.sh
part "suites of others" scripts/posix.sh --short
part "at the shell" scripts/shell_tests.sh
wait    # for what runs beside
part "clippy" outcome_of clippy
part "licences, bans, sources" outcome_of deny

say "time"
printf '%s\n' "${parts[@]}"
[ "$failed" -eq 0 ] || printf '\n== failed\n%s\n' "$(printf '%s\n' "${failures[@]}")"
printf '\n%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
[ "$failed" -eq 0 ]
