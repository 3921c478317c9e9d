# No room: in the pool, and on the disk beneath it. What was acknowledged stays; deleting gives room.

load lib.bash

teardown() {
    drop_pool
    if [ -n "${small:-}" ]; then umount -l "$small" 2>/dev/null || true; rmdir "$small"; fi
    rm -f "${disk:-}"
}

fill() { dd if=/dev/urandom of="$1" bs=1M count="$2" conv=fsync status=none; }
free_bytes() { sr status --json | jq .pool.freeBytes; }
has_room() { [ "$(free_bytes)" -gt $(($1 << 20)) ]; }

@test "a full pool says ENOSPC, keeps what was acknowledged, and deleting a snapshot gives room again" {
    POOL_SIZE=300M make_pool
    sr cluster create db
    sr mount db "$work/m"
    fill "$work/m/a" 100
    sum=$(sha256sum < "$work/m/a")
    snap=$(take db)
    rm "$work/m/a"
    run fill "$work/m/b" 400
    [ "$status" -ne 0 ]
    [[ $output == *"No space left"* ]]
    rm "$work/m/b"
    # The snapshot still is what it was.
    sr restore "$snap" "$work/r"
    [ "$(sha256sum < "$work/r/a")" = "$sum" ]
    sr umount "$work/r"
    sr snapshot delete "$snap"
    eventually 20 has_room 150
    fill "$work/m/c" 120
    [ "$(sr status --json | jq -r .pool.state)" = ok ]
    sr shutdown
    sr check | grep -qx clean
}

@test "in a pool that is full to the brim snapshots are deleted, files are deleted, and the daemon ends cleanly" {
    POOL_SIZE=300M make_pool
    sr cluster create db
    sr mount db "$work/m"
    fill "$work/m/a" 60
    snap=$(take db)
    run fill "$work/m/b" 400
    [ "$status" -ne 0 ]
    # Down to the last block.
    for i in $(seq 200); do echo "$i" > "$work/m/small$i" && sync "$work/m/small$i" || break; done 2>/dev/null
    sr snapshot delete "$snap"
    rm "$work/m/a" "$work/m/b"
    eventually 20 has_room 100
    fill "$work/m/c" 50
    sr shutdown
    sr check | grep -qx clean
}

@test "a pool that is full is grown while it is mounted" {
    POOL_SIZE=300M make_pool
    sr cluster create db
    sr mount db "$work/m"
    run fill "$work/m/a" 400
    [ "$status" -ne 0 ]
    rm "$work/m/a"
    sr pool grow --size 700M
    [ "$(sr status --json | jq .pool.sizeBytes)" = $((700 << 20)) ]
    for i in 1 2 3 4 5 6; do fill "$work/m/b$i" 50; done
    fill "$work/m/a" 50
    sum=$(sha256sum < "$work/m/a")
    fails 2 pool grow --size 100M
    [[ $output == *"hint: name a --size above $((700 << 20))"* ]]
    if ! truncate -s 100T "$work/large" 2> /dev/null; then
        fails 1 pool grow --size 100T
        [[ $output == *"file too large for this filesystem"*"hint: choose a smaller --size"* ]]
    fi
    fails 2 pool grow --size 1000000T
    [[ $output == *"no pool can be that large"* ]]
    [ "$(sr status --json | jq -r .pool.state)" = ok ]
    rm -f "$work/large"
    sr shutdown
    sr mount db "$work/m"
    [ "$(sha256sum < "$work/m/a")" = "$sum" ]
}

@test "a full disk beneath the pool is an ordinary ENOSPC, and room there lets the pool go on" {
    small=$(mktemp -d /var/tmp/strongroom-small.XXXXXX)
    mount -t tmpfs -o size=160M strongroom-small "$small"
    work=$(mktemp -d /var/tmp/strongroom-test.XXXXXX)
    export STRONGROOM_POOL=$small/pool STRONGROOM_CONFIG=$work/config
    mkdir "$work/m" "$work/r"
    sr init --size 1G > "$work/init.out" 2>&1
    sr cluster create db
    sr mount db "$work/m"
    fill "$work/m/a" 40
    sum=$(sha256sum < "$work/m/a")
    snap=$(take db)
    run fill "$work/m/b" 200
    echo "$output"
    [ "$status" -ne 0 ]
    [[ $output == *"No space left"* ]]
    [ "$(sha256sum < "$work/m/a")" = "$sum" ]
    rm "$work/m/b"
    sr snapshot delete "$snap"
    mount -o remount,size=400M "$small"
    fill "$work/m/c" 60
    [ "$(sr status --json | jq -r .pool.state)" = ok ]
    [ "$(sha256sum < "$work/m/a")" = "$sum" ]
    sr shutdown
    sr check | grep -qx clean
}

@test "on a full ext4 beneath the pool several clusters fill up, and everything can be deleted and unmounted" {
    small=$(mktemp -d /var/tmp/strongroom-small.XXXXXX)
    disk=$small.disk
    truncate -s 330M "$disk"
    mkfs.ext4 -q "$disk"
    mount -o loop "$disk" "$small"
    work=$(mktemp -d /var/tmp/strongroom-test.XXXXXX)
    export STRONGROOM_POOL=$small/pool STRONGROOM_CONFIG=$work/config
    sr init --size 2G > "$work/init.out" 2>&1
    for c in a b c; do
        mkdir "$work/$c"
        sr cluster create "$c"
        sr mount "$c" "$work/$c"
        fill "$work/$c/first" 10
    done
    sums=$(cat "$work"/?/first | sha256sum)
    snap=$(take a)
    # All at once, until each was refused; somebody else takes the rest of the disk.
    for c in a b c; do
        (for n in $(seq 200); do fill "$work/$c/f$n" 2 || break; done) 2> "$work/$c.errors" &
    done
    wait
    dd if=/dev/zero of="$small/other" bs=1M 2>/dev/null || true
    for c in a b c; do
        grep -q "No space left" "$work/$c.errors"
        # What was acknowledged stays; what was accepted can be made durable.
        sync "$work/$c/first"
    done
    [ "$(cat "$work"/?/first | sha256sum)" = "$sums" ]
    sr status --json > "$work/status.json"
    jq -r '.warnings[]' < "$work/status.json" | grep -q "the filesystem that holds the pool is full"
    sr snapshot delete "$snap"
    rm "$work/a"/f* "$work/b"/f*
    [ "$(sr status --json | jq -r .pool.state)" = ok ]
    sr umount "$work/c"
    sr shutdown
    sr check | grep -qx clean
    # Room beneath gives room above.
    rm "$small/other"
    sr mount a "$work/a"
    fill "$work/a/again" 60
    sr shutdown
    sr check | grep -qx clean
}
