# salvage: what is readable is copied out of a pool, also where it no longer opens.

load lib.bash

teardown() {
    mountpoint -q "${work:-/nowhere}/small" && umount "$work/small"
    mountpoint -q "${work:-/nowhere}/pool" && umount "$work/pool"
    drop_pool
}

# Overwrites the space ring, of which there is one copy.
break_ring() {
    dd if=/dev/urandom of="$STRONGROOM_POOL/pool.img" bs=1M seek=4 count=1 conv=notrunc status=none
}

# Everything that files have: two trees are one.
same() { # TREE TREE
    local difference
    difference=$(rsync -aHAXSn --checksum --delete --itemize-changes "$1/" "$2/")
    [ -z "$difference" ] || { echo "$difference"; return 1; }
}

filled() {
    POOL_SIZE=256M make_pool
    sr key create k1
    sr cluster create db
    sr cluster create secret --key k1
    sr cluster create empty
    mkdir "$work/l"
    sr mount db "$work/m"
    sr mount secret "$work/l"
    echo hidden > "$work/l/file"
    mkdir -p "$work/m/base/deep/er" "$work/m/old"
    head -c 3000000 /dev/urandom > "$work/m/base/table"
    ln "$work/m/base/table" "$work/m/base/deep/zz"
    ln -s ../base/table "$work/m/link"
    ln -s "$work" "$work/m/out"
    truncate -s 200M "$work/m/sparse"
    echo end | dd of="$work/m/sparse" bs=1 seek=100M conv=notrunc status=none
    mkfifo "$work/m/pipe"
    cp /bin/true "$work/m/su"
    chmod 4755 "$work/m/su"
    chown -h 1000:1001 "$work/m/base/deep" "$work/m/link"
    chmod 3711 "$work/m/base/deep"
    setfattr -n user.note -v "$(printf %3500s x)" "$work/m/base/table"
    touch -h -d '2001-02-03 04:05:06.789' "$work/m/link"
    [ "$(id -u)" -ne 0 ] || mknod "$work/m/null" c 1 3
    touch -d '1999-01-01 00:00:01.5' "$work/m/old" "$work/m"
    mkdir "$work/want"
    cp -a --sparse=always "$work/m/." "$work/want/"
}

@test "a sound pool is copied as it is mounted; a daemon, a full directory and the pool itself are refused" {
    filled
    fails 1 salvage "$work/out"
    one_line
    [ ! -e "$work/out" ]
    sr shutdown
    sr salvage --list | grep -q "cluster db: can be copied"
    before=$(sha256sum < "$STRONGROOM_POOL/pool.img")
    sr salvage "$work/out" --json > "$work/told"
    [ "$(sha256sum < "$STRONGROOM_POOL/pool.img")" = "$before" ]
    same "$work/want" "$work/out/clusters/db"
    [ "$(cat "$work/out/clusters/secret/file")" = hidden ]
    [ "$(du -k "$work/out/clusters/db/sparse" | cut -f1)" -lt 100 ]
    [ "$(stat -c %a "$work/out")" = 700 ]
    [ "$(jq '.lost | length' "$work/told")" = 0 ]
    jq -e . "$work/out/salvage-report.json" > /dev/null
    fails 1 salvage "$work/out" --json
    [[ $output == *'"code":"file-exists"'* ]]
    fails 1 salvage "$work/out/salvage-report.json"
    fails 2 salvage "$STRONGROOM_POOL/inside"
    [ ! -e "$STRONGROOM_POOL/inside" ]
    fails 2 salvage
    fails 1 salvage "$work/other" --cluster nothing
    [ ! -e "$work/other" ]
    [ "$(id -u)" -eq 0 ] || return 0
    # A medium that cannot be written to.
    mount --bind -o ro "$STRONGROOM_POOL" "$STRONGROOM_POOL"
    ! touch "$STRONGROOM_POOL/pool.img" 2> /dev/null
    sr salvage "$work/again" --cluster db
    umount "$STRONGROOM_POOL"
    same "$work/want" "$work/again/clusters/db"
    # Whose it is nobody but root can give away.
    runuser -u nobody -- test -x "$STRONGROOM_BIN" || return 0
    mkdir "$work/theirs"
    chown -R nobody: "$STRONGROOM_POOL" "$STRONGROOM_CONFIG" "$work/theirs"
    runuser -u nobody -- "$STRONGROOM_BIN" salvage "$work/theirs" --cluster db > "$work/told"
    grep -q 'not kept: owner and group ' "$work/told"
    grep -q 'not kept: set-ID bits (1 times, first cluster db: /su)' "$work/told"
    grep -q 'not kept: device nodes: not made (1 times, first cluster db: /null)' "$work/told"
    [ "$(stat -c '%U %a' "$work/theirs/clusters/db/su")" = "nobody 755" ]
    cmp "$work/want/base/table" "$work/theirs/clusters/db/base/deep/zz"
    [ "$(stat -c %h "$work/theirs/clusters/db/base/table")" = 2 ]
}

