# Mount points whose daemon is gone, and what status says to do next.

load lib.bash

setup() { make_pool; }
teardown() { drop_pool; }

dead() { sr status --json | jq -r '.deadMounts[].mountpoint' | grep "^$work/" | sort | tr '\n' ' '; }

@test "status lists dead mounts and what to do, umount --all takes them away" {
    sr cluster create db
    sr mount db "$work/m"
    snap=$(take db)
    sr restore "$snap" "$work/r"
    [ -z "$(dead)" ]
    kill_daemon
    run sr status
    [ "$status" -eq 1 ]
    [[ $output == "daemon: not running"*"$work/m"*"$work/r"* ]]
    [[ $output == *"strongroom umount $work/m; or: strongroom mount db $work/m"* ]]
    [[ $output == *"strongroom restore $snap $work/r"* ]]
    [ "$(dead)" = "$work/m $work/r " ]
    sr daemon --no-remount
    [ "$(dead)" = "$work/m $work/r " ]
    sr status | grep -q "strongroom umount $work/r"
    sr umount "$work/r"
    [ "$(dead)" = "$work/m " ]
    # Of another pool it would be no less dead.
    both umount --all
    [ "$status" -eq 0 ]
    [[ $output == *"$work/m: a dead mount was taken away"* ]]
    [ -z "$(dead)" ]
    ! grep -q " $work/" /proc/self/mounts
    both umount --all --json
    [ "$(jq -c --arg w "$work/" '[.deadMounts[]? | select(startswith($w))]' <<< "$output")" = '[]' ]
}

@test "what lives is not taken for dead: this daemon's mounts, another's, one that does not answer" {
    sr cluster create db
    sr mount db "$work/m"
    pid=$(daemon_pid)
    mkdir "$work/other"
    other() { STRONGROOM_POOL=$work/other/pool STRONGROOM_CONFIG=$work/other/config "$STRONGROOM_BIN" "$@"; }
    other init --size 300M --recovery-key none
    other cluster create db
    [ -z "$(dead)" ]
    other umount --all | grep -q "nothing is mounted"
    # Nobody waits for a daemon that stands still.
    kill -STOP "$pid"
    begin=$SECONDS
    other status --json | jq -e --arg w "$work/" '[.deadMounts[] | select(.mountpoint | startswith($w))] == []'
    took=$((SECONDS - begin))
    kill -CONT "$pid"
    other shutdown
    [ "$took" -lt 5 ]
    ls "$work/m"
}

@test "status says what to do about a key that is needed and not usable; a dry run how to do it" {
    sr key create k1
    sr cluster create db --key k1
    sr mount db "$work/m"; sr umount db
    [ "$(sr status --json | jq -c .nextSteps)" = '[]' ]
    sr key disable k1 --yes
    sr status | grep -qx '  - 1 cluster or snapshot needs local://k1, which is disabled; enable it: strongroom key enable local://k1'
    sr key enable k1
    [ "$(sr status --json | jq -c .nextSteps)" = '[]' ]
    snap=$(take db)
    sr snapshot delete "$snap" --dry-run | grep -qx "do it: strongroom snapshot delete $snap"
}
