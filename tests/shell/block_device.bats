# A pool on a block device.

load lib.bash

setup() {
    work=$(mktemp -d /var/tmp/strongroom-test.XXXXXX)
    mkdir "$work/m" "$work/r"
    truncate -s 300M "$work/disk"
    device=$(losetup -f --show "$work/disk")
    export STRONGROOM_POOL=$device STRONGROOM_CONFIG=$work/config
}
teardown() {
    sr shutdown --force >/dev/null 2>&1 || true
    losetup -d "$device"
    drop_pool
}

make() { sr init "$@" > "$work/init.out" 2>&1; }

@test "a device with a filesystem is refused, and taken when it is named again" {
    mkfs.ext4 -q "$device"
    before=$(sha256sum < "$device")
    fails 1 init
    [[ $output == *ext* && $output == *--wipe* ]]
    fails 2 init --wipe /dev/null
    [ "$before" = "$(sha256sum < "$device")" ]
    make --wipe "$device"
    fails 1 init
    [[ $output == *"strongroom pool"*"use it as it is"* ]]
}

@test "the main job on a device: mounted, snapshotted, killed, opened again, checked" {
    make
    sr cluster create db
    sr mount db "$work/m"
    echo one > "$work/m/file"
    snap=$(take db)
    echo two > "$work/m/file"; sync "$work/m/file"
    kill_daemon
    sr cluster list
    eventually 10 cat "$work/m/file"
    [ "$(cat "$work/m/file")" = two ]
    sr restore "$snap" "$work/r"
    [ "$(cat "$work/r/file")" = one ]
    sr shutdown
    sr check | grep -qx clean
}

@test "a device that grew is used whole after pool grow, while mounted" {
    make
    sr cluster create db
    sr mount db "$work/m"
    truncate -s 500M "$work/disk"
    losetup -c "$device"
    sr pool grow --size 500M
    dd if=/dev/urandom of="$work/m/big" bs=1M count=300 conv=fsync status=none
    fails 1 pool grow --size 900M
    [ "$(stat -c %s "$work/m/big")" = $((300 << 20)) ]
}

@test "the daemon holds the device: a filesystem cannot be made on it meanwhile" {
    make
    sr cluster create db
    fails 1 init --wipe "$device"
    run mkfs.ext4 -q -F "$device"
    [ "$status" -ne 0 ]
    sr cluster list | grep -q db
}
