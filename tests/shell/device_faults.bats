# The device beneath a pool fails, hangs, does a part at a time, or gets shorter, with a real daemon and
# real mounts over it (tests/disk/faulty.rs).

load lib.bash

setup_file() {
    [ -z "${FAULTY_DISK:-}" ] || return 0
    cargo build --quiet --example faulty-disk
    export FAULTY_DISK=${CARGO_TARGET_DIR:-$BATS_TEST_DIRNAME/../../target}/debug/examples/faulty-disk
}

# A disk, a pool on it, two clusters with a file each.
make_pool_on_disk() {
    work=$(mktemp -d /var/tmp/strongroom-test.XXXXXX)
    chmod 755 "$work"
    disk=$work/disk
    mkdir "$disk"
    "$FAULTY_DISK" "$disk" "$work/medium" 3>&- &
    server=$!
    eventually 10 mountpoint -q "$disk"
    make_clusters "$disk/pool.img" --size 400M
}

make_clusters() { # POOL [INIT OPTIONS...]
    export STRONGROOM_POOL=$1 STRONGROOM_CONFIG=$work/config
    mkdir "$work/a" "$work/b"
    sr init "${@:2}" > "$work/init.out" 2>&1
    for c in a b; do
        sr cluster create "$c"
        sr mount "$c" "$work/$c"
        echo "kept $c" > "$work/$c/kept"; sync "$work/$c/kept"
    done
}

teardown() {
    [ -z "${disk:-}" ] || tell ok || true
    sr shutdown --force >/dev/null 2>&1 || true
    [ -z "${device:-}" ] || losetup -d "$device"
    if [ -n "${disk:-}" ]; then umount -l "$disk" || true; wait "$server" || true; fi
    drop_pool
}

# A file on the first cluster, and its sum, that nobody has in a cache.
make_cold() { # BYTES
    head -c "$1" /dev/urandom > "$work/a/big"; sync "$work/a/big"
    sum=$(sha256sum < "$work/a/big")
    remount_a
}
remount_a() { sr umount a; sr mount a "$work/a"; }

tell() { echo "$*" > "$disk/control"; }
met() { cat "$disk/control"; }
met_more_than() { [ "$(met)" -gt "$1" ]; }
pool_is() { [ "$(timeout 5 "$STRONGROOM_BIN" status --json | jq -r .pool.state)" = "$1" ]; }
is_kept() { [ "$(timeout 5 cat "$work/a/kept" "$work/b/kept")" = $'kept a\nkept b' ]; }
is_gone() { ! kill -0 "$1" 2>/dev/null; }

# Two descriptors of one file and one of a file on another cluster: what each of them is told by fsync,
# first while all is well, then after FAULT, again, and once the disk works.
fsyncs() { # FAULT
    python3 - "$disk/control" "$work/a/file" "$work/b/file" "$1" <<'PYTHON'
import errno, os, sys
control, a, b, fault = sys.argv[1:]
def tell(line):
    with open(control, "w") as file:
        file.write(line)
def said(do, *args):
    try:
        do(*args)
        return "ok"
    except OSError as error:
        return errno.errorcode[error.errno]
one, two, other = (os.open(path, os.O_RDWR | os.O_CREAT) for path in (a, a, b))
def written(byte):
    for at, file in enumerate((one, two, other)):
        said(os.pwrite, file, byte * 4096, 4096 * at)
def synced():
    return " ".join(said(os.fsync, file) for file in (one, two, other))
written(b"1")
print("well:", synced())
tell(fault)
written(b"2")
print("failing:", synced())
print("again:", synced())
tell("ok")
print("works:", synced())
written(b"3")
print("written to:", synced())
PYTHON
}

