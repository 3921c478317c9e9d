# check and scrub: what is damaged is named, everything else goes on, and the status says so.

load lib.bash

teardown() { drop_pool; }

# A block in the middle of the longest run of data; the daemon must be shut down.
data_block() {
    local region
    for region in $(sr debug region --json | jq -r '.results[].region'); do
        sr debug region "$region" --json
    done | jq -s '[.[].runs[] | select(.segment != 1)] | max_by(.blocks) | .addr + 3'
}

flip() { # BLOCK
    local byte
    byte=$(od -An -tu1 -j $(($1 * 4096 + 100)) -N 1 "$STRONGROOM_POOL/pool.img")
    printf "\\x$(printf %x $((byte ^ 1)))" |
        dd of="$STRONGROOM_POOL/pool.img" bs=1 seek=$(($1 * 4096 + 100)) conv=notrunc status=none
}

filled() {
    POOL_SIZE=256M make_pool
    sr cluster create db
    sr mount db "$work/m"
    mkdir -p "$work/m/base"
    head -c 3000000 /dev/urandom > "$work/m/base/table"
    ln "$work/m/base/table" "$work/m/base/zz"
    echo sound > "$work/m/other"
    sync -f "$work/m"
    snap=$(take db)
}

@test "damage is named with cluster, snapshot, path and offset; the rest is read, and the file can be deleted" {
    filled
    sr scrub | grep -qx clean
    sr scrub --json | jq -e 'has("blocksReached") | not' > /dev/null
    fails 1 check
    sr shutdown
    sr check | grep -qx clean
    block=$(data_block)
    flip "$block"

    run sr check --json
    [ "$status" -eq 4 ]
    found=$("$STRONGROOM_BIN" check --json 2> "$work/problem" || true)
    [ "$(jq -r .code "$work/problem")" = corrupt ]
    [ "$(jq '.results | length' <<< "$found")" = 1 ]
    [ "$(jq -r '.results[0].kind' <<< "$found")" = rot ]
    # The first of its two names, whichever that is.
    [[ $(jq -r '[.results[0].hits[] | .path] | unique | .[]' <<< "$found") =~ ^/base/(table|zz)$ ]]
    [ "$(jq -r '.results[0].hits[1].snapshotId' <<< "$found")" = "$snap" ]
    [ "$(jq -r '.results[0].hits[0] | "\(.names) \(.length)"' <<< "$found")" = "2 4096" ]
    [ "$(jq '.nextSteps | length' <<< "$found")" -gt 0 ]

    sr mount db "$work/m"
    run cat "$work/m/base/table"
    [ "$status" -ne 0 ]
    [ "$(cat "$work/m/other")" = sound ]
    fails 4 scrub
    [[ $output == *"hits cluster db: /base/"* ]]
    rm "$work/m/base/table" "$work/m/base/zz"
    # The snapshot has it still.
    fails 4 scrub
    [[ $output != *"hits cluster db"* ]]
    sr snapshot delete "$snap"
    eventually 20 sr scrub
}

@test "a cluster whose log is damaged is named and salvaged, and goes on without it once that is accepted" {
    filled
    local n at
    for n in 1 2 3 4 5 6 7 8 9; do
        echo "$n" > "$work/m/late$n"
        sync "$work/m/late$n"
    done
    kill_daemon
    at=$(sr debug log db --json | jq '.results[0] | .area + .half * .areaBlocks / 2')
    flip "$at"

    fails 4 mount db "$work/m"
    [[ $output == *"strongroom cluster accept-log-loss db"* ]]
    fails 4 snapshot create db
    sr status --json | jq -e '.nextSteps | any(contains("cluster accept-log-loss db"))' > /dev/null
    sr shutdown
    fails 4 salvage "$work/out" --cluster db
    [ "$(cat "$work/out/clusters/db/other")" = sound ]

    sr cluster accept-log-loss db --yes
    sr mount db "$work/m"
    cmp "$work/m/base/table" "$work/out/clusters/db/base/table"
    [ ! -e "$work/m/late9" ]
    echo new > "$work/m/new"
    sync "$work/m/new"
    take db
    sr shutdown
    sr check | grep -qx clean
    fails 1 cluster accept-log-loss db
}

