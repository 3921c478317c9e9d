#!/usr/bin/env bash
# Usage: scripts/posix.sh [--short]
# Suites that others wrote, against a mounted cluster of a pool of its own, as root. pjdfstest runs on
# the filesystem beneath too (an ext4 shows no failure): none may fail here that does not fail there;
# skipped cases are named with their reasons. fsx runs buffered, through mappings and, over a loop
# device with direct I/O, O_DIRECT: 100,000 operations each on three seeds (--short: 2,000 on one), a
# snapshot after every tenth part, each compared with the file as it was at that moment.
# STRONGROOM_BIN: the program to test; else the release build.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib/common.sh

operations=100000 seeds=(1 2 3)
case ${1:-} in
    '') ;;
    --short) operations=2000 seeds=(1) ;;
    *) die "usage: scripts/posix.sh [--short]" ;;
esac
[ "$(id -u)" = 0 ] || die "the suites make device files and act as other users: run this as root"
need_program jq util-linux
need_rust
target=${CARGO_TARGET_DIR:-$PWD/target}
tools=$target/posix
# tool NAME VERSION: the suite from crates.io, built once beside what cargo builds.
tool() {
    [ -x "$tools/bin/$1" ] || CARGO_TARGET_DIR=$tools/build \
        cargo install --quiet --debug "$1" --version "$2" --locked --root "$tools"
}
tool pjdfstest 0.2.2
tool fsx 0.3.2
sr() { "$STRONGROOM_BIN" "$@"; }

work=$(mktemp -d /var/tmp/strongroom-posix.XXXXXX)
loop=
clean_up() {
    [ -z "$loop" ] || losetup -d "$loop" || true
    umount "$work/other" 2>/dev/null || true
    sr shutdown --force >/dev/null 2>&1 || true
    rm -rf "$work"
}
trap clean_up EXIT
chmod 755 "$work"
export STRONGROOM_POOL=$work/pool STRONGROOM_CONFIG=$work/config
mkdir "$work"/{m,s,other,beneath}
sr init --size 2G >"$work/init.out" 2>&1 || { cat "$work/init.out"; exit 1; }
sr cluster create posix
sr mount posix "$work/m" -o allow_other
mkdir "$work/m/suite"
chmod 755 "$work/m" "$work/m/suite" "$work/beneath"

# A second filesystem is asked for by the cases of EXDEV; the accounts are there on every Debian.
mount -t tmpfs none "$work/other"
cat >"$work/pjdfstest.toml" <<'C'
[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}
[settings]
naptime = 0.02
allow_remount = false
[dummy_auth]
entries = [["daemon", "daemon"], ["bin", "bin"]]
C
# suite PLACE OUTPUT: pjdfstest there.
suite() {
    "$tools/bin/pjdfstest" -c "$work/pjdfstest.toml" -p "$1" -s "$work/other" >"$2" 2>&1 || true
    grep '^Summary:' "$2" || { tail -n 20 "$2"; die "pjdfstest did not come to its end on $1"; }
}
failures() { grep -E ' FAILED$' "$1" | awk '{print $1}' | sort; }

say "pjdfstest, on a mounted cluster and beneath it ($(stat -f -c %T "$work"))"
suite "$work/m/suite" "$work/ours"
suite "$work/beneath" "$work/theirs"
say "skipped, and why"
grep -A1 -E ' skipped$' "$work/ours" | grep -v '^--' | paste - - | tr -s '\t ' ' ' | sort
new=$(comm -23 <(failures "$work/ours") <(failures "$work/theirs"))
# Counted besides, so that a changed form of the output cannot hide a failure.
failed=$(sed -n 's/^Summary: \([0-9]*\) failed.*/\1/p' "$work/ours")
beneath=$(sed -n 's/^Summary: \([0-9]*\) failed.*/\1/p' "$work/theirs")
if [ -n "$new" ] || [ "$failed" -gt "$beneath" ]; then
    grep -A8 -E ' FAILED$' "$work/ours" || true
    die "pjdfstest: $failed failed, $beneath beneath"
fi

# exercise NAME CONFIG SEED FILE BACKING: fsx on FILE, whose content lies in BACKING of the cluster. It
# is run in ten steps, each with a seed of its own; between them nothing writes, so that the sum taken
# there is what the snapshot has to show. Snapshots are compared at the end, when the file
# has long been another.
exercise() {
    local name=$1 config=$2 seed=$3 file=$4 backing=$5 step snap
    : >"$work/snapshots"
    for step in $(seq 10); do
        "$tools/bin/fsx" -q -f "$work/$config.toml" -S $((seed * 100 + step)) -N $((operations / 10)) \
            -P "$work" "$file" >"$work/fsx.out" 2>&1 \
            || { tail -n 60 "$work/fsx.out"; die "fsx, $name, seed $seed, step $step"; }
        snap=$(sr snapshot create posix --json | jq -r '.results[0].id')
        printf '%s %s\n' "$snap" "$(sha256sum <"$work/m/$backing" | cut -d' ' -f1)" >>"$work/snapshots"
    done
    while read -r snap sum; do
        sr restore "$snap" "$work/s" >/dev/null
        [ "$(sha256sum <"$work/s/$backing" | cut -d' ' -f1)" = "$sum" ] \
            || die "fsx, $name, seed $seed: snapshot $snap is not what the file was"
        sr umount "$work/s" >/dev/null
        sr snapshot delete "$snap" >/dev/null
    done <"$work/snapshots"
    printf 'fsx %s, seed %s: %s operations, 10 snapshots as the file was\n' "$name" "$seed" "$operations"
}

printf '[weights]\nmapread = 0\nmapwrite = 0\n' >"$work/buffered.toml"
printf '[weights]\nread = 1\nwrite = 1\nmapread = 20\nmapwrite = 20\n' >"$work/mapped.toml"
printf 'blockmode = true\n[opsize]\nalign = 4096\nmin = 4096\n[weights]\ntruncate = 0\nclose_open = 0\nposix_fallocate = 0\nmapread = 0\nmapwrite = 0\ninvalidate = 0\nfsync = 10\n' >"$work/direct.toml"
say "fsx"
for seed in "${seeds[@]}"; do
    exercise buffered buffered "$seed" "$work/m/buffered" buffered
    exercise mapped mapped "$seed" "$work/m/mapped" mapped
done
truncate -s 1M "$work/m/direct"
loop=$(losetup --find --show --direct-io=on --sector-size 4096 "$work/m/direct")
for seed in "${seeds[@]}"; do
    exercise O_DIRECT direct "$seed" "$loop" direct
done
