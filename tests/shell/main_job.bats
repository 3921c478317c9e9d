# The main job as a user at the prompt: storage, snapshots, the key that opens them.

load lib.bash

setup() { make_pool; }
teardown() { drop_pool; }

@test "a cluster is mounted, written, snapshotted, restored by mounting, and the key decides" {
    sr key create k1
    sr cluster create db --key k1
    sr mount db "$work/m"
    echo first > "$work/m/file"; mkdir "$work/m/sub"; echo deep > "$work/m/sub/file"
    snap=$(take db)
    echo second > "$work/m/file"

    run sr snapshot show "$snap" --json
    [ "$(jq -r .encryptionKeyId <<<"$output")" = local://k1 ]
    [ "$(jq -r .encryptionStatus <<<"$output")" = enabled ]

    sr key disable k1 --yes
    both restore "$snap" "$work/r"
    [ "$status" -eq 3 ]
    [[ $output == *"$snap"* && $output == *local://k1* && $output == *disabled* ]]
    ! mountpoint -q "$work/r"

    sr key enable k1
    sr restore "$snap" "$work/r"
    [ "$(cat "$work/r/file")" = first ]
    [ "$(cat "$work/r/sub/file")" = deep ]
    run touch "$work/r/x"
    [ "$status" -ne 0 ]
    [ "$(cat "$work/m/file")" = second ]
}

@test "the daemon killed and started again: mounts come back by themselves, what was synced is there" {
    sr cluster create db
    sr mount db "$work/m"
    echo kept > "$work/m/file"; sync "$work/m/file"
    pid=$(daemon_pid)
    kill -9 "$pid"
    while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
    sr cluster list
    for _ in $(seq 50); do mountpoint -q "$work/m" && [ -e "$work/m/file" ] && break; sleep 0.1; done
    [ "$(cat "$work/m/file")" = kept ]
}

@test "a snapshot to a new cluster, and in place with a safety snapshot that undoes it" {
    sr cluster create db
    sr mount db "$work/m"
    echo one > "$work/m/file"
    snap=$(take db)
    echo two > "$work/m/file"
    sr restore "$snap" --to-cluster copy
    sr mount copy "$work/r"
    [ "$(cat "$work/r/file")" = one ]
    echo mine > "$work/r/file"
    [ "$(cat "$work/m/file")" = two ]
    sr umount db
    safety=$(sr restore "$snap" --in-place --yes --json | jq -r .safetySnapshot)
    [[ $safety == snap-* ]] || safety=$(sr snapshot list db --json | jq -r '.results[] | select(.snapshotType=="safety") | .id')
    sr mount db "$work/m"
    [ "$(cat "$work/m/file")" = one ]
    sr umount db
    sr restore "$safety" --in-place --yes
    sr mount db "$work/m"
    [ "$(cat "$work/m/file")" = two ]
}

@test "a snapshot without a customer key shows Not enabled, and its blocks are encrypted all the same" {
    sr cluster create db
    sr mount db "$work/m"
    echo NEEDLE-IN-THE-CLEAR > "$work/m/a-file-name-to-look-for"
    snap=$(take db)
    [ "$(sr snapshot show "$snap" --json | jq -r .encryptionStatus)" = "Not enabled" ]
    [ "$(sr snapshot show "$snap" --json | jq 'has("encryptionKeyId")')" = false ]
    sr shutdown
    ! grep -qaF NEEDLE-IN-THE-CLEAR "$work/pool/pool.img"
    ! grep -qaF a-file-name-to-look-for "$work/pool/pool.img"
}

@test "shutdown refuses while a mount is busy, unless forced" {
    sr cluster create db
    sr mount db "$work/m"
    exec 7> "$work/m/open"
    both shutdown
    exec 7>&-
    [ "$status" -eq 1 ]
    sr shutdown
    both status
    [ "$status" -eq 1 ]
    [[ $output == *"not running"* ]]
}