# Damages a block of a leaf of the cluster's tree in which there are inodes of files below /many, and
# nothing else, as the check tells; prints their paths. No file has content; the daemon must be shut down.
rot_inodes() {
    local region block hits
    for region in $(sr debug region --json | jq -r '.results[].region'); do
        sr debug region "$region" --json
    done | jq '.runs[] | select(.segment != 1) | range(.addr; .addr + .blocks; 4)' > "$work/blocks"
    while read -r block; do
        flip "$block"
        hits=$("$STRONGROOM_BIN" check --json 2> /dev/null |
            jq -r '.results[] | select(.kind == "node") | .hits[].path // "none"') || true
        if grep -q '^/many/' <<< "$hits" && ! grep -qv '^/many/' <<< "$hits"; then
            echo "$hits"
            return
        fi
        flip "$block"
    done < "$work/blocks"
    return 1
}

@test "files whose inodes rot are listed, refused and deleted; nothing else suffers, and check says no more" {
    POOL_SIZE=256M make_pool
    sr cluster create db
    sr mount db "$work/m"
    mkdir "$work/m/many"
    seq 500 | (cd "$work/m/many" && xargs touch)
    ln "$work/m/many/250" "$work/m/other-name"
    sr shutdown
    rot_inodes | sort > "$work/hit"
    [ "$(wc -l < "$work/hit")" -gt 10 ]
    victim=$work/m$(head -n 1 "$work/hit")
    fails 4 check
    before=$(sr check --json 2> /dev/null | jq '.results | length') || true

    sr mount db "$work/m"
    # The snapshot of what is damaged shows it, too.
    snap=$(take db)
    [ "$(ls "$work/m/many" | wc -l)" -eq 500 ]
    ls -l "$work/m/many" > "$work/listed"
    [ "$(grep -c '^---------- 1 root root  *0 ' "$work/listed")" -ge "$(wc -l < "$work/hit")" ]
    [ "$(stat -c '%a %s %h %U %Y' "$victim")" = "0 0 1 root 0" ]
    run cat "$victim"
    [ "$status" -ne 0 ]
    [[ $output == *"Input/output error"* ]]
    run chmod 600 "$victim"
    [[ $output == *"Input/output error"* ]]
    echo new > "$work/m/new"
    mv "$work/m/new" "$victim"
    [ "$(cat "$victim")" = new ]
    rm -r "$work/m/many"
    rm "$work/m/other-name"
    [ "$(ls -A "$work/m" | wc -l)" -eq 0 ]
    echo more > "$work/m/more"
    grep -q "cannot be read, and a name of it was taken away" "$work"/config/pools/*/daemon.log
    sr restore "$snap" "$work/r"
    [ "$(ls "$work/r/many" | wc -l)" -eq 500 ]
    run rm "$work/r${victim#"$work/m"}"
    [[ $output == *"Read-only file system"* ]]
    sr umount "$work/r"
    sr shutdown
    run sr check --json
    [ "$status" -eq 4 ]
    after=$("$STRONGROOM_BIN" check --json 2> /dev/null | jq '.results | length') || true
    [ "$after" -le $((before + 1)) ]
    sr mount db "$work/m"
    [ "$(cat "$work/m/more")" = more ]
}

@test "a pool that was put back whole is told by check, and opened once that is accepted" {
    filled
    sr shutdown
    cp --sparse=always "$STRONGROOM_POOL/pool.img" "$work/old.img"
    sr mount db "$work/m"
    echo more > "$work/m/more"
    sr shutdown
    cp --sparse=always "$work/old.img" "$STRONGROOM_POOL/pool.img"
    fails 1 check
    [[ $output == *"put back"* && $output == *accept-rollback* ]]
    run sr check --json
    [ "$("$STRONGROOM_BIN" check --json 2>&1 >/dev/null | jq -r .code)" = pool-rolled-back ]
    fails 1 mount db "$work/m"
    both debug superblock
    [ "$status" -eq 0 ]
    [[ $output == *"put back"* ]]
}

@test "a scrub keeps to its rate, shows in status, and one runs at a time" {
    filled
    sr scrub --rate 2MiB > "$work/slow" &
    slow=$!
    eventually 5 bash -c '"$STRONGROOM_BIN" status | grep -q "reading everything"'
    fails 1 scrub
    [[ $output == *"under way"* ]]
    wait "$slow"
    grep -qx clean "$work/slow"
    fails 2 scrub "$work/m/base"
    fails 1 scrub nothing-of-that-name
}
