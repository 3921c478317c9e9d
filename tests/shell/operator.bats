# The operator's day: boot, a crash, lost configuration, a moved pool, restores.

load lib.bash

setup() { make_pool; }
teardown() { drop_pool; }

# What mount(8) calls for a line of fstab.
fstab_mount() { # SOURCE DIR OPTIONS
    ln -sf "$STRONGROOM_BIN" "$work/mount.fuse.strongroom"
    "$work/mount.fuse.strongroom" "$1" "$2" -o "$3"
}

state_is() { [ "$(sr cluster show "$1" --json | jq -r .state)" = "$2" ]; }
folder() { echo "$work"/config/pools/*; }

# A cluster under a key, with a file in it; a backup of the configuration; the daemon ended.
make_cluster() {
    sr key create k1
    sr cluster create db --key k1
    sr mount db "$work/m"
    echo one > "$work/m/file"
    echo the-words-of-the-backup > "$work/words"; chmod 600 "$work/words"
    sr config backup "$work/backup" --backup-passphrase-file "$work/words"
}

@test "a line of fstab mounts at boot while the key's provider is absent, and the mount opens by itself" {
    make_cluster
    sr shutdown
    mv "$(folder)/keyring" "$work/away"
    run fstab_mount db "$work/m" "rw,pool=$work/pool,nofail"
    [ "$status" -eq 32 ]
    ! mountpoint -q "$work/m"
    unset STRONGROOM_POOL
    fstab_mount db "$work/m" "rw,pool=$work/pool,key_wait,nofail,x-systemd.requires=a.service"
    export STRONGROOM_POOL=$work/pool
    grep -q " $work/m fuse.strongroom " /proc/self/mounts
    run cat "$work/m/file"
    [[ $output == *"Required key not available"* ]]
    state_is db locked
    sr status 2>&1 | grep -q "keyring are unreachable"
    mv "$work/away" "$(folder)/keyring"
    eventually 20 cat "$work/m/file"
    [ "$(cat "$work/m/file")" = one ]
    state_is db mounted
    echo two > "$work/m/file"
    ! sr status 2>&1 | grep -q "keyring are unreachable"
}

@test "a keyring that came late serves the next command at once" {
    make_cluster
    sr shutdown
    mv "$(folder)/keyring" "$work/away"
    fails 3 mount db "$work/m"
    mv "$work/away" "$(folder)/keyring"
    sr mount db "$work/m"
    [ "$(cat "$work/m/file")" = one ]
}

@test "a cluster whose key is disabled waits with key_wait until it is enabled" {
    make_cluster
    sr umount db
    sr key disable k1 --yes
    fstab_mount db "$work/m" "pool=$work/pool,key_wait"
    state_is db locked
    sr key enable k1
    eventually 20 cat "$work/m/file"
}

@test "the mount helper ends with 1 for wrong usage, and is content with what is mounted" {
    make_cluster
    run fstab_mount db "$work/m" "bogus"
    [ "$status" -eq 1 ]
    sr umount db
    fstab_mount db "$work/m" "pool=$work/pool,_netdev,noauto,user,defaults"
    fstab_mount db "$work/m" "pool=$work/pool,_netdev,noauto,user,defaults"
}

@test "the daemon killed: mounts of clusters and snapshots come back, with what had been synced" {
    make_cluster
    snap=$(take db)
    sr restore "$snap" "$work/r"
    echo two > "$work/m/file"; sync "$work/m/file"
    kill_daemon
    sr cluster list
    eventually 10 cat "$work/m/file"
    [ "$(cat "$work/m/file")" = two ]
    [ "$(cat "$work/r/file")" = one ]
}

@test "SIGTERM and a new start make the mounts again; shutdown forgets them" {
    make_cluster
    pid=$(daemon_pid)
    kill -TERM "$pid"
    eventually 10 eval "! kill -0 $pid"
    sr cluster list
    state_is db mounted
    sr shutdown
    sr cluster list
    state_is db unmounted
}

@test "configuration lost: nothing opens; config restore brings all back, keys and mounts" {
    make_cluster
    sr shutdown
    rm -rf "$work/config"
    fails 1 mount db "$work/m"
    [[ $output == *"config restore"* ]]
    echo wrong > "$work/wrong"; chmod 600 "$work/wrong"
    fails 1 config restore "$work/backup" --backup-passphrase-file "$work/wrong"
    [[ $output == *"does not open the backup"* ]]
    sr config restore "$work/backup" --backup-passphrase-file "$work/words"
    sr mount db "$work/m"
    [ "$(cat "$work/m/file")" = one ]
}

@test "configuration lost: the recovery key opens the pool, and a backup still brings the keys back" {
    make_cluster
    sr cluster create plain
    sr shutdown
    rm -rf "$work/config"
    recovery_key "$work/recovery"
    sr daemon --recovery-key "$work/recovery"
    sr mount plain "$work/r"
    fails 3 mount db "$work/m"
    [[ $output == *local://k1* ]]
    sr root-secret add "file:$work/new.key"
    sr shutdown
    sr cluster list
    # A daemon that runs holds the keyring that it began with.
    sr shutdown
    sr config restore "$work/backup" --backup-passphrase-file "$work/words"
    sr mount db "$work/m"
    [ "$(cat "$work/m/file")" = one ]
}

@test "a wrong recovery key is refused, and a typing error is named" {
    sr shutdown || true
    recovery_key "$work/recovery"
    rm -rf "$work/config"
    tr 'A-H' 'B-HA' < "$work/recovery" > "$work/typo"; chmod 600 "$work/typo"
    fails 1 daemon --recovery-key "$work/typo"
    [[ $output == *"typing error"* ]]
    STRONGROOM_CONFIG=$work/other sr init --pool "$work/other.img" --size 300M > "$work/init.out"
    recovery_key "$work/others"
    fails 1 daemon --recovery-key "$work/others"
    sr daemon --recovery-key "$work/recovery"
}

@test "a wrong root secret is refused, and the right one opens" {
    key=$(folder)/root.key
    cp -p "$key" "$work/right"
    head -c 32 /dev/urandom > "$key"
    fails 1 cluster list
    [[ $output == *"does not open the pool"* ]]
    cp -p "$work/right" "$key"
    sr cluster list
}

@test "a pool under a passphrase: wrong, none, right" {
    drop_pool
    echo right > /dev/shm/strongroom-words.$$; chmod 600 /dev/shm/strongroom-words.$$
    make_pool --root-secret passphrase --passphrase-file /dev/shm/strongroom-words.$$
    mv /dev/shm/strongroom-words.$$ "$work/words"
    echo wrong > "$work/wrong"; chmod 600 "$work/wrong"
    fails 1 --passphrase-file "$work/wrong" cluster list
    fails 1 cluster list < /dev/null
    [[ $output == *--passphrase-file* ]]
    sr --passphrase-file "$work/words" cluster list
}

@test "a pool that was moved opens in its new place" {
    make_cluster
    sr shutdown
    mv "$work/pool" "$work/elsewhere"
    export STRONGROOM_POOL=$work/elsewhere
    sr mount db "$work/m"
    [ "$(cat "$work/m/file")" = one ]
}

@test "a copy that is older than what was seen is refused, unless it is accepted" {
    make_cluster
    sr shutdown
    cp -r --sparse=always "$work/pool" "$work/copy"
    sr mount db "$work/m"; echo two > "$work/m/file"; sr shutdown
    export STRONGROOM_POOL=$work/copy
    fails 1 cluster list
    [[ $output == *"or accept this one: strongroom daemon --accept-rollback"* ]]
    sr daemon --accept-rollback
    sr mount db "$work/m"
    [ "$(cat "$work/m/file")" = one ]
}

@test "a second daemon is refused" {
    sr cluster list
    fails 1 daemon
    fails 1 daemon --foreground
    sr cluster list
}

@test "one file is brought back from a mounted snapshot" {
    make_cluster
    snap=$(take db)
    rm "$work/m/file"
    sr restore "$snap" "$work/r"
    cp -a "$work/r/file" "$work/m/file"
    sr umount "$work/r"
    [ "$(cat "$work/m/file")" = one ]
}

@test "a restore in place keeps a safety snapshot, and is undone by it" {
    make_cluster
    snap=$(take db)
    echo two > "$work/m/file"
    fails 1 restore "$snap" --in-place --yes
    sr umount db
    safety=$(sr restore "$snap" --in-place --yes --json | jq -r .safetySnapshot.id)
    sr mount db "$work/m"
    [ "$(cat "$work/m/file")" = one ]
    sr umount db
    sr restore "$safety" --in-place --yes
    sr mount db "$work/m"
    [ "$(cat "$work/m/file")" = two ]
}

@test "several clusters are snapshotted at one point in time" {
    sr cluster create a; sr cluster create b
    sr mount a "$work/m"; sr mount b "$work/r"
    # b never is ahead of a: it is written after a.
    (n=0; while [ ! -e "$work/stop" ]; do n=$((n + 1)); echo $n > "$work/m/n"; echo $n > "$work/r/n"; done) &
    writer=$!
    sleep 0.3
    sr snapshot create a b --json > "$work/taken"
    touch "$work/stop"; wait $writer
    sr umount --all
    [ "$(jq -r '.results[].createdAt' "$work/taken" | sort -u | wc -l)" = 1 ]
    sr restore "$(jq -r '.results[] | select(.clusterName=="a").id' "$work/taken")" "$work/m"
    sr restore "$(jq -r '.results[] | select(.clusterName=="b").id' "$work/taken")" "$work/r"
    a=$(cat "$work/m/n"); b=$(cat "$work/r/n")
    echo "a $a, b $b"
    # An opening that truncates may lie between: then the file is empty.
    [ -z "$a" ] || [ -z "$b" ] || { [ "$b" -le "$a" ] && [ "$a" -le $((b + 1)) ]; }
}

@test "a snapshot expires by itself, and the others stay" {
    sr cluster create db
    sr snapshot create db --retain 1s
    kept=$(take db)
    sleep 1.1
    # What is done once a minute is done at the start, too.
    sr shutdown
    sr cluster list
    only() { [ "$(sr snapshot list --json | jq -r '.results[].id')" = "$kept" ]; }
    eventually 15 only
}

@test "a superblock copy that is damaged is repaired; with all damaged the pool is refused with 4" {
    make_cluster
    sr shutdown
    image=$work/pool/pool.img
    damage() { head -c 500 /dev/urandom | dd of="$image" bs=1 seek=$(($1 + 64)) conv=notrunc status=none; }
    good() { sr debug superblock --json | jq '[.results[] | select(.state == "good")] | length'; }
    [ "$(good)" = 4 ]
    mapfile -t copies < <(sr debug superblock --json | jq '.results[].offsetBytes')
    damage "${copies[0]}"
    [ "$(good)" = 3 ]
    sr mount db "$work/m"
    [ "$(cat "$work/m/file")" = one ]
    sr shutdown
    [ "$(good)" = 4 ]
    for at in "${copies[@]}"; do damage "$at"; done
    before=$(head -c 8M "$image" | sha256sum)
    fails 4 cluster list
    fails 4 check
    [ "$before" = "$(head -c 8M "$image" | sha256sum)" ]
}

@test "a truncated pool is refused with 4, untouched, and opens again at its old size" {
    make_cluster
    sr shutdown
    truncate -s 500M "$work/pool/pool.img"
    fails 4 cluster list
    truncate -s 1G "$work/pool/pool.img"
    sr mount db "$work/m"
    [ "$(cat "$work/m/file")" = one ]
}

@test "check and debug look at a pool that no daemon serves, and print no key" {
    make_cluster
    snap=$(take db)
    fails 1 check
    fails 1 debug superblock
    sr shutdown
    sr check | grep -qx clean
    for what in superblock "header db" "header $snap" node "log db" region "region 0"; do
        # shellcheck disable=SC2086
        sr debug $what > "$work/seen"
        [ -s "$work/seen" ]
        # shellcheck disable=SC2086
        sr debug $what --json | jq -e . > /dev/null
    done
    fails 1 debug header nobody
}

@test "check finds a damaged block, and ends with 4" {
    make_cluster
    head -c 8M /dev/urandom > "$work/m/big"
    sr shutdown
    image=$work/pool/pool.img
    size=$(stat -c %s "$image")
    # A block that holds data, in the last stretch that does.
    at=$(python3 - "$image" <<'PY'
import os, sys
f = os.open(sys.argv[1], os.O_RDONLY)
pos, last = 0, 0
while True:
    try: pos = os.lseek(f, pos, os.SEEK_DATA)
    except OSError: break
    end = os.lseek(f, pos, os.SEEK_HOLE)
    if end - pos >= 4 << 20: last = pos + (end - pos) // 2 // 4096 * 4096
    pos = end
print(last // 4096)
PY
)
    echo "block $at of $((size / 4096))"
    head -c 65536 /dev/urandom | dd of="$image" bs=4096 seek="$at" conv=notrunc status=none
    fails 4 check
}
