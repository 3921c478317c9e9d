# Customer keys: states, refusals, usage, deletion, rotation, rewrapping.

load lib.bash

setup() {
    make_pool
    sr key create k1 --deletion-wait 0
    sr cluster create db --key k1
    sr mount db "$work/m"
    echo one > "$work/m/file"
    snap=$(take db)
}
teardown() { drop_pool; }

refused() { # STATE COMMAND...: status 3, one line naming snapshot or cluster, key, state
    local state=$1; shift
    both "$@"
    [ "$status" -eq 3 ] || { echo "status $status: $output"; return 1; }
    [[ $output == *local://k1* && $output == *"$state"* ]] || { echo "$output"; return 1; }
    one_line || { echo "more than one line: $output"; return 1; }
}

# Clusters and snapshots, but for when a key was last asked about: a refusal asks.
listed() { { sr cluster list --json; sr snapshot list --json; } | jq 'del(.. | .encryptionStatusAt?)'; }

@test "with the key disabled, restore in all its forms and mount end with status 3, and nothing changes" {
    sr umount db
    sr key disable k1 --yes
    before=$(listed)
    refused disabled restore "$snap" "$work/r"
    refused disabled restore "$snap" --to-cluster copy
    refused disabled restore "$snap" --in-place --yes
    refused disabled mount db "$work/m"
    [ "$before" = "$(listed)" ]
    ! mountpoint -q "$work/m"; ! mountpoint -q "$work/r"
    sr key enable k1
    sr mount db "$work/m"
    sr restore "$snap" "$work/r"
    [ "$(cat "$work/r/file")" = one ]
}

@test "what is mounted already goes on, and whoever asks for it again is told of its key" {
    sr restore "$snap" "$work/r"
    sr key disable k1 --yes
    before=$(listed)
    refused disabled restore "$snap" "$work/r"
    refused disabled restore "$snap" --in-place --yes
    refused disabled mount db "$work/m"
    run curl -s --unix-socket "$work/pool/control.sock" -X POST -H 'content-type: application/json' \
        -d "{\"mountpoint\":\"$work/r\"}" "http://x/v1/snapshots/$snap/restore"
    [ "$(jq -r .code <<<"$output")" = key-disabled ]
    [ "$(cat "$work/r/file")" = one ]
    [ "$before" = "$(listed)" ]
    sr key enable k1
    sr restore "$snap" "$work/r"
}

@test "over the socket a refusal has a stable problem code" {
    sr key disable k1 --yes
    run curl -s --unix-socket "$work/pool/control.sock" -X POST -H 'content-type: application/json' \
        -d "{\"mountpoint\":\"$work/r\"}" "http://x/v1/snapshots/$snap/restore"
    [ "$(jq -r .code <<<"$output")" = key-disabled ]
    [ "$(jq -r .exitStatus <<<"$output")" = 3 ]
}

@test "a mounted cluster goes on while its key is disabled, and snapshots are taken" {
    sr key disable k1 --yes
    echo two > "$work/m/file"; sync "$work/m/file"
    take db
    [ "$(cat "$work/m/file")" = two ]
}

@test "usage lists clusters, snapshots, clones, and snapshots of deleted clusters" {
    sr restore "$snap" --to-cluster copy
    [ "$(sr key usage k1 --json | jq '.results | length')" = 3 ]
    [ "$(sr key usage k1 --json | jq .safeToDelete)" = false ]
    sr umount db
    sr cluster delete db --yes
    sr key usage k1 --json | jq -e --arg s "$snap" '[.results[] | (.id // .name)] | contains([$s, "copy"])'
    sr cluster delete copy --yes
    sr snapshot delete "$snap"
    [ "$(sr key usage k1 --json | jq .safeToDelete)" = true ]
}

@test "with --json, disabling and deleting a key tell what needs it" {
    needed='.encryptionKeyId == "local://k1" and (.usage.safeToDelete | not) and (.usage.results | map(.id // .name) | sort == ($all | sort))'
    all=$(jq -cn --arg s "$snap" '["db", $s]')
    sr key disable k1 --yes --json | jq -e --argjson all "$all" ".state == \"disabled\" and $needed"
    sr key delete k1 --force k1 --yes --json | jq -e --argjson all "$all" ".state == \"deleted\" and $needed"
    sr key create k2
    sr key disable k2 --json | jq -e '.usage.safeToDelete and .usage.results == []'
}

@test "a key in use is deleted only by naming it again; its snapshots are unrecoverable and can be deleted without it" {
    sr umount db
    both key delete k1 --yes
    [ "$status" -eq 1 ]
    sr key delete k1 --force local://k1 --yes
    for _ in $(seq 50); do [ "$(sr snapshot show "$snap" --json | jq -r .status)" = unrecoverable ] && break; sleep 0.2; done
    [ "$(sr snapshot show "$snap" --json | jq -r .status)" = unrecoverable ]
    refused deleted restore "$snap" "$work/r"
    sr key create k1
    both restore "$snap" "$work/r"
    [ "$status" -eq 3 ]
    sr cluster delete db --yes
    sr snapshot delete "$snap"
    [ "$(sr snapshot list --json | jq '.results | length')" = 0 ]
}

@test "pending deletion refuses, cancelling leaves the key disabled" {
    sr key create k2
    sr cluster set-key db k2
    snap2=$(take db)
    sr key delete k2 --force local://k2 --yes
    both restore "$snap2" "$work/r"
    [ "$status" -eq 3 ]
    [[ $output == *pending* ]]
    sr key cancel-delete k2
    [ "$(sr key show k2 --json | jq -r .state)" = disabled ]
    sr key enable k2
    sr restore "$snap2" "$work/r"
}

@test "rotation: old snapshots show the old key, the cluster and later ones the new" {
    sr key create k2
    sr cluster set-key db k2
    new=$(take db)
    [ "$(sr snapshot show "$snap" --json | jq -r .encryptionKeyId)" = local://k1 ]
    [ "$(sr snapshot show "$new" --json | jq -r .encryptionKeyId)" = local://k2 ]
    [ "$(sr cluster show db --json | jq -r .encryptionKeyId)" = local://k2 ]
    sr key disable k1 --yes
    sr restore "$new" "$work/r"
    sr umount "$work/r"
    sr umount db; sr mount db "$work/m"
    [ "$(cat "$work/m/file")" = one ]
}

@test "after the rewrap of one of two siblings the new key opens exactly one" {
    second=$(take db)
    sr key create k2
    sr snapshot rewrap "$second" --key k2
    sr key disable k1 --yes
    refused disabled restore "$snap" "$work/r"
    sr restore "$second" "$work/r"
    [ "$(cat "$work/r/file")" = one ]
}

@test "clone, rotate, delete the origin, reopen" {
    sr restore "$snap" --to-cluster copy
    sr key create k2
    sr cluster set-key copy k2
    sr umount db; sr cluster delete db --yes; sr snapshot delete "$snap"
    sr shutdown
    sr key disable k1 --yes
    sr mount copy "$work/r"
    [ "$(cat "$work/r/file")" = one ]
}