# The pool is read-only and says so; what is there is read; nothing more is promised.
assert_read_only() { # REASON
    sr status --json > "$work/status.json"
    jq .pool "$work/status.json"
    [ "$(jq -r .pool.state "$work/status.json")" = readOnly ]
    jq -r .pool.reason "$work/status.json" | grep -q "$1"
    sr status | grep -q '  - mend what made the pool read-only, then: strongroom pool resume'
    fails 1 snapshot create a --json
    [[ $output == *pool-read-only* ]]
    fails 1 cluster create c
    run touch "$work/a/new" "$work/b/new"
    [ "$status" -ne 0 ]
    is_kept
}

# FAULT is told to everybody, and the pool comes back as it was acknowledged.
assert_told() { # FAULT REASON
    echo "== $1"
    run fsyncs "$1"
    echo "$output"
    [ "$output" = "well: ok ok ok
failing: EIO EIO EIO
again: EIO EIO EIO
works: EIO EIO EIO
written to: EIO EIO EIO" ]
    assert_read_only "$2"
    sr pool resume
    pool_is ok
    is_kept
    # Of what was acknowledged before the failure, either that or what was written over it.
    [ "$(tr -d '123' < "$work/a/file" | wc -c)" = 0 ]
    [ "$(stat -c %s "$work/a/file")" = 8192 ]
    echo "$1" > "$work/a/more"; sync "$work/a/more"
    take a
}

ends_clean() {
    sr shutdown
    sr check | grep -qx clean
}

@test "a flush or write that fails once is told to every caller of every cluster, until the pool is resumed" {
    make_pool_on_disk
    assert_told "flush eio once" "flush.*Input/output error"
    assert_told "write eio once" "write.*Input/output error"
    ends_clean
}

@test "so are those that fail for good, and a disk that has no room for what it had promised" {
    make_pool_on_disk
    assert_told "flush eio" "flush.*Input/output error"
    assert_told "write eio" "write.*Input/output error"
    assert_told "write enospc" "full"
    ends_clean
}

@test "for as long as the disk fails the pool does not come back, and once it works it does" {
    make_pool_on_disk
    tell flush eio
    run bash -c "echo x > '$work/a/x' && sync '$work/a/x'"
    [[ $output == *"Input/output error"* ]]
    fails 1 pool resume
    [[ $output == *"Input/output error"* ]]
    fails 1 mount a "$work/a"
    [[ $output == *"Input/output error"* ]]
    tell ok
    sr pool resume
    pool_is ok
    is_kept
    ends_clean
}

@test "a read that fails is an error of that read alone, and what is stored stays" {
    make_pool_on_disk
    make_cold 8M
    tell read eio
    run sha256sum "$work/a/big"
    [ "$status" -ne 0 ]
    [[ $output == *"Input/output error"* ]]
    tell ok
    [ "$(sha256sum < "$work/a/big")" = "$sum" ]
    is_kept
    pool_is ok
    ends_clean
}

@test "a disk that does a part of each request, or is interrupted, loses nothing; one that does none is told" {
    make_pool_on_disk
    before=$(met)
    tell write short 1024
    head -c 3M /dev/urandom > "$work/a/big"; sync "$work/a/big"
    tell write eintr once
    echo x > "$work/a/x"; sync "$work/a/x"
    sum=$(sha256sum < "$work/a/big")
    met_more_than $((before + 1000))
    sr umount a
    tell ok
    tell read short 1000
    sr mount a "$work/a"
    [ "$(sha256sum < "$work/a/big")" = "$sum" ]
    remount_a
    tell read eintr once
    [ "$(sha256sum < "$work/a/big")" = "$sum" ]
    remount_a
    tell read short 0
    run timeout 20 cat "$work/a/big"
    [ "$status" -ne 0 ]
    [ "$status" -ne 124 ]
    pool_is ok
    tell write short 0
    run timeout 20 bash -c "echo y > '$work/b/y' && sync '$work/b/y'"
    [ "$status" -ne 0 ]
    [ "$status" -ne 124 ]
    pool_is readOnly
    tell ok
    sr pool resume
    pool_is ok
    [ "$(sha256sum < "$work/a/big")" = "$sum" ]
    ends_clean
}

@test "while the disk hangs, fsync and umount are not told that they are done; what does not need it goes on" {
    make_pool_on_disk
    for operation in flush write; do
        before=$(met)
        tell "$operation" hold
        (echo x > "$work/a/x"; sync "$work/a/x"; touch "$work/$operation.synced") 3>&- &
        syncing=$!
        eventually 10 met_more_than "$before"
        pool_is ok
        is_kept
        timeout 5 bash -c "echo y > '$work/b/y'"
        (sr umount b; touch "$work/$operation.unmounted") 3>&- &
        unmounting=$!
        # It waits for its last checkpoint.
        eventually 10 bash -c "! mountpoint -q '$work/b'"
        pool_is ok
        [ ! -e "$work/$operation.synced" ]
        [ ! -e "$work/$operation.unmounted" ]
        tell ok
        wait "$syncing" "$unmounting"
        [ -e "$work/$operation.synced" ]
        [ -e "$work/$operation.unmounted" ]
        sr mount b "$work/b"
        [ "$(cat "$work/a/x" "$work/b/y")" = $'x\ny' ]
    done
    ends_clean
}

@test "while reads hang, who needs them waits, and gets what is there; a signal ends the daemon once they do not" {
    make_pool_on_disk
    make_cold 3M
    before=$(met)
    tell read hold
    (sha256sum < "$work/a/big" > "$work/sum"; touch "$work/done") 3>&- &
    reader=$!
    eventually 10 met_more_than "$before"
    pool_is ok
    [ "$(timeout 5 cat "$work/b/kept")" = "kept b" ]
    timeout 5 bash -c "echo y > '$work/b/y' && sync '$work/b/y'"
    [ ! -e "$work/done" ]
    tell ok
    wait "$reader"
    [ "$(cat "$work/sum")" = "$sum" ]
    before=$(met)
    tell flush hold
    (echo x > "$work/a/x"; sync "$work/a/x" || true) 3>&- &
    eventually 10 met_more_than "$before"
    pid=$(daemon_pid)
    kill "$pid"
    # Begun with the mount that nobody uses, whose last checkpoint waits.
    eventually 10 bash -c "! mountpoint -q '$work/b'"
    kill -0 "$pid"
    tell ok
    eventually 30 is_gone "$pid"
    sr check | grep -qx clean
}

@test "a disk that gets shorter is told, not written over, and goes on once it has its size again" {
    make_pool_on_disk
    head -c 24M /dev/urandom > "$work/a/big"; sync "$work/a/big"
    sum=$(sha256sum < "$work/a/big")
    tell end $((20 << 20))
    run bash -c "echo x > '$work/a/x' && sync '$work/a/x'"
    [ "$status" -ne 0 ]
    assert_read_only "cut short"
    cp --sparse=always "$work/medium" "$work/before"
    # It does not open, and check names it.
    sr shutdown --force || true
    fails 4 mount a "$work/a"
    fails 4 check
    [[ $output == *20971520* ]]
    cmp "$work/medium" "$work/before"
    tell ok
    sr mount a "$work/a"
    [ "$(sha256sum < "$work/a/big")" = "$sum" ]
    ends_clean
}

@test "a block device that gets shorter is told as well, and resumed once it is enlarged again" {
    work=$(mktemp -d /var/tmp/strongroom-test.XXXXXX)
    chmod 755 "$work"
    truncate -s 400M "$work/medium"
    device=$(losetup -f --show "$work/medium")
    make_clusters "$device"
    # What is cut off was not used yet.
    truncate -s 380M "$work/medium"
    losetup -c "$device"
    run bash -c "echo x > '$work/a/x' && sync '$work/a/x'"
    [[ $output == *"Input/output error"* ]]
    assert_read_only "the device has $((380 << 20)) bytes and had $((400 << 20)): it was cut short"
    fails 4 pool resume
    truncate -s 400M "$work/medium"
    losetup -c "$device"
    sr pool resume
    pool_is ok
    is_kept
    echo more > "$work/a/more"; sync "$work/a/more"
    ends_clean
}