@test "a pool whose space ring is overwritten after a crash is copied whole, with what was acknowledged" {
    filled
    sync -f "$work/m"
    sync "$work/l/file"
    echo acknowledged > "$work/m/late"
    sync "$work/m/late"
    kill_daemon
    umount -l "$work/m" "$work/l"
    break_ring
    fails 4 cluster list
    [[ $output == *salvage* ]]
    run sr check
    [ "$status" -eq 4 ]
    [[ $output == *"strongroom salvage"* ]]
    sr salvage "$work/out"
    [ "$(cat "$work/out/clusters/db/late")" = acknowledged ]
    rm "$work/out/clusters/db/late"
    touch -d '1999-01-01 00:00:01.5' "$work/out/clusters/db"
    same "$work/want" "$work/out/clusters/db"
    [ "$(cat "$work/out/clusters/secret/file")" = hidden ]
}

@test "snapshots that nobody asked for are told, those of deleted clusters too" {
    POOL_SIZE=256M make_pool
    sr cluster create db
    sr cluster create gone
    sr mount gone "$work/m"; echo words > "$work/m/file"
    id=$(take gone)
    sr umount gone
    sr cluster delete gone --yes
    other=$(take db)
    sr shutdown
    sr salvage --list > "$work/told"
    grep -qx "snapshot $id of gone, a cluster that was deleted: not asked for" "$work/told"
    grep -qx "snapshot $other of db: not asked for" "$work/told"
    note="2 snapshots were not asked for, 1 of them of deleted clusters: --snapshot ID copies one"
    grep -qxF "note: $note" "$work/told"
    sr salvage "$work/out" | grep -qxF "note: $note"
    sr salvage "$work/one" --snapshot "$id" > "$work/told"
    ! grep -q "not asked for" "$work/told"
    [ "$(cat "$work/one/snapshots/$id/file")" = words ]
}

@test "where nothing can be read, check and salvage say so and do not send in a circle" {
    filled
    sr umount --all
    sr shutdown
    # Both copies of the catalog's root, in the newest state and in the one before.
    sr debug node --json | jq -r '.results[] | .addr, (.second // empty)' | while read -r block; do
        dd if=/dev/urandom of="$STRONGROOM_POOL/pool.img" bs=4096 seek="$block" count=4 conv=notrunc status=none
    done
    fails 4 check
    [[ $output != *"strongroom check"* && $output == *"strongroom salvage DEST"* ]]
    fails 4 salvage --list
    [[ $output == *"no tree can be copied"* && $output != *"what is above"* ]]
    fails 4 salvage "$work/out"
    [[ $output == *"no tree was copied"* ]]
}

@test "a key that is disabled keeps its cluster out of the copy, and the rest is copied" {
    filled
    sr umount secret
    id=$(take secret)
    sr key disable k1 --yes
    sr shutdown
    fails 3 salvage "$work/out"
    [[ $output == *"local://k1"*disabled* ]]
    same "$work/want" "$work/out/clusters/db"
    [ ! -e "$work/out/clusters/secret" ]
    ! grep -rq hidden "$work/out/clusters" "$work/out/salvage-report.json"
    fails 3 salvage "$work/only" --snapshot "$id"
    [ "$(find "$work/only" -type f)" = "$work/only/salvage-report.json" ]
    # Nor does an older keyring open it, in which the key was enabled.
    sr key enable k1
    sr shutdown
    cp "$work"/config/pools/*/keyring "$work/keyring"
    sr key disable k1 --yes
    sr shutdown
    cp "$work/keyring" "$work"/config/pools/*/keyring
    fails 3 salvage "$work/again" --cluster secret
    [ ! -e "$work/again/clusters" ]
}

@test "a destination without room ends the copy, and what is missing is named" {
    [ "$(id -u)" -eq 0 ] || skip "a small filesystem needs root"
    filled
    sr shutdown
    mkdir "$work/small"
    mount -t tmpfs -o size=1M none "$work/small"
    run "$STRONGROOM_BIN" salvage "$work/small" --cluster db --json
    [ "$status" -eq 1 ]
    [[ $output == *'"/base/table"'* && $output == *notWritten* ]]
    [ ! -e "$work/small/clusters/db/base/table" ]
}
